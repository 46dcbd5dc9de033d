package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"honeydew/daemonpb"
)

// syncBuffer is a log that tests may read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// queueRig is a queue over a real store, whose attempts do what the test says.
type queueRig struct {
	*testing.T
	store *Store
	q     *Queue
	dead  []*Queue // of before a kill
	log   *syncBuffer
	opts  QueueOptions

	mu   sync.Mutex
	runs []queueRun // every attempt, in order
}

type queueRun struct {
	job *Job
	at  time.Time
}

// newQueueRig makes a queue that is not started. run may be nil: every job completes at once.
func newQueueRig(t *testing.T, o QueueOptions, run func(ctx context.Context, j *Job) (string, error)) *queueRig {
	t.Helper()
	r := &queueRig{T: t, store: openTestStore(t), log: &syncBuffer{}}
	r.opts = o
	r.opts.Store, r.opts.Log = r.store, slog.New(slog.NewJSONHandler(r.log, nil))
	r.opts.Workers = max(1, o.Workers)
	r.opts.Mutation = func(command string) bool { return strings.HasSuffix(command, ".clone") }
	r.opts.Run = func(ctx context.Context, j *Job) (string, string, error) {
		r.mu.Lock()
		r.runs = append(r.runs, queueRun{j, timeNow()})
		r.mu.Unlock()
		if run == nil {
			return "null", "", nil
		}
		result, err := run(ctx, j)
		return result, "", err
	}
	r.reopen()
	t.Cleanup(func() { // before the store's
		for _, r.q = range append(r.dead, r.q) {
			r.stop()
		}
	})
	return r
}

// reopen is the next start of the daemon: a queue that knows only what the store knows.
func (r *queueRig) reopen() {
	r.Helper()
	q, err := newQueue(r.opts)
	if err != nil {
		r.Fatal(err)
	}
	if r.q != nil {
		r.dead = append(r.dead, r.q)
	}
	r.q = q
}

// stop is a clean shutdown that waits for nothing.
func (r *queueRig) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.q.Stop()
	r.q.Drain(ctx, time.Second)
}

func (r *queueRig) submit(j *Job) *Job {
	r.Helper()
	stored, err := r.q.Submit(j)
	if err != nil {
		r.Fatal(err)
	}
	return stored[0]
}

func (r *queueRig) job(j *Job) *Job {
	r.Helper()
	got, err := r.store.Job(j.ID, 1<<30)
	if err != nil {
		r.Fatal(err)
	}
	return got
}

func (r *queueRig) wantStatus(j *Job, status, code string) *Job {
	r.Helper()
	got := r.job(j)
	if got.Status != status || got.ErrorCode != code {
		r.Fatalf("job is %s with code %q (%s), want %s with %q", got.Status, got.ErrorCode, got.Error, status, code)
	}
	return got
}

func (r *queueRig) attempts() []queueRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.runs)
}

func TestHigherPriorityRunsFirstAndThenTheOlder(t *testing.T) {
	for range 8 {
		synctest.Test(t, func(t *testing.T) {
			r := newQueueRig(t, QueueOptions{}, nil)
			var want []*Job
			for range 5 { // some by one, some in batches, some read back from the store
				batch := make([]*Job, 1+rand.IntN(12))
				for i := range batch {
					batch[i] = newTestJob([]string{"github.commits", "gitlab.commits", "jira.issues"}[rand.IntN(3)])
					batch[i].Priority = int32(rand.IntN(5) - 2)
				}
				if _, err := r.q.Submit(batch...); err != nil {
					t.Fatal(err)
				}
				want = append(want, batch...)
				if rand.IntN(4) == 0 {
					r.reopen()
				}
			}
			for range 5 {
				i := rand.IntN(len(want))
				if err := r.q.Cancel(want[i].ID); err != nil {
					t.Fatal(err)
				}
				want = slices.Delete(want, i, i+1)
			}
			slices.SortStableFunc(want, func(a, b *Job) int { return int(b.Priority) - int(a.Priority) })
			r.q.Start()
			synctest.Wait()
			got := r.attempts()
			if len(got) != len(want) {
				t.Fatalf("%d jobs ran, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i].job.ID != want[i].ID {
					t.Fatalf("place %d: priority %d, seq %d; want priority %d, seq %d", i, got[i].job.Priority, got[i].job.Seq, want[i].Priority, want[i].Seq)
				}
			}
		})
	}
}

func TestProviderAtItsLimitLetsOthersPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := newQueueRig(t, QueueOptions{Workers: 8, ProviderLimit: 2}, func(context.Context, *Job) (string, error) { <-gate; return "1", nil })
		t.Cleanup(func() { close(gate) })
		r.q.Start()
		for i := range 9 {
			j := newTestJob("github.commits")
			if i >= 6 {
				j.Command = "gitlab.commits"
			} else {
				j.Priority = 9
			}
			r.submit(j)
		}
		count := func() map[string]int {
			synctest.Wait()
			n := map[string]int{}
			for _, a := range r.attempts() {
				n[provider(a.job.Command)]++
			}
			return n
		}
		if n := count(); n["github"] != 2 || n["gitlab"] != 2 {
			t.Fatalf("running: %v, want 2 of each provider", n)
		}
		for i := 3; i <= 4; i++ {
			gate <- struct{}{}
			if n := count(); n["github"]+n["gitlab"] != i+2 || n["github"] > i || n["gitlab"] > 3 {
				t.Fatalf("after %d ended: %v", i-2, n)
			}
		}
		if s := r.q.State("production"); s.Running != 4 || s.Busy != 4 || s.Pending != 3 {
			t.Fatalf("state %+v", s)
		}
	})
}

func TestBackoffIsExponentialWithFullJitterUpToFiveMinutes(t *testing.T) {
	for n, limit := range map[int32]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 64: 5 * time.Minute, 100: 5 * time.Minute} {
		var low, high bool
		for range 300 {
			d := backoff(n)
			if d < 0 || d > limit {
				t.Fatalf("retry %d waits %s, want 0 to %s", n, d, limit)
			}
			low, high = low || d < limit/4, high || d > limit*3/4
		}
		if !low || !high {
			t.Errorf("retry %d: 300 waits leave a quarter of 0 to %s empty", n, limit)
		}
	}
}

func TestRetryableFailureIsTriedAgainUntilItsRetriesAreUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			return "", &Error{Code: codeServer, Message: "HTTP 502", Fate: fateLost}
		})
		j := newTestJob("github.commits")
		j.MaxRetries = 4
		r.submit(j)
		r.q.Start()
		for n := 1; n <= 4; n++ {
			synctest.Wait()
			got := r.wantStatus(j, statusPending, codeServer)
			wait := got.NextAttemptAt.Sub(timeNow())
			if int(got.RetryCount) != n || wait > time.Second<<(n-1) || wait < 0 || got.Error != "SERVER_ERROR: HTTP 502" {
				t.Fatalf("after attempt %d: retry_count %d, next attempt in %s, error %q", n, got.RetryCount, wait, got.Error)
			}
			advance(wait) // and no longer: the next wait may be as short as a millisecond
			if a := r.attempts(); len(a) != n+1 || a[n].at.Before(got.NextAttemptAt) || a[n].at.Sub(got.NextAttemptAt) > 2*time.Millisecond {
				t.Fatalf("%d attempts, want %d, the last at %s", len(a), n+1, timeText(got.NextAttemptAt))
			}
		}
		got := r.wantStatus(j, statusFailed, codeServer)
		if got.RetryCount != 4 || !got.NextAttemptAt.IsZero() || got.CompletedAt.IsZero() {
			t.Fatalf("at the end: %+v", got)
		}
		if n := strings.Count(r.log.String(), `"msg":"job retrying"`); n != 4 {
			t.Fatalf("%d lines about retries", n)
		}
	})
}

func TestFailureThatIsNoUseToRepeatFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := map[string]error{
			codeAPI:      &Error{Code: codeAPI, Message: "no such repository", Fate: fateRefused},
			codeInternal: errors.New("anything without a code"),
		}
		r := newQueueRig(t, QueueOptions{}, func(_ context.Context, j *Job) (string, error) { return "", fail[j.Schedule] })
		r.q.Start()
		for code := range fail {
			j := newTestJob("github.commits")
			j.Schedule = code
			r.submit(j)
			synctest.Wait()
			if got := r.wantStatus(j, statusFailed, code); got.RetryCount != 0 {
				t.Errorf("%s: %d retries", code, got.RetryCount)
			}
		}
	})
}

func TestComplaintBesideAUsableResultStaysWithTheCompletedJob(t *testing.T) {
	for partial, want := range map[string]string{"": "", "no rights to b (FORBIDDEN)": codePartial} {
		end := settle(*newTestJob("github.commits"), outcome{result: `{"a":1}`, partial: partial})
		if end.Status != statusCompleted || end.Result != `{"a":1}` || end.ErrorCode != want || !strings.HasSuffix(end.Error, partial) || end.held() ||
			end.CompletedAt.IsZero() {
			t.Errorf("%q: %+v", partial, end)
		}
	}
}

func TestTimeoutIsPerAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, func(ctx context.Context, _ *Job) (string, error) {
			<-ctx.Done()
			return "", &Error{Code: codeTimeout, Message: "the answer did not come in time", Fate: fateLost, Cause: ctx.Err()}
		})
		j := newTestJob("github.commits")
		j.Timeout, j.MaxRetries = 20*time.Second, 1
		r.submit(j)
		r.q.Start()
		advance(time.Minute)
		got := r.wantStatus(j, statusFailed, codeTimeout)
		if took := got.CompletedAt.Sub(got.StartedAt); len(r.attempts()) != 2 || took != 20*time.Second {
			t.Fatalf("%d attempts, the last took %s", len(r.attempts()), took)
		}
	})
}

func TestJobIsNotStartedBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{Workers: 2}, nil)
		r.q.Start()
		var jobs []*Job
		for _, wait := range []time.Duration{2 * time.Hour, 90 * time.Second, 90*time.Second + time.Millisecond, -time.Hour} {
			j := newTestJob("github.commits")
			j.NextAttemptAt = timeNow().Add(wait)
			jobs = append(jobs, r.submit(j))
		}
		begin := timeNow()
		advance(3 * time.Hour)
		for _, a := range r.attempts() {
			due := jobs[a.job.Seq-1].NextAttemptAt
			if late := a.at.Sub(due); due.After(begin) && (late < 0 || late > 2*time.Millisecond) {
				t.Errorf("job %d ran %s late", a.job.Seq, late)
			}
		}
		if len(r.attempts()) != 4 {
			t.Fatalf("%d of 4 jobs ran", len(r.attempts()))
		}
	})
}

func TestRateLimitHoldsTheWholeEnvironmentAndCostsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var limited atomic.Bool
		limited.Store(true)
		r := newQueueRig(t, QueueOptions{Workers: 1}, func(_ context.Context, j *Job) (string, error) {
			if limited.Load() && j.Environment == "production" {
				return "", &Error{Code: codeRateLimited, Message: "HTTP 429; the API asks to wait 10m0s", Hold: 10 * time.Minute, Fate: fateUnsent}
			}
			return "1", nil
		})
		first, other, elsewhere := newTestJob("github.commits"), newTestJob("jira.issues"), newTestJob("github.commits")
		first.MaxRetries, first.Priority, elsewhere.Environment = 0, 5, "staging"
		for _, j := range []*Job{first, other, elsewhere} {
			r.submit(j)
		}
		r.q.Start()
		until := timeNow().Add(10 * time.Minute)
		synctest.Wait()
		got := r.wantStatus(first, statusPending, codeRateLimited)
		if got.RetryCount != 0 || !got.NextAttemptAt.Equal(until) {
			t.Fatalf("retry_count %d, next attempt %s", got.RetryCount, timeText(got.NextAttemptAt))
		}
		r.wantStatus(elsewhere, statusCompleted, "")
		r.wantStatus(other, statusPending, "")
		if s := r.q.State("production"); !s.HeldUntil.Equal(until) || !strings.Contains(s.HeldReason, "429") {
			t.Fatalf("state %+v, want held until %s", s, timeText(until))
		}
		if s := r.q.State("staging"); !s.HeldUntil.IsZero() {
			t.Fatalf("staging is held, too: %+v", s)
		}
		retry := `","retry_count":0,"next_retry":"` + timeText(until)
		if strings.Count(r.log.String(), "job retrying") != 1 || !strings.Contains(r.log.String(), retry) || !strings.Contains(r.log.String(), "queue held") {
			t.Fatalf("the log does not say once what became of the job: %s", r.log)
		}

		r.stop() // the hold outlives a restart
		r.reopen()
		if s := r.q.State("production"); !s.HeldUntil.Equal(until) || s.HeldReason == "" {
			t.Fatalf("after a restart: %+v", s)
		}
		r.q.Start()
		advance(until.Sub(timeNow()) - time.Millisecond)
		if n := len(r.attempts()); n != 2 {
			t.Fatalf("%d attempts before the hold was over, want the two from before it", n)
		}
		limited.Store(false)
		advance(10 * time.Millisecond)
		r.wantStatus(first, statusCompleted, "")
		r.wantStatus(other, statusCompleted, "")
		if s := r.q.State("production"); !s.HeldUntil.IsZero() {
			t.Fatalf("still held: %+v", s)
		}
	})
}

func TestShorterHoldDoesNotEndALongerOne(t *testing.T) {
	r := newQueueRig(t, QueueOptions{}, nil)
	until := timeNow().Add(10 * time.Minute)
	r.q.hold("production", until, "long")
	r.q.hold("production", until.Add(-9*time.Minute), "short")
	if s := r.q.State("production"); !s.HeldUntil.Equal(until) || s.HeldReason != "long" {
		t.Errorf("%+v, want held until %s", s, timeText(until))
	}
}

func TestHeldJobStartsWhenTheHoldEndsThoughNothingElseIsDueThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, func(_ context.Context, j *Job) (string, error) {
			if j.Command == "jira.issues" {
				return "1", nil
			}
			return "", &Error{Code: codeRateLimited, Message: "HTTP 429", Hold: 40 * time.Second, Fate: fateUnsent}
		})
		r.q.Start()
		limited := r.submit(newTestJob("github.commits"))
		synctest.Wait()
		behind := r.submit(newTestJob("jira.issues"))
		if err := r.q.Cancel(limited.ID); err != nil { // its own next attempt would wake the queue as well
			t.Fatal(err)
		}
		advance(40*time.Second - time.Millisecond)
		r.wantStatus(behind, statusPending, "")
		advance(2 * time.Millisecond)
		r.wantStatus(behind, statusCompleted, "")
	})
}

