package main

// Clocks that jump by 60 days, both ways, while the daemon runs and while it is down. The machine's clock stays as it
// is: the daemon and its command line are built with another time.Now, whose wall part is moved by what a file says.
// The steady part stays, which is what a real jump is. The API keeps the real time, as the world does.

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"honeydew/daemonpb"
)

const day = 24 * time.Hour

// jumping is what time.go gets: the offset in seconds is read from a file that is mapped once.
const jumping = `
var jumped = sync.OnceValue(func() *int64 {
	path, set := syscall.Getenv("TORTURE_CLOCK")
	if !set {
		return new(int64)
	}
	file, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	mapped, err := syscall.Mmap(file, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return (*int64)(unsafe.Pointer(&mapped[0]))
})
`

// buildJumping builds the program with this clock.
func buildJumping(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	edited := string(text)
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()"
	for old, new := range map[string]string{
		`	_ "unsafe" // for go:linkname`: `	"sync"; "syscall"; "unsafe"`,
		now:                              now + "; sec += *jumped()",
	} {
		if strings.Count(edited, old) != 1 {
			t.Fatalf("%s is not what this test knows: it has not got %q once", source, old)
		}
		edited = strings.Replace(edited, old, new, 1)
	}
	dir := t.TempDir()
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: filepath.Join(dir, "time.go")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"time.go": edited + jumping, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "honeydew")
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, ".")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -tags=grpcnotrace")
	began := time.Now()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %s", out)
	}
	t.Logf("built in %s, most of it compiled anew if this is the first time", time.Since(began).Round(time.Second))
	return bin
}

// traveller is a rig whose daemon and command line have another clock.
type traveller struct {
	*rig
	clock  *os.File
	offset time.Duration
	minute int // of an hour, far from now
}

func newTraveller(t *testing.T, bin, more string) *traveller {
	t.Helper()
	clock, err := os.OpenFile(filepath.Join(t.TempDir(), "clock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clock.Close() })
	t.Setenv("TORTURE_CLOCK", clock.Name())
	r := newRig(t, "", more)
	r.bin = bin
	r.api.lifetime = 30 * 24 * time.Hour
	c := &traveller{rig: r, clock: clock, minute: (time.Now().Minute() + 30) % 60}
	c.jump(0)
	return c
}

// jump moves the clock to so far from the real time.
func (c *traveller) jump(offset time.Duration) {
	c.t.Helper()
	_, err := c.clock.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(offset/time.Second)), 0)
	c.must(err)
	c.offset = offset
}

func (c *traveller) now() time.Time { return time.Now().Add(c.offset) }

// plan adds three schedules that are due in about half an hour.
func (c *traveller) plan() {
	c.t.Helper()
	cron := fmt.Sprintf("%d * * * *", c.minute)
	for name, in := range map[string]*daemonpb.ScheduleJobRequest{
		"once":  {CronExpr: cron},
		"skip":  {CronExpr: cron, Missed: "skip"},
		"every": {CronExpr: "@every 30m"},
	} {
		in.Name, in.Command, in.Payload = name, query, jobRequest(query, name, nil).Payload
		_, err := c.client.ScheduleJob(c.ctx, in)
		c.must(err)
	}
}

// look makes scheduler and queue look at the clock, as they do by themselves within 30 s, and waits until every
// schedule's next time lies where it belongs: in the hour to come.
func (c *traveller) look() {
	c.t.Helper()
	c.completes()
	_, err := c.client.ScheduleJob(c.ctx, &daemonpb.ScheduleJobRequest{Name: "wake", CronExpr: "@yearly", Command: query,
		Payload: jobRequest(query, "wake", nil).Payload, Replace: true})
	c.must(err)
	c.eventually("every schedule's next time is within the hour", 5*time.Second, func() bool {
		out, err := c.client.ListSchedules(c.ctx, &daemonpb.ListSchedulesRequest{})
		c.must(err)
		for _, s := range out.Schedules {
			next, err := time.Parse(time.RFC3339, s.NextRunAt)
			c.must(err)
			if away := next.Sub(c.now()); s.Name != "wake" && (away < 0 || away > time.Hour) {
				return false
			}
		}
		return true
	})
}

