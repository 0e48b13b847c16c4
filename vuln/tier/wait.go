package tier

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/sbom"
	"assay/store"
	"assay/vuln/finding"
)

// What came of waiting for a match.
const (
	Matched = "matched" // all that is signed about it is read and looked up
	Late    = "late"    // not in time: it stays as it is until it is
	Busy    = "busy"    // too many waited already
)

// Pending is what of an artifact's bills of materials is not matched yet.
type Pending struct {
	Unread    []sbom.Waiting // signed, and not read yet
	Documents []int64        // read, and not looked up yet
	Since     time.Time      // when the oldest of them came; zero: nothing waits
}

// Pending says what of an artifact's bills of materials is not matched yet.
func (b *Book) Pending(ctx context.Context, tx *store.Tx, boms *sbom.Store, digest artifact.Digest) (p Pending, err error) {
	if p.Unread, err = boms.Waits(ctx, tx, digest); err != nil {
		return p, err
	}
	if p.Documents, p.Since, err = finding.Waits(ctx, tx, digest); err != nil {
		return p, err
	}
	if len(p.Unread) > 0 && (p.Since.IsZero() || p.Unread[0].Since.Before(p.Since)) {
		p.Since = p.Unread[0].Since
	}
	return p, nil
}

// poll is how often it is looked whether a match is there that somebody waits for.
const poll = 25 * time.Millisecond

// Await waits until all signed bills of materials about a digest are matched, at
// most as long as the rules say, where its tier is one that the gate waits for:
// they are put before all that is less critical. outcome is "" where there was
// nothing to wait for.
func (b *Book) Await(ctx context.Context, boms *sbom.Store, digest artifact.Digest, repository string) (outcome string, err error) {
	gated, waits, err := b.look(ctx, boms, digest, repository)
	if err != nil || !gated || !waits || b.o.Rules.Wait == 0 {
		return "", err
	}
	select {
	case b.waits <- struct{}{}:
		defer func() { <-b.waits }()
	default:
		b.met.waited(Busy, 0)
		return Busy, b.hasten(ctx, boms, digest)
	}
	start := time.Now()
	outcome, err = b.await(ctx, boms, digest)
	b.met.waited(outcome, time.Since(start))
	return outcome, err
}

func (b *Book) await(ctx context.Context, boms *sbom.Store, digest artifact.Digest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.o.Rules.Wait)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	hastened := false
	for {
		if !hastened { // once what waits is known to the queue
			if err := b.hasten(ctx, boms, digest); err != nil {
				return Late, ended(err)
			}
			hastened = true
		}
		select {
		case <-ctx.Done():
			return Late, nil
		case <-tick.C:
		}
		var p Pending
		if err := b.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			p, err = b.Pending(ctx, tx, boms, digest)
			return err
		}); err != nil {
			return Late, ended(err)
		}
		if p.Since.IsZero() {
			return Matched, nil
		}
	}
}

// ended is an error, unless it says that the time is over.
func ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (b *Book) look(ctx context.Context, boms *sbom.Store, digest artifact.Digest, repository string) (gated, waits bool, err error) {
	err = b.o.DB.View(ctx, func(tx *store.Tx) error {
		s, err := b.Of(ctx, tx, digest, repository)
		if err != nil {
			return err
		}
		if gated = b.o.Rules.Gated(s.Tier); !gated {
			return nil
		}
		p, err := b.Pending(ctx, tx, boms, digest)
		waits = !p.Since.IsZero()
		return err
	})
	return gated, waits, err
}

// hasten puts what waits about a digest before what is less critical, whatever
// tier it had when it was queued.
func (b *Book) hasten(ctx context.Context, boms *sbom.Store, digest artifact.Digest) error {
	return b.o.DB.Update(ctx, func(tx *store.Tx) error {
		p, err := b.Pending(ctx, tx, boms, digest)
		if err != nil {
			return err
		}
		if err := boms.Hasten(ctx, tx, p.Unread, 1); err != nil {
			return err
		}
		return finding.Hasten(ctx, tx, p.Documents, 1)
	})
}

// metrics have fixed label sets.
type metrics struct {
	waits *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "assay_vuln_gate_wait_seconds", Help: "How long pushes waited for the match of what they are about, by what came of it: matched, late, busy.",
		Buckets: []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30},
	}, []string{"outcome"})}
	for _, o := range []string{Matched, Late, Busy} {
		m.waits.WithLabelValues(o)
	}
	if reg == nil {
		return m, nil
	}
	return m, reg.Register(m.waits)
}

func (m *metrics) waited(outcome string, d time.Duration) {
	m.waits.WithLabelValues(outcome).Observe(d.Seconds())
}
