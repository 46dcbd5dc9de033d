package main

// The gRPC server: requests into calls, answers and errors onto the wire. No SQL and no policy live here. One
// interceptor does for every call what all calls need: the caller's identity, the version header, panics, errors.
// Here are also the RPCs about the daemon, environments and logins; those about jobs and schedules are in rpc_jobs.go.
//
// A handler may return an answer beside the error of its last call: gRPC sends the error alone.
//
// The typed provider RPCs have no code of their own: their table is in daemon.proto (option command), and the
// interceptor turns each into the submit of its command.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	pb "honeydew/daemonpb"
)

const (
	versionHeader   = "honeydew-version"
	errorDomain     = "honeydew"
	maxMessageBytes = 64 << 20 // of a request: batches are large, and a large payload gets a better error than gRPC's
	maxAnswerBytes  = 3 << 20  // of a job or a page: clients refuse messages over 4 MiB
	chunkBytes      = 1 << 20
)

// rpcServer answers the Daemon service.
type rpcServer struct {
	pb.UnimplementedDaemonServer
	parts
	scheduler *Scheduler
	version   string
	startedAt time.Time
	shutdown  func(force bool) // returns at once
	problems  func() []string

	// newGRPCServer fills in the rest.
	header  metadata.MD       // of every answer
	typed   map[string]string // commands of the typed RPCs, by full method
	reading sync.Mutex        // held while a part of a result is read: SQLite takes up the whole for each
}

// newGRPCServer makes the server with health and reflection. Health is SERVING as long as anybody is answered at all.
func newGRPCServer(s *rpcServer) *grpc.Server {
	s.header = metadata.Pairs(versionHeader, s.version)
	s.typed = map[string]string{}
	methods := pb.File_daemon_proto.Services().ByName("Daemon").Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		fullName := fmt.Sprintf("/%s/%s", pb.Daemon_ServiceDesc.ServiceName, m.Name())
		s.typed[fullName] = proto.GetExtension(m.Options(), pb.E_Command).(string)
	}
	// Goroutines that stay spare each call a stack that grows anew, and a window that is fixed its measurement by
	// pings: together a tenth of a submit.
	const spare = 64
	server := grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.InTapHandle(s.admit),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(spare),
		grpc.StaticStreamWindowSize(1<<20),
		grpc.StaticConnWindowSize(4<<20),
	)
	pb.RegisterDaemonServer(server, s)
	checker := health.NewServer()
	checker.SetServingStatus(pb.Daemon_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, checker)
	reflection.Register(server)
	return server
}

func (s *rpcServer) unary(
	ctx context.Context,
	in any,
	info *grpc.UnaryServerInfo,
	handler grpc.UnaryHandler,
) (out any, err error) {
	defer func() {
		err = s.outcome(ctx, info.FullMethod, recover(), err)
	}()
	if err := grpc.SetHeader(ctx, s.header); err != nil {
		return nil, err
	}
	if command := s.typed[info.FullMethod]; command != "" {
		return s.submitTyped(ctx, command, in.(proto.Message).ProtoReflect())
	}
	return handler(ctx, in)
}

func (s *rpcServer) stream(
	server any,
	stream grpc.ServerStream,
	info *grpc.StreamServerInfo,
	handler grpc.StreamHandler,
) (err error) {
	defer func() {
		err = s.outcome(stream.Context(), info.FullMethod, recover(), err)
	}()
	if err := stream.SetHeader(s.header); err != nil {
		return err
	}
	return handler(server, stream)
}

// admit refuses other users, before anything of a request is read.
func (s *rpcServer) admit(ctx context.Context, _ *tap.Info) (context.Context, error) {
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return ctx, nil
	}
	info, ok := caller.AuthInfo.(peerInfo)
	if ok && info.known && info.uid != os.Getuid() {
		const foreign = "this daemon belongs to uid %d, and you are uid %d"
		refusal := errorf(codePermissionDenied, foreign, os.Getuid(), info.uid).
			hint("start a daemon of your own with: honeydew start")
		return ctx, toStatus(refusal).Err()
	}
	return ctx, nil
}

