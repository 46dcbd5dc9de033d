package main

// The RPCs about jobs and schedules, and the one way from a request to a job.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "honeydew/daemonpb"
)

const (
	maxKeyBytes  = 255       // of an idempotency key
	watchedBytes = 256 << 10 // of a result in a watch; a larger one is left out
	partBytes    = 8 << 20   // of a result that are read at once
	pageMark     = "before-" // of a page token; behind it is the place of the last job of the page before
	// scheduleRetries is how often a schedule's job is tried again: an outage of some minutes costs no run.
	scheduleRetries = 12
)

// jobOf checks everything about a request and makes its job; nothing is stored yet.
func (s *rpcServer) jobOf(in *pb.SubmitJobRequest) (*Job, error) {
	env, err := s.store.Environment(in.Environment)
	if err != nil {
		return nil, err
	}
	payload, err := payloadMap(in.Payload)
	if err != nil {
		return nil, err
	}
	j := &Job{
		Command:        in.Command,
		Priority:       in.Priority,
		CreatedAt:      timeNow(),
		Environment:    env.Name,
		IdempotencyKey: in.IdempotencyKey,
	}
	if err := s.fill(j, payload, time.Time{}); err != nil {
		return nil, err
	}
	j.Timeout, err = timeoutField(in.Timeout, j.Timeout)
	if err != nil {
		return nil, err
	}
	j.MaxRetries, err = retriesField(in.MaxRetries, j.MaxRetries)
	if err != nil {
		return nil, err
	}
	j.NextAttemptAt, err = runAfterField(in.RunAfter)
	if err != nil {
		return nil, err
	}
	if len(in.IdempotencyKey) > maxKeyBytes {
		return nil, badField("idempotency key", in.IdempotencyKey, fmt.Sprintf("at most %d bytes", maxKeyBytes))
	}
	if in.IdempotencyKey != "" {
		j.SubmittedPayload, err = payloadJSON(payload)
	}
	return j, err
}

// runAfterField reads run_after. A year that timeText does not write could not be read back.
func runAfterField(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	year := at.UTC().Year()
	if err != nil || year < 1 || year > 9999 {
		return time.Time{}, badField("run after", text, "a time such as 2026-01-31T15:04:05Z")
	}
	return at.Truncate(time.Millisecond), nil
}

// payloadMap refuses what is large as a message, though it may be small as JSON: it is sent back as one.
func payloadMap(payload *structpb.Struct) (map[string]any, error) {
	if size := proto.Size(payload); size > 2*maxPayloadBytes {
		return nil, tooLarge(size)
	}
	return payload.AsMap(), nil
}

func (s *rpcServer) SubmitJob(
	_ context.Context,
	in *pb.SubmitJobRequest,
) (*pb.SubmitJobResponse, error) {
	j, err := s.jobOf(in)
	if err != nil {
		return nil, err
	}
	stored, err := s.queue.Submit(j)
	if err != nil {
		return nil, err
	}
	return submitted(stored[0]), nil
}

