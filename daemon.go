package main

// The composition root: builds everything in order, and takes it down in the opposite order.
//
//	start: config, home, lock, log, PID file, database and its lock (recovering what was open), socket, workers,
//	       schedules, ready
//	stop:  sources (schedules, refreshes), requests, running jobs, database, socket and PID file, log, lock
//
// Each step of the start says what undoes it (Daemon.later). The stop does all that, last first, also after a start
// that failed half-way. It takes at most daemon.shutdown_timeout: each step has its share, and a step that hangs does
// not keep the process alive.

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
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"google.golang.org/grpc"
)

const (
	fileCheck     = time.Second         // between two looks at whether our files are still ours
	retentionLook = time.Hour           // between two looks for old jobs
	clockDoubt    = 30 * 24 * time.Hour // a clock that is so far past what the database knows is not believed at once
	leastOpen     = 64                  // files that the process must be allowed to open
	believedKey   = "believed_clock"    // rows of the config table: the latest time that retention has believed,
	doubtedKey    = "doubted_clock"     // and the one at which it began to doubt
)

// Exit codes of the daemon; sysexits(3) where there is one.
const (
	exitAgain          = 1 // a start may go better: service managers try it
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

func exitf(code int, format string, args ...any) error {
	return exitError{code, fmt.Errorf(format, args...)}
}

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
	scheduler    *Scheduler
	client       *Client
	logFile      *logFile
	proxySecrets []string
	lock         *lockFile // of the home
	dbLock       *lockFile // of the database
	epoch        string    // that dbLock named at the start
	server       *grpc.Server
	socket       *ourSocket            // watchFiles may make a new one
	socketFault  atomic.Pointer[error] // why it cannot; nil: it need not
	background   sync.WaitGroup
	failed       chan error         // by a server that ended by itself
	undo         []func() error     // what the stop does, last first
	end          context.CancelFunc // ends the daemon
	force        context.CancelFunc // lets its stop wait for no job: ends forced
	forced       context.Context
	patience     context.Context // of a stop: until it ends, jobs may run to their end
}

// runDaemon runs the daemon until a signal, a Shutdown request or ctx ends it, and returns its error, an exitError
// where a code of its own belongs to it.
func runDaemon(ctx context.Context, o DaemonOptions) error {
	d := &Daemon{
		DaemonOptions: o,
		parts:         parts{cfg: defaultConfig(o.Home)},
		failed:        make(chan error, 1),
	}
	ctx, d.end = signal.NotifyContext(ctx, terminateSignals...)
	defer d.end()
	context.AfterFunc(ctx, d.end) // a second signal ends the process at once
	signal.Ignore(ignoredSignals...)
	d.forced, d.force = context.WithCancel(context.Background())
	defer d.force()
	err := d.start(ctx)
	if err == nil {
		err = d.untilEnd(ctx)
	}
	d.end() // what has begun must end before the stop can wait for it
	return errors.Join(err, d.stop())
}

// untilEnd waits for what ends the daemon, and returns it where it is a failure.
func (d *Daemon) untilEnd(ctx context.Context) (err error) {
	d.log.Info("daemon started",
		"version", d.Version,
		"pid", os.Getpid(),
		"socket", d.cfg.Daemon.SocketPath,
	)
	d.tellManager("READY=1")
	select {
	case <-ctx.Done():
	case err = <-d.failed:
	case fatal := <-d.store.Fatal():
		err = d.judge(fatal)
	}
	if err != nil {
		d.log.Error("daemon failed", "error", err)
	}
	d.log.Info("daemon stopping")
	d.tellManager("STOPPING=1")
	return err
}

// tellManager tells the service manager of a change of state.
func (d *Daemon) tellManager(state string) {
	if err := notifySystemd(d.Getenv("NOTIFY_SOCKET"), state); err != nil {
		d.log.Warn("service manager could not be told", "error", err)
	}
}

