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

// tokenExpiry reads the claim exp of a JWT (RFC 7519, section 4.1.4). The zero time means that the token does not say:
// it is no JWT, or exp is absent, no number, or not between the years 2000 and 2100.
func tokenExpiry(token string) time.Time {
	if len(token) > maxTokenBytes {
		return time.Time{}
	}
	_, rest, ok := strings.Cut(token, ".")
	payload, _, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return time.Time{}
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return time.Time{}
	}
	var claims map[string]json.RawMessage // a struct would take "EXP" for exp as well
	var exp float64
	if json.Unmarshal(text, &claims) != nil || json.Unmarshal(claims["exp"], &exp) != nil {
		return time.Time{}
	}
	const year2000, year2100 = 946684800, 4102444800
	if exp >= year2000 && exp <= year2100 {
		return time.UnixMilli(int64(math.Floor(exp * 1000)))
	}
	return time.Time{}
}
