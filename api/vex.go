package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/vuln/finding"
	"assay/vuln/vex"
)

func (a *API) vexRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/vex/statements", Summary: "What the site states about flaws of its artifacts", Action: identity.ActReadEvidence,
			Query: []Param{{"after", "cursor"}, {"limit", "at most 1000"}, {"ended", "true: also what was withdrawn or is over"}}, Out: client.List[vex.Entry]{}, Status: 200, handle: a.listVEX},
		{Method: "GET", Path: "/api/v1/vex/export", Summary: "All that the site states now, as one OpenVEX document", Action: identity.ActReadEvidence, Out: RawBytes{"application/json"}, Status: 200, handle: a.exportVEX},
		{Method: "GET", Path: "/api/v1/vex/statements/{id}", Summary: "One statement", Action: identity.ActReadEvidence, Out: vex.Entry{}, Status: 200, handle: a.showVEX},
		{Method: "GET", Path: "/api/v1/vex/statements/{id}/bundle", Summary: "What the site signed for a statement", Action: identity.ActReadEvidence, Out: RawBytes{bundleTypes[0]}, Status: 200, handle: a.vexBundle},
		{Method: "POST", Path: "/api/v1/vex/statements", Summary: "Take over a VEX document: OpenVEX, CSAF or CycloneDX", Action: identity.ActApprove,
			Query: []Param{{"reason", "why, on record"}, {"until", "when it ends, RFC 3339"}}, In: RawBytes{"application/json", octetType}, Out: vex.Entry{}, Status: 201, handle: a.importVEX},
		{Method: "POST", Path: "/api/v1/vex/triage", Summary: "State whether a flaw concerns artifacts", Action: identity.ActApprove, In: client.TriageRequest{}, Out: vex.Entry{}, Status: 201, handle: a.triage},
		{Method: "GET", Path: "/api/v1/vex/proposals", Summary: "Statements that wait for another person", Action: identity.ActReadEvidence,
			Query: []Param{{"after", "cursor"}, {"limit", "at most 1000"}, {"ended", "true: also what was decided"}}, Out: client.List[vex.Proposal]{}, Status: 200, handle: a.listVEXProposals},
		{Method: "POST", Path: "/api/v1/vex/proposals/{id}", Summary: "Approve a proposed statement, as another person than who proposed it", Action: identity.ActApprove, Out: vex.Entry{}, Status: 201, handle: a.approveVEX},
		{Method: "DELETE", Path: "/api/v1/vex/proposals/{id}", Summary: "Refuse a proposed statement", Action: identity.ActApprove, Query: []Param{{"reason", "why, on record"}}, Out: vex.Proposal{}, Status: 200, handle: a.refuseVEX},
		{Method: "DELETE", Path: "/api/v1/vex/statements/{id}", Summary: "Take a statement back", Action: identity.ActApprove, Query: []Param{{"reason", "why, on record"}}, Out: vex.Entry{}, Status: 200, handle: a.withdrawVEX},
	}
}

// OfSubject gives the findings of an artifact with what the site states about
// them. repository is where it is met; "" leaves out statements about
// repositories.
func (v *Vulnerabilities) OfSubject(ctx context.Context, subject artifact.Digest, repository string) (all []finding.Finding, st finding.State, err error) {
	return v.OfDocuments(ctx, subject, repository, nil)
}

// OfDocuments is OfSubject by some bills of materials alone, as their attestations are
// named; nil is all.
func (v *Vulnerabilities) OfDocuments(ctx context.Context, subject artifact.Digest, repository string, attestations []string) (all []finding.Finding, st finding.State, err error) {
	if all, st, err = v.Findings.OfDocuments(ctx, subject, v.MaxAge, attestations); err != nil {
		return nil, st, err
	}
	if err := v.Findings.Paths(ctx, subject, all); err != nil {
		return nil, st, err
	}
	return all, st, v.State(ctx, all, vex.Subject{Digest: subject, Repository: repository})
}

