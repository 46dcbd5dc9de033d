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
	// lookPause is how long the file is taken to be where it was. What a burst writes meanwhile into a file that
	// somebody moves or removes is there, or gone, as if they had come that much later.
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
	l := &logFile{
		cfg:      cfg,
		path:     cfg.Logging.File,
		maxBytes: int64(cfg.Logging.MaxSizeMB) << 20,
		stderr:   stderr,
		write:    (*os.File).Write,
		rename:   os.Rename,
	}
	if err := l.openLocked(); err != nil { // nobody else has l yet
		return nil, nil, err
	}
	l.background.Go(l.tidy)
	handler := slog.NewJSONHandler(l, &slog.HandlerOptions{
		Level:       level,
		ReplaceAttr: contractAttr,
	})
	return slog.New(handler), l, nil
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
	switch strings.ToLower(key) {
	case "password", "passphrase", "token", "access_token", "refresh_token", "authorization":
		return true
	}
	return false
}

// logFile is an io.Writer of lines.
type logFile struct {
	cfg      *Config // its limits of 0 are no limits
	path     string  // of the log
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
	looked   time.Time   // for file at path
	size     int64
	lost     int       // lines, since writing began to fail
	problem  string    // says so; "" while writing works
	rotateAt time.Time // not before
}

// Write appends one whole line, newline included. slog drops its error; Problem keeps it.
func (l *logFile) Write(line []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return 0, fs.ErrClosed
	}
	n, err = l.appendLocked(line)
	if err == nil {
		l.size += int64(n)
		l.lost = 0
		l.problem = ""
		return n, nil
	}
	if n > 0 {
		_ = l.file.Truncate(l.size) // if this fails, the next open ends the torn line
	}
	l.closeLocked()
	l.lost++
	l.problem = fmt.Sprintf("%d lines lost: %v", l.lost, err)
	if l.lost == 1 {
		l.complain("a line is lost", err)
	}
	return n, err
}

func (l *logFile) appendLocked(line []byte) (n int, err error) {
	if err := l.openLocked(); err != nil {
		return 0, err
	}
	size := l.size + int64(len(line))
	full := l.maxBytes > 0 && l.size > 0 && size > l.maxBytes
	if full && !time.Now().Before(l.rotateAt) {
		if err := l.rotateLocked(); err != nil {
			return 0, err
		}
	}
	return l.write(l.file, line)
}

// Problem tells how many lines have been lost and why, "" when the last write went well.
func (l *logFile) Problem() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
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

// openLocked makes l.file the file at its path, whether we closed it or others moved it away.
func (l *logFile) openLocked() error {
	if l.file != nil && time.Since(l.looked) < lookPause {
		return nil
	}
	l.looked = time.Now()
	there, err := os.Stat(l.path)
	if err == nil && l.file != nil && os.SameFile(l.info, there) {
		l.size = there.Size()
		return nil
	}
	l.closeLocked()
	f, err := openRegular(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return err
	}
	l.info, err = prepareLog(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file = f
	l.size = l.info.Size()
	return nil
}

// prepareLog makes f the owner's alone, ends a line that is torn, and describes f.
func prepareLog(f *os.File) (fs.FileInfo, error) {
	if err := f.Chmod(0o600); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return info, err
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, info.Size()-1)
	if err != nil || last[0] == '\n' {
		return info, err
	}
	_, err = f.Write([]byte{'\n'})
	if err != nil {
		return nil, err
	}
	return f.Stat()
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
	path := backupName(l.path, now)
	for exists(path) || exists(path+".gz") { // the second within a millisecond, or the clock was set back
		now = now.Add(time.Millisecond)
		path = backupName(l.path, now)
	}
	if err := l.rename(l.path, path); err != nil {
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
	limits := l.cfg.Logging
	maxAge := time.Duration(limits.MaxAgeDays) * 24 * time.Hour
	stamps, errs := l.backups()
	for i, stamp := range stamps {
		if l.closed.Load() {
			return
		}
		path := backupName(l.path, stamp)
		tooMany := limits.MaxBackups > 0 && len(stamps)-i > limits.MaxBackups
		tooOld := maxAge > 0 && time.Since(stamp) > maxAge
		switch {
		case tooMany || tooOld:
			errs = errors.Join(errs, removeFile(path), removeFile(path+".gz"))
		case exists(path + ".gz"):
			errs = errors.Join(errs, removeFile(path))
		case limits.Compress:
			errs = errors.Join(errs, l.compress(path))
		}
	}
	if errs != nil && !l.closed.Load() {
		l.complain("backups", errs)
	}
}

// backups are the times of the backups, oldest first, as ReadDir sorts names. Half-written ones are removed.
func (l *logFile) backups() (stamps []time.Time, errs error) {
	dir := filepath.Dir(l.path)
	entries, errs := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		name, torn := strings.CutSuffix(path, ".gz.tmp")
		stamp, ours := parseBackupName(l.path, name)
		switch {
		case !ours || !e.Type().IsRegular():
		case torn:
			errs = errors.Join(errs, removeFile(path))
		default:
			stamps = append(stamps, stamp)
		}
	}
	return slices.Compact(stamps), errs // x.log and x.log.gz are one backup
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
		_, err = io.CopyN(zip, src, 1<<20)
		if err == nil && l.closed.Load() {
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
	before := strings.TrimSuffix(path, filepath.Ext(path)) + "-"
	stamp := strings.TrimPrefix(name, before)
	t, err := time.Parse(backupStamp, stamp[:min(len(stamp), len(backupStamp))])
	plain := backupName(path, t) // compared, because time.Parse also takes forms that Format does not make
	return t, err == nil && (name == plain || name == plain+".gz")
}