func TestRateLimitOfATokenRefreshIsAHoldLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			return "", &Error{Code: codeAuthNetwork, Message: "refreshing the login: HTTP 429", Hold: time.Minute, Fate: fateUnsent}
		})
		j := r.submit(newTestJob("github.commits"))
		r.q.Start()
		synctest.Wait()
		r.wantStatus(j, statusPending, codeRateLimited)
		r.stop()
		r.reopen()
		if s := r.q.State("production"); s.HeldUntil.IsZero() {
			t.Fatal("the hold was forgotten by a restart")
		}
	})
}

func TestCancelEndsPendingAndRunningJobsAndRefusesEndedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var aborted atomic.Bool
		r := newQueueRig(t, QueueOptions{Workers: 1}, func(ctx context.Context, j *Job) (string, error) {
			if j.Priority == 1 {
				return "1", nil
			}
			<-ctx.Done()
			aborted.Store(true)
			return "", &Error{Code: codeNetwork, Message: "the request was abandoned", Fate: fateLost, Cause: context.Canceled}
		})
		r.q.Start()
		done := newTestJob("github.commits")
		done.Priority = 1
		r.submit(done)
		synctest.Wait()
		running := r.submit(newTestJob("github.commits"))
		synctest.Wait()
		pending, delayed := r.submit(newTestJob("github.commits")), newTestJob("github.commits")
		delayed.NextAttemptAt = timeNow().Add(time.Hour)
		r.submit(delayed)

		if err := r.q.Cancel(done.ID); codeOf(err) != codeFailedPrecondition {
			t.Fatalf("cancelling a finished job: %v", err)
		}
		if err := r.q.Cancel("nosuchjob"); codeOf(err) != codeNotFound {
			t.Fatalf("cancelling an unknown job: %v", err)
		}
		for _, j := range []*Job{pending, delayed, running} {
			if err := r.q.Cancel(j.ID); err != nil {
				t.Fatal(err)
			}
			if err := r.q.Cancel(j.ID); codeOf(err) != codeFailedPrecondition {
				t.Fatalf("cancelling twice: %v", err)
			}
		}
		synctest.Wait()
		if !aborted.Load() {
			t.Fatal("the request of the running job goes on")
		}
		advance(2 * time.Hour)
		for _, j := range []*Job{pending, delayed, running} {
			if got := r.wantStatus(j, statusCancelled, ""); got.CompletedAt.IsZero() || !got.NextAttemptAt.IsZero() {
				t.Fatalf("cancelled job: %+v", got)
			}
		}
		r.wantStatus(done, statusCompleted, "")
		if s := r.q.State(""); !aborted.Load() || s.Pending+s.Running+s.Busy != 0 || len(r.attempts()) != 2 {
			t.Fatalf("aborted: %t, %d attempts, state %+v", aborted.Load(), len(r.attempts()), s)
		}
	})
}

func TestCancelRacingWithTheEndHasOneWinner(t *testing.T) {
	r := newQueueRig(t, QueueOptions{Workers: 4}, func(_ context.Context, j *Job) (string, error) {
		if j.Seq%3 == 0 {
			return "", &Error{Code: codeServer, Message: "again", Fate: fateLost}
		}
		return "1", nil
	})
	r.q.Start()
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			j := newTestJob([]string{"github.commits", "github.clone"}[i%2])
			j.MaxRetries = 1
			if _, err := r.q.Submit(j); err != nil {
				t.Error(err)
				return
			}
			w, err := r.q.Watch(j.ID)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.q.Unwatch(w)
			cancelErr := r.q.Cancel(j.ID)
			var last *Job
			for last = range w.C {
			}
			stored, err := r.store.Job(j.ID, 100)
			switch {
			case err != nil:
				t.Error(err)
			case last == nil || last.Status != stored.Status || !last.finished():
				t.Errorf("the watch ended with %+v, the store has %s", last, stored.Status)
			case cancelErr == nil && stored.Status != statusCancelled, codeOf(cancelErr) == codeFailedPrecondition && stored.Status == statusCancelled:
				t.Errorf("cancel said %v and the job is %s", cancelErr, stored.Status)
			}
		})
	}
	wg.Wait()
	if c, err := r.store.Finished(); err != nil || c.Completed+c.Failed+c.Cancelled != 300 {
		t.Fatalf("counts %+v, want 300 in all", c)
	}
}

// A row that was cancelled between the taking of its turn and the reading of it must not reach the API.
func TestJobThatIsNoLongerPendingIsNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		j := r.submit(newTestJob("github.clone"))
		r.reopen() // the item without its job
		if err := r.store.End(j.Seq, statusCancelled, "", "", nil); err != nil {
			t.Fatal(err)
		}
		next := r.submit(newTestJob("github.commits"))
		r.q.Start()
		synctest.Wait()
		if a := r.attempts(); len(a) != 1 || a[0].job.ID != next.ID {
			t.Fatalf("%d attempts, want only the job that was not cancelled", len(a))
		}
		if s := r.q.State(""); s.Running+s.Busy+s.Pending != 0 {
			t.Fatalf("state %+v", s)
		}
	})
}

func TestMutationIsSentAgainOnlyWhereItSurelyWasNotCarriedOut(t *testing.T) {
	for _, c := range []struct {
		name         string
		err          *Error
		status, code string
		again        bool
	}{
		{"connection never made", &Error{Code: codeNetwork, Fate: fateUnsent}, statusPending, codeNetwork, true},
		{"no fresh token", &Error{Code: codeAuthNetwork, Fate: fateUnsent}, statusPending, codeAuthNetwork, true},
		{"429", &Error{Code: codeRateLimited, Hold: time.Second, Fate: fateUnsent}, statusPending, codeRateLimited, true},
		{"connection cut off", &Error{Code: codeNetwork, Fate: fateLost}, statusFailed, codeOutcomeUnknown, false},
		{"no answer in time", &Error{Code: codeTimeout, Fate: fateLost}, statusFailed, codeOutcomeUnknown, false},
		{"5xx", &Error{Code: codeServer, Fate: fateLost}, statusFailed, codeOutcomeUnknown, false},
		{"unreadable answer", &Error{Code: codeBadResponse, Fate: fateLost}, statusFailed, codeOutcomeUnknown, false},
		{"answer too large", &Error{Code: codeResultTooLarge}, statusFailed, codeOutcomeUnknown, false},
		{"plain no", &Error{Code: codeAPI, Fate: fateRefused}, statusFailed, codeAPI, false},
		{"redirect", &Error{Code: codeBadResponse, Fate: fateRefused}, statusFailed, codeBadResponse, false},
		{"not logged in", &Error{Code: codeAuthRequired}, statusFailed, codeAuthRequired, false},
		{"login expired", &Error{Code: codeAuthExpired}, statusFailed, codeAuthExpired, false},
		{"token refused twice", &Error{Code: codeAuthInvalid, Fate: fateRefused}, statusFailed, codeAuthInvalid, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newQueueRig(t, QueueOptions{}, nil)
				c.err.Message = "the reason"
				var failing atomic.Bool
				failing.Store(true)
				r.q.Run = func(context.Context, *Job) (string, string, error) {
					if failing.Load() {
						return "", "", c.err
					}
					return "1", "", nil
				}
				j := r.submit(newTestJob("github.clone"))
				r.q.Start()
				synctest.Wait()
				got := r.wantStatus(j, c.status, c.code)
				if !strings.HasPrefix(got.Error, c.code+": ") || !strings.Contains(got.Error, "the reason") {
					t.Errorf("error %q", got.Error)
				}
				failing.Store(false)
				advance(time.Hour)
				if got := r.job(j); (got.Status == statusCompleted) != c.again {
					t.Errorf("an hour later the job is %s", got.Status)
				}
			})
		})
	}
}

