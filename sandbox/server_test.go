package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// client talks to a server, over HTTP if it has a url and else directly, so that a synctest bubble can hold both ends.
type client struct {
	t      *testing.T
	server *server
	url    string
	token  string
	accept string
}

// reply is an answer, read as GraphQL.
type reply struct {
	status int
	header http.Header
	raw    string
	Data   json.RawMessage `json:"data"`
	Errors []struct {
		Message    string            `json:"message"`
		Extensions map[string]string `json:"extensions"`
	} `json:"errors"`
}

// code is that of the first error.
func (r reply) code() string {
	if len(r.Errors) == 0 {
		return ""
	}
	return r.Errors[0].Extensions["code"]
}

func testOptions(t *testing.T) options {
	return options{
		Schema: readTestSchema(t), Repos: t.TempDir(), Clones: t.TempDir(), User: "demo", Password: "secret",
		AccessTTL: 15 * time.Minute, RefreshTTL: 720 * time.Hour, AuthErrors: "http", Seed: 1, Log: log.New(io.Discard, "", 0),
	}
}

// direct gives a client without a network, which is not logged in.
func direct(t *testing.T, o options) *client {
	t.Helper()
	s, err := newServer(o)
	if err != nil {
		t.Fatal(err)
	}
	return &client{t: t, server: s}
}

// start gives a client over HTTP that is logged in.
func start(t *testing.T, o options) *client {
	t.Helper()
	c := direct(t, o)
	srv := httptest.NewServer(c.server)
	t.Cleanup(srv.Close)
	c.url = srv.URL
	c.token, _ = c.login()
	return c
}

func (c *client) request(ctx context.Context, method, path, body string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if c.accept != "" {
		r.Header.Set("Accept", c.accept)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	return r
}

func (c *client) send(r *http.Request) (out reply, err error) {
	var resp *http.Response
	if c.url == "" {
		rec := httptest.NewRecorder()
		func() {
			defer func() {
				if p := recover(); p != nil {
					err = p.(error)
				}
			}()
			c.server.ServeHTTP(rec, r)
		}()
		resp = rec.Result()
	} else if resp, err = http.DefaultClient.Do(r); err != nil {
		return out, err
	}
	defer resp.Body.Close()
	raw, readErr := io.ReadAll(resp.Body)
	out.status, out.header, out.raw = resp.StatusCode, resp.Header, string(raw)
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && json.Valid(raw) {
		err = errors.Join(err, json.Unmarshal(raw, &out))
	}
	return out, errors.Join(err, readErr)
}

func (c *client) try(ctx context.Context, query string, variables map[string]any) (reply, error) {
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return reply{}, err
	}
	return c.send(c.request(ctx, "POST", "/graphql", string(body)))
}

