package transfer

import (
	"context"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
	"assay/trust/tuf"
)

// The codes of refusals (trust.Code).
const (
	CodePin       = "bundle.pin"       // the exporter's root is not the one that is trusted
	CodeSignature = "bundle.signature" // not signed by the exporter
	CodeExpired   = "bundle.expired"
	CodeSequence  = "bundle.sequence" // replayed, older, or one is missing before it
	CodeContent   = "bundle.content"  // the file is not what the manifest says
	CodeScope     = "bundle.scope"    // it says something about what its exporter has no say in
)

func refuse(code, format string, args ...any) error { return trust.Refuse(code, format, args...) }

// RootsSchema is the value of Roots.Schema.
const RootsSchema = "assay/tuf-roots/v1"

const (
	maxRoots      = 1024
	maxRootsBytes = 8 << 20
)

// Roots are all root.json of a site, byte for byte, the oldest first.
type Roots struct {
	Schema string   `json:"schema"`
	Roots  [][]byte `json:"roots"` // base64
}

// JSON writes the member.
func (r *Roots) JSON() ([]byte, error) {
	r.Schema = RootsSchema
	return strictjson.Canonical(r)
}

func parseRoots(b []byte) (*Roots, error) {
	var r Roots
	if err := strictjson.Unmarshal(b, &r, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxRootsBytes)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "TUF roots: %w", err)
	}
	if r.Schema != RootsSchema || len(r.Roots) == 0 || len(r.Roots) > maxRoots {
		return nil, fault.Newf(fault.Invalid, "TUF roots: schema %.60q with %d roots, want %s with 1 to %d", r.Schema, len(r.Roots), RootsSchema, maxRoots)
	}
	return &r, nil
}

// Pin is the root.json of an exporter that is trusted, by its digest: any of its
// roots will do, what comes after it is found in the file.
type Pin artifact.Digest

// Unpinned takes the first root in a file for granted: for looking into one, and
// never for acting upon it.
const Unpinned = Pin("unpinned")

// PinOf pins a root.json.
func PinOf(root []byte) Pin { return Pin(artifact.SHA256Of(root)) }

// Has says whether a pinned root is among them.
func (r *Roots) Has(p Pin) bool {
	return slices.ContainsFunc(r.Roots, func(b []byte) bool { return PinOf(b) == p })
}

// newest walks from the pinned root to the newest one.
func (r *Roots) newest(p Pin, now time.Time) ([]byte, error) {
	from := slices.IndexFunc(r.Roots, func(b []byte) bool { return PinOf(b) == p })
	if p == Unpinned {
		from = 0
	}
	if from < 0 {
		return nil, refuse(CodePin, "the exporter's TUF roots do not include the pinned one (%s): the file is of another site, or of an older state of it; expected root.json is what assay trust root wrote at the exporter", p)
	}
	st, err := tuf.CheckRoot(r.Roots[from], nil)
	if err == nil && !st.Complete {
		err = errors.New("it lacks signatures of its own keys")
	}
	if err != nil {
		return nil, refuse(CodePin, "the pinned TUF root: %w", err)
	}
	for i := from + 1; i < len(r.Roots); i++ {
		if st, err = tuf.CheckRoot(r.Roots[i], r.Roots[i-1]); err != nil {
			return nil, refuse(CodePin, "TUF root %d of the file: %w", i+1, err)
		}
		if !st.Complete {
			return nil, refuse(CodePin, "TUF root %d has %d of %d signatures of its keys and %d of %d of the root before it", st.Version, st.Signed, st.Threshold, st.OldSigned, st.OldThreshold)
		}
	}
	if !now.Before(st.Expires) {
		return nil, refuse(CodeExpired, "the exporter's newest TUF root ended on %s: make the next one there and export again", stamp(st.Expires))
	}
	return r.Roots[len(r.Roots)-1], nil
}

// Verified is a manifest that was proved to be its origin's.
type Verified struct {
	Manifest *Manifest
	Digest   artifact.Digest // of the signed manifest's statement: what the next file names as previous
	Bundle   []byte          // the signed manifest
	Root     []byte          // the exporter's newest root.json
	Roots    *Roots
	Trusted  *trust.Root // the exporter's trusted root
	Keys     tuf.RoleKeys
	SignedAt time.Time // trusted
	LogIndex int64
}

// skew is how far in the future a file may have been made.
const skew = 5 * time.Minute

// parseSigned reads the signed manifest without believing it.
func parseSigned(b []byte) (*attestation.Bundle, *Manifest, artifact.Digest, error) {
	bundle, err := attestation.ParseBundle(b, attestation.Limits{MaxBundle: maxSigned})
	if err != nil {
		return nil, nil, "", fault.Newf(fault.KindOf(err), "%s: %w", manifestName, err)
	}
	st, err := bundle.Statement()
	if err != nil {
		return nil, nil, "", fault.Newf(fault.KindOf(err), "%s: %w", manifestName, err)
	}
	if st.PredicateType != PredicateType {
		return nil, nil, "", fault.Newf(fault.Invalid, "%s: predicate type %.80q, want %s", manifestName, st.PredicateType, PredicateType)
	}
	m, err := ParseManifest(st.Predicate)
	if err != nil {
		return nil, nil, "", err
	}
	index, _ := m.Member(KindIndex)
	if len(st.Subject) != 1 || !st.Subject[0].Digest.Match(index.Digest.Set()) {
		return nil, nil, "", bad("the statement is not about index.json")
	}
	// Of the payload, since anyone can write the bundle around it anew.
	return bundle, m, artifact.SHA256Of(bundle.Envelope().Payload), nil
}

