//go:build unix && !linux

package main

// denyDumps: a core size of 0 is all that these systems offer.
func denyDumps() error { return nil }
