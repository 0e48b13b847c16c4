package gate_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/policy"
	"assay/registry/gate"
	"assay/source/forge"
	"assay/store"
	"assay/trust/trusttest"
	"assay/verify"
)

// unforced wants a build of a commit that no force push took away.
const unforced = `apiVersion: assay/v1
kind: Policy
metadata: {name: unforced}
spec:
  requirements:
    provenance:
      builders: [{id: "https://builder.example/v1", level: 2, signer: {issuer: "https://issuer.example", subject: ci@example.com}}]
    source: {noForcePush: true, identities: [{issuer: "https://issuer.example", subject: ci@example.com}]}
`

// ingest hands in a statement by another door than the registry.
func (s *site) ingest(predicateType string, predicate any, digest artifact.DigestSet) string {
	s.t.Helper()
	raw, err := json.Marshal(predicate)
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := attestation.NewStatement(predicateType, json.RawMessage(raw), attestation.Subject{Name: "x", Digest: digest})
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := st.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	bundle := s.world.Sign(s.t, trusttest.Request{Statement: b, Leaf: trusttest.Leaf{Issuer: issuer, Subject: signer}}).Bytes()
	if _, _, err := s.store.Ingest(s.t.Context(), bundle, evidence.Origin{Source: "api", Actor: "tester"}); err != nil {
		s.t.Fatal(err)
	}
	return evidence.ID(bundle)
}

// TestThreat_Source_CommitTakenAwayLater: what was built from a commit, and let
// in, is judged again when something is said about the commit, in the gate and
// wherever else a decision about it stands.
func TestThreat_Source_CommitTakenAwayLater(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		p := policies(t, unforced)
		s.gate.Set(gate.Rules{Repositories: specs(t, staged), Policies: p})
		s.work()
		owner, reader, repo := s.as("owner"), s.as("reader"), "staged/app"
		commit := artifact.DigestSet{"gitCommit": strings.Repeat("c", 40)}
		m, other := s.runnable(owner, repo, "built"), s.runnable(owner, repo, "another")
		for _, x := range [][]byte{m, other} {
			want(t, "push", owner.PutManifest(repo, "v-"+digest(x)[7:12], x), http.StatusCreated, "is staged")
		}
		build := func(x []byte, from artifact.DigestSet) {
			s.ingest(attestation.PredicateProvenanceV1, map[string]any{
				"buildDefinition": map[string]any{"buildType": "https://type.example/v1", "externalParameters": map[string]any{},
					"resolvedDependencies": []any{map[string]any{"uri": "git+https://git.example/app@refs/heads/main", "digest": from}}},
				"runDetails": map[string]any{"builder": map[string]any{"id": "https://builder.example/v1"}},
			}, artifact.SHA256Of(x).Set())
		}
		record := func(commit artifact.DigestSet, removed bool) string {
			return s.ingest(forge.PredicateRecord, forge.Record{Repository: "git+https://git.example/app", Ref: "refs/heads/main", Before: strings.Repeat("b", 40), Forced: "no", Removed: removed, FilesKnown: true}, commit)
		}
		state := func(what string, x []byte, status int) {
			t.Helper()
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				s.Events(t, event.AttestationIngested) // seals
				r := reader.Do("GET", "/v2/"+repo+"/manifests/"+digest(x), "")
				if r.StatusCode == status {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: status %d, want %d: %s", what, r.StatusCode, status, r.Body)
				}
			}
		}
		ctx, stop := contextFor(t)
		done := make(chan error, 1)
		go func() { done <- s.gate.Run(ctx) }()
		// The word about the commit comes before the build of the one, and after
		// the build of the other.
		record(commit, false)
		build(m, commit)
		state("built from a good commit", m, http.StatusOK)
		second := artifact.DigestSet{"gitCommit": strings.Repeat("d", 40)}
		build(other, second)
		record(second, false)
		state("its commit's record came late", other, http.StatusOK)

		// A decision in a scope that no gate keeps.
		scope := policy.Scope{ID: "cluster/one"}
		target := verify.Target{Digest: artifactOf(m), Kind: policy.Image, Repository: repo}
		decide := func() *verify.Decision {
			d, err := s.engine.Decide(t.Context(), target, scope, p.Policies()[0])
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		if d := decide(); !d.Allowed() {
			t.Fatal(d.Err())
		}
		stirred := func() (n int64) {
			due, err := s.engine.Due(t.Context(), time.Time{}, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range due {
				if d.Scope == scope {
					n += d.Stirred
				}
			}
			return n
		}
		draft, err := s.engine.Draft(t.Context(), target, scope, p.Policies()[0]) // begun before the push
		if err != nil || stirred() != 0 {
			t.Fatalf("%v, stirred %d", err, stirred())
		}
		id := record(commit, true)
		state("the commit was taken away", m, http.StatusForbidden)
		state("of another commit", other, http.StatusOK)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		update := func(fn func(tx *store.Tx) error) {
			t.Helper()
			if err := s.DB.Update(t.Context(), fn); err != nil {
				t.Fatal(err)
			}
		}
		update(func(tx *store.Tx) error { return s.engine.Stir(t.Context(), tx, id) })
		update(func(tx *store.Tx) error { _, err := draft.Store(t.Context(), tx); return err })
		if stirred() != 1 {
			t.Errorf("a draft from before the push made the decision no longer due")
		}
		if d := decide(); d.Allowed() || stirred() != 0 {
			t.Errorf("%s, stirred %d", d.Verdict, stirred())
		}
	}, staged)
}

