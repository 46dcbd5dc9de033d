package main

// The verbs about jobs that are there: list them, show them, wait for them, do something to every one of a list.

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

func (c *cli) jobVerbs() []verb {
	return []verb{
		{
			name:    "job list",
			short:   "List jobs, newest first",
			example: "honeydew job list --status failed",
			setup:   c.jobListVerb,
		},
		{
			name:    "job show",
			args:    "ID",
			short:   "Show a job",
			example: "honeydew job show 4k2m",
			run:     c.jobShow,
		},
		{
			name:    "job result",
			args:    "ID",
			short:   "Print a job's result",
			example: "honeydew job result 4k2m",
			notes:   "On a terminal a table; into a pipe, and with --json,\nthe JSON that the API sent.",
			run:     c.jobResult,
		},
		{
			name:    "job wait",
			args:    "ID...",
			short:   "Wait until jobs have ended",
			example: "honeydew job wait 4k2m",
			run:     c.waitAll,
		},
		{
			name:    "job cancel",
			args:    "[ID...]",
			short:   "Cancel jobs, by id or filter",
			example: "honeydew job cancel --status pending --command github.commits --dry-run",
			setup: (&sweep{
				c:    c,
				past: "cancelled",
				find: c.cancellable,
				do:   c.cancel,
			}).verb,
		},
		{
			name:    "job retry",
			args:    "[ID...]",
			short:   "Submit failed or cancelled jobs again",
			example: "honeydew job retry --status failed --since -1d --dry-run",
			setup: (&sweep{
				c:    c,
				past: "submitted again",
				find: c.retryable,
				do:   c.retry,
			}).verb,
		},
	}
}

// filterFlags declares the filters of a list of jobs.
func filterFlags(f *flag.FlagSet) *daemonpb.ListJobsRequest {
	in := &daemonpb.ListJobsRequest{}
	f.StringVar(&in.Status, "status", "", "only `pending`, running, completed, failed or cancelled ones")
	f.StringVar(&in.Command, "command", "", "only those of `COMMAND`")
	f.StringVar(&in.Schedule, "schedule", "", "only those of the schedule `NAME`")
	f.StringVar(&in.Since, "since", "", "only those submitted since `TIME`: "+allowedDates)
	f.StringVar(&in.ErrorCode, "code", "", "only those that failed with `CODE`, such as TIMEOUT")
	return in
}

// filtered reports whether a filter was given.
func filtered(in *daemonpb.ListJobsRequest) bool {
	return in.Status+in.Command+in.Schedule+in.Since+in.ErrorCode != ""
}

// list reads up to limit jobs, in pages; the token is where the rest begins.
func (c *cli) list(
	ctx context.Context,
	in *daemonpb.ListJobsRequest,
	limit int,
) (*daemonpb.ListJobsResponse, error) {
	all := &daemonpb.ListJobsResponse{}
	for {
		in.Limit = int32(min(limit-len(all.Jobs), 1000))
		page, err := c.client.ListJobs(ctx, in)
		if err != nil {
			return nil, err
		}
		all.Jobs = append(all.Jobs, page.Jobs...)
		all.NextPageToken = page.NextPageToken
		in.PageToken = page.NextPageToken
		if page.NextPageToken == "" || len(all.Jobs) >= limit {
			return all, nil
		}
	}
}

func (c *cli) jobListVerb(f *flag.FlagSet) action {
	in := filterFlags(f)
	limit := 50
	number(f, "limit", 1, "at most `N` jobs (default: 50)", func(n int32) { limit = int(n) })
	everything := f.Bool("all", false, "all jobs, however many")
	f.StringVar(&in.PageToken, "page-token", "", "go on where an earlier list was cut")
	return func(ctx context.Context, _ []string) error {
		if *everything {
			limit = math.MaxInt32
		}
		out, err := c.list(ctx, in, limit)
		if err != nil {
			return err
		}
		c.jobTable(out.Jobs)
		if out.NextPageToken != "" {
			c.note("%s listed, and there are more; see them with --limit N or --all, or go on with --page-token %s",
				count(len(out.Jobs), "job"), out.NextPageToken)
		}
		return c.document(out)
	}
}

func (c *cli) jobTable(jobs []*daemonpb.JobStatus) {
	rows := [][]string{{
		"ID",
		"STATUS",
		"COMMAND",
		"ARGUMENTS",
		"ENVIRONMENT",
		"SUBMITTED",
		"ERROR",
	}}
	for _, j := range jobs {
		rows = append(rows, []string{
			j.JobId,
			statusText(j),
			j.Command,
			argumentWords(j.Payload),
			j.Environment,
			shortTime(j.CreatedAt),
			j.Error,
		})
	}
	c.table(rows)
}

