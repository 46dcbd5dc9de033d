package main

// The clients: eight at a time, each a script drawn from seed, cycle and number. What they were told goes into the
// ledger, which is what the database is held against.

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

const (
	query    = "github.commits"
	mutation = "github.clone"
)

// entry is one job as its client knows it; uid is its organization argument.
type entry struct {
	uid, command, key  string
	batch              int      // not 0: of a SubmitJobs
	ids                []string // acked: the first, and those of RetryJob
	retries            int      // RetryJob calls, acked or not
	made               bool     // an ack said that the job is new
	cancelled, dropped bool     // CancelJob was acked; was called
	final              string   // terminal status that a client was shown, of the first job
}

// ledger is what all clients together know.
type ledger struct {
	mu      sync.Mutex
	entries map[string]*entry
	list    []*entry   // in order of creation
	lines   [][]string // for each client of each cycle: the ids in the order of their acks
	batches int
	faults  []string // what a client saw that must not be
	calls   map[codes.Code]int
}

func newLedger() *ledger {
	return &ledger{entries: map[string]*entry{}, calls: map[codes.Code]int{}}
}

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
}

// client is one of the eight.
type client struct {
	*ledger
	daemonpb.DaemonClient
	rng    *rand.Rand
	name   string
	budget int // of jobs
	mine   []string
}

func (l *ledger) newClient(stub daemonpb.DaemonClient, rng *rand.Rand, name string, budget int) *client {
	return &client{ledger: l, DaemonClient: stub, rng: rng, name: name, budget: budget}
}

func (l *ledger) newEntry(uid, command, key string, batch int) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &entry{uid: uid, command: command, key: key, batch: batch}
	l.entries[uid] = e
	l.list = append(l.list, e)
	return e
}

// some picks an acked entry, a recent one mostly, with the ids of its first and latest job; nil when there is none.
func (c *client) some() (e *entry, first, last string) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	n := len(c.list)
	if n == 0 {
		return nil, "", ""
	}
	reach := min(n, 100)
	if c.rng.IntN(5) == 0 {
		reach = n
	}
	if e := c.list[n-1-c.rng.IntN(reach)]; len(e.ids) > 0 {
		return e, e.ids[0], e.ids[len(e.ids)-1]
	}
	return nil, "", ""
}

// check counts an answer, and reports a code that no client should get here.
func (c *client) check(what string, err error, allowed ...codes.Code) bool {
	code := status.Code(err)
	c.ledger.mu.Lock()
	c.calls[code]++
	c.ledger.mu.Unlock()
	switch code {
	case codes.OK:
		return true
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded: // the kill
		return false
	}
	for _, a := range allowed {
		if code == a {
			return false
		}
	}
	c.fault("%s: %s: %v", c.name, what, err)
	return false
}

func request(e *entry, rng *rand.Rand) *daemonpb.SubmitJobRequest {
	payload, _ := structpb.NewStruct(map[string]any{"organization": e.uid, "repository": "r"}) // two strings never fail
	return &daemonpb.SubmitJobRequest{Command: e.command, Payload: payload, Priority: int32(rng.IntN(3)), IdempotencyKey: e.key}
}

