package api

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"assay/alert"
	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/slo"
)

func (a *API) watchRoutes() []Route {
	indicator := []Param{{"indicator", "its name; default: all"}, {"window", "up to now, as 1h or 720h; default 720h"}, {"by", "part by: team, service, environment, cluster, release, kind, type, cause, depth, feed"}, {"dimension", "of one part: its dimension"}, {"value", "and its value"}}
	read, act := identity.ActReadEvidence, identity.ActOperate
	return []Route{
		{Method: "GET", Path: "/api/v1/slo/indicators", Summary: "The site's indicators in a window, with their denominators and what is not known", Action: read, Query: indicator, Out: client.List[client.Indicator]{}, Status: 200, handle: a.indicators},
		{Method: "GET", Path: "/api/v1/slo/series", Summary: "One indicator over a window", Action: read, Query: indicator, Out: client.List[client.IndicatorPoint]{}, Status: 200, handle: a.indicatorSeries},
		{Method: "GET", Path: "/api/v1/slo/items", Summary: "The artifacts behind an indicator's number", Action: read, Query: []Param{{"indicator", "its name"}, {"limit", "at most 1000"}}, Out: client.List[client.IndicatorItem]{}, Status: 200, handle: a.indicatorItems},
		{Method: "GET", Path: "/api/v1/slo/status", Summary: "How each objective stands: its budget, and how fast that burns", Action: read, Out: client.List[client.Objective]{}, Status: 200, handle: a.objectives},
		{Method: "GET", Path: "/api/v1/alerts", Summary: "Alerts, newest first: the site's, or those of the services that are yours", Action: read,
			Query: []Param{{"state", "firing, acknowledged or resolved"}, {"severity", "page or ticket"}, {"rule", "its name"}, {"service", "of this service"}, {"team", "whose"}, {"group", "grp_…"}, {"digest", "about this artifact"}, {"unowned", "true: nobody's"}, {"all", "true: also those that are over"}, {"limit", "at most 1000"}},
			Out:   client.List[client.Alert]{}, Status: 200, handle: a.alerts},
		{Method: "GET", Path: "/api/v1/alert-groups", Summary: "What is wrong by group: alerts of one severity, service and release; pages first, then the newest", Action: read,
			Query: []Param{{"all", "true: also those that are over"}, {"limit", "at most 1000"}}, Out: client.List[client.AlertGroup]{}, Status: 200, handle: a.alertGroups},
		{Method: "GET", Path: "/api/v1/alert-rules", Summary: "When alerts are opened", Action: read, Out: client.List[client.AlertRule]{}, Status: 200, handle: a.alertRules},
		{Method: "GET", Path: "/api/v1/notices", Summary: "What receivers were told, newest first", Action: identity.ActReadAudit, Query: []Param{{"group", "grp_…; default: all"}}, Out: client.List[client.Notice]{}, Status: 200, handle: a.notices},
		{Method: "GET", Path: "/api/v1/alerts/{id}", Summary: "One alert", Action: read, Out: client.Alert{}, Status: 200, handle: a.alert},
		{Method: "POST", Path: "/api/v1/alerts/{id}/ack", Summary: "Say that somebody deals with an alert and its group; an operator of all of a service's repositories for alerts of that service", Action: act, In: client.AlertNote{}, Out: client.Alert{}, Status: 200, handle: a.acknowledge},
		{Method: "POST", Path: "/api/v1/alerts/{id}/resolve", Summary: "Say that an alert is over", Action: act, Out: client.Alert{}, Status: 200, handle: a.resolveAlert},
		{Method: "GET", Path: "/api/v1/silences", Summary: "Silences in force", Action: read, Query: []Param{{"all", "true: also those that ended within 30 days"}}, Out: client.List[client.Silence]{}, Status: 200, handle: a.silences},
		{Method: "POST", Path: "/api/v1/silences", Summary: "Keep notices back until an end; whoever asks owns it. An operator of all of a service's repositories names that service", Action: act, In: client.Silence{}, Out: client.Silence{}, Status: 201, handle: a.hush},
		{Method: "DELETE", Path: "/api/v1/silences/{id}", Summary: "End a silence before its time", Action: act, Out: client.Silence{}, Status: 200, handle: a.unhush},
		{Method: "GET", Path: "/api/v1/receivers", Summary: "Who is told of alerts", Action: identity.ActReadAudit, Out: client.List[client.Receiver]{}, Status: 200, handle: a.receivers},
		{Method: "POST", Path: "/api/v1/receivers/test", Summary: "Send a test to a receiver, and say how it went", Action: act, In: client.ReceiverTest{}, Out: client.Notice{}, Status: 200, handle: a.testReceiver},
	}
}

