package main

// The command line: a table of verbs, and the words that a user typed held against it. It knows the socket and the
// command table, never the store or the daemon's insides. cli_call.go talks to the daemon, cli_print.go to the user,
// cli_explain.go of errors; what the verbs do is in the other files of the same beginning.

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
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/grpc"

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

// verb is one command of the command line.
type verb struct {
	name    string // one word, or two
	args    string // NAME is required, [NAME] may be left out, ... repeats
	short   string
	example string // "" where the bare verb is one
	notes   string // what the flags do not say

	run   action                       // of a verb without flags
	setup func(f *flag.FlagSet) action // of another one: declares them
}

// declare declares the flags and returns what the verb does.
func (v *verb) declare(f *flag.FlagSet) action {
	if v.setup == nil {
		return v.run
	}
	return v.setup(f)
}

// cli is one run of the command line.
type cli struct {
	process
	printer
	home     string
	file     string // of the configuration, where it is not the home's
	commands func() *Commands
	conn     *grpc.ClientConn
	client   daemonpb.DaemonClient
	skewTold bool
	slow     sync.Once             // told of a slow answer
	stranger atomic.Pointer[error] // why nothing was sent to the socket
}

// errSaid is an error about which the user has been told all.
var errSaid = errors.New("")

// errNotRunning: no daemon of this home runs.
var errNotRunning = errors.New("the daemon is not running")

// errInterrupted: the user wants no more of it.
var errInterrupted = errors.New("interrupted")

// interruptible is what read returns, or errInterrupted as soon as ctx ends. The read itself cannot be ended, and is
// left behind: the process ends soon.
func interruptible(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type outcome struct {
		text []byte
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		text, err := read()
		done <- outcome{text, err}
	}()
	select {
	case o := <-done:
		return o.text, o.err
	case <-ctx.Done():
		return nil, errInterrupted
	}
}

// usagef is wrong usage: exit code 2.
func usagef(format string, args ...any) *Error {
	return errorf(codeInvalidArgument, format, args...)
}

