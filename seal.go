package main

// Argon2id and AES-GCM, nothing else: what turns tokens into the bytes in the database and back.
//
// Where the key comes from, the first that is there:
//
//	$CREDENTIALS_DIRECTORY/honeydew-passphrase    \
//	$HONEYDEW_PASSPHRASE                           } a passphrase -- Argon2id, 64 MiB, 3 passes --\
//	auth.passphrase_file                          /                                                } AES-256 key
//	the file `key` in the home                       32 random bytes ---- Argon2id, 64 KiB ------/
//
// Salt and costs of either lie in the config table, as kdf.passphrase and kdf.key_file:
//
//	{"salt": "<16 bytes in base64>", "time": 3, "memory_kib": 65536, "threads": 4}
//
// A key that is lost, changed or unreadable locks what was sealed under it: nothing is deleted, so that bringing the
// key back brings the logins back, and the next login starts afresh. The salt stays for the same reason. A key file
// that others may read stops the start, since it has to be taken as known to them.
//
// What is sealed:
//
//	+---------+--------+----------+----------------+--------+
//	| version | source |  nonce   |   ciphertext   |  tag   |
//	| 1 byte  | 1 byte | 12 bytes | as the token   | 16     |
//	+---------+--------+----------+----------------+--------+
//	            'p': passphrase, 'k': key file
//
// and what is bound to it, so that rows and columns cannot be exchanged, nor a login sent to another host:
//
//	honeydew|v2|p|"access"|"<environment's id>"|"<environment's base_url>"
//
// sealer.mu guards the key; it is taken for making a new one, never across a request.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
)

const (
	sealVersion    = 2
	keyFileBytes   = 32 // of AES-256, and of the system key
	saltBytes      = 16
	maxPassphrase  = 4096
	credentialName = "honeydew-passphrase" // what systemd's LoadCredential= has to call the passphrase
)

// source is where a key comes from.
type source byte

const (
	fromPassphrase source = 'p'
	fromKeyFile    source = 'k'
)

// kdf is how a key is derived. It is stored beside what it guards, so that costs can be raised later.
type kdf struct {
	Salt      []byte `json:"salt"`
	Time      uint32 `json:"time"`
	MemoryKiB uint32 `json:"memory_kib"`
	Threads   uint8  `json:"threads"`
}

// newKDF gives the costs for a new key: RFC 9106, section 4, second choice, for what a person chose; next to nothing
// for 32 random bytes, which cannot be guessed at any cost.
func newKDF(from source) kdf {
	k := kdf{
		Salt:      make([]byte, saltBytes),
		Time:      1,
		MemoryKiB: 64,
		Threads:   1,
	}
	if from == fromPassphrase {
		k.Time = 3
		k.MemoryKiB = 64 << 10
		k.Threads = 4
	}
	_, _ = rand.Read(k.Salt) // never fails: crypto/rand
	return k
}

// usable bounds what a tampered row could make us spend, 1 GiB and 20 passes, and what argon2 would panic at. A row
// that is not usable locks the logins as a lost key does.
func (k kdf) usable() bool {
	return len(k.Salt) == saltBytes &&
		k.Time >= 1 && k.Time <= 20 &&
		k.Threads >= 1 && k.Threads <= 16 &&
		k.MemoryKiB >= 8*uint32(k.Threads) && k.MemoryKiB <= 1<<20
}

type sealerOptions struct {
	Home                 string
	CredentialsDirectory string // of systemd, "" elsewhere
	Passphrase           string
	PassphraseFile       string
	Store                *Store
}

// sealer seals and opens tokens. Where its key comes from is settled at the start: a passphrase that turns up later
// does not take the key file's place, nor the other way round.
type sealer struct {
	sealerOptions
	source source
	mu     sync.Mutex
	aead   cipher.AEAD // nil: locked
	locked error       // why
}

// newSealer finds the key. It fails only for what the user must mend before a start; otherwise the sealer is locked.
func newSealer(o sealerOptions) (*sealer, error) {
	s := &sealer{sealerOptions: o, source: fromPassphrase}
	secret, err := s.passphrase()
	if err != nil {
		return nil, err
	}
	if secret == nil {
		s.source = fromKeyFile
		secret, err = s.readKey()
	}
	switch {
	case errors.Is(err, errOpenToOthers):
		return nil, err
	case errors.Is(err, fs.ErrNotExist) && !s.anythingSealed():
		secret, err = createKey(s.keyPath())
	}
	if err == nil {
		s.aead, err = s.derive(secret, false)
	}
	s.locked = err
	return s, nil
}

