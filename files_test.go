//go:build unix

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Whoever only looks whether a daemon runs keeps none from starting.
func TestLookingAtTheLockKeepsNobodyFromStarting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.lock")
	putFile(t, filepath.Dir(path), "daemon.lock", "")
	stop := make(chan struct{})
	var lookers sync.WaitGroup
	for range 4 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := lockHeld(path); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 200 {
		l, err := takeLock(path)
		if err != nil {
			t.Fatal(err)
		}
		if held, err := lockHeld(path); err != nil || !held {
			t.Fatalf("held %t, %v", held, err)
		}
		if _, err := takeLock(path); !errors.Is(err, errHeld) {
			t.Fatalf("a second one: %v", err)
		}
		if err := l.release(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	lookers.Wait()
}

func TestNoteOfALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.lock")
	if text, err := notedIn(path); err != nil || text != "" {
		t.Errorf("without a file: %q, %v", text, err)
	}
	l, err := takeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a long text", "short", ""} {
		if err := l.note(text); err != nil {
			t.Fatal(err)
		}
		if got, err := l.noted(); err != nil || got != text {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
		if got, err := notedIn(path); err != nil || got != text {
			t.Errorf("from outside: %q, %v; want %q", got, err, text)
		}
	}
	if err := l.note("gone"); err != nil {
		t.Fatal(err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if got, err := notedIn(path); err != nil || got != "" {
		t.Errorf("of a lock that nobody holds: %q, %v", got, err)
	}
}

func TestLockFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	mine := putFile(t, dir, "mine", "text")
	if err := os.Symlink(mine, filepath.Join(dir, "daemon.lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := takeLock(filepath.Join(dir, "daemon.lock")); err == nil {
		t.Error("a link was followed")
	}
}

func TestHomeWithOtherThingsIsRefusedAndStaysAsItIs(t *testing.T) {
	for name, file := range map[string]string{"empty": "", "other": "thesis.tex", "ours": "daemon.db", "configured": "config.yaml", "like": "daemon.proto", "misread": "config.yaml"} {
		home := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if file != "" {
			putFile(t, home, file, "")
		}
		var misread error
		if name == "misread" {
			misread = errors.New("config.yaml holds other things")
		}
		err := prepareHome(home, misread)
		info, statErr := os.Stat(home)
		if statErr != nil {
			t.Fatal(statErr)
		}
		if refused := name == "other" || name == "like" || name == "misread"; (err != nil) != refused || (info.Mode().Perm() == 0o755) != refused {
			t.Errorf("%s: %v, mode %04o", name, err, info.Mode().Perm())
		}
		if err != nil && !strings.Contains(err.Error(), "other things") {
			t.Error(err)
		}
	}
}

func TestReplacedFileFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	mine := putFile(t, dir, "mine", "text")
	path := filepath.Join(dir, "daemon.pid")
	for _, name := range []string{path, path + ".tmp"} {
		if err := os.Symlink(mine, name); err != nil {
			t.Fatal(err)
		}
	}
	info, err := replaceFile(path, "1\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(mustRead(t, mine)); got != "text" {
		t.Errorf("the file behind the link: %q", got)
	}
	if err := removeOurs(path, info); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Two configured paths that are one file, by name or by link, and what cannot be a file, are refused by key and line.
func TestPathsThatCannotBe(t *testing.T) {
	home := t.TempDir()
	putFile(t, home, "key", "k")
	if err := os.Symlink("key", filepath.Join(home, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(home, "key"), filepath.Join(home, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".", filepath.Join(home, "here")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(home, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"logging:\n  file: daemon.db\n":                                         "config.yaml:2: logging.file: ",
		"daemon:\n  socket_path: /run/./x\n  pid_file: /run/x\n":                "config.yaml:3: daemon.pid_file: ",
		"daemon:\n  socket_path: /nowhere/x\n":                                  "config.yaml:2: daemon.socket_path: there is no folder /nowhere",
		"daemon:\n  pid_file: no/where/x\n":                                     "config.yaml:2: daemon.pid_file: there is no folder " + home + "/no/where",
		"logging:\n  file: nowhere/x\n":                                         "config.yaml:2: logging.file: there is no folder " + home + "/nowhere",
		"auth:\n  passphrase_file: nowhere\n":                                   "config.yaml:2: auth.passphrase_file: there is no file " + home + "/nowhere",
		"storage:\n  database_path: /proc/x.db\n":                               "a regular file",
		"logging:\n  file: key\n":                                               "not that of the key",
		"logging:\n  file: link\n":                                              "not that of the key",
		"logging:\n  file: hard\n":                                              "not that of the key",
		"daemon:\n  pid_file: daemon.lock\n":                                    "not that of the lock",
		"daemon:\n  socket_path: config.yaml\n":                                 "not that of the configuration",
		"logging:\n  file: here/daemon.db\n":                                    "not that of storage.database_path",
		"logging:\n  file: daemon.db-wal\n":                                     "not that of the database's log",
		"daemon:\n  pid_file: daemon.db.lock\n":                                 "not that of the database's lock",
		"logging:\n  file: fifo\n":                                              "a regular file",
		"storage:\n  database_path: dir\n":                                      "a regular file",
		"logging:\n  file: /dev/stdout\n":                                       "a regular file",
		"daemon:\n  pid_file: /dev/null\n":                                      "a regular file",
		"auth:\n  passphrase_file: key\n":                                       "not that of the key",
		"logging:\n  file: log\ndaemon:\n  pid_file: pid\nqueue:\n  workers: 2": "",
	} {
		putFile(t, home, "config.yaml", text)
		c, err := loadConfig(home, "", home)
		if err != nil {
			t.Fatal(err)
		}
		err = c.checkPaths()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := loadConfig(home, filepath.Join(home, "fifo"), home); err == nil {
		t.Error("a FIFO was read as a configuration")
	}
}

func TestUnknownZoneIsRefused(t *testing.T) {
	for zone, good := range map[string]bool{"": true, "Europe/Berlin": true, ":UTC": true, "Europe/Berlln": false, "MEZ-1MESZ,M3.5.0": false,
		"/nowhere/zone": false} {
		if err := checkZone(zone); (err == nil) != good {
			t.Errorf("TZ=%s: %v", zone, err)
		}
	}
}

func TestOnlyWhatAShellWouldReadOtherwiseIsQuoted(t *testing.T) {
	for text, want := range map[string]string{
		"":               "''",
		"sandbox":        "sandbox",
		"/a-b/c_1.db":    "/a-b/c_1.db",
		"me@x,y:z%+=":    "me@x,y:z%+=",
		"two words":      "'two words'",
		"it's":           `'it'\''s'`,
		"~/x":            "'~/x'",
		"a\nb":           "'a\nb'",
		"$HOME":          "'$HOME'",
		"zürich":         "'zürich'",
		"*":              "'*'",
		"plain;evil":     "'plain;evil'",
		"plain evil end": "'plain evil end'",
	} {
		if got := shellQuoted(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