// run does things until ctx ends or the daemon is gone.
func (c *client) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		uid := fmt.Sprintf("%s-%d", c.name, n)
		switch d := c.rng.IntN(100); {
		case d < 22 && c.budget > 0:
			c.submit(ctx, c.newEntry(uid, query, "", 0))
		case d < 34 && c.budget > 0:
			c.submit(ctx, c.newEntry(uid, mutation, "", 0))
		case d < 42 && c.budget > 0:
			c.submit(ctx, c.newEntry(uid, []string{query, mutation}[c.rng.IntN(2)], "key-"+uid, 0))
		case d < 46 && c.budget > 0:
			c.submitBatch(ctx, uid)
		case d < 52:
			c.repeat(ctx)
		case d < 60:
			c.cancel(ctx)
		case d < 75:
			c.read(ctx)
		case d < 80:
			c.result(ctx)
		case d < 84:
			_, err := c.ListJobs(ctx, &daemonpb.ListJobsRequest{Limit: 20, Status: []string{"", "pending", "failed"}[c.rng.IntN(3)]})
			c.check("list", err)
		case d < 87:
			c.retry(ctx)
		case d < 89:
			c.watch(ctx)
		default:
			select {
			case <-time.After(time.Duration(c.rng.IntN(30)) * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (c *client) submit(ctx context.Context, e *entry) {
	c.budget--
	out, err := c.SubmitJob(ctx, request(e, c.rng))
	if c.check("submit", err) {
		c.acked(e, out)
		if e.key == "" {
			c.mine = append(c.mine, out.JobId)
		}
	}
}

// acked notes an answer; the same key may be under way in another client.
func (c *client) acked(e *entry, out *daemonpb.SubmitJobResponse) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	switch {
	case len(e.ids) > 0 && e.ids[0] != out.JobId:
		c.faults = append(c.faults, fmt.Sprintf("%s: key %s gave job %s and then %s", c.name, e.key, e.ids[0], out.JobId))
	case !out.Existing && e.made, e.key == "" && out.Existing:
		c.faults = append(c.faults, fmt.Sprintf("%s: key %q made job %s twice", c.name, e.key, out.JobId))
	case len(e.ids) == 0:
		e.ids = append(e.ids, out.JobId)
	}
	e.made = e.made || !out.Existing
}

func (c *client) submitBatch(ctx context.Context, uid string) {
	c.ledger.mu.Lock()
	c.batches++
	number := c.batches
	c.ledger.mu.Unlock()
	in, entries := &daemonpb.SubmitJobsRequest{}, []*entry{}
	for i := range 2 + c.rng.IntN(12) {
		key := ""
		if c.rng.IntN(8) == 0 {
			key = fmt.Sprintf("key-%s-%d", uid, i)
		}
		e := c.newEntry(fmt.Sprintf("%s-%d", uid, i), []string{query, query, query, mutation}[c.rng.IntN(4)], key, number)
		entries, in.Jobs = append(entries, e), append(in.Jobs, request(e, c.rng))
	}
	c.budget -= len(entries)
	out, err := c.SubmitJobs(ctx, in)
	if !c.check("submit batch", err) {
		return
	}
	if len(out.Jobs) != len(entries) {
		c.fault("%s: a batch of %d was answered with %d", c.name, len(entries), len(out.Jobs))
		return
	}
	for i, e := range entries {
		c.acked(e, out.Jobs[i])
		c.mine = append(c.mine, out.Jobs[i].JobId)
	}
}

// repeat sends a key again, whether or not it was answered.
func (c *client) repeat(ctx context.Context) {
	c.ledger.mu.Lock()
	var e *entry
	for range 20 {
		if n := len(c.list); n > 0 {
			if e = c.list[n-1-c.rng.IntN(min(n, 300))]; e.key != "" && e.batch == 0 {
				break
			}
		}
		e = nil
	}
	c.ledger.mu.Unlock()
	if e == nil {
		return
	}
	out, err := c.SubmitJob(ctx, request(e, c.rng))
	if c.check("repeat", err) {
		c.acked(e, out)
	}
}

func (c *client) cancel(ctx context.Context) {
	e, id, _ := c.some()
	if e == nil {
		return
	}
	c.ledger.mu.Lock()
	e.dropped = true
	c.ledger.mu.Unlock()
	out, err := c.CancelJob(ctx, &daemonpb.CancelJobRequest{JobId: id})
	if c.check("cancel", err, codes.FailedPrecondition) {
		c.ledger.mu.Lock()
		defer c.ledger.mu.Unlock()
		e.cancelled = true
		if out.Status != "cancelled" {
			c.faults = append(c.faults, fmt.Sprintf("cancel of %s says %q", id, out.Status))
		}
	}
}

func terminal(status string) bool {
	return status == "completed" || status == "failed" || status == "cancelled"
}

// saw notes what a client was shown of e's first job.
func (c *client) saw(e *entry, j *daemonpb.JobStatus) {
	if j.Status == "completed" && !j.ResultOmitted && j.Result != answerOf(e.uid, e.command == mutation) {
		c.fault("job %s (%s): a client got the result %.100q", j.JobId, e.uid, j.Result)
	}
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	if e.final != "" && j.Status != e.final {
		c.faults = append(c.faults, fmt.Sprintf("job %s (%s) was %s and is %s", j.JobId, e.uid, e.final, j.Status))
	}
	if terminal(j.Status) {
		e.final = j.Status
	}
}

func (c *client) read(ctx context.Context) {
	if e, id, _ := c.some(); e != nil {
		c.ledger.mu.Lock()
		before := e.final
		c.ledger.mu.Unlock()
		j, err := c.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: id})
		if c.check("read "+id, err) {
			if before == "" && !terminal(j.Status) {
				return // another client may have seen a later state meanwhile
			}
			c.saw(e, j)
		}
	}
}

func (c *client) result(ctx context.Context) {
	e, id, _ := c.some()
	if e == nil {
		return
	}
	stream, err := c.GetJobResult(ctx, &daemonpb.GetJobResultRequest{JobId: id})
	if err != nil {
		c.check("result", err)
		return
	}
	var text strings.Builder
	for {
		chunk, err := stream.Recv()
		if err == io.EOF {
			break
		} else if err != nil {
			c.check("result", err, codes.FailedPrecondition)
			return
		}
		text.Write(chunk.Data)
	}
	if text.String() != answerOf(e.uid, e.command == mutation) {
		c.fault("job %s (%s): GetJobResult gave %.100q", id, e.uid, text.String())
	}
}

func (c *client) retry(ctx context.Context) {
	e, _, id := c.some()
	if e == nil {
		return
	}
	c.ledger.mu.Lock()
	e.retries++
	c.ledger.mu.Unlock()
	out, err := c.RetryJob(ctx, &daemonpb.RetryJobRequest{JobId: id})
	if c.check("retry", err, codes.FailedPrecondition) {
		c.ledger.mu.Lock()
		e.ids = append(e.ids, out.JobId)
		c.ledger.mu.Unlock()
		c.mine = append(c.mine, out.JobId)
	} else if status.Code(err) == codes.FailedPrecondition {
		c.ledger.mu.Lock()
		e.retries--
		c.ledger.mu.Unlock()
	}
}

func (c *client) watch(ctx context.Context) {
	e, id, _ := c.some()
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	stream, err := c.WatchJob(ctx, &daemonpb.WatchJobRequest{JobId: id})
	for err == nil {
		var j *daemonpb.JobStatus
		if j, err = stream.Recv(); err == nil && terminal(j.Status) {
			c.saw(e, j)
		}
	}
	if err != io.EOF {
		c.check("watch", err)
	}
}
