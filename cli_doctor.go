package main

// doctor looks at everything that keeps a daemon from working, with the daemon alive or dead, and says the fix of each
// fault. service writes the file that lets systemd or launchd run the daemon.

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"honeydew/daemonpb"
)

func (c *cli) toolVerbs() []verb {
	return []verb{
		{
			name:  "doctor",
			short: "Find what keeps the daemon from working",
			run:   c.doctor,
		},
		{
			name:    "service install",
			short:   "Let systemd or launchd run the daemon",
			example: "honeydew service install --print",
			setup:   c.serviceInstallVerb,
		},
		{
			name:  "service uninstall",
			short: "Remove the service's file again",
			setup: c.serviceUninstallVerb,
		},
		{
			name:    "completion",
			args:    "SHELL",
			short:   "Print the completion script of bash, zsh or fish",
			example: "source <(honeydew completion bash)",
			run:     c.completion,
		},
		{
			name:  "__complete",
			args:  "[WORD...]",
			short: "List completions",
			run:   c.complete,
		},
	}
}

// finding is the outcome of one check. One that is OK and yet has a Fix is no fault, but something to know.
type finding struct {
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
}

// findings are what doctor found, in the order in which one would look.
type findings []finding

// add notes a check: what is good, or the error and its fix.
func (all *findings) add(check, good string, err error, fix string) {
	f := finding{
		Check:   check,
		OK:      true,
		Message: good,
	}
	if err != nil {
		e, _ := asError(err)
		f.OK = false
		f.Message = neutral(e.Message)
		f.Fix = cmp.Or(neutral(e.Hint), fix)
	}
	if outOfFiles(err) {
		f.Fix = "raise the limit of open files, for example with: ulimit -n 1024"
	}
	*all = append(*all, f)
}

// note adds what is no fault of the daemon, with what one may want to do about it; "" where that is nothing. No message
// is nothing to note.
func (all *findings) note(check, message, next string) {
	if message == "" {
		return
	}
	*all = append(*all, finding{
		Check:   check,
		OK:      true,
		Message: neutral(message),
		Fix:     next,
	})
}

// faultIf is an error where something is the case.
func faultIf(is bool, format string, args ...any) error {
	if is {
		return fmt.Errorf(format, args...)
	}
	return nil
}

func (c *cli) doctor(ctx context.Context, _ []string) error {
	all := c.examine(ctx)
	bad := 0
	for _, f := range all {
		mark, label := "ok", ""
		switch {
		case !f.OK:
			mark, label = "FAIL", "fix: "
			bad++
		case f.Fix != "":
			mark = "note"
		}
		c.stateLine(mark, "%-5s %-14s %s", mark, f.Check, f.Message)
		if f.Fix != "" {
			c.printf("%21s%s%s", "", label, f.Fix)
		}
	}
	if err := c.document(map[string]findings{"findings": all}); err != nil {
		return err
	}
	return faultIf(bad > 0, "%d of %d checks failed", bad, len(all))
}

// examine makes every check that can be made.
func (c *cli) examine(ctx context.Context) findings {
	var all findings
	cfg, err := c.checkedConfig()
	all.add(
		"configuration",
		cmp.Or(cfg.File, "no file; the defaults apply"),
		err,
		"correct the file, or make it readable",
	)
	err = checkHome(c.home)
	all.add(
		"home",
		c.home+" is yours alone",
		err,
		"make it with: honeydew start",
	)
	if err != nil {
		return all
	}
	c.examineFiles(&all, cfg)
	held, err := lockHeld(lockPath(c.home))
	all.add(
		"lock",
		"daemon.lock can be used",
		err,
		fmt.Sprintf("make %s readable, or move it away", lockPath(c.home)),
	)
	if held {
		c.examineDaemon(ctx, &all)
	}
	if held || err != nil {
		return all
	}
	c.examineDatabase(&all, cfg)
	dead := "not running"
	fix := "start it with: honeydew start"
	line := c.lastWords()
	if line != "" {
		dead += "; the last one said: " + line
		fix = "see to that first; then: honeydew start"
	}
	if slices.ContainsFunc(all, func(f finding) bool { return !f.OK }) {
		fix = "see to what is said above first; then: honeydew start"
	}
	all.add("daemon", "", errors.New(dead), fix)
	return all
}

