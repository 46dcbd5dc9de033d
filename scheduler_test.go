package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"honeydew/daemonpb"
)

// schedulerRig is a scheduler and a queue over a real store. Its wall clock can be set apart from the steady one, which
// is the bubble's; both start at 2000-01-01T00:00:00Z.
type schedulerRig struct {
	*queueRig
	s      *Scheduler
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	step time.Duration // of the wall clock against the steady one
}

func newSchedulerRig(t *testing.T, run func(ctx context.Context, j *Job) (string, error)) *schedulerRig {
	t.Helper()
	r := &schedulerRig{queueRig: newQueueRig(t, QueueOptions{Workers: 2}, run)}
	t.Cleanup(r.down)
	r.q.Start()
	r.up()
	return r
}

func (r *schedulerRig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return timeNow().Add(r.step)
}

// set turns the wall clock by d.
func (r *schedulerRig) set(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step += d
}

// up is the start of a daemon, and down its end.
func (r *schedulerRig) up() {
	r.Helper()
	commands, err := loadCommands(queries)
	if err != nil {
		r.Fatal(err)
	}
	r.s = newScheduler(parts{cfg: defaultConfig("/nowhere"), log: slog.New(slog.NewJSONHandler(r.log, nil)), store: r.store, commands: commands,
		queue: r.q}, r.now)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go func() { defer close(r.done); r.s.Run(ctx) }()
	synctest.Wait()
}

func (r *schedulerRig) down() {
	r.cancel()
	<-r.done
}

// add schedules github.commits under a name made of expr.
func (r *schedulerRig) add(expr string, change func(*Schedule)) Schedule {
	r.Helper()
	sc := Schedule{Name: "of " + expr, CronExpr: expr, Command: "github.commits", Payload: []byte(`{"organization":"acme","repository":"api"}`), Environment: "production",
		MaxRetries: 12, Timeout: 30 * time.Second}
	if change != nil {
		change(&sc)
	}
	sc, err := r.s.Add(sc, false)
	if err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
	return sc
}

func (r *schedulerRig) schedule(sc Schedule) Schedule {
	r.Helper()
	sc, err := r.store.Schedule(sc.Name)
	if err != nil {
		r.Fatal(err)
	}
	return sc
}

// jobs are those that sc has made, oldest first.
func (r *schedulerRig) jobs(sc Schedule) []*Job {
	r.Helper()
	jobs, err := r.store.Jobs(JobFilter{Schedule: sc.Name, Limit: 10_000})
	if err != nil {
		r.Fatal(err)
	}
	slices.Reverse(jobs)
	return jobs
}

// wantRuns holds the creation times of sc's jobs, by the wall clock and down to the minute, against want: "01 00:00:00" is a day in January
// 2000 and a time in UTC.
func (r *schedulerRig) wantRuns(sc Schedule, want ...string) {
	r.Helper()
	var got []string
	for _, j := range r.jobs(sc) {
		got = append(got, j.CreatedAt.UTC().Truncate(time.Minute).Format("02 15:04:05"))
	}
	if !slices.Equal(got, want) {
		r.Fatalf("runs at %q, want %q", got, want)
	}
}

func (r *schedulerRig) wantNext(sc Schedule, want string) {
	r.Helper()
	if got := timeText(r.schedule(sc).NextRunAt); got != want {
		r.Fatalf("next run at %s, want %s", got, want)
	}
}

func withMissed(m string) func(*Schedule) { return func(sc *Schedule) { sc.Missed = m } }

func TestScheduleFiresOnceAtEachNominalTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		daily, often := r.add("CRON_TZ=UTC 30 9 * * *", nil), r.add("CRON_TZ=UTC */20 1 1 * *", nil)
		advance(36 * time.Hour)
		r.wantRuns(daily, "01 09:30:00", "02 09:30:00")
		r.wantRuns(often, "01 01:00:00", "01 01:20:00", "01 01:40:00")
		r.wantNext(daily, "2000-01-03T09:30:00.000Z")
		got := r.schedule(daily)
		if timeText(got.LastRunAt) != "2000-01-02T09:30:00.000Z" || got.LastJobID != r.jobs(daily)[1].ID || got.LastJobStatus != statusCompleted {
			t.Fatalf("%+v", got)
		}
		j := r.jobs(daily)[0]
		if j.Command != "github.commits" || string(j.Payload) != `{"organization":"acme","repository":"api"}` || j.MaxRetries != 12 || j.Timeout != 30*time.Second || j.Environment != "production" {
			t.Fatalf("%+v", j)
		}
		if n := strings.Count(r.log.String(), `"msg":"schedule triggered"`); n != 5 {
			t.Fatalf("%d lines in the log, want 5", n)
		}
	})
}

