package main

// One POST: URL, token, query and variables in; the root field's bytes or an Error out. It does not know where a token
// comes from, and sends nothing twice. What kind of failure an answer is, is decided here and nowhere else: by media
// type, then status, then the first error's extensions.code (GraphQL over HTTP, "Processing the response").

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	mediaGraphQL    = "application/graphql-response+json"
	maxRefusalBytes = 1 << 20 // read of an answer with a status over 299
	maxHeaderBytes  = 64 << 10
	maxAPITextBytes = 512 // kept of it
	maxMediaBytes   = 100 // kept of a media type or an error's code
	defaultHold     = time.Minute
	maxHold         = time.Hour
)

// A refusal has at most one of these as its cause.
var (
	// errForeign: it did not come from the GraphQL service itself, but from a proxy or a wrong path.
	errForeign = errors.New("not an answer of the GraphQL service")

	// errEndsLogin: the GraphQL service itself said, in GraphQL, that what it was sent to log in with does not count.
	errEndsLogin = errors.New("the GraphQL service refused the login")
)

// Request is one operation; Field is its one root field.
type Request struct {
	URL, Token, Query, Field string
	Variables                []byte   // JSON
	Secrets                  []string // beside Token, never to appear in an error
	Mutation                 bool     // its payload may hold the API's own no
}

// Answer is a usable root field: Data is its JSON, byte for byte as it came; Partial is the API's complaint beside it.
type Answer struct {
	Data    []byte
	Partial string
}

// Client speaks to the API.
type Client struct {
	clientOptions
	connections *connections
}

type clientOptions struct {
	Version      string
	MaxBytes     int64                // read of an answer
	OnProxy      func(address string) // hears once which proxy is used
	ProxySecrets []string             // of proxySecrets
}

// proxySecrets checks the variables that name a proxy, and returns what must not be shown of them: passwords, and the
// forms in which they are sent. net/http takes a value that does not parse for no proxy at all, or for a host named
// http, without a word. The error names the variable and holds nothing of its value.
func proxySecrets(getenv func(string) string) (secrets []string, err error) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		value := getenv(name)
		if value == "" {
			continue
		}
		proxy, ok := parseProxy(value)
		if !ok {
			return nil, fmt.Errorf("%s is not the URL of a proxy; write it as http://USER:PASSWORD@HOST:PORT, and in the user "+
				"and password %%25 for %%, %%23 for #, %%2F for /, %%3F for ?, %%40 for @ and %%20 for a blank", name)
		}
		password, known := proxy.User.Password()
		if !known || password == "" {
			continue
		}
		pair := proxy.User.Username() + ":" + password
		secrets = append(secrets, password, pair, proxy.User.String(), base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	return secrets, nil
}

// parseProxy reads a proxy's URL as net/http does, whose scheme may be left out, but takes no part that a proxy cannot
// have: there an unescaped password has broken the URL in pieces.
func parseProxy(value string) (*url.URL, bool) {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" {
		return nil, false
	}
	if (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.ForceQuery || strings.Contains(value, "#") {
		return nil, false
	}
	return u, slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}

func newClient(o clientOptions) *Client {
	var once sync.Once
	proxy := func(r *http.Request) (*url.URL, error) {
		u, err := http.ProxyFromEnvironment(r)
		if u != nil {
			once.Do(func() { o.OnProxy(u.Scheme + "://" + u.Host) })
		}
		return u, err
	}
	return &Client{
		clientOptions: o,
		connections:   newConnections(func() http.RoundTripper { return newTransport(proxy) }),
	}
}

// newTransport makes connections of its own. No http.Client goes around it: that would follow redirects, which would
// carry the token, or a password, to whatever host they name.
func newTransport(proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	dialer := net.Dialer{
		Timeout:   10 * time.Second,
		KeepAlive: 30 * time.Second,
	}
	return &http.Transport{
		Proxy:                  proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 15 * time.Second,
			PingTimeout:     10 * time.Second,
		},
	}
}

