package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/attestation"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/policy"
	"assay/trust"

	"golang.org/x/crypto/ssh"
)

// Status is what came of one signature.
type Status string

// The outcomes. Only Good counts.
const (
	Good      Status = "good"
	Unsigned  Status = "unsigned"
	Bad       Status = "bad"       // the signature does not verify, or may not be used for this
	Unknown   Status = "unknown"   // it verifies by a key that the policy does not name
	Malformed Status = "malformed" // the object is not of the form that git writes
	Undecided Status = "undecided" // what it takes to verify is not here
	Baseline  Status = "baseline"  // before the policy's baseline; nothing is asked of it
)

// Signature is what is known of one object's signature.
type Signature struct {
	Status  Status `json:"status"`
	Format  Format `json:"format,omitempty"`
	Signer  string `json:"signer,omitempty"`  // the policy's name for who signed
	Key     string `json:"key,omitempty"`     // SSH or PGP fingerprint
	Issuer  string `json:"issuer,omitempty"`  // of a certificate
	Subject string `json:"subject,omitempty"` // of a certificate
	// Time is when it was signed. By whom that is said is in TimeSource: "tsa" or
	// "tlog", which are to be trusted, or "claimed", by the object itself.
	Time       time.Time `json:"time,omitzero"`
	TimeSource string    `json:"time_source,omitempty"`
	Reason     string    `json:"reason,omitempty"`
}

// Checker verifies the signatures of single objects.
type Checker struct {
	Policy *Policy
	// Bundles verifies X.509 signatures with their log entries under the roots of
	// trust; nil: there are none, and such signatures stay undecided.
	Bundles func(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error)
	Clock   clock.Clock // nil: clock.System
}

// maxSkew is how far in the future a claimed time may lie.
const maxSkew = 15 * time.Minute

func (c *Checker) now() time.Time {
	if c.Clock == nil {
		return clock.System()
	}
	return c.Clock()
}

// Commit verifies a raw commit. merged says that the protected branch holds it
// already: then what the commit claims of its time is all that there is, while
// keys of a new commit must hold now as well.
func (c *Checker) Commit(ctx context.Context, raw []byte, merged bool) (*Commit, Signature) {
	commit, err := ParseCommit(raw)
	if err != nil {
		return nil, Signature{Status: Malformed, Reason: err.Error()}
	}
	return commit, c.signed(ctx, commit.Payload, commit.Signature, commit.Committer, merged)
}

// Tag verifies a raw annotated tag, as [Checker.Commit].
func (c *Checker) Tag(ctx context.Context, raw []byte, merged bool) (*Tag, Signature) {
	t, err := ParseTag(raw)
	if err != nil {
		return nil, Signature{Status: Malformed, Reason: err.Error()}
	}
	return t, c.signed(ctx, t.Payload, t.Signature, t.Tagger, merged)
}

func (c *Checker) signed(ctx context.Context, payload []byte, armour string, by Person, merged bool) Signature {
	s := Signature{Format: formatOf(armour), Time: by.When, TimeSource: "claimed"}
	if armour == "" {
		return Signature{Status: Unsigned}
	}
	now := c.now()
	if by.When.After(now.Add(maxSkew)) {
		s.Status, s.Reason = Bad, fmt.Sprintf("claims to be made at %s, which is in the future", by.When.Format(time.RFC3339))
		return s
	}
	times := []time.Time{by.When}
	if !merged {
		times = append(times, now)
	}
	var emails []string
	var err error
	switch s.Format {
	case FormatSSH:
		emails, err = c.ssh(&s, payload, armour, times)
	case FormatPGP:
		emails, err = c.pgp(&s, payload, armour, times)
	case FormatX509:
		emails, err = c.x509(ctx, &s, payload, armour)
	default:
		err = errors.New("a signature of no known format")
	}
	if err == nil && c.Policy.Spec.RequireCommitter && !anyPattern(emails, by.Email) {
		err = fmt.Errorf("signed by %s, while the committer is %.200s: the policy wants one of the signer's addresses", s.Signer, by.Email)
	}
	switch {
	case err == nil:
		s.Status = Good
	case errors.Is(err, errUnknown):
		s.Status, s.Reason = Unknown, err.Error()
	case errors.Is(err, fault.Undecided), errors.Is(err, fault.Unavailable):
		s.Status, s.Reason = Undecided, err.Error()
	default:
		s.Status, s.Reason = Bad, err.Error()
	}
	if s.Status != Good {
		s.Signer = ""
	}
	return s
}