func (c *client) query(query string, variables map[string]any) reply {
	c.t.Helper()
	r, err := c.try(c.t.Context(), query, variables)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// ask wants an answer without errors, and reads the data.
func (c *client) ask(into any, query string, variables map[string]any) {
	c.t.Helper()
	r := c.query(query, variables)
	if r.status != 200 || len(r.Errors) > 0 {
		c.t.Fatalf("%d %s", r.status, r.raw)
	}
	if err := json.Unmarshal(r.Data, into); err != nil {
		c.t.Fatal(err)
	}
}

const (
	meQuery      = `{ me { username } }`
	loginQuery   = `mutation($u: String!, $p: String!) { login(username: $u, password: $p) { accessToken refreshToken user { username } } }`
	refreshQuery = `mutation($t: String!) { refreshToken(refreshToken: $t) { accessToken refreshToken } }`
)

func (c *client) login() (access, refresh string) {
	c.t.Helper()
	var d struct {
		Login struct{ AccessToken, RefreshToken string }
	}
	c.ask(&d, loginQuery, map[string]any{"u": "demo", "p": "secret"})
	return d.Login.AccessToken, d.Login.RefreshToken
}

func (c *client) control(body string) control {
	c.t.Helper()
	method := "POST"
	if body == "" {
		method = "GET"
	}
	r, err := c.send(c.request(c.t.Context(), method, "/control", body))
	if err != nil || r.status != 200 {
		c.t.Fatal(r.status, r.raw, err)
	}
	var shown control
	if err := json.Unmarshal([]byte(r.raw), &shown); err != nil {
		c.t.Fatal(err)
	}
	return shown
}

// testRepo is a repository with known commits, oldest first:
//
//	one    Ada, 2025-03-01 23:30 UTC: adds a.txt and logo.bin
//	two    Ben, 2025-03-02 12:00 UTC (written on 2024-12-24): changes a.txt, adds link.txt
//	three  Ada, 2025-03-03 00:00 UTC: renames a.txt, removes logo.bin
//	four   Ben, 2025-03-03 12:00 UTC: makes link.txt a link
func testRepo(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	run := func(env []string, args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", path, "-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false"}, args...)...)
		cmd.Env = append(os.Environ(), append(env, "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(message, author, authored, committed string) {
		t.Helper()
		run(nil, "add", "-A")
		email := strings.ToLower(author) + "@acme.example"
		run([]string{
			"GIT_AUTHOR_NAME=" + author, "GIT_AUTHOR_EMAIL=" + email, "GIT_AUTHOR_DATE=" + authored,
			"GIT_COMMITTER_NAME=" + author, "GIT_COMMITTER_EMAIL=" + email, "GIT_COMMITTER_DATE=" + committed,
		}, "commit", "-q", "-m", message)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	run(nil, "init", "-q")
	write("a.txt", "1\n2\n3\n4\n5\n")
	write("logo.bin", "\x00\x01")
	commit("one\n\nwith a \"body\"", "Ada", "2025-03-01T23:30:00Z", "2025-03-01T23:30:00Z")
	write("a.txt", "1\n2\ndiff --git a/x b/x\n4\n5\n6\n")
	write("link.txt", "text\n")
	commit("two", "Ben", "2024-12-24T12:00:00Z", "2025-03-02T14:00:00+02:00")
	run(nil, "mv", "a.txt", "b.txt")
	run(nil, "rm", "-q", "logo.bin")
	commit("three", "Ada", "2025-03-03T00:00:00Z", "2025-03-03T00:00:00Z")
	if err := errors.Join(os.Remove(filepath.Join(path, "link.txt")), os.Symlink("b.txt", filepath.Join(path, "link.txt"))); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	commit("four", "Ben", "2025-03-03T12:00:00Z", "2025-03-03T12:00:00Z")
	return path
}

func TestLogin(t *testing.T) {
	c := direct(t, testOptions(t))
	bad := c.query(loginQuery, map[string]any{"u": "demo", "p": "wrong"})
	if bad.status != 200 || string(bad.Data) != "null" || bad.code() != "UNAUTHENTICATED" {
		t.Errorf("wrong password: %d %s", bad.status, bad.raw)
	}
	access, refresh := c.login()
	for typ, want := range map[string]struct {
		token string
		life  int64
	}{"access": {access, 900}, "refresh": {refresh, 720 * 3600}} {
		parts := strings.Split(want.token, ".")
		if len(parts) != 3 {
			t.Fatalf("%q is no JWT", want.token)
		}
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		var got claims
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if got.Subject != "1" || got.Username != "demo" || got.Expires-got.IssuedAt != want.life || got.Type != typ || got.ID == "" {
			t.Errorf("%s: %+v", typ, got)
		}
	}
	if shown := c.control(""); shown.Counters.Logins != 1 || shown.Counters.ByField["login"] != 2 || shown.Counters.Requests != 2 {
		t.Errorf("counters %+v", shown.Counters)
	}
}

func TestTokensAreChecked(t *testing.T) {
	o := testOptions(t)
	c := direct(t, o)
	access, refresh := c.login()
	stranger, _ := direct(t, o).login()
	for name, token := range map[string]string{
		"none": "", "not a token": "x", "empty parts": "..", "refresh": refresh, "another server's": stranger,
		"changed": access[:len(access)-8] + "AAAAAAAA", "unsigned": access[:strings.LastIndexByte(access, '.')+1],
	} {
		c.token = token
		r := c.query(meQuery, nil)
		if r.status != 401 || r.code() != "UNAUTHENTICATED" || string(r.Data) != "null" {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	c.token = access
	var me struct{ Me struct{ Username string } }
	if c.ask(&me, meQuery, nil); me.Me.Username != "demo" {
		t.Errorf("me is %+v", me)
	}
	if c.query(refreshQuery, map[string]any{"t": access}).code() != "UNAUTHENTICATED" {
		t.Error("an access token refreshes")
	}
	c.control(`{"revoke": true}`)
	if r := c.query(meQuery, nil); r.status != 401 {
		t.Errorf("after revoke: %d", r.status)
	}
	c.server.authErrors = "graphql"
	if r := c.query(meQuery, nil); r.status != 200 || r.code() != "UNAUTHENTICATED" {
		t.Errorf("as GraphQL: %d %s", r.status, r.raw)
	}
}

func TestRefreshRotates(t *testing.T) {
	c := direct(t, testOptions(t))
	refresh := func(token string) (access, next string, code string) {
		t.Helper()
		r := c.query(refreshQuery, map[string]any{"t": token})
		if len(r.Errors) > 0 {
			return "", "", r.code()
		}
		var d struct {
			RefreshToken struct{ AccessToken, RefreshToken string }
		}
		if err := json.Unmarshal(r.Data, &d); err != nil {
			t.Fatal(err)
		}
		return d.RefreshToken.AccessToken, d.RefreshToken.RefreshToken, ""
	}
	status := func(token string) int {
		t.Helper()
		c.token = token
		return c.query(meQuery, nil).status
	}
	otherAccess, _ := c.login()
	access1, refresh1 := c.login()
	access2, refresh2, code := refresh(refresh1)
	if code != "" || refresh2 == refresh1 || access2 == access1 {
		t.Fatal("tokens were not replaced", code)
	}
	access3, refresh3, code := refresh(refresh2)
	if code != "" || status(access1) != 200 || status(access2) != 200 || status(access3) != 200 {
		t.Fatal("a rotation harms no access token", code)
	}
	if _, _, code := refresh(refresh1); code != "UNAUTHENTICATED" {
		t.Errorf("a spent token gives %q", code)
	}
	if _, _, code := refresh(refresh3); code != "UNAUTHENTICATED" {
		t.Errorf("its successor gives %q", code)
	}
	if status(access1) != 401 || status(access3) != 401 {
		t.Error("access tokens of the family outlive it")
	}
	if status(otherAccess) != 200 {
		t.Error("another login was revoked too")
	}
	if n := c.control("").Counters; n.Refreshes != 2 || n.ReuseDetected != 1 || n.ByField["refreshToken"] != 4 {
		t.Errorf("counters %+v", n)
	}
}

func TestTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t)
		o.AccessTTL, o.RefreshTTL = time.Minute, time.Hour
		c := direct(t, o)
		var refresh string
		c.token, refresh = c.login()
		for _, step := range []struct {
			wait   time.Duration
			status int
			code   string
		}{{59 * time.Second, 200, ""}, {time.Second, 401, ""}, {time.Hour, 401, "UNAUTHENTICATED"}} {
			if err := sleep(t.Context(), step.wait); err != nil {
				t.Fatal(err)
			}
			if r := c.query(meQuery, nil); r.status != step.status {
				t.Errorf("access token: %d %s, want %d", r.status, r.raw, step.status)
			}
			if step.code != "" && c.query(refreshQuery, map[string]any{"t": refresh}).code() != step.code {
				t.Error("an expired token refreshes")
			}
		}
	})
}

func TestHTTP(t *testing.T) {
	c := direct(t, testOptions(t))
	c.token, _ = c.login()
	for _, test := range []struct {
		name, method, contentType, accept, body string
		status                                  int
		answer                                  string
	}{
		{"plain", "POST", jsonType, "", `{"query":"{me{id}}"}`, 200, jsonType},
		{"charset", "POST", "application/json; charset=utf-8", jsonType, `{"query":"{me{id}}"}`, 200, jsonType},
		{"new media type", "POST", jsonType, responseType + ", application/json;q=0.9", `{"query":"{me{id}}"}`, 200, responseType},
		{"invalid query", "POST", jsonType, jsonType, `{"query":"{nothing}"}`, 200, jsonType},
		{"invalid query, new media type", "POST", jsonType, responseType, `{"query":"{nothing}"}`, 400, responseType},
		{"chosen operation", "POST", jsonType, "", `{"query":"query A{me{id}} query B{listUsers{id}}","operationName":"B"}`, 200, jsonType},
		{"form", "POST", "application/x-www-form-urlencoded", "", `query={me{id}}`, 415, jsonType},
		{"not JSON", "POST", jsonType, "", `{`, 400, jsonType},
		{"two values", "POST", jsonType, "", `{}{}`, 400, jsonType},
		{"batch", "POST", jsonType, "", `[]`, 400, jsonType},
		{"too large", "POST", jsonType, "", `{"query":"` + strings.Repeat(" ", maxBody) + `"}`, 413, jsonType},
		{"GET", "GET", jsonType, "", ``, 405, "text/plain; charset=utf-8"},
	} {
		r := c.request(t.Context(), test.method, "/graphql", test.body)
		r.Header.Set("Content-Type", test.contentType)
		r.Header.Set("Accept", test.accept)
		got, err := c.send(r)
		if err != nil || got.status != test.status || got.header.Get("Content-Type") != test.answer {
			t.Errorf("%s: %d %s %v", test.name, got.status, got.header.Get("Content-Type"), err)
		}
	}
}

type testCommit struct {
	SHA, Message, Author, AuthorEmail, Date string
	Additions, Deletions                    int
	Files                                   []struct {
		Filename, Status     string
		Additions, Deletions int
		Patch                *string
	}
}

// commits asks for those of the repository "fruit".
func (c *client) commits(variables map[string]any) []testCommit {
	c.t.Helper()
	var d struct {
		GithubCommits struct{ Commits []testCommit }
	}
	all := map[string]any{"organization": "acme", "repository": "fruit"}
	for k, v := range variables {
		all[k] = v
	}
	c.ask(&d, queryFiles(c.t)["github.commits"], all)
	return d.GithubCommits.Commits
}

func TestCommits(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	all := c.commits(nil)
	if len(all) != 4 {
		t.Fatalf("%d commits", len(all))
	}
	var summary []string
	for _, k := range all {
		line := fmt.Sprintf("%s by %s <%s> at %s +%d -%d:", k.Message, k.Author, k.AuthorEmail, k.Date, k.Additions, k.Deletions)
		for _, f := range k.Files {
			line += fmt.Sprintf(" %s %s +%d -%d", f.Status, f.Filename, f.Additions, f.Deletions)
			if f.Patch != nil {
				t.Errorf("%s has a patch that nobody asked for", f.Filename)
			}
		}
		summary = append(summary, line)
	}
	want := []string{
		"four by Ben <ben@acme.example> at 2025-03-03T12:00:00Z +1 -1: modified link.txt +1 -1",
		"three by Ada <ada@acme.example> at 2025-03-03T00:00:00Z +0 -0: renamed b.txt +0 -0 removed logo.bin +0 -0",
		"two by Ben <ben@acme.example> at 2025-03-02T14:00:00+02:00 +3 -1: modified a.txt +2 -1 added link.txt +1 -0",
		"one\n\nwith a \"body\" by Ada <ada@acme.example> at 2025-03-01T23:30:00Z +5 -0: added a.txt +5 -0 added logo.bin +0 -0",
	}
	if got, want := strings.Join(summary, "\n"), strings.Join(want, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if len(all[0].SHA) < 40 {
		t.Errorf("sha %q", all[0].SHA)
	}
}

func TestCommitFilters(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	for _, test := range []struct {
		variables map[string]any
		want      string
	}{
		{map[string]any{"startDate": "2025-03-02"}, "four three two"},
		{map[string]any{"startDate": "2025-03-02", "endDate": "2025-03-02"}, "two"},
		{map[string]any{"endDate": "2025-03-01"}, "one"},
		{map[string]any{"endDate": "2025-03-02"}, "two one"}, // not midnight's
		{map[string]any{"startDate": "2025-03-02T12:00:00Z", "endDate": "2025-03-03T00:00:00Z"}, "three two"},
		{map[string]any{"startDate": "2025-03-02T15:00:00+02:00"}, "four three"},
		{map[string]any{"endDate": "2024-12-31"}, ""}, // the committer's date counts
		{map[string]any{"startDate": nil, "endDate": nil, "author": nil, "includeDiff": nil}, "four three two one"},
		{map[string]any{"author": "ADA"}, "three one"},
		{map[string]any{"author": "ben@acme"}, "four two"},
		{map[string]any{"author": "--all"}, ""},
		{map[string]any{"repository": "acme/fruit", "author": "ada", "startDate": "2025-03-02"}, "three"},
	} {
		var got []string
		for _, k := range c.commits(test.variables) {
			got = append(got, strings.SplitN(k.Message, "\n", 2)[0])
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%v: %v, want %s", test.variables, got, test.want)
		}
	}
	query := queryFiles(t)["github.commits"]
	for code, variables := range map[string]map[string]any{
		"BAD_USER_INPUT": {"organization": "acme", "repository": "fruit", "startDate": "yesterday"},
		"NOT_FOUND":      {"organization": "acme", "repository": "--upload-pack=x"},
	} {
		if r := c.query(query, variables); r.status != 200 || r.code() != code || string(r.Data) != "null" {
			t.Errorf("%v: %d %s", variables, r.status, r.raw)
		}
	}
	if r := c.query(query, map[string]any{"organization": "nobody", "repository": "fruit"}); len(r.Errors) == 0 {
		t.Error("nobody is known")
	}
}

func TestCommitPatches(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	got := map[string]string{}
	for _, k := range c.commits(map[string]any{"includeDiff": true}) {
		for _, f := range k.Files {
			if f.Patch == nil {
				t.Fatalf("%s of %s has no patch", f.Filename, k.Message)
			}
			got[k.Message[:3]+" "+f.Filename] = *f.Patch
		}
	}
	for file, want := range map[string]string{
		"one a.txt":    "+1\n+2\n",
		"one logo.bin": "Binary files",
		"two a.txt":    "-3\n+diff --git a/x b/x\n 4\n 5\n+6\n",
		"two link.txt": "+text\n",
		"thr b.txt":    "rename from a.txt\nrename to b.txt\n",
		"thr logo.bin": "deleted file mode 100644",
		"fou link.txt": "-text\n",
	} {
		if !strings.Contains(got[file], want) {
			t.Errorf("%s: %q", file, got[file])
		}
	}
	if p := got["fou link.txt"]; strings.Count(p, "diff --git") != 2 || !strings.Contains(p, "+b.txt") {
		t.Errorf("a file made a link: %q", p)
	}
	var d struct{ GithubCommits struct{ JSON string } }
	c.ask(&d, `{ githubCommits(organization: "acme", repository: "fruit", format: JSON) { json } }`, nil)
	var exported []testCommit
	if err := json.Unmarshal([]byte(d.GithubCommits.JSON), &exported); err != nil || len(exported) != 4 || exported[3].AuthorEmail != "ada@acme.example" {
		t.Errorf("export: %v %s", err, d.GithubCommits.JSON)
	}
}

func TestRepositories(t *testing.T) {
	o := testOptions(t)
	path := testRepo(t, o.Repos, "fruit")
	// Neither an empty repository nor another folder does any harm.
	if err := os.Mkdir(filepath.Join(o.Repos, "notes"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := git(t.Context(), o.Repos, nil, "init", "-q", "--bare", "void.git"); err != nil {
		t.Fatal(err)
	}
	names := func(o options, query string, variables map[string]any) string {
		t.Helper()
		var d map[string][]struct{ Name, PushedAt, CreatedAt string }
		start(t, o).ask(&d, query, variables)
		var names []string
		for _, list := range d {
			for _, r := range list {
				names = append(names, r.Name+" "+r.CreatedAt+" "+r.PushedAt)
			}
		}
		return strings.Join(names, ", ")
	}
	files := queryFiles(t)
	acme := map[string]any{"organization": "acme"}
	fruit := "fruit 2025-03-01T23:30:00Z 2025-03-03T12:00:00Z"
	if got := names(o, files["github.repositories"], acme); got != fruit+", void  " {
		t.Errorf("repositories: %s", got)
	}
	for date, want := range map[string]string{"2025-03-03": fruit, "2025-03-04": ""} {
		if got := names(o, files["github.repositoriesByPushDate"], map[string]any{"organization": "acme", "startDate": date}); got != want {
			t.Errorf("pushed since %s: %s", date, got)
		}
	}
	o.Repos = path
	if got := names(o, files["github.repositories"], acme); got != fruit {
		t.Errorf("one repository: %s", got)
	}
}

func TestClone(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	type payload struct {
		Success                  bool
		Path, Error              *string
		Repository, Organization string
	}
	clone := func(name string) payload {
		t.Helper()
		var d struct{ GithubCloneRepository payload }
		c.ask(&d, queryFiles(t)["github.clone"], map[string]any{"organization": "acme", "repository": name})
		return d.GithubCloneRepository
	}
	done := clone("fruit")
	if !done.Success || done.Path == nil || done.Error != nil || done.Repository != "fruit" || done.Organization != "acme" {
		t.Fatalf("%+v", done)
	}
	if again := clone("fruit"); !again.Success || *again.Path == *done.Path {
		t.Errorf("a second clone: %+v", again)
	}
	commits, err := newRepository(*done.Path).log(t.Context())
	if err != nil || len(commits) != 4 || !strings.HasPrefix(*done.Path, o.Clones) {
		t.Errorf("%s has %d commits: %v", *done.Path, len(commits), err)
	}
	for _, name := range []string{"vegetables", "--bare", "../fruit", ""} {
		if failed := clone(name); failed.Success || failed.Path != nil || failed.Error == nil {
			t.Errorf("%q: %+v", name, failed)
		}
	}
	left, err := os.ReadDir(o.Clones)
	if err != nil || len(left) != 2 {
		t.Errorf("%d folders for 2 clones: %v", len(left), err)
	}
}

// TestEveryQuery runs each command as the daemon would. A command that finds nothing proves little, so all must find
// something.
func TestEveryQuery(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	_, refresh := c.login()
	var d struct{ AzureDevOpsCommits []struct{ CommitID string } }
	c.ask(&d, `{ azureDevOpsCommits(organization: "acme", project: "Honeydew", repo: "service") { commitId } }`, nil)

	// A variable means what its command says, then its provider, then its name alone.
	values := map[string]any{
		"organization": "acme", "workspace": "acme", "repository": "fruit", "repo": "fruit", "project": "fruit",
		"startDate": "2025-01-01", "endDate": "2026-01-01", "author": "ada", "includeDiff": true, "team": "HON",
		"account/id": "1", "asana/workspace": "120001", "jira/project": "HON", "boardId": "7001", "workspaceId": "1",
		"azuredevops/project": "Honeydew", "azuredevops/repo": "service", "azuredevops/id": 2, "ids": []int{1, 2},
		"prId": 1, "commitId": d.AzureDevOpsCommits[0].CommitID, "wiql": "SELECT [System.Id] FROM WorkItems",
		"workItemTypes": []string{"Bug", "Task"},
		"username":      "demo", "password": "secret", "refreshToken": refresh,
		"github.pullRequestsDetailed/author": "ben", "bitbucket.pullRequestsDetailed/author": "ben", "gitlab.mergeRequestsDetailed/author": "ben",
	}
	for name, query := range queryFiles(t) {
		provider, _, _ := strings.Cut(name, ".")
		declared, _ := variables(query)
		full := map[string]any{}
		for v := range declared {
			value, ok := values[name+"/"+v]
			if !ok {
				value, ok = values[provider+"/"+v]
			}
			if !ok {
				value, ok = values[v]
			}
			if !ok {
				t.Errorf("%s: no value for $%s", name, v)
			}
			full[v] = value
		}
		calls := map[string]map[string]any{"all variables": full}
		if provider != "auth" { // a refresh token is good for once
			calls["required variables"] = required(query, full)
		}
		for which, variables := range calls {
			var d map[string]any
			r := c.query(query, variables)
			if r.status != 200 || len(r.Errors) > 0 {
				t.Errorf("%s with %s: %d %s", name, which, r.status, r.raw)
				continue
			}
			if err := json.Unmarshal(r.Data, &d); err != nil {
				t.Fatal(err)
			}
			if field := rootFields(query, "")[0]; empty(d[field]) {
				t.Errorf("%s with %s finds nothing: %s", name, which, r.raw)
			}
		}
	}
}

// empty is true for null, no list items, and an object of one such list.
func empty(v any) bool {
	switch v := v.(type) {
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, inner := range v {
			if list, ok := inner.([]any); ok && len(v) == 1 {
				return len(list) == 0
			}
		}
		return len(v) == 0
	default:
		return v == nil
	}
}

func TestOtherFields(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	for _, query := range []string{
		`mutation { createUser(input: {username: "x", password: "y"}) { id } }`,
		`mutation { updateUser(id: 1, input: {role: "x"}) { id } }`,
		`mutation { deleteUser(id: 1) { success } }`,
		`mutation { deactivateUser(username: "x") { id } }`,
		`mutation { deleteOrganizationProvider(oid: 1) { success } }`,
	} {
		if r := c.query(query, nil); r.status != 200 || !strings.Contains(r.raw, "not in the sandbox") {
			t.Errorf("%s: %d %s", query, r.status, r.raw)
		}
	}
	for query, want := range map[string]string{
		`{ getUser(id: 99) { id } }`:                                                                          `{"getUser":null}`,
		`{ azureDevOpsProject(organization: "a", project: "x") { id } }`:                                      `{"azureDevOpsProject":null}`,
		`{ azureDevOpsWorkItem(organization: "a", id: 0) { id } }`:                                            `{"azureDevOpsWorkItem":null}`,
		`{ jiraIssues(organization: "a", project: "x") { key } }`:                                             `{"jiraIssues":[]}`,
		`{ jiraIssues(organization: "a", startDate: "2025-01-01", endDate: "2025-01-06") { key createdAt } }`: `{"jiraIssues":[{"key":"MEL-1","createdAt":"2025-01-01T09:37:00Z"},{"key":"HON-2","createdAt":"2025-01-04T11:14:00Z"}]}`,
	} {
		if r := c.query(query, nil); string(r.Data) != want {
			t.Errorf("%s: %s", query, r.raw)
		}
	}
	for name, query := range queryFiles(t) {
		if !strings.Contains(query, "$organization") {
			continue
		}
		variables := map[string]any{
			"organization": "nobody", "repository": "fruit", "repo": "service", "project": "Honeydew", "startDate": "2025-01-01",
			"id": 1, "ids": []int{1}, "prId": 1, "commitId": "x",
		}
		if r := c.query(query, required(query, variables)); r.code() != "NOT_FOUND" {
			t.Errorf("%s knows nobody: %s", name, r.raw)
		}
	}
}

// required keeps the values of those variables that the query cannot do without.
func required(query string, values map[string]any) map[string]any {
	declared, _ := variables(query)
	out := map[string]any{}
	for name, typ := range declared {
		if strings.HasSuffix(typ, "!") {
			out[name] = values[name]
		}
	}
	return out
}

func TestFaults(t *testing.T) {
	c := start(t, testOptions(t))
	for _, test := range []struct {
		on, off    string
		status     int
		code       string
		retryAfter string
	}{
		{`{"error_rate": 1}`, `{"error_rate": 0}`, 500, "INTERNAL_SERVER_ERROR", ""},
		{`{"unauthorized_rate": 1}`, `{"unauthorized_rate": 0}`, 401, "UNAUTHENTICATED", ""},
		{`{"rate_limit_rate": 1, "retry_after": 7}`, `{"rate_limit_rate": 0}`, 429, "SANDBOX_FAULT", "7"},
		{`{"fail_next": 1}`, `{}`, 503, "SERVICE_UNAVAILABLE", "7"},
		{`{"fail_next": 1, "fail_status": 404}`, `{}`, 404, "SANDBOX_FAULT", ""},
		{`{"fail_next": 1, "fail_status": 401}`, `{}`, 401, "UNAUTHENTICATED", ""},
	} {
		c.control(test.on)
		c.login() // passes
		r := c.query(meQuery, nil)
		if r.status != test.status || r.code() != test.code || r.header.Get("Retry-After") != test.retryAfter {
			t.Errorf("%s: %d %v %s", test.on, r.status, r.header, r.raw)
		}
		c.control(test.off)
		if r := c.query(meQuery, nil); r.status != 200 {
			t.Errorf("after %s: %d %s", test.on, r.status, r.raw)
		}
	}

	c.control(`{"faults_on_auth": true, "fail_next": 1}`)
	if r := c.query(loginQuery, map[string]any{"u": "demo", "p": "secret"}); r.status != 401 {
		t.Errorf("a login that should fail: %d", r.status)
	}
	c.control(`{"html_rate": 1}`)
	if r := c.query(meQuery, nil); r.status != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") || !strings.Contains(r.raw, "<title>") {
		t.Errorf("captive portal: %d %s", r.status, r.raw)
	}
	c.control(`{"html_rate": 0, "cut_rate": 1}`)
	if r, err := c.try(t.Context(), meQuery, nil); !errors.Is(err, io.ErrUnexpectedEOF) || r.raw == "" {
		t.Errorf("cut: %v %q", err, r.raw)
	}
}

func TestControl(t *testing.T) {
	o := testOptions(t)
	o.Faults.Latency = duration(time.Millisecond)
	c := direct(t, o)
	for _, body := range []string{`{"latencey": "1s"}`, `{"latency": 5}`, `{"latency": "-1s"}`, `{"error_rate": 2}`, `{"fail_next": -1}`, `{"fail_status": 99}`, `[]`, ``} {
		r, err := c.send(c.request(t.Context(), "POST", "/control", body))
		if err != nil || r.status != 400 || !strings.Contains(r.raw, `"error"`) {
			t.Errorf("%s: %d %s %v", body, r.status, r.raw, err)
		}
	}
	got := c.control(`{"jitter": "20ms", "cut_rate": 0.5}`).Settings
	want := settings{Latency: duration(time.Millisecond), Jitter: duration(20 * time.Millisecond), CutRate: 0.5, FailStatus: 503}
	if got != want {
		t.Errorf("settings %+v, want %+v", got, want)
	}
}

func TestSeedDecides(t *testing.T) {
	fate := func(seed uint64) string {
		f := newFaults(settings{ErrorRate: 0.5}, seed)
		var b strings.Builder
		for range 64 {
			hit, err := f.next(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&b, hit.status, " ")
		}
		return b.String()
	}
	if again := fate(1); again != fate(1) || again == fate(2) || !strings.Contains(fate(1), "500 ") || !strings.Contains(fate(1), "0 0 ") {
		t.Errorf("seed 1: %s", fate(1))
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := direct(t, testOptions(t))
		c.token, _ = c.login()
		took := func() time.Duration {
			t.Helper()
			start := time.Now()
			var d any
			c.ask(&d, meQuery, nil)
			return time.Since(start)
		}
		c.control(`{"latency": "3s"}`)
		if d := took(); d != 3*time.Second {
			t.Errorf("latency of %v", d)
		}
		c.control(`{"jitter": "2s"}`)
		if d := took(); d <= 3*time.Second || d >= 5*time.Second {
			t.Errorf("latency and jitter of %v", d)
		}
		c.control(`{"latency": "0s", "jitter": "0s", "slow": "20s"}`)
		if d := took(); d < 10*time.Second || d > 20*time.Second {
			t.Errorf("an answer over %v", d)
		}
	})
}

func TestGateAndHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := direct(t, testOptions(t))
		c.token, _ = c.login()
		// ask starts a request, and gives its end.
		ask := func(ctx context.Context) (ended func() bool, result func() (reply, error)) {
			var r reply
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				r, err = c.try(ctx, meQuery, nil)
			}()
			ended = func() bool {
				synctest.Wait()
				select {
				case <-done:
					return true
				default:
					return false
				}
			}
			return ended, func() (reply, error) { <-done; return r, err }
		}
		leave, cancel := context.WithCancel(t.Context())
		c.control(`{"gate": true}`)
		ended, result := ask(t.Context())
		leaves, left := ask(leave)
		if ended() || leaves() || c.control("").Counters.Waiting != 2 {
			t.Error("the gate holds nobody")
		}
		cancel()
		if _, err := left(); !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("who leaves gets %v", err)
		}
		c.control(`{"latency": "0s"}`) // does not open it
		if ended() {
			t.Error("another setting opens the gate")
		}
		c.control(`{"gate": false}`)
		if r, err := result(); err != nil || r.status != 200 || c.control("").Counters.Waiting != 0 {
			t.Errorf("behind the gate: %d %v", r.status, err)
		}

		leave, cancel = context.WithCancel(t.Context())
		c.control(`{"hang_rate": 1}`)
		ended, result = ask(leave)
		if ended() {
			t.Error("a hanging request ends")
		}
		cancel()
		if _, err := result(); !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("hang: %v", err)
		}
	})
}

