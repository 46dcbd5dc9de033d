package main

// A Honeydew API of a few hundred lines, for exact counts: it notes every operation by the unique id in its variables
// (organization), carries it out with chosen faults, and hands out tokens like a strict provider: refresh tokens
// rotate, and the second use of a spent one revokes the whole family.
//
// What happens to the n-th request for an id depends on the seed, the id and n alone, so that a seed repeats it.

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	username = "demo"
	password = "hunter2-canary"
)

// fate is what the API did with one id.
type fate struct {
	requests   int             // with a valid token
	executions int             // of these, carried out
	answers    int             // whole, good answers
	codes      map[string]bool // that a daemon may derive from the bad ones
	unsure     int             // answers to a mutation that leave its outcome open
	late       int             // requests after such an answer
}

// family is one login and what came of it.
type family struct {
	revoked bool
	refresh string // the one that is valid
	spent   map[string]*rotation
}

// rotation is one use of a refresh token.
type rotation struct {
	at, answered time.Time // answered: when its answer was written; zero if it was not
	used         bool      // a token of the new pair has been seen
}

// reuse is the use of a spent refresh token; the family is revoked by it.
type reuse struct {
	at       time.Time
	rotation rotation
}

type api struct {
	URL      string
	seed     uint64
	ttl      time.Duration // of access tokens
	lifetime time.Duration // of refresh tokens; 0: without end
	server   *http.Server
	busy     atomic.Int64
	refresh  chan time.Time // told, if it listens, when a refresh's answer was written

	mu       sync.Mutex
	calm     bool // no faults, no delays
	lenient  bool // a spent refresh token is taken once more: a grace period
	fates    map[string]*fate
	order    []string // ids in the order of arrival
	families []*family
	access   map[string]accessToken
	tokens   []string // all that were ever given out
	reuses   []reuse
	logins   int
	renewals int
	scripts  map[string]func(http.ResponseWriter, *http.Request) // by id, and "login", "refresh": instead of everything
	gates    map[string]chan struct{}                            // by id: the answer waits until it is closed
}

type accessToken struct {
	family   *family
	rotation *rotation // that gave it, nil: a login
	expires  time.Time
}

func newAPI(seed uint64) (*api, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &api{URL: "http://" + l.Addr().String() + "/graphql", seed: seed, ttl: 3 * time.Second, refresh: make(chan time.Time),
		fates: map[string]*fate{}, access: map[string]accessToken{}, scripts: map[string]func(http.ResponseWriter, *http.Request){},
		gates: map[string]chan struct{}{}}
	a.server = &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	go a.server.Serve(l)
	return a, nil
}

func (a *api) close() { a.server.Close() }

func (a *api) setCalm(calm bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calm = calm
}

// script lets fn answer everything about id.
func (a *api) script(id string, fn func(http.ResponseWriter, *http.Request)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scripts[id] = fn
}

// gate holds the answers for id back until open is called.
func (a *api) gate(id string) (open func()) {
	c := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gates[id] = c
	return sync.OnceFunc(func() { close(c) })
}

// fate returns a copy of what is known of id.
func (a *api) fate(id string) fate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.fates[id]; f != nil {
		c := *f
		return c
	}
	return fate{}
}

// settle waits until no request is under way.
func (a *api) settle() {
	for a.busy.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}