// submitTyped submits command with the request's fields as its payload; fields at their zero value are not given. On
// the wire every provider response is a SubmitJobResponse: job_id is field 1 of each.
func (s *rpcServer) submitTyped(
	ctx context.Context,
	command string,
	in protoreflect.Message,
) (*pb.SubmitJobResponse, error) {
	submit := &pb.SubmitJobRequest{Command: command}
	payload := map[string]any{}
	in.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Name() == "priority" {
			submit.Priority = int32(v.Int())
		} else {
			payload[f.JSONName()] = v.Interface()
		}
		return true
	})
	var err error
	submit.Payload, err = structpb.NewStruct(payload)
	if err != nil {
		return nil, err
	}
	return s.SubmitJob(ctx, submit)
}

// outcome turns a panic or an error into a status. A caller that is gone has no use for one, and its going is no fault.
func (s *rpcServer) outcome(ctx context.Context, method string, panicked any, err error) error {
	if panicked != nil {
		s.log.Error("panic in a request",
			"method", method,
			"panic", fmt.Sprint(panicked),
			"stack", string(debug.Stack()),
		)
		return toStatus(errorf(codeInternal, "a bug in honeydew").hint("the details are in: honeydew logs")).Err()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	st := toStatus(err)
	if st.Code() == codes.Internal || codeOf(err) == codeStorageFailed {
		s.log.Error("request failed", "method", method, "error", err.Error())
	}
	return st.Err()
}

// toStatus is the one place where errors meet gRPC's codes.
func toStatus(err error) *status.Status {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		if st, ok := status.FromError(err); ok {
			return st
		}
		st := status.FromContextError(err)
		if st.Code() != codes.Unknown {
			return st
		}
		e = errorf(codeInternal, "an error inside honeydew").hint("the details are in: honeydew logs")
	}
	info := &errdetails.ErrorInfo{Reason: e.Code, Domain: errorDomain}
	if e.Hint != "" {
		info.Metadata = map[string]string{"hint": e.Hint}
	}
	plain := status.New(statusCode(e.Code), cutText(e.Message, maxErrorTextInBytes))
	detailed, err := plain.WithDetails(info)
	if err != nil {
		return plain
	}
	return detailed
}

func statusCode(code string) codes.Code {
	switch code {
	case codeInvalidArgument, codeUnknownCommand:
		return codes.InvalidArgument
	case codeNotFound:
		return codes.NotFound
	case codeAlreadyExists:
		return codes.AlreadyExists
	case codeFailedPrecondition:
		return codes.FailedPrecondition
	case codePermissionDenied:
		return codes.PermissionDenied
	case codeLoginRefused, codeAuthRequired, codeAuthExpired, codeAuthInvalid:
		return codes.Unauthenticated
	case codeAPIUnreachable, codeShuttingDown, codeAuthNetwork, codeStorageFailed:
		return codes.Unavailable
	case codeQueueFull, codeStorageFull:
		return codes.ResourceExhausted
	}
	return codes.Internal
}

// durationField reads a duration between least and most; an empty text is fallback.
func durationField(
	field, text string,
	fallback, least, most time.Duration,
) (time.Duration, error) {
	if text == "" {
		return fallback, nil
	}
	d, err := parseDuration(text)
	if err != nil || d < least || d > most {
		return 0, badField(field, text, durationsIn(least, most))
	}
	return d, nil
}

func (s *rpcServer) Ping(context.Context, *pb.PingRequest) (*pb.PingResponse, error) {
	return &pb.PingResponse{
		Version:       s.version,
		UptimeSeconds: s.uptime(),
		Timestamp:     timeText(timeNow()),
	}, nil
}

// uptime is 0 where the clock was set back past the start.
func (s *rpcServer) uptime() int64 {
	return max(0, int64(time.Since(s.startedAt).Seconds()))
}

func (s *rpcServer) Shutdown(
	_ context.Context,
	in *pb.ShutdownRequest,
) (*pb.ShutdownResponse, error) {
	s.shutdown(in.Force)
	return &pb.ShutdownResponse{}, nil
}

