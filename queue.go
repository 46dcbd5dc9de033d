package main

// Which job runs next, and when. SQL is the truth about jobs; what is here is an index over those that wait, and the
// set of those that run. A job is committed first and pushed then, by the store's writer, so that no later write (its
// cancellation, say) can come in between; a crash between the two is healed at the next start, which loads what is
// open.
//
// Waiting jobs lie in one heap by time, or in the heap of their environment and provider. A worker takes the best head
// of all groups that are neither held nor at their limit, so a busy provider blocks nobody else:
//
//	delayed                       17:02  17:05  18:00         when its time comes, a job moves to its group
//	                                |
//	                                v
//	ready   production, github    9  5  5  0  0               by priority, then by arrival
//	        production, jira      7  0
//	        staging, github       5                           held: its API asked to wait
//
// Workers sleep on Queue.wake and are woken by what happens; one timer stands for the next deadline. Nothing polls.
//
// Queue.mu guards everything below it. It is never held across SQL, a request or a channel that may block. Functions
// whose names end in Locked are called with it held.

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
	// cacheBytes of waiting jobs are kept in memory whole; the others are read when their turn comes.
	cacheBytes = 8 << 20
	// Results on their way to the disk: when there are more, workers wait.
	maxUnsaved      = 512
	maxUnsavedBytes = 64 << 20
	// deadlineCheck is the longest sleep: the timer stands still while the machine sleeps.
	deadlineCheck = 30 * time.Second
	// maxJitter is the longest that a schedule may have.
	maxJitter = 24 * time.Hour
	// clockNoise is less than what counts as a step of the wall clock.
	clockNoise = time.Second
	// pausedKey is the row of the config table that says whether the queue is paused.
	pausedKey = "queue_paused"
)

// QueueOptions are what a queue needs.
type QueueOptions struct {
	Store *Store
	Log   *slog.Logger
	// Workers is how many jobs run at once, at least 1.
	Workers int
	// ProviderLimit is how many jobs of one provider run at once. 0: no limit of its own.
	ProviderLimit int
	// MaxPending is how many jobs may wait. 0: no limit.
	MaxPending int
	// Run carries out one attempt. partial is the API's complaint beside a usable result.
	Run func(ctx context.Context, j *Job) (result string, partial string, err error)
	// Mutation reports whether a command changes something, so that it must not be carried out twice.
	Mutation func(command string) bool
}

// Queue runs jobs.
type Queue struct {
	QueueOptions
	// jobCtx ends when running jobs must be abandoned.
	jobCtx  context.Context
	abandon context.CancelFunc
	workers sync.WaitGroup

	mu sync.Mutex
	// wake, on mu: something has changed that may let a worker start. timer stands for the next deadline.
	wake  sync.Cond
	timer *time.Timer

	// What waits. Each item lies in one heap: in delayed, or in that of its group.
	items   map[int64]*item
	groups  map[groupKey]*group
	delayed itemHeap
	// cached is about how many bytes of jobs the items keep.
	cached int
	// reserved jobs are accepted and not committed yet. They count against MaxPending.
	reserved int

	// What runs, until its end is on disk. active are running attempts by provider, busy the workers that have one.
	running map[int64]*attempt
	active  map[string]int
	busy    int
	// unsaved ends of attempts are on their way to the disk, with so many bytes. failing of them were refused by it.
	unsaved  int
	unsavedB int
	failing  int

	// wall and steady are when the clock was last looked at.
	wall   time.Time
	steady time.Time

	// holds are those of environments. Those that are over stay until the next one.
	holds    map[string]environHold
	watchers map[int64][]*Watcher
	paused   bool
	stopping bool
}

// item is a waiting job: 48 bytes, for there may be millions.
type item struct {
	seq int64
	// notBefore is in Unix milliseconds. 0: the item is in its group's heap.
	notBefore int64
	// job is nil where it is to be read.
	job      *Job
	group    *group
	priority int32
	// relative: it waits for a length of time, not for a date.
	relative bool
	// index is the item's place in its heap.
	index int32
}

// groupKey names what a hold or a limit keeps back together.
type groupKey struct{ environment, provider string }

// keyOf is the group that a job waits in.
func keyOf(j *Job) groupKey {
	return groupKey{j.Environment, provider(j.Command)}
}

// group is what waits for one provider in one environment.
type group struct {
	groupKey
	ready itemHeap
}

// environHold is a pause of an environment that its API asked for.
type environHold struct {
	until  time.Time
	reason string
}

// attempt is a job from the start of an attempt to the commit of its end.
type attempt struct {
	// job is as it runs; nil until it was read. cancel aborts its request.
	job    *Job
	cancel context.CancelFunc
	// cancelled: a user has ended the job. Whatever comes of the attempt is dropped.
	cancelled bool
	// refused: the disk did not take its end, which is tried again.
	refused bool
}

