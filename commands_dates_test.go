package main

import (
	"maps"
	"strings"
	"testing"
	"time"
)

func TestRelativeDates(t *testing.T) {
	for _, c := range []struct{ zone, now, text, want string }{
		{"UTC", "2026-03-15T12:34:56.789Z", "now", "2026-03-15T12:34:56.789Z"},
		{"UTC", "2026-03-15T12:34:56.789Z", "today", "2026-03-15"},
		{"UTC", "2026-03-15T12:34:56.789Z", "yesterday", "2026-03-14"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-36h", "2026-03-14T00:34:56.789Z"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-0h", "2026-03-15T12:34:56.789Z"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-7d", "2026-03-08"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-0d", "2026-03-15"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-2w", "2026-03-01"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-007d", "2026-03-08"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-36500d", "1926-04-09"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-5214w", "1926-04-11"},
		{"UTC", "2026-03-15T12:34:56.789Z", "-876000h", "1926-04-09T12:34:56.789Z"},
		{"UTC", "2024-03-01T00:00:00Z", "yesterday", "2024-02-29"},
		{"UTC", "2026-01-01T00:00:00Z", "-1d", "2025-12-31"},

		// The day is the one on the wall; an instant is the same everywhere.
		{"Asia/Tokyo", "2026-03-15T15:30:00Z", "today", "2026-03-16"},
		{"Asia/Tokyo", "2026-03-15T14:59:59Z", "today", "2026-03-15"},
		{"Asia/Tokyo", "2026-03-15T15:30:00Z", "now", "2026-03-15T15:30:00.000Z"},
		{"Asia/Tokyo", "2026-03-15T15:30:00Z", "-24h", "2026-03-14T15:30:00.000Z"},
		{"America/Los_Angeles", "2026-03-15T05:00:00Z", "today", "2026-03-14"},
		{"America/Los_Angeles", "2026-03-15T05:00:00Z", "-1w", "2026-03-07"},
		{"Pacific/Kiritimati", "2025-12-31T10:00:00Z", "today", "2026-01-01"},
		{"Asia/Kathmandu", "2026-03-15T18:15:00Z", "yesterday", "2026-03-15"},

		// Days are counted on the calendar and hours on the clock, also where a day has 23 or 25 hours.
		{"Europe/Berlin", "2026-03-30T00:30:00+02:00", "-1d", "2026-03-29"},
		{"Europe/Berlin", "2026-03-29T03:30:00+02:00", "yesterday", "2026-03-28"},
		{"Europe/Berlin", "2026-03-30T00:30:00+02:00", "-24h", "2026-03-28T22:30:00.000Z"},
		{"Europe/Berlin", "2026-10-25T02:30:00+02:00", "today", "2026-10-25"},
		{"Europe/Berlin", "2026-10-25T02:30:00+01:00", "-1d", "2026-10-24"},
		{"Europe/Berlin", "2026-10-25T23:59:59+01:00", "-24h", "2026-10-24T22:59:59.000Z"},
		{"America/New_York", "2026-03-09T02:30:00-04:00", "-1d", "2026-03-08"}, // 02:30 of that day was skipped
		{"Australia/Lord_Howe", "2026-10-05T02:15:00+11:00", "yesterday", "2026-10-04"},

		// Where the clock goes forward at midnight, the day has no 00:30 to count back to.
		{"America/Sao_Paulo", "2018-11-05T00:30:00-02:00", "yesterday", "2018-11-04"},
		{"America/Sao_Paulo", "2018-11-11T00:30:00-02:00", "-1w", "2018-11-04"},
		{"Africa/Cairo", "2026-04-25T00:30:00+03:00", "-1d", "2026-04-24"},
		{"Asia/Beirut", "2026-03-30T00:30:00+03:00", "yesterday", "2026-03-29"},
		{"America/Havana", "2026-03-15T00:59:59-04:00", "-7d", "2026-03-08"},

		// Samoa had no 30 December 2011 at all: on the calendar it is there, and empty.
		{"Pacific/Apia", "2011-12-31T12:00:00+14:00", "yesterday", "2011-12-30"},
		{"Pacific/Apia", "2011-12-31T12:00:00+14:00", "-2d", "2011-12-29"},
	} {
		if got, ok := resolveDate(c.text, mustInstant(t, c.now).In(mustZone(t, c.zone))); !ok || got != c.want {
			t.Errorf("%s at %s in %s is %s, %v; want %s", c.text, c.now, c.zone, got, ok, c.want)
		}
	}
}

