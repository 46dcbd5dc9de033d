package main

// The log: slog's JSON lines with the keys, levels and times of our contract, appended to one file, which becomes a
// gzipped backup when it is full.
//
// Lock: logFile.mu guards every field below it and is held across write(2), open and rename, that being its job; gzip
// and pruning run without it, one run at a time.
//
// Invariants:
//   - one record is one line and one write(2), done when the call returns: nothing waits in memory for a kill to lose;
//   - what a failed or killed write left torn is cut off, or ended with a newline, so no line runs into another;
//   - a line is written or counted as lost; an error neither blocks nor stops anybody;
//   - a value under a secret's key is never written;
//   - the process owns the directory's log files alone (it holds the instance lock);
//   - NAME.gz gets its name only when complete and synced, so NAME beside it is superfluous. What a crash leaves is
//     what tidy starts from: there is no recovery code besides it.
//
// slog's JSON handler with ReplaceAttr costs two small allocations and 1.4 to 2 us a line, write(2) 1.3 us more
// (BenchmarkLogLine). A buffer would save the latter, and cost a timer, flushes, and the last lines before a kill.

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	rotationPause = time.Minute // after a rename that failed
	// lookPause is how long the file is taken to be where it was. What a burst writes meanwhile into a file that somebody
	// moves or removes is there, or gone, as if they had come that much later.
	lookPause   = time.Millisecond
	backupStamp = "20060102T150405.000" // UTC; text order is time order
)

// newLogger opens the log, and sees in the background to what an earlier process left undone. stderr is told what goes
// wrong. The caller closes the file, after the last line.
func newLogger(cfg *Config, stderr io.Writer) (*slog.Logger, *logFile, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Logging.Level)); err != nil {
		return nil, nil, err
	}
	l := &logFile{cfg: cfg, maxBytes: int64(cfg.Logging.MaxSizeMB) << 20, stderr: stderr, write: (*os.File).Write, rename: os.Rename}
	if err := l.openLocked(); err != nil { // nobody else has l yet
		return nil, nil, err
	}
	l.background.Go(l.tidy)
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: level, ReplaceAttr: contractAttr})), l, nil
}

// contractAttr rewrites one attribute into the contract's form.
func contractAttr(groups []string, a slog.Attr) slog.Attr {
	if isSecretKey(a.Key) || slices.ContainsFunc(groups, isSecretKey) {
		return slog.String(a.Key, "[redacted]")
	}
	if a.Value.Kind() == slog.KindTime {
		a.Value = slog.StringValue(timeText(a.Value.Time()))
	}
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "timestamp"
	case slog.MessageKey:
		a.Key = "message"
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(strings.ToLower(level.String()))
		}
	}
	return a
}

// isSecretKey is the belt to the braces: no caller logs a secret, and if one ever does, it stops here.
func isSecretKey(key string) bool {
	return slices.Contains([]string{"password", "token", "access_token", "refresh_token", "authorization", "passphrase"}, strings.ToLower(key))
}

// logFile is an io.Writer of lines.
type logFile struct {
	cfg      *Config // its limits of 0 are no limits
	maxBytes int64   // of the file, before it becomes a backup
	stderr   io.Writer
	write    func(f *os.File, line []byte) (int, error) // tests have one that fails, and a rename
	rename   func(from, to string) error
	closed   atomic.Bool // set under mu; background work looks without it

	tidying    sync.Mutex     // one tidy at a time; never taken under mu
	background sync.WaitGroup // of tidy

	mu       sync.Mutex
	file     *os.File    // nil: the next line opens it
	info     fs.FileInfo // of file, when opened
	looked   time.Time   // for file at Path
	size     int64
	lost     int       // lines, since writing began to fail
	problem  error     // says so; nil while writing works
	rotateAt time.Time // not before
}

// Write appends one whole line, newline included. slog drops its error; Problem keeps it.
func (l *logFile) Write(line []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return 0, fs.ErrClosed
	}
	err = l.openLocked()
	full := l.maxBytes > 0 && l.size > 0 && l.size+int64(len(line)) > l.maxBytes
	if err == nil && full && !time.Now().Before(l.rotateAt) {
		err = l.rotateLocked()
	}
	if err == nil {
		n, err = l.write(l.file, line)
	}
	if err == nil {
		l.size, l.lost, l.problem = l.size+int64(n), 0, nil
		return n, nil
	}
	if n > 0 {
		_ = l.file.Truncate(l.size) // if this fails, the next open ends the torn line
	}
	l.closeLocked()
	l.lost++
	l.problem = fmt.Errorf("%d lines lost: %w", l.lost, err)
	if l.lost == 1 {
		l.complain("a line is lost", err)
	}
	return n, err
}

// Problem tells how many lines have been lost and why, "" when the last write went well.
func (l *logFile) Problem() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.problem == nil {
		return ""
	}
	return l.problem.Error()
}

