package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testPassword = "hunter2-canary\"<é>"
	testLoginGQL = `"mutation AuthLogin($username: String!, $password: String!) { login(username: $username, password: $password) { accessToken refreshToken } }"`
	testRenewGQL = `"mutation AuthRefresh($refreshToken: String!) { refreshToken(refreshToken: $refreshToken) { accessToken refreshToken } }"`
)

// fakeAPI gives JWTs, and takes the second use of a refresh token for theft: then nothing of that login counts any more.
type fakeAPI struct {
	mu                        sync.Mutex
	lifetime, refreshLifetime time.Duration
	serial                    int
	valid                     map[string]bool // access tokens
	refresh                   string          // the one refresh token that may be used
	spent                     map[string]bool
	issued                    []string // every token there ever was
	asked                     map[string]int
	refused                   int // queries without a valid token
	reused                    int
	noRotation, refuseAll     bool
	unauthenticatedAs200      bool
	behind                    time.Duration // of its clock; then its tokens say when they were issued
	before                    func(op string, w http.ResponseWriter, r *http.Request) (answered bool)
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{lifetime: time.Hour, refreshLifetime: 24 * time.Hour, valid: map[string]bool{}, spent: map[string]bool{}, asked: map[string]int{}}
}

func (a *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Query     string
		Variables map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		panic(err)
	}
	op := "query"
	if strings.Contains(body.Query, "login(") {
		op = "login"
	} else if strings.Contains(body.Query, "refreshToken(") {
		op = "refresh"
	}
	a.mu.Lock()
	a.asked[op]++
	before := a.before
	a.mu.Unlock()
	if before != nil && before(op, w, r) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", mediaJSON)
	switch token := body.Variables["refreshToken"]; {
	case op == "login" && body.Variables["password"] != testPassword:
		fmt.Fprint(w, `{"errors":[{"message":"invalid credentials","extensions":{"code":"UNAUTHENTICATED"}}]}`)
	case op == "login":
		a.issue(w, "login")
	case op == "refresh" && a.spent[token]:
		a.reused++
		a.valid, a.refresh = map[string]bool{}, ""
		fallthrough
	case op == "refresh" && token != a.refresh:
		fmt.Fprintf(w, `{"errors":[{"message":"refresh token %s is not valid","extensions":{"code":"BAD_USER_INPUT"}}]}`, token)
	case op == "refresh":
		if !a.noRotation {
			a.spent[token] = true
		}
		a.issue(w, "refreshToken")
	case a.refuseAll || !a.valid[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]:
		a.refused++
		if a.unauthenticatedAs200 {
			fmt.Fprint(w, `{"data":null,"errors":[{"message":"who?","extensions":{"code":"UNAUTHENTICATED"}}]}`)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	default:
		fmt.Fprint(w, `{"data":{"me":{"id":"1"}}}`)
	}
}

func (a *fakeAPI) issue(w http.ResponseWriter, field string) {
	make := func(kind string, life time.Duration) string {
		a.serial++
		now := time.Now().Add(-a.behind)
		issued := ""
		if a.behind != 0 {
			issued = fmt.Sprintf(`"iat":%d,`, now.Unix())
		}
		token := tokenOf(fmt.Sprintf(`{"kind":%q,"n":%d,%s"exp":%d}`, kind, a.serial, issued, now.Add(life).Unix()))
		a.issued = append(a.issued, token)
		return token
	}
	access := make("access", a.lifetime)
	a.valid = map[string]bool{access: true}
	if a.noRotation && field == "refreshToken" {
		fmt.Fprintf(w, `{"data":{%q:{"accessToken":%q}}}`, field, access)
		return
	}
	a.refresh = make("refresh", a.refreshLifetime)
	fmt.Fprintf(w, `{"data":{%q:{"accessToken":%q,"refreshToken":%q}}}`, field, access, a.refresh)
}

// set changes the API while it may be serving.
func (a *fakeAPI) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// revokeAccess makes every access token a refused one.
func (a *fakeAPI) revokeAccess() { a.set(func() { a.valid = map[string]bool{} }) }

func (a *fakeAPI) count(op string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[op]
}

// hang makes every op wait until release is called or its client goes; arrived hears of each.
func (a *fakeAPI) hang(op string) (arrived chan struct{}, release func()) {
	arrived, gate := make(chan struct{}, 1000), make(chan struct{})
	a.set(func() {
		a.before = func(got string, w http.ResponseWriter, r *http.Request) bool {
			if got != op {
				return false
			}
			arrived <- struct{}{}
			select {
			case <-gate:
				return false
			case <-r.Context().Done():
				return true
			}
		}
	})
	return arrived, sync.OnceFunc(func() { close(gate) })
}

// authTest is a TokenSource on a real database, with a fake API of its own.
type authTest struct {
	t            testing.TB
	dir, logPath string
	api          *fakeAPI
	log          *slog.Logger
	client       *Client
	timeout      time.Duration
	sealing      sealerOptions // beside Home and Store
	store        *Store
	sealer       *sealer
	tokens       *TokenSource
}

func newAuthTest(t testing.TB) *authTest {
	a := &authTest{t: t, dir: t.TempDir(), api: newFakeAPI(), client: newTestClient(t, 1<<20), timeout: 30 * time.Second}
	a.log, a.logPath = openTestLogger(t, "debug")
	url := serve(t, a.api.ServeHTTP)
	a.open()
	t.Cleanup(func() {
		a.close()
		if a.api.reused > 0 {
			t.Errorf("a refresh token was used %d times too often", a.api.reused)
		}
	})
	if err := a.store.AddEnvironment(Environment{ID: newID(), Name: "test", BaseURL: url, Active: true, CreatedAt: timeNow()}); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authTest) open() {
	a.t.Helper()
	var err error
	if a.store, err = openStore(filepath.Join(a.dir, "daemon.db"), "full", "https://api.example.test/graphql"); err != nil {
		a.t.Fatal(err)
	}
	a.sealing.Home, a.sealing.Store = a.dir, a.store
	a.sealer = openTestSealer(a.t, a.sealing)
	a.tokens = newTokenSource(tokenSourceOptions{Store: a.store, Client: a.client, Sealer: a.sealer, Log: a.log, Timeout: a.timeout,
		LoginQuery: testLoginGQL, RefreshQuery: testRenewGQL})
}

