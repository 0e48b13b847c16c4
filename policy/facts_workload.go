package policy

import (
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/glob"
)

// MaxSPIFFEIDs is the most identities that facts hold.
const MaxSPIFFEIDs = 32

// WorkloadFact is what a cluster's API server says of the workloads that run the
// artifact in the scope's cluster and namespace. What a workload says of itself is
// labelled as claimed.
type WorkloadFact struct {
	Known     bool     `json:"known"`               // the cluster tells what runs there and whose it is; without, nothing of this is known (source: the cluster's reader)
	Runs      bool     `json:"runs"`                // the artifact is seen to run there; before it does it has no identity yet (source: workloads)
	SPIFFEID  string   `json:"spiffe_id,omitempty"` // the only one that its workloads have; absent: none, several or unknown
	SPIFFEIDs []string `json:"spiffe_ids"`          // all that they have, sorted
	More      bool     `json:"more,omitzero"`       // there are more than facts hold
	Source    string   `json:"source"`              // who says so, the least sure of all: spire, istio, none, claimed (an annotation of the workload) or unknown
}

// MeshFact is how the workloads that run the artifact are reached, the weakest of
// all; where it does not run yet, what the namespace gives.
type MeshFact struct {
	MTLS string `json:"mtls"`           // strict (on every port), permissive (plaintext too), disabled, none (no proxy of a mesh) or unknown (source: the API server, by Istio's and Linkerd's objects)
	Name string `json:"name,omitempty"` // istio or linkerd
	Of   string `json:"of"`             // workloads, namespace or nothing
}

// MeshRequirement wants who reaches the artifact's workloads to show by mutual TLS
// who it is.
type MeshRequirement struct {
	MTLS        string `yaml:"mtls" json:"mtls"`                                  // strict, or permissive: at least
	WhenRunning bool   `yaml:"whenRunning,omitempty" json:"whenRunning,omitzero"` // it is asked of what runs alone: what does not run yet may begin to
}

// WorkloadRequirement wants the artifact's workloads to have identities of a form.
type WorkloadRequirement struct {
	SPIFFEIDs   []string `yaml:"spiffeIDs" json:"spiffeIDs"`                        // patterns; each identity has to match one: spiffe://example.org/ns/*/sa/*
	Claimed     bool     `yaml:"claimed,omitempty" json:"claimed,omitzero"`         // one by an annotation counts too, which whoever makes the workload writes
	WhenRunning bool     `yaml:"whenRunning,omitempty" json:"whenRunning,omitzero"` // it is asked of what runs alone: what does not run yet has no identity
}

// workloadRule is the compiled form of a WorkloadRequirement.
type workloadRule struct {
	*WorkloadRequirement
	patterns []glob.Glob
}

func (r *MeshRequirement) validate() error {
	if r.MTLS != "strict" && r.MTLS != "permissive" {
		return fault.Newf(fault.Invalid, "mtls %.40q: want strict or permissive", r.MTLS)
	}
	return nil
}

// compile reads the patterns. Errors are fault.Invalid.
func (r *WorkloadRequirement) compile() (*workloadRule, error) {
	if len(r.SPIFFEIDs) == 0 || len(r.SPIFFEIDs) > 64 {
		return nil, fault.Newf(fault.Invalid, "spiffeIDs: want 1 to 64 patterns, for example spiffe://example.org/ns/*/sa/*")
	}
	out := &workloadRule{WorkloadRequirement: r}
	for _, p := range r.SPIFFEIDs {
		if !strings.HasPrefix(p, "spiffe://") {
			return nil, fault.Newf(fault.Invalid, "spiffeIDs: %.200q; want a pattern that begins with spiffe://", p)
		}
		g, err := glob.Parse(p)
		if err != nil {
			return nil, err
		}
		out.patterns = append(out.patterns, g)
	}
	return out, nil
}

const workloadMend = "assay inventory identities --namespace NAMESPACE  # on a server that the cluster reports to"

// notYet says whether a requirement waits until the artifact runs: only where the
// cluster tells what runs.
func notYet(w *WorkloadFact, when bool) bool { return when && w != nil && w.Known && !w.Runs }

func (r *MeshRequirement) evaluate(ev *evaluation) {
	f := ev.facts.Mesh
	c := Check{Name: "mesh/mtls", Status: Pass, Expected: "mutual TLS " + r.MTLS, Found: "nothing is known here of the mesh"}
	if r.MTLS == "permissive" {
		c.Expected += " or strict"
	}
	ok := false
	if f != nil {
		c.Found = clip(f.MTLS, 40)
		if f.Name != "" {
			c.Found += ", by " + clip(f.Name, 40)
		}
		c.Found += " (of " + clip(f.Of, 40) + ")"
		ok = f.MTLS == "strict" || r.MTLS == "permissive" && f.MTLS == "permissive"
	}
	if !ok && notYet(ev.facts.Workload, r.WhenRunning) {
		c.Found = "does not run there yet; " + c.Found
		ok = true
	}
	if !ok {
		c.Status, c.Mend = Fail, workloadMend
	}
	ev.add(c)
}

func (r *workloadRule) evaluate(ev *evaluation) {
	f := ev.facts.Workload
	c := Check{Name: "workload/spiffe", Status: Pass, Expected: "identities " + clip(strings.Join(r.SPIFFEIDs, " or "), 300), Found: "nothing is known here of the workload"}
	ok := false
	switch {
	case f == nil || !f.Known:
	case notYet(f, r.WhenRunning):
		c.Found, ok = "does not run there yet, and has no identity", true
	default:
		c.Found = orNone(clip(strings.Join(f.SPIFFEIDs, ", "), 500)) + " (" + clip(f.Source, 40) + ")"
		sure := f.Source == "spire" || f.Source == "istio" || f.Source == "claimed" && r.Claimed
		ok = sure && len(f.SPIFFEIDs) > 0 && !f.More && !slices.ContainsFunc(f.SPIFFEIDs, func(id string) bool {
			return !slices.ContainsFunc(r.patterns, func(g glob.Glob) bool { return g.Match(id) })
		})
	}
	if !ok {
		c.Status, c.Mend = Fail, workloadMend
	}
	ev.add(c)
}

// WantsWorkload says whether the policy looks at the workloads that run the artifact,
// so that facts hold it.
func (p *Policy) WantsWorkload() bool {
	return slices.ContainsFunc(p.units, func(u *unit) bool {
		return u.reqs != nil && (u.reqs.mesh != nil || u.reqs.workload != nil) || slices.ContainsFunc(u.rego, func(m *regoModule) bool { return m.workload })
	})
}

// ByWorkload says whether a policy of the set looks at the workloads that run
// artifacts.
func (s *Set) ByWorkload() bool {
	return s != nil && slices.ContainsFunc(s.policies, (*Policy).WantsWorkload)
}
