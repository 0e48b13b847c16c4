package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/glob"
)

// Mode is how a repository treats what is pushed.
type Mode string

// The modes.
const (
	// ModeOpen shows at once what is pushed. It is the default.
	ModeOpen Mode = "open"
	// ModeStaged takes every push, and shows it once evidence allows it: until
	// then its tags do not move and only pusher, signers and publishers see it.
	ModeStaged Mode = "staged"
	// ModeStrict is ModeStaged, and refuses a tag for what is not allowed yet:
	// push by digest, sign, then tag.
	ModeStrict Mode = "strict"
)

// ProfileDev is the profile of repositories for work in progress.
const ProfileDev = "dev"

// The defaults of a RepositorySpec's times.
const (
	DefaultStagedFor   = 7 * 24 * time.Hour
	DefaultExpireAfter = 7 * 24 * time.Hour
)

// RepositorySpec says how the repositories of a pattern behave. Where several
// patterns match a name, the most specific one's document holds alone (see
// glob.Glob.Rank); equally specific ones hold together, the stricter setting of
// each.
type RepositorySpec struct {
	// Pattern is a glob over repository names, in the grammar of internal/glob.
	Pattern string `yaml:"pattern"`
	// AnonymousPull lets everybody read; the default lets nobody.
	AnonymousPull bool `yaml:"anonymousPull"`
	// Mode is open, staged or strict. Staged and strict want a policy whose
	// scope matches: without one, everything is denied.
	Mode Mode `yaml:"mode"`
	// Environment is that of the scope for which content is decided upon, so
	// that a policy may select on it. Default: none.
	Environment string `yaml:"environment"`
	// StagedFor is how long content may wait for evidence before it is
	// rejected; default 168h.
	StagedFor time.Duration `yaml:"stagedFor"`
	// Profile is empty, or dev: content without evidence, which expires by age,
	// counts in no objective, and is denied in every environment that is not a
	// development one.
	Profile string `yaml:"profile"`
	// ExpireAfter is the age at which content of profile dev expires; default
	// 168h.
	ExpireAfter time.Duration `yaml:"expireAfter"`
	// Immutable keeps every tag where it is and every manifest from deletion.
	// Signatures and attestations are exempt.
	Immutable bool `yaml:"immutable"`
	// ImmutableTags are globs over tags that are set once.
	ImmutableTags []string `yaml:"immutableTags"`
	// Upstream is the registry that this is a gateway for. Default: none.
	Upstream UpstreamSpec `yaml:"upstream"`
}

// Validate says what is wrong with a spec. Errors are fault.Invalid.
func (s *RepositorySpec) Validate() error {
	if _, err := glob.Parse(s.Pattern); err != nil {
		return err
	}
	switch s.Mode {
	case "", ModeOpen, ModeStaged, ModeStrict:
	default:
		return fault.Newf(fault.Invalid, "mode %.40q: want open, staged or strict", s.Mode)
	}
	switch s.Profile {
	case "":
		if s.ExpireAfter != 0 {
			return fault.Newf(fault.Invalid, "expireAfter is for profile dev; retention rules expire other content")
		}
	case ProfileDev:
		if s.Mode == ModeStaged || s.Mode == ModeStrict {
			return fault.Newf(fault.Invalid, "profile dev lets content in without evidence, mode %s does not: want one of them", s.Mode)
		}
	default:
		return fault.Newf(fault.Invalid, "profile %.40q: want dev, or none", s.Profile)
	}
	if s.StagedFor != 0 && s.Mode != ModeStaged && s.Mode != ModeStrict {
		return fault.Newf(fault.Invalid, "stagedFor is for modes staged and strict")
	}
	if s.StagedFor < 0 || s.ExpireAfter < 0 {
		return fault.Newf(fault.Invalid, "stagedFor and expireAfter: want more than nothing")
	}
	if len(s.Environment) > 200 || strings.ContainsAny(s.Environment, "@/ ") {
		return fault.Newf(fault.Invalid, "environment %.40q: want a word", s.Environment)
	}
	for _, t := range s.ImmutableTags {
		if _, err := glob.Parse(t); err != nil {
			return fmt.Errorf("immutableTags: %w", err)
		}
	}
	return s.Upstream.validate(s.Pattern)
}

