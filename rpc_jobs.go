package main

// The RPCs about jobs and schedules, and the one way from a request to a job.

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

const maxKeyBytes = 255 // of an idempotency key

// newJob checks everything about a request and makes its job; nothing is stored yet.
func (s *rpcServer) newJob(ctx context.Context, c *Command, payload map[string]any, in *daemonpb.SubmitJobRequest) (*Job, error) {
	env, err := s.store.Environment(ctx, in.Environment)
	if err != nil {
		return nil, err
	}
	now := timeNow()
	j := &Job{Command: c.Name, Priority: in.Priority, Status: statusPending, MaxRetries: int32(s.cfg.Queue.MaxRetries), CreatedAt: now,
		UpdatedAt: now, Timeout: s.cfg.API.Timeout, Environment: env.Name, IdempotencyKey: in.IdempotencyKey}
	if in.MaxRetries != nil {
		if j.MaxRetries = *in.MaxRetries; j.MaxRetries < 0 || j.MaxRetries > maxRetriesLimit {
			return nil, errorf(codeInvalidArgument, "max_retries: %d is not in 0..%d", j.MaxRetries, maxRetriesLimit)
		}
	}
	if in.Timeout != "" {
		if j.Timeout, err = parseDuration(in.Timeout); err != nil || j.Timeout < time.Millisecond || j.Timeout > maxTimeout {
			return nil, errorf(codeInvalidArgument, "timeout: %q is not a duration between 1ms and 24h, such as 90s", in.Timeout)
		}
	}
	if in.RunAfter != "" {
		if j.NextAttemptAt, err = time.Parse(time.RFC3339, in.RunAfter); err != nil {
			return nil, errorf(codeInvalidArgument, "run_after: %q is not an RFC 3339 time such as 2026-01-02T15:04:05Z", in.RunAfter)
		}
		if year := j.NextAttemptAt.UTC().Year(); year < 1 || year > 9999 { // could not be read back
			return nil, errorf(codeInvalidArgument, "run_after: %q is not between the years 1 and 9999 in UTC", in.RunAfter)
		}
		j.NextAttemptAt = j.NextAttemptAt.Truncate(time.Millisecond)
	}
	if len(in.IdempotencyKey) > maxKeyBytes {
		return nil, errorf(codeInvalidArgument, "idempotency_key: longer than %d bytes", maxKeyBytes)
	}
	if err := c.Check(payload); err != nil {
		return nil, err
	}
	resolved, err := c.resolveDates(payload, now, time.Time{}, false)
	if err != nil {
		return nil, err
	}
	if j.Payload, err = payloadJSON(resolved); err != nil {
		return nil, err
	}
	if in.IdempotencyKey != "" {
		j.SubmittedPayload, err = payloadJSON(payload)
	}
	return j, err
}

func (s *rpcServer) jobOf(ctx context.Context, in *daemonpb.SubmitJobRequest) (*Job, error) {
	c, err := s.commands.Lookup(in.Command)
	if err != nil {
		return nil, err
	}
	if err := checkPayloadSize(in.Payload); err != nil {
		return nil, err
	}
	return s.newJob(ctx, c, in.Payload.AsMap(), in)
}

// checkPayloadSize refuses what is large as a message, though it may be small as JSON: it is sent back as one.
func checkPayloadSize(payload *structpb.Struct) error {
	if size := proto.Size(payload); size > 2*maxPayloadBytes {
		return errorf(codeInvalidArgument, "payload: %d bytes; at most %d are allowed", size, maxPayloadBytes)
	}
	return nil
}

