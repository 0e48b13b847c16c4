package supply

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

type account struct {
	Login string `json:"login"`
	Type  string `json:"type"`
}

type deployKey struct {
	ID       int64     `json:"id"`
	Title    string    `json:"title"`
	ReadOnly *bool     `json:"read_only"`
	CanPush  *bool     `json:"can_push"`
	Created  time.Time `json:"created_at"`
}

func (k *deployKey) name() string { return k.Title + " #" + strconv.FormatInt(k.ID, 10) }

type secretName struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created_at"`
	Updated time.Time `json:"updated_at"`
}

func (n *secretName) since() time.Time {
	if n.Updated.After(n.Created) {
		return n.Updated
	}
	return n.Created
}

type runnerPage struct {
	Runners []struct {
		ID        int64  `json:"id"`
		Name      string `json:"name"`
		Ephemeral *bool  `json:"ephemeral"`
	} `json:"runners"`
}

// repositories finds what was asked for.
func (s *scan) repositories(ctx context.Context) (out []repo, err error) {
	type wire struct {
		ID     int64  `json:"id"`
		Full   string `json:"full_name"`
		Path   string `json:"path_with_namespace"`
		Branch string `json:"default_branch"`
	}
	use := func(list []wire) {
		for _, w := range list {
			r := repo{w.Full, strconv.FormatInt(w.ID, 10), w.Branch}
			if s.o.Provider == GitLab {
				r.Path = w.Path
			}
			parts := strings.Split(r.Path, "/")
			for _, p := range parts {
				if len(parts) < 2 || p == "" || p == "." || p == ".." || strings.ContainsAny(p, "?#%\\ ") {
					err = fault.Newf(fault.Unavailable, "the forge names a repository %q: want OWNER/NAME", clip(r.Path))
				}
			}
			out = append(out, r)
		}
	}
	if s.o.Org != "" {
		path := "/orgs/" + url.PathEscape(s.o.Org) + "/repos"
		if s.o.Provider == GitLab {
			path = "/groups/" + url.PathEscape(s.o.Org) + "/projects?include_subgroups=true"
		}
		if e := list(ctx, s, path, use); e != nil {
			return nil, e
		}
		return out, err
	}
	for _, name := range s.out.Targets {
		path := "/repos/" + name
		if s.o.Provider == GitLab {
			path = "/projects/" + url.PathEscape(name)
		}
		var w wire
		if e := s.one(ctx, path, &w); e != nil {
			return nil, e
		}
		use([]wire{w})
	}
	return out, err
}

func (s *scan) github(ctx context.Context, r repo) {
	at := "/repos/" + r.Path
	s.part(r.Path, Admins, func() error {
		return list(ctx, s, at+"/collaborators?permission=admin", func(l []account) {
			for _, a := range l {
				s.admin(r.Path, a.Login, "admin", a.Type == "Bot")
			}
		})
	})
	s.keys(ctx, r, at+"/keys")
	s.part(r.Path, Secrets, func() error { return s.secretPages(ctx, r.Path, at+"/actions/secrets") })
	s.part(r.Path, Runners, func() error { return s.runners(ctx, r.Path, at+"/actions/runners") })
	s.part(r.Path, Permissions, func() error {
		var p struct {
			Default string `json:"default_workflow_permissions"`
			Approve bool   `json:"can_approve_pull_request_reviews"`
		}
		if err := s.one(ctx, at+"/actions/permissions/workflow", &p); err != nil {
			return err
		}
		if p.Default != "read" && p.Default != "write" {
			return fault.Newf(fault.Unavailable, "default_workflow_permissions is %q: want read or write", clip(p.Default))
		}
		s.add(r.Path, Permissions, "default", p.Default, time.Time{})
		if p.Default == "write" {
			s.find("write-all", r.Path, "default", "workflows that name no permissions may write")
		}
		s.add(r.Path, Permissions, "approve", strconv.FormatBool(p.Approve), time.Time{})
		if p.Approve {
			s.find("ci-approves", r.Path, "approve", "workflows may approve changes")
		}
		return nil
	})
	s.part(r.Path, Workflows, func() error { return s.actions(ctx, r, ".github/workflows") })
}

func (s *scan) keys(ctx context.Context, r repo, path string) {
	s.part(r.Path, DeployKeys, func() error {
		return list(ctx, s, path, func(l []deployKey) {
			for _, k := range l {
				if k.CanPush != nil { // GitLab's word
					no := !*k.CanPush
					k.ReadOnly = &no
				}
				s.key(r.Path, k.name(), k.ReadOnly, k.Created)
			}
		})
	})
}

func (s *scan) secretPages(ctx context.Context, scope, path string) error {
	return pages(ctx, s, path, func(p struct {
		Secrets []secretName `json:"secrets"`
	}) {
		for _, n := range p.Secrets {
			s.secret(scope, n.Name, n.since())
		}
	})
}

