package api

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
			Query: []Param{{"days", "of decisions, 1 to 400; default 30"}, {"alone", "true judges by the documents' policies and no other"}, {"at", "RFC 3339, default now: roll-outs are in the stage that they are in then"}},
			In:    RawBytes(documentTypes), Out: replay.Comparison{}, Status: 200, handle: a.policyReplay},
		{Method: "POST", Path: "/api/v1/policies/{name}/mode", Summary: "Change what a denial by a policy does, if it refuses nothing that was not accepted", Action: identity.ActApply,
			In: client.PolicyModeRequest{}, Out: PolicyModeAnswer{}, Status: 200, handle: a.policyMode},
	}
}

// PolicyModeAnswer says whether a policy is in another mode now, and what the
// replay before it found.
type PolicyModeAnswer struct {
	Policy  string              `json:"policy"`
	From    policy.Mode         `json:"from"`
	To      policy.Mode         `json:"to"`
	Rules   []string            `json:"rules,omitempty"` // that it concerns; absent: all
	Scope   map[string][]string `json:"scope,omitempty"` // where; absent: wherever the policy holds
	Changed bool                `json:"changed"`
	Why     string              `json:"why,omitempty"` // it was not changed
	Replay  replay.Comparison   `json:"replay"`
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
	stages := a.o.Clock()
	if text := r.URL.Query().Get("at"); text != "" {
		if stages, err = time.Parse(time.RFC3339, text); err != nil {
			return nil, fault.Newf(fault.Invalid, "at %.40q: want RFC 3339, such as 2026-12-01T00:00:00Z", text)
		}
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
	return replay.Run(r.Context(), a.o.Engine, set, replay.Options{Since: a.o.Clock().Add(-back), Stages: stages})
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
	edit, err := editMode(&q, mode)
	if err != nil {
		return nil, err
	}
	out := &PolicyModeAnswer{Policy: name, From: was.Mode(), To: mode, Rules: q.Rules, Scope: q.Scope}
	now, err := a.edited(r.Context(), was, edit)
	if err != nil {
		return nil, err
	}
	if set, err = set.With(now); err != nil {
		return nil, err
	}
	done, err := a.replaying(r.Context())
	if err != nil {
		return nil, err
	}
	defer done()
	report, err := replay.Run(r.Context(), a.o.Engine, set, replay.Options{Since: a.o.Clock().Add(-back), Stages: a.o.Clock(), Only: now.Concerns})
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
	out.Changed = was.Hash() != now.Hash()
	if !out.Changed {
		return out, nil
	}
	_, err = a.applyChange(r, false, func(stored []config.Document) ([]config.Document, []config.Change, error) {
		at := slices.IndexFunc(stored, func(d config.Document) bool { return d.Policy != nil && d.Name == name })
		if at < 0 || stored[at].Policy.Hash() != was.Hash() {
			return nil, nil, fault.Newf(fault.Conflict, "policy %s was changed while it was replayed: try again", name)
		}
		text, err := edit(stored[at].Text)
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
			Body: map[string]any{"policy": name, "from": was.Mode(), "to": mode, "reason": q.Reason, "accepted": clipAll(q.Accept), "stricter": report.Stricter, "rules": clipAll(q.Rules), "scope": clipAll([]string{selectorWords(q.Scope)})[0]},
		})
	})
}

// editMode is what becomes of a policy's text: the mode of all of it, or of some of
// its rules, or in a scope.
func editMode(q *client.PolicyModeRequest, mode policy.Mode) (func([]byte) ([]byte, error), error) {
	if len(q.Rules) == 0 && len(q.Scope) == 0 {
		return func(text []byte) ([]byte, error) { return policy.SetMode(text, mode) }, nil
	}
	rules := q.Rules
	if len(rules) == 0 {
		rules = []string{"*"}
	}
	var scope *policy.Selector
	if len(q.Scope) > 0 {
		var err error
		if scope, err = policy.SelectorOf(q.Scope); err != nil {
			return nil, err
		}
	}
	return func(text []byte) ([]byte, error) { return policy.SetRollout(text, rules, scope, mode) }, nil
}

// edited is a policy in force as its edited text would make it.
func (a *API) edited(ctx context.Context, was *policy.Policy, edit func([]byte) ([]byte, error)) (*policy.Policy, error) {
	var stored []config.Document
	err := a.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		stored, err = config.Stored(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(stored, func(d config.Document) bool { return d.Policy != nil && d.Name == was.Name() })
	if at < 0 {
		return nil, fault.Newf(fault.Conflict, "policy %s is in force, and no document of the site: change it where it comes from", was.Name())
	}
	text, err := edit(stored[at].Text)
	if err != nil {
		return nil, err
	}
	return policy.ParseRequirements(text)
}

func selectorWords(scope map[string][]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(scope)) {
		parts = append(parts, k+" "+strings.Join(scope[k], " "))
	}
	return strings.Join(parts, ", ")
}

// clipAll bounds what enters an event.
func clipAll(in []string) []string {
	out := slices.Clone(in[:min(len(in), 32)])
	for i := range out {
		out[i] = out[i][:min(len(out[i]), 200)]
	}
	return out
}
