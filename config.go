package main

// Settings and every path: config.yaml into a Config, or an error that names file, line, key and what is allowed.
// Nothing secret belongs in the file. To add a key: a field, and its row in settings.

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"
)

const (
	maxRetriesLimit   = 100            // of one job
	maxTimeout        = 24 * time.Hour // of one attempt
	maxConfigBytes    = 1 << 20
	productionURL     = "https://api.honeydew.mobilecapital.net/graphql"
	allowedDuration   = "a duration such as 30s, 15m, 12h, 7d or 2w"
	maxConfigDuration = 100 * 365 * 24 * time.Hour
)

// Config is what config.yaml says, with defaults filled in and paths absolute.
type Config struct {
	Home, File string         // File is "" where there is none
	lines      map[string]int // of the keys that File sets

	Daemon struct {
		SocketPath, PIDFile string
		ShutdownTimeout     time.Duration
	}
	Storage struct {
		DatabasePath, Synchronous string
		Retention                 time.Duration // of finished jobs; 0: for ever
	}
	Logging struct {
		Level, File                       string
		MaxSizeMB, MaxBackups, MaxAgeDays int // 0 backups or days: no limit
		Compress                          bool
	}
	Queue struct {
		Workers, MaxRetries       int
		RetryBackoff              string
		ProviderLimit, MaxPending int // running jobs of one provider, jobs that wait; 0: no limit
	}
	API struct {
		Timeout         time.Duration
		GraphQLEndpoint string
		MaxResponseMB   int
	}
	Auth struct{ PassphraseFile string }
}

// setting is one key of the file: set puts what the file says into its field, or says what is allowed.
type setting struct {
	key string
	set func(*yaml.Node) error
}

// settings gives every field its default, and returns how the file may change it: key, field, default, and of a range the
// least and the most.
func (c *Config) settings(userHome string) []setting {
	path := func(to *string, name string) func(*yaml.Node) error {
		if name != "" {
			name = filepath.Join(c.Home, name)
		}
		return textSetting(to, name, func(s string) error {
			if s == "" && name == "" {
				return nil // it may be left out
			} else if s == "" || strings.ContainsRune(s, 0) {
				return refused(quoted(s), "a path")
			} else if strings.Contains(s, "$") {
				return refused(quoted(s), "a path in full, or from ~: variables mean nothing here")
			}
			if *to = filepath.Clean(expandPath(s, userHome)); !filepath.IsAbs(*to) {
				*to = filepath.Join(c.Home, *to)
			}
			return nil
		})
	}
	return []setting{
		{"daemon.socket_path", path(&c.Daemon.SocketPath, "daemon.sock")},
		{"daemon.pid_file", path(&c.Daemon.PIDFile, "daemon.pid")},
		{"daemon.shutdown_timeout", rangeSetting(&c.Daemon.ShutdownTimeout, 15*time.Second, time.Second, 10*time.Minute, readDuration)},
		{"storage.database_path", path(&c.Storage.DatabasePath, "daemon.db")},
		{"storage.synchronous", textSetting(&c.Storage.Synchronous, "full", words("full", "normal"))},
		{"storage.retention", rangeSetting(&c.Storage.Retention, 30*24*time.Hour, 0, maxConfigDuration, readDuration)},
		{"logging.level", textSetting(&c.Logging.Level, "info", words("debug", "info", "warn", "error"))},
		{"logging.file", path(&c.Logging.File, "daemon.log")},
		{"logging.max_size_mb", rangeSetting(&c.Logging.MaxSizeMB, 10, 1, 10000, readInt)},
		{"logging.max_backups", rangeSetting(&c.Logging.MaxBackups, 5, 0, 10000, readInt)},
		{"logging.max_age_days", rangeSetting(&c.Logging.MaxAgeDays, 30, 0, 36500, readInt)},
		{"logging.compress", boolSetting(&c.Logging.Compress, true)},
		{"queue.workers", rangeSetting(&c.Queue.Workers, 4, 1, 1000, readInt)},
		{"queue.max_retries", rangeSetting(&c.Queue.MaxRetries, 3, 0, maxRetriesLimit, readInt)},
		{"queue.retry_backoff", textSetting(&c.Queue.RetryBackoff, "exponential", words("exponential"))},
		{"queue.provider_limit", rangeSetting(&c.Queue.ProviderLimit, 0, 0, 1000, readInt)},
		{"queue.max_pending", rangeSetting(&c.Queue.MaxPending, 0, 0, 100_000_000, readInt)},
		{"api.timeout", rangeSetting(&c.API.Timeout, 30*time.Second, 100*time.Millisecond, maxTimeout, readDuration)},
		{"api.graphql_endpoint", textSetting(&c.API.GraphQLEndpoint, productionURL, checkBaseURL)},
		{"api.max_response_mb", rangeSetting(&c.API.MaxResponseMB, 100, 1, 1000, readInt)},
		{"auth.passphrase_file", path(&c.Auth.PassphraseFile, "")},
	}
}

