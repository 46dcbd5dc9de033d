package main

// What only Linux has.

import "syscall"

// denyDumps takes the process from debuggers and core dump handlers (PR_SET_DUMPABLE, prctl(2)).
func denyDumps() error {
	const setDumpable = 4
	_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setDumpable, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// peerUID asks the kernel whose process is at the other end of the socket fd (SO_PEERCRED, unix(7)).
func peerUID(fd uintptr) (uid int, known bool, err error) {
	cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return 0, false, err
	}
	return int(cred.Uid), true, nil
}
