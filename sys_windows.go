package main

// The same for Windows, which builds but is untested.

import (
	"io/fs"
	"os"
	"syscall"
	"unsafe"
)

var lockFileEx = syscall.NewLazyDLL("kernel32.dll").NewProc("LockFileEx")

const (
	nonBlock = 0
	noFollow = 0
)

func tryLock(f *os.File, exclusive bool) (held bool, err error) {
	const (
		failImmediately    = 1
		exclusiveLock      = 2
		errorLockViolation = syscall.Errno(33)
	)
	flags := uintptr(failImmediately)
	if exclusive {
		flags |= exclusiveLock
	}
	overlapped := syscall.Overlapped{OffsetHigh: 1 << 30} // far behind the note, which others may read
	ok, _, errno := lockFileEx.Call(
		f.Fd(),
		flags,
		0, // reserved
		1, // byte
		0,
		uintptr(unsafe.Pointer(&overlapped)),
	)
	if ok != 0 {
		return false, nil
	}
	if errno == errorLockViolation {
		return true, nil
	}
	return false, errno
}

func hardenProcess() error { return nil }

func openFileLimit() (uint64, error) { return 1 << 20, nil }

func ownerOf(fs.FileInfo) (uid int, ok bool) { return 0, false }

func linksOf(fs.FileInfo) uint64 { return 1 }

func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

var terminateSignals = []os.Signal{os.Interrupt}

var ignoredSignals []os.Signal

// peerUID: Windows does not tell; the directory's permissions are the barrier.
func peerUID(uintptr) (uid int, known bool, err error) { return 0, false, nil }
