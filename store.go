package main

// The truth about jobs: one SQLite file. One goroutine writes it (store_writer.go), a small pool of connections reads
// it. What is asked of it lies in store_jobs.go, store_schedules.go and store_envs.go.
//
// Reads run without a cancellable context, since the driver starts a goroutine for one. They never keep a transaction
// open across a send, which would keep the WAL from being reset.
//
// Store.mu guards what stands below it. It is not held across SQL.

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
)

var errStoreClosed = &Error{Code: codeShuttingDown, Message: "the daemon is shutting down"}

// Store is the database. Its methods may be called from any goroutine; those that write return once it is on disk.
type Store struct {
	path string
	read *sql.DB
	// readPrepared are its statements that are run for every job. To prepare one takes longer than to run it.
	readPrepared map[string]*sql.Stmt
	// undo closes what is open.
	undo []func() error

	// ops is how writes reach the writer. After closed it takes no more. After gone it has ended: what it has not
	// answered by then, it never will.
	ops    chan *write
	closed chan struct{}
	gone   chan struct{}

	// rehearse makes the writer run every fn twice, the first time in vain, as a batch that failed does. For tests.
	rehearse bool

	// These belong to the writer.
	conn     *sql.Conn
	stmts    statements
	nextSeq  int64
	idPrefix string
	idCount  int
	idTime   time.Time

	// problem is a string: why writes fail at the moment.
	problem atomic.Value
	// fatal gets the error after which the daemon must stop: the database is damaged or lost.
	fatal chan error
	// files are what the connections have open, in the order of sideFiles. lost: they are under their names no more.
	files []fs.FileInfo
	lost  atomic.Bool

	// epoch is the one that is still to be moved into the main file, "" for none.
	epoch string

	// counted is closed when before is there, the finished jobs at the start, or uncounted, why it is not. Nil: nobody
	// counts.
	counted   chan struct{}
	before    FinishedCounts
	uncounted error

	mu sync.Mutex
	// since is what commits have added to before; negative where they removed jobs.
	since FinishedCounts
	// envs is what Environments answers, nil: to be read. envGen is raised by every change to them.
	envs   []Environment
	envGen int
}

// openStore opens the database at path, which has no links in it, creating or upgrading it. sync is full or normal.
// What it finds wrong it leaves as it was:
//
//	no file         createDatabase builds one
//	any other file  inspectDatabase reads the header, before SQLite may touch it
//	ours            open: the writer's connection, upgrades, the readers' connections
func openStore(path, sync, productionURL string) (*Store, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createDatabase(path, productionURL); err != nil {
			return nil, fmt.Errorf("create database %s: %w", path, err)
		}
	}
	if err := inspectDatabase(path); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	// A second belt against losing SQLite's locks (cznic/sqlite#255); where it is not supported, nothing here opens
	// the file behind SQLite's back.
	_, _ = sqlite.OFDLocking(true) // its error only says that this system has none
	s := &Store{
		path:   path,
		ops:    make(chan *write, 1024),
		closed: make(chan struct{}),
		gone:   make(chan struct{}),
		fatal:  make(chan error, 1),
	}
	if err := s.open(sync); err != nil {
		err = fmt.Errorf("database %s: %w", path, err)
		return nil, errors.Join(err, s.closeConnections())
	}
	go s.writer()
	return s, nil
}

// open opens the connections. The writer has not begun yet, so that nothing changes meanwhile.
func (s *Store) open(sync string) error {
	ctx := context.Background()
	db, err := sql.Open("sqlite", dsn(s.path,
		"_journal_mode", "WAL",
		"_synchronous", strings.ToUpper(sync),
		"_pragma", "journal_size_limit(16777216)"))
	if err != nil {
		return err
	}
	s.onClose(db.Close)
	db.SetMaxOpenConns(1)
	s.conn, err = db.Conn(ctx)
	if err != nil {
		return err
	}
	s.onClose(s.conn.Close)
	if err := upgrade(ctx, s.conn); err != nil {
		return err
	}
	s.stmts, err = prepare(s.conn)
	s.onClose(s.stmts.close)
	if err != nil {
		return err
	}
	s.read, err = sql.Open("sqlite", dsn(s.path, "_query_only", "1"))
	if err != nil {
		return err
	}
	s.onClose(s.read.Close)
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(4)
	if err := s.prepareReads(); err != nil {
		return err
	}
	s.nextSeq, err = s.readNumber("SELECT coalesce(max(seq), 0) FROM jobs")
	if err != nil {
		return err
	}
	return s.noteFiles()
}

// prepareReads prepares the statements that readAll and readOne run for every job.
func (s *Store) prepareReads() error {
	s.readPrepared = map[string]*sql.Stmt{}
	for _, query := range []string{sqlJobBySeq, sqlJobSeq} {
		stmt, err := s.read.Prepare(query)
		if err != nil {
			return err
		}
		s.readPrepared[query] = stmt
	}
	return nil
}

// onClose leaves behind what undoes a step of open.
func (s *Store) onClose(undo func() error) {
	s.undo = append(s.undo, undo)
}

