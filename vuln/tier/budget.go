package tier

import (
	"sync"
	"time"

	"assay/internal/clock"
)

// burst is for how long a tier that spent nothing may have saved.
const burst = 10 * time.Second

// budget is processor time by tier: it grows with time, up to what a burst may
// take, and one piece of work may take more than there is, which is waited off.
type budget struct {
	clock clock.Clock
	mu    sync.Mutex
	tiers map[int]*account
}

type account struct {
	rate  float64       // processor seconds for each second
	left  time.Duration // may be negative
	since time.Time     // left was of this time
}

func newBudget(rates map[int]float64, c clock.Clock) *budget {
	b := &budget{clock: c, tiers: map[int]*account{}}
	now := c()
	for tier, rate := range rates {
		b.tiers[tier] = &account{rate: rate, left: time.Duration(rate * float64(burst)), since: now}
	}
	return b
}

// ready says whether a tier has something left. One without an account has none.
func (b *budget) ready(tier int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.tiers[tier]
	if a == nil {
		return false
	}
	a.grow(b.clock())
	return a.left > 0
}

func (b *budget) spend(tier int, cpu time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.tiers[tier]; a != nil {
		a.grow(b.clock())
		a.left -= cpu
	}
}

// grow adds what the time since gives. A clock that went back gives nothing.
func (a *account) grow(now time.Time) {
	passed := now.Sub(a.since)
	a.since = now
	if passed > 0 {
		a.left = min(a.left+time.Duration(a.rate*float64(passed)), time.Duration(a.rate*float64(burst)))
	}
}
