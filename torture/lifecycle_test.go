package main

// Starts and stops under bad conditions: many at once, stale files, signals at the wrong time, clients that hang.

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"honeydew/daemonpb"
)

// daemons are the processes that run as the daemon of r's home.
func (r *rig) daemons() (pids []int) {
	r.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	r.must(err)
	if len(names) == 0 {
		r.t.Skip("SKIPPED, nothing was tested: no /proc here")
	}
	for _, name := range names {
		env, err1 := os.ReadFile(name)
		line, err2 := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		args := strings.Split(string(line), "\x00")
		if err1 != nil || err2 != nil || len(args) < 2 || args[1] != "daemon" {
			continue
		}
		if strings.Contains("\x00"+string(env), "\x00HONEYDEW_HOME="+r.home+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name))) // digits, by the pattern
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestFiftyStarts(t *testing.T) {
	r := newRig(t, "", "")
	t.Cleanup(func() {
		for _, pid := range r.daemons() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // one of ours; it may just have ended
		}
	})
	for round := range 2 { // in a new home, and in one with stale files
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if out, code := r.cli(r.ctx, "start"); code != 0 {
					t.Errorf("start %d: %d %s", i, code, out)
				}
			})
		}
		wg.Wait()
		pids := r.daemons()
		if len(pids) != 1 {
			t.Fatalf("%d daemons: %v", len(pids), pids)
		}
		if text, err := os.ReadFile(r.path("daemon.pid")); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(pids[0]) {
			t.Errorf("daemon.pid: %q instead of %d, %v", text, pids[0], err)
		}
		if round == 0 {
			r.must(syscall.Kill(pids[0], syscall.SIGKILL))
			r.eventually("it is gone", 5*time.Second, func() bool { return len(r.daemons()) == 0 })
		}
	}
	if out, code := r.cli(r.ctx, "stop"); code != 0 || len(r.daemons()) != 0 {
		t.Errorf("stop: %d %s", code, out)
	}
	for _, name := range []string{"daemon.sock", "daemon.pid"} {
		if _, err := os.Lstat(r.path(name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}

// TestRecycledPID: what lies about from a daemon long dead harms neither a start nor the process that has its PID now.
func TestRecycledPID(t *testing.T) {
	r := newRig(t, "", "")
	bystander := exec.Command("sleep", "300")
	r.must(bystander.Start())
	t.Cleanup(func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }) // it ends by that
	r.must(os.WriteFile(r.path("daemon.pid"), []byte(strconv.Itoa(bystander.Process.Pid)+"\n"), 0o600))
	r.must(os.WriteFile(r.path("daemon.lock"), nil, 0o600))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.path("daemon.sock"), Net: "unix"})
	r.must(err)
	l.SetUnlinkOnClose(false)
	l.Close()
	if out, code := r.cli(r.ctx, "stop"); code != 0 || !strings.Contains(out, "not running") {
		t.Errorf("stop without a daemon: %d %s", code, out)
	}
	if out, code := r.cli(r.ctx, "status"); code != 3 {
		t.Errorf("status without a daemon: %d %s", code, out)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("the process that has the PID now was ended")
	}
	r.up()
	r.completes()
	if text, _ := os.ReadFile(r.path("daemon.pid")); strings.TrimSpace(string(text)) != strconv.Itoa(r.cmd.Process.Pid) {
		t.Errorf("daemon.pid: %s", text)
	}
	if code := r.stop(10 * time.Second); code != 0 {
		t.Errorf("stop: %d", code)
	}
}

// TestTermDuringStart: SIGTERM at any moment of a start ends it, and the next start is well.
func TestTermDuringStart(t *testing.T) {
	r := newRig(t, "", "").up()
	id := r.submit(query, "kept", func(in *daemonpb.SubmitJobRequest) { in.RunAfter = "2100-01-01T00:00:00Z" })
	r.stop(10 * time.Second)
	ends := map[int]int{}
	for range 40 {
		r.must(r.spawn())
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		code := r.stop(10 * time.Second)
		ends[code]++
		if code != 0 && code != -1 {
			t.Errorf("exit %d: %s", code, r.stderr.String())
		}
	}
	t.Logf("exit codes (-1: the signal came before anybody listened): %v", ends)
	r.again()
	if j := r.job(id); j.Status != "pending" {
		t.Errorf("the job is %s", j.Status)
	}
	r.completes()
}

