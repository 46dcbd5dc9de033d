package main

// The verbs about the daemon: run, start, stop and look at it, its logins and environments, its queue as a whole, its
// schedules. start is the only place where honeydew executes a program, and that is itself.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

const (
	startPatience = time.Minute           // an old, large database may have to be upgraded
	poll          = 20 * time.Millisecond // while another process starts or stops
	logPoll       = 200 * time.Millisecond

	maxStderrBytes = 1 << 20 // of daemon.stderr, at which it starts anew
)

func daemonVerbs() []verb {
	return []verb{
		{"start", "", "Start the daemon in the background", "honeydew start", startVerb},
		{"stop", "", "Stop the daemon; running jobs may end", "honeydew stop --force", stopVerb},
		{"status", "", "Show what the daemon is doing", "honeydew status", asking(api.GetStatus, &daemonpb.GetStatusRequest{}, nil)},
		{"ping", "", "Check that the daemon answers", "honeydew ping", asking(api.Ping, &daemonpb.PingRequest{}, nil)},
		{"logs", "", "Show the daemon's log", "honeydew logs -f", logsVerb},
		{"daemon", "", "Run the daemon in the foreground", "honeydew daemon --config ./config.yaml", func(c *cli, f *flag.FlagSet) action {
			config := configFlag(f)
			return func(ctx context.Context, _ []string) error {
				file := *config
				if file != "" { // it is noted for clients that run elsewhere
					file = c.absolute(file)
				}
				return runDaemon(ctx, DaemonOptions{Home: c.home, UserHome: c.userHome, ConfigFile: file, Version: c.version, Queries: c.queries,
					Getenv: c.getenv, Stderr: c.stderr})
			}
		}},
		{"version", "", "Show the version", "honeydew version", func(c *cli, _ *flag.FlagSet) action {
			return func(context.Context, []string) error {
				platform := runtime.GOOS + "/" + runtime.GOARCH
				return c.answer("version", map[string]string{"version": c.version, "go": runtime.Version(), "platform": platform})
			}
		}},
	}
}

func configFlag(f *flag.FlagSet) *string {
	return f.String("config", "", "read this configuration `FILE` instead of config.yaml in the home")
}

func startVerb(c *cli, f *flag.FlagSet) action {
	config := configFlag(f)
	return func(ctx context.Context, _ []string) error {
		if *config != "" {
			c.file = c.absolute(*config) // names the socket that is waited for
		}
		ping, err := c.client.Ping(ctx, &daemonpb.PingRequest{})
		if err == nil {
			return c.show("running", nil, ping)
		}
		if c.stranger.Load() != nil {
			return err
		}
		// One that is there but says nothing would make a second daemon end at once.
		if held, lockErr := lockHeld(lockPath(c.home)); held && lockErr == nil && status.Code(err) == codes.DeadlineExceeded {
			return err
		}
		if err := prepareHome(c.home); err != nil {
			return exitError{exitConfig, fmt.Errorf("home: %w", err)}
		}
		if err := c.checkConfigured(); err != nil {
			return err
		}
		args := []string{"daemon"}
		if c.file != "" {
			args = append(args, "--config", c.file)
		}
		if err := c.checkSocket(c.file); err != nil {
			return err
		}
		daemon, begin, err := c.spawn(args)
		if err != nil {
			return err
		}
		return c.awaitReady(ctx, daemon, begin)
	}
}

// checkConfigured refuses a start with a configuration beside a daemon that runs with another one.
func (c *cli) checkConfigured() error {
	if c.file == "" {
		return nil
	}
	path := lockPath(c.home)
	held, err := lockHeld(path)
	if err != nil || !held {
		return err
	}
	noted, err := notedIn(path)
	if err != nil || noted == c.file {
		return err
	}
	running := fmt.Errorf("a daemon of this home runs already, with %s", cmp.Or(noted, "the configuration in its home"))
	return exitError{exitAlreadyRunning, running}
}

