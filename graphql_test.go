package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	mediaJSON = "application/json"
	mediaHTML = "text/html; charset=utf-8"
)

func newTestClient(t testing.TB, maxBytes int64) *Client {
	t.Helper()
	c := newClient(clientOptions{Version: "1.2.3", MaxBytes: maxBytes, OnProxy: func(string) {}})
	t.Cleanup(func() { transportOf(c).CloseIdleConnections() })
	return c
}

func transportOf(c *Client) *http.Transport { return c.transport.Load() }

func serve(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func serveJSON(t testing.TB, body string) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaJSON)
		_, _ = io.WriteString(w, body)
	})
}

// serveRaw answers every connection, once its request's head has come, by what answer writes, and then cuts it.
func serveRaw(t testing.TB, answer func(conn net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 64<<10)); err == nil {
					answer(conn)
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// askMe sends the one query of these tests and returns its error as what it must be.
func askMe(t testing.TB, c *Client, r Request) (Answer, *Error) {
	t.Helper()
	if r.Query == "" {
		r.Query, r.Field = `"query Me { me { id } }"`, "me"
	}
	if r.Variables == nil {
		r.Variables = []byte(`{}`)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer, err := c.Do(ctx, r)
	if err == nil {
		return answer, nil
	}
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	return answer, e
}

func TestAnswersAreJudgedByMediaTypeStatusAndErrorCode(t *testing.T) {
	// What becomes of an attempt; Hold is tested apart.
	type verdict struct {
		code string
		fate Fate
	}
	var (
		invalid  = verdict{codeAuthInvalid, fateRefused}
		timeout  = verdict{codeTimeout, fateLost}
		server   = verdict{codeServer, fateLost}
		api      = verdict{codeAPI, fateRefused}
		bad      = verdict{codeBadResponse, fateLost}
		redirect = verdict{codeBadResponse, fateRefused}
		limited  = verdict{codeRateLimited, fateUnsent}
		fine     = verdict{}
	)
	const (
		data      = `{"data":{"me":{"id":"1"}}}`
		null      = `{"data":{"me":null}}`
		noData    = `{"data":null}`
		missing   = `{"data":{"you":1}}`
		plainErr  = `{"errors":[{"message":"no such user"}]}`
		nullErr   = `{"data":{"me":null},"errors":[{"message":"boom"}]}`
		partial   = `{"data":{"me":{"id":"1"}},"errors":[{"message":"half","extensions":{"code":"FORBIDDEN"}}]}`
		unauth    = `{"errors":[{"message":"who?","extensions":{"code":"UNAUTHENTICATED"}}]}`
		unauthNil = `{"data":null,"errors":[{"message":"who?","extensions":{"code":"UNAUTHENTICATED"}}]}`
		unauthMe  = `{"data":{"me":{"id":"1"}},"errors":[{"message":"who?","extensions":{"code":"UNAUTHENTICATED"}}]}`
		forbidden = `{"errors":[{"message":"no","extensions":{"code":"FORBIDDEN"}}]}`
		internal  = `{"errors":[{"message":"oops","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}`
		second    = `{"errors":[{"message":"no"},{"message":"oops","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}`
		html      = `<!DOCTYPE html><title>x</title>`
	)
	tests := []struct {
		status      int
		media, body string
		want        verdict
	}{
		{200, mediaJSON, data, fine},
		{200, mediaGraphQL, data, fine},
		{200, mediaJSON + "; charset=utf-8", data, fine},
		{200, "application/problem+json", data, fine},
		{201, mediaJSON, data, fine},
		{200, mediaJSON, null, fine},
		{200, mediaJSON, partial, fine},
		{200, mediaJSON, unauthMe, fine}, // a mutation with data is never sent again
		{200, mediaJSON, `{"data":{"me":0},"errors":[]}`, fine},
		{200, mediaJSON, `{"data":{"me":1},"errors":null}`, fine},

		{200, mediaJSON + ", " + mediaJSON, data, fine},
		{200, mediaJSON + "," + mediaJSON + "; charset=utf-8", data, fine},
		{200, mediaJSON + "; charset=utf-8; charset=utf-8", data, fine},
		{200, mediaJSON + "; charset=utf-8; charset=latin1", data, fine},
		{200, mediaJSON + ";;", data, fine},
		{200, mediaJSON + "; charset", data, fine},
		{200, mediaJSON + `; charset="utf-8`, data, fine},
		{200, "Application/JSON ;charset=utf-8", data, fine},
		{400, mediaGraphQL + ", " + mediaGraphQL, internal, server},
		{200, mediaHTML + ", " + mediaJSON, data, bad},
		{200, "application json", data, bad},
		{200, ";", data, bad},
		{200, mediaJSON, "\ufeff" + data, fine},
		{200, mediaJSON, "\ufeff " + plainErr, api},
		{200, mediaJSON, "\ufeff\ufeff" + data, bad},
		{200, mediaJSON, "\ufeff", bad},

		{200, mediaHTML, html, bad},
		{200, mediaHTML, data, bad},
		{200, "", data, bad},
		{200, "text/plain", data, bad},
		{200, mediaJSON, html, bad},
		{200, mediaJSON, ``, bad},
		{200, mediaJSON, `[]`, bad},
		{200, mediaJSON, `null`, bad},
		{200, mediaJSON, `{}`, bad},
		{200, mediaJSON, data + data, bad},
		{200, mediaJSON, data[:len(data)-1], bad},
		{200, mediaJSON, noData, bad},
		{200, mediaJSON, missing, bad},
		{200, mediaJSON, `{"data":[1]}`, bad},
		{200, mediaJSON, `{"data":null,"errors":[]}`, bad},
		{200, mediaJSON, `{"errors":[]}`, bad},
		{200, mediaJSON, `{"data":{"me":1},"errors":{}}`, bad},
		{200, mediaJSON, `{"data":{"me":1},"errors":"x"}`, bad},
		{200, mediaJSON, "{\"data\":{\"me\":\"\xff\"}}", bad},

		{200, mediaJSON, plainErr, api},
		{200, mediaJSON, nullErr, api},
		{200, mediaJSON, forbidden, api},
		{200, mediaJSON, second, api}, // the first error decides
		{200, mediaJSON, `{"data":{"you":1},"errors":[{"message":"x"}]}`, api},
		{200, mediaJSON, `{"errors":[{}]}`, api},
		{200, mediaJSON, `{"errors":[null]}`, api},
		{200, mediaJSON, `{"errors":["text"]}`, api},
		{200, mediaJSON, `{"errors":[{"message":7,"extensions":{"code":"UNAUTHENTICATED"}}]}`, invalid},
		{200, mediaJSON, `{"errors":[{"message":"x","extensions":{"code":401}}]}`, api},
		{200, mediaJSON, `{"errors":[{"message":"x","extensions":{"code":["UNAUTHENTICATED"]}}]}`, api},
		{200, mediaJSON, `{"errors":[{"message":"x","extensions":{"code":null}}]}`, api},
		{200, mediaJSON, `{"errors":[{"message":"x","extensions":"UNAUTHENTICATED"}]}`, api},
		{200, mediaJSON, `{"errors":[{"message":"x","extensions":null}]}`, api},
		{200, mediaJSON, internal, server},
		{200, mediaJSON, strings.Replace(internal, "INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", 1), server},
		{200, mediaJSON, strings.Replace(internal, "INTERNAL_SERVER_ERROR", "BAD_GATEWAY", 1), server},
		{200, mediaJSON, strings.Replace(internal, "INTERNAL_SERVER_ERROR", "GATEWAY_TIMEOUT", 1), server},
		{200, mediaJSON, strings.Replace(internal, "INTERNAL_SERVER_ERROR", "TIMEOUT", 1), server},
		{200, mediaJSON, strings.Replace(internal, "INTERNAL_SERVER_ERROR", "internal_server_error", 1), api},
		{200, mediaJSON, unauth, invalid},
		{200, mediaJSON, unauthNil, invalid},

		{301, mediaHTML, html, redirect},
		{304, "", "", redirect},
		{307, mediaJSON, data, redirect},
		{400, mediaJSON, plainErr, api},
		{400, mediaJSON, unauth, invalid},
		{400, mediaJSON, internal, api}, // not trusted as GraphQL
		{400, mediaGraphQL, internal, server},
		{400, mediaGraphQL, plainErr, api},
		{400, mediaGraphQL, noData, api},
		{400, mediaGraphQL, data, api},
		{400, mediaJSON, data, api},
		{401, mediaJSON, ``, invalid},
		{401, mediaJSON, plainErr, invalid},
		{401, mediaGraphQL, forbidden, invalid},
		{401, mediaGraphQL, unauthMe, fine},
		{401, mediaJSON, data, api}, // carried out, it seems: not to be sent again
		{401, mediaHTML, html, invalid},
		{403, mediaJSON, forbidden, api},
		{403, mediaHTML, html, api},
		{404, mediaHTML, html, api},
		{404, mediaJSON, data, api},
		{408, mediaHTML, html, timeout},
		{408, mediaGraphQL, plainErr, timeout},
		{413, mediaHTML, html, api},
		{418, "", "", api},
		{429, mediaHTML, html, limited},
		{429, mediaJSON, data, limited},
		{500, mediaHTML, html, server},
		{500, mediaJSON, plainErr, server},
		{500, mediaJSON, data, server},
		{500, mediaJSON, unauth, server}, // trouble over there says nothing of the token
		{500, mediaGraphQL, plainErr, server},
		{500, mediaGraphQL, forbidden, server}, // 5xx is SERVER_ERROR, whatever the errors say
		{500, mediaGraphQL, partial, fine},
		{500, mediaGraphQL, data, server},
		{500, mediaGraphQL, noData, server},
		{502, mediaHTML, html, server},
		{503, mediaHTML, html, server},
		{504, mediaHTML, html, server},
		{599, "", "", server},
	}
	c := newTestClient(t, 1<<20)
	for i, test := range tests {
		t.Run(fmt.Sprint(i, " ", test.status, " ", test.media, " ", test.body), func(t *testing.T) {
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = nil // no guess by net/http
				if test.media != "" {
					w.Header().Set("Content-Type", test.media)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			answer, e := askMe(t, c, Request{URL: address})
			got := verdict{}
			if e != nil {
				got = verdict{e.Code, e.Fate}
			}
			if got != test.want {
				t.Fatalf("judged %+v (%v), want %+v", got, e, test.want)
			}
			if (e == nil) != (len(answer.Data) > 0) {
				t.Fatalf("data %q beside error %v", answer.Data, e)
			}
			if e != nil && e.Hold > 0 != (test.want == limited) {
				t.Fatalf("a hold of %s", e.Hold)
			}
		})
	}
}

func TestRefusalsSayWhatTheAPISaid(t *testing.T) {
	tests := []struct {
		status            int
		media, body, want string
	}{
		{200, mediaJSON, `{"errors":[{"message":"no such user","extensions":{"code":"NOT_FOUND"}}]}`, "API_ERROR: no such user (NOT_FOUND)"},
		{200, mediaJSON, `{"errors":[{"message":"a"},{"message":"b"},{}]}`, "API_ERROR: a, and 2 more errors"},
		{200, mediaJSON, `{"errors":["the text"," and"]}`, "API_ERROR: the text, and 1 more errors"},
		{200, mediaJSON, `{"errors":[7]}`, "API_ERROR: 7"},
		{200, mediaJSON, `{"errors":[{"reason":"r"}]}`, `API_ERROR: {"reason":"r"}`},
		{200, mediaJSON, `{"errors":[{"extensions":{"code":"NOT_FOUND"}}]}`, "API_ERROR: (NOT_FOUND)"},
		{200, mediaJSON + "; charset=utf-8; charset=utf-8", `{}`, "BAD_RESPONSE: HTTP 200 OK, but no GraphQL answer: it has neither data nor errors: {}"},
		{200, "application json", "hi", `BAD_RESPONSE: HTTP 200 OK, but no GraphQL answer: its media type is "application json": hi`},
		{200, "", "hi", "BAD_RESPONSE: HTTP 200 OK, but no GraphQL answer: it has no media type: hi"},
		{404, mediaHTML, "<h1>\n  not\there\x1b[31m</h1>", "API_ERROR: HTTP 404 Not Found: <h1> not here[31m</h1>"},
		{500, mediaJSON, `{"errors":[{"message":"boom"}]}`, "SERVER_ERROR: HTTP 500 Internal Server Error: boom"},
		{500, mediaJSON, " \n ", "SERVER_ERROR: HTTP 500 Internal Server Error"},
		{200, mediaHTML, "hi", `BAD_RESPONSE: HTTP 200 OK, but no GraphQL answer: its media type is "text/html; charset=utf-8": hi`},
		{400, mediaGraphQL, `{"data":null}`, "API_ERROR: HTTP 400 Bad Request"},
		{429, mediaHTML, "slow", "RATE_LIMITED: HTTP 429 Too Many Requests; the API asks to wait 1m"},
	}
	c := newTestClient(t, 1<<20)
	for _, test := range tests {
		address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil // no guess by net/http
			if test.media != "" {
				w.Header().Set("Content-Type", test.media)
			}
			w.WriteHeader(test.status)
			_, _ = io.WriteString(w, test.body)
		})
		if _, e := askMe(t, c, Request{URL: address}); e == nil || !strings.HasPrefix(e.Error(), test.want) {
			t.Errorf("%d %s: said %v, want %q", test.status, test.body, e, test.want)
		}
	}
}

func TestOnlyTheServiceItselfRefuses(t *testing.T) {
	tests := []struct {
		status      int
		media, body string
		foreign     bool
	}{
		{400, mediaJSON, `{"errors":[{"message":"x"}]}`, false},
		{401, "text/plain", `bad token`, false},
		{403, "text/plain", `no`, false},
		{404, mediaJSON, `{"errors":[{"message":"x"}]}`, false},
		{401, mediaHTML, `<h1>proxy</h1>`, true},
		{403, mediaHTML, `<h1>firewall</h1>`, true},
		{404, "text/plain", `404 page not found`, true},
		{407, "", ``, true},
	}
	for _, test := range tests {
		_, e := (&Request{Field: "me"}).interpret(test.status, http.Header{"Content-Type": {test.media}}, []byte(test.body))
		if errors.Is(e, errForeign) != test.foreign || refusedByAPI(e) == test.foreign {
			t.Errorf("%d %s: foreign %v, refused by the API %v", test.status, test.media, errors.Is(e, errForeign), refusedByAPI(e))
		}
	}
}

func TestOnlyTheServicesOwnWordsEndALogin(t *testing.T) {
	const mine = "application/problem+json"
	says := func(code string) string {
		return `{"errors":[{"message":"x","extensions":{"code":"` + code + `"}},{"extensions":{"code":"UNAUTHENTICATED"}}]}`
	}
	tests := []struct {
		status      int
		media, body string
		ends        bool
	}{
		{200, mediaJSON, says("UNAUTHENTICATED"), true},
		{200, mediaGraphQL, says("FORBIDDEN"), true},
		{200, mediaJSON + "; charset=utf-8", says("BAD_USER_INPUT"), true},
		{200, mediaJSON, says("INVALID_TOKEN"), true},
		{200, mediaJSON, says("EXPIRED_TOKEN"), true},
		{200, mediaJSON, says("INVALID_REFRESH_TOKEN"), true},
		{200, mediaJSON, says("EXPIRED_REFRESH_TOKEN"), true},
		{200, mediaJSON, says("TOKEN_INVALID"), true},
		{200, mediaJSON, says("TOKEN_EXPIRED"), true},
		{400, mediaJSON, says("BAD_USER_INPUT"), true},
		{403, mediaGraphQL, says("FORBIDDEN"), true},
		{401, mediaJSON, says("WHATEVER"), true},
		{401, mediaGraphQL, `{"errors":[{"message":"x"}]}`, true},

		{200, mediaJSON, says(""), false},
		{200, mediaJSON, says("NOT_FOUND"), false},
		{200, mediaJSON, says("TOKEN_BUCKET_EMPTY"), false},
		{200, mediaJSON, says("INVALID_QUERY"), false},
		{200, mediaJSON, says("unauthenticated"), false},
		{200, mediaJSON, `{"errors":[{"message":"invalid token"}]}`, false},
		{200, mediaHTML, says("UNAUTHENTICATED"), false},
		{200, mine, says("UNAUTHENTICATED"), false},
		{400, mediaJSON, `{"error":"invalid_token"}`, false},
		{400, mediaJSON, `{"errors":[]}`, false},
		{401, mediaJSON, `{"message":"Unauthorized"}`, false},
		{401, mediaJSON, ``, false},
		{401, mediaHTML, `<h1>`, false},
		{401, "text/plain", `no`, false},
		{403, mediaJSON, `{"message":"Forbidden"}`, false},
		{403, "text/plain", `no`, false},
		{407, mediaJSON, says(""), false},
		{408, mediaJSON, says("UNAUTHENTICATED"), true},
		{429, mediaJSON, says("UNAUTHENTICATED"), false},
		{500, mediaGraphQL, says("UNAUTHENTICATED"), false},
		{503, mediaGraphQL, says("FORBIDDEN"), false},
	}
	for _, test := range tests {
		_, e := (&Request{Field: "me"}).interpret(test.status, http.Header{"Content-Type": {test.media}}, []byte(test.body))
		if errors.Is(e, errEndsLogin) != test.ends {
			t.Errorf("%d %s %s: ends the login: %v (%v)", test.status, test.media, test.body, !test.ends, e)
		}
	}
}

func TestOnlyDataMayBeLargeInMemory(t *testing.T) {
	const size = 20 << 20
	long := `"` + strings.Repeat("x", size) + `"`
	for name, body := range map[string]string{
		"numbers":           `{"errors":[` + strings.Repeat("0,", size/2) + `0]}`,
		"objects":           `{"errors":[` + strings.Repeat("{},", size/3) + `{}]}`,
		"errors":            `{"errors":[` + strings.Repeat(`{"message":"x"},`, size/16) + `{}]}`,
		"a long text":       `{"errors":[` + long + `]}`,
		"a long message":    `{"errors":[{"message":` + long + `}]}`,
		"a long code":       `{"errors":[{"message":"x","extensions":{"code":` + long + `}}]}`,
		"a long reason":     `{"data":{"me":{"success":false,"error":` + long + `}}}`,
		"a list of reasons": `{"data":{"me":{"success":false,"error":[` + strings.Repeat("0,", size/2) + `0]}}}`,
		"no GraphQL":        `[` + strings.Repeat("0,", size/2) + `0]`,
	} {
		r := Request{Field: "me", Token: "t0ken-canary", Mutation: true}
		text := []byte(body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, e := r.interpret(200, http.Header{"Content-Type": {mediaJSON}}, text)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
			t.Errorf("%s: %d MiB were allocated beside the answer's %d", name, used>>20, len(text)>>20)
		}
		if e == nil || len(e.Message) > maxErrorTextInBytes {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestDataComesThroughByteForByte(t *testing.T) {
	for _, value := range []string{
		`9007199254740993`, `-0.10E+07`, `1e400`, `"\u00e9\ud83d\ude00é \/"`, `{ "a" : [ 1 ,	2 ] ,` + "\r\n" + `"a":{}}`, `[]`, `{}`, `true`, `""`,
		`"}],\"data\":"`, `"\\"`, `"\\\""`, `[[{"x":"]"}],"{"]`, `"\ud800"`, strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
	} {
		for _, body := range []string{
			`{"data":{"me":` + value + `}}`,
			" {\n\"extensions\" : {\"me\":1}, \"data\"\t:\r{ \"you\" : {\"me\":2} , \"me\" : " + value + " , \"x\":\"me\" } } \n",
			`{"data":{"me":0},"data":{"me":1,"me":` + value + `}}`, // of a repeated key the last counts, as in encoding/json
			`{"d\u0061ta":{"m\u0065":` + value + `},"Data":{"me":0}}`,
		} {
			answer, e := (&Request{Field: "me"}).interpret(200, http.Header{"Content-Type": {mediaJSON}}, []byte(body))
			if e != nil || string(answer.Data) != value {
				t.Errorf("from %.200q: %.100q (%v), want %.100q", body, answer.Data, e, value)
			}
		}
	}
}

func TestPartialAnswerKeepsItsDataAndSaysSo(t *testing.T) {
	body := `{"data":{"me":{"id":"1"}},"errors":[{"message":"half\nof it","extensions":{"code":"FORBIDDEN"}},{"message":"x"}]}`
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", mediaJSON)
		_, _ = io.WriteString(w, body)
	})
	answer, e := askMe(t, newTestClient(t, 1<<20), Request{URL: address, Token: "half"})
	if e != nil || string(answer.Data) != `{"id":"1"}` || answer.Partial != "[redacted] of it (FORBIDDEN), and 1 more errors" {
		t.Fatalf("%+v, %v", answer, e)
	}
}

func TestRequestHasTheContractsForm(t *testing.T) {
	var got *http.Request
	var body []byte
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", mediaJSON)
		_, _ = io.WriteString(w, `{"data":{"me":1}}`)
	})
	query := "# \"quoted\"\nquery Me($a: String) { me(a: $a) }"
	quotedQuery, _ := json.Marshal(query)
	c := newTestClient(t, 1<<20)
	if _, e := askMe(t, c, Request{URL: address + "/graphql?x=1", Token: "abc", Query: string(quotedQuery), Field: "me", Variables: []byte(`{"a":"é\u0000","n":9007199254740993}`)}); e != nil {
		t.Fatal(e)
	}
	want := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/graphql-response+json, application/json;q=0.9"},
		"User-Agent": {"honeydew/1.2.3"}, "Authorization": {"Bearer abc"}}
	for name, values := range want {
		if fmt.Sprint(got.Header[name]) != fmt.Sprint(values) {
			t.Errorf("%s: %q, want %q", name, got.Header[name], values)
		}
	}
	if got.Method != "POST" || got.URL.String() != "/graphql?x=1" {
		t.Errorf("%s %s", got.Method, got.URL)
	}
	var sent map[string]json.RawMessage
	var text string
	if err := json.Unmarshal(body, &sent); err != nil || json.Unmarshal(sent["query"], &text) != nil || len(sent) != 2 || text != query ||
		string(sent["variables"]) != `{"a":"é\u0000","n":9007199254740993}` {
		t.Errorf("body %s (%v)", body, err)
	}
	if _, e := askMe(t, c, Request{URL: address}); e != nil || got.Header["Authorization"] != nil {
		t.Errorf("without a token: %q, %v", got.Header["Authorization"], e)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var strayed atomic.Int32
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { strayed.Add(1) })
	otherHost := strings.Replace(other, "127.0.0.1", "localhost", 1)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, target := range []string{"/elsewhere", other, otherHost + "/x", "http://[bad"} {
			var hits atomic.Int32
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				hits.Add(1)
				w.Header()["Location"] = []string{target}
				w.WriteHeader(status)
			})
			_, e := askMe(t, newTestClient(t, 1<<20), Request{URL: address, Token: "t0ken", Variables: []byte(`{"password":"p"}`)})
			if e == nil || e.Code != codeBadResponse || e.Fate != fateRefused || hits.Load() != 1 {
				t.Errorf("%d to %s: %v after %d requests", status, target, e, hits.Load())
			}
			if u, err := url.Parse(target); err == nil && u.Host != "" && !strings.Contains(e.Message, u.Host) {
				t.Errorf("%d to %s: %q does not name the host", status, target, e.Message)
			}
		}
	}
	if n := strayed.Load(); n != 0 {
		t.Errorf("%d requests went to the redirect's target", n)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	tests := []struct {
		value string
		want  time.Duration
		asked bool
	}{
		{"30", 30 * time.Second, true}, {" 30 ", 30 * time.Second, true}, {"0", time.Second, true}, {"3600", time.Hour, true},
		{"3601", time.Hour, true}, {"99999999999999999999999999", time.Hour, true}, {"18446744073709551615", time.Hour, true},
		{at(90 * time.Second), 90 * time.Second, true}, {at(-time.Hour), time.Second, true}, {at(24 * time.Hour), time.Hour, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", time.Hour, true}, {now.Add(time.Minute).Format(time.RFC850), time.Minute, true},
		{"", time.Minute, false}, {"soon", time.Minute, false}, {"-5", time.Minute, false}, {"1.5", time.Minute, false}, {"5 s", time.Minute, false},
	}
	for _, test := range tests {
		if got, asked := retryAfter(test.value, now); got != test.want || asked != test.asked {
			t.Errorf("%q: %s, %v, want %s, %v", test.value, got, asked, test.want, test.asked)
		}
	}
	for _, test := range []struct {
		status int
		header http.Header
		want   Error
	}{
		{429, nil, Error{Code: codeRateLimited, Hold: time.Minute, Fate: fateUnsent}},
		{429, http.Header{"Retry-After": {"7"}}, Error{Code: codeRateLimited, Hold: 7 * time.Second, Fate: fateUnsent}},
		{503, http.Header{"Retry-After": {"7"}}, Error{Code: codeRateLimited, Hold: 7 * time.Second, Fate: fateUnsent}},
		{503, nil, Error{Code: codeServer, Fate: fateLost}},
		{503, http.Header{"Retry-After": {"soon"}}, Error{Code: codeServer, Fate: fateLost}},
		{500, http.Header{"Retry-After": {"7"}}, Error{Code: codeServer, Fate: fateLost}},
	} {
		_, e := (&Request{Field: "me"}).interpret(test.status, test.header, nil)
		if got := (Error{Code: e.Code, Hold: e.Hold, Fate: e.Fate}); got != test.want {
			t.Errorf("%d %v: %+v, want %+v", test.status, test.header, got, test.want)
		}
	}
}

// closedAddress is one that nobody listens at. A port that was free a moment ago may be another test's by now.
const closedAddress = "127.0.0.1:1"

// serveUnderNobodysCertificate is the URL of a server whose certificate no authority has signed.
func serveUnderNobodysCertificate(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestUnsentOnlyWhenNoConnectionWasMade(t *testing.T) {
	secure := serveUnderNobodysCertificate(t)
	tests := []struct {
		name, url string
		unsent    bool
	}{
		{"nothing listens", "http://" + closedAddress, true},
		{"a certificate of nobody", secure, true},
		{"no TLS on the other side", "https" + strings.TrimPrefix(serveRaw(t, func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n") }), "http"), true},
		{"cut before the answer", serveRaw(t, func(net.Conn) {}), false},
		{"cut inside the head", serveRaw(t, func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Ty") }), false},
		{"no HTTP", serveRaw(t, func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-x\r\n") }), false},
		{"cut inside a body of known length", serveRaw(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"+`{"data":{"me":1}}`)
		}), false},
		{"cut inside a chunk", serveRaw(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n"+`{"data":{"me":1}}`)
		}), false},
		{"cut between chunks", serveRaw(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n"+`{"data":{"me":1}}`+"\r\n")
		}), false},
		{"cut where a piece of 4 KiB ends", serveRaw(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n"+`{"data":{"me":1}}`+strings.Repeat(" ", 4096-17)+"\r\n")
		}), false},
		{"cut inside gzip", serveRaw(t, func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n"+gzipped(`{"data":{"me":1}}`)[:24])
		}), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, e := askMe(t, newTestClient(t, 1<<20), Request{URL: test.url, Token: "t"})
			if e == nil || e.Code != codeNetwork || (e.Fate == fateUnsent) != test.unsent || e.Fate == fateUnknown || e.Fate == fateRefused || e.Hold != 0 {
				t.Fatalf("%+v", e)
			}
			if strings.Contains(e.Message, "://") {
				t.Errorf("the URL is repeated: %q", e.Message)
			}
		})
	}
}

func TestNetworkTroubleInPlainWords(t *testing.T) {
	const dead = closedAddress
	secure := serveUnderNobodysCertificate(t)
	guard := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) })
	ssh := serveRaw(t, func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-x\r\n") })
	for _, row := range []struct {
		url, proxy, words string
		hint              bool
	}{
		{"http://" + dead, "", "no connection to " + dead + ": connection refused", false},
		{"https://nowhere.invalid", "", " nowhere.invalid", false},
		{secure, "", "certificate signed by unknown authority; if that is your own, name its certificate in SSL_CERT_FILE", false},
		{"https" + strings.TrimPrefix(guard, "http"), "", "the other side speaks no TLS; is https right in the URL?", false},
		{"https" + strings.TrimPrefix(ssh, "http"), "", "the other side speaks no TLS; is https right in the URL?", false},
		{"https://nowhere.invalid", "http://" + dead, "through the proxy " + dead + ": no connection to " + dead + ": connection refused", true},
		{"https://nowhere.invalid", "http://nowhere.invalid:1", "through the proxy nowhere.invalid:1: the", true},
		{"https://nowhere.invalid", guard, "through the proxy " + strings.TrimPrefix(guard, "http://") + ": Proxy Authentication Required", true},
	} {
		c := newTestClient(t, 1<<20)
		if row.proxy != "" {
			proxy, err := url.Parse(row.proxy)
			if err != nil {
				t.Fatal(err)
			}
			transportOf(c).Proxy = http.ProxyURL(proxy)
		}
		_, e := askMe(t, c, Request{URL: row.url})
		if e == nil || e.Code != codeNetwork || e.Fate != fateUnsent || !strings.Contains(e.Message, row.words) || (e.Hint != "") != row.hint {
			t.Errorf("%s through %q: %+v, want %s", row.url, row.proxy, e, row.words)
		}
		if regexp.MustCompile("dial|tcp|lookup|proxyconnect|x509|tls:|http:").MatchString(e.Message) {
			t.Errorf("%s through %q says %s", row.url, row.proxy, e.Message)
		}
	}
}

// forwarder stands between a client and a server. What is swallowed is every byte of the connections that there are.
type forwarder struct {
	net.Listener
	target   string
	mu       sync.Mutex
	swallow  []*atomic.Bool
	accepted int
}

func newForwarder(t testing.TB, target string) *forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{Listener: listener, target: target}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.serve(t)
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return f
}

