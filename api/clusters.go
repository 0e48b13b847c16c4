package api

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"assay/admission"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// clusterRoutes are the routes about Kubernetes clusters: what guards them, and
// whether what runs there may.
func (a *API) clusterRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/inventory/guards", Summary: "Say what guards a cluster: its webhook configurations and policies", Action: identity.ActDeploy,
			In: client.GuardReport{}, Out: struct{}{}, Status: 200, handle: a.reportGuards},
		{Method: "GET", Path: "/api/v1/inventory/running", Summary: "Images that run, and whether they may", Action: identity.ActReadEvidence,
			Query: []Param{{"cluster", "by whose grants it is read too"}, {"state", "allowed, denied, drifted or unknown"}, {"after", "cursor"}, {"limit", "at most 10000, which is the default"}},
			Out:   client.List[client.RunningImage]{}, Status: 200, handle: a.runningImages},
		{Method: "GET", Path: "/api/v1/inventory/running/summary", Summary: "How many images run in each cluster, by whether they may", Action: identity.ActReadEvidence,
			Out: client.List[client.RunningTally]{}, Status: 200, handle: a.runningSummary},
	}
}

var (
	clusterNameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	guardRE       = regexp.MustCompile(`^[a-z0-9.-]{1,100}$`)
	fingerprintRE = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// maxGuards is more than there are of Assay's objects in a cluster.
const maxGuards = 32

func (a *API) reportGuards(w http.ResponseWriter, r *http.Request) {
	err := func() error {
		if err := a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActDeploy); err != nil {
			return err
		}
		var q client.GuardReport
		if err := readStrict(w, r, &q); err != nil {
			return err
		}
		if !clusterNameRE.MatchString(q.Cluster) || len(q.Guards) > maxGuards {
			return fault.Newf(fault.Invalid, "guards of cluster %.80q: want a cluster's name, and at most %d", q.Cluster, maxGuards)
		}
		if err := a.allow(r, identity.ActDeploy, identity.ResourceCluster, clusterResource(q.Cluster)); err != nil {
			return err
		}
		var seen []admission.Guard
		for _, g := range q.Guards {
			if !guardRE.MatchString(g.Kind) || !guardRE.MatchString(g.Name) || !fingerprintRE.MatchString(g.Fingerprint) {
				return fault.Newf(fault.Invalid, "guard %.60q %.60q: want a resource, a name and a SHA-256 in hex", g.Kind, g.Name)
			}
			seen = append(seen, admission.Guard(g))
		}
		return admission.SeeGuards(r.Context(), a.o.DB, q.Cluster, seen)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, struct{}{})
}

// maxRunning bounds the images of one answer.
const maxRunning = 10_000

func (a *API) runningImages(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	state := admission.State(q.Get("state"))
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	if err != nil && q.Get("cluster") != "" {
		err = a.allow(r, identity.ActReadEvidence, identity.ResourceCluster, clusterResource(q.Get("cluster")))
	}
	switch state {
	case "", admission.Allowed, admission.Denied, admission.Drifted, admission.Unknown:
	default:
		if err == nil {
			err = fault.Newf(fault.Invalid, "state %.40q: want allowed, denied, drifted or unknown", state)
		}
	}
	most := maxRunning
	if text := q.Get("limit"); text != "" && err == nil {
		if most, err = strconv.Atoi(text); err != nil || most < 1 || most > maxRunning {
			err = fault.Newf(fault.Invalid, "limit %.20q: want a number from 1 to %d", text, maxRunning)
		}
	}
	after, perr := runningPlace(q.Get("after"))
	if err == nil {
		err = perr
	}
	out := client.List[client.RunningImage]{Items: []client.RunningImage{}}
	if err == nil {
		err = a.o.DB.View(r.Context(), func(tx *store.Tx) error {
			list, err := admission.ListRunning(r.Context(), tx, q.Get("cluster"), state, after, most+1)
			out.Items, out.Next = out.Items[:0], ""
			if len(list) > most {
				list = list[:most]
				place := list[most-1].Place()
				out.Next = encodeCursor(strings.Join(place[:], "\x00"))
			}
			for _, x := range list {
				out.Items = append(out.Items, client.RunningImage{
					Cluster: x.Cluster, Namespace: x.Namespace, Image: x.Image, Digest: string(x.Digest), State: string(x.State), Cause: string(x.Cause), Reason: x.Reason, Decision: x.Decision, Since: x.Since.UTC().Format(time.RFC3339),
				})
			}
			return err
		})
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

// runningPlace reads a cursor. No part of a place has a control character.
func runningPlace(cursor string) (p admission.RunningPlace, err error) {
	if cursor == "" {
		return p, nil
	}
	text, ok := decodeCursor(cursor)
	parts := strings.Split(text, "\x00")
	if !ok || len(parts) != len(p) {
		return p, fault.Newf(fault.Invalid, "cursor %.80q is none that was given", cursor)
	}
	return admission.RunningPlace(parts), nil
}

func (a *API) runningSummary(w http.ResponseWriter, r *http.Request) {
	out := client.List[client.RunningTally]{Items: []client.RunningTally{}}
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	if err == nil {
		err = a.o.DB.View(r.Context(), func(tx *store.Tx) error {
			list, err := admission.TallyRunning(r.Context(), tx)
			for _, t := range list {
				out.Items = append(out.Items, client.RunningTally(t))
			}
			return err
		})
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}