// Close waits for the background work, which it cuts short: the next start takes it up again.
func (l *logFile) Close() error {
	l.mu.Lock()
	l.closed.Store(true)
	err := l.closeLocked()
	l.mu.Unlock()
	l.background.Wait()
	return err
}

func (l *logFile) complain(what string, err error) {
	fmt.Fprintf(l.stderr, "honeydew: log: %s: %v\n", what, err)
}

// openLocked makes l.file the file at Path, whether closed by us or moved away by others, and ends a line torn there.
func (l *logFile) openLocked() error {
	if l.file != nil && time.Since(l.looked) < lookPause {
		return nil
	}
	there, err := os.Stat(l.cfg.Logging.File)
	if l.looked = time.Now(); err == nil && l.file != nil && os.SameFile(l.info, there) {
		l.size = there.Size()
		return nil
	}
	if err == nil && !there.Mode().IsRegular() { // a FIFO or device would block, or mean nothing to rename
		return fmt.Errorf("%s is not a regular file", l.cfg.Logging.File)
	}
	l.closeLocked()
	f, err := os.OpenFile(l.cfg.Logging.File, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err = f.Chmod(0o600); err == nil {
		l.info, err = f.Stat()
	}
	if err == nil && l.info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, l.info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte{'\n'})
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, l.info.Size()
	return nil
}

func (l *logFile) closeLocked() error {
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

// rotateLocked makes the file a backup and opens a new one or, when renaming failed, the old one again.
func (l *logFile) rotateLocked() error {
	l.closeLocked() // Windows does not rename open files
	now := time.Now()
	path := backupName(l.cfg.Logging.File, now)
	for exists(path) || exists(path+".gz") { // the second one within a millisecond, or the clock was set back
		now = now.Add(time.Millisecond)
		path = backupName(l.cfg.Logging.File, now)
	}
	if err := l.rename(l.cfg.Logging.File, path); err != nil {
		l.rotateAt = now.Add(rotationPause)
		l.complain("rotation", err)
	} else {
		l.background.Go(l.tidy)
	}
	return l.openLocked()
}

// tidy brings the backups into their final state from whatever state they are in: half-written files gone, too many and
// too old ones gone, the rest gzipped.
func (l *logFile) tidy() {
	l.tidying.Lock()
	defer l.tidying.Unlock()
	dir, limits := filepath.Dir(l.cfg.Logging.File), l.cfg.Logging
	maxAge := time.Duration(limits.MaxAgeDays) * 24 * time.Hour
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	var stamps []time.Time // oldest first, as ReadDir sorts names
	for _, e := range entries {
		path, torn := strings.CutSuffix(filepath.Join(dir, e.Name()), ".gz.tmp")
		if stamp, ours := parseBackupName(limits.File, path); !ours || !e.Type().IsRegular() {
			continue
		} else if torn {
			errs = append(errs, removeFile(path+".gz.tmp"))
		} else {
			stamps = append(stamps, stamp)
		}
	}
	stamps = slices.Compact(stamps) // x.log and x.log.gz are one backup
	for i, stamp := range stamps {
		path := backupName(limits.File, stamp)
		switch {
		case l.closed.Load():
			return
		case limits.MaxBackups > 0 && len(stamps)-i > limits.MaxBackups, maxAge > 0 && time.Since(stamp) > maxAge:
			errs = append(errs, removeFile(path), removeFile(path+".gz"))
		case exists(path + ".gz"):
			errs = append(errs, removeFile(path))
		case limits.Compress:
			errs = append(errs, l.compress(path))
		}
	}
	if err := errors.Join(errs...); err != nil && !l.closed.Load() {
		l.complain("backups", err)
	}
}

// compress replaces path by path.gz.
func (l *logFile) compress(path string) error {
	tmp := path + ".gz.tmp"
	err := l.gzip(path, tmp)
	if err == nil {
		err = l.rename(tmp, path+".gz")
	}
	if err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	return removeFile(path)
}

func (l *logFile) gzip(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(dst)
	for err == nil { // in pieces, so that a stop need not wait for a large file
		if _, err = io.CopyN(zip, src, 1<<20); err == nil && l.closed.Load() {
			err = fs.ErrClosed
		}
	}
	if err == io.EOF {
		err = errors.Join(zip.Close(), dst.Sync())
	}
	return errors.Join(err, dst.Close())
}

// backupName is .../daemon-20260102T150405.000.log for .../daemon.log.
func backupName(path string, t time.Time) string {
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + "-" + t.UTC().Format(backupStamp) + ext
}

// parseBackupName reads the time from the name of a backup of path, gzipped or not; false for every other name.
func parseBackupName(path, name string) (time.Time, bool) {
	stamp := strings.TrimPrefix(name, strings.TrimSuffix(path, filepath.Ext(path))+"-")
	t, err := time.Parse(backupStamp, stamp[:min(len(stamp), len(backupStamp))])
	plain := backupName(path, t) // compared, because time.Parse also takes forms that Format does not make
	return t, err == nil && (name == plain || name == plain+".gz")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
