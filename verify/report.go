package verify

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/policy"
)

// Report is a decision with its trail, for people and as JSON.
type Report struct {
	Target     string            `json:"target"` // as it was named
	Digest     artifact.Digest   `json:"digest"`
	Kind       policy.Kind       `json:"kind"`
	Scope      string            `json:"scope"`
	Verdict    policy.Verdict    `json:"verdict"`
	Mode       policy.Mode       `json:"mode"`
	Policy     string            `json:"policy"`
	PolicyHash string            `json:"policy_hash"`
	FactsHash  string            `json:"facts_hash"`
	DecisionID string            `json:"decision_id,omitempty"` // absent: not stored
	DecidedAt  time.Time         `json:"decided_at"`
	ValidUntil time.Time         `json:"valid_until,omitzero"`
	TrustEpoch int64             `json:"trust_epoch,omitzero"`
	Checks     []policy.Check    `json:"checks"`
	Evidence   []ReportEvidence  `json:"evidence"`
	Rejected   []policy.Rejected `json:"rejected"`
}

// ReportEvidence is one line of verified evidence.
type ReportEvidence struct {
	ID            string `json:"id"`
	PredicateType string `json:"predicate_type,omitempty"` // absent: a signature
	Signer        string `json:"signer"`
	Root          string `json:"root,omitempty"`
	TrustedTime   string `json:"trusted_time,omitempty"`
	TimeSource    string `json:"time_source,omitempty"`
	LogIndex      *int64 `json:"log_index,omitempty"`
	Source        string `json:"source"`
	Repository    string `json:"repository,omitempty"`
}

// Allowed says whether the verdict is an allow. It does not look at the mode.
func (r *Report) Allowed() bool { return r.Verdict == policy.Allow }

// Err is nil for an allow and fault.Denied for a deny, naming the first checks
// that failed; its fault.ExitCode is the exit code of a verification.
func (r *Report) Err() error {
	if r.Allowed() {
		return nil
	}
	return fault.Newf(fault.Denied, "%s is denied by policy %s: %s", clip(r.Target, 200), r.Policy, failures(r.Checks, 2))
}

func failures(checks []policy.Check, most int) string {
	var parts []string
	for _, c := range policy.Failed(checks) {
		if len(parts) == most {
			parts = append(parts, "and more")
			break
		}
		parts = append(parts, fmt.Sprintf("%s: expected %s, found %s", c.Name, c.Expected, c.Found))
	}
	return strings.Join(parts, "; ")
}

// OfflineOptions are what a verification without a server may be given.
type OfflineOptions struct {
	Verifier *Verifier
	Policy   *policy.Policy
	Scope    policy.Scope     // default: ID "offline"
	Builders []policy.Builder // levels of builders, as a server's configuration would grant them
	Stale    bool             // a root or list is older than its limit
	Clock    clock.Clock      // nil: clock.System
}

// Offline verifies a target with nothing but what it is given, and judges it.
// The error is that no answer was found; a denial is a Report.
func Offline(ctx context.Context, t Target, src EvidenceSource, o OfflineOptions) (*Report, error) {
	r, _, err := Survey(ctx, t, src, o, nil)
	return r, err
}

// earliest is the earlier of two instants; zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func report(t Target, f *policy.Facts, p *policy.Policy, res policy.Result) *Report {
	r := &Report{
		Target: t.display(), Digest: f.Subject.Digest, Kind: f.Subject.Kind, Scope: f.Scope.ID,
		Verdict: res.Verdict, Mode: res.Mode, Policy: p.Name(), PolicyHash: p.Hash(),
		Checks: res.Checks, Evidence: []ReportEvidence{}, Rejected: f.Rejected,
	}
	if t.Name != "" {
		r.Checks = renamed(res.Checks, f.Subject.Target(), shellWord(t.Name))
	}
	r.list(f)
	return r
}

// renamed gives the checks with commands that name the artifact as the user
// does.
func renamed(checks []policy.Check, from, to string) []policy.Check {
	out := slices.Clone(checks)
	for i := range out {
		out[i].Mend = strings.ReplaceAll(out[i].Mend, from, to)
	}
	return out
}

