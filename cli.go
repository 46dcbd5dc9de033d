package main

// The command line: a table of verbs, the words that a user typed held against it, and one place that turns errors into
// words and exit codes. It knows the socket and the command table, never the store or the daemon's insides. cli_call.go
// talks to the daemon; what the verbs do is in cli_daemon.go and cli_jobs.go.

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

// process is what the outside world is to the program.
type process struct {
	args           []string
	executable     string // absolute path of the binary
	getenv         func(string) string
	userHome       string
	stdin          *os.File
	stdout, stderr *os.File
	queries        fs.FS
	version        string
	stdoutWidth    int // columns of the terminal, 0 if it is none or does not know
}

// action is what a verb does with its arguments.
type action = func(ctx context.Context, args []string) error

// setup declares a verb's flags and returns what it does.
type setup = func(c *cli, f *flag.FlagSet) action

// verb is one command of the command line.
type verb struct {
	name, args, short, example string // args: NAME is required, [NAME] may be left out, ... repeats
	setup                      setup
}

// cli is one run of the command line.
type cli struct {
	process
	printer
	home     string
	json     bool
	file     string // of the configuration, where it is not the home's
	commands func() *Commands
	conn     *grpc.ClientConn
	client   api
	skewTold bool
	stranger atomic.Pointer[error] // why nothing was sent to the socket
	warned   sync.Once             // of a broken configuration
}

// errSaid is an error about which the user has been told all.
var errSaid = errors.New("")

// errInterrupted: the user wants no more of it.
var errInterrupted = errors.New("interrupted")

// interruptible is what read returns, or errInterrupted as soon as ctx ends. The read itself cannot be ended, and is
// left behind: the process ends soon.
func interruptible[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := read()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, errInterrupted
	}
}

// usagef is wrong usage: exit code 2.
func usagef(format string, args ...any) *Error { return errorf(codeInvalidArgument, format, args...) }

// runCLI is the whole program; it returns the exit code.
func runCLI(ctx context.Context, p process) int {
	c := &cli{process: p, home: defaultHome(p.getenv, p.userHome)}
	c.printer = newPrinter(p.stdout, term.IsTerminal(int(p.stdout.Fd())), p.stdoutWidth)
	err := c.run(ctx)
	if flushErr := c.out.Flush(); flushErr != nil {
		err = fmt.Errorf("cannot write to stdout: %w", flushErr)
	}
	if err == nil {
		return 0
	}
	code, text, hint := c.explain(err)
	if text != "" {
		c.note("honeydew: %s", text)
	}
	if hint != "" {
		c.note("hint: %s", hint)
	}
	return code
}

