package event_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// childEnv makes the test binary a process that appends, seals and consumes
// until it is killed.
const childEnv = "ASSAY_EVENT_TEST_CHILD"

// journalEnv is the folder of the child's journal; empty: it has none.
const journalEnv = "ASSAY_EVENT_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childEnv); dsn != "" {
		if err := work(dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// work prints the actor of each event once its append has returned.
func work(dsn string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, dsn)
	if err != nil {
		return err
	}
	var j *event.Journal
	if data := os.Getenv(journalEnv); data != "" {
		if j, err = event.OpenJournal(ctx, db, data, nil); err != nil {
			return err
		}
	}
	go func() { _ = event.NewSealer(db, event.SealerOptions{Journal: j}).Run(ctx) }()
	go func() { _ = event.NewLog(db, event.LogOptions{}).Consume(ctx, "a", note) }()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				actor := fmt.Sprintf("%d/%d/%d", os.Getpid(), c, i)
				e := event.Event{Kind: event.ArtifactPushed, Actor: actor}
				var err error
				if j != nil && c > 0 { // one always in the database
					err = j.Append(ctx, []event.Event{e})
				} else {
					err = db.Update(ctx, func(tx *store.Tx) error { return event.Append(ctx, tx, e) })
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(actor)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return nil
}

// TestThreat_Store_KillKeepsTheChain kills a process that appends, seals and
// consumes, at another moment each time. Every acknowledged event is in the
// log once, the chain verifies, and the consumer's rows hold each event once.
func TestThreat_Store_KillKeepsTheChain(t *testing.T) {
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) { killedAgainAndAgain(t, d, "") })
	}
	t.Run("journal", func(t *testing.T) { killedAgainAndAgain(t, store.SQLite, t.TempDir()) })
}

// killedAgainAndAgain is the test with a journal in the folder data, or without one.
func killedAgainAndAgain(t *testing.T, d store.Dialect, data string) {
	t.Helper()
	cycles := 20
	if s := os.Getenv("ASSAY_CRASH_CYCLES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("ASSAY_CRASH_CYCLES=%q: want a number from 1", s)
		}
		cycles = n
	}
	if d == store.PostgreSQL {
		cycles = (cycles + 3) / 4
	}
	dsn := storetest.DSN(t, d)
	db := storetest.OpenDSN(t, dsn)
	migrate(t, db)
	ctx := context.Background()
	if err := db.Migrate(ctx, seenSet); err != nil {
		t.Fatal(err)
	}
	acked := map[string]bool{}
	for cycle := range cycles {
		if data != "" { // else the lease of the one before would keep this one's journal out of it
			sql(t, db, `UPDATE lease SET expires = 0`)
		}
		kill(t, dsn, data, cycle, acked)
		if cycle%5 != 4 && cycle != cycles-1 {
			continue // several kills in a row, then a look
		}
		l := event.NewLog(db, event.LogOptions{})
		// The lease of the killed one runs out by itself; do not wait for it.
		sql(t, db, `UPDATE lease SET expires = 0`)
		if data != "" {
			if err := event.ReplayJournal(ctx, db, data); err != nil {
				t.Fatal(err)
			}
		}
		stopSealer := seal(t, db)
		stopConsumer := consume(t, l, "a", note)
		checkLog(t, db, l, acked)
		stopConsumer()
		stopSealer()
	}
	t.Logf("%d cycles, %d acknowledged events", cycles, len(acked))
}

func kill(t *testing.T, dsn, data string, cycle int, acked map[string]bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+dsn, journalEnv+"="+data)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Either after a number of events or after a time, so that the kill falls
	// into appends as well as into sealing.
	timer := time.AfterFunc(time.Duration(20+cycle*13%150)*time.Millisecond, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		acked[lines.Text()] = true
		if n == 30+cycle*37%300 {
			_ = cmd.Process.Signal(syscall.SIGKILL)
		}
	}
	_ = cmd.Wait()
}

// checkLog waits until everything is sealed and consumed, and compares.
func checkLog(t *testing.T, db *store.DB, l *event.Log, acked map[string]bool) {
	t.Helper()
	ctx := context.Background()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var n int
		err := db.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT COUNT(*) FROM event_pending`).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events are not sealed", n)
		}
	}
	if err := l.VerifyChain(ctx, 0, 0); err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	var after int64
	for {
		page, err := l.Query(ctx, event.Filter{AfterSeq: after, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			times[e.Actor]++
			after = e.Seq
		}
		if len(page) == 0 {
			break
		}
	}
	for actor := range acked {
		if times[actor] != 1 {
			t.Fatalf("acknowledged event of %s is in the log %d times, want once", actor, times[actor])
		}
	}
	if after > 0 {
		awaitCursor(t, l, "a", after)
	}
	checkSeen(t, db, after)
}
