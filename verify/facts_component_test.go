package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/policy"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
)

// parts is a bill of materials: name@version to licence.
func parts(complete bool, licenses map[string]string) map[string]any {
	var components []any
	var refs []string
	for name, license := range licenses {
		at := strings.LastIndexByte(name, '@')
		c := map[string]any{"type": "library", "bom-ref": name, "name": name[:at], "version": name[at+1:], "purl": "pkg:npm/" + name}
		if license != "" {
			c["licenses"] = []any{map[string]any{"expression": license}}
		}
		components, refs = append(components, c), append(refs, name)
	}
	out := map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
	aggregate := "complete"
	if !complete {
		aggregate = "incomplete"
	}
	out["compositions"] = []any{map[string]any{"aggregate": aggregate, "assemblies": refs}}
	return out
}

func overlayOf(purl string, fields map[string]string) map[string]any {
	e := map[string]any{"purl": purl}
	for k, v := range fields {
		e[k] = map[string]any{"value": v, "source": "the registry"}
	}
	return map[string]any{"components": []any{e}}
}

// site is a world whose evidence is read into the tables of a site.
type site struct {
	*rig
	sboms *sbom.Store
}

func newSite(t *testing.T, db *store.DB) *site {
	s := &site{}
	s.rig = newRig(t, db, func(o *Options) {
		if err := db.Migrate(t.Context(), sbom.Migrations); err != nil {
			t.Fatal(err)
		}
		s.sboms = sbom.NewStore(db, sbom.Limits{})
		o.Components, o.MaxValidity = s.sboms, 90*24*time.Hour
	})
	return s
}

// attested signs a document or an overlay about the artifact, and reads it.
func (s *site) attested(t *testing.T, who, predicateType string, predicate any, read bool) {
	t.Helper()
	it := s.w.attest(who, statement(t, content, predicateType, predicate))
	s.items = append(s.items, it)
	if !read {
		return
	}
	raw, err := json.Marshal(predicate)
	if err != nil {
		t.Fatal(err)
	}
	from := sbom.Source{Attestation: evidence.ID(it.Bundle), Subject: artifact.SHA256Of(content), Issuer: testIssuer, Identity: who}
	if predicateType == attestation.PredicateSBOMOverlay {
		err = s.sboms.Overlay(t.Context(), from, bytes.NewReader(raw))
	} else {
		_, _, err = s.sboms.Index(t.Context(), from, bytes.NewReader(raw))
	}
	if err != nil {
		t.Fatal(err)
	}
}

const mallory = "mallory@example.org"