// checkedConfig is the configuration, or the defaults, beside what is wrong with it or with the paths in it.
func (c *cli) checkedConfig() (*Config, error) {
	cfg, err := c.config()
	if err != nil {
		return cfg, err
	}
	return cfg, cmp.Or(cfg.checkPaths(), cfg.checkDisk())
}

// examineFiles looks at what a daemon would read and write.
func (c *cli) examineFiles(all *findings, cfg *Config) {
	key := filepath.Join(c.home, "key")
	_, err := readSecret(key, keyFileBytes)
	all.add(
		"key",
		unlessAbsent(key, "nobody else can read it"),
		exceptAbsent(err),
		ownFix(key),
	)
	passphrase := cfg.Auth.PassphraseFile
	if passphrase != "" {
		_, err := readSecret(passphrase, maxPassphrase)
		all.add(
			"passphrase",
			"the passphrase file can be read",
			err,
			ownFix(passphrase),
		)
	}
	socket := cfg.Daemon.SocketPath
	all.add(
		"socket path",
		socket,
		cmp.Or(checkSocketPath(socket), checkSocketFree(socket)),
		"move it away",
	)
	dirs := []string{filepath.Dir(cfg.Storage.DatabasePath), filepath.Dir(cfg.Logging.File)}
	for _, dir := range slices.Compact(dirs) {
		fix, err := diskFault(dir)
		all.add("disk", dir+" can be written to", err, fix)
	}
}

// diskFault is what keeps dir from being written to, and what to do about it.
func diskFault(dir string) (fix string, err error) {
	err = tryWrite(dir)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "free some space", fmt.Errorf("the disk of %s is full", dir)
	case errors.Is(err, fs.ErrNotExist):
		return "make it with: mkdir -p " + shellQuoted(dir), err
	}
	return "let it be a folder that you may write to", err
}

// unlessAbsent is good, unless there is nothing at path yet.
func unlessAbsent(path, good string) string {
	if exists(path) {
		return good
	}
	return "none yet; the first start makes it"
}

// ownFix is how the file at path becomes one that only its user can read.
func ownFix(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "make the file, or take it out of the configuration"
	}
	uid, known := ownerOf(info)
	if known && uid != os.Getuid() {
		return fmt.Sprintf("run: sudo chown %d %s", os.Getuid(), shellQuoted(path))
	}
	return "run: chmod 600 " + shellQuoted(path)
}

// examineDatabase looks at the database that no daemon has open.
func (c *cli) examineDatabase(all *findings, cfg *Config) {
	path := cfg.Storage.DatabasePath
	lost := lostDatabase(cfg)
	err := refusedDatabase(path, exceptAbsent(inspectDatabase(path)))
	if lost != "" {
		err = errors.New("it was here, and is gone")
	}
	all.add(
		"database",
		unlessAbsent(path, "its header is sound"),
		err,
		cmp.Or(lost, "make it readable and writable for you"),
	)
}

