package main

// The same for Windows, which builds but is untested.

import (
	"io/fs"
	"os"
	"syscall"
	"unsafe"
)

var lockFileEx = syscall.NewLazyDLL("kernel32.dll").NewProc("LockFileEx")

func tryLock(f *os.File) (held bool, err error) {
	const exclusive, failImmediately, errorLockViolation = 2, 1, syscall.Errno(33)
	var overlapped syscall.Overlapped
	ok, _, errno := lockFileEx.Call(f.Fd(), exclusive|failImmediately, 0, 1, 0, uintptr(unsafe.Pointer(&overlapped)))
	if ok != 0 {
		return false, nil
	}
	if errno == errorLockViolation {
		return true, nil
	}
	return false, errno
}

func hardenProcess() error { return nil }

func ownerOf(fs.FileInfo) (uid int, ok bool) { return 0, false }

func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

var terminateSignals = []os.Signal{os.Interrupt}

var ignoredSignals []os.Signal
