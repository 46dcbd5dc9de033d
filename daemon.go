package main

// The composition root: builds everything in order, and takes it down in order.
//
//	start: config, home, lock, log, database (recovering what was open), workers, schedules, socket, PID file, ready
//	stop:  sources (schedules, refreshes), requests, running jobs, database, socket and PID file, log, lock
//
// The whole of a stop takes at most daemon.shutdown_timeout: each step has its share, and a step that hangs does not
// keep the process alive.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"google.golang.org/grpc"
)

// Exit codes of the daemon; sysexits(3) where there is one.
const (
	exitAlreadyRunning = 5
	exitStorage        = 74 // EX_IOERR
	exitConfig         = 78 // EX_CONFIG
)

// exitError is an error that ends the process with a code of its own.
type exitError struct {
	code int
	error
}

func (e exitError) Unwrap() error { return e.error }

// DaemonOptions are the facts of the process that a daemon needs.
type DaemonOptions struct {
	Home, UserHome, ConfigFile, Version string
	Queries                             fs.FS
	Getenv                              func(string) string
	Stderr                              io.Writer
}

// Daemon is a running daemon.
type Daemon struct {
	DaemonOptions
	cfg        *Config
	lock       *instanceLock
	log        *slog.Logger
	logFile    *logFile
	store      *Store
	commands   *Commands
	client     *Client
	auth       *TokenSource
	queue      *Queue
	scheduler  *Scheduler
	listener   *net.UnixListener
	server     *grpc.Server
	setServing func(bool)
	forced     chan struct{} // closed by a Shutdown that does not wait for jobs
	forceOnce  sync.Once
	background sync.WaitGroup
}

// runDaemon runs the daemon until a signal, a Shutdown request or ctx ends it, and returns its error, an exitError
// where a code of its own belongs to it.
func runDaemon(ctx context.Context, o DaemonOptions) (err error) {
	d := &Daemon{DaemonOptions: o, forced: make(chan struct{})}
	ctx, stop := signal.NotifyContext(ctx, terminateSignals...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	signal.Ignore(ignoredSignals...)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := d.start(ctx, cancel); err != nil {
		cancel(nil) // what has begun must end before close can wait for it
		return errors.Join(err, d.close())
	}
	failed := make(chan error, 1)
	// Not one of those that close waits for: a connection that has not said a word keeps it for two minutes.
	go func() { failed <- d.server.Serve(d.listener) }()
	d.setServing(true)
	d.log.Info("daemon started", "version", o.Version, "pid", os.Getpid(), "socket", d.cfg.Daemon.SocketPath)
	if err := notifySystemd(o.Getenv("NOTIFY_SOCKET"), "READY=1"); err != nil {
		d.log.Warn("service manager could not be told", "error", err.Error())
	}
	select {
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			err = cause
		}
	case err = <-failed:
	case fatal := <-d.store.Fatal():
		err = exitError{exitStorage, storageError(fatal)}
		d.log.Error("the database is damaged; stopping", "error", fatal.Error())
	}
	cancel(nil)
	return errors.Join(err, d.stopWithin(d.cfg.Daemon.ShutdownTimeout))
}

