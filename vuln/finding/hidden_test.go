package finding_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/internal/clock"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/finding"
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
