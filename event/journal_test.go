package event_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// journal opens the journal of a folder; it stays open to the test's end, as that
// of a process that is killed.
func journal(t testing.TB, db *store.DB, data string) *event.Journal {
	t.Helper()
	j, err := event.OpenJournal(t.Context(), db, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// sealWith runs a sealer that has the journal, and waits until it takes what comes.
func sealWith(t testing.TB, db *store.DB, j *event.Journal) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- event.NewSealer(db, event.SealerOptions{Journal: j}).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("sealer: %v", err)
		}
	})
	t.Cleanup(stop)
	for deadline := time.Now().Add(10 * time.Second); !event.Served(j); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no sealer has taken the journal after 10 s")
		}
	}
	return stop
}

func put(t testing.TB, j *event.Journal, events ...event.Event) {
	t.Helper()
	if err := j.Append(t.Context(), events); err != nil {
		t.Fatal(err)
	}
}

func waiting(t testing.TB, db *store.DB) (n int) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM event_pending`).Scan(&n)
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// repositories gives what the sealed events say, in their order, and checks the
// chain.
func repositories(t testing.TB, l *event.Log) (all []string) {
	t.Helper()
	if err := l.VerifyChain(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	for after := int64(0); ; {
		page, err := l.Query(t.Context(), event.Filter{AfterSeq: after, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			var b struct {
				Repository string `json:"repository"`
			}
			if err := e.Decode(&b); err != nil {
				t.Fatal(err)
			}
			all, after = append(all, b.Repository), e.Seq
		}
		if len(page) == 0 {
			return all
		}
	}
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("r%d", i))
	}
	return all
}

// TestJournal: what is put there is sealed in its order with what transactions
// append, without ever waiting in the database, and consumers see it once.
func TestJournal(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	if err := db.Migrate(t.Context(), seenSet); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	j := journal(t, db, data)
	l := event.NewLog(db, event.LogOptions{})
	sealWith(t, db, j)
	stop := consume(t, l, "a", note)
	const n = 3000 // several times the room that there is
	all := pulls(n)
	for i := 0; i < n; i += 10 {
		put(t, j, all[i:i+5]...)
		if err := db.Update(t.Context(), func(tx *store.Tx) error { return event.AppendAll(t.Context(), tx, all[i+5:i+10]) }); err != nil {
			t.Fatal(err)
		}
	}
	await(t, l, n)
	if diff := cmp.Diff(names(n), repositories(t, l)); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
	awaitCursor(t, l, "a", n)
	checkSeen(t, db, n)
	stop()
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := journal(t, db, data)
	if n := waiting(t, db); n != 0 {
		t.Errorf("%d events came again out of a journal that was emptied", n)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestThreat_Store_JournalIsReplayed: what a process left in the journal when it was
// killed is there after the next start, once, however often that is killed too.
func TestThreat_Store_JournalIsReplayed(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	data, l := t.TempDir(), event.NewLog(db, event.LogOptions{})
	first := journal(t, db, data)
	stop := sealWith(t, db, first)
	put(t, first, pulls(3)...)
	await(t, l, 3)
	stop()
	event.Serve(first) // a sealer that gets no further
	put(t, first, pulls(5)[3:]...)
	if n := waiting(t, db); n != 0 {
		t.Fatalf("%d events are in the database: the test shows nothing", n)
	}
	// Three starts, each with the files as they were when the first was killed.
	killed := copyJournal(t, data)
	for range 3 {
		if err := event.ReplayJournal(t.Context(), db, killed()); err != nil {
			t.Fatal(err)
		}
		if n := waiting(t, db); n != 2 {
			t.Fatalf("%d events wait after a start, want the 2 that were not sealed", n)
		}
	}
	seal(t, db)
	await(t, l, 5)
	if err := event.ReplayJournal(t.Context(), db, killed()); err != nil { // killed after they were sealed
		t.Fatal(err)
	}
	if n := waiting(t, db); n != 0 {
		t.Errorf("%d sealed events came again", n)
	}
	if diff := cmp.Diff(names(5), repositories(t, l)); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
}

// copyJournal reads the journal's files, and gives folders that hold them.
func copyJournal(t testing.TB, data string) func() string {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range event.JournalFiles {
		b, err := os.ReadFile(filepath.Join(data, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	return func() string {
		dir := t.TempDir()
		for name, b := range files {
			p := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
}

// TestThreat_Store_JournalTorn: a record of which a part was written takes none of
// those before it along, wherever it was torn.
func TestThreat_Store_JournalTorn(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	data := t.TempDir()
	j := journal(t, db, data)
	event.Serve(j)
	put(t, j, pulls(2)...)
	whole := event.JournalEnd(j)
	put(t, j, pulls(3)[2:]...)
	end := event.JournalEnd(j)
	b, err := os.ReadFile(filepath.Join(data, event.JournalFiles[0]))
	if err != nil {
		t.Fatal(err)
	}
	for cut := whole; cut <= end; cut++ {
		torn := append([]byte(nil), b...)
		clear(torn[cut:])
		events, err := event.ParseSegment(torn)
		want := 2
		if cut == end {
			want = 3
		}
		if err != nil || len(events) != want {
			t.Fatalf("torn after %d of %d bytes: %d events, %v; want %d", cut-whole, end-whole, len(events), err, want)
		}
	}
	for i := range end { // and what is changed is not taken for a record
		bad := append([]byte(nil), b...)
		bad[i] ^= 1
		if events, err := event.ParseSegment(bad); err != nil || len(events) > 2 {
			t.Fatalf("byte %d changed: %d events, %v", i, len(events), err)
		}
	}
}

// TestJournalWithoutSealer: while nobody empties the journal, once it is full, and
// once its disk has failed, events go into the database, so that a failure there is
// the caller's.
func TestJournalWithoutSealer(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	data := t.TempDir()
	j := journal(t, db, data)
	put(t, j, pulls(1)...)
	if n := waiting(t, db); n != 1 {
		t.Fatalf("without a sealer %d events are in the database, want 1", n)
	}
	event.Serve(j)
	many := pulls(20_000)
	for i := 0; i < len(many) && waiting(t, db) == 1; i += 250 {
		put(t, j, many[i:i+250]...)
	}
	if n := waiting(t, db); n != 251 {
		t.Fatalf("a full journal: %d events are in the database, want 251", n)
	}
	if err := j.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := waiting(t, db)
	put(t, j, pulls(1)...)
	if n := waiting(t, db); n != before {
		t.Fatalf("an emptied journal takes nothing: %d events are in the database, want %d", n, before)
	}
	if err := event.BreakJournal(j); err != nil {
		t.Fatal(err)
	}
	put(t, j, pulls(1)...)
	put(t, j, pulls(1)...)
	if n := waiting(t, db); n != before+2 {
		t.Errorf("a broken journal: %d events are in the database, want %d", n, before+2)
	}
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `ALTER TABLE event_pending RENAME TO event_gone`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), pulls(1)); err == nil {
		t.Error("an event that could be written nowhere was acknowledged")
	}
}

// TestJournalOutcomeUnknown: records whose sealing committed although it seemed to
// fail are not sealed again, and keep nothing from being sealed.
func TestJournalOutcomeUnknown(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	data, l := t.TempDir(), event.NewLog(db, event.LogOptions{})
	j := journal(t, db, data)
	event.Serve(j)
	put(t, j, pulls(2)...)
	if err := event.ReplayJournal(t.Context(), db, copyJournal(t, data)()); err != nil { // they are there now
		t.Fatal(err)
	}
	event.Doubt(j)
	put(t, j, pulls(3)[2:]...)
	stop := seal(t, db)
	await(t, l, 2)
	stop()
	sealWith(t, db, j)
	await(t, l, 3)
	if diff := cmp.Diff(names(3), repositories(t, l)); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
}

func FuzzSegment(f *testing.F) {
	db := storetest.Open(f, store.SQLite)
	migrate(f, db)
	data := f.TempDir()
	j, err := event.OpenJournal(f.Context(), db, data, nil)
	if err != nil {
		f.Fatal(err)
	}
	event.Serve(j)
	put(f, j, pulls(2)...)
	b, err := os.ReadFile(filepath.Join(data, event.JournalFiles[0]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:event.JournalEnd(j)])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := event.ParseSegment(b)
		if err != nil {
			return
		}
		for _, e := range events {
			if e.ID == "" || e.Seq != 0 || e.Kind.Validate() != nil {
				t.Errorf("gives %+v", e)
			}
		}
	})
}
