package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

var testSet = store.Migrations{Name: "test", Steps: []string{`
CREATE TABLE item (
	k TEXT NOT NULL PRIMARY KEY,
	n BIGINT NOT NULL,
	b BYTES,
	f DOUBLE PRECISION,
	parent TEXT REFERENCES item (k),
	CHECK (n >= 0)
);
CREATE INDEX item_by_n ON item (n);`}}

func each(t *testing.T, f func(t *testing.T, db *store.DB), opts ...store.Option) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(context.Background(), testSet); err != nil {
			t.Fatal(err)
		}
		f(t, db)
	}, opts...)
}

func put(ctx context.Context, tx *store.Tx, k string, n int) error {
	_, err := tx.Exec(ctx, `INSERT INTO item (k, n) VALUES (?, ?)`, k, n)
	return err
}

// keys gives all keys in order.
func keys(t testing.TB, db *store.DB) []string {
	t.Helper()
	ctx := context.Background()
	var all []string
	err := db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT k FROM item ORDER BY k`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var k string
			if err := rows.Scan(&k); err != nil {
				return err
			}
			all = append(all, k)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUpdateKeepsOrDropsAll(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		if err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, "a", 1) }); err != nil {
			t.Fatal(err)
		}
		own := errors.New("own")
		err := db.Update(ctx, func(tx *store.Tx) error {
			if err := put(ctx, tx, "b", 1); err != nil {
				return err
			}
			return own
		})
		if err != own {
			t.Errorf("got %v, want the function's own error", err)
		}
		if d := cmp.Diff([]string{"a"}, keys(t, db)); d != "" {
			t.Errorf("keys (-want +got):\n%s", d)
		}
	})
}

func TestKindsOfFailure(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		if err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, "a", 1) }); err != nil {
			t.Fatal(err)
		}
		tests := []struct {
			name string
			fn   func(tx *store.Tx) error
			want error
		}{
			{"same key", func(tx *store.Tx) error { return put(ctx, tx, "a", 2) }, fault.Conflict},
			{"no parent", func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO item (k, n, parent) VALUES (?, ?, ?)`, "c", 1, "none")
				return err
			}, fault.Conflict},
			{"CHECK", func(tx *store.Tx) error { return put(ctx, tx, "c", -1) }, fault.Internal},
			{"NOT NULL", func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO item (k, n) VALUES (?, ?)`, "c", nil)
				return err
			}, fault.Internal},
			{"text in a number's place", func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO item (k, n) VALUES (?, ?)`, "c", "many")
				return err
			}, fault.Internal},
			{"no such table", func(tx *store.Tx) error { _, err := tx.Exec(ctx, `DELETE FROM nothing`); return err }, fault.Internal},
			{"a double-quoted text is a name", func(tx *store.Tx) error {
				var s string
				return tx.QueryRow(ctx, `SELECT "x" FROM item`).Scan(&s)
			}, fault.Internal},
			{"not UTF-8", func(tx *store.Tx) error { return put(ctx, tx, "\xff", 1) }, fault.Invalid},
			{"NUL", func(tx *store.Tx) error { return put(ctx, tx, "a\x00", 1) }, fault.Invalid},
			{"fewer arguments", func(tx *store.Tx) error { _, err := tx.Exec(ctx, `DELETE FROM item WHERE k = ?`); return err }, fault.Internal},
			{"a transaction within", func(tx *store.Tx) error { _, err := tx.Exec(ctx, `COMMIT`); return err }, fault.Internal},
			{"two statements", func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, `DELETE FROM item; DELETE FROM item`)
				return err
			}, fault.Internal},
			{"no row", func(tx *store.Tx) error {
				var n int
				return tx.QueryRow(ctx, `SELECT n FROM item WHERE k = ?`, "none").Scan(&n)
			}, fault.NotFound},
			{"no row, as database/sql says it", func(tx *store.Tx) error {
				var n int
				return tx.QueryRow(ctx, `SELECT n FROM item WHERE k = ?`, "none").Scan(&n)
			}, sql.ErrNoRows},
		}
		for _, tt := range tests {
			err := db.Update(ctx, func(tx *store.Tx) error {
				if err := put(ctx, tx, "before", 1); err != nil {
					return err
				}
				return tt.fn(tx)
			})
			if kind, ok := tt.want.(*fault.Kind); ok {
				if fault.KindOf(err) != kind {
					t.Errorf("%s: got %v (%s), want %s", tt.name, err, fault.KindOf(err).Name(), kind.Name())
				}
			} else if !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			}
		}
		if d := cmp.Diff([]string{"a"}, keys(t, db)); d != "" {
			t.Errorf("keys (-want +got):\n%s", d)
		}
	})
}

