package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
)

// Spec is a document of kind Services: a catalogue, or a part of one.
type Spec struct {
	// Teams are those that own services, by name.
	Teams map[string]Team `yaml:"teams,omitempty"`
	// Clusters say what is known of clusters, by name.
	Clusters map[string]Cluster `yaml:"clusters,omitempty"`
	// Services are those of the site, by name.
	Services map[string]ServiceSpec `yaml:"services,omitempty"`
}

// Team owns services, and is told what concerns them.
type Team struct {
	// Contacts are how its people are reached, the first one first: addresses,
	// URLs, names of channels.
	Contacts []string `yaml:"contacts,omitempty"`
	// Groups are the OIDC groups of its people.
	Groups []Group `yaml:"groups,omitempty"`
	// Routes are who is on call, by what a notice is about (page, ticket, ...):
	// those of a service go before.
	Routes map[string]string `yaml:"routes,omitempty"`
	// Platform marks the team to which goes what nobody owns. There is at most one.
	Platform bool `yaml:"platform,omitempty"`
}

// Group is a group that an issuer states.
type Group struct {
	Issuer string `yaml:"issuer"`
	Group  string `yaml:"group"`
}

// Cluster is what the site says of a cluster.
type Cluster struct {
	// Environment is that of its workloads, unless their service says another.
	Environment string `yaml:"environment,omitempty"`
}

// ServiceSpec is a service as it is written.
type ServiceSpec struct {
	Description string `yaml:"description,omitempty"`
	// Tier is how much hangs on it, 1 the most, 4 the least; 0: not classified,
	// which counts as 1.
	Tier int `yaml:"tier,omitempty"`
	// Team owns it.
	Team string `yaml:"team,omitempty"`
	// Environment is where it runs: production, staging, ...
	Environment string `yaml:"environment,omitempty"`
	// Exposure is who can reach it: internet, internal or isolated.
	Exposure string `yaml:"exposure,omitempty"`
	// Labels are for people and searches.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Routes are who is on call, by what a notice is about.
	Routes map[string]string `yaml:"routes,omitempty"`
	// Repositories are patterns over repositories: of this site's registry without
	// a host, of others with it.
	Repositories []string `yaml:"repositories,omitempty"`
	// Digests are artifacts that no repository tells.
	Digests []artifact.Digest `yaml:"digests,omitempty"`
	// Workloads are what belongs to it of what runs.
	Workloads []Selector `yaml:"workloads,omitempty"`
}

// Selector says which workloads belong to a service. Each member is a pattern of
// one segment; one that is absent is "*".
type Selector struct {
	Cluster   string `yaml:"cluster,omitempty"`
	Namespace string `yaml:"namespace,omitempty"`
	Kind      string `yaml:"kind,omitempty"`
	Name      string `yaml:"name,omitempty"`
	// Environment is that of these workloads, in the place of the service's.
	Environment string `yaml:"environment,omitempty"`
}

// The exposures of a service. One that does not say counts as the internet's.
const (
	ExposedInternet = "internet" // anybody can send it something
	ExposedInternal = "internal" // only from within the site
	ExposedIsolated = "isolated" // nobody but its own parts
)

// Exposures lists them, the worst first.
func Exposures() []string { return []string{ExposedInternet, ExposedInternal, ExposedIsolated} }

// The tiers.
const (
	MostCritical  = 1
	LeastCritical = 4
)

