package main

// Files that others may touch while we use them: locks, a daemon's home, and how files are opened, recognised, removed.
//
// A lock is flock(2) on a file that is never removed, since two processes could then lock two files of one name. There
// are two: daemon.lock in the home, which decides who is its daemon, and one beside the database, for two homes may
// name one database. Whoever only wants to know takes the lock shared for a moment; that keeps nobody from starting.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// errHeld: another process holds the lock.
var errHeld = errors.New("another process holds it")

const (
	lookerPatience = 2 * time.Second // how long those who only look at a lock may keep a start waiting
	maxNoteBytes   = 64 << 10
)

// lockFile is a lock that we hold; it ends with the process at the latest.
type lockFile struct {
	path string
	file *os.File
	info fs.FileInfo
}

// takeLock takes the lock at path, making the file if need be. errHeld: another process has it.
func takeLock(path string) (*lockFile, error) {
	f, err := openRegular(path, os.O_CREATE|os.O_RDWR|noFollow)
	if err != nil {
		return nil, err
	}
	l := &lockFile{path: path, file: f}
	if err := l.lock(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// lock waits while others only look, and for nobody else.
func (l *lockFile) lock() (err error) {
	l.info, err = l.file.Stat()
	if err != nil {
		return err
	}
	end := time.Now().Add(lookerPatience)
	for {
		held, err := tryLock(l.file, true)
		if err != nil {
			return err
		}
		if !held {
			return l.intact() // it may have been removed between the opening and the locking
		}
		held, err = tryLock(l.file, false)
		if err != nil {
			return err
		}
		if held || time.Now().After(end) {
			return errHeld
		}
		time.Sleep(time.Millisecond) // flock has no way to wait for shared locks alone
	}
}

// intact says what is wrong where the lock's file is not under its name any more, so that somebody else could take it.
func (l *lockFile) intact() error {
	return unmoved(l.path, l.info)
}

// note replaces what the file says; it is on disk when note returns.
func (l *lockFile) note(text string) error {
	if _, err := l.file.WriteAt([]byte(text+"\n"), 0); err != nil {
		return err
	}
	if err := l.file.Truncate(int64(len(text) + 1)); err != nil {
		return err
	}
	return l.file.Sync()
}

// noted is what the file says.
func (l *lockFile) noted() (string, error) {
	text, err := io.ReadAll(io.NewSectionReader(l.file, 0, maxNoteBytes))
	return strings.TrimSuffix(string(text), "\n"), err
}

func (l *lockFile) release() error {
	return l.file.Close()
}

// lockHeld reports whether somebody holds the lock at path.
func lockHeld(path string) (bool, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return false, exceptAbsent(err)
	}
	defer f.Close()
	return tryLock(f, false)
}

// notedIn is what the running holder of the lock at path has noted, "" where nobody holds it.
func notedIn(path string) (string, error) {
	held, err := lockHeld(path)
	if err != nil || !held {
		return "", err
	}
	text, err := os.ReadFile(path)
	return strings.TrimSuffix(string(text), "\n"), err
}

// lockPath is the lock of a home's daemon. Its note is the configuration file that the daemon was started with.
func lockPath(home string) string {
	return filepath.Join(home, "daemon.lock")
}

// openRegular opens a file that must be a regular one, without waiting for the other end of a FIFO.
func openRegular(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|nonBlock, 0o600)
	if err != nil {
		return nil, notOpened(path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s %w", path, errNotRegular), f.Close())
	}
	return f, nil
}

// notOpened is err, the failure to open path, or what is there: a link that leads nowhere.
func notOpened(path string, err error) error {
	target, notLink := os.Readlink(path)
	if notLink == nil && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is a link to %s, which does not exist", path, target)
	}
	return err
}

var errNotRegular = errors.New("is not a regular file")

