package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Entry is what is remembered of a key. Nothing in it is secret.
type Entry struct {
	Name        string    `json:"name"`
	Algorithm   string    `json:"algorithm"`        // as [Algorithm] has it
	Fingerprint string    `json:"fingerprint"`      // as [Fingerprint] has it
	Where       string    `json:"where"`            // "file", "offline", "retired", or the key's URI
	Created     time.Time `json:"created"`          // when this site made it or took it into service
	Retired     time.Time `json:"retired,omitzero"` // when it ended
}

// Where a key can be, besides a URI.
const (
	whereFile    = "file"
	whereOffline = "offline" // taken off this machine
	whereRetired = "retired" // ended, deleted
)

// same says whether pub is the key that is remembered.
func (e *Entry) same(pub crypto.PublicKey) error {
	fp, err := Fingerprint(pub)
	if err != nil {
		return err
	}
	if fp != e.Fingerprint {
		return fault.Newf(fault.Tampered, "key %s is another one: its fingerprint is %s, and this site's is %s. Restore keys and index from one backup; a key is changed by assay keys rotate alone", e.Name, fp, e.Fingerprint)
	}
	return nil
}

// index remembers which keys a site has.
type index struct {
	Version int      `json:"version"`
	Keys    []*Entry `json:"keys"`
}

const (
	indexVersion = 1
	maxIndex     = 4 << 20
)

// readIndex reads an index; one that is not there is empty.
func readIndex(path string) (index, error) {
	in := index{Version: indexVersion}
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return in, err
	}
	if err := durable.CheckPrivate(path); err != nil {
		return in, err
	}
	if st.Size() > maxIndex {
		return in, fault.Newf(fault.Tampered, "index of keys %s: %d bytes are too many", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return in, err
	}
	in.Version = 0
	return in, in.parse(path, b)
}

func (in *index) parse(path string, b []byte) error {
	if err := strictjson.Unmarshal(b, in); err != nil {
		return fault.Newf(fault.Tampered, "index of keys %s does not read: restore it from a backup (%w)", path, err)
	}
	if in.Version < indexVersion {
		return fault.Newf(fault.Tampered, "index of keys %s has no version: restore it from a backup", path)
	}
	if in.Version > indexVersion {
		return fault.Newf(fault.Conflict, "index of keys %s has version %d, and this Assay knows %d: use a newer one", path, in.Version, indexVersion)
	}
	seen := map[string]bool{}
	for _, e := range in.Keys {
		if e == nil || e.Name == "" || seen[e.Name] || !strings.HasPrefix(e.Fingerprint, "sha256:") || e.Where == "" {
			return fault.Newf(fault.Tampered, "index of keys %s has an entry that is damaged or stands twice: restore it from a backup", path)
		}
		seen[e.Name] = true
	}
	return nil
}

func (in *index) write(path string) error {
	b, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

func (in *index) find(name string) (*Entry, bool) {
	i := slices.IndexFunc(in.Keys, func(e *Entry) bool { return e.Name == name })
	if i < 0 {
		return nil, false
	}
	return in.Keys[i], true
}

func (in *index) list() []Entry {
	out := make([]Entry, 0, len(in.Keys))
	for _, e := range in.Keys {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Fingerprint is "sha256:" and the hex SHA-256 of the key's SubjectPublicKeyInfo
// (RFC 5280, section 4.1), which is how signatures' key hints name it too.
func Fingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Algorithm names a key's kind and size: "ECDSA P-256", "RSA 2048", "Ed25519".
func Algorithm(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", pub)
}
