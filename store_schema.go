package main

// How the database file comes to be, is recognised, opened, upgraded and named in errors. Nothing here touches a file
// that is not ours: the header is read before SQLite opens it, and a new database is built beside its final name and
// renamed, so that a file under that name is always a whole database. A backup is made in the same way.

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"modernc.org/sqlite"
)

//go:embed schema.sql
var schemaV1 string

const (
	applicationID = 0x686e6477 // "hndw" in the header: this file is ours
	schemaVersion = 1          // in PRAGMA user_version

	// SQLite's primary result codes (sqlite.org/rescode.html).
	sqliteBusy     = 5
	sqliteIOErr    = 10
	sqliteCorrupt  = 11
	sqliteFull     = 13
	sqliteCantOpen = 14
	sqliteNotADB   = 26

	sqliteInPage = sqliteIOErr | 34<<8 // an extended one: the -shm file was cut short under its mapping

	epochKey = "epoch" // the row of the config table that says which life of the database this is
	noEpoch  = "none"
)

// upgrades[n] brings a database from version n+1 to n+2. To change the format: append here, raise schemaVersion, and
// keep a database of the old version in testdata.
func upgrades() []string { return []string{} }

// dsn names the file to the driver. Settings, in pairs, go here and not into PRAGMA statements, because only so does
// every pooled connection have them.
func dsn(path string, settings ...string) string {
	query := url.Values{}
	query.Set("mode", "rw") // never create what somebody has removed
	query.Set("_busy_timeout", "5000")
	query.Set("_foreign_keys", "1")
	query.Set("_dqs", "0")
	query.Set("_error_rc", "1")
	for pair := range slices.Chunk(settings, 2) {
		query.Set(pair[0], pair[1])
	}
	name := filepath.ToSlash(path)
	if name[0] != '/' {
		name = "/" + name // C:/... on Windows
	}
	file := url.URL{Scheme: "file", Path: name, RawQuery: query.Encode()}
	return file.String()
}

// inspectDatabase reads the header of an existing file, before SQLite gets to see it: opening a foreign file in WAL
// mode would already change it. It opens the file for writing, for SQLite would open one that can only be read, and
// leave files beside it that nobody can use. What it looks at (sqlite.org/fileformat.html, 1.3):
//
//	 0  "SQLite format 3\0"
//	16  bytes a page
//	28  pages
//	60  user_version
//	68  application_id
func inspectDatabase(path string) error {
	f, err := openRegular(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, 100)
	n, err := f.ReadAt(header, 0)
	// A read that fails says nothing of the database, while one that is too short is damaged.
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n < len(header) {
		return fmt.Errorf("damaged: it has %d bytes, a database has at least 100", n)
	}
	magic := string(header[:16])
	page := binary.BigEndian.Uint16(header[16:])
	pages := binary.BigEndian.Uint32(header[28:])
	version := binary.BigEndian.Uint32(header[60:])
	application := binary.BigEndian.Uint32(header[68:])
	if magic != "SQLite format 3\x00" || application != applicationID {
		return errors.New("not a honeydew database")
	}
	if err := checkVersion(int64(version)); err != nil {
		return err
	}
	// Each name would have a log and a lock of its own.
	if linksOf(info) > 1 {
		return errors.New("it has several names (hard links); copy it, and use the copy")
	}
	// SQLite takes half a page for a page with zeros at its end.
	whole := max(int64(page), 512) * int64(pages)
	if info.Size() >= whole || hasLog(path) {
		return nil
	}
	return fmt.Errorf("damaged: it has %d bytes instead of %d", info.Size(), whole)
}

// hasLog reports whether something lies in the log beside path. Then the file may be short: a checkpoint that was cut
// off is done again.
func hasLog(path string) bool {
	wal, err := os.Stat(path + "-wal")
	return err == nil && wal.Size() > 0
}