func (s *scan) runners(ctx context.Context, scope, path string) error {
	return pages(ctx, s, path, func(p runnerPage) {
		for _, n := range p.Runners {
			s.runner(scope, n.Name+" #"+strconv.FormatInt(n.ID, 10), n.Ephemeral)
		}
	})
}

// actions reads workflow files of the first of the folders that is there.
func (s *scan) actions(ctx context.Context, r repo, folders ...string) error {
	type entry struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	at, seen := "/repos/"+r.Path+"/contents/", map[string]bool{}
	for _, folder := range folders {
		var entries []entry
		err := s.one(ctx, at+folder, &entries)
		if errors.Is(err, fault.NotFound) {
			// Not there, or not to be read: the root tells which.
			if err := s.one(ctx, strings.TrimSuffix(at, "/"), &entries); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type != "file" || !strings.HasSuffix(e.Name, ".yml") && !strings.HasSuffix(e.Name, ".yaml") || strings.Contains(e.Name, "/") {
				continue
			}
			var c content
			if err := s.one(ctx, at+folder+"/"+url.PathEscape(e.Name), &c); err != nil {
				return err
			}
			body, err := c.bytes()
			if err != nil {
				return err
			}
			seen[folder+"/"+e.Name] = true
			s.workflow(r.Path, folder+"/"+e.Name, body)
		}
		break
	}
	s.missing(r.Path, seen)
	return nil
}

func (s *scan) gitea(ctx context.Context, r repo) {
	at := "/repos/" + r.Path
	s.part(r.Path, Admins, func() error {
		var all []account
		if err := list(ctx, s, at+"/collaborators", func(l []account) { all = append(all, l...) }); err != nil {
			return err
		}
		for _, a := range all {
			var p struct {
				Permission string `json:"permission"`
			}
			if err := s.one(ctx, at+"/collaborators/"+url.PathEscape(a.Login)+"/permission", &p); err != nil {
				return err
			}
			if p.Permission == "admin" || p.Permission == "owner" {
				s.admin(r.Path, a.Login, p.Permission, false)
			}
		}
		return beyond("an organisation's owners and teams are not among a repository's collaborators; look at them apart")
	})
	s.keys(ctx, r, at+"/keys")
	s.part(r.Path, Secrets, func() error {
		return list(ctx, s, at+"/actions/secrets", func(l []secretName) {
			for _, n := range l {
				s.secret(r.Path, n.Name, n.since())
			}
		})
	})
	s.part(r.Path, Runners, func() error { return s.runners(ctx, r.Path, at+"/actions/runners") })
	s.part(r.Path, Permissions, func() error {
		return fault.Newf(fault.Unavailable, "Gitea's API does not tell what a job's token may do")
	})
	s.part(r.Path, Workflows, func() error { return s.actions(ctx, r, ".gitea/workflows", ".github/workflows") })
}

// bot is a name that GitLab gives to the user of an access token.
var bot = regexp.MustCompile(`^(project|group)_[0-9]+_bot(_[0-9a-f]+)?$`)

func (s *scan) gitlab(ctx context.Context, r repo) {
	at := "/projects/" + r.id
	s.part(r.Path, Admins, func() error {
		return list(ctx, s, at+"/members/all", func(l []struct {
			User  string `json:"username"`
			Level int    `json:"access_level"`
		}) {
			for _, m := range l {
				if role := gitlabRole(m.Level); role != "" {
					s.admin(r.Path, m.User, role, bot.MatchString(m.User))
				}
			}
		})
	})
	s.keys(ctx, r, at+"/deploy_keys")
	s.variables(ctx, r.Path, at)
	s.part(r.Path, Runners, func() error {
		return list(ctx, s, at+"/runners", func(l []struct {
			ID   int64  `json:"id"`
			Text string `json:"description"`
			Type string `json:"runner_type"`
		}) {
			for _, n := range l {
				if n.Type != "instance_type" {
					s.runner(r.Path, n.Text+" #"+strconv.FormatInt(n.ID, 10), nil)
				}
			}
		})
	})
	s.part(r.Path, Permissions, func() error {
		var p struct {
			Inbound *bool `json:"inbound_enabled"`
		}
		if err := s.one(ctx, at+"/job_token_scope", &p); err != nil {
			return err
		}
		if p.Inbound == nil {
			return fault.Newf(fault.Unavailable, "job_token_scope has no inbound_enabled")
		}
		s.add(r.Path, Permissions, "job-token-limited", strconv.FormatBool(*p.Inbound), time.Time{})
		if !*p.Inbound {
			s.find("open-job-token", r.Path, "job-token-limited", "job tokens of every project reach this one")
		}
		return nil
	})
	s.accessTokens(ctx, r.Path, at)
	s.part(r.Path, Registries, func() error {
		return list(ctx, s, at+"/registry/repositories", func(l []struct {
			Path string    `json:"path"`
			Made time.Time `json:"created_at"`
		}) {
			for _, p := range l {
				s.add(r.Path, Registries, p.Path, "", p.Made)
			}
		})
	})
	s.part(r.Path, Workflows, func() error { return s.gitlabCI(ctx, r, at) })
}

