package api

import (
	"net/http"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/registry/ticket"
)

func (a *API) ticketRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/tickets", Summary: "What owners are told of artifacts that the gate holds back, newest first", Action: identity.ActReadEvidence,
			Query: []Param{{"team", "whose"}, {"service", "of this service"}, {"digest", "about this artifact"}, {"unowned", "true: nobody's"}, {"closed", "true: also closed ones"}, {"limit", "at most 1000"}},
			Out:   client.List[client.Ticket]{}, Status: 200, handle: a.tickets},
		{Method: "GET", Path: "/api/v1/tickets/{id}", Summary: "One ticket", Action: identity.ActReadEvidence, Out: client.Ticket{}, Status: 200, handle: a.ticket},
	}
}

func (a *API) tickets(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out, err := func() (out client.List[client.Ticket], err error) {
		out.Items = []client.Ticket{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		f := ticket.Filter{Team: q.Get("team"), Service: q.Get("service")}
		if f.Closed, err = flag(r, "closed"); err != nil {
			return out, err
		}
		if f.Unowned, err = flag(r, "unowned"); err != nil {
			return out, err
		}
		if f.Limit, err = limit(r); err != nil {
			return out, err
		}
		if d := q.Get("digest"); d != "" {
			if f.Digest, err = artifact.ParseDigest(d); err != nil {
				return out, err
			}
		}
		all, err := a.o.Tickets.List(r.Context(), f)
		for i := range all {
			out.Items = append(out.Items, wireTicket(&all[i]))
		}
		return out, err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) ticket(w http.ResponseWriter, r *http.Request) {
	// Who may read those of the repository may read it; a stranger does not learn
	// whether there is one.
	t, err := a.o.Tickets.Get(r.Context(), r.PathValue("id"))
	if aerr := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, t.Repository); aerr != nil {
		err = aerr
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireTicket(&t))
}

func wireTicket(t *ticket.Ticket) client.Ticket {
	out := client.Ticket{ID: t.ID, Digest: t.Digest, Cause: t.Cause, Repository: t.Repository, Service: t.Service, Team: t.Team, Owned: t.Owned, Contacts: t.Detail.Contacts, Reason: t.Reason,
		Decision: t.Decision, Mend: t.Detail.Mend, Opened: t.Opened, Closed: known(t.Closed), Why: t.Why}
	for _, u := range t.Detail.Upgrades {
		out.Upgrades = append(out.Upgrades, client.TicketUpgrade(u))
	}
	return out
}
