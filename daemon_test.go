//go:build unix

package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"honeydew/daemonpb"
)

// daemonRig is a daemon in this process, with a home and an API of its own.
type daemonRig struct {
	*testing.T
	daemonpb.DaemonClient
	conn    *grpc.ClientConn
	api     *rpcAPI
	home    string
	opts    DaemonOptions
	manager *net.UnixConn // receives what a service manager would
	cancel  context.CancelFunc
	ended   chan error
}

// newDaemonRig prepares a home with config, in which %s is the API's URL; "" is an almost empty one.
func newDaemonRig(t *testing.T, config string) *daemonRig {
	t.Helper()
	dir := shortDir(t)
	r := &daemonRig{T: t, api: newRPCAPI(t), home: filepath.Join(dir, "h")}
	var err error
	notify := filepath.Join(dir, "notify")
	if r.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.manager.Close() })
	if config == "" {
		config = "api:\n  graphql_endpoint: %s\n"
	}
	if strings.Contains(config, "%s") {
		config = fmt.Sprintf(config, r.api.URL)
	}
	file := putFile(t, dir, "config.yaml", config)
	r.opts = DaemonOptions{Home: r.home, UserHome: dir, ConfigFile: file, Version: "1.2.3", Queries: queries, Stderr: t.Output(),
		Getenv: func(name string) string { return map[string]string{"NOTIFY_SOCKET": notify}[name] }}
	mask := syscall.Umask(0) // a daemon must not depend on its caller's
	t.Cleanup(func() { syscall.Umask(mask) })
	if err := hardenProcess(); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs the daemon until it is ready.
func (r *daemonRig) start() {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- runDaemon(ctx, r.opts) }()
	r.Cleanup(cancel)
	if got := r.notified(); got != "READY=1" {
		r.Fatalf("the service manager heard %q (%v)", got, <-r.ended)
	}
	conn, err := grpc.NewClient("unix:"+filepath.Join(r.home, "daemon.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.Close() })
	r.conn, r.DaemonClient = conn, daemonpb.NewDaemonClient(conn)
}

// notified returns the next datagram to the service manager, "" when the daemon ends without one.
func (r *daemonRig) notified() string {
	r.Helper()
	if err := r.manager.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := r.manager.Read(buf)
	if err != nil {
		r.Fatal(err)
	}
	return string(buf[:n])
}

// end waits until the daemon has ended, for at most limit, and returns its error.
func (r *daemonRig) end(limit time.Duration) error {
	r.Helper()
	begin := time.Now()
	select {
	case err := <-r.ended:
		if took := time.Since(begin); took > limit {
			r.Errorf("the stop took %s, at most %s are allowed", took, limit)
		}
		return err
	case <-time.After(limit + 20*time.Second):
		r.Fatal("the daemon does not end")
		return nil
	}
}

func (r *daemonRig) stop() {
	r.Helper()
	if _, err := r.Shutdown(r.Context(), &daemonpb.ShutdownRequest{}); err != nil {
		r.Fatal(err)
	}
	if err := r.end(15 * time.Second); err != nil {
		r.Fatal(err)
	}
	if got := r.notified(); got != "STOPPING=1" {
		r.Fatalf("the service manager heard %q", got)
	}
}

func (r *daemonRig) login() {
	r.Helper()
	if _, err := r.Login(r.Context(), &daemonpb.LoginRequest{Username: "ann", Password: "correct"}); err != nil {
		r.Fatal(err)
	}
}

// running submits a job and returns its watch once it runs.
func (r *daemonRig) running() (id string, watch grpc.ServerStreamingClient[daemonpb.JobStatus]) {
	r.Helper()
	out, err := r.SubmitJob(r.Context(), commits(r))
	if err != nil {
		r.Fatal(err)
	}
	if watch, err = r.WatchJob(r.Context(), &daemonpb.WatchJobRequest{JobId: out.JobId}); err != nil {
		r.Fatal(err)
	}
	for {
		j, err := watch.Recv()
		if err != nil {
			r.Fatal(err)
		}
		if j.Status == statusRunning {
			return out.JobId, watch
		}
	}
}

func wantExit(t *testing.T, err error, code int, text string) {
	t.Helper()
	e, ok := errors.AsType[exitError](err)
	if !ok || e.code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("ended with %v, want exit code %d and %q", err, code, text)
	}
}