// mayWatch says whether who asks may do an action on what is watched: it is of
// the whole site.
func (a *API) mayWatch(r *http.Request, act identity.Action) error {
	switch act {
	case identity.ActOperate:
		return a.allow(r, act, identity.ResourceConfig, "")
	case identity.ActReadAudit:
		return a.allow(r, act, identity.ResourceAudit, "")
	}
	return a.allow(r, act, identity.ResourceEvidence, "")
}

// listed answers a list that a question makes, to those who may.
func listed[T, W any](a *API, w http.ResponseWriter, r *http.Request, act identity.Action, ask func() ([]T, error), wire func(*T) W) {
	out := client.List[W]{Items: []W{}}
	err := a.mayWatch(r, act)
	if err == nil {
		var all []T
		all, err = ask()
		for i := range all {
			out.Items = append(out.Items, wire(&all[i]))
		}
	}
	a.answer(w, r, http.StatusOK, out, err)
}

func window(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("window")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fault.Newf(fault.Invalid, "window %.40q: want a time as 1h or 720h", text)
	}
	return d, nil
}

func (a *API) indicators(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadEvidence, func() ([]slo.Indicator, error) {
		v := r.URL.Query()
		d, err := window(r)
		if err != nil {
			return nil, err
		}
		q := slo.Query{Window: d, By: v.Get("by"), Dimension: v.Get("dimension"), Value: v.Get("value")}
		if id := v.Get("indicator"); id != "" {
			q.IDs = []slo.ID{slo.ID(id)}
		}
		return a.o.Indicators.Indicators(r.Context(), q)
	}, wireIndicator)
}

func wireIndicator(i *slo.Indicator) client.Indicator {
	out := client.Indicator{
		ID: string(i.ID), Metric: i.Metric, Name: i.Name, Unit: string(i.Unit), Counts: i.Definition.Numerator, Of: i.Definition.Denominator, Known: i.Known, Value: i.Value,
		Numerator: i.Numerator, Denominator: i.Denominator, Bad: i.Bad, Unknown: i.Unknown, From: i.From, To: i.To,
	}
	for _, p := range i.By {
		out.By = append(out.By, client.IndicatorPart{Dimension: p.Dimension, Of: p.Value, Known: p.Known, Number: p.Number, Numerator: p.Numerator, Denominator: p.Denominator, Bad: p.Bad, Unknown: p.Unknown})
	}
	return out
}

func (a *API) indicatorSeries(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadEvidence, func() ([]slo.Point, error) {
		v := r.URL.Query()
		d, err := window(r)
		if err != nil {
			return nil, err
		}
		if d == 0 {
			d = slo.DefaultWindow
		}
		now := a.o.Clock()
		return a.o.Indicators.Series(r.Context(), slo.ID(v.Get("indicator")), slo.SeriesQuery{Dimension: v.Get("dimension"), Value: v.Get("value"), From: now.Add(-d), To: now})
	}, func(p *slo.Point) client.IndicatorPoint {
		return client.IndicatorPoint{Start: p.Start, Known: p.Known, Value: p.Value, Denominator: p.Denominator, Bad: p.Bad, Unknown: p.Unknown}
	})
}

