package main

// One POST: URL, token, query and variables in; the root field's bytes or an Error out. It does not know where a token
// comes from, and sends nothing twice. What kind of failure an answer is, is decided here and nowhere else: by media
// type, then status, then the first error's extensions.code (GraphQL over HTTP, "Processing the response").
//
//	{ "data":   { FIELD: ROOT },                                 ROOT: passed on byte for byte
//	  "errors": [ { "message": M, "extensions": { "code": C } },  the first one is judged and shown
//	              ... ] }                                         the others are counted
//
// An answer may have 100 MB, and every part of it may be hostile: only ROOT may cost memory, and that only once.

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
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	mediaGraphQL    = "application/graphql-response+json"
	mediaPlainJSON  = "application/json"
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
	URL, Token, Field string
	Query             string   // as a JSON string
	Variables         []byte   // JSON
	Secrets           []string // beside Token, never to appear in an error
	Mutation          bool     // its payload may hold the API's own no
	Private           bool     // its answer holds tokens that nobody knows yet: none of it is quoted
}

// Answer is a usable root field: Data is its JSON, byte for byte as it came; Partial is the API's complaint beside it.
type Answer struct {
	Data    []byte
	Partial string
}

// Client speaks to the API.
type Client struct {
	clientOptions
	transport atomic.Pointer[http.Transport]
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
			return nil, fmt.Errorf("%s is not the URL of a proxy; write it as http://USER:PASSWORD@HOST:PORT, "+
				"and in the user and password %%25 for %%, %%23 for #, %%2F for /, %%3F for ?, %%40 for @ "+
				"and %%20 for a blank", name)
		}
		password, _ := proxy.User.Password()
		if password == "" {
			continue
		}
		pair := proxy.User.Username() + ":" + password
		header := base64.StdEncoding.EncodeToString([]byte(pair))
		secrets = append(secrets,
			password,
			pair,
			proxy.User.String(),
			header)
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
	if err != nil ||
		u.Hostname() == "" ||
		u.RequestURI() != "/" ||
		strings.Contains(value, "#") {
		return nil, false
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return u, true
	}
	return nil, false
}

// newClient makes a Client. No http.Client goes around its transport: that would follow redirects, which would carry
// the token, or a password, to whatever host they name.
func newClient(o clientOptions) *Client {
	c := &Client{clientOptions: o}
	c.transport.Store(newTransport(o.OnProxy))
	return c
}

func newTransport(onProxy func(address string)) *http.Transport {
	var once sync.Once
	proxy := func(r *http.Request) (*url.URL, error) {
		u, err := http.ProxyFromEnvironment(r)
		if u != nil {
			once.Do(func() {
				onProxy(u.Scheme + "://" + u.Host)
			})
		}
		return u, err
	}
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

// renew leaves the connections of old, over which a request has timed out, unless somebody else did. A connection may
// die without a word, when the computer slept or its network changed, and HTTP/2 would go on sending every request over
// it. After CloseIdleConnections alone the dead one was used again. What is under way over old goes on.
func (c *Client) renew(old *http.Transport) {
	if c.transport.CompareAndSwap(old, old.Clone()) {
		old.CloseIdleConnections()
	}
}

// Do sends r once. Its error is an *Error: AUTH_INVALID means that the API refused the token.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	r.Secrets = slices.Concat(r.Secrets, c.ProxySecrets)
	answer, e := c.do(ctx, &r)
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
	for _, secret := range slices.Concat([]string{r.Token}, r.Secrets) {
		if secret != "" {
			forms = append(forms, spellings(secret)...)
		}
	}
	slices.SortFunc(forms, func(a, b string) int {
		return len(b) - len(a)
	})
	return slices.Compact(forms)
}

func (c *Client) do(ctx context.Context, r *Request) (Answer, *Error) {
	connected := false
	trace := httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	}
	req, err := c.request(httptrace.WithClientTrace(ctx, &trace), r)
	if err != nil {
		return Answer{}, &Error{
			Code:    codeInternal,
			Message: err.Error(),
			Fate:    fateRefused,
		}
	}
	transport := c.transport.Load()
	resp, err := transport.RoundTrip(req)
	var text []byte
	if err == nil {
		text, err = c.readBody(resp)
	}
	if err != nil {
		e := r.noAnswer(ctx, err)
		if !connected {
			e.Fate = fateUnsent
			proxy, _ := transport.Proxy(req) // the variables that name it were checked at the start
			e.blame(proxy)
		}
		if e.Code == codeTimeout {
			c.renew(transport)
		}
		return Answer{}, e
	}
	if resp.StatusCode < 300 && int64(len(text)) > c.MaxBytes {
		return Answer{}, &Error{
			Code:    codeResultTooLarge,
			Message: fmt.Sprintf("the answer is larger than the %d MB of api.max_response_mb", c.MaxBytes>>20),
		}
	}
	return r.interpret(resp.StatusCode, resp.Header, text)
}

