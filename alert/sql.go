package alert

import (
	"encoding/json"

	"assay/store"
)

// Migrations are the tables of alerts.
//
//   - alert: one thing that is wrong, or was. open is 1 until it is resolved; of
//     one fingerprint at most one is open.
//   - alert_cause: what keeps an alert open, for those that end by themselves.
//   - alert_group: alerts that are told of together; open as above.
//   - alert_told: rules that a group has been told of.
//   - alert_delivery: notices, kept when they were taken, so that none is queued
//     twice.
//   - alert_silence, alert_flake (failures of infrastructure, by minute), alert_mark.
var Migrations = store.Migrations{Name: "alert", Steps: []string{`
CREATE TABLE alert (
	id          TEXT   NOT NULL PRIMARY KEY,
	fingerprint TEXT   NOT NULL,
	open        BIGINT NOT NULL,
	grp         TEXT   NOT NULL,
	rule        TEXT   NOT NULL,
	severity    TEXT   NOT NULL,
	title       TEXT   NOT NULL,
	summary     TEXT   NOT NULL,
	service     TEXT   NOT NULL,
	team        TEXT   NOT NULL,
	owned       BIGINT NOT NULL,
	environment TEXT   NOT NULL,
	cluster     TEXT   NOT NULL,
	release     TEXT   NOT NULL,
	digest      TEXT   NOT NULL,
	about       TEXT   NOT NULL,
	since       BIGINT NOT NULL,
	last        BIGINT NOT NULL,
	count       BIGINT NOT NULL,
	resolved    BIGINT NOT NULL,
	resolved_by TEXT   NOT NULL,
	acked       BIGINT NOT NULL,
	acked_by    TEXT   NOT NULL,
	note        TEXT   NOT NULL,
	escalated   BIGINT NOT NULL,
	runbook     TEXT   NOT NULL,
	command     TEXT   NOT NULL,
	evidence    TEXT   NOT NULL  -- JSON array
);
CREATE UNIQUE INDEX alert_open ON alert (fingerprint) WHERE open = 1;
CREATE INDEX alert_list ON alert (open, since);
CREATE INDEX alert_group_of ON alert (grp, open);
CREATE INDEX alert_service ON alert (service, since);
CREATE TABLE alert_cause (
	alert TEXT NOT NULL,
	cause TEXT NOT NULL,
	PRIMARY KEY (alert, cause)
);
CREATE TABLE alert_group (
	id       TEXT   NOT NULL PRIMARY KEY,
	open     BIGINT NOT NULL,
	severity TEXT   NOT NULL,
	service  TEXT   NOT NULL,
	release  TEXT   NOT NULL,
	team     TEXT   NOT NULL,
	owned    BIGINT NOT NULL,
	opened   BIGINT NOT NULL,
	resolved BIGINT NOT NULL
);
CREATE UNIQUE INDEX alert_group_open ON alert_group (severity, service, release, team) WHERE open = 1;
CREATE TABLE alert_told (
	grp  TEXT NOT NULL,
	rule TEXT NOT NULL,
	PRIMARY KEY (grp, rule)
);
CREATE TABLE alert_delivery (
	id       TEXT   NOT NULL PRIMARY KEY,
	grp      TEXT   NOT NULL,
	occasion TEXT   NOT NULL,
	receiver TEXT   NOT NULL,
	body     TEXT   NOT NULL, -- of a test: what it says
	created  BIGINT NOT NULL,
	due      BIGINT NOT NULL,
	attempts BIGINT NOT NULL,
	taken    BIGINT NOT NULL,
	given_up BIGINT NOT NULL,
	problem  TEXT   NOT NULL,
	ref      TEXT   NOT NULL
);
CREATE INDEX alert_delivery_due ON alert_delivery (due) WHERE taken = 0 AND given_up = 0;
CREATE INDEX alert_delivery_group ON alert_delivery (grp, receiver);
CREATE INDEX alert_delivery_created ON alert_delivery (created);
CREATE TABLE alert_silence (
	id       TEXT   NOT NULL PRIMARY KEY,
	rule     TEXT   NOT NULL,
	severity TEXT   NOT NULL,
	service  TEXT   NOT NULL,
	team     TEXT   NOT NULL,
	cluster  TEXT   NOT NULL,
	digest   TEXT   NOT NULL,
	owner    TEXT   NOT NULL,
	reason   TEXT   NOT NULL,
	made     BIGINT NOT NULL,
	expires  BIGINT NOT NULL,
	ended    BIGINT NOT NULL,
	ended_by TEXT   NOT NULL
);
CREATE INDEX alert_silence_expires ON alert_silence (expires);
CREATE TABLE alert_flake (
	fingerprint TEXT   NOT NULL,
	at          BIGINT NOT NULL,
	event       TEXT   NOT NULL,
	PRIMARY KEY (fingerprint, at, event)
);`}}

const alertColumns = `id, fingerprint, grp, rule, severity, open, title, summary, service, team, owned, environment, cluster, release, digest, about,
	since, last, count, resolved, resolved_by, acked, acked_by, note, escalated, runbook, command, evidence`

func scanAlert(scan func(...any) error) (a Alert, err error) {
	var open, owned, since, last, resolved, acked int64
	var evidence string
	if err := scan(&a.ID, &a.Fingerprint, &a.Group, &a.Rule, &a.Severity, &open, &a.Title, &a.Summary, &a.Service, &a.Team, &owned, &a.Environment, &a.Cluster, &a.Release, &a.Artifact, &a.About,
		&since, &last, &a.Count, &resolved, &a.ResolvedBy, &acked, &a.AcknowledgedBy, &a.Note, &a.Escalated, &a.Runbook, &a.Command, &evidence); err != nil {
		return a, err
	}
	a.Owned, a.Since, a.Last = owned != 0, store.Time(since), store.Time(last)
	if resolved != 0 {
		a.Resolved = store.Time(resolved)
	}
	if acked != 0 {
		a.Acknowledged = store.Time(acked)
	}
	switch {
	case open == 0:
		a.State = Resolved
	case acked != 0:
		a.State = Acknowledged
	default:
		a.State = Firing
	}
	return a, json.Unmarshal([]byte(evidence), &a.Evidence)
}
