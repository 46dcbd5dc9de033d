package main

// Settings and every path: config.yaml into a Config, or an error that names file, line, key and what is allowed.
// Nothing secret belongs in the file. To add a key: its default, a field, and its case in set.

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
	maxConfigDuration = 100 * 365 * 24 * time.Hour

	databaseKey = "storage.database_path"
)

// defaults are read like a file, in front of the file itself. They name every key there is.
const defaults = `
daemon:
  socket_path: daemon.sock
  pid_file: daemon.pid
  shutdown_timeout: 15s
storage:
  database_path: daemon.db
  synchronous: full
  retention: 30d
logging:
  level: info
  file: daemon.log
  max_size_mb: 10
  max_backups: 5
  max_age_days: 30
  compress: true
queue:
  workers: 4
  max_retries: 3
  retry_backoff: exponential
  provider_limit: 0
  max_pending: 0
api:
  timeout: 30s
  graphql_endpoint: https://api.honeydew.mobilecapital.net/graphql
  max_response_mb: 100
auth:
  passphrase_file: ""
`

// Config is what config.yaml says, with defaults filled in and paths absolute.
type Config struct {
	Home  string
	File  string         // "" where there is none
	lines map[string]int // of the keys that File sets

	Daemon struct {
		SocketPath      string
		PIDFile         string
		ShutdownTimeout time.Duration
	}
	Storage struct {
		DatabasePath string
		Synchronous  string
		Retention    time.Duration // of finished jobs; 0: for ever
	}
	Logging struct {
		Level      string
		File       string
		MaxSizeMB  int
		MaxBackups int // 0: no limit
		MaxAgeDays int // 0: no limit
		Compress   bool
	}
	Queue struct {
		Workers       int
		MaxRetries    int
		RetryBackoff  string
		ProviderLimit int // running jobs of one provider; 0: no limit
		MaxPending    int // jobs that wait; 0: no limit
	}
	API struct {
		Timeout         time.Duration
		GraphQLEndpoint string
		MaxResponseMB   int
	}
	Auth struct {
		PassphraseFile string
	}
}

// set puts the value of a key into its field, or says what is allowed.
func (c *Config) set(key string, v value) error {
	switch key {
	case "daemon.socket_path":
		return v.path(&c.Daemon.SocketPath)
	case "daemon.pid_file":
		return v.path(&c.Daemon.PIDFile)
	case "daemon.shutdown_timeout":
		return v.duration(&c.Daemon.ShutdownTimeout, time.Second, 10*time.Minute)
	case databaseKey:
		return v.path(&c.Storage.DatabasePath)
	case "storage.synchronous":
		return v.word(&c.Storage.Synchronous, "full", "normal")
	case "storage.retention":
		return v.duration(&c.Storage.Retention, 0, maxConfigDuration)
	case "logging.level":
		return v.word(&c.Logging.Level, "debug", "info", "warn", "error")
	case "logging.file":
		return v.path(&c.Logging.File)
	case "logging.max_size_mb":
		return v.number(&c.Logging.MaxSizeMB, 1, 10000)
	case "logging.max_backups":
		return v.number(&c.Logging.MaxBackups, 0, 10000)
	case "logging.max_age_days":
		return v.number(&c.Logging.MaxAgeDays, 0, 36500)
	case "logging.compress":
		return v.truth(&c.Logging.Compress)
	case "queue.workers":
		return v.number(&c.Queue.Workers, 1, 1000)
	case "queue.max_retries":
		return v.number(&c.Queue.MaxRetries, 0, maxRetriesLimit)
	case "queue.retry_backoff":
		return v.word(&c.Queue.RetryBackoff, "exponential")
	case "queue.provider_limit":
		return v.number(&c.Queue.ProviderLimit, 0, 1000)
	case "queue.max_pending":
		return v.number(&c.Queue.MaxPending, 0, 100_000_000)
	case "api.timeout":
		return v.duration(&c.API.Timeout, 100*time.Millisecond, maxTimeout)
	case "api.graphql_endpoint":
		return v.baseURL(&c.API.GraphQLEndpoint)
	case "api.max_response_mb":
		return v.number(&c.API.MaxResponseMB, 1, 1000)
	case "auth.passphrase_file":
		return v.optionalPath(&c.Auth.PassphraseFile)
	}
	return errors.New("a key without a field")
}