// judge is the exit that a failure of the database leads to. Damage is believed only at a second look, by a connection
// of its own: one read that failed may have been the disk's fault, and a service manager starts us again.
func (d *Daemon) judge(err error) error {
	if indexLost(err) {
		return exitError{exitAgain, storageError(err)}
	}
	switch primaryCode(err) {
	case 0: // not SQLite's words, but our own
		return exitError{exitStorage, err}
	case sqliteCorrupt, sqliteNotADB, sqliteIOErr, sqliteCantOpen:
		if sound(d.cfg.Storage.DatabasePath) {
			// Without the first look's hint: it may have been to restore a backup.
			return exitf(exitAgain, "the database could not be used, but is sound; the first look said: %v", err)
		}
	}
	return exitError{exitStorage, storageError(err)}
}

// start does one step after the other.
func (d *Daemon) start(ctx context.Context) error {
	for _, step := range []func() error{
		d.checkProcess,
		d.readConfig,
		d.takeHome,
		d.openLog,
		d.writePID,
		d.openDatabase,
		d.build,
		d.listen,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	d.run(ctx)
	d.answer(ctx)
	return nil
}

// checkProcess checks what the process was given: its limits, zone and proxy.
func (d *Daemon) checkProcess() error {
	limit, err := openFileLimit()
	if err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	if limit < leastOpen {
		const refusal = "only %d files may be open, at least %d are needed; raise the limit with: ulimit -n 1024"
		return fmt.Errorf(refusal, limit, leastOpen)
	}
	if err := checkZone(d.Getenv("TZ")); err != nil {
		return exitError{exitConfig, err}
	}
	d.proxySecrets, err = proxySecrets(d.Getenv)
	if err != nil {
		return exitError{exitConfig, err}
	}
	return nil
}

func (d *Daemon) readConfig() error {
	cfg, err := loadConfig(d.Home, d.ConfigFile, d.UserHome)
	if err := cmp.Or(prepareHome(d.Home, err), err); err != nil {
		return exitError{exitConfig, err}
	}
	d.cfg = cfg
	if err := checkSocketPath(cfg.Daemon.SocketPath); err != nil {
		return exitError{exitConfig, err}
	}
	if err := cfg.checkPaths(); err != nil {
		return exitError{exitConfig, err}
	}
	if err := cfg.checkDisk(); err != nil {
		return exitError{exitStorage, err}
	}
	return nil
}

// takeHome makes this the home's daemon. The lock's note is the configuration file: every verb reads what we read.
func (d *Daemon) takeHome() error {
	lock, err := takeLock(lockPath(d.Home))
	if errors.Is(err, errHeld) {
		return exitf(exitAlreadyRunning, "another daemon is running for this home")
	}
	if err == nil {
		d.lock = lock
		d.later(d.releaseLocks)
		err = lock.note(d.ConfigFile)
	}
	if err != nil {
		return exitf(exitStorage, "lock: %w", err)
	}
	return nil
}

// releaseLocks comes last, and the database's lock after the home's: whoever waits for it, as `stop` does, may start
// anew.
func (d *Daemon) releaseLocks() error {
	err := d.lock.release()
	if d.dbLock != nil {
		err = errors.Join(err, d.dbLock.release())
	}
	return err
}

func (d *Daemon) openLog() error {
	log, file, err := newLogger(d.cfg, d.Stderr)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	d.log = log
	d.logFile = file
	d.later(file.Close)
	return nil
}

func (d *Daemon) writePID() error {
	text := strconv.Itoa(os.Getpid()) + "\n"
	pid, err := replaceFile(d.cfg.Daemon.PIDFile, text)
	if err != nil {
		return exitf(exitStorage, "PID file: %w", err)
	}
	d.later(func() error {
		d.log.Info("daemon stopped")
		return removeOurs(d.cfg.Daemon.PIDFile, pid)
	})
	return nil
}

// openDatabase takes the database's lock and opens it. A log of another database that lies beside it is set aside
// before SQLite can see it.
func (d *Daemon) openDatabase() error {
	path, err := realPath(d.cfg.Storage.DatabasePath)
	if err != nil {
		return exitf(exitStorage, "database: %w", err)
	}
	d.dbLock, err = takeLock(path + ".lock")
	if errors.Is(err, errHeld) {
		return exitf(exitStorage, "the database %s is in use by the daemon of another home", path)
	}
	if err == nil {
		d.epoch, err = d.dbLock.noted()
	}
	if err != nil {
		return exitf(exitStorage, "database lock: %w", err)
	}
	moved, err := setAside(path, d.epoch)
	if err != nil {
		return exitf(exitStorage, "database: %w", err)
	}
	for _, name := range moved {
		d.log.Warn("a file of another database was set aside", "file", name)
	}
	d.store, err = openStore(path, d.cfg.Storage.Synchronous, d.cfg.API.GraphQLEndpoint)
	if err != nil {
		return d.judge(refusedDatabase(path, err))
	}
	d.later(d.store.Close)
	return nil
}

// refusedDatabase adds what to do to the refusal of the file at path. Failures of the system and of SQLite stay as they
// are.
func refusedDatabase(path string, err error) error {
	_, ofSystem := errors.AsType[syscall.Errno](err)
	if err == nil || ofSystem || primaryCode(err) != 0 {
		return err
	}
	name := shellQuoted(path)
	return errorf(codeStorageFailed, "%w", err).
		hint("put a backup in its place, or begin anew: mv %s %s.old && honeydew start", name, name)
}

// build makes the parts between the database and the socket.
func (d *Daemon) build() error {
	commands, err := loadCommands(d.Queries)
	if err != nil {
		return err
	}
	d.commands = commands
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
	d.client = newClient(clientOptions{
		Version:      d.Version,
		MaxBytes:     int64(d.cfg.API.MaxResponseMB) << 20,
		OnProxy:      func(address string) { d.log.Info("using a proxy", "proxy", address) },
		ProxySecrets: d.proxySecrets,
	})
	d.auth = newTokenSource(tokenSourceOptions{
		Store:        d.store,
		Client:       d.client,
		Sealer:       keys,
		Log:          d.log,
		Timeout:      d.cfg.API.Timeout,
		LoginQuery:   commands.internal("auth.login").Query,
		RefreshQuery: commands.internal("auth.refresh").Query,
	})
	d.queue, err = newQueue(QueueOptions{
		Store:         d.store,
		Workers:       d.cfg.Queue.Workers,
		ProviderLimit: d.cfg.Queue.ProviderLimit,
		MaxPending:    d.cfg.Queue.MaxPending,
		Run:           d.runJob,
		Log:           d.log,
		Mutation:      d.mutates,
	})
	if err != nil {
		return d.judge(err)
	}
	d.scheduler = newScheduler(d.parts, timeNow)
	if err := d.store.BeginEpoch(d.epoch, d.dbLock.note); err != nil {
		return d.judge(err)
	}
	if err := d.store.CountFinished(); err != nil {
		return d.judge(err)
	}
	return nil
}

// mutates tells the commands that change something. One that is unknown may.
func (d *Daemon) mutates(command string) bool {
	c, err := d.commands.Lookup(command)
	return err != nil || c.Mutation
}

// listen makes the socket, which the stop removes if it is still ours.
func (d *Daemon) listen() error {
	socket, err := listenSocket(d.cfg.Daemon.SocketPath)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	d.socket = socket
	d.later(func() error {
		return removeOurs(d.socket.path, d.socket.info)
	})
	return nil
}

// run starts all that works by itself.
func (d *Daemon) run(ctx context.Context) {
	d.queue.Start()
	for _, work := range []func(context.Context){
		d.scheduler.Run,
		d.auth.Run,
		d.retain,
	} {
		d.background.Go(func() { work(ctx) })
	}
	d.later(func() error {
		d.queue.Drain(d.patience, d.cfg.Daemon.ShutdownTimeout/10)
		d.background.Wait()
		d.auth.Close()
		return nil
	})
}

// answer serves requests, and sees to it that they find the socket.
func (d *Daemon) answer(ctx context.Context) {
	d.server = newGRPCServer(&rpcServer{
		parts:     d.parts,
		scheduler: d.scheduler,
		version:   d.Version,
		startedAt: timeNow(),
		problems:  d.problems,
		shutdown:  d.shutdown,
	})
	d.serve(d.socket)
	d.background.Go(func() { d.watchFiles(ctx) })
	d.later(func() error {
		d.queue.Stop() // and with it all watches
		patience := d.cfg.Daemon.ShutdownTimeout / 10
		if !within(patience, d.server.GracefulStop) {
			within(patience, d.server.Stop)
		}
		return nil
	})
}

// serve answers on the socket. The stop does not wait for it: a connection that has not said a word keeps it for two
// minutes.
func (d *Daemon) serve(socket *ourSocket) {
	go func() {
		if err := d.server.Serve(socket); err != nil {
			d.fail(err)
		}
	}()
}

// fail ends the daemon with err, unless something else has failed already.
func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// watchFiles ends the daemon when its home, its lock or its database is gone or another's: whoever starts next would
// not find it. A socket that was removed is made again.
func (d *Daemon) watchFiles(ctx context.Context) {
	tick := time.Tick(fileCheck)
	for {
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
		for _, lock := range []*lockFile{d.lock, d.dbLock} {
			if err := lock.intact(); err != nil {
				d.fail(exitf(exitStorage, "the lock is lost: %w", err))
				return
			}
		}
		if d.store.Intact() != nil {
			return // the store has told
		}
		if err := d.store.SettleEpoch(d.dbLock.note); err != nil {
			d.log.Error("the database's epoch cannot be settled", "error", err)
		}
		d.restoreSocket()
	}
}

// restoreSocket makes the socket again if it is not at its path any more. What is there instead stays, and is named
// once.
func (d *Daemon) restoreSocket() {
	if unmoved(d.socket.path, d.socket.info) == nil {
		d.socketFault.Store(nil)
		return
	}
	socket, err := listenSocket(d.socket.path)
	if err != nil {
		if d.socketFault.Swap(&err) == nil {
			d.log.Error("the socket was removed and cannot be made again", "error", err)
		}
		return
	}
	d.socket = socket
	d.socketFault.Store(nil)
	d.serve(socket)
	d.log.Warn("the socket was removed; it was made again", "socket", socket.path)
}

// shutdown ends the daemon; with force no job is waited for.
func (d *Daemon) shutdown(force bool) {
	if force {
		d.force()
	}
	d.end()
}

// later adds what the stop has to do, before all that was added earlier.
func (d *Daemon) later(undo func() error) {
	d.undo = append(d.undo, undo)
}

// stop takes the daemon down, and gives up waiting when the time is over.
func (d *Daemon) stop() error {
	limit := d.cfg.Daemon.ShutdownTimeout
	patience, cancel := context.WithTimeout(d.forced, limit*7/10)
	defer cancel()
	d.patience = patience
	var errs error
	inTime := within(limit, func() {
		for _, undo := range slices.Backward(d.undo) {
			errs = errors.Join(errs, undo())
		}
	})
	if !inTime {
		return errors.New("the stop took too long and was cut short; nothing acked is lost")
	}
	return errs
}

// within runs fn and reports whether it ended in time; what does not is left behind.
func within(limit time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() {
		fn()
		close(done)
	}()
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
		return "", "", refusedAttempt(codeInternal, "this version of honeydew has no command "+j.Command)
	}
	env, err := d.store.Environment(j.Environment)
	if codeOf(err) == codeNotFound {
		return "", "", refusedAttempt(codeAPI, "the environment "+j.Environment+" was removed")
	}
	if err != nil {
		return "", "", attemptError(err)
	}
	var answer Answer
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
	result = unsafe.String(unsafe.SliceData(answer.Data), len(answer.Data)) // never written again, and may be large
	return result, answer.Partial, attemptError(err)
}

