package finding_test

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"

	"github.com/google/go-cmp/cmp"
)

type site struct {
	t     testing.TB
	db    *store.DB
	boms  *sbom.Store
	feeds *feed.Store
	m     *finding.Matcher
}

func open(t testing.TB, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, finding.Migrations); err != nil {
		t.Fatal(err)
	}
	feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &site{t, db, sbom.NewStore(db, sbom.Limits{}), feeds, finding.New(db, feeds, exploit.NewStore(db))}
}

func subject(n int) artifact.Digest { return artifact.SHA256Of(fmt.Append(nil, "subject", n)) }

// document indexes a bill of materials in which the first component is direct
// and brings the others.
func (s *site) document(n int, purls ...string) {
	s.t.Helper()
	var components, all []string
	for i, p := range purls {
		name, version, _ := strings.Cut(strings.TrimPrefix(p, "pkg:"), "@")
		version, _, _ = strings.Cut(version, "?")
		components = append(components, fmt.Sprintf(`{"type":"library","bom-ref":"r%d","name":%q,"version":%q,"purl":%q}`, i, name, version, p))
		if i > 0 {
			all = append(all, fmt.Sprintf(`"r%d"`, i))
		}
	}
	doc := fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"app","version":"1"}},
		"components":[%s],"dependencies":[{"ref":"root","dependsOn":["r0"]},{"ref":"r0","dependsOn":[%s]}]}`, strings.Join(components, ","), strings.Join(all, ","))
	ix, _, err := s.boms.Index(s.t.Context(), sbom.Source{Attestation: fmt.Sprintf("att_%d", n), Subject: subject(n), Identity: "me"}, strings.NewReader(doc))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.m.Scan(s.t.Context(), ix.ID); err != nil {
		s.t.Fatal(err)
	}
}

func advisory(id, ecosystem, name, fixed, more string) string {
	return fmt.Sprintf(`{"id": %q, "modified": "2024-01-01T00:00:00Z", "summary": "about %s", %s "affected": [{"package": {"ecosystem": %q, "name": %q}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`,
		id, name, more, ecosystem, name, fixed)
}

// bring imports a feed and has it matched.
func (s *site) bring(name, ecosystem string, records ...string) {
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
	op, err := s.feeds.Import(s.t.Context(), a, feed.Options{Name: name, Ecosystem: ecosystem, Actor: "system:test", AllowDowngrade: true, Reason: "test"})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.m.Apply(s.t.Context(), op); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) findings(n int) (lines []string) {
	s.t.Helper()
	all, _, err := s.m.OfSubject(s.t.Context(), subject(n), time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range all {
		var from []string
		for _, r := range f.Records {
			from = append(from, r.Feed+"="+r.ID)
		}
		slices.Sort(from)
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s fixed=%s %s %s via=%s %s", f.Name, f.Component, f.Status, f.Fixed, f.Direct, f.Severity, f.Via, strings.Join(from, ","))))
	}
	slices.Sort(lines)
	return lines
}

func (s *site) state(n int) finding.State {
	s.t.Helper()
	_, st, err := s.m.OfSubject(s.t.Context(), subject(n), time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// told are the events of a kind, by artifact number.
func (s *site) told(kind event.Kind) (out []string) {
	s.t.Helper()
	if err := s.db.View(s.t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(s.t.Context(), `SELECT digest FROM event_pending WHERE kind = ? UNION ALL SELECT digest FROM event WHERE kind = ? ORDER BY digest`, string(kind), string(kind))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var d string
			if err := rows.Scan(&d); err != nil {
				return err
			}
			for n := range 10 {
				if string(subject(n)) == d {
					d = fmt.Sprint(n)
				}
			}
			out = append(out, d)
		}
		return rows.Err()
	}); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func TestFindings(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.document(1, "pkg:npm/direct@1.0.0", "pkg:npm/left-pad@1.0.0", "pkg:deb/debian/libssl3@3.0.1-1?distro=debian-12&upstream=openssl", "pkg:deb/debian/curl@7.0-1", "pkg:generic/thing@1")
		// Nothing is known yet, which is not clean.
		if st := s.state(1); !st.SBOM || !st.Scanned || st.Components != 5 || st.Unmatched != 1 || st.ReleaseMissing != 1 || !slices.Equal(st.FeedsMissing, []string{"Debian", "npm"}) {
			t.Errorf("%+v", st)
		}
		if st := s.state(9); st.SBOM || st.Scanned {
			t.Errorf("an artifact without a bill of materials: %+v", st)
		}
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "1.1.0", `"aliases": ["CVE-2024-1"],`), advisory("GHSA-2", "npm", "left-pad", "0.9.0", ""))
		want := []string{"CVE-2024-1 pkg:npm/left-pad@1.0.0 affected fixed=1.1.0 transitive unknown via=pkg:npm/direct@1.0.0 osv/npm=GHSA-1"}
		if diff := cmp.Diff(want, s.findings(1)); diff != "" {
			t.Error(diff)
		}
		// A second feed about the same flaw is the same finding, and fills in how
		// severe it is.
		s.bring("other", "", advisory("PYSEC-9", "npm", "left-pad", "1.1.0", `"aliases": ["CVE-2024-1"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],`),
			advisory("DSA-1", "Debian:12", "openssl", "3.0.2-1", ""))
		want = []string{
			"CVE-2024-1 pkg:npm/left-pad@1.0.0 affected fixed=1.1.0 transitive critical via=pkg:npm/direct@1.0.0 osv/npm=GHSA-1,other/=PYSEC-9",
			"DSA-1 pkg:deb/debian/libssl3@3.0.1-1?distro=debian-12&upstream=openssl affected fixed=3.0.2-1 transitive unknown via=pkg:npm/direct@1.0.0 other/=DSA-1",
		}
		if diff := cmp.Diff(want, s.findings(1)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"1", "1"}, s.told(event.FindingOpened)); diff != "" {
			t.Error(diff)
		}
		// New documents: what is known needs no feed.
		s.document(2, "pkg:npm/left-pad@1.0.0")
		s.document(3, "pkg:npm/left-pad@1.0.5", "pkg:npm/left-pad@2.0.0")
		if got := s.findings(3); len(got) != 1 || !strings.Contains(got[0], "left-pad@1.0.5 affected") {
			t.Errorf("%q", got)
		}
		// One record changes, one goes.
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "1.0.5", `"aliases": ["CVE-2024-1"],`))
		s.bring("other", "", advisory("DSA-1", "Debian:12", "openssl", "3.0.2-1", ""))
		if got := s.findings(3); got != nil {
			t.Errorf("1.0.5 is fixed now: %q", got)
		}
		if got := s.findings(2); len(got) != 1 {
			t.Errorf("1.0.0 is not: %q", got)
		}
		// One each for the operations: GHSA-1 let go of 1.0.5 in 3; PYSEC-9 went.
		if diff := cmp.Diff([]string{"1", "2", "3", "3"}, sorted(s.told(event.FindingResolved))); diff != "" {
			t.Error(diff)
		}
		if n := len(s.told(event.FeedMatched)); n != 4 {
			t.Errorf("%d receipts", n)
		}
		if n := len(s.told(event.SBOMScanned)); n != 3 {
			t.Errorf("%d receipts of documents", n)
		}
		// All of it stands in the database: a new process finds the same.
		again := finding.New(db, s.feeds, exploit.NewStore(db))
		if err := again.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		c1, d1, o1 := s.m.Index().Size()
		c2, d2, o2 := again.Index().Size()
		if c1 != c2 || d1 != d2 || o1 != o2 || o1 == 0 {
			t.Errorf("%d %d %d, and again %d %d %d", c1, d1, o1, c2, d2, o2)
		}
	})
}

func sorted(s []string) []string { slices.Sort(s); return s }

// TestFollower: a feed and a bill of materials that come as events are matched,
// though the process that noted them ended before.
func TestFollower(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		log := event.NewLog(db, event.LogOptions{})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		sealer := event.NewSealer(db, event.SealerOptions{})
		go func() { _ = sealer.Run(ctx) }()
		done := make(chan error, 1)
		go func() { done <- (&finding.Follower{Matcher: s.m, Events: log}).Run(ctx) }()

		doc := `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","bom-ref":"a","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"}]}`
		if _, _, err := s.boms.Index(ctx, sbom.Source{Attestation: "att_1", Subject: subject(1), Identity: "me"}, strings.NewReader(doc)); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, _ := z.Create("MAL-1.json")
		_, _ = w.Write([]byte(advisory("MAL-2024-1", "npm", "left-pad", "9.0.0", "")))
		z.Close()
		path := filepath.Join(t.TempDir(), "all.zip")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := feed.OpenZip(path)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if _, err := s.feeds.Import(ctx, a, feed.Options{Name: "osv", Ecosystem: "npm", Actor: "system:test"}); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); len(s.findings(1)) == 0 || len(s.told(event.FeedMatched)) == 0; time.Sleep(20 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatal("not matched within 30 s")
			}
		}
		all, _, err := s.m.OfSubject(ctx, subject(1), time.Hour)
		if err != nil || len(all) != 1 || !all[0].Malicious {
			t.Errorf("%+v, %v", all, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
