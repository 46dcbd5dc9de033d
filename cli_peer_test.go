//go:build linux

package main

// The command line sends nothing to a socket at which another user listens.

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestWhoMaySeeAPassword(t *testing.T) {
	for _, row := range []struct {
		name     string
		listener peerInfo
		self     int
		trusted  bool
	}{
		{"the same user", peerInfo{uid: 1000, known: true}, 1000, true},
		{"root", peerInfo{uid: 0, known: true}, 1000, true},
		{"another user", peerInfo{uid: 1001, known: true}, 1000, false},
		{"another user, for root", peerInfo{uid: 1001, known: true}, 0, false},
		{"a platform that does not tell", peerInfo{uid: 1001}, 1000, true},
	} {
		err := strangerError("/h/daemon.sock", row.listener, row.self)
		if (err == nil) != row.trusted {
			t.Errorf("%s: %v", row.name, err)
		}
		if err != nil && err.Error() != "the socket /h/daemon.sock belongs to uid 1001, not to you; nothing was sent" {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// listenAs listens on a socket as another user. Only the one thread becomes that user, and it is root again afterwards.
func listenAs(t *testing.T, uid int, path string) *net.UnixListener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	become := func(uid int) {
		const unchanged = ^uintptr(0)
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, unchanged, uintptr(uid), unchanged)
		if errno != 0 {
			t.Fatal(errno)
		}
	}
	become(uid)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	become(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestNothingIsSentToAnotherUsersSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can listen as another user")
	}
	const stranger = 65534
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	home, path := filepath.Join(dir, "h"), filepath.Join(dir, "s")
	listener := listenAs(t, stranger, path)
	heard := make(chan string, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			text, _ := io.ReadAll(conn)
			heard <- string(text)
		}
	}()
	for _, args := range []string{"ping", "login --username ada --password-stdin", "start", "account me", "job wait x"} {
		p := testProcess(t, home, strings.Fields(args)...)
		inner := p.getenv
		p.getenv = func(name string) string {
			if name == "HONEYDEW_SOCKET" {
				return path
			}
			return inner(name)
		}
		got := p.run(context.Background(), t)
		want := fmt.Sprintf("the socket %s belongs to uid %d, not to you; nothing was sent", path, stranger)
		if got.code != exitFailed || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: exit %d, %s", args, got.code, got.stderr)
		}
		select {
		case text := <-heard:
			if text != "" {
				t.Errorf("%s: the stranger heard %q", args, text)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: nobody called", args)
		}
	}
}