func TestFailedTransactionStaysFailed(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			if err := put(ctx, tx, "a", 1); err != nil {
				return err
			}
			_ = put(ctx, tx, "a", 2) // fails, and the function does not look
			return put(ctx, tx, "b", 1)
		})
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v, want the first failure", err)
		}
		err = db.Update(ctx, func(tx *store.Tx) error {
			_ = put(ctx, tx, "a", 1)
			_ = put(ctx, tx, "a", 2)
			return nil
		})
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("a failure that the function hid: got %v, want it nevertheless", err)
		}
		if got := keys(t, db); len(got) != 0 {
			t.Errorf("keys: got %v, want none", got)
		}
		// A row that is not there is an answer, not a failure.
		err = db.Update(ctx, func(tx *store.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, `SELECT n FROM item WHERE k = ?`, "x").Scan(&n); !errors.Is(err, fault.NotFound) {
				return err
			}
			return put(ctx, tx, "x", 1)
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRowsMustBeClosed(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			for i := range 3 {
				if err := put(ctx, tx, fmt.Sprint(i), i); err != nil {
					return err
				}
			}
			rows, err := tx.Query(ctx, `SELECT k FROM item`)
			if err != nil {
				return err
			}
			if !rows.Next() {
				t.Error("no row")
			}
			return put(ctx, tx, "while open", 1)
		})
		if !errors.Is(err, fault.Internal) || !strings.Contains(err.Error(), "still open") {
			t.Errorf("got %v, want that rows are open", err)
		}
		// Rows left open at the end are closed, and the store works on.
		for range 40 {
			err := db.View(ctx, func(tx *store.Tx) error {
				_, err := tx.Query(ctx, `SELECT k FROM item`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, "a", 1) }); err != nil {
			t.Error(err)
		}
	})
}

func TestValuesComeBack(t *testing.T) {
	type name string
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		when := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.FixedZone("x", 3600))
		rows := []struct {
			k    any
			n    any
			b    any
			f    any
			want item
		}{
			{"bool", true, nil, nil, item{K: "bool", N: 1}},
			{name("named"), false, []byte(nil), 1.5, item{K: "named", F: sql.NullFloat64{Float64: 1.5, Valid: true}}},
			{"time", when, []byte{}, math.Inf(1), item{K: "time", N: when.UnixMicro(), B: []byte{}, F: sql.NullFloat64{Float64: math.Inf(1), Valid: true}}},
			{"bytes", uint8(7), []byte{0, 255, '\''}, nil, item{K: "bytes", N: 7, B: []byte{0, 255, '\''}}},
			{"big", int64(math.MaxInt64), nil, -0.25, item{K: "big", N: math.MaxInt64, F: sql.NullFloat64{Float64: -0.25, Valid: true}}},
			{"'; DROP TABLE item; --", time.Time{}, nil, nil, item{K: "'; DROP TABLE item; --"}},
			{"é 🙂 \u2028", sql.NullInt64{Int64: 3, Valid: true}, nil, nil, item{K: "é 🙂 \u2028", N: 3}},
			{"", int32(5), nil, nil, item{N: 5}},
		}
		for _, r := range rows {
			var got item
			err := db.Update(ctx, func(tx *store.Tx) error {
				if _, err := tx.Exec(ctx, `INSERT INTO item (k, n, b, f) VALUES (?, ?, ?, ?)`, r.k, r.n, r.b, r.f); err != nil {
					return err
				}
				return tx.QueryRow(ctx, `SELECT k, n, b, f FROM item WHERE k = ?`, r.k).Scan(&got.K, &got.N, &got.B, &got.F)
			})
			if err != nil {
				t.Errorf("%v: %v", r.k, err)
				continue
			}
			if d := cmp.Diff(r.want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("%v (-want +got):\n%s", r.k, d)
			}
			if b, ok := r.b.([]byte); ok && b != nil {
				n := -1
				_ = db.View(ctx, func(tx *store.Tx) error {
					return tx.QueryRow(ctx, `SELECT COUNT(*) FROM item WHERE k = ? AND b IS NOT NULL`, r.k).Scan(&n)
				})
				if n != 1 {
					t.Errorf("%v: bytes of length %d became NULL", r.k, len(b))
				}
			}
		}
		if got := store.Time(store.Micros(when)); !got.Equal(when) || got.Location() != time.UTC {
			t.Errorf("time: got %v, want %v in UTC", got, when)
		}
		if !store.Time(store.Micros(time.Time{})).IsZero() {
			t.Error("the zero time does not come back")
		}
	})
}

type item struct {
	K string
	N int64
	B []byte
	F sql.NullFloat64
}

