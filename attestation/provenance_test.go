package attestation

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"assay/artifact"
	"assay/internal/fault"
)

var commit = strings.Repeat("1", 40)

var v1Provenance = `{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1",
 "externalParameters":{"workflow":{"ref":"refs/heads/main","repository":"https://github.com/o/r","path":".github/workflows/w.yml"},"inputs":{"level":8234567890123,"none":null}},
 "internalParameters":{"github":{"event_name":"push","empty":""}},
 "resolvedDependencies":[{"uri":"git+https://github.com/o/r@refs/heads/main","digest":{"gitCommit":"` + commit + `"}}]},
 "runDetails":{"builder":{"id":"https://example.com/builder","version":{"b":"2"}},
 "metadata":{"invocationId":"run/1","startedOn":"2024-05-01T10:00:00Z","finishedOn":"2024-05-01T12:00:00.5+02:00"},"byproducts":[{"name":"log"}]}}`

var v02Provenance = `{"builder":{"id":"https://example.com/builder"},"buildType":"https://example.com/type@v1",
 "invocation":{"configSource":{"uri":"git+https://github.com/o/r@refs/tags/v1","digest":{"sha1":"` + commit + `"},"entryPoint":"w.yml"},
 "parameters":{"a":"1","b":{"c":null}},"environment":{"arch":"X64"}},
 "metadata":{"buildInvocationID":"run/2","buildStartedOn":"2024-05-01T10:00:00Z","completeness":{"parameters":true},"reproducible":false},
 "materials":[{"uri":"git+https://github.com/o/r@refs/tags/v1","digest":{"sha1":"` + commit + `"}}]}`

var v01Provenance = `{"builder":{"id":"https://example.com/builder"},"recipe":{"type":"https://example.com/type@v1","definedInMaterial":"0",
 "entryPoint":"cloudbuild.yaml","arguments":["make"],"environment":null},"metadata":{"buildInvocationId":"run/3"},
 "materials":[{"uri":"https://github.com/o/r/commit/` + commit + `"}]}`

func TestParseProvenance(t *testing.T) {
	start := time.Date(2024, 5, 1, 10, 0, 0, 0, time.UTC)
	v1 := &Provenance{
		PredicateType: PredicateProvenanceV1, BuilderID: "https://example.com/builder", BuilderVersion: map[string]string{"b": "2"},
		BuildType: "https://actions.github.io/buildtypes/workflow/v1", InvocationID: "run/1",
		ExternalParameters: map[string]any{"inputs": map[string]any{"level": int64(8234567890123)},
			"workflow": map[string]any{"ref": "refs/heads/main", "repository": "https://github.com/o/r", "path": ".github/workflows/w.yml"}},
		InternalParameters:   map[string]any{"github": map[string]any{"event_name": "push"}},
		ResolvedDependencies: []ResourceDescriptor{{URI: "git+https://github.com/o/r@refs/heads/main", Digest: artifact.DigestSet{"gitCommit": commit}}},
		Byproducts:           []ResourceDescriptor{{Name: "log"}},
		SourceURI:            "https://github.com/o/r", SourceRef: "refs/heads/main", SourceDigest: artifact.DigestSet{"gitCommit": commit},
		EntryPoint: ".github/workflows/w.yml", StartedOn: start, FinishedOn: start.Add(500 * time.Millisecond),
	}
	stray := *v1
	stray.PredicateType = PredicateProvenanceV1Stray
	for _, c := range []struct {
		typ, in string
		want    *Provenance
	}{
		{PredicateProvenanceV1, v1Provenance, v1},
		{PredicateProvenanceV1Stray, v1Provenance, &stray},
		{PredicateProvenanceV02, v02Provenance, &Provenance{
			PredicateType: PredicateProvenanceV02, BuilderID: "https://example.com/builder", BuildType: "https://example.com/type@v1", InvocationID: "run/2",
			ExternalParameters: map[string]any{"a": "1"}, InternalParameters: map[string]any{"arch": "X64"},
			ResolvedDependencies: []ResourceDescriptor{{URI: "git+https://github.com/o/r@refs/tags/v1", Digest: artifact.DigestSet{"sha1": commit}}},
			SourceURI:            "https://github.com/o/r", SourceRef: "refs/tags/v1", SourceDigest: artifact.DigestSet{"sha1": commit}, EntryPoint: "w.yml", StartedOn: start,
		}},
		{PredicateProvenanceV01, v01Provenance, &Provenance{
			PredicateType: PredicateProvenanceV01, BuilderID: "https://example.com/builder", BuildType: "https://example.com/type@v1", InvocationID: "run/3",
			ExternalParameters:   map[string]any{"arguments": []any{"make"}},
			ResolvedDependencies: []ResourceDescriptor{{URI: "https://github.com/o/r/commit/" + commit}},
			SourceURI:            "https://github.com/o/r", SourceDigest: artifact.DigestSet{"gitCommit": commit}, EntryPoint: "cloudbuild.yaml",
		}},
	} {
		got, err := ParseProvenance(c.typ, []byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.typ, err)
		} else if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.typ, d)
		}
	}
}

