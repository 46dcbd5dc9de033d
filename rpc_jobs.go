package main

// The RPCs about jobs and schedules, and the one way from a request to a job.

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "honeydew/daemonpb"
)

const maxKeyBytes = 255 // of an idempotency key

// jobOf checks everything about a request and makes its job; nothing is stored yet.
func (s *rpcServer) jobOf(ctx context.Context, in *pb.SubmitJobRequest) (*Job, error) {
	env, err1 := s.store.Environment(in.Environment)
	payload, err2 := payloadMap(in.Payload)
	j := &Job{Command: in.Command, Priority: in.Priority, CreatedAt: timeNow(), Environment: env.Name, IdempotencyKey: in.IdempotencyKey}
	err3 := s.fill(j, payload, time.Time{})
	timeout, err4 := durationField("timeout", in.Timeout, s.cfg.API.Timeout, time.Millisecond, maxTimeout)
	err := cmp.Or(err1, err2, err3, err4)
	if err != nil {
		return nil, err
	}
	j.Timeout = timeout
	if in.MaxRetries != nil {
		j.MaxRetries = *in.MaxRetries
	}
	if j.MaxRetries < 0 || j.MaxRetries > maxRetriesLimit {
		return nil, errorf(codeInvalidArgument, "max_retries: %d; allowed: 0 to %d", j.MaxRetries, maxRetriesLimit)
	}
	if in.RunAfter != "" {
		at, err := time.Parse(time.RFC3339, in.RunAfter)
		if year := at.UTC().Year(); err != nil || year < 1 || year > 9999 { // another year could not be read back
			return nil, errorf(codeInvalidArgument, "run_after: %q; allowed: an RFC 3339 time such as 2026-01-02T15:04:05Z", in.RunAfter)
		}
		j.NextAttemptAt = at.Truncate(time.Millisecond)
	}
	if len(in.IdempotencyKey) > maxKeyBytes {
		return nil, errorf(codeInvalidArgument, "idempotency_key: longer than %d bytes", maxKeyBytes)
	}
	if in.IdempotencyKey != "" {
		j.SubmittedPayload, err = payloadJSON(payload)
	}
	return j, err
}

// payloadMap refuses what is large as a message, though it may be small as JSON: it is sent back as one.
func payloadMap(payload *structpb.Struct) (map[string]any, error) {
	if size := proto.Size(payload); size > 2*maxPayloadBytes {
		return nil, errorf(codeInvalidArgument, "payload: %d bytes; at most %d are allowed", size, maxPayloadBytes)
	}
	return payload.AsMap(), nil
}

func (s *rpcServer) SubmitJob(ctx context.Context, in *pb.SubmitJobRequest) (*pb.SubmitJobResponse, error) {
	j, err := s.jobOf(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := s.queue.Submit(j); err != nil {
		return nil, err
	}
	return &pb.SubmitJobResponse{JobId: j.ID, Existing: j.Existing}, nil
}

func (s *rpcServer) SubmitJobs(ctx context.Context, in *pb.SubmitJobsRequest) (*pb.SubmitJobsResponse, error) {
	out := &pb.SubmitJobsResponse{}
	if len(in.Jobs) == 0 {
		return out, nil
	}
	jobs := make([]*Job, len(in.Jobs))
	for i, r := range in.Jobs {
		var err error
		if jobs[i], err = s.jobOf(ctx, r); err != nil {
			if e, ok := errors.AsType[*Error](err); ok {
				return nil, errorf(e.Code, "jobs[%d]: %s", i, e.Message).hint("%s", e.Hint)
			}
			return nil, err
		}
	}
	if err := s.queue.Submit(jobs...); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		out.Jobs = append(out.Jobs, &pb.SubmitJobResponse{JobId: j.ID, Existing: j.Existing})
	}
	return out, nil
}

func (s *rpcServer) CancelJob(_ context.Context, in *pb.CancelJobRequest) (*pb.CancelJobResponse, error) {
	return &pb.CancelJobResponse{Status: statusCancelled}, s.queue.Cancel(in.JobId)
}

func (s *rpcServer) RetryJob(_ context.Context, in *pb.RetryJobRequest) (*pb.RetryJobResponse, error) {
	j, err := s.queue.Retry(in.JobId)
	if err != nil {
		return nil, err
	}
	return &pb.RetryJobResponse{JobId: j.ID}, nil
}

