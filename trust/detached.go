package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"io"
	"maps"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
)

// VerifyLegacySignature verifies a layer of a cosign .sig image: the bundle
// over the layer's payload under this root, and then that the payload, signed,
// names the image that o.Artifact names. ArtifactReader makes no sense here and
// is refused.
func (r *Root) VerifyLegacySignature(ctx context.Context, l *attestation.LegacySignature, o VerifyOptions) (*Verified, error) {
	if l == nil || l.Bundle == nil {
		return nil, refuse(CodeBundleMalformed, "legacy signature: none given")
	}
	if o.ArtifactReader != nil {
		return nil, invalidOption("a legacy signature is about an image: give its manifest digest as Artifact")
	}
	if !o.AnyArtifact && !l.Image.Set().Match(o.Artifact) {
		return nil, refuse(CodeArtifact, "signed payload is about image %s, want %s", l.Image, list(o.Artifact))
	}
	checks := o.Checks
	o.Artifact, o.AnyArtifact, o.Checks = artifact.SHA256Of(l.Payload).Set(), false, nil
	v, err := r.VerifyBundle(ctx, l.Bundle, o)
	if err != nil {
		return nil, err
	}
	v.Payload, v.PayloadType = l.Payload, attestation.MediaTypeSimpleSigning
	v.Subjects = []attestation.Subject{{Name: l.Reference, Digest: l.Image.Set()}}
	return finish(ctx, v, checks)
}

// VerifyEnvelope verifies a bare DSSE envelope with public keys alone (cosign
// --key without a log): no certificate, no log, no trusted time, and therefore
// asked for by name. One of o.Keys must have made one of the signatures; every
// key's window is compared with Now. KeyFingerprint is the first that did, and
// Signers lists all, each key once.
func VerifyEnvelope(ctx context.Context, e *attestation.Envelope, o VerifyOptions) (*Verified, error) {
	if err := detachedOptions(ctx, &o); err != nil {
		return nil, err
	}
	if e == nil || len(e.Signatures) == 0 || len(e.Payload) == 0 {
		return nil, malformed("envelope without payload or signature")
	}
	lim := o.Limits.MaxSignatures
	if lim <= 0 {
		lim = attestation.DefaultLimits().MaxSignatures
	}
	if len(e.Signatures) > lim {
		return nil, malformed("envelope has %d signatures, want at most %d", len(e.Signatures), lim)
	}
	f, pae := newFacts(), e.PAE()
	v := &Verified{Scheme: SchemeDSSE, PayloadType: e.PayloadType, Payload: e.Payload, LogIndex: -1}
	for _, k := range o.Keys {
		key, err := newVerifyKey(k.Public)
		if err != nil {
			return nil, err
		}
		for _, s := range e.Signatures { // the key ID is a hint and decides nothing
			if k.ID != "" && k.ID != s.KeyID || !f.message(key, pae, derSignature(key, s.Sig), true) {
				continue
			}
			if err := inKeyWindow(k, key, o); err != nil {
				return nil, err
			}
			v.addSigner(key, s.Sig)
			break
		}
	}
	if v.KeyFingerprint == "" {
		return nil, refuse(CodeSignature, "none of %d signatures verifies under the %d given keys", len(e.Signatures), len(o.Keys))
	}
	if err := proveStatement(v, o); err != nil {
		return nil, err
	}
	return finish(ctx, v, o.Checks)
}

// derSignature gives an ECDSA signature in the ASN.1 form. Signers that are not
// of the Sigstore family (Google's, JOSE libraries) write r and s one after the
// other (IEEE P1363); their fixed length tells the forms apart, and the check
// decides.
func derSignature(k *verifyKey, sig []byte) []byte {
	p, ok := k.pub.(*ecdsa.PublicKey)
	n := 0
	if ok {
		n = (p.Curve.Params().BitSize + 7) / 8
	}
	if n == 0 || len(sig) != 2*n || ecdsaDER(sig) {
		return sig
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(sig[:n]))
		b.AddASN1BigInt(new(big.Int).SetBytes(sig[n:]))
	})
	der, err := b.Bytes()
	if err != nil {
		return sig
	}
	return der
}

// ecdsaDER says whether sig has the ASN.1 form.
func ecdsaDER(sig []byte) bool {
	in := cryptobyte.String(sig)
	var seq cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	return in.ReadASN1(&seq, cbasn1.SEQUENCE) && in.Empty() && seq.ReadASN1Integer(r) && seq.ReadASN1Integer(s) && seq.Empty()
}

