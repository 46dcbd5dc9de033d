package main

// Single faults of a disk, at every operation of a short life of the daemon, and power cuts at any moment of long ones.
// The disk is that of fuse_test.go.
//
//	go test -C torture -run 'PowerCut|EveryFault' . -seed N -cuts 500 -points 10000

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "repeat the power cuts of this seed")
	cutsFlag   = flag.Int("cuts", 25, "power cuts under load")
	pointsFlag = flag.Int("points", 100, "faults of the disk, spread over all operations")
)

// seed is that of the command line, or a new one; either is told.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := cmp.Or(*seedFlag, uint64(time.Now().UnixNano()))
	t.Logf("-seed %d", n)
	return n
}

// onDisk makes a rig whose home is on d.
func onDisk(t *testing.T, d *disk, more string) *rig {
	r := newRig(t, d.dir, "daemon: {shutdown_timeout: 4s}\n"+more)
	t.Cleanup(func() { // before the rig's own, which waits for the end of the daemon
		if r.running() {
			_ = r.cmd.Process.Kill() // it may just have ended
		}
		d.thaw()
	})
	d.settle()
	return r
}

// anew empties the home, but for its configuration.
func (d *disk) anew(r *rig, database []byte) {
	r.t.Helper()
	text, err := os.ReadFile(r.path("config.yaml"))
	r.must(err)
	r.must(os.RemoveAll(r.home))
	r.must(os.Mkdir(r.home, 0o700))
	r.must(os.WriteFile(r.path("config.yaml"), text, 0o600))
	if database != nil {
		r.must(os.WriteFile(r.path("daemon.db"), database, 0o600))
	}
	d.settle()
}

// promise is what a short life of the daemon has acked.
type promise struct {
	login    bool
	job, uid string
	finished *daemonpb.JobStatus // as a client was shown it
	refusals []string            // what was said instead
}

// live is a short life: start, login, a job, its end, the stop. Whatever the disk does, each step ends, and says what
// is wrong.
func (r *rig) live() (p promise) {
	r.t.Helper()
	refuse := func(what string, err error) {
		p.refusals = append(p.refusals, fmt.Sprintf("%s: %s (%s)", what, status.Convert(err).Message(), reason(err)))
		if status.Code(err) == codes.DeadlineExceeded {
			r.t.Errorf("%s hangs", what)
		}
	}
	r.must(r.spawn())
	if err := r.ready(10 * time.Second); err != nil {
		code := r.end(time.Second)
		text := strings.TrimSpace(r.stderr.String())
		p.refusals = append(p.refusals, fmt.Sprintf("start: %d %s", code, text))
		if code != 74 && code != 1 && code != 78 || text == "" {
			r.t.Errorf("the start ends with %d, %q: %v", code, text, err)
		}
		r.wantNoAlarm(code, text)
		return p
	}
	r.dialAgain()
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	_, err := r.client.Login(ctx, &daemonpb.LoginRequest{Username: username, Password: password})
	if p.login = err == nil; err != nil {
		refuse("login", err)
	}
	p.uid = r.uid()
	out, err := r.client.SubmitJob(ctx, jobRequest(query, p.uid, nil))
	if err != nil {
		refuse("submit", err)
	} else {
		p.job = out.JobId
		p.finished = r.finish(ctx, p.job)
	}
	code := r.stop(8 * time.Second)
	text := strings.TrimSpace(r.stderr.String())
	if code != 0 {
		p.refusals = append(p.refusals, fmt.Sprintf("end: %d %s", code, text))
	}
	switch log, err := os.ReadFile(r.path("daemon.log")); {
	case code == 0, (code == 74 || code == 1) && text != "":
	case code == -1 && err == nil && strings.Contains(string(log), `"daemon failed"`): // it ended already
	default:
		r.t.Errorf("the daemon ends with %d, %q", code, text)
	}
	r.wantNoAlarm(code, text)
	return p
}

