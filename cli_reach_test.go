//go:build unix

package main

// What the command line says of a daemon that does not answer, and whom it speaks to.

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// holdLock holds a lock as a daemon does.
func holdLock(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
}

// silentSocket is a socket that takes connections, and never says a word.
func silentSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestWhetherADaemonRunsIsWhatItsLockSays(t *testing.T) {
	for _, row := range []struct {
		name           string
		locked, socket bool
		verb           string
		code           int
		stderr, hint   string
	}{
		{"nothing there", false, false, "ping", exitNotRunning, "the daemon is not running", "honeydew start"},
		{"locked, no socket", true, false, "ping", exitFailed, "the daemon (pid 4711) is only starting, or is stopping", "try again"},
		{"locked, silent", true, true, "ping", exitFailed, "the daemon runs (pid 4711) but does not answer: busy or stopped", "kill -CONT 4711"},
		{"locked, silent, status", true, true, "status", exitFailed, "the daemon runs (pid 4711)", "kill -CONT 4711"},
		{"locked, silent, stop", true, true, "stop", exitFailed, "the daemon runs (pid 4711)", "kill -CONT 4711"},
		{"locked, silent, start", true, true, "start", exitFailed, "the daemon runs (pid 4711)", "kill -CONT 4711"},
		{"locked, silent, job wait", true, true, "job wait x", exitFailed, "the daemon runs (pid 4711)", "kill -CONT 4711"},
		{"another's silent socket", false, true, "ping", exitFailed, "no daemon of this home runs", "honeydew doctor"},
	} {
		t.Run(row.name, func(t *testing.T) {
			home := shortDir(t)
			putFile(t, home, "daemon.pid", "4711\n")
			if row.locked {
				holdLock(t, lockPath(home))
			}
			if row.socket {
				silentSocket(t, filepath.Join(home, "daemon.sock"))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			got := testProcess(t, home, strings.Fields(row.verb)...).run(ctx, t)
			if got.code != row.code || !strings.Contains(got.stderr, row.stderr) || !strings.Contains(got.stderr, row.hint) {
				t.Errorf("exit %d: %s, want %d: %s; %s", got.code, got.stderr, row.code, row.stderr, row.hint)
			}
		})
	}
}

func TestWhatIsInTheSocketsPlaceIsNamed(t *testing.T) {
	home := shortDir(t)
	path := putFile(t, home, "daemon.sock", "mine")
	holdLock(t, lockPath(home))
	for _, verb := range []string{"ping", "stop", "start"} {
		got := testProcess(t, home, verb).run(t.Context(), t)
		if got.code != exitFailed || !strings.Contains(got.stderr, path+" is in the way: it is not a socket; move it away") {
			t.Errorf("%s: exit %d: %s", verb, got.code, got.stderr)
		}
	}
}

func TestStopWaitsForADaemonThatHasNoSocket(t *testing.T) {
	home := shortDir(t)
	held, err := takeLock(lockPath(home))
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	time.AfterFunc(endPatience+poll, func() { released <- held.release() })
	got := testProcess(t, home, "stop").run(t.Context(), t)
	if got.code != 0 || !strings.Contains(got.stderr, "the daemon is not running") {
		t.Errorf("exit %d: %s", got.code, got.stderr)
	}
	if err := <-released; err != nil {
		t.Error(err)
	}
}

func TestAnotherSocketIsNotWhatTheLockSpeaksOf(t *testing.T) {
	home := shortDir(t)
	holdLock(t, lockPath(home))
	nowhere, silent := filepath.Join(home, "nowhere"), filepath.Join(home, "silent")
	silentSocket(t, silent)
	for socket, want := range map[string]cliRun{
		nowhere:                            {code: exitNotRunning, stderr: "nobody listens at " + nowhere + ", which $HONEYDEW_SOCKET names"},
		silent:                             {code: exitFailed, stderr: "does not answer"},
		filepath.Join(home, "daemon.sock"): {code: exitFailed, stderr: "is only starting, or is stopping"},
	} {
		p := testProcess(t, home, "ping")
		inner := p.getenv
		p.getenv = func(name string) string {
			if name == "HONEYDEW_SOCKET" {
				return socket
			}
			return inner(name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		got := p.run(ctx, t)
		cancel()
		if got.code != want.code || !strings.Contains(got.stderr, want.stderr) {
			t.Errorf("%s: exit %d, %s, want %d: %s", socket, got.code, got.stderr, want.code, want.stderr)
		}
	}
}

func TestNoConnectionIsGivenUpBeforeItsCall(t *testing.T) {
	for _, timeout := range []time.Duration{pingTimeout, callTimeout, longTimeout, watchTimeout} {
		if connectParams().MinConnectTimeout <= timeout {
			t.Errorf("a connection is given up after %s, its call only after %s", connectParams().MinConnectTimeout, timeout)
		}
	}
}

func TestWhyNoAnswerCame(t *testing.T) {
	for _, row := range []struct {
		code codes.Code
		text string
		exit int
		said string
	}{
		{codes.Unavailable, "connection error: desc = \"dial unix /h/daemon.sock: socket: too many open files\"", exitFailed, "too many open files"},
		{codes.Unavailable, "connection error: desc = \"dial unix /h/daemon.sock: connect: permission denied\"", exitFailed, "not yours"},
		{codes.Unavailable, "error reading from server: EOF", exitNotRunning, "not running"},
		{codes.DeadlineExceeded, "context deadline exceeded", exitFailed, "no answer came in time"},
	} {
		c, _ := testCLI(t, 0)
		c.home = shortDir(t)
		exit, said, hint := c.explain(status.Error(row.code, row.text))
		if exit != row.exit || !strings.Contains(said, row.said) || hint == "" {
			t.Errorf("%s: exit %d, %q, hint %q, want %d, %q", row.text, exit, said, hint, row.exit, row.said)
		}
	}
}

// Only the pid that the present holder of the lock has written is signalled, and never a group of processes.
func TestAStopSignalsNoStranger(t *testing.T) {
	for _, row := range []struct {
		name    string
		written time.Duration // after the lock was taken
		sign    int
		ends    bool
	}{
		{"its own pid", time.Minute, 1, true},
		{"the pid of the daemon before it", -time.Minute, 1, false},
		{"a group", time.Minute, -1, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			home := shortDir(t)
			holdLock(t, lockPath(home))
			process := exec.Command("sleep", "60")
			process.SysProcAttr = detached()
			if err := process.Start(); err != nil {
				t.Fatal(err)
			}
			file := putFile(t, home, "daemon.pid", strconv.Itoa(row.sign*process.Process.Pid)+"\n")
			at := time.Now().Add(row.written)
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			got := testProcess(t, home, "stop", "--force").run(ctx, t)
			cancel()
			if err := process.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = process.Wait() // the state says what ended it
			by := process.ProcessState.Sys().(syscall.WaitStatus).Signal()
			if (by == syscall.SIGTERM) != row.ends {
				t.Errorf("ended by %s: %s", by, got.stderr)
			}
		})
	}
}
