package main

// Jobs in SQL: what a job is, the prepared statements of the hot path, every way of reading jobs back, retention.

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"strings"
	"time"
)

// Job states, as stored and shown.
const (
	statusPending   = "pending"
	statusRunning   = "running"
	statusCompleted = "completed"
	statusFailed    = "failed"
	statusCancelled = "cancelled"
)

// Job is a row of the jobs table. Once handed to the store or a watcher it is not changed any more: copy it.
type Job struct {
	Seq              int64 // order of arrival, given by the store
	ID               string
	Command          string
	Payload          []byte // JSON
	Priority         int32
	Status           string
	Result           string // JSON, as the API sent it; "" where it was not read
	ResultBytes      int64
	Error, ErrorCode string
	RetryCount       int32
	MaxRetries       int32
	CreatedAt        time.Time // this and the other times: zero when unset
	UpdatedAt        time.Time
	StartedAt        time.Time
	CompletedAt      time.Time
	NextAttemptAt    time.Time // not before
	OpenStarts       int       // attempts begun since the last one that ended
	Timeout          time.Duration
	Environment      string
	Schedule         string
	IdempotencyKey   string
	SubmittedPayload []byte // before dates were resolved; only beside a key
	Existing         bool   // set by Submit: the key matched, and ID is the earlier job's
}

func (j *Job) finished() bool {
	return j.Status == statusCompleted || j.Status == statusFailed || j.Status == statusCancelled
}

// FinishedCounts are the jobs in the database by terminal state.
type FinishedCounts struct{ Completed, Failed, Cancelled int64 }

func (c *FinishedCounts) add(status string, n int64) {
	switch status {
	case statusCompleted:
		c.Completed += n
	case statusFailed:
		c.Failed += n
	case statusCancelled:
		c.Cancelled += n
	}
}