// value is what the file says of a key. Each method puts one kind of value into a field.
type value struct {
	*yaml.Node
	home     string
	userHome string
}

func (v value) text(to *string) error {
	if v.Tag != "!!str" {
		return refused(shown(v.Node), "a text")
	}
	*to = v.Value
	return nil
}

func (v value) word(to *string, allowed ...string) error {
	if err := v.text(to); err != nil {
		return err
	}
	if !slices.Contains(allowed, *to) {
		return refused(quoted(*to), strings.Join(allowed, ", "))
	}
	return nil
}

func (v value) baseURL(to *string) error {
	if err := v.text(to); err != nil {
		return err
	}
	return checkBaseURL(*to)
}

func (v value) path(to *string) error {
	if err := v.text(to); err != nil {
		return err
	}
	if *to == "" || strings.ContainsRune(*to, 0) {
		return refused(quoted(*to), "a path")
	}
	if strings.Contains(*to, "$") {
		return refused(quoted(*to), "a path in full, or from ~: variables mean nothing here")
	}
	*to = expandPath(*to, v.userHome)
	if !filepath.IsAbs(*to) {
		*to = filepath.Join(v.home, *to)
	}
	*to = filepath.Clean(*to)
	return nil
}

func (v value) optionalPath(to *string) error {
	if v.Tag == "!!str" && v.Value == "" {
		return nil
	}
	return v.path(to)
}

func (v value) truth(to *bool) (err error) {
	*to, err = strconv.ParseBool(v.Value)
	if v.Tag != "!!bool" || err != nil {
		return refused(shown(v.Node), "true or false")
	}
	return nil
}

func (v value) number(to *int, least, most int) (err error) {
	*to, err = strconv.Atoi(v.Value)
	if v.Tag != "!!int" || err != nil || strconv.Itoa(*to) != v.Value { // 010 is 8 to some and 10 to others
		return refused(shown(v.Node), "a whole number")
	}
	if *to < least || *to > most {
		return refused(*to, fmt.Sprintf("%d to %d", least, most))
	}
	return nil
}

func (v value) duration(to *time.Duration, least, most time.Duration) (err error) {
	*to, err = parseDuration(v.Value)
	if v.Kind != yaml.ScalarNode || err != nil || *to < least || *to > most {
		return refused(shown(v.Node), durationsIn(least, most))
	}
	return nil
}

// durationsIn says which durations are allowed.
func durationsIn(least, most time.Duration) string {
	if most == maxConfigDuration {
		return "a duration such as 12h, 7d or 2w, up to 100 years"
	}
	return fmt.Sprintf("a duration such as 30s or 5m, from %s to %s", durationText(least), durationText(most))
}

// durationText is Go's text of a duration without the zeros at its end: 24h, not 24h0m0s.
func durationText(d time.Duration) string {
	text := strings.Replace(d.String(), "m0s", "m", 1)
	return strings.Replace(text, "h0m", "h", 1)
}

// refused says what is allowed in place of value.
func refused(value any, allowed string) error {
	return fmt.Errorf("%v is not allowed; allowed: %s", value, allowed)
}

// quoted is a value as messages show it: nothing long, nothing that a terminal obeys.
func quoted(s string) string {
	return strconv.Quote(cutText(s, 100))
}

// shown is what a message says of a key or value.
func shown(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return "this"
	}
	if n.Tag == "!!null" {
		return "no value"
	}
	return quoted(n.Value)
}

