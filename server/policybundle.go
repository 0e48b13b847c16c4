package server

import (
	"context"
	"fmt"
	"os"
	"time"

	"assay/action"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/excerpt"
	"assay/internal/oci"
	"assay/policy/bundle"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// policyBundles says whose signatures make a bundle of policies count.
type policyBundles struct{ s *Server }

func (p policyBundles) Verify(ctx context.Context, b *bundle.Bundle, c bundle.Claim, signatures []byte) (*bundle.Signed, error) {
	who := p.s.cfg.Trust.Policies
	return bundle.Verify(ctx, p.s.trust().verifier, bundle.Signers{Identities: who.Signers, Threshold: who.Threshold}, b, c, signatures, p.s.clock)
}

func (p policyBundles) MayBeUnsigned() bool { return p.s.cfg.Trust.Policies.Unsigned }

// defaultFollow is how often a place is looked at that says nothing else.
const defaultFollow = time.Minute

// newBadBundles is registered when the server is opened, as all metrics are: a page
// that is scraped at once has it, also before the worker began.
func newBadBundles(r prometheus.Registerer) (prometheus.Gauge, error) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "assay_policy_bundles_bad", Help: "Followed bundles of policies of which an older version is in force, since what was found last is bad.",
	})
	return g, r.Register(g)
}

// followBundles looks at the places that bundles are followed at. A bundle that is
// bad changes nothing: the last good one stays in force, and that is said.
func (s *Server) followBundles(ctx context.Context) error {
	isBad := make([]bool, len(s.cfg.Policy.Bundles))
	next := make([]time.Time, len(s.cfg.Policy.Bundles))
	for {
		now, wait := time.Now(), time.Hour
		for i, b := range s.cfg.Policy.Bundles {
			if !now.Before(next[i]) {
				isBad[i] = !s.followBundle(ctx, b)
				every := b.Every
				if every == 0 {
					every = defaultFollow
				}
				next[i] = time.Now().Add(every)
			}
			wait = min(wait, time.Until(next[i]))
		}
		n := 0.0
		for _, b := range isBad {
			if b {
				n++
			}
		}
		s.badBundles.Set(n)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(wait, 100*time.Millisecond)):
		}
	}
}

// followBundle looks at one place and tells what came of it.
func (s *Server) followBundle(ctx context.Context, b config.PolicyBundle) bool {
	ctx, cancel := context.WithTimeout(identity.WithPrincipal(ctx, identity.System("policy-bundles")), 2*time.Minute)
	defer cancel()
	f := bundle.Followed{Name: b.Name, Origin: b.From}
	err := s.takeBundle(ctx, b, &f)
	if err != nil {
		f.Problem = excerpt.Line(err.Error(), 1000, '?')
	}
	if ctx.Err() != nil && err != nil {
		return false
	}
	var changed bool
	if err := s.db.Update(ctx, func(tx *store.Tx) (err error) {
		if changed, err = bundle.Follow(ctx, tx, f); err != nil || !changed {
			return err
		}
		return event.Append(ctx, tx, event.Event{
			Kind: event.PolicyBundleRefused, Actor: identity.FromContext(ctx).Actor(),
			Body: map[string]any{"name": f.Name, "origin": f.Origin, "problem": f.Problem},
		})
	}); err != nil {
		s.log.Error("what became of a bundle of policies could not be written", "bundle", b.Name, "error", err)
	}
	if err != nil && changed {
		s.log.Error("a bundle of policies is bad; the last good one stays in force", "bundle", b.Name, "from", b.From, "error", err)
	}
	return err == nil
}

func (s *Server) takeBundle(ctx context.Context, b config.PolicyBundle, f *bundle.Followed) error {
	src := bundle.Source{From: b.From}
	if b.AllowedSigners != "" {
		var err error
		if src.AllowedSigners, err = os.ReadFile(b.AllowedSigners); err != nil {
			return err
		}
	}
	got, err := bundle.Load(ctx, src, oci.New(oci.Options{UserAgent: "assay"}))
	if err != nil {
		return err
	}
	f.Origin, f.Digest = got.Origin, got.Digest()
	c, err := got.Claim(bundle.Claim{Name: b.Name}, got.Signatures)
	if err != nil {
		return err
	}
	same := false
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		active, err := bundle.Active(ctx, tx)
		for _, a := range active {
			same = same || a.Name == c.Name && a.Digest == f.Digest && a.Version == c.Version
		}
		return err
	}); err != nil {
		return err
	}
	if same { // what waits for an answer lies there no more
		return s.db.Update(ctx, func(tx *store.Tx) error {
			return s.actions.Supersede(ctx, tx, action.PolicyBundle, c.Name+" ", "", "system:policy-bundles", fmt.Sprintf("version %d, which is in force, lies there again", c.Version))
		})
	}
	archive, err := got.Archive()
	if err != nil {
		return err
	}
	q := client.PolicyBundleActivate{
		Archive: archive, Signatures: got.Signatures, Name: c.Name, Version: c.Version, Origin: got.Origin, Unsigned: b.Unsigned, Reason: "followed",
	}
	e, err := s.mayActivate(ctx, q, c, f.Digest)
	if err != nil {
		return err
	}
	if _, err := s.api.ActivateBundle(ctx, q); err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return s.actions.Finish(ctx, tx, e) })
}