func (s *rpcServer) GetStatus(
	context.Context,
	*pb.GetStatusRequest,
) (*pb.DaemonStatus, error) {
	env, login, err := s.account("")
	if err != nil {
		return nil, err
	}
	schedules, err := s.store.Schedules()
	if err != nil {
		return nil, err
	}
	oldest, err := s.store.OldestPending()
	if err != nil {
		return nil, err
	}
	finished, err := s.store.Finished()
	if err != nil {
		return nil, err
	}
	q := s.queue.State(env.Name)
	problems := s.problems()
	if login.Problem != "" {
		problems = append(problems, login.Problem)
	}
	return &pb.DaemonStatus{
		Version:         s.version,
		Pid:             int32(os.Getpid()),
		StartedAt:       timeText(s.startedAt),
		UptimeSeconds:   s.uptime(),
		Workers:         int32(s.cfg.Queue.Workers),
		BusyWorkers:     int32(q.Busy),
		Pending:         int32(q.Pending),
		Running:         int32(q.Running),
		Completed:       int32(finished.Completed),
		Failed:          int32(finished.Failed),
		Cancelled:       int32(finished.Cancelled),
		Schedules:       int32(len(schedules)),
		Environment:     env.Name,
		Authenticated:   login.Authenticated,
		NeedsReauth:     login.NeedsReauth,
		SocketPath:      s.cfg.Daemon.SocketPath,
		DatabasePath:    s.cfg.Storage.DatabasePath,
		DatabaseBytes:   s.store.Size(),
		OldestPendingAt: timeText(oldest),
		QueuePaused:     q.Paused,
		HeldUntil:       timeText(q.HeldUntil),
		HeldReason:      q.HeldReason,
		Problems:        problems,
	}, nil
}

func (s *rpcServer) PauseQueue(
	context.Context,
	*pb.PauseQueueRequest,
) (*pb.PauseQueueResponse, error) {
	return &pb.PauseQueueResponse{}, s.queue.SetPaused(true)
}

func (s *rpcServer) ResumeQueue(
	_ context.Context,
	in *pb.ResumeQueueRequest,
) (*pb.ResumeQueueResponse, error) {
	if in.ReleaseHolds {
		if err := s.queue.ReleaseHolds(); err != nil {
			return nil, err
		}
	}
	return &pb.ResumeQueueResponse{}, s.queue.SetPaused(false)
}

func (s *rpcServer) Prune(
	ctx context.Context,
	in *pb.PruneRequest,
) (*pb.PruneResponse, error) {
	age, err := durationField("older than", in.OlderThan, s.cfg.Storage.Retention, 0, maxConfigDuration)
	if err != nil {
		return nil, err
	}
	if age == 0 && in.OlderThan == "" {
		return nil, invalidf("older than: an age is needed, since storage.retention is 0 and keeps all jobs").
			hint("for example: honeydew prune --older-than 30d")
	}
	cutoff := timeNow().Add(time.Millisecond - age)
	n, err := s.store.Prune(ctx, cutoff, in.DryRun)
	return &pb.PruneResponse{Jobs: n}, err
}

func (s *rpcServer) Backup(
	ctx context.Context,
	in *pb.BackupRequest,
) (*pb.BackupResponse, error) {
	if !filepath.IsAbs(in.Path) {
		return nil, badField("path", in.Path, "an absolute path")
	}
	n, err := s.store.Backup(ctx, in.Path)
	return &pb.BackupResponse{Bytes: n}, err
}

func (s *rpcServer) Login(
	ctx context.Context,
	in *pb.LoginRequest,
) (*pb.LoginResponse, error) {
	env, err := s.store.Environment(in.Environment)
	if err != nil {
		return nil, err
	}
	login, err := s.auth.Login(ctx, env, in.Username, in.Password)
	return &pb.LoginResponse{
		Environment:         env.Name,
		Username:            in.Username,
		AccessTokenExpires:  timeText(login.AccessExpires),
		RefreshTokenExpires: timeText(login.RefreshExpires),
	}, err
}

func (s *rpcServer) Logout(
	ctx context.Context,
	in *pb.LogoutRequest,
) (*pb.LogoutResponse, error) {
	env, err := s.store.Environment(in.Environment)
	if err != nil {
		return nil, err
	}
	loggedOut, err := s.auth.Logout(env)
	return &pb.LogoutResponse{LoggedOut: loggedOut}, err
}

