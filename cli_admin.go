package main

// The verbs about what a daemon keeps beside jobs and schedules: environments and logins, the queue as a whole, the
// database. A password is read here, and nowhere else.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"honeydew/daemonpb"
)

func (c *cli) loginVerbs() []verb {
	return []verb{
		{
			name:    "login",
			short:   "Log in to the active environment",
			example: "honeydew login --username ada",
			setup:   c.loginVerb,
		},
		{
			name:  "logout",
			short: "Forget the stored login",
			setup: c.logoutVerb,
		},
		{
			name:  "auth status",
			short: "Show the login and when it expires",
			setup: c.authStatusVerb,
		},
	}
}

func (c *cli) loginVerb(f *flag.FlagSet) action {
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
		// Before anyone types a password: is there a daemon to send it to, and the environment?
		asked := &daemonpb.GetAuthStatusRequest{Environment: in.Environment}
		if _, err := c.client.GetAuthStatus(ctx, asked); err != nil {
			return err
		}
		if err := c.readLogin(ctx, in, *fromStdin); err != nil {
			return err
		}
		out, err := c.client.Login(ctx, in)
		if err != nil {
			return err
		}
		return c.answer(out, "Logged in to %s as %s.", out.Environment, out.Username)
	}
}

// readLogin reads what is missing, from the pipe or by asking.
func (c *cli) readLogin(ctx context.Context, in *daemonpb.LoginRequest, fromStdin bool) error {
	if in.Username == "" {
		name, err := c.askUsername(ctx)
		if err != nil {
			return err
		}
		in.Username = name
	}
	read := c.askPassword
	if fromStdin {
		read = c.pipedPassword
	}
	password, err := read(ctx)
	in.Password = password
	return err
}

// pipedPassword reads a password from a file or another program, without the end of its line.
func (c *cli) pipedPassword(ctx context.Context) (string, error) {
	line, err := interruptible(ctx, func() ([]byte, error) {
		return io.ReadAll(io.LimitReader(c.stdin, 64<<10))
	})
	if err != nil {
		return "", err
	}
	text, err := plainText("login: the password on stdin", line)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(text, "\r\n")
	if password == "" {
		return "", usagef("login: stdin holds no password")
	}
	return password, nil
}

func (c *cli) askUsername(ctx context.Context) (string, error) {
	fmt.Fprint(c.stderr, "Username: ")
	line, err := interruptible(ctx, func() ([]byte, error) {
		return bufio.NewReader(c.stdin).ReadBytes('\n')
	})
	if err != nil {
		fmt.Fprintln(c.stderr)
	}
	if err != nil && !errors.Is(err, io.EOF) { // the last line may have no newline
		return "", err
	}
	name := strings.TrimSpace(string(line))
	if name == "" {
		return "", usagef("login: no username was typed")
	}
	if !utf8.ValidString(name) {
		return "", usagef("login: the username is no UTF-8: %q", name).hint("is the locale of this terminal UTF-8?")
	}
	return name, nil
}

// askPassword reads a password that is not shown. The terminal is raw meanwhile, so that the keys that would end the
// process reach us. Whichever way this ends, the terminal is then as it was.
func (c *cli) askPassword(ctx context.Context) (string, error) {
	signals := slices.Concat(terminateSignals, []os.Signal{syscall.SIGHUP, syscall.SIGQUIT})
	ctx, stop := signal.NotifyContext(ctx, signals...)
	defer stop()
	fd := int(c.stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", fmt.Errorf("cannot ask for the password: %w", err)
	}
	fmt.Fprint(c.stderr, "Password: ")
	password, err := interruptible(ctx, func() ([]byte, error) {
		text, err := term.NewTerminal(keyboard{c.stdin}, "").ReadPassword("")
		return []byte(text), err
	})
	restoreErr := term.Restore(fd, before)
	fmt.Fprintln(c.stderr)
	if errors.Is(err, io.EOF) || err == nil && len(password) == 0 {
		return "", errorf(codeFailedPrecondition, "no password was typed").hint("try again: honeydew login")
	}
	return string(password), cmp.Or(err, restoreErr)
}

// keyboard is a raw terminal that shows nothing, and at which Ctrl-C and Ctrl-\ interrupt.
type keyboard struct{ io.Reader }

func (k keyboard) Read(into []byte) (int, error) {
	n, err := k.Reader.Read(into)
	if bytes.ContainsAny(into[:n], "\x03\x1c") {
		return 0, errInterrupted
	}
	return n, err
}

