package main

// The verbs about logins, environments, schedules, the queue as a whole, and the database: most are one call and one
// sentence about its answer.

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"golang.org/x/term"

	"honeydew/daemonpb"
)

func adminVerbs() []verb {
	logout, auth := &daemonpb.LogoutRequest{}, &daemonpb.GetAuthStatusRequest{}
	add, use, remove := &daemonpb.AddEnvironmentRequest{}, &daemonpb.SetActiveEnvironmentRequest{}, &daemonpb.RemoveEnvironmentRequest{}
	prune := &daemonpb.PruneRequest{}
	return []verb{
		{"login", "", "log in to the active environment", "honeydew login --username ada", loginVerb},
		{"logout", "", "forget the stored login", "honeydew logout", asking(daemonpb.DaemonClient.Logout, logout, func(f *flag.FlagSet) {
			f.StringVar(&logout.Environment, "environment", "", "log out of `NAME` instead of the active environment")
		})},
		{"auth status", "", "show the login and when it expires", "honeydew auth status", asking(daemonpb.DaemonClient.GetAuthStatus, auth, func(f *flag.FlagSet) {
			f.StringVar(&auth.Environment, "environment", "", "show `NAME` instead of the active environment")
		})},
		{"env add", "NAME URL", "add an environment", "honeydew env add staging https://staging.example.com/graphql --use",
			asking(daemonpb.DaemonClient.AddEnvironment, add, func(f *flag.FlagSet) {
				f.StringVar(&add.Description, "description", "", "what it is for")
				f.BoolVar(&add.SetActive, "use", false, "make it the active environment at once")
			}, &add.Name, &add.BaseUrl)},
		{"env list", "", "list the environments", "honeydew env list",
			asking(daemonpb.DaemonClient.ListEnvironments, &daemonpb.ListEnvironmentsRequest{}, nil)},
		{"env use", "NAME", "make an environment the active one", "honeydew env use staging",
			asking(daemonpb.DaemonClient.SetActiveEnvironment, use, nil, &use.Name)},
		{"env current", "", "show the active environment", "honeydew env current",
			asking(daemonpb.DaemonClient.GetActiveEnvironment, &daemonpb.GetActiveEnvironmentRequest{}, nil)},
		{"env remove", "NAME", "remove an environment and its login", "honeydew env remove staging",
			asking(daemonpb.DaemonClient.RemoveEnvironment, remove, nil, &remove.Name)},
		{"queue pause", "", "start no more jobs until resumed", "honeydew queue pause",
			asking(daemonpb.DaemonClient.PauseQueue, &daemonpb.PauseQueueRequest{}, nil)},
		{"queue resume", "", "start jobs again", "honeydew queue resume",
			asking(daemonpb.DaemonClient.ResumeQueue, &daemonpb.ResumeQueueRequest{}, nil)},
		{"prune", "", "delete finished jobs and shrink the database", "honeydew prune --older-than 7d --dry-run",
			asking(daemonpb.DaemonClient.Prune, prune, func(f *flag.FlagSet) {
				f.StringVar(&prune.OlderThan, "older-than", "", "delete what ended longer than `AGE` ago, such as 7d (default: storage.retention)")
				f.BoolVar(&prune.DryRun, "dry-run", false, "only count")
			})},
		{"backup", "FILE", "write a consistent copy of the database", "honeydew backup ~/honeydew.db", func(c *cli, _ *flag.FlagSet) action {
			return func(ctx context.Context, args []string) error {
				return ask(ctx, c, daemonpb.DaemonClient.Backup, &daemonpb.BackupRequest{Path: c.absolute(args[0])})
			}
		}},
	}
}

