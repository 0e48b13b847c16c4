package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/store/lane"
)

func (a *API) tierRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/vulnerabilities/cost", Summary: "What reading and matching bills of materials cost, by tier", Action: identity.ActReadEvidence,
			Query: []Param{{"since", "RFC 3339; absent: ever"}, {"scans", "how many of the costliest are listed, at most 1000; absent: none"}, {"digest", "of one artifact alone, among the scans"}}, Out: client.VulnCosts{}, Status: 200, handle: a.vulnCosts},
		{Method: "GET", Path: "/api/v1/vulnerabilities/missed", Summary: "What scans that came out clean should have found", Action: identity.ActReadEvidence,
			Query: []Param{{"since", "RFC 3339; absent: ever"}, {"cause", "record, matcher or feed"}, {"limit", "at most 1000"}}, Out: client.MissedList{}, Status: 200, handle: a.missed},
	}
}

func (a *API) vulnCosts(w http.ResponseWriter, r *http.Request) {
	out, err := a.costs(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) costs(r *http.Request) (out client.VulnCosts, err error) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		return out, err
	}
	q := r.URL.Query()
	since, err := instant(q, "since")
	if err != nil {
		return out, err
	}
	if since.IsZero() {
		since = time.Unix(0, 0).UTC()
	} else {
		out.Since = &since
	}
	got, err := a.o.Vulnerabilities.Findings.Costs(r.Context(), since)
	if err != nil {
		return out, err
	}
	out.Tiers, out.Waiting, out.Rules = []client.TierCosts{}, []client.TierWaiting{}, map[int]string{}
	for _, t := range got.Tiers {
		out.Tiers = append(out.Tiers, client.TierCosts{Tier: t.Tier, Scans: t.Scans, Components: t.Components, New: t.Fresh, Advisories: t.Advisories,
			CPU: t.CPU.Seconds(), Wall: t.Wall.Seconds(), ReadCPU: t.ReadCPU.Seconds(), ReadWall: t.ReadWall.Seconds(), Waited: t.Worst.Seconds()})
	}
	for _, p := range got.Pending {
		out.Waiting = append(out.Waiting, client.TierWaiting(p))
	}
	f := got.Feeds
	out.Feeds = client.FeedCosts{Operations: f.Operations, Advisories: f.Advisories, Opened: f.Opened, Resolved: f.Closed, CPU: f.CPU.Seconds(), Wall: f.Wall.Seconds()}
	for n := 1; n <= lane.Tiers; n++ {
		out.Rules[n] = "wait"
		if share, background := a.o.Vulnerabilities.Tiers.Background[n]; background {
			out.Rules[n] = fmt.Sprintf("background, %g processors", share)
		}
	}
	if text := q.Get("scans"); text != "" {
		out.Scans, err = a.costliest(r, since, text)
	}
	return out, err
}

func (a *API) costliest(r *http.Request, since time.Time, text string) (out []client.ScanCost, err error) {
	most, err := strconv.Atoi(text)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "scans %.20q: want a number from 1 to 1000", text)
	}
	var digest artifact.Digest
	if d := r.URL.Query().Get("digest"); d != "" {
		if digest, err = artifact.ParseDigest(d); err != nil {
			return nil, err
		}
	}
	all, err := a.o.Vulnerabilities.Findings.Scans(r.Context(), since, digest, most)
	for i := range all {
		x := &all[i]
		out = append(out, client.ScanCost{Digest: x.Subject, Document: x.Document, At: x.At, Tier: x.Tier, Components: x.Components, New: x.Fresh, Advisories: x.Advisories,
			CPU: x.CPU.Seconds(), Wall: x.Wall.Seconds(), ReadCPU: x.ReadCPU.Seconds(), ReadWall: x.ReadWall.Seconds(), Waited: x.Waited.Seconds()})
	}
	return out, err
}

func (a *API) missed(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.MissedList, err error) {
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		q := r.URL.Query()
		since, err := instant(q, "since")
		if err != nil {
			return out, err
		}
		if since.IsZero() {
			since = time.Unix(0, 0).UTC()
		}
		most, err := limit(r)
		if err != nil {
			return out, err
		}
		all, totals, err := a.o.Vulnerabilities.Findings.MissedSince(r.Context(), since, q.Get("cause"), most)
		if err != nil {
			return out, err
		}
		out.Totals, out.Items = totals, []client.MissedDetection{}
		for i := range all {
			x := &all[i]
			out.Items = append(out.Items, client.MissedDetection{Advisory: x.Advisory, Component: x.Component, Feed: x.Feed, Ecosystem: x.Ecosystem, Cause: x.Cause, Operation: x.Operation,
				Received: known(x.Received), Published: known(x.Published), Found: x.Opened, Artifacts: x.Artifacts})
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}