func (s *scan) gitlabCI(ctx context.Context, r repo, at string) error {
	const name = ".gitlab-ci.yml"
	var c content
	err := s.one(ctx, at+"/repository/files/"+url.PathEscape(name)+"?ref="+url.QueryEscape(r.branch), &c)
	if errors.Is(err, fault.NotFound) {
		var tree []struct{}
		if err := s.one(ctx, at+"/repository/tree", &tree); err != nil {
			return err
		}
		s.missing(r.Path, nil)
		return nil
	}
	if err != nil {
		return err
	}
	body, err := c.bytes()
	if err != nil {
		return err
	}
	s.workflow(r.Path, name, body)
	s.missing(r.Path, map[string]bool{name: true})
	return nil
}

func gitlabRole(level int) string {
	switch {
	case level >= 50:
		return "owner"
	case level >= 40:
		return "maintainer"
	}
	return ""
}

// organisation asks what stands above the repositories.
func (s *scan) organisation(ctx context.Context) {
	org := s.o.Org
	at := "/orgs/" + url.PathEscape(org)
	type pkg struct {
		Name string    `json:"name"`
		Made time.Time `json:"created_at"`
	}
	use := func(l []pkg) {
		for _, p := range l {
			s.add(org, Registries, p.Name, "", p.Made)
		}
	}
	switch s.o.Provider {
	case GitHub:
		s.part(org, Secrets, func() error { return s.secretPages(ctx, org, at+"/actions/secrets") })
		s.part(org, Runners, func() error { return s.runners(ctx, org, at+"/actions/runners") })
		s.part(org, Robots, func() error {
			return pages(ctx, s, at+"/installations", func(p struct {
				Installations []struct {
					App         string            `json:"app_slug"`
					Permissions map[string]string `json:"permissions"`
					Made        time.Time         `json:"created_at"`
				} `json:"installations"`
			}) {
				for _, i := range p.Installations {
					s.add(org, Robots, i.App, "administration: "+i.Permissions["administration"], i.Made)
					if i.Permissions["administration"] == "write" {
						s.find("ci-admin", org, i.App, "an installed app administers repositories")
					}
				}
			})
		})
		s.part(org, Registries, func() error { return list(ctx, s, at+"/packages?package_type=container", use) })
	case GitLab:
		group := "/groups/" + url.PathEscape(org)
		s.variables(ctx, org, group)
		s.accessTokens(ctx, org, group)
		s.part(org, Robots, func() error {
			return fault.Newf(fault.Unavailable, "deploy tokens are not asked for; look at them apart")
		})
	case Gitea:
		s.part(org, Secrets, func() error {
			return list(ctx, s, at+"/actions/secrets", func(l []secretName) {
				for _, n := range l {
					s.secret(org, n.Name, n.since())
				}
			})
		})
		s.part(org, Runners, func() error { return s.runners(ctx, org, at+"/actions/runners") })
		s.part(org, Robots, func() error {
			return fault.Newf(fault.Unavailable, "Gitea's API does not tell which users are robots, nor their tokens")
		})
		s.part(org, Registries, func() error {
			return list(ctx, s, "/packages/"+url.PathEscape(org)+"?type=container", use)
		})
	}
}

// variables are the secrets of a GitLab project or group.
func (s *scan) variables(ctx context.Context, scope, at string) {
	s.part(scope, Secrets, func() error {
		// The answer has the values too; there is no member here to hold them.
		return list(ctx, s, at+"/variables", func(l []struct {
			Key   string `json:"key"`
			Scope string `json:"environment_scope"`
		}) {
			for _, v := range l {
				name := v.Key
				if v.Scope != "" && v.Scope != "*" {
					name += " (" + v.Scope + ")"
				}
				s.secret(scope, name, time.Time{})
			}
		})
	})
}

// accessTokens are the robots of a GitLab project or group.
func (s *scan) accessTokens(ctx context.Context, scope, at string) {
	s.part(scope, Robots, func() error {
		return list(ctx, s, at+"/access_tokens", func(l []struct {
			ID     int64     `json:"id"`
			Name   string    `json:"name"`
			Level  int       `json:"access_level"`
			Active bool      `json:"active"`
			Made   time.Time `json:"created_at"`
		}) {
			for _, t := range l {
				if t.Active {
					s.add(scope, Robots, t.Name+" #"+strconv.FormatInt(t.ID, 10), "level "+strconv.Itoa(t.Level), t.Made)
				}
			}
		})
	})
}

// above says what stands above single repositories and was therefore not asked.
func (s *scan) above() {
	const why = beyond("what the organisation gives its repositories is asked with --org only")
	for _, r := range s.out.Targets {
		for _, p := range []string{Secrets, Runners, Robots, Registries} {
			if s.o.Provider == GitLab && (p == Runners || p == Registries) {
				continue // a project's list has its group's runners too
			}
			s.part(r, p, func() error { return why })
		}
	}
}