func scheduleVerbs() []verb {
	remove, pause, resume := &daemonpb.UnscheduleJobRequest{}, &daemonpb.SetScheduleEnabledRequest{}, &daemonpb.SetScheduleEnabledRequest{Enabled: true}
	return []verb{
		{"schedule add", "NAME CRON COMMAND [KEY=VALUE...]", "submit a command again and again",
			"honeydew schedule add nightly '0 2 * * *' github.commits organization=acme repository=api startDate=last-success", scheduleAddVerb},
		{"schedule list", "", "list the schedules", "honeydew schedule list",
			asking(daemonpb.DaemonClient.ListSchedules, &daemonpb.ListSchedulesRequest{}, nil)},
		{"schedule remove", "NAME", "remove a schedule; its jobs stay", "honeydew schedule remove nightly",
			asking(daemonpb.DaemonClient.UnscheduleJob, remove, nil, &remove.Name)},
		{"schedule pause", "NAME", "fire it no more until resumed", "honeydew schedule pause nightly",
			asking(daemonpb.DaemonClient.SetScheduleEnabled, pause, nil, &pause.Name)},
		{"schedule resume", "NAME", "fire it again, from now on", "honeydew schedule resume nightly",
			asking(daemonpb.DaemonClient.SetScheduleEnabled, resume, nil, &resume.Name)},
		{"schedule run", "NAME", "submit its job now", "honeydew schedule run nightly", func(c *cli, f *flag.FlagSet) action {
			wait := f.Bool("wait", false, "wait for the end of the job")
			return func(ctx context.Context, args []string) error {
				out, err := c.client.TriggerSchedule(ctx, &daemonpb.TriggerScheduleRequest{Name: args[0]})
				return c.submitted(ctx, out, err, *wait, c.waitAll)
			}
		}},
		{"schedule test", "CRON|NAME", "show the next five times", "honeydew schedule test '*/15 9-17 * * 1-5'", scheduleTestVerb},
	}
}

func loginVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.LoginRequest{}
	f.StringVar(&in.Username, "username", "", "log in as `USER`")
	f.StringVar(&in.Environment, "environment", "", "log in to `NAME` instead of the active environment")
	fromStdin := f.Bool("password-stdin", false, "read the password from stdin")
	return func(ctx context.Context, _ []string) error {
		switch {
		case !*fromStdin && !c.stdinIsTerminal:
			return usagef("login: no terminal to ask for the password").hint("pipe it in: honeydew login --username USER --password-stdin < FILE")
		case *fromStdin && in.Username == "":
			return usagef("login: --password-stdin needs --username")
		}
		// Before anyone types a password: is there a daemon to send it to?
		if _, err := c.client.Ping(ctx, &daemonpb.PingRequest{}); err != nil {
			return err
		}
		if err := c.readLogin(in, *fromStdin); err != nil {
			return err
		}
		return ask(ctx, c, daemonpb.DaemonClient.Login, in)
	}
}

// readLogin reads what is missing, from the pipe or by asking.
func (c *cli) readLogin(in *daemonpb.LoginRequest, fromStdin bool) error {
	if fromStdin {
		password, err := io.ReadAll(io.LimitReader(c.stdin, 64<<10))
		in.Password = strings.TrimRight(string(password), "\r\n")
		return err
	}
	if in.Username == "" {
		fmt.Fprint(c.stderr, "Username: ")
		line, err := bufio.NewReader(c.stdin).ReadString('\n')
		if err != nil {
			return err
		}
		in.Username = strings.TrimSpace(line)
	}
	fmt.Fprint(c.stderr, "Password: ")
	password, err := term.ReadPassword(int(c.stdin.Fd()))
	fmt.Fprintln(c.stderr)
	in.Password = string(password)
	return err
}

func scheduleAddVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.ScheduleJobRequest{}
	payload := payloadFlag(f)
	number(f, "priority", math.MinInt32, "of its jobs; higher `N` run first", func(n int32) { in.Priority = n })
	environmentFlag(f, &in.Environment)
	f.StringVar(&in.Missed, "missed", "", "what to do about times missed while down or asleep: `run_once` (default) or skip")
	f.StringVar(&in.Overlap, "overlap", "", "while its previous job is unfinished: `skip` (default) or allow")
	f.StringVar(&in.Jitter, "jitter", "", "start up to this `DURATION` later, at random")
	return func(ctx context.Context, args []string) (err error) {
		in.Name, in.CronExpr, in.Command = args[0], args[1], args[2]
		if in.Payload, err = c.payload(in.Command, *payload, args[3:]); err != nil {
			return err
		}
		return ask(ctx, c, daemonpb.DaemonClient.ScheduleJob, in)
	}
}

func scheduleTestVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		in := &daemonpb.PreviewScheduleRequest{CronExpr: args[0]}
		if !strings.ContainsAny(args[0], " @") { // no expression: a name
			all, err := c.client.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all.Schedules, func(s *daemonpb.Schedule) bool { return s.Name == args[0] })
			if i < 0 {
				return errorf(codeNotFound, "no schedule %q, and no cron expression either", args[0]).hint("list them with: honeydew schedule list")
			}
			in.CronExpr = all.Schedules[i].CronExpr
		}
		return ask(ctx, c, daemonpb.DaemonClient.PreviewSchedule, in)
	}
}
