package main

// Answers that no API should give, and connections that break in every way: each has its code, and the daemon lives.

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"honeydew/daemonpb"
)

// raw answers with fn on the bare connection.
func raw(fn func(c *net.TCPConn)) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		fn(c.(*net.TCPConn))
	}
}

func body(media, text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		io.WriteString(w, text)
	}
}

// endless writes piece until the other end has enough, with a pause between.
func endless(head, piece string, pause time.Duration) func(http.ResponseWriter, *http.Request) {
	return raw(func(c *net.TCPConn) {
		_, err := io.WriteString(c, head)
		for err == nil {
			_, err = io.WriteString(c, piece)
			time.Sleep(pause)
		}
	})
}

// gzipZeros is a small body that becomes size bytes.
func gzipZeros(size int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z, _ := gzip.NewWriterLevel(w, 1) // a level that exists
		zeros := make([]byte, 1<<20)
		for range size >> 20 {
			if _, err := z.Write(zeros); err != nil {
				return
			}
		}
		z.Close()
	}
}

func TestBadAnswers(t *testing.T) {
	r := newRig(t, "", "  max_response_mb: 5\n").up()
	for _, c := range []struct {
		name, want string // several codes where the system may see either
		fn         func(http.ResponseWriter, *http.Request)
	}{
		{"closed at once", "NETWORK_ERROR", raw(func(*net.TCPConn) {})},
		{"reset", "NETWORK_ERROR", raw(func(c *net.TCPConn) { c.SetLinger(0) })},
		{"reset within the body", "NETWORK_ERROR", raw(func(c *net.TCPConn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"data\"")
			time.Sleep(100 * time.Millisecond)
			c.SetLinger(0)
		})},
		{"cut within a chunk", "NETWORK_ERROR", raw(func(c *net.TCPConn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{\"data\"")
		})},
		{"cut within the headers", "NETWORK_ERROR", raw(func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Ty") })},
		{"not HTTP", "NETWORK_ERROR", raw(func(c *net.TCPConn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n") })},
		{"endless headers", "NETWORK_ERROR", endless("HTTP/1.1 200 OK\r\n", "X-More: "+strings.Repeat("y", 1000)+"\r\n", 0)},
		{"one endless header", "NETWORK_ERROR", endless("HTTP/1.1 200 OK\r\nX-More: ", strings.Repeat("y", 1000), 0)},
		{"endless 103s", "NETWORK_ERROR TIMEOUT", endless("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0)},
		{"silence", "TIMEOUT", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"a trickle", "TIMEOUT", endless("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n", " ", 20*time.Millisecond)},
		{"trickling headers", "TIMEOUT", endless("HTTP/1.1 200 OK\r\n", "X: y\r\n", 50*time.Millisecond)},
		{"HTML", "BAD_RESPONSE", body("text/html", "<html>Please log in to the hotel's network</html>")},
		{"JSON as text", "BAD_RESPONSE", body("text/plain", `{"data":{"githubCommits":{"commits":[]}}}`)},
		{"HTML as JSON", "BAD_RESPONSE", body("application/json", "<html>")},
		{"nothing", "BAD_RESPONSE", body("application/json", "")},
		{"half", "BAD_RESPONSE", body("application/json", `{"data":{"githubCommits":{`)},
		{"a list", "BAD_RESPONSE", body("application/json", `[1,2,3]`)},
		{"no data", "BAD_RESPONSE", body("application/json", `{}`)},
		{"other data", "BAD_RESPONSE", body("application/json", `{"data":{"somethingElse":1}}`)},
		{"not UTF-8", "BAD_RESPONSE", body("application/json", "{\"data\":{\"githubCommits\":\"\xff\xfe\"}}")},
		{"deep", "BAD_RESPONSE", body("application/json", `{"data":{"githubCommits":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}}`)},
		{"no gzip", "NETWORK_ERROR BAD_RESPONSE", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			body("application/json", "this is not gzip")(w, nil)
		}},
		{"a gzip bomb", "RESULT_TOO_LARGE", gzipZeros(200 << 20)},
		{"an endless body", "RESULT_TOO_LARGE", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}},
		{"a length of 1 TB", "RESULT_TOO_LARGE NETWORK_ERROR TIMEOUT", raw(func(c *net.TCPConn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n{")
			time.Sleep(time.Second)
		})},
		{"null", "BAD_RESPONSE API_ERROR", body("application/json", `{"data":null}`)},
		{"a GraphQL error", "API_ERROR", body("application/json", `{"errors":[{"message":"no"}]}`)},
		{"403", "API_ERROR", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "forbidden", http.StatusForbidden) }},
		{"404", "API_ERROR", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 404) }},
		{"408", "TIMEOUT", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "slow", http.StatusRequestTimeout) }},
		{"500", "SERVER_ERROR", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) }},
		{"502 with endless HTML", "SERVER_ERROR", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(502)
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}},
		{"204", "BAD_RESPONSE", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, command := range []string{query, mutation} {
				uid := r.uid()
				r.api.script(uid, c.fn)
				j := r.await(r.submit(command, uid, func(in *daemonpb.SubmitJobRequest) { once(in); in.Timeout = "1500ms" }), 20*time.Second)
				want := c.want
				if known := strings.Contains("API_ERROR", c.want); command == mutation && !known {
					want = "OUTCOME_UNKNOWN"
				}
				if command == mutation && c.name == "null" {
					want += " OUTCOME_UNKNOWN"
				}
				if j.Status != "failed" || !strings.Contains(" "+want+" ", " "+j.ErrorCode+" ") || len(j.Error) > 2000 {
					t.Errorf("%s: %s %.300s; should be %s", command, j.Status, j.Error, want)
				}
			}
		})
	}
	r.completes()
	hwm := r.memory("VmHWM")
	t.Logf("peak memory with max_response_mb 5: %d MiB", hwm)
}

