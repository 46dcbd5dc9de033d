package main

// What a filter of jobs says to the daemon, and which jobs a retry by filter leaves out.

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"honeydew/daemonpb"
)

// hall has a few jobs, and notes what it is asked.
type hall struct {
	daemonpb.DaemonClient
	asked   *[]proto.Message
	retried *[]string
}

func (h hall) ListJobs(_ context.Context, in *daemonpb.ListJobsRequest, _ ...grpc.CallOption) (*daemonpb.ListJobsResponse, error) {
	*h.asked = append(*h.asked, proto.Clone(in))
	return &daemonpb.ListJobsResponse{Jobs: []*daemonpb.JobStatus{
		{JobId: "failed", Status: statusFailed, Environment: "here", ErrorCode: codeTimeout},
		{JobId: "cancelled", Status: statusCancelled, Environment: "here"},
		{JobId: "done", Status: statusCompleted, Environment: "here"},
		{JobId: "unknown", Status: statusFailed, Environment: "here", ErrorCode: codeOutcomeUnknown},
		{JobId: "homeless1", Status: statusFailed, Environment: "gone", ErrorCode: codeTimeout},
		{JobId: "homeless2", Status: statusFailed, Environment: "gone", ErrorCode: codeAuthRequired},
	}}, nil
}

func (h hall) GetStatus(context.Context, *daemonpb.GetStatusRequest, ...grpc.CallOption) (*daemonpb.DaemonStatus, error) {
	return &daemonpb.DaemonStatus{}, nil
}

func (h hall) ListEnvironments(context.Context, *daemonpb.ListEnvironmentsRequest, ...grpc.CallOption) (*daemonpb.ListEnvironmentsResponse, error) {
	return &daemonpb.ListEnvironmentsResponse{Environments: []*daemonpb.Environment{{Name: "here"}}}, nil
}

func (h hall) RetryJob(_ context.Context, in *daemonpb.RetryJobRequest, _ ...grpc.CallOption) (*daemonpb.RetryJobResponse, error) {
	*h.retried = append(*h.retried, in.JobId)
	return &daemonpb.RetryJobResponse{JobId: "new"}, nil
}

func (h hall) ScheduleJob(_ context.Context, in *daemonpb.ScheduleJobRequest, _ ...grpc.CallOption) (*daemonpb.ScheduleJobResponse, error) {
	*h.asked = append(*h.asked, proto.Clone(in))
	return &daemonpb.ScheduleJobResponse{}, nil
}

func (h hall) ResumeQueue(_ context.Context, in *daemonpb.ResumeQueueRequest, _ ...grpc.CallOption) (*daemonpb.ResumeQueueResponse, error) {
	*h.asked = append(*h.asked, proto.Clone(in))
	return &daemonpb.ResumeQueueResponse{}, nil
}

func (hall) GetActiveEnvironment(context.Context, *daemonpb.GetActiveEnvironmentRequest, ...grpc.CallOption) (*daemonpb.GetActiveEnvironmentResponse, error) {
	return &daemonpb.GetActiveEnvironmentResponse{Environment: &daemonpb.Environment{Name: "here"}}, nil
}

func TestARetryByFilterLeavesOutWhatNeedsASecondThought(t *testing.T) {
	for _, row := range []struct {
		line, retried string
		leftOut       bool
	}{
		{"job retry --status failed", "failed cancelled", true},
		{"job retry --code OUTCOME_UNKNOWN", "failed cancelled", true},
		{"job retry --since -1d --dry-run", "", true},
		{"job retry unknown homeless1", "unknown homeless1", false},
	} {
		var asked []proto.Message
		var retried []string
		stdout, stderr, err := runVerb(t, hall{asked: &asked, retried: &retried}, strings.Fields(row.line)...)
		if err != nil || strings.Join(retried, " ") != row.retried {
			t.Errorf("%s: %q (%v), want %s", row.line, retried, err, row.retried)
		}
		for _, said := range []string{"1 job whose outcome is unknown", "2 jobs of removed environments", "honeydew job retry unknown", "honeydew job retry homeless1"} {
			if strings.Contains(stderr, said) != row.leftOut {
				t.Errorf("%s: %q", row.line, stderr)
			}
		}
		if strings.Contains(row.line, "dry-run") && !regexp.MustCompile(`^ID .*\nfailed +failed .*\ncancelled +cancelled .*\n$`).MatchString(stdout) {
			t.Errorf("%s: %q", row.line, stdout)
		}
		for _, in := range asked {
			if !in.(*daemonpb.ListJobsRequest).Unretried {
				t.Errorf("%s: it asks for jobs that were retried", row.line)
			}
		}
	}
}

func TestNewFlagsReachTheDaemon(t *testing.T) {
	retries := int32(3)
	for line, want := range map[string]proto.Message{
		"job list --since -7d --code TIMEOUT": &daemonpb.ListJobsRequest{Since: "-7d", ErrorCode: "TIMEOUT", Limit: 50},
		"job cancel --since today":            &daemonpb.ListJobsRequest{Since: "today", Limit: 1000},
		"queue resume --now":                  &daemonpb.ResumeQueueRequest{ReleaseHolds: true},
		"queue resume":                        &daemonpb.ResumeQueueRequest{},
		"schedule add x @daily account.me --replace --max-retries 3 --timeout 90s": &daemonpb.ScheduleJobRequest{
			Name:       "x",
			CronExpr:   "@daily",
			Command:    "account.me",
			Replace:    true,
			MaxRetries: &retries,
			Timeout:    "90s",
		},
	} {
		var asked []proto.Message
		_, _, err := runVerb(t, hall{asked: &asked}, strings.Fields(line)...)
		if err != nil || len(asked) != 1 {
			t.Errorf("%s: %v (%v)", line, asked, err)
			continue
		}
		if in, ok := asked[0].(*daemonpb.ScheduleJobRequest); ok {
			in.Payload = nil
		}
		if !proto.Equal(asked[0], want) {
			t.Errorf("%s: %v, want %v", line, asked[0], want)
		}
	}
	if _, _, err := runVerb(t, hall{}, "job", "retry"); err == nil || !strings.Contains(err.Error(), "--since, --code") {
		t.Errorf("neither jobs nor a filter: %v", err)
	}
}
