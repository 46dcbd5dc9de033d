package main

// The one goroutine that writes. Whoever wants to write hands it a *write, and is told once that is on disk. While one
// batch is synced, the next gathers by itself:
//
//	asked   A B C          D E                F
//	writer      [ A B C ]      [   D   E   ]    [ F ]      a batch: one transaction, one fsync
//	told                 A B C              D E       F
//
// A batch looks like this to SQLite:
//
//	BEGIN IMMEDIATE
//	INSERT INTO jobs VALUES (...), (...), ...      the new jobs of all members, many rows a statement
//	UPDATE jobs ...                                the start or the end of an attempt
//	SAVEPOINT member; fn; RELEASE member           any other write. Where fn returns an *Error, it alone is undone
//	COMMIT
//
// Where the database itself fails, the batch is rolled back as a whole, and its members are tried one by one, so that
// nobody pays for a neighbour's fault. That runs each fn a second time. So an fn changes nothing but the database; what
// it finds out, it returns (updated). In tests Store.rehearse runs every fn twice.

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"
)

// write is one member of a batch: exactly one of the first four is set.
type write struct {
	// insert are new jobs.
	insert []*Job
	// start is a job of which an attempt began, and for which nobody waits. Its StartedAt is noted, and that an
	// attempt is open, if the job is still pending.
	start *Job
	// finish is a job as an attempt has left it. It is stored if the job is still open.
	finish *Job
	// fn is any other write.
	fn func(*tx) error
	// done is called by the writer after the commit and before any later write, so that memory follows the disk in the
	// same order. It must not block. It gets errNotOpen when start or finish found the job ended already.
	done func(error)
	// err is the refusal of this member alone.
	err error
}

// enqueue hands w to the writer and does not wait for its answer. It waits while 1,024 others do.
func (s *Store) enqueue(w *write) {
	select {
	case s.ops <- w:
	case <-s.closed:
		w.done(errStoreClosed)
	}
}

// do hands w to the writer and waits until it is on disk. The writer calls then, unless it is nil, right after the
// commit and before any later write; then must not block.
func (s *Store) do(w *write, then func()) error {
	ack := make(chan error, 1)
	w.done = func(err error) {
		if err == nil && then != nil {
			then()
		}
		ack <- err
	}
	s.enqueue(w)
	var err error = errStoreClosed
	select {
	case err = <-ack:
	case <-s.gone:
		select { // the writer may have answered before it went
		case err = <-ack:
		default:
		}
	}
	return s.failure(err)
}

// update runs fn inside the writer's transaction. An *Error from fn undoes what fn did and nothing else.
func (s *Store) update(fn func(*tx) error) error {
	return s.do(&write{fn: fn}, nil)
}

// change runs one statement; missing is the refusal where it finds nothing to change.
func (s *Store) change(missing error, query string, args ...any) error {
	return s.update(func(t *tx) error { return t.mustChange(missing, query, args...) })
}

// updated is update for an fn that finds something out. What the committed run of fn has returned goes to then, as do
// calls it, and to the caller. On an error it means nothing.
func updated[T any](s *Store, fn func(*tx) (T, error), then func(T)) (T, error) {
	var found T
	run := func(t *tx) (err error) {
		found, err = fn(t)
		return err
	}
	err := s.do(&write{fn: run}, func() {
		if then != nil {
			then(found)
		}
	})
	return found, err
}

const (
	// maxBatch bounds how long the first member of a batch waits for the last, and what memory a transaction takes.
	maxBatch = 512
	// startPause is how long a start waits for company. When a slower API answers, the start is on disk already.
	startPause = 2 * time.Millisecond
)

