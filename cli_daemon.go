package main

// The verbs about the daemon itself: run, start, stop and look at it. start is the only place where honeydew executes a
// program, and that is itself.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
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

	maxStderrBytes = 1 << 20 // of daemon.stderr, at which it starts anew
)

func (c *cli) daemonVerbs() []verb {
	return []verb{
		{
			name:  "start",
			short: "Start the daemon in the background",
			setup: c.startVerb,
		},
		{
			name:    "stop",
			short:   "Stop the daemon; running jobs may finish first",
			example: "honeydew stop --force",
			setup:   c.stopVerb,
		},
		{
			name:  "status",
			short: "Show what the daemon is doing",
			run:   c.status,
		},
		{
			name:  "ping",
			short: "Check that the daemon answers",
			run:   c.ping,
		},
		{
			name:    "logs",
			args:    "[ID]",
			short:   "Show the daemon's log, or a job's lines of it",
			example: "honeydew logs -f",
			setup:   c.logsVerb,
		},
		{
			name:    "daemon",
			short:   "Run the daemon in the foreground",
			example: "honeydew daemon --config ./config.yaml",
			setup:   c.daemonVerb,
		},
		{
			name:  "version",
			short: "Show the version",
			run:   c.showVersion,
		},
	}
}

func (c *cli) showVersion(context.Context, []string) error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	document := map[string]string{
		"version":  c.version,
		"go":       runtime.Version(),
		"platform": platform,
	}
	return c.answer(document, "honeydew %s (%s, %s)", c.version, runtime.Version(), platform)
}

// configFlag declares --config. The path is made absolute: it is noted for clients that run elsewhere.
func (c *cli) configFlag(f *flag.FlagSet) {
	f.Func("config", "read this configuration `FILE` instead of config.yaml in the home", func(file string) error {
		c.file = file
		if file != "" {
			c.file = c.absolute(file)
		}
		return nil
	})
}

func (c *cli) daemonVerb(f *flag.FlagSet) action {
	c.configFlag(f)
	return func(ctx context.Context, _ []string) error {
		return runDaemon(ctx, DaemonOptions{
			Home:       c.home,
			UserHome:   c.userHome,
			ConfigFile: c.file,
			Version:    c.version,
			Queries:    c.queries,
			Getenv:     c.getenv,
			Stderr:     c.stderr,
		})
	}
}

func (c *cli) ping(ctx context.Context, _ []string) error {
	out, err := c.client.Ping(ctx, &daemonpb.PingRequest{})
	if err != nil {
		return err
	}
	return c.answer(out, "honeydew %s is running, for %s", out.Version, seconds(out.UptimeSeconds))
}

func (c *cli) status(ctx context.Context, _ []string) error {
	s, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	if err != nil {
		return err
	}
	if c.json {
		return c.document(s)
	}
	queue := fmt.Sprintf("%d pending, %d running (%d of %d workers busy)",
		s.Pending, s.Running, s.BusyWorkers, s.Workers)
	if s.QueuePaused {
		queue += "; paused, resume with: honeydew queue resume"
	}
	finished := fmt.Sprintf("%d completed, %d failed, %d cancelled", s.Completed, s.Failed, s.Cancelled)
	if s.Failed > 0 {
		finished += "; see: honeydew job list --status failed"
	}
	login := loginState(s.Authenticated, s.NeedsReauth, s.Problems...)
	account, err := c.client.GetAuthStatus(ctx, &daemonpb.GetAuthStatusRequest{})
	if err == nil && s.Authenticated { // else what is known is shown all the same
		login += " as " + account.Username
	}
	failing, look := c.failingText(ctx)
	if failing != "" {
		failing += "; " + look
	}
	c.pairs(
		"daemon:", fmt.Sprintf("honeydew %s, pid %d, up %s", s.Version, s.Pid, seconds(s.UptimeSeconds)),
		"environment:", fmt.Sprintf("%s (%s)", s.Environment, login),
		"auth failures:", refusedText(account),
		"queue:", queue,
		"retrying:", c.retryingText(ctx),
		"held:", heldText(s),
		"oldest pending:", localTime(s.OldestPendingAt),
		"finished:", finished,
		"schedules:", fmt.Sprint(s.Schedules),
		"failing:", failing,
		"database:", fmt.Sprintf("%s, %s", s.DatabasePath, bytesText(s.DatabaseBytes)),
		"socket:", s.SocketPath,
		"problems:", strings.Join(s.Problems, "; "),
	)
	return nil
}

