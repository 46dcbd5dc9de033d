package main

// The command line: a table of verbs, one dial, one place that turns errors into words and exit codes. It knows the
// socket and the command table, never the store or the daemon's insides. What a verb does is in cli_*.go.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"honeydew/daemonpb"
)

// Exit codes of the command line; the daemon's own are in daemon.go.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotRunning  = 3
	exitLogin       = 4
	exitInterrupted = 130
)

const (
	callTimeout = 30 * time.Second
	longTimeout = 15 * time.Minute // of what works through the whole database
	maxReceive  = 16 << 20
)

// process is what the outside world is to the program.
type process struct {
	name            string // as called, without directory
	args            []string
	executable      string // absolute path of the binary
	getenv          func(string) string
	userHome        string
	stdin           *os.File
	stdout, stderr  *os.File
	queries         fs.FS
	version         string
	stdoutWidth     int // columns of the terminal, 0 if it is none
	stderrIsTTY     bool
	stdinIsTerminal bool
}

// action is what a verb does with its arguments.
type action = func(ctx context.Context, args []string) error

// verb is one command of the command line. setup declares its flags and returns what it does.
type verb struct {
	name, args, short, example string // args: NAME is required, [NAME] may be left out, ... repeats
	setup                      func(c *cli, f *flag.FlagSet) action
}

// cli is one run of the command line.
type cli struct {
	process
	printer
	home                string
	json                bool
	conn                *grpc.ClientConn
	commands            *Commands
	skewTold, pauseTold bool // said once
}

// usageError is wrong usage: exit code 2.
type usageError struct{ text, hint string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) *usageError {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// jobError is the end of a job that was waited for.
type jobError struct{ job *daemonpb.JobStatus }

func (e *jobError) Error() string {
	if e.job.Error == "" {
		return fmt.Sprintf("job %s was %s", e.job.JobId, e.job.Status)
	}
	return fmt.Sprintf("job %s %s: %s", e.job.JobId, e.job.Status, printable(e.job.Error))
}

// runCLI is the whole program; it returns the exit code.
func runCLI(ctx context.Context, p process) int {
	c := &cli{process: p, home: defaultHome(p.getenv, p.userHome), printer: printer{out: bufio.NewWriterSize(p.stdout, 64<<10), width: p.stdoutWidth}}
	err := c.run(ctx)
	if c.conn != nil {
		err = errors.Join(err, c.conn.Close())
	}
	if flushErr := c.out.Flush(); flushErr != nil && err == nil {
		err = fmt.Errorf("cannot write to stdout: %w", flushErr)
	}
	return c.report(err)
}

func (c *cli) run(ctx context.Context) error {
	v, rest, err := c.find(c.args)
	if err != nil {
		return err
	}
	if v == nil {
		return nil // help was asked for
	}
	f := flag.NewFlagSet(v.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	if v.name != "daemon" {
		f.BoolVar(&c.json, "json", c.json, "print one JSON document")
		// The daemon has its own way with signals.
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
	}
	action := v.setup(c, f)
	args, err := parseInterspersed(f, rest)
	if errors.Is(err, flag.ErrHelp) {
		c.helpVerb(v, f)
		return nil
	}
	if err == nil {
		err = checkArgs(v, args)
	}
	if err != nil {
		return c.explainUsage(v, f, err)
	}
	return action(ctx, args)
}

// parseInterspersed lets flags stand after arguments, too; everything behind -- is an argument.
func parseInterspersed(f *flag.FlagSet, args []string) (positional []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		rest := f.Args()
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return append(positional, rest...), nil
		}
		if len(rest) == 0 {
			return positional, nil
		}
		positional, args = append(positional, rest[0]), rest[1:]
	}
}

// checkArgs holds the number of arguments against the verb's declaration.
func checkArgs(v *verb, args []string) error {
	words := strings.Fields(v.args)
	required := 0
	for _, w := range words {
		if !strings.HasPrefix(w, "[") {
			required++
		}
	}
	switch {
	case len(args) < required:
		return usagef("%s: %s is missing", v.name, strings.TrimSuffix(words[len(args)], "..."))
	case len(args) > len(words) && !strings.Contains(v.args, "..."):
		return usagef("%s: unexpected argument %q", v.name, args[len(words)])
	}
	return nil
}

