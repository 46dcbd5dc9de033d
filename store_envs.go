package main

// Environments and their sealed tokens in SQL, and single settings.
//
//	api_environments  1 ---- 0 or 1  auth_tokens     a login; it goes with its environment
//	       |
//	       +-- by name, as they were when they were made: jobs.environment, schedules.environment
//
// This file sees tokens sealed only (seal.go). What is asked of it at every attempt is remembered; see Environments.
// A name is what people and jobs know an environment by; its id is what the tokens are sealed for, so that one that is
// removed and added again under its old name starts without a login.

import (
	"database/sql"
	"errors"
	"time"
)

// Environment is a place where the API lives. At most one is active: requests that name none go there. HasTokens:
// somebody has logged in. NeedsReauth: the login does not work any more, until the next one.
type Environment struct {
	ID          string
	Name        string
	BaseURL     string
	Description string
	Active      bool
	NeedsReauth bool
	HasTokens   bool
	LastLoginAt time.Time
	CreatedAt   time.Time
}

const environmentsQuery = `SELECT id, name, base_url, description, is_active, needs_reauth,
	EXISTS (SELECT 1 FROM auth_tokens WHERE environment_id = e.id), last_login_at, created_at
	FROM api_environments e ORDER BY rowid`

// scanEnvironment reads a row of environmentsQuery, whose columns stand in this order.
func scanEnvironment(row scanner) (Environment, error) {
	var e Environment
	err := row.Scan(
		&e.ID,
		&e.Name,
		&e.BaseURL,
		&e.Description,
		&e.Active,
		&e.NeedsReauth,
		&e.HasTokens,
		stamp{&e.LastLoginAt},
		stamp{&e.CreatedAt})
	return e, err
}

// Environments lists them in the order in which they were added. They are asked for at every submit and attempt, and
// change seldom: so they are remembered until a change. What was read while one happened may be of before it, and is
// not remembered:
//
//	reader   envGen 7, reads the old row ------------------------> envGen is 8: not kept
//	writer                      commits the new row, envGen 8
func (s *Store) Environments() ([]Environment, error) {
	s.mu.Lock()
	known := s.envs
	gen := s.envGen
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	envs, err := readAll(s, scanEnvironment, environmentsQuery)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen == s.envGen {
		s.envs = envs
	}
	return envs, nil
}

// updateEnvironments is update for what Environments answers. Also where it fails, the next reader looks for himself: a
// failure may be one of the answer only.
func (s *Store) updateEnvironments(fn func(*tx) error) error {
	defer s.forgetEnvironments()
	return s.update(fn)
}

// forgetEnvironments comes after a change, so that whoever asks from then on reads it.
func (s *Store) forgetEnvironments() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.envs = nil
	s.envGen++
}

// Environment returns the one named, or the active one for "". codeNotFound: there is no such one. A job keeps the name
// that was found for it, so that a switch does not move what already waits.
func (s *Store) Environment(name string) (Environment, error) {
	envs, err := s.Environments()
	if err != nil {
		return Environment{}, err
	}
	for _, e := range envs {
		if e.Name == name || (name == "" && e.Active) {
			return e, nil
		}
	}
	return Environment{}, noEnvironment(name)
}

// noEnvironment is what all say of a name that is none. The name may be "": then no environment is active.
func noEnvironment(name string) *Error {
	return errorf(codeNotFound, "no environment %q", name).hint("list them with: honeydew env list")
}

// AddEnvironment fills in nothing but the times; with e.Active it becomes the active one. A name is never taken over
// from an environment that exists, since its tokens were made for another address.
func (s *Store) AddEnvironment(e Environment) error {
	taken := errorf(codeAlreadyExists, "environment %q exists already", e.Name).
		hint("take another name, or remove that one first with: honeydew env remove %s", shellQuoted(e.Name))
	return s.updateEnvironments(func(t *tx) error {
		const query = `INSERT INTO api_environments (id, name, base_url, description, created_at, updated_at)
			VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (name) DO NOTHING`
		err := t.mustChange(taken, query, e.ID, e.Name, e.BaseURL, e.Description, timeText(e.CreatedAt))
		if err != nil || !e.Active {
			return err
		}
		return t.activate(e.Name)
	})
}

