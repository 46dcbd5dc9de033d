package main

// Waiting for jobs, and how they ended.

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

// wait follows a job to its end and returns it.
func (c *cli) wait(ctx context.Context, id string) (*daemonpb.JobStatus, error) {
	in := &daemonpb.WatchJobRequest{JobId: id}
	var job *daemonpb.JobStatus
	err := stream(ctx, c, watchTimeout, c.client.WatchJob, in, func(now *daemonpb.JobStatus) error {
		if job == nil && now.Status == statusPending {
			c.notePaused(ctx)
		}
		job = now
		return nil
	})
	switch {
	case err == nil && job.ResultOmitted: // a watch has small results alone
		return c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: id})
	case err == nil:
		return job, nil
	case errors.Is(ctx.Err(), context.Canceled):
		c.note("interrupted; job %s goes on, wait for it with: honeydew job wait %s", id, id)
		return nil, exitError{exitInterrupted, errSaid}
	case status.Code(err) == codes.DeadlineExceeded && job != nil:
		return c.wait(ctx, id)
	case status.Code(err) == codes.Unavailable:
		c.note("job %s is kept, and goes on when the daemon runs again", id)
	}
	return nil, err
}

// notePaused tells somebody who waits for a job that the queue is paused.
func (c *cli) notePaused(ctx context.Context) {
	s, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	if err == nil && s.QueuePaused {
		c.note("the queue is paused; resume it with: honeydew queue resume")
	}
}

// waitAll waits for jobs and prints how they ended; the first that did not complete is the error.
func (c *cli) waitAll(ctx context.Context, ids []string) error {
	var jobs []*daemonpb.JobStatus
	var failed error
	for _, id := range ids {
		job, err := c.wait(ctx, id)
		if err != nil {
			return err
		}
		jobs = append(jobs, job)
		if job.Status != statusCompleted && failed == nil {
			failed = jobError(job)
		}
	}
	for _, j := range jobs {
		outcome := ""
		switch {
		case j.Error != "":
			outcome = ": " + j.Error
		case j.Status == statusCompleted:
			outcome = ", " + resultText(j)
		}
		c.stateLine(j.Status, "job %s (%s) %s%s", j.JobId, j.Command, j.Status, outcome)
	}
	var err error
	if len(jobs) == 1 {
		err = c.document(jobs[0])
	} else {
		err = c.document(&daemonpb.ListJobsResponse{Jobs: jobs})
	}
	return errors.Join(failed, err)
}

// jobError is the end of a job that did not complete.
func jobError(j *daemonpb.JobStatus) error {
	if j.Error == "" {
		return errorf(j.ErrorCode, "job %s was %s", j.JobId, j.Status)
	}
	return errorf(j.ErrorCode, "job %s %s: %s", j.JobId, j.Status, j.Error)
}