// wantRuns: each schedule's jobs, those that are still on their way included.
func (c *traveller) wantRuns(once, skip, every int) {
	c.t.Helper()
	for name, want := range map[string]int{"once": once, "skip": skip, "every": every} {
		c.eventually(fmt.Sprintf("%s ran %d times, and not %d", name, want, c.api.fate(name).executions), 5*time.Second,
			func() bool { return c.api.fate(name).executions >= want })
		if got := c.api.fate(name).executions; got != want {
			c.t.Errorf("%s ran %d times, should be %d", name, got, want)
		}
	}
}

// wantSense: what people read makes sense on any date, and the login is what it was.
func (c *traveller) wantSense() {
	c.t.Helper()
	negative := regexp.MustCompile(`(^|[^0-9a-zA-Z])-[0-9]+(ms|[dhms])\b`)
	for _, line := range []string{"status", "ping", "job list --all", "schedule list", "auth status", "doctor"} {
		out, code := c.cli(c.ctx, strings.Fields(line)...)
		out = strings.ReplaceAll(out, "--since -1d", "") // what doctor advises
		if code != 0 || negative.MatchString(out) {
			c.t.Errorf("%s says (%d):\n%s", line, code, out)
		}
	}
	if s := c.status(); !s.Authenticated || s.NeedsReauth || len(s.Problems) > 0 || s.UptimeSeconds < 0 {
		c.t.Errorf("status: %v", s)
	}
}

// wantKept: the finished jobs of before are all there.
func (c *traveller) wantKept(ids []string) {
	c.t.Helper()
	for _, id := range ids {
		if j := c.job(id); j.Status != "completed" {
			c.t.Errorf("job %s is %s", id, j.Status)
		}
	}
}

func (c *traveller) some(n int) (ids []string) {
	c.t.Helper()
	for range n {
		id := c.submit(query, c.uid(), nil)
		c.await(id, 10*time.Second)
		ids = append(ids, id)
	}
	return ids
}

// renewals is how often a token was refreshed.
func (c *traveller) renewals() int {
	c.api.mu.Lock()
	defer c.api.mu.Unlock()
	return c.api.renewals
}

func TestClock(t *testing.T) {
	bin := buildJumping(t)
	t.Run("while it runs", func(t *testing.T) { clockWhileRunning(t, bin) })
	t.Run("while it is down", func(t *testing.T) { clockWhileDown(t, bin) })
	t.Run("a request under way", func(t *testing.T) { clockAndTimeouts(t, bin) })
	t.Run("a pause that the API asked for", func(t *testing.T) { clockAndHolds(t, bin) })
	t.Run("the log", func(t *testing.T) { clockAndLog(t, bin) })
}

func clockWhileRunning(t *testing.T, bin string) {
	c := newTraveller(t, bin, "")
	c.up()
	kept := c.some(3)
	c.plan()
	later := c.submit(query, "later", func(in *daemonpb.SubmitJobRequest) {
		in.RunAfter = time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	})
	far := c.submit(query, "far", func(in *daemonpb.SubmitJobRequest) { in.RunAfter = "2100-01-01T00:00:00Z" })

	c.jump(60 * day)
	c.look()
	c.wantRuns(1, 0, 1) // 60 days were missed: one run, or none
	if j := c.await(later, 10*time.Second); j.Status != "completed" {
		t.Errorf("the job whose time has come: %s %s", j.Status, j.Error)
	}
	c.look()
	c.wantRuns(1, 0, 1)
	c.wantSense()

	c.jump(0)
	c.look()
	c.wantRuns(1, 0, 1)
	c.wantSense()

	c.jump(-60 * day)
	c.look()
	c.wantRuns(1, 0, 1)
	c.wantSense()

	c.jump(0) // from there it is 60 days ahead again
	c.look()
	c.wantRuns(2, 0, 2)
	c.wantSense()
	c.wantKept(kept)
	if j := c.job(far); j.Status != "pending" {
		t.Errorf("the job of the year 2100 is %s", j.Status)
	}
	if n := c.renewals(); n > 4 || len(c.api.reuses) > 0 {
		t.Errorf("%d refreshes for four jumps, %d tokens used twice", n, len(c.api.reuses))
	}
	if code := c.stop(10 * time.Second); code != 0 {
		t.Errorf("the stop: %d %s", code, c.stderr.String())
	}
}

