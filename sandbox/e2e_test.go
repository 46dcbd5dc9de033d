package main

// The built binary against this API, from outside: each transcript in testdata/script is one behaviour that a user would
// name. Waiting is always for an event: a line of the log, a request at the gate, a condition; never for a time.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const patience = 20 * time.Second // for one event

var update = flag.Bool("update", false, "rewrite the expected output of cmp in the transcripts")

// scene is what one script has beside its files.
type scene struct {
	server *server
	mu     sync.Mutex
	canned map[string]string // a root field's body in place of the API's own
	seen   []string          // the User-Agent of every request
}

// ServeHTTP answers as the sandbox does, but for the fields that have a body of their own.
func (s *scene) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var req request
	s.mu.Lock()
	s.seen = append(s.seen, r.UserAgent())
	var canned string
	if json.Unmarshal(body, &req) == nil {
		for _, field := range rootFields(req.Query, req.OperationName) {
			canned = s.canned[field]
		}
	}
	s.mu.Unlock()
	if canned == "" {
		s.server.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", jsonType)
	io.WriteString(w, canned)
}

func TestScripts(t *testing.T) {
	binary := os.Getenv("HONEYDEW_BIN")
	if binary == "" {
		t.Skip("HONEYDEW_BIN is not set: no end-to-end tests; run: make e2e")
	}
	version := regexp.MustCompile(`^honeydew (\S+)`).FindStringSubmatch(outputOf(t, binary, "version"))[1]
	repos := fixture(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			root, err := os.MkdirTemp("/tmp", "hd") // a socket's path must be short
			if err != nil {
				return err
			}
			env.Setenv("ROOT", root)
			env.Setenv("HONEYDEW_HOME", root+"/h")
			env.Setenv("HOME", filepath.Join(env.WorkDir, "user"))
			env.Setenv("PATH", filepath.Dir(binary)+":"+env.Getenv("PATH"))
			env.Setenv("REPOS", repos)
			env.Setenv("BIN", filepath.Dir(binary))
			env.Setenv("GOCOVERDIR", os.Getenv("GOCOVERDIR")) // of a binary that counts what it runs (make cover)
			env.Setenv("REALHOME", os.Getenv("HOME"))
			env.Setenv("SOURCE", filepath.Dir(filepath.Dir(binary)))
			env.Setenv("TZ", "UTC")
			env.Setenv("VERSION", version)
			env.Setenv("BASH_COMPLETION_USER_DIR", root)
			env.Values["scene"] = &scene{canned: map[string]string{}}
			env.Defer(func() { cleanUp(binary, root) })
			return os.Mkdir(env.Getenv("HOME"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"api": cmdAPI, "ready": cmdReady, "control": cmdControl, "answer": cmdAnswer, "agents": cmdAgents, "waitapi": cmdWaitAPI,
			"waitlog": cmdWaitLog, "until": cmdUntil, "exits": cmdExits, "json": cmdJSON, "keys": cmdKeys, "let": cmdLet,
			"perm": cmdPerm, "kill9": cmdSignal(syscall.SIGKILL), "sigterm": cmdSignal(syscall.SIGTERM), "interrupt": cmdInterrupt, "secrets": cmdSecrets,
		},
	})
}

func outputOf(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// fixture makes the git repository that the API serves.
func fixture(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", filepath.Join(dir, "api")}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@acme.example", "GIT_COMMITTER_NAME=Ada",
			"GIT_COMMITTER_EMAIL=ada@acme.example", "GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "api"), 0o700); err != nil {
		t.Fatal(err)
	}
	run("init", "-q", "-b", "main")
	for _, message := range []string{"first", "second", "third"} {
		run("commit", "-q", "--allow-empty", "-m", message)
	}
	return dir
}

// cleanUp stops every daemon of a script, asking first.
func cleanUp(binary, root string) {
	homes, _ := filepath.Glob(root + "/*")
	for _, home := range homes {
		pid, err := os.ReadFile(filepath.Join(home, "daemon.pid"))
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		cmd := exec.CommandContext(ctx, binary, "stop", "--force")
		cmd.Env = append(os.Environ(), "HONEYDEW_HOME="+home)
		if cmd.Run() != nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(pid))); err == nil && isHoneydew(n) {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
		cancel()
	}
	os.RemoveAll(root)
}