// examineDaemon asks the daemon that runs.
func (c *cli) examineDaemon(ctx context.Context, all *findings) {
	s, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	if err != nil {
		_, text, hint := c.explain(err)
		all.add(
			"daemon",
			"",
			errors.New(text),
			cmp.Or(hint, "look at: honeydew logs"),
		)
		return
	}
	all.note("daemon", "it answers", "")
	all.add(
		"version",
		"honeydew "+s.Version,
		faultIf(s.Version != c.version, "the daemon is honeydew %s, this is %s", s.Version, c.version),
		"restart it with: honeydew stop && honeydew start",
	)
	if len(s.Problems) == 0 {
		all.note("operation", "no problems", "")
	}
	for _, problem := range s.Problems {
		what, advice, _ := strings.Cut(problem, "; ")
		if strings.Contains(what, codeStorageFull) {
			advice = "free some space"
		}
		all.add("operation", "", errors.New(what), cmp.Or(advice, "see: honeydew logs"))
	}
	login, next, _ := strings.Cut(s.Environment+": "+loginState(s.Authenticated, s.NeedsReauth, s.Problems...), "; ")
	account, _ := c.client.GetAuthStatus(ctx, &daemonpb.GetAuthStatusRequest{}) // else the login as far as it is known
	if s.NeedsReauth {
		all.add("login", "", errors.New(login), next)
	} else {
		all.note("login", login, next)
	}
	refused, look, _ := strings.Cut(refusedText(account), "; ")
	all.note("auth failures", refused, look)
	all.note("retries", c.retryingText(ctx), "see: honeydew job list --status pending")
	all.note("failures", c.failedText(ctx), "see: honeydew job list --status failed --since -1d")
	failing, look := c.failingText(ctx)
	all.note("schedules", failing, look)
	switch {
	case s.QueuePaused:
		all.note("queue", "paused", "resume it with: honeydew queue resume")
	case s.HeldUntil != "":
		all.note("queue", "held "+strings.TrimSuffix(heldText(s), "; "+releaseHold), releaseHold)
	default:
		all.note("queue", "jobs may run", "")
	}
}

// failedText says how the newest job has failed that ended so since yesterday and was not retried, "" if none has.
func (c *cli) failedText(ctx context.Context) string {
	in := &daemonpb.ListJobsRequest{
		Status:    statusFailed,
		Since:     "-1d",
		Unretried: true,
		Limit:     1,
	}
	out, err := c.client.ListJobs(ctx, in)
	if err != nil || len(out.Jobs) == 0 {
		return ""
	}
	newest := out.Jobs[0]
	return newest.Command + ", at " + localTime(newest.CompletedAt) + ": " + newest.Error
}

// lastWords is the line that says best why the last daemon in the background ended: its own last sentence, or where the
// stack of its crash begins. A start that came further has noted that in the lock, and older words are no news.
func (c *cli) lastWords() (line string) {
	said, err := os.Stat(c.stderrPath())
	began, lockErr := os.Stat(lockPath(c.home))
	if err != nil || lockErr == nil && said.ModTime().Before(began.ModTime()) {
		return ""
	}
	text, _ := os.ReadFile(c.stderrPath()) // else no words
	for one := range strings.Lines(string(text)) {
		for _, first := range []string{"honeydew: ", "panic: ", "fatal error: "} {
			if strings.HasPrefix(one, first) {
				line = strings.TrimSpace(one)
			}
		}
	}
	return line
}

// tryWrite writes and removes a small file, which also finds a full disk.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// service is the file for this system's service manager, and what to run after it was written or removed.
type service struct {
	path   string
	text   string
	link   string // that the service manager makes to enable it, and does not miss
	enable string
	after  string
}

func (c *cli) service() (*service, error) {
	executable := pathOf(os.Args[0], c.executable)
	if err := checkServicePath("the program", executable); err != nil {
		return nil, err
	}
	if err := checkServicePath("the home", c.home); err != nil {
		return nil, err
	}
	if c.getenv(homeVariable()) == "" {
		return nil, usagef("%s is not set, so there is no place for a service file", homeVariable())
	}
	var s *service
	escape := systemdEscape
	switch runtime.GOOS {
	case "windows":
		return nil, errors.New("there is no service file for this system; run: honeydew start")
	case "darwin":
		s = c.launchdService()
		escape = xmlEscape
	default:
		s = c.systemdService()
	}
	text, err := texts.ReadFile("texts/" + filepath.Base(s.path))
	if err != nil {
		return nil, err
	}
	values := strings.NewReplacer("@EXECUTABLE@", escape(executable), "@HOME@", escape(c.home))
	s.text = values.Replace(string(text))
	return s, nil
}

// checkServicePath refuses a path that a service file cannot name.
func checkServicePath(what, path string) error {
	if utf8.ValidString(path) && !strings.ContainsFunc(path, unicode.IsControl) {
		return nil
	}
	return errorf(codeFailedPrecondition, "%s is at %q, a path that no service file can hold", what, path).
		hint("move it to a path without control characters")
}

