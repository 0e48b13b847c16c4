package config

import (
	"time"

	"assay/internal/fault"
)

// GC configures how what nothing needs is collected.
type GC struct {
	// Every is the time from one collection to the next; 0: 6h. At least 1m.
	Every time.Duration `yaml:"every"`
	// Grace is how long what nothing needs is kept; 0: 24h. At least 1m, and
	// more than the longest push takes.
	Grace time.Duration `yaml:"grace"`
	// Rate is how many blobs a second are deleted at most; 0: 500.
	Rate int `yaml:"rate"`
	// Off collects only when asked: assay registry gc.
	Off bool `yaml:"off"`
}

func (g GC) validate() error {
	if g.Every != 0 && g.Every < time.Minute {
		return fault.Newf(fault.Invalid, "registry.gc.every %s: want 0 (6h) or at least 1m; registry.gc.off collects only when asked", g.Every)
	}
	if g.Grace != 0 && g.Grace < time.Minute {
		return fault.Newf(fault.Invalid, "registry.gc.grace %s: want 0 (24h) or at least 1m", g.Grace)
	}
	if g.Rate < 0 {
		return fault.Newf(fault.Invalid, "registry.gc.rate %d: want 0 (500) or more", g.Rate)
	}
	return nil
}
