package main

// Jobs in SQL: what a job is, the prepared statements of the hot path, every way of reading jobs back, retention.
//
//	Submit, Retry, Fire   a new row, pending
//	Start                 pending --> running
//	Finish                running --> completed or failed, or back to pending
//	End                   pending or running --> cancelled or failed
//	Restart               running --> pending, after a crash
//	Prune                 the row goes, a time after its end
//
// Each of these asks in its WHERE for the state that it begins with. So where two of them meet, a cancellation and the
// end of an attempt, say, the first wins and the second gets errNotOpen.
//
// What is found by which index of schema.sql:
//
//	one job, by its id or the beginning of it    the one of id
//	those of a state, newest first               jobs_by_status, whose rows lie in the order of seq
//	those of a command                           jobs_by_command: finished ones alone, so that no submit pays for it
//	those of a schedule, and its open ones       jobs_by_schedule, jobs_open_by_schedule
//	the job of an idempotency key                jobs_by_idempotency_key, which also keeps a key from having two
//	those that failed for a reason               jobs_by_error
//	what retention removes                       jobs_by_completion

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

// Job states, as stored and shown. queue_worker.go draws how one leads to another.
const (
	statusPending   = "pending"
	statusRunning   = "running"
	statusCompleted = "completed"
	statusFailed    = "failed"
	statusCancelled = "cancelled"
)

// Job is a row of the jobs table. Once handed to the store or a watcher it is not changed any more: copy it.
type Job struct {
	// Seq is the order of arrival. The store gives it, and an ID where there is none.
	Seq int64
	ID  string

	// What was asked for. The payload is JSON. Timeout is that of one attempt; before NextAttemptAt there is none.
	Command     string
	Payload     []byte
	Priority    int32
	MaxRetries  int32
	Timeout     time.Duration
	Environment string
	Schedule    string

	// The key under which it was submitted, and beside a key the payload before its dates were resolved. Existing: of
	// what Submit returns, this is an earlier job of the same key.
	IdempotencyKey   string
	SubmittedPayload []byte
	Existing         bool

	// What became of it. The result is JSON, as the API sent it, and "" where it was not read. OpenStarts are the
	// attempts begun since the last one that ended. RetriedBy is the id of the job that a retry made of it.
	Status      string
	Result      string
	ResultBytes int64
	Error       string
	ErrorCode   string
	RetryCount  int32
	OpenStarts  int
	RetriedBy   string

	// Times are zero when unset.
	CreatedAt     time.Time
	UpdatedAt     time.Time
	StartedAt     time.Time
	CompletedAt   time.Time
	NextAttemptAt time.Time
}

// finished reports whether the job has ended. No state follows on these.
func (j *Job) finished() bool {
	return j.Status == statusCompleted || j.Status == statusFailed || j.Status == statusCancelled
}

// FinishedCounts are the jobs in the database by terminal state. To count them takes long, and is asked for often. So
// it is done once; from then on the counts follow the commits:
//
//	start        the database as it is now, seen by a connection of its own          before
//	             a count in the background -----------------------> done             counted
//	meanwhile    commit: + what it ended, - what retention deleted                   since
//	Finished     before + since
type FinishedCounts struct{ Completed, Failed, Cancelled int64 }

// add counts n more jobs in this state; one that is not terminal counts nowhere.
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

// CountFinished counts the finished jobs as they are now, in the background: a million takes 60 ms. The caller sees
// to it that nothing else writes meanwhile, so that what it sees and what commits add do not overlap. Until it is
// done, a checkpoint stops at what it sees.
func (s *Store) CountFinished() error {
	snapshot, err := s.read.Begin()
	if err != nil {
		return err
	}
	// With its first read a transaction fixes what it sees, whatever the writer does from here on.
	if _, err := snapshot.Exec("SELECT 1 FROM config"); err != nil {
		return errors.Join(err, snapshot.Rollback())
	}
	s.since = FinishedCounts{}
	s.counted = make(chan struct{})
	go func() {
		defer close(s.counted)
		const query = `SELECT (SELECT count(*) FROM jobs WHERE status = 'completed'),
			(SELECT count(*) FROM jobs WHERE status = 'failed'), (SELECT count(*) FROM jobs WHERE status = 'cancelled')`
		err := snapshot.QueryRow(query).Scan(&s.before.Completed, &s.before.Failed, &s.before.Cancelled)
		s.uncounted = s.failure(errors.Join(err, snapshot.Rollback()))
	}()
	return nil
}

