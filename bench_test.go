package main

// Benchmarks of the paths that users feel, through the real socket and a real file: `make bench`, compare with
// benchstat. They report jobs/s where a call is more than one job.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

// benchAPI answers every query with about 1 KiB; while gate is not nil, it waits for it.
func benchAPI(b *testing.B, gate *atomic.Pointer[chan struct{}]) string {
	filler := make([]byte, 900)
	for i := range filler {
		filler[i] = 'x'
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") == "" {
			fmt.Fprint(w, `{"data":{"login":{"accessToken":"opaque","refreshToken":"opaque2"}}}`)
			return
		}
		if g := gate.Load(); g != nil {
			select {
			case <-*g:
			case <-r.Context().Done():
				return
			}
		}
		fmt.Fprintf(w, `{"data":{"listOrganizations":["%s"]}}`, filler)
	}))
	b.Cleanup(server.Close)
	return server.URL
}

// fill stores finished and pending jobs, in that order, in the database at path.
func fill(b *testing.B, path, api string, finished, pending int) {
	s, err := openStore(path, "normal", api)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(s.update(func(t *tx) error {
		return t.exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 + ?2)
			INSERT INTO jobs (seq, id, command, payload, status, created_at, updated_at, completed_at, timeout_ms, environment, result, result_bytes)
			SELECT i, lower(hex(randomblob(8))), iif(i % 1000 = 0, 'jira.issues', 'github.commits'), '{"organization":"acme"}',
			iif(i > ?1, 'pending', 'completed'), ?3, ?3, iif(i > ?1, NULL, ?3), 30000, 'production', iif(i > ?1, NULL, '[]'), 2 FROM n`,
			finished, pending, timeText(timeNow()))
	}), s.Close()); err != nil {
		b.Fatal(err)
	}
}

// benchDaemon runs a daemon, logged in, over so many finished and pending jobs, and returns its home and a client.
func benchDaemon(b *testing.B, api string, finished, pending int) (home string, dialed func() daemonpb.DaemonClient) {
	home, err := os.MkdirTemp("", "hd")
	if err != nil {
		b.Fatal(err)
	}
	if finished+pending > 0 {
		fill(b, filepath.Join(home, "daemon.db"), api, finished, pending)
	}
	config := filepath.Join(home, "config.yaml")
	if err := os.WriteFile(config, []byte("api:\n  timeout: 10m\n  graphql_endpoint: "+api+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- runDaemon(ctx, DaemonOptions{Home: home, UserHome: home, Version: "bench", Queries: queries,
			Getenv: func(string) string { return "" }, Stderr: os.Stderr})
	}()
	dialed = func() daemonpb.DaemonClient {
		conn, err := dial(func() string { return filepath.Join(home, "daemon.sock") }, func(ctx context.Context, method string, in, out any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return invoke(ctx, method, in, out, cc, append(o, grpc.WaitForReady(true))...)
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		return daemonpb.NewDaemonClient(conn)
	}
	if _, err := dialed().Login(ctx, &daemonpb.LoginRequest{Username: "u", Password: "p"}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := os.RemoveAll(home); err != nil {
			b.Error(err)
		}
	})
	return home, dialed
}

func benchRequest(b testing.TB) *daemonpb.SubmitJobRequest {
	payload, err := structpb.NewStruct(map[string]any{"organization": "acme", "repository": "api", "startDate": "2026-01-01", "author": "ada@example.com"})
	if err != nil {
		b.Fatal(err)
	}
	return &daemonpb.SubmitJobRequest{Command: "github.commits", Payload: payload}
}

// closedGate holds all of the API's answers back until the benchmark ends.
func closedGate(b *testing.B) *atomic.Pointer[chan struct{}] {
	gate := &atomic.Pointer[chan struct{}]{}
	ch := make(chan struct{})
	gate.Store(&ch)
	return gate
}

func BenchmarkSubmit(b *testing.B) {
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			gate := closedGate(b)
			_, dialed := benchDaemon(b, benchAPI(b, gate), 0, 0)
			in := benchRequest(b)
			stubs := make([]daemonpb.DaemonClient, clients)
			for i := range stubs {
				stubs[i] = dialed()
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, stub := range stubs {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := stub.SubmitJob(context.Background(), in); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			close(*gate.Load())
		})
	}
}

func BenchmarkSubmitJobs(b *testing.B) {
	gate := closedGate(b)
	_, dialed := benchDaemon(b, benchAPI(b, gate), 0, 0)
	in := &daemonpb.SubmitJobsRequest{}
	for range 32 {
		in.Jobs = append(in.Jobs, benchRequest(b))
	}
	stub := dialed()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := stub.SubmitJobs(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(32*b.N)/b.Elapsed().Seconds(), "jobs/s")
	close(*gate.Load())
}

func BenchmarkDrain(b *testing.B) {
	gate := closedGate(b)
	_, dialed := benchDaemon(b, benchAPI(b, gate), 0, 0)
	stub := dialed()
	in := &daemonpb.SubmitJobsRequest{}
	for range 1000 {
		in.Jobs = append(in.Jobs, &daemonpb.SubmitJobRequest{Command: "organizations.names"})
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		ch := make(chan struct{})
		gate.Store(&ch)
		var last string
		for range 5 {
			out, err := stub.SubmitJobs(context.Background(), in)
			if err != nil {
				b.Fatal(err)
			}
			last = out.Jobs[len(out.Jobs)-1].JobId
		}
		watch, err := stub.WatchJob(context.Background(), &daemonpb.WatchJobRequest{JobId: last})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		close(ch)
		for {
			job, err := watch.Recv()
			if err != nil {
				b.Fatal(err)
			}
			if job.CompletedAt != "" {
				break
			}
		}
	}
	b.ReportMetric(float64(5000*b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkIdleJob is one job on an idle daemon, from the submit to its end as WatchJob tells it.
func BenchmarkIdleJob(b *testing.B) {
	_, dialed := benchDaemon(b, benchAPI(b, &atomic.Pointer[chan struct{}]{}), 0, 0)
	stub := dialed()
	for b.Loop() {
		out, err := stub.SubmitJob(context.Background(), &daemonpb.SubmitJobRequest{Command: "organizations.names"})
		if err != nil {
			b.Fatal(err)
		}
		watch, err := stub.WatchJob(context.Background(), &daemonpb.WatchJobRequest{JobId: out.JobId})
		if err != nil {
			b.Fatal(err)
		}
		for {
			job, err := watch.Recv()
			if err != nil {
				b.Fatal(err)
			}
			if job.CompletedAt != "" {
				break
			}
		}
	}
}

// BenchmarkOverJobs is what must not grow with the number of jobs: compare the two sizes.
func BenchmarkOverJobs(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		gate := closedGate(b)
		_, dialed := benchDaemon(b, benchAPI(b, gate), n, n)
		stub, ctx := dialed(), context.Background()
		if _, err := stub.GetStatus(ctx, &daemonpb.GetStatusRequest{}); err != nil { // the first one counts
			b.Fatal(err)
		}
		list := func(in *daemonpb.ListJobsRequest) func() error {
			return func() error { _, err := stub.ListJobs(ctx, in); return err }
		}
		newest, err := stub.ListJobs(ctx, &daemonpb.ListJobsRequest{Limit: 1})
		if err != nil {
			b.Fatal(err)
		}
		job := &daemonpb.GetJobStatusRequest{JobId: newest.Jobs[0].JobId}
		for _, c := range []struct {
			name string
			call func() error
		}{
			{"GetJobStatus", func() error { _, err := stub.GetJobStatus(ctx, job); return err }},
			{"GetStatus", func() error { _, err := stub.GetStatus(ctx, &daemonpb.GetStatusRequest{}); return err }},
			{"ListJobs", list(&daemonpb.ListJobsRequest{})},
			{"ListJobs/status", list(&daemonpb.ListJobsRequest{Status: statusCompleted})},
			{"ListJobs/command", list(&daemonpb.ListJobsRequest{Command: "jira.issues"})},
			{"ListJobs/both", list(&daemonpb.ListJobsRequest{Status: statusCompleted, Command: "jira.issues"})},
			{"SubmitJob", func() error { _, err := stub.SubmitJob(ctx, benchRequest(b)); return err }},
		} {
			b.Run(fmt.Sprintf("jobs=%d/%s", n, c.name), func(b *testing.B) {
				for b.Loop() {
					if err := c.call(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		close(*gate.Load())
	}
}

// BenchmarkLoadQueue is what a start does with 100,000 pending jobs beside a million finished ones.
func BenchmarkLoadQueue(b *testing.B) {
	path := filepath.Join(b.TempDir(), "daemon.db")
	fill(b, path, "", 1_000_000, 100_000)
	s, err := openStore(path, "full", "")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newQueue(QueueOptions{Store: s}); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Error(err)
	}
}

func BenchmarkSealOpen(b *testing.B) {
	s, err := openStore(filepath.Join(b.TempDir(), "daemon.db"), "full", "https://api.example.test/graphql")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	keys, err := newSealer(sealerOptions{Home: b.TempDir(), Store: s})
	if err != nil {
		b.Fatal(err)
	}
	token := strings.Repeat("t", 1000)
	b.ReportAllocs()
	for b.Loop() {
		sealed, err := keys.seal("env", "access", token)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := keys.open("env", "access", sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkQueuePushPop(b *testing.B) {
	q := &Queue{items: map[int64]*item{}, groups: map[groupKey]*group{}, delayed: itemHeap{byTime: true}}
	key := groupKey{"production", "github"}
	b.ReportAllocs()
	seq := int64(0)
	for b.Loop() {
		seq++
		q.pushLocked(key, seq, int32(seq%8), time.Time{}, nil)
		if seq > 10_000 {
			best, _ := q.bestLocked(time.Time{})
			q.removeLocked(best)
		}
	}
}

func BenchmarkCheckPayload(b *testing.B) {
	table, err := loadCommands(queries)
	if err != nil {
		b.Fatal(err)
	}
	payload := map[string]any{"organization": "acme", "repository": "api", "startDate": "-7d"}
	b.ReportAllocs()
	for b.Loop() {
		c, err := table.Lookup("github.commits")
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Check(payload); err != nil {
			b.Fatal(err)
		}
		if _, err := c.resolveDates(payload, time.Now(), time.Time{}, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadCommands(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := loadCommands(queries); err != nil {
			b.Fatal(err)
		}
	}
}
