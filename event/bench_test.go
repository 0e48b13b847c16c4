package event_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// BenchmarkAppend appends events durably while a sealer seals them; each
// operation is one event. Many clients append one event in each update, as
// requests do; one client appends 100 in each, as a follower does. The
// PostgreSQL figures are without fsync.
func BenchmarkAppend(b *testing.B) {
	for _, d := range storetest.Dialects {
		for _, m := range []struct{ clients, each int }{{1, 1}, {64, 1}, {1, 100}} {
			b.Run(fmt.Sprintf("%s/clients=%d/each=%d", d, m.clients, m.each), func(b *testing.B) {
				db := storetest.Open(b, d)
				l := open(b, db)
				ctx := context.Background()
				body := struct {
					Repository string `json:"repository"`
					Tag        string `json:"tag"`
				}{"team/service", "v1.2.3"}
				e := event.Event{
					Kind: event.ArtifactPulled, Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
					Actor: "https://issuer.example/ann@example.com", Body: body,
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				start := time.Now()
				for range m.clients {
					wg.Go(func() {
						for next.Add(int64(m.each))-int64(m.each) < int64(b.N) {
							err := db.Update(ctx, func(tx *store.Tx) error {
								for range m.each {
									if err := event.Append(ctx, tx, e); err != nil {
										return err
									}
								}
								return nil
							})
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "appended/s")
				await(b, l, int64(b.N))
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "sealed/s")
			})
		}
	}
}

// BenchmarkVerifyChain recomputes leaves and roots; each operation is one event.
func BenchmarkVerifyChain(b *testing.B) {
	db := storetest.Open(b, store.SQLite)
	l := open(b, db)
	ctx := context.Background()
	const total = 20_000
	for range total / 1000 {
		err := db.Update(ctx, func(tx *store.Tx) error {
			for _, e := range pulls(1000) {
				if err := event.Append(ctx, tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	await(b, l, total)
	b.ResetTimer()
	start := time.Now()
	n := 0
	for b.Loop() {
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			b.Fatal(err)
		}
		n += total
	}
	b.ReportMetric(float64(n)/time.Since(start).Seconds(), "events/s")
}