// request is r as HTTP.
func (c *Client) request(ctx context.Context, r *Request) (*http.Request, error) {
	body := `{"query":` + r.Query + `,"variables":` + string(r.Variables) + "}"
	req, err := http.NewRequestWithContext(
		ctx,
		http.MethodPost,
		r.URL,
		strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{
		"Content-Type": {mediaPlainJSON},
		"Accept":       {mediaGraphQL + ", " + mediaPlainJSON + ";q=0.9"},
		"User-Agent":   {"honeydew/" + c.Version},
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	return req, nil
}

// readBody reads the whole answer, or one byte more than is allowed of it. An answer of unknown length is gathered in
// pieces of at most 1 MiB; those of io.ReadAll grow with the whole: measured with an answer of 95 MB, the process took
// 45 MB more.
func (c *Client) readBody(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	limit := c.MaxBytes
	if resp.StatusCode >= 300 {
		limit = maxRefusalBytes
	}
	length := resp.ContentLength
	if length >= 0 && length <= limit {
		text := make([]byte, length)
		_, err := io.ReadFull(resp.Body, text)
		return text, err
	}
	var pieces [][]byte
	var err error
	body := io.LimitReader(resp.Body, limit+1)
	for size := int64(4 << 10); err == nil; size = min(2*size, 1<<20) {
		piece := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // room for the read that finds the end
		_, err = io.CopyN(piece, body, size)
		pieces = append(pieces, piece.Bytes())
	}
	if err != io.EOF {
		return nil, err
	}
	text := bytes.Join(pieces, nil)
	if len(text) > 8<<20 {
		runtime.GC() // or the pieces would still be there when the database makes copies of its own
	}
	return text, nil
}

// noAnswer is the failure of a request that got no whole answer.
func (r *Request) noAnswer(ctx context.Context, err error) *Error {
	e := &Error{Code: codeNetwork, Fate: fateLost}
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Message = "the request was abandoned"
		e.Cause = context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded),
		timeout != nil && timeout.Timeout():
		e.Code = codeTimeout
		e.Message = "the answer did not come in time"
		e.Cause = context.DeadlineExceeded
	case errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF):
		e.Message = "the connection was cut off"
	default:
		e.Message = r.networkWords(err)
	}
	return e
}

// blame names the proxy through which there was no connection, if there is one.
func (e *Error) blame(proxy *url.URL) {
	if proxy != nil {
		e.Message = "through the proxy " + proxy.Host + ": " + e.Message
		e.Hint = "check HTTPS_PROXY, and restart the daemon with it: honeydew stop && honeydew start"
	}
}

// networkWords says what is wrong with the network. The words of this computer are shown as they are; the others may be
// of the other side, such as a status line or a certificate's names.
func (r *Request) networkWords(err error) string {
	lookup, ok := errors.AsType[*net.DNSError](err)
	if ok && lookup.IsNotFound {
		return "there is no host called " + lookup.Name
	}
	if ok {
		return "the address of " + lookup.Name + " cannot be looked up: no name server answers"
	}
	op, ok := errors.AsType[*net.OpError](err)
	if ok && op.Op == "proxyconnect" {
		return r.networkWords(op.Err)
	}
	if ok && slices.Contains([]string{"dial", "read", "write"}, op.Op) {
		return fmt.Sprintf("no connection to %s: %v", op.Addr, cmp.Or(errors.Unwrap(op.Err), op.Err))
	}
	const noTLS = "the other side speaks no TLS; is https right in the URL?"
	jargon := strings.NewReplacer(
		"tls: first record does not look like a TLS handshake", noTLS,
		"http: server gave HTTP response to HTTPS client", noTLS,
		"net/http: ", "", "http: ", "", "tls: ", "", "x509: ", "")
	text := jargon.Replace(err.Error())
	words := r.shown(outside(text))
	if strings.HasSuffix(text, "unknown authority") {
		words += "; if that is your own, name its certificate in SSL_CERT_FILE where the daemon is started"
	}
	return words
}

// interpret says what an answer is: by the matrix of media type, status and error code, then by its words.
func (r *Request) interpret(status int, header http.Header, text []byte) (Answer, *Error) {
	line := fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))
	hold, given := retryAfter(header.Get("Retry-After"), time.Now())
	switch {
	case status >= 300 && status < 400:
		return Answer{}, r.redirected(line, header.Get("Location"))
	case status == http.StatusTooManyRequests,
		status == http.StatusServiceUnavailable && given:
		return Answer{}, &Error{
			Code:    codeRateLimited,
			Message: fmt.Sprintf("%s; the API asks to wait %s", line, durationText(hold)),
			Fate:    fateUnsent,
			Hold:    hold,
		}
	}
	env := r.open(status, header.Get("Content-Type"), text)
	code := env.verdict()
	if code == "" {
		return Answer{Data: env.root, Partial: env.said}, r.refusedPayload(env.root)
	}
	e := &Error{
		Code:    code,
		Message: r.words(code, line, &env, text),
		Fate:    fateLost,
	}
	switch code {
	case codeAuthInvalid:
		e.Message = "refused by the API: " + e.Message
		fallthrough
	case codeAPI:
		e.Fate = fateRefused
		e.Cause = env.refuser()
	}
	return Answer{}, e
}