// keysOf lists the keys of a section, or, for "", the sections.
func keysOf(settings []setting, section string) (keys []string) {
	for _, s := range settings {
		if first, key, _ := strings.Cut(s.key, "."); section == "" {
			keys = append(keys, first)
		} else if first == section {
			keys = append(keys, key)
		}
	}
	return slices.Compact(keys)
}

// rangeSetting is a setting with a least and a most.
func rangeSetting[T int | time.Duration](to *T, standard, least, most T, parse func(*yaml.Node) (T, error)) func(*yaml.Node) error {
	*to = standard
	return func(n *yaml.Node) (err error) {
		if *to, err = parse(n); err == nil && (*to < least || *to > most) {
			err = refused(*to, fmt.Sprintf("%v to %v", least, most))
		}
		return err
	}
}

func readInt(n *yaml.Node) (int, error) {
	v, err := strconv.Atoi(n.Value)
	if n.Tag != "!!int" || err != nil || strconv.Itoa(v) != n.Value { // 010 is 8 to some and 10 to others
		return 0, refused(shown(n), "a whole number")
	}
	return v, nil
}

func readDuration(n *yaml.Node) (time.Duration, error) {
	d, err := parseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return 0, refused(shown(n), allowedDuration)
	}
	return d, nil
}

func boolSetting(to *bool, standard bool) func(*yaml.Node) error {
	*to = standard
	return func(n *yaml.Node) (err error) {
		if *to, err = strconv.ParseBool(n.Value); n.Tag != "!!bool" || err != nil {
			return refused(shown(n), "true or false")
		}
		return nil
	}
}

// textSetting is a setting that check may refuse.
func textSetting(to *string, standard string, check func(string) error) func(*yaml.Node) error {
	*to = standard
	return func(n *yaml.Node) error {
		if *to = n.Value; n.Tag != "!!str" {
			return refused(shown(n), "a text")
		}
		return check(n.Value)
	}
}

// words allows these values.
func words(allowed ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(allowed, s) {
			return refused(quoted(s), strings.Join(allowed, ", "))
		}
		return nil
	}
}

func refused(value any, allowed string) error {
	return fmt.Errorf("%v is not allowed; allowed: %s", value, allowed)
}

// quoted is a value as messages show it: nothing long, nothing that a terminal obeys.
func quoted(s string) string { return strconv.Quote(cutText(s, 100)) }

// shown is what a message says of a key or value.
func shown(n *yaml.Node) string {
	switch {
	case n.Kind != yaml.ScalarNode:
		return "this"
	case n.Tag == "!!null":
		return "no value"
	}
	return quoted(n.Value)
}

// defaultConfig is what holds without a file.
func defaultConfig(home string) *Config {
	c := &Config{Home: home}
	c.settings("")
	return c
}

