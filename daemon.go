package main

// The composition root: builds everything in order, and takes it down in the opposite order.
//
//	start: config, home, lock, log, PID file, database (recovering what was open), socket, workers, schedules, ready
//	stop:  sources (schedules, refreshes), requests, running jobs, database, socket and PID file, log, lock
//
// What the start does leaves behind what undoes it (Daemon.later); a stop, also that of a start that failed half-way, does
// these, last first. The whole of it takes at most daemon.shutdown_timeout: each step has its share, and a step that hangs
// does not keep the process alive.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unsafe"
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
	parts
	scheduler  *Scheduler
	client     *Client
	logFile    *logFile
	background sync.WaitGroup
	failed     chan error         // by a server that ended by itself
	undo       []func() error     // what the stop does, last first
	end        context.CancelFunc // ends the daemon
	force      context.CancelFunc // lets its stop wait for no job: ends forced
	forced     context.Context
	patience   context.Context // of a stop: until it ends, jobs may run to their end
}

// runDaemon runs the daemon until a signal, a Shutdown request or ctx ends it, and returns its error, an exitError
// where a code of its own belongs to it.
func runDaemon(ctx context.Context, o DaemonOptions) error {
	d := &Daemon{DaemonOptions: o, parts: parts{cfg: defaultConfig(o.Home)}, failed: make(chan error, 1)}
	ctx, d.end = signal.NotifyContext(ctx, terminateSignals...)
	defer d.end()
	context.AfterFunc(ctx, d.end) // a second signal ends the process at once
	signal.Ignore(ignoredSignals...)
	d.forced, d.force = context.WithCancel(context.Background())
	defer d.force()
	err := d.start(ctx)
	if err == nil {
		d.log.Info("daemon started", "version", o.Version, "pid", os.Getpid(), "socket", d.cfg.Daemon.SocketPath)
		d.tellManager("READY=1")
		select {
		case <-ctx.Done():
		case err = <-d.failed:
		case fatal := <-d.store.Fatal():
			err = exitError{exitStorage, storageError(fatal)}
			d.log.Error("the database is damaged; stopping", "error", fatal.Error())
		}
		d.log.Info("daemon stopping")
		d.tellManager("STOPPING=1")
	}
	d.end() // what has begun must end before the stop can wait for it
	return errors.Join(err, d.stop())
}

// tellManager tells the service manager of a change of state.
func (d *Daemon) tellManager(state string) {
	if err := notifySystemd(d.Getenv("NOTIFY_SOCKET"), state); err != nil {
		d.log.Warn("service manager could not be told", "error", err.Error())
	}
}

// start builds and starts everything.
func (d *Daemon) start(ctx context.Context) error {
	if err := hardenProcess(); err != nil {
		return fmt.Errorf("harden the process: %w", err)
	}
	if err := prepareHome(d.Home); err != nil {
		return exitError{exitConfig, fmt.Errorf("home: %w", err)}
	}
	cfg, err := loadConfig(d.Home, d.ConfigFile, d.UserHome)
	if err == nil {
		d.cfg, err = cfg, checkSocketPath(cfg.Daemon.SocketPath)
	}
	if err != nil {
		return exitError{exitConfig, err}
	}
	lock, err := lockInstance(lockPath(d.Home))
	if errors.Is(err, errAlreadyRunning) {
		return exitError{exitAlreadyRunning, err}
	} else if err != nil {
		return exitError{exitStorage, fmt.Errorf("lock: %w", err)}
	}
	d.later(lock.release)
	if d.log, d.logFile, err = newLogger(cfg, d.Stderr); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	d.later(d.logFile.Close)
	if err := writePID(cfg.Daemon.PIDFile); err != nil {
		return exitError{exitStorage, fmt.Errorf("PID file: %w", err)}
	}
	socket := "" // ours once it is made
	d.later(func() error {
		d.log.Info("daemon stopped")
		return errors.Join(removeFile(socket), removeFile(cfg.Daemon.PIDFile))
	})
	if err := d.build(); err != nil {
		return err
	}
	listener, err := listenSocket(cfg.Daemon.SocketPath)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	socket = cfg.Daemon.SocketPath
	d.run(ctx)
	server := newGRPCServer(&rpcServer{parts: d.parts, scheduler: d.scheduler, version: d.Version, startedAt: timeNow(),
		problems: d.problems, shutdown: d.shutdown})
	// Not one of those that the stop waits for: a connection that has not said a word keeps it for two minutes.
	go func() { d.failed <- server.Serve(listener) }()
	d.later(func() error {
		d.queue.Stop() // and with it all watches
		if patience := cfg.Daemon.ShutdownTimeout / 10; !within(patience, server.GracefulStop) {
			within(patience, server.Stop)
		}
		return nil
	})
	return nil
}