func (v *Verified) addSigner(k *verifyKey, sig []byte) {
	fp := k.fingerprint()
	for _, have := range v.Signers {
		if have == fp {
			return
		}
	}
	if v.KeyFingerprint == "" {
		v.KeyFingerprint, v.Signature = fp, sig
	}
	v.Signers = append(v.Signers, fp)
}

// VerifyBlob verifies a bare signature over an artifact with a public key
// alone (cosign verify-blob --key --signature): as [VerifyEnvelope], without
// log and time. The hash is the key's own; SHA-256 is accepted under P-384 and
// P-521, which old clients wrote. With o.Artifact in place of a reader the
// digest of that hash must be among the given ones.
func VerifyBlob(ctx context.Context, sig []byte, o VerifyOptions) (*Verified, error) {
	if err := detachedOptions(ctx, &o); err != nil {
		return nil, err
	}
	if o.AnyArtifact {
		return nil, invalidOption("a bare signature names no artifact: give it")
	}
	have := o.Artifact
	var whole []byte // for pure Ed25519, which signs the artifact and no digest
	if o.ArtifactReader != nil {
		var err error
		if whole, err = o.wholeForEd25519(); err != nil {
			return nil, err
		}
		if have, err = o.hashForKeys(); err != nil {
			return nil, err
		}
	}
	f := newFacts()
	for _, k := range o.Keys {
		key, err := newVerifyKey(k.Public)
		if err != nil {
			return nil, err
		}
		for _, h := range key.blobHashes() {
			d, err := artifact.ParseDigest(algNames[h] + ":" + have[algNames[h]])
			if err != nil || !f.digest(key, h, d.Bytes(), sig) && !pureEd25519(key, whole, sig) {
				continue
			}
			if err := inKeyWindow(k, key, o); err != nil {
				return nil, err
			}
			v := &Verified{Scheme: SchemeMessage, PayloadDigest: d, Subjects: []attestation.Subject{{Digest: d.Set()}}, LogIndex: -1}
			v.addSigner(key, sig)
			return finish(ctx, v, o.Checks)
		}
	}
	return nil, refuse(CodeSignature, "signature does not verify under the %d given keys over %s", len(o.Keys), list(have))
}

// blobHashes are the hashes that a signature over an artifact may use.
func (k *verifyKey) blobHashes() []crypto.Hash {
	h := []crypto.Hash{k.hash()}
	if _, ec := k.pub.(*ecdsa.PublicKey); ec && h[0] != crypto.SHA256 {
		h = append(h, crypto.SHA256)
	}
	return h
}

// hashForKeys hashes the artifact for all keys at once.
func (o *VerifyOptions) hashForKeys() (artifact.DigestSet, error) {
	algs := map[string]bool{}
	for _, k := range o.Keys {
		if key, err := newVerifyKey(k.Public); err == nil {
			for _, h := range key.blobHashes() {
				algs[algNames[h]] = true
			}
		}
	}
	return hashReader(o.ArtifactReader, slices.Collect(maps.Keys(algs)))
}

// wholeForEd25519 reads the artifact into memory when one of the keys is
// Ed25519, up to a cap, and leaves a reader over it.
func (o *VerifyOptions) wholeForEd25519() ([]byte, error) {
	for _, k := range o.Keys {
		if _, ed := k.Public.(ed25519.PublicKey); !ed {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(o.ArtifactReader, maxPureMessage+1))
		if err != nil {
			return nil, err
		}
		if len(b) > maxPureMessage {
			return nil, fault.Newf(fault.TooLarge, "artifact of over %d bytes under an Ed25519 key; sign it with Ed25519ph or ECDSA", maxPureMessage)
		}
		o.ArtifactReader = bytes.NewReader(b)
		return b, nil
	}
	return nil, nil
}

func pureEd25519(k *verifyKey, whole, sig []byte) bool {
	p, ok := k.pub.(ed25519.PublicKey)
	return ok && whole != nil && len(sig) == ed25519.SignatureSize && ed25519.Verify(p, whole, sig)
}

func detachedOptions(ctx context.Context, o *VerifyOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	if len(o.Keys) == 0 || len(o.Identity) > 0 {
		return refuse(CodeKeyMissing, "no certificate comes with a bare signature; give the public key, and no identity")
	}
	return nil
}

func inKeyWindow(k Key, key *verifyKey, o VerifyOptions) error {
	if t := now(o.Now); k.Window != (Window{}) && !k.Window.Contains(t) {
		return refuse(CodeKeyOutside, "key %s is trusted only %s, and nothing but the clock (%s) dates this signature", key.fingerprint(), k.Window, stamp(t))
	}
	return nil
}

// finish runs the caller's checks on what was proved.
func finish(ctx context.Context, v *Verified, checks []Check) (*Verified, error) {
	for _, check := range checks {
		if err := check(ctx, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}
