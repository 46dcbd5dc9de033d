package main

// Real commits, read with the git program. What a client sends never becomes an argument of git: repositories are
// looked up by name among those found on disk, authors and dates are compared here. A commit's date is its committer
// date, since that is when it came to be where it is; only what HEAD reaches is shown.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	codeNotFound     = "NOT_FOUND"
	codeBadUserInput = "BAD_USER_INPUT"
)

// repositories are found anew for every request, so that tests may add some.
type repositories struct{ dir string }

type repository struct{ name, path string }

func (r repositories) list() ([]repository, error) {
	if isRepository(r.dir) {
		return []repository{newRepository(r.dir)}, nil
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	var found []repository
	for _, e := range entries {
		if path := filepath.Join(r.dir, e.Name()); isRepository(path) {
			found = append(found, newRepository(path))
		}
	}
	return found, nil
}

// find takes "name" and "organization/name".
func (r repositories) find(organization, name string) (repository, error) {
	all, err := r.list()
	if err != nil {
		return repository{}, err
	}
	short := strings.TrimPrefix(name, organization+"/")
	for _, repo := range all {
		if repo.name == short {
			return repo, nil
		}
	}
	return repository{}, apiError{codeNotFound, fmt.Sprintf("repository %q not found in %q", name, organization)}
}

func newRepository(path string) repository {
	return repository{name: strings.TrimSuffix(filepath.Base(path), ".git"), path: path}
}

// isRepository looks for the marks of a checkout, a linked worktree or a bare repository.
func isRepository(dir string) bool {
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	return exists(".git") || exists("HEAD") && exists("objects") && exists("refs")
}

// checkout gives the top folder of the checkout this runs in.
func checkout(ctx context.Context) (string, error) {
	out, err := git(ctx, ".", nil, "rev-parse", "--show-toplevel")
	return strings.TrimSpace(string(out)), err
}

// window is a span of time; a zero end is open, until is not in it.
type window struct{ from, until time.Time }

func (w window) contains(t time.Time) bool {
	return !t.Before(w.from) && (w.until.IsZero() || t.Before(w.until))
}

// newWindow takes dates, which mean whole days in UTC, and RFC 3339 times, which mean instants; both ends are in it.
func newWindow(start, end *string) (w window, err error) {
	if start != nil {
		if w.from, _, err = parseDate("startDate", *start); err != nil {
			return w, err
		}
	}
	if end != nil {
		var length time.Duration
		if w.until, length, err = parseDate("endDate", *end); err != nil {
			return w, err
		}
		w.until = w.until.Add(length)
	}
	return w, nil
}

func parseDate(argument, s string) (t time.Time, length time.Duration, err error) {
	if t, err = time.Parse(time.DateOnly, s); err == nil {
		return t, 24 * time.Hour, nil
	}
	if t, err = time.Parse(time.RFC3339, s); err == nil {
		return t, time.Nanosecond, nil
	}
	return t, 0, apiError{codeBadUserInput, fmt.Sprintf("%s: %q is neither YYYY-MM-DD nor RFC 3339", argument, s)}
}

// entry is a commit and its time.
type entry struct {
	GitCommit
	when time.Time
}

// isBy is true for a part of the author's name or address, in any case; nil means anybody.
func isBy(name, email string, author *string) bool {
	return author == nil || strings.Contains(strings.ToLower(name+" <"+email+">"), strings.ToLower(*author))
}

// log gives all commits, newest first, without their files.
func (r repository) log(ctx context.Context) ([]entry, error) {
	if empty, err := r.empty(ctx); empty || err != nil {
		return nil, err
	}
	// No field can hold a NUL, so every commit is five fields and nothing needs escaping.
	out, err := git(ctx, r.path, nil, "log", "-z", "--encoding=UTF-8", "--format=%H%x00%an%x00%ae%x00%cI%x00%B", "HEAD", "--")
	if err != nil {
		return nil, err
	}
	fields := strings.Split(strings.ToValidUTF8(string(out), "\uFFFD"), "\x00")
	var all []entry
	for f := range slices.Chunk(fields[:len(fields)-1], 5) {
		if len(f) < 5 {
			return nil, errors.New("git log: cut short")
		}
		when, err := time.Parse(time.RFC3339, f[3])
		if err != nil {
			return nil, fmt.Errorf("git log: %w", err)
		}
		all = append(all, entry{when: when, GitCommit: GitCommit{
			SHA: f[0], Author: f[1], AuthorEmail: f[2], Date: when.Format(time.RFC3339), Message: strings.TrimRight(f[4], "\n"),
		}})
	}
	return all, nil
}

func (r repository) empty(ctx context.Context) (bool, error) {
	_, err := git(ctx, r.path, nil, "rev-parse", "--quiet", "--verify", "HEAD^{commit}")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return true, nil
	}
	return false, err
}

