package main

// The log file: buffers whole lines, appends them to one file, and turns a full file into a numbered, gzipped backup.
//
// Lock: logFile.mu guards every field below it and is held across write(2), open and rename, that being its job; gzip
// and pruning run without it. Only Stderr is written under it besides, once a minute at most.
//
// Invariants:
//   - one write(2) carries whole lines, and what a failed or killed one left torn is cut off or ended with a newline
//     before the next, so no line runs into another;
//   - a line is written, buffered for at most logDelay, or counted as lost; an error neither blocks nor stops anybody;
//   - the process owns the directory's log files alone (it holds the instance lock);
//   - NAME.gz gets its name only when complete and synced, so NAME beside it is superfluous. What a crash leaves is
//     what tidy starts from: there is no recovery code besides it.

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	logBuffer = 64 << 10 // bytes; a line that is longer still goes out in one write
	// logDelay is how long a line may stay in memory. Counted from the first line in the buffer, it serves the idle
	// daemon and the busy one: 20 writes a second are nothing, and none happen when nothing is logged.
	logDelay         = 50 * time.Millisecond
	complaintPause   = time.Minute           // between two lines to Stderr
	maxRotationPause = time.Minute           // between two attempts to rename
	backupStamp      = "20060102T150405.000" // UTC; text order is time order
)

// appendFile is what is needed of an *os.File; tests have one that fails.
type appendFile interface {
	io.WriteCloser
	io.ReaderAt
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// logFileOptions say where the log goes and how much of it is kept; a limit of 0 is no limit.
type logFileOptions struct {
	Path       string
	MaxBytes   int64 // of the file, before it becomes a backup
	MaxBackups int
	MaxAge     time.Duration
	Compress   bool
	Stderr     io.Writer // told, once a minute, what goes wrong

	open   func(path string) (appendFile, error) // nil: openAppend
	rename func(from, to string) error           // nil: os.Rename
}

// logFile is an io.Writer of lines.
type logFile struct {
	opts   logFileOptions
	wake   chan struct{} // tells tend that there is a new backup; holds one
	stop   context.CancelFunc
	tender sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	file       appendFile // nil: the next flush opens it
	size       int64      // of the file, whole lines
	buf        []byte     // lines not yet written
	timer      *time.Timer
	lost       int           // lines, since writing began to fail; 0 while it works
	problem    error         // says so; nil while it works
	complained time.Time     // when Stderr was last written
	pause      time.Duration // since renaming began to fail; 0 while it works
	rotateAt   time.Time     // not before
}

// newLogFile opens the log, and sees in the background to what an earlier process left undone.
func newLogFile(opts logFileOptions) (*logFile, error) {
	if opts.open == nil {
		opts.open = openAppend
	}
	if opts.rename == nil {
		opts.rename = os.Rename
	}
	l := &logFile{opts: opts, wake: make(chan struct{}, 1), buf: make([]byte, 0, logBuffer)}
	if err := l.openLocked(); err != nil { // nobody else has l yet
		return nil, err
	}
	l.mu.Lock() // for the timer's own function
	l.timer = time.AfterFunc(logDelay, func() { l.Flush() })
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	l.wake <- struct{}{}
	l.tender.Go(func() { l.tend(ctx) })
	return l, nil
}

// Write takes one whole line, newline included. Losing it later is not the caller's error but Problem's to tell.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fs.ErrClosed
	}
	held := l.size + int64(len(l.buf))
	full := l.opts.MaxBytes > 0 && held > 0 && held+int64(len(line)) > l.opts.MaxBytes
	if full && !time.Now().Before(l.rotateAt) {
		l.flushLocked()
		l.rotateLocked()
	}
	if len(l.buf)+len(line) > logBuffer {
		l.flushLocked()
	}
	if len(l.buf) == 0 {
		l.timer.Reset(logDelay)
	}
	l.buf = append(l.buf, line...)
	return len(line), nil
}

// Flush writes what is buffered.
func (l *logFile) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushLocked()
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

// Close flushes, and waits for the background work, which it cuts short: the next start takes it up again.
func (l *logFile) Close() error {
	l.mu.Lock()
	err := errors.Join(l.flushLocked(), l.closeLocked())
	l.closed = true
	l.mu.Unlock()
	l.stop()
	l.tender.Wait()
	return err
}

// flushLocked empties the buffer: into the file, or into the count of lost lines.
func (l *logFile) flushLocked() error {
	l.timer.Stop()
	if len(l.buf) == 0 {
		return nil
	}
	n, err := 0, l.openLocked()
	if err == nil {
		n, err = l.file.Write(l.buf)
	}
	whole := bytes.LastIndexByte(l.buf[:n], '\n') + 1
	l.size += int64(whole)
	lost := bytes.Count(l.buf[whole:], []byte{'\n'})
	l.buf = l.buf[:0]
	if err == nil {
		l.lost, l.problem = 0, nil
		return nil
	}
	if n > whole {
		l.file.Truncate(l.size) // if this fails, openLocked ends the torn line
	}
	l.closeLocked()
	l.lost += lost
	l.problem = fmt.Errorf("%d lines lost: %w", l.lost, err)
	l.complainLocked(l.problem)
	return err
}

