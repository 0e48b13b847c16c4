package trust

import (
	"context"
	"crypto"
	"crypto/x509"
	"io"
	"slices"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/clock"
)

// Scheme says how the artifact is bound to the signature.
type Scheme string

// The schemes.
const (
	SchemeMessage Scheme = "message" // the signature is over the artifact itself
	SchemeDSSE    Scheme = "dsse"    // it is over a statement whose subjects name the artifact
	// SchemeNotation is a Notary Project signature (JWS or COSE) over a
	// descriptor that names the artifact; see package trust/foreign.
	SchemeNotation Scheme = "notation"
)

// Thresholds say how many distinct parties must vouch. A certificate always
// needs one trusted time, whatever Time says; SCT is meant for certificates
// only.
type Thresholds struct {
	SCT  int // CT logs whose SCT the certificate carries
	TLog int // transparency logs that hold the signature
	// Witness is how many distinct known witnesses ([WithWitnesses]) must have
	// cosigned the checkpoint of a log's entry for the log to count.
	Witness int
	TSA     int // timestamp authorities that stamped it
	Time    int // sources of trusted time in all: timestamp authorities and signed entry timestamps
}

// DefaultThresholds are one SCT, one log and one source of time.
func DefaultThresholds() Thresholds { return Thresholds{SCT: 1, TLog: 1, Time: 1} }

// Key is a public key that may have signed.
type Key struct {
	Public crypto.PublicKey
	// ID, when set, makes only signatures count that carry this key ID. The ID
	// itself is anybody's to write: it narrows what is tried and proves nothing.
	ID     string
	Window Window // when it may have signed; the zero Window means at any time
}

// VerifyOptions say what a bundle has to prove. What is not said is not
// assumed: an artifact and a signer must be named, or waived in so many words.
type VerifyOptions struct {
	// Artifact holds the digests of what the bundle must be about; give every
	// strong digest that is known. ArtifactReader is read to its end instead and
	// hashed with the algorithms that the bundle uses.
	Artifact       artifact.DigestSet
	ArtifactReader io.Reader
	// AnyArtifact accepts whatever the bundle is about: for ingest, which files
	// it under its subjects.
	AnyArtifact bool

	// Identity lists who may have signed with a certificate; one must match.
	// AnyIdentity accepts anyone whom the root's authorities certified: for
	// ingest and for policies that judge the identity themselves.
	Identity    []IdentityMatch
	AnyIdentity bool
	// Keys lists the keys that may have signed without a certificate.
	Keys []Key

	// Thresholds overrides the root's; nil leaves them.
	Thresholds *Thresholds
	// Limits caps the statement; the zero value means attestation's defaults.
	Limits attestation.Limits
	// Now is asked only when a key-signed bundle carries no trusted time and the
	// thresholds allow that. nil is the system's clock.
	Now clock.Clock
	// Checks run after the cryptography, in order, with the whole result at
	// hand; the first error refuses the bundle.
	Checks []Check
}

// Check judges what was proved, for example against a revocation list at
// v.TrustedTime. Its error should be made by this package or by fault.
type Check func(ctx context.Context, v *Verified) error

// TimeProof is one source of trusted time.
type TimeProof struct {
	Time   time.Time
	Source string // "tsa" or "tlog"
	Party  string // URL of the timestamp authority or log
}

// LogProof is one log entry that binds digest, signature and key.
type LogProof struct {
	LogID string // hex
	URL   string // as the root names it
	// Index is the entry's place: in the whole log when the log signed that
	// number, else in the tree of the inclusion proof.
	Index    int64
	Kind     string // "hashedrekord/0.0.2", …
	TreeSize uint64 // of the checkpoint; 0 when only a promise was given
	// Witnesses are the known witnesses that cosigned the checkpoint, each once.
	Witnesses []string
}