func (a *authTest) close() {
	a.t.Helper()
	a.tokens.Close()
	if err := a.store.Close(); err != nil {
		a.t.Error(err)
	}
}

// restart is what a restart of the daemon is to its logins.
func (a *authTest) restart() {
	a.t.Helper()
	a.close()
	a.open()
}

func (a *authTest) env() Environment {
	a.t.Helper()
	env, err := a.store.Environment("test")
	if err != nil {
		a.t.Fatal(err)
	}
	return env
}

func (a *authTest) login() {
	a.t.Helper()
	if _, err := a.tokens.Login(context.Background(), a.env(), "ada", testPassword); err != nil {
		a.t.Fatal(err)
	}
}

// call does what a job does.
func (a *authTest) call(ctx context.Context) error {
	env := a.env()
	return a.tokens.Do(ctx, env, func(token string, secrets []string) error {
		_, err := a.client.Do(ctx, Request{URL: env.BaseURL, Token: token, Query: `"query Me { me { id } }"`, Field: "me", Variables: []byte("{}"), Secrets: secrets})
		return err
	})
}

// wantCall makes one call and wants its code, "" for success.
func (a *authTest) wantCall(code string) {
	a.t.Helper()
	if err := a.call(context.Background()); codeOf(err) != code {
		a.t.Fatalf("a call: %v, want %q", err, code)
	}
}

func (a *authTest) wantAsked(op string, n int) {
	a.t.Helper()
	if got := a.api.count(op); got != n {
		a.t.Fatalf("%d times %s, want %d", got, op, n)
	}
}

func (a *authTest) status() AuthState {
	a.t.Helper()
	state, err := a.tokens.Status(a.env())
	if err != nil {
		a.t.Fatal(err)
	}
	return state
}

// logged returns the fields of the log's lines with this message.
func (a *authTest) logged(message string) (lines []map[string]any) {
	a.t.Helper()
	for line := range strings.Lines(readLog(a.t, a.logPath)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			a.t.Fatalf("%s: %v", line, err)
		}
		if fields["message"] == message {
			delete(fields, "timestamp")
			lines = append(lines, fields)
		}
	}
	return lines
}

// wantLogged wants exactly these lines with the message.
func (a *authTest) wantLogged(message string, want ...map[string]any) {
	a.t.Helper()
	if got := a.logged(message); fmt.Sprint(got) != fmt.Sprint(want) {
		a.t.Errorf("logged %v, want %v", got, want)
	}
}

// breakTokenWrites makes the database refuse tokens until mend is called.
func (a *authTest) breakTokenWrites() (mend func()) {
	a.t.Helper()
	do := func(statement string) {
		a.t.Helper()
		if err := a.store.update(func(t *tx) error { return t.exec(statement) }); err != nil {
			a.t.Fatal(err)
		}
	}
	do("CREATE TRIGGER broken BEFORE INSERT ON auth_tokens BEGIN SELECT RAISE(ABORT, 'the disk says no'); END")
	return func() { do("DROP TRIGGER broken") }
}

// waitForStack waits until some goroutine is inside the function of that name.
func waitForStack(t testing.TB, function string) {
	t.Helper()
	buffer := make([]byte, 4<<20)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		if bytes.Contains(buffer[:runtime.Stack(buffer, true)], []byte(function+"(")) {
			return
		}
	}
	t.Fatalf("nobody came to %s", function)
}