// Unset, null and empty are one: the three documents give the same view.
func TestProvenanceUnsetIsNullIsEmpty(t *testing.T) {
	head := `{"buildDefinition":{"buildType":"t"`
	tail := `},"runDetails":{"builder":{"id":"b"}`
	var views []*Provenance
	for _, in := range []string{
		head + tail + `}}`,
		head + `,"externalParameters":null,"internalParameters":null,"resolvedDependencies":null` + tail + `,"metadata":null,"byproducts":null}}`,
		head + `,"externalParameters":{},"internalParameters":{"a":{}},"resolvedDependencies":[]` + tail + `,"metadata":{"invocationId":"","startedOn":""},"byproducts":[]}}`,
		head + `,"externalParameters":{"a":null,"b":"","c":[],"d":{"e":{}}}` + tail + `,"metadata":{"finishedOn":null}}}`,
	} {
		p, err := ParseProvenance(PredicateProvenanceV1, []byte(in))
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		views = append(views, p)
		if d := cmp.Diff(views[0], p, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s differs:\n%s", in, d)
		}
	}
	// false and 0 say something.
	p, err := ParseProvenance(PredicateProvenanceV1, []byte(head+`,"externalParameters":{"f":false,"z":0,"n":null}`+tail+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"f"}, p.UnknownParameters("z", "y")); d != "" {
		t.Errorf("unknown parameters (-want +got):\n%s", d)
	}
}