// Verified is what a bundle proved. Everything in it was signed by the party
// that it is about, or by the log or authority named beside it.
type Verified struct {
	Root           string            // name of the trust domain
	Scheme         Scheme            //
	Identity       Identity          // of the certificate; zero when a key signed
	Certificate    *x509.Certificate // nil when a key signed
	KeyFingerprint string            // of the signing key: "sha256:" + hex of its SubjectPublicKeyInfo
	Signature      []byte
	Signers        []string // of VerifyEnvelope: fingerprints of all keys that signed, each once

	// Of SchemeDSSE.
	PayloadType string
	Payload     []byte
	Statement   *attestation.Statement
	// PayloadDigest is sha256 of the payload (SchemeDSSE) or the artifact's
	// digest (SchemeMessage).
	PayloadDigest artifact.Digest
	// Subjects is what the bundle is about.
	Subjects []attestation.Subject

	// TrustedTime is when the signature existed at the latest, by the smallest
	// time that as many distinct sources attest as the threshold asks for; zero
	// when a key-signed bundle was accepted without one.
	TrustedTime time.Time
	TimeSource  string      // "tsa", "tlog" or ""
	Times       []TimeProof // all, ascending
	Logs        []LogProof  // distinct logs, in the bundle's order
	LogID       string      // of Logs[0]; "" without a log
	LogIndex    int64       // of Logs[0]; -1 without a log
	SCTs        int         // distinct CT logs that promised the certificate
	// Expires is when the signature ends to count by its own word, or by its
	// certificate's where nothing dates it; zero: not by itself.
	Expires time.Time
}

// VerifyBundle verifies a Sigstore bundle under this root, offline (Sigstore
// client specification; package documentation says where it is stricter).
// A refusal is fault.Unverified with a [Code]; options that contradict
// themselves are fault.Invalid.
func (r *Root) VerifyBundle(ctx context.Context, b *attestation.Bundle, o VerifyOptions) (*Verified, error) {
	if b == nil {
		return nil, refuse(CodeBundleMalformed, "bundle: none given")
	}
	return r.verifyProto(ctx, b.Proto(), b.Certificate(), o)
}

func (r *Root) verifyProto(ctx context.Context, pb *bundlepb.Bundle, leaf *x509.Certificate, o VerifyOptions) (*Verified, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	m, err := readMaterial(pb, leaf)
	if err != nil {
		return nil, err
	}
	if m.leaf != nil {
		if len(o.Identity) == 0 && !o.AnyIdentity {
			return nil, refuse(CodeKeyUnexpected, "bundle is signed with a certificate, and only a key was given; name the identity that may have signed")
		}
		return r.verifyWith(ctx, m, o, Key{Public: m.leaf.PublicKey})
	}
	if len(o.Keys) == 0 {
		return nil, refuse(CodeKeyMissing, "bundle is signed with a key and carries no certificate; give the public key (hint %.80q)", m.hint)
	}
	var best error
	for _, k := range o.Keys {
		if k.ID != "" && k.ID != m.hint {
			best = nearest(best, refuse(CodeKeyMissing, "bundle is signed with key %.80q, want %q", m.hint, k.ID))
			continue
		}
		v, err := r.verifyWith(ctx, m, o, k)
		if err == nil {
			return v, nil
		}
		best = nearest(best, err)
	}
	return nil, best
}

// nearest keeps the error that came further.
func nearest(a, b error) error {
	if a == nil || progress(Code(b)) > progress(Code(a)) {
		return b
	}
	return a
}

