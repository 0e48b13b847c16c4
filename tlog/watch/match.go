package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"time"

	"assay/internal/fault"
	"assay/tlog"
	"assay/tlog/ct"
	"assay/tlog/rekor"
)

// Watched are the identities and keys whose use is reported.
type Watched struct {
	identities []*regexp.Regexp
	keys       map[string]bool
}

// NewWatched takes regular expressions (RE2), each anchored at both ends, over
// identities, and fingerprints of keys.
func NewWatched(identities, keys []string) (*Watched, error) {
	w := &Watched{keys: map[string]bool{}}
	for _, text := range identities {
		re, err := regexp.Compile(`^(?:` + text + `)$`)
		if err != nil || len(text) > 1024 {
			return nil, fault.Newf(fault.Invalid, "identity %.100q: want a regular expression (RE2), which is anchored at both ends: %v", text, err)
		}
		w.identities = append(w.identities, re)
	}
	for _, k := range keys {
		if b, err := hex.DecodeString(trimSum(k)); err != nil || len(b) != sha256.Size || trimSum(k) == k {
			return nil, fault.Newf(fault.Invalid, "key %.100q: want its fingerprint, sha256: and 64 hexadecimal digits", k)
		}
		w.keys[k] = true
	}
	return w, nil
}

func trimSum(k string) string {
	if len(k) > 7 && k[:7] == "sha256:" {
		return k[7:]
	}
	return k
}

// None says whether nobody is watched.
func (w *Watched) None() bool { return len(w.identities)+len(w.keys) == 0 }

// Matches says whether an identity or a key is watched. An identity that is a
// key's fingerprint is one too.
func (w *Watched) Matches(identity, key string) bool {
	for _, re := range w.identities {
		if identity != "" && re.MatchString(identity) || key != "" && re.MatchString(key) {
			return true
		}
	}
	return w.keys[key]
}

// Sighting is one use of a watched identity or key.
type Sighting struct {
	Log      string     `json:"log"` // log or ct
	Index    uint64     `json:"index"`
	Identity string     `json:"identity,omitempty"`
	Issuer   string     `json:"issuer,omitempty"` // the OIDC issuer that the certificate names
	Key      string     `json:"key,omitempty"`
	Digest   string     `json:"digest,omitempty"` // of what was signed
	Serial   string     `json:"serial,omitempty"` // of the certificate, hex
	At       *time.Time `json:"at,omitempty"`     // when the certificate was promised
}

// InLog is an entry of the transparency log as a sighting.
func InLog(in rekor.Inspection) Sighting {
	return Sighting{Log: "log", Index: in.Index, Identity: in.Identity, Issuer: in.Issuer, Key: in.KeyFingerprint, Digest: in.Digest, Serial: in.Serial}
}

// InCT is an entry of the certificate log as a sighting. What does not parse is
// [fault.Invalid]: the log's key has promised a certificate that nobody can read.
func InCT(r tlog.Record) (Sighting, error) {
	s := Sighting{Log: "ct", Index: r.Index}
	e, err := ct.ParseEntry(r.Raw)
	if err != nil {
		return s, fault.Newf(fault.Invalid, "entry %d of the certificate log: %w", r.Index, err)
	}
	at := time.UnixMilli(int64(e.Timestamp)).UTC()
	s.At = &at
	c, err := e.Certificate()
	if err != nil {
		return s, fault.Newf(fault.Invalid, "entry %d of the certificate log: %w", r.Index, err)
	}
	in := rekor.Inspection{}
	in.Certificate(c)
	s.Identity, s.Issuer, s.Key, s.Serial = in.Identity, in.Issuer, in.KeyFingerprint, in.Serial
	return s, nil
}

// Title is a sighting in one line.
func (s Sighting) Title() string {
	who := s.Identity
	if who == "" {
		who = s.Key
	}
	return fmt.Sprintf("%s entry %d: %s", s.Log, s.Index, who)
}