func TestScheduleFiresOnceUnderTwoSchedulers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 * * * *", nil)
		first := schedulerRig{cancel: r.cancel, done: r.done}
		r.up() // as if a second daemon had got past the lock
		defer first.down()
		advance(3*time.Hour + time.Minute)
		r.wantRuns(sc, "01 01:00:00", "01 02:00:00", "01 03:00:00")
	})
}

func TestMissedTimesMakeOneRunOrNone(t *testing.T) {
	for missed, want := range map[string][]string{
		missedRunOnce: {"01 01:00:00", "01 05:30:00", "01 06:00:00"},
		missedSkip:    {"01 01:00:00", "01 06:00:00"},
	} {
		for _, c := range []struct {
			name string
			away func(r *schedulerRig)
		}{
			{"while down", func(r *schedulerRig) { r.down(); advance(4*time.Hour + 20*time.Minute); r.up() }},
			{"while asleep", func(r *schedulerRig) { r.set(4*time.Hour + 20*time.Minute - 10*time.Second); advance(10 * time.Second) }},
		} {
			t.Run(missed+" "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newSchedulerRig(t, nil)
					sc := r.add("CRON_TZ=UTC 0 * * * *", withMissed(missed))
					advance(70 * time.Minute)
					c.away(r)
					advance(31 * time.Minute)
					r.wantRuns(sc, want...)
				})
			})
		}
	}
}

// The job and the step to the next time are one transaction: a disk that refuses one of them has refused both.
func TestFiringThatFailsHalfWayIsTriedAgainAndFiresOnce(t *testing.T) {
	for _, event := range []string{"INSERT ON jobs", "UPDATE OF last_job_id ON schedules", "UPDATE OF next_run_at ON schedules"} {
		synctest.Test(t, func(t *testing.T) {
			r := newSchedulerRig(t, nil)
			sc := r.add("CRON_TZ=UTC 0 * * * *", nil)
			do := func(statement string) {
				if err := r.store.update(func(t *tx) error { return t.exec(statement) }); err != nil {
					t.Fatal(err)
				}
			}
			do("CREATE TRIGGER broken BEFORE " + event + " BEGIN SELECT RAISE(ABORT, 'the disk says no'); END")
			advance(time.Hour + 2*time.Minute)
			r.wantRuns(sc)
			r.wantNext(sc, "2000-01-01T01:00:00.000Z")
			do("DROP TRIGGER broken")
			advance(2 * scheduleCheck)
			r.wantNext(sc, "2000-01-01T02:00:00.000Z")
			if n := len(r.jobs(sc)); n != 1 {
				t.Fatalf("%s: %d runs of one time, want 1", event, n)
			}
		})
	}
}

func TestFiringIsVoidOnceItsScheduleHasChanged(t *testing.T) {
	s := openTestStore(t)
	at := timeNow().Add(time.Hour)
	if err := s.SaveSchedule(Schedule{ID: "id", Name: "nightly", CronExpr: "@daily", Payload: []byte("{}"), Missed: missedSkip,
		Overlap: overlapSkip, CreatedAt: timeNow(), NextRunAt: at}, false); err != nil {
		t.Fatal(err)
	}
	want := func(name string, f Firing, want bool) {
		t.Helper()
		f.ScheduleID, f.Job = "id", newTestJob("github.commits")
		if fired, err := s.Fire(f, nil); err != nil || (fired != nil) != want {
			t.Errorf("%s: fired %v (%v)", name, fired, err)
		}
	}
	want("another time", Firing{Expected: at.Add(time.Second), Next: at.Add(time.Hour)}, false)
	if _, err := s.SetScheduleEnabled("nightly", false, at); err != nil {
		t.Fatal(err)
	}
	want("paused", Firing{Expected: at, Next: at.Add(time.Hour)}, false)
	if _, err := s.SetScheduleEnabled("nightly", true, at); err != nil {
		t.Fatal(err)
	}
	want("as it was read", Firing{Expected: at, Next: at.Add(time.Hour)}, true)
	want("once more", Firing{Expected: at, Next: at.Add(time.Hour)}, false)
}

func TestLastSuccessOnlyMovesForward(t *testing.T) {
	s := openTestStore(t)
	begin := timeNow().Add(-time.Hour)
	if err := s.SaveSchedule(Schedule{ID: "id", Name: "nightly", CronExpr: "@daily", Payload: []byte("{}"), Missed: missedSkip,
		Overlap: overlapAllow, CreatedAt: begin}, false); err != nil {
		t.Fatal(err)
	}
	var jobs []*Job
	for i := range 3 {
		j := newTestJob("github.commits")
		j.Schedule, j.CreatedAt = "nightly", begin.Add(time.Duration(i)*time.Minute)
		jobs = append(jobs, submitTestJob(t, s, j))
	}
	if err := errors.Join(finishNow(s, jobs[2], statusFailed, ""), finishNow(s, jobs[1], statusCompleted, "1"),
		finishNow(s, jobs[0], statusCompleted, "1")); err != nil { // the oldest ends last
		t.Fatal(err)
	}
	if sc, err := s.Schedule("nightly"); err != nil || !sc.LastSuccessAt.Equal(jobs[1].CreatedAt) {
		t.Errorf("last success %s, want that of the second of three (%v)", timeText(sc.LastSuccessAt), err)
	}
}

