package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// Retainer is a [Locker] that keeps objects until a time, too: blob/s3 in a
// bucket with Object Lock. A time is never shortened.
type Retainer interface {
	Retain(ctx context.Context, d artifact.Digest, until time.Time) error
}

// lockImages has the object store keep what rules with objectLock keep by age:
// each image with its parts, blobs and evidence, until the longest of the rules
// lets it go. images are of one repository.
func (r *run) lockImages(ctx context.Context, name string, images []registry.Image, rules []*rule) error {
	var keepFor time.Duration
	by := ""
	for _, rule := range rules {
		if rule.ObjectLock && rule.KeepFor > keepFor {
			keepFor, by = rule.KeepFor, rule.Name
		}
	}
	if keepFor == 0 || r.lockless {
		return nil
	}
	retainer, ok := r.o.Holds.locker.(Retainer)
	if !ok {
		r.noLock(by, "blobs are local files; who has their folder can delete them")
		return nil
	}
	for i := range images {
		until := images[i].Newest.Add(keepFor)
		if !until.After(r.now) {
			continue
		}
		_, err := r.o.Holds.each(ctx, &Hold{Repository: name, Digest: images[i].Digest}, func(d artifact.Digest) error {
			return r.lockObject(ctx, retainer, d, until)
		})
		switch {
		case errors.Is(err, fault.Invalid):
			r.noLock(by, err.Error())
			return nil
		case err != nil:
			return fmt.Errorf("lock %s in the bucket: %w", images[i].Digest, err)
		}
	}
	return nil
}

func (r *run) noLock(rule, why string) {
	r.lockless = true
	r.Notes = append(r.Notes, fmt.Sprintf("%s: objectLock locks nothing: %s", rule, why))
}

// lockObject locks one object, unless it is locked for as long already.
func (r *run) lockObject(ctx context.Context, in Retainer, d artifact.Digest, until time.Time) error {
	var have int64
	err := r.o.DB.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT until FROM retention_lock WHERE digest = ?`, string(d)).Scan(&have)
	})
	if err != nil && !errors.Is(err, fault.NotFound) || store.Micros(until) <= have {
		return err
	}
	if r.DryRun {
		if !r.planned[d] {
			r.planned[d] = true
			r.Locked++
		}
		return nil
	}
	if err := in.Retain(ctx, d, until); err != nil {
		if errors.Is(err, fault.NotFound) { // not here: of a gateway, or gone meanwhile
			return nil
		}
		return err
	}
	r.Locked++
	return r.update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO retention_lock (digest, until) VALUES (?, ?)
			ON CONFLICT (digest) DO UPDATE SET until = excluded.until WHERE excluded.until > retention_lock.until`, string(d), store.Micros(until))
		return err
	})
}

// Forget drops what is noted of objects that are deleted: pushed again, they are
// others, and not locked.
func (s *Holds) Forget(ctx context.Context, tx *store.Tx, gone []artifact.Digest) error {
	for _, d := range gone {
		if _, err := tx.Exec(ctx, `DELETE FROM retention_lock WHERE digest = ?`, string(d)); err != nil {
			return err
		}
	}
	return nil
}
