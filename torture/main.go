// Command torture kills the daemon, hundreds of times, at moments of the worst kind, and looks whether it kept its
// word: what was acked is there, once, with its result; no mutation was sent twice; order, keys and logins are whole.
//
//	torture -bin bin/honeydew -n 500 [-seed N]
//
// A seed repeats what the clients do, what the API answers and when the kills come; not the scheduling of processes.
// The exit code is 1 when anything was found, and then the home is kept.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

const clients = 8

type torture struct {
	*checker
	d    *daemon
	copy string // where the database is copied to, to be looked at
	seed uint64
	n    int
	rng  *rand.Rand
	// window counts kills aimed at the moment after a refresh's answer, by milliseconds: all, and logins lost.
	window   [5][2]int
	mended   int // lost logins that have been followed by a new one
	restarts []time.Duration
	seconds  int // daemons that were refused because one ran
	diary    []string
}

// tell notes what happens, to be printed when something is wrong.
func (t *torture) tell(format string, args ...any) {
	t.diary = append(t.diary, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func main() {
	bin := flag.String("bin", "bin/honeydew", "the binary under test")
	n := flag.Int("n", 500, "kills")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "repeat the run of this seed")
	keep := flag.Bool("keep", false, "keep the home")
	flag.Parse()
	if err := run(*bin, *n, *seed, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func run(bin string, n int, seed uint64, keep bool) error {
	fmt.Printf("torture: %d kills, seed %d\n", n, seed)
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "torture")
	if err != nil {
		return err
	}
	a, err := newAPI(seed)
	if err != nil {
		return err
	}
	defer a.close()
	d, err := newDaemon(bin, filepath.Join(home, "home"), config(a.URL, "queue: {workers: 8}\nlogging: {level: debug}\ndaemon: {shutdown_timeout: 3s}\n"))
	if err != nil {
		return err
	}
	defer d.kill()
	t := &torture{checker: &checker{ledger: newLedger(), api: a, verified: map[string]row{}}, d: d, copy: d.home + ".copy", seed: seed, n: n,
		rng: rand.New(rand.NewPCG(seed, 0))}
	began := time.Now()
	err = t.all()
	t.report(time.Since(began))
	switch {
	case err != nil:
		return fmt.Errorf("%w (seed %d, home %s)", err, seed, home)
	case len(t.problems) > 0:
		return fmt.Errorf("%d violations (seed %d, home %s)", len(t.problems), seed, home)
	case keep:
		fmt.Println("home:", home)
		return nil
	}
	return os.RemoveAll(home)
}

func (t *torture) all() error {
	for cycle := 1; cycle <= t.n; cycle++ {
		if err := t.cycle(cycle); err != nil {
			return fmt.Errorf("cycle %d: %w", cycle, err)
		}
		if err := t.inspect(cycle%25 == 0, false); err != nil {
			return fmt.Errorf("cycle %d: %w", cycle, err)
		}
		if len(t.problems) > 0 {
			return fmt.Errorf("cycle %d", cycle)
		}
		if cycle%50 == 0 {
			fmt.Printf("  %d kills, %d jobs\n", cycle, len(t.list))
		}
	}
	if err := t.finish(); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	if err := t.order(); err != nil {
		return fmt.Errorf("order: %w", err)
	}
	return nil
}

// inspect holds a copy of the dead daemon's database against what is known.
func (t *torture) inspect(thorough, final bool) error {
	t.api.settle()
	t.judge()
	db, err := openCopy(t.d.path("daemon.db"), t.copy)
	if err != nil {
		return err
	}
	defer db.Close()
	pragma := "quick_check"
	if thorough || final {
		pragma = "integrity_check"
	}
	t.integrity(db, pragma)
	return t.check(db, final)
}

// cycle is one life of the daemon.
func (t *torture) cycle(number int) error {
	mode := t.rng.IntN(100)
	began := time.Now()
	if err := t.d.spawn(); err != nil {
		return err
	}
	t.tell("cycle %d, mode %d: pid %d", number, mode, t.d.cmd.Process.Pid)
	if mode < 8 && number > 1 { // killed while it starts
		time.Sleep(time.Duration(t.rng.IntN(60_000)) * time.Microsecond)
		t.d.kill()
		t.kills++
		return nil
	}
	if mode < 12 {
		if err := t.second(); err != nil {
			return err
		}
	}
	if err := t.d.ready(30 * time.Second); err != nil {
		return err
	}
	t.restarts = append(t.restarts, time.Since(began))
	if err := t.prepare(); err != nil {
		return err
	}
	if mode < 20 {
		out, code := t.d.cli(context.Background(), "daemon")
		if code != 5 {
			t.bad("a second daemon ended with %d: %s", code, out)
		}
		t.seconds++
	}
	// The lives differ: most end at any time, some right after a refresh, some in an orderly stop.
	life := 20*time.Millisecond + time.Duration(t.rng.IntN(1200))*time.Millisecond
	inWindow, delay := mode >= 80, time.Duration(t.rng.IntN(5_000))*time.Microsecond
	before := len(t.judgeable())
	wait := t.play(number)
	defer wait()
	if inWindow {
		select {
		case <-t.api.refresh:
			time.Sleep(delay)
		case <-time.After(2 * time.Second):
			inWindow = false
		}
	} else {
		time.Sleep(life)
		if mode < 26 {
			_ = t.d.cmd.Process.Signal(syscall.SIGTERM) // it lives: nobody else ends it
			time.Sleep(time.Duration(t.rng.IntN(100)) * time.Millisecond)
		}
	}
	killed := time.Now()
	t.tell("kill")
	t.d.kill()
	t.kills++
	wait()
	if inWindow {
		t.api.settle()
		slot := &t.window[min(int(delay/time.Millisecond), 4)]
		slot[0]++
		lost, err := t.aftermath(before, killed)
		if lost {
			slot[1]++
		}
		return err
	}
	return nil
}

// play lets the clients loose on the daemon; the function that it returns ends and awaits them.
func (t *torture) play(cycle int) (wait func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	conn, stub, err := t.d.dial()
	if err != nil {
		t.bad("dial: %v", err)
	}
	for i := range clients {
		c := t.newClient(stub, rand.New(rand.NewPCG(t.seed, uint64(cycle*clients+i))), fmt.Sprintf("c%d-%d", cycle, i), 15)
		wg.Go(func() {
			c.run(ctx)
			t.ledger.mu.Lock()
			t.lines = append(t.lines, c.mine)
			t.ledger.mu.Unlock()
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		conn.Close()
	})
}

// second starts another daemon at the same time; one of the two must give way.
func (t *torture) second() error {
	other := &daemon{bin: t.d.bin, home: t.d.home}
	if err := other.spawn(); err != nil {
		return err
	}
	select {
	case <-other.ended:
		if code := other.cmd.ProcessState.ExitCode(); code != 5 {
			t.bad("of two daemons one ended with %d: %s", code, other.stderr.String())
		}
	case <-t.d.ended: // the other one was quicker
		if code := t.d.cmd.ProcessState.ExitCode(); code != 5 {
			t.bad("of two daemons one ended with %d: %s", code, t.d.stderr.String())
		}
		t.d.cmd, t.d.ended = other.cmd, other.ended
	case <-time.After(20 * time.Second):
		t.bad("two daemons live in one home")
		other.kill()
	}
	t.seconds++
	return nil
}

// prepare sees to login and schedules, and to what a kill may have cost.
func (t *torture) prepare() error {
	conn, client, err := t.d.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if t.api.logins == 0 {
		if err := t.d.login(ctx); err != nil {
			return err
		}
		for _, overlap := range []string{"skip", "allow"} {
			payload, _ := structpb.NewStruct(map[string]any{"organization": "sched-" + overlap, "repository": "r"}) // never fails
			_, err := client.ScheduleJob(ctx, &daemonpb.ScheduleJobRequest{Name: overlap, CronExpr: "@every 1s", Command: query, Payload: payload, Overlap: overlap})
			if err != nil {
				return err
			}
		}
		return nil
	}
	s, err := client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	if err != nil {
		return err
	}
	if s.Schedules != 2 || int(s.Pid) != t.d.cmd.Process.Pid || len(s.Problems) > 0 {
		t.bad("status: %d schedules, pid %d instead of %d, problems %q", s.Schedules, s.Pid, t.d.cmd.Process.Pid, s.Problems)
	}
	if s.NeedsReauth {
		t.tell("the login is gone")
		t.judge()
		if t.lost == t.mended {
			t.bad("the login is gone, and no refresh token was used twice")
		}
		t.mended = t.lost
		return t.d.login(ctx)
	}
	return nil
}

// judgeable are the second uses of refresh tokens that have not been judged.
func (t *torture) judgeable() []reuse {
	t.api.mu.Lock()
	defer t.api.mu.Unlock()
	return t.api.reuses[t.lost:]
}

// judge: a spent refresh token may come back only if the daemon was killed before it could store the new pair. A pair
// whose access token was seen had been stored.
func (t *torture) judge() {
	for _, r := range t.judgeable() {
		t.tell("a refresh token came twice at %s: rotated at %s, answered at %s, new pair used: %v", r.at, r.rotation.at, r.rotation.answered, r.rotation.used)
		t.lost++
		if r.rotation.used {
			t.bad("a refresh token was used twice although the pair that it had given was in use")
		}
	}
}

// aftermath starts the daemon once more, without clients, to see whether the refresh survived the kill.
func (t *torture) aftermath(before int, killed time.Time) (lost bool, err error) {
	if err := t.d.start(); err != nil {
		return false, err
	}
	conn, client, err := t.d.dial()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// A refresh is due at once, since the tokens live for less than the margin: wait until it is decided.
	t.tell("aftermath: pid %d", t.d.cmd.Process.Pid)
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		s, err := client.GetAuthStatus(ctx, &daemonpb.GetAuthStatusRequest{})
		if err != nil {
			return false, err
		}
		if s.NeedsReauth {
			lost = len(t.judgeable()) > before
			break
		}
		t.api.mu.Lock()
		settled := t.api.families[len(t.api.families)-1].lastUse().After(killed)
		t.api.mu.Unlock()
		if settled {
			time.Sleep(100 * time.Millisecond) // or this kill would be one of those that are counted
			break
		}
	}
	t.d.kill()
	t.kills++
	return lost, nil
}

// lastUse is when the family's refresh token was last rotated.
func (f *family) lastUse() (last time.Time) {
	for _, r := range f.spent {
		if r.at.After(last) {
			last = r.at
		}
	}
	return last
}

// finish lets everything come to its end, and looks at everything again.
func (t *torture) finish() error {
	t.api.setCalm(true)
	if err := t.d.start(); err != nil {
		return err
	}
	if err := t.prepare(); err != nil {
		return err
	}
	conn, client, err := t.d.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for _, name := range []string{"skip", "allow"} {
		if _, err := client.UnscheduleJob(ctx, &daemonpb.UnscheduleJobRequest{Name: name}); err != nil {
			return err
		}
	}
	for {
		s, err := client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err != nil {
			return err
		}
		if s.Pending+s.Running == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	// A key is good for ever: sent again, it gives the job that it gave.
	c := t.newClient(client, t.rng, "last", 0)
	for range 200 {
		c.repeat(ctx)
	}
	for {
		s, err := client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err != nil {
			return err
		}
		if s.Pending+s.Running == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if code := t.d.stop(10 * time.Second); code != 0 {
		t.bad("the last stop ended with %d: %s", code, t.d.stderr.String())
	}
	if err := t.checkSecrets(t.d.home); err != nil {
		return err
	}
	lines, torn, err := t.checkLog(t.d.path("daemon.log"))
	fmt.Printf("  the log: %d lines, %d torn\n", lines, torn)
	if err != nil {
		return err
	}
	return t.inspect(true, true)
}

// order: with one worker and a calm API jobs are sent by priority, then age, kills or no kills.
func (t *torture) order() error {
	text := config(t.api.URL, "queue: {workers: 1}\n")
	if err := os.WriteFile(t.d.path("config.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := t.d.start(); err != nil {
		return err
	}
	conn, client, err := t.d.dial()
	if err != nil {
		return err
	}
	if _, err := client.PauseQueue(ctx, &daemonpb.PauseQueueRequest{}); err != nil {
		return err
	}
	type job struct {
		uid      string
		priority int32
	}
	var want []job
	for i := range 100 {
		e := t.newEntry(fmt.Sprintf("order-%d", i), query, "", 0)
		in := request(e, t.rng)
		out, err := client.SubmitJob(ctx, in)
		if err != nil {
			return err
		}
		e.ids = []string{out.JobId}
		want = append(want, job{e.uid, in.Priority})
	}
	conn.Close()
	t.d.kill()
	t.kills++
	if err := t.d.start(); err != nil {
		return err
	}
	if conn, client, err = t.d.dial(); err != nil {
		return err
	}
	defer conn.Close()
	t.api.mu.Lock()
	from := len(t.api.order)
	t.api.mu.Unlock()
	if s, err := client.GetStatus(ctx, &daemonpb.GetStatusRequest{}); err != nil || !s.QueuePaused || s.Pending != 100 {
		return fmt.Errorf("the pause did not survive: %v %v", s, err)
	}
	if _, err := client.ResumeQueue(ctx, &daemonpb.ResumeQueueRequest{}); err != nil {
		return err
	}
	for {
		s, err := client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
		if err != nil {
			return err
		}
		if s.Pending+s.Running == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	slices.SortStableFunc(want, func(a, b job) int { return int(b.priority - a.priority) })
	t.api.mu.Lock()
	got := slices.Clone(t.api.order[from:])
	t.api.mu.Unlock()
	for i, j := range want {
		if i >= len(got) || got[i] != j.uid {
			t.bad("order: at %d the API got %v, should be %s (priority %d)", i, got[min(i, len(got)):min(i+1, len(got))], j.uid, j.priority)
			break
		}
	}
	if code := t.d.stop(10 * time.Second); code != 0 {
		t.bad("the stop ended with %d", code)
	}
	return t.inspect(true, false)
}

func (t *torture) report(took time.Duration) {
	acked, executed, mutations, failed := 0, 0, 0, map[string]int{}
	for _, e := range t.list {
		acked += len(e.ids)
		if e.command == mutation {
			mutations++
			executed += t.api.fate(e.uid).executions
		}
	}
	for _, r := range t.verified {
		failed[r.status+" "+r.code]++
	}
	slices.Sort(t.restarts)
	median, worst := time.Duration(0), time.Duration(0)
	if n := len(t.restarts); n > 0 {
		median, worst = t.restarts[n/2], t.restarts[n-1]
	}
	fmt.Printf("  %d kills in %s; ready again after %s (median), %s (worst); %d second daemons turned away\n", t.kills, took.Round(time.Second),
		median.Round(time.Millisecond), worst.Round(time.Millisecond), t.seconds)
	fmt.Printf("  %d acked jobs, %d batches, %d results compared; %d mutations, %d carried out; calls %v\n", acked, t.batches, t.results, mutations, executed, t.calls)
	fmt.Printf("  ends: %v\n", failed)
	fmt.Printf("  %d logins, %d refreshes, %d lost to a kill between the API's answer and the save\n", t.api.logins, t.api.renewals, t.lost)
	for ms, w := range t.window {
		if w[0] > 0 {
			fmt.Printf("    killed %d-%d ms after a refresh's answer: %d times, login lost %d times\n", ms, ms+1, w[0], w[1])
		}
	}
	if len(t.problems) > 0 {
		fmt.Println(strings.Join(t.diary[max(0, len(t.diary)-30):], "\n"))
	}
	for _, p := range t.problems[:min(40, len(t.problems))] {
		fmt.Println("  VIOLATION:", p)
	}
}
