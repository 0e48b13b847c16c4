package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"assay/artifact"
	"assay/policy"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/foreign"
	"assay/trust/revocation"
	"assay/verify"
)

// How much trust the deep verifier has beside the site's own root.
const (
	depthRevocations = 1000
	depthDelegations = 100
	depthRoots       = 3
)

// trustDepth measures what revocations, delegations and foreign roots cost a
// verification: the same bundles, each verified once under fresh roots, by a
// verifier with all of them and in turns by one with none.
func (b *bench) trustDepth(ctx context.Context) error {
	n, delegations := 600, depthDelegations
	if b.quick {
		n, delegations = 60, 10
	}
	s, err := up(ctx, b.assay, b.folder("trust-site"))
	if err != nil {
		return err
	}
	defer s.stop()
	bundles, err := attest(ctx, s, n)
	if err != nil {
		return err
	}
	own, err := s.admin.TrustExport(ctx)
	if err != nil {
		return err
	}
	published, err := delegateMany(ctx, s, delegations)
	if err != nil {
		return err
	}
	who, issuer := wantSigner(s), s.Services.OIDC
	s.stop()
	var roots []*foreign.Root
	for i := range depthRoots {
		r, err := b.otherRoot(ctx, i)
		if err != nil {
			return err
		}
		roots = append(roots, r)
	}
	p, err := policy.DefaultIdentities("signer", policy.IdentityMatch{Issuer: who[0].Issuer, Subject: who[0].Subject})
	if err != nil {
		return err
	}
	list := revokeMany(issuer)
	plainly := func() (*verify.Verifier, error) {
		root, err := trust.ParseTrustedRoot(own, trust.WithName("own"))
		if err != nil {
			return nil, err
		}
		return verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{root}})
	}
	deeply := func() (*verify.Verifier, error) {
		root, err := trust.ParseTrustedRoot(own, trust.WithName("own"))
		if err != nil {
			return nil, err
		}
		set, err := compilePublished(ctx, published, root)
		if err != nil {
			return nil, err
		}
		// Fresh, since compiling has filled its memory of checks.
		if root, err = trust.ParseTrustedRoot(own, trust.WithName("own")); err != nil {
			return nil, err
		}
		return verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{root}, Foreign: roots, Delegations: set,
			Lists: map[string]*revocation.Signed{"own": {List: list}}})
	}
	measure := func(make func() (*verify.Verifier, error)) (float64, error) {
		v, err := make()
		if err != nil {
			return 0, err
		}
		// Processor time, so that what else runs here counts for neither.
		runtime.GC()
		began := ownCPU()
		for i := range bundles {
			r, err := verify.Offline(ctx, verify.Target{Digest: bundles[i].subject, Kind: policy.Image, Repository: "team/app"},
				verify.Items{{Source: "bench", Bundle: bundles[i].bundle}}, verify.OfflineOptions{Verifier: v, Policy: p, Scope: policy.Scope{ID: "bench"}})
			if err != nil {
				return 0, err
			}
			if len(r.Rejected) > 0 || len(r.Evidence) != 1 {
				return 0, fmt.Errorf("the bundle is not accepted: %+v", r.Rejected)
			}
		}
		return float64((ownCPU() - began).Microseconds()) / float64(len(bundles)), nil
	}
	var deep, plain samples
	m := startMeter(nil)
	if err := b.turns(ctx, func(i int) error {
		first, second := plainly, deeply
		if i%2 == 1 {
			first, second = deeply, plainly
		}
		a, err := measure(first)
		if err != nil {
			return err
		}
		z, err := measure(second)
		if err != nil {
			return err
		}
		if i%2 == 1 {
			a, z = z, a
		}
		plain, deep = append(plain, a), append(deep, z)
		return nil
	}); err != nil {
		return err
	}
	f := figure("verify.trust-depth", "µs CPU", deep, nil).against("without", deep, plain, &Aim{"<=", 1.1})
	f.Others = m.stop(b.processors).others
	f.Note = fmt.Sprintf("one attestation verified and judged with %d revocations, %d delegations and %d foreign roots, and in turns with none", depthRevocations, delegations, depthRoots)
	b.add(f)
	return nil
}

// delegateMany has the site give delegations, and exports them.
func delegateMany(ctx context.Context, s *site, n int) ([]byte, error) {
	for i := range n {
		doc, err := json.Marshal(delegation.Document{
			Name: fmt.Sprintf("team-%d", i), Patterns: []string{fmt.Sprintf("team-%d/**", i)}, PredicateTypes: []string{delegation.AnyType},
			Expires: time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second),
			Delegates: []delegation.Delegate{
				{Issuer: s.Services.OIDC, Subject: fmt.Sprintf("ci@team-%d.example", i)}, {Issuer: s.Services.OIDC, SubjectRegexp: fmt.Sprintf(`bot-[0-9]+@team-%d\.example`, i)},
			},
		})
		if err != nil {
			return nil, err
		}
		if _, err := s.admin.Delegate(ctx, doc); err != nil {
			return nil, err
		}
	}
	return s.admin.DelegationsExport(ctx)
}

func compilePublished(ctx context.Context, b []byte, root *trust.Root) (*delegation.Set, error) {
	p, err := delegation.ParsePublished(b)
	if err != nil {
		return nil, err
	}
	keys, err := p.PublicKeys()
	if err != nil {
		return nil, err
	}
	bundles := make([][]byte, len(p.Bundles))
	for i, raw := range p.Bundles {
		bundles[i] = raw
	}
	return delegation.Compile(ctx, trust.Roots{root}, keys, bundles)
}

// otherRoot is the root of another site.
func (b *bench) otherRoot(ctx context.Context, i int) (*foreign.Root, error) {
	s, err := up(ctx, b.assay, b.folder(fmt.Sprintf("trust-other-%d", i)))
	if err != nil {
		return nil, err
	}
	defer s.stop()
	root, err := s.admin.TrustExport(ctx)
	if err != nil {
		return nil, err
	}
	return foreign.Compile(&foreign.Document{Name: fmt.Sprintf("other-%d", i), Version: 1, Type: foreign.Sigstore, Namespaces: []string{"**"}, TrustedRoot: root})
}

// revokeMany is a list that revokes others than who signs here.
func revokeMany(issuer string) *revocation.List {
	now := time.Now()
	l := &revocation.List{Schema: revocation.Schema, Domain: "own", Version: 1, Use: revocation.Export,
		Issued: revocation.At(now), Expires: revocation.At(now.Add(revocation.ExportValidity))}
	for i := range depthRevocations {
		e := revocation.Entry{InvalidSince: revocation.At(now.Add(-time.Hour)), Reason: "bench", Requester: "bench", Created: revocation.At(now)}
		name := fmt.Sprintf("revoked-%d", i)
		switch i % 4 {
		case 0:
			e.Kind, e.Key = revocation.Key, string(artifact.SHA256Of([]byte(name)))
		case 1:
			e.Kind, e.Match, e.Issuer, e.Subject = revocation.Identity, revocation.Exact, issuer, name+"@example.com"
		case 2:
			e.Kind, e.Digest = revocation.Artifact, artifact.SHA256Of([]byte(name))
		case 3:
			e.Kind, e.Builder = revocation.Builder, "https://builder.example/"+name
		}
		l.Entries = append(l.Entries, e)
	}
	return l
}
