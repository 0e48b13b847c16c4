package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/store"
	"assay/trust/revocation"
)

// Impact is what a revocation would take: the evidence here that its entries
// name, and the artifacts that it is about.
type Impact struct {
	Attestations int // bundles that would count no more
	Artifacts    []AffectedArtifact
}

// AffectedArtifact is an artifact that would lose evidence, or that is revoked
// itself.
type AffectedArtifact struct {
	Digest       artifact.Digest
	Attestations int // how many of its bundles are concerned, per entry
}

// Impact finds, by index, what the entries concern, the artifacts by how much
// they lose, then by digest. Evidence that provably is older than an entry's
// instant is left out, as it is when evidence is verified.
func (s *Store) Impact(ctx context.Context, entries []revocation.Entry) (out Impact, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out, err = impact(ctx, tx, entries)
		return err
	})
	return out, err
}

func impact(ctx context.Context, tx *store.Tx, entries []revocation.Entry) (Impact, error) {
	var out Impact
	lost := map[artifact.Digest]int{}
	for i := range entries {
		e := &entries[i]
		if e.Kind == revocation.Artifact {
			var n int
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM evidence_subject WHERE subject = ?`, string(e.Digest)).Scan(&n); err != nil {
				return out, err
			}
			lost[e.Digest] += n
			out.Attestations += n
			continue
		}
		wheres, err := selections(ctx, tx, e)
		if err != nil {
			return out, err
		}
		for _, w := range wheres {
			n, err := w.count(ctx, tx, lost)
			if err != nil {
				return out, err
			}
			out.Attestations += n
		}
	}
	for d, n := range lost {
		out.Artifacts = append(out.Artifacts, AffectedArtifact{d, n})
	}
	slices.SortFunc(out.Artifacts, func(a, b AffectedArtifact) int {
		if a.Attestations != b.Attestations {
			return b.Attestations - a.Attestations
		}
		return strings.Compare(string(a.Digest), string(b.Digest))
	})
	return out, nil
}

// selection picks bundles by an index.
type selection struct {
	where string
	args  []any
}

// count adds the subjects of the picked bundles to lost, and gives how many
// bundles there are. Those with one subject, nearly all, are read from the index
// alone.
func (w selection) count(ctx context.Context, tx *store.Tx, lost map[artifact.Digest]int) (n int, err error) {
	n, err = tally(ctx, tx, lost, `SELECT b.subject, 1 FROM evidence_bundle b WHERE `+w.where+` AND b.subject <> ''`, w.args)
	if err != nil {
		return 0, err
	}
	var several int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM evidence_bundle b WHERE `+w.where+` AND b.subject = ''`, w.args...).Scan(&several); err != nil || several == 0 {
		return n, err
	}
	_, err = tally(ctx, tx, lost, `SELECT s.subject, COUNT(*) FROM evidence_bundle b CROSS JOIN evidence_subject s
		WHERE `+w.where+` AND b.subject = '' AND s.id = b.id GROUP BY s.subject`, w.args)
	return n + several, err
}

// tally adds rows of a subject and a number to lost.
func tally(ctx context.Context, tx *store.Tx, lost map[artifact.Digest]int, q string, args []any) (n int, err error) {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var d string
		var of int
		if err := rows.Scan(&d, &of); err != nil {
			return 0, err
		}
		lost[artifact.Digest(d)] += of
		n += of
	}
	return n, rows.Err()
}

