package main

// The truth about jobs: one SQLite file, one goroutine that writes it, a small pool of connections that read it.
//
// Whoever wants to write hands a *write to the writer and is told once it is on disk. The writer takes all that
// waits, runs it in one immediate transaction with one fsync, and answers all: while that fsync runs the next batch
// gathers by itself. A batch that fails is rolled back as a whole and its members are tried one by one, so that nobody
// pays for a neighbour's fault.
//
// Reads run on connections of their own, without a cancellable context (the driver starts a goroutine for one) and
// never keep a transaction open across a send, which would keep the WAL from being reset.
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
	"iter"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
)

// write is one member of a batch: exactly one of the first four is set.
type write struct {
	insert []*Job
	start  *Job // note its StartedAt and that an attempt is open, if the job is still pending
	finish *Job // store the end of an attempt, if the job is still open
	fn     func(*tx) error
	// done is called by the writer after the commit and before any later write, so that memory follows the disk in the
	// same order. It must not block, and gets errNotOpen when start or finish found the job ended already. Nil: nobody
	// waits.
	done func(error)
	err  error
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

	// rehearse makes the writer run every fn twice, the first time in vain, as a batch that failed does. For tests.
	rehearse bool

	nextSeq  int64 // this and the next three belong to the writer
	idPrefix string
	idCount  int
	idTime   time.Time

	problem atomic.Pointer[string]
	fatal   chan error    // the database is damaged or lost: the daemon must stop
	files   []fs.FileInfo // what the connections have open: the database and its side files
	lost    atomic.Bool   // they are under their names no more

	counted   chan struct{}  // closed when the next two are there
	before    FinishedCounts // finished jobs at the start
	uncounted error          // why they could not be counted

	mu     sync.Mutex
	since  FinishedCounts // what commits have added; negative where they removed
	envs   []Environment  // what Environments answers, nil: to be read
	envGen int            // raised by every change to them
}

// openStore opens the database at path, which has no links in it, creating or upgrading it. sync is full or normal.
func openStore(path, sync, productionURL string) (*Store, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createDatabase(path, productionURL); err != nil {
			return nil, fmt.Errorf("create database %s: %w", path, err)
		}
	} else if err == nil {
		err = inspectDatabase(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	// A second belt against losing SQLite's locks (cznic/sqlite#255); where it is not supported, nothing here opens
	// the file behind SQLite's back.
	_, _ = sqlite.OFDLocking(true) // its error only says that this system has none
	s := &Store{
		path:    path,
		ops:     make(chan *write, 1024),
		closed:  make(chan struct{}),
		gone:    make(chan struct{}),
		counted: make(chan struct{}),
		fatal:   make(chan error, 1),
	}
	if err := s.open(sync); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", path, err), s.closeConnections())
	}
	go s.writer()
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
	if err := s.countFinished(); err != nil {
		return err
	}
	for _, suffix := range sideFiles() {
		info, err := os.Lstat(s.path + suffix)
		if err != nil {
			return err
		}
		s.files = append(s.files, info)
	}
	return nil
}

// sideFiles are the endings of what makes up an open database.
func sideFiles() []string { return []string{"", "-wal", "-shm"} }

// Intact says what is wrong where the files that are open are not those under their names any more. What is written to them
// then is lost, so nothing is acked and the daemon must stop.
func (s *Store) Intact() error {
	for i, suffix := range sideFiles() {
		if err := unmoved(s.path+suffix, s.files[i]); err != nil {
			err = errorf(codeStorageFailed, "the database is lost: %w", err).hint("put it back, or restore a backup; then: honeydew start")
			if !s.lost.Swap(true) {
				s.fatal <- err
			}
			return err
		}
	}
	return nil
}

// Close stops the writer after what is queued, checkpoints and closes.
func (s *Store) Close() error {
	close(s.closed)
	<-s.gone
	<-s.counted
	if s.lost.Load() { // closing would remove side files of these names, which may be another daemon's by now
		return nil
	}
	return s.closeConnections()
}

