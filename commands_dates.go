package main

// Relative dates in startDate and endDate, resolved when a job is created, so that what is stored says which days were
// asked for.

import (
	"maps"
	"strings"
	"time"
)

const (
	lastSuccess  = "last-success"
	allowedDates = "2026-01-31, 2026-01-31T15:04:05Z, now, today, yesterday, -36h, -7d, -2w"
)

// isDate tells the arguments that take dates.
func (a *Argument) isDate() bool {
	return a.Name == "startDate" || a.Name == "endDate"
}

// resolveDates returns payload with its relative dates made absolute, as of now, in now's zone. In a schedule,
// last-success becomes since, or is left out where that is zero.
func (c *Command) resolveDates(
	payload map[string]any,
	now, since time.Time,
	schedule bool,
) (map[string]any, error) {
	out := map[string]any{}
	maps.Copy(out, payload)
	for _, a := range c.Args {
		text, ok := out[a.Name].(string)
		if !ok || !a.isDate() {
			continue
		}
		allowed := allowedDates
		if schedule && !a.Required {
			allowed += ", " + lastSuccess
			if text == lastSuccess {
				text = timeText(since)
				if text == "" {
					delete(out, a.Name)
					continue
				}
			}
		}
		date, ok := resolveDate(text, now)
		if !ok {
			return nil, noDate(a.Name, text, allowed)
		}
		out[a.Name] = date
	}
	return out, nil
}

// instant is the time that a resolved date means, zero for any other text; a day begins at midnight in zone.
func instant(date string, zone *time.Location) time.Time {
	at, err := time.ParseInLocation(time.DateOnly, date, zone)
	if err == nil {
		return at
	}
	at, _ = time.Parse(time.RFC3339, date)
	return at
}

// noDate refuses text as the date of a field.
func noDate(field, text, allowed string) *Error {
	return invalidf("%s: %s is not a date; allowed: %s", field, quoted(text), allowed)
}

// resolveDate makes days and weeks, today and yesterday a date, now and hours an instant; absolute forms stay.
func resolveDate(text string, now time.Time) (string, bool) {
	_, err := time.Parse(time.DateOnly, text)
	if err == nil || isInstant(text) {
		return text, true
	}
	switch text {
	case "now":
		return timeText(now), true
	case "today":
		return daysBefore(now, 0), true
	case "yesterday":
		return daysBefore(now, 1), true
	}
	length, back := strings.CutPrefix(text, "-")
	d, err := parseDuration(length)
	if !back || err != nil {
		return "", false
	}
	switch strings.TrimLeft(length, "0123456789") {
	case "h":
		return timeText(now.Add(-d)), true
	case "d", "w":
		return daysBefore(now, int(d.Hours())/24), true
	}
	return "", false
}

// isInstant tells an RFC 3339 time. Parse alone would let 1:02:03,5 through.
func isInstant(text string) bool {
	_, err := time.Parse(time.RFC3339, text)
	return err == nil && text[13] == ':' && !strings.Contains(text, ",")
}

// daysBefore counts in UTC, since local midnight may not exist: on the day of a clock change it would be one day off.
func daysBefore(now time.Time, days int) string {
	year, month, day := now.Date()
	return time.Date(year, month, day-days, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
}
