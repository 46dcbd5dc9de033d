package main

// Waiting for jobs: what is said meanwhile, and how they ended. On a terminal that is one line on stderr, rewritten in
// place and gone at the end; anywhere else only what lasts is said, a line each.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

const (
	tellEvery = 2 * time.Second
	lasting   = 10 * time.Second // what lasts so long is said without a terminal, too
	eraseLine = "\r\x1b[K"
	toGoOn    = "; to go on: honeydew queue resume" // is shown whole or not at all
)

// progress says what is waited for.
type progress struct {
	out   io.Writer
	width func() int // of a terminal whose line can be rewritten, else 0
	phase string     // what is waited for, as long as it is the same
	since time.Time
	said  bool // something stands on the line, or the phase was told
}

// newProgress says it on stderr.
func (c *cli) newProgress() *progress {
	return &progress{
		out:   c.stderr,
		width: c.stderrWidth,
		since: time.Now(),
	}
}

func (c *cli) stderrWidth() int {
	columns, _, err := term.GetSize(int(c.stderr.Fd()))
	if err != nil || c.getenv("TERM") == "dumb" {
		return 0
	}
	return cmp.Or(columns, usualWidth)
}

// say rewrites the line or, where it cannot be, prints the text of a phase that has lasted.
func (p *progress) say(phase, text string) {
	if phase != p.phase {
		if p.phase != "" { // the first one began with the wait
			p.since = time.Now()
		}
		p.phase = phase
		p.said = false
	}
	text = neutral(text)
	width := p.width()
	room := width - 3 // ^C finds the rest
	switch {
	case width > 0:
		if textWidth(text) > room && strings.HasPrefix(text, "job ") { // which says least
			_, text, _ = strings.Cut(text, ": ")
		}
		for _, end := range []string{" (", toGoOn} {
			if textWidth(text) > room {
				text, _, _ = strings.Cut(text, end)
			}
		}
		fmt.Fprint(p.out, eraseLine+cut(text, room))
		p.said = true
	case !p.said && time.Since(p.since) >= lasting:
		fmt.Fprintln(p.out, text)
		p.said = true
	}
}

// clear takes the line away.
func (p *progress) clear() {
	if p.said && p.width() > 0 {
		fmt.Fprint(p.out, eraseLine)
	}
}

// watch is what is known of a job that is waited for.
type watch struct {
	c      *cli
	line   *progress
	job    *daemonpb.JobStatus    // nil until the daemon has told it
	daemon *daemonpb.DaemonStatus // as it was when last asked
}

// follow watches the job until it ends, or the call does.
func (w *watch) follow(ctx context.Context, id string) error {
	states := make(chan *daemonpb.JobStatus)
	ended := make(chan error)
	go func() {
		in := &daemonpb.WatchJobRequest{JobId: id}
		ended <- stream(ctx, w.c, watchTimeout, w.c.client.WatchJob, in, func(now *daemonpb.JobStatus) error {
			states <- now
			return nil
		})
	}()
	ticks := time.NewTicker(tellEvery)
	defer ticks.Stop()
	for {
		select {
		case w.job = <-states:
		case <-ticks.C:
			w.tell(ctx)
		case err := <-ended:
			return err
		}
	}
}

// tell says what the job does now. What a pending one waits for the daemon knows; where that does not answer, the watch
// ends too, and says why.
func (w *watch) tell(ctx context.Context) {
	if w.job == nil {
		return
	}
	if w.job.Status == statusPending {
		daemon, err := w.c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err == nil {
			w.daemon = daemon
		}
	}
	phase, text := w.state()
	w.line.say(phase, "job "+w.job.JobId+": "+text)
}

// state is what the job does now, for people, and a name for it that stays as long as it does.
func (w *watch) state() (phase, text string) {
	j := w.job
	now := timeText(time.Now())
	waits := j.NextAttemptAt > now
	switch {
	case j.Status == statusRunning:
		return "running", "running for " + strings.TrimSuffix(shortTime(j.StartedAt), " ago")
	case j.Status != statusPending, w.daemon == nil:
		return j.Status, j.Status
	case w.daemon.QueuePaused:
		return "paused", "the queue is paused" + toGoOn
	case waits && j.ErrorCode == codeRateLimited:
		return "held", holdText(j.NextAttemptAt, j.Error)
	case waits && j.Error != "":
		retry := fmt.Sprintf("retry %d of %d", j.RetryCount, j.MaxRetries)
		return retry, fmt.Sprintf("%s %s: %s", retry, shortTime(j.NextAttemptAt), j.Error)
	case waits:
		return "due", "pending, due at " + localTime(j.NextAttemptAt)
	case w.daemon.HeldUntil > now && w.daemon.Environment == j.Environment:
		return "held", holdText(w.daemon.HeldUntil, w.daemon.HeldReason)
	}
	return "pending", fmt.Sprintf("pending, one of %d; %d of %d workers are busy",
		w.daemon.Pending, w.daemon.BusyWorkers, w.daemon.Workers)
}

