package store_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

func TestConcurrentUpdates(t *testing.T) {
	const clients, rounds = 64, 20
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		if err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, "count", 0) }); err != nil {
			t.Fatal(err)
		}
		own := errors.New("own")
		var committed, refused atomic.Int64
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for i := range rounds {
					fail := (c+i)%4 == 0
					called := false
					err := db.Update(ctx, func(tx *store.Tx) error {
						tx.OnCommit(func() { called = true })
						if err := put(ctx, tx, fmt.Sprintf("%d/%d", c, i), 1); err != nil {
							return err
						}
						if fail {
							return own
						}
						// Read, then write what was read: lost updates would show.
						var n int
						if err := tx.QueryRow(ctx, `SELECT n FROM item WHERE k = 'count'`).Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec(ctx, `UPDATE item SET n = ? WHERE k = 'count'`, n+1)
						return err
					})
					switch {
					case fail && err == own && !called:
						refused.Add(1)
					case !fail && err == nil && called:
						committed.Add(1)
					case errors.Is(err, fault.Unavailable) && db.Dialect() == store.PostgreSQL:
						// 64 writers of one row may lose their bounded number of races.
					default:
						t.Errorf("client %d round %d: fail %v, got %v, OnCommit called %v", c, i, fail, err, called)
					}
				}
			})
		}
		wg.Wait()
		var n int64
		err := db.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT n FROM item WHERE k = 'count'`).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		if n != committed.Load() || len(keys(t, db)) != int(committed.Load())+1 {
			t.Errorf("count is %d with %d rows, acknowledged %d", n, len(keys(t, db))-1, committed.Load())
		}
		if refused.Load() != clients*rounds/4 {
			t.Errorf("refused %d, want %d", refused.Load(), clients*rounds/4)
		}
		if db.Dialect() == store.SQLite && committed.Load() != clients*rounds*3/4 {
			t.Errorf("committed %d, want %d", committed.Load(), clients*rounds*3/4)
		}
	})
}

func TestPanicAndGoexitAreTheCallersAlone(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		var wg sync.WaitGroup
		var ok, panicked atomic.Int64
		for c := range 30 {
			wg.Go(func() {
				defer func() {
					if recover() != nil {
						panicked.Add(1)
					}
				}()
				err := db.Update(ctx, func(tx *store.Tx) error {
					if err := put(ctx, tx, fmt.Sprint(c), c); err != nil {
						return err
					}
					switch c % 3 {
					case 0:
						panic("own")
					case 1:
						runtime.Goexit()
					}
					return nil
				})
				if err != nil {
					t.Errorf("client %d: %v", c, err)
				}
				ok.Add(1)
			})
		}
		wg.Wait()
		if ok.Load() != 10 || panicked.Load() != 10 || len(keys(t, db)) != 10 {
			t.Errorf("ok %d, panicked %d, rows %d: want 10 of each", ok.Load(), panicked.Load(), len(keys(t, db)))
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.View(ctx, func(*store.Tx) error { panic("own") })
		}()
		if len(keys(t, db)) != 10 {
			t.Error("a panic in a View broke the store")
		}
	})
}

func TestContext(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		ran := false
		if err := db.Update(ctx, func(*store.Tx) error { ran = true; return nil }); !errors.Is(err, context.Canceled) || ran {
			t.Errorf("ended context: got %v, ran %v", err, ran)
		}
		ctx, cancel = context.WithCancel(context.Background())
		err := db.Update(ctx, func(tx *store.Tx) error {
			if err := put(ctx, tx, "a", 1); err != nil {
				return err
			}
			cancel()
			return put(ctx, tx, "b", 1)
		})
		if !errors.Is(err, context.Canceled) || !errors.Is(err, fault.Unavailable) && fault.KindOf(err) != fault.Unavailable {
			t.Errorf("context that ends within: got %v", err)
		}
		if got := keys(t, db); len(got) != 0 {
			t.Errorf("keys: got %v, want none", got)
		}
	})
}

func TestWaitingUpdateCanBeGivenUp(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(context.Background(), testSet); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	inside, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := db.Update(ctx, func(tx *store.Tx) error { close(inside); <-release; return put(ctx, tx, "slow", 1) })
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	err := db.Update(short, func(tx *store.Tx) error { return put(ctx, tx, "given up", 1) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	close(release)
	wg.Wait()
	if d := cmp.Diff([]string{"slow"}, keys(t, db)); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
}

func TestClose(t *testing.T) {
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			db := storetest.Open(t, d)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Errorf("a second Close: %v", err)
			}
			ctx := context.Background()
			if err := db.Update(ctx, func(*store.Tx) error { return nil }); err == nil {
				t.Error("Update after Close succeeded")
			}
			if err := db.View(ctx, func(*store.Tx) error { return nil }); err == nil {
				t.Error("View after Close succeeded")
			}
		})
	}
}

func TestCloseWhileBusy(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	ctx := context.Background()
	if err := db.Migrate(ctx, testSet); err != nil {
		t.Fatal(err)
	}
	var acked atomic.Int64
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, fmt.Sprintf("%d/%d", c, i), 1) })
				if err != nil {
					if !errors.Is(err, fault.Unavailable) {
						t.Errorf("update while closing: %v", err)
					}
					return
				}
				acked.Add(1)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if acked.Load() == 0 {
		t.Error("nothing was acknowledged before Close")
	}
}
