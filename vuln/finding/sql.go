package finding

import "assay/store"

// Migrations are the tables of findings.
//
//   - finding_component: how each component is looked up: once for each package
//     that it may be named by, or once with an empty ecosystem and why it cannot
//     be (state: 0 looked up, 1 no feed knows its kind, 2 its distribution's
//     release is not known).
//   - finding_match: what an advisory says about a component (status: 1 affected,
//     2 unknown), from opened until closed (0: still). operation and ended are the
//     feed's operations that did it; 0 when a new document did.
//   - finding_scan: bills of materials whose components are all looked up.
//     What that cost is in microseconds (cpu, wall; waited: since it was asked
//     for), fresh components never seen before, and advisories looked at for them.
//   - finding_pending: what is to be done, in order: documents and operations.
//   - finding_cost: what matching an operation of a feed cost.
//   - finding_matcher: which matcher looked all of it up.
//   - finding_missed: matches that opened about components which had come out clean
//     though the advisory was there, or published (cause). Scans since clean_from
//     are those that missed it.
var Migrations = store.Migrations{Name: "vuln/finding", Steps: []string{`
CREATE TABLE finding_component (
	component BIGINT NOT NULL,
	ecosystem TEXT   NOT NULL,
	package   TEXT   NOT NULL,
	version   TEXT   NOT NULL,
	state     BIGINT NOT NULL,
	PRIMARY KEY (component, ecosystem, package)
);
CREATE TABLE finding_match (
	component BIGINT NOT NULL,
	advisory  TEXT   NOT NULL,
	feed      TEXT   NOT NULL,
	opened    BIGINT NOT NULL,
	closed    BIGINT NOT NULL,
	status    BIGINT NOT NULL,
	fixed     TEXT   NOT NULL,
	reason    TEXT   NOT NULL,
	operation BIGINT NOT NULL,
	ended     BIGINT NOT NULL,
	PRIMARY KEY (component, advisory, feed, opened)
);
CREATE INDEX finding_match_operation ON finding_match (operation) WHERE operation <> 0;
CREATE INDEX finding_match_ended ON finding_match (ended) WHERE ended <> 0;
CREATE INDEX finding_match_advisory ON finding_match (feed, advisory, closed);
CREATE TABLE finding_scan (
	document   BIGINT NOT NULL PRIMARY KEY,
	subject    TEXT   NOT NULL,
	scanned    BIGINT NOT NULL,
	components BIGINT NOT NULL
);
CREATE INDEX finding_scan_subject ON finding_scan (subject);
CREATE TABLE finding_pending (
	kind  TEXT   NOT NULL,
	id    TEXT   NOT NULL,
	asked BIGINT NOT NULL,
	tries BIGINT NOT NULL,
	PRIMARY KEY (kind, id)
);`, `
CREATE INDEX finding_component_package ON finding_component (ecosystem, package);`, `
ALTER TABLE finding_component ADD COLUMN platform TEXT NOT NULL DEFAULT '';`, `
ALTER TABLE finding_pending ADD COLUMN tier BIGINT NOT NULL DEFAULT 1;
CREATE INDEX finding_pending_tier ON finding_pending (tier, asked);
ALTER TABLE finding_scan ADD COLUMN tier BIGINT NOT NULL DEFAULT 1;
ALTER TABLE finding_scan ADD COLUMN fresh BIGINT NOT NULL DEFAULT 0;
ALTER TABLE finding_scan ADD COLUMN advisories BIGINT NOT NULL DEFAULT 0;
ALTER TABLE finding_scan ADD COLUMN cpu BIGINT NOT NULL DEFAULT 0;
ALTER TABLE finding_scan ADD COLUMN wall BIGINT NOT NULL DEFAULT 0;
ALTER TABLE finding_scan ADD COLUMN waited BIGINT NOT NULL DEFAULT 0;
CREATE INDEX finding_scan_scanned ON finding_scan (scanned);
CREATE TABLE finding_cost (
	operation  BIGINT NOT NULL PRIMARY KEY,
	feed       TEXT   NOT NULL,
	matched    BIGINT NOT NULL,
	advisories BIGINT NOT NULL,
	opened     BIGINT NOT NULL,
	closed     BIGINT NOT NULL,
	cpu        BIGINT NOT NULL,
	wall       BIGINT NOT NULL
);
CREATE INDEX finding_cost_matched ON finding_cost (matched);
CREATE TABLE finding_missed (
	component  BIGINT NOT NULL,
	advisory   TEXT   NOT NULL,
	feed       TEXT   NOT NULL,
	opened     BIGINT NOT NULL,
	cause      TEXT   NOT NULL,
	operation  BIGINT NOT NULL,
	received   BIGINT NOT NULL,
	published  BIGINT NOT NULL,
	clean_from BIGINT NOT NULL,
	artifacts  BIGINT NOT NULL,
	PRIMARY KEY (component, advisory, feed, opened)
);
CREATE INDEX finding_missed_opened ON finding_missed (opened);
CREATE INDEX finding_missed_operation ON finding_missed (operation);`, matchers}}

// The states of a component.
const (
	lookedUp      = 0
	kindUnknown   = 1
	releaseAbsent = 2
)
