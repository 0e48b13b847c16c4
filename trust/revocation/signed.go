package revocation

import (
	"context"
	"crypto"
	"crypto/sha256"
	"slices"
	"time"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/go-json-experiment/json/jsontext"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// MediaType is that of a Signed.
const MediaType = "application/vnd.assay.revocations.signed.v1+json"

// The codes of refusals (trust.Code).
const (
	CodeRevoked   = "revoked"               // an entry names what made the evidence
	CodeMalformed = "revocations.malformed" // what is given is no list
	CodeSigner    = "revocations.signer"    // signed by nobody who may
	CodeUnlogged  = "revocations.unlogged"  // no log of the root holds the signature
	CodeRollback  = "revocations.rollback"  // an older list than one that was seen
	CodeNarrowed  = "revocations.narrowed"  // entries were taken back without the root
	CodeExpired   = "revocations.stale"     // past its validity
)

func refuse(code, format string, args ...any) error { return trust.Refuse(code, format, args...) }

// Authority is who may sign lists of a domain.
type Authority struct {
	Online        []crypto.PublicKey // may add entries and renew
	Root          []crypto.PublicKey // RootThreshold distinct ones of them may do anything
	RootThreshold int
}

// Proof is what vouches for one signature of the envelope.
type Proof struct {
	Signature int            `json:"signature"` // index into the envelope's signatures
	Entry     jsontext.Value `json:"entry"`     // TransparencyLogEntry of a hashedrekord over the envelope's PAE
	Timestamp []byte         `json:"timestamp,omitempty"`
}

// Signed is a list with its signatures and their log entries. Make one with
// [Open] or [Seal].
type Signed struct {
	List   *List
	Root   bool // signed by the threshold of root keys
	LogIDs []string
	// Base is the last list that the root signed, where this one is not it: a
	// client that never saw that one learns from it what was taken back. nil: none.
	Base    *Signed
	raw     []byte
	signer  []string // fingerprints of the authority's keys that signed
	parties []string // the authority's keys and the logs that hold it: what a site keeps some of when others are rotated
	entries string   // digest of the entries
	index   int64    // of the first signature in its log; -1: none
}

type wireSigned struct {
	MediaType string         `json:"media_type"`
	Envelope  jsontext.Value `json:"envelope"`
	Proofs    []Proof        `json:"proofs"`
	Base      jsontext.Value `json:"base,omitempty"`
}

// LogIndex is where the log holds the first signature; nil where that is not
// known.
func (s *Signed) LogIndex() *int64 {
	if s.index < 0 {
		return nil
	}
	i := s.index
	return &i
}

// Entries is [List.EntriesDigest].
func (s *Signed) Entries() string { return s.entries }

// Bytes is the document as it was read or made.
func (s *Signed) Bytes() []byte { return s.raw }

// SignedBy says whether the key with this fingerprint is one that signed.
func (s *Signed) SignedBy(fingerprint string) bool {
	for _, f := range s.signer {
		if f == fingerprint {
			return true
		}
	}
	return false
}

// Prover logs a signature by a key over a digest (SHA-256 of the PAE), and may
// have it timestamped.
type Prover func(ctx context.Context, digest, signature []byte, key crypto.PublicKey) (*rekorpb.TransparencyLogEntry, []byte, error)

// Seal signs a list with each signer, has the signatures logged, and gives the
// document. base, where not nil, is the list in force, whose word by the root is
// carried on. Who may sign is not asked: [Open] does.
func Seal(ctx context.Context, l *List, base *Signed, prove Prover, signers ...crypto.Signer) ([]byte, error) {
	body, err := l.Bytes()
	if err != nil {
		return nil, err
	}
	env := &attestation.Envelope{PayloadType: PayloadType, Payload: body}
	keys := []crypto.PublicKey{}
	for _, s := range signers {
		one, err := attestation.SignDSSE(ctx, s, PayloadType, body)
		if err != nil {
			return nil, err
		}
		env.Signatures, keys = append(env.Signatures, one.Signatures...), append(keys, s.Public())
	}
	return seal(ctx, env, base.rootSigned(), prove, keys...)
}

// Prove has the signatures of an envelope that was signed elsewhere logged, and
// gives the document. Signatures by none of the keys are left out.
func Prove(ctx context.Context, env *attestation.Envelope, prove Prover, keys ...crypto.PublicKey) ([]byte, error) {
	return seal(ctx, env, nil, prove, keys...)
}

// rootSigned is the last list that the root signed, without one of its own.
func (s *Signed) rootSigned() *Signed {
	switch {
	case s == nil:
		return nil
	case s.Root && s.Base == nil:
		return s
	}
	return s.Base
}

func seal(ctx context.Context, env *attestation.Envelope, base *Signed, prove Prover, keys ...crypto.PublicKey) ([]byte, error) {
	matches, err := attestation.VerifyDSSE(env, keys...)
	if err != nil {
		return nil, err
	}
	pae := sha256.Sum256(env.PAE())
	w := wireSigned{MediaType: MediaType}
	if base != nil {
		w.Base = base.raw
	}
	kept := &attestation.Envelope{PayloadType: env.PayloadType, Payload: env.Payload}
	for i, m := range matches {
		sig := env.Signatures[m.Signature]
		kept.Signatures = append(kept.Signatures, sig)
		entry, stamp, err := prove(ctx, pae[:], sig.Sig, keys[m.Key])
		if err != nil {
			return nil, err
		}
		b, err := protojson.Marshal(entry)
		if err != nil {
			return nil, err
		}
		w.Proofs = append(w.Proofs, Proof{Signature: i, Entry: b, Timestamp: stamp})
	}
	if w.Envelope, err = kept.MarshalJSON(); err != nil {
		return nil, err
	}
	return strictjson.Canonical(w)
}

// maxSigned bounds a document: two lists in base64 with 16 proofs each.
const maxSigned = 24 << 20

// Open reads a document and verifies that the authority signed it, and that the
// root's logs hold the signatures. Its age and its version are not looked at:
// see [Follow] and [State]. Errors are fault.Unverified with a code.
func Open(ctx context.Context, b []byte, a Authority, root *trust.Root) (*Signed, error) {
	var w wireSigned
	if err := strictjson.Unmarshal(b, &w, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxSigned)); err != nil {
		return nil, refuse(CodeMalformed, "signed revocation list: %w", err)
	}
	if w.MediaType != MediaType {
		return nil, refuse(CodeMalformed, "signed revocation list: media type %.80q, want %s; assay revocations export writes one", w.MediaType, MediaType)
	}
	lim := attestation.DefaultLimits()
	env, err := attestation.ParseEnvelope(w.Envelope, lim)
	if err != nil {
		return nil, refuse(CodeMalformed, "signed revocation list: %w", err)
	}
	if env.PayloadType != PayloadType {
		return nil, refuse(CodeMalformed, "signed revocation list: payload type %.80q, want %s", env.PayloadType, PayloadType)
	}
	s := &Signed{raw: b, index: -1}
	if err := s.openSigners(ctx, env, w.Proofs, a, root); err != nil {
		return nil, err
	}
	if s.List, err = ParseList(env.Payload); err != nil {
		return nil, refuse(CodeMalformed, "%w", err)
	}
	s.entries = s.List.EntriesDigest()
	if len(w.Base) > 0 {
		return s, s.openBase(ctx, w.Base, a, root)
	}
	return s, nil
}

