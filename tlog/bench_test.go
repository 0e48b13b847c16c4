package tlog

import (
	"crypto/rand"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkAdd prints what the log reaches with durable answers: entries a
// second at 1,024 clients, and the median wait of a single one. Entries are of
// the size of a keyless signature's.
func BenchmarkAdd(b *testing.B) {
	entry := func() []byte {
		e := make([]byte, 3500)
		_, _ = rand.Read(e)
		return e
	}
	b.Run("single", func(b *testing.B) {
		l := open(b, options(b, openStore(b)))
		var waits []time.Duration
		for b.Loop() {
			began := time.Now()
			if _, err := l.Add(b.Context(), entry()); err != nil {
				b.Fatal(err)
			}
			waits = append(waits, time.Since(began))
		}
		slices.Sort(waits)
		b.ReportMetric(float64(waits[len(waits)/2].Microseconds())/1000, "ms-median")
		b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds())/1000, "ms-p99")
	})
	b.Run("clients=1024", func(b *testing.B) {
		l := open(b, options(b, openStore(b)))
		var left atomic.Int64
		left.Store(int64(b.N))
		began := time.Now()
		var wg sync.WaitGroup
		for range 1024 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := l.Add(b.Context(), entry()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "entries/s")
	})
}