func (o *VerifyOptions) validate() error {
	n := 0
	for _, set := range []bool{len(o.Artifact) > 0, o.ArtifactReader != nil, o.AnyArtifact} {
		if set {
			n++
		}
	}
	if n != 1 {
		return invalidOption("want exactly one of Artifact, ArtifactReader and AnyArtifact")
	}
	if len(o.Artifact) > 0 && len(o.Artifact.Strong()) == 0 {
		return invalidOption("Artifact has no sha256, sha384 or sha512 digest")
	}
	if len(o.Identity) > 0 && o.AnyIdentity {
		return invalidOption("Identity and AnyIdentity exclude each other")
	}
	if len(o.Identity) == 0 && !o.AnyIdentity && len(o.Keys) == 0 {
		return invalidOption("want Identity, AnyIdentity or Keys: who may have signed")
	}
	for _, m := range o.Identity {
		if _, err := m.Compile(); err != nil {
			return err
		}
	}
	return nil
}

// verifyWith runs the steps under one key.
func (r *Root) verifyWith(ctx context.Context, m *material, o VerifyOptions, k Key) (*Verified, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	want := r.thresholds
	if o.Thresholds != nil {
		want = *o.Thresholds
	}
	c, err := m.content(k.Public)
	if err != nil {
		return nil, err
	}
	v := &Verified{
		Root: r.name, Scheme: SchemeDSSE, Certificate: m.leaf, KeyFingerprint: c.key.fingerprint(), Signature: c.signature,
		PayloadType: c.payloadType, Payload: c.payload, LogIndex: -1,
	}
	if c.message {
		v.Scheme = SchemeMessage
	}
	if err := r.refuseRoots(m); err != nil {
		return nil, err
	}
	var tsaErr error
	if tsaErr, err = r.proveTime(v, m, c, want, o); err != nil {
		return nil, err
	}
	if err := r.chooseTime(v, want, tsaErr, m.leaf != nil); err != nil {
		return nil, err
	}
	if err := r.proveSigner(v, m, c, k, want, o); err != nil {
		return nil, err
	}
	if err := r.facts.proveArtifact(v, c, o); err != nil {
		return nil, err
	}
	if m.leaf != nil && len(o.Identity) > 0 {
		if err := matchAny(v.Identity, o.Identity); err != nil {
			return nil, err
		}
	}
	return finish(ctx, v, o.Checks)
}

// proveTime verifies log entries and timestamps and fills Logs and Times.
// tsaErr is why a timestamp was not counted.
func (r *Root) proveTime(v *Verified, m *material, c *content, want Thresholds, o VerifyOptions) (tsaErr, err error) {
	proofs, tsaErr := r.verifyTimestamps(m.timestamps, c.signature)
	for _, p := range proofs {
		v.Times = append(v.Times, TimeProof{p.at, "tsa", p.uri})
	}
	if len(proofs) < want.TSA {
		return tsaErr, orElse(tsaErr, refuse(CodeTSAMissing, "bundle has valid timestamps of %d distinct authorities, want %d", len(proofs), want.TSA))
	}
	stamps := slices.Clone(v.Times)
	if len(stamps) == 0 && m.leaf == nil {
		// Nothing dates an entry of a key-signed bundle but its log's promise; the
		// log's key must then be good today.
		stamps = []TimeProof{{Time: now(o.Now)}}
	}
	parties := map[string]bool{}
	var skipped error
	for _, e := range m.entries {
		p, err := r.verifyEntry(e, c, stamps)
		if err != nil {
			if code := Code(err); code == CodeTLogUnknown || code == CodeTLogOutside {
				skipped = nearest(skipped, err)
				continue
			}
			return tsaErr, err
		}
		if n := len(p.proof.Witnesses); n < want.Witness {
			skipped = nearest(skipped, refuse(CodeTLogWitness, "the checkpoint of log %s has cosignatures of %d distinct known witnesses, want %d; sign anew once the log's witnesses answer, or name more of them", p.log.url, n, want.Witness))
			continue
		}
		if parties[p.log.party()] || parties[p.log.fingerprint()] {
			continue // one log, or one key, counts once
		}
		parties[p.log.party()], parties[p.log.fingerprint()] = true, true
		v.Logs = append(v.Logs, p.proof)
		if !p.at.IsZero() {
			v.Times = append(v.Times, TimeProof{p.at, "tlog", p.log.url})
		}
	}
	if len(v.Logs) < want.TLog {
		return tsaErr, orElse(skipped, refuse(CodeTLogMissing, "bundle has entries of %d distinct known logs, want %d; sign with a transparency log, or lower the threshold for this key on purpose", len(v.Logs), want.TLog))
	}
	if len(v.Logs) > 0 {
		v.LogID, v.LogIndex = v.Logs[0].LogID, v.Logs[0].Index
	}
	return tsaErr, nil
}

