package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// makeFIFO calls the program, since syscall.Mkfifo does not build everywhere.
func makeFIFO(path string) error { return exec.Command("mkfifo", "-m", "600", path).Run() }

func openTestSealer(t testing.TB, o sealerOptions) *sealer {
	t.Helper()
	s, err := newSealer(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sealed seals plain, or ends the test.
func sealed(t testing.TB, s *sealer, envID, column, plain string) []byte {
	t.Helper()
	out, err := s.seal(envID, column, plain)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantOpens(t testing.TB, s *sealer, text []byte, want string) {
	t.Helper()
	if got, err := s.open("env", "access", text); err != nil || got != want {
		t.Errorf("opened as %q (%v), want %q", got, err, want)
	}
}

func wantLocked(t testing.TB, s *sealer, text []byte) {
	t.Helper()
	if got, err := s.open("env", "access", text); err == nil {
		t.Errorf("opened as %q", got)
	}
}

// testLogin stores a login, so that the database holds something sealed.
func testLogin(t testing.TB, store *Store, s *sealer) (envID string, access []byte) {
	t.Helper()
	env, err := store.Environment("")
	if err != nil {
		t.Fatal(err)
	}
	access = sealed(t, s, "env", "access", "t0ken")
	if err := store.SaveTokens(TokenRow{EnvironmentID: env.ID, Username: "u", Access: access}, true); err != nil {
		t.Fatal(err)
	}
	return env.ID, access
}

func TestFirstStartMakesAKeyForTheOwnerAlone(t *testing.T) {
	home, store := t.TempDir(), openTestStore(t)
	s := openTestSealer(t, sealerOptions{Home: home, Store: store})
	info, err := os.Lstat(filepath.Join(home, "key"))
	if err != nil || info.Mode() != 0o600 || info.Size() != 32 {
		t.Fatalf("%v, %v", info, err)
	}
	text := sealed(t, s, "env", "access", "t0ken")
	if bytes.Contains(text, []byte("t0ken")) {
		t.Error("sealed in the clear")
	}
	wantOpens(t, s, text, "t0ken")
	wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), text, "t0ken")
	wantOpens(t, s, sealed(t, s, "env", "access", ""), "")
	if bytes.Equal(text, sealed(t, s, "env", "access", "t0ken")) {
		t.Error("the same nonce twice")
	}
}

func TestKeyIsNeverWrittenOverWhatIsThere(t *testing.T) {
	home := t.TempDir()
	target := filepath.Join(home, "elsewhere")
	if err := os.Symlink(target, filepath.Join(home, "key")); err != nil {
		t.Fatal(err)
	}
	s := openTestSealer(t, sealerOptions{Home: home, Store: openTestStore(t)})
	wantLocked(t, s, nil)
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key went through a dangling link: %v", err)
	}
	for _, there := range []string{"", "something"} {
		path := putFile(t, t.TempDir(), "key", there)
		if _, err := createKey(path); !errors.Is(err, fs.ErrExist) {
			t.Errorf("over %q: %v", there, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != there {
			t.Errorf("%q became %q (%v)", there, text, err)
		}
	}
}

func TestKeyOpenToOthersStopsTheStart(t *testing.T) {
	store := openTestStore(t)
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o620, 0o601} {
		home := t.TempDir()
		path := filepath.Join(home, "key")
		openTestSealer(t, sealerOptions{Home: home, Store: store})
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := newSealer(sealerOptions{Home: home, Store: store})
		e, _ := asError(err)
		if !errors.Is(err, errOpenToOthers) || e.Hint != "run: chmod 600 "+shellQuoted(path) {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}

func TestLostKeyLocksAndDeletesNothing(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"missing":      os.Remove,
		"too short":    func(path string) error { return os.WriteFile(path, make([]byte, 31), 0o600) },
		"too long":     func(path string) error { return os.WriteFile(path, make([]byte, 33), 0o600) },
		"empty":        func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a directory":  func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"a named pipe": func(path string) error { return errors.Join(os.Remove(path), makeFIFO(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			home, store := t.TempDir(), openTestStore(t)
			path := filepath.Join(home, "key")
			envID, access := testLogin(t, store, openTestSealer(t, sealerOptions{Home: home, Store: store}))
			key, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			before := listDir(t, home)
			wantLocked(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), access)
			if row, err := store.Tokens(envID); err != nil || !bytes.Equal(row.Access, access) {
				t.Errorf("the tokens changed: %v", err)
			}
			wantDir(t, home, before...)

			// Bringing the key back brings the login back.
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, key, 0o600); err != nil {
				t.Fatal(err)
			}
			wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), access, "t0ken")
		})
	}
}

