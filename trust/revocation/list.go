package revocation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
)

const (
	// Schema is the value of List.Schema.
	Schema = "assay/revocations/v1"
	// PayloadType is that of the DSSE envelope.
	PayloadType = "application/vnd.assay.revocations.v1+json"

	maxList    = 8 << 20 // bytes of a list
	maxEntries = 20_000
	maxText    = 1 << 10
)

// Use says what a list was signed for.
type Use string

// The uses.
const (
	Online Use = "online" // short-lived, published by TUF and renewed all the time
	Export Use = "export" // carried to where no network is
)

// How long a list of each use holds.
const (
	OnlineValidity = 24 * time.Hour
	ExportValidity = 30 * 24 * time.Hour
)

// List is all that one trust domain has revoked. Times are RFC 3339, UTC, whole
// seconds.
type List struct {
	Schema  string  `json:"schema"`
	Domain  string  `json:"domain"`  // the trust domain: the host name of the site
	Version int64   `json:"version"` // from 1; rises with every signing but an export's
	Use     Use     `json:"use"`
	Issued  Time    `json:"issued"`
	Expires Time    `json:"expires"`
	Entries []Entry `json:"entries"` // by target, each once
}

// Kind says what an entry names.
type Kind string

// The kinds.
const (
	Key         Kind = "key"         // a signing key, by fingerprint
	Identity    Kind = "identity"    // an issuer's subject
	Certificate Kind = "certificate" // one certificate, by serial and issuer
	Builder     Kind = "builder"     // a builder.id; provenance alone is judged by it
	Log         Kind = "log"         // a range of a log's indices
	Artifact    Kind = "artifact"    // an artifact's digest
)

// Kinds lists all kinds.
func Kinds() []Kind { return []Kind{Key, Identity, Certificate, Builder, Log, Artifact} }

// Entry revokes one target. The members that name it are those of its kind; the
// others are absent.
type Entry struct {
	Kind Kind `json:"kind"`

	Key     string          `json:"key,omitempty"`     // of key: "sha256:" and the hex SHA-256 of the SubjectPublicKeyInfo
	Match   string          `json:"match,omitempty"`   // of identity: "exact" or "pattern"
	Issuer  string          `json:"issuer,omitempty"`  // of identity: the OIDC issuer; of certificate: the issuer's distinguished name, RFC 4514
	Subject string          `json:"subject,omitempty"` // of identity: the subject alternative name
	Serial  string          `json:"serial,omitempty"`  // of certificate: lowercase hex without leading zeros
	Builder string          `json:"builder,omitempty"` // of builder: its URI
	LogID   string          `json:"log_id,omitempty"`  // of log: hex
	From    *int64          `json:"from,omitempty"`    // of log: first index
	To      *int64          `json:"to,omitempty"`      // of log: last index, included; absent: to the end
	Digest  artifact.Digest `json:"digest,omitempty"`  // of artifact

	InvalidSince Time   `json:"invalid_since"`
	Reason       string `json:"reason"`
	Requester    string `json:"requester"` // who asked for it, as the server knew them
	Created      Time   `json:"created"`
}

// The values of Entry.Match.
const (
	Exact   = "exact"
	Pattern = "pattern"
)

// Time is an instant in whole seconds, written as RFC 3339 in UTC.
type Time struct{ time.Time }

// At makes a Time, with fractions of a second cut off.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Second)} }

// MarshalText writes 2026-01-02T15:04:05Z.
func (t Time) MarshalText() ([]byte, error) {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return nil, fault.Newf(fault.Invalid, "time of year %d", y)
	}
	return []byte(t.UTC().Format(time.RFC3339)), nil
}

// UnmarshalText reads exactly what MarshalText writes.
func (t *Time) UnmarshalText(b []byte) error {
	p, err := time.Parse(time.RFC3339, string(b))
	if err != nil || p.UTC().Format(time.RFC3339) != string(b) {
		return fault.Newf(fault.Invalid, "time %.60q: want RFC 3339 in UTC and whole seconds, as 2026-01-02T15:04:05Z", b)
	}
	t.Time = p.UTC()
	return nil
}