func (f *forwarder) serve(t testing.TB) {
	for {
		client, err := f.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", f.target)
		if err != nil {
			t.Error(err)
			client.Close()
			continue
		}
		swallowed := &atomic.Bool{}
		f.mu.Lock()
		f.accepted++
		f.swallow = append(f.swallow, swallowed)
		f.mu.Unlock()
		pipe := func(to, from net.Conn) {
			defer to.Close()
			buffer := make([]byte, 64<<10)
			for {
				n, err := from.Read(buffer)
				if err != nil {
					return
				}
				if swallowed.Load() {
					continue
				}
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
		}
		go pipe(server, client)
		go pipe(client, server)
	}
}

func (f *forwarder) swallowAll() (accepted int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, swallowed := range f.swallow {
		swallowed.Store(true)
	}
	return f.accepted
}

func TestConnectionThatDiedIsNotUsedAgain(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != version {
					t.Errorf("HTTP/%d", r.ProtoMajor)
				}
				w.Header().Set("Content-Type", mediaJSON)
				_, _ = io.WriteString(w, `{"data":{"me":1}}`)
			}))
			server.EnableHTTP2 = version == 2
			server.StartTLS()
			t.Cleanup(server.Close)
			f := newForwarder(t, server.Listener.Addr().String())
			c := newTestClient(t, 1<<20)
			transportOf(c).TLSClientConfig.RootCAs = x509.NewCertPool()
			transportOf(c).TLSClientConfig.RootCAs.AddCert(server.Certificate())
			ask := func(limit time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				_, err := c.Do(ctx, Request{URL: "https://" + f.Addr().String(), Query: `"{me}"`, Field: "me", Variables: []byte("{}")})
				return err
			}
			for range 2 {
				if err := ask(30 * time.Second); err != nil {
					t.Fatal(err)
				}
			}
			if accepted := f.swallowAll(); accepted != 1 {
				t.Fatalf("%d connections for two requests", accepted)
			}
			if err := ask(200 * time.Millisecond); codeOf(err) != codeTimeout {
				t.Fatalf("over a dead connection: %v", err)
			}
			// At once: long before a ping could tell.
			if err := ask(10 * time.Second); err != nil {
				t.Fatalf("after it: %v", err)
			}
		})
	}
}

