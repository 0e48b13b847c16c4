package slo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"

	"go.yaml.in/yaml/v3"
)

func newStore(t testing.TB, d store.Dialect, now *time.Time) *Store {
	t.Helper()
	db := storetest.Open(t, d, store.WithClock(func() time.Time { return *now }))
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	return New(Options{DB: db, Clock: func() time.Time { return *now }})
}

func (s *Store) must(t testing.TB, samples []Sample) {
	t.Helper()
	if err := s.o.DB.Update(t.Context(), func(tx *store.Tx) error { return s.Add(t.Context(), tx, samples, true) }); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownIsNotGood(t *testing.T) {
	for _, d := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
		s := newStore(t, d, &now)
		s.must(t, []Sample{
			{Indicator: SBOMAvailability, At: now, Place: Place{Service: "a"}, Good: 6},
			{Indicator: SBOMAvailability, At: now.Add(-26 * time.Hour), Place: Place{Service: "b"}, Bad: 1, Unknown: 3},
		})
		got, err := s.Indicators(t.Context(), Query{IDs: []ID{SBOMAvailability}, Window: 48 * time.Hour, By: ByService})
		if err != nil || len(got) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		if i := got[0]; i.Value != 0.6 || i.Denominator != 5 || i.Unknown != 1.5 || len(i.By) != 2 || i.By[0].Value != "b" {
			t.Errorf("%s: %+v", d, i)
		}
		got, err = s.Indicators(t.Context(), Query{IDs: []ID{SBOMAvailability}, Window: time.Hour})
		if err != nil || got[0].Value != 1 || got[0].Denominator != 6 {
			t.Errorf("%s: %+v, %v", d, got, err)
		}
	}
}

// What somebody names makes no rows without bound.
func TestRulesPageForASpentBudgetWhereThePolicySaysSo(t *testing.T) {
	for policy, want := range map[string]string{"": "ticket", "ticket": "ticket", "page": "page"} {
		goals, err := Compile(map[string]Spec{"site": {Budget: &BudgetSpec{Exhausted: policy}}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := PrometheusRules(goals)
		if err != nil {
			t.Fatal(err)
		}
		var f ruleFile
		if err := yaml.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				if r.Alert != "AssayObjectiveMissed" {
					continue
				}
				n++
				if got := r.Labels["severity"]; got != want {
					t.Errorf("policy %q: %s is a %s, want a %s", policy, r.Labels["indicator"], got, want)
				}
			}
		}
		if n == 0 {
			t.Errorf("policy %q: no rule for a missed objective", policy)
		}
	}
}

func TestThreat_MetricsLogs_IndicatorsStayBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	s := newStore(t, store.SQLite, &now)
	var x []Sample
	for i := range MaxValues + 300 {
		x = append(x, Sample{Indicator: SignedPushes, At: now, Place: Place{Release: fmt.Sprintf("r\x00\x1b%d%s", i, strings.Repeat("x", 1000))}, Good: 1})
	}
	s.must(t, x)
	got, err := s.Indicators(t.Context(), Query{IDs: []ID{SignedPushes}, By: ByRelease, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got[0].By); n != MaxValues+1 || got[0].Denominator != MaxValues+300 {
		t.Errorf("%d parts of %v, want %d of %d", n, got[0].Denominator, MaxValues+1, MaxValues+300)
	}
	for _, p := range got[0].By {
		if len(p.Value) > maxText || strings.ContainsAny(p.Value, "\x00\x1b") {
			t.Fatalf("part %q", p.Value)
		}
	}
}