// The limits of a catalogue.
const (
	maxServices = 20_000
	maxTeams    = 5_000
	maxOwned    = 500 // patterns, digests or selectors of one service
	maxText     = 500 // bytes of a contact, a route, a label
)

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// Validate says what is wrong with a catalogue's part, by itself. Errors are
// [fault.Invalid].
func (s *Spec) Validate() error {
	if len(s.Services) > maxServices || len(s.Teams) > maxTeams {
		return fault.Newf(fault.Invalid, "%d services and %d teams: want at most %d and %d", len(s.Services), len(s.Teams), maxServices, maxTeams)
	}
	if len(s.Services)+len(s.Teams)+len(s.Clusters) == 0 {
		return fault.Newf(fault.Invalid, "a catalogue without services, teams and clusters says nothing; want at least one of them")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Teams)) {
		if err := s.Teams[name].validate(); err != nil || !nameRE.MatchString(name) {
			return invalid("team", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Clusters)) {
		if err := checkName("environment", s.Clusters[name].Environment); err != nil || !validCluster(name) {
			return invalid("cluster", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		v := s.Services[name]
		if err := v.validate(); err != nil || !nameRE.MatchString(name) {
			return invalid("service", name, err)
		}
	}
	return nil
}

func invalid(what, name string, err error) error {
	if err == nil {
		err = fault.Newf(fault.Invalid, "want a name of lower-case letters, digits, - . and _, at most 63")
	}
	return fmt.Errorf("%s %.80q: %w", what, name, err)
}

func checkName(what, name string) error {
	if name != "" && !nameRE.MatchString(name) {
		return fault.Newf(fault.Invalid, "%s %.80q: want lower-case letters, digits, - . and _, at most 63", what, name)
	}
	return nil
}

func validCluster(name string) bool { return nameRE.MatchString(name) }

func (t Team) validate() error {
	for i, g := range t.Groups {
		if g.Issuer == "" || g.Group == "" {
			return fault.Newf(fault.Invalid, "group %d: want an issuer and a group", i+1)
		}
	}
	if len(t.Contacts) > maxOwned || len(t.Groups) > maxOwned {
		return fault.Newf(fault.Invalid, "%d contacts and %d groups: want at most %d", len(t.Contacts), len(t.Groups), maxOwned)
	}
	for _, c := range t.Contacts {
		if c == "" || len(c) > maxText {
			return fault.Newf(fault.Invalid, "contact %.80q: want 1 to %d bytes", c, maxText)
		}
	}
	return checkTexts("route", t.Routes)
}

func checkTexts(what string, m map[string]string) error {
	if len(m) > maxOwned {
		return fault.Newf(fault.Invalid, "%d %ss: want at most %d", len(m), what, maxOwned)
	}
	for k, v := range m {
		if k == "" || len(k) > maxText || len(v) > maxText {
			return fault.Newf(fault.Invalid, "%s %.80q: want a name, and texts of at most %d bytes", what, k, maxText)
		}
	}
	return nil
}

func (s *ServiceSpec) validate() error {
	if s.Tier < 0 || s.Tier > LeastCritical {
		return fault.Newf(fault.Invalid, "tier %d: want %d (the most critical) to %d, or none", s.Tier, MostCritical, LeastCritical)
	}
	if s.Exposure != "" && !slices.Contains(Exposures(), s.Exposure) {
		return fault.Newf(fault.Invalid, "exposure %.40q: want %s", s.Exposure, strings.Join(Exposures(), ", "))
	}
	for _, err := range []error{checkName("team", s.Team), checkName("environment", s.Environment), checkTexts("label", s.Labels), checkTexts("route", s.Routes)} {
		if err != nil {
			return err
		}
	}
	if len(s.Repositories) > maxOwned || len(s.Digests) > maxOwned || len(s.Workloads) > maxOwned {
		return fault.Newf(fault.Invalid, "want at most %d repositories, digests and workloads each", maxOwned)
	}
	if len(s.Description) > 4*maxText {
		return fault.Newf(fault.Invalid, "a description of %d bytes: want at most %d", len(s.Description), 4*maxText)
	}
	for _, d := range s.Digests {
		if err := d.Validate(); err != nil {
			return err
		}
	}
	for _, p := range s.Repositories {
		if _, err := parseRepository(p); err != nil {
			return err
		}
	}
	for i, w := range s.Workloads {
		if _, err := w.compile(); err != nil {
			return fmt.Errorf("workload %d: %w", i+1, err)
		}
	}
	return nil
}

// Service is one of a catalogue.
type Service struct {
	Name string
	ServiceSpec
	selectors []selector
}

// Criticality is its tier: that of a service that is not classified is the most
// critical.
func (s *Service) Criticality() int { return cmp.Or(s.Tier, MostCritical) }

// Classified says whether somebody said which tier it is of.
func (s *Service) Classified() bool { return s.Tier != 0 }

// Reach is its exposure: the internet's where nobody said.
func (s *Service) Reach() string { return cmp.Or(s.Exposure, ExposedInternet) }

// Production says whether an environment counts as production: all do but those
// whose name says that they are for trying things out.
func Production(environment string) bool {
	switch environment {
	case "dev", "development", "test", "testing", "qa", "ci", "staging", "stage", "preview", "sandbox", "demo", "local":
		return false
	}
	return true
}
