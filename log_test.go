package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// In a synctest bubble the clock starts here and moves only in advance.
const bubbleTime = "2000-01-01T00:00:00.000Z"

// advance lets d pass and waits until timers and background work have come to rest.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// testLog is what a test wants of its log; 0 is no limit.
type testLog struct {
	Path       string // by default daemon.log in a directory of its own
	Level      string // by default info
	MaxBytes   int64
	MaxBackups int
	MaxAgeDays int
	Compress   bool
	Stderr     io.Writer
}

// open opens a log as the daemon does, until the end of the test.
func (o testLog) open(t testing.TB) (*slog.Logger, *logFile) {
	t.Helper()
	cfg := &Config{}
	cfg.Logging.Level = cmp.Or(o.Level, "info")
	cfg.Logging.MaxBackups, cfg.Logging.MaxAgeDays, cfg.Logging.Compress = o.MaxBackups, o.MaxAgeDays, o.Compress
	if cfg.Logging.File = o.Path; o.Path == "" {
		cfg.Logging.File = filepath.Join(t.TempDir(), "daemon.log")
	}
	if o.Stderr == nil {
		o.Stderr = t.Output()
	}
	log, l, err := newLogger(cfg, o.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	l.maxBytes = o.MaxBytes
	t.Cleanup(func() { l.Close() })
	return log, l
}

func openTestLog(t testing.TB, o testLog) *logFile {
	t.Helper()
	_, l := o.open(t)
	return l
}

func openTestLogger(t testing.TB, level string) (log *slog.Logger, path string) {
	t.Helper()
	log, l := testLog{Level: level}.open(t)
	return log, l.cfg.Logging.File
}

func writeLine(t testing.TB, l *logFile, line string) {
	t.Helper()
	if _, err := l.Write([]byte(line + "\n")); err != nil {
		t.Fatal(err)
	}
}

func putFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// readLog returns a file's text, unzipped if need be.
func readLog(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil && strings.HasSuffix(path, ".gz") {
		var r *gzip.Reader
		if r, err = gzip.NewReader(bytes.NewReader(b)); err == nil {
			b, err = io.ReadAll(r)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantLog(t testing.TB, path, want string) {
	t.Helper()
	if got := readLog(t, path); got != want {
		t.Errorf("%s holds\n%s\nwant\n%s", filepath.Base(path), got, want)
	}
}

func listDir(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func wantDir(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := listDir(t, dir); !slices.Equal(got, want) {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

// The lines.

func TestLineHasTheContractsForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, path := openTestLogger(t, "debug")
		log.Debug("d")
		log.Info("job submitted", "job_id", "j1", "command", "github.commits", "priority", 5)
		log.Warn("job retrying", "error", errors.New(`Post "https://x/?a=1&b": refused`+"\n"), "next", time.Now().In(time.FixedZone("", 3600)))
		log.Error("e", "whole", true, "group", slog.GroupValue(slog.Int("level", 1)))
		log.With("environment", "production").WithGroup("g").Info("i", "time", "noon")
		wantLog(t, path, `{"timestamp":"`+bubbleTime+`","level":"debug","message":"d"}
{"timestamp":"`+bubbleTime+`","level":"info","message":"job submitted","job_id":"j1","command":"github.commits","priority":5}
{"timestamp":"`+bubbleTime+`","level":"warn","message":"job retrying","error":"Post \"https://x/?a=1&b\": refused\n","next":"`+bubbleTime+`"}
{"timestamp":"`+bubbleTime+`","level":"error","message":"e","whole":true,"group":{"level":1}}
{"timestamp":"`+bubbleTime+`","level":"info","message":"i","environment":"production","g":{"time":"noon"}}
`)
	})
}

func TestOnlyLinesOfTheLevelAndAboveAreWritten(t *testing.T) {
	all := []string{"debug", "info", "warn", "error"}
	for i, level := range all {
		log, path := openTestLogger(t, level)
		log.Debug("debug")
		log.Info("info")
		log.Warn("warn")
		log.Error("error")
		var got []string
		for line := range strings.Lines(readLog(t, path)) {
			var fields struct{ Level, Message string }
			if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Level != fields.Message {
				t.Errorf("%q: %v", line, err)
			}
			got = append(got, fields.Level)
		}
		if !slices.Equal(got, all[i:]) {
			t.Errorf("level %s wrote %q", level, got)
		}
	}
}

func TestUnknownLevelIsRefused(t *testing.T) {
	cfg := &Config{}
	cfg.Logging.Level, cfg.Logging.File = "loud", filepath.Join(t.TempDir(), "daemon.log")
	if _, _, err := newLogger(cfg, io.Discard); err == nil {
		t.Error("accepted")
	}
}

type valuer struct{ v slog.Value }

func (v valuer) LogValue() slog.Value { return v.v }

func TestSecretsAreRedactedWhereverTheKeyStands(t *testing.T) {
	log, path := openTestLogger(t, "info")
	const canary = "hunter2"
	for _, key := range []string{"password", "token", "access_token", "refresh_token", "authorization", "passphrase", "Authorization"} {
		log.Info("m", key, canary)
		log.Info("m", key, []byte(canary))
		log.Info("m", key, valuer{slog.StringValue(canary)})
		log.Info("m", "outer", valuer{slog.GroupValue(slog.String(key, canary))})
		log.Info("m", slog.Group(key, "inner", canary))
		log.With(key, canary).Info("m")
		log.WithGroup("g").With(slog.Group("h", key, canary)).Info("m")
	}
	text := readLog(t, path)
	if strings.Contains(text, canary) || strings.Contains(text, "aHVudGVyMg") {
		t.Errorf("leaked:\n%s", text)
	}
	if n := strings.Count(text, `"[redacted]"`); n != 49 {
		t.Errorf("%d values redacted, want 49", n)
	}
}

func TestValueThatPanicsCostsOnlyItsText(t *testing.T) {
	log, path := openTestLogger(t, "info")
	var none *fs.PathError
	log.Info("m", "error", error(none))
	if text := readLog(t, path); !json.Valid([]byte(text)) {
		t.Errorf("wrote %q", text)
	}
}

// When lines are written.

func TestLineIsInTheFileWhenTheCallReturns(t *testing.T) {
	log, path := openTestLogger(t, "debug")
	for i, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		log.Log(t.Context(), level, "now")
		if text := readLog(t, path); strings.Count(text, "\n") != i+1 {
			t.Errorf("after %s the file holds %q", level, text)
		}
	}
}

func TestLongLinesStayWhole(t *testing.T) {
	l := openTestLog(t, testLog{})
	long := strings.Repeat("x", 1<<20)
	writeLine(t, l, "first")
	writeLine(t, l, long)
	writeLine(t, l, "last")
	wantLog(t, l.cfg.Logging.File, "first\n"+long+"\nlast\n")
}

func TestClosedLogRefusesLines(t *testing.T) {
	l := openTestLog(t, testLog{})
	writeLine(t, l, "last words")
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	wantLog(t, l.cfg.Logging.File, "last words\n")
	if _, err := l.Write([]byte("too late\n")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// Opening.

func TestOpeningAppends(t *testing.T) {
	path := putFile(t, t.TempDir(), "daemon.log", "old\n")
	l := openTestLog(t, testLog{Path: path})
	writeLine(t, l, "new")
	l.Close()
	wantLog(t, path, "old\nnew\n")
}

func TestLineTornByAKillIsEndedBeforeTheNext(t *testing.T) {
	path := putFile(t, t.TempDir(), "daemon.log", "whole\n{\"torn")
	l := openTestLog(t, testLog{Path: path})
	writeLine(t, l, "next")
	l.Close()
	wantLog(t, path, "whole\n{\"torn\nnext\n")
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	for what, path := range map[string]string{"directory": t.TempDir(), "device": os.DevNull} {
		cfg := &Config{}
		cfg.Logging.Level, cfg.Logging.File = "info", path
		if _, l, err := newLogger(cfg, io.Discard); err == nil {
			l.Close()
			t.Errorf("a %s was opened", what)
		}
	}
}

func TestAllFilesAreTheOwnersAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	synctest.Test(t, func(t *testing.T) {
		path := putFile(t, t.TempDir(), "daemon.log", "old\n")
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		l := openTestLog(t, testLog{Path: path, MaxBytes: 1, Compress: true})
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("a file others could read: %v %v", info.Mode(), err)
		}
		writeLine(t, l, "new")
		synctest.Wait()
		for _, name := range listDir(t, filepath.Dir(path)) {
			if info, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: %v %v", name, info.Mode(), err)
			}
		}
		wantDir(t, filepath.Dir(path), "daemon-20000101T000000.000.log.gz", "daemon.log")
	})
}

// Rotation.

// numbered collects lines "g n" of all files in dir and checks that each g's n are 0, 1, … without gap or repetition.
// It returns how many there are, and how many lines are something else.
func numbered(t *testing.T, dir string) (lines, others int) {
	t.Helper()
	seen := map[[2]int]int{}
	count := map[int]int{}
	for _, name := range listDir(t, dir) {
		text := readLog(t, filepath.Join(dir, name))
		if !strings.HasSuffix(text, "\n") && text != "" {
			t.Errorf("%s does not end with a line", name)
		}
		for line := range strings.Lines(text) {
			var g, n int
			var end string
			if k, _ := fmt.Sscanf(line, "line %d %d %s", &g, &n, &end); k != 3 || end != "end" {
				others++
				continue
			}
			seen[[2]int{g, n}]++
			count[g]++
			lines++
		}
	}
	for g, c := range count {
		for n := range c {
			if seen[[2]int{g, n}] != 1 {
				t.Fatalf("line %d of writer %d is there %d times", n, g, seen[[2]int{g, n}])
			}
		}
	}
	return lines, others
}

func TestConcurrentWritersLoseAndTearNoLineOverRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openTestLog(t, testLog{MaxBytes: 2000, Compress: true})
		dir := filepath.Dir(l.cfg.Logging.File)
		var writers sync.WaitGroup
		for g := range 8 {
			writers.Go(func() {
				for n := range 500 {
					writeLine(t, l, fmt.Sprintf("line %d %d end", g, n))
				}
			})
		}
		writers.Wait()
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if lines, others := numbered(t, dir); lines != 4000 || others != 0 {
			t.Errorf("%d lines and %d others, want 4000 and 0", lines, others)
		}
		for _, name := range listDir(t, dir) {
			size := len(readLog(t, filepath.Join(dir, name)))
			if size > 2000 || name != "daemon.log" && size < 2000-len("line 0 000 end\n") {
				t.Errorf("%s holds %d bytes", name, size)
			}
			if name != "daemon.log" && !strings.HasSuffix(name, ".log.gz") {
				t.Errorf("%s is not gzipped", name)
			}
		}
	})
}

