package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/fault"
)

// Lease acquires or renews the named lease for ttl from now. holder names one
// run of one process, never a host: two processes with one name would both
// hold it.
//
// held tells whether holder has the lease. epoch is its fencing token: it rises
// at each change of holder, so that what a former holder still does can be told
// from what the present one does; pass it to [Tx.Fence] in every transaction
// done under the lease. Without the lease, epoch is the present holder's.
//
// Leases are timed by each process's clock. Clocks that differ by more than
// ttl may move a lease early; the epoch makes that harmless.
func (db *DB) Lease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, epoch int64, err error) {
	if name == "" || holder == "" || ttl <= 0 {
		return false, 0, fault.Newf(fault.Internal, "lease %q of %q for %s: want a name, a holder and a time", name, holder, ttl)
	}
	err = db.Update(ctx, func(tx *Tx) error {
		var owner string
		var expires int64
		err := tx.QueryRow(ctx, `SELECT holder, epoch, expires FROM lease WHERE name = ?`, name).Scan(&owner, &epoch, &expires)
		now, until := Micros(tx.Now()), Micros(tx.Now().Add(ttl))
		switch {
		case errors.Is(err, fault.NotFound):
			held, epoch = true, 1
			_, err = tx.Exec(ctx, `INSERT INTO lease (name, holder, epoch, expires) VALUES (?, ?, ?, ?)`, name, holder, epoch, until)
			return err
		case err != nil:
			return err
		case owner == holder:
			// Even when late: nobody else has held it meanwhile.
		case expires > now:
			held = false
			return nil
		default:
			epoch++
		}
		held = true
		_, err = tx.Exec(ctx, `UPDATE lease SET holder = ?, epoch = ?, expires = ? WHERE name = ?`, holder, epoch, until, name)
		return err
	})
	if err != nil {
		return false, 0, fmt.Errorf("lease %s: %w", name, err)
	}
	return held, epoch, nil
}

// Release gives the lease up, if holder has it, so that the next one need not
// wait for its end.
func (db *DB) Release(ctx context.Context, name, holder string) error {
	err := db.Update(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `UPDATE lease SET expires = 0 WHERE name = ? AND holder = ?`, name, holder)
		return err
	})
	if err != nil {
		return fmt.Errorf("release lease %s: %w", name, err)
	}
	return nil
}

// Fence fails the transaction with [fault.Conflict] unless epoch still is the
// named lease's: the caller has lost it and must stop. Since the check is part
// of the transaction, a holder that was stopped for an hour changes nothing.
func (tx *Tx) Fence(ctx context.Context, name string, epoch int64) error {
	var now int64
	err := tx.QueryRow(ctx, `SELECT epoch FROM lease WHERE name = ?`, name).Scan(&now)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return fmt.Errorf("fence %s: %w", name, err)
	}
	if err != nil || now != epoch {
		return tx.fail(fault.Newf(fault.Conflict, "lease %s: epoch is %d, this process held %d: another has taken over", name, now, epoch))
	}
	return nil
}
