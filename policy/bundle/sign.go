package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"assay/attestation"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/verify"
)

// MaxSignatures bounds the signatures of a bundle, in bytes.
const MaxSignatures = 1 << 20

// Claim is what a signature says of a bundle besides its content.
type Claim struct {
	Name    string `json:"name"`
	Version int64  `json:"version"`
}

// Validate says whether a bundle can have the name and version.
func (c Claim) Validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.Version < 1 || c.Version > 1<<53 {
		return fault.Newf(fault.Invalid, "bundle %s: version %d: want a number from 1, greater than that of any version before; metadata.assay.version in %s says it, or --version", c.Name, c.Version, ManifestFile)
	}
	return nil
}

// Claim is the bundle's name and version: what was asked for, else what the
// manifest says, else what the first signature says. Where several say it, they
// must agree.
func (b *Bundle) Claim(asked Claim, signatures []byte) (Claim, error) {
	c := Claim{b.about.Name, b.about.Version}
	if c.Name != "" && asked.Name != "" && c.Name != asked.Name || c.Version != 0 && asked.Version != 0 && c.Version != asked.Version {
		return c, fault.Newf(fault.Invalid, "the bundle says that it is %s, version %d; asked for was %s, version %d", c.Name, c.Version, asked.Name, asked.Version)
	}
	said := said(signatures)
	if c.Name == "" {
		if c.Name = asked.Name; c.Name == "" {
			c.Name = said.Name
		}
	}
	if c.Version == 0 {
		if c.Version = asked.Version; c.Version == 0 {
			c.Version = said.Version
		}
	}
	return c, c.Validate()
}

// said is what the first signature says, unverified: [Verify] holds it to that.
func said(signatures []byte) (c Claim) {
	items, err := verify.ParseEvidence(signatures, "signature", attestation.Limits{})
	if len(signatures) == 0 || err != nil || len(items) == 0 {
		return c
	}
	b, err := attestation.ParseBundle(items[0].Bundle, attestation.DefaultLimits())
	if err != nil || b.Proto().GetDsseEnvelope() == nil {
		return c
	}
	s, err := attestation.ParseStatement(b.Proto().GetDsseEnvelope().GetPayload(), attestation.DefaultLimits())
	if err == nil && s.PredicateType == attestation.PredicatePolicyBundle {
		_ = strictjson.Unmarshal(s.Predicate, &c)
	}
	return c
}

// Statement is what a signer of the bundle states: this content has that name
// and version.
func (b *Bundle) Statement(c Claim) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"_type":         attestation.StatementV1,
		"subject":       []any{map[string]any{"name": "policy-bundle/" + c.Name, "digest": b.Digest().Set()}},
		"predicateType": attestation.PredicatePolicyBundle,
		"predicate":     c,
	})
}

// Signers say who may sign bundles.
type Signers struct {
	Identities []policy.IdentityMatch
	Threshold  int // distinct signers; 0: 1
}

// Signed is what signatures proved.
type Signed struct {
	Signers []string `json:"signers"` // who signed, and counts
	Logged  bool     `json:"logged"`  // each signature that counts stands in a log
}

// Verify holds a bundle to its signatures: as many of the signers as are wanted
// state that this very content is the bundle of this name and version. The error
// of a bundle that nobody trusted signed is fault.Unverified.
func Verify(ctx context.Context, v *verify.Verifier, s Signers, b *Bundle, c Claim, signatures []byte, now clock.Clock) (*Signed, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if len(s.Identities) == 0 {
		return nil, fault.Newf(fault.Unverified, "bundle %s: nobody is trusted to sign policies: name signers in trust.policies.signers of the configuration, or with --signer-identity or --key", c.Name)
	}
	if len(bytes.TrimSpace(signatures)) == 0 {
		return nil, fault.Newf(fault.Unverified, "bundle %s, version %d, is not signed: assay policy bundle sign", c.Name, c.Version)
	}
	if len(signatures) > MaxSignatures {
		return nil, fault.Newf(fault.TooLarge, "bundle %s: %d bytes of signatures, at most %d", c.Name, len(signatures), MaxSignatures)
	}
	items, err := verify.ParseEvidence(signatures, "signature", attestation.Limits{})
	if err != nil {
		return nil, fmt.Errorf("bundle %s: signatures: %w", c.Name, err)
	}
	want := max(1, s.Threshold)
	p, err := policy.Compile(&policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.KindPolicy, Metadata: policy.Metadata{Name: "policy-bundle"},
		Spec: policy.Spec{Requirements: &policy.Requirements{Attestations: []policy.AttestationRequirement{{
			Name: "policy-bundle", PredicateType: attestation.PredicatePolicyBundle, Threshold: &want, Identities: s.Identities,
			Fields: []policy.FieldMatch{{Path: "name", Equals: &policy.Value{JSON: c.Name}}, {Path: "version", Equals: &policy.Value{JSON: c.Version}}},
		}}}},
	})
	if err != nil {
		return nil, fmt.Errorf("signers of policies: %w", err)
	}
	r, err := verify.Offline(ctx, verify.Target{Digest: b.Digest(), Kind: policy.File, Name: "bundle " + c.Name}, items, verify.OfflineOptions{Verifier: v, Policy: p, Clock: now})
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", c.Name, err)
	}
	if err := r.Err(); err != nil {
		return nil, fault.Newf(fault.Unverified, "bundle %s, version %d: %s", c.Name, c.Version, strings.TrimPrefix(err.Error(), "assay: "))
	}
	out := &Signed{Signers: []string{}, Logged: true}
	for _, e := range r.Evidence {
		if !counts(r.Checks, e.ID) || slices.Contains(out.Signers, e.Signer) {
			continue
		}
		out.Signers = append(out.Signers, e.Signer)
		out.Logged = out.Logged && e.LogIndex != nil
	}
	return out, nil
}

func counts(checks []policy.Check, id string) bool {
	return slices.ContainsFunc(checks, func(c policy.Check) bool { return slices.Contains(c.Evidence, id) })
}

// Joined appends a signature, one to a line.
func Joined(signatures, one []byte) ([]byte, error) {
	var out bytes.Buffer
	for _, part := range [][]byte{signatures, one} {
		if len(bytes.TrimSpace(part)) == 0 {
			continue
		}
		if one, err := oneLine(part); err == nil {
			part = one // one document, maybe on many lines
		}
		for line := range bytes.Lines(part) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				out.Write(line)
				out.WriteByte('\n')
			}
		}
	}
	if out.Len() > MaxSignatures {
		return nil, fault.Newf(fault.TooLarge, "signatures of %d bytes: at most %d", out.Len(), MaxSignatures)
	}
	return out.Bytes(), nil
}