// wantNoAlarm: who is told to start again is not told to put a backup over a database that is well.
func (r *rig) wantNoAlarm(code int, text string) {
	r.t.Helper()
	if code == 1 && strings.Contains(text, "backup") {
		r.t.Errorf("exit 1, and yet: %q", text)
	}
}

// finish waits a moment for the end of a job; nil: it has not come.
func (r *rig) finish(ctx context.Context, id string) *daemonpb.JobStatus {
	end := time.Now().Add(2500 * time.Millisecond)
	for ; time.Now().Before(end) && r.running(); time.Sleep(5 * time.Millisecond) {
		j, err := r.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: id})
		if status.Code(err) == codes.NotFound {
			r.t.Errorf("job %s was acked and is called unknown", id)
		}
		if err == nil && terminal(j.Status) {
			return j
		}
	}
	return nil
}

// holds starts the daemon again and holds it to its promise.
func (r *rig) holds(p promise) {
	r.t.Helper()
	if err := r.start(); err != nil {
		r.t.Errorf("no start on a disk that is well: %v", err)
		return
	}
	r.dialAgain()
	s := r.status()
	if p.login && !s.Authenticated {
		r.t.Errorf("the login is gone: %v", s.Problems)
	}
	if !s.Authenticated {
		r.must(r.login(r.ctx))
	}
	if p.job != "" {
		j, err := r.client.GetJobStatus(r.ctx, &daemonpb.GetJobStatusRequest{JobId: p.job})
		if err != nil {
			r.t.Errorf("the acked job: %v", err)
			return
		}
		if p.finished != nil && (j.Status != p.finished.Status || j.Result != p.finished.Result) {
			r.t.Errorf("the job was shown as %s and is %s", p.finished.Status, j.Status)
		}
		if j = r.await(p.job, 10*time.Second); j.Status == "completed" && j.Result != answerOf(p.uid, false) {
			r.t.Errorf("the result is %.100q", j.Result)
		}
	}
	r.completes()
	if code := r.stop(8 * time.Second); code != 0 {
		r.t.Errorf("the stop ends with %d: %s", code, r.stderr.String())
	}
	r.whole()
}

// whole checks the database of a daemon that has ended.
func (r *rig) whole() {
	r.t.Helper()
	db, err := openCopy(r.path("daemon.db"), filepath.Join(shortDir(r.t), "copy"))
	r.must(err)
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		r.t.Errorf("the database: %s %v", verdict, err)
	}
}

// points are the faults to be tried: every operation of a life, on the files that matter, once, and some of them for
// good. Where there are more than -points, they are spread.
func points(counts map[string]int) (all []fault) {
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		kind, name, _ := strings.Cut(what, " ")
		switch {
		case strings.HasSuffix(name, ".tmp"), kind == "unlink", kind == "read" && name == "config.yaml":
			continue
		}
		for n := 1; n <= counts[what]; n++ {
			all = append(all, fault{kind, name, n, 1})
			if n%4 == 1 && kind != "short" {
				all = append(all, fault{kind, name, n, 1 << 30})
			}
		}
	}
	return all
}

func TestEveryFaultOfADisk(t *testing.T) {
	d := newDisk(t)
	r := onDisk(t, d, "")
	d.anew(r, nil)
	d.arm(fault{})
	if p := r.live(); !p.login || p.finished.GetStatus() != "completed" {
		t.Fatalf("without a fault: %+v", p)
	}
	counts, _ := d.armed()
	all := points(counts)
	t.Logf("operations: %v", counts)
	dice := rand.New(rand.NewPCG(seed(t), 0))
	dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	chosen := all[:min(len(all), *pointsFlag)]
	said, struck := map[string]int{}, 0
	for _, f := range chosen {
		t.Run(f.String(), func(t *testing.T) {
			r := onDisk(t, d, "")
			d.anew(r, nil)
			d.arm(f)
			p := r.live()
			if _, met := d.armed(); met > 0 {
				struck++
			}
			for _, text := range p.refusals {
				said[text]++
			}
			if (f.kind == "rename" || f.kind == "read" && f.times == 1) && strings.Contains(strings.Join(p.refusals, " "), "begin anew") {
				t.Errorf("the disk failed, and yet: %q", p.refusals)
			}
			d.powerCut(nil)
			r.holds(p)
			if t.Failed() || testing.Verbose() && len(p.refusals) > 0 {
				t.Logf("it said: %q", p.refusals)
			}
		})
	}
	t.Logf("%d of %d faults tried, %d struck", len(chosen), len(all), struck)
	for _, text := range slices.Sorted(maps.Keys(said)) {
		t.Logf("%3d times: %s", said[text], text)
	}
	if struck < len(chosen)/2 {
		t.Error("the faults do not strike: the life has changed, or they are armed too late")
	}
}

