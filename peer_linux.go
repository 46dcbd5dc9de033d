package main

// Who is at the other end of a socket, as Linux tells it.

import "syscall"

// peerUID asks the kernel whose process is at the other end of the socket fd (SO_PEERCRED, unix(7)).
func peerUID(fd uintptr) (uid int, known bool, err error) {
	cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return 0, false, err
	}
	return int(cred.Uid), true, nil
}