func (keyboard) Write(text []byte) (int, error) { return len(text), nil }

func (c *cli) logoutVerb(f *flag.FlagSet) action {
	in := &daemonpb.LogoutRequest{}
	f.StringVar(&in.Environment, "environment", "", "log out of `NAME` instead of the active environment")
	return func(ctx context.Context, _ []string) error {
		out, err := c.client.Logout(ctx, in)
		if err != nil {
			return err
		}
		if out.LoggedOut {
			return c.answer(out, "Logged out.")
		}
		return c.answer(out, "Nobody was logged in.")
	}
}

// loginState says in words whether somebody is logged in, and what to do if not. A login that has expired and one whose
// key is gone need the same; problems say which one needs its passphrase.
func loginState(authenticated, needsReauth bool, problems ...string) string {
	for _, problem := range problems {
		fix, needsPassphrase := strings.CutPrefix(problem, noPassphrase+"; ")
		if needsPassphrase {
			return "login needs its passphrase; " + fix
		}
	}
	switch {
	case needsReauth:
		return "login no longer valid; run: honeydew login"
	case authenticated:
		return "logged in"
	}
	return "not logged in; run: honeydew login"
}

func (c *cli) authStatusVerb(f *flag.FlagSet) action {
	in := &daemonpb.GetAuthStatusRequest{}
	f.StringVar(&in.Environment, "environment", "", "show `NAME` instead of the active environment")
	return func(ctx context.Context, _ []string) error {
		out, err := c.client.GetAuthStatus(ctx, in)
		if err != nil {
			return err
		}
		access := localTime(out.AccessTokenExpires)
		refresh := localTime(out.RefreshTokenExpires)
		if out.NeedsReauth { // the API has refused them earlier
			access = ""
			refresh = ""
		}
		login := strings.TrimPrefix(loginState(out.Authenticated, out.NeedsReauth, out.Problem), "login ")
		if in.Environment != "" && strings.HasSuffix(login, "honeydew login") {
			login += " --environment " + in.Environment
		}
		c.pairs(
			"environment:", out.Environment,
			"login:", login,
			"problem:", out.Problem,
			"username:", out.Username,
			"access token expires:", access,
			"refresh token expires:", refresh,
			"jobs failed for it:", refusedText(out),
		)
		return c.document(out)
	}
}

func (c *cli) envVerbs() []verb {
	return []verb{
		{
			name:    "env add",
			args:    "NAME URL",
			short:   "Add an environment",
			example: "honeydew env add staging https://staging.example.com/graphql --use",
			setup:   c.envAddVerb,
		},
		{
			name:  "env list",
			short: "List the environments",
			run:   c.envList,
		},
		{
			name:    "env use",
			args:    "NAME",
			short:   "Make an environment the active one",
			example: "honeydew env use staging",
			run:     c.envUse,
		},
		{
			name:  "env current",
			short: "Show the active environment",
			run:   c.envCurrent,
		},
		{
			name:    "env remove",
			args:    "NAME",
			short:   "Remove an environment and its login",
			example: "honeydew env remove staging",
			run:     c.envRemove,
		},
	}
}

func (c *cli) envAddVerb(f *flag.FlagSet) action {
	in := &daemonpb.AddEnvironmentRequest{}
	f.StringVar(&in.Description, "description", "", "what it is for")
	f.BoolVar(&in.SetActive, "use", false, "make it the active environment at once")
	return func(ctx context.Context, args []string) error {
		in.Name = args[0]
		in.BaseUrl = args[1]
		out, err := c.client.AddEnvironment(ctx, in)
		if err != nil {
			return err
		}
		if in.SetActive {
			return c.answer(out, "Added %s and switched to it. Please login: honeydew login", in.Name)
		}
		return c.answer(out, "Added %s. Switch to it with: honeydew env use %s", in.Name, shellQuoted(in.Name))
	}
}

func (c *cli) envList(ctx context.Context, _ []string) error {
	out, err := c.client.ListEnvironments(ctx, &daemonpb.ListEnvironmentsRequest{})
	if err != nil {
		return err
	}
	width := 0
	names := namesOf(out.Environments, func(e *daemonpb.Environment) string {
		name := neutral(e.Name)
		if e.Active {
			name += " (active)"
		}
		width = max(width, utf8.RuneCountInString(name))
		return name
	})
	for i, e := range out.Environments {
		c.printf("  %-*s - %s", width, names[i], e.BaseUrl)
	}
	return c.document(out)
}

