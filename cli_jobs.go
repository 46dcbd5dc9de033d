package main

// The verbs about jobs. Those of the providers have no code of their own: they are derived from the command table,
// required arguments by position, the others as flags.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

const (
	watchTimeout  = time.Hour // of one call; a longer wait asks again
	maxIndent     = 8 << 20   // a larger result is shown as it came
	maxInputBytes = 64 << 20
)

// errInterrupted: the user stopped the wait, not the job.
var errInterrupted = errors.New("interrupted")

func jobVerbs() []verb {
	return []verb{
		{"submit", "[COMMAND] [KEY=VALUE...]", "submit a job, or many from a file", "honeydew submit github.commits organization=acme repository=api startDate=-7d --wait", submitVerb},
		{"commands", "", "list every command and its arguments", "honeydew commands", commandsVerb},
		{"job list", "", "list jobs, newest first", "honeydew job list --status failed", jobListVerb},
		{"job show", "ID", "show a job", "honeydew job show 4k2m", jobShowVerb},
		{"job result", "ID", "print a job's result", "honeydew job result 4k2m", jobResultVerb},
		{"job wait", "ID...", "wait until jobs have ended", "honeydew job wait 4k2m", jobWaitVerb},
		{"job cancel", "[ID...]", "cancel jobs, by id or filter", "honeydew job cancel --status pending --command github.commits --dry-run", jobCancelVerb},
		{"job retry", "[ID...]", "submit failed or cancelled jobs again", "honeydew job retry --status failed", jobRetryVerb},
	}
}

