package main

// What is said while somebody waits, on terminals and without, and what is said of a job that failed.

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"honeydew/daemonpb"
)

func TestALineIsRewrittenOnATerminalAlone(t *testing.T) {
	type said struct {
		after       time.Duration
		phase, text string
	}
	for _, row := range []struct {
		name  string
		width int
		said  []said
		want  string
	}{
		{"a terminal", 14, []said{{0, "a", "first"}, {1, "a", "second, and long"}, {1, "b", "\u4e16\u754c\u4e16\u754c\u4e16\u754c\x1b[2J"}},
			"\r\x1b[Kfirst\r\x1b[Ksecond, an…\r\x1b[K\u4e16\u754c\u4e16\u754c\u4e16…\r\x1b[K"},
		{"a terminal with room for a command", 42, []said{{0, "a", "paused" + toGoOn}}, "\r\x1b[Kpaused" + toGoOn + "\r\x1b[K"},
		{"a terminal without", 41, []said{{0, "a", "paused" + toGoOn}}, "\r\x1b[Kpaused\r\x1b[K"},
		{"a terminal without room for the id", 50, []said{{0, "a", "job 4k2m: held" + toGoOn + " (HTTP 503 Service)"}}, "\r\x1b[Kheld" + toGoOn + "\r\x1b[K"},
		{"a terminal, nothing said", 12, nil, ""},
		{"a pipe", 0, []said{{0, "a", "a0"}, {9 * time.Second, "a", "a9"}, {time.Second, "a", "a10"}, {9 * time.Second, "a", "a19"},
			{time.Second, "b", "b0"}, {9 * time.Second, "c", "c0"}, {time.Minute, "c", "c60"}}, "a10\nc60\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			p := &progress{out: &out, width: func() int { return row.width }, since: time.Now()}
			for _, s := range row.said {
				time.Sleep(s.after)
				p.say(s.phase, s.text)
			}
			p.clear()
			if out.String() != row.want {
				t.Errorf("%s: %q, want %q", row.name, out.String(), row.want)
			}
		})
	}
}

func TestWhatAJobWaitsForIsTold(t *testing.T) {
	in := func(d time.Duration) string { return timeText(time.Now().Add(d)) }
	busy := &daemonpb.DaemonStatus{Environment: "demo", Pending: 12, Workers: 4, BusyWorkers: 3}
	held := &daemonpb.DaemonStatus{Environment: "demo", HeldUntil: in(time.Minute), HeldReason: "HTTP 503"}
	for _, row := range []struct {
		job    *daemonpb.JobStatus
		daemon *daemonpb.DaemonStatus
		want   string
	}{
		{&daemonpb.JobStatus{Status: statusRunning, StartedAt: in(-12 * time.Second)}, nil, `running for 12s`},
		{&daemonpb.JobStatus{Status: statusPending}, nil, `pending`},
		{&daemonpb.JobStatus{Status: statusPending}, busy, `pending, one of 12; 3 of 4 workers are busy`},
		{&daemonpb.JobStatus{Status: statusPending}, &daemonpb.DaemonStatus{QueuePaused: true}, `the queue is paused; to go on: honeydew queue resume`},
		{&daemonpb.JobStatus{Status: statusPending, NextAttemptAt: in(time.Minute), ErrorCode: codeRateLimited, Error: "RATE_LIMITED: x; the API asks to wait 1m0s"}, busy,
			`held by the API until \d\d:\d\d:\d\d \S+; to go on: honeydew queue resume --now \(x\)`},
		{&daemonpb.JobStatus{Status: statusPending, Environment: "demo"}, held, `held by the API until .*; to go on: honeydew queue resume --now \(HTTP 503\)`},
		{&daemonpb.JobStatus{Status: statusPending, Environment: "other"}, held, `pending, one of .*`},
		{&daemonpb.JobStatus{Status: statusPending, NextAttemptAt: in(4 * time.Second), RetryCount: 2, MaxRetries: 4, Error: "SERVER_ERROR: x"}, busy,
			`retry 2 of 4 in \ds: SERVER_ERROR: x`},
		{&daemonpb.JobStatus{Status: statusPending, NextAttemptAt: in(2 * time.Hour)}, busy, `pending, due at .*`},
	} {
		w := &watch{job: row.job, daemon: row.daemon}
		if _, text := w.state(); !regexp.MustCompile("^" + row.want + "$").MatchString(text) {
			t.Errorf("%v: %q, want %s", row.job, text, row.want)
		}
	}
}

// slowJob is a connection to a daemon with one job, whose states come when their time has come.
type slowJob struct {
	grpc.ClientStream
	states []*daemonpb.JobStatus
	delays []time.Duration
	asked  int
}