func TestSecondSignal(t *testing.T) {
	r := newRig(t, "", "daemon: {shutdown_timeout: 60s}\n").up()
	open := r.api.gate("slow")
	id := r.submit(query, "slow", func(in *daemonpb.SubmitJobRequest) { in.Timeout = "5m" })
	clone := r.submit(mutation, "slow-clone", nil)
	r.await(clone, 5*time.Second)
	r.eventually("the request arrives", 5*time.Second, func() bool { return r.api.fate("slow").requests == 1 })
	r.must(r.cmd.Process.Signal(syscall.SIGTERM))
	if code := r.end(time.Second); code != -2 {
		t.Fatalf("the first signal ends a running job at once: %d", code)
	}
	r.must(r.cmd.Process.Signal(syscall.SIGTERM))
	if code := r.end(time.Second); code == -2 {
		t.Error("the second signal does not end it")
	}
	open()
	r.again()
	if j := r.await(id, 10*time.Second); j.Status != "completed" {
		t.Errorf("the job: %s %s", j.Status, j.Error)
	}
}

// TestStopWithinTimeout: neither a job that does not end nor a client that does not read keeps the daemon alive.
func TestStopWithinTimeout(t *testing.T) {
	r := newRig(t, "", "daemon: {shutdown_timeout: 4s}\n").up()
	uid := ""
	for i := 0; len(answerOf(uid, false)) < 3_000_000; i++ {
		uid = fmt.Sprintf("large%d", i)
	}
	large := r.submit(query, uid, nil)
	r.await(large, 20*time.Second)
	open := r.api.gate("stuck")
	defer open()
	stuck := r.submit(query, "stuck", func(in *daemonpb.SubmitJobRequest) { in.Timeout = "5m" })
	r.eventually("the request arrives", 5*time.Second, func() bool { return r.api.fate("stuck").requests == 1 })
	for range 20 {
		conn, client, err := r.dial()
		r.must(err)
		defer conn.Close()
		_, err = client.GetJobResult(r.ctx, &daemonpb.GetJobResultRequest{JobId: large}) // and never Recv
		r.must(err)
		_, err = client.WatchJob(r.ctx, &daemonpb.WatchJobRequest{JobId: stuck})
		r.must(err)
	}
	// And one that says nothing at all.
	silent, err := net.Dial("unix", r.path("daemon.sock"))
	r.must(err)
	defer silent.Close()
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	code := r.stop(30 * time.Second)
	took := time.Since(began)
	t.Logf("the stop took %s of 4s, exit %d %s", took.Round(10*time.Millisecond), code, r.stderr.String())
	if code != 0 || took > 4500*time.Millisecond {
		t.Errorf("the stop took %s, exit %d", took, code)
	}
	open()
	r.again()
	if j := r.await(stuck, 10*time.Second); j.Status != "completed" {
		t.Errorf("the job that was given up: %s %s", j.Status, j.Error)
	}
}

// TestForcedStop abandons what runs, at once.
func TestForcedStop(t *testing.T) {
	r := newRig(t, "", "").up()
	openQuery, openClone := r.api.gate("q"), r.api.gate("m")
	defer openClone()
	defer openQuery()
	q, m := r.submit(query, "q", nil), r.submit(mutation, "m", nil)
	r.eventually("both arrive", 5*time.Second, func() bool { return r.api.fate("q").requests == 1 && r.api.fate("m").requests == 1 })
	began := time.Now()
	if out, code := r.cli(r.ctx, "stop", "--force"); code != 0 || time.Since(began) > 3*time.Second {
		t.Errorf("stop --force took %s: %d %s", time.Since(began), code, out)
	}
	openQuery()
	openClone()
	r.again()
	if j := r.await(q, 10*time.Second); j.Status != "completed" {
		t.Errorf("the query: %s %s", j.Status, j.Error)
	}
	if j := r.await(m, 10*time.Second); j.ErrorCode != "OUTCOME_UNKNOWN" || r.api.fate("m").requests != 1 {
		t.Errorf("the mutation: %s %s, sent %d times", j.Status, j.Error, r.api.fate("m").requests)
	}
}

// TestLateFailure: a start that fails when almost everything runs ends, and says why.
func TestLateFailure(t *testing.T) {
	for _, name := range []string{"daemon.sock", "daemon.pid"} {
		r := newRig(t, "", "")
		r.must(os.Mkdir(r.path(name), 0o700))
		r.must(r.spawn())
		if code := r.end(5 * time.Second); code <= 0 {
			t.Errorf("a directory in place of %s: exit %d (-2: it hangs)", name, code)
		}
		t.Logf("exit %d: %s", r.cmd.ProcessState.ExitCode(), strings.TrimSpace(r.stderr.String()))
	}
}
