// Package keyring gives private keys by name, and by URI. A [Folder] holds
// named keys: as PKCS #8 PEM files in a folder of mode 0700, sealed when there
// is something to unlock them with, or at a place that the configuration names
// (a KMS, a PKCS #11 token). What was once there is remembered by its public
// fingerprint in an index beside the folder, so that a key that vanished or
// changed is noticed and never replaced in silence.
//
// All keys that are made here are P-256: verifying costs a tenth of P-384.
package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
)

// Options open a [Folder].
type Options struct {
	// Dir is the folder of the key files, mode 0700; made when absent.
	Dir string
	// Index is the file that remembers which keys there are; "" is index.json
	// in Dir. Outside of Dir it tells an empty folder from a lost one.
	Index string
	// Unlock opens and seals the key files; nil means that they lie in the
	// clear, protected by the file mode alone.
	Unlock *Unlocker
	// Places maps names to the URIs of keys that are no files here; see
	// [OpenURI].
	Places map[string]string
	// Removable are names of keys that may be taken off this machine, since they
	// sign at set-up alone: their absence is remembered and is no fault.
	Removable []string
	// OpenURI replaces [OpenURI], for tests.
	OpenURI func(ctx context.Context, uri string) (crypto.Signer, error)
	Clock   clock.Clock
	Logger  *slog.Logger
}

// Folder is a set of named keys. It implements the key store that authority,
// trust and server ask for, and may be used by many goroutines at once. Two
// processes must not use one folder: the lock of the data folder sees to that.
type Folder struct {
	o        Options
	seal     seal // of files sealed by a passphrase alone, an older form
	envelope *envelope

	mu    sync.Mutex
	index index
}

// Open opens a folder of keys with the index inside, making it when absent.
// passphrase seals and unseals them; nil means that they lie in the clear.
func Open(dir string, passphrase []byte) (*Folder, error) {
	var unlock *Unlocker
	if passphrase != nil {
		unlock = Passphrase(passphrase)
	}
	return OpenFolder(context.Background(), Options{Dir: dir, Unlock: unlock})
}

