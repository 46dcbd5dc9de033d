package main

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones tested exist on every machine
)

func mustZone(t testing.TB, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// mustInstant reads RFC 3339, in which a time's offset tells the two passes of an overlap apart.
func mustInstant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// cronCase is an expression and what the message of its refusal names.
type cronCase struct{ expr, want string }

func TestCronRefused(t *testing.T) {
	wantRefused(t, []cronCase{
		{"", "0 fields"},
		{"   ", "0 fields"},
		{"* * * *", "4 fields"},
		{"0 * * * * *", "6 fields"},
		{strings.Repeat("1,", 200) + "1 * * * *", "longer than 256 bytes"},
		{"0 0 * * *\x00", "control"},
		{"0\t0 * * *", "control"},
		{"0 0 * * *\n", "control"},
		{"0 0 * *\u00a0*", "control"},
		{"0 0 * * *\xff", "control"},
		{"TZ=", "TZ= needs a time zone"},
		{"TZ=UTC", "then a blank"},
		{"CRON_TZ=UTC", "then a blank"},
		{"TZ=0", "then a blank"},
		{"CRON_TZ=UTC   ", "then a blank"},
		{"CRON_TZ= 0 0 * * *", "needs a time zone"},
		{"CRON_TZ=Mars/Phobos 0 0 * * *", `no time zone "Mars/Phobos"`},
		{"CRON_TZ=../UTC 0 0 * * *", `no time zone "../UTC"`},
		{"CRON_TZ=/etc/localtime 0 0 * * *", `no time zone "/etc/localtime"`},
		{"CRON_TZ=Local 0 0 * * *", `no time zone "Local"`},
		{"CRON_TZ=UTC TZ=UTC @daily", "2 fields"},
		{"CRON_TZ=UTC TZ=UTC * * * *", `"TZ=UTC" is not`},
		{"cron_tz=UTC * * * *", `"cron_tz=UTC" is not`},
		{"@", "it is not known"},
		{"@reboot", "@reboot"},
		{"@Daily", "in lower case"},
		{"@EVERY 5m", "in lower case"},
		{"@daily 5", "@daily 5"},
		{"@daily 1 2 3 4", "@daily 1 2 3 4"},
		{"@every", "such as @every 90s"},
		{"@every5m", "@every5m"},
		{"@every 5m 5m", "such as @every 90s"},
		{"@every 5", "such as @every 90s"},
		{"@every 9999999h", "such as @every 90s"},
		{"@every 0s", "allowed are whole seconds"},
		{"@every -5m", "allowed are whole seconds"},
		{"@every 1ms", "allowed are whole seconds"},
		{"@every 1500ms", "allowed are whole seconds"},
		{"@every 1m0.5s", "allowed are whole seconds"},
	})
}

func TestCronFieldsRefused(t *testing.T) {
	wantRefused(t, []cronCase{
		{"*/61 * * * *", "a step from /1 to /60"},
		{"* */25 * * *", "a step from /1 to /24"},
		{"* * */32 * *", "a step from /1 to /31"},
		{"* * * */13 *", "a step from /1 to /12"},
		{"* * * * */8", "a step from /1 to /7"},
		{"*/0 * * * *", "a step from /1 to /60"},
		{"*/-1 * * * *", `"*/-1" is not`},
		{"*/99999999999999999999 * * * *", "a step from"},
		{"1/2/3 * * * *", `"1/2/3" is not`},
		{"* * * * 7", "Sunday is 0"},
		{"* * * * 1-7", "Sunday is 0"},
		{"* * * * sat-sun", `day of week "sat-sun" is not`},
		{",,, * * * *", `minute ",,," is not`},
		{"1,,2 * * * *", `minute "1,,2" is not`},
		{"1, * * * *", `minute "1," is not`},
		{"*-5 * * * *", `"*-5" is not`},
		{"+5 * * * *", `"+5" is not`},
		{"-5 * * * *", `"-5" is not`},
		{"60 * * * *", `minute "60"`},
		{"0 24 * * *", `hour "24"`},
		{"0 0 0 * *", `day of month "0"`},
		{"0 0 32 * *", `day of month "32"`},
		{"0 0 * 13 *", `month "13"`},
		{"0 0 L * *", `day of month "L"`},
		{"0 0 * * 5#2", `"5#2" is not`},
		{"30-10 * * * *", `minute "30-10" is not`},
		{"99999999999999999999 * * * *", `minute "9999`},
		{"0 0 30 2 *", "never fires"},
		{"0 0 31 2,4,6,9,11 *", "never fires"},
		{"* * 31 feb ?", "never fires"},
	})
}

func wantRefused(t *testing.T, cases []cronCase) {
	t.Helper()
	now := mustInstant(t, "2026-05-01T12:00:00Z")
	for _, c := range cases {
		_, err := parseCron(c.expr, time.UTC, now)
		var refused *Error
		switch {
		case !errors.As(err, &refused) || refused.Code != codeInvalidArgument:
			t.Errorf("%q: got %v, want %s", c.expr, err, codeInvalidArgument)
		case !strings.HasPrefix(refused.Message, "cron expression \"") || !strings.Contains(refused.Message, c.want):
			t.Errorf("%q: message %q lacks %q", c.expr, refused.Message, c.want)
		case refused.Hint == "":
			t.Errorf("%q: no hint", c.expr)
		}
	}
}

func TestCronAccepted(t *testing.T) {
	berlin := mustZone(t, "Europe/Berlin")
	now := mustInstant(t, "2026-05-01T12:34:56Z") // a Friday, 14:34:56 in Berlin
	for expr, want := range map[string]string{
		"* * * * *":                         "2026-05-01T12:35:00Z",
		"  */5   *  * * * ":                 "2026-05-01T12:35:00Z",
		"*/60 * * * *":                      "2026-05-01T13:00:00Z",
		"7/20 * * * ?":                      "2026-05-01T12:47:00Z",
		"0 9 * * *":                         "2026-05-02T07:00:00Z",
		"0 9 * * MON-fri":                   "2026-05-04T07:00:00Z",
		"0 9 * * 0":                         "2026-05-03T07:00:00Z",
		"0 9 1 jan *":                       "2027-01-01T08:00:00Z",
		"0 9 20 * 0":                        "2026-05-03T07:00:00Z", // OR: the Sunday comes first
		"0 9 3 5 1":                         "2026-05-03T07:00:00Z", // OR: the third comes first
		"0 9 */2 * 6":                       "2026-05-02T07:00:00Z", // a step restricts: Saturday comes before the third
		"0 0 29 2 *":                        "2028-02-28T23:00:00Z",
		"CRON_TZ=UTC 0 9 * * *":             "2026-05-02T09:00:00Z",
		"TZ=Asia/Kathmandu   0 9 * * *":     "2026-05-02T03:15:00Z",
		"CRON_TZ=America/New_York @daily":   "2026-05-02T04:00:00Z",
		"CRON_TZ=Asia/Kathmandu @hourly":    "2026-05-01T13:15:00Z",
		"CRON_TZ=Asia/Kathmandu @every 90s": "2026-05-01T12:36:26Z",
		"@every   36h":                      "2026-05-03T00:34:56Z",
		"@hourly":                           "2026-05-01T13:00:00Z",
		"@midnight":                         "2026-05-01T22:00:00Z",
		"@weekly":                           "2026-05-02T22:00:00Z",
		"@monthly":                          "2026-05-31T22:00:00Z",
		"@yearly":                           "2026-12-31T23:00:00Z",
		"@annually":                         "2026-12-31T23:00:00Z",
	} {
		e, err := parseCron(expr, berlin, now)
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		if got := e.next(now, now); got.Format(time.RFC3339) != want {
			t.Errorf("%q: next is %v, want %s", expr, got, want)
		}
	}
}

// TestCronDST lists consecutive times, each asked for with the one before.
func TestCronDST(t *testing.T) {
	for _, c := range []struct {
		zone, expr, from string
		want             string // in local time, with offsets
	}{
		{"America/New_York", "30 2 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:30:00-04:00"},
		{"America/New_York", "*/20 2,3 * * *", "2026-03-07T12:00:00-05:00", // the whole gap and 03:00 are one run
			"2026-03-08T03:00:00-04:00 2026-03-08T03:20:00-04:00 2026-03-08T03:40:00-04:00 2026-03-09T02:00:00-04:00"},
		{"America/New_York", "30 * * * *", "2026-03-08T01:00:00-05:00", "2026-03-08T01:30:00-05:00 2026-03-08T03:30:00-04:00"},
		{"America/New_York", "0 */2 * * *", "2026-03-08T00:00:00-05:00", "2026-03-08T04:00:00-04:00 2026-03-08T06:00:00-04:00"},
		{"America/New_York", "30 1 * * *", "2026-11-01T00:00:00-04:00", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00"},
		{"America/New_York", "30 1 * * *", "2026-11-01T01:10:00-05:00", "2026-11-02T01:30:00-05:00"},
		{"America/New_York", "30 * * * *", "2026-11-01T01:00:00-04:00",
			"2026-11-01T01:30:00-04:00 2026-11-01T01:30:00-05:00 2026-11-01T02:30:00-05:00"},
		{"America/New_York", "@hourly", "2026-11-01T00:30:00-04:00",
			"2026-11-01T01:00:00-04:00 2026-11-01T01:00:00-05:00 2026-11-01T02:00:00-05:00"},
		{"Europe/Berlin", "0 2 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"},
		{"Europe/Berlin", "0,30 2 * * *", "2026-10-25T00:00:00+02:00",
			"2026-10-25T02:00:00+02:00 2026-10-25T02:30:00+02:00 2026-10-26T02:00:00+01:00"},
		{"Europe/Berlin", "0 2/24 * * *", "2026-10-24T12:00:00+02:00", "2026-10-25T02:00:00+02:00 2026-10-25T02:00:00+01:00"},
		{"Africa/Cairo", "15-44 17 1,24 * *", "2026-04-21T00:00:00+02:00", "2026-04-24T17:15:00+03:00 2026-04-24T17:16:00+03:00"},
		{"Africa/Cairo", "0 0 * * *", "2026-04-23T12:00:00+02:00", "2026-04-24T01:00:00+03:00 2026-04-25T00:00:00+03:00"},
		{"Africa/Cairo", "@daily", "2026-10-29T00:00:00+03:00", "2026-10-30T00:00:00+02:00"},
		{"Africa/Cairo", "30 23 * * *", "2026-10-29T12:00:00+03:00", "2026-10-29T23:30:00+03:00 2026-10-30T23:30:00+02:00"},
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00"},
		{"Australia/Lord_Howe", "45 2 * * *", "2026-10-03T12:00:00+10:30", "2026-10-04T02:45:00+11:00"},
		{"Australia/Lord_Howe", "*/30 * * * *", "2026-04-05T01:00:00+11:00",
			"2026-04-05T01:30:00+11:00 2026-04-05T01:30:00+10:30 2026-04-05T02:00:00+10:30"},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-05T00:00:00+11:00", "2026-04-05T01:45:00+11:00 2026-04-06T01:45:00+10:30"},
		{"America/Havana", "0 0 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T01:00:00-04:00 2026-03-09T00:00:00-04:00"},
		{"America/Havana", "0 0 8 * *", "2026-03-07T12:00:00-05:00", "2026-03-08T01:00:00-04:00 2026-04-08T00:00:00-04:00"},
		{"America/Havana", "30 0 * * *", "2026-10-31T12:00:00-04:00", "2026-11-01T00:30:00-04:00 2026-11-02T00:30:00-05:00"},
		{"Pacific/Apia", "55 18 1 * *", "2011-12-09T00:00:00-10:00", "2012-01-01T18:55:00+14:00"},
		{"Pacific/Apia", "0 9 * * *", "2011-12-29T00:00:00-10:00", // 30 December, skipped as a whole, runs right after
			"2011-12-29T09:00:00-10:00 2011-12-31T00:00:00+14:00 2011-12-31T09:00:00+14:00"},
		{"Pacific/Apia", "0 */12 * * *", "2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00 2011-12-31T12:00:00+14:00"},
		{"Asia/Kathmandu", "0 0 * * *", "2026-01-01T12:00:00+05:45", "2026-01-02T00:00:00+05:45"},
		{"Europe/Berlin", "0 0 29 2 *", "2096-03-01T00:00:00+01:00", "2104-02-29T00:00:00+01:00"},
		{"Europe/Berlin", "* */23 29 2 *", "2096-03-01T00:00:00+01:00", "2104-02-29T00:00:00+01:00"},
		{"Europe/Berlin", "0 12 * * *", "2028-12-30T12:00:00+01:00", // ZoneBounds errs on a leap year's last day
			"2028-12-31T12:00:00+01:00 2029-01-01T12:00:00+01:00"},
		{"Europe/Berlin", "0 0 1 7 *", "2028-12-31T12:00:00+01:00", "2029-07-01T00:00:00+02:00"},
	} {
		wantTimes(t, mustZone(t, c.zone), c.expr, mustInstant(t, c.from), c.want)
	}
}

func wantTimes(t *testing.T, zone *time.Location, expr string, at time.Time, wants string) {
	t.Helper()
	e, err := parseCron(expr, zone, at)
	if err != nil {
		t.Errorf("%v %q: %v", zone, expr, err)
		return
	}
	for want := range strings.FieldsSeq(wants) {
		got := e.next(at, at)
		if text := got.In(zone).Format(time.RFC3339); text != want || got.Location() != time.UTC {
			t.Errorf("%v %q: after %v got %s, want %s", zone, expr, at, text, want)
		}
		if again := e.next(got.Add(-time.Nanosecond), at); !again.Equal(got) {
			t.Errorf("%v %q: just before %s got %v", zone, expr, want, again)
		}
		at = got
	}
}

func TestCronEvery(t *testing.T) {
	const anchor = "2026-05-01T12:00:00.7Z"
	for _, c := range []struct{ expr, anchor, t, want string }{
		{"@every 1s", anchor, anchor, "2026-05-01T12:00:01Z"},
		{"@every 36h", anchor, anchor, "2026-05-03T00:00:00Z"},
		{"@every 36h", anchor, "2026-05-02T23:59:59.9Z", "2026-05-03T00:00:00Z"}, // a restart shifts nothing
		{"@every 36h", anchor, "2026-05-03T00:00:00Z", "2026-05-04T12:00:00Z"},
		{"@every 90m", anchor, "2030-01-01T00:10:00Z", "2030-01-01T01:30:00Z"}, // long asleep: one run, on the grid
		{"@every 1h", anchor, "2026-05-01T09:30:00Z", "2026-05-01T10:00:00Z"},  // a clock set back starves nothing
		{"@every 1h", anchor, "2026-05-01T12:00:00Z", "2026-05-01T13:00:00Z"},
		{"@every 24h", "0001-01-01T00:00:00Z", "2026-05-01T09:30:00Z", "2026-05-02T00:00:00Z"},
		{"@every 2562047h", anchor, anchor, "2318-08-11T11:00:00Z"},
	} {
		e, err := parseCron(c.expr, time.UTC, mustInstant(t, anchor))
		if err != nil {
			t.Errorf("%q: %v", c.expr, err)
			continue
		}
		if got := e.next(mustInstant(t, c.t), mustInstant(t, c.anchor)); got.Format(time.RFC3339Nano) != c.want {
			t.Errorf("%q after %s from %s: got %v, want %s", c.expr, c.t, c.anchor, got, c.want)
		}
	}
}

// TestCronScan compares next with a minute-by-minute reading of the local clock around every change of it.
func TestCronScan(t *testing.T) {
	exprs := []string{
		"* * * * *", "*/20 * * * *", "0 */3 * * *", "10,50 1-23/2 * * *", "30 0 * * *", "0 0 * * *", "15,45 1,2,3 * * *",
		"*/10 0-3 * * *", "59 23 * * *", "*/7 2 * * 0", "5 2 24 * 5", "0 12 30-31 12 *", "0 0-23 * * *", "* 2 * * *",
	}
	for _, c := range []struct {
		zone string
		year int
	}{
		{"America/New_York", 2026}, {"Europe/Berlin", 2028}, {"Africa/Cairo", 2026}, {"Australia/Lord_Howe", 2026},
		{"America/Havana", 2040}, {"Pacific/Apia", 2011}, {"Asia/Kathmandu", 2026}, {"Africa/Casablanca", 2026},
		{"America/Santiago", 2027}, {"Europe/Dublin", 2026}, {"America/Sao_Paulo", 2017}, {"Pacific/Kwajalein", 1993},
		{"Antarctica/Troll", 2026}, {"Europe/Volgograd", 2020}, {"America/Caracas", 2007}, {"UTC", 2028},
	} {
		zone := mustZone(t, c.zone)
		for _, centre := range clockChanges(zone, c.year) {
			for _, expr := range exprs {
				scanOne(t, zone, expr, centre)
			}
		}
	}
}

// clockChanges returns the hours of year after which the zone's offset is another one, and the year's end.
func clockChanges(zone *time.Location, year int) []time.Time {
	end := time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC)
	changes := []time.Time{end.Add(-12 * time.Hour)}
	for at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC); at.Before(end); at = at.Add(time.Hour) {
		_, before := at.In(zone).Zone()
		if _, after := at.Add(time.Hour).In(zone).Zone(); before != after {
			changes = append(changes, at)
		}
	}
	return changes
}

