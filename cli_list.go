package main

// The verbs that show jobs and commands, and those that do something to every job of a list.

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"

	"honeydew/daemonpb"
)

func jobVerbs() []verb {
	show := &daemonpb.GetJobStatusRequest{}
	return []verb{
		{"submit", "[COMMAND] [KEY=VALUE...]", "submit a job, or many from a file",
			"honeydew submit github.commits organization=acme repository=api startDate=-7d --wait", submitVerb},
		{"commands", "", "list every command and its arguments", "honeydew commands",
			asking(daemonpb.DaemonClient.ListCommands, &daemonpb.ListCommandsRequest{}, nil)},
		{"job list", "", "list jobs, newest first", "honeydew job list --status failed", jobListVerb},
		{"job show", "ID", "show a job", "honeydew job show 4k2m", asking(daemonpb.DaemonClient.GetJobStatus, show, nil, &show.JobId)},
		{"job result", "ID", "print a job's result", "honeydew job result 4k2m", func(c *cli, _ *flag.FlagSet) action {
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
		}},
		{"job wait", "ID...", "wait until jobs have ended", "honeydew job wait 4k2m", func(c *cli, _ *flag.FlagSet) action { return c.waitAll }},
		{"job cancel", "[ID...]", "cancel jobs, by id or filter", "honeydew job cancel --status pending --command github.commits --dry-run",
			eachVerb("cancelled", []string{statusPending, statusRunning}, func(ctx context.Context, c *cli, id string) (map[string]string, error) {
				out, err := call(ctx, c, daemonpb.DaemonClient.CancelJob, &daemonpb.CancelJobRequest{JobId: id})
				return map[string]string{"jobId": id, "status": out.GetStatus()}, err
			})},
		{"job retry", "[ID...]", "submit failed or cancelled jobs again", "honeydew job retry --status failed",
			eachVerb("submitted again", []string{statusFailed, statusCancelled}, func(ctx context.Context, c *cli, id string) (map[string]string, error) {
				out, err := call(ctx, c, daemonpb.DaemonClient.RetryJob, &daemonpb.RetryJobRequest{JobId: id})
				return map[string]string{"jobId": out.GetJobId(), "retryOf": id}, err
			})},
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

// eachVerb is a verb that does something to every job named, or to every one that a filter finds in one of the states;
// do says what it did as the members of a JSON object.
func eachVerb(past string, states []string, do func(ctx context.Context, c *cli, id string) (map[string]string, error)) func(*cli, *flag.FlagSet) action {
	return func(c *cli, f *flag.FlagSet) action {
		filter := filterFlags(f)
		dryRun := f.Bool("dry-run", false, "only list them")
		return func(ctx context.Context, ids []string) (err error) {
			named := len(ids) > 0
			if filtered := filter.Status+filter.Command+filter.Schedule != ""; named == filtered {
				return usagef("name either jobs or a filter: --status, --command, --schedule")
			} else if filtered {
				if ids, err = c.matching(ctx, filter, states); err != nil {
					return err
				}
			}
			done, failures := []map[string]string{}, 0
			for _, id := range ids {
				one := map[string]string{"jobId": id}
				if !*dryRun {
					one, err = do(ctx, c, id)
				}
				if err != nil && (len(ids) == 1 || ctx.Err() != nil) {
					return err
				} else if err != nil {
					failures++
					_, text, _ := c.explain(err)
					c.note("job %s: %s", printable(id), text)
				} else if done = append(done, one); !c.json {
					c.printf("%s", one["jobId"])
				}
			}
			switch {
			case c.json:
				err = c.encodeJobs(done, named && len(ids) == 1)
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
func (c *cli) matching(ctx context.Context, filter *daemonpb.ListJobsRequest, states []string) (ids []string, err error) {
	if filter.Status != "" && !slices.Contains(states, filter.Status) {
		return nil, usagef("--status: %q; allowed here: %s", filter.Status, strings.Join(states, ", "))
	}
	found, err := c.list(ctx, filter, math.MaxInt32)
	for _, j := range found.GetJobs() {
		if slices.Contains(states, j.Status) {
			ids = append(ids, j.JobId)
		}
	}
	return ids, err
}

// encodeJobs prints {"jobs": [...]}; what was done to the one job that was named stands beside it, too.
func (c *cli) encodeJobs(done []map[string]string, single bool) error {
	document := map[string]any{"jobs": done}
	if single {
		for key, value := range done[0] {
			document[key] = value
		}
	}
	return c.encode(document)
}