// restartDuring stops the daemon, or kills it, while j's request is under way.
func restartDuring(t *testing.T, j *Job, clean bool, unsent bool) *Job {
	gate := make(chan struct{})
	fate := fateLost
	if unsent {
		fate = fateUnsent
	}
	r := newQueueRig(t, QueueOptions{}, func(ctx context.Context, _ *Job) (string, error) {
		if clean {
			<-ctx.Done()
			return "", &Error{Code: codeAuthNetwork, Message: "no fresh token in time", Fate: fate, Cause: ctx.Err()}
		}
		<-gate
		return "1", nil
	})
	r.submit(j)
	r.q.Start()
	advance(startPause)
	if got := r.job(j); got.Status != statusRunning || got.OpenStarts != 1 {
		t.Fatalf("before: %s with %d open starts", got.Status, got.OpenStarts)
	}
	if clean {
		r.stop()
		synctest.Wait()
		return r.job(j)
	}
	r.reopen()
	got := r.job(j)
	close(gate) // the dead daemon's worker ends with the test
	synctest.Wait()
	return got
}

func TestWhatAStopOrAKillMakesOfARunningJob(t *testing.T) {
	for _, c := range []struct {
		name, command string
		clean, unsent bool
		status, code  string
		openStarts    int
	}{
		{"query, stopped", "github.commits", true, false, statusPending, "", 0},
		{"query, killed", "github.commits", false, false, statusPending, "", 1},
		{"mutation, stopped before it was sent", "github.clone", true, true, statusPending, "", 0},
		{"mutation, stopped after it was sent", "github.clone", true, false, statusFailed, codeOutcomeUnknown, 0},
		{"mutation, killed", "github.clone", false, false, statusFailed, codeOutcomeUnknown, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := restartDuring(t, newTestJob(c.command), c.clean, c.unsent)
				if got.Status != c.status || got.ErrorCode != c.code || got.OpenStarts != c.openStarts || got.RetryCount != 0 {
					t.Fatalf("%s, code %q, %d open starts, %d retries", got.Status, got.ErrorCode, got.OpenStarts, got.RetryCount)
				}
			})
		})
	}
}

func TestThirdInterruptedStartIsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) { <-gate; return "1", nil })
		t.Cleanup(func() { close(gate) })
		j := r.submit(newTestJob("github.commits"))
		for n := 1; n <= 3; n++ {
			r.q.Start()
			advance(startPause)
			if len(r.attempts()) != n {
				t.Fatalf("start %d: %d attempts", n, len(r.attempts()))
			}
			r.reopen() // killed
		}
		r.wantStatus(j, statusFailed, codeInterrupted)
		r.q.Start()
		synctest.Wait()
		if len(r.attempts()) != 3 || !strings.Contains(r.log.String(), `"msg":"job failed"`) {
			t.Fatalf("%d attempts, want 3 and the failure in the log", len(r.attempts()))
		}
	})
}

func TestAckedJobsAreThereAfterAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		acked := r.submit(newTestJob("github.commits"))
		path := r.store.path // nothing of the old process is closed, stopped or flushed
		s, err := openStore(path, "full", "https://x.test")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got, err := s.Job(acked.ID, 1); err != nil || got.Status != statusPending {
			t.Fatal(got, err)
		}
	})
}

func TestPauseSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		if err := r.q.SetPaused(true); err != nil {
			t.Fatal(err)
		}
		j := r.submit(newTestJob("github.commits"))
		for range 2 {
			r.q.Start()
			advance(time.Hour)
			if s := r.q.State(""); !s.Paused || len(r.attempts()) != 0 {
				t.Fatalf("state %+v, %d attempts", s, len(r.attempts()))
			}
			r.stop()
			r.reopen()
		}
		r.q.Start()
		if err := r.q.SetPaused(false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.wantStatus(j, statusCompleted, "")
		r.stop()
		r.reopen()
		if r.q.State("").Paused {
			t.Fatal("paused again after a restart")
		}
	})
}

func TestFullQueueRefusesAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{MaxPending: 3}, nil)
		first := r.submit(newTestJob("github.commits"))
		if _, err := r.q.Submit(newTestJob("github.commits"), newTestJob("github.commits"), newTestJob("github.commits")); codeOf(err) != codeQueueFull {
			t.Fatalf("3 more than 1 of 3: %v", err)
		}
		if _, err := r.q.Submit(newTestJob("github.commits"), newTestJob("github.commits")); err != nil {
			t.Fatal(err)
		}
		if _, err := r.q.Submit(newTestJob("github.commits")); codeOf(err) != codeQueueFull {
			t.Fatalf("the fourth: %v", err)
		}
		if err := r.q.Cancel(first.ID); err != nil {
			t.Fatal(err)
		}
		r.submit(newTestJob("github.commits"))
		r.q.Start()
		synctest.Wait()
		for range 3 { // what was refused takes no room
			r.submit(newTestJob("github.commits"))
			synctest.Wait()
		}
		if jobs, err := r.store.Jobs(JobFilter{Limit: 100}); err != nil || len(jobs) != 7 {
			t.Fatalf("%d jobs stored (%v), want 7", len(jobs), err)
		}
	})
}

func TestConcurrentSubmitsNeverPassTheLimit(t *testing.T) {
	r := newQueueRig(t, QueueOptions{MaxPending: 50}, nil)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := r.q.Submit(newTestJob("github.commits")); err != nil && codeOf(err) != codeQueueFull {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s := r.q.State(""); s.Pending != 50 {
		t.Fatalf("%d jobs wait, want 50", s.Pending)
	}
}

func TestPanicInsideAJobFailsThatJobAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, func(_ context.Context, j *Job) (string, error) {
			if j.Priority == 1 {
				panic("boom")
			}
			return "1", nil
		})
		bad := newTestJob("github.commits")
		bad.Priority = 1
		r.submit(bad)
		good := r.submit(newTestJob("github.commits"))
		r.q.Start()
		synctest.Wait()
		if got := r.wantStatus(bad, statusFailed, codeInternal); strings.Contains(got.Error, "boom") {
			t.Errorf("the panic's text reached the client: %s", got.Error)
		}
		r.wantStatus(good, statusCompleted, "")
		if log := r.log.String(); !strings.Contains(log, "boom") || !strings.Contains(log, "queue_test.go") {
			t.Errorf("no panic with its stack in the log: %s", log)
		}
	})
}

