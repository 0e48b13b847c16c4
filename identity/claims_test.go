package identity

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/fulcio/pkg/certificate"
)

func githubClaims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": github, "sub": "repo:org/app:ref:refs/heads/main", "email": nil, "email_verified": nil,
		"job_workflow_ref": "org/shared/.github/workflows/release.yml@refs/tags/v1", "job_workflow_sha": "aaa",
		"sha": "bbb", "event_name": "push", "repository": "org/app", "workflow": "release", "ref": "refs/heads/main",
		"runner_environment": "github-hosted", "repository_id": "1", "repository_owner": "org", "repository_owner_id": "2",
		"repository_visibility": "private", "workflow_ref": "org/app/.github/workflows/ci.yml@refs/heads/main", "workflow_sha": "ccc",
		"run_id": "77", "run_attempt": "3",
	}
	for k, v := range change {
		c[k] = v
	}
	return goodClaims(c)
}

func gitlabClaims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": "https://gitlab.com", "sub": "project_path:group/app:ref_type:branch:ref:main", "email": nil, "email_verified": nil,
		"project_path": "group/app", "project_id": "10", "pipeline_source": "push", "pipeline_id": "20",
		"ci_config_ref_uri": "gitlab.com/group/app//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": "ddd",
		"namespace_path": "group", "namespace_id": "30", "job_id": "40", "ref": "main", "ref_type": "branch", "sha": "eee",
		"runner_environment": "gitlab-hosted", "runner_id": 5, "project_visibility": "public",
	}
	for k, v := range change {
		c[k] = v
	}
	return goodClaims(c)
}

// The names and extensions are those that Fulcio gives the same claims.
func TestIssuerTypes(t *testing.T) {
	uri := func(s string) map[string]any { return goodClaims(map[string]any{"sub": s, "email": nil}) }
	k8s := func(ns, sa, sub string) map[string]any {
		return goodClaims(map[string]any{"sub": sub, "email": nil, "kubernetes.io": map[string]any{
			"namespace": ns, "serviceaccount": map[string]any{"name": sa, "uid": "1"}, "pod": map[string]any{"name": "p"}}})
	}
	spiffe := IssuerConfig{URL: testIssuer, Type: TypeSPIFFE, TrustDomain: "example.com"}
	byURI := IssuerConfig{URL: testIssuer, Type: TypeURI, SubjectDomain: "https://ci.example.com"}
	kube := IssuerConfig{URL: testIssuer, Type: TypeKubernetes}
	gh, gl := IssuerConfig{URL: github, Type: TypeGitHub}, IssuerConfig{URL: "https://gitlab.com", Type: TypeGitLab}
	for _, c := range []struct {
		name   string
		cfg    IssuerConfig
		claims map[string]any
		want   string // SAN; "!" and a part of the error when refused
	}{
		{"spiffe", spiffe, uri("spiffe://example.com/ns/a"), "spiffe://example.com/ns/a"},
		{"spiffe domain alone", spiffe, uri("spiffe://example.com"), "spiffe://example.com"},
		{"spiffe, other domain", spiffe, uri("spiffe://example.com.evil.org/a"), "!SPIFFE"},
		{"spiffe, traversal", spiffe, uri("spiffe://example.com/../a"), "!SPIFFE"},
		{"spiffe, empty segment", spiffe, uri("spiffe://example.com//a"), "!SPIFFE"},
		{"spiffe, query", spiffe, uri("spiffe://example.com/a?b"), "!SPIFFE"},
		{"spiffe, capitals", spiffe, uri("SPIFFE://example.com/a"), "!SPIFFE"},
		{"uri", byURI, uri("https://ci.example.com/jobs/1"), "https://ci.example.com/jobs/1"},
		{"uri, other host", byURI, uri("https://ci.example.com.evil.org/jobs/1"), "!below"},
		{"uri, other port", byURI, uri("https://ci.example.com:8443/jobs/1"), "!below"},
		{"uri, http", byURI, uri("http://ci.example.com/jobs/1"), "!below"},
		{"uri, user", byURI, uri("https://ci.example.com@evil.org/jobs/1"), "!URI"},
		{"uri, address", byURI, uri("alice@example.com"), "!URI"},
		{"kubernetes", kube, k8s("prod", "deployer", "system:serviceaccount:prod:deployer"), "https://kubernetes.io/namespaces/prod/serviceaccounts/deployer"},
		{"kubernetes, claims disagree", kube, k8s("prod", "deployer", "system:serviceaccount:dev:deployer"), "!agree"},
		{"kubernetes, traversal", kube, k8s("prod/../dev", "deployer", "system:serviceaccount:prod/../dev:deployer"), "!agree"},
		{"kubernetes, legacy token", kube, uri("system:serviceaccount:prod:deployer"), "!kubernetes.io claim"},
		{"github", gh, githubClaims(nil), "https://github.com/org/shared/.github/workflows/release.yml@refs/tags/v1"},
		{"github, a claim missing", gh, githubClaims(map[string]any{"repository_id": nil}), "!repository_id"},
		{"github, a claim of another type", gh, githubClaims(map[string]any{"run_id": 77}), "!run_id"},
		{"github, traversal", gh, githubClaims(map[string]any{"job_workflow_ref": "evil/x/../../org/app/.github/workflows/ci.yml@refs/heads/main"}), "!plain name"},
		{"gitlab", gl, gitlabClaims(nil), "https://gitlab.com/group/app//.gitlab-ci.yml@refs/heads/main"},
		{"gitlab, ref type", gl, gitlabClaims(map[string]any{"ref_type": "merge"}), "!ref_type"},
		{"gitlab, no runner", gl, gitlabClaims(map[string]any{"runner_id": nil}), "!runner_id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSigner(t, "k1")
			p, tok, err := verifierFor(t, c.cfg, s.jwk).Verify(bg, s.token(t, c.claims, nil), AudienceSigstore)
			if part, refused := strings.CutPrefix(c.want, "!"); refused {
				if !errors.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), part) {
					t.Errorf("got %+v, %v; want refused with %q", p, err, part)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != c.want || tok.Certificate.Name() != c.want || p.Kind != KindWorkload || p.Person != "" || tok.Challenge != c.claims["sub"] {
				t.Errorf("name %q, certificate %q, principal %+v, challenge %q", p.Name, tok.Certificate.Name(), p, tok.Challenge)
			}
		})
	}
}