// Target names what the entry revokes: two entries with one target are one.
func (e *Entry) Target() string {
	switch e.Kind {
	case Key:
		return "key " + e.Key
	case Identity:
		return fmt.Sprintf("identity %s %q %q", e.Match, e.Issuer, e.Subject)
	case Certificate:
		return fmt.Sprintf("certificate %s %q", e.Serial, e.Issuer)
	case Builder:
		return fmt.Sprintf("builder %q", e.Builder)
	case Log:
		to := "end"
		if e.To != nil {
			to = fmt.Sprint(*e.To)
		}
		return fmt.Sprintf("log %s %d-%s", e.LogID, *e.From, to)
	case Artifact:
		return "artifact " + string(e.Digest)
	}
	return string(e.Kind)
}

// Text is the target for people, on one line.
func (e *Entry) Text() string {
	switch e.Kind {
	case Identity:
		return fmt.Sprintf("%s (issuer %s)", e.Subject, e.Issuer)
	case Certificate:
		return fmt.Sprintf("certificate %s of %s", e.Serial, e.Issuer)
	case Log:
		return strings.Replace(e.Target(), "log "+e.LogID, "log "+clipHex(e.LogID), 1)
	case Artifact:
		return string(e.Digest)
	}
	return strings.Trim(strings.ReplaceAll(e.Target(), `"`, ""), " ")
}

func clipHex(s string) string {
	if len(s) > 16 {
		return s[:16] + "…"
	}
	return s
}

// Validate checks one entry. Errors are fault.Invalid.
func (e *Entry) Validate() error {
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Invalid, "revocation of %.20q: "+format, append([]any{string(e.Kind)}, args...)...)
	}
	want := Entry{Kind: e.Kind, InvalidSince: e.InvalidSince, Reason: e.Reason, Requester: e.Requester, Created: e.Created}
	switch e.Kind {
	case Key:
		if d, err := artifact.ParseDigest(e.Key); err != nil || d.Algorithm() != artifact.SHA256 {
			return bad("key %.90q: want its fingerprint, sha256: and 64 hex digits", e.Key)
		}
		want.Key = e.Key
	case Identity:
		if err := e.checkIdentity(); err != nil {
			return bad("%w", err)
		}
		want.Match, want.Issuer, want.Subject = e.Match, e.Issuer, e.Subject
	case Certificate:
		n, ok := new(big.Int).SetString(e.Serial, 16)
		if !ok || n.Sign() < 0 || n.Text(16) != e.Serial || len(e.Serial) > 64 || !text(e.Issuer, 1) {
			return bad("serial %.80q of issuer %.80q: want lowercase hex without leading zeros, and the issuer's distinguished name", e.Serial, e.Issuer)
		}
		want.Serial, want.Issuer = e.Serial, e.Issuer
	case Builder:
		if !text(e.Builder, 1) {
			return bad("want the builder's URI")
		}
		want.Builder = e.Builder
	case Log:
		id, err := hex.DecodeString(e.LogID)
		if err != nil || len(id) == 0 || len(id) > 64 || hex.EncodeToString(id) != e.LogID || e.From == nil || *e.From < 0 || e.To != nil && *e.To < *e.From {
			return bad("want a log's ID in hex, and a range of indices from 0")
		}
		want.LogID, want.From, want.To = e.LogID, e.From, e.To
	case Artifact:
		if err := e.Digest.Validate(); err != nil {
			return bad("%w", err)
		}
		want.Digest = e.Digest
	default:
		return bad("no such kind: want one of %v", Kinds())
	}
	switch {
	case *e != want:
		return bad("it has members that are of another kind")
	case e.InvalidSince.IsZero() || e.InvalidSince.Year() < 1970:
		return bad("invalid_since is absent: say since when, 1970-01-01T00:00:00Z for always")
	case e.Created.IsZero():
		return bad("created is absent")
	case !text(e.Reason, 1) || !text(e.Requester, 1):
		return bad("want a reason and a requester, of 1 to %d bytes each", maxText)
	}
	return nil
}

func (e *Entry) checkIdentity() error {
	parse := glob.Exact
	switch e.Match {
	case Exact:
	case Pattern:
		parse = glob.Parse
	default:
		return fault.Newf(fault.Invalid, "match %.20q: want exact or pattern", e.Match)
	}
	for _, s := range []string{e.Issuer, e.Subject} {
		if _, err := parse(s); err != nil || !text(s, 1) {
			return fault.Newf(fault.Invalid, "want an issuer and a subject (%.80q): %w", s, err)
		}
	}
	return nil
}

