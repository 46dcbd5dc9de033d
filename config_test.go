package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// parsedConfig reads text as /home/me/.honeydew/config.yaml of the user whose home is /home/me.
func parsedConfig(t testing.TB, text string) *Config {
	t.Helper()
	c, err := parseConfig([]byte(text), "/home/me/.honeydew", "/home/me")
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return c
}

func TestConfigWithoutAFileIsTheDefaults(t *testing.T) {
	c, err := loadConfig("/nowhere/.honeydew", "", "/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	if c.File != "" || c.Home != "/nowhere/.honeydew" {
		t.Errorf("File %q, Home %q", c.File, c.Home)
	}
	got := fmt.Sprintf("%v %v %v %v %v %v", c.Daemon, c.Storage, c.Logging, c.Queue, c.API, c.Auth)
	want := "{/nowhere/.honeydew/daemon.sock /nowhere/.honeydew/daemon.pid 15s} {/nowhere/.honeydew/daemon.db full 720h0m0s}" +
		" {info /nowhere/.honeydew/daemon.log 10 5 30 true} {4 3 exponential 0 0}" +
		" {30s https://api.honeydew.mobilecapital.net/graphql 100} {}"
	if got != want {
		t.Errorf("defaults\n got %s\nwant %s", got, want)
	}
}

// configKey is a key, a value for it that is not the default (retry_backoff has no other), and what is seen of it.
type configKey struct {
	key, value, want string
	get              func(*Config) any
}

// configKeys are all the keys there are.
func configKeys() []configKey {
	return []configKey{
		{"daemon.socket_path", "/run/h.sock", "/run/h.sock", func(c *Config) any { return c.Daemon.SocketPath }},
		{"daemon.pid_file", "/run/h.pid", "/run/h.pid", func(c *Config) any { return c.Daemon.PIDFile }},
		{"daemon.shutdown_timeout", "1m", "1m0s", func(c *Config) any { return c.Daemon.ShutdownTimeout }},
		{"storage.database_path", "~/data/h.db", "/home/me/data/h.db", func(c *Config) any { return c.Storage.DatabasePath }},
		{"storage.synchronous", "normal", "normal", func(c *Config) any { return c.Storage.Synchronous }},
		{"storage.retention", "2w", "336h0m0s", func(c *Config) any { return c.Storage.Retention }},
		{"logging.level", "debug", "debug", func(c *Config) any { return c.Logging.Level }},
		{"logging.file", "log/h.log", "/home/me/.honeydew/log/h.log", func(c *Config) any { return c.Logging.File }},
		{"logging.max_size_mb", "7", "7", func(c *Config) any { return c.Logging.MaxSizeMB }},
		{"logging.max_backups", "0", "0", func(c *Config) any { return c.Logging.MaxBackups }},
		{"logging.max_age_days", "1", "1", func(c *Config) any { return c.Logging.MaxAgeDays }},
		{"logging.compress", "false", "false", func(c *Config) any { return c.Logging.Compress }},
		{"queue.workers", "9", "9", func(c *Config) any { return c.Queue.Workers }},
		{"queue.max_retries", "0", "0", func(c *Config) any { return c.Queue.MaxRetries }},
		{"queue.retry_backoff", "exponential", "exponential", func(c *Config) any { return c.Queue.RetryBackoff }},
		{"queue.provider_limit", "2", "2", func(c *Config) any { return c.Queue.ProviderLimit }},
		{"queue.max_pending", "1000", "1000", func(c *Config) any { return c.Queue.MaxPending }},
		{"api.timeout", "5s", "5s", func(c *Config) any { return c.API.Timeout }},
		{"api.graphql_endpoint", "http://localhost:8080/graphql", "http://localhost:8080/graphql", func(c *Config) any { return c.API.GraphQLEndpoint }},
		{"api.max_response_mb", "1", "1", func(c *Config) any { return c.API.MaxResponseMB }},
		{"auth.passphrase_file", "~/.secret", "/home/me/.secret", func(c *Config) any { return c.Auth.PassphraseFile }},
	}
}

