package main

// What runs out or breaks without a full disk: inodes, descriptors, and a disk that fails every sync for a while.

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"honeydew/daemonpb"
)

// later keeps a job pending, so that what was acked can be looked for as it was.
func later(in *daemonpb.SubmitJobRequest) { in.RunAfter = "2100-01-01T00:00:00Z" }

// wantPending looks for every acked job.
func (r *rig) wantPending(acked []string) {
	r.t.Helper()
	for _, id := range acked {
		if j := r.job(id); j.Status != "pending" {
			r.t.Errorf("job %s, acked as pending, is %s", id, j.Status)
		}
	}
}

// useInodes makes empty files in dir until no more can be made; the function that it returns removes them.
func useInodes(t *testing.T, dir string) (free func()) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	err := os.Mkdir(filler, 0o700)
	for n := 0; err == nil; n++ {
		err = os.WriteFile(filepath.Join(filler, strconv.Itoa(n)), nil, 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(filler); err != nil {
			t.Error(err)
		}
	}
}

func TestNoInodes(t *testing.T) {
	dir := tmpfs(t, "32m,nr_inodes=64")
	r := newRig(t, dir, "").up()
	r.completes()
	free := useInodes(t, dir)
	r.completes() // what is open stays usable
	acked := []string{r.submit(query, r.uid(), later)}
	backup := filepath.Join(dir, "backup.db")
	if out, code := r.cli(r.ctx, "backup", backup); code != 1 || !strings.Contains(out, "no space left") {
		t.Errorf("a backup without an inode: %d %s", code, out)
	}
	if out, code := r.cli(r.ctx, "status"); code != 0 {
		t.Errorf("honeydew status: %d %s", code, out)
	}
	r.kill()
	if err := r.start(); err == nil {
		r.dialAgain()
		r.wantPending(acked)
		free()
	} else {
		if code := r.end(time.Second); code != 74 {
			t.Errorf("a start without an inode ends with %d: %s", code, r.stderr.String())
		}
		free()
		r.again()
	}
	r.wantPending(acked)
	r.completes()
	if out, code := r.cli(r.ctx, "backup", backup); code != 0 {
		t.Errorf("a backup afterwards: %d %s", code, out)
	}
}

func TestNoDescriptors(t *testing.T) {
	r := newRig(t, "", "")
	r.wrap = []string{"sh", "-c", `ulimit -n 64 && exec "$@"`, "sh"}
	r.up()
	r.completes()
	acked := []string{r.submit(query, r.uid(), later)}
	var taken []net.Conn
	defer func() {
		for _, c := range taken {
			c.Close()
		}
	}()
	for range 100 { // more than there are; those beyond wait in the socket's queue
		c, err := net.Dial("unix", r.path("daemon.sock"))
		r.must(err)
		taken = append(taken, c)
	}
	r.eventually("no descriptor is left", 10*time.Second, func() bool {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
		return err == nil && len(fds) >= 64
	})
	// The connection that is there goes on: each ack is a promise all the same, each refusal has a reason.
	for range 20 {
		out, err := r.client.SubmitJob(r.ctx, jobRequest(query, r.uid(), later))
		if err == nil {
			acked = append(acked, out.JobId)
		}
	}
	if !r.running() {
		t.Fatalf("the daemon ended: %s", r.stderr.String())
	}
	for _, c := range taken {
		c.Close()
	}
	taken = nil
	r.eventually("new clients are served again", 20*time.Second, func() bool {
		_, code := r.cli(r.ctx, "ping")
		return code == 0
	})
	t.Logf("%d jobs acked", len(acked))
	r.wantPending(acked)
	r.completes()
	r.kill()
	r.again()
	r.wantPending(acked)
}

// failSyncs lets every sync of the running daemon fail; done ends that, failed counts them.
func (r *rig) failSyncs() (failed func() int, done func()) {
	t := r.t
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED, nothing was tested: no strace here")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-p", strconv.Itoa(r.cmd.Process.Pid), "-o", trace, "-e", "signal=none",
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	said, err := cmd.StderrPipe()
	r.must(err)
	r.must(cmd.Start())
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		_ = cmd.Wait() // it said why not
		t.Skipf("SKIPPED, nothing was tested: strace may not trace here: %s", lines.Text())
	}
	failed = func() int {
		text, err := os.ReadFile(trace)
		r.must(err)
		return strings.Count(string(text), "(INJECTED)")
	}
	return failed, func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // strace detaches and ends; it may have ended with the daemon
		for lines.Scan() {
		}
		_ = cmd.Wait() // by the signal
	}
}

func TestFailedSyncs(t *testing.T) {
	r := newRig(t, "", "").up()
	acked := []string{r.submit(query, r.uid(), later)}
	failed, done := r.failSyncs()
	refused := 0
	for deadline := time.Now().Add(40 * time.Second); r.running() && failed() < 200 && time.Now().Before(deadline); {
		out, err := r.client.SubmitJob(r.ctx, jobRequest(query, r.uid(), later))
		if err == nil {
			acked = append(acked, out.JobId)
			continue
		}
		refused++
	}
	n := failed()
	done()
	t.Logf("%d syncs failed, %d submits were refused, %d acked", n, refused, len(acked))
	if n < 200 || len(acked) > 1 {
		t.Errorf("%d syncs failed, should be 200; %d jobs were acked on them, should be none", n, len(acked)-1)
	}
	r.eventually("a submit succeeds again", 10*time.Second, func() bool {
		_, err := r.client.SubmitJob(r.ctx, jobRequest(query, r.uid(), nil))
		return err == nil
	})
	r.wantPending(acked)
	r.completes()
	r.kill()
	r.again()
	r.wantPending(acked)
	r.completes()
}
