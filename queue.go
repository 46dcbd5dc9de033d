package main

// Which job runs next, and when. SQL is the truth about jobs; what is here is an index over those that wait, and the
// set of those that run. A job is committed first and pushed then, by the store's writer, so that no later write (its
// cancellation, say) can come in between; a crash between the two is healed at the next start, which loads what is open.
//
// Waiting jobs lie in one heap by time (delayed) or in the heap of their environment and provider (ready); a worker
// takes the best head of all groups that are neither held nor at their limit, so a busy provider blocks nobody else.
// Workers sleep on Queue.wake and are woken by what happens; one timer stands for the next deadline. Nothing polls.
//
// Queue.mu guards everything below it, and is never held across SQL, a request or a channel.

import (
	"container/heap"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	cacheBytes      = 8 << 20  // of waiting jobs kept in memory whole; the others are read when their turn comes
	maxUnsaved      = 512      // results on their way to the disk; more, and workers wait
	maxUnsavedBytes = 64 << 20 // likewise
	deadlineCheck   = 30 * time.Second
	pausedKey       = "queue_paused"
)

// QueueOptions are what a queue needs; Workers is at least 1, the limits are 0 for none.
type QueueOptions struct {
	Store                              *Store
	Workers, ProviderLimit, MaxPending int
	// Run carries out one attempt. partial is the API's complaint beside a usable result.
	Run      func(ctx context.Context, j *Job) (result string, partial string, err error)
	Mutation func(command string) bool
	Log      *slog.Logger
}

// Queue runs jobs.
type Queue struct {
	QueueOptions
	jobCtx  context.Context // ends when running jobs must be abandoned
	abandon context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	wake     sync.Cond // on mu: something changed that may let a worker start
	items    map[int64]*item
	groups   map[groupKey]*group
	delayed  itemHeap
	running  map[int64]*run
	active   map[string]int // running attempts by provider
	holds    map[string]hold
	watchers map[int64][]*Watcher
	timer    *time.Timer
	reserved int // accepted, not yet committed: they count against MaxPending
	cached   int // bytes of jobs held by items
	unsaved  int // ends of attempts on their way to the disk, and their bytes
	unsavedB int
	failing  int // of these, those that the disk refused for now
	busy     int // workers with an attempt under way
	paused   bool
	stopping bool
}

// item is a waiting job: 48 bytes, for there may be millions.
type item struct {
	seq       int64
	notBefore int64 // Unix milliseconds
	job       *Job  // nil: to be read
	group     *group
	priority  int32
	index     int32 // in its heap
}

type groupKey struct{ environment, provider string }

// group is what waits for one provider in one environment.
type group struct {
	groupKey
	ready itemHeap
}

// hold is a pause of an environment that its API asked for.
type hold struct {
	until  time.Time
	reason string
}

// run is a job from the start of an attempt to the commit of its end.
type run struct {
	job       *Job // as it is while it runs; nil until it was read
	cancel    context.CancelFunc
	cancelled bool // by a user: whatever comes of the attempt is dropped
}

// itemHeap orders by time and arrival, or by priority and arrival; container/heap alone is not first in, first out.
type itemHeap struct {
	items  []*item
	byTime bool
}

func (h *itemHeap) Len() int { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	if h.byTime && a.notBefore != b.notBefore {
		return a.notBefore < b.notBefore
	}
	if !h.byTime && a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.seq < b.seq
}
func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = int32(i), int32(j)
}
func (h *itemHeap) Push(x any) {
	x.(*item).index = int32(len(h.items))
	h.items = append(h.items, x.(*item))
}
func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}

// newQueue loads what is open in the store; Start lets it run.
func newQueue(o QueueOptions) (*Queue, error) {
	q := &Queue{QueueOptions: o, items: map[int64]*item{}, groups: map[groupKey]*group{}, delayed: itemHeap{byTime: true},
		running: map[int64]*run{}, active: map[string]int{}, holds: map[string]hold{}, watchers: map[int64][]*Watcher{}}
	q.wake.L = &q.mu
	q.jobCtx, q.abandon = context.WithCancel(context.Background())
	q.timer = time.AfterFunc(time.Hour, func() { q.Kick() })
	q.timer.Stop()
	paused, err := o.Store.ConfigValue(pausedKey)
	if err != nil {
		return nil, err
	}
	q.paused = paused == "true"
	return q, q.load()
}