// Repositories answers how a repository behaves. It is immutable; the zero
// value says open for all.
type Repositories struct {
	rules       []*repositoryRule
	fingerprint string
}

type repositoryRule struct {
	RepositorySpec
	glob glob.Glob
}

// NewRepositories compiles specs. Errors are fault.Invalid.
func NewRepositories(specs ...RepositorySpec) (*Repositories, error) {
	r := &Repositories{}
	h := sha256.New()
	for _, s := range specs {
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("repository pattern %.80q: %w", s.Pattern, err)
		}
		g, err := glob.Parse(s.Pattern)
		if err != nil {
			return nil, err
		}
		if s.Mode == "" {
			s.Mode = ModeOpen
		}
		if s.StagedFor == 0 {
			s.StagedFor = DefaultStagedFor
		}
		if s.ExpireAfter == 0 {
			s.ExpireAfter = DefaultExpireAfter
		}
		r.rules = append(r.rules, &repositoryRule{s, g})
	}
	slices.SortStableFunc(r.rules, func(a, b *repositoryRule) int {
		x, y := a.glob.Rank(), b.glob.Rank()
		if c := slices.Compare(y[:], x[:]); c != 0 {
			return c
		}
		return strings.Compare(a.Pattern, b.Pattern)
	})
	for _, rule := range r.rules {
		fmt.Fprintf(h, "%+v\n", rule.RepositorySpec)
	}
	r.fingerprint = hex.EncodeToString(h.Sum(nil))
	return r, nil
}

// Fingerprint changes when any rule does.
func (r *Repositories) Fingerprint() string {
	if r == nil {
		return ""
	}
	return r.fingerprint
}

// For says how a repository behaves: never with an empty Mode.
func (r *Repositories) For(name string) RepositorySpec {
	out := RepositorySpec{Mode: ModeOpen, StagedFor: DefaultStagedFor, ExpireAfter: DefaultExpireAfter}
	if r == nil {
		return out
	}
	var rank [3]int
	found := false
	for _, rule := range r.rules {
		if found && rule.glob.Rank() != rank {
			break
		}
		if !rule.glob.Match(name) {
			continue
		}
		if !found {
			found, rank, out = true, rule.glob.Rank(), rule.RepositorySpec
			continue
		}
		out = stricter(out, rule.RepositorySpec)
	}
	return out
}

// stricter joins two equally specific specs.
func stricter(a, b RepositorySpec) RepositorySpec {
	order := map[Mode]int{ModeOpen: 0, ModeStaged: 1, ModeStrict: 2}
	if order[b.Mode] > order[a.Mode] {
		a.Mode = b.Mode
		a.Environment = b.Environment
	}
	if b.Profile != "" {
		a.Profile = b.Profile
	}
	if a.Mode != ModeOpen {
		a.Profile = "" // what wants evidence takes nothing without
	}
	a.StagedFor, a.ExpireAfter = min(a.StagedFor, b.StagedFor), min(a.ExpireAfter, b.ExpireAfter)
	a.Immutable = a.Immutable || b.Immutable
	a.ImmutableTags = slices.Concat(a.ImmutableTags, b.ImmutableTags)
	if !a.Upstream.Set() && b.Upstream.Set() { // whose pattern says what the name is there
		a.Upstream, a.Pattern = b.Upstream, b.Pattern
	}
	return a
}

// ImmutableTag says whether a tag of a repository of this spec is set once, and
// by which pattern.
func (s *RepositorySpec) ImmutableTag(tag string) (pattern string, ok bool) {
	if s.Immutable {
		return "immutable: true", true
	}
	for _, p := range s.ImmutableTags {
		if g, err := glob.Parse(p); err == nil && g.Match(tag) {
			return p, true
		}
	}
	return "", false
}
