package vex

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

const image = artifact.Digest("sha256:2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806")

const openVEXText = `{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://example.com/vex/1", "author": "Vendor", "timestamp": "2024-01-01T00:00:00Z", "version": 1,
 "statements": [{"vulnerability": {"name": "CVE-2024-1", "aliases": ["GHSA-1"]},
  "products": [{"@id": "pkg:oci/app@sha256%3A2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806", "subcomponents": [{"@id": "pkg:npm/left-pad@1.0.0"}]}],
  "status": "not_affected", "justification": "component_not_present"}]}`

const csafText = `{"document": {"category": "csaf_vex", "publisher": {"name": "Vendor"}, "tracking": {"id": "V-1"}},
 "product_tree": {"branches": [{"category": "vendor", "branches": [{"category": "product_version", "product": {"product_id": "APP", "product_identification_helper": {"hashes": [{"file_hashes": [{"algorithm": "sha256", "value": "2C8B08DA5CE60398E1F19AF0E5DCCC744DF274B826ABE585EABA68C525434806"}]}]}}}]}],
  "full_product_names": [{"product_id": "PAD", "product_identification_helper": {"purl": "pkg:npm/left-pad@1.0.0"}}],
  "relationships": [{"category": "default_component_of", "product_reference": "PAD", "relates_to_product_reference": "APP", "full_product_name": {"product_id": "APP:PAD"}}]},
 "vulnerabilities": [{"cve": "CVE-2024-1", "ids": [{"system_name": "x", "text": "GHSA-1"}], "product_status": {"known_not_affected": ["APP:PAD"]}, "flags": [{"label": "component_not_present", "product_ids": ["APP:PAD"]}]}]}`

const cdxText = `{"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": "urn:uuid:1", "metadata": {"supplier": {"name": "Vendor"}, "component": {"bom-ref": "app", "hashes": [{"alg": "SHA-256", "content": "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"}]}},
 "components": [{"bom-ref": "pad", "purl": "pkg:npm/left-pad@1.0.0"}],
 "vulnerabilities": [{"id": "CVE-2024-1", "references": [{"id": "GHSA-1"}], "analysis": {"state": "not_affected", "justification": "requires_dependency"}, "affects": [{"ref": "pad"}]}]}`