// openLocked makes l.file the file at Path, whether closed by us or removed by others, and ends a line torn there.
func (l *logFile) openLocked() error {
	if l.file != nil {
		ours, err := l.file.Stat()
		there, errThere := os.Stat(l.opts.Path)
		if err == nil && errThere == nil && os.SameFile(ours, there) {
			return nil
		}
		l.closeLocked()
	}
	f, err := l.opts.open(l.opts.Path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, info.Size()
	if l.size == 0 {
		return nil
	}
	last := []byte{0}
	if _, err = f.ReadAt(last, l.size-1); err == nil && last[0] != '\n' {
		_, err = f.Write([]byte{'\n'})
		l.size++
	}
	if err != nil {
		return errors.Join(err, l.closeLocked())
	}
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

// rotateLocked makes the file a backup; the next flush opens a new one, or, when renaming failed, the old one again.
func (l *logFile) rotateLocked() {
	l.closeLocked() // Windows does not rename open files
	now := time.Now()
	if err := l.opts.rename(l.opts.Path, freeBackupPath(l.opts.Path, now)); err != nil {
		l.pause = min(max(2*l.pause, time.Second), maxRotationPause)
		l.rotateAt = now.Add(l.pause)
		l.complainLocked(fmt.Errorf("rotation: %w", err))
		return
	}
	l.pause, l.size = 0, 0
	select {
	case l.wake <- struct{}{}:
	default: // tend is awake or about to be
	}
}

func (l *logFile) complainLocked(err error) {
	if time.Since(l.complained) >= complaintPause {
		l.complained = time.Now()
		fmt.Fprintf(l.opts.Stderr, "honeydew: log: %v\n", err)
	}
}

// tend is the background goroutine.
func (l *logFile) tend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		if err := l.tidy(ctx); err != nil && ctx.Err() == nil {
			l.mu.Lock()
			l.complainLocked(fmt.Errorf("backups: %w", err))
			l.mu.Unlock()
		}
	}
}

// tidy brings the backups into their final state from whatever state they are in: half-written files gone, too many and
// too old ones gone, the rest gzipped.
func (l *logFile) tidy(ctx context.Context) error {
	dir, base := filepath.Dir(l.opts.Path), filepath.Base(l.opts.Path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	var stamps []time.Time
	for _, e := range entries {
		name, torn := strings.CutSuffix(e.Name(), ".gz.tmp")
		stamp, ok := parseBackupName(base, name)
		switch {
		case !ok || !e.Type().IsRegular():
		case torn:
			errs = append(errs, removeFile(filepath.Join(dir, e.Name())))
		default:
			stamps = append(stamps, stamp)
		}
	}
	slices.SortFunc(stamps, func(a, b time.Time) int { return b.Compare(a) })
	for i, stamp := range slices.Compact(stamps) { // x.log and x.log.gz are one backup
		if ctx.Err() != nil {
			break
		}
		path := filepath.Join(dir, backupName(base, stamp))
		tooMany := l.opts.MaxBackups > 0 && i >= l.opts.MaxBackups
		if tooMany || l.opts.MaxAge > 0 && time.Since(stamp) > l.opts.MaxAge {
			errs = append(errs, removeFile(path), removeFile(path+".gz"))
		} else if exists(path + ".gz") {
			errs = append(errs, removeFile(path))
		} else if l.opts.Compress {
			errs = append(errs, l.compress(ctx, path))
		}
	}
	return errors.Join(errs...)
}

// compress replaces path by path.gz.
func (l *logFile) compress(ctx context.Context, path string) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	tmp := path + ".gz.tmp"
	dst, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	zip := gzip.NewWriter(dst)
	for err == nil && ctx.Err() == nil { // in pieces, so that a stop need not wait for a large file
		_, err = io.CopyN(zip, src, 1<<20)
	}
	if err == io.EOF {
		err = zip.Close()
	} else {
		err = errors.Join(err, ctx.Err())
	}
	if err == nil {
		err = dst.Sync()
	}
	err = errors.Join(err, dst.Close(), src.Close())
	if err == nil {
		err = l.opts.rename(tmp, path+".gz")
	}
	if err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	return removeFile(path)
}

// openAppend opens a log, for its owner alone. A FIFO or device would block or mean nothing to rename.
func openAppend(path string) (appendFile, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o600); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// freeBackupPath names the backup of now; a second one within the same millisecond moves on to the next.
func freeBackupPath(path string, now time.Time) string {
	for ; ; now = now.Add(time.Millisecond) {
		p := filepath.Join(filepath.Dir(path), backupName(filepath.Base(path), now))
		if !exists(p) && !exists(p+".gz") {
			return p
		}
	}
}

// backupName is daemon-20260102T150405.000.log for daemon.log.
func backupName(base string, t time.Time) string {
	ext := filepath.Ext(base)
	return strings.TrimSuffix(base, ext) + "-" + t.UTC().Format(backupStamp) + ext
}

// parseBackupName reads the time from a backup's name, gzipped or not; false for every other name.
func parseBackupName(base, name string) (time.Time, bool) {
	ext := filepath.Ext(base)
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(base, ext)+"-")
	if !ok || len(rest) < len(backupStamp) {
		return time.Time{}, false
	}
	t, err := time.Parse(backupStamp, rest[:len(backupStamp)])
	plain := backupName(base, t) // compared, because time.Parse also takes forms that Format does not make
	return t, err == nil && (name == plain || name == plain+".gz")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removeFile removes path; that it is gone already is no error.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
