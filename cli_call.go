package main

// How the command line talks to the daemon and shows its answers: one dial, a deadline on every call, one warning about a
// daemon of another release, and either protojson or what a verb prints for people.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"honeydew/daemonpb"
)

const (
	callTimeout = 30 * time.Second
	longTimeout = 15 * time.Minute // of what works through the whole database, or waits for the API
	maxReceive  = 16 << 20
)

// rpc is a method of the generated client, answered by one message.
type rpc[In, Out proto.Message] = func(daemonpb.DaemonClient, context.Context, In, ...grpc.CallOption) (Out, error)

// socketPath is $HONEYDEW_SOCKET, else the configured one; a broken configuration does not keep a client from trying.
func (c *cli) socketPath() string {
	if path := c.getenv("HONEYDEW_SOCKET"); path != "" {
		return c.absolute(path)
	}
	cfg, err := loadConfig(c.home, "", c.userHome)
	if err != nil {
		c.note("warning: %s", printable(err.Error()))
		cfg = defaultConfig(c.home)
	}
	return cfg.Daemon.SocketPath
}

// daemon dials; nothing is sent before the first call.
func (c *cli) daemon() (_ daemonpb.DaemonClient, err error) {
	if c.conn == nil {
		c.conn, err = dial(c.socketPath(), c.intercept)
	}
	return daemonpb.NewDaemonClient(c.conn), err
}

// dial connects by our own dialer: gRPC would read the path as a URL, and ask a proxy.
func dial(path string, interceptor grpc.UnaryClientInterceptor) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///daemon", grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)), grpc.WithDisableServiceConfig(),
		grpc.WithUnaryInterceptor(interceptor),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
}

// intercept gives every call a deadline, and reads the daemon's version from its answer.
func (c *cli) intercept(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	timeout := callTimeout
	if slices.Contains([]string{"Login", "Prune", "Backup"}, path.Base(method)) {
		timeout = longTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var header metadata.MD
	err := invoke(ctx, method, in, out, conn, append(opts, grpc.Header(&header))...)
	c.noteVersion(header)
	return err
}

// noteVersion warns once of a daemon of another release.
func (c *cli) noteVersion(header metadata.MD) {
	if v := header.Get(versionHeader); len(v) > 0 && v[0] != c.version && !c.skewTold {
		c.skewTold = true
		c.note("warning: this is honeydew %s, the daemon is %s; restart it with: honeydew stop && honeydew start", c.version, printable(v[0]))
	}
}

// call is a call that is answered by one message.
func call[In, Out proto.Message](ctx context.Context, c *cli, method rpc[In, Out], in In) (out Out, err error) {
	d, err := c.daemon()
	if err != nil {
		return out, err
	}
	return method(d, ctx, in)
}

// stream is a call that is answered by many messages; timeout is that of all of them together.
func stream[In, Out any](ctx context.Context, c *cli, timeout time.Duration, in In, each func(*Out) error,
	method func(daemonpb.DaemonClient, context.Context, In, ...grpc.CallOption) (grpc.ServerStreamingClient[Out], error)) error {
	d, err := c.daemon()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := method(d, ctx, in)
	if err != nil {
		return err
	}
	if header, err := s.Header(); err == nil {
		c.noteVersion(header)
	}
	for {
		out, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err == nil {
			err = each(out)
		}
		if err != nil {
			return err
		}
	}
}

// ask is a call whose answer is all there is to show.
func ask[In, Out proto.Message](ctx context.Context, c *cli, method rpc[In, Out], in In) error {
	out, err := call(ctx, c, method, in)
	if err != nil {
		return err
	}
	return c.show(strings.TrimSuffix(string(in.ProtoReflect().Descriptor().Name()), "Request"), in, out)
}

// asking is a verb that is one call: flags declares its flags, and its arguments go to fields of in.
func asking[In, Out proto.Message](method rpc[In, Out], in In, flags func(f *flag.FlagSet), fields ...*string) func(*cli, *flag.FlagSet) action {
	return func(c *cli, f *flag.FlagSet) action {
		if flags != nil {
			flags(f)
		}
		return func(ctx context.Context, args []string) error {
			for i, field := range fields {
				*field = args[i]
			}
			return ask(ctx, c, method, in)
		}
	}
}

// show prints an answer: as protojson, or what the template of that name makes of it and the request.
func (c *cli) show(name string, in, out proto.Message) error {
	if c.json {
		text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(out)
		if err != nil {
			return err
		}
		return c.encode(json.RawMessage(text)) // which drops protojson's spaces: they differ from build to build
	}
	return c.render(name, struct{ In, Out proto.Message }{in, out})
}

// encode prints v as the one JSON document.
func (c *cli) encode(v any) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// showText prints a text as it is, or as the one member of a JSON document.
func (c *cli) showText(key, text string) error {
	if c.json {
		return c.encode(map[string]string{key: text})
	}
	c.printf("%s", text)
	return nil
}

// note prints to stderr what is not the answer itself.
func (c *cli) note(format string, args ...any) {
	_ = c.out.Flush() // its error comes up again at the end
	fmt.Fprintf(c.stderr, format+"\n", args...)
}
