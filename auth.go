package main

// Logging in, refreshing, and handing a token to whoever sends a request. The passwords pass through, the tokens stay
// here: in memory in the clear, in the database sealed, and in no log or error.
//
// Refresh tokens rotate, and an API may take the second use of a spent one for theft and revoke everything. So each
// environment has one session, a pair of tokens is replaced by one change at a time (a refresh, a login, a logout), and
// a new pair is on disk before anyone gets to see its access token.
//
// The life of a session:
//
//	          login                    5 minutes before expiry,
//	            |                      or the API refuses the access token
//	            v                                  |
//	none --> in use <--- a new pair, on disk --- refresh ---> the service itself says no: needs a login
//	            ^                                  |          (errEndsLogin; on disk, the tokens stay)
//	            |                                  |
//	            +---- anything else: the tokens stay, AUTH_NETWORK_ERROR, tried again
//
// The clock of this computer is in none of these arrows but the first refresh: it may be wrong, so it ends no login.
//
// Changes in time. One belongs to no request: whoever waits for it may go, it goes on. A login or logout ends a refresh
// that is under way, which may hang, and whoever waited for that looks again, and waits for what came in its place:
//
//	job 1    needs a token --+ starts
//	job 2      needs one too |---- waits --------------> wakes ---- looks again ---- waits --> has the new pair
//	refresh                  +======= asks the API ====X told to end
//	login                        the user types           +=== waits for that, stores its pair ===+
//
// A refresh that nobody ends hands its pair, or its failure, to all who wait. So a hundred jobs whose token is refused
// make one refresh, and where it fails they make no hundred more.
//
// session.mu guards the change under way; it is not held across SQL or a request.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	refreshMargin   = 5 * time.Minute  // before expiry, so that a request on its way does not lose its token
	refreshInterval = 10 * time.Second // at least, between refreshes that no 401 asked for
	refreshCheck    = time.Minute
	refreshPatience = 10 * time.Minute // with refreshes that fail, before a person is told what to do

	maxLoginAnswer     = 1 << 20
	maxCredentialBytes = 16 << 10 // of a username or password: each is sought in what the API says
)

type tokenSourceOptions struct {
	Store                    *Store
	Client                   *Client
	Sealer                   *sealer
	Log                      *slog.Logger
	Timeout                  time.Duration // of a login or refresh
	LoginQuery, RefreshQuery string
}

// TokenSource knows every environment's login. It has no lock of its own: environments do not wait for each other.
type TokenSource struct {
	tokenSourceOptions
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup // of changes under way
	sessions sync.Map       // *session by environment id
}

// session is one environment's login in memory. Only a change under way writes pair, unsaved, failing and doubted, so
// these need no lock; everybody may read pair.
type session struct {
	*TokenSource
	pair    atomic.Pointer[tokenPair] // as it is on disk; nil: to be read
	unsaved *tokenPair                // refreshed, but not on disk: the disk refused it
	failing time.Time                 // since when refreshing fails; zero: it does not
	doubted time.Time                 // when the API was last asked in spite of what the clock says
	mu      sync.Mutex
	change  *change // under way
}

// tokenPair is a login in the clear.
type tokenPair struct {
	loginFacts
	access, refresh string
	renewed         time.Time     // by a refresh of ours
	skew            time.Duration // our clock is ahead of the API's by this; 0 also where nobody knows
}

// loginFacts are what everybody may know of a login; the times are zero where the tokens do not say.
type loginFacts struct {
	Username                      string
	AccessExpires, RefreshExpires time.Time
}

// change is one change of a session under way. Once done is closed there is a pair or an err for whoever waited. There
// is neither where this was a login or logout, or was ended by one: then they look again.
type change struct {
	done   chan struct{}
	cancel context.CancelFunc
	pair   *tokenPair
	err    error
}