// The figure: 12 indicators over 30 days in 5 windows within 100 ms.
func BenchmarkWindows(b *testing.B) {
	now := time.Date(2026, 3, 31, 12, 30, 0, 0, time.UTC)
	s := newStore(b, store.SQLite, &now)
	for _, d := range definitions[:12] {
		var x []Sample
		for m := range 30 * 24 * 60 {
			x = append(x, Sample{Indicator: d.ID, At: now.Add(-time.Duration(m) * time.Minute), Good: 99, Bad: 1})
		}
		if err := s.o.DB.Update(b.Context(), func(tx *store.Tx) error { return s.Add(b.Context(), tx, x, false) }); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for _, w := range []time.Duration{5 * time.Minute, time.Hour, 6 * time.Hour, 72 * time.Hour, DefaultWindow} {
			if _, err := s.Indicators(b.Context(), Query{Window: w}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// What an alert waited for is part of the time to detect, and no detection of its
// own.
func TestDetectionReachesToTheAlert(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		s := New(Options{DB: db, Clock: func() time.Time { return now }})
		raw := func(v any) json.RawMessage {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		tell := func(e ...event.Event) {
			t.Helper()
			if err := db.Update(t.Context(), func(tx *store.Tx) error { return s.take(t.Context(), tx, e) }); err != nil {
				t.Fatal(err)
			}
		}
		at := now.Add(-time.Hour)
		tell(event.Event{Kind: event.PullUnauthorized, Time: at, Body: raw(map[string]any{"since": at.Add(-time.Minute).Format(time.RFC3339), "count": 1})},
			event.Event{Kind: event.AlertOpened, Time: at, Body: raw(map[string]any{"of": "pull.unauthorized", "after_ms": 30_000})},
			event.Event{Kind: event.AlertOpened, Time: at, Body: raw(map[string]any{"of": "store.tampered", "after_ms": 999_000})})
		got, err := s.Indicators(t.Context(), Query{IDs: []ID{DetectionTime}, Window: 24 * time.Hour})
		if err != nil || len(got) != 1 || got[0].Value != 90 || got[0].Denominator != 1 {
			t.Errorf("%+v, %v: want 90 s over one", got, err)
		}
	})
}

// A site that has just begun to look has no rate yet, and pages nobody for its
// first look; what goes on burning does.
func TestTheFirstLooksPageNobody(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newStore(t, store.SQLite, &now)
	for look := 1; look <= 6; look++ {
		s.must(t, []Sample{{Indicator: AttestationCoverage, At: now, Bad: 3}})
		now = now.Add(time.Minute)
		for _, o := range s.status1(t, AttestationCoverage) {
			if want := look >= 5; (o.State == Fast) != want {
				t.Errorf("after %d looks it is %s", look, o.State)
			}
			if o.Lasts != 0 || o.Budget >= 0 {
				t.Errorf("a budget overspent, %v, lasts %s", o.Budget, o.Lasts)
			}
		}
	}
}

// A budget of which a tenth is spent, and that burns twice as fast as it may, lasts
// for nine twentieths of its window.
func TestABudgetLastsAsItBurns(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newStore(t, store.SQLite, &now)
	s.must(t, []Sample{{Indicator: FailedVerifications, At: now.Add(-10 * 24 * time.Hour), Good: 9900}, {Indicator: FailedVerifications, At: now.Add(-2 * time.Hour), Good: 98, Bad: 2}})
	for _, o := range s.status1(t, FailedVerifications) {
		if want := time.Duration(o.Budget / 2 * float64(o.Window)); o.Budget < 0.97 || o.Budget > 0.99 || o.Lasts < want-time.Minute || o.Lasts > want+time.Minute {
			t.Errorf("%v left, lasts %s, want %s", o.Budget, o.Lasts, want)
		}
	}
}

func TestCostPerScan(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newStore(t, store.SQLite, &now)
	h := Health{}
	s.o.Health = func(context.Context) (Health, error) { return h, nil }
	for range 3 {
		h.Scans, h.ScanCPU = h.Scans+4, h.ScanCPU+2*time.Second
		if err := s.lookAtProcess(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	got, err := s.Indicators(t.Context(), Query{IDs: []ID{ScanCost}, Window: time.Hour})
	if err != nil || len(got) != 1 || got[0].Value != 0.5 || got[0].Denominator != 12 || got[0].Numerator != 6 {
		t.Errorf("%+v, %v", got, err)
	}
}

// status1 is how one objective stands.
func (s *Store) status1(t *testing.T, id ID) (out []Status) {
	t.Helper()
	all, err := s.Status(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.Objective.Indicator == id {
			out = append(out, o)
		}
	}
	if len(out) != 1 {
		t.Fatalf("%d objectives of %s", len(out), id)
	}
	return out
}

// Two digests that were looked at thirty times are two.
func TestNumbersOfAStateAreThings(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newStore(t, store.SQLite, &now)
	for range 30 {
		s.must(t, []Sample{{Indicator: AttestationCoverage, At: now, Good: 1, Bad: 1}, {Indicator: VulnerableDependencies, At: now, Good: 2, Unknown: 1, Sum: 7}, {Indicator: LogHealth, At: now, Good: 1}})
		now = now.Add(time.Minute)
	}
	got, err := s.Indicators(t.Context(), Query{IDs: []ID{AttestationCoverage, VulnerableDependencies, LogHealth}, Window: time.Hour})
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, want := range [][5]float64{{0.5, 1, 2, 1, 0}, {7, 7, 3, 0, 1}, {1, 30, 30, 0, 0}} {
		if g := got[i]; [5]float64{g.Value, g.Numerator, g.Denominator, g.Bad, g.Unknown} != want {
			t.Errorf("%s: %v of %v is %v, %v bad, %v unknown; want %v", g.ID, g.Numerator, g.Denominator, g.Value, g.Bad, g.Unknown, want)
		}
	}
}
