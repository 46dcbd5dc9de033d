package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

// rpcAPI is a Honeydew API that answers every operation: with what the test says for a root field, else with an empty
// object.
type rpcAPI struct {
	*httptest.Server
	commands *Commands

	mu      sync.Mutex
	answers map[string]func(w http.ResponseWriter, r *http.Request, variables map[string]any) // by command
	calls   map[string]int
}

func newRPCAPI(t *testing.T) *rpcAPI {
	t.Helper()
	commands, err := loadCommands(queries)
	if err != nil {
		t.Fatal(err)
	}
	a := &rpcAPI{commands: commands, calls: map[string]int{}, answers: map[string]func(http.ResponseWriter, *http.Request, map[string]any){}}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	a.answer("auth.login", func(w http.ResponseWriter, _ *http.Request, v map[string]any) {
		if v["password"] != "correct" {
			writeAnswer(w, `{"errors":[{"message":"wrong password"}]}`)
			return
		}
		writeAnswer(w, fmt.Sprintf(`{"data":{"login":{"accessToken":%q,"refreshToken":%q}}}`, testToken(time.Hour), testToken(24*time.Hour)))
	})
	return a
}

func writeAnswer(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, text) // a client that has gone is no matter
}

// testToken is a JWT that expires after life.
func testToken(life time.Duration) string {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, time.Now().Add(life).Unix()))
	return "e30." + claims + ".c2ln"
}

func (a *rpcAPI) answer(command string, fn func(w http.ResponseWriter, r *http.Request, variables map[string]any)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[command] = fn
}

// data answers command with the root field's value.
func (a *rpcAPI) data(command, value string) {
	field := a.commands.byName[command].Field
	a.answer(command, func(w http.ResponseWriter, _ *http.Request, _ map[string]any) {
		writeAnswer(w, `{"data":{"`+field+`":`+value+`}}`)
	})
}

// block lets command's requests wait until the returned function is called or they are given up.
func (a *rpcAPI) block(t *testing.T, command string) (release func()) {
	gate := make(chan struct{})
	field := a.commands.byName[command].Field
	a.answer(command, func(w http.ResponseWriter, r *http.Request, _ map[string]any) {
		select {
		case <-gate:
			writeAnswer(w, `{"data":{"`+field+`":{}}}`)
		case <-r.Context().Done():
		}
	})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	return release
}

func (a *rpcAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Query     json.RawMessage
		Variables map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for name, c := range a.commands.byName {
		if c.Query != string(in.Query) {
			continue
		}
		a.mu.Lock()
		a.calls[name]++
		fn := a.answers[name]
		a.mu.Unlock()
		if fn != nil {
			fn(w, r, in.Variables)
		} else {
			writeAnswer(w, `{"data":{"`+c.Field+`":{"success":true}}}`)
		}
		return
	}
	http.Error(w, "no such query", http.StatusBadRequest)
}

