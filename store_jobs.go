package main

// Jobs in SQL: the prepared statements of the hot path, and every way of reading jobs back. Reads run on their own
// connections, without a cancellable context (the driver starts a goroutine for one) and without ever holding a
// transaction open across a send, which would keep the WAL from being reset.

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"time"
)

// statements are prepared once on the writer's connection.
type statements struct {
	begin, commit, rollback, insertFull, insertOne, insertBulk, start, finish, counts *stmt
}

const (
	plainColumns = "seq, id, command, payload, priority, created_at, updated_at, max_retries, timeout_ms, environment"
	bulkRows     = 16
)

func prepare(conn *sql.Conn) (st statements, err error) {
	err = conn.Raw(func(c any) error {
		p := func(query string) *stmt {
			s, prepareErr := c.(driver.ConnPrepareContext).PrepareContext(context.Background(), query)
			if prepareErr != nil {
				err = errors.Join(err, prepareErr)
				return nil
			}
			return &stmt{StmtExecContext: s.(driver.StmtExecContext)}
		}
		st = statements{
			begin:    p("BEGIN IMMEDIATE"),
			commit:   p("COMMIT"),
			rollback: p("ROLLBACK"),
			insertFull: p(`INSERT INTO jobs (seq, id, command, payload, priority, created_at, updated_at, max_retries,
				timeout_ms, environment, next_attempt_at, schedule, idempotency_key, submitted_payload)
				VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)`),
			insertOne:  p(insertPlain(1)),
			insertBulk: p(insertPlain(bulkRows)),
			start: p(`UPDATE jobs SET status = 'running', started_at = ?2, updated_at = ?2, open_starts = open_starts + 1
				WHERE seq = ?1 AND status = 'pending'`),
			finish: p(`UPDATE jobs SET status = ?2, result = ?3, result_bytes = ?4, error = ?5, error_code = ?6,
				retry_count = ?7, updated_at = ?8, started_at = ?9, completed_at = ?10, next_attempt_at = ?11, open_starts = ?12
				WHERE seq = ?1 AND status IN ('pending', 'running')`),
			counts: p("INSERT OR REPLACE INTO config (key, value) VALUES ('" + countsKey + "', ?1)"),
		}
		return err
	})
	return st, err
}

// insertPlain is an INSERT of n jobs that have neither a time to wait for, a schedule nor a key.
func insertPlain(n int) string {
	// Without numbers: the driver asks for the name of each parameter, and SQLite looks numbered ones up one by one.
	const row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	return "INSERT INTO jobs (" + plainColumns + ") VALUES " + strings.Repeat(row+", ", n-1) + row
}

func (st *statements) close() {
	for _, s := range []*stmt{st.begin, st.commit, st.rollback, st.insertFull, st.insertOne, st.insertBulk, st.start, st.finish, st.counts} {
		if s != nil {
			_ = s.StmtExecContext.(driver.Stmt).Close()
		}
	}
}

// insertMany stores plain jobs, many rows a statement.
func (st *statements) insertMany(jobs []*Job) error {
	args := make([]any, 0, bulkRows*10)
	for len(jobs) > 0 {
		n, s := 1, st.insertOne
		if len(jobs) >= bulkRows {
			n, s = bulkRows, st.insertBulk
		}
		args = args[:0]
		for _, j := range jobs[:n] {
			created := timeText(j.CreatedAt)
			args = append(args, j.Seq, j.ID, j.Command, string(j.Payload), int64(j.Priority), created, created,
				int64(j.MaxRetries), j.Timeout.Milliseconds(), j.Environment)
		}
		if _, err := s.exec(args...); err != nil {
			return err
		}
		jobs = jobs[n:]
	}
	return nil
}

// jobColumns are what scanJob reads; a result column comes last.
const jobColumns = `seq, id, command, payload, priority, status, result_bytes, coalesce(error, ''), coalesce(error_code, ''),
	retry_count, max_retries, created_at, updated_at, coalesce(started_at, ''), coalesce(completed_at, ''),
	coalesce(next_attempt_at, ''), open_starts, timeout_ms, environment, coalesce(schedule, '')`

func scanJob(row interface{ Scan(...any) error }, result *string) (*Job, error) {
	var j Job
	var payload string
	var created, updated, started, completed, next string
	var timeout int64
	dest := []any{&j.Seq, &j.ID, &j.Command, &payload, &j.Priority, &j.Status, &j.ResultBytes, &j.Error, &j.ErrorCode,
		&j.RetryCount, &j.MaxRetries, &created, &updated, &started, &completed, &next, &j.OpenStarts, &timeout, &j.Environment, &j.Schedule}
	if result != nil {
		dest = append(dest, result)
	}
	if err := row.Scan(dest...); err != nil {
		return nil, err
	}
	j.Payload, j.Timeout = []byte(payload), time.Duration(timeout)*time.Millisecond
	var err error
	for _, t := range []struct {
		to   *time.Time
		text string
	}{{&j.CreatedAt, created}, {&j.UpdatedAt, updated}, {&j.StartedAt, started}, {&j.CompletedAt, completed}, {&j.NextAttemptAt, next}} {
		var e error
		*t.to, e = parseTimeText(t.text)
		err = errors.Join(err, e)
	}
	return &j, err
}