func (c *cli) run(ctx context.Context) (err error) {
	c.commands = sync.OnceValue(func() *Commands {
		table, err := loadCommands(c.queries)
		if err != nil {
			panic(err) // these files are part of the binary, and the tests have read them
		}
		return table
	})
	peer := peerCredentials{refused: func(err error) { c.stranger.Store(&err) }}
	c.conn, err = dial(c.socketPath, c.intercept, grpc.WithTransportCredentials(peer))
	if err != nil {
		return err
	}
	c.client = daemonpb.NewDaemonClient(c.conn)
	if err := checkWords(c.args); err != nil {
		return err
	}
	v, rest, err := c.find(c.args)
	if v == nil {
		return err
	}
	f := flag.NewFlagSet(v.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	if v.name != "daemon" { // which has its own way with signals
		f.BoolVar(&c.json, "json", c.json, "print one JSON document")
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
		context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	}
	act := v.setup(c, f)
	args, err := v.parse(f, rest)
	if errors.Is(err, flag.ErrHelp) {
		c.helpVerb(v, f)
		return nil
	} else if err != nil {
		return err
	}
	if err := c.checkHomeKnown(v.name); err != nil {
		return err
	}
	return act(ctx, args)
}

// checkWords refuses arguments that are no UTF-8, which the daemon's protocol cannot carry.
func checkWords(args []string) error {
	for i, word := range args {
		if !utf8.ValidString(word) {
			return usagef("argument %d is no UTF-8: %q", i+1, word).hint("is the locale of this shell UTF-8?")
		}
	}
	return nil
}

// homeVariable is the environment variable that names the user's home.
func homeVariable() string {
	if runtime.GOOS == "windows" {
		return "USERPROFILE"
	}
	return "HOME"
}

// checkHomeKnown refuses a verb that needs the home where nobody says which it is, or where its name cannot travel.
func (c *cli) checkHomeKnown(verb string) error {
	if verb == "version" || verb == "completion" {
		return nil
	}
	variable, own := homeVariable(), c.getenv("HONEYDEW_HOME")
	var fault *Error
	switch {
	case c.getenv(variable) == "" && own == "":
		fault = usagef("neither HONEYDEW_HOME nor %s is set, so there is no place for honeydew's files", variable).
			hint("set one of them, for example: HONEYDEW_HOME=/var/lib/honeydew")
	case c.getenv(variable) == "" && strings.HasPrefix(own, "~"):
		fault = usagef("HONEYDEW_HOME is %q, but %s is not set", own, variable).hint("set it, or write the whole path")
	case !utf8.ValidString(c.home):
		fault = usagef("the home's path is no UTF-8: %q", c.home).hint("let HONEYDEW_HOME name another directory")
	default:
		return nil
	}
	if verb == "daemon" {
		return exitError{exitConfig, fault}
	}
	return fault
}

// verbs ranges over the table. The commands, of which the last ones are made, are read only for who comes to them.
func (c *cli) verbs(yield func(verb) bool) {
	for _, part := range []func() []verb{daemonVerbs, adminVerbs, jobVerbs, scheduleVerbs, toolVerbs, c.providerVerbs} {
		for _, v := range part() {
			if !yield(v) {
				return
			}
		}
	}
}

// find splits the arguments into a verb and the rest; no verb and no error means that help was asked for and printed.
func (c *cli) find(args []string) (*verb, []string, error) {
	if len(args) > 0 && args[0] == "--json" {
		c.json, args = true, args[1:]
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	if len(args) == 0 || isHelp(args[0]) {
		c.help()
		return nil, nil, nil
	}
	if args[0] == "--version" {
		args = []string{"version"}
	}
	var names []string
	var group []verb
	for v := range c.verbs {
		first, second, _ := strings.Cut(v.name, " ")
		if names = append(names, first, v.name); first != args[0] {
			continue
		} else if second == "" {
			return &v, args[1:], nil
		} else if len(args) > 1 && second == args[1] {
			return &v, args[2:], nil
		}
		group = append(group, v)
	}
	wanted := args[0]
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		wanted += " " + args[1]
	} else if len(group) > 0 {
		c.helpGroup(args[0], group)
		if len(args) == 1 {
			return nil, nil, usagef("%s needs one of these words", args[0])
		} else if isHelp(args[1]) {
			return nil, nil, nil
		}
	}
	e := usagef("no command %q", wanted).hint("see: honeydew --help")
	if near := cmp.Or(nearest(wanted, names), nearest(args[0], names)); near != "" {
		e.Message += "; did you mean: honeydew " + near
	}
	return nil, nil, e
}

func isHelp(word string) bool { return word == "-h" || word == "--help" }

// parse lets flags stand after arguments, too; everything behind -- is an argument.
func (v *verb) parse(f *flag.FlagSet, words []string) (args []string, err error) {
	for len(words) > 0 {
		if err := f.Parse(words); err != nil {
			return nil, v.misused(f, err)
		}
		rest := f.Args()
		if n := len(words) - len(rest); n > 0 && words[n-1] == "--" || len(rest) == 0 {
			args, words = append(args, rest...), nil
		} else {
			args, words = append(args, rest[0]), rest[1:]
		}
	}
	declared := strings.Fields(v.args)
	if n := len(args); n < len(declared) && !strings.HasPrefix(declared[n], "[") {
		return nil, v.misused(f, fmt.Errorf("%s: %s is missing", v.name, strings.TrimSuffix(declared[n], "...")))
	} else if n > len(declared) && !strings.Contains(v.args, "...") {
		return nil, v.misused(f, fmt.Errorf("%s: unexpected argument %q", v.name, args[len(declared)]))
	}
	return args, nil
}

// misused puts what package flag says into our words, with the nearest flag and the way to help.
func (v *verb) misused(f *flag.FlagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	wrong := ": not what this flag takes"
	text, known := strings.NewReplacer(": parse error", wrong, ": invalid syntax", wrong).Replace(err.Error()), []string{}
	f.VisitAll(func(f *flag.Flag) {
		if known = append(known, f.Name); len(f.Name) > 1 {
			text = strings.Replace(text, " -"+f.Name, " --"+f.Name, 1)
		}
	})
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		name = strings.TrimPrefix(name, "-")
		text = fmt.Sprintf("%s: no flag --%s", v.name, name)
		if near := nearest(name, known); near != "" {
			text += fmt.Sprintf("; did you mean --%s?", near)
		}
	}
	return usagef("%s", text).hint("see: honeydew %s --help", v.name)
}

// number declares a flag that takes a number of 32 bits from least on.
func number(f *flag.FlagSet, name string, least int64, usage string, set func(int32)) {
	f.Func(name, usage, func(text string) error {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return errors.Unwrap(err) // without the name of the function
		} else if n < least {
			return fmt.Errorf("%d; allowed: %d and more", n, least)
		}
		set(int32(n))
		return nil
	})
}

// absolute is a path as the user means it: from the working directory, and ~ is the home.
func (c *cli) absolute(path string) string {
	path = expandPath(path, c.userHome)
	absolute, _ := filepath.Abs(path) // "" where there is no working directory; whoever opens the path says so
	return cmp.Or(absolute, path)
}

