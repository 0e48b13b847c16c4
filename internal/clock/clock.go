// Package clock names the three times that Assay tells apart and injects the
// one that it may read.
//
// Claimed time is what a document says of itself: shown, never believed.
// Trusted time comes from an RFC 3161 timestamp or a witnessed log. Now is the
// injected clock. Only the last two satisfy a check.
package clock

import "time"

// Clock tells Now.
type Clock func() time.Time

// System is the machine's clock. testing/synctest moves it in tests.
func System() time.Time { return time.Now() }

// Fixed is a clock that stands still.
func Fixed(t time.Time) Clock { return func() time.Time { return t } }
