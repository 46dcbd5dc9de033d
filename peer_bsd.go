//go:build darwin || freebsd

package main

import (
	"net"
	"syscall"
	"unsafe"
)

// peerUID asks the kernel whose process is at the other end (LOCAL_PEERCRED, unix(4)): a struct xucred of version 0,
// whose second word is the effective uid.
func peerUID(c *net.UnixConn) (uid int, known bool, err error) {
	const solLocal, localPeercred = 0, 1
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var cred [96]uint32 // larger than any xucred
	size := uint32(unsafe.Sizeof(cred))
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, solLocal, localPeercred,
			uintptr(unsafe.Pointer(&cred)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil {
		return 0, false, err
	}
	if errno != 0 {
		return 0, false, errno
	}
	return int(cred[1]), size >= 8 && cred[0] == 0, nil
}
