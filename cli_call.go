package main

// How the command line talks to the daemon: one dial, a deadline on every call, one warning about a daemon of another
// release.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

const (
	pingTimeout  = 10 * time.Second // of a call that costs the daemon nothing
	callTimeout  = 30 * time.Second
	longTimeout  = 15 * time.Minute // of what works through the whole database, or waits for the API
	watchTimeout = time.Hour        // of one call; a longer wait asks again
	slowAnswer   = 2 * time.Second  // after which the user is told what is waited for
	endPatience  = time.Second      // with a daemon that closed its connections, to end
	answerGrace  = 3 * time.Second  // for an answer that is on its way when the user interrupts
	maxReceive   = 16 << 20
)

// config is the configuration or, beside the error, the defaults: a broken one does not keep a client from trying.
func (c *cli) config() (*Config, error) {
	file, _ := notedIn(lockPath(c.home)) // what the running daemon reads; whoever opens the home says what is wrong
	cfg, err := loadConfig(c.home, cmp.Or(c.file, file), c.userHome)
	return cmp.Or(cfg, defaultConfig(c.home)), err
}

// socketPath is $HONEYDEW_SOCKET, else the configured one. It is asked at every attempt to connect: a daemon that is
// only just starting may read another configuration.
func (c *cli) socketPath() string {
	named := c.getenv("HONEYDEW_SOCKET")
	if named != "" {
		return c.absolute(named)
	}
	cfg, _ := c.config() // else the defaults; explainSilence says what is wrong where nobody answers there
	return cfg.Daemon.SocketPath
}

// dial connects by our own dialer, when the first call is made: gRPC would read the path as a URL, and ask a proxy.
// It speaks only to the user's own daemon, or to root's. More options win.
func dial(
	path func() string,
	interceptor grpc.UnaryClientInterceptor,
	more ...grpc.DialOption,
) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(peerCredentials{}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithConnectParams(connectParams()),
		grpc.WithUnaryInterceptor(interceptor),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path())
		}),
	}
	return grpc.NewClient("passthrough:///daemon", append(options, more...)...)
}

// connectParams lets a call's own deadline end the wait for a connection. By gRPC's own, a daemon that is stopped would
// be one that cannot be reached.
func connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           grpcbackoff.DefaultConfig,
		MinConnectTimeout: 2 * watchTimeout,
	}
}

// intercept gives every call a deadline, and reads the daemon's version from its answer.
func (c *cli) intercept(
	ctx context.Context,
	method string,
	in, out any,
	conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	timeout := callTimeout
	switch path.Base(method) {
	case "Ping", "GetStatus":
		timeout = pingTimeout
	case "Login", "Prune", "Backup": // of which a long silence would say nothing
		if _, err := c.client.Ping(ctx, &daemonpb.PingRequest{}); err != nil {
			return err
		}
		timeout = longTimeout
	case "SubmitJob", "TriggerSchedule": // even one who is interrupted shall know the id of what was sent
		ctx = outlast(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	told := c.tellSlow(path.Base(method))
	defer told.Stop()
	var header metadata.MD
	options = append(options, grpc.Header(&header))
	err := invoke(ctx, method, in, out, conn, options...)
	c.noteVersion(header)
	return err
}

// tellSlow says once, after a while, who is waited for.
func (c *cli) tellSlow(method string) *time.Timer {
	return time.AfterFunc(slowAnswer, func() {
		c.slow.Do(func() {
			whom := fmt.Sprintf("the daemon (pid %s)", c.daemonPID())
			if method == "Login" {
				whom = "the API"
			}
			if c.stderrWidth() > 0 {
				fmt.Fprint(c.stderr, eraseLine)
			}
			fmt.Fprintf(c.stderr, "waiting for %s...\n", whom)
		})
	})
}

// outlast is ctx, but ends a moment after it.
func outlast(ctx context.Context) context.Context {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(answerGrace, cancel) })
	return longer
}

// noteVersion warns once of a daemon of another release.
func (c *cli) noteVersion(header metadata.MD) {
	told := header.Get(versionHeader)
	if c.skewTold || len(told) == 0 || told[0] == c.version {
		return
	}
	c.skewTold = true
	c.note("warning: this is honeydew %s, the daemon is %s; restart it with: honeydew stop && honeydew start",
		c.version, neutral(told[0]))
}

// streamCall is a method of the client that is answered by many messages.
type streamCall[In, Out any] = func(context.Context, In, ...grpc.CallOption) (grpc.ServerStreamingClient[Out], error)

// stream makes such a call; timeout is that of all messages together. The first sign of life must come as soon as the
// answer of any other call.
func stream[In, Out any](
	ctx context.Context,
	c *cli,
	timeout time.Duration,
	call streamCall[In, Out],
	in In,
	each func(*Out) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	silence := time.AfterFunc(callTimeout, cancel)
	told := c.tellSlow("")
	messages, err := call(ctx, in)
	if err == nil {
		header, _ := messages.Header() // of its error the first message says more
		c.noteVersion(header)
	}
	told.Stop()
	if !silence.Stop() {
		return status.Error(codes.DeadlineExceeded, "no sign of life")
	}
	if err != nil {
		return err
	}
	for {
		out, err := messages.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(out); err != nil {
			return err
		}
	}
}
