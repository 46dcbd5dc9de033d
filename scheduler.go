package main

// Due schedules into jobs. The database holds every schedule's next time; the loop sleeps until the first of them, at
// most 30 s, since timers stand still while a machine sleeps, and then looks at the wall clock. A firing inserts the
// job and steps on in one transaction, so that no crash makes two of one or none.
//
// A time that passed while the daemon was down or the machine asleep is missed: run_once makes one job for however
// many were missed, skip makes none. The scheduler has no lock: the database decides.

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

const (
	scheduleCheck = 30 * time.Second
	missedAfter   = 45 * time.Second // how late a wake may be and still be in time: scheduleCheck and some seconds
	wrongClock    = 24 * time.Hour   // what is recorded further ahead than this came from a wrong clock

	missedRunOnce = "run_once" // this and the next three: choices of a schedule
	missedSkip    = "skip"
	overlapSkip   = "skip"
	overlapAllow  = "allow"
)

// parts are what schedules and requests work with; the daemon builds them.
type parts struct {
	cfg      *Config
	log      *slog.Logger
	store    *Store
	commands *Commands
	auth     *TokenSource
	queue    *Queue
}

// Scheduler fires schedules.
type Scheduler struct {
	parts
	now     func() time.Time // the wall clock
	started time.Time        // by the wall clock: times before it were missed
	wake    chan struct{}    // capacity 1: a schedule has changed
}

func newScheduler(p parts, now func() time.Time) *Scheduler {
	return &Scheduler{
		parts:   p,
		now:     now,
		started: now(),
		wake:    make(chan struct{}, 1),
	}
}