func (a *API) indicatorItems(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadEvidence, func() ([]slo.Item, error) {
		n, err := limit(r)
		if err != nil {
			return nil, err
		}
		return a.o.Indicators.Items(r.Context(), slo.ID(r.URL.Query().Get("indicator")), n)
	}, func(x *slo.Item) client.IndicatorItem {
		return client.IndicatorItem{Digest: string(x.Digest), Reason: x.Reason, Unknown: x.Unknown, Team: x.Place.Team, Service: x.Place.Service, Environment: x.Place.Environment, Cluster: x.Place.Cluster, Release: x.Place.Release, Event: x.Event, Since: x.Since}
	})
}

func (a *API) objectives(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadEvidence, func() ([]slo.Status, error) { return a.o.Indicators.Status(r.Context(), time.Time{}) }, func(s *slo.Status) client.Objective {
		out := client.Objective{Indicator: string(s.Definition.ID), Name: s.Definition.Name, Unit: string(s.Definition.Unit), Want: s.Want(), WindowDays: s.Window.Hours() / 24, State: string(s.State), Reason: s.Reason, Budget: s.Budget, LastsDays: s.Lasts.Hours() / 24, Now: wireIndicator(&s.Indicator)}
		for _, b := range s.BurnRates {
			out.Burns = append(out.Burns, client.ObjectiveBurn{Window: b.Long.String(), Short: b.Short.String(), Rate: b.LongRate, ShortRate: b.ShortRate, Threshold: b.Threshold, Page: b.Page, Quiet: b.Quiet, Alerting: b.Alerting})
		}
		return out
	})
}

func (a *API) alerts(w http.ResponseWriter, r *http.Request) {
	listedWithin(a, w, r, func(reach alert.Reach) ([]alert.Alert, error) {
		v := r.URL.Query()
		f := alert.Filter{State: alert.State(v.Get("state")), Severity: alert.Severity(v.Get("severity")), Rule: v.Get("rule"), Service: v.Get("service"), Team: v.Get("team"), Group: v.Get("group")}
		var err error
		if f.All, err = flag(r, "all"); err != nil {
			return nil, err
		}
		if f.Unowned, err = flag(r, "unowned"); err != nil {
			return nil, err
		}
		if f.Limit, err = limit(r); err != nil {
			return nil, err
		}
		switch f.State {
		case "", alert.Firing, alert.Acknowledged, alert.Resolved:
		default:
			return nil, fault.Newf(fault.Invalid, "state %.40q: want firing, acknowledged or resolved", f.State)
		}
		if d := v.Get("digest"); d != "" {
			if f.Artifact, err = artifact.ParseDigest(d); err != nil {
				return nil, err
			}
		}
		reach.Narrow(&f)
		return a.o.Alerts.List(r.Context(), f)
	}, wireAlert)
}

func wireAlert(x *alert.Alert) client.Alert {
	return client.Alert{
		ID: x.ID, Rule: x.Rule, Severity: string(x.Severity), State: string(x.State), Fingerprint: x.Fingerprint, Group: x.Group, Title: x.Title, Summary: x.Summary, Service: x.Service, Team: x.Team, Owned: x.Owned,
		Environment: x.Environment, Cluster: x.Cluster, Release: x.Release, Artifact: string(x.Artifact), About: x.About, Since: x.Since, Last: x.Last, Count: x.Count,
		Acknowledged: when(x.Acknowledged), AcknowledgedBy: x.AcknowledgedBy, Note: x.Note, Escalated: x.Escalated, Resolved: when(x.Resolved), ResolvedBy: x.ResolvedBy, Silence: x.Silenced,
		Runbook: x.Runbook, Command: x.Command, Evidence: x.Evidence,
	}
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (a *API) alertGroups(w http.ResponseWriter, r *http.Request) {
	listedWithin(a, w, r, func(reach alert.Reach) ([]alert.Group, error) {
		all, err := flag(r, "all")
		if err != nil {
			return nil, err
		}
		n, err := limit(r)
		if err != nil {
			return nil, err
		}
		f := alert.GroupFilter{All: all, Limit: n}
		if !reach.Site {
			f.Services = reach.Services
		}
		return a.o.Alerts.Groups(r.Context(), f)
	}, func(g *alert.Group) client.AlertGroup {
		out := client.AlertGroup{ID: g.ID, Severity: string(g.Severity), Service: g.Service, Release: g.Release, Team: g.Team, Owned: g.Owned, Opened: g.Opened, Resolved: when(g.Resolved), Total: g.Total, Open: g.Firing, Waiting: g.Waiting}
		if len(g.Alerts) > 0 {
			out.Newest = wireAlert(&g.Alerts[0])
		}
		return out
	})
}

func (a *API) alertRules(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadEvidence, func() ([]alert.Rule, error) { return alert.Rules(), nil }, func(x *alert.Rule) client.AlertRule {
		return client.AlertRule{ID: x.ID, Severity: string(x.Severity), Title: x.Title, Why: x.Why, Several: x.Several, Runbook: x.Runbook(), Command: x.Command}
	})
}