// commits gives those in the window by the author, with files, newest first.
func (r repository) commits(ctx context.Context, w window, author *string, patch bool) ([]GitCommit, error) {
	all, err := r.log(ctx)
	if err != nil {
		return nil, err
	}
	var kept []*GitCommit
	for i := range all {
		if e := &all[i]; w.contains(e.when) && isBy(e.Author, e.AuthorEmail, author) {
			kept = append(kept, &e.GitCommit)
		}
	}
	err = r.addFiles(ctx, kept, patch)
	found := []GitCommit{}
	for _, c := range kept {
		found = append(found, *c)
	}
	return found, err
}

// addFiles fills in what the commits changed: one git for all numbers, one for all patches. A merge shows no files, as
// in git log.
func (r repository) addFiles(ctx context.Context, commits []*GitCommit, patch bool) error {
	if len(commits) == 0 {
		return nil
	}
	var shas bytes.Buffer
	for _, c := range commits {
		fmt.Fprintln(&shas, c.SHA)
	}
	args := []string{"diff-tree", "--stdin", "-r", "--root", "-M", "--no-color", "--no-ext-diff", "--no-textconv"}
	out, err := git(ctx, r.path, bytes.NewReader(shas.Bytes()), append(args, "-z", "--raw", "--numstat")...)
	if err != nil {
		return err
	}
	files, err := parseFiles(string(out))
	if err != nil {
		return err
	}
	if patch {
		if out, err = git(ctx, r.path, &shas, append(args, "-p")...); err != nil {
			return err
		}
		addPatches(string(out), files)
	}
	for _, c := range commits {
		list := files[c.SHA]
		if list == nil {
			list = []CommitFile{}
		}
		c.Files, c.Additions, c.Deletions = &list, new(int32), new(int32)
		for _, f := range list {
			*c.Additions += f.Additions
			*c.Deletions += f.Deletions
		}
	}
	return nil
}

// parseFiles reads diff-tree -z --raw --numstat: for each commit its id, then ":… status" with a name (two, from and
// to, for a rename) per file, then "added<tab>deleted<tab>name" per file in the same order, where a rename leaves the
// name out and sends both behind it.
func parseFiles(out string) (map[string][]CommitFile, error) {
	files := map[string][]CommitFile{}
	short := errors.New("git diff-tree: cut short")
	sha, counted := "", 0
	tokens := strings.Split(strings.ToValidUTF8(out, "\uFFFD"), "\x00")
	tokens = tokens[:len(tokens)-1]
	for i := 0; i < len(tokens); i++ {
		switch t := tokens[i]; {
		case strings.HasPrefix(t, ":"):
			status := t[strings.LastIndexByte(t, ' ')+1:]
			if i++; status[0] == 'R' {
				i++
			}
			if i >= len(tokens) {
				return nil, short
			}
			files[sha] = append(files[sha], CommitFile{Filename: tokens[i], Status: statusName(status[0])})
		case strings.Contains(t, "\t"):
			n := strings.SplitN(t, "\t", 3)
			if len(n) < 3 || counted >= len(files[sha]) {
				return nil, short
			}
			f := &files[sha][counted]
			f.Additions, f.Deletions = lines(n[0]), lines(n[1])
			if counted++; n[2] == "" {
				i += 2
			}
		default:
			sha, counted = t, 0
		}
	}
	return files, nil
}

// lines is 0 for the "-" of a binary file.
func lines(s string) int32 {
	n, _ := strconv.ParseInt(s, 10, 32)
	return int32(n)
}

func statusName(letter byte) string {
	switch letter {
	case 'A':
		return "added"
	case 'D':
		return "removed"
	case 'R':
		return "renamed"
	default:
		return "modified"
	}
}

