package delegation

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// The codes of signatures that do not count because of who made them.
const (
	CodeOutside = "delegation.outside" // by a delegate, outside the patterns and types of its delegations
	CodeExpired = "delegation.expired" // a link of the chain has expired
	CodeTime    = "delegation.time"    // not dated, or dated outside the window of a link
	CodeInvalid = "delegation.invalid" // the delegation itself does not verify, or widens
)

// Signer is who made a signature, as its verification proved it.
type Signer struct {
	Issuer, Subject string // of a certificate
	Key             string // fingerprint, where a key signed
}

// Link is one delegation of a set, with how it was proved.
type Link struct {
	Document *Document
	Digest   artifact.Digest // of the bundle
	SignedBy Signer
	SignedAt time.Time // trusted
	LogIndex int64     // in the log; -1: none
	// Err is why the delegation hands out nothing, although it is known: it does
	// not verify, or widens. nil also for one that has expired.
	Err error

	c     *compiled
	chain []*Link // from the root's down to this one
}

// Chain lists the names from the root's delegation down to this one.
func (l *Link) Chain() []string {
	out := make([]string, len(l.chain))
	for i, up := range l.chain {
		out[i] = up.Document.Name
	}
	return out
}

// Expires is the earliest end among the links of the chain.
func (l *Link) Expires() time.Time {
	end := l.Document.Expires
	for _, up := range l.chain {
		if up.Document.Expires.Before(end) {
			end = up.Document.Expires
		}
	}
	return end
}

// Set is all delegations of an organisation, verified. It is immutable and safe
// for concurrent use. The nil Set has none.
type Set struct {
	links    map[string]*Link
	exact    map[Signer][]*Link // by issuer and subject, or key
	patterns map[string][]*Link // by issuer: delegations with expressions
	public   []trust.Key

	// memory of whom expressions name: an issuer may have hundreds of them, and
	// the same few sign again and again.
	named    sync.Map // Signer -> []*Link
	remember atomic.Int64
}

// maxNamed bounds the memory; strangers sign as often as they like.
const maxNamed = 4096

// namedBy finds the links that name a signer.
func (s *Set) namedBy(signer Signer) []*Link {
	links := s.exact[signer]
	by := s.patterns[signer.Issuer]
	if signer.Issuer == "" || len(by) == 0 {
		return links
	}
	if known, ok := s.named.Load(signer); ok {
		return known.([]*Link) //nolint:forcetypeassert // written below alone
	}
	links = slices.Clone(links)
	for _, l := range by {
		if !slices.Contains(links, l) && l.c.namesAny(signer) {
			links = append(links, l)
		}
	}
	if s.remember.Add(1) <= maxNamed {
		s.named.Store(signer, links)
	}
	return links
}

// Compile verifies bundles under the roots: a first link by one of the
// organisation's keys, the others by a delegate of the link above, each logged
// and timestamped. A document that does not hold is kept with its Link.Err and
// hands out nothing; the error is for bytes that are no delegation at all, for
// a name that is there twice, and for the context's end. The checks judge each
// link as they judge evidence: who is revoked hands nothing on.
func Compile(ctx context.Context, roots trust.Roots, keys []trust.Key, bundles [][]byte, checks ...trust.Check) (*Set, error) {
	if len(bundles) > MaxDelegations {
		return nil, fault.Newf(fault.TooLarge, "%d delegations, want at most %d", len(bundles), MaxDelegations)
	}
	type entry struct {
		link   *Link
		bundle *attestation.Bundle
	}
	var entries []entry
	s := &Set{links: map[string]*Link{}, exact: map[Signer][]*Link{}, patterns: map[string][]*Link{}}
	for i, raw := range bundles {
		b, doc, err := read(raw)
		if err != nil {
			return nil, fault.Newf(fault.KindOf(err), "delegations[%d]: %w", i, err)
		}
		if s.links[doc.Name] != nil {
			return nil, fault.Newf(fault.Invalid, "delegation %q is there twice", doc.Name)
		}
		c, err := compile(doc)
		if err != nil {
			return nil, err
		}
		l := &Link{Document: doc, Digest: artifact.SHA256Of(raw), LogIndex: -1, c: c}
		s.links[doc.Name] = l
		entries = append(entries, entry{l, b})
	}
	// Names of fewer segments first: a link's parent is settled before it.
	slices.SortStableFunc(entries, func(a, b entry) int {
		return strings.Count(a.link.Document.Name, "/") - strings.Count(b.link.Document.Name, "/")
	})
	for _, e := range entries {
		e.link.Err = s.settle(ctx, roots, keys, e.link, e.bundle, checks)
		if err := ctx.Err(); err != nil {
			return nil, err // what did not verify for want of time is not refused
		}
		if e.link.Err == nil {
			s.index(e.link)
		}
	}
	return s, nil
}

