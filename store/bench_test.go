package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/store"
	"assay/store/storetest"
)

var benchSet = store.Migrations{Name: "bench", Steps: []string{`CREATE TABLE bench (
	k TEXT NOT NULL PRIMARY KEY, n BIGINT NOT NULL, v TEXT NOT NULL)`}}

func openBench(b *testing.B, d store.Dialect) *store.DB {
	b.Helper()
	db := storetest.Open(b, d)
	if err := db.Migrate(context.Background(), benchSet); err != nil {
		b.Fatal(err)
	}
	return db
}

// BenchmarkUpdate is one small durable transaction for each operation, by one
// client and by many at once. The PostgreSQL figures are without fsync.
func BenchmarkUpdate(b *testing.B) {
	for _, d := range storetest.Dialects {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", d, clients), func(b *testing.B) {
				db := openBench(b, d)
				ctx := context.Background()
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				start := time.Now()
				for range clients {
					wg.Go(func() {
						for {
							i := next.Add(1)
							if i > int64(b.N) {
								return
							}
							err := db.Update(ctx, func(tx *store.Tx) error {
								_, err := tx.Exec(ctx, `INSERT INTO bench (k, n, v) VALUES (?, ?, ?)`, fmt.Sprintf("%020d", i), i, "value")
								return err
							})
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "updates/s")
			})
		}
	}
}

// BenchmarkView is one snapshot with one look-up by key: what reading a
// current decision costs.
func BenchmarkView(b *testing.B) {
	for _, d := range storetest.Dialects {
		b.Run(string(d), func(b *testing.B) {
			db := openBench(b, d)
			ctx, cancel := context.WithCancel(context.Background()) // as a request has
			defer cancel()
			err := db.Update(ctx, func(tx *store.Tx) error {
				for i := range 1000 {
					if _, err := tx.Exec(ctx, `INSERT INTO bench (k, n, v) VALUES (?, ?, ?)`, fmt.Sprint(i), i, "value"); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				err := db.View(ctx, func(tx *store.Tx) error {
					var n int64
					var v string
					return tx.QueryRow(ctx, `SELECT n, v FROM bench WHERE k = ?`, "500").Scan(&n, &v)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
