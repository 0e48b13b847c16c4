package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Indicator is a measured number: GET /api/v1/slo/indicators.
type Indicator struct {
	ID          string          `json:"id"`
	Metric      string          `json:"metric,omitempty"` // M1 to M8
	Name        string          `json:"name"`
	Unit        string          `json:"unit"` // ratio, seconds, count, level or score
	Of          string          `json:"of"`   // the denominator, in words
	Counts      string          `json:"counts"`
	Known       bool            `json:"known"` // anything was counted
	Value       float64         `json:"value"`
	Numerator   float64         `json:"numerator"`
	Denominator float64         `json:"denominator"`
	Bad         float64         `json:"bad"`
	Unknown     float64         `json:"unknown"`
	From        time.Time       `json:"from"`
	To          time.Time       `json:"to"`
	By          []IndicatorPart `json:"by,omitempty"`
}

// IndicatorPart is an indicator of one part of the site.
type IndicatorPart struct {
	Dimension   string  `json:"dimension"`
	Of          string  `json:"value"`
	Known       bool    `json:"known"`
	Number      float64 `json:"number"`
	Numerator   float64 `json:"numerator"`
	Denominator float64 `json:"denominator"`
	Bad         float64 `json:"bad"`
	Unknown     float64 `json:"unknown"`
}

// IndicatorPoint is an indicator in one step of time.
type IndicatorPoint struct {
	Start       time.Time `json:"start"`
	Known       bool      `json:"known"`
	Value       float64   `json:"value"`
	Denominator float64   `json:"denominator"`
	Bad         float64   `json:"bad"`
	Unknown     float64   `json:"unknown"`
}

// IndicatorItem is an artifact behind an indicator's number.
type IndicatorItem struct {
	Digest      string    `json:"digest,omitempty"`
	Reason      string    `json:"reason"`
	Unknown     bool      `json:"unknown"` // not known to be bad: not known
	Team        string    `json:"team,omitempty"`
	Service     string    `json:"service,omitempty"`
	Environment string    `json:"environment,omitempty"`
	Cluster     string    `json:"cluster,omitempty"`
	Release     string    `json:"release,omitempty"`
	Event       string    `json:"event,omitempty"`
	Since       time.Time `json:"since"`
}

// Objective is how an objective stands: GET /api/v1/slo/status.
type Objective struct {
	Indicator  string          `json:"indicator"`
	Name       string          `json:"name"`
	Unit       string          `json:"unit"`
	Want       string          `json:"want"`
	WindowDays float64         `json:"window_days"`
	State      string          `json:"state"` // ok, slow, fast, exhausted, no data
	Reason     string          `json:"reason,omitempty"`
	Budget     float64         `json:"budget"`               // what is left: 1 all, below 0 overspent
	LastsDays  float64         `json:"lasts_days,omitempty"` // until it is spent, as it burnt in the last day; absent: spent, or nothing burns
	Now        Indicator       `json:"now"`
	Burns      []ObjectiveBurn `json:"burns,omitempty"`
}

// ObjectiveBurn is how fast a budget burns in a pair of windows.
type ObjectiveBurn struct {
	Window    string  `json:"window"`
	Short     string  `json:"short_window"`
	Rate      float64 `json:"rate"`
	ShortRate float64 `json:"short_rate"`
	Threshold float64 `json:"threshold"`
	Page      bool    `json:"page"`
	Quiet     bool    `json:"quiet"` // too little was counted
	Alerting  bool    `json:"alerting"`
}

// IndicatorQuery says which indicators are asked for.
type IndicatorQuery struct {
	ID               string // "": all
	Window           time.Duration
	By               string
	Dimension, Value string
}

func (q *IndicatorQuery) values() url.Values {
	v := url.Values{}
	for k, s := range map[string]string{"indicator": q.ID, "by": q.By, "dimension": q.Dimension, "value": q.Value} {
		if s != "" {
			v.Set(k, s)
		}
	}
	if q.Window != 0 {
		v.Set("window", q.Window.String())
	}
	return v
}

// Indicators gives the site's numbers.
func (c *Client) Indicators(ctx context.Context, q IndicatorQuery) ([]Indicator, error) {
	var out List[Indicator]
	err := c.call(ctx, http.MethodGet, "/api/v1/slo/indicators", q.values(), nil, &out)
	return out.Items, err
}

// IndicatorSeries gives an indicator over a window.
func (c *Client) IndicatorSeries(ctx context.Context, q IndicatorQuery) ([]IndicatorPoint, error) {
	var out List[IndicatorPoint]
	err := c.call(ctx, http.MethodGet, "/api/v1/slo/series", q.values(), nil, &out)
	return out.Items, err
}

