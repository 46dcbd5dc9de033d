package main

// What the command line makes of words from outside. What its verbs do is driven as a user would, in sandbox/testdata.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"honeydew/daemonpb"
)

// testCLI is a command line without a daemon that prints to a buffer.
func testCLI(t testing.TB, width int) (*cli, *bytes.Buffer) {
	var out bytes.Buffer
	table, err := loadCommands(queries)
	if err != nil {
		t.Fatal(err)
	}
	return &cli{
		process:  process{getenv: func(string) string { return "" }},
		commands: func() *Commands { return table },
		printer:  newPrinter(&out, width > 0, width),
	}, &out
}

func TestFlagsMayStandAnywhereAndEndAtTwoDashes(t *testing.T) {
	for _, c := range []struct{ line, args, status string }{
		{"a b", "a b", ""},
		{"--status failed a b", "a b", "failed"},
		{"a --status=failed b", "a b", "failed"},
		{"a b --status -7d", "a b", "-7d"},
		{"a -- --status x", "a --status x", ""},
		{"-", "-", ""},
		{"--status failed a -7d b", "a -7d b", "failed"},
	} {
		f := flag.NewFlagSet("x", flag.ContinueOnError)
		status := f.String("status", "", "")
		args, err := (&verb{name: "x", args: "[ARG...]"}).parse(f, strings.Fields(c.line))
		if err != nil || strings.Join(args, " ") != c.args || *status != c.status {
			t.Errorf("%q: %q, --status %q (%v), want %q, %q", c.line, args, *status, err, c.args, c.status)
		}
	}
}

func TestArgumentsTakeTheTypeOfTheQuery(t *testing.T) {
	for _, c := range []struct {
		typ, text string
		want      any // nil: refused
	}{
		{"String!", "7", "7"}, {"Int!", "7", 7.0}, {"Int", "7.5", nil}, {"Int", "x", nil}, {"Float", "7.5", 7.5},
		{"Boolean", "true", true}, {"Boolean", "maybe", nil}, {"[Int!]!", "1,2", []any{1.0, 2.0}}, {"[String!]", "a, b", []any{"a", "b"}},
		{"[Int!]!", "1,x", nil},
	} {
		value, err := argumentValue(&Argument{Name: "x", Type: c.typ}, c.text, nil)
		list, isList := c.want.([]any)
		got, _ := value.([]any)
		if (err == nil) != (c.want != nil) || err == nil && !isList && value != c.want || isList && !slices.Equal(got, list) {
			t.Errorf("%s %q: %v (%v), want %v", c.typ, c.text, value, err, c.want)
		}
	}
}

