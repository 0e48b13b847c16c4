package config

import (
	"time"

	"assay/internal/fault"
)

// Scrub configures how stored blobs are hashed again.
type Scrub struct {
	// Every is the time from the beginning of one round over all blobs to that
	// of the next; 0: 168h. At least 1m.
	Every time.Duration `yaml:"every"`
	// Rate is how many bytes a second a round reads; 0: 32 MiB.
	Rate int64 `yaml:"rate"`
	// ReadLimit is the size in bytes up to which a blob is hashed before its
	// first byte is served; 0: 1 MiB.
	ReadLimit int64 `yaml:"read_limit"`
}

func (s Scrub) validate() error {
	if s.Every != 0 && s.Every < time.Minute {
		return fault.Newf(fault.Invalid, "registry.scrub.every %s: want 0 (168h) or at least 1m", s.Every)
	}
	if s.Rate < 0 || s.ReadLimit < 0 {
		return fault.Newf(fault.Invalid, "registry.scrub.rate %d, registry.scrub.read_limit %d: want 0 (the default) or more", s.Rate, s.ReadLimit)
	}
	return nil
}