func (c *cli) jobShow(ctx context.Context, args []string) error {
	j, err := c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: args[0]})
	if err != nil {
		return err
	}
	result := ""
	waits := ""
	switch j.Status {
	case statusCompleted:
		result = resultText(j)
	case statusPending:
		waits = c.waitsFor(ctx, j)
	}
	c.pairs(
		"job:", j.JobId,
		"command:", j.Command,
		"arguments:", argumentWords(j.Payload),
		"status:", statusText(j),
		"waits for:", waits,
		"error:", j.Error,
		"result:", result,
		"environment:", j.Environment,
		"schedule:", j.Schedule,
		"retried as:", j.RetriedBy,
		"priority:", fmt.Sprint(j.Priority),
		"retries:", fmt.Sprintf("%d of %d", j.RetryCount, j.MaxRetries),
		"submitted:", localTime(j.CreatedAt),
		"next attempt:", localTime(j.NextAttemptAt),
		"started:", localTime(j.StartedAt),
		"ended:", localTime(j.CompletedAt),
	)
	return c.document(j)
}

// statusText is a job's state, when it is due if that is later, and whether it was retried.
func statusText(j *daemonpb.JobStatus) string {
	due := shortTime(j.NextAttemptAt)
	switch {
	case strings.HasPrefix(due, "in "):
		return j.Status + ", " + due
	case j.RetriedBy != "":
		return j.Status + ", retried"
	}
	return j.Status
}

// waitsFor says what keeps the whole queue of a pending job, "" if nothing does.
func (c *cli) waitsFor(ctx context.Context, j *daemonpb.JobStatus) string {
	s, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	switch {
	case err != nil: // what is known of the job itself is shown all the same
		return ""
	case s.QueuePaused:
		return "the paused queue; resume it with: honeydew queue resume"
	case s.HeldUntil != "" && s.Environment == j.Environment:
		return "the API, " + heldText(s)
	}
	return ""
}

const releaseHold = "end that with: honeydew queue resume --now"

// heldText says until when and why the API keeps the active environment's jobs, "" if it does not.
func heldText(s *daemonpb.DaemonStatus) string {
	if s.HeldUntil == "" {
		return ""
	}
	return fmt.Sprintf("until %s: %s; %s", localTime(s.HeldUntil), s.HeldReason, releaseHold)
}

// argumentWords are a payload as one types it for submit.
func argumentWords(payload *structpb.Struct) string {
	fields := payload.GetFields()
	var words []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		words = append(words, name+"="+argumentWord(fields[name]))
	}
	return strings.Join(words, " ")
}

func argumentWord(v *structpb.Value) string {
	var text string
	switch kind := v.Kind.(type) {
	case *structpb.Value_StringValue:
		text = kind.StringValue
	case *structpb.Value_ListValue:
		var items []string
		for _, item := range kind.ListValue.Values {
			items = append(items, argumentWord(item))
		}
		return strings.Join(items, ",")
	default:
		text = protojson.MarshalOptions{}.Format(v)
	}
	return shellQuoted(text)
}

// resultText says how large a completed job's result is, and how to get it.
func resultText(j *daemonpb.JobStatus) string {
	return fmt.Sprintf("%s; print it with: honeydew job result %s", bytesText(j.ResultBytes), j.JobId)
}

// submitted answers with the id of a new job, and tells a person how to go on.
func (c *cli) submitted(document any, id string) error {
	c.printf("%s", id)
	if c.terminal && !c.json {
		c.note("submitted%s", waitHint(id))
	}
	return c.document(document)
}

func waitHint(id string) string {
	return "; wait for it with: honeydew job wait " + id
}

// done is what was done to one job.
type done struct {
	JobID   string `json:"jobId"`
	Status  string `json:"status,omitempty"`  // after a cancel
	RetryOf string `json:"retryOf,omitempty"` // the failed job; JobID is the new one
}

// sweep does one thing to every job that is named, or that a filter finds.
type sweep struct {
	c      *cli
	filter *daemonpb.ListJobsRequest
	dryRun bool
	past   string // what is said of it: "cancelled"
	find   func(ctx context.Context, filter *daemonpb.ListJobsRequest) ([]*daemonpb.JobStatus, error)
	do     func(ctx context.Context, id string) (done, error)
}

// cancel and retry are what a sweep does.
func (c *cli) cancel(ctx context.Context, id string) (done, error) {
	out, err := c.client.CancelJob(ctx, &daemonpb.CancelJobRequest{JobId: id})
	return done{JobID: id, Status: out.GetStatus()}, err
}

func (c *cli) retry(ctx context.Context, id string) (done, error) {
	out, err := c.client.RetryJob(ctx, &daemonpb.RetryJobRequest{JobId: id})
	return done{JobID: out.GetJobId(), RetryOf: id}, err
}