func TestDrainWaitsForJobsThenAbandonsThemThenGivesUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		run    func(ctx context.Context, gate chan struct{}) error
		want   time.Duration
		status string
	}{
		{"a job that ends by itself", func(context.Context, chan struct{}) error { <-time.After(3 * time.Second); return nil }, 3 * time.Second, statusCompleted},
		{"a job that listens", func(ctx context.Context, _ chan struct{}) error { <-ctx.Done(); return ctx.Err() }, 5 * time.Second, statusPending},
		{"a job that is deaf", func(_ context.Context, gate chan struct{}) error { <-gate; return nil }, 6 * time.Second, statusRunning},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				r := newQueueRig(t, QueueOptions{}, func(ctx context.Context, _ *Job) (string, error) { return "1", c.run(ctx, gate) })
				t.Cleanup(func() { close(gate) })
				j := r.submit(newTestJob("github.commits"))
				r.q.Start()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				begin := time.Now()
				r.q.Stop()
				if _, err := r.q.Submit(newTestJob("github.commits")); codeOf(err) != codeShuttingDown {
					t.Errorf("submit while stopping: %v", err)
				}
				r.q.Drain(ctx, time.Second)
				if took := time.Since(begin); took != c.want {
					t.Errorf("drained in %s, want %s", took, c.want)
				}
				synctest.Wait()
				r.wantStatus(j, c.status, "")
			})
		})
	}
}

// A job may end after the store was closed under it: its worker must come to an end all the same.
func TestWritesAfterTheCloseAreRefused(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			s, err := openStore(filepath.Join(t.TempDir(), "daemon.db"), "normal", "https://x.test")
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Submit([]*Job{newTestJob("github.commits")}, func([]*Job) {}); codeOf(err) != codeShuttingDown {
				t.Fatalf("submit to a closed store: %v", err)
			}
			if err := s.SetConfigValue("a", "b"); codeOf(err) != codeShuttingDown {
				t.Fatalf("setting in a closed store: %v", err)
			}
		})
	}
}

// statuses reads w to its end.
func statuses(w *Watcher) (all []string) {
	for j := range w.C {
		all = append(all, j.Status)
	}
	return all
}

func (r *queueRig) watch(j *Job) *Watcher {
	r.Helper()
	w, err := r.q.Watch(j.ID)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { r.q.Unwatch(w) })
	return w
}

func TestWatcherSeesThePresentStateEachTransitionAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			if tries++; tries == 1 {
				return "", &Error{Code: codeServer, Message: "again", Fate: fateLost}
			}
			<-time.After(time.Minute)
			return `{"n":1}`, nil
		})
		j := r.submit(newTestJob("github.commits"))
		early := r.watch(j)
		r.q.Start()
		advance(30 * time.Second)
		late := r.watch(j)
		if got, want := statuses(early), []string{"pending", "running", "pending", "running", "completed"}; !slices.Equal(got, want) {
			t.Errorf("from the start: %v, want %v", got, want)
		}
		if got, want := statuses(late), []string{"running", "completed"}; !slices.Equal(got, want) {
			t.Errorf("from the middle: %v, want %v", got, want)
		}
		after := r.watch(j)
		last := <-after.C
		if _, open := <-after.C; open || last.Status != statusCompleted || last.ResultBytes != int64(len(`{"n":1}`)) {
			t.Errorf("after the end: %+v", last)
		}
		if _, err := r.q.Watch("nosuchjob"); codeOf(err) != codeNotFound {
			t.Errorf("watching nothing: %v", err)
		}
	})
}

func TestWatcherSeesTheCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) { <-gate; return "1", nil })
		t.Cleanup(func() { close(gate) })
		j := r.submit(newTestJob("github.commits"))
		r.q.Start()
		synctest.Wait()
		before := r.watch(j)
		if err := r.q.Cancel(j.ID); err != nil {
			t.Fatal(err)
		}
		// The deaf request is still under way, and the job is cancelled all the same.
		after := r.watch(j)
		synctest.Wait()
		if got := statuses(before); !slices.Equal(got, []string{"running", "cancelled"}) {
			t.Errorf("watched from before: %v", got)
		}
		if got := statuses(after); !slices.Equal(got, []string{"cancelled"}) {
			t.Errorf("watched from after: %v", got)
		}
	})
}

func TestSlowWatcherIsLetGoAndHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			if tries++; tries <= 50 {
				return "", &Error{Code: codeServer, Message: "again", Fate: fateLost}
			}
			return "1", nil
		})
		j := newTestJob("github.commits")
		j.MaxRetries = 100
		r.submit(j)
		w := r.watch(j)
		r.q.Start()
		advance(6 * time.Hour)
		r.wantStatus(j, statusCompleted, "")
		got := statuses(w)
		if len(got) != watchBuffer || got[len(got)-1] == statusCompleted {
			t.Fatalf("%d transitions, want the first %d and then the end of the watch", len(got), watchBuffer)
		}
	})
}

func TestStopEndsAllWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		j := r.submit(newTestJob("github.commits"))
		w := r.watch(j)
		r.q.Stop()
		if got := statuses(w); !slices.Equal(got, []string{"pending"}) {
			t.Fatalf("%v", got)
		}
		if _, err := r.q.Watch(j.ID); codeOf(err) != codeShuttingDown {
			t.Fatalf("watching while stopping: %v", err)
		}
	})
}

func TestPendingJobCostsAtMost120Bytes(t *testing.T) {
	const n = 200_000
	r := newQueueRig(t, QueueOptions{}, nil)
	heapInUse := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heapInUse()
	key := groupKey{"production", "github"}
	r.q.mu.Lock()
	for i := range n {
		r.q.pushLocked(key, int64(i+1), int32(i%7), time.Time{}, nil)
	}
	r.q.mu.Unlock()
	each := float64(heapInUse()-before) / n
	t.Logf("%.1f bytes", each)
	if each > 120 || r.q.State("").Pending != n {
		t.Fatalf("%.1f bytes for each of %d pending jobs", each, r.q.State("").Pending)
	}
}

func TestWaitingJobsAreCachedOnlySoFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		for range 12 {
			j := newTestJob("github.commits")
			j.Payload = fmt.Appendf(nil, `{"organization":%q}`, strings.Repeat("x", 1<<20-100))
			r.submit(j)
		}
		if r.q.cached > cacheBytes || r.q.cached < cacheBytes/2 {
			t.Fatalf("%d bytes of jobs in memory, at most %d are allowed", r.q.cached, cacheBytes)
		}
		r.q.Start()
		synctest.Wait()
		if len(r.attempts()) != 12 || r.q.cached != 0 {
			t.Fatalf("%d attempts, %d bytes left", len(r.attempts()), r.q.cached)
		}
	})
}

// diskFull makes every write that needs room fail, until the returned function is called.
func (r *queueRig) diskFull() (free func()) {
	r.Helper()
	pages := func(n int) {
		done := make(chan error, 1)
		// Through the writer: the connection is its own.
		r.store.enqueue(&write{fn: func(t *tx) error { return t.exec(fmt.Sprintf("PRAGMA max_page_count = %d", n)) }, done: func(err error) { done <- err }})
		if err := <-done; err != nil {
			r.Fatal(err)
		}
	}
	pages(1) // that is: as many as there are
	return func() { pages(1 << 20) }
}

