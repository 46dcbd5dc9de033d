package main

import "strings"

func provider(command string) string { p, _, _ := strings.Cut(command, "."); return p }
