package main

// Schedules in SQL, and their firings. A firing is one transaction, so that no crash makes two jobs of one time, or
// none:
//
//	next_run_at still as it was read? ---- no: void, nothing happens
//	an unfinished job, and overlap = skip? ---- yes: no job
//	INSERT the job, last_job_id
//	last_run_at, next_run_at
//
// last_success_at says until when a schedule's jobs have covered everything; `last-success` in a payload stands for it.

import (
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Schedule is a row of the schedules table, with the state of its latest job.
type Schedule struct {
	ID       string
	Name     string
	CronExpr string

	// What its jobs are. The payload is JSON, with relative dates as written. Timeout is that of one attempt.
	Command     string
	Payload     []byte
	Priority    int32
	Environment string
	MaxRetries  int32
	Timeout     time.Duration

	// When there is one: not while paused. Missed and Overlap are choices of scheduler.go. Jitter is the most by which
	// a run starts later.
	Enabled bool
	Missed  string
	Overlap string
	Jitter  time.Duration

	// What has happened. Times are zero when unset. LastRunAt is the nominal time of the latest firing, and
	// LastSuccessAt when the latest completed job was created.
	CreatedAt     time.Time
	LastRunAt     time.Time
	NextRunAt     time.Time
	LastJobID     string
	LastJobStatus string
	LastSuccessAt time.Time
}

const scheduleQuery = `SELECT s.id, s.name, s.cron_expr, s.command, s.payload, s.priority, s.environment, s.enabled,
	s.missed, s.overlap, s.jitter_ms, s.max_retries, s.timeout_ms, s.created_at, s.last_run_at, s.next_run_at,
	coalesce(s.last_job_id, ''), coalesce((SELECT status FROM jobs WHERE id = s.last_job_id), ''), s.last_success_at
	FROM schedules s `

func scanSchedule(row scanner) (Schedule, error) {
	var s Schedule
	err := row.Scan(
		&s.ID,
		&s.Name,
		&s.CronExpr,
		&s.Command,
		&s.Payload,
		&s.Priority,
		&s.Environment,
		&s.Enabled,
		&s.Missed,
		&s.Overlap,
		millis{&s.Jitter},
		&s.MaxRetries,
		millis{&s.Timeout},
		stamp{&s.CreatedAt},
		stamp{&s.LastRunAt},
		stamp{&s.NextRunAt},
		&s.LastJobID,
		&s.LastJobStatus,
		stamp{&s.LastSuccessAt})
	return s, err
}

// Schedules lists all by name.
func (s *Store) Schedules() ([]Schedule, error) {
	return readAll(s, scanSchedule, scheduleQuery+"ORDER BY s.name")
}

// Schedule reads one by name or id.
func (s *Store) Schedule(name string) (Schedule, error) {
	const query = scheduleQuery + "WHERE s.name = ?1 OR s.id = ?1 ORDER BY s.name = ?1 DESC"
	return readOne(s, noSchedule(name), scanSchedule, query, name)
}

// noSchedule is what all say of a name that is none.
func noSchedule(name string) *Error {
	return errorf(codeNotFound, "no schedule %q", name).hint("list them with: honeydew schedule list")
}

// SaveSchedule stores sc. With replace it changes what the schedule of that name does, if there is one: its id, its
// history and whether it is paused stay.
func (s *Store) SaveSchedule(sc Schedule, replace bool) error {
	const query = `INSERT INTO schedules (id, name, cron_expr, command, payload, priority, environment, missed, overlap,
		jitter_ms, max_retries, timeout_ms, created_at, next_run_at)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
		ON CONFLICT (name) DO UPDATE SET cron_expr = ?3, command = ?4, payload = ?5, priority = ?6, environment = ?7,
		missed = ?8, overlap = ?9, jitter_ms = ?10, max_retries = ?11, timeout_ms = ?12,
		next_run_at = iif(enabled, ?14, NULL) WHERE ?15`
	const advice = "change it with: honeydew schedule add --replace ..., or remove it with: honeydew schedule remove %q"
	taken := errorf(codeAlreadyExists, "schedule %q exists already", sc.Name).hint(advice, sc.Name)
	return s.change(taken, query,
		sc.ID,
		sc.Name,
		sc.CronExpr,
		sc.Command,
		string(sc.Payload),
		sc.Priority,
		sc.Environment,
		sc.Missed,
		sc.Overlap,
		sc.Jitter.Milliseconds(),
		sc.MaxRetries,
		sc.Timeout.Milliseconds(),
		timeText(sc.CreatedAt),
		nullTime(sc.NextRunAt),
		replace)
}

// RemoveSchedule removes the one with this id, or with this name where id is "".
func (s *Store) RemoveSchedule(id, name string) error {
	const query = `DELETE FROM schedules
		WHERE CASE WHEN ?1 <> '' THEN id = ?1 AND (?2 = '' OR name = ?2) ELSE name = ?2 END`
	return s.change(noSchedule(id+name), query, id, name)
}

// SetScheduleEnabled pauses or resumes a schedule, and returns it as it is then; next is its next time, zero for none.
func (s *Store) SetScheduleEnabled(name string, enabled bool, next time.Time) (Schedule, error) {
	const query = "UPDATE schedules SET enabled = ?, next_run_at = ? WHERE name = ?"
	if err := s.change(noSchedule(name), query, enabled, nullTime(next), name); err != nil {
		return Schedule{}, err
	}
	return s.Schedule(name)
}

// noteSuccess tells the schedule of j, which is completed, until when its jobs have covered everything. A later time
// than this moment comes from a wrong clock, and says nothing.
func (t *tx) noteSuccess(j *Job) error {
	const query = `UPDATE schedules SET last_success_at = ?2
		WHERE name = ?1 AND (created_at <= ?2 OR created_at > ?3)
		AND (last_success_at IS NULL OR last_success_at < ?2 OR last_success_at > ?3)`
	return t.exec(query, j.Schedule, timeText(j.CreatedAt), timeText(j.CompletedAt))
}

// moveLastSuccess moves what all schedules know of their last success by step, as the clock that recorded it was moved.
// Times in the database are text; strftime writes the same form.
func (s *Store) moveLastSuccess(step time.Duration) error {
	const query = `UPDATE schedules SET last_success_at = strftime('%Y-%m-%dT%H:%M:%fZ', last_success_at, ?)
		WHERE last_success_at IS NOT NULL`
	return s.change(nil, query, fmt.Sprintf("%.3f seconds", step.Seconds()))
}

// Firing is one run of a schedule: the job, and the step to the next time, in one transaction.
type Firing struct {
	ScheduleID string
	// Expected is next_run_at as it was read; the firing is void if it has changed. Zero: next_run_at stays.
	Expected time.Time
	// Next is the next time; zero: never again, and the schedule is disabled.
	Next time.Time
	// LastRun is the nominal time of this run; zero: there was none.
	LastRun time.Time
	// Job is nil where there is only a step to make.
	Job *Job
	// SkipIfOpen makes no job while one of this schedule is unfinished.
	SkipIfOpen bool
}

// Fire carries a firing out and returns its job as stored, nil where none was made. The writer calls then with it
// before any later write.
func (s *Store) Fire(f Firing, then func(*Job)) (*Job, error) {
	return updated(s, func(t *tx) (*Job, error) { return t.fire(f) }, then)
}

// fire inserts a copy of the job, since it may be run twice.
func (t *tx) fire(f Firing) (*Job, error) {
	const state = `SELECT EXISTS (SELECT 1 FROM jobs WHERE schedule = s.name AND status IN ('pending', 'running'))
		FROM schedules s WHERE id = ?1 AND (?2 = '' OR (next_run_at = ?2 AND enabled = 1))`
	var open bool
	err := t.row(state, f.ScheduleID, timeText(f.Expected)).Scan(&open)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var fired *Job
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
	const step = `UPDATE schedules SET last_run_at = coalesce(?, last_run_at), next_run_at = ?, enabled = ?
		WHERE id = ?`
	return fired, t.exec(step, nullTime(f.LastRun), nullTime(f.Next), !f.Next.IsZero(), f.ScheduleID)
}