const maxSigned = 24 << 20

// Verify proves a signed manifest by what the file brings and the pin.
func Verify(ctx context.Context, signed, roots, trusted []byte, p Pin, now time.Time) (*Verified, error) {
	b, m, digest, err := parseSigned(signed)
	if err != nil {
		return nil, err
	}
	v := &Verified{Manifest: m, Digest: digest, Bundle: signed}
	if v.Roots, err = parseRoots(roots); err != nil {
		return nil, err
	}
	if v.Root, err = v.Roots.newest(p, now); err != nil {
		return nil, err
	}
	if v.Keys, err = tuf.ReadRoleKeys(v.Root); err != nil {
		return nil, err
	}
	matches, err := attestation.VerifyDSSE(b.Envelope(), v.Keys.Targets...)
	if err != nil || len(matches) == 0 {
		return nil, refuse(CodeSignature, "the manifest is not signed with the online key that the exporter's TUF root names: %w", err)
	}
	// The signature vouches for the trusted root; the trusted root then proves
	// that the signature is in the log.
	for i, have := range [][]byte{roots, trusted} {
		if d := artifact.SHA256Of(have); d != m.Members[i].Digest {
			return nil, refuse(CodeContent, "%s is %s in the file, the manifest says %s", m.Members[i].Kind, d, m.Members[i].Digest)
		}
	}
	if v.Trusted, err = trust.ParseTrustedRoot(trusted, trust.WithName(m.Origin)); err != nil {
		return nil, err
	}
	var keys []trust.Key
	for _, k := range v.Keys.Targets {
		keys = append(keys, trust.Key{Public: k})
	}
	proved, err := v.Trusted.VerifyBundle(ctx, b, trust.VerifyOptions{AnyArtifact: true, Keys: keys, Thresholds: &trust.Thresholds{TLog: 1, Time: 1}, Limits: attestation.Limits{MaxBundle: maxSigned}})
	if err != nil {
		return nil, refuse(CodeSignature, "the manifest's proofs: %w", err)
	}
	v.SignedAt, v.LogIndex = proved.TrustedTime, proved.LogIndex
	switch {
	case !now.Before(m.Expires):
		return nil, refuse(CodeExpired, "the bundle could be imported until %s: export again, with --full", stamp(m.Expires))
	case m.Created.After(now.Add(skew)):
		return nil, refuse(CodeExpired, "the bundle is of %s, which is in the future: set this machine's clock", stamp(m.Created))
	}
	return v, nil
}

// State is how far an importer has come with one exporter.
type State struct {
	Target   string
	Sequence int64 // of the last file that was imported; 0: none
	Digest   artifact.Digest
}

// Accepts says whether a file is the next one. Refusals name what is missing.
func (s State) Accepts(v *Verified) error {
	m := v.Manifest
	switch {
	case s.Sequence > 0 && s.Target != m.Target:
		return refuse(CodeSequence, "the bundle is for target %q, and what comes from %s here is for %q", m.Target, m.Origin, s.Target)
	case s.Sequence > 0 && m.Sequence == s.Sequence && v.Digest == s.Digest:
		return refuse(CodeSequence, "bundle %d of %s was imported already", m.Sequence, m.Origin)
	case m.Sequence <= s.Sequence:
		return refuse(CodeSequence, "bundle %d of %s is older than bundle %d, which was imported: somebody may be hiding what came since", m.Sequence, m.Origin, s.Sequence)
	case m.Full:
		return nil
	case m.Sequence == s.Sequence+1 && artifact.Digest(m.Previous) == s.Digest:
		return nil
	case m.Sequence == s.Sequence+1:
		return refuse(CodeSequence, "bundle %d of %s adds to a bundle %d that is not the one imported here (%s, want %s): export with --full", m.Sequence, m.Origin, s.Sequence, m.Previous, s.Digest)
	case s.Sequence == 0:
		return refuse(CodeSequence, "bundle %d of %s adds to bundles that were never imported here: begin with a full one (assay bundle export --full)", m.Sequence, m.Origin)
	case m.Sequence == s.Sequence+2:
		return refuse(CodeSequence, "bundle %d of %s comes after bundle %d, and the last one imported here is %d: import bundle %d first (assay bundle export --to %s --again %d writes it anew)", m.Sequence, m.Origin, s.Sequence+1, s.Sequence, s.Sequence+1, m.Target, s.Sequence+1)
	}
	return refuse(CodeSequence, "bundles %d to %d of %s are missing before bundle %d: import those first (assay bundle export --to %s --again N writes one anew), or a full one", s.Sequence+1, m.Sequence-1, m.Origin, m.Sequence, m.Target)
}