// load pushes every open job, ending or taking up again the attempts that were cut off when the daemon died.
func (q *Queue) load() error {
	var interrupted []OpenJob
	err := q.Store.OpenJobs(func(o OpenJob) {
		if o.Running {
			interrupted = append(interrupted, o)
			return
		}
		if o.Held && o.NotBefore.After(q.holds[o.Environment].until) {
			q.holds[o.Environment] = hold{o.NotBefore, "the API asked to wait, before the restart"}
		}
		q.pushLocked(groupKey{o.Environment, provider(o.Command)}, o.Seq, o.Priority, o.NotBefore, nil)
	})
	for _, o := range interrupted {
		if err == nil {
			err = q.recover(o.Seq)
		}
	}
	return err
}

// recover makes up for an attempt that was cut off.
func (q *Queue) recover(seq int64) error {
	j, err := q.Store.JobBySeq(seq, 0)
	if err != nil {
		return err
	}
	code, message := codeInterrupted, "the daemon died three times while this job ran"
	if q.Mutation(j.Command) {
		code, message = codeOutcomeUnknown, "the daemon died while the request was under way; it may have been carried out"
	} else if j.OpenStarts < 3 {
		q.pushLocked(keyOf(j), seq, j.Priority, time.Time{}, nil)
		return q.Store.End(seq, statusPending, "", "", nil)
	}
	if err := q.Store.End(seq, statusFailed, code, message, nil); err != nil {
		return err
	}
	j.Status = statusFailed
	j.Error = code + ": " + message
	q.logEnd(j)
	return nil
}

// Start lets the workers run.
func (q *Queue) Start() {
	for id := range q.Workers {
		q.wg.Go(func() { q.worker(id + 1) })
	}
}

// Submit stores jobs, all or none, queues them, and returns them as stored; they are on disk when it returns. One whose
// idempotency key is known comes back as the earlier job.
func (q *Queue) Submit(jobs ...*Job) ([]*Job, error) {
	reserved, err := q.reserve(jobs)
	if err != nil {
		return nil, err
	}
	queued := 0
	stored, err := q.Store.Submit(jobs, func(stored []*Job) { queued = q.push(stored, true) })
	q.unreserve(reserved - queued)
	if err != nil {
		return nil, err
	}
	q.logSubmitted(stored...)
	return stored, nil
}

// reserve counts jobs against the limit before they are stored, and returns how many count. On a full queue those whose
// idempotency key is known take no place.
func (q *Queue) reserve(jobs []*Job) (n int, err error) {
	n = len(jobs)
	err = q.reserveRoom(n)
	if codeOf(err) != codeQueueFull || !slices.ContainsFunc(jobs, (*Job).keyed) {
		return n, err
	}
	if n, err = q.Store.CountNew(jobs); err != nil {
		return 0, err
	}
	return n, q.reserveRoom(n)
}

func (q *Queue) reserveRoom(n int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping {
		return errStoreClosed
	}
	if waiting := len(q.items) + q.reserved; n > 0 && q.MaxPending > 0 && waiting+n > q.MaxPending {
		return errorf(codeQueueFull, "%d jobs are waiting; queue.max_pending is %d", waiting, q.MaxPending).
			hint("wait, cancel some with: honeydew job cancel --status pending, or raise queue.max_pending")
	}
	q.reserved += n
	return nil
}

func (q *Queue) unreserve(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reserved -= n
}

// push queues jobs that have just been stored, and returns how many; the store's writer calls it. Where room was reserved
// for them, they take it: at no moment do they count twice.
func (q *Queue) push(jobs []*Job, reserved bool) (queued int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range jobs {
		if !j.Existing {
			q.pushLocked(keyOf(j), j.Seq, j.Priority, j.NextAttemptAt, j)
			q.wake.Signal()
			queued++
		}
	}
	if reserved {
		q.reserved -= queued
	}
	return queued
}

