package server

import (
	"strings"
	"testing"

	"assay/event"
	"assay/inventory"
	"assay/store"
)

// TestMeshOfWhatRuns: a policy that wants strict mutual TLS is asked again about what
// runs when its mesh is weakened, and when it is strict again; what the cluster does
// not tell is not strict.
func TestMeshOfWhatRuns(t *testing.T) {
	s := newSite(t, true, admitting)
	doc := s.policyDoc("me@example.com")
	if !strings.Contains(doc, "  requirements:\n") {
		t.Fatal(doc)
	}
	s.apply(strings.Replace(doc, "  requirements:\n", "  requirements:\n    mesh: {mtls: strict}\n", 1), false)
	manifest, good := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	pin := s.host() + "/shop/app:v1@" + string(good)
	tell := func(mode inventory.MTLS) {
		t.Helper()
		if err := s.db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := s.inventory.Observe(t.Context(), tx, inventory.Snapshot{Cluster: "c1", Reporter: "test", Identities: []inventory.Identity{
				{Namespace: "shop", Kind: "Deployment", Name: good.Hex()[:8] + "-0", Source: inventory.NoIdentity, Mesh: "istio", MTLS: mode},
			}})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.runs(pin, good, 1, 2)
	await(t, func() bool { return s.count(event.WorkloadDenied, good) == 1 }) // unknown is not strict
	tell(inventory.MTLSStrict)
	await(t, func() bool { return s.count(event.WorkloadAllowed, good) == 1 })
	tell(inventory.MTLSPermissive)
	await(t, func() bool { return s.count(event.WorkloadDenied, good) == 2 })
	if n := s.count(event.MeshWeakened, ""); n != 1 {
		t.Errorf("%d events of a mesh that was weakened", n)
	}
}