func (a *API) notices(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadAudit, func() ([]alert.Delivery, error) {
		return a.o.Alerts.Deliveries(r.Context(), r.URL.Query().Get("group"), maxPage)
	}, wireNotice)
}

func wireNotice(d *alert.Delivery) client.Notice {
	return client.Notice{ID: d.ID, Group: d.Group, Occasion: d.Occasion, Receiver: d.Receiver, Created: d.Created, Due: d.Due, Attempts: d.Attempts, Taken: when(d.Taken), GivenUp: d.GivenUp, Problem: d.Problem, Ref: d.Ref}
}

// reach says which alerts are whose who asks.
func (a *API) reach(r *http.Request, act identity.Action) (alert.Reach, error) {
	return a.o.Alerts.Reach(r.Context(), a.o.Access, identity.FromContext(r.Context()), act)
}

// listedWithin answers a list of what is within reach of who asks.
func listedWithin[T, W any](a *API, w http.ResponseWriter, r *http.Request, ask func(alert.Reach) ([]T, error), wire func(*T) W) {
	out := client.List[W]{Items: []W{}}
	reach, err := a.reach(r, identity.ActReadEvidence)
	if err == nil {
		var all []T
		all, err = ask(reach)
		for i := range all {
			out.Items = append(out.Items, wire(&all[i]))
		}
	}
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) alert(w http.ResponseWriter, r *http.Request) {
	x, err := a.readAlert(r)
	a.answer(w, r, http.StatusOK, wireAlert(&x), err)
}

// readAlert gives an alert to who may read it. To others there is none: they learn
// nothing of what is wrong elsewhere.
func (a *API) readAlert(r *http.Request) (x alert.Alert, err error) {
	reach, err := a.reach(r, identity.ActReadEvidence)
	if err != nil {
		return x, err
	}
	id := r.PathValue("id")
	if x, err = a.o.Alerts.Get(r.Context(), id); err != nil {
		return x, err
	}
	if !reach.Holds(x.Service) {
		return alert.Alert{}, fault.Newf(fault.NotFound, "no alert of yours is %.80s: see assay alert list --all", id)
	}
	return x, nil
}

func (a *API) acknowledge(w http.ResponseWriter, r *http.Request) {
	out, err := func() (x alert.Alert, err error) {
		reach, err := a.reach(r, identity.ActOperate)
		if err != nil {
			return x, err
		}
		if x, err = a.readAlert(r); err != nil {
			return x, err
		}
		if err := reach.Check("alert "+x.ID, x.Service); err != nil {
			return x, err
		}
		var q client.AlertNote
		if err := request(w, r, &q); err != nil {
			return x, err
		}
		return a.o.Alerts.Acknowledge(r.Context(), x.ID, identity.FromContext(r.Context()).Actor(), q.Note)
	}()
	a.answer(w, r, http.StatusOK, wireAlert(&out), err)
}

// resolveAlert is the site's alone: it ends also what nothing but a look at the
// thing itself could end.
func (a *API) resolveAlert(w http.ResponseWriter, r *http.Request) {
	out, err := func() (alert.Alert, error) {
		if err := a.mayWatch(r, identity.ActOperate); err != nil {
			return alert.Alert{}, err
		}
		return a.o.Alerts.Resolve(r.Context(), r.PathValue("id"), identity.FromContext(r.Context()).Actor())
	}()
	a.answer(w, r, http.StatusOK, wireAlert(&out), err)
}