func (s *rpcServer) GetJobStatus(_ context.Context, in *pb.GetJobStatusRequest) (*pb.JobStatus, error) {
	j, err := s.store.Job(in.JobId, maxAnswerBytes)
	if err != nil {
		return nil, err
	}
	if j.Status == statusPending {
		j = cmp.Or(s.queue.RunningJob(j.Seq), j)
	}
	return jobStatus(j, true)
}

// jobStatus is a job on the wire. Its result is left out where the message would be too large.
func jobStatus(j *Job, withResult bool) (*pb.JobStatus, error) {
	out := &pb.JobStatus{
		JobId: j.ID, Command: j.Command, Payload: &structpb.Struct{}, Priority: j.Priority, Status: j.Status,
		Error: cutText(j.Error, 4*maxErrorTextInBytes), ErrorCode: j.ErrorCode, RetryCount: j.RetryCount, MaxRetries: j.MaxRetries,
		CreatedAt: timeText(j.CreatedAt), UpdatedAt: timeText(j.UpdatedAt), StartedAt: timeText(j.StartedAt),
		CompletedAt: timeText(j.CompletedAt), NextAttemptAt: timeText(j.NextAttemptAt), Environment: j.Environment, Schedule: j.Schedule,
		ResultBytes: max(j.ResultBytes, int64(len(j.Result))),
	}
	err := out.Payload.UnmarshalJSON(j.Payload)
	if withResult && out.ResultBytes > 0 {
		if out.ResultOmitted = int64(proto.Size(out))+out.ResultBytes > maxAnswerBytes; !out.ResultOmitted {
			out.Result = j.Result
		}
	}
	return out, err
}