// defaultConfig is what holds without a file.
func defaultConfig(home string) *Config {
	c, err := parseConfig(nil, home, "")
	if err != nil {
		panic("the defaults: " + err.Error())
	}
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
	known, err := parseYAML([]byte(defaults))
	if err != nil {
		return nil, err
	}
	file, err := parseYAML(text)
	if err != nil {
		return nil, err
	}
	c := &Config{Home: home}
	for _, part := range []*yaml.Node{known, file} {
		c.lines = map[string]int{}
		if err := c.read("", part, known, userHome); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// parseYAML reads the one document in text. No document is an empty one.
func parseYAML(text []byte) (*yaml.Node, error) {
	var root, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	err := decoder.Decode(&root)
	if err == nil {
		err = decoder.Decode(&second)
		if err == nil {
			return nil, faultAt(second.Line, "a second YAML document; allowed: one")
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, notYAML(err)
	}
	if len(root.Content) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode}, nil
	}
	return root.Content[0], nil
}

// notYAML moves the line that the YAML library names in its text to the front, 1 where it names none.
func notYAML(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if _, err := fmt.Sscanf(text, "line %d:", &line); err == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	if strings.HasPrefix(text, "found character that cannot start") {
		text += "; if it is a tab, indent with blanks"
	}
	return faultAt(line, "not valid YAML: %s", text)
}

// read obeys the keys of n, which is a section of the file, or all of it for "". known is the same part of the
// defaults.
func (c *Config) read(section string, n, known *yaml.Node, userHome string) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // an empty section is no mistake
	}
	if n.Kind != yaml.MappingNode {
		what := cmp.Or(section, "the file")
		return faultAt(n.Line, "%s: %w", what, refused(shown(n), "keys and their values"))
	}
	prefix := section + "."
	if section == "" {
		prefix = ""
	}
	var keys []string
	for pair := range slices.Chunk(known.Content, 2) {
		keys = append(keys, pair[0].Value)
	}
	for pair := range slices.Chunk(n.Content, 2) {
		key, given := pair[0], pair[1]
		name := prefix + key.Value
		place := slices.Index(keys, key.Value)
		if key.Kind != yaml.ScalarNode || place < 0 { // an alias's Value is the name of its anchor
			return unknownKey(prefix, key, keys)
		}
		if _, twice := c.lines[name]; twice {
			return faultAt(key.Line, "%s: given twice; allowed: once", name)
		}
		if key.Anchor != "" || given.Anchor != "" || given.Kind == yaml.AliasNode {
			return faultAt(key.Line, "%s: an anchor or alias; allowed: the value itself", name)
		}
		c.lines[name] = given.Line
		if section == "" {
			if err := c.read(name, given, known.Content[2*place+1], userHome); err != nil {
				return err
			}
			continue
		}
		if err := c.set(name, value{given, c.Home, userHome}); err != nil {
			return faultAt(given.Line, "%s: %w", name, err)
		}
	}
	return nil
}

func unknownKey(prefix string, key *yaml.Node, keys []string) error {
	guess := ""
	near := nearest(key.Value, keys)
	if near != "" {
		guess = fmt.Sprintf(" (did you mean %s%s?)", prefix, near)
	}
	name := prefix + strings.Trim(shown(key), `"`)
	return faultAt(key.Line, "%s: unknown key%s; allowed: %s", name, guess, strings.Join(keys, ", "))
}

