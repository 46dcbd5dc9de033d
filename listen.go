package main

// One daemon per home, and its socket. The lock on daemon.lock decides who is the daemon; the PID file is for people
// and the socket for clients, and only the holder of the lock touches either. A stale socket is removed only under
// the lock, and the listener never unlinks by itself: an old listener's Close would remove a new daemon's socket.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"google.golang.org/grpc/credentials"
)

// errAlreadyRunning: another daemon holds the lock.
var errAlreadyRunning = errors.New("another daemon is running for this home")

// prepareHome makes dir if need be, and makes sure that it is a directory of ours that nobody else can enter.
func prepareHome(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := checkHome(dir)
	if errors.Is(err, errOpenHome) {
		return os.Chmod(dir, 0o700)
	}
	return err
}

// errOpenHome: others can enter the home.
var errOpenHome = errors.New("is open to others")

// checkHome looks at the home without changing it.
func checkHome(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if uid, ok := ownerOf(info); ok && uid != os.Getuid() {
		return fmt.Errorf("%s belongs to uid %d, not to you (uid %d)", dir, uid, os.Getuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%s %w (mode %04o)", dir, errOpenHome, mode)
	}
	return nil
}

// instanceLock is the right to be the daemon of a home; it ends with the process at the latest. The file is never
// removed, since two processes could then lock two files of one name.
type instanceLock struct{ file *os.File }

func lockInstance(path string) (*instanceLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	held, err := tryLock(f)
	if held {
		err = errAlreadyRunning
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &instanceLock{f}, nil
}

func (l *instanceLock) release() error { return l.file.Close() }

// lockHeld reports whether a daemon holds the lock at path.
func lockHeld(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return false, exceptAbsent(err)
	}
	defer f.Close()
	return tryLock(f)
}

// listenSocket makes the socket at path; the caller holds the instance lock.
func listenSocket(path string) (*net.UnixListener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type()&fs.ModeSocket == 0 && runtime.GOOS != "windows" {
			return nil, fmt.Errorf("%s is in the way: it is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// checkSocketPath refuses what the system's socket addresses cannot hold.
func checkSocketPath(path string) error {
	limit := 107
	if runtime.GOOS != "linux" {
		limit = 103
	}
	if len(path) > limit {
		return errorf(codeInvalidArgument, "the socket's path has %d bytes, at most %d are possible: %s", len(path), limit, path).
			hint("set daemon.socket_path in config.yaml to a shorter path")
	}
	return nil
}

// writePID writes the PID file, for people; daemon.lock is what counts.
func writePID(path string) error {
	temp := path + ".tmp"
	if err := os.WriteFile(temp, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// peerCredentials is no encryption, which a Unix socket does not need, but knowledge of who is at the other end: the
// daemon hears who calls, and a client sends nothing to a stranger.
type peerCredentials struct {
	credentials.TransportCredentials             // nil; the rest of the interface is not called
	refused                          func(error) // hears of a client's refusal, for gRPC makes a text of it
}

// peerInfo is the calling process's user, where the platform tells.
type peerInfo struct {
	credentials.CommonAuthInfo
	uid   int
	known bool
}

func (peerInfo) AuthType() string { return "peer-credentials" }

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: peerInfo{}.AuthType()}
}

func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// ServerHandshake notes who calls; the daemon decides later what that user may do.
func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := peerOf(c)
	return c, info, err
}

// ClientHandshake refuses a socket at which another user listens, before anything is sent.
func (p peerCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := peerOf(c)
	if err != nil {
		return nil, nil, err
	}
	if err := strangerError(c.RemoteAddr().String(), info, os.Getuid()); err != nil {
		if p.refused != nil {
			p.refused(err)
		}
		return nil, nil, err
	}
	return c, info, nil
}

// strangerError judges who listens at the socket, for a client of the user self: only the user and root may see a
// password. A platform that does not tell leaves it to the modes of the home.
func strangerError(socket string, listener peerInfo, self int) error {
	if !listener.known || listener.uid == self || listener.uid == 0 {
		return nil
	}
	return fmt.Errorf("the socket %s belongs to uid %d, not to you; nothing was sent", socket, listener.uid)
}

// peerOf asks the system whose process is at the other end of c.
func peerOf(c net.Conn) (peerInfo, error) {
	info := peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return info, nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return info, err
	}
	var unasked error
	err = raw.Control(func(fd uintptr) { info.uid, info.known, unasked = peerUID(fd) })
	return info, errors.Join(err, unasked)
}

// notifySystemd tells the service manager of a change of state with one datagram, as sd_notify(3) recommends doing
// without a library; without NOTIFY_SOCKET it does nothing.
func notifySystemd(socket, state string) error {
	if socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

func lockPath(home string) string { return filepath.Join(home, "daemon.lock") }
