package main

// Relative dates in startDate and endDate, resolved when a job is created, so that what is stored says which days were
// asked for.

import (
	"maps"
	"strconv"
	"strings"
	"time"
)

const (
	lastSuccess  = "last-success"
	allowedDates = "YYYY-MM-DD, an RFC 3339 time, now, today, yesterday, -36h, -7d, -2w"
	maxDaysBack  = 36500
)

// isDate tells the arguments that take dates.
func (a *Argument) isDate() bool { return a.Name == "startDate" || a.Name == "endDate" }

// resolveDates returns payload with its relative dates made absolute, as of now, in now's zone. In a schedule,
// last-success becomes since, or is left out where that is zero.
func (c *Command) resolveDates(payload map[string]any, now, since time.Time, schedule bool) (map[string]any, error) {
	out := maps.Clone(payload)
	if out == nil {
		out = map[string]any{}
	}
	for _, a := range c.Args {
		text, ok := out[a.Name].(string)
		if !a.isDate() || !ok {
			continue
		}
		allowed, canLeaveOut := allowedDates, schedule && !a.Required
		if canLeaveOut {
			allowed += ", " + lastSuccess
		}
		if text == lastSuccess && canLeaveOut && since.IsZero() {
			delete(out, a.Name)
		} else if text == lastSuccess && canLeaveOut {
			out[a.Name] = timeText(since)
		} else if out[a.Name], ok = resolveDate(text, now); !ok {
			return nil, errorf(codeInvalidArgument, "payload: %s: %q is not a date; allowed: %s", a.Name, cutText(text, 100), allowed)
		}
	}
	return out, nil
}

// resolveDate makes days and weeks, today and yesterday a date, now and hours an instant; absolute forms stay.
func resolveDate(text string, now time.Time) (string, bool) {
	if _, err := time.Parse(time.DateOnly, text); err == nil {
		return text, true
	}
	// Parse alone would let 1:02:03,5 through.
	if _, err := time.Parse(time.RFC3339, text); err == nil && text[13] == ':' && !strings.Contains(text, ",") {
		return text, true
	}
	// Counted in UTC, since local midnight may not exist: on the day of a clock change the count would be one day off.
	year, month, day := now.Date()
	before := func(days int) string {
		return time.Date(year, month, day-days, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	}
	switch text {
	case "now":
		return timeText(now), true
	case "today":
		return before(0), true
	case "yesterday":
		return before(1), true
	}
	number, back := strings.CutPrefix(text, "-")
	unit := number[max(len(number)-1, 0):]
	hours := map[string]uint64{"h": 1, "d": 24, "w": 7 * 24}[unit]
	n, err := strconv.ParseUint(strings.TrimSuffix(number, unit), 10, 32)
	switch n *= hours; {
	case !back || hours == 0 || err != nil || n > 24*maxDaysBack:
		return "", false
	case unit == "h":
		return timeText(now.Add(-time.Duration(n) * time.Hour)), true
	}
	return before(int(n / 24)), true
}