func (c *cli) envUse(ctx context.Context, args []string) error {
	out, err := c.client.SetActiveEnvironment(ctx, &daemonpb.SetActiveEnvironmentRequest{Name: args[0]})
	if err != nil {
		return err
	}
	login := ""
	if out.NeedsAuth {
		login = " Please login: honeydew login"
	}
	return c.answer(out, "Switched to %s.%s", args[0], login)
}

func (c *cli) envCurrent(ctx context.Context, _ []string) error {
	out, err := c.client.GetActiveEnvironment(ctx, &daemonpb.GetActiveEnvironmentRequest{})
	if err != nil {
		return err
	}
	return c.answer(out, "%s - %s", out.Environment.GetName(), out.Environment.GetBaseUrl())
}

func (c *cli) envRemove(ctx context.Context, args []string) error {
	out, err := c.client.RemoveEnvironment(ctx, &daemonpb.RemoveEnvironmentRequest{Name: args[0]})
	if err != nil {
		return err
	}
	return c.answer(out, "Removed %s and its login.", args[0])
}

func (c *cli) queueVerbs() []verb {
	return []verb{
		{
			name:  "queue pause",
			short: "Start no more jobs until resumed",
			run:   c.queuePause,
		},
		{
			name:  "queue resume",
			short: "Start jobs again",
			setup: c.queueResumeVerb,
		},
		{
			name:    "prune",
			short:   "Delete finished jobs and shrink the database",
			example: "honeydew prune --older-than 7d --dry-run",
			setup:   c.pruneVerb,
		},
		{
			name:    "backup",
			args:    "FILE",
			short:   "Write a consistent copy of the database",
			example: "honeydew backup ~/honeydew.db",
			run:     c.backup,
		},
	}
}

func (c *cli) queuePause(ctx context.Context, _ []string) error {
	out, err := c.client.PauseQueue(ctx, &daemonpb.PauseQueueRequest{})
	if err != nil {
		return err
	}
	return c.answer(out, "Paused: no more jobs start. Resume with: honeydew queue resume")
}

func (c *cli) queueResumeVerb(f *flag.FlagSet) action {
	in := &daemonpb.ResumeQueueRequest{}
	f.BoolVar(&in.ReleaseHolds, "now", false, "also end the wait that the API asked for")
	return func(ctx context.Context, _ []string) error {
		out, err := c.client.ResumeQueue(ctx, in)
		if err != nil {
			return err
		}
		if in.ReleaseHolds {
			return c.answer(out, "Resumed, and no longer held.")
		}
		s, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err != nil || s.HeldUntil == "" { // resumed it is in any case
			return c.answer(out, "Resumed.")
		}
		return c.answer(out, "Resumed, but held %s", heldText(s))
	}
}

func (c *cli) pruneVerb(f *flag.FlagSet) action {
	in := &daemonpb.PruneRequest{}
	f.StringVar(&in.OlderThan, "older-than", "",
		"delete what ended longer than `AGE` ago, such as 7d (default: storage.retention)")
	f.BoolVar(&in.DryRun, "dry-run", false, "only count")
	return func(ctx context.Context, _ []string) error {
		out, err := c.client.Prune(ctx, in)
		if err != nil {
			return err
		}
		jobs := count(int(out.Jobs), "job")
		if in.DryRun {
			return c.answer(out, "%s would be deleted.", jobs)
		}
		after, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err != nil {
			return err
		}
		return c.answer(out, "%s deleted; the database takes %s now.", jobs, bytesText(after.DatabaseBytes))
	}
}

func (c *cli) backup(ctx context.Context, args []string) error {
	path := c.absolute(args[0])
	_, missing := os.Stat(filepath.Dir(path))
	at, err := os.Stat(path)
	switch {
	case err == nil && at.IsDir():
		return usagef("backup: %s is a folder", path).
			hint("name a file in it: honeydew backup %s", shellQuoted(filepath.Join(path, "honeydew.db")))
	case errors.Is(missing, fs.ErrNotExist):
		return usagef("backup: there is no folder %s", filepath.Dir(path)).
			hint("make it with: mkdir -p %s", shellQuoted(filepath.Dir(path)))
	}
	if !utf8.ValidString(path) { // of the working directory
		return usagef("backup: the path is no UTF-8: %q", path).hint("write it elsewhere")
	}
	out, err := c.client.Backup(ctx, &daemonpb.BackupRequest{Path: path})
	if err != nil {
		return err
	}
	return c.answer(out, "Wrote %s to %s.", bytesText(out.Bytes), path)
}
