//go:build unix

package main

// What start hands on to the daemon.

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestADaemonInTheBackgroundInheritsNothing(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("no /proc:", err)
	}
	dir := shortDir(t)
	inherited := filepath.Join(dir, "inherited")
	for _, fd := range []int{100, 300} { // as a shell's exec 9>file leaves it: open across exec
		low, err := syscall.Open(inherited, syscall.O_CREAT|syscall.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(low), syscall.F_DUPFD, uintptr(fd)); errno != 0 {
			t.Fatal(errno)
		}
		t.Cleanup(func() {
			_ = syscall.Close(low)
			_ = syscall.Close(fd)
		})
	}
	private := []string{"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"}
	for _, name := range private {
		t.Setenv(name, "ours")
	}
	t.Setenv("HONEYDEW_PASSPHRASE", "handed on")
	t.Setenv("HONEYDEW_HOME", "relative")
	script := filepath.Join(dir, "daemon")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nls -l /proc/self/fd; env; pwd\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, _ := testCLI(t, 0)
	c.home, c.executable = dir, script
	daemon, _, err := c.spawn()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(c.stderrPath())
	if err != nil {
		t.Fatal(err)
	}
	said := string(text)
	for _, bad := range append(private, inherited) {
		if strings.Contains(said, bad) {
			t.Errorf("the daemon has %s:\n%s", bad, said)
		}
	}
	for _, good := range []string{"HONEYDEW_PASSPHRASE=handed on", "HONEYDEW_HOME=" + dir + "\n", "0 -> /dev/null"} {
		if !strings.Contains(said, good) {
			t.Errorf("the daemon has no %s:\n%s", good, said)
		}
	}
	if n := strings.Count(said, "HONEYDEW_HOME="); n != 1 {
		t.Errorf("HONEYDEW_HOME stands %d times in the daemon's environment", n)
	}
}

func TestASecondDaemonsWordsStandBehindTheFirstOnes(t *testing.T) {
	for _, row := range []struct {
		before, after int
	}{
		{0, 0},
		{10, 10},
		{maxStderrBytes, maxStderrBytes},
		{maxStderrBytes + 1, 0},
	} {
		path := putFile(t, t.TempDir(), "daemon.stderr", strings.Repeat("x", row.before))
		first, begin, err := openStderr(path)
		if err != nil {
			t.Fatal(err)
		}
		second, _, err := openStderr(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.WriteString("first"); err != nil {
			t.Fatal(err)
		}
		if _, err := second.WriteString("second"); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || begin != int64(row.after) || string(text[begin:]) != "firstsecond" {
			t.Errorf("%d bytes: %q at %d (%v)", row.before, text[begin:], begin, err)
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openStderr(fifo); err == nil {
		t.Error("a pipe was taken for the file")
	}
}

func TestADaemonsEnvironmentIsTheCallersOtherwise(t *testing.T) {
	got := daemonEnvironment([]string{"A=1", "NOTIFY_SOCKET=/x", "LISTEN_FDS_OF_MINE=1", "HTTPS_PROXY=http://p"})
	if want := []string{"A=1", "LISTEN_FDS_OF_MINE=1", "HTTPS_PROXY=http://p"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTheLastWordsOfADaemon(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"honeydew: the home is open\nhint: chmod\n":                          "honeydew: the home is open",
		"honeydew: old\npanic: new\n\ngoroutine 1 [running]:\nmain.main()\n": "panic: new",
		"something else\n": "",
	} {
		c, _ := testCLI(t, 0)
		c.home = t.TempDir()
		path := putFile(t, c.home, "daemon.stderr", text)
		if got := c.lastWords(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		// A start that came as far as the lock has left them behind.
		putFile(t, c.home, "daemon.lock", "")
		hourAgo := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, hourAgo, hourAgo); err != nil {
			t.Fatal(err)
		}
		if got := c.lastWords(); got != "" {
			t.Errorf("of an earlier run: %q", got)
		}
	}
}

func TestALinkToTheProgramStaysALink(t *testing.T) {
	dir := shortDir(t)
	executable := filepath.Join(dir, "honeydew-1.2.3")
	other := filepath.Join(dir, "other")
	link := filepath.Join(dir, "honeydew")
	for _, path := range []string{executable, other} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(executable, link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	t.Chdir(dir)
	for name, want := range map[string]string{
		"honeydew":   link,
		link:         link,
		"./honeydew": link,
		executable:   executable,
		other:        executable,
		"other":      executable,
		"nosuch":     executable,
		"":           executable,
	} {
		if got := pathOf(name, executable); got != want {
			t.Errorf("called as %q: %s, want %s", name, got, want)
		}
	}
}

func TestPathsInAServiceFile(t *testing.T) {
	for text, want := range map[string]string{
		`/a b`:       `/a b`,
		`/100%`:      `/100%%`,
		`/"a"`:       `/\"a\"`,
		`/a\b`:       `/a\\b`,
		`/$HOME/'x'`: `/$HOME/'x'`,
		`/%h"\`:      `/%%h\"\\`,
	} {
		if got := systemdEscape(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for _, home := range []string{"/a\nb", "/a\x00b", "/a\tb", "/a\xff"} {
		c, _ := testCLI(t, 0)
		c.home, c.executable = home, "/bin/honeydew"
		c.getenv = os.Getenv
		if _, err := c.service(); err == nil || !strings.Contains(err.Error(), "no service file can hold") {
			t.Errorf("%q: %v", home, err)
		}
	}
}

func TestWhetherADaemonIsTheServices(t *testing.T) {
	for groups, want := range map[string]bool{
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/honeydew.service\n": true,
		"0::/user.slice/user-1000.slice/session-2.scope\n":                              false,
		"0::/user.slice/user@1000.service/app.slice/my-honeydew.service\n":              false,
		"": false,
	} {
		if got := inService(groups); got != want {
			t.Errorf("%q: %v", groups, got)
		}
	}
}
