package main

// One POST: URL, token, query and variables in; the root field's bytes or an Error out. It does not know where a token
// comes from, and sends nothing twice. What kind of failure an answer is, is decided here and nowhere else: by media
// type, then status, then the first error's extensions.code (GraphQL over HTTP, "Processing the response").

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	mediaGraphQL    = "application/graphql-response+json"
	maxRefusalBytes = 1 << 20 // read of an answer with a status over 299
	maxHeaderBytes  = 64 << 10
	maxSnippetBytes = 16 << 10 // looked at of an answer that is no GraphQL
	maxAPITextBytes = 512      // kept of what the API says of a failure
	cutMark         = "\x00"   // stands where clip cut a text; never shown
	defaultHold     = time.Minute
	maxHold         = time.Hour
)

// errForeign marks a refusal that did not come from the GraphQL service itself: a proxy, a wrong path.
var errForeign = errors.New("not an answer of the GraphQL service")

// Request is one operation; Field is its one root field.
type Request struct {
	URL, Token, Query, Field string
	Variables                []byte   // JSON
	Secrets                  []string // beside Token, never to appear in an error
}

// Answer is a usable root field: Data is its JSON, byte for byte as it came; Partial is the API's complaint beside it.
type Answer struct {
	Data    []byte
	Partial string
}

// Client speaks to the API.
type Client struct {
	transport http.RoundTripper
	agent     string
	maxBytes  int64
}

// newClient makes a client that reads at most maxBytes of an answer. onProxy hears once which proxy is used.
func newClient(version string, maxBytes int64, onProxy func(proxy string)) *Client {
	var once sync.Once
	transport := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			u, err := http.ProxyFromEnvironment(r)
			if u != nil {
				once.Do(func() { onProxy(u.Scheme + "://" + u.Host) })
			}
			return u, err
		},
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}
	// No http.Client around it: that would follow redirects, which would carry the token, or a password, to whatever
	// host they name.
	return &Client{transport: transport, agent: "honeydew/" + version, maxBytes: maxBytes}
}

// Do sends r once. Its error is an *Error: AUTH_INVALID means that the API refused the token.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	answer, e := c.do(ctx, r)
	if e != nil {
		e.Message = r.redact(e.Message)
		return Answer{}, e
	}
	answer.Partial = r.redact(answer.Partial)
	return answer, nil
}

// redact makes a text of the API fit to be shown: without the secrets that it may have echoed, then as one printable
// line, then cut to size. In another order a secret could slip through in part.
func (r *Request) redact(text string) string {
	if text == "" {
		return ""
	}
	var all []string
	for _, secret := range append([]string{r.Token}, r.Secrets...) {
		all = append(all, spellings(secret)...)
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range all {
		pairs = append(pairs, s, "[redacted]")
	}
	parts := strings.Split(strings.NewReplacer(pairs...).Replace(text), cutMark)
	for i := range parts[:len(parts)-1] {
		parts[i] = trimBegun(parts[i], all)
	}
	return cutText(printable(strings.ToValidUTF8(strings.Join(parts, ""), "?")), maxAPITextBytes)
}

// spellings are the forms in which an API may repeat a secret: as it is or in JSON, of several tempers, and each of
// those in HTML or in a URL.
func spellings(secret string) (all []string) {
	if secret == "" {
		return nil
	}
	var plain strings.Builder
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(secret) // no string fails to encode
	quoted := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(plain.String()), `"`), `"`)
	marshalled, _ := json.Marshal(secret)
	var ascii strings.Builder
	for _, r := range quoted {
		if r < utf8.RuneSelf {
			ascii.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&ascii, `\u%04x`, unit)
		}
	}
	for _, s := range []string{secret, quoted, string(marshalled[1 : len(marshalled)-1]), ascii.String()} {
		escaped := html.EscapeString(s)
		all = append(all, s, escaped, url.QueryEscape(s), url.PathEscape(s))
		named := strings.ReplaceAll(escaped, "&#34;", "&quot;")
		for _, apostrophe := range []string{"&#39;", "&#039;", "&#x27;", "&apos;"} {
			all = append(all, strings.ReplaceAll(named, "&#39;", apostrophe))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// trimBegun takes off the end of text what is the beginning of a secret that the cut fell into.
func trimBegun(text string, secrets []string) string {
	most := 0
	for _, s := range secrets {
		for n := min(len(s)-1, len(text)); n > most; n-- {
			if strings.HasSuffix(text, s[:n]) {
				most = n
			}
		}
	}
	return text[:len(text)-most]
}

func (c *Client) do(ctx context.Context, r Request) (Answer, *Error) {
	query, err := json.Marshal(r.Query)
	if err != nil {
		return Answer{}, &Error{Code: codeInternal, Message: err.Error(), Unsent: true}
	}
	body := concat(`{"query":`, query, `,"variables":`, r.Variables, `}`)
	connected := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, &Error{Code: codeInternal, Message: err.Error(), Unsent: true}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", mediaGraphQL+", application/json;q=0.9")
	req.Header.Set("User-Agent", c.agent)
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return Answer{}, transportError(ctx, err, !connected)
	}
	defer resp.Body.Close()
	limit := c.maxBytes
	if resp.StatusCode >= 300 {
		limit = maxRefusalBytes
	}
	text, err := readBody(resp, limit)
	if err != nil {
		return Answer{}, transportError(ctx, err, false)
	}
	if int64(len(text)) > limit && resp.StatusCode < 300 {
		return Answer{}, &Error{Code: codeResultTooLarge, Message: fmt.Sprintf("the answer is larger than api.max_response_mb (%d)", limit>>20)}
	}
	return interpret(resp.StatusCode, resp.Header, text, r.Field)
}

func concat(open string, query []byte, mid string, variables []byte, end string) []byte {
	out := make([]byte, 0, len(open)+len(query)+len(mid)+len(variables)+len(end))
	out = append(append(append(out, open...), query...), mid...)
	return append(append(out, variables...), end...)
}

// readBody reads at most limit+1 bytes. An answer of unknown length is gathered in pieces, since a buffer that grows
// by copying would for a moment take twice its size.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if n := resp.ContentLength; n >= 0 && n <= limit {
		text := make([]byte, n)
		_, err := io.ReadFull(resp.Body, text)
		return text, err
	}
	const piece = 1 << 20
	var pieces [][]byte
	body := io.LimitReader(resp.Body, limit+1)
	for size := 4 << 10; ; size = min(2*size, piece) {
		p := make([]byte, size)
		n, err := io.ReadFull(body, p)
		pieces = append(pieces, p[:n])
		if errors.Is(err, io.EOF) || (errors.Is(err, io.ErrUnexpectedEOF) && endOfBody(body)) {
			return bytes.Join(pieces, nil), nil
		} else if err != nil {
			return nil, err
		}
	}
}

