package main

// Tokens. A login starts a family; each refresh spends the family's refresh token and gives the next pair. Whoever
// shows a spent one may have stolen it, so the whole family ends: this is the rule clients most often trip over.
// The key lives as long as the process, so a restart ends all logins.

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	codeUnauthenticated = "UNAUTHENTICATED"
	accessToken         = "access"
	refreshToken        = "refresh"
)

type claims struct {
	Subject  string `json:"sub"`
	Username string `json:"username"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"` // family.serial.typ
	Type     string `json:"typ"`
}

// authCounters count successes, and spent tokens that came back.
type authCounters struct {
	Logins        int `json:"logins"`
	Refreshes     int `json:"refreshes"`
	ReuseDetected int `json:"reuse_detected"`
}

type authority struct {
	user, password        string
	accessTTL, refreshTTL time.Duration
	key                   []byte

	mu       sync.Mutex
	families map[string]int // the serial of each family's unspent refresh token; a revoked family is not in it
	done     authCounters
}

func newAuthority(o options) *authority {
	return &authority{
		user: o.User, password: o.Password,
		accessTTL: o.AccessTTL, refreshTTL: o.RefreshTTL,
		key:      []byte(rand.Text() + rand.Text()),
		families: map[string]int{},
	}
}

// pair is what a login or a refresh gives.
type pair struct{ access, refresh string }

func (a *authority) login(user, password string) (pair, error) {
	if user != a.user || password != a.password {
		return pair{}, unauthenticated("wrong username or password")
	}
	family := rand.Text()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.families[family] = 1
	a.done.Logins++
	return a.issue(family, 1), nil
}

func (a *authority) refresh(token string) (pair, error) {
	family, serial, err := a.verify(token, refreshToken)
	if err != nil {
		return pair{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	live, ok := a.families[family]
	if !ok {
		return pair{}, unauthenticated("token is revoked")
	}
	if serial != live {
		delete(a.families, family)
		a.done.ReuseDetected++
		return pair{}, unauthenticated("refresh token was used before: all its successors are revoked")
	}
	a.families[family] = serial + 1
	a.done.Refreshes++
	return a.issue(family, serial+1), nil
}

// authorize passes an access token that is ours, unexpired and of a family that lives. Earlier ones of the family stay
// good until they expire.
func (a *authority) authorize(token string) error {
	family, _, err := a.verify(token, accessToken)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.families[family]; !ok {
		return unauthenticated("token is revoked")
	}
	return nil
}

func (a *authority) revokeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.families)
}

func (a *authority) counters() authCounters {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
}

func (a *authority) issue(family string, serial int) pair {
	now := time.Now()
	return pair{
		access:  a.sign(family, serial, accessToken, now, a.accessTTL),
		refresh: a.sign(family, serial, refreshToken, now, a.refreshTTL),
	}
}

func (a *authority) sign(family string, serial int, typ string, now time.Time, ttl time.Duration) string {
	body, err := json.Marshal(claims{
		Subject: userID, Username: a.user,
		IssuedAt: now.Unix(), Expires: now.Add(ttl).Unix(),
		ID: fmt.Sprintf("%s.%d.%s", family, serial, typ), Type: typ,
	})
	if err != nil {
		panic(err) // strings and integers
	}
	enc := base64.RawURLEncoding
	signed := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(body)
	return signed + "." + enc.EncodeToString(a.mac(signed))
}

// verify checks everything that the token itself can show; the header is under the signature, so needs no look.
func (a *authority) verify(token, typ string) (family string, serial int, err error) {
	if token == "" {
		return "", 0, unauthenticated("no token")
	}
	invalid := unauthenticated("token is not valid")
	dot := strings.LastIndexByte(token, '.')
	if dot < 0 {
		return "", 0, invalid
	}
	signed := token[:dot]
	sum, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil || !hmac.Equal(sum, a.mac(signed)) {
		return "", 0, invalid
	}
	_, payload, _ := strings.Cut(signed, ".")
	body, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", 0, invalid
	}
	var c claims
	if json.Unmarshal(body, &c) != nil || c.Type != typ {
		return "", 0, invalid
	}
	if time.Now().Unix() >= c.Expires {
		return "", 0, unauthenticated("token has expired")
	}
	parts := strings.Split(c.ID, ".")
	if len(parts) != 3 {
		return "", 0, invalid
	}
	if serial, err = strconv.Atoi(parts[1]); err != nil {
		return "", 0, invalid
	}
	return parts[0], serial, nil
}

func (a *authority) mac(signed string) []byte {
	h := hmac.New(sha256.New, a.key)
	h.Write([]byte(signed))
	return h.Sum(nil)
}

func unauthenticated(message string) error { return apiError{codeUnauthenticated, message} }