// However short: who is away over a nominal time has missed it.
func TestTimeMissedByARestartOfSecondsIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		skips, runs := r.add("CRON_TZ=UTC 0 1 * * *", withMissed(missedSkip)), r.add("CRON_TZ=UTC 0 1-1 * * *", withMissed(missedRunOnce))
		advance(time.Hour - 10*time.Second)
		r.down()
		advance(15 * time.Second)
		r.up()
		advance(time.Hour)
		r.wantRuns(skips)
		r.wantRuns(runs, "01 01:00:00")
	})
}

// A laptop that slept: the wall clock is 8 hours on, the steady clock and all timers stood still.
func TestSuspendIsNoticedWithinHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		daily, every := r.add("CRON_TZ=UTC 0 7 * * *", nil), r.add("@every 3h", nil)
		advance(time.Minute)
		r.set(8 * time.Hour)
		advance(scheduleCheck)
		for _, sc := range []Schedule{daily, every} {
			jobs := r.jobs(sc)
			if len(jobs) != 1 || jobs[0].CreatedAt.Sub(daily.CreatedAt) > 8*time.Hour+time.Minute+scheduleCheck {
				t.Fatalf("%s: %d runs", sc.Name, len(jobs))
			}
		}
		advance(16 * time.Hour)
		if n := len(r.jobs(every)); n != 6 {
			t.Fatalf("@every 3h made %d runs in 16 h after the one that was late, want 5", n-1)
		}
	})
}

func TestClockSetBackFiresNoNominalTimeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		hourly, every := r.add("CRON_TZ=UTC 0 * * * *", nil), r.add("@every 40m", nil)
		advance(3*time.Hour + 10*time.Minute)
		r.set(-2 * time.Hour) // 01:10 again
		advance(3 * time.Hour)
		r.wantRuns(hourly, "01 01:00:00", "01 02:00:00", "01 03:00:00", "01 04:00:00")
		// What counts elapsed time goes on at its pace: 3:20, 4:00 .. 6:00 of elapsed time.
		r.wantRuns(every, "01 00:40:00", "01 01:20:00", "01 02:00:00", "01 02:40:00",
			"01 01:20:00", "01 02:00:00", "01 02:40:00", "01 03:20:00", "01 04:00:00")
	})
}

func TestClockFromTheFarFutureIsForgottenWhenItIsCorrected(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, missed := range []string{missedRunOnce, missedSkip} {
			t.Run(fmt.Sprintf("%s, restart %t", missed, restart), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newSchedulerRig(t, nil)
					r.down()
					r.set(30 * 365 * 24 * time.Hour) // a clock without a battery
					r.up()
					hourly, every := r.add("CRON_TZ=UTC 0 * * * *", withMissed(missed)), r.add("@every 40m", withMissed(missed))
					advance(90 * time.Minute)
					before := len(r.jobs(hourly)) + len(r.jobs(every))
					if before != 3 {
						t.Fatalf("%d runs in the future, want 3", before)
					}
					if restart {
						r.down()
					}
					r.set(-30 * 365 * 24 * time.Hour)
					if restart {
						r.up()
					}
					advance(3*time.Hour + time.Minute) // 01:30 to 04:31
					if n := len(r.jobs(hourly)) - 1; n != 3 {
						t.Errorf("the hourly schedule ran %d times in 3 hours, next at %s", n, timeText(r.schedule(hourly).NextRunAt))
					}
					if n := len(r.jobs(every)) - 2; n != 4 {
						t.Errorf("@every 40m ran %d times in 3 hours, next at %s", n, timeText(r.schedule(every).NextRunAt))
					}
				})
			})
		}
	}
}

func TestEveryKeepsItsGridOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("@every 6h", nil)
		for range 26 { // a daemon that is restarted each hour must neither shift nor starve it
			advance(time.Hour)
			r.down()
			r.up()
		}
		r.wantRuns(sc, "01 06:00:00", "01 12:00:00", "01 18:00:00", "02 00:00:00")
		r.wantNext(sc, "2000-01-02T06:00:00.000Z")
	})
}

