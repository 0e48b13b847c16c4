package registry_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"assay/artifact"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// TestThreat_Store_TagFromMemory: once a push or a deletion is answered everybody
// sees it, and whoever saw a newer image behind a tag sees no older one, while many
// ask at once and tags are remembered.
func TestThreat_Store_TagFromMemory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := registrytest.Start(t, db)
		c := owner(t, s)
		const moves = 25
		order := map[artifact.Digest]int{}
		for i := range moves {
			order[c.PushImage("r", fmt.Sprint("n", i), registrytest.Image{Layer: fmt.Sprint(i)})] = i
		}
		put := func(i int) {
			r := c.Do("GET", fmt.Sprint("/v2/r/manifests/n", i), "")
			if p := c.Do("PUT", "/v2/r/manifests/latest", string(r.Body), "Content-Type", registrytest.ImageType); p.StatusCode != http.StatusCreated {
				t.Fatalf("push %d: %s", i, p.Status)
			}
		}
		seen := func(c *registrytest.Client) int {
			r := c.Do("HEAD", "/v2/r/manifests/latest", "")
			if r.StatusCode != http.StatusOK {
				t.Errorf("latest: %s", r.Status)
				return -1
			}
			n, ok := order[artifact.Digest(r.Header.Get("Docker-Content-Digest"))]
			if !ok {
				t.Errorf("latest is %s", r.Header.Get("Docker-Content-Digest"))
			}
			return n
		}
		put(0)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for last := 0; ; {
					select {
					case <-stop:
						return
					default:
					}
					n := seen(c)
					if n < last {
						t.Errorf("saw image %d after %d", n, last)
						return
					}
					last = n
				}
			})
		}
		for i := 1; i < moves; i++ {
			put(i)
			if n := seen(c); n != i {
				t.Errorf("after the push of %d was answered the tag names %d", i, n)
			}
		}
		close(stop)
		wg.Wait()
		want(t, "delete", c.Do("DELETE", "/v2/r/manifests/latest", ""), http.StatusAccepted, "")
		want(t, "after it is deleted", c.Do("HEAD", "/v2/r/manifests/latest", ""), http.StatusNotFound, "")
	})
}
