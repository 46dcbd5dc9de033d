package main

// Environments and their sealed tokens in SQL, and single settings.

import (
	"database/sql"
	"errors"
	"time"
)

// Environment is a place where the API lives. At most one is active.
type Environment struct {
	ID, Name, BaseURL, Description string
	Active, NeedsReauth, HasTokens bool
	LastLoginAt, CreatedAt         time.Time
}

func scanEnvironment(row scanner) (e Environment, err error) {
	return e, row.Scan(&e.ID, &e.Name, &e.BaseURL, &e.Description, &e.Active, &e.NeedsReauth, &e.HasTokens, stamp{&e.LastLoginAt}, stamp{&e.CreatedAt})
}

// Environments lists them in the order in which they were added. They are asked for at every submit and attempt, and
// change seldom: so they are remembered until a change.
func (s *Store) Environments() ([]Environment, error) {
	s.mu.Lock()
	known, gen := s.envs, s.envGen
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	envs, err := all(s, scanEnvironment, `SELECT id, name, base_url, description, is_active, needs_reauth,
		EXISTS (SELECT 1 FROM auth_tokens WHERE environment_id = e.id), last_login_at, created_at FROM api_environments e ORDER BY rowid`)
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen == s.envGen {
		s.envs = envs
	}
	return envs, err
}

// updateEnvironments is update for what Environments answers.
func (s *Store) updateEnvironments(fn func(*tx) error) error {
	defer s.forgetEnvironments()
	return s.update(fn)
}

func (s *Store) forgetEnvironments() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.envs = nil
	s.envGen++
}

// Environment returns the one named, or the active one for "".
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

func noEnvironment(name string) *Error {
	return errorf(codeNotFound, "no environment %q", name).hint("list them with: honeydew env list")
}

// AddEnvironment fills in nothing but the times; with e.Active it becomes the active one.
func (s *Store) AddEnvironment(e Environment) error {
	return s.updateEnvironments(func(t *tx) error {
		n, err := t.changed(`INSERT INTO api_environments (id, name, base_url, description, created_at, updated_at)
			VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (name) DO NOTHING`, e.ID, e.Name, e.BaseURL, e.Description, timeText(e.CreatedAt))
		if err == nil && n == 0 {
			return errorf(codeAlreadyExists, "environment %q exists already", e.Name).hint("remove it first with: honeydew env remove %s", e.Name)
		}
		if err == nil && e.Active {
			return t.activate(e.Name)
		}
		return err
	})
}

// SetActiveEnvironment makes the one named the active one.
func (s *Store) SetActiveEnvironment(name string) error {
	return s.updateEnvironments(func(t *tx) error { return t.activate(name) })
}

func (t *tx) activate(name string) error {
	now := timeText(timeNow())
	if err := t.exec("UPDATE api_environments SET is_active = 0, updated_at = ?1 WHERE is_active = 1 AND name <> ?2", now, name); err != nil {
		return err
	}
	return t.mustChange(noEnvironment(name), "UPDATE api_environments SET is_active = 1, updated_at = ?1 WHERE name = ?2", now, name)
}

// mustChange runs query; missing is the error where it finds nothing to change.
func (t *tx) mustChange(missing *Error, query string, args ...any) error {
	n, err := t.changed(query, args...)
	if err == nil && n == 0 {
		return missing
	}
	return err
}

// RemoveEnvironment removes it and its tokens, unless something still needs it.
func (s *Store) RemoveEnvironment(name string) error {
	return s.updateEnvironments(func(t *tx) error {
		var active bool
		var schedules, jobs int
		err := t.row(`SELECT is_active, (SELECT count(*) FROM schedules WHERE environment = ?1),
			(SELECT count(*) FROM jobs WHERE environment = ?1 AND status IN ('pending', 'running')) FROM api_environments WHERE name = ?1`, name).
			Scan(&active, &schedules, &jobs)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return noEnvironment(name)
		case err != nil:
			return err
		case active:
			return errorf(codeFailedPrecondition, "environment %q is active", name).hint("switch to another first with: honeydew env use NAME")
		case schedules+jobs > 0:
			return errorf(codeFailedPrecondition, "environment %q is in use by %d schedules and %d unfinished jobs", name, schedules, jobs).
				hint("remove the schedules and cancel the jobs first")
		}
		return t.exec("DELETE FROM api_environments WHERE name = ?", name)
	})
}

