package keyring

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// envelope is what opens the key files of a folder: a random data key that
// seals them all, itself sealed once for each way to unlock it. Changing the
// secret is then one atomic write.
//
// It holds two data keys while files go from one to the other: each file names
// the one that it is sealed under, so that a crash anywhere leaves every file
// readable, and whoever opens the folder next carries it to its end.
type envelope struct {
	Version int            `json:"version"`
	Keys    []*envelopeKey `json:"keys"` // one, or the old one and the new one
	// Sealing says that files in the clear are still being sealed.
	Sealing bool `json:"sealing,omitempty"`

	open map[string][]byte // data keys that have been opened, by id
}

// envelopeKey is a data key, which only ever leaves a slot in memory.
type envelopeKey struct {
	ID    string `json:"id"` // 16 hex digits, random
	Slots []slot `json:"slots"`
}

const (
	envelopeFile    = "envelope.json"
	envelopeVersion = 1
	maxEnvelope     = 1 << 20
	maxSlots        = 8
	dataKeySize     = 32

	headerVersion = "Version"
	headerKey     = "Key"
	sealedVersion = "2"
)

func newEnvelope(ctx context.Context, unlock ...*Unlocker) (*envelope, error) {
	e := &envelope{Version: envelopeVersion, open: map[string][]byte{}}
	return e, e.add(ctx, unlock...)
}

// add makes a new data key, for all files from now on.
func (e *envelope) add(ctx context.Context, unlock ...*Unlocker) error {
	id, key := make([]byte, 8), make([]byte, dataKeySize)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	if _, err := rand.Read(key); err != nil {
		return err
	}
	k := &envelopeKey{ID: hex.EncodeToString(id)}
	e.Keys = append(e.Keys, k)
	e.open[k.ID] = key
	return e.seal(ctx, unlock...)
}

// seal gives every data key the slots of these ways to unlock and no others.
func (e *envelope) seal(ctx context.Context, unlock ...*Unlocker) error {
	if len(unlock) == 0 || len(unlock) > maxSlots {
		return fault.Newf(fault.Invalid, "%d ways to unlock: want from 1 to %d", len(unlock), maxSlots)
	}
	for _, k := range e.Keys {
		k.Slots = nil
		for _, u := range unlock {
			s, err := u.wrap(ctx, k.ID, e.open[k.ID])
			if err != nil {
				return err
			}
			k.Slots = append(k.Slots, s)
		}
	}
	return nil
}

// current is the data key that files are sealed under.
func (e *envelope) current() *envelopeKey { return e.Keys[len(e.Keys)-1] }

func (e *envelope) write(dir string) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, envelopeFile), append(b, '\n'), 0o600)
}

