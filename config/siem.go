package config

import (
	"fmt"
	"strings"

	"assay/internal/fault"
	"assay/siem"
)

// SIEM says which security information systems are told what happened.
type SIEM struct {
	// Sinks are told each at its own pace.
	Sinks []siem.Spec `yaml:"sinks"`
}

func (s *SIEM) validate() error {
	if len(s.Sinks) > siem.MaxSinks {
		return fault.Newf(fault.Invalid, "siem.sinks: %d, want at most %d", len(s.Sinks), siem.MaxSinks)
	}
	seen := map[string]bool{}
	for i := range s.Sinks {
		if err := s.Sinks[i].Validate(); err != nil {
			return fmt.Errorf("siem.sinks: %w", err)
		}
		if seen[s.Sinks[i].Name] {
			return fault.Newf(fault.Invalid, "siem.sinks: two are called %s", s.Sinks[i].Name)
		}
		seen[s.Sinks[i].Name] = true
		for name, place := range s.Sinks[i].Headers {
			if !strings.HasPrefix(place, "file:") && !strings.HasPrefix(place, "credential:") {
				return fault.Newf(fault.Invalid, "siem.sinks: header %.40s of %s: want file:PATH or credential:NAME, never the secret itself", name, s.Sinks[i].Name)
			}
		}
	}
	return nil
}