// verb declares the flags.
func (s *sweep) verb(f *flag.FlagSet) action {
	s.filter = filterFlags(f)
	f.BoolVar(&s.dryRun, "dry-run", false, "only list them")
	return s.run
}

func (s *sweep) run(ctx context.Context, ids []string) error {
	named := len(ids) > 0
	if named == filtered(s.filter) {
		return usagef("name either jobs or a filter: --status, --command, --schedule, --since, --code")
	}
	if !named {
		jobs, err := s.find(ctx, s.filter)
		if err != nil {
			return err
		}
		ids = namesOf(jobs, (*daemonpb.JobStatus).GetJobId)
		if s.dryRun && s.c.terminal && !s.c.json { // a person wants to know which jobs, a script only their ids
			s.c.jobTable(jobs)
			s.c.note("%s would be %s", count(len(jobs), "job"), s.past)
			return nil
		}
	}
	all, err := s.each(ctx, ids)
	if err != nil {
		return err
	}
	switch {
	case s.c.json: // says it in the document
	case s.dryRun:
		s.c.note("%s would be %s", count(len(all), "job"), s.past)
	case !named, s.c.terminal:
		text := count(len(all), "job") + " " + s.past
		if len(all) == 1 && all[0].RetryOf != "" {
			text += waitHint(all[0].JobID)
		}
		s.c.note("%s", text)
	}
	document := struct {
		*done        // what was done to the one job that was named stands beside the list, too
		Jobs  []done `json:"jobs"`
	}{Jobs: all}
	if named && len(ids) == 1 {
		document.done = &all[0]
	}
	if err := s.c.document(document); err != nil {
		return err
	}
	if len(all) < len(ids) {
		return fmt.Errorf("%d of %d jobs could not be %s", len(ids)-len(all), len(ids), s.past)
	}
	return nil
}

// each does it to all jobs, and returns what was done. One that fails does not keep it from the others.
func (s *sweep) each(ctx context.Context, ids []string) ([]done, error) {
	all := []done{}
	for _, id := range ids {
		one := done{JobID: id}
		if !s.dryRun {
			var err error
			one, err = s.do(ctx, id)
			if err != nil && (len(ids) == 1 || ctx.Err() != nil) {
				return nil, err
			}
			if err != nil {
				_, text, _ := s.c.explain(err)
				if !strings.Contains(text, neutral(id)) {
					text = "job " + neutral(id) + ": " + text
				}
				s.c.note("%s", text)
				continue
			}
		}
		s.c.printf("%s", one.JobID)
		all = append(all, one)
	}
	return all, nil
}

func (c *cli) cancellable(ctx context.Context, filter *daemonpb.ListJobsRequest) ([]*daemonpb.JobStatus, error) {
	return c.matching(ctx, filter, statusPending, statusRunning)
}

// matching lists the jobs that a filter finds in one of the states.
func (c *cli) matching(
	ctx context.Context,
	filter *daemonpb.ListJobsRequest,
	states ...string,
) ([]*daemonpb.JobStatus, error) {
	if filter.Status != "" && !slices.Contains(states, filter.Status) {
		return nil, usagef("--status: %q; allowed here: %s", filter.Status, strings.Join(states, ", "))
	}
	found, err := c.list(ctx, filter, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found.Jobs, func(j *daemonpb.JobStatus) bool {
		return !slices.Contains(states, j.Status)
	}), nil
}

// retryable lists the jobs that a filter finds and that can be submitted again without a second thought: not those that
// were, nor those of which nobody knows whether they were carried out, nor those whose environment is gone.
func (c *cli) retryable(ctx context.Context, filter *daemonpb.ListJobsRequest) ([]*daemonpb.JobStatus, error) {
	filter.Unretried = true
	found, err := c.matching(ctx, filter, statusFailed, statusCancelled)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	environments, err := c.client.ListEnvironments(ctx, &daemonpb.ListEnvironmentsRequest{})
	if err != nil {
		return nil, err
	}
	present := namesOf(environments.Environments, (*daemonpb.Environment).GetName)
	var jobs []*daemonpb.JobStatus
	var unknown, homeless []string
	for _, j := range found {
		switch {
		case j.ErrorCode == codeOutcomeUnknown:
			unknown = append(unknown, j.JobId)
		case !slices.Contains(present, j.Environment):
			homeless = append(homeless, j.JobId)
		default:
			jobs = append(jobs, j)
		}
	}
	const byID = "left out; to retry one all the same, name it: honeydew job retry %s"
	if len(unknown) > 0 {
		c.note("%s whose outcome is unknown (%s) "+byID, count(len(unknown), "job"), codeOutcomeUnknown, unknown[0])
	}
	if len(homeless) > 0 {
		c.note("%s of removed environments "+byID, count(len(homeless), "job"), homeless[0])
	}
	return jobs, nil
}
