package sbom

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of stored bills of materials.
//
//   - sbom_document: one row for each (attestation, subject): what a document
//     says of itself, and how far it is read (state: 0 is being read, 1 is in
//     force, 2 was refused, with why in problem).
//   - sbom_component: each distinct component once, whoever names it. id is made
//     of key, so that it is the same everywhere.
//   - sbom_occurrence: which component stands in which document, whether its root
//     needs it itself (direct: 1, 0, or -1 when nobody can tell) and through which
//     component it is reached (via; 0 from the root).
//   - sbom_digest: files and packages by digest.
//   - sbom_pending: attestations to be read, in order.
//   - sbom_upload: what was handed in without a signature, about a project.
var Migrations = store.Migrations{Name: "sbom", Steps: []string{`
CREATE TABLE sbom_document (
	id           BIGINT NOT NULL PRIMARY KEY,
	attestation  TEXT   NOT NULL,
	subject      TEXT   NOT NULL,
	state        BIGINT NOT NULL,
	problem      TEXT   NOT NULL,
	format       TEXT   NOT NULL,
	spec_version TEXT   NOT NULL,
	document     TEXT   NOT NULL,
	name         TEXT   NOT NULL,
	created      BIGINT NOT NULL,
	ingested     BIGINT NOT NULL,
	packages     BIGINT NOT NULL,
	quality      BIGINT NOT NULL,
	parts        TEXT   NOT NULL,
	incomplete   TEXT   NOT NULL,
	issuer       TEXT   NOT NULL,
	identity     TEXT   NOT NULL,
	UNIQUE (attestation, subject)
);
CREATE INDEX sbom_document_subject ON sbom_document (subject, id);
CREATE TABLE sbom_component (
	id             BIGINT NOT NULL PRIMARY KEY,
	key            TEXT   NOT NULL,
	package        TEXT   NOT NULL,
	name           TEXT   NOT NULL,
	version        TEXT   NOT NULL,
	type           TEXT   NOT NULL,
	source_name    TEXT   NOT NULL,
	source_version TEXT   NOT NULL
);
CREATE INDEX sbom_component_package ON sbom_component (package, version);
CREATE INDEX sbom_component_name ON sbom_component (name, version);
CREATE TABLE sbom_occurrence (
	document  BIGINT NOT NULL,
	component BIGINT NOT NULL,
	direct    BIGINT NOT NULL,
	via       BIGINT NOT NULL,
	license   TEXT   NOT NULL,
	PRIMARY KEY (document, component)
);
CREATE INDEX sbom_occurrence_component ON sbom_occurrence (component, document);
CREATE INDEX sbom_occurrence_license ON sbom_occurrence (license, document) WHERE license <> '';
CREATE TABLE sbom_digest (
	digest    TEXT   NOT NULL,
	document  BIGINT NOT NULL,
	name      TEXT   NOT NULL,
	PRIMARY KEY (digest, document, name)
);
CREATE INDEX sbom_digest_document ON sbom_digest (document);
CREATE TABLE sbom_pending (
	attestation TEXT   NOT NULL PRIMARY KEY,
	asked       BIGINT NOT NULL,
	tries       BIGINT NOT NULL
);`, uploadTable, overlayTables, tierColumns, `CREATE INDEX sbom_component_last ON sbom_component (` + lastOfName("name") + `)`, `
-- Whose each component is, and how, is told from this alone.
CREATE INDEX sbom_occurrence_held ON sbom_occurrence (component, document, direct);
DROP INDEX sbom_occurrence_component;`}}

// tierColumns say of which tier what waits is, and what reading a document took,
// in microseconds.
const tierColumns = `
ALTER TABLE sbom_pending ADD COLUMN tier BIGINT NOT NULL DEFAULT 1;
CREATE INDEX sbom_pending_tier ON sbom_pending (tier, asked);
ALTER TABLE sbom_document ADD COLUMN read_cpu BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sbom_document ADD COLUMN read_wall BIGINT NOT NULL DEFAULT 0;`

