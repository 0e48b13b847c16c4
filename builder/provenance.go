package builder

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"assay/artifact"
)

// The document of https://slsa.dev/provenance/v1, as far as a wrapped build
// fills it.
type provenance struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters,omitempty"`
	ResolvedDependencies []resource     `json:"resolvedDependencies,omitempty"`
}

type runDetails struct {
	Builder  builderID `json:"builder"`
	Metadata metadata  `json:"metadata"`
}

type builderID struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

type metadata struct {
	InvocationID string `json:"invocationId"`
	StartedOn    string `json:"startedOn"`
	FinishedOn   string `json:"finishedOn"`
}

type resource struct {
	URI         string             `json:"uri,omitempty"`
	Name        string             `json:"name,omitempty"`
	Digest      artifact.DigestSet `json:"digest,omitempty"`
	Annotations map[string]any     `json:"annotations,omitempty"`
}

// Provenance states the run as a predicate of https://slsa.dev/provenance/v1.
// builder is the URI of who ran it; what level that builder has is for the
// verifier's configured roots to say. version is Assay's own.
func (r *Run) Provenance(builder, version string) ([]byte, error) {
	ext := map[string]any{"command": r.Command, "dir": r.Dir}
	if len(r.Env) > 0 {
		ext["env"] = r.Env
	}
	def := buildDefinition{BuildType: BuildType, ExternalParameters: ext, InternalParameters: platform()}
	if len(r.Secrets) > 0 {
		def.InternalParameters["secretNames"] = r.Secrets
	}
	if s := r.Source; s != nil {
		// The form that verifiers read the source's place, ref and commit from:
		// a resource descriptor with SPDX's git+…@ref.
		commit := artifact.DigestSet{"gitCommit": s.Commit}
		uri := s.address()
		if uri != "" {
			ext["source"] = resource{URI: uri, Digest: commit}
		}
		def.ResolvedDependencies = append(def.ResolvedDependencies, resource{
			URI:         uri,
			Name:        "source",
			Digest:      commit,
			Annotations: map[string]any{"dirty": s.Dirty},
		})
	}
	def.ResolvedDependencies = append(def.ResolvedDependencies, resource{Name: "tool:" + r.Tool.Name, Digest: r.Tool.Digest.Set()})
	for _, t := range r.Tools {
		e := resource{Name: "tool:" + t.Name, Digest: t.Digest.Set()}
		if t.Version != "" {
			e.Annotations = map[string]any{"version": t.Version}
		}
		def.ResolvedDependencies = append(def.ResolvedDependencies, e)
	}
	for _, m := range r.Materials {
		def.ResolvedDependencies = append(def.ResolvedDependencies, resource{Name: m.Name, Digest: m.Digest.Set()})
	}
	return json.Marshal(provenance{
		BuildDefinition: def,
		RunDetails: runDetails{
			Builder: builderID{ID: builder, Version: map[string]string{"assay": version}},
			Metadata: metadata{
				InvocationID: r.ID,
				StartedOn:    r.StartedOn.Format(time.RFC3339),
				FinishedOn:   r.FinishedOn.Format(time.RFC3339),
			},
		},
	})
}

// EnvNames lists what of the environment was recorded.
func (r *Run) EnvNames() []string { return slices.Sorted(maps.Keys(r.Env)) }