func TestNextSealAfterALostKeyStartsAfresh(t *testing.T) {
	for name, content := range map[string]string{"missing": "", "unusable": "not a key"} {
		home, store := t.TempDir(), openTestStore(t)
		path := filepath.Join(home, "key")
		_, old := testLogin(t, store, openTestSealer(t, sealerOptions{Home: home, Store: store}))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if content != "" {
			putFile(t, home, "key", content)
		}
		s := openTestSealer(t, sealerOptions{Home: home, Store: store})
		text := sealed(t, s, "env", "access", "new")
		wantOpens(t, s, text, "new")
		wantLocked(t, s, old)
		wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), text, "new")
		kept, err := filepath.Glob(path + ".unusable-*")
		if want := min(len(content), 1); err != nil || len(kept) != want {
			t.Fatalf("%s: kept %q, want %d", name, kept, want)
		}
		for _, k := range kept {
			if got, err := os.ReadFile(k); err != nil || string(got) != content {
				t.Errorf("kept %q (%v)", got, err)
			}
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 || info.Size() != 32 {
			t.Errorf("%s: the new key is %v (%v)", name, info, err)
		}
	}
}

func TestPassphraseReplacesTheKeyFile(t *testing.T) {
	home, store := t.TempDir(), openTestStore(t)
	s := openTestSealer(t, sealerOptions{Home: home, Store: store, Passphrase: "correct horse"})
	text := sealed(t, s, "env", "access", "t0ken")
	wantDir(t, home)
	if text[0] != 2 || text[1] != 'p' {
		t.Errorf("it begins with %q", text[:2])
	}
	// From a file, its last line ends do not count; the option goes before the file.
	for _, content := range []string{"correct horse", "correct horse\n", "correct horse\r\n"} {
		file := putFile(t, t.TempDir(), "pass", content)
		wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store, PassphraseFile: file}), text, "t0ken")
	}
	other := putFile(t, t.TempDir(), "pass", "battery staple")
	wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store, Passphrase: "correct horse", PassphraseFile: other}), text, "t0ken")

	changed := openTestSealer(t, sealerOptions{Home: home, Store: store, PassphraseFile: other})
	wantLocked(t, changed, text)
	wantOpens(t, changed, sealed(t, changed, "env", "access", "new"), "new")
	wantLocked(t, openTestSealer(t, sealerOptions{Home: home, Store: store, Passphrase: " correct horse"}), text)
}