// refusedText says how many jobs have failed for the login, "" if none has.
func refusedText(account *daemonpb.AuthStatus) string {
	failed := account.GetFailedAuthJobs()
	if failed == 0 {
		return ""
	}
	if account.Username == "" {
		return fmt.Sprintf("%d; log in, then: honeydew job retry --code AUTH_REQUIRED", failed)
	}
	return fmt.Sprintf("%d since the last login; see: honeydew job list --status failed", failed)
}

// failingText names schedules whose last job has failed, "" if none has, and says where to look.
func (c *cli) failingText(ctx context.Context) (text, next string) {
	out, err := c.client.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
	if err != nil { // which is no reason to keep back what is known
		return "", ""
	}
	failing := slices.DeleteFunc(out.Schedules, func(s *daemonpb.Schedule) bool {
		if s.LastJobStatus != statusFailed {
			return true
		}
		last, err := c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: s.LastJobId})
		return err == nil && last.RetriedBy != ""
	})
	if len(failing) == 0 {
		return "", ""
	}
	names := namesOf(failing, (*daemonpb.Schedule).GetName)
	const most = 3
	text = "the last run of " + strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and of %d more", len(names)-most)
	}
	return text, "see: honeydew job list --schedule " + shellQuoted(names[0])
}

// retryingText says of how many of the newest waiting jobs an attempt has failed, and why, "" if of none.
func (c *cli) retryingText(ctx context.Context) string {
	in := &daemonpb.ListJobsRequest{
		Status: statusPending,
		Limit:  200,
	}
	waiting, err := c.client.ListJobs(ctx, in)
	if err != nil {
		return ""
	}
	failed := slices.DeleteFunc(waiting.Jobs, func(j *daemonpb.JobStatus) bool { return j.RetryCount == 0 })
	if len(failed) == 0 {
		return ""
	}
	return count(len(failed), "job") + "; the newest: " + failed[0].Error
}

func (c *cli) startVerb(f *flag.FlagSet) action {
	c.configFlag(f) // which also names the socket that is waited for
	return func(ctx context.Context, _ []string) error {
		out, held, err, lockErr := c.look(ctx)
		if err == nil && lockErr == nil && !held { // the home's own may have answered, and ended since
			out, held, err, lockErr = c.look(ctx)
		}
		if err == nil && lockErr == nil && !held {
			return c.strangeHome()
		}
		if held {
			if err := c.checkConfigured(); err != nil {
				return err
			}
		}
		if err == nil {
			return c.answer(out, "honeydew %s is already running", out.Version)
		}
		if c.stranger.Load() != nil {
			return err
		}
		// One that is there but says nothing would make a second daemon end at once.
		if held && status.Code(err) == codes.DeadlineExceeded {
			return err
		}
		_, misread := loadConfig(c.home, c.file, c.userHome)
		if err := prepareHome(c.home, misread); err != nil {
			return exitError{exitConfig, err}
		}
		if lockErr != nil {
			return exitError{exitConfig, errorf(codeFailedPrecondition, "%w", lockErr).hint("see: honeydew doctor")}
		}
		if err := c.checkSocket(); err != nil {
			return err
		}
		if held {
			out, err = c.awaitAnswer(ctx)
			if err == nil {
				return c.answer(out, "honeydew %s is already running", out.Version)
			}
			if !errors.Is(err, errNotRunning) {
				return err
			}
		}
		daemon, begin, err := c.spawn()
		if err != nil {
			return err
		}
		return c.awaitReady(ctx, daemon, begin)
	}
}