func (d *Daemon) start(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	if err := hardenProcess(); err != nil {
		return fmt.Errorf("harden the process: %w", err)
	}
	if err := prepareHome(d.Home); err != nil {
		return exitError{exitConfig, fmt.Errorf("home: %w", err)}
	}
	if d.cfg, err = loadConfig(d.Home, d.ConfigFile, d.UserHome); err != nil {
		return exitError{exitConfig, err}
	}
	if err := checkSocketPath(d.cfg.Daemon.SocketPath); err != nil {
		return exitError{exitConfig, err}
	}
	if d.lock, err = lockInstance(lockPath(d.Home)); errors.Is(err, errAlreadyRunning) {
		return exitError{exitAlreadyRunning, err}
	} else if err != nil {
		return exitError{exitStorage, fmt.Errorf("lock: %w", err)}
	}
	if d.log, d.logFile, err = newLogger(d.cfg, d.Stderr); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if d.commands, err = loadCommands(d.Queries); err != nil {
		return err
	}
	if d.store, err = openStore(d.cfg.Storage.DatabasePath, d.cfg.Storage.Synchronous, d.cfg.API.GraphQLEndpoint); err != nil {
		return exitError{exitStorage, err}
	}
	if err := d.build(); err != nil {
		return err
	}
	d.queue.Start()
	d.background.Go(func() { d.scheduler.Run(ctx) })
	d.background.Go(func() { d.auth.Run(ctx) })
	d.background.Go(func() { d.retain(ctx) })
	if d.listener, err = listenSocket(d.cfg.Daemon.SocketPath); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := writePID(d.cfg.Daemon.PIDFile); err != nil {
		return exitError{exitStorage, fmt.Errorf("PID file: %w", err)}
	}
	d.server, d.setServing = newGRPCServer(&rpcServer{
		cfg: d.cfg, store: d.store, queue: d.queue, scheduler: d.scheduler, auth: d.auth, commands: d.commands, log: d.log,
		version: d.Version, startedAt: timeNow(), problems: d.problems,
		shutdown: func(force bool) {
			if force {
				d.forceOnce.Do(func() { close(d.forced) })
			}
			cancel(nil)
		},
	})
	return nil
}

// build makes the parts that stand between the store and the socket.
func (d *Daemon) build() (err error) {
	keys, err := newSealer(sealerOptions{Home: d.Home, Passphrase: d.Getenv("HONEYDEW_PASSPHRASE"),
		PassphraseFile: d.cfg.Auth.PassphraseFile, Store: d.store})
	if err != nil {
		return exitError{exitConfig, err}
	}
	d.client = newClient(d.Version, int64(d.cfg.API.MaxResponseMB)<<20, func(proxy string) { d.log.Info("using a proxy", "proxy", proxy) })
	d.auth = newTokenSource(tokenSourceOptions{Store: d.store, Client: d.client, Sealer: keys, Log: d.log, Timeout: d.cfg.API.Timeout,
		LoginQuery: d.commands.internal("auth.login").Query, RefreshQuery: d.commands.internal("auth.refresh").Query})
	d.queue, err = newQueue(QueueOptions{Store: d.store, Workers: d.cfg.Queue.Workers, ProviderLimit: d.cfg.Queue.ProviderLimit,
		MaxPending: d.cfg.Queue.MaxPending, Run: d.runJob, Log: d.log,
		Mutation: func(name string) bool { c, err := d.commands.Lookup(name); return err != nil || c.Mutation }})
	if err != nil {
		return exitError{exitStorage, err}
	}
	d.scheduler = newScheduler(SchedulerOptions{Store: d.store, Queue: d.queue, Commands: d.commands, Log: d.log,
		MaxRetries: int32(d.cfg.Queue.MaxRetries), Timeout: d.cfg.API.Timeout})
	return nil
}

// runJob carries out one attempt: the command's query, sent with the environment's token.
func (d *Daemon) runJob(ctx context.Context, j *Job) (result, partial string, err error) {
	c, err := d.commands.Lookup(j.Command)
	if err != nil {
		return "", "", &Error{Code: codeInternal, Message: "this version of honeydew has no command " + j.Command, Refused: true}
	}
	env, err := d.store.Environment(ctx, j.Environment)
	if codeOf(err) == codeNotFound {
		return "", "", &Error{Code: codeAPI, Message: "the environment " + j.Environment + " was removed", Refused: true}
	} else if err != nil {
		return "", "", attemptError(err)
	}
	var answer Answer
	err = d.auth.Do(ctx, env, func(token string, secrets []string) (err error) {
		answer, err = d.client.Do(ctx, Request{URL: env.BaseURL, Token: token, Secrets: secrets, Query: c.Query, Variables: j.Payload, Field: c.Field})
		return err
	})
	if err != nil {
		return "", "", attemptError(err)
	}
	if c.Mutation {
		if err := refusedPayload(answer.Data); err != nil {
			return "", "", err
		}
	}
	// The body is never written again, and may be large.
	return unsafe.String(unsafe.SliceData(answer.Data), len(answer.Data)), answer.Partial, nil
}