// read parses a bundle and the document that it claims to hold.
func read(raw []byte) (*attestation.Bundle, *Document, error) {
	b, err := attestation.ParseBundle(raw, attestation.Limits{MaxBundle: 1 << 20})
	if err != nil {
		return nil, nil, err
	}
	e := b.Envelope()
	if e == nil || e.PayloadType != attestation.PayloadType {
		return nil, nil, fault.Newf(fault.Invalid, "delegation: the bundle holds no in-toto statement")
	}
	st, err := e.Statement(attestation.Limits{})
	if err != nil {
		return nil, nil, err
	}
	doc, err := fromStatement(st)
	return b, doc, err
}

// settle verifies one link. Its chain is set where it was signed as it should be.
func (s *Set) settle(ctx context.Context, roots trust.Roots, keys []trust.Key, l *Link, b *attestation.Bundle, checks []trust.Check) error {
	var up *Link
	if name := l.Document.Parent(); name != "" {
		if up = s.links[name]; up == nil || up.Document.Removed {
			return trust.Refuse(CodeInvalid, "delegation %q: %q, which it stands below, is not there", l.Document.Name, name)
		}
		if up.Err != nil {
			return trust.Refuse(CodeInvalid, "delegation %q: %q, which it stands below, does not hold: %w", l.Document.Name, name, up.Err)
		}
	}
	v, err := verify(ctx, roots, keys, up, b, checks)
	if err != nil {
		return trust.Refuse(CodeInvalid, "delegation %q: %w", l.Document.Name, err)
	}
	l.SignedAt, l.LogIndex, l.SignedBy = v.TrustedTime, v.LogIndex, signerOf(v)
	if up == nil {
		l.chain = []*Link{l}
		return nil
	}
	if !up.c.namesAny(l.SignedBy) {
		return trust.Refuse(CodeInvalid, "delegation %q is signed by %s, who is no delegate of %q", l.Document.Name, l.SignedBy, up.Document.Name)
	}
	for _, a := range up.chain {
		if v.TrustedTime.Before(a.Document.NotBefore) || v.TrustedTime.After(a.Document.Expires) {
			return trust.Refuse(CodeInvalid, "delegation %q was signed at %s, outside of %q (%s to %s)", l.Document.Name, stamp(v.TrustedTime), a.Document.Name, stamp(a.Document.NotBefore), stamp(a.Document.Expires))
		}
	}
	if l.Document.Removed {
		return nil
	}
	if err := l.c.narrows(up.c); err != nil {
		return trust.Refuse(CodeInvalid, "%w", err)
	}
	l.chain = append(slices.Clone(up.chain), l)
	return nil
}

// verify proves who signed a link, and when: it must be logged and timestamped,
// whatever thresholds the roots have for artifacts.
func verify(ctx context.Context, roots trust.Roots, keys []trust.Key, up *Link, b *attestation.Bundle, checks []trust.Check) (*trust.Verified, error) {
	o := trust.VerifyOptions{AnyArtifact: true, Checks: checks, Thresholds: &trust.Thresholds{TLog: 1, TSA: 1, Time: 1}}
	o.Keys = keys
	if up != nil {
		o.Keys = nil
		for _, k := range up.c.public {
			if k != nil {
				o.Keys = append(o.Keys, trust.Key{Public: k})
			}
		}
	}
	if _, isKey := b.KeyHint(); !isKey {
		if up == nil {
			return nil, trust.Refuse(trust.CodeKeyUnexpected, "a delegation of the root is signed by the organisation's delegation key, not by a certificate")
		}
		o.AnyIdentity, o.Thresholds.SCT = true, 1
	} else if len(o.Keys) == 0 {
		return nil, trust.Refuse(trust.CodeKeyMissing, "signed by a key, and no key is a delegate of %q", up.Document.Name)
	}
	return roots.VerifyBundle(ctx, b, o)
}

func signerOf(v *trust.Verified) Signer {
	if v.Certificate != nil {
		return Signer{Issuer: v.Identity.Issuer, Subject: v.Identity.Subject}
	}
	return Signer{Key: v.KeyFingerprint}
}

// String is the signer for people.
func (s Signer) String() string {
	if s.Issuer != "" {
		return s.Subject + " (issuer " + s.Issuer + ")"
	}
	return "key " + s.Key
}

// index files a link that was rightly signed under all that it names.
func (s *Set) index(l *Link) {
	if l.Document.Removed {
		return
	}
	seen := map[string]bool{}
	for i, g := range l.Document.Delegates {
		switch {
		case l.c.keys[i] != "":
			k := Signer{Key: l.c.keys[i]}
			if !slices.Contains(s.exact[k], l) {
				s.exact[k] = append(s.exact[k], l)
				s.public = append(s.public, trust.Key{Public: l.c.public[i]})
			}
		case l.c.subjects[i] != nil:
			if !seen[g.Issuer] {
				seen[g.Issuer] = true
				s.patterns[g.Issuer] = append(s.patterns[g.Issuer], l)
			}
		default:
			k := Signer{Issuer: g.Issuer, Subject: g.Subject}
			if !slices.Contains(s.exact[k], l) {
				s.exact[k] = append(s.exact[k], l)
			}
		}
	}
}

