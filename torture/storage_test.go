package main

// Disks that fill up or turn read-only, databases that are locked or damaged.

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

// choke fills the disk until not even a small submit succeeds, and returns the jobs that were acked on the way.
func (r *rig) choke(dir string) (acked []string, free func()) {
	r.t.Helper()
	free = fill(r.t, dir)
	refused := 0
	for i := 0; refused < 3; i++ {
		if i == 5000 {
			r.t.Fatal("the disk is full and submits go on succeeding")
		}
		out, err := r.client.SubmitJob(r.ctx, jobRequest(query, r.uid(), func(in *daemonpb.SubmitJobRequest) { in.RunAfter = "2100-01-01T00:00:00Z" }))
		if err == nil {
			acked, refused = append(acked, out.JobId), 0
			continue
		}
		refused++
		if !isCode(err, codes.ResourceExhausted, "STORAGE_FULL") {
			r.t.Fatalf("submit on a full disk: %v (%s)", err, reason(err))
		}
	}
	return acked, free
}

func (r *rig) wantProblem(part string) {
	r.t.Helper()
	r.eventually("status tells of "+part, 5*time.Second, func() bool { return strings.Contains(strings.Join(r.status().Problems, "\n"), part) })
}

func (r *rig) wantNoProblem() {
	r.t.Helper()
	r.eventually("status tells of no problem", 10*time.Second, func() bool { return len(r.status().Problems) == 0 })
}

func TestFullDiskSubmit(t *testing.T) {
	dir := tmpfs(t, "8m")
	r := newRig(t, dir, "").up()
	r.completes()
	acked, free := r.choke(dir)
	r.wantProblem("full")
	if out, code := r.cli(r.ctx, "status"); code != 0 || !strings.Contains(out, "full") {
		t.Errorf("honeydew status: %d %s", code, out)
	}
	if _, err := r.client.ListJobs(r.ctx, &daemonpb.ListJobsRequest{}); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
	free()
	r.eventually("a submit succeeds again", 5*time.Second, func() bool {
		_, err := r.client.SubmitJob(r.ctx, jobRequest(query, r.uid(), nil))
		return err == nil
	})
	r.wantNoProblem()
	r.completes()
	// And with the disk full once more, a kill loses nothing either.
	more, free := r.choke(dir)
	r.kill()
	free()
	r.again()
	for _, id := range append(acked, more...) {
		if j := r.job(id); j.Status != "pending" {
			t.Errorf("job %s: %s", id, j.Status)
		}
	}
	r.completes()
}

func TestFullDiskStart(t *testing.T) {
	dir := tmpfs(t, "8m")
	r := newRig(t, dir, "").up()
	r.completes()
	acked, free := r.choke(dir)
	r.kill()
	if err := r.start(); err != nil {
		if code := r.end(time.Second); code != 74 {
			t.Errorf("a start on a full disk ends with %d: %s", code, r.stderr.String())
		}
		free()
		r.again()
	} else {
		r.dialAgain()
		for _, id := range acked {
			r.job(id)
		}
		free()
	}
	r.completes()
}

func TestFullDiskResult(t *testing.T) {
	dir := tmpfs(t, "16m")
	r := newRig(t, dir, "").up()
	uid := "" // one with an answer of 100 kB
	for i := 0; len(answerOf(uid, false)) < 90_000 || len(answerOf(uid, false)) > 200_000; i++ {
		uid = fmt.Sprintf("large%d", i)
	}
	open := r.api.gate(uid)
	id := r.submit(query, uid, nil)
	clone := "clone"
	openClone := r.api.gate(clone)
	cloneID := r.submit(mutation, clone, nil)
	r.eventually("both requests arrive", 5*time.Second, func() bool { return r.api.fate(uid).requests == 1 && r.api.fate(clone).requests == 1 })
	acked, free := r.choke(dir)
	open()
	openClone()
	r.wantProblem("results that wait to be stored")
	free()
	if j := r.await(id, 15*time.Second); j.Status != "completed" || j.Result != answerOf(uid, false) {
		t.Errorf("the job that met the full disk: %s %s", j.Status, j.Error)
	}
	if j := r.await(cloneID, 15*time.Second); j.Status != "completed" {
		t.Errorf("the mutation that met the full disk: %s %s", j.Status, j.Error)
	}
	if f, g := r.api.fate(uid), r.api.fate(clone); f.requests != 1 || g.requests != 1 {
		t.Errorf("sent %d and %d times", f.requests, g.requests)
	}
	for _, id := range acked {
		r.job(id)
	}
	r.wantNoProblem()
	r.completes()
}

