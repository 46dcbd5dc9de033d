package main

// The truth about jobs: one SQLite file, one goroutine that writes it, a small pool of connections that read it.
//
// Whoever wants to write hands a *write to the writer and is told once it is on disk. The writer takes all that
// waits, runs it in one immediate transaction with one fsync, and answers all: while that fsync runs the next batch
// gathers by itself, so there is no timer. A batch that fails is rolled back as a whole and its members are tried one
// by one, so that nobody pays for a neighbour's fault.
//
// Store.mu guards the counts of finished jobs and the remembered environments; it is not held across SQL.

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
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

// write is one member of a batch: exactly one of the first four is set.
type write struct {
	insert []*Job
	start  *Job // note its StartedAt and that an attempt is open
	finish *Job // store the end of an attempt, if the job is still open
	fn     func(*tx) error
	// done is called by the writer after the commit, must not block, and gets errNotOpen when finish found the job
	// ended already.
	done func(error)
	err  error
}

// errNotOpen: the job had ended before, so that nothing was changed.
var errNotOpen = errors.New("the job has ended already")

// noLongerOpen tells clients the same.
func noLongerOpen() *Error {
	return errorf(codeFailedPrecondition, "the job has ended already").hint("look at it with: honeydew job show ID")
}

var errStoreClosed = &Error{Code: codeShuttingDown, Message: "the daemon is shutting down"}

// Store is the database. Its methods may be called from any goroutine; those that write return once it is on disk.
type Store struct {
	path   string
	sqlite *sql.DB // the writer's one connection
	conn   *sql.Conn
	read   *sql.DB
	stmts  statements
	ops    chan *write
	closed chan struct{} // no more writes are taken
	gone   chan struct{} // the writer has ended: what it has not answered, it never will
	wg     sync.WaitGroup

	nextSeq  int64 // this and the next three belong to the writer
	idPrefix string
	idCount  int
	idTime   time.Time

	problem atomic.Pointer[string]
	fatal   chan error // the database is damaged: the daemon must stop

	mu     sync.Mutex
	counts FinishedCounts
	envs   []Environment // what Environments answers, nil: to be read
	envGen int           // raised by every change to them
}

// openStore opens the database at path, creating or upgrading it. sync is full or normal.
func openStore(path, sync, productionURL string) (*Store, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createDatabase(path, productionURL); err != nil {
			return nil, fmt.Errorf("create database %s: %w", path, err)
		}
	} else if err == nil {
		err = inspectDatabase(path)
		if err != nil {
			return nil, fmt.Errorf("database %s: %w", path, err)
		}
	} else {
		return nil, fmt.Errorf("database: %w", err)
	}
	// A second belt against losing SQLite's locks (cznic/sqlite#255); where it is not supported, nothing here opens
	// the file behind SQLite's back.
	_, _ = sqlite.OFDLocking(true) // its error only says that this system has none
	s := &Store{path: path, ops: make(chan *write, 1024), closed: make(chan struct{}), gone: make(chan struct{}), fatal: make(chan error, 1)}
	if err := s.open(sync); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", path, err), s.closeConnections())
	}
	s.wg.Go(s.writer)
	return s, nil
}

func (s *Store) open(sync string) (err error) {
	ctx := context.Background()
	if s.sqlite, err = sql.Open("sqlite", dsn(s.path, "_journal_mode", "WAL", "_synchronous", strings.ToUpper(sync), "_txlock", "immediate")); err != nil {
		return err
	}
	s.sqlite.SetMaxOpenConns(1)
	if s.conn, err = s.sqlite.Conn(ctx); err != nil {
		return err
	}
	if err := upgrade(ctx, s.conn); err != nil {
		return err
	}
	if _, err := s.conn.ExecContext(ctx, "PRAGMA journal_size_limit = 16777216"); err != nil {
		return err
	}
	if s.stmts, err = prepare(s.conn); err != nil {
		return err
	}
	if err := s.conn.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM jobs").Scan(&s.nextSeq); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", dsn(s.path, "_query_only", "1")); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(4)
	return s.loadCounts(ctx)
}

// loadCounts reads the counts that every commit keeps beside its jobs, so that start-up need not count rows.
func (s *Store) loadCounts(ctx context.Context) error {
	text, err := s.ConfigValue(ctx, countsKey)
	if err != nil || text == "" {
		return err
	}
	_, err = fmt.Sscan(text, &s.counts.Completed, &s.counts.Failed, &s.counts.Cancelled)
	return err
}

const countsKey = "finished_counts"

// Close stops the writer after what is queued, checkpoints and closes.
func (s *Store) Close() error {
	close(s.closed)
	s.wg.Wait()
	return s.closeConnections()
}

func (s *Store) closeConnections() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	s.stmts.close()
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.sqlite != nil {
		errs = append(errs, s.sqlite.Close())
	}
	return errors.Join(errs...)
}

// Problem says why writes fail at the moment, "" when they do not.
func (s *Store) Problem() string {
	if p := s.problem.Load(); p != nil {
		return *p
	}
	return ""
}