func (s *rpcServer) SubmitJobs(
	_ context.Context,
	in *pb.SubmitJobsRequest,
) (*pb.SubmitJobsResponse, error) {
	var jobs []*Job
	for i, request := range in.Jobs {
		j, err := s.jobOf(request)
		if e, ok := errors.AsType[*Error](err); ok {
			return nil, errorf(e.Code, "job %d of the batch: %s", i+1, e.Message).hint("%s", e.Hint)
		}
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	stored, err := s.queue.Submit(jobs...)
	out := &pb.SubmitJobsResponse{}
	for _, j := range stored {
		out.Jobs = append(out.Jobs, submitted(j))
	}
	return out, err
}

func submitted(j *Job) *pb.SubmitJobResponse {
	return &pb.SubmitJobResponse{JobId: j.ID, Existing: j.Existing}
}

func (s *rpcServer) CancelJob(
	_ context.Context,
	in *pb.CancelJobRequest,
) (*pb.CancelJobResponse, error) {
	err := s.queue.Cancel(in.JobId)
	if errors.Is(err, errNotOpen) {
		return nil, errorf(codeFailedPrecondition, "job %s has ended already", in.JobId).
			hint("look at it with: honeydew job show %s", in.JobId)
	}
	return &pb.CancelJobResponse{Status: statusCancelled}, err
}

func (s *rpcServer) RetryJob(
	_ context.Context,
	in *pb.RetryJobRequest,
) (*pb.RetryJobResponse, error) {
	j, err := s.queue.Retry(in.JobId)
	if err != nil {
		return nil, err
	}
	return &pb.RetryJobResponse{JobId: j.ID}, nil
}

func (s *rpcServer) GetJobStatus(
	_ context.Context,
	in *pb.GetJobStatusRequest,
) (*pb.JobStatus, error) {
	seq, err := s.store.JobSeq(in.JobId)
	if err != nil {
		return nil, err
	}
	// First the queue: what the store says may be from before a start, though never from before an end.
	j := s.queue.RunningJob(seq)
	if j == nil {
		j, err = s.store.JobBySeq(seq, maxAnswerBytes)
	}
	if err != nil {
		return nil, err
	}
	return jobStatus(j, true)
}

// jobStatus is a job on the wire. Its result is left out where the message would be too large.
func jobStatus(j *Job, withResult bool) (*pb.JobStatus, error) {
	out := &pb.JobStatus{
		JobId:         j.ID,
		Command:       j.Command,
		Payload:       &structpb.Struct{},
		Priority:      j.Priority,
		Status:        j.Status,
		Error:         cutText(j.Error, 4*maxErrorTextInBytes),
		ErrorCode:     j.ErrorCode,
		RetryCount:    j.RetryCount,
		MaxRetries:    j.MaxRetries,
		CreatedAt:     timeText(j.CreatedAt),
		UpdatedAt:     timeText(j.UpdatedAt),
		StartedAt:     timeText(j.StartedAt),
		CompletedAt:   timeText(j.CompletedAt),
		NextAttemptAt: timeText(j.NextAttemptAt),
		Environment:   j.Environment,
		Schedule:      j.Schedule,
		ResultBytes:   max(j.ResultBytes, int64(len(j.Result))),
		RetriedBy:     j.RetriedBy,
	}
	err := out.Payload.UnmarshalJSON(j.Payload)
	if withResult && out.ResultBytes > 0 {
		out.ResultOmitted = j.Result == "" || int64(proto.Size(out))+out.ResultBytes > maxAnswerBytes
		if !out.ResultOmitted {
			out.Result = j.Result
		}
	}
	return out, err
}

func (s *rpcServer) WatchJob(
	in *pb.WatchJobRequest,
	out grpc.ServerStreamingServer[pb.JobStatus],
) error {
	w, err := s.queue.Watch(in.JobId)
	if err != nil {
		return err
	}
	defer s.queue.Unwatch(w)
	for {
		select {
		case j, ok := <-w.C:
			if !ok {
				return errorf(codeShuttingDown, "the daemon is stopping, or this client reads too slowly").
					hint("ask again")
			}
			if j.finished() {
				return s.sendEnd(j, out)
			}
			if err := sendStatus(j, false, out); err != nil {
				return err
			}
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func sendStatus(j *Job, withResult bool, out grpc.ServerStreamingServer[pb.JobStatus]) error {
	msg, err := jobStatus(j, withResult)
	if err != nil {
		return err
	}
	return out.Send(msg)
}

// sendEnd sends the last message of a watch. It has the result only where that is small: gRPC keeps a message whole
// until the client reads it.
func (s *rpcServer) sendEnd(j *Job, out grpc.ServerStreamingServer[pb.JobStatus]) error {
	j, err := s.store.JobBySeq(j.Seq, watchedBytes)
	if err != nil {
		return err
	}
	return sendStatus(j, true, out)
}

// GetJobResult reads a result part by part: a client that does not go on reading keeps no more than one in memory.
func (s *rpcServer) GetJobResult(
	in *pb.GetJobResultRequest,
	out grpc.ServerStreamingServer[pb.ResultChunk],
) error {
	j, err := s.store.Job(in.JobId, 0)
	if err != nil {
		return err
	}
	if j.Status != statusCompleted {
		return errorf(codeFailedPrecondition, "job %s is %s and has no result", j.ID, j.Status).
			hint("see how it stands with: honeydew job show %s", j.ID)
	}
	for from := int64(0); from < j.ResultBytes; from += partBytes {
		s.reading.Lock()
		part, err := s.store.ResultPart(j.Seq, from, partBytes)
		s.reading.Unlock()
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(part, chunkBytes) {
			err := out.Send(&pb.ResultChunk{Data: chunk})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// filterOf checks a list's request; Limit is what the caller asked for, and MaxBytes that of a page.
func filterOf(in *pb.ListJobsRequest, now time.Time) (f JobFilter, err error) {
	f = JobFilter{
		Status:    in.Status,
		Command:   in.Command,
		Schedule:  in.Schedule,
		ErrorCode: in.ErrorCode,
		Unretried: in.Unretried,
		Limit:     cmp.Or(min(int(in.Limit), 1000), 50),
		MaxBytes:  maxAnswerBytes,
	}
	if in.Limit < 0 {
		return f, invalidf("limit: %d is not allowed; allowed: 1 to 1000", in.Limit)
	}
	err = oneOf("status", in.Status, statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled)
	if err != nil {
		return f, err
	}
	err = oneOf("error code", in.ErrorCode, jobCodes()...)
	if err != nil {
		return f, err
	}
	if in.PageToken != "" {
		place, ours := strings.CutPrefix(in.PageToken, pageMark)
		f.Before, err = strconv.ParseInt(place, 36, 64)
		if !ours || err != nil || f.Before < 0 {
			return f, badField("page token", in.PageToken, "the one that the page before ends with")
		}
	}
	if in.Since != "" {
		resolved, ok := resolveDate(in.Since, now)
		if !ok {
			return f, noDate("since", in.Since, allowedDates)
		}
		f.Since = instant(resolved, now.Location())
	}
	return f, nil
}

func (s *rpcServer) ListJobs(
	_ context.Context,
	in *pb.ListJobsRequest,
) (*pb.ListJobsResponse, error) {
	filter, err := filterOf(in, timeNow())
	if err != nil {
		return nil, err
	}
	limit := filter.Limit
	filter.Limit++ // the next one tells whether there is another page
	jobs, err := s.store.Jobs(filter)
	if err != nil {
		return nil, err
	}
	if len(jobs) == 0 {
		return &pb.ListJobsResponse{}, s.checkNames(filter)
	}
	out := &pb.ListJobsResponse{}
	size, payloads := 0, 0
	for i, j := range jobs {
		msg, err := jobStatus(j, false)
		if err != nil {
			return nil, err
		}
		size += proto.Size(msg) + 8
		payloads += len(j.Payload)
		if i == limit || (i > 0 && max(size, payloads) > maxAnswerBytes-1024) {
			out.NextPageToken = pageMark + strconv.FormatInt(jobs[i-1].Seq, 36)
			break
		}
		out.Jobs = append(out.Jobs, msg)
	}
	return out, nil
}

// checkNames refuses the names in the filter of an empty list that are none: no job bears them either, so they are not
// those of a schedule that was removed, or of a command of an earlier release.
func (s *rpcServer) checkNames(f JobFilter) error {
	if f.Command != "" {
		_, unknown := s.commands.Lookup(f.Command)
		if err := s.unlessUsed(unknown, JobFilter{Command: f.Command}); err != nil {
			return err
		}
	}
	if f.Schedule == "" {
		return nil
	}
	_, unknown := s.store.Schedule(f.Schedule)
	return s.unlessUsed(unknown, JobFilter{Schedule: f.Schedule})
}

// unlessUsed is the refusal of a name, but nil where the filter finds a job of it.
func (s *rpcServer) unlessUsed(refusal error, f JobFilter) error {
	if refusal == nil {
		return nil
	}
	f.Limit = 1
	jobs, err := s.store.Jobs(f)
	if err != nil || len(jobs) > 0 {
		return err
	}
	return refusal
}

func (s *rpcServer) ListCommands(
	context.Context,
	*pb.ListCommandsRequest,
) (*pb.ListCommandsResponse, error) {
	out := &pb.ListCommandsResponse{}
	for _, c := range s.commands.All() {
		msg := &pb.Command{
			Name:        c.Name,
			Kind:        "query",
			Description: c.Description,
		}
		if c.Mutation {
			msg.Kind = "mutation"
		}
		for _, a := range c.Args {
			msg.Arguments = append(msg.Arguments, &pb.Argument{
				Name:     a.Name,
				Type:     a.Type,
				Required: a.Required,
			})
		}
		out.Commands = append(out.Commands, msg)
	}
	return out, nil
}

func (s *rpcServer) ScheduleJob(
	_ context.Context,
	in *pb.ScheduleJobRequest,
) (*pb.ScheduleJobResponse, error) {
	env, err := s.store.Environment(in.Environment)
	if err != nil {
		return nil, err
	}
	payload, err := payloadMap(in.Payload)
	if err != nil {
		return nil, err
	}
	text, err := payloadJSON(payload)
	if err != nil {
		return nil, err
	}
	jitter, err := durationField("jitter", in.Jitter, 0, 0, maxJitter)
	if err != nil {
		return nil, err
	}
	timeout, err := timeoutField(in.Timeout, s.cfg.API.Timeout)
	if err != nil {
		return nil, err
	}
	usual := max(scheduleRetries, int32(s.cfg.Queue.MaxRetries))
	retries, err := retriesField(in.MaxRetries, usual)
	if err != nil {
		return nil, err
	}
	sc, err := s.scheduler.Add(Schedule{
		Name:        in.Name,
		CronExpr:    in.CronExpr,
		Command:     in.Command,
		Payload:     text,
		Priority:    in.Priority,
		Environment: env.Name,
		Missed:      in.Missed,
		Overlap:     in.Overlap,
		Jitter:      jitter,
		MaxRetries:  retries,
		Timeout:     timeout,
	}, in.Replace)
	if err != nil {
		return nil, err
	}
	return &pb.ScheduleJobResponse{ScheduleId: sc.ID, NextRunAt: timeText(sc.NextRunAt)}, nil
}

// timeoutField reads timeout; what is not given is fallback.
func timeoutField(text string, fallback time.Duration) (time.Duration, error) {
	return durationField("timeout", text, fallback, time.Millisecond, maxTimeout)
}

// retriesField reads max_retries; what is not given is fallback.
func retriesField(given *int32, fallback int32) (int32, error) {
	if given == nil {
		return fallback, nil
	}
	if *given < 0 || *given > maxRetriesLimit {
		return 0, invalidf("max retries: %d is not allowed; allowed: 0 to %d", *given, maxRetriesLimit)
	}
	return *given, nil
}

func (s *rpcServer) UnscheduleJob(
	_ context.Context,
	in *pb.UnscheduleJobRequest,
) (*pb.UnscheduleJobResponse, error) {
	if in.ScheduleId == "" && in.Name == "" {
		return nil, invalidf("the schedule's name or id is missing").hint("list them with: honeydew schedule list")
	}
	return &pb.UnscheduleJobResponse{}, s.store.RemoveSchedule(in.ScheduleId, in.Name)
}

func (s *rpcServer) ListSchedules(
	context.Context,
	*pb.ListSchedulesRequest,
) (*pb.ListSchedulesResponse, error) {
	all, err := s.store.Schedules()
	if err != nil {
		return nil, err
	}
	out := &pb.ListSchedulesResponse{}
	for _, sc := range all {
		msg, err := scheduleMessage(sc)
		if err != nil {
			return nil, err
		}
		out.Schedules = append(out.Schedules, msg)
	}
	if proto.Size(out) > maxAnswerBytes {
		for _, msg := range out.Schedules {
			shorten(structpb.NewStructValue(msg.Payload))
		}
	}
	return out, nil
}

// shorten cuts what is long in v: clients refuse large messages.
func shorten(v *structpb.Value) {
	const longestText, longestList = 100, 10
	switch kind := v.Kind.(type) {
	case *structpb.Value_StringValue:
		kind.StringValue = cutText(kind.StringValue, longestText)
	case *structpb.Value_ListValue:
		values := kind.ListValue.Values
		kind.ListValue.Values = values[:min(len(values), longestList)]
		for _, value := range kind.ListValue.Values {
			shorten(value)
		}
	case *structpb.Value_StructValue:
		for _, value := range kind.StructValue.Fields {
			shorten(value)
		}
	}
}

func scheduleMessage(sc Schedule) (*pb.Schedule, error) {
	out := &pb.Schedule{
		ScheduleId:    sc.ID,
		Name:          sc.Name,
		CronExpr:      sc.CronExpr,
		Command:       sc.Command,
		Payload:       &structpb.Struct{},
		Enabled:       sc.Enabled,
		CreatedAt:     timeText(sc.CreatedAt),
		LastRunAt:     timeText(sc.LastRunAt),
		NextRunAt:     timeText(sc.NextRunAt),
		Priority:      sc.Priority,
		Environment:   sc.Environment,
		Missed:        sc.Missed,
		Overlap:       sc.Overlap,
		LastJobId:     sc.LastJobID,
		LastJobStatus: sc.LastJobStatus,
		MaxRetries:    sc.MaxRetries,
		Timeout:       sc.Timeout.String(),
	}
	if sc.Jitter > 0 {
		out.Jitter = sc.Jitter.String()
	}
	return out, out.Payload.UnmarshalJSON(sc.Payload)
}

func (s *rpcServer) SetScheduleEnabled(
	_ context.Context,
	in *pb.SetScheduleEnabledRequest,
) (*pb.SetScheduleEnabledResponse, error) {
	sc, err := s.scheduler.SetEnabled(in.Name, in.Enabled)
	if err != nil {
		return nil, err
	}
	msg, err := scheduleMessage(sc)
	return &pb.SetScheduleEnabledResponse{Schedule: msg}, err
}

func (s *rpcServer) TriggerSchedule(
	_ context.Context,
	in *pb.TriggerScheduleRequest,
) (*pb.TriggerScheduleResponse, error) {
	id, err := s.scheduler.Trigger(in.Name)
	return &pb.TriggerScheduleResponse{JobId: id}, err
}

func (s *rpcServer) PreviewSchedule(
	_ context.Context,
	in *pb.PreviewScheduleRequest,
) (*pb.PreviewScheduleResponse, error) {
	now := timeNow()
	expr, err := parseCron(in.CronExpr, time.Local, now)
	if err != nil {
		return nil, err
	}
	out := &pb.PreviewScheduleResponse{}
	t := expr.next(now, now)
	for len(out.Times) < 5 && !t.IsZero() {
		out.Times = append(out.Times, timeText(t))
		t = expr.next(t, now)
	}
	return out, nil
}
