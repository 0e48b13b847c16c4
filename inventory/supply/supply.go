// Package supply takes stock of a forge by its API, reading only: who administers
// repositories, which keys, secrets, runners, robots and pipelines there are, and
// what of it lets an attacker in. What the forge does not tell is unknown, and
// unknown is never clean.
package supply

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
)

// Provider is the kind of a forge.
type Provider string

// The forges whose APIs are read.
const (
	GitHub Provider = "github"
	GitLab Provider = "gitlab"
	Gitea  Provider = "gitea"
)

// The parts of an inventory; each item is of one.
const (
	Repositories = "repository"
	Admins       = "admin"
	DeployKeys   = "deploy-key"
	Secrets      = "secret"
	Runners      = "runner"
	Permissions  = "permissions"
	Workflows    = "workflow"
	Robots       = "robot"
	Registries   = "registry"
)

// Parts lists all of them.
func Parts() []string {
	return []string{Repositories, Admins, DeployKeys, Secrets, Runners, Permissions, Workflows, Robots, Registries}
}

// Item is one thing that was found. Scope, Kind and Name are its key; Value is what
// is compared with a baseline.
type Item struct {
	Scope string     `json:"scope"` // the repository's path, or the organisation
	Kind  string     `json:"kind"`
	Name  string     `json:"name"`
	Value string     `json:"value,omitempty"`
	Since *time.Time `json:"since,omitempty"` // when the forge says it was made, or last changed
}

// Unknown is a part that the forge did not tell, and why.
type Unknown struct {
	Scope string `json:"scope"`
	Part  string `json:"part"`
	Why   string `json:"why"`
	// Partial: what is listed of the part is all there is in the place that was
	// asked; there is more elsewhere, or a property is not told. Such a part is
	// compared with a baseline; one that is unknown altogether is not.
	Partial bool `json:"partial,omitempty"`
}

// Finding is a problem by one of the rules of docs/inventory.md.
type Finding struct {
	Rule  string `json:"rule"`
	Scope string `json:"scope"`
	Name  string `json:"name"`
	Text  string `json:"text"`
}

// Inventory is what one run found. It holds names and ages, never a secret's value.
type Inventory struct {
	Version  int       `json:"version"` // 1
	Provider Provider  `json:"provider"`
	URL      string    `json:"url"`
	Targets  []string  `json:"targets"` // what was asked for: an organisation, or repositories
	At       time.Time `json:"at"`
	Skipped  []string  `json:"skipped,omitempty"`
	Items    []Item    `json:"items"`
	Unknown  []Unknown `json:"unknown"`
	Findings []Finding `json:"findings"`
}

// Options say what is scanned, and by which rules.
type Options struct {
	Provider     Provider
	URL          string // of the forge, as a browser has it
	Token        []byte // read-only; sent to URL's host alone
	Org          string // or Repositories
	Repositories []string
	CIUsers      []string          // names or globs of users that pipelines act as
	Templates    map[string][]byte // path in each repository: what must stand there
	MaxSecretAge time.Duration     // 0: any age
	Skip         []string          // parts that are not asked for
	AllowPrivate bool              // private and loopback addresses
	Clock        clock.Clock       // default: the system's
	// Wait sleeps as Retry-After asks; nil waits by the clock on the wall.
	Wait func(context.Context, time.Duration) error
}

// scan is one run.
type scan struct {
	o    *Options
	base *url.URL
	http *http.Client
	out  *Inventory
	now  time.Time
	wait time.Duration // what may still be spent waiting for a rate limit
}

// repo is one repository as its forge names it.
type repo struct {
	Path   string
	id     string // GitLab's number
	branch string
}

const maxRepositories, maxItems = 5000, 200_000

