package keyring

import (
	"context"
	"errors"
	"strings"

	"assay/internal/fault"
	"assay/internal/keyring/kms"
)

// Place says where a named key lies, beside the places that the folder was opened
// with: what rotation makes elsewhere is not in the configuration.
func (f *Folder) Place(name, uri string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	places := map[string]string{name: uri}
	for n, u := range f.o.Places {
		if n != name {
			places[n] = u
		}
	}
	f.o.Places = places
}

// MakeAt makes a key at a place and notes the place for its name; one that lies
// there already is left as it is. A PKCS #11 token makes no keys here, so that
// there the key must be made with the token's own tools.
func (f *Folder) MakeAt(ctx context.Context, name, uri string, rsa bool) error {
	if err := CheckURI(uri); err != nil {
		return err
	}
	_, err := f.o.OpenURI(ctx, uri)
	switch {
	case err == nil:
	case !kms.IsURI(uri):
		return err
	default:
		algorithm, aerr := f.algorithm(ctx, uri, rsa)
		if aerr != nil {
			return errors.Join(err, aerr)
		}
		if _, cerr := kms.Create(ctx, uri, algorithm); cerr != nil {
			return errors.Join(err, cerr)
		}
	}
	f.Place(name, uri)
	return nil
}

// algorithm finds what a KMS calls P-256, or RSA of 2,048 bits.
func (f *Folder) algorithm(ctx context.Context, uri string, rsa bool) (string, error) {
	names, err := kms.Algorithms(ctx, uri)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		plain := strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(n))
		switch {
		case rsa && strings.Contains(plain, "rsa") && strings.Contains(plain, "2048") && !strings.Contains(plain, "pss"):
			return n, nil
		case !rsa && strings.Contains(plain, "p256") && !strings.Contains(plain, "p256k"):
			return n, nil
		case !rsa && strings.Contains(plain, "ecdsa") && strings.Contains(plain, "256") && !strings.Contains(plain, "k1"):
			return n, nil
		}
	}
	return "", fault.Newf(fault.Invalid, "the KMS at %s offers no fitting algorithm among %v", Redact(uri), names)
}