// SetActiveEnvironment makes the one named the active one; the one that was active goes on to exist. Jobs that wait
// stay with the environment that they were submitted for.
func (s *Store) SetActiveEnvironment(name string) error {
	return s.updateEnvironments(func(t *tx) error { return t.activate(name) })
}

// activate makes the one named the active one. The others come first: an index allows one active row at any moment.
func (t *tx) activate(name string) error {
	const (
		others = "UPDATE api_environments SET is_active = 0, updated_at = ?1 WHERE is_active = 1 AND name <> ?2"
		this   = "UPDATE api_environments SET is_active = 1, updated_at = ?1 WHERE name = ?2"
	)
	now := timeText(timeNow())
	if err := t.exec(others, now, name); err != nil {
		return err
	}
	return t.mustChange(noEnvironment(name), this, now, name)
}

// RemoveEnvironment removes it and its tokens, unless something still needs it. The tokens go by ON DELETE CASCADE.
func (s *Store) RemoveEnvironment(name string) error {
	return s.updateEnvironments(func(t *tx) error {
		if err := t.unneeded(name); err != nil {
			return err
		}
		return t.exec("DELETE FROM api_environments WHERE name = ?", name)
	})
}

// unneeded refuses an environment that something needs: one that is active, or that schedules or open jobs name. Jobs
// that have ended may name one that is gone.
func (t *tx) unneeded(name string) error {
	// The other one is for the hint; NAME stands for one that is still to be added.
	const query = `SELECT is_active, (SELECT count(*) FROM schedules WHERE environment = ?1),
		(SELECT count(*) FROM jobs WHERE environment = ?1 AND status IN ('pending', 'running')),
		coalesce((SELECT min(name) FROM api_environments WHERE name <> ?1), 'NAME')
		FROM api_environments WHERE name = ?1`
	var active bool
	var schedules, jobs int
	var other string
	err := t.row(query, name).Scan(&active, &schedules, &jobs, &other)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return noEnvironment(name)
	case err != nil:
		return err
	case active:
		return errorf(codeFailedPrecondition, "environment %q is active", name).
			hint("make another one active first: honeydew env use %s && honeydew env remove %s",
				shellQuoted(other), shellQuoted(name))
	case schedules+jobs > 0:
		return errorf(codeFailedPrecondition, "environment %q is in use; schedules: %d, unfinished jobs: %d",
			name, schedules, jobs).
			hint("see: honeydew schedule list, honeydew job list; remove or cancel them first")
	}
	return nil
}

// TokenRow is one environment's login. The tokens are sealed, bound to the environment and the column (seal.go), so
// that a row moved by hand opens nowhere else. Expiries are zero when the token does not say.
type TokenRow struct {
	EnvironmentID  string
	Username       string
	Access         []byte
	Refresh        []byte
	AccessExpires  time.Time
	RefreshExpires time.Time
	UpdatedAt      time.Time
}

// scanTokens reads a row as Tokens asks for it.
func scanTokens(row scanner) (TokenRow, error) {
	var r TokenRow
	err := row.Scan(
		&r.EnvironmentID,
		&r.Username,
		&r.Access,
		&r.Refresh,
		stamp{&r.AccessExpires},
		stamp{&r.RefreshExpires},
		stamp{&r.UpdatedAt})
	return r, err
}

// Tokens reads an environment's login; codeNotFound when there is none. It is read anew each time: a refresh by another
// goroutine may have replaced it.
func (s *Store) Tokens(envID string) (TokenRow, error) {
	const query = `SELECT environment_id, username, encrypted_access_token, encrypted_refresh_token,
		access_token_expires_at, refresh_token_expires_at, updated_at FROM auth_tokens WHERE environment_id = ?`
	return readOne(s, errorf(codeNotFound, "no login"), scanTokens, query, envID)
}