func TestOverlapIsSkippedOrAllowed(t *testing.T) {
	for overlap, want := range map[string]int{overlapSkip: 1, overlapAllow: 3} {
		t.Run(overlap, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				r := newSchedulerRig(t, func(context.Context, *Job) (string, error) { <-gate; return "1", nil })
				sc := r.add("CRON_TZ=UTC 0 * * * *", func(sc *Schedule) { sc.Overlap = overlap })
				advance(3*time.Hour + time.Minute)
				if n := len(r.jobs(sc)); n != want {
					t.Fatalf("%d jobs while the first was unfinished, want %d", n, want)
				}
				r.wantNext(sc, "2000-01-01T04:00:00.000Z")
				close(gate)
				advance(time.Hour)
				if n := len(r.jobs(sc)); n != want+1 {
					t.Fatalf("%d jobs after the first had ended, want %d", n, want+1)
				}
			})
		})
	}
}

func TestJitterSpreadsTheStartButNotTheNominalTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 * * * *", func(sc *Schedule) { sc.Jitter = 10 * time.Minute })
		var waits []time.Duration
		for range 24 {
			advance(time.Hour)
			jobs := r.jobs(sc)
			j := jobs[len(jobs)-1]
			wait := j.NextAttemptAt.Sub(j.CreatedAt)
			if j.Status == statusPending && (wait < 0 || wait >= 10*time.Minute) {
				t.Fatalf("a start %s after the nominal time, want less than 10m", wait)
			}
			waits = append(waits, wait)
		}
		if len(r.jobs(sc)) != 24 || slices.Max(waits)-slices.Min(waits) < time.Minute {
			t.Fatalf("%d runs with waits %v: want 24, spread over ten minutes", len(r.jobs(sc)), waits)
		}
		for _, a := range r.attempts() {
			if late := a.at.Sub(a.job.CreatedAt); late < 0 || late > 10*time.Minute {
				t.Fatalf("run %s after its time", late)
			}
		}
	})
}

func TestPausedScheduleMakesNothingUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 * * * *", nil)
		advance(90 * time.Minute)
		paused, err := r.s.SetEnabled(sc.Name, false)
		if err != nil || paused.Enabled || !paused.NextRunAt.IsZero() {
			t.Fatalf("%+v, %v", paused, err)
		}
		advance(3 * time.Hour)
		r.down()
		r.up()
		advance(time.Minute)
		resumed, err := r.s.SetEnabled(sc.Name, true)
		if err != nil || !resumed.Enabled || timeText(resumed.NextRunAt) != "2000-01-01T05:00:00.000Z" {
			t.Fatalf("%+v, %v", resumed, err)
		}
		advance(time.Hour)
		r.wantRuns(sc, "01 01:00:00", "01 05:00:00")
		if _, err := r.s.SetEnabled("no such", true); codeOf(err) != codeNotFound {
			t.Fatal(err)
		}
	})
}

func TestTriggerRunsNowAndLeavesTheNextTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 6 * * *", nil)
		advance(time.Hour)
		id, err := r.s.Trigger(sc.Name)
		if err != nil || r.jobs(sc)[0].ID != id {
			t.Fatal(id, err)
		}
		r.wantNext(sc, "2000-01-01T06:00:00.000Z")
		if _, err := r.s.SetEnabled(sc.Name, false); err != nil {
			t.Fatal(err)
		}
		if _, err := r.s.Trigger(sc.Name); err != nil {
			t.Fatalf("a paused schedule: %v", err)
		}
		if got := r.schedule(sc); got.Enabled || !got.NextRunAt.IsZero() {
			t.Fatalf("triggering resumed it: %+v", got)
		}
		advance(24 * time.Hour)
		r.wantRuns(sc, "01 01:00:00", "01 01:00:00")
		if _, err := r.s.Trigger("no such"); codeOf(err) != codeNotFound {
			t.Fatal(err)
		}
	})
}

func TestScheduleThatNeverFiresAgainIsDisabled(t *testing.T) {
	for name, change := range map[string]string{
		"a zone that is gone":    "cron_expr = 'CRON_TZ=Mars/Olympus 0 * * * *'",
		"a day that never comes": "cron_expr = '0 0 30 2 *'",
		"no next time":           "next_run_at = NULL, cron_expr = '0 0 31 2 *'",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newSchedulerRig(t, nil)
				sc, other := r.add("CRON_TZ=UTC 0 * * * *", nil), r.add("CRON_TZ=UTC 30 * * * *", nil)
				if err := r.store.update(func(t *tx) error { return t.exec("UPDATE schedules SET "+change+" WHERE name = ?", sc.Name) }); err != nil {
					t.Fatal(err)
				}
				advance(3 * time.Hour)
				if got := r.schedule(sc); got.Enabled || !got.NextRunAt.IsZero() {
					t.Errorf("%+v", got)
				}
				if n := strings.Count(r.log.String(), "never fires again"); n != 1 {
					t.Errorf("%d lines in the log, want 1", n)
				}
				r.wantRuns(other, "01 00:30:00", "01 01:30:00", "01 02:30:00")
			})
		})
	}
}

func TestRemovedScheduleLeavesItsJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 * * * *", nil)
		advance(90 * time.Minute)
		if err := r.store.RemoveSchedule("", sc.Name); err != nil {
			t.Fatal(err)
		}
		if err := r.store.RemoveSchedule("", sc.Name); codeOf(err) != codeNotFound {
			t.Fatal(err)
		}
		advance(3 * time.Hour)
		r.wantRuns(sc, "01 01:00:00")
	})
}

func TestScheduleOfACommandThatIsGoneGoesOnWithoutJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc, other := r.add("CRON_TZ=UTC 0 * * * *", nil), r.add("CRON_TZ=UTC 30 * * * *", nil)
		for _, change := range []string{"command = 'github.gone'", `command = 'github.commits', payload = '{"organization":"acme","repository":"api","gone":1}'`} {
			if err := r.store.update(func(t *tx) error { return t.exec("UPDATE schedules SET "+change+" WHERE name = ?", sc.Name) }); err != nil {
				t.Fatal(err)
			}
			advance(2 * time.Hour)
		}
		r.wantRuns(sc)
		r.wantNext(sc, "2000-01-01T05:00:00.000Z")
		if n := len(r.jobs(other)); n != 4 {
			t.Fatalf("the neighbour ran %d times, want 4", n)
		}
		if n := strings.Count(r.log.String(), "schedule made no job"); n != 4 {
			t.Fatalf("%d lines in the log, want 4", n)
		}
	})
}

func TestHostileSchedulesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		good := Schedule{Name: "n", CronExpr: "0 * * * *", Command: "github.commits", Payload: []byte(`{"organization":"acme","repository":"api"}`), Environment: "production"}
		for name, change := range map[string]func(*Schedule){
			"TZ= alone":          func(s *Schedule) { s.CronExpr = "TZ=" },
			"CRON_TZ alone":      func(s *Schedule) { s.CronExpr = "CRON_TZ=UTC" },
			"TZ without a blank": func(s *Schedule) { s.CronExpr = "TZ=0" },
			"empty":              func(s *Schedule) { s.CronExpr = "" },
			"never fires":        func(s *Schedule) { s.CronExpr = "0 0 30 2 *" },
			"commas":             func(s *Schedule) { s.CronExpr = ",,, * * * *" },
			"every zero":         func(s *Schedule) { s.CronExpr = "@every 0s" },
			"every negative":     func(s *Schedule) { s.CronExpr = "@every -5m" },
			"every tiny":         func(s *Schedule) { s.CronExpr = "@every 1ms" },
			"huge":               func(s *Schedule) { s.CronExpr = strings.Repeat("0,", 100_000) + "0 * * * *" },
			"control":            func(s *Schedule) { s.CronExpr = "0 * * * *\x00" },
			"path as zone":       func(s *Schedule) { s.CronExpr = "TZ=../../etc/passwd 0 * * * *" },
			"step over field":    func(s *Schedule) { s.CronExpr = "*/61 * * * *" },
			"no name":            func(s *Schedule) { s.Name = "" },
			"name with newline":  func(s *Schedule) { s.Name = "a\nb" },
			"name with escape":   func(s *Schedule) { s.Name = "a\x1b[31m" },
			"name like a flag":   func(s *Schedule) { s.Name = "--force" },
			"long name":          func(s *Schedule) { s.Name = strings.Repeat("n", 101) },
			"missed":             func(s *Schedule) { s.Missed = "sometimes" },
			"overlap":            func(s *Schedule) { s.Overlap = "queue" },
			"payload key":        func(s *Schedule) { s.Payload = []byte(`{"organization":"a","repository":"b","x":1}`) },
			"payload missing":    func(s *Schedule) { s.Payload = []byte(`{"organization":"a"}`) },
			"payload date":       func(s *Schedule) { s.Payload = []byte(`{"organization":"a","repository":"b","startDate":"soon"}`) },
		} {
			sc := good
			change(&sc)
			if _, err := r.s.Add(sc, false); codeOf(err) != codeInvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
		}
		for command, code := range map[string]string{"auth.login": codeUnknownCommand, "no.such": codeUnknownCommand} {
			sc := good
			sc.Command = command
			if _, err := r.s.Add(sc, false); codeOf(err) != code {
				t.Errorf("%s: %v", command, err)
			}
		}
		if _, err := r.s.Add(good, false); err != nil {
			t.Fatal(err)
		}
		if _, err := r.s.Add(good, false); codeOf(err) != codeAlreadyExists {
			t.Fatalf("a taken name: %v", err)
		}
		if all, err := r.store.Schedules(); err != nil || len(all) != 1 {
			t.Fatalf("%d schedules stored (%v), want 1", len(all), err)
		}
	})
}

func TestRelativeDatesAreResolvedAtEachFiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 12 * * *", func(sc *Schedule) {
			sc.Payload = []byte(`{"organization":"acme","repository":"api","startDate":"-24h","endDate":"now"}`)
		})
		advance(36 * time.Hour)
		for i, want := range []string{
			`{"endDate":"2000-01-01T12:00:00.000Z","organization":"acme","repository":"api","startDate":"1999-12-31T12:00:00.000Z"}`,
			`{"endDate":"2000-01-02T12:00:00.000Z","organization":"acme","repository":"api","startDate":"2000-01-01T12:00:00.000Z"}`,
		} {
			if got := string(r.jobs(sc)[i].Payload); got != want {
				t.Errorf("run %d: %s, want %s", i, got, want)
			}
		}
	})
}

// syncSchedule fetches the commits since the last success, hourly.
func (r *schedulerRig) syncSchedule() Schedule {
	return r.add("CRON_TZ=UTC 0 * * * *", func(sc *Schedule) {
		sc.Payload = []byte(`{"organization":"acme","repository":"api","startDate":"last-success"}`)
	})
}

// covered is how far, from upTo on, completed jobs have fetched everything without a gap.
func covered(t *testing.T, jobs []*Job, upTo time.Time) time.Time {
	t.Helper()
	for _, j := range jobs {
		if j.Status != statusCompleted {
			continue
		}
		var payload struct{ StartDate string }
		if err := json.Unmarshal(j.Payload, &payload); err != nil {
			t.Fatal(err)
		}
		from, err := parseTimeText(payload.StartDate)
		if err != nil {
			t.Fatal(err)
		}
		// The API answers with what it has when the request is made: never earlier than the job's creation.
		if !from.After(upTo) && j.CreatedAt.After(upTo) {
			upTo = j.CreatedAt
		}
	}
	return upTo
}

func TestWeekOfOutagesLosesNoCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *schedulerRig
		begin := timeNow()
		r = newSchedulerRig(t, func(_ context.Context, j *Job) (string, error) {
			hour := int(timeNow().Sub(begin).Hours())
			switch {
			case hour >= 24 && hour < 72: // the API is away for two days
				return "", &Error{Code: codeNetwork, Message: "connection refused", Fate: fateUnsent}
			case hour%7 == 3: // and has bad hours
				return "", &Error{Code: codeServer, Message: "HTTP 502", Fate: fateLost}
			case hour%11 == 5:
				return "", &Error{Code: codeAPI, Message: "no", Fate: fateRefused}
			}
			return "1", nil
		})
		sc := r.syncSchedule()
		for day := range 7 {
			advance(20 * time.Hour)
			if day%2 == 0 { // the daemon is away, too
				r.down()
				advance(3 * time.Hour)
				r.up()
				advance(time.Hour)
			} else {
				advance(4 * time.Hour)
			}
		}
		advance(4*time.Hour + time.Minute) // to a good hour
		jobs := r.jobs(sc)
		counts := map[string]int{}
		for _, j := range jobs {
			counts[j.Status]++
		}
		if counts[statusFailed] < 40 || counts[statusCompleted] < 40 {
			t.Fatalf("%v: the week was meant to have both kinds", counts)
		}
		last := jobs[len(jobs)-1]
		if got := covered(t, jobs, time.Time{}); !got.Equal(last.CreatedAt) || last.Status != statusCompleted {
			t.Fatalf("fetched without a gap up to %s, want %s", timeText(got), timeText(last.CreatedAt))
		}
	})
}

func TestLastSuccessIsLeftOutUntilThereIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.syncSchedule()
		advance(2*time.Hour + time.Minute)
		jobs := r.jobs(sc)
		if got := string(jobs[0].Payload); strings.Contains(got, "startDate") {
			t.Errorf("the first run: %s", got)
		}
		if got := string(jobs[1].Payload); !strings.Contains(got, `"startDate":"2000-01-01T01:00:00.000Z"`) {
			t.Errorf("the second run: %s", got)
		}
		// A schedule made anew under the name knows nothing of the old one's successes.
		if err := r.store.RemoveSchedule("", sc.Name); err != nil {
			t.Fatal(err)
		}
		r.syncSchedule()
		advance(time.Hour)
		if jobs = r.jobs(sc); strings.Contains(string(jobs[2].Payload), "startDate") {
			t.Errorf("the first run of the new schedule: %s", jobs[2].Payload)
		}
	})
}

