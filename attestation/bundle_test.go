package attestation

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/vectors"
)

// leafFor gives a self-signed certificate for a key, DER.
func leafFor(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Unix(1<<31, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func logEntry() *rekorpb.TransparencyLogEntry {
	return &rekorpb.TransparencyLogEntry{
		LogIndex: 3, LogId: &commonpb.LogId{KeyId: []byte("id")}, KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		CanonicalizedBody: []byte("{}"),
		InclusionProof: &rekorpb.InclusionProof{LogIndex: 3, TreeSize: 4, RootHash: make([]byte, 32), Hashes: [][]byte{make([]byte, 32), make([]byte, 32)},
			Checkpoint: &rekorpb.Checkpoint{Envelope: "log.example\n4\nAAAA\n\n— log.example AAAA\n"}},
	}
}

// testBundle is a version 0.3 bundle of a statement, signed by a certificate.
func testBundle(t testing.TB) *Bundle {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	e, err := SignDSSE(context.Background(), key, PayloadType, []byte(goodStatement))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewDSSEBundle(Material{Certificate: leafFor(t, key), LogEntries: []*rekorpb.TransparencyLogEntry{logEntry()}, Timestamps: [][]byte{{1, 2}}}, e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNewBundles(t *testing.T) {
	b := testBundle(t)
	if b.MediaType() != MediaTypeBundleV03 || b.Version() != BundleV03 {
		t.Errorf("%s, %s", b.MediaType(), b.Version())
	}
	again, err := ParseBundle(b.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	checkBundle(t, "made", b.Bytes(), again)
	if d := cmp.Diff(b.Envelope(), again.Envelope()); d != "" {
		t.Error(d)
	}
	if _, err := VerifyDSSE(again.Envelope(), again.Certificate().PublicKey); err != nil {
		t.Error(err)
	}
	s, err := again.Statement()
	if err != nil || s.PredicateType != "https://example.com/p/v1" {
		t.Errorf("%+v, %v", s, err)
	}
	if d := cmp.Diff([][]byte{{1, 2}}, again.Timestamps()); d != "" || again.LogEntries()[0].LogIndex != 3 {
		t.Errorf("%s, %v", d, again.LogEntries())
	}
	if b.Digest() != artifact.SHA256Of(b.Bytes()) || !bytes.Equal(b.Signature(), b.Envelope().Signatures[0].Sig) {
		t.Error("digest or signature differ")
	}

	for _, alg := range []string{artifact.SHA256, artifact.SHA384, artifact.SHA512} {
		h, _ := artifact.NewHash(alg)
		digest := artifact.NewDigest(alg, h.Sum(nil))
		m, err := NewMessageBundle(Material{KeyHint: "aGludA=="}, digest, []byte{7})
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseBundle(m.Bytes(), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(&MessageSignature{Digest: digest, Signature: []byte{7}}, again.MessageSignature()); d != "" {
			t.Error(d)
		}
		if hint, key := again.KeyHint(); !key || hint != "aGludA==" || again.Certificate() != nil {
			t.Errorf("hint %q, key %v", hint, key)
		}
		if _, err := again.Statement(); !errors.Is(err, fault.Invalid) {
			t.Errorf("statement of a message: %v, want invalid", err)
		}
	}

	for name, f := range map[string]func() error{
		"no digest":    func() error { _, err := NewMessageBundle(Material{}, "", []byte{1}); return err },
		"no signature": func() error { _, err := NewMessageBundle(Material{}, artifact.SHA256Of(nil), nil); return err },
		"bad certificate": func() error {
			_, err := NewMessageBundle(Material{Certificate: []byte{1}}, artifact.SHA256Of(nil), []byte{1})
			return err
		},
		"two signatures": func() error {
			e := b.Envelope()
			e.Signatures = append(e.Signatures, e.Signatures...)
			_, err := NewDSSEBundle(Material{}, e)
			return err
		},
		"other hint": func() error {
			e := b.Envelope()
			e.Signatures[0].KeyID = "a"
			_, err := NewDSSEBundle(Material{KeyHint: "b"}, e)
			return err
		},
		"promise only": func() error {
			e := logEntry()
			e.InclusionProof, e.InclusionPromise = nil, &rekorpb.InclusionPromise{SignedEntryTimestamp: []byte{1}}
			_, err := NewMessageBundle(Material{LogEntries: []*rekorpb.TransparencyLogEntry{e}}, artifact.SHA256Of(nil), []byte{1})
			return err
		},
		"nil entry": func() error {
			_, err := NewMessageBundle(Material{LogEntries: []*rekorpb.TransparencyLogEntry{nil}}, artifact.SHA256Of(nil), []byte{1})
			return err
		},
		"empty timestamp": func() error {
			_, err := NewMessageBundle(Material{Timestamps: [][]byte{nil}}, artifact.SHA256Of(nil), []byte{1})
			return err
		},
	} {
		if err := f(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func TestBundleMediaTypes(t *testing.T) {
	for mt, want := range map[string]BundleVersion{
		"application/vnd.dev.sigstore.bundle+json;version=0.1": BundleV01,
		"application/vnd.dev.sigstore.bundle+json;version=0.2": BundleV02,
		"application/vnd.dev.sigstore.bundle+json;version=0.3": BundleV03,
		"application/vnd.dev.sigstore.bundle.v0.1+json":        BundleV01,
		"application/vnd.dev.sigstore.bundle.v0.2+json":        BundleV02,
		"application/vnd.dev.sigstore.bundle.v0.3+json":        BundleV03,
	} {
		if got, err := ParseBundleMediaType(mt); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", mt, got, err, want)
		}
	}
	for _, mt := range []string{"", "application/json", "application/vnd.dev.sigstore.bundle+json", "application/vnd.dev.sigstore.bundle.v0.4+json",
		"application/vnd.dev.sigstore.bundle+json;version=99.9", "application/vnd.dev.sigstore.bundle+json; version=0.1",
		"Application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle.v0.3+json;x=y"} {
		if _, err := ParseBundleMediaType(mt); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want invalid", mt, err)
		}
	}
}

// edit changes one document by a function over its decoded form.
func edit(t testing.TB, raw []byte, fn func(doc map[string]any)) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	fn(doc)
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// at walks members and elements: a string names one, an int counts.
func at(v any, path ...any) map[string]any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			v = v.(map[string]any)[p]
		case int:
			v = v.([]any)[p]
		}
	}
	return v.(map[string]any)
}

func TestParseBundleRefuses(t *testing.T) {
	good := testBundle(t).Bytes()
	if _, err := ParseBundle(edit(t, good, func(map[string]any) {}), Limits{}); err != nil {
		t.Fatal(err)
	}
	entry := []any{"verificationMaterial", "tlogEntries", 0}
	proof := append(entry, "inclusionProof")
	set := func(path []any, name string, v any) func(map[string]any) {
		return func(d map[string]any) { at(d, path...)[name] = v }
	}
	drop := func(path []any, name string) func(map[string]any) {
		return func(d map[string]any) { delete(at(d, path...), name) }
	}
	for name, fn := range map[string]func(map[string]any){
		"no media type":  drop(nil, "mediaType"),
		"no material":    drop(nil, "verificationMaterial"),
		"empty material": set(nil, "verificationMaterial", map[string]any{}),
		"no content":     drop(nil, "dsseEnvelope"),
		"both contents":  set(nil, "messageSignature", map[string]any{"signature": "AAE="}),
		"unknown member": set(nil, "extra", 1),
		"chain in 0.3": func(d map[string]any) {
			m := at(d, "verificationMaterial")
			c := m["certificate"]
			delete(m, "certificate")
			m["x509CertificateChain"] = map[string]any{"certificates": []any{c}}
		},
		"certificate and key": set([]any{"verificationMaterial"}, "publicKey", map[string]any{"hint": "x"}),
		"certificate no DER":  set([]any{"verificationMaterial", "certificate"}, "rawBytes", "AAEC"),
		"certificate with more": func(d map[string]any) {
			c := at(d, "verificationMaterial", "certificate")
			c["rawBytes"] = strings.TrimRight(c["rawBytes"].(string), "=") + "AAAA"
		},
		"certificate empty":       set([]any{"verificationMaterial"}, "certificate", map[string]any{}),
		"line break in signature": set([]any{"dsseEnvelope", "signatures", 0}, "sig", "AA\nE="),
		"line break in payload":   set([]any{"dsseEnvelope"}, "payload", "AAE=\n"),
		"line break in media":     set(nil, "mediaType", MediaTypeBundle+"\n"),
		"bad base64":              set([]any{"dsseEnvelope"}, "payload", "!!!!"),
		"no signatures":           set([]any{"dsseEnvelope"}, "signatures", []any{}),
		"two signatures": func(d map[string]any) {
			e := at(d, "dsseEnvelope")
			s := e["signatures"].([]any)
			e["signatures"] = append(s, s[0])
		},
		"empty signature":  set([]any{"dsseEnvelope", "signatures", 0}, "sig", ""),
		"no payload":       drop([]any{"dsseEnvelope"}, "payload"),
		"no payload type":  drop([]any{"dsseEnvelope"}, "payloadType"),
		"negative index":   set(entry, "logIndex", "-1"),
		"index too large":  set(entry, "logIndex", "9223372036854775808"),
		"index a fraction": set(entry, "logIndex", 1.5),
		"negative time":    set(entry, "integratedTime", "-1"),
		"no log id":        drop(entry, "logId"),
		"no kind":          drop(entry, "kindVersion"),
		"no body":          drop(entry, "canonicalizedBody"),
		"no proof":         drop(entry, "inclusionProof"),
		"promise alone": func(d map[string]any) {
			e := at(d, entry...)
			delete(e, "inclusionProof")
			e["inclusionPromise"] = map[string]any{"signedEntryTimestamp": "AAE="}
		},
		"proof index negative":    set(proof, "logIndex", "-1"),
		"proof index beyond tree": set(proof, "logIndex", "4"),
		"empty tree":              set(proof, "treeSize", "0"),
		"negative tree":           set(proof, "treeSize", "-4"),
		"short root":              set(proof, "rootHash", "AAEC"),
		"short hash":              set(proof, "hashes", []any{"AAEC"}),
		"no checkpoint":           drop(proof, "checkpoint"),
		"empty timestamp":         set([]any{"verificationMaterial", "timestampVerificationData"}, "rfc3161Timestamps", []any{map[string]any{}}),
		"digest of wrong length": func(d map[string]any) {
			delete(d, "dsseEnvelope")
			d["messageSignature"] = map[string]any{"signature": "AAE=", "messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": "AAE="}}
		},
		"digest without type": func(d map[string]any) {
			delete(d, "dsseEnvelope")
			d["messageSignature"] = map[string]any{"signature": "AAE=", "messageDigest": map[string]any{"digest": "AAE="}}
		},
	} {
		if _, err := ParseBundle(edit(t, good, fn), Limits{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	text := string(good)
	for name, in := range map[string]string{
		"trailing":            text + "{}",
		"duplicate member":    `{"mediaType":"x",` + text[1:],
		"two names of one":    `{"media_type":"` + MediaTypeBundle + `",` + text[1:],
		"duplicate deep down": strings.Replace(text, `"payload":`, `"payload":"AAE=","payload":`, 1),
		"bad UTF-8":           strings.Replace(text, "log.example", "log.ex\xff", 1),
		"lone surrogate":      strings.Replace(text, "log.example", `log\ud800`, 1),
		"array":               "[" + text + "]",
		"empty":               "",
	} {
		if _, err := ParseBundle([]byte(in), Limits{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

// Limits are the caller's to set.
func TestBundleLimits(t *testing.T) {
	raw := testBundle(t).Bytes()
	for name, lim := range map[string]Limits{
		"bytes": {MaxBundle: int64(len(raw)) - 1}, "depth": {MaxDepth: 3},
	} {
		if _, err := ParseBundle(raw, lim); !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v, want too large", name, err)
		}
	}
}

// Bundles of real signers: the envelope's signature is by the certificate that
// stands beside it, except where the case says otherwise.
func TestConformanceEnvelopeSignatures(t *testing.T) {
	for name, want := range map[string]bool{
		"happy-path-intoto-in-dsse-v3": true, "rekor2-dsse-happy-path": true, "intoto-with-custom-trust-root": true,
		"dsse-mismatch-envelope_fail": true, "dsse-invalid-sig_fail": false, "rekor2-dsse-invalid-sig_fail": false,
	} {
		b, err := ParseBundle(vectors.Read(t, "sigstore-conformance/bundle-verify", name, "bundle.sigstore.json"), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = VerifyDSSE(b.Envelope(), b.Certificate().PublicKey)
		if (err == nil) != want {
			t.Errorf("%s: %v, want verified=%v", name, err, want)
		}
	}
}

// A log entry that says nothing of the kind it claims to be is for trust to
// catch; that the bundle keeps entry and signature apart and unaltered, so that
// it can be caught, is asserted here.
func TestThreat_Bundle_LogEntryOfAnotherDigest(t *testing.T) {
	b, err := ParseBundle(vectors.Read(t, "sigstore-conformance/bundle-verify", "wrong-hashedrekord-entry_fail", "bundle.sigstore.json"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Spec struct {
			Data struct {
				Hash struct{ Value string }
			}
		}
	}
	if err := json.Unmarshal(b.LogEntries()[0].CanonicalizedBody, &body); err != nil {
		t.Fatal(err)
	}
	if logged := body.Spec.Data.Hash.Value; logged == "" || logged == b.MessageSignature().Digest.Hex() {
		t.Errorf("the entry logs %q, the bundle signs %s: want two different digests", logged, b.MessageSignature().Digest)
	}
}