// rpcRig is the daemon's server with all of its parts, on a socket of its own, and a client.
type rpcRig struct {
	*testing.T
	daemonpb.DaemonClient
	conn      *grpc.ClientConn
	api       *rpcAPI
	d         *Daemon
	server    *rpcServer
	log       *syncBuffer
	shutdowns chan bool // force, of each Shutdown
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newRPCRig(t *testing.T, change func(*Config)) *rpcRig {
	t.Helper()
	home := shortDir(t)
	r := &rpcRig{T: t, api: newRPCAPI(t), log: &syncBuffer{}, shutdowns: make(chan bool, 2)}
	cfg := defaultConfig(home)
	cfg.API.GraphQLEndpoint, cfg.Storage.Synchronous = r.api.URL, "normal"
	if change != nil {
		change(cfg)
	}
	d := &Daemon{DaemonOptions: DaemonOptions{Home: home, Version: "1.2.3", Queries: queries, Getenv: func(string) string { return "" }},
		parts: parts{cfg: cfg, log: slog.New(slog.NewJSONHandler(r.log, nil))}}
	r.d = d
	for _, step := range []func() error{d.openDatabase, d.build} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.run(ctx)
	r.server = &rpcServer{parts: d.parts, scheduler: d.scheduler, version: "1.2.3", startedAt: timeNow(), problems: func() []string { return nil }, shutdown: func(force bool) { r.shutdowns <- force }}
	stop := r.serve(r.server, cfg.Daemon.SocketPath)
	t.Cleanup(func() {
		cancel()
		d.queue.Stop()
		stop()
		d.forced = ctx // which has ended
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// serve serves s on path and connects the rig's client to it.
func (r *rpcRig) serve(s *rpcServer, path string) (stop func()) {
	r.Helper()
	listener, err := listenSocket(path)
	if err != nil {
		r.Fatal(err)
	}
	server := newGRPCServer(s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if r.conn, err = grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()); err != nil {
		r.Fatal(err)
	}
	r.DaemonClient = daemonpb.NewDaemonClient(r.conn)
	conn := r.conn
	return func() {
		conn.Close()
		server.Stop()
		<-served
	}
}

func (r *rpcRig) login() {
	r.Helper()
	if _, err := r.Login(r.Context(), &daemonpb.LoginRequest{Username: "ann", Password: "correct"}); err != nil {
		r.Fatal(err)
	}
}

func payloadOf(t testing.TB, v map[string]any) *structpb.Struct {
	t.Helper()
	p, err := structpb.NewStruct(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// commits is a good request.
func commits(t testing.TB) *daemonpb.SubmitJobRequest {
	return &daemonpb.SubmitJobRequest{Command: "github.commits", Payload: payloadOf(t, map[string]any{"organization": "acme", "repository": "api"})}
}

func (r *rpcRig) submit(in *daemonpb.SubmitJobRequest) string {
	r.Helper()
	out, err := r.SubmitJob(r.Context(), in)
	if err != nil {
		r.Fatal(err)
	}
	return out.JobId
}

// watch returns the states that WatchJob sends.
func (r *rpcRig) watch(id string) (all []*daemonpb.JobStatus) {
	r.Helper()
	stream, err := r.WatchJob(r.Context(), &daemonpb.WatchJobRequest{JobId: id})
	if err != nil {
		r.Fatal(err)
	}
	for {
		j, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			r.Fatal(err)
		}
		all = append(all, j)
	}
}

// wait returns the job as it ended.
func (r *rpcRig) wait(id string) *daemonpb.JobStatus {
	r.Helper()
	all := r.watch(id)
	return all[len(all)-1]
}

// waitRunning returns when the job runs.
func (r *rpcRig) waitRunning(id string) {
	r.Helper()
	stream, err := r.WatchJob(r.Context(), &daemonpb.WatchJobRequest{JobId: id})
	if err != nil {
		r.Fatal(err)
	}
	for {
		if j, err := stream.Recv(); err != nil {
			r.Fatal(err)
		} else if j.Status == statusRunning {
			return
		}
	}
}

func (r *rpcRig) result(id string) (result []byte, largest int, err error) {
	r.Helper()
	stream, err := r.GetJobResult(r.Context(), &daemonpb.GetJobResultRequest{JobId: id})
	if err != nil {
		return nil, 0, err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return result, largest, nil
		} else if err != nil {
			return nil, 0, err
		}
		result, largest = append(result, chunk.Data...), max(largest, len(chunk.Data))
	}
}

// reasonOf reads a status as clients do.
func reasonOf(t testing.TB, err error) (code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.Domain != "honeydew" {
				t.Errorf("domain %q", info.Domain)
			}
			reason = info.Reason
		}
	}
	return st.Code(), reason
}

func wantError(t testing.TB, name string, err error, code codes.Code, reason, text string) {
	t.Helper()
	gotCode, gotReason := reasonOf(t, err)
	if gotCode != code || gotReason != reason || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("%s: %s %s %v, want %s %s with %q", name, gotCode, gotReason, err, code, reason, text)
	}
}

func TestJobGoesFromSubmitToItsResult(t *testing.T) {
	r := newRPCRig(t, nil)
	r.login()
	r.api.data("github.commits", `{"commits": [ {"sha":"a\u0000","n":9007199254740993} ]}`)
	in := commits(t)
	in.Priority, in.Timeout = 7, "90s"
	in.Payload.Fields["startDate"] = structpb.NewStringValue("2026-01-02")
	id := r.submit(in)
	states := r.watch(id)
	last := states[len(states)-1]
	for i, s := range states[:len(states)-1] {
		if s.Status != statusPending && s.Status != statusRunning {
			t.Errorf("state %d is %s", i, s.Status)
		}
	}
	got, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: id[:15]})
	if err != nil || !proto.Equal(got, last) {
		t.Fatalf("%v, want what the watch ended with: %v (%v)", got, last, err)
	}
	if got.Status != statusCompleted || got.Result != `{"commits": [ {"sha":"a\u0000","n":9007199254740993} ]}` || got.ResultBytes != int64(len(got.Result)) ||
		got.ResultOmitted || got.Command != "github.commits" || got.Priority != 7 || got.Environment != "production" || got.MaxRetries != 3 || got.Error != "" ||
		got.Payload.Fields["startDate"].GetStringValue() != "2026-01-02" {
		t.Fatalf("%v", got)
	}
	for name, text := range map[string]string{"created_at": got.CreatedAt, "updated_at": got.UpdatedAt, "started_at": got.StartedAt, "completed_at": got.CompletedAt} {
		if _, err := time.Parse(timeLayout, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got.NextAttemptAt != "" || got.Schedule != "" {
		t.Errorf("unset fields: %v", got)
	}
	if result, _, err := r.result(id); err != nil || string(result) != got.Result {
		t.Errorf("streamed: %q (%v)", result, err)
	}
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	m, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return m.New().Interface()
}

// Every typed RPC, from the descriptor: adding one to daemon.proto puts it under this test.
func TestTypedRPCsSubmitTheirCommandWithTheirArguments(t *testing.T) {
	r := newRPCRig(t, nil)
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	methods, typed := daemonpb.File_daemon_proto.Services().ByName("Daemon").Methods(), 0
	for i := range methods.Len() {
		m := methods.Get(i)
		name := proto.GetExtension(m.Options(), daemonpb.E_Command).(string)
		if name == "" {
			continue
		}
		typed++
		c, err := r.api.commands.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		fields := m.Input().Fields()
		if fields.Len() != len(c.Args)+1 {
			t.Errorf("%s has %d fields, %s has %d arguments", m.Name(), fields.Len()-1, name, len(c.Args))
			continue
		}
		in := newMessage(t, m.Input())
		want := map[string]any{}
		for k, a := range c.Args {
			f := fields.ByNumber(protoreflect.FieldNumber(k + 1))
			if f == nil || f.JSONName() != a.Name {
				t.Errorf("%s: field %d is not %s", m.Name(), k+1, a.Name)
				continue
			}
			value := any(fmt.Sprintf("value %d", k))
			switch {
			case a.isDate():
				value = fmt.Sprintf("2026-01-%02d", k+1)
			case a.Type == "Boolean":
				value = true
			}
			want[a.Name] = value
			in.ProtoReflect().Set(f, protoreflect.ValueOf(value))
		}
		priority := fields.ByNumber(15)
		if priority == nil || priority.Name() != "priority" {
			t.Fatalf("%s: field 15 is no priority", m.Name())
		}
		in.ProtoReflect().Set(priority, protoreflect.ValueOfInt32(int32(i+1)))
		out := newMessage(t, m.Output())
		if err := r.conn.Invoke(t.Context(), "/honeydew.Daemon/"+string(m.Name()), in, out); err != nil {
			t.Errorf("%s: %v", m.Name(), err)
			continue
		}
		id := out.ProtoReflect().Get(m.Output().Fields().ByNumber(1)).String()
		got, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: id})
		if err != nil || got.Command != name || got.Priority != int32(i+1) || !proto.Equal(got.Payload, payloadOf(t, want)) {
			t.Errorf("%s submitted %v, want %s with %v (%v)", m.Name(), got, name, want, err)
		}
		required := slices.ContainsFunc(c.Args, func(a Argument) bool { return a.Required })
		if err := r.conn.Invoke(t.Context(), "/honeydew.Daemon/"+string(m.Name()), &daemonpb.PingRequest{}, out); (codes.InvalidArgument == status.Code(err)) != required {
			t.Errorf("%s without arguments: %v", m.Name(), err)
		}
	}
	if typed != 18 {
		t.Errorf("%d typed RPCs, the contract has 18 beside Login", typed)
	}
}

func TestPayloadRules(t *testing.T) {
	r := newRPCRig(t, nil)
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	base := func(key string, v any) *structpb.Struct {
		p := map[string]any{"organization": "acme", "repository": "api"}
		if key != "" {
			p[key] = v
		}
		return payloadOf(t, p)
	}
	many := base("", nil)
	for i := range 100_000 {
		many.Fields[fmt.Sprint("k", i)] = structpb.NewNullValue()
	}
	nan := base("", nil)
	nan.Fields["includeDiff"] = structpb.NewNumberValue(math.NaN())
	for _, c := range []struct {
		name    string
		payload *structpb.Struct
		text    string
	}{
		{"unknown key", base("organisation", "acme"), `"organisation"`},
		{"missing", payloadOf(t, map[string]any{"organization": "acme"}), "repository is missing"},
		{"empty", base("repository", ""), "repository is missing"},
		{"no payload", nil, "is missing"},
		{"number for a string", base("author", 7.0), "author must be a string"},
		{"list for a string", base("author", []any{"a"}), "author must be a string"},
		{"object for a string", base("author", map[string]any{}), "author must be a string"},
		{"string for a boolean", base("includeDiff", "true"), "includeDiff must be true or false"},
		{"null for a required one", base("organization", nil), "organization must be a string"},
		{"no date", base("startDate", "tomorrow"), "startDate"},
		{"last-success outside of a schedule", base("startDate", "last-success"), "startDate"},
		{"over 1 MiB", base("author", strings.Repeat("x", 1<<20)), "at most 1048576"},
		{"far over 1 MiB", base("author", strings.Repeat("x", 6<<20)), "at most 1048576"},
		{"large as a message alone", base("author", slices.Repeat([]any{0.0}, 400_000)), "at most 1048576"},
		{"100,000 keys", many, "has no argument"},
		{"not a number", nan, "includeDiff must be true or false"},
		{"key with control characters", base("a\x00\x1b[2J", "x"), `\x00\x1b`},
	} {
		in := commits(t)
		in.Payload = c.payload
		_, err := r.SubmitJob(t.Context(), in)
		wantError(t, c.name, err, codes.InvalidArgument, codeInvalidArgument, c.text)
		_, err = r.SubmitJobs(t.Context(), &daemonpb.SubmitJobsRequest{Jobs: []*daemonpb.SubmitJobRequest{commits(t), in}})
		wantError(t, c.name+" in a batch", err, codes.InvalidArgument, codeInvalidArgument, "job 2 of the batch: ")
		_, err = r.ScheduleJob(t.Context(), &daemonpb.ScheduleJobRequest{Name: c.name, CronExpr: "@daily", Command: in.Command, Payload: c.payload})
		if c.name != "last-success outside of a schedule" {
			wantError(t, c.name+" in a schedule", err, codes.InvalidArgument, codeInvalidArgument, "")
		}
	}
	if list, err := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{}); err != nil || len(list.Jobs) != 0 {
		t.Fatalf("%d jobs were stored (%v)", len(list.Jobs), err)
	}
	for name, value := range map[string]string{"NUL": "a\x00b", "escapes": "\x1b[31m\r\n\t", "quotes": `"\'`, "separators": "\u2028\u2029 é 𝄞", "almost 1 MiB": strings.Repeat("y", 1<<20-100)} {
		in := commits(t)
		in.Payload.Fields["author"] = structpb.NewStringValue(value)
		got, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: r.submit(in)})
		if err != nil || !proto.Equal(got.Payload, in.Payload) {
			t.Errorf("%s came back changed (%v)", name, err)
		}
	}
	in := commits(t)
	in.Payload.Fields["author"] = structpb.NewNullValue() // not given
	r.submit(in)
}