// A success recorded by a clock that was ahead must not hide what happens until the right clock gets there.
func TestLastSuccessOfAClockThatWasAheadLeavesNoGap(t *testing.T) {
	for _, ahead := range []time.Duration{2 * time.Hour, 30 * 365 * 24 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newSchedulerRig(t, nil)
				sc := r.syncSchedule()
				advance(90 * time.Minute)
				r.set(ahead)
				advance(2 * time.Hour) // runs under the wrong clock
				jobs := r.jobs(sc)     // the queue's clock is the bubble's, so what it would have recorded is recorded here
				if err := r.store.update(func(t *tx) error {
					return t.exec("UPDATE schedules SET last_success_at = ?", timeText(jobs[len(jobs)-1].CreatedAt))
				}); err != nil {
					t.Fatal(err)
				}
				r.set(-ahead)
				corrected := timeNow()
				advance(6 * time.Hour)
				var after []*Job
				for _, j := range r.jobs(sc) {
					if a := slices.IndexFunc(r.attempts(), func(a queueRun) bool { return a.job.ID == j.ID }); !r.attempts()[a].at.Before(corrected) {
						after = append(after, j)
					}
				}
				if len(after) < 3 {
					t.Fatalf("%d runs after the clock was corrected", len(after))
				}
				var payload struct{ StartDate string }
				if err := json.Unmarshal(after[0].Payload, &payload); err != nil {
					t.Fatal(err)
				}
				from, err := parseTimeText(payload.StartDate)
				if err != nil || from.After(corrected) {
					t.Fatalf("the first run after the correction asks from %s on, and it is %s", payload.StartDate, timeText(after[0].CreatedAt))
				}
				if got, last := covered(t, after, from), after[len(after)-1].CreatedAt; !got.Equal(last) {
					t.Fatalf("fetched without a gap up to %s, want %s", timeText(got), timeText(last))
				}
			})
		})
	}
}

// The same, where the clock was corrected while the daemon was down, so that nobody saw the step.
func TestLastSuccessThatLiesInTheFutureIsNotAskedFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.syncSchedule()
		if err := r.store.update(func(t *tx) error { return t.exec("UPDATE schedules SET last_success_at = '2030-01-01T00:00:00.000Z'") }); err != nil {
			t.Fatal(err)
		}
		advance(2*time.Hour + time.Minute)
		if got := string(r.jobs(sc)[0].Payload); strings.Contains(got, "startDate") {
			t.Errorf("the first run: %s, want everything", got)
		}
		if got := string(r.jobs(sc)[1].Payload); !strings.Contains(got, `"startDate":"2000-01-01T01:00:00.000Z"`) {
			t.Errorf("the second run: %s, want it from the first on", got)
		}
	})
}

func TestPreviewNamesTheNextTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for expr, want := range map[string][]string{
			"CRON_TZ=UTC 0 0 29 2 *": {"2000-02-29T00:00:00.000Z", "2004-02-29T00:00:00.000Z", "2008-02-29T00:00:00.000Z", "2012-02-29T00:00:00.000Z",
				"2016-02-29T00:00:00.000Z"},
			"@every 90s": {"2000-01-01T00:01:30.000Z", "2000-01-01T00:03:00.000Z", "2000-01-01T00:04:30.000Z", "2000-01-01T00:06:00.000Z",
				"2000-01-01T00:07:30.000Z"},
		} {
			out, err := new(rpcServer).PreviewSchedule(t.Context(), &daemonpb.PreviewScheduleRequest{CronExpr: expr})
			if err != nil || !slices.Equal(out.Times, want) {
				t.Errorf("%s: %v (%v), want %v", expr, out, err, want)
			}
		}
		if _, err := new(rpcServer).PreviewSchedule(t.Context(), &daemonpb.PreviewScheduleRequest{CronExpr: "TZ="}); codeOf(err) != codeInvalidArgument {
			t.Error(err)
		}
	})
}

func TestReplacedScheduleKeepsItsIDAndHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		first := r.add("CRON_TZ=UTC 30 9 * * *", nil)
		advance(24 * time.Hour)
		before := r.schedule(first)
		if before.LastSuccessAt.IsZero() || before.LastJobID == "" {
			t.Fatalf("%+v has no history", before)
		}
		change := first
		change.CronExpr = "CRON_TZ=UTC 0 12 * * *"
		change.Priority = 9
		change.MaxRetries = 2
		change.Timeout = time.Minute
		if _, err := r.s.Add(change, false); codeOf(err) != codeAlreadyExists {
			t.Errorf("adding it again: %v", err)
		}
		replaced, err := r.s.Add(change, true)
		if err != nil {
			t.Fatal(err)
		}
		want := before
		want.CronExpr, want.Priority, want.MaxRetries, want.Timeout = change.CronExpr, 9, 2, time.Minute
		want.NextRunAt = replaced.NextRunAt
		if got := fmt.Sprintf("%+v", replaced); got != fmt.Sprintf("%+v", want) || timeText(replaced.NextRunAt) != "2000-01-02T12:00:00.000Z" {
			t.Errorf("%s, want %+v", got, want)
		}
		advance(13 * time.Hour)
		if jobs := r.jobs(first); len(jobs) != 2 || jobs[1].MaxRetries != 2 || jobs[1].Timeout != time.Minute {
			t.Errorf("%+v", jobs)
		}
		change.Name = "new"
		if sc, err := r.s.Add(change, true); err != nil || sc.ID == first.ID {
			t.Errorf("replacing what is not there: %+v, %v", sc, err)
		}
	})
}