// exampleOf are the words of a verb's example, behind the name of the program.
func exampleOf(v verb) []string {
	var words []string
	for i, part := range strings.Split(cmp.Or(v.example, v.usage()), "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words[1:]
}

func TestEveryVerbHasAnExampleThatItWouldTake(t *testing.T) {
	c, _ := testCLI(t, 0)
	for v := range c.verbs {
		if strings.HasPrefix(v.name, "__") || v.name == "completion" {
			continue
		}
		if v.args != "" && v.example == "" {
			t.Errorf("%s has arguments and no example", v.name)
		}
		found, rest, err := c.find(exampleOf(v))
		if err != nil || found == nil || found.name != v.name {
			t.Errorf("%s: the example %q is of another verb (%v)", v.name, v.example, err)
			continue
		}
		f := flag.NewFlagSet(v.name, flag.ContinueOnError)
		f.SetOutput(io.Discard)
		v.declare(f)
		if _, err := found.parse(f, rest); err != nil {
			t.Errorf("%s: the example %q: %v", v.name, v.example, err)
		}
	}
}

// Every example of a command is a job that the daemon would take.
func TestEveryExampleOfACommandMakesAJob(t *testing.T) {
	c, _ := testCLI(t, 0)
	for i, v := range c.providerVerbs() {
		cmd := c.commands().All()[i]
		daemon := &submitted1{}
		c.client = daemonpb.NewDaemonClient(daemon)
		found, rest, err := c.find(exampleOf(v))
		if err != nil {
			t.Fatal(err)
		}
		f := flag.NewFlagSet(v.name, flag.ContinueOnError)
		act := found.declare(f)
		args, err := found.parse(f, append([]string{"--detach"}, rest...))
		if err == nil {
			err = act(t.Context(), args)
		}
		if err != nil {
			t.Errorf("%s: %v", v.example, err)
			continue
		}
		payload := daemon.job.Payload.AsMap()
		if err := cmd.Check(payload); err != nil {
			t.Errorf("%s: %v", v.example, err)
		}
		if _, err := cmd.resolveDates(payload, time.Now(), time.Time{}, false); err != nil {
			t.Errorf("%s: %v", v.example, err)
		}
		if strings.Contains(strings.TrimSuffix(v.args, "..."), "...") {
			t.Errorf("%s: a list that is not the last argument", v.usage())
		}
	}
}

// submitted1 is a connection that keeps the job that is submitted.
type submitted1 struct {
	grpc.ClientConnInterface
	job *daemonpb.SubmitJobRequest
}

func (s *submitted1) Invoke(_ context.Context, _ string, in, _ any, _ ...grpc.CallOption) error {
	s.job = in.(*daemonpb.SubmitJobRequest)
	return nil
}

func TestHelpFitsTheTerminal(t *testing.T) {
	for _, width := range []int{60, 80} {
		c, out := testCLI(t, width)
		for v := range c.verbs {
			f := flag.NewFlagSet(v.name, flag.ContinueOnError)
			v.declare(f)
			c.helpVerb(&v, f)
			f.VisitAll(func(f *flag.Flag) {
				kind, usage := flag.UnquoteUsage(f)
				if usage == "" || kind == "" && f.DefValue != "false" && f.DefValue != "" {
					t.Errorf("%s --%s: no text", v.name, f.Name)
				}
			})
		}
		c.help()
		if _, _, err := c.find([]string{"azuredevops", "--help"}); err != nil {
			t.Fatal(err)
		}
		if err := c.out.Flush(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			typed := strings.Contains(line, "honeydew ") && !strings.Contains(line, "…") // what one types is not cut
			if n := len([]rune(line)); n > max(width, 80) && !typed || strings.ContainsAny(line, "`") {
				t.Errorf("width %d: %d columns: %q", width, n, line)
			}
		}
		if !strings.Contains(out.String(), "--status STATUS ") || !strings.Contains(out.String(), "--author AUTHOR ") ||
			!strings.Contains(out.String(), "honeydew azuredevops work-items ORGANIZATION IDS...") {
			t.Errorf("placeholders: %s", out)
		}
	}
}

func TestTablesFitTheTerminalAndKeepTheFirstColumn(t *testing.T) {
	for _, width := range []int{0, 40, 80} {
		c, out := testCLI(t, width)
		c.table([][]string{{"ID", "STATUS", "ERROR"}, {"4k2mzq7xw3p5ar2n", "failed", strings.Repeat("long ", 30) + "\x1b[31mred\u202e"}})
		if err := c.out.Flush(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := len([]rune(line)); width > 0 && n > width {
				t.Errorf("width %d: %d columns: %q", width, n, line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("width %d: %q would reach the terminal", width, line)
			}
		}
		if !strings.Contains(out.String(), "4k2mzq7xw3p5ar2n") {
			t.Errorf("width %d: the id was cut: %q", width, out.String())
		}
	}
}

// hostile is a connection whose every answer is full: each text holds what a terminal would obey, each list one element,
// each flag is up or down, and each job has the status.
type hostile struct {
	up     bool
	status string
	asked  map[string]bool
}

const hostileText = "a\x1b[2J\tb\u202e\u009b31m\n"

func (h *hostile) Invoke(_ context.Context, method string, _, out any, _ ...grpc.CallOption) error {
	h.asked[method] = true
	h.fill(out.(proto.Message).ProtoReflect())
	return nil
}

func (h *hostile) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	h.asked[method] = true
	return &hostileStream{hostile: h}, nil
}

func (h *hostile) fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case field.IsMap() || field.Name() == "next_page_token": // there is no next page
		case field.IsList() && field.Message() != nil:
			h.fill(m.Mutable(field).List().AppendMutable().Message())
		case field.Name() == "times":
			m.Mutable(field).List().Append(protoreflect.ValueOfString("2026-01-02T03:04:05.000Z"))
		case field.IsList():
			m.Mutable(field).List().Append(protoreflect.ValueOfString(hostileText))
		case field.Message() != nil:
			h.fill(m.Mutable(field).Message())
		case field.Name() == "status":
			m.Set(field, protoreflect.ValueOfString(h.status))
		case field.Kind() == protoreflect.BoolKind:
			m.Set(field, protoreflect.ValueOfBool(h.up))
		case field.Kind() == protoreflect.StringKind:
			m.Set(field, protoreflect.ValueOfString(hostileText))
		case field.Kind() == protoreflect.BytesKind:
			m.Set(field, protoreflect.ValueOfBytes([]byte(`{"a": "\u009b\u202e"}`)))
		}
	}
}

