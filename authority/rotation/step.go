package rotation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

func marshal(k *Key) ([]byte, error) { return strictjson.Marshal(k) }

func algorithm(pub crypto.PublicKey) string {
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + p.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", p.N.BitLen())
	}
	return fmt.Sprintf("%T", pub)
}

// Run steps until ctx ends, at intervals and whenever a rotation was begun.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.o.Every)
	defer tick.Stop()
	for {
		if _, err := k.Step(ctx); err != nil && ctx.Err() == nil {
			k.o.Logger.Error("key rotation: a step failed and is tried again", "error", err)
		}
		next := k.next(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-k.wake:
		case <-next:
		}
	}
}

func (k *Keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// next fires when a key is due that is due before the next tick.
func (k *Keeper) next(ctx context.Context) <-chan time.Time {
	keys, err := k.List(ctx)
	if err != nil {
		return nil
	}
	now := k.o.Clock()
	first := k.o.Every
	for _, key := range keys {
		s := k.o.Schedule(key.Role)
		for _, t := range []time.Time{s.TakesOver(key), s.Due(key)} {
			if d := t.Sub(now); !t.IsZero() && d < first {
				first = max(d, time.Second)
			}
		}
	}
	if first == k.o.Every {
		return nil
	}
	return time.After(first)
}

// Step does all that is due: it publishes, changes keys over, ends windows,
// destroys what is not needed, makes the keys that the schedule asks for, and
// tells of what expires. Each change is one transaction under the lease; a crash
// between two leaves what the next call goes on from. changed says that rows
// were written. Without the lease, another process is at it and nothing is done.
func (k *Keeper) Step(ctx context.Context) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	held, epoch, err := k.o.DB.Lease(ctx, k.lease, k.o.Holder, leaseFor)
	if err != nil || !held {
		return false, err
	}
	defer func() { err = errors.Join(err, k.o.DB.Release(context.WithoutCancel(ctx), k.lease, k.o.Holder)) }()
	var errs []error
	for range 16 { // a step can make another one due: made, published, in force
		wrote, err := k.round(ctx, epoch)
		changed = changed || wrote
		if err != nil {
			errs = append(errs, err)
			break
		}
		if !wrote {
			break
		}
	}
	return changed, errors.Join(append(errs, k.watch(ctx, epoch))...)
}

// round applies the rows and does what they make due.
func (k *Keeper) round(ctx context.Context, epoch int64) (bool, error) {
	waiting, err := k.o.Apply(ctx)
	if err != nil {
		return false, err
	}
	if err := k.destroy(ctx, epoch); err != nil {
		return false, err
	}
	if err := k.scheduled(ctx); err != nil {
		return false, err
	}
	wrote := false
	err = k.o.DB.Update(ctx, func(tx *store.Tx) error {
		wrote = false
		if err := tx.Fence(ctx, k.lease, epoch); err != nil {
			return err
		}
		keys, err := Load(ctx, tx)
		if err != nil {
			return err
		}
		for i := range keys {
			if !k.mine(keys[i].Role) {
				continue
			}
			if why := waiting[keys[i].Role]; why != "" {
				k.o.Logger.Warn("a rotation waits", "role", keys[i].Role, "key", keys[i].Name, "for", why)
				continue
			}
			did, err := k.advance(ctx, tx, keys, &keys[i])
			if err != nil {
				return fmt.Errorf("key %s: %w", keys[i].Name, err)
			}
			wrote = wrote || did
		}
		return nil
	})
	return wrote, err
}

// advance takes a key one state further, when it is due.
func (k *Keeper) advance(ctx context.Context, tx *store.Tx, keys []Key, key *Key) (bool, error) {
	now := tx.Now().UTC()
	switch key.State {
	case Pending:
		if key.Published.IsZero() {
			// Apply published it just now.
			key.Published = now
			return true, put(ctx, tx, key, false)
		}
		if now.Before(k.o.Schedule(key.Role).TakesOver(*key)) {
			return false, nil
		}
		return true, k.takeOver(ctx, tx, ActiveOf(keys, key.Role), key)
	case Retiring:
		if !now.After(key.End) {
			return false, nil
		}
		key.State, key.Retired = Retired, now
		if err := put(ctx, tx, key, false); err != nil {
			return false, err
		}
		return true, tell(ctx, tx, event.KeyRetired, key, map[string]any{"end": key.End.Format(time.RFC3339), "reason": key.Reason})
	}
	return false, nil
}