// IndicatorItems gives the artifacts behind an indicator's number.
func (c *Client) IndicatorItems(ctx context.Context, id string, limit int) ([]IndicatorItem, error) {
	var out List[IndicatorItem]
	err := c.call(ctx, http.MethodGet, "/api/v1/slo/items", url.Values{"indicator": {id}, "limit": {strconv.Itoa(limit)}}, nil, &out)
	return out.Items, err
}

// Objectives gives how each objective stands.
func (c *Client) Objectives(ctx context.Context) ([]Objective, error) {
	var out List[Objective]
	err := c.call(ctx, http.MethodGet, "/api/v1/slo/status", nil, nil, &out)
	return out.Items, err
}

// Alert is something that is wrong: GET /api/v1/alerts.
type Alert struct {
	ID             string     `json:"id"`
	Rule           string     `json:"rule"`
	Severity       string     `json:"severity"` // page or ticket
	State          string     `json:"state"`    // firing, acknowledged or resolved
	Fingerprint    string     `json:"fingerprint"`
	Group          string     `json:"group"`
	Title          string     `json:"title"`
	Summary        string     `json:"summary,omitempty"`
	Service        string     `json:"service,omitempty"`
	Team           string     `json:"team,omitempty"`
	Owned          bool       `json:"owned"`
	Environment    string     `json:"environment,omitempty"`
	Cluster        string     `json:"cluster,omitempty"`
	Release        string     `json:"release,omitempty"`
	Artifact       string     `json:"artifact,omitempty"`
	About          string     `json:"about,omitempty"`
	Since          time.Time  `json:"since"`
	Last           time.Time  `json:"last"`
	Count          int64      `json:"count"`
	Acknowledged   *time.Time `json:"acknowledged,omitempty"`
	AcknowledgedBy string     `json:"acknowledged_by,omitempty"`
	Note           string     `json:"note,omitempty"`
	Escalated      int        `json:"escalated,omitempty"`
	Resolved       *time.Time `json:"resolved,omitempty"`
	ResolvedBy     string     `json:"resolved_by,omitempty"`
	Silence        string     `json:"silence,omitempty"`
	Runbook        string     `json:"runbook"`
	Command        string     `json:"command"`
	Evidence       []string   `json:"evidence,omitempty"`
}

// AlertQuery says which alerts are asked for.
type AlertQuery struct {
	State, Severity, Rule, Service, Team, Group, Digest string
	All                                                 bool
	Unowned                                             bool
	Limit                                               int
}

// AlertGroup is what a person deals with at once: GET /api/v1/alert-groups.
type AlertGroup struct {
	ID       string     `json:"id"`
	Severity string     `json:"severity"`
	Service  string     `json:"service,omitempty"`
	Release  string     `json:"release,omitempty"`
	Team     string     `json:"team,omitempty"`
	Owned    bool       `json:"owned"`
	Opened   time.Time  `json:"opened"`
	Resolved *time.Time `json:"resolved,omitempty"`
	Total    int        `json:"total"`   // alerts in it
	Open     int        `json:"open"`    // of these, not over
	Waiting  int        `json:"waiting"` // of these, acknowledged by nobody
	Newest   Alert      `json:"newest"`
}

// AlertNote is what is said of an alert: POST /api/v1/alerts/{id}/ack.
type AlertNote struct {
	Note string `json:"note,omitempty"`
}

// Silence keeps notices back: GET and POST /api/v1/silences.
type Silence struct {
	ID       string     `json:"id,omitempty"`
	Rule     string     `json:"rule,omitempty"`
	Severity string     `json:"severity,omitempty"`
	Service  string     `json:"service,omitempty"`
	Team     string     `json:"team,omitempty"`
	Cluster  string     `json:"cluster,omitempty"`
	Artifact string     `json:"artifact,omitempty"`
	Owner    string     `json:"owner,omitempty"` // who asked for it
	Reason   string     `json:"reason"`
	Made     *time.Time `json:"made,omitempty"`
	Expires  time.Time  `json:"expires"`
	Ended    *time.Time `json:"ended,omitempty"`
}

// AlertRule is when an alert is opened: GET /api/v1/alert-rules.
type AlertRule struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Title    string `json:"title"`
	Why      string `json:"why"`
	Several  int    `json:"several,omitempty"`
	Runbook  string `json:"runbook"`
	Command  string `json:"command"`
}

// Receiver is who is told of alerts: GET /api/v1/receivers.
type Receiver struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Severities []string `json:"severities"`
	Teams      []string `json:"teams,omitempty"`
	Default    bool     `json:"default"`
	Escalation bool     `json:"escalation"`
}