func TestDeadConnectionsAreFoundByPings(t *testing.T) {
	h := transportOf(newTestClient(t, 1)).HTTP2
	if h == nil || h.SendPingTimeout != 15*time.Second || h.PingTimeout != 10*time.Second {
		t.Errorf("%+v", h)
	}
}

func TestAnswersOfUnknownLengthArriveWhole(t *testing.T) {
	c := newTestClient(t, 1<<24)
	for _, size := range []int{0, 1, 4<<10 - 30, 4 << 10, 12 << 10, 1<<20 - 1, 3<<20 + 5} {
		want := `"` + strings.Repeat("x", size) + `"`
		address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaJSON)
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, `{"data":{"me":`+want+`}}`)
		})
		if answer, e := askMe(t, c, Request{URL: address}); e != nil || string(answer.Data) != want {
			t.Errorf("%d bytes came as %d (%v)", len(want), len(answer.Data), e)
		}
	}
}

func TestLimitOfTheAnswerIsExact(t *testing.T) {
	const limit = 10_000
	c := newTestClient(t, limit)
	for _, chunked := range []bool{false, true} {
		for size, want := range map[int]string{limit - 1: "", limit: "", limit + 1: codeResultTooLarge, 10 * limit: codeResultTooLarge} {
			body := `{"data":{"me":1}}`
			body += strings.Repeat(" ", size-len(body))
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", mediaJSON)
				if w.Header().Set("Content-Length", strconv.Itoa(size)); chunked {
					w.Header().Del("Content-Length")
					w.(http.Flusher).Flush()
				}
				_, _ = io.WriteString(w, body)
			})
			if _, e := askMe(t, c, Request{URL: address}); (e == nil) != (want == "") || (e != nil && (e.Code != want || e.Fate != fateUnknown)) {
				t.Errorf("%d bytes, chunked %v: %v, want %q", size, chunked, e, want)
			}
		}
	}
}