// openBase reads the root's list that this one builds upon.
func (s *Signed) openBase(ctx context.Context, b []byte, a Authority, root *trust.Root) (err error) {
	if s.Base, err = Open(ctx, b, a, root); err != nil {
		return err
	}
	switch {
	case !s.Base.Root || s.Base.Base != nil:
		return refuse(CodeSigner, "revocation list %d builds upon one that the root did not sign", s.List.Version)
	case s.Base.List.Domain != s.List.Domain || s.Base.List.Version >= s.List.Version:
		return refuse(CodeMalformed, "revocation list %d of %.80q builds upon list %d of %.80q", s.List.Version, s.List.Domain, s.Base.List.Version, s.Base.List.Domain)
	}
	return s.List.Extends(s.Base.List)
}

// openSigners finds which of the authority's keys signed and are logged.
func (s *Signed) openSigners(ctx context.Context, env *attestation.Envelope, proofs []Proof, a Authority, root *trust.Root) error {
	keys := append(append([]crypto.PublicKey{}, a.Online...), a.Root...)
	matches, err := attestation.VerifyDSSE(env, keys...)
	if err != nil {
		return refuse(CodeSigner, "revocation list: signed by none of the keys that may (%d online, %d of the offline root): %w", len(a.Online), len(a.Root), err)
	}
	var unlogged error
	online, offline := 0, map[string]bool{}
	for _, m := range matches {
		v, err := logged(ctx, env, m.Signature, keys[m.Key], proofs, root)
		if err != nil {
			unlogged = err
			continue
		}
		fp, err := trust.KeyFingerprint(keys[m.Key])
		if err != nil {
			return err
		}
		s.LogIDs, s.signer = append(s.LogIDs, v.LogID), append(s.signer, fp)
		if s.index < 0 {
			s.index = v.LogIndex
		}
		if contains(a.Online, fp) {
			online++
		}
		if contains(a.Root, fp) { // one key may have both roles
			offline[fp] = true
		}
	}
	for _, k := range keys {
		fp, err := trust.KeyFingerprint(k)
		if err != nil {
			return err
		}
		s.parties = append(s.parties, fp)
	}
	for _, id := range s.LogIDs {
		s.parties = append(s.parties, "log:"+id)
	}
	slices.Sort(s.parties)
	s.parties = slices.Compact(s.parties)
	s.Root = a.RootThreshold > 0 && len(offline) >= a.RootThreshold
	switch {
	case s.Root || online > 0:
		return nil
	case unlogged != nil:
		return refuse(CodeUnlogged, "revocation list: %w", unlogged)
	}
	return refuse(CodeSigner, "revocation list: signed by %d keys of the offline root, want %d, and not by the online key", len(offline), a.RootThreshold)
}

