package policy

import (
	"context"
	"strings"
	"testing"
)

const wishProvenance = `
    provenance:
      builders: [{id: "https://builder.example/v1", level: 2, signer: {issuer: "https://issuer.example", subject: ci@example.org}}]
`

// sourceFacts are of an artifact whose provenance, by who the policy believes,
// names a commit.
func sourceFacts(facts ...SourceFact) *Facts {
	f := goodFacts()
	e := evidence(40, issuer, "ci@example.org")
	f.Attestations = []Attestation{{Evidence: e, PredicateType: "https://slsa.dev/provenance/v1"}}
	f.Provenance = []Provenance{{Attestation: e.ID, BuilderID: "https://builder.example/v1", Level: 2, Source: Source{Digest: "gitCommit:" + strings.Repeat("a", 40), Ref: "refs/tags/v1"}}}
	for i, s := range facts {
		who := evidence(60+i, issuer, "mallory@example.org")
		if s.Source == "by bob" {
			who = evidence(60+i, issuer, "bob@example.org")
		}
		s.Evidence = who
		if s.Commit == "" {
			s.Commit = strings.Repeat("a", 40)
		}
		f.Sources = append(f.Sources, s)
	}
	f.Normalize()
	return f
}

// Each row: a wish, what is said of the commit, and what is wrong.
func TestSourceRequirements(t *testing.T) {
	bob := ", identities: [{issuer: \"https://issuer.example\", subject: bob@example.org}]"
	byBob := Evidence{Source: "by bob"}
	for name, c := range map[string]struct {
		wish  string
		facts []SourceFact
		found string // part of Found where it fails; "": holds
	}{
		"level":              {"level: 2", []SourceFact{{Own: true, Kind: "summary", Level: 2}}, ""},
		"level too low":      {"level: 3", []SourceFact{{Own: true, Kind: "summary", Level: 2}}, "level 2"},
		"anybody's word":     {"level: 1, reviewed: true", []SourceFact{{Kind: "summary", Level: 3}, {Kind: "record", Reviewed: true}}, "level 0"},
		"named signer":       {"level: 1" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Level: 1}}, ""},
		"another commit":     {"reviewed: true", []SourceFact{{Own: true, Kind: "record", Reviewed: true, Commit: strings.Repeat("b", 40)}}, "no record"},
		"nothing is known":   {"reviewed: true, noForcePush: true, noUnreviewedWorkflow: true", nil, "no record"},
		"reviewed":           {"reviewed: true", []SourceFact{{Own: true, Kind: "record", Reviewed: true, Reviewers: []string{"zoe"}}}, ""},
		"not reviewed":       {"reviewed: true", []SourceFact{{Own: true, Kind: "record"}}, "not reviewed"},
		"stale":              {"reviewed: true", []SourceFact{{Own: true, Kind: "record", Stale: true}}, "older head"},
		"signed":             {"signed: true" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Signed: true}}, ""},
		"not signed":         {"signed: true" + bob, []SourceFact{{Evidence: byBob, Kind: "summary"}}, "no summary says"},
		"merges":             {"merges: resolved" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Merges: "resolved"}}, ""},
		"merges not clean":   {"merges: clean" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Merges: "clean"}, {Evidence: byBob, Kind: "summary", Merges: "resolved"}}, "settled by hand"},
		"merge changed":      {"merges: resolved" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Merges: "clean"}, {Evidence: byBob, Kind: "summary", Merges: "changed"}}, "none of the merged branches brings"},
		"merges unknown":     {"merges: resolved" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Merges: "unknown"}}, "could not be made again"},
		"merges not told":    {"merges: resolved" + bob, []SourceFact{{Evidence: byBob, Kind: "summary", Signed: true}}, "no summary says"},
		"merges by anybody":  {"merges: resolved" + bob, []SourceFact{{Kind: "summary", Merges: "clean"}}, "no summary says"},
		"no force push":      {"noForcePush: true", []SourceFact{{Own: true, Kind: "record", Forced: "no"}}, ""},
		"forced":             {"noForcePush: true", []SourceFact{{Own: true, Kind: "record", Forced: "yes"}}, "force push: yes"},
		"forced unknown":     {"noForcePush: true", []SourceFact{{Own: true, Kind: "record", Forced: "unknown"}}, "force push: unknown"},
		"removed":            {"noForcePush: true", []SourceFact{{Own: true, Kind: "record", Forced: "no"}, {Own: true, Kind: "record", Forced: "no", Removed: true}}, "taken off its branch"},
		"workflow":           {"noUnreviewedWorkflow: true", []SourceFact{{Own: true, Kind: "record", Workflows: []string{"ci.yml"}}}, "unreviewed change of ci.yml"},
		"workflow reviewed":  {"noUnreviewedWorkflow: true", []SourceFact{{Own: true, Kind: "record", Reviewed: true, Workflows: []string{"ci.yml"}}}, ""},
		"files unknown":      {"noUnreviewedWorkflow: true", []SourceFact{{Own: true, Kind: "record", FilesUnknown: true}}, "not all files are known"},
		"tag":                {"noMovedTag: true", []SourceFact{{Own: true, Kind: "tag", Ref: "refs/tags/v1"}}, ""},
		"tag moved":          {"noMovedTag: true", []SourceFact{{Own: true, Kind: "tag", Ref: "refs/tags/v1"}, {Own: true, Kind: "tag", Ref: "refs/tags/v1", TagMoved: true}}, "the tag was moved"},
		"tag of another":     {"noMovedTag: true", []SourceFact{{Own: true, Kind: "tag", Ref: "refs/tags/v2"}, {Own: true, Kind: "tag", Ref: "refs/tags/v1", Commit: strings.Repeat("b", 40)}}, "nobody whose word counts knows it"},
		"tag by nobody":      {"noMovedTag: true", []SourceFact{{Kind: "tag", Ref: "refs/tags/v1"}}, "nobody whose word counts knows it"},
		"tarball":            {"tarball: true" + bob, []SourceFact{{Evidence: byBob, Kind: "tarball"}}, ""},
		"tarball differs":    {"tarball: true" + bob, []SourceFact{{Evidence: byBob, Kind: "tarball"}, {Evidence: byBob, Kind: "tarball", TarballDiffers: true}}, "departs from its tag"},
		"tarball by nobody":  {"tarball: true" + bob, []SourceFact{{Kind: "tarball"}}, "compared by nobody"},
		"other's difference": {"tarball: true" + bob, []SourceFact{{Evidence: byBob, Kind: "tarball"}, {Kind: "tarball", TarballDiffers: true}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:" + wishProvenance + "    source: {" + c.wish + "}\n"))
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Evaluate(context.Background(), sourceFacts(c.facts...), testNow)
			if err != nil {
				t.Fatal(err)
			}
			var failed []string
			for _, k := range r.Checks {
				if k.Status == Fail {
					failed = append(failed, k.Name+": "+k.Found)
				}
			}
			if got := strings.Join(failed, "\n"); (got == "") != (c.found == "") || !strings.Contains(got, c.found) || (r.Verdict == Allow) != (c.found == "") {
				t.Errorf("%s with %q, want %q", r.Verdict, got, c.found)
			}
		})
	}
}

