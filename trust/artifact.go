package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
)

// maxPureMessage caps an artifact under a pure Ed25519 signature, which has to
// be held in memory as a whole.
const maxPureMessage = 64 << 20

var algNames = map[crypto.Hash]string{crypto.SHA256: artifact.SHA256, crypto.SHA384: artifact.SHA384, crypto.SHA512: artifact.SHA512}

// proveArtifact binds the artifact that the caller has in hand: by a
// statement's subjects, or by the message signature itself.
func (f *facts) proveArtifact(v *Verified, c *content, o VerifyOptions) error {
	if c.message {
		return f.proveMessage(v, c, o)
	}
	return proveStatement(v, o)
}

// proveStatement parses the payload once, after its signature was verified,
// and looks for the artifact among its subjects.
func proveStatement(v *Verified, o VerifyOptions) error {
	v.PayloadDigest = artifact.SHA256Of(v.Payload)
	if v.PayloadType != attestation.PayloadType {
		return refuse(CodeStatement, "payload type is %.100q, want %q", v.PayloadType, attestation.PayloadType)
	}
	st, err := attestation.ParseStatement(v.Payload, o.Limits)
	if err != nil {
		return refuse(CodeStatement, "signed payload: %w", err)
	}
	v.Statement, v.Subjects = st, st.Subject
	if o.AnyArtifact {
		return nil
	}
	have := o.Artifact
	if o.ArtifactReader != nil {
		if have, err = hashReader(o.ArtifactReader, st.Algorithms()); err != nil {
			return err
		}
	}
	if _, ok := st.Match(have); !ok {
		return refuse(CodeArtifact, "statement is about another artifact: want %s, found %s", list(have), subjects(st.Subject))
	}
	return nil
}

// proveMessage checks that the artifact has the digest that the bundle and the
// log entry name, and the signature over it.
func (f *facts) proveMessage(v *Verified, c *content, o VerifyOptions) error {
	alg := algNames[c.digestAlg]
	want := artifact.NewDigest(alg, c.digest)
	v.PayloadDigest = want
	v.Subjects = []attestation.Subject{{Digest: want.Set()}}
	var pure []byte
	switch ed, isEd := c.key.pub.(ed25519.PublicKey); {
	case o.AnyArtifact:
	case o.ArtifactReader != nil && isEd:
		b, err := io.ReadAll(io.LimitReader(o.ArtifactReader, maxPureMessage+1))
		if err != nil {
			return err
		}
		if len(b) > maxPureMessage {
			return fault.Newf(fault.TooLarge, "artifact of over %d bytes under an Ed25519 key; sign it with Ed25519ph or ECDSA", maxPureMessage)
		}
		if !bytes.Equal(sum(c.digestAlg, b), c.digest) {
			return refuse(CodeArtifact, "artifact has %s:%x, the bundle is about %s", alg, sum(c.digestAlg, b), want)
		}
		if ed25519.Verify(ed, b, c.signature) {
			return nil
		}
		pure = b
	default:
		have := o.Artifact
		if o.ArtifactReader != nil {
			var err error
			if have, err = hashReader(o.ArtifactReader, []string{alg}); err != nil {
				return err
			}
		}
		if _, ok := have[alg]; !ok {
			return refuse(CodeArtifact, "bundle names its artifact by %s; give that digest, or the artifact itself (have %s)", alg, list(have))
		}
		if !want.Set().Match(have) {
			return refuse(CodeArtifact, "artifact has %s, the bundle is about %s", list(have), want)
		}
	}
	if f.digest(c.key, c.digestAlg, c.digest, c.signature) {
		return nil
	}
	if _, isEd := c.key.pub.(ed25519.PublicKey); isEd {
		if pure != nil && f.digest(c.key, crypto.SHA512, sum(crypto.SHA512, pure), c.signature) {
			return nil
		}
		return refuse(CodeSignature, "Ed25519 signature does not verify under key %s; a pure one can only be checked with the artifact itself, not with its digest", c.key.fingerprint())
	}
	return refuse(CodeSignature, "signature over the artifact does not verify under key %s: artifact or signature was changed", c.key.fingerprint())
}

// hashReader hashes r once with the named strong algorithms.
func hashReader(r io.Reader, algs []string) (artifact.DigestSet, error) {
	hashes := map[string]hash.Hash{}
	var ws []io.Writer
	for _, alg := range algs {
		h, ok := artifact.NewHash(alg)
		if !ok {
			return nil, errors.New("trust: no hash " + alg)
		}
		hashes[alg] = h
		ws = append(ws, h)
	}
	if _, err := io.Copy(io.MultiWriter(ws...), r); err != nil {
		return nil, err
	}
	set := artifact.DigestSet{}
	for alg, h := range hashes {
		set[alg] = hex.EncodeToString(h.Sum(nil))
	}
	return set, nil
}

// list shows a digest set, and subjects up to three of a statement's.
func list(s artifact.DigestSet) string {
	out := ""
	for _, d := range s.Strong() {
		if out != "" {
			out += ", "
		}
		out += d.String()
	}
	if out == "" {
		return "no strong digest"
	}
	return out
}

func subjects(all []attestation.Subject) string {
	out := ""
	for i, s := range all {
		if i == 3 {
			return out + "; …"
		}
		if i > 0 {
			out += "; "
		}
		out += list(s.Digest)
	}
	return out
}
