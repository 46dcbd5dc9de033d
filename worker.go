package main

// One attempt at a job, and what comes of it: completed, failed, or back to waiting. A worker hands the end of an
// attempt to the store's writer and takes the next job at once; the end is told to watchers and the log only after
// its commit. What may be sent again, and when, is decided in settle and nowhere else.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

const (
	backoffBase  = time.Second
	backoffCap   = 5 * time.Minute
	storageRetry = time.Second // a disk that refused a write is tried again this often
	watchBuffer  = 64          // transitions that a slow watcher may lag behind
)

// backoff is the wait before the n-th retry, from 1: exponential with full jitter, so that daemons that failed
// together do not come back together (AWS Architecture Blog, "Exponential Backoff And Jitter").
func backoff(n int32) time.Duration {
	limit := backoffCap
	if n < 10 {
		limit = min(backoffCap, backoffBase<<(n-1))
	}
	return time.Duration(rand.Int64N(int64(limit)))
}

func (q *Queue) worker(id int) {
	for {
		it, r := q.next()
		if it == nil {
			return
		}
		q.attempt(id, it, r)
	}
}

// attempt reads the job, notes the start, runs it and settles what came of it.
func (q *Queue) attempt(worker int, it *item, r *run) {
	stored := it.job
	if stored == nil {
		var err error
		stored, err = q.Store.JobBySeq(it.seq, 0)
		if err == nil && stored.Status != statusPending {
			err = errorf(codeFailedPrecondition, "the job has ended already")
		}
		if err != nil {
			q.putBack(it, r, err)
			return
		}
	}
	j := *stored
	j.Status, j.StartedAt, j.UpdatedAt, j.NextAttemptAt = statusRunning, timeNow(), timeNow(), time.Time{}
	mutation := q.Mutation(j.Command)
	// A query goes on at once; a mutation's start must be on disk before its request is sent, or a crash could send it twice.
	if err := q.Store.Start(&j, mutation); err != nil {
		q.putBack(it, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(q.jobCtx, j.Timeout)
	defer cancel()
	q.mu.Lock()
	r.job, r.cancel = &j, cancel
	cancelled := r.cancelled
	q.notifyLocked(&j)
	q.mu.Unlock()
	if cancelled {
		q.release(it.seq, it.group.provider, true)
		return
	}
	q.Log.LogAttrs(ctx, slog.LevelInfo, "job started", slog.String("job_id", j.ID), slog.String("command", j.Command), slog.Int("worker_id", worker))
	result, partial, err := q.guarded(ctx, &j)
	q.settle(it, r, j, mutation, result, partial, err)
}

// guarded keeps a panic inside its job.
func (q *Queue) guarded(ctx context.Context, j *Job) (result string, partial string, err error) {
	defer func() {
		if p := recover(); p != nil {
			q.Log.Error("panic in a job", "job_id", j.ID, "command", j.Command, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errorf(codeInternal, "a bug in honeydew stopped this job; the log has the details")
		}
	}()
	return q.Run(ctx, j)
}

// putBack returns a job whose attempt could not begin, for the disk's sake.
func (q *Queue) putBack(it *item, r *run, err error) {
	gone := codeOf(err) == codeNotFound || codeOf(err) == codeFailedPrecondition
	if !gone {
		q.Log.Error("job could not be started", "error", err.Error())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(it.seq, it.group.provider, true)
	if !gone && !r.cancelled {
		q.pushLocked(it.group.groupKey, it.seq, it.priority, timeNow().Add(storageRetry), nil)
		q.wake.Signal()
	}
}

// release ends an attempt's hold on its worker and provider, and, with forget, the run as a whole.
func (q *Queue) release(seq int64, provider string, forget bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(seq, provider, forget)
}

func (q *Queue) releaseLocked(seq int64, provider string, forget bool) {
	q.busy--
	q.active[provider]--
	if forget {
		delete(q.running, seq)
	}
	if q.ProviderLimit > 0 {
		q.wake.Broadcast() // other workers may have waited for this provider
	}
}

// settle decides what becomes of j and stores it.
func (q *Queue) settle(it *item, r *run, j Job, mutation bool, result string, partial string, err error) {
	now := timeNow()
	j.UpdatedAt, j.OpenStarts, j.Error, j.ErrorCode = now, 0, "", ""
	e, ok := errors.AsType[*Error](err)
	if err != nil && !ok {
		e = &Error{Code: codeInternal, Message: err.Error()}
	}
	if errors.Is(err, context.Canceled) {
		e = &Error{Code: codeInterrupted, Message: "the daemon stopped while the request was under way", Unsent: e.Unsent}
	}
	known := e != nil && (e.Unsent || e.Refused || strings.HasPrefix(e.Code, "AUTH_"))
	switch {
	case err == nil:
		j.Status, j.Result, j.CompletedAt = statusCompleted, result, now
		if partial != "" {
			j.Error, j.ErrorCode = codePartial+": "+partial, codePartial
		}
	case q.jobCtx.Err() != nil && (!mutation || e.Unsent):
		j.Status = statusPending // the daemon stops: the attempt is given back
	case e.Hold > 0:
		// Under one code, whatever was refused, since the next start finds the hold by it.
		j.Status, j.NextAttemptAt, j.Error, j.ErrorCode = statusPending, now.Add(e.Hold), codeRateLimited+": "+e.Message, codeRateLimited
		q.hold(j.Environment, j.NextAttemptAt, e.Message)
	case mutation && !known:
		j.Status, j.CompletedAt, j.ErrorCode = statusFailed, now, codeOutcomeUnknown
		j.Error = codeOutcomeUnknown + ": the request may have been carried out: " + e.Message
	case e.Retry && j.RetryCount < j.MaxRetries:
		j.RetryCount++
		j.Status, j.NextAttemptAt, j.Error, j.ErrorCode = statusPending, now.Add(backoff(j.RetryCount)).Truncate(time.Millisecond), e.Error(), e.Code
	default:
		j.Status, j.CompletedAt, j.Error, j.ErrorCode = statusFailed, now, e.Error(), e.Code
	}
	q.mu.Lock()
	cancelled := r.cancelled
	if !cancelled {
		q.unsaved++
		q.unsavedB += len(j.Result)
	}
	q.mu.Unlock()
	if cancelled {
		q.release(it.seq, it.group.provider, true)
		return
	}
	q.release(it.seq, it.group.provider, false)
	q.save(&j, false)
}

// hold keeps the environment's queue back.
func (q *Queue) hold(environment string, until time.Time, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if until.After(q.holds[environment].until) {
		q.holds[environment] = hold{until, reason}
		q.Log.Warn("queue held", "environment", environment, "until", timeText(until), "reason", reason)
	}
}

// save stores the end of an attempt, for as long as it takes; again: the disk has refused it before.
func (q *Queue) save(j *Job, again bool) {
	q.Store.Finish(j, func(err error) {
		if err == nil || errors.Is(err, errNotOpen) || errors.Is(err, errStoreClosed) {
			q.saved(j, again, err)
			return
		}
		if !again {
			q.mu.Lock()
			q.failing++
			q.mu.Unlock()
			q.Log.Error("result could not be stored; trying again", "job_id", j.ID, "error", err.Error())
		}
		time.AfterFunc(storageRetry, func() { q.save(j, true) })
	})
}

// saved runs in the writer after the commit, so it only does what is quick.
func (q *Queue) saved(j *Job, again bool, err error) {
	q.mu.Lock()
	delete(q.running, j.Seq)
	q.unsaved--
	q.unsavedB -= len(j.Result)
	if err == nil {
		if j.Status == statusPending {
			q.pushLocked(keyOf(j), j.Seq, j.Priority, j.NextAttemptAt, j)
		}
		q.notifyLocked(j)
	}
	q.wake.Signal()
	if again {
		q.failing--
		q.wake.Broadcast() // what held one worker back held all
	}
	q.mu.Unlock()
	if err == nil {
		q.logEnd(j)
	}
}

func (q *Queue) logSubmitted(j *Job) {
	if !j.Existing {
		q.Log.LogAttrs(context.Background(), slog.LevelInfo, "job submitted", slog.String("job_id", j.ID), slog.String("command", j.Command),
			slog.Int("priority", int(j.Priority)))
	}
}

func (q *Queue) logFailed(j *Job, message string) {
	q.Log.LogAttrs(context.Background(), slog.LevelError, "job failed", slog.String("job_id", j.ID), slog.String("command", j.Command),
		slog.String("error", message), slog.Int("retry_count", int(j.RetryCount)))
}

func (q *Queue) logEnd(j *Job) {
	switch {
	case j.Status == statusCompleted:
		q.Log.LogAttrs(context.Background(), slog.LevelInfo, "job completed", slog.String("job_id", j.ID), slog.String("command", j.Command),
			slog.Int64("duration_ms", j.CompletedAt.Sub(j.StartedAt).Milliseconds()))
	case j.Status == statusFailed:
		q.logFailed(j, j.Error)
	case j.Error != "" && j.ErrorCode != codeRateLimited:
		q.Log.LogAttrs(context.Background(), slog.LevelWarn, "job retrying", slog.String("job_id", j.ID), slog.String("command", j.Command),
			slog.String("error", j.Error), slog.Int("retry_count", int(j.RetryCount)), slog.String("next_retry", timeText(j.NextAttemptAt)))
	}
}

// Stop takes no new jobs and no new starts, and ends all watches; what runs goes on.
func (q *Queue) Stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopping = true
	q.timer.Stop()
	q.wake.Broadcast()
	for _, ws := range q.watchers {
		for _, w := range ws {
			w.closeLocked()
		}
	}
	clear(q.watchers)
}

// Drain, after Stop, waits for the running jobs until ctx ends, then abandons them: a query goes back to pending, a
// mutation that was sent is OUTCOME_UNKNOWN. It waits at most grace for jobs that do not listen.
func (q *Queue) Drain(ctx context.Context, grace time.Duration) {
	done := make(chan struct{})
	go func() { q.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	q.abandon()
	select {
	case <-done:
	case <-time.After(grace):
		q.Log.Error("running jobs did not stop in time; they are taken up again at the next start")
	}
}

// Watcher receives a job's transitions. C is closed after a terminal one, when the queue stops, or when the reader
// lags too far behind.
type Watcher struct {
	C      chan *Job
	seq    int64
	closed bool
}

func (w *Watcher) closeLocked() {
	if !w.closed {
		w.closed = true
		close(w.C)
	}
}

// Watch follows a job from its present state on; the caller must Unwatch.
func (q *Queue) Watch(prefix string, maxResult int64) (*Watcher, error) {
	seq, err := q.Store.JobSeq(prefix)
	if err != nil {
		return nil, err
	}
	w := &Watcher{C: make(chan *Job, watchBuffer), seq: seq}
	q.mu.Lock()
	if q.stopping {
		q.mu.Unlock()
		return nil, errStoreClosed
	}
	q.watchers[seq] = append(q.watchers[seq], w)
	var present *Job
	if r := q.running[seq]; r != nil && !r.cancelled { // a cancelled one has ended, though its request may not have
		present = r.job
	}
	if present != nil {
		w.C <- present
	}
	q.mu.Unlock()
	if present == nil {
		if present, err = q.Store.JobBySeq(seq, maxResult); err != nil {
			q.Unwatch(w)
			return nil, err
		}
		q.mu.Lock()
		q.firstLocked(w, present)
		q.mu.Unlock()
	}
	return w, nil
}

// firstLocked puts the state that was read before the transitions that came in meanwhile, unless they are newer.
func (q *Queue) firstLocked(w *Watcher, present *Job) {
	if w.closed || len(w.C) > 0 {
		return
	}
	w.C <- present
	if present.finished() {
		w.closeLocked()
	}
}

// Unwatch ends a watch.
func (q *Queue) Unwatch(w *Watcher) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.watchers[w.seq] = slices.DeleteFunc(q.watchers[w.seq], func(o *Watcher) bool { return o == w })
	if len(q.watchers[w.seq]) == 0 {
		delete(q.watchers, w.seq)
	}
}

// notifyLocked tells the watchers of j.
func (q *Queue) notifyLocked(j *Job) {
	for _, w := range q.watchers[j.Seq] {
		if w.closed {
			continue
		}
		select {
		case w.C <- j:
		default:
			w.closeLocked()
			continue
		}
		if j.finished() {
			w.closeLocked()
		}
	}
}
