package main

// Schedule expressions: what they mean, and when they fire next. The rules:
//   - Five fields (minute, hour, day of month, month, day of week), @hourly and the like, or `@every D`; a zone may
//     stand in front, `CRON_TZ=Zone `. What cron would take silently in another sense is refused by name.
//   - Day of month and day of week both restricted mean OR, as in cron; a step such as */2 counts as a restriction.
//   - robfig/cron only parses and searches, always in UTC: a wall clock without gaps and overlaps, where its
//     daylight saving bugs and endless loops cannot occur. Turning wall time into instants is done here.
//   - Fixed hours follow the wall clock: a time inside a gap runs once right after it, a repeated one only at first.
//     An hour of *, ? or with a step follows elapsed time: gaps are skipped, both passes of an overlap run.

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	maxCronBytes    = 256
	cronSearchYears = 12 // 29 February may be eight years away; what does not fire in this time never does
	cronAllowed     = "five fields (minute, hour, day of month, month, day of week) or one of" +
		" @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @every D"
	cronExample = "for example 30 9 * * 1-5 (09:30 from Monday to Friday; Sunday is 0), */15 * * * *, @daily," +
		" @every 90m or CRON_TZ=Europe/Berlin 0 9 * * *"
)

// cronExpr is a parsed expression; only parseCron makes one.
type cronExpr struct {
	every   time.Duration      // whole seconds, > 0: the period of @every, and nothing below is set
	spec    *cron.SpecSchedule // in UTC, which stands for the wall clock of zone
	zone    *time.Location
	elapsed bool // follow elapsed time instead of the wall clock
}

// badCron is every refusal of this file.
func badCron(format string, args ...any) *Error {
	return errorf(codeInvalidArgument, "cron_expr: "+format, args...).hint("%s", cronExample)
}

// parseCron reads expr, whose times are in zone unless it names another; it must fire at some time after now.
func parseCron(expr string, zone *time.Location, now time.Time) (e cronExpr, err error) {
	expr = strings.Trim(expr, " ")
	strange := func(r rune) bool { return r < ' ' || r > '~' } // zone names are ASCII, too
	if len(expr) > maxCronBytes || strings.ContainsFunc(expr, strange) {
		return e, badCron("longer than %d bytes, or with a tab, control or non-ASCII character", maxCronBytes)
	}
	if prefix, after, found := strings.Cut(expr, "="); found && (prefix == "CRON_TZ" || prefix == "TZ") {
		name, rest, _ := strings.Cut(after, " ")
		expr = strings.Trim(rest, " ")
		if name == "" || expr == "" { // Go would take an empty name for UTC; robfig/cron panics where the blank is missing
			return e, badCron("%s= needs a zone right after it, then a blank and an expression", prefix)
		}
		if zone, err = time.LoadLocation(name); err != nil || name == "Local" {
			return e, badCron("unknown time zone %q; IANA names are allowed", name)
		}
	}
	fields := strings.Fields(expr)
	if len(fields) > 0 && fields[0] == "@every" { // robfig/cron would round it to seconds and raise it to one silently
		text := strings.Join(fields[1:], " ")
		if e.every, err = time.ParseDuration(text); err != nil || e.every < time.Second || e.every%time.Second != 0 {
			return e, badCron("@every needs one duration of whole seconds, at least 1s, not %q; its units are h, m and s", text)
		}
		return e, nil
	}
	e.zone, e.elapsed = zone, expr == "@hourly"
	if !strings.HasPrefix(expr, "@") {
		if err := checkFields(fields); err != nil {
			return e, err
		}
		e.elapsed = strings.ContainsAny(fields[1], "*?/")
	}
	parsed, err := cron.ParseStandard(strings.Join(fields, " "))
	if err != nil {
		return e, badCron("%v; allowed, in lower case, are %s", err, cronAllowed)
	}
	e.spec = parsed.(*cron.SpecSchedule)
	e.spec.Location = time.UTC
	if e.next(now, now).IsZero() {
		return e, badCron("%q never fires: no such day comes in the months it names", expr)
	}
	return e, nil
}

