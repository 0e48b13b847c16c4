package assess

import (
	"encoding/base64"
	"encoding/hex"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/strictjson"
	"assay/sbom"
	"assay/trust"
	"assay/verify"
)

// kind is what a bundle is about an artifact.
type kind uint8

const (
	other kind = iota
	signature
	provenance
	bom
)

func kindOf(predicateType string) kind {
	switch predicateType {
	case "", attestation.PredicateCosignSign:
		return signature
	case attestation.PredicateProvenanceV01, attestation.PredicateProvenanceV02, attestation.PredicateProvenanceV1, attestation.PredicateProvenanceV1Stray:
		return provenance
	}
	if sbom.IsPredicate(predicateType) {
		return bom
	}
	return other
}

// claim is what a bundle says of itself, before anything of it is believed.
type claim struct {
	id        string
	kind      kind
	identity  string
	issuer    string
	predicate []byte // of a bill of materials
	code      string // by which verification refused it; "": it was not tried
	reason    string
}

// read takes apart what a registry holds about a digest, believing nothing. What does
// not even parse, or says that it is about something else, claims nothing; what is
// listed and cannot be had is told apart, since "no" is said only when all was read.
func read(items []verify.Item, of artifact.Digest) map[string]*claim {
	out := map[string]*claim{}
	for i := range items {
		id := evidence.ID(items[i].Bundle)
		if out[id] != nil {
			continue
		}
		c := &claim{id: id}
		if len(items[i].Bundle) == 0 { // listed, and not to be had: nobody knows what it says
			c.identity, c.code = "nobody: evidence that could not be read", codeUnread
			out[id] = c
			continue
		}
		if attestation.IsNotation(items[i].Bundle) {
			c.kind, c.identity = signature, "a signer of the Notary Project"
			out[id] = c
			continue
		}
		b, err := attestation.ParseBundle(items[i].Bundle, attestation.Limits{})
		if err != nil {
			continue
		}
		c.who(b)
		if b.Envelope() == nil {
			if m := b.MessageSignature(); m == nil || !messageOf(&items[i], m, of) {
				continue
			}
			c.kind = signature
		} else {
			st, err := b.Statement()
			if err != nil || !about(st, of) {
				continue
			}
			if c.kind = kindOf(st.PredicateType); c.kind == bom {
				c.predicate = st.Predicate
			}
		}
		out[id] = c
	}
	return out
}

// about says whether a statement names a digest.
func about(st *attestation.Statement, of artifact.Digest) bool {
	for _, s := range st.Subject {
		if s.Digest.Match(of.Set()) {
			return true
		}
	}
	return false
}

// messageOf says whether a plain signature says that it is over the manifest, or over
// cosign's document that names it.
func messageOf(it *verify.Item, m *attestation.MessageSignature, of artifact.Digest) bool {
	if m.Digest == of {
		return true
	}
	var doc struct {
		Critical struct {
			Image struct {
				Digest artifact.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	return len(it.Payload) > 0 && strictjson.Unmarshal(it.Payload, &doc) == nil && doc.Critical.Image.Digest == of
}

// who is the name that a bundle bears.
func (c *claim) who(b *attestation.Bundle) {
	if leaf := b.Certificate(); leaf != nil {
		id, err := trust.CertificateIdentity(leaf)
		if err == nil && id.Subject != "" {
			c.identity, c.issuer = text(id.Subject, 300), text(id.Issuer, 200)
			return
		}
		c.identity = "a certificate that names nobody"
		return
	}
	c.identity = "a key"
	if hint, is := b.KeyHint(); is && hint != "" {
		if sum, err := base64.StdEncoding.DecodeString(hint); err == nil && len(sum) == 32 {
			hint = "sha256:" + hex.EncodeToString(sum)
		}
		c.identity = "key " + text(hint, 120)
	}
}

// codeUnread is of evidence that a registry lists and does not give.
const codeUnread = "unread"

// open says whether what refused the bundle is that its signer's root, or key, is not
// among those that were given: then nobody knows whether it is good.
func (c *claim) open() bool {
	switch c.code {
	case "", trust.CodeKeyMissing, trust.CodeKeyMismatch, trust.CodeCertUnknown, trust.CodeTLogUnknown, trust.CodeTSAUnknown, trust.CodeSCTMissing:
		return true
	}
	return false
}

// why is the reason for people.
func (c *claim) why() string {
	switch c.code {
	case "":
		return "no root of trust was given"
	case codeUnsigned:
		return "it is not signed"
	case codeUnread:
		return "the registry lists it and gives other bytes, none, too many, or what is about something else"
	case trust.CodeTLogMissing:
		return "it is in no transparency log that was given, so nothing proves when it was made"
	case trust.CodeKeyMissing, trust.CodeKeyMismatch:
		return "its key was not given"
	case trust.CodeCertUnknown, trust.CodeTLogUnknown, trust.CodeTSAUnknown, trust.CodeSCTMissing:
		return "its root of trust was not given"
	}
	return "it does not verify: " + text(c.reason, 160)
}