// Finished counts the finished jobs: those from before the start, and what commits have added since. Right after the
// start it waits for the first count.
func (s *Store) Finished() (FinishedCounts, error) {
	if s.counted != nil {
		<-s.counted
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	total := s.before
	total.Completed += s.since.Completed
	total.Failed += s.since.Failed
	total.Cancelled += s.since.Cancelled
	return total, s.uncounted
}

// The prepared statements. Their parameters have no numbers: the driver asks for the name of each, and SQLite looks
// numbered ones up one by one.
const (
	sqlBegin    = "BEGIN IMMEDIATE"
	sqlCommit   = "COMMIT"
	sqlRollback = "ROLLBACK"

	sqlInsert = `INSERT INTO jobs (seq, id, command, payload, priority, created_at, updated_at, max_retries, timeout_ms,
		environment, next_attempt_at, schedule, idempotency_key, submitted_payload) VALUES ` + newRow
	newRow        = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	newRowValues  = 14
	bulkRows      = 16
	sqlInsertBulk = sqlInsert + threeMoreRows + threeMoreRows + threeMoreRows + threeMoreRows + threeMoreRows
	threeMoreRows = ", " + newRow + ", " + newRow + ", " + newRow

	// Both change a row only while the job is open, and say by the number of rows whether they did.
	sqlStart = `UPDATE jobs SET status = 'running', started_at = ?, updated_at = ?, open_starts = open_starts + 1
		WHERE seq = ? AND status = 'pending'`
	sqlFinish = `UPDATE jobs SET status = ?, result = ?, result_bytes = ?, error = ?, error_code = ?, retry_count = ?,
		updated_at = ?, started_at = ?, completed_at = ?, next_attempt_at = ?, open_starts = ?
		WHERE seq = ? AND status IN ('pending', 'running')`
)

// jobStatements are what prepare prepares.
func jobStatements() []string {
	return []string{
		sqlBegin,
		sqlCommit,
		sqlRollback,
		sqlInsert,
		sqlInsertBulk,
		sqlStart,
		sqlFinish,
	}
}

// Submit stores jobs, all or none, and returns them with Seq and ID. One whose idempotency key is known comes back as a
// copy with Existing set and the earlier job's id. The writer calls then with what is returned, before any later write.
func (s *Store) Submit(jobs []*Job, then func([]*Job)) ([]*Job, error) {
	if slices.ContainsFunc(jobs, (*Job).keyed) {
		return updated(s, func(t *tx) ([]*Job, error) { return t.insertKeyed(jobs) }, then)
	}
	return jobs, s.do(&write{insert: jobs}, func() { then(jobs) })
}

// keyed reports whether the job is to be stored only if no job has its idempotency key.
func (j *Job) keyed() bool {
	return j.IdempotencyKey != ""
}

// CountNew tells how many of jobs Submit would store: all but those whose idempotency key is known, or comes twice. By
// the time they are stored a key may have become known; then fewer are.
func (s *Store) CountNew(jobs []*Job) (int, error) {
	n := 0
	seen := map[string]bool{}
	for _, j := range jobs {
		if seen[j.IdempotencyKey] {
			continue
		}
		seen[j.IdempotencyKey] = j.keyed()
		// One without a key matches none.
		known, err := s.readNumber("SELECT count(*) FROM jobs WHERE idempotency_key = ?", nullText(j.IdempotencyKey))
		if err != nil {
			return 0, err
		}
		if known == 0 {
			n++
		}
	}
	return n, nil
}

// insert stores new jobs, bulkRows of them with one statement and the rest one by one. It gives them Seq and ID.
func (t *tx) insert(jobs []*Job) error {
	args := make([]any, 0, bulkRows*newRowValues)
	for len(jobs) > 0 {
		query := sqlInsert
		n := 1
		if len(jobs) >= bulkRows {
			query = sqlInsertBulk
			n = bulkRows
		}
		args = args[:0]
		for _, j := range jobs[:n] {
			t.s.number(j)
			args = appendNewRow(args, j)
		}
		if _, err := t.s.stmts.exec(query, args...); err != nil {
			return err
		}
		jobs = jobs[n:]
	}
	return nil
}

// appendNewRow adds the values of one newRow, in the order of sqlInsert's columns. The driver takes int64 and string,
// and nil for NULL.
func appendNewRow(args []any, j *Job) []any {
	created := timeText(j.CreatedAt)
	return append(args,
		j.Seq,
		j.ID,
		j.Command,
		string(j.Payload),
		int64(j.Priority),
		created,
		created,
		int64(j.MaxRetries),
		j.Timeout.Milliseconds(),
		j.Environment,
		nullTime(j.NextAttemptAt),
		nullText(j.Schedule),
		nullText(j.IdempotencyKey),
		nullText(string(j.SubmittedPayload)))
}

// insertKeyed inserts copies of jobs, but answers one whose key is known with the earlier job. The answer of a client
// may have been lost, and it asks again: it must get the job that it made. So the lookup and the insert are one
// transaction, and a key that comes twice in one call names one job.
func (t *tx) insertKeyed(jobs []*Job) ([]*Job, error) {
	var stored []*Job
	for _, given := range jobs {
		earlier, err := t.earlier(given)
		if err != nil {
			return nil, err
		}
		j := *given
		if earlier != "" {
			j.ID = earlier
			j.Existing = true
		} else if err := t.insert([]*Job{&j}); err != nil {
			return nil, err
		}
		stored = append(stored, &j)
	}
	return stored, nil
}

// earlier finds the job that was submitted under j's idempotency key, "" for none. It must be the same job.
func (t *tx) earlier(j *Job) (string, error) {
	const query = `SELECT id, command = ?2 AND submitted_payload = ?3 AND environment = ?4
		FROM jobs WHERE idempotency_key = ?1`
	var id string
	var same bool
	row := t.row(query, nullText(j.IdempotencyKey), j.Command, string(j.SubmittedPayload), j.Environment)
	err := row.Scan(&id, &same)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !same {
		const used = "the idempotency key %q was used for another job, %s"
		return "", errorf(codeAlreadyExists, used, j.IdempotencyKey, id).
			hint("use a new key for a new job")
	}
	return id, nil
}

// Retry makes a new job of the one with this seq, whose retried_by names it from then on. It is no run of its schedule:
// its dates were resolved long ago, and last-success would step over what came since. codeFailedPrecondition: the job
// is not failed or cancelled, or was retried already. The writer calls then with the new job before any later write.
func (s *Store) Retry(seq int64, then func(*Job)) (*Job, error) {
	return updated(s, func(t *tx) (*Job, error) { return t.retry(seq) }, then)
}

// retry inserts the new job first, since the old one's row is to name it. The new one has no schedule and no key: a key
// names one job, and that is the old one.
func (t *tx) retry(seq int64) (*Job, error) {
	old, err := scanJob(t.row("SELECT "+jobColumns+"'' FROM jobs WHERE seq = ?", seq))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errJobGone()
	}
	if err != nil {
		return nil, err
	}
	if old.Status != statusFailed && old.Status != statusCancelled {
		return nil, errorf(codeFailedPrecondition, "job %s is %s; only failed and cancelled jobs can be retried",
			old.ID, old.Status)
	}
	if old.RetriedBy != "" {
		return nil, t.retriedAlready(old)
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
}

// retriedAlready names the last of the chain that retries have made of j:
//
//	id          k3vq...  --->  a7fd...  --->  m2xx...
//	retried_by  a7fd...        m2xx...        NULL         the latest
func (t *tx) retriedAlready(j *Job) error {
	const chain = `WITH RECURSIVE later(id, n) AS (SELECT retried_by, 1 FROM jobs WHERE seq = ?
		UNION ALL SELECT j.retried_by, n + 1 FROM jobs j JOIN later ON j.id = later.id WHERE j.retried_by IS NOT NULL)
		SELECT id FROM later ORDER BY n DESC LIMIT 1`
	latest, err := scanColumn[string](t.row(chain, j.Seq))
	if err != nil {
		return err
	}
	return errorf(codeFailedPrecondition, "job %s was retried already; its latest retry is %s", j.ID, latest).
		hint("look at it with: honeydew job show %s", latest)
}

// errNotOpen: the job had ended before, so that nothing was changed. It is compared by identity.
var errNotOpen = errorf(codeFailedPrecondition, "the job has ended already")

// errJobGone: retention has removed the job after its id was looked up.
func errJobGone() *Error {
	return errorf(codeNotFound, "the job is gone")
}

// Start notes that an attempt of j began, and waits for the commit. errNotOpen: the job is not pending any more, and
// the attempt must not go on.
func (s *Store) Start(j *Job) error {
	return s.update(func(t *tx) error { return t.start(j) })
}

// Starting is Start without the waiting: done is called with the same after the commit. That may come a moment later,
// and not at all where the end of the attempt comes first.
func (s *Store) Starting(j *Job, done func(error)) {
	s.enqueue(&write{start: j, done: done})
}

// start notes the start of an attempt. It counts it as open: a daemon that dies leaves the count behind, and an end
// clears it, so that a job that keeps killing the daemon shows.
func (t *tx) start(j *Job) error {
	started := timeText(j.StartedAt)
	n, err := t.s.stmts.exec(sqlStart, started, started, j.Seq)
	if err != nil {
		return err
	}
	if n == 0 {
		return errNotOpen
	}
	return nil
}

// Finish stores the end of an attempt: j's state, times, result and error. done is called after the commit, with
// errNotOpen where the job had ended before.
func (s *Store) Finish(j *Job, done func(error)) {
	s.enqueue(&write{finish: j, done: done})
}

// finish stores the whole end, the time of the start included: where both came in one batch, the start was left out.
func (t *tx) finish(j *Job) error {
	n, err := t.s.stmts.exec(sqlFinish,
		j.Status,
		nullText(j.Result),
		int64(len(j.Result)),
		nullText(j.Error),
		nullText(j.ErrorCode),
		int64(j.RetryCount),
		timeText(j.UpdatedAt),
		nullTime(j.StartedAt),
		nullTime(j.CompletedAt),
		nullTime(j.NextAttemptAt),
		int64(j.OpenStarts),
		j.Seq)
	if err != nil {
		return err
	}
	if n == 0 {
		return errNotOpen
	}
	t.counts.add(j.Status, 1)
	if j.Status == statusCompleted && j.Schedule != "" {
		return t.noteSuccess(j)
	}
	return nil
}

// End ends an open job that no attempt ends, as failed with code and message, or as cancelled. A job that is cancelled
// keeps the error of its latest attempt. errNotOpen: it had ended before. The writer calls then, unless it is nil,
// before any later write.
func (s *Store) End(seq int64, status, code, message string, then func()) error {
	end := func(t *tx) error {
		err := t.mustChange(errNotOpen, `UPDATE jobs SET status = ?1, updated_at = ?2, completed_at = ?2,
			next_attempt_at = NULL, open_starts = 0, error = coalesce(?3 || ': ' || ?4, error),
			error_code = coalesce(?3, error_code) WHERE seq = ?5 AND status IN ('pending', 'running')`,
			status, timeText(timeNow()), nullText(code), message, seq)
		if err != nil {
			return err
		}
		t.counts.add(status, 1)
		return nil
	}
	return s.do(&write{fn: end}, then)
}

// Restart lets a job that was cut off wait again. It keeps its count of open starts, by which the queue sees how often
// that has happened.
func (s *Store) Restart(seq int64) error {
	const query = `UPDATE jobs SET status = 'pending', updated_at = ?
		WHERE seq = ? AND status IN ('pending', 'running')`
	return s.change(errNotOpen, query, timeText(timeNow()), seq)
}

// ReleaseHeld lets the jobs whose API asked to wait start at once. The code tells them: a pending job has RATE_LIMITED
// only while it is held. The writer calls then with their Seqs before any later write.
func (s *Store) ReleaseHeld(then func([]int64)) error {
	_, err := updated(s, func(t *tx) ([]int64, error) {
		const query = `UPDATE jobs SET next_attempt_at = NULL, error = NULL, error_code = NULL, updated_at = ?
			WHERE error_code = 'RATE_LIMITED' AND status = 'pending' RETURNING seq`
		return collect(t.s.conn, scanColumn[int64], query, timeText(timeNow()))
	}, then)
	return err
}

const jobColumns = `seq, id, command, payload, priority, status, result_bytes, coalesce(error, ''),
	coalesce(error_code, ''), retry_count, max_retries, created_at, updated_at, started_at, completed_at,
	next_attempt_at, open_starts, timeout_ms, environment, coalesce(schedule, ''), coalesce(retried_by, ''), `

// scanJob reads jobColumns and the result, or an empty text in its place. What is NULL in the table is empty in a Job.
func scanJob(row scanner) (*Job, error) {
	var j Job
	err := row.Scan(
		&j.Seq,
		&j.ID,
		&j.Command,
		&j.Payload,
		&j.Priority,
		&j.Status,
		&j.ResultBytes,
		&j.Error,
		&j.ErrorCode,
		&j.RetryCount,
		&j.MaxRetries,
		stamp{&j.CreatedAt},
		stamp{&j.UpdatedAt},
		stamp{&j.StartedAt},
		stamp{&j.CompletedAt},
		stamp{&j.NextAttemptAt},
		&j.OpenStarts,
		millis{&j.Timeout},
		&j.Environment,
		&j.Schedule,
		&j.RetriedBy,
		&j.Result)
	return &j, err
}

const sqlJobBySeq = "SELECT " + jobColumns +
	"CASE WHEN result_bytes <= ?2 THEN coalesce(result, '') ELSE '' END FROM jobs WHERE seq = ?1"

// JobBySeq reads one job, with its result where that has at most maxResult bytes. 0: never, for who does not want it.
func (s *Store) JobBySeq(seq, maxResult int64) (*Job, error) {
	return readOne(s, errJobGone(), scanJob, sqlJobBySeq, seq, maxResult)
}

// Job reads the job that prefix names, as JobSeq and JobBySeq do.
func (s *Store) Job(prefix string, maxResult int64) (*Job, error) {
	seq, err := s.JobSeq(prefix)
	if err != nil {
		return nil, err
	}
	return s.JobBySeq(seq, maxResult)
}

// sqlJobSeq finds up to two rows, which tells whether there are several. An id that is there exactly sorts first.
const sqlJobSeq = "SELECT id, seq FROM jobs WHERE id >= ?1 AND id < ?1 || char(1114111) ORDER BY id LIMIT 2"

// JobSeq finds the job that name means: an id, the beginning of one that no other id has, or "..k4", the end of one
// that no other of the newest 10,000 has, for jobs submitted together differ there.
func (s *Store) JobSeq(name string) (int64, error) {
	if name == "" {
		return 0, invalidf("the job id is missing").hint("list ids with: honeydew job list")
	}
	query := sqlJobSeq
	part := name
	where := "beginning"
	if end, ok := strings.CutPrefix(name, ".."); ok {
		query = `SELECT id, seq FROM (SELECT id, seq FROM jobs ORDER BY seq DESC LIMIT 10000)
			WHERE substr(id, -length(?1)) = ?1 LIMIT 2`
		part = end
		where = "end"
	}
	scan := func(row scanner) (j Job, err error) { return j, row.Scan(&j.ID, &j.Seq) }
	found, err := readAll(s, scan, query, part)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 || part == "" {
		return 0, errorf(codeNotFound, "no job %q", name).hint("list ids with: honeydew job list")
	}
	first := found[0]
	if len(found) > 1 && first.ID != name {
		return 0, invalidf("job id %q is the %s of several, such as %s", name, where, first.ID).
			hint("give more characters")
	}
	return first.Seq, nil
}

// ResultPart reads up to n bytes of a result, from the byte at from on. So a large one reaches the client in pieces,
// and none of them keeps a transaction open.
func (s *Store) ResultPart(seq, from, n int64) ([]byte, error) {
	// As bytes: of a text substr would count the characters before from.
	const query = "SELECT coalesce(substr(CAST(result AS BLOB), ?2 + 1, ?3), x'') FROM jobs WHERE seq = ?1"
	return readOne(s, errJobGone(), scanColumn[[]byte], query, seq, from, n)
}

// JobFilter selects jobs for Jobs; empty fields select all. A list goes on where the one before ended by Before, the
// last Seq of that: what comes in meanwhile moves nothing.
type JobFilter struct {
	Status    string
	Command   string
	Schedule  string
	ErrorCode string
	// Since leaves out what was created before.
	Since time.Time
	// Unretried leaves out jobs of which a retry has made others.
	Unretried bool
	// Before is a Seq: the list begins below it. 0: it begins with the newest.
	Before int64
	Limit  int
	// MaxBytes ends the list after the job whose payload passes it. 0: no limit.
	MaxBytes int
}

// conditions returns the filter as SQL. It names only the columns that are filtered by, so that each form finds its
// index.
func (f JobFilter) conditions() (where string, args []any) {
	where = "TRUE"
	and := func(filtered bool, condition string, values ...any) {
		if filtered {
			where += " AND " + condition
			args = append(args, values...)
		}
	}
	ended := (&Job{Status: f.Status}).finished()
	and(f.Status != "", "status = ?", f.Status)
	and(f.Command != "", "command = ?", f.Command)
	and(f.Command != "" && ended, "completed_at IS NOT NULL") // as jobs_by_command has it
	and(f.Schedule != "", "schedule = ?", f.Schedule)
	and(f.ErrorCode != "", "error_code = ?", f.ErrorCode)
	and(!f.Since.IsZero(), "created_at >= ?", timeText(f.Since))
	and(f.Unretried, "retried_by IS NULL")
	and(f.Before > 0, "seq < ?", f.Before)
	return where, args
}

// query returns the SQL of a filter: one statement, and with it one snapshot. An index has its rows in the order of the
// list only where all its columns are given. So a list of one command alone is put together from those of each state:
//
//	jobs_by_command   github.commits, completed    newest ... oldest  \
//	                  github.commits, failed       newest ... oldest   > of each Limit, of all together Limit
//	                  github.commits, cancelled    newest ... oldest  /
func (f JobFilter) query() (string, []any) {
	const list = "SELECT " + jobColumns + "'' FROM jobs WHERE "
	const newest = " ORDER BY seq DESC LIMIT ?"
	if f.Command == "" || f.Status != "" || f.Schedule != "" || f.ErrorCode != "" {
		where, args := f.conditions()
		return list + where + newest, append(args, f.Limit)
	}
	var lists []string
	var args []any
	states := []string{
		statusPending,
		statusRunning,
		statusCompleted,
		statusFailed,
		statusCancelled,
	}
	for _, f.Status = range states {
		where, values := f.conditions()
		lists = append(lists, "SELECT * FROM (SELECT seq FROM jobs WHERE "+where+newest+")")
		args = append(args, values...)
		args = append(args, f.Limit)
	}
	return list + "seq IN (" + strings.Join(lists, " UNION ALL ") + ")" + newest, append(args, f.Limit)
}

// Jobs lists jobs, newest first, without results. Payloads may be large and jobs many; MaxBytes bounds what is held of
// them at once.
func (s *Store) Jobs(f JobFilter) ([]*Job, error) {
	size := 0
	scan := func(row scanner) (*Job, error) {
		if f.MaxBytes > 0 && size > f.MaxBytes {
			return nil, io.EOF
		}
		j, err := scanJob(row)
		size += len(j.Payload)
		return j, err
	}
	query, args := f.query()
	return readAll(s, scan, query, args...)
}

// OldestPending is the creation time of the pending job that has waited longest of those that may run now, zero when
// there is none. It is sought among the 10,000 oldest: a million that wait for a time of their own would take half a
// second.
func (s *Store) OldestPending() (time.Time, error) {
	const query = `SELECT created_at FROM (SELECT * FROM jobs WHERE status = 'pending' ORDER BY seq LIMIT 10000)
		WHERE coalesce(next_attempt_at, '') <= ? ORDER BY seq LIMIT 1`
	return readOne(s, nil, scanTime, query, timeText(timeNow()))
}

// OpenJobs calls each for every job that has not ended, oldest first, with the few fields that a queue keeps in memory.
// The job is good until each returns.
func (s *Store) OpenJobs(each func(*Job)) error {
	conn, err := s.read.Conn(context.Background())
	if err != nil {
		return s.failure(err)
	}
	defer conn.Close()
	// Through the driver: database/sql's Scan would double the time that a long queue takes to load.
	err = conn.Raw(func(c any) error {
		const query = `SELECT seq, priority, next_attempt_at, command, environment, status, coalesce(error_code, ''),
			coalesce(schedule, '') FROM jobs WHERE status IN ('pending', 'running') ORDER BY status, seq`
		rows, err := c.(driver.QueryerContext).QueryContext(context.Background(), query, nil)
		if err != nil {
			return err
		}
		defer rows.Close()
		return eachOpenJob(rows, each)
	})
	return s.failure(err)
}

// eachOpenJob reads the rows of OpenJobs. Integers come as int64 and texts as string: the table is strict.
func eachOpenJob(rows driver.Rows, each func(*Job)) error {
	v := make([]driver.Value, len(rows.Columns()))
	var j Job // one for all: they may be millions
	for {
		err := rows.Next(v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		j = Job{
			Seq:         v[0].(int64),
			Priority:    int32(v[1].(int64)),
			Command:     v[3].(string),
			Environment: v[4].(string),
			Status:      v[5].(string),
			ErrorCode:   v[6].(string),
			Schedule:    v[7].(string),
		}
		if err := (stamp{&j.NextAttemptAt}).Scan(v[2]); err != nil {
			return err
		}
		each(&j)
	}
}

// pruneBatch keeps each of retention's transactions short. Between two of them the writer takes what else waits.
const pruneBatch = 500

// Prune deletes jobs that ended before cutoff, in small transactions, and gives their pages back to the file system.
// With dryRun it only counts them. It returns how many, also where ctx or an error ends it early: what is deleted by
// then is.
func (s *Store) Prune(ctx context.Context, cutoff time.Time, dryRun bool) (int64, error) {
	if dryRun {
		return s.readNumber("SELECT count(*) FROM jobs WHERE completed_at < ?", timeText(cutoff))
	}
	total := int64(0)
	for ctx.Err() == nil {
		ended, err := updated(s, func(t *tx) (int, error) { return t.prune(cutoff) }, nil)
		if err != nil {
			return total, err
		}
		total += int64(ended)
		if ended < pruneBatch {
			break
		}
	}
	if total > 0 {
		return total, s.shrink(ctx)
	}
	return total, ctx.Err()
}

// prune deletes up to pruneBatch jobs, those that ended first, and returns how many. RETURNING tells their states, so
// that nothing is read twice.
func (t *tx) prune(cutoff time.Time) (int, error) {
	const query = `DELETE FROM jobs WHERE seq IN
		(SELECT seq FROM jobs WHERE completed_at < ? ORDER BY completed_at LIMIT ?) RETURNING status`
	ended, err := collect(t.s.conn, scanColumn[string], query, timeText(cutoff), pruneBatch)
	for _, status := range ended {
		t.counts.add(status, -1)
	}
	return len(ended), err
}

// shrink gives free pages back to the file system, a thousand at a time, so that nobody waits long for the writer. It
// ends when none is left, or ctx ends it; the rest goes at the next time.
func (s *Store) shrink(ctx context.Context) error {
	for ctx.Err() == nil {
		free, err := s.readNumber("PRAGMA freelist_count")
		if err != nil {
			return err
		}
		if free == 0 {
			// What was moved went through the log, which keeps its size until somebody cuts it.
			_, err := s.read.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
			return s.failure(err)
		}
		err = s.update(func(t *tx) error {
			// It works as its rows are read. They are empty.
			scan := func(scanner) (struct{}, error) { return struct{}{}, nil }
			_, err := collect(t.s.conn, scan, "PRAGMA incremental_vacuum(1000)")
			return err
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