// refusedAttempt is an attempt that sent nothing, and that no other can better.
func refusedAttempt(code, message string) error {
	return &Error{Code: code, Message: message, Fate: fateRefused}
}

// attemptError is err, unless it is the database's: that is read for the environment and its token, before anything is
// sent, so another attempt can do no harm.
func attemptError(err error) error {
	switch codeOf(err) {
	case codeStorageFailed, codeStorageFull:
		return &Error{
			Code:    codeInternal,
			Message: err.Error(),
			Fate:    fateUnsent,
			Cause:   err,
		}
	}
	return err
}

// retain removes old jobs, at the start and every hour, unless the clock may be wrong.
func (d *Daemon) retain(ctx context.Context) {
	if d.cfg.Storage.Retention == 0 {
		return
	}
	clock, err := d.clock()
	if err != nil {
		d.log.Error("what time it was last cannot be read; old jobs stay", "error", err)
		return
	}
	for ctx.Err() == nil {
		now := timeNow()
		noted := believedKey
		if clock.believes(now) {
			d.prune(ctx, now.Add(-d.cfg.Storage.Retention))
		} else {
			const warning = "the clock is far ahead of what it was; old jobs stay until it has gone on for an hour"
			d.log.Warn(warning, "was", timeText(clock.known))
			noted = doubtedKey
			now = clock.doubted
		}
		if err := d.store.SetConfigValue(noted, timeText(now)); err != nil {
			d.log.Error("the time could not be noted", "error", err)
		}
		select {
		case <-time.After(retentionLook):
		case <-ctx.Done():
		}
	}
}