// Fatal delivers the error after which nothing can be written any more.
func (s *Store) Fatal() <-chan error { return s.fatal }

// Finished counts the finished jobs.
func (s *Store) Finished() FinishedCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// enqueue hands w to the writer and does not wait for it.
func (s *Store) enqueue(w *write) {
	select {
	case s.ops <- w:
	case <-s.closed:
		w.done(errStoreClosed)
	}
}

// do hands w to the writer and waits until it is on disk.
func (s *Store) do(w *write) error {
	ack := make(chan error, 1)
	w.done = func(err error) { ack <- err }
	s.enqueue(w)
	select {
	case err := <-ack:
		return s.failure(err)
	case <-s.gone:
	}
	select {
	case err := <-ack:
		return s.failure(err)
	default:
		return errStoreClosed
	}
}

// update runs fn inside the writer's transaction. An *Error from fn undoes what fn did and nothing else.
func (s *Store) update(fn func(*tx) error) error { return s.do(&write{fn: fn}) }

// Submit stores jobs, all or none, giving each its Seq and, where empty, its ID.
func (s *Store) Submit(jobs []*Job) error {
	for _, j := range jobs {
		if j.IdempotencyKey != "" {
			return s.update(func(t *tx) error { return t.submitKeyed(jobs) })
		}
	}
	return s.do(&write{insert: jobs})
}

// Start notes that an attempt of j began, without waiting for the disk; done may be nil.
func (s *Store) Start(j *Job, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	s.enqueue(&write{start: j, done: done})
}

// Finish stores the end of an attempt: j's state, times, result and error. done is called after the commit.
func (s *Store) Finish(j *Job, done func(error)) { s.enqueue(&write{finish: j, done: done}) }

const maxBatch = 512

// writer is the goroutine that owns the writing connection.
func (s *Store) writer() {
	defer close(s.gone)
	batch := make([]*write, 0, maxBatch)
	for {
		select {
		case w := <-s.ops:
			batch = append(batch[:0], w)
		case <-s.closed:
			// What was queued before the close is still owed.
			for {
				select {
				case w := <-s.ops:
					s.run([]*write{w})
					continue
				default:
				}
				return
			}
		}
	gather:
		for len(batch) < maxBatch {
			select {
			case w := <-s.ops:
				batch = append(batch, w)
			default:
				break gather
			}
		}
		s.run(batch)
		clear(batch)
	}
}

// run commits batch and answers its members.
func (s *Store) run(batch []*write) {
	err := s.commit(batch)
	// Trying again one by one is for a member's own fault; a lock would make each wait anew.
	if err != nil && len(batch) > 1 && primaryCode(err) != sqliteBusy {
		for i := range batch {
			s.run(batch[i : i+1])
		}
		return
	}
	s.note(err)
	for _, w := range batch {
		if err != nil {
			w.err = err
		}
		w.done(w.err)
	}
}

// note keeps the state of the disk for `status`.
func (s *Store) note(err error) {
	if err == nil {
		if s.problem.Load() != nil {
			s.problem.Store(nil)
		}
		return
	}
	text := s.failure(err).Error()
	s.problem.Store(&text)
}

// failure is storageError for what the database itself said: damage, met by a write or a read, ends the daemon.
func (s *Store) failure(err error) error {
	if code := primaryCode(err); code == sqliteCorrupt || code == sqliteNotADB {
		select {
		case s.fatal <- err:
		default:
		}
	}
	return storageError(err)
}

// commit writes batch in one transaction: new jobs first, many rows a statement, then the rest in order, then the
// starts whose end is not in this batch already.
func (s *Store) commit(batch []*write) (err error) {
	t := &tx{s: s, ctx: context.Background(), conn: s.conn, counts: s.counts}
	if _, err := s.stmts.begin.exec(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// SQLite rolls back by itself after a full disk or an I/O error; then this says so, and that is fine.
			_, _ = s.stmts.rollback.exec()
		}
	}()
	var plain []*Job
	finished := map[int64]bool{}
	for _, w := range batch {
		for _, j := range w.insert {
			t.number(j)
			if j.NextAttemptAt.IsZero() && j.Schedule == "" {
				plain = append(plain, j)
			} else if err := t.insert(j); err != nil {
				return err
			}
		}
		if w.finish != nil {
			finished[w.finish.Seq] = true
		}
	}
	if err := s.stmts.insertMany(plain); err != nil {
		return err
	}
	for _, w := range batch {
		w.err = nil
		switch {
		case w.finish != nil:
			w.err, err = t.finish(w.finish)
		case w.fn != nil:
			w.err, err = t.isolated(w.fn)
		case w.start != nil && !finished[w.start.Seq]:
			_, err = s.stmts.start.exec(w.start.Seq, timeText(w.start.StartedAt))
		}
		if err != nil {
			return err
		}
	}
	if err := t.saveCounts(); err != nil {
		return err
	}
	if _, err := s.stmts.commit.exec(); err != nil {
		return err
	}
	s.mu.Lock()
	s.counts = t.counts
	s.mu.Unlock()
	return nil
}

