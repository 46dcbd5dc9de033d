package main

// HTTP: what a request must look like, who may ask, and how the answer is sent. The order in graphql is the contract:
// read and count, then faults, then the token, then execution. A cut answer was therefore executed, a failed one not.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/graph-gophers/graphql-go"
	gqlerrors "github.com/graph-gophers/graphql-go/errors"
)

const (
	maxBody      = 2 << 20
	jsonType     = "application/json"
	responseType = "application/graphql-response+json"
)

// options are what a server needs; every field must be set but the faults.
type options struct {
	Schema                string // a path until serve has read it, then the SDL
	Repos, Clones         string
	User, Password        string
	AccessTTL, RefreshTTL time.Duration
	AuthErrors            string // "http" or "graphql"
	Seed                  uint64
	Faults                settings
	Log                   *log.Logger
}

// apiError is an error that a client can tell from others by extensions.code.
type apiError struct{ code, message string }

func (e apiError) Error() string              { return e.message }
func (e apiError) Extensions() map[string]any { return map[string]any{"code": e.code} }

type server struct {
	mux        *http.ServeMux
	schema     *graphql.Schema
	auth       *authority
	faults     *faults
	authErrors string
	log        *log.Logger
}

func newServer(o options) (*server, error) {
	s := &server{
		mux:        http.NewServeMux(),
		auth:       newAuthority(o),
		faults:     newFaults(o.Faults, o.Seed),
		authErrors: o.AuthErrors,
		log:        o.Log,
	}
	root := &resolver{
		auth:   s.auth,
		repos:  repositories{dir: o.Repos},
		clones: o.Clones,
		work:   calendar{now: time.Now},
	}
	var err error
	if s.schema, err = graphql.ParseSchema(o.Schema, root, graphql.UseFieldResolvers(), graphql.MaxDepth(20)); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	s.mux.HandleFunc("POST /graphql", s.graphql)
	s.mux.HandleFunc("GET /control", s.showControl)
	s.mux.HandleFunc("POST /control", s.setControl)
	return s, nil
}

// ServeHTTP logs around the handlers; an aborted answer is logged too.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	start := time.Now()
	defer func() {
		s.log.Printf("%s %s %d %v %s", r.Method, r.URL.Path, rec.status, time.Since(start).Round(time.Microsecond), rec.note)
	}()
	s.mux.ServeHTTP(rec, r)
}

// recorder remembers what the log line needs.
type recorder struct {
	http.ResponseWriter
	status int
	note   string
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

type request struct {
	Query         string         `json:"query"`
	OperationName string         `json:"operationName"`
	Variables     map[string]any `json:"variables"`
}

func (s *server) graphql(w http.ResponseWriter, r *http.Request) {
	var req request
	if status, err := readJSON(w, r, &req); err != nil {
		s.sendErrors(w, r, status, apiError{"BAD_REQUEST", err.Error()})
		return
	}
	fields := rootFields(req.Query, req.OperationName)
	if rec, ok := w.(*recorder); ok {
		rec.note = strings.Join(fields, ",")
	}
	s.faults.count(fields)
	f, err := s.faults.next(r.Context(), isAuth(fields))
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	switch {
	case f.hang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case f.html:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>Sign in</title><p>Welcome to the network. Please sign in.</p>\n")
		return
	case f.status == http.StatusUnauthorized:
		s.sendUnauthenticated(w, r, "sandbox fault: token refused")
		return
	case f.status != 0:
		if f.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.retryAfter))
		}
		s.sendErrors(w, r, f.status, apiError{faultCode(f.status), fmt.Sprintf("sandbox fault: %d %s", f.status, http.StatusText(f.status))})
		return
	}
	if !isAuth(fields) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if err := s.auth.authorize(token); err != nil {
			s.sendUnauthenticated(w, r, err.Error())
			return
		}
	}
	status, body := s.execute(r.Context(), req, answerType(r))
	s.sendFaulty(w, r, f, status, body)
}

// faultCode is what GraphQL servers call a status.
func faultCode(status int) string {
	code, ok := map[int]string{500: "INTERNAL_SERVER_ERROR", 502: "BAD_GATEWAY", 503: "SERVICE_UNAVAILABLE", 504: "GATEWAY_TIMEOUT"}[status]
	if !ok {
		return "SANDBOX_FAULT"
	}
	return code
}