func TestLoginStoresItsTokensSealed(t *testing.T) {
	a := newAuthTest(t)
	a.wantCall(codeAuthRequired)
	state, err := a.tokens.Login(t.Context(), a.env(), "ada", testPassword)
	if err != nil || !state.Authenticated || state.NeedsReauth || state.Username != "ada" ||
		time.Until(state.AccessExpires).Round(time.Minute) != time.Hour || time.Until(state.RefreshExpires).Round(time.Hour) != 24*time.Hour {
		t.Fatalf("%+v, %v", state, err)
	}
	a.wantCall("")
	a.api.revokeAccess()
	a.wantCall("")
	a.restart()
	a.wantCall("")
	a.wantAsked("login", 1)
	a.wantAsked("refresh", 1)
	a.api.revokeAccess()
	a.wantCall("")

	// The clear is nowhere, neither while the files are open nor after.
	secrets := append(spellings(testPassword), a.api.issued...)
	if len(a.api.issued) != 6 {
		t.Fatalf("%d tokens were issued", len(a.api.issued))
	}
	search := func(wantWAL bool) {
		files := []string{a.logPath}
		err := filepath.WalkDir(a.dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if hasWAL := strings.Contains(fmt.Sprint(files), "daemon.db-wal"); hasWAL != wantWAL {
			t.Fatalf("searching %q", files)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secrets {
				for _, part := range strings.Split(s, ".") { // a JWT's claims and signature alone as well
					if part != "eyJhbGciOiJIUzI1NiJ9" && bytes.Contains(text, []byte(part)) {
						t.Errorf("%s holds %q", path, part)
					}
				}
			}
		}
	}
	search(true)
	a.close()
	search(false)
	a.open()
}

func TestLoginSaysWhyItFailed(t *testing.T) {
	page := func(status int, media, body string) func(string, http.ResponseWriter, *http.Request) bool {
		return func(_ string, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	echo := `{"errors":[{"message":"no user ada with password hunter2-canary\"<\u00e9>"}]}`
	tests := []struct {
		name, username, password string
		before                   func(string, http.ResponseWriter, *http.Request) bool
		want                     string
	}{
		{"no username", "", testPassword, nil, codeInvalidArgument},
		{"no password", "ada", "", nil, codeInvalidArgument},
		{"a wrong password", "ada", "wrong", nil, codeLoginRefused},
		{"a word of the answer", "ada", "wrong", page(200, mediaJSON,
			`{"errors":[{"message":"wrong name","extensions":{"code":"UNAUTHENTICATED"}}]}`), codeLoginRefused},
		{"a GraphQL error", "ada", testPassword, page(200, mediaJSON, echo), codeLoginRefused},
		{"401", "ada", testPassword, page(401, mediaJSON, echo), codeLoginRefused},
		{"400", "ada", testPassword, page(400, mediaGraphQL, echo), codeLoginRefused},
		{"403", "ada", testPassword, page(403, "text/plain", "password "+testPassword), codeLoginRefused},
		{"no such path", "ada", testPassword, page(404, mediaHTML, "<p>"+testPassword), codeAPIUnreachable},
		{"a firewall's page", "ada", testPassword, page(403, mediaHTML, "<p>"+testPassword), codeAPIUnreachable},
		{"another web site", "ada", testPassword, page(200, mediaHTML, "<p>hunter2-canary&quot;&lt;é&gt;"), codeAPIUnreachable},
		{"trouble", "ada", testPassword, page(500, mediaJSON, echo), codeAPIUnreachable},
		{"a GraphQL way of saying trouble", "ada", testPassword, page(200, mediaJSON, `{"errors":[{"extensions":{"code":"TIMEOUT"}}]}`), codeAPIUnreachable},
		{"too many", "ada", testPassword, page(429, mediaJSON, ""), codeAPIUnreachable},
		{"a redirect", "ada", testPassword, page(307, mediaHTML, ""), codeAPIUnreachable},
		{"no token", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":{"accessToken":"","refreshToken":"x"}}}`), codeAPIUnreachable},
		{"null", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":null}}`), codeAPIUnreachable},
		{"a token of another type", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":{"accessToken":7}}}`), codeAPIUnreachable},
		{"a long token", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":{"accessToken":"`+strings.Repeat("t", maxTokenBytes+1)+`"}}}`), codeAPIUnreachable},
		{"a token with a blank", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":{"accessToken":"a b"}}}`), codeAPIUnreachable},
		{"a token of other letters", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":{"accessToken":"é"}}}`), codeAPIUnreachable},
		{"a refresh token with a line end", "ada", testPassword, page(200, mediaJSON, `{"data":{"login":{"accessToken":"a","refreshToken":"b\n"}}}`), codeAPIUnreachable},
		{"a huge password", "ada", strings.Repeat("canary", 10<<10), nil, codeInvalidArgument},
		{"a cut connection", "ada", testPassword, func(string, http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }, codeAPIUnreachable},
	}
	a := newAuthTest(t)
	a.login()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a.api.set(func() { a.api.before = test.before })
			before := a.api.count("login")
			state, err := a.tokens.Login(t.Context(), a.env(), test.username, test.password)
			if codeOf(err) != test.want || state != (AuthState{}) {
				t.Fatalf("%+v, %v, want %s", state, err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "canary") {
				t.Errorf("the password shows: %v", err)
			}
			if test.want == codeLoginRefused && strings.Contains(err.Error(), redacted) {
				t.Errorf("unreadable without the password: %v", err)
			}
			if test.name == "a word of the answer" && !strings.HasSuffix(err.Error(), ": wrong username or password") {
				t.Errorf("not in our words: %v", err)
			}
			if asked := a.api.count("login") > before; asked == (test.want == codeInvalidArgument) {
				t.Errorf("the API was asked: %v", asked)
			}
		})
	}
	a.api.set(func() { a.api.before = nil })
	a.wantCall("") // the earlier login is none the worse
	a.wantAsked("refresh", 0)
	if text := readLog(t, a.logPath); strings.Contains(text, "canary") {
		t.Errorf("the password is in the log: %s", text)
	}
}

func TestLoginToNobodyIsUnreachable(t *testing.T) {
	a := newAuthTest(t)
	env := a.env()
	server := httptest.NewServer(http.NotFoundHandler())
	env.BaseURL = server.URL
	server.Close()
	if _, err := a.tokens.Login(t.Context(), env, "ada", testPassword); codeOf(err) != codeAPIUnreachable {
		t.Fatal(err)
	}
}

func TestManyRefusedAtOnceRefreshOnce(t *testing.T) {
	for _, n := range []int{32, 100} {
		for _, as200 := range []bool{false, true} {
			t.Run(fmt.Sprint(n, as200), func(t *testing.T) {
				a := newAuthTest(t)
				a.login()
				a.wantCall("")
				a.api.revokeAccess()
				// Nobody gets the refusal before all have sent the refused token.
				var all sync.WaitGroup
				all.Add(n)
				var first sync.Map
				a.api.set(func() {
					a.api.unauthenticatedAs200 = as200
					a.api.before = func(op string, w http.ResponseWriter, r *http.Request) bool {
						if _, again := first.LoadOrStore(r.RemoteAddr, true); op == "query" && !again && a.api.count("refresh") == 0 {
							all.Done()
							all.Wait()
						}
						return false
					}
				})
				transportOf(a.client).CloseIdleConnections()
				var wg sync.WaitGroup
				for range n {
					wg.Go(func() {
						if err := a.call(t.Context()); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				a.wantAsked("refresh", 1)
				a.wantAsked("query", 1+2*n)
				a.wantLogged("auth token refreshed", map[string]any{"level": "info", "message": "auth token refreshed", "environment": "test", "username": "ada"})
			})
		}
	}
}

func TestRefreshGoesOnWithoutTheOneWhoAskedForIt(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.api.revokeAccess()
	arrived, release := a.api.hang("refresh")
	ctx, cancel := context.WithCancel(t.Context())
	first, others := make(chan error, 1), make(chan error, 8)
	go func() { first <- a.call(ctx) }()
	<-arrived
	for range cap(others) {
		go func() { others <- a.call(t.Context()) }()
	}
	cancel()
	if err := <-first; codeOf(err) != codeAuthNetwork || !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	release()
	for range cap(others) {
		if err := <-others; err != nil {
			t.Errorf("another: %v", err)
		}
	}
	a.wantAsked("refresh", 1)
}

func TestTokensAreRefreshedWithinFiveMinutesOfExpiry(t *testing.T) {
	for life, want := range map[time.Duration]int{5*time.Minute - time.Second: 1, -time.Minute: 1, 5*time.Minute + 30*time.Second: 0, time.Hour: 0} {
		a := newAuthTest(t)
		a.api.lifetime = life
		a.login()
		a.api.set(func() { a.api.lifetime = time.Hour })
		for range 3 {
			a.wantCall("")
		}
		a.wantAsked("refresh", want)
		a.wantAsked("query", 3) // none was refused
	}
}

func TestTokensThatDoNotSayWhenTheyExpireAreUsedUntilRefused(t *testing.T) {
	a := newAuthTest(t)
	a.api.lifetime, a.api.refreshLifetime = 90*365*24*time.Hour, 90*365*24*time.Hour // past what tokenExpiry reads
	a.login()
	if state := a.status(); !state.Authenticated || !state.AccessExpires.IsZero() || !state.RefreshExpires.IsZero() {
		t.Errorf("%+v", state)
	}
	a.wantCall("")
	a.wantAsked("refresh", 0)
	a.api.revokeAccess()
	a.wantCall("")
	a.wantAsked("refresh", 1)
}

func TestShortLivedTokensAreNotRefreshedForEveryCall(t *testing.T) {
	a := newAuthTest(t)
	a.api.lifetime = time.Minute
	a.login()
	for range 20 {
		a.wantCall("")
	}
	a.wantAsked("refresh", 1)
	a.api.revokeAccess() // a refusal does not wait
	a.wantCall("")
	a.wantAsked("refresh", 2)
}

func TestSecondRefusalIsAuthInvalid(t *testing.T) {
	for name, test := range map[string]struct {
		life               time.Duration
		refreshes, queries int
	}{"after a refresh it asked for": {time.Hour, 1, 2}, "right after a refresh ahead of expiry": {time.Minute, 1, 1}} {
		t.Run(name, func(t *testing.T) {
			a := newAuthTest(t)
			a.api.lifetime, a.api.refuseAll = test.life, true
			a.login()
			a.wantCall(codeAuthInvalid)
			a.wantAsked("refresh", test.refreshes)
			a.wantAsked("query", test.queries)
			if state := a.status(); !state.Authenticated || state.NeedsReauth {
				t.Errorf("%+v", state)
			}
		})
	}
}

func TestExpiredLoginStaysExpiredUntilTheNext(t *testing.T) {
	answer := func(status int, body string) func(a *authTest) {
		return func(a *authTest) {
			a.api.revokeAccess()
			a.api.set(func() {
				a.api.before = func(op string, w http.ResponseWriter, _ *http.Request) bool {
					if op != "refresh" {
						return false
					}
					w.Header().Set("Content-Type", mediaJSON)
					w.WriteHeader(status)
					fmt.Fprint(w, body)
					return true
				}
			})
		}
	}
	for name, test := range map[string]struct {
		spoil func(a *authTest)
		asks  int
	}{
		"an unknown refresh token": {func(a *authTest) { a.api.revokeAccess(); a.api.set(func() { a.api.refresh = "" }) }, 1},
		"UNAUTHENTICATED":          {answer(200, `{"errors":[{"message":"no","extensions":{"code":"UNAUTHENTICATED"}}]}`), 1},
		"401":                      {answer(401, `{"errors":[{"message":"no"}]}`), 1},
		"400":                      {answer(400, `{"errors":[{"message":"no","extensions":{"code":"EXPIRED_TOKEN"}}]}`), 1},
		"a refresh token out of time, and the API agrees": {func(a *authTest) {
			a.api.set(func() { a.api.lifetime, a.api.refreshLifetime = -time.Minute, -time.Minute })
			a.login()
			a.api.set(func() { a.api.refresh = "" })
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthTest(t)
			a.login()
			test.spoil(a)
			failed := newTestJob("github.commits")
			failed.Environment, failed.ErrorCode, failed.Error = "test", codeAuthInvalid, "AUTH_INVALID: x"
			if err := finishNow(a.store, submitTestJob(t, a.store, failed), statusFailed, ""); err != nil {
				t.Fatal(err)
			}
			env := a.env() // as it was: nobody may act on it and ask the API again
			a.wantCall(codeAuthExpired)
			a.wantAsked("refresh", test.asks)
			a.wantLogged("auth token expired", map[string]any{"level": "error", "message": "auth token expired", "environment": "test", "username": "ada", "failed_jobs_count": 1.})
			asked := a.api.count("query")
			send := func(string, []string) error { return &Error{Code: codeAuthInvalid} }
			if err := a.tokens.Do(t.Context(), env, send); codeOf(err) != codeAuthExpired {
				t.Errorf("by an older reading of the environment: %v", err)
			}
			for range 2 {
				a.wantCall(codeAuthExpired)
				if state := a.status(); state.Authenticated || !state.NeedsReauth || state.Username != "ada" || state.AccessExpires.IsZero() {
					t.Errorf("%+v", state)
				}
				if row, err := a.store.Tokens(a.env().ID); err != nil || len(row.Refresh) == 0 {
					t.Errorf("the tokens are gone: %v", err)
				}
				a.restart()
			}
			a.wantAsked("query", asked)
			a.wantAsked("refresh", test.asks)
			a.api.set(func() { a.api.before, a.api.lifetime, a.api.refreshLifetime = nil, time.Hour, time.Hour })
			a.login()
			a.wantCall("")
			if state := a.status(); !state.Authenticated || state.NeedsReauth {
				t.Errorf("after the login: %+v", state)
			}
			a.restart()
			a.wantCall("")
		})
	}
}

func TestAccessTokenIsUsedUntilRefusedWithoutARefreshToken(t *testing.T) {
	for _, life := range []time.Duration{4 * time.Minute, -time.Minute} {
		a := newAuthTest(t)
		a.api.lifetime = life
		a.api.before = func(op string, w http.ResponseWriter, _ *http.Request) bool {
			if op != "login" {
				return false
			}
			token := tokenOf(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(life).Unix()))
			a.api.set(func() { a.api.valid[token] = true })
			w.Header().Set("Content-Type", mediaJSON)
			fmt.Fprintf(w, `{"data":{"login":{"accessToken":%q}}}`, token)
			return true
		}
		a.login()
		a.wantCall("")
		if state := a.status(); !state.Authenticated || state.NeedsReauth {
			t.Errorf("%+v", state)
		}
		a.api.revokeAccess()
		a.wantCall(codeAuthExpired)
		a.wantAsked("refresh", 0)
	}
}

// A clock that is wrong by years makes every token look expired.
func TestClockAloneEndsNoLogin(t *testing.T) {
	a := newAuthTest(t)
	a.api.lifetime, a.api.refreshLifetime = -20_000*time.Hour, -20_000*time.Hour
	a.login()
	for range 3 {
		a.wantCall("")
	}
	a.wantAsked("refresh", 1)
	if state := a.status(); !state.Authenticated || state.NeedsReauth {
		t.Errorf("%+v", state)
	}
	a.restart()
	a.wantCall("")
	a.wantAsked("refresh", 2)

	// Between two looks the API's refusal of the access token is trouble, not the end.
	a.api.revokeAccess()
	a.wantCall(codeAuthNetwork)
	a.wantAsked("refresh", 2)
	if state := a.status(); !state.Authenticated || state.NeedsReauth {
		t.Errorf("%+v", state)
	}
	s := a.tokens.session(a.env().ID)
	s.doubted = s.doubted.Add(-refreshCheck)
	a.wantCall("")
	a.wantAsked("refresh", 3)
}

func newHandlerClient(api http.Handler) *Client {
	c := newClient(clientOptions{Version: "1", MaxBytes: 1 << 20})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	transport.RegisterProtocol("https", handlerTransport{api})
	c.transport.Store(transport)
	return c
}

// newFakeClockTokens is a TokenSource without a network, for a test in which the clock is a fake.
func newFakeClockTokens(t *testing.T, api *fakeAPI) (*TokenSource, Environment) {
	t.Helper()
	store := openTestStore(t)
	env, err := store.Environment("")
	if err != nil {
		t.Fatal(err)
	}
	tokens := newTokenSource(tokenSourceOptions{
		Store:        store,
		Client:       newHandlerClient(api),
		Sealer:       openTestSealer(t, sealerOptions{Home: t.TempDir(), Store: store}),
		Log:          slog.New(slog.DiscardHandler),
		Timeout:      time.Minute,
		LoginQuery:   testLoginGQL,
		RefreshQuery: testRenewGQL,
	})
	t.Cleanup(tokens.Close)
	return tokens, env
}

func TestClockOfTheAPIMayBeWrong(t *testing.T) {
	for _, behind := range []time.Duration{10 * time.Minute, -10 * time.Minute, time.Hour} {
		t.Run(behind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				advance(24 * time.Hour) // the fake clock begins in 2000, and tokens of 1999 say nothing
				api := newFakeAPI()
				api.lifetime, api.behind = 15*time.Minute, behind
				tokens, env := newFakeClockTokens(t, api)
				if _, err := tokens.Login(t.Context(), env, "ada", testPassword); err != nil {
					t.Fatal(err)
				}
				send := func(string, []string) error { return nil }
				for range 360 {
					if err := tokens.Do(t.Context(), env, send); err != nil {
						t.Fatal(err)
					}
					advance(10 * time.Second)
				}
				if n := api.count("refresh"); n < 5 || n > 6 {
					t.Errorf("%d refreshes in an hour of tokens that last 15 minutes, want 5 or 6", n)
				}
			})
		})
	}
}

func TestTroubleWhileRefreshingKeepsTheTokens(t *testing.T) {
	page := func(status int, header, value, body string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set(header, value)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, answer := range map[string]func(w http.ResponseWriter){
		"500":                  page(500, "Content-Type", mediaJSON, `{"errors":[{"message":"x"}]}`),
		"502 by a proxy":       page(502, "Content-Type", mediaHTML, "<h1>"),
		"500 UNAUTHENTICATED":  page(500, "Content-Type", mediaGraphQL, `{"errors":[{"message":"x","extensions":{"code":"UNAUTHENTICATED"}}]}`),
		"a GraphQL trouble":    page(200, "Content-Type", mediaJSON, `{"errors":[{"message":"x","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}`),
		"429":                  page(429, "Retry-After", "7", ""),
		"408":                  page(408, "Content-Type", mediaHTML, ""),
		"a captive portal":     page(200, "Content-Type", mediaHTML, "<h1>"),
		"a captive portal 302": page(302, "Location", "http://portal.example.test/", ""),
		"a firewall's page":    page(403, "Content-Type", mediaHTML, "<h1>"),
		"a proxy's 401":        page(401, "Content-Type", mediaHTML, "<h1>"),
		"a proxy's 407":        page(407, "Content-Type", mediaHTML, "<h1>"),
		"a gateway's 400":      page(400, "Content-Type", mediaJSON, `{"message":"no"}`),
		"a gateway's 401":      page(401, "Content-Type", mediaJSON, `{"message":"no"}`),
		"a gateway's bare 401": page(401, "Content-Type", "text/plain", ""),
		"a gateway's 403":      page(403, "Content-Type", "text/plain", "Forbidden"),
		"an unknown code":      page(200, "Content-Type", mediaJSON, `{"errors":[{"message":"no","extensions":{"code":"WHATEVER"}}]}`),
		"no code":              page(200, "Content-Type", mediaJSON, `{"errors":[{"message":"no"}]}`),
		"a wrong path":         page(404, "Content-Type", mediaHTML, "<h1>"),
		"null":                 page(200, "Content-Type", mediaJSON, `{"data":{"refreshToken":null}}`),
		"an unusable token":    page(200, "Content-Type", mediaJSON, `{"data":{"refreshToken":{"accessToken":"a b"}}}`),
		"a cut connection":     func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthTest(t)
			a.login()
			a.api.revokeAccess()
			a.api.set(func() {
				a.api.before = func(op string, w http.ResponseWriter, _ *http.Request) bool {
					if op == "refresh" {
						answer(w)
					}
					return op == "refresh"
				}
			})
			err := a.call(t.Context())
			e, _ := errors.AsType[*Error](err)
			if codeOf(err) != codeAuthNetwork || e.Fate != fateUnsent || (name == "429") != (e.Hold == 7*time.Second) {
				t.Fatalf("%+v", e)
			}
			if state := a.status(); !state.Authenticated || state.NeedsReauth {
				t.Errorf("%+v", state)
			}
			a.api.set(func() { a.api.before = nil })
			a.wantCall("")
		})
	}
}

// An answer to a login or refresh holds tokens that nobody knows yet; none of them may get into an error, whatever is wrong
// with the answer otherwise.
func TestTokensOfAnAnswerThatIsNoneAreNotShown(t *testing.T) {
	const access, refresh = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "opaque-refresh-token"
	for _, media := range []string{"text/plain", mediaHTML, mediaJSON} {
		for _, status := range []int{200, 500} {
			a := newAuthTest(t)
			a.login()
			a.api.revokeAccess()
			a.api.set(func() {
				a.api.before = func(op string, w http.ResponseWriter, _ *http.Request) bool {
					if op != "refresh" {
						return false
					}
					w.Header().Set("Content-Type", media)
					w.WriteHeader(status)
					fmt.Fprintf(w, `{"data":{"other":{"accessToken":%q,"refreshToken":%q}}}`, access, refresh)
					return true
				}
			})
			err := a.call(t.Context())
			if err == nil || strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), refresh) {
				t.Errorf("%s, %d: %v", media, status, err)
			}
		}
	}
}

func TestWhatHasTheFormOfATokenIsRedacted(t *testing.T) {
	r := &Request{Token: "x"}
	got := r.shown("your token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0 is old")
	if got != "your token [redacted] is old" {
		t.Errorf("%q", got)
	}
}

func TestRefreshThatFailsForLongSaysWhatToDo(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.api.revokeAccess()
	a.api.set(func() {
		a.api.before = func(op string, w http.ResponseWriter, _ *http.Request) bool {
			if op == "refresh" {
				w.WriteHeader(http.StatusForbidden)
			}
			return op == "refresh"
		}
	})
	wantAdvice := func(want bool) {
		t.Helper()
		err := a.call(t.Context())
		if codeOf(err) != codeAuthNetwork || strings.Contains(err.Error(), "honeydew env list") != want {
			t.Errorf("advice wanted: %v; %v", want, err)
		}
	}
	wantAdvice(false)
	s := a.tokens.session(a.env().ID)
	s.failing = s.failing.Add(-9 * time.Minute)
	wantAdvice(false)
	s.failing = s.failing.Add(-2 * time.Minute)
	wantAdvice(true)
	a.login()
	a.api.revokeAccess()
	wantAdvice(false)
}

func TestRefreshThatTakesTooLongIsTrouble(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.api.revokeAccess()
	a.api.hang("refresh")
	a.tokens.Timeout = 50 * time.Millisecond
	err := a.call(t.Context())
	if e, _ := errors.AsType[*Error](err); codeOf(err) != codeAuthNetwork || e.Fate != fateUnsent {
		t.Fatalf("%v", err)
	}
	a.api.set(func() { a.api.before = nil }) // what hangs ends with its connection
	a.tokens.Timeout = 30 * time.Second
	a.wantCall("")
}

func TestPairThatTheDiskRefusesIsKeptAndSavedLater(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.wantCall("")
	a.api.revokeAccess()
	mend := a.breakTokenWrites()
	for range 3 {
		a.wantCall(codeAuthNetwork) // a token that is not on disk is not used
	}
	a.wantAsked("refresh", 1)
	a.wantAsked("query", 2) // nor is the one before, which is spent
	if lines := a.logged("the refreshed login could not be stored"); len(lines) != 3 || lines[0]["level"] != "error" {
		t.Errorf("logged %v", lines)
	}
	mend()
	a.wantCall("")
	a.wantAsked("refresh", 1) // a second use of the spent token would have ended the login
	a.restart()
	a.wantCall("")
	a.wantAsked("refresh", 1)
}

func TestLoginAfterAnUnsavedPairReplacesIt(t *testing.T) {
	for name, act := range map[string]func(a *authTest) string{
		"login": func(a *authTest) string { a.login(); return "" },
		"logout": func(a *authTest) string {
			_, _ = a.tokens.Logout(a.env())
			return codeAuthRequired
		},
	} {
		a := newAuthTest(t)
		a.login()
		a.api.revokeAccess()
		mend := a.breakTokenWrites()
		a.wantCall(codeAuthNetwork)
		mend()
		want := act(a)
		a.wantCall(want)
		a.wantAsked("refresh", 1)
		a.api.revokeAccess()
		a.wantCall(want)
		if want != "" {
			if _, err := a.store.Tokens(a.env().ID); codeOf(err) != codeNotFound {
				t.Errorf("%s: tokens came back: %v", name, err)
			}
		}
	}
}

func TestAPIThatDoesNotRotateKeepsItsRefreshToken(t *testing.T) {
	a := newAuthTest(t)
	a.api.noRotation = true
	a.login()
	for range 3 {
		a.api.revokeAccess()
		a.wantCall("")
		a.restart()
	}
	a.wantAsked("refresh", 3)
	if state := a.status(); time.Until(state.RefreshExpires).Round(time.Hour) != 24*time.Hour {
		t.Errorf("%+v", state)
	}
}

func TestLogoutForgets(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.wantCall("")
	for _, want := range []bool{true, false} {
		if had, err := a.tokens.Logout(a.env()); err != nil || had != want {
			t.Fatalf("%v, %v", had, err)
		}
		a.wantCall(codeAuthRequired)
		if state := a.status(); state != (AuthState{}) {
			t.Errorf("%+v", state)
		}
	}
	a.restart()
	a.wantCall(codeAuthRequired)
	a.wantAsked("query", 1)
	a.login()
	a.wantCall("")
}

func TestLogoutEndsTheNeedForALogin(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.api.revokeAccess()
	a.api.set(func() { a.api.refresh = "" })
	a.wantCall(codeAuthExpired)
	if _, err := a.tokens.Logout(a.env()); err != nil {
		t.Fatal(err)
	}
	a.wantCall(codeAuthRequired)
	if state := a.status(); state != (AuthState{}) {
		t.Errorf("%+v", state)
	}
}

// Whoever read the old tokens before a logout must not bring them back after it.
func TestLogoutIsNotUndoneByASlowReader(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.restart() // nothing is in memory
	env := a.env()
	a.sealer.mu.Lock() // the reader has the row, and waits for the key
	read, out := make(chan error, 1), make(chan error, 1)
	go func() { read <- a.tokens.Do(t.Context(), env, func(string, []string) error { return nil }) }()
	waitForStack(t, "(*sealer).open")
	s := a.tokens.session(env.ID)
	underWay := func() *change {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.change
	}
	reading := underWay()
	go func() {
		had, err := a.tokens.Logout(env)
		if !had {
			t.Error("there was no login")
		}
		out <- err
	}()
	for underWay() == reading {
		runtime.Gosched()
	}
	a.sealer.mu.Unlock()
	if err := <-out; err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil && codeOf(err) != codeAuthRequired { // it was there before the logout, or after it
		t.Errorf("the reader: %v", err)
	}
	a.wantCall(codeAuthRequired)
	a.wantAsked("query", 0)
}

func TestLoginAndLogoutDoNotWaitForAHungRefresh(t *testing.T) {
	for name, test := range map[string]struct {
		act  func(a *authTest)
		want string
	}{
		"login":  {func(a *authTest) { a.login() }, ""},
		"logout": {func(a *authTest) { _, _ = a.tokens.Logout(a.env()) }, codeAuthRequired},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthTest(t)
			a.login()
			a.api.revokeAccess()
			arrived, release := a.api.hang("refresh")
			defer release()
			waiting := make(chan error, 16)
			for range cap(waiting) {
				go func() { waiting <- a.call(t.Context()) }()
			}
			<-arrived
			test.act(a)
			// Those who waited for the refresh get what came in its place.
			for range cap(waiting) {
				if err := <-waiting; codeOf(err) != test.want {
					t.Errorf("who waited for the refresh: %v, want %q", err, test.want)
				}
			}
			a.wantCall(test.want)
			a.wantAsked("refresh", 1)
			a.restart()
			a.wantCall(test.want)
		})
	}
}

func TestForgetDropsWhatIsInMemory(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.wantCall("")
	env := a.env()
	arrived, release := a.api.hang("refresh")
	a.api.revokeAccess()
	waiting := make(chan error, 1)
	go func() { waiting <- a.call(t.Context()) }()
	<-arrived
	if err := a.store.SetActiveEnvironment("production"); err != nil {
		t.Fatal(err)
	}
	if err := a.store.RemoveEnvironment("test"); err != nil {
		t.Fatal(err)
	}
	a.tokens.Forget(env.ID)
	release()
	if err := <-waiting; err == nil {
		t.Error("a call went through for a removed environment")
	}
	if _, remembered := a.tokens.sessions.Load(env.ID); remembered {
		t.Error("the session is remembered")
	}
	sent := func(string, []string) error { t.Error("sent for a removed environment"); return nil }
	if err := a.tokens.Do(t.Context(), env, sent); codeOf(err) != codeAuthRequired {
		t.Error(err)
	}
}

func TestEnvironmentsHaveLoginsOfTheirOwn(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	other := Environment{ID: newID(), Name: "other", BaseURL: a.env().BaseURL, CreatedAt: timeNow()}
	if err := a.store.AddEnvironment(other); err != nil {
		t.Fatal(err)
	}
	send := func(string, []string) error { return nil }
	if err := a.tokens.Do(t.Context(), other, send); codeOf(err) != codeAuthRequired {
		t.Error(err)
	}
	// A row that was put in another's place does not open there.
	row, err := a.store.Tokens(a.env().ID)
	if err != nil {
		t.Fatal(err)
	}
	row.EnvironmentID = other.ID
	if err := a.store.SaveTokens(row, true); err != nil {
		t.Fatal(err)
	}
	if err := a.tokens.Do(t.Context(), other, send); codeOf(err) != codeAuthExpired {
		t.Error(err)
	}
	a.wantCall("")
}

func TestLoginUnderAPassphraseIsNotReplacedByOneUnderAKeyFile(t *testing.T) {
	a := newAuthTest(t)
	a.sealing.Passphrase = "correct horse"
	a.restart()
	a.login()
	a.wantCall("")
	before, err := a.store.Tokens(a.env().ID)
	if err != nil {
		t.Fatal(err)
	}
	a.sealing.Passphrase = ""
	a.restart()
	_, err = a.tokens.Login(t.Context(), a.env(), "ada", testPassword)
	e, _ := errors.AsType[*Error](err)
	if codeOf(err) != codeFailedPrecondition || !strings.Contains(e.Hint, "HONEYDEW_PASSPHRASE") || !strings.Contains(e.Hint, "auth.passphrase_file") {
		t.Errorf("a login: %+v", e)
	}
	a.wantAsked("login", 1) // what the API gave could not have been kept
	err = a.call(t.Context())
	e, _ = errors.AsType[*Error](err)
	if codeOf(err) != codeAuthExpired || !strings.Contains(e.Hint, "HONEYDEW_PASSPHRASE") {
		t.Errorf("a call: %+v", e)
	}
	if err := a.tokens.save(a.env(), &tokenPair{loginFacts: loginFacts{Username: "ada"}, access: "a", refresh: "r"}, false); codeOf(err) != codeFailedPrecondition {
		t.Errorf("a refresh: %v", err)
	}
	if after, err := a.store.Tokens(a.env().ID); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the tokens changed (%v)", err)
	}

	a.sealing.Passphrase = "correct horse"
	a.restart()
	a.wantCall("")
	a.wantAsked("login", 1)

	a.sealing.Passphrase = "" // whoever gives the login up may go on with a key file
	a.restart()
	if _, err := a.tokens.Logout(a.env()); err != nil {
		t.Fatal(err)
	}
	a.login()
	a.wantCall("")
	a.sealing.Passphrase = "correct horse" // and back, which only adds protection
	a.restart()
	a.wantCall(codeAuthExpired)
	a.login()
	a.wantCall("")
}

