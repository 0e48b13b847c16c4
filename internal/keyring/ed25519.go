package keyring

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"

	"assay/internal/fault"
)

// LoadOrCreateEd25519 is LoadOrCreate for an Ed25519 key, for what is read by
// clients that know nothing else.
func (f *Folder) LoadOrCreateEd25519(ctx context.Context, name string) (crypto.Signer, error) {
	key, err := f.Load(ctx, name)
	if !errors.Is(err, fault.NotFound) {
		return key, err
	}
	return f.create(ctx, name, "an Ed25519 key", func(pub crypto.PublicKey) bool {
		_, ok := pub.(ed25519.PublicKey)
		return ok
	}, func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
}
