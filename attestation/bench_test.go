package attestation

import (
	"strings"
	"testing"

	"assay/internal/vectors"
)

func BenchmarkParseBundle(b *testing.B) {
	for _, name := range []string{"happy-path-v0.3", "rekor2-dsse-happy-path"} {
		raw := vectors.Read(b, "sigstore-conformance/bundle-verify", name, "bundle.sigstore.json")
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseBundle(raw, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseStatement(b *testing.B) {
	one := `{"name":"x","digest":{"sha256":"` + sumA + `"}}`
	for name, raw := range map[string][]byte{
		"1-subject":     []byte(goodStatement),
		"1024-subjects": []byte(strings.Replace(goodStatement, one, strings.Repeat(one+",", 1023)+one, 1)),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseStatement(raw, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseProvenance(b *testing.B) {
	for b.Loop() {
		if _, err := ParseProvenance(PredicateProvenanceV1, []byte(v1Provenance)); err != nil {
			b.Fatal(err)
		}
	}
}
