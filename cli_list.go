package main

// The verbs that list jobs and commands, and those that do something to every job of a list.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"honeydew/daemonpb"
)

func jobShowVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.GetJobStatus, &daemonpb.GetJobStatusRequest{JobId: args[0]}, func(j *daemonpb.JobStatus) {
			payload, err := protojson.Marshal(j.Payload)
			if err != nil {
				payload = []byte(err.Error())
			}
			result := ""
			if j.Status == statusCompleted {
				result = bytesText(j.ResultBytes) + "; print it with: honeydew job result " + j.JobId
			}
			c.pairs("job", j.JobId, "command", j.Command, "arguments", string(payload), "status", j.Status, "error", j.Error, "result", result,
				"environment", j.Environment, "schedule", j.Schedule, "priority", strconv.Itoa(int(j.Priority)),
				"retries", fmt.Sprintf("%d of %d", j.RetryCount, j.MaxRetries), "submitted", localTime(j.CreatedAt),
				"next attempt", localTime(j.NextAttemptAt), "started", localTime(j.StartedAt), "ended", localTime(j.CompletedAt))
		})
	}
}

// filterFlags declares the filters of a list of jobs.
func filterFlags(f *flag.FlagSet) *daemonpb.ListJobsRequest {
	in := &daemonpb.ListJobsRequest{}
	f.StringVar(&in.Status, "status", "", "only `pending`, running, completed, failed or cancelled ones")
	f.StringVar(&in.Command, "command", "", "only those of `COMMAND`")
	f.StringVar(&in.Schedule, "schedule", "", "only those of the schedule `NAME`")
	return in
}

// list reads up to limit jobs, in pages; the token is where the rest begins.
func (c *cli) list(ctx context.Context, in *daemonpb.ListJobsRequest, limit int) (*daemonpb.ListJobsResponse, error) {
	all := &daemonpb.ListJobsResponse{}
	for {
		in.Limit = int32(min(limit-len(all.Jobs), 1000))
		page, err := call(ctx, c, daemonpb.DaemonClient.ListJobs, in)
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
	in := filterFlags(f)
	limit := f.Int("limit", 50, "at most `N` jobs")
	everything := f.Bool("all", false, "all of them")
	f.StringVar(&in.PageToken, "page-token", "", "go on where an earlier list was cut")
	return func(ctx context.Context, _ []string) error {
		if *everything {
			*limit = 1 << 30
		}
		if *limit < 1 {
			return usagef("--limit: %d; allowed: 1 and more", *limit)
		}
		out, err := c.list(ctx, in, *limit)
		if err != nil {
			return err
		}
		err = c.show(out, func() {
			rows := make([][]string, len(out.Jobs))
			for i, j := range out.Jobs {
				rows[i] = []string{j.JobId, j.Status, j.Command, j.Environment, shortTime(j.CreatedAt), j.Error}
			}
			c.printTable([]string{"ID", "STATUS", "COMMAND", "ENVIRONMENT", "SUBMITTED", "ERROR"}, rows)
		})
		if out.NextPageToken != "" {
			c.note("only the newest %s listed; see more with --limit N or --all, or go on with --page-token %s",
				count(len(out.Jobs), "job"), out.NextPageToken)
		}
		return err
	}
}

// each runs one call on every job named, or on every job that the filter finds in one of the states.
func (c *cli) each(ctx context.Context, ids []string, filter *daemonpb.ListJobsRequest, states []string, dryRun bool, past string,
	do func(id string) (map[string]string, error)) error {
	named := len(ids) > 0
	if filtered := filter.Status+filter.Command+filter.Schedule != ""; named == filtered {
		return usagef("name either jobs or a filter: --status, --command, --schedule")
	}
	if !named {
		if filter.Status != "" && !slices.Contains(states, filter.Status) {
			return usagef("--status: %q; allowed here: %s", filter.Status, strings.Join(states, ", "))
		}
		found, err := c.list(ctx, filter, 1<<30)
		if err != nil {
			return err
		}
		for _, j := range found.Jobs {
			if slices.Contains(states, j.Status) {
				ids = append(ids, j.JobId)
			}
		}
	}
	done := []map[string]string{}
	var failed error
	failures := 0
	for _, id := range ids {
		one := map[string]string{"jobId": id}
		if !dryRun {
			if one, failed = do(id); failed != nil && len(ids) == 1 || ctx.Err() != nil {
				break
			} else if failed != nil {
				failures++
				_, text, _ := c.explain(failed)
				c.note("job %s: %s", printable(id), text)
				continue
			}
		}
		if done = append(done, one); !c.json {
			c.printf("%s", one["jobId"])
		}
	}
	if failures > 0 {
		failed = fmt.Errorf("%d of %d jobs could not be %s", failures, len(ids), past)
	}
	if c.json {
		return errors.Join(failed, c.printJobs(done, named && len(ids) == 1))
	}
	if dryRun {
		c.note("%s would be %s", count(len(done), "job"), past)
	} else if !named {
		c.note("%s %s", count(len(done), "job"), past)
	}
	return failed
}

// printJobs prints {"jobs": [...]}; what was done to the one job that was named stands beside it, too.
func (c *cli) printJobs(done []map[string]string, single bool) error {
	document := map[string]any{"jobs": done}
	if single && len(done) == 1 {
		for key, value := range done[0] {
			document[key] = value
		}
	}
	return c.encode(document)
}

func jobCancelVerb(c *cli, f *flag.FlagSet) action {
	filter := filterFlags(f)
	dryRun := f.Bool("dry-run", false, "only list them")
	return func(ctx context.Context, args []string) error {
		return c.each(ctx, args, filter, []string{statusPending, statusRunning}, *dryRun, "cancelled", func(id string) (map[string]string, error) {
			out, err := call(ctx, c, daemonpb.DaemonClient.CancelJob, &daemonpb.CancelJobRequest{JobId: id})
			return map[string]string{"jobId": id, "status": out.GetStatus()}, err
		})
	}
}

func jobRetryVerb(c *cli, f *flag.FlagSet) action {
	filter := filterFlags(f)
	dryRun := f.Bool("dry-run", false, "only list them")
	return func(ctx context.Context, args []string) error {
		return c.each(ctx, args, filter, []string{statusFailed, statusCancelled}, *dryRun, "submitted again", func(id string) (map[string]string, error) {
			out, err := call(ctx, c, daemonpb.DaemonClient.RetryJob, &daemonpb.RetryJobRequest{JobId: id})
			return map[string]string{"jobId": out.GetJobId(), "retryOf": id}, err
		})
	}
}

func commandsVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.ListCommands, &daemonpb.ListCommandsRequest{}, func(out *daemonpb.ListCommandsResponse) {
			rows := make([][]string, len(out.Commands))
			for i, cmd := range out.Commands {
				var args []string
				for _, a := range cmd.Arguments {
					args = append(args, a.Name+":"+a.Type)
				}
				rows[i] = []string{cmd.Name, cmd.Kind, cmd.Description, strings.Join(args, " ")}
			}
			c.printTable([]string{"COMMAND", "KIND", "DESCRIPTION", "ARGUMENTS"}, rows)
		})
	}
}
