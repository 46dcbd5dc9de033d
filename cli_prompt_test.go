//go:build linux

package main

// The prompts at a terminal, and reads that nobody feeds.

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/term"
)

// testTerminal is both ends of a pseudo terminal: a person's, and a program's.
func testTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here:", err)
	}
	t.Cleanup(func() { person.Close() })
	var number, unlocked uint32
	ioctl := func(request uintptr, value *uint32) {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), request, uintptr(unsafe.Pointer(value)))
		if errno != 0 {
			t.Fatal(errno)
		}
	}
	ioctl(syscall.TIOCSPTLCK, &unlocked)
	ioctl(syscall.TIOCGPTN, &number)
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// awaitPrompt reads what the program shows, up to the prompt.
func awaitPrompt(t *testing.T, person *os.File, prompt string) {
	t.Helper()
	shown := bufio.NewReader(person)
	text := ""
	for !strings.HasSuffix(text, prompt) {
		b, err := shown.ReadByte()
		if err != nil {
			t.Fatalf("%q instead of the prompt %q: %v", text, prompt, err)
		}
		text += string(b)
	}
}

func TestAPasswordPromptEndsAtOnceWithTheTerminalAsItWas(t *testing.T) {
	for _, row := range []struct {
		name, typed, password string
		cancel                bool
		code                  int
		text                  string
	}{
		{name: "a password", typed: "s3cret\r", password: "s3cret"},
		{name: "a password and a line feed", typed: "s3cret\n", password: "s3cret"},
		{name: "a mended one", typed: "s3x\x7fcret\r", password: "s3cret"},
		{name: "no ASCII", typed: "p\u00e4ss\u4e16\r", password: "p\u00e4ss\u4e16"},
		{name: "Ctrl-C", typed: "s3c\x03", code: exitInterrupted, text: "interrupted"},
		{name: "Ctrl-backslash", typed: "s3c\x1c", code: exitInterrupted, text: "interrupted"},
		{name: "Ctrl-D", typed: "\x04", code: exitFailed, text: "no password was typed"},
		{name: "only Enter", typed: "\r", code: exitFailed, text: "no password was typed"},
		{name: "a signal", cancel: true, code: exitInterrupted, text: "interrupted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			person, program := testTerminal(t)
			before, err := term.GetState(int(program.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			c, _ := testCLI(t, 0)
			c.stdin, c.stderr = program, program
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			type outcome struct {
				password string
				err      error
			}
			ended := make(chan outcome, 1)
			go func() {
				password, err := c.askPassword(ctx)
				ended <- outcome{password, err}
			}()
			awaitPrompt(t, person, "Password: ")
			if _, err := person.WriteString(row.typed); err != nil {
				t.Fatal(err)
			}
			if row.cancel {
				cancel()
			}
			var got outcome
			select {
			case got = <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("the prompt did not end")
			}
			if got.password != row.password {
				t.Errorf("the password %q, want %q", got.password, row.password)
			}
			code, text := 0, ""
			if got.err != nil {
				code, text, _ = c.explain(got.err)
			}
			if code != row.code || text != row.text {
				t.Errorf("exit %d, %q, want %d, %q", code, text, row.code, row.text)
			}
			after, err := term.GetState(int(program.Fd()))
			if err != nil || !reflect.DeepEqual(before, after) {
				t.Errorf("the terminal is not as it was: %v, was %v (%v)", after, before, err)
			}
		})
	}
}

func TestReadsThatNobodyFeedEndAtOnce(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		read func(ctx context.Context, c *cli) error
	}{
		{"the password from stdin", func(ctx context.Context, c *cli) error { _, err := c.pipedPassword(ctx); return err }},
		{"the user name", func(ctx context.Context, c *cli) error { _, err := c.askUsername(ctx); return err }},
		{"a payload from stdin", func(ctx context.Context, c *cli) error { _, err := c.payload(ctx, "account.me", "-", nil); return err }},
		{"a payload from a pipe", func(ctx context.Context, c *cli) error {
			_, err := c.payload(ctx, "account.me", "@"+fifo, nil)
			return err
		}},
		{"a batch from stdin", func(ctx context.Context, c *cli) error { return c.submitBatch(ctx, "-") }},
	} {
		t.Run(row.name, func(t *testing.T) {
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			defer writer.Close()
			c, _ := testCLI(t, 0)
			c.stdin = reader
			c.stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.stderr.Close()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- row.read(ctx, c) }()
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, errInterrupted) {
					t.Errorf("%v, want %v", err, errInterrupted)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it reads on")
			}
		})
	}
}

func TestStatesAreColouredOnATerminalThatWantsIt(t *testing.T) {
	for _, row := range []struct {
		name     string
		env      map[string]string
		words    []string
		piped    bool
		coloured bool
	}{
		{name: "a terminal", coloured: true},
		{name: "xterm", env: map[string]string{"TERM": "xterm-256color", "NO_COLOR": ""}, coloured: true},
		{name: "NO_COLOR", env: map[string]string{"TERM": "xterm", "NO_COLOR": "1"}},
		{name: "a dumb one", env: map[string]string{"TERM": "dumb"}},
		{name: "--json", words: []string{"--json"}},
		{name: "a file", piped: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			person, program := testTerminal(t)
			path := filepath.Join(t.TempDir(), "out")
			stdout := program
			if row.piped {
				stdout = openFile(t, path)
			}
			home := filepath.Join(t.TempDir(), "home")
			code := runCLI(t.Context(), process{
				args: append([]string{"doctor"}, row.words...),
				getenv: func(name string) string {
					return cmp.Or(row.env[name], map[string]string{"HONEYDEW_HOME": home, "HOME": home}[name])
				},
				stdout:  stdout,
				stderr:  openFile(t, filepath.Join(t.TempDir(), "err")),
				queries: queries,
			})
			if code != exitFailed {
				t.Fatal("exit", code)
			}
			all, _ := os.ReadFile(path)
			if !row.piped {
				program.Close()
				all, _ = io.ReadAll(person) // ends with an error, since nobody has the other end any more
			}
			text := string(all)
			if !strings.Contains(text, "configuration") {
				t.Fatalf("%q", text)
			}
			red, green := strings.Contains(text, "\x1b[31mFAIL\x1b[m  "), strings.Contains(text, "\x1b[32mok\x1b[m    ")
			if red != row.coloured || green != row.coloured || !row.coloured && strings.Contains(text, "\x1b") {
				t.Errorf("%q", text)
			}
		})
	}
}