// Run fires what is due until ctx ends.
func (s *Scheduler) Run(ctx context.Context) {
	wall := s.now()
	steady := time.Now()
	for ctx.Err() == nil {
		now := s.now()
		step := now.Sub(wall) - time.Since(steady) // how far the wall clock was set
		wall = now
		steady = time.Now()
		back := s.setBack(step.Truncate(time.Millisecond))
		select {
		case <-time.After(s.fireDue(ctx, now, back)):
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// setBack returns a step of the wall clock that counts as one back, otherwise 0. What the clock has recorded as the
// past may lie in the future after it, and moves along.
func (s *Scheduler) setBack(step time.Duration) time.Duration {
	if step > -clockNoise {
		return 0
	}
	s.started = s.started.Add(step)
	if err := s.store.moveLastSuccess(step); err != nil {
		s.log.Error("schedules could not be moved to the corrected clock", "error", err)
	}
	return step
}

// fireDue fires every schedule that is due and returns the time until it must look again. back is how far the clock was
// set back since the last look, 0 or less.
func (s *Scheduler) fireDue(ctx context.Context, now time.Time, back time.Duration) time.Duration {
	schedules, err := s.store.Schedules()
	if err != nil {
		s.log.Error("schedules cannot be read", "error", err)
	}
	wait := scheduleCheck
	for _, sc := range schedules {
		if !sc.Enabled || ctx.Err() != nil {
			continue
		}
		next, err := s.advance(sc, now, back)
		if err != nil {
			s.logOf(sc).Error("schedule could not be fired; trying again", "error", err)
			continue
		}
		if !next.IsZero() {
			wait = min(wait, next.Sub(s.now())) // one that is over makes no wait
		}
	}
	return wait
}

// advance brings one schedule up to now and returns its next time.
func (s *Scheduler) advance(sc Schedule, now time.Time, back time.Duration) (time.Time, error) {
	expr, err := parseCron(sc.CronExpr, time.Local, now)
	if err != nil || sc.NextRunAt.IsZero() {
		s.logOf(sc).Error("schedule disabled: it never fires again", "cron_expr", sc.CronExpr)
		_, err := s.store.SetScheduleEnabled(sc.Name, false, time.Time{})
		return time.Time{}, err
	}
	due := corrected(sc, expr, now, back)
	if !due.Equal(sc.NextRunAt) {
		s.logOf(sc).Warn("clock was set; schedule recomputed", "next_run_at", timeText(due))
		_, err := s.queue.Fire(Firing{
			ScheduleID: sc.ID,
			Expected:   sc.NextRunAt,
			Next:       due,
		})
		return due, err
	}
	if due.After(now) {
		return due, nil
	}
	return s.fire(sc, expr, now)
}

// logOf logs with the schedule's names.
func (s *Scheduler) logOf(sc Schedule) *slog.Logger {
	return s.log.With("schedule_id", sc.ID, "schedule_name", sc.Name)
}

// corrected is the schedule's next time after the clock was set back. What counts elapsed time moves along. What a
// clock far in the future left behind is made anew, though only towards the present: the anchor stays until the next
// run, and this is asked at every look. Where that clock's time was skipped there is no such run, only a next time with
// others before it. Other times stay: a nominal time never fires twice.
func corrected(sc Schedule, expr cronExpr, now time.Time, back time.Duration) time.Time {
	due := sc.NextRunAt
	if expr.every > 0 && due.After(now) {
		due = due.Add(back)
	}
	fresh := expr.next(now, now)
	skipped := due.Sub(fresh) > wrongClock && sc.anchor().Before(fresh)
	if skipped || sc.anchor().Sub(now) > wrongClock && fresh.Before(due) {
		return fresh
	}
	return due
}

// fire carries out the run of sc whose time has come, and returns its next time.
func (s *Scheduler) fire(sc Schedule, expr cronExpr, now time.Time) (time.Time, error) {
	log := s.logOf(sc)
	due := sc.NextRunAt
	f := Firing{
		ScheduleID: sc.ID,
		Expected:   due,
		LastRun:    due,
		SkipIfOpen: sc.Overlap == overlapSkip,
	}
	missed := due.Before(s.started) || now.Sub(due) > missedAfter
	if missed {
		f.LastRun = now // the run is late: @every counts from here
	}
	if missed && sc.Missed == missedSkip {
		f.LastRun = time.Time{}
		log.Warn("schedule skipped: its time was missed", "missed_at", timeText(due))
	} else {
		f.Job = s.dueJob(sc, now)
	}
	f.Next = expr.next(now, cmp.Or(f.LastRun, sc.anchor()))
	fired, err := s.queue.Fire(f)
	switch {
	case err != nil:
		return time.Time{}, err
	case fired != nil:
		log.Info("schedule triggered", "job_id", fired.ID)
	case f.Job != nil:
		log.Warn("schedule skipped: its previous job is unfinished")
	}
	return f.Next, nil
}

// dueJob makes the job of a run, nil where it cannot. Jitter spreads the starts of many daemons with one schedule.
func (s *Scheduler) dueJob(sc Schedule, now time.Time) *Job {
	j, err := s.job(sc, now)
	if err != nil {
		s.logOf(sc).Error("schedule made no job", "error", err)
		return nil
	}
	if sc.Jitter > 0 {
		j.NextAttemptAt = now.Add(rand.N(sc.Jitter)).Truncate(time.Millisecond)
	}
	return j
}

// anchor is where @every counts from.
func (sc *Schedule) anchor() time.Time {
	return cmp.Or(sc.LastRunAt, sc.CreatedAt)
}

// job makes the schedule's job as of now.
func (s *Scheduler) job(sc Schedule, now time.Time) (*Job, error) {
	var payload map[string]any
	if err := json.Unmarshal(sc.Payload, &payload); err != nil {
		return nil, err
	}
	since := sc.LastSuccessAt
	if since.After(now) { // by a wrong clock: better everything again than a gap
		since = time.Time{}
	}
	j := &Job{
		Command:     sc.Command,
		Priority:    sc.Priority,
		CreatedAt:   now,
		Environment: sc.Environment,
		Schedule:    sc.Name,
	}
	if err := s.fill(j, payload, since); err != nil {
		return nil, err
	}
	j.MaxRetries = sc.MaxRetries
	j.Timeout = sc.Timeout
	return j, nil
}

// fill makes j, whose command and CreatedAt are set, a pending job with the configured limits and with payload, which
// is checked and has its dates resolved. since is what last-success means to a job of a schedule.
func (p *parts) fill(j *Job, payload map[string]any, since time.Time) error {
	c, err := p.commands.Lookup(j.Command)
	if err != nil {
		return err
	}
	if err := c.Check(payload); err != nil {
		return err
	}
	resolved, err := c.resolveDates(payload, j.CreatedAt, since, j.Schedule != "")
	if err != nil {
		return err
	}
	j.Command = c.Name
	j.Status = statusPending
	j.UpdatedAt = j.CreatedAt
	j.MaxRetries = int32(p.cfg.Queue.MaxRetries)
	j.Timeout = p.cfg.API.Timeout
	j.Payload, err = payloadJSON(resolved)
	return err
}

// Add checks and stores a schedule, and returns it with what was filled in. With replace it changes the one of that
// name, if there is one.
func (s *Scheduler) Add(sc Schedule, replace bool) (Schedule, error) {
	sc.ID = newID()
	sc.CreatedAt = s.now()
	sc.Missed = cmp.Or(sc.Missed, missedRunOnce)
	sc.Overlap = cmp.Or(sc.Overlap, overlapSkip)
	if err := checkName("name of the schedule", sc.Name); err != nil {
		return sc, err
	}
	if err := oneOf("missed", sc.Missed, missedRunOnce, missedSkip); err != nil {
		return sc, err
	}
	if err := oneOf("overlap", sc.Overlap, overlapSkip, overlapAllow); err != nil {
		return sc, err
	}
	expr, err := parseCron(sc.CronExpr, time.Local, sc.CreatedAt)
	if err != nil {
		return sc, err
	}
	if _, err := s.job(sc, sc.CreatedAt); err != nil {
		return sc, err
	}
	defer s.changed()
	sc.NextRunAt = expr.next(sc.CreatedAt, sc.CreatedAt)
	if err := s.store.SaveSchedule(sc, replace); err != nil {
		return sc, err
	}
	return s.store.Schedule(sc.Name)
}

// oneOf refuses a value that is not among those allowed; one that is not given is fine.
func oneOf(field, value string, allowed ...string) error {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	return badField(field, value, strings.Join(allowed, ", "))
}

// changed makes the loop look again.
func (s *Scheduler) changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// SetEnabled pauses a schedule, or resumes it from now on.
func (s *Scheduler) SetEnabled(name string, enabled bool) (Schedule, error) {
	sc, err := s.store.Schedule(name)
	if err != nil {
		return sc, err
	}
	expr, err := parseCron(sc.CronExpr, time.Local, s.now())
	if err != nil {
		return sc, err
	}
	var next time.Time
	if enabled {
		next = expr.next(s.now(), sc.anchor())
	}
	defer s.changed()
	return s.store.SetScheduleEnabled(name, enabled, next)
}

// Trigger makes the schedule's job now; its next time stays as it is.
func (s *Scheduler) Trigger(name string) (jobID string, err error) {
	sc, err := s.store.Schedule(name)
	if err != nil {
		return "", err
	}
	j, err := s.job(sc, s.now())
	if err != nil {
		return "", err
	}
	fired, err := s.queue.Fire(Firing{ScheduleID: sc.ID, Job: j})
	if err != nil {
		return "", err
	}
	if fired == nil {
		return "", noSchedule(name)
	}
	s.logOf(sc).Info("schedule triggered", "job_id", fired.ID)
	return fired.ID, nil
}