// hostileStream is such an answer of one message.
type hostileStream struct {
	grpc.ClientStream
	*hostile
	ended bool
}

func (*hostileStream) SendMsg(any) error            { return nil }
func (*hostileStream) CloseSend() error             { return nil }
func (*hostileStream) Header() (metadata.MD, error) { return nil, nil }

func (s *hostileStream) RecvMsg(out any) error {
	if s.ended {
		return io.EOF
	}
	s.ended = true
	s.fill(out.(proto.Message).ProtoReflect())
	return nil
}

// Every verb that shows an answer is run as its example says, and shows it to people and to scripts.
func TestEveryAnswerCanBeShown(t *testing.T) {
	asked := map[string]bool{}
	c, _ := testCLI(t, 80)
	for v := range c.verbs {
		if slices.Contains([]string{"start", "stop", "logs", "daemon", "service uninstall"}, v.name) {
			continue
		}
		for _, row := range []hostile{
			{up: true, status: statusCompleted},
			{up: false, status: statusFailed},
		} {
			for _, flags := range [][]string{nil, {"--json"}} {
				row.asked = asked
				checkHostile(t, &row, v, flags)
			}
		}
	}
	methods := daemonpb.File_daemon_proto.Services().ByName("Daemon").Methods()
	typed := len(c.commands().All())
	const answeredHere = 2 // ListCommands, PreviewSchedule
	if len(asked) < methods.Len()-typed-answeredHere {
		t.Errorf("only %d of %d calls were asked for", len(asked), methods.Len())
	}
}