// connections are those of one transport, until a request times out. A connection may die without a word, when the
// computer slept or its network changed, and HTTP/2 would go on sending every request over it. After
// CloseIdleConnections alone the dead one was used again. So what comes after a timeout gets a new transport.
type connections struct {
	mu   sync.Mutex
	now  http.RoundTripper
	make func() http.RoundTripper
}

func newConnections(make func() http.RoundTripper) *connections {
	return &connections{now: make(), make: make}
}

func (c *connections) current() http.RoundTripper {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// renew replaces old, unless somebody else did. What is under way over old goes on.
func (c *connections) renew(old http.RoundTripper) {
	c.mu.Lock()
	replaced := c.now == old
	if replaced {
		c.now = c.make()
	}
	c.mu.Unlock()
	if transport, ok := old.(*http.Transport); ok && replaced {
		transport.CloseIdleConnections()
	}
}

// Do sends r once. Its error is an *Error: AUTH_INVALID means that the API refused the token.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	r.Secrets = slices.Concat(r.Secrets, c.ProxySecrets)
	answer, e := c.do(ctx, &r)
	if e == nil && r.Mutation {
		e = r.refusedPayload(answer.Data)
	}
	if e != nil {
		return Answer{}, e
	}
	return answer, nil
}

// shown makes a text from outside fit for an error: without the request's secrets, as one printable line of at most
// maxAPITextBytes.
func (r *Request) shown(text outside) string {
	if text == "" { // the usual case: there is nothing to look for
		return ""
	}
	return cutText(text.without(r.secretForms()), maxAPITextBytes)
}

// secretForms are the forms in which the request's secrets may be repeated, the longest first.
func (r *Request) secretForms() (forms []string) {
	for _, secret := range append([]string{r.Token}, r.Secrets...) {
		if secret != "" {
			forms = append(forms, spellings(secret)...)
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(forms)
}

func (c *Client) do(ctx context.Context, r *Request) (Answer, *Error) {
	connected := false
	trace := httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	}
	req, err := c.request(httptrace.WithClientTrace(ctx, &trace), r)
	if err != nil {
		return Answer{}, &Error{Code: codeInternal, Message: err.Error(), Unsent: true}
	}
	transport := c.connections.current()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Answer{}, c.noAnswer(ctx, r, transport, err, !connected)
	}
	defer resp.Body.Close()
	limit, success := int64(maxRefusalBytes), resp.StatusCode < 300
	if success {
		limit = c.MaxBytes
	}
	text, err := readBody(resp, limit)
	if err != nil {
		return Answer{}, c.noAnswer(ctx, r, transport, err, false)
	}
	if success && int64(len(text)) > limit {
		message := fmt.Sprintf("the answer is larger than api.max_response_mb (%d)", limit>>20)
		return Answer{}, &Error{Code: codeResultTooLarge, Message: message}
	}
	return r.interpret(resp.StatusCode, resp.Header, text)
}

// request is r as HTTP.
func (c *Client) request(ctx context.Context, r *Request) (*http.Request, error) {
	query, _ := json.Marshal(r.Query) // no string fails to encode
	body := slices.Concat([]byte(`{"query":`), query, []byte(`,"variables":`), r.Variables, []byte(`}`))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"},
		"Accept":       {mediaGraphQL + ", application/json;q=0.9"},
		"User-Agent":   {"honeydew/" + c.Version},
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	return req, nil
}

// noAnswer is the failure of a request over transport that got no whole answer.
func (c *Client) noAnswer(ctx context.Context, r *Request, transport http.RoundTripper, err error, unsent bool) *Error {
	e := r.transportError(ctx, err, unsent)
	if e.Code == codeTimeout {
		c.connections.renew(transport)
	}
	return e
}