func (s *slowJob) Invoke(_ context.Context, _ string, _, out any, _ ...grpc.CallOption) error {
	if status, ok := out.(*daemonpb.DaemonStatus); ok {
		s.asked++
		status.Workers = 4
		status.Pending = 1
	}
	return nil
}

func (s *slowJob) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return s, nil
}
func (*slowJob) SendMsg(any) error            { return nil }
func (*slowJob) CloseSend() error             { return nil }
func (*slowJob) Header() (metadata.MD, error) { return nil, nil }

func (s *slowJob) RecvMsg(out any) error {
	if len(s.states) == 0 {
		return io.EOF
	}
	time.Sleep(s.delays[0])
	proto.Merge(out.(proto.Message), s.states[0])
	s.states = s.states[1:]
	s.delays = s.delays[1:]
	return nil
}

func TestWhoWaitsWithoutATerminalHearsOfWhatLasts(t *testing.T) {
	c, _ := testCLI(t, 0)
	c.stderr = openFile(t, filepath.Join(t.TempDir(), "stderr"))
	synctest.Test(t, func(t *testing.T) {
		start := timeText(time.Now().Add(14 * time.Second))
		daemon := &slowJob{
			states: []*daemonpb.JobStatus{
				{JobId: "j", Status: statusPending},
				{JobId: "j", Status: statusRunning, StartedAt: start},
				{JobId: "j", Status: statusPending, RetryCount: 1, MaxRetries: 3, Error: "TIMEOUT: x", NextAttemptAt: timeText(time.Now().Add(time.Hour))},
				{JobId: "j", Status: statusCompleted},
			},
			delays: []time.Duration{0, 14 * time.Second, 20 * time.Second, 5 * time.Second},
		}
		c.client = daemonpb.NewDaemonClient(daemon)
		job, err := c.wait(t.Context(), "j")
		if err != nil || job.Status != statusCompleted {
			t.Fatalf("%v, %v", job, err)
		}
		if daemon.asked < 7 || daemon.asked > 11 {
			t.Errorf("asked %d times in 19 s pending", daemon.asked)
		}
	})
	said, err := os.ReadFile(c.stderr.Name())
	want := "job j: pending, one of 1; 0 of 4 workers are busy\njob j: running for 12s\n"
	if err != nil || string(said) != want {
		t.Errorf("said %q (%v), want %q", said, err, want)
	}
}

func TestEveryEndHasANextStep(t *testing.T) {
	for _, row := range []struct {
		job  *daemonpb.JobStatus
		text string
		hint string
	}{
		{&daemonpb.JobStatus{Status: statusFailed, RetryCount: 3, Error: "NETWORK_ERROR: x", ErrorCode: codeNetwork},
			"job 4k2m failed after 3 retries: NETWORK_ERROR: x", "retry it with: honeydew job retry 4k2m"},
		{&daemonpb.JobStatus{Status: statusFailed, RetryCount: 1, Error: "TIMEOUT: x", ErrorCode: codeTimeout},
			"job 4k2m failed after 1 retry: TIMEOUT: x", "--timeout"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "AUTH_EXPIRED: x", ErrorCode: codeAuthExpired, Environment: "my demo"},
			"job 4k2m failed: AUTH_EXPIRED: x", "honeydew login --environment 'my demo' && honeydew job retry 4k2m"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "AUTH_EXPIRED: " + noPassphrase, ErrorCode: codeAuthExpired, Environment: "my demo"},
			"", "logout --environment 'my demo' && honeydew login --environment 'my demo'; then: honeydew job retry 4k2m"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "AUTH_INVALID: x", ErrorCode: codeAuthInvalid}, "", "check the rights of the account"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "x", ErrorCode: codeOutcomeUnknown}, "", "look at the provider"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "x", ErrorCode: codeAPI}, "", "honeydew job show 4k2m"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "x", ErrorCode: codeBadResponse}, "", "honeydew env list"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "x", ErrorCode: codeResultTooLarge}, "", "api.max_response_mb"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "x", ErrorCode: codeInternal}, "", "honeydew logs 4k2m"},
		{&daemonpb.JobStatus{Status: statusFailed, Error: "x", ErrorCode: codeServer, RetriedBy: "9x"}, "", "honeydew job wait 9x"},
		{&daemonpb.JobStatus{Status: statusCancelled, RetryCount: 2}, "job 4k2m was cancelled", "honeydew job retry 4k2m"},
	} {
		row.job.JobId = "4k2m"
		e, _ := asError(jobError(row.job))
		if row.text != "" && e.Message != row.text || !strings.Contains(e.Hint, row.hint) {
			t.Errorf("%v: %q, hint %q", row.job, e.Message, e.Hint)
		}
	}
}