func TestGzipBombIsStoppedAtTheLimit(t *testing.T) {
	var bomb bytes.Buffer
	pack, err := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		_, _ = pack.Write(make([]byte, 1<<20))
	}
	pack.Close()
	for status, want := range map[int]string{200: codeResultTooLarge, 500: codeServer} {
		address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaJSON)
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(status)
			_, _ = w.Write(bomb.Bytes())
		})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, e := askMe(t, newTestClient(t, 2<<20), Request{URL: address})
		runtime.ReadMemStats(&after)
		if e == nil || e.Code != want {
			t.Errorf("%d: %v, want %s", status, e, want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 24<<20 {
			t.Errorf("%d: %d MiB were allocated for a limit of 2", status, used>>20)
		}
	}
}

func TestEndlessHeadersAreCutOff(t *testing.T) {
	for name, head := range map[string]string{"the answer's": "HTTP/1.1 200 OK\r\n", "interim answers'": "HTTP/1.1 103 Early Hints\r\n"} {
		written := make(chan int, 1)
		address := serveRaw(t, func(c net.Conn) {
			n := 0
			defer func() { written <- n }()
			fmt.Fprint(c, head)
			for line := []byte("X-A: " + strings.Repeat("a", 1000) + "\r\n"); n < 64<<20; {
				m, err := c.Write(line)
				if n += m; err != nil {
					return
				}
			}
		})
		if _, e := askMe(t, newTestClient(t, 1<<20), Request{URL: address}); e == nil || e.Code != codeNetwork || e.Fate != fateLost {
			t.Errorf("%s: %v", name, e)
		}
		if n := <-written; n >= 64<<20 {
			t.Errorf("%s: %d bytes of headers were taken", name, n)
		}
	}
}

