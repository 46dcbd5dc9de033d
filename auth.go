package main

// Logging in, refreshing, and handing a token to whoever sends a request. The passwords pass through, the tokens stay
// here: in memory in the clear, in the database sealed, and in no log or error.
//
// Refresh tokens rotate, and an API may take the second use of a spent one for theft and revoke everything. So each
// environment has one session, its slot is held by whoever changes the pair of tokens (a refresh, a login, a logout),
// and a new pair is on disk before anyone gets to see its access token. A refresh belongs to no request: whoever waits
// for it may go, it goes on.
//
// TokenSource.mu guards the sessions and their fields; it is not held across SQL or a request.

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	refreshMargin   = 5 * time.Minute  // before expiry
	refreshInterval = 10 * time.Second // at least, between refreshes that no 401 asked for
	refreshCheck    = time.Minute
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
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*session // by environment id
}

// session is one environment's login in memory.
type session struct {
	slot    chan struct{} // capacity 1: held while the pair changes
	pair    *tokenPair    // nil: to be read
	gen     int           // raised by every change of the pair
	flight  *flight       // the refresh under way
	renewed time.Time     // of the latest refresh
	unsaved *TokenRow     // sealed, but not on disk yet: the disk refused it
}

type tokenPair struct {
	username, access, refresh     string
	accessExpires, refreshExpires time.Time // zero: the token does not say
}

// flight is a refresh; err and displaced may be read once done is closed.
type flight struct {
	done      chan struct{}
	cancel    context.CancelFunc
	err       error
	displaced bool // by a login or logout: ask again
}

