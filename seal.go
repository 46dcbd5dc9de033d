package main

// Argon2id and AES-GCM, nothing else: what turns tokens into the bytes in the database and back.
//
// The key comes from a passphrase: systemd's credential honeydew-passphrase, else HONEYDEW_PASSPHRASE, else
// auth.passphrase_file. Without any of these it comes from the file `key` in the home, 32 random bytes.
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
	"syscall"
	"time"

	"golang.org/x/crypto/argon2"
)

const (
	sealVersion   = 2
	keyFileBytes  = 32 // of AES-256, and of the system key
	saltBytes     = 16
	maxPassphrase = 4096
)

// source is where a key comes from; it is the second byte of everything sealed.
type source byte

const (
	fromPassphrase source = 'p'
	fromKeyFile    source = 'k'
)

// credentialName is what systemd's LoadCredential= has to call the passphrase.
const credentialName = "honeydew-passphrase"

// kdf is how a key is derived, kept in the config table so that costs can be raised later.
type kdf struct {
	Salt      []byte `json:"salt"`
	Time      uint32 `json:"time"`
	MemoryKiB uint32 `json:"memory_kib"`
	Threads   uint8  `json:"threads"`
}

// newKDF gives the costs for a new key: RFC 9106, section 4, second choice, for what a person chose; next to nothing
// for 32 random bytes, which cannot be guessed at any cost.
func newKDF(passphrase bool) kdf {
	k := kdf{Salt: make([]byte, saltBytes), Time: 1, MemoryKiB: 64, Threads: 1}
	if passphrase {
		k.Time, k.MemoryKiB, k.Threads = 3, 64<<10, 4
	}
	_, _ = rand.Read(k.Salt) // never fails: crypto/rand
	return k
}

// usable bounds what a tampered row could make us spend, and what argon2 would panic at.
func (k kdf) usable() bool {
	return len(k.Salt) == saltBytes && k.Time >= 1 && k.Time <= 20 && k.Threads >= 1 && k.Threads <= 16 &&
		k.MemoryKiB >= 8*uint32(k.Threads) && k.MemoryKiB <= 1<<20
}

type sealerOptions struct {
	Home                 string
	CredentialsDirectory string // of systemd, "" elsewhere
	Passphrase           string
	PassphraseFile       string
	Store                *Store
}

// sealer seals and opens tokens.
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
		switch {
		case errors.Is(err, errOpenToOthers):
			return nil, err
		case errors.Is(err, fs.ErrNotExist) && !s.anythingSealed():
			secret, err = createKey(s.keyPath())
		}
	}
	if err == nil {
		s.aead, err = s.derive(secret, false)
	}
	s.locked = err
	return s, nil
}

func (s *sealer) keyPath() string { return filepath.Join(s.Home, "key") }

// readKey reads the key file.
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

// anythingSealed reports whether a new key would leave something locked behind.
func (s *sealer) anythingSealed() bool {
	all, err := s.Store.Environments()
	return err != nil || slices.ContainsFunc(all, func(e Environment) bool { return e.HasTokens })
}

// passphrase is what the user chose, nil if nothing.
func (s *sealer) passphrase() ([]byte, error) {
	credential := filepath.Join(s.CredentialsDirectory, credentialName)
	if s.CredentialsDirectory != "" {
		text, err := readPassphrase(credential, systemSecret)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return text, err
		}
	}
	if s.Passphrase != "" {
		text := bytes.TrimPrefix([]byte(s.Passphrase), []byte(byteOrderMark))
		if len(text) == 0 {
			return nil, errors.New("HONEYDEW_PASSPHRASE is empty but for a byte order mark; set it, or unset it")
		}
		return text, nil
	}
	if s.PassphraseFile == "" {
		return nil, nil
	}
	text, err := readPassphrase(s.PassphraseFile, ownSecret)
	if err != nil {
		return nil, fmt.Errorf("auth.passphrase_file: %w", err)
	}
	return text, nil
}

// byteOrderMark is what some editors put in front of a text; nobody types it into a passphrase.
const byteOrderMark = "\ufeff"

// readPassphrase reads a file without its byte order mark and the line ends at its end.
func readPassphrase(path string, protection protection) ([]byte, error) {
	text, err := readProtected(path, maxPassphrase, protection)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, []byte(byteOrderMark))
	text = bytes.TrimRight(text, "\r\n")
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

// protection says who answers for the permissions of a secret's file.
type protection int

const (
	ownSecret    protection = iota // we do: it must be ours, and nobody else's
	systemSecret                   // systemd does: the file may be root's, and readable to us through an ACL
)

var errOpenToOthers = errors.New("the file is open to others")

// readSecret reads a regular file of at most limit bytes that only we can read.
func readSecret(path string, limit int) ([]byte, error) {
	return readProtected(path, limit, ownSecret)
}