// cutter pulls the plug on a daemon: on its disk, and then on itself.
type cutter struct {
	*rig
	disk *disk
	done chan struct{} // closed when the daemon is dead
}

// plug cuts the power at the n-th change of the disk; n = 0: when the function that it returns is called.
func (c *cutter) plug(n int) (pull func()) {
	c.done = make(chan struct{})
	cut := c.disk.cutAfter(n)
	now := make(chan struct{})
	go func() {
		defer close(c.done)
		select {
		case <-cut:
		case <-now:
			c.disk.freeze()
		}
		// Killed first, and let go then: nobody must hear of what fails now.
		_ = c.cmd.Process.Kill() // it may have ended
		c.disk.thaw()
		<-c.ended
	}()
	return sync.OnceFunc(func() { close(now) })
}

// dead reports whether the power has been cut.
func (c *cutter) dead() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// TestPowerCutAtEveryChange walks the cut over the first start, with its key and database, the login and a job; and the
// same over a start on a database of the oldest version.
func TestPowerCutAtEveryChange(t *testing.T) {
	oldest, err := os.ReadFile("../testdata/v1.db")
	if err != nil {
		t.Fatal(err)
	}
	d := newDisk(t)
	n := seed(t)
	for name, database := range map[string][]byte{"new": nil, "v1": oldest} {
		r := onDisk(t, d, "")
		d.anew(r, r.pointed(database))
		d.arm(fault{})
		if p := r.live(); !p.login || p.finished.GetStatus() != "completed" {
			t.Fatalf("without a cut: %+v", p)
		}
		counts, _ := d.armed()
		changes := 0
		for what, n := range counts {
			if kind, _, _ := strings.Cut(what, " "); kind != "read" && kind != "short" {
				changes += n
			}
		}
		dice := rand.New(rand.NewPCG(n, 1))
		tries := 0
		for at := 1 + dice.IntN(4); at <= changes; at += 1 + dice.IntN(max(1, 2*changes / *cutsFlag)) {
			tries++
			t.Run(fmt.Sprintf("%s/%d", name, at), func(t *testing.T) {
				c := &cutter{rig: onDisk(t, d, ""), disk: d}
				d.anew(c.rig, c.pointed(database))
				p := c.liveUntilCut(at)
				d.powerCut(dice)
				c.holds(p)
				if database != nil {
					c.oldJobs(oldest)
				}
			})
		}
		t.Logf("%s: %d of %d changes", name, tries, changes)
	}
}

// pointed is an old database whose environments are this rig's API; of none it is none.
func (r *rig) pointed(database []byte) []byte {
	r.t.Helper()
	if database == nil {
		return nil
	}
	path := filepath.Join(shortDir(r.t), "pointed.db")
	r.must(os.WriteFile(path, database, 0o600))
	db, err := openDB(path)
	r.must(err)
	_, err = db.Exec("UPDATE api_environments SET base_url = ?", r.api.URL)
	r.must(errors.Join(err, db.Close()))
	text, err := os.ReadFile(path)
	r.must(err)
	return text
}

