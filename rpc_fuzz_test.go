package main

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"honeydew/daemonpb"
)

// FuzzSubmitRequest: bytes that are a request make a job that can be stored, or an error that clients can read.
func FuzzSubmitRequest(f *testing.F) {
	table, err := loadCommands(queries)
	if err != nil {
		f.Fatal(err)
	}
	s := &rpcServer{parts: parts{cfg: defaultConfig("/nowhere"), store: openTestStore(f), commands: table}}
	for _, in := range []*daemonpb.SubmitJobRequest{
		benchRequest(f), {Command: "github.commit"}, {Command: "account.me", RunAfter: "2026-01-02T15:04:05.9999999Z", Timeout: "1h", IdempotencyKey: "k"},
		{Command: "account.me", Environment: "\x00", Timeout: "-1s"},
	} {
		raw, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := &daemonpb.SubmitJobRequest{}
		if proto.Unmarshal(raw, in) != nil {
			return
		}
		j, err := s.jobOf(in)
		if err != nil {
			if code := codeOf(err); code == codeInternal || toStatus(err).Message() == "" {
				t.Errorf("%v is answered with %v", in, err)
			}
			return
		}
		if !json.Valid(j.Payload) || len(j.Payload) > maxPayloadBytes || j.Timeout < time.Millisecond || j.Environment == "" {
			t.Errorf("%v makes %+v", in, j)
		}
		if back, err := parseTimeText(timeText(j.NextAttemptAt)); err != nil || !back.Equal(j.NextAttemptAt) {
			t.Errorf("%v: next attempt at %s cannot be read back", in, j.NextAttemptAt)
		}
	})
}