// text is printable UTF-8 of least to maxText bytes.
func text(s string, least int) bool {
	return len(s) >= least && len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// ParseList reads a list, strictly. Errors are fault.Invalid or fault.TooLarge.
func ParseList(b []byte) (*List, error) {
	var l List
	if err := strictjson.Unmarshal(b, &l, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxList)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "revocation list: %w", err)
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	canonical, err := l.Bytes()
	if err != nil {
		return nil, err
	}
	if string(canonical) != string(b) {
		return nil, fault.Newf(fault.Invalid, "revocation list: not in canonical form (RFC 8785)")
	}
	return &l, nil
}

// Validate checks a list: its entries in order, each target once.
func (l *List) Validate() error {
	switch {
	case l.Schema != Schema:
		return fault.Newf(fault.Invalid, "revocation list of schema %.60q, want %s", l.Schema, Schema)
	case !text(l.Domain, 1) || l.Version < 1 || l.Version > 1<<53:
		return fault.Newf(fault.Invalid, "revocation list: want a domain and a version from 1")
	case l.Use != Online && l.Use != Export:
		return fault.Newf(fault.Invalid, "revocation list for %.20q: want online or export", string(l.Use))
	case l.Issued.IsZero() || !l.Expires.After(l.Issued.Time):
		return fault.Newf(fault.Invalid, "revocation list: want issued before expires")
	case l.Entries == nil:
		return fault.Newf(fault.Invalid, "revocation list: entries are absent; a list that revokes nothing says []")
	case len(l.Entries) > maxEntries:
		return fault.Newf(fault.TooLarge, "revocation list of %d entries, at most %d", len(l.Entries), maxEntries)
	}
	last := ""
	for i := range l.Entries {
		if err := l.Entries[i].Validate(); err != nil {
			return fmt.Errorf("revocation list, entry %d: %w", i, err)
		}
		target := l.Entries[i].Target()
		if i > 0 && target <= last {
			return fault.Newf(fault.Invalid, "revocation list, entry %d: %.200s stands out of order or twice", i, target)
		}
		last = target
	}
	return nil
}

// Bytes is the canonical form of a valid list.
func (l *List) Bytes() ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	b, err := strictjson.Canonical(l)
	if err == nil && len(b) > maxList {
		err = fault.Newf(fault.TooLarge, "revocation list of %d bytes, at most %d", len(b), maxList)
	}
	return b, err
}

// EntriesDigest names what is revoked, whatever version says so.
func (l *List) EntriesDigest() string {
	b, err := strictjson.Canonical(l.Entries)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Find gives the entry of a target, or nil.
func (l *List) Find(target string) *Entry {
	for i := range l.Entries {
		if l.Entries[i].Target() == target {
			return &l.Entries[i]
		}
	}
	return nil
}

// With gives the entries of l and those added; of two with one target the
// earlier invalid_since counts. changed says whether that says more than l does.
func (l *List) With(added ...Entry) (entries []Entry, changed bool) {
	at := map[string]int{}
	for _, e := range append(slices.Clone(l.Entries), added...) {
		i, there := at[e.Target()]
		switch {
		case !there:
			at[e.Target()] = len(entries)
			entries = append(entries, e)
		case e.InvalidSince.Before(entries[i].InvalidSince.Time):
			entries[i] = e
		default:
			continue
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Target(), b.Target()) })
	if entries == nil {
		entries = []Entry{}
	}
	return entries, !slices.EqualFunc(entries, l.Entries, func(a, b Entry) bool { return a.Target() == b.Target() && a.InvalidSince.Equal(b.InvalidSince.Time) })
}

// Extends says whether l revokes all that before does, from the same instants or
// from earlier ones. The error is fault.Unverified and names the first entry
// that does not.
func (l *List) Extends(before *List) error {
	have := make(map[string]time.Time, len(l.Entries))
	for i := range l.Entries {
		have[l.Entries[i].Target()] = l.Entries[i].InvalidSince.Time
	}
	for i := range before.Entries {
		e := &before.Entries[i]
		since, ok := have[e.Target()]
		switch {
		case !ok:
			return refuse(CodeNarrowed, "revocation list %d lacks %.200s, which list %d revokes: only the offline root may take an entry back", l.Version, e.Text(), before.Version)
		case since.After(e.InvalidSince.Time):
			return refuse(CodeNarrowed, "revocation list %d revokes %.200s from %s on, list %d from %s: only the offline root may move that later",
				l.Version, e.Text(), stamp(since), before.Version, stamp(e.InvalidSince.Time))
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
