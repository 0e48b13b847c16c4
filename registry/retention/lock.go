package retention

import (
	"context"
	"errors"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// lock has the object store lock what a hold covers now. What cannot be locked
// is told and no error: the hold counts by itself.
func (s *Holds) lock(ctx context.Context, h *Hold) {
	if s.locker == nil {
		h.ObjectLock = "none: blobs are local files; who has their folder can delete them"
		return
	}
	n, err := s.each(ctx, h, func(d artifact.Digest) error {
		err := s.locker.LegalHold(ctx, d, true)
		if errors.Is(err, fault.NotFound) {
			return nil
		}
		return err
	})
	h.Locked = n
	switch {
	case errors.Is(err, fault.Invalid):
		h.ObjectLock = "none: " + err.Error()
	case err != nil:
		h.ObjectLock = "not all objects could be locked; add the hold again: " + err.Error()
		s.log.WarnContext(ctx, "objects of a legal hold could not be locked", "hold", h.ID, "locked", n, "error", err)
	default:
		h.ObjectLock = "locked in the bucket, as long as the hold lasts"
	}
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE retention_hold SET locked = ? WHERE id = ?`, n, h.ID)
		return err
	}); err != nil {
		s.log.WarnContext(ctx, "how many objects are locked could not be noted", "hold", h.ID, "error", err)
	}
}

// unlock gives the objects of a hold that ended free, but for those that another
// hold covers.
func (s *Holds) unlock(ctx context.Context, h *Hold) error {
	if s.locker == nil || h.Locked == 0 {
		return nil
	}
	others, err := s.List(ctx, false)
	keep := map[artifact.Digest]bool{}
	for i := range others {
		if err == nil {
			_, err = s.each(ctx, &others[i], func(d artifact.Digest) error { keep[d] = true; return nil })
		}
	}
	if err == nil {
		_, err = s.each(ctx, h, func(d artifact.Digest) error {
			if keep[d] {
				return nil
			}
			if err := s.locker.LegalHold(ctx, d, false); !errors.Is(err, fault.NotFound) {
				return err
			}
			return nil
		})
	}
	return err
}

// each calls fn with what a hold covers: manifests with their parts, evidence
// that is attached to them, and the blobs of all. It says how often fn did.
func (s *Holds) each(ctx context.Context, h *Hold, fn func(artifact.Digest) error) (n int64, err error) {
	seen := map[artifact.Digest]bool{}
	var list []artifact.Digest
	add := func(q string, args ...any) error {
		return s.db.View(ctx, func(tx *store.Tx) error {
			rows, err := tx.Query(ctx, q, args...)
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var d artifact.Digest
				if err := rows.Scan(&d); err != nil {
					return err
				}
				if !seen[d] {
					seen[d] = true
					list = append(list, d)
				}
			}
			return rows.Err()
		})
	}
	if h.Digest != "" {
		seen[h.Digest], list = true, append(list, h.Digest)
	} else if err := add(`SELECT digest FROM registry_manifest WHERE repository = ?`, h.Repository); err != nil {
		return 0, err
	}
	for i := 0; i < len(list); i++ {
		d := string(list[i])
		if err := add(`SELECT child FROM registry_reference WHERE manifest = ? AND kind IN (0, 1)
			UNION SELECT digest FROM registry_manifest WHERE subject = ?`, d, d); err != nil {
			return n, err
		}
		if err := fn(list[i]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