func (s *Store) closeConnections() (err error) {
	if s.read != nil {
		err = s.read.Close()
	}
	s.stmts.close()
	if s.conn != nil {
		err = errors.Join(err, s.conn.Close(), s.sqlite.Close())
	}
	return err
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

// enqueue hands w to the writer and does not wait for it.
func (s *Store) enqueue(w *write) {
	select {
	case s.ops <- w:
	case <-s.closed:
		w.answer(errStoreClosed)
	}
}

func (w *write) answer(err error) {
	if w.done != nil {
		w.done(err)
	}
}

// do hands w to the writer and waits until it is on disk. The writer calls then, if there is one, right after the commit.
func (s *Store) do(w *write, then func()) error {
	ack := make(chan error, 1)
	w.done = func(err error) {
		if err == nil && then != nil {
			then()
		}
		ack <- err
	}
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

// update runs fn inside the writer's transaction. An *Error from fn undoes what fn did and nothing else. A batch that
// fails is run again, so fn changes nothing but the database: what it finds out, it returns through updated.
func (s *Store) update(fn func(*tx) error) error { return s.do(&write{fn: fn}, nil) }

// updated is update for an fn that finds something out. The writer calls then, if it is not nil, with what the committed
// run of fn returned, before any later write; then must not block.
func updated[T any](s *Store, fn func(*tx) (T, error), then func(T)) (T, error) {
	var found, none T
	run := func(t *tx) (err error) {
		found, err = fn(t)
		return err
	}
	err := s.do(&write{fn: run}, func() {
		if then != nil {
			then(found)
		}
	})
	if err != nil {
		return none, err
	}
	return found, nil
}

const maxBatch = 512

// writer is the goroutine that owns the writing connection.
func (s *Store) writer() {
	defer close(s.gone)
	batch := make([]*write, 0, maxBatch)
	for open := true; open; {
		select {
		case w := <-s.ops:
			batch = s.gather(append(batch[:0], w))
			s.run(batch)
			clear(batch)
		case <-s.closed:
			open = false
		}
	}
	for { // what was queued before the close is still owed
		if batch = s.gather(batch[:0]); len(batch) == 0 {
			return
		}
		s.run(batch)
	}
}

// gather adds what waits to batch.
func (s *Store) gather(batch []*write) []*write {
	for len(batch) < maxBatch {
		select {
		case w := <-s.ops:
			batch = append(batch, w)
		default:
			return batch
		}
	}
	return batch
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
	if err == nil {
		err = s.Intact()
	}
	if err != nil {
		text := s.failure(err).Error()
		s.problem.Store(&text)
	} else if s.problem.Load() != nil {
		s.problem.Store(nil)
	}
	for _, w := range batch {
		if err != nil {
			w.err = err
		}
		w.answer(w.err)
	}
}

// failure turns what the database said into an error for clients. Damage, met by a write or a read, ends the daemon.
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
	t := &tx{s: s, counts: s.since}
	if _, err := s.stmts.begin.exec(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// SQLite rolls back by itself after a full disk or an I/O error; then this says so, and that is fine.
			_, _ = s.stmts.rollback.exec()
		}
	}()
	var jobs []*Job
	finished := map[int64]bool{}
	for _, w := range batch {
		jobs = append(jobs, w.insert...)
		if w.finish != nil {
			finished[w.finish.Seq] = true
		}
	}
	if err := t.insert(jobs); err != nil {
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
			w.err, err = t.start(w.start)
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.stmts.commit.exec(); err != nil {
		return err
	}
	s.mu.Lock()
	s.since = t.counts
	s.mu.Unlock()
	return nil
}

// tx is the writer's open transaction.
type tx struct {
	s      *Store
	counts FinishedCounts
}

// isolated runs fn in a savepoint. refused is an *Error of fn, undone; err is a failure of the database, after which
// nothing of the batch can be trusted.
func (t *tx) isolated(fn func(*tx) error) (refused, err error) {
	counts := t.counts
	if err := t.exec("SAVEPOINT member"); err != nil {
		return nil, err
	}
	if t.s.rehearse {
		_ = fn(t) // what it returns is told by the run that counts
		t.counts = counts
		if err := t.exec("ROLLBACK TO member"); err != nil {
			return nil, err
		}
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
	_, err := t.changed(query, args...)
	return err
}

// changed runs query and returns how many rows it changed.
func (t *tx) changed(query string, args ...any) (int64, error) {
	r, err := t.s.conn.ExecContext(context.Background(), query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (t *tx) row(query string, args ...any) *sql.Row {
	return t.s.conn.QueryRowContext(context.Background(), query, args...)
}

// rows runs a query that may also change something, and reads the one text of each row.
func (t *tx) rows(query string, args ...any) (texts []string, err error) {
	for text, err := range rowsOf(t.s.conn, scanText, query, args...) {
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func scanText(row scanner) (text string, err error) { return text, row.Scan(&text) }

type scanner interface{ Scan(...any) error }

// rowsOf runs a query and yields what scan makes of each row, or one error.
func rowsOf[T any](db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, scan func(scanner) (T, error), query string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := db.QueryContext(context.Background(), query, args...)
		if err != nil {
			yield(none, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			if v, err := scan(rows); !yield(v, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, err)
		}
	}
}

// all reads every row of a query.
func all[T any](s *Store, scan func(scanner) (T, error), query string, args ...any) (list []T, err error) {
	for v, err := range rowsOf(s.read, scan, query, args...) {
		if err != nil {
			return nil, s.failure(err)
		}
		list = append(list, v)
	}
	return list, nil
}

// one reads the first row of a query; missing is the error where there is none.
func one[T any](s *Store, missing *Error, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(s.read.QueryRow(query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, missing
	}
	return v, s.failure(err)
}

// count reads one number.
func (s *Store) count(query string, args ...any) (n int64, err error) {
	return n, s.failure(s.read.QueryRow(query, args...).Scan(&n))
}

// timeNow is the wall clock, in the millisecond steps in which times are stored, without the monotonic part that
// stands still during a suspend.
func timeNow() time.Time { return time.Now().Truncate(time.Millisecond) }

const idAlphabet = "234567abcdefghijklmnopqrstuvwxyz" // base32 in its sorting order

// newID returns 16 random characters, 80 bits.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

// number gives a new job its place and name. Ids are random, so that a few characters name one; in a burst
// neighbours share their beginning, so that the inserts stay on one page of the index.
func (s *Store) number(j *Job) {
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

// nullText and nullTime are what stands in a column that is NULL where nothing is set.
func nullText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullTime(t time.Time) any { return nullText(timeText(t)) }

// stamp reads a column that holds a time; NULL is the zero time.
type stamp struct{ to *time.Time }

func (s stamp) Scan(v any) (err error) {
	text, _ := v.(string)
	*s.to, err = parseTimeText(text)
	return err
}

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
