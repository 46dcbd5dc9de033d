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
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	maxCronBytes    = 256
	cronSearchYears = 12 // 29 February may be eight years away; what does not fire in this time never does

	cronExample = "for example '30 9 * * mon-fri', @daily, '@every 90m' or 'CRON_TZ=Europe/Berlin 0 9 * * *'"
)

// cronExpr is a parsed expression; only parseCron makes one.
type cronExpr struct {
	every   time.Duration      // whole seconds, > 0: the period of @every, and nothing below is set
	spec    *cron.SpecSchedule // in UTC, which stands for the wall clock of zone
	zone    *time.Location
	elapsed bool // follow elapsed time instead of the wall clock
}

// parseCron reads expr, whose times are in zone unless it names another; it must fire at some time after now.
func parseCron(expr string, zone *time.Location, now time.Time) (cronExpr, error) {
	e, err := readCron(expr, zone, now)
	if err != nil {
		return e, invalidf("cron expression %s: %w", quoted(expr), err).hint("%s", cronExample)
	}
	return e, nil
}

// readCron is parseCron, whose errors lack the expression.
func readCron(expr string, zone *time.Location, now time.Time) (cronExpr, error) {
	var none cronExpr
	strange := func(r rune) bool { return r < ' ' || r > '~' } // zone names are ASCII, too
	expr = strings.Trim(expr, " ")
	if len(expr) > maxCronBytes || strings.ContainsFunc(expr, strange) {
		return none, fmt.Errorf(
			"it is longer than %d bytes, or holds a tab, a control or a non-ASCII character",
			maxCronBytes)
	}
	expr, zone, err := cutZone(expr, zone)
	if err != nil {
		return none, err
	}
	fields := strings.Fields(expr)
	if len(fields) > 0 && fields[0] == "@every" {
		return parseEvery(strings.Join(fields[1:], " "))
	}
	elapsed := expr == "@hourly"
	if !strings.HasPrefix(expr, "@") {
		if err := checkFields(fields); err != nil {
			return none, err
		}
		elapsed = strings.ContainsAny(fields[1], "*?/")
	}
	parsed, err := cron.ParseStandard(strings.Join(fields, " "))
	if err != nil {
		return none, errors.New("it is not known; allowed: five fields, or, in lower case, one of" +
			" @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every 15m")
	}
	spec := parsed.(*cron.SpecSchedule)
	spec.Location = time.UTC
	e := cronExpr{spec: spec, zone: zone, elapsed: elapsed}
	if e.next(now, now).IsZero() {
		return none, errors.New("it never fires: no such day comes in the months it names")
	}
	return e, nil
}

// cutZone takes a zone off the front of expr; without one, zone stays.
func cutZone(expr string, zone *time.Location) (string, *time.Location, error) {
	prefix, after, found := strings.Cut(expr, "=")
	if !found || (prefix != "CRON_TZ" && prefix != "TZ") {
		return expr, zone, nil
	}
	name, rest, _ := strings.Cut(after, " ")
	rest = strings.Trim(rest, " ")
	// Go would take an empty name for UTC; robfig/cron panics where the blank is missing.
	if name == "" || rest == "" {
		return "", nil, fmt.Errorf("%s= needs a time zone right after it, then a blank and an expression", prefix)
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return "", nil, fmt.Errorf("no time zone %s; allowed: a name such as Europe/Berlin or UTC", quoted(name))
	}
	return rest, zone, nil
}

// parseEvery reads the duration of @every. robfig/cron would round it to seconds and raise it to one silently.
func parseEvery(text string) (cronExpr, error) {
	every, err := time.ParseDuration(text)
	if err != nil || every < time.Second || every%time.Second != 0 {
		return cronExpr{}, errors.New(
			"allowed are whole seconds, minutes and hours, 1s or more, such as @every 90s or @every 1h30m")
	}
	return cronExpr{
		every: every,
	}, nil
}

// cronField is what may stand in one of the five fields.
type cronField struct {
	name    string
	allowed string
	// values is how many there are: no step is larger.
	values int
	option cron.ParseOption
}