// attemptError is err, unless it is the database's: that is read for the environment and its token, before anything is
// sent, so another attempt can do no harm.
func attemptError(err error) error {
	if code := codeOf(err); code == codeStorageFailed || code == codeStorageFull {
		return &Error{Code: codeInternal, Message: err.Error(), Retry: true, Unsent: true, Cause: err}
	}
	return err
}

// refusedPayload finds the API's own no inside a mutation's payload.
func refusedPayload(data []byte) error {
	var payload struct {
		Success *bool
		Error   string
	}
	if json.Unmarshal(data, &payload) != nil || payload.Success == nil || *payload.Success {
		return nil
	}
	message := cutText(payload.Error, maxErrorTextInBytes)
	if message == "" {
		message = "the API reports no success, and no reason"
	}
	return &Error{Code: codeAPI, Message: message, Refused: true}
}

// retain removes old jobs, at the start and every hour.
func (d *Daemon) retain(ctx context.Context) {
	if d.cfg.Storage.Retention == 0 {
		return
	}
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		n, err := d.store.Prune(ctx, timeNow().Add(-d.cfg.Storage.Retention), false)
		if err != nil && ctx.Err() == nil {
			d.log.Error("old jobs could not be removed", "error", err.Error())
		} else if n > 0 {
			d.log.Info("old jobs removed", "jobs", n)
		}
		select {
		case <-hourly.C:
		case <-ctx.Done():
			return
		}
	}
}

// problems lists what is degraded at the moment.
func (d *Daemon) problems() (all []string) {
	if p := d.store.Problem(); p != "" {
		all = append(all, "database: "+p)
	}
	if n := d.queue.State("").Failing; n > 0 {
		all = append(all, fmt.Sprintf("database: %d results wait to be stored, and no job is started", n))
	}
	if p := d.logFile.Problem(); p != "" {
		all = append(all, "log: "+p)
	}
	return all
}

// stopWithin takes the daemon down, and gives up waiting when the time is over.
func (d *Daemon) stopWithin(limit time.Duration) error {
	d.log.Info("daemon stopping")
	if err := notifySystemd(d.Getenv("NOTIFY_SOCKET"), "STOPPING=1"); err != nil {
		d.log.Warn("service manager could not be told", "error", err.Error())
	}
	done := make(chan error, 1)
	go func() { done <- d.stop(limit) }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return errors.New("the stop took too long and was cut short; nothing acked is lost")
	}
}

func (d *Daemon) stop(limit time.Duration) error {
	drain, cancel := context.WithTimeout(context.Background(), limit*7/10)
	defer cancel()
	go func() {
		select {
		case <-d.forced:
			cancel()
		case <-drain.Done():
		}
	}()
	d.setServing(false)
	d.queue.Stop()
	stopServer(d.server, limit/10)
	d.queue.Drain(drain, limit/10)
	return d.close()
}

// stopServer lets requests end, and cuts off those that do not.
func stopServer(server *grpc.Server, patience time.Duration) {
	done := make(chan struct{})
	go func() { server.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		go server.Stop()
		select {
		case <-done:
		case <-time.After(patience):
		}
	}
}

// close releases whatever start got hold of, in reverse order.
func (d *Daemon) close() error {
	var errs []error
	if d.listener != nil {
		errs = append(errs, ignoreGone(d.listener.Close()))
	}
	if d.queue != nil && d.server == nil { // the start failed half-way
		d.queue.Stop()
		drain, cancel := context.WithCancel(context.Background())
		cancel()
		d.queue.Drain(drain, time.Second)
	}
	d.background.Wait()
	if d.auth != nil {
		d.auth.Close()
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.listener != nil {
		errs = append(errs, ignoreGone(os.Remove(d.cfg.Daemon.SocketPath)), ignoreGone(os.Remove(d.cfg.Daemon.PIDFile)))
	}
	if d.logFile != nil {
		d.log.Info("daemon stopped")
		errs = append(errs, d.logFile.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.release())
	}
	return errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// defaultHome is $HONEYDEW_HOME, else ~/.honeydew.
func defaultHome(getenv func(string) string, userHome string) string {
	if home := getenv("HONEYDEW_HOME"); home != "" {
		if abs, err := filepath.Abs(expandPath(home, userHome)); err == nil {
			return abs
		}
		return home
	}
	return filepath.Join(userHome, ".honeydew")
}
