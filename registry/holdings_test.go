package registry_test

import (
	"net/http"
	"testing"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// CVE-2026-35172: what was served a moment ago, and is remembered, is gone with
// its deletion: at once where it was deleted, and within a second where another
// process did it. What another adds is there at once.
func TestThreat_Registry_MemoryAfterDelete(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		here := registrytest.Start(t, db)
		c := owner(t, here)
		there := registrytest.StartIn(t, db, here.Folder)
		there.Grant(t, "owner", identity.RolePublisher, "**")
		other := owner(t, there)
		one := c.PushImage("a", "v1", registrytest.Image{Layer: "one"})
		two := c.PushImage("a", "v2", registrytest.Image{Layer: "two"})
		blob := artifact.SHA256Of([]byte("two"))
		here.Grant(t, "reader", identity.RolePull, "a")
		there.Grant(t, "reader", identity.RolePull, "a")
		readers := []*registrytest.Client{here.Client(t, "reader"), there.Client(t, "reader")}
		for _, r := range readers { // remembered by both
			want(t, "manifest", r.Do("GET", "/v2/a/manifests/"+string(one), ""), http.StatusOK, "")
			want(t, "manifest", r.Do("GET", "/v2/a/manifests/"+string(two), ""), http.StatusOK, "")
			want(t, "blob", r.Do("GET", "/v2/a/blobs/"+string(blob), ""), http.StatusOK, "")
		}
		want(t, "delete", c.Do("DELETE", "/v2/a/manifests/"+string(one), ""), http.StatusAccepted, "")
		want(t, "delete", c.Do("DELETE", "/v2/a/manifests/"+string(two), ""), http.StatusAccepted, "")
		paths := []string{"/v2/a/manifests/" + string(one), "/v2/a/manifests/" + string(two), "/v2/a/blobs/" + string(blob)}
		for _, path := range paths {
			want(t, "here, "+path, readers[0].Do("GET", path, ""), http.StatusNotFound, "")
		}
		deadline := time.Now().Add(time.Second)
		for _, path := range paths {
			for readers[1].Do("GET", path, "").StatusCode != http.StatusNotFound {
				if time.Now().After(deadline) {
					t.Fatalf("%s is served a second after another process deleted it", path)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		three := other.PushImage("a", "v3", registrytest.Image{Layer: "three"})
		want(t, "new", readers[0].Do("GET", "/v2/a/manifests/"+string(three), ""), http.StatusOK, "")
		want(t, "its blob", readers[0].Do("GET", "/v2/a/blobs/"+string(artifact.SHA256Of([]byte("three"))), ""), http.StatusOK, "")
	})
}