func TestCancelIsNoTimeout(t *testing.T) {
	arrived := make(chan struct{}, 1)
	for _, part := range []string{"head", "body"} {
		address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if part == "body" {
				w.Header().Set("Content-Type", mediaJSON)
				_, _ = io.WriteString(w, `{"data":`)
				w.(http.Flusher).Flush()
			}
			_, _ = io.Copy(io.Discard, r.Body)
			arrived <- struct{}{}
			<-r.Context().Done()
		})
		c := newTestClient(t, 1<<20)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		_, err := c.Do(ctx, Request{URL: address, Query: `"{me}"`, Field: "me", Variables: []byte("{}")})
		if codeOf(err) != codeNetwork || !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled in the %s: %v", part, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
		_, err = c.Do(ctx, Request{URL: address, Query: `"{me}"`, Field: "me", Variables: []byte("{}")})
		cancel()
		if codeOf(err) != codeTimeout || errors.Is(err, context.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("out of time in the %s: %v", part, err)
		}
		if e, _ := errors.AsType[*Error](err); e.Fate != fateLost {
			t.Errorf("out of time in the %s: %+v", part, e)
		}
		<-arrived
	}
}

// leaked returns the first run of 4 letters of the secret that text shows.
func leaked(text, secret string) string {
	for i := 0; i+4 <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+4]) {
			return secret[i : i+4]
		}
	}
	return ""
}