// TokenRow is one environment's login; the tokens are sealed.
type TokenRow struct {
	EnvironmentID, Username                  string
	Access, Refresh                          []byte
	AccessExpires, RefreshExpires, UpdatedAt time.Time // expiries: zero when the token does not say
}

// Tokens reads an environment's login; codeNotFound when there is none.
func (s *Store) Tokens(envID string) (TokenRow, error) {
	return one(s, errorf(codeNotFound, "no login"), func(row scanner) (r TokenRow, err error) {
		return r, row.Scan(&r.EnvironmentID, &r.Username, &r.Access, &r.Refresh, stamp{&r.AccessExpires}, stamp{&r.RefreshExpires}, stamp{&r.UpdatedAt})
	}, `SELECT environment_id, username, encrypted_access_token, encrypted_refresh_token, access_token_expires_at,
		refresh_token_expires_at, updated_at FROM auth_tokens WHERE environment_id = ?`, envID)
}

// SaveTokens stores a pair of sealed tokens in place of any earlier one. A login also ends the need for one.
func (s *Store) SaveTokens(r TokenRow, login bool) error {
	return s.updateEnvironments(func(t *tx) error {
		now := timeText(timeNow())
		if err := t.mustChange(errorf(codeNotFound, "the environment was removed"), `UPDATE api_environments SET updated_at = ?1,
			needs_reauth = needs_reauth AND NOT ?2, last_login_at = iif(?2, ?1, last_login_at) WHERE id = ?3`, now, login, r.EnvironmentID); err != nil {
			return err
		}
		if err := t.exec("DELETE FROM auth_tokens WHERE environment_id = ? AND username <> ?", r.EnvironmentID, r.Username); err != nil {
			return err
		}
		return t.exec(`INSERT INTO auth_tokens (id, environment_id, username, encrypted_access_token, access_token_expires_at,
			encrypted_refresh_token, refresh_token_expires_at, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
			ON CONFLICT (environment_id, username) DO UPDATE SET encrypted_access_token = ?4, access_token_expires_at = ?5,
			encrypted_refresh_token = ?6, refresh_token_expires_at = ?7, updated_at = ?8`, newID(), r.EnvironmentID, r.Username, r.Access,
			nullTime(r.AccessExpires), r.Refresh, nullTime(r.RefreshExpires), now)
	})
}

// DeleteTokens forgets an environment's login and reports whether there was one.
func (s *Store) DeleteTokens(envID string) (had bool, err error) {
	defer s.forgetEnvironments()
	n, err := updated(s, func(t *tx) (int64, error) {
		n, err := t.changed("DELETE FROM auth_tokens WHERE environment_id = ?", envID)
		if err != nil {
			return 0, err
		}
		return n, t.exec("UPDATE api_environments SET needs_reauth = 0 WHERE id = ?", envID)
	}, nil)
	return n > 0, err
}

// SetNeedsReauth notes that only a login helps.
func (s *Store) SetNeedsReauth(envID string) error {
	return s.updateEnvironments(func(t *tx) error {
		return t.exec("UPDATE api_environments SET needs_reauth = 1, updated_at = ? WHERE id = ?", timeText(timeNow()), envID)
	})
}

// AuthFailures counts the environment's jobs that failed for want of a login since the last one.
func (s *Store) AuthFailures(e Environment) (int64, error) {
	return s.count(`SELECT count(*) FROM jobs WHERE environment = ? AND completed_at >= ? AND status = 'failed'
		AND error_code IN ('AUTH_REQUIRED', 'AUTH_EXPIRED', 'AUTH_INVALID', 'AUTH_NETWORK_ERROR')`, e.Name, timeText(e.LastLoginAt))
}

// ConfigValue reads a single setting, "" when unset.
func (s *Store) ConfigValue(key string) (string, error) {
	return one(s, nil, scanText, "SELECT coalesce(max(value), '') FROM config WHERE key = ?", key)
}

// SetConfigValue stores a single setting.
func (s *Store) SetConfigValue(key, value string) error {
	return s.update(func(t *tx) error {
		return t.exec("INSERT OR REPLACE INTO config (key, value) VALUES (?, ?)", key, value)
	})
}
