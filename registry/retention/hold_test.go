package retention_test

import (
	"testing"

	"assay/artifact"
	"assay/registry/registrytest"
	"assay/registry/retention"
	"assay/store"
	"assay/store/storetest"
)

// TestThreat_Registry_EvidenceOfWhatIsHeld: the evidence about what is on hold is
// deleted by no detour: by taking its carrier tag away, by moving that tag on, or
// by a subject of another image.
func TestThreat_Registry_EvidenceOfWhatIsHeld(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		const repo = "team/app"
		image := c.PushImage(repo, "v1", registrytest.Image{Layer: "one"})
		other := c.PushImage(repo, "v2", registrytest.Image{Layer: "two"})
		carrier := "sha256-" + image.Hex()
		var old []artifact.Digest
		for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
			old = append(old, c.PushImage(repo, carrier+suffix, registrytest.Image{Layer: "first" + suffix}))
		}
		both := c.PushImage(repo, "", registrytest.Image{Layer: "both", Subject: other, ArtifactType: "application/x"})
		if r := c.PutManifest(repo, carrier+".att", c.Manifest(repo, registrytest.Image{Layer: "both", Subject: other, ArtifactType: "application/x"})); r.StatusCode != 201 {
			t.Fatalf("%s %s", r.Status, r.Body)
		}
		free := c.PushImage(repo, "sha256-"+other.Hex()+".sig", registrytest.Image{Layer: "free"})
		h, err := s.holds.Add(t.Context(), "boss", retention.HoldRequest{Repository: repo, Tag: "v1", Reason: "case 1"})
		if err != nil {
			t.Fatal(err)
		}
		del := func(what, ref string, status int) {
			t.Helper()
			if r := c.Do("DELETE", "/v2/"+repo+"/manifests/"+ref, ""); r.StatusCode != status {
				t.Errorf("delete %s: %s %s, want %d", what, r.Status, r.Body, status)
			}
		}
		for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
			del("the tag "+suffix, carrier+suffix, 403)
		}
		c.PushImage(repo, carrier+".sig", registrytest.Image{Layer: "second"})
		for _, d := range old {
			del("what a carrier tag names or named", string(d), 403)
		}
		del("evidence about two", string(both), 403)
		del("evidence about another", string(free), 202)
		if _, err := s.holds.Remove(t.Context(), h.ID, "boss", "closed"); err != nil {
			t.Fatal(err)
		}
		for _, d := range append(old, both) {
			del("after the hold", string(d), 202)
		}
	})
}
