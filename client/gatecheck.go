package client

import (
	"context"
	"net/http"
	"strings"

	"assay/artifact"
)

// CheckQuestion asks whether what a build made may run at a place: POST
// /api/v1/gate/check.
type CheckQuestion struct {
	Images      []string `json:"images"` // HOST/REPOSITORY[:TAG][@DIGEST]
	Environment string   `json:"environment,omitempty"`
	Cluster     string   `json:"cluster,omitempty"`
	Namespace   string   `json:"namespace,omitempty"`
	SlowLane    string   `json:"slow_lane,omitempty"` // a restricted namespace for what is denied
}

// CheckAnswer says whether it may, and where.
type CheckAnswer struct {
	Verdict   string         `json:"verdict"`             // allow, deny, undecided, slow-lane
	Namespace string         `json:"namespace,omitempty"` // where it may run; of a deny, where it may not
	Images    []CheckedImage `json:"images"`
	Lane      []CheckedImage `json:"lane,omitempty"` // the same for the slow lane, where that was asked
}

// CheckedImage is what was decided about one image.
type CheckedImage struct {
	Image    string          `json:"image"`
	Digest   artifact.Digest `json:"digest,omitempty"`
	Verdict  string          `json:"verdict"`
	Decision string          `json:"decision,omitempty"`
	Policy   string          `json:"policy,omitempty"`
	Blocked  bool            `json:"blocked,omitempty"` // revoked or under quarantine
	Warned   bool            `json:"warned,omitempty"`  // denied by a policy that does not enforce
	Reasons  []CheckReason   `json:"reasons"`
}

// CheckReason is a check that failed.
type CheckReason struct {
	Check    string `json:"check"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found"`
	Mend     string `json:"mend,omitempty"`
}

// FunctionQuestion asks whether a package of a function may be activated: POST
// /api/v1/gate/function.
type FunctionQuestion struct {
	Image       string `json:"image"` // HOST/REPOSITORY[:TAG][@DIGEST]
	Environment string `json:"environment,omitempty"`
}

// FunctionAnswer says whether it may, and what is known of it.
type FunctionAnswer struct {
	Verdict      string       `json:"verdict"` // allow, deny, undecided
	Package      CheckedImage `json:"package"`
	ArtifactType string       `json:"artifact_type,omitempty"`
	SBOM         bool         `json:"sbom"`
	Scanned      bool         `json:"scanned"`
	Components   int          `json:"components"`
	Findings     int          `json:"findings"`
}

// Why gives the reasons of a check in at most so many bytes.
func (a *CheckAnswer) Why(most int) string {
	var out []string
	for _, one := range a.Images {
		for _, r := range one.Reasons {
			out = append(out, r.Check+": "+r.Found)
		}
	}
	return Clip(strings.Join(out, "; "), most)
}

// Clip cuts text to at most so many bytes of whole characters.
func Clip(s string, most int) string { return strings.ToValidUTF8(clip(s, most), "") }

// Check asks whether what a build made may run at a place.
func (c *Client) Check(ctx context.Context, q CheckQuestion) (a CheckAnswer, err error) {
	return a, c.call(ctx, http.MethodPost, "/api/v1/gate/check", nil, q, &a)
}

// Function asks whether a package of a function may be activated.
func (c *Client) Function(ctx context.Context, q FunctionQuestion) (a FunctionAnswer, err error) {
	return a, c.call(ctx, http.MethodPost, "/api/v1/gate/function", nil, q, &a)
}
