package main

// The daemon's socket, and who is at its other end. Only the holder of the home's lock touches the socket's file: a
// stale one is removed under the lock, and the listener never unlinks by itself, for an old listener's Close would
// remove a new daemon's socket.

import (
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

// listenSocket makes the socket at path; the caller holds the instance lock.
func listenSocket(path string) (*ourSocket, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ourSocket{l, path, info}, nil
}

// removeStaleSocket removes what an ended daemon left at path. A socket that answers belongs to another home's daemon.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return exceptAbsent(err)
	}
	if info.Mode().Type()&fs.ModeSocket == 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%s is in the way: it is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return os.Remove(path)
	}
	inUse := fmt.Errorf("%s is in use by another daemon; set daemon.socket_path to another path", path)
	return errors.Join(inUse, c.Close())
}

// checkSocketPath refuses what the system's socket addresses cannot hold.
func checkSocketPath(path string) error {
	limit := 107
	if runtime.GOOS != "linux" {
		limit = 103
	}
	if len(path) > limit {
		return invalidf("the socket's path has %d bytes, at most %d are possible: %s", len(path), limit, path).
			hint("set daemon.socket_path in config.yaml to a shorter path")
	}
	return nil
}

// peerCredentials is no encryption, which a Unix socket does not need, but knowledge of who is calling. The rest of the
// interface is for clients: a server asks for nothing but the handshake.
type peerCredentials struct {
	credentials.TransportCredentials
}

// peerInfo is the calling process's user, where the platform tells.
type peerInfo struct {
	credentials.CommonAuthInfo
	uid   int
	known bool
}

func (peerInfo) AuthType() string { return "peer-credentials" }

func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return c, info, nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var unasked error
	err = raw.Control(func(fd uintptr) {
		info.uid, info.known, unasked = peerUID(fd)
	})
	return c, info, errors.Join(err, unasked)
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