// checkPaths refuses two paths to one file, whatever they are called, and those that must name a regular file and name
// something else: rotation would rename a database, and a start would remove what lies where the socket goes. The
// folders that the file names must exist, for nobody makes them, and so must the passphrase.
func (c *Config) checkPaths() error {
	const socket, passphrase = "daemon.socket_path", "auth.passphrase_file"
	database := c.Storage.DatabasePath
	paths := []struct{ key, path string }{
		{"the key", filepath.Join(c.Home, "key")},
		{"the lock", lockPath(c.Home)},
		{"the configuration", cmp.Or(c.File, filepath.Join(c.Home, "config.yaml"))},
		{databaseKey, database},
		{"the database's lock", database + ".lock"},
		{"the database's log", database + "-wal"},
		{"the database's index", database + "-shm"},
		{socket, c.Daemon.SocketPath},
		{"daemon.pid_file", c.Daemon.PIDFile},
		{"logging.file", c.Logging.File},
		{passphrase, c.Auth.PassphraseFile},
	}
	infos := make([]fs.FileInfo, len(paths)) // nil where there is nothing yet
	for i := range paths {
		p := &paths[i]
		if p.path == "" {
			continue
		}
		real, err := realPath(p.path)
		if err == nil {
			p.path = real
		}
		dir := filepath.Dir(p.path)
		if c.lines[p.key] > 0 && p.key != databaseKey && !exists(dir) {
			return c.fault(p.key, fmt.Errorf("there is no folder %s", dir))
		}
		infos[i], err = os.Stat(p.path)
		if err != nil && p.key == passphrase {
			return c.fault(p.key, fmt.Errorf("there is no file %s", p.path))
		}
		if p.key != socket && (isDevice(p.path) || err == nil && !infos[i].Mode().IsRegular()) {
			return c.fault(p.key, refused(quoted(p.path), "a regular file, or none yet"))
		}
		for j, other := range paths[:i] {
			if p.path == other.path || os.SameFile(infos[i], infos[j]) {
				return c.fault(p.key, refused(quoted(p.path), "a path of its own, not that of "+other.key))
			}
		}
	}
	return nil
}

// checkDisk refuses a database whose folder is not there, as where its disk is not mounted. The home is made.
func (c *Config) checkDisk() error {
	dir := filepath.Dir(c.Storage.DatabasePath)
	if exists(dir) || dir == c.Home {
		return nil
	}
	return c.fault(databaseKey, fmt.Errorf("there is no folder %s", dir))
}

// isDevice reports whether path lies where files are none, whatever they look like.
func isDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
}

// fault names where the file says what is wrong, if it is the file that says it.
func (c *Config) fault(key string, problem error) error {
	line := c.lines[key]
	if line == 0 {
		return fmt.Errorf("%s: %w", key, problem)
	}
	return fmt.Errorf("%s:%d: %s: %w", c.File, line, key, problem)
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

// checkBaseURL allows https, and http to this machine only, since tokens and passwords travel there.
func checkBaseURL(s string) error {
	what := strconv.Quote(cutText(s, 200))
	if strings.Contains(s, "@") {
		what = "a text with @, which may hold a password," // not to be repeated
	}
	u, err := url.Parse(s)
	problem := ""
	switch {
	case err == nil && u.User != nil:
		what = "a URL"
		problem = "with a user or password is refused"
	case err != nil, u.Hostname() == "", !isPort(u.Port()), strings.ContainsFunc(s, unicode.IsSpace):
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
	return fmt.Errorf("%s %s; allowed: https://HOST/PATH, and http:// to this computer only", what, problem)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip.IsLoopback()
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

// parseDuration reads a Go duration that may begin with weeks and days (1w2d12h). 0 needs no unit; signs are refused.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	weeks, rest := cutCount(s, "w")
	days, rest := cutCount(rest, "d")
	// Behind hours, ParseDuration refuses a sign, a number without a unit, and the w and d that were no whole number's.
	hours := 24 * (7*weeks + days)
	d, err := time.ParseDuration(fmt.Sprintf("%dh%s", hours, rest))
	if s == "" || err != nil || d > maxConfigDuration {
		return 0, errors.New("not a duration")
	}
	return d, nil
}

// cutCount cuts a whole number and its unit from the front of s, 0 where s does not begin with them.
func cutCount(s, unit string) (n uint64, rest string) {
	digits, rest, _ := strings.Cut(s, unit)
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || digits == s {
		return 0, s
	}
	return n, rest
}