// Notice is what a receiver was told, or is to be: GET /api/v1/notices.
type Notice struct {
	ID       string     `json:"id"`
	Group    string     `json:"group"`
	Occasion string     `json:"occasion"`
	Receiver string     `json:"receiver"`
	Created  time.Time  `json:"created"`
	Due      time.Time  `json:"due"`
	Attempts int        `json:"attempts"`
	Taken    *time.Time `json:"taken,omitempty"`
	GivenUp  bool       `json:"given_up"`
	Problem  string     `json:"problem,omitempty"`
	Ref      string     `json:"ref,omitempty"` // what the receiver called it
}

// ReceiverTest names a receiver: POST /api/v1/receivers/test.
type ReceiverTest struct {
	Receiver string `json:"receiver"`
}

// Alerts lists alerts, the newest first.
func (c *Client) Alerts(ctx context.Context, q AlertQuery) ([]Alert, error) {
	v := url.Values{}
	for k, s := range map[string]string{"state": q.State, "severity": q.Severity, "rule": q.Rule, "service": q.Service, "team": q.Team, "group": q.Group, "digest": q.Digest} {
		if s != "" {
			v.Set(k, s)
		}
	}
	for k, b := range map[string]bool{"all": q.All, "unowned": q.Unowned} {
		if b {
			v.Set(k, "true")
		}
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	var out List[Alert]
	err := c.call(ctx, http.MethodGet, "/api/v1/alerts", v, nil, &out)
	return out.Items, err
}

// AlertGroups lists alerts by group, pages first.
func (c *Client) AlertGroups(ctx context.Context, all bool, limit int) ([]AlertGroup, error) {
	v := url.Values{"all": {strconv.FormatBool(all)}}
	if limit != 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	var out List[AlertGroup]
	err := c.call(ctx, http.MethodGet, "/api/v1/alert-groups", v, nil, &out)
	return out.Items, err
}

// Alert gives one alert.
func (c *Client) Alert(ctx context.Context, id string) (*Alert, error) {
	var out Alert
	err := c.call(ctx, http.MethodGet, "/api/v1/alerts/"+url.PathEscape(id), nil, nil, &out)
	return &out, err
}

// Acknowledge says that somebody deals with an alert and its group.
func (c *Client) Acknowledge(ctx context.Context, id string, n AlertNote) (*Alert, error) {
	var out Alert
	err := c.call(ctx, http.MethodPost, "/api/v1/alerts/"+url.PathEscape(id)+"/ack", nil, n, &out)
	return &out, err
}

// ResolveAlert says that an alert is over.
func (c *Client) ResolveAlert(ctx context.Context, id string) (*Alert, error) {
	var out Alert
	err := c.call(ctx, http.MethodPost, "/api/v1/alerts/"+url.PathEscape(id)+"/resolve", nil, nil, &out)
	return &out, err
}

// AlertRules lists the rules.
func (c *Client) AlertRules(ctx context.Context) ([]AlertRule, error) {
	var out List[AlertRule]
	err := c.call(ctx, http.MethodGet, "/api/v1/alert-rules", nil, nil, &out)
	return out.Items, err
}

// Notices lists what receivers were told, the newest first; group "": of all.
func (c *Client) Notices(ctx context.Context, group string) ([]Notice, error) {
	v := url.Values{}
	if group != "" {
		v.Set("group", group)
	}
	var out List[Notice]
	err := c.call(ctx, http.MethodGet, "/api/v1/notices", v, nil, &out)
	return out.Items, err
}

// Silences lists those in force; all: ended ones too.
func (c *Client) Silences(ctx context.Context, all bool) ([]Silence, error) {
	var out List[Silence]
	err := c.call(ctx, http.MethodGet, "/api/v1/silences", url.Values{"all": {strconv.FormatBool(all)}}, nil, &out)
	return out.Items, err
}

// Silence makes a silence.
func (c *Client) Silence(ctx context.Context, s Silence) (*Silence, error) {
	var out Silence
	err := c.call(ctx, http.MethodPost, "/api/v1/silences", nil, s, &out)
	return &out, err
}

// EndSilence ends a silence before its time.
func (c *Client) EndSilence(ctx context.Context, id string) (*Silence, error) {
	var out Silence
	err := c.call(ctx, http.MethodDelete, "/api/v1/silences/"+url.PathEscape(id), nil, nil, &out)
	return &out, err
}

// Receivers lists who is told of alerts.
func (c *Client) Receivers(ctx context.Context) ([]Receiver, error) {
	var out List[Receiver]
	err := c.call(ctx, http.MethodGet, "/api/v1/receivers", nil, nil, &out)
	return out.Items, err
}

// TestReceiver sends a test to a receiver.
func (c *Client) TestReceiver(ctx context.Context, name string) (*Notice, error) {
	var out Notice
	err := c.call(ctx, http.MethodPost, "/api/v1/receivers/test", nil, ReceiverTest{name}, &out)
	return &out, err
}