// checkSocket refuses a start whose daemon would listen elsewhere than where $HONEYDEW_SOCKET makes clients look.
func (c *cli) checkSocket(config string) error {
	named := c.getenv("HONEYDEW_SOCKET")
	cfg, err := loadConfig(c.home, config, c.userHome)
	if named == "" || err != nil { // a broken configuration is the daemon's to refuse
		return nil
	}
	if named = c.absolute(named); named != cfg.Daemon.SocketPath {
		return usagef("$HONEYDEW_SOCKET is %s, but the daemon would listen on %s", named, cfg.Daemon.SocketPath).
			hint("unset HONEYDEW_SOCKET, or set daemon.socket_path in config.yaml")
	}
	return nil
}

// stderrPath is where a daemon in the background prints, and a crash leaves its stack.
func (c *cli) stderrPath() string { return filepath.Join(c.home, "daemon.stderr") }

// spawn runs this binary, detached. It gets the home, its output and no other descriptor or promise of ours: a lock or
// pipe that the caller left open would be held for as long as the daemon runs. The number says where in the file of
// stderrPath its words begin.
func (c *cli) spawn(args []string) (daemon *exec.Cmd, begin int64, err error) {
	out, begin, err := openStderr(c.stderrPath())
	if err != nil {
		return nil, 0, err
	}
	defer out.Close()
	cmd := exec.Command(c.executable, args...)
	cmd.Args[0] = "honeydew"
	cmd.Dir = c.home
	cmd.Env = append(daemonEnvironment(os.Environ()), "HONEYDEW_HOME="+c.home) // absolute, whatever the caller said
	cmd.Stdout = out
	cmd.Stderr = out
	cmd.SysProcAttr = detached()
	keepDescriptors(syscall.CloseOnExec)
	return cmd, begin, cmd.Start()
}

// installedPath is the path by which the user called the program at executable, if it is that program's: a link there
// outlives an upgrade, the file that it points to today may not.
func installedPath(executable string) string {
	return pathOf(os.Args[0], executable)
}

// pathOf is where name, as typed, leads, if that is the program at executable; else executable.
func pathOf(name, executable string) string {
	found, err := exec.LookPath(name)
	if err != nil {
		return executable
	}
	found, err = filepath.Abs(found)
	if err != nil {
		return executable
	}
	typed, err1 := os.Stat(found)
	real, err2 := os.Stat(executable)
	if err1 != nil || err2 != nil || !os.SameFile(typed, real) {
		return executable
	}
	return found
}

// openStderr opens the file for the words of a daemon in the background, behind those of others that may still write
// there, and says where that is. It starts anew only where it has grown too large.
func openStderr(path string) (out *os.File, begin int64, err error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, 0, errorf(codeFailedPrecondition, "%s is in the way: it is no regular file", path).hint("move it away")
	}
	out, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := out.Stat()
	if err == nil && info.Size() > maxStderrBytes {
		return out, 0, out.Truncate(0)
	}
	if err != nil {
		return nil, 0, errors.Join(err, out.Close())
	}
	return out, info.Size(), nil
}

// daemonEnvironment is the caller's environment without what a service manager said to the caller alone.
func daemonEnvironment(environment []string) []string {
	private := []string{"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"}
	return slices.DeleteFunc(slices.Clone(environment), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(private, name)
	})
}

// keepDescriptors keeps every descriptor but the first three from programs that this one executes: Go does so for those
// that it opened, not for those that it was born with. set is syscall.CloseOnExec, whose argument differs by system.
func keepDescriptors[T ~int | ~uintptr](set func(T)) {
	if runtime.GOOS == "windows" { // where nothing is handed on that is not named
		return
	}
	for fd := 3; fd < 256; fd++ { // not all systems list them, and one that is not open is no fault
		set(T(fd))
	}
	for _, list := range []string{"/proc/self/fd", "/dev/fd"} {
		entries, _ := os.ReadDir(list)
		for _, entry := range entries {
			if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= 3 {
				set(T(fd))
			}
		}
	}
}

// awaitReady returns when the daemon answers, or with the daemon's own words and exit code when it ended instead. If
// it ended because another one was quicker, that one is as good.
func (c *cli) awaitReady(ctx context.Context, daemon *exec.Cmd, begin int64) error {
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		select {
		case <-ended:
			if code := daemon.ProcessState.ExitCode(); code != exitAlreadyRunning {
				words, err := os.ReadFile(c.stderrPath())
				words = words[min(begin, int64(len(words))):]
				c.note("%s", cmp.Or(string(bytes.TrimSpace(words)), "honeydew: the daemon ended at once"))
				return exitError{max(code, exitFailed), cmp.Or(err, errSaid)} // -1: killed
			}
		case <-ctx.Done():
			return errorf(codeInternal, "the daemon has not become ready within %s", startPatience).hint("it may go on starting; see: honeydew logs")
		case <-time.After(poll):
			c.conn.ResetConnectBackoff() // a connection that failed would wait before it tries again
			if ping, err := c.client.Ping(ctx, &daemonpb.PingRequest{}); err == nil {
				return c.show("started", nil, ping)
			}
		}
	}
}