func TestResultsThatTheDiskRefusesAreKeptAndStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result := `"` + strings.Repeat("x", 300_000) + `"`
		r := newQueueRig(t, QueueOptions{Workers: 3}, func(context.Context, *Job) (string, error) { return result, nil })
		j := r.submit(newTestJob("github.commits"))
		w := r.watch(j)
		all := []*Job{j}
		for range 3 { // they are ready when the first has failed to be stored
			later := newTestJob("jira.issues")
			later.NextAttemptAt = timeNow().Add(10 * time.Second)
			all = append(all, r.submit(later))
		}
		free := r.diskFull()
		r.q.Start()
		advance(time.Minute)
		if s := r.q.State(""); s.Failing != 1 || s.Running != 1 || s.Pending != 3 || r.store.Problem() == "" {
			t.Fatalf("state %+v, problem %q", s, r.store.Problem())
		}
		if len(r.attempts()) != 1 {
			t.Fatalf("%d attempts while nothing can be stored, want 1", len(r.attempts()))
		}
		free()
		advance(2 * time.Second)
		for _, j := range all {
			if got := r.wantStatus(j, statusCompleted, ""); got.Result != result {
				t.Fatalf("a result of %d bytes", len(got.Result))
			}
		}
		if got := statuses(w); got[len(got)-1] != statusCompleted || len(r.attempts()) != 4 {
			t.Fatalf("watched %v in %d attempts", got, len(r.attempts()))
		}
		if s := r.q.State(""); s.Failing != 0 || s.Running != 0 || r.store.Problem() != "" {
			t.Fatalf("afterwards: %+v, problem %q", s, r.store.Problem())
		}
	})
}

func TestAllWorkersGoOnWhenTheDiskIsWritableAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := newQueueRig(t, QueueOptions{Workers: 3}, func(ctx context.Context, j *Job) (string, error) {
			if j.Priority == 0 {
				<-gate
			}
			return "1", nil
		})
		t.Cleanup(func() { close(gate) })
		first := newTestJob("github.commits")
		first.Priority = 1
		do := func(statement string) {
			if err := r.store.update(func(t *tx) error { return t.exec(statement) }); err != nil {
				t.Fatal(err)
			}
		}
		do("CREATE TRIGGER broken BEFORE UPDATE OF result ON jobs BEGIN SELECT RAISE(ABORT, 'the disk says no'); END")
		r.submit(first)
		r.q.Start()
		synctest.Wait()
		for range 3 {
			r.submit(newTestJob("github.commits")) // nobody takes them yet
		}
		synctest.Wait()
		if s := r.q.State(""); s.Busy != 0 || s.Failing != 1 {
			t.Fatalf("state %+v, want one result that cannot be stored", s)
		}
		do("DROP TRIGGER broken")
		advance(2 * time.Second)
		if s := r.q.State(""); s.Busy != 3 {
			t.Fatalf("%d of 3 workers are busy with 3 jobs", s.Busy)
		}
	})
}

func TestMutationIsNotSentBeforeItsStartIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		j := r.submit(newTestJob("github.clone"))
		release := r.holdWriter()
		r.q.Start()
		advance(time.Minute)
		if len(r.attempts()) != 0 {
			t.Fatal("the request went out before the disk knew of it")
		}
		release()
		synctest.Wait()
		r.wantStatus(j, statusCompleted, "")
	})
}

// holdWriter lets nothing be written until the returned function is called.
func (r *queueRig) holdWriter() (release func()) { return holdWriter(r.store) }

func TestResultsOnTheirWayToTheDiskAreBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const results, workers = maxUnsavedBytes >> 20, 3 // of 1 MiB
		big := `"` + strings.Repeat("x", 1<<20) + `"`
		r := newQueueRig(t, QueueOptions{Workers: workers}, func(context.Context, *Job) (string, error) { return big, nil })
		for range results + 6 {
			r.submit(newTestJob("github.commits"))
		}
		release := r.holdWriter()
		r.q.Start()
		synctest.Wait()
		if n := len(r.attempts()); n < results || n >= results+workers {
			t.Errorf("%d attempts while nothing can be written, want about %d", n, results)
		}
		release()
		advance(time.Second)
		if s := r.q.State(""); len(r.attempts()) != results+6 || s.Running+s.Pending != 0 || r.q.unsaved+r.q.unsavedB != 0 {
			t.Errorf("%d attempts, state %+v, %d unsaved with %d bytes", len(r.attempts()), s, r.q.unsaved, r.q.unsavedB)
		}
	})
}

func TestJobCancelledWhileItsStartIsWrittenIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		r.submit(newTestJob("github.clone"))
		it, running := r.q.next() // as a worker does
		running.cancelled = true  // and Cancel, meanwhile
		r.q.work(1, it, running)
		if s := r.q.State(""); len(r.attempts()) != 0 || s.Running+s.Busy != 0 {
			t.Errorf("%d attempts, state %+v", len(r.attempts()), s)
		}
	})
}

func TestRunningJobIsKnownBeforeTheStoreLearnsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) { <-gate; return "1", nil })
		j := r.submit(newTestJob("github.commits"))
		release := r.holdWriter()
		r.q.Start()
		synctest.Wait()
		r.wantStatus(j, statusPending, "")
		server := &rpcServer{parts: parts{store: r.store, queue: r.q}}
		if got, err := server.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: j.ID}); err != nil || got.Status != statusRunning || got.StartedAt == "" {
			t.Errorf("shown as %v (%v)", got, err)
		}
		release()
		close(gate)
		synctest.Wait()
		r.wantStatus(j, statusCompleted, "")
		if r.q.RunningJob(j.Seq) != nil {
			t.Error("it still runs")
		}
	})
}

func TestJobWhoseStartTheDiskRefusesIsSentOnceTheDiskIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		do := func(statement string) {
			if err := r.store.update(func(t *tx) error { return t.exec(statement) }); err != nil {
				t.Fatal(err)
			}
		}
		do("CREATE TRIGGER broken BEFORE UPDATE ON jobs BEGIN SELECT RAISE(ABORT, 'the disk says no'); END")
		j := r.submit(newTestJob("github.clone")) // a mutation's start must be on disk
		r.q.Start()
		advance(10 * time.Second)
		if s := r.q.State(""); len(r.attempts()) != 0 || s.Pending != 1 || s.Running != 0 || s.Busy != 0 {
			t.Fatalf("%d attempts, state %+v", len(r.attempts()), s)
		}
		do("DROP TRIGGER broken")
		advance(2 * storageRetry)
		r.wantStatus(j, statusCompleted, "")
		if n := len(r.attempts()); n != 1 {
			t.Fatalf("%d attempts, want 1", n)
		}
	})
}