// takeOver makes a pending key the active one, and gives the window of the key
// before it an end.
func (k *Keeper) takeOver(ctx context.Context, tx *store.Tx, old, next *Key) error {
	now := tx.Now().UTC()
	old.State = Retiring
	if old.Reason != ReasonCompromised {
		// Whole seconds, rounded up: timestamps have no finer ones.
		old.End = now.Add(old.Role.Grace() + time.Second).Truncate(time.Second)
	}
	next.State, next.Activated = Active, now
	for _, k := range []*Key{old, next} {
		if err := put(ctx, tx, k, true); err != nil {
			return err
		}
	}
	return tell(ctx, tx, event.KeyRotated, next, map[string]any{
		"from": old.Fingerprint, "end": old.End.Format(time.RFC3339), "reason": next.Reason,
	})
}

func tell(ctx context.Context, tx *store.Tx, kind event.Kind, k *Key, more map[string]any) error {
	body := map[string]any{"role": k.Role, "name": k.Name, "fingerprint": k.Fingerprint}
	for name, v := range more {
		if v != "" {
			body[name] = v
		}
	}
	return event.Append(ctx, tx, event.Event{Kind: kind, Actor: actor, Body: body})
}

// destroy ends the private halves of keys that were retired, after the running
// server has let go of them.
func (k *Keeper) destroy(ctx context.Context, epoch int64) error {
	if k.o.Archive {
		return nil
	}
	keys, err := k.List(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if key.State != Retired || key.Gone || !k.mine(key.Role) {
			continue
		}
		if err := k.o.Keys.Retire(ctx, key.Name); err != nil {
			return fmt.Errorf("destroy key %s: %w", key.Name, err)
		}
		key.Gone = true
		if err := k.o.DB.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Fence(ctx, k.lease, epoch); err != nil {
				return err
			}
			now := key
			return put(ctx, tx, &now, false)
		}); err != nil {
			return err
		}
		k.o.Logger.Info("private key destroyed", "role", key.Role, "key", key.Name, "fingerprint", key.Fingerprint)
	}
	return nil
}

// scheduled makes the keys that are due. One that cannot be made does not keep
// the others.
func (k *Keeper) scheduled(ctx context.Context) error {
	keys, err := k.List(ctx)
	if err != nil {
		return err
	}
	now := k.o.Clock()
	for _, key := range keys {
		due := k.o.Schedule(key.Role).Due(key)
		if !k.mine(key.Role) || due.IsZero() || now.Before(due) || len(In(keys, key.Role, Pending)) > 0 || len(Of(keys, key.Role)) >= maxKeys {
			continue
		}
		next, err := k.make(ctx, Request{Role: key.Role}, len(Of(keys, key.Role))+1)
		if err == nil {
			err = k.begin(ctx, Request{Role: key.Role}, &next)
		}
		if err != nil && !errors.Is(err, fault.Conflict) {
			k.failed.WithLabelValues(string(key.Role)).Inc()
			k.o.Logger.Error("the key that follows could not be made; it is tried again", "role", key.Role, "error", err)
			continue
		}
		if _, err := k.o.Apply(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watch measures what expires and tells of it, once a threshold.
func (k *Keeper) watch(ctx context.Context, epoch int64) error {
	keys, err := k.List(ctx)
	if err != nil {
		return err
	}
	now := k.o.Clock().UTC()
	for _, key := range keys {
		if key.State != Active || !k.mine(key.Role) {
			continue
		}
		expires := earliest(key.Expires(), k.o.Expires(key.Role))
		if end := earliest(expires, scheduledEnd(key, k.o.Schedule(key.Role))); !end.IsZero() {
			k.expiry.WithLabelValues(string(key.Role)).Set(end.Sub(now).Seconds())
		} else {
			k.expiry.DeleteLabelValues(string(key.Role))
		}
		if expires.IsZero() {
			continue
		}
		below := int64(threshold(expires.Sub(now), k.o.Alerts) / time.Second)
		if below == key.Alerted || below > key.Alerted && key.Alerted != 0 {
			continue
		}
		told := below != 0
		key.Alerted = below
		if err := k.o.DB.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Fence(ctx, k.lease, epoch); err != nil {
				return err
			}
			row := key
			if err := put(ctx, tx, &row, false); err != nil || !told {
				return err
			}
			return tell(ctx, tx, event.KeyExpiring, &row, map[string]any{
				"expires": expires.Format(time.RFC3339), "threshold_seconds": below,
			})
		}); err != nil {
			return err
		}
		if told {
			k.o.Logger.Warn("a key expires: rotate it", "role", key.Role, "key", key.Name, "expires", expires, "command", "assay keys rotate "+string(key.Role))
		}
	}
	return nil
}

func scheduledEnd(k Key, s Schedule) time.Time {
	if s.Every == 0 {
		return time.Time{}
	}
	return k.Activated.Add(s.Every)
}

// earliest is the first of two ends; a zero one is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
