package main

// How a job's result looks.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"

	"honeydew/daemonpb"
)

func (c *cli) jobResult(ctx context.Context, args []string) error {
	job, err := c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: args[0]})
	if err != nil {
		return err
	}
	return c.printResult(ctx, job)
}

// printResult prints a completed job's result, byte for byte unless a person looks at it.
func (c *cli) printResult(ctx context.Context, job *daemonpb.JobStatus) error {
	switch job.Status {
	case statusPending, statusRunning:
		return errorf(codeFailedPrecondition, "job %s is %s and has no result yet", job.JobId, job.Status).
			hint("wait for it with: honeydew job wait %s", job.JobId)
	case statusFailed, statusCancelled:
		return jobError(job)
	}
	var whole bytes.Buffer
	var out io.Writer = c.out
	forPerson := c.terminal && !c.json
	if forPerson {
		out = &whole
	}
	in := &daemonpb.GetJobResultRequest{JobId: job.JobId}
	err := stream(ctx, c, longTimeout, c.client.GetJobResult, in, func(chunk *daemonpb.ResultChunk) error {
		_, err := out.Write(chunk.Data)
		return err
	})
	if err != nil {
		return err
	}
	if forPerson {
		c.printf("%s", indented(whole.Bytes()))
	} else {
		fmt.Fprintln(c.out)
	}
	if job.ErrorCode == codePartial {
		c.note("warning: the result is incomplete: %s", neutral(job.Error))
	}
	return nil
}

// indented is a JSON result for a terminal: in lines, and without the control characters that JSON lets pass (C1,
// bidi).
func indented(text []byte) string {
	var out bytes.Buffer
	err := json.Indent(&out, text, "", "  ")
	if err != nil {
		return neutral(string(text))
	}
	return neutralised(out.String(), "\n", utf8.RuneError)
}
