package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"assay/store"
	"assay/store/storetest"
)

// TestChanges: whoever remembers what a View read while the state was Still gives at
// no time what a commit has made untrue, however commits and Views overlap.
func TestChanges(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	c := db.Changes("watched")
	if db.Changes("watched") != c {
		t.Error("the same tables are counted twice")
	}
	ctx := context.Background()
	if err := db.Migrate(ctx, store.Migrations{Name: "watched", Steps: []string{
		`CREATE TABLE watched (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL); CREATE TABLE other (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL);`}}); err != nil {
		t.Fatal(err)
	}
	set := func(table string, n int64) error {
		return db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO `+table+` (id, n) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET n = excluded.n`, n)
			return err
		})
	}
	if err := errors.Join(set("watched", 0), set("other", 0)); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var state, hits uint64
	var value, acked int64
	read := func() error {
		mu.Lock()
		least := acked
		mu.Unlock()
		var got int64
		err := db.View(ctx, func(tx *store.Tx) error {
			now, known := c.At(tx)
			mu.Lock()
			s, v := state, value
			mu.Unlock()
			if known && s == now {
				got = v
				mu.Lock()
				hits++
				mu.Unlock()
				return nil
			}
			if err := tx.QueryRow(ctx, `SELECT n FROM watched WHERE id = 1`).Scan(&got); err != nil {
				return err
			}
			if known && c.Still(now) {
				mu.Lock()
				state, value = now, got
				mu.Unlock()
			}
			return nil
		})
		if err == nil && got < least {
			t.Errorf("read %d after %d was acknowledged", got, least)
		}
		return err
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() { // neighbours in the same commits
		for n := range int64(300) {
			if err := set("other", n); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range int64(300) {
		if err := set("watched", n+1); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		acked = n + 1
		mu.Unlock()
	}
	for range 100 {
		if err := errors.Join(read(), set("other", 1)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if hits < 100 {
		t.Errorf("%d of the reads came from memory: the test shows nothing", hits)
	}
	// What failed has changed nothing, and what is in an Update is not known.
	_ = db.Update(ctx, func(tx *store.Tx) error {
		if _, known := c.At(tx); known {
			t.Error("an Update sees what is not committed, and is told a state")
		}
		return errors.New("no")
	})
}

// TestChangesOfOthers: where other processes commit, no state is known.
func TestChangesOfOthers(t *testing.T) {
	db := storetest.Open(t, store.PostgreSQL)
	c := db.Changes("watched")
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		if n, known := c.At(tx); known {
			t.Errorf("state %d", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
