//go:build unix

package main

// What differs between systems: locks, the mask of new files, core dumps, owners, detached processes.

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// tryLock takes the exclusive lock on f for as long as f stays open, or reports that somebody else holds it.
func tryLock(f *os.File) (held bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// hardenProcess makes new files the owner's alone and keeps tokens out of core dumps. It must run before any other
// goroutine: the mask is the process's.
func hardenProcess() error {
	syscall.Umask(0o077)
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// detached makes a child that outlives its terminal.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// terminateSignals ask a process to end.
var terminateSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// ignoredSignals do not end a daemon: its terminal may close.
var ignoredSignals = []os.Signal{syscall.SIGHUP, syscall.SIGPIPE}
