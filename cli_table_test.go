package main

// How wide texts and tables are, what of a result a person sees, and the colours.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

const (
	family    = "\U0001F468\u200d\U0001F469\u200d\U0001F467" // one picture of three people
	scientist = "\U0001F469\U0001F3FD\u200d\U0001F52C"       // with a colour of skin
	france    = "\U0001F1EB\U0001F1F7"                       // two letters
)

func TestWidthIsThatOfATerminal(t *testing.T) {
	for _, row := range []struct {
		text string
		want int
	}{
		{"", 0}, {"plain", 5}, {"ä", 1}, {"a\u0308", 1}, {"世界", 4}, {"한글", 4}, {"\u1112\u1161\u11ab", 2}, {"カナ", 4}, {"ｶﾅ", 2},
		{"（ａ）", 6}, {"🎉", 2}, {"✅", 2}, {"✓", 1}, {family, 2}, {scientist, 2}, {france, 2}, {france + france, 4}, {"❤", 1},
		{"❤\ufe0f", 2}, {"\u0915\u094d\u0937", 2}, {"a\U0001F3FD", 3}, {"…", 1}, {"𠀀", 2}, {"\u0301", 0},
	} {
		if got := textWidth(row.text); got != row.want {
			t.Errorf("%q takes %d columns, want %d", row.text, got, row.want)
		}
	}
}

