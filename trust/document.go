package trust

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"assay/internal/fault"
	"assay/store"
)

// DocumentKind says what a trust document is.
type DocumentKind string

// The kinds of trust documents.
const (
	// DocRevocations is the one signed list of revocations, a DSSE envelope with
	// its log entry; its name is "".
	DocRevocations DocumentKind = "revocations"
	DocDelegation  DocumentKind = "delegation" // one for each delegation, by name
	DocRoot        DocumentKind = "root"       // one for each foreign root, by name
	DocAuthority   DocumentKind = "authority"  // one for each own key that has or had a window, by name
	// DocDomain is what another site's carried bundles said of its trust, by the
	// name of the foreign root that the site became: see package transfer.
	DocDomain DocumentKind = "domain"
)

// Document is one thing that verification depends on besides the site's own
// keys: kept in the database, so that all replicas verify alike.
type Document struct {
	Kind    DocumentKind
	Name    string
	Version int64 // above 0; rises with every change of the document
	Body    []byte
	Applied time.Time // when it was written; set by the database's clock
}

const maxDocument = 16 << 20

// PutDocument writes a document and raises the trust epoch, both in tx, and
// gives the new epoch. A version that is not above the stored one's, also that
// of a deleted document, is fault.Conflict: nothing goes back.
func PutDocument(ctx context.Context, tx *store.Tx, d Document) (epoch int64, err error) {
	if err := putDocument(ctx, tx, d); err != nil {
		return 0, err
	}
	return RaiseEpoch(ctx, tx, string(d.Kind)+" "+d.Name)
}

// RenewDocument writes a later version that says the same as the one before,
// for longer: the epoch stays, and no decision has to be made anew. Replicas
// take it over all the same (see [Revision]).
func RenewDocument(ctx context.Context, tx *store.Tx, d Document) error {
	if _, err := GetDocument(ctx, tx, d.Kind, d.Name); err != nil {
		return err
	}
	return putDocument(ctx, tx, d)
}

func putDocument(ctx context.Context, tx *store.Tx, d Document) error {
	switch d.Kind {
	case DocRevocations, DocDelegation, DocRoot, DocAuthority, DocDomain:
	default:
		return fault.Newf(fault.Invalid, "trust document of kind %.40q: no such kind", string(d.Kind))
	}
	if d.Version < 1 || len(d.Name) > 256 || len(d.Body) == 0 || len(d.Body) > maxDocument {
		return fault.Newf(fault.Invalid, "trust document %s %.60q: want a version above 0, a name of at most 256 bytes and a body of 1 to %d bytes", d.Kind, d.Name, maxDocument)
	}
	return writeDocument(ctx, tx, d)
}

func writeDocument(ctx context.Context, tx *store.Tx, d Document) error {
	n, err := tx.Exec(ctx, `INSERT INTO trust_document (kind, name, version, body, applied) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version, body = excluded.body, applied = excluded.applied
		WHERE trust_document.version < excluded.version`, string(d.Kind), d.Name, d.Version, d.Body, store.Micros(tx.Now()))
	if err == nil && n == 0 {
		err = fault.Newf(fault.Conflict, "trust document %s %q: version %d is not above the stored one; read it again and change that", d.Kind, d.Name, d.Version)
	}
	return err
}

// DeleteDocument takes a document out of force and raises the epoch. Its
// version is remembered, so that it cannot come back. An absent one is
// fault.NotFound.
func DeleteDocument(ctx context.Context, tx *store.Tx, kind DocumentKind, name string) (epoch int64, err error) {
	d, err := GetDocument(ctx, tx, kind, name)
	if err != nil {
		return 0, err
	}
	d.Version, d.Body = d.Version+1, []byte{}
	if err := writeDocument(ctx, tx, d); err != nil {
		return 0, err
	}
	return RaiseEpoch(ctx, tx, "deleted "+string(kind)+" "+name)
}

// GetDocument reads a document that is in force; none is fault.NotFound.
func GetDocument(ctx context.Context, tx *store.Tx, kind DocumentKind, name string) (Document, error) {
	d := Document{Kind: kind, Name: name}
	var applied int64
	err := tx.QueryRow(ctx, `SELECT version, body, applied FROM trust_document WHERE kind = ? AND name = ?`, string(kind), name).
		Scan(&d.Version, &d.Body, &applied)
	d.Applied = store.Time(applied)
	if errors.Is(err, fault.NotFound) || err == nil && len(d.Body) == 0 {
		return Document{}, fault.Newf(fault.NotFound, "trust document %s %.60q: not here", kind, name)
	}
	return d, err
}

// DocumentVersion is the highest version that a document ever had here, in
// force or deleted; 0 when there was none.
func DocumentVersion(ctx context.Context, tx *store.Tx, kind DocumentKind, name string) (v int64, err error) {
	err = tx.QueryRow(ctx, `SELECT version FROM trust_document WHERE kind = ? AND name = ?`, string(kind), name).Scan(&v)
	if errors.Is(err, fault.NotFound) {
		return 0, nil
	}
	return v, err
}

// Documents reads all documents in force, by kind and name; those of one kind
// where kind is not "".
func Documents(ctx context.Context, tx *store.Tx, kind DocumentKind) (out []Document, err error) {
	q, args := `SELECT kind, name, version, body, applied FROM trust_document`, []any(nil)
	if kind != "" {
		q, args = q+` WHERE kind = ?`, []any{string(kind)}
	}
	rows, err := tx.Query(ctx, q+` ORDER BY kind, name`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	return scanDocuments(rows)
}

func scanDocuments(rows *sql.Rows) (out []Document, err error) {
	for rows.Next() {
		var d Document
		var applied int64
		if err := rows.Scan(&d.Kind, &d.Name, &d.Version, &d.Body, &applied); err != nil {
			return nil, err
		}
		if d.Applied = store.Time(applied); len(d.Body) > 0 {
			out = append(out, d)
		}
	}
	return out, rows.Err()
}

// Revision is the trust epoch, and a number that every write of a document
// changes, also one that leaves the epoch: what has both has the newest.
func Revision(ctx context.Context, tx *store.Tx) (epoch, revision int64, err error) {
	if epoch, err = Epoch(ctx, tx); err != nil {
		return 0, 0, err
	}
	// Versions only rise and rows only come, so the sum does.
	err = tx.QueryRow(ctx, `SELECT COALESCE(SUM(version), 0) FROM trust_document`).Scan(&revision)
	return epoch, revision, err
}
