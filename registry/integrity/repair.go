package integrity

import (
	"context"
	"io"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
	"assay/store"
)

// Repair replaces a damaged blob with what from gives, which must hash to d: it
// is checked before the damaged bytes go. Then the quarantine that the damage
// made ends, where nothing else is damaged; those that persons made stay. A blob
// that is not damaged is fault.NotFound.
func (c *Checker) Repair(ctx context.Context, d artifact.Digest, from io.Reader) error {
	if err := d.Validate(); err != nil {
		return err
	}
	c.forget()
	if bad, err := c.isDamaged(ctx, d); err != nil {
		return err
	} else if !bad {
		return fault.Newf(fault.NotFound, "%s is not known to be damaged; scrub it first", d)
	}
	w, err := c.o.Blobs.Create(ctx)
	if err != nil {
		return err
	}
	h := d.Hash()
	if _, err := io.Copy(io.MultiWriter(w, h), from); err != nil {
		_ = w.Cancel() // the copy's error says more
		return fault.Newf(fault.KindOf(err), "repair %s: %w", d, err)
	}
	if got := artifact.NewDigest(d.Algorithm(), h.Sum(nil)); got != d {
		_ = w.Cancel()
		return fault.Newf(fault.Invalid, "repair %s: the source gave %s; nothing was changed", d, got)
	}
	if err := c.replace(ctx, d, w); err != nil {
		return err
	}
	if found, err := c.Check(ctx, d); err != nil || found != nil {
		if err == nil {
			err = fault.Newf(fault.Tampered, "repair %s: what was written reads as %s", d, found.Found)
		}
		return err
	}
	return c.repaired(ctx, d)
}

// replace puts w in the place of what lies under d. A store writes nothing over
// a blob that it has, so that goes first: it is served to nobody, and a crash
// between leaves it damaged, to be repaired again.
func (c *Checker) replace(ctx context.Context, d artifact.Digest, w blob.Writer) error {
	if err := c.o.Blobs.Delete(ctx, d); err != nil && fault.KindOf(err) != fault.NotFound {
		_ = w.Cancel()
		return err
	}
	return w.Commit(ctx, d)
}

func (c *Checker) repaired(ctx context.Context, d artifact.Digest) error {
	return c.o.DB.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM integrity_damage WHERE digest = ?`, string(d)); err != nil {
			return err
		}
		list, err := needers(ctx, tx, d)
		if err != nil {
			return err
		}
		for _, m := range list {
			still, err := hurt(ctx, tx, m)
			if err != nil {
				return err
			}
			if still {
				continue
			}
			if err := c.o.Gate.ReleaseRepaired(ctx, tx, m, "the stored bytes of "+string(d)+" were repaired"); err != nil {
				return err
			}
		}
		tx.OnCommit(c.forget)
		return nil
	})
}
