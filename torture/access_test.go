package main

// Who gets in: another user's process, by the modes and, where those were loosened, by its credentials; and homes that
// are not the daemon's alone.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const nobody = 65534

// asNobody runs the binary as another user.
func asNobody(t *testing.T, socket string, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can become another user")
	}
	cmd := exec.Command(builtBinary, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"HONEYDEW_SOCKET=" + socket, "HONEYDEW_HOME=/nonexistent", "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("another user got in: %s", out)
	}
	return string(out)
}

func TestAnotherUserIsKeptOutByModesAndByCredentials(t *testing.T) {
	r := newRig(t, "", "")
	r.up()
	socket := filepath.Join(r.home, "daemon.sock")
	if got := asNobody(t, socket, "status"); !strings.Contains(got, "not yours to use") {
		t.Errorf("by modes: %s", got)
	}
	// The owner's mistake: everything open. The kernel still says who calls.
	for path := r.home; len(path) > len("/tmp"); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"status", "ping", "stop"} {
		if got := asNobody(t, socket, verb); !strings.Contains(got, "belongs to uid 0, and you are uid 65534") {
			t.Errorf("%s, by credentials: %s", verb, got)
		}
	}
}

func TestHomes(t *testing.T) {
	dir := shortDir(t)
	real := filepath.Join(dir, "real")
	if err := os.Mkdir(real, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(real, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	run := func(home string, args ...string) (string, error) {
		cmd := exec.Command(builtBinary, args...)
		cmd.Env = []string{"HONEYDEW_HOME=" + home, "HOME=" + dir}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(link, "start"); err != nil {
		t.Fatalf("a home that is a link: %s", out)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a loose home was left as %v (%v)", info.Mode(), err)
	}
	if out, err := run(real, "stop"); err != nil {
		t.Errorf("stop: %s", out)
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can give a home away")
	}
	if err := os.Chown(real, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if out, err := run(real, "start"); err == nil || !strings.Contains(out, "belongs to uid 65534") {
		t.Errorf("a home of another user: %s", out)
	}
}