// Then gives the findings that an artifact had at a time. What the site stated
// since then is not told apart from what it stated before: it states nothing.
func (v *Vulnerabilities) Then(ctx context.Context, subject artifact.Digest, at time.Time) (all []finding.Finding, st finding.State, err error) {
	if all, st, err = v.Findings.Then(ctx, subject, at); err != nil {
		return nil, st, err
	}
	return all, st, v.Findings.Paths(ctx, subject, all)
}

// State enters what the site states about findings.
func (v *Vulnerabilities) State(ctx context.Context, all []finding.Finding, about vex.Subject) error {
	if v.Statements == nil {
		return nil
	}
	book, err := v.Statements.Book(ctx)
	if err == nil {
		finding.Apply(all, book, about, v.Statements.Now())
	}
	return err
}

func (a *API) listVEX(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.List[vex.Entry], err error) {
		out.Items = []vex.Entry{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		most, err := limit(r)
		if err != nil {
			return out, err
		}
		ended, err := flag(r, "ended")
		if err != nil {
			return out, err
		}
		after, err := readCursor("vex", r.URL.Query().Get("after"))
		if err != nil {
			return out, err
		}
		all, err := a.o.Vulnerabilities.Statements.List(r.Context(), after, most, ended)
		for _, e := range all {
			out.Items = append(out.Items, *e)
		}
		if n := len(all); n == most && err == nil {
			out.Next = writeCursor("vex", all[n-1].ID)
		}
		return out, err
	}()
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) showVEX(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var e *vex.Entry
	if err == nil {
		e, err = a.o.Vulnerabilities.Statements.Get(r.Context(), r.PathValue("id"))
	}
	a.answer(w, r, http.StatusOK, e, err)
}