func orElse(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// chooseTime applies the threshold of time and picks TrustedTime. With k
// sources asked for, the k-th smallest time is the earliest that k distinct
// parties vouch for; one of them alone cannot move it back.
func (r *Root) chooseTime(v *Verified, want Thresholds, tsaErr error, cert bool) error {
	slices.SortStableFunc(v.Times, func(a, b TimeProof) int { return a.Time.Compare(b.Time) })
	need := want.Time
	if cert {
		need = max(need, 1) // a short-lived certificate means nothing without a time
	}
	if len(v.Times) < need {
		return orElse(tsaErr, refuse(CodeTimeMissing, "bundle proves %d distinct trusted times, want %d: neither a timestamp nor a log's signed entry timestamp; sign with a timestamp authority", len(v.Times), need))
	}
	if len(v.Times) > 0 {
		p := v.Times[max(need, 1)-1]
		v.TrustedTime, v.TimeSource = p.Time, p.Source
	}
	return nil
}

// proveSigner checks the certificate at every trusted time, its SCTs, the
// key's window, and the signature itself.
func (r *Root) proveSigner(v *Verified, m *material, c *content, k Key, want Thresholds, o VerifyOptions) error {
	if m.leaf == nil {
		times := v.Times
		if len(times) == 0 {
			times = []TimeProof{{Time: now(o.Now)}}
		}
		for _, t := range times {
			if k.Window != (Window{}) && !k.Window.Contains(t.Time) {
				return refuse(CodeKeyOutside, "signed at %s, but key %s is trusted only %s", stamp(t.Time), v.KeyFingerprint, k.Window)
			}
		}
		return r.verifyEnvelope(c)
	}
	var path []*x509.Certificate
	for _, t := range v.Times {
		var err error
		if path, err = r.certPath(m.leaf, t.Time); err != nil {
			return err
		}
	}
	var err error
	if v.SCTs, err = r.verifySCTs(m.leaf, path[1], want.SCT); err != nil {
		return err
	}
	if err := r.verifyEnvelope(c); err != nil {
		return err
	}
	if r.x509 != "" {
		v.Identity, err = X509Identity(r.x509, m.leaf)
	} else {
		v.Identity, err = CertificateIdentity(m.leaf)
	}
	return err
}

// certPath finds the authority that issued leaf and was valid at t.
func (r *Root) certPath(leaf *x509.Certificate, t time.Time) ([]*x509.Certificate, error) {
	var best error
	for _, ca := range r.cas {
		path, issued, err := ca.pathAt(r.facts, leaf, t)
		if err == nil && path != nil {
			return path, nil
		}
		if issued {
			best = nearest(best, err)
		}
	}
	if best == nil {
		best = refuse(CodeCertUnknown, "signing certificate was issued by %q, which is not in the trusted root; give the root of the instance that signed", leaf.Issuer)
	}
	return nil, best
}

// verifyEnvelope checks the signature of an envelope; that of a message needs
// the artifact's digest and is checked by proveArtifact.
func (r *Root) verifyEnvelope(c *content) error {
	if !c.message && !r.facts.message(c.key, c.pae, c.signature, true) {
		return refuse(CodeSignature, "signature over the envelope does not verify under key %s: payload, payload type or signature was changed", c.key.fingerprint())
	}
	return nil
}

func now(c clock.Clock) time.Time {
	if c == nil {
		c = clock.System
	}
	return c()
}