func TestBuildExtensions(t *testing.T) {
	s := newSigner(t, "k1")
	_, tok, err := verifierFor(t, IssuerConfig{URL: github, Type: TypeGitHub}, s.jwk).Verify(bg, s.token(t, githubClaims(nil), nil), AudienceSigstore)
	if err != nil {
		t.Fatal(err)
	}
	const sub = "repo:org/app:ref:refs/heads/main"
	want := certificate.Extensions{
		Issuer: github, Subject: sub,
		GithubWorkflowTrigger: "push", GithubWorkflowSHA: "bbb", GithubWorkflowName: "release",
		GithubWorkflowRepository: "org/app", GithubWorkflowRef: "refs/heads/main",
		BuildSignerURI:    "https://github.com/org/shared/.github/workflows/release.yml@refs/tags/v1",
		BuildSignerDigest: "aaa", RunnerEnvironment: "github-hosted",
		SourceRepositoryURI: "https://github.com/org/app", SourceRepositoryDigest: "bbb", SourceRepositoryRef: "refs/heads/main",
		SourceRepositoryIdentifier: "1", SourceRepositoryOwnerURI: "https://github.com/org", SourceRepositoryOwnerIdentifier: "2",
		BuildConfigURI: "https://github.com/org/app/.github/workflows/ci.yml@refs/heads/main", BuildConfigDigest: "ccc",
		BuildTrigger: "push", RunInvocationURI: "https://github.com/org/app/actions/runs/77/attempts/3",
		SourceRepositoryVisibilityAtSigning: "private",
	}
	if d := cmp.Diff(want, tok.Certificate.Extensions); d != "" {
		t.Error(d)
	}
	_, tok, err = verifierFor(t, IssuerConfig{URL: "https://gitlab.com", Type: TypeGitLab}, s.jwk).Verify(bg, s.token(t, gitlabClaims(nil), nil), AudienceSigstore)
	if err != nil {
		t.Fatal(err)
	}
	config := "https://gitlab.com/group/app//.gitlab-ci.yml@refs/heads/main"
	want = certificate.Extensions{
		Issuer: "https://gitlab.com", Subject: "project_path:group/app:ref_type:branch:ref:main",
		BuildConfigURI: config, BuildConfigDigest: "ddd", BuildSignerURI: config, BuildSignerDigest: "ddd",
		RunnerEnvironment: "gitlab-hosted", SourceRepositoryURI: "https://gitlab.com/group/app",
		SourceRepositoryDigest: "eee", SourceRepositoryRef: "refs/heads/main", SourceRepositoryIdentifier: "10",
		SourceRepositoryOwnerURI: "https://gitlab.com/group", SourceRepositoryOwnerIdentifier: "30",
		BuildTrigger: "push", RunInvocationURI: "https://gitlab.com/group/app/-/jobs/40", SourceRepositoryVisibilityAtSigning: "public",
	}
	if d := cmp.Diff(want, tok.Certificate.Extensions); d != "" {
		t.Error(d)
	}
}

