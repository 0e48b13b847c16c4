package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/crypto/ssh"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/policy"
)

// PolicyPath is where a repository keeps its policy.
const PolicyPath = ".assay/source.yaml"

const maxPolicy = 1 << 20

// Policy says who may sign commits and tags of a repository, and how good its
// source has to be. It is read from the protected branch as that was before the
// change that is judged.
type Policy struct {
	APIVersion string     `yaml:"apiVersion"` // assay/v1
	Kind       string     `yaml:"kind"`       // SourcePolicy
	Spec       PolicySpec `yaml:"spec"`

	digest  artifact.Digest
	signers []identitySigner
}

// PolicySpec is a Policy's body.
type PolicySpec struct {
	Branch           string     `yaml:"branch"`                     // the protected branch: "main"
	Level            int        `yaml:"level,omitempty"`            // SLSA source level that is wanted, 1 to 3; default 1
	Identities       []Identity `yaml:"identities,omitempty"`       // who may sign
	AllowedSigners   string     `yaml:"allowedSigners,omitempty"`   // an allowed-signers file beside the policy, by its path in the repository
	RequireCommitter bool       `yaml:"requireCommitter,omitempty"` // the committer's address must be one of the signer's
	Merges           string     `yaml:"merges,omitempty"`           // what merge commits may hold beside their parents' changes: "clean", nothing; "resolved", files in conflict that were settled; default: anything, which is reported
	Baseline         string     `yaml:"baseline,omitempty"`         // commit up to which nothing has to be signed: whence the policy holds
	Revoked          []string   `yaml:"revoked,omitempty"`          // SSH keys "SHA256:…" and PGP fingerprints that count no more, whenever they signed
}

// Identity is a person or a machine with the keys that it signs with.
type Identity struct {
	Name    string                 `yaml:"name"`
	Emails  []string               `yaml:"emails,omitempty"`  // addresses that it commits with
	SSH     []string               `yaml:"ssh,omitempty"`     // public keys, as in authorized_keys
	PGP     string                 `yaml:"gpg,omitempty"`     // public keys in their armour
	Keyless []policy.IdentityMatch `yaml:"keyless,omitempty"` // of gitsign's certificates
	From    string                 `yaml:"from,omitempty"`    // RFC 3339: its keys count from then on
	Until   string                 `yaml:"until,omitempty"`   // and before then
}

// identitySigner is a compiled Identity or a line of the allowed-signers file.
type identitySigner struct {
	name    string
	emails  []string
	ssh     []Signer
	pgp     openpgp.EntityList
	keyless []policy.Matcher
	from    time.Time
	until   time.Time
}

// ParsePolicy reads a policy strictly, and the allowed-signers file that it
// names by read.
func ParsePolicy(ctx context.Context, b []byte, read func(ctx context.Context, path string) ([]byte, error)) (*Policy, error) {
	if len(b) > maxPolicy {
		return nil, fault.Newf(fault.TooLarge, "source policy of %d bytes, at most %d are read", len(b), maxPolicy)
	}
	p := &Policy{digest: artifact.SHA256Of(b)}
	if err := strictyaml.Unmarshal(b, p); err != nil {
		return nil, fault.Newf(fault.Invalid, "source policy: %w", err)
	}
	if p.APIVersion != "assay/v1" || p.Kind != "SourcePolicy" {
		return nil, fault.Newf(fault.Invalid, "source policy: want apiVersion assay/v1 and kind SourcePolicy, found %.40q and %.40q", p.APIVersion, p.Kind)
	}
	if err := p.compile(); err != nil {
		return nil, fault.Newf(fault.Invalid, "source policy: %w", err)
	}
	if path := p.Spec.AllowedSigners; path != "" {
		raw, err := read(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("source policy: allowedSigners: %w", err)
		}
		list, err := ParseAllowedSigners(raw)
		if err != nil {
			return nil, fault.Newf(fault.KindOf(err), "%s: %w", path, err)
		}
		for _, s := range list {
			p.signers = append(p.signers, identitySigner{name: strings.Join(s.Principals, ","), emails: s.Principals, ssh: []Signer{s}})
		}
		p.digest = artifact.SHA256Of(append(append(slices.Clone(b), 0), raw...))
	}
	if len(p.signers) == 0 {
		return nil, fault.Newf(fault.Invalid, "source policy names nobody who may sign: want identities or allowedSigners")
	}
	return p, nil
}

