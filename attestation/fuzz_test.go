package attestation

import (
	"bytes"
	"encoding/json"
	"testing"

	"assay/internal/fault"
)

// The kinds that a parser of hostile bytes may answer with.
func checkKind(t *testing.T, err error) {
	if k := fault.KindOf(err); err != nil && k != fault.Invalid && k != fault.TooLarge {
		t.Fatalf("%v is of kind %v", err, k)
	}
}

func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte(`{"payload":"` + okPayload + `","payloadType":"t","signatures":[{"keyid":"k","sig":"AAE=","cert":"c"}]}`))
	f.Add([]byte(`{"payload":"-_8=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"-_8="},{"sig":"+/8="}],"x":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b, Limits{})
		checkKind(t, err)
		if err != nil {
			return
		}
		if n := len(e.Signatures); n == 0 || n > 16 || len(e.Payload) == 0 {
			t.Fatalf("%q gives %+v", b, e)
		}
		_, err = e.Statement(Limits{})
		checkKind(t, err)
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseEnvelope(raw, Limits{})
		if err != nil || !bytes.Equal(again.PAE(), e.PAE()) {
			t.Fatalf("%q written is %q: %v", b, raw, err)
		}
	})
}

func FuzzParseStatement(f *testing.F) {
	f.Add([]byte(goodStatement))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v0.1","subject":[{"digest":{"sha1":"` + commit + `","sha256":"` + sumA + `"},"annotations":{"a":[1.5]}}],"predicateType":"` + PredicateVSA + `","predicate":` + goodVSA + `}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStatement(b, Limits{})
		checkKind(t, err)
		if err != nil {
			return
		}
		for _, sub := range s.Subject {
			if len(sub.Digest.Strong()) == 0 {
				t.Fatalf("%q has a subject without a strong digest", b)
			}
		}
		_, err = s.Provenance()
		checkKind(t, err)
		_, err = s.VSA()
		checkKind(t, err)
		s.Type = StatementV1
		raw, err := s.Bytes()
		if err != nil {
			t.Fatalf("%q does not write: %v", b, err)
		}
		if _, err := ParseStatement(raw, Limits{}); err != nil {
			t.Fatalf("%q written is %q: %v", b, raw, err)
		}
	})
}

func FuzzParseProvenance(f *testing.F) {
	f.Add(byte(0), []byte(v1Provenance))
	f.Add(byte(1), []byte(v02Provenance))
	f.Add(byte(2), []byte(v01Provenance))
	types := []string{PredicateProvenanceV1, PredicateProvenanceV02, PredicateProvenanceV01}
	f.Fuzz(func(t *testing.T, n byte, b []byte) {
		p, err := ParseProvenance(types[int(n)%len(types)], b)
		checkKind(t, err)
		if err == nil && p.BuilderID == "" {
			t.Fatalf("%q has no builder", b)
		}
	})
}

func FuzzParseVSA(f *testing.F) {
	f.Add([]byte(goodVSA))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseVSA(b)
		checkKind(t, err)
		if err != nil {
			return
		}
		s, err := v.Statement(Subject{Digest: map[string]string{"sha256": sumA}})
		checkKind(t, err)
		if err != nil {
			return
		}
		if again, err := s.VSA(); err != nil || again.VerificationResult != v.VerificationResult {
			t.Fatalf("%q written is %q: %v", b, s.Predicate, err)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	b := testBundle(f)
	f.Add(b.Bytes())
	m, err := NewMessageBundle(Material{KeyHint: "h"}, "sha256:"+"0000000000000000000000000000000000000000000000000000000000000000", []byte{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := ParseBundle(raw, Limits{})
		checkKind(t, err)
		if err != nil {
			return
		}
		checkBundle(t, "fuzz", raw, b)
		_, err = b.Statement()
		checkKind(t, err)
	})
}

func FuzzLegacy(f *testing.F) {
	f.Add([]byte(simpleSigning("sha256:"+sumA)), "AAE=", `{"SignedEntryTimestamp":"AAE=","Payload":{"body":"e30=","integratedTime":1,"logIndex":2,"logID":"0f"}}`, `{"SignedRFC3161Timestamp":"MAA="}`, "")
	f.Fuzz(func(t *testing.T, payload []byte, sig, bundle, timestamp, cert string) {
		a := map[string]string{AnnotationCosignSignature: sig, AnnotationCosignBundle: bundle, AnnotationCosignTimestamp: timestamp, AnnotationCosignCertificate: cert}
		if l, err := FromCosignSignature(payload, a, Limits{}); err == nil {
			checkBundle(t, "fuzz", l.Bundle.Bytes(), l.Bundle)
		} else {
			checkKind(t, err)
		}
		_, err := FromCosignAttestation(payload, a, Limits{})
		checkKind(t, err)
	})
}