func TestLoginIsNotSentToAnotherHost(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.wantCall("")
	url := a.env().BaseURL
	move := func(to string) {
		t.Helper()
		err := a.store.updateEnvironments(func(t *tx) error {
			return t.exec("UPDATE api_environments SET base_url = ? WHERE name = 'test'", to)
		})
		if err != nil {
			t.Fatal(err)
		}
		a.restart()
	}
	asked := a.api.count("query")
	move(strings.Replace(url, "127.0.0.1", "localhost", 1))
	a.wantCall(codeAuthExpired)
	a.wantAsked("query", asked)
	move(url)
	a.wantCall("")
}

func TestLostKeyNeedsALoginAndDeletesNothing(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	path := filepath.Join(a.dir, "key")
	a.close()
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	a.open()
	before, err := a.store.Tokens(a.env().ID)
	if err != nil {
		t.Fatal(err)
	}
	a.wantCall(codeAuthExpired)
	if state := a.status(); state.Authenticated || !state.NeedsReauth || state.loginFacts != (loginFacts{Username: "ada"}) {
		t.Errorf("%+v", state)
	}
	if after, err := a.store.Tokens(a.env().ID); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the tokens changed (%v)", err)
	}
	a.wantAsked("query", 0)
	a.wantAsked("refresh", 0)

	a.close()
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	a.open()
	a.wantCall("")

	a.close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.open()
	a.login()
	a.wantCall("")
	a.restart()
	a.wantCall("")
}

