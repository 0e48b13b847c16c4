//go:build !pkcs11 || !cgo

package pkcs11

import (
	"context"
	"crypto"

	"assay/internal/fault"
)

// Close ends the sessions of all tokens.
func Close() {}

// Available says whether this build can open tokens.
const Available = false

// Open gives the private key that uri names.
func Open(_ context.Context, uri string) (crypto.Signer, error) {
	if _, err := Parse(uri); err != nil {
		return nil, err
	}
	return nil, fault.Newf(fault.Invalid, "this build has no PKCS #11: use one made with CGO_ENABLED=1 go build -tags pkcs11 (make pkcs11)")
}
