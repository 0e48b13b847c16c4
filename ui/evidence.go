package ui

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"assay/attestation"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/verify"
)

// evidencePage is one piece of evidence with the trail of its verification.
func evidencePage(c *visit) (*Page, error) {
	id := c.r.PathValue("id")
	raw, err := c.raw("evidence/" + url.PathEscape(id))
	if err != nil {
		return nil, err
	}
	b, err := attestation.ParseBundle(raw, attestation.DefaultLimits())
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "the stored bundle does not parse: %w", err)
	}
	p := &Page{Title: "Evidence " + clip(id, 16), Here: "Artifacts", Crumbs: []Link{{"Artifacts", local("artifacts")}}}
	rec := c.record(b, id)
	p.Sections = []Section{bundleTrail(c, b, rec)}
	st, serr := b.Statement()
	if serr == nil {
		p.Title = typeName(st.PredicateType)
		p.Lead = st.PredicateType
		t := &Table{Columns: columns("Subject", "Digest"), Empty: "It is about nothing."}
		for _, s := range st.Subject[:min(len(st.Subject), 100)] {
			for alg, hex := range s.Digest {
				d := Cell{Text: short(alg + ":" + hex), Value: alg + ":" + hex, Title: alg + ":" + hex, Mono: true}
				if alg == "sha256" {
					d.URL = local("artifacts/sha256:" + hex)
				}
				t.Rows = append(t.Rows, []Cell{clipped(s.Name, 160), d})
			}
		}
		p.Sections = append(p.Sections, Section{ID: "subjects", Title: "What it is about", Table: t},
			Section{ID: "predicate", Title: "What it says", Note: "The signer's words, as they were signed.", Raw: pretty(st.Predicate), RawOpen: len(st.Predicate) < 16<<10})
	}
	p.Sections = append(p.Sections, Section{ID: "bundle", Title: "The bundle, byte for byte", Raw: pretty(raw)})
	return p, nil
}

// record finds the store's own word about a bundle: under which root it verified,
// and when.
func (c *visit) record(b *attestation.Bundle, id string) *client.Evidence {
	st, err := b.Statement()
	if err != nil {
		return nil
	}
	for _, s := range st.Subject {
		if hex := s.Digest["sha256"]; hex != "" {
			var list client.List[client.Evidence]
			if c.get(&list, "evidence", "digest", "sha256:"+hex, "limit", "1000") != nil {
				return nil
			}
			for i := range list.Items {
				if list.Items[i].ID == id {
					return &list.Items[i]
				}
			}
		}
	}
	return nil
}

// bundleTrail says, step by step, what makes the bundle hold.
func bundleTrail(c *visit, b *attestation.Bundle, rec *client.Evidence) Section {
	t := &Table{Columns: columns("Step", "State", "Found")}
	add := func(step string, state Cell, found Cell) { t.Rows = append(t.Rows, []Cell{text(step), state, found}) }
	checked := mark(Good, "verified")
	if rec == nil {
		checked = unknown("its record is not to be seen from here")
	}
	if cert := b.Certificate(); cert != nil {
		who := ""
		for _, e := range cert.EmailAddresses {
			who = e
		}
		for _, u := range cert.URIs {
			who = u.String()
		}
		add("Certificate", checked, Cell{Text: "from " + cert.NotBefore.UTC().Format("2006-01-02 15:04:05") + " to " + cert.NotAfter.UTC().Format("15:04:05"), Sub: "issued by " + clip(cert.Issuer.String(), 80)})
		if rec != nil && rec.Identity != "" {
			who = rec.Identity
		}
		issuer := ""
		if rec != nil {
			issuer = rec.Issuer
		}
		add("Identity", checked, Cell{Text: who, Sub: issuer})
	} else {
		hint, _ := b.KeyHint()
		if rec != nil {
			hint = rec.Key
		}
		add("Key", checked, mono(orUnknown(hint, "").Text))
	}
	if rec != nil {
		add("Signature", mark(Good, "verified"), text("under root "+rec.Root+" when it came in, "+rec.IngestedAt.UTC().Format("2006-01-02 15:04:05")))
	} else {
		add("Signature", checked, text("it was verified when it came in; under which root is not to be seen from here"))
	}
	stamps := len(b.Timestamps())
	switch {
	case rec != nil && !rec.TrustedTime.IsZero():
		add("Trusted time", mark(Good, "verified"), Cell{Text: rec.TrustedTime.UTC().Format("2006-01-02 15:04:05"), Sub: strconv.Itoa(stamps) + " timestamps"})
	default:
		add("Trusted time", unknown("no proof of time is known"), text(strconv.Itoa(stamps)+" timestamps"))
	}
	entries := b.LogEntries()
	if len(entries) == 0 {
		add("Transparency log", mark(Warn, "not logged"), text("the bundle has no log entry"))
	}
	for _, e := range entries {
		index := e.GetLogIndex()
		cell := Cell{Text: "entry " + strconv.FormatInt(index, 10), URL: local("log/" + strconv.FormatInt(index, 10))}
		if rec == nil || rec.Root != c.u.o.OwnRoot() || !c.may(identity.ActReadLog) {
			add("Transparency log", checked, Cell{Text: cell.Text, Sub: "inclusion was proved when it came in"})
			continue
		}
		p := c.proveBundle(b, index)
		add("Transparency log, now", p.cell(), cell)
	}
	return Section{ID: "trail", Title: "How we know", Table: t}
}

func decisionPage(c *visit) (*Page, error) {
	id := c.r.PathValue("id")
	raw, err := c.raw("decisions/" + url.PathEscape(id))
	if err != nil {
		return nil, err
	}
	var d verify.Decision
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, err
	}
	_, repository, _ := strings.Cut(d.ScopeID, "@")
	p := &Page{Title: "Decision " + clip(d.ID, 16), Here: "Artifacts", Crumbs: []Link{{"Artifacts", local("artifacts")}, {short(string(d.Digest)), artifactURL(d.Digest, repository)}}, State: verdictCell(d.Verdict)}
	p.Sections = []Section{
		{ID: "facts", Title: "What was decided", Facts: []Fact{{"Artifact", digest(d.Digest, repository)}, {"Policy", link(d.Policy, local("policies/"+url.PathEscape(d.Policy)))}, {"Mode", text(string(d.Mode))}, {"Scope", text(d.ScopeID)}, {"Decided", when(d.DecidedAt)}, {"Holds until", when(d.ValidUntil)}, {"Trust epoch", count(d.TrustEpoch)}, {"Policy hash", mono(d.PolicyHash)}, {"Facts", mono(d.FactsHash)}}},
		{ID: "checks", Title: "Why", Table: checksTable(d.Checks)},
	}
	if facts, err := c.raw("decisions/" + url.PathEscape(id) + "/facts"); err == nil {
		p.Sections = append(p.Sections, Section{ID: "recorded", Title: "The facts that it rests on", Raw: pretty(facts)})
	} else {
		p.Sections = append(p.Sections, Section{ID: "recorded", Title: "The facts that it rests on", Problem: err.Error()})
	}
	p.Sections = append(p.Sections, Section{ID: "vsa", Title: "The signed summary", Raw: pretty(d.VSA)})
	return p, nil
}
