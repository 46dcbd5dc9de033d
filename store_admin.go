package main

// Everything in the database that is not a job: environments, sealed tokens, schedules, single settings; and copies
// of the whole.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Environment is a place where the API lives. At most one is active.
type Environment struct {
	ID, Name, BaseURL, Description string
	Active, NeedsReauth, HasTokens bool
	LastLoginAt, CreatedAt         time.Time
}

const environmentColumns = `e.id, e.name, e.base_url, e.description, e.is_active, e.needs_reauth,
	EXISTS (SELECT 1 FROM auth_tokens t WHERE t.environment_id = e.id), coalesce(e.last_login_at, ''), e.created_at`

func scanEnvironment(row interface{ Scan(...any) error }) (e Environment, err error) {
	var login, created string
	err = row.Scan(&e.ID, &e.Name, &e.BaseURL, &e.Description, &e.Active, &e.NeedsReauth, &e.HasTokens, &login, &created)
	if err != nil {
		return e, err
	}
	e.LastLoginAt, err = parseTimeText(login)
	var createdErr error
	e.CreatedAt, createdErr = parseTimeText(created)
	return e, errors.Join(err, createdErr)
}

// Environments lists them in the order in which they were added. They are asked for at every submit and attempt, and
// change seldom: so they are remembered until a change.
func (s *Store) Environments(ctx context.Context) ([]Environment, error) {
	s.mu.Lock()
	all, gen := s.envs, s.envGen
	s.mu.Unlock()
	if all != nil {
		return all, nil
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+environmentColumns+" FROM api_environments e ORDER BY e.rowid")
	if err != nil {
		return nil, s.failure(err)
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanEnvironment(rows)
		if err != nil {
			return nil, s.failure(err)
		}
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, s.failure(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if gen == s.envGen {
		s.envs = all
	}
	return all, nil
}

// updateEnvironments is update for what Environments answers.
func (s *Store) updateEnvironments(fn func(*tx) error) error {
	err := s.update(fn)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.envs = nil
	s.envGen++
	return err
}

// Environment returns the one named, or the active one for "".
func (s *Store) Environment(ctx context.Context, name string) (Environment, error) {
	all, err := s.Environments(ctx)
	if err != nil {
		return Environment{}, err
	}
	for _, e := range all {
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
		var taken bool
		if err := t.row("SELECT EXISTS (SELECT 1 FROM api_environments WHERE name = ?)", e.Name).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return errorf(codeAlreadyExists, "environment %q exists already", e.Name).hint("remove it first with: honeydew env remove %s", e.Name)
		}
		if err := t.exec(`INSERT INTO api_environments (id, name, base_url, description, created_at, updated_at)
			VALUES (?1, ?2, ?3, ?4, ?5, ?5)`, e.ID, e.Name, e.BaseURL, e.Description, timeText(e.CreatedAt)); err != nil {
			return err
		}
		if e.Active {
			return t.activate(e.Name)
		}
		return nil
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
	n, err := t.changed("UPDATE api_environments SET is_active = 1, updated_at = ?1 WHERE name = ?2", now, name)
	if err == nil && n == 0 {
		return noEnvironment(name)
	}
	return err
}

// RemoveEnvironment removes it and its tokens, unless something still needs it.
func (s *Store) RemoveEnvironment(name string) error {
	return s.updateEnvironments(func(t *tx) error {
		var active bool
		var schedules, jobs int
		err := t.row("SELECT is_active FROM api_environments WHERE name = ?", name).Scan(&active)
		if errors.Is(err, sql.ErrNoRows) {
			return noEnvironment(name)
		} else if err != nil {
			return err
		}
		if active {
			return errorf(codeFailedPrecondition, "environment %q is active", name).hint("switch to another first with: honeydew env use NAME")
		}
		err = t.row(`SELECT (SELECT count(*) FROM schedules WHERE environment = ?1),
			(SELECT count(*) FROM jobs WHERE environment = ?1 AND status IN ('pending', 'running'))`, name).Scan(&schedules, &jobs)
		if err != nil {
			return err
		}
		if schedules+jobs > 0 {
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
func (s *Store) Tokens(ctx context.Context, envID string) (r TokenRow, err error) {
	var access, refresh, updated string
	err = s.read.QueryRowContext(ctx, `SELECT environment_id, username, encrypted_access_token, encrypted_refresh_token,
		coalesce(access_token_expires_at, ''), coalesce(refresh_token_expires_at, ''), updated_at FROM auth_tokens WHERE environment_id = ?`, envID).
		Scan(&r.EnvironmentID, &r.Username, &r.Access, &r.Refresh, &access, &refresh, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		return r, errorf(codeNotFound, "no login")
	} else if err != nil {
		return r, s.failure(err)
	}
	var e1, e2, e3 error
	r.AccessExpires, e1 = parseTimeText(access)
	r.RefreshExpires, e2 = parseTimeText(refresh)
	r.UpdatedAt, e3 = parseTimeText(updated)
	return r, s.failure(errors.Join(e1, e2, e3))
}

// SaveTokens stores a pair of sealed tokens in place of any earlier one. A login also ends the need for one.
func (s *Store) SaveTokens(r TokenRow, login bool) error {
	return s.updateEnvironments(func(t *tx) error {
		now := timeText(timeNow())
		query := "UPDATE api_environments SET updated_at = ?1 WHERE id = ?2"
		if login {
			query = "UPDATE api_environments SET updated_at = ?1, needs_reauth = 0, last_login_at = ?1 WHERE id = ?2"
		}
		if n, err := t.changed(query, now, r.EnvironmentID); err != nil {
			return err
		} else if n == 0 {
			return errorf(codeNotFound, "the environment was removed")
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
func (s *Store) DeleteTokens(envID string) (bool, error) {
	var had bool
	err := s.updateEnvironments(func(t *tx) error {
		n, err := t.changed("DELETE FROM auth_tokens WHERE environment_id = ?", envID)
		if err != nil {
			return err
		}
		had = n > 0
		return t.exec("UPDATE api_environments SET needs_reauth = 0 WHERE id = ?", envID)
	})
	return had, err
}

// SetNeedsReauth notes that only a login helps.
func (s *Store) SetNeedsReauth(envID string) error {
	return s.updateEnvironments(func(t *tx) error {
		return t.exec("UPDATE api_environments SET needs_reauth = 1, updated_at = ? WHERE id = ?", timeText(timeNow()), envID)
	})
}

// AuthFailures counts the environment's jobs that failed for want of a login since the last one.
func (s *Store) AuthFailures(ctx context.Context, e Environment) (n int, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM jobs WHERE environment = ? AND completed_at >= ? AND status = 'failed'
		AND error_code IN ('AUTH_REQUIRED', 'AUTH_EXPIRED', 'AUTH_INVALID', 'AUTH_NETWORK_ERROR')`, e.Name, timeText(e.LastLoginAt)).Scan(&n)
	return n, s.failure(err)
}

// ConfigValue reads a single setting, "" when unset.
func (s *Store) ConfigValue(ctx context.Context, key string) (value string, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT value FROM config WHERE key = ?", key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, s.failure(err)
}

// SetConfigValue stores a single setting.
func (s *Store) SetConfigValue(key, value string) error {
	return s.update(func(t *tx) error {
		return t.exec("INSERT OR REPLACE INTO config (key, value) VALUES (?, ?)", key, value)
	})
}

// Schedule is a row of the schedules table, with the state of its latest job.
type Schedule struct {
	ID, Name, CronExpr, Command string
	Payload                     []byte // JSON; relative dates as written
	Priority                    int32
	Environment                 string
	Enabled                     bool
	Missed, Overlap             string
	Jitter                      time.Duration
	CreatedAt                   time.Time
	LastRunAt, NextRunAt        time.Time // zero when unset
	LastJobID, LastJobStatus    string
	LastSuccessAt               time.Time // when its latest completed job was created
}

const scheduleQuery = `SELECT s.id, s.name, s.cron_expr, s.command, s.payload, s.priority, s.environment, s.enabled, s.missed, s.overlap,
	s.jitter_ms, s.created_at, coalesce(s.last_run_at, ''), coalesce(s.next_run_at, ''), coalesce(s.last_job_id, ''),
	coalesce((SELECT status FROM jobs WHERE id = s.last_job_id), ''), coalesce(s.last_success_at, '') FROM schedules s `

func scanSchedule(row interface{ Scan(...any) error }) (s Schedule, err error) {
	var payload, created, last, next, success string
	var jitter int64
	err = row.Scan(&s.ID, &s.Name, &s.CronExpr, &s.Command, &payload, &s.Priority, &s.Environment, &s.Enabled, &s.Missed, &s.Overlap,
		&jitter, &created, &last, &next, &s.LastJobID, &s.LastJobStatus, &success)
	if err != nil {
		return s, err
	}
	s.Payload, s.Jitter = []byte(payload), time.Duration(jitter)*time.Millisecond
	for _, f := range []struct {
		to   *time.Time
		text string
	}{{&s.CreatedAt, created}, {&s.LastRunAt, last}, {&s.NextRunAt, next}, {&s.LastSuccessAt, success}} {
		var e error
		*f.to, e = parseTimeText(f.text)
		err = errors.Join(err, e)
	}
	return s, err
}

// Schedules lists all by name.
func (s *Store) Schedules(ctx context.Context) ([]Schedule, error) {
	rows, err := s.read.QueryContext(ctx, scheduleQuery+"ORDER BY s.name")
	if err != nil {
		return nil, s.failure(err)
	}
	defer rows.Close()
	var all []Schedule
	for rows.Next() {
		sc, err := scanSchedule(rows)
		if err != nil {
			return nil, s.failure(err)
		}
		all = append(all, sc)
	}
	return all, s.failure(rows.Err())
}

// Schedule reads one by name or id.
func (s *Store) Schedule(ctx context.Context, name string) (Schedule, error) {
	sc, err := scanSchedule(s.read.QueryRowContext(ctx, scheduleQuery+"WHERE s.name = ?1 OR s.id = ?1 ORDER BY s.name = ?1 DESC", name))
	if errors.Is(err, sql.ErrNoRows) {
		return sc, noSchedule(name)
	}
	return sc, s.failure(err)
}

func noSchedule(name string) *Error {
	return errorf(codeNotFound, "no schedule %q", name).hint("list them with: honeydew schedule list")
}

// AddSchedule stores sc as it is.
func (s *Store) AddSchedule(sc Schedule) error {
	return s.update(func(t *tx) error {
		var taken bool
		if err := t.row("SELECT EXISTS (SELECT 1 FROM schedules WHERE name = ?)", sc.Name).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return errorf(codeAlreadyExists, "schedule %q exists already", sc.Name).hint("remove it first with: honeydew schedule remove %q", sc.Name)
		}
		return t.exec(`INSERT INTO schedules (id, name, cron_expr, command, payload, priority, environment, enabled, missed, overlap,
			jitter_ms, created_at, next_run_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, sc.ID, sc.Name, sc.CronExpr, sc.Command,
			string(sc.Payload), sc.Priority, sc.Environment, sc.Enabled, sc.Missed, sc.Overlap, sc.Jitter.Milliseconds(),
			timeText(sc.CreatedAt), nullTime(sc.NextRunAt))
	})
}

// RemoveSchedule removes the one with this id, or with this name where id is "".
func (s *Store) RemoveSchedule(id, name string) error {
	return s.update(func(t *tx) error {
		n, err := t.changed("DELETE FROM schedules WHERE CASE WHEN ?1 <> '' THEN id = ?1 AND (?2 = '' OR name = ?2) ELSE name = ?2 END", id, name)
		if err == nil && n == 0 {
			return noSchedule(id + name)
		}
		return err
	})
}

// SetScheduleEnabled pauses or resumes a schedule; next is its next time, zero for none.
func (s *Store) SetScheduleEnabled(name string, enabled bool, next time.Time) (sc Schedule, err error) {
	err = s.update(func(t *tx) error {
		n, err := t.changed("UPDATE schedules SET enabled = ?, next_run_at = ? WHERE name = ?", enabled, nullTime(next), name)
		if err != nil {
			return err
		}
		if n == 0 {
			return noSchedule(name)
		}
		sc, err = scanSchedule(t.row(scheduleQuery+"WHERE s.name = ?", name))
		return err
	})
	return sc, err
}

// moveLastSuccess moves what all schedules know of their last success by step.
func (s *Store) moveLastSuccess(step time.Duration) error {
	return s.update(func(t *tx) error {
		return t.exec("UPDATE schedules SET last_success_at = strftime('%Y-%m-%dT%H:%M:%fZ', last_success_at, ?) WHERE last_success_at IS NOT NULL",
			fmt.Sprintf("%.3f seconds", step.Seconds()))
	})
}

// Firing is one run of a schedule: the job, and the step to the next time, in one transaction.
type Firing struct {
	ScheduleID string
	Expected   time.Time // next_run_at as it was read; the firing is void if it has changed. Zero: next_run_at stays
	Next       time.Time // zero: never again
	LastRun    time.Time // nominal time
	Job        *Job      // nil: only step on
	SkipIfOpen bool      // no job while one of this schedule is unfinished
}

// Fire carries a firing out and reports whether its job was made.
func (s *Store) Fire(f Firing) (fired bool, err error) {
	err = s.update(func(t *tx) error {
		fired = false
		var name string
		err := t.row("SELECT name FROM schedules WHERE id = ?1 AND (?2 = '' OR (next_run_at = ?2 AND enabled = 1))", f.ScheduleID, timeText(f.Expected)).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		open := false
		if f.Job != nil && f.SkipIfOpen {
			if err := t.row("SELECT EXISTS (SELECT 1 FROM jobs WHERE schedule = ? AND status IN ('pending', 'running'))", name).Scan(&open); err != nil {
				return err
			}
		}
		if f.Job != nil && !open {
			t.number(f.Job)
			if err := t.insert(f.Job); err != nil {
				return err
			}
			fired = true
			if err := t.exec("UPDATE schedules SET last_job_id = ? WHERE id = ?", f.Job.ID, f.ScheduleID); err != nil {
				return err
			}
		}
		if f.Expected.IsZero() {
			return nil
		}
		return t.exec("UPDATE schedules SET last_run_at = coalesce(?, last_run_at), next_run_at = ?, enabled = ? WHERE id = ?",
			nullTime(f.LastRun), nullTime(f.Next), !f.Next.IsZero(), f.ScheduleID)
	})
	return fired, err
}

// Backup writes a consistent copy of the database to path, which must not exist, and returns its size.
func (s *Store) Backup(ctx context.Context, path string) (int64, error) {
	// SQLite would create the copy by the umask; into an existing empty file it writes as it is.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return 0, errorf(codeAlreadyExists, "%s exists already", path).hint("name a file that does not exist")
	} else if err != nil {
		return 0, errorf(codeInvalidArgument, "path: %w", err)
	}
	defer f.Close()
	size, err := s.copyInto(ctx, f)
	if err != nil {
		return 0, errors.Join(s.failure(err), os.Remove(path))
	}
	return size, nil
}

func (s *Store) copyInto(ctx context.Context, f *os.File) (int64, error) {
	db, err := sql.Open("sqlite", dsn(s.path))
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", f.Name()); err != nil {
		return 0, fmt.Errorf("copy to %s: %w", f.Name(), err)
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Size is the space that the database and its side files take.
func (s *Store) Size() int64 {
	total := int64(0)
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(s.path + suffix); err == nil {
			total += info.Size()
		}
	}
	return total
}
