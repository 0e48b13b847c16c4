package risk_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/inventory"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
	"assay/vuln/risk"

	"github.com/google/go-cmp/cmp"
)

type site struct {
	t      testing.TB
	db     *store.DB
	boms   *sbom.Store
	feeds  *feed.Store
	m      *finding.Matcher
	inv    *inventory.Store
	s      *risk.Scorer
	places map[artifact.Digest]*risk.Stored
	owed   map[artifact.Digest]risk.Ledger
}

func open(t testing.TB, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, finding.Migrations, inventory.Migrations); err != nil {
		t.Fatal(err)
	}
	feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	book, err := inventory.NewCatalogue(inventory.Spec{
		Teams: map[string]inventory.Team{"payments": {}, "platform": {Platform: true}},
		Services: map[string]inventory.ServiceSpec{
			"checkout": {Tier: 1, Team: "payments", Environment: "production", Exposure: "internet", Repositories: []string{"shop/checkout"}},
			"reports":  {Tier: 4, Team: "payments", Environment: "dev", Exposure: "isolated", Repositories: []string{"shop/reports"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, db: db, boms: sbom.NewStore(db, sbom.Limits{}), feeds: feeds, m: finding.New(db, feeds, exploit.NewStore(db)), places: map[artifact.Digest]*risk.Stored{}, owed: map[artifact.Digest]risk.Ledger{}}
	s.inv = inventory.New(db, inventory.Options{Catalogue: func() *inventory.Catalogue { return book }})
	s.s = risk.New(risk.Options{DB: db, Feeds: feeds, Findings: s.m, Inventory: s.inv,
		Stored: func(context.Context, *store.Tx, artifact.Digest) (map[artifact.Digest]*risk.Stored, error) {
			return s.places, nil
		},
		Ledgers: func(context.Context, *store.Tx, artifact.Digest) (map[artifact.Digest]risk.Ledger, error) {
			return s.owed, nil
		},
	})
	return s
}

func subject(n int) artifact.Digest { return artifact.SHA256Of(fmt.Append(nil, "subject", n)) }

// document indexes a bill of materials in which the first component is direct and
// brings the others.
func (s *site) document(n int, repository string, purls ...string) {
	s.t.Helper()
	var components, all []string
	for i, p := range purls {
		name, version, _ := strings.Cut(strings.TrimPrefix(p, "pkg:npm/"), "@")
		components = append(components, fmt.Sprintf(`{"type":"library","bom-ref":"r%d","name":%q,"version":%q,"purl":%q}`, i, name, version, p))
		if i > 0 {
			all = append(all, fmt.Sprintf(`"r%d"`, i))
		}
	}
	doc := fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"app","version":"1"}},
		"components":[%s],"dependencies":[{"ref":"root","dependsOn":["r0"]},{"ref":"r0","dependsOn":[%s]}]}`, strings.Join(components, ","), strings.Join(all, ","))
	ix, _, err := s.boms.Index(s.t.Context(), sbom.Source{Attestation: fmt.Sprintf("att_%d_%d", n, len(purls)), Subject: subject(n), Identity: "me"}, strings.NewReader(doc))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.m.Scan(s.t.Context(), ix.ID); err != nil {
		s.t.Fatal(err)
	}
	if repository != "" {
		s.places[subject(n)] = &risk.Stored{Places: []inventory.Place{{Repository: repository}}}
	}
}

func advisory(id, name, introduced, fixed, vector string) string {
	return fmt.Sprintf(`{"id": %q, "modified": "2024-01-01T00:00:00Z", "severity": [{"type": "CVSS_V3", "score": %q}], "affected": [{"package": {"ecosystem": "npm", "name": %q}, "ranges": [{"type": "SEMVER", "events": [{"introduced": %q}, {"fixed": %q}]}]}]}`,
		id, vector, name, introduced, fixed)
}

const (
	critical = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H" // 9.8
	medium   = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N" // 5.3
)

func (s *site) bring(records ...string) {
	s.t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, r := range records {
		w, _ := z.Create(fmt.Sprintf("%d.json", i))
		_, _ = w.Write([]byte(r))
	}
	z.Close()
	path := filepath.Join(s.t.TempDir(), "all.zip")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	a, err := feed.OpenZip(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Close()
	op, err := s.feeds.Import(s.t.Context(), a, feed.Options{Name: "osv", Ecosystem: "npm", Actor: "system:test", AllowDowngrade: true, Reason: "a test"})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.m.Apply(s.t.Context(), op); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) runs(digests ...artifact.Digest) {
	s.t.Helper()
	snap := inventory.Snapshot{Cluster: "prod", Environment: "production", Reporter: "agent", Complete: true}
	for i, d := range digests {
		snap.Workloads = append(snap.Workloads, inventory.Workload{Key: inventory.Key{Kind: "Host", Name: fmt.Sprint("w", i)}, Digest: d})
	}
	if err := s.db.Update(s.t.Context(), func(tx *store.Tx) error {
		_, err := s.inv.Observe(s.t.Context(), tx, snap)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

func parts(all []risk.Part) (out []string) {
	for _, p := range all {
		out = append(out, fmt.Sprintf("%s %.2f %s", p.Name, p.Factor, p.Why))
	}
	return out
}

func TestScores(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.document(1, "shop/checkout", "pkg:npm/front@1.0.0", "pkg:npm/left-pad@1.0.0")
		s.document(2, "shop/reports", "pkg:npm/left-pad@1.0.0")
		s.document(3, "", "pkg:npm/left-pad@1.0.0")
		s.document(4, "shop/reports", "pkg:npm/fine@1.0.0")
		s.document(1, "shop/checkout", "pkg:npm/front@1.0.0", "pkg:npm/left-pad@1.0.0", "pkg:npm/more@1") // a second document of one artifact counts nothing twice
		s.bring(advisory("GHSA-1", "left-pad", "0", "1.1.0", critical), advisory("GHSA-2", "left-pad", "0", "1.2.0", medium), advisory("GHSA-3", "left-pad", "1.2.0", "1.2.5", medium))

		// Nobody tells what runs, what it is worth to exploit, nor whether it is
		// reached: all of that counts as the worst.
		a, all, err := s.s.Subject(t.Context(), subject(3))
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 2 || fmt.Sprintf("%.1f %.1f %.1f", all[0].Risk, all[1].Risk, a.Risk) != "98.0 53.0 151.0" {
			t.Fatalf("%+v", all)
		}
		if diff := cmp.Diff([]string{
			"severity 0.98 critical, CVSS 9.8", "exploitation 1.00 no EPSS scores are in force: not known", "reachability 1.00 not known: counts as reachable", "dependency 1.00 direct",
			"running 1.00 nobody tells what runs: counts as running", "exposure 1.00 belongs to no service: counts as the internet's", "criticality 1.00 not classified: counts as tier 1", "evidence 1.00 no contract says what evidence it owes",
		}, parts(all[0].Parts)); diff != "" {
			t.Errorf("parts (-want +got):\n%s", diff)
		}
		if a.Place.Team != "platform" || !a.Place.Unowned {
			t.Errorf("what nobody owns goes to %q", a.Place.Team)
		}

		s.runs(subject(1))
		s.owed[subject(1)] = risk.Ledger{Bound: true}
		if a, all, err = s.s.Subject(t.Context(), subject(1)); err != nil {
			t.Fatal(err)
		}
		// 98 × 0.8 transitive × 0.8 complete evidence.
		if len(all) != 2 || fmt.Sprintf("%.2f", all[0].Risk) != "62.72" || a.Findings != 2 {
			t.Errorf("%.2f, %v", all[0].Risk, parts(all[0].Parts))
		}
		// 98 × 0.3 not running × 0.3 isolated × 0.25 tier 4.
		if _, all, err = s.s.Subject(t.Context(), subject(2)); err != nil || fmt.Sprintf("%.3f", all[0].Risk) != "2.205" {
			t.Errorf("%+v, %v", all, err)
		}
		// It runs in production: its tier is one up.
		s.runs(subject(1), subject(2))
		if a, all, err = s.s.Subject(t.Context(), subject(2)); err != nil || a.Place.Tier != 3 || !a.Place.Raised || fmt.Sprintf("%.2f", all[0].Risk) != "13.23" {
			t.Errorf("%+v, %v", a, err)
		}
		if _, _, err := s.s.Subject(t.Context(), subject(9)); !errors.Is(err, fault.NotFound) {
			t.Errorf("an artifact of which nothing is known: %v", err)
		}

		got, err := s.s.Artifacts(t.Context(), "", 3)
		if err != nil || got.Count != 4 || len(got.Artifacts) != 3 || got.Artifacts[0].Digest != subject(1) || got.Findings != 6 {
			t.Errorf("%+v, %v", got, err)
		}
		if got, err = s.s.Artifacts(t.Context(), "reports", 10); err != nil || got.Count != 2 || got.Artifacts[0].Digest != subject(2) || got.Artifacts[1].Risk != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := s.s.Service(t.Context(), "nothing", 10); !errors.Is(err, fault.NotFound) {
			t.Error(err)
		}
		services, err := s.s.Services(t.Context())
		if err != nil || len(services) != 3 || services["reports"].Count != 2 || services[""].Count != 1 || services["checkout"].Risk <= services["reports"].Risk {
			t.Errorf("%+v, %v", services, err)
		}
	})
}

// TestFixFirst: the version that mends the known flaws may have another one, and
// then the one behind it is said; what has no fix is not promised.
func TestFixFirst(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.document(1, "shop/checkout", "pkg:npm/left-pad@1.0.0", "pkg:npm/dead@1.0.0", "pkg:npm/small@1.0.0")
		s.document(2, "shop/reports", "pkg:npm/left-pad@1.0.0")
		s.bring(advisory("GHSA-1", "left-pad", "0", "1.1.0", critical), advisory("GHSA-2", "left-pad", "0", "1.2.0", medium), advisory("GHSA-3", "left-pad", "1.2.0", "1.2.5", medium),
			advisory("GHSA-4", "small", "0", "2.0.0", medium),
			fmt.Sprintf(`{"id": "GHSA-5", "modified": "2024-01-01T00:00:00Z", "severity": [{"type": "CVSS_V3", "score": %q}], "affected": [{"package": {"ecosystem": "npm", "name": "dead"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]}`, critical),
			fmt.Sprintf(`{"id": "GHSA-6", "modified": "2024-01-01T00:00:00Z", "severity": [{"type": "CVSS_V3", "score": %q}], "affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]}`, medium))
		got, err := s.s.FixFirst(t.Context(), "", "", 10)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, u := range got.Upgrades {
			lines = append(lines, fmt.Sprintf("%s -> %s mends %v leaves %v in %d of %v", u.Component, u.To, u.Flaws, u.Left, u.Artifacts, u.Services))
		}
		if diff := cmp.Diff([]string{
			"pkg:npm/left-pad@1.0.0 -> 1.2.5 mends [GHSA-1 GHSA-2] leaves [GHSA-6] in 2 of [checkout reports]",
			"pkg:npm/small@1.0.0 -> 2.0.0 mends [GHSA-4] leaves [] in 1 of [checkout]",
		}, lines); diff != "" {
			t.Errorf("upgrades (-want +got):\n%s", diff)
		}
		before := got.Risk
		// What it says it takes away is gone once the upgrade is made.
		want := got.Upgrades[0].Risk
		s.bring(advisory("GHSA-4", "small", "0", "2.0.0", medium),
			fmt.Sprintf(`{"id": "GHSA-5", "modified": "2024-01-01T00:00:00Z", "severity": [{"type": "CVSS_V3", "score": %q}], "affected": [{"package": {"ecosystem": "npm", "name": "dead"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]}`, critical),
			fmt.Sprintf(`{"id": "GHSA-6", "modified": "2024-01-01T00:00:00Z", "severity": [{"type": "CVSS_V3", "score": %q}], "affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]}`, medium))
		if got, err = s.s.FixFirst(t.Context(), "", "", 10); err != nil || fmt.Sprintf("%.3f", before-got.Risk) != fmt.Sprintf("%.3f", want) {
			t.Errorf("%.3f before, %.3f after, want %.3f less; %v", before, got.Risk, want, err)
		}
		if got, err = s.s.FixFirst(t.Context(), "", subject(2), 10); err != nil || got.Count != 1 || len(got.Upgrades) != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// many stores n artifacts of 100 components, of which advisories affect a fifth.
func many(tb testing.TB, n int) *site {
	db := storetest.Open(tb, store.SQLite)
	s := open(tb, db)
	ctx := tb.Context()
	var records []string
	for i := range 400 { // a fifth of the components is affected by one, of those some by three
		records = append(records, advisory(fmt.Sprintf("GHSA-%d", i), fmt.Sprintf("c%d", i%300*6), "0", "2.0.0", critical))
	}
	const each, distinct = 100, 2_000
	if err := db.Update(ctx, func(tx *store.Tx) error {
		for c := range distinct {
			key := fmt.Sprintf("pkg:npm/c%d@1.0.0", c)
			if _, err := tx.Exec(ctx, `INSERT INTO sbom_component (id, key, package, name, version, type, source_name, source_version) VALUES (?, ?, ?, ?, '1.0.0', 'npm', '', '')`, c+1, key, key, fmt.Sprint("c", c)); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO finding_component (component, ecosystem, package, version, state) VALUES (?, 'npm', ?, '1.0.0', 0)`, c+1, fmt.Sprint("c", c)); err != nil {
				return err
			}
		}
		for a := range n {
			if _, err := tx.Exec(ctx, `INSERT INTO finding_scan (document, subject, scanned, components) VALUES (?, ?, 1, ?)`, a+1, string(subject(a)), each); err != nil {
				return err
			}
			args := make([]any, 0, 4*each)
			for i := range each {
				args = append(args, a+1, (a*7+i*19)%distinct+1, i%2, 0)
			}
			if _, err := tx.Exec(ctx, `INSERT INTO sbom_occurrence (document, component, direct, via, license) VALUES `+strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ''), ", each), ", "), args...); err != nil {
				return err
			}
			s.places[subject(a)] = &risk.Stored{Places: []inventory.Place{{Repository: []string{"shop/checkout", "shop/reports", "other"}[a%3]}}}
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	s.m.Forget()
	s.bring(records...)
	return s
}

func TestAThousandArtifacts(t *testing.T) {
	s := many(t, 1000)
	at := time.Now()
	got, err := s.s.Artifacts(t.Context(), "", 100)
	if err != nil || got.Count != 1000 || got.Findings != 19_960 || len(got.Artifacts) != 100 {
		t.Fatalf("%+v, %v", got, err)
	}
	if d := time.Since(at); d > 10*time.Second { // wide: machines differ
		t.Errorf("a list took %s", d)
	}
	if got, err = s.s.FixFirst(t.Context(), "", "", 20); err != nil || len(got.Upgrades) != 20 {
		t.Fatalf("%+v, %v", got, err)
	}
}

// BenchmarkTenThousandArtifacts ranks 10,000 artifacts of 100 components with
// 200,000 findings.
func BenchmarkTenThousandArtifacts(b *testing.B) {
	s := many(b, 10_000)
	for b.Loop() {
		got, err := s.s.Artifacts(b.Context(), "", 100)
		if err != nil || got.Count != 10_000 {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}

// What takes long is kept for a while, told with its time, and made anew in the
// background before it is too old.
func TestListsOfLargeSites(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pass := func(d time.Duration) time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
		return now
	}
	slow := 100 * time.Millisecond // each look at the clock
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "data", "a.db"), store.WithClock(func() time.Time { return pass(slow) }))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := open(t, db)
	s.document(1, "shop/checkout", "pkg:npm/left-pad@1.0.0")
	s.bring(advisory("GHSA-1", "left-pad", "0", "1.1.0", critical), advisory("GHSA-2", "front", "0", "1.2.0", medium))
	look := func() *risk.Answer {
		t.Helper()
		a, err := s.s.Artifacts(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	first := look()
	s.document(2, "shop/reports", "pkg:npm/left-pad@1.0.0", "pkg:npm/front@1.0.0")
	if got := look(); got.Count != 1 || !got.At.Equal(first.At) {
		t.Errorf("%d artifacts as of %s, want the kept list as of %s", got.Count, got.At, first.At)
	}
	up, err := s.s.FixFirst(t.Context(), "", "", 10)
	if err != nil || len(up.Upgrades) != 1 || up.Upgrades[0].Artifacts != 1 {
		t.Errorf("upgrades of the kept list: %+v, %v", up, err)
	}
	if one, err := s.s.FixFirst(t.Context(), "", subject(2), 10); err != nil || len(one.Upgrades) != 2 {
		t.Errorf("of one artifact: %+v, %v: want it as it is now", one, err)
	}
	services, err := s.s.Services(t.Context())
	if err != nil || services["reports"].Count != 0 || services["checkout"].Count != 1 {
		t.Errorf("services %+v, %v", services, err)
	}
	if reports, err := s.s.Service(t.Context(), "reports", 10); err != nil || reports.Count != 1 {
		t.Errorf("a service that nobody looked at: %+v, %v", reports, err)
	}
	pass(time.Hour)
	if got := look(); got.Count != 2 {
		t.Errorf("%d artifacts after an hour", got.Count)
	}
}
