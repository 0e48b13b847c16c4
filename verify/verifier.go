package verify

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/trust"
)

// VerifierOptions are what bundles are verified with.
type VerifierOptions struct {
	Roots []*trust.Root // tried in this order; each bundle is verified under one of them alone
	Keys  []trust.Key   // public keys that may sign without a certificate
	// KeyThresholds is what key-signed bundles must carry; nil: the root's own.
	KeyThresholds *trust.Thresholds
	// Checks judge what a bundle proved, under every root and key, in order; the
	// first error refuses the bundle.
	Checks []trust.Check
	Limits attestation.Limits // caps before any cryptography; zero: defaults
	Clock  clock.Clock        // nil: clock.System
}

// Verifier verifies bundles under all roots and keys of a site. It is
// immutable and safe for concurrent use; a change of trust makes a new one.
type Verifier struct {
	o     VerifierOptions
	names []string
	bare  *trust.Root // a root that vouches for nothing, for keys alone
}

// NewVerifier makes a verifier. Neither a root nor a key is fault.Invalid.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	if len(o.Roots)+len(o.Keys) == 0 {
		return nil, fault.Newf(fault.Invalid, "verifier: want at least one trusted root or key")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	v := &Verifier{o: o}
	for _, r := range o.Roots {
		v.names = append(v.names, r.Name())
	}
	slices.Sort(v.names)
	if len(o.Keys) > 0 && len(o.Roots) == 0 {
		bare, err := trust.NewRoot(trust.Parts{}, trust.WithName("keys"), trust.WithThresholds(trust.Thresholds{}))
		if err != nil {
			return nil, err
		}
		v.bare = bare
		v.names = []string{"keys"}
	}
	return v, nil
}

// RootNames lists the names of the roots, sorted.
func (v *Verifier) RootNames() []string { return slices.Clone(v.names) }

// codeOwnDecision marks a bundle by the own decision key.
const codeOwnDecision = "decision.own"

// refuse is evidence that does not count, with a code that every door tells.
func refuse(code, format string, args ...any) error { return trust.Refuse(code, format, args...) }

// codeOf is the code of evidence that was refused.
func codeOf(err error) string { return evidence.Code(err) }

// Verify says what a bundle proves, whatever it is about. A refusal is
// fault.Unverified with a trust.Code. It is an evidence.Verifier.
func (v *Verifier) Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
	return v.verify(ctx, b, nil)
}

// verify tries the roots. open, where not nil, gives the artifact itself, which
// only a pure Ed25519 signature needs.
func (v *Verifier) verify(ctx context.Context, b *attestation.Bundle, open func() (io.ReadCloser, error)) (*trust.Verified, error) {
	o := trust.VerifyOptions{AnyArtifact: open == nil, Limits: v.o.Limits, Now: v.o.Clock, Checks: v.o.Checks}
	roots := v.o.Roots
	if _, key := b.KeyHint(); key {
		if len(v.o.Keys) == 0 {
			return nil, refuse(trust.CodeKeyMissing, "signed with a key, and none is known here: give it with --key, or to a server in trust.keys of its configuration")
		}
		o.Keys, o.Thresholds = v.o.Keys, v.o.KeyThresholds
		if v.bare != nil {
			roots = []*trust.Root{v.bare}
		}
	} else {
		o.AnyIdentity = true
	}
	first := refuse(trust.CodeCertUnknown, "signed with a certificate, and no trusted root is configured")
	for i, root := range roots {
		got, err := verifyUnder(ctx, root, b, o, open)
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, fault.Unverified) {
			return nil, err
		}
		if i == 0 || saysLittle(first) {
			first = err
		}
	}
	return nil, first
}

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
	for _, k := range v.o.Keys {
		if fp, err := trust.KeyFingerprint(k.Public); err == nil && fp == fingerprint {
			return k.Window.End
		}
	}
	return time.Time{}
}

// named says whether one of the subjects is the artifact.
func named(subjects []attestation.Subject, of artifact.DigestSet) bool {
	return slices.ContainsFunc(subjects, func(s attestation.Subject) bool { return s.Digest.Match(of) })
}
