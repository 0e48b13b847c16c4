package sbom

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/sbom/overlay"
	"assay/store"
)

const indexedColumns = `id, attestation, subject, state, problem, format, spec_version, document, name, created, ingested, packages, quality, parts, incomplete, issuer, identity`

func findIndexed(ctx context.Context, tx *store.Tx, where string, args ...any) (Indexed, error) {
	return scanIndexed(tx.QueryRow(ctx, `SELECT `+indexedColumns+` FROM sbom_document WHERE `+where, args...).Scan)
}

func scanIndexed(scan func(...any) error) (ix Indexed, err error) {
	var state, created, ingested int64
	var subject, format, parts, incomplete string
	if err = scan(&ix.ID, &ix.Attestation, &subject, &state, &ix.Problem, &format, &ix.SpecVersion, &ix.Document, &ix.Name,
		&created, &ingested, &ix.Packages, &ix.Quality.Score, &parts, &incomplete, &ix.Issuer, &ix.Identity); err != nil {
		return ix, err
	}
	ix.Subject, ix.Format = artifact.Digest(subject), Format(format)
	if created != 0 {
		ix.Created = store.Time(created)
	}
	ix.Ingested = store.Time(ingested)
	if parts != "" {
		if err = json.Unmarshal([]byte(parts), &ix.Quality.Parts); err != nil {
			return ix, fault.Wrap(fault.Tampered, err)
		}
	}
	if incomplete != "" {
		if err = json.Unmarshal([]byte(incomplete), &ix.Quality.Incomplete); err != nil {
			return ix, fault.Wrap(fault.Tampered, err)
		}
	}
	if state == stateReading {
		ix.Packages = -1
	}
	return ix, nil
}