// words are what a failed answer says; text is the whole of it, and speaks for itself where it holds no errors.
func (r *Request) words(code, line string, env *envelope, text []byte) string {
	said := env.said
	if env.errors == 0 && !r.Private {
		said = r.shown(outside(text[:min(len(text), maxRefusalBytes)]))
	}
	switch {
	case code == codeBadResponse && env.foreign == nil:
		return "the answer lacks " + r.Field
	case code == codeBadResponse:
		return strings.TrimSuffix(fmt.Sprintf("%s, but no GraphQL answer: %s: %s", line, env.foreign, said), ": ")
	case said == "":
		return line
	case env.status < 300 && env.errors > 0:
		return said
	}
	return line + ": " + said
}

func (r *Request) redirected(line, location string) *Error {
	message := line + ": redirects are not followed"
	u, err := url.Parse(location)
	if err == nil && u.Host != "" {
		message += " (to " + r.shown(outside(u.Host)) + ")"
	}
	return &Error{
		Code:    codeBadResponse,
		Message: message,
		Fate:    fateRefused,
	}
}

// refusedPayload finds the API's own no inside a mutation's payload.
func (r *Request) refusedPayload(payload []byte) *Error {
	if !r.Mutation || string(member(payload, "success")) != "false" {
		return nil
	}
	why := r.shown(textOf(member(payload, "error")))
	return &Error{
		Code:    codeAPI,
		Message: cmp.Or(why, "the API reports no success, and no reason"),
		Fate:    fateRefused,
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
	first, _, _ := strings.Cut(strings.ReplaceAll(contentType, ",", ";"), ";")
	return strings.ToLower(strings.TrimSpace(first))
}

// retryAfter reads the header of that name: seconds or a date (RFC 9110, section 10.2.3); without a usable one, the
// default and false. A hold is at least a second, so that an API that says 0 is not asked in a loop.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if value == "" { // as in every answer that is fine: two errors less to make
		return defaultHold, false
	}
	at, err := http.ParseTime(value)
	if err != nil {
		seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil && !errors.Is(err, strconv.ErrRange) { // what is out of range comes as the largest number
			return defaultHold, false
		}
		at = now.Add(time.Duration(seconds) * time.Second)
	}
	wait := at.Sub(now).Round(time.Second)
	return min(max(wait, time.Second), maxHold), true
}

// envelope is an answer taken apart.
type envelope struct {
	status  int
	media   string
	foreign error   // why it is no GraphQL answer; nil: it is one
	root    []byte  // nil: data has no such field
	errors  int     // how many there are
	code    outside // the first error's
	said    string  // by the errors, fit to be shown
}

// open takes an answer apart without copying data.
func (r *Request) open(status int, contentType string, text []byte) envelope {
	e := envelope{status: status, media: mediaType(contentType)}
	switch {
	case e.media == mediaPlainJSON || strings.HasSuffix(e.media, "+json"):
		e.foreign = r.parse(&e, text)
	case contentType == "":
		e.foreign = errors.New("it has no media type")
	default:
		e.foreign = fmt.Errorf("its media type is %q", cutText(r.shown(outside(contentType)), maxMediaBytes))
	}
	return e
}

// parse fills e, or says why text is no GraphQL answer. It must be UTF-8, since SQL and gRPC texts are.
func (r *Request) parse(e *envelope, text []byte) error {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if !utf8.Valid(text) || !json.Valid(text) {
		return errors.New("it is not JSON in UTF-8")
	}
	text = bytes.TrimSpace(text)
	list := member(text, "errors")
	inside, isList := bytes.CutPrefix(list, []byte("["))
	switch {
	case isList:
		r.readErrors(e, inside)
	case list != nil && string(list) != "null":
		return errors.New("its errors are not a list")
	}
	data := member(text, "data")
	if e.errors == 0 && !bytes.HasPrefix(data, []byte("{")) {
		return errors.New("it has neither data nor errors")
	}
	e.root = member(data, r.Field)
	return nil
}

