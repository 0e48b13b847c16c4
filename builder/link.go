package builder

import (
	"encoding/json"
	"runtime"

	"assay/attestation"
)

// LinkType is the predicate type of [Run.Link].
const LinkType = attestation.PredicateLink

// link is the predicate of in-toto's link v0.3; the products are the
// statement's subjects.
type link struct {
	Name        string         `json:"name"`
	Command     []string       `json:"command"`
	Materials   []resource     `json:"materials"`
	Byproducts  map[string]any `json:"byproducts"`
	Environment map[string]any `json:"environment"`
}

// Link states the run as step name of a layout. There is none of a failed
// build.
func (r *Run) Link(name string) ([]byte, error) {
	l := link{
		Name: name, Command: r.Command, Materials: []resource{},
		Byproducts:  map[string]any{"return-value": r.ExitCode, "invocationId": r.ID},
		Environment: map[string]any{"os": runtime.GOOS, "arch": runtime.GOARCH, "workdir": r.Dir},
	}
	if len(r.Env) > 0 {
		l.Environment["variables"] = r.Env
	}
	for _, m := range r.Materials {
		l.Materials = append(l.Materials, resource{Name: m.Name, Digest: m.Digest.Set()})
	}
	return json.Marshal(l)
}