// loadConfig reads the file at path, which must exist, or home's config.yaml for "", which need not. A relative path
// inside it counts from home, and ~ is userHome.
func loadConfig(home, path, userHome string) (*Config, error) {
	named := path != ""
	path = cmp.Or(path, filepath.Join(home, "config.yaml"))
	f, err := openRegular(path, os.O_RDONLY) // a FIFO would be waited for
	if errors.Is(err, fs.ErrNotExist) && !named {
		return defaultConfig(home), nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := parseConfig(text, home, userHome)
	if err != nil {
		// The position leads, as compilers print it, so that editors can jump there.
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	c.File = path
	return c, nil
}

// faultAt is a mistake at a line of the file.
func faultAt(line int, format string, args ...any) error {
	return fmt.Errorf("%d: %w", max(line, 1), fmt.Errorf(format, args...))
}

// parseConfig reads text; its errors begin with the line.
func parseConfig(text []byte, home, userHome string) (*Config, error) {
	if len(text) > maxConfigBytes {
		return nil, faultAt(1, "the file is larger than %d bytes", maxConfigBytes)
	}
	var root, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	err := decoder.Decode(&root)
	if err == nil {
		if err = decoder.Decode(&second); err == nil {
			return nil, faultAt(second.Line, "a second YAML document; allowed: one")
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, notYAML(err)
	}
	c, lines := &Config{Home: home}, map[string]int{}
	settings := c.settings(userHome)
	if len(root.Content) > 0 {
		if err := readSection(root.Content[0], "", settings, lines); err != nil {
			return nil, err
		}
	}
	c.lines = lines
	return c, nil
}

// checkPaths refuses paths of which two are one file, whatever they are called, and those that must name a regular file
// and name something else: rotation would rename a database, and a start would remove what lies where the socket goes.
func (c *Config) checkPaths() error {
	type namedPath struct {
		key, path string
		regular   bool
		info      fs.FileInfo // nil where there is nothing yet
	}
	paths := []namedPath{
		{key: "the key", path: filepath.Join(c.Home, "key"), regular: true},
		{key: "the lock", path: lockPath(c.Home), regular: true},
		{key: "the configuration", path: cmp.Or(c.File, filepath.Join(c.Home, "config.yaml")), regular: true},
		{key: "the database's lock", path: c.Storage.DatabasePath + ".lock", regular: true},
		{key: "the database's log", path: c.Storage.DatabasePath + "-wal", regular: true},
		{key: "the database's index", path: c.Storage.DatabasePath + "-shm", regular: true},
		{key: "storage.database_path", path: c.Storage.DatabasePath, regular: true},
		{key: "daemon.socket_path", path: c.Daemon.SocketPath},
		{key: "daemon.pid_file", path: c.Daemon.PIDFile, regular: true},
		{key: "logging.file", path: c.Logging.File, regular: true},
		{key: "auth.passphrase_file", path: c.Auth.PassphraseFile, regular: true},
	}
	for i := range paths {
		p := &paths[i]
		if p.path == "" {
			continue
		}
		if real, err := realPath(p.path); err == nil {
			p.path = real
		}
		info, err := os.Stat(p.path)
		if err == nil {
			p.info = info
		}
		if p.regular && p.info != nil && (!info.Mode().IsRegular() || isDevice(p.path)) {
			return c.fault(p.key, refused(quoted(p.path), "a regular file, or none yet"))
		}
		for _, other := range paths[:i] {
			if p.path == other.path || p.info != nil && other.info != nil && os.SameFile(p.info, other.info) {
				return c.fault(p.key, refused(quoted(p.path), "a path of its own, not that of "+other.key))
			}
		}
	}
	return nil
}

// isDevice reports whether path lies where files are none, whatever they look like.
func isDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
}

// fault names where the file says what is wrong, if it is the file that says it.
func (c *Config) fault(key string, problem error) error {
	if line := c.lines[key]; line > 0 {
		return fmt.Errorf("%s:%d: %s: %w", c.File, line, key, problem)
	}
	return fmt.Errorf("%s: %w", key, problem)
}

// checkZone refuses a TZ that Go would take for UTC without a word.
func checkZone(name string) error {
	name = strings.TrimPrefix(name, ":")
	if name == "" {
		return nil
	}
	_, err := time.LoadLocation(name)
	if filepath.IsAbs(name) {
		_, err = os.Stat(name)
	}
	if err != nil {
		return fmt.Errorf("TZ: %w", refused(quoted(name), "the name of a zone, such as Europe/Berlin"))
	}
	return nil
}

// notYAML moves the line that the YAML library names in its text to the front, 1 where it names none.
func notYAML(err error) error {
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if _, err := fmt.Sscanf(text, "line %d:", &line); err == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	return faultAt(line, "not YAML: %s", text)
}

// readSection obeys the keys of one section, or of the file for "", noting each key's line.
func readSection(n *yaml.Node, section string, settings []setting, lines map[string]int) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // an empty section is no mistake
	}
	if n.Kind != yaml.MappingNode {
		return faultAt(n.Line, "%s: %w", cmp.Or(section, "the file"), refused(shown(n), "a section of keys"))
	}
	prefix, keys := section+".", keysOf(settings, section)
	if section == "" {
		prefix = ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := prefix + key.Value
		if key.Kind != yaml.ScalarNode || !slices.Contains(keys, key.Value) { // an alias's Value is the name of its anchor
			meant := ""
			if near := nearest(key.Value, keys); near != "" {
				meant = fmt.Sprintf(" (did you mean %s%s?)", prefix, near)
			}
			return faultAt(key.Line, "%s%s: unknown key%s; allowed: %s", prefix, strings.Trim(shown(key), `"`), meant, strings.Join(keys, ", "))
		}
		if _, twice := lines[name]; twice {
			return faultAt(key.Line, "%s: given twice; allowed: once", name)
		}
		if key.Anchor != "" || value.Anchor != "" || value.Kind == yaml.AliasNode {
			return faultAt(key.Line, "%s: an anchor or alias; allowed: the value itself", name)
		}
		lines[name] = value.Line
		if section == "" {
			if err := readSection(value, name, settings, lines); err != nil {
				return err
			}
			continue
		}
		at := slices.IndexFunc(settings, func(s setting) bool { return s.key == name })
		if err := settings[at].set(value); err != nil {
			return faultAt(value.Line, "%s: %w", name, err)
		}
	}
	return nil
}