// isHoneydew keeps a stale PID file from killing a stranger.
func isHoneydew(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || strings.Contains(string(line), "honeydew")
}

// cmdAPI starts the API with the sandbox's flags and puts its URL into $API; once more replaces it under a new address.
func cmdAPI(ts *testscript.TestScript, neg bool, args []string) {
	o, _, err := parseFlags(append([]string{"-repos", ts.Getenv("REPOS"), "-clones", filepath.Join(ts.Getenv("WORK"), "clones")}, args...), ts.Stderr())
	ts.Check(err)
	o.Schema, err = readSchema("")
	ts.Check(err)
	ts.Check(os.MkdirAll(o.Clones, 0o700))
	s := sceneOf(ts)
	s.server, err = newServer(o)
	ts.Check(err)
	srv := httptest.NewServer(s)
	ts.Defer(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	ts.Setenv("API", srv.URL+"/graphql")
}

// cmdReady is what most scripts begin with: an API, a daemon, a login.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	cmdAPI(ts, false, args)
	ts.Check(os.WriteFile(ts.MkAbs(".password"), []byte("demo\n"), 0o600))
	for _, line := range []string{"honeydew start", "honeydew env add demo $API --use", "honeydew login --username demo --password-stdin <.password"} {
		ts.Check(ts.Exec("sh", "-c", line))
	}
}

func sceneOf(ts *testscript.TestScript) *scene { return ts.Value("scene").(*scene) }

// cmdControl posts its argument to the API's /control.
func cmdControl(ts *testscript.TestScript, neg bool, args []string) {
	rec := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/control", strings.NewReader(args[0]))
	r.Header.Set("Content-Type", jsonType)
	sceneOf(ts).server.ServeHTTP(rec, r)
	if rec.Code != http.StatusOK {
		ts.Fatalf("control: %s", rec.Body)
	}
}

// cmdAnswer gives a root field a body of its own: `answer FIELD BODY`, `answer FIELD big MIB` for a result of that
// size, `answer FIELD @error` for a long error, `answer FIELD` for the API's own again.
func cmdAnswer(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	body := ""
	switch {
	case len(args) == 3 && args[1] == "big":
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		body = fmt.Sprintf(`{"data":{%q:{"text":%q}}}`, args[0], strings.Repeat("0123456789abcdef", n<<16))
	case len(args) == 2 && args[1] == "@error":
		body = `{"data":null,"errors":[{"message":"` + strings.Repeat("word ", 190) + `"}]}`
	case len(args) == 2:
		body = args[1]
	}
	s.canned[args[0]] = body
}

// cmdAgents checks that every request came with this User-Agent.
func cmdAgents(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 || slices.ContainsFunc(s.seen, func(agent string) bool { return agent != args[0] }) {
		ts.Fatalf("User-Agents: %q", s.seen)
	}
}

// cmdWaitAPI waits until a counter of the API is at least N: `waitapi waiting 1`, `waitapi githubCommits 3`. With !, it
// checks that the counter is N now.
func cmdWaitAPI(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	count := func() int {
		c := sceneOf(ts).server.control().Counters
		switch args[0] {
		case "waiting":
			return c.Waiting
		case "refreshes":
			return c.Refreshes
		}
		return c.ByField[args[0]]
	}
	if neg {
		if got := count(); got != n {
			ts.Fatalf("%s: %d, want %d", args[0], got, n)
		}
		return
	}
	await(ts, func() bool { return count() >= n }, func() string { return fmt.Sprintf("%s is %d", args[0], count()) })
}

func await(ts *testscript.TestScript, done func() bool, state func() string) {
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("this did not come: %s", state())
		}
	}
}

