package main

// Completion: three small shell scripts that ask `honeydew __complete WORDS...` for the candidates of the last word.

import (
	"context"
	"flag"
	"slices"
	"strings"

	"honeydew/daemonpb"
)

const bashCompletion = `_honeydew() {
  local IFS=$'\n'
  COMPREPLY=($(honeydew __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _honeydew honeydew`

const zshCompletion = `#compdef honeydew
_honeydew() {
  local -a candidates
  candidates=(${(f)"$(honeydew __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  compadd -a candidates
}
compdef _honeydew honeydew`

const fishCompletion = `complete -c honeydew -f -a '(set -l words (commandline -opc) (commandline -ct); honeydew __complete -- $words[2..-1] 2>/dev/null)'`

func completionVerb(c *cli, _ *flag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		script, known := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[args[0]]
		if !known {
			return usagef("completion: no shell %q; allowed: bash, zsh, fish", args[0])
		}
		return c.showText("script", script)
	}
}

// completeVerb prints what may stand in place of the last of args.
func completeVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			args = []string{""}
		}
		candidates, err := c.candidates(ctx, args[:len(args)-1], args[len(args)-1])
		if err != nil {
			return err
		}
		slices.Sort(candidates)
		for _, word := range slices.Compact(candidates) {
			if strings.HasPrefix(word, args[len(args)-1]) {
				c.printf("%s", printable(word))
			}
		}
		return nil
	}
}

// candidates lists the words that may follow those before.
func (c *cli) candidates(ctx context.Context, before []string, last string) (words []string, err error) {
	verbs := c.verbs()
	if len(before) > 0 && before[0] == "help" {
		before = before[1:]
	}
	line := strings.Join(before, " ")
	var found *verb
	for i, v := range verbs {
		if line == v.name || strings.HasPrefix(line, v.name+" ") {
			found = &verbs[i]
		}
		if rest, ok := strings.CutPrefix(v.name, line); ok && !strings.HasPrefix(v.name, "__") && (line == "" || strings.HasPrefix(rest, " ")) {
			words = append(words, strings.Fields(rest)[0])
		}
	}
	if found == nil {
		return words, nil
	}
	f := flag.NewFlagSet(found.name, flag.ContinueOnError)
	found.setup(c, f)
	if strings.HasPrefix(last, "-") {
		words = []string{"--json", "--help"}
		f.VisitAll(func(f *flag.Flag) { words = append(words, "--"+f.Name) })
		return words, nil
	}
	kind := strings.TrimPrefix(before[len(before)-1], "--")
	if kind == before[len(before)-1] || f.Lookup(kind) == nil {
		// No flag waits for its value: an argument, by its place.
		place := len(before) - len(strings.Fields(found.name))
		if kind = ""; place < len(strings.Fields(found.args)) {
			kind = strings.Trim(strings.Fields(found.args)[place], "[].")
		} else if strings.HasSuffix(found.args, "ID...]") || strings.HasSuffix(found.args, "ID...") {
			kind = "ID"
		}
	}
	return c.values(ctx, found.name, kind)
}

// values lists what can stand for an argument or flag; the daemon is asked for names and ids.
func (c *cli) values(ctx context.Context, verb, kind string) (words []string, err error) {
	switch {
	case verb == "completion":
		return []string{"bash", "zsh", "fish"}, nil
	case kind == "status":
		return []string{statusPending, statusRunning, statusCompleted, statusFailed, statusCancelled}, nil
	case kind == "missed":
		return []string{missedRunOnce, missedSkip}, nil
	case kind == "overlap":
		return []string{overlapSkip, overlapAllow}, nil
	case kind == "COMMAND" || kind == "command":
		for _, cmd := range c.commands.All() {
			words = append(words, cmd.Name)
		}
	case kind == "ID":
		out, err := c.client.ListJobs(ctx, &daemonpb.ListJobsRequest{Limit: 100})
		if err != nil {
			return nil, err
		}
		for _, j := range out.Jobs {
			words = append(words, j.JobId)
		}
	case kind == "schedule" || (strings.HasPrefix(verb, "schedule ") && verb != "schedule add" && strings.HasSuffix(kind, "NAME")):
		out, err := c.client.ListSchedules(ctx, &daemonpb.ListSchedulesRequest{})
		if err != nil {
			return nil, err
		}
		for _, s := range out.Schedules {
			words = append(words, s.Name)
		}
	case kind == "environment" || (strings.HasPrefix(verb, "env ") && verb != "env add" && kind == "NAME"):
		out, err := c.client.ListEnvironments(ctx, &daemonpb.ListEnvironmentsRequest{})
		if err != nil {
			return nil, err
		}
		for _, e := range out.Environments {
			words = append(words, e.Name)
		}
	}
	return words, nil
}