// addPatches deals out diff-tree -p, which has the files in the same order. Inside a patch every line begins with a
// mark or a lower-case word, so neither a "diff --git" nor a lone commit id can be content.
func addPatches(out string, files map[string][]CommitFile) {
	sha, next, header := "", 0, ""
	var patch *strings.Builder
	end := func() {
		if patch != nil && next < len(files[sha]) {
			files[sha][next].Patch = new(patch.String())
			next++
		}
		patch = nil
	}
	for line := range strings.Lines(strings.ToValidUTF8(out, "\uFFFD")) {
		if id := strings.TrimSuffix(line, "\n"); files[id] != nil {
			end()
			sha, next = id, 0
			continue
		}
		// A file that becomes a link is one file, but two patches under one header.
		if strings.HasPrefix(line, "diff --git ") && (patch == nil || line != header) {
			end()
			patch, header = new(strings.Builder), line
		}
		if patch != nil {
			patch.WriteString(line)
		}
	}
	end()
}

// facts are what a listing of repositories tells beyond the name.
type facts struct {
	branch          string
	created, pushed time.Time // zero for an empty repository
}

func (r repository) facts(ctx context.Context) (f facts, err error) {
	// A detached HEAD has no branch.
	if out, err := git(ctx, r.path, nil, "symbolic-ref", "--quiet", "--short", "HEAD"); err == nil {
		f.branch = strings.TrimSpace(string(out))
	} else {
		f.branch = "main"
	}
	all, err := r.log(ctx)
	if len(all) > 0 {
		f.pushed, f.created = all[0].when, all[len(all)-1].when
	}
	return f, err
}

// change is a run of commits shown as a pull or merge request: history has no such thing, but a client that counts
// lines or reads authors needs commits that exist.
type change struct {
	number  int32
	commits []entry // newest first, at least one
	open    bool
}

func (c change) last() entry        { return c.commits[0] }
func (c change) created() time.Time { return c.commits[len(c.commits)-1].when }
func (c change) title() string      { t, _, _ := strings.Cut(c.last().Message, "\n"); return t }
func (c change) body() string {
	_, b, _ := strings.Cut(c.last().Message, "\n")
	return strings.TrimSpace(b)
}
func (c change) branch() string   { return fmt.Sprintf("change-%d", c.number) }
func (c change) updated() *string { return new(stamp(c.last().when)) }
func (c change) gitCommits() []GitCommit {
	out := make([]GitCommit, len(c.commits))
	for i, e := range c.commits {
		out[i] = e.GitCommit
	}
	return out
}

// merged is nil while the change is open.
func (c change) merged() *string {
	if c.open {
		return nil
	}
	return c.updated()
}

// state names the state as one of the hosts does.
func (c change) state(open, merged string) string {
	if c.open {
		return open
	}
	return merged
}

// changes gives those created in the window, newest first. Counted from the first commit, so that a number keeps its
// commits when history grows; the newest is open.
func (r repository) changes(ctx context.Context, w window, author *string) ([]change, error) {
	const size = 3
	all, err := r.log(ctx)
	if err != nil {
		return nil, err
	}
	var found []change
	for end := len(all); end > 0; end -= size {
		c := change{
			number:  int32((len(all)-end)/size + 1),
			commits: all[max(0, end-size):end],
			open:    end <= size,
		}
		if w.contains(c.created()) && isBy(c.last().Author, c.last().AuthorEmail, author) {
			found = append(found, c)
		}
	}
	slices.Reverse(found)
	return found, nil
}

// detailedChanges are changes whose commits have their files.
func (r repository) detailedChanges(ctx context.Context, w window, author *string) ([]change, error) {
	all, err := r.changes(ctx, w, author)
	var commits []*GitCommit
	for _, c := range all {
		for i := range c.commits {
			commits = append(commits, &c.commits[i].GitCommit)
		}
	}
	if err != nil {
		return nil, err
	}
	return all, r.addFiles(ctx, commits, false)
}

// clone copies a repository into a new folder below dir.
func (r repository) clone(ctx context.Context, dir string) (path string, err error) {
	parent, err := os.MkdirTemp(dir, "clone-")
	if err != nil {
		return "", err
	}
	path = filepath.Join(parent, r.name+".git")
	if _, err = git(ctx, dir, nil, "clone", "--bare", "--quiet", "--", r.path, path); err != nil {
		return "", errors.Join(err, os.RemoveAll(parent))
	}
	return path, nil
}

// git runs in dir and gives what the program printed.
func git(ctx context.Context, dir string, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Stdin = stdin
	cmd.Env = append(slices.DeleteFunc(os.Environ(), pointsElsewhere), "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	cmd.WaitDelay = 2 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// pointsElsewhere is true for the variables, set when a git hook runs the tests, that would make git ignore its folder.
func pointsElsewhere(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}, name)
}