// liveUntilCut is live with a cut.
func (c *cutter) liveUntilCut(at int) (p promise) {
	c.t.Helper()
	c.must(c.spawn())
	pull := c.plug(at)
	defer func() { pull(); <-c.done }()
	if err := c.ready(10 * time.Second); err != nil {
		return p
	}
	c.dialAgain()
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	_, err := c.client.Login(ctx, &daemonpb.LoginRequest{Username: username, Password: password})
	p.login = err == nil
	p.uid = c.uid()
	if out, err := c.client.SubmitJob(ctx, jobRequest(query, p.uid, nil)); err == nil {
		p.job = out.JobId
		p.finished = c.finish(ctx, p.job)
	}
	if !c.dead() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may be dead by now
		select {
		case <-c.ended:
		case <-time.After(8 * time.Second):
			c.t.Error("the daemon does not stop")
		}
	}
	return p
}

// oldJobs: every job of an old database is still there.
func (r *rig) oldJobs(database []byte) {
	r.t.Helper()
	path := filepath.Join(shortDir(r.t), "old.db")
	r.must(os.WriteFile(path, database, 0o600))
	ids := func(path string) (all []string) {
		db, err := openDB(path)
		r.must(err)
		defer db.Close()
		rows, err := db.Query("SELECT id FROM jobs ORDER BY seq")
		r.must(err)
		defer rows.Close()
		for rows.Next() {
			var id string
			r.must(rows.Scan(&id))
			all = append(all, id)
		}
		r.must(rows.Err())
		return all
	}
	copied := filepath.Join(shortDir(r.t), "new.db")
	r.must(copyFile(r.path("daemon.db"), copied))
	now := ids(copied)
	for _, id := range ids(path) {
		if !slices.Contains(now, id) {
			r.t.Errorf("job %s of the old database is gone", id)
		}
	}
}

// TestPowerCutsUnderLoad is the torture of main.go on this disk: the same clients, the same ledger, and a disk that
// forgets what was not synced.
func TestPowerCutsUnderLoad(t *testing.T) {
	l := newLoad(t, "")
	for cut := 1; cut <= *cutsFlag && !t.Failed(); cut++ {
		l.life(cut)
		for _, p := range l.problems {
			t.Errorf("cut %d: %s", cut, p)
		}
	}
	acked := 0
	for _, e := range l.list {
		acked += len(e.ids)
	}
	t.Logf("%d cuts, %d in a start; %d acked jobs, %d results compared, %d backups, %d logins, %d lost in a refresh",
		*cutsFlag, l.early, acked, l.results, len(l.saved), l.torture.api.logins, l.lost)
	if !t.Failed() && (acked < 20*(*cutsFlag) || l.results < acked/4) {
		t.Error("too little was under way for this to say anything")
	}
}

// TestPowerCutsAreFelt: with storage.synchronous: normal the README allows that acked jobs and ends are lost; that
// something is, and is missed, shows that disk and ledger can tell. The database must be whole even so.
func TestPowerCutsAreFelt(t *testing.T) {
	l := newLoad(t, "storage: {synchronous: normal}\n")
	for cut := 1; len(l.problems) == 0; cut++ {
		if cut > 30 {
			t.Fatal("30 power cuts with synchronous: normal, and nothing is lost")
		}
		l.life(cut)
	}
	broken := func(p string) bool { return strings.Contains(p, "_check:") }
	if slices.ContainsFunc(l.problems, broken) {
		t.Errorf("found: %q", l.problems)
	}
}

// load is a daemon under load whose power is cut.
type load struct {
	*cutter
	*torture
	dice     *rand.Rand
	backups  string
	saved    []string // backups that were acked
	looked   int      // at so many of them
	loggedIn bool     // was acked
	planned  int      // schedules that were acked
	early    int      // cuts during a start
}

