package inventory

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
)

// Catalogue is what the site says of its services, compiled. It is immutable, and
// safe for many goroutines. The zero Catalogue knows nothing.
type Catalogue struct {
	services  map[string]*Service
	teams     map[string]Team
	clusters  map[string]Cluster
	digests   map[artifact.Digest][]*Service
	exact     map[string][]*Service    // by repository
	patterns  map[string][]ownedByGlob // by the pattern's first segment; "" for one with a star
	selectors map[string][]chosen      // by namespace; "" for patterns
	platform  string
}

type ownedByGlob struct {
	repository glob.Glob
	service    *Service
}

type chosen struct {
	selector
	service *Service
}

type selector struct {
	cluster, namespace, kind, name glob.Glob
	environment                    string
}

// NewCatalogue joins the parts of a catalogue. What stands twice, a team that no
// part names and two platform teams are [fault.Conflict].
func NewCatalogue(parts ...Spec) (*Catalogue, error) {
	c := &Catalogue{
		services: map[string]*Service{}, teams: map[string]Team{}, clusters: map[string]Cluster{}, digests: map[artifact.Digest][]*Service{},
		exact: map[string][]*Service{}, patterns: map[string][]ownedByGlob{}, selectors: map[string][]chosen{},
	}
	for i := range parts {
		if err := parts[i].Validate(); err != nil {
			return nil, err
		}
		if err := c.enter(&parts[i]); err != nil {
			return nil, err
		}
	}
	if len(c.services) > maxServices {
		return nil, fault.Newf(fault.TooLarge, "%d services in all: want at most %d", len(c.services), maxServices)
	}
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		s := c.services[name]
		if _, known := c.teams[s.Team]; s.Team != "" && !known {
			return nil, fault.Newf(fault.Conflict, "service %s is of team %q, which stands under no teams; add it there, if only as %s: {}", name, s.Team, s.Team)
		}
		if err := c.index(s); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Catalogue) enter(p *Spec) error {
	for _, name := range slices.Sorted(maps.Keys(p.Teams)) {
		if _, twice := c.teams[name]; twice {
			return fault.Newf(fault.Conflict, "team %s stands in two documents", name)
		}
		c.teams[name] = p.Teams[name]
		if p.Teams[name].Platform {
			if c.platform != "" {
				return fault.Newf(fault.Conflict, "teams %s and %s are both the platform's: want one", c.platform, name)
			}
			c.platform = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Clusters)) {
		if _, twice := c.clusters[name]; twice {
			return fault.Newf(fault.Conflict, "cluster %s stands in two documents", name)
		}
		c.clusters[name] = p.Clusters[name]
	}
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		if _, twice := c.services[name]; twice {
			return fault.Newf(fault.Conflict, "service %s stands in two documents", name)
		}
		c.services[name] = &Service{Name: name, ServiceSpec: p.Services[name]}
	}
	return nil
}

func (c *Catalogue) index(s *Service) error {
	for _, d := range s.Digests {
		c.digests[d] = append(c.digests[d], s)
	}
	for _, p := range s.Repositories {
		g, err := parseRepository(p)
		if err != nil {
			return err
		}
		if g.IsExact() {
			c.exact[p] = append(c.exact[p], s)
			continue
		}
		first, _, _ := strings.Cut(p, "/")
		if strings.Contains(first, "*") {
			first = ""
		}
		c.patterns[first] = append(c.patterns[first], ownedByGlob{g, s})
	}
	for _, w := range s.Workloads {
		x, err := w.compile()
		if err != nil {
			return err
		}
		s.selectors = append(s.selectors, x)
		space := ""
		if x.namespace.IsExact() {
			space = x.namespace.String()
		}
		c.selectors[space] = append(c.selectors[space], chosen{x, s})
	}
	return nil
}

func parseRepository(p string) (glob.Glob, error) {
	g, err := glob.Parse(p)
	if err == nil && strings.ContainsAny(p, "@ ") {
		err = fault.Newf(fault.Invalid, "repository %.80q: want a repository's name or a pattern, without digest", p)
	}
	return g, err
}

func (s Selector) compile() (x selector, err error) {
	if s == (Selector{Environment: s.Environment}) {
		return x, fault.Newf(fault.Invalid, "want at least one of cluster, namespace, kind and name")
	}
	if err := checkName("environment", s.Environment); err != nil {
		return x, err
	}
	x.environment = s.Environment
	for _, f := range []struct {
		to   *glob.Glob
		text string
	}{{&x.cluster, s.Cluster}, {&x.namespace, s.Namespace}, {&x.kind, s.Kind}, {&x.name, s.Name}} {
		if *f.to, err = glob.Parse(cmp.Or(f.text, "**")); err != nil {
			return x, err
		}
	}
	return x, nil
}