// abortLocked drops whatever comes of the attempt. Where the request was not sent yet, it never is.
func (a *attempt) abortLocked() {
	a.cancelled = true
	if a.cancel != nil {
		a.cancel()
	}
}

// itemHeap orders by time and arrival, or by priority and arrival; container/heap alone is not first in, first out.
type itemHeap struct {
	items  []*item
	byTime bool
}

func (h *itemHeap) Len() int { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool {
	return h.items[i].before(h.items[j], h.byTime)
}

// before reports whether it comes first, by time or by priority.
func (it *item) before(other *item, byTime bool) bool {
	if byTime && it.notBefore != other.notBefore {
		return it.notBefore < other.notBefore
	}
	if !byTime && it.priority != other.priority {
		return it.priority > other.priority
	}
	return it.seq < other.seq
}

func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index = int32(i)
	h.items[j].index = int32(j)
}

// Push and Pop are for container/heap, which moves the item into its place.
func (h *itemHeap) Push(x any) {
	it := x.(*item)
	it.index = int32(len(h.items))
	h.items = append(h.items, it)
}

func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}

// newQueue loads what is open in the store; Start lets it run. Until then nothing is sent, so that a start that fails
// later has done nothing to any API.
func newQueue(o QueueOptions) (*Queue, error) {
	q := &Queue{
		QueueOptions: o,
		items:        map[int64]*item{},
		groups:       map[groupKey]*group{},
		delayed:      itemHeap{byTime: true},
		running:      map[int64]*attempt{},
		active:       map[string]int{},
		holds:        map[string]environHold{},
		watchers:     map[int64][]*Watcher{},
		wall:         timeNow(),
		steady:       time.Now(),
	}
	q.wake.L = &q.mu
	q.jobCtx, q.abandon = context.WithCancel(context.Background())
	q.timer = time.AfterFunc(time.Hour, q.Kick)
	q.timer.Stop()
	paused, err := o.Store.ConfigValue(pausedKey)
	if err != nil {
		return nil, err
	}
	q.paused = paused == "true"
	return q, q.load()
}

// load pushes every open job, ending or taking up again the attempts that were cut off when the daemon died. Nothing
// else knows the queue yet.
func (q *Queue) load() error {
	var cutOff []int64
	err := q.Store.OpenJobs(func(j *Job) {
		if j.Status == statusRunning {
			cutOff = append(cutOff, j.Seq)
			return
		}
		longest := j.longestWait()
		if longest > 0 && j.NextAttemptAt.After(q.wall.Add(longest)) {
			j.NextAttemptAt = time.Time{}
		}
		if j.held() && j.NextAttemptAt.After(q.holds[j.Environment].until) {
			q.holds[j.Environment] = environHold{j.NextAttemptAt, "the API asked to wait, before the restart"}
		}
		q.pushLocked(keyOf(j), j.Seq, j.Priority, j.NextAttemptAt, nil)
		q.items[j.Seq].relative = longest > 0
	})
	if err != nil {
		return err
	}
	for _, seq := range cutOff {
		if err := q.takeUp(seq); err != nil {
			return err
		}
	}
	return nil
}

// takeUp makes up for an attempt that was cut off when the daemon died. A query goes back to waiting, since asking
// again does no harm, but not for ever: it may be what kills the daemon. A mutation may have been carried out, and
// fails.
func (q *Queue) takeUp(seq int64) error {
	j, err := q.Store.JobBySeq(seq, 0)
	if err != nil {
		return err
	}
	if q.Mutation(j.Command) {
		return q.giveUp(j, codeOutcomeUnknown,
			"the daemon died while the request was under way; it may have been carried out")
	}
	if j.OpenStarts >= 3 {
		return q.giveUp(j, codeInterrupted, "the daemon died three times while this job ran")
	}
	q.pushLocked(keyOf(j), seq, j.Priority, time.Time{}, nil)
	return q.Store.Restart(seq)
}

// giveUp ends a job that was cut off. The log hears of it once it is on disk.
func (q *Queue) giveUp(j *Job, code, message string) error {
	if err := q.Store.End(j.Seq, statusFailed, code, message, nil); err != nil {
		return err
	}
	j.fail(code, message)
	q.logEnd(j)
	return nil
}

// Start lets the workers run. They are numbered from 1, for the log.
func (q *Queue) Start() {
	for id := range q.Workers {
		q.workers.Go(func() { q.worker(id + 1) })
	}
}

// Submit stores jobs, all or none, queues them, and returns them as stored; they are on disk when it returns. One whose
// idempotency key is known comes back as the earlier job.
func (q *Queue) Submit(jobs ...*Job) ([]*Job, error) {
	reserved, err := q.reserveNew(jobs)
	if err != nil {
		return nil, err
	}
	stored, err := q.Store.Submit(jobs, func(stored []*Job) { q.push(reserved, stored...) })
	if err != nil {
		q.push(reserved)
	}
	return stored, err
}

