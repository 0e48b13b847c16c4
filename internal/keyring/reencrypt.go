package keyring

import (
	"context"
	"errors"

	"assay/internal/fault"
)

// Encrypt seals the key files of a folder that lie in the clear. It may be
// interrupted anywhere; opening the folder with the same secret goes on with
// it. What backups hold of the files in the clear stays readable.
func Encrypt(ctx context.Context, o Options, unlock ...*Unlocker) (*Folder, error) {
	if len(unlock) == 0 {
		return nil, fault.Newf(fault.Invalid, "seal the keys: want a way to unlock them")
	}
	o.Unlock = unlock[0]
	if e, err := readEnvelope(o.Dir); err != nil {
		return nil, err
	} else if e != nil {
		f, err := OpenFolder(ctx, o) // goes on with what was interrupted
		if errors.Is(err, fault.Denied) {
			return nil, fault.Newf(fault.Conflict, "the keys are sealed already: change what opens them with assay keys reencrypt (%w)", err)
		}
		return f, err
	}
	o.Unlock = nil
	f, err := OpenFolder(ctx, o)
	if err != nil {
		return nil, err
	}
	if f.envelope, err = newEnvelope(ctx, unlock...); err != nil {
		return nil, err
	}
	f.envelope.Sealing = true
	if err := f.envelope.write(f.o.Dir); err != nil {
		return nil, err
	}
	return f, f.finish()
}

// Reencrypt gives a sealed folder another secret, or other ones: every file is
// sealed anew under a new data key, which they open. o.Unlock is what opens the
// folder now. It may be interrupted anywhere: before the envelope is exchanged,
// in one atomic write, the old secret opens everything, after it the new one
// does, and whoever opens the folder next goes on.
func Reencrypt(ctx context.Context, o Options, unlock ...*Unlocker) (*Folder, error) {
	if len(unlock) == 0 {
		return nil, fault.Newf(fault.Invalid, "seal the keys anew: want a way to unlock them")
	}
	f, err := OpenFolder(ctx, o)
	if errors.Is(err, fault.Denied) {
		// An earlier call may have come past the exchange.
		o.Unlock = unlock[0]
		if f, nerr := OpenFolder(ctx, o); nerr == nil && f.envelope != nil {
			return f, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if f.envelope == nil {
		return nil, fault.Newf(fault.Conflict, "the keys in %s lie in the clear: seal them with assay keys encrypt", o.Dir)
	}
	if err := f.envelope.add(ctx, unlock...); err != nil {
		return nil, err
	}
	if err := f.envelope.write(f.o.Dir); err != nil {
		return nil, err
	}
	return f, f.finish()
}
