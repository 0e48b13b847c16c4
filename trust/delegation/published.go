package delegation

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// Schema is what [Published] says of itself.
const Schema = "assay/delegations/v1"

// Published is the TUF target delegations.json: all that an offline verifier
// needs beside the trusted root.
type Published struct {
	Schema string `json:"schema"`
	// Version rises with every change of the whole; clients refuse a lower one
	// than they saw.
	Version int64 `json:"version"`
	// Keys are PEM public keys of the organisation that may sign first links.
	Keys []string `json:"keys"`
	// Windows are the times in which the keys count, one for each in the order of
	// Keys, or none at all: then they always do.
	Windows []KeyWindow `json:"windows,omitempty"`
	// Registry is the host of the publisher's own registry, whose repositories
	// patterns name without it.
	Registry string `json:"registry,omitempty"`
	// Bundles are the Sigstore bundles of all delegations, removed ones too.
	Bundles []json.RawMessage `json:"bundles"`
}

// KeyWindow is the time in which a key signs delegations; a zero End is open.
type KeyWindow struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end,omitzero"`
}

const (
	maxPublished = 16 << 20
	maxKeys      = 64
)

// ParsePublished reads delegations.json strictly; it verifies nothing.
func ParsePublished(b []byte) (*Published, error) {
	var p Published
	if err := strictjson.Unmarshal(b, &p, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxPublished)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "delegations: %w", err)
	}
	switch {
	case p.Schema != Schema:
		return nil, fault.Newf(fault.Invalid, "delegations of schema %.60q, want %s", p.Schema, Schema)
	case p.Version < 1:
		return nil, fault.Newf(fault.Invalid, "delegations: version %d, want 1 or more", p.Version)
	case len(p.Bundles) > MaxDelegations || len(p.Keys) == 0 || len(p.Keys) > maxKeys:
		return nil, fault.Newf(fault.Invalid, "delegations: %d bundles and %d keys, want at most %d and 1 to %d", len(p.Bundles), len(p.Keys), MaxDelegations, maxKeys)
	case len(p.Windows) != 0 && len(p.Windows) != len(p.Keys):
		return nil, fault.Newf(fault.Invalid, "delegations: %d windows of %d keys, want one for each, or none", len(p.Windows), len(p.Keys))
	}
	return &p, nil
}

// JSON writes the target in canonical form.
func (p *Published) JSON() ([]byte, error) {
	p.Schema = Schema
	return strictjson.Canonical(p)
}

// PublicKeys reads p.Keys, each with its window.
func (p *Published) PublicKeys() ([]trust.Key, error) {
	var out []trust.Key
	for i, text := range p.Keys {
		k, err := trust.ParsePublicKey([]byte(text))
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "delegations: keys[%d]: %w", i, err)
		}
		key := trust.Key{Public: k}
		if len(p.Windows) > 0 {
			w := p.Windows[i]
			if w.Start.IsZero() || !w.End.IsZero() && w.End.Before(w.Start) {
				return nil, fault.Newf(fault.Invalid, "delegations: windows[%d]: want a start, and no end before it", i)
			}
			key.Window = trust.Window{Start: w.Start, End: w.End}
		}
		out = append(out, key)
	}
	return out, nil
}

// PEM writes a public key as Published.Keys and Delegate.Key hold it.
func PEM(k crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", fault.Newf(fault.Invalid, "public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// NewerThan refuses a published set that is older than one that was seen.
func (p *Published) NewerThan(seen int64) error {
	if p.Version < seen {
		return fault.Newf(fault.Unverified, "delegations of version %d are older than version %d, which was seen before: somebody brings back what was changed", p.Version, seen)
	}
	return nil
}
