//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// pipelineScript takes the shell out of a pipeline, as its CI system does.
func pipelineScript(t *testing.T, system string, body []byte) string {
	t.Helper()
	var steps []string
	switch system {
	case "github":
		var w struct {
			Jobs map[string]struct{ Steps []struct{ Run string } }
		}
		if err := yaml.Unmarshal(body, &w); err != nil {
			t.Fatal(err)
		}
		for _, s := range w.Jobs["build"].Steps {
			if s.Run != "" { // each step is a shell of its own, with what GITHUB_ENV says
				steps = append(steps, "(\nset -a; . \"$GITHUB_ENV\"; set +a\n"+s.Run+")")
			}
		}
	case "gitlab":
		var w struct{ Assay struct{ Script []string } }
		if err := yaml.Unmarshal(body, &w); err != nil {
			t.Fatal(err)
		}
		steps = w.Assay.Script
	case "generic":
		return string(body)
	case "tekton":
		var w struct {
			Spec struct{ Steps []struct{ Script string } }
		}
		if err := yaml.Unmarshal(body, &w); err != nil {
			t.Fatal(err)
		}
		return w.Spec.Steps[0].Script
	case "jenkins":
		_, s, _ := strings.Cut(string(body), "script: '''")
		s, _, _ = strings.Cut(s, "'''")
		return strings.NewReplacer(`\\`, `\`, `\'`, `'`).Replace(s)
	}
	return "#!/bin/bash\nset -eo pipefail\n" + strings.Join(steps, "\n")
}

// TestPipelines: each pipeline that assay init ci writes is linted, and its
// shell builds, attests, pushes, signs and is allowed, with tokens of an issuer
// such as its CI system has; a job of another branch is not.
func TestPipelines(t *testing.T) {
	s := up(t)
	// The issuer of the jobs' tokens, and the door where GitHub's jobs ask.
	ci := newIDP(t)
	ref := "refs/heads/main"
	claims := map[string]func(aud string) map[string]any{
		"github": func(aud string) map[string]any {
			c := map[string]any{"aud": aud, "sub": "repo:org/app:ref:" + ref, "ref": ref, "repository": "org/app", "workflow": "assay",
				"job_workflow_ref": "org/app/.github/workflows/assay.yml@" + ref}
			for _, name := range []string{"job_workflow_sha", "sha", "event_name", "runner_environment", "repository_id", "repository_owner",
				"repository_owner_id", "repository_visibility", "workflow_ref", "workflow_sha", "run_id", "run_attempt"} {
				c[name] = "x"
			}
			return c
		},
		"gitlab": func(aud string) map[string]any {
			branch := strings.TrimPrefix(ref, "refs/heads/")
			c := map[string]any{"aud": aud, "sub": "project_path:org/app:ref_type:branch:ref:" + branch, "project_path": "org/app", "ref": branch, "ref_type": "branch", "ref_path": ref,
				"ref_protected": "true", "ci_config_ref_uri": "gitlab.com/org/app//.gitlab-ci.yml@" + ref}
			for _, name := range []string{"namespace_path", "namespace_id", "project_id", "pipeline_id", "pipeline_source", "job_id", "runner_id", "runner_environment", "sha", "ci_config_sha", "project_visibility", "user_login", "user_id"} {
				c[name] = "1"
			}
			c["runner_id"] = 1
			return c
		},
		"generic": func(aud string) map[string]any {
			return map[string]any{"aud": aud, "sub": ci.URL + "/org/app" + strings.TrimPrefix(ref, "refs/heads/main")}
		},
		"tekton": func(aud string) map[string]any {
			sa := map[bool]string{true: "assay-build", false: "another"}[ref == "refs/heads/main"]
			return map[string]any{"aud": []string{aud}, "sub": "system:serviceaccount:builds:" + sa, "kubernetes.io": map[string]any{"namespace": "builds", "serviceaccount": map[string]any{"name": sa, "uid": "1"}}}
		},
	}
	claims["jenkins"] = claims["generic"]
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"value": %q}`, ci.sign(claims["github"](r.FormValue("audience"))))
	}))
	t.Cleanup(door.Close)

	for _, system := range []string{"github", "gitlab", "generic", "tekton", "jenkins"} {
		t.Run(system, func(t *testing.T) {
			ref = "refs/heads/main"
			repo := t.TempDir()
			for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "one"}} {
				if r := runIn(t, repo, cleanEnv("HOME="+repo), "git", args...); r.code != 0 {
					t.Fatal(r.stderr)
				}
			}
			source := "org/app"
			if system == "tekton" {
				source = "builds"
			}
			if err := os.WriteFile(filepath.Join(repo, "in.txt"), []byte(system+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			image := s.Services.Registry + "/org/" + system
			r := runIn(t, repo, cleanEnv("HOME="+repo), assayBin(t), "init", "ci", system, "--server", s.PublicURL, "--image", image, "--source", source,
				"--materials", "in.txt", "--products", "app", "--", "cat in.txt > app; echo built >> app")
			if r.code != 0 {
				t.Fatal(r.stderr)
			}
			path := map[string]string{"github": ".github/workflows/assay.yml", "gitlab": ".gitlab-ci.yml", "generic": "assay-ci.sh", "tekton": ".tekton/assay.yaml", "jenkins": "Jenkinsfile"}[system]
			body, err := os.ReadFile(filepath.Join(repo, path))
			if err != nil {
				t.Fatal(err)
			}
			if system == "github" {
				must(t, cleanEnv(), "actionlint", "-no-color", filepath.Join(repo, path))
			}
			script := filepath.Join(t.TempDir(), "script.sh")
			if err := os.WriteFile(script, []byte(pipelineScript(t, system, body)), 0o700); err != nil { //nolint:gosec // to be run
				t.Fatal(err)
			}
			must(t, cleanEnv(), "shellcheck", "--shell", map[bool]string{true: "bash", false: "sh"}[system == "github" || system == "gitlab"],
				"--exclude", "SC1090,SC2030,SC2031", script)

			// The operator's part: the documents as they were written, with the
			// address of the issuer that stands for the CI system's here.
			site, err := os.ReadFile(filepath.Join(repo, ".assay", "site.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			docs := string(site)
			for _, issuer := range []string{"https://token.actions.githubusercontent.com", "https://oidc.example.com", "https://kubernetes.default.svc", "https://jenkins.example.com/oidc", "url: https://gitlab.com", "issuer: https://gitlab.com"} {
				to := ci.URL
				if name, _, ok := strings.Cut(issuer, ": "); ok {
					to = name + ": " + ci.URL
				}
				docs = strings.ReplaceAll(docs, issuer, to)
			}
			docs = strings.Replace(docs, "spec:\n  url:", "spec:\n  allow_private: true\n  url:", 1)
			s.apply(docs)
			t.Cleanup(func() { s.assay("delete", "issuer", system) })

			env := func() []string {
				tokens := t.TempDir()
				e := cleanEnv("HOME="+tokens, "ASSAY_SERVER="+s.PublicURL, "IMAGE="+image, "ASSAY_SHA256="+pinned(t, body))
				if system == "github" {
					file := filepath.Join(tokens, "env")
					if err := os.WriteFile(file, nil, 0o600); err != nil {
						t.Fatal(err)
					}
					return append(e, "RUNNER_TEMP="+tokens, "GITHUB_ENV="+file, "GITHUB_SHA="+strings.Repeat("a", 40), "ACTIONS_ID_TOKEN_REQUEST_URL="+door.URL+"/?x=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=r")
				}
				for aud, name := range map[string]string{"sigstore": "SIGSTORE_ID_TOKEN", "assay-registry": "ASSAY_REGISTRY_TOKEN", "assay-api": "ASSAY_API_TOKEN"} {
					token := ci.sign(claims[system](aud))
					if err := os.WriteFile(filepath.Join(tokens, aud), []byte(token), 0o600); err != nil {
						t.Fatal(err)
					}
					if system != "tekton" {
						e = append(e, name+"="+token)
					}
				}
				return append(e, "TOKENS="+tokens, "CI_COMMIT_SHA="+strings.Repeat("b", 40))
			}
			got := runIn(t, repo, env(), script)
			if got.code != 0 || !strings.Contains(got.stdout+got.stderr, "ALLOW") {
				t.Fatalf("exit code %d\n%s\n%s", got.code, got.stdout, got.stderr)
			}
			// What a job of another branch gets.
			ref = "refs/heads/evil"
			if got := runIn(t, repo, env(), script); got.code == 0 {
				t.Errorf("a job of another branch was let in\n%s\n%s", got.stdout, got.stderr)
			}
		})
	}
}

// pinned is the digest that the pipeline holds the program to.
func pinned(t *testing.T, body []byte) string {
	t.Helper()
	_, sum, _ := strings.Cut(string(body), "ASSAY_SHA256")
	sum = strings.TrimLeft(sum, "=:, \"'value")
	if len(sum) < 64 {
		t.Fatalf("no digest in\n%s", body)
	}
	return sum[:64]
}
