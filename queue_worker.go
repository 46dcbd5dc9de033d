package main

// One attempt at a job, and what comes of it. The states of a job:
//
//	              +------- retried, held, or given back -------+
//	              v                                            |
//	submit --> pending -------- begin --------> running --- settle --> completed
//	              |                                |           |
//	              +------------ Cancel ------------+           +-----> failed
//	                              |
//	                              v
//	                          cancelled
//
// What may be sent again, and when, is decided in settle and nowhere else.
//
// A worker hands the end of an attempt to the store's writer and takes the next job at once; the end is told to
// watchers and the log only after its commit.

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
	storageRetry = time.Second // between two tries of a write that the disk refuses
)

// backoff is the wait before the n-th retry, from 1: exponential with full jitter, so that daemons that failed
// together do not come back together (AWS Architecture Blog, "Exponential Backoff And Jitter").
func backoff(n int32) time.Duration {
	limit := backoffCap
	if n < 10 {
		limit = min(backoffCap, backoffBase<<(n-1))
	}
	return max(time.Millisecond, time.Duration(rand.Int64N(int64(limit))))
}

// worker takes job after job until the queue stops. Its id is for the log.
func (q *Queue) worker(id int) {
	for {
		it, a := q.next()
		if it == nil {
			return
		}
		q.work(id, it, a)
	}
}

// work reads the job, notes the start, runs it and settles what came of it. A user may cancel the job at any point.
// While it has no request, that is seen below; later its context ends, and release says that its end is not to be
// saved.
func (q *Queue) work(worker int, it *item, a *attempt) {
	j, err := q.begin(it, a)
	if err != nil {
		q.putBack(it, a, err)
		return
	}
	ctx, cancel := context.WithTimeout(q.jobCtx, j.Timeout)
	defer cancel()
	q.mu.Lock()
	a.job = j
	a.cancel = cancel
	cancelled := a.cancelled
	// Of a job that was cancelled meanwhile, watchers have heard the end.
	if !cancelled {
		q.notifyLocked(j)
	}
	q.mu.Unlock()
	if cancelled {
		q.release(it, a, 0)
		return
	}
	q.event(slog.LevelInfo, "job started", j, slog.Int("worker_id", worker))
	end := settle(*j, q.run(ctx, j))
	if end.held() {
		reason := strings.TrimPrefix(end.Error, codeRateLimited+": ")
		q.hold(end.Environment, end.NextAttemptAt, reason)
	}
	if q.release(it, a, len(end.Result)) {
		q.save(end)
	}
}

// begin makes the running job of a waiting one and tells the store. A query goes on at once, and is aborted when the
// store finds that the job had ended. A mutation's start must be on disk before its request is sent, or a crash could
// send it twice.
func (q *Queue) begin(it *item, a *attempt) (*Job, error) {
	waiting := it.job
	if waiting == nil {
		stored, err := q.Store.JobBySeq(it.seq, 0)
		if err != nil {
			return nil, err
		}
		if stored.Status != statusPending {
			return nil, errNotOpen
		}
		waiting = stored
	}
	j := *waiting
	j.Status = statusRunning
	j.StartedAt = timeNow()
	j.UpdatedAt = j.StartedAt
	j.NextAttemptAt = time.Time{}
	if q.Mutation(j.Command) {
		return &j, q.Store.Start(&j)
	}
	q.Store.Starting(&j, func(err error) {
		if errors.Is(err, errNotOpen) {
			q.mu.Lock()
			defer q.mu.Unlock()
			a.abortLocked()
		}
	})
	return &j, nil
}

// run carries the attempt out. It keeps a panic inside its job.
func (q *Queue) run(ctx context.Context, j *Job) (o outcome) {
	o.mutation = q.Mutation(j.Command)
	defer func() {
		p := recover()
		if p != nil {
			q.Log.Error("panic in a job",
				"job_id", j.ID,
				"command", j.Command,
				"panic", fmt.Sprint(p),
				"stack", string(debug.Stack()))
			o.err = errorf(codeInternal, "a bug in honeydew stopped this job; the log has the details")
		}
		o.stopping = q.jobCtx.Err() != nil
	}()
	o.result, o.partial, o.err = q.Run(ctx, j)
	return o
}

// outcome is what came of an attempt.
type outcome struct {
	result string
	// partial is the API's complaint beside a usable result.
	partial string
	err     error
	// mutation: the command changes something, and must not be carried out twice.
	mutation bool
	// stopping: the daemon has abandoned the attempt.
	stopping bool
}