// memory reads a line of /proc/PID/status, in MiB.
func (r *rig) memory(name string) int {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		r.t.Skip("SKIPPED, memory was not measured: no /proc here")
	}
	m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(text)
	kb, err := strconv.Atoi(string(m[1]))
	r.must(err)
	return kb >> 10
}

// TestMemory: with the default limit of 100 MB the process takes at most four times that for what it refuses, five
// times for what it stores.
func TestMemory(t *testing.T) {
	for name, fn := range map[string]func(http.ResponseWriter, *http.Request){
		"200 MB of gzip zeros": gzipZeros(200 << 20),
		"95 MB of JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			out := bufio.NewWriter(w)
			io.WriteString(out, `{"data":{"githubCommits":{"commits":["`)
			piece := strings.Repeat("x", 1<<20)
			for range 95 {
				io.WriteString(out, piece)
			}
			io.WriteString(out, `"]}}}`)
			out.Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "", "").up()
			r.completes()
			before := r.memory("VmHWM")
			r.api.script("large", fn)
			j := r.await(r.submit(query, "large", func(in *daemonpb.SubmitJobRequest) { once(in); in.Timeout = "60s" }), 90*time.Second)
			after := r.memory("VmHWM")
			t.Logf("%s %s; %d bytes; peak %d MiB, before %d MiB", j.Status, j.ErrorCode, j.ResultBytes, after, before)
			if limit := map[bool]int{true: 500, false: 400}[j.Status == "completed"]; after > limit {
				t.Errorf("peak memory of %d MiB, at most %d for a limit of 100", after, limit)
			}
			r.completes()
		})
	}
}

// TestRedirects: whoever a redirect names gets neither token nor password.
func TestRedirects(t *testing.T) {
	r := newRig(t, "", "").up()
	var hits atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { hits.Add(1) }))
	defer other.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		to := func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, other.URL+"/graphql", code) }
		for _, command := range []string{query, mutation} {
			uid := r.uid()
			r.api.script(uid, to)
			if j := r.await(r.submit(command, uid, nil), 10*time.Second); j.ErrorCode != "BAD_RESPONSE" || j.RetryCount != 0 {
				t.Errorf("%d: %s %s, %d retries", code, command, j.Error, j.RetryCount)
			}
		}
		r.api.script("login", to)
		if err := r.login(r.ctx); !isCode(err, codes.Unavailable, "API_UNREACHABLE") {
			t.Errorf("%d: login: %v", code, err)
		} else if strings.Contains(status.Convert(err).Message(), password) {
			t.Errorf("%d: the error holds the password", code)
		}
		r.api.script("login", nil)
	}
	if hits.Load() > 0 {
		t.Errorf("the other host was asked %d times", hits.Load())
	}
	r.completes()
}