// Finished counts the finished jobs. The first call counts rows, 60 ms for a million; then every commit keeps count.
func (s *Store) Finished() (FinishedCounts, error) {
	s.mu.Lock()
	counts, counted := s.counts, s.counted
	s.mu.Unlock()
	if counted {
		return counts, nil
	}
	err := s.update(func(t *tx) error {
		return t.row(`SELECT (SELECT count(*) FROM jobs WHERE status = 'completed'), (SELECT count(*) FROM jobs WHERE status = 'failed'),
			(SELECT count(*) FROM jobs WHERE status = 'cancelled')`).Scan(&t.counts.Completed, &t.counts.Failed, &t.counts.Cancelled)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted = err == nil
	return s.counts, err
}

// statements are prepared once on the writer's connection.
type statements struct {
	begin, commit, rollback, insertOne, insertBulk, start, finish *stmt
}

// Parameters have no numbers: the driver asks for the name of each, and SQLite looks numbered ones up one by one.
const (
	insertColumns = "seq, id, command, payload, priority, created_at, updated_at, max_retries, timeout_ms, environment, next_attempt_at, " +
		"schedule, idempotency_key, submitted_payload"
	bulkRows = 16
)

func prepare(conn *sql.Conn) (st statements, err error) {
	row := "(?" + strings.Repeat(", ?", strings.Count(insertColumns, ",")) + ")"
	err = conn.Raw(func(c any) error {
		for _, p := range []struct {
			to    **stmt
			query string
		}{
			{&st.begin, "BEGIN IMMEDIATE"}, {&st.commit, "COMMIT"}, {&st.rollback, "ROLLBACK"},
			{&st.insertOne, "INSERT INTO jobs (" + insertColumns + ") VALUES " + row},
			{&st.insertBulk, "INSERT INTO jobs (" + insertColumns + ") VALUES " + row + strings.Repeat(", "+row, bulkRows-1)},
			{&st.start, `UPDATE jobs SET status = 'running', started_at = ?, updated_at = ?, open_starts = open_starts + 1
				WHERE seq = ? AND status = 'pending'`},
			{&st.finish, `UPDATE jobs SET status = ?, result = ?, result_bytes = ?, error = ?, error_code = ?, retry_count = ?,
				updated_at = ?, started_at = ?, completed_at = ?, next_attempt_at = ?, open_starts = ?
				WHERE seq = ? AND status IN ('pending', 'running')`},
		} {
			prepared, err := c.(driver.ConnPrepareContext).PrepareContext(context.Background(), p.query)
			if err != nil {
				return err
			}
			*p.to = &stmt{StmtExecContext: prepared.(driver.StmtExecContext)}
		}
		return nil
	})
	return st, err
}

func (st *statements) close() {
	for _, s := range []*stmt{st.begin, st.commit, st.rollback, st.insertOne, st.insertBulk, st.start, st.finish} {
		if s != nil {
			_ = s.StmtExecContext.(driver.Stmt).Close() // the connection goes with it
		}
	}
}

// Submit stores jobs, all or none, giving each its Seq and, where empty, its ID.
func (s *Store) Submit(jobs []*Job) error {
	if slices.ContainsFunc(jobs, func(j *Job) bool { return j.IdempotencyKey != "" }) {
		return s.update(func(t *tx) error { return t.insertKeyed(jobs) })
	}
	return s.do(&write{insert: jobs})
}

// insert stores new jobs, many rows a statement.
func (t *tx) insert(jobs []*Job) error {
	args := make([]any, 0, bulkRows*14)
	for len(jobs) > 0 {
		n, s := 1, t.s.stmts.insertOne
		if len(jobs) >= bulkRows {
			n, s = bulkRows, t.s.stmts.insertBulk
		}
		args = args[:0]
		for _, j := range jobs[:n] {
			t.s.number(j)
			created := timeText(j.CreatedAt)
			args = append(args, j.Seq, j.ID, j.Command, string(j.Payload), int64(j.Priority), created, created, int64(j.MaxRetries),
				j.Timeout.Milliseconds(), j.Environment, nullTime(j.NextAttemptAt), nullText(j.Schedule), nullText(j.IdempotencyKey),
				nullText(string(j.SubmittedPayload)))
		}
		if _, err := s.exec(args...); err != nil {
			return err
		}
		jobs = jobs[n:]
	}
	return nil
}

// insertKeyed inserts jobs, but answers one whose key is known with the earlier job.
func (t *tx) insertKeyed(jobs []*Job) error {
	for _, j := range jobs {
		var id, command, payload, environment string
		err := t.row("SELECT id, command, submitted_payload, environment FROM jobs WHERE idempotency_key = ?", nullText(j.IdempotencyKey)).
			Scan(&id, &command, &payload, &environment)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			err = t.insert([]*Job{j})
		case err == nil && (command != j.Command || payload != string(j.SubmittedPayload) || environment != j.Environment):
			err = errorf(codeAlreadyExists, "idempotency_key %q was used for another job, %s", j.IdempotencyKey, id).hint("use a new key for a new job")
		case err == nil:
			j.ID, j.Existing = id, true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Start notes that an attempt of j began: at once and on disk, or with the next commit.
func (s *Store) Start(j *Job, onDisk bool) error {
	if onDisk {
		return s.do(&write{start: j})
	}
	s.enqueue(&write{start: j})
	return nil
}

// errNotOpen: the job had ended before, so that nothing was changed.
var errNotOpen = errors.New("the job has ended already")

// Finish stores the end of an attempt: j's state, times, result and error. done is called after the commit.
func (s *Store) Finish(j *Job, done func(error)) { s.enqueue(&write{finish: j, done: done}) }

// finish stores the end of an attempt if the job is still open; notOpen is errNotOpen where it is not.
func (t *tx) finish(j *Job) (notOpen, err error) {
	n, err := t.s.stmts.finish.exec(j.Status, nullText(j.Result), int64(len(j.Result)), nullText(j.Error), nullText(j.ErrorCode),
		int64(j.RetryCount), timeText(j.UpdatedAt), nullTime(j.StartedAt), nullTime(j.CompletedAt), nullTime(j.NextAttemptAt),
		int64(j.OpenStarts), j.Seq)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return errNotOpen, nil
	}
	t.counts.add(j.Status, 1)
	if j.Status == statusCompleted && j.Schedule != "" {
		// A time after this moment comes from a wrong clock, and says nothing.
		return nil, t.exec(`UPDATE schedules SET last_success_at = ?2 WHERE name = ?1 AND (created_at <= ?2 OR created_at > ?3)
			AND (last_success_at IS NULL OR last_success_at < ?2 OR last_success_at > ?3)`, j.Schedule, timeText(j.CreatedAt), timeText(j.CompletedAt))
	}
	return nil, nil
}

// End ends an open job that no attempt ends, as failed with code and message, or as cancelled. With status pending a
// job that was cut off waits again, keeping its count of open starts. codeFailedPrecondition: it had ended before.
func (s *Store) End(seq int64, status, code, message string) error {
	return s.update(func(t *tx) error {
		query := `UPDATE jobs SET status = ?1, updated_at = ?2, completed_at = ?2, next_attempt_at = NULL, open_starts = 0,
			error = coalesce(?3 || ': ' || ?4, error), error_code = coalesce(?3, error_code) WHERE seq = ?5 AND status IN ('pending', 'running')`
		if status == statusPending {
			query = "UPDATE jobs SET status = ?1, updated_at = ?2 WHERE seq = ?5 AND status IN ('pending', 'running')"
		}
		n, err := t.changed(query, status, timeText(timeNow()), nullText(code), message, seq)
		if err == nil && n == 0 {
			return errorf(codeFailedPrecondition, "the job has ended already").hint("look at it with: honeydew job show ID")
		}
		t.counts.add(status, n)
		return err
	})
}

const jobColumns = `seq, id, command, payload, priority, status, result_bytes, coalesce(error, ''), coalesce(error_code, ''),
	retry_count, max_retries, created_at, updated_at, started_at, completed_at, next_attempt_at, open_starts, timeout_ms, environment,
	coalesce(schedule, ''), `

// scanJob reads jobColumns and the result, or ” in its place.
func scanJob(row scanner) (*Job, error) {
	var j Job
	err := row.Scan(&j.Seq, &j.ID, &j.Command, &j.Payload, &j.Priority, &j.Status, &j.ResultBytes, &j.Error, &j.ErrorCode,
		&j.RetryCount, &j.MaxRetries, stamp{&j.CreatedAt}, stamp{&j.UpdatedAt}, stamp{&j.StartedAt}, stamp{&j.CompletedAt},
		stamp{&j.NextAttemptAt}, &j.OpenStarts, &j.Timeout, &j.Environment, &j.Schedule, &j.Result)
	j.Timeout *= time.Duration(time.Millisecond)
	return &j, err
}

// JobBySeq reads one job, with its result where that has at most maxResult bytes.
func (s *Store) JobBySeq(seq, maxResult int64) (*Job, error) {
	return one(s, errorf(codeNotFound, "the job is gone"), scanJob, "SELECT "+jobColumns+
		"CASE WHEN result_bytes <= ?2 THEN coalesce(result, '') ELSE '' END FROM jobs WHERE seq = ?1", seq, maxResult)
}

// Job reads the job that prefix names.
func (s *Store) Job(prefix string, maxResult int64) (*Job, error) {
	seq, err := s.JobSeq(prefix)
	if err != nil {
		return nil, err
	}
	return s.JobBySeq(seq, maxResult)
}

// JobSeq finds the job that prefix names: exactly, or alone among all ids.
func (s *Store) JobSeq(prefix string) (seq int64, err error) {
	if prefix == "" {
		return 0, errorf(codeInvalidArgument, "job_id: missing").hint("list ids with: honeydew job list")
	}
	found, err := all(s, func(row scanner) (j Job, err error) { return j, row.Scan(&j.ID, &j.Seq) },
		"SELECT id, seq FROM jobs WHERE id >= ?1 AND id < ?1 || char(1114111) ORDER BY id LIMIT 2", prefix)
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, errorf(codeNotFound, "no job %q", prefix).hint("list ids with: honeydew job list")
	case len(found) > 1 && found[0].ID != prefix:
		return 0, errorf(codeInvalidArgument, "job_id: %q is the beginning of several ids, such as %s", prefix, found[0].ID).hint("give more characters")
	}
	return found[0].Seq, nil
}

// JobFilter selects jobs for Jobs; empty fields select all.
type JobFilter struct {
	Status, Command, Schedule string
	Before                    int64 // a Seq; 0: from the newest
	Limit                     int
	MaxBytes                  int // of payloads: stop after the job that passes it; 0: no limit
}

// query returns the SQL of a filter, naming only the columns that are filtered by, so that each form finds its index.
func (f JobFilter) query() (string, []any) {
	where, args := "TRUE", []any{}
	for _, c := range []struct{ condition, value string }{{"status = ?", f.Status}, {"command = ?", f.Command}, {"schedule = ?", f.Schedule}} {
		if c.value != "" {
			where, args = where+" AND "+c.condition, append(args, c.value)
		}
	}
	if f.Command != "" && (&Job{Status: f.Status}).finished() { // as jobs_by_command has it
		where += " AND completed_at IS NOT NULL"
	}
	if f.Before > 0 {
		where, args = where+" AND seq < ?", append(args, f.Before)
	}
	return "SELECT " + jobColumns + "'' FROM jobs WHERE " + where + " ORDER BY seq DESC LIMIT ?", append(args, f.Limit)
}

// Jobs lists jobs, newest first, without results.
func (s *Store) Jobs(f JobFilter) (jobs []*Job, err error) {
	if f.Command != "" && f.Status == "" && f.Schedule == "" {
		for _, status := range []string{statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled} {
			f.Status = status // each has an index in the order of the list
			some, err := s.Jobs(f)
			if err != nil {
				return nil, err
			}
			jobs = append(jobs, some...)
		}
		slices.SortFunc(jobs, func(a, b *Job) int { return cmp.Compare(b.Seq, a.Seq) })
		return jobs[:min(len(jobs), f.Limit)], nil
	}
	query, args := f.query()
	size := 0
	for j, err := range rowsOf(s.read, scanJob, query, args...) {
		if err != nil {
			return nil, s.failure(err)
		}
		jobs = append(jobs, j)
		if size += len(j.Payload); f.MaxBytes > 0 && size > f.MaxBytes {
			break
		}
	}
	return jobs, nil
}

// OldestPending is the creation time of the pending job that has waited longest, zero when none waits.
func (s *Store) OldestPending() (oldest time.Time, err error) {
	const query = "SELECT created_at FROM jobs WHERE status = 'pending' ORDER BY seq LIMIT 1"
	for oldest, err = range rowsOf(s.read, func(row scanner) (t time.Time, err error) { return t, row.Scan(stamp{&t}) }, query) {
	}
	return oldest, s.failure(err)
}

// OpenJob is what the queue keeps in memory of a job that has not ended.
type OpenJob struct {
	Seq                  int64
	Priority             int32
	NotBefore            time.Time
	Command, Environment string
	Running              bool // an attempt was under way when the daemon died
	Held                 bool // the API asked for a pause, until NotBefore
}

// OpenJobs calls each for every job that has not ended, oldest first.
func (s *Store) OpenJobs(each func(OpenJob)) error {
	ctx := context.Background()
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return s.failure(err)
	}
	defer conn.Close()
	// Through the driver: database/sql's Scan would double the time that a long queue takes to load.
	return s.failure(conn.Raw(func(c any) error {
		rows, err := c.(driver.QueryerContext).QueryContext(ctx, `SELECT seq, priority, next_attempt_at, command, environment,
			status = 'running', error_code IS 'RATE_LIMITED' FROM jobs WHERE status IN ('pending', 'running') ORDER BY status, seq`, nil)
		if err != nil {
			return err
		}
		defer rows.Close()
		v := make([]driver.Value, 7)
		for {
			if err := rows.Next(v); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			job := OpenJob{Seq: v[0].(int64), Priority: int32(v[1].(int64)), Command: v[3].(string), Environment: v[4].(string), Running: v[5].(int64) == 1, Held: v[6].(int64) == 1}
			if err := (stamp{&job.NotBefore}).Scan(v[2]); err != nil {
				return err
			}
			each(job)
		}
	}))
}

// pruneBatch keeps each of retention's transactions short.
const pruneBatch = 500

// Prune deletes jobs that ended before cutoff, in small transactions, and gives their pages back to the file system.
// With dryRun it only counts them.
func (s *Store) Prune(ctx context.Context, cutoff time.Time, dryRun bool) (total int64, err error) {
	if dryRun {
		return s.count("SELECT count(*) FROM jobs WHERE completed_at < ?", timeText(cutoff))
	}
	for more := true; more && ctx.Err() == nil; {
		var ended []string
		err := s.update(func(t *tx) (err error) {
			ended, err = t.rows("DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE completed_at < ? ORDER BY completed_at LIMIT ?) RETURNING status",
				timeText(cutoff), pruneBatch)
			for _, status := range ended {
				t.counts.add(status, -1)
			}
			return err
		})
		if err != nil {
			return total, err
		}
		total += int64(len(ended))
		more = len(ended) == pruneBatch
	}
	if total > 0 {
		return total, s.shrink(ctx)
	}
	return total, ctx.Err()
}

// shrink gives free pages back, a thousand at a time, so that nobody waits long for the writer.
func (s *Store) shrink(ctx context.Context) error {
	for ctx.Err() == nil {
		free, err := s.count("PRAGMA freelist_count")
		if err != nil {
			return err
		}
		if free == 0 {
			// What was moved went through the log, which keeps its size until somebody cuts it.
			_, err := s.read.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
			return s.failure(err)
		}
		err = s.update(func(t *tx) error {
			// It works as its rows are read.
			for _, err := range rowsOf(t.s.conn, func(scanner) (struct{}, error) { return struct{}{}, nil }, "PRAGMA incremental_vacuum(1000)") {
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
