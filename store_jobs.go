package main

// Jobs in SQL: what a job is, the prepared statements of the hot path, every way of reading jobs back, retention.

import (
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
	Existing         bool   // of what Submit returns: the key matched, and ID is the earlier job's
	RetriedBy        string // the id of the job that a retry made of it
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

// countFinished counts the finished jobs as they are now, in the background: a million takes 60 ms.
func (s *Store) countFinished() error {
	ctx := context.Background()
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return err
	}
	// From here on this connection sees the database as it is, whatever the writer does.
	if _, err := conn.ExecContext(ctx, "BEGIN; SELECT 1 FROM config"); err != nil {
		return errors.Join(err, conn.Close())
	}
	go func() {
		defer close(s.counted)
		err := conn.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM jobs WHERE status = 'completed'),
			(SELECT count(*) FROM jobs WHERE status = 'failed'), (SELECT count(*) FROM jobs WHERE status = 'cancelled')`).
			Scan(&s.before.Completed, &s.before.Failed, &s.before.Cancelled)
		_, end := conn.ExecContext(ctx, "ROLLBACK")
		s.uncounted = s.failure(errors.Join(err, end, conn.Close()))
	}()
	return nil
}

// Finished counts the finished jobs: those from before the start, and what commits have added since.
func (s *Store) Finished() (FinishedCounts, error) {
	<-s.counted
	s.mu.Lock()
	defer s.mu.Unlock()
	return FinishedCounts{s.before.Completed + s.since.Completed, s.before.Failed + s.since.Failed, s.before.Cancelled + s.since.Cancelled}, s.uncounted
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

// Submit stores jobs, all or none, and returns them with Seq and ID; one whose idempotency key is known comes back as a
// copy with Existing set and the earlier job's id. The writer calls then with them before any later write.
func (s *Store) Submit(jobs []*Job, then func([]*Job)) ([]*Job, error) {
	if !slices.ContainsFunc(jobs, (*Job).keyed) {
		return jobs, s.do(&write{insert: jobs}, func() {
			if then != nil {
				then(jobs)
			}
		})
	}
	return updated(s, func(t *tx) ([]*Job, error) { return t.insertKeyed(jobs) }, then)
}

func (j *Job) keyed() bool { return j.IdempotencyKey != "" }

// CountNew tells how many of jobs Submit would store: all but those whose idempotency key is known, or comes twice.
func (s *Store) CountNew(jobs []*Job) (n int, err error) {
	keys := map[string]bool{}
	for _, j := range jobs {
		if !j.keyed() {
			n++
			continue
		}
		if keys[j.IdempotencyKey] {
			continue
		}
		keys[j.IdempotencyKey] = true
		known, err := s.count("SELECT count(*) FROM jobs WHERE idempotency_key = ?", j.IdempotencyKey)
		if err != nil {
			return 0, err
		}
		n += 1 - int(known)
	}
	return n, nil
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

// insertKeyed inserts copies of jobs, but answers one whose key is known with the earlier job.
func (t *tx) insertKeyed(jobs []*Job) (stored []*Job, err error) {
	for _, given := range jobs {
		j := *given
		var id, command, payload, environment string
		err := t.row("SELECT id, command, submitted_payload, environment FROM jobs WHERE idempotency_key = ?", nullText(j.IdempotencyKey)).
			Scan(&id, &command, &payload, &environment)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			err = t.insert([]*Job{&j})
		case err == nil && (command != j.Command || payload != string(j.SubmittedPayload) || environment != j.Environment):
			err = errorf(codeAlreadyExists, "idempotency_key %q was used for another job, %s", j.IdempotencyKey, id).hint("use a new key for a new job")
		case err == nil:
			j.ID = id
			j.Existing = true
		}
		if err != nil {
			return nil, err
		}
		stored = append(stored, &j)
	}
	return stored, nil
}

// Retry makes a new job of the one with this seq, whose retried_by names it from then on. It is no run of its schedule:
// its dates were resolved long ago, and last-success would step over what came since. codeFailedPrecondition: the job
// is not failed or cancelled, or was retried already. The writer calls then with the new job before any later write.
func (s *Store) Retry(seq int64, then func(*Job)) (*Job, error) {
	const chain = `WITH RECURSIVE later(id, n) AS (SELECT retried_by, 1 FROM jobs WHERE seq = ?
		UNION ALL SELECT j.retried_by, n + 1 FROM jobs j JOIN later ON j.id = later.id WHERE j.retried_by IS NOT NULL)
		SELECT id FROM later ORDER BY n DESC LIMIT 1`
	return updated(s, func(t *tx) (*Job, error) {
		old, err := scanJob(t.row("SELECT "+jobColumns+"'' FROM jobs WHERE seq = ?", seq))
		if errors.Is(err, sql.ErrNoRows) {
			return nil, errJobGone()
		}
		if err != nil {
			return nil, err
		}
		if old.Status != statusFailed && old.Status != statusCancelled {
			return nil, errorf(codeFailedPrecondition, "job %s is %s; only failed and cancelled jobs can be retried", old.ID, old.Status)
		}
		if old.RetriedBy != "" {
			latest, err := scanText(t.row(chain, seq))
			if err != nil {
				return nil, err
			}
			return nil, errorf(codeFailedPrecondition, "job %s was retried already; its latest retry is %s", old.ID, latest).
				hint("look at it with: honeydew job show %s", latest)
		}
		now := timeNow()
		j := &Job{
			Command:     old.Command,
			Payload:     old.Payload,
			Priority:    old.Priority,
			Status:      statusPending,
			MaxRetries:  old.MaxRetries,
			CreatedAt:   now,
			UpdatedAt:   now,
			Timeout:     old.Timeout,
			Environment: old.Environment,
		}
		if err := t.insert([]*Job{j}); err != nil {
			return nil, err
		}
		return j, t.exec("UPDATE jobs SET retried_by = ? WHERE seq = ?", j.ID, seq)
	}, then)
}

// Start notes that an attempt of j began. done, if it is not nil, is called after the commit: errNotOpen says that the
// job is not pending any more, and that the attempt must not go on. Without done, Start waits for the commit itself.
func (s *Store) Start(j *Job, done func(error)) error {
	if done == nil {
		return s.do(&write{start: j}, nil)
	}
	s.enqueue(&write{start: j, done: done})
	return nil
}

// start notes the start of an attempt; notOpen is errNotOpen where the job is not pending.
func (t *tx) start(j *Job) (notOpen, err error) {
	started := timeText(j.StartedAt)
	n, err := t.s.stmts.start.exec(started, started, j.Seq)
	if err == nil && n == 0 {
		notOpen = errNotOpen
	}
	return notOpen, err
}

// errNotOpen: the job had ended before, so that nothing was changed.
var errNotOpen = errors.New("the job has ended already")

func errJobGone() *Error { return errorf(codeNotFound, "the job is gone") }

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
// job that was cut off waits again, keeping its count of open starts. codeFailedPrecondition: it had ended before. The
// writer calls then, if it is not nil, before any later write.
func (s *Store) End(seq int64, status, code, message string, then func()) error {
	query := `UPDATE jobs SET status = ?1, updated_at = ?2, completed_at = ?2, next_attempt_at = NULL, open_starts = 0,
		error = coalesce(?3 || ': ' || ?4, error), error_code = coalesce(?3, error_code)
		WHERE seq = ?5 AND status IN ('pending', 'running')`
	if status == statusPending {
		query = "UPDATE jobs SET status = ?1, updated_at = ?2 WHERE seq = ?5 AND status IN ('pending', 'running')"
	}
	end := func(t *tx) error {
		n, err := t.changed(query, status, timeText(timeNow()), nullText(code), message, seq)
		if err != nil {
			return err
		}
		if n == 0 {
			return errorf(codeFailedPrecondition, "the job has ended already").hint("look at it with: honeydew job show ID")
		}
		t.counts.add(status, n)
		return nil
	}
	return s.do(&write{fn: end}, then)
}

// ReleaseHeld lets the jobs whose API asked to wait start at once, and returns their Seqs. The writer calls then with
// them before any later write.
func (s *Store) ReleaseHeld(then func([]int64)) ([]int64, error) {
	return updated(s, func(t *tx) (seqs []int64, err error) {
		const query = `UPDATE jobs SET next_attempt_at = NULL, error = NULL, error_code = NULL, updated_at = ?
			WHERE error_code = 'RATE_LIMITED' AND status = 'pending' RETURNING seq`
		for seq, err := range rowsOf(t.s.conn, scanSeq, query, timeText(timeNow())) {
			if err != nil {
				return nil, err
			}
			seqs = append(seqs, seq)
		}
		return seqs, nil
	}, then)
}

func scanSeq(row scanner) (seq int64, err error) { return seq, row.Scan(&seq) }

const jobColumns = `seq, id, command, payload, priority, status, result_bytes, coalesce(error, ''), coalesce(error_code, ''),
	retry_count, max_retries, created_at, updated_at, started_at, completed_at, next_attempt_at, open_starts, timeout_ms, environment,
	coalesce(schedule, ''), coalesce(retried_by, ''), `

// scanJob reads jobColumns and the result, or an empty text in its place.
func scanJob(row scanner) (*Job, error) {
	var j Job
	err := row.Scan(&j.Seq, &j.ID, &j.Command, &j.Payload, &j.Priority, &j.Status, &j.ResultBytes, &j.Error, &j.ErrorCode,
		&j.RetryCount, &j.MaxRetries, stamp{&j.CreatedAt}, stamp{&j.UpdatedAt}, stamp{&j.StartedAt}, stamp{&j.CompletedAt},
		stamp{&j.NextAttemptAt}, &j.OpenStarts, &j.Timeout, &j.Environment, &j.Schedule, &j.RetriedBy, &j.Result)
	j.Timeout *= time.Duration(time.Millisecond)
	return &j, err
}

// JobBySeq reads one job, with its result where that has at most maxResult bytes.
func (s *Store) JobBySeq(seq, maxResult int64) (*Job, error) {
	return one(s, errJobGone(), scanJob, "SELECT "+jobColumns+
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

// ResultPart reads up to n bytes of a result, from the byte at from on.
func (s *Store) ResultPart(seq, from, n int64) ([]byte, error) {
	// As bytes: of a text substr would count the characters before from.
	return one(s, errJobGone(), func(row scanner) (part []byte, err error) { return part, row.Scan(&part) },
		"SELECT coalesce(substr(CAST(result AS BLOB), ?2 + 1, ?3), x'') FROM jobs WHERE seq = ?1", seq, from, n)
}

// JobFilter selects jobs for Jobs; empty fields select all.
type JobFilter struct {
	Status    string
	Command   string
	Schedule  string
	ErrorCode string
	Since     time.Time // created at or after
	Unretried bool      // no job was made of it by a retry
	Before    int64     // a Seq; 0: from the newest
	Limit     int
	MaxBytes  int // of payloads: stop after the job that passes it; 0: no limit
}

// conditions returns the filter as SQL, naming only the columns that are filtered by, so that each form finds its index.
func (f JobFilter) conditions() (where string, args []any) {
	where = "TRUE"
	and := func(condition string, value any) {
		where += " AND " + condition
		args = append(args, value)
	}
	if f.Status != "" {
		and("status = ?", f.Status)
	}
	if f.Command != "" {
		and("command = ?", f.Command)
	}
	if f.Command != "" && (&Job{Status: f.Status}).finished() { // as jobs_by_command has it
		where += " AND completed_at IS NOT NULL"
	}
	if f.Schedule != "" {
		and("schedule = ?", f.Schedule)
	}
	if f.ErrorCode != "" {
		and("error_code = ?", f.ErrorCode)
	}
	if !f.Since.IsZero() {
		and("created_at >= ?", timeText(f.Since))
	}
	if f.Unretried {
		where += " AND retried_by IS NULL"
	}
	if f.Before > 0 {
		and("seq < ?", f.Before)
	}
	return where, args
}

// query returns the SQL of a filter: one statement, and with it one snapshot. A list of one command alone is put together
// from those of each state, which have an index in the order of the list.
func (f JobFilter) query() (string, []any) {
	const list = "SELECT " + jobColumns + "'' FROM jobs WHERE "
	if f.Command == "" || f.Status != "" || f.Schedule != "" || f.ErrorCode != "" {
		where, args := f.conditions()
		return list + where + " ORDER BY seq DESC LIMIT ?", append(args, f.Limit)
	}
	var lists []string
	var args []any
	for _, f.Status = range []string{statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled} {
		where, values := f.conditions()
		lists = append(lists, "SELECT * FROM (SELECT seq FROM jobs WHERE "+where+" ORDER BY seq DESC LIMIT ?)")
		args = append(args, append(values, f.Limit)...)
	}
	return list + "seq IN (" + strings.Join(lists, " UNION ALL ") + ") ORDER BY seq DESC LIMIT ?", append(args, f.Limit)
}

// Jobs lists jobs, newest first, without results.
func (s *Store) Jobs(f JobFilter) (jobs []*Job, err error) {
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
	const query = `DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE completed_at < ? ORDER BY completed_at LIMIT ?)
		RETURNING status`
	for more := true; more && ctx.Err() == nil; {
		ended, err := updated(s, func(t *tx) ([]string, error) {
			ended, err := t.rows(query, timeText(cutoff), pruneBatch)
			for _, status := range ended {
				t.counts.add(status, -1)
			}
			return ended, err
		}, nil)
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