func (c *cli) launchdService() *service {
	path := filepath.Join(c.userHome, "Library", "LaunchAgents", "honeydew.plist")
	return &service{
		path:   path,
		enable: "launchctl bootstrap gui/$(id -u) " + shellQuoted(path),
		after:  "launchctl bootout gui/$(id -u)/honeydew",
	}
}

func (c *cli) systemdService() *service {
	config := c.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(config) { // which the specification says to ignore
		config = filepath.Join(c.userHome, ".config")
	}
	dir := filepath.Join(config, "systemd", "user")
	return &service{
		path: filepath.Join(dir, "honeydew.service"),
		link: filepath.Join(dir, "default.target.wants", "honeydew.service"),
		enable: "systemctl --user daemon-reload && systemctl --user enable --now honeydew\n" +
			"to keep it running after you log out: loginctl enable-linger",
		after: "systemctl --user stop honeydew; systemctl --user daemon-reload",
	}
}

// systemdEscape is a text between double quotes in a unit: % begins a specifier there (systemd.unit(5)), and a
// backslash an escape (systemd.syntax(7)).
func systemdEscape(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(text)
}

func xmlEscape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

func (c *cli) serviceInstallVerb(f *flag.FlagSet) action {
	show := f.Bool("print", false, "only print the file")
	force := f.Bool("force", false, "overwrite a file that is there and differs")
	return func(context.Context, []string) error {
		s, err := c.service()
		if err != nil {
			return err
		}
		if *show {
			return c.text("file", strings.TrimSuffix(s.text, "\n"))
		}
		if err := c.checkServiceFree(s); err != nil {
			return err
		}
		present, err := os.ReadFile(s.path)
		if exceptAbsent(err) != nil {
			return err
		}
		if err == nil && string(present) != s.text && !*force {
			return errorf(codeFailedPrecondition, "%s is there, and differs; it was left as it is", s.path).
				hint("compare: honeydew service install --print | diff %s - ; "+
					"overwrite it with: honeydew service install --force", shellQuoted(s.path))
		}
		if err := writeServiceFile(s.path, s.text); err != nil {
			return err
		}
		return c.showChanged("Wrote", s.path, "now run: "+s.enable)
	}
}

// showChanged says what happened to the service's file, and what to do next.
func (c *cli) showChanged(done, path, next string) error {
	return c.answer(map[string]string{"path": path, "next": next}, "%s %s\n%s", done, path, next)
}

// checkServiceFree refuses to install beside a daemon that was started otherwise: the service would end at once.
func (c *cli) checkServiceFree(s *service) error {
	held, err := lockHeld(lockPath(c.home))
	if err != nil || !held {
		return err
	}
	pid := c.daemonPID()
	group, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err == nil && inService(string(group)) {
		return nil
	}
	_, statErr := os.Stat(s.path)
	if err != nil && statErr == nil {
		return nil // nothing tells, and it may well be the service's
	}
	return errorf(codeFailedPrecondition,
		"a daemon (pid %s) already runs, but not as the service, which would end at once beside it", pid).
		hint("end it first: honeydew stop")
}

// inService reports whether a process with these control groups, as /proc has them, is one of our unit.
func inService(groups string) bool {
	for line := range strings.Lines(groups) {
		if slices.Contains(strings.Split(strings.TrimSpace(line), "/"), "honeydew.service") {
			return true
		}
	}
	return false
}

// writeServiceFile writes the file at path whole or not at all, and makes its directory.
func writeServiceFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if _, err := replaceFile(path, text); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // systemd complains of one that is only its owner's
}

func (c *cli) serviceUninstallVerb(f *flag.FlagSet) action {
	show := f.Bool("print", false, "only print the path of what would be removed")
	return func(context.Context, []string) error {
		s, err := c.service()
		if err != nil {
			return err
		}
		if *show {
			return c.text("path", s.path)
		}
		err = os.Remove(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return errorf(codeNotFound, "no service is installed: there is no %s", s.path)
		}
		if err != nil {
			return err
		}
		// The service manager would not remove it any more: it looks for the file first.
		if s.link != "" {
			if err := removeFile(s.link); err != nil {
				return err
			}
		}
		return c.showChanged("Removed", s.path, "to end it, if it runs: "+s.after)
	}
}