func TestLineLargerThanTheLimitIsWrittenWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openTestLog(t, testLog{MaxBytes: 10})
		writeLine(t, l, "a line longer than that")
		writeLine(t, l, "b")
		l.Close()
		dir := filepath.Dir(l.cfg.Logging.File)
		wantDir(t, dir, "daemon-20000101T000000.000.log", "daemon.log")
		wantLog(t, filepath.Join(dir, "daemon-20000101T000000.000.log"), "a line longer than that\n")
		wantLog(t, l.cfg.Logging.File, "b\n")
	})
}

func TestTakenBackupNamesAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		putFile(t, dir, "daemon-20000101T000000.000.log", "a\n")
		putFile(t, dir, "daemon-20000101T000000.001.log.gz", gzipped("b\n"))
		if err := os.Mkdir(filepath.Join(dir, "daemon-20000101T000000.002.log"), 0o700); err != nil {
			t.Fatal(err)
		}
		l := openTestLog(t, testLog{Path: putFile(t, dir, "daemon.log", "c\n"), MaxBytes: 1})
		writeLine(t, l, "d")
		l.Close()
		wantLog(t, filepath.Join(dir, "daemon-20000101T000000.000.log"), "a\n")
		wantLog(t, filepath.Join(dir, "daemon-20000101T000000.001.log.gz"), "b\n")
		wantLog(t, filepath.Join(dir, "daemon-20000101T000000.003.log"), "c\n")
		wantLog(t, l.cfg.Logging.File, "d\n")
	})
}

func TestOnlyTheNewestBackupsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openTestLog(t, testLog{MaxBytes: 1, MaxBackups: 2, Compress: true})
		dir := filepath.Dir(l.cfg.Logging.File)
		for i := range 5 {
			writeLine(t, l, fmt.Sprint(i))
			advance(time.Second)
		}
		// Line i is renamed when line i+1 comes, at second i+1.
		wantDir(t, dir, "daemon-20000101T000003.000.log.gz", "daemon-20000101T000004.000.log.gz", "daemon.log")
		wantLog(t, filepath.Join(dir, "daemon-20000101T000004.000.log.gz"), "3\n")
	})
}

func TestBackupsAgeByTheirNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"daemon-19991229T235959.999.log.gz", "daemon-19991229T235959.999.log", "daemon-19991230T000000.000.log",
			"daemon-old.log", "other-19981230T000000.000.log"} { // all written just now
			putFile(t, dir, name, "")
		}
		if err := os.Mkdir(filepath.Join(dir, "daemon-19980101T000000.000.log"), 0o700); err != nil { // not ours
			t.Fatal(err)
		}
		openTestLog(t, testLog{Path: filepath.Join(dir, "daemon.log"), MaxAgeDays: 2})
		synctest.Wait()
		wantDir(t, dir, "daemon-19980101T000000.000.log", "daemon-19991230T000000.000.log", "daemon-old.log", "daemon.log", "other-19981230T000000.000.log")
	})
}

func TestStartFinishesWhatACrashLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		putFile(t, dir, "daemon-19990101T000000.000.log", "not yet gzipped\n")
		putFile(t, dir, "daemon-19990101T000000.000.log.gz.tmp", "half")
		putFile(t, dir, "daemon-19990102T000000.000.log", "not yet removed\n")
		putFile(t, dir, "daemon-19990102T000000.000.log.gz", gzipped("not yet removed\n"))
		putFile(t, dir, "daemon-19990103T000000.000.log.gz.tmp", "half")
		putFile(t, dir, "notes.gz.tmp", "not ours")
		openTestLog(t, testLog{Path: filepath.Join(dir, "daemon.log"), Compress: true, MaxBackups: 2})
		synctest.Wait()
		wantDir(t, dir, "daemon-19990101T000000.000.log.gz", "daemon-19990102T000000.000.log.gz", "daemon.log", "notes.gz.tmp")
		wantLog(t, filepath.Join(dir, "daemon-19990101T000000.000.log.gz"), "not yet gzipped\n")
		wantLog(t, filepath.Join(dir, "daemon-19990102T000000.000.log.gz"), "not yet removed\n")
	})
}

func TestSuperfluousSourceGoesEvenIfNothingIsGzippedAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		putFile(t, dir, "daemon-19990102T000000.000.log", "a\n")
		putFile(t, dir, "daemon-19990102T000000.000.log.gz", gzipped("a\n"))
		putFile(t, dir, "daemon-19990103T000000.000.log", "b\n")
		openTestLog(t, testLog{Path: filepath.Join(dir, "daemon.log")})
		synctest.Wait()
		wantDir(t, dir, "daemon-19990102T000000.000.log.gz", "daemon-19990103T000000.000.log", "daemon.log")
	})
}

func TestStopCutsGzipShortAndKeepsTheSource(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, testLog{Path: filepath.Join(dir, "daemon.log")})
	backup := putFile(t, dir, "daemon-19990101T000000.000.log", strings.Repeat("a\n", 2<<20))
	l.Close()
	if err := l.compress(backup); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	wantDir(t, dir, "daemon-19990101T000000.000.log", "daemon.log")
}

func TestFailedRenameKeepsEveryLineAndIsTriedAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts, broken := 0, true
		var stderr bytes.Buffer
		l := openTestLog(t, testLog{MaxBytes: 100, Stderr: &stderr})
		l.rename = func(from, to string) error {
			if attempts++; broken {
				return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrPermission}
			}
			return os.Rename(from, to)
		}
		n := 0
		for ; n < 1000; n++ { // 100 seconds
			writeLine(t, l, fmt.Sprintf("line 0 %d end", n))
			advance(100 * time.Millisecond)
		}
		if c := strings.Count(stderr.String(), "\n"); attempts != 2 || c != 2 {
			t.Errorf("%d attempts to rename and %d lines to stderr in 100 seconds:\n%s", attempts, c, stderr.String())
		}
		if p := l.Problem(); p != "" {
			t.Errorf("problem, though nothing is lost: %s", p)
		}
		dir := filepath.Dir(l.cfg.Logging.File)
		wantDir(t, dir, "daemon.log")
		broken = false
		advance(rotationPause)
		writeLine(t, l, fmt.Sprintf("line 0 %d end", n))
		if files := len(listDir(t, dir)); files != 2 {
			t.Errorf("%d files after rename works again", files)
		}
		if lines, others := numbered(t, dir); lines != n+1 || others != 0 {
			t.Errorf("%d lines and %d others, want %d and 0", lines, others, n+1)
		}
	})
}

