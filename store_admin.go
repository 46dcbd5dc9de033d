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
	"path/filepath"
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

// Schedule is a row of the schedules table, with the state of its latest job.
type Schedule struct {
	ID, Name, CronExpr, Command string
	Payload                     []byte // JSON; relative dates as written
	Priority                    int32
	Environment                 string
	Enabled                     bool
	Missed, Overlap             string
	Jitter                      time.Duration
	MaxRetries                  int32         // of its jobs
	Timeout                     time.Duration // of one attempt
	CreatedAt                   time.Time
	LastRunAt, NextRunAt        time.Time // zero when unset
	LastJobID, LastJobStatus    string
	LastSuccessAt               time.Time // when its latest completed job was created
}

const scheduleQuery = `SELECT s.id, s.name, s.cron_expr, s.command, s.payload, s.priority, s.environment, s.enabled, s.missed, s.overlap,
	s.jitter_ms, s.max_retries, s.timeout_ms, s.created_at, s.last_run_at, s.next_run_at, coalesce(s.last_job_id, ''),
	coalesce((SELECT status FROM jobs WHERE id = s.last_job_id), ''), s.last_success_at FROM schedules s `

func scanSchedule(row scanner) (s Schedule, err error) {
	err = row.Scan(&s.ID, &s.Name, &s.CronExpr, &s.Command, &s.Payload, &s.Priority, &s.Environment, &s.Enabled, &s.Missed, &s.Overlap,
		&s.Jitter, &s.MaxRetries, &s.Timeout, stamp{&s.CreatedAt}, stamp{&s.LastRunAt}, stamp{&s.NextRunAt}, &s.LastJobID, &s.LastJobStatus, stamp{&s.LastSuccessAt})
	s.Jitter *= time.Duration(time.Millisecond)
	s.Timeout *= time.Duration(time.Millisecond)
	return s, err
}

// Schedules lists all by name.
func (s *Store) Schedules() ([]Schedule, error) {
	return all(s, scanSchedule, scheduleQuery+"ORDER BY s.name")
}

// Schedule reads one by name or id.
func (s *Store) Schedule(name string) (Schedule, error) {
	return one(s, noSchedule(name), scanSchedule, scheduleQuery+"WHERE s.name = ?1 OR s.id = ?1 ORDER BY s.name = ?1 DESC", name)
}

func noSchedule(name string) *Error {
	return errorf(codeNotFound, "no schedule %q", name).hint("list them with: honeydew schedule list")
}

// AddSchedule stores sc as it is.
func (s *Store) AddSchedule(sc Schedule) error {
	return s.update(func(t *tx) error {
		taken := errorf(codeAlreadyExists, "schedule %q exists already", sc.Name).
			hint("change it with: honeydew schedule add --replace ..., or remove it with: honeydew schedule remove %q", sc.Name)
		return t.mustChange(taken, `INSERT INTO schedules (id, name, cron_expr, command, payload, priority, environment, enabled, missed,
			overlap, jitter_ms, max_retries, timeout_ms, created_at, next_run_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO NOTHING`, sc.ID, sc.Name, sc.CronExpr, sc.Command, string(sc.Payload), sc.Priority, sc.Environment,
			sc.Enabled, sc.Missed, sc.Overlap, sc.Jitter.Milliseconds(), sc.MaxRetries, sc.Timeout.Milliseconds(), timeText(sc.CreatedAt),
			nullTime(sc.NextRunAt))
	})
}

// ReplaceSchedule changes what the schedule of sc's name does; its id, its history and whether it is paused stay.
// codeNotFound: there is none.
func (s *Store) ReplaceSchedule(sc Schedule) error {
	return s.update(func(t *tx) error {
		return t.mustChange(noSchedule(sc.Name), `UPDATE schedules SET cron_expr = ?, command = ?, payload = ?, priority = ?,
			environment = ?, missed = ?, overlap = ?, jitter_ms = ?, max_retries = ?, timeout_ms = ?,
			next_run_at = iif(enabled, ?, NULL) WHERE name = ?`, sc.CronExpr, sc.Command, string(sc.Payload), sc.Priority,
			sc.Environment, sc.Missed, sc.Overlap, sc.Jitter.Milliseconds(), sc.MaxRetries, sc.Timeout.Milliseconds(),
			nullTime(sc.NextRunAt), sc.Name)
	})
}

// RemoveSchedule removes the one with this id, or with this name where id is "".
func (s *Store) RemoveSchedule(id, name string) error {
	return s.update(func(t *tx) error {
		return t.mustChange(noSchedule(id+name),
			"DELETE FROM schedules WHERE CASE WHEN ?1 <> '' THEN id = ?1 AND (?2 = '' OR name = ?2) ELSE name = ?2 END", id, name)
	})
}

