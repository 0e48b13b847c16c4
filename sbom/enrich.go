package sbom

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/sbom/overlay"
	"assay/store"
)

// The tables of overlays: what statements add to the components of an artifact.
//
//   - sbom_overlay: one row for each (attestation, subject), written when its
//     values are there; problem says why one counts as absent.
//   - sbom_overlay_value: the values of an attestation, in its own order.
const overlayTables = `
CREATE TABLE sbom_overlay (
	attestation TEXT   NOT NULL,
	subject     TEXT   NOT NULL,
	identity    TEXT   NOT NULL,
	problem     TEXT   NOT NULL,
	ingested    BIGINT NOT NULL,
	PRIMARY KEY (attestation, subject)
);
CREATE INDEX sbom_overlay_subject ON sbom_overlay (subject, attestation);
CREATE TABLE sbom_overlay_value (
	attestation TEXT   NOT NULL,
	n           BIGINT NOT NULL,
	package     TEXT   NOT NULL,
	version     TEXT   NOT NULL,
	field       TEXT   NOT NULL,
	value       TEXT   NOT NULL,
	source      TEXT   NOT NULL,
	PRIMARY KEY (attestation, n)
);
CREATE INDEX sbom_overlay_value_package ON sbom_overlay_value (attestation, package);
CREATE INDEX sbom_overlay_value_value ON sbom_overlay_value (field, value);`

// MaxOverlays is how many overlays about one artifact count; more of them are
// refused, so that nobody makes every question about it slow.
const MaxOverlays = 100

// maxAdded is how many values are told at once.
const maxAdded = 20_000

// addedJoin are the values that overlays about a document's subject hold for one
// of its components c.
const addedJoin = `sbom_overlay w JOIN sbom_overlay_value v ON v.attestation = w.attestation
	WHERE w.subject = d.subject AND w.problem = '' AND v.package = c.package AND c.package <> '' AND (v.version = '' OR v.version = c.version)`

// Overlay enters the overlay of a verified statement, once for each subject. One
// that is no overlay, or one too many, is kept as refused with its reason.
func (s *Store) Overlay(ctx context.Context, from Source, predicate io.Reader) error {
	if from.Attestation == "" || from.Subject.Validate() != nil {
		return fault.Newf(fault.Invalid, "index overlay: want the attestation's ID and the subject's digest")
	}
	b, err := io.ReadAll(io.LimitReader(predicate, overlay.MaxBytes+1))
	if err != nil {
		return err
	}
	var known, others int
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COALESCE(SUM(CASE WHEN attestation = ? THEN 1 ELSE 0 END), 0), COUNT(*) FROM sbom_overlay WHERE subject = ? AND (problem = '' OR attestation = ?)`,
			from.Attestation, string(from.Subject), from.Attestation).Scan(&known, &others)
	}); err != nil || known > 0 {
		return err
	}
	o, err := overlay.ParsePredicate(b)
	if err == nil && others >= MaxOverlays {
		err = fault.Newf(fault.Invalid, "%d overlays about this artifact count already, at most %d do", others, MaxOverlays)
	}
	problem := ""
	switch {
	case errors.Is(err, fault.Invalid), errors.Is(err, fault.TooLarge):
		problem = clip(err.Error(), 500)
	case err != nil:
		return err
	default:
		if err := s.writeOverlay(ctx, from.Attestation, o); err != nil {
			return err
		}
	}
	return s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO sbom_overlay (attestation, subject, identity, problem, ingested) VALUES (?, ?, ?, ?, ?) ON CONFLICT (attestation, subject) DO NOTHING`,
			from.Attestation, string(from.Subject), from.Identity, problem, store.Micros(tx.Now())); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SBOMOverlaid, Digest: from.Subject, Actor: "system:sbom", Body: map[string]any{"attestation": from.Attestation, "problem": problem}})
	})
}

// writeOverlay enters the values. An attestation's id is made of its bytes, so
// that what an interrupted reading left is the same.
func (s *Store) writeOverlay(ctx context.Context, attestation string, o *overlay.Overlay) error {
	var rows [][]any
	o.Each(func(p artifact.PURL, field string, v overlay.Value) {
		p = respell(p)
		rows = append(rows, []any{attestation, len(rows), p.Package().String(), p.Version, field, v.Value, v.Source})
	})
	for len(rows) > 0 {
		n := min(chunk, len(rows))
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			return insert(ctx, tx, "sbom_overlay_value (attestation, n, package, version, field, value, source)", 7, rows[:n], "ON CONFLICT (attestation, n) DO NOTHING")
		}); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// IndexedOverlay is an overlay as the site knows it.
type IndexedOverlay struct {
	Attestation string
	Identity    string // who signed it
	Problem     string // why it counts as absent; "": it counts
	Ingested    time.Time
}

