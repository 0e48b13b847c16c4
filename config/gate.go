package config

import (
	"slices"
	"time"

	"assay/internal/fault"
)

// Gate configures the answers to controllers of canaries.
type Gate struct {
	Canary Canary `yaml:"canary"`
}

// Canary is the least that a canary must have. Who asks may want more, not less.
type Canary struct {
	// LeastDuration is how long it must have run, by the site's own record.
	LeastDuration time.Duration `yaml:"least_duration"`
	// LeastShare is which share of the traffic it must have, in percent.
	LeastShare int `yaml:"least_share"`
	// Severity from which on a new finding rolls it back: critical, high, medium, low.
	Severity string `yaml:"severity"`
	// WithoutScan lets canaries go on of which nobody knows what they hold.
	WithoutScan bool `yaml:"without_scan"`
	// PassSpent lets a canary go on though its service's error budget was spent
	// before it began.
	PassSpent bool `yaml:"pass_spent"`
}

func defaultGate() Gate {
	return Gate{Canary: Canary{LeastDuration: 10 * time.Minute, LeastShare: 5, Severity: "high"}}
}

func (g *Gate) validate() error {
	c := &g.Canary
	if c.LeastDuration < 0 || c.LeastDuration > 30*24*time.Hour {
		return fault.Newf(fault.Invalid, "gate.canary.least_duration %s: want 0 to 720h", c.LeastDuration)
	}
	if c.LeastShare < 0 || c.LeastShare > 100 {
		return fault.Newf(fault.Invalid, "gate.canary.least_share %d: want percent, 0 to 100", c.LeastShare)
	}
	if !slices.Contains([]string{"critical", "high", "medium", "low"}, c.Severity) {
		return fault.Newf(fault.Invalid, "gate.canary.severity %.40q: want critical, high, medium or low", c.Severity)
	}
	return nil
}