func TestPassphraseComesFromTheFirstSourceThatIsThere(t *testing.T) {
	credentials, elsewhere := t.TempDir(), t.TempDir()
	putFile(t, credentials, credentialName, "\ufefffrom systemd\n")
	file := putFile(t, t.TempDir(), "pass", "\ufefffrom the file\r\n")
	tests := []struct {
		o    sealerOptions
		want string
	}{
		{sealerOptions{CredentialsDirectory: credentials, Passphrase: "from the variable", PassphraseFile: file}, "from systemd"},
		{sealerOptions{CredentialsDirectory: elsewhere, Passphrase: "\ufefffrom the variable", PassphraseFile: file}, "from the variable"},
		{sealerOptions{CredentialsDirectory: elsewhere, PassphraseFile: file}, "from the file"},
		{sealerOptions{PassphraseFile: file}, "from the file"},
	}
	for _, test := range tests {
		test.o.Home, test.o.Store = t.TempDir(), openTestStore(t)
		s := openTestSealer(t, test.o)
		if got, err := s.passphrase(); err != nil || string(got) != test.want || s.source != fromPassphrase {
			t.Errorf("%+v: %q (%v), want %q", test.o, got, err, test.want)
		}
		wantDir(t, test.o.Home)
	}
	s := openTestSealer(t, sealerOptions{Home: t.TempDir(), CredentialsDirectory: elsewhere, Store: openTestStore(t)})
	if s.source != fromKeyFile {
		t.Errorf("without a passphrase the key is of kind %q", s.source)
	}

	// systemd may hand a credential on by an ACL, which shows as the group's.
	path := filepath.Join(credentials, credentialName)
	o := sealerOptions{Home: t.TempDir(), CredentialsDirectory: credentials, Store: openTestStore(t)}
	for mode, refused := range map[fs.FileMode]bool{0o400: false, 0o440: false, 0o444: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := newSealer(o); errors.Is(err, errOpenToOthers) != refused {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	for name, o := range map[string]sealerOptions{
		"credential": {CredentialsDirectory: filepath.Dir(putFile(t, t.TempDir(), credentialName, "\ufeff\n"))},
		"variable":   {Passphrase: "\ufeff"},
		"file":       {PassphraseFile: putFile(t, t.TempDir(), "pass", "\ufeff")},
	} {
		o.Home, o.Store = t.TempDir(), openTestStore(t)
		if _, err := newSealer(o); err == nil || !strings.Contains(err.Error(), "is empty") {
			t.Errorf("an empty %s: %v", name, err)
		}
	}
}

func TestPassphraseThatIsGoneIsNoEmptyOne(t *testing.T) {
	credentials, store := t.TempDir(), openTestStore(t)
	path := putFile(t, credentials, credentialName, "correct horse")
	if err := store.SetConfigValue("kdf.passphrase", "damaged"); err != nil {
		t.Fatal(err)
	}
	s := openTestSealer(t, sealerOptions{Home: t.TempDir(), CredentialsDirectory: credentials, Store: store})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.seal("env", "access", "t0ken"); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("sealed under an empty passphrase: %v", err)
	}
}

func TestKeyThatComesBackOpensItsLogins(t *testing.T) {
	home, store := t.TempDir(), openTestStore(t)
	path := filepath.Join(home, "key")
	_, old := testLogin(t, store, openTestSealer(t, sealerOptions{Home: home, Store: store}))
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	// Another environment logs in meanwhile.
	s := openTestSealer(t, sealerOptions{Home: home, Store: store})
	text := sealed(t, s, "env", "access", "new")
	wantLocked(t, s, old)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	s = openTestSealer(t, sealerOptions{Home: home, Store: store})
	wantOpens(t, s, old, "t0ken")
	wantLocked(t, s, text)
}

func TestKeyThatIsBackBeforeTheNextLoginIsUsed(t *testing.T) {
	home, store := t.TempDir(), openTestStore(t)
	path := filepath.Join(home, "key")
	_, old := testLogin(t, store, openTestSealer(t, sealerOptions{Home: home, Store: store}))
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	s := openTestSealer(t, sealerOptions{Home: home, Store: store})
	wantLocked(t, s, old)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	sealed(t, s, "env", "access", "new")
	wantOpens(t, s, old, "t0ken")
	wantDir(t, home, "key")
}

func TestSealedTokenIsBoundToTheHostToo(t *testing.T) {
	s := openTestSealer(t, sealerOptions{Home: t.TempDir(), Store: openTestStore(t)})
	env := Environment{ID: "e", BaseURL: "https://api.example.test/"}
	text := sealed(t, s, sealPlace(env), "access", "t0ken")
	if got, err := s.open(sealPlace(env), "access", text); err != nil || got != "t0ken" {
		t.Fatalf("%q, %v", got, err)
	}
	for _, other := range []Environment{
		{ID: "e", BaseURL: "https://evil.example.test/"},
		{ID: "e2", BaseURL: env.BaseURL},
		{ID: `e"|"https://api`, BaseURL: ".example.test/"},
		{ID: "e", BaseURL: ""},
	} {
		if got, err := s.open(sealPlace(other), "access", text); err == nil {
			t.Errorf("opened for %+v as %q", other, got)
		}
	}
}

func TestUnusablePassphraseFileStopsTheStart(t *testing.T) {
	dir, store := t.TempDir(), openTestStore(t)
	pipe := filepath.Join(dir, "pipe")
	if err := makeFIFO(pipe); err != nil {
		t.Fatal(err)
	}
	loose := putFile(t, dir, "loose", "x")
	if err := os.Chmod(loose, 0o640); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"):                      "no such file",
		putFile(t, dir, "empty", ""):                       "is empty",
		putFile(t, dir, "lines", "\r\n\n"):                 "is empty",
		putFile(t, dir, "long", strings.Repeat("x", 4097)): "longer than 4096 bytes",
		loose: loose + " has mode 0640: the file is open to others",
		dir:   "not a regular file",
		pipe:  "not a regular file",
	} {
		s, err := newSealer(sealerOptions{Home: t.TempDir(), Store: store, PassphraseFile: path})
		if err == nil || s != nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "auth.passphrase_file") {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestEveryDatabaseHasItsOwnSalt(t *testing.T) {
	var salts []string
	for _, o := range []sealerOptions{{}, {}, {Passphrase: "same"}, {Passphrase: "same"}} {
		o.Home, o.Store = t.TempDir(), openTestStore(t)
		openTestSealer(t, o)
		row := "kdf.key_file"
		if o.Passphrase != "" {
			row = "kdf.passphrase"
		}
		text, err := o.Store.ConfigValue(row)
		var k kdf
		if err != nil || json.Unmarshal([]byte(text), &k) != nil || !k.usable() || len(k.Salt) != 16 {
			t.Fatalf("%s: %q (%v)", row, text, err)
		}
		if o.Passphrase != "" && (k.Time != 3 || k.MemoryKiB != 64<<10 || k.Threads != 4) {
			t.Errorf("a passphrase is guarded by %+v", k)
		}
		salts = append(salts, string(k.Salt))
	}
	slices.Sort(salts)
	if n := len(slices.Compact(salts)); n != 4 {
		t.Errorf("%d salts in 4 databases", n)
	}
}

func TestTamperedCostsLockWithoutBeingPaid(t *testing.T) {
	home, store := t.TempDir(), openTestStore(t)
	_, access := testLogin(t, store, openTestSealer(t, sealerOptions{Home: home, Store: store}))
	const salt = `"salt":"AAAAAAAAAAAAAAAAAAAAAA=="`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for _, row := range []string{`null`, `{}`, `[]`, `{`, `x`,
		`{` + salt + `,"time":0,"memory_kib":64,"threads":1}`, `{` + salt + `,"time":1,"memory_kib":64,"threads":0}`,
		`{` + salt + `,"time":4294967295,"memory_kib":64,"threads":1}`, `{` + salt + `,"time":21,"memory_kib":64,"threads":1}`,
		`{` + salt + `,"time":1,"memory_kib":4294967295,"threads":1}`, `{` + salt + `,"time":1,"memory_kib":1048577,"threads":1}`,
		`{` + salt + `,"time":1,"memory_kib":0,"threads":1}`, `{` + salt + `,"time":1,"memory_kib":64,"threads":255}`,
		`{` + salt + `,"time":1,"memory_kib":4096,"threads":17}`,
		`{` + salt + `,"time":1,"memory_kib":64,"threads":256}`, `{` + salt + `,"time":-1,"memory_kib":64,"threads":1}`,
		`{"salt":"","time":1,"memory_kib":64,"threads":1}`, `{"salt":"AAAA","time":1,"memory_kib":64,"threads":1}`,
	} {
		if err := store.SetConfigValue("kdf.key_file", row); err != nil {
			t.Fatal(err)
		}
		s := openTestSealer(t, sealerOptions{Home: home, Store: store})
		wantLocked(t, s, access)
		if s.aead != nil {
			t.Errorf("%s was taken", row)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 || time.Since(begin) > 10*time.Second {
		t.Errorf("it took %d MiB and %s", used>>20, time.Since(begin))
	}
	// With a damaged row a login starts afresh, under a new key.
	s := openTestSealer(t, sealerOptions{Home: home, Store: store})
	text := sealed(t, s, "env", "access", "new")
	wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), text, "new")
}

func TestOldCostsStayUsable(t *testing.T) {
	home, store := t.TempDir(), openTestStore(t)
	if err := store.SetConfigValue("kdf.key_file", `{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","time":2,"memory_kib":128,"threads":2}`); err != nil {
		t.Fatal(err)
	}
	text := sealed(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), "env", "access", "t0ken")
	wantOpens(t, openTestSealer(t, sealerOptions{Home: home, Store: store}), text, "t0ken")
	if row, err := store.ConfigValue("kdf.key_file"); err != nil || !strings.Contains(row, `"time":2`) {
		t.Errorf("the costs became %s (%v)", row, err)
	}
}

func TestSealedTokenOpensOnlyWholeAndInItsPlace(t *testing.T) {
	s := openTestSealer(t, sealerOptions{Home: t.TempDir(), Store: openTestStore(t)})
	text := sealed(t, s, "env", "access", "t0ken")
	for i := range text {
		for bit := range 8 {
			bad := bytes.Clone(text)
			bad[i] ^= 1 << bit
			wantLocked(t, s, bad)
		}
	}
	for n := range text {
		wantLocked(t, s, text[:n])
		wantLocked(t, s, text[n+1:])
	}
	wantLocked(t, s, append(bytes.Clone(text), 0))
	wantLocked(t, s, nil)
	for _, place := range [][2]string{{"env", "refresh"}, {"env2", "access"}, {"", "access"}, {"env", ""}, {"", "access|env"}, {"access", "env"}} {
		if got, err := s.open(place[0], place[1], text); err == nil {
			t.Errorf("opened in %q as %q", place, got)
		}
	}
	wantOpens(t, s, text, "t0ken") // after all that
	other := openTestSealer(t, sealerOptions{Home: t.TempDir(), Store: openTestStore(t)})
	wantLocked(t, other, text)
}

func FuzzSealedToken(f *testing.F) {
	s := openTestSealer(f, sealerOptions{Home: f.TempDir(), Store: openTestStore(f)})
	genuine := sealed(f, s, "env", "access", "t0ken")
	f.Add([]byte(nil), uint(0), byte(1), "env", "access")
	f.Add([]byte{1}, uint(5), byte(0), "env", "refresh")
	f.Add(bytes.Repeat([]byte{1}, 29), uint(1), byte(0xff), "env", "access")
	f.Fuzz(func(t *testing.T, text []byte, at uint, flip byte, envID, column string) {
		if got, err := s.open(envID, column, text); err == nil {
			t.Fatalf("%x opened as %q", text, got)
		}
		bad := append(bytes.Clone(genuine), text...)
		bad[at%uint(len(bad))] ^= flip
		if _, err := s.open(envID, column, bad); (err == nil) != (bytes.Equal(bad, genuine) && envID == "env" && column == "access") {
			t.Fatalf("%x in %q, %q: %v", bad, envID, column, err)
		}
		// Whatever is sealed opens again, there and nowhere else.
		own, err := s.seal(envID, column, fmt.Sprint(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.open(envID, column, own); err != nil || got != fmt.Sprint(text) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}