func scanOne(t *testing.T, zone *time.Location, expr string, centre time.Time) {
	t.Helper()
	e, err := parseCron(expr, zone, centre)
	if err != nil {
		t.Fatal(err)
	}
	from, to := centre.Add(-40*time.Hour), centre.Add(40*time.Hour)
	fires := scanFires(strings.Fields(expr), zone, from.Add(-27*time.Hour), to)
	for at := from.Add(17 * time.Second); at.Before(to); at = at.Add(557 * time.Second) {
		for len(fires) > 0 && !fires[0].After(at) {
			fires = fires[1:]
		}
		got := e.next(at, at)
		if len(fires) == 0 {
			if got.Before(to) {
				t.Fatalf("%v %q after %v: got %v, want nothing before %v", zone, expr, at.In(zone), got.In(zone), to)
			}
		} else if !got.Equal(fires[0]) {
			t.Fatalf("%v %q after %v: got %v, want %v", zone, expr, at.In(zone), got.In(zone), fires[0].In(zone))
		}
	}
}

// scanFires looks at the local clock each minute; for fixed hours it remembers what it has shown and what it left out.
func scanFires(fields []string, zone *time.Location, from, to time.Time) (fires []time.Time) {
	shown := map[time.Time]bool{}
	fixed := !strings.ContainsAny(fields[1], "*/")
	last := time.Time{}
	for at := from; at.Before(to); at = at.Add(time.Minute) {
		local := at.In(zone)
		face := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), 0, 0, time.UTC)
		due := faceMatches(fields, face)
		if fixed {
			due = due && !shown[face]
			for left := last.Add(time.Minute); !last.IsZero() && left.Before(face); left = left.Add(time.Minute) {
				due = due || faceMatches(fields, left) && !shown[left]
				shown[left] = true
			}
			shown[face] = true
		}
		if last = face; due {
			fires = append(fires, at)
		}
	}
	return fires
}