// Documents lists what is known about a subject, the newest first: documents in
// force and refused ones.
func (s *Store) Documents(ctx context.Context, subject artifact.Digest) (out []Indexed, err error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT `+indexedColumns+` FROM sbom_document WHERE subject = ? AND state <> ? ORDER BY id DESC LIMIT 100`, string(subject), stateReading)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			ix, err := scanIndexed(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, ix)
		}
		return rows.Err()
	})
	return out, err
}

// Query says which occurrences are looked for. At least one condition is wanted;
// all given ones must hold.
type Query struct {
	// PURL is a package URL; without a version it finds all versions, and its
	// qualifiers, where given, must be there.
	PURL string
	// Name is a component's whole name or what is after its namespace, in any case;
	// with a "*" at its end, how the whole begins.
	Name    string
	Version string // exactly
	License string // an identifier that the licence expression names, the document's or an overlay's
	// Owner and Supplier are exactly what an overlay names.
	Owner, Supplier string
	Digest          artifact.Digest
	Subject         artifact.Digest // only in what this artifact's documents hold
	Limit           int             // default 100, at most 1,000
	After           string          // cursor of the page before
}

// Occurrence is a component in a document.
type Occurrence struct {
	Component string // its key: canonical package URL, or "name:TYPE:NAME@VERSION"
	Name      string
	Version   string
	License   string
	Direct    string // "direct", "transitive" or "unknown"
	Subject   artifact.Digest
	Document  int64
	Attested  string // evidence ID of the document
	// Added is what overlays about the artifact say of it.
	Added []overlay.Fact
}

// Search finds components in documents that are in force, ordered by document
// and component. next is the cursor of the next page; "" at the end.
func (s *Store) Search(ctx context.Context, q Query) (out []Occurrence, next string, err error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, 1000)
	where, args, err := q.where()
	if err != nil {
		return nil, "", err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out, next = nil, ""
		rows, err := tx.Query(ctx, `SELECT c.id, c.key, c.name, c.version, o.license, o.direct, d.subject, d.id, d.attestation
			FROM sbom_component c JOIN sbom_occurrence o ON o.component = c.id JOIN sbom_document d ON d.id = o.document
			WHERE d.state = 1 AND `+where+` ORDER BY d.id, c.id LIMIT ?`, append(args, q.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		var last int64
		for rows.Next() {
			if len(out) == q.Limit {
				next = strconv.FormatInt(out[len(out)-1].Document, 10) + "." + strconv.FormatInt(last, 10)
				break
			}
			var o Occurrence
			var direct int64
			var subject string
			if err := rows.Scan(&last, &o.Component, &o.Name, &o.Version, &o.License, &direct, &subject, &o.Document, &o.Attested); err != nil {
				return err
			}
			o.Subject, o.Direct = artifact.Digest(subject), directness(direct)
			out = append(out, o)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if err := rows.Close(); err != nil {
			return err
		}
		return enrich(ctx, tx, out)
	})
	return out, next, err
}

func directness(n int64) string {
	switch n {
	case 0:
		return "transitive"
	case 1:
		return "direct"
	}
	return "unknown"
}

func (q Query) where() (string, []any, error) {
	var conds []string
	var args []any
	add := func(cond string, a ...any) { conds, args = append(conds, cond), append(args, a...) }
	if q.PURL != "" {
		p, err := artifact.ParsePURL(q.PURL)
		if err != nil {
			return "", nil, err
		}
		p = respell(p)
		add("c.package = ?", p.Package().String())
		if p.Version != "" {
			add("c.version = ?", p.Version)
		}
		for _, one := range p.Component().Qualifiers {
			only := artifact.PURL{Type: "x", Name: "x", Qualifiers: []artifact.Qualifier{one}}
			_, text, _ := strings.Cut(only.String(), "?")
			add(`c.key LIKE ? ESCAPE '\'`, "%"+like(text)+"%")
		}
	}
	if name := strings.ToLower(strings.TrimSpace(q.Name)); name != "" {
		if begin, prefix := strings.CutSuffix(name, "*"); prefix {
			if begin == "" {
				return "", nil, fault.Newf(fault.Invalid, "name %q: want some letters before the *", q.Name)
			}
			add("c.name >= ? AND c.name < ?", begin, begin+"\U0010FFFF")
		} else {
			// "log4j-core" is org.apache.logging.log4j:log4j-core, and "@scope/x" ends in x.
			if strings.ContainsAny(name, "/:") {
				add("c.name = ?", name)
			} else {
				add("(c.name = ? OR "+lastOfName("c.name")+" = ?)", name, name)
			}
		}
	}
	if q.Version != "" {
		add("c.version = ?", q.Version)
	}
	if q.License != "" {
		add(`(o.license <> '' AND (o.license = ? OR ' ' || REPLACE(REPLACE(o.license, '(', ' '), ')', ' ') || ' ' LIKE ? ESCAPE '\')
			OR EXISTS (SELECT 1 FROM `+addedJoin+` AND v.field = 'license' AND (v.value = ? OR ' ' || REPLACE(REPLACE(v.value, '(', ' '), ')', ' ') || ' ' LIKE ? ESCAPE '\')))`,
			q.License, "% "+like(q.License)+" %", q.License, "% "+like(q.License)+" %")
	}
	for field, value := range map[string]string{"owner": q.Owner, "supplier": q.Supplier} {
		if value != "" {
			add("EXISTS (SELECT 1 FROM "+addedJoin+" AND v.field = ? AND v.value = ?)", field, value)
		}
	}
	if q.Digest != "" {
		if _, _, ok := strings.Cut(string(q.Digest), ":"); !ok {
			return "", nil, fault.Newf(fault.Invalid, "digest %.100q: want ALGORITHM:HEX", q.Digest)
		}
		add("EXISTS (SELECT 1 FROM sbom_digest g WHERE g.digest = ? AND g.document = d.id AND LOWER(g.name) = c.name)", string(q.Digest))
	}
	if len(conds) == 0 && q.Subject == "" { // all that one artifact holds is a fair question
		return "", nil, fault.Newf(fault.Invalid, "search: name what is looked for: a package URL, a name, a licence, a digest or an artifact")
	}
	if q.Subject != "" {
		add("d.subject = ?", string(q.Subject))
	}
	if q.After != "" {
		doc, comp, ok := strings.Cut(q.After, ".")
		d, err1 := strconv.ParseInt(doc, 10, 64)
		c, err2 := strconv.ParseInt(comp, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			return "", nil, fault.Newf(fault.Invalid, "cursor %.80q: want the one that the page before gave", q.After)
		}
		add("(d.id > ? OR d.id = ? AND c.id > ?)", d, d, c)
	}
	return strings.Join(conds, " AND "), args, nil
}

// like escapes a text for LIKE.
func like(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}

// Place is a file or package that has a digest.
type Place struct {
	Name     string
	Subject  artifact.Digest
	Document int64
}

// ByDigest finds in which documents a digest stands: of a file, of a package.
func (s *Store) ByDigest(ctx context.Context, digest string) (out []Place, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT g.name, d.subject, d.id FROM sbom_digest g JOIN sbom_document d ON d.id = g.document
			WHERE g.digest = ? AND d.state = 1 ORDER BY d.id, g.name LIMIT 1000`, digest)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p Place
			var subject string
			if err := rows.Scan(&p.Name, &subject, &p.Document); err != nil {
				return err
			}
			p.Subject = artifact.Digest(subject)
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}

// Path is how a component is reached in a document: keys from what the root
// needs itself to the component. nil when nobody can tell.
func (s *Store) Path(ctx context.Context, document int64, component string) (path []string, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		path = nil
		for id := ComponentID(component); id != 0; {
			var via, direct int64
			var key string
			if err := tx.QueryRow(ctx, `SELECT c.key, o.via, o.direct FROM sbom_occurrence o JOIN sbom_component c ON c.id = o.component WHERE o.document = ? AND o.component = ?`, document, id).Scan(&key, &via, &direct); err != nil {
				return err
			}
			if direct < 0 || len(path) > 10_000 {
				path = nil
				return nil
			}
			path = append([]string{key}, path...)
			id = via
		}
		return nil
	})
	return path, err
}