// explainUsage adds the nearest flag and the way to help.
func (c *cli) explainUsage(v *verb, f *flag.FlagSet, err error) error {
	e, known := &usageError{text: err.Error(), hint: "see: honeydew " + v.name + " --help"}, []string{}
	f.VisitAll(func(f *flag.Flag) {
		if known = append(known, f.Name); len(f.Name) > 1 {
			e.text = strings.Replace(e.text, " -"+f.Name, " --"+f.Name, 1)
		}
	})
	e.text = strings.Replace(e.text, ": parse error", ": not what this flag takes", 1)
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		name = strings.TrimPrefix(name, "-")
		e.text = fmt.Sprintf("%s: no flag --%s", v.name, name)
		if near := nearest(name, known); near != "" {
			e.text += fmt.Sprintf("; did you mean --%s?", near)
		}
	}
	return e
}

// find splits the arguments into a verb and the rest; nil means that help was printed.
func (c *cli) find(args []string) (*verb, []string, error) {
	if len(args) > 0 && args[0] == "--json" {
		c.json, args = true, args[1:]
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
		c.help()
		return nil, nil, nil
	}
	if args[0] == "--version" {
		args = []string{"version"}
	}
	verbs, err := c.verbs(args[0])
	if err != nil {
		return nil, nil, err
	}
	for _, words := range []int{2, 1} {
		if len(args) >= words {
			name := strings.Join(args[:words], " ")
			if i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == name }); i >= 0 {
				return &verbs[i], args[words:], nil
			}
		}
	}
	return c.unknownVerb(verbs, args)
}

// unknownVerb lists a group's verbs, or suggests the nearest one.
func (c *cli) unknownVerb(verbs []verb, args []string) (*verb, []string, error) {
	var group []verb
	names := make([]string, len(verbs))
	for i, v := range verbs {
		names[i] = v.name
		if strings.HasPrefix(v.name, args[0]+" ") {
			group = append(group, v)
		}
	}
	if len(group) > 0 && (len(args) == 1 || args[1] == "-h" || args[1] == "--help") {
		c.helpGroup(args[0], group)
		if len(args) > 1 {
			return nil, nil, nil
		}
		return nil, nil, &usageError{text: args[0] + " needs one of these words"}
	}
	if len(group) == 0 {
		var err error
		if verbs, err = c.verbs(""); err != nil { // all of them, for the suggestion
			return nil, nil, err
		}
		for i := range verbs {
			first, _, _ := strings.Cut(verbs[i].name, " ")
			names = append(names, verbs[i].name, first)
		}
	}
	wanted := args[0]
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		wanted += " " + args[1]
	}
	e := &usageError{text: fmt.Sprintf("no command %q", wanted), hint: "see: honeydew --help"}
	near, distance := closest(wanted, names)
	if n, d := closest(args[0], names); d < distance {
		near, distance = n, d
	}
	if distance <= max(2, len(wanted)/3) {
		e.text += "; did you mean: honeydew " + near
	}
	return nil, nil, e
}

// verbs is the table: the fixed ones, and those of the providers where first may be one.
func (c *cli) verbs(first string) ([]verb, error) {
	all := slices.Concat(daemonVerbs(), adminVerbs(), jobVerbs(), scheduleVerbs(), toolVerbs())
	if first != "" && slices.ContainsFunc(all, func(v verb) bool { return v.name == first || strings.HasPrefix(v.name, first+" ") }) {
		return all, nil
	}
	table, err := c.table()
	if err != nil {
		return nil, err
	}
	return append(all, providerVerbs(table)...), nil
}

// table is the command table of this binary, read when it is needed.
func (c *cli) table() (_ *Commands, err error) {
	if c.commands == nil {
		c.commands, err = loadCommands(c.queries)
	}
	return c.commands, err
}

// socketPath is $HONEYDEW_SOCKET, else the configured one; a broken configuration does not keep a client from trying.
func (c *cli) socketPath() (string, error) {
	if path := c.getenv("HONEYDEW_SOCKET"); path != "" {
		return filepath.Abs(expandPath(path, c.userHome))
	}
	cfg, err := loadConfig(c.home, "", c.userHome)
	if err != nil {
		fmt.Fprintln(c.stderr, "warning:", printable(err.Error()))
		return filepath.Join(c.home, "daemon.sock"), nil
	}
	return cfg.Daemon.SocketPath, nil
}

// daemon dials; nothing is sent before the first call.
func (c *cli) daemon() (daemonpb.DaemonClient, error) {
	if c.conn == nil {
		path, err := c.socketPath()
		if err != nil {
			return nil, err
		}
		if c.conn, err = dial(path, c.intercept); err != nil {
			return nil, err
		}
	}
	return daemonpb.NewDaemonClient(c.conn), nil
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
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	var header metadata.MD
	err := invoke(ctx, method, in, out, conn, append(opts, grpc.Header(&header))...)
	c.noteVersion(header)
	return err
}

