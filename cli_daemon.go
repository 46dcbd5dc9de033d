package main

// The verbs about the daemon itself: run, start, stop, look at. start is the only place where honeydew executes a
// program, and that is itself.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"honeydew/daemonpb"
)

const (
	startPatience = time.Minute           // an old, large database may have to be upgraded
	poll          = 20 * time.Millisecond // while another process starts or stops
	logPoll       = 200 * time.Millisecond
)

func daemonVerbs() []verb {
	return []verb{
		{"start", "", "start the daemon in the background", "honeydew start", startVerb},
		{"stop", "", "stop the daemon; running jobs may end", "honeydew stop --force", stopVerb},
		{"status", "", "show what the daemon is doing", "honeydew status", statusVerb},
		{"ping", "", "check that the daemon answers", "honeydew ping", pingVerb},
		{"logs", "", "show the daemon's log", "honeydew logs -f", logsVerb},
		{"daemon", "", "run the daemon in the foreground", "honeydew daemon --config ./config.yaml", daemonVerb},
		{"version", "", "show the version", "honeydew version", versionVerb},
	}
}

func daemonVerb(c *cli, f *flag.FlagSet) action {
	config := f.String("config", "", "read this configuration `FILE` instead of config.yaml in the home")
	return func(ctx context.Context, _ []string) error {
		return runDaemon(ctx, DaemonOptions{Home: c.home, UserHome: c.userHome, ConfigFile: *config, Version: c.version, Queries: c.queries,
			Getenv: c.getenv, Stderr: c.stderr})
	}
}

func versionVerb(c *cli, _ *flag.FlagSet) action {
	return func(context.Context, []string) error {
		if c.json {
			c.printf(`{"version":%q,"go":%q,"platform":%q}`, c.version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
			return nil
		}
		c.printf("honeydew %s (%s, %s/%s)", c.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
}

func pingVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.Ping, &daemonpb.PingRequest{}, func(out *daemonpb.PingResponse) {
			c.printf("honeydew %s is running, for %s", printable(out.Version), span(time.Duration(out.UptimeSeconds)*time.Second))
		})
	}
}

func statusVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.GetStatus, &daemonpb.GetStatusRequest{}, func(s *daemonpb.DaemonStatus) {
			login := "logged in"
			if s.NeedsReauth {
				login = "login expired; run: honeydew login"
			} else if !s.Authenticated {
				login = "not logged in; run: honeydew login"
			}
			queue := fmt.Sprintf("%d pending, %d running (%d of %d workers busy)", s.Pending, s.Running, s.BusyWorkers, s.Workers)
			if s.QueuePaused {
				queue += "; paused, resume with: honeydew queue resume"
			}
			held := ""
			if s.HeldUntil != "" {
				held = "until " + localTime(s.HeldUntil) + ": " + s.HeldReason
			}
			c.pairs("daemon", fmt.Sprintf("honeydew %s, pid %d, up %s", s.Version, s.Pid, span(time.Duration(s.UptimeSeconds)*time.Second)),
				"environment", s.Environment+" ("+login+")", "queue", queue, "held", held, "oldest pending", localTime(s.OldestPendingAt),
				"finished", fmt.Sprintf("%d completed, %d failed, %d cancelled", s.Completed, s.Failed, s.Cancelled),
				"schedules", strconv.Itoa(int(s.Schedules)), "database", fmt.Sprintf("%s, %s", s.DatabasePath, bytesText(s.DatabaseBytes)),
				"socket", s.SocketPath, "problems", strings.Join(s.Problems, "; "))
		})
	}
}

func startVerb(c *cli, f *flag.FlagSet) action {
	config := f.String("config", "", "read this configuration `FILE` instead of config.yaml in the home")
	return func(ctx context.Context, _ []string) error {
		if ping, err := call(ctx, c, daemonpb.DaemonClient.Ping, &daemonpb.PingRequest{}); err == nil {
			return c.show(ping, func() { c.printf("honeydew %s is already running", printable(ping.Version)) })
		}
		if err := prepareHome(c.home); err != nil {
			return exitError{exitConfig, fmt.Errorf("home: %w", err)}
		}
		ended, err := c.spawn(*config)
		if err != nil {
			return err
		}
		return c.awaitReady(ctx, ended)
	}
}

func (c *cli) stderrPath() string { return filepath.Join(c.home, "daemon.stderr") }