// Overlays lists those about an artifact.
func (s *Store) Overlays(ctx context.Context, subject artifact.Digest) (out []IndexedOverlay, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT attestation, identity, problem, ingested FROM sbom_overlay WHERE subject = ? ORDER BY ingested, attestation LIMIT 1000`, string(subject))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var o IndexedOverlay
			var at int64
			if err := rows.Scan(&o.Attestation, &o.Identity, &o.Problem, &at); err != nil {
				return err
			}
			o.Ingested = store.Time(at)
			out = append(out, o)
		}
		return rows.Err()
	})
	return out, err
}

// Added says what overlays add to an artifact's components, from the component
// behind after on, by signers or, where there are none given, by anybody. Whole
// components are told, so that what is disputed is seen to be; next is where the
// next page begins.
func (s *Store) Added(ctx context.Context, subject artifact.Digest, signers []string, limit int, after string) (facts []overlay.Fact, next string, err error) {
	if err := subject.Validate(); err != nil {
		return nil, "", err
	}
	var from int64
	if after != "" {
		if from, err = strconv.ParseInt(after, 10, 64); err != nil {
			return nil, "", fault.Newf(fault.Invalid, "cursor %.80q: want the one that the page before gave", after)
		}
	}
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	by, args := signedBy(signers)
	err = s.db.View(ctx, func(tx *store.Tx) error {
		facts, next = nil, ""
		ids, err := componentsAdded(ctx, tx, subject, by, args, from, limit+1)
		if err != nil || len(ids) == 0 {
			return err
		}
		if len(ids) > limit {
			ids = ids[:limit]
			next = strconv.FormatInt(ids[limit-1], 10)
		}
		facts, err = addedTo(ctx, tx, subject, ids, by, args)
		return err
	})
	return facts, next, err
}

// signedBy is the condition that one of signers signed the overlay w.
func signedBy(signers []string) (cond string, args []any) {
	if len(signers) == 0 {
		return "", nil
	}
	for _, one := range signers {
		args = append(args, one)
	}
	return " AND w.identity IN (" + marks(len(signers)) + ")", args
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

func componentsAdded(ctx context.Context, tx *store.Tx, subject artifact.Digest, by string, args []any, from int64, limit int) (ids []int64, err error) {
	q := `SELECT DISTINCT c.id FROM sbom_document d JOIN sbom_occurrence o ON o.document = d.id JOIN sbom_component c ON c.id = o.component
		WHERE d.subject = ? AND d.state = 1 AND c.id > ? AND EXISTS (SELECT 1 FROM ` + addedJoin + by + `) ORDER BY c.id LIMIT ?`
	all := append([]any{string(subject), from}, args...)
	return store.Values[int64](ctx, tx, q, append(all, limit)...)
}

// addedTo reads what overlays about a subject add to components of it.
func addedTo(ctx context.Context, tx *store.Tx, subject artifact.Digest, ids []int64, by string, args []any) (facts []overlay.Fact, err error) {
	const most = 400
	for len(ids) > 0 {
		n := min(most, len(ids))
		all := []any{string(subject)}
		for _, id := range ids[:n] {
			all = append(all, id)
		}
		ids = ids[n:]
		if facts, err = addedRows(ctx, tx, facts, `SELECT c.key, v.field, v.value, v.source, w.identity, w.attestation
			FROM sbom_overlay w JOIN sbom_overlay_value v ON v.attestation = w.attestation JOIN sbom_component c ON c.package = v.package
			WHERE w.subject = ? AND w.problem = '' AND c.package <> '' AND (v.version = '' OR v.version = c.version) AND c.id IN (`+marks(n)+`)`+by+` LIMIT `+strconv.Itoa(maxAdded+1), append(all, args...)); err != nil {
			return nil, err
		}
	}
	overlay.Compare(facts)
	return facts, nil
}

func addedRows(ctx context.Context, tx *store.Tx, facts []overlay.Fact, q string, args []any) ([]overlay.Fact, error) {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var f overlay.Fact
		if err := rows.Scan(&f.Component, &f.Field, &f.Value, &f.Source, &f.Signer, &f.Attestation); err != nil {
			return nil, err
		}
		if facts = append(facts, f); len(facts) > maxAdded {
			return nil, fault.Newf(fault.TooLarge, "overlays add more than %d values to these components: ask for fewer at once, --limit, or name the signers that count", maxAdded)
		}
	}
	return facts, rows.Err()
}

// enrich enters into occurrences what overlays add to them.
func enrich(ctx context.Context, tx *store.Tx, found []Occurrence) error {
	bySubject := map[artifact.Digest][]int{}
	var subjects []artifact.Digest
	for i := range found {
		if bySubject[found[i].Subject] == nil {
			subjects = append(subjects, found[i].Subject)
		}
		bySubject[found[i].Subject] = append(bySubject[found[i].Subject], i)
	}
	with, err := overlaid(ctx, tx, subjects)
	if err != nil {
		return err
	}
	left := maxAdded
	for _, subject := range with {
		var ids []int64
		for _, i := range bySubject[subject] {
			ids = append(ids, ComponentID(found[i].Component))
		}
		facts, err := addedTo(ctx, tx, subject, ids, "", nil)
		if err != nil {
			return err
		}
		if left -= len(facts); left < 0 {
			return fault.Newf(fault.TooLarge, "overlays add more than %d values to these components: ask for fewer at once, --limit", maxAdded)
		}
		byKey := map[string][]overlay.Fact{}
		for _, f := range facts {
			byKey[f.Component] = append(byKey[f.Component], f)
		}
		for _, i := range bySubject[subject] {
			found[i].Added = byKey[found[i].Component]
		}
	}
	return nil
}

// overlaid are those subjects about which there are overlays.
func overlaid(ctx context.Context, tx *store.Tx, subjects []artifact.Digest) (out []artifact.Digest, err error) {
	for len(subjects) > 0 {
		n := min(400, len(subjects))
		var args []any
		for _, d := range subjects[:n] {
			args = append(args, string(d))
		}
		subjects = subjects[n:]
		if out, err = overlaidRows(ctx, tx, out, n, args); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func overlaidRows(ctx context.Context, tx *store.Tx, out []artifact.Digest, n int, args []any) ([]artifact.Digest, error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT subject FROM sbom_overlay WHERE problem = '' AND subject IN (`+marks(n)+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d string
		if err := rows.Scan(&d); err != nil {
			return nil, err
		}
		out = append(out, artifact.Digest(d))
	}
	return out, rows.Err()
}