func TestFullDiskMutationStart(t *testing.T) {
	dir := tmpfs(t, "8m")
	r := newRig(t, dir, "").up()
	id := r.submit(mutation, "clone", func(in *daemonpb.SubmitJobRequest) {
		in.RunAfter = time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)
	})
	_, free := r.choke(dir)
	time.Sleep(5 * time.Second)
	if f := r.api.fate("clone"); f.requests != 0 {
		t.Errorf("a mutation was sent although its start could not be stored")
	}
	free()
	if j := r.await(id, 15*time.Second); j.Status != "completed" || r.api.fate("clone").executions != 1 {
		t.Errorf("%s %s, carried out %d times", j.Status, j.Error, r.api.fate("clone").executions)
	}
}

func TestFullDiskToken(t *testing.T) {
	dir := tmpfs(t, "8m")
	r := newRig(t, dir, "")
	r.api.ttl = 2 * time.Second
	r.up()
	id := r.submit(query, "late", func(in *daemonpb.SubmitJobRequest) {
		in.RunAfter = time.Now().Add(12 * time.Second).UTC().Format(time.RFC3339) // the token has expired, and refreshing is allowed again
		retries := int32(10)
		in.MaxRetries = &retries
	})
	before := func() int { r.api.mu.Lock(); defer r.api.mu.Unlock(); return r.api.renewals }()
	_, free := r.choke(dir)
	r.eventually("the token is refreshed", 30*time.Second, func() bool { r.api.mu.Lock(); defer r.api.mu.Unlock(); return r.api.renewals > before })
	time.Sleep(2 * time.Second)
	if f := r.api.fate("late"); f.requests != 0 {
		t.Error("a token was used that is not on disk")
	}
	free()
	if j := r.await(id, time.Minute); j.Status != "completed" {
		t.Errorf("the job whose token met the full disk: %s %s", j.Status, j.Error)
	}
	if len(r.api.reuses) > 0 {
		t.Error("the spent refresh token was used again")
	}
}

func TestFullDiskBackup(t *testing.T) {
	dir := tmpfs(t, "1m")
	r := newRig(t, "", "").up()
	for i := range 40 {
		r.submit(query, fmt.Sprintf("%d-%s", i, strings.Repeat("x", 100_000)), func(in *daemonpb.SubmitJobRequest) { in.RunAfter = "2100-01-01T00:00:00Z" })
	}
	path := filepath.Join(dir, "backup.db")
	_, err := r.client.Backup(r.ctx, &daemonpb.BackupRequest{Path: path})
	if !isCode(err, codes.ResourceExhausted, "STORAGE_FULL") {
		t.Errorf("backup to a full disk: %v (%s)", err, reason(err))
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("half a backup was left behind")
	}
	if problems := r.status().Problems; len(problems) > 0 {
		t.Errorf("the daemon's own database is well, and status says %q", problems)
	}
	r.completes()
}

func TestFullDiskLog(t *testing.T) {
	dir := tmpfs(t, "256k")
	r := newRig(t, "", "logging: {file: "+filepath.Join(dir, "daemon.log")+", level: debug}\n").up()
	free := fill(t, dir)
	for range 30 {
		r.completes()
	}
	r.wantProblem("log")
	free()
	r.completes()
	r.wantNoProblem()
	text, err := os.ReadFile(filepath.Join(dir, "daemon.log"))
	r.must(err)
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}\n") {
			t.Errorf("a torn line: %.200q", line)
		}
	}
}

func TestUnwritableLog(t *testing.T) {
	r := newRig(t, "", "")
	r.must(os.Mkdir(r.path("daemon.log"), 0o700))
	out, code := r.cli(r.ctx, "daemon")
	if code == 0 || code == -1 || !strings.Contains(out, "log") {
		t.Errorf("a directory in the log's place: %d %s", code, out)
	}
	t.Logf("exit %d: %s", code, strings.TrimSpace(out))
	r.must(os.Remove(r.path("daemon.log")))
	r.up()
	// Taken away while the daemon runs.
	r.must(os.Remove(r.path("daemon.log")))
	r.must(os.Mkdir(r.path("daemon.log"), 0o700))
	r.completes()
	r.wantProblem("log")
	r.must(os.Remove(r.path("daemon.log")))
	r.completes()
	r.wantNoProblem()
}

