package main

// A daemon under test: the built binary in a home of its own, driven as its users drive it, by command line, socket,
// signals and files.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"honeydew/daemonpb"
)

// daemon is one home and, between start and its end, one process.
type daemon struct {
	bin, home string
	wrap      []string // in front of the command line: strace
	cmd       *exec.Cmd
	ended     chan struct{}
	err       error // of the process, once ended is closed
	stderr    bytes.Buffer
}

// config is the usual config.yaml for an API; more holds other sections, or goes on with this one.
func config(apiURL, more string) string {
	return fmt.Sprintf("api:\n  graphql_endpoint: %s\n  timeout: 5s\n", apiURL) + more
}

func newDaemon(bin, home, configText string) (*daemon, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	d := &daemon{bin: bin, home: home}
	return d, os.WriteFile(d.path("config.yaml"), []byte(configText), 0o600)
}

func (d *daemon) path(name string) string { return filepath.Join(d.home, name) }

// environ is the test's own, without what would lead elsewhere.
func (d *daemon) environ() []string {
	env := []string{"HONEYDEW_HOME=" + d.home, "HOME=" + d.home}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if upper := strings.ToUpper(name); strings.HasPrefix(upper, "HONEYDEW_") || upper == "HOME" || strings.HasSuffix(upper, "_PROXY") {
			continue
		}
		env = append(env, v)
	}
	return env
}

// cli runs the command line to its end and returns what it printed and its exit code, -1 for a signal.
func (d *daemon) cli(ctx context.Context, args ...string) (out string, code int) {
	cmd := exec.CommandContext(ctx, d.bin, args...)
	cmd.Env, cmd.WaitDelay = d.environ(), time.Second
	text, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(text), exit.ExitCode()
	} else if err != nil {
		return string(text) + err.Error(), -1
	}
	return string(text), 0
}

// spawn starts the process and does not wait for it.
func (d *daemon) spawn() error {
	line := append(append([]string(nil), d.wrap...), d.bin, "daemon")
	d.cmd = exec.Command(line[0], line[1:]...)
	d.stderr.Reset()
	d.cmd.Env, d.cmd.Stderr, d.cmd.Dir = d.environ(), &d.stderr, "/"
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.ended, d.err = make(chan struct{}), nil
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func(cmd *exec.Cmd, ended chan struct{}) {
		d.err = cmd.Wait()
		close(ended)
	}(d.cmd, d.ended)
	return nil
}

// ready waits until the daemon answers.
func (d *daemon) ready(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case <-d.ended:
			return fmt.Errorf("the daemon ended: %v: %s", d.err, strings.TrimSpace(d.stderr.String()))
		default:
		}
		if c, err := net.Dial("unix", d.path("daemon.sock")); err == nil {
			c.Close()
			conn, client, err := d.dial()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err = client.Ping(ctx, &daemonpb.PingRequest{})
			cancel()
			conn.Close()
			if err == nil {
				return nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("the daemon does not answer after %s", patience)
}

func (d *daemon) start() error {
	if err := d.spawn(); err != nil {
		return err
	}
	return d.ready(30 * time.Second)
}

func (d *daemon) dial() (*grpc.ClientConn, daemonpb.DaemonClient, error) {
	conn, err := grpc.NewClient("unix:"+d.path("daemon.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return nil, nil, err
	}
	return conn, daemonpb.NewDaemonClient(conn), nil
}

// running reports whether the process that spawn started lives.
func (d *daemon) running() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// kill is SIGKILL, and waits for the end.
func (d *daemon) kill() {
	if d.running() {
		_ = d.cmd.Process.Kill() // it may just have ended
		<-d.ended
	}
}

// end waits for the end of the process and returns its exit code, -1 for a signal, -2 when it goes on living.
func (d *daemon) end(patience time.Duration) int {
	select {
	case <-d.ended:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		return -2
	}
}

// stop is SIGTERM, and waits for the end.
func (d *daemon) stop(patience time.Duration) int {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
	return d.end(patience)
}

// login stores a login for the active environment.
func (d *daemon) login(ctx context.Context) error {
	conn, client, err := d.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = client.Login(ctx, &daemonpb.LoginRequest{Username: username, Password: password})
	return err
}