func TestSecretsAreRedactedHoweverTheyAreSpelled(t *testing.T) {
	const token, password, refresh = "eyJTOKENx.QUJDREVG.c2lnbg_-", "Zq\"<W7&v'K/é😀 +%R3\\y", "RFRSHtokenRFRSH"
	spelled := map[string]string{
		"raw":                    password,
		"JSON":                   `Zq\"<W7&v'K/é😀 +%R3\\y`,
		"JSON as it was sent":    `Zq\"\u003cW7\u0026v'K/é😀 +%R3\\y`,
		"JSON in ASCII":          `Zq\"<W7&v'K/\u00e9\ud83d\ude00 +%R3\\y`,
		"URL":                    url.QueryEscape(password),
		"URL, a path's way":      strings.ReplaceAll(url.QueryEscape(password), "+", "%20"),
		"HTML":                   `Zq&quot;&lt;W7&amp;v&#x27;K/é😀 +%R3\y`,
		"HTML of the JSON":       `Zq\&#34;&lt;W7&amp;v&apos;K/é😀 +%R3\\y`,
		"token":                  token,
		"refresh token":          "a" + refresh + refresh + "b",
		"with an invisible join": token[:9] + "\u200b" + token[9:],
	}
	r := Request{Token: token, Secrets: []string{password, "", refresh}, Field: "me"}
	fragments := []string{"Zq", "W7", "K/", "R3", "TOKEN", "QUJD", "RFRSH", "c2ln"}
	for name, form := range spelled {
		said := "you sent: " + form + "!"
		quoted, _ := json.Marshal(said)
		bodies := map[string]string{
			"a page":    `{"errors":` + said,
			"a message": `{"errors":[{"message":` + string(quoted) + `}]}`,
			"a code":    `{"errors":[{"message":"","extensions":{"code":` + string(quoted) + `}}]}`,
		}
		for place, body := range bodies {
			for _, status := range []int{200, 400, 401, 500} {
				for _, media := range []string{mediaHTML, mediaJSON} {
					if media == mediaHTML && place != "a page" {
						continue // it would be JSON inside JSON
					}
					_, e := r.interpret(status, http.Header{"Content-Type": {media}}, []byte(body))
					for _, f := range fragments {
						if strings.Contains(e.Message, f) {
							t.Errorf("%s in %s, %d %s: %q shows %q", name, place, status, media, e.Message, f)
						}
					}
				}
			}
		}
		partial := `{"data":{"me":1},"errors":[{"message":` + string(quoted) + `}]}`
		answer, e := r.interpret(200, http.Header{"Content-Type": {mediaJSON}}, []byte(partial))
		if e != nil || !strings.Contains(answer.Partial, "you sent: ") || !strings.Contains(answer.Partial, "[redacted]") {
			t.Errorf("%s beside data: %q (%v)", name, answer.Partial, e)
		}
	}
}

func TestEveryPlaceOfAnAnswerIsRedacted(t *testing.T) {
	const token = "t0ken-canary-1"
	quoted := `"you sent ` + token + `"`
	answers := map[string]func(w http.ResponseWriter){
		"a page": func(w http.ResponseWriter) {
			w.WriteHeader(500)
			fmt.Fprint(w, quoted)
		},
		"a message": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaJSON)
			fmt.Fprintf(w, `{"errors":[{"message":%s}]}`, quoted)
		},
		"a code": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaJSON)
			fmt.Fprintf(w, `{"errors":[{"message":"x","extensions":{"code":%s}}]}`, quoted)
		},
		"a media type": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/"+token)
			fmt.Fprint(w, "x")
		},
		"a redirect's host": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://"+token+".example.test/")
			w.WriteHeader(302)
		},
		"a payload that says no": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaJSON)
			fmt.Fprintf(w, `{"data":{"me":{"success":false,"error":%s}}}`, quoted)
		},
	}
	c := newTestClient(t, 1<<20)
	for name, answer := range answers {
		address := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w) })
		_, e := askMe(t, c, Request{URL: address, Token: token, Mutation: true})
		if e == nil || strings.Contains(e.Error(), "canary") || !strings.Contains(e.Message, "[redacted]") {
			t.Errorf("%s: %v", name, e)
		}
	}
	raw := serveRaw(t, func(c net.Conn) { fmt.Fprint(c, "no HTTP: "+token+"\r\n\r\n") })
	_, e := askMe(t, c, Request{URL: raw, Token: token})
	if e == nil || strings.Contains(fmt.Sprint(e.Error(), e.Cause), "canary") {
		t.Errorf("no HTTP at all: %v (%v)", e, e.Cause)
	}
}