// selections are the bundles that an entry names and that do not provably
// precede it.
func selections(ctx context.Context, tx *store.Tx, e *revocation.Entry) ([]selection, error) {
	since := store.Micros(e.InvalidSince.Time)
	const after = ` AND (b.trusted_time = 0 OR b.trusted_time >= ?)`
	one := func(where string, args ...any) []selection {
		return []selection{{where + after, append(args, since)}}
	}
	switch e.Kind {
	case revocation.Key:
		return one(`b.key = ?`, e.Key), nil
	case revocation.Certificate:
		return one(`b.serial <> '' AND b.serial = ? AND b.authority = ?`, e.Serial, e.Issuer), nil
	case revocation.Builder:
		return one(`b.builder <> '' AND b.builder = ?`, e.Builder), nil
	case revocation.Log:
		where, args := `b.log_id <> '' AND b.log_id = ? AND b.log_index >= ?`, []any{e.LogID, *e.From}
		if e.To != nil {
			where, args = where+` AND b.log_index <= ?`, append(args, *e.To)
		}
		// The log's own word for its time is in doubt.
		return []selection{{where + ` AND (b.time_source <> 'tsa' OR b.trusted_time >= ?)`, append(args, since)}}, nil
	case revocation.Identity:
		const signer = `b.identity <> '' AND b.issuer = ? AND b.identity = ?`
		if e.Match == revocation.Exact {
			return one(signer, e.Issuer, e.Subject), nil
		}
		signers, err := matching(ctx, tx, e)
		if err != nil {
			return nil, err
		}
		var out []selection
		for _, s := range signers {
			out = append(out, one(signer, s.Issuer, s.Subject)...)
		}
		return out, nil
	}
	return nil, fault.Newf(fault.Internal, "impact of a revocation of kind %q", string(e.Kind))
}

// matching lists the signers of a pattern.
func matching(ctx context.Context, tx *store.Tx, e *revocation.Entry) (out []Signer, err error) {
	issuer, err := glob.Parse(e.Issuer)
	if err != nil {
		return nil, err
	}
	subject, err := glob.Parse(e.Subject)
	if err != nil {
		return nil, err
	}
	q, args := `SELECT DISTINCT b.issuer, b.identity FROM evidence_bundle b WHERE b.identity <> ''`, []any(nil)
	if issuer.IsExact() {
		q, args = q+` AND b.issuer = ?`, []any{e.Issuer}
	}
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s Signer
		if err := rows.Scan(&s.Issuer, &s.Subject); err != nil {
			return nil, err
		}
		if issuer.Match(s.Issuer) && subject.Match(s.Subject) {
			out = append(out, s)
		}
	}
	return out, rows.Err()
}

// Backfill looks up, of bundles that were kept before revocation came, what a
// revocation may name: certificate and builder; and of provenance that was kept
// before evidence about commits was, the commit. It gives how many it did, at
// most limit; 0 says that none is left.
func (s *Store) Backfill(ctx context.Context, limit int) (n int, err error) {
	var ids []string
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		ids = nil
		var err error
		ids, err = store.Values[string](ctx, tx, `SELECT id FROM evidence_bundle WHERE serial IS NULL
			UNION SELECT id FROM evidence_bundle WHERE built IS NULL AND builder <> '' ORDER BY id LIMIT ?`, limit)
		return err
	}); err != nil {
		return 0, err
	}
	for _, id := range ids {
		var m maker
		raw, err := s.Bundle(ctx, id)
		switch {
		case errors.Is(err, fault.Tampered), errors.Is(err, fault.NotFound):
			// Told of where it is read; it verifies no more.
		case err != nil:
			return n, fmt.Errorf("backfill %s: %w", id, err)
		default:
			if b, err := attestation.ParseBundle(raw, s.limits.Attestation); err == nil {
				m = makerOfBundle(b, s.limits.Attestation)
			}
		}
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE evidence_bundle SET serial = ?, authority = ?, builder = ?, built = 1 WHERE id = ?`, m.serial, m.authority, m.builder, id); err != nil {
				return err
			}
			return insertBuilt(ctx, tx, id, m.source)
		}); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func makerOfBundle(b *attestation.Bundle, lim attestation.Limits) (m maker) {
	if c := b.Certificate(); c != nil {
		m.serial, m.authority = c.SerialNumber.Text(16), short(c.Issuer.String())
	}
	if e := b.Envelope(); e != nil {
		if st, err := e.Statement(lim); err == nil {
			m.builder, m.source = provenanceOf(st)
		}
	}
	return m
}