// checkVersion refuses a database of a release to come: what this one would write into it, nobody knows.
func checkVersion(version int64) error {
	if version > schemaVersion {
		return fmt.Errorf("made by a newer honeydew (its version is %d, this program knows %d); use that one",
			version, schemaVersion)
	}
	return nil
}

// createDatabase builds an empty database under a temporary name and renames it into place. It holds one environment,
// production, active:
//
//	daemon.db.new   empty, 0600    nobody else can read it
//	                schema.sql     no journal and no sync: until it has its name, a crash costs nothing
//	                WAL in the header, synced
//	daemon.db       renamed, the folder synced
func createDatabase(path, productionURL string) error {
	building := path + ".new"
	if err := removeFile(building); err != nil {
		return err
	}
	// SQLite would create it by the umask; an existing empty file keeps its mode, and the side files take it over.
	f, err := os.OpenFile(building, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	const script = `PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA auto_vacuum = INCREMENTAL;
		BEGIN; PRAGMA application_id = %d; PRAGMA user_version = 1;
		%s;
		INSERT INTO api_environments (id, name, base_url, is_active, created_at, updated_at)
		VALUES (?1, 'production', ?2, 1, ?3, ?3);
		COMMIT`
	create := fmt.Sprintf(script, applicationID, schemaV1)
	err = runOn(context.Background(), dsn(building), create, newID(), productionURL, timeText(timeNow()))
	if err != nil {
		return err
	}
	// Journal mode WAL, as the file format writes it (sqlite.org/fileformat.html, 1.3.3): the conversion by SQLite
	// would cost the first start four more syncs.
	if _, err := f.WriteAt([]byte{2, 2}, 18); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(building, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// runOn runs SQL on a connection of its own.
func runOn(ctx context.Context, name, script string, args ...any) error {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, script, args...)
	return errors.Join(err, db.Close())
}

// textOn reads one text on a connection of its own.
func textOn(name, query string, args ...any) (string, error) {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return "", err
	}
	defer db.Close()
	return scanColumn[string](db.QueryRow(query, args...))
}

// A write-ahead log names no database, and SQLite applies one to whatever lies beside it. So each start gives the
// database an epoch, a random name in its config table, and notes it in the lock beside it. A log that lies beside a
// file of another epoch is that of another database: one restored from a copy, say, or a new one.
//
//	start    the lock notes "OLD NEW"; NEW is written, and moved into the main file; the lock notes "NEW"
//	crash    main file: NEW, log: what came since. Next start: NEW is noted, so the log is applied
//	restore  main file: some other epoch, or none (a backup has none). Next start: the log is set aside

// setAside renames side files at path that belong to another database than the file there, and returns their new names.
// noted is what the lock says, "" if it says nothing.
func setAside(path, noted string) (moved []string, err error) {
	foreign, err := foreignLog(path, noted)
	if err != nil {
		return nil, err
	}
	suffixes := []string{"-journal"} // in WAL mode there is none
	if foreign {
		suffixes = append(suffixes, "-wal", "-shm")
	}
	ending := ".foreign-" + time.Now().UTC().Format(backupStamp)
	for _, suffix := range suffixes {
		from := path + suffix
		err := os.Rename(from, from+ending)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return moved, err
		}
		moved = append(moved, from+ending)
	}
	if len(moved) == 0 {
		return nil, nil
	}
	return moved, syncDir(filepath.Dir(path))
}

// foreignLog reports whether the log beside path is that of another database.
func foreignLog(path, noted string) (bool, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	wal, err := os.Stat(path + "-wal")
	if err != nil {
		return false, exceptAbsent(err)
	}
	if wal.Size() == 0 {
		return false, nil
	}
	epoch, err := mainEpoch(path)
	if err != nil { // SQLite will say what is wrong, and change nothing
		return false, nil
	}
	if noted == "" {
		return epoch == noEpoch, nil
	}
	return !slices.Contains(strings.Fields(noted), epoch), nil
}

