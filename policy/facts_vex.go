package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/strictjson"
)

// VEXFact is a statement about flaws (OpenVEX) that somebody whom the policy names
// attested, about the artifact or about a component of it. What it says of a
// finding stands there, in Vulnerability.Attested.
type VEXFact struct {
	Evidence
	// Component is the digest of the component that it is about; absent: it is about
	// the artifact.
	Component string `json:"component,omitempty"`
}

// AttestedVEX is what an attested statement says of one finding.
type AttestedVEX struct {
	Attestation   string `json:"attestation"` // one of vulnerabilities.vex
	Status        string `json:"status"`      // not_affected, fixed, affected, under_investigation
	Justification string `json:"justification,omitempty"`
	Until         string `json:"until,omitempty"` // when it ends by its own word, RFC 3339
}

// VEXRequirement names whose attested statements about flaws count.
type VEXRequirement struct {
	Identities []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"` // any one of them
	Signers    string          `yaml:"signers,omitempty" json:"signers,omitempty"`       // "delegated", in place of identities
	MaxAge     Duration        `yaml:"maxAge,omitempty" json:"maxAge,omitempty"`         // older ones, by trusted time, count for nothing
}

// vexRule is whose statements count.
type vexRule struct {
	ids    []*identity
	maxAge time.Duration
	of     string // the signers as they are written
}

func (r *VEXRequirement) compile() (*vexRule, error) {
	ids, _, err := compileSigners(r.Identities, r.Signers, nil)
	if err != nil {
		return nil, fmt.Errorf("vex: a statement counts by who signed it: %w", err)
	}
	of, err := strictjson.Canonical(map[string]any{"identities": r.Identities, "signers": r.Signers})
	if err != nil {
		return nil, fmt.Errorf("vex: %w", err)
	}
	return &vexRule{ids, time.Duration(r.MaxAge), string(of)}, nil
}

// CountsVEX says whether the policy names who signed evidence as one whose
// statements about flaws count.
func (p *Policy) CountsVEX(e *Evidence) bool {
	return slices.ContainsFunc(p.units, func(u *unit) bool {
		return u.reqs != nil && u.reqs.vuln != nil && u.reqs.vuln.vex != nil && matchAny(u.reqs.vuln.vex.ids, e)
	})
}

// VEXOf stands for the signers whose statements about flaws the policy's rules
// count; "": nobody's.
func (p *Policy) VEXOf() string {
	var all []string
	for _, u := range p.units {
		if u.reqs != nil && u.reqs.vuln != nil && u.reqs.vuln.vex != nil {
			all = append(all, u.reqs.vuln.vex.of)
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(all), "\n")))
	return "vex_" + hex.EncodeToString(sum[:])
}

// counted are the statements that count for a rule, by their attestation.
type counted struct {
	by map[string]*Evidence
	r  *vexRule
}

func (r *vexRule) counted(f *Vulnerabilities, q *quality, now time.Time) counted {
	out := counted{by: map[string]*Evidence{}, r: r}
	if r == nil {
		return out
	}
	mine := *q
	if r.maxAge > 0 && (mine.maxAge == 0 || r.maxAge < mine.maxAge) {
		mine.maxAge = r.maxAge
	}
	out.r = &vexRule{r.ids, mine.maxAge, r.of}
	for i := range f.VEX {
		e := &f.VEX[i].Evidence
		if matchAny(r.ids, e) && mine.unusable(e, now) == "" {
			out.by[e.ID] = e
		}
	}
	return out
}

// vexCaution orders what statements say; of several signers the greatest counts.
var vexCaution = []string{"not_affected", "fixed", "under_investigation", "affected"}

// of is the attested statement that counts about a finding, with when it stops to;
// nil: there is none. The facts hold each signer's newest.
func (c counted) of(all []AttestedVEX, now time.Time) (best *AttestedVEX, until time.Time) {
	for i := range all {
		s := &all[i]
		e := c.by[s.Attestation]
		if e == nil {
			continue
		}
		end, err := time.Parse(time.RFC3339, s.Until)
		if s.Until != "" && (err != nil || !now.Before(end)) {
			continue
		}
		until = soonest(until, end)
		if at, ok := e.At(); ok && c.r.maxAge > 0 {
			until = soonest(until, at.Add(c.r.maxAge))
		}
		if best == nil || slices.Index(vexCaution, s.Status) > slices.Index(vexCaution, best.Status) {
			best = s
		}
	}
	return best, until
}

func soonest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// settle gives a finding the state that attested statements give it, and when that
// ends. What the site itself states goes before.
func (c counted) settle(v *Vulnerability, now time.Time) (said *AttestedVEX, until time.Time) {
	if v.Statement != nil || v.Malicious || len(v.Attested) == 0 {
		return nil, time.Time{}
	}
	said, until = c.of(v.Attested, now)
	if said != nil && slices.Contains(vexCaution, said.Status) && said.Status != "affected" {
		v.State = said.Status
	}
	return said, until
}

// whose tells of a finding that a statement settles whose word that is, and why.
func (c counted) whose(v *Vulnerability, s *AttestedVEX) string {
	text := clip(v.ID, 40) + " " + clip(s.Status, 20) + " by " + c.by[s.Attestation].SignerText()
	if s.Justification != "" {
		text += ": " + clip(s.Justification, 60)
	}
	return text
}

// settledText tells of what was stated away, the first of it.
func settledText(settled []string, n int) string {
	if n == 0 {
		return ""
	}
	s := fmt.Sprintf("; %d by attested statements: %s", n, strings.Join(settled, "; "))
	if n > len(settled) {
		s += fmt.Sprintf("; %d more", n-len(settled))
	}
	return s
}