// Digest names the policy with its allowed signers.
func (p *Policy) Digest() artifact.Digest { return p.digest }

// Branch is the protected branch, as a full ref.
func (p *Policy) Branch() string { return "refs/heads/" + p.Spec.Branch }

func (p *Policy) compile() error {
	s := &p.Spec
	if !validBranch(s.Branch) {
		return fmt.Errorf("branch %.80q: want the protected branch's name, for example main", s.Branch)
	}
	if s.Level == 0 {
		s.Level = 1
	}
	if s.Level < 1 || s.Level > 3 {
		return fmt.Errorf("level %d: want 1, 2 or 3", s.Level)
	}
	if s.Merges != "" && s.Merges != MergesClean && s.Merges != MergesResolved {
		return fmt.Errorf("merges %.40q: want %s or %s", s.Merges, MergesClean, MergesResolved)
	}
	if s.Baseline != "" && !validID(s.Baseline) {
		return fmt.Errorf("baseline %.80q: want a commit's whole id", s.Baseline)
	}
	for i, r := range s.Revoked {
		if !strings.HasPrefix(r, "SHA256:") && (len(r) != 40 && len(r) != 64 || strings.Trim(r, "0123456789ABCDEF") != "") {
			return fmt.Errorf("revoked[%d] %.80q: want SHA256:… of an SSH key (ssh-keygen -l), or a PGP fingerprint in capitals without spaces", i, r)
		}
	}
	names := map[string]bool{}
	for i := range s.Identities {
		id := &s.Identities[i]
		if id.Name == "" || names[id.Name] || len(id.Name) > 200 {
			return fmt.Errorf("identities[%d]: want a name of its own", i)
		}
		names[id.Name] = true
		c, err := id.compile()
		if err != nil {
			return fmt.Errorf("identity %.80q: %w", id.Name, err)
		}
		p.signers = append(p.signers, c)
	}
	return nil
}

func (id *Identity) compile() (out identitySigner, err error) {
	out = identitySigner{name: id.Name, emails: id.Emails}
	if len(id.SSH)+len(id.Keyless) == 0 && id.PGP == "" {
		return out, errors.New("has no key: want ssh, gpg or keyless")
	}
	for _, t := range []struct {
		text string
		into *time.Time
	}{{id.From, &out.from}, {id.Until, &out.until}} {
		if t.text == "" {
			continue
		}
		if *t.into, err = time.Parse(time.RFC3339, t.text); err != nil {
			return out, fmt.Errorf("time %.40q: want RFC 3339, for example 2026-01-02T15:04:05Z", t.text)
		}
	}
	for _, l := range id.SSH {
		k, err := parseKey(l)
		if err != nil {
			return out, err
		}
		out.ssh = append(out.ssh, Signer{Principals: []string{id.Name}, Key: k, ValidAfter: out.from, ValidBefore: out.until})
	}
	if id.PGP != "" {
		if out.pgp, err = readKeyring(id.PGP); err != nil {
			return out, err
		}
	}
	for _, m := range id.Keyless {
		c, err := m.Compile()
		if err != nil {
			return out, err
		}
		out.keyless = append(out.keyless, c)
	}
	return out, nil
}

func (s *identitySigner) during(t time.Time) bool {
	return (s.from.IsZero() || !t.Before(s.from)) && (s.until.IsZero() || t.Before(s.until))
}

func (p *Policy) revoked(key ssh.PublicKey) bool {
	return slices.Contains(p.Spec.Revoked, ssh.FingerprintSHA256(key))
}

func validBranch(s string) bool {
	return s != "" && len(s) < 200 && !strings.HasPrefix(s, "-") && !strings.HasPrefix(s, "refs/") && !strings.HasPrefix(s, "/") &&
		!strings.Contains(s, "..") && !strings.ContainsAny(s, " ~^:?*[\\\n\x00\x7f") && !strings.HasSuffix(s, ".lock") && !strings.HasSuffix(s, "/")
}