// The three forms say the same.
func TestRead(t *testing.T) {
	want := []Statement{{
		Vulnerabilities: []string{"CVE-2024-1", "GHSA-1"}, Components: []string{"pkg:npm/left-pad@1.0.0"}, Status: NotAffected, Justification: "component_not_present",
	}}
	for format, text := range map[string]string{"openvex": openVEXText, "csaf": csafText, "cyclonedx": cdxText} {
		d, err := Read([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if d.Format != format || d.Author != "Vendor" {
			t.Errorf("%s: %+v", format, d)
		}
		st := d.Statements[0]
		if !st.About(Subject{Digest: image}, Flaw{[]string{"CVE-2024-1"}, "pkg:npm/left-pad@1.0.0"}) {
			t.Errorf("%s: is not about its own product: %+v", format, st)
		}
		st.Products = nil
		if d := cmp.Diff(want, []Statement{st}); d != "" {
			t.Errorf("%s: %s", format, d)
		}
	}
}

func TestAbout(t *testing.T) {
	const pad = "pkg:npm/left-pad@1.2.0"
	sub := Subject{Digest: image, Repository: "team/app"}
	for name, tt := range map[string]struct {
		change func(*Statement)
		want   bool
	}{
		"everything":           {func(*Statement) {}, true},
		"alias, case":          {func(s *Statement) { s.Vulnerabilities = []string{"ghsa-1"} }, true},
		"another flaw":         {func(s *Statement) { s.Vulnerabilities = []string{"CVE-2024-2"} }, false},
		"the digest":           {func(s *Statement) { s.Products = []string{string(image)} }, true},
		"another digest":       {func(s *Statement) { s.Products = []string{string(artifact.SHA256Of(nil))} }, false},
		"the repository":       {func(s *Statement) { s.Products = []string{"team/**"} }, true},
		"its URN":              {func(s *Statement) { s.Products = []string{"urn:assay:repository:team/app"} }, true},
		"another repository":   {func(s *Statement) { s.Products = []string{"other/**"} }, false},
		"image by repository":  {func(s *Statement) { s.Products = []string{"pkg:oci/app?repository_url=registry.example/team/app"} }, true},
		"the component itself": {func(s *Statement) { s.Products = []string{"pkg:npm/left-pad"} }, true},
		"another component":    {func(s *Statement) { s.Products = []string{"pkg:npm/right-pad"} }, false},
		"component":            {func(s *Statement) { s.Components = []string{"pkg:npm/left-pad"} }, true},
		"its version":          {func(s *Statement) { s.Components = []string{pad} }, true},
		"another version":      {func(s *Statement) { s.Components = []string{"pkg:npm/left-pad@1.2.1"} }, false},
		"another type":         {func(s *Statement) { s.Components = []string{"pkg:pypi/left-pad"} }, false},
		"in the range":         {func(s *Statement) { s.Components, s.Versions = []string{"pkg:npm/left-pad"}, "vers:npm/>=1.0.0|<1.3.0" }, true},
		"at its end":           {func(s *Statement) { s.Components, s.Versions = []string{"pkg:npm/left-pad"}, "vers:npm/>=1.0.0|<1.2.0" }, false},
		"at its last":          {func(s *Statement) { s.Components, s.Versions = []string{"pkg:npm/left-pad"}, "vers:npm/<=1.2.0" }, true},
		"of two ranges": {func(s *Statement) {
			s.Components, s.Versions = []string{"pkg:npm/left-pad"}, "vers:npm/>=0.1|<0.2|>=1.2.0"
		}, true},
		"one by name": {func(s *Statement) { s.Components, s.Versions = []string{"pkg:npm/left-pad"}, "vers:npm/1.1.0|1.2.0" }, true},
		"every":       {func(s *Statement) { s.Components, s.Versions = []string{"pkg:npm/left-pad"}, "vers:npm/*" }, true},
	} {
		s := Statement{Vulnerabilities: []string{"CVE-2024-1"}, Products: []string{"**"}, Status: Fixed}
		tt.change(&s)
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.About(sub, Flaw{[]string{"CVE-2024-1", "GHSA-1"}, pad}); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// What is hostile, or says too little, is refused with what is wanted.
func TestThreat_VEX_Refused(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no product":        {`{"@context": "https://openvex.dev/ns/v0.2.0", "statements": [{"vulnerability": {"name": "CVE-1"}, "status": "fixed"}]}`, "names no product"},
		"a bare image name": {strings.Replace(openVEXText, `pkg:oci/app@sha256%3A2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806`, "pkg:oci/app", 1), "a name alone is nobody's"},
		"no justification":  {strings.Replace(openVEXText, `, "justification": "component_not_present"`, "", 1), "wants a justification"},
		"status":            {strings.Replace(openVEXText, `"not_affected"`, `"fine"`, 1), "want not_affected"},
		"twice":             {strings.Replace(openVEXText, `"status": "not_affected"`, `"status": "affected", "status": "not_affected"`, 1), "duplicate"},
		"nothing":           {`{"@context": "https://openvex.dev/ns/v0.2.0", "statements": []}`, "states nothing"},
		"unknown":           {`{}`, "want OpenVEX"},
		"CSAF, no product":  {strings.Replace(csafText, `"product_id": "APP", `, "", 1), "neither package URL nor hash"},
		"CycloneDX, no ref": {strings.Replace(cdxText, `"ref": "pad"`, `"ref": "gone"`, 1), "which no component"},
		"deep":              {strings.Repeat(`{"a":`, 100_000), "VEX"},
	} {
		if _, err := Read([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, fault.Internal) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := Read(make([]byte, MaxBytes+1)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("%v, want too large", err)
	}
}

// What is written is read again as it was.
func TestOpenVEX(t *testing.T) {
	want := []Statement{
		{Vulnerabilities: []string{"CVE-1", "GHSA-1"}, Products: []string{"sha256:" + strings.Repeat("0", 64)}, Status: Fixed},
		{Vulnerabilities: []string{"CVE-2"}, Products: []string{repositoryURN + "team/**"}, Components: []string{"pkg:npm/a"}, Versions: "vers:npm/<2", Status: NotAffected, Justification: "component_not_present", Impact: "why"},
	}
	b, err := json.Marshal(OpenVEX("https://site.example/vex/1", "https://site.example", time.Unix(0, 0), want))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, d.Statements); d != "" {
		t.Error(d)
	}
}

func sign(context.Context, *attestation.Statement) ([]byte, error) {
	return []byte(`{"signed": "` + time.Now().String() + `"}`), nil
}

// Who wins: what was decided here before what was taken over, the newest of one
// author, the most cautious of several; nothing that is over or withdrawn.
func TestBook(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		s := NewStore(Options{DB: db, Sign: sign, Site: "https://site.example"})
		say := func(source, author string, status Status, until time.Time) *Entry {
			t.Helper()
			e, err := s.State(t.Context(), Request{Source: source, Author: author, Actor: "alice", Reason: "a test", Until: until, Statements: []Statement{{
				Vulnerabilities: []string{"CVE-1"}, Products: []string{"**"}, Status: status, Impact: "because",
			}}})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		check := func(want Status) {
			t.Helper()
			book, err := s.Book(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got Status
			if st := book.Of(Subject{}, Flaw{Names: []string{"CVE-1"}}, db.Now()); st != nil {
				got = st.Status
			}
			if got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		check("")
		say(Import, "vendor a", NotAffected, time.Time{})
		check(NotAffected)
		second := say(Import, "vendor b", Affected, time.Time{})
		check(Affected)
		say(Import, "vendor b", Fixed, time.Time{})
		check(Fixed)
		first := say(Triage, "", Investigating, time.Time{})
		check(Investigating)
		last := say(Triage, "", NotAffected, db.Now().Add(time.Hour))
		check(NotAffected)
		if book, err := s.Book(t.Context()); err != nil || book.Of(Subject{}, Flaw{Names: []string{"cve-1"}}, db.Now().Add(2*time.Hour)).Status != Investigating {
			t.Errorf("what is over counts (%v)", err)
		}
		for _, e := range []*Entry{last, first} {
			if _, err := s.Withdraw(t.Context(), e.ID, "bob", "a mistake"); err != nil {
				t.Fatal(err)
			}
		}
		check(Fixed)
		if _, err := s.Withdraw(t.Context(), last.ID, "bob", "again"); !errors.Is(err, fault.NotFound) {
			t.Errorf("%v, want not found", err)
		}
		all, err := s.List(t.Context(), "", 100, true)
		if err != nil || len(all) != 5 {
			t.Errorf("%d listed, %v", len(all), err)
		}
		if all, err = s.List(t.Context(), "", 100, false); err != nil || len(all) != 3 {
			t.Errorf("%d in force, %v", len(all), err)
		}
		if b, err := s.Bundle(t.Context(), second.ID); err != nil || !strings.Contains(string(b), "signed") {
			t.Errorf("%s, %v", b, err)
		}
		if _, err := s.State(t.Context(), Request{Source: Triage, Actor: "alice", Reason: "a test", Until: time.Unix(1, 0), Statements: all[0].Statements}); !errors.Is(err, fault.Invalid) {
			t.Errorf("over already: %v", err)
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{openVEXText, csafText, cdxText} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Read(b)
		if err != nil {
			return
		}
		for i := range d.Statements {
			if err := d.Statements[i].Check(); err != nil {
				t.Fatalf("what was read does not hold: %v", err)
			}
			d.Statements[i].About(Subject{Digest: image}, Flaw{[]string{"CVE-2024-1"}, "pkg:npm/left-pad@1.0.0"})
		}
	})
}