// JobBySeq reads one job without its result.
func (s *Store) JobBySeq(seq int64) (*Job, error) {
	j, err := scanJob(s.read.QueryRow("SELECT "+jobColumns+" FROM jobs WHERE seq = ?", seq), nil)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errorf(codeNotFound, "the job is gone")
	}
	return j, s.failure(err)
}

// JobID returns the whole id and the place of the job that prefix names: exactly, or alone among all ids.
func (s *Store) JobID(prefix string) (id string, seq int64, err error) {
	if prefix == "" {
		return "", 0, errorf(codeInvalidArgument, "job_id: missing").hint("list ids with: honeydew job list")
	}
	rows, err := s.read.Query("SELECT id, seq FROM jobs WHERE id >= ?1 AND id < ?1 || char(1114111) ORDER BY id LIMIT 2", prefix)
	if err != nil {
		return "", 0, s.failure(err)
	}
	defer rows.Close()
	found := 0
	for ; rows.Next(); found++ {
		var other string
		var otherSeq int64
		if err := rows.Scan(&other, &otherSeq); err != nil {
			return "", 0, s.failure(err)
		}
		if found == 0 {
			id, seq = other, otherSeq
		}
	}
	switch {
	case rows.Err() != nil:
		return "", 0, s.failure(rows.Err())
	case found == 0:
		return "", 0, errorf(codeNotFound, "no job %q", prefix).hint("list ids with: honeydew job list")
	case found > 1 && id != prefix:
		return "", 0, errorf(codeInvalidArgument, "job_id: %q is the beginning of several ids, such as %s", prefix, id).hint("give more characters")
	}
	return id, seq, nil
}

// Job reads the job that prefix names, with its result where that has at most maxResult bytes.
func (s *Store) Job(prefix string, maxResult int64) (*Job, error) {
	_, seq, err := s.JobID(prefix)
	if err != nil {
		return nil, err
	}
	var result string // scanned without another copy: it may be large
	j, err := scanJob(s.read.QueryRow("SELECT "+jobColumns+
		", CASE WHEN result_bytes <= ?2 THEN coalesce(result, '') ELSE '' END FROM jobs WHERE seq = ?1", seq, maxResult), &result)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errorf(codeNotFound, "no job %q", prefix)
	} else if err != nil {
		return nil, s.failure(err)
	}
	j.Result = result
	return j, nil
}

// JobFilter selects jobs for Jobs; empty fields select all.
type JobFilter struct {
	Status, Command, Schedule string
	Before                    int64 // a Seq; 0: from the newest
	Limit                     int
	MaxBytes                  int // of payloads: stop after the job that passes it; 0: no limit
}

// listQuery returns the SQL of a filter, naming only the columns that are filtered by, so that each form finds its
// index.
func (f JobFilter) listQuery() (string, []any) {
	where, args := []string{}, []any{}
	for _, c := range []struct {
		column, value string
	}{{"status", f.Status}, {"command", f.Command}, {"schedule", f.Schedule}} {
		if c.value != "" {
			where, args = append(where, c.column+" = ?"), append(args, c.value)
		}
	}
	if f.Before > 0 {
		where, args = append(where, "seq < ?"), append(args, f.Before)
	}
	query := "SELECT " + jobColumns + " FROM jobs"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	return query + " ORDER BY seq DESC LIMIT ?", append(args, f.Limit)
}

// Jobs lists jobs, newest first, without results.
func (s *Store) Jobs(f JobFilter) ([]*Job, error) {
	query, args := f.listQuery()
	rows, err := s.read.Query(query, args...)
	if err != nil {
		return nil, s.failure(err)
	}
	defer rows.Close()
	var jobs []*Job
	for size := 0; (f.MaxBytes == 0 || size <= f.MaxBytes) && rows.Next(); {
		j, err := scanJob(rows, nil)
		if err != nil {
			return nil, s.failure(err)
		}
		jobs = append(jobs, j)
		size += len(j.Payload)
	}
	return jobs, s.failure(rows.Err())
}

