// Package forge records what GitHub, GitLab and Gitea tell of a repository:
// pushes to its protected branch, reviews with the commit that each was given
// for, the branch's protection as it was found and how it changed, and changes
// to the files of its pipelines. Each is stored before its notice is answered,
// and becomes a signed statement about the commit.
//
// A notice is believed as far as its secret goes: it proves that the forge sent
// it. Where a read-only token is configured the forge is asked as well: for the
// branch's protection, and for reviews that no notice told of.
package forge

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
)

// The providers.
const (
	GitHub = "github"
	GitLab = "gitlab"
	Gitea  = "gitea" // and Forgejo
)

// Spec is a repository at a forge, the body of a document of kind Source.
type Spec struct {
	Provider     string   `yaml:"provider"`               // github, gitlab or gitea
	URL          string   `yaml:"url"`                    // of the repository: https://github.com/org/app
	Branch       string   `yaml:"branch"`                 // the protected one
	Secret       string   `yaml:"secret"`                 // of the webhook: file:… or credential:…, 16 bytes or more
	API          string   `yaml:"api,omitempty"`          // https://… of the API; absent: the provider's usual place on the host
	Token        string   `yaml:"token,omitempty"`        // read-only, file:… or credential:…; absent: the API is not asked
	AllowPrivate bool     `yaml:"allowPrivate,omitempty"` // the API may be on a private address
	Reviews      int      `yaml:"reviews,omitempty"`      // approvals by others than the author that make a change reviewed; default 1
	Workflows    []string `yaml:"workflows,omitempty"`    // more paths whose changes are told, beside the provider's own
}

// Source is a compiled Spec.
type Source struct {
	Name string
	Spec
	api  *url.URL
	host string
}

// Validate says what is wrong with a spec.
func (s Spec) Validate() error {
	_, err := Compile("x", s)
	return err
}

// Compile checks a spec.
func Compile(name string, s Spec) (*Source, error) {
	out := &Source{Name: name, Spec: s}
	if !slices.Contains([]string{GitHub, GitLab, Gitea}, s.Provider) {
		return nil, fault.Newf(fault.Invalid, "provider %.40q: want github, gitlab or gitea", s.Provider)
	}
	u, err := url.Parse(strings.TrimSuffix(strings.TrimSuffix(s.URL, "/"), ".git"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Count(strings.Trim(u.Path, "/"), "/") < 1 {
		return nil, fault.Newf(fault.Invalid, "url %.200q: want the repository's, for example https://github.com/org/app", s.URL)
	}
	out.URL = u.String()
	if s.Branch == "" || strings.HasPrefix(s.Branch, "refs/") || strings.ContainsAny(s.Branch, " \n\x00*?[~^:\\") {
		return nil, fault.Newf(fault.Invalid, "branch %.80q: want the protected branch's name, for example main", s.Branch)
	}
	for _, place := range []struct{ field, text string }{{"secret", s.Secret}, {"token", s.Token}} {
		if place.text != "" && !strings.HasPrefix(place.text, "file:") && !strings.HasPrefix(place.text, "credential:") {
			return nil, fault.Newf(fault.Invalid, "%s: want file:PATH or credential:NAME, never the secret itself", place.field)
		}
	}
	if s.Secret == "" {
		return nil, fault.Newf(fault.Invalid, "secret: want file:PATH or credential:NAME of the webhook's secret")
	}
	if s.Reviews < 0 || s.Reviews > 16 {
		return nil, fault.Newf(fault.Invalid, "reviews %d: want 1 to 16", s.Reviews)
	}
	if out.Reviews == 0 {
		out.Reviews = 1
	}
	api := s.API
	if api == "" {
		switch {
		case s.Provider == GitHub && u.Host == "github.com":
			api = "https://api.github.com"
		case s.Provider == GitHub:
			api = u.Scheme + "://" + u.Host + "/api/v3"
		case s.Provider == GitLab:
			api = u.Scheme + "://" + u.Host + "/api/v4"
		default:
			api = u.Scheme + "://" + u.Host + "/api/v1"
		}
	}
	out.api, err = url.Parse(strings.TrimSuffix(api, "/"))
	if err != nil || out.api.Host == "" || out.api.User != nil || out.api.Scheme != "https" && !(out.api.Scheme == "http" && s.AllowPrivate) {
		return nil, fault.Newf(fault.Invalid, "api %.200q: want https://…; http goes with allowPrivate alone", api)
	}
	out.host = u.Host
	return out, nil
}

// Path is the repository's name at the forge: "org/app".
func (s *Source) Path() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return strings.Trim(u.Path, "/")
}

// URI names the repository in statements.
func (s *Source) URI() string { return "git+" + s.URL }

// Ref is the protected branch, in full.
func (s *Source) Ref() string { return "refs/heads/" + s.Branch }

// is says whether a notice's name of a repository is this one.
func (s *Source) is(path string) bool { return strings.EqualFold(path, s.Path()) }

// workflow says whether a path holds pipelines, whose change changes what
// builds, tests and publishes.
func (s *Source) workflow(p string) bool {
	for _, dir := range []string{".github/workflows/", ".github/actions/", ".gitea/workflows/", ".forgejo/workflows/", ".gitlab/ci/", ".assay/"} {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	if p == ".gitlab-ci.yml" || p == "Jenkinsfile" || p == ".github/CODEOWNERS" || p == "CODEOWNERS" {
		return true
	}
	return slices.ContainsFunc(s.Workflows, func(w string) bool {
		return p == w || strings.HasSuffix(w, "/") && strings.HasPrefix(p, w)
	})
}

// grace is how long after a push notices of the change that it merges may come.
const grace = 30 * time.Second