// noteVersion warns once of a daemon of another release.
func (c *cli) noteVersion(header metadata.MD) {
	if v := header.Get(versionHeader); len(v) > 0 && v[0] != c.version && !c.skewTold {
		c.skewTold = true
		fmt.Fprintf(c.stderr, "warning: this is honeydew %s, the daemon is %s; restart it with: honeydew stop && honeydew start\n", c.version, printable(v[0]))
	}
}

// call is a unary call through the generated client: the daemon's answer, printed as JSON or by people.
func call[In, Out proto.Message](ctx context.Context, c *cli, method func(daemonpb.DaemonClient, context.Context, In, ...grpc.CallOption) (Out, error), in In) (out Out, err error) {
	d, err := c.daemon()
	if err != nil {
		return out, err
	}
	return method(d, ctx, in)
}

// ask is a call whose answer is all there is to show.
func ask[In, Out proto.Message](ctx context.Context, c *cli, method func(daemonpb.DaemonClient, context.Context, In, ...grpc.CallOption) (Out, error), in In, people func(Out)) error {
	out, err := call(ctx, c, method, in)
	if err != nil {
		return err
	}
	return c.show(out, func() { people(out) })
}

// show prints the answer: protojson, or what people returns to read.
func (c *cli) show(msg proto.Message, people func()) error {
	if !c.json {
		people()
		return nil
	}
	return c.printJSON(msg)
}

func (c *cli) printJSON(msg proto.Message) error {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(msg)
	if err != nil {
		return err
	}
	return c.encode(json.RawMessage(text)) // which drops protojson's spaces: they differ from build to build
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

// report turns an error into words and an exit code.
func (c *cli) report(err error) int {
	if err == nil {
		return 0
	}
	code, text, hint := c.explain(err)
	if text != "" {
		fmt.Fprintln(c.stderr, "honeydew:", text)
	}
	if hint != "" {
		fmt.Fprintln(c.stderr, "hint:", hint)
	}
	return code
}

// explain is the one place where errors become exit codes.
func (c *cli) explain(err error) (code int, text, hint string) {
	var usage *usageError
	var job *jobError
	var exit exitError
	switch {
	case errors.As(err, &usage):
		return exitUsage, usage.text, usage.hint
	case errors.As(err, &exit):
		return exit.code, errorText(err), hintOf(err)
	case errors.As(err, &job):
		if slices.Contains([]string{codeAuthRequired, codeAuthExpired, codeAuthInvalid}, job.job.ErrorCode) {
			return exitLogin, job.Error(), "log in with: honeydew login"
		}
		return exitFailed, job.Error(), ""
	case errors.Is(err, errInterrupted):
		return exitInterrupted, "", ""
	}
	inner, isStatus := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err) // status.FromError would put the whole text of a wrapped one into the message
	if !isStatus {
		return exitFailed, errorText(err), hintOf(err)
	}
	st := inner.GRPCStatus()
	reason, hint := errorInfo(st)
	switch {
	case st.Code() == codes.Canceled:
		return exitInterrupted, "interrupted", ""
	case st.Code() == codes.Unavailable && reason == "" && strings.Contains(st.Message(), syscall.EACCES.Error()):
		return exitFailed, "the daemon's socket is not yours to use", "it belongs to another user, or $HONEYDEW_SOCKET names the wrong file"
	case st.Code() == codes.Unavailable && reason == "":
		return exitNotRunning, "the daemon is not running", "start it with: honeydew start"
	case reason == codeShuttingDown:
		return exitNotRunning, "the daemon is shutting down", "start it again with: honeydew start"
	case st.Code() == codes.DeadlineExceeded:
		return exitFailed, "the daemon is busy and did not answer in time", "try again, and see: honeydew status"
	case st.Code() == codes.Unimplemented:
		return exitFailed, "the daemon is of another release and does not know this", "restart it with: honeydew stop && honeydew start"
	case reason == codeAuthRequired, reason == codeAuthExpired, reason == codeAuthInvalid:
		return exitLogin, printable(st.Message()), "log in with: honeydew login"
	case st.Code() == codes.InvalidArgument:
		return exitUsage, printable(st.Message()), printable(hint)
	}
	return exitFailed, printable(st.Message()), printable(hint)
}

// errorText is an error of this process for people: without the code of an *Error.
func errorText(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return printable(e.Message)
	}
	return printable(err.Error())
}

func hintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}

// errorInfo reads the reason and hint of an error of our daemon.
func errorInfo(st *status.Status) (reason, hint string) {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == errorDomain {
			return info.Reason, info.Metadata["hint"]
		}
	}
	return "", ""
}