func TestConfigKeyIsHonoured(t *testing.T) {
	for _, k := range configKeys() {
		section, key, _ := strings.Cut(k.key, ".")
		c := parsedConfig(t, fmt.Sprintf("%s:\n  %s: %s # a comment\n", section, key, k.value))
		if got := fmt.Sprint(k.get(c)); got != k.want {
			t.Errorf("%s: %s gave %s, want %s", k.key, k.value, got, k.want)
		}
	}
}

// The list of keys in a refusal is the whole of them, so that a key added without a row above is noticed.
func TestConfigKeysAreThoseTested(t *testing.T) {
	var tested []string
	for _, k := range configKeys() {
		tested = append(tested, k.key)
	}
	var known []string
	_, err := parseConfig([]byte("x: 1"), "/h", "/u")
	_, sections, _ := strings.Cut(err.Error(), "allowed: ")
	for section := range strings.SplitSeq(sections, ", ") {
		_, err := parseConfig(fmt.Appendf(nil, "%s: {unheard_of: 1}", section), "/h", "/u")
		_, keys, _ := strings.Cut(err.Error(), "allowed: ")
		for key := range strings.SplitSeq(keys, ", ") {
			known = append(known, section+"."+key)
		}
	}
	if got, want := strings.Join(known, "\n"), strings.Join(tested, "\n"); got != want {
		t.Errorf("known keys\n%s\ntested keys\n%s", got, want)
	}
}

func TestConfigOfThePlanIsAccepted(t *testing.T) {
	parsedConfig(t, `daemon:
  socket_path: ~/.honeydew/daemon.sock
  pid_file: ~/.honeydew/daemon.pid

storage:
  database_path: ~/.honeydew/daemon.db

logging:
  level: info                          # debug, info, warn, error
  file: ~/.honeydew/daemon.log
  max_size_mb: 10                      # max size before rotation
  max_backups: 5                       # number of rotated files to keep
  max_age_days: 30                     # days to retain old logs
  compress: true                       # gzip rotated files

queue:
  workers: 4
  max_retries: 3
  retry_backoff: exponential

api:
  timeout: 30s
  graphql_endpoint: https://api.example.com/graphql
`)
}

func TestConfigOfNothingIsTheDefaults(t *testing.T) {
	want := *defaultConfig("/home/me/.honeydew")
	want.lines = nil
	for _, text := range []string{
		"", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "~\n", "null\n", "{}\n", "\ufeff", "\r\n",
		"queue:\n", "queue: ~\n", "queue: null\n", "queue: {}\napi:\nauth:\n",
	} {
		got := *parsedConfig(t, text)
		got.lines = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q gave %+v", text, got)
		}
	}
}