// readBody reads at most limit+1 bytes. An answer of unknown length is gathered in pieces of at most 1 MiB; those of
// io.ReadAll grow with the whole: measured with an answer of 95 MB, the process took 45 MB more.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if n := resp.ContentLength; n >= 0 && n <= limit {
		text := make([]byte, n)
		_, err := io.ReadFull(resp.Body, text)
		return text, err
	}
	var pieces [][]byte
	body := io.LimitReader(resp.Body, limit+1)
	for size := int64(4 << 10); ; size = min(2*size, 1<<20) {
		piece := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // room for the read that finds the end
		_, err := io.CopyN(piece, body, size)
		if pieces = append(pieces, piece.Bytes()); err == io.EOF {
			text := bytes.Join(pieces, nil)
			if pieces = nil; len(text) > 8<<20 {
				runtime.GC() // or the pieces would still be there when the database makes copies of its own
			}
			return text, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// transportError is the failure of a request that got no whole answer.
func (r *Request) transportError(ctx context.Context, err error, unsent bool) *Error {
	e := &Error{Code: codeNetwork, Retry: true, Unsent: unsent}
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Message, e.Cause = "the request was abandoned", context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || (timeout != nil && timeout.Timeout()):
		e.Code, e.Message, e.Cause = codeTimeout, "no whole answer in time", context.DeadlineExceeded
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		e.Message = "the connection was cut off"
	case fromThisSystem(err):
		e.Message = err.Error()
	default: // a status line, a certificate's names
		e.Message = r.shown(outside(err.Error()))
	}
	return e
}

// fromThisSystem reports whether err's words are those of this computer's network, and of nothing that it received.
func fromThisSystem(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return false
	}
	if op.Op == "proxyconnect" {
		return fromThisSystem(op.Err)
	}
	return op.Op == "dial" || op.Op == "read" || op.Op == "write"
}

// interpret is the matrix of media type, status and error code.
func (r *Request) interpret(status int, header http.Header, text []byte) (Answer, *Error) {
	line := fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))
	hold, asked := retryAfter(header.Get("Retry-After"), time.Now())
	switch {
	case status >= 300 && status < 400:
		return Answer{}, r.redirected(line, header.Get("Location"))
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && asked:
		return Answer{}, &Error{
			Code:    codeRateLimited,
			Message: fmt.Sprintf("%s; the API asks to wait %s", line, hold),
			Hold:    hold,
			Unsent:  true,
		}
	}
	media := mediaType(header.Get("Content-Type"))
	env, err := r.open(header.Get("Content-Type"), text)
	graphQL := err == nil && (status < 300 || media == mediaGraphQL)
	code := env.verdict(status, graphQL)
	if code == "" {
		return Answer{Data: env.root, Partial: env.complaint(r)}, nil
	}
	said := env.complaint(r)
	if env.errors == 0 {
		said = r.shown(outside(text[:min(len(text), maxRefusalBytes)]))
	}
	switch {
	case code == codeBadResponse && graphQL:
		said = "the answer has no data." + r.Field
	case code == codeBadResponse:
		said = fmt.Sprintf("%s, but no GraphQL answer: %s: %s", line, err, said)
	case said == "":
		said = line
	case status >= 300 || env.errors == 0:
		said = line + ": " + said
	}
	e := &Error{Code: code, Message: said}
	switch code {
	case codeAuthInvalid:
		e.Message = "refused by the API: " + said
		e.Unsent = true
	case codeAPI:
		e.Refused = true
	default:
		e.Retry = true
		return Answer{}, e
	}
	switch {
	case err == nil && (media == mediaGraphQL || media == "application/json") && env.endsLogin(status):
		e.Cause = errEndsLogin
	case err != nil && (media == "text/html" || !refusesLogins(status)):
		e.Cause = errForeign
	}
	return Answer{}, e
}

func (r *Request) redirected(line, location string) *Error {
	message := line + ": redirects are not followed"
	if u, err := url.Parse(location); err == nil && u.Host != "" {
		message += " (to " + r.shown(outside(u.Host)) + ")"
	}
	return &Error{Code: codeBadResponse, Message: message, Refused: true}
}