func (s *rpcServer) GetAuthStatus(
	_ context.Context,
	in *pb.GetAuthStatusRequest,
) (*pb.AuthStatus, error) {
	env, login, err := s.account(in.Environment)
	if err != nil {
		return nil, err
	}
	failed, err := s.store.AuthFailures(env)
	return &pb.AuthStatus{
		Authenticated:       login.Authenticated,
		Username:            login.Username,
		NeedsReauth:         login.NeedsReauth,
		AccessTokenExpires:  timeText(login.AccessExpires),
		RefreshTokenExpires: timeText(login.RefreshExpires),
		FailedAuthJobs:      int32(failed),
		Environment:         env.Name,
		Problem:             login.Problem,
	}, err
}

// account is the environment of this name, the active one for "", and the login there.
func (s *rpcServer) account(name string) (Environment, AuthState, error) {
	env, err := s.store.Environment(name)
	if err != nil {
		return env, AuthState{}, err
	}
	login, err := s.auth.Status(env)
	return env, login, err
}

// environment is the account of this name on the wire.
func (s *rpcServer) environment(name string) (*pb.Environment, error) {
	env, login, err := s.account(name)
	return environmentMessage(env, login), err
}

func environmentMessage(env Environment, login AuthState) *pb.Environment {
	return &pb.Environment{
		Name:          env.Name,
		BaseUrl:       env.BaseURL,
		Description:   env.Description,
		Active:        env.Active,
		CreatedAt:     timeText(env.CreatedAt),
		Authenticated: login.Authenticated,
	}
}

func (s *rpcServer) AddEnvironment(
	_ context.Context,
	in *pb.AddEnvironmentRequest,
) (*pb.AddEnvironmentResponse, error) {
	if err := checkName("name of the environment", in.Name); err != nil {
		return nil, err
	}
	if err := checkBaseURL(in.BaseUrl); err != nil {
		return nil, invalidf("URL: %w", err)
	}
	if strings.ContainsFunc(in.Description, unicode.IsControl) || len(in.Description) > maxErrorTextInBytes {
		return nil, badField("description", in.Description,
			fmt.Sprintf("at most %d bytes, without control characters", maxErrorTextInBytes))
	}
	err := s.store.AddEnvironment(Environment{
		ID:          newID(),
		Name:        in.Name,
		BaseURL:     in.BaseUrl,
		Description: in.Description,
		Active:      in.SetActive,
		CreatedAt:   timeNow(),
	})
	if err != nil {
		return nil, err
	}
	env, err := s.environment(in.Name)
	return &pb.AddEnvironmentResponse{Environment: env}, err
}

func (s *rpcServer) RemoveEnvironment(
	_ context.Context,
	in *pb.RemoveEnvironmentRequest,
) (*pb.RemoveEnvironmentResponse, error) {
	if err := checkName("name of the environment", in.Name); err != nil {
		return nil, err
	}
	env, err := s.store.Environment(in.Name)
	if err != nil {
		return nil, err
	}
	if err := s.store.RemoveEnvironment(in.Name); err != nil {
		return nil, err
	}
	s.auth.Forget(env.ID)
	return &pb.RemoveEnvironmentResponse{}, nil
}

func (s *rpcServer) ListEnvironments(
	context.Context,
	*pb.ListEnvironmentsRequest,
) (*pb.ListEnvironmentsResponse, error) {
	all, err := s.store.Environments()
	if err != nil {
		return nil, err
	}
	out := &pb.ListEnvironmentsResponse{}
	for _, env := range all {
		login, err := s.auth.Status(env)
		if err != nil {
			return nil, err
		}
		out.Environments = append(out.Environments, environmentMessage(env, login))
	}
	return out, nil
}

func (s *rpcServer) SetActiveEnvironment(
	_ context.Context,
	in *pb.SetActiveEnvironmentRequest,
) (*pb.SetActiveEnvironmentResponse, error) {
	if err := checkName("name of the environment", in.Name); err != nil {
		return nil, err
	}
	if err := s.store.SetActiveEnvironment(in.Name); err != nil {
		return nil, err
	}
	env, err := s.environment(in.Name)
	return &pb.SetActiveEnvironmentResponse{Environment: env, NeedsAuth: !env.Authenticated}, err
}

func (s *rpcServer) GetActiveEnvironment(
	context.Context,
	*pb.GetActiveEnvironmentRequest,
) (*pb.GetActiveEnvironmentResponse, error) {
	env, err := s.environment("")
	return &pb.GetActiveEnvironmentResponse{Environment: env}, err
}
