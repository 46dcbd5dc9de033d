package main

// The verbs about the daemon itself: run, start, stop and look at it. start is the only place where honeydew executes a program, and that is itself.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
		if err := c.checkConfigured(); err != nil {
			return err
		}
		if err := prepareHome(c.home); err != nil {
			return exitError{exitConfig, fmt.Errorf("home: %w", err)}
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
	path := lockPath(c.home)
	held, err := lockHeld(path)
	if err != nil || !held || c.file == "" {
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
