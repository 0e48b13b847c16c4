package feed

import "assay/store"

// Migrations are the tables of feeds.
//
//   - feed_source: one row for each feed and ecosystem: which operation is in
//     force (0: none yet), when it was last looked at with success, what the
//     archive was, and why the last attempt failed ("" when it did not). told: that
//     it is stale was told; blocked: why what is in force is not believed.
//   - feed_operation: every import, also refused ones (state: 0 reading, 1 in
//     force, 2 refused, 3 superseded, 4 blocked: all there, and held back until it
//     is accepted); reason: why it was taken all the same.
//   - feed_record: versions of records. One is in force from its operation on,
//     if that ever came into force, until the one in until (0: still). A removed
//     record has an empty body; bodies are OSV's JSON under zstd.
//   - feed_package: which packages a version of a record names, in the normal form
//     in which components are looked up.
//   - feed_alias: the other names of a version of a record.
var Migrations = store.Migrations{Name: "vuln/feed", Steps: []string{`
CREATE TABLE feed_source (
	name      TEXT   NOT NULL,
	ecosystem TEXT   NOT NULL,
	operation BIGINT NOT NULL,
	checked   BIGINT NOT NULL,
	changed   BIGINT NOT NULL,
	records   BIGINT NOT NULL,
	archive   TEXT   NOT NULL,
	etag      TEXT   NOT NULL,
	problem   TEXT   NOT NULL,
	failed    BIGINT NOT NULL,
	PRIMARY KEY (name, ecosystem)
);
CREATE TABLE feed_operation (
	id        BIGINT NOT NULL PRIMARY KEY,
	name      TEXT   NOT NULL,
	ecosystem TEXT   NOT NULL,
	state     BIGINT NOT NULL,
	started   BIGINT NOT NULL,
	finished  BIGINT NOT NULL,
	added     BIGINT NOT NULL,
	changed   BIGINT NOT NULL,
	withdrawn BIGINT NOT NULL,
	removed   BIGINT NOT NULL,
	skipped   TEXT   NOT NULL,
	archive   TEXT   NOT NULL,
	problem   TEXT   NOT NULL
);
CREATE INDEX feed_operation_source ON feed_operation (name, ecosystem, id);
CREATE TABLE feed_record (
	name      TEXT   NOT NULL,
	ecosystem TEXT   NOT NULL,
	id        TEXT   NOT NULL,
	operation BIGINT NOT NULL,
	until     BIGINT NOT NULL,
	hash      BYTES  NOT NULL,
	withdrawn BIGINT NOT NULL,
	body      BYTES  NOT NULL,
	PRIMARY KEY (name, ecosystem, id, operation)
);
CREATE INDEX feed_record_operation ON feed_record (operation, id);
CREATE INDEX feed_record_id ON feed_record (id, until);
CREATE TABLE feed_package (
	ecosystem TEXT   NOT NULL,
	package   TEXT   NOT NULL,
	operation BIGINT NOT NULL,
	id        TEXT   NOT NULL,
	PRIMARY KEY (ecosystem, package, operation, id)
);
CREATE INDEX feed_package_operation ON feed_package (operation);`, `
CREATE TABLE feed_alias (
	alias     TEXT   NOT NULL,
	operation BIGINT NOT NULL,
	id        TEXT   NOT NULL,
	PRIMARY KEY (alias, operation, id)
);
CREATE INDEX feed_alias_operation ON feed_alias (operation);`, `
ALTER TABLE feed_source ADD COLUMN told BIGINT NOT NULL DEFAULT 0;
ALTER TABLE feed_source ADD COLUMN blocked TEXT NOT NULL DEFAULT '';
ALTER TABLE feed_operation ADD COLUMN reason TEXT NOT NULL DEFAULT '';`}}

// The states of an operation.
const (
	reading    = 0
	inForce    = 1
	refused    = 2
	superseded = 3
	blocked    = 4
)
