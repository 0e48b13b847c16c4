package policy

import (
	"fmt"
	"strings"

	"assay/internal/fault"
)

// Rebuild is a verified statement that somebody built the artifact again from
// its source, and what came of it.
type Rebuild struct {
	Attestation  string `json:"attestation"`             // id of the attestation
	Identical    bool   `json:"identical"`               // the same bytes came out
	Of           string `json:"of,omitempty"`            // attestation of the provenance that was followed
	InvocationID string `json:"invocation_id,omitempty"` // of the rebuild
	Source       Source `json:"source"`                  // what was checked out
}

// BuildersRequirement wants the artifact to have been made by several builders,
// each by itself: by provenance about it, or by a rebuild that gave the same
// bytes.
type BuildersRequirement struct {
	AtLeast    int             `yaml:"atLeast" json:"atLeast"`                           // distinct builders, 2 or more
	Issuers    int             `yaml:"issuers,omitempty" json:"issuers,omitzero"`        // distinct issuers of their identities; default 1
	Identities []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"` // who counts as a builder
	Signers    string          `yaml:"signers,omitempty" json:"signers,omitempty"`       // "delegated", in place of identities
}

type buildersRule struct {
	atLeast, issuers int
	ids              []*identity
}

func (r *BuildersRequirement) compile() (*buildersRule, error) {
	if r.AtLeast < 2 || r.AtLeast > 16 {
		return nil, fault.Newf(fault.Invalid, "atLeast %d: want 2 to 16; one builder is what provenance asks for", r.AtLeast)
	}
	if r.Issuers < 0 || r.Issuers > r.AtLeast {
		return nil, fault.Newf(fault.Invalid, "issuers %d: want at most atLeast, which is %d", r.Issuers, r.AtLeast)
	}
	out := &buildersRule{atLeast: r.AtLeast, issuers: max(r.Issuers, 1)}
	var err error
	if out.ids, _, err = compileSigners(r.Identities, r.Signers, &r.AtLeast); err != nil {
		return nil, fmt.Errorf("a builder counts by who signed: %w", err)
	}
	return out, nil
}

// builderOf is whom a statement counts for.
func builderOf(e *Evidence) (name, issuer string) {
	if e.Identity == nil {
		return e.Key, e.Key
	}
	return e.Party(), e.Identity.Issuer
}

func (r *buildersRule) evaluate(ev *evaluation, q *quality) {
	var t tally
	names, issuers := map[string]bool{}, map[string]bool{}
	differ := 0
	see := func(id string, made bool) {
		a := ev.attestation(id)
		switch {
		case a == nil:
		case !matchAny(r.ids, &a.Evidence):
			t.other(&a.Evidence)
		case q.unusable(&a.Evidence, ev.now) != "":
			t.refuse(q.unusable(&a.Evidence, ev.now))
		case !made:
			differ++
		default:
			name, issuer := builderOf(&a.Evidence)
			if !names[name] {
				t.count(&a.Evidence) // one for each builder: its other statements add nothing
			}
			names[name], issuers[issuer] = true, true
		}
	}
	for i := range ev.facts.Provenance {
		see(ev.facts.Provenance[i].Attestation, true)
	}
	for i := range ev.facts.Rebuilds {
		see(ev.facts.Rebuilds[i].Attestation, ev.facts.Rebuilds[i].Identical)
	}
	c := Check{
		Name: "builders", Status: Pass,
		Expected: fmt.Sprintf("built by %d distinct builders of %d issuer%s, by %s%s", r.atLeast, r.issuers, plural(r.issuers), identitiesText(r.ids), q.text()),
		Found:    fmt.Sprintf("%d builders of %d issuer%s", len(names), len(issuers), plural(len(issuers))),
	}
	for _, e := range t.evidence[:min(len(t.evidence), maxEvidence)] {
		c.Evidence = append(c.Evidence, e.ID)
		if c.LogIndex == nil {
			c.LogIndex = e.LogIndex
		}
		c.Found += "; " + e.SignerText()
	}
	if differ > 0 {
		c.Found += fmt.Sprintf("; %d rebuild%s gave other bytes", differ, plural(differ))
	}
	if len(names) < r.atLeast || len(issuers) < r.issuers {
		c.Status = Fail
		c.Found += ev.rejectedText(true)
		c.Mend = "assay rebuild " + ev.target + " --yes  # as another of " + identitiesText(r.ids)
		if len(t.others) > 0 {
			c.Found += "; by others: " + strings.Join(t.others[:min(len(t.others), 3)], ", ")
		}
		for _, why := range sortedKeys(t.reasons) {
			c.Found += fmt.Sprintf("; %d %s", t.reasons[why], why)
		}
	} else if q.maxAge > 0 {
		ev.expire(t.expiry(min(r.atLeast, len(t.order)), q.maxAge))
	}
	c.Found = clip(c.Found, 600)
	ev.add(c)
}
