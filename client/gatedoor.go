package client

import (
	"context"
	"net/http"
	"strings"
	"time"

	"assay/artifact"
)

// CanaryQuestion asks whether a canary may go on: POST /api/v1/gate/canary. How long
// it has run is not asked of the caller: the server has its own record.
type CanaryQuestion struct {
	Images        []string `json:"images,omitempty"` // HOST/REPOSITORY[:TAG][@DIGEST]; none: what the workload runs
	Service       string   `json:"service"`
	Environment   string   `json:"environment,omitempty"`
	Cluster       string   `json:"cluster,omitempty"`
	Namespace     string   `json:"namespace,omitempty"`
	Workload      string   `json:"workload,omitempty"`
	Controller    string   `json:"controller,omitempty"`     // argo or flagger: whose commands the advice names
	Share         string   `json:"share,omitempty"`          // percent of the traffic that it has; none: by instances
	LeastShare    string   `json:"least_share,omitempty"`    // beyond the site's rule
	LeastDuration string   `json:"least_duration,omitempty"` // beyond the site's rule
}

// CanaryAnswer says whether a canary may go on, and why.
type CanaryAnswer struct {
	Verdict     string          `json:"verdict"` // proceed, wait, rollback
	Value       int64           `json:"value"`   // 1, 0, -1
	Service     string          `json:"service"`
	Environment string          `json:"environment,omitempty"`
	Images      []CanaryImage   `json:"images"`
	Reasons     []CanaryReason  `json:"reasons"` // the worst first
	Since       time.Time       `json:"since,omitzero"`
	Seconds     int64           `json:"seconds"` // since then
	Instances   int             `json:"instances"`
	Share       *float64        `json:"share,omitempty"` // percent
	New         int             `json:"new_findings"`
	Findings    []CanaryFinding `json:"findings"` // new ones, at most 100
	Advice      *CanaryAdvice   `json:"advice,omitempty"`
}

// CanaryImage is what was decided about one image.
type CanaryImage struct {
	Image    string          `json:"image"`
	Digest   artifact.Digest `json:"digest,omitempty"`
	Verdict  string          `json:"verdict"` // allow, deny, undecided
	Decision string          `json:"decision,omitempty"`
	Policy   string          `json:"policy,omitempty"`
}

// CanaryReason is what one check says.
type CanaryReason struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Text    string `json:"text"`
}

// CanaryFinding is a finding that a canary has and what runs beside it has not.
type CanaryFinding struct {
	Name      string `json:"name"`
	Component string `json:"component"`
	Version   string `json:"version,omitempty"`
	Severity  string `json:"severity"`
	Fixed     string `json:"fixed,omitempty"`
	Exploited bool   `json:"exploited,omitempty"`
	Malicious bool   `json:"malicious,omitempty"`
}

// CanaryAdvice says what to go back to.
type CanaryAdvice struct {
	Image    string          `json:"image,omitempty"`
	Digest   artifact.Digest `json:"digest,omitempty"`
	Decision string          `json:"decision,omitempty"`
	Running  bool            `json:"running,omitempty"` // it still runs
	Last     time.Time       `json:"last,omitzero"`     // when it last ran
	Text     string          `json:"text,omitempty"`    // why there is nothing to go back to
	Commands []string        `json:"commands"`
}

// Why gives the reasons for the verdict in at most so many bytes.
func (a *CanaryAnswer) Why(most int) string {
	var out []string
	for _, r := range a.Reasons {
		if r.Verdict == a.Verdict {
			out = append(out, r.Check+": "+r.Text)
		}
	}
	return strings.ToValidUTF8(clip(strings.Join(out, "; "), most), "")
}

func clip(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}

// Canary asks whether a canary may go on.
func (c *Client) Canary(ctx context.Context, q CanaryQuestion) (a CanaryAnswer, err error) {
	return a, c.call(ctx, http.MethodPost, "/api/v1/gate/canary", nil, q, &a)
}
