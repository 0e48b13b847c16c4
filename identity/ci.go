package identity

import (
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
)

// need gives claims that must all be there as texts.
func (c claims) need(names ...string) (map[string]string, error) {
	m := make(map[string]string, len(names))
	for _, name := range names {
		s := c.text(name)
		if s == "" {
			return nil, refuse("it has no %s claim, which this type of issuer states", name)
		}
		// They become paths of URIs, where ".." would lead to another
		// repository's name.
		if len(s) > maxSubject || strings.Contains("/"+s+"/", "/../") || strings.Contains("/"+s+"/", "/./") ||
			strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return nil, refuse("its %s claim %.80q is not a plain name", name, s)
		}
		m[name] = s
	}
	return m, nil
}

// github fills in what Fulcio states for GitHub Actions: the subject
// alternative name is the URI of the job's workflow, which for a reusable
// workflow is that of the callee.
func (t *Token) github(web string) error {
	m, err := t.claims.need("job_workflow_ref", "job_workflow_sha", "sha", "event_name", "repository", "workflow",
		"ref", "runner_environment", "repository_id", "repository_owner", "repository_owner_id",
		"repository_visibility", "workflow_ref", "workflow_sha", "run_id", "run_attempt")
	if err != nil {
		return err
	}
	if web == "" {
		web = "https://github.com/"
	}
	base, err := url.Parse(web)
	if err != nil {
		return refuse("the issuer's web_url does not parse: %w", err)
	}
	at := func(elem ...string) string { return base.JoinPath(elem...).String() }
	t.Certificate.URI = base.JoinPath(m["job_workflow_ref"])
	e := &t.Certificate.Extensions
	e.GithubWorkflowTrigger = m["event_name"]
	e.GithubWorkflowSHA = m["sha"]
	e.GithubWorkflowName = m["workflow"]
	e.GithubWorkflowRepository = m["repository"]
	e.GithubWorkflowRef = m["ref"]
	e.BuildSignerURI = t.Certificate.URI.String()
	e.BuildSignerDigest = m["job_workflow_sha"]
	e.RunnerEnvironment = m["runner_environment"]
	e.SourceRepositoryURI = at(m["repository"])
	e.SourceRepositoryDigest = m["sha"]
	e.SourceRepositoryRef = m["ref"]
	e.SourceRepositoryIdentifier = m["repository_id"]
	e.SourceRepositoryOwnerURI = at(m["repository_owner"])
	e.SourceRepositoryOwnerIdentifier = m["repository_owner_id"]
	e.BuildConfigURI = at(m["workflow_ref"])
	e.BuildConfigDigest = m["workflow_sha"]
	e.BuildTrigger = m["event_name"]
	e.RunInvocationURI = at(m["repository"], "actions/runs", m["run_id"], "attempts", m["run_attempt"])
	e.SourceRepositoryVisibilityAtSigning = m["repository_visibility"]
	e.DeploymentEnvironment = t.claims.text("environment")
	return nil
}

// gitlab fills in what Fulcio states for GitLab CI: the subject alternative
// name is the URI of the CI configuration.
func (t *Token) gitlab(web string) error {
	m, err := t.claims.need("project_path", "project_id", "pipeline_source", "pipeline_id", "ci_config_ref_uri",
		"namespace_path", "namespace_id", "job_id", "ref", "ref_type", "sha", "runner_environment")
	if err != nil {
		return err
	}
	var runner int64
	if v := t.claims["runner_id"]; len(v) == 0 || json.Unmarshal(v, &runner) != nil || runner <= 0 {
		return refuse("it has no runner_id claim, which this type of issuer states")
	}
	ref := ""
	switch m["ref_type"] {
	case "branch":
		ref = "refs/heads/" + m["ref"]
	case "tag":
		ref = "refs/tags/" + m["ref"]
	default:
		return refuse("its ref_type is %.40q, want branch or tag", m["ref_type"])
	}
	if web == "" {
		web = "https://gitlab.com/"
	}
	base, err := url.Parse(web)
	if err != nil {
		return refuse("the issuer's web_url does not parse: %w", err)
	}
	// The claim has no scheme: gitlab.com/group/project//.gitlab-ci.yml@refs/heads/main
	config, err := url.Parse("//" + strings.TrimPrefix(strings.TrimPrefix(m["ci_config_ref_uri"], "https://"), "//"))
	if err != nil || config.Host == "" {
		return refuse("its ci_config_ref_uri %.200q is not host/path@ref", m["ci_config_ref_uri"])
	}
	config.Scheme = "https"
	if config.Host == base.Host {
		config.Scheme = base.Scheme
	}
	t.Certificate.URI = config
	e := &t.Certificate.Extensions
	e.BuildConfigURI = config.String()
	e.BuildConfigDigest = t.claims.text("ci_config_sha")
	e.BuildSignerURI = config.String()
	e.BuildSignerDigest = t.claims.text("ci_config_sha")
	e.RunnerEnvironment = m["runner_environment"]
	e.SourceRepositoryURI = base.JoinPath(m["project_path"]).String()
	e.SourceRepositoryDigest = m["sha"]
	e.SourceRepositoryRef = ref
	e.SourceRepositoryIdentifier = m["project_id"]
	e.SourceRepositoryOwnerURI = base.JoinPath(m["namespace_path"]).String()
	e.SourceRepositoryOwnerIdentifier = m["namespace_id"]
	e.BuildTrigger = m["pipeline_source"]
	e.RunInvocationURI = base.JoinPath(m["project_path"], "/-/jobs/", m["job_id"]).String()
	e.SourceRepositoryVisibilityAtSigning = t.claims.text("project_visibility")
	return nil
}