// readEnvelope reads the envelope of a folder; nil when there is none.
func readEnvelope(dir string) (*envelope, error) {
	path := filepath.Join(dir, envelopeFile)
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := durable.CheckPrivate(path); err != nil {
		return nil, err
	}
	if st.Size() > maxEnvelope {
		return nil, fault.Newf(fault.Tampered, "%s: %d bytes are too many", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	e, err := parseEnvelope(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

func parseEnvelope(b []byte) (*envelope, error) {
	e := &envelope{open: map[string][]byte{}}
	if err := strictjson.Unmarshal(b, e, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Tampered, "the envelope of the keys does not read: restore it from a backup (%w)", err)
	}
	if e.Version != envelopeVersion {
		return nil, fault.Newf(fault.Conflict, "the envelope has version %d, and this Assay knows %d: use a newer one", e.Version, envelopeVersion)
	}
	bad := len(e.Keys) == 0 || len(e.Keys) > 2
	for _, k := range e.Keys {
		bad = bad || k == nil || len(k.ID) != 16 || len(k.Slots) == 0 || len(k.Slots) > maxSlots
	}
	if bad {
		return nil, fault.Newf(fault.Tampered, "the envelope of the keys is damaged: want one or two data keys with 1 to %d slots each; restore it from a backup", maxSlots)
	}
	return e, nil
}

// unlock opens all data keys.
func (e *envelope) unlock(ctx context.Context, u *Unlocker) error {
	for _, k := range e.Keys {
		var errs []error
		for _, s := range k.Slots {
			key, err := u.unwrap(ctx, k.ID, s)
			if err == nil {
				e.open[k.ID] = key
				break
			}
			errs = append(errs, err)
		}
		if e.open[k.ID] == nil {
			return errors.Join(errs...)
		}
	}
	return nil
}

// openEnvelope brings folder and configuration together: what is sealed must be
// opened, and what shall be sealed must not lie in the clear.
func (f *Folder) openEnvelope(ctx context.Context) error {
	e, err := readEnvelope(f.o.Dir)
	if err != nil {
		return err
	}
	names, err := f.files()
	if err != nil {
		return err
	}
	clear, sealed, older, err := f.forms(names)
	if err != nil {
		return err
	}
	switch {
	case e == nil && len(sealed) > 0:
		return fault.Newf(fault.Tampered, "%s is gone, and without it the keys %s cannot be opened: restore it from a backup", filepath.Join(f.o.Dir, envelopeFile), strings.Join(sealed, ", "))
	case e == nil && f.o.Unlock == nil && len(older) > 0:
		return fault.Newf(fault.Denied, "the keys in %s are sealed: set keys.unlock to what opens them; nothing was changed", f.o.Dir)
	case e == nil && f.o.Unlock == nil:
		return nil
	case e == nil && len(clear) > 0:
		return fault.Newf(fault.Denied, "keys.unlock is set, and the keys %s lie in the clear in %s: stop the server and seal them with assay keys encrypt", strings.Join(clear, ", "), f.o.Dir)
	case e == nil:
		// The form before envelopes: what opens it now will open it then.
		for _, name := range older {
			if _, err := f.read(name); err != nil {
				return fmt.Errorf("%w; nothing was changed", err)
			}
		}
		if e, err = newEnvelope(ctx, f.o.Unlock); err != nil {
			return err
		}
		e.Sealing = len(older) > 0
		if err := e.write(f.o.Dir); err != nil {
			return err
		}
	case f.o.Unlock == nil:
		return fault.Newf(fault.Denied, "the keys in %s are sealed (%s): set keys.unlock to what opens them; nothing was changed", f.o.Dir, e.current().ways())
	default:
		if err := e.unlock(ctx, f.o.Unlock); err != nil {
			return fmt.Errorf("keys in %s: %w; nothing was changed", f.o.Dir, err)
		}
	}
	f.envelope = e
	if e.Sealing || len(e.Keys) > 1 {
		f.o.Logger.Info("sealing of the keys was interrupted and goes on", "folder", f.o.Dir)
		return f.finish()
	}
	if len(clear) > 0 {
		return fault.Newf(fault.Tampered, "the keys in %s are sealed, and these lie in the clear: %s. Somebody put them there: restore the folder from a backup", f.o.Dir, strings.Join(clear, ", "))
	}
	return nil
}

// forms tells the files in the clear, those sealed under an envelope, and those
// sealed in the older form apart.
func (f *Folder) forms(names []string) (clear, sealed, older []string, err error) {
	for _, name := range names {
		data, err := readKeyFile(f.file(name))
		if err != nil {
			return nil, nil, nil, err
		}
		block, _ := pem.Decode(data)
		switch {
		case block == nil:
			return nil, nil, nil, fault.Newf(fault.Tampered, "key %s is damaged: want a PEM block; restore it from a backup", f.file(name))
		case block.Type == typeSealed && block.Headers[headerVersion] == sealedVersion:
			sealed = append(sealed, name)
		case block.Type == typePlain, block.Type == "EC PRIVATE KEY":
			clear = append(clear, name)
		default:
			older = append(older, name)
		}
	}
	return clear, sealed, older, nil
}

// finish brings every file under the current data key, and forgets the others.
func (f *Folder) finish() error {
	names, err := f.files()
	if err != nil {
		return err
	}
	id := f.envelope.current().ID
	for _, name := range names {
		data, err := readKeyFile(f.file(name))
		if err != nil {
			return err
		}
		if block, _ := pem.Decode(data); block != nil && block.Type == typeSealed && block.Headers[headerKey] == id {
			continue
		}
		key, err := f.unseal(name, data)
		if err != nil {
			return fmt.Errorf("key %s: %w", f.file(name), err)
		}
		if e, known := f.index.find(name); known {
			if err := e.same(key.Public()); err != nil {
				return err
			}
		}
		if data, err = f.sealed(name, key); err != nil {
			return err
		}
		if err := durable.WriteFile(f.file(name), data, 0o600); err != nil {
			return err
		}
	}
	f.envelope.Keys, f.envelope.Sealing = f.envelope.Keys[len(f.envelope.Keys)-1:], false
	return f.envelope.write(f.o.Dir)
}

// sealed writes a key in the form that this folder has.
func (f *Folder) sealed(name string, key crypto.Signer) ([]byte, error) {
	if f.envelope == nil {
		return marshal(key, &f.seal)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id := f.envelope.current().ID
	aead, err := gcm(f.envelope.open[id])
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{
		Type:    typeSealed,
		Headers: map[string]string{headerVersion: sealedVersion, headerKey: id},
		Bytes:   aead.Seal(nil, nil, der, sealedData(id, name)),
	}), nil
}

// sealedData binds a file to its data key and to its name, so that one key
// cannot be put in another's place.
func sealedData(id, name string) []byte {
	return []byte("assay sealed key v2\n" + id + "\n" + name + "\n")
}

// unseal reads a key file of whatever form.
func (f *Folder) unseal(name string, data []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != typeSealed || block.Headers[headerVersion] != sealedVersion {
		return parse(data, &f.seal)
	}
	if b, _ := pem.Decode(rest); b != nil {
		return nil, fault.Newf(fault.Tampered, "want one PEM block, found more")
	}
	id := block.Headers[headerKey]
	if f.envelope == nil || f.envelope.open[id] == nil {
		return nil, fault.Newf(fault.Tampered, "it is sealed under data key %.16q, which the envelope does not have: restore keys and envelope from one backup", id)
	}
	aead, err := gcm(f.envelope.open[id])
	if err != nil {
		return nil, err
	}
	der, err := aead.Open(nil, nil, block.Bytes, sealedData(id, name))
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "its bytes are not what was sealed under this name: restore the file from a backup")
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.Wrap(fault.Tampered, err)
	}
	return signer(key)
}

// gcm is AES-256-GCM that makes and carries its own nonces (NIST SP 800-38D,
// section 8.2.2), the form that FIPS 140-3 approves.
func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