func TestConfigAccepted(t *testing.T) {
	for _, text := range []string{
		"storage:\n  retention: 0\n",
		"storage:\n  retention: '0'\n",
		"storage:\n  retention: 0s\n",
		"storage: {retention: 36500d}",
		"daemon: {shutdown_timeout: 10m}",
		"api: {timeout: 100ms}",
		"api: {timeout: '24h'}",
		"queue: {workers: 1000, max_retries: 100}",
		"auth: {passphrase_file: ''}",
		"logging: {compress: True}",
		"%YAML 1.1\n---\nqueue: {workers: 2}\n",
		"queue:\r\n  workers: 2\r\n",
		"\"queue\": {\"workers\": 2}",
	} {
		if _, err := parseConfig([]byte(text), "/h", "/u"); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// configRefusal is a mistake and the whole message about it, after "FILE:".
type configRefusal struct{ text, want string }

func wantConfigRefused(t *testing.T, cases []configRefusal) {
	t.Helper()
	for _, c := range cases {
		_, err := parseConfig([]byte(c.text), "/home/me/.honeydew", "/home/me")
		if err == nil {
			t.Errorf("%.80q was accepted, want %s", c.text, c.want)
		} else if err.Error() != c.want {
			t.Errorf("%.80q\n got %s\nwant %s", c.text, err, c.want)
		}
	}
}

func TestConfigUnknownKeyIsRefusedWithASuggestion(t *testing.T) {
	const top = "; allowed: daemon, storage, logging, queue, api, auth"
	const queue = "; allowed: workers, max_retries, retry_backoff, provider_limit, max_pending"
	wantConfigRefused(t, []configRefusal{
		{"queue:\n  wokers: 4\n", "2: queue.wokers: unknown key (did you mean queue.workers?)" + queue},
		{"queue:\n  Workers: 4\n", "2: queue.Workers: unknown key (did you mean queue.workers?)" + queue},
		{"queue:\n  max-retries: 4\n", "2: queue.max-retries: unknown key (did you mean queue.max_retries?)" + queue},
		{"\nqueu:\n  workers: 4\n", "2: queu: unknown key (did you mean queue?)" + top},
		{"workers: 4\n", "1: workers: unknown key" + top},
		{"home: /tmp\n", "1: home: unknown key" + top},
		{"Home: /tmp\n", "1: Home: unknown key" + top},
		{"queue.workers: 4\n", "1: queue.workers: unknown key" + top},
		{"<<: {queue: {workers: 2}}\n", `1: <<: unknown key` + top},
		{"? [queue]\n: 1\n", `1: this: unknown key` + top},
		{"'': 1\n", `1: : unknown key` + top},
		{"~: 1\n", `1: no value: unknown key` + top},
		{"\"\\e[2J\": 1\n", `1: \x1b[2J: unknown key` + top},
		{strings.Repeat("queue", 100) + ": 1\n", "1: " + strings.Repeat("queue", 19) + "qu...: unknown key" + top},
	})
}

func TestConfigWrongTypeIsRefused(t *testing.T) {
	const duration = "a duration such as 30s or 5m, from 100ms to 24h"
	const age = "a duration such as 12h, 7d or 2w, up to 100 years"
	for _, kind := range []struct {
		key, allowed string
		values       []string
	}{
		{"queue.workers", "a whole number", []string{
			`"four"`, `"4"`, `4.0`, `4.5`, `true`, `010`, `+4`, `0x4`, `4_0`, `1e1`, `99999999999999999999`, `[4]`, `{a: 4}`, `~`, ``, `2026-01-01`, `.nan`}},
		{"logging.compress", "true or false", []string{
			`yes`, `no`, `on`, `1`, `0`, `"true"`, `!!bool yes`, `!!bool off`, `tRUE`, `[true]`, `{}`, `~`, ``}},
		{"logging.level", "a text", []string{`1`, `true`, `1.5`, `[info]`, `{info: 1}`, `~`, ``, `2026-01-01`}},
		{"daemon.socket_path", "a text", []string{`1`, `[/run/s]`, `~`, ``, `.inf`}},
		{"api.timeout", duration, []string{
			`30`, `30.5`, `"30"`, `-30s`, `+30s`, `30 s`, `30S`, `1.5d`, `1mo`, `s`, `""`, `~`, ``, `true`, `[30s]`, `{s: 30}`, `1h-1m`, `0x1s`, `1e3s`, `7d0`, `2w1w`, `1d1w`}},
		{"storage.retention", age, []string{`30`, `-1d`, `-0`, `+0`, `00`, `0.0`, `forever`, `~`, ``, `36501d`, `5300w`, `5200w36500d`, `999999999999d`}},
	} {
		section, key, _ := strings.Cut(kind.key, ".")
		for _, value := range kind.values {
			_, err := parseConfig(fmt.Appendf(nil, "# first\n%s:\n  %s: %s\n", section, key, value), "/h", "/u")
			if err == nil {
				t.Errorf("%s: %s was accepted", kind.key, value)
				continue
			}
			before, after := "3: "+kind.key+": ", " is not allowed; allowed: "+kind.allowed
			if text := err.Error(); !strings.HasPrefix(text, before) || !strings.HasSuffix(text, after) {
				t.Errorf("%s: %s\n got %s\nwant %s...%s", kind.key, value, text, before, after)
			}
		}
	}
}

func TestConfigImpossibleValueIsRefused(t *testing.T) {
	const url = "; allowed: https://HOST/PATH, and http:// to this computer only"
	wantConfigRefused(t, []configRefusal{
		{"queue: {workers: 0}", "1: queue.workers: 0 is not allowed; allowed: 1 to 1000"},
		{"queue: {workers: 1001}", "1: queue.workers: 1001 is not allowed; allowed: 1 to 1000"},
		{"queue: {workers: -1}", "1: queue.workers: -1 is not allowed; allowed: 1 to 1000"},
		{"queue: {max_retries: -1}", "1: queue.max_retries: -1 is not allowed; allowed: 0 to 100"},
		{"queue: {max_retries: 101}", "1: queue.max_retries: 101 is not allowed; allowed: 0 to 100"},
		{"queue: {provider_limit: -1}", "1: queue.provider_limit: -1 is not allowed; allowed: 0 to 1000"},
		{"queue: {provider_limit: 1001}", "1: queue.provider_limit: 1001 is not allowed; allowed: 0 to 1000"},
		{"queue: {max_pending: -1}", "1: queue.max_pending: -1 is not allowed; allowed: 0 to 100000000"},
		{"queue: {max_pending: 100000001}", "1: queue.max_pending: 100000001 is not allowed; allowed: 0 to 100000000"},
		{"queue: {retry_backoff: linear}", `1: queue.retry_backoff: "linear" is not allowed; allowed: exponential`},
		{"queue: {retry_backoff: ''}", `1: queue.retry_backoff: "" is not allowed; allowed: exponential`},
		{"logging: {max_size_mb: 0}", "1: logging.max_size_mb: 0 is not allowed; allowed: 1 to 10000"},
		{"logging: {max_size_mb: 10001}", "1: logging.max_size_mb: 10001 is not allowed; allowed: 1 to 10000"},
		{"logging: {max_backups: -1}", "1: logging.max_backups: -1 is not allowed; allowed: 0 to 10000"},
		{"logging: {max_backups: 10001}", "1: logging.max_backups: 10001 is not allowed; allowed: 0 to 10000"},
		{"logging: {max_age_days: -1}", "1: logging.max_age_days: -1 is not allowed; allowed: 0 to 36500"},
		{"logging: {max_age_days: 36501}", "1: logging.max_age_days: 36501 is not allowed; allowed: 0 to 36500"},
		{"logging: {level: verbose}", `1: logging.level: "verbose" is not allowed; allowed: debug, info, warn, error`},
		{"logging: {level: INFO}", `1: logging.level: "INFO" is not allowed; allowed: debug, info, warn, error`},
		{"logging: {level: 'debug, info'}", `1: logging.level: "debug, info" is not allowed; allowed: debug, info, warn, error`},
		{"logging: {level: ''}", `1: logging.level: "" is not allowed; allowed: debug, info, warn, error`},
		{"storage: {synchronous: off}", `1: storage.synchronous: "off" is not allowed; allowed: full, normal`},
		{"storage: {synchronous: 'full, normal'}", `1: storage.synchronous: "full, normal" is not allowed; allowed: full, normal`},
		{"storage: {synchronous: ''}", `1: storage.synchronous: "" is not allowed; allowed: full, normal`},
		{"daemon: {shutdown_timeout: 0}", `1: daemon.shutdown_timeout: "0" is not allowed; allowed: a duration such as 30s or 5m, from 1s to 10m`},
		{"daemon: {shutdown_timeout: 999ms}", `1: daemon.shutdown_timeout: "999ms" is not allowed; allowed: a duration such as 30s or 5m, from 1s to 10m`},
		{"daemon: {shutdown_timeout: 601s}", `1: daemon.shutdown_timeout: "601s" is not allowed; allowed: a duration such as 30s or 5m, from 1s to 10m`},
		{"api: {timeout: 0}", `1: api.timeout: "0" is not allowed; allowed: a duration such as 30s or 5m, from 100ms to 24h`},
		{"api: {timeout: 99ms}", `1: api.timeout: "99ms" is not allowed; allowed: a duration such as 30s or 5m, from 100ms to 24h`},
		{"api: {timeout: 2d}", `1: api.timeout: "2d" is not allowed; allowed: a duration such as 30s or 5m, from 100ms to 24h`},
		{"api: {max_response_mb: 0}", "1: api.max_response_mb: 0 is not allowed; allowed: 1 to 1000"},
		{"api: {max_response_mb: 1001}", "1: api.max_response_mb: 1001 is not allowed; allowed: 1 to 1000"},
		{"api:\n  timeout: 1s\n  graphql_endpoint: ''", `3: api.graphql_endpoint: "" is not a URL` + url},
		{"api: {graphql_endpoint: 'http://example.com/'}", `1: api.graphql_endpoint: "http://example.com/" would send tokens in the clear` + url},
		{"daemon: {socket_path: ''}", `1: daemon.socket_path: "" is not allowed; allowed: a path`},
		{"daemon: {pid_file: ''}", `1: daemon.pid_file: "" is not allowed; allowed: a path`},
		{"storage: {database_path: ''}", `1: storage.database_path: "" is not allowed; allowed: a path`},
		{"logging: {file: ''}", `1: logging.file: "" is not allowed; allowed: a path`},
		{"logging: {file: \"/a\\0b\"}", `1: logging.file: "/a\x00b" is not allowed; allowed: a path`},
		{"auth: {passphrase_file: \"/a\\0b\"}", `1: auth.passphrase_file: "/a\x00b" is not allowed; allowed: a path`},
		{"logging: {file: $HOME/log}", `1: logging.file: "$HOME/log" is not allowed; allowed: a path in full, or from ~: variables mean nothing here`},
	})
}

func TestConfigBrokenFileIsRefused(t *testing.T) {
	const top = "; allowed: daemon, storage, logging, queue, api, auth"
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		c := 'a' + rune(i)
		bomb += fmt.Sprintf("%c: &%c [%s*%c]\n", c+1, c+1, strings.Repeat(fmt.Sprintf("*%c,", c), 9), c)
	}
	wantConfigRefused(t, []configRefusal{
		{"queue: {}\n---\nqueue: {}\n", "2: a second YAML document; allowed: one"},
		{"queue: {}\n---\n", "2: a second YAML document; allowed: one"},
		{"queue: {}\n...\n# more\n---\napi: {}\n", "4: a second YAML document; allowed: one"},
		{"queue:\n  workers: 1\n  workers: 2\n", "3: queue.workers: given twice; allowed: once"},
		{"queue:\n  workers: 1\n  \"workers\": 1\n", "3: queue.workers: given twice; allowed: once"},
		{"queue: {workers: 1}\napi: {}\nqueue: {max_retries: 1}\n", "3: queue: given twice; allowed: once"},
		{"queue:\nqueue:\n", "2: queue: given twice; allowed: once"},
		{"- queue\n", "1: the file: this is not allowed; allowed: keys and their values"},
		{"hello\n", `1: the file: "hello" is not allowed; allowed: keys and their values`},
		{"\"\"\n", `1: the file: "" is not allowed; allowed: keys and their values`},
		{"queue: 4\n", `1: queue: "4" is not allowed; allowed: keys and their values`},
		{"queue:\n  - workers: 4\n", "2: queue: this is not allowed; allowed: keys and their values"},
		{"queue:\n  workers: &n 4\n", "2: queue.workers: an anchor or alias; allowed: the value itself"},
		{"queue: &q {workers: 4}\nauth: *q\n", "1: queue: an anchor or alias; allowed: the value itself"},
		{"&workers queue: {*workers : 3}\n", "1: queue: an anchor or alias; allowed: the value itself"},
		{"x: &workers 1\n", "1: x: unknown key" + top},
		{"queue: !!null {workers: 5, wokers: 5}\n", "1: queue.wokers: unknown key (did you mean queue.workers?); allowed: workers, max_retries, retry_backoff, provider_limit, max_pending"},
		{bomb, "1: a: unknown key" + top},
		{"queue:\n  workers: 4\n  max_retries: *n\n", "3: not valid YAML: unknown anchor 'n' referenced"},
		{"queue:\n\tworkers: 1\n", "2: not valid YAML: found character that cannot start any token; if it is a tab, indent with blanks"},
		{"\tqueue: {}\n", "1: not valid YAML: found character that cannot start any token; if it is a tab, indent with blanks"},
		{strings.Repeat("#", 1<<20) + "\n", "1: the file is larger than 1048576 bytes"},
	})
	for _, text := range []string{
		"queue: [1", "queue: {}\n}", "queue: \"x\nworkers", "queue: {}\n---\nqueue: {", "a: \x00", "\xc3\x28: 1", "%YAML 9.9\n---\n{}",
		"a: " + strings.Repeat("[", 20000), "queue: workers: 4", "@x: 1", "!<", "MZ\x90\x00\x03",
	} {
		_, err := parseConfig([]byte(text), "/h", "/u")
		if err == nil || !regexp.MustCompile(`^[1-9][0-9]*: not valid YAML: `).MatchString(err.Error()) {
			t.Errorf("%.80q: got %v, want LINE: not valid YAML: ...", text, err)
		}
	}
}

func TestConfigAtTheSizeLimitIsRead(t *testing.T) {
	text := "queue: {workers: 7} #"
	text += strings.Repeat("#", 1<<20-len(text))
	if c := parsedConfig(t, text); c.Queue.Workers != 7 {
		t.Errorf("workers %d", c.Queue.Workers)
	}
}

func TestConfigPaths(t *testing.T) {
	for given, want := range map[string]string{
		"/var/h.log":          "/var/h.log",
		"h.log":               "/home/me/.honeydew/h.log",
		"./h.log":             "/home/me/.honeydew/h.log",
		"../h.log":            "/home/me/h.log",
		"log/h.log":           "/home/me/.honeydew/log/h.log",
		"~/h.log":             "/home/me/h.log",
		"'~'":                 "/home/me",
		"/var/~/h.log":        "/var/~/h.log",
		"a~":                  "/home/me/.honeydew/a~",
		"/var/./x/../h.log":   "/var/h.log", // rotation compares names
		"'/with blank/ü.log'": "/with blank/ü.log",
	} {
		c := parsedConfig(t, "logging:\n  file: "+given)
		if c.Logging.File != want {
			t.Errorf("%s is %s, want %s", given, c.Logging.File, want)
		}
	}
}

func TestConfigFile(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("named but missing", func(t *testing.T) {
		_, err := loadConfig(home, filepath.Join(home, "absent.yaml"), "/u")
		if err == nil || !strings.Contains(err.Error(), "absent.yaml") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("named, home's own left alone", func(t *testing.T) {
		write("config.yaml", "queue: {workers: 5}")
		other := write("other.yaml", "queue: {workers: 6}")
		c, err := loadConfig(home, other, "/u")
		if err != nil || c.Queue.Workers != 6 || c.File != other {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("home's own", func(t *testing.T) {
		path := write("config.yaml", "queue: {workers: 5}")
		c, err := loadConfig(home, "", "/u")
		if err != nil || c.Queue.Workers != 5 || c.File != path {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("a mistake names file, line, key and what is allowed", func(t *testing.T) {
		path := write("config.yaml", "\nqueue:\n  workers: 0\n")
		_, err := loadConfig(home, "", "/u")
		if want := path + ":3: queue.workers: 0 is not allowed; allowed: 1 to 1000"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	t.Run("a directory", func(t *testing.T) {
		if _, err := loadConfig(home, home, "/u"); err == nil || !strings.Contains(err.Error(), home) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("without an end", func(t *testing.T) {
		if _, err := os.Stat("/dev/zero"); err != nil {
			t.Skip("no /dev/zero")
		}
		if _, err := loadConfig(home, "/dev/zero", "/u"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBaseURL(t *testing.T) {
	const (
		notURL   = "is not a URL"
		userinfo = "user or password"
		fragment = "#fragment"
		clear    = "in the clear"
		scheme   = "neither https nor http"
	)
	for _, c := range []struct{ url, refusal string }{
		{"https://api.example.com/graphql", ""},
		{"https://api.example.com", ""},
		{"https://api.example.com:8443/graphql?tenant=a", ""},
		{"HTTPS://api.example.com/", ""},
		{"https://192.0.2.1/", ""},
		{"https://[2001:db8::1]:443/graphql", ""},
		{"https://host/a@b", ""},
		{"http://localhost/graphql", ""},
		{"http://LOCALHOST:8080/", ""},
		{"http://localhost:8080/graphql", ""},
		{"http://127.0.0.1:8080/", ""},
		{"http://127.255.255.254/", ""},
		{"http://[::1]:8080/", ""},
		{"http://[::1]/", ""},

		{"http://api.example.com/graphql", clear},
		{"http://localhost.evil.com/", clear},
		{"http://127.0.0.1.evil.com/", clear},
		{"http://evil-localhost/", clear},
		{"http://localhost./", clear},
		{"http://0.0.0.0/", clear},
		{"http://128.0.0.1/", clear},
		{"http://127.1/", clear},
		{"http://2130706433/", clear},
		{"http://0x7f.0.0.1/", clear},
		{"http://127.0.0.01/", clear},
		{"http://[::]/", clear},
		{"http://[::2]/", clear},
		{"http://[fe80::1]/", clear},
		{"http://10.0.0.1/", clear},
		{"http://１２７.0.0.1/", clear},

		{"https://user:sesame@example.com/", userinfo},
		{"https://user@example.com/", userinfo},
		{"https://@example.com/", userinfo},
		{"http://localhost:8080@evil.com/", userinfo},
		{"https://user:sesame@/", userinfo},
		{"https://user:ses ame@example.com/", notURL},
		{"https://user:sesame%zz@example.com/", notURL},
		{"https://user:sesame@example.com:port/", notURL},

		{"https://example.com/#x", fragment},
		{"https://example.com/#", fragment},
		{"https://example.com#@localhost", fragment},

		{"", notURL},
		{"/", notURL},
		{"https://", notURL},
		{"https:///graphql", notURL},
		{"https://:443/", notURL},
		{"https:example.com", notURL},
		{"https://example.com:0/", notURL},
		{"https://example.com:65536/", notURL},
		{"https://example.com:x/", notURL},
		{"https://exa mple.com/", notURL},
		{"https://example.com/graphql ", notURL},
		{" https://example.com/", notURL},
		{"https://example.com/\n", notURL},
		{"https://example.com/\u00a0", notURL},
		{"https://example.com\x00/", notURL},
		{"https://[::1/", notURL},
		{`http://127.0.0.1\@evil.com/`, notURL},
		{"example.com", notURL},
		{"localhost:8080", notURL},
		{"//example.com/", scheme},

		{"ftp://example.com/", scheme},
		{"ftp://localhost/", scheme},
		{"file://localhost/etc/passwd", scheme},
		{"unix://localhost/", scheme},
		{"ws://localhost/", scheme},
		{"javascript://localhost/%0aalert(1)", scheme},
	} {
		err := checkBaseURL(c.url)
		switch {
		case c.refusal == "" && err != nil:
			t.Errorf("%q: %v", c.url, err)
		case c.refusal != "" && err == nil:
			t.Errorf("%q was accepted, want ...%s...", c.url, c.refusal)
		case c.refusal == "":
		case !strings.Contains(err.Error(), c.refusal), !strings.Contains(err.Error(), "; allowed: https://HOST/PATH"):
			t.Errorf("%q: got %v, want ...%s...; allowed: ...", c.url, err, c.refusal)
		case strings.Contains(err.Error(), "ses"):
			t.Errorf("the password is shown: %v", err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "0d": 0, "0w": 0, "30s": 30 * time.Second, "1500ms": 1500 * time.Millisecond, "1.5h": 90 * time.Minute,
		"1h30m": 90 * time.Minute, "2ns": 2, "3us": 3 * time.Microsecond, "3µs": 3 * time.Microsecond, "7d": 7 * day, "2w": 14 * day,
		"1w2d": 9 * day, "1d12h": 36 * time.Hour, "1w1d1h1m1s": 8*day + time.Hour + time.Minute + time.Second, "1w12h": 7*day + 12*time.Hour,
		"007d": 7 * day, "7d0s": 7 * day, "36500d": 36500 * day, "5214w": 5214 * 7 * day, "876000h": 36500 * day,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "1", "30", "-1", "-0", "+0", "00", "0.0", "-1s", "+1s", "-7d", "+7d", "7d-1h", "7d+1h", "7d0", "0d0", "1.5d", "1,5h", "d", "w", "s", "wd",
		"1d1d", "1w1w", "1d1w", "1h1d", "7 d", "7d ", " 7d", "7D", "1y", "1M", "1 h", "٣d", "0x1d", "1e1d", "1_0d", "36501d", "36500d1ns", "5215w",
		"5214w36500d", "876001h", "99999999999999999999d", "2147483648d", "999999999999h", "7d\x00", "infinity", "NaN",
	} {
		got, err := parseDuration(text)
		if err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"0", "1w2d3h4m5s6ms7us8ns", "36500d", "5214w2d", "-1s", "1.5h", "d", "9223372036854775807ns", "2540400h10m10.000000000s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDuration(s)
		switch {
		case err != nil && (d != 0 || len(err.Error()) > 1000):
			t.Errorf("%q: %v with %v", s, d, err)
		case err != nil:
		case d < 0 || d > maxConfigDuration:
			t.Errorf("%q is %v", s, d)
		case s != "0" && !strings.ContainsAny(s[len(s)-1:], "smhdw"):
			t.Errorf("%q has no unit", s)
		}
		if again, err2 := parseDuration(d.String()); err == nil && (err2 != nil || again != d) {
			t.Errorf("%q is %v, read again %v, %v", s, d, again, err2)
		}
	})
}

// FuzzConfig: no text makes the reader panic; a refusal names a line and stays short; what is accepted lies within every
// range, so that no other file has to look again.
func FuzzConfig(f *testing.F) {
	for _, k := range configKeys() {
		section, key, _ := strings.Cut(k.key, ".")
		f.Add(fmt.Appendf(nil, "%s:\n  %s: %s\n", section, key, k.value))
	}
	f.Add([]byte("queue: &q {workers: 4}\nauth: *q\n---\n? [a]\n: !!int 'x'\n<<: {}\n"))
	f.Add([]byte("&workers queue: {*workers : 3}"))
	faults := regexp.MustCompile(`(?s)^[1-9][0-9]*: .+`)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text, "/home/me/.honeydew", "/home/me")
		if err != nil {
			if s := err.Error(); !faults.MatchString(s) || len(s) > 1000 {
				t.Errorf("message: %.2000q", s)
			}
			return
		}
		within := func(key string, value, least, most int64) {
			if value < least || value > most {
				t.Errorf("%s: %d", key, value)
			}
		}
		within("logging.max_size_mb", int64(c.Logging.MaxSizeMB), 1, 10000)
		within("logging.max_backups", int64(c.Logging.MaxBackups), 0, 10000)
		within("logging.max_age_days", int64(c.Logging.MaxAgeDays), 0, 36500)
		within("queue.workers", int64(c.Queue.Workers), 1, 1000)
		within("queue.max_retries", int64(c.Queue.MaxRetries), 0, 100)
		within("queue.provider_limit", int64(c.Queue.ProviderLimit), 0, 1000)
		within("queue.max_pending", int64(c.Queue.MaxPending), 0, 100_000_000)
		within("api.max_response_mb", int64(c.API.MaxResponseMB), 1, 1000)
		within("api.timeout", int64(c.API.Timeout), int64(100*time.Millisecond), int64(24*time.Hour))
		within("daemon.shutdown_timeout", int64(c.Daemon.ShutdownTimeout), int64(time.Second), int64(10*time.Minute))
		within("storage.retention", int64(c.Storage.Retention), 0, int64(36500*24*time.Hour))
		for key, one := range map[string]bool{
			"storage.synchronous":   c.Storage.Synchronous == "full" || c.Storage.Synchronous == "normal",
			"queue.retry_backoff":   c.Queue.RetryBackoff == "exponential",
			"logging.level":         regexp.MustCompile(`^(debug|info|warn|error)$`).MatchString(c.Logging.Level),
			"api.graphql_endpoint":  checkBaseURL(c.API.GraphQLEndpoint) == nil,
			"daemon.socket_path":    filepath.IsAbs(c.Daemon.SocketPath),
			"daemon.pid_file":       filepath.IsAbs(c.Daemon.PIDFile),
			"storage.database_path": filepath.IsAbs(c.Storage.DatabasePath),
			"logging.file":          filepath.IsAbs(c.Logging.File),
			"auth.passphrase_file":  c.Auth.PassphraseFile == "" || filepath.IsAbs(c.Auth.PassphraseFile),
		} {
			if !one {
				t.Errorf("%s is off: %+v", key, *c)
			}
		}
	})
}
