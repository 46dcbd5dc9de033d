package main

// The gRPC server: requests into calls, answers and errors onto the wire. No SQL and no policy live here. One
// interceptor does for every call what all calls need: the caller's identity, the version header, panics, errors.
//
// The typed provider RPCs have no code of their own: their table is in daemon.proto (option command), and typedMethods
// turns each into the submit of its command.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"honeydew/daemonpb"
)

const (
	versionHeader   = "honeydew-version"
	errorDomain     = "honeydew"
	maxMessageBytes = 64 << 20 // of a request: batches are large, and a payload over 1 MiB gets a better answer than gRPC's
	maxAnswerBytes  = 3 << 20  // of a job or a page: clients refuse messages over 4 MiB
	chunkBytes      = 1 << 20
)

// rpcServer answers the Daemon service.
type rpcServer struct {
	daemonpb.UnimplementedDaemonServer
	cfg       *Config
	store     *Store
	queue     *Queue
	scheduler *Scheduler
	auth      *TokenSource
	commands  *Commands
	log       *slog.Logger
	version   string
	startedAt time.Time
	header    metadata.MD
	shutdown  func(force bool) // returns at once
	problems  func() []string
}

// newGRPCServer makes the server with health and reflection; setServing turns health on and off.
func newGRPCServer(s *rpcServer) (server *grpc.Server, setServing func(bool)) {
	s.header = metadata.Pairs(versionHeader, s.version)
	server = grpc.NewServer(grpc.Creds(peerCredentials{}), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.WaitForHandlers(true))
	server.RegisterService(typedMethods(s), s)
	checker := health.NewServer()
	healthpb.RegisterHealthServer(server, checker)
	reflection.Register(server)
	setServing = func(serving bool) {
		state := healthpb.HealthCheckResponse_NOT_SERVING
		if serving {
			state = healthpb.HealthCheckResponse_SERVING
		}
		checker.SetServingStatus("", state)
		checker.SetServingStatus(daemonpb.Daemon_ServiceDesc.ServiceName, state)
	}
	setServing(false)
	return server, setServing
}

// typedMethods is the generated service with a handler for every RPC that names a command.
func typedMethods(s *rpcServer) *grpc.ServiceDesc {
	desc := daemonpb.Daemon_ServiceDesc
	desc.Methods = append([]grpc.MethodDesc(nil), desc.Methods...)
	methods := daemonpb.File_daemon_proto.Services().ByName("Daemon").Methods()
	for i := range desc.Methods {
		m := methods.ByName(protoreflect.Name(desc.Methods[i].MethodName))
		command := proto.GetExtension(m.Options(), daemonpb.E_Command).(string)
		if command == "" {
			continue
		}
		full := "/" + desc.ServiceName + "/" + desc.Methods[i].MethodName
		desc.Methods[i].Handler = func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in, err := newMessage(m.Input())
			if err != nil {
				return nil, err
			}
			if err := decode(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: full}, func(ctx context.Context, _ any) (any, error) {
				return s.submitTyped(ctx, command, in.ProtoReflect(), m.Output())
			})
		}
	}
	return &desc
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

// submitTyped submits command with the request's fields as its arguments; fields at their zero value are not given.
func (s *rpcServer) submitTyped(ctx context.Context, command string, in protoreflect.Message, output protoreflect.MessageDescriptor) (proto.Message, error) {
	c, err := s.commands.Lookup(command)
	if err != nil {
		return nil, err
	}
	payload, priority := map[string]any{}, int32(0)
	in.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Name() == "priority" {
			priority = int32(v.Int())
		} else {
			payload[f.JSONName()] = v.Interface()
		}
		return true
	})
	j, err := s.newJob(ctx, c, payload, &daemonpb.SubmitJobRequest{Priority: priority})
	if err != nil {
		return nil, err
	}
	if err := s.queue.Submit(j); err != nil {
		return nil, err
	}
	out, err := newMessage(output)
	if err != nil {
		return nil, err
	}
	out.ProtoReflect().Set(output.Fields().ByName("job_id"), protoreflect.ValueOfString(j.ID))
	return out, nil
}

func (s *rpcServer) unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (out any, err error) {
	defer func() { err = s.outcome(info.FullMethod, recover(), err) }()
	if err := checkPeer(ctx); err != nil {
		return nil, err
	}
	if err := grpc.SetHeader(ctx, s.header); err != nil {
		return nil, err
	}
	return handler(ctx, in)
}

func (s *rpcServer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { err = s.outcome(info.FullMethod, recover(), err) }()
	if err := checkPeer(ss.Context()); err != nil {
		return err
	}
	if err := ss.SetHeader(s.header); err != nil {
		return err
	}
	return handler(srv, ss)
}

func checkPeer(ctx context.Context) error {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(peerInfo); ok && info.known && info.uid != os.Getuid() {
			return errorf(codePermissionDenied, "this daemon belongs to uid %d, and you are uid %d", os.Getuid(), info.uid).
				hint("start a daemon of your own with: honeydew start")
		}
	}
	return nil
}