// look asks the daemon and its lock, which a daemon lets go last.
func (c *cli) look(ctx context.Context) (out *daemonpb.PingResponse, held bool, err, lockErr error) {
	out, err = c.client.Ping(ctx, &daemonpb.PingRequest{})
	held, lockErr = lockHeld(lockPath(c.home))
	return out, held, err, lockErr
}

// awaitAnswer pings the daemon. One that holds its lock and has no socket is starting or stopping, and is waited for.
func (c *cli) awaitAnswer(ctx context.Context) (*daemonpb.PingResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		out, err := c.client.Ping(ctx, &daemonpb.PingRequest{})
		if status.Code(err) != codes.Unavailable || c.otherSocket() != "" || checkSocketFree(c.socketPath()) != nil {
			return out, err
		}
		held, lockErr := lockHeld(lockPath(c.home))
		if lockErr != nil {
			return nil, err
		}
		if !held {
			return nil, errNotRunning
		}
		select {
		case <-time.After(poll):
			c.conn.ResetConnectBackoff() // a connection that failed would wait before it tries again
		case <-ctx.Done():
			return nil, err
		}
	}
}

// strangeHome refuses a start whose socket answers for the daemon of another home.
func (c *cli) strangeHome() error {
	taken := errorf(codeFailedPrecondition, "%s is the socket of another home's daemon", c.socketPath()).
		hint("unset HONEYDEW_SOCKET, or set another daemon.socket_path in %s", filepath.Join(c.home, "config.yaml"))
	return exitError{exitConfig, taken}
}

// checkConfigured refuses a start with a configuration beside a daemon that runs with another one.
func (c *cli) checkConfigured() error {
	noted, err := notedIn(lockPath(c.home))
	noted = cmp.Or(noted, filepath.Join(c.home, "config.yaml"))
	if err != nil || c.file == "" || noted == c.file {
		return err
	}
	running := errorf(codeFailedPrecondition, "a daemon already runs for this home, with %s", noted).
		hint("stop it first: honeydew stop && honeydew start --config %s", shellQuoted(c.file))
	return exitError{exitAlreadyRunning, running}
}

// checkSocket refuses a start whose daemon would listen elsewhere than where $HONEYDEW_SOCKET makes clients look.
func (c *cli) checkSocket() error {
	named := c.getenv("HONEYDEW_SOCKET")
	cfg, err := loadConfig(c.home, c.file, c.userHome)
	if named == "" || err != nil { // a broken configuration is the daemon's to refuse
		return nil
	}
	named = c.absolute(named)
	if named == cfg.Daemon.SocketPath {
		return nil
	}
	return usagef("$HONEYDEW_SOCKET is %s, but the daemon would listen on %s", named, cfg.Daemon.SocketPath).
		hint("unset HONEYDEW_SOCKET, or set daemon.socket_path in config.yaml")
}

// stderrPath is where a daemon in the background prints, and a crash leaves its stack.
func (c *cli) stderrPath() string {
	return filepath.Join(c.home, "daemon.stderr")
}

// spawn runs this binary, detached. It gets the home, its output and no other descriptor or promise of ours: a lock or
// pipe that the caller left open would be held for as long as the daemon runs. The number says where in the file of
// stderrPath its words begin.
func (c *cli) spawn() (daemon *exec.Cmd, begin int64, err error) {
	out, begin, err := openStderr(c.stderrPath())
	if err != nil {
		return nil, 0, err
	}
	defer out.Close()
	cmd := exec.Command(c.executable)
	cmd.Args = []string{"honeydew", "daemon"}
	if c.file != "" {
		cmd.Args = append(cmd.Args, "--config", c.file)
	}
	cmd.Dir = c.home
	cmd.Env = append(daemonEnvironment(os.Environ()), "HONEYDEW_HOME="+c.home) // absolute, whatever the caller said
	cmd.Stdout = out
	cmd.Stderr = out
	cmd.SysProcAttr = detached()
	keepDescriptors(syscall.CloseOnExec)
	return cmd, begin, cmd.Start()
}