func TestReadOnlyHome(t *testing.T) {
	dir := tmpfs(t, "8m")
	r := newRig(t, dir, "").up()
	r.completes()
	remount := func(how string) {
		t.Helper()
		if out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, nothing was tested: no remount: %s", out)
		}
	}
	r.stop(10 * time.Second)
	remount("ro")
	out, code := r.cli(r.ctx, "daemon")
	if code != 74 || !strings.Contains(out, "read-only") {
		t.Errorf("a start in a read-only home: %d %s", code, out)
	}
	remount("rw")
	r.again()
	r.completes()
}

// hold opens the database from this process, another one than the daemon's, and keeps the write lock.
func (r *rig) hold() (release func()) {
	r.t.Helper()
	db, err := openDB(r.path("daemon.db"))
	r.must(err)
	conn, err := db.Conn(context.Background())
	r.must(err)
	_, err = conn.ExecContext(context.Background(), "PRAGMA busy_timeout = 5000")
	r.must(err)
	_, err = conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
	r.must(err)
	return func() {
		_, _ = conn.ExecContext(context.Background(), "ROLLBACK") // the connection is closed in any case
		conn.Close()
		db.Close()
	}
}

func TestLockedDatabase(t *testing.T) {
	r := newRig(t, "", "").up()
	open := r.api.gate("held")
	running := r.submit(query, "held", nil)
	r.eventually("the request arrives", 5*time.Second, func() bool { return r.api.fate("held").requests == 1 })
	release := r.hold()
	began := time.Now()
	open()
	type outcome struct {
		id  string
		err error
	}
	outcomes := make(chan outcome, 5)
	for i := range 5 {
		go func() {
			out, err := r.client.SubmitJob(r.ctx, jobRequest(query, fmt.Sprintf("locked%d", i), nil))
			outcomes <- outcome{out.GetJobId(), err}
		}()
	}
	if _, err := r.client.GetStatus(r.ctx, &daemonpb.GetStatusRequest{}); err != nil {
		t.Errorf("status while the database is locked: %v", err)
	}
	time.Sleep(10 * time.Second)
	release()
	for range 5 {
		o := <-outcomes
		if o.err != nil {
			t.Logf("after %s: %v (%s)", time.Since(began).Round(time.Millisecond), o.err, reason(o.err))
			if reason(o.err) != "STORAGE_FAILED" || !strings.Contains(status.Convert(o.err).Message(), "another process") {
				t.Errorf("unclear: %v", o.err)
			}
			continue
		}
		if j := r.await(o.id, 20*time.Second); j.Status != "completed" {
			t.Errorf("job %s: %s %s", o.id, j.Status, j.Error)
		}
	}
	if j := r.await(running, 20*time.Second); j.Status != "completed" || r.api.fate("held").requests != 1 {
		t.Errorf("the job that ran meanwhile: %s %s, sent %d times", j.Status, j.Error, r.api.fate("held").requests)
	}
	r.wantNoProblem()
	r.completes()
}

// TestDamagedDatabase: what is no sound honeydew database is refused with 74, and not a byte of it changes.
func TestDamagedDatabase(t *testing.T) {
	good := newRig(t, "", "").up()
	for range 50 {
		good.completes()
	}
	good.stop(10 * time.Second)
	sound, err := os.ReadFile(good.path("daemon.db"))
	good.must(err)
	edit := func(fn func(b []byte) []byte) []byte { return fn(bytes.Clone(sound)) }
	foreign := filepath.Join(t.TempDir(), "foreign.db")
	db, err := sql.Open("sqlite", foreign)
	good.must(err)
	_, err = db.Exec("CREATE TABLE notes (x); INSERT INTO notes VALUES ('mine')")
	good.must(err)
	db.Close()
	other, err := os.ReadFile(foreign)
	good.must(err)
	for name, text := range map[string][]byte{
		"zero length":        {},
		"short":              sound[:50],
		"one page":           sound[:4096],
		"half":               sound[:len(sound)/2/4096*4096],
		"half a page":        sound[:len(sound)-2048],
		"foreign":            other,
		"no database":        bytes.Repeat([]byte("honeydew "), 1000),
		"zeros":              make([]byte, len(sound)),
		"newer":              edit(func(b []byte) []byte { binary.BigEndian.PutUint32(b[60:], 99); return b }),
		"broken schema page": edit(func(b []byte) []byte { copy(b[100:4096], bytes.Repeat([]byte{0xa5}, 4000)); return b }),
		"broken pages": edit(func(b []byte) []byte {
			for i := 4096; i < len(b); i++ {
				b[i] = 0xa5
			}
			return b
		}),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "", "")
			r.must(os.WriteFile(r.path("daemon.db"), text, 0o600))
			ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
			defer cancel()
			out, code := r.cli(ctx, "daemon")
			if code != 74 {
				t.Errorf("exit %d: %s", code, out)
			}
			if now, err := os.ReadFile(r.path("daemon.db")); err != nil || !bytes.Equal(now, text) {
				t.Errorf("the file was changed: %d bytes instead of %d, %v", len(now), len(text), err)
			}
			t.Logf("%s", strings.TrimSpace(out))
		})
	}
}