func TestEchoInAClonesOwnNoIsRedacted(t *testing.T) {
	c := newTestClient(t, 1<<20)
	r := Request{Mutation: true, Token: "t0ken-canary", Field: "githubCloneRepository"}
	tests := map[string]string{
		`{"success":false,"error":"no access for t0ken-canary"}`: "API_ERROR: no access for [redacted]",
		`{"success":false,"error":null}`:                         "API_ERROR: the API reports no success, and no reason",
		`{"success":false}`:                                      "API_ERROR: the API reports no success, and no reason",
		`{"success":false,"error":{"why":"t0ken-canary"}}`:       `API_ERROR: {"why":"[redacted]"}`,
		`{"success":true,"error":"no"}`:                          "",
		`{"success":null}`:                                       "",
		`{"success":"false"}`:                                    "",
		`{"success":"true","error":"odd"}`:                       "",
		`{"id":1}`:                                               "",
		`[1]`:                                                    "",
	}
	for payload, want := range tests {
		r.URL = serveJSON(t, `{"data":{"githubCloneRepository":`+payload+`}}`)
		r.Query = `"mutation"`
		answer, e := askMe(t, c, r)
		if want == "" && (e != nil || string(answer.Data) != payload) {
			t.Errorf("%s: %q, %v", payload, answer.Data, e)
		}
		if want != "" && (e == nil || e.Error() != want || e.Fate != fateRefused) {
			t.Errorf("%s: %+v, want %q", payload, e, want)
		}
	}
	r.Mutation = false
	r.URL = serveJSON(t, `{"data":{"githubCloneRepository":{"success":false}}}`)
	if answer, e := askMe(t, c, r); e != nil || string(answer.Data) != `{"success":false}` {
		t.Errorf("a query's success is its own: %q, %v", answer.Data, e)
	}
}

func TestOurOwnWordsAreNotRedacted(t *testing.T) {
	c := newTestClient(t, 1<<20)
	for _, secret := range []string{"refused", "connection", "p", "connection refused", "connect"} {
		_, e := askMe(t, c, Request{URL: "http://" + closedAddress, Secrets: []string{secret}})
		if e == nil || !strings.Contains(e.Message, "connection refused") {
			t.Errorf("%q is the password: %v", secret, e)
		}
	}
	r := Request{Secrets: []string{"Internal", "HTTP", "media type"}}
	_, e := r.interpret(500, http.Header{"Content-Type": {mediaHTML}}, []byte("HTTP, you say"))
	if want := "HTTP 500 Internal Server Error: [redacted], you say"; e.Message != want {
		t.Errorf("said %q, want %q", e.Message, want)
	}
}

func TestShortSecretsAreSoughtAsWordsAlone(t *testing.T) {
	tests := []struct {
		secrets     []string
		said, shown string
	}{
		{[]string{"e", "d"}, "ready e d.", "ready [redacted] [redacted]."},
		{[]string{"pw12345"}, "xpw12345 pw123456 (pw12345)", "xpw12345 pw123456 ([redacted])"},
		{[]string{"pw123456"}, "xpw1234567", "x[redacted]7"},
		{[]string{"é"}, "éa é", "éa [redacted]"},
		{[]string{"longer secret", "longer"}, "longer secret longer", "[redacted] [redacted]"},
		{[]string{"longer", "longer secret"}, "longer secret longer", "[redacted] [redacted]"},
		{[]string{"redacted"}, "redacted", "[[redacted]]"},
	}
	for _, test := range tests {
		r := Request{Secrets: test.secrets}
		if got := r.shown(outside(test.said)); got != test.shown {
			t.Errorf("%q of %q: %q, want %q", test.secrets, test.said, got, test.shown)
		}
	}
}

func TestRedactionOfHugeSecretsIsCheap(t *testing.T) {
	token := strings.Repeat("a", maxTokenBytes-1) + "b"
	said := outside(strings.Repeat("a", maxRefusalBytes))
	r := Request{Token: token, Secrets: []string{token + "c"}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	r.shown(said)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 || time.Since(begin) > 5*time.Second {
		t.Errorf("it took %d KiB and %s", used>>10, time.Since(begin))
	}
}

func TestTextFromOutsideIsNotPrintedByFmt(t *testing.T) {
	if got := fmt.Sprintf("%s %v", outside("t0ken"), outside("t0ken")); strings.Contains(got, "t0ken") {
		t.Errorf("printed %q", got)
	}
}

func TestSecretsDoNotShowInPartAcrossACut(t *testing.T) {
	const secret = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<é>0123456789"
	r := Request{Token: secret}
	shown := func(body, media string, at int) {
		_, e := r.interpret(500, http.Header{"Content-Type": {media}}, []byte(body))
		if l := leaked(strings.ReplaceAll(e.Message, "HTTP 500 Internal Server Error", ""), secret); l != "" {
			t.Fatalf("at %d of %s: %q shows %q", at, media, e.Message, l)
		}
	}
	for i := range len(secret) + 30 {
		for _, form := range []string{secret, url.QueryEscape(secret)} {
			// White space vanishes, so that what is cut at 16 KiB may well be shown.
			before := strings.Repeat(" ", maxSnippetBytes-i)
			shown(before+form+"...", mediaHTML, i)
			encoded, _ := json.Marshal(before + form + "...")
			shown(`{"errors":[{"message":`+string(encoded)+`}]}`, mediaJSON, i)
			shown(`{"errors":[{"message":"","extensions":{"code":`+string(encoded)+`}}]}`, mediaJSON, i)
			shown(strings.Repeat("#", maxAPITextBytes-i)+form+"...", mediaHTML, i)
		}
	}
}

func TestErrorTextIsOnePrintableShortLine(t *testing.T) {
	nasty := "a\r\nb\x00\x1b[2J\u202e\u2028\x85c\xff\xfe\u200b\ue000\t" + strings.Repeat("é", 100_000)
	for _, status := range []int{200, 302, 400, 401, 408, 500} {
		for _, media := range []string{mediaHTML, mediaJSON, "x/" + strings.Repeat("y", 2000)} {
			encoded, _ := json.Marshal(nasty)
			for _, body := range []string{nasty, `{"errors":[{"message":` + string(encoded) + `,"extensions":{"code":` + string(encoded) + `}}]}`} {
				_, e := (&Request{Field: "me"}).interpret(status, http.Header{"Content-Type": {media}, "Location": {"http://h" + strings.Repeat("x", 5000) + "/"}}, []byte(body))
				text := e.Message
				if len(text) > maxErrorTextInBytes || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%d %.20s: %d bytes: %q", status, media, len(text), text)
				}
			}
		}
	}
}

// TestProxyProcess is the body of TestProxyOfTheEnvironmentIsUsed, since net/http reads the environment once.
func TestProxyProcess(t *testing.T) {
	if os.Getenv("HTTPS_PROXY") != "http://user:pw@proxy.example.test:3128" {
		t.Skip("run by TestProxyOfTheEnvironmentIsUsed")
	}
	var heard []string
	c := newClient(clientOptions{Version: "1", MaxBytes: 1, OnProxy: func(proxy string) { heard = append(heard, proxy) }})
	transport := transportOf(c)
	for address, want := range map[string]bool{"https://api.example.test/graphql": true, "https://other.example.test": true,
		"http://127.0.0.1:80/": false, "https://localhost/": false, "https://[::1]/": false} {
		r, _ := http.NewRequest("POST", address, nil)
		if u, err := transport.Proxy(r); err != nil || (u != nil) != want {
			t.Errorf("%s: proxy %v (%v)", address, u, err)
		}
	}
	if fmt.Sprint(heard) != "[http://proxy.example.test:3128]" {
		t.Errorf("heard of %q, want it once and without its password", heard)
	}
}

