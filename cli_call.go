package main

// How the command line talks to the daemon and shows its answers: one dial, a deadline on every call, one warning about a
// daemon of another release, and for each answer either protojson or what a template of texts/answers.txt makes of it.

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

const (
	pingTimeout  = 10 * time.Second // of a call that costs the daemon nothing
	callTimeout  = 30 * time.Second
	longTimeout  = 15 * time.Minute // of what works through the whole database, or waits for the API
	watchTimeout = time.Hour        // of one call; a longer wait asks again
	endPatience  = time.Second      // with a daemon that closed its connections, to end
	answerGrace  = 3 * time.Second  // for an answer that is on its way when the user interrupts
	maxReceive   = 16 << 20
)

// api is the generated client; its methods as expressions, such as api.Ping, name the calls.
type api = daemonpb.DaemonClient

// rpc is a call that is answered by one message.
type rpc[In, Out proto.Message] = func(api, context.Context, In, ...grpc.CallOption) (Out, error)

// config is the configuration or, beside the error, the defaults: a broken one does not keep a client from trying.
func (c *cli) config() (*Config, error) {
	file, err := notedIn(lockPath(c.home)) // what the running daemon reads
	if err != nil {
		file = "" // whoever opens the home says what is wrong
	}
	cfg, err := loadConfig(c.home, cmp.Or(c.file, file), c.userHome)
	return cmp.Or(cfg, defaultConfig(c.home)), err
}

// socketPath is $HONEYDEW_SOCKET, else the configured one. It is asked at every attempt to connect: a daemon that is only
// just starting may read another configuration.
func (c *cli) socketPath() string {
	if path := c.getenv("HONEYDEW_SOCKET"); path != "" {
		return c.absolute(path)
	}
	cfg, err := c.config()
	if err != nil {
		c.warned.Do(func() {
			fmt.Fprintln(c.stderr, "warning:", errorText(err)) // not by note: gRPC dials in a goroutine of its own
		})
	}
	return cfg.Daemon.SocketPath
}

// dial connects by our own dialer, when the first call is made: gRPC would read the path as a URL, and ask a proxy.
// It speaks only to the user's own daemon, or to root's. More options win.
func dial(path func() string, interceptor grpc.UnaryClientInterceptor, more ...grpc.DialOption) (*grpc.ClientConn, error) {
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
func (c *cli) intercept(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption) error {
	timeout := callTimeout
	switch path.Base(method) {
	case "Ping":
		timeout = pingTimeout
	case "Login", "Prune", "Backup":
		timeout = longTimeout
	case "SubmitJob", "TriggerSchedule": // even one who is interrupted shall know the id of what was sent
		ctx = outlast(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var header metadata.MD
	err := invoke(ctx, method, in, out, conn, append(opts, grpc.Header(&header))...)
	c.noteVersion(header)
	return err
}

// outlast is ctx, but ends a moment after it.
func outlast(ctx context.Context) context.Context {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(answerGrace, cancel) })
	return longer
}

// noteVersion warns once of a daemon of another release.
func (c *cli) noteVersion(header metadata.MD) {
	if v := header.Get(versionHeader); len(v) > 0 && v[0] != c.version && !c.skewTold {
		c.skewTold = true
		c.note("warning: this is honeydew %s, the daemon is %s; restart it with: honeydew stop && honeydew start", c.version, neutral(v[0]))
	}
}

// stream is a call that is answered by many messages; timeout is that of all of them together. The first sign of life
// must come as soon as the answer of any other call.
func stream[In, Out any](ctx context.Context, c *cli, timeout time.Duration, in In, each func(*Out) error,
	method func(api, context.Context, In, ...grpc.CallOption) (grpc.ServerStreamingClient[Out], error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	silence := time.AfterFunc(callTimeout, cancel)
	s, err := method(c.client, ctx, in)
	if err != nil {
		return silenceError(silence, err)
	}
	if header, headerErr := s.Header(); headerErr == nil { // otherwise the first message's error says more
		c.noteVersion(header)
	}
	if err := silenceError(silence, nil); err != nil {
		return err
	}
	for err == nil {
		var out *Out
		if out, err = s.Recv(); err == nil {
			err = each(out)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// silenceError is err, or that nothing was heard until silence ended the call.
func silenceError(silence *time.Timer, err error) error {
	if !silence.Stop() {
		return status.Error(codes.DeadlineExceeded, "no sign of life")
	}
	return err
}

// ask is a call whose answer is all there is to show.
func ask[In, Out proto.Message](ctx context.Context, c *cli, method rpc[In, Out], in In) error {
	out, err := method(c.client, ctx, in)
	if err != nil {
		return err
	}
	return c.show(strings.TrimSuffix(string(in.ProtoReflect().Descriptor().Name()), "Request"), in, out)
}

// asking is a verb that is one call: flags declares its flags, and its arguments go to fields of in.
func asking[In, Out proto.Message](method rpc[In, Out], in In, flags func(f *flag.FlagSet), fields ...*string) setup {
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

// answer prints what is no message of the daemon's: as JSON, or what the template of that name makes of it.
func (c *cli) answer(name string, document any) error {
	if c.json {
		return c.encode(document)
	}
	return c.render(name, document)
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
	fmt.Fprintln(c.stderr, neutralised(fmt.Sprintf(format, args...), "\n\t", dropped))
}

const separator = "\x1f" // of columns, in place of the tabs of the templates

//go:embed texts/answers.txt
var answers string

// render prints what the template of that name makes of data.
func (c *cli) render(name string, data any) error {
	_, text, found := strings.Cut(answers, "\n== "+name+"\n")
	if !found {
		return errorf(codeInternal, "this honeydew does not know how to show the answer %q", name).hint("see it with --json")
	}
	text, _, _ = strings.Cut(text, "\n== ")
	shown, err := template.New(name).Funcs(template.FuncMap{
		"bytes": bytesText, "local": localTime, "short": shortTime, "moment": parseTimeText,
		"payload": func(s *structpb.Struct) string { return protojson.MarshalOptions{}.Format(s) },
		"span":    func(seconds int64) string { return span(time.Duration(seconds) * time.Second) },
		"wider":   func(width int, text string) int { return max(width, utf8.RuneCountInString(text)) },
	}).Parse(strings.ReplaceAll(text, "\t", separator)) // a tab in a value is none
	if err != nil {
		return err
	}
	var out strings.Builder
	if err := shown.Execute(&out, data); err != nil {
		return err
	}
	text = neutralised(strings.TrimRight(out.String(), "\n"), "\n"+separator, dropped)
	first, _, _ := strings.Cut(text, "\n")
	columns := 1 + strings.Count(first, separator)
	if columns == 1 {
		c.printf("%s", text)
		return nil
	}
	var rows [][]string
	for line := range strings.SplitSeq(text, "\n") {
		cells := append(strings.Split(line, separator), make([]string, columns)...)[:columns] // whatever a value has in it
		if columns > 2 || cells[1] != "" {
			rows = append(rows, cells)
		}
	}
	width := c.width
	if columns == 2 {
		width = 0
	}
	c.columns("", width, rows)
	return nil
}
