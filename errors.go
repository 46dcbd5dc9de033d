package main

// What every file shares: the one error type, every code that a client, a job or a script may meet, what becomes of
// texts from outside, and the one text form of a time.

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// Reasons of refused requests, as clients see them in google.rpc.ErrorInfo; daemon.proto lists their status codes.
	codeInvalidArgument    = "INVALID_ARGUMENT"
	codeUnknownCommand     = "UNKNOWN_COMMAND"
	codeNotFound           = "NOT_FOUND"
	codeAlreadyExists      = "ALREADY_EXISTS"
	codeFailedPrecondition = "FAILED_PRECONDITION"
	codeLoginRefused       = "LOGIN_REFUSED"
	codeAPIUnreachable     = "API_UNREACHABLE"
	codeShuttingDown       = "SHUTTING_DOWN"
	codePermissionDenied   = "PERMISSION_DENIED"
	codeQueueFull          = "QUEUE_FULL"
	codeStorageFull        = "STORAGE_FULL"
	codeStorageFailed      = "STORAGE_FAILED"
	codeInternal           = "INTERNAL" // also a job's

	// Codes of failed attempts, as jobs.error_code and JobStatus.error_code show them.
	codeAuthRequired   = "AUTH_REQUIRED" // not logged in
	codeAuthExpired    = "AUTH_EXPIRED"  // the refresh token has expired or was refused
	codeAuthInvalid    = "AUTH_INVALID"  // refused even with a fresh token
	codeAuthNetwork    = "AUTH_NETWORK_ERROR"
	codeNetwork        = "NETWORK_ERROR"
	codeTimeout        = "TIMEOUT"
	codeRateLimited    = "RATE_LIMITED"
	codeServer         = "SERVER_ERROR"
	codeAPI            = "API_ERROR"
	codeBadResponse    = "BAD_RESPONSE"
	codeResultTooLarge = "RESULT_TOO_LARGE"
	codeOutcomeUnknown = "OUTCOME_UNKNOWN"
	codeInterrupted    = "INTERRUPTED"
	codePartial        = "PARTIAL" // beside a result: the job completed

	maxErrorTextInBytes = 1024 // of a message that travels or is stored

	// noPassphrase is what is wrong with a login that needs the passphrase. Another login would be refused there.
	noPassphrase = "the stored login was made under a passphrase, and this daemon has none"

	redacted        = "[redacted]"
	maxSnippetBytes = 16 << 10 // looked at of a text from outside
	minSecretBytes  = 8        // of a secret that is sought inside words as well
)

// Error is the one error type that crosses files: a code for programs, a sentence for people, and what the queue
// needs to know of a failed attempt. rpc.go maps Code to a gRPC status, cli.go to an exit code; nothing else does.
type Error struct {
	Code    string
	Message string // lower case, no full stop; never holds a token or password
	Hint    string // what to do next, as a sentence or command; may be empty

	Fate  Fate          // of the request
	Hold  time.Duration // > 0: the API asks the whole environment to wait this long; costs no attempt
	Cause error         // for the log and errors.Is; not shown to clients
}

// Fate is what is known of a request that failed: whether it was carried out, which a mutation must not be twice, and
// whether another try may go better.
type Fate int

const (
	fateUnknown Fate = iota // it may have been carried out; another try would fail like this one
	fateLost                // it may have been carried out; another try may go better
	fateUnsent              // it surely was not carried out; another try may go better
	fateRefused             // it surely was not carried out; another try would be refused like this one
)

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func (e *Error) Unwrap() error { return e.Cause }

// errorf makes an Error; a %w operand becomes its Cause.
func errorf(code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{
		Code:    code,
		Message: wrapped.Error(),
		Cause:   errors.Unwrap(wrapped),
	}
}