// open takes an answer apart, or says why it is none of GraphQL's.
func (r *Request) open(contentType string, text []byte) (envelope, error) {
	media := mediaType(contentType)
	if media == "application/json" || strings.HasSuffix(media, "+json") {
		return parseEnvelope(text, r.Field)
	}
	if contentType == "" {
		return envelope{}, errors.New("it has no media type")
	}
	return envelope{}, fmt.Errorf("its media type is %q", cutText(r.shown(outside(contentType)), maxMediaBytes))
}

// refusesLogins reports whether a service that answers a login without GraphQL may mean no by this status. Only the
// person who just typed a password is told so; no stored login ends by it.
func refusesLogins(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden
}

// refusedPayload finds the API's own no inside a mutation's payload.
func (r *Request) refusedPayload(payload []byte) *Error {
	refused := false
	message := ""
	for name, value := range members(payload) {
		switch name {
		case "success":
			refused = string(value) == "false"
		case "error":
			message = r.shown(textOf(value))
		}
	}
	if !refused {
		return nil
	}
	return &Error{
		Code:    codeAPI,
		Message: cmp.Or(message, "the API reports no success, and no reason"),
		Refused: true,
	}
}

// textOf is a JSON string's text, "" for null, and any other value as it is.
func textOf(value []byte) outside {
	if len(value) > maxRefusalBytes {
		return outside(fmt.Sprintf("a text of %d bytes", len(value)))
	}
	var text outside
	if err := json.Unmarshal(value, &text); err != nil {
		return outside(value)
	}
	return text
}

// mediaType is the first media type in a Content-Type. Gateways repeat it, or its charset, and some write parameters
// that nobody can read; what the answer is does not depend on those.
func mediaType(contentType string) string {
	first, _, _ := strings.Cut(contentType, ",")
	first, _, _ = strings.Cut(first, ";")
	return strings.ToLower(strings.TrimSpace(first))
}

