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

// worker takes job after job until the queue stops.
func (q *Queue) worker(id int) {
	for it, r := q.next(); it != nil; it, r = q.next() {
		q.attempt(id, it, r)
	}
}

// attempt reads the job, notes the start, runs it and settles what came of it.
func (q *Queue) attempt(worker int, it *item, r *run) {
	j, mutation, err := q.begin(it, r)
	if err != nil {
		q.putBack(it, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(q.jobCtx, j.Timeout)
	defer cancel()
	q.mu.Lock()
	r.job, r.cancel = j, cancel
	cancelled := r.cancelled
	q.notifyLocked(j)
	q.mu.Unlock()
	if cancelled {
		q.release(it, r, 0)
		return
	}
	q.event(slog.LevelInfo, "job started", j, slog.Int("worker_id", worker))
	result, partial, err := q.guarded(ctx, j)
	end, held := settle(*j, mutation, q.jobCtx.Err() != nil, result, partial, err)
	if held != "" {
		q.hold(j.Environment, end.NextAttemptAt, held)
	}
	if q.release(it, r, len(end.Result)) {
		q.save(end, false)
	}
}

// begin makes the running job of a waiting one and tells the store. A query goes on at once, and is aborted when the store
// finds that the job had ended; a mutation's start must be on disk before its request is sent, or a crash could send it
// twice.
func (q *Queue) begin(it *item, r *run) (_ *Job, mutation bool, err error) {
	stored := it.job
	if stored == nil {
		if stored, err = q.Store.JobBySeq(it.seq, 0); err != nil {
			return nil, false, err
		} else if stored.Status != statusPending {
			return nil, false, errNotOpen
		}
	}
	j := *stored
	j.Status = statusRunning
	j.StartedAt = timeNow()
	j.UpdatedAt = j.StartedAt
	j.NextAttemptAt = time.Time{}
	if q.Mutation(j.Command) {
		return &j, true, q.Store.Start(&j, nil)
	}
	return &j, false, q.Store.Start(&j, func(err error) {
		if errors.Is(err, errNotOpen) {
			q.mu.Lock()
			r.abort()
			q.mu.Unlock()
		}
	})
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
	gone := errors.Is(err, errNotOpen) || codeOf(err) == codeNotFound
	if !gone {
		q.Log.Error("job could not be started", "error", err.Error())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(it)
	delete(q.running, it.seq)
	if !gone && !r.cancelled {
		q.pushLocked(it.group.groupKey, it.seq, it.priority, timeNow().Add(storageRetry), nil)
		q.wake.Signal()
	}
}

// release ends an attempt's hold on its worker and provider. False: a user has cancelled the job, so that its result,
// which has this many bytes, is not to be saved.
func (q *Queue) release(it *item, r *run, bytes int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(it)
	if r.cancelled {
		delete(q.running, it.seq)
	} else {
		q.unsaved++
		q.unsavedB += bytes
	}
	return !r.cancelled
}

func (q *Queue) releaseLocked(it *item) {
	q.busy--
	q.active[it.group.provider]--
	if q.ProviderLimit > 0 {
		q.wake.Broadcast() // other workers may have waited for this provider
	}
}

// settle decides what becomes of j after an attempt; stopping: the daemon has abandoned it. held is why the API wants
// the whole environment to wait until the job's next attempt.
func settle(j Job, mutation, stopping bool, result, partial string, err error) (_ *Job, held string) {
	now := timeNow()
	j.Status, j.UpdatedAt, j.OpenStarts, j.Error, j.ErrorCode = statusPending, now, 0, "", ""
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
		j.Status, j.Result = statusCompleted, result
		if partial != "" {
			j.Error, j.ErrorCode = codePartial+": "+partial, codePartial
		}
	case stopping && (!mutation || e.Unsent):
		// The attempt is given back.
	case e.Hold > 0:
		// Under one code, whatever was refused, since the next start finds the hold by it.
		j.NextAttemptAt, j.Error, j.ErrorCode, held = now.Add(e.Hold), codeRateLimited+": "+e.Message, codeRateLimited, e.Message
	case mutation && !known:
		j.Status, j.ErrorCode = statusFailed, codeOutcomeUnknown
		j.Error = codeOutcomeUnknown + ": the request may have been carried out: " + e.Message
	case e.Retry && j.RetryCount < j.MaxRetries:
		j.RetryCount++
		j.NextAttemptAt, j.Error, j.ErrorCode = now.Add(backoff(j.RetryCount)).Truncate(time.Millisecond), e.Error(), e.Code
	default:
		j.Status, j.Error, j.ErrorCode = statusFailed, e.Error(), e.Code
	}
	if j.finished() {
		j.CompletedAt = now
	}
	return &j, held
}

// hold keeps the environment's queue back.
func (q *Queue) hold(environment string, until time.Time, reason string) {
	q.mu.Lock()
	longer := until.After(q.holds[environment].until)
	if longer {
		q.holds[environment] = hold{until, reason}
	}
	q.mu.Unlock()
	if longer {
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

// event logs what became of a job.
func (q *Queue) event(level slog.Level, message string, j *Job, more ...slog.Attr) {
	q.Log.LogAttrs(context.Background(), level, message, append([]slog.Attr{slog.String("job_id", j.ID), slog.String("command", j.Command)}, more...)...)
}

func (q *Queue) logEnd(j *Job) {
	retries := slog.Int("retry_count", int(j.RetryCount))
	switch {
	case j.Status == statusCompleted:
		q.event(slog.LevelInfo, "job completed", j, slog.Int64("duration_ms", j.CompletedAt.Sub(j.StartedAt).Milliseconds()))
	case j.Status == statusFailed:
		q.event(slog.LevelError, "job failed", j, slog.String("error", j.Error), retries)
	case j.Error != "" && j.ErrorCode != codeRateLimited:
		q.event(slog.LevelWarn, "job retrying", j, slog.String("error", j.Error), retries, slog.String("next_retry", timeText(j.NextAttemptAt)))
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
			close(w.C)
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
