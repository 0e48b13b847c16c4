package verify

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/policy"
	"assay/trust"
	"assay/trust/trusttest"
)

const (
	testIssuer  = "https://issuer.example"
	alice       = "alice@example.org"
	builderID   = "https://builder.example/v1"
	builderSAN  = "https://builder.example/workflow"
	releaseType = attestation.PredicateRelease
)

var content = []byte("a small real program\n")

// world is a private Sigstore with what the tests sign in it.
type world struct {
	*trusttest.World
	root *trust.Root
	t    testing.TB
}

func newWorld(t testing.TB) *world {
	w := &world{World: trusttest.New(t), t: t}
	w.root = w.Root(t, trust.WithName("test"))
	return w
}

func (w *world) verifier(keys ...*ecdsa.PrivateKey) *Verifier {
	w.t.Helper()
	o := VerifierOptions{Roots: []*trust.Root{w.root}}
	for _, k := range keys {
		o.Keys = append(o.Keys, trust.Key{Public: k.Public()})
	}
	v, err := NewVerifier(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// now is after all that the world signs.
func (w *world) now() time.Time { return w.Start.Add(time.Hour) }

func (w *world) sign(who string, artifact []byte) Item {
	return item(w.Sign(w.t, trusttest.Request{Artifact: artifact, Leaf: trusttest.Leaf{Issuer: testIssuer, Subject: who}}))
}

func (w *world) attest(who string, statement []byte) Item {
	return item(w.Sign(w.t, trusttest.Request{Statement: statement, Leaf: trusttest.Leaf{Issuer: testIssuer, Subject: who}}))
}

func item(b *attestation.Bundle) Item {
	return Item{ID: evidence.ID(b.Bytes()), Source: "evidence", Bundle: b.Bytes()}
}

func statement(t testing.TB, of []byte, predicateType string, predicate any) []byte {
	t.Helper()
	raw, err := json.Marshal(predicate)
	if err != nil {
		t.Fatal(err)
	}
	s, err := attestation.NewStatement(predicateType, json.RawMessage(raw), attestation.Subject{Name: "artifact", Digest: artifact.SHA256Of(of).Set()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func provenance(t testing.TB, of []byte, params map[string]any) []byte {
	return statement(t, of, attestation.PredicateProvenanceV1, map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            "https://type.example/v1",
			"externalParameters":   params,
			"resolvedDependencies": []any{map[string]any{"uri": "git+https://git.example/team-a/app@refs/heads/main", "digest": map[string]any{"gitCommit": fmt.Sprintf("%040d", 7)}}},
		},
		"runDetails": map[string]any{
			"builder":  map[string]any{"id": builderID},
			"metadata": map[string]any{"invocationId": "https://builder.example/runs/1"},
		},
		"slsaLevel": 4,
	})
}

func target(of []byte) Target {
	return Target{Digest: artifact.SHA256Of(of), Kind: policy.Image, Repository: "team-a/app"}
}

func parse(t testing.TB, s string) *policy.Policy {
	t.Helper()
	p, err := policy.ParseRequirements([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const policyHead = "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: test}\nspec:\n"

const signedByAlice = policyHead + `  requirements:
    signatures: [{name: alice, identities: [{issuer: "https://issuer.example", subject: alice@example.org}]}]
`

const fullPolicy = signedByAlice + `    attestations:
      - predicateType: https://in-toto.io/attestation/release/v0.1
        identities: [{issuer: "https://issuer.example", subject: alice@example.org}]
        fields: [{path: purl, matches: "pkg:.*"}, {path: "notes[0].text", present: true}]
    provenance:
      builders: [{id: "https://builder.example/v1", signer: {issuer: "https://issuer.example", subject: "https://builder.example/workflow"}, level: 3}]
      minLevel: 3
      sources: ["git+https://git.example/team-a/*"]
      externalParameters: {allow: {ref: [main]}}
`

func fullEvidence(w *world) Items {
	return Items{
		w.sign(alice, content),
		w.attest(alice, statement(w.t, content, releaseType, map[string]any{"purl": "pkg:generic/app@1", "notes": []any{map[string]any{"text": "x"}}})),
		w.attest(builderSAN, provenance(w.t, content, map[string]any{"ref": "main", "debug": nil})),
	}
}

func offline(t testing.TB, w *world, tg Target, src EvidenceSource, p *policy.Policy) *Report {
	t.Helper()
	r, err := Offline(t.Context(), tg, src, OfflineOptions{Verifier: w.verifier(), Policy: p, Clock: w.now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func failing(r *Report) (names []string) {
	for _, c := range r.Checks {
		if c.Status == policy.Fail {
			names = append(names, c.Name)
		}
	}
	return names
}