// errUnknown is a signature that verifies by nobody whom the policy names.
var errUnknown = errors.New("the policy does not name the key")

func (c *Checker) ssh(s *Signature, payload []byte, armour string, times []time.Time) (emails []string, err error) {
	proof, err := verifySSH(payload, armour)
	if err != nil {
		return nil, err
	}
	s.Key = ssh.FingerprintSHA256(proof.key)
	if c.Policy.revoked(proof.key) || proof.cert != nil && c.Policy.revoked(proof.cert.SignatureKey) {
		return nil, fmt.Errorf("key %s is revoked by the policy", s.Key)
	}
	why := errUnknown
	for i := range c.Policy.signers {
		who := &c.Policy.signers[i]
		for j := range who.ssh {
			name, err := proof.everyTime(&who.ssh[j], times)
			switch {
			case err == nil:
				s.Signer = who.name
				if proof.cert != nil {
					s.Signer = name
					return []string{name}, nil
				}
				return who.emails, nil
			case !errors.Is(err, errNoMatch):
				why = fmt.Errorf("key %s of %.200s: %w", s.Key, who.name, err)
			}
		}
	}
	return nil, why
}

func (p *sshProof) everyTime(s *Signer, times []time.Time) (name string, err error) {
	for _, t := range times {
		if name, err = p.by(s, t); err != nil {
			return "", err
		}
	}
	return name, nil
}

func (c *Checker) pgp(s *Signature, payload []byte, armour string, times []time.Time) (emails []string, err error) {
	why := errUnknown
	for i := range c.Policy.signers {
		who := &c.Policy.signers[i]
		if len(who.pgp) == 0 {
			continue
		}
		fp, err := "", error(nil)
		for _, t := range times {
			if fp, err = verifyPGP(payload, armour, who.pgp, t); err == nil && !who.during(t) {
				err = fmt.Errorf("the policy's time for %.200s does not hold at %s", who.name, t.UTC().Format(time.RFC3339))
			}
			if err != nil {
				break
			}
		}
		switch {
		case err == nil && slices.Contains(c.Policy.Spec.Revoked, fp):
			return nil, fmt.Errorf("key %s is revoked by the policy", fp)
		case err == nil:
			s.Key, s.Signer = fp, who.name
			return who.emails, nil
		case !strings.Contains(err.Error(), "unknown entity"):
			why = err
		}
	}
	return nil, why
}

func (c *Checker) x509(ctx context.Context, s *Signature, payload []byte, armour string) (emails []string, err error) {
	sig, err := readCMS(payload, armour)
	if err != nil {
		return nil, err
	}
	b, err := sig.bundle()
	if err != nil {
		return nil, err
	}
	if c.Bundles == nil {
		return nil, fault.Newf(fault.Undecided, "an X.509 signature, and no root of trust to verify it with: give --trusted-root or --server")
	}
	v, err := c.Bundles(ctx, b)
	if err != nil {
		return nil, err
	}
	s.Time, s.TimeSource, s.Issuer, s.Subject, s.Key = v.TrustedTime, v.TimeSource, v.Identity.Issuer, v.Identity.Subject, v.KeyFingerprint
	e := policy.Evidence{Root: v.Root, Identity: &policy.Identity{Issuer: v.Identity.Issuer, Subject: v.Identity.Subject, Extensions: v.Identity.Extensions}}
	for i := range c.Policy.signers {
		who := &c.Policy.signers[i]
		if slices.ContainsFunc(who.keyless, func(m policy.Matcher) bool { return m.Match(&e) }) {
			if !who.during(v.TrustedTime) {
				return nil, fmt.Errorf("the policy's time for %.200s does not hold at %s", who.name, v.TrustedTime.UTC().Format(time.RFC3339))
			}
			s.Signer = who.name
			return append(slices.Clone(who.emails), v.Identity.Subject), nil
		}
	}
	return nil, fmt.Errorf("%w: %.200s of issuer %.120s", errUnknown, v.Identity.Subject, v.Identity.Issuer)
}
