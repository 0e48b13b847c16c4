package audit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"assay/audit"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/tlog"
	"assay/tlog/rekor"
)

const origin = "log.test"

// world is an event log whose heads stand in a transparency log.
type world struct {
	t      *testing.T
	db     *store.DB
	events *event.Log
	log    *tlog.Log
	rekor  *rekor.Server
	key    *ecdsa.PrivateKey // of heads
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: storetest.Open(t, store.SQLite)}
	if err := w.db.Migrate(t.Context(), event.Migrations, tlog.Migrations); err != nil {
		t.Fatal(err)
	}
	signer := newKey(t)
	var err error
	if w.log, err = tlog.Open(t.Context(), tlog.Options{Dir: t.TempDir(), Origin: origin, Signer: signer, DB: w.db}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.log.Close() })
	if w.rekor, err = rekor.New(w.log, rekor.Options{}); err != nil {
		t.Fatal(err)
	}
	w.key = newKey(t)
	w.events = event.NewLog(w.db, event.LogOptions{})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- event.NewSealer(w.db, event.SealerOptions{}).Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return w
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// happen appends n pulls in one transaction and waits until they are sealed.
func (w *world) happen(n int) {
	w.t.Helper()
	if err := w.db.Update(w.t.Context(), func(tx *store.Tx) error {
		for i := range n {
			if err := event.Append(w.t.Context(), tx, event.Event{Kind: event.ArtifactPulled, Actor: fmt.Sprint("https://i#", i%3), Body: map[string]string{"repository": "team/app"}}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var waiting int64
		if err := w.db.View(w.t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(w.t.Context(), `SELECT COUNT(*) FROM event_pending`).Scan(&waiting)
		}); err != nil {
			w.t.Fatal(err)
		}
		if waiting == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatal("not sealed")
		}
	}
}

// publish puts the newest head into the log, signed by a key.
func (w *world) publish(key *ecdsa.PrivateKey) {
	w.t.Helper()
	h, err := w.events.LastHead(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256(h.Text())
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		w.t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := w.rekor.Add(w.t.Context(), rekor.Request{Digest: sum[:], Signature: sig, PublicKey: pub})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.events.MarkLogged(w.t.Context(), h, e.LogIndex); err != nil {
		w.t.Fatal(err)
	}
}

// export writes lines as the API does, here in one go.
func (w *world) export(f event.Filter, complete bool) []string {
	w.t.Helper()
	ctx := w.t.Context()
	first, last, err := w.events.Span(ctx, f.From, f.To)
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	add := func(v any) {
		b, err := audit.AppendLine(nil, v)
		if err != nil {
			w.t.Fatal(err)
		}
		lines = append(lines, strings.TrimSuffix(string(b), "\n"))
	}
	add(audit.Header{Format: audit.Format, Origin: origin, Created: time.Now().UTC(), First: first, Last: last, Complete: complete})
	var events, heads int64
	for after := first - 1; after < last; {
		page, err := w.events.Export(ctx, f, after, last, 3, 10)
		if err != nil || len(page) == 0 {
			w.t.Fatalf("page of %d, %v", len(page), err)
		}
		for _, s := range page {
			add(s.Head)
			heads++
			after = s.Head.Batch
			for _, p := range s.Events {
				leaf, err := p.Event.Leaf()
				if err != nil {
					w.t.Fatal(err)
				}
				add(audit.Line{Event: leaf, Index: p.Index, Proof: p.Proof})
				events++
			}
			if s.LogIndex >= 0 {
				// One that a later head settled has that one's place.
				l := w.logged(s.LogIndex)
				if rekor.Inspect(tlog.Record{Index: l.Index, Leaf: l.Body}).Digest == "sha256:"+s.Head.Hash.String() {
					add(l)
				}
			}
		}
	}
	add(audit.End{Events: events, Heads: heads, Last: last})
	return lines
}

func (w *world) logged(index int64) audit.Logged {
	w.t.Helper()
	head := w.log.Head()
	leaf, err := w.log.Leaf(w.t.Context(), uint64(index))
	if err != nil {
		w.t.Fatal(err)
	}
	proof, err := w.log.InclusionProof(w.t.Context(), uint64(index), head.Size)
	if err != nil {
		w.t.Fatal(err)
	}
	l := audit.Logged{Index: uint64(index), Body: leaf, Checkpoint: string(head.Note)}
	for _, h := range proof {
		l.Proof = append(l.Proof, event.Hash(h))
	}
	return l
}

func (w *world) options() audit.Options {
	return audit.Options{Logs: []note.Verifier{w.log.Verifier()}}
}

func verify(lines []string, o audit.Options) (*audit.Report, error) {
	return audit.Verify(strings.NewReader(strings.Join(lines, "\n")+"\n"), o)
}

// filled is a world of seven batches of several sizes, two of whose heads are
// logged.
func filled(t *testing.T) *world {
	w := newWorld(t)
	for i, n := range []int{1, 2, 3, 7, 8, 13, 1} {
		w.happen(n)
		if i == 3 || i == 6 {
			w.publish(w.key)
		}
	}
	return w
}

func TestExportVerifies(t *testing.T) {
	w := filled(t)
	var got int
	o := w.options()
	o.Event = func(event.Event) error { got++; return nil }
	rep, err := verify(w.export(event.Filter{}, true), o)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Events != 35 || rep.Logged != 2 || rep.Covered != 35 || rep.Unlogged != 0 || len(rep.Keys) != 1 || got != 35 || !rep.OldestUncovered.IsZero() {
		t.Errorf("report %+v, %d events", rep, got)
	}
	// What a filter chose is proved too.
	rep, err = verify(w.export(event.Filter{Actor: "https://i#1"}, false), w.options())
	if err != nil {
		t.Fatal(err)
	}
	if rep.Events == 0 || rep.Events == 35 || rep.Covered != 35 {
		t.Errorf("report %+v", rep)
	}
	// Under the key that signs heads, and no other.
	o = w.options()
	o.Key = w.key.Public()
	if _, err := verify(w.export(event.Filter{}, true), o); err != nil {
		t.Errorf("with the audit key: %v", err)
	}
	// What is not logged yet is said.
	w.happen(2)
	rep, err = verify(w.export(event.Filter{}, true), w.options())
	if err != nil || rep.Covered != 35 || rep.LastSeq != 37 || rep.OldestUncovered.IsZero() || rep.Unlogged == 0 {
		t.Errorf("report %+v, %v", rep, err)
	}
}

// Every change that one who holds an export, or a site that lies, could make is
// found.
func TestThreat_Store_AuditExportTamperedWith(t *testing.T) {
	w := filled(t)
	good := w.export(event.Filter{}, true)
	is := func(l, what string) bool { return strings.HasPrefix(l, `{"`+what+`"`) }
	find := func(what string, n int) int {
		for i, l := range good {
			if is(l, what) {
				if n == 0 {
					return i
				}
				n--
			}
		}
		t.Fatalf("no %s", what)
		return 0
	}
	edit := func(i int, change func(string) string) []string {
		lines := append([]string(nil), good...)
		lines[i] = change(lines[i])
		return lines
	}
	without := func(i int) []string { return append(append([]string(nil), good[:i]...), good[i+1:]...) }
	replace := func(old, with string) func(string) string {
		return func(l string) string {
			if !strings.Contains(l, old) {
				t.Fatalf("no %q in %s", old, l)
			}
			return strings.Replace(l, old, with, 1)
		}
	}
	for name, lines := range map[string][]string{
		"an event changed":           edit(find("event", 4), replace("team/app", "team/apq")),
		"an event left out":          without(find("event", 4)),
		"an event twice":             append(append(append([]string(nil), good[:find("event", 4)]...), good[find("event", 4)]), good[find("event", 4):]...),
		"an event's place":           edit(find("event", 4), replace(`"index":`, `"index":1`)),
		"a head left out":            without(find("head", 2)),
		"a head changed":             edit(find("head", 2), replace(`"root":"`, `"root":"00`)),
		"the end cut off":            good[:len(good)-1],
		"something after the end":    append(append([]string(nil), good...), good[2]),
		"cut short, with an end":     append(append([]string(nil), good[:find("head", 5)]...), `{"end":{"events":21,"heads":5,"last_batch":5}}`),
		"another place in the log":   edit(find("logged", 0), replace(`"index":0`, `"index":1`)),
		"a place under another head": append(append(append([]string(nil), without(find("logged", 0))[:find("head", 1)]...), good[find("logged", 0)]), without(find("logged", 0))[find("head", 1):]...),
		"an unknown member":          edit(0, replace(`{"export":{`, `{"export":{"trust":"me",`)),
		"a member twice":             edit(0, replace(`"complete":true`, `"complete":true,"complete":true`)),
		"two things on a line":       edit(find("head", 0), func(l string) string { return l[:len(l)-1] + "," + good[len(good)-1][1:] }),
		"no first line":              good[1:],
		"another format":             edit(0, replace(audit.Format, "assay audit export v9")),
		"nothing":                    {""},
		"a line without end":         {good[0], strings.Repeat("x", 1<<20)},
	} {
		if rep, err := verify(lines, w.options()); err == nil {
			t.Errorf("%s: taken: %+v", name, rep)
		}
	}

	// A log of another key, a checkpoint of another log.
	other, err := tlog.NewVerifier(origin, newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(good, audit.Options{Logs: []note.Verifier{other}}); !errors.Is(err, fault.Unverified) {
		t.Errorf("another log's key: %v", err)
	}
	if _, err := verify(good, audit.Options{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("no key: %v", err)
	}
	o := w.options()
	o.Key = newKey(t).Public()
	if _, err := verify(good, o); !errors.Is(err, fault.Tampered) {
		t.Errorf("another audit key: %v", err)
	}
}

// One who rewrites the database, chain and all, and logs the new heads under a
// key of his own is found by the key.
func TestThreat_Store_HeadsOfAnotherKey(t *testing.T) {
	w := newWorld(t)
	w.happen(2)
	w.publish(w.key)
	w.happen(2)
	w.publish(newKey(t))
	if _, err := verify(w.export(event.Filter{}, true), w.options()); !errors.Is(err, fault.Unverified) {
		t.Errorf("two keys: %v", err)
	}
	o := w.options()
	o.Key = w.key.Public()
	if _, err := verify(w.export(event.Filter{}, true), o); !errors.Is(err, fault.Tampered) {
		t.Errorf("two keys, one pinned: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	v, err := tlog.NewVerifier(origin, key.Public())
	if err != nil {
		f.Fatal(err)
	}
	head, _ := json.Marshal(map[string]any{"head": event.Head{Batch: 1, FirstSeq: 1, LastSeq: 1, Count: 1}})
	f.Add([]byte(`{"export":{"format":"assay audit export v1","origin":"log.test","created":"2026-01-02T03:04:05Z","first_batch":1,"last_batch":1,"complete":true}}` + "\n" + string(head) + "\n"))
	f.Add([]byte(`{"export":{}}`))
	f.Add([]byte(`{"logged":{"index":1,"body":"e30=","proof":[],"checkpoint":"x"}}`))
	f.Add(bytes.Repeat([]byte(`{"end":{}}`+"\n"), 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if rep, err := audit.Verify(bytes.NewReader(b), audit.Options{Logs: []note.Verifier{v}}); err == nil && rep.Logged > 0 {
			t.Fatalf("%q: a head of a log whose key nobody has", b)
		}
	})
}
