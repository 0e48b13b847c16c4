package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// gateModes are the modes that a gate is measured in; the first has none.
var gateModes = []string{"open", "staged", "strict"}

// gateLoads are the loads that a gate is measured under.
var gateLoads = []string{"registry.pull.1mb", "registry.pull.10mb", "registry.push.1mb", "registry.mixed"}

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

// gate loads Assay without a gate and with one, in turns.
func (b *bench) gate(ctx context.Context) error {
	last := b.until
	for i, name := range gateLoads {
		op := operations[slices.IndexFunc(operations, func(o operation) bool { return o.name == name })]
		b.until = time.Now().Add(time.Until(last) / time.Duration(len(gateLoads)-i))
		if err := b.gateOperation(ctx, op); err != nil {
			return fmt.Errorf("gate, %s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) gateOperation(ctx context.Context, op operation) error {
	perSlot := int(float64(op.pushes)*b.slot.Seconds()) + connections
	var targets []*target
	defer func() {
		for _, t := range targets {
			t.stop()
			_ = os.RemoveAll(b.folder("gate-" + t.name))
		}
		flushDisk()
	}()
	stored, err := images(max(1, op.seed), op.size, "stored")
	if err != nil {
		return err
	}
	for _, mode := range gateModes {
		s, err := up(ctx, b.assay, b.folder("gate-"+mode))
		if err != nil {
			return err
		}
		t := &target{process: s.process, name: mode, base: s.PublicURL, bearer: func(ctx context.Context) (string, error) { return scopedToken(ctx, s) }}
		targets = append(targets, t)
		if mode != "open" {
			if _, err := s.admin.Apply(ctx, fmt.Appendf(nil, gateDocs, mode), false, false); err != nil {
				return err
			}
		}
		if err := t.seed(ctx, stored); err != nil {
			return fmt.Errorf("seed %s: %w", mode, err)
		}
	}
	var others float64
	err = b.turns(ctx, func(round int) error {
		var fresh []image
		if op.pushes > 0 {
			if fresh, err = images(perSlot, op.size, fmt.Sprintf("r%d", round)); err != nil {
				return err
			}
		}
		for turn := range targets {
			t := targets[(round+turn)%len(targets)]
			flushDisk()
			share, err := b.load(ctx, t, op, stored, fresh)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			others = max(others, share)
		}
		return nil
	})
	if err != nil {
		return err
	}
	open := targets[0]
	for _, t := range targets[1:] {
		f := figure("gate."+t.name+op.name[len("registry"):], op.unit, t.rates, nil)
		f.CPU, f.Others = round(t.cpu.median()), others
		f.Note = fmt.Sprintf("%s; %d connections; against the same without a gate", op.what, connections)
		f = f.against("open", t.rates, open.rates, &Aim{">=", 0.85})
		f.PeerCPU = round(open.cpu.median())
		b.add(f)
	}
	return nil
}