func TestStatusAsksNobody(t *testing.T) {
	a := newAuthTest(t)
	if state := a.status(); state != (AuthState{}) {
		t.Errorf("without a login: %+v", state)
	}
	for _, test := range []struct {
		life, refreshLife time.Duration
		want              bool
	}{
		{time.Hour, 24 * time.Hour, true},
		{-time.Minute, time.Hour, true},    // a refresh will do
		{time.Hour, -time.Minute, true},    // for an hour still
		{-time.Minute, -time.Minute, true}, // if our clock is right, which the API knows
	} {
		a.api.set(func() { a.api.lifetime, a.api.refreshLifetime = test.life, test.refreshLife })
		a.login()
		for range 2 {
			state := a.status()
			if state.Authenticated != test.want || state.NeedsReauth == test.want || state.Username != "ada" ||
				time.Until(state.AccessExpires).Round(time.Minute) != test.life || time.Until(state.RefreshExpires).Round(time.Minute) != test.refreshLife {
				t.Errorf("%s, %s: %+v", test.life, test.refreshLife, state)
			}
			a.restart() // from the disk the same
		}
	}
	a.wantAsked("refresh", 0)
	a.wantAsked("query", 0)
}

func TestCloseEndsAHungRefresh(t *testing.T) {
	a := newAuthTest(t)
	a.login()
	a.api.revokeAccess()
	arrived, release := a.api.hang("refresh")
	defer release()
	waiting := make(chan error, 1)
	go func() { waiting <- a.call(t.Context()) }()
	<-arrived
	a.tokens.Close()
	if err := <-waiting; codeOf(err) != codeAuthNetwork {
		t.Error(err)
	}
}

