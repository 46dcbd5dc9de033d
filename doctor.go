package main

// doctor looks at everything that keeps a daemon from working, with the daemon alive or dead, and says the fix of each
// fault. service writes the file that lets systemd or launchd run the daemon.

import (
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

	"honeydew/daemonpb"
)

func toolVerbs() []verb {
	return []verb{
		{"doctor", "", "find what keeps the daemon from working", "honeydew doctor", doctorVerb},
		{"service install", "", "let systemd or launchd run the daemon", "honeydew service install --print", serviceInstallVerb},
		{"service uninstall", "", "remove the service's file again", "honeydew service uninstall", serviceUninstallVerb},
		{"completion", "SHELL", "print the completion script of bash, zsh or fish", "source <(honeydew completion bash)", completionVerb},
		{"__complete", "[WORD...]", "list completions", "", completeVerb},
	}
}

// finding is the outcome of one check; Fix is empty where all is well.
type finding struct {
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
}

func doctorVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		findings := c.examine(ctx)
		bad := 0
		for _, f := range findings {
			mark := "ok  "
			if !f.OK {
				mark = "FAIL"
				bad++
			}
			if !c.json {
				c.printf("%s  %-14s %s", mark, f.Check, printable(f.Message))
				if f.Fix != "" {
					c.printf("      %-14s fix: %s", "", printable(f.Fix))
				}
			}
		}
		if c.json {
			if err := c.encode(map[string]any{"findings": findings}); err != nil {
				return err
			}
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d checks failed", bad, len(findings))
		}
		return nil
	}
}

// examine makes every check that can be made.
func (c *cli) examine(ctx context.Context) (all []finding) {
	add := func(check string, err error, fix, good string) bool {
		f := finding{Check: check, OK: err == nil, Message: good}
		if err != nil {
			f.Message, f.Fix = errorText(err), fix
		}
		all = append(all, f)
		return err == nil
	}
	cfg, err := loadConfig(c.home, "", c.userHome)
	if !add("configuration", err, "mend that line of config.yaml", configSource(cfg)) {
		cfg = defaultConfig(c.home)
	}
	if !add("home", checkHome(c.home), "run: honeydew start, or chmod 700 "+c.home, c.home+" is yours alone") {
		return all
	}
	_, keyErr := readSecret(filepath.Join(c.home, "key"), keyFileBytes)
	if errors.Is(keyErr, fs.ErrNotExist) {
		keyErr = nil
	}
	add("key", keyErr, "run: chmod 600 "+filepath.Join(c.home, "key"), "nobody else can read it")
	if cfg.Auth.PassphraseFile != "" {
		_, err := readSecret(cfg.Auth.PassphraseFile, maxPassphrase)
		add("passphrase", err, "create "+cfg.Auth.PassphraseFile+" with mode 600", "the passphrase file can be read")
	}
	add("socket path", checkSocketPath(cfg.Daemon.SocketPath), "set daemon.socket_path to a shorter path", cfg.Daemon.SocketPath)
	for _, dir := range slices.Compact([]string{filepath.Dir(cfg.Storage.DatabasePath), filepath.Dir(cfg.Logging.File)}) {
		add("disk", tryWrite(dir), "make room, or make the directory writable", dir+" can be written to")
	}
	held, err := lockHeld(lockPath(c.home))
	add("lock", err, "make "+lockPath(c.home)+" readable", "daemon.lock can be used")
	if err == nil && !held {
		add("database", inspectIfThere(cfg.Storage.DatabasePath), "restore a backup, or move the file away and start anew", "its header is sound")
		crash := ""
		if text, err := os.ReadFile(c.stderrPath()); err == nil && len(text) > 0 {
			crash, _, _ = strings.Cut(string(text), "\n")
			crash = "; it last said: " + crash
		}
		add("daemon", errors.New("not running"+crash), "start it with: honeydew start", "")
		return all
	}
	status, err := c.client.GetStatus(ctx, &daemonpb.GetStatusRequest{})
	if !add("daemon", err, "stop it with: honeydew stop, and look at: honeydew logs", "it answers") {
		return all
	}
	c.examineRunning(status, add)
	return all
}

