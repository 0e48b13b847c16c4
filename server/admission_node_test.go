package server

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/internal/fault"
)

// TestNodePulls asks a running site as a node's image verifier does: what a
// namespace's policy let run may be pulled, and nothing that is revoked.
func TestNodePulls(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1"}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	manifest, good := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	_, unsigned := s.image("shop/unsigned", "v1", "layer two")
	ask := func(ref string) (a *admission.Answer, err error) {
		t.Helper()
		var r admission.Reply
		if err := s.admin.JudgeNode(t.Context(), client.NodeQuestion{Reference: ref, Cluster: "c1", Namespace: "kube-system", Node: "n1"}, &r); err != nil {
			t.Fatal(err)
		}
		return r.Result()
	}
	app := s.host() + "/shop/app@" + string(good)
	if a, err := ask(app); err != nil || !a.Allowed() || a.Digest != good {
		t.Fatalf("signed: %+v %v", a, err)
	}
	if a, err := ask(s.host() + "/shop/unsigned@" + string(unsigned)); err != nil || !a.Refuses() {
		t.Fatalf("unsigned: %+v %v", a, err)
	}
	if _, err := ask("docker.io/library/nginx@" + string(good)); fault.KindOf(err) != fault.Denied {
		t.Errorf("of another registry: %v", err)
	}
	if _, err := ask(s.host() + "/shop/none@sha256:" + strings.Repeat("0", 64)); fault.KindOf(err) != fault.NotFound {
		t.Errorf("not there: %v", err)
	}
	if _, err := s.admin.Revoke(t.Context(), client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: good, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		a, err := ask(app)
		return err == nil && a.Refuses() && strings.Contains(a.Blocked, "backdoor")
	})
	byDoor := map[artifact.Digest]bool{}
	await(t, func() bool {
		for _, e := range s.eventsOf(event.AdmissionDenied) {
			if strings.Contains(string(e.Body.(json.RawMessage)), `"door":"containerd"`) {
				byDoor[e.Digest] = true
			}
		}
		return byDoor[good] && byDoor[unsigned]
	})
}
