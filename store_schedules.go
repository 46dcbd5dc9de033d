package main

// Schedules in SQL, and their firings.

import (
	"database/sql"
	"errors"
	"fmt"
	"time"
)

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
