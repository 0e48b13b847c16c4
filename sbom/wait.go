package sbom

import (
	"context"
	"time"

	"assay/artifact"
	"assay/evidence"
	"assay/store"
	"assay/store/lane"
)

// Waiting is a signed bill of materials that was taken in and is not read yet.
type Waiting struct {
	Attestation string
	Since       time.Time // when it was taken in
}

// Waits lists the signed bills of materials about a subject that are not read
// yet, at most 16, the oldest first. One that was refused does not wait.
func (s *Store) Waits(ctx context.Context, tx *store.Tx, subject artifact.Digest) (all []Waiting, err error) {
	rows, err := tx.Query(ctx, `SELECT b.id, b.predicate_type, b.ingested_at FROM `+evidence.About+` WHERE s.subject = ?
		AND NOT EXISTS (SELECT 1 FROM sbom_document d WHERE d.attestation = b.id AND d.subject = s.subject AND d.state <> ?) ORDER BY b.ingested_at, b.id`, string(subject), stateReading)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var w Waiting
		var kind string
		var at int64
		if err := rows.Scan(&w.Attestation, &kind, &at); err != nil {
			return nil, err
		}
		if w.Since = store.Time(at); IsPredicate(kind) && len(all) < 16 {
			all = append(all, w)
		}
	}
	return all, rows.Err()
}

// Hasten has what waits about a subject read before what is less critical.
func (s *Store) Hasten(ctx context.Context, tx *store.Tx, all []Waiting, tier int) error {
	for _, w := range all {
		if _, err := tx.Exec(ctx, `INSERT INTO sbom_pending (attestation, asked, tries, tier) VALUES (?, ?, 0, ?)
			ON CONFLICT (attestation) DO UPDATE SET tier = CASE WHEN sbom_pending.tier > excluded.tier THEN excluded.tier ELSE sbom_pending.tier END`,
			w.Attestation, store.Micros(tx.Now()), tier); err != nil {
			return err
		}
	}
	return nil
}

// took notes what reading an attestation's documents cost, each its part.
func (s *Store) took(ctx context.Context, attestation string, c lane.Cost) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE sbom_document SET read_cpu = ?, read_wall = ? WHERE attestation = ? AND read_wall = 0`, c.CPU.Microseconds(), max(c.Wall.Microseconds(), 1), attestation)
		return err
	})
}
