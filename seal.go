package main

// Argon2id and AES-GCM, nothing else: what turns tokens into the bytes in the database and back.
//
// The key comes from HONEYDEW_PASSPHRASE, else auth.passphrase_file, else the file `key` in the home, 32 random bytes.
// A key that is lost, changed or unreadable locks what was sealed under it: nothing is deleted, so that bringing the
// key back brings the logins back, and the next login starts afresh. A key file that others may read stops the start,
// since it has to be taken as known to them.
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
	sealVersion   = 1  // first byte of everything sealed
	keyFileBytes  = 32 // of AES-256, and of the system key
	saltBytes     = 16
	maxPassphrase = 4096
)

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
	Home, Passphrase, PassphraseFile string
	Store                            *Store
}

// sealer seals and opens tokens.
type sealer struct {
	sealerOptions
	mu     sync.Mutex
	aead   cipher.AEAD // nil: locked
	locked error       // why
}

// newSealer finds the key. It fails only for what the user must mend before a start; otherwise the sealer is locked.
func newSealer(o sealerOptions) (*sealer, error) {
	s := &sealer{sealerOptions: o}
	secret, err := s.passphrase()
	if err != nil {
		return nil, err
	}
	if !s.chosen() {
		secret, err = readSecret(s.keyPath(), keyFileBytes)
		switch {
		case errors.Is(err, errOpenToOthers):
			return nil, err
		case errors.Is(err, fs.ErrNotExist) && !s.anythingSealed():
			secret, err = createKey(s.keyPath())
		case err == nil && len(secret) < keyFileBytes:
			err = fmt.Errorf("%s: %d bytes, not %d", s.keyPath(), len(secret), keyFileBytes)
		}
	}
	if err == nil {
		s.aead, err = s.derive(secret, false)
	}
	s.locked = err
	return s, nil
}

func (s *sealer) keyPath() string { return filepath.Join(s.Home, "key") }

// chosen reports whether the user chose a passphrase, so that there is no key file.
func (s *sealer) chosen() bool { return s.Passphrase != "" || s.PassphraseFile != "" }

// anythingSealed reports whether a new key would leave something locked behind.
func (s *sealer) anythingSealed() bool {
	all, err := s.Store.Environments()
	return err != nil || slices.ContainsFunc(all, func(e Environment) bool { return e.HasTokens })
}

// passphrase is what the user chose, empty if nothing.
func (s *sealer) passphrase() ([]byte, error) {
	if s.Passphrase != "" || s.PassphraseFile == "" {
		return []byte(s.Passphrase), nil
	}
	text, err := readSecret(s.PassphraseFile, maxPassphrase)
	if text = bytes.TrimRight(text, "\r\n"); err == nil && len(text) == 0 {
		err = fmt.Errorf("%s is empty", s.PassphraseFile)
	}
	if err != nil {
		return nil, fmt.Errorf("auth.passphrase_file: %w", err)
	}
	return text, nil
}

var errOpenToOthers = errors.New("the file is open to others")

// readSecret reads a regular file of at most limit bytes that only we can read.
func readSecret(path string, limit int) ([]byte, error) {
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
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case known && uid != os.Getuid():
		return nil, fmt.Errorf("%s belongs to uid %d: %w; copy it, and make the copy yours alone", path, uid, errOpenToOthers)
	case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
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

// derive makes the cipher, with the costs that are stored or, where there are none or fresh is set, new ones.
func (s *sealer) derive(secret []byte, fresh bool) (cipher.AEAD, error) {
	row := "kdf.key_file"
	if s.chosen() {
		row = "kdf.passphrase"
	}
	text, err := s.Store.ConfigValue(row)
	if err != nil {
		return nil, err
	}
	var k kdf
	if text == "" || fresh {
		k = newKDF(s.chosen())
		encoded, _ := json.Marshal(k) // numbers and bytes alone: it cannot fail
		if err := s.Store.SetConfigValue(row, string(encoded)); err != nil {
			return nil, err
		}
	} else if err := json.Unmarshal([]byte(text), &k); err != nil || !k.usable() {
		return nil, fmt.Errorf("the row %s of the config table is damaged", row)
	}
	key := argon2.IDKey(secret, k.Salt, k.Time, k.MemoryKiB, k.Threads, keyFileBytes)
	if s.chosen() {
		debug.FreeOSMemory() // the 64 MiB of the derivation
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealContext binds a sealed token to its place, so that rows and columns cannot be exchanged.
func sealContext(envID, column string) []byte {
	return fmt.Appendf(nil, "honeydew|v%d|%s|%s", sealVersion, column, envID)
}

// seal encrypts; a locked sealer gets a new key first.
func (s *sealer) seal(envID, column, plain string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil {
		if err := s.renewLocked(); err != nil {
			return nil, fmt.Errorf("no key to encrypt with: %w", err)
		}
	}
	return s.aead.Seal([]byte{sealVersion}, nil, []byte(plain), sealContext(envID, column)), nil
}

// renewLocked starts afresh; an unusable key file is kept under another name.
func (s *sealer) renewLocked() error {
	secret, err := s.passphrase()
	if !s.chosen() {
		err = os.Rename(s.keyPath(), s.keyPath()+".unusable-"+time.Now().UTC().Format("20060102T150405.000"))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			secret, err = createKey(s.keyPath())
		}
	}
	if err != nil {
		return err
	}
	s.aead, s.locked = s.derive(secret, true)
	return s.locked
}

// open decrypts what seal made for the same place.
func (s *sealer) open(envID, column string, sealed []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead == nil {
		return "", s.locked
	}
	if len(sealed) < 1+s.aead.Overhead() || sealed[0] != sealVersion {
		return "", errors.New("not a sealed token")
	}
	plain, err := s.aead.Open(nil, nil, sealed[1:], sealContext(envID, column))
	return string(plain), err
}
