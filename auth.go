package main

// Logging in, refreshing, and handing a token to whoever sends a request. The passwords pass through, the tokens stay
// here: in memory in the clear, in the database sealed, and in no log or error.
//
// Refresh tokens rotate, and an API may take the second use of a spent one for theft and revoke everything. So each
// environment has one session, a pair of tokens is replaced by one change at a time (a refresh, a login, a logout), and
// a new pair is on disk before anyone gets to see its access token. A change belongs to no request: whoever waits for
// it may go, it goes on. A login or logout ends a refresh that is under way, which may hang.
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
// session.mu guards the change under way; it is not held across SQL or a request.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	refreshMargin   = 5 * time.Minute  // before expiry
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

// TokenSource knows every environment's login.
type TokenSource struct {
	tokenSourceOptions
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	sessions sync.Map // *session by environment id
}

// session is one environment's login in memory. Only a change under way writes the first four.
type session struct {
	pair    atomic.Pointer[tokenPair] // as it is on disk; nil: to be read
	unsaved *tokenPair                // refreshed, but not on disk: the disk refused it
	failing time.Time                 // since when refreshing fails; zero: it does not
	asked   time.Time                 // when the API was last asked in spite of what the clock says
	mu      sync.Mutex
	change  *change // under way
}

type tokenPair struct {
	username, access, refresh     string
	accessExpires, refreshExpires time.Time // zero: the token does not say
	renewed                       time.Time // by a refresh of ours

	skew time.Duration // our clock is ahead of the API's by this; 0 also where nobody knows
}

// change is one change of a session under way. All but cancel may be read once done is closed.
type change struct {
	done   chan struct{}
	cancel context.CancelFunc
	again  bool // whoever waits for a refresh is to ask again: this is a login or logout, or one came in between
	pair   *tokenPair
	err    error
}

