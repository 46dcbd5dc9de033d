// Command honeydew pulls the activity of organisations through the Honeydew API: a per-user daemon and its command
// line in one binary. Called as `daemon`, or as `honeydew daemon`, it is the daemon.
package main

// This file turns the facts of the process (arguments, name, environment, signals, exit code) into one call of run.

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	_ "time/tzdata" // zones of schedules, on systems that have none

	"golang.org/x/term"
)

//go:embed queries/*.*.graphql
var queries embed.FS

// version is set by the linker.
var version = "dev"

func main() {
	if err := hardenProcess(); err != nil {
		fmt.Fprintln(os.Stderr, "honeydew: the process cannot be kept from core dumps:", err)
		os.Exit(exitFailed)
	}
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	executable, _ := os.Executable() // "" where the system does not tell
	userHome, _ := os.UserHomeDir()
	width, _, _ := term.GetSize(int(os.Stdout.Fd())) // 0 where that is no terminal
	args := os.Args[1:]
	if name == "daemon" {
		args = append([]string{"daemon"}, args...)
	}
	os.Exit(runCLI(context.Background(), process{
		args:        args,
		executable:  cmp.Or(executable, os.Args[0]),
		getenv:      os.Getenv,
		userHome:    cmp.Or(userHome, "/"),
		stdin:       os.Stdin,
		stdout:      os.Stdout,
		stdoutWidth: width,
		stderr:      os.Stderr,
		queries:     queries,
		version:     version,
	}))
}