func TestRetryIntoARemovedEnvironmentIsRefused(t *testing.T) {
	r := newQueueRig(t, QueueOptions{}, nil)
	j := newTestJob("github.commits")
	j.Environment = "gone"
	r.submit(j)
	if err := r.q.Cancel(j.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.q.Retry(j.ID); codeOf(err) != codeNotFound {
		t.Fatalf("retry: %v", err)
	}
}

// Its dates were resolved long ago: counted as its schedule's, last-success would step over what came since.
func TestRetryOfAScheduledJobIsNoRunOfItsSchedule(t *testing.T) {
	r := newQueueRig(t, QueueOptions{}, nil)
	j := newTestJob("github.commits")
	j.Schedule = "nightly"
	r.submit(j)
	if err := r.q.Cancel(j.ID); err != nil {
		t.Fatal(err)
	}
	again, err := r.q.Retry(j.ID)
	if err != nil || again.Schedule != "" || again.ID == j.ID {
		t.Fatalf("retry: %+v (%v)", again, err)
	}
}

func TestIdempotencyKeyNamesOneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		keyed := func(change func(*Job)) *Job {
			j := newTestJob("github.commits")
			j.IdempotencyKey, j.SubmittedPayload = "key", []byte(`{"organization":"acme","startDate":"-7d"}`)
			change(j)
			return j
		}
		first := r.submit(keyed(func(*Job) {}))
		r.q.Start()
		synctest.Wait()
		same := keyed(func(j *Job) { j.Payload = []byte(`{"organization":"acme","startDate":"1999-12-25"}`) }) // resolved on another day
		if same = r.submit(same); !same.Existing || same.ID != first.ID {
			t.Fatalf("the same job again: %+v, want the earlier job %s", same, first.ID)
		}
		for name, other := range map[string]*Job{
			"command":     keyed(func(j *Job) { j.Command = "github.pullRequests" }),
			"payload":     keyed(func(j *Job) { j.SubmittedPayload = []byte(`{"organization":"other"}`) }),
			"environment": keyed(func(j *Job) { j.Environment = "staging" }),
		} {
			if _, err := r.q.Submit(other); codeOf(err) != codeAlreadyExists {
				t.Errorf("another %s under the key: %v", name, err)
			}
		}
		synctest.Wait()
		if n := len(r.attempts()); n != 1 {
			t.Fatalf("%d attempts, want 1", n)
		}
		again, err := r.q.Retry(first.ID)
		if codeOf(err) != codeFailedPrecondition {
			t.Fatalf("retrying a completed job: %v, %v", again, err)
		}
	})
}

func TestRetryMakesANewJobWithoutTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		j := newTestJob("github.commits")
		j.IdempotencyKey, j.SubmittedPayload, j.Priority, j.MaxRetries = "key", []byte("{}"), 7, 9
		j = r.submit(j)
		if err := r.q.Cancel(j.ID); err != nil {
			t.Fatal(err)
		}
		again, err := r.q.Retry(j.ID)
		if err != nil || again.ID == j.ID || again.IdempotencyKey != "" || again.Priority != 7 || again.MaxRetries != 9 || string(again.Payload) != string(j.Payload) {
			t.Fatalf("%+v, %v", again, err)
		}
		r.q.Start()
		synctest.Wait()
		r.wantStatus(j, statusCancelled, "")
		r.wantStatus(again, statusCompleted, "")
	})
}

func TestSubmitStoresAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{MaxPending: 10}, nil)
		taken := newTestJob("github.commits")
		taken.IdempotencyKey, taken.SubmittedPayload = "key", []byte("1")
		r.submit(taken)
		clash := newTestJob("github.commits")
		clash.IdempotencyKey, clash.SubmittedPayload = "key", []byte("2")
		for range 20 { // and what is refused gives its reserved room back
			if _, err := r.q.Submit(newTestJob("jira.issues"), clash, newTestJob("jira.issues")); codeOf(err) != codeAlreadyExists {
				t.Fatal(err)
			}
		}
		r.q.Start()
		synctest.Wait()
		if jobs, err := r.store.Jobs(JobFilter{Limit: 100}); err != nil || len(jobs) != 1 || len(r.attempts()) != 1 {
			t.Fatalf("%d jobs, %d attempts (%v), want only the first", len(jobs), len(r.attempts()), err)
		}
	})
}

// A job that is cancelled as soon as its id can be known is found by the cancellation, wherever its submit has got to.
func TestJobIsQueuedBeforeAnyLaterWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		j := newTestJob("github.clone")
		release := r.holdWriter()
		go r.q.Submit(j)
		synctest.Wait()
		cancelled := make(chan struct{})
		// The next write, as that of a Cancel: the writer takes both before the submitter hears of its own.
		r.store.enqueue(&write{fn: func(t *tx) error {
			return t.exec("UPDATE jobs SET status = 'cancelled', completed_at = updated_at WHERE command = 'github.clone'")
		}, done: func(error) {
			r.q.mu.Lock()
			defer r.q.mu.Unlock()
			if len(r.q.items) != 1 {
				t.Errorf("%d jobs are queued when the write after the submit is done, want 1", len(r.q.items))
			}
			close(cancelled)
		}})
		release()
		<-cancelled
	})
}

// A start that changes no row is the start of a job that has ended: its request is not sent, or aborted.
func TestStartOfAnEndedJobIsNotRun(t *testing.T) {
	for _, command := range []string{"github.clone", "github.commits"} {
		synctest.Test(t, func(t *testing.T) {
			r := newQueueRig(t, QueueOptions{}, func(ctx context.Context, _ *Job) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			})
			j := r.submit(newTestJob(command))
			if err := r.store.End(j.Seq, statusCancelled, "", "", nil); err != nil { // memory has not heard of it yet
				t.Fatal(err)
			}
			r.q.Start()
			advance(startPause)
			if n := len(r.attempts()); command == "github.clone" && n != 0 {
				t.Errorf("%d attempts at a cancelled mutation", n)
			}
			if s := r.q.State(""); s.Running+s.Busy+s.Pending != 0 {
				t.Errorf("%s: state %+v, want an aborted request", command, s)
			}
			r.wantStatus(j, statusCancelled, "")
			if strings.Contains(r.log.String(), "job failed") {
				t.Errorf("log: %s", r.log)
			}
		})
	}
}

func TestKnownKeyIsAnsweredByAFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{MaxPending: 2}, nil)
		keyed := func(key string) *Job {
			j := newTestJob("github.commits")
			j.IdempotencyKey = key
			j.SubmittedPayload = j.Payload
			return j
		}
		first := r.submit(keyed("a"))
		r.submit(newTestJob("github.commits"))
		if again := r.submit(keyed("a")); again.ID != first.ID || !again.Existing {
			t.Errorf("%+v, want the earlier job %s", again, first.ID)
		}
		if _, err := r.q.Submit(keyed("a"), keyed("b")); codeOf(err) != codeQueueFull {
			t.Errorf("a known key and a new one on a full queue: %v", err)
		}
		if r.q.reserved != 0 {
			t.Errorf("%d places are still reserved", r.q.reserved)
		}
	})
}

func TestInterruptedEndIsLoggedOnceItIsStored(t *testing.T) {
	r := newQueueRig(t, QueueOptions{}, nil)
	j := r.submit(newTestJob("github.clone"))
	started := *j
	started.StartedAt = timeNow()
	if err := r.store.Start(&started); err != nil {
		t.Fatal(err)
	}
	const refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON jobs BEGIN SELECT RAISE (ABORT, 'no'); END"
	if err := r.store.update(func(t *tx) error { return t.exec(refuse) }); err != nil {
		t.Fatal(err)
	}
	if _, err := newQueue(r.opts); err == nil {
		t.Fatal("a database that takes nothing was taken")
	}
	if strings.Contains(r.log.String(), "job failed") {
		t.Errorf("an end that is not on disk was logged: %s", r.log)
	}
	if err := r.store.update(func(t *tx) error { return t.exec("DROP TRIGGER refuse") }); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	if !strings.Contains(r.log.String(), "job failed") {
		t.Errorf("log: %s", r.log)
	}
}

func TestJobIsRetriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			return "", &Error{Code: codeAPI, Message: "no", Fate: fateRefused}
		})
		r.q.Start()
		first := r.submit(newTestJob("github.commits"))
		synctest.Wait()
		second, err := r.q.Retry(first.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.job(first).RetriedBy; got != second.ID {
			t.Errorf("retried_by %q, want %q", got, second.ID)
		}
		synctest.Wait()
		third, err := r.q.Retry(second.ID)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := r.q.Retry(first.ID); codeOf(err) != codeFailedPrecondition || !strings.Contains(err.Error(), third.ID) {
			t.Errorf("a second retry: %v, want the latest one named, %s", err, third.ID)
		}
		unretried, err := r.store.Jobs(JobFilter{Status: statusFailed, Unretried: true, Limit: 10})
		if err != nil || len(unretried) != 1 || unretried[0].ID != third.ID {
			t.Errorf("unretried: %v (%v)", unretried, err)
		}
	})
}

func TestReleasedHoldsLetWaitingJobsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := true
		r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			if limited {
				limited = false
				return "", &Error{Code: codeRateLimited, Message: "later", Hold: time.Hour, Fate: fateUnsent}
			}
			return "1", nil
		})
		r.q.Start()
		first := r.submit(newTestJob("github.commits"))
		synctest.Wait()
		second := r.submit(newTestJob("github.commits"))
		synctest.Wait()
		r.wantStatus(second, statusPending, "")
		if err := r.q.ReleaseHolds(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.wantStatus(first, statusCompleted, "")
		r.wantStatus(second, statusCompleted, "")
		if s := r.q.State("production"); !s.HeldUntil.IsZero() {
			t.Errorf("still held: %+v", s)
		}
	})
}

// transactions counts those in the log of the database, which nobody has checkpointed yet: the last frame of each
// says how many pages the database has (SQLite's file format, section 4.1).
func transactions(t *testing.T, s *Store) (n int) {
	t.Helper()
	wal, err := os.ReadFile(s.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if len(wal) < 32 { // nothing was written yet
		return 0
	}
	salt := wal[16:24]
	frame := 24 + int(binary.BigEndian.Uint32(wal[8:]))
	for rest := wal[32:]; len(rest) >= frame; rest = rest[frame:] {
		if bytes.Equal(rest[8:16], salt) && binary.BigEndian.Uint32(rest[4:]) != 0 {
			n++
		}
	}
	return n
}

// An fsync is most of what a job takes on an idle daemon. A start has one of its own only where the API is slow.
func TestIdleJobCostsTwoFsyncsIfItsAPIIsQuick(t *testing.T) {
	for _, c := range []struct {
		took time.Duration
		want int
	}{{startPause / 2, 2}, {startPause * 2, 3}} {
		synctest.Test(t, func(t *testing.T) {
			r := newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
				time.Sleep(c.took)
				return "1", nil
			})
			r.q.Start()
			before := transactions(t, r.store)
			j := r.submit(newTestJob("github.commits"))
			advance(startPause * 3)
			done := r.wantStatus(j, statusCompleted, "")
			if n := transactions(t, r.store) - before; n != c.want || done.StartedAt.IsZero() || done.OpenStarts != 0 {
				t.Errorf("an attempt of %s: %d commits, want %d; started at %s", c.took, n, c.want, done.StartedAt)
			}
		})
	}
}

func TestJobIsSubmittedInTheLogBeforeItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{Workers: 4}, nil)
		r.q.Start()
		jobs := make([]*Job, 50)
		for i := range jobs {
			jobs[i] = newTestJob("github.commits")
		}
		if _, err := r.q.Submit(jobs...); err != nil {
			t.Fatal(err)
		}
		advance(time.Second)
		for _, j := range jobs {
			var told []string
			for line := range strings.Lines(r.log.String()) {
				if strings.Contains(line, j.ID) {
					_, message, _ := strings.Cut(line, `"msg":"job `)
					told = append(told, message[:strings.Index(message, `"`)])
				}
			}
			if !slices.Equal(told, []string{"submitted", "started", "completed"}) {
				t.Fatalf("%s: %v", j.ID, told)
			}
		}
	})
}

// Three lines are written for every job.
func TestLineOfAJobIsWrittenOnlyAtItsLevelAndAllocatesLittle(t *testing.T) {
	quiet := &syncBuffer{}
	q := &Queue{QueueOptions: QueueOptions{Log: slog.New(slog.NewJSONHandler(quiet, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
	j := newTestJob("github.commits")
	q.event(slog.LevelInfo, "job submitted", j)
	q.event(slog.LevelError, "job failed", j, slog.String("error", "no"))
	if lines := strings.Split(quiet.String(), "\n"); len(lines) != 2 || !strings.Contains(lines[0], `"job failed"`) {
		t.Errorf("at level warn: %q", lines)
	}
	q.Log = slog.New(slog.NewJSONHandler(io.Discard, &slog.HandlerOptions{ReplaceAttr: contractAttr}))
	n := testing.AllocsPerRun(300, func() {
		q.event(slog.LevelInfo, "job submitted", j, slog.Int("priority", int(j.Priority)))
	})
	if n > 3 {
		t.Errorf("%.0f allocations a line; they were 2", n)
	}
}

// A hold that is made after the clock was set back, and before anybody has looked at it, is by the new clock.
func TestAHoldOfAClockJustSetBackLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *queueRig
		n := 0
		r = newQueueRig(t, QueueOptions{}, func(context.Context, *Job) (string, error) {
			n++
			if n == 1 {
				// As if the clock had been set back by 10 minutes since the last look.
				r.q.mu.Lock()
				r.q.wall = r.q.wall.Add(10 * time.Minute)
				r.q.mu.Unlock()
				return "", &Error{Code: codeRateLimited, Message: "later", Hold: 5 * time.Minute, Fate: fateRefused}
			}
			return "1", nil
		})
		r.submit(newTestJob("github.commits"))
		r.submit(newTestJob("github.commits"))
		r.q.Start()
		synctest.Wait()
		advance(time.Second)
		a := r.attempts()
		if len(a) > 1 {
			t.Errorf("asked again after %s, the API asked for 5m", a[1].at.Sub(a[0].at))
		}
	})
}

func TestAJobThatIsPutBackFollowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		j := r.submit(newTestJob("github.commits"))
		it, a := r.q.next()
		r.q.putBack(it, a, errors.New("disk I/O error"))
		r.q.mu.Lock()
		r.q.items[j.Seq].notBefore += 3600_000 // as if pushed before the clock was set back by 1 h
		r.q.wall = r.q.wall.Add(time.Hour)
		r.q.mu.Unlock()
		r.q.Start()
		advance(5 * time.Minute)
		r.wantStatus(j, statusCompleted, "")
	})
}

func TestAWatcherOfACancelledJobIsNotToldThatItRuns(t *testing.T) {
	r := newQueueRig(t, QueueOptions{}, nil)
	j := r.submit(newTestJob("github.commits"))
	it, a := r.q.next() // a worker has taken it, and has not noted that it runs
	if err := r.q.Cancel(j.ID); err != nil {
		t.Fatal(err)
	}
	r.wantStatus(j, statusCancelled, "")
	w := &Watcher{C: make(chan *Job, watchBuffer), seq: j.Seq}
	present, err := r.q.addWatcher(w) // as Watch does
	if err != nil || present != nil {
		t.Fatal(present, err)
	}
	r.q.work(1, it, a)
	if len(w.C) > 0 { // of which Watch would think that it is newer than what it has read
		t.Errorf("it is told %s", (<-w.C).Status)
	}
}