func TestACutLeavesCharactersWhole(t *testing.T) {
	for _, row := range []struct {
		text  string
		width int
		want  string
	}{
		{"abc", 5, "abc  "}, {"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"世界人", 5, "世界…"}, {"世界人", 4, "世… "}, {"世界", 1, "…"},
		{family + family, 3, family + "…"}, {family + family, 2, "… "}, {scientist + "ab", 3, scientist + "…"}, {france + france, 3, france + "…"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
	} {
		if got := fitted(row.text, row.width); got != row.want {
			t.Errorf("%q in %d columns: %q, want %q", row.text, row.width, got, row.want)
		}
	}
}

func TestAJobFitsALineOfEachWidth(t *testing.T) {
	jobs := func() [][]string {
		return [][]string{
			{"ID", "STATUS", "COMMAND", "ARGUMENTS", "ENVIRONMENT", "SUBMITTED", "ERROR"},
			{"bpsygszxxbo3xe22", "failed", "github.commits", "organization=世界世界世界 repository=api", "production", "23h 59m ago", "TIMEOUT: nothing came within 5m0s"},
			{"ymbcq3dxac6omg22", "pending, in 23h 59m", "azuredevops.pullRequestCommits", "organization=" + family + family, "a-long-environment", "2s ago", ""},
		}
	}
	for _, row := range []struct {
		width int
		heads string
		cut   string // what is left of the second row's command
	}{
		{60, "ID STATUS COMMAND", "azuredevops.pullRequ…"},
		{80, "ID STATUS COMMAND SUBMITTED", "azuredevops.pullRequestComm…"},
		{100, "ID STATUS COMMAND ARGUMENTS SUBMITTED ERROR", "azuredevops.pullR…"},
		{200, "ID STATUS COMMAND ARGUMENTS ENVIRONMENT SUBMITTED ERROR", "azuredevops.pullRequestCommits"},
	} {
		c, out := testCLI(t, row.width)
		c.table(jobs())
		c.out.Flush()
		text := out.String()
		lines := strings.Split(strings.TrimSpace(text), "\n")
		for _, line := range lines {
			if textWidth(line) > row.width {
				t.Errorf("%d columns: %d in %q", row.width, textWidth(line), line)
			}
		}
		if heads := strings.Join(strings.Fields(lines[0]), " "); heads != row.heads {
			t.Errorf("%d columns: %s, want %s", row.width, heads, row.heads)
		}
		for _, whole := range []string{"bpsygszxxbo3xe22  failed ", "ymbcq3dxac6omg22  pending, in 23h 59m  " + row.cut} {
			if !strings.Contains(text, whole) {
				t.Errorf("%d columns: no %q in\n%s", row.width, whole, text)
			}
		}
	}
}

// What a person looks for in a list is there at each width, and nothing of it is cut for what hardly anyone does.
func TestTheColumnsThatFitAreThoseOfMostWorth(t *testing.T) {
	commits := [][]string{
		{"SHA", "MESSAGE", "AUTHOR", "AUTHOR EMAIL", "DATE", "ADDITIONS", "FILES"},
		{strings.Repeat("5bebb62fa2", 4), "Close idle connections to servers that answer with no health check", "Ada Lovelace-Fischer", "ada@acme.example", "2026-11-28", "3", "1 item"},
	}
	failed := [][]string{
		{"ID", "STATUS", "COMMAND", "ARGUMENTS", "ENVIRONMENT", "SUBMITTED", "ERROR"},
		{"bpsygszxxbo3xe22", "failed", "github.commits", "organization=acme repository=fresh", "production", "23h 59m ago", `API_ERROR: repository "fresh" not found`},
	}
	for _, row := range []struct {
		table [][]string
		width int
		want  string // the row, without the blanks that align it
	}{
		{commits, 60, "5bebb62fa…  Close idle connec…  Ada Lovelace-Fi…  2026-11-28"},
		{commits, 80, "5bebb62fa…  Close idle connections to servers tha…  Ada Lovelace-Fi…  2026-11-28"},
		{commits, 200, strings.Join(commits[1], "  ")},
		{failed, 80, `bpsygszxxbo3xe22  failed  github.commits  23h 59m ago  API_ERROR: repository "f…`},
		{failed, 120, `bpsygszxxbo3xe22  failed  github.commits  organization=acme repos…  23h 59m ago  API_ERROR: repository "fresh" not found`},
		{failed, 200, strings.Join(failed[1], "  ")},
	} {
		c, out := testCLI(t, row.width)
		c.table(row.table)
		c.out.Flush()
		_, line, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		if got := regexp.MustCompile(" {2,}").ReplaceAllString(line, "  "); got != row.want {
			t.Errorf("%d columns: %s\nwant %s", row.width, got, row.want)
		}
	}
}

func TestOnlyStatesAreColoured(t *testing.T) {
	c, out := testCLI(t, 80)
	c.colour = true
	c.table([][]string{{"STATUS", "ERROR"}, {"failed", "\x1b[32mfailed"}, {"pending, in 3s", ""}, {"pending", ""}, {"completed", ""}})
	c.pairs("status:", "completed", "problems:", "log: full", "error:", "failed", "held:", "")
	c.stateLine("failed", "job %s failed: %s", "4k2m", "failed\x1b[2J")
	c.out.Flush()
	want := "STATUS          ERROR\n" +
		"\x1b[31mfailed        \x1b[m  [32mfailed\n" +
		"\x1b[33mpending, in 3s\x1b[m\n" +
		"pending\n" +
		"\x1b[32mcompleted     \x1b[m\n" +
		"status:    \x1b[32mcompleted\x1b[m\n" +
		"problems:  \x1b[31mlog: full\x1b[m\n" +
		"error:     failed\n" +
		"job 4k2m \x1b[31mfailed\x1b[m: failed[2J\n"
	if out.String() != want {
		t.Errorf("%q\nwant\n%q", out, want)
	}
	out.Reset()
	c.json = true
	c.table([][]string{{"STATUS"}, {"failed"}})
	c.stateLine("ok", "ok")
	if c.out.Flush(); out.Len() > 0 {
		t.Errorf("--json: %q", out)
	}
}

// personSees is what a person sees of a result, and what is said beside it.
func personSees(t *testing.T, width int, text string) (answer, said string) {
	c, out := testCLI(t, width)
	path := filepath.Join(t.TempDir(), "stderr")
	c.stderr = openFile(t, path)
	c.showResult([]byte(text), "items", "get all")
	c.out.Flush()
	notes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), string(notes)
}

func TestAResultIsShownAsWhatItIs(t *testing.T) {
	today := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	when := today.Format(time.RFC3339)
	deep := `[1,{"a":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + "}]"
	for _, row := range []struct{ name, text, want, said string }{
		{"a list", `[{"name":"b","htmlUrl":"x","id":1.50,"private":true},{"name":"世","htmlUrl":null,"id":12345678901234567890,"private":null}]`,
			"NAME  HTML URL  ID                    PRIVATE\nb     x         1.50                  true\n世              12345678901234567890\n", "items: 2; get all\n"},
		{"an object that begins with one", `{"pullRequests":[{"id":1}],"pageInfo":{"more":true}}`, "ID\n1\n", "pull requests: 1; get all\n"},
		{"dates", `[{"createdAt":"` + when + `","dueDate":"2026-03-04"}]`,
			"CREATED AT  DUE DATE\n" + today.Local().Format(time.DateOnly) + "  2026-03-04\n", "items: 1; get all\n"},
		{"things with names", `[{"id":1,"author":{"email":"e","displayName":"A"},"labels":["x","y"],"teams":[{"name":"T"},{"name":"U"}],"files":[{"path":"p"}]}]`,
			"ID  AUTHOR  LABELS  TEAMS  FILES\n1   A       x, y    T, U   1 item\n", "items: 1; get all\n"},
		{"things without", `[{"id":1,"fields":{"title":"a","inner":{"x":1}}},{"id":2,"fields":null}]`, "ID  FIELDS TITLE\n1   a\n2\n", "items: 2; get all\n"},
		{"empty columns", `[{"id":1,"body":null,"files":[]},{"id":2,"body":""}]`, "ID\n1\n2\n", "items: 2; get all\n"},
		{"an object", `{"id":"1","createdAt":"` + when + `","none":null,"text":"a\nb"}`, "id:          1\ncreated at:  " + localTime(when) + "\ntext:        a b\n", ""},
		{"an object with more", `{"id":1,"list":[1,[2]],"x":{"y":{"z":1}}}`, "id:    1\nlist:  2 items\n", "get all\n"},
		{"values", `["a\u001b[2J",null,1,true]`, "a[2J\n\n1\ntrue\n", "items: 4; get all\n"},
		{"an empty list", `[]`, "", "no items\n"},
		{"an empty one in an object", ` {"commits":[]}`, "", "no commits\n"},
		{"an empty one beside a reason", `{"commits":[],"error":"boom"}`, "", "no commits; get all\n"},
		{"a deep one", deep, deep + "\n", ""},
		{"a long list in an item", `{"id":1,"tags":[` + strings.Repeat("1,", maxList) + `1]}`, "id:    1\ntags:  a long list\n", "get all\n"},
		{"both kinds", `[1,{"a":1}]`, "[\n  1,\n  {\n    \"a\": 1\n  }\n]\n", ""},
		{"objects without members", `[{}]`, "[\n  {}\n]\n", ""},
		{"a list of nothing", `[null,{"a":null}]`, "[\n  null,\n  {\n    \"a\": null\n  }\n]\n", ""},
		{"an object of nothing", `{"a":null}`, "{\n  \"a\": null\n}\n", ""},
		{"an empty object", `{}`, "{}\n", ""},
		{"a text", `"a"`, "\"a\"\n", ""},
		{"nothing", `null`, "null\n", ""},
		{"no JSON", `[{"a":1},`, "[{\"a\":1},\n", ""},
		{"more than JSON", `{"a":1}}`, "{\"a\":1}}\n", ""},
	} {
		answer, said := personSees(t, 80, row.text)
		if answer != row.want || said != row.said {
			t.Errorf("%s: %q, %q\nwant %q, %q", row.name, answer, said, row.want, row.said)
		}
	}
}

func TestAnObjectOfManyMembersIsReadAtOnce(t *testing.T) {
	var text strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&text, `,"k%d":1`, i)
	}
	members := "{" + text.String()[1:] + "}"
	for _, text := range []string{members, "[" + members + "]"} {
		if r := readResult([]byte(text), "items"); r == nil || len(r.names) != maxNames {
			t.Error("not as many members as are shown")
		}
	}
}

func TestABigListDoesNotFloodTheScreen(t *testing.T) {
	text := "[" + strings.Repeat(`{"id":1,"body":"`+strings.Repeat("x", 3000)+`"},`, 9999) + `{"id":2}]`
	answer, said := personSees(t, 60, text)
	if lines := strings.Count(answer, "\n"); lines != maxRows+1 || said != "items: 50 of 10000 shown; get all\n" {
		t.Errorf("%d lines, %q", lines, said)
	}
	for line := range strings.Lines(answer) {
		if textWidth(strings.TrimSpace(line)) > 60 {
			t.Errorf("too wide: %q", line)
		}
	}
}

// FuzzResult: whatever the API sends is shown in lines that fit, without what a terminal would obey.
func FuzzResult(f *testing.F) {
	for _, text := range []string{`[{"a":1,"name":"` + family + `"}]`, `{"a":[{"b":{"c":[1,[2]]}}]}`, `{"a":"\u001b"}`, `[1,"\ud800",null]`, `{`, `[{"":1}]`, `{"a":[`, `[{"A":"世界"},{}]`,
		`{"\u202e":{"name":1}}`, strings.Repeat("[", 11000), `[{"x":"2026-01-02T15:04:05Z"}]`} {
		f.Add([]byte(text), 20)
	}
	f.Fuzz(func(t *testing.T, text []byte, width int) {
		width = max(1, min(width, 300))
		var out bytes.Buffer
		c := &cli{printer: newPrinter(&out, true, width)}
		r := readResult(text, "items")
		if r == nil || r.object || r.count == 0 {
			return
		}
		c.table(r.rows())
		c.out.Flush()
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if textWidth(line) > width {
				t.Errorf("%d columns: %q", width, line)
			}
			if strings.ContainsFunc(line, unicode.IsControl) {
				t.Errorf("%q", line)
			}
		}
	})
}

func TestArgumentsAreWordsOfASubmit(t *testing.T) {
	payload, err := structpb.NewStruct(map[string]any{"repository": "api", "organization": "a b'c", "ids": []any{1, 2000000}, "includeDiff": true, "author": ""})
	if err != nil {
		t.Fatal(err)
	}
	const want = `author='' ids=1,2000000 includeDiff=true organization='a b'\''c' repository=api`
	if got := argumentWords(payload); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := argumentWords(nil); got != "" {
		t.Errorf("no payload: %q", got)
	}
}

func TestAWaitingJobSaysWhenItIsDue(t *testing.T) {
	at := func(d time.Duration) string { return timeText(time.Now().Add(d)) }
	for _, row := range []struct{ due, want string }{
		{"", "pending"}, {at(-time.Minute), "pending"}, {at(90*time.Minute + time.Second), "pending, in 1h 30m"}, {"x", "pending"},
	} {
		if got := statusText(&daemonpb.JobStatus{Status: statusPending, NextAttemptAt: row.due}); got != row.want {
			t.Errorf("%q: %q, want %q", row.due, got, row.want)
		}
	}
	zone := time.Now().Format(" MST (")
	if got := localTime(at(-time.Minute)); !strings.Contains(got, zone) {
		t.Errorf("no zone in %q", got)
	}
	if got := fmt.Sprint(heldText(&daemonpb.DaemonStatus{})); got != "" {
		t.Errorf("nothing is held: %q", got)
	}
}
