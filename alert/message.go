package alert

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/webhook"
)

// message is a notice on its way to one receiver.
type message struct {
	s           *Store
	r           *Receiver
	n           *Notice
	key         string // the same for every attempt
	title, text string
	secret      string
	ref         string // what the receiver called the group before
}

func (m *message) send(ctx context.Context) (ref string, err error) {
	switch m.r.Type {
	case TypeWebhook:
		_, err = m.call(ctx, http.MethodPost, m.r.URL, m.document(), nil)
	case TypeSlack:
		err = m.slack(ctx)
	case TypePagerDuty:
		err = m.pagerDuty(ctx)
	case TypeAlertmanager:
		err = m.alertmanager(ctx)
	case TypeEmail:
		err = m.email(ctx)
	case TypeGitHub:
		return m.github(ctx)
	case TypeGitLab:
		return m.gitlab(ctx)
	case TypeJira:
		return m.jira(ctx)
	}
	return "", err
}

func sign(h http.Header, secret, id string, body []byte) {
	at := strconv.FormatInt(time.Now().Unix(), 10)
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", at)
	h.Set("webhook-signature", "v1,"+webhook.Sign([]byte(secret), id, at, body))
}

// document is what a webhook gets.
func (m *message) document() map[string]any {
	g := &m.n.Group
	alerts := make([]map[string]any, 0, len(g.Alerts))
	for i := range g.Alerts {
		a := &g.Alerts[i]
		alerts = append(alerts, map[string]any{
			"id": a.ID, "rule": a.Rule, "state": string(a.State), "fingerprint": a.Fingerprint, "title": a.Title, "summary": a.Summary, "artifact": string(a.Artifact), "about": a.About,
			"count": a.Count, "since": a.Since.Format(time.RFC3339), "last": a.Last.Format(time.RFC3339), "runbook": m.n.Site + "/ui/docs/" + a.Runbook, "command": a.Command, "evidence": a.Evidence,
		})
	}
	return map[string]any{
		"id": m.key, "occasion": m.n.Occasion, "test": m.n.Test, "group": g.ID, "severity": string(g.Severity), "service": g.Service, "release": g.Release, "team": g.Team, "owned": g.Owned,
		"opened": g.Opened.Format(time.RFC3339), "total": g.Total, "firing": g.Firing, "title": m.title, "text": m.text, "url": m.n.URL, "alerts": alerts,
	}
}

// slack posts to an incoming webhook. Slack's three control characters are
// escaped (Slack, "Formatting text for app surfaces"), so that no artifact's name
// makes a link or calls a channel.
func (m *message) slack(ctx context.Context) error {
	esc := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	to := m.r.URL
	if to == "" {
		to = m.secret
		u, err := url.Parse(to)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !m.r.AllowPrivate) {
			return fault.Newf(fault.Invalid, "the secret of a Slack receiver is no https address")
		}
	}
	_, err := m.call(ctx, http.MethodPost, to, map[string]any{
		"text": esc.Replace(m.title),
		"blocks": []any{
			map[string]any{"type": "header", "text": map[string]any{"type": "plain_text", "text": excerpt.Text(m.title, 150)}},
			map[string]any{"type": "section", "text": map[string]any{"type": "mrkdwn", "text": excerpt.Text(esc.Replace(m.text), 2900)}},
		},
	}, nil)
	return err
}

// pagerDuty sends an event of the Events API v2: a group is an incident, by its
// dedup_key.
func (m *message) pagerDuty(ctx context.Context) error {
	g := &m.n.Group
	action, severity := "trigger", "critical"
	if m.n.Over() {
		action = "resolve"
	}
	if g.Severity == Ticket {
		severity = "warning"
	}
	body := map[string]any{"routing_key": m.secret, "event_action": action, "dedup_key": g.ID}
	if action == "trigger" {
		body["payload"] = map[string]any{
			"summary": excerpt.Text(m.title, 1024), "source": or(g.Service, m.n.Site), "severity": severity, "timestamp": g.Opened.Format(time.RFC3339),
			"component": g.Release, "group": g.Team, "class": strings.Join(m.n.Rules, ","), "custom_details": map[string]any{"text": m.text, "alerts": g.Total, "command": m.n.First.Command},
		}
		body["client"], body["client_url"] = "Assay", m.n.URL
		body["links"] = []any{map[string]any{"href": m.n.Site + "/ui/docs/" + m.n.First.Runbook, "text": "Runbook"}}
	}
	_, err := m.call(ctx, http.MethodPost, m.r.URL, body, nil)
	return err
}

// alertmanager posts to its API v2. An alert without an end would end by itself
// after five minutes there, so it gets one far off: its end is told.
func (m *message) alertmanager(ctx context.Context) error {
	g := &m.n.Group
	ends := m.n.At.Add(30 * 24 * time.Hour)
	if m.n.Over() {
		ends = m.n.At
	}
	var list []any
	seen := map[string]bool{}
	for i := range g.Alerts {
		a := &g.Alerts[i]
		if seen[a.Rule] { // one for each rule: its labels tell no artifacts apart
			continue
		}
		seen[a.Rule] = true
		labels := map[string]string{"alertname": a.Rule, "severity": string(g.Severity), "group": g.ID, "source": "assay"}
		for k, v := range map[string]string{"service": g.Service, "team": g.Team, "release": g.Release, "cluster": a.Cluster, "environment": a.Environment} {
			if v != "" {
				labels[k] = v
			}
		}
		end := ends
		if a.State == Resolved && !m.n.Over() {
			end = a.Resolved
		}
		list = append(list, map[string]any{
			"labels": labels, "startsAt": a.Since.Format(time.RFC3339), "endsAt": end.Format(time.RFC3339), "generatorURL": m.n.URL,
			"annotations": map[string]string{"summary": m.title, "description": m.text, "runbook_url": m.n.Site + "/ui/docs/" + a.Runbook, "command": a.Command},
		})
	}
	set := func(http.Header) {}
	if m.secret != "" {
		set = func(h http.Header) { h.Set("Authorization", "Bearer "+m.secret) }
	}
	_, err := m.call(ctx, http.MethodPost, strings.TrimSuffix(m.r.URL, "/")+"/api/v2/alerts", list, set)
	return err
}