func (a *API) vexBundle(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var b []byte
	if err == nil {
		b, err = a.o.Vulnerabilities.Statements.Bundle(r.Context(), r.PathValue("id"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", bundleTypes[0])
	_, _ = w.Write(b)
}

func (a *API) exportVEX(w http.ResponseWriter, r *http.Request) {
	b, err := func() ([]byte, error) {
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return nil, err
		}
		var all []vex.Statement
		after := ""
		for {
			page, err := a.o.Vulnerabilities.Statements.List(r.Context(), after, 1000, false)
			if err != nil {
				return nil, err
			}
			for _, e := range page {
				all = append(all, e.Statements...)
			}
			if len(page) < 1000 {
				break
			}
			after = page[len(page)-1].ID
		}
		site := a.o.Status(r.Context()).PublicURL
		return json.Marshal(vex.OpenVEX(site+"/api/v1/vex/export", site, a.o.Clock(), all))
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func (a *API) importVEX(w http.ResponseWriter, r *http.Request) {
	e, err := func() (*vex.Entry, error) {
		if err := a.allow(r, identity.ActApprove, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		if err := wantMedia(r, "application/json", octetType); err != nil {
			return nil, err
		}
		b, err := body(w, r, vex.MaxBytes)
		if err != nil {
			return nil, err
		}
		d, err := vex.Read(b)
		if err != nil {
			return nil, err
		}
		q := vex.Request{Source: vex.Import, Author: d.Author, Statements: d.Statements, Reason: r.URL.Query().Get("reason"), Actor: identity.FromContext(r.Context()).Actor()}
		if text := r.URL.Query().Get("until"); text != "" {
			if q.Until, err = time.Parse(time.RFC3339, text); err != nil {
				return nil, fault.Newf(fault.Invalid, "until %.40q: want RFC 3339", text)
			}
		}
		return a.stateVEX(r, q)
	}()
	a.answer(w, r, stated(e), e, err)
}

func (a *API) triage(w http.ResponseWriter, r *http.Request) {
	e, err := func() (*vex.Entry, error) {
		if err := a.allow(r, identity.ActApprove, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		var q client.TriageRequest
		if err := request(w, r, &q); err != nil {
			return nil, err
		}
		names := []string{q.Vulnerability}
		// What feeds call it otherwise is the same flaw; what mends it among others is not.
		records, err := a.o.Vulnerabilities.Feeds.ByAlias(r.Context(), q.Vulnerability)
		if err != nil {
			return nil, err
		}
		for _, one := range records {
			if !one.Means(q.Vulnerability) {
				continue
			}
			for _, n := range append([]string{one.ID}, one.Names()...) {
				if !slices.Contains(names, n) && len(names) < 32 {
					names = append(names, n)
				}
			}
		}
		return a.stateVEX(r, vex.Request{
			Source: vex.Triage, Actor: identity.FromContext(r.Context()).Actor(), Reason: q.Reason, Until: q.Until,
			Statements: []vex.Statement{{
				Vulnerabilities: names, Products: q.Products, Components: q.Components, Versions: q.Versions, Status: vex.Status(q.Status), Justification: q.Justification, Impact: q.Reason,
			}},
		})
	}()
	a.answer(w, r, stated(e), e, err)
}

func (a *API) withdrawVEX(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActApprove, identity.ResourceConfig, "")
	var e *vex.Entry
	st, who, reason, status := a.o.Vulnerabilities.Statements, identity.FromContext(r.Context()), r.URL.Query().Get("reason"), http.StatusOK
	if err == nil {
		e, err = st.Get(r.Context(), r.PathValue("id"))
	}
	switch {
	case err != nil:
	case st.NeedsSecondToWithdraw(e):
		var p *vex.Proposal
		if p, err = st.ProposeWithdraw(r.Context(), e, who.Actor(), who.Person, reason); err == nil {
			e, status = proposed(p), http.StatusAccepted
		}
	default:
		e, err = st.Withdraw(r.Context(), e.ID, who.Actor(), reason)
	}
	a.answer(w, r, status, e, err)
}

// stateVEX has the site state something, or only propose it where two persons are
// wanted.
func (a *API) stateVEX(r *http.Request, q vex.Request) (*vex.Entry, error) {
	st := a.o.Vulnerabilities.Statements
	if !st.NeedsSecond(q.Statements) {
		return st.State(r.Context(), q)
	}
	q.Person = identity.FromContext(r.Context()).Person
	p, err := st.Propose(r.Context(), q)
	if err != nil {
		return nil, err
	}
	return proposed(p), nil
}

// proposed is a proposal in the form of what it will be.
func proposed(p *vex.Proposal) *vex.Entry {
	return &vex.Entry{ID: p.ID, Source: p.Source, Author: p.Author, Actor: p.Actor, Reason: p.Reason, Statements: p.Statements, Created: p.Created, Until: p.Until, Proposed: true}
}

// stated is the status of an answer: what is only proposed is not created yet.
func stated(e *vex.Entry) int {
	if e != nil && e.Proposed {
		return http.StatusAccepted
	}
	return http.StatusCreated
}

func (a *API) listVEXProposals(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.List[vex.Proposal], err error) {
		out.Items = []vex.Proposal{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		most, err := limit(r)
		if err != nil {
			return out, err
		}
		ended, err := flag(r, "ended")
		if err != nil {
			return out, err
		}
		after, err := readCursor("vexp", r.URL.Query().Get("after"))
		if err != nil {
			return out, err
		}
		all, err := a.o.Vulnerabilities.Statements.Proposals(r.Context(), after, most, ended)
		for _, p := range all {
			out.Items = append(out.Items, *p)
		}
		if n := len(all); n == most && err == nil {
			out.Next = writeCursor("vexp", all[n-1].ID)
		}
		return out, err
	}()
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) approveVEX(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActApprove, identity.ResourceConfig, "")
	var e *vex.Entry
	if err == nil {
		who := identity.FromContext(r.Context())
		e, err = a.o.Vulnerabilities.Statements.Approve(r.Context(), r.PathValue("id"), who.Actor(), who.Person)
	}
	a.answer(w, r, http.StatusCreated, e, err)
}

func (a *API) refuseVEX(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActApprove, identity.ResourceConfig, "")
	var p *vex.Proposal
	if err == nil {
		p, err = a.o.Vulnerabilities.Statements.Refuse(r.Context(), r.PathValue("id"), identity.FromContext(r.Context()).Actor(), r.URL.Query().Get("reason"))
	}
	a.answer(w, r, http.StatusOK, p, err)
}