// settle decides what becomes of j after an attempt. It is pure but for the clock and the dice. In this order:
//
//	a result                                     completed
//	abandoned, and it may be sent again          pending, as if the attempt had not been
//	the API asks to wait                         pending until then; costs no retry
//	a mutation, and nobody knows what it did     failed, OUTCOME_UNKNOWN
//	worth another try, and one is left           pending, after a growing wait
//	anything else                                failed
func settle(j Job, o outcome) *Job {
	if o.err == nil {
		j.complete(o.result, o.partial)
		return &j
	}
	e := failureOf(o.err)
	// What was refused, or never sent, has changed nothing. A login comes before the request.
	outcomeKnown := e.Fate == fateUnsent || e.Fate == fateRefused || strings.HasPrefix(e.Code, "AUTH_")
	worthRetrying := e.Fate == fateUnsent || e.Fate == fateLost
	switch {
	case o.stopping && (!o.mutation || e.Fate == fateUnsent):
		j.end(statusPending, "", "")
	case e.Hold > 0:
		// Under one code, whatever was refused, since the next start finds the hold by it.
		j.again(e.Hold, codeRateLimited, e.Message)
	case o.mutation && !outcomeKnown:
		j.fail(codeOutcomeUnknown, "the request may have been carried out: "+e.Message)
	case worthRetrying && j.RetryCount < j.MaxRetries:
		j.RetryCount++
		j.again(backoff(j.RetryCount), e.Code, e.Message)
	default:
		j.fail(e.Code, e.Message)
	}
	return &j
}

// failureOf is err as the one error type. A cancelled context means that the daemon stops: what comes of an attempt
// that a user has cancelled is dropped before anybody looks at it.
func failureOf(err error) *Error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Code: codeInternal, Message: err.Error()}
	}
	if errors.Is(err, context.Canceled) {
		interrupted := errorf(codeInterrupted, "the daemon stopped while the request was under way")
		interrupted.Fate = e.Fate
		return interrupted
	}
	return e
}

// complete ends the job with a result, and perhaps with the API's complaint beside it. The result counts: it is what
// the API could give, and whoever reads it sees the complaint too.
func (j *Job) complete(result, partial string) {
	code := ""
	if partial != "" {
		code = codePartial
	}
	j.end(statusCompleted, code, partial)
	j.Result = result
}

// fail ends the job without a result. No try follows: who wants one asks for a Retry, which makes a new job.
func (j *Job) fail(code, message string) {
	j.end(statusFailed, code, message)
}

// again lets the job wait for its next attempt; code and message say what was wrong with this one.
func (j *Job) again(wait time.Duration, code, message string) {
	j.end(statusPending, code, message)
	j.NextAttemptAt = j.UpdatedAt.Add(wait).Truncate(time.Millisecond)
}

// end puts the end of an attempt into the job; code is "" where nothing was wrong. What the attempt before has left
// there, goes.
func (j *Job) end(status, code, message string) {
	j.Status = status
	j.UpdatedAt = timeNow()
	j.OpenStarts = 0
	j.ErrorCode = code
	j.Error = ""
	if code != "" {
		j.Error = code + ": " + message
	}
	if j.finished() {
		j.CompletedAt = j.UpdatedAt
	}
}

// held reports whether the job waits because its API asked the whole environment to. After a restart this is all that
// is known of a hold.
func (j *Job) held() bool {
	return j.Status == statusPending && j.ErrorCode == codeRateLimited
}

// hold keeps the environment's queue back. The job that was asked to wait does so by its NextAttemptAt; this is for the
// others of its environment. Of several holds the longest counts.
func (q *Queue) hold(environment string, until time.Time, reason string) {
	q.mu.Lock()
	q.followClockLocked(timeNow()) // by which the API's time is not reckoned
	longer := until.After(q.holds[environment].until)
	if longer {
		q.holds[environment] = environHold{until, reason}
	}
	q.mu.Unlock()
	if longer {
		q.Log.Warn("queue held",
			"environment", environment,
			"until", timeText(until),
			"reason", reason)
	}
}

