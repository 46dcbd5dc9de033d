package main

// The verbs about what a running daemon keeps: its environments and logins, its queue as a whole, its schedules, its
// database. A password is read here, and nowhere else.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"honeydew/daemonpb"
)

func adminVerbs() []verb {
	logout, auth := &daemonpb.LogoutRequest{}, &daemonpb.GetAuthStatusRequest{}
	add, use, remove := &daemonpb.AddEnvironmentRequest{}, &daemonpb.SetActiveEnvironmentRequest{}, &daemonpb.RemoveEnvironmentRequest{}
	prune, resumeQueue := &daemonpb.PruneRequest{}, &daemonpb.ResumeQueueRequest{}
	return []verb{
		{"login", "", "Log in to the active environment", "honeydew login --username ada", loginVerb},
		{"logout", "", "Forget the stored login", "honeydew logout", asking(api.Logout, logout, func(f *flag.FlagSet) {
			f.StringVar(&logout.Environment, "environment", "", "log out of `NAME` instead of the active environment")
		})},
		{"auth status", "", "Show the login and when it expires", "honeydew auth status",
			asking(api.GetAuthStatus, auth, func(f *flag.FlagSet) {
				f.StringVar(&auth.Environment, "environment", "", "show `NAME` instead of the active environment")
			})},
		{"env add", "NAME URL", "Add an environment", "honeydew env add staging https://staging.example.com/graphql --use",
			asking(api.AddEnvironment, add, func(f *flag.FlagSet) {
				f.StringVar(&add.Description, "description", "", "what it is for")
				f.BoolVar(&add.SetActive, "use", false, "make it the active environment at once")
			}, &add.Name, &add.BaseUrl)},
		{"env list", "", "List the environments", "honeydew env list", asking(api.ListEnvironments, &daemonpb.ListEnvironmentsRequest{}, nil)},
		{"env use", "NAME", "Make an environment the active one", "honeydew env use staging",
			asking(api.SetActiveEnvironment, use, nil, &use.Name)},
		{"env current", "", "Show the active environment", "honeydew env current",
			asking(api.GetActiveEnvironment, &daemonpb.GetActiveEnvironmentRequest{}, nil)},
		{"env remove", "NAME", "Remove an environment and its login", "honeydew env remove staging",
			asking(api.RemoveEnvironment, remove, nil, &remove.Name)},
		{"queue pause", "", "Start no more jobs until resumed", "honeydew queue pause",
			asking(api.PauseQueue, &daemonpb.PauseQueueRequest{}, nil)},
		{"queue resume", "", "Start jobs again", "honeydew queue resume", asking(api.ResumeQueue, resumeQueue, func(f *flag.FlagSet) {
			f.BoolVar(&resumeQueue.ReleaseHolds, "now", false, "also those for which the API asked to wait")
		})},
		{"prune", "", "Delete finished jobs and shrink the database", "honeydew prune --older-than 7d --dry-run",
			asking(api.Prune, prune, func(f *flag.FlagSet) {
				f.StringVar(&prune.OlderThan, "older-than", "", "delete what ended longer than `AGE` ago, such as 7d (default: storage.retention)")
				f.BoolVar(&prune.DryRun, "dry-run", false, "only count")
			})},
		{"backup", "FILE", "Write a consistent copy of the database", "honeydew backup ~/honeydew.db", func(c *cli, _ *flag.FlagSet) action {
			return func(ctx context.Context, args []string) error {
				path := c.absolute(args[0])
				if !utf8.ValidString(path) { // of the working directory
					return usagef("backup: the path is no UTF-8: %q", path).hint("write it elsewhere")
				}
				return ask(ctx, c, api.Backup, &daemonpb.BackupRequest{Path: path})
			}
		}},
	}
}

