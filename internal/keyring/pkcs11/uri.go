// Package pkcs11 signs with keys of PKCS #11 tokens: hardware security modules,
// smart cards, SoftHSM. It needs cgo and the build tag pkcs11; without the tag
// every URI is an error that says so.
package pkcs11

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"assay/internal/fault"
)

// URI is a key of a token, as RFC 7512 names it.
type URI struct {
	Token, Serial, Manufacturer, Model string // of the token; "" is any
	Slot                               *uint  // slot-id
	Object                             string // CKA_LABEL of the key; "" is any
	ID                                 []byte // CKA_ID of the key; nil is any
	PINSource                          string // a file, from pin-source
	ModulePath                         string // the token's library
}

const (
	maxURI = 4096
	maxPIN = 256
)

// Parse reads a pkcs11: URI (RFC 7512, section 2.3). pin-value is refused:
// a PIN does not stand in configurations and process lists.
func Parse(text string) (*URI, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok || len(text) > maxURI {
		return nil, fault.Newf(fault.Invalid, "PKCS #11 key: want pkcs11:token=…;object=…?module-path=…&pin-source=file:…")
	}
	path, query, _ := strings.Cut(rest, "?")
	u := &URI{}
	seen := map[string]bool{}
	attribute := func(pair string, set func(name, value string) error) error {
		name, raw, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(raw)
		if !ok || name == "" || err != nil {
			return fault.Newf(fault.Invalid, "PKCS #11 URI: attribute %.40q: want NAME=VALUE, percent-encoded", name)
		}
		if seen[name] {
			return fault.Newf(fault.Invalid, "PKCS #11 URI: attribute %q stands twice", name)
		}
		seen[name] = true
		return set(name, value)
	}
	for _, pair := range strings.FieldsFunc(path, func(r rune) bool { return r == ';' }) {
		if err := attribute(pair, u.setPath); err != nil {
			return nil, err
		}
	}
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' }) {
		if err := attribute(pair, u.setQuery); err != nil {
			return nil, err
		}
	}
	switch {
	case u.ModulePath == "":
		return nil, fault.Newf(fault.Invalid, "PKCS #11 URI: no module-path: name the token's library, for example ?module-path=/usr/lib/softhsm/libsofthsm2.so")
	case u.Object == "" && u.ID == nil:
		return nil, fault.Newf(fault.Invalid, "PKCS #11 URI: want object=LABEL or id=%%HEX of the key")
	case u.Token == "" && u.Serial == "" && u.Slot == nil:
		return nil, fault.Newf(fault.Invalid, "PKCS #11 URI: want token=LABEL, serial=SERIAL or slot-id=N")
	}
	return u, nil
}

func (u *URI) setPath(name, value string) error {
	switch name {
	case "token":
		u.Token = value
	case "serial":
		u.Serial = value
	case "manufacturer":
		u.Manufacturer = value
	case "model":
		u.Model = value
	case "object":
		u.Object = value
	case "id":
		u.ID = []byte(value)
	case "type":
		if value != "private" {
			return fault.Newf(fault.Invalid, "PKCS #11 URI: type=%.20q: want private, or none", value)
		}
	case "slot-id":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return fault.Newf(fault.Invalid, "PKCS #11 URI: slot-id=%.20q: want a number", value)
		}
		slot := uint(n)
		u.Slot = &slot
	default:
		return fault.Newf(fault.Invalid, "PKCS #11 URI: attribute %.40q is unknown; want token, serial, manufacturer, model, slot-id, object, id, type", name)
	}
	return nil
}

func (u *URI) setQuery(name, value string) error {
	switch name {
	case "module-path":
		if !filepath.IsAbs(value) {
			return fault.Newf(fault.Invalid, "PKCS #11 URI: module-path: want an absolute path")
		}
		u.ModulePath = value
	case "pin-source":
		path := strings.TrimPrefix(strings.TrimPrefix(value, "file:"), "//")
		if !filepath.IsAbs(path) {
			return fault.Newf(fault.Invalid, "PKCS #11 URI: pin-source: want file:/absolute/path")
		}
		u.PINSource = path
	case "pin-value":
		return fault.Newf(fault.Invalid, "PKCS #11 URI: a PIN does not stand in a URI: write it into a file of mode 0600 and name that, pin-source=file:/path")
	default:
		return fault.Newf(fault.Invalid, "PKCS #11 URI: query attribute %.40q is unknown; want module-path, pin-source", name)
	}
	return nil
}

// pin reads the PIN; "" without a source.
func (u *URI) pin() (string, error) {
	if u.PINSource == "" {
		return "", nil
	}
	st, err := os.Stat(u.PINSource)
	if err != nil {
		return "", fault.Newf(fault.Invalid, "PKCS #11 PIN: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", fault.Newf(fault.Denied, "PKCS #11 PIN: %s has mode %04o, want no access for group and others: chmod go= %s", u.PINSource, st.Mode().Perm(), u.PINSource)
	}
	if st.Size() > maxPIN {
		return "", fault.Newf(fault.Invalid, "PKCS #11 PIN: %s has %d bytes, want at most %d", u.PINSource, st.Size(), maxPIN)
	}
	b, err := os.ReadFile(u.PINSource)
	if err != nil {
		return "", fault.Newf(fault.Invalid, "PKCS #11 PIN: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