// execute answers 400 for a document that was not executed only in the media type that gives such a status a meaning;
// in plain application/json, clients of old expect 200.
func (s *server) execute(ctx context.Context, req request, contentType string) (status int, body []byte) {
	resp := s.schema.Exec(ctx, req.Query, req.OperationName, req.Variables)
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler) // the sandbox ends, or the client is gone: that is no answer of a GraphQL server
	}
	status = http.StatusOK
	if resp.Data == nil && contentType == responseType {
		status = http.StatusBadRequest
	}
	body, err := json.Marshal(resp)
	if err != nil {
		return http.StatusInternalServerError, []byte(`{"errors":[{"message":"answer cannot be encoded"}]}`)
	}
	return status, body
}

// sendFaulty sends an answer whole, or half, or slowly.
func (s *server) sendFaulty(w http.ResponseWriter, r *http.Request, f fault, status int, body []byte) {
	w.Header().Set("Content-Type", answerType(r))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	flush := http.NewResponseController(w).Flush
	switch {
	case f.cut:
		w.Write(body[:len(body)/2])
		flush()
		panic(http.ErrAbortHandler) // closes the connection; a plain return would only be logged as a mistake
	case f.slow > 0:
		const pieces = 20
		size := (len(body) + pieces - 1) / pieces
		for len(body) > 0 {
			n := min(size, len(body))
			w.Write(body[:n])
			flush()
			if body = body[n:]; sleep(r.Context(), f.slow/pieces) != nil {
				panic(http.ErrAbortHandler)
			}
		}
	default:
		w.Write(body)
	}
}

func (s *server) sendUnauthenticated(w http.ResponseWriter, r *http.Request, message string) {
	status := http.StatusUnauthorized
	if s.authErrors == "graphql" {
		status = http.StatusOK
	} else {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	s.sendErrors(w, r, status, apiError{codeUnauthenticated, message})
}

func (s *server) sendErrors(w http.ResponseWriter, r *http.Request, status int, e apiError) {
	resp := graphql.Response{
		Errors: []*gqlerrors.QueryError{{Message: e.message, Extensions: e.Extensions()}},
		Data:   json.RawMessage("null"),
	}
	sendJSON(w, answerType(r), status, resp)
}

func (s *server) showControl(w http.ResponseWriter, r *http.Request) {
	sendJSON(w, jsonType, http.StatusOK, s.control())
}

// setControl changes the settings that the body names and leaves the others.
func (s *server) setControl(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	status, err := readJSON(w, r, &raw)
	if err == nil {
		var revoke bool
		if revoke, err = s.faults.change(raw); revoke {
			s.auth.revokeAll()
		}
		status = http.StatusBadRequest
	}
	if err != nil {
		sendJSON(w, jsonType, status, map[string]string{"error": err.Error()})
		return
	}
	sendJSON(w, jsonType, http.StatusOK, s.control())
}

// control is what /control shows.
type control struct {
	Settings settings `json:"settings"`
	Counters struct {
		requestCounters
		authCounters
	} `json:"counters"`
}

func (s *server) control() (c control) {
	c.Settings, c.Counters.requestCounters = s.faults.snapshot()
	c.Counters.authCounters = s.auth.counters()
	return c
}

// readJSON also keeps web pages out: a browser asks before it sends application/json to another site, and nobody
// answers that question here.
func readJSON(w http.ResponseWriter, r *http.Request, into any) (status int, err error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != jsonType {
		return http.StatusUnsupportedMediaType, errors.New("Content-Type must be application/json")
	}
	err = readBody(w, r, into)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge, err
	}
	return http.StatusBadRequest, err
}

// readBody reads to the end: only then does the server notice that a client goes away.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// answerType prefers the media type in which a status other than 200 is GraphQL too.
func answerType(r *http.Request) string {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			if t, _, err := mime.ParseMediaType(part); err == nil && t == responseType {
				return responseType
			}
		}
	}
	return jsonType
}

func sendJSON(w http.ResponseWriter, contentType string, status int, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// sleep waits for d, or gives the reason why ctx ended before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
