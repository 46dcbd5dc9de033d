package main

// Settings and every path: config.yaml into a Config, or an error that names file, line, key and what is allowed.
// Nothing secret belongs in the file. To add a key: a field, its default, and a line in check.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
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
	backoffKind       = "exponential" // the only retry_backoff
	allowedDuration   = "a duration such as 30s, 15m, 12h, 7d or 2w"
	maxConfigDuration = 100 * 365 * 24 * time.Hour
)

// Duration is a time.Duration that YAML writes as "30s" or "7d"; a bare number but 0 is refused.
type Duration = time.Duration

// Config is what config.yaml says, with defaults filled in and paths absolute.
type Config struct {
	Home, File string `yaml:"-"` // File is "" where there is none

	Daemon struct {
		SocketPath      string   `yaml:"socket_path"`
		PIDFile         string   `yaml:"pid_file"`
		ShutdownTimeout Duration `yaml:"shutdown_timeout"`
	} `yaml:"daemon"`
	Storage struct {
		DatabasePath string   `yaml:"database_path"`
		Synchronous  string   `yaml:"synchronous"` // full, normal
		Retention    Duration `yaml:"retention"`   // of finished jobs; 0: for ever
	} `yaml:"storage"`
	Logging struct {
		Level      string `yaml:"level"`
		File       string `yaml:"file"`
		MaxSizeMB  int    `yaml:"max_size_mb"`
		MaxBackups int    `yaml:"max_backups"` // 0: no limit
		MaxAgeDays int    `yaml:"max_age_days"`
		Compress   bool   `yaml:"compress"`
	} `yaml:"logging"`
	Queue struct {
		Workers       int    `yaml:"workers"`
		MaxRetries    int    `yaml:"max_retries"`
		RetryBackoff  string `yaml:"retry_backoff"`
		ProviderLimit int    `yaml:"provider_limit"` // running jobs of one provider; 0: no limit
		MaxPending    int    `yaml:"max_pending"`    // 0: no limit
	} `yaml:"queue"`
	API struct {
		Timeout         Duration `yaml:"timeout"`
		GraphQLEndpoint string   `yaml:"graphql_endpoint"`
		MaxResponseMB   int      `yaml:"max_response_mb"`
	} `yaml:"api"`
	Auth struct {
		PassphraseFile string `yaml:"passphrase_file"`
	} `yaml:"auth"`
}

// defaultConfig is what holds without a file.
func defaultConfig(home string) *Config {
	c := &Config{Home: home}
	c.Daemon.SocketPath, c.Daemon.PIDFile = filepath.Join(home, "daemon.sock"), filepath.Join(home, "daemon.pid")
	c.Daemon.ShutdownTimeout = 15 * time.Second
	c.Storage.DatabasePath, c.Storage.Synchronous = filepath.Join(home, "daemon.db"), "full"
	c.Storage.Retention = 30 * 24 * time.Hour
	c.Logging.Level, c.Logging.File = "info", filepath.Join(home, "daemon.log")
	c.Logging.MaxSizeMB, c.Logging.MaxBackups, c.Logging.MaxAgeDays, c.Logging.Compress = 10, 5, 30, true
	c.Queue.Workers, c.Queue.MaxRetries, c.Queue.RetryBackoff = 4, 3, backoffKind
	c.API.Timeout, c.API.GraphQLEndpoint, c.API.MaxResponseMB = 30*time.Second, productionURL, 100
	return c
}