func TestSubmitRefusals(t *testing.T) {
	r := newRPCRig(t, func(c *Config) { c.Queue.MaxPending = 3 })
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change *daemonpb.SubmitJobRequest
		code   codes.Code
		reason string
		text   string
	}{
		{"mistyped command", &daemonpb.SubmitJobRequest{Command: "github.comits"}, codes.InvalidArgument, codeUnknownCommand, "github.commits"},
		{"login as a job", &daemonpb.SubmitJobRequest{Command: "auth.login"}, codes.InvalidArgument, codeUnknownCommand, "command"},
		{"environment", &daemonpb.SubmitJobRequest{Environment: "nowhere"}, codes.NotFound, codeNotFound, "nowhere"},
		{"negative retries", &daemonpb.SubmitJobRequest{MaxRetries: proto.Int32(-1)}, codes.InvalidArgument, codeInvalidArgument, "max retries"},
		{"endless retries", &daemonpb.SubmitJobRequest{MaxRetries: proto.Int32(101)}, codes.InvalidArgument, codeInvalidArgument, "max retries"},
		{"no duration", &daemonpb.SubmitJobRequest{Timeout: "90"}, codes.InvalidArgument, codeInvalidArgument, "timeout"},
		{"no time at all", &daemonpb.SubmitJobRequest{Timeout: "0s"}, codes.InvalidArgument, codeInvalidArgument, "timeout"},
		{"days", &daemonpb.SubmitJobRequest{Timeout: "25h"}, codes.InvalidArgument, codeInvalidArgument, "timeout"},
		{"no time", &daemonpb.SubmitJobRequest{RunAfter: "tomorrow"}, codes.InvalidArgument, codeInvalidArgument, "run after"},
		{"the year 10000 in UTC", &daemonpb.SubmitJobRequest{RunAfter: "9999-12-31T23:59:59-23:00"}, codes.InvalidArgument, codeInvalidArgument, "run after"},
		{"before the year 0 in UTC", &daemonpb.SubmitJobRequest{RunAfter: "0000-01-01T00:00:00+23:00"}, codes.InvalidArgument, codeInvalidArgument, "run after"},
		{"long key", &daemonpb.SubmitJobRequest{IdempotencyKey: strings.Repeat("k", 256)}, codes.InvalidArgument, codeInvalidArgument, "idempotency key"},
		{"no command", nil, codes.InvalidArgument, codeUnknownCommand, "command"},
	} {
		in := commits(t)
		if c.change == nil {
			in.Command = ""
		} else {
			proto.Merge(in, c.change)
		}
		_, err := r.SubmitJob(t.Context(), in)
		wantError(t, c.name, err, c.code, c.reason, c.text)
		_, err = r.SubmitJobs(t.Context(), &daemonpb.SubmitJobsRequest{Jobs: []*daemonpb.SubmitJobRequest{commits(t), in}})
		wantError(t, c.name+" in a batch", err, c.code, c.reason, "job 2 of the batch: ")
	}
	keyed := commits(t)
	keyed.IdempotencyKey = "key"
	keyed.Payload.Fields["startDate"] = structpb.NewStringValue("-36h") // resolves to another instant each time
	first := r.submit(keyed)
	if again, err := r.SubmitJob(t.Context(), keyed); err != nil || !again.Existing || again.JobId != first {
		t.Errorf("the same key and job: %v, %v", again, err)
	}
	keyed.Command = "github.pullRequests"
	_, err := r.SubmitJob(t.Context(), keyed)
	wantError(t, "the key for another job", err, codes.AlreadyExists, codeAlreadyExists, "key")
	_, err = r.SubmitJobs(t.Context(), &daemonpb.SubmitJobsRequest{Jobs: []*daemonpb.SubmitJobRequest{commits(t), commits(t), commits(t)}})
	wantError(t, "queue full", err, codes.ResourceExhausted, codeQueueFull, "max_pending")
	if out, err := r.SubmitJobs(t.Context(), &daemonpb.SubmitJobsRequest{Jobs: []*daemonpb.SubmitJobRequest{commits(t), commits(t)}}); err != nil || len(out.Jobs) != 2 || out.Jobs[0].JobId == out.Jobs[1].JobId {
		t.Errorf("a batch: %v, %v", out, err)
	}
	if out, err := r.SubmitJobs(t.Context(), &daemonpb.SubmitJobsRequest{}); err != nil || len(out.Jobs) != 0 {
		t.Errorf("an empty batch: %v, %v", out, err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	r := newRPCRig(t, nil)
	release := r.api.block(t, "jira.issues")
	r.login()
	done := r.submit(commits(t))
	r.wait(done)
	running := r.submit(&daemonpb.SubmitJobRequest{Command: "jira.issues", Payload: payloadOf(t, map[string]any{"organization": "acme"})})
	r.waitRunning(running)
	ctx := t.Context()
	if _, err := r.ScheduleJob(ctx, &daemonpb.ScheduleJobRequest{Name: "taken", CronExpr: "@daily", Command: "organizations.list"}); err != nil {
		t.Fatal(err)
	}
	existing := filepath.Join(r.d.Home, "existing")
	if err := os.WriteFile(existing, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	schedule := func(change *daemonpb.ScheduleJobRequest) proto.Message {
		in := &daemonpb.ScheduleJobRequest{Name: "s", CronExpr: "@daily", Command: "organizations.list"}
		proto.Merge(in, change)
		return in
	}
	type refusal struct {
		in   proto.Message
		text string
	}
	for _, c := range []struct {
		code     codes.Code
		reason   string
		refusals []refusal
	}{
		{codes.NotFound, codeNotFound, []refusal{
			{&daemonpb.CancelJobRequest{JobId: "zzz"}, "zzz"},
			{&daemonpb.RetryJobRequest{JobId: "zzz"}, ""},
			{&daemonpb.GetJobStatusRequest{JobId: "zzz"}, ""},
			{&daemonpb.ListJobsRequest{Schedule: "zzz"}, `no schedule "zzz"`},
			{&daemonpb.WatchJobRequest{JobId: "zzz"}, ""},
			{&daemonpb.GetJobResultRequest{JobId: "zzz"}, ""},
			{schedule(&daemonpb.ScheduleJobRequest{Environment: "nowhere"}), "nowhere"},
			{&daemonpb.UnscheduleJobRequest{Name: "zzz"}, ""},
			{&daemonpb.SetScheduleEnabledRequest{Name: "zzz"}, ""},
			{&daemonpb.TriggerScheduleRequest{Name: "zzz"}, ""},
			{&daemonpb.LoginRequest{Username: "a", Password: "b", Environment: "zzz"}, "zzz"},
			{&daemonpb.LogoutRequest{Environment: "zzz"}, ""},
			{&daemonpb.GetAuthStatusRequest{Environment: "zzz"}, ""},
			{&daemonpb.RemoveEnvironmentRequest{Name: "zzz"}, ""},
			{&daemonpb.SetActiveEnvironmentRequest{Name: "zzz"}, ""},
		}},
		{codes.FailedPrecondition, codeFailedPrecondition, []refusal{
			{&daemonpb.CancelJobRequest{JobId: done}, "ended"},
			{&daemonpb.RetryJobRequest{JobId: done}, "completed"},
			{&daemonpb.RetryJobRequest{JobId: running}, ""},
			{&daemonpb.GetJobResultRequest{JobId: running}, "running"},
			{&daemonpb.RemoveEnvironmentRequest{Name: "production"}, "active"},
		}},
		{codes.AlreadyExists, codeAlreadyExists, []refusal{
			{&daemonpb.BackupRequest{Path: existing}, "existing"},
			{&daemonpb.BackupRequest{Path: r.d.cfg.Storage.DatabasePath}, ""},
			{schedule(&daemonpb.ScheduleJobRequest{Name: "taken"}), "taken"},
			{&daemonpb.AddEnvironmentRequest{Name: "production", BaseUrl: "https://x.test"}, "production"},
		}},
		{codes.Unauthenticated, codeLoginRefused, []refusal{
			{&daemonpb.LoginRequest{Username: "a", Password: "hunter2"}, "wrong password"},
		}},
		{codes.InvalidArgument, codeUnknownCommand, []refusal{
			{schedule(&daemonpb.ScheduleJobRequest{Command: "x"}), ""},
			{&daemonpb.ListJobsRequest{Command: "github.comits"}, "github.commits"},
		}},
		{codes.InvalidArgument, codeInvalidArgument, []refusal{
			{&daemonpb.CancelJobRequest{}, "job id"},
			{&daemonpb.ListJobsRequest{Status: "done"}, "completed"},
			{&daemonpb.ListJobsRequest{Limit: -1}, "limit"},
			{&daemonpb.ListJobsRequest{PageToken: "!"}, "page token"},
			{&daemonpb.ListJobsRequest{PageToken: "foo"}, `page token: "foo" is not allowed`},
			{&daemonpb.ListJobsRequest{PageToken: "before--1"}, "page token"},
			{&daemonpb.ListJobsRequest{ErrorCode: "FOO"}, "AUTH_EXPIRED"},
			{&daemonpb.PruneRequest{OlderThan: "30"}, "older than"},
			{&daemonpb.PruneRequest{OlderThan: "-1h"}, "12h, 7d or 2w, up to 100 years"},
			{&daemonpb.BackupRequest{Path: "copy.db"}, "absolute"},
			{&daemonpb.BackupRequest{}, "absolute"},
			{&daemonpb.BackupRequest{Path: "/nonexistent/copy.db"}, "path"},
			{schedule(&daemonpb.ScheduleJobRequest{Name: " a"}), "name"},
			{schedule(&daemonpb.ScheduleJobRequest{CronExpr: "TZ=UTC"}), "cron expression"},
			{schedule(&daemonpb.ScheduleJobRequest{CronExpr: "0 0 30 2 *"}), "never fires"},
			{schedule(&daemonpb.ScheduleJobRequest{Missed: "x"}), "run_once, skip"},
			{schedule(&daemonpb.ScheduleJobRequest{Overlap: "x"}), "skip, allow"},
			{schedule(&daemonpb.ScheduleJobRequest{Jitter: "10"}), "jitter"},
			{schedule(&daemonpb.ScheduleJobRequest{Jitter: "25h"}), `jitter: "25h" is not allowed; allowed: a duration such as 30s or 5m, from 0s to 24h`},
			{&daemonpb.UnscheduleJobRequest{}, "name"},
			{&daemonpb.PreviewScheduleRequest{CronExpr: "* * *"}, "cron expression"},
			{&daemonpb.LoginRequest{Username: "a"}, "password"},
			{&daemonpb.AddEnvironmentRequest{Name: "-x", BaseUrl: "https://x.test"}, "name"},
			{&daemonpb.AddEnvironmentRequest{Name: "x", BaseUrl: "http://x.test/graphql"}, "allowed: https://"},
			{&daemonpb.AddEnvironmentRequest{Name: "x"}, "URL"},
			{&daemonpb.AddEnvironmentRequest{Name: "x", BaseUrl: "https://x.test", Description: "a\x1b[2J"}, "description"},
			{&daemonpb.RemoveEnvironmentRequest{}, "name"},
			{&daemonpb.SetActiveEnvironmentRequest{}, "name"},
		}},
	} {
		for _, refused := range c.refusals {
			method := strings.TrimSuffix(string(refused.in.ProtoReflect().Descriptor().Name()), "Request")
			err := r.conn.Invoke(ctx, "/honeydew.Daemon/"+method, refused.in, &daemonpb.PingResponse{})
			wantError(t, fmt.Sprintf("%s of %v", method, refused.in), err, c.code, c.reason, refused.text)
		}
	}
	if got := string(mustRead(t, existing)); got != "mine" {
		t.Errorf("the file in the way of the backup holds %q", got)
	}
	if log := r.log.String(); strings.Contains(log, "hunter2") || strings.Contains(log, "request failed") {
		t.Errorf("the log: %s", log)
	}
	release()
	r.api.Close()
	_, err := r.Login(ctx, &daemonpb.LoginRequest{Username: "a", Password: "b"})
	wantError(t, "login while the API is away", err, codes.Unavailable, codeAPIUnreachable, "")
	r.d.queue.Stop()
	_, err = r.SubmitJob(ctx, commits(t))
	wantError(t, "submit while stopping", err, codes.Unavailable, codeShuttingDown, "")
}

func TestEnvironmentsAndLogins(t *testing.T) {
	r := newRPCRig(t, nil)
	ctx := t.Context()
	added, err := r.AddEnvironment(ctx, &daemonpb.AddEnvironmentRequest{Name: "staging", BaseUrl: r.api.URL + "/staging", Description: "for trials"})
	if err != nil || added.Environment.Active || added.Environment.Description != "for trials" || added.Environment.CreatedAt == "" {
		t.Fatal(added, err)
	}
	if _, err := r.AddEnvironment(ctx, &daemonpb.AddEnvironmentRequest{Name: "alpha", BaseUrl: "https://alpha.test"}); err != nil {
		t.Fatal(err)
	}
	list, err := r.ListEnvironments(ctx, &daemonpb.ListEnvironmentsRequest{})
	var names []string
	for _, e := range list.GetEnvironments() {
		names = append(names, e.Name)
	}
	if err != nil || !slices.Equal(names, []string{"production", "staging", "alpha"}) {
		t.Fatalf("%v (%v), want the order in which they were added", names, err)
	}
	r.login()
	active, err := r.GetActiveEnvironment(ctx, &daemonpb.GetActiveEnvironmentRequest{})
	if err != nil || active.Environment.Name != "production" || !active.Environment.Authenticated || active.Environment.BaseUrl != r.api.URL {
		t.Fatal(active, err)
	}
	// A job keeps the environment that it was submitted for.
	if _, err := r.PauseQueue(ctx, &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	id := r.submit(commits(t))
	switched, err := r.SetActiveEnvironment(ctx, &daemonpb.SetActiveEnvironmentRequest{Name: "staging"})
	if err != nil || !switched.NeedsAuth || !switched.Environment.Active {
		t.Fatal(switched, err)
	}
	_, err = r.RemoveEnvironment(ctx, &daemonpb.RemoveEnvironmentRequest{Name: "production"})
	wantError(t, "removing an environment that a job needs", err, codes.FailedPrecondition, codeFailedPrecondition, "unfinished jobs: 1")
	other := r.submit(commits(t))
	if _, err := r.ResumeQueue(ctx, &daemonpb.ResumeQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	if j := r.wait(id); j.Status != statusCompleted || j.Environment != "production" {
		t.Errorf("the job from before the switch: %v", j)
	}
	if j := r.wait(other); j.Status != statusFailed || j.ErrorCode != codeAuthRequired || j.Environment != "staging" {
		t.Errorf("the job from after it: %v", j)
	}
	state, err := r.GetAuthStatus(ctx, &daemonpb.GetAuthStatusRequest{})
	if err != nil || state.Authenticated || state.FailedAuthJobs != 1 || state.Environment != "staging" {
		t.Errorf("%v, %v", state, err)
	}
	state, err = r.GetAuthStatus(ctx, &daemonpb.GetAuthStatusRequest{Environment: "production"})
	if err != nil || !state.Authenticated || state.Username != "ann" || state.NeedsReauth || state.FailedAuthJobs != 0 || state.AccessTokenExpires == "" || state.RefreshTokenExpires <= state.AccessTokenExpires {
		t.Errorf("%v, %v", state, err)
	}
	for _, want := range []bool{true, false} {
		if out, err := r.Logout(ctx, &daemonpb.LogoutRequest{Environment: "production"}); err != nil || out.LoggedOut != want {
			t.Errorf("logout: %v, %v", out, err)
		}
	}
	if _, err := r.RemoveEnvironment(ctx, &daemonpb.RemoveEnvironmentRequest{Name: "production"}); err != nil {
		t.Error(err)
	}
}

func TestSchedulesOverTheWire(t *testing.T) {
	r := newRPCRig(t, nil)
	ctx := t.Context()
	in := &daemonpb.ScheduleJobRequest{Name: "nightly sync", CronExpr: "CRON_TZ=UTC 0 3 1 1 *", Command: "github.commits", Payload: commits(t).Payload, Priority: 4,
		Missed: "skip", Overlap: "allow", Jitter: "10m"}
	in.Payload.Fields["startDate"] = structpb.NewStringValue("last-success")
	out, err := r.ScheduleJob(ctx, in)
	if err != nil || out.ScheduleId == "" || !strings.HasSuffix(out.NextRunAt, "-01-01T03:00:00.000Z") {
		t.Fatal(out, err)
	}
	list, err := r.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
	if err != nil || len(list.Schedules) != 1 {
		t.Fatal(list, err)
	}
	got := list.Schedules[0]
	want := &daemonpb.Schedule{ScheduleId: out.ScheduleId, Name: in.Name, CronExpr: in.CronExpr, Command: in.Command, Payload: in.Payload, Enabled: true,
		CreatedAt: got.CreatedAt, NextRunAt: out.NextRunAt, Priority: 4, Environment: "production", Missed: "skip", Overlap: "allow", Jitter: "10m0s",
		MaxRetries: 12, Timeout: "30s"}
	if !proto.Equal(got, want) || got.CreatedAt == "" {
		t.Fatalf("%v, want %v", got, want)
	}
	triggered, err := r.TriggerSchedule(ctx, &daemonpb.TriggerScheduleRequest{Name: in.Name})
	if err != nil {
		t.Fatal(err)
	}
	if j := r.wait(triggered.JobId); j.Schedule != in.Name || j.Priority != 4 || j.ErrorCode != codeAuthRequired {
		t.Errorf("%v", j)
	}
	jobs, err := r.ListJobs(ctx, &daemonpb.ListJobsRequest{Schedule: in.Name})
	if err != nil || len(jobs.Jobs) != 1 || jobs.Jobs[0].JobId != triggered.JobId {
		t.Errorf("%v, %v", jobs, err)
	}
	paused, err := r.SetScheduleEnabled(ctx, &daemonpb.SetScheduleEnabledRequest{Name: in.Name})
	if err != nil || paused.Schedule.Enabled || paused.Schedule.NextRunAt != "" || paused.Schedule.LastJobId != triggered.JobId || paused.Schedule.LastJobStatus != statusFailed {
		t.Errorf("%v, %v", paused, err)
	}
	resumed, err := r.SetScheduleEnabled(ctx, &daemonpb.SetScheduleEnabledRequest{Name: in.Name, Enabled: true})
	if err != nil || resumed.Schedule.NextRunAt != out.NextRunAt {
		t.Errorf("%v, %v", resumed, err)
	}
	_, err = r.UnscheduleJob(ctx, &daemonpb.UnscheduleJobRequest{ScheduleId: out.ScheduleId, Name: "another"})
	wantError(t, "an id and the name of another", err, codes.NotFound, codeNotFound, "")
	if _, err = r.UnscheduleJob(ctx, &daemonpb.UnscheduleJobRequest{ScheduleId: out.ScheduleId}); err != nil {
		t.Error(err)
	}
	preview, err := r.PreviewSchedule(ctx, &daemonpb.PreviewScheduleRequest{CronExpr: "@hourly"})
	if err != nil || len(preview.Times) != 5 || !slices.IsSorted(preview.Times) {
		t.Errorf("%v, %v", preview, err)
	}
}

func TestCancelAndRetryOverTheWire(t *testing.T) {
	r := newRPCRig(t, nil)
	release := r.api.block(t, "github.commits")
	r.login()
	id := r.submit(commits(t))
	r.waitRunning(id)
	if j, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: id}); err != nil || j.Status != statusRunning || j.StartedAt == "" {
		t.Errorf("%v, %v", j, err)
	}
	out, err := r.CancelJob(t.Context(), &daemonpb.CancelJobRequest{JobId: id})
	if err != nil || out.Status != statusCancelled {
		t.Fatal(out, err)
	}
	if j := r.wait(id); j.Status != statusCancelled {
		t.Errorf("%v", j)
	}
	release()
	again, err := r.RetryJob(t.Context(), &daemonpb.RetryJobRequest{JobId: id})
	if err != nil || again.JobId == id {
		t.Fatal(again, err)
	}
	if j := r.wait(again.JobId); j.Status != statusCompleted {
		t.Errorf("%v", j)
	}
}

func TestAnswersOfTheAPIBecomeStatesOfTheJob(t *testing.T) {
	r := newRPCRig(t, nil)
	r.login()
	for _, c := range []struct {
		name, command, body  string
		status, code, result string
	}{
		{"clone that reports no success", "github.clone", `{"data":{"githubCloneRepository":{"success":false,"error":"disk quota"}}}`, statusFailed, codeAPI, ""},
		{"clone that reports success", "github.clone", `{"data":{"githubCloneRepository":{"success":true,"error":null}}}`, statusCompleted, "", `{"success":true,"error":null}`},
		{"data beside errors", "github.commits", `{"data":{"githubCommits":{"commits":[]}},"errors":[{"message":"3 repositories were skipped"}]}`, statusCompleted, codePartial, `{"commits":[]}`},
		{"error", "github.commits", `{"errors":[{"message":"no such repository"}]}`, statusFailed, codeAPI, ""},
		{"null", "github.commits", `{"data":{"githubCommits":null}}`, statusCompleted, "", `null`},
	} {
		r.api.answer(c.command, func(w http.ResponseWriter, _ *http.Request, _ map[string]any) { writeAnswer(w, c.body) })
		in := commits(t)
		in.Command = c.command
		if j := r.wait(r.submit(in)); j.Status != c.status || j.ErrorCode != c.code || j.Result != c.result || (c.code != "" && !strings.HasPrefix(j.Error, c.code+": ")) {
			t.Errorf("%s: %v", c.name, j)
		}
	}
}

func TestHoldOfTheAPIShowsInTheStatus(t *testing.T) {
	r := newRPCRig(t, nil)
	r.login()
	r.api.answer("github.commits", func(w http.ResponseWriter, _ *http.Request, _ map[string]any) {
		w.Header().Set("Retry-After", "1800")
		http.Error(w, "slow down", http.StatusTooManyRequests)
	})
	id := r.submit(commits(t))
	stream, err := r.WatchJob(t.Context(), &daemonpb.WatchJobRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	for {
		j, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if j.ErrorCode == codeRateLimited {
			if j.Status != statusPending || j.RetryCount != 0 || j.NextAttemptAt == "" {
				t.Errorf("%v", j)
			}
			break
		}
	}
	got, err := r.GetStatus(t.Context(), &daemonpb.GetStatusRequest{})
	if err != nil || got.HeldUntil == "" || !strings.Contains(got.HeldReason, "429") || got.Pending != 1 {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestStatusTellsOfTheDaemon(t *testing.T) {
	r := newRPCRig(t, func(c *Config) { c.Queue.Workers = 2 })
	release := r.api.block(t, "github.commits")
	r.login()
	r.server.problems = func() []string { return []string{"log: trouble"} }
	var ids []string
	for range 4 {
		ids = append(ids, r.submit(commits(t)))
	}
	r.waitRunning(ids[0])
	r.waitRunning(ids[1])
	if _, err := r.CancelJob(t.Context(), &daemonpb.CancelJobRequest{JobId: ids[3]}); err != nil {
		t.Fatal(err)
	}
	got, err := r.GetStatus(t.Context(), &daemonpb.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.d.cfg
	want := &daemonpb.DaemonStatus{Version: "1.2.3", Pid: int32(os.Getpid()), StartedAt: timeText(r.server.startedAt), UptimeSeconds: got.UptimeSeconds, Workers: 2,
		BusyWorkers: 2, Pending: 1, Running: 2, Cancelled: 1, Environment: "production", Authenticated: true, SocketPath: cfg.Daemon.SocketPath,
		DatabasePath: cfg.Storage.DatabasePath, DatabaseBytes: got.DatabaseBytes, OldestPendingAt: got.OldestPendingAt, Problems: []string{"log: trouble"}}
	if !proto.Equal(got, want) || got.DatabaseBytes < 4096 || got.OldestPendingAt == "" {
		t.Errorf("%v, want %v", got, want)
	}
	release()
	for _, id := range ids[:3] {
		r.wait(id)
	}
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	if got, err = r.GetStatus(t.Context(), &daemonpb.GetStatusRequest{}); err != nil || !got.QueuePaused || got.Completed != 3 || got.Pending+got.Running+got.BusyWorkers != 0 {
		t.Errorf("%v, %v", got, err)
	}
	pong, err := r.Ping(t.Context(), &daemonpb.PingRequest{})
	if _, parseErr := time.Parse(timeLayout, pong.GetTimestamp()); err != nil || pong.Version != "1.2.3" || parseErr != nil {
		t.Errorf("%v, %v", pong, err)
	}
}

func TestCommandsAreListedWithTheirArguments(t *testing.T) {
	r := newRPCRig(t, nil)
	out, err := r.ListCommands(t.Context(), &daemonpb.ListCommandsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*daemonpb.Command{}
	for _, c := range out.Commands {
		byName[c.Name] = c
	}
	if len(out.Commands) != len(r.api.commands.All()) || byName["auth.login"] != nil {
		t.Errorf("%d commands", len(out.Commands))
	}
	want := &daemonpb.Command{Name: "github.clone", Kind: "mutation", Description: byName["github.clone"].GetDescription(),
		Arguments: []*daemonpb.Argument{{Name: "organization", Type: "String!", Required: true}, {Name: "repository", Type: "String!", Required: true}}}
	if got := byName["github.clone"]; !proto.Equal(got, want) || got.Description == "" {
		t.Errorf("%v, want %v", got, want)
	}
	if c := byName["github.commits"]; c.GetKind() != "query" || len(c.GetArguments()) != 6 || c.Arguments[2].Required {
		t.Errorf("%v", c)
	}
}

func TestEveryResponseCarriesTheVersion(t *testing.T) {
	r := newRPCRig(t, nil)
	var ok, refused metadata.MD
	if _, err := r.Ping(t.Context(), &daemonpb.PingRequest{}, grpc.Header(&ok)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: "zzz"}, grpc.Header(&refused)); err == nil {
		t.Fatal("found")
	}
	var typed metadata.MD
	if _, err := r.ListOrganizations(t.Context(), &daemonpb.ListOrganizationsRequest{}, grpc.Header(&typed)); err != nil {
		t.Fatal(err)
	}
	stream, err := r.WatchJob(t.Context(), &daemonpb.WatchJobRequest{JobId: "zzz"})
	if err != nil {
		t.Fatal(err)
	}
	streamed, err := stream.Header()
	if err != nil {
		t.Fatal(err)
	}
	for name, md := range map[string]metadata.MD{"answer": ok, "error": refused, "typed": typed, "stream": streamed} {
		if got := md.Get("honeydew-version"); !slices.Equal(got, []string{"1.2.3"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPanicInAHandlerIsInternalAndLogged(t *testing.T) {
	r := newRPCRig(t, nil)
	broken := rpcServer{parts: r.server.parts, version: r.server.version}
	broken.queue = nil
	good := r.DaemonClient
	defer r.serve(&broken, filepath.Join(r.d.Home, "broken.sock"))()
	stream, err := r.WatchJob(t.Context(), &daemonpb.WatchJobRequest{JobId: "x"})
	if err != nil {
		t.Fatal(err)
	}
	_, streamErr := stream.Recv()
	_, typedErr := r.ListOrganizations(t.Context(), &daemonpb.ListOrganizationsRequest{})
	_, unaryErr := r.CancelJob(t.Context(), &daemonpb.CancelJobRequest{JobId: "x"})
	for name, err := range map[string]error{"unary": unaryErr, "typed": typedErr, "stream": streamErr} {
		wantError(t, name, err, codes.Internal, codeInternal, "a bug in honeydew")
		if strings.Contains(err.Error(), "nil pointer") {
			t.Errorf("%s: the client sees the panic: %v", name, err)
		}
	}
	if log := r.log.String(); strings.Count(log, `"msg":"panic in a request"`) != 3 || strings.Count(log, "(*Queue).") < 3 || !strings.Contains(log, "/honeydew.Daemon/WatchJob") {
		t.Errorf("the log: %s", log)
	}
	if _, err := r.Ping(t.Context(), &daemonpb.PingRequest{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := good.Ping(t.Context(), &daemonpb.PingRequest{}); err != nil {
		t.Errorf("next door: %v", err)
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	s := &rpcServer{parts: parts{log: slog.New(slog.DiscardHandler)}}
	for _, c := range []struct {
		name string
		info peerInfo
		want bool
	}{
		{"another user", peerInfo{uid: os.Getuid() + 1, known: true}, false},
		{"root, for another", peerInfo{uid: 0, known: true}, os.Getuid() == 0},
		{"the same user", peerInfo{uid: os.Getuid(), known: true}, true},
		{"a platform that does not tell", peerInfo{}, true},
	} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: c.info})
		_, err := s.admit(ctx, &tap.Info{})
		if c.want && err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !c.want {
			wantError(t, c.name, err, codes.PermissionDenied, codePermissionDenied, "belongs to uid")
		}
	}
}

func TestCallersThatAreGoneAreNoFaults(t *testing.T) {
	log := &syncBuffer{}
	s := &rpcServer{parts: parts{log: slog.New(slog.NewJSONHandler(log, nil))}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.outcome(ctx, "/x", nil, errors.New("transport: the stream is done")); status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	if log.String() != "" {
		t.Errorf("logged: %s", log)
	}
}

// A list of schedules is answered whatever their arguments weigh.
func TestLongArgumentsOfSchedulesAreShortened(t *testing.T) {
	r := newRPCRig(t, nil)
	in := &daemonpb.ScheduleJobRequest{CronExpr: "@yearly", Command: "github.commits", Payload: commits(t).Payload}
	in.Payload.Fields["author"] = structpb.NewStringValue(strings.Repeat("x", 1<<20-200))
	for i := range 5 {
		in.Name = fmt.Sprintf("s%d", i)
		if _, err := r.ScheduleJob(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.ListSchedules(t.Context(), &daemonpb.ListSchedulesRequest{})
	if err != nil || len(list.Schedules) != 5 || proto.Size(list) > maxAnswerBytes {
		t.Fatalf("%d schedules, %d bytes (%v)", len(list.GetSchedules()), proto.Size(list), err)
	}
	if got := list.Schedules[4].Payload.Fields["organization"].GetStringValue(); got != "acme" {
		t.Errorf("organization %q", got)
	}
}

// The kernel's word on who is calling, over a real socket.
func TestPeerOfARealSocketIsOurselves(t *testing.T) {
	l, err := listenSocket(filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, info, err := peerCredentials{}.ServerHandshake(s)
	if got, ok := info.(peerInfo); err != nil || !ok || !got.known || got.uid != os.Getuid() {
		t.Fatalf("%+v, %v", info, err)
	}
}

func TestEveryReasonHasItsStatus(t *testing.T) {
	for reason, code := range map[string]codes.Code{
		codeInvalidArgument: codes.InvalidArgument, codeUnknownCommand: codes.InvalidArgument, codeNotFound: codes.NotFound,
		codeAlreadyExists: codes.AlreadyExists, codeFailedPrecondition: codes.FailedPrecondition, codeLoginRefused: codes.Unauthenticated,
		codeAPIUnreachable: codes.Unavailable, codeShuttingDown: codes.Unavailable, codePermissionDenied: codes.PermissionDenied,
		codeQueueFull: codes.ResourceExhausted, codeStorageFull: codes.ResourceExhausted, codeStorageFailed: codes.Unavailable, codeInternal: codes.Internal,
	} {
		wantError(t, reason, toStatus(errorf(reason, "x")).Err(), code, reason, "x")
	}
	wantError(t, "an error without a code", toStatus(errors.New("/home/ann/secret")).Err(), codes.Internal, codeInternal, "an error inside honeydew")
	wantError(t, "a call given up", toStatus(context.Canceled).Err(), codes.Canceled, "", "")
	wantError(t, "a call out of time", toStatus(fmt.Errorf("read: %w", context.DeadlineExceeded)).Err(), codes.DeadlineExceeded, "", "")
	if st := toStatus(errorf(codeInternal, "%s", strings.Repeat("é", 5000))); len(st.Message()) > maxErrorTextInBytes {
		t.Errorf("a text of %d bytes", len(st.Message()))
	}
	if info := toStatus(errorf(codeNotFound, "x").hint("do y")).Details()[0].(*errdetails.ErrorInfo); info.Metadata["hint"] != "do y" {
		t.Errorf("%v", info)
	}
}

func TestLargeResultsAreLeftOutOfMessagesAndStreamed(t *testing.T) {
	r := newRPCRig(t, nil)
	r.login()
	for _, size := range []int{watchedBytes, maxAnswerBytes - 4096, maxAnswerBytes, 20 << 20} {
		value := `"` + strings.Repeat("0123456789abcde\n"[:15], size/15+1)[:size-2] + `"`
		r.api.data("github.commits", value)
		id := r.submit(commits(t))
		last := r.wait(id)
		asked, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: id})
		if err != nil {
			t.Fatal(err)
		}
		for name, j := range map[string]*daemonpb.JobStatus{"WatchJob": last, "GetJobStatus": asked} {
			omitted := size >= maxAnswerBytes || name == "WatchJob" && size > watchedBytes
			if j.Status != statusCompleted || j.ResultOmitted != omitted || (j.Result == "") != omitted || j.ResultBytes != int64(size) || proto.Size(j) > maxAnswerBytes {
				t.Errorf("%s with %d bytes: omitted %t, %d bytes of %d", name, size, j.ResultOmitted, len(j.Result), j.ResultBytes)
			}
		}
		if !asked.ResultOmitted && asked.Result != value {
			t.Errorf("%d bytes came back changed", size)
		}
		result, largest, err := r.result(id)
		if err != nil || string(result) != value || largest > 1<<20 {
			t.Errorf("%d bytes streamed: %d in chunks of up to %d (%v)", size, len(result), largest, err)
		}
	}
	list, err := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{})
	if err != nil || len(list.Jobs) != 4 || list.Jobs[0].Result != "" || list.Jobs[0].ResultBytes != 20<<20 {
		t.Errorf("%v", err)
	}
}

func TestPagesHaveNeitherGapsNorRepeatsWhileJobsArrive(t *testing.T) {
	r := newRPCRig(t, nil)
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	batch := func(n int) (ids []string) {
		in := &daemonpb.SubmitJobsRequest{}
		for range n {
			in.Jobs = append(in.Jobs, commits(t))
		}
		out, err := r.SubmitJobs(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range out.Jobs {
			ids = append(ids, j.JobId)
		}
		return ids
	}
	want := batch(103)
	slices.Reverse(want)
	var got []string
	token := ""
	for {
		page, err := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{Status: "pending", Command: "github.commits", Limit: 10, PageToken: token})
		if err != nil || len(page.Jobs) > 10 {
			t.Fatalf("%d jobs, %v", len(page.Jobs), err)
		}
		for _, j := range page.Jobs {
			got = append(got, j.JobId)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
		batch(3)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d jobs in pages, want the %d from before, newest first", len(got), len(want))
	}
	batch(1000)
	for limit, want := range map[int32]int{0: 50, 1: 1, 1000: 1000, 5000: 1000} {
		page, err := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{Limit: limit})
		if err != nil || len(page.Jobs) != want || page.NextPageToken == "" {
			t.Errorf("limit %d: %d jobs, next page %q (%v), want %d", limit, len(page.Jobs), page.GetNextPageToken(), err, want)
		}
	}
	if page, err := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{Status: "failed"}); err != nil || len(page.Jobs) != 0 || page.NextPageToken != "" {
		t.Errorf("nothing failed: %v, %v", page, err)
	}
}

func TestPagesOfBigJobsStopShortOf3MiB(t *testing.T) {
	r := newRPCRig(t, nil)
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	var want []string
	big := func(command string, payload map[string]any) {
		want = append([]string{r.submit(&daemonpb.SubmitJobRequest{Command: command, Payload: payloadOf(t, payload)})}, want...)
	}
	many := make([]any, 150_000) // small as JSON, large as protobuf
	for i := range many {
		many[i] = 1
	}
	for range 3 {
		big("github.commits", map[string]any{"organization": "acme", "repository": strings.Repeat("x", 1<<20-200)})
		big("azuredevops.workItems", map[string]any{"organization": "acme", "ids": many})
		big("github.commits", map[string]any{"organization": "acme", "repository": strings.Repeat("\x01", 170_000)}) // large as JSON, small as protobuf
	}
	var got []string
	for token := ""; ; {
		page, err := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{Limit: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(page); size > maxAnswerBytes || len(page.Jobs) == 0 {
			t.Fatalf("a page of %d bytes with %d jobs", size, len(page.Jobs))
		}
		for _, j := range page.Jobs {
			got = append(got, j.JobId)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d jobs in pages, want %d", len(got), len(want))
	}
	batch := make([]*Job, 200) // a page of them must not be read into memory before it is cut
	for i := range batch {
		batch[i] = newTestJob("github.commits")
		batch[i].Payload = []byte(`{"organization":"` + strings.Repeat("x", 40_000) + `"}`)
	}
	if _, err := r.d.store.Submit(batch, func([]*Job) {}); err != nil {
		t.Fatal(err)
	}
	jobs, err := r.d.store.Jobs(JobFilter{Limit: 1001, MaxBytes: maxAnswerBytes})
	if err != nil || len(jobs) > maxAnswerBytes/40_000+2 {
		t.Fatalf("%d jobs of 40 kB were read for a page (%v)", len(jobs), err)
	}
}

func TestPrune(t *testing.T) {
	r := newRPCRig(t, nil)
	r.login()
	for range 3 {
		r.wait(r.submit(commits(t)))
	}
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	waiting := r.submit(commits(t))
	for _, c := range []struct {
		in         *daemonpb.PruneRequest
		want, left int
	}{
		{&daemonpb.PruneRequest{}, 0, 4},
		{&daemonpb.PruneRequest{OlderThan: "1h"}, 0, 4},
		{&daemonpb.PruneRequest{OlderThan: "0", DryRun: true}, 3, 4},
		{&daemonpb.PruneRequest{OlderThan: "0"}, 3, 1},
		{&daemonpb.PruneRequest{OlderThan: "0"}, 0, 1},
	} {
		out, err := r.Prune(t.Context(), c.in)
		list, listErr := r.ListJobs(t.Context(), &daemonpb.ListJobsRequest{})
		if err != nil || listErr != nil || out.Jobs != int64(c.want) || len(list.Jobs) != c.left {
			t.Errorf("%v: %v (%v), %d jobs left", c.in, out, err, len(list.GetJobs()))
		}
	}
	if _, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: waiting}); err != nil {
		t.Error(err)
	}
	r.server.cfg.Storage.Retention = 0
	_, err := r.Prune(t.Context(), &daemonpb.PruneRequest{})
	wantError(t, "no age anywhere", err, codes.InvalidArgument, codeInvalidArgument, "older than: an age")
}

func TestBackupIsAWholeDatabaseOfTheOwnersAlone(t *testing.T) {
	r := newRPCRig(t, nil)
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	id := r.submit(commits(t))
	path := filepath.Join(r.d.Home, "copy.db")
	out, err := r.Backup(t.Context(), &daemonpb.BackupRequest{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != out.Bytes {
		t.Fatalf("%v, %d bytes answered (%v)", info, out.Bytes, err)
	}
	s, err := openStore(path, "full", "https://x.test")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if j, err := s.Job(id, 1); err != nil || j.Status != statusPending {
		t.Fatalf("%+v, %v", j, err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	r := newRPCRig(t, nil)
	for _, service := range []string{"", "honeydew.Daemon"} {
		out, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || out.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, out, err)
		}
	}
	stream, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(in *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		if err := stream.Send(in); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var names []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	if !slices.Contains(names, "honeydew.Daemon") || !slices.Contains(names, "grpc.health.v1.Health") {
		t.Errorf("services %v", names)
	}
	out := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "honeydew.Daemon.GitHubGetCommits"}})
	if len(out.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("no description of a typed RPC: %v", out)
	}
}

func TestShutdownAnswersAndAsks(t *testing.T) {
	r := newRPCRig(t, nil)
	for _, force := range []bool{false, true} {
		if _, err := r.Shutdown(t.Context(), &daemonpb.ShutdownRequest{Force: force}); err != nil {
			t.Fatal(err)
		}
		if got := <-r.shutdowns; got != force {
			t.Errorf("force %t became %t", force, got)
		}
	}
}

func TestWatchEndsWhenTheDaemonStops(t *testing.T) {
	r := newRPCRig(t, nil)
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	stream, err := r.WatchJob(t.Context(), &daemonpb.WatchJobRequest{JobId: r.submit(commits(t))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	r.d.queue.Stop()
	_, err = stream.Recv()
	wantError(t, "watch", err, codes.Unavailable, codeShuttingDown, "")
}

func TestStorageTroubleBeforeTheRequestIsTriedAgain(t *testing.T) {
	for _, code := range []string{codeStorageFailed, codeStorageFull} {
		e, ok := errors.AsType[*Error](attemptError(errorf(code, "the database failed")))
		if !ok || e.Code != codeInternal || e.Fate != fateUnsent {
			t.Errorf("%s became %+v", code, e)
		}
	}
	refused := &Error{Code: codeAPI, Message: "no", Fate: fateRefused}
	if got := attemptError(refused); got != error(refused) {
		t.Errorf("the API's answer became %v", got)
	}
}

// A submit's allocations are most of its processor time in this process; what they are spent on is in DESIGN.md. There are 66, and
// a few more under the race detector.
func TestSubmitAllocatesLittle(t *testing.T) {
	r := newRPCRig(t, nil)
	if err := r.d.queue.SetPaused(true); err != nil {
		t.Fatal(err)
	}
	in := benchRequest(t)
	n := testing.AllocsPerRun(300, func() {
		if _, err := r.server.SubmitJob(t.Context(), in); err != nil {
			t.Error(err)
		}
	})
	if n > 72 {
		t.Errorf("%.0f allocations a submit, behind gRPC; they were 63", n)
	}
	const size = 32
	batch := &daemonpb.SubmitJobsRequest{Jobs: slices.Repeat([]*daemonpb.SubmitJobRequest{in}, size)}
	n = testing.AllocsPerRun(50, func() {
		if _, err := r.server.SubmitJobs(t.Context(), batch); err != nil {
			t.Error(err)
		}
	}) / size
	if n > 48 {
		t.Errorf("%.0f allocations a job of a batch, behind gRPC; they were 39", n)
	}
}

// The start of an attempt reaches the disk late, or never: nobody sees a job go back from running to pending.
func TestAStatusDoesNotGoBack(t *testing.T) {
	r := newQueueRig(t, QueueOptions{Workers: 2}, func(context.Context, *Job) (string, error) {
		time.Sleep(600 * time.Microsecond) // an API that is quick
		return "1", nil
	})
	s := &rpcServer{parts: parts{store: r.store, queue: r.q}}
	r.q.Start()
	for range 200 {
		j := r.submit(newTestJob("github.commits"))
		for was := ""; was != statusCompleted; {
			now, err := s.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: j.ID})
			if err != nil {
				t.Fatal(err)
			}
			if was == statusRunning && now.Status == statusPending {
				t.Fatal("a running job was pending again")
			}
			was = now.Status
		}
	}
}
