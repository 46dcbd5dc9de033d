package main

// The verbs about jobs: submit them, wait for them, list them, do something to every one of a list. Those of the
// providers have no code of their own: they are derived from the command table, required arguments by position, the
// others as flags.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

func jobVerbs() []verb {
	show := &daemonpb.GetJobStatusRequest{}
	return []verb{
		{"submit", "[COMMAND] [KEY=VALUE...]", "Submit a job, or many from a file",
			"honeydew submit github.commits organization=acme repository=api startDate=-7d --wait", submitVerb},
		{"commands", "", "List every command and its arguments", "honeydew commands",
			asking(api.ListCommands, &daemonpb.ListCommandsRequest{}, nil)},
		{"job list", "", "List jobs, newest first", "honeydew job list --status failed", jobListVerb},
		{"job show", "ID", "Show a job", "honeydew job show 4k2m", asking(api.GetJobStatus, show, nil, &show.JobId)},
		{"job result", "ID", "Print a job's result", "honeydew job result 4k2m", func(c *cli, _ *flag.FlagSet) action {
			return func(ctx context.Context, args []string) error {
				job, err := c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: args[0]})
				return c.printResult(ctx, job, err)
			}
		}},
		{"job wait", "ID...", "Wait until jobs have ended", "honeydew job wait 4k2m", func(c *cli, _ *flag.FlagSet) action { return c.waitAll }},
		{"job cancel", "[ID...]", "Cancel jobs, by id or filter", "honeydew job cancel --status pending --command github.commits --dry-run",
			eachVerb("cancelled", []string{statusPending, statusRunning}, (*cli).matching, (*cli).cancel)},
		{"job retry", "[ID...]", "Submit failed or cancelled jobs again", "honeydew job retry --status failed --since -1d --dry-run",
			eachVerb("submitted again", []string{statusFailed, statusCancelled}, (*cli).retryable, (*cli).retry)},
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
func (c *cli) list(ctx context.Context, in *daemonpb.ListJobsRequest, limit int) (*daemonpb.ListJobsResponse, error) {
	all := &daemonpb.ListJobsResponse{}
	for {
		in.Limit = int32(min(limit-len(all.Jobs), 1000))
		page, err := c.client.ListJobs(ctx, in)
		if err != nil {
			return nil, err
		}
		all.Jobs, all.NextPageToken = append(all.Jobs, page.Jobs...), page.NextPageToken
		if in.PageToken = page.NextPageToken; in.PageToken == "" || len(all.Jobs) >= limit {
			return all, nil
		}
	}
}

func jobListVerb(c *cli, f *flag.FlagSet) action {
	in, limit := filterFlags(f), 50
	number(f, "limit", 1, "at most `N` jobs", func(n int32) { limit = int(n) })
	everything := f.Bool("all", false, "all of them")
	f.StringVar(&in.PageToken, "page-token", "", "go on where an earlier list was cut")
	return func(ctx context.Context, _ []string) error {
		if *everything {
			limit = math.MaxInt32
		}
		out, err := c.list(ctx, in, limit)
		if err != nil {
			return err
		}
		err = c.show("ListJobs", in, out)
		if out.NextPageToken != "" {
			c.note("only the newest %s listed; see more with --limit N or --all, or go on with --page-token %s",
				count(len(out.Jobs), "job"), out.NextPageToken)
		}
		return err
	}
}

// deed does something to one job, and says what as the members of a JSON object.
type deed = func(c *cli, ctx context.Context, id string) (map[string]any, error)

func (c *cli) cancel(ctx context.Context, id string) (map[string]any, error) {
	out, err := c.client.CancelJob(ctx, &daemonpb.CancelJobRequest{JobId: id})
	return map[string]any{"jobId": id, "status": out.GetStatus()}, err
}

func (c *cli) retry(ctx context.Context, id string) (map[string]any, error) {
	out, err := c.client.RetryJob(ctx, &daemonpb.RetryJobRequest{JobId: id})
	return map[string]any{"jobId": out.GetJobId(), "retryOf": id}, err
}

