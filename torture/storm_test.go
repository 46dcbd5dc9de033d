package main

// A retry storm on paper: ten thousand daemons with one cron minute, an API that is gone for an hour, and what hits it
// when it comes back. The rule is the daemon's own, held against its source.

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	stormDaemons = 10_000
	stormOutage  = time.Hour
	stormAfter   = 70 * time.Minute // looked at from the return on: one more firing of an hourly schedule
)

// stormBackoff is backoff of queue_worker.go.
func stormBackoff(rng *rand.Rand, n int) time.Duration {
	limit := 5 * time.Minute
	if n < 10 {
		limit = min(limit, time.Second<<(n-1))
	}
	return time.Duration(rng.Int64N(int64(limit)))
}

// attempt is a request to come.
type attempt struct {
	at     time.Duration
	daemon int
	n      int // 0: the first of its job
	tick   bool
}

type attempts []attempt

func (a attempts) Len() int           { return len(a) }
func (a attempts) Less(i, j int) bool { return a[i].at < a[j].at }
func (a attempts) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *attempts) Push(x any)        { *a = append(*a, x.(attempt)) }
func (a *attempts) Pop() any          { x := (*a)[len(*a)-1]; *a = (*a)[:len(*a)-1]; return x }

// storm returns the peak requests in a second: while the API is away, in the minutes after it is back, and in the last
// ones, when everything is as always; and how many requests the outage saw.
func storm(period, jitter time.Duration, retries int, back time.Duration) (during, after, usual, total int) {
	rng := rand.New(rand.NewPCG(1, 2))
	end := back + stormAfter
	perSecond := make([]int, int(end/time.Second)+1000)
	open := make([]bool, stormDaemons) // overlap skip: one job of the schedule at a time
	queue := &attempts{}
	for d := range stormDaemons {
		for at := time.Duration(0); at < end; at += period {
			*queue = append(*queue, attempt{at, d, 0, true})
		}
	}
	heap.Init(queue)
	for queue.Len() > 0 {
		a := heap.Pop(queue).(attempt)
		if a.at >= end {
			break
		}
		if a.tick {
			if !open[a.daemon] {
				open[a.daemon] = true
				at := a.at + time.Duration(rng.Int64N(int64(50*time.Millisecond))) // clocks differ a little
				if jitter > 0 {
					at += time.Duration(rng.Int64N(int64(jitter)))
				}
				heap.Push(queue, attempt{at, a.daemon, 0, false})
			}
			continue
		}
		perSecond[a.at/time.Second]++
		if a.at < back {
			total++
		}
		switch {
		case a.at >= back, a.n == retries:
			open[a.daemon] = false
		default:
			heap.Push(queue, attempt{a.at + stormBackoff(rng, a.n+1), a.daemon, a.n + 1, false})
		}
	}
	for s, n := range perSecond {
		switch at := time.Duration(s) * time.Second; {
		case at < back:
			during = max(during, n)
		case at < back+10*time.Minute:
			after = max(after, n)
		case at < end:
			usual = max(usual, n)
		}
	}
	return during, after, usual, total
}

func TestRetryStorm(t *testing.T) {
	source, err := os.ReadFile("../queue_worker.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"backoffBase  = time.Second\n", "backoffCap   = 5 * time.Minute\n", "if n < 10 {\n\t\tlimit = min(backoffCap, backoffBase<<(n-1))\n\t}\n\treturn max(time.Millisecond, time.Duration(rand.Int64N(int64(limit))))"} {
		if !strings.Contains(string(source), line) {
			t.Fatalf("queue_worker.go has another rule than this simulation: %q is gone", line)
		}
	}
	fmt.Printf("%d daemons, the API is away for %s; peak requests in one second\n", stormDaemons, stormOutage)
	fmt.Printf("%-9s %-8s %-12s %12s %12s %12s %16s\n", "schedule", "retries", "jitter", "while away", "once back", "as always", "sent in vain")
	for _, s := range []struct {
		period  time.Duration
		retries int
	}{{time.Minute, 3}, {time.Hour, 3}, {time.Hour, 100}} {
		var plain, spread int
		for _, jitter := range []time.Duration{0, s.period / 2} {
			// Back half a minute after a firing: what comes then is retries alone, then the next firing.
			during, after, usual, total := storm(s.period, jitter, s.retries, stormOutage+30*time.Second)
			fmt.Printf("%-9s %-8d %-12s %12d %12d %12d %16d\n", s.period, s.retries, jitter, during, after, usual, total)
			if jitter == 0 {
				plain = max(after, usual)
			} else {
				spread = max(after, usual)
			}
		}
		if spread > stormDaemons/10 || plain > stormDaemons {
			t.Errorf("%s: %d at once with jitter, %d without", s.period, spread, plain)
		}
	}
}
