package main

// The verbs about schedules.

import (
	"context"
	"flag"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

func scheduleVerbs() []verb {
	return []verb{
		{"schedule add", "NAME CRON COMMAND [KEY=VALUE...]", "submit a command again and again",
			"honeydew schedule add nightly '0 2 * * *' github.commits organization=acme repository=api startDate=last-success", scheduleAddVerb},
		{"schedule list", "", "list the schedules", "honeydew schedule list", scheduleListVerb},
		{"schedule remove", "NAME", "remove a schedule; its jobs stay", "honeydew schedule remove nightly", scheduleRemoveVerb},
		{"schedule pause", "NAME", "fire it no more until resumed", "honeydew schedule pause nightly", scheduleEnableVerb(false)},
		{"schedule resume", "NAME", "fire it again, from now on", "honeydew schedule resume nightly", scheduleEnableVerb(true)},
		{"schedule run", "NAME", "submit its job now", "honeydew schedule run nightly", scheduleRunVerb},
		{"schedule test", "CRON|NAME", "show the next five times", "honeydew schedule test '*/15 9-17 * * 1-5'", scheduleTestVerb},
	}
}

func scheduleAddVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.ScheduleJobRequest{}
	payloadText := f.String("payload", "", "arguments as `JSON`, @FILE, or - for stdin")
	priority := f.Int("priority", 0, "of its jobs; higher `N` run first")
	f.StringVar(&in.Environment, "environment", "", "`NAME` of the environment (default: the active one)")
	f.StringVar(&in.Missed, "missed", "", "what to do about times missed while down or asleep: `run_once` (default) or skip")
	f.StringVar(&in.Overlap, "overlap", "", "while its previous job is unfinished: `skip` (default) or allow")
	f.StringVar(&in.Jitter, "jitter", "", "start up to this `DURATION` later, at random")
	return func(ctx context.Context, args []string) error {
		payload, err := c.payload(args[2], *payloadText, args[3:])
		if err != nil {
			return err
		}
		in.Name, in.CronExpr, in.Command, in.Priority = args[0], args[1], args[2], int32(*priority)
		if in.Payload, err = structpb.NewStruct(payload); err != nil {
			return usagef("payload: %s", err)
		}
		return ask(ctx, c, daemonpb.DaemonClient.ScheduleJob, in, func(out *daemonpb.ScheduleJobResponse) {
			c.printf("Added %s. It runs next at %s.", printable(in.Name), localTime(out.NextRunAt))
		})
	}
}

func scheduleListVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.ListSchedules, &daemonpb.ListSchedulesRequest{}, func(out *daemonpb.ListSchedulesResponse) {
			rows := make([][]string, len(out.Schedules))
			for i, s := range out.Schedules {
				next := shortTime(s.NextRunAt)
				if !s.Enabled {
					next = "paused"
				}
				payload, err := protojson.Marshal(s.Payload)
				if err != nil {
					payload = []byte(err.Error())
				}
				rows[i] = []string{s.Name, s.CronExpr, next, shortTime(s.LastRunAt), s.LastJobStatus, s.Environment, s.Command, string(payload)}
			}
			c.printTable([]string{"NAME", "WHEN", "NEXT", "LAST", "LAST JOB", "ENVIRONMENT", "COMMAND", "ARGUMENTS"}, rows)
		})
	}
}

func scheduleRemoveVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.UnscheduleJob, &daemonpb.UnscheduleJobRequest{Name: args[0]}, func(out *daemonpb.UnscheduleJobResponse) { c.printf("Removed %s.", printable(args[0])) })
	}
}

func scheduleEnableVerb(enabled bool) func(*cli, *flag.FlagSet) action {
	return func(c *cli, _ *flag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			return ask(ctx, c, daemonpb.DaemonClient.SetScheduleEnabled, &daemonpb.SetScheduleEnabledRequest{Name: args[0], Enabled: enabled}, func(out *daemonpb.SetScheduleEnabledResponse) {
				if enabled {
					c.printf("Resumed %s. It runs next at %s.", printable(args[0]), localTime(out.Schedule.GetNextRunAt()))
				} else {
					c.printf("Paused %s. Resume it with: honeydew schedule resume %s", printable(args[0]), printable(args[0]))
				}
			})
		}
	}
}

func scheduleRunVerb(c *cli, f *flag.FlagSet) action {
	wait := f.Bool("wait", false, "wait for the end of the job")
	return func(ctx context.Context, args []string) error {
		out, err := call(ctx, c, daemonpb.DaemonClient.TriggerSchedule, &daemonpb.TriggerScheduleRequest{Name: args[0]})
		if err != nil {
			return err
		}
		if *wait {
			return c.waitAll(ctx, []string{out.JobId})
		}
		return c.show(out, func() { c.printf("%s", out.JobId) })
	}
}

func scheduleTestVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		expr := args[0]
		if !strings.ContainsAny(expr, " @") { // no expression: a name
			all, err := call(ctx, c, daemonpb.DaemonClient.ListSchedules, &daemonpb.ListSchedulesRequest{})
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all.Schedules, func(s *daemonpb.Schedule) bool { return s.Name == expr })
			if i < 0 {
				return errorf(codeNotFound, "no schedule %q, and no cron expression either", expr).hint("list them with: honeydew schedule list")
			}
			expr = all.Schedules[i].CronExpr
		}
		return ask(ctx, c, daemonpb.DaemonClient.PreviewSchedule, &daemonpb.PreviewScheduleRequest{CronExpr: expr}, func(out *daemonpb.PreviewScheduleResponse) {
			for _, text := range out.Times {
				if t, err := parseTimeText(text); err == nil {
					c.printf("%s  %s", t.Local().Format("Mon "+time.DateTime+" MST"), relative(time.Until(t)))
				}
			}
		})
	}
}
