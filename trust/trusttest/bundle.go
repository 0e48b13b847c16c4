package trusttest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protojson"

	"assay/attestation"
)

// Request says what to sign and how. The zero value signs nothing: give
// Statement or Artifact.
type Request struct {
	Statement []byte // signed as a DSSE envelope
	Artifact  []byte // signed itself
	Leaf      Leaf   // the signer; ignored with Key
	Key       *ecdsa.PrivateKey
	At        time.Time // when it is stamped; zero: two minutes after the world's Start
	NoTSA     bool
	NoLog     bool
}

// Draft is a bundle before it is written, with what made it.
type Draft struct {
	*bundlepb.Bundle
	Cert *x509.Certificate // nil with Request.Key
	Key  *ecdsa.PrivateKey
}

// Entry is the draft's first log entry, Stamp its first timestamp.
func (d *Draft) Entry() *rekorpb.TransparencyLogEntry { return d.VerificationMaterial.TlogEntries[0] }

// Stamps are the draft's timestamps.
func (d *Draft) Stamps() []*commonpb.RFC3161SignedTimestamp {
	return d.VerificationMaterial.GetTimestampVerificationData().GetRfc3161Timestamps()
}

// Bundle reads the draft as a client would.
func (d *Draft) Parse(t testing.TB) *attestation.Bundle {
	t.Helper()
	b, err := attestation.ParseBundle(d.JSON(t), attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// JSON writes the draft.
func (d *Draft) JSON(t testing.TB) []byte {
	t.Helper()
	b, err := protojson.Marshal(d.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Sign makes a bundle v0.3 and parses it.
func (w *World) Sign(t testing.TB, r Request) *attestation.Bundle {
	t.Helper()
	return w.Draft(t, r).Parse(t)
}

// Draft makes a bundle v0.3.
func (w *World) Draft(t testing.TB, r Request) *Draft {
	t.Helper()
	d := &Draft{Key: r.Key, Bundle: &bundlepb.Bundle{MediaType: attestation.MediaTypeBundle, VerificationMaterial: &bundlepb.VerificationMaterial{}}}
	if r.At.IsZero() {
		r.At = w.Start.Add(2 * time.Minute)
	}
	if d.Key == nil {
		d.Key, d.Cert = w.Issue(t, r.Leaf)
		d.VerificationMaterial.Content = &bundlepb.VerificationMaterial_Certificate{Certificate: &commonpb.X509Certificate{RawBytes: d.Cert.Raw}}
	} else {
		sum := sha256.Sum256(SPKI(t, d.Key))
		d.VerificationMaterial.Content = &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(sum[:])}}
	}
	signed, sig := r.Artifact, []byte(nil)
	if r.Statement != nil {
		signed = attestation.PAE(attestation.PayloadType, r.Statement)
		sig = Sign(t, d.Key, signed)
		d.Content = &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{
			PayloadType: attestation.PayloadType, Payload: r.Statement, Signatures: []*dssepb.Signature{{Sig: sig}},
		}}
	} else {
		h := sha256.Sum256(signed)
		sig = Sign(t, d.Key, signed)
		d.Content = &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{
			Signature: sig, MessageDigest: &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: h[:]},
		}}
	}
	if !r.NoLog {
		d.VerificationMaterial.TlogEntries = []*rekorpb.TransparencyLogEntry{w.Log(t, Body(t, signed, sig, d.Cert, d.Key))}
	}
	if !r.NoTSA {
		d.VerificationMaterial.TimestampVerificationData = &bundlepb.TimestampVerificationData{
			Rfc3161Timestamps: []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: w.Timestamp(t, sig, r.At, false)}},
		}
	}
	return d
}

// SPKI is a key's DER SubjectPublicKeyInfo.
func SPKI(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Body is a hashedrekord 0.0.2 entry as Rekor v2 writes it. cert nil records
// the bare key.
func Body(t testing.TB, signed, sig []byte, cert *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b64 := base64.StdEncoding.EncodeToString
	h := sha256.Sum256(signed)
	ver := ""
	if cert != nil {
		ver = `"x509Certificate":{"rawBytes":"` + b64(cert.Raw) + `"}`
	} else {
		ver = `"publicKey":{"rawBytes":"` + b64(SPKI(t, key)) + `"}`
	}
	return fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"%s"},`+
		`"signature":{"content":"%s","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256",%s}}}}}`, b64(h[:]), b64(sig), ver)
}

// Log appends a body and gives the entry with proof and checkpoint.
func (w *World) Log(t testing.TB, body []byte) *rekorpb.TransparencyLogEntry {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.leaves)
	w.leaves = append(w.leaves, rfc6962.DefaultHasher.HashLeaf(body))
	spki := sha256.Sum256(SPKI(t, w.LogKey))
	root := treeHash(w.leaves)
	return &rekorpb.TransparencyLogEntry{
		LogIndex:    int64(i),
		LogId:       &commonpb.LogId{KeyId: spki[:]},
		KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof: &rekorpb.InclusionProof{
			LogIndex: int64(i), TreeSize: int64(len(w.leaves)), RootHash: root, Hashes: path(i, w.leaves),
			Checkpoint: &rekorpb.Checkpoint{Envelope: w.Checkpoint(t, w.Host, uint64(len(w.leaves)), root)},
		},
		CanonicalizedBody: body,
	}
}

// Checkpoint signs a size and root hash under an origin.
func (w *World) Checkpoint(t testing.TB, origin string, size uint64, root []byte) string {
	t.Helper()
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root))
	id := sha256.Sum256(SPKI(t, w.LogKey))
	sig := append(id[:4:4], Sign(t, w.LogKey, []byte(text))...)
	return text + "\n— " + origin + " " + base64.StdEncoding.EncodeToString(sig) + "\n"
}

// Statement is a statement v1 about an artifact with some predicate.
func Statement(artifact []byte, predicateType string) []byte {
	h := sha256.Sum256(artifact)
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"artifact","digest":{"sha256":"%s"}}],"predicateType":%q,"predicate":{"made":"by a test"}}`,
		hex.EncodeToString(h[:]), predicateType)
}

// treeHash and path are MTH and PATH of RFC 6962, section 2.1.
func treeHash(leaves [][]byte) []byte {
	switch len(leaves) {
	case 0:
		return rfc6962.DefaultHasher.EmptyRoot()
	case 1:
		return leaves[0]
	}
	k := split(len(leaves))
	return rfc6962.DefaultHasher.HashChildren(treeHash(leaves[:k]), treeHash(leaves[k:]))
}

func path(i int, leaves [][]byte) [][]byte {
	if len(leaves) <= 1 {
		return nil
	}
	k := split(len(leaves))
	if i < k {
		return append(path(i, leaves[:k]), treeHash(leaves[k:]))
	}
	return append(path(i-k, leaves[k:]), treeHash(leaves[:k]))
}

func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}