// kebab is a name of the API as a flag or verb: pullRequests is pull-requests.
func kebab(name string) string {
	var out strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			out.WriteByte('-')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

// argumentValue is a command's argument as the command line writes it.
type argumentValue struct {
	Argument
	value any // nil: not given
}

func (v *argumentValue) String() string   { return "" }
func (v *argumentValue) IsBoolFlag() bool { return strings.HasPrefix(v.Type, "Boolean") }

// Set converts text to the argument's type; a list grows with each call.
func (v *argumentValue) Set(text string) error {
	typ := strings.TrimRight(v.Type, "!")
	if inner, isList := strings.CutPrefix(typ, "["); isList {
		list, _ := v.value.([]any)
		for item := range strings.SplitSeq(text, ",") {
			one := argumentValue{Argument: Argument{Name: v.Name, Type: strings.TrimRight(inner, "]!")}}
			if err := one.Set(strings.TrimSpace(item)); err != nil {
				return err
			}
			list = append(list, one.value)
		}
		v.value = list
		return nil
	}
	var err error
	switch typ {
	case "Boolean":
		v.value, err = strconv.ParseBool(text)
	case "Int", "Float":
		v.value, err = strconv.ParseFloat(text, 64)
	default:
		v.value = text
	}
	if err != nil || v.refuse(v.value) != "" {
		return fmt.Errorf("%s: %q is not %s", v.Name, text, v.refuse(struct{}{}))
	}
	return nil
}

// providerVerbs turns the command table into verbs.
func providerVerbs(table *Commands) []verb {
	var all []verb
	for _, cmd := range table.All() {
		var args []string
		for _, a := range cmd.Args {
			if a.Required {
				args = append(args, strings.ToUpper(strings.ReplaceAll(kebab(a.Name), "-", "_")))
			}
		}
		first, second, _ := strings.Cut(cmd.Name, ".")
		name := first + " " + kebab(second)
		example := "honeydew " + name
		for _, a := range args {
			example += " " + map[string]string{"ORGANIZATION": "acme", "REPOSITORY": "api", "PROJECT": "web", "WORKSPACE": "acme"}[a]
			if strings.HasSuffix(example, " ") {
				example += a
			}
		}
		all = append(all, verb{name, strings.Join(args, " "), lowerFirst(cmd.Description), example, func(c *cli, f *flag.FlagSet) action {
			return providerVerb(c, f, cmd)
		}})
	}
	return all
}

func lowerFirst(s string) string {
	if len(s) > 1 && unicode.IsUpper(rune(s[0])) && unicode.IsLower(rune(s[1])) {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

func providerVerb(c *cli, f *flag.FlagSet, cmd *Command) action {
	values := make([]*argumentValue, len(cmd.Args))
	for i, a := range cmd.Args {
		if values[i] = (&argumentValue{Argument: a}); !a.Required {
			usage := "`" + strings.ToUpper(a.Type) + "`"
			if a.isDate() {
				usage = "a `DATE`: " + allowedDates
			}
			f.Var(values[i], kebab(a.Name), usage)
		}
	}
	req := submitFlags(f)
	detach := f.Bool("detach", false, "print the job's id and do not wait")
	return func(ctx context.Context, args []string) error {
		payload := map[string]any{}
		for _, v := range values {
			if v.Required {
				if err := v.Set(args[0]); err != nil {
					return &usageError{text: err.Error()}
				}
				args = args[1:]
			}
			if v.value != nil {
				payload[v.Name] = v.value
			}
		}
		in, err := req(cmd.Name, payload)
		if err != nil {
			return err
		}
		out, err := call(ctx, c, daemonpb.DaemonClient.SubmitJob, in)
		if err != nil {
			return err
		}
		if *detach {
			return c.show(out, func() { c.printf("%s", out.JobId) })
		}
		job, err := c.wait(ctx, out.JobId)
		if err != nil {
			return err
		}
		return c.printResult(ctx, job)
	}
}

// submitFlags declares what every submit may say, and returns how to make the request of it.
func submitFlags(f *flag.FlagSet) func(command string, payload map[string]any) (*daemonpb.SubmitJobRequest, error) {
	priority := f.Int("priority", 0, "higher `N` run first")
	environment := f.String("environment", "", "`NAME` of the environment (default: the active one)")
	timeout := f.String("timeout", "", "`DURATION` of one attempt, such as 90s (default: api.timeout)")
	retries := f.Int("max-retries", -1, "`N` retries after a failure that may pass (default: queue.max_retries)")
	return func(command string, payload map[string]any) (*daemonpb.SubmitJobRequest, error) {
		fields, err := structpb.NewStruct(payload)
		if err != nil {
			return nil, usagef("payload: %s", err)
		}
		in := &daemonpb.SubmitJobRequest{Command: command, Payload: fields, Priority: int32(*priority), Environment: *environment, Timeout: *timeout}
		if int(in.Priority) != *priority {
			return nil, usagef("--priority: %d is out of range", *priority)
		}
		if *retries < -1 {
			return nil, usagef("--max-retries: %d; allowed: 0 and more", *retries)
		} else if *retries >= 0 {
			n := int32(min(*retries, 1<<30))
			in.MaxRetries = &n
		}
		return in, nil
	}
}

func submitVerb(c *cli, f *flag.FlagSet) action {
	req := submitFlags(f)
	payloadText := f.String("payload", "", "arguments as `JSON`, @FILE, or - for stdin")
	runAfter := f.String("run-after", "", "not before `TIME`: RFC 3339, or a duration from now such as 2h")
	key := f.String("idempotency-key", "", "submit at most once under this `KEY`")
	wait := f.Bool("wait", false, "wait for the end of the job")
	batch := f.String("batch", "", "submit all jobs of a `FILE` or -: one {\"command\":..., \"payload\":{...}} a line, all or none")
	return func(ctx context.Context, args []string) error {
		if *batch != "" {
			if len(args) > 0 || *wait {
				return usagef("submit: --batch takes neither a command nor --wait")
			}
			return c.submitBatch(ctx, *batch)
		}
		if len(args) == 0 {
			return &usageError{"submit: COMMAND is missing", "list them with: honeydew commands"}
		}
		payload, err := c.payload(args[0], *payloadText, args[1:])
		if err != nil {
			return err
		}
		in, err := req(args[0], payload)
		if err != nil {
			return err
		}
		in.IdempotencyKey, in.RunAfter = *key, *runAfter
		if d, err := parseDuration(*runAfter); err == nil && *runAfter != "" {
			in.RunAfter = timeText(time.Now().Add(d))
		} else if _, err := time.Parse(time.RFC3339, *runAfter); err != nil && *runAfter != "" {
			return usagef("--run-after: %q is neither an RFC 3339 time nor a duration such as 2h", *runAfter)
		}
		out, err := call(ctx, c, daemonpb.DaemonClient.SubmitJob, in)
		if err != nil {
			return err
		}
		if *wait {
			return c.waitAll(ctx, []string{out.JobId})
		}
		return c.show(out, func() {
			c.printf("%s", out.JobId)
			if out.Existing {
				c.note("this key was used before; nothing new was submitted")
			}
		})
	}
}

// payload makes a command's arguments of --payload and key=value words, which win.
func (c *cli) payload(command, text string, words []string) (map[string]any, error) {
	payload := map[string]any{}
	if text != "" {
		data := []byte(text)
		var err error
		if text == "-" || text[0] == '@' {
			data, err = c.readInput(strings.TrimPrefix(text, "@"))
		}
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &payload); err != nil || payload == nil {
			return nil, usagef("--payload: not a JSON object: %v", err)
		}
	}
	table, err := c.table()
	if err != nil {
		return nil, err
	}
	cmd, err := table.Lookup(command)
	if err != nil {
		cmd = &Command{} // the daemon may know it, and says so if not
	}
	values := map[string]*argumentValue{}
	for _, word := range words {
		key, text, ok := strings.Cut(word, "=")
		if !ok {
			return nil, usagef("%q is no KEY=VALUE", word)
		}
		if values[key] == nil {
			a := Argument{Name: key, Type: "String"}
			if known := cmd.argument(key); known != nil {
				a = *known
			}
			values[key] = &argumentValue{Argument: a}
		}
		if err := values[key].Set(text); err != nil {
			return nil, &usageError{text: err.Error()}
		}
		payload[key] = values[key].value
	}
	return payload, nil
}

// readInput reads a file, or stdin for -.
func (c *cli) readInput(name string) ([]byte, error) {
	in := c.stdin
	if name != "-" {
		f, err := os.Open(expandPath(name, c.userHome))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxInputBytes+1))
	if err == nil && len(data) > maxInputBytes {
		err = fmt.Errorf("%s is larger than %d MiB", name, maxInputBytes>>20)
	}
	return data, err
}

func (c *cli) submitBatch(ctx context.Context, name string) error {
	data, err := c.readInput(name)
	if err != nil {
		return err
	}
	in := &daemonpb.SubmitJobsRequest{}
	for number, line := range strings.Split(string(data), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		one := &daemonpb.SubmitJobRequest{}
		if err := protojson.Unmarshal([]byte(line), one); err != nil {
			return usagef("%s:%d: %s", name, number+1, err)
		}
		in.Jobs = append(in.Jobs, one)
	}
	return ask(ctx, c, daemonpb.DaemonClient.SubmitJobs, in, func(out *daemonpb.SubmitJobsResponse) {
		for _, j := range out.Jobs {
			c.printf("%s", j.JobId)
		}
	})
}

// wait follows a job to its end and returns it; on a terminal it shows what the job is doing.
func (c *cli) wait(ctx context.Context, id string) (*daemonpb.JobStatus, error) {
	d, err := c.daemon()
	if err != nil {
		return nil, err
	}
	progress := ticker{}
	if c.stderrIsTTY {
		progress.out = c.stderr
	}
	defer progress.clear()
	for {
		job, err := c.watch(ctx, d, id, &progress)
		switch {
		case err == nil:
			return job, nil
		case ctx.Err() != nil:
			progress.clear()
			c.note("interrupted; job %s goes on, wait for it with: honeydew job wait %s", id, id)
			return nil, errInterrupted
		case status.Code(err) == codes.DeadlineExceeded:
			continue
		case status.Code(err) == codes.Unavailable:
			progress.clear()
			c.note("job %s is kept, and goes on when the daemon runs again", id)
		}
		return nil, err
	}
}

func (c *cli) watch(ctx context.Context, d daemonpb.DaemonClient, id string, progress *ticker) (*daemonpb.JobStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	stream, err := d.WatchJob(ctx, &daemonpb.WatchJobRequest{JobId: id})
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		job, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if header, err := stream.Header(); first && err == nil {
			c.noteVersion(header)
		}
		if isFinished(job) {
			return job, nil
		}
		if first && job.Status == statusPending && !c.pauseTold {
			s, err := call(ctx, c, daemonpb.DaemonClient.GetStatus, &daemonpb.GetStatusRequest{})
			if c.pauseTold = err == nil && s.QueuePaused; c.pauseTold {
				c.note("the queue is paused; resume it with: honeydew queue resume")
			}
		}
		text := fmt.Sprintf("job %s: %s", job.JobId, job.Status)
		if job.NextAttemptAt != "" {
			text += fmt.Sprintf(", next attempt %s", shortTime(job.NextAttemptAt))
		}
		if job.Error != "" {
			text += ": " + printable(job.Error)
		}
		if c.stdoutWidth > 1 {
			text = cutRunes(text, c.stdoutWidth-1)
		}
		progress.show(text)
	}
}

