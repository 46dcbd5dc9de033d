package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tokenOf makes a JWT with these claims, signed by nobody.
func tokenOf(claims string) string {
	return "eyJhbGciOiJIUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

func TestTokenExpiryIsReadFromExpAlone(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	long := strings.Repeat("x", maxTokenBytes)
	tests := []struct {
		name, token string
		want        time.Time
	}{
		{"seconds", tokenOf(`{"sub":"x","exp":1800000000}`), at},
		{"a fraction", tokenOf(`{"exp":1800000000.5}`), at.Add(500 * time.Millisecond)},
		{"an exponent", tokenOf(`{"exp":1.8e9}`), at},
		{"white space and other claims of any type", tokenOf(" {\"iat\":\"x\",\"aud\":[1],\n\"exp\" : 1800000000 } "), at},
		{"padded base64", strings.Replace(tokenOf(`{"exp":1800000000,"a":""}`), ".c2", "==.c2", 1), at},
		{"EXP is another claim", tokenOf(`{"exp":1800000000,"EXP":"never"}`), at},
		{"no signature", strings.TrimSuffix(tokenOf(`{"exp":1800000000}`), "c2lnbmF0dXJl"), at},

		{"only EXP", tokenOf(`{"EXP":1800000000}`), time.Time{}},
		{"a string", tokenOf(`{"exp":"1800000000"}`), time.Time{}},
		{"null", tokenOf(`{"exp":null}`), time.Time{}},
		{"absent", tokenOf(`{}`), time.Time{}},
		{"milliseconds", tokenOf(`{"exp":1800000000000}`), time.Time{}},
		{"huge", tokenOf(`{"exp":1e30}`), time.Time{}},
		{"beyond float64", tokenOf(`{"exp":1e999}`), time.Time{}},
		{"negative", tokenOf(`{"exp":-1800000000}`), time.Time{}},
		{"zero", tokenOf(`{"exp":0}`), time.Time{}},
		{"before 2000", tokenOf(`{"exp":946684799}`), time.Time{}},
		{"after 2100", tokenOf(`{"exp":4102444801}`), time.Time{}},
		{"a list", tokenOf(`[1800000000]`), time.Time{}},
		{"no JSON", tokenOf(`exp`), time.Time{}},
		{"two values", tokenOf(`{"exp":1800000000}{}`), time.Time{}},
		{"no base64", "a.!!!.b", time.Time{}},
		{"opaque", "3f9c1a", time.Time{}},
		{"one dot", "a.b", time.Time{}},
		{"empty", "", time.Time{}},
		{"too long", tokenOf(`{"exp":1800000000,"x":"` + long + `"}`), time.Time{}},
	}
	for _, test := range tests {
		if got := tokenExpiry(test.token); !got.Equal(test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestSkewIsReadFromIatAlone(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for claims, want := range map[string]time.Duration{
		`{"iat":1800000000}`:                  0,
		`{"iat":1799999400}`:                  10 * time.Minute,
		`{"iat":1800000600,"exp":1}`:          -10 * time.Minute,
		`{"exp":1799999400}`:                  0,
		`{"iat":"1799999400"}`:                0,
		`{"iat":null}`:                        0,
		`{"iat":0}`:                           0,
		`{"nbf":1799999400,"IAT":1799999400}`: 0,
	} {
		if got := tokenSkew(tokenOf(claims), now); got != want {
			t.Errorf("%s: %s, want %s", claims, got, want)
		}
	}
	if got := tokenSkew("opaque", now); got != 0 {
		t.Errorf("a token that is no JWT: %s", got)
	}
}

func FuzzTokenExpiry(f *testing.F) {
	for _, claims := range []string{`{"exp":1800000000}`, `{"exp":1e400}`, `{"exp":946684800.0000001}`, `{"exp":4102444800}`, `{"exp":[]}`, `{"exp":1,"exp":2e9}`} {
		f.Add(tokenOf(claims), claims)
	}
	f.Fuzz(func(t *testing.T, token, claims string) {
		for _, s := range []string{token, tokenOf(claims), tokenOf(fmt.Sprintf(`{"exp":%s}`, claims))} {
			if got := tokenExpiry(s); !got.IsZero() && (got.UTC().Year() < 2000 || got.UTC().Year() > 2100) {
				t.Fatalf("%q: %s", s, got)
			}
		}
	})
}