func (s *sealer) keyPath() string { return filepath.Join(s.Home, "key") }

// readKey reads the key file. One that is too short was cut, by a full disk or an editor, and can be no key of ours.
func (s *sealer) readKey() ([]byte, error) {
	secret, err := readSecret(s.keyPath(), keyFileBytes)
	if err != nil {
		return nil, err
	}
	if len(secret) < keyFileBytes {
		return nil, fmt.Errorf("%s: %d bytes, not %d", s.keyPath(), len(secret), keyFileBytes)
	}
	return secret, nil
}

// anythingSealed reports whether a new key would leave something locked behind. What cannot be read may be.
func (s *sealer) anythingSealed() bool {
	all, err := s.Store.Environments()
	return err != nil || slices.ContainsFunc(all, func(e Environment) bool {
		return e.HasTokens
	})
}

// passphrase is what the user chose, nil if nothing.
func (s *sealer) passphrase() ([]byte, error) {
	if s.CredentialsDirectory != "" {
		// systemd answers for it: the file may be root's, and readable to us through an ACL, which shows as the
		// group's.
		path := filepath.Join(s.CredentialsDirectory, credentialName)
		text, err := readPassphrase(path, 0o007, 0, os.Getuid())
		if !errors.Is(err, fs.ErrNotExist) {
			return text, err
		}
	}
	if s.Passphrase != "" {
		return withoutMark([]byte(s.Passphrase), "HONEYDEW_PASSPHRASE")
	}
	if s.PassphraseFile == "" {
		return nil, nil
	}
	text, err := readPassphrase(s.PassphraseFile, 0o077, os.Getuid())
	if err != nil {
		return nil, fmt.Errorf("auth.passphrase_file: %w", err)
	}
	return text, nil
}

// readPassphrase reads a file without the line ends at its end, which editors put there.
func readPassphrase(path string, others fs.FileMode, owners ...int) ([]byte, error) {
	text, err := readProtected(path, maxPassphrase, others, owners...)
	if err != nil {
		return nil, err
	}
	return withoutMark(bytes.TrimRight(text, "\r\n"), path)
}

// withoutMark is a passphrase without the byte order mark that some editors put in front of a text; nobody types it.
func withoutMark(text []byte, from string) ([]byte, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty (a byte order mark and line ends do not count); fill it, or unset it", from)
	}
	return text, nil
}

var errOpenToOthers = errors.New("the file is open to others")

// readSecret reads a regular file of at most limit bytes that is ours and that only we can read.
func readSecret(path string, limit int) ([]byte, error) {
	return readProtected(path, limit, 0o077, os.Getuid())
}

// readProtected reads a regular file of at most limit bytes. One that belongs to nobody among the owners, or has a mode
// with any of the bits of others, may be known to others, and is refused.
func readProtected(path string, limit int, others fs.FileMode, owners ...int) ([]byte, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened: the name may be another file's by now
	if err != nil {
		return nil, err
	}
	uid, known := ownerOf(info)
	if known && !slices.Contains(owners, uid) {
		return nil, fmt.Errorf("%s belongs to uid %d: %w; copy it, and make the copy yours alone",
			path,
			uid,
			errOpenToOthers)
	}
	mode := info.Mode().Perm()
	if mode&others != 0 && runtime.GOOS != "windows" {
		return nil, errorf(codeFailedPrecondition, "%s has mode %04o: %w", path, mode, errOpenToOthers).
			hint("run: chmod 600 %s", shellQuoted(path))
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if len(text) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return text, err
}

// createKey writes a new system key, to the disk before anything is sealed under it. Nothing that is in the way is
// overwritten: O_EXCL refuses a file that is there, be it empty or another daemon's key, and follows no link, which may
// lead out of the home.
func createKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, keyFileBytes)
	_, _ = rand.Read(secret) // never fails: crypto/rand
	_, err = f.Write(secret)
	err = errors.Join(
		err,
		f.Sync(),
		f.Close(),
		syncDir(filepath.Dir(path)))
	if err != nil {
		return nil, errors.Join(err, os.Remove(path)) // half a key would lock the next start
	}
	return secret, nil
}