// unmoved says what is wrong where path does not name the file that was described by info.
func unmoved(path string, info fs.FileInfo) error {
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was removed or moved away", path)
	}
	if err != nil {
		return err
	}
	if !os.SameFile(info, now) {
		return fmt.Errorf("%s was replaced by another file", path)
	}
	return nil
}

// removeOurs removes path if it still names the file that info describes, which nobody has written since: another
// process may have put its own there. The time counts, since a file that nobody has open leaves its inode to the next.
func removeOurs(path string, info fs.FileInfo) error {
	now, err := os.Lstat(path)
	if err != nil {
		return exceptAbsent(err)
	}
	if !os.SameFile(info, now) || !now.ModTime().Equal(info.ModTime()) {
		return nil
	}
	return removeFile(path)
}

// removeFile removes path; that it is gone already is no error.
func removeFile(path string) error {
	return exceptAbsent(os.Remove(path))
}

// exists reports whether something is at path, a link that leads nowhere included.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// exceptAbsent drops the error of a file that is not there.
func exceptAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replaceFile puts text under path in one step, and returns what describes the new file. The temporary name is one that
// nobody can foresee, and so no link that others have put there.
func replaceFile(path, text string) (fs.FileInfo, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, err
	}
	_, writeErr := f.WriteString(text)
	info, statErr := f.Stat()
	err = errors.Join(writeErr, statErr, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, removeFile(f.Name()))
	}
	return info, nil
}

// syncDir makes a rename or a new name in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrInvalid) {
		return nil
	}
	return err
}

// realPath is path with its links resolved, as SQLite resolves them; its last part need not exist.
func realPath(path string) (string, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// prepareHome makes dir if need be, and makes sure that it is a directory of ours that nobody else can enter. One that
// holds other things, and nothing of honeydew's, was named by mistake and stays as it is. So does one whose config.yaml
// is misread: it may be another program's.
func prepareHome(dir string, misread error) error {
	err := makeDir(dir)
	if err != nil {
		return errorf(codeFailedPrecondition, "the home cannot be made: %w", err).
			hint("let HONEYDEW_HOME name a folder that you may write to")
	}
	err = checkHome(dir)
	if !errors.Is(err, errOpenHome) {
		return err
	}
	if misread != nil {
		return misread
	}
	return os.Chmod(dir, 0o700)
}

// makeDir makes dir and what leads there. The new names are on disk then, or what is acked in dir could vanish with it.
func makeDir(dir string) error {
	if exists(dir) {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// errOpenHome: others can enter the home.
var errOpenHome = errors.New("is open to others")

// checkHome looks at the home without changing it.
func checkHome(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no folder %s yet", dir)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errorf(codeFailedPrecondition, "the home %s is no folder", dir).
			hint("let HONEYDEW_HOME name one")
	}
	uid, known := ownerOf(info)
	if known && uid != os.Getuid() {
		return errorf(codeFailedPrecondition, "%s belongs to uid %d, not to you (uid %d)", dir, uid, os.Getuid()).
			hint("take it back with: sudo chown -R %d %s, or let HONEYDEW_HOME name another folder",
				os.Getuid(), shellQuoted(dir))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	ours := func(e fs.DirEntry) bool {
		names := "config.yaml key daemon.db daemon.lock daemon.log daemon.pid daemon.sock daemon.stderr"
		return slices.Contains(strings.Fields(names), e.Name())
	}
	if len(entries) > 0 && !slices.ContainsFunc(entries, ours) {
		return errorf(codeFailedPrecondition, "%s holds other things and no file of honeydew's", dir).
			hint("let HONEYDEW_HOME name an empty or a new folder")
	}
	mode := info.Mode().Perm()
	if mode&0o077 != 0 && runtime.GOOS != "windows" {
		return errorf(codeFailedPrecondition, "%s %w (mode %04o)", dir, errOpenHome, mode).
			hint("run: chmod 700 %s", shellQuoted(dir))
	}
	return nil
}

// shellQuoted is text as one word of a shell; a plain one stays as it is.
func shellQuoted(text string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./_-"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