func TestProxyOfTheEnvironmentIsUsed(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=http://user:pw@proxy.example.test:3128", "HTTP_PROXY=http://user:pw@proxy.example.test:3128", "NO_PROXY=")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestProxyProcess")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestProxyThatCannotBeUsedIsRefusedByName(t *testing.T) {
	const base64OfIt = "dXNlcjpjYW5hcnkgMQ=="
	for value, want := range map[string]string{
		"":                                     "[]",
		"http://proxy.example.test:3128":       "[]",
		"http://proxy.example.test:3128/":      "[]",
		"proxy.example.test:3128":              "[]",
		"proxy.example.test":                   "[]",
		"127.0.0.1:3128":                       "[]",
		"http://[::1]:3128":                    "[]",
		"https://user@proxy.example.test":      "[]",
		"http://user:canary%201@proxy:3128":    "[canary 1 user:canary 1 user:canary%201 " + base64OfIt + "]",
		"user:canary%201@proxy:3128":           "[canary 1 user:canary 1 user:canary%201 " + base64OfIt + "]",
		"socks5://user:canary%201@proxy":       "[canary 1 user:canary 1 user:canary%201 " + base64OfIt + "]",
		"http://user:canary%@proxy:3128":       "",
		"http://user:can%ry@proxy:3128":        "",
		"http://user:can#ary@proxy:3128":       "",
		"http://user:#canary@proxy:3128":       "",
		"http://user:1#canary@proxy:3128":      "",
		"http://user:#":                        "",
		"http://user:can/ary@proxy:3128":       "",
		"http://user:12/canary@proxy:3128":     "",
		"http://user:can?ary@proxy:3128":       "",
		"http://user:12?canary@proxy:3128":     "",
		"http://user:can ary@proxy:3128":       "",
		"user:can#ary@proxy:3128":              "",
		"user:can/ary@proxy:3128":              "",
		" http://user:canary@proxy:3128":       "",
		"http://user:canary@proxy:3128\n":      "",
		"http://user:canary@proxy:port":        "",
		"http://user:canary@":                  "",
		"http://:3128":                         "",
		"http://user:canary@http://proxy:3128": "",
		"canary":                               "[]",
		"canary://proxy:3128":                  "",
		"http://":                              "",
	} {
		for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
			secrets, err := proxySecrets(func(asked string) string {
				if asked == name {
					return value
				}
				return ""
			})
			if want != "" && (err != nil || fmt.Sprint(secrets) != want) {
				t.Errorf("%s=%s: %q (%v), want %s", name, value, secrets, err, want)
			}
			if want == "" && (err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "can")) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
}

func TestProxyThatEchoesItsPasswordIsRedacted(t *testing.T) {
	const password = "pr0xy canary"
	sent := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	for _, said := range []string{
		"HTTP/1.1 407 Basic " + sent,
		"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x",
		"HTTP/1.1 407 I know no user:" + password,
		"HTTP/1.1 407 " + url.QueryEscape(password),
	} {
		heard := make(chan string, 1)
		proxy := serveRaw(t, func(c net.Conn) {
			fmt.Fprint(c, said+"\r\nContent-Length: 0\r\n\r\n")
			heard <- said
		})
		value := strings.Replace(proxy, "://", "://user:"+url.PathEscape(password)+"@", 1)
		secrets, err := proxySecrets(func(string) string { return value })
		if err != nil {
			t.Fatal(err)
		}
		c := newTestClient(t, 1<<20)
		c.ProxySecrets = secrets
		transportOf(c).Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(value) }
		_, e := askMe(t, c, Request{URL: "https://api.example.test/"})
		<-heard
		if e == nil || strings.Contains(fmt.Sprint(e, e.Cause), "canary") || strings.Contains(fmt.Sprint(e, e.Cause), sent) {
			t.Errorf("after %q: %v (%v)", said, e, e.Cause)
		}
		// The same in an answer to a request that went through.
		r := Request{Secrets: c.ProxySecrets}
		_, e = r.interpret(407, http.Header{"Content-Type": {mediaHTML}}, []byte("<pre>Proxy-Authorization: "+said))
		if strings.Contains(e.Message, "canary") || strings.Contains(e.Message, sent) {
			t.Errorf("%v", e)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{`{"data":{"me":1}}`, ` { "data" : { "me" : [1, 2] , "x":{} } , "errors" : [ {"message":"m"} ] } `, `{"data":null,"errors":[]}`,
		`{"data":{"me":0,"me":1},"data":{}}`, `{"d\u0061ta":{"\u006de":"\\\""}}`, `[]`, `7`, `""`, `{"data":{"me":"` + "\xff" + `"}}`, `{"errors":{}}`,
		`{"data":{"me":1},"errors":null}`, `{"errors":[ ]}`, `{"errors":[[],{},"]",-1 , null]}`, "\ufeff" + `{"data":{}}`, `{"data":"{\"me\":1}"}`, `{"\ud800":1,"data":{"me":-0.0e+5}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := Request{Field: "me", Token: "me"}
		got := r.open(200, mediaJSON, text)
		var top, data map[string]json.RawMessage
		var complaints []json.RawMessage
		// An object or null: everything else is an error below as well.
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
		valid := utf8.Valid(text) && json.Valid(text) && json.Unmarshal(text, &top) == nil
		if valid && top["errors"] != nil {
			valid = json.Unmarshal(top["errors"], &complaints) == nil
		}
		hasData := valid && top["data"] != nil && json.Unmarshal(top["data"], &data) == nil && data != nil
		if want := valid && (hasData || len(complaints) > 0); (got.foreign == nil) != want {
			t.Fatalf("%q: error %v, valid by encoding/json: %v", text, got.foreign, want)
		}
		if got.foreign != nil {
			return
		}
		if !bytes.Equal(got.root, data["me"]) || (got.root == nil) != (data["me"] == nil) || got.errors != len(complaints) {
			t.Fatalf("%q: root %q, %d errors; encoding/json: %q, %d", text, got.root, got.errors, data["me"], len(complaints))
		}
		_, _ = r.interpret(200, http.Header{"Content-Type": {mediaJSON}}, text)
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "30", "-1", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"} {
		f.Add(seed, int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, value string, unix int64) {
		got, asked := retryAfter(value, time.Unix(unix%math.MaxInt32, 0))
		if got < time.Second || got > time.Hour || (!asked && got != time.Minute) {
			t.Fatalf("%q: %s, %v", value, got, asked)
		}
	})
}

// What every attempt pays for beside the exchange itself: the request, and the judgement of an answer that is fine.
func TestAttemptAllocatesLittle(t *testing.T) {
	c := newTestClient(t, 1<<20)
	r := Request{URL: "http://api.test/graphql", Token: "abc", Query: `"query Me { me { id } }"`, Field: "me", Variables: []byte(`{}`)}
	n := testing.AllocsPerRun(100, func() {
		if _, err := c.request(t.Context(), &r); err != nil {
			t.Error(err)
		}
	})
	if n > 16 {
		t.Errorf("%.0f allocations a request; they were 15", n)
	}
	header := http.Header{"Content-Type": {mediaJSON}}
	answer := []byte(`{"data":{"me":{"id":"1"}}}`)
	n = testing.AllocsPerRun(100, func() {
		if _, e := r.interpret(http.StatusOK, header, answer); e != nil {
			t.Error(e)
		}
	})
	if n > 4 {
		t.Errorf("%.0f allocations an answer; they were 2", n)
	}
}
