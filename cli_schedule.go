package main

// The verbs about schedules. One is named by its name, or by its id, which may be shortened.

import (
	"context"
	"flag"
	"math"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

func (c *cli) scheduleVerbs() []verb {
	return []verb{
		{
			name:  "schedule add",
			args:  "NAME CRON COMMAND [KEY=VALUE...]",
			short: "Submit a command again and again",
			example: "honeydew schedule add nightly '0 2 * * *' " +
				"github.commits organization=acme repository=api startDate=last-success",
			notes: "CRON: minute hour day month weekday, in the daemon's time zone\n" +
				"(or 'CRON_TZ=Europe/Berlin 0 9 * * *'), or @daily, '@every 90m', ...\n" +
				"startDate=last-success: since the last run that completed",
			setup: c.scheduleAddVerb,
		},
		{
			name:  "schedule list",
			short: "List the schedules",
			run:   c.scheduleList,
		},
		{
			name:    "schedule remove",
			args:    "NAME",
			short:   "Remove a schedule; its jobs stay",
			example: "honeydew schedule remove nightly",
			run:     c.scheduleRemove,
		},
		{
			name:    "schedule pause",
			args:    "NAME",
			short:   "Pause a schedule until it is resumed",
			example: "honeydew schedule pause nightly",
			run:     c.enable(false),
		},
		{
			name:    "schedule resume",
			args:    "NAME",
			short:   "Let a schedule run again, from now on",
			example: "honeydew schedule resume nightly",
			run:     c.enable(true),
		},
		{
			name:    "schedule run",
			args:    "NAME",
			short:   "Submit a schedule's job now",
			example: "honeydew schedule run nightly",
			setup:   c.scheduleRunVerb,
		},
		{
			name:    "schedule test",
			args:    "CRON|NAME",
			short:   "Show the next five times of a schedule or expression",
			example: "honeydew schedule test '*/15 9-17 * * 1-5'",
			run:     c.scheduleTest,
		},
	}
}

// minIDPrefix is as short as a schedule's id may be written: what is shorter is rather a mistyped name.
const minIDPrefix = 4

// schedule finds the schedule of that name, or else of that id, which may be shortened. One that is not there has only
// the name that was asked for: the daemon says the rest.
func (c *cli) schedule(ctx context.Context, text string) (*daemonpb.Schedule, error) {
	all, err := c.client.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
	if err != nil {
		return nil, err
	}
	var found []*daemonpb.Schedule
	for _, s := range all.Schedules {
		if s.Name == text {
			return s, nil
		}
		if len(text) >= minIDPrefix && strings.HasPrefix(s.ScheduleId, text) {
			found = append(found, s)
		}
	}
	near := nearest(text, namesOf(all.Schedules, (*daemonpb.Schedule).GetName))
	switch {
	case len(found) == 0 && near != "":
		return nil, errorf(codeNotFound, "no schedule %q; did you mean %q?", text, near).
			hint("list them with: honeydew schedule list")
	case len(found) == 0: // so says the daemon
		return &daemonpb.Schedule{Name: text}, nil
	case len(found) == 1:
		return found[0], nil
	}
	return nil, usagef("%q begins the ids of %s", text, count(len(found), "schedule")).
		hint("write more of it, or the name")
}

func (c *cli) scheduleAddVerb(f *flag.FlagSet) action {
	in := &daemonpb.ScheduleJobRequest{}
	payload := payloadFlag(f)
	number(f, "priority", math.MinInt32, "of its jobs; higher `N` run first", func(n int32) { in.Priority = n })
	environmentFlag(f, &in.Environment)
	f.StringVar(&in.Missed, "missed", "",
		"what to do about times missed while down or asleep: `run_once` (default) or skip")
	f.StringVar(&in.Overlap, "overlap", "", "while its previous job is unfinished: `skip` (default) or allow")
	f.StringVar(&in.Jitter, "jitter", "", "start up to this `DURATION` later, at random")
	f.BoolVar(&in.Replace, "replace", false, "change the schedule of that name; its history stays")
	f.StringVar(&in.Timeout, "timeout", "", "`DURATION` of one attempt of its jobs, such as 90s (default: api.timeout)")
	number(f, "max-retries", 0,
		"`N` retries of its jobs after a failure that may pass (default: 12, or more if queue.max_retries is)",
		func(n int32) { in.MaxRetries = &n })
	return func(ctx context.Context, args []string) error {
		if isCron(ctx, args[0]) && !isCron(ctx, args[1]) {
			return usagef("schedule add: %q is no name", args[0]).
				hint("a name comes first: honeydew schedule add NAME %s %s ...", shellQuoted(args[0]), args[1])
		}
		if strings.Trim(args[1], "0123456789*/,-") == "" || args[1] == "@every" {
			return usagef("schedule add: %q is only a part of a cron expression", args[1]).
				hint("quote it as one word: honeydew schedule add %s '0 2 * * *' COMMAND", shellQuoted(args[0]))
		}
		in.Name = args[0]
		in.CronExpr = args[1]
		in.Command = args[2]
		arguments, err := c.payload(ctx, in.Command, *payload, args[3:])
		if err != nil {
			return err
		}
		in.Payload = arguments
		out, err := c.client.ScheduleJob(ctx, in)
		if err != nil {
			return err
		}
		done := "Added"
		if in.Replace {
			done = "Saved"
			if strings.Contains(arguments.String(), lastSuccess) {
				c.note("with %s it goes on from its last success; to pull everything, remove it and add it again",
					lastSuccess)
			}
		}
		environment := c.chosen(ctx, in.Environment)
		return c.answer(out, "%s %s%s. It runs next at %s.", done, in.Name, environment, localTime(out.NextRunAt))
	}
}

// chosen names the environment that a schedule got because none was named, and what it lacks; "" where one was.
func (c *cli) chosen(ctx context.Context, named string) string {
	if named != "" || c.json {
		return ""
	}
	out, err := c.client.GetActiveEnvironment(ctx, &daemonpb.GetActiveEnvironmentRequest{})
	env := out.GetEnvironment()
	switch {
	case err != nil: // the schedule is there all the same
		return ""
	case !env.Authenticated:
		return " for " + env.Name + ", where nobody is logged in"
	}
	return " for " + env.Name
}

func (c *cli) scheduleList(ctx context.Context, _ []string) error {
	out, err := c.client.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
	if err != nil {
		return err
	}
	rows := [][]string{{
		"NAME",
		"WHEN",
		"NEXT",
		"LAST DUE",
		"LAST JOB",
		"ENVIRONMENT",
		"COMMAND",
		"ARGUMENTS",
	}}
	for _, s := range out.Schedules {
		next := "paused"
		if s.Enabled {
			next = shortTime(s.NextRunAt)
		}
		when := s.CronExpr
		if s.Jitter != "" {
			when += " +" + strings.Replace(s.Jitter, "m0s", "m", 1)
		}
		rows = append(rows, []string{
			s.Name,
			when,
			next,
			shortTime(s.LastRunAt),
			s.LastJobStatus,
			s.Environment,
			s.Command,
			argumentWords(s.Payload),
		})
	}
	c.table(rows)
	return c.document(out)
}

func (c *cli) scheduleRemove(ctx context.Context, args []string) error {
	s, err := c.schedule(ctx, args[0])
	if err != nil {
		return err
	}
	out, err := c.client.UnscheduleJob(ctx, &daemonpb.UnscheduleJobRequest{Name: s.Name})
	if err != nil {
		return err
	}
	return c.answer(out, "Removed %s.", s.Name)
}

// enable pauses or resumes a schedule.
func (c *cli) enable(enabled bool) action {
	return func(ctx context.Context, args []string) error {
		s, err := c.schedule(ctx, args[0])
		if err != nil {
			return err
		}
		in := &daemonpb.SetScheduleEnabledRequest{Name: s.Name, Enabled: enabled}
		out, err := c.client.SetScheduleEnabled(ctx, in)
		if err != nil {
			return err
		}
		if enabled {
			return c.answer(out, "Resumed %s. It runs next at %s.", s.Name, localTime(out.Schedule.GetNextRunAt()))
		}
		return c.answer(out, "Paused %s. Resume it with: honeydew schedule resume %s", s.Name, shellQuoted(s.Name))
	}
}

func (c *cli) scheduleRunVerb(f *flag.FlagSet) action {
	wait := f.Bool("wait", false, "wait for the end of the job")
	return func(ctx context.Context, args []string) error {
		s, err := c.schedule(ctx, args[0])
		if err != nil {
			return err
		}
		out, err := c.client.TriggerSchedule(ctx, &daemonpb.TriggerScheduleRequest{Name: s.Name})
		if err != nil {
			return err
		}
		if *wait {
			return c.waitAll(ctx, []string{out.JobId})
		}
		return c.submitted(out, out.JobId)
	}
}

// preview asks the daemon, since its zone counts, unless its last answer was an error of silence. Then it reads the
// expression as a daemon of this release would.
func (c *cli) preview(ctx context.Context, expression string, last error) (*daemonpb.PreviewScheduleResponse, error) {
	in := &daemonpb.PreviewScheduleRequest{CronExpr: expression}
	switch status.Code(last) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return (&rpcServer{}).PreviewSchedule(ctx, in)
	}
	return c.client.PreviewSchedule(ctx, in)
}