// retryAfter reads the header of that name: seconds or a date (RFC 9110, section 10.2.3); without a usable one, the
// default and false. A hold is at least a second, so that an API that says 0 is not asked in a loop.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	var wait time.Duration
	seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63)
	if err == nil || errors.Is(err, strconv.ErrRange) { // what is out of range comes as the largest number
		wait = time.Duration(min(seconds, uint64(maxHold/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now).Round(time.Second)
	} else {
		return defaultHold, false
	}
	return min(max(wait, time.Second), maxHold), true
}

// envelope is a GraphQL answer. root is nil where data has no such field; code and message are the first error's.
type envelope struct {
	root    []byte
	errors  int
	code    outside
	message outside
}

// complaint is what the errors say.
func (e *envelope) complaint(r *Request) string {
	said := r.shown(e.message)
	if e.code != "" {
		said = strings.TrimSpace(said + " (" + cutText(r.shown(e.code), maxMediaBytes) + ")")
	}
	if e.errors > 1 {
		said += fmt.Sprintf(", and %d more errors", e.errors-1)
	}
	return said
}

// verdict is the code of what failed, "" for an answer that can be used. graphQL says that what came is the service's
// own answer, so that it counts beside the status.
func (e *envelope) verdict(status int, graphQL bool) string {
	usable := e.root != nil && string(e.root) != "null"
	switch {
	case !usable && (status == http.StatusUnauthorized || (e.code == "UNAUTHENTICATED" && status < 500)):
		return codeAuthInvalid
	case status == http.StatusRequestTimeout:
		return codeTimeout
	case graphQL && usable && e.errors > 0:
		return ""
	case status >= 500:
		return codeServer
	case graphQL && e.saysTrouble():
		return codeServer
	case status >= 400, graphQL && e.errors > 0:
		return codeAPI
	case graphQL && e.root != nil:
		return ""
	}
	return codeBadResponse
}

// saysTrouble reports whether the first error is one that a later try may not meet.
func (e *envelope) saysTrouble() bool {
	switch e.code {
	case "INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "BAD_GATEWAY", "GATEWAY_TIMEOUT", "TIMEOUT":
		return true
	}
	return false
}

// endsLogin reports whether the first error, in answer to a refresh, says that the refresh token does not count.
// Nothing less does: a gateway has a 401 or 403 of its own, and a login that is given up needs a person.
func (e *envelope) endsLogin(status int) bool {
	if e.errors == 0 {
		return false
	}
	switch e.code {
	case "UNAUTHENTICATED", "FORBIDDEN", "BAD_USER_INPUT":
		return true
	}
	words := strings.Split(string(e.code), "_") // EXPIRED_TOKEN, INVALID_REFRESH_TOKEN, TOKEN_EXPIRED
	bad := slices.Contains(words, "INVALID") || slices.Contains(words, "EXPIRED")
	return status == http.StatusUnauthorized || (bad && slices.Contains(words, "TOKEN"))
}

// parseEnvelope takes an answer apart without copying data, which may be 100 MB. It must be UTF-8, since SQL and gRPC
// texts are.
func parseEnvelope(text []byte, field string) (e envelope, err error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if !utf8.Valid(text) || !json.Valid(text) {
		return e, errors.New("it is not JSON in UTF-8")
	}
	var data, complaints []byte
	for name, value := range members(text) {
		switch name {
		case "data":
			data = value
		case "errors":
			complaints = value
		}
	}
	for name, value := range members(data) {
		if name == field {
			e.root = value
		}
	}
	if complaints != nil && complaints[0] != '[' && string(complaints) != "null" {
		return envelope{}, errors.New("its errors are no list")
	}
	for _, complaint := range members(complaints) {
		if e.errors == 0 {
			e.code, e.message = readError(complaint)
		}
		e.errors++
	}
	if e.errors == 0 && !bytes.HasPrefix(data, []byte("{")) {
		return envelope{}, errors.New("it has neither data nor errors")
	}
	return e, nil
}

// readError reads one of an answer's errors. One that is no object, or has neither message nor code, speaks for itself.
func readError(text []byte) (code, message outside) {
	var e struct {
		Message    outside
		Extensions struct{ Code outside }
	}
	if text[0] == '{' && len(text) <= maxRefusalBytes {
		_ = json.Unmarshal(text, &e) // whatever does not fit stays empty
	}
	if e.Message == "" && e.Extensions.Code == "" {
		return "", textOf(text)
	}
	return e.Extensions.Code, e.Message
}

// members are the names and values in an object of valid JSON text, in their order, or the values in a list, without
// names. Of a repeated name the last counts, as in encoding/json. Other values have none. It allocates no more than a
// name, since an answer may hold tens of millions of members.
func members(text []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		text = bytes.TrimSpace(text)
		if len(text) == 0 || (text[0] != '{' && text[0] != '[') {
			return
		}
		list := text[0] == '['
		var name string
		var depth, quote, value int // where the latest string, and the latest member's value, begin
		end := 0                    // where the latest string ends
		if list {
			value = 1
		}
		for i := 0; i < len(text); i++ {
			switch text[i] {
			case '"':
				quote = i
				for i++; text[i] != '"'; i++ {
					if text[i] == '\\' {
						i++
					}
				}
				end = i + 1
			case ':':
				if depth == 1 && !list {
					value = i + 1
					name = nameOf(text[quote:end])
				}
			case '{', '[':
				depth++
			case ',', '}', ']':
				if depth == 1 && value > 0 {
					member := bytes.TrimSpace(text[value:i])
					if len(member) > 0 && !yield(name, member) { // an empty list has none
						return
					}
					if list {
						value = i + 1
					}
				}
				if text[i] != ',' {
					depth--
				}
			}
		}
	}
}

// nameOf is the text of a JSON string that is known to be valid.
func nameOf(quoted []byte) string {
	if !bytes.Contains(quoted, []byte(`\`)) {
		return string(quoted[1 : len(quoted)-1])
	}
	var name string
	_ = json.Unmarshal(quoted, &name)
	return name
}
