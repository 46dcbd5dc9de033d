package main

// Everything that can go wrong on purpose, and the counters by which a test sees what reached the server.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// duration is written "150ms" in flags and JSON alike.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = errors.New("below 0")
	}
	*d = duration(v)
	return err
}

// settings are the faults as flags and /control name them; the rates are chances from 0 to 1 per request.
type settings struct {
	Latency          duration `json:"latency"`
	Jitter           duration `json:"jitter"`
	ErrorRate        float64  `json:"error_rate"`
	UnauthorizedRate float64  `json:"unauthorized_rate"`
	RateLimitRate    float64  `json:"rate_limit_rate"`
	RetryAfter       int      `json:"retry_after"` // seconds
	FailNext         int      `json:"fail_next"`   // requests still to fail
	FailStatus       int      `json:"fail_status"`
	HangRate         float64  `json:"hang_rate"`
	CutRate          float64  `json:"cut_rate"`
	Slow             duration `json:"slow"`
	HTMLRate         float64  `json:"html_rate"`
	Gate             bool     `json:"gate"`
	FaultsOnAuth     bool     `json:"faults_on_auth"`
}

func (s *settings) register(fs *flag.FlagSet) {
	fs.TextVar(&s.Latency, "latency", duration(0), "wait before each answer")
	fs.TextVar(&s.Jitter, "jitter", duration(0), "up to this much more latency, at random")
	fs.Float64Var(&s.ErrorRate, "error-rate", 0, "chance of a 500")
	fs.Float64Var(&s.UnauthorizedRate, "unauthorized-rate", 0, "chance of a 401")
	fs.Float64Var(&s.RateLimitRate, "rate-limit-rate", 0, "chance of a 429")
	fs.IntVar(&s.RetryAfter, "retry-after", 1, "Retry-After of 429 and 503 in `seconds`; 0 leaves it out")
	fs.IntVar(&s.FailNext, "fail-next", 0, "how many of the next requests fail")
	fs.IntVar(&s.FailStatus, "fail-status", http.StatusServiceUnavailable, "and with which HTTP `status`")
	fs.Float64Var(&s.HangRate, "hang-rate", 0, "chance of no answer at all")
	fs.Float64Var(&s.CutRate, "cut-rate", 0, "chance of an executed request whose answer breaks off halfway")
	fs.TextVar(&s.Slow, "slow", duration(0), "time over which an answer trickles out")
	fs.Float64Var(&s.HTMLRate, "html-rate", 0, "chance of a captive portal's page instead of an answer")
	fs.BoolVar(&s.Gate, "gate", false, "hold all requests until /control opens the gate")
	fs.BoolVar(&s.FaultsOnAuth, "faults-on-auth", false, "login and refreshToken fail too")
}

func (s *settings) check() error {
	for name, rate := range map[string]float64{
		"error_rate": s.ErrorRate, "unauthorized_rate": s.UnauthorizedRate, "rate_limit_rate": s.RateLimitRate,
		"hang_rate": s.HangRate, "cut_rate": s.CutRate, "html_rate": s.HTMLRate,
	} {
		if !(rate >= 0 && rate <= 1) { // so that NaN is refused
			return fmt.Errorf("%s: %v is not between 0 and 1", name, rate)
		}
	}
	if s.RetryAfter < 0 || s.FailNext < 0 {
		return errors.New("retry_after and fail_next cannot be below 0")
	}
	if s.FailStatus != 0 && (s.FailStatus < 200 || s.FailStatus > 599) {
		return fmt.Errorf("fail_status: %d is not between 200 and 599", s.FailStatus)
	}
	return nil
}

// requestCounters count operations, those that were made to fail included.
type requestCounters struct {
	Requests int            `json:"requests"`
	Waiting  int            `json:"waiting"` // at the gate, now
	ByField  map[string]int `json:"by_field"`
}

// fault is what happens to one request; the zero value is nothing.
type fault struct {
	status, retryAfter int
	hang, html, cut    bool
	slow               time.Duration
}

type faults struct {
	mu     sync.Mutex
	now    settings
	opened chan struct{} // closed when the gate opens
	random *rand.Rand
	seen   requestCounters
}

func newFaults(s settings, seed uint64) *faults {
	if s.FailStatus == 0 {
		s.FailStatus = http.StatusServiceUnavailable
	}
	return &faults{
		now:    s,
		opened: make(chan struct{}),
		random: rand.New(rand.NewPCG(seed, seed)),
		seen:   requestCounters{ByField: map[string]int{}},
	}
}

func (f *faults) count(fields []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen.Requests++
	for _, name := range fields {
		f.seen.ByField[name]++
	}
}

func (f *faults) snapshot() (settings, requestCounters) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	seen.ByField = maps.Clone(seen.ByField)
	return f.now, seen
}

// change takes the settings that a JSON object names, all or none; revoke is an act rather than a setting, so it is
// handed back.
func (f *faults) change(raw []byte) (revoke bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := struct {
		*settings
		Revoke bool `json:"revoke"`
	}{settings: new(f.now)}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&next); err != nil {
		return false, err
	}
	if err := next.check(); err != nil {
		return false, err
	}
	if f.now.Gate && !next.Gate {
		close(f.opened)
		f.opened = make(chan struct{})
	}
	f.now = *next.settings
	return next.Revoke, nil
}

// next waits at the gate, then for the latency, and says what else befalls the request; an error means that the
// client went away meanwhile.
func (f *faults) next(ctx context.Context, auth bool) (fault, error) {
	for {
		f.mu.Lock()
		if auth && !f.now.FaultsOnAuth {
			f.mu.Unlock()
			return fault{}, nil
		}
		if !f.now.Gate {
			break
		}
		opened := f.opened
		f.seen.Waiting++
		f.mu.Unlock()
		var err error
		select {
		case <-opened:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		f.mu.Lock()
		f.seen.Waiting--
		f.mu.Unlock()
		if err != nil {
			return fault{}, err
		}
	}
	hit, wait := f.drawLocked()
	f.mu.Unlock()
	return hit, sleep(ctx, wait)
}

// drawLocked draws once for every rate, hit or not, so that changing one rate leaves the others' fate to the seed.
func (f *faults) drawLocked() (hit fault, wait time.Duration) {
	s := &f.now
	chance := func(rate float64) bool { return f.random.Float64() < rate }
	wait = time.Duration(s.Latency) + time.Duration(f.random.Float64()*float64(s.Jitter))
	limited, refused, failed := chance(s.RateLimitRate), chance(s.UnauthorizedRate), chance(s.ErrorRate)
	hit.hang, hit.html, hit.cut = chance(s.HangRate), chance(s.HTMLRate), chance(s.CutRate)
	hit.slow = time.Duration(s.Slow)
	switch {
	case s.FailNext > 0:
		s.FailNext--
		hit = fault{status: s.FailStatus} // a certain fault comes before those of chance
	case limited:
		hit.status = http.StatusTooManyRequests
	case refused:
		hit.status = http.StatusUnauthorized
	case failed:
		hit.status = http.StatusInternalServerError
	}
	if hit.status == http.StatusTooManyRequests || hit.status == http.StatusServiceUnavailable {
		hit.retryAfter = s.RetryAfter
	}
	return hit, wait
}