// handlerTransport calls the API without a network, for tests in which the clock is a fake.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestRunRefreshesBeforeExpiryAndOnlyThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newFakeAPI()
		tokens, env := newFakeClockTokens(t, api)
		if _, err := tokens.Login(t.Context(), env, "ada", testPassword); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); tokens.Run(ctx) }()
		want := func(n int) {
			t.Helper()
			if got := api.count("refresh"); got != n {
				t.Fatalf("%d refreshes after %s, want %d", got, time.Now().UTC().Format(time.TimeOnly), n)
			}
		}
		advance(54*time.Minute + 30*time.Second)
		want(0)
		advance(90 * time.Second)
		want(1)
		advance(54 * time.Minute)
		want(1)
		advance(2 * time.Minute)
		want(2)

		// Trouble is tried again every minute; a refusal ends it.
		api.set(func() {
			api.before = func(op string, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
		})
		advance(57*time.Minute + 30*time.Second)
		want(4) // one more at each of the last two minutes
		api.set(func() { api.before, api.refresh = nil, "" })
		advance(10 * time.Minute)
		want(5)
		if env, err := tokens.Store.Environment(""); err != nil || !env.NeedsReauth {
			t.Errorf("%+v, %v", env, err)
		}
		cancel()
		<-done
	})
}