// putBack returns a job whose attempt could not begin, for the disk's sake: no request was sent. A job that is gone,
// or has ended, is forgotten.
func (q *Queue) putBack(it *item, a *attempt, err error) {
	gone := errors.Is(err, errNotOpen) || codeOf(err) == codeNotFound
	if !gone {
		q.Log.Error("job could not be started", "error", err.Error())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(it)
	delete(q.running, it.seq)
	if !gone && !a.cancelled {
		// By the clock of now, like every wait.
		q.followClockLocked(timeNow())
		q.pushLocked(it.group.groupKey, it.seq, it.priority, timeNow().Add(storageRetry), nil)
		q.items[it.seq].relative = true
		q.wake.Signal()
	}
}

// release frees the attempt's worker and provider. False: a user has cancelled the job, so that its end is not to be
// saved. Otherwise a result of so many bytes counts as unsaved from now on.
func (q *Queue) release(it *item, a *attempt, bytes int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(it)
	if a.cancelled {
		delete(q.running, it.seq)
		return false
	}
	q.unsaved++
	q.unsavedB += bytes
	return true
}

// releaseLocked frees a worker and a place of the provider.
func (q *Queue) releaseLocked(it *item) {
	q.busy--
	q.active[it.group.provider]--
	if q.ProviderLimit > 0 {
		q.wake.Broadcast() // other workers may have waited for this provider
	}
}

// save stores the end of an attempt, for as long as it takes: what an API has answered must not be lost to a full disk.
// Meanwhile no job starts (mayStartLocked).
func (q *Queue) save(j *Job) {
	q.Store.Finish(j, func(err error) {
		if err == nil || errors.Is(err, errNotOpen) || errors.Is(err, errStoreClosed) {
			q.saved(j, err)
			return
		}
		q.refused(j, err)
		time.AfterFunc(storageRetry, func() { q.save(j) })
	})
}

// refused notes that the disk does not take the end of j for now. It is told once.
func (q *Queue) refused(j *Job, err error) {
	q.mu.Lock()
	a := q.running[j.Seq]
	again := a.refused
	if !again {
		a.refused = true
		q.failing++
	}
	q.mu.Unlock()
	if !again {
		q.Log.Error("result could not be stored; trying again",
			"job_id", j.ID,
			"error", err.Error())
	}
}

// saved runs in the writer after the commit, so it only does what is quick. Where the job had ended before, or the
// store is closed, err says so, and there is nothing to tell.
func (q *Queue) saved(j *Job, err error) {
	q.mu.Lock()
	if q.running[j.Seq].refused {
		q.failing--
		q.wake.Broadcast() // what held one worker back held all
	}
	delete(q.running, j.Seq)
	q.unsaved--
	q.unsavedB -= len(j.Result)
	q.wake.Signal()
	if err == nil && j.Status == statusPending {
		q.waitLocked(j)
	}
	if err == nil {
		q.notifyLocked(j)
	}
	q.mu.Unlock()
	if err == nil {
		q.logEnd(j)
	}
}

// event logs what became of a job. Every job comes by here, so the record says nothing of its caller: to look that up
// takes as long as a quarter of the line, and nobody shows it.
func (q *Queue) event(level slog.Level, message string, j *Job, more ...slog.Attr) {
	ctx := context.Background()
	if !q.Log.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(time.Now(), level, message, 0)
	record.AddAttrs(slog.String("job_id", j.ID), slog.String("command", j.Command))
	record.AddAttrs(more...)
	_ = q.Log.Handler().Handle(ctx, record) // the log itself tells of lines that are lost
}

// logEnd logs what an attempt has come to. A job that is given back says nothing: it has lost no try. Nor has one that
// is held, but whoever reads its lines must see why it starts again and again.
func (q *Queue) logEnd(j *Job) {
	switch {
	case j.Status == statusCompleted:
		took := max(0, j.CompletedAt.Sub(j.StartedAt)) // the clock may have been set back
		q.event(slog.LevelInfo, "job completed", j, slog.Int64("duration_ms", took.Milliseconds()))
	case j.Status == statusFailed:
		q.event(slog.LevelError, "job failed", j,
			slog.String("error", j.Error),
			slog.Int("retry_count", int(j.RetryCount)))
	case j.Error != "":
		q.event(slog.LevelWarn, "job retrying", j,
			slog.String("error", j.Error),
			slog.Int("retry_count", int(j.RetryCount)),
			slog.String("next_retry", timeText(j.NextAttemptAt)))
	}
}

// Stop takes no new jobs and no new starts, and ends all watches; what runs goes on. It comes before Drain:
//
//	Stop    no more starts       running jobs go on
//	Drain   until ctx ends       wait for them
//	        abandon              their requests are aborted; each settles
//	        at most grace        wait for that
func (q *Queue) Stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopping = true
	q.timer.Stop()
	q.wake.Broadcast()
	for _, watchers := range q.watchers {
		for _, w := range watchers {
			close(w.C)
		}
	}
	clear(q.watchers)
}

// Drain, after Stop, waits for the running jobs until ctx ends, then abandons them: a query goes back to pending, a
// mutation that was sent is OUTCOME_UNKNOWN. It waits at most grace for jobs that do not listen.
func (q *Queue) Drain(ctx context.Context, grace time.Duration) {
	done := make(chan struct{})
	go func() {
		q.workers.Wait()
		close(done)
	}()
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
