package attestation

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"crypto/elliptic"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/vectors"
)

// The nine .att images in slsa-verifier's data, as cosign wrote them: each
// layer becomes a bundle whose envelope its certificate signed.
func TestFromCosignAttestation(t *testing.T) {
	root := vectors.Dir(t, "slsa-verifier/testdata/gha_generic_container")
	blobs, err := filepath.Glob(filepath.Join(root, "*", "*", "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	layers := 0
	for _, f := range blobs {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ Layers []Descriptor }
		if json.Unmarshal(raw, &m) != nil {
			continue
		}
		for _, l := range m.Layers {
			if l.MediaType != MediaTypeDSSE {
				continue
			}
			layers++
			envelope, err := os.ReadFile(filepath.Join(filepath.Dir(f), l.Digest.Hex()))
			if err != nil {
				t.Fatal(err)
			}
			b, err := FromCosignAttestation(envelope, l.Annotations, Limits{})
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			checkBundle(t, f, b.Bytes(), b)
			if _, err := VerifyDSSE(b.Envelope(), b.Certificate().PublicKey); err != nil {
				t.Errorf("%s: %v", f, err)
			}
			s, err := b.Statement()
			if err != nil || s.PredicateType != PredicateProvenanceV02 {
				t.Errorf("%s: %+v, %v", f, s, err)
			}
			e := b.LogEntries()[0]
			if k := e.KindVersion.Kind; b.Version() != BundleV01 || (k != "intoto" && k != "dsse") || e.LogIndex == 0 || e.IntegratedTime == 0 || len(e.LogId.KeyId) != 32 {
				t.Errorf("%s: %s, %v", f, b.Version(), e)
			}
			again, err := ToCosignAnnotations(b)
			if err != nil {
				t.Fatal(err)
			}
			back, err := FromCosignAttestation(envelope, again, Limits{})
			if err != nil || string(back.Bytes()) != string(b.Bytes()) {
				t.Errorf("%s: annotations written and read differ: %v", f, err)
			}
		}
	}
	if layers != 9 {
		t.Errorf("%d attestation layers, want 9", layers)
	}
}

func simpleSigning(digest string) string {
	return `{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":"` + digest +
		`"},"type":"cosign container image signature"},"optional":null}`
}

func TestFromCosignSignature(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	payload := []byte(simpleSigning("sha256:" + sumA))
	sig, err := SignMessage(t.Context(), key, payload)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafFor(t, key)
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}))
	body := base64.StdEncoding.EncodeToString([]byte(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}`))
	id := strings.Repeat("0f", 32)
	annotations := map[string]string{
		AnnotationCosignSignature:   base64.StdEncoding.EncodeToString(sig),
		AnnotationCosignCertificate: pemText,
		AnnotationCosignChain:       pemText,
		AnnotationCosignBundle:      `{"SignedEntryTimestamp":"AAE=","Payload":{"body":"` + body + `","integratedTime":1700000000,"logIndex":42,"logID":"` + id + `"}}`,
		AnnotationCosignTimestamp:   `{"SignedRFC3161Timestamp":"MAA="}`,
	}
	got, err := FromCosignSignature(payload, annotations, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Image != artifact.Digest("sha256:"+sumA) || got.Reference != "registry.example/app" {
		t.Errorf("%+v", got)
	}
	b := got.Bundle
	if err := VerifySignature(b.Certificate().PublicKey, got.Payload, b.Signature()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(&MessageSignature{Digest: artifact.SHA256Of(payload), Signature: sig}, b.MessageSignature()); d != "" {
		t.Error(d)
	}
	if e := b.LogEntries()[0]; b.Version() != BundleV01 || e.LogIndex != 42 || e.IntegratedTime != 1700000000 || e.KindVersion.Kind != "hashedrekord" {
		t.Errorf("%s, %v", b.Version(), e)
	}
	if d := cmp.Diff([][]byte{{0x30, 0}}, b.Timestamps()); d != "" {
		t.Error(d)
	}
	checkBundle(t, "legacy", b.Bytes(), b)

	// A bare key: signature alone.
	bare, err := FromCosignSignature(payload, map[string]string{AnnotationCosignSignature: annotations[AnnotationCosignSignature]}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, key := bare.Bundle.KeyHint(); !key || bare.Bundle.Version() != BundleV03 {
		t.Errorf("bare key: %s", bare.Bundle.Bytes())
	}

	with := func(name, value string) map[string]string {
		out := map[string]string{}
		for k, v := range annotations {
			out[k] = v
		}
		out[name] = value
		return out
	}
	for name, c := range map[string]struct {
		payload     string
		annotations map[string]string
	}{
		"no signature":       {string(payload), with(AnnotationCosignSignature, "")},
		"bad signature":      {string(payload), with(AnnotationCosignSignature, "!!")},
		"bad certificate":    {string(payload), with(AnnotationCosignCertificate, "x")},
		"key as certificate": {string(payload), with(AnnotationCosignCertificate, strings.ReplaceAll(pemText, "CERTIFICATE", "PUBLIC KEY"))},
		"bundle no JSON":     {string(payload), with(AnnotationCosignBundle, "x")},
		"bundle null":        {string(payload), with(AnnotationCosignBundle, "null")},
		"bundle twice":       {string(payload), with(AnnotationCosignBundle, strings.Replace(annotations[AnnotationCosignBundle], `"logIndex":42`, `"logIndex":42,"logIndex":43`, 1))},
		"negative index":     {string(payload), with(AnnotationCosignBundle, strings.Replace(annotations[AnnotationCosignBundle], ":42", ":-42", 1))},
		"log id no hex":      {string(payload), with(AnnotationCosignBundle, strings.Replace(annotations[AnnotationCosignBundle], id, "zz", 1))},
		"body no JSON":       {string(payload), with(AnnotationCosignBundle, strings.Replace(annotations[AnnotationCosignBundle], body, "AAE=", 1))},
		"no promise":         {string(payload), with(AnnotationCosignBundle, strings.Replace(annotations[AnnotationCosignBundle], `"AAE="`, `""`, 1))},
		"bad timestamp":      {string(payload), with(AnnotationCosignTimestamp, `{"SignedRFC3161Timestamp":"M\nAA="}`)},
		"empty timestamp":    {string(payload), with(AnnotationCosignTimestamp, `{}`)},
		"payload type":       {strings.Replace(string(payload), "cosign container", "other container", 1), annotations},
		"payload digest":     {simpleSigning("sha1:" + sumA[:40]), annotations},
		"payload twice":      {strings.Replace(string(payload), `"image":`, `"image":{},"image":`, 1), annotations},
		"payload folded":     {strings.Replace(string(payload), `"critical"`, `"Critical"`, 1), annotations},
		"payload null":       {"null", annotations},
	} {
		if got, err := FromCosignSignature([]byte(c.payload), c.annotations, Limits{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %+v, %v, want invalid", name, got, err)
		}
	}
	if _, err := FromCosignSignature(payload, with(AnnotationCosignBundle, strings.Repeat(" ", 5<<20)), Limits{}); !errors.Is(err, fault.TooLarge) {
		t.Errorf("large annotation: %v, want too large", err)
	}
}

// slsa-github-generator's bare envelopes have the certificate in the signature.
func TestFromEnvelope(t *testing.T) {
	raw := vectors.Read(t, "slsa-verifier/testdata", "workflow-inputs.intoto.jsonl")
	e, err := ParseEnvelope(raw[:len(strings.TrimSpace(string(raw)))], Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromEnvelope(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyDSSE(b.Envelope(), b.Certificate().PublicKey); err != nil {
		t.Error(err)
	}
	e.Signatures = append(e.Signatures, e.Signatures[0])
	if _, err := FromEnvelope(e); !errors.Is(err, fault.Invalid) {
		t.Errorf("two signatures: %v, want invalid", err)
	}
}