// runCLI is the whole program; it returns the exit code.
func runCLI(ctx context.Context, p process) int {
	c := &cli{process: p, home: defaultHome(p.getenv, p.userHome)}
	c.printer = newPrinter(p.stdout, term.IsTerminal(int(p.stdout.Fd())), p.stdoutWidth)
	dull := p.getenv("NO_COLOR") != "" || p.getenv("TERM") == "dumb" || runtime.GOOS == "windows" // asks for it first
	c.colour = c.terminal && !dull
	err := c.run(ctx)
	flushErr := c.out.Flush()
	if flushErr != nil {
		done := ""
		if err == nil {
			done = "; but for that it was done"
		}
		err = fmt.Errorf("cannot write to stdout: %w%s", flushErr, done)
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

func (c *cli) run(ctx context.Context) error {
	c.commands = sync.OnceValue(func() *Commands {
		table, err := loadCommands(c.queries)
		if err != nil {
			panic(err) // these files are part of the binary, and the tests have read them
		}
		return table
	})
	peer := peerCredentials{refused: func(err error) { c.stranger.Store(&err) }}
	conn, err := dial(c.socketPath, c.intercept, grpc.WithTransportCredentials(peer))
	if err != nil {
		return err
	}
	c.conn = conn
	c.client = daemonpb.NewDaemonClient(conn)
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
	act := v.declare(f)
	args, err := v.parse(f, rest)
	if errors.Is(err, flag.ErrHelp) {
		c.helpVerb(v, f)
		return nil
	}
	if err != nil {
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
	fault := c.homeFault()
	switch {
	case fault == nil || verb == "version" || verb == "completion":
		return nil
	case verb == "daemon":
		return exitError{exitConfig, fault}
	}
	return fault
}

// homeFault is what is wrong with what names the home; nil if nothing is.
func (c *cli) homeFault() *Error {
	variable := homeVariable()
	own := c.getenv("HONEYDEW_HOME")
	homeless := c.getenv(variable) == ""
	switch {
	case homeless && own == "":
		return usagef("neither HONEYDEW_HOME nor %s is set, so there is no place for honeydew's files", variable).
			hint("set one of them, for example: HONEYDEW_HOME=/var/lib/honeydew")
	case homeless && strings.HasPrefix(own, "~"):
		return usagef("HONEYDEW_HOME is %q, but %s is not set", own, variable).
			hint("set it, or write the whole path")
	case !utf8.ValidString(c.home):
		return usagef("the home's path is no UTF-8: %q", c.home).
			hint("let HONEYDEW_HOME name another directory")
	}
	return nil
}

// verbs ranges over the table. Its last part is made of the commands, which are read only for whoever gets that far.
func (c *cli) verbs(yield func(verb) bool) {
	parts := []func() []verb{
		c.daemonVerbs,
		c.loginVerbs,
		c.envVerbs,
		c.queueVerbs,
		c.submitVerbs,
		c.jobVerbs,
		c.scheduleVerbs,
		c.toolVerbs,
		c.providerVerbs,
	}
	for _, part := range parts {
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
		c.json = true
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	if len(args) == 0 || isHelp(args[0]) {
		c.help()
		return nil, nil, nil
	}
	typed := args
	args = unabbreviated(args)
	var names []string // of all verbs
	var group []verb   // those that begin with the first word
	for v := range c.verbs {
		words := strings.Fields(v.name)
		n := len(words)
		if len(args) >= n && slices.Equal(words, args[:n]) {
			return &v, args[n:], nil
		}
		if words[0] == args[0] {
			group = append(group, v)
		}
		names = append(names, words[0], v.name)
	}
	return nil, nil, c.notFound(typed, names, group)
}

// unabbreviated writes out the short words that other programs have.
func unabbreviated(args []string) []string {
	if args[0] == "--version" || args[0] == "-v" {
		return []string{"version"}
	}
	if len(args) < 2 {
		return args
	}
	args = slices.Clone(args)
	switch args[1] {
	case "ls":
		args[1] = "list"
	case "rm":
		args[1] = "remove"
	}
	return args
}

// notFound says what was meant by arguments that name no verb, or shows the group of verbs that they name.
func (c *cli) notFound(args, names []string, group []verb) error {
	wanted := args[0]
	second := ""
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		second = args[1]
		wanted += " " + second
	}
	near := meant(args[0], second, names, group)
	switch {
	case near != "":
		return usagef("no command %q; did you mean: honeydew %s", wanted, near)
	case len(group) == 0:
		return usagef("no command %q", wanted).hint("see: honeydew --help")
	}
	asked := len(args) > 1 && isHelp(args[1])
	if asked || !c.json {
		c.helpGroup(group)
	}
	if len(args) == 1 {
		return usagef("%s is no command by itself; add one of the words above", wanted)
	}
	if asked {
		return nil
	}
	return usagef("no command %q", wanted)
}

// meant is the verb that two words were most likely meant to be, "" if none is near. The second is sought in the
// group of the first alone: a guess at a verb of another one could do harm.
func meant(first, second string, names []string, group []verb) string {
	switch {
	case first == "pause", first == "resume":
		return "queue " + first
	case first == "restart":
		return "stop && honeydew start"
	case first == "ps":
		return "job list"
	case first == "cancel", first == "retry":
		return "job " + first
	case first == "whoami":
		return "auth status"
	case second == "login", // of auth
		second == "logout",
		second == "logs",   // of a job
		second == "status": // of the queue
		return second
	case len(group) > 0:
		var seconds []string
		for _, v := range group {
			seconds = append(seconds, strings.TrimPrefix(v.name, first+" "))
		}
		usual := map[string]string{
			"create": "add",
			"delete": "remove",
			"prs":    "pull-requests",
			"repos":  "repositories",
			"switch": "use",
		}
		near := nearest(cmp.Or(usual[second], second), seconds)
		if near == "" {
			return ""
		}
		return first + " " + near
	}
	near := nearest(first, names)
	both := near + " " + second
	if slices.Contains(names, both) {
		return both
	}
	return near
}

func isHelp(word string) bool {
	return word == "-h" || word == "--help"
}

// parse lets flags stand after arguments, too; everything behind -- is an argument.
func (v *verb) parse(f *flag.FlagSet, words []string) ([]string, error) {
	var args []string
	for len(words) > 0 {
		_, isDate := resolveDate(words[0], time.Now()) // -7d is no flag
		if isDate {
			args = append(args, words[0])
			words = words[1:]
			continue
		}
		if err := f.Parse(words); err != nil {
			return nil, v.misused(f, err)
		}
		rest := f.Args()
		parsed := words[:len(words)-len(rest)]
		if len(parsed) > 0 && parsed[len(parsed)-1] == "--" {
			args = append(args, rest...)
			break
		}
		if len(rest) == 0 {
			break
		}
		args = append(args, rest[0])
		words = rest[1:]
	}
	declared := strings.Fields(v.args)
	given := len(args)
	if given < len(declared) && !strings.HasPrefix(declared[given], "[") {
		missing := strings.TrimSuffix(declared[given], "...")
		return nil, v.misused(f, fmt.Errorf("%s: %s is missing", v.name, missing))
	}
	if given > len(declared) && !strings.Contains(v.args, "...") {
		extra := args[len(declared)]
		if strings.HasPrefix(v.args, "CRON") {
			return nil, usagef("%s: a cron expression is one word", v.name).
				hint("quote it: honeydew %s %s", v.name, shellQuoted(strings.Join(args, " ")))
		}
		name, value, pair := strings.Cut(extra, "=")
		if pair && f.Lookup(kebab(name)) != nil {
			return nil, usagef("%s takes no KEY=VALUE; write: --%s %s", v.name, kebab(name), shellQuoted(value))
		}
		if f.Lookup("start-date") != nil && strings.HasPrefix(extra, "-") {
			return nil, usagef("%s: a date needs its flag: --start-date %s", v.name, extra)
		}
		return nil, v.misused(f, fmt.Errorf("%s: unexpected argument %q", v.name, extra))
	}
	return args, nil
}

// misused puts what package flag says into our words, with the nearest flag and the way to help.
func (v *verb) misused(f *flag.FlagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	text := strings.NewReplacer(
		": parse error", "; allowed: true or false",
		": invalid syntax", "; allowed: a whole number",
		": allowed", "; allowed",
	).Replace(err.Error())
	var known []string
	f.VisitAll(func(f *flag.Flag) {
		known = append(known, f.Name)
		if len(f.Name) > 1 {
			text = strings.Replace(text, " -"+f.Name, " --"+f.Name, 1)
		}
	})
	name, unknown := strings.CutPrefix(text, "flag provided but not defined: -")
	if unknown {
		dashes := "-"
		if len(name) > 1 {
			dashes = "--"
		}
		name = strings.TrimPrefix(name, "-")
		text = fmt.Sprintf("%s: no flag %s%s", v.name, dashes, name)
		near := nearest(name, known)
		switch {
		case slices.Contains(strings.Fields(v.args), placeOf(name)):
			text += "; write: " + v.usage()
		case near != "":
			text += fmt.Sprintf("; did you mean --%s?", near)
		case strings.Contains(v.args, "KEY=VALUE"):
			text += "; arguments of a command are written like startDate=-7d"
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
		}
		if n < least {
			return fmt.Errorf("allowed: %d and more", least)
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