// TestBadLogins: the answers of TestBadAnswers to a login; none holds the password, none shakes the daemon.
func TestBadLogins(t *testing.T) {
	r := newRig(t, "", "  max_response_mb: 5\n").up()
	for name, fn := range map[string]func(http.ResponseWriter, *http.Request){
		"cut": raw(func(*net.TCPConn) {}), "HTML": body("text/html", "<html>"+password), "bomb": gzipZeros(100 << 20),
		"echo": body("application/json", `{"errors":[{"message":"`+password+` is wrong"}]}`), "no token": body("application/json", `{"data":{"login":{}}}`),
		"500": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, password, 500) },
	} {
		r.api.script("login", fn)
		err := r.login(r.ctx)
		if code := status.Code(err); code != codes.Unavailable && code != codes.Unauthenticated && code != codes.Internal {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
		t.Logf("%s: %v (%s)", name, err, reason(err))
	}
	r.api.script("login", nil)
	r.completes()
	text, err := os.ReadFile(r.path("daemon.log"))
	r.must(err)
	if strings.Contains(string(text), password) {
		t.Error("the log holds the password")
	}
}

// TestBadRefreshes: trouble on the way keeps the login, and jobs wait; only a no ends it. What is lost after the API has
// rotated costs the login where reuse is punished; an API that takes the last spent token once more (a grace period, as
// Auth0 and Okta have it) costs nothing.
func TestBadRefreshes(t *testing.T) {
	for name, c := range map[string]struct {
		fn   func(a *api) func(http.ResponseWriter, *http.Request)
		want string
	}{
		"cut": {func(*api) func(http.ResponseWriter, *http.Request) { return raw(func(*net.TCPConn) {}) }, "AUTH_NETWORK_ERROR"},
		"500": {func(*api) func(http.ResponseWriter, *http.Request) {
			return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", 500) }
		}, "AUTH_NETWORK_ERROR"},
		"HTML": {func(*api) func(http.ResponseWriter, *http.Request) { return body("text/html", "<html>") }, "AUTH_NETWORK_ERROR"},
		"bomb": {func(*api) func(http.ResponseWriter, *http.Request) { return gzipZeros(200 << 20) }, "AUTH_NETWORK_ERROR"},
		"no": {func(*api) func(http.ResponseWriter, *http.Request) {
			return body("application/json", `{"errors":[{"message":"no","extensions":{"code":"UNAUTHENTICATED"}}]}`)
		}, "AUTH_EXPIRED"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "", "").up()
			r.api.note(func() { clear(r.api.access) }) // the API forgets the access token: 401
			r.api.script("refresh", c.fn(r.api))
			j := r.await(r.submit(query, "u", once), 20*time.Second)
			if j.ErrorCode != c.want {
				t.Errorf("%s %s", j.Status, j.Error)
			}
			s := r.status()
			if s.NeedsReauth != (c.want == "AUTH_EXPIRED") {
				t.Errorf("needs_reauth is %v after %s", s.NeedsReauth, j.Error)
			}
			r.api.script("refresh", nil)
			if s.NeedsReauth {
				r.must(r.login(r.ctx))
			}
			r.completes()
		})
	}
	for _, lenient := range []bool{false, true} {
		t.Run(fmt.Sprintf("the answer is lost, lenient %v", lenient), func(t *testing.T) {
			r := newRig(t, "", "").up()
			r.api.lenient = lenient
			r.api.note(func() { clear(r.api.access) })
			var lost atomic.Bool
			r.api.script("refresh", func(w http.ResponseWriter, req *http.Request) {
				r.api.note(func() { // rotated, and nobody hears of it
					f := r.api.families[0]
					f.spent[f.refresh] = &rotation{at: time.Now()}
					r.api.pairLocked(f, f.spent[f.refresh])
				})
				lost.Store(true)
				r.api.note(func() { delete(r.api.scripts, "refresh") })
				panic(http.ErrAbortHandler)
			})
			j := r.await(r.submit(query, "u", nil), 30*time.Second)
			t.Logf("%s %s; needs_reauth %v; the API saw %d uses of a spent token", j.Status, j.Error, r.status().NeedsReauth, len(r.api.reuses))
			if lenient && j.Status != "completed" || !lenient && (j.ErrorCode != "AUTH_EXPIRED" || !r.status().NeedsReauth) {
				t.Errorf("%s %s", j.Status, j.Error)
			}
			if !lost.Load() {
				t.Error("nothing was lost")
			}
			if !lenient {
				r.must(r.login(r.ctx))
			}
			r.completes()
		})
	}
}