// build makes the parts from the database up to the socket.
func (d *Daemon) build() (err error) {
	if d.commands, err = loadCommands(d.Queries); err != nil {
		return err
	}
	if d.store, err = openStore(d.cfg.Storage.DatabasePath, d.cfg.Storage.Synchronous, d.cfg.API.GraphQLEndpoint); err != nil {
		return exitError{exitStorage, err}
	}
	d.later(d.store.Close)
	keys, err := newSealer(sealerOptions{
		Home:                 d.Home,
		CredentialsDirectory: d.Getenv("CREDENTIALS_DIRECTORY"),
		Passphrase:           d.Getenv("HONEYDEW_PASSPHRASE"),
		PassphraseFile:       d.cfg.Auth.PassphraseFile,
		Store:                d.store,
	})
	if err != nil {
		return exitError{exitConfig, err}
	}
	hidden, err := proxySecrets(d.Getenv)
	if err != nil {
		return exitError{exitConfig, err}
	}
	d.client = newClient(clientOptions{
		Version:      d.Version,
		MaxBytes:     int64(d.cfg.API.MaxResponseMB) << 20,
		OnProxy:      func(address string) { d.log.Info("using a proxy", "proxy", address) },
		ProxySecrets: hidden,
	})
	d.auth = newTokenSource(tokenSourceOptions{
		Store:        d.store,
		Client:       d.client,
		Sealer:       keys,
		Log:          d.log,
		Timeout:      d.cfg.API.Timeout,
		LoginQuery:   d.commands.internal("auth.login").Query,
		RefreshQuery: d.commands.internal("auth.refresh").Query,
	})
	d.queue, err = newQueue(QueueOptions{Store: d.store, Workers: d.cfg.Queue.Workers, ProviderLimit: d.cfg.Queue.ProviderLimit,
		MaxPending: d.cfg.Queue.MaxPending, Run: d.runJob, Log: d.log,
		Mutation: func(name string) bool { c, err := d.commands.Lookup(name); return err != nil || c.Mutation }})
	if err != nil {
		return exitError{exitStorage, err}
	}
	d.scheduler = newScheduler(d.parts, timeNow)
	return nil
}

// run starts all that works by itself.
func (d *Daemon) run(ctx context.Context) {
	d.queue.Start()
	d.background.Go(func() { d.scheduler.Run(ctx) })
	d.background.Go(func() { d.auth.Run(ctx) })
	d.background.Go(func() { d.retain(ctx) })
	d.later(func() error {
		d.queue.Drain(d.patience, d.cfg.Daemon.ShutdownTimeout/10)
		d.background.Wait()
		d.auth.Close()
		return nil
	})
}

// shutdown ends the daemon; with force no job is waited for.
func (d *Daemon) shutdown(force bool) {
	if force {
		d.force()
	}
	d.end()
}

// later adds what the stop has to do, before all that was added earlier.
func (d *Daemon) later(undo func() error) { d.undo = append(d.undo, undo) }

// stop takes the daemon down, and gives up waiting when the time is over.
func (d *Daemon) stop() error {
	var cancel context.CancelFunc
	d.patience, cancel = context.WithTimeout(d.forced, d.cfg.Daemon.ShutdownTimeout*7/10)
	defer cancel()
	var errs error
	if within(d.cfg.Daemon.ShutdownTimeout, func() {
		for _, undo := range slices.Backward(d.undo) {
			errs = errors.Join(errs, undo())
		}
	}) {
		return errs
	}
	return errors.New("the stop took too long and was cut short; nothing acked is lost")
}

// within runs fn and reports whether it ended in time; what does not is left behind.
func within(limit time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() { fn(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// runJob carries out one attempt: the command's query, sent with the environment's token.
func (d *Daemon) runJob(ctx context.Context, j *Job) (result, partial string, err error) {
	c, err := d.commands.Lookup(j.Command)
	if err != nil {
		return "", "", &Error{Code: codeInternal, Message: "this version of honeydew has no command " + j.Command, Refused: true}
	}
	env, err := d.store.Environment(j.Environment)
	if codeOf(err) == codeNotFound {
		return "", "", &Error{Code: codeAPI, Message: "the environment " + j.Environment + " was removed", Refused: true}
	}
	var answer Answer
	if err == nil {
		err = d.auth.Do(ctx, env, func(token string, secrets []string) (err error) {
			answer, err = d.client.Do(ctx, Request{
				URL:       env.BaseURL,
				Token:     token,
				Secrets:   secrets,
				Query:     c.Query,
				Variables: j.Payload,
				Field:     c.Field,
				Mutation:  c.Mutation,
			})
			return err
		})
	}
	// The body is never written again, and may be large.
	return unsafe.String(unsafe.SliceData(answer.Data), len(answer.Data)), answer.Partial, attemptError(err)
}

// attemptError is err, unless it is the database's: that is read for the environment and its token, before anything is
// sent, so another attempt can do no harm.
func attemptError(err error) error {
	if code := codeOf(err); code == codeStorageFailed || code == codeStorageFull {
		return &Error{Code: codeInternal, Message: err.Error(), Retry: true, Unsent: true, Cause: err}
	}
	return err
}

// retain removes old jobs, at the start and every hour.
func (d *Daemon) retain(ctx context.Context) {
	for d.cfg.Storage.Retention > 0 && ctx.Err() == nil {
		n, err := d.store.Prune(ctx, timeNow().Add(-d.cfg.Storage.Retention), false)
		if err != nil && ctx.Err() == nil {
			d.log.Error("old jobs could not be removed", "error", err.Error())
		} else if n > 0 {
			d.log.Info("old jobs removed", "jobs", n)
		}
		select {
		case <-time.After(time.Hour):
		case <-ctx.Done():
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

// defaultHome is $HONEYDEW_HOME, else ~/.honeydew.
func defaultHome(getenv func(string) string, userHome string) string {
	home := expandPath(cmp.Or(getenv("HONEYDEW_HOME"), "~/.honeydew"), userHome)
	if abs, err := filepath.Abs(home); err == nil {
		return abs
	}
	return home
}