// markdown is the text as GitHub and GitLab take it. Names in it are anybody's: in a
// block of code they call no people, load no pictures and are no commands (GitLab's
// quick actions). A template of the site's own is given as it is.
func (m *message) markdown(title string) string { return m.block(title, "```", "```text") }

// wiki is the text as Jira takes it.
func (m *message) wiki(title string) string { return m.block(title, "{noformat}", "{noformat}") }

func (m *message) block(title, end, begin string) string {
	text := strings.TrimSpace(title + "\n\n" + m.text)
	if m.r.Text != "" || m.r.Title != "" && title != "" {
		return text
	}
	return begin + "\n" + strings.ReplaceAll(text, end, strings.Repeat("'", len(end))) + "\n" + end + "\n" + m.n.URL
}

// marker finds an issue of a group again, when the answer to its making was lost.
func (m *message) marker() string { return "assay-" + m.n.Group.ID }

func (m *message) labels() []string {
	if m.r.Labels == nil {
		return []string{"assay"}
	}
	return m.r.Labels
}

// github makes an issue, comments on it, and closes it (REST API 2022-11-28).
func (m *message) github(ctx context.Context) (string, error) {
	base := strings.TrimSuffix(m.r.URL, "/") + "/repos/" + m.r.Project + "/issues"
	set := func(h http.Header) {
		h.Set("Authorization", "Bearer "+m.secret)
		h.Set("Accept", "application/vnd.github+json")
		h.Set("X-GitHub-Api-Version", "2022-11-28")
	}
	if m.ref == "" && m.n.Over() {
		return "", nil
	}
	if m.ref == "" {
		var made struct {
			Number int64 `json:"number"`
		}
		err := m.made(ctx, base, map[string]any{"title": m.title, "body": m.markdown("") + "\n\n" + m.marker(), "labels": m.labels()}, set, &made)
		return strconv.FormatInt(made.Number, 10), err
	}
	one := base + "/" + url.PathEscape(m.ref)
	if _, err := m.call(ctx, http.MethodPost, one+"/comments", map[string]any{"body": m.markdown(m.title)}, set); err != nil || !m.n.Over() {
		return m.ref, err
	}
	_, err := m.call(ctx, http.MethodPatch, one, map[string]any{"state": "closed", "state_reason": "completed"}, set)
	return m.ref, err
}

// gitlab does the same by GitLab's REST API v4.
func (m *message) gitlab(ctx context.Context) (string, error) {
	base := strings.TrimSuffix(m.r.URL, "/") + "/api/v4/projects/" + url.PathEscape(m.r.Project) + "/issues"
	set := func(h http.Header) { h.Set("PRIVATE-TOKEN", m.secret) }
	if m.ref == "" && m.n.Over() {
		return "", nil
	}
	if m.ref == "" {
		var made struct {
			IID int64 `json:"iid"`
		}
		err := m.made(ctx, base, map[string]any{"title": m.title, "description": m.markdown("") + "\n\n" + m.marker(), "labels": strings.Join(m.labels(), ",")}, set, &made)
		return strconv.FormatInt(made.IID, 10), err
	}
	one := base + "/" + url.PathEscape(m.ref)
	if _, err := m.call(ctx, http.MethodPost, one+"/notes", map[string]any{"body": m.markdown(m.title)}, set); err != nil || !m.n.Over() {
		return m.ref, err
	}
	_, err := m.call(ctx, http.MethodPut, one, map[string]any{"state_event": "close"}, set)
	return m.ref, err
}

// jira makes an issue, comments on it and moves it to where its workflow calls it
// done (REST API 2).
func (m *message) jira(ctx context.Context) (string, error) {
	base := strings.TrimSuffix(m.r.URL, "/") + "/rest/api/2/issue"
	set := func(h http.Header) {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(m.secret)))
	}
	if m.ref == "" && m.n.Over() {
		return "", nil
	}
	if m.ref == "" {
		var made struct {
			Key string `json:"key"`
		}
		err := m.made(ctx, base, map[string]any{"fields": map[string]any{
			"project": map[string]string{"key": m.r.Project}, "issuetype": map[string]string{"name": m.r.IssueType}, "summary": m.title,
			"description": m.wiki("") + "\n\n" + m.marker(), "labels": m.labels(),
		}}, set, &made)
		return made.Key, err
	}
	one := base + "/" + url.PathEscape(m.ref)
	// Moved before it is told: an attempt that fails between leaves no second comment.
	if m.n.Over() {
		if err := m.jiraDone(ctx, one+"/transitions", set); err != nil {
			return m.ref, err
		}
	}
	_, err := m.call(ctx, http.MethodPost, one+"/comment", map[string]any{"body": m.wiki(m.title)}, set)
	return m.ref, err
}

// made makes an issue and reads what the tracker called it.
func (m *message) made(ctx context.Context, to string, body any, set func(http.Header), into any) error {
	b, err := m.call(ctx, http.MethodPost, to, body, set)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the tracker's answer cannot be read: %w", err)
	}
	return nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