func (q *Queue) logSubmitted(jobs ...*Job) {
	for _, j := range jobs {
		if !j.Existing {
			q.event(slog.LevelInfo, "job submitted", j, slog.Int("priority", int(j.Priority)))
		}
	}
}

// Fire stores a schedule's run, queues its job and returns it, nil when there was none to make.
func (q *Queue) Fire(f Firing) (*Job, error) {
	fired, err := q.Store.Fire(f, func(j *Job) {
		if j != nil {
			q.push([]*Job{j}, false)
		}
	})
	if fired != nil && err == nil {
		q.logSubmitted(fired)
	}
	return fired, err
}

// Retry submits a failed or cancelled job again, as a new one.
func (q *Queue) Retry(prefix string) (*Job, error) {
	old, err := q.Store.Job(prefix, 0)
	if err != nil {
		return nil, err
	}
	if _, err := q.Store.Environment(old.Environment); err != nil {
		return nil, err
	}
	if err := q.reserveRoom(1); err != nil {
		return nil, err
	}
	queued := 0
	j, err := q.Store.Retry(old.Seq, func(j *Job) { queued = q.push([]*Job{j}, true) })
	q.unreserve(1 - queued)
	if err != nil {
		return nil, err
	}
	q.logSubmitted(j)
	return j, nil
}

// Cancel ends a pending or running job; a running one's request is aborted.
func (q *Queue) Cancel(prefix string) error {
	seq, err := q.Store.JobSeq(prefix)
	if err != nil {
		return err
	}
	// The database decides between this and a start or an end that is being committed; memory follows.
	if err := q.Store.End(seq, statusCancelled, "", "", func() { q.drop(seq) }); err != nil {
		return err
	}
	j, err := q.Store.JobBySeq(seq, 0)
	if err != nil {
		return err
	}
	q.mu.Lock()
	q.notifyLocked(j)
	q.mu.Unlock()
	q.event(slog.LevelInfo, "job cancelled", j)
	return nil
}

// drop forgets a waiting job that has ended, or aborts the request of a running one.
func (q *Queue) drop(seq int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.running[seq]; r != nil {
		r.abort()
	} else if it := q.items[seq]; it != nil {
		q.removeLocked(it)
	}
}

// abort drops whatever comes of the attempt; its owner holds Queue.mu.
func (r *run) abort() {
	r.cancelled = true
	if r.cancel != nil {
		r.cancel()
	}
}

// ReleaseHolds ends all pauses that APIs asked for: what waits for one may start.
func (q *Queue) ReleaseHolds() error {
	_, err := q.Store.ReleaseHeld(func(seqs []int64) {
		q.mu.Lock()
		defer q.mu.Unlock()
		clear(q.holds)
		for _, seq := range seqs {
			if it := q.items[seq]; it != nil && it.notBefore != 0 {
				heap.Remove(&q.delayed, int(it.index))
				it.notBefore = 0
				heap.Push(&it.group.ready, it)
			}
		}
		q.wake.Broadcast()
	})
	if err == nil {
		q.Log.Info("queue released: the pauses that APIs asked for are over")
	}
	return err
}

// SetPaused stops or starts the taking of new jobs, restarts included.
func (q *Queue) SetPaused(paused bool) error {
	if err := q.Store.SetConfigValue(pausedKey, strconv.FormatBool(paused)); err != nil {
		return err
	}
	q.mu.Lock()
	q.paused = paused
	q.mu.Unlock()
	q.Kick()
	return nil
}

// Kick looks at all deadlines again; for when the clock may have jumped.
func (q *Queue) Kick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake.Broadcast()
}

// QueueState is a moment's figures.
type QueueState struct {
	Pending, Running, Busy int
	Paused                 bool
	HeldUntil              time.Time // of the environment asked for
	HeldReason             string
	Failing                int // results that the disk refuses for now
}