// spawn runs this binary as the daemon, detached; what it prints goes to a file, where a crash leaves its stack.
func (c *cli) spawn(config string) (ended chan error, err error) {
	args := []string{"daemon"}
	if config != "" {
		path, err := filepath.Abs(expandPath(config, c.userHome))
		if err != nil {
			return nil, err
		}
		args = append(args, "--config", path)
	}
	out, err := os.OpenFile(c.stderrPath(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(c.executable, args...)
	cmd.Args[0] = "honeydew"
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = c.home, out, out, detached()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	ended = make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

// awaitReady returns when the daemon answers, or with the daemon's own error and exit code when it ended instead. If
// it ended because another one was quicker, that one is as good.
func (c *cli) awaitReady(ctx context.Context, ended chan error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var failure error
	for {
		select {
		case err := <-ended:
			failure = c.startFailure(err)
			if exit, ok := errors.AsType[exitError](failure); !ok || exit.code != exitAlreadyRunning {
				return failure
			}
			ended = nil
		case <-ctx.Done():
			if failure != nil {
				return failure
			}
			return errorf(codeInternal, "the daemon has not become ready within %s", startPatience).hint("it may go on starting; see: honeydew logs")
		case <-tick.C:
			if c.conn != nil { // a connection that failed would wait before it tries again
				c.conn.ResetConnectBackoff()
			}
			ping, err := call(ctx, c, daemonpb.DaemonClient.Ping, &daemonpb.PingRequest{})
			if err != nil {
				continue
			}
			return c.show(ping, func() { c.printf("honeydew %s started", printable(ping.Version)) })
		}
	}
}

// startFailure is what the daemon said, with its exit code.
func (c *cli) startFailure(err error) error {
	text, readErr := os.ReadFile(c.stderrPath())
	if readErr != nil {
		text = []byte(readErr.Error())
	}
	message, hint, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(string(text), "honeydew: ")), "\nhint: ")
	if message == "" {
		message = "the daemon ended at once"
	}
	code := exitFailed
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		code = exit.ExitCode()
	}
	return exitError{code, errorf(codeInternal, "%s", message).hint("%s", hint)}
}

func stopVerb(c *cli, f *flag.FlagSet) action {
	force := f.Bool("force", false, "do not wait for running jobs; they are taken up again at the next start")
	return func(ctx context.Context, _ []string) error {
		out, err := call(ctx, c, daemonpb.DaemonClient.Shutdown, &daemonpb.ShutdownRequest{Force: *force})
		if err != nil {
			// A daemon that does not answer, but holds its lock, is asked by signal.
			if code, _, _ := c.explain(err); code != exitNotRunning || !c.signalDaemon() {
				return err
			}
			out = &daemonpb.ShutdownResponse{}
		}
		if err := c.awaitStopped(ctx); err != nil {
			return err
		}
		return c.show(out, func() { c.printf("stopped") })
	}
}

// signalDaemon asks the holder of the lock to end; without the lock held, a PID file says nothing.
func (c *cli) signalDaemon() bool {
	if held, err := lockHeld(lockPath(c.home)); err != nil || !held {
		return false
	}
	cfg, err := loadConfig(c.home, "", c.userHome)
	if err != nil {
		return false
	}
	text, err := os.ReadFile(cfg.Daemon.PIDFile)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return false
	}
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.SIGTERM) == nil
}

func (c *cli) awaitStopped(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		held, err := lockHeld(lockPath(c.home))
		if err != nil || !held {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.note("the daemon goes on stopping")
			return errInterrupted
		}
	}
}

func logsVerb(c *cli, f *flag.FlagSet) action {
	follow := f.Bool("f", false, "go on with new lines, across rotation")
	lines := f.Int("n", 50, "begin with the last `N` lines; 0: all of the present file")
	return func(ctx context.Context, _ []string) error {
		cfg, err := loadConfig(c.home, "", c.userHome)
		if err != nil {
			return err
		}
		file, err := os.Open(cfg.Logging.File)
		if err != nil {
			return errorf(codeNotFound, "no log yet: %w", err).hint("start the daemon with: honeydew start")
		}
		defer func() { _ = file.Close() }() // only read
		if *lines > 0 {
			if err := seekLastLines(file, *lines); err != nil {
				return err
			}
		}
		reader := bufio.NewReaderSize(file, 64<<10)
		var partial []byte
		for {
			if partial, err = c.copyLines(reader, partial); err != nil {
				return err
			}
			if !*follow {
				return nil
			}
			if err := c.out.Flush(); err != nil {
				return err
			}
			select {
			case <-time.After(logPoll):
			case <-ctx.Done():
				return nil
			}
			if next, rotated := reopened(file, cfg.Logging.File); rotated {
				// What was written to the old file before the rotation comes first.
				if _, err = c.copyLines(reader, partial); err != nil {
					return errors.Join(err, next.Close())
				}
				_ = file.Close()
				file, partial = next, nil
				reader.Reset(file)
			}
		}
	}
}

// copyLines prints the whole lines that are there and returns the beginning of the next.
func (c *cli) copyLines(r *bufio.Reader, partial []byte) ([]byte, error) {
	for {
		line, err := r.ReadBytes('\n')
		partial = append(partial, line...)
		if errors.Is(err, io.EOF) {
			return partial, nil
		} else if err != nil {
			return nil, err
		}
		if c.json {
			if _, err := c.out.Write(partial); err != nil {
				return nil, err
			}
		} else {
			c.printf("%s", logLine(bytes.TrimSpace(partial)))
		}
		partial = nil
	}
}

// reopened opens the file at path if it is another one than old.
func reopened(old *os.File, path string) (*os.File, bool) {
	next, err := os.Open(path)
	if err != nil {
		return nil, false // between two files
	}
	was, err1 := old.Stat()
	is, err2 := next.Stat()
	if err1 == nil && err2 == nil && !os.SameFile(was, is) {
		return next, true
	}
	_ = next.Close()
	return nil, false
}

// seekLastLines moves to the beginning of the last n lines.
func seekLastLines(f *os.File, n int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for at := end; at > 0; {
		size := min(at, int64(len(buffer)))
		at -= size
		if _, err := f.ReadAt(buffer[:size], at); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buffer[i] == '\n' && at+i != end-1 {
				if n--; n == 0 {
					_, err := f.Seek(at+i+1, io.SeekStart)
					return err
				}
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
