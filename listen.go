package main

// The daemon's socket, and who is at its other end. Only the holder of the home's lock touches the socket's file: a
// stale one is removed under the lock, and the listener never unlinks by itself, for an old listener's Close would
// remove a new daemon's socket.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"time"

	"google.golang.org/grpc/credentials"
)

// ourSocket is the daemon's socket and the file that it is.
type ourSocket struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

// listenSocket makes the socket at path. The caller holds the instance lock, and has checked how long the path is.
func listenSocket(path string) (*ourSocket, error) {
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	var info fs.FileInfo
	err = os.Chmod(path, 0o600)
	if err == nil {
		info, err = os.Lstat(path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ourSocket{l, path, info}, nil
}

// removeStaleSocket removes what an ended daemon left at path. A socket that answers belongs to another home's daemon.
func removeStaleSocket(path string) error {
	if err := checkSocketFree(path); err != nil || !exists(path) {
		return err
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return os.Remove(path)
	}
	inUse := fmt.Errorf("%s is in use by another daemon; set daemon.socket_path to another path", path)
	return errors.Join(inUse, c.Close())
}

// checkSocketFree says what lies where the socket belongs, if that is something else.
func checkSocketFree(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return exceptAbsent(err)
	}
	if info.Mode().Type()&fs.ModeSocket == 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%s is in the way: it is not a socket; move it away", path)
	}
	return nil
}

// checkSocketPath refuses what the system's socket addresses cannot hold.
func checkSocketPath(path string) error {
	limit := 107
	if runtime.GOOS != "linux" {
		limit = 103
	}
	if len(path) > limit {
		return invalidf("the socket's path has %d bytes, at most %d are possible: %s", len(path), limit, path).
			hint("name a shorter path by daemon.socket_path in config.yaml, or by $HONEYDEW_SOCKET")
	}
	return nil
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

// ServerHandshake notes who calls; the daemon decides later what that user may do.
func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := peerOf(c)
	return c, info, err
}

// ClientHandshake refuses a socket at which another user listens, before anything is sent.
func (p peerCredentials) ClientHandshake(
	_ context.Context,
	_ string,
	c net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
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
	raw, err := c.(*net.UnixConn).SyscallConn() // neither our listener nor our dialer makes others
	if err != nil {
		return info, err
	}
	var unasked error
	err = raw.Control(func(fd uintptr) {
		info.uid, info.known, unasked = peerUID(fd)
	})
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