// dice is a number from seed and parts alone.
func dice(seed uint64, parts ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, seed, "|", fmt.Sprint(parts...))
	x := h.Sum64() // and mixed, since FNV's low bits are poor
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// answerOf is the root field's value for id: odd spacing, escapes and numbers that no decoder may touch.
func answerOf(id string, mutation bool) string {
	if mutation {
		return fmt.Sprintf(`{"success":true,  "path":"\/clones\/%s","repository":"r","organization":%q,"error":null}`, id, id)
	}
	size := 0
	switch d := dice(7, id) % 4000; {
	case d == 0:
		size = 3_500_000 // more than a unary answer holds
	case d < 40:
		size = 100_000
	case d < 400:
		size = 8_000
	}
	return fmt.Sprintf(`{"commits": [ {"sha":%q, "message":"\u00e9 é 🐝 <b>&amp;\/", "additions":9007199254740993,"deletions":1.50e+3,"author":"%s"} ]}`,
		id, strings.Repeat("x", size))
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.busy.Add(1)
	defer a.busy.Add(-1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var in struct {
		Query     string
		Variables map[string]any
	}
	if err := json.Unmarshal(body, &in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	text := func(name string) string { s, _ := in.Variables[name].(string); return s }
	id, mutation, field := text("organization"), strings.Contains(in.Query, "githubCloneRepository("), "githubCommits"
	switch {
	case strings.Contains(in.Query, "login("):
		id = "login"
	case strings.Contains(in.Query, "refreshToken(refreshToken"):
		id = "refresh"
	case mutation:
		field = "githubCloneRepository"
	}
	a.mu.Lock()
	script, gate := a.scripts[id], a.gates[id]
	a.mu.Unlock()
	switch {
	case script != nil:
		script(w, r)
	case id == "login":
		a.login(w, text("username"), text("password"))
	case id == "refresh":
		a.renew(w, text("refreshToken"))
	case !a.known(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")):
		graphQLError(w, http.StatusUnauthorized, "UNAUTHENTICATED")
	default:
		a.operate(w, r, id, field, mutation, gate)
	}
}

// known checks an access token.
func (a *api) known(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.access[token]
	if !ok || t.family.revoked || time.Now().After(t.expires) {
		return false
	}
	if t.rotation != nil {
		t.rotation.used = true
	}
	return true
}

// operate carries an operation out, or does what the dice say instead.
func (a *api) operate(w http.ResponseWriter, r *http.Request, id, field string, mutation bool, gate chan struct{}) {
	a.mu.Lock()
	f := a.fates[id]
	if f == nil {
		f = &fate{codes: map[string]bool{}}
		a.fates[id] = f
	}
	f.requests++
	a.order = append(a.order, id)
	if f.unsure > 0 {
		f.late++
	}
	n, calm := f.requests, a.calm
	a.mu.Unlock()
	d := int(dice(a.seed, id, n) % 1000)
	if calm || strings.HasPrefix(id, "sched-") {
		d = 1000
	}
	if !calm { // half of it before the deed, half after
		a.pause(id, n, "before")
		defer a.pause(id, n, "after")
	}
	execute := func() { a.note(func() { f.executions++ }) }
	fail := func(code string, unsure bool) {
		a.note(func() {
			f.codes[code] = true
			if unsure && mutation {
				f.unsure++
			}
		})
	}
	if mutation {
		switch {
		case d < 30:
			fail("OUTCOME_UNKNOWN", true)
			http.Error(w, "no", http.StatusInternalServerError)
		case d < 50:
			execute()
			fail("OUTCOME_UNKNOWN", true)
			graphQLError(w, http.StatusOK, "INTERNAL_SERVER_ERROR")
		case d < 80:
			fail("OUTCOME_UNKNOWN", true)
			panic(http.ErrAbortHandler)
		case d < 110:
			execute()
			fail("OUTCOME_UNKNOWN", true)
			panic(http.ErrAbortHandler)
		case d < 130:
			fail("AUTH_INVALID", false)
			graphQLError(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		case d < 132:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "later", http.StatusServiceUnavailable)
		case d < 150:
			fail("API_ERROR", false)
			fmt.Fprintf(jsonType(w), `{"data":{%q:{"success":false,"error":"no such repository"}}}`, field)
		case d < 165:
			fail("API_ERROR", false)
			graphQLError(w, http.StatusOK, "BAD_USER_INPUT")
		default:
			execute()
			a.answer(w, r, f, id, field, true, gate)
		}
		return
	}
	switch {
	case d < 30:
		fail("SERVER_ERROR", false)
		http.Error(w, "no", http.StatusInternalServerError)
	case d < 60:
		fail("NETWORK_ERROR", false)
		panic(http.ErrAbortHandler)
	case d < 80:
		fail("NETWORK_ERROR", false)
		w.Header().Set("Content-Length", "1000")
		fmt.Fprintf(jsonType(w), `{"data":{%q:`, field)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case d < 100:
		fail("AUTH_INVALID", false)
		graphQLError(w, http.StatusUnauthorized, "UNAUTHENTICATED")
	case d < 115:
		fail("SERVER_ERROR", false)
		http.Error(w, "no", http.StatusServiceUnavailable)
	case d < 125:
		fail("BAD_RESPONSE", false)
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html>Welcome to the hotel's network</html>")
	case d < 140:
		fail("SERVER_ERROR", false)
		graphQLError(w, http.StatusOK, "INTERNAL_SERVER_ERROR")
	case d < 150:
		fail("API_ERROR", false)
		graphQLError(w, http.StatusOK, "BAD_USER_INPUT")
	case d < 152:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "later", http.StatusTooManyRequests)
	default:
		execute()
		a.answer(w, r, f, id, field, false, gate)
	}
}

func (a *api) note(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
}

func (a *api) answer(w http.ResponseWriter, r *http.Request, f *fate, id, field string, mutation bool, gate chan struct{}) {
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	a.note(func() { f.answers++ })
	fmt.Fprintf(jsonType(w), `{"data": {%q:%s} }`, field, answerOf(id, mutation))
}

// pause is mostly a few milliseconds, and now and then long enough to be killed in.
func (a *api) pause(id string, n int, where string) {
	d := dice(a.seed, id, n, where)
	t := time.Duration(d%6000) * time.Microsecond
	if d>>32%25 == 0 {
		t += time.Duration(d>>16%200) * time.Millisecond
	}
	time.Sleep(t)
}

func jsonType(w http.ResponseWriter) http.ResponseWriter {
	w.Header().Set("Content-Type", "application/json")
	return w
}

func graphQLError(w http.ResponseWriter, status int, code string) {
	jsonType(w).WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"message":"refused","extensions":{"code":%q}}]}`, code)
}

// newToken makes a JWT, unsigned: the daemon reads its exp and nothing else.
func newToken(kind string, life time.Duration) string {
	claims := fmt.Sprintf(`{"jti":%q,"kind":%q,"iat":%d`, rand.Text(), kind, time.Now().Unix())
	if life > 0 {
		claims += fmt.Sprintf(`,"exp":%d`, time.Now().Add(life).Unix())
	}
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(`{"alg":"none"}`)) + "." + e.EncodeToString([]byte(claims+"}")) + "." + e.EncodeToString([]byte("signature"))
}

// pairLocked gives f a new pair.
func (a *api) pairLocked(f *family, by *rotation) (access, refresh string) {
	access, refresh = newToken("access", a.ttl), newToken("refresh", a.lifetime)
	f.refresh = refresh
	a.access[access] = accessToken{f, by, time.Now().Add(a.ttl)}
	a.tokens = append(a.tokens, access, refresh)
	return access, refresh
}

func (a *api) login(w http.ResponseWriter, user, pass string) {
	if user != username || pass != password {
		graphQLError(w, http.StatusOK, "BAD_USER_INPUT")
		return
	}
	f := &family{spent: map[string]*rotation{}}
	a.mu.Lock()
	a.logins++
	a.families = append(a.families, f)
	access, refresh := a.pairLocked(f, nil)
	a.mu.Unlock()
	fmt.Fprintf(jsonType(w), `{"data":{"login":{"accessToken":%q,"refreshToken":%q,"user":{"id":"1"}}}}`, access, refresh)
}

// renew rotates a refresh token. Its faults come before the rotation: what is lost after it is the killer's to measure.
func (a *api) renew(w http.ResponseWriter, token string) {
	a.mu.Lock()
	a.renewals++
	d := dice(a.seed, "refresh", a.renewals) % 100
	if a.calm {
		d = 100
	}
	var mine *family
	var spent *rotation
	for _, f := range a.families {
		if f.refresh == token || f.spent[token] != nil {
			mine, spent = f, f.spent[token]
		}
	}
	if spent != nil {
		a.reuses = append(a.reuses, reuse{time.Now(), *spent})
		mine.revoked = mine.revoked || !a.lenient
	}
	if mine == nil || mine.revoked {
		a.mu.Unlock()
		graphQLError(w, http.StatusOK, "UNAUTHENTICATED")
		return
	}
	if d < 6 {
		a.mu.Unlock()
		if d < 3 {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, "no", http.StatusBadGateway)
		return
	}
	for old := range a.access { // the new pair replaces the old one
		if t := a.access[old]; t.family == mine && t.rotation != nil && time.Now().After(t.expires) {
			delete(a.access, old)
		}
	}
	turn := &rotation{at: time.Now()}
	mine.spent[token] = turn
	access, refresh := a.pairLocked(mine, turn)
	a.mu.Unlock()
	fmt.Fprintf(jsonType(w), `{"data":{"refreshToken":{"accessToken":%q,"refreshToken":%q,"user":{"id":"1"}}}}`, access, refresh)
	if http.NewResponseController(w).Flush() == nil {
		now := time.Now()
		a.note(func() { turn.answered = now })
		select {
		case a.refresh <- now:
		default:
		}
	}
}
