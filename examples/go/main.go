// Command go submits a command to the honeydew daemon, waits for it and prints the result: a start for a client of
// your own. Usage: go run . COMMAND KEY=VALUE...
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: go run . COMMAND KEY=VALUE...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2:]); err != nil {
		// Match on the reason, never on text.
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == "honeydew" {
				log.Print("reason: ", info.Reason)
			}
		}
		log.Fatal(err)
	}
}

func run(ctx context.Context, command string, words []string) error {
	conn, err := grpc.NewClient("passthrough:///daemon", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket())
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	daemon := daemonpb.NewDaemonClient(conn)

	payload := map[string]any{}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		payload[key] = value
	}
	fields, err := structpb.NewStruct(payload)
	if err != nil {
		return err
	}
	job, err := daemon.SubmitJob(ctx, &daemonpb.SubmitJobRequest{Command: command, Payload: fields})
	if err != nil {
		return err
	}
	watch, err := daemon.WatchJob(ctx, &daemonpb.WatchJobRequest{JobId: job.JobId})
	if err != nil {
		return err
	}
	for {
		state, err := watch.Recv()
		if err != nil {
			return err
		}
		log.Printf("job %s is %s", state.JobId, state.Status)
		if state.CompletedAt == "" {
			continue
		}
		if state.Status != "completed" {
			return errors.New(state.Error)
		}
		return printResult(ctx, daemon, state.JobId)
	}
}

// printResult streams the result, which may be larger than a gRPC message.
func printResult(ctx context.Context, daemon daemonpb.DaemonClient, id string) error {
	chunks, err := daemon.GetJobResult(ctx, &daemonpb.GetJobResultRequest{JobId: id})
	if err != nil {
		return err
	}
	for {
		chunk, err := chunks.Recv()
		if errors.Is(err, io.EOF) {
			fmt.Println()
			return nil
		} else if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(chunk.Data); err != nil {
			return err
		}
	}
}

func socket() string {
	if path := os.Getenv("HONEYDEW_SOCKET"); path != "" {
		return path
	}
	home := os.Getenv("HONEYDEW_HOME")
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			log.Fatal(err)
		}
		home = filepath.Join(user, ".honeydew")
	}
	return filepath.Join(home, "daemon.sock")
}