func (s *rpcServer) WatchJob(in *pb.WatchJobRequest, out grpc.ServerStreamingServer[pb.JobStatus]) error {
	w, err := s.queue.Watch(in.JobId, maxAnswerBytes)
	if err != nil {
		return err
	}
	defer s.queue.Unwatch(w)
	for {
		select {
		case j, ok := <-w.C:
			if !ok {
				return errorf(codeShuttingDown, "the daemon is stopping, or this client reads too slowly").hint("watch the job again")
			}
			msg, err := jobStatus(j, true)
			if err == nil {
				err = out.Send(msg)
			}
			if err != nil || j.finished() {
				return err
			}
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func (s *rpcServer) GetJobResult(in *pb.GetJobResultRequest, out grpc.ServerStreamingServer[pb.ResultChunk]) error {
	j, err := s.store.Job(in.JobId, 1<<62)
	if err != nil {
		return err
	}
	if j.Status != statusCompleted {
		return errorf(codeFailedPrecondition, "job %s is %s and has no result", j.ID, j.Status).
			hint("wait for it with: honeydew job wait %s", j.ID)
	}
	for rest := j.Result; len(rest) > 0; {
		n := min(len(rest), chunkBytes)
		if err := out.Send(&pb.ResultChunk{Data: []byte(rest[:n])}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (s *rpcServer) ListJobs(_ context.Context, in *pb.ListJobsRequest) (*pb.ListJobsResponse, error) {
	err := oneOf("status", cmp.Or(in.Status, statusPending), statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled)
	before, bad := strconv.ParseInt(cmp.Or(in.PageToken, "0"), 36, 64) // the place of the last job of the page before
	if bad != nil || before < 0 {
		err = errorf(codeInvalidArgument, "page_token: %q; allowed: the next_page_token of the page before", in.PageToken)
	}
	if in.Limit < 0 {
		err = errorf(codeInvalidArgument, "limit: %d; allowed: 1 to 1000", in.Limit)
	}
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(min(int(in.Limit), 1000), 50)
	jobs, err := s.store.Jobs(JobFilter{Status: in.Status, Command: in.Command, Schedule: in.Schedule, Before: before, Limit: limit + 1,
		MaxBytes: maxAnswerBytes})
	if err != nil {
		return nil, err
	}
	out, size, payloads := &pb.ListJobsResponse{}, 0, 0
	for i, j := range jobs {
		msg, err := jobStatus(j, false)
		if err != nil {
			return nil, err
		}
		size += proto.Size(msg) + 8
		payloads += len(j.Payload)
		if i == limit || (i > 0 && max(size, payloads) > maxAnswerBytes-1024) {
			out.NextPageToken = strconv.FormatInt(jobs[i-1].Seq, 36)
			break
		}
		out.Jobs = append(out.Jobs, msg)
	}
	return out, nil
}

func (s *rpcServer) ListCommands(context.Context, *pb.ListCommandsRequest) (*pb.ListCommandsResponse, error) {
	out := &pb.ListCommandsResponse{}
	for _, c := range s.commands.All() {
		msg := &pb.Command{Name: c.Name, Kind: "query", Description: c.Description}
		if c.Mutation {
			msg.Kind = "mutation"
		}
		for _, a := range c.Args {
			msg.Arguments = append(msg.Arguments, &pb.Argument{Name: a.Name, Type: a.Type, Required: a.Required})
		}
		out.Commands = append(out.Commands, msg)
	}
	return out, nil
}

func (s *rpcServer) ScheduleJob(ctx context.Context, in *pb.ScheduleJobRequest) (*pb.ScheduleJobResponse, error) {
	env, err1 := s.store.Environment(in.Environment)
	payload, err2 := payloadMap(in.Payload)
	text, err3 := payloadJSON(payload)
	jitter, err4 := durationField("jitter", in.Jitter, 0, 0, maxJitter)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	sc, err := s.scheduler.Add(Schedule{Name: in.Name, CronExpr: in.CronExpr, Command: in.Command, Payload: text, Priority: in.Priority,
		Environment: env.Name, Missed: in.Missed, Overlap: in.Overlap, Jitter: jitter})
	return &pb.ScheduleJobResponse{ScheduleId: sc.ID, NextRunAt: timeText(sc.NextRunAt)}, err
}

func (s *rpcServer) UnscheduleJob(_ context.Context, in *pb.UnscheduleJobRequest) (*pb.UnscheduleJobResponse, error) {
	if in.ScheduleId == "" && in.Name == "" {
		return nil, errorf(codeInvalidArgument, "schedule_id or name: one is needed")
	}
	return &pb.UnscheduleJobResponse{}, s.store.RemoveSchedule(in.ScheduleId, in.Name)
}

func (s *rpcServer) ListSchedules(ctx context.Context, _ *pb.ListSchedulesRequest) (*pb.ListSchedulesResponse, error) {
	all, err := s.store.Schedules()
	out := &pb.ListSchedulesResponse{}
	for _, sc := range all {
		msg, bad := scheduleMessage(sc)
		out.Schedules, err = append(out.Schedules, msg), cmp.Or(err, bad)
	}
	return out, err
}

func scheduleMessage(sc Schedule) (*pb.Schedule, error) {
	out := &pb.Schedule{ScheduleId: sc.ID, Name: sc.Name, CronExpr: sc.CronExpr, Command: sc.Command, Payload: &structpb.Struct{},
		Enabled: sc.Enabled, CreatedAt: timeText(sc.CreatedAt), LastRunAt: timeText(sc.LastRunAt), NextRunAt: timeText(sc.NextRunAt),
		Priority: sc.Priority, Environment: sc.Environment, Missed: sc.Missed, Overlap: sc.Overlap, LastJobId: sc.LastJobID,
		LastJobStatus: sc.LastJobStatus}
	if sc.Jitter > 0 {
		out.Jitter = sc.Jitter.String()
	}
	return out, out.Payload.UnmarshalJSON(sc.Payload)
}

func (s *rpcServer) SetScheduleEnabled(_ context.Context, in *pb.SetScheduleEnabledRequest) (*pb.SetScheduleEnabledResponse, error) {
	sc, err1 := s.scheduler.SetEnabled(in.Name, in.Enabled)
	msg, err2 := scheduleMessage(sc)
	return &pb.SetScheduleEnabledResponse{Schedule: msg}, cmp.Or(err1, err2)
}

func (s *rpcServer) TriggerSchedule(ctx context.Context, in *pb.TriggerScheduleRequest) (*pb.TriggerScheduleResponse, error) {
	id, err := s.scheduler.Trigger(ctx, in.Name)
	return &pb.TriggerScheduleResponse{JobId: id}, err
}

func (s *rpcServer) PreviewSchedule(_ context.Context, in *pb.PreviewScheduleRequest) (*pb.PreviewScheduleResponse, error) {
	now, out := timeNow(), &pb.PreviewScheduleResponse{}
	expr, err := parseCron(in.CronExpr, time.Local, now)
	if err != nil {
		return nil, err
	}
	for t := expr.next(now, now); len(out.Times) < 5 && !t.IsZero(); t = expr.next(t, now) {
		out.Times = append(out.Times, timeText(t))
	}
	return out, nil
}