// The embedded issuer's identities are nobody's persons.
func TestLocalIdentities(t *testing.T) {
	s := newSigner(t, "k1")
	for _, c := range []struct {
		claims map[string]any
		kind   Kind
		name   string // of the certificate
	}{
		{map[string]any{"sub": "alice@example.com"}, KindUser, "alice@example.com"},
		{map[string]any{"sub": "https://ci.example.com/a", "email": nil}, KindWorkload, "https://ci.example.com/a"},
		{map[string]any{"sub": "builder", "email": nil}, KindRobot, ""},
		{map[string]any{"sub": "https:opaque", "email": nil}, KindRobot, ""},
	} {
		v := verifierFor(t, IssuerConfig{URL: testIssuer, Type: TypeEmail}, s.jwk)
		list := *v.issuers.Load()
		list[testIssuer].cfg.Type = TypeLocal
		p, tok, err := v.Verify(bg, s.token(t, goodClaims(c.claims), nil), AudienceSigstore)
		if err != nil {
			t.Fatal(err)
		}
		if p.Kind != c.kind || tok.Certificate.Name() != c.name || p.Person != "" || p.Name == "" {
			t.Errorf("%v: %+v, certificate %q", c.claims, p, tok.Certificate.Name())
		}
	}
}

func TestIsEmail(t *testing.T) {
	for s, want := range map[string]bool{
		"a@example.com": true, "first.last+tag@sub.example.co.uk": true, "dev@localhost": true, "x_y-z@a-b.org": true,
		"": false, "a": false, "@example.com": false, "a@": false, "a@b": false, "a..b@example.com": false, ".a@example.com": false,
		"a@example..com": false, "a@-example.com": false, "a@[127.0.0.1]": false, `"a b"@example.com`: false, "a b@example.com": false,
		"a@example.com ": false, "a@b@example.com": false, "ä@example.com": false, "a@exämple.com": false,
		strings.Repeat("a", 65) + "@example.com": false, "a@" + strings.Repeat("a.", 130) + "com": false,
	} {
		if got := IsEmail(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func TestIssuerConfigValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  IssuerConfig
		want string // part of the error; empty: valid
	}{
		{"email", IssuerConfig{URL: testIssuer, Type: TypeEmail}, ""},
		{"path", IssuerConfig{URL: testIssuer + "/realms/a", Type: TypeEmail}, ""},
		{"client id", IssuerConfig{URL: testIssuer, Type: TypeEmail, ClientID: "abc.apps"}, ""},
		{"client id for the API", IssuerConfig{URL: testIssuer, Type: TypeEmail, ClientID: "abc.apps", Purpose: AudienceAPI}, ""},
		{"loopback", IssuerConfig{URL: "http://127.0.0.1:8080", Type: TypeEmail, AllowPrivate: true}, ""},
		{"IPv6 loopback", IssuerConfig{URL: "http://[::1]:8080", Type: TypeEmail, AllowPrivate: true}, ""},
		{"http", IssuerConfig{URL: "http://example.com", Type: TypeEmail, AllowPrivate: true}, "want https"},
		{"loopback unasked", IssuerConfig{URL: "http://127.0.0.1:8080", Type: TypeEmail}, "want https"},
		{"credentials", IssuerConfig{URL: "https://u:p@example.com", Type: TypeEmail}, "user and password"},
		{"query", IssuerConfig{URL: testIssuer + "?a", Type: TypeEmail}, "query"},
		{"file", IssuerConfig{URL: "file:///etc/passwd", Type: TypeEmail}, "https"},
		{"empty", IssuerConfig{Type: TypeEmail}, "https"},
		{"no type", IssuerConfig{URL: testIssuer}, "type"},
		{"local", IssuerConfig{URL: testIssuer, Type: TypeLocal}, "type"},
		{"uri without domain", IssuerConfig{URL: testIssuer, Type: TypeURI}, "subject_domain"},
		{"uri, domain with path", IssuerConfig{URL: testIssuer, Type: TypeURI, SubjectDomain: "https://a.example/b"}, "subject_domain"},
		{"spiffe without domain", IssuerConfig{URL: testIssuer, Type: TypeSPIFFE}, "trust_domain"},
		{"spiffe, domain with slash", IssuerConfig{URL: testIssuer, Type: TypeSPIFFE, TrustDomain: "a/b"}, "trust_domain"},
		{"shared audience", IssuerConfig{URL: testIssuer, Type: TypeEmail, Audiences: map[Audience]string{AudienceAPI: "x", AudienceSigstore: "x"}}, "two purposes"},
		{"crossed audience", IssuerConfig{URL: testIssuer, Type: TypeEmail, Audiences: map[Audience]string{AudienceAPI: "sigstore"}}, "another purpose"},
		{"crossed client id", IssuerConfig{URL: testIssuer, Type: TypeEmail, ClientID: "assay-registry"}, "another purpose"},
		{"unknown purpose", IssuerConfig{URL: testIssuer, Type: TypeEmail, Audiences: map[Audience]string{"x": "y"}}, "want one of"},
		{"empty audience", IssuerConfig{URL: testIssuer, Type: TypeEmail, Audiences: map[Audience]string{AudienceAPI: ""}}, "aud claim"},
		{"both", IssuerConfig{URL: testIssuer, Type: TypeEmail, ClientID: "a", Audiences: map[Audience]string{AudienceAPI: "x"}}, "found both"},
	} {
		err := c.cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
