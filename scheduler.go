package main

// Due schedules into jobs. The database holds every schedule's next time; the loop sleeps until the first of them, at
// most 30 s, since timers stand still while a machine sleeps, and then looks at the wall clock. A firing inserts the
// job and steps on in one transaction, so that no crash makes two of one or none.
//
// A time that passed while the daemon was down or the machine asleep is missed: run_once makes one job for however
// many were missed, skip makes none. The scheduler has no lock: the database decides.

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	scheduleCheck = 30 * time.Second
	missedAfter   = scheduleCheck + 15*time.Second // how late a wake may be and still be in time
	wrongClock    = 24 * time.Hour                 // what is recorded further ahead than this came from a wrong clock
	clockNoise    = time.Second                    // a smaller step of the wall clock is no step
	maxJitter     = 24 * time.Hour
)

// Choices of a schedule.
const (
	missedRunOnce = "run_once"
	missedSkip    = "skip"
	overlapSkip   = "skip"
	overlapAllow  = "allow"
)

// SchedulerOptions are what a scheduler needs; MaxRetries and Timeout are those of its jobs.
type SchedulerOptions struct {
	Store      *Store
	Queue      *Queue
	Commands   *Commands
	Log        *slog.Logger
	MaxRetries int32
	Timeout    time.Duration
	Now        func() time.Time // the wall clock; nil: timeNow
}

// Scheduler fires schedules.
type Scheduler struct {
	SchedulerOptions
	started time.Time     // by the wall clock: times before it were missed
	wake    chan struct{} // capacity 1: a schedule has changed
}

func newScheduler(o SchedulerOptions) *Scheduler {
	if o.Now == nil {
		o.Now = timeNow
	}
	return &Scheduler{SchedulerOptions: o, started: o.Now(), wake: make(chan struct{}, 1)}
}