// hint adds what to do next.
func (e *Error) hint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// findPassphrase is what to do about an environment's login that needs the passphrase.
func findPassphrase(environment string) string {
	return fmt.Sprintf("start the daemon with the passphrase, in HONEYDEW_PASSPHRASE or auth.passphrase_file; "+
		"or give that login up: honeydew logout --environment %[1]s && honeydew login --environment %[1]s",
		shellQuoted(environment))
}

// jobCodes are the codes that a job may have.
func jobCodes() []string {
	return []string{
		codeAuthRequired,
		codeAuthExpired,
		codeAuthInvalid,
		codeAuthNetwork,
		codeNetwork,
		codeTimeout,
		codeRateLimited,
		codeServer,
		codeAPI,
		codeBadResponse,
		codeResultTooLarge,
		codeOutcomeUnknown,
		codeInterrupted,
		codePartial,
		codeInternal,
	}
}

// codeOf returns err's code, INTERNAL for an error that carries none, and "" for nil.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return codeInternal
}

// cutText shortens s to n bytes at a character's boundary.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

// outside is a text that came from the API or a proxy. It may echo a secret, and may hold what a terminal obeys, so
// Request.shown is the one way from it to a text of ours; fmt does not print it.
type outside string

func (outside) String() string { return "[a text from outside]" }

// without is the text as one printable line, with every one of the forms, the longest first, taken out.
func (text outside) without(forms []string) string {
	plain := html.UnescapeString(redact(string(text), forms))
	line := printable(strings.ToValidUTF8(plain, "?"))
	// Once more: a page has ways of its own to write a secret, and what printable takes away may have stood inside one.
	// And what has the form of a token is one, whole or in part, whether we know it or not.
	token := regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]+(\.[\w-]*)?`)
	return token.ReplaceAllString(redact(line, forms), redacted)
}

// redact replaces every form that begins within the first maxSnippetBytes of text, and drops the rest of text. A form
// that reaches beyond is still found whole.
func redact(text string, forms []string) string {
	var out strings.Builder
	for i := 0; i < min(len(text), maxSnippetBytes); {
		n := formAt(text, i, forms)
		if n == 0 {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(redacted)
		i += n
	}
	return out.String()
}

// formAt is the length of the longest form that stands at text[i:], 0 for none. A short form counts only as a whole
// word: nobody learns from "[redacted]eady" that the password is an r.
func formAt(text string, i int, forms []string) int {
	before, _ := utf8.DecodeLastRuneInString(text[:i])
	for _, form := range forms {
		rest, found := strings.CutPrefix(text[i:], form)
		if !found {
			continue
		}
		after, _ := utf8.DecodeRuneInString(rest)
		if len(form) >= minSecretBytes || !(inWord(before) || inWord(after)) {
			return len(form)
		}
	}
	return 0
}

func inWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r)
}

// spellings are a secret as it is, in JSON, in JSON as our own requests hold it, in JSON of ASCII alone, and in the two
// ways of a URL.
func spellings(secret string) []string {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(secret) // no string fails to encode
	plain := strings.TrimSuffix(text.String()[1:], "\"\n")
	var ascii []byte
	for _, unit := range utf16.Encode([]rune(plain)) {
		if unit < utf8.RuneSelf {
			ascii = append(ascii, byte(unit))
		} else {
			ascii = fmt.Appendf(ascii, `\u%04x`, unit)
		}
	}
	sent, _ := json.Marshal(secret)
	escaped := url.QueryEscape(secret)
	return []string{
		secret,
		plain,
		string(sent[1 : len(sent)-1]),
		string(ascii),
		escaped,
		strings.ReplaceAll(escaped, "+", "%20"),
	}
}

// printable makes one line of s, without what a terminal would obey.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// timeLayout is the one form in which times are stored, sent and logged: RFC 3339, UTC, milliseconds, fixed width,
// so that text order is time order.
const timeLayout = "2006-01-02T15:04:05.000Z"

// timeText returns t as text, "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// parseTimeText reads timeText's form back, and any other RFC 3339 instant; "" is the zero time.
func parseTimeText(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, s)
}