// awaitEnd waits for the end of the daemon that was asked to stop, whichever home it belongs to: its database's lock is
// the last that it lets go.
func awaitEnd(ctx context.Context, database string) error {
	path, err := realPath(database)
	if err != nil {
		return err
	}
	for {
		held, err := lockHeld(path + ".lock")
		if err != nil || !held {
			return err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return exitError{exitInterrupted, errors.New("interrupted; the daemon goes on stopping")}
		}
	}
}

// stopFailed is err, but for a daemon that is not running: that is what was asked for.
func (c *cli) stopFailed(err error) error {
	code, text, _ := c.explain(err)
	if code != exitNotRunning {
		return err
	}
	c.note("honeydew: %s", text)
	if c.json {
		return c.show("Shutdown", nil, &daemonpb.ShutdownResponse{})
	}
	return nil
}

func stopVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.ShutdownRequest{}
	f.BoolVar(&in.Force, "force", false, "do not wait for running jobs; they are taken up again at the next start")
	return func(ctx context.Context, _ []string) error {
		cfg, err := c.config()
		if err != nil {
			c.note("honeydew: %v", err)
		}
		database := cfg.Storage.DatabasePath
		// $HONEYDEW_SOCKET may lead to the daemon of another home. One whose database fails does not say.
		if there, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{}); err == nil {
			database = there.DatabasePath
		}
		out, err := c.client.Shutdown(ctx, in)
		if err != nil {
			return c.stopFailed(err)
		}
		if err := awaitEnd(ctx, database); err != nil {
			return err
		}
		return c.show("Shutdown", in, out)
	}
}

func logsVerb(c *cli, f *flag.FlagSet) action {
	follow := f.Bool("f", false, "go on with new lines, across rotation")
	last := f.Int("n", 50, "begin with the last `N` lines; 0: all of the present file")
	return func(ctx context.Context, _ []string) error {
		cfg, err := c.config()
		if err != nil {
			return err
		}
		file, err := os.Open(cfg.Logging.File)
		if err != nil {
			return errorf(codeNotFound, "no log yet: %w", err).hint("start the daemon with: honeydew start")
		}
		for {
			// Looked for before this file is read to its end: what it got before its rotation comes before what the next one has.
			next := reopened(file, cfg.Logging.File)
			if err := rewindTruncated(file); err != nil {
				return err
			}
			if err := c.printLog(file, *last); err != nil || !*follow {
				return err
			}
			*last = 0
			if next != nil {
				_ = file.Close() // only read
				file = next
				continue
			}
			select {
			case <-time.After(logPoll):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// reopened opens the file at path if it is another one than old.
func reopened(old *os.File, path string) *os.File {
	next, err := os.Open(path)
	if err != nil {
		return nil // between two files
	}
	was, err1 := old.Stat()
	is, err2 := next.Stat()
	if err1 == nil && err2 == nil && !os.SameFile(was, is) {
		return next
	}
	_ = next.Close()
	return nil
}

// rewindTruncated goes back to the start of a file that was emptied in place, as copytruncate does.
func rewindTruncated(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil || at <= info.Size() {
		return err
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// printLog prints the whole lines that follow, or only the last of them, and leaves one that is still written for later.
func (c *cli) printLog(file *os.File, last int) error {
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	lines := slices.Collect(bytes.Lines(whole))
	if last > 0 {
		lines = lines[max(len(lines)-last, 0):]
	}
	for _, line := range lines {
		if c.json {
			_, _ = c.out.Write(line) // the flush tells
		} else {
			c.printf("%s", logLine(bytes.TrimSpace(line)))
		}
	}
	_, err = file.Seek(int64(len(whole)-len(text)), io.SeekCurrent)
	return errors.Join(err, c.out.Flush())
}

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