func newTokenSource(o tokenSourceOptions) *TokenSource {
	t := &TokenSource{tokenSourceOptions: o, sessions: map[string]*session{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Close ends refreshes under way and waits for them.
func (t *TokenSource) Close() {
	t.cancel()
	t.wg.Wait()
}

func (t *TokenSource) session(envID string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[envID]
	if s == nil {
		s = &session{slot: make(chan struct{}, 1)}
		t.sessions[envID] = s
	}
	return s
}

// Forget drops what is remembered of an environment that was removed.
func (t *TokenSource) Forget(envID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, envID)
}

// change replaces the pair, nil meaning that it is to be read; the caller holds TokenSource.mu.
func (s *session) change(pair *tokenPair) {
	s.pair, s.unsaved = pair, nil
	s.gen++
}

// take gets the right to change the session's pair, ending a refresh that is under way.
func (t *TokenSource) take(ctx context.Context, s *session) error {
	t.mu.Lock()
	if s.flight != nil {
		s.flight.displaced = true
		s.flight.cancel()
	}
	t.mu.Unlock()
	select {
	case s.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
	state := AuthState{NeedsReauth: env.NeedsReauth}
	if !env.HasTokens {
		return state, nil
	}
	pair, err := t.load(ctx, env)
	if codeOf(err) == codeAuthExpired {
		row, err := t.Store.Tokens(ctx, env.ID)
		return AuthState{NeedsReauth: true, Username: row.Username, AccessExpires: row.AccessExpires, RefreshExpires: row.RefreshExpires}, err
	} else if codeOf(err) == codeAuthRequired {
		return state, nil
	} else if err != nil {
		return state, err
	}
	if state.NeedsReauth = past(pair.refreshExpires) && (pair.accessExpires.IsZero() || past(pair.accessExpires)); !state.NeedsReauth {
		state.Authenticated = true
	}
	state.Username, state.AccessExpires, state.RefreshExpires = pair.username, pair.accessExpires, pair.refreshExpires
	return state, nil
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// load returns the environment's tokens: AUTH_REQUIRED without a login, AUTH_EXPIRED where only a new one helps.
func (t *TokenSource) load(ctx context.Context, env Environment) (*tokenPair, error) {
	if env.NeedsReauth {
		return nil, errAuthExpired
	}
	s := t.session(env.ID)
	t.mu.Lock()
	pair, gen := s.pair, s.gen
	t.mu.Unlock()
	if pair != nil {
		return pair, nil
	}
	row, err := t.Store.Tokens(ctx, env.ID)
	if codeOf(err) == codeNotFound {
		return nil, errAuthRequired
	} else if err != nil {
		return nil, err
	}
	access, err1 := t.Sealer.open(env.ID, "access", row.Access)
	refresh, err2 := "", error(nil)
	if len(row.Refresh) > 0 {
		refresh, err2 = t.Sealer.open(env.ID, "refresh", row.Refresh)
	}
	if err := errors.Join(err1, err2); err != nil {
		t.Log.Debug("tokens cannot be decrypted", "environment", env.Name, "error", err.Error())
		return nil, errorf(codeAuthExpired, "the stored login cannot be decrypted: the key was lost or changed").
			hint("bring the key back, or log in again with: honeydew login")
	}
	pair = &tokenPair{row.Username, access, refresh, row.AccessExpires, row.RefreshExpires}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.gen == gen { // nobody has changed it since
		s.pair = pair
	}
	return pair, nil
}

// Login trades username and password for tokens and stores them. Its errors are LOGIN_REFUSED or API_UNREACHABLE where
// the API is the cause.
func (t *TokenSource) Login(ctx context.Context, env Environment, username, password string) (AuthState, error) {
	if username == "" || password == "" {
		return AuthState{}, errorf(codeInvalidArgument, "username and password: both are needed")
	}
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	pair, err := t.ask(ctx, env, t.LoginQuery, "login", map[string]string{"username": username, "password": password}, password)
	if e, ok := errors.AsType[*Error](err); ok {
		code, hint := codeAPIUnreachable, "check the environment's URL with: honeydew env list"
		if refusedByAPI(e) {
			code, hint = codeLoginRefused, "check the username and password"
		}
		return AuthState{}, errorf(code, "login to %s: %s", env.Name, e.Message).hint("%s", hint)
	} else if err != nil {
		return AuthState{}, err
	}
	pair.username = username
	s := t.session(env.ID)
	if err := t.take(ctx, s); err != nil {
		return AuthState{}, err
	}
	defer func() { <-s.slot }()
	row, err := t.sealPair(env, pair)
	if err != nil {
		return AuthState{}, err
	}
	if err := t.Store.SaveTokens(row, true); err != nil {
		return AuthState{}, err
	}
	t.mu.Lock()
	s.change(pair)
	s.renewed = time.Time{}
	t.mu.Unlock()
	t.Log.Info("logged in", "environment", env.Name, "username", username)
	return AuthState{Authenticated: true, Username: username, AccessExpires: pair.accessExpires, RefreshExpires: pair.refreshExpires}, nil
}

// refusedByAPI tells a no from trouble on the way.
func refusedByAPI(e *Error) bool {
	return (e.Code == codeAuthInvalid || (e.Code == codeAPI && e.Refused)) && !errors.Is(e, errForeign)
}

// ask sends a login or refresh and reads the pair of tokens that it gives.
func (t *TokenSource) ask(ctx context.Context, env Environment, query, field string, variables map[string]string, secret string) (*tokenPair, error) {
	text, err := json.Marshal(variables)
	if err != nil {
		return nil, err
	}
	answer, err := t.Client.Do(ctx, Request{URL: env.BaseURL, Query: query, Field: field, Variables: text, Secrets: []string{secret}})
	if err != nil {
		return nil, err
	}
	var got struct{ AccessToken, RefreshToken string }
	if err := json.Unmarshal(answer.Data, &got); err != nil || got.AccessToken == "" {
		return nil, &Error{Code: codeBadResponse, Message: "the API's answer to " + field + " holds no access token"}
	}
	return &tokenPair{access: got.AccessToken, refresh: got.RefreshToken, accessExpires: tokenExpiry(got.AccessToken),
		refreshExpires: tokenExpiry(got.RefreshToken)}, nil
}

func (t *TokenSource) sealPair(env Environment, p *tokenPair) (TokenRow, error) {
	row := TokenRow{EnvironmentID: env.ID, Username: p.username, AccessExpires: p.accessExpires, RefreshExpires: p.refreshExpires}
	var err error
	if row.Access, err = t.Sealer.seal(env.ID, "access", p.access); err == nil && p.refresh != "" {
		row.Refresh, err = t.Sealer.seal(env.ID, "refresh", p.refresh)
	}
	return row, err
}

// Logout forgets env's tokens and reports whether there were any.
func (t *TokenSource) Logout(ctx context.Context, env Environment) (bool, error) {
	s := t.session(env.ID)
	if err := t.take(ctx, s); err != nil {
		return false, err
	}
	defer func() { <-s.slot }()
	had, err := t.Store.DeleteTokens(env.ID)
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	s.change(nil)
	t.mu.Unlock()
	t.Log.Info("logged out", "environment", env.Name)
	return had, nil
}

// Do calls send with env's token, refreshed before if it is about to expire; if the API refuses it, once more with
// a fresh one. secrets must not appear in any text that send's request leaves behind.
func (t *TokenSource) Do(ctx context.Context, env Environment, send func(token string, secrets []string) error) error {
	pair, refreshed, err := t.token(ctx, env, "")
	if err != nil {
		return err
	}
	for {
		err = send(pair.access, []string{pair.refresh})
		if codeOf(err) != codeAuthInvalid || refreshed {
			return err
		}
		if pair, _, err = t.token(ctx, env, pair.access); err != nil {
			return err
		}
		refreshed = true
	}
}

// token returns a pair that is good for now: not about to expire, and not the one whose access token failed.
func (t *TokenSource) token(ctx context.Context, env Environment, failed string) (pair *tokenPair, refreshed bool, err error) {
	pair, err = t.load(ctx, env)
	if err != nil {
		return nil, false, err
	}
	if failed != "" && failed != pair.access {
		return pair, true, nil // somebody else was quicker
	}
	if failed == "" && !t.due(env.ID, pair) {
		return pair, false, nil
	}
	f := t.startRefresh(env, pair.access)
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, false, &Error{Code: codeAuthNetwork, Message: "no fresh token in time", Retry: true, Unsent: true, Cause: ctx.Err()}
	}
	if f.displaced {
		return t.token(ctx, env, failed)
	} else if f.err != nil {
		return nil, false, f.err
	}
	env.NeedsReauth = false
	pair, err = t.load(ctx, env)
	return pair, true, err
}

// due reports whether the pair is to be refreshed before it is used.
func (t *TokenSource) due(envID string, pair *tokenPair) bool {
	if pair.accessExpires.IsZero() || time.Until(pair.accessExpires) >= refreshMargin {
		return false
	}
	if (pair.refresh == "" || past(pair.refreshExpires)) && !past(pair.accessExpires) {
		return false // nothing to refresh with: it is used as long as it lasts
	}
	s := t.session(envID)
	t.mu.Lock()
	defer t.mu.Unlock()
	// Tokens that live for less than the margin, or a wrong clock, must not make every request refresh.
	return time.Since(s.renewed) > refreshInterval
}

// startRefresh joins the refresh under way or starts one, unless the pair has changed from the one seen.
func (t *TokenSource) startRefresh(env Environment, seen string) *flight {
	s := t.session(env.ID)
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.flight != nil {
		return s.flight
	}
	f := &flight{done: make(chan struct{})}
	if s.pair != nil && s.pair.access != seen {
		close(f.done)
		return f
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.Timeout)
	f.cancel, s.flight = cancel, f
	t.wg.Go(func() {
		defer cancel()
		select {
		case s.slot <- struct{}{}:
			f.err = t.refresh(ctx, env, s, seen)
			<-s.slot
		case <-ctx.Done():
			f.err = ctx.Err()
		}
		if errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.DeadlineExceeded) {
			// Its own end, not that of whoever waits: no cause.
			f.err = &Error{Code: codeAuthNetwork, Message: "no fresh token in time", Retry: true, Unsent: true}
		}
		t.mu.Lock()
		s.flight = nil
		t.mu.Unlock()
		close(f.done)
	})
	return f
}

// refresh trades the refresh token for a new pair; the caller holds the session's slot.
func (t *TokenSource) refresh(ctx context.Context, env Environment, s *session, seen string) error {
	t.mu.Lock()
	unsaved := s.unsaved
	t.mu.Unlock()
	if unsaved != nil {
		if err := t.save(env, s, *unsaved); err != nil || !past(unsaved.AccessExpires) {
			return err
		}
	}
	row, err := t.Store.Tokens(ctx, env.ID)
	if codeOf(err) == codeNotFound {
		return errAuthRequired
	}
	if err != nil {
		return err
	}
	// The caller's knowledge of the environment may be older than the latest refusal.
	if env, err = t.Store.Environment(ctx, env.Name); err != nil {
		return err
	}
	pair, err := t.load(ctx, env)
	if err != nil {
		return err
	}
	if pair.access != seen && unsaved == nil { // what was saved late may have expired meanwhile
		return nil
	}
	if pair.refresh == "" || past(pair.refreshExpires) {
		return t.expire(ctx, env, "the refresh token has expired")
	}
	fresh, err := t.ask(ctx, env, t.RefreshQuery, "refreshToken", map[string]string{"refreshToken": pair.refresh}, pair.refresh)
	if e, ok := errors.AsType[*Error](err); ok {
		if refusedByAPI(e) {
			return t.expire(ctx, env, "the API refused the refresh token: "+e.Message)
		}
		return &Error{Code: codeAuthNetwork, Message: "refreshing the login: " + e.Message, Hold: e.Hold, Retry: true, Unsent: true}
	} else if err != nil {
		return err
	}
	if fresh.refresh == "" { // an API that does not rotate
		fresh.refresh, fresh.refreshExpires = pair.refresh, pair.refreshExpires
	}
	fresh.username = row.Username
	sealed, err := t.sealPair(env, fresh)
	if err != nil {
		return err
	}
	return t.save(env, s, sealed)
}

// save stores a new pair, and lets it be used only then. What the disk refuses is kept and tried again at the next
// need: the old pair is spent.
func (t *TokenSource) save(env Environment, s *session, row TokenRow) error {
	err := t.Store.SaveTokens(row, false)
	t.mu.Lock()
	s.change(nil)
	if err != nil && codeOf(err) != codeNotFound {
		s.unsaved = &row
	} else {
		s.renewed = time.Now()
	}
	t.mu.Unlock()
	if err != nil {
		t.Log.Error("the refreshed login could not be stored", "environment", env.Name, "error", err.Error())
		return &Error{Code: codeAuthNetwork, Message: "the refreshed login could not be stored: " + err.Error(), Retry: true, Unsent: true, Cause: err}
	}
	t.Log.Info("auth token refreshed", "environment", env.Name, "username", row.Username)
	return nil
}

// expire notes that only a login helps; the tokens stay.
func (t *TokenSource) expire(ctx context.Context, env Environment, why string) error {
	if err := t.Store.SetNeedsReauth(env.ID); err != nil {
		return err
	}
	failed, err := t.Store.AuthFailures(context.WithoutCancel(ctx), env)
	if err != nil {
		return err
	}
	row, err := t.Store.Tokens(context.WithoutCancel(ctx), env.ID)
	if err != nil {
		return err
	}
	t.Log.Error("auth token expired", "environment", env.Name, "username", row.Username, "failed_jobs_count", failed)
	return errorf(codeAuthExpired, "%s", why).hint("log in again with: honeydew login")
}

// Run refreshes tokens before they are needed, until ctx ends.
func (t *TokenSource) Run(ctx context.Context) {
	tick := time.NewTicker(refreshCheck)
	defer tick.Stop()
	for {
		t.refreshDue(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (t *TokenSource) refreshDue(ctx context.Context) {
	all, err := t.Store.Environments(ctx)
	if err != nil {
		t.Log.Error("environments cannot be read", "error", err.Error())
		return
	}
	for _, env := range all {
		if !env.HasTokens || env.NeedsReauth {
			continue
		}
		if _, _, err := t.token(ctx, env, ""); err != nil && ctx.Err() == nil {
			t.Log.Warn("background refresh failed", "environment", env.Name, "error", err.Error())
		}
	}
}
