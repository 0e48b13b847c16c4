package inventory

import (
	"encoding/json"

	"assay/artifact"
)

// Fingerprint stands for what a catalogue says: two of one fingerprint say the same.
func (c *Catalogue) Fingerprint() string {
	if c == nil {
		return ""
	}
	specs := make(map[string]ServiceSpec, len(c.services))
	for name, s := range c.services {
		specs[name] = s.ServiceSpec
	}
	// Maps come in the order of their keys.
	b, err := json.Marshal([]any{c.teams, c.clusters, specs, c.platform})
	if err != nil {
		return "" // of these types nothing fails
	}
	return string(artifact.SHA256Of(b))
}
