package integrity

import (
	"context"
	"errors"
	"io"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

// By says who repairs, and out of what: for the record.
type By struct {
	Actor  string // empty: the system
	Source string // where the bytes come from, in words
}

const actorSystem = "system:integrity"

// sourceInPlace is the source of what somebody put back by hand.
const sourceInPlace = "the store itself, where somebody put it back"

// leaseRepair keeps two processes from replacing the same bytes at once.
const leaseRepair = "repair"

// Repair replaces a damaged blob with what from gives, which must hash to d: it
// is checked before the damaged bytes go. Then the quarantine that the damage
// made ends, where nothing else is damaged; those that persons made stay. A blob
// that is not damaged is fault.NotFound; bytes that are not d's are fault.Invalid,
// change nothing, and are on record.
func (c *Checker) Repair(ctx context.Context, d artifact.Digest, by By, from io.Reader) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if err := c.known(ctx, d); err != nil {
		return err
	}
	size, err := c.size(ctx, d)
	if err != nil {
		return err
	}
	w, err := c.o.Blobs.Create(ctx)
	if err != nil {
		return err
	}
	h := d.Hash()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(from, size.most+1))
	if err != nil {
		_ = w.Cancel() // the copy's error says more
		if errors.Is(err, fault.Tampered) {
			err = errors.Join(err, c.refuse(ctx, d, by, err.Error()))
		}
		return fault.Newf(fault.KindOf(err), "repair %s: %w", d, err)
	}
	got := artifact.NewDigest(d.Algorithm(), h.Sum(nil))
	if n > size.most || got != d {
		_ = w.Cancel()
		found := string(got)
		if n > size.most {
			found = "more bytes than it has"
		}
		err := fault.Newf(fault.Invalid, "repair %s: the source gave %s; nothing was changed", d, found)
		return errors.Join(err, c.refuse(ctx, d, by, found))
	}
	if err := c.replace(ctx, d, w); err != nil {
		return err
	}
	if found, err := c.verify(ctx, d); err != nil || found != nil {
		if err == nil {
			err = fault.Newf(fault.Tampered, "repair %s: what was written reads as %s", d, found.Found)
		}
		return err
	}
	return c.repaired(ctx, d, by, n)
}

// known is nil for what is known to be damaged, as of now.
func (c *Checker) known(ctx context.Context, d artifact.Digest) error {
	c.forget()
	bad, err := c.isDamaged(ctx, d)
	if err == nil && !bad {
		err = fault.Newf(fault.NotFound, "%s is not known to be damaged; scrub it first", d)
	}
	return err
}

// verify hashes what was written, and lifts nothing.
func (c *Checker) verify(ctx context.Context, d artifact.Digest) (*Finding, error) {
	f, err := c.o.Blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return c.hash(ctx, d, f, nil)
}

// replace puts w in the place of what lies under d. A store writes nothing over
// a blob that it has, so that goes first: it is served to nobody, and a crash
// between leaves it damaged, to be repaired again.
func (c *Checker) replace(ctx context.Context, d artifact.Digest, w blob.Writer) (err error) {
	c.replacing.Lock() // the lease is the process's
	defer c.replacing.Unlock()
	defer func() {
		if err != nil {
			_ = w.Cancel()
		}
	}()
	held, _, err := c.o.DB.Lease(ctx, leaseRepair, c.holder, leaseFor)
	if err != nil {
		return err
	}
	if !held {
		return fault.Newf(fault.Conflict, "repair %s: another process of this site replaces a blob at this moment; try again", d)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.o.DB.Release(end, leaseRepair, c.holder) // it ends by itself otherwise
	}()
	// Somebody may have been faster, and what is whole must not go.
	if err := c.known(ctx, d); err != nil {
		return err
	}
	if err := c.o.Blobs.Delete(ctx, d); err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	return w.Commit(ctx, d)
}

type repairedBody struct {
	What    string `json:"what"`
	Name    string `json:"name"`
	Source  string `json:"source"`
	Bytes   int64  `json:"bytes"`
	Release int    `json:"released"`
}

// repaired notes that the stored bytes of d are right again, and releases what
// only they kept back.
func (c *Checker) repaired(ctx context.Context, d artifact.Digest, by By, size int64) error {
	if by.Actor == "" {
		by.Actor = actorSystem
	}
	return c.o.DB.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM integrity_damage WHERE digest = ?`, string(d))
		if err != nil {
			return err
		}
		list, err := needers(ctx, tx, d)
		if err != nil {
			return err
		}
		released := 0
		for _, m := range list {
			still, err := hurt(ctx, tx, m)
			if err != nil {
				return err
			}
			if still {
				continue
			}
			released++
			if err := c.o.Gate.ReleaseRepaired(ctx, tx, m, "the stored bytes of "+string(d)+" were repaired"); err != nil {
				return err
			}
		}
		tx.OnCommit(c.forget)
		if n == 0 {
			return nil // another process noted it
		}
		tx.OnCommit(func() { c.met.repairs.WithLabelValues("repaired").Inc() })
		return event.Append(ctx, tx, event.Event{
			Kind: event.StoreRepaired, Digest: d, Actor: by.Actor,
			Body: repairedBody{"blob", string(d), clip(by.Source), size, released},
		})
	})
}

type refusedBody struct {
	What   string `json:"what"`
	Name   string `json:"name"`
	Source string `json:"source"`
	Found  string `json:"found"`
}

// refuse puts on record that a source has other bytes than d's.
func (c *Checker) refuse(ctx context.Context, d artifact.Digest, by By, found string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	if by.Actor == "" {
		by.Actor = actorSystem
	}
	c.met.repairs.WithLabelValues("refused").Inc()
	return c.o.DB.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{
			Kind: event.StoreRepairRefused, Digest: d, Actor: by.Actor,
			Body: refusedBody{"blob", string(d), clip(by.Source), clip(found)},
		})
	})
}

// clip bounds what comes from outside and goes on record.
func clip(s string) string { return excerpt.Text(s, 500) }
