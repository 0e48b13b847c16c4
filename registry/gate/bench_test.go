package gate_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"assay/artifact"
	"assay/config"
	"assay/registry/gate"
	"assay/registry/registrytest"
)

// BenchmarkPush pushes small manifests by tag, from ten clients: what a gate
// adds to the metadata of a push. The policy warns, so that each is decided
// upon and public.
func BenchmarkPush(b *testing.B) {
	for _, mode := range []config.Mode{config.ModeOpen, config.ModeStaged} {
		b.Run(string(mode), func(b *testing.B) {
			spec := config.RepositorySpec{Pattern: "bench/**", Mode: mode}
			s := one(b, spec)
			s.gate.Set(gate.Rules{Repositories: specs(b, spec), Policies: policies(b, warning)})
			c := s.as("owner")
			c.PushBlob("bench/app", "{}")
			var n atomic.Int64
			b.SetParallelism(5)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`,
						registrytest.ImageType, artifact.SHA256Of([]byte("{}")), i)
					r, err := c.Try("PUT", fmt.Sprintf("/v2/bench/app/manifests/t%d", i), strings.NewReader(m), "Content-Type", registrytest.ImageType)
					if err != nil || r.StatusCode != http.StatusCreated {
						b.Errorf("push: %v %v", err, r)
						return
					}
				}
			})
		})
	}
}