// State tells of the queue, and of the hold on one environment.
func (q *Queue) State(environment string) QueueState {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := QueueState{Pending: len(q.items), Running: len(q.running), Busy: q.busy, Paused: q.paused, Failing: q.failing}
	if h := q.holds[environment]; h.until.After(timeNow()) {
		s.HeldUntil, s.HeldReason = h.until, h.reason
	}
	return s
}

// RunningJob returns the job as it runs, nil if it does not: the store learns of a start a moment later.
func (q *Queue) RunningJob(seq int64) *Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.running[seq]; r != nil {
		return r.job
	}
	return nil
}

func keyOf(j *Job) groupKey { return groupKey{j.Environment, provider(j.Command)} }

// pushLocked adds a waiting job; j may be nil.
func (q *Queue) pushLocked(key groupKey, seq int64, priority int32, notBefore time.Time, j *Job) {
	g := q.groups[key]
	if g == nil {
		g = &group{groupKey: key}
		q.groups[key] = g
	}
	it := &item{seq: seq, priority: priority, group: g}
	if j != nil && q.cached+jobBytes(j) <= cacheBytes {
		it.job = j
		q.cached += jobBytes(j)
	}
	q.items[seq] = it
	if !notBefore.IsZero() && notBefore.After(timeNow()) {
		it.notBefore = notBefore.UnixMilli()
		heap.Push(&q.delayed, it)
		return
	}
	heap.Push(&g.ready, it)
}

// jobBytes is about what a waiting job takes in memory.
func jobBytes(j *Job) int { return 512 + len(j.Payload) + len(j.SubmittedPayload) }

func (q *Queue) removeLocked(it *item) {
	h := &it.group.ready
	if it.notBefore != 0 {
		h = &q.delayed
	}
	heap.Remove(h, int(it.index))
	delete(q.items, it.seq)
	if it.job != nil {
		q.cached -= jobBytes(it.job)
	}
}

// next waits for a job that may start, and marks it as running; nil: the queue is stopping.
func (q *Queue) next() (*item, *run) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopping {
		now := timeNow()
		for len(q.delayed.items) > 0 && q.delayed.items[0].notBefore <= now.UnixMilli() {
			it := heap.Pop(&q.delayed).(*item)
			it.notBefore = 0
			heap.Push(&it.group.ready, it)
		}
		deadline := now.Add(deadlineCheck)
		if len(q.delayed.items) > 0 {
			deadline = time.UnixMilli(q.delayed.items[0].notBefore)
		}
		if !q.paused && q.failing == 0 && q.unsaved < maxUnsaved && q.unsavedB < maxUnsavedBytes {
			best, held := q.bestLocked(now)
			if best != nil {
				q.removeLocked(best)
				r := &run{}
				q.running[best.seq] = r
				q.active[best.group.provider]++
				q.busy++
				return best, r
			}
			if !held.IsZero() && (held.Before(deadline) || len(q.delayed.items) == 0) {
				deadline = held
			}
		}
		// A long wait is cut into pieces, since the timer stands still while the machine sleeps.
		if len(q.items) > 0 {
			q.timer.Reset(max(time.Millisecond, min(deadline.Sub(now), deadlineCheck)))
		}
		q.wake.Wait()
	}
	return nil, nil
}

// bestLocked finds the job whose turn it is; held is when the first hold on waiting jobs ends.
func (q *Queue) bestLocked(now time.Time) (best *item, held time.Time) {
	for _, g := range q.groups {
		if len(g.ready.items) == 0 || (q.ProviderLimit > 0 && q.active[g.provider] >= q.ProviderLimit) {
			continue
		}
		if h := q.holds[g.environment]; h.until.After(now) {
			if held.IsZero() || h.until.Before(held) {
				held = h.until
			}
			continue
		}
		head := g.ready.items[0]
		if best == nil || head.priority > best.priority || (head.priority == best.priority && head.seq < best.seq) {
			best = head
		}
	}
	return best, held
}