func TestSourceRequirementIsWhole(t *testing.T) {
	for wish, want := range map[string]string{"": "want some of", "level: 4": "want 1 to 3", "signed: true": "want identities", "tarball: true": "want identities", "levle: 1": "levle not found"} {
		_, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:" + wishProvenance + "    source: {" + wish + "}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", wish, err, want)
		}
	}
	_, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    source: {level: 1}\n"))
	if err == nil || !strings.Contains(err.Error(), "goes with provenance") {
		t.Errorf("without provenance: %v", err)
	}
}

// Whoever may push to a repository of their own brings the same commit there, and
// has it reviewed by whom they like: what is said of it there says nothing of the
// one that was built from.
func TestThreat_Source_SameCommitElsewhere(t *testing.T) {
	p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:" + wishProvenance + "    source: {level: 2, reviewed: true, noForcePush: true, noUnreviewedWorkflow: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		built, said string
		want        Verdict
	}{
		{"https://git.example/org/app", "https://git.example/org/app", Allow},
		{"https://git.example/org/app", "https://git.example/mallory/app", Deny},
		{"https://git.example/org/app", "https://git.example.mallory.example/org/app", Deny},
		{"https://git.example/org/app", "https://git.example/org/app/x", Deny},
		{"https://git.example/org/app", "", Deny},
		{"ssh://git.example/org/app.git", "git+https://GIT.example/org/app/", Allow},
		{"https://git.example/org/app@refs/heads/main", "https://git.example/org/app", Allow},
		{"https://git.example/mallory/app", "https://git.example/org/app", Deny},
	} {
		f := sourceFacts(SourceFact{Own: true, Kind: "record", Reviewed: true, Forced: "no", URI: c.said}, SourceFact{Own: true, Kind: "summary", Level: 3, URI: c.said})
		f.Provenance[0].Source.URI = c.built
		r, err := p.Evaluate(context.Background(), f, testNow)
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict != c.want {
			t.Errorf("built from %q, stated of %q: %s, want %s: %+v", c.built, c.said, r.Verdict, c.want, r.Checks)
		}
	}
}