func (s *rpcServer) SubmitJob(ctx context.Context, in *daemonpb.SubmitJobRequest) (*daemonpb.SubmitJobResponse, error) {
	j, err := s.jobOf(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := s.queue.Submit(j); err != nil {
		return nil, err
	}
	return &daemonpb.SubmitJobResponse{JobId: j.ID, Existing: j.Existing}, nil
}

func (s *rpcServer) SubmitJobs(ctx context.Context, in *daemonpb.SubmitJobsRequest) (*daemonpb.SubmitJobsResponse, error) {
	if len(in.Jobs) == 0 {
		return &daemonpb.SubmitJobsResponse{}, nil
	}
	jobs := make([]*Job, len(in.Jobs))
	for i, r := range in.Jobs {
		var err error
		if jobs[i], err = s.jobOf(ctx, r); err != nil {
			indexed := errorf(codeOf(err), "jobs[%d]: %s", i, toStatus(err).Message())
			if e, ok := errors.AsType[*Error](err); ok {
				indexed.Hint = e.Hint
			}
			return nil, indexed
		}
	}
	if err := s.queue.Submit(jobs...); err != nil {
		return nil, err
	}
	out := &daemonpb.SubmitJobsResponse{Jobs: make([]*daemonpb.SubmitJobResponse, len(jobs))}
	for i, j := range jobs {
		out.Jobs[i] = &daemonpb.SubmitJobResponse{JobId: j.ID, Existing: j.Existing}
	}
	return out, nil
}

func (s *rpcServer) CancelJob(_ context.Context, in *daemonpb.CancelJobRequest) (*daemonpb.CancelJobResponse, error) {
	if err := s.queue.Cancel(in.JobId); err != nil {
		return nil, err
	}
	return &daemonpb.CancelJobResponse{Status: statusCancelled}, nil
}

func (s *rpcServer) RetryJob(_ context.Context, in *daemonpb.RetryJobRequest) (*daemonpb.RetryJobResponse, error) {
	j, err := s.queue.Retry(in.JobId)
	if err != nil {
		return nil, err
	}
	return &daemonpb.RetryJobResponse{JobId: j.ID}, nil
}

func (s *rpcServer) GetJobStatus(_ context.Context, in *daemonpb.GetJobStatusRequest) (*daemonpb.JobStatus, error) {
	j, err := s.store.Job(in.JobId, maxAnswerBytes)
	if err != nil {
		return nil, err
	}
	if j.Status == statusPending {
		if r := s.queue.RunningJob(j.Seq); r != nil {
			j = r
		}
	}
	return jobStatus(j, true)
}

// jobStatus is a job on the wire. Its result is left out where the message would be too large.
func jobStatus(j *Job, withResult bool) (*daemonpb.JobStatus, error) {
	payload := &structpb.Struct{}
	if err := payload.UnmarshalJSON(j.Payload); err != nil {
		return nil, err
	}
	out := &daemonpb.JobStatus{
		JobId: j.ID, Command: j.Command, Payload: payload, Priority: j.Priority, Status: j.Status, Error: cutText(j.Error, 4*maxErrorTextInBytes),
		ErrorCode: j.ErrorCode, RetryCount: j.RetryCount, MaxRetries: j.MaxRetries, CreatedAt: timeText(j.CreatedAt),
		UpdatedAt: timeText(j.UpdatedAt), StartedAt: timeText(j.StartedAt), CompletedAt: timeText(j.CompletedAt),
		NextAttemptAt: timeText(j.NextAttemptAt), Environment: j.Environment, Schedule: j.Schedule,
		ResultBytes: max(j.ResultBytes, int64(len(j.Result))),
	}
	if withResult && out.ResultBytes > 0 {
		if out.ResultOmitted = int64(proto.Size(out))+out.ResultBytes > maxAnswerBytes; !out.ResultOmitted {
			out.Result = j.Result
		}
	}
	return out, nil
}

func (s *rpcServer) WatchJob(in *daemonpb.WatchJobRequest, out grpc.ServerStreamingServer[daemonpb.JobStatus]) error {
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
			if err != nil {
				return err
			}
			if err := out.Send(msg); err != nil || j.finished() {
				return err
			}
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func (s *rpcServer) GetJobResult(in *daemonpb.GetJobResultRequest, out grpc.ServerStreamingServer[daemonpb.ResultChunk]) error {
	j, err := s.store.Job(in.JobId, 1<<62)
	if err != nil {
		return err
	}
	if j.Status != statusCompleted {
		return errorf(codeFailedPrecondition, "job %s is %s and has no result", j.ID, j.Status).hint("wait for it with: honeydew job wait %s", j.ID)
	}
	for rest := j.Result; len(rest) > 0; {
		n := min(len(rest), chunkBytes)
		if err := out.Send(&daemonpb.ResultChunk{Data: []byte(rest[:n])}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (s *rpcServer) ListJobs(_ context.Context, in *daemonpb.ListJobsRequest) (*daemonpb.ListJobsResponse, error) {
	switch in.Status {
	case "", statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled:
	default:
		return nil, errorf(codeInvalidArgument, "status: %q; allowed: pending, running, completed, failed, cancelled", in.Status)
	}
	if in.Limit < 0 {
		return nil, errorf(codeInvalidArgument, "limit: %d; allowed: 1 to 1000", in.Limit)
	}
	before, err := parsePageToken(in.PageToken)
	if err != nil {
		return nil, err
	}
	limit := min(int(in.Limit), 1000)
	if limit == 0 {
		limit = 50
	}
	jobs, err := s.store.Jobs(JobFilter{Status: in.Status, Command: in.Command, Schedule: in.Schedule, Before: before, Limit: limit + 1,
		MaxBytes: maxAnswerBytes})
	if err != nil {
		return nil, err
	}
	out, size, payloads := &daemonpb.ListJobsResponse{}, 0, 0
	for i, j := range jobs {
		msg, err := jobStatus(j, false)
		if err != nil {
			return nil, err
		}
		size += proto.Size(msg) + 8
		payloads += len(j.Payload)
		if i == limit || (i > 0 && max(size, payloads) > maxAnswerBytes-1024) {
			out.NextPageToken = pageToken(jobs[i-1].Seq)
			break
		}
		out.Jobs = append(out.Jobs, msg)
	}
	return out, nil
}

func (s *rpcServer) ListCommands(context.Context, *daemonpb.ListCommandsRequest) (*daemonpb.ListCommandsResponse, error) {
	out := &daemonpb.ListCommandsResponse{}
	for _, c := range s.commands.All() {
		msg := &daemonpb.Command{Name: c.Name, Kind: "query", Description: c.Description}
		if c.Mutation {
			msg.Kind = "mutation"
		}
		for _, a := range c.Args {
			msg.Arguments = append(msg.Arguments, &daemonpb.Argument{Name: a.Name, Type: a.Type, Required: a.Required})
		}
		out.Commands = append(out.Commands, msg)
	}
	return out, nil
}

func (s *rpcServer) ScheduleJob(ctx context.Context, in *daemonpb.ScheduleJobRequest) (*daemonpb.ScheduleJobResponse, error) {
	env, err := s.store.Environment(ctx, in.Environment)
	if err != nil {
		return nil, err
	}
	if err := checkPayloadSize(in.Payload); err != nil {
		return nil, err
	}
	payload, err := payloadJSON(in.Payload.AsMap())
	if err != nil {
		return nil, err
	}
	sc := Schedule{Name: in.Name, CronExpr: in.CronExpr, Command: in.Command, Payload: payload, Priority: in.Priority, Environment: env.Name,
		Missed: in.Missed, Overlap: in.Overlap}
	if in.Jitter != "" {
		if sc.Jitter, err = parseDuration(in.Jitter); err != nil {
			return nil, errorf(codeInvalidArgument, "jitter: %w", err)
		}
	}
	if sc, err = s.scheduler.Add(ctx, sc); err != nil {
		return nil, err
	}
	return &daemonpb.ScheduleJobResponse{ScheduleId: sc.ID, NextRunAt: timeText(sc.NextRunAt)}, nil
}

func (s *rpcServer) UnscheduleJob(_ context.Context, in *daemonpb.UnscheduleJobRequest) (*daemonpb.UnscheduleJobResponse, error) {
	if in.ScheduleId == "" && in.Name == "" {
		return nil, errorf(codeInvalidArgument, "schedule_id or name: one is needed")
	}
	return &daemonpb.UnscheduleJobResponse{}, s.scheduler.Remove(in.ScheduleId, in.Name)
}

func (s *rpcServer) ListSchedules(ctx context.Context, _ *daemonpb.ListSchedulesRequest) (*daemonpb.ListSchedulesResponse, error) {
	all, err := s.store.Schedules(ctx)
	if err != nil {
		return nil, err
	}
	out := &daemonpb.ListSchedulesResponse{}
	for _, sc := range all {
		msg, err := scheduleMessage(sc)
		if err != nil {
			return nil, err
		}
		out.Schedules = append(out.Schedules, msg)
	}
	return out, nil
}

func scheduleMessage(sc Schedule) (*daemonpb.Schedule, error) {
	payload := &structpb.Struct{}
	if err := payload.UnmarshalJSON(sc.Payload); err != nil {
		return nil, err
	}
	out := &daemonpb.Schedule{ScheduleId: sc.ID, Name: sc.Name, CronExpr: sc.CronExpr, Command: sc.Command, Payload: payload, Enabled: sc.Enabled,
		CreatedAt: timeText(sc.CreatedAt), LastRunAt: timeText(sc.LastRunAt), NextRunAt: timeText(sc.NextRunAt), Priority: sc.Priority,
		Environment: sc.Environment, Missed: sc.Missed, Overlap: sc.Overlap, LastJobId: sc.LastJobID, LastJobStatus: sc.LastJobStatus}
	if sc.Jitter > 0 {
		out.Jitter = sc.Jitter.String()
	}
	return out, nil
}

func (s *rpcServer) SetScheduleEnabled(_ context.Context, in *daemonpb.SetScheduleEnabledRequest) (*daemonpb.SetScheduleEnabledResponse, error) {
	sc, err := s.scheduler.SetEnabled(in.Name, in.Enabled)
	if err != nil {
		return nil, err
	}
	msg, err := scheduleMessage(sc)
	return &daemonpb.SetScheduleEnabledResponse{Schedule: msg}, err
}

func (s *rpcServer) TriggerSchedule(ctx context.Context, in *daemonpb.TriggerScheduleRequest) (*daemonpb.TriggerScheduleResponse, error) {
	id, err := s.scheduler.Trigger(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return &daemonpb.TriggerScheduleResponse{JobId: id}, nil
}

func (s *rpcServer) PreviewSchedule(_ context.Context, in *daemonpb.PreviewScheduleRequest) (*daemonpb.PreviewScheduleResponse, error) {
	times, err := s.scheduler.Preview(in.CronExpr, 5)
	if err != nil {
		return nil, err
	}
	out := &daemonpb.PreviewScheduleResponse{}
	for _, t := range times {
		out.Times = append(out.Times, timeText(t))
	}
	return out, nil
}