func checkHostile(t *testing.T, h *hostile, v verb, flags []string) {
	t.Helper()
	words := exampleOf(v)
	switch v.name {
	case "login":
		words = append(words, "--password-stdin")
	case "completion":
		words = []string{"completion", "bash"}
	case "__complete":
		words = []string{"__complete", "job", "show", ""}
	}
	c, out := testCLI(t, 80)
	c.client = daemonpb.NewDaemonClient(h)
	home := t.TempDir()
	c.home = home
	c.userHome = home
	c.executable = "/bin/honeydew"
	c.getenv = func(string) string { return home }
	c.stdin = openFile(t, putFile(t, home, "stdin", "secret"))
	c.stderr = openFile(t, filepath.Join(home, "stderr"))
	found, rest, err := c.find(words)
	if err != nil || found.name != v.name {
		t.Fatal(v.name, err)
	}
	f := flag.NewFlagSet(v.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&c.json, "json", false, "")
	act := found.declare(f)
	args, err := found.parse(f, slices.Concat(flags, rest))
	if err != nil {
		t.Fatal(err)
	}
	err = act(t.Context(), args)
	if flushErr := c.out.Flush(); flushErr != nil {
		t.Fatal(flushErr)
	}
	failed := err != nil && (v.name == "doctor" || h.status == statusFailed)
	if err != nil && !failed {
		t.Errorf("%s: %v", v.name, err)
	}
	said, readErr := os.ReadFile(c.stderr.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	shown := out.String() + string(said)
	if shown == "" && !failed && !c.json {
		t.Errorf("%s shows nothing", v.name)
	}
	if c.json && !failed && !json.Valid(out.Bytes()) && v.name != "__complete" {
		t.Errorf("%s %q is no JSON document: %q", v.name, flags, out)
	}
	if !c.json && strings.ContainsAny(shown, "\x1b\u009b\u202e") {
		t.Errorf("%s is shown as %q", v.name, shown)
	}
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWhatATerminalWouldObeyIsTakenOut(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"plain, \u00e4 \u4e16\u754c", "plain, \u00e4 \u4e16\u754c"},
		{"\x1b[31mred\x07\x7f", "[31mred"},
		{"\u009b31m\u0085x", "31m x"},
		{"a\x9bb", "a\uFFFDb"},
		{"a\u202eb\u2066c\u200ed\u061ce", "abcde"},
		{"a\tb\nc\u00a0d\u2028e", "a b c d e"},
		{"\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"}, // a Persian word
		{"\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"},                                                 // a Hindi syllable
		{"\U0001F469\U0001F3FD\u200d\U0001F52C", "\U0001F469\U0001F3FD\u200d\U0001F52C"},                         // a scientist
		{"\u2764\ufe0f\u200d\U0001F525", "\u2764\ufe0f\u200d\U0001F525"},                                         // a heart on fire
		{"ad\u200dmin\u200c \u200dx\u200d", "admin x"},
		{"\u4e16\u200d\u200d\u4e16", "\u4e16\u4e16"},
	} {
		if got := neutral(row.text); got != row.want {
			t.Errorf("%q: %q, want %q", row.text, got, row.want)
		}
	}
}

func TestATerminalOfNoColumnsIsATerminal(t *testing.T) {
	for _, row := range []struct {
		terminal       bool
		columns, width int
	}{{true, 0, usualWidth}, {true, 40, 40}, {false, 0, 0}, {false, 40, 0}} {
		p := newPrinter(io.Discard, row.terminal, row.columns)
		if p.terminal != row.terminal || p.width != row.width {
			t.Errorf("%+v: terminal %v, width %d", row, p.terminal, p.width)
		}
	}
}

// FuzzCommandLine: whatever the words are, they name a verb with its arguments, or are refused with a sentence.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{"", "github commits acme api --start-date -7d", "job list --limit x", "submit a.b c=d --payload {", "-- --", "help",
		"schedule add a b c d=\x00", "azuredevops work-items acme 1,2,x", "env", "nosuch --json", "job cancel --status"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, _ := testCLI(t, 80)
		v, rest, err := c.find(strings.Fields(line))
		if err != nil || v == nil {
			if err != nil && err.Error() == "" {
				t.Error("refused without a word")
			}
			return
		}
		flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		v.declare(flags)
		if _, err := v.parse(flags, rest); err != nil && err.Error() == "" {
			t.Error("refused without a word")
		}
	})
}

// FuzzShown: nothing of what came from outside moves a terminal's cursor, and a result stays JSON.
func FuzzShown(f *testing.F) {
	for _, s := range []string{`{"timestamp":"2026-01-02T15:04:05.000Z","level":"info","message":"x","a":1}`, "\x1b[2J", `{"a":"\u001b"}`, "{", "\u202e\u009b31m", `["\x9b"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, shown := range []string{logLine(text), neutral(string(text))} {
			if strings.ContainsFunc(shown, func(r rune) bool {
				return !unicode.IsPrint(r) && r != utf8Error && !strings.ContainsRune("\u200c\u200d", r)
			}) {
				t.Errorf("%q is shown as %q", text, shown)
			}
		}
		for _, b := range []byte(indented(text)) {
			if b < ' ' && b != '\n' && b != '\t' && b != '\r' || b == 0x7f {
				t.Errorf("%q is shown with the byte %#x", text, b)
			}
		}
	})
}

const utf8Error = '\uFFFD'
