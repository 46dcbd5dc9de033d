package main

// What the fault tests share: the built binary, a daemon and an API for each test, and short ways to ask them.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

var builtBinary string

// TestMain takes the binary from HONEYDEW_BIN, or builds it.
func TestMain(m *testing.M) {
	code, err := func() (int, error) {
		if builtBinary = os.Getenv("HONEYDEW_BIN"); builtBinary != "" {
			return m.Run(), nil
		}
		dir, err := os.MkdirTemp("", "honeydew")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		builtBinary = filepath.Join(dir, "honeydew")
		build := exec.Command("go", "build", "-o", builtBinary, ".")
		build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build: %s", out)
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// rig is a daemon with its API.
type rig struct {
	t   *testing.T
	api *api
	*daemon
	client daemonpb.DaemonClient
	ctx    context.Context
	uids   int
}

// shortDir is a directory whose name is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newRig makes a home in dir ("": a new directory) with more in its config.yaml; the daemon is not started.
func newRig(t *testing.T, dir, more string) *rig {
	t.Helper()
	a, err := newAPI(1)
	if err != nil {
		t.Fatal(err)
	}
	a.ttl = time.Hour
	a.setCalm(true)
	t.Cleanup(a.close)
	if dir == "" {
		dir = shortDir(t)
	}
	d, err := newDaemon(builtBinary, filepath.Join(dir, "home"), config(a.URL, more))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, api: a, daemon: d, ctx: ctx}
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			text, _ := os.ReadFile(r.path("daemon.log"))
			t.Logf("stderr: %s\nlog: ...%s", r.stderr.String(), text[max(0, len(text)-1500):])
		}
	})
	conn, client, err := d.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.client = client
	return r
}

// up starts the daemon and logs in.
func (r *rig) up() *rig {
	r.t.Helper()
	r.must(r.start())
	r.must(r.login(r.ctx))
	return r
}

// again starts the daemon, and a new connection: the old one waits before it tries again.
func (r *rig) again() {
	r.t.Helper()
	r.must(r.start())
	r.dialAgain()
}

func (r *rig) dialAgain() {
	r.t.Helper()
	conn, client, err := r.dial()
	r.must(err)
	r.t.Cleanup(func() { conn.Close() })
	r.client = client
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// uid is a new organization.
func (r *rig) uid() string {
	r.uids++
	return fmt.Sprintf("u%d", r.uids)
}

// request asks for command with uid; edit, if not nil, may change it.
func jobRequest(command, uid string, edit func(*daemonpb.SubmitJobRequest)) *daemonpb.SubmitJobRequest {
	payload, _ := structpb.NewStruct(map[string]any{"organization": uid, "repository": "r"}) // strings never fail
	in := &daemonpb.SubmitJobRequest{Command: command, Payload: payload}
	if edit != nil {
		edit(in)
	}
	return in
}

func (r *rig) submit(command, uid string, edit func(*daemonpb.SubmitJobRequest)) string {
	r.t.Helper()
	out, err := r.client.SubmitJob(r.ctx, jobRequest(command, uid, edit))
	r.must(err)
	return out.JobId
}

func once(in *daemonpb.SubmitJobRequest) { in.MaxRetries = new(int32) }

func (r *rig) job(id string) *daemonpb.JobStatus {
	r.t.Helper()
	j, err := r.client.GetJobStatus(r.ctx, &daemonpb.GetJobStatusRequest{JobId: id})
	r.must(err)
	return j
}

// await waits until the job has ended.
func (r *rig) await(id string, patience time.Duration) *daemonpb.JobStatus {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if j := r.job(id); terminal(j.Status) {
			return j
		} else if time.Now().After(deadline) {
			r.t.Fatalf("job %s is still %s after %s: %s", id, j.Status, patience, j.Error)
		}
	}
}

// eventually waits until ok says yes.
func (r *rig) eventually(what string, patience time.Duration, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("after %s still not: %s", patience, what)
		}
	}
}

func (r *rig) status() *daemonpb.DaemonStatus {
	r.t.Helper()
	s, err := r.client.GetStatus(r.ctx, &daemonpb.GetStatusRequest{})
	r.must(err)
	return s
}

// completes runs a job to its end, as a sign of health.
func (r *rig) completes() {
	r.t.Helper()
	uid := r.uid()
	if j := r.await(r.submit(query, uid, nil), 20*time.Second); j.Status != "completed" || j.Result != answerOf(uid, false) {
		r.t.Fatalf("a plain job: %s %s %.100s", j.Status, j.Error, j.Result)
	}
}

// reason is the ErrorInfo's.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

func isCode(err error, code codes.Code, why string) bool {
	return status.Code(err) == code && reason(err) == why
}

// tmpfs mounts a small file system, or skips the test and says why.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := shortDir(t)
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size+",mode=700", "tmpfs", dir).CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED, nothing was tested: no tmpfs can be mounted here: %s", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return dir
}

// fill takes all the space that is left in dir; the function that it returns gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}