// reserveNew counts jobs against the limit before they are stored, and returns how many count. On a full queue those
// whose idempotency key is known take no place.
func (q *Queue) reserveNew(jobs []*Job) (int, error) {
	n := len(jobs)
	err := q.reserve(n)
	if codeOf(err) != codeQueueFull || !slices.ContainsFunc(jobs, (*Job).keyed) {
		return n, err
	}
	n, err = q.Store.CountNew(jobs)
	if err != nil {
		return 0, err
	}
	return n, q.reserve(n)
}

// reserve keeps room for n jobs. Whoever has reserved it gives it back through push, with the jobs or, where they
// could not be stored, without.
func (q *Queue) reserve(n int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping {
		return errStoreClosed
	}
	waiting := len(q.items) + q.reserved
	if n > 0 && q.MaxPending > 0 && waiting+n > q.MaxPending {
		return errorf(codeQueueFull, "%d jobs are waiting; queue.max_pending is %d", waiting, q.MaxPending).
			hint("wait, cancel some with: honeydew job cancel --status pending, or raise queue.max_pending")
	}
	q.reserved += n
	return nil
}

// push gives reserved room back, and logs and queues jobs that have just been stored; then the store's writer calls it.
// The jobs take the room that was reserved for them: at no moment do they count twice.
func (q *Queue) push(reserved int, jobs ...*Job) {
	for _, j := range jobs {
		if !j.Existing { // otherwise it is an earlier job, which was logged and queued then
			q.event(slog.LevelInfo, "job submitted", j, slog.Int("priority", int(j.Priority)))
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reserved -= reserved
	for _, j := range jobs {
		if !j.Existing {
			q.waitLocked(j)
			q.wake.Signal()
		}
	}
}

// Fire stores a schedule's run, queues its job and returns it, nil when there was none to make.
func (q *Queue) Fire(f Firing) (*Job, error) {
	return q.Store.Fire(f, func(j *Job) {
		if j != nil {
			q.push(0, j)
		}
	})
}

// Retry submits a failed or cancelled job again, as a new one. It is refused on a full queue, and where its environment
// was removed.
func (q *Queue) Retry(prefix string) (*Job, error) {
	old, err := q.Store.Job(prefix, 0)
	if err != nil {
		return nil, err
	}
	if _, err := q.Store.Environment(old.Environment); err != nil {
		return nil, err
	}
	if err := q.reserve(1); err != nil {
		return nil, err
	}
	j, err := q.Store.Retry(old.Seq, func(j *Job) { q.push(1, j) })
	if err != nil {
		q.push(1)
	}
	return j, err
}

// Cancel ends a pending or running job; a running one's request is aborted. codeFailedPrecondition: it had ended
// before.
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
	a := q.running[seq]
	it := q.items[seq]
	switch {
	case a != nil:
		a.abortLocked()
	case it != nil:
		q.removeLocked(it)
	}
}

// ReleaseHolds ends all pauses that APIs asked for: what waits for one may start. The database forgets them first, so
// that a restart brings none back.
func (q *Queue) ReleaseHolds() error {
	err := q.Store.ReleaseHeld(func(seqs []int64) {
		q.mu.Lock()
		defer q.mu.Unlock()
		clear(q.holds)
		for _, seq := range seqs {
			it := q.items[seq]
			if it != nil && it.notBefore != 0 {
				heap.Remove(&q.delayed, int(it.index))
				it.makeReady()
			}
		}
		q.wake.Broadcast()
	})
	if err != nil {
		return err
	}
	q.Log.Info("queue released: the pauses that APIs asked for are over")
	return nil
}

// SetPaused stops or starts the taking of new jobs, restarts included.
func (q *Queue) SetPaused(paused bool) error {
	if err := q.Store.SetConfigValue(pausedKey, strconv.FormatBool(paused)); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = paused
	q.wake.Broadcast()
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
	// Pending jobs wait, Running ones have no end on disk yet, and Busy workers have a request under way.
	Pending int
	Running int
	Busy    int
	Paused  bool
	// HeldUntil is zero where the environment asked for is not held.
	HeldUntil  time.Time
	HeldReason string
	// Failing results are refused by the disk for now.
	Failing int
}

// State tells of the queue, and of the hold on one environment.
func (q *Queue) State(environment string) QueueState {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := QueueState{
		Pending: len(q.items),
		Running: len(q.running),
		Busy:    q.busy,
		Paused:  q.paused,
		Failing: q.failing,
	}
	hold := q.holds[environment]
	if hold.until.After(timeNow()) {
		s.HeldUntil = hold.until
		s.HeldReason = hold.reason
	}
	return s
}

// RunningJob returns the job as it runs, nil if it does not, or was cancelled: the store learns of a start a moment
// later.
func (q *Queue) RunningJob(seq int64) *Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.running[seq]
	if a == nil || a.cancelled {
		return nil
	}
	return a.job
}