// examineRunning checks what a running daemon says of itself.
func (c *cli) examineRunning(s *daemonpb.DaemonStatus, add func(check string, err error, fix, good string) bool) {
	var skew, problems, login, paused error
	if s.Version != c.version {
		skew = fmt.Errorf("the daemon is honeydew %s, this is %s", s.Version, c.version)
	}
	add("version", skew, "restart it with: honeydew stop && honeydew start", "honeydew "+s.Version)
	if len(s.Problems) > 0 {
		problems = errors.New(strings.Join(s.Problems, "; "))
	}
	add("operation", problems, "see: honeydew logs", "nothing is degraded")
	if !s.Authenticated {
		login = fmt.Errorf("not logged in to %s", s.Environment)
	}
	add("login", login, "log in with: honeydew login", "logged in to "+s.Environment)
	fix := "resume it with: honeydew queue resume"
	if s.QueuePaused {
		paused = errors.New("the queue is paused")
	} else if s.HeldUntil != "" {
		paused, fix = errors.New("the API asked to wait until "+localTime(s.HeldUntil)), "none needed: this ends by itself"
	}
	add("queue", paused, fix, "jobs may run")
}

func configSource(cfg *Config) string {
	if cfg == nil || cfg.File == "" {
		return "none; the defaults hold"
	}
	return cfg.File
}

// checkHome looks at the home without changing it.
func checkHome(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if uid, ok := ownerOf(info); ok && uid != os.Getuid() {
		return fmt.Errorf("%s belongs to uid %d", dir, uid)
	}
	if !info.IsDir() || (info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows") {
		return fmt.Errorf("%s is open to others (mode %04o)", dir, info.Mode().Perm())
	}
	return nil
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

func inspectIfThere(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return inspectDatabase(path)
}

const systemdUnit = `[Unit]
Description=honeydew: pulls the activity of your organisations
Documentation=man:honeydew(1)
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
ExecStart="%s" daemon
Environment="HONEYDEW_HOME=%s"
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=5 74 78
TimeoutStopSec=90
NoNewPrivileges=yes
UMask=0077
LimitCORE=0
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
MemoryDenyWriteExecute=yes

[Install]
WantedBy=default.target
`

const launchdAgent = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>honeydew</string>
  <key>ProgramArguments</key><array><string>%s</string><string>daemon</string></array>
  <key>EnvironmentVariables</key><dict><key>HONEYDEW_HOME</key><string>%s</string></dict>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ThrottleInterval</key><integer>10</integer>
  <key>ProcessType</key><string>Background</string>
  <key>StandardErrorPath</key><string>%[2]s/daemon.stderr</string>
</dict>
</plist>
`

// service is the file for this system's service manager, and what to run after it was written or removed.
func (c *cli) service() (path, text, enable, disable string, err error) {
	switch runtime.GOOS {
	case "darwin":
		escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
		path = filepath.Join(c.userHome, "Library", "LaunchAgents", "honeydew.plist")
		return path, fmt.Sprintf(launchdAgent, escape(c.executable), escape(c.home)), "launchctl bootstrap gui/$(id -u) " + path,
			"launchctl bootout gui/$(id -u)/honeydew", nil
	case "windows":
		return "", "", "", "", errors.New("there is no service file for this system; run: honeydew start")
	}
	base := c.getenv("XDG_CONFIG_HOME")
	if base == "" {
		base = filepath.Join(c.userHome, ".config")
	}
	// systemd reads % as a specifier, and quotes as quotes.
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace
	return filepath.Join(base, "systemd", "user", "honeydew.service"),
		fmt.Sprintf(systemdUnit, escape(c.executable), escape(c.home)),
		"systemctl --user daemon-reload && systemctl --user enable --now honeydew\nto keep it running after you log out: loginctl enable-linger",
		"systemctl --user disable --now honeydew", nil
}

func serviceInstallVerb(c *cli, f *flag.FlagSet) action {
	show := f.Bool("print", false, "only print the file")
	return func(context.Context, []string) error {
		path, text, enable, _, err := c.service()
		if err != nil {
			return err
		}
		if *show {
			return c.showText("file", strings.TrimSuffix(text, "\n"))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		return c.serviceDone("Wrote", path, "now run: "+enable)
	}
}

func serviceUninstallVerb(c *cli, f *flag.FlagSet) action {
	show := f.Bool("print", false, "only print the file's path")
	return func(context.Context, []string) error {
		path, _, _, disable, err := c.service()
		if err != nil {
			return err
		}
		if *show {
			return c.showText("path", path)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		return c.serviceDone("Removed", path, "if it runs: "+disable)
	}
}

func (c *cli) serviceDone(did, path, next string) error {
	if c.json {
		return c.encode(map[string]string{"path": path, "next": next})
	}
	c.printf("%s %s", did, path)
	c.printf("%s", next)
	return nil
}