func TestAbsoluteDatesGoThroughUnchanged(t *testing.T) {
	for _, text := range []string{
		"2026-03-15", "2024-02-29", "0001-01-01", "9999-12-31",
		"2026-03-15T12:00:00Z", "2026-03-15T12:00:00.123456789Z", "2026-03-15T12:00:00+02:00", "2026-03-15T00:00:00-11:30", "2026-03-29T02:30:00+01:00",
	} {
		if got, ok := resolveDate(text, mustInstant(t, "2020-01-01T00:00:00Z")); !ok || got != text {
			t.Errorf("%s became %s, %v", text, got, ok)
		}
	}
}

// notDates are refused in a job and in a schedule.
var notDates = "|tomorrow|Now|TODAY| today|today |now\n|7d|+7d|--7d|-7|-d|-7D|-7days|-1.5d|-7m|-7s|-1y|-7d-1h|-1w2d|- 7d|-7 d|-\u0667d|-36501d|-5215w|-876024h" +
	"|-999999d|-1000000h|-99999999999999999999d|2026-3-15|2026-03-15 |2026-02-29|2026-13-01|2026-00-10|2026-03-00|26-03-15|20260315|2026-03|2026" +
	"|15.03.2026|03/15/2026|2026-03-15T12:00:00|2026-03-15 12:00:00Z|2026-03-15T12:00Z|2026-03-15T1:02:03Z|2026-03-15T12:00:00,5Z|2026-03-15T24:00:00Z" +
	"|2026-03-15T12:00:60Z|2026-03-15T12:00:00+25:00|2026-03-15T12:00:00+0200|2026-03-15t12:00:00z|2026-W11|last success|LAST-SUCCESS|last-successes|\x00|null"