// loadConfig reads the file at path, which must exist, or home's config.yaml for "", which need not. A relative path
// inside it counts from home, and ~ is userHome.
func loadConfig(home, path, userHome string) (*Config, error) {
	named := path != ""
	if !named {
		path = filepath.Join(home, "config.yaml")
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return defaultConfig(home), nil
	} else if err != nil {
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

// configFault is a mistake at a line of the file.
type configFault struct {
	line int
	text string
}

func (f *configFault) Error() string { return fmt.Sprintf("%d: %s", f.line, f.text) }

// parseConfig reads text; its errors begin with the line.
func parseConfig(text []byte, home, userHome string) (*Config, error) {
	if len(text) > maxConfigBytes {
		return nil, &configFault{1, fmt.Sprintf("the file is larger than %d bytes", maxConfigBytes)}
	}
	c := defaultConfig(home)
	var root, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return c, nil
	} else if err != nil {
		return nil, notYAML(err)
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, &configFault{second.Line, "a second YAML document; allowed: one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, notYAML(err)
	}
	lines := map[string]int{}
	if len(root.Content) > 0 && !isNull(root.Content[0]) {
		if err := decodeSection(root.Content[0], reflect.ValueOf(c).Elem(), "", lines); err != nil {
			return nil, err
		}
	}
	for _, p := range []*string{&c.Daemon.SocketPath, &c.Daemon.PIDFile, &c.Storage.DatabasePath, &c.Logging.File, &c.Auth.PassphraseFile} {
		if *p = expandPath(*p, userHome); *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(home, *p)
		}
	}
	return c, c.check(lines)
}

// notYAML moves the line that the YAML library names in its text to the front, 1 where it names none.
func notYAML(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line ([0-9]+): `).FindStringSubmatch(text); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			return &configFault{line, "not YAML: " + text[len(m[0]):]}
		}
	}
	return &configFault{1, "not YAML: " + text}
}

// isNull tells a value that was left out from a mapping with a tag.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// shown is what a message says of a key or value: nothing long, nothing that a terminal obeys.
func shown(n *yaml.Node) string {
	switch {
	case n.Kind != yaml.ScalarNode:
		return "this"
	case n.Tag == "!!null":
		return "no value"
	}
	return strconv.Quote(cutText(n.Value, 100))
}

// decodeSection fills the struct to from a mapping, noting each key's line.
func decodeSection(n *yaml.Node, to reflect.Value, prefix string, lines map[string]int) error {
	if n.Kind != yaml.MappingNode {
		name := strings.TrimSuffix(prefix, ".")
		if name == "" {
			name = "the file"
		}
		return &configFault{max(n.Line, 1), fmt.Sprintf("%s: %s is not allowed; allowed: a section of keys", name, shown(n))}
	}
	fields := map[string]reflect.Value{}
	var names []string
	for i := range to.NumField() {
		if name := to.Type().Field(i).Tag.Get("yaml"); name != "-" {
			fields[name] = to.Field(i)
			names = append(names, name)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := prefix + key.Value
		field, known := fields[key.Value]
		if !known || key.Kind != yaml.ScalarNode { // an alias's Value is the name of its anchor
			text := prefix + shown(key) + ": unknown key"
			if regexp.MustCompile(`^[\w.-]+$`).MatchString(key.Value) && key.Kind == yaml.ScalarNode {
				text = prefix + cutText(key.Value, 100) + ": unknown key"
			}
			if near := nearest(key.Value, names); near != "" {
				text += fmt.Sprintf(" (did you mean %s%s?)", prefix, near)
			}
			return &configFault{key.Line, text + "; allowed: " + strings.Join(names, ", ")}
		}
		if _, twice := lines[name]; twice {
			return &configFault{key.Line, name + ": given twice; allowed: once"}
		}
		if key.Anchor != "" || value.Anchor != "" || value.Kind == yaml.AliasNode {
			return &configFault{key.Line, name + ": an anchor or alias; allowed: the value itself"}
		}
		lines[name] = value.Line
		var err error
		if field.Kind() == reflect.Struct {
			if !isNull(value) { // an empty section is no mistake
				err = decodeSection(value, field, name+".", lines)
			}
		} else if allowed := decodeValue(value, field); allowed != "" {
			err = &configFault{value.Line, fmt.Sprintf("%s: %s is not allowed; allowed: %s", name, shown(value), allowed)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeValue sets one setting, and returns what is allowed where it cannot.
func decodeValue(n *yaml.Node, to reflect.Value) (allowed string) {
	switch to.Interface().(type) {
	case Duration:
		d, err := parseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			return allowedDuration
		}
		to.SetInt(int64(d))
	case int:
		v, err := strconv.Atoi(n.Value)
		if n.Tag != "!!int" || err != nil || strconv.Itoa(v) != n.Value { // 010 is 8 to some and 10 to others
			return "a whole number"
		}
		to.SetInt(int64(v))
	case bool:
		v, err := strconv.ParseBool(n.Value)
		if n.Tag != "!!bool" || err != nil {
			return "true or false"
		}
		to.SetBool(v)
	default:
		if n.Tag != "!!str" {
			return "a text"
		}
		to.SetString(n.Value)
	}
	return ""
}

// check holds every value to its range; lines has the line of each key that was given.
func (c *Config) check(lines map[string]int) error {
	fault := func(key, allowed string, value any) error {
		return &configFault{max(lines[key], 1), fmt.Sprintf("%s: %v is not allowed; allowed: %s", key, value, allowed)}
	}
	for _, v := range []struct {
		key        string
		value      int
		least, top int
	}{
		{"logging.max_size_mb", c.Logging.MaxSizeMB, 1, 10000}, {"logging.max_backups", c.Logging.MaxBackups, 0, 10000},
		{"logging.max_age_days", c.Logging.MaxAgeDays, 0, 36500}, {"queue.workers", c.Queue.Workers, 1, 1000},
		{"queue.max_retries", c.Queue.MaxRetries, 0, maxRetriesLimit}, {"queue.provider_limit", c.Queue.ProviderLimit, 0, 1000},
		{"queue.max_pending", c.Queue.MaxPending, 0, 100_000_000}, {"api.max_response_mb", c.API.MaxResponseMB, 1, 1000},
	} {
		if v.value < v.least || v.value > v.top {
			return fault(v.key, fmt.Sprintf("%d to %d", v.least, v.top), v.value)
		}
	}
	for _, v := range []struct {
		key        string
		value      Duration
		least, top Duration
	}{
		{"daemon.shutdown_timeout", c.Daemon.ShutdownTimeout, time.Second, 10 * time.Minute},
		{"storage.retention", c.Storage.Retention, 0, maxConfigDuration}, {"api.timeout", c.API.Timeout, 100 * time.Millisecond, maxTimeout},
	} {
		if v.value < v.least || v.value > v.top {
			return fault(v.key, fmt.Sprintf("%s to %s", v.least, v.top), v.value)
		}
	}
	for _, v := range []struct{ key, value, allowed string }{
		{"storage.synchronous", c.Storage.Synchronous, "full, normal"}, {"logging.level", c.Logging.Level, "debug, info, warn, error"},
		{"queue.retry_backoff", c.Queue.RetryBackoff, backoffKind},
	} {
		if !slices.Contains(strings.Split(v.allowed, ", "), v.value) {
			return fault(v.key, v.allowed, strconv.Quote(cutText(v.value, 100)))
		}
	}
	taken := map[string]string{}
	for _, v := range []struct{ key, value string }{{"daemon.socket_path", c.Daemon.SocketPath}, {"daemon.pid_file", c.Daemon.PIDFile},
		{"storage.database_path", c.Storage.DatabasePath}, {"logging.file", c.Logging.File}, {"auth.passphrase_file", c.Auth.PassphraseFile}} {
		if v.value == "" && v.key == "auth.passphrase_file" {
			continue
		}
		if v.value == "" || strings.ContainsRune(v.value, 0) {
			return fault(v.key, "a path", strconv.Quote(cutText(v.value, 100)))
		}
		// Rotation would rename a database, and a start would remove what lies where the socket goes.
		if other := taken[filepath.Clean(v.value)]; other != "" {
			return fault(v.key, "a path of its own, not that of "+other, strconv.Quote(cutText(v.value, 100)))
		}
		taken[filepath.Clean(v.value)] = v.key
	}
	if err := checkBaseURL(c.API.GraphQLEndpoint); err != nil {
		return &configFault{max(lines["api.graphql_endpoint"], 1), "api.graphql_endpoint: " + err.Error()}
	}
	return nil
}

// checkBaseURL allows https, and http to this machine only, since tokens and passwords travel there.
func checkBaseURL(s string) error {
	const allowed = "; allowed: https://HOST/PATH, and http:// to a loopback host only"
	shown := strconv.Quote(cutText(s, 200))
	if strings.Contains(s, "@") {
		shown = "a text with @, which may hold a password," // not to be repeated
	}
	u, err := url.Parse(s)
	switch {
	case err == nil && u.User != nil:
		return fmt.Errorf("a URL with a user or password is refused%s", allowed)
	case err != nil || u.Hostname() == "" || !isPort(u.Port()) || strings.ContainsFunc(s, unicode.IsSpace):
		return fmt.Errorf("%s is not a URL%s", shown, allowed)
	case strings.Contains(s, "#"):
		return fmt.Errorf("%s has a #fragment%s", shown, allowed)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("%s would send tokens in the clear%s", shown, allowed)
	}
	return fmt.Errorf("%s is neither https nor http%s", shown, allowed)
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

// parseDuration reads a Go duration that may also use d (24 h) and w (7 d); 0 needs no unit. Negative ones are refused.
func parseDuration(s string) (time.Duration, error) {
	total, rest := time.Duration(0), s
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		number, after, found := strings.Cut(rest, unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || time.Duration(n) > maxConfigDuration/unit.size {
			return 0, fmt.Errorf("%q is not %s", cutText(s, 100), allowedDuration)
		}
		total += time.Duration(n) * unit.size
		rest = after
	}
	var d time.Duration
	var err error
	if rest == s || rest != "" {
		d, err = time.ParseDuration(rest)
	}
	// A sign is refused, and so is the 0 of 7d0.
	if err != nil || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") || (rest == "0" && rest != s) || d > maxConfigDuration-total {
		return 0, fmt.Errorf("%q is not %s", cutText(s, 100), allowedDuration)
	}
	return total + d, nil
}