// clock judges by what was believed and doubted last, else by the newest job: a restart must not make the jobs of a
// doubtful clock its witnesses.
func (d *Daemon) clock() (c clockJudge, err error) {
	c.known, err = d.noted(believedKey)
	if err == nil && c.known.IsZero() {
		c.known, err = d.store.Newest()
	}
	if err == nil {
		c.doubted, err = d.noted(doubtedKey)
	}
	return c, err
}

// noted is the time in that row of the config table, zero if there is none, or one that nobody can read.
func (d *Daemon) noted(key string) (time.Time, error) {
	text, err := d.store.ConfigValue(key)
	at, _ := parseTimeText(text)
	return at, err
}

func (d *Daemon) prune(ctx context.Context, cutoff time.Time) {
	n, err := d.store.Prune(ctx, cutoff, false)
	if err != nil && ctx.Err() == nil {
		d.log.Error("old jobs could not be removed", "error", err)
	} else if n > 0 {
		d.log.Info("old jobs removed", "jobs", n)
	}
}

// clockJudge doubts a wall clock that has leapt far ahead, until it has gone on from there for an hour.
type clockJudge struct {
	known    time.Time // the latest time that is believed; zero: any is
	doubted  time.Time // where the clock had leapt to; zero: there is no doubt
	doubting time.Time // since when, by the steady clock; zero: since before the start
}

