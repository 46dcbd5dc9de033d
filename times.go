package main

// The one text form of a time, in SQL, on the wire and in the log.

import "time"

// timeLayout is the one form in which times are stored, sent and logged: RFC 3339, UTC, milliseconds, fixed width,
// so that text order is time order.
const timeLayout = "2006-01-02T15:04:05.000Z"

// timeText returns t as text, "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// parseTimeText reads timeText's form back, and any other RFC 3339 instant; "" is the zero time.
func parseTimeText(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, s)
}