// waitLocked adds a job that is at hand.
func (q *Queue) waitLocked(j *Job) {
	q.followClockLocked(timeNow())
	q.pushLocked(keyOf(j), j.Seq, j.Priority, j.NextAttemptAt, j)
	q.items[j.Seq].relative = j.longestWait() > 0
}

// pushLocked adds a waiting job. j may be nil; then it is read when its turn comes, as it is where no memory is left
// for it.
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
	if notBefore.After(timeNow()) {
		it.notBefore = notBefore.UnixMilli()
		heap.Push(&q.delayed, it)
		return
	}
	it.makeReady()
}

// makeReady puts an item that is in no heap into its group's.
func (it *item) makeReady() {
	it.notBefore = 0
	heap.Push(&it.group.ready, it)
}

// jobBytes is about what a waiting job takes in memory.
func jobBytes(j *Job) int {
	return 512 + len(j.Payload) + len(j.SubmittedPayload)
}

// removeLocked takes a waiting job out of its heap, because it starts or has ended.
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

// next waits for a job that may start, and marks it as running; nil: the queue is stopping. Each round looks at
// everything anew, since the clock may have jumped. A worker that finds nothing sets the timer to the first of:
//
//	the next delayed job | the end of a hold on a job that is ready | deadlineCheck
func (q *Queue) next() (*item, *attempt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopping {
		now := timeNow()
		q.followClockLocked(now)
		wait := q.readyLocked(now)
		if q.mayStartLocked() {
			best, held := q.bestLocked(now)
			if best != nil {
				return best, q.takeLocked(best)
			}
			wait = min(wait, held)
		}
		if len(q.items) > 0 {
			q.timer.Reset(max(wait, time.Millisecond))
		}
		q.wake.Wait()
	}
	return nil, nil
}

// longestWait is how long at most j can have to wait, by a backoff, an API or jitter, 0 where it waits for a date. What
// is further ahead comes from a wrong clock.
func (j *Job) longestWait() time.Duration {
	switch {
	case j.ErrorCode != "":
		return maxHold
	case j.Schedule != "":
		return maxJitter
	}
	return 0
}

// followClockLocked moves what waits for a length of time along where the clock was set back. What waits for a date
// stays.
func (q *Queue) followClockLocked(now time.Time) {
	step := now.Sub(q.wall) - time.Since(q.steady)
	q.wall = now
	q.steady = time.Now()
	if step > -clockNoise {
		return
	}
	for environment, hold := range q.holds {
		hold.until = hold.until.Add(step)
		q.holds[environment] = hold
	}
	for _, it := range q.delayed.items {
		if it.relative {
			it.notBefore += step.Milliseconds()
		}
	}
	heap.Init(&q.delayed)
}

// mayStartLocked reports whether any job may start. Results that cannot be saved hold all back.
func (q *Queue) mayStartLocked() bool {
	return !q.paused && q.failing == 0 && q.unsaved < maxUnsaved && q.unsavedB < maxUnsavedBytes
}

// takeLocked marks a waiting job as running.
func (q *Queue) takeLocked(it *item) *attempt {
	q.removeLocked(it)
	a := &attempt{}
	q.running[it.seq] = a
	q.active[it.group.provider]++
	q.busy++
	return a
}

// readyLocked makes ready what has waited long enough, and returns the time until the next of them. That is at most
// deadlineCheck: a long wait is cut into pieces, since the timer stands still while the machine sleeps.
func (q *Queue) readyLocked(now time.Time) time.Duration {
	for len(q.delayed.items) > 0 {
		first := q.delayed.items[0]
		if first.notBefore > now.UnixMilli() {
			return min(deadlineCheck, time.UnixMilli(first.notBefore).Sub(now))
		}
		heap.Pop(&q.delayed)
		first.makeReady()
	}
	return deadlineCheck
}

// bestLocked finds the job whose turn it is among the heads of all groups, nil for none, and how long the first hold
// on waiting jobs lasts, at most deadlineCheck.
func (q *Queue) bestLocked(now time.Time) (best *item, held time.Duration) {
	held = deadlineCheck
	for _, g := range q.groups {
		full := q.ProviderLimit > 0 && q.active[g.provider] >= q.ProviderLimit
		if full || len(g.ready.items) == 0 {
			continue
		}
		until := q.holds[g.environment].until
		if until.After(now) {
			held = min(held, until.Sub(now))
			continue
		}
		head := g.ready.items[0]
		if best == nil || head.before(best, false) {
			best = head
		}
	}
	return best, held
}
