package verify

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/attestation"
	"assay/internal/fault"
	"assay/policy"
	"assay/trust"
	"assay/trust/foreign"
)

// codeNamespace marks evidence that verifies under a foreign root alone, which
// does not count for this repository.
const codeNamespace = "root.namespace"

// domain is a root under which bundles are verified.
type domain struct {
	root    *trust.Root
	foreign *foreign.Root // nil: of the site itself, which counts everywhere
}

// keyring is keys that may sign without a certificate.
type keyring struct {
	keys       []trust.Key
	hints      map[string]int // by the hint that Sigstore's clients write
	thresholds *trust.Thresholds
	foreign    *foreign.Root // nil: of the site itself
}

func newKeyring(keys []trust.Key, t *trust.Thresholds, f *foreign.Root) keyring {
	r := keyring{keys: keys, hints: map[string]int{}, thresholds: t, foreign: f}
	for i, k := range keys {
		if der, err := x509.MarshalPKIXPublicKey(k.Public); err == nil {
			sum := sha256.Sum256(der)
			r.hints[base64.StdEncoding.EncodeToString(sum[:])] = i
		}
	}
	return r
}

// order puts the key first that the bundle's hint names: of hundreds, the rest is
// then not tried. A hint that is wrong costs time and decides nothing.
func (r *keyring) order(hint string) []trust.Key {
	i, ok := r.hints[hint]
	if !ok || i == 0 {
		return r.keys
	}
	return slices.Concat(r.keys[i:i+1], r.keys[:i], r.keys[i+1:])
}

// place is where the artifact is that is asked about. The zero place is that of
// a file; anywhere is asked at ingest, where evidence is kept that counts for
// some repository.
type place struct {
	registry, repository string
	any                  bool
}

var anywhere = place{any: true}

func placeOf(s policy.Subject) place { return place{registry: s.Registry, repository: s.Repository} }

// name is the repository as patterns name it: with the host of another registry.
func (p place) name() string {
	if p.repository != "" && p.registry != "" {
		return p.registry + "/" + p.repository
	}
	return p.repository
}

func (p place) within(f *foreign.Root) bool { return f == nil || p.any || f.Covers(p.name()) }

// selection names which foreign roots count at a place: verdicts are remembered
// for each.
func (v *Verifier) selection(p place) string {
	if len(v.o.Foreign) == 0 {
		return ""
	}
	b := make([]byte, len(v.o.Foreign))
	for i, f := range v.o.Foreign {
		if b[i] = '-'; p.within(f) {
			b[i] = '+'
		}
	}
	return string(b)
}

// Verify says what a bundle proves, whatever it is about, under any root. A
// refusal is fault.Unverified with a trust.Code. It is an evidence.Verifier.
func (v *Verifier) Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
	return v.verify(ctx, b, nil, anywhere)
}

// verify tries the roots that count at a place and may accept. open, where not
// nil, gives the artifact itself, which only a pure Ed25519 signature needs.
func (v *Verifier) verify(ctx context.Context, b *attestation.Bundle, open func() (io.ReadCloser, error), at place) (*trust.Verified, error) {
	o := trust.VerifyOptions{AnyArtifact: open == nil, Limits: v.o.Limits, Now: v.o.Clock, Checks: v.o.Checks}
	hint, key := b.KeyHint()
	if !key {
		o.AnyIdentity = true
		return v.try(ctx, b, o, open, at)
	}
	first := refuse(trust.CodeKeyMissing, "signed with a key, and none is known here: give it with --key, or to a server in trust.keys of its configuration")
	for _, ring := range v.keys {
		if !at.within(ring.foreign) {
			continue
		}
		o.Keys, o.Thresholds = ring.order(hint), ring.thresholds
		got, err := v.try(ctx, b, o, open, at)
		if err == nil {
			if ring.foreign != nil {
				got.Root = ring.foreign.Name()
			}
			return got, nil
		}
		if !errors.Is(err, fault.Unverified) {
			return nil, err
		}
		if saysLittle(first) || trust.Code(first) == trust.CodeKeyMissing {
			first = err
		}
	}
	return nil, first
}

