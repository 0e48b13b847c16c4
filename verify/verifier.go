package verify

import (
	"context"
	"io"
	"slices"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/foreign"
	"assay/trust/revocation"
)

// VerifierOptions are what bundles are verified with.
type VerifierOptions struct {
	Roots []*trust.Root // tried in this order; each bundle is verified under one of them alone
	// Foreign are imported roots, each for the repositories of its namespaces.
	Foreign []*foreign.Root
	// Delegations say what signatures of teams and vendors count for; nil: none.
	Delegations *delegation.Set
	// ForeignDelegations are those of other sites, by the name of the root that
	// each site became here: they bind what verified under that root.
	ForeignDelegations map[string]*delegation.Set
	Keys               []trust.Key // public keys that may sign without a certificate
	// SourceKeys are the fingerprints among Keys that record what forges told.
	SourceKeys map[string]bool
	// KeyThresholds is what key-signed bundles must carry; nil: the root's own.
	KeyThresholds *trust.Thresholds
	// Checks judge what a bundle proved, under every root and key, in order; the
	// first error refuses the bundle.
	Checks []trust.Check
	// Lists are the revocation lists, each by the name of the root that it covers.
	// That of a foreign root counts for what verified under that root, and for
	// artifacts within its namespaces: a vendor revokes what is the vendor's. All
	// others count for every bundle. A root without one is "not configured".
	Lists  map[string]*revocation.Signed
	Limits attestation.Limits // caps before any cryptography; zero: defaults
	Clock  clock.Clock        // nil: clock.System
}

// Verifier verifies bundles under all roots and keys of a site. It is
// immutable and safe for concurrent use; a change of trust makes a new one.
type Verifier struct {
	o        VerifierOptions
	names    []string
	domains  []domain  // under which bundles are verified
	keys     []keyring // who may sign without a certificate
	notation []*foreign.Root
	revoked  revokedBy
}

// NewVerifier makes a verifier. Neither a root nor a key is fault.Invalid.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	if len(o.Roots)+len(o.Keys)+len(o.Foreign) == 0 {
		return nil, fault.Newf(fault.Invalid, "verifier: want at least one trusted root or key")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	v := &Verifier{o: o, revoked: o.revoked()}
	v.o.Checks = o.judges(v.revoked)
	for _, r := range o.Roots {
		v.names = append(v.names, r.Name())
		v.domains = append(v.domains, domain{root: r})
	}
	if keys := append(slices.Clone(o.Keys), o.Delegations.Keys()...); len(keys) > 0 {
		v.keys = append(v.keys, newKeyring(keys, o.KeyThresholds, nil))
	}
	for _, f := range o.Foreign {
		v.names = append(v.names, f.Name())
		if r := f.Root(); r != nil {
			v.domains = append(v.domains, domain{r, f})
		}
		if keys, thresholds := f.Keys(); len(keys) > 0 {
			v.keys = append(v.keys, newKeyring(keys, thresholds, f))
		}
		if f.IsNotation() {
			v.notation = append(v.notation, f)
		}
	}
	if len(v.domains) == 0 && len(v.keys) > 0 {
		// A root that vouches for nothing, for keys alone.
		bare, err := trust.NewRoot(trust.Parts{}, trust.WithName("keys"), trust.WithThresholds(trust.Thresholds{}))
		if err != nil {
			return nil, err
		}
		v.domains = []domain{{root: bare}}
		if len(o.Keys) > 0 {
			v.names = append(v.names, "keys")
		}
	}
	slices.Sort(v.names)
	return v, nil
}

func (o *VerifierOptions) judges(r revokedBy) []trust.Check {
	if len(o.Lists) == 0 {
		return o.Checks
	}
	return append(slices.Clone(o.Checks), r.check)
}

// Judges are the checks and the lists, for what is verified beside evidence:
// delegations count no more than evidence by the same signers would.
func (o *VerifierOptions) Judges() []trust.Check { return o.judges(o.revoked()) }

// Judges are those that this verifier judges evidence by.
func (v *Verifier) Judges() []trust.Check { return slices.Clone(v.o.Checks) }

// RootNames lists the names of the roots, sorted.
func (v *Verifier) RootNames() []string { return slices.Clone(v.names) }

// codeOwnDecision marks a bundle by the own decision key.
const codeOwnDecision = "decision.own"

// refuse is evidence that does not count, with a code that every door tells.
func refuse(code, format string, args ...any) error { return trust.Refuse(code, format, args...) }

// codeOf is the code of evidence that was refused.
func codeOf(err error) string { return evidence.Code(err) }

func verifyUnder(ctx context.Context, root *trust.Root, b *attestation.Bundle, o trust.VerifyOptions, open func() (io.ReadCloser, error)) (*trust.Verified, error) {
	if open != nil {
		r, err := open()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		o.ArtifactReader = r
	}
	return root.VerifyBundle(ctx, b, o)
}

// saysLittle marks refusals by a root that does not know the signer: another
// root's says more.
func saysLittle(err error) bool {
	switch trust.Code(err) {
	case trust.CodeCertUnknown, trust.CodeTLogUnknown, trust.CodeTSAUnknown, trust.CodeSCTMissing:
		return true
	}
	return false
}

// keyExpiry is when the key of a bundle without trusted time may no longer have
// signed; zero: no such.
func (v *Verifier) keyExpiry(fingerprint string) time.Time {
	for _, ring := range v.keys {
		for _, k := range ring.keys {
			if fp, err := trust.KeyFingerprint(k.Public); err == nil && fp == fingerprint {
				return k.Window.End
			}
		}
	}
	return time.Time{}
}

// named says whether one of the subjects is the artifact.
func named(subjects []attestation.Subject, of artifact.DigestSet) bool {
	return slices.ContainsFunc(subjects, func(s attestation.Subject) bool { return s.Digest.Match(of) })
}