// endOfBody tells the body's own end, which ReadFull reports as ErrUnexpectedEOF, from a connection that broke: only
// the former repeats as EOF.
func endOfBody(body io.Reader) bool {
	_, err := body.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// transportError is the failure of a request that got no whole answer.
func transportError(ctx context.Context, err error, unsent bool) *Error {
	e := &Error{Code: codeNetwork, Retry: true, Unsent: unsent, Cause: err}
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Message, e.Cause = "the request was abandoned", context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || (timeout != nil && timeout.Timeout()):
		e.Code, e.Message, e.Cause = codeTimeout, "no whole answer in time", context.DeadlineExceeded
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		e.Message = "the connection was cut off"
	default:
		e.Message = err.Error()
	}
	return e
}

// interpret is the matrix of media type, status and error code.
func interpret(status int, header http.Header, text []byte, field string) (Answer, *Error) {
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	line := fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))
	hold, asked := retryAfter(header.Get("Retry-After"), time.Now())
	switch {
	case status >= 300 && status < 400:
		return Answer{}, &Error{Code: codeBadResponse, Message: line + ": redirects are not followed" + redirectHost(header), Refused: true, Cause: errForeign}
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && asked:
		return Answer{}, &Error{Code: codeRateLimited, Message: fmt.Sprintf("%s; the API asks to wait %s", line, hold), Hold: hold, Unsent: true}
	}
	ok := status >= 200 && status < 300
	var env envelope
	var parseErr error
	if media == mediaGraphQL || media == "application/json" || strings.HasSuffix(media, "+json") {
		env, parseErr = parseEnvelope(text, field)
	} else {
		parseErr = fmt.Errorf("its media type is %q", media)
	}
	switch {
	case !env.usable() && (status == http.StatusUnauthorized || env.code() == "UNAUTHENTICATED" && status < 500):
		return Answer{}, &Error{Code: codeAuthInvalid, Message: "refused by the API: " + describe(line, env, text), Unsent: true,
			Cause: foreign(status, media, parseErr)}
	case status == http.StatusRequestTimeout:
		return Answer{}, &Error{Code: codeTimeout, Message: describe(line, env, text), Retry: true}
	case parseErr == nil && (ok || media == mediaGraphQL):
		return env.outcome(field, line, status)
	case status >= 500:
		return Answer{}, &Error{Code: codeServer, Message: describe(line, env, text), Retry: true}
	case status >= 400:
		return Answer{}, &Error{Code: codeAPI, Message: describe(line, env, text), Refused: true, Cause: foreign(status, media, parseErr)}
	}
	return Answer{}, &Error{Code: codeBadResponse, Message: fmt.Sprintf("%s, but no GraphQL answer: %s: %s", line, parseErr, snippet(text)), Retry: true}
}

// foreign is errForeign for a refusal that the GraphQL service itself would not word like this: a page, or no GraphQL
// with a status that says nothing of who asks.
func foreign(status int, media string, parseErr error) error {
	plain := status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden
	if parseErr == nil || (plain && media != "text/html") {
		return nil
	}
	return errForeign
}

// retryAfter reads the header of that name: seconds or a date (RFC 9110, section 10.2.3); without a usable one, the
// default and false. A hold is at least a second, so that an API that says 0 is not asked in a loop.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63); err == nil {
		wait = time.Duration(min(seconds, uint64(maxHold/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		wait = maxHold
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now).Round(time.Second)
	} else {
		return defaultHold, false
	}
	return min(max(wait, time.Second), maxHold), true
}

