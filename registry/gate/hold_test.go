package gate_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry/gate"
	"assay/store"
)

// TestThreat_Registry_HeldIsServedAndNew: what waits for a person goes on being
// served, with its parts; nothing new may have it: no push, no promotion, no
// admission. Other replicas see the same. A quarantine goes before it.
func TestThreat_Registry_HeldIsServedAndNew(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.Grant(t, "investigator", identity.RoleOperator, "**")
		owner, reader := s.as("owner"), s.as("reader")
		child := s.runnable(owner, "open/app", "a layer")
		want(t, "push", owner.PutManifest("open/app", digest(child), child), http.StatusCreated, "")
		idx := index(t, child)
		want(t, "push", owner.PutManifest("open/app", "v1", idx), http.StatusCreated, "")
		d, part := artifact.SHA256Of(idx), artifact.SHA256Of(child)
		get(t, "before", reader, "open/app", "v1", http.StatusOK, "")

		do := func(fn func(tx *store.Tx) error) {
			t.Helper()
			if err := s.DB.Update(t.Context(), fn); err != nil {
				t.Fatal(err)
			}
		}
		reach := func(of artifact.Digest) (out []artifact.Digest) {
			t.Helper()
			do(func(tx *store.Tx) (err error) { out, err = gate.Reach(t.Context(), tx, of); return err })
			return out
		}
		if a, b := reach(d), reach(part); len(a) != 2 || len(b) != 2 {
			t.Errorf("%v %v", a, b)
		}
		blocked := func(of artifact.Digest, parts ...artifact.Digest) string {
			t.Helper()
			text, err := s.gate.BlockedText(t.Context(), of, parts)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		do(func(tx *store.Tx) error {
			return s.gate.WaitTx(t.Context(), tx, d, "system:vuln", "malicious package "+strings.Repeat("x", 2000))
		})
		for range 2 { // from the database, and from memory
			for _, ref := range []string{"v1", string(d), string(part)} {
				get(t, "held", reader, "open/app", ref, http.StatusOK, "")
			}
			if got := blocked(d); !strings.Contains(got, "is held since") {
				t.Errorf("%q", got)
			}
			if got := blocked(part); !strings.Contains(got, "is held since") || !strings.Contains(got, "as part of") {
				t.Errorf("%q", got)
			}
			if got := blocked(artifact.SHA256Of([]byte("a whole")), part); !strings.Contains(got, "a part of it may not run") {
				t.Errorf("%q", got)
			}
		}
		want(t, "a blob", reader.Do("GET", "/v2/open/app/blobs/"+digest([]byte("a layer")), ""), http.StatusOK, "")
		s.runnable(owner, "open/other", "a layer")
		want(t, "push elsewhere", owner.PutManifest("open/other", "v1", child), http.StatusForbidden, "is held")
		if _, err := s.gate.Release(t.Context(), d, "inv", "was wrong"); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "assay action") {
			t.Errorf("released past the answer: %v", err)
		}
		// A person's quarantine goes before, and its release leaves the waiting.
		if _, err := s.gate.Quarantine(t.Context(), d, "inv", "INC-7"); err != nil {
			t.Fatal(err)
		}
		get(t, "quarantined", reader, "open/app", "v1", http.StatusForbidden, "is quarantined since")
		if _, err := s.gate.Release(t.Context(), d, "inv", "INC-7 is over"); err != nil {
			t.Fatal(err)
		}
		get(t, "held again", reader, "open/app", "v1", http.StatusOK, "")
		if blocked(d) == "" {
			t.Error("a release let go of what waits")
		}
		do(func(tx *store.Tx) error { return s.gate.QuarantineTx(t.Context(), tx, d, "bob", "malicious") })
		do(func(tx *store.Tx) error { return s.gate.GoOnTx(t.Context(), tx, d) })
		get(t, "approved", reader, "open/app", "v1", http.StatusForbidden, "is quarantined since")
		if n := len(s.Events(t, event.ArtifactQuarantined)); n != 2 {
			t.Errorf("%d events of a quarantine, want 2: waiting is none", n)
		}
		if _, err := s.gate.Release(t.Context(), d, "inv", "a mistake"); err != nil {
			t.Fatal(err)
		}
		if got := blocked(d); got != "" {
			t.Errorf("released: %q", got)
		}
	})
}