func isFinished(j *daemonpb.JobStatus) bool {
	return j.Status == statusCompleted || j.Status == statusFailed || j.Status == statusCancelled
}

// printResult prints a completed job's result, byte for byte unless a person looks at it.
func (c *cli) printResult(ctx context.Context, job *daemonpb.JobStatus) error {
	if job.Status != statusCompleted {
		return &jobError{job}
	}
	d, err := c.daemon()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, longTimeout)
	defer cancel()
	stream, err := d.GetJobResult(ctx, &daemonpb.GetJobResultRequest{JobId: job.JobId})
	if err != nil {
		return err
	}
	pretty := !c.json && c.stdoutWidth > 0 && job.ResultBytes <= maxIndent
	var whole []byte
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if pretty {
			whole = append(whole, chunk.Data...)
		} else if _, err := c.out.Write(chunk.Data); err != nil {
			return fmt.Errorf("cannot write to stdout: %w", err)
		}
	}
	c.printf("%s", indented(whole))
	if job.ErrorCode == codePartial {
		c.note("warning: the result is incomplete: %s", printable(job.Error))
	}
	return nil
}

// waitAll waits for jobs and prints how they ended; the first that did not complete is the error.
func (c *cli) waitAll(ctx context.Context, ids []string) (err error) {
	jobs := make([]*daemonpb.JobStatus, len(ids))
	var failed error
	for i, id := range ids {
		if jobs[i], err = c.wait(ctx, id); err != nil {
			return err
		}
		if jobs[i].Status != statusCompleted && failed == nil {
			failed = &jobError{jobs[i]}
		}
		if !c.json {
			c.printf("job %s (%s) %s%s", jobs[i].JobId, jobs[i].Command, jobs[i].Status, details(jobs[i]))
		}
	}
	if c.json && len(jobs) == 1 {
		err = c.printJSON(jobs[0])
	} else if c.json {
		err = c.printJSON(&daemonpb.ListJobsResponse{Jobs: jobs})
	}
	return errors.Join(failed, err)
}

// details is what else to say of a job that has ended.
func details(j *daemonpb.JobStatus) string {
	if j.Error != "" {
		return ": " + printable(j.Error)
	}
	if j.Status == statusCompleted {
		return ", " + bytesText(j.ResultBytes) + "; print it with: honeydew job result " + j.JobId
	}
	return ""
}

func jobWaitVerb(c *cli, _ *flag.FlagSet) action {
	return c.waitAll
}

func jobResultVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		job, err := call(ctx, c, daemonpb.DaemonClient.GetJobStatus, &daemonpb.GetJobStatusRequest{JobId: args[0]})
		if err != nil {
			return err
		}
		if !isFinished(job) {
			return errorf(codeFailedPrecondition, "job %s is %s and has no result yet", job.JobId, job.Status).hint("wait for it with: honeydew job wait %s", job.JobId)
		}
		return c.printResult(ctx, job)
	}
}
