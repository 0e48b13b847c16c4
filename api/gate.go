package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/registry"
	"assay/registry/gate"
)

// gateRoutes are the routes about states, tags and digests of the registry.
func (a *API) gateRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/registry/status", Summary: "What a pushed manifest is, and why: state, checks, tags that wait, history", Action: identity.ActVerify,
			Query: []Param{{"repository", "name, without the host"}, {"reference", "a tag or a digest"}}, Out: gate.ManifestStatus{}, Status: 200, handle: a.registryStatus},
		{Method: "GET", Path: "/api/v1/registry/history", Summary: "The moves of a tag, newest first", Action: identity.ActVerify,
			Query: []Param{{"repository", "name, without the host"}, {"tag", "the tag"}, {"after", "cursor"}, {"limit", "at most 1000"}, {"proofs", "true adds the proofs of inclusion"}},
			Out:   client.List[gate.TagMove]{}, Status: 200, handle: a.registryHistory},
		{Method: "POST", Path: "/api/v1/registry/promote", Summary: "Make a manifest active by hand, for a time", Action: identity.ActApprove,
			In: client.PromoteRequest{}, Out: gate.ManifestStatus{}, Status: 200, handle: a.registryPromote},
		{Method: "POST", Path: "/api/v1/registry/quarantine", Summary: "Serve a digest to nobody, in any repository, until it is released", Action: identity.ActOperate,
			In: client.BlockRequest{}, Out: gate.Blocking{}, Status: 200, handle: a.registryBlock((*gate.Gate).Quarantine)},
		{Method: "POST", Path: "/api/v1/registry/release", Summary: "Lift a quarantine", Action: identity.ActOperate,
			In: client.BlockRequest{}, Out: gate.Blocking{}, Status: 200, handle: a.registryBlock((*gate.Gate).Release)},
		{Method: "POST", Path: "/api/v1/registry/revoke", Summary: "Serve a digest to nobody, in any repository, for good", Action: identity.ActOperate,
			In: client.BlockRequest{}, Out: gate.Blocking{}, Status: 200, handle: a.registryBlock((*gate.Gate).Revoke)},
		{Method: "GET", Path: "/api/v1/registry/blocks", Summary: "Digests that are quarantined or revoked", Action: identity.ActOperate,
			Query: []Param{{"after", "cursor"}, {"limit", "at most 1000"}}, Out: client.List[gate.Block]{}, Status: 200, handle: a.registryBlocks},
		{Method: "GET", Path: "/api/v1/registry/pulls", Summary: "Who pulled a digest or a part of it, and when, newest first", Action: identity.ActReadAudit,
			Query: []Param{{"digest", "sha256:…"}}, Out: client.Pulls[gate.Pull]{}, Status: 200, handle: a.registryPulls},
	}
}

// wantRepository reads the name of a repository and, where there must be one, a
// tag or digest in it.
func wantRepository(name, reference string) (tag string, d artifact.Digest, err error) {
	if !registry.ValidName(name) {
		return "", "", fault.Newf(fault.Invalid, "repository %.300q: want a name without the host", name)
	}
	if d, err := artifact.ParseDigest(reference); err == nil {
		return "", d, nil
	}
	if !registry.ValidTag(reference) {
		return "", "", fault.Newf(fault.Invalid, "reference %.200q: want a tag or a digest", reference)
	}
	return reference, "", nil
}

func (a *API) registryStatus(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	name := q.Get("repository")
	if err := a.allow(r, identity.ActVerify, identity.ResourceDecision, name); err != nil {
		a.fail(w, r, err)
		return
	}
	tag, d, err := wantRepository(name, q.Get("reference"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	st, err := a.o.Gate.Status(r.Context(), name, tag, d)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, st)
}

func (a *API) registryHistory(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	name, tag := q.Get("repository"), q.Get("tag")
	if err := a.allow(r, identity.ActVerify, identity.ResourceDecision, name); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err == nil {
		_, _, err = wantRepository(name, tag)
	}
	var below int64
	if after := q.Get("after"); after != "" && err == nil {
		if below, err = strconv.ParseInt(after, 10, 64); err != nil || below < 1 {
			err = fault.Newf(fault.Invalid, "after %.40q: want what the page before gave as next", after)
		}
	}
	proofs := false
	if err == nil {
		proofs, err = flag(r, "proofs")
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, err := a.o.Gate.History(r.Context(), name, tag, below, n, proofs)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[gate.TagMove]{Items: list}
	if len(list) == n {
		page.Next = strconv.FormatInt(list[n-1].Number, 10)
	}
	WriteJSON(w, http.StatusOK, page)
}

// readStrict reads a small JSON body into v.
func readStrict(w http.ResponseWriter, r *http.Request, v any) error {
	if err := wantMedia(r, "application/json"); err != nil {
		return err
	}
	b, err := body(w, r, 64<<10)
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal(b, v, strictjson.RejectUnknown()); err != nil {
		return fault.Newf(fault.Invalid, "request: %w", err)
	}
	return nil
}

func (a *API) registryPromote(w http.ResponseWriter, r *http.Request) {
	var q client.PromoteRequest
	if err := readStrict(w, r, &q); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.allow(r, identity.ActApprove, identity.ResourceRepository, q.Repository); err != nil {
		a.fail(w, r, err)
		return
	}
	if _, _, err := wantRepository(q.Repository, string(q.Digest)); err != nil {
		a.fail(w, r, err)
		return
	}
	ctx := r.Context()
	// A digest and no tag: what was looked at is what is let in.
	if err := a.o.Gate.PromoteByHand(ctx, q.Repository, q.Digest, identity.FromContext(ctx).Actor(), q.Reason, time.Duration(q.Seconds)*time.Second); err != nil {
		a.fail(w, r, err)
		return
	}
	st, err := a.o.Gate.Status(ctx, q.Repository, "", q.Digest)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, st)
}

func (a *API) registryBlock(do func(g *gate.Gate, ctx context.Context, d artifact.Digest, actor, reason string) (*gate.Blocking, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// It reaches all repositories, so it takes a role over all.
		if err := a.allow(r, identity.ActOperate, identity.ResourceRepository, ""); err != nil {
			a.fail(w, r, err)
			return
		}
		var q client.BlockRequest
		if err := readStrict(w, r, &q); err != nil {
			a.fail(w, r, err)
			return
		}
		out, err := do(a.o.Gate, r.Context(), q.Digest, identity.FromContext(r.Context()).Actor(), q.Reason)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		WriteJSON(w, http.StatusOK, out)
	}
}

func (a *API) registryBlocks(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActOperate, identity.ResourceRepository, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, err := a.o.Gate.Blocks(r.Context(), r.URL.Query().Get("after"), n)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[gate.Block]{Items: append([]gate.Block{}, list...)}
	if len(list) == n {
		page.Next = string(list[n-1].Digest)
	}
	WriteJSON(w, http.StatusOK, page)
}

func (a *API) registryPulls(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		if a.allow(r, identity.ActOperate, identity.ResourceRepository, "") != nil {
			a.fail(w, r, err)
			return
		}
	}
	d, err := artifact.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, more, err := a.o.Gate.Pulls(r.Context(), d)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.Pulls[gate.Pull]{Items: list, More: more})
}