// SignedByRoot says whether a threshold of the authority's root keys signed an
// envelope. The error is fault.Unverified and says how many are missing.
func SignedByRoot(env *attestation.Envelope, a Authority) error {
	n := 0
	if m, err := attestation.VerifyDSSE(env, a.Root...); err == nil {
		n = len(m)
	}
	if a.RootThreshold < 1 || n < a.RootThreshold {
		return refuse(CodeSigner, "revocation list: signed by %d keys of the offline root, want %d", n, a.RootThreshold)
	}
	return nil
}

func contains(keys []crypto.PublicKey, fingerprint string) bool {
	for _, k := range keys {
		if fp, err := trust.KeyFingerprint(k); err == nil && fp == fingerprint {
			return true
		}
	}
	return false
}

// logged verifies the proofs of one signature: a log of the root holds it.
func logged(ctx context.Context, env *attestation.Envelope, sig int, key crypto.PublicKey, proofs []Proof, root *trust.Root) (v *trust.Verified, err error) {
	if len(proofs) > len(env.Signatures) {
		return nil, fault.Newf(fault.Unverified, "%d proofs of %d signatures", len(proofs), len(env.Signatures))
	}
	digest := artifact.SHA256Of(env.PAE())
	err = fault.Newf(fault.Unverified, "signature %d has no log entry", sig)
	for _, p := range proofs {
		if p.Signature != sig {
			continue
		}
		entry := &rekorpb.TransparencyLogEntry{}
		if err = protojson.Unmarshal(p.Entry, entry); err != nil {
			continue
		}
		m := attestation.Material{KeyHint: "revocations", LogEntries: []*rekorpb.TransparencyLogEntry{entry}}
		if len(p.Timestamp) > 0 {
			m.Timestamps = [][]byte{p.Timestamp}
		}
		var b *attestation.Bundle
		if b, err = attestation.NewMessageBundle(m, digest, env.Signatures[sig].Sig); err != nil {
			continue
		}
		v, err = root.VerifyBundle(ctx, b, trust.VerifyOptions{
			Artifact: digest.Set(), Keys: []trust.Key{{Public: key}}, Thresholds: &trust.Thresholds{TLog: 1},
		})
		if err == nil {
			return v, nil
		}
	}
	return nil, err
}

// Follow says whether next may take the place of before, the newest list of its
// domain that was seen here; nil: none was. An older version is refused
// (rollback), and so is a list that revokes less and that the root did not sign.
// The same version again must say the same.
func Follow(before, next *Signed) error {
	if before == nil {
		return nil
	}
	old, l := before.List, next.List
	if l.Domain != old.Domain {
		return refuse(CodeSigner, "revocation list is of domain %.80q, want %q", l.Domain, old.Domain)
	}
	switch {
	case l.Version < old.Version:
		return refuse(CodeRollback, "revocation list %d is older than list %d, which was seen here: somebody may be hiding revocations; get the newest", l.Version, old.Version)
	case l.Version == old.Version && l.EntriesDigest() != old.EntriesDigest():
		return refuse(CodeRollback, "two revocation lists of version %d differ: tell the site's operators, one of them was forged with its key", l.Version)
	case l.Version == old.Version, next.Root:
		return nil
	case next.Base != nil && next.Base.List.Version > old.Version:
		return nil // it extends the root's word, which is newer than what was seen
	}
	return l.Extends(old)
}

// Status says whether a list can be relied upon.
type Status string

// The statuses. They stand in facts and in answers of the API.
const (
	Current       Status = "current"
	Stale         Status = "stale"          // past its validity: evidence is refused as a whole
	NotConfigured Status = "not_configured" // the root has no list
)

// skew is how far in the future a list may have been signed: the clocks of two
// machines differ.
const skew = 5 * time.Minute

// Status is that of the list at now.
func (s *Signed) Status(now time.Time) Status {
	if s == nil {
		return NotConfigured
	}
	if !now.Before(s.List.Expires.Time) || now.Add(skew).Before(s.List.Issued.Time) {
		return Stale
	}
	return Current
}
