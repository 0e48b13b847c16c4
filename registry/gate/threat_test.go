package gate_test

import (
	"net/http"
	"testing"
	"time"

	"assay/identity"
)

// TestThreat_Registry_CreateOnlyOverwritesNoHeldTag: who may create and not
// move tags does not take the place of a push that waits (CVE-2026-31801).
func TestThreat_Registry_CreateOnlyOverwritesNoHeldTag(t *testing.T) {
	s := one(t, staged)
	const repo = "staged/app"
	s.Grant(t, "creator", identity.RolePublisher, repo, identity.ActPull, identity.ActCreate)
	owner, creator := s.as("owner"), s.as("creator")
	a, b := s.runnable(owner, repo, "a"), s.runnable(creator, repo, "b")
	want(t, "push", owner.PutManifest(repo, "v1", a), http.StatusCreated, "is staged")
	want(t, "push over what waits", creator.PutManifest(repo, "v1", b), http.StatusForbidden, "may not push")
	want(t, "a tag of their own", creator.PutManifest(repo, "v2", b), http.StatusCreated, "is staged")
	want(t, "the same again", creator.PutManifest(repo, "v2", b), http.StatusCreated, "is staged")
	s.sign(owner, repo, signer, b)
	s.sign(owner, repo, signer, a)
	if r := get(t, "v1", s.as("reader"), repo, "v1", http.StatusOK, ""); string(r.Body) != string(a) {
		t.Fatal("the tag was overwritten")
	}
}

// TestThreat_Registry_StaleStateAfterDelete: what is deleted and pushed anew
// has no state of its former life (CVE-2026-35172).
func TestThreat_Registry_StaleStateAfterDelete(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		s.Grant(t, "operator", identity.RoleOperator, "**")
		owner, reader := s.as("owner"), s.as("reader")
		m := s.runnable(owner, repo, "x")
		want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "")
		if err := s.gate.PromoteByHand(t.Context(), repo, artifactOf(m), "boss", "for the test", time.Hour); err != nil {
			t.Fatal(err)
		}
		get(t, "public", reader, repo, "v1", http.StatusOK, "")
		want(t, "delete", s.as("operator").Do("DELETE", "/v2/"+repo+"/manifests/"+digest(m), ""), http.StatusAccepted, "")
		get(t, "deleted", reader, repo, digest(m), http.StatusNotFound, "")
		get(t, "its tag", reader, repo, "v1", http.StatusNotFound, "")
		want(t, "push anew", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		get(t, "pushed anew", reader, repo, digest(m), http.StatusForbidden, "is staged")
		get(t, "by tag", reader, repo, "v1", http.StatusForbidden, "is staged")
	}, staged)
}

// TestThreat_Registry_DeletedHeldPushIsNotPromoted: a push that waits and is
// deleted leaves no tag behind, whatever is signed later.
func TestThreat_Registry_DeletedHeldPushIsNotPromoted(t *testing.T) {
	s := one(t, staged)
	const repo = "staged/app"
	s.Grant(t, "owner", identity.RoleOperator, "**")
	owner := s.as("owner")
	m := s.runnable(owner, repo, "x")
	want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "")
	want(t, "push", owner.PutManifest(repo, "v2", m), http.StatusCreated, "")
	want(t, "delete the tag that waits", owner.Do("DELETE", "/v2/"+repo+"/manifests/v1", ""), http.StatusAccepted, "")
	s.sign(owner, repo, signer, m)
	get(t, "v1", s.as("reader"), repo, "v1", http.StatusNotFound, "")
	get(t, "v2", s.as("reader"), repo, "v2", http.StatusOK, "")
}

// TestStatusOfNothing:
// a status of what is not there is an error and no decision.
func TestStatusOfNothing(t *testing.T) {
	s := one(t, staged)
	for _, tag := range []string{"v1", ""} {
		if st, err := s.gate.Status(t.Context(), "staged/none", tag, artifactOf([]byte("x"))); err == nil {
			t.Fatalf("%+v", st)
		}
	}
	if list, err := s.engine.List(t.Context(), artifactOf([]byte("x"))); err != nil || len(list) != 0 {
		t.Fatalf("decisions about what is not there: %v, %v", list, err)
	}
}