// pathOf is where name, as typed, leads, if that is the program at executable; else executable. A link there outlives
// an upgrade, the file that it points to today may not.
func pathOf(name, executable string) string {
	found, err := exec.LookPath(name)
	if err != nil {
		return executable
	}
	found, err = filepath.Abs(found)
	if err != nil || !sameFile(found, executable) {
		return executable
	}
	return found
}

// sameFile reports whether two paths lead to one file.
func sameFile(one, other string) bool {
	a, err := os.Stat(one)
	if err != nil {
		return false
	}
	b, err := os.Stat(other)
	return err == nil && os.SameFile(a, b)
}

// openStderr opens the file for the words of a daemon in the background, behind those of others that may still write
// there, and says where that is. It starts anew only where it has grown too large.
func openStderr(path string) (out *os.File, begin int64, err error) {
	there, err := os.Lstat(path)
	if err == nil && !there.Mode().IsRegular() {
		return nil, 0, exitf(exitConfig, "%s %w; move it away", path, errNotRegular)
	}
	out, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, exitError{exitStorage, err}
	}
	info, err := out.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, out.Close())
	}
	if info.Size() > maxStderrBytes {
		return out, 0, out.Truncate(0)
	}
	return out, info.Size(), nil
}

// daemonEnvironment is the caller's environment without what a service manager said to the caller alone.
func daemonEnvironment(environment []string) []string {
	private := []string{
		"NOTIFY_SOCKET",
		"LISTEN_FDS",
		"LISTEN_PID",
		"LISTEN_FDNAMES",
		"WATCHDOG_USEC",
		"WATCHDOG_PID",
	}
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
			fd, err := strconv.Atoi(entry.Name())
			if err == nil && fd >= 3 {
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
			code := daemon.ProcessState.ExitCode()
			if code == 0 {
				return errorf(codeFailedPrecondition, "the daemon started, and was stopped again at once").
					hint("start it again with: honeydew start")
			}
			if code != exitAlreadyRunning {
				return c.startFailed(code, begin)
			}
			// Another one was quicker, or was there before and is not found.
			_, err := c.config()
			if err != nil {
				return exitError{exitAlreadyRunning,
					fmt.Errorf("a daemon already runs for this home, with another configuration: %w", err)}
			}
		case <-ctx.Done():
			return errorf(codeInternal, "the daemon has not become ready within %s", startPatience).
				hint("it may still be starting; see: honeydew logs")
		case <-time.After(poll):
			c.conn.ResetConnectBackoff() // a connection that failed would wait before it tries again
			out, err := c.client.Ping(ctx, &daemonpb.PingRequest{})
			if err == nil {
				c.tellService()
				return c.answer(out, "honeydew %s started", out.Version)
			}
		}
	}
}

// tellService tells whoever has a service, and has started a daemon beside it.
func (c *cli) tellService() {
	s, err := c.service()
	if err == nil && exists(s.path) {
		enable, _, _ := strings.Cut(s.enable, "\n")
		c.note("this is not the service that is installed; to have that instead: honeydew stop && %s", enable)
	}
}

// startFailed repeats the words of the daemon that ended with that exit code, -1 if it was killed.
func (c *cli) startFailed(code int, begin int64) error {
	code = max(code, exitFailed)
	words, err := os.ReadFile(c.stderrPath())
	if err != nil {
		return exitError{code, fmt.Errorf("the daemon ended at once, and without words: %w", err)}
	}
	words = bytes.TrimSpace(words[min(begin, int64(len(words))):])
	if len(words) > 0 {
		c.note("%s", words)
		return exitError{code, errSaid}
	}
	fix, err := diskFault(c.home)
	if err != nil {
		return exitError{code, errorf(codeStorageFull, "%w", err).hint("%s, then: honeydew start", fix)}
	}
	return exitError{code, errors.New("the daemon ended at once, and without words")}
}

