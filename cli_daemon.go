package main

// The verbs about the daemon itself: run, start, stop, look at. start is the only place where honeydew executes a
// program, and that is itself.

import (
	"bufio"
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
		{"status", "", "show what the daemon is doing", "honeydew status", asking(daemonpb.DaemonClient.GetStatus, &daemonpb.GetStatusRequest{}, nil)},
		{"ping", "", "check that the daemon answers", "honeydew ping", asking(daemonpb.DaemonClient.Ping, &daemonpb.PingRequest{}, nil)},
		{"logs", "", "show the daemon's log", "honeydew logs -f", logsVerb},
		{"daemon", "", "run the daemon in the foreground", "honeydew daemon --config ./config.yaml", func(c *cli, f *flag.FlagSet) action {
			config := configFlag(f)
			return func(ctx context.Context, _ []string) error {
				return runDaemon(ctx, DaemonOptions{Home: c.home, UserHome: c.userHome, ConfigFile: *config, Version: c.version, Queries: c.queries,
					Getenv: c.getenv, Stderr: c.stderr})
			}
		}},
		{"version", "", "show the version", "honeydew version", func(c *cli, _ *flag.FlagSet) action {
			return func(context.Context, []string) error {
				format := "honeydew %s (%s, %s/%s)"
				if c.json {
					format = `{"version":%q,"go":%q,"platform":"%s/%s"}`
				}
				c.printf(format, c.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
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
		if ping, err := c.client.Ping(ctx, &daemonpb.PingRequest{}); err == nil {
			return c.show("running", nil, ping)
		}
		if err := prepareHome(c.home); err != nil {
			return exitError{exitConfig, fmt.Errorf("home: %w", err)}
		}
		args := []string{"daemon"}
		if *config != "" {
			args = append(args, "--config", c.absolute(*config))
		}
		daemon, err := c.spawn(args)
		if err != nil {
			return err
		}
		return c.awaitReady(ctx, daemon)
	}
}

// stderrPath is where a daemon in the background prints, and a crash leaves its stack.
func (c *cli) stderrPath() string { return filepath.Join(c.home, "daemon.stderr") }

// spawn runs this binary, detached.
func (c *cli) spawn(args []string) (*exec.Cmd, error) {
	out, err := os.OpenFile(c.stderrPath(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(c.executable, args...)
	cmd.Args[0] = "honeydew"
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = c.home, out, out, detached()
	return cmd, cmd.Start()
}

// awaitReady returns when the daemon answers, or with the daemon's own words and exit code when it ended instead. If
// it ended because another one was quicker, that one is as good.
func (c *cli) awaitReady(ctx context.Context, daemon *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		select {
		case <-ended:
			if code := daemon.ProcessState.ExitCode(); code != exitAlreadyRunning {
				words, err := os.ReadFile(c.stderrPath())
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

func stopVerb(c *cli, f *flag.FlagSet) action {
	in := &daemonpb.ShutdownRequest{}
	f.BoolVar(&in.Force, "force", false, "do not wait for running jobs; they are taken up again at the next start")
	return func(ctx context.Context, _ []string) error {
		out, err := c.client.Shutdown(ctx, in)
		for held := true; held && err == nil; {
			select {
			case <-time.After(poll):
				held, err = lockHeld(lockPath(c.home))
			case <-ctx.Done():
				return exitError{exitInterrupted, errors.New("interrupted; the daemon goes on stopping")}
			}
		}
		if err != nil {
			return err
		}
		return c.show("Shutdown", in, out)
	}
}

func logsVerb(c *cli, f *flag.FlagSet) action {
	follow := f.Bool("f", false, "go on with new lines, across rotation")
	last := f.Int("n", 50, "begin with the last `N` lines; 0: all of the present file")
	return func(ctx context.Context, _ []string) error {
		cfg, err := loadConfig(c.home, "", c.userHome)
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

// printLog prints the whole lines that follow, or only the last of them, and leaves one that is still written for later.
func (c *cli) printLog(file *os.File, last int) error {
	reader := bufio.NewReaderSize(file, 64<<10)
	var lines [][]byte
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			_, err = file.Seek(-int64(len(line)), io.SeekCurrent)
			for _, line := range lines {
				if c.json {
					_, _ = c.out.Write(line) // the flush tells
				} else {
					c.printf("%s", logLine(bytes.TrimSpace(line)))
				}
			}
			return errors.Join(err, c.out.Flush())
		} else if err != nil {
			return err
		}
		if lines = append(lines, line); last > 0 && len(lines) > last {
			lines = lines[1:]
		}
	}
}
