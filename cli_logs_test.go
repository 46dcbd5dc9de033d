package main

// The log as it is followed, and schedules by whatever names them.

import (
	"bufio"
	"context"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"honeydew/daemonpb"
)

func TestALogThatIsFollowedGoesOn(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(path string) error
	}{
		{"after copytruncate", func(path string) error { return os.Truncate(path, 0) }},
		{"after rotation", func(path string) error {
			if err := os.Rename(path, path+".1"); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o600)
		}},
		{"after its removal", os.Remove},
	} {
		t.Run(row.name, func(t *testing.T) {
			home := shortDir(t)
			log := putFile(t, home, "daemon.log", `{"message":"`+strings.Repeat("first", 100)+`"}`+"\n")
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				reader.Close()
				writer.Close()
			})
			p := testProcess(t, home, "logs", "-f", "--json")
			p.stdout = writer
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan int, 1)
			go func() { ended <- runCLI(ctx, p) }()
			defer func() {
				cancel()
				<-ended
			}()
			lines := bufio.NewScanner(reader)
			await := func(want string) {
				t.Helper()
				if !lines.Scan() || !strings.Contains(lines.Text(), want) {
					t.Fatalf("%q, want %s (%v)", lines.Text(), want, lines.Err())
				}
			}
			await("first")
			if err := row.change(log); err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"second", "third"} {
				f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteString(`{"message":"` + word + `"}` + "\n"); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				await(word)
			}
		})
	}
}

// timetable knows some schedules, and notes which one is meant.
type timetable struct {
	daemonpb.DaemonClient
	meant *string
}

func (timetable) ListSchedules(context.Context, *daemonpb.ListSchedulesRequest, ...grpc.CallOption) (*daemonpb.ListSchedulesResponse, error) {
	return &daemonpb.ListSchedulesResponse{Schedules: []*daemonpb.Schedule{
		{ScheduleId: "abcd1111", Name: "every night", CronExpr: "0 2 * * *"},
		{ScheduleId: "abcd2222", Name: "@daily", CronExpr: "0 3 * * *"},
		{ScheduleId: "efgh3333", Name: "abcd1111x", CronExpr: "0 4 * * *"},
	}}, nil
}

func (s timetable) UnscheduleJob(_ context.Context, in *daemonpb.UnscheduleJobRequest, _ ...grpc.CallOption) (*daemonpb.UnscheduleJobResponse, error) {
	*s.meant = in.Name
	return &daemonpb.UnscheduleJobResponse{}, nil
}

func (s timetable) SetScheduleEnabled(_ context.Context, in *daemonpb.SetScheduleEnabledRequest, _ ...grpc.CallOption) (*daemonpb.SetScheduleEnabledResponse, error) {
	*s.meant = in.Name
	return &daemonpb.SetScheduleEnabledResponse{}, nil
}

func (s timetable) TriggerSchedule(_ context.Context, in *daemonpb.TriggerScheduleRequest, _ ...grpc.CallOption) (*daemonpb.TriggerScheduleResponse, error) {
	*s.meant = in.Name
	return &daemonpb.TriggerScheduleResponse{JobId: "x"}, nil
}

func (s timetable) PreviewSchedule(_ context.Context, in *daemonpb.PreviewScheduleRequest, _ ...grpc.CallOption) (*daemonpb.PreviewScheduleResponse, error) {
	*s.meant = in.CronExpr
	return &daemonpb.PreviewScheduleResponse{Times: []string{"2026-01-02T03:04:05.000Z"}}, nil
}

func TestASchedulesNameOrIDIsFoundBeforeItIsAnExpression(t *testing.T) {
	for _, row := range []struct{ text, name, expression, refused string }{
		{"every night", "every night", "0 2 * * *", ""},
		{"@daily", "@daily", "0 3 * * *", ""},
		{"abcd1111", "every night", "0 2 * * *", ""},
		{"abcd1111x", "abcd1111x", "0 4 * * *", ""},
		{"abcd2", "@daily", "0 3 * * *", ""},
		{"efgh3333", "abcd1111x", "0 4 * * *", ""},
		{"abcd", "", "", "begins the ids of 2 schedules"},
		{"@hourly", "@hourly", "@hourly", ""}, // no schedule: of the verbs only test takes it
		{"0 5 * * *", "0 5 * * *", "0 5 * * *", ""},
		{"efg", "efg", "", ""},
	} {
		for _, verb := range []string{"remove", "pause", "resume", "run", "test"} {
			meant, want := "", row.name
			if verb == "test" {
				want = row.expression
			}
			_, _, err := runVerb(t, timetable{meant: &meant}, "schedule", verb, row.text)
			switch {
			case row.refused != "":
				if err == nil || !strings.Contains(err.Error(), row.refused) {
					t.Errorf("%s %q: %v, want: %s", verb, row.text, err, row.refused)
				}
			case want == "":
				if codeOf(err) != codeNotFound {
					t.Errorf("%s %q: %v, want it not found", verb, row.text, err)
				}
			case err != nil || meant != want:
				t.Errorf("%s %q: %q (%v), want %q", verb, row.text, meant, err, want)
			}
		}
	}
}
