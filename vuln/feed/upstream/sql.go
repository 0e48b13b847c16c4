package upstream

import "assay/store"

// Migrations are the tables of upstreams.
//
//   - feed_upstream: those that were added by command, as JSON; those of the
//     configuration are not in it.
//   - feed_sync: one row for each feed and ecosystem: when it is due, when it was
//     last tried and last succeeded, how often it failed since, why, what the last
//     success did; tag: the upstream's name for the archive in force; whole: when
//     the archive was last looked at; downgrade, actor: the word of an
//     administrator for the next look.
var Migrations = store.Migrations{Name: "vuln/feed/upstream", Steps: []string{`
CREATE TABLE feed_upstream (
	name  TEXT   NOT NULL PRIMARY KEY,
	spec  TEXT   NOT NULL,
	added BIGINT NOT NULL,
	actor TEXT   NOT NULL
);
CREATE TABLE feed_sync (
	name      TEXT   NOT NULL,
	ecosystem TEXT   NOT NULL,
	url       TEXT   NOT NULL,
	due       BIGINT NOT NULL,
	tried     BIGINT NOT NULL,
	succeeded BIGINT NOT NULL,
	failures  BIGINT NOT NULL,
	problem   TEXT   NOT NULL,
	outcome   TEXT   NOT NULL,
	tag       TEXT   NOT NULL,
	whole     BIGINT NOT NULL,
	downgrade TEXT   NOT NULL,
	actor     TEXT   NOT NULL,
	PRIMARY KEY (name, ecosystem)
);`}}