// choice finds the jobs of a filter that are in one of the states.
type choice = func(c *cli, ctx context.Context, filter *daemonpb.ListJobsRequest, states []string) ([]*daemonpb.JobStatus, error)

// eachVerb is a verb that does something to every job named, or to every one that choose finds.
func eachVerb(past string, states []string, choose choice, do deed) setup {
	return func(c *cli, f *flag.FlagSet) action {
		filter := filterFlags(f)
		dryRun := f.Bool("dry-run", false, "only list them")
		return func(ctx context.Context, ids []string) (err error) {
			named := len(ids) > 0
			if named == filtered(filter) {
				return usagef("name either jobs or a filter: --status, --command, --schedule, --since, --code")
			}
			if !named {
				jobs, err := choose(c, ctx, filter, states)
				if err != nil {
					return err
				}
				ids = namesOf(jobs, (*daemonpb.JobStatus).GetJobId)
			}
			done, failures := []map[string]any{}, 0
			for _, id := range ids {
				one := map[string]any{"jobId": id}
				if !*dryRun {
					one, err = do(c, ctx, id)
				}
				if err != nil && (len(ids) == 1 || ctx.Err() != nil) {
					return err
				} else if err != nil {
					failures++
					_, text, _ := c.explain(err)
					c.note("job %s: %s", neutral(id), text)
				} else if done = append(done, one); !c.json {
					c.printf("%s", one["jobId"])
				}
			}
			switch {
			case c.json:
				document := map[string]any{"jobs": done}
				if named && len(ids) == 1 { // what was done to the one job that was named stands beside the list, too
					maps.Copy(document, done[0])
				}
				err = c.encode(document)
			case *dryRun:
				c.note("%s would be %s", count(len(done), "job"), past)
			case !named:
				c.note("%s %s", count(len(done), "job"), past)
			}
			if failures > 0 {
				return fmt.Errorf("%d of %d jobs could not be %s", failures, len(ids), past)
			}
			return err
		}
	}
}

// matching lists the jobs that a filter finds in one of the states.
func (c *cli) matching(ctx context.Context, filter *daemonpb.ListJobsRequest, states []string) ([]*daemonpb.JobStatus, error) {
	if filter.Status != "" && !slices.Contains(states, filter.Status) {
		return nil, usagef("--status: %q; allowed here: %s", filter.Status, strings.Join(states, ", "))
	}
	found, err := c.list(ctx, filter, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found.Jobs, func(j *daemonpb.JobStatus) bool { return !slices.Contains(states, j.Status) }), nil
}

// retryable lists the jobs that a filter finds and that can be submitted again without a second thought: not those that
// were, nor those of which nobody knows whether they were carried out, nor those whose environment is gone.
func (c *cli) retryable(ctx context.Context, filter *daemonpb.ListJobsRequest, states []string) ([]*daemonpb.JobStatus, error) {
	filter.Unretried = true
	jobs, err := c.matching(ctx, filter, states)
	if err != nil || len(jobs) == 0 {
		return nil, err
	}
	environments, err := c.client.ListEnvironments(ctx, &daemonpb.ListEnvironmentsRequest{})
	if err != nil {
		return nil, err
	}
	present := namesOf(environments.Environments, (*daemonpb.Environment).GetName)
	unknown, homeless := 0, 0
	jobs = slices.DeleteFunc(jobs, func(j *daemonpb.JobStatus) bool {
		switch {
		case j.ErrorCode == codeOutcomeUnknown:
			unknown++
			return true
		case !slices.Contains(present, j.Environment):
			homeless++
			return true
		}
		return false
	})
	const byID = "left out; if it shall be, name them: honeydew job retry ID..."
	if unknown > 0 {
		c.note("%s whose outcome is unknown (%s) %s", count(unknown, "job"), codeOutcomeUnknown, byID)
	}
	if homeless > 0 {
		c.note("%s of removed environments %s", count(homeless, "job"), byID)
	}
	return jobs, nil
}