// mainEpoch reads the epoch in the main file, whatever the log says: of an immutable database it is not looked at.
func mainEpoch(path string) (string, error) {
	const query = "SELECT coalesce(max(value), ?) FROM config WHERE key = ?"
	return textOn(dsn(path, "mode", "ro", "immutable", "1"), query, noEpoch, epochKey)
}

// BeginEpoch gives the database a new epoch; noted is what the lock beside it says, and note changes that. It comes
// last in a start, so that a database that is refused stays as it was, and before anything is acked. A crash at any
// line leaves a note that holds the main file's epoch.
func (s *Store) BeginEpoch(noted string, note func(string) error) error {
	before, err := mainEpoch(s.path)
	if err != nil { // a crash has left the main file between two states, of which the log makes one
		before = noted
	}
	s.epoch = newID()
	if err := note(before + " " + s.epoch); err != nil {
		return err
	}
	if err := s.SetConfigValue(epochKey, s.epoch); err != nil {
		return err
	}
	return s.SettleEpoch(note)
}

// SettleEpoch moves the epoch from the log into the main file; from then on it alone is noted. As long as somebody
// reads the database it stays in the log, and both stay noted, so that this is to be called again.
func (s *Store) SettleEpoch(note func(string) error) error {
	if s.epoch == "" {
		return nil
	}
	if _, err := s.read.Exec("PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		return s.failure(err)
	}
	now, err := mainEpoch(s.path)
	if err != nil || now != s.epoch {
		return nil
	}
	s.epoch = ""
	return note(now)
}

// sound is the second look before damage is believed, for a failure may have been the disk's. It reports whether the
// database at path can be read and is whole, and shares nothing with the connection that failed.
func sound(path string) bool {
	verdict, err := textOn(dsn(path, "mode", "ro"), "PRAGMA quick_check(1)")
	return err == nil && verdict == "ok"
}

// upgrade brings an older database to this program's version, each step in one transaction with its version number. So
// a crash leaves one version or the next, and the next start goes on from there.
func upgrade(ctx context.Context, conn *sql.Conn) error {
	const query = "SELECT user_version, journal_mode FROM pragma_user_version, pragma_journal_mode"
	var version int64
	var mode string
	if err := conn.QueryRowContext(ctx, query).Scan(&version, &mode); err != nil {
		return err
	}
	if mode != "wal" {
		const advice = "the file system must support shared memory (not NFS or SMB)"
		return fmt.Errorf("journal mode is %q instead of wal: %s", mode, advice)
	}
	// The header was looked at before; a newer version may still stand in the WAL.
	if err := checkVersion(version); err != nil {
		return err
	}
	for ; version < schemaVersion; version++ {
		step := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", upgrades()[version-1], version+1)
		if _, err := conn.ExecContext(ctx, step); err != nil { // closing the connection rolls it back
			return fmt.Errorf("upgrade to version %d: %w", version+1, err)
		}
	}
	return nil
}

// primaryCode returns SQLite's primary result code of err, 0 if it is none of SQLite's. An extended code has it in its
// low byte: 267, SQLITE_CORRUPT_VTAB, is 11 with a 1 above it.
func primaryCode(err error) int {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return 0
	}
	return e.Code() & 0xff
}

// indexLost reports whether err says that the -shm file was cut short. It is an index of the log: while it is open no
// write can succeed, and the next one to open the database makes it anew.
func indexLost(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqliteInPage
}