// SaveTokens stores a pair of sealed tokens in place of any earlier one, that of another user included. A login also
// ends the need for one. codeNotFound: the environment was removed meanwhile, and its tokens must not come back.
func (s *Store) SaveTokens(r TokenRow, login bool) error {
	const (
		environment = `UPDATE api_environments SET updated_at = ?1, needs_reauth = needs_reauth AND NOT ?2,
			last_login_at = iif(?2, ?1, last_login_at) WHERE id = ?3`
		otherUsers = "DELETE FROM auth_tokens WHERE environment_id = ? AND username <> ?"
		tokens     = `INSERT INTO auth_tokens (id, environment_id, username, encrypted_access_token,
			access_token_expires_at, encrypted_refresh_token, refresh_token_expires_at, created_at, updated_at)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
			ON CONFLICT (environment_id, username) DO UPDATE SET encrypted_access_token = ?4,
			access_token_expires_at = ?5, encrypted_refresh_token = ?6, refresh_token_expires_at = ?7, updated_at = ?8`
	)
	removed := errorf(codeNotFound, "the environment was removed")
	return s.updateEnvironments(func(t *tx) error {
		now := timeText(timeNow())
		if err := t.mustChange(removed, environment, now, login, r.EnvironmentID); err != nil {
			return err
		}
		if err := t.exec(otherUsers, r.EnvironmentID, r.Username); err != nil {
			return err
		}
		return t.exec(tokens,
			newID(),
			r.EnvironmentID,
			r.Username,
			r.Access,
			nullTime(r.AccessExpires),
			r.Refresh,
			nullTime(r.RefreshExpires),
			now)
	})
}

// DeleteTokens forgets an environment's login and reports whether there was one. It also takes needs_reauth back: a
// logout is meant, and asks for nothing.
func (s *Store) DeleteTokens(envID string) (bool, error) {
	defer s.forgetEnvironments()
	return updated(s, func(t *tx) (bool, error) {
		n, err := t.changed("DELETE FROM auth_tokens WHERE environment_id = ?", envID)
		if err != nil {
			return false, err
		}
		return n > 0, t.exec("UPDATE api_environments SET needs_reauth = 0 WHERE id = ?", envID)
	}, nil)
}

// SetNeedsReauth notes that only a login helps. It holds over restarts, so that no daemon asks in vain with a token
// that was refused.
func (s *Store) SetNeedsReauth(envID string) error {
	const query = "UPDATE api_environments SET needs_reauth = 1, updated_at = ? WHERE id = ?"
	defer s.forgetEnvironments()
	return s.change(nil, query, timeText(timeNow()), envID)
}

// AuthFailures counts the environment's jobs that failed for want of a login since the last one. These are the codes of
// errors.go that begin with AUTH_.
func (s *Store) AuthFailures(e Environment) (int64, error) {
	return s.readNumber(`SELECT count(*) FROM jobs WHERE environment = ? AND completed_at >= ? AND status = 'failed'
		AND error_code IN ('AUTH_REQUIRED', 'AUTH_EXPIRED', 'AUTH_INVALID', 'AUTH_NETWORK_ERROR')`,
		e.Name, timeText(e.LastLoginAt))
}

// ConfigValue reads a single setting of the config table, "" when unset. Settings of people are in config.yaml; these
// are the daemon's own.
func (s *Store) ConfigValue(key string) (string, error) {
	return readOne(s, nil, scanColumn[string], "SELECT value FROM config WHERE key = ?", key)
}

// SetConfigValue stores a single setting: whether the queue is paused, the epoch, how keys are derived.
func (s *Store) SetConfigValue(key, value string) error {
	const query = "INSERT OR REPLACE INTO config (key, value) VALUES (?, ?)"
	return s.change(nil, query, key, value)
}