// Failures.

func TestFullDiskLosesCountedLinesAndTearsNone(t *testing.T) {
	for noTruncate, torn := range map[bool]string{false: "", true: "bbb\n"} {
		synctest.Test(t, func(t *testing.T) {
			room := 1000 // bytes, of which a truncation gives those of the torn line back
			var stderr bytes.Buffer
			l := openTestLog(t, testLog{Stderr: &stderr})
			l.write = func(f *os.File, line []byte) (int, error) {
				n, err := f.Write(line[:min(len(line), room)])
				room -= n
				if err == nil && n < len(line) {
					err = &fs.PathError{Op: "write", Path: "daemon.log", Err: syscall.ENOSPC}
				}
				if noTruncate && n < len(line) {
					f.Close()
				}
				return n, err
			}
			lose := func(line string) {
				t.Helper()
				if _, err := l.Write([]byte(line + "\n")); !errors.Is(err, syscall.ENOSPC) {
					t.Error(err)
				}
			}
			writeLine(t, l, "before")
			room = len("aaaaaa\n") + 3
			writeLine(t, l, "aaaaaa")
			lose("bbbbbb")
			lose("cccccc")
			if p := l.Problem(); p != "2 lines lost: write daemon.log: "+syscall.ENOSPC.Error() {
				t.Error(p)
			}
			for range 50 {
				lose("dddddd")
				advance(time.Second)
			}
			if p := l.Problem(); !strings.HasPrefix(p, "52 lines lost: ") {
				t.Error(p)
			}
			if c := strings.Count(stderr.String(), "\n"); c != 1 {
				t.Errorf("%d lines to stderr within one outage:\n%s", c, stderr.String())
			}
			room = 1000
			writeLine(t, l, "after")
			if p := l.Problem(); p != "" {
				t.Error(p)
			}
			wantLog(t, l.cfg.Logging.File, "before\naaaaaa\n"+torn+"after\n")
		})
	}
}

func TestRemovedDirectoryIsNoticedAndItsReturnToo(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open files cannot be removed")
	}
	synctest.Test(t, testRemovedDirectory)
}

func testRemovedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := openTestLog(t, testLog{Path: filepath.Join(dir, "daemon.log"), MaxBytes: 10})
	writeLine(t, l, "before")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	advance(lookPause)
	for i := range 10 { // beyond MaxBytes: the rotation fails as well
		if _, err := l.Write([]byte("lost\n")); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if p := l.Problem(); !strings.HasPrefix(p, fmt.Sprint(i+1, " lines lost: ")) {
			t.Error(p)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeLine(t, l, "after")
	wantLog(t, l.cfg.Logging.File, "after\n")
	if p := l.Problem(); p != "" {
		t.Error(p)
	}
}

func TestFileMovedAwayOrReplacedIsOpenedAnew(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open files cannot be moved")
	}
	synctest.Test(t, testFileMovedAwayOrReplaced)
}

func testFileMovedAwayOrReplaced(t *testing.T) {
	l := openTestLog(t, testLog{})
	writeLine(t, l, "old")
	if err := os.Rename(l.cfg.Logging.File, l.cfg.Logging.File+".moved"); err != nil {
		t.Fatal(err)
	}
	advance(lookPause)
	writeLine(t, l, "new")
	wantLog(t, l.cfg.Logging.File+".moved", "old\n")
	wantLog(t, l.cfg.Logging.File, "new\n")
	if err := os.Rename(putFile(t, filepath.Dir(l.cfg.Logging.File), "other", "put there\n"), l.cfg.Logging.File); err != nil {
		t.Fatal(err)
	}
	advance(lookPause)
	writeLine(t, l, "newest")
	wantLog(t, l.cfg.Logging.File, "put there\nnewest\n")
}