// storageError turns an error of the database into one for clients, with what to do about it. An *Error passes through,
// and nil stays nil.
func storageError(err error) error {
	if err == nil || isRefusal(err) {
		return err
	}
	if indexLost(err) {
		return errorf(codeStorageFailed, "daemon.db-shm was cut short by another program, so the daemon ends: %w", err).
			hint("nothing is lost; start it again with: honeydew start")
	}
	full := errorf(codeStorageFull, "the disk is full: %w", err).
		hint("free some space, and run this again")
	// SQLite says the same once more, with its number. What is before that, such as the copy that was to be made,
	// stays: it tells which disk it is.
	full.Message = strings.TrimSuffix(full.Message, ": database or disk is full (13)")
	if errors.Is(err, syscall.ENOSPC) {
		return full
	}
	switch primaryCode(err) {
	case sqliteFull:
		return full
	case sqliteCorrupt, sqliteNotADB:
		return errorf(codeStorageFailed, "the database is damaged: %w", err).
			hint("restore a backup: honeydew stop, copy it over daemon.db, honeydew start")
	case sqliteCantOpen:
		return errorf(codeStorageFailed, "the database's files cannot be opened: %w", err).
			hint("look at the folder's permissions, at the limit of open files (ulimit -n)," +
				" and at the free inodes (df -i)")
	case sqliteBusy:
		return errorf(codeStorageFailed, "another process holds the database: %w", err).
			hint("close the program that writes to daemon.db")
	}
	return errorf(codeStorageFailed, "the database failed: %w", err)
}

// Backup writes a consistent copy of the database to path, which must not exist, and returns its size. The copy gets
// this name when it is whole and on disk; before, it has one that ends in .partial:
//
//	FILE.123.partial   empty, 0600
//	                   VACUUM INTO, while jobs go on
//	                   without the epoch, synced
//	FILE               linked, the folder synced; the first name goes
//
// Whatever fails, the partial file goes too.
func (s *Store) Backup(ctx context.Context, path string) (int64, error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, errBackupExists(path)
	}
	// SQLite would create the copy by the umask; into an existing empty file it writes as it is.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.partial")
	if errors.Is(err, syscall.ENOSPC) {
		return 0, s.failure(err)
	}
	if err != nil {
		return 0, errorf(codeInvalidArgument, "nothing can be written at the path %s: %w", path, errors.Unwrap(err)).
			hint("name a file in a folder that the daemon may write to")
	}
	defer f.Close()
	err = s.copyTo(ctx, f, path)
	if err != nil {
		err = s.failure(fmt.Errorf("copy to %s: %w", path, err))
	}
	if err := errors.Join(err, removeFile(f.Name())); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, s.failure(err)
	}
	return info.Size(), nil
}

// copyTo writes a copy to f, which is empty, syncs it, and gives it its name. The copy has no epoch, so that no log is
// taken for its own.
func (s *Store) copyTo(ctx context.Context, f *os.File, path string) error {
	if err := s.Intact(); err != nil {
		return err
	}
	if err := runOn(ctx, dsn(s.path), "VACUUM INTO ?", f.Name()); err != nil {
		return err
	}
	err := runOn(ctx, dsn(f.Name(), "_journal_mode", "OFF"), "DELETE FROM config WHERE key = ?", epochKey)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return publish(f.Name(), path)
}

// publish gives the file partial its name. By a link, since a rename would replace what came to be there meanwhile.
func publish(partial, path string) error {
	err := os.Link(partial, path)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) { // a file system without links
		err = os.Rename(partial, path)
	}
	if errors.Is(err, fs.ErrExist) {
		return errBackupExists(path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// errBackupExists: a backup never replaces a file.
func errBackupExists(path string) *Error {
	return errorf(codeAlreadyExists, "%s exists already", path).hint("name a file that does not exist")
}

// Newest is the latest time that the database has recorded, zero where it holds no job.
func (s *Store) Newest() (time.Time, error) {
	return readOne(s, nil, scanTime, `SELECT max(coalesce((SELECT created_at FROM jobs ORDER BY seq DESC LIMIT 1), ''),
		coalesce((SELECT max(completed_at) FROM jobs), ''))`)
}

// Size is the space that the database and its log take. A file that cannot be looked at counts as none.
func (s *Store) Size() int64 {
	total := int64(0)
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(s.path + suffix)
		if err == nil {
			total += info.Size()
		}
	}
	return total
}