// readErrors reads the first of an answer's errors and counts the others: there may be tens of millions.
func (r *Request) readErrors(e *envelope, list []byte) {
	first, rest := nextValue(list)
	for value := first; len(value) > 0; value, rest = nextValue(rest) {
		e.errors++
	}
	if e.errors == 0 {
		return
	}
	code, message := readError(first)
	e.code = code
	e.said = r.shown(message)
	if code != "" {
		e.said = strings.TrimSpace(e.said + " (" + cutText(r.shown(code), maxMediaBytes) + ")")
	}
	if e.errors > 1 {
		e.said += fmt.Sprintf(", and %d more errors", e.errors-1)
	}
}

// readError reads one of an answer's errors. One that is no object, or has neither message nor code, speaks for itself.
func readError(text []byte) (code, message outside) {
	var e struct {
		Message    outside
		Extensions struct{ Code outside }
	}
	if len(text) <= maxRefusalBytes {
		_ = json.Unmarshal(text, &e) // whatever does not fit stays empty
	}
	if e.Message == "" && e.Extensions.Code == "" {
		return "", textOf(text)
	}
	return e.Extensions.Code, e.Message
}

// verdict is the code of what failed, "" for an answer that can be used.
func (e *envelope) verdict() string {
	usable := e.root != nil && string(e.root) != "null"
	// With a status of 400 or more, plain JSON may be a gateway's: what it says does not count beside the status.
	graphQL := e.foreign == nil && (e.status < 300 || e.media == mediaGraphQL)
	switch {
	case !usable && e.status == http.StatusUnauthorized,
		!usable && e.status < 500 && e.code == "UNAUTHENTICATED":
		return codeAuthInvalid
	case e.status == http.StatusRequestTimeout:
		return codeTimeout
	case graphQL && usable && e.errors > 0:
		return ""
	case e.status >= 500,
		graphQL && e.saysTrouble():
		return codeServer
	case e.status >= 400,
		graphQL && e.errors > 0:
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

// refuser is the cause of a refusal, by who has spoken.
func (e *envelope) refuser() error {
	if e.foreign == nil {
		if (e.media == mediaGraphQL || e.media == mediaPlainJSON) && e.endsLogin() {
			return errEndsLogin
		}
		return nil
	}
	switch e.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		// A service that answers a login without GraphQL may mean no by these. Only the person who just typed a
		// password is told so; no stored login ends by it.
		if e.media != "text/html" {
			return nil
		}
	}
	return errForeign
}

// endsLogin reports whether the first error, in answer to a refresh, says that the refresh token does not count.
// Nothing less does: a gateway has a 401 or 403 of its own, and a login that is given up needs a person.
func (e *envelope) endsLogin() bool {
	if e.errors == 0 {
		return false
	}
	switch e.code {
	case "UNAUTHENTICATED", "FORBIDDEN", "BAD_USER_INPUT":
		return true
	}
	words := strings.Split(string(e.code), "_") // EXPIRED_TOKEN, INVALID_REFRESH_TOKEN, TOKEN_EXPIRED
	bad := slices.Contains(words, "INVALID") || slices.Contains(words, "EXPIRED")
	return e.status == http.StatusUnauthorized || (bad && slices.Contains(words, "TOKEN"))
}

// member is the value of that name in an object of valid JSON; nil: there is none, or it is no object. Of a repeated
// name the last counts, as in encoding/json. That would make a map of all the members, of which there may be tens of
// millions, or a struct, where "Data" is data as well.
func member(object []byte, name string) (found []byte) {
	rest, isObject := bytes.CutPrefix(object, []byte("{"))
	for isObject {
		var quoted, value []byte
		quoted, rest = nextValue(rest)
		if len(quoted) == 0 {
			break
		}
		value, rest = nextValue(rest)
		if isNamed(quoted, name) {
			found = value
		}
	}
	return found
}

// isNamed reports whether a valid JSON string is name. Nearly none has an escape, so nearly none has to be copied.
func isNamed(quoted []byte, name string) bool {
	if !bytes.Contains(quoted, []byte(`\`)) {
		return string(quoted[1:len(quoted)-1]) == name
	}
	var text string
	_ = json.Unmarshal(quoted, &text)
	return text == name
}

// nextValue cuts the next value or name off what is inside an object or list of valid JSON; it is empty at the end.
//
//	"a" : [1, {}] , "b" : 2 }      "a"  and   : [1, {}] , "b" : 2 }
//	    : [1, {}] , "b" : 2 }      [1, {}]  and   , "b" : 2 }
func nextValue(inside []byte) (value, rest []byte) {
	inside = bytes.TrimLeft(inside, " \t\r\n,:")
	depth := 0
	for i := 0; i < len(inside); i++ {
		switch inside[i] {
		case '"':
			for i++; inside[i] != '"'; i++ {
				if inside[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return inside[:i], inside[i:]
			}
			depth--
		case ' ', '\t', '\r', '\n', ',', ':':
			if depth == 0 {
				return inside[:i], inside[i:]
			}
		}
	}
	return nil, nil
}