func cronFields() []cronField {
	return []cronField{
		{"minute", "0-59", 60, cron.Minute},
		{"hour", "0-23", 24, cron.Hour},
		{"day of month", "1-31", 31, cron.Dom},
		{"month", "1-12 or jan-dec", 12, cron.Month},
		{"day of week", "0-6 or sun-sat (Sunday is 0)", 7, cron.Dow},
	}
}

// checkFields refuses what robfig/cron does, with the field's name, and what it would take silently: empty list
// items, *-junk, signs, and steps larger than the field.
func checkFields(fields []string) error {
	known := cronFields()
	if len(fields) != len(known) {
		return fmt.Errorf("it has %d fields; it needs 5: minute hour day month weekday", len(fields))
	}
	form := regexp.MustCompile(`^(?:[*?]|[0-9A-Za-z]+(?:-[0-9A-Za-z]+)?)(?:/[0-9]+)?$`)
	for i, f := range known {
		for item := range strings.SplitSeq(fields[i], ",") {
			// The form comes before robfig/cron, which panics at a TZ= without a blank.
			if form.MatchString(item) && f.takes(item) {
				continue
			}
			return fmt.Errorf("%s %q is not allowed; allowed: *, values from %s, ranges a-b, lists a,b,"+
				" and a step from /1 to /%d behind them",
				f.name,
				fields[i],
				f.allowed,
				f.values)
		}
	}
	return nil
}

// takes looks at one item of the field's list, whose form is good: its step, and what robfig/cron says.
func (f cronField) takes(item string) bool {
	// Atoi gives 0 where there is no step, and the largest int for one that is larger.
	_, text, _ := strings.Cut(item, "/")
	step, _ := strconv.Atoi(text)
	if step > f.values {
		return false
	}
	_, err := cron.NewParser(f.option).Parse(item)
	return err == nil
}

// next returns the first time strictly after t, in UTC and whole seconds, or zero: never again. anchor is the
// schedule's last run or its creation: @every counts from it, so that restarts neither shift nor starve a long period.
func (e cronExpr) next(t, anchor time.Time) time.Time {
	if e.every > 0 {
		return nextEvery(int64(e.every/time.Second), t.Unix(), anchor.Unix())
	}
	at := t.In(e.zone)
	from := wallClock(at)
	start, _ := at.ZoneBounds()
	if !e.elapsed && !start.IsZero() {
		from = max(from, wallClock(start.Add(-time.Second))) // in an overlap's second pass all of it has been seen
	}
	// Go through the stretches of constant offset from t on. A wall time found belongs to the first that it does not
	// lie behind; if it lies before it, then in the gap between the two, and the stretch's first instant stands for it.
	//
	//	wall    00    01    02 | gap | 03    04      02:30 does not exist: the second stretch's first instant, 03:00
	//	stretch ------- +01 ---|     |--- +02 ---
	for limit := at.AddDate(cronSearchYears, 0, 0); at.Before(limit); {
		found := e.nextWall(from)
		if found.IsZero() {
			break
		}
		end := stretchEnd(at)
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

// nextEvery is the first time after t on the grid of period through anchor. In seconds, which do not overflow for any
// two dates. The grid reaches backwards too: the clock may be set back.
func nextEvery(period, t, anchor int64) time.Time {
	since := ((t-anchor)%period + period) % period
	return time.Unix(t-since+period, 0).UTC()
}

// nextWall is the first wall time of the expression after from. robfig/cron gives up after five years.
func (e cronExpr) nextWall(from int64) time.Time {
	wall := time.Unix(from, 0).UTC()
	found := e.spec.Next(wall)
	if found.IsZero() {
		return e.spec.Next(wall.AddDate(5, 0, 0))
	}
	return found
}

// stretchEnd is when the offset at this time ends, zero for never. Go 1.26 ends a leap year's last stretch a day early.
func stretchEnd(at time.Time) time.Time {
	_, end := at.ZoneBounds()
	if !end.IsZero() && !end.After(at) {
		return at.Truncate(24 * time.Hour).Add(24 * time.Hour)
	}
	return end
}

// wallClock returns what t's zone shows at t, as the Unix time at which UTC shows the same.
func wallClock(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}
