package trust

import (
	"crypto"
	"crypto/x509"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/attestation"
	"assay/internal/fault"
)

const maxEntries = 16

// material is a bundle's parts after their shape was checked.
type material struct {
	version    attestation.BundleVersion
	leaf       *x509.Certificate
	roots      []*x509.Certificate // self-signed certificates that came along
	hint       string
	entries    []*rekorpb.TransparencyLogEntry
	timestamps [][]byte

	signature   []byte
	isMessage   bool
	digestAlg   crypto.Hash // of a message
	digest      []byte
	payloadType string
	payload     []byte
	pae         []byte
	keyID       string
}

func malformed(format string, args ...any) error {
	return refuse(CodeBundleMalformed, "bundle: "+format, args...)
}

func invalidOption(msg string) error {
	return fault.Wrap(fault.Invalid, &failure{code: CodeBundleOptions, msg: "verify options: " + msg})
}

// readMaterial applies the bundle specification's rules per version: v0.1
// entries carry a promise or a proof, later ones a proof; from v0.3 on there is
// one certificate and no chain. parsed is the leaf where the caller has parsed
// it already.
func readMaterial(b *bundlepb.Bundle, parsed *x509.Certificate) (*material, error) {
	version, err := attestation.ParseBundleMediaType(b.GetMediaType())
	if err != nil {
		return nil, malformed("%w", err)
	}
	m := &material{version: version}
	vm := b.GetVerificationMaterial()
	m.entries = vm.GetTlogEntries()
	stamps := vm.GetTimestampVerificationData().GetRfc3161Timestamps()
	if len(m.entries) > maxEntries || len(stamps) > maxTimestamps {
		return nil, malformed("%d log entries and %d timestamps, want at most %d of each", len(m.entries), len(stamps), maxEntries)
	}
	for _, s := range stamps {
		m.timestamps = append(m.timestamps, s.GetSignedTimestamp())
	}
	if err := m.readSigner(vm, parsed); err != nil {
		return nil, err
	}
	for i, e := range m.entries {
		if err := m.checkEntry(e); err != nil {
			return nil, err
		}
		for _, p := range m.entries[:i] {
			if string(p.GetLogId().GetKeyId()) == string(e.GetLogId().GetKeyId()) && p.GetLogIndex() == e.GetLogIndex() {
				return nil, malformed("the same log entry is given twice")
			}
		}
	}
	return m, m.readContent(b)
}

func (m *material) readSigner(vm *bundlepb.VerificationMaterial, parsed *x509.Certificate) error {
	var ders []*commonpb.X509Certificate
	switch c := vm.GetContent().(type) {
	case *bundlepb.VerificationMaterial_PublicKey:
		m.hint = c.PublicKey.GetHint()
		return nil
	case *bundlepb.VerificationMaterial_Certificate:
		ders = []*commonpb.X509Certificate{c.Certificate}
	case *bundlepb.VerificationMaterial_X509CertificateChain:
		if m.version == attestation.BundleV03 {
			return malformed("version 0.3 holds one certificate, found a chain")
		}
		ders = c.X509CertificateChain.GetCertificates()
	default:
		return malformed("neither certificate nor public key")
	}
	if len(ders) == 0 || len(ders) > maxChain {
		return malformed("certificate chain has %d certificates, want 1 to %d", len(ders), maxChain)
	}
	for i, der := range ders {
		if i == 0 {
			leaf, err := parseLeaf(der.GetRawBytes(), parsed)
			if err != nil {
				return err
			}
			m.leaf = leaf
			continue
		}
		// What follows the leaf is not used: paths come from the trusted root.
		c, err := x509.ParseCertificate(der.GetRawBytes())
		if err != nil {
			return refuse(CodeCertMalformed, "bundle: certificate %d of the chain: %w", i, err)
		}
		if selfSigned(c) {
			m.roots = append(m.roots, c)
		}
	}
	return nil
}