// A clock that is set back by minutes makes no nominal time fire twice, though a long gap follows the last one.
func TestASmallStepBackBeforeALongGapFiresNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC */15 9 * * 6", nil) // the first day is a Saturday
		advance(9*time.Hour + 46*time.Minute)
		r.set(-20 * time.Minute) // 09:26 again
		advance(time.Hour)
		r.wantRuns(sc, "01 09:00:00", "01 09:15:00", "01 09:30:00", "01 09:45:00")
	})
}

func TestASingleTimeSkippedByAWrongClockStillRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSchedulerRig(t, nil)
		sc := r.add("CRON_TZ=UTC 0 0 * * 0", withMissed(missedSkip)) // the first day is a Saturday
		advance(time.Hour)
		r.down()
		r.set(3 * 24 * time.Hour)
		r.up()
		advance(time.Minute)
		r.set(-3 * 24 * time.Hour)
		advance(24 * time.Hour)
		if len(r.jobs(sc)) != 1 {
			t.Errorf("runs %d, next %s, now %s", len(r.jobs(sc)), timeText(r.schedule(sc).NextRunAt), timeText(r.now()))
		}
	})
}

// Jitter is a length of time, so that the job of a clock that was far ahead does not wait until then.
func TestJitterFollowsAClockThatIsSetBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(strconv.FormatBool(restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newSchedulerRig(t, nil)
				sc := r.add("CRON_TZ=UTC 0 * * * *", func(sc *Schedule) { sc.Jitter = 30 * time.Minute })
				advance(30 * time.Minute)
				r.set(60 * 24 * time.Hour)
				advance(time.Minute)
				if len(r.jobs(sc)) != 1 {
					t.Fatal(len(r.jobs(sc)))
				}
				r.set(-60 * 24 * time.Hour)
				r.q.mu.Lock()
				r.q.wall = r.q.wall.Add(60 * 24 * time.Hour) // the queue sees the same step
				r.q.mu.Unlock()
				r.q.Kick()
				if restart {
					r.q.Stop()
					r.down()
					r.reopen()
					r.q.Start()
					r.up()
				}
				advance(12 * time.Hour)
				jobs := r.jobs(sc)
				if len(jobs) < 10 {
					t.Errorf("%d jobs in 12 h; the first is %s until %s, now %s", len(jobs), jobs[0].Status, timeText(jobs[0].NextAttemptAt), timeText(r.now()))
				}
			})
		})
	}
}

func TestNoTimeIsCorrectedWhereOnlyDaylightSavingBeginsOrEnds(t *testing.T) {
	for _, row := range [][2]string{
		{"CRON_TZ=America/New_York */10 1 1 11 *", "2026-11-01T00:00:00Z"},
		{"CRON_TZ=America/New_York */10 1 * 11 0", "2026-11-01T00:00:00Z"},
		{"CRON_TZ=Australia/Lord_Howe */10 1 * 4 0", "2026-04-04T10:00:00Z"},
		{"CRON_TZ=Europe/Berlin */15 2 25 10 *", "2026-10-24T20:00:00Z"},
		{"CRON_TZ=Europe/Berlin */15 2 29 3 *", "2026-03-28T20:00:00Z"},
		{"CRON_TZ=Africa/Cairo */15 0 * * 5", "2026-04-23T18:00:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, row[1])
		if err != nil {
			t.Fatal(err)
		}
		expr, err := parseCron(row[0], time.UTC, now)
		if err != nil {
			t.Fatal(err)
		}
		sc := Schedule{CreatedAt: now, NextRunAt: expr.next(now, now)}
		for end := now.Add(20 * time.Hour); now.Before(end); now = now.Add(time.Minute) {
			due := corrected(sc, expr, now, 0)
			if !due.Equal(sc.NextRunAt) {
				t.Errorf("%s: at %s without a set clock: %s becomes %s", row[0], now, sc.NextRunAt, due)
				sc.NextRunAt = due
				continue
			}
			if !due.After(now) {
				sc.LastRunAt = due
				sc.NextRunAt = expr.next(now, due)
			}
		}
	}
}