// reviewedPolicy wants a reviewed commit whose merges hold nothing of their own.
const reviewedPolicy = `apiVersion: assay/v1
kind: Policy
metadata: {name: reviewed}
spec:
  requirements:
    provenance:
      builders: [{id: "https://builder.example/v1", level: 2, signer: {issuer: "https://issuer.example", subject: ci@example.com}}]
    source: {reviewed: true, merges: resolved, identities: [{issuer: "https://issuer.example", subject: ci@example.com}]}
`

// TestThreat_Source_ReviewWithdrawn: the last record of a push is what counts,
// and what a merge commit hides is an event and a reason to deny.
func TestThreat_Source_ReviewWithdrawn(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		p := policies(t, reviewedPolicy)
		s.gate.Set(gate.Rules{Repositories: specs(t, staged), Policies: p})
		commit := artifact.DigestSet{"gitCommit": strings.Repeat("c", 40)}
		content := []byte("built of it")
		s.ingest(attestation.PredicateProvenanceV1, map[string]any{
			"buildDefinition": map[string]any{"buildType": "https://type.example/v1", "externalParameters": map[string]any{},
				"resolvedDependencies": []any{map[string]any{"uri": "git+https://git.example/app@refs/heads/main", "digest": commit}}},
			"runDetails": map[string]any{"builder": map[string]any{"id": "https://builder.example/v1"}},
		}, artifact.SHA256Of(content).Set())
		at := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
		record := func(revision int, reviewed bool) {
			s.ingest(forge.PredicateRecord, forge.Record{Repository: "git+https://git.example/app", Ref: "refs/heads/main", Before: strings.Repeat("b", 40), PushedAt: at,
				Forced: "no", FilesKnown: true, Reviewed: reviewed, Revision: revision}, commit)
		}
		summary := func(m attestation.SourceMerges, level string) {
			s.ingest(attestation.PredicateVSA, map[string]any{
				"verifier": map[string]any{"id": "https://verifier.example"}, "timeVerified": at, "resourceUri": "git+https://git.example/app", "policy": map[string]any{"uri": "urn:x"},
				"verificationResult": "PASSED", "verifiedLevels": []string{level}, attestation.VSASourceMerges: m,
			}, commit)
		}
		decide := func() *verify.Decision {
			t.Helper()
			d, err := s.engine.Decide(t.Context(), verify.Target{Digest: artifact.SHA256Of(content), Kind: policy.Image, Repository: "staged/app"}, policy.Scope{ID: "cluster/one"}, p.Policies()[0])
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		denied := func(word string) {
			t.Helper()
			if d := decide(); d.Allowed() || !strings.Contains(d.Err().Error(), word) {
				t.Errorf("%v, want a denial with %q", d.Err(), word)
			}
		}
		summary(attestation.SourceMerges{Clean: 2, Resolved: 1}, "SLSA_SOURCE_LEVEL_1")
		record(0, true)
		if d := decide(); !d.Allowed() {
			t.Fatal(d.Err())
		}
		record(1, false)
		denied("not reviewed")
		record(2, true)
		if d := decide(); !d.Allowed() {
			t.Fatal(d.Err())
		}
		if n := len(s.Events(t, event.SourceMergeChanged)); n != 0 {
			t.Errorf("%d events of merges", n)
		}
		summary(attestation.SourceMerges{Clean: 2, Changed: 1, Commits: []string{strings.Repeat("d", 40)}}, "SLSA_SOURCE_LEVEL_1")
		denied("none of the merged branches brings")
		if got := s.Events(t, event.SourceMergeChanged); len(got) != 1 || got[0].Digest != evidence.CommitKey(strings.Repeat("c", 40)) || !strings.Contains(fmt.Sprintf("%s", got[0].Body), strings.Repeat("d", 40)) {
			t.Errorf("events %v", got)
		}
	})
}