func (a *API) silences(w http.ResponseWriter, r *http.Request) {
	listedWithin(a, w, r, func(reach alert.Reach) ([]alert.Silence, error) {
		all, err := flag(r, "all")
		if err != nil {
			return nil, err
		}
		list, err := a.o.Alerts.Silences(r.Context(), all)
		return slices.DeleteFunc(list, func(s alert.Silence) bool { return !reach.Holds(s.Service) }), err
	}, wireSilence)
}

func wireSilence(s *alert.Silence) client.Silence {
	return client.Silence{ID: s.ID, Rule: s.Rule, Severity: string(s.Severity), Service: s.Service, Team: s.Team, Cluster: s.Cluster, Artifact: string(s.Artifact), Owner: s.Owner, Reason: s.Reason, Made: when(s.Made), Expires: s.Expires, Ended: when(s.Ended)}
}

func (a *API) hush(w http.ResponseWriter, r *http.Request) {
	out, err := func() (s alert.Silence, err error) {
		reach, err := a.reach(r, identity.ActOperate)
		if err != nil {
			return s, err
		}
		var q client.Silence
		if err := request(w, r, &q); err != nil {
			return s, err
		}
		if q.Service == "" && !reach.Site {
			return s, fault.Newf(fault.Denied, "a silence that names no service keeps alerts of the whole site back: name a service of yours, or ask an operator of the site")
		}
		if err := reach.Check("what it would silence", q.Service); err != nil {
			return s, err
		}
		if q.ID != "" || q.Owner != "" || q.Made != nil || q.Ended != nil {
			return s, fault.Newf(fault.Invalid, "id, owner, made and ended of a silence are the server's to say")
		}
		return a.o.Alerts.Hush(r.Context(), alert.Silence{Rule: q.Rule, Severity: alert.Severity(q.Severity), Service: q.Service, Team: q.Team, Cluster: q.Cluster, Artifact: artifact.Digest(q.Artifact), Owner: identity.FromContext(r.Context()).Actor(), Reason: q.Reason, Expires: q.Expires})
	}()
	a.answer(w, r, http.StatusCreated, wireSilence(&out), err)
}

func (a *API) unhush(w http.ResponseWriter, r *http.Request) {
	out, err := func() (alert.Silence, error) {
		reach, err := a.reach(r, identity.ActOperate)
		if err != nil {
			return alert.Silence{}, err
		}
		return a.o.Alerts.Unhush(r.Context(), r.PathValue("id"), identity.FromContext(r.Context()).Actor(), &reach)
	}()
	a.answer(w, r, http.StatusOK, wireSilence(&out), err)
}

func (a *API) receivers(w http.ResponseWriter, r *http.Request) {
	listed(a, w, r, identity.ActReadAudit, func() ([]*alert.Receiver, error) { return a.o.Alerts.Receivers(), nil }, func(x **alert.Receiver) client.Receiver {
		out := client.Receiver{Name: (*x).Name, Type: (*x).Type, Teams: (*x).Teams, Default: (*x).Default, Escalation: (*x).Escalation}
		for _, s := range (*x).Severities {
			out.Severities = append(out.Severities, string(s))
		}
		return out
	})
}

func (a *API) testReceiver(w http.ResponseWriter, r *http.Request) {
	out, err := func() (d alert.Delivery, err error) {
		if err := a.mayWatch(r, identity.ActOperate); err != nil {
			return d, err
		}
		var q client.ReceiverTest
		if err := request(w, r, &q); err != nil {
			return d, err
		}
		d, err = a.o.Alerts.Test(r.Context(), q.Receiver, identity.FromContext(r.Context()).Actor())
		if err != nil && d.ID != "" {
			d.Problem, d.GivenUp = fmt.Sprint(err), true // the answer is how the test went
			return d, nil
		}
		return d, err
	}()
	a.answer(w, r, http.StatusOK, wireNotice(&out), err)
}
