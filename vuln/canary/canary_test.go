package canary

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

type site struct {
	t     *testing.T
	db    *store.DB
	feeds *feed.Store
	*Canaries
}

func newSite(t *testing.T, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, finding.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t, db, feeds, New(db, feeds, finding.New(db, feeds, exploit.NewStore(db)))}
	feeds.Before = s.Guard
	return s
}

func record(id, name, fixed string, aliases ...string) string {
	b, _ := json.Marshal(aliases)
	return fmt.Sprintf(`{"id": %q, "modified": "2024-01-01T00:00:00Z", "aliases": %s, "affected": [{"package": {"ecosystem": "npm", "name": %q}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`, id, b, name, fixed)
}

func (s *site) bring(records ...string) (feed.Operation, error) {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "all.zip")
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for i, r := range records {
		w, _ := z.Create(fmt.Sprintf("%d.json", i))
		_, _ = w.Write([]byte(r))
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		s.t.Fatal(err)
	}
	a, err := feed.OpenZip(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Close()
	return s.feeds.Import(s.t.Context(), a, feed.Options{Name: "osv", Ecosystem: "npm", Actor: "system:test"})
}

func (s *site) failures() (n int) {
	s.t.Helper()
	if err := s.db.View(s.t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(s.t.Context(), `SELECT COUNT(*) FROM event_pending WHERE kind = ?`, string(event.CanaryFailed)).Scan(&n)
	}); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestThreat_Feed_CanaryComesOutClean: what was found once must be found by each
// later operation, until a person says otherwise.
func TestThreat_Feed_CanaryComesOutClean(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newSite(t, db)
		if _, err := s.bring(record("NSWG-NPM-493", "lodash", "4.17.11", "CVE-2018-16487")); err != nil {
			t.Fatal(err)
		}
		for name, records := range map[string][]string{
			"its range shrank":  {record("NSWG-NPM-493", "lodash", "4.17.5", "CVE-2018-16487")},
			"another package":   {record("NSWG-NPM-493", "lodahs", "4.17.11", "CVE-2018-16487")},
			"it is gone":        {record("NSWG-NPM-494", "lodash", "4.17.11", "CVE-2099-1")},
			"it lost its alias": {record("NSWG-NPM-493", "lodash", "4.17.11")},
		} {
			before := s.failures()
			op, err := s.bring(records...)
			if !errors.Is(err, fault.Conflict) || op.State != feed.Blocked || !strings.Contains(op.Problem, "CVE-2018-16487") {
				t.Errorf("%s: %s, %v", name, op.State, err)
			}
			if s.failures() != before+1 {
				t.Errorf("%s: %d events, want one more than %d", name, s.failures(), before)
			}
		}
		op, err := s.bring(record("NSWG-NPM-493", "lodash", "4.17.5", "CVE-2018-16487"))
		if err == nil {
			t.Fatal("it is taken after others were blocked")
		}
		if _, err := s.Accept(t.Context(), op.ID, "alice", "the range was wrong"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.bring(record("NSWG-NPM-493", "lodash", "4.17.6", "CVE-2018-16487")); err != nil {
			t.Errorf("after it was accepted: %v", err)
		}
	})
}

