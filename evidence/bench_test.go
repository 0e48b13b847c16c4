//go:build unix

package evidence_test

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/attestation"
	"assay/evidence"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// distinct makes n keyless bundles, each with a certificate, SCT, timestamp and
// log entry of its own. They come from many small logs under one key, since the
// test log computes its whole tree for each entry.
func distinct(t testing.TB, w *trusttest.World, n int) [][]byte {
	t.Helper()
	out := make([][]byte, n)
	var wg sync.WaitGroup
	const each = 64
	next := make(chan int, n)
	for i := 0; i < n; i += each {
		next <- i
	}
	close(next)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for at := range next {
				small := &trusttest.World{Start: w.Start, Host: w.Host, CA: w.CA, TSA: w.TSA, CTKey: w.CTKey, LogKey: w.LogKey}
				for i := at; i < min(at+each, n); i++ {
					st := trusttest.Statement(fmt.Appendf(nil, "artifact %d", i), attestation.PredicateProvenanceV1)
					out[i] = small.Draft(t, trusttest.Request{Statement: st, Leaf: leaf()}).JSON(t)
				}
			}
		})
	}
	wg.Wait()
	return out
}

// BenchmarkIngest ingests distinct keyless bundles, verified and durable (SQLite
// commits with fsync), and prints how many a second. "callers=n" is n
// concurrent Ingest calls, "batch" IngestBatch with all at once, "verify" the
// verification alone, on all cores: the ceiling.
func BenchmarkIngest(b *testing.B) {
	w := trusttest.New(b)
	var used time.Duration
	start := func(b *testing.B) { b.ResetTimer(); used = cpuTime(b) }
	rate := func(b *testing.B) {
		b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/float64(b.N), "cpu-µs/attestation")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "attestations/s")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("verify", func(b *testing.B) {
		bundles, root := distinct(b, w, b.N), w.Root(b)
		start(b)
		parallel(runtime.GOMAXPROCS(0), bundles, func(raw []byte) {
			bundle, err := attestation.ParseBundle(raw, attestation.Limits{})
			if err == nil {
				_, err = root.VerifyBundle(b.Context(), bundle, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
			}
			if err != nil {
				b.Error(err)
			}
		})
		rate(b)
	})
	fresh := func(b *testing.B) *site { return benchSite(b, w) }
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			bundles, s := distinct(b, w, b.N), fresh(b)
			start(b)
			parallel(callers, bundles, func(raw []byte) {
				if _, isNew, err := s.Ingest(b.Context(), raw, evidence.Origin{Repository: "team/app", Source: "api"}); err != nil || !isNew {
					b.Errorf("new %v, %v", isNew, err)
				}
			})
			rate(b)
		})
	}
	b.Run("batch", func(b *testing.B) {
		bundles, s := distinct(b, w, b.N), fresh(b)
		start(b)
		for _, r := range s.IngestBatch(b.Context(), bundles, evidence.Origin{Repository: "team/app", Source: "import"}) {
			if r.Err != nil || !r.New {
				b.Errorf("new %v, %v", r.New, r.Err)
			}
		}
		rate(b)
	})
	b.Run("known", func(b *testing.B) {
		bundles, s := distinct(b, w, min(b.N, 512)), fresh(b)
		s.IngestBatch(b.Context(), bundles, evidence.Origin{})
		again := make([][]byte, b.N)
		for i := range again {
			again[i] = bundles[i%len(bundles)]
		}
		start(b)
		parallel(64, again, func(raw []byte) {
			if _, isNew, err := s.Ingest(b.Context(), raw, evidence.Origin{}); err != nil || isNew {
				b.Errorf("new %v, %v", isNew, err)
			}
		})
		rate(b)
	})
}

// benchSite keeps its data in a folder of the disk, not of memory, where TMPDIR
// says so.
func benchSite(b *testing.B, w *trusttest.World) *site {
	b.Helper()
	db := storetest.Open(b, store.SQLite)
	return openIn(b, db, w, b.TempDir()+"/blobs")
}

func parallel(n int, bundles [][]byte, fn func([]byte)) {
	next := make(chan []byte, len(bundles))
	for _, b := range bundles {
		next <- b
	}
	close(next)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for b := range next {
				fn(b)
			}
		})
	}
	wg.Wait()
}

// cpuTime is what this process has used, on all cores: what the machine could do
// if nothing else ran on it.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEvidence reads what is known about one subject among many.
func BenchmarkEvidence(b *testing.B) {
	w := trusttest.New(b)
	s := benchSite(b, w)
	bundles := distinct(b, w, 2000)
	s.IngestBatch(b.Context(), bundles, evidence.Origin{Repository: "team/app"})
	i := 0
	for b.Loop() {
		items, _, err := s.Evidence(b.Context(), digest(fmt.Sprintf("artifact %d", i%len(bundles))))
		if err != nil || len(items) != 1 {
			b.Fatalf("%d items, %v", len(items), err)
		}
		i++
	}
}
