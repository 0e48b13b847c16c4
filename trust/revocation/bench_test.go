package revocation_test

import (
	"fmt"
	"testing"

	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

// BenchmarkVerify verifies one bundle of provenance with nothing revoked, and
// with a thousand entries of all kinds: the figures side by side are the cost.
func BenchmarkVerify(b *testing.B) {
	s := newSite(b)
	leaf := trusttest.Leaf{Issuer: issuer, Subject: "https://ci.example/team/app/build@main"}
	bundle := s.Sign(b, trusttest.Request{Statement: provenanceBy("https://b.example/one"), Leaf: leaf})
	var entries []revocation.Entry
	for i := range 1000 {
		name := fmt.Sprintf("other-%d", i)
		e := revocation.Entry{Kind: revocation.Artifact, Digest: digestOf(name)}
		switch i % 5 {
		case 1:
			e = revocation.Entry{Kind: revocation.Key, Key: string(digestOf(name))}
		case 2:
			e = revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: issuer, Subject: name}
		case 3:
			e = revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: issuer, Subject: "https://ci.example/" + name + "/**"}
		case 4:
			e = revocation.Entry{Kind: revocation.Builder, Builder: name}
		}
		entries = append(entries, entry(e, s.Start))
	}
	for _, size := range []int{0, 1000} {
		set := revocation.NewSet(s.list(1, entries[:size]...))
		b.Run(fmt.Sprintf("verify/%d", size), func(b *testing.B) {
			for b.Loop() {
				root := s.Root(b) // one that remembers no check
				if _, err := root.VerifyBundle(b.Context(), bundle, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true, Checks: []trust.Check{set.Check}}); err != nil {
					b.Fatal(err)
				}
			}
		})
		v, err := s.root.VerifyBundle(b.Context(), bundle, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("check/%d", size), func(b *testing.B) {
			for b.Loop() {
				if err := set.Check(b.Context(), v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