func newLoad(t *testing.T, more string) *load {
	t.Helper()
	d := newDisk(t)
	n := seed(t)
	a, err := newAPI(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	r := onDisk(t, d, "")
	text := config(a.URL, "queue: {workers: 8}\ndaemon: {shutdown_timeout: 3s}\n"+more)
	r.must(os.WriteFile(r.path("config.yaml"), []byte(text), 0o600))
	l := &load{
		cutter: &cutter{rig: r, disk: d},
		torture: &torture{
			checker: &checker{ledger: newLedger(), api: a, verified: map[string]row{}},
			d:       r.daemon,
			copy:    filepath.Join(shortDir(t), "copy"), // not on d: this process must not map a file of its own disk
			seed:    n,
		},
		dice:    rand.New(rand.NewPCG(n, 2)),
		backups: filepath.Join(d.dir, "backups"),
	}
	r.must(os.Mkdir(l.backups, 0o700))
	d.settle()
	return l
}

// life is one: it begins with a start and ends with a cut, after which all is looked at.
func (l *load) life(number int) {
	t := l.t
	at, span := 0, time.Duration(l.dice.IntN(1200))*time.Millisecond
	if l.dice.IntN(3) > 0 { // at some change, or else at some time
		at = 1 + l.dice.IntN([]int{40, 400, 2000}[l.dice.IntN(3)])
		span = 3 * time.Second
	}
	l.rig.must(l.spawn())
	pull := l.plug(at)
	err := l.ready(20 * time.Second)
	if err != nil && !l.dead() {
		select {
		case <-l.done:
		case <-time.After(time.Second):
			t.Fatalf("cut %d: %v", number, err)
		}
	}
	wait := func() {}
	if l.early++; err == nil && l.prepareLoad() {
		l.early--
		wait = l.play(number)
		go l.backUp(number)
		select {
		case <-l.done:
		case <-time.After(span):
		}
	}
	pull()
	<-l.done
	wait()
	l.kills++
	l.disk.powerCut(l.dice)
	for i, path := range l.saved {
		if _, err := os.Stat(path); err != nil {
			l.bad("an acked backup: %v", err)
		} else if i >= l.looked {
			l.checkBackup(path)
		}
	}
	l.looked = len(l.saved)
	err = l.torture.inspect(number%10 == 0, false)
	if err != nil && (l.loggedIn || !errors.Is(err, fs.ErrNotExist)) { // no database yet is fine, with nothing acked
		t.Errorf("cut %d: %v", number, err)
	}
}

// prepareLoad sees to login and schedules, and reports whether the power is still on.
func (l *load) prepareLoad() bool {
	conn, client, err := l.rig.dial()
	l.rig.must(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	if err != nil {
		return false
	}
	l.judge()
	if l.loggedIn && !s.Authenticated && l.lost == l.mended {
		l.bad("the login is gone: %v", s.Problems)
	}
	if int(s.Schedules) < l.planned {
		l.bad("%d schedules of %d", s.Schedules, l.planned)
	}
	if !s.Authenticated {
		_, err := client.Login(ctx, &daemonpb.LoginRequest{Username: username, Password: password})
		if err != nil {
			return false
		}
		l.loggedIn, l.mended = true, l.lost
	}
	for n := int(s.Schedules); n < 3; n++ {
		name := fmt.Sprintf("sched-%d", n)
		in := jobRequest(query, name, nil)
		_, err := client.ScheduleJob(ctx, &daemonpb.ScheduleJobRequest{
			Name:     name,
			CronExpr: "@every 1s",
			Command:  query,
			Payload:  in.Payload,
		})
		if err != nil {
			return false
		}
		l.planned = n + 1
	}
	return true
}

// backUp makes a backup. It is called once at a time: the life that it belongs to ends before the next begins.
func (l *load) backUp(number int) {
	conn, client, err := l.rig.dial()
	if err != nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	path := filepath.Join(l.backups, fmt.Sprintf("%d.db", number))
	if _, err := client.Backup(ctx, &daemonpb.BackupRequest{Path: path}); err == nil {
		l.ledger.mu.Lock()
		l.saved = append(l.saved, path)
		l.ledger.mu.Unlock()
	}
}

func (l *load) checkBackup(path string) {
	copied := filepath.Join(shortDir(l.t), "backup.db")
	l.rig.must(copyFile(path, copied))
	db, err := openDB(copied)
	l.rig.must(err)
	defer db.Close()
	l.integrity(db, "integrity_check")
}