func newTokenSource(o tokenSourceOptions) *TokenSource {
	t := &TokenSource{tokenSourceOptions: o}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Close ends refreshes under way and waits for them. One whose answer has come stores its pair first: the old refresh
// token is spent, and without the new one the next start would need a login.
func (t *TokenSource) Close() {
	t.cancel()
	t.wg.Wait()
}

func (t *TokenSource) session(envID string) *session {
	s, _ := t.sessions.LoadOrStore(envID, &session{TokenSource: t})
	return s.(*session)
}

// Forget drops what is remembered of an environment that was removed. A refresh that is under way for it goes on, and
// finds no environment to store its pair in.
func (t *TokenSource) Forget(envID string) {
	t.sessions.Delete(envID)
}

// startLocked makes run the session's change under way; its caller must hold mu. The change before it is told to end,
// and waited for: a refresh that had its answer already must not store its pair over that of a login.
func (s *session) startLocked(run func(context.Context) (*tokenPair, error)) *change {
	ctx, cancel := context.WithTimeout(s.ctx, s.Timeout)
	c := &change{done: make(chan struct{}), cancel: cancel}
	before := s.change
	if before != nil {
		before.cancel()
	}
	s.change = c
	s.wg.Go(func() {
		defer close(c.done)
		defer cancel()
		if before != nil {
			<-before.done
		}
		pair, err := run(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.change == c { // or else what came of it counts no more
			s.change = nil
			c.pair = pair
			c.err = err
		}
	})
	return c
}

// replace makes pair the session's, nil for a logout, once it is stored. Where the disk refuses that, all stays as it
// was. It does not heed its context: a login that the API has given is to be stored, and that takes no time.
func (t *TokenSource) replace(env Environment, pair *tokenPair, store func() error) error {
	s := t.session(env.ID)
	var err error
	s.mu.Lock()
	c := s.startLocked(func(context.Context) (*tokenPair, error) {
		err = store()
		if err == nil {
			s.unsaved = nil
			s.failing = time.Time{}
			s.pair.Store(pair)
		}
		return nil, nil // whoever waits is to look again
	})
	s.mu.Unlock()
	<-c.done
	return err
}

// expired is the error of a login that is over. Jobs fail by it at once, without a retry: only a person can help.
func expired(why string) *Error {
	return errorf(codeAuthExpired, "%s", why).hint("log in again with: honeydew login")
}

// AuthState is what a person is told of a login.
type AuthState struct {
	Authenticated, NeedsReauth bool
	loginFacts
	Problem string // why the stored login cannot be used, and what to do; "" where it can, or has just expired
}

// Status tells of env's login without asking the API. That a token has expired by our clock says nothing: a refresh may
// do, and the clock may be wrong. What cannot be decrypted needs a login.
func (t *TokenSource) Status(env Environment) (AuthState, error) {
	row, err := t.Store.Tokens(env.ID)
	if codeOf(err) == codeNotFound {
		return AuthState{NeedsReauth: env.NeedsReauth}, nil
	}
	if err != nil {
		return AuthState{}, err
	}
	// The tokens themselves are of no use here; whether they can be opened is.
	pair, err := t.open(env, row)
	state := AuthState{loginFacts: pair.loginFacts}
	if e, ok := errors.AsType[*Error](err); ok {
		state.Problem = e.Message + "; " + e.Hint
	}
	state.Authenticated = err == nil && !env.NeedsReauth
	state.NeedsReauth = !state.Authenticated
	return state, nil
}

// due reports whether the pair is to be refreshed before it is used. Without a refresh token it is used until the API
// refuses it. Tokens that live for less than the margin, or a wrong clock, must not make every request refresh.
func (p *tokenPair) due() bool {
	if p.refresh == "" || p.AccessExpires.IsZero() {
		return false
	}
	return time.Until(p.AccessExpires.Add(p.skew)) < refreshMargin &&
		time.Since(p.renewed) > refreshInterval
}

// refreshOver reports whether the refresh token has expired, if our clock is right.
func (p *tokenPair) refreshOver() bool {
	return !p.RefreshExpires.IsZero() && time.Until(p.RefreshExpires.Add(p.skew)) <= 0
}

// good reports whether there is a pair that may be used as it is.
func (p *tokenPair) good(refused string) bool {
	return p != nil && p.access != refused && !p.due()
}

// open decrypts what save stored. Where it fails the pair only says whose they are.
func (t *TokenSource) open(env Environment, row TokenRow) (*tokenPair, error) {
	p := &tokenPair{}
	p.Username = row.Username
	place := sealPlace(env)
	access, err := t.Sealer.open(place, "access", row.Access)
	if err == nil && len(row.Refresh) > 0 {
		p.refresh, err = t.Sealer.open(place, "refresh", row.Refresh)
	}
	if err == nil {
		p.access = access
		p.AccessExpires = row.AccessExpires
		p.RefreshExpires = row.RefreshExpires
		return p, nil
	}
	// The log says what is wrong with them, the error what to do about it.
	t.Log.Debug("tokens cannot be decrypted",
		"environment", env.Name,
		"error", err)
	// Where only the passphrase is missing, to bring it back is all that is needed; a login would be refused.
	missing, ok := errors.AsType[*Error](t.Sealer.mayReplace(env.Name, row.Access))
	if ok {
		missing.Code = codeAuthExpired
		return p, missing
	}
	return p, expired("the stored login cannot be decrypted: " +
		"its key or passphrase, or the environment's URL, has changed").
		hint("bring that back, or log in again with: honeydew login")
}

// mayReplace fails where the login that is stored must not be replaced by one of this daemon's: it was made under a
// passphrase that this daemon has not got.
func (t *TokenSource) mayReplace(env Environment) error {
	row, err := t.Store.Tokens(env.ID)
	if err != nil && codeOf(err) != codeNotFound {
		return err
	}
	return t.Sealer.mayReplace(env.Name, row.Access) // of nothing, where there is no login
}

// save seals and stores a pair. A login ends the need for one, a refresh does not: it may have begun before the refusal
// that made the need.
func (t *TokenSource) save(env Environment, p *tokenPair, login bool) error {
	err := t.mayReplace(env)
	if err != nil {
		return err
	}
	row := TokenRow{
		EnvironmentID:  env.ID,
		Username:       p.Username,
		AccessExpires:  p.AccessExpires,
		RefreshExpires: p.RefreshExpires,
	}
	place := sealPlace(env) // with the URL: a login is never sent to another host
	row.Access, err = t.Sealer.seal(place, "access", p.access)
	if err == nil && p.refresh != "" {
		row.Refresh, err = t.Sealer.seal(place, "refresh", p.refresh)
	}
	if err != nil {
		return err
	}
	return t.Store.SaveTokens(row, login)
}

// Login trades username and password for tokens and stores them. Its errors are LOGIN_REFUSED or API_UNREACHABLE where
// the API is the cause. The earlier login stays in use until the new one is stored; where that fails it still counts.
//
// The API is asked before there is a change under way, in the time of whoever typed the password: they may give up, and
// a wrong password must not end a refresh.
func (t *TokenSource) Login(ctx context.Context, env Environment, username, password string) (AuthState, error) {
	if username == "" || password == "" {
		return AuthState{}, invalidf("username and password: both are needed")
	}
	if max(len(username), len(password)) > maxCredentialBytes {
		return AuthState{}, invalidf("username and password: at most %d bytes each are allowed", maxCredentialBytes)
	}
	err := t.mayReplace(env) // before the API gives tokens that cannot be kept
	if err != nil {
		return AuthState{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	r := Request{
		URL:     env.BaseURL,
		Query:   t.LoginQuery,
		Field:   "login",
		Secrets: []string{password},
	}
	pair, e := t.obtain(ctx, r, map[string]string{
		"username": username,
		"password": password,
	})
	if e != nil {
		return AuthState{}, notLoggedIn(env, e)
	}
	pair.Username = username
	err = t.replace(env, pair, func() error {
		return t.save(env, pair, true)
	})
	if err != nil {
		return AuthState{}, err
	}
	t.Log.Info("logged in",
		"environment", env.Name,
		"username", username)
	return AuthState{Authenticated: true, loginFacts: pair.loginFacts}, nil
}

// notLoggedIn is the error of a login that e has kept from the API's tokens. Where nobody could be asked, something
// else is to be checked than where the answer was no.
func notLoggedIn(env Environment, e *Error) *Error {
	if !refusedByAPI(e) {
		next := "check the network, and the environment's URL with: honeydew env list"
		// Where an answer came, both are good.
		switch {
		case e.Hold > 0:
			next = "try again then"
		case e.Code == codeServer:
			next = "the API has a fault; try again later"
		}
		hint := cmp.Or(e.Hint, next)
		return errorf(codeAPIUnreachable, "login to %s: %s", env.Name, e.Message).hint("%s", hint)
	}
	// A password that is a word of the API's sentence, such as "wrong", leaves a hole in it. What is left may say
	// nothing, or the contrary.
	said := e.Message
	if strings.Contains(said, redacted) {
		said = "the API refused it"
		if e.Code == codeAuthInvalid {
			said = "wrong username or password"
		}
	}
	refusal := errorf(codeLoginRefused, "login to %s: %s", env.Name, said)
	// Where that says what to check, a hint would say it twice.
	if strings.Contains(said, "username") {
		return refusal
	}
	return refusal.hint("check the username and password")
}

// Logout forgets env's tokens and reports whether there were any. The API is not told: it has no word for that, and a
// person who logs out must not have to wait for it.
func (t *TokenSource) Logout(env Environment) (had bool, err error) {
	err = t.replace(env, nil, func() (err error) {
		had, err = t.Store.DeleteTokens(env.ID)
		return err
	})
	if err == nil {
		t.Log.Info("logged out", "environment", env.Name)
	}
	return had, err
}

// refusedByAPI tells a no from trouble on the way. Only a login asks this, of somebody who can try again; what ends a
// stored login is errEndsLogin, which takes more.
func refusedByAPI(e *Error) bool {
	if errors.Is(e, errForeign) {
		return false
	}
	return e.Code == codeAuthInvalid || e.Code == codeAPI
}

// obtain sends a login or refresh and reads the pair of tokens that it gives. What a token is worth, only the API
// knows: the expiry is read from it without a check, to plan by and for nothing else.
func (t *TokenSource) obtain(ctx context.Context, r Request, variables map[string]string) (*tokenPair, *Error) {
	r.Variables, _ = json.Marshal(variables) // strings alone: it cannot fail
	r.Private = true
	answer, err := t.Client.Do(ctx, r)
	e, failed := errors.AsType[*Error](err)
	if failed {
		return nil, e
	}
	if len(answer.Data) > maxLoginAnswer {
		return nil, errorf(codeBadResponse, "the API's answer to %s has %d bytes; at most %d are taken",
			r.Field,
			len(answer.Data),
			maxLoginAnswer)
	}
	var got struct{ AccessToken, RefreshToken string }
	err = json.Unmarshal(answer.Data, &got)
	if err != nil ||
		got.AccessToken == "" ||
		!usableToken(got.AccessToken) ||
		!usableToken(got.RefreshToken) {
		return nil, errorf(codeBadResponse, "the API's answer to %s holds no token, or an unusable one; "+
			"allowed are %d bytes of visible ASCII", r.Field, maxTokenBytes)
	}
	pair := &tokenPair{
		access:  got.AccessToken,
		refresh: got.RefreshToken,
		skew:    tokenSkew(got.AccessToken, time.Now()),
	}
	pair.AccessExpires = tokenExpiry(got.AccessToken)
	pair.RefreshExpires = tokenExpiry(got.RefreshToken)
	return pair, nil
}

// Do calls send with env's token, refreshed before if it is about to expire; if the API refuses it, once more with
// a fresh one. secrets must not appear in any text that send's request leaves behind.
//
// A token that was refreshed since Do began is as fresh as one can be. If the API refuses that, it would refuse the
// next one too, and every call would cost a refresh.
func (t *TokenSource) Do(
	ctx context.Context,
	env Environment,
	send func(token string, secrets []string) error,
) error {
	begin := time.Now() // by the steady clock, as renewed is
	pair, err := t.token(ctx, env, "")
	if err != nil {
		return err
	}
	err = send(pair.access, []string{pair.refresh})
	if codeOf(err) != codeAuthInvalid || !pair.renewed.Before(begin) {
		return err
	}
	pair, err = t.token(ctx, env, pair.access)
	if err != nil {
		return err
	}
	return send(pair.access, []string{pair.refresh})
}

// token returns a pair that is good for now: not about to expire, and not the one whose access token was refused. Most
// calls end at the first look, without a lock.
func (t *TokenSource) token(ctx context.Context, env Environment, refused string) (*tokenPair, error) {
	s := t.session(env.ID)
	for {
		pair := s.pair.Load()
		if pair.good(refused) {
			return pair, nil
		}
		s.mu.Lock()
		c := s.change
		if c == nil {
			c = s.startLocked(func(ctx context.Context) (*tokenPair, error) {
				return s.renew(ctx, env, refused)
			})
		}
		s.mu.Unlock()
		// The wait ends with the caller, the change does not.
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, notRefreshed("no fresh token in time", ctx.Err())
		}
		if c.pair != nil || c.err != nil {
			return c.pair, c.err
		}
	}
}

// renew is the session's change under way when nobody logs in or out. The first of these that holds decides:
//
//	a pair is refreshed, but not on disk     store it
//	no login, or one that needs a new one    AUTH_REQUIRED, AUTH_EXPIRED
//	the pair is good                         use it: somebody else was quicker
//	there is no refresh token                needs a login
//	it is over by our clock, and the API     use the access token, or AUTH_NETWORK_ERROR if that was refused
//	  was asked less than a minute ago
//	the API gives a new pair                 store it, then use it
//	the service itself says no               needs a login
//	anything else                            AUTH_NETWORK_ERROR, tried again
func (s *session) renew(ctx context.Context, env Environment, refused string) (*tokenPair, error) {
	pair, err := s.present(env)
	if err != nil {
		return nil, err
	}
	if pair.good(refused) {
		return pair, nil
	}
	if pair.refresh == "" {
		return nil, s.expire(env, "the API refused the access token, and gave no refresh token")
	}
	if pair.refreshOver() {
		// The clock may be wrong, and ends no login: the API is asked, but not by every job.
		wait := time.Until(s.doubted.Add(refreshCheck))
		if wait > 0 && pair.access != refused {
			return pair, nil // the API decides
		}
		if wait > 0 {
			return nil, s.notRefreshedYet("by this computer's clock the refresh token has expired; "+
				"the API is asked again in %s", durationText(wait.Round(time.Second)))
		}
		s.doubted = time.Now()
	}
	r := Request{
		URL:     env.BaseURL,
		Query:   s.RefreshQuery,
		Field:   "refreshToken",
		Secrets: []string{pair.refresh},
	}
	fresh, e := s.obtain(ctx, r, map[string]string{
		"refreshToken": pair.refresh,
	})
	if e != nil && errors.Is(e, errEndsLogin) {
		return nil, s.expire(env, "the API refused the refresh token: "+e.Message)
	}
	if e != nil {
		return nil, s.refreshFailed(e)
	}
	// The API's answer names nobody, and says nothing of what it leaves as it was.
	s.failing = time.Time{}
	fresh.Username = pair.Username
	fresh.renewed = time.Now()
	if fresh.refresh == "" {
		// An API that does not rotate.
		fresh.refresh = pair.refresh
		fresh.RefreshExpires = pair.RefreshExpires
	}
	return fresh, s.keep(env, fresh)
}

// present is the session's pair: the one in memory, or else on disk. It fails with AUTH_REQUIRED without a login, and
// with AUTH_EXPIRED where only a new one helps.
func (s *session) present(env Environment) (*tokenPair, error) {
	pair := s.unsaved
	if pair != nil {
		return pair, s.keep(env, pair)
	}
	pair = s.pair.Load()
	if pair != nil {
		return pair, nil
	}
	row, err := s.Store.Tokens(env.ID)
	if codeOf(err) == codeNotFound {
		return nil, errorf(codeAuthRequired, "not logged in").hint("log in with: honeydew login")
	}
	if err != nil {
		return nil, err
	}
	// The caller's knowledge of the environment may be older than the latest refusal. Without this look, each job that
	// was waiting would ask the API once more with a token that it has refused.
	env, err = s.Store.Environment(env.Name)
	if err != nil {
		return nil, err
	}
	if env.NeedsReauth {
		return nil, expired("the login has expired")
	}
	pair, err = s.open(env, row)
	if err != nil {
		return nil, err
	}
	s.pair.Store(pair)
	return pair, nil
}

// keep stores a refreshed pair, and lets it be used only then. What the disk refuses is kept and tried again at the
// next need: the old pair is spent.
func (s *session) keep(env Environment, pair *tokenPair) error {
	s.unsaved = pair
	s.pair.Store(nil)
	err := s.save(env, pair, false)
	if err != nil {
		s.Log.Error("the refreshed login could not be stored",
			"environment", env.Name,
			"error", err)
		return notRefreshed("the refreshed login could not be stored: "+err.Error(), err)
	}
	s.unsaved = nil
	s.pair.Store(pair)
	s.Log.Info("auth token refreshed",
		"environment", env.Name,
		"username", pair.Username)
	return nil
}

// expire notes that only a login helps; the tokens stay. It is noted on disk first, or the next start would ask the API
// again.
func (s *session) expire(env Environment, why string) error {
	err := s.Store.SetNeedsReauth(env.ID)
	if err != nil {
		return err
	}
	pair := s.pair.Swap(nil)
	failed, err := s.Store.AuthFailures(env)
	if err != nil {
		return err
	}
	s.Log.Error("auth token expired",
		"environment", env.Name,
		"username", pair.Username,
		"failed_jobs_count", failed)
	return expired(why)
}

// notRefreshed fails an attempt that had no good token, and may have one later. Nothing was sent yet.
func notRefreshed(message string, cause error) *Error {
	return &Error{
		Code:    codeAuthNetwork,
		Message: message,
		Fate:    fateUnsent,
		Cause:   cause,
	}
}

// refreshFailed is the error of a refresh that the GraphQL service did not answer. The tokens are kept, and it is tried
// again; a person is told what to do only once that has not helped for a while.
func (s *session) refreshFailed(e *Error) *Error {
	if s.failing.IsZero() {
		s.failing = time.Now()
	}
	failed := s.notRefreshedYet("refreshing the login: %s", e.Message)
	failed.Hold = e.Hold
	return failed
}

// notRefreshedYet also says what a person can do, once refreshes have failed for a while. It has no cause: what ended
// the refresh is not what ends the wait for it.
func (s *session) notRefreshedYet(format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	lasting := time.Since(s.failing)
	if !s.failing.IsZero() && lasting > refreshPatience {
		message += fmt.Sprintf("; this has failed for %s: check the URL with `honeydew env list`, "+
			"or log in again with `honeydew login`", durationText(lasting.Round(time.Minute)))
	}
	return notRefreshed(message, nil)
}

// Run refreshes tokens before they are needed, until ctx ends. So a job seldom waits for a refresh, and a login whose
// refresh token lives for some days outlasts a weekend without jobs.
func (t *TokenSource) Run(ctx context.Context) {
	for tick := time.Tick(refreshCheck); ; {
		all, err := t.Store.Environments()
		if err != nil {
			t.Log.Error("environments cannot be read", "error", err)
		}
		for _, env := range all {
			if !env.HasTokens || env.NeedsReauth {
				continue
			}
			_, err := t.token(ctx, env, "")
			if err != nil && ctx.Err() == nil {
				t.Log.Warn("background refresh failed",
					"environment", env.Name,
					"error", err)
			}
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
	}
}
