package main

// What a daemon that is none could make a terminal do.

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"honeydew/daemonpb"
)

const evil = "x\x1b[2J\u009b31m\u202e"

// impostor answers with texts that a terminal would obey.
type impostor struct{ daemonpb.DaemonClient }

func (impostor) ListJobs(context.Context, *daemonpb.ListJobsRequest, ...grpc.CallOption) (*daemonpb.ListJobsResponse, error) {
	job := &daemonpb.JobStatus{JobId: evil, Status: statusFailed, Error: evil, Command: evil}
	return &daemonpb.ListJobsResponse{Jobs: []*daemonpb.JobStatus{job}, NextPageToken: evil}, nil
}

func (impostor) RetryJob(context.Context, *daemonpb.RetryJobRequest, ...grpc.CallOption) (*daemonpb.RetryJobResponse, error) {
	return &daemonpb.RetryJobResponse{JobId: evil}, nil
}

func (impostor) SubmitJob(context.Context, *daemonpb.SubmitJobRequest, ...grpc.CallOption) (*daemonpb.SubmitJobResponse, error) {
	return &daemonpb.SubmitJobResponse{JobId: evil}, nil
}

func (impostor) SubmitJobs(context.Context, *daemonpb.SubmitJobsRequest, ...grpc.CallOption) (*daemonpb.SubmitJobsResponse, error) {
	return &daemonpb.SubmitJobsResponse{Jobs: []*daemonpb.SubmitJobResponse{{JobId: evil}}}, nil
}

func (impostor) ListSchedules(context.Context, *daemonpb.ListSchedulesRequest, ...grpc.CallOption) (*daemonpb.ListSchedulesResponse, error) {
	return &daemonpb.ListSchedulesResponse{Schedules: []*daemonpb.Schedule{{Name: evil, CronExpr: evil}}}, nil
}

// runVerb runs a verb against a fake daemon and returns what it printed.
func runVerb(t *testing.T, client daemonpb.DaemonClient, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	c, out := testCLI(t, 80)
	c.client = client
	c.home = t.TempDir()
	c.stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.stderr.Close()
	v, rest, err := c.find(args)
	if err != nil || v == nil {
		t.Fatalf("%q: no verb (%v)", args, err)
	}
	f := flag.NewFlagSet(v.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	act := v.declare(f)
	words, err := v.parse(f, rest)
	if err == nil {
		err = act(t.Context(), words)
	}
	if flushErr := c.out.Flush(); flushErr != nil {
		t.Fatal(flushErr)
	}
	said, readErr := os.ReadFile(c.stderr.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return out.String(), string(said), err
}

// cliRun is what one run of the command line left behind.
type cliRun struct {
	code           int
	stdout, stderr string
}

// testProcess is a process whose home is the given one, and that prints to files.
func testProcess(t *testing.T, home string, args ...string) process {
	t.Helper()
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	vars := map[string]string{"HONEYDEW_HOME": home, "HOME": filepath.Dir(home)}
	return process{
		args:       args,
		executable: "/nonexistent/honeydew",
		getenv:     func(name string) string { return vars[name] },
		userHome:   filepath.Dir(home),
		stdin:      file("stdin"),
		stdout:     file("stdout"),
		stderr:     file("stderr"),
		queries:    queries,
		version:    "1.2.3",
	}
}

// run runs the command line.
func (p process) run(ctx context.Context, t *testing.T) cliRun {
	t.Helper()
	code := runCLI(ctx, p)
	read := func(f *os.File) string {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return cliRun{
		code:   code,
		stdout: read(p.stdout),
		stderr: read(p.stderr),
	}
}

func TestAnImpostorCannotDriveTheTerminal(t *testing.T) {
	for _, line := range []string{
		"job list --limit 1",
		"job retry x",
		"job retry x y",
		"submit account.me",
		"account me --detach",
		"schedule list",
		"__complete schedule run x",
		"__complete job show x",
	} {
		stdout, stderr, err := runVerb(t, impostor{}, strings.Fields(line)...)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if stdout == "" || strings.ContainsAny(stdout+stderr, "\x1b\u009b\u202e") {
			t.Errorf("%s prints %q and %q", line, stdout, stderr)
		}
	}
}
