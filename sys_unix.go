//go:build unix

package main

// What differs between systems: locks, the mask of new files, core dumps, owners, detached processes.

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// nonBlock and noFollow are flags of open(2): do not wait for the other end of a FIFO, follow no link.
const (
	nonBlock = syscall.O_NONBLOCK
	noFollow = syscall.O_NOFOLLOW
)

// tryLock takes the lock on f, exclusive or shared, for as long as f stays open, or reports that somebody else has it.
func tryLock(f *os.File, exclusive bool) (held bool, err error) {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// hardenProcess makes new files the owner's alone, and keeps tokens and passwords out of core dumps and from debuggers.
// It must run before any other goroutine: the mask is the process's.
func hardenProcess() error {
	syscall.Umask(0o077)
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return err
	}
	return denyDumps()
}

// openFileLimit is how many files the process may have open.
func openFileLimit() (uint64, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), err
}

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// linksOf is how many names the file has.
func linksOf(info fs.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1
	}
	return uint64(st.Nlink)
}

// detached makes a child that outlives its terminal.
func detached() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}

// terminateSignals ask a process to end, the first one also where a shell has it born deaf to the other.
var terminateSignals = []os.Signal{syscall.SIGTERM, os.Interrupt}

// ignoredSignals do not end a daemon: its terminal may close.
var ignoredSignals = []os.Signal{syscall.SIGHUP, syscall.SIGPIPE}
