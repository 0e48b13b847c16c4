package revocation

import (
	"context"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/glob"
	"assay/trust"
)

// Set is what lists revoke, ready to be asked: every question but those about
// patterns is one look into a table, however long the lists are. The zero Set
// revokes nothing; a Set is immutable and safe for concurrent use.
type Set struct {
	exact    map[string]*Entry // by key: see the functions below
	patterns []pattern
	logs     map[string][]*Entry
	builders bool
	digests  bool
}

type pattern struct {
	issuer, subject glob.Glob
	// prefix is what every subject of the pattern begins with, for a quick no.
	prefix string
	entry  *Entry
}

func keyOf(fingerprint string) string            { return "k" + fingerprint }
func identityOf(issuer, subject string) string   { return "i" + issuer + "\x00" + subject }
func certificateOf(serial, issuer string) string { return "c" + serial + "\x00" + issuer }
func builderOf(id string) string                 { return "b" + id }
func artifactOf(d artifact.Digest) string        { return "a" + string(d) }

// NewSet makes a Set of lists that were validated. Of several entries for one
// target, the earliest counts.
func NewSet(lists ...*List) *Set {
	s := &Set{exact: map[string]*Entry{}, logs: map[string][]*Entry{}}
	for _, l := range lists {
		for i := range l.Entries {
			s.add(&l.Entries[i])
		}
	}
	return s
}

func (s *Set) add(e *Entry) {
	put := func(k string) {
		if have := s.exact[k]; have == nil || e.InvalidSince.Before(have.InvalidSince.Time) {
			s.exact[k] = e
		}
	}
	switch e.Kind {
	case Key:
		put(keyOf(e.Key))
	case Certificate:
		put(certificateOf(e.Serial, e.Issuer))
	case Builder:
		s.builders = true
		put(builderOf(e.Builder))
	case Artifact:
		s.digests = true
		put(artifactOf(e.Digest))
	case Log:
		s.logs[e.LogID] = append(s.logs[e.LogID], e)
	case Identity:
		if e.Match == Exact {
			put(identityOf(e.Issuer, e.Subject))
			return
		}
		issuer, ierr := glob.Parse(e.Issuer)
		subject, serr := glob.Parse(e.Subject)
		if ierr != nil || serr != nil {
			return // validated before
		}
		prefix, _, _ := strings.Cut(e.Subject, "*")
		// "team/**" is also of "team": the slash is not part of the prefix.
		s.patterns = append(s.patterns, pattern{issuer, subject, strings.TrimSuffix(prefix, "/"), e})
	}
}

// Len is the number of targets.
func (s *Set) Len() int {
	n := len(s.exact) + len(s.patterns)
	for _, l := range s.logs {
		n += len(l)
	}
	return n
}

// after says whether evidence counts as made at or after the entry's instant. A
// zero time proves nothing.
func (e *Entry) after(trusted time.Time) bool {
	return trusted.IsZero() || !trusted.Before(e.InvalidSince.Time)
}

// Check refuses evidence that an entry names. It is a trust.Check.
func (s *Set) Check(_ context.Context, v *trust.Verified) error {
	if s == nil || s.Len() == 0 {
		return nil
	}
	at := v.TrustedTime
	for _, e := range s.named(v) {
		if e != nil && e.after(at) {
			return e.refusal(at)
		}
	}
	return s.checkLogs(v)
}

// named gives the entries that name who made it and with what.
func (s *Set) named(v *trust.Verified) (out [5]*Entry) {
	out[0] = s.exact[keyOf(v.KeyFingerprint)]
	for _, fp := range v.Signers {
		if e := s.exact[keyOf(fp)]; e != nil {
			out[0] = earlier(out[0], e)
		}
	}
	if c := v.Certificate; c != nil {
		out[1] = s.exact[certificateOf(c.SerialNumber.Text(16), c.Issuer.String())]
		out[2] = s.exact[identityOf(v.Identity.Issuer, v.Identity.Subject)]
		for i := range s.patterns {
			p := &s.patterns[i]
			if strings.HasPrefix(v.Identity.Subject, p.prefix) && p.issuer.Match(v.Identity.Issuer) && p.subject.Match(v.Identity.Subject) {
				out[2] = earlier(out[2], p.entry)
			}
		}
	}
	if s.builders && v.Statement != nil && attestation.IsProvenance(v.Statement.PredicateType) {
		// Provenance that does not parse is refused where it is read.
		if p, err := attestation.ParseProvenance(v.Statement.PredicateType, v.Statement.Predicate); err == nil {
			out[3] = s.exact[builderOf(p.BuilderID)]
		}
	}
	if s.digests {
		out[4] = s.allRevoked(v.Subjects)
	}
	return out
}

func earlier(a, b *Entry) *Entry {
	if a == nil || b.InvalidSince.Before(a.InvalidSince.Time) {
		return b
	}
	return a
}

// allRevoked gives an entry when every subject is a revoked artifact: evidence
// about nothing else is not taken in.
func (s *Set) allRevoked(subjects []attestation.Subject) (found *Entry) {
	for i := range subjects {
		one := (*Entry)(nil)
		for _, d := range subjects[i].Digest.Strong() {
			if e := s.exact[artifactOf(d)]; e != nil {
				one = e
			}
		}
		if one == nil {
			return nil
		}
		found = one
	}
	return found
}

// checkLogs refuses what a log holds in a revoked range, unless timestamp
// authorities prove that it is older: the log's own word for its time is what is
// in doubt. Every log that vouches must be beyond doubt, since any of them may
// be the one that counts.
func (s *Set) checkLogs(v *trust.Verified) error {
	if len(s.logs) == 0 {
		return nil
	}
	var stamped time.Time
	for _, t := range v.Times { // ascending
		if t.Source == "tsa" {
			// Not before TrustedTime, which as many parties attest as are asked for.
			stamped = t.Time
			if v.TrustedTime.After(stamped) {
				stamped = v.TrustedTime
			}
			break
		}
	}
	for _, l := range v.Logs {
		for _, e := range s.logs[l.LogID] {
			if l.Index >= *e.From && (e.To == nil || l.Index <= *e.To) && e.after(stamped) {
				return e.refusal(stamped)
			}
		}
	}
	return nil
}

func (e *Entry) refusal(at time.Time) error {
	when := "nothing proves when it was signed"
	if !at.IsZero() {
		when = "it was signed at " + stamp(at)
	}
	return refuse(CodeRevoked, "%.300s is revoked since %s (%.200s), and %s", e.Text(), stamp(e.InvalidSince.Time), e.Reason, when)
}

// Artifact gives the entry that revokes one of the digests as an artifact, or
// nil. It holds from its invalid_since on by the clock: signatures do not help,
// whenever they were made.
func (s *Set) Artifact(digests artifact.DigestSet) (found *Entry) {
	if s == nil || !s.digests {
		return nil
	}
	for _, d := range digests.Strong() {
		if e := s.exact[artifactOf(d)]; e != nil {
			found = earlier(found, e)
		}
	}
	return found
}
