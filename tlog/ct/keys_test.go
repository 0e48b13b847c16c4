package ct

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/tlog"
)

// The certificate log goes on under another key: SCTs name the key that made
// them, and the tree is one.
func TestKeysFollow(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, tlog.Migrations); err != nil {
			t.Fatal(err)
		}
		key := func() *ecdsa.PrivateKey {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		a, b := key(), key()
		o := Options{Options: tlog.Options{Dir: t.TempDir(), Origin: "log.example/ct", Signer: a, DB: db, Clock: clock.Fixed(at)}}
		c, err := Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		add := func(k *ecdsa.PrivateKey, want uint64) {
			t.Helper()
			tbs := []byte{byte(want), 1, 2, 3}
			sct, err := c.AddPreCert(ctx, tbs, [32]byte{7})
			if err != nil {
				t.Fatal(err)
			}
			o := o
			o.Signer = k
			if got := checkSCT(t, c, o, sct, tbs, [32]byte{7}); got != want {
				t.Errorf("index %d, want %d", got, want)
			}
		}
		add(a, 0)
		if err := c.SetKeys(ctx, tlog.Keys{Signer: b}); err != nil {
			t.Fatal(err)
		}
		if id, _, err := tlog.KeyID(o.Origin, b.Public()); err != nil || c.ID() != id {
			t.Errorf("log id: %v", err)
		}
		add(b, 1)
		weak, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		for name, k := range map[string]tlog.Keys{"RSA": {Signer: weak}, "none": {}} {
			if err := c.SetKeys(ctx, k); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		add(b, 2)
	})
}