// Scan takes stock. An error means that nothing could be asked; a part that could
// not is in Unknown.
func Scan(ctx context.Context, o Options) (*Inventory, error) {
	s, err := begin(&o)
	if err != nil {
		return nil, err
	}
	repos, err := s.repositories(ctx)
	if err != nil {
		return nil, err
	}
	if len(repos) > maxRepositories {
		return nil, fault.Newf(fault.TooLarge, "%d repositories: at most %d are scanned in one run; name some by --repository", len(repos), maxRepositories)
	}
	for _, r := range repos {
		s.add(r.Path, Repositories, r.Path, "", time.Time{})
		switch o.Provider {
		case GitHub:
			s.github(ctx, r)
		case GitLab:
			s.gitlab(ctx, r)
		default:
			s.gitea(ctx, r)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(s.out.Items) > maxItems {
			return nil, fault.Newf(fault.TooLarge, "over %d items: name some repositories by --repository", maxItems)
		}
	}
	if o.Org != "" {
		s.organisation(ctx)
	} else {
		s.above()
	}
	s.out.sort()
	return s.out, nil
}

func begin(o *Options) (*scan, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.Newf(fault.Invalid, "the forge's address: want https://HOST[/PATH] without a user or a query")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !o.AllowPrivate) {
		return nil, fault.Newf(fault.Invalid, "the forge's address: want https, so that the token is not read on its way")
	}
	if (o.Org == "") == (len(o.Repositories) == 0) {
		return nil, fault.Newf(fault.Invalid, "want either an organisation or repositories")
	}
	targets := slices.Clone(o.Repositories)
	if o.Org != "" {
		targets = []string{o.Org}
	}
	slices.Sort(targets)
	for _, t := range targets {
		parts := strings.Split(t, "/")
		bad := slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." || strings.ContainsAny(p, "?#%\\ ") })
		if bad || o.Org == "" && (len(parts) < 2 || o.Provider != GitLab && len(parts) != 2) || o.Org != "" && o.Provider != GitLab && len(parts) != 1 {
			return nil, fault.Newf(fault.Invalid, "%q: want an organisation's name, or OWNER/NAME of a repository", t)
		}
	}
	for _, p := range o.Skip {
		if !slices.Contains(Parts(), p) {
			return nil, fault.Newf(fault.Invalid, "no part %q: want one of %s", p, strings.Join(Parts(), ", "))
		}
	}
	for _, p := range o.CIUsers {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fault.Newf(fault.Invalid, "pattern of users %q: %w", p, err)
		}
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	s := &scan{o: o, now: o.Clock().UTC(), wait: 2 * time.Minute}
	s.out = &Inventory{Version: 1, Provider: o.Provider, URL: u.String(), Targets: slices.Compact(targets), At: s.now.Truncate(time.Second), Skipped: slices.Sorted(slices.Values(o.Skip)), Items: []Item{}, Unknown: []Unknown{}, Findings: []Finding{}}
	base := *u
	base.Path = strings.TrimSuffix(u.Path, "/")
	switch o.Provider {
	case GitHub:
		if u.Hostname() == "github.com" {
			base.Host, base.Path = "api.github.com", ""
		} else if u.Hostname() != "api.github.com" {
			base.Path += "/api/v3" // GitHub Enterprise Server
		}
	case GitLab:
		base.Path += "/api/v4"
	case Gitea:
		base.Path += "/api/v1"
	default:
		return nil, fault.Newf(fault.Invalid, "provider %q: want github, gitlab or gitea", string(o.Provider))
	}
	s.base, s.http = &base, newClient(o.AllowPrivate)
	return s, nil
}

func (s *scan) add(scope, kind, name, value string, since time.Time) {
	i := Item{Scope: clip(scope), Kind: kind, Name: clip(name), Value: clip(value)}
	if !since.IsZero() {
		since = since.UTC()
		i.Since = &since
	}
	s.out.Items = append(s.out.Items, i)
}

func (s *scan) find(rule, scope, name, text string) {
	s.out.Findings = append(s.out.Findings, Finding{rule, clip(scope), clip(name), clip(text)})
}

func (s *scan) unknown(scope, part, why string) {
	s.out.Unknown = append(s.out.Unknown, Unknown{Scope: clip(scope), Part: part, Why: clip(why)})
}