// awaitEnd waits for the end of the daemon that was asked to stop, whichever home it belongs to: its database's lock is
// the last that it lets go. Another daemon may take it at once; then that one answers, with another pid.
func (c *cli) awaitEnd(ctx context.Context, database string, pid int32) error {
	path, err := realPath(database)
	if err != nil {
		return err
	}
	line := c.newProgress()
	defer line.clear()
	ticks := time.NewTicker(tellEvery)
	defer ticks.Stop()
	for {
		held, err := lockHeld(path + ".lock")
		if err != nil || !held || pid != 0 && c.answersAsOther(ctx, pid) {
			return err
		}
		select {
		case <-time.After(poll):
		case <-ticks.C:
			line.say("stop", "waiting for running jobs; to end at once: honeydew stop --force")
		case <-ctx.Done():
			return exitError{exitInterrupted, errors.New("interrupted; the daemon goes on stopping")}
		}
	}
}

// answersAsOther reports whether a daemon answers that is not the one of that pid.
func (c *cli) answersAsOther(ctx context.Context, pid int32) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	now, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	return err == nil && now.Pid != pid
}

func (c *cli) stopVerb(f *flag.FlagSet) action {
	in := &daemonpb.ShutdownRequest{}
	f.BoolVar(&in.Force, "force", false, "do not wait for running jobs; queries run again after the next start, "+
		"a mutation such as a clone fails with OUTCOME_UNKNOWN")
	return func(ctx context.Context, _ []string) error {
		c.skewTold = true // what follows ends it anyhow
		if in.Force {
			if err := c.hasten(ctx); err != nil {
				return err
			}
		}
		cfg, _ := c.config() // else the defaults: what is wrong with it keeps nobody from stopping
		database := cfg.Storage.DatabasePath
		if _, err := c.awaitAnswer(ctx); err != nil {
			return c.stopFailed(err)
		}
		// $HONEYDEW_SOCKET may lead to the daemon of another home. One whose database fails does not say.
		there, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err == nil {
			database = there.DatabasePath
		}
		out, err := c.client.Shutdown(ctx, in)
		if err != nil {
			return c.stopFailed(err)
		}
		if err := c.awaitEnd(ctx, database, there.GetPid()); err != nil {
			return err
		}
		return c.answer(out, "stopped")
	}
}

// hasten ends a daemon that is stopping already, which hears no call any more, but a second signal.
func (c *cli) hasten(ctx context.Context) error {
	_, held, err, _ := c.look(ctx)
	pid, _ := strconv.Atoi(c.daemonPID()) // else 0
	if !held || status.Code(err) != codes.Unavailable || pid <= 0 || c.otherSocket() != "" || c.pidIsOld() {
		return nil
	}
	daemon, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	err = daemon.Signal(terminateSignals[0])
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// pidIsOld reports whether the PID file may be from before the present daemon took the lock.
func (c *cli) pidIsOld() bool {
	cfg, _ := c.config() // else the defaults
	file, err := os.Stat(cfg.Daemon.PIDFile)
	lock, lockErr := os.Stat(lockPath(c.home))
	return err != nil || lockErr != nil || file.ModTime().Before(lock.ModTime())
}

// stopFailed is err, but for a daemon that is not running: that is what was asked for.
func (c *cli) stopFailed(err error) error {
	exit, text, _ := c.explain(err)
	held, lockErr := lockHeld(lockPath(c.home))
	if exit != exitNotRunning || lockErr != nil || held && c.otherSocket() != "" {
		return err
	}
	c.note("honeydew: %s", text)
	return c.document(&daemonpb.ShutdownResponse{})
}
