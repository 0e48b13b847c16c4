package trust_test

import (
	"testing"
	"time"

	"assay/attestation"
	"assay/trust"
	"assay/trust/trusttest"
)

func keyless(t testing.TB, w *trusttest.World, n int) [][]byte {
	var out [][]byte
	for range n {
		d := w.Draft(t, trusttest.Request{
			Statement: trusttest.Statement([]byte("artifact"), attestation.PredicateProvenanceV1),
			Leaf:      trusttest.Leaf{Issuer: "https://oidc.assay.test", Subject: "https://ci.assay.test/repo/build.yml@refs/heads/main", Extensions: map[int]string{9: "x", 12: "https://git.assay.test/repo"}},
		})
		out = append(out, d.JSON(t))
	}
	return out
}

// BenchmarkVerifyBundle verifies keyless DSSE bundles from their bytes: parse,
// Rekor v2 entry, RFC 3161 timestamp, SCT, certificate path, signature,
// statement. "cold" sees each bundle once, as ingest does; "warm" the same one
// again; "parse" is the share of reading the JSON.
func BenchmarkVerifyBundle(b *testing.B) {
	w := trusttest.New(b)
	root := w.Root(b)
	o := trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true}
	verify := func(b *testing.B, raw []byte) {
		bundle, err := attestation.ParseBundle(raw, attestation.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := root.VerifyBundle(b.Context(), bundle, o); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		raws := keyless(b, w, min(b.N, 4096))
		b.ReportAllocs()
		b.ResetTimer()
		var cpu time.Duration
		for i := range b.N {
			if i%len(raws) == 0 {
				b.StopTimer()
				root = w.Root(b) // forgets
				b.StartTimer()
			}
			start := cpuTime()
			verify(b, raws[i%len(raws)])
			cpu += cpuTime() - start
		}
		b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/op")
	})
	raw := keyless(b, w, 1)[0]
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			verify(b, raw)
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := attestation.ParseBundle(raw, attestation.Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
