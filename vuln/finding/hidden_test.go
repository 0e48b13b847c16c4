package finding_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/finding"

	"github.com/google/go-cmp/cmp"
)

// raw indexes a CycloneDX document of components and looks it up.
func (s *site) raw(n int, components string) {
	s.t.Helper()
	doc := `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[` + components + `]}`
	ix, _, err := s.boms.Index(s.t.Context(), sbom.Source{Attestation: fmt.Sprintf("att_raw_%d", n), Subject: subject(n), Identity: "me"}, strings.NewReader(doc))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.m.Scan(s.t.Context(), ix.ID); err != nil {
		s.t.Fatal(err)
	}
}

// A component is one row, whoever's document names it. Whoever is first, and tells
// another version, source package or name beside the package URL, does not speak
// for the documents of others.
func TestThreat_Vuln_StrangersWordAboutAComponent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""))
		s.bring("osv", "Debian", advisory("DSA-1", "Debian:12", "openssl", "3.0.11", ""))
		const ssl = "pkg:deb/debian/libssl3@3.0.9?distro=debian-12"
		// The stranger's, before anybody else's.
		s.raw(1, `{"bom-ref":"a","type":"library","name":"harmless","version":"99.0.0","purl":"pkg:npm/left-pad@1.0.0"},
			{"bom-ref":"b","type":"library","name":"bare","version":"99.0.0","purl":"pkg:npm/left-pad"},
			{"bom-ref":"c","type":"library","name":"libssl3","version":"9:9","purl":"`+ssl+`","properties":[{"name":"aquasecurity:trivy:SrcName","value":"harmless"},{"name":"aquasecurity:trivy:SrcVersion","value":"99"}]}`)
		// An honest one.
		s.raw(2, `{"bom-ref":"a","type":"library","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"},
			{"bom-ref":"b","type":"library","name":"left-pad","version":"1.1.0","purl":"pkg:npm/left-pad"},
			{"bom-ref":"c","type":"library","name":"libssl3","version":"3.0.9","purl":"`+ssl+`","properties":[{"name":"aquasecurity:trivy:SrcName","value":"openssl"},{"name":"aquasecurity:trivy:SrcVersion","value":"3.0.9"}]}`)
		got := strings.Join(s.findings(2), "\n")
		for _, want := range []string{"pkg:npm/left-pad@1.0.0 affected", "pkg:npm/left-pad@1.1.0 affected", "DSA-1 pkg:deb/debian/libssl3@3.0.9"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is not found; found are\n%s", want, got)
			}
		}
		found, _, err := s.boms.Search(t.Context(), sbom.Query{Name: "left-pad", Limit: 10})
		if err != nil || len(found) == 0 {
			t.Errorf("searched by its name: %d, %v", len(found), err)
		}
		// What is only asked about, and stands there twice, is looked up by both.
		all, _, err := finding.Judge(t.Context(), s.feeds, &exploit.Book{}, []finding.Component{
			{PURL: ssl, SourceName: "harmless"}, {PURL: ssl, SourceName: "openssl"}, {PURL: "pkg:npm/left-pad", Version: "3.0.0"}, {PURL: "pkg:npm/left-pad", Version: "1.0.0"},
		}, nil, clock.System(), time.Hour)
		if err != nil || len(all) != 2 {
			t.Errorf("%d findings, %v; want both", len(all), err)
		}
	})
}

