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
	"time"

	"golang.org/x/term"

	"honeydew/daemonpb"
)

func loginVerbs() []verb {
	return []verb{
		{"login", "", "log in to the active environment", "honeydew login --username ada", loginVerb},
		{"logout", "", "forget the stored login", "honeydew logout", func(c *cli, f *flag.FlagSet) action {
			in := &daemonpb.LogoutRequest{}
			f.StringVar(&in.Environment, "environment", "", "log out of `NAME` instead of the active environment")
			return asking(c, daemonpb.DaemonClient.Logout, in, func(out *daemonpb.LogoutResponse) {
				c.printf("%s", map[bool]string{true: "Logged out.", false: "Nobody was logged in."}[out.LoggedOut])
			})
		}},
		{"auth status", "", "show the login and when it expires", "honeydew auth status", func(c *cli, f *flag.FlagSet) action {
			in := &daemonpb.GetAuthStatusRequest{}
			f.StringVar(&in.Environment, "environment", "", "show `NAME` instead of the active environment")
			return asking(c, daemonpb.DaemonClient.GetAuthStatus, in, func(s *daemonpb.AuthStatus) {
				failed := ""
				if s.FailedAuthJobs > 0 {
					failed = fmt.Sprintf("%d since the last login; retry them with: honeydew job retry --status failed", s.FailedAuthJobs)
				}
				c.pairs("environment", s.Environment, "login", loginState(s.Authenticated, s.NeedsReauth, ""), "username", s.Username,
					"access token expires", localTime(s.AccessTokenExpires), "refresh token expires", localTime(s.RefreshTokenExpires),
					"jobs failed for it", failed)
			})
		}},
	}
}