// checkFields refuses what robfig/cron does, with the field's name, and what it would take silently: empty list
// items, *-junk, signs, and steps larger than the field.
func checkFields(fields []string) error {
	known := []struct {
		name, allowed string
		values        int // how many there are: no step is larger
		option        cron.ParseOption
	}{
		{"minute", "0-59", 60, cron.Minute},
		{"hour", "0-23", 24, cron.Hour},
		{"day of month", "1-31", 31, cron.Dom},
		{"month", "1-12 or jan-dec", 12, cron.Month},
		{"day of week", "0-6 or sun-sat (Sunday is 0)", 7, cron.Dow},
	}
	if len(fields) != len(known) {
		return badCron("%d fields; allowed are %s", len(fields), cronAllowed)
	}
	form := regexp.MustCompile(`^(?:[*?]|[0-9A-Za-z]+(?:-[0-9A-Za-z]+)?)(?:/[0-9]+)?$`)
	parses := func(option cron.ParseOption, item string) bool {
		_, err := cron.NewParser(option).Parse(item)
		return err == nil
	}
	for i, f := range known {
		for item := range strings.SplitSeq(fields[i], ",") {
			_, text, _ := strings.Cut(item, "/")
			// Atoi gives 0 where there is no step, and the largest int for one that is larger. The form comes before robfig/cron,
			// which panics at a TZ= without a blank.
			if step, _ := strconv.Atoi(text); !form.MatchString(item) || step > f.values || !parses(f.option, item) {
				return badCron("%s %q is not *, a value, a range a-b, one of these and /step, or a list; values are %s, a step is from 1 to %d",
					f.name, fields[i], f.allowed, f.values)
			}
		}
	}
	return nil
}

// next returns the first time strictly after t, in UTC and whole seconds, or zero: never again. anchor is the
// schedule's last run or its creation: @every counts from it, so that restarts neither shift nor starve a long period.
func (e cronExpr) next(t, anchor time.Time) time.Time {
	if e.every > 0 {
		// In seconds, which do not overflow for any two dates. The grid reaches backwards too: the clock may be set back.
		period := int64(e.every / time.Second)
		since := ((t.Unix()-anchor.Unix())%period + period) % period
		return time.Unix(t.Unix()-since+period, 0).UTC()
	}
	at := t.In(e.zone)
	from := wallClock(at)
	if start, _ := at.ZoneBounds(); !e.elapsed && !start.IsZero() {
		from = max(from, wallClock(start.Add(-time.Second))) // in an overlap's second pass all of it has been seen
	}
	// Go through the stretches of constant offset from t on. A wall time found belongs to the first that it does not
	// lie behind; if it lies before it, then in the gap between the two, and the stretch's first instant stands for it.
	for limit := at.AddDate(cronSearchYears, 0, 0); at.Before(limit); {
		wall := time.Unix(from, 0).UTC()
		found := e.spec.Next(wall)
		if found.IsZero() { // robfig/cron gives up after five years
			found = e.spec.Next(wall.AddDate(5, 0, 0))
		}
		if found.IsZero() {
			break
		}
		_, end := at.ZoneBounds()
		if !end.IsZero() && !end.After(at) { // Go 1.26 ends a leap year's last stretch a day early
			end = at.Truncate(24 * time.Hour).Add(24 * time.Hour)
		}
		_, offset := at.Zone()
		unix := max(found.Unix()-int64(offset), at.Unix())
		if end.IsZero() || unix < end.Unix() {
			return time.Unix(unix, 0).UTC()
		}
		at = end
		if e.elapsed {
			from = wallClock(at) - 1 // the clock as it is now: skips what the gap lacks, repeats what the overlap has
		}
	}
	return time.Time{}
}

// wallClock returns what t's zone shows at t, as the Unix time at which UTC shows the same.
func wallClock(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}