func (x *selector) matches(w *Workload, cluster string) bool {
	return x.namespace.Match(w.Namespace) && x.name.Match(w.Name) && x.kind.Match(w.Kind) && x.cluster.Match(cluster)
}

// Services are all, by name.
func (c *Catalogue) Services() []*Service {
	if c == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(c.services), func(a, b *Service) int { return strings.Compare(a.Name, b.Name) })
}

// Service is one of a name, or nil.
func (c *Catalogue) Service(name string) *Service {
	if c == nil {
		return nil
	}
	return c.services[name]
}

// Teams are all, by name.
func (c *Catalogue) Teams() map[string]Team {
	if c == nil {
		return nil
	}
	return maps.Clone(c.teams)
}

// Team is one of a name.
func (c *Catalogue) Team(name string) (Team, bool) {
	if c == nil {
		return Team{}, false
	}
	t, is := c.teams[name]
	return t, is
}

// Platform is the team to which goes what nobody owns; "" when none is marked.
func (c *Catalogue) Platform() string {
	if c == nil {
		return ""
	}
	return c.platform
}

// Owner is the team that a service's matters go to, and whether that is its own:
// false says that nobody owns it, and it goes to the platform's.
func (c *Catalogue) Owner(s *Service) (team string, owned bool) {
	if s != nil && s.Team != "" {
		return s.Team, true
	}
	return c.Platform(), false
}

// Place is where an artifact lies. Host is empty for this site's own registry:
// who pushes elsewhere under the same name is somebody else.
type Place struct{ Host, Repository string }

func (p Place) key() string {
	if p.Host == "" {
		return p.Repository
	}
	return p.Host + "/" + p.Repository
}

// OfArtifact are the services to which an artifact belongs, the most critical
// first: by its digest, or by where it lies.
func (c *Catalogue) OfArtifact(digest artifact.Digest, places ...Place) (all []*Service) {
	if c == nil {
		return nil
	}
	all = append(all, c.digests[digest]...)
	for _, p := range places {
		key := p.key()
		if key == "" {
			continue
		}
		all = append(all, c.exact[key]...)
		first, _, _ := strings.Cut(key, "/")
		for _, list := range [][]ownedByGlob{c.patterns[first], c.patterns[""]} {
			for _, o := range list {
				// A pattern that begins with a star is about this site's own.
				if (p.Host == "" || first != "" && strings.HasPrefix(o.repository.String(), first+"/")) && o.repository.Match(key) {
					all = append(all, o.service)
				}
			}
		}
	}
	return worst(all)
}

// worst sorts the most critical first, each once.
func worst(all []*Service) []*Service {
	slices.SortFunc(all, func(a, b *Service) int {
		return cmp.Or(cmp.Compare(a.Criticality(), b.Criticality()), strings.Compare(a.Name, b.Name))
	})
	return slices.CompactFunc(all, func(a, b *Service) bool { return a == b })
}

// OfWorkload is the service to which a workload belongs: by what selects it, the
// most precise namespace first, else by its artifact. Of several it is the most
// critical. nil: none. The environment is the selector's, the service's, the
// cluster's or, last, what the reporter said.
func (c *Catalogue) OfWorkload(cluster string, w *Workload, place Place, reported string) (s *Service, environment string) {
	if c == nil {
		return nil, reported
	}
	environment = cmp.Or(c.clusters[cluster].Environment, reported)
	for _, space := range []string{w.Namespace, ""} {
		var best *chosen
		list := c.selectors[space]
		for i := range list {
			if x := &list[i]; x.matches(w, cluster) && (best == nil || less(x.service, best.service)) {
				best = x
			}
		}
		if best != nil {
			return best.service, cmp.Or(best.environment, best.service.Environment, environment)
		}
	}
	if all := c.OfArtifact(w.Digest, place); len(all) > 0 {
		return all[0], cmp.Or(all[0].Environment, environment)
	}
	return nil, environment
}

func less(a, b *Service) bool {
	if a.Criticality() != b.Criticality() {
		return a.Criticality() < b.Criticality()
	}
	return a.Name < b.Name
}