// writer is the goroutine that owns the writing connection. It waits for one write, takes what else is there by then,
// and commits that. Nobody waits for a start, and the end of its attempt makes it superfluous. So one that comes alone
// waits for company: the end of a quick attempt would have to wait for its fsync.
func (s *Store) writer() {
	defer close(s.gone)
	batch := make([]*write, 0, maxBatch)
	var pause <-chan time.Time
	for {
		select {
		case w := <-s.ops:
			batch = append(batch, w)
			if w.start != nil && len(batch) == 1 {
				pause = time.After(startPause)
				continue
			}
		case <-pause:
		case <-s.closed: // what was queued before is still owed
		}
		batch = s.gather(batch)
		if len(batch) == 0 {
			return
		}
		s.writeBatch(batch)
		clear(batch)
		batch = batch[:0]
		pause = nil
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

// writeBatch commits batch and answers its members: with nil, with the refusal of one alone, or with the failure of
// all. Files that are not under their names any more have taken nothing, whatever SQLite says.
func (s *Store) writeBatch(batch []*write) {
	err := s.commit(batch)
	// Trying again one by one is for a member's own fault; a lock would make each wait anew.
	if err != nil && len(batch) > 1 && primaryCode(err) != sqliteBusy {
		for i := range batch {
			s.writeBatch(batch[i : i+1])
		}
		return
	}
	if err == nil {
		err = s.Intact()
	}
	s.setProblem(err)
	for _, w := range batch {
		if err != nil {
			w.err = err
		}
		w.done(w.err)
	}
}

// commit writes batch in one transaction.
func (s *Store) commit(batch []*write) error {
	t := &tx{s: s, counts: s.since}
	if _, err := s.stmts.exec(sqlBegin); err != nil {
		return err
	}
	err := t.applyAll(batch)
	if err == nil {
		_, err = s.stmts.exec(sqlCommit)
	}
	if err != nil {
		// SQLite rolls back by itself after a full disk or an I/O error; then this says so, and that is fine.
		_, _ = s.stmts.exec(sqlRollback)
		return err
	}
	s.mu.Lock()
	s.since = t.counts
	s.mu.Unlock()
	return nil
}

// tx is the writer's open transaction. Its methods are for the writer's goroutine alone.
type tx struct {
	s *Store
	// counts is Store.since as it is after the commit.
	counts FinishedCounts
}

// applyAll carries out a batch: new jobs first, many rows a statement, then the rest in order. An error is one of the
// database, after which nothing of the batch can be trusted.
func (t *tx) applyAll(batch []*write) error {
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
		case w.start != nil && finished[w.start.Seq]:
			// The end, which this batch has too, says it all.
		case w.start != nil:
			w.err = t.start(w.start)
		case w.finish != nil:
			w.err = t.finish(w.finish)
		case w.fn != nil:
			w.err = t.isolated(w.fn)
		}
		if w.err != nil && !isRefusal(w.err) {
			return w.err
		}
	}
	return nil
}

// isRefusal reports whether err refuses one write, while the database is well. That is what an *Error says; the
// database has errors of its own type.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// isolated runs fn in a savepoint, so that a refusal undoes what it did, the counts included. Any other error stays as
// it is: SQLite may have rolled back already, and the batch ends here.
func (t *tx) isolated(fn func(*tx) error) error {
	before := t.counts
	if err := t.exec("SAVEPOINT member"); err != nil {
		return err
	}
	if t.s.rehearse {
		_ = fn(t) // the run that counts says what is wrong
		t.counts = before
		if err := t.exec("ROLLBACK TO member"); err != nil {
			return err
		}
	}
	err := fn(t)
	if err == nil {
		return t.exec("RELEASE member")
	}
	if isRefusal(err) {
		t.counts = before
		if err := t.exec("ROLLBACK TO member; RELEASE member"); err != nil {
			return err
		}
	}
	return err
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

// mustChange runs query; missing is the refusal where it finds nothing to change.
func (t *tx) mustChange(missing error, query string, args ...any) error {
	n, err := t.changed(query, args...)
	if err != nil {
		return err
	}
	if n == 0 {
		return missing
	}
	return nil
}

func (t *tx) row(query string, args ...any) *sql.Row {
	return t.s.conn.QueryRowContext(context.Background(), query, args...)
}

const idAlphabet = "234567abcdefghijklmnopqrstuvwxyz" // base32 in its sorting order

// number gives a new job its place and name. Ids are random, so that a few characters name one. In a burst they share
// their beginning, so that the inserts stay on one page of the index:
//
//	k3vq7x2mzf5wla 2 2
//	k3vq7x2mzf5wla 2 3
//	random         counted, 32 * 32 of them
func (s *Store) number(j *Job) {
	s.nextSeq++
	j.Seq = s.nextSeq
	if j.ID != "" {
		return
	}
	now := timeNow()
	if s.idCount == 0 || s.idCount >= 32*32 || now.Sub(s.idTime) > 10*time.Millisecond {
		s.idPrefix = newID()[:14]
		s.idCount = 0
	}
	s.idTime = now
	j.ID = s.idPrefix + string(idAlphabet[s.idCount/32]) + string(idAlphabet[s.idCount%32])
	s.idCount++
}

// statements are those of every job, by their SQL, prepared by the driver itself on the writer's connection: going
// through database/sql costs a fifth of the writer's rate.
type statements map[string]*stmt

type stmt struct {
	driver.Stmt
	args []driver.NamedValue // kept for the next run
}

// prepare prepares all statements of jobStatements.
func prepare(conn *sql.Conn) (statements, error) {
	st := statements{}
	err := conn.Raw(func(c any) error {
		for _, query := range jobStatements() {
			prepared, err := c.(driver.ConnPrepareContext).PrepareContext(context.Background(), query)
			if err != nil {
				return err
			}
			st[query] = &stmt{Stmt: prepared}
		}
		return nil
	})
	return st, err
}

// exec runs a statement with args, which are int64, string, []byte or nil, and returns how many rows it changed.
func (st statements) exec(query string, args ...any) (int64, error) {
	s := st[query]
	s.args = s.args[:0]
	for i, a := range args {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	r, err := s.Stmt.(driver.StmtExecContext).ExecContext(context.Background(), s.args)
	clear(s.args) // a result must not stay alive here
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// close comes before the connection's end. What a statement says then is what its last run has said already.
func (st statements) close() error {
	for _, s := range st {
		_ = s.Close()
	}
	return nil
}
