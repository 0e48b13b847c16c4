package slo

import "assay/store"

// Migrations are the tables of roll-ups.
//
//   - slo_series: what is counted: indicator, dimension and value ("" and "": the
//     whole site).
//   - slo_rollup: counts of a step of 60 or 3,600 s that begins at start (Unix
//     seconds). n is how often a state was looked at; sum is in thousandths of the
//     unit.
//   - slo_item: artifacts behind the numbers, at most [MaxItems] for each indicator.
//   - slo_waiting: pushes whose signature may still come.
//   - slo_origin: since when something could be known.
//   - slo_mark: how far what is counted outside of events' cursors has come.
var Migrations = store.Migrations{Name: "slo", Steps: []string{`
CREATE TABLE slo_series (
	id        BIGINT NOT NULL PRIMARY KEY,
	sli       TEXT   NOT NULL,
	dimension TEXT   NOT NULL,
	value     TEXT   NOT NULL
);
CREATE UNIQUE INDEX slo_series_name ON slo_series (sli, dimension, value);
CREATE TABLE slo_rollup (
	series  BIGINT NOT NULL,
	step    BIGINT NOT NULL,
	start   BIGINT NOT NULL,
	good    BIGINT NOT NULL,
	bad     BIGINT NOT NULL,
	unknown BIGINT NOT NULL,
	sum     BIGINT NOT NULL,
	n       BIGINT NOT NULL,
	PRIMARY KEY (series, step, start)
);
CREATE TABLE slo_item (
	sli         TEXT   NOT NULL,
	digest      TEXT   NOT NULL,
	key         TEXT   NOT NULL,
	reason      TEXT   NOT NULL,
	unknown     BIGINT NOT NULL,
	team        TEXT   NOT NULL,
	service     TEXT   NOT NULL,
	environment TEXT   NOT NULL,
	cluster     TEXT   NOT NULL,
	release     TEXT   NOT NULL,
	kind        TEXT   NOT NULL,
	event       TEXT   NOT NULL,
	since       BIGINT NOT NULL,
	seen        BIGINT NOT NULL,
	PRIMARY KEY (sli, digest, key)
);
CREATE INDEX slo_item_seen ON slo_item (sli, seen);
CREATE TABLE slo_waiting (
	digest     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	pushed     BIGINT NOT NULL,
	event      TEXT   NOT NULL,
	PRIMARY KEY (digest, repository)
);
CREATE INDEX slo_waiting_pushed ON slo_waiting (pushed);
CREATE TABLE slo_origin (
	key   TEXT   NOT NULL PRIMARY KEY,
	since BIGINT NOT NULL
);
CREATE TABLE slo_mark (
	name TEXT   NOT NULL PRIMARY KEY,
	at   BIGINT NOT NULL
);`}}