func (m *material) checkEntry(e *rekorpb.TransparencyLogEntry) error {
	kv := e.GetKindVersion()
	switch {
	case len(e.GetCanonicalizedBody()) == 0, len(e.GetLogId().GetKeyId()) == 0, kv.GetKind() == "", kv.GetVersion() == "":
		return refuse(CodeTLogMalformed, "log entry: body, log ID, kind or version is missing")
	case e.GetLogIndex() < 0 || e.GetIntegratedTime() < 0:
		return refuse(CodeTLogMalformed, "log entry: index %d or integrated time %d is negative", e.GetLogIndex(), e.GetIntegratedTime())
	}
	proof, promise := e.GetInclusionProof(), len(e.GetInclusionPromise().GetSignedEntryTimestamp()) > 0
	switch {
	case proof != nil && proof.GetCheckpoint().GetEnvelope() == "" && m.version != attestation.BundleV01:
		return refuse(CodeTLogMalformed, "log entry: inclusion proof without checkpoint")
	case m.version == attestation.BundleV01 && !promise && proof.GetCheckpoint().GetEnvelope() == "":
		return refuse(CodeTLogMalformed, "log entry: neither inclusion promise nor inclusion proof")
	case m.version != attestation.BundleV01 && proof == nil:
		return refuse(CodeTLogInclusion, "log entry: bundle version 0.2 and later need an inclusion proof")
	case isV2(kv.GetKind(), kv.GetVersion()) && proof == nil:
		return refuse(CodeTLogInclusion, "log entry: Rekor v2 entries need an inclusion proof")
	case isV2(kv.GetKind(), kv.GetVersion()) && (promise || e.GetIntegratedTime() != 0):
		return refuse(CodeTLogMalformed, "log entry: Rekor v2 entries carry no promise and no integrated time")
	}
	return nil
}

func (m *material) readContent(b *bundlepb.Bundle) error {
	switch c := b.GetContent().(type) {
	case *bundlepb.Bundle_MessageSignature:
		m.isMessage = true
		m.signature = c.MessageSignature.GetSignature()
		d := c.MessageSignature.GetMessageDigest()
		h, ok := protoHashes[d.GetAlgorithm()]
		if !ok || len(d.GetDigest()) != h.Size() {
			return malformed("message digest: %s of %d bytes, want SHA2_256, SHA2_384 or SHA2_512", d.GetAlgorithm(), len(d.GetDigest()))
		}
		m.digestAlg, m.digest = h, d.GetDigest()
	case *bundlepb.Bundle_DsseEnvelope:
		env := c.DsseEnvelope
		if n := len(env.GetSignatures()); n != 1 {
			return malformed("envelope has %d signatures, want one", n)
		}
		if len(env.GetPayload()) == 0 || env.GetPayloadType() == "" {
			return malformed("envelope without payload or payload type")
		}
		m.signature, m.keyID = env.GetSignatures()[0].GetSig(), env.GetSignatures()[0].GetKeyid()
		m.payloadType, m.payload = env.GetPayloadType(), env.GetPayload()
		m.pae = attestation.PAE(m.payloadType, m.payload)
	default:
		return malformed("neither message signature nor envelope")
	}
	if len(m.signature) == 0 || len(m.signature) > 1024 {
		return malformed("signature has %d bytes, want 1 to 1024", len(m.signature))
	}
	return nil
}

var protoHashes = map[commonpb.HashAlgorithm]crypto.Hash{
	commonpb.HashAlgorithm_SHA2_256: crypto.SHA256,
	commonpb.HashAlgorithm_SHA2_384: crypto.SHA384,
	commonpb.HashAlgorithm_SHA2_512: crypto.SHA512,
}

// content is what log entries have to bind, under the given key.
func (m *material) content(pub crypto.PublicKey) (*content, error) {
	k, err := newVerifyKey(pub)
	if err != nil {
		return nil, err
	}
	return &content{
		message: m.isMessage, digestAlg: m.digestAlg, digest: m.digest,
		payloadType: m.payloadType, payload: m.payload, pae: m.pae, keyID: m.keyID,
		signature: m.signature, key: k, cert: m.leaf,
	}, nil
}

// entryProof is a log entry that verified.
type entryProof struct {
	log   *logKey
	proof LogProof
	at    time.Time // of a signed entry timestamp; zero without one
}