func TestManyClients(t *testing.T) {
	o := testOptions(t)
	testRepo(t, o.Repos, "fruit")
	c := start(t, o)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			r, err := c.try(t.Context(), `{ githubCommits(organization: "a", repository: "fruit") { commits { sha } } }`, nil)
			if err != nil || len(r.Errors) > 0 {
				t.Error(err, r.raw)
			}
		})
		wg.Go(func() {
			if r, err := c.send(c.request(t.Context(), "POST", "/control", `{"jitter": "1ms"}`)); err != nil || r.status != 200 {
				t.Error(err, r.raw)
			}
		})
	}
	wg.Wait()
}

func TestRun(t *testing.T) {
	repos := t.TempDir()
	testRepo(t, repos, "fruit")
	ctx, stop := context.WithCancel(t.Context())
	stdout, w := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"-addr", "127.0.0.1:0", "-repos", repos, "-hang-rate", "1", "-v"}, w, &stderr)
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err, <-code, stderr.String())
	}
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "sandbox: ")
	if !ok || !strings.HasSuffix(url, "/graphql") {
		t.Fatalf("first line %q", line)
	}
	c := &client{t: t, url: strings.TrimSuffix(url, "/graphql")}
	if r := c.query(loginQuery, map[string]any{"u": "demo", "p": "demo"}); r.status != 200 || len(r.Errors) > 0 {
		t.Errorf("login: %s", r.raw)
	}
	stop()
	if got := <-code; got != 0 || !strings.Contains(stderr.String(), "POST /graphql 200") {
		t.Errorf("exit code %d: %s", got, stderr.String())
	}
}

func TestFlags(t *testing.T) {
	for _, args := range []string{
		"-addr 0.0.0.0:0", "-addr :8931", "-addr 192.0.2.1:80", "-addr x", "-error-rate 1.5", "-auth-errors maybe",
		"-latency -1s", "-access-ttl 0s", "-fail-status 42", "-nonsense", "left over",
	} {
		if code := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); code != 2 {
			t.Errorf("%s: exit code %d", args, code)
		}
	}
	if code := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); code != 0 {
		t.Errorf("-h: exit code %d", code)
	}
	if code := run(t.Context(), []string{"-schema", "/nowhere"}, io.Discard, io.Discard); code != 1 {
		t.Errorf("no schema: exit code %d", code)
	}
}