func TestOwn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newSite(t, db)
		doc := json.RawMessage(`{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "bom-ref": "a", "name": "left-pad", "version": "1.0.0", "purl": "pkg:npm/left-pad@1.0.0"}]}`)
		one := Canary{Name: "mine", Feed: "osv", Document: doc, Expect: []Expectation{{"pkg:npm/left-pad@1.0.0", "X-1"}}}
		for name, bad := range map[string]Canary{
			"no expectation":       {Name: "mine", Document: doc},
			"not in the document":  {Name: "mine", Document: doc, Expect: []Expectation{{"pkg:npm/right-pad@1.0.0", "X-1"}}},
			"no document":          {Name: "mine", Expect: one.Expect},
			"a name with capitals": {Name: "Mine", Document: doc, Expect: one.Expect},
			"a kind without feed":  {Name: "mine", Document: json.RawMessage(strings.ReplaceAll(string(doc), "pkg:npm/", "pkg:generic/")), Expect: []Expectation{{"pkg:generic/left-pad@1.0.0", "X-1"}}},
		} {
			if err := s.Add(t.Context(), bad, "alice"); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Add(t.Context(), one, "alice"); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(t.Context(), one, "alice"); !errors.Is(err, fault.Conflict) {
			t.Errorf("twice: %v", err)
		}
		// One that names its feed must be found from the first operation on.
		op, err := s.bring(record("X-2", "left-pad", "1.1.0"))
		if !errors.Is(err, fault.Conflict) || op.State != feed.Blocked {
			t.Errorf("%s, %v", op.State, err)
		}
		if _, err := s.bring(record("X-1", "left-pad", "1.1.0")); err != nil {
			t.Error(err)
		}
		all, err := s.Reports(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if r.Name == "mine" && (r.Failed || r.Uncovered || len(r.Results) != 1 || !r.Results[0].Found) {
				t.Errorf("%+v", r)
			}
			if r.Name == "maven" && !r.Uncovered {
				t.Error("no feed for Maven is in force, and its canary is covered")
			}
		}
		// One that what is in force does not find would hold back everything.
		never := Canary{Name: "never", Feed: "osv", Document: doc, Expect: []Expectation{{"pkg:npm/left-pad@1.0.0", "X-9"}}}
		if err := s.Add(t.Context(), never, "alice"); !errors.Is(err, fault.Invalid) {
			t.Errorf("one that is not found now: %v", err)
		}
		if err := s.Remove(t.Context(), "maven", "alice"); !errors.Is(err, fault.Denied) {
			t.Errorf("one that every site has: %v", err)
		}
		if err := s.Remove(t.Context(), "mine", "alice"); err != nil {
			t.Error(err)
		}
	})
}