func redirectHost(header http.Header) string {
	if u, err := url.Parse(header.Get("Location")); err == nil && u.Host != "" {
		return " (to " + u.Host + ")"
	}
	return ""
}

// envelope is a GraphQL answer. root is nil where data has no such field.
type envelope struct {
	hasData bool
	root    []byte
	errors  []apiError
}

type apiError struct {
	Message    string
	Extensions struct{ Code string }
}

func (e *envelope) usable() bool { return e.root != nil && string(e.root) != "null" }

func (e *envelope) code() string {
	if len(e.errors) == 0 {
		return ""
	}
	return e.errors[0].Extensions.Code
}

// complaint is what the errors say.
func (e *envelope) complaint() string {
	if len(e.errors) == 0 {
		return "without a GraphQL error"
	}
	text := clip(e.errors[0].Message)
	if code := e.code(); code != "" {
		text += " (" + clip(code) + ")"
	}
	if n := len(e.errors) - 1; n > 0 {
		text += fmt.Sprintf(", and %d more errors", n)
	}
	return text
}

// outcome judges an answer that is GraphQL.
func (e *envelope) outcome(field, line string, status int) (Answer, *Error) {
	switch {
	case e.usable() && len(e.errors) > 0:
		return Answer{Data: e.root, Partial: e.complaint()}, nil
	case status >= 500:
		return Answer{}, &Error{Code: codeServer, Message: line + ": " + e.complaint(), Retry: true}
	case len(e.errors) > 0:
		switch e.code() {
		case "INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "BAD_GATEWAY", "GATEWAY_TIMEOUT", "TIMEOUT":
			return Answer{}, &Error{Code: codeServer, Message: e.complaint(), Retry: true}
		}
		return Answer{}, &Error{Code: codeAPI, Message: e.complaint(), Refused: true}
	case status >= 300:
		return Answer{}, &Error{Code: codeAPI, Message: line + ": " + e.complaint(), Refused: true}
	case e.root == nil:
		return Answer{}, &Error{Code: codeBadResponse, Message: "the answer has no data." + field, Retry: true}
	}
	return Answer{Data: e.root}, nil
}

// parseEnvelope takes an answer apart without copying data, which may be 100 MB: the text is validated once, and then
// only skipped over. It must be UTF-8, since SQL and gRPC texts are.
func parseEnvelope(text []byte, field string) (e envelope, err error) {
	if !utf8.Valid(text) {
		return e, errors.New("it is not UTF-8")
	}
	if !json.Valid(text) {
		return e, errors.New("it is not JSON")
	}
	var complaints []byte
	eachMember(text, func(key string, value []byte) {
		switch key {
		case "data":
			e.hasData, e.root = value[0] == '{', nil
			if e.hasData {
				eachMember(value, func(name string, v []byte) {
					if name == field {
						e.root = v
					}
				})
			}
		case "errors":
			complaints = value
		}
	})
	var list []json.RawMessage
	if complaints != nil && json.Unmarshal(complaints, &list) != nil {
		return envelope{}, errors.New("its errors are no list")
	}
	for _, item := range list {
		var one apiError
		// Whatever does not fit stays empty: an error without a message is one all the same.
		_ = json.Unmarshal(item, &one)
		e.errors = append(e.errors, one)
	}
	if !e.hasData && len(e.errors) == 0 {
		return envelope{}, errors.New("it has neither data nor errors")
	}
	return e, nil
}

// eachMember calls fn for the members of the object that valid JSON text begins with; other values have none.
func eachMember(text []byte, fn func(key string, value []byte)) {
	i := skipSpace(text, 0)
	if text[i] != '{' {
		return
	}
	for i = skipSpace(text, i+1); text[i] != '}'; {
		end := skipValue(text, i)
		var key string
		_ = json.Unmarshal(text[i:end], &key) // valid: the whole text is
		i = skipSpace(text, skipSpace(text, end)+1)
		end = skipValue(text, i)
		fn(key, text[i:end])
		if i = skipSpace(text, end); text[i] == ',' {
			i = skipSpace(text, i+1)
		}
	}
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index after the value at i of valid JSON.
func skipValue(text []byte, i int) int {
	for depth := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
			if depth < 0 {
				return i
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// describe says what a refusal says of itself.
func describe(line string, env envelope, text []byte) string {
	if len(env.errors) > 0 {
		if strings.HasPrefix(line, "HTTP 2") {
			return env.complaint()
		}
		return line + ": " + env.complaint()
	}
	if s := snippet(text); strings.TrimSpace(s) != "" {
		return line + ": " + s
	}
	return line
}

// snippet is the beginning of an answer.
func snippet(text []byte) string { return clip(string(text[:min(len(text), maxSnippetBytes+1)])) }

// clip bounds what redact has to look through.
func clip(s string) string {
	if len(s) > maxSnippetBytes {
		return s[:maxSnippetBytes] + cutMark
	}
	return s
}

// printable makes one line of s, without what a terminal would obey.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		} else if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
