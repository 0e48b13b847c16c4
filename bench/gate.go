package main

import (
	"context"
	"fmt"
)

// gateDocs gives a gate to what is measured. Its policy denies every image and
// only warns, so that each push is decided upon in full, with a signed decision,
// and is public: what a gate costs those whose images are in order.
const gateDocs = `apiVersion: assay/v1
kind: Repository
metadata: {name: bench}
spec: {pattern: "bench/**", mode: %s}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  mode: warn
  requirements:
    signatures: [{name: ci, identities: [{issuer: "https://issuer.example", subject: ci@example.com}]}]
`

// What a gate is to reach: against Assay without one, and of memory, in MB.
var (
	gateAim   = &Aim{">=", 0.85}
	memoryAim = &Aim{"<=", 60}
)

// startAssay starts Assay, with a gate of that mode where one is given.
func (b *bench) startAssay(ctx context.Context, t *target, dir string) error {
	s, err := up(ctx, b.assay, dir)
	if err != nil {
		return err
	}
	t.process, t.base = s.process, s.PublicURL
	t.bearer = func(ctx context.Context) (string, error) { return scopedToken(ctx, s, benchRepository) }
	if t.gate == "" {
		return nil
	}
	if _, err := s.admin.Apply(ctx, fmt.Appendf(nil, gateDocs, t.gate), false, false); err != nil {
		t.stop()
		return fmt.Errorf("put a gate of mode %s: %w", t.gate, err)
	}
	return nil
}

// figure is the name of what a target reaches under a load: registry.mixed, or
// gate.staged.mixed.
func (t *target) figure(load string) string {
	if t.gate == "" {
		return load
	}
	return "gate." + t.gate + load[len("registry"):]
}