// explain is the one place where errors become words and exit codes.
func (c *cli) explain(err error) (code int, text, hint string) {
	e, grpcCode := asError(err)
	text, hint = neutral(e.Message), neutral(e.Hint)
	if exit, ok := errors.AsType[exitError](err); ok && exit.code != 0 {
		return exit.code, text, hint
	}
	if errors.Is(err, errInterrupted) || grpcCode == codes.Canceled {
		return exitInterrupted, "interrupted", ""
	}
	switch grpcCode {
	case codes.Unavailable, codes.DeadlineExceeded:
		return c.explainSilence(grpcCode, text)
	case codes.Unimplemented:
		return exitFailed, "the daemon is of another release and does not know this",
			"restart it with: honeydew stop && honeydew start"
	}
	switch e.Code {
	case codeShuttingDown:
		return exitNotRunning, "the daemon is shutting down", "start it again with: honeydew start"
	case codeAuthRequired, codeAuthExpired, codeAuthInvalid:
		return exitLogin, text, "log in with: honeydew login"
	case codeInvalidArgument, codeUnknownCommand:
		return exitUsage, text, hint
	}
	return exitFailed, text, hint
}

// explainSilence says why no answer came: text is what gRPC says of it. Whether a daemon runs is what its lock says,
// for a socket tells a stopped or busy daemon from a dead one badly.
func (c *cli) explainSilence(code codes.Code, text string) (exit int, said, hint string) {
	if stranger := c.stranger.Load(); stranger != nil {
		return exitFailed, neutral((*stranger).Error()),
			"do not trust it; remove it, or let $HONEYDEW_SOCKET or daemon.socket_path name your own daemon's"
	}
	if path := c.otherSocket(); path != "" && code == codes.Unavailable && isNobodyThere(text) {
		return exitNotRunning, neutral("the daemon is not running: nobody listens at " + path + ", which $HONEYDEW_SOCKET names"),
			"start it with: honeydew start, or unset HONEYDEW_SOCKET"
	}
	held, err := c.daemonHolds(code)
	switch {
	case outOfFiles(err) || strings.Contains(text, syscall.EMFILE.Error()):
		return exitFailed, "too many open files: this process may open no more, and so cannot ask the daemon",
			"raise the limit, for example with: ulimit -n 256"
	case strings.Contains(text, syscall.EACCES.Error()):
		return exitFailed, "the daemon's socket is not yours to use",
			"it belongs to another user, or $HONEYDEW_SOCKET names the wrong file"
	case err != nil:
		return exitFailed, neutral(fmt.Sprintf("the daemon does not answer, and whether it runs is not known: %v", err)),
			"look with: honeydew doctor"
	case held:
		pid := c.daemonPID()
		return exitFailed, fmt.Sprintf("the daemon runs (pid %s) but does not answer: busy or stopped", pid),
			fmt.Sprintf("try again; kill -CONT %s wakes a stopped one, kill %s ends it; see also: honeydew logs", pid, pid)
	case code == codes.DeadlineExceeded:
		return exitFailed, "no answer came in time, and no daemon of this home runs",
			"see which socket is asked with: honeydew doctor"
	}
	return exitNotRunning, "the daemon is not running", "start it with: honeydew start"
}

// otherSocket is the socket that $HONEYDEW_SOCKET names in place of the home's own, of which the home's lock says
// nothing; "" if it does not.
func (c *cli) otherSocket() string {
	if c.getenv("HONEYDEW_SOCKET") == "" {
		return ""
	}
	cfg, _ := c.config()
	if path := c.socketPath(); path != cfg.Daemon.SocketPath {
		return path
	}
	return ""
}

// isNobodyThere reports whether gRPC's text says that no process listens at the socket.
func isNobodyThere(text string) bool {
	return strings.Contains(text, syscall.ENOENT.Error()) || strings.Contains(text, syscall.ECONNREFUSED.Error())
}

// daemonHolds reports whether a daemon holds the lock of the home. One whose connection broke may be at its end, and
// is given a moment to reach it.
func (c *cli) daemonHolds(code codes.Code) (held bool, err error) {
	patience := time.Now().Add(endPatience)
	for {
		held, err = lockHeld(lockPath(c.home))
		if !held || err != nil || code != codes.Unavailable || time.Now().After(patience) {
			return held, err
		}
		time.Sleep(poll)
	}
}

// daemonPID is the daemon's process, as its PID file has it.
func (c *cli) daemonPID() string {
	cfg, _ := c.config()
	text, err := os.ReadFile(cfg.Daemon.PIDFile)
	if pid, convErr := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && convErr == nil {
		return strconv.Itoa(pid)
	}
	return "unknown"
}

// outOfFiles reports whether err is that of a process, or of a system, that can open no more files.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// asError is err as an Error, whether it arose here or came from the daemon; the code is that of gRPC where gRPC itself
// failed, which our daemon's errors tell from their own by their reason.
func asError(err error) (*Error, codes.Code) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, codes.OK
	}
	st, ok := status.FromError(err) // nobody wraps one, which would put the whole of its text into the message
	if !ok {
		return &Error{Message: err.Error()}, codes.OK
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == errorDomain {
			return &Error{Code: info.Reason, Message: st.Message(), Hint: info.Metadata["hint"]}, codes.OK
		}
	}
	return &Error{Message: st.Message()}, st.Code()
}

// errorText is an error for people.
func errorText(err error) string {
	e, _ := asError(err)
	return neutral(e.Message)
}