// isCron reports whether text is a cron expression; nobody is asked.
func isCron(ctx context.Context, text string) bool {
	in := &daemonpb.PreviewScheduleRequest{CronExpr: text}
	_, err := (&rpcServer{}).PreviewSchedule(ctx, in)
	return err == nil
}

// scheduleTest takes what is no schedule's name for an expression.
func (c *cli) scheduleTest(ctx context.Context, args []string) error {
	s, err := c.schedule(ctx, args[0])
	unknown := err != nil || s.CronExpr == ""
	switch {
	case unknown && strings.ContainsAny(args[0], " \t@"):
		out, err := c.preview(ctx, args[0], err)
		if err != nil {
			return err
		}
		return c.printTimes(out)
	case err != nil:
		return err
	case unknown:
		return errorf(codeNotFound, "no schedule %q, and no cron expression either", args[0]).
			hint("list them with: honeydew schedule list")
	}
	if !s.Enabled {
		c.note("%s is paused; if it were not, it would run at these times; resume it with: honeydew schedule resume %s",
			s.Name, shellQuoted(s.Name))
	}
	out, err := c.preview(ctx, s.CronExpr, nil)
	if err != nil {
		return err
	}
	return c.printTimes(out)
}

func (c *cli) printTimes(out *daemonpb.PreviewScheduleResponse) error {
	for _, text := range out.Times {
		t, err := parseTimeText(text)
		if err != nil {
			return err
		}
		c.printf("%s  %s", t.Local().Format("Mon 2006-01-02 15:04:05 MST"), shortTime(text))
	}
	return c.document(out)
}
