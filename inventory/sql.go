package inventory

import "assay/store"

// Migrations are the tables of what runs.
//
//   - inventory_cluster: one of whom something was heard: when last, by whom, and
//     what it says of its environment.
//   - inventory_workload: a container from first_seen until ended (0: still). What
//     it belongs to is as the catalogue had it while it ran.
//   - inventory_identity: a workload's SPIFFE identities and its mesh's mutual TLS, as
//     its cluster's API server has them; gone: since when it runs no more (0: it does).
var Migrations = store.Migrations{Name: "inventory", Steps: []string{`
CREATE TABLE inventory_cluster (
	name        TEXT   NOT NULL PRIMARY KEY,
	environment TEXT   NOT NULL,
	reporter    TEXT   NOT NULL,
	first_seen  BIGINT NOT NULL,
	seen        BIGINT NOT NULL,
	complete    BIGINT NOT NULL
);
CREATE TABLE inventory_workload (
	cluster     TEXT   NOT NULL,
	namespace   TEXT   NOT NULL,
	kind        TEXT   NOT NULL,
	name        TEXT   NOT NULL,
	instance    TEXT   NOT NULL,
	container   TEXT   NOT NULL,
	first_seen  BIGINT NOT NULL,
	digest      TEXT   NOT NULL,
	image       TEXT   NOT NULL,
	node        TEXT   NOT NULL,
	service     TEXT   NOT NULL,
	team        TEXT   NOT NULL,
	environment TEXT   NOT NULL,
	ended       BIGINT NOT NULL,
	PRIMARY KEY (cluster, namespace, kind, name, instance, container, first_seen, digest)
);
CREATE INDEX inventory_workload_running ON inventory_workload (cluster, namespace, name) WHERE ended = 0;
CREATE INDEX inventory_workload_digest ON inventory_workload (digest, ended);
CREATE INDEX inventory_workload_ended ON inventory_workload (ended, first_seen);
CREATE INDEX inventory_workload_service ON inventory_workload (service, ended);`, `
CREATE TABLE inventory_identity (
	cluster    TEXT   NOT NULL,
	namespace  TEXT   NOT NULL,
	kind       TEXT   NOT NULL,
	name       TEXT   NOT NULL,
	spiffe_ids TEXT   NOT NULL, -- sorted, with blanks between
	source     TEXT   NOT NULL,
	mesh       TEXT   NOT NULL,
	mtls       TEXT   NOT NULL,
	since      BIGINT NOT NULL,
	gone       BIGINT NOT NULL,
	PRIMARY KEY (cluster, namespace, kind, name)
);`, `
DROP INDEX inventory_workload_running;
CREATE INDEX inventory_workload_running ON inventory_workload (cluster, namespace, kind, name, instance, container, first_seen, digest) WHERE ended = 0;
DROP INDEX inventory_workload_digest;
CREATE INDEX inventory_workload_digest ON inventory_workload (digest, ended, service);
DROP INDEX inventory_workload_ended;
CREATE INDEX inventory_workload_ended ON inventory_workload (ended) WHERE ended > 0;
CREATE INDEX inventory_workload_begun ON inventory_workload (first_seen) WHERE ended = 0;`}}