// Licences are what all say together, known by whose word counts; what nobody
// knows is not clean.
func TestThreat_Policy_ComponentLicenses(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		type doc struct {
			who  string
			what any
		}
		bom := func(who string, licenses map[string]string) doc { return doc{who, parts(true, licenses)} }
		over := func(who, license string) doc {
			return doc{who, overlayOf("pkg:npm/a", map[string]string{"license": license})}
		}
		const named = `identities: [{issuer: "https://issuer.example", subject: alice@example.org}], `
		s := newSite(t, db)
		for _, tt := range []struct {
			name  string
			spec  string
			docs  []doc
			want  policy.Verdict
			found string
		}{
			{"no document", `licenses: {allow: [MIT]}`, nil, policy.Deny, ""},
			{"allowed", `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": "MIT"})}, policy.Allow, "1 components"},
			{"one side of an OR", `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": "MIT OR GPL-3.0-only"})}, policy.Allow, ""},
			{"one side of an AND", `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": "MIT AND GPL-3.0-only"})}, policy.Deny, "GPL-3.0-only (pkg:npm/a@1)"},
			{"denied", `licenses: {deny: [GPL-3.0-only]}`, []doc{bom(alice, map[string]string{"a@1": "gpl-3.0-only", "b@1": "MIT"})}, policy.Deny, "GPL-3.0-only (pkg:npm/a@1)"},
			{"not denied", `licenses: {deny: [GPL-3.0-only]}`, []doc{bom(alice, map[string]string{"a@1": "MIT OR GPL-3.0-only", "b@1": "Apache-2.0"})}, policy.Allow, ""},
			{"unknown is not clean", `licenses: {deny: [GPL-3.0-only]}`, []doc{bom(alice, map[string]string{"a@1": "", "b@1": "MIT"})}, policy.Deny, "1 of unknown licence: pkg:npm/a@1"},
			{"unknown, accepted", `licenses: {deny: [GPL-3.0-only]}, accept: [license]`, []doc{bom(alice, map[string]string{"a@1": ""})}, policy.Allow, ""},
			{"a name of its own", `licenses: {deny: [GPL-3.0-only]}`, []doc{bom(alice, map[string]string{"a@1": "LicenseRef-ours"})}, policy.Deny, "unknown licence"},
			{"a name of its own, allowed", `licenses: {allow: [LicenseRef-ours]}`, []doc{bom(alice, map[string]string{"a@1": "LicenseRef-ours"})}, policy.Allow, ""},
			{"a denied one is not accepted away", `licenses: {deny: [GPL-3.0-only]}, accept: [license]`, []doc{bom(alice, map[string]string{"a@1": "see GPL-3.0-only file"})}, policy.Deny, "see GPL-3.0-only file"},
			{"incomplete", `licenses: {allow: [MIT]}`, []doc{{alice, parts(false, map[string]string{"a@1": "MIT"})}}, policy.Deny, ""},
			{"incomplete, accepted", `licenses: {allow: [MIT]}, accept: [sbom-incomplete]`, []doc{{alice, parts(false, map[string]string{"a@1": "MIT"})}}, policy.Allow, ""},
			{"a stranger's word", named + `licenses: {allow: [MIT]}`, []doc{bom(mallory, map[string]string{"a@1": "MIT"})}, policy.Deny, "1 of unknown licence"},
			{"a stranger's second document", named + `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": ""}), bom(mallory, map[string]string{"a@1": "MIT"})}, policy.Deny, "1 of unknown licence"},
			{"two documents", `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": "MIT"}), bom(mallory, map[string]string{"a@1": "GPL-3.0-only"})}, policy.Deny, "GPL-3.0-only"},
			{"an overlay tells", named + `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": ""}), over(alice, "MIT")}, policy.Allow, ""},
			{"a stranger's overlay", named + `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": ""}), over(mallory, "MIT")}, policy.Deny, "1 of unknown licence"},
			{"an overlay that nobody named", `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": ""}), over(alice, "MIT")}, policy.Deny, "1 of unknown licence"},
			{"an overlay says better", named + `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": "see the file"}), over(alice, "MIT")}, policy.Allow, ""},
			{"an overlay takes no licence away", named + `licenses: {allow: [MIT]}`, []doc{bom(alice, map[string]string{"a@1": "GPL-3.0-only"}), over(alice, "MIT")}, policy.Deny, "GPL-3.0-only"},
		} {
			s.items = nil
			if err := wipe(t, db); err != nil {
				t.Fatal(err)
			}
			for _, d := range tt.docs {
				kind := attestation.PredicateCycloneDX
				if m, _ := d.what.(map[string]any); m["bomFormat"] == nil {
					kind = attestation.PredicateSBOMOverlay
				}
				s.attested(t, d.who, kind, d.what, true)
			}
			d := decideOn(t, s.rig, parse(t, policyHead+"  requirements:\n    components: {"+tt.spec+"}\n"))
			var found string
			for _, c := range d.Checks {
				if c.Name == "components/licenses" {
					found = c.Found
				}
			}
			if d.Verdict != tt.want || !strings.Contains(found, tt.found) {
				t.Errorf("%s: %s: %s, want %s: %s", tt.name, d.Verdict, found, tt.want, tt.found)
			}
		}
	})
}

// wipe empties the tables of documents between cases.
func wipe(t *testing.T, db *store.DB) error {
	return db.Update(t.Context(), func(tx *store.Tx) error {
		for _, table := range []string{"sbom_document", "sbom_occurrence", "sbom_component", "sbom_digest", "sbom_overlay", "sbom_overlay_value"} {
			if _, err := tx.Exec(t.Context(), `DELETE FROM `+table); err != nil {
				return err
			}
		}
		return nil
	})
}

// A component is as old as whose word counts says; else as long as the site knows
// it, where the policy takes that; else of unknown age, which is not old.
func TestThreat_Policy_ComponentAge(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		day := func(s *site, ago int) string { return s.now.AddDate(0, 0, -ago).Format(time.DateOnly) }
		published := func(days int) func(*testing.T, *site, string) {
			return func(t *testing.T, s *site, who string) {
				s.attested(t, who, attestation.PredicateSBOMOverlay, overlayOf("pkg:npm/a@1", map[string]string{"published": day(s, days)}), true)
			}
		}
		const named = `identities: [{issuer: "https://issuer.example", subject: alice@example.org}], minAge: 7d`
		s := newSite(t, db)
		start := s.now
		for _, tt := range []struct {
			name, spec string
			who        string
			add        func(*testing.T, *site, string)
			known      int // days for which the site knows the component
			want       policy.Verdict
			found      string
		}{
			{"unknown", named, alice, nil, 0, policy.Deny, "1 of unknown age: pkg:npm/a@1"},
			{"unknown, accepted", named + ", accept: [age]", alice, nil, 0, policy.Allow, ""},
			{"old", named, alice, published(30), 0, policy.Allow, "1 of known age"},
			{"young", named, alice, published(3), 0, policy.Deny, "1 younger: pkg:npm/a@1 (published"},
			{"of the day itself", named, alice, published(7), 0, policy.Deny, "1 younger"},
			{"to be published", named, alice, published(-30), 0, policy.Deny, "1 younger"},
			{"a stranger says that it is old", named, mallory, published(3000), 0, policy.Deny, "1 of unknown age"},
			{"long known here", "minAge: 7d, firstSeen: true", alice, nil, 30, policy.Allow, ""},
			{"long known here, not asked", named, alice, nil, 30, policy.Deny, "1 of unknown age"},
			{"new here", "minAge: 7d, firstSeen: true", alice, nil, 0, policy.Deny, "first seen here"},
			{"new here, published long ago", named + ", firstSeen: true", alice, published(300), 0, policy.Allow, ""},
			{"known here, published lately", named + ", firstSeen: true", alice, published(2), 300, policy.Deny, "published"},
		} {
			s.items, s.now = nil, start
			if err := wipe(t, db); err != nil {
				t.Fatal(err)
			}
			s.attested(t, alice, attestation.PredicateCycloneDX, parts(true, map[string]string{"a@1": "MIT"}), true)
			if tt.add != nil {
				tt.add(t, s, tt.who)
			}
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE sbom_document SET ingested = ?`, store.Micros(s.now.AddDate(0, 0, -tt.known)))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			p := parse(t, policyHead+"  requirements:\n    components: {"+tt.spec+"}\n")
			d := decideOn(t, s.rig, p)
			var found string
			for _, c := range d.Checks {
				if c.Name == "components/age" {
					found = c.Found
				}
			}
			if d.Verdict != tt.want || !strings.Contains(found, tt.found) {
				t.Errorf("%s: %s: %s, want %s: %s", tt.name, d.Verdict, found, tt.want, tt.found)
			}
			if tt.name == "young" {
				s.advance(5*24*time.Hour + time.Minute)
				if d.ValidUntil.After(s.now) {
					t.Errorf("the denial holds until %s, after the cooldown", d.ValidUntil)
				}
				if d = decideOn(t, s.rig, p); d.Verdict != policy.Allow {
					t.Errorf("after the cooldown: %s", d.Verdict)
				}
			}
		}
	})
}

// What was handed in without a signature does not make a component known; what is
// not read yet leaves the question open.
func TestThreat_Policy_ComponentUploaded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newSite(t, db)
		raw, err := json.Marshal(parts(true, map[string]string{"a@1": "MIT"}))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.sboms.Upload(t.Context(), sbom.Upload{Project: "x", Version: "1", Uploader: "mallory", Document: raw}); err != nil {
			t.Fatal(err)
		}
		old := store.Micros(s.now.AddDate(-1, 0, 0))
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE sbom_document SET ingested = ?`, old)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s.attested(t, alice, attestation.PredicateCycloneDX, parts(true, map[string]string{"a@1": "MIT"}), true)
		p := parse(t, policyHead+"  requirements:\n    components: {minAge: 7d, firstSeen: true}\n")
		if d := decideOn(t, s.rig, p); d.Verdict != policy.Deny {
			t.Errorf("known by an upload alone: %s", d.Verdict)
		}
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE sbom_document SET ingested = ? WHERE ingested <> ?`, store.Micros(s.now), old)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s.advance(8 * 24 * time.Hour)
		if d := decideOn(t, s.rig, p); d.Verdict != policy.Allow {
			t.Errorf("known for 8 days: %+v", d.Checks)
		}
		s.attested(t, alice, attestation.PredicateCycloneDX, parts(true, map[string]string{"b@1": "MIT"}), false)
		if d := decideOn(t, s.rig, p); d.Verdict != policy.Deny || !strings.Contains(failuresOf(d), "components/known") {
			t.Errorf("one is not read yet: %s %s", d.Verdict, failuresOf(d))
		}
	})
}

