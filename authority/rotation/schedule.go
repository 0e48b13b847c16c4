package rotation

import (
	"slices"
	"time"

	"assay/internal/fault"
)

// Schedule says when the key of a role is followed by another.
type Schedule struct {
	// Every is how long a key signs before the next one takes over; 0: until
	// somebody asks for it.
	Every time.Duration
	// Overlap is how long a new key is published before it signs. It must be as
	// long as a client may go without renewing what it knows: the life of the TUF
	// timestamp, 7 days, bounds that for every client.
	Overlap time.Duration
}

// DefaultOverlap is a day more than the life of the TUF timestamp.
const DefaultOverlap = 8 * 24 * time.Hour

// DefaultAlerts are the times before expiry at which it is told.
func DefaultAlerts() []time.Duration {
	const day = 24 * time.Hour
	return []time.Duration{30 * day, 7 * day, day}
}

// Validate says whether a key has time to sign before the next one is made.
func (s Schedule) Validate() error {
	if s.Every < 0 || s.Overlap < 0 {
		return fault.Newf(fault.Invalid, "rotation every %s with an overlap of %s: want no negative times", s.Every, s.Overlap)
	}
	if s.Every > 0 && s.Every <= s.Overlap {
		return fault.Newf(fault.Invalid, "rotation every %s with an overlap of %s: want every to be longer than the overlap, for which the next key is published", s.Every, s.Overlap)
	}
	return nil
}

// Due is when the key that follows k is made: so early that it takes over when k
// has signed for Every. Zero: never by itself.
func (s Schedule) Due(k Key) time.Time {
	if s.Every == 0 || k.State != Active {
		return time.Time{}
	}
	return k.Activated.Add(s.Every - s.Overlap)
}

// TakesOver is when a pending key becomes active; zero while it is not published.
func (s Schedule) TakesOver(k Key) time.Time {
	switch {
	case k.State != Pending || k.Published.IsZero():
		return time.Time{}
	case k.Hurry:
		return k.Published
	}
	return k.Published.Add(s.Overlap)
}

// threshold is the smallest of the thresholds that left has come below; 0: none.
func threshold(left time.Duration, thresholds []time.Duration) time.Duration {
	below := time.Duration(0)
	for _, t := range slices.Sorted(slices.Values(thresholds)) {
		if left <= t {
			below = t
			break
		}
	}
	return below
}
