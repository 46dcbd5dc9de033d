//go:build darwin || freebsd

package main

// What macOS and FreeBSD have in common.

import (
	"syscall"
	"unsafe"
)

// denyDumps: a core size of 0 is all that these systems offer.
func denyDumps() error { return nil }

// peerUID asks the kernel whose process is at the other end of the socket fd (LOCAL_PEERCRED, unix(4)). It answers with
// a struct xucred, whose version must be 0:
//
//	version uint32 | effective uid uint32 | groups
func peerUID(fd uintptr) (uid int, known bool, err error) {
	const (
		solLocal      = 0
		localPeercred = 1
	)
	var cred [96]uint32 // larger than any xucred
	size := uint32(unsafe.Sizeof(cred))
	_, _, errno := syscall.Syscall6(
		syscall.SYS_GETSOCKOPT,
		fd,
		solLocal,
		localPeercred,
		uintptr(unsafe.Pointer(&cred)),
		uintptr(unsafe.Pointer(&size)),
		0,
	)
	if errno != 0 {
		return 0, false, errno
	}
	version := cred[0]
	return int(cred[1]), size >= 8 && version == 0, nil
}
