// Command sandbox is a Honeydew API for demonstrations and end-to-end tests. It executes the schema in
// queries/schema.graphql on the loopback interface: commits and clones come from real git repositories, everything
// else from a fixed calendar of made-up work, and it fails in every way a client must survive when it is told to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves until ctx ends and gives the exit code: 2 for a wrong flag, 1 for anything else that failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, addr, err := parseFlags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	if err := serve(ctx, o, addr, stdout); err != nil {
		fmt.Fprintln(stderr, "sandbox:", err)
		return 1
	}
	return 0
}

func parseFlags(args []string, stderr io.Writer) (o options, addr string, err error) {
	fs := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&addr, "addr", "127.0.0.1:8931", "loopback `address` to listen on; port 0 picks a free one")
	fs.StringVar(&o.Schema, "schema", "", "schema `file` (default queries/schema.graphql here or one folder up)")
	fs.StringVar(&o.Repos, "repos", "", "`folder` that is a git repository, or whose subfolders are (default this checkout)")
	fs.StringVar(&o.Clones, "clones", "", "`folder` for clones (default a temporary one, removed at the end)")
	fs.StringVar(&o.User, "user", "demo", "the `name` that may log in")
	fs.StringVar(&o.Password, "password", "demo", "and its `password`")
	fs.DurationVar(&o.AccessTTL, "access-ttl", 15*time.Minute, "life of an access token, in whole seconds")
	fs.DurationVar(&o.RefreshTTL, "refresh-ttl", 720*time.Hour, "life of a refresh token, in whole seconds")
	fs.StringVar(&o.AuthErrors, "auth-errors", "http", "a refused token is answered by `http` (401) or graphql (200, UNAUTHENTICATED)")
	fs.Uint64Var(&o.Seed, "seed", 1, "seed of the random faults")
	verbose := fs.Bool("v", false, "log one line per request to stderr")
	o.Faults.register(fs)
	if err := fs.Parse(args); err != nil {
		return o, addr, err
	}
	if err := checkFlags(fs, o, addr); err != nil {
		fmt.Fprintln(stderr, "sandbox:", err)
		return o, addr, err
	}
	o.Log = log.New(io.Discard, "", 0)
	if *verbose {
		o.Log = log.New(stderr, "sandbox: ", log.Ltime|log.Lmicroseconds|log.Lmsgprefix)
	}
	return o, addr, nil
}

func checkFlags(fs *flag.FlagSet, o options, addr string) error {
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	// The password is public, so nobody else on the network may reach this.
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if tcp.IP == nil || !tcp.IP.IsLoopback() {
		return fmt.Errorf("-addr: %s is not a loopback address", addr)
	}
	if o.AuthErrors != "http" && o.AuthErrors != "graphql" {
		return fmt.Errorf("-auth-errors: %q is neither http nor graphql", o.AuthErrors)
	}
	if o.AccessTTL <= 0 || o.RefreshTTL <= 0 {
		return errors.New("-access-ttl and -refresh-ttl must be above 0")
	}
	return o.Faults.check()
}

// serve fills in the defaults that need the file system, then answers requests until ctx ends.
func serve(ctx context.Context, o options, addr string, stdout io.Writer) error {
	sdl, err := readSchema(o.Schema)
	if err != nil {
		return err
	}
	o.Schema = sdl
	if o.Repos == "" {
		if o.Repos, err = checkout(ctx); err != nil {
			return fmt.Errorf("%w; name a folder of repositories with -repos", err)
		}
	}
	if o.Repos, err = filepath.Abs(o.Repos); err != nil {
		return err
	}
	if o.Clones == "" {
		if o.Clones, err = os.MkdirTemp("", "honeydew-sandbox-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.Clones)
	} else if err = os.MkdirAll(o.Clones, 0o700); err != nil {
		return err
	}
	if o.Clones, err = filepath.Abs(o.Clones); err != nil {
		return err
	}
	handler, err := newServer(o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	// A request's context ends with ctx: those that hang, wait or trickle would otherwise outlive the signal.
	srv := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
	}
	fmt.Fprintf(stdout, "sandbox: http://%s/graphql\n", l.Addr())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close()
	}
	<-done
	return nil
}

// readSchema reads the named file, or the one of the repository this runs in.
func readSchema(path string) (string, error) {
	candidates := []string{path}
	if path == "" {
		candidates = []string{filepath.Join("queries", "schema.graphql"), filepath.Join("..", "queries", "schema.graphql")}
	}
	var err error
	for _, p := range candidates {
		var b []byte
		if b, err = os.ReadFile(p); err == nil {
			return string(b), nil
		}
	}
	return "", fmt.Errorf("schema: %w; name it with -schema", err)
}
