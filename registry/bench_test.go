package registry_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"assay/artifact"
	"assay/identity"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

const benchClients = 10

// peerEnv names another registry, without authentication, to measure with the
// same clients: http://127.0.0.1:5000.
const peerEnv = "ASSAY_BENCH_PEER"

// eachClient divides b.N over ten clients, each with its own connection and a
// scoped token, as containerd and crane have after the first request.
func eachClient(b *testing.B, s *registrytest.Server, f func(do doer, n int64) error) {
	var n, agents atomic.Int64
	var wg sync.WaitGroup
	peer := os.Getenv(peerEnv)
	b.ResetTimer()
	for range benchClients {
		client := &http.Client{Transport: &http.Transport{}}
		bearer := ""
		if peer == "" {
			token := s.Client(b, "owner").Do("GET", "/token?scope=repository:r:pull,push", "")
			bearer = strings.SplitN(strings.SplitN(string(token.Body), `"token":"`, 2)[1], `"`, 2)[0]
		}
		wg.Go(func() {
			do := func(method, path string, body io.Reader, typ string) (*http.Response, error) {
				if !strings.HasPrefix(path, "http") {
					path = s.URL + path
				}
				req, err := http.NewRequestWithContext(b.Context(), method, path, body)
				if err != nil {
					return nil, err
				}
				if bearer != "" {
					req.Header.Set("Authorization", "Bearer "+bearer)
				}
				req.Header.Set("Content-Type", typ)
				// Each request is of another client: a repeated pull is one pull.
				req.Header.Set("User-Agent", fmt.Sprint("bench/", agents.Add(1)))
				res, err := client.Do(req)
				if err != nil {
					return nil, err
				}
				_, err = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode >= 300 {
					err = fmt.Errorf("%s %s: %s", method, path, res.Status)
				}
				return res, err
			}
			for {
				i := n.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := f(do, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
}

// withDigest adds the digest parameter to an upload's location.
func withDigest(location string, d artifact.Digest) string {
	if strings.Contains(location, "?") {
		return location + "&digest=" + string(d)
	}
	return location + "?digest=" + string(d)
}

type doer func(method, path string, body io.Reader, typ string) (*http.Response, error)

func benchServer(b *testing.B, opts ...registrytest.Option) *registrytest.Server {
	s := registrytest.Start(b, storetest.Open(b, store.SQLite), opts...)
	s.Grant(b, "owner", identity.RolePublisher, "**")
	if peer := os.Getenv(peerEnv); peer != "" {
		s.URL = peer
	}
	return s
}

// BenchmarkPush pushes images of one 1 MB layer as clients do: HEAD, POST and
// PUT of the layer, manifest by tag. All is durable when it is acknowledged.
func BenchmarkPush(b *testing.B) {
	s := benchServer(b)
	c := s.Client(b, "owner")
	config := c.PushBlob("r", "{}")
	c.PushImage("r", "warm", registrytest.Image{Layer: "{}"})
	layers := sync.Pool{New: func() any {
		l := make([]byte, 1<<20)
		_, _ = rand.Read(l)
		return &l
	}}
	eachClient(b, s, func(do doer, n int64) error {
		layer := layers.Get().(*[]byte)
		defer layers.Put(layer)
		copy(*layer, fmt.Sprint("layer ", n))
		d := artifact.SHA256Of(*layer)
		res, err := do("POST", "/v2/r/blobs/uploads/", http.NoBody, "")
		if err != nil {
			return err
		}
		if _, err := do("PUT", withDigest(res.Header.Get("Location"), d), strings.NewReader(string(*layer)), "application/octet-stream"); err != nil {
			return err
		}
		m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
			registrytest.ImageType, config, d, len(*layer))
		_, err = do("PUT", fmt.Sprintf("/v2/r/manifests/tag-%d", n%100), strings.NewReader(m), registrytest.ImageType)
		return err
	})
}

// BenchmarkPull pulls images of one 1 MB layer: manifest by tag, then the layer.
// Every pull is recorded; strict ones wait until their record is committed.
func BenchmarkPull(b *testing.B) {
	for _, strict := range []bool{false, true} {
		b.Run(fmt.Sprintf("strict=%v", strict), func(b *testing.B) {
			s := benchServer(b, func(o *registry.Options) { o.StrictAudit = strict })
			c := s.Client(b, "owner")
			layer := strings.Repeat("0123456789abcdef", 1<<16)
			c.PushImage("r", "latest", registrytest.Image{Layer: layer})
			d := artifact.SHA256Of([]byte(layer))
			eachClient(b, s, func(do doer, _ int64) error {
				if _, err := do("GET", "/v2/r/manifests/latest", http.NoBody, ""); err != nil {
					return err
				}
				_, err := do("GET", "/v2/r/blobs/"+string(d), http.NoBody, "")
				return err
			})
		})
	}
}

// BenchmarkManifestPull pulls the manifest alone: what a record costs, and what
// waiting for it.
func BenchmarkManifestPull(b *testing.B) {
	for _, strict := range []bool{false, true} {
		b.Run(fmt.Sprintf("strict=%v", strict), func(b *testing.B) {
			s := benchServer(b, func(o *registry.Options) { o.StrictAudit = strict })
			s.Client(b, "owner").PushImage("r", "latest", registrytest.Image{Layer: "x"})
			eachClient(b, s, func(do doer, _ int64) error {
				_, err := do("GET", "/v2/r/manifests/latest", http.NoBody, "")
				return err
			})
		})
	}
}
