package policy

import (
	"slices"
	"testing"
	"time"
)

func TestMeshAndWorkloadRequirements(t *testing.T) {
	known := func(source string, ids ...string) *WorkloadFact {
		return &WorkloadFact{Known: true, Runs: true, SPIFFEIDs: ids, Source: source}
	}
	mesh := func(mode string) *MeshFact { return &MeshFact{MTLS: mode, Name: "istio", Of: "workloads"} }
	const one, two = "spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/other/sa/web"
	const strict, forms = "mesh: {mtls: strict}", "workload: {spiffeIDs: [\"spiffe://example.org/ns/shop/sa/*\"]}"
	const bothWhen = "mesh: {mtls: strict, whenRunning: true}\n    workload: {spiffeIDs: [\"spiffe://example.org/ns/shop/sa/*\"], whenRunning: true}"
	for name, tt := range map[string]struct {
		spec     string
		workload *WorkloadFact
		mesh     *MeshFact
		fails    []string
	}{
		"strict":                          {strict, known("none"), mesh("strict"), nil},
		"permissive is not strict":        {strict, known("none"), mesh("permissive"), []string{"mesh/mtls"}},
		"unknown is not strict":           {strict, known("none"), mesh("unknown"), []string{"mesh/mtls"}},
		"unknown is not permissive":       {"mesh: {mtls: permissive}", known("none"), mesh("unknown"), []string{"mesh/mtls"}},
		"strict is at least permissive":   {"mesh: {mtls: permissive}", known("none"), mesh("strict"), nil},
		"none":                            {"mesh: {mtls: permissive}", known("none"), mesh("none"), []string{"mesh/mtls"}},
		"disabled":                        {"mesh: {mtls: permissive}", known("none"), mesh("disabled"), []string{"mesh/mtls"}},
		"nothing known":                   {strict + "\n    " + forms, nil, nil, []string{"mesh/mtls", "workload/spiffe"}},
		"an identity":                     {forms, known("spire", one), nil, nil},
		"by istio":                        {forms, known("istio", one), nil, nil},
		"a claim":                         {forms, known("claimed", one), nil, []string{"workload/spiffe"}},
		"a claim that may count":          {"workload: {spiffeIDs: [\"spiffe://**\"], claimed: true}", known("claimed", one), nil, nil},
		"one more":                        {forms, known("spire", two, one), nil, []string{"workload/spiffe"}},
		"none at all":                     {forms, known("none"), nil, []string{"workload/spiffe"}},
		"not to be told":                  {forms, known("unknown", one), nil, []string{"workload/spiffe"}},
		"more than facts hold":            {forms, &WorkloadFact{Known: true, Runs: true, SPIFFEIDs: []string{one}, More: true, Source: "spire"}, nil, []string{"workload/spiffe"}},
		"does not run yet":                {bothWhen, &WorkloadFact{Known: true, SPIFFEIDs: []string{}, Source: "unknown"}, &MeshFact{MTLS: "none", Of: "namespace"}, nil},
		"does not run yet, and may not":   {strict + "\n    " + forms, &WorkloadFact{Known: true, SPIFFEIDs: []string{}, Source: "unknown"}, &MeshFact{MTLS: "none", Of: "namespace"}, []string{"mesh/mtls", "workload/spiffe"}},
		"runs, and not as it should":      {bothWhen, known("none"), mesh("none"), []string{"mesh/mtls", "workload/spiffe"}},
		"not known whether it runs":       {bothWhen, &WorkloadFact{SPIFFEIDs: []string{}, Source: "unknown"}, &MeshFact{MTLS: "unknown", Of: "nothing"}, []string{"mesh/mtls", "workload/spiffe"}},
		"will be strict by its namespace": {strict, &WorkloadFact{Known: true, SPIFFEIDs: []string{}, Source: "unknown"}, &MeshFact{MTLS: "strict", Of: "namespace"}, nil},
	} {
		f := goodFacts()
		f.Workload, f.Mesh = tt.workload, tt.mesh
		p := servicePolicy(t, tt.spec)
		r, err := p.Evaluate(t.Context(), f, time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		var fails []string
		for _, c := range r.Checks {
			if c.Status == Fail {
				fails = append(fails, c.Name)
				if c.Mend == "" || c.Found == "" {
					t.Errorf("%s: %+v", name, c)
				}
			}
		}
		if !slices.Equal(fails, tt.fails) || (r.Verdict == Allow) != (len(tt.fails) == 0) {
			t.Errorf("%s: %s, %q", name, r.Verdict, fails)
		}
		if lacks := p.Lacks(f); (len(lacks) > 0) != (tt.workload == nil) || !p.WantsWorkload() {
			t.Errorf("%s lacks %q", name, lacks)
		}
	}
	for _, spec := range []string{"mesh: {}", "mesh: {mtls: STRICT}", "mesh: {mtls: none}", "workload: {}", "workload: {spiffeIDs: []}", "workload: {spiffeIDs: [\"https://a\"]}", "workload: {spiffeIDs: [\"spiffe://[\"], x: 1}"} {
		if _, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec: {requirements: {" + spec + "}}\n")); err == nil {
			t.Errorf("%s was taken", spec)
		}
	}
}

// A policy in Rego that names the mesh is given it, and one that does not is not.
func TestRegoMesh(t *testing.T) {
	rego := func(body string) *Policy {
		t.Helper()
		p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  rego: |\n    package assay.policy\n    allow if " + body + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := rego(`input.mesh.mtls == "strict"`)
	if !p.WantsWorkload() || rego(`input.truncated == false`).WantsWorkload() || !rego(`input.workload.spiffe_id == "spiffe://a/b"`).WantsWorkload() {
		t.Error("it is not seen what a policy looks at")
	}
	for mode, want := range map[string]Verdict{"strict": Allow, "unknown": Deny, "": Deny} {
		f := goodFacts()
		if mode != "" {
			f.Mesh = &MeshFact{MTLS: mode, Of: "workloads"}
		}
		r, err := p.Evaluate(t.Context(), f, time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict != want {
			t.Errorf("%q: %s", mode, r.Verdict)
		}
	}
}