// providerVerbs turns the command table into verbs.
func (c *cli) providerVerbs() (all []verb) {
	examples := strings.NewReplacer("ORGANIZATION", "acme", "REPOSITORY", "api", "PROJECT", "web", "WORKSPACE", "acme")
	for _, cmd := range c.commands().All() {
		var args []string
		for _, a := range cmd.Args {
			if a.Required {
				args = append(args, strings.ToUpper(strings.ReplaceAll(kebab(a.Name), "-", "_")))
			}
		}
		name, line := kebab(strings.Replace(cmd.Name, ".", " ", 1)), strings.Join(args, " ")
		example := strings.TrimSpace("honeydew " + name + " " + examples.Replace(line))
		all = append(all, verb{name, line, cmd.Description, example, func(c *cli, f *flag.FlagSet) action { return providerVerb(c, f, cmd) }})
	}
	return all
}

// kebab is a name of the API as a flag or verb: pullRequests is pull-requests.
func kebab(name string) string {
	var out []rune
	for _, r := range name {
		if unicode.IsUpper(r) {
			out = append(out, '-')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

func providerVerb(c *cli, f *flag.FlagSet, cmd *Command) action {
	in := submitFlags(f)
	in.Command = cmd.Name
	var required, words []string
	for _, a := range cmd.Args {
		add := func(text string) error {
			words = append(words, a.Name+"="+text)
			return nil
		}
		switch {
		case a.Required:
			required = append(required, a.Name)
		case strings.HasPrefix(a.Type, "Boolean"):
			f.BoolFunc(kebab(a.Name), "", add)
		case a.isDate():
			f.Func(kebab(a.Name), "a `DATE`: "+allowedDates, add)
		default:
			f.Func(kebab(a.Name), "`"+strings.ToUpper(a.Type)+"`", add)
		}
	}
	detach := f.Bool("detach", false, "print the job's id and do not wait")
	return func(ctx context.Context, args []string) error {
		for i, name := range required {
			words = append(words, name+"="+args[i])
		}
		return c.submit(ctx, in, "", words, !*detach, func(ctx context.Context, ids []string) error {
			job, err := c.wait(ctx, ids[0])
			return c.printResult(ctx, job, err)
		})
	}
}

// submitFlags declares what every submit may say.
func submitFlags(f *flag.FlagSet) *daemonpb.SubmitJobRequest {
	in := &daemonpb.SubmitJobRequest{}
	environmentFlag(f, &in.Environment)
	number(f, "priority", math.MinInt32, "higher `N` run first", func(n int32) { in.Priority = n })
	f.StringVar(&in.Timeout, "timeout", "", "`DURATION` of one attempt, such as 90s (default: api.timeout)")
	number(f, "max-retries", 0, "`N` retries after a failure that may pass (default: queue.max_retries)", func(n int32) { in.MaxRetries = &n })
	return in
}

func environmentFlag(f *flag.FlagSet, name *string) {
	f.StringVar(name, "environment", "", "`NAME` of the environment (default: the active one)")
}

func payloadFlag(f *flag.FlagSet) *string {
	return f.String("payload", "", "arguments as `JSON`, @FILE, or - for stdin")
}

func submitVerb(c *cli, f *flag.FlagSet) action {
	in, payload := submitFlags(f), payloadFlag(f)
	f.StringVar(&in.IdempotencyKey, "idempotency-key", "", "submit at most once under this `KEY`")
	f.Func("run-after", "not before `TIME`: RFC 3339, or a duration from now such as 2h", func(text string) error {
		in.RunAfter = text
		if d, err := parseDuration(text); err == nil {
			in.RunAfter = timeText(time.Now().Add(d))
		} else if _, err := time.Parse(time.RFC3339, text); err != nil {
			return fmt.Errorf("%q is neither an RFC 3339 time nor a duration such as 2h", text)
		}
		return nil
	})
	wait := f.Bool("wait", false, "wait for the end of the job")
	batch := f.String("batch", "", "submit all jobs of a `FILE` or -: one {\"command\":..., \"payload\":{...}} a line, all or none")
	return func(ctx context.Context, args []string) error {
		switch {
		case *batch != "" && (len(args) > 0 || *wait):
			return usagef("submit: --batch takes neither a command nor --wait")
		case *batch != "":
			return c.submitBatch(ctx, *batch)
		case len(args) == 0:
			return usagef("submit: COMMAND is missing").hint("list them with: honeydew commands")
		}
		in.Command = args[0]
		return c.submit(ctx, in, *payload, args[1:], *wait, c.waitAll)
	}
}

// submit submits a job with the arguments that text and words say, and prints its id, or waits for it in the way of then.
func (c *cli) submit(ctx context.Context, in *daemonpb.SubmitJobRequest, text string, words []string, wait bool, then action) (err error) {
	if in.Payload, err = c.payload(ctx, in.Command, text, words); err != nil {
		return err
	}
	out, err := c.client.SubmitJob(ctx, in)
	if out.GetExisting() {
		c.note("this key was used before; nothing new was submitted")
	}
	return c.submitted(ctx, out, err, wait, then)
}

// submitted prints a new job's id, or waits for the job in the way of then.
func (c *cli) submitted(ctx context.Context, out interface {
	proto.Message
	GetJobId() string
}, err error, wait bool, then action) error {
	if err != nil {
		return err
	} else if wait {
		return then(ctx, []string{out.GetJobId()})
	}
	return c.show("SubmitJob", nil, out)
}

func (c *cli) submitBatch(ctx context.Context, name string) error {
	data, err := c.readInput(ctx, name)
	if err != nil {
		return err
	}
	in := &daemonpb.SubmitJobsRequest{}
	for number, line := range bytes.Split(data, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		one := &daemonpb.SubmitJobRequest{}
		if err := protojson.Unmarshal(line, one); err != nil {
			return usagef("%s:%d: %s", name, number+1, err)
		}
		in.Jobs = append(in.Jobs, one)
	}
	return ask(ctx, c, api.SubmitJobs, in)
}

// readInput reads a file, or stdin for -. Either may be a pipe that nobody writes to.
func (c *cli) readInput(ctx context.Context, name string) ([]byte, error) {
	text, err := interruptible(ctx, func() ([]byte, error) {
		if name == "-" {
			return io.ReadAll(c.stdin)
		}
		return os.ReadFile(expandPath(name, c.userHome))
	})
	if err != nil {
		return nil, err
	}
	return plainText(name, text)
}

// plainText is what an editor saved, without the mark that some put in front of UTF-8.
func plainText(name string, text []byte) ([]byte, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, usagef("%s is UTF-16", name).hint("save it as UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(text) {
		return nil, usagef("%s is no UTF-8", name).hint("save it as UTF-8")
	}
	return text, nil
}

// payload makes a command's arguments of --payload and key=value words, which win.
func (c *cli) payload(ctx context.Context, command, text string, words []string) (*structpb.Struct, error) {
	payload, given := &structpb.Struct{}, map[string]any{}
	if text != "" {
		data, err := []byte(text), error(nil)
		if text == "-" || text[0] == '@' {
			data, err = c.readInput(ctx, strings.TrimPrefix(text, "@"))
		}
		if err != nil {
			return nil, err
		}
		if err := protojson.Unmarshal(data, payload); err != nil {
			return nil, usagef("--payload: not a JSON object: %v", err)
		}
	}
	cmd, err := c.commands().Lookup(command)
	if err != nil {
		cmd = &Command{} // the daemon may know it, and says so if not
	}
	for _, word := range words {
		key, text, ok := strings.Cut(word, "=")
		if !ok {
			return nil, usagef("%q is no KEY=VALUE", word)
		}
		a := cmp.Or(cmd.argument(key), &Argument{Name: key, Type: "String"})
		if given[key], err = argumentValue(a, text, given[key]); err != nil {
			return nil, err
		}
	}
	fields, err := structpb.NewStruct(given)
	if err != nil {
		return nil, usagef("payload: %s", err)
	}
	proto.Merge(payload, fields)
	return payload, nil
}

// argumentValue converts text to the argument's type; a list grows by what text says.
func argumentValue(a *Argument, text string, before any) (any, error) {
	list, _ := before.([]any)
	words, isList := []string{text}, strings.HasPrefix(a.Type, "[")
	if isList {
		words = strings.Split(strings.ReplaceAll(text, ", ", ","), ",")
	}
	for _, word := range words {
		var value any
		if kind := strings.Trim(a.Type, "[]!"); kind == "String" || kind == "ID" || json.Unmarshal([]byte(word), &value) != nil {
			value = word // which refuse refuses where it had to be a number
		}
		list = append(list, value)
	}
	value := any(list)
	if !isList {
		value = list[0]
	}
	if a.refuse(value) != "" {
		return nil, usagef("%s: %q is not %s", a.Name, text, a.refuse(struct{}{}))
	}
	return value, nil
}

// wait follows a job to its end and returns it.
func (c *cli) wait(ctx context.Context, id string) (job *daemonpb.JobStatus, err error) {
	err = stream(ctx, c, watchTimeout, &daemonpb.WatchJobRequest{JobId: id}, func(now *daemonpb.JobStatus) error {
		if job == nil && now.Status == statusPending {
			if s, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{}); err == nil && s.QueuePaused {
				c.note("the queue is paused; resume it with: honeydew queue resume")
			}
		}
		job = now
		return nil
	}, api.WatchJob)
	switch {
	case err == nil:
		return job, nil
	case errors.Is(ctx.Err(), context.Canceled):
		c.note("interrupted; job %s goes on, wait for it with: honeydew job wait %s", id, id)
		return nil, exitError{exitInterrupted, errSaid}
	case status.Code(err) == codes.DeadlineExceeded && job != nil:
		return c.wait(ctx, id)
	case status.Code(err) == codes.Unavailable:
		c.note("job %s is kept, and goes on when the daemon runs again", id)
	}
	return nil, err
}

// waitAll waits for jobs and prints how they ended; the first that did not complete is the error.
func (c *cli) waitAll(ctx context.Context, ids []string) error {
	all := &daemonpb.ListJobsResponse{}
	var failed error
	for _, id := range ids {
		job, err := c.wait(ctx, id)
		if err != nil {
			return err
		}
		if all.Jobs = append(all.Jobs, job); job.Status != statusCompleted {
			failed = cmp.Or(failed, jobError(job))
		}
	}
	if c.json && len(ids) == 1 {
		return errors.Join(failed, c.show("", nil, all.Jobs[0]))
	}
	return errors.Join(failed, c.show("ended", nil, all))
}

// jobError is the end of a job that did not complete.
func jobError(j *daemonpb.JobStatus) error {
	if j.Error == "" {
		return errorf(j.ErrorCode, "job %s was %s", j.JobId, j.Status)
	}
	return errorf(j.ErrorCode, "job %s %s: %s", j.JobId, j.Status, j.Error)
}

// printResult prints a completed job's result, byte for byte unless a person looks at it.
func (c *cli) printResult(ctx context.Context, job *daemonpb.JobStatus, err error) error {
	if err != nil {
		return err
	}
	switch job.Status {
	case statusPending, statusRunning:
		return errorf(codeFailedPrecondition, "job %s is %s and has no result yet", job.JobId, job.Status).
			hint("wait for it with: honeydew job wait %s", job.JobId)
	case statusFailed, statusCancelled:
		return jobError(job)
	}
	var whole bytes.Buffer
	var out io.Writer = c.out
	if c.terminal && !c.json {
		out = &whole
	}
	err = stream(ctx, c, longTimeout, &daemonpb.GetJobResultRequest{JobId: job.JobId}, func(chunk *daemonpb.ResultChunk) error {
		_, err := out.Write(chunk.Data)
		return err
	}, api.GetJobResult)
	if err != nil {
		return err
	}
	c.printf("%s", indented(whole.Bytes()))
	if job.ErrorCode == codePartial {
		c.note("warning: the result is incomplete: %s", neutral(job.Error))
	}
	return nil
}