func faceMatches(fields []string, face time.Time) bool {
	day, weekday := fieldMatches(fields[2], face.Day()), fieldMatches(fields[4], int(face.Weekday()))
	dayDue := day && weekday
	if fields[2] != "*" && fields[4] != "*" {
		dayDue = day || weekday
	}
	return dayDue && fieldMatches(fields[0], face.Minute()) && fieldMatches(fields[1], face.Hour()) &&
		fieldMatches(fields[3], int(face.Month()))
}

// fieldMatches knows *, */n, a, a-b, a-b/n and lists, which is what the scan uses.
func fieldMatches(field string, value int) bool {
	for item := range strings.SplitSeq(field, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		low, high, step := 0, 59, 1
		if stepped {
			step, _ = strconv.Atoi(stepText)
		}
		if span != "*" {
			a, b, ranged := strings.Cut(span, "-")
			low, _ = strconv.Atoi(a)
			if high = low; ranged {
				high, _ = strconv.Atoi(b)
			}
		}
		if value >= low && value <= high && (value-low)%step == 0 {
			return true
		}
	}
	return false
}

func FuzzCron(f *testing.F) {
	names := []string{"UTC", "America/New_York", "Europe/Berlin", "Africa/Cairo", "Australia/Lord_Howe", "America/Havana",
		"Pacific/Apia", "Asia/Kathmandu", "Africa/Casablanca"}
	zones := make([]*time.Location, len(names))
	for i, name := range names {
		zones[i] = mustZone(f, name)
	}
	for i, expr := range []string{"* * * * *", "55 18 1 * *", "0 0 29 2 *", "30 2 8-14 3 0", "*/7 */5 */2 1-12/3 mon-fri",
		"TZ=", "TZ=UTC", "CRON_TZ=Africa/Cairo 0 0 * * *", "@every 1h30m", "@every -1s", "@hourly", ",,, * * * *", "0 0 30 2 *",
		"*-5 ?/3 L W #", "CRON_TZ= @daily", "1/2/3 99 * * 7"} {
		f.Add(expr, int64(1323400000+i*97654321), byte(i))
	}
	f.Fuzz(func(t *testing.T, expr string, unix int64, zone byte) {
		at := time.Unix(unix%(1<<33), unix&0x1ffffff).UTC() // 1697 to 2242
		e, err := parseCron(expr, zones[int(zone)%len(zones)], at)
		if err != nil {
			return
		}
		for range 5 {
			got := e.next(at, at.Add(-time.Hour))
			if got.IsZero() {
				return
			}
			if !got.After(at) || got.Nanosecond() != 0 || got.Location() != time.UTC {
				t.Fatalf("%q after %v: got %v", expr, at, got)
			}
			if again := e.next(got.Add(-time.Second), got.Add(-time.Second)); e.every == 0 && again.After(got) {
				t.Fatalf("%q: %v after %v, yet %v after a second before it", expr, got, at, again)
			}
			at = got
		}
	})
}