func clockWhileDown(t *testing.T, bin string) {
	c := newTraveller(t, bin, "")
	c.up()
	kept := c.some(3)
	c.plan()
	start := func(offset time.Duration, once, skip, every int) {
		t.Helper()
		if code := c.stop(10 * time.Second); code != 0 {
			t.Errorf("the stop: %d %s", code, c.stderr.String())
		}
		c.jump(offset)
		c.again()
		c.look()
		c.wantRuns(once, skip, every)
		c.wantKept(kept)
		c.wantSense()
	}
	start(60*day, 1, 0, 1)
	log, err := os.ReadFile(c.path("daemon.log"))
	c.must(err)
	if !strings.Contains(string(log), "the clock is far ahead of what it was") {
		t.Error("the log does not say that old jobs stay")
	}
	start(60*day, 1, 0, 1) // by now the database knows of a job of that date
	start(0, 1, 0, 1)
	start(-60*day, 1, 0, 1)
	start(0, 2, 0, 2)
	if n := c.renewals(); n > 7 || len(c.api.reuses) > 0 {
		t.Errorf("%d refreshes for five starts, %d tokens used twice", n, len(c.api.reuses))
	}
}

// clockAndTimeouts: how long a request may take has nothing to do with the date.
func clockAndTimeouts(t *testing.T, bin string) {
	c := newTraveller(t, bin, "")
	c.up()
	open := c.api.gate("slow")
	closed := c.api.gate("stuck")
	defer closed()
	slow := c.submit(query, "slow", func(in *daemonpb.SubmitJobRequest) { in.Timeout = "1m" })
	stuck := c.submit(query, "stuck", func(in *daemonpb.SubmitJobRequest) { in.Timeout = "2s"; once(in) })
	began := time.Now()
	c.eventually("both arrive", 5*time.Second, func() bool {
		return c.api.fate("slow").requests == 1 && c.api.fate("stuck").requests == 1
	})
	for _, offset := range []time.Duration{60 * day, 0, -60 * day} {
		c.jump(offset)
		c.completes()
		if j := c.job(slow); j.Status != "running" {
			t.Fatalf("at %s the job that takes its time is %s %s", offset, j.Status, j.Error)
		}
	}
	j := c.await(stuck, 5*time.Second)
	if took := time.Since(began); j.ErrorCode != "TIMEOUT" || took < 2*time.Second || took > 4*time.Second {
		t.Errorf("the job with 2 s: %s %s after %s", j.Status, j.Error, took)
	}
	open()
	if j := c.await(slow, 5*time.Second); j.Status != "completed" {
		t.Errorf("the job that took its time: %s %s", j.Status, j.Error)
	}
	c.wantSense()
}

// clockAndHolds: an API that asks for a pause means a time by the steady clock.
func clockAndHolds(t *testing.T, bin string) {
	c := newTraveller(t, bin, "")
	c.up()
	c.jump(60 * day)
	c.api.script("busy", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		http.Error(w, "later", http.StatusTooManyRequests)
	})
	c.submit(query, "busy", nil)
	c.eventually("the queue is held", 5*time.Second, func() bool { return c.status().HeldUntil != "" })
	c.api.script("busy", nil)
	c.jump(0)
	c.completes() // after 3 s, and not after 60 days
	c.wantSense()
}

// clockAndLog: it rotates on any date, and keeps its lines.
func clockAndLog(t *testing.T, bin string) {
	c := newTraveller(t, bin, "logging: {max_size_mb: 1, compress: false}\n")
	full := []byte(strings.Repeat(`{"level":"info","message":"filler"}`+"\n", 1<<20/36))
	for _, offset := range []time.Duration{0, 60 * day, 0, -60 * day} {
		c.jump(offset)
		c.must(os.WriteFile(c.path("daemon.log"), full, 0o600))
		c.again()
		if code := c.stop(10 * time.Second); code != 0 {
			t.Errorf("the stop: %d %s", code, c.stderr.String())
		}
		names, err := filepath.Glob(c.path("daemon-*.log"))
		c.must(err)
		stamp := c.now().UTC().Format("20060102")
		if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, stamp) }) {
			t.Errorf("no backup of %s among %q", stamp, names)
		}
	}
}