// cmdWaitLog waits until N lines (1) of the daemon's log match.
func cmdWaitLog(ts *testscript.TestScript, neg bool, args []string) {
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	n := 1
	if len(args) > 1 {
		n, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	text := func() []byte {
		b, _ := os.ReadFile(filepath.Join(ts.Getenv("HONEYDEW_HOME"), "daemon.log"))
		return b
	}
	await(ts, func() bool { return len(re.FindAll(text(), n)) >= n }, func() string { return args[0] + "\n" + string(text()) })
}

// cmdUntil repeats a shell command until it succeeds.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	await(ts, func() bool { return ts.Exec("sh", "-c", args[0]) == nil }, func() string { return args[0] })
}

// cmdExits runs honeydew and wants this exit code: `exits 3 ping`.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("honeydew", args[1:]...)
	if got := exitCode(err); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// document is stdout as the one JSON document that it must be.
func document(ts *testscript.TestScript) any {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	if _, err := d.Token(); err != io.EOF {
		ts.Fatalf("stdout holds more than one JSON document")
	}
	return v
}

// at walks a path such as .jobs[0].status; a # at its end counts.
func at(ts *testscript.TestScript, v any, path string) any {
	path, counted := strings.CutSuffix(path, "#")
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[step]
			if !ok {
				ts.Fatalf("no %s in %v", step, v)
			}
			v = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(x) {
				ts.Fatalf("no %s in %v", step, v)
			}
			v = x[i]
		default:
			ts.Fatalf("no %s in %v", step, v)
		}
	}
	if counted {
		return len(v.([]any))
	}
	return v
}

// cmdJSON checks that stdout is one JSON document, and that each path given matches the pattern behind it.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	v := document(ts)
	for i := 0; i+1 < len(args); i += 2 {
		text := fmt.Sprint(at(ts, v, args[i]))
		if ok, err := regexp.MatchString("^(?s:"+args[i+1]+")$", text); err != nil || ok == neg {
			ts.Fatalf("%s is %q, want %q", args[i], text, args[i+1])
		}
	}
}

// cmdKeys checks the keys of the object at a path, all of them.
func cmdKeys(ts *testscript.TestScript, neg bool, args []string) {
	object, ok := at(ts, document(ts), args[0]).(map[string]any)
	if !ok {
		ts.Fatalf("%s is no object", args[0])
	}
	var got []string
	for key := range object {
		got = append(got, key)
	}
	want := slices.Clone(args[1:])
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		ts.Fatalf("keys are\n%s, want\n%s", got, want)
	}
}

// cmdLet sets a variable to stdout, or to what stands there at a path.
func cmdLet(ts *testscript.TestScript, neg bool, args []string) {
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) > 1 {
		value = fmt.Sprint(at(ts, document(ts), args[1]))
	}
	ts.Setenv(args[0], value)
}

// cmdPerm checks the permissions of files: `perm 600 FILE...`.
func cmdPerm(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// cmdSignal sends a signal to the daemon and waits for its end.
func cmdSignal(signal syscall.Signal) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(filepath.Join(ts.Getenv("HONEYDEW_HOME"), "daemon.pid"))))
		ts.Check(err)
		ts.Check(syscall.Kill(pid, signal))
		await(ts, func() bool { return ended(pid) }, func() string { return "the end of the daemon" })
	}
}

// ended is also true of a process that nobody has waited for.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) != nil
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// cmdInterrupt is Ctrl-C for the process whose id stands in a file: `interrupt FILE`.
func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGINT))
}

// cmdSecrets fails if any file of the home holds one of the texts, or anything that looks like a token.
func cmdSecrets(ts *testscript.TestScript, neg bool, args []string) {
	token := regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}`)
	ts.Check(filepath.WalkDir(ts.Getenv("HONEYDEW_HOME"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, secret := range args {
			if bytes.Contains(text, []byte(secret)) {
				return fmt.Errorf("%s holds %q in the clear", path, secret)
			}
		}
		if found := token.Find(text); found != nil {
			return fmt.Errorf("%s holds a token in the clear: %s", path, found)
		}
		return nil
	}))
}