// checkBaseURL allows https, and http to this machine only, since tokens and passwords travel there.
func checkBaseURL(s string) error {
	shown := strconv.Quote(cutText(s, 200))
	if strings.Contains(s, "@") {
		shown = "a text with @, which may hold a password," // not to be repeated
	}
	u, err := url.Parse(s)
	problem := ""
	switch {
	case err == nil && u.User != nil:
		shown, problem = "a URL", "with a user or password is refused"
	case err != nil || u.Hostname() == "" || !isPort(u.Port()) || strings.ContainsFunc(s, unicode.IsSpace):
		problem = "is not a URL"
	case strings.Contains(s, "#"):
		problem = "has a #fragment"
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		problem = "would send tokens in the clear"
	case u.Scheme != "http" && u.Scheme != "https":
		problem = "is neither https nor http"
	default:
		return nil
	}
	return fmt.Errorf("%s %s; allowed: https://HOST/PATH, and http:// to a loopback host only", shown, problem)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}

// isPort allows no port, which is the scheme's.
func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" || (err == nil && n > 0)
}

// expandPath replaces a leading ~ by the user's home.
func expandPath(path, userHome string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		return filepath.Join(userHome, path[1:])
	}
	return path
}

// parseDuration reads a Go duration that may begin with weeks and days (1w2d12h); 0 needs no unit, and signs are refused.
func parseDuration(s string) (time.Duration, error) {
	hours, rest := uint64(0), s
	for _, unit := range []struct {
		name  string
		hours uint64
	}{{"w", 7 * 24}, {"d", 24}} {
		number, after, found := strings.Cut(rest, unit.name)
		if n, err := strconv.ParseUint(number, 10, 31); err == nil && found {
			hours, rest = hours+n*unit.hours, after
		}
	}
	// Behind hours, ParseDuration refuses a sign, a number without a unit, and the w and d that were no whole number's.
	d, err := time.ParseDuration(fmt.Sprintf("%dh%s", hours, rest))
	if s == "0" {
		return 0, nil
	} else if s == "" || err != nil || d > maxConfigDuration {
		return 0, fmt.Errorf("%q is not %s", cutText(s, 100), allowedDuration)
	}
	return d, nil
}