func newTokenSource(o tokenSourceOptions) *TokenSource {
	t := &TokenSource{tokenSourceOptions: o}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Close ends refreshes under way and waits for them.
func (t *TokenSource) Close() {
	t.cancel()
	t.wg.Wait()
}

func (t *TokenSource) session(envID string) *session {
	s, _ := t.sessions.LoadOrStore(envID, &session{})
	return s.(*session)
}

// Forget drops what is remembered of an environment that was removed.
func (t *TokenSource) Forget(envID string) { t.sessions.Delete(envID) }

// startLocked makes run the session's change under way. The one before it is told to end, and waited for.
func (t *TokenSource) startLocked(s *session, run func(context.Context) (*tokenPair, error)) *change {
	ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
	before, c := s.change, &change{done: make(chan struct{}), cancel: cancel}
	s.change = c
	if before != nil {
		before.again = true
		before.cancel()
	}
	t.wg.Go(func() {
		defer close(c.done)
		defer cancel()
		if before != nil {
			<-before.done
		}
		c.pair, c.err = run(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.change == c {
			s.change = nil
		}
	})
	return c
}

// replace makes pair the session's, nil for a logout, once it is stored.
func (t *TokenSource) replace(env Environment, pair *tokenPair, store func() error) error {
	s := t.session(env.ID)
	s.mu.Lock()
	c := t.startLocked(s, func(context.Context) (*tokenPair, error) {
		err := store()
		if err == nil {
			s.unsaved = nil
			s.failing = time.Time{}
			s.pair.Store(pair)
		}
		return pair, err
	})
	c.again = true
	s.mu.Unlock()
	<-c.done
	return c.err
}

var (
	errAuthRequired = errorf(codeAuthRequired, "not logged in").hint("log in with: honeydew login")
	errAuthExpired  = errorf(codeAuthExpired, "the login has expired").hint("log in again with: honeydew login")
)

// AuthState is what is known of a login; the times are zero when the tokens do not say.
type AuthState struct {
	Authenticated, NeedsReauth    bool
	Username                      string
	AccessExpires, RefreshExpires time.Time
}

// Status tells of env's login without asking the API.
func (t *TokenSource) Status(ctx context.Context, env Environment) (AuthState, error) {
	row, err := t.Store.Tokens(env.ID)
	if codeOf(err) == codeNotFound {
		return AuthState{NeedsReauth: env.NeedsReauth}, nil
	} else if err != nil {
		return AuthState{}, err
	}
	_, err = t.open(env, row)
	expired := err != nil || env.NeedsReauth
	return AuthState{!expired, expired, row.Username, row.AccessExpires, row.RefreshExpires}, nil
}

// due reports whether the pair is to be refreshed before it is used. Without a refresh token it is used until the API
// refuses it. Tokens that live for less than the margin, or a wrong clock, must not make every request refresh.
func (p *tokenPair) due() bool {
	if p.refresh == "" || p.accessExpires.IsZero() {
		return false
	}
	return time.Until(p.accessExpires.Add(p.skew)) < refreshMargin && time.Since(p.renewed) > refreshInterval
}

// refreshOver reports whether the refresh token has expired, if our clock is right.
func (p *tokenPair) refreshOver() bool {
	return !p.refreshExpires.IsZero() && time.Until(p.refreshExpires.Add(p.skew)) <= 0
}

// open decrypts what save stored.
func (t *TokenSource) open(env Environment, row TokenRow) (*tokenPair, error) {
	p := &tokenPair{
		username:       row.Username,
		accessExpires:  row.AccessExpires,
		refreshExpires: row.RefreshExpires,
	}
	place := sealPlace(env)
	var err error
	if p.access, err = t.Sealer.open(place, "access", row.Access); err == nil && len(row.Refresh) > 0 {
		p.refresh, err = t.Sealer.open(place, "refresh", row.Refresh)
	}
	if err == nil {
		return p, nil
	}
	t.Log.Debug("tokens cannot be decrypted", "environment", env.Name, "error", err.Error())
	if missing, ok := errors.AsType[*Error](t.Sealer.mayReplace(row.Access)); ok {
		return nil, errorf(codeAuthExpired, "%s", missing.Message).hint("%s", missing.Hint)
	}
	e := errorf(codeAuthExpired, "the stored login cannot be decrypted: its key, or the environment's URL, changed")
	return nil, e.hint("bring it back, or log in again with: honeydew login")
}

// mayReplace fails where the login that is stored must not be replaced by one of this daemon's.
func (t *TokenSource) mayReplace(env Environment) error {
	row, err := t.Store.Tokens(env.ID)
	if codeOf(err) == codeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return t.Sealer.mayReplace(row.Access)
}

// save seals and stores a pair.
func (t *TokenSource) save(env Environment, p *tokenPair, login bool) error {
	if err := t.mayReplace(env); err != nil {
		return err
	}
	row := TokenRow{
		EnvironmentID:  env.ID,
		Username:       p.username,
		AccessExpires:  p.accessExpires,
		RefreshExpires: p.refreshExpires,
	}
	place := sealPlace(env)
	var err error
	if row.Access, err = t.Sealer.seal(place, "access", p.access); err != nil {
		return err
	}
	if p.refresh != "" {
		if row.Refresh, err = t.Sealer.seal(place, "refresh", p.refresh); err != nil {
			return err
		}
	}
	return t.Store.SaveTokens(row, login)
}

// Login trades username and password for tokens and stores them. Its errors are LOGIN_REFUSED or API_UNREACHABLE where
// the API is the cause.
func (t *TokenSource) Login(ctx context.Context, env Environment, username, password string) (AuthState, error) {
	if username == "" || password == "" {
		return AuthState{}, errorf(codeInvalidArgument, "username and password: both are needed")
	}
	if len(username) > maxCredentialBytes || len(password) > maxCredentialBytes {
		return AuthState{}, errorf(codeInvalidArgument, "username and password: at most %d bytes each",
			maxCredentialBytes)
	}
	if err := t.mayReplace(env); err != nil { // before the API gives tokens that cannot be kept
		return AuthState{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	variables := map[string]string{"username": username, "password": password}
	pair, e := t.ask(ctx, env, t.LoginQuery, "login", variables, password)
	if e != nil {
		code, hint := codeAPIUnreachable, "check the environment's URL with: honeydew env list"
		if refusedByAPI(e) {
			code, hint = codeLoginRefused, "check the username and password"
		}
		return AuthState{}, errorf(code, "login to %s: %s", env.Name, e.Message).hint("%s", hint)
	}
	pair.username = username
	if err := t.replace(env, pair, func() error { return t.save(env, pair, true) }); err != nil {
		return AuthState{}, err
	}
	t.Log.Info("logged in", "environment", env.Name, "username", username)
	return AuthState{
		Authenticated:  true,
		Username:       username,
		AccessExpires:  pair.accessExpires,
		RefreshExpires: pair.refreshExpires,
	}, nil
}

// Logout forgets env's tokens and reports whether there were any.
func (t *TokenSource) Logout(env Environment) (had bool, err error) {
	err = t.replace(env, nil, func() (err error) { had, err = t.Store.DeleteTokens(env.ID); return err })
	if err == nil {
		t.Log.Info("logged out", "environment", env.Name)
	}
	return had, err
}

// refusedByAPI tells a no from trouble on the way.
func refusedByAPI(e *Error) bool {
	return (e.Code == codeAuthInvalid || (e.Code == codeAPI && e.Refused)) && !errors.Is(e, errForeign)
}

// ask sends a login or refresh and reads the pair of tokens that it gives.
func (t *TokenSource) ask(
	ctx context.Context, env Environment, query, field string, variables map[string]string, secret string,
) (*tokenPair, *Error) {
	text, _ := json.Marshal(variables) // strings alone: it cannot fail
	answer, err := t.Client.Do(ctx, Request{
		URL:       env.BaseURL,
		Query:     query,
		Field:     field,
		Variables: text,
		Secrets:   []string{secret},
	})
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, e
	}
	if len(answer.Data) > maxLoginAnswer {
		return nil, errorf(codeBadResponse, "the API's answer to %s has %d bytes; allowed are %d",
			field, len(answer.Data), maxLoginAnswer)
	}
	var got struct{ AccessToken, RefreshToken string }
	if err := json.Unmarshal(answer.Data, &got); err != nil || got.AccessToken == "" {
		return nil, &Error{Code: codeBadResponse, Message: "the API's answer to " + field + " holds no access token"}
	}
	if !usableToken(got.AccessToken) || !usableToken(got.RefreshToken) {
		return nil, errorf(codeBadResponse, "the API's answer to %s holds an unusable token; "+
			"allowed are %d bytes of visible ASCII", field, maxTokenBytes)
	}
	return &tokenPair{
		access:         got.AccessToken,
		refresh:        got.RefreshToken,
		accessExpires:  tokenExpiry(got.AccessToken),
		refreshExpires: tokenExpiry(got.RefreshToken),
		skew:           tokenSkew(got.AccessToken, time.Now()),
	}, nil
}

// Do calls send with env's token, refreshed before if it is about to expire; if the API refuses it, once more with
// a fresh one. secrets must not appear in any text that send's request leaves behind.
func (t *TokenSource) Do(ctx context.Context, env Environment, send func(token string, secrets []string) error) error {
	begin := time.Now()
	pair, err := t.token(ctx, env, "")
	if err != nil {
		return err
	}
	err = send(pair.access, []string{pair.refresh})
	if codeOf(err) != codeAuthInvalid || !pair.renewed.Before(begin) {
		return err
	}
	if pair, err = t.token(ctx, env, pair.access); err != nil {
		return err
	}
	return send(pair.access, []string{pair.refresh})
}

// token returns a pair that is good for now: not about to expire, and not the one whose access token was refused.
func (t *TokenSource) token(ctx context.Context, env Environment, refused string) (*tokenPair, error) {
	s := t.session(env.ID)
	for {
		if pair := s.pair.Load(); pair != nil && pair.access != refused && !pair.due() {
			return pair, nil
		}
		s.mu.Lock()
		c := s.change
		if c == nil {
			c = t.startLocked(s, func(ctx context.Context) (*tokenPair, error) { return t.renew(ctx, env, s, refused) })
		}
		s.mu.Unlock()
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, notRefreshed("no fresh token in time", ctx.Err())
		}
		if !c.again {
			return c.pair, c.err
		}
	}
}

// renew reads the pair if need be, and trades its refresh token for a new one if it is due or was refused. It is the
// session's change under way.
func (t *TokenSource) renew(ctx context.Context, env Environment, s *session, refused string) (*tokenPair, error) {
	if s.unsaved != nil {
		if err := t.keep(env, s, s.unsaved); err != nil {
			return nil, err
		}
	}
	pair, err := s.pair.Load(), error(nil)
	if pair == nil {
		if pair, err = t.load(ctx, env); err != nil {
			return nil, err
		}
		s.pair.Store(pair)
	}
	if pair.access != refused && !pair.due() { // somebody else was quicker
		return pair, nil
	}
	if pair.refresh == "" {
		return nil, t.expire(ctx, env, s, "the API refused the access token, and gave no refresh token")
	}
	if pair.refreshOver() {
		// The clock may be wrong, and ends no login: the API is asked, but not by every job.
		if wait := time.Until(s.asked.Add(refreshCheck)); wait > 0 {
			return s.untilAsked(pair, refused, wait)
		}
		s.asked = time.Now()
	}
	variables := map[string]string{"refreshToken": pair.refresh}
	fresh, e := t.ask(ctx, env, t.RefreshQuery, "refreshToken", variables, pair.refresh)
	if e != nil && errors.Is(e, errEndsLogin) {
		return nil, t.expire(ctx, env, s, "the API refused the refresh token: "+e.Message)
	}
	if e != nil {
		return nil, s.refreshFailed(e)
	}
	s.failing = time.Time{}
	if fresh.refresh == "" { // an API that does not rotate
		fresh.refresh, fresh.refreshExpires = pair.refresh, pair.refreshExpires
	}
	fresh.username, fresh.renewed = pair.username, time.Now()
	return fresh, t.keep(env, s, fresh)
}

// untilAsked is what there is until the API may be asked again about a refresh token that is over by our clock.
func (s *session) untilAsked(pair *tokenPair, refused string, wait time.Duration) (*tokenPair, error) {
	if pair.access != refused {
		return pair, nil // the API decides
	}
	message := fmt.Sprintf("by this computer's clock the refresh token has expired; the API is asked again in %s",
		wait.Round(time.Second))
	return nil, notRefreshed(message+s.advice(), nil)
}

// notRefreshed fails an attempt that had no good token, and may have one later.
func notRefreshed(message string, cause error) *Error {
	return &Error{
		Code:    codeAuthNetwork,
		Message: message,
		Retry:   true,
		Unsent:  true,
		Cause:   cause,
	}
}

// refreshFailed is the error of a refresh that the GraphQL service did not answer. The tokens are kept, and it is tried
// again; a person is told what to do only once that has not helped for a while.
func (s *session) refreshFailed(e *Error) *Error {
	if s.failing.IsZero() {
		s.failing = time.Now()
	}
	// Without a cause: its end is its own, not that of whoever waits.
	failed := notRefreshed("refreshing the login: "+e.Message+s.advice(), nil)
	failed.Hold = e.Hold
	return failed
}

// advice is what a person can do about refreshes that fail, once they have failed for a while.
func (s *session) advice() string {
	if s.failing.IsZero() || time.Since(s.failing) <= refreshPatience {
		return ""
	}
	return fmt.Sprintf("; this has failed for %s: check the URL with `honeydew env list`, "+
		"or log in again with `honeydew login`", time.Since(s.failing).Round(time.Minute))
}

// load reads the environment's tokens: AUTH_REQUIRED without a login, AUTH_EXPIRED where only a new one helps.
func (t *TokenSource) load(ctx context.Context, env Environment) (*tokenPair, error) {
	row, err := t.Store.Tokens(env.ID)
	if codeOf(err) == codeNotFound {
		return nil, errAuthRequired
	} else if err != nil {
		return nil, err
	}
	// The caller's knowledge of the environment may be older than the latest refusal.
	if env, err = t.Store.Environment(env.Name); err != nil {
		return nil, err
	} else if env.NeedsReauth {
		return nil, errAuthExpired
	}
	return t.open(env, row)
}

// keep stores a refreshed pair, and lets it be used only then. What the disk refuses is kept and tried again at the
// next need: the old pair is spent.
func (t *TokenSource) keep(env Environment, s *session, pair *tokenPair) error {
	s.unsaved = pair
	s.pair.Store(nil)
	if err := t.save(env, pair, false); err != nil {
		t.Log.Error("the refreshed login could not be stored", "environment", env.Name, "error", err.Error())
		return notRefreshed("the refreshed login could not be stored: "+err.Error(), err)
	}
	s.unsaved = nil
	s.pair.Store(pair)
	t.Log.Info("auth token refreshed", "environment", env.Name, "username", pair.username)
	return nil
}

// expire notes that only a login helps; the tokens stay.
func (t *TokenSource) expire(ctx context.Context, env Environment, s *session, why string) error {
	if err := t.Store.SetNeedsReauth(env.ID); err != nil {
		return err
	}
	pair := s.pair.Swap(nil)
	failed, err := t.Store.AuthFailures(env)
	if err != nil {
		return err
	}
	t.Log.Error("auth token expired", "environment", env.Name, "username", pair.username, "failed_jobs_count", failed)
	return errorf(codeAuthExpired, "%s", why).hint("log in again with: honeydew login")
}

// Run refreshes tokens before they are needed, until ctx ends.
func (t *TokenSource) Run(ctx context.Context) {
	for tick := time.Tick(refreshCheck); ; {
		all, err := t.Store.Environments()
		if err != nil {
			t.Log.Error("environments cannot be read", "error", err.Error())
		}
		for _, env := range all {
			if !env.HasTokens || env.NeedsReauth {
				continue
			}
			if _, err := t.token(ctx, env, ""); err != nil && ctx.Err() == nil {
				t.Log.Warn("background refresh failed", "environment", env.Name, "error", err.Error())
			}
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
	}
}