func (r *Report) list(f *policy.Facts) {
	add := func(e *policy.Evidence, predicateType string) {
		r.Evidence = append(r.Evidence, ReportEvidence{
			ID: e.ID, PredicateType: predicateType, Signer: e.SignerText(), Root: e.Root, TrustedTime: e.TrustedTime,
			TimeSource: e.TimeSource, LogIndex: e.LogIndex, Source: e.Source, Repository: e.Repository,
		})
	}
	for i := range f.Signatures {
		add(&f.Signatures[i].Evidence, "")
	}
	for i := range f.Attestations {
		add(&f.Attestations[i].Evidence, f.Attestations[i].PredicateType)
	}
}

// shellWord quotes a name so that a shell reads it as one word.
func shellWord(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r))
	}) < 0
	if plain && s != "" && s[0] != '-' {
		return s
	}
	if s != "" && s[0] == '-' {
		s = "./" + s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// WriteText writes the trail as a table. Text that others made is cleaned of
// control characters. paint, where not nil, colours a status word.
func (r *Report) WriteText(w io.Writer, paint func(status, word string) string) error {
	if paint == nil {
		paint = func(_, word string) string { return word }
	}
	verdict := strings.ToUpper(map[policy.Verdict]string{policy.Allow: "allowed", policy.Deny: "denied"}[r.Verdict])
	fmt.Fprintf(w, "%s  %s\n", paint(string(r.Verdict), verdict), clip(r.Target, 400))
	if r.Target != string(r.Digest) && !strings.HasSuffix(r.Target, string(r.Digest)) {
		fmt.Fprintf(w, "  digest    %s\n", r.Digest)
	}
	fmt.Fprintf(w, "  policy    %s (%s, sha256:%.12s)\n", clip(r.Policy, 100), r.Mode, r.PolicyHash)
	fmt.Fprintf(w, "  scope     %s\n", clip(r.Scope, 200))
	if r.DecisionID != "" {
		fmt.Fprintf(w, "  decision  %s\n", r.DecisionID)
	}
	if !r.ValidUntil.IsZero() {
		fmt.Fprintf(w, "  valid     until %s\n", r.ValidUntil.UTC().Format(time.RFC3339))
	}
	fmt.Fprintln(w)
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s  %s\n", paint(string(c.Status), fmt.Sprintf("%-4s", c.Status)), clip(c.Name, 200))
		fmt.Fprintf(w, "        expected  %s\n        found     %s\n", clip(c.Expected, 1000), clip(c.Found, 1000))
		for i, id := range c.Evidence {
			at := ""
			if i == 0 && c.LogIndex != nil {
				at = fmt.Sprintf("  log index %d", *c.LogIndex)
			}
			fmt.Fprintf(w, "        evidence  %s%s\n", clip(id, 100), at)
		}
		if c.Mend != "" {
			fmt.Fprintf(w, "        mend      %s\n", clip(c.Mend, 1000))
		}
	}
	return r.writeEvidence(w)
}

func (r *Report) writeEvidence(w io.Writer) error {
	if len(r.Evidence) > 0 {
		fmt.Fprintln(w, "\nevidence")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, e := range r.Evidence {
			kind := "signature"
			if e.PredicateType != "" {
				kind = clip(e.PredicateType, 80)
			}
			index := "not logged"
			if e.LogIndex != nil {
				index = fmt.Sprintf("log index %d", *e.LogIndex)
			}
			fmt.Fprintf(t, "  %.16s…\t%s\t%s\t%s\t%s\n", e.ID, kind, clip(e.Signer, 200), orDash(e.TrustedTime), index)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(r.Rejected) > 0 {
		fmt.Fprintln(w, "\nrejected")
		for _, e := range r.Rejected {
			fmt.Fprintf(w, "  %.16s…  %s  %s: %s\n", clip(e.ID, 100), clip(e.Source, 120), clip(e.Code, 60), clip(e.Reason, 200))
		}
	}
	_, err := fmt.Fprint(w)
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