// try verifies under the roots that know who vouches: those whose authorities
// bear the name of the certificate's issuer, or that have one of the logs.
func (v *Verifier) try(ctx context.Context, b *attestation.Bundle, o trust.VerifyOptions, open func() (io.ReadCloser, error), at place) (*trust.Verified, error) {
	if len(v.domains) == 0 {
		return nil, refuse(trust.CodeCertUnknown, "signed with a certificate, and no trusted root is configured")
	}
	var first error
	var outside []string
	for _, d := range v.domains {
		if !d.knows(b) {
			continue
		}
		if !at.within(d.foreign) {
			outside = append(outside, d.root.Name())
			continue
		}
		got, err := verifyUnder(ctx, d.root, b, o, open)
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, fault.Unverified) {
			return nil, err
		}
		if first == nil || saysLittle(first) {
			first = err
		}
	}
	switch {
	case first != nil:
		return nil, first
	case len(outside) > 0:
		return nil, refuse(codeNamespace, "signed under root %s, which is not trusted for %q: its namespaces say for which repositories it counts (assay trust roots list)", strings.Join(outside, ", "), at.name())
	}
	// Nobody knows it: the site's own root says what is missing. Under thresholds
	// that want nobody to vouch, it also accepts.
	if d := v.domains[0]; at.within(d.foreign) {
		return verifyUnder(ctx, d.root, b, o, open)
	}
	return nil, refuse(trust.CodeCertUnknown, "signed under a root that is not trusted here")
}

// knows says whether verifying b under the root is worth the while.
func (d domain) knows(b *attestation.Bundle) bool {
	if c := b.Certificate(); c != nil {
		return d.root.Issued(c)
	}
	return slices.ContainsFunc(b.Proto().GetVerificationMaterial().GetTlogEntries(), func(e *rekorpb.TransparencyLogEntry) bool {
		return d.root.KnowsLog(e.GetLogId().GetKeyId())
	})
}

// VerifyNotation says what a signature of the Notary Project proves, whatever it
// is about, under any trust store.
func (v *Verifier) VerifyNotation(ctx context.Context, raw []byte) (*trust.Verified, error) {
	return v.verifyNotation(ctx, raw, anywhere)
}

func (v *Verifier) verifyNotation(ctx context.Context, raw []byte, at place) (*trust.Verified, error) {
	first := refuse(foreign.CodeNotationUnknown, "a Notation signature, and no Notation trust store is imported for %q: assay trust import --type notation", at.name())
	for _, f := range v.notation {
		if !at.within(f) {
			continue
		}
		got, err := f.VerifyNotation(ctx, raw, foreign.Place{Registry: at.registry, Repository: at.repository, Any: at.any}, v.o.Clock())
		for _, check := range v.o.Checks {
			if err == nil {
				err = check(ctx, got)
			}
		}
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, fault.Unverified) {
			return nil, err
		}
		if trust.Code(first) == foreign.CodeNotationUnknown {
			first = err
		}
	}
	return nil, first
}

// delegated finds out by which delegation evidence counts, and refuses what a
// delegate signed outside of its own.
func (g *gathering) delegated(c *collected) error {
	set := g.verifier.o.Delegations
	if theirs, foreign := g.verifier.o.ForeignDelegations[c.evidence.Root]; foreign {
		set = theirs
	}
	if set == nil {
		return nil
	}
	link, err := set.Judge(c.signer, placeOf(g.facts.Subject).name(), c.predicateType, c.signedAt, g.verifier.o.Clock())
	if err != nil || link == nil {
		return err
	}
	c.evidence.Delegation = &policy.Delegation{Name: link.Document.Name, Chain: link.Chain()}
	if end := link.Expires(); g.expires.IsZero() || end.Before(g.expires) {
		g.expires = end
	}
	return nil
}