// OpenFolder opens a folder, making it when absent, and finds out whether every
// key that the index knows is still there and still the same one. Errors are
// [fault.Denied] for a secret that does not open it, or modes that let others
// in, and [fault.Tampered] for keys that vanished or changed.
func OpenFolder(ctx context.Context, o Options) (*Folder, error) {
	if o.Index == "" {
		o.Index = filepath.Join(o.Dir, "index.json")
	}
	if o.OpenURI == nil {
		o.OpenURI = func(ctx context.Context, uri string) (crypto.Signer, error) { return OpenURI(ctx, uri, nil) }
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := durable.CheckPrivate(o.Dir); err != nil {
		return nil, err
	}
	f := &Folder{o: o}
	if o.Unlock != nil {
		f.seal.passphrase = o.Unlock.passphrase
	}
	var err error
	if f.index, err = readIndex(o.Index); err != nil {
		return nil, err
	}
	if err := f.present(); err != nil {
		return nil, err
	}
	if err := f.openEnvelope(ctx); err != nil {
		return nil, err
	}
	return f, f.unchanged()
}

// files lists the names of the key files.
func (f *Folder) files() ([]string, error) {
	entries, err := os.ReadDir(f.o.Dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".pem"); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, nil
}

// present says which of the known key files are gone, and follows removable
// keys away and back.
func (f *Folder) present() error {
	var gone []string
	var moved bool
	for _, e := range f.index.Keys {
		_, err := os.Stat(f.file(e.Name))
		there := err == nil
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		switch {
		case e.Where == whereRetired && there:
			// The process died between remembering the end and deleting the file.
			if err := os.Remove(f.file(e.Name)); err != nil {
				return err
			}
		case e.Where == whereOffline && there:
			e.Where, moved = whereFile, true
		case e.Where == whereFile && !there && slices.Contains(f.o.Removable, e.Name):
			e.Where, moved = whereOffline, true
			f.o.Logger.Info("key was taken off this machine", "key", e.Name, "fingerprint", e.Fingerprint)
		case e.Where == whereFile && !there:
			gone = append(gone, e.Name)
		}
	}
	if len(gone) > 0 {
		return fault.Newf(fault.Tampered, "keys that this site had are gone from %s: %s. Nothing is made in their place, since new keys would be another authority and another log: restore the folder from a backup (is its volume mounted?), then start again", f.o.Dir, strings.Join(gone, ", "))
	}
	if moved {
		return f.index.write(f.o.Index)
	}
	return nil
}

// unchanged opens every known key file and compares it with the index.
func (f *Folder) unchanged() error {
	for _, e := range f.index.Keys {
		if e.Where != whereFile {
			continue
		}
		key, err := f.read(e.Name)
		if err != nil {
			return err
		}
		if err := e.same(key.Public()); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) path(name string) (string, error) {
	if name == "" || !filepath.IsLocal(name) || filepath.Base(name) != name || strings.HasPrefix(name, ".") {
		return "", fault.Newf(fault.Invalid, "key name %q: want a plain name", name)
	}
	return f.file(name), nil
}

func (f *Folder) file(name string) string { return filepath.Join(f.o.Dir, name+".pem") }

// read opens a key file in the form that this folder has.
func (f *Folder) read(name string) (crypto.Signer, error) {
	path := f.file(name)
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := f.unseal(name, data)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	return key, nil
}

// Load gives a key; one that is not there is [fault.NotFound], and so is one
// whose place is configured and that was never taken into service. A key that
// was there and is gone, or is another one, is [fault.Tampered].
func (f *Folder) Load(ctx context.Context, name string) (crypto.Signer, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, known := f.index.find(name)
	if uri := f.o.Places[name]; uri != "" {
		if !known {
			return nil, fault.Newf(fault.NotFound, "key %s at %s: not in service yet", name, Redact(uri))
		}
		return f.loadPlace(ctx, e, uri)
	}
	switch {
	case known && e.Where == whereOffline:
		return nil, fault.Newf(fault.NotFound, "key %s was taken off this machine", name)
	case known && e.Where != whereFile:
		return nil, fault.Newf(fault.Conflict, "key %s lies at %s, and the configuration names that place no more: set keys.places.%s again", name, Redact(e.Where), name)
	}
	key, err := f.read(name)
	if errors.Is(err, fault.NotFound) && known {
		return nil, fault.Newf(fault.Tampered, "key %s is gone: restore %s from a backup; a new one would be another key", name, path)
	}
	if err != nil {
		return nil, err
	}
	if known {
		return key, e.same(key.Public())
	}
	// The process died between writing the key and remembering it, or the
	// folder is older than the index.
	return key, f.remember(name, key.Public(), whereFile)
}

// loadPlace opens a key at its configured place. The same key at a new place is
// fine; another key is not.
func (f *Folder) loadPlace(ctx context.Context, e *Entry, uri string) (crypto.Signer, error) {
	key, err := f.o.OpenURI(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", e.Name, err)
	}
	if fp, err := Fingerprint(key.Public()); err != nil || fp != e.Fingerprint {
		return nil, errors.Join(fault.Newf(fault.Tampered, "key %s at %s has fingerprint %s, and this site's has %s: set keys.places.%s back to what it was (%s), or rotate the key with assay keys rotate", e.Name, Redact(uri), fp, e.Fingerprint, e.Name, Redact(e.Where)), err)
	}
	if e.Where != uri {
		e.Where = uri
		return key, f.index.write(f.o.Index)
	}
	return key, nil
}

// Create makes a new P-256 key, durable on return, or takes the key of a
// configured place into service. An existing name is [fault.Conflict].
func (f *Folder) Create(ctx context.Context, name string) (crypto.Signer, error) {
	return f.create(ctx, name, "a P-256 key", func(pub crypto.PublicKey) bool {
		k, ok := pub.(*ecdsa.PublicKey)
		return ok && k.Curve == elliptic.P256()
	}, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
}

// CreateRSA is Create for an RSA key, of 2,048 bits when it is made here: for
// what must be read by clients that know nothing else.
func (f *Folder) CreateRSA(ctx context.Context, name string) (crypto.Signer, error) {
	return f.create(ctx, name, "an RSA key of 2048 bits or more", func(pub crypto.PublicKey) bool {
		k, ok := pub.(*rsa.PublicKey)
		return ok && k.N.BitLen() >= 2048
	}, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
}

func (f *Folder) create(ctx context.Context, name, want string, fits func(crypto.PublicKey) bool, generate func() (crypto.Signer, error)) (crypto.Signer, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.index.find(name); known {
		return nil, fault.Newf(fault.Conflict, "key %s exists already and is not replaced", name)
	}
	if uri := f.o.Places[name]; uri != "" {
		key, err := f.o.OpenURI(ctx, uri)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		if !fits(key.Public()) {
			return nil, fault.Newf(fault.Invalid, "key %s at %s is %s: want %s", name, Redact(uri), Algorithm(key.Public()), want)
		}
		return key, f.remember(name, key.Public(), uri)
	}
	key, err := generate()
	if err != nil {
		return nil, err
	}
	data, err := f.sealed(name, key)
	if err != nil {
		return nil, err
	}
	if err := durable.CreateFile(path, data, 0o600); err != nil {
		return nil, err
	}
	return key, f.remember(name, key.Public(), whereFile)
}

// LoadOrCreate loads a key, making it the first time and never again.
func (f *Folder) LoadOrCreate(ctx context.Context, name string) (crypto.Signer, error) {
	key, err := f.Load(ctx, name)
	if errors.Is(err, fault.NotFound) {
		return f.Create(ctx, name)
	}
	return key, err
}

// Sealed says whether the key files are sealed.
func (f *Folder) Sealed() bool { return f.envelope != nil }

// List gives what is remembered of the keys, by name. Retired ones stay.
func (f *Folder) List() []Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index.list()
}

// Retire ends a key: its file is deleted, its fingerprint and name stay known,
// and the name is not used again. A key at a place of its own is left there.
func (f *Folder) Retire(_ context.Context, name string) error {
	path, err := f.path(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, known := f.index.find(name)
	if !known {
		return fault.Newf(fault.NotFound, "key %s: no such key", name)
	}
	if e.Where != whereRetired {
		e.Where, e.Retired = whereRetired, f.o.Clock().UTC().Truncate(time.Second)
		if err := f.index.write(f.o.Index); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(f.o.Dir)
}

func (f *Folder) remember(name string, pub crypto.PublicKey, where string) error {
	fp, err := Fingerprint(pub)
	if err != nil {
		return err
	}
	f.index.Keys = append(f.index.Keys, &Entry{
		Name: name, Algorithm: Algorithm(pub), Fingerprint: fp, Where: where, Created: f.o.Clock().UTC().Truncate(time.Second),
	})
	return f.index.write(f.o.Index)
}
