package trust_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	sigbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	sigroot "github.com/sigstore/sigstore-go/pkg/root"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"

	"assay/attestation"
	"assay/trust"
	"assay/trust/trusttest"
)

// upstream verifies as cosign does, by sigstore-go.
func upstream(t testing.TB, root, bundle []byte) error {
	t.Helper()
	tr, err := sigroot.NewTrustedRootFromJSON(root)
	if err != nil {
		t.Fatal(err)
	}
	v, err := sigverify.NewVerifier(tr, sigverify.WithSignedCertificateTimestamps(1), sigverify.WithTransparencyLog(1), sigverify.WithObserverTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	b := &sigbundle.Bundle{}
	if err := b.UnmarshalJSON(bundle); err != nil {
		return err
	}
	id, err := sigverify.NewShortCertificateIdentity(issuer, "", signer, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(b, sigverify.NewPolicy(sigverify.WithArtifact(bytes.NewReader(content)), sigverify.WithCertificateIdentity(id)))
	return err
}

func ours(t testing.TB, root *trust.Root, bundle []byte) error {
	b, err := attestation.ParseBundle(bundle, attestation.Limits{})
	if err != nil {
		return err
	}
	_, err = root.VerifyBundle(t.Context(), b, strictly())
	return err
}

// TestAgreesWithSigstoreGo verifies what a test world signs with sigstore-go
// too, and then edits bundles at random: what we accept, sigstore-go accepts.
// (The converse does not hold: see the package documentation.)
func TestAgreesWithSigstoreGo(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t)
	message := request()
	message.Statement, message.Artifact = nil, content
	for range 3 {
		w.Draft(t, request())
	}
	accepted, refused := 0, 0
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, req := range []trusttest.Request{request(), message} {
		raw := w.Draft(t, req).JSON(t)
		if err := upstream(t, root.Bytes(), raw); err != nil {
			t.Fatalf("sigstore-go refuses a good bundle: %v", err)
		}
		if err := ours(t, root, raw); err != nil {
			t.Fatalf("we refuse a good bundle: %v", err)
		}
		for range 400 {
			edited := edit(t, rnd, raw)
			if err := ours(t, root, edited); err != nil {
				refused++
				continue
			}
			accepted++
			if err := upstream(t, root.Bytes(), edited); err != nil {
				t.Errorf("we accept what sigstore-go refuses (%v):\n%s", err, edited)
			}
		}
	}
	t.Logf("%d edits refused, %d accepted by both", refused, accepted)
	if refused < 400 {
		t.Errorf("only %d of 800 edits refused: the edits do not bite", refused)
	}
}

// edit changes one leaf of the JSON: drops it, empties it, or flips a character.
func edit(t testing.TB, rnd *rand.Rand, raw []byte) []byte {
	t.Helper()
	var doc any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	type leaf struct {
		set func(any)
		old any
	}
	var leaves []leaf
	var walk func(v any, set func(any))
	walk = func(v any, set func(any)) {
		switch x := v.(type) {
		case map[string]any:
			for k, v := range x {
				walk(v, func(n any) {
					if x[k] = n; n == nil {
						delete(x, k)
					}
				})
			}
			set = nil
		case []any:
			for i, v := range x {
				walk(v, func(n any) { x[i] = n })
			}
			set = nil
		}
		if set != nil {
			leaves = append(leaves, leaf{set, v})
		}
	}
	walk(doc, nil)
	l := leaves[rnd.IntN(len(leaves))]
	s, _ := l.old.(string)
	switch n := rnd.IntN(8); {
	case n == 0:
		l.set(nil)
	case n == 1:
		l.set("")
	case len(s) > 0:
		b := []byte(s)
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/= \n—"
		b[rnd.IntN(len(b))] = alphabet[rnd.IntN(len(alphabet))]
		l.set(strings.ToValidUTF8(string(b), "?"))
	}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// BenchmarkSigstoreGo is the peer of BenchmarkVerifyBundle: the same bundles,
// the root parsed once as well.
func BenchmarkSigstoreGo(b *testing.B) {
	w := trusttest.New(b)
	raws := keyless(b, w, min(b.N, 512))
	tr, err := sigroot.NewTrustedRootFromJSON(w.Root(b).Bytes())
	if err != nil {
		b.Fatal(err)
	}
	v, err := sigverify.NewVerifier(tr, sigverify.WithSignedCertificateTimestamps(1), sigverify.WithTransparencyLog(1), sigverify.WithObserverTimestamps(1))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	defer func() { b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(b.N), "cpu-µs/op") }()
	for i := range b.N {
		bd := &sigbundle.Bundle{}
		if err := bd.UnmarshalJSON(raws[i%len(raws)]); err != nil {
			b.Fatal(err)
		}
		if _, err := v.Verify(bd, sigverify.NewPolicy(sigverify.WithoutArtifactUnsafe(), sigverify.WithoutIdentitiesUnsafe())); err != nil {
			b.Fatal(err)
		}
	}
}
