package evidence

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// Record says what one verified bundle proves about one subject.
type Record struct {
	ID            string          // "att_" + hex SHA-256 of the bundle's bytes
	Subject       artifact.Digest // one strong digest of one subject
	Scheme        trust.Scheme    // message or dsse
	PredicateType string          // "" for a message signature
	Signer        Signer
	Root          string    // name of the trust root that verified it
	TrustedTime   time.Time // when it was signed at the latest; zero: unknown
	TimeSource    string    // "tsa", "tlog" or ""
	LogID         string    // hex; "" without a log
	LogIndex      int64     // -1 without a log
	Legacy        bool      // came as a cosign .sig or .att layer
	Size          int64     // bytes of the bundle
	TrustEpoch    int64     // under which it was verified
	IngestedAt    time.Time
	Repository    string // of the first origin; "" when it came by no repository
	Source        string // of the first origin
}

// Signer is who made a bundle: an identity that a certificate names, or a key.
type Signer struct {
	Issuer  string // OIDC issuer; "" when a bare key signed
	Subject string // the certificate's subject alternative name; "" when a bare key signed
	Key     string // fingerprint of the signing key, "sha256:" and hex
}

// BundleDigest is the digest that the ID is made of.
func (r *Record) BundleDigest() artifact.Digest { return bundleDigest(r.ID) }

// Cursor is the place after this record in a [Store.List]; give it as
// Filter.After to go on.
func (r *Record) Cursor() string {
	return strconv.FormatInt(store.Micros(r.IngestedAt), 10) + "/" + r.ID + "/" + string(r.Subject)
}

type cursor struct {
	at      int64
	id      string
	subject string
}

func parseCursor(s string) (cursor, error) {
	parts := strings.SplitN(s, "/", 4)
	if len(parts) == 3 {
		at, err := strconv.ParseInt(parts[0], 10, 64)
		_, serr := artifact.ParseDigest(parts[2])
		if err == nil && validID(parts[1]) == nil && serr == nil {
			return cursor{at, parts[1], parts[2]}, nil
		}
	}
	return cursor{}, fault.Newf(fault.Invalid, "evidence: cursor %.60q was not given out by a list; begin without one", s)
}

const idPrefix = "att_"

// ID is the name of a bundle: "att_" and the hex SHA-256 of its bytes.
func ID(bundle []byte) string { return idPrefix + artifact.SHA256Of(bundle).Hex() }

// CommitKey is the subject under which evidence about a git commit is filed: the
// SHA-256 of "gitCommit:" and the commit's id. It is a place in the index and
// proves nothing: who reads the evidence compares the id that the statement
// names.
func CommitKey(commit string) artifact.Digest {
	return artifact.SHA256Of([]byte("gitCommit:" + commit))
}

func bundleDigest(id string) artifact.Digest {
	return artifact.Digest(artifact.SHA256 + ":" + strings.TrimPrefix(id, idPrefix))
}

func validID(id string) error {
	if !strings.HasPrefix(id, idPrefix) || bundleDigest(id).Validate() != nil {
		return fault.Newf(fault.Invalid, "evidence: id %.80q, want att_ and 64 lowercase hex digits", id)
	}
	return nil
}

// Origin says where a bundle comes from. It proves nothing and decides nothing.
type Origin struct {
	Repository string // repository that it was pushed to, without host; "" for none
	Source     string // the door: "api", "registry", "import"; at most 64 bytes
	Actor      string // who brought it, as identity.Principal.Actor says; at most 1 KiB
}

func (o Origin) validate() error {
	if o.Repository != "" && !artifact.ValidRepository(o.Repository) {
		return fault.Newf(fault.Invalid, "evidence: repository %.80q is not of the OCI grammar", o.Repository)
	}
	for _, f := range []struct {
		name, text string
		most       int
	}{{"source", o.Source, 64}, {"actor", o.Actor, 1024}} {
		if len(f.text) > f.most || !utf8.ValidString(f.text) || strings.ContainsRune(f.text, 0) {
			return fault.Newf(fault.Invalid, "evidence: %s of origin: want at most %d bytes of UTF-8 text", f.name, f.most)
		}
	}
	return nil
}

// Filter narrows a [Store.List]; members are compared exactly, and an empty one
// does not narrow.
type Filter struct {
	Subject       artifact.Digest
	PredicateType string
	Issuer        string
	Identity      string // the signer's subject
	Repository    string // any origin, not the first alone
	After         string // a Record's Cursor; "": from the newest
	Limit         int    // records; 0: 100
}

// Item is one bundle as [Store.Evidence] gives it to who verifies it again.
type Item struct {
	ID         string
	Source     string // "evidence"
	Repository string // of the first origin
	Legacy     bool   // came as a cosign .sig or .att layer
	Bundle     []byte // exactly as it was ingested
	// Payload is the simple signing document that a legacy signature's bundle
	// signs, and which names the image; nil for all others.
	Payload    []byte
	IngestedAt time.Time
}

// Rejection is evidence that was brought for a subject and refused. It proves
// nothing, anyone who may push can cause one; it helps to find out why an
// attestation is missing.
type Rejection struct {
	ID         string // of the bundle, or the digest of the manifest that could not be read
	Subject    artifact.Digest
	Code       string // trust.Code, or one of this package's
	Reason     string // one printable line of at most 200 bytes
	Repository string
	Source     string
	At         time.Time
}

// printable makes one bounded line of text that others made.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("…")], "") + "…"
	}
	return s
}