func scheduleVerbs() []verb {
	return []verb{
		{"schedule add", "NAME CRON COMMAND [KEY=VALUE...]", "Submit a command again and again",
			"honeydew schedule add nightly '0 2 * * *' github.commits organization=acme repository=api startDate=last-success", scheduleAddVerb},
		{"schedule list", "", "List the schedules", "honeydew schedule list", asking(api.ListSchedules, &daemonpb.ListSchedulesRequest{}, nil)},
		{"schedule remove", "NAME", "Remove a schedule; its jobs stay", "honeydew schedule remove nightly", scheduleRemoveVerb},
		{"schedule pause", "NAME", "Fire it no more until resumed", "honeydew schedule pause nightly", scheduleEnabledVerb(false)},
		{"schedule resume", "NAME", "Fire it again, from now on", "honeydew schedule resume nightly", scheduleEnabledVerb(true)},
		{"schedule run", "NAME", "Submit its job now", "honeydew schedule run nightly", scheduleRunVerb},
		{"schedule test", "CRON|NAME", "Show the next five times", "honeydew schedule test '*/15 9-17 * * 1-5'", scheduleTestVerb},
	}
}

// minIDPrefix is as short as a schedule's id may be written: what is shorter is rather a mistyped name.
const minIDPrefix = 4

// schedule finds the schedule of that name, or else of that id, which may be shortened; nil if there is none.
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
	if len(found) > 1 {
		return nil, usagef("%q begins the ids of %s", text, count(len(found), "schedule")).hint("write more of it, or the name")
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found[0], nil
}

// scheduleName is the name of the schedule that the user means; that of one that is not there is left to the daemon.
func (c *cli) scheduleName(ctx context.Context, text string) (string, error) {
	s, err := c.schedule(ctx, text)
	if err != nil {
		return "", err
	}
	if s == nil {
		return text, nil
	}
	return s.Name, nil
}

func scheduleRemoveVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		name, err := c.scheduleName(ctx, args[0])
		if err != nil {
			return err
		}
		return ask(ctx, c, api.UnscheduleJob, &daemonpb.UnscheduleJobRequest{Name: name})
	}
}

func scheduleEnabledVerb(enabled bool) setup {
	return func(c *cli, _ *flag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			name, err := c.scheduleName(ctx, args[0])
			if err != nil {
				return err
			}
			return ask(ctx, c, api.SetScheduleEnabled, &daemonpb.SetScheduleEnabledRequest{Name: name, Enabled: enabled})
		}
	}
}

func scheduleRunVerb(c *cli, f *flag.FlagSet) action {
	wait := f.Bool("wait", false, "wait for the end of the job")
	return func(ctx context.Context, args []string) error {
		name, err := c.scheduleName(ctx, args[0])
		if err != nil {
			return err
		}
		out, err := c.client.TriggerSchedule(ctx, &daemonpb.TriggerScheduleRequest{Name: name})
		return c.submitted(ctx, out, err, *wait, c.waitAll)
	}
}

func loginVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.LoginRequest{}
	f.StringVar(&in.Username, "username", "", "log in as `USER`")
	f.StringVar(&in.Environment, "environment", "", "log in to `NAME` instead of the active environment")
	fromStdin := f.Bool("password-stdin", false, "read the password from stdin")
	return func(ctx context.Context, _ []string) error {
		switch {
		case !*fromStdin && !term.IsTerminal(int(c.stdin.Fd())):
			return usagef("login: no terminal to ask for the password").
				hint("pipe it in: honeydew login --username USER --password-stdin < FILE")
		case *fromStdin && in.Username == "":
			return usagef("login: --password-stdin needs --username")
		}
		// Before anyone types a password: is there a daemon to send it to?
		if _, err := c.client.Ping(ctx, &daemonpb.PingRequest{}); err != nil {
			return err
		}
		if err := c.readLogin(ctx, in, *fromStdin); err != nil {
			return err
		}
		return ask(ctx, c, api.Login, in)
	}
}

// readLogin reads what is missing, from the pipe or by asking.
func (c *cli) readLogin(ctx context.Context, in *daemonpb.LoginRequest, fromStdin bool) (err error) {
	if fromStdin {
		in.Password, err = c.pipedPassword(ctx)
		return err
	}
	if in.Username == "" {
		if in.Username, err = c.askUsername(ctx); err != nil {
			return err
		}
	}
	in.Password, err = c.askPassword(ctx)
	return err
}

func (c *cli) pipedPassword(ctx context.Context) (string, error) {
	text, err := interruptible(ctx, func() ([]byte, error) {
		return io.ReadAll(io.LimitReader(c.stdin, 64<<10))
	})
	if err != nil {
		return "", err
	}
	text, err = plainText("login: the password on stdin", text)
	return strings.TrimRight(string(text), "\r\n"), err
}

