package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/verify/replay"
)

func (a *API) policyRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/decisions/{id}/facts", Summary: "The facts that a decision rests on, as they were recorded", Action: identity.ActVerify, Out: RawBytes{"application/json"}, Status: 200, handle: a.decisionFacts},
		{Method: "POST", Path: "/api/v1/policies/replay", Summary: "What recorded decisions would be by other policies", Action: identity.ActReadAudit,
			Query: []Param{{"days", "of decisions, 1 to 400; default 30"}, {"alone", "true judges by the documents' policies and no other"}},
			In:    RawBytes(documentTypes), Out: replay.Comparison{}, Status: 200, handle: a.policyReplay},
		{Method: "POST", Path: "/api/v1/policies/{name}/mode", Summary: "Change what a denial by a policy does, if it refuses nothing that was not accepted", Action: identity.ActApply,
			In: client.PolicyModeRequest{}, Out: PolicyModeAnswer{}, Status: 200, handle: a.policyMode},
	}
}

// PolicyModeAnswer says whether a policy is in another mode now, and what the
// replay before it found.
type PolicyModeAnswer struct {
	Policy  string            `json:"policy"`
	From    policy.Mode       `json:"from"`
	To      policy.Mode       `json:"to"`
	Changed bool              `json:"changed"`
	Why     string            `json:"why,omitempty"` // it was not changed
	Replay  replay.Comparison `json:"replay"`
}

func (a *API) decisionFacts(w http.ResponseWriter, r *http.Request) {
	d, err := a.o.Engine.Get(r.Context(), r.PathValue("id"))
	repository := ""
	if err == nil {
		repository = repositoryOf(d.ScopeID)
	}
	if aerr := a.allow(r, identity.ActVerify, identity.ResourceDecision, repository); aerr != nil {
		err = aerr
	}
	var b []byte
	if err == nil {
		var f *policy.Facts
		if f, err = a.o.Engine.Facts(r.Context(), d.FactsHash); err == nil {
			b, err = f.Canonical()
		}
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

const maxReplayDays = 400

func replayDays(n int) (time.Duration, error) {
	if n == 0 {
		n = 30
	}
	if n < 1 || n > maxReplayDays {
		return 0, fault.Newf(fault.Invalid, "days %d: want 1 to %d", n, maxReplayDays)
	}
	return time.Duration(n) * 24 * time.Hour, nil
}

// replaying lets one replay run at a time: each takes all processors there are.
func (a *API) replaying(ctx context.Context) (done func(), err error) {
	select {
	case a.replays <- struct{}{}:
		return func() { <-a.replays }, nil
	case <-ctx.Done():
		return nil, fault.Newf(fault.Unavailable, "another replay is under way: %w", context.Cause(ctx))
	}
}

func (a *API) policyReplay(w http.ResponseWriter, r *http.Request) {
	out, err := a.replayDocuments(w, r)
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) replayDocuments(w http.ResponseWriter, r *http.Request) (*replay.Comparison, error) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		return nil, err
	}
	if err := wantMedia(r, documentTypes...); err != nil {
		return nil, err
	}
	days := 0
	if text := r.URL.Query().Get("days"); text != "" {
		var err error
		if days, err = strconv.Atoi(text); err != nil {
			return nil, fault.Newf(fault.Invalid, "days %.20q: want a number", text)
		}
	}
	back, err := replayDays(days)
	if err != nil {
		return nil, err
	}
	alone, err := flag(r, "alone")
	if err != nil {
		return nil, err
	}
	b, err := body(w, r, maxDocuments)
	if err != nil {
		return nil, err
	}
	docs, err := config.ParseDocuments(b)
	if err != nil {
		return nil, err
	}
	var given []*policy.Policy
	for _, d := range docs {
		if d.Policy != nil {
			given = append(given, d.Policy)
		}
	}
	if len(given) == 0 {
		return nil, fault.Newf(fault.Invalid, "no document of kind Policy in it")
	}
	set := a.o.Desired().Policies
	if alone {
		set = set.Without(names(set.Policies())...)
	}
	if set, err = set.With(given...); err != nil {
		return nil, err
	}
	done, err := a.replaying(r.Context())
	if err != nil {
		return nil, err
	}
	defer done()
	return replay.Run(r.Context(), a.o.Engine, set, replay.Options{Since: a.o.Clock().Add(-back)})
}

func names(ps []*policy.Policy) (out []string) {
	for _, p := range ps {
		out = append(out, p.Name())
	}
	return out
}

func (a *API) policyMode(w http.ResponseWriter, r *http.Request) {
	out, err := a.changeMode(w, r)
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) changeMode(w http.ResponseWriter, r *http.Request) (*PolicyModeAnswer, error) {
	if err := a.allow(r, identity.ActApply, identity.ResourceConfig, ""); err != nil {
		return nil, err
	}
	var q client.PolicyModeRequest
	if err := request(w, r, &q); err != nil {
		return nil, err
	}
	if n := len(q.Reason); n < 3 || n > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	back, err := replayDays(q.Days)
	if err != nil {
		return nil, err
	}
	mode, err := policy.ParseMode(q.Mode)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	set := a.o.Desired().Policies
	at := slices.IndexFunc(set.Policies(), func(p *policy.Policy) bool { return p.Name() == name })
	if at < 0 {
		return nil, fault.Newf(fault.NotFound, "policy %.80q is not in force: assay get policy lists those that are", name)
	}
	was := set.Policies()[at]
	out := &PolicyModeAnswer{Policy: name, From: was.Mode(), To: mode}
	now := was.InMode(mode)
	if set, err = set.With(now); err != nil {
		return nil, err
	}
	done, err := a.replaying(r.Context())
	if err != nil {
		return nil, err
	}
	defer done()
	report, err := replay.Run(r.Context(), a.o.Engine, set, replay.Options{Since: a.o.Clock().Add(-back), Only: now.Concerns})
	if err != nil {
		return nil, err
	}
	out.Replay = *report
	if mode == policy.Enforce {
		if stop := report.Stops(q.Accept); stop != nil {
			out.Why = stop.Error()
			return out, nil
		}
	}
	out.Changed = was.Mode() != mode
	if !out.Changed {
		return out, nil
	}
	_, err = a.applyChange(r, false, func(stored []config.Document) ([]config.Document, []config.Change, error) {
		at := slices.IndexFunc(stored, func(d config.Document) bool { return d.Policy != nil && d.Name == name })
		if at < 0 || stored[at].Policy.Hash() != was.Hash() {
			return nil, nil, fault.Newf(fault.Conflict, "policy %s was changed while it was replayed: try again", name)
		}
		text, err := policy.SetMode(stored[at].Text, mode)
		if err != nil {
			return nil, nil, err
		}
		wanted, err := config.ParseDocuments(text)
		return wanted, config.Plan(stored, wanted, false), err
	})
	if err != nil {
		return nil, err
	}
	return out, a.o.DB.Update(r.Context(), func(tx *store.Tx) error {
		return event.Append(r.Context(), tx, event.Event{
			Kind: event.PolicyModeChanged, Actor: identity.FromContext(r.Context()).Actor(), TraceID: event.TraceFrom(r.Context()),
			Body: map[string]any{"policy": name, "from": was.Mode(), "to": mode, "reason": q.Reason, "accepted": clipAll(q.Accept), "stricter": report.Stricter},
		})
	})
}

// clipAll bounds what enters an event.
func clipAll(in []string) []string {
	out := slices.Clone(in[:min(len(in), 32)])
	for i := range out {
		out[i] = out[i][:min(len(out[i]), 200)]
	}
	return out
}
