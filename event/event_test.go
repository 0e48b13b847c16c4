package event_test

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// open migrates db for events and starts a sealer that ends with the test.
func open(t testing.TB, db *store.DB) *event.Log {
	t.Helper()
	migrate(t, db)
	seal(t, db)
	return event.NewLog(db, event.LogOptions{})
}

func migrate(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Migrate(context.Background(), event.Migrations); err != nil {
		t.Fatal(err)
	}
}

// seal runs a sealer until the test ends or stop is called.
func seal(t testing.TB, db *store.DB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- event.NewSealer(db, event.SealerOptions{}).Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("sealer: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// add appends events, each in an update of its own.
func add(t testing.TB, db *store.DB, events ...event.Event) {
	t.Helper()
	ctx := context.Background()
	for _, e := range events {
		if err := db.Update(ctx, func(tx *store.Tx) error { return event.Append(ctx, tx, e) }); err != nil {
			t.Fatal(err)
		}
	}
}

// pulls makes n events that differ in their body.
func pulls(n int) []event.Event {
	all := make([]event.Event, n)
	for i := range all {
		all[i] = event.Event{Kind: event.ArtifactPulled, Actor: "ann", Body: map[string]any{"repository": fmt.Sprintf("r%d", i)}}
	}
	return all
}

// await polls until n events are sealed.
func await(t testing.TB, l *event.Log, n int64) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		h, err := l.LastHead(context.Background())
		if err == nil && h.LastSeq >= n {
			return
		}
		if err != nil && !errors.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("sealed up to event %d, want %d: %v", h.LastSeq, n, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestAppendSealQuery(t *testing.T) {
	digest := artifact.SHA256Of([]byte("x"))
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		ctx := event.WithTrace(context.Background(), "0af7651916cd43dd8448eb211c80319c")
		var at time.Time
		err := db.Update(ctx, func(tx *store.Tx) error {
			at = tx.Now()
			for i := range 3 { // the order within one transaction is kept
				e := event.Event{
					Kind: event.TagMoved, Digest: digest, Actor: "ann", Team: "t", Service: "s", Env: "prod", Cluster: "c",
					Body: map[string]any{"tag": fmt.Sprint(i), "repository": "é\u2028<>"},
				}
				if err := event.Append(ctx, tx, e); err != nil {
					return err
				}
			}
			return event.Append(ctx, tx, event.Event{Kind: event.ServerStarted})
		})
		if err != nil {
			t.Fatal(err)
		}
		await(t, l, 4)
		got, err := l.Query(ctx, event.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		var want []event.Event
		for i := range 3 {
			want = append(want, event.Event{
				Seq: int64(i + 1), ID: got[i].ID, Time: at, Kind: event.TagMoved, Digest: digest, Actor: "ann", Team: "t", Service: "s",
				Env: "prod", Cluster: "c", TraceID: "0af7651916cd43dd8448eb211c80319c",
				Body: stdjson.RawMessage(`{"repository":"é` + "\u2028" + `<>","tag":"` + fmt.Sprint(i) + `"}`),
			})
		}
		want = append(want, event.Event{Seq: 4, ID: got[3].ID, Time: at, Kind: event.ServerStarted,
			TraceID: "0af7651916cd43dd8448eb211c80319c", Body: stdjson.RawMessage(`{}`)})
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		for _, e := range got {
			if !strings.HasPrefix(e.ID, "evt_") || len(e.ID) != 40 || e.ID[18] != '7' {
				t.Errorf("id %q: want evt_ and a UUIDv7", e.ID)
			}
		}
		one, err := l.Get(ctx, got[1].ID)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got[1], one); d != "" {
			t.Errorf("by id (-want +got):\n%s", d)
		}
		if _, err := l.Get(ctx, "evt_none"); !errors.Is(err, fault.NotFound) {
			t.Errorf("unknown id: got %v, want not found", err)
		}
		var body struct {
			Tag        string `json:"tag"`
			Repository string `json:"repository"`
		}
		if err := one.Decode(&body); err != nil || body.Tag != "1" {
			t.Errorf("decode: got %+v, %v", body, err)
		}
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestAppendIsPartOfTheTransaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		ctx := context.Background()
		refused := errors.New("no")
		err := db.Update(ctx, func(tx *store.Tx) error {
			if err := event.Append(ctx, tx, pulls(1)[0]); err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) {
			t.Fatalf("got %v", err)
		}
		add(t, db, event.Event{Kind: event.KeyCreated})
		await(t, l, 1)
		got, err := l.Query(ctx, event.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].Kind != event.KeyCreated {
			t.Errorf("got %v, want the one committed event", got)
		}
	})
}

func TestAppendRefuses(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	ctx := context.Background()
	tests := []struct {
		name string
		e    event.Event
		want *fault.Kind
	}{
		{"unknown kind", event.Event{Kind: "artifact.stolen"}, fault.Invalid},
		{"no kind", event.Event{}, fault.Invalid},
		{"digest", event.Event{Kind: event.TagMoved, Digest: "sha256:XY"}, fault.Invalid},
		{"trace", event.Event{Kind: event.TagMoved, TraceID: "zz"}, fault.Invalid},
		{"body is a list", event.Event{Kind: event.TagMoved, Body: []int{1}}, fault.Invalid},
		{"body is text", event.Event{Kind: event.TagMoved, Body: "x"}, fault.Invalid},
		{"body has a member twice", event.Event{Kind: event.TagMoved, Body: stdjson.RawMessage(`{"a":1,"a":2}`)}, fault.Invalid},
		{"body is no JSON", event.Event{Kind: event.TagMoved, Body: stdjson.RawMessage(`{`)}, fault.Invalid},
		{"body rounds", event.Event{Kind: event.TagMoved, Body: map[string]any{"n": int64(1)<<53 + 1}}, fault.Invalid},
		{"body too large", event.Event{Kind: event.TagMoved, Body: map[string]any{"x": strings.Repeat("x", event.MaxBody)}}, fault.TooLarge},
		{"actor too large", event.Event{Kind: event.TagMoved, Actor: strings.Repeat("x", 1025)}, fault.TooLarge},
		{"actor with NUL", event.Event{Kind: event.TagMoved, Actor: "a\x00b"}, fault.Invalid},
		{"own number", event.Event{Kind: event.TagMoved, Seq: 7}, fault.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := db.Update(ctx, func(tx *store.Tx) error { return event.Append(ctx, tx, tt.e) })
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	full := event.Event{Kind: event.TagMoved, Body: map[string]any{"x": strings.Repeat("x", event.MaxBody-len(`{"x":""}`))}}
	if err := db.Update(ctx, func(tx *store.Tx) error { return event.Append(ctx, tx, full) }); err != nil {
		t.Errorf("a body of exactly %d bytes: %v", event.MaxBody, err)
	}
}

func TestQueryFilters(t *testing.T) {
	d1, d2 := artifact.SHA256Of([]byte("1")), artifact.SHA256Of([]byte("2"))
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		ctx := context.Background()
		add(t, db,
			event.Event{Kind: event.ArtifactPushed, Digest: d1, Actor: "ann", Team: "t1"},
			event.Event{Kind: event.ArtifactPulled, Digest: d1, Actor: "bob", Service: "s"},
			event.Event{Kind: event.ArtifactPushed, Digest: d2, Actor: "ann", Env: "prod"},
			event.Event{Kind: event.DecisionMade, Digest: d2, Cluster: "c"},
			event.Event{Kind: event.StoreTampered, TraceID: strings.Repeat("a", 32)},
		)
		await(t, l, 5)
		all, err := l.Query(ctx, event.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		tests := []struct {
			name string
			f    event.Filter
			want []int64
		}{
			{"all", event.Filter{}, []int64{1, 2, 3, 4, 5}},
			{"kind", event.Filter{Kinds: []event.Kind{event.ArtifactPushed}}, []int64{1, 3}},
			{"kinds", event.Filter{Kinds: []event.Kind{event.ArtifactPushed, event.DecisionMade}}, []int64{1, 3, 4}},
			{"class", event.Filter{Class: event.Audit}, []int64{1, 2, 3}},
			{"class and kind", event.Filter{Class: event.Alert, Kinds: []event.Kind{event.StoreTampered, event.TagMoved}}, []int64{5}},
			{"digest", event.Filter{Digest: d2}, []int64{3, 4}},
			{"actor", event.Filter{Actor: "ann"}, []int64{1, 3}},
			{"actor and digest", event.Filter{Actor: "ann", Digest: d1}, []int64{1}},
			{"team", event.Filter{Team: "t1"}, []int64{1}},
			{"service", event.Filter{Service: "s"}, []int64{2}},
			{"env", event.Filter{Env: "prod"}, []int64{3}},
			{"cluster", event.Filter{Cluster: "c"}, []int64{4}},
			{"trace", event.Filter{TraceID: strings.Repeat("a", 32)}, []int64{5}},
			{"from", event.Filter{From: all[2].Time}, []int64{3, 4, 5}},
			{"to", event.Filter{To: all[2].Time}, []int64{1, 2}},
			{"after", event.Filter{AfterSeq: 3}, []int64{4, 5}},
			{"page", event.Filter{AfterSeq: 1, Limit: 2}, []int64{2, 3}},
			{"newest", event.Filter{Newest: true, Limit: 2}, []int64{5, 4}},
			{"newest page", event.Filter{Newest: true, AfterSeq: 4, Limit: 2}, []int64{3, 2}},
			{"nobody", event.Filter{Actor: "' OR 1=1 --"}, nil},
		}
		for _, tt := range tests {
			events, err := l.Query(ctx, tt.f)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			var got []int64
			for _, e := range events {
				got = append(got, e.Seq)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", tt.name, d)
			}
		}
		for _, f := range []event.Filter{{Kinds: []event.Kind{"x"}}, {Class: "x"}} {
			if _, err := l.Query(ctx, f); !errors.Is(err, fault.Invalid) {
				t.Errorf("%+v: got %v, want invalid", f, err)
			}
		}
	})
}

func TestEventJSON(t *testing.T) {
	e := event.Event{
		Seq: 7, ID: "evt_x", Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Kind: event.TagMoved,
		Digest: artifact.SHA256Of(nil), Actor: "a\"\\\n\x1b", Body: stdjson.RawMessage(`{"tag":"v1"}`),
	}
	const want = `{"actor":"a\"\\\n\u001b","body":{"tag":"v1"},"cluster":"","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","env":"","id":"evt_x","kind":"tag.moved","seq":7,"service":"","team":"","time":"2026-01-02T03:04:05.000006Z","trace_id":""}`
	got, err := stdjson.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("leaf:\n got %s\nwant %s", got, want)
	}
	var back event.Event
	if err := stdjson.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e, back); d != "" {
		t.Errorf("round trip (-want +got):\n%s", d)
	}
	if _, err := (event.Event{Kind: event.TagMoved, Body: 1}).Leaf(); !errors.Is(err, fault.Internal) {
		t.Errorf("leaf of an event that is not sealed: got %v", err)
	}
	for _, bad := range []string{`{}x`, `{"seq":1,"seq":2}`, `{"extra":1}`, `[]`} {
		if err := back.UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s: read without an error", bad)
		}
	}
}