func TestDaemonKeepsItsJobsAndLoginOverARestart(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	if got, err := healthpb.NewHealthClient(r.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("ready, and yet %v (%v)", got, err)
	}
	r.login()
	if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	out, err := r.SubmitJob(t.Context(), commits(t))
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start()
	if _, err := r.ResumeQueue(t.Context(), &daemonpb.ResumeQueueRequest{}); err != nil {
		t.Fatal(err)
	}
	watch, err := r.WatchJob(t.Context(), &daemonpb.WatchJobRequest{JobId: out.JobId})
	if err != nil {
		t.Fatal(err)
	}
	for {
		j, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if j.Status == statusFailed {
			t.Fatal(j)
		}
		if j.Status == statusCompleted {
			break
		}
	}
	r.stop()
	log := string(mustRead(t, filepath.Join(r.home, "daemon.log")))
	for _, line := range []string{`"message":"job submitted"`, `"message":"job started"`, `"message":"job completed"`, `"message":"daemon stopped"`} {
		if !strings.Contains(log, line) {
			t.Errorf("no %s in the log", line)
		}
	}
	for name, data := range map[string][]byte{"log": []byte(log), "database": mustRead(t, filepath.Join(r.home, "daemon.db"))} {
		if bytes.Contains(data, []byte("correct")) || bytes.Contains(data, []byte("e30.")) {
			t.Errorf("the %s holds the password or a token", name)
		}
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	r := newDaemonRig(t, "")
	if err := os.Mkdir(r.home, 0o755); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.login()
	if info, err := os.Stat(r.home); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("home: %v, %v", info.Mode(), err)
	}
	found := map[string]bool{}
	err := filepath.WalkDir(r.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		found[d.Name()] = true
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", d.Name(), info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"daemon.sock", "daemon.pid", "daemon.lock", "daemon.db", "daemon.db-wal", "daemon.db-shm", "daemon.log", "key"} {
		if !found[name] {
			t.Errorf("no %s", name)
		}
	}
	if got := string(mustRead(t, filepath.Join(r.home, "daemon.pid"))); got != fmt.Sprintln(os.Getpid()) {
		t.Errorf("daemon.pid holds %q", got)
	}
	r.stop()
	for _, name := range []string{"daemon.sock", "daemon.pid"} {
		if _, err := os.Lstat(filepath.Join(r.home, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was left behind: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(r.home, "daemon.lock")); err != nil {
		t.Errorf("the lock's file was removed, so that two could lock: %v", err)
	}
}

func TestSecondDaemonOfAHomeIsRefused(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	wantExit(t, runDaemon(t.Context(), r.opts), exitAlreadyRunning, "another daemon")
	if held, err := lockHeld(lockPath(r.home)); err != nil || !held {
		t.Errorf("lock held: %t, %v", held, err)
	}
	if _, err := r.Ping(t.Context(), &daemonpb.PingRequest{}); err != nil {
		t.Fatalf("the first one: %v", err)
	}
	r.stop()
	if held, err := lockHeld(lockPath(r.home)); err != nil || held {
		t.Errorf("lock held after the stop: %t, %v", held, err)
	}
}

func TestWhatAKilledDaemonLeftIsInNobodysWay(t *testing.T) {
	r := newDaemonRig(t, "")
	if err := os.Mkdir(r.home, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(r.home, "daemon.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	putFile(t, r.home, "daemon.pid", "1\n")
	putFile(t, r.home, "daemon.lock", "")
	r.start()
	if _, err := r.Ping(t.Context(), &daemonpb.PingRequest{}); err != nil {
		t.Fatal(err)
	}
	r.stop()
}

func TestStartThatCannotSucceedSaysWhyAndEnds(t *testing.T) {
	garbage := strings.Repeat("garbage ", 100)
	for _, c := range []struct {
		name, config string
		prepare      func(r *daemonRig)
		code         int
		text         string
	}{
		{"unknown key", "queue:\n  workers: 2\n  wrokers: 3\n", nil, exitConfig, "config.yaml:3: queue.wrokers"},
		{"duration without a unit", "daemon:\n  shutdown_timeout: 15\n", nil, exitConfig, "config.yaml:2: daemon.shutdown_timeout"},
		{"missing configuration", "", func(r *daemonRig) { r.opts.ConfigFile += ".missing" }, exitConfig, "config.yaml.missing"},
		{"long socket path", "daemon:\n  socket_path: /tmp/" + strings.Repeat("s", 110) + "\n", nil, exitConfig, "at most 107"},
		{"garbage for a database", "", func(r *daemonRig) { putFile(r, r.home, "daemon.db", garbage) }, exitStorage, "not a honeydew database"},
		{"empty database", "", func(r *daemonRig) { putFile(r, r.home, "daemon.db", "") }, exitStorage, "damaged"},
		{"database in a missing directory", "storage:\n  database_path: nowhere/daemon.db\n", nil, exitStorage, "config.yaml:2: storage.database_path: there is no folder"},
		{"key that others can read", "", func(r *daemonRig) {
			putFile(r, r.home, "key", strings.Repeat("k", 64))
			if err := os.Chmod(filepath.Join(r.home, "key"), 0o644); err != nil {
				r.Fatal(err)
			}
		}, exitConfig, "open to others"},
		{"missing passphrase file", "auth:\n  passphrase_file: nowhere\n", nil, exitConfig, "nowhere"},
		{"file for a home", "", func(r *daemonRig) { r.opts.Home = r.opts.ConfigFile }, exitConfig, "home"},
		{"file for a socket", "", func(r *daemonRig) { putFile(r, r.home, "daemon.sock", "mine") }, 0, "in the way"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newDaemonRig(t, c.config)
			if err := os.Mkdir(r.home, 0o700); err != nil {
				t.Fatal(err)
			}
			if c.prepare != nil {
				c.prepare(r)
			}
			r.ended = make(chan error, 1)
			go func() { r.ended <- runDaemon(context.Background(), r.opts) }()
			err := r.end(5 * time.Second)
			if c.code != 0 {
				wantExit(t, err, c.code, c.text)
			} else if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("ended with %v, want %q", err, c.text)
			}
			if held, err := lockHeld(lockPath(r.home)); err != nil || held {
				t.Errorf("lock held afterwards: %t, %v", held, err)
			}
			if c.name == "garbage for a database" {
				if got := string(mustRead(t, filepath.Join(r.home, "daemon.db"))); got != garbage {
					t.Error("the file was changed")
				}
			}
			if c.name == "file for a socket" {
				if got := string(mustRead(t, filepath.Join(r.home, "daemon.sock"))); got != "mine" {
					t.Error("the file in the way was changed")
				}
			}
		})
	}
}

const quickStop = "daemon:\n  shutdown_timeout: 3s\napi:\n  graphql_endpoint: %s\n"

func TestStopKeepsItsTimeWithAnOpenWatchAndAJobThatNeverEnds(t *testing.T) {
	r := newDaemonRig(t, quickStop)
	r.start()
	r.login()
	release := r.api.block(t, "github.commits")
	id, watch := r.running()
	r.cancel() // as a signal does
	_, err := watch.Recv()
	wantError(t, "the watch", err, codes.Unavailable, codeShuttingDown, "")
	if err := r.end(4 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := r.notified(); got != "STOPPING=1" {
		t.Fatalf("the service manager heard %q", got)
	}
	release()
	s, err := openStore(filepath.Join(r.home, "daemon.db"), "full", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if j, err := s.Job(id, 1); err != nil || j.Status != statusPending || j.RetryCount != 0 || j.OpenStarts != 0 {
		t.Fatalf("the job is %+v (%v), want its attempt given back", j, err)
	}
}

func TestStopWaitsForAJobThatEndsInTime(t *testing.T) {
	r := newDaemonRig(t, "daemon:\n  shutdown_timeout: 1m\napi:\n  graphql_endpoint: %s\n")
	r.start()
	r.login()
	release := r.api.block(t, "github.commits")
	id, watch := r.running()
	if _, err := r.Shutdown(t.Context(), &daemonpb.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err == nil {
		t.Fatal("the watch goes on")
	}
	release()
	if err := r.end(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(filepath.Join(r.home, "daemon.db"), "full", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if j, err := s.Job(id, 1); err != nil || j.Status != statusCompleted {
		t.Fatalf("the job is %+v (%v), want it completed", j, err)
	}
}

func TestForcedShutdownWaitsForNoJob(t *testing.T) {
	r := newDaemonRig(t, "daemon:\n  shutdown_timeout: 1m\napi:\n  graphql_endpoint: %s\n")
	r.start()
	r.login()
	r.api.block(t, "github.commits")
	r.running()
	if _, err := r.Shutdown(t.Context(), &daemonpb.ShutdownRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := r.end(5 * time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestDaemonDoesNotStartOnADamagedDatabase(t *testing.T) {
	r := newDaemonRig(t, quickStop)
	r.start()
	r.stop()
	path := filepath.Join(r.home, "daemon.db")
	data := mustRead(t, path)
	for page := 4096; page < len(data); page += 4096 { // all but the first, which start-up reads
		copy(data[page:], strings.Repeat("\xff", 4096))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r.ended = make(chan error, 1)
	go func() { r.ended <- runDaemon(context.Background(), r.opts) }()
	wantExit(t, r.end(5*time.Second), exitStorage, "malformed")
}

// ends runs a daemon that must end by itself, with this exit code and text.
func (r *daemonRig) ends(code int, text string) {
	r.Helper()
	ended := make(chan error, 1)
	go func() { ended <- runDaemon(r.Context(), r.opts) }()
	select {
	case err := <-ended:
		wantExit(r.T, err, code, text)
	case <-time.After(10 * time.Second):
		r.Fatal("the daemon goes on")
	}
}

func TestOneDaemonForADatabase(t *testing.T) {
	first := newDaemonRig(t, "")
	first.start()
	second := newDaemonRig(t, "storage:\n  database_path: "+filepath.Join(first.home, "daemon.db")+"\n")
	second.ends(exitStorage, "another home")
	link := filepath.Join(shortDir(t), "link.db")
	if err := os.Symlink(filepath.Join(first.home, "daemon.db"), link); err != nil {
		t.Fatal(err)
	}
	third := newDaemonRig(t, "storage:\n  database_path: "+link+"\n")
	third.ends(exitStorage, "another home")
	first.stop()
}

// What a daemon holds open and what lies under the names must be the same, or it stops: nobody else would find it.
func TestDaemonWhoseFilesAreGoneStops(t *testing.T) {
	for _, name := range []string{"daemon.lock", "daemon.db", "daemon.db-wal", "daemon.db-shm", "daemon.db.lock", "."} {
		for _, replace := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s replaced %t", name, replace), func(t *testing.T) {
				t.Parallel()
				r := newDaemonRig(t, "")
				r.start()
				path := filepath.Join(r.home, name)
				if err := os.Rename(path, r.home+".moved"); err != nil {
					t.Fatal(err)
				}
				if replace && name == "." {
					if err := os.Mkdir(path, 0o700); err != nil {
						t.Fatal(err)
					}
				} else if replace {
					putFile(t, r.home, name, "another")
				}
				wantExit(t, r.end(10*time.Second), exitStorage, "")
				if replace && name != "." {
					if got := string(mustRead(t, path)); got != "another" {
						t.Errorf("the other %s was changed: %q", name, got)
					}
				}
			})
		}
	}
}

func TestRemovedDatabaseAcksNothing(t *testing.T) {
	for _, suffix := range []string{"", "-wal"} {
		r := newDaemonRig(t, "")
		r.start()
		if err := os.Remove(filepath.Join(r.home, "daemon.db"+suffix)); err != nil {
			t.Fatal(err)
		}
		if out, err := r.SubmitJob(t.Context(), commits(t)); err == nil {
			t.Errorf("job %s was acked into nothing", out.JobId)
		}
		copied := filepath.Join(r.home, "copy.db")
		if _, err := r.Backup(t.Context(), &daemonpb.BackupRequest{Path: copied}); err == nil {
			t.Error("a backup of nothing was made")
		}
		wantExit(t, r.end(10*time.Second), exitStorage, "lost")
		if _, err := os.Lstat(copied); err == nil {
			t.Error("a backup of nothing is there")
		}
		if _, err := os.Lstat(filepath.Join(r.home, "daemon.db")); suffix == "" && err == nil {
			t.Error("an empty database was made")
		}
	}
}

// A database that is moved away takes along what was acked, though that was in the log.
func TestMovedDatabaseHoldsWhatWasAcked(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	out, err := r.SubmitJob(t.Context(), commits(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.home, "daemon.db")
	moved := filepath.Join(r.home, "moved.db")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	wantExit(t, r.end(10*time.Second), exitStorage, "lost")
	r.notified()
	r.start() // with a new one, which sets the old log aside
	r.stop()
	putFile(t, r.home, "daemon.db", string(mustRead(t, moved))) // the first daemon, in this process, has moved open
	r.start()
	if _, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: out.JobId}); err != nil {
		t.Errorf("the acked job: %v", err)
	}
	r.stop()
}

// The successor's files are not the predecessor's to remove.
func TestFilesOfAnotherDaemonAreLeftAlone(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	for _, name := range []string{"daemon.sock", "daemon.pid"} {
		if err := os.Remove(filepath.Join(r.home, name)); err != nil {
			t.Fatal(err)
		}
		putFile(t, r.home, name, "another's")
	}
	r.cancel()
	if err := r.end(15 * time.Second); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"daemon.sock", "daemon.pid"} {
		if got := string(mustRead(t, filepath.Join(r.home, name))); got != "another's" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRemovedSocketIsMadeAgain(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	path := filepath.Join(r.home, "daemon.sock")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	r.stop()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// What takes the socket's place stays as it is, is named, and is outlived.
func TestWhatTakesTheSocketsPlaceIsNamed(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	path := filepath.Join(r.home, "daemon.sock")
	await := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	problems := func() string {
		s, err := r.GetStatus(t.Context(), &daemonpb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(s.Problems, "; ")
	}
	problems() // makes the connection, which stays
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	putFile(t, r.home, "daemon.sock", "mine")
	await("it is not named", func() bool { return strings.Contains(problems(), path+" is in the way: it is not a socket") })
	if got := string(mustRead(t, path)); got != "mine" {
		t.Errorf("the file is now %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await("no socket was made", func() bool { return problems() == "" })
	stale := filepath.Join(r.home, "daemon.stale")
	silent, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	silent.SetUnlinkOnClose(false)
	silent.Close()
	if err := os.Rename(stale, path); err != nil {
		t.Fatal(err)
	}
	await("nobody listens", func() bool {
		c, err := net.Dial("unix", path)
		return err == nil && c.Close() == nil
	})
	r.stop()
}

// The index of the log is no more than that: cut short, it costs a start, and nothing that was acked.
func TestIndexCutShortCostsAStart(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	out, err := r.SubmitJob(t.Context(), commits(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(r.home, "daemon.db-shm"), 0); err != nil {
		t.Fatal(err)
	}
	if late, err := r.SubmitJob(t.Context(), commits(t)); err == nil {
		t.Errorf("job %s was acked", late.JobId)
	}
	wantExit(t, r.end(10*time.Second), exitAgain, "cut short") // which a service manager starts again
	r.notified()
	r.start()
	if _, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: out.JobId}); err != nil {
		t.Errorf("the acked job: %v", err)
	}
	r.stop()
}

// A log of another database is never applied: not to a copy put in its place, not to a new database.
func TestLogOfAnotherDatabaseIsNeverApplied(t *testing.T) {
	for _, restore := range []string{"in place", "renamed", "removed", "untouched"} {
		t.Run(restore, func(t *testing.T) {
			r := newDaemonRig(t, "queue: {workers: 1}\napi: {graphql_endpoint: %s}\n")
			submit := func() string {
				out, err := r.SubmitJob(t.Context(), commits(t))
				if err != nil {
					t.Fatal(err)
				}
				return out.JobId
			}
			r.start()
			if _, err := r.PauseQueue(t.Context(), &daemonpb.PauseQueueRequest{}); err != nil {
				t.Fatal(err)
			}
			old := submit()
			copied := filepath.Join(r.home, "copy.db")
			if _, err := r.Backup(t.Context(), &daemonpb.BackupRequest{Path: copied}); err != nil {
				t.Fatal(err)
			}
			r.stop()
			r.start()
			lost := submit()
			path := filepath.Join(r.home, "daemon.db")
			var killed [3][]byte // what a kill would leave
			for i, suffix := range sideFiles() {
				killed[i] = mustRead(t, path+suffix)
			}
			r.stop()
			for i, suffix := range sideFiles() {
				putFile(t, r.home, "daemon.db"+suffix, string(killed[i]))
			}
			wantOld, wantLost := true, false
			switch restore {
			case "in place":
				putFile(t, r.home, "daemon.db", string(mustRead(t, copied)))
			case "renamed":
				if err := os.Rename(copied, path); err != nil {
					t.Fatal(err)
				}
			case "removed":
				wantOld = false
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			case "untouched":
				wantLost = true
			}
			r.start()
			for id, want := range map[string]bool{old: wantOld, lost: wantLost} {
				if _, err := r.GetJobStatus(t.Context(), &daemonpb.GetJobStatusRequest{JobId: id}); (err == nil) != want {
					t.Errorf("job %s: %v, want it %t", id, err, want)
				}
			}
			if !sound(path) {
				t.Error("the database is damaged")
			}
			r.stop()
		})
	}
}

// holdSnapshot reads the database, as an open sqlite3 does, until the returned function is called.
func holdSnapshot(t *testing.T, s *Store) (end func()) {
	t.Helper()
	reader, err := s.read.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.ExecContext(t.Context(), "BEGIN; SELECT * FROM config"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := reader.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// While somebody reads the database its new epoch stays in the log, and the log must not be taken for another's then.
func TestEpochIsNotedAloneOnlyOnceItIsInTheMainFile(t *testing.T) {
	s := openTestStore(t)
	note := ""
	noteIt := func(text string) error {
		note = text
		return nil
	}
	if _, err := s.Finished(); err != nil { // the count reads, too
		t.Fatal(err)
	}
	if err := s.BeginEpoch(note, noteIt); err != nil || strings.Contains(note, " ") {
		t.Fatalf("%q, %v", note, err)
	}
	first := note
	stopReading := holdSnapshot(t, s)
	if err := s.BeginEpoch(note, noteIt); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(note, first+" ") {
		t.Errorf("noted %q, want %q and the new one", note, first)
	}
	if foreign, err := foreignLog(s.path, note); err != nil || foreign {
		t.Errorf("the own log is foreign: %t (%v)", foreign, err)
	}
	stopReading()
	if err := s.SettleEpoch(noteIt); err != nil || strings.Contains(note, " ") {
		t.Errorf("after the reader: %q, %v", note, err)
	}
}

// A kill in the middle of a checkpoint leaves a main file that only its log makes whole: the next start must not take that
// for damage, nor forget which epoch the file has.
func TestEpochBeginsThoughTheMainFileIsBetweenTwoStates(t *testing.T) {
	s := openTestStore(t)
	if _, err := s.Finished(); err != nil {
		t.Fatal(err)
	}
	stopReading := holdSnapshot(t, s)
	if err := s.SetConfigValue("kept", "in the log"); err != nil {
		t.Fatal(err)
	}
	page, err := s.readNumber("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_config_1'")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(strings.Repeat("Z", 4096)), (page-1)*4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	note := "before"
	noteIt := func(text string) error {
		note = text
		return nil
	}
	if err := s.BeginEpoch(note, noteIt); err != nil || !strings.HasPrefix(note, "before ") {
		t.Errorf("noted %q, %v", note, err)
	}
	stopReading()
	if err := s.SettleEpoch(noteIt); err != nil || strings.Contains(note, " ") {
		t.Errorf("noted %q, %v", note, err)
	}
}

func TestDatabaseOfSeveralNamesIsRefused(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	r.stop()
	if err := os.Link(filepath.Join(r.home, "daemon.db"), filepath.Join(r.home, "other.db")); err != nil {
		t.Fatal(err)
	}
	r.ends(exitStorage, "several names")
}

func TestDatabaseThatCannotBeWrittenStaysAsItIs(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write what nobody may")
	}
	r := newDaemonRig(t, "")
	r.start()
	r.stop()
	path := filepath.Join(r.home, "daemon.db")
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	r.ends(exitStorage, "permission denied")
	for _, suffix := range []string{"-wal", "-shm"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			t.Errorf("%s was left behind", suffix)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.stop()
}

// Damage is believed at the second look: a read that failed once is no reason to give up for good.
func TestDamageIsBelievedAtTheSecondLook(t *testing.T) {
	r := newDaemonRig(t, "")
	r.start()
	db, err := sql.Open("sqlite", dsn(filepath.Join(r.home, "daemon.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, damage := db.Exec("SELECT * FROM nowhere.table_of_a_file_that_is_none")
	d := &Daemon{parts: parts{cfg: defaultConfig(r.home)}}
	wantExit(t, d.judge(damage), exitStorage, "")
	garbage := putFile(t, r.home, "garbage.db", strings.Repeat("garbage ", 1000))
	bad, err := sql.Open("sqlite", dsn(garbage))
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	_, damage = bad.Exec("SELECT * FROM jobs")
	if primaryCode(damage) != sqliteNotADB {
		t.Fatal(damage)
	}
	wantExit(t, d.judge(damage), exitAgain, "is sound")
	d.cfg.Storage.DatabasePath = garbage
	wantExit(t, d.judge(damage), exitStorage, "damaged")
	r.stop()
}

func TestRetentionDoesNotBelieveALeapAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newest := time.Now()
		c := clockJudge{known: newest}
		if !c.believes(newest.Add(29 * 24 * time.Hour)) {
			t.Error("a month without the daemon is not believed")
		}
		leap := newest.Add(90 * 24 * time.Hour)
		if c.believes(leap) {
			t.Error("a leap of 60 days is believed at once")
		}
		if c.believes(leap.Add(2 * time.Hour)) { // the wall clock alone went on
			t.Error("a clock that runs away is believed")
		}
		if c.believes(leap.Add(time.Minute)) {
			t.Error("a minute is enough")
		}
		time.Sleep(time.Hour)
		if !c.believes(leap.Add(time.Hour + time.Minute)) {
			t.Error("an hour later the clock is still not believed")
		}
		if empty := (&clockJudge{}); !empty.believes(newest) {
			t.Error("there is nothing to doubt by")
		}
	})
}

func TestHomeIsWhereTheEnvironmentSays(t *testing.T) {
	for env, want := range map[string]string{"": "/home/ann/.honeydew", "/srv/hd": "/srv/hd", "~/hd": "/home/ann/hd"} {
		if got := defaultHome(func(string) string { return env }, "/home/ann"); got != want {
			t.Errorf("%q: %s, want %s", env, got, want)
		}
	}
}

func TestStopThatHangsIsCutShort(t *testing.T) {
	hang, ran := make(chan struct{}), make(chan string, 1)
	d := &Daemon{parts: parts{cfg: defaultConfig(t.TempDir())}, forced: context.Background()}
	d.cfg.Daemon.ShutdownTimeout = 50 * time.Millisecond
	d.later(func() error { <-hang; return nil })
	d.later(func() error { ran <- "the last goes first"; return nil })
	if err := d.stop(); err == nil || !strings.Contains(err.Error(), "took too long") || len(ran) != 1 {
		t.Errorf("stop: %v, %d of the later steps ran", err, len(ran))
	}
	close(hang)
}

func TestProblemsNameWhatIsDegraded(t *testing.T) {
	r := newQueueRig(t, QueueOptions{}, nil)
	d := &Daemon{parts: parts{store: r.store, queue: r.q}, logFile: &logFile{}}
	if p := d.problems(); p != nil {
		t.Errorf("all is well, and yet %q", p)
	}
	free := r.diskFull()
	big := newTestJob("github.commits")
	big.Payload = []byte(`{"x":"` + strings.Repeat("x", 200_000) + `"}`)
	if _, err := r.q.Submit(big); codeOf(err) != codeStorageFull {
		t.Fatal(err)
	}
	r.q.failing, d.logFile.problem = 2, "3 lines lost"
	p := strings.Join(d.problems(), "\n")
	for _, want := range []string{"database: STORAGE_FULL", "database: results that wait to be stored: 2; free some space", "log: 3 lines lost"} {
		if !strings.Contains(p, want) {
			t.Errorf("no %q in %q", want, p)
		}
	}
	r.q.failing = 0
	free()
}

func TestWhatToDoAboutADatabaseThatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.db")
	foreign := inspectDatabase(putFile(t, t.TempDir(), "daemon.db", "mine"))
	_, absent := os.Open(path)
	for want, err := range map[string]error{
		"begin anew: mv " + shellQuoted(path): foreign,
		"":                                    absent,
	} {
		told := ""
		if e, ok := errors.AsType[*Error](refusedDatabase(path, err)); ok {
			told = e.Hint
		}
		if !strings.Contains(told, want) || (want == "") != (told == "") {
			t.Errorf("%v: hint %q, want %q", err, told, want)
		}
	}
	if err := refusedDatabase(path, nil); err != nil {
		t.Error(err)
	}
}

func TestFilesOfAnotherUserAreRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a file another user's")
	}
	home := t.TempDir()
	if err := os.Chown(home, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if err := prepareHome(home, nil); err == nil || !strings.Contains(err.Error(), "12345") {
		t.Errorf("home: %v", err)
	}
	putFile(t, home, "key", strings.Repeat("k", keyFileBytes))
	if err := os.Chown(filepath.Join(home, "key"), 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecret(filepath.Join(home, "key"), keyFileBytes); !errors.Is(err, errOpenToOthers) {
		t.Errorf("key: %v", err)
	}
}

func TestRetentionRemovesWhatEndedLongAgoAtTheStartAndEveryHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		d := &Daemon{parts: parts{cfg: defaultConfig(t.TempDir()), store: r.store, log: r.opts.Log}}
		d.cfg.Storage.Retention = 24 * time.Hour
		for _, age := range []time.Duration{25 * time.Hour, 23*time.Hour + 30*time.Minute, time.Hour} {
			end, ack := *r.submit(newTestJob("github.commits")), make(chan error, 1)
			end.Status, end.CompletedAt = statusCompleted, timeNow().Add(-age)
			r.store.Finish(&end, func(err error) { ack <- err })
			if err := <-ack; err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.retain(ctx)
		for _, want := range []int{2, 1} {
			synctest.Wait()
			if jobs, err := r.store.Jobs(JobFilter{Limit: 10}); err != nil || len(jobs) != want {
				t.Errorf("%d jobs left, want %d (%v)", len(jobs), want, err)
			}
			advance(time.Hour)
		}
	})
}

func TestRetentionGoesOnWhereTheNotedTimeIsGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		if err := r.store.SetConfigValue(believedKey, "yesterday"); err != nil {
			t.Fatal(err)
		}
		d := &Daemon{parts: parts{cfg: defaultConfig(t.TempDir()), store: r.store, log: r.opts.Log}}
		d.cfg.Storage.Retention = 24 * time.Hour
		end, ack := *r.submit(newTestJob("github.commits")), make(chan error, 1)
		end.Status, end.CompletedAt = statusCompleted, timeNow().Add(-100*time.Hour)
		r.store.Finish(&end, func(err error) { ack <- err })
		<-ack
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.retain(ctx)
		advance(48 * time.Hour)
		jobs, err := r.store.Jobs(JobFilter{Limit: 10})
		if err != nil || len(jobs) != 0 {
			t.Errorf("%d left (%v); log %s", len(jobs), err, r.log)
		}
	})
}

// A machine that was off for long, and is never on for an hour, doubts its clock no longer than an hour of all its time.
func TestADoubtOfTheClockEndsThoughNoSessionLastsAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, QueueOptions{}, nil)
		d := &Daemon{parts: parts{cfg: defaultConfig(t.TempDir()), store: r.store, log: r.opts.Log}}
		d.cfg.Storage.Retention = 24 * time.Hour
		session := func() {
			end, ack := *r.submit(newTestJob("github.commits")), make(chan error, 1)
			end.Status, end.CompletedAt = statusCompleted, timeNow()
			r.store.Finish(&end, func(err error) { ack <- err })
			<-ack
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { d.retain(ctx); close(done) }()
			advance(50 * time.Minute)
			cancel()
			<-done
		}
		session()
		advance(40 * 24 * time.Hour)
		for range 100 {
			session()
			advance(23 * time.Hour)
		}
		jobs, err := r.store.Jobs(JobFilter{Limit: 1000})
		if err != nil || len(jobs) > 3 {
			t.Errorf("%d jobs left (%v)", len(jobs), err)
		}
	})
}