// A feed is for what its records are about, whatever it was imported as: a release
// that none of them names, an ecosystem of which an archive of several holds nothing,
// and one of which only malicious packages are known, are not known. One that was
// looked at in times to come is not fresh for that.
func TestThreat_Feed_CoversWhatItHolds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.document(1, "pkg:deb/debian/curl@7.0?distro=debian-12", "pkg:deb/ubuntu/curl@7.0?distro=ubuntu-22.04", "pkg:deb/debian/curl@7.0?distro=debian-99", "pkg:npm/left-pad@1.0.0", "pkg:pypi/requests@1.0")
		state := func() (finding.State, finding.State) {
			t.Helper()
			_, st, err := s.m.OfSubject(t.Context(), subject(1), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			_, asked, err := finding.Judge(t.Context(), s.feeds, &exploit.Book{}, []finding.Component{
				{PURL: "pkg:deb/debian/curl@7.0?distro=debian-12"}, {PURL: "pkg:deb/ubuntu/curl@7.0?distro=ubuntu-22.04"}, {PURL: "pkg:deb/debian/curl@7.0?distro=debian-99"}, {PURL: "pkg:npm/left-pad@1.0.0"}, {PURL: "pkg:pypi/requests@1.0"},
			}, nil, clock.System(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return st, asked
		}
		missing := func(want ...string) {
			t.Helper()
			for _, st := range []func() finding.State{func() finding.State { a, _ := state(); return a }, func() finding.State { _, b := state(); return b }} {
				if d := cmp.Diff(want, st().FeedsMissing); d != "" {
					t.Errorf("missing (-want +got): %s", d)
				}
			}
		}
		missing("Debian", "PyPI", "Ubuntu", "npm")
		s.bring("osv", "Debian", advisory("DSA-1", "Debian:12", "openssl", "3", ""))
		s.bring("osv", "Ubuntu", advisory("USN-1", "Ubuntu:22.04:LTS", "openssl", "3", ""))
		missing("Debian:99", "PyPI", "npm")
		s.bring("mine", "", advisory("GHSA-1", "npm", "right-pad", "2.0.0", ""), advisory("MAL-1", "PyPI", "requets", "9", ""))
		missing("Debian:99", "PyPI")
		s.bring("osv", "PyPI", advisory("PYSEC-1", "PyPI", "flask", "2", ""))
		missing("Debian:99")
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE feed_source SET checked = ? WHERE ecosystem = 'PyPI'`, store.Micros(tx.Now().Add(24*time.Hour)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if st, asked := state(); !slices.Equal(st.FeedsStale, []string{"PyPI"}) || !slices.Equal(asked.FeedsStale, []string{"PyPI"}) {
			t.Errorf("looked at tomorrow: %q, %q", st.FeedsStale, asked.FeedsStale)
		}
	})
}

// Of several records about one flaw the worst word counts: a vector that another
// feed rates low takes no critical away.
func TestThreat_Vuln_RatedLowByAnother(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", `"aliases": ["CVE-2024-1"], "database_specific": {"severity": "CRITICAL"},`))
		s.bring("other", "npm", advisory("OTHER-1", "npm", "elsewhere", "2.0.0", `"aliases": ["CVE-2024-1"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}],`))
		s.document(1, "pkg:npm/left-pad@1.0.0")
		if got := s.findings(1); len(got) != 1 || !strings.Contains(got[0], " critical ") {
			t.Errorf("%q, want one, critical", got)
		}
	})
}

// A document that describes all that it lists hides none of it: what stands for the
// whole is left out where it is one thing, or nothing that is published.
func TestThreat_SBOM_AllAreRoots(t *testing.T) {
	doc := `{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"x","documentNamespace":"https://example.com/x","creationInfo":{"created":"2024-01-01T00:00:00Z","creators":["Tool: x"]},
		"packages":[{"SPDXID":"SPDXRef-a","name":"image","downloadLocation":"NOASSERTION","externalRefs":[{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:oci/image@sha256:aa"}]},
		{"SPDXID":"SPDXRef-b","name":"left-pad","versionInfo":"1.0.0","downloadLocation":"NOASSERTION","externalRefs":[{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:npm/left-pad@1.0.0"}]},
		{"SPDXID":"SPDXRef-c","name":"right-pad","versionInfo":"1.0.0","downloadLocation":"NOASSERTION","externalRefs":[{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:npm/right-pad@1.0.0"}]}],
		"relationships":[{"spdxElementId":"SPDXRef-DOCUMENT","relationshipType":"DESCRIBES","relatedSpdxElement":"SPDXRef-a"},{"spdxElementId":"SPDXRef-DOCUMENT","relationshipType":"DESCRIBES","relatedSpdxElement":"SPDXRef-b"}]}`
	d, err := sbom.Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(d.Packages()); n != 2 {
		t.Errorf("%d packages to be scanned, want 2", n)
	}
	if q := sbom.Judge(d); q.Packages() != 2 {
		t.Errorf("%d packages are judged, want 2", q.Packages())
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""))
		ix, _, err := s.boms.Index(t.Context(), sbom.Source{Attestation: "att_1", Subject: subject(1), Identity: "me"}, strings.NewReader(doc))
		if err == nil {
			err = s.m.Scan(t.Context(), ix.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := s.findings(1); ix.Packages != 2 || len(got) != 1 || !strings.Contains(got[0], "left-pad@1.0.0 affected fixed=2.0.0 direct") {
			t.Errorf("%d packages, found %q", ix.Packages, got)
		}
	})
}

// A document that names more versions of packages with flaws than any artifact has is
// refused, and counts for nothing; what is only asked about likewise. Many findings of
// one artifact are told in time that grows with them, and not with their square.
func TestThreat_SBOM_EveryVersion(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		defer finding.SetMaxMatches(12_000)()
		s := open(t, db)
		var records []string
		for i := range 20 {
			records = append(records, advisory(fmt.Sprintf("GHSA-%d", i), "npm", "left-pad", "99.0.0", ""))
		}
		s.bring("osv", "npm", records...)
		purls := func(n int) (all []string) {
			for i := range n {
				all = append(all, fmt.Sprintf("pkg:npm/left-pad@1.0.%d", i))
			}
			return all
		}
		s.document(1, purls(700)...)
		if _, st, err := s.m.OfSubject(t.Context(), subject(1), time.Hour); err != nil || st.SBOM || st.Components != 0 {
			t.Errorf("14,000 matches: %+v, %v; want no bill of materials", st, err)
		}
		if ix, err := s.boms.Documents(t.Context(), subject(1)); err != nil || len(ix) != 1 || !strings.Contains(ix[0].Problem, "no artifact holds that") {
			t.Errorf("%+v, %v", ix, err)
		}
		var asked []finding.Component
		for _, p := range purls(700) {
			asked = append(asked, finding.Component{PURL: p})
		}
		if _, _, err := finding.Judge(t.Context(), s.feeds, &exploit.Book{}, asked, nil, clock.System(), time.Hour); !errors.Is(err, fault.TooLarge) {
			t.Errorf("asked about: %v", err)
		}
		s.document(2, purls(500)...)
		if all, st, err := s.m.OfSubject(t.Context(), subject(2), time.Hour); err != nil || len(all) != 10_000 || !st.Scanned {
			t.Errorf("%d findings, %v", len(all), err)
		}
	})
}

// What an older matcher took for clean, a newer one looks up again: nobody has to
// hand the bill of materials in a second time.
func TestThreat_Vuln_OlderMatcher(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""), advisory("GHSA-2", "npm", "right-pad", "2.0.0", ""))
		s.document(1, "pkg:npm/left-pad@1.0.0", "pkg:npm/right-pad@1.0.0", "pkg:generic/thing@1")
		want := s.findings(1)
		if len(want) != 2 {
			t.Fatalf("%q", want)
		}
		through := func(version string) (turns int) {
			t.Helper()
			for {
				worked, err := s.m.AgainBy(t.Context(), version)
				if err != nil {
					t.Fatal(err)
				}
				if !worked {
					return turns
				}
				if turns++; turns > 10 {
					t.Fatal("it does not end")
				}
			}
		}
		if n := through("1"); n != 1 || len(s.told(event.FindingOpened)) != 0 {
			t.Errorf("%d turns, %d told: nothing is new", n, len(s.told(event.FindingOpened)))
		}
		// As an older one left it: one clean that is not, one of which it knew nothing,
		// and a match that is none.
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			for _, q := range []string{
				`UPDATE finding_component SET version = '99.0.0' WHERE package = 'left-pad'`, `DELETE FROM finding_match WHERE advisory = 'GHSA-1'`,
				`UPDATE finding_component SET ecosystem = '', package = '', version = '', state = 1 WHERE package = 'right-pad'`,
				`UPDATE finding_match SET advisory = 'GHSA-3' WHERE advisory = 'GHSA-2'`,
			} {
				if _, err := tx.Exec(t.Context(), q); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s.m.Forget()
		if n := through("1"); n != 0 {
			t.Errorf("the same matcher looks again, %d times", n)
		}
		through("2")
		if d := cmp.Diff(want, s.findings(1)); d != "" {
			t.Errorf("looked up again (-want +got): %s", d)
		}
		if opened, closed := s.told(event.FindingOpened), s.told(event.FindingResolved); len(opened) != 1 || len(closed) != 1 {
			t.Errorf("%d opened and %d resolved are told, want one artifact each", len(opened), len(closed))
		}
		if _, st, err := s.m.OfSubject(t.Context(), subject(1), time.Hour); err != nil || st.Unmatched != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""), advisory("GHSA-2", "npm", "right-pad", "2.0.0", ""), advisory("GHSA-4", "npm", "left-pad", "3.0.0", ""))
		if got := s.findings(1); len(got) != 3 {
			t.Errorf("what came after: %q, want three", got)
		}
	})
}

// Whoever builds again has an artifact that is new here, and its flaws are not.
func TestThreat_Vuln_KnownBeforeItWasBuilt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""))
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE feed_operation SET finished = finished - ?`, (48 * time.Hour).Microseconds())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.1.0", "")) // another word about the same
		s.document(1, "pkg:npm/left-pad@1.0.0")
		all, _, err := s.m.OfSubject(t.Context(), subject(1), time.Hour)
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		if old := all[0].FirstSeen.Sub(all[0].Known); old < 47*time.Hour || old > 49*time.Hour {
			t.Errorf("known since %s, here since %s", all[0].Known, all[0].FirstSeen)
		}
	})
}

// What is asked by some bills of materials alone is told by those alone.
func TestOfDocuments(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""))
		for i, p := range []string{"pkg:npm/left-pad@1.0.0", "pkg:pypi/requests@1.0"} {
			ix, _, err := s.boms.Index(t.Context(), sbom.Source{Attestation: fmt.Sprintf("att_%d", i), Subject: subject(1), Identity: "me"}, strings.NewReader(
				`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"bom-ref":"a","type":"library","name":"x","version":"1.0.0","purl":"`+p+`"}]}`))
			if err == nil {
				err = s.m.Scan(t.Context(), ix.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, tt := range []struct {
			by                             []string
			sbom                           bool
			components, findings, ofs, gap int
		}{
			{nil, true, 2, 1, 2, 1}, {[]string{"att_0"}, true, 1, 1, 1, 0}, {[]string{"att_1"}, true, 1, 0, 1, 1}, {[]string{"att_0", "att_1", "att_2"}, true, 2, 1, 2, 1}, {[]string{"att_2"}, false, 0, 0, 0, 0}, {[]string{}, false, 0, 0, 0, 0},
		} {
			all, st, err := s.m.OfDocuments(t.Context(), subject(1), time.Hour, tt.by)
			if err != nil || st.SBOM != tt.sbom || st.Components != tt.components || len(all) != tt.findings || len(st.FeedsMissing) != tt.gap {
				t.Errorf("by %q: %d findings, %+v, %v", tt.by, len(all), st, err)
			}
			if ids, err := s.m.Documents(t.Context(), subject(1), tt.by); err != nil || len(ids) != tt.ofs {
				t.Errorf("by %q: documents %q, %v", tt.by, ids, err)
			}
		}
	})
}

// An advisory of a distribution mends flaws that it names as upstream, or as related:
// that one of them is exploited counts. What is stated about one of several takes none
// of the others away.
func TestThreat_Vuln_ExploitedUpstream(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "Debian", advisory("DSA-1", "Debian:12", "curl", "9", `"upstream": ["CVE-2024-1001", "CVE-2024-1002"],`), advisory("DEBIAN-CVE-2024-1003", "Debian:12", "curl", "9", `"upstream": ["CVE-2024-1003"],`))
		s.bring("osv", "AlmaLinux", advisory("ALSA-1", "AlmaLinux:9", "curl", "9", `"related": ["CVE-2024-1001", "CVE-2024-1002"],`))
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "curl", "9", `"aliases": ["CVE-2024-1001"],`))
		exploits := exploit.NewStore(db)
		if _, err := exploits.Import(t.Context(), strings.NewReader(`{"catalogVersion": "2026.01.01", "dateReleased": "2026-01-01", "vulnerabilities": [{"cveID": "CVE-2024-1002", "dateAdded": "2026-01-01"}, {"cveID": "CVE-2024-1003", "dateAdded": "2026-01-02"}]}`), "me", ""); err != nil {
			t.Fatal(err)
		}
		s.document(1, "pkg:deb/debian/curl@7?distro=debian-12", "pkg:rpm/almalinux/curl@7?distro=almalinux-9.3", "pkg:npm/curl@7.0.0")
		all, _, err := s.m.OfSubject(t.Context(), subject(1), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range all {
			got = append(got, fmt.Sprintf("%s kev=%s %s", f.Name, f.KEV, strings.Join(f.Names, ",")))
		}
		slices.Sort(got)
		want := []string{
			"ALSA-1 kev=2026-01-01 ALSA-1", "CVE-2024-1001 kev= CVE-2024-1001,GHSA-1", "CVE-2024-1003 kev=2026-01-02 CVE-2024-1003,DEBIAN-CVE-2024-1003", "DSA-1 kev=2026-01-01 DSA-1",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}