// lastOfName is what is after the last "/" or ":" of a column, in SQL: both
// databases have these functions, and take the expression into an index.
func lastOfName(column string) string {
	n := "REPLACE(" + column + ", ':', '/')"
	return "REPLACE(" + n + ", RTRIM(" + n + ", REPLACE(" + n + ", '/', '')), '')"
}

const uploadTable = `
CREATE TABLE sbom_upload (
	token    TEXT   NOT NULL PRIMARY KEY,
	project  TEXT   NOT NULL,
	version  TEXT   NOT NULL,
	subject  TEXT   NOT NULL,
	document BIGINT NOT NULL,
	uploader TEXT   NOT NULL,
	uploaded BIGINT NOT NULL
);
CREATE INDEX sbom_upload_subject ON sbom_upload (subject);`

// The states of a stored document.
const (
	stateReading = 0
	stateInForce = 1
	stateRefused = 2
)

// chunk is how many rows one transaction writes: a large document must not keep
// all others waiting.
const chunk = 2_000

// insert writes rows with few statements; the conflict clause comes behind.
func insert(ctx context.Context, tx *store.Tx, into string, columns int, rows [][]any, conflict string) error {
	const most = 50
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
	for len(rows) > 0 {
		n := min(most, len(rows))
		args := make([]any, 0, n*columns)
		for _, r := range rows[:n] {
			if len(r) != columns {
				return fault.Newf(fault.Internal, "insert %s: %d values for %d columns", into, len(r), columns)
			}
			args = append(args, r...)
		}
		q := "INSERT INTO " + into + " VALUES " + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + " " + conflict
		if _, err := tx.Exec(ctx, q, args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// ComponentID is the number of a component in the tables of this package, made of
// its key, so that it needs no look-up.
func ComponentID(key string) int64 {
	sum := sha256.Sum256([]byte(key))
	id := int64(binary.BigEndian.Uint64(sum[:8]) >> 1)
	return max(id, 1)
}

// componentKey is what makes two components one: the package URL without where it
// was fetched from, or the name and version where there is none. All that advisories
// are asked by stands in it, also where a document tells it beside the package URL:
// rows are shared by everybody's documents, so that nobody's word about a component
// may become that of others.
func componentKey(c *Component) string {
	if c.PURL.Type == "" {
		return "name:" + c.Type + ":" + c.FullName() + "@" + c.Version
	}
	return keyed(c).String()
}

// Keyed is the package URL that stands for a component: without where it was fetched
// from, with its version, and with its source package. The zero PURL: it has none.
func (c *Component) Keyed() artifact.PURL {
	if c.PURL.Type == "" {
		return artifact.PURL{}
	}
	return keyed(c)
}

func keyed(c *Component) artifact.PURL {
	p := c.PURL.Component()
	if p.Version == "" {
		p.Version = c.Version
	}
	told := Component{PURL: p}
	if sourceOf(&told); c.SourceName == "" || told.SourceName == c.SourceName && told.SourceVersion == c.SourceVersion {
		return p
	}
	up := c.SourceName
	if c.SourceVersion != "" {
		up += "@" + c.SourceVersion
	}
	p.Qualifiers = append(slices.DeleteFunc(slices.Clone(p.Qualifiers), func(q artifact.Qualifier) bool { return q.Key == "upstream" }), artifact.Qualifier{Key: "upstream", Value: up})
	slices.SortFunc(p.Qualifiers, func(a, b artifact.Qualifier) int { return strings.Compare(a.Key, b.Key) })
	return p
}

// listedName is what a component is searched by: the document's name for it, unless
// its package URL is called otherwise.
func listedName(c *Component) string {
	name := strings.ToLower(c.FullName())
	if p := strings.ToLower(c.PURL.Name); p != "" && name != p && !strings.HasSuffix(name, "/"+p) && !strings.HasSuffix(name, ":"+p) {
		return strings.ToLower((&Component{Group: c.PURL.Namespace, Name: c.PURL.Name, PURL: c.PURL}).FullName())
	}
	return name
}