func readProtected(path string, limit int, protection protection) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a named pipe must not hold up the start
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	uid, known := ownerOf(info)
	others := fs.FileMode(0o077)
	if protection == systemSecret {
		others = 0o007
		known = known && uid != 0
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case known && uid != os.Getuid():
		return nil, fmt.Errorf("%s belongs to uid %d: %w; copy it, and make the copy yours alone", path, uid, errOpenToOthers)
	case info.Mode().Perm()&others != 0 && runtime.GOOS != "windows":
		return nil, fmt.Errorf("%s has mode %04o: %w; run: chmod 600 %s", path, info.Mode().Perm(), errOpenToOthers, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if len(text) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return text, err
}

// createKey writes a new system key, to the disk before anything is sealed under it. Nothing that is in the way is
// overwritten.
func createKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, keyFileBytes)
	_, _ = rand.Read(secret) // never fails: crypto/rand
	_, err = f.Write(secret)
	if err = errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return secret, nil
}

// derive makes the cipher, with the salt and costs that are stored, or new ones where there are none. With repair it
// replaces damaged ones as well; sound ones are never replaced, since a former key needs them to open its logins.
func (s *sealer) derive(secret []byte, repair bool) (cipher.AEAD, error) {
	row := "kdf.key_file"
	if s.source == fromPassphrase {
		row = "kdf.passphrase"
	}
	text, err := s.Store.ConfigValue(row)
	if err != nil {
		return nil, err
	}
	var k kdf
	sound := json.Unmarshal([]byte(text), &k) == nil && k.usable()
	if !sound && text != "" && !repair {
		return nil, fmt.Errorf("the row %s of the config table is damaged", row)
	}
	if !sound {
		k = newKDF(s.source == fromPassphrase)
		encoded, _ := json.Marshal(k) // numbers and bytes alone: it cannot fail
		if err := s.Store.SetConfigValue(row, string(encoded)); err != nil {
			return nil, err
		}
	}
	key := argon2.IDKey(secret, k.Salt, k.Time, k.MemoryKiB, k.Threads, keyFileBytes)
	if s.source == fromPassphrase {
		debug.FreeOSMemory() // the 64 MiB of the derivation
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealPlace names an environment to seal and open.
func sealPlace(env Environment) string { return fmt.Sprintf("%q|%q", env.ID, env.BaseURL) }

// sealContext binds a sealed token to its place.
func sealContext(from source, place, column string) []byte {
	return fmt.Appendf(nil, "honeydew|v%d|%c|%q|%s", sealVersion, from, column, place)
}

// seal encrypts; a locked sealer gets a new key first. place is sealPlace's.
func (s *sealer) seal(place, column, plain string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil {
		if err := s.renewLocked(); err != nil {
			return nil, fmt.Errorf("no key to encrypt with: %w", err)
		}
	}
	header := []byte{sealVersion, byte(s.source)}
	return s.aead.Seal(header, nil, []byte(plain), sealContext(s.source, place, column)), nil
}

// mayReplace fails where sealed was made under a passphrase and this daemon has none: what the user chose to protect
// must not come to lie under a plain key file because a setting got lost.
func (s *sealer) mayReplace(sealed []byte) error {
	if s.source == fromPassphrase || !sealedUnderPassphrase(sealed) {
		return nil
	}
	return errorf(codeFailedPrecondition, "the stored login was made under a passphrase, and this daemon has none").
		hint("restart it with the passphrase, in HONEYDEW_PASSPHRASE or auth.passphrase_file; " +
			"or give that login up with: honeydew logout")
}

func sealedUnderPassphrase(sealed []byte) bool {
	return len(sealed) > 1 && sealed[0] == sealVersion && source(sealed[1]) == fromPassphrase
}

// renewLocked finds or makes a key that can be used. An unusable key file is kept under another name.
func (s *sealer) renewLocked() error {
	secret, err := s.passphrase()
	if s.source == fromKeyFile {
		secret, err = s.renewKey()
	}
	if err != nil {
		return err
	}
	if secret == nil {
		return errors.New("the passphrase that was there at the start is gone")
	}
	s.aead, s.locked = s.derive(secret, true)
	return s.locked
}

// renewKey is the key file's key, which may be back, or a new one.
func (s *sealer) renewKey() ([]byte, error) {
	secret, err := s.readKey()
	if err == nil {
		return secret, nil
	}
	err = os.Rename(s.keyPath(), s.keyPath()+".unusable-"+time.Now().UTC().Format("20060102T150405.000"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return createKey(s.keyPath())
}

// open decrypts what seal made for the same place.
func (s *sealer) open(place, column string, sealed []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil {
		return "", s.locked
	}
	if len(sealed) < 2+s.aead.Overhead() || sealed[0] != sealVersion {
		return "", errors.New("not a sealed token")
	}
	if source(sealed[1]) != s.source {
		return "", fmt.Errorf("sealed under a key of kind %q, and this one is of kind %q", sealed[1], s.source)
	}
	plain, err := s.aead.Open(nil, nil, sealed[2:], sealContext(s.source, place, column))
	return string(plain), err
}
