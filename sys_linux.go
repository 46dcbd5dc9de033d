package main

// What only Linux has.

import "syscall"

// denyDumps takes the process from debuggers and core dump handlers (PR_SET_DUMPABLE, prctl(2)).
func denyDumps() error {
	const setDumpable = 4
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