// Run fires what is due until ctx ends.
func (s *Scheduler) Run(ctx context.Context) {
	wall, steady := s.Now().Round(0), time.Now()
	for ctx.Err() == nil {
		now := s.Now().Round(0)
		// Against the steady clock: how far the wall clock was set.
		step := now.Sub(wall) - time.Since(steady)
		wall, steady = now, time.Now()
		if step < -clockNoise {
			s.setBack(step)
		}
		wait := scheduleCheck
		if next := s.fireDue(ctx, now, step); !next.IsZero() {
			wait = max(0, min(wait, next.Sub(s.Now())))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// setBack makes up for a clock that was ahead: what it recorded as the past may lie in the future now.
func (s *Scheduler) setBack(step time.Duration) {
	s.started = s.started.Add(step)
	if err := s.Store.moveLastSuccess(step); err != nil {
		s.Log.Error("schedules could not be moved to the corrected clock", "error", err.Error())
	}
}

// fireDue fires every schedule that is due and returns the first time that comes.
func (s *Scheduler) fireDue(ctx context.Context, now time.Time, step time.Duration) (first time.Time) {
	all, err := s.Store.Schedules(ctx)
	if err != nil {
		s.Log.Error("schedules cannot be read", "error", err.Error())
		return time.Time{}
	}
	for _, sc := range all {
		if !sc.Enabled || ctx.Err() != nil {
			continue
		}
		next, err := s.advance(sc, now, step)
		if err != nil {
			s.Log.Error("schedule could not be fired; trying again", "schedule_name", sc.Name, "error", err.Error())
			continue
		}
		if !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}

// advance brings one schedule up to now and returns its next time.
func (s *Scheduler) advance(sc Schedule, now time.Time, step time.Duration) (time.Time, error) {
	expr, err := parseCron(sc.CronExpr, time.Local, now)
	if err != nil || sc.NextRunAt.IsZero() {
		s.Log.Error("schedule disabled: it never fires again", "schedule_name", sc.Name, "cron_expr", sc.CronExpr)
		_, err := s.Store.SetScheduleEnabled(sc.Name, false, time.Time{})
		return time.Time{}, err
	}
	if next := s.corrected(sc, expr, now, step); !next.Equal(sc.NextRunAt) {
		s.Log.Warn("clock was set; schedule recomputed", "schedule_name", sc.Name, "next_run_at", timeText(next))
		_, err := s.Queue.Fire(Firing{ScheduleID: sc.ID, Expected: sc.NextRunAt, Next: next})
		return next, err
	}
	if sc.NextRunAt.After(now) {
		return sc.NextRunAt, nil
	}
	missed := sc.NextRunAt.Before(s.started) || now.Sub(sc.NextRunAt) > missedAfter
	f := Firing{ScheduleID: sc.ID, Expected: sc.NextRunAt, LastRun: sc.NextRunAt, SkipIfOpen: sc.Overlap == overlapSkip}
	if missed {
		f.LastRun = now // the run is late: @every counts from here
	}
	if !missed || sc.Missed == missedRunOnce {
		if f.Job, err = s.job(sc, now); err != nil {
			s.Log.Error("schedule made no job", "schedule_name", sc.Name, "error", err.Error())
		} else {
			f.Job.NextAttemptAt = jittered(now, sc.Jitter)
		}
	} else {
		f.LastRun = time.Time{}
	}
	anchor := f.LastRun
	if anchor.IsZero() {
		anchor = anchorOf(sc)
	}
	f.Next = expr.next(now, anchor)
	fired, err := s.Queue.Fire(f)
	if err != nil {
		return time.Time{}, err
	}
	s.tell(sc, f, fired, missed)
	return f.Next, nil
}

// tell logs what came of a firing.
func (s *Scheduler) tell(sc Schedule, f Firing, fired, missed bool) {
	switch {
	case fired:
		s.Log.Info("schedule triggered", "schedule_id", sc.ID, "schedule_name", sc.Name, "job_id", f.Job.ID)
	case f.Job != nil:
		s.Log.Warn("schedule skipped: its previous job is unfinished", "schedule_id", sc.ID, "schedule_name", sc.Name)
	case missed:
		s.Log.Warn("schedule skipped: its time was missed", "schedule_id", sc.ID, "schedule_name", sc.Name, "missed_at", timeText(sc.NextRunAt))
	}
}

// corrected is the schedule's next time after the clock was set back: what counts elapsed time moves along, and what
// a clock far in the future left behind is made anew. Other times stay: a nominal time never fires twice.
func (s *Scheduler) corrected(sc Schedule, expr cronExpr, now time.Time, step time.Duration) time.Time {
	if expr.every > 0 && step < -clockNoise && sc.NextRunAt.After(now) {
		return sc.NextRunAt.Add(step).Truncate(time.Millisecond)
	}
	// Only towards the present: the anchor stays where it is until the next run, and this is asked at every look.
	if next := expr.next(now, now); anchorOf(sc).Sub(now) > wrongClock && next.Before(sc.NextRunAt) {
		return next
	}
	return sc.NextRunAt
}

// anchorOf is where @every counts from.
func anchorOf(sc Schedule) time.Time {
	if sc.LastRunAt.IsZero() {
		return sc.CreatedAt
	}
	return sc.LastRunAt
}

// jittered spreads the starts of many daemons with one schedule.
func jittered(now time.Time, jitter time.Duration) time.Time {
	if jitter <= 0 {
		return time.Time{}
	}
	return now.Add(rand.N(jitter)).Truncate(time.Millisecond)
}

// job makes the schedule's job as of now.
func (s *Scheduler) job(sc Schedule, now time.Time) (*Job, error) {
	c, err := s.Commands.Lookup(sc.Command)
	if err != nil {
		return nil, err
	}
	var payload map[string]any
	if err := json.Unmarshal(sc.Payload, &payload); err != nil {
		return nil, err
	}
	if err := c.Check(payload); err != nil {
		return nil, err
	}
	now = now.Truncate(time.Millisecond)
	since := sc.LastSuccessAt
	if since.After(now) { // by a wrong clock: better everything again than a gap
		since = time.Time{}
	}
	resolved, err := c.resolveDates(payload, now, since, true)
	if err != nil {
		return nil, err
	}
	text, err := payloadJSON(resolved)
	return &Job{Command: c.Name, Payload: text, Priority: sc.Priority, Status: statusPending, MaxRetries: s.MaxRetries, CreatedAt: now,
		UpdatedAt: now, Timeout: s.Timeout, Environment: sc.Environment, Schedule: sc.Name}, err
}

// Add checks and stores a schedule, and returns it with what was filled in.
func (s *Scheduler) Add(_ context.Context, sc Schedule) (Schedule, error) {
	if err := checkName("name", sc.Name); err != nil {
		return sc, err
	}
	if sc.Missed == "" {
		sc.Missed = missedRunOnce
	}
	if sc.Overlap == "" {
		sc.Overlap = overlapSkip
	}
	switch {
	case sc.Missed != missedRunOnce && sc.Missed != missedSkip:
		return sc, errorf(codeInvalidArgument, "missed: %q; allowed: %s, %s", sc.Missed, missedRunOnce, missedSkip)
	case sc.Overlap != overlapSkip && sc.Overlap != overlapAllow:
		return sc, errorf(codeInvalidArgument, "overlap: %q; allowed: %s, %s", sc.Overlap, overlapSkip, overlapAllow)
	case sc.Jitter > maxJitter:
		return sc, errorf(codeInvalidArgument, "jitter: %s; allowed: 0 to %s", sc.Jitter, maxJitter)
	}
	sc.ID, sc.Enabled, sc.CreatedAt = newID(), true, s.Now().Truncate(time.Millisecond)
	expr, err := parseCron(sc.CronExpr, time.Local, sc.CreatedAt)
	if err != nil {
		return sc, err
	}
	if _, err := s.job(sc, sc.CreatedAt); err != nil {
		return sc, err
	}
	sc.NextRunAt = expr.next(sc.CreatedAt, sc.CreatedAt)
	if err := s.Store.AddSchedule(sc); err != nil {
		return sc, err
	}
	s.changed()
	s.Log.Info("schedule added", "schedule_id", sc.ID, "schedule_name", sc.Name, "cron_expr", sc.CronExpr, "next_run_at", timeText(sc.NextRunAt))
	return sc, nil
}

// changed makes the loop look again.
func (s *Scheduler) changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Remove deletes a schedule, by id or else by name; its jobs stay.
func (s *Scheduler) Remove(id, name string) error {
	if err := s.Store.RemoveSchedule(id, name); err != nil {
		return err
	}
	s.Log.Info("schedule removed", "schedule_id", id, "schedule_name", name)
	return nil
}

// SetEnabled pauses a schedule, or resumes it from now on.
func (s *Scheduler) SetEnabled(name string, enabled bool) (Schedule, error) {
	var next time.Time
	if enabled {
		sc, err := s.Store.Schedule(context.Background(), name)
		if err != nil {
			return sc, err
		}
		expr, err := parseCron(sc.CronExpr, time.Local, s.Now())
		if err != nil {
			return sc, err
		}
		next = expr.next(s.Now(), anchorOf(sc))
	}
	sc, err := s.Store.SetScheduleEnabled(name, enabled, next)
	if err == nil {
		s.changed()
		s.Log.Info("schedule changed", "schedule_id", sc.ID, "schedule_name", name, "enabled", enabled)
	}
	return sc, err
}

// Trigger makes the schedule's job now; its next time stays as it is.
func (s *Scheduler) Trigger(ctx context.Context, name string) (jobID string, err error) {
	sc, err := s.Store.Schedule(ctx, name)
	if err != nil {
		return "", err
	}
	j, err := s.job(sc, s.Now())
	if err != nil {
		return "", err
	}
	fired, err := s.Queue.Fire(Firing{ScheduleID: sc.ID, Job: j})
	if err != nil {
		return "", err
	}
	if !fired {
		return "", noSchedule(name)
	}
	s.Log.Info("schedule triggered", "schedule_id", sc.ID, "schedule_name", sc.Name, "job_id", j.ID)
	return j.ID, nil
}

// Preview returns the next n times of an expression, fewer where it ends.
func (s *Scheduler) Preview(expression string, n int) ([]time.Time, error) {
	now := s.Now()
	expr, err := parseCron(expression, time.Local, now)
	if err != nil {
		return nil, err
	}
	var times []time.Time
	for t := expr.next(now, now); len(times) < n && !t.IsZero(); t = expr.next(t, now) {
		times = append(times, t)
	}
	return times, nil
}
