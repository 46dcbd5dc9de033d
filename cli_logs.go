package main

// The log for people, with the daemon alive or dead: its last lines, those of one job, and those that come.

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

const logPoll = 200 * time.Millisecond

func (c *cli) logsVerb(f *flag.FlagSet) action {
	follow := f.Bool("f", false, "go on with new lines, across rotation")
	f.BoolVar(follow, "follow", false, "the same as -f")
	wanted := logFilter{last: 50}
	setLast := func(n int32) { wanted.last = int(n) }
	number(f, "n", 0, "begin with the last `N` lines (50 if not given); 0: all of the present file", setLast)
	number(f, "tail", 0, "the same as -n `N`", setLast)
	return func(ctx context.Context, args []string) error {
		if len(args) > 0 {
			wanted.job = args[0]
		}
		cfg, err := c.config()
		path := cfg.Logging.File
		if err != nil {
			c.note("warning: %s; the log is sought at %s", errorText(err), path)
		}
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			_, _, next := c.explainDead()
			return errorf(codeNotFound, "there is no log yet at %s", path).hint("%s", next)
		}
		if err != nil {
			return err
		}
		if *follow {
			return c.followLog(ctx, file, wanted)
		}
		printed, err := c.printLog(file, wanted)
		if err == nil && printed == 0 && wanted.job != "" {
			return errorf(codeNotFound, "%s has no line about a job %s", path, quoted(wanted.job)).
				hint("older lines are in the files beside it; see the job itself with: honeydew job show %s",
					shellQuoted(wanted.job))
		}
		return err
	}
}

// logFilter selects lines of the log.
type logFilter struct {
	// last are how many of those that are there, 0 for all.
	last int
	// job is a job's id or its beginning, "" for all lines.
	job string
}

// of are the lines of text that are wanted.
func (l logFilter) of(text []byte) [][]byte {
	lines := slices.Collect(bytes.Lines(text))
	if l.job != "" {
		field := []byte(`"job_id":"` + l.job)
		lines = slices.DeleteFunc(lines, func(line []byte) bool { return !bytes.Contains(line, field) })
	}
	if l.last > 0 {
		lines = lines[max(len(lines)-l.last, 0):]
	}
	return lines
}

// followLog prints the last lines, and then what comes, until ctx ends.
func (c *cli) followLog(ctx context.Context, file *os.File, wanted logFilter) error {
	path := file.Name()
	for {
		// Looked for before this file is read to its end: what it got before its rotation comes before what the next
		// one has.
		next := reopened(file, path)
		if err := rewindTruncated(file); err != nil {
			return err
		}
		if _, err := c.printLog(file, wanted); err != nil {
			return err
		}
		wanted.last = 0
		if next != nil {
			_ = file.Close() // only read
			file = next
			continue
		}
		select {
		case <-time.After(logPoll):
		case <-ctx.Done():
			return nil
		}
	}
}

// reopened opens the file at path if it is another one than old.
func reopened(old *os.File, path string) *os.File {
	next, err := os.Open(path)
	if err != nil {
		return nil // between two files
	}
	was, err1 := old.Stat()
	is, err2 := next.Stat()
	if err1 == nil && err2 == nil && !os.SameFile(was, is) {
		return next
	}
	_ = next.Close()
	return nil
}

// rewindTruncated goes back to the start of a file that was emptied in place, as copytruncate does.
func rewindTruncated(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil || at <= info.Size() {
		return err
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// printLog prints the whole lines that follow, those that are wanted, and counts them. One that is still written is
// left for later.
func (c *cli) printLog(file *os.File, wanted logFilter) (printed int, err error) {
	text, err := io.ReadAll(file)
	if err != nil {
		return 0, err
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	lines := wanted.of(whole)
	for _, line := range lines {
		if c.json {
			_, _ = c.out.Write(line) // the flush tells
		} else {
			c.printf("%s", logLine(bytes.TrimSpace(line)))
		}
	}
	_, err = file.Seek(int64(len(whole)-len(text)), io.SeekCurrent)
	return len(lines), errors.Join(err, c.out.Flush())
}
