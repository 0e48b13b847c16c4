package keyring

import (
	"context"
	"crypto"
	"net/url"
	"regexp"
	"strings"

	"assay/internal/fault"
	"assay/internal/keyring/kms"
	"assay/internal/keyring/pkcs11"
)

// OpenURI gives the private key that a URI or a path names:
//
//	PATH, file:PATH        a PEM file, opened with passphrase where it is sealed
//	awskms:// gcpkms:// azurekms:// hashivault:// NAME://
//	plugin+NAME://         a key behind the executable sigstore-kms-NAME
//	pkcs11:                a key of a PKCS #11 token (RFC 7512)
func OpenURI(ctx context.Context, uri string, passphrase []byte) (crypto.Signer, error) {
	switch {
	case strings.HasPrefix(uri, "pkcs11:"):
		return pkcs11.Open(ctx, uri)
	case kms.IsURI(uri):
		return kms.Open(ctx, uri)
	}
	return LoadFile(strings.TrimPrefix(uri, "file:"), passphrase)
}

// IsKeyURI says whether text names a key that is not a file.
func IsKeyURI(text string) bool { return strings.HasPrefix(text, "pkcs11:") || kms.IsURI(text) }

// CheckURI says what is wrong with a URI, without opening it.
func CheckURI(uri string) error {
	switch {
	case strings.HasPrefix(uri, "pkcs11:"):
		_, err := pkcs11.Parse(uri)
		return err
	case kms.IsURI(uri):
		return kms.Check(uri)
	}
	return fault.Newf(fault.Invalid, "key URI %.100q: want awskms://, gcpkms://, azurekms://, hashivault://, plugin+NAME:// or pkcs11:", Redact(uri))
}

// secretPart are members of URIs that hold secrets: a PIN in a pkcs11: URI,
// user information in any other.
var secretPart = regexp.MustCompile(`(?i)(pin-value=)[^&;?]*`)

// Redact is a URI without its secrets, for messages and lists.
func Redact(uri string) string {
	uri = secretPart.ReplaceAllString(uri, "${1}xxxxx")
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		return u.Redacted()
	}
	return uri
}