func (c *clockJudge) believes(now time.Time) bool {
	if c.known.IsZero() || now.Sub(c.known) <= clockDoubt {
		*c = clockJudge{known: now}
		return true
	}
	if c.doubted.IsZero() || now.Before(c.doubted) || now.Sub(c.doubted) > clockDoubt {
		c.doubted = now
		c.doubting = time.Now()
		return false
	}
	if time.Since(c.doubting) < retentionLook || now.Sub(c.doubted) < retentionLook {
		return false
	}
	*c = clockJudge{known: now}
	return true
}

// problems lists what is degraded at the moment.
func (d *Daemon) problems() (all []string) {
	add := func(where, problem string) {
		if problem != "" {
			all = append(all, where+problem)
		}
	}
	add("database: ", d.store.Problem())
	failing := d.queue.State("").Failing
	if failing > 0 {
		const held = "results that wait to be stored: %d; free some space: until then no job starts"
		add("database: ", fmt.Sprintf(held, failing))
	}
	fault := d.socketFault.Load()
	if fault != nil {
		add("socket: ", (*fault).Error())
	}
	add("log: ", d.logFile.Problem())
	return all
}

// defaultHome is $HONEYDEW_HOME, else ~/.honeydew.
func defaultHome(getenv func(string) string, userHome string) string {
	home := expandPath(cmp.Or(getenv("HONEYDEW_HOME"), "~/.honeydew"), userHome)
	abs, _ := filepath.Abs(home) // "" where there is no working directory
	return cmp.Or(abs, home)
}