func dateCommand(t testing.TB, startType string) *Command {
	t.Helper()
	c, err := parseCommand(queryHead(), "x.y", "# d\nquery Q($org: String!, $startDate: "+startType+", $endDate: String) { a(o: $org, s: $startDate, e: $endDate) { b } }")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatIsNoDateIsRefused(t *testing.T) {
	const forms = "2026-01-31, 2026-01-31T15:04:05Z, now, today, yesterday, -36h, -7d, -2w"
	c, now := dateCommand(t, "String"), mustInstant(t, "2026-03-15T12:00:00Z")
	for text := range strings.SplitSeq(notDates, "|") {
		for _, schedule := range []bool{false, true} {
			for _, key := range []string{"startDate", "endDate"} {
				out, err := c.resolveDates(map[string]any{"org": "a", key: text}, now, now, schedule)
				allowed := forms
				if schedule {
					allowed += ", last-success"
				}
				if err == nil {
					t.Errorf("%q became %v", text, out[key])
				} else if codeOf(err) != codeInvalidArgument || !strings.HasPrefix(err.Error(), "INVALID_ARGUMENT: "+key+": ") ||
					!strings.HasSuffix(err.Error(), " is not a date; allowed: "+allowed) {
					t.Errorf("%q: %v", text, err)
				}
			}
		}
	}
	if _, err := c.resolveDates(map[string]any{"startDate": strings.Repeat("x", 1<<20)}, now, now, false); err == nil || len(err.Error()) > 500 {
		t.Errorf("a long one: %.600v", err)
	}
}

func TestLastSuccess(t *testing.T) {
	now, since := mustInstant(t, "2026-03-15T12:00:00Z"), mustInstant(t, "2026-03-14T23:15:00.5+02:00")
	payload := map[string]any{"org": "a", "startDate": "last-success"}
	optional, required := dateCommand(t, "String"), dateCommand(t, "String!")

	out, err := optional.resolveDates(payload, now, since, true)
	if err != nil || out["startDate"] != "2026-03-14T21:15:00.500Z" {
		t.Errorf("after a run: %v, %v", out, err)
	}
	out, err = optional.resolveDates(payload, now, time.Time{}, true)
	if _, given := out["startDate"]; err != nil || given || out["org"] != "a" {
		t.Errorf("before the first run: %v, %v", out, err)
	}
	if out, err := optional.resolveDates(payload, now, since, false); codeOf(err) != codeInvalidArgument || strings.Contains(err.Error(), ", last-success") {
		t.Errorf("outside a schedule: %v, %v", out, err)
	}
	payload = map[string]any{"org": "a", "startDate": "2026-01-01", "endDate": "last-success"}
	if out, err := optional.resolveDates(payload, now, since, true); err != nil || out["endDate"] != "2026-03-14T21:15:00.500Z" {
		t.Errorf("as the end: %v, %v", out, err)
	}
	payload = map[string]any{"org": "a", "startDate": "last-success"}
	// A required date cannot be left out before the first run, so it is refused when the schedule is made.
	if out, err := required.resolveDates(payload, now, since, true); codeOf(err) != codeInvalidArgument || strings.Contains(err.Error(), ", last-success") {
		t.Errorf("for a required date: %v, %v", out, err)
	}
}

func TestOnlyDatesAreResolved(t *testing.T) {
	now := mustInstant(t, "2026-03-15T12:00:00Z")
	c := dateCommand(t, "String")
	payload := map[string]any{"org": "today", "startDate": "-7d", "endDate": nil, "unknown": "yesterday"}
	before := maps.Clone(payload)
	out, err := c.resolveDates(payload, now, time.Time{}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"org": "today", "startDate": "2026-03-08", "endDate": nil, "unknown": "yesterday"}
	if !maps.Equal(out, want) {
		t.Errorf("got %v, want %v", out, want)
	}
	if !maps.Equal(payload, before) {
		t.Errorf("the payload itself was changed: %v", payload)
	}
	for _, payload := range []map[string]any{nil, {}} {
		if out, err := c.resolveDates(payload, now, time.Time{}, false); err != nil || out == nil || len(out) != 0 {
			t.Errorf("of nothing: %v, %v", out, err)
		}
	}
	// A value of the wrong type is Check's to refuse.
	if out, err := c.resolveDates(map[string]any{"startDate": 7.0}, now, now, false); err != nil || out["startDate"] != 7.0 {
		t.Errorf("a number: %v, %v", out, err)
	}
}

// Resolving what is resolved changes nothing, so that a retried job asks for the same days.
func TestResolvedDatesStay(t *testing.T) {
	now := mustInstant(t, "2026-03-15T15:30:00Z")
	for _, text := range []string{"now", "today", "yesterday", "-36h", "-7d", "-2w"} {
		once, _ := resolveDate(text, now)
		if again, ok := resolveDate(once, now.Add(1000*time.Hour)); !ok || again != once {
			t.Errorf("%s: %s became %s", text, once, again)
		}
	}
}

func FuzzDate(f *testing.F) {
	for text := range strings.SplitSeq(notDates, "|") {
		f.Add(text, int64(0))
	}
	for _, text := range []string{"now", "today", "yesterday", "-36h", "-7d", "-2w", "2026-03-15", "2026-03-15T12:00:00.5+02:00"} {
		f.Add(text, int64(1773576000))
	}
	f.Fuzz(func(t *testing.T, text string, unix int64) {
		now := time.Unix(min(max(unix, 0), 253402300799), 0) // 1970 to 9999
		got, ok := resolveDate(text, now)
		if !ok {
			if got != "" {
				t.Errorf("%q was refused with %q", text, got)
			}
			return
		}
		_, notDay := time.Parse(time.DateOnly, got)
		if _, notInstant := time.Parse(time.RFC3339, got); notDay != nil && notInstant != nil {
			t.Errorf("%q became %q", text, got)
		}
		if again, ok := resolveDate(got, now); !ok || again != got {
			t.Errorf("%q became %q, which becomes %q", text, got, again)
		}
	})
}
