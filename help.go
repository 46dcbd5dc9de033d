package main

// The help: one screen for newcomers, and a page for each verb, made from the table that the program obeys.

import (
	"flag"
	"fmt"
	"slices"
	"strings"
)

const helpText = `honeydew pulls the activity of your organisations, now or on a schedule, in the background.

Start here:
  honeydew start                              run the daemon
  honeydew login                              log in to the API
  honeydew github repositories ORGANIZATION   pull something; see: honeydew commands

Daemon:       start stop status ping logs daemon version
Environments: env add|list|use|current|remove  login logout  auth status
Jobs:         PROVIDER COMMAND ARG...  submit commands
              job list|show|result|wait|cancel|retry
Schedules:    schedule add|list|remove|pause|resume|run|test
Queue:        queue pause|resume  prune backup
Tools:        doctor  service install|uninstall  completion bash|zsh|fish

Every command takes --json for scripts and --help for its flags and an example.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 daemon not running, 4 login needed, 130 interrupted.
Files are in ~/.honeydew, or $HONEYDEW_HOME.`

func (c *cli) help() { c.printf("%s", helpText) }

// helpGroup lists the verbs that begin with a word.
func (c *cli) helpGroup(word string, group []verb) {
	width := 0
	for _, v := range group {
		width = max(width, len(v.name+" "+v.args))
	}
	for _, v := range group {
		c.printf("  honeydew %-*s  %s", width, strings.TrimSpace(v.name+" "+v.args), v.short)
	}
}

func (c *cli) helpVerb(v *verb, f *flag.FlagSet) {
	c.printf("%s\n\nUsage: honeydew %s [FLAG...]", strings.ToUpper(v.short[:1])+v.short[1:], strings.TrimSpace(v.name+" "+v.args))
	var lines [][2]string
	f.VisitAll(func(f *flag.Flag) {
		kind, usage := flag.UnquoteUsage(f)
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = "-" + f.Name
		}
		lines = append(lines, [2]string{strings.TrimSpace(name + " " + kind), usage})
	})
	slices.SortStableFunc(lines, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	width := 0
	for _, l := range lines {
		width = max(width, len(l[0]))
	}
	if len(lines) > 0 {
		c.printf("\nFlags:")
	}
	for _, l := range lines {
		fmt.Fprintf(c.out, "  %-*s  %s\n", width, l[0], l[1])
	}
	c.printf("\nExample:\n  %s", v.example)
}