// loginState says in which state a login is; what names it where the reader would not know.
func loginState(authenticated, needsReauth bool, what string) string {
	switch {
	case needsReauth:
		return what + "expired; run: honeydew login"
	case authenticated:
		return "logged in"
	}
	return "not logged in; run: honeydew login"
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
		if _, err := call(ctx, c, daemonpb.DaemonClient.Ping, &daemonpb.PingRequest{}); err != nil {
			return err
		}
		if err := c.readLogin(in, *fromStdin); err != nil {
			return err
		}
		return ask(ctx, c, daemonpb.DaemonClient.Login, in, func(out *daemonpb.LoginResponse) {
			c.printf("Logged in to %s as %s.", printable(out.Environment), printable(out.Username))
		})
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

func environmentVerbs() []verb {
	return []verb{
		{"env add", "NAME URL", "add an environment", "honeydew env add staging https://staging.example.com/graphql --use", func(c *cli, f *flag.FlagSet) action {
			in := &daemonpb.AddEnvironmentRequest{}
			f.StringVar(&in.Description, "description", "", "what it is for")
			f.BoolVar(&in.SetActive, "use", false, "make it the active environment at once")
			return asking(c, daemonpb.DaemonClient.AddEnvironment, in, func(*daemonpb.AddEnvironmentResponse) {
				if name := printable(in.Name); in.SetActive {
					c.printf("Added %s and switched to it. Please login: honeydew login", name)
				} else {
					c.printf("Added %s. Switch to it with: honeydew env use %s", name, name)
				}
			}, &in.Name, &in.BaseUrl)
		}},
		{"env list", "", "list the environments", "honeydew env list", func(c *cli, _ *flag.FlagSet) action {
			return asking(c, daemonpb.DaemonClient.ListEnvironments, &daemonpb.ListEnvironmentsRequest{}, func(out *daemonpb.ListEnvironmentsResponse) {
				names, width := make([]string, len(out.Environments)), 0
				for i, e := range out.Environments {
					names[i] = printable(e.Name) + map[bool]string{true: " (active)"}[e.Active]
					width = max(width, len([]rune(names[i])))
				}
				for i, e := range out.Environments {
					c.printf("  %-*s - %s", width, names[i], printable(e.BaseUrl))
				}
			})
		}},
		{"env use", "NAME", "make an environment the active one", "honeydew env use staging", func(c *cli, _ *flag.FlagSet) action {
			in := &daemonpb.SetActiveEnvironmentRequest{}
			return asking(c, daemonpb.DaemonClient.SetActiveEnvironment, in, func(out *daemonpb.SetActiveEnvironmentResponse) {
				c.printf("Switched to %s.%s", printable(in.Name), map[bool]string{true: " Please login: honeydew login"}[out.NeedsAuth])
			}, &in.Name)
		}},
		{"env current", "", "show the active environment", "honeydew env current", func(c *cli, _ *flag.FlagSet) action {
			return asking(c, daemonpb.DaemonClient.GetActiveEnvironment, &daemonpb.GetActiveEnvironmentRequest{}, func(out *daemonpb.GetActiveEnvironmentResponse) {
				c.printf("%s - %s", printable(out.Environment.GetName()), printable(out.Environment.GetBaseUrl()))
			})
		}},
		{"env remove", "NAME", "remove an environment and its login", "honeydew env remove staging", func(c *cli, _ *flag.FlagSet) action {
			in := &daemonpb.RemoveEnvironmentRequest{}
			return asking(c, daemonpb.DaemonClient.RemoveEnvironment, in, func(*daemonpb.RemoveEnvironmentResponse) {
				c.printf("Removed %s and its login.", printable(in.Name))
			}, &in.Name)
		}},
	}
}

func queueVerbs() []verb {
	return []verb{
		{"queue pause", "", "start no more jobs until resumed", "honeydew queue pause", func(c *cli, _ *flag.FlagSet) action {
			return asking(c, daemonpb.DaemonClient.PauseQueue, &daemonpb.PauseQueueRequest{}, func(*daemonpb.PauseQueueResponse) {
				c.printf("Paused: no more jobs start. Resume with: honeydew queue resume")
			})
		}},
		{"queue resume", "", "start jobs again", "honeydew queue resume", func(c *cli, _ *flag.FlagSet) action {
			return asking(c, daemonpb.DaemonClient.ResumeQueue, &daemonpb.ResumeQueueRequest{}, func(*daemonpb.ResumeQueueResponse) { c.printf("Resumed.") })
		}},
		{"prune", "", "delete finished jobs and shrink the database", "honeydew prune --older-than 7d --dry-run", func(c *cli, f *flag.FlagSet) action {
			in := &daemonpb.PruneRequest{}
			f.StringVar(&in.OlderThan, "older-than", "", "delete what ended longer than `AGE` ago, such as 7d (default: storage.retention)")
			f.BoolVar(&in.DryRun, "dry-run", false, "only count")
			return asking(c, daemonpb.DaemonClient.Prune, in, func(out *daemonpb.PruneResponse) {
				c.printf("%s %s.", count(int(out.Jobs), "job"), map[bool]string{true: "would be deleted", false: "deleted"}[in.DryRun])
			})
		}},
		{"backup", "FILE", "write a consistent copy of the database", "honeydew backup ~/honeydew.db", func(c *cli, _ *flag.FlagSet) action {
			return func(ctx context.Context, args []string) error {
				in := &daemonpb.BackupRequest{Path: c.absolute(args[0])}
				return ask(ctx, c, daemonpb.DaemonClient.Backup, in, func(out *daemonpb.BackupResponse) {
					c.printf("Wrote %s to %s.", bytesText(out.Bytes), printable(in.Path))
				})
			}
		}},
	}
}

func scheduleVerbs() []verb {
	return []verb{
		{"schedule add", "NAME CRON COMMAND [KEY=VALUE...]", "submit a command again and again",
			"honeydew schedule add nightly '0 2 * * *' github.commits organization=acme repository=api startDate=last-success", scheduleAddVerb},
		{"schedule list", "", "list the schedules", "honeydew schedule list", func(c *cli, _ *flag.FlagSet) action {
			return asking(c, daemonpb.DaemonClient.ListSchedules, &daemonpb.ListSchedulesRequest{}, c.printSchedules)
		}},
		{"schedule remove", "NAME", "remove a schedule; its jobs stay", "honeydew schedule remove nightly", func(c *cli, _ *flag.FlagSet) action {
			in := &daemonpb.UnscheduleJobRequest{}
			return asking(c, daemonpb.DaemonClient.UnscheduleJob, in, func(*daemonpb.UnscheduleJobResponse) {
				c.printf("Removed %s.", printable(in.Name))
			}, &in.Name)
		}},
		{"schedule pause", "NAME", "fire it no more until resumed", "honeydew schedule pause nightly", func(c *cli, _ *flag.FlagSet) action {
			in := &daemonpb.SetScheduleEnabledRequest{Enabled: false}
			return asking(c, daemonpb.DaemonClient.SetScheduleEnabled, in, func(*daemonpb.SetScheduleEnabledResponse) {
				c.printf("Paused %[1]s. Resume it with: honeydew schedule resume %[1]s", printable(in.Name))
			}, &in.Name)
		}},
		{"schedule resume", "NAME", "fire it again, from now on", "honeydew schedule resume nightly", func(c *cli, _ *flag.FlagSet) action {
			in := &daemonpb.SetScheduleEnabledRequest{Enabled: true}
			return asking(c, daemonpb.DaemonClient.SetScheduleEnabled, in, func(out *daemonpb.SetScheduleEnabledResponse) {
				c.printf("Resumed %s. It runs next at %s.", printable(in.Name), localTime(out.Schedule.GetNextRunAt()))
			}, &in.Name)
		}},
		{"schedule run", "NAME", "submit its job now", "honeydew schedule run nightly", func(c *cli, f *flag.FlagSet) action {
			wait := f.Bool("wait", false, "wait for the end of the job")
			return func(ctx context.Context, args []string) error {
				out, err := call(ctx, c, daemonpb.DaemonClient.TriggerSchedule, &daemonpb.TriggerScheduleRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return c.showSubmitted(ctx, out, *wait)
			}
		}},
		{"schedule test", "CRON|NAME", "show the next five times", "honeydew schedule test '*/15 9-17 * * 1-5'", scheduleTestVerb},
	}
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
		return ask(ctx, c, daemonpb.DaemonClient.ScheduleJob, in, func(out *daemonpb.ScheduleJobResponse) {
			c.printf("Added %s. It runs next at %s.", printable(in.Name), localTime(out.NextRunAt))
		})
	}
}

func (c *cli) printSchedules(out *daemonpb.ListSchedulesResponse) {
	rows := make([][]string, len(out.Schedules))
	for i, s := range out.Schedules {
		next := shortTime(s.NextRunAt)
		if !s.Enabled {
			next = "paused"
		}
		rows[i] = []string{s.Name, s.CronExpr, next, shortTime(s.LastRunAt), s.LastJobStatus, s.Environment, s.Command, payloadText(s.Payload)}
	}
	c.printTable([]string{"NAME", "WHEN", "NEXT", "LAST", "LAST JOB", "ENVIRONMENT", "COMMAND", "ARGUMENTS"}, rows)
}

func scheduleTestVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		in := &daemonpb.PreviewScheduleRequest{CronExpr: args[0]}
		if !strings.ContainsAny(args[0], " @") { // no expression: a name
			all, err := call(ctx, c, daemonpb.DaemonClient.ListSchedules, &daemonpb.ListSchedulesRequest{})
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all.Schedules, func(s *daemonpb.Schedule) bool { return s.Name == args[0] })
			if i < 0 {
				return errorf(codeNotFound, "no schedule %q, and no cron expression either", args[0]).hint("list them with: honeydew schedule list")
			}
			in.CronExpr = all.Schedules[i].CronExpr
		}
		return ask(ctx, c, daemonpb.DaemonClient.PreviewSchedule, in, func(out *daemonpb.PreviewScheduleResponse) {
			for _, text := range out.Times {
				if t, err := parseTimeText(text); err == nil {
					c.printf("%s  %s", t.Local().Format("Mon "+time.DateTime+" MST"), relative(time.Until(t)))
				}
			}
		})
	}
}
