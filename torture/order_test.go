package main

// The order of system calls: what is promised is on the disk before anybody hears of it. Looked at from outside, with
// strace, since a test inside the process would have to trust what it is to prove.

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"honeydew/daemonpb"
)

// syscallLine is one call: the lines of the trace where it began and ended, what it was, on what, with which bytes.
type syscallLine struct {
	began, ended     int
	name, file, data string
}

var (
	callStart   = regexp.MustCompile(`^(\d+)\s+(\w+)\((\d+)(?:<((?:[^<>]|<->|->)*)>)?`)
	callResumed = regexp.MustCompile(`^(\d+)\s+<\.\.\. (\w+) resumed>`)
)

// readTrace reads strace's -f -yy -xx.
func readTrace(t *testing.T, path string) (calls []syscallLine) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]int{} // by thread: index in calls
	for n, line := range strings.Split(string(text), "\n") {
		if m := callResumed.FindStringSubmatch(line); m != nil {
			if i, ok := open[m[1]]; ok {
				calls[i].ended = n
				delete(open, m[1])
			}
			continue
		}
		m := callStart.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := syscallLine{began: n, ended: n, name: m[2], file: unhex(m[4]), data: unhex(line)}
		if strings.Contains(line, "<unfinished ...>") {
			c.ended = 1 << 30
			open[m[1]] = len(calls)
		}
		calls = append(calls, c)
	}
	return calls
}

var hexRun = regexp.MustCompile(`(?:\\x[0-9a-f]{2})+`)

// unhex turns \x61 into a.
func unhex(s string) string {
	return hexRun.ReplaceAllStringFunc(s, func(run string) string {
		b, _ := hex.DecodeString(strings.ReplaceAll(run, `\x`, "")) // by the pattern
		return string(b)
	})
}

func isWrite(name string) bool {
	return name == "write" || name == "pwrite64" || name == "sendto" || name == "sendmsg" || name == "writev"
}

// durable reports whether needle was written to the WAL and the WAL synced before the first write of out to a socket
// of kind (as strace -yy names it).
func durable(t *testing.T, calls []syscallLine, what, needle, kind, out string) bool {
	t.Helper()
	written, synced, sent := -1, -1, -1
	for _, c := range calls {
		wal := strings.HasSuffix(c.file, "daemon.db-wal")
		switch {
		case written < 0 && wal && isWrite(c.name) && strings.Contains(c.data, needle):
			written = c.ended
		case written >= 0 && synced < 0 && wal && (c.name == "fdatasync" || c.name == "fsync") && c.began > written:
			synced = c.ended
		case sent < 0 && isWrite(c.name) && strings.Contains(c.file, kind) && strings.Contains(c.data, out):
			sent = c.began
		}
	}
	t.Logf("%s: in the WAL at line %d, synced at %d, told at %d", what, written, synced, sent)
	if written < 0 || sent < 0 {
		t.Errorf("%s: not found in the trace", what)
	}
	return written < synced && synced < sent
}

func TestOrderOfSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED, nothing was tested: no strace here")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	if out, err := exec.Command(strace, "-f", "-o", trace, "true").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, nothing was tested: strace may not trace here: %s", out)
	}
	for name, promised := range map[string]bool{"full": true, "normal": false} { // normal shows that the test can tell
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "", "storage: {synchronous: "+name+"}\n")
			r.api.ttl = 2 * time.Second
			r.wrap = []string{strace, "-f", "-yy", "-xx", "-s", "1000000", "-o", trace,
				"-e", "trace=fdatasync,fsync,write,pwrite64,writev,sendto,sendmsg", "-e", "signal=none"}
			r.up()
			for what, ok := range r.traced(trace) {
				if ok != promised {
					t.Errorf("%s: on the disk before it is told: %v, should be %v", what, ok, promised)
				}
			}
		})
	}
}

// traced lets a traced daemon do all that must be durable, ends it, and looks at the order of its calls.
func (r *rig) traced(trace string) map[string]bool {
	t := r.t
	plain := r.submit(query, "plain", nil)
	cloneJob := r.submit(mutation, "unique-clone", nil)
	r.await(plain, 20*time.Second)
	r.await(cloneJob, 20*time.Second)
	time.Sleep(3 * time.Second) // the access token expires; the API says so, and the daemon refreshes
	late := r.submit(query, "late", nil)
	if j := r.await(late, 20*time.Second); j.Status != "completed" {
		t.Fatalf("%s %s", j.Status, j.Error)
	}
	if r.api.renewals == 0 {
		t.Fatal("nothing was refreshed")
	}
	if _, err := r.client.Shutdown(r.ctx, &daemonpb.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	if code := r.end(20 * time.Second); code != 0 {
		t.Errorf("the stop: %d", code)
	}
	calls := readTrace(t, trace)
	t.Logf("%d system calls", len(calls))
	ok := map[string]bool{}
	ok["a submit"] = durable(t, calls, "the ack of a submit", plain, "UNIX", plain)
	ok["a mutation's start"] = durable(t, calls, "a mutation's start", `"unique-clone","repository":"r"}running`, "TCP", `"unique-clone"`)
	// The last pair: what is sealed in the database, and the access token that the API gave with it.
	db, err := openCopy(r.path("daemon.db"), r.home+".copy")
	r.must(err)
	defer db.Close()
	var sealed []byte
	r.must(db.QueryRow("SELECT encrypted_access_token FROM auth_tokens").Scan(&sealed))
	access := r.api.tokens[len(r.api.tokens)-2]
	ok["a rotated token"] = durable(t, calls, "a rotated token", string(sealed), "TCP", "Bearer "+access)
	return ok
}