func failuresOf(d *Decision) string {
	var out []string
	for _, c := range d.Checks {
		if c.Status == policy.Fail {
			out = append(out, c.Name)
		}
	}
	return strings.Join(out, ",")
}

// Of very many components and licences the facts hold what decides, and stay small.
func TestThreat_Policy_ManyComponents(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	s := newSite(t, db)
	licenses := map[string]string{"z@1": "GPL-3.0-only"}
	for i := range 5200 {
		licenses[fmt.Sprintf("p%d@1", i)] = fmt.Sprintf("MIT OR LicenseRef-%d", i)
	}
	s.attested(t, alice, attestation.PredicateCycloneDX, parts(true, licenses), true)
	p := parse(t, policyHead+"  requirements:\n    components: {minAge: 7d, firstSeen: true, licenses: {allow: [MIT]}}\n")
	d := decideOn(t, s.rig, p)
	f, err := s.Facts(t.Context(), d.FactsHash)
	if err != nil {
		t.Fatal(err)
	}
	c := f.Components[0]
	if c.Components != 5201 || len(c.Licenses) > maxLicenses || len(c.Youngest) > maxYoungest || c.Licenses[0].License != "GPL-3.0-only" || c.Dated != 5201 {
		t.Errorf("%d components, %d licences (%+v), %d of known age", c.Components, len(c.Licenses), c.Licenses[0], c.Dated)
	}
	var found []string
	for _, c := range d.Checks {
		if c.Status == policy.Fail {
			found = append(found, c.Found)
		}
	}
	slices.Sort(found)
	if len(found) != 2 || !strings.Contains(found[0], "1 under licences that are not taken: GPL-3.0-only (pkg:npm/z@1)") || !strings.Contains(found[1], "at least 50 younger") {
		t.Errorf("%q", found)
	}
}
