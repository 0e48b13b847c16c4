package api

import (
	"net/http"
	"strconv"
	"time"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/vuln/feed/upstream"
)

func (a *API) upstreamRoutes() []Route {
	name := []Param{{"name", "of the feed"}}
	return []Route{
		{Method: "GET", Path: "/api/v1/feeds/upstreams", Summary: "Where feeds are fetched, when next, and what came of it", Action: identity.ActReadEvidence, Out: client.List[client.FeedUpstream]{}, Status: 200, handle: a.upstreams},
		{Method: "PUT", Path: "/api/v1/feeds/upstreams", Summary: "Have a feed fetched, or fetched in another way", Action: identity.ActAdmin, In: client.FeedUpstream{}, Out: client.FeedUpstream{}, Status: 200, handle: a.addUpstream},
		{Method: "DELETE", Path: "/api/v1/feeds/upstreams", Summary: "End the fetching of a feed; what is in force of it stays, and grows old", Action: identity.ActAdmin, Query: name, Out: struct{}{}, Status: 200, handle: a.removeUpstream},
		{Method: "POST", Path: "/api/v1/feeds/upstreams/sync", Summary: "Have a feed looked at as soon as can be", Action: identity.ActOperate, Query: name, In: client.FeedSync{}, Out: client.FeedSyncAsked{}, Status: 202, handle: a.syncUpstream},
		{Method: "POST", Path: "/api/v1/feeds/accept", Summary: "Bring a blocked operation of a feed into force, or have what is in force believed again", Action: identity.ActAdmin,
			Query: []Param{{"operation", "its number"}}, In: client.FeedAccept{}, Out: client.FeedOperation{}, Status: 200, handle: a.acceptFeed},
	}
}

// asked reads a request's body after its right was looked at.
func (a *API) asked(w http.ResponseWriter, r *http.Request, act identity.Action, in any) error {
	if err := a.allow(r, act, identity.ResourceConfig, ""); err != nil || in == nil {
		return err
	}
	b, err := body(w, r, 8<<20)
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal(b, in, strictjson.RejectUnknown()); err != nil {
		return fault.Newf(fault.Invalid, "request: %w", err)
	}
	return nil
}

func (a *API) upstreams(w http.ResponseWriter, r *http.Request) {
	out := client.List[client.FeedUpstream]{Items: []client.FeedUpstream{}}
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var all []upstream.Upstream
	var states []upstream.Status
	if err == nil {
		states, err = a.o.Vulnerabilities.Upstreams.Status(r.Context())
	}
	if err == nil {
		all, err = a.o.Vulnerabilities.Upstreams.List(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	for _, u := range all {
		one := wireUpstream(u)
		for _, s := range states {
			if s.Name == u.Name {
				one.Status = append(one.Status, client.FeedUpstatus{Ecosystem: s.Ecosystem, Due: known(s.Due), Tried: known(s.Tried), Succeeded: known(s.Succeeded), Failures: s.Failures, Problem: s.Problem, Outcome: s.Outcome})
			}
		}
		out.Items = append(out.Items, one)
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireUpstream(u upstream.Upstream) client.FeedUpstream {
	return client.FeedUpstream{Name: u.Name, Type: u.Type, URL: u.URL, Ecosystems: u.Ecosystems, EverySeconds: int64(u.Interval().Seconds()), MaxBytes: u.MaxBytes, CABundle: u.CABundle, Proxy: u.Proxy,
		AllowPrivate: u.AllowPrivate, Credentials: u.Credentials, SHA256: u.SHA256, Identity: u.Signature.Identity, Issuer: u.Signature.Issuer,
		S3Endpoint: u.S3.Endpoint, S3Region: u.S3.Region, S3PathStyle: u.S3.PathStyle, Configured: u.Configured}
}

func (a *API) addUpstream(w http.ResponseWriter, r *http.Request) {
	var in client.FeedUpstream
	err := a.asked(w, r, identity.ActAdmin, &in)
	if err == nil && (in.Configured || in.Status != nil) {
		err = fault.Newf(fault.Invalid, "configured and status are the server's own to say")
	}
	if err == nil && (in.EverySeconds < 0 || in.EverySeconds > 8*24*3600) {
		err = fault.Newf(fault.Invalid, "every_seconds %d: want from 60 to 604800", in.EverySeconds)
	}
	s := upstream.Spec{Name: in.Name, Type: in.Type, URL: in.URL, Ecosystems: in.Ecosystems, Every: time.Duration(in.EverySeconds) * time.Second, MaxBytes: in.MaxBytes, CABundle: in.CABundle, Proxy: in.Proxy,
		AllowPrivate: in.AllowPrivate, Credentials: in.Credentials, SHA256: in.SHA256, Signature: upstream.Signature{Identity: in.Identity, Issuer: in.Issuer},
		S3: upstream.S3{Endpoint: in.S3Endpoint, Region: in.S3Region, PathStyle: in.S3PathStyle}}
	if err == nil {
		err = a.o.Vulnerabilities.Upstreams.Add(r.Context(), s, identity.FromContext(r.Context()).Actor())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireUpstream(upstream.Upstream{Spec: s}))
}

func (a *API) removeUpstream(w http.ResponseWriter, r *http.Request) {
	err := a.asked(w, r, identity.ActAdmin, nil)
	if err == nil {
		err = a.o.Vulnerabilities.Upstreams.Remove(r.Context(), r.URL.Query().Get("name"), identity.FromContext(r.Context()).Actor())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, struct{}{})
}

func (a *API) syncUpstream(w http.ResponseWriter, r *http.Request) {
	var in client.FeedSync
	var at time.Time
	err := a.asked(w, r, identity.ActOperate, &in)
	if err == nil && in.Downgrade != "" {
		err = a.allow(r, identity.ActAdmin, identity.ResourceConfig, "")
	}
	if err == nil {
		at, err = a.o.Vulnerabilities.Upstreams.Sync(r.Context(), r.URL.Query().Get("name"), in.Downgrade, identity.FromContext(r.Context()).Actor())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusAccepted, client.FeedSyncAsked{Asked: at})
}

func (a *API) acceptFeed(w http.ResponseWriter, r *http.Request) {
	var in client.FeedAccept
	err := a.asked(w, r, identity.ActAdmin, &in)
	var id int64
	if err == nil {
		if id, err = strconv.ParseInt(r.URL.Query().Get("operation"), 10, 64); err != nil {
			err = fault.Newf(fault.Invalid, "operation %.40q: want its number", r.URL.Query().Get("operation"))
		}
	}
	var out client.FeedOperation
	if err == nil {
		op, e := a.o.Vulnerabilities.Canaries.Accept(r.Context(), id, identity.FromContext(r.Context()).Actor(), in.Reason)
		out, err = WireOperation(op), e
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}