func TestProvenanceSources(t *testing.T) {
	doc := func(external, deps string) string {
		return `{"buildDefinition":{"buildType":"t","externalParameters":` + external + `,"resolvedDependencies":` + deps + `},"runDetails":{"builder":{"id":"b"}}}`
	}
	dep := func(uri string) string { return `{"uri":"` + uri + `","digest":{"gitCommit":"` + commit + `"}}` }
	type source struct {
		URI, Ref, Entry string
		Digest          artifact.DigestSet
	}
	sha := artifact.DigestSet{"gitCommit": commit}
	for _, c := range []struct {
		name, in string
		want     source
	}{
		{"descriptor", doc(`{"source":`+dep("git+https://h/o/r@refs/heads/x")+`,"configPath":"c.toml"}`, "[]"), source{"https://h/o/r", "refs/heads/x", "c.toml", sha}},
		{"wrapped descriptor", doc(`{"source":{"artifact":`+dep("git+https://h/o/r@v1")+`}}`, "[]"), source{"https://h/o/r", "v1", "", sha}},
		{"Google's", doc(`{"buildConfigSource":{"repository":"git+https://h/o/r","ref":"refs/heads/x","path":"p"}}`, "["+dep("git+https://h/o/r@@refs/heads/x")+"]"),
			source{"https://h/o/r", "refs/heads/x", "p", sha}},
		{"another ref in the dependency", doc(`{"workflow":{"repository":"https://h/o/r","ref":"refs/heads/x"}}`, "["+dep("git+https://h/o/r@refs/heads/y")+"]"),
			source{"https://h/o/r", "refs/heads/x", "", nil}},
		{"another repository", doc(`{"workflow":{"repository":"https://h/o/r"}}`, "["+dep("git+https://h/o/r2")+"]"), source{"https://h/o/r", "", "", nil}},
		{"two digests", doc(`{"workflow":{"repository":"https://h/o/r"}}`, "["+dep("git+https://h/o/r")+`,{"uri":"https://h/o/r","digest":{"gitCommit":"`+strings.Repeat("2", 40)+`"}}]`),
			source{"https://h/o/r", "", "", nil}},
		{"only git dependency", doc(`{}`, `[{"uri":"pkg:npm/x"},`+dep("git+https://h/o/r@refs/tags/v1")+`]`), source{"https://h/o/r", "refs/tags/v1", "", sha}},
		{"two git dependencies", doc(`{}`, "["+dep("git+https://h/o/r")+","+dep("git+https://h/o/s")+"]"), source{}},
		{"user in the authority", doc(`{"source":`+dep("git+ssh://git@h/o/r@v1")+`}`, "[]"), source{"ssh://git@h/o/r", "v1", "", sha}},
		{"user and no ref", doc(`{"source":`+dep("git+ssh://git@h/o/r")+`}`, "[]"), source{"ssh://git@h/o/r", "", "", sha}},
		{"strings in place of objects", doc(`{"workflow":"w","source":"s"}`, "[]"), source{}},
	} {
		p, err := ParseProvenance(PredicateProvenanceV1, []byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d := cmp.Diff(c.want, source{p.SourceURI, p.SourceRef, p.EntryPoint, p.SourceDigest}); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestParseProvenanceRefuses(t *testing.T) {
	swap := func(doc, old, new string) string {
		s := strings.Replace(doc, old, new, 1)
		if s == doc {
			t.Fatalf("%q is not in the document", old)
		}
		return s
	}
	for name, c := range map[string]struct{ typ, in string }{
		"v1 without builder":         {PredicateProvenanceV1, swap(v1Provenance, `"id":"https://example.com/builder",`, "")},
		"v1 with null builder":       {PredicateProvenanceV1, swap(v1Provenance, `{"id":"https://example.com/builder","version":{"b":"2"}}`, "null")},
		"v1 without build type":      {PredicateProvenanceV1, swap(v1Provenance, `"buildType":"https://actions.github.io/buildtypes/workflow/v1",`, "")},
		"v1 parameters an array":     {PredicateProvenanceV1, swap(v1Provenance, `{"github":{"event_name":"push","empty":""}}`, "[]")},
		"v1 time":                    {PredicateProvenanceV1, swap(v1Provenance, "2024-05-01T10:00:00Z", "yesterday")},
		"v1 two invocations":         {PredicateProvenanceV1, swap(v1Provenance, `"invocationId":"run/1"`, `"invocationId":"run/1","invocationID":"run/2"`)},
		"v1 folded member":           {PredicateProvenanceV1, swap(v1Provenance, `"buildType"`, `"buildtype"`)},
		"v1 duplicate member":        {PredicateProvenanceV1, swap(v1Provenance, `"buildType":`, `"buildType":"x","buildType":`)},
		"v1 duplicate parameter":     {PredicateProvenanceV1, swap(v1Provenance, `"none":null`, `"level":1`)},
		"v1 number out of range":     {PredicateProvenanceV1, swap(v1Provenance, `8234567890123`, `92233720368547758080`)},
		"v1 bad digest":              {PredicateProvenanceV1, swap(v1Provenance, commit, "zz")},
		"v0.2 without builder":       {PredicateProvenanceV02, swap(v02Provenance, `"id":"https://example.com/builder"`, "")},
		"v0.2 without build type":    {PredicateProvenanceV02, swap(v02Provenance, `"buildType":"https://example.com/type@v1",`, "")},
		"v0.2 bad source digest":     {PredicateProvenanceV02, swap(v02Provenance, commit, "zz")},
		"v0.1 without builder":       {PredicateProvenanceV01, swap(v01Provenance, `"id":"https://example.com/builder"`, "")},
		"v0.1 material out of range": {PredicateProvenanceV01, swap(v01Provenance, `"0"`, `1`)},
		"v0.1 material no number":    {PredicateProvenanceV01, swap(v01Provenance, `"0"`, `"first"`)},
		"v0.1 material a fraction":   {PredicateProvenanceV01, swap(v01Provenance, `"0"`, `0.5`)},
		"v1 read as v0.2":            {PredicateProvenanceV02, v1Provenance},
		"empty":                      {PredicateProvenanceV1, ""},
	} {
		if p, err := ParseProvenance(c.typ, []byte(c.in)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %+v, %v, want invalid", name, p, err)
		}
	}
}

// The document's own level and its own word for who built it are not in the
// view, or stand there as claims.
func TestThreat_Attestation_ClaimsItsOwnLevel(t *testing.T) {
	in := strings.Replace(v1Provenance, `"runDetails":{`, `"slsaLevel":4,"level":"SLSA_BUILD_LEVEL_4","runDetails":{"buildLevel":4,`, 1)
	got, err := ParseProvenance(PredicateProvenanceV1, []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	want, err := ParseProvenance(PredicateProvenanceV1, []byte(v1Provenance))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the claim shows in the view:\n%s", d)
	}
}
