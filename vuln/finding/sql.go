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
//   - finding_pending: what is to be done, in order: documents and operations.
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
ALTER TABLE finding_component ADD COLUMN platform TEXT NOT NULL DEFAULT '';`}}

// The states of a component.
const (
	lookedUp      = 0
	kindUnknown   = 1
	releaseAbsent = 2
)