// holdText says how long an API has asked to wait, why, and what ends that.
func holdText(until, why string) string {
	why = strings.TrimPrefix(why, codeRateLimited+": ")
	why, _, _ = strings.Cut(why, "; the API asks") // for how long stands here already
	return fmt.Sprintf("held by the API until %s%s --now (%s)", formatted(until, "15:04:05 MST"), toGoOn, why)
}

// wait follows a job to its end and returns it.
func (c *cli) wait(ctx context.Context, id string) (*daemonpb.JobStatus, error) {
	w := &watch{
		c:    c,
		line: c.newProgress(),
	}
	err := w.follow(ctx, id)
	w.line.clear()
	job := w.job
	switch {
	case err == nil && (job == nil || job.ResultOmitted): // a watch has small results alone
		return c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: id})
	case err == nil:
		return job, nil
	case errors.Is(ctx.Err(), context.Canceled):
		c.note("interrupted; job %s goes on, wait for it with: honeydew job wait %s", id, id)
		return nil, exitError{exitInterrupted, errSaid}
	case status.Code(err) == codes.DeadlineExceeded && job != nil:
		return c.wait(ctx, id)
	case status.Code(err) == codes.Unavailable && job != nil:
		c.note("job %s is kept; when the daemon runs again, wait for it with: honeydew job wait %s", id, id)
	}
	return nil, err
}

// waitAll waits for jobs and prints how they ended; the first that did not complete is the error.
func (c *cli) waitAll(ctx context.Context, ids []string) error {
	var jobs []*daemonpb.JobStatus
	var failed error
	for _, id := range ids {
		job, err := c.wait(ctx, id)
		if err != nil {
			return err
		}
		jobs = append(jobs, job)
		if job.Status != statusCompleted && failed == nil {
			failed = jobError(job)
		}
	}
	for _, j := range jobs {
		outcome := outcomeText(j)
		if j.Status == statusCompleted && j.Error == "" {
			outcome += ", " + resultText(j)
		}
		c.stateLine(j.Status, "job %s (%s) %s", j.JobId, j.Command, outcome)
	}
	var answer any = &daemonpb.ListJobsResponse{Jobs: jobs}
	if len(jobs) == 1 {
		answer = jobs[0]
	}
	err := c.document(answer)
	if failed != nil && !c.json { // what has failed stands on stdout already
		exit, _, hint := c.explain(failed)
		c.note("hint: %s", hint)
		failed = exitError{exit, errSaid}
	}
	return errors.Join(failed, err)
}

// outcomeText says how a job ended.
func outcomeText(j *daemonpb.JobStatus) string {
	text := j.Status
	switch {
	case j.Status == statusCancelled:
		return "was cancelled"
	case j.Status == statusCompleted, j.RetryCount == 0:
	case j.RetryCount == 1:
		text += " after 1 retry"
	default:
		text += fmt.Sprintf(" after %d retries", j.RetryCount)
	}
	if j.Error != "" {
		text += ": " + j.Error
	}
	return text
}

// jobError is the end of a job that did not complete.
func jobError(j *daemonpb.JobStatus) error {
	return errorf(j.ErrorCode, "job %s %s", j.JobId, outcomeText(j)).hint("%s", nextStep(j))
}

// nextStep is what to do about a job that did not complete.
func nextStep(j *daemonpb.JobStatus) string {
	retry := "honeydew job retry " + j.JobId
	if j.RetriedBy != "" {
		return "it was submitted again; wait for that with: honeydew job wait " + j.RetriedBy
	}
	if strings.HasSuffix(j.Error, noPassphrase) {
		return findPassphrase(j.Environment) + "; then: " + retry
	}
	login := "log in with: honeydew login --environment " + shellQuoted(j.Environment) + " && " + retry
	switch j.ErrorCode {
	case codeAuthInvalid:
		return "the API refuses new tokens too: check the rights of the account, or " + login
	case codeAuthRequired, codeAuthExpired:
		return login
	case codeTimeout:
		return "retry it with: " + retry + "; if it needs longer, submit it with a higher --timeout"
	case codeResultTooLarge:
		return "ask for less, such as fewer days, or raise api.max_response_mb"
	case codeAPI:
		return "the API refused it; are its arguments right? see: honeydew job show " + j.JobId
	case codeBadResponse:
		return "a sign-in page of this network, or a wrong URL (honeydew env list)? then: " + retry
	case codeOutcomeUnknown:
		return "look at the provider to see whether it was carried out; if it was not, retry it with: " + retry
	case codeInternal:
		return "this is a bug; see: honeydew logs " + j.JobId
	}
	return "retry it with: " + retry
}