// TestOneBadPage: whichever page is broken, the daemon refuses, stops, or answers with an error; it never hangs, and
// never calls a job unknown. (What it cannot see is a broken page of a long result alone: SQLite has no checksums.)
func TestOneBadPage(t *testing.T) {
	good := newRig(t, "", "").up()
	var ids []string
	for range 60 {
		ids = append(ids, good.submit(query, good.uid(), nil))
	}
	for _, id := range ids {
		good.await(id, 20*time.Second)
	}
	good.stop(10 * time.Second)
	sound, err := os.ReadFile(good.path("daemon.db"))
	good.must(err)
	pages := len(sound) / 4096
	outcomes := map[string]int{}
	for page := 1; page < pages; page += max(1, pages/12) {
		r := newRig(t, "", "")
		text := bytes.Clone(sound)
		copy(text[page*4096:], bytes.Repeat([]byte{0x5a}, 4096))
		r.must(os.WriteFile(r.path("daemon.db"), text, 0o600))
		r.must(r.spawn())
		if err := r.ready(10 * time.Second); err != nil {
			if code := r.end(time.Second); code != 74 {
				t.Errorf("page %d: exit %d, %s", page, code, r.stderr.String())
			}
			log, _ := os.ReadFile(r.path("daemon.log"))
			if bytes.Contains(log, []byte("daemon started")) { // the damage was met by the work in the background
				outcomes["ended at once"]++
				continue
			}
			if now, _ := os.ReadFile(r.path("daemon.db")); !bytes.Equal(now, text) {
				t.Errorf("page %d: refused, and changed", page)
			}
			outcomes["refused at the start"]++
			continue
		}
		for i, id := range ids {
			j, err := r.client.GetJobStatus(r.ctx, &daemonpb.GetJobStatusRequest{JobId: id})
			if status.Code(err) == codes.NotFound {
				t.Errorf("page %d: job %s is called unknown", page, id)
			} else if err != nil {
				outcomes[fmt.Sprintf("read: %s (%s)", status.Code(err), reason(err))]++
			} else if !j.ResultOmitted && len(j.Result) < 1000 && j.Result != answerOf(fmt.Sprintf("u%d", i+1), false) {
				t.Errorf("page %d: job %s has a wrong result", page, id)
			}
		}
		_, err := r.client.SubmitJob(r.ctx, jobRequest(query, "after", nil))
		outcomes[fmt.Sprintf("submit: %s (%s)", status.Code(err), reason(err))]++
		code := r.stop(20 * time.Second)
		if code == -2 {
			t.Errorf("page %d: the daemon does not stop", page)
		}
		outcomes[fmt.Sprintf("exit %d", code)]++
	}
	t.Logf("%d pages, one broken at a time: %v", pages, outcomes)
}

func TestMissingWAL(t *testing.T) {
	r := newRig(t, "", "").up()
	r.completes()
	r.kill()
	for _, suffix := range []string{"-wal", "-shm"} {
		r.must(os.Remove(r.path("daemon.db" + suffix)))
	}
	err := r.start()
	if err == nil {
		r.dialAgain()
		if err = r.login(r.ctx); err == nil {
			r.completes()
		}
	}
	if err != nil {
		t.Errorf("without its -wal: %v", err)
	}
}
