package main

// Odd input: each has a clear answer.

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"honeydew/daemonpb"
)

func TestArgumentsThatAreNoUTF8AreNamed(t *testing.T) {
	for _, args := range [][]string{
		{"job", "show", "a\xff"},
		{"env", "add", "a\xff", "https://example.com"},
		{"submit", "account.me", "x=\xff"},
		{"a\xff"},
		{"daemon", "--config", "a\xff"},
		{"account", "me", "--environment", "a\xff"},
	} {
		got := testProcess(t, shortDir(t), args...).run(context.Background(), t)
		if got.code != exitUsage || !strings.Contains(got.stderr, "is no UTF-8: \"") || !strings.Contains(got.stderr, `\xff`) {
			t.Errorf("%q: exit %d, %s", args, got.code, got.stderr)
		}
	}
}

func TestNoHomeIsAClearError(t *testing.T) {
	for _, row := range []struct {
		name, home, own string
		verb            string
		code            int
		text            string
	}{
		{"neither", "", "", "ping", exitUsage, "neither HONEYDEW_HOME nor HOME is set"},
		{"neither, daemon", "", "", "daemon", exitConfig, "neither HONEYDEW_HOME nor HOME is set"},
		{"neither, start", "", "", "start", exitUsage, "neither HONEYDEW_HOME nor HOME is set"},
		{"neither, doctor", "", "", "doctor", exitUsage, "neither HONEYDEW_HOME nor HOME is set"},
		{"neither, version", "", "", "version", 0, ""},
		{"neither, completion", "", "", "completion bash", 0, ""},
		{"neither, help", "", "", "help", 0, ""},
		{"a tilde", "", "~/x", "ping", exitUsage, `HONEYDEW_HOME is "~/x", but HOME is not set`},
		{"no UTF-8", "/tmp", "/tmp/\xff", "ping", exitUsage, `the home's path is no UTF-8: "/tmp/\xff"`},
		{"no UTF-8, daemon", "/tmp", "/tmp/\xff", "daemon", exitConfig, `the home's path is no UTF-8: "/tmp/\xff"`},
		{"only its own", "", shortDir(t), "ping", exitNotRunning, "not running"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := testProcess(t, shortDir(t), strings.Fields(row.verb)...)
			vars := map[string]string{"HOME": row.home, "HONEYDEW_HOME": row.own}
			p.getenv = func(name string) string { return vars[name] }
			p.userHome = "/" // as main has it
			got := p.run(context.Background(), t)
			if got.code != row.code || !strings.Contains(got.stderr, row.text) {
				t.Errorf("exit %d, %q, want %d, %q", got.code, got.stderr, row.code, row.text)
			}
		})
	}
}

func TestAByteOrderMarkIsNoPartOfWhatIsRead(t *testing.T) {
	const mark = "\xef\xbb\xbf"
	for _, row := range []struct{ text, want, refused string }{
		{"text", "text", ""},
		{mark + "text", "text", ""},
		{mark + mark, mark, ""}, // only the first is one
		{"te" + mark + "xt", "te" + mark + "xt", ""},
		{"\xff\xfet\x00", "", "is UTF-16"},
		{"\xfe\xff\x00t", "", "is UTF-16"},
		{"t\xe4st", "", "is no UTF-8"},
	} {
		dir := t.TempDir()
		c, _ := testCLI(t, 0)
		file := putFile(t, dir, "file", row.text)
		check := func(what, got string, err error) {
			t.Helper()
			if row.refused != "" && (err == nil || !strings.Contains(err.Error(), row.refused)) {
				t.Errorf("%s %q: %v, want: %s", what, row.text, err, row.refused)
			}
			if row.refused == "" && (err != nil || got != row.want) {
				t.Errorf("%s %q: %q (%v), want %q", what, row.text, got, err, row.want)
			}
		}
		open := func() *os.File {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		}
		c.stdin = open()
		password, err := c.pipedPassword(t.Context())
		check("password", password, err)
		c.stdin = open()
		piped, err := c.readInput(t.Context(), "-")
		check("stdin", piped, err)
		read, err := c.readInput(t.Context(), file)
		check("file", read, err)
	}
	file := putFile(t, t.TempDir(), "batch", mark+`{"command":"account.me"}`+"\n")
	if stdout, _, err := runVerb(t, impostor{}, "submit", "account.me", "--payload", "@"+putFile(t, filepath.Dir(file), "p", mark+"{}")); err != nil {
		t.Errorf("a payload with a mark: %v %s", err, stdout)
	}
	if _, _, err := runVerb(t, impostor{}, "submit", "--batch", file); err != nil {
		t.Errorf("a batch with a mark: %v", err)
	}
}

// underlined is a daemon with a schedule whose name begins as the verb that help does not name.
type underlined struct{ daemonpb.DaemonClient }

func (underlined) ListSchedules(context.Context, *daemonpb.ListSchedulesRequest, ...grpc.CallOption) (*daemonpb.ListSchedulesResponse, error) {
	return &daemonpb.ListSchedulesResponse{Schedules: []*daemonpb.Schedule{{Name: "__nightly"}}}, nil
}

func TestANameIsCompletedWhateverItBeginsWith(t *testing.T) {
	for _, row := range []struct {
		words []string
		want  string
	}{
		{[]string{"schedule", "run", ""}, "__nightly\n"},
		{[]string{"schedule", "run", "__n"}, "__nightly\n"},
		{[]string{"__c"}, ""},
	} {
		stdout, _, err := runVerb(t, underlined{}, append([]string{"__complete", "--"}, row.words...)...)
		if err != nil || stdout != row.want {
			t.Errorf("%q: %q (%v), want %q", row.words, stdout, err, row.want)
		}
	}
}

func TestAFileIsCompletedWhereOneIsMeant(t *testing.T) {
	for line, want := range map[string]string{
		"backup x":                              fileMark,
		"daemon --config x":                     fileMark,
		"start --config x":                      fileMark,
		"submit --batch x":                      fileMark,
		"submit account.me --payload @x":        atFileMark,
		"schedule add a b c --payload @":        atFileMark,
		"submit account.me --payload x":         "",
		"env add x":                             "",
		"completion ba":                         "bash",
		"schedule add nightly @daily account.m": "account.me",
		"schedule add nightly --overlap al":     "allow",
		"submit account.me --idempotency-ke":    "--idempotency-key",
	} {
		stdout, _, err := runVerb(t, impostor{}, append([]string{"__complete", "--"}, strings.Fields(line)...)...)
		if got := strings.TrimSpace(stdout); err != nil || got != want && !strings.HasPrefix(got, want+"\n") {
			t.Errorf("%s: %q (%v), want %q", line, got, err, want)
		}
	}
}