// derive makes the cipher of a passphrase or key file. The nonce of each seal is random, 96 bits: by NIST SP 800-38D,
// section 8.3, that does for 2^32 seals under one key, and a login makes two in an hour or so.
func (s *sealer) derive(secret []byte, repair bool) (cipher.AEAD, error) {
	k, err := s.costs(repair)
	if err != nil {
		return nil, err
	}
	key := argon2.IDKey(
		secret,
		k.Salt,
		k.Time,
		k.MemoryKiB,
		k.Threads,
		keyFileBytes)
	debug.FreeOSMemory() // the 64 MiB of the derivation
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// costs are those that are stored, or new ones where there are none. With repair it replaces damaged ones as well;
// sound ones are never replaced, since a former key needs them to open its logins.
func (s *sealer) costs(repair bool) (k kdf, err error) {
	row := "kdf.key_file"
	if s.source == fromPassphrase {
		row = "kdf.passphrase"
	}
	text, err := s.Store.ConfigValue(row)
	if err != nil {
		return k, err
	}
	err = json.Unmarshal([]byte(text), &k)
	if err == nil && k.usable() {
		return k, nil
	}
	if text != "" && !repair {
		return k, fmt.Errorf("the row %s of the config table is damaged", row)
	}
	k = newKDF(s.source)
	encoded, _ := json.Marshal(k) // numbers and bytes alone: it cannot fail
	return k, s.Store.SetConfigValue(row, string(encoded))
}

// sealPlace names an environment to seal and open. Both parts are quoted, so that no two environments have one name.
func sealPlace(env Environment) string { return fmt.Sprintf("%q|%q", env.ID, env.BaseURL) }

// sealContext binds a sealed token to its place. It is not stored: whoever opens the token has to know it.
func sealContext(from source, place, column string) []byte {
	return fmt.Appendf(nil, "honeydew|v%d|%c|%q|%s", sealVersion, from, column, place)
}

// sealHeader is what everything begins with that was sealed under a key from there.
func sealHeader(from source) []byte { return []byte{sealVersion, byte(from)} }

// seal encrypts; a locked sealer gets a new key first. place is sealPlace's.
func (s *sealer) seal(place, column, plain string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil {
		err := s.renewLocked()
		if err != nil {
			return nil, errorf(codeStorageFailed, "no key to encrypt with: %w", err)
		}
	}
	header := sealHeader(s.source)
	bound := sealContext(s.source, place, column)
	return s.aead.Seal(header, nil, []byte(plain), bound), nil
}

// open decrypts what seal made for the same place.
func (s *sealer) open(place, column string, sealed []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil {
		return "", s.locked
	}
	ciphertext, ours := bytes.CutPrefix(sealed, sealHeader(s.source))
	if !ours { // made under the other kind of key, by another version, or by nobody here
		return "", fmt.Errorf("not sealed under a key of kind %q", s.source)
	}
	bound := sealContext(s.source, place, column)
	plain, err := s.aead.Open(nil, nil, ciphertext, bound)
	return string(plain), err
}

// mayReplace fails where sealed was made under a passphrase and this daemon has none: what the user chose to protect
// must not come to lie under a plain key file because a setting got lost.
func (s *sealer) mayReplace(environment string, sealed []byte) error {
	if s.source == fromPassphrase || !bytes.HasPrefix(sealed, sealHeader(fromPassphrase)) {
		return nil
	}
	return errorf(codeFailedPrecondition, noPassphrase).hint("%s", findPassphrase(environment))
}

// renewLocked finds or makes a key that can be used. Its caller must hold mu, and must not seal if it fails. Whatever
// the former key has sealed stays locked, and stays where it is, until that key is back or a login replaces it.
func (s *sealer) renewLocked() error {
	renew := s.renewKey
	if s.source == fromPassphrase {
		renew = s.passphrase
	}
	secret, err := renew()
	if err != nil {
		return err
	}
	if secret == nil {
		return errors.New("the passphrase that was there at the start is gone")
	}
	s.aead, s.locked = s.derive(secret, true)
	return s.locked
}

// renewKey is the key file's key, which may be back, or a new one. An unusable file is kept under another name: it may
// be a good key for somebody who can mend it.
func (s *sealer) renewKey() ([]byte, error) {
	secret, err := s.readKey()
	if err == nil {
		return secret, nil
	}
	aside := s.keyPath() + ".unusable-" + time.Now().UTC().Format("20060102T150405.000")
	err = exceptAbsent(os.Rename(s.keyPath(), aside))
	if err != nil {
		return nil, err
	}
	return createKey(s.keyPath())
}
