package config

import (
	"time"

	"assay/internal/fault"
)

// BuildLogs says how what builds print is kept.
type BuildLogs struct {
	// Max is how many bytes of one build's log are kept.
	Max int64 `yaml:"max"`
	// Keep is how long after its last line a log is kept.
	Keep time.Duration `yaml:"keep"`
}

func (b *BuildLogs) validate() error {
	if b.Max < 1<<10 || b.Max > 1<<30 {
		return fault.Newf(fault.Invalid, "build_logs.max %d: want from 1 KiB to 1 GiB", b.Max)
	}
	if b.Keep < time.Hour {
		return fault.Newf(fault.Invalid, "build_logs.keep %s: want 1h or more", b.Keep)
	}
	return nil
}