// TestBuiltin: what every site has is found in the real feeds, where they are here.
func TestBuiltin(t *testing.T) {
	found, err := feed.Find(vectors.Shared(t, "osv"))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, storetest.Open(t, store.SQLite))
	for _, f := range found {
		if f.List {
			continue
		}
		a, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.feeds.Import(t.Context(), a, feed.Options{Name: "osv", Ecosystem: f.Ecosystem, Actor: "system:test"})
		a.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.Reports(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	away := map[string]bool{"maven": true, "rubygems": true, "nuget": true, "npm-malicious": true, "packagist": true} // the feeds here do not hold them
	for _, r := range all {
		if r.Uncovered != away[r.Name] {
			t.Errorf("%s: %+v", r.Name, r.Results)
		}
	}
}

// TestRejudge: another matcher that finds less puts the feed in doubt.
func TestRejudge(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	op, err := s.bring(record("NSWG-NPM-493", "lodash", "4.17.11", "CVE-2018-16487"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Rejudge(t.Context()); err != nil {
		t.Fatal(err)
	}
	// As if the matcher before had found one more: the state that it would have left.
	if err := s.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO canary_result (canary, component, advisory, feed, ecosystem, found, operation) VALUES ('npm-malicious', 'pkg:npm/event-stream@3.3.6', 'GHSA-mh6f-8j2x-4483', 'osv', 'npm', 1, ?)`, op.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	doubt := func() string {
		src, err := s.feeds.Source(t.Context(), "osv", "npm")
		if err != nil {
			t.Fatal(err)
		}
		return src.Blocked
	}
	if err := s.Rejudge(t.Context()); err != nil || doubt() != "" {
		t.Errorf("the same matcher: %q, %v", doubt(), err)
	}
	s.matcher = "another"
	if err := s.Rejudge(t.Context()); err != nil || !strings.Contains(doubt(), "event-stream") || s.failures() != 1 {
		t.Errorf("%q, %d events, %v", doubt(), s.failures(), err)
	}
	if _, err := s.Accept(t.Context(), op.ID, "alice", "it is so"); err != nil || doubt() != "" {
		t.Errorf("accepted: %q, %v", doubt(), err)
	}
}

// TestThreat_Feed_FindsLessThanHalf is the drop in findings of a feed against its
// last 30 days, by counts that a matcher left.
func TestThreat_Feed_FindsLessThanHalf(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newSite(t, db)
		const packages = 40
		all := func(fixed func(i int) string) (out []string) {
			for i := range packages {
				out = append(out, record(fmt.Sprintf("X-%02d", i), fmt.Sprintf("p%02d", i), fixed(i)))
			}
			return out
		}
		op, err := s.bring(all(func(int) string { return "2.0.0" })...)
		if err != nil {
			t.Fatal(err)
		}
		s.stored(packages, op)
		if err := s.Sample(t.Context(), "osv", "npm"); err != nil {
			t.Fatal(err)
		}
		fewer := func(n int) func(int) string {
			return func(i int) string {
				if i < n {
					return "0.5.0" // what is stored, 1.0.0, is not affected any longer
				}
				return "2.0.0"
			}
		}
		if op, err := s.bring(all(fewer(30))...); !errors.Is(err, fault.Conflict) || op.State != feed.Blocked || !strings.Contains(op.Problem, "1,000 components") {
			t.Errorf("three quarters gone: %s %q, %v", op.State, op.Problem, err)
		}
		age := func(days int64) {
			t.Helper()
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				n, err := tx.Exec(t.Context(), `UPDATE canary_density SET at = ?`, store.Micros(tx.Now())-days*24*time.Hour.Microseconds())
				if n != 1 {
					t.Errorf("%d samples, want the one", n)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		age(29)
		if op, err := s.bring(all(fewer(30))...); !errors.Is(err, fault.Conflict) || op.State != feed.Blocked {
			t.Errorf("against what was found 29 days ago: %s, %v", op.State, err)
		}
		age(1)
		// The same flaws under other names are no drop.
		var renamed []string
		for i := range packages {
			renamed = append(renamed, record(fmt.Sprintf("X-%02d", i), fmt.Sprintf("p%02d", i), fewer(30)(i)))
			if i < 30 {
				renamed = append(renamed, record(fmt.Sprintf("Y-%02d", i), fmt.Sprintf("p%02d", i), "2.0.0"))
			}
		}
		if _, err := s.bring(renamed...); err != nil {
			t.Errorf("renamed: %v", err)
		}
		age(31)
		for i := range renamed {
			renamed[i] = strings.ReplaceAll(renamed[i], "2.0.0", "0.5.0")
		}
		if _, err := s.bring(renamed...); err != nil {
			t.Errorf("against nothing, since what was found is 31 days ago: %v", err)
		}
	})
}

// stored makes n components p00@1.0.0 … with their findings, as the matcher would.
func (s *site) stored(n int, op feed.Operation) {
	s.t.Helper()
	if err := s.db.Update(s.t.Context(), func(tx *store.Tx) error {
		for i := range n {
			for _, q := range []struct {
				sql  string
				args []any
			}{
				{`INSERT INTO finding_component (component, ecosystem, package, version, state) VALUES (?, 'npm', ?, '1.0.0', 0)`, []any{i + 1, fmt.Sprintf("p%02d", i)}},
				{`INSERT INTO finding_match (component, advisory, feed, opened, closed, status, fixed, reason, operation, ended) VALUES (?, ?, 'osv/npm', 1, 0, 1, '2.0.0', '', ?, 0)`, []any{i + 1, fmt.Sprintf("X-%02d", i), op.ID}},
			} {
				if _, err := tx.Exec(s.t.Context(), q.sql, q.args...); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}
