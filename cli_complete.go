package main

// Completion: three small shell scripts that ask `honeydew __complete WORDS...` for the candidates of the last word.

import (
	"context"
	"flag"
	"slices"
	"strings"

	"honeydew/daemonpb"
)

func completionVerb(c *cli, _ *flag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		script, err := texts.ReadFile("texts/completion." + args[0])
		if err != nil {
			return usagef("completion: no shell %q; allowed: bash, zsh, fish", args[0])
		}
		return c.showText("script", strings.TrimSuffix(string(script), "\n"))
	}
}

// What __complete prints where the shell shall complete a file, or one behind an @.
const (
	fileMark   = "__files"
	atFileMark = "__files@"
)

// completeVerb prints what may stand in place of the last of args.
func completeVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		last := max(len(args)-1, 0)
		args = append(args, "") // the last word, where there is none yet
		candidates, err := c.candidates(ctx, args[:last], args[last])
		slices.Sort(candidates)
		for _, word := range slices.Compact(candidates) {
			mark := word == fileMark || word == atFileMark
			hidden := strings.HasPrefix(word, "__")
			if mark || !hidden && strings.HasPrefix(word, args[last]) {
				c.printf("%s", word)
			}
		}
		return err
	}
}

// candidates lists the words that may follow those before: of a verb's name, or its flags, or values.
func (c *cli) candidates(ctx context.Context, before []string, last string) (words []string, err error) {
	if len(before) > 0 && before[0] == "help" {
		before = before[1:]
	}
	for v := range c.verbs {
		name := strings.Fields(v.name)
		n := min(len(name), len(before))
		switch {
		case !slices.Equal(name[:n], before[:n]):
		case n < len(name):
			words = append(words, name[n])
		default:
			f := flag.NewFlagSet(v.name, flag.ContinueOnError)
			v.setup(c, f)
			if !strings.HasPrefix(last, "-") {
				return c.values(ctx, v, kindOf(v, f, before[n:]), last)
			}
			words = []string{"--json", "--help"}
			f.VisitAll(func(f *flag.Flag) { words = append(words, "--"+f.Name) })
			return words, nil
		}
	}
	return words, err
}

// kindOf names what comes next: the value of the flag that waits for one, else the argument of that place, of which the
// last may repeat.
func kindOf(v verb, f *flag.FlagSet, given []string) string {
	if n := len(given); n > 0 {
		if name, ok := strings.CutPrefix(given[n-1], "--"); ok && f.Lookup(name) != nil {
			return name
		}
	}
	places := strings.Fields(v.args)
	if len(places) == 0 {
		return ""
	}
	return strings.Trim(places[min(len(given), len(places)-1)], "[].")
}

// values lists what can stand for an argument or flag, of which last is the beginning; the daemon is asked for names
// and ids, the shell for files.
func (c *cli) values(ctx context.Context, v verb, kind, last string) ([]string, error) {
	if group, verb, _ := strings.Cut(v.name, " "); strings.HasSuffix(kind, "NAME") && verb != "add" {
		kind = group
	}
	switch kind {
	case "FILE", "config", "batch":
		return []string{fileMark}, nil
	case "payload":
		if strings.HasPrefix(last, "@") {
			return []string{atFileMark}, nil
		}
		return nil, nil
	case "COMMAND", "command":
		return namesOf(c.commands().All(), func(cmd *Command) string { return cmd.Name }), nil
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
	return map[string][]string{
		"SHELL":  {"bash", "zsh", "fish"},
		"status": {statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled},
		"code": {
			codeAuthRequired, codeAuthExpired, codeAuthInvalid, codeAuthNetwork, codeNetwork, codeTimeout, codeRateLimited, codeServer,
			codeAPI, codeBadResponse, codeResultTooLarge, codeOutcomeUnknown, codeInterrupted, codeInternal,
		},
		"missed":  {missedRunOnce, missedSkip},
		"overlap": {overlapSkip, overlapAllow},
	}[kind], nil
}

// namesOf names all items.
func namesOf[T any](items []T, name func(T) string) (names []string) {
	for _, item := range items {
		names = append(names, name(item))
	}
	return names
}
