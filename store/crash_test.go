package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// child starts this binary as one of the children.
func child(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// crashCycles is how often a child is killed: 20, or ASSAY_CRASH_CYCLES.
func crashCycles(t testing.TB) int {
	t.Helper()
	s := os.Getenv("ASSAY_CRASH_CYCLES")
	if s == "" {
		return 20
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("ASSAY_CRASH_CYCLES=%q: want a number from 1", s)
	}
	return n
}

// childWrite writes rows from eight goroutines until it is killed, and prints
// each key once its update has returned.
func childWrite(args []string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, args[0])
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%s/%d/%d", args[1], c, i)
				err := db.Update(ctx, func(tx *store.Tx) error {
					// Two rows, so that half a transaction would show.
					if err := put(ctx, tx, key, 1); err != nil {
						return err
					}
					return put(ctx, tx, key+"'", 1)
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(key)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return nil
}

// TestThreat_Store_KillLosesNothingAcknowledged kills a writing process again
// and again: every acknowledged row is there, no half transaction, and the
// file is sound. On PostgreSQL it is the client that is killed.
func TestThreat_Store_KillLosesNothingAcknowledged(t *testing.T) {
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			cycles := crashCycles(t)
			if d == store.PostgreSQL {
				cycles = (cycles + 3) / 4
			}
			dsn := storetest.DSN(t, d)
			ctx := context.Background()
			db := storetest.OpenDSN(t, dsn)
			if err := db.Migrate(ctx, testSet); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			acked := map[string]bool{}
			for cycle := range cycles {
				n := killWriter(t, dsn, cycle, acked)
				if n == 0 {
					t.Fatalf("cycle %d: the child acknowledged nothing", cycle)
				}
				start := time.Now()
				db, err := store.Open(ctx, dsn)
				if err != nil {
					t.Fatalf("cycle %d: open again: %v", cycle, err)
				}
				checkRows(t, db, cycle, acked)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("cycle %d: restart took %s, want under 2 s", cycle, took)
				}
				if cycle%5 == 0 {
					if err := db.Check(ctx); err != nil {
						t.Fatalf("cycle %d: %v", cycle, err)
					}
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d cycles, %d acknowledged updates", cycles, len(acked))
		})
	}
}

// killWriter runs a writing child for a moment, kills it, and notes the keys it
// acknowledged.
func killWriter(t *testing.T, dsn string, cycle int, acked map[string]bool) (n int) {
	t.Helper()
	cmd := child(t, "write", dsn, strconv.Itoa(cycle))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	enough := 20 + 37*cycle%200 // another moment each time
	for lines.Scan() {
		acked[lines.Text()] = true
		if n++; n == enough {
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // "signal: killed"
	return n
}

func checkRows(t *testing.T, db *store.DB, cycle int, acked map[string]bool) {
	t.Helper()
	have := map[string]bool{}
	for _, k := range keys(t, db) {
		have[k] = true
	}
	for k := range acked {
		if !have[k] || !have[k+"'"] {
			t.Fatalf("cycle %d: acknowledged %q is lost", cycle, k)
		}
	}
	for k := range have {
		if base, second := strings.CutSuffix(k, "'"); second && !have[base] || !second && !have[k+"'"] {
			t.Fatalf("cycle %d: half of the transaction of %q is there", cycle, k)
		}
	}
}

// childShare increments one row, many times, beside other processes.
func childShare(args []string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, args[0])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		if err := increment(ctx, db); err != nil {
			return err
		}
	}
	return db.Close()
}

func increment(ctx context.Context, db *store.DB) error {
	return db.Update(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT n FROM item WHERE k = 'count'`).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE item SET n = ? WHERE k = 'count'`, n+1)
		return err
	})
}

// TestThreat_Store_TwoWriters has several processes, and two handles in this
// one, write the same row.
func TestThreat_Store_TwoWriters(t *testing.T) {
	const processes, each = 3, 100
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			ctx := context.Background()
			dsn := storetest.DSN(t, d)
			db := storetest.OpenDSN(t, dsn)
			if err := db.Migrate(ctx, testSet); err != nil {
				t.Fatal(err)
			}
			if err := db.Update(ctx, func(tx *store.Tx) error { return put(ctx, tx, "count", 0) }); err != nil {
				t.Fatal(err)
			}
			var all []*exec.Cmd
			for range processes {
				cmd := child(t, "share", dsn, strconv.Itoa(each))
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				all = append(all, cmd)
			}
			second := storetest.OpenDSN(t, dsn)
			var wg sync.WaitGroup
			for _, handle := range []*store.DB{db, second} {
				wg.Go(func() {
					for range each {
						if err := increment(ctx, handle); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for _, cmd := range all {
				if err := cmd.Wait(); err != nil {
					t.Errorf("child: %v", err)
				}
			}
			wg.Wait()
			var n int
			err := db.View(ctx, func(tx *store.Tx) error {
				return tx.QueryRow(ctx, `SELECT n FROM item WHERE k = 'count'`).Scan(&n)
			})
			if err != nil || n != (processes+2)*each {
				t.Errorf("count: got %d, %v; want %d", n, err, (processes+2)*each)
			}
			if err := db.Check(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// fill writes blobs until the store fails with the kind, then checks that the
// failure kept nothing and that a small update works after relief.
func fill(dsn string, kind *fault.Kind, relieve func() error) error {
	ctx := context.Background()
	db, err := store.Open(ctx, dsn)
	if err != nil {
		return err
	}
	if err := db.Migrate(ctx, testSet); err != nil {
		return err
	}
	write := func(k string) error {
		return db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO item (k, n, b) VALUES (?, 1, ?)`, k, make([]byte, 100_000))
			return err
		})
	}
	acked := map[string]bool{}
	for i := 0; ; i++ {
		if i == 1000 {
			return errors.New("the disk never got full")
		}
		k := strconv.Itoa(i)
		err := write(k)
		if err == nil {
			acked[k] = true
			continue
		}
		if fault.KindOf(err) != kind {
			return fmt.Errorf("write %s: got %w (%s), want %s", k, err, fault.KindOf(err).Name(), kind.Name())
		}
		break
	}
	if len(acked) == 0 {
		return errors.New("nothing fitted")
	}
	// Reading still works, and so does writing after relief, in this process.
	check := func() error {
		return db.View(ctx, func(tx *store.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM item`).Scan(&n); err != nil {
				return err
			}
			if n != len(acked) {
				return fmt.Errorf("%d rows, acknowledged %d", n, len(acked))
			}
			return nil
		})
	}
	if err := check(); err != nil {
		return fmt.Errorf("while full: %w", err)
	}
	var wg sync.WaitGroup
	for c := range 8 { // as a group
		wg.Go(func() { _ = write(fmt.Sprintf("group %d", c)) })
	}
	wg.Wait()
	if err := relieve(); err != nil {
		return err
	}
	if err := db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM item WHERE k LIKE 'group%'`)
		return err
	}); err != nil {
		return fmt.Errorf("after relief: %w", err)
	}
	if err := write("after"); err != nil {
		return fmt.Errorf("after relief: %w", err)
	}
	acked["after"] = true
	if err := check(); err != nil {
		return fmt.Errorf("after relief: %w", err)
	}
	if err := db.Check(ctx); err != nil {
		return err
	}
	return db.Close()
}