// outcome turns a panic or an error into a status.
func (s *rpcServer) outcome(method string, panicked any, err error) error {
	if panicked != nil {
		s.log.Error("panic in a request", "method", method, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		err = errorf(codeInternal, "a bug in honeydew; the log has the details")
	}
	if err == nil {
		return nil
	}
	st := toStatus(err)
	if (st.Code() == codes.Internal || codeOf(err) == codeStorageFailed) && panicked == nil {
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
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err)
		}
		e = &Error{Code: codeInternal, Message: "an error inside honeydew; the log has the details"}
	}
	code := codes.Internal
	switch e.Code {
	case codeInvalidArgument, codeUnknownCommand:
		code = codes.InvalidArgument
	case codeNotFound:
		code = codes.NotFound
	case codeAlreadyExists:
		code = codes.AlreadyExists
	case codeFailedPrecondition:
		code = codes.FailedPrecondition
	case codeLoginRefused, codeAuthRequired, codeAuthExpired, codeAuthInvalid:
		code = codes.Unauthenticated
	case codeAPIUnreachable, codeShuttingDown, codeAuthNetwork, codeStorageFailed:
		code = codes.Unavailable
	case codePermissionDenied:
		code = codes.PermissionDenied
	case codeQueueFull, codeStorageFull:
		code = codes.ResourceExhausted
	}
	info := &errdetails.ErrorInfo{Reason: e.Code, Domain: errorDomain}
	if e.Hint != "" {
		info.Metadata = map[string]string{"hint": e.Hint}
	}
	st := status.New(code, cutText(e.Message, maxErrorTextInBytes))
	if detailed, err := st.WithDetails(info); err == nil {
		return detailed
	}
	return st
}

func (s *rpcServer) Ping(context.Context, *daemonpb.PingRequest) (*daemonpb.PingResponse, error) {
	return &daemonpb.PingResponse{Version: s.version, UptimeSeconds: s.uptime(), Timestamp: timeText(timeNow())}, nil
}

func (s *rpcServer) uptime() int64 { return int64(time.Since(s.startedAt).Seconds()) }

func (s *rpcServer) Shutdown(_ context.Context, in *daemonpb.ShutdownRequest) (*daemonpb.ShutdownResponse, error) {
	s.shutdown(in.Force)
	return &daemonpb.ShutdownResponse{}, nil
}

func (s *rpcServer) GetStatus(ctx context.Context, _ *daemonpb.GetStatusRequest) (*daemonpb.DaemonStatus, error) {
	env, err := s.store.Environment(ctx, "")
	if err != nil {
		return nil, err
	}
	state, err := s.auth.Status(ctx, env)
	if err != nil {
		return nil, err
	}
	schedules, err := s.store.Schedules(ctx)
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
	return &daemonpb.DaemonStatus{
		Version: s.version, Pid: int32(os.Getpid()), StartedAt: timeText(s.startedAt), UptimeSeconds: s.uptime(),
		Workers: int32(s.cfg.Queue.Workers), BusyWorkers: int32(q.Busy), Pending: int32(q.Pending), Running: int32(q.Running),
		Completed: int32(finished.Completed), Failed: int32(finished.Failed), Cancelled: int32(finished.Cancelled),
		Schedules: int32(len(schedules)), Environment: env.Name, Authenticated: state.Authenticated, NeedsReauth: state.NeedsReauth,
		SocketPath: s.cfg.Daemon.SocketPath, DatabasePath: s.cfg.Storage.DatabasePath, DatabaseBytes: s.store.Size(),
		OldestPendingAt: timeText(oldest), QueuePaused: q.Paused, HeldUntil: timeText(q.HeldUntil), HeldReason: q.HeldReason,
		Problems: s.problems(),
	}, nil
}

func (s *rpcServer) PauseQueue(context.Context, *daemonpb.PauseQueueRequest) (*daemonpb.PauseQueueResponse, error) {
	return &daemonpb.PauseQueueResponse{}, s.queue.SetPaused(true)
}

func (s *rpcServer) ResumeQueue(context.Context, *daemonpb.ResumeQueueRequest) (*daemonpb.ResumeQueueResponse, error) {
	return &daemonpb.ResumeQueueResponse{}, s.queue.SetPaused(false)
}

func (s *rpcServer) Prune(ctx context.Context, in *daemonpb.PruneRequest) (*daemonpb.PruneResponse, error) {
	age := s.cfg.Storage.Retention
	if in.OlderThan != "" {
		var err error
		if age, err = parseDuration(in.OlderThan); err != nil {
			return nil, errorf(codeInvalidArgument, "older_than: %w", err).hint("a duration such as 720h or 30d; 0 removes every finished job")
		}
	} else if age == 0 {
		return nil, errorf(codeInvalidArgument, "older_than: missing, and storage.retention keeps jobs for ever").hint("name an age such as 720h or 30d")
	}
	n, err := s.store.Prune(ctx, timeNow().Add(-age).Add(time.Millisecond), in.DryRun)
	return &daemonpb.PruneResponse{Jobs: n}, err
}

func (s *rpcServer) Backup(ctx context.Context, in *daemonpb.BackupRequest) (*daemonpb.BackupResponse, error) {
	if !filepath.IsAbs(in.Path) {
		return nil, errorf(codeInvalidArgument, "path: %q is not absolute", in.Path)
	}
	n, err := s.store.Backup(ctx, in.Path)
	return &daemonpb.BackupResponse{Bytes: n}, err
}

// pageToken is the place of the last job of a page, and parsePageToken reads it back.
func pageToken(seq int64) string { return strconv.FormatInt(seq, 36) }

func parsePageToken(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	seq, err := strconv.ParseInt(s, 36, 64)
	if err != nil || seq <= 0 {
		return 0, errorf(codeInvalidArgument, "page_token: %q is not one of this daemon's", s).hint("use next_page_token of the page before")
	}
	return seq, nil
}