// SetScheduleEnabled pauses or resumes a schedule; next is its next time, zero for none.
func (s *Store) SetScheduleEnabled(name string, enabled bool, next time.Time) (sc Schedule, err error) {
	err = s.update(func(t *tx) error {
		return t.mustChange(noSchedule(name), "UPDATE schedules SET enabled = ?, next_run_at = ? WHERE name = ?", enabled, nullTime(next), name)
	})
	if err != nil {
		return sc, err
	}
	return s.Schedule(name)
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

// Fire carries a firing out and returns its job as stored, nil where none was made. The writer calls then with it before
// any later write.
func (s *Store) Fire(f Firing, then func(*Job)) (*Job, error) {
	return updated(s, func(t *tx) (*Job, error) { return t.fire(f) }, then)
}

func (t *tx) fire(f Firing) (fired *Job, err error) {
	var open bool
	err = t.row(`SELECT EXISTS (SELECT 1 FROM jobs WHERE schedule = s.name AND status IN ('pending', 'running')) FROM schedules s
		WHERE id = ?1 AND (?2 = '' OR (next_run_at = ?2 AND enabled = 1))`, f.ScheduleID, timeText(f.Expected)).Scan(&open)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if f.Job != nil && !(open && f.SkipIfOpen) {
		j := *f.Job
		if err := t.insert([]*Job{&j}); err != nil {
			return nil, err
		}
		if err := t.exec("UPDATE schedules SET last_job_id = ? WHERE id = ?", j.ID, f.ScheduleID); err != nil {
			return nil, err
		}
		fired = &j
	}
	if f.Expected.IsZero() {
		return fired, nil
	}
	return fired, t.exec("UPDATE schedules SET last_run_at = coalesce(?, last_run_at), next_run_at = ?, enabled = ? WHERE id = ?",
		nullTime(f.LastRun), nullTime(f.Next), !f.Next.IsZero(), f.ScheduleID)
}

// Backup writes a consistent copy of the database to path, which must not exist, and returns its size. The copy gets this
// name when it is whole and on disk; before, it has one that ends in .partial.
func (s *Store) Backup(ctx context.Context, path string) (int64, error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, errBackupExists(path)
	}
	// SQLite would create the copy by the umask; into an existing empty file it writes as it is.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.partial")
	if err != nil {
		return 0, errorf(codeInvalidArgument, "path: %w", err).hint("name a file in a folder that the daemon may write to")
	}
	partial := f.Name()
	defer f.Close()
	if err := s.copyTo(ctx, partial); err != nil {
		return 0, errors.Join(s.failure(fmt.Errorf("copy to %s: %w", path, err)), removeFile(partial))
	}
	if err := f.Sync(); err != nil {
		return 0, errors.Join(s.failure(fmt.Errorf("copy to %s: %w", path, err)), removeFile(partial))
	}
	info, err := f.Stat()
	if err != nil {
		return 0, errors.Join(s.failure(err), removeFile(partial))
	}
	// A link, since a rename would replace what came to be there meanwhile.
	err = os.Link(partial, path)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) { // a file system without links
		err = os.Rename(partial, path)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		err = errBackupExists(path)
	case err != nil:
		err = s.failure(err)
	default:
		err = syncDir(filepath.Dir(path))
	}
	return info.Size(), errors.Join(err, removeFile(partial))
}

func errBackupExists(path string) *Error {
	return errorf(codeAlreadyExists, "%s exists already", path).hint("name a file that does not exist")
}

// copyTo writes a copy to the empty file at path. The copy has no epoch, so that no log is taken for its own.
func (s *Store) copyTo(ctx context.Context, path string) error {
	if err := s.Intact(); err != nil {
		return err
	}
	if err := runOn(ctx, dsn(s.path), "VACUUM INTO ?", path); err != nil {
		return err
	}
	return runOn(ctx, dsn(path, "_journal_mode", "OFF"), "DELETE FROM config WHERE key = ?", epochKey)
}

// runOn runs one statement on a connection of its own.
func runOn(ctx context.Context, name, statement string, args ...any) error {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement, args...)
	return errors.Join(err, db.Close())
}

// Newest is the latest time that the database has recorded, zero where it holds no job.
func (s *Store) Newest() (newest time.Time, err error) {
	const query = `SELECT max(coalesce((SELECT created_at FROM jobs ORDER BY seq DESC LIMIT 1), ''),
		coalesce((SELECT max(completed_at) FROM jobs), ''))`
	text, err := scanText(s.read.QueryRow(query))
	if err != nil {
		return newest, s.failure(err)
	}
	return parseTimeText(text)
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