// TestOneText has what the databases' defaults would answer differently.
func TestOneText(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			for i, k := range []string{"b", "B", "a", "_", "é", "A", "-a", "Z"} {
				if err := put(ctx, tx, k, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"-a", "A", "B", "Z", "_", "a", "b", "é"}, keys(t, db)); d != "" {
			t.Errorf("order by bytes (-want +got):\n%s", d)
		}
		var like, greater, sum int
		var upserted, returned string
		err = db.Update(ctx, func(tx *store.Tx) error {
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM item WHERE k LIKE ?`, "a%").Scan(&like); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM item WHERE k > ?`, "Z").Scan(&greater); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, `SELECT SUM(n) FROM item`).Scan(&sum); err != nil {
				return err
			}
			const upsert = `INSERT INTO item (k, n) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET n = excluded.n + item.n RETURNING k`
			if err := tx.QueryRow(ctx, upsert, "Z", 10).Scan(&upserted); err != nil {
				return err
			}
			n, err := tx.Exec(ctx, `INSERT INTO item (k, n) VALUES (?, ?) ON CONFLICT (k) DO NOTHING`, "Z", 1)
			if err != nil || n != 0 {
				t.Errorf("do nothing: %d rows, %v", n, err)
			}
			return tx.QueryRow(ctx, `DELETE FROM item WHERE k = ? RETURNING k`, "Z").Scan(&returned)
		})
		if err != nil {
			t.Fatal(err)
		}
		if like != 1 || greater != 4 || sum != 28 || upserted != "Z" || returned != "Z" {
			t.Errorf("got like %d, greater %d, sum %d, upserted %q, returned %q", like, greater, sum, upserted, returned)
		}
	})
}

func TestViewIsASnapshotAndReadOnly(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		count := func(tx *store.Tx) (n int) {
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM item`).Scan(&n); err != nil {
				t.Error(err)
			}
			return n
		}
		err := db.View(ctx, func(tx *store.Tx) error {
			before := count(tx)
			if err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, "a", 1) }); err != nil {
				return err
			}
			if after := count(tx); before != 0 || after != 0 {
				t.Errorf("rows in the snapshot: %d before and %d after another's commit, want 0", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := keys(t, db); len(got) != 1 {
			t.Errorf("a later view: got %v, want the new row", got)
		}
		if err := db.View(ctx, func(tx *store.Tx) error { return put(ctx, tx, "b", 1) }); err == nil {
			t.Error("Exec in a View succeeded")
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			var k string
			return tx.QueryRow(ctx, `INSERT INTO item (k, n) VALUES (?, ?) RETURNING k`, "c", 1).Scan(&k)
		})
		if err == nil {
			t.Error("a query that writes succeeded in a View")
		}
		if got := keys(t, db); len(got) != 1 {
			t.Errorf("after writes in views: got %v", got)
		}
	})
}

func TestNowAndOrdinal(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.FixedZone("x", 7200))
	each(t, func(t *testing.T, db *store.DB) {
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			want := time.Date(2026, 1, 2, 1, 4, 5, 6000, time.UTC)
			if got := tx.Now(); got != want {
				t.Errorf("now: got %v, want %v: UTC and microseconds", got, want)
			}
			if a, b := tx.Ordinal(), tx.Ordinal(); a >= b {
				t.Errorf("ordinals %d, %d do not rise", a, b)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}, store.WithClock(clock.Fixed(at)))
	storetest.Each(t, func(t *testing.T, db *store.DB) { // the machine's clock stands still within a transaction
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			first := tx.Now()
			time.Sleep(2 * time.Millisecond)
			if got := tx.Now(); got != first {
				t.Errorf("now moved from %v to %v", first, got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestSignal(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		wake, stop := db.Watch("x")
		defer stop()
		_ = db.Update(ctx, func(tx *store.Tx) error { tx.Signal("x"); return io.EOF })
		_ = db.Update(ctx, func(tx *store.Tx) error { tx.Signal("y"); return nil })
		select {
		case <-wake:
			t.Fatal("woken by a transaction that failed, or by another topic")
		default:
		}
		if err := db.Update(ctx, func(tx *store.Tx) error { tx.Signal("x"); tx.Signal("x"); return nil }); err != nil {
			t.Fatal(err)
		}
		select {
		case <-wake:
		default:
			t.Fatal("not woken when Update had returned")
		}
	})
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	db := storetest.Open(t, store.SQLite, store.WithRegisterer(r))
	ctx := context.Background()
	_ = db.Update(ctx, func(*store.Tx) error { return fault.Newf(fault.Denied, "no") })
	want := `
# HELP assay_store_updates_total Read-write transactions by outcome (ok or the kind of failure).
# TYPE assay_store_updates_total counter
assay_store_updates_total{outcome="denied"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "assay_store_updates_total"); err != nil {
		t.Error(err)
	}
}