// noteFiles notes which files are open, for Intact.
func (s *Store) noteFiles() error {
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
func sideFiles() []string {
	return []string{"", "-wal", "-shm"}
}

// Intact says what is wrong where the files that are open are not those under their names any more. What is written to
// them then is lost, so nothing is acked and the daemon must stop.
func (s *Store) Intact() error {
	for i, suffix := range sideFiles() {
		if err := unmoved(s.path+suffix, s.files[i]); err != nil {
			s.lost.Store(true)
			lost := errorf(codeStorageFailed, "the database is lost: %w", err).
				hint("put it back, or restore a backup; then: honeydew start")
			s.endDaemon(lost)
			return lost
		}
	}
	return nil
}

// endDaemon delivers err, after which nothing can be written any more. One such error is enough.
func (s *Store) endDaemon(err error) {
	select {
	case s.fatal <- err:
	default:
	}
}

// Fatal delivers the error after which nothing can be written any more.
func (s *Store) Fatal() <-chan error {
	return s.fatal
}

// failure turns what the database said into an error for clients; nil stays nil. Damage and a lost index, met by a
// write or a read, end the daemon.
func (s *Store) failure(err error) error {
	code := primaryCode(err)
	if code == sqliteCorrupt || code == sqliteNotADB || indexLost(err) {
		s.endDaemon(err)
	}
	return storageError(err)
}

// Problem says why writes fail at the moment, "" when they do not.
func (s *Store) Problem() string {
	text, _ := s.problem.Load().(string)
	return text
}

// setProblem notes what became of a batch; err is nil where it was committed.
func (s *Store) setProblem(err error) {
	text := ""
	if err != nil {
		text = s.failure(err).Error()
	}
	s.problem.Store(text)
}

// Close stops the writer after what is queued, checkpoints and closes. Nobody may read or write any more: what comes
// later gets errStoreClosed or an error of the driver.
func (s *Store) Close() error {
	close(s.closed)
	<-s.gone
	if s.counted != nil {
		<-s.counted
	}
	// Closing would remove side files of these names, which may be another daemon's by now. But what is in the log
	// reaches the main file, wherever that was moved to.
	if s.lost.Load() {
		_, err := s.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)")
		return err
	}
	return s.closeConnections()
}

// closeConnections undoes what open has done, last first.
func (s *Store) closeConnections() error {
	var failed error
	for _, undo := range slices.Backward(s.undo) {
		failed = errors.Join(failed, undo())
	}
	return failed
}

// A scanner is a row that a query has found.
type scanner interface{ Scan(...any) error }

// scanColumn reads a row of one column.
func scanColumn[T any](row scanner) (T, error) {
	var v T
	err := row.Scan(&v)
	return v, err
}

// A querier is a connection, or a pool of them. The writer's connection is one too: a statement that changes something
// can return rows.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect runs a query and gathers what scan makes of each row. With io.EOF scan says that it wants no more.
func collect[T any](db querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(context.Background(), query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// readAll reads every row of a query.
func readAll[T any](s *Store, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	list, err := collect(s, scan, query, args...)
	return list, s.failure(err)
}

// QueryContext makes the readers a querier.
func (s *Store) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := s.readPrepared[query]; stmt != nil {
		return stmt.QueryContext(ctx, args...)
	}
	return s.read.QueryContext(ctx, query, args...)
}

// readOne reads the first row of a query, which finds one or few. Where there is none it returns missing; nil: the zero
// value is the answer.
func readOne[T any](s *Store, missing error, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	list, err := readAll(s, scan, query, args...)
	if err != nil || len(list) == 0 {
		var none T
		return none, cmp.Or(err, missing)
	}
	return list[0], nil
}

// readNumber reads a number, of a query that always has one.
func (s *Store) readNumber(query string, args ...any) (int64, error) {
	return readOne(s, sql.ErrNoRows, scanColumn[int64], query, args...)
}

// timeNow is the wall clock, in the millisecond steps in which times are stored, without the monotonic part that
// stands still during a suspend.
func timeNow() time.Time {
	return time.Now().Truncate(time.Millisecond)
}

// newID returns 16 random characters, 80 bits, of the alphabet of base32 in lower case.
func newID() string {
	return strings.ToLower(rand.Text()[:16])
}

// nullText and nullTime are what stands in a column that is NULL where nothing is set.
func nullText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullTime(t time.Time) any {
	return nullText(timeText(t))
}

// stamp reads a column that holds a time; NULL is the zero time.
type stamp struct{ to *time.Time }

func (s stamp) Scan(v any) (err error) {
	text, _ := v.(string)
	*s.to, err = parseTimeText(text)
	return err
}

// millis reads a column that holds a duration in milliseconds.
type millis struct{ to *time.Duration }

func (m millis) Scan(v any) error {
	n, _ := v.(int64)
	*m.to = time.Duration(n) * time.Millisecond
	return nil
}

func scanTime(row scanner) (t time.Time, err error) {
	return t, row.Scan(stamp{&t})
}