// partly is for what is not told of a part whose items were.
func (s *scan) partly(scope, part, why string) {
	s.out.Unknown = append(s.out.Unknown, Unknown{Scope: clip(scope), Part: part, Why: clip(why), Partial: true})
}

// beyond is an error of a part that was listed as far as it was asked for.
type beyond string

func (b beyond) Error() string { return string(b) }

// part runs one part's questions, unless it is skipped; what fails is unknown.
func (s *scan) part(scope, part string, ask func() error) {
	if slices.Contains(s.o.Skip, part) {
		return
	}
	err := ask()
	if more, ok := errors.AsType[beyond](err); ok {
		s.partly(scope, part, more.Error())
	} else if err != nil {
		s.unknown(scope, part, why(err))
	}
}

func why(err error) string {
	if errors.Is(err, fault.NotFound) {
		return err.Error() + " (forges also say so where the token may not look)"
	}
	return err.Error()
}

// admin records somebody with all rights; robot is what the forge itself says.
func (s *scan) admin(scope, name, role string, robot bool) {
	s.add(scope, Admins, name, role, time.Time{})
	robot = robot || slices.ContainsFunc(s.o.CIUsers, func(p string) bool { ok, _ := path.Match(p, name); return ok || p == name })
	if robot {
		s.find("ci-admin", scope, name, "a pipeline's user is "+role+": whoever runs a job can change the repository's rules")
	}
}

func (s *scan) secret(scope, name string, since time.Time) {
	s.add(scope, Secrets, name, "", since)
	switch max := s.o.MaxSecretAge; {
	case max <= 0:
	case since.IsZero():
		s.partly(scope, Secrets, "the age of "+name+" is not told")
	case s.now.Sub(since) > max:
		s.find("old-secret", scope, name, "unchanged since "+since.UTC().Format(time.DateOnly))
	}
}

func (s *scan) key(scope, name string, readOnly *bool, since time.Time) {
	switch {
	case readOnly == nil:
		s.add(scope, DeployKeys, name, "", since)
		s.partly(scope, DeployKeys, "whether "+name+" may write is not told")
	case *readOnly:
		s.add(scope, DeployKeys, name, "read", since)
	default:
		s.add(scope, DeployKeys, name, "write", since)
		s.find("writing-deploy-key", scope, name, "a deploy key may push")
	}
}

func (s *scan) runner(scope, name string, ephemeral *bool) {
	switch {
	case ephemeral == nil:
		s.add(scope, Runners, name, "", time.Time{})
		s.partly(scope, Runners, "whether "+name+" runs one job only is not told")
	case *ephemeral:
		s.add(scope, Runners, name, "ephemeral", time.Time{})
	default:
		s.add(scope, Runners, name, "persistent", time.Time{})
		s.find("persistent-runner", scope, name, "a self-hosted runner is used again: one job can wait for the next one's secrets")
	}
}

func (i *Inventory) sort() {
	slices.SortFunc(i.Items, func(a, b Item) int { return strings.Compare(a.key(), b.key()) })
	slices.SortFunc(i.Unknown, func(a, b Unknown) int {
		return strings.Compare(a.Scope+"\x00"+a.Part+"\x00"+a.Why, b.Scope+"\x00"+b.Part+"\x00"+b.Why)
	})
	slices.SortFunc(i.Findings, func(a, b Finding) int {
		return strings.Compare(a.Scope+"\x00"+a.Rule+"\x00"+a.Name+"\x00"+a.Text, b.Scope+"\x00"+b.Rule+"\x00"+b.Name+"\x00"+b.Text)
	})
	i.Items = slices.CompactFunc(i.Items, func(a, b Item) bool { return a.key() == b.key() && a.Value == b.Value })
	i.Findings = slices.Compact(i.Findings)
	i.Unknown = slices.Compact(i.Unknown)
}

func (i Item) key() string { return i.Scope + "\x00" + i.Kind + "\x00" + i.Name }

// clip bounds what a forge's users named.
func clip(s string) string { return excerpt.Text(s, 512) }