// Links are all delegations by name, removed ones too.
func (s *Set) Links() []*Link {
	if s == nil {
		return nil
	}
	out := make([]*Link, 0, len(s.links))
	for _, name := range slices.Sorted(maps.Keys(s.links)) {
		out = append(out, s.links[name])
	}
	return out
}

// Link gives one delegation by name; nil when there is none.
func (s *Set) Link(name string) *Link {
	if s == nil {
		return nil
	}
	return s.links[name]
}

// Keys are the public keys among the delegates, which a verifier has to know
// to verify what they signed.
func (s *Set) Keys() []trust.Key {
	if s == nil {
		return nil
	}
	return s.public
}

// Judge says what a signature counts for that was made by signer at the trusted
// time `at` (zero: undated) about an artifact of repository ("" without one),
// with a predicate type ("" for a plain signature). Nobody's delegate: nil, nil.
// A delegate within its bounds: the link that covers it, the one with the
// shortest chain. A delegate of the root's own links outside of them: a refusal
// with a Code of this package, and the signature counts for nothing. A delegate
// of lower links alone, outside of them: nil, nil, a stranger.
func (s *Set) Judge(signer Signer, repository, predicateType string, at, now time.Time) (*Link, error) {
	if s == nil {
		return nil, nil
	}
	if signer.Issuer != "" {
		signer.Key = ""
	}
	links := s.namedBy(signer)
	if len(links) == 0 {
		return nil, nil
	}
	var best *Link
	var refused error
	for _, l := range links {
		err := l.admits(repository, predicateType, at, now)
		switch {
		case err != nil && l.Document.Parent() != "":
			// Only what the root says binds an identity: else a team could shut out
			// anybody by naming him as its delegate.
		case err != nil && (refused == nil || trust.Code(refused) == CodeOutside):
			refused = err
		case err == nil && (best == nil || len(l.chain) < len(best.chain)):
			best = l
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, refused
}

func (l *Link) admits(repository, predicateType string, at, now time.Time) error {
	name := l.Document.Name
	if l.Err != nil {
		return l.Err
	}
	if !l.c.covers(repository, predicateType) {
		if predicateType == "" {
			predicateType = Signatures
		}
		return trust.Refuse(CodeOutside, "signed by a delegate of %q, which is for %s of %s, not for %.120s of %.120q; sign as somebody whom this repository trusts, or widen the delegation",
			name, strings.Join(l.Document.PredicateTypes, ", "), strings.Join(l.Document.Patterns, ", "), predicateType, repository)
	}
	for _, up := range l.chain {
		d := up.Document
		switch {
		case now.After(d.Expires):
			return trust.Refuse(CodeExpired, "delegation %q ended at %s; renew it: assay trust delegate --name %s --expires …", d.Name, stamp(d.Expires), d.Name)
		case at.IsZero():
			return trust.Refuse(CodeTime, "signed by a delegate of %q, and nothing dates the signature; sign with a timestamp authority", name)
		case at.Before(d.NotBefore) || at.After(d.Expires):
			return trust.Refuse(CodeTime, "signed at %s, outside of delegation %q (%s to %s)", stamp(at), d.Name, stamp(d.NotBefore), stamp(d.Expires))
		}
	}
	return nil
}

// Replaces says whether next may take the place of old, of the same name: its
// version is higher. old nil: any. A lower or equal version is
// fault.Conflict, so that nobody brings an older delegation back.
func (d *Document) Replaces(old *Document) error {
	if old != nil && d.Version <= old.Version {
		return fault.Newf(fault.Conflict, "delegation %q: version %d is not above %d, which is known; an older one is not taken back", d.Name, d.Version, old.Version)
	}
	return nil
}

// Draft reads a document whose version, and perhaps beginning, is not given yet.
func Draft(b []byte) (*Document, error) {
	var d Document
	if err := strictjson.Unmarshal(b, &d, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxDocument)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "delegation: %w", err)
	}
	trial := d
	trial.Version = 1
	if trial.NotBefore.IsZero() && !trial.Removed {
		trial.NotBefore = trial.Expires.Add(-time.Second)
	}
	_, err := compile(&trial)
	return &d, err
}

// Peek reads what a bundle claims to delegate; it verifies nothing.
func Peek(bundle []byte) (*Document, error) {
	_, d, err := read(bundle)
	return d, err
}

// The states of a link.
const (
	StateHolds   = "holds"
	StateExpired = "expired"
	StateInvalid = "invalid"
	StateRemoved = "removed"
)

// State says what the link is worth now.
func (l *Link) State(now time.Time) string {
	switch {
	case l.Document.Removed:
		return StateRemoved
	case l.Err != nil:
		return StateInvalid
	case now.After(l.Expires()):
		return StateExpired
	}
	return StateHolds
}

// Delegates are the document's, with the fingerprint of each key in place of
// its text.
func (l *Link) Delegates() []Delegate {
	out := slices.Clone(l.Document.Delegates)
	for i, fp := range l.c.keys {
		if fp != "" {
			out[i].Key = fp
		}
	}
	return out
}
