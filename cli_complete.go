package main

// Completion: three small shell scripts that ask `honeydew __complete WORDS...` for the candidates of the last word.

import (
	"context"
	"flag"
	"slices"
	"strings"

	"honeydew/daemonpb"
)

func (c *cli) completion(_ context.Context, args []string) error {
	script, err := texts.ReadFile("texts/completion." + args[0])
	if err != nil {
		return usagef("completion: no shell %q; allowed: bash, zsh, fish", args[0])
	}
	return c.text("script", strings.TrimSuffix(string(script), "\n"))
}

// What __complete prints where the shell shall complete a file, or one behind an @.
const (
	fileMark   = "__files"
	atFileMark = "__files@"
)

// complete prints what may stand in place of the last of args.
func (c *cli) complete(ctx context.Context, args []string) error {
	last := ""
	if len(args) > 0 {
		last = args[len(args)-1]
		args = args[:len(args)-1]
	}
	candidates, err := c.candidates(ctx, args, last)
	slices.Sort(candidates)
	for _, word := range slices.Compact(candidates) {
		mark := word == fileMark || word == atFileMark
		if mark || word != "__complete" && strings.HasPrefix(word, last) {
			c.printf("%s", word)
		}
	}
	return err
}

// candidates lists the words that may follow those before: of a verb's name, or its flags, or values.
func (c *cli) candidates(ctx context.Context, before []string, last string) ([]string, error) {
	if len(before) > 0 && before[0] == "help" {
		before = before[1:]
	}
	var next []string
	for v := range c.verbs {
		name := strings.Fields(v.name)
		n := min(len(name), len(before))
		if !slices.Equal(name[:n], before[:n]) {
			continue
		}
		if n == len(name) {
			return c.afterVerb(ctx, v, before[n:], last)
		}
		next = append(next, name[n])
	}
	return next, nil
}

// afterVerb lists the flags or values that may follow a verb and the words given to it.
func (c *cli) afterVerb(ctx context.Context, v verb, given []string, last string) ([]string, error) {
	f := flag.NewFlagSet(v.name, flag.ContinueOnError)
	v.declare(f)
	kind := kindOf(v, f, given)
	switch {
	case strings.HasPrefix(last, "-"): // a flag
	case kind == "KEY=VALUE":
		return c.keys(given), nil
	default:
		return c.values(ctx, kind, last)
	}
	flags := []string{"--json", "--help"}
	f.VisitAll(func(f *flag.Flag) {
		flags = append(flags, "--"+f.Name)
	})
	return flags, nil
}

// kindOf names what comes next: the value of the flag that waits for one, else the argument of that place. The last
// argument may repeat. A NAME is one of the verb's group, unless it is a new one.
func kindOf(v verb, f *flag.FlagSet, given []string) string {
	n := len(given)
	if n > 0 {
		name, isFlag := strings.CutPrefix(given[n-1], "--")
		if isFlag && f.Lookup(name) != nil {
			return name
		}
	}
	places := strings.Fields(v.args)
	if len(places) == 0 {
		return ""
	}
	place := strings.Trim(places[min(n, len(places)-1)], "[].")
	group, verb, _ := strings.Cut(v.name, " ")
	if strings.HasSuffix(place, "NAME") && verb != "add" {
		return group
	}
	return place
}

// keys lists the arguments of the command among the words, each with its = and, where that is a choice, its values.
func (c *cli) keys(given []string) []string {
	var keys []string
	for _, word := range given {
		cmd, err := c.commands().Lookup(word)
		if err != nil {
			continue
		}
		for _, a := range cmd.Args {
			if strings.HasPrefix(a.Type, "Boolean") {
				keys = append(keys, a.Name+"=true", a.Name+"=false")
			} else {
				keys = append(keys, a.Name+"=")
			}
		}
	}
	return keys
}

// values lists what can stand for an argument or flag that begins with last; the daemon is asked for names and ids, the
// shell for files.
func (c *cli) values(ctx context.Context, kind, last string) ([]string, error) {
	switch kind {
	case "FILE", "config", "batch":
		return []string{fileMark}, nil
	case "payload":
		if strings.HasPrefix(last, "@") {
			return []string{atFileMark}, nil
		}
	case "COMMAND", "command":
		return namesOf(c.commands().All(), func(cmd *Command) string {
			return cmd.Name
		}), nil
	case "ID":
		out, err := c.client.ListJobs(ctx, &daemonpb.ListJobsRequest{Limit: 100})
		return namesOf(out.GetJobs(), (*daemonpb.JobStatus).GetJobId), err
	case "schedule":
		out, err := c.client.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
		return namesOf(out.GetSchedules(), (*daemonpb.Schedule).GetName), err
	case "env", "environment":
		out, err := c.client.ListEnvironments(ctx, &daemonpb.ListEnvironmentsRequest{})
		return namesOf(out.GetEnvironments(), (*daemonpb.Environment).GetName), err
	}
	choices := map[string][]string{
		"SHELL": {
			"bash",
			"zsh",
			"fish",
		},
		"status": {
			statusPending,
			statusRunning,
			statusCompleted,
			statusFailed,
			statusCancelled,
		},
		"code": jobCodes(),
		"missed": {
			missedRunOnce,
			missedSkip,
		},
		"overlap": {
			overlapSkip,
			overlapAllow,
		},
	}
	return choices[kind], nil
}

// namesOf names all items.
func namesOf[T any](items []T, name func(T) string) []string {
	var names []string
	for _, item := range items {
		names = append(names, name(item))
	}
	return names
}