// OldestPending is the creation time of the pending job that has waited longest, zero when none waits.
func (s *Store) OldestPending() (time.Time, error) {
	var text string
	err := s.read.QueryRow("SELECT created_at FROM jobs WHERE status = 'pending' ORDER BY seq LIMIT 1").Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	} else if err != nil {
		return time.Time{}, s.failure(err)
	}
	return parseTimeText(text)
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
			if text, ok := v[2].(string); ok {
				if job.NotBefore, err = parseTimeText(text); err != nil {
					return err
				}
			}
			each(job)
		}
	}))
}

// Recover ends the attempt that was cut off when the daemon died or stopped: with status pending the job waits again,
// keeping its count of open starts; otherwise it failed.
func (s *Store) Recover(seq int64, status, code, message string) error {
	return s.update(func(t *tx) error {
		now := timeText(timeNow())
		if status == statusPending {
			return t.exec("UPDATE jobs SET status = 'pending', updated_at = ? WHERE seq = ?", now, seq)
		}
		t.counts.add(status, 1)
		return t.exec(`UPDATE jobs SET status = ?, error = ?, error_code = ?, updated_at = ?, completed_at = ?, next_attempt_at = NULL,
			open_starts = 0 WHERE seq = ?`, status, code+": "+message, code, now, now, seq)
	})
}

// Cancel ends an open job as cancelled; codeFailedPrecondition when it had ended before.
func (s *Store) Cancel(seq int64) error {
	return s.update(func(t *tx) error {
		now := timeText(timeNow())
		n, err := t.changed(`UPDATE jobs SET status = 'cancelled', updated_at = ?1, completed_at = ?1, next_attempt_at = NULL, open_starts = 0
			WHERE seq = ?2 AND status IN ('pending', 'running')`, now, seq)
		if err != nil {
			return err
		}
		t.counts.Cancelled += n
		if n == 0 {
			return noLongerOpen()
		}
		return nil
	})
}

// pruneBatch keeps each of retention's transactions short.
const pruneBatch = 500

// Prune deletes jobs that ended before cutoff, in small transactions, and gives their pages back to the file system.
// With dryRun it only counts them.
func (s *Store) Prune(ctx context.Context, cutoff time.Time, dryRun bool) (int64, error) {
	total := int64(0)
	for _, status := range []string{statusCompleted, statusFailed, statusCancelled} {
		if dryRun {
			var n int64
			err := s.read.QueryRow("SELECT count(*) FROM jobs WHERE status = ? AND completed_at < ?", status, timeText(cutoff)).Scan(&n)
			if err != nil {
				return 0, s.failure(err)
			}
			total += n
			continue
		}
		for after := int64(0); ctx.Err() == nil; {
			seqs, err := s.prunable(status, cutoff, after)
			if err != nil {
				return total, err
			}
			if len(seqs) == 0 {
				break
			}
			after = seqs[len(seqs)-1]
			n, err := s.deleteJobs(status, seqs)
			total += n
			if err != nil {
				return total, err
			}
		}
	}
	if total > 0 && !dryRun {
		return total, s.shrink(ctx)
	}
	return total, ctx.Err()
}

func (s *Store) prunable(status string, cutoff time.Time, after int64) ([]int64, error) {
	rows, err := s.read.Query("SELECT seq FROM jobs WHERE status = ? AND seq > ? AND completed_at < ? ORDER BY seq LIMIT ?",
		status, after, timeText(cutoff), pruneBatch)
	if err != nil {
		return nil, s.failure(err)
	}
	defer rows.Close()
	var seqs []int64
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, s.failure(err)
		}
		seqs = append(seqs, seq)
	}
	return seqs, s.failure(rows.Err())
}

func (s *Store) deleteJobs(status string, seqs []int64) (deleted int64, err error) {
	err = s.update(func(t *tx) error {
		deleted = 0
		for _, seq := range seqs {
			n, err := t.changed("DELETE FROM jobs WHERE seq = ? AND status = ?", seq, status)
			if err != nil {
				return err
			}
			deleted += n
		}
		t.counts.add(status, -deleted)
		return nil
	})
	return deleted, err
}

// shrink gives free pages back, a thousand at a time, so that nobody waits long for the writer.
func (s *Store) shrink(ctx context.Context) error {
	for ctx.Err() == nil {
		var free int
		if err := s.read.QueryRow("PRAGMA freelist_count").Scan(&free); err != nil {
			return s.failure(err)
		}
		if free == 0 {
			// What was moved went through the log, which keeps its size until somebody cuts it.
			_, err := s.read.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
			return s.failure(err)
		}
		if err := s.update(func(t *tx) error { return t.drain("PRAGMA incremental_vacuum(1000)") }); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// drain runs a statement that works as its rows are read.
func (t *tx) drain(query string) error {
	rows, err := t.conn.QueryContext(t.ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}