// tx is the writer's open transaction.
type tx struct {
	s      *Store
	ctx    context.Context
	conn   *sql.Conn
	counts FinishedCounts
}

// isolated runs fn in a savepoint. refused is an *Error of fn, undone; err is a failure of the database, after which
// nothing of the batch can be trusted.
func (t *tx) isolated(fn func(*tx) error) (refused, err error) {
	counts := t.counts
	if err := t.exec("SAVEPOINT member"); err != nil {
		return nil, err
	}
	if err := fn(t); err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return nil, err
		}
		t.counts = counts
		return e, t.exec("ROLLBACK TO member; RELEASE member")
	}
	return nil, t.exec("RELEASE member")
}

func (t *tx) exec(query string, args ...any) error {
	_, err := t.conn.ExecContext(t.ctx, query, args...)
	return err
}

// changed runs query and returns how many rows it changed.
func (t *tx) changed(query string, args ...any) (int64, error) {
	r, err := t.conn.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (t *tx) row(query string, args ...any) *sql.Row {
	return t.conn.QueryRowContext(t.ctx, query, args...)
}

// number gives a new job its place and name. Ids are random, so that a few characters name one; in a burst
// neighbours share their beginning, so that the inserts stay on one page of the index.
func (t *tx) number(j *Job) {
	s := t.s
	s.nextSeq++
	j.Seq = s.nextSeq
	if j.ID != "" {
		return
	}
	now := timeNow()
	if s.idCount == 0 || s.idCount >= 32*32 || now.Sub(s.idTime) > 10*time.Millisecond {
		s.idPrefix, s.idCount = newID()[:14], 0
	}
	s.idTime = now
	j.ID = s.idPrefix + string(idAlphabet[s.idCount/32]) + string(idAlphabet[s.idCount%32])
	s.idCount++
}

const idAlphabet = "234567abcdefghijklmnopqrstuvwxyz" // base32 in its sorting order

// newID returns 16 random characters, 80 bits.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

// timeNow is the wall clock, in the millisecond steps in which times are stored, without the monotonic part that
// stands still during a suspend.
func timeNow() time.Time { return time.Now().Truncate(time.Millisecond) }

// submitKeyed inserts jobs, but answers one whose key is known with the earlier job.
func (t *tx) submitKeyed(jobs []*Job) error {
	for _, j := range jobs {
		if j.IdempotencyKey != "" {
			var id, command, payload, environment string
			err := t.row("SELECT id, command, submitted_payload, environment FROM jobs WHERE idempotency_key = ?", j.IdempotencyKey).
				Scan(&id, &command, &payload, &environment)
			if err == nil {
				if command != j.Command || payload != string(j.SubmittedPayload) || environment != j.Environment {
					return errorf(codeAlreadyExists, "idempotency_key %q was used for another job, %s", j.IdempotencyKey, id).
						hint("use a new key for a new job")
				}
				j.ID, j.Existing = id, true
				continue
			} else if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		t.number(j)
		if err := t.insert(j); err != nil {
			return err
		}
	}
	return nil
}

// insert stores any job; insertMany is the quick way for plain ones.
func (t *tx) insert(j *Job) error {
	_, err := t.s.stmts.insertFull.exec(j.Seq, j.ID, j.Command, string(j.Payload), int64(j.Priority), timeText(j.CreatedAt),
		int64(j.MaxRetries), j.Timeout.Milliseconds(), j.Environment, nullTime(j.NextAttemptAt), nullText(j.Schedule),
		nullText(j.IdempotencyKey), nullText(string(j.SubmittedPayload)))
	return err
}

// finish stores the end of an attempt if the job is still open; notOpen is errNotOpen where it is not.
func (t *tx) finish(j *Job) (notOpen, err error) {
	n, err := t.s.stmts.finish.exec(j.Seq, j.Status, nullText(j.Result), int64(len(j.Result)), nullText(j.Error), nullText(j.ErrorCode),
		int64(j.RetryCount), timeText(j.UpdatedAt), nullTime(j.StartedAt), nullTime(j.CompletedAt), nullTime(j.NextAttemptAt),
		int64(j.OpenStarts))
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

func (t *tx) saveCounts() error {
	if c := t.counts; c != t.s.counts {
		_, err := t.s.stmts.counts.exec(fmt.Sprint(c.Completed, c.Failed, c.Cancelled))
		return err
	}
	return nil
}

func nullText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullTime(t time.Time) any { return nullText(timeText(t)) }

// stmt is a prepared statement of the driver itself: going through database/sql costs a fifth of the writer's rate.
type stmt struct {
	driver.StmtExecContext
	args []driver.NamedValue
}

// exec runs the statement with args: int64, string, []byte or nil.
func (s *stmt) exec(args ...any) (int64, error) {
	s.args = s.args[:0]
	for i, a := range args {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	r, err := s.ExecContext(context.Background(), s.args)
	clear(s.args) // a result must not stay alive here
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}