// TestLogWriterProcess is the process that the next test kills.
func TestLogWriterProcess(t *testing.T) {
	path := os.Getenv("HONEYDEW_TEST_LOG")
	if path == "" {
		t.Skip("run by TestKillLosesNothingWrittenAndTearsNoLineIntoAnother")
	}
	l := openTestLog(t, testLog{Path: path, MaxBytes: 100_000, Compress: true})
	for g := range 8 {
		go func() {
			for n := 0; ; n++ {
				writeLine(t, l, fmt.Sprintf("line %d %d end", g, n))
				if g == 0 && n == 5000 {
					fmt.Println("busy")
				}
			}
		}()
	}
	select {}
}

func TestKillLosesNothingWrittenAndTearsNoLineIntoAnother(t *testing.T) {
	for range 3 {
		dir := t.TempDir()
		path := filepath.Join(dir, "daemon.log")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		writer := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestLogWriterProcess$")
		writer.Env = append(os.Environ(), "HONEYDEW_TEST_LOG="+path)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		said, err := bufio.NewReader(out).ReadString('\n')
		if said != "busy\n" {
			t.Fatalf("writer said %q, %v", said, err)
		}
		writer.Process.Kill()
		writer.Wait()
		synctest.Test(t, func(t *testing.T) {
			openTestLog(t, testLog{Path: path, Compress: true})
			synctest.Wait()
		})
		lines, others := numbered(t, dir)
		if lines <= 5000 || others > 1 {
			t.Errorf("%d lines, %d torn", lines, others)
		}
		for _, name := range listDir(t, dir) {
			if name != "daemon.log" && !strings.HasSuffix(name, ".log.gz") {
				t.Errorf("%s is left", name)
			}
		}
	}
}

// Names.

func TestBackupNames(t *testing.T) {
	at := time.Date(2026, 1, 2, 16, 4, 5, 6_999_999, time.FixedZone("", 3600))
	for base, name := range map[string]string{"daemon.log": "daemon-20260102T150405.006.log", "a.b.log": "a.b-20260102T150405.006.log",
		"log": "log-20260102T150405.006", "x.gz": "x-20260102T150405.006.gz", ".log": "-20260102T150405.006.log"} {
		if got := backupName(base, at); got != name {
			t.Errorf("%s: %s", base, got)
		}
		for _, n := range []string{name, name + ".gz"} {
			if got, ok := parseBackupName(base, n); !ok || !got.Equal(at.Truncate(time.Millisecond)) {
				t.Errorf("%s: %v %v", n, got, ok)
			}
		}
	}
	for _, name := range []string{"", "daemon.log", "daemon-.log", "daemon-20260102T150405.log", "daemon-20260102T150405,006.log",
		"daemon-20261302T150405.006.log", "daemon-20260102T150405.006.log.gz.tmp", "daemon-20260102T150405.006.log.gz.gz",
		"daemon-20260102T150405.0060.log", "Daemon-20260102T150405.006.log", "daemon-20260102T150405.006"} {
		if _, ok := parseBackupName("daemon.log", name); ok {
			t.Errorf("%q taken for a backup", name)
		}
	}
}

func FuzzParseBackupName(f *testing.F) {
	f.Add("daemon.log", "daemon-20260102T150405.000.log")
	f.Add("daemon.log", "daemon-20260102T150405.000.log.gz")
	f.Add("x.gz", "x-00000101T000000.000.gz")
	f.Add("", "-")
	f.Fuzz(func(t *testing.T, base, name string) {
		at, ok := parseBackupName(base, name)
		if made := backupName(base, at); ok && name != made && name != made+".gz" {
			t.Errorf("%q is accepted but would be written %q", name, made)
		}
	})
}

// BenchmarkLogLine is one line of a job.
func BenchmarkLogLine(b *testing.B) {
	log, _ := openTestLogger(b, "info")
	b.ReportAllocs()
	for b.Loop() {
		log.LogAttrs(b.Context(), slog.LevelInfo, "job completed", slog.String("job_id", "0198c1d2-7f3a-7000-8000-0123456789ab"),
			slog.String("command", "github.commits"), slog.Int64("duration_ms", 1234))
	}
}