func (c *cli) askUsername(ctx context.Context) (string, error) {
	fmt.Fprint(c.stderr, "Username: ")
	line, err := interruptible(ctx, func() (string, error) {
		return bufio.NewReader(c.stdin).ReadString('\n')
	})
	if errors.Is(err, io.EOF) { // the last line may have no newline
		err = nil
	}
	if err != nil {
		fmt.Fprintln(c.stderr)
		return "", err
	}
	name := strings.TrimSpace(line)
	if name == "" {
		return "", usagef("login: no username was typed")
	}
	if !utf8.ValidString(name) {
		return "", usagef("login: the username is no UTF-8: %q", name).hint("is the locale of this terminal UTF-8?")
	}
	return name, nil
}

// askPassword reads a password that is not shown. The terminal is raw meanwhile, so that the keys that would end the
// process reach us, and so is the terminal as it was, whichever way this ends.
func (c *cli) askPassword(ctx context.Context) (password string, err error) {
	signals := slices.Concat(terminateSignals, []os.Signal{syscall.SIGHUP, syscall.SIGQUIT})
	ctx, stop := signal.NotifyContext(ctx, signals...)
	defer stop()
	fd := int(c.stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", fmt.Errorf("cannot ask for the password: %w", err)
	}
	defer func() {
		restoreErr := term.Restore(fd, before)
		fmt.Fprintln(c.stderr)
		if err == nil {
			err = restoreErr
		}
	}()
	fmt.Fprint(c.stderr, "Password: ")
	keyboard := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys{c.stdin}, io.Discard}, "")
	password, err = interruptible(ctx, func() (string, error) { return keyboard.ReadPassword("") })
	if errors.Is(err, io.EOF) || err == nil && password == "" {
		return "", errorf(codeFailedPrecondition, "no password was typed").hint("try again: honeydew login")
	}
	return password, err
}

// keys is a raw terminal, at which Ctrl-C and Ctrl-\ interrupt.
type keys struct{ io.Reader }

func (k keys) Read(into []byte) (int, error) {
	n, err := k.Reader.Read(into)
	if bytes.ContainsAny(into[:n], "\x03\x1c") {
		return 0, errInterrupted
	}
	return n, err
}

func scheduleAddVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.ScheduleJobRequest{}
	payload := payloadFlag(f)
	number(f, "priority", math.MinInt32, "of its jobs; higher `N` run first", func(n int32) { in.Priority = n })
	environmentFlag(f, &in.Environment)
	f.StringVar(&in.Missed, "missed", "", "what to do about times missed while down or asleep: `run_once` (default) or skip")
	f.StringVar(&in.Overlap, "overlap", "", "while its previous job is unfinished: `skip` (default) or allow")
	f.StringVar(&in.Jitter, "jitter", "", "start up to this `DURATION` later, at random")
	f.BoolVar(&in.Replace, "replace", false, "change the schedule of that name; its history stays")
	f.StringVar(&in.Timeout, "timeout", "", "`DURATION` of one attempt of its jobs, such as 90s (default: api.timeout)")
	number(f, "max-retries", 0, "`N` retries of its jobs after a failure that may pass (default: 12, or more if queue.max_retries is)",
		func(n int32) { in.MaxRetries = &n })
	return func(ctx context.Context, args []string) (err error) {
		in.Name, in.CronExpr, in.Command = args[0], args[1], args[2]
		if in.Payload, err = c.payload(ctx, in.Command, *payload, args[3:]); err != nil {
			return err
		}
		return ask(ctx, c, api.ScheduleJob, in)
	}
}

func scheduleTestVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		s, err := c.schedule(ctx, args[0])
		if err != nil {
			return err
		}
		in := &daemonpb.PreviewScheduleRequest{CronExpr: args[0]}
		switch {
		case s != nil:
			in.CronExpr = s.CronExpr
		case !strings.ContainsAny(args[0], " \t@"):
			return errorf(codeNotFound, "no schedule %q, and no cron expression either", args[0]).
				hint("list them with: honeydew schedule list")
		}
		return ask(ctx, c, api.PreviewSchedule, in)
	}
}
