package main

// When a token expires, as far as it says so. Nothing here trusts a token: claims are read unverified, for planning a
// refresh and for nothing else.

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"time"
)

const maxTokenBytes = 16 << 10

// usableToken reports whether a token fits a header, and the search for it in what the API says.
func usableToken(token string) bool {
	hidden := func(r rune) bool { return r <= ' ' || r > '~' }
	return len(token) <= maxTokenBytes && !strings.ContainsFunc(token, hidden)
}

// tokenExpiry reads the claim exp of a JWT (RFC 7519, section 4.1.4). The zero time means that the token does not say:
// it is no JWT, or exp is absent, no number, or not between the years 2000 and 2100.
func tokenExpiry(token string) time.Time {
	return tokenTime(token, "exp")
}

// tokenSkew is how far this clock is ahead of the one of whoever issued the token, which must have come just now. It is
// 0 where the token does not say when it was issued (the claim iat, RFC 7519, section 4.1.6).
func tokenSkew(token string, now time.Time) time.Duration {
	issued := tokenTime(token, "iat")
	if issued.IsZero() {
		return 0
	}
	return now.Sub(issued)
}

func tokenTime(token, claim string) time.Time {
	const year2000, year2100 = 946684800, 4102444800
	parts := strings.SplitN(token, ".", 3)
	if len(token) > maxTokenBytes || len(parts) < 3 {
		return time.Time{}
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}
	}
	var claims map[string]json.RawMessage // a struct would take "EXP" for exp as well
	if err := json.Unmarshal(text, &claims); err != nil {
		return time.Time{}
	}
	var at float64 // in seconds
	err = json.Unmarshal(claims[claim], &at)
	if err != nil || at < year2000 || at > year2100 {
		return time.Time{}
	}
	return time.UnixMilli(int64(math.Floor(at * 1000)))
}
