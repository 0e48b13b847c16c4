package supply

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/internal/clock"

	"github.com/google/go-cmp/cmp"
)

const token = "s3cret-token"

var today = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// site answers by path what the providers document; what it has not is 404.
type site map[string]http.HandlerFunc

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
}

func file(s string) http.HandlerFunc {
	b, _ := json.Marshal(map[string]string{"encoding": "base64", "content": base64.StdEncoding.EncodeToString([]byte(s))})
	return text(string(b))
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func (s site) start(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("%s %s: a scan only reads", r.Method, r.URL)
		}
		if !strings.Contains(r.Header.Get("Authorization")+r.Header.Get("PRIVATE-TOKEN"), token) {
			w.WriteHeader(401)
			return
		}
		if h := s[r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		w.WriteHeader(404)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func hub() site {
	const at = "/api/v3/repos/o/r"
	return site{
		"/api/v3/orgs/o/repos": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("page") == "" {
				w.Header().Set("Link", fmt.Sprintf(`<http://%s/api/v3/orgs/o/repos?page=2>; rel="next", <http://%s/x>; rel="last"`, r.Host, r.Host))
				fmt.Fprint(w, `[]`)
				return
			}
			fmt.Fprint(w, `[{"id":1,"full_name":"o/r","default_branch":"main"}]`)
		},
		at + "/collaborators":                text(`[{"login":"ann","type":"User"},{"login":"ci[bot]","type":"Bot"},{"login":"builder","type":"User"}]`),
		at + "/keys":                         text(`[{"id":1,"title":"k","read_only":true,"created_at":"2026-01-01T00:00:00Z"},{"id":2,"title":"w","read_only":false}]`),
		at + "/actions/secrets":              text(`{"total_count":2,"secrets":[{"name":"OLD","created_at":"2020-01-01T00:00:00Z","updated_at":"2020-01-02T00:00:00Z"},{"name":"FRESH","created_at":"2020-01-01T00:00:00Z","updated_at":"2026-05-30T00:00:00Z"}]}`),
		at + "/actions/runners":              text(`{"runners":[{"id":1,"name":"a","ephemeral":true},{"id":2,"name":"b","ephemeral":false}]}`),
		at + "/actions/permissions/workflow": text(`{"default_workflow_permissions":"read","can_approve_pull_request_reviews":false}`),
		at + "/contents/.github/workflows":   text(`[{"name":"ci.yml","type":"file"},{"name":"README.md","type":"file"}]`),
		at + "/contents/.github/workflows/ci.yml": file("permissions: write-all\njobs:\n  a:\n    steps:\n      - uses: actions/checkout@v4\n      - uses: ./local\n" +
			"      - uses: actions/cache@0123456789012345678901234567890123456789\n      - uses: docker://alpine:3\n"),
		"/api/v3/orgs/o/actions/secrets": text(`{"secrets":[]}`),
		"/api/v3/orgs/o/actions/runners": text(`{"runners":[]}`),
		"/api/v3/orgs/o/installations":   text(`{"installations":[{"app_slug":"app","permissions":{"administration":"write"}}]}`),
		"/api/v3/orgs/o/packages":        text(`[{"name":"img"}]`),
	}
}

func run(t *testing.T, s site, change func(*Options)) *Inventory {
	t.Helper()
	o := Options{Provider: GitHub, URL: s.start(t), Token: []byte(token), Org: "o", CIUsers: []string{"build*"}, MaxSecretAge: 180 * 24 * time.Hour, AllowPrivate: true,
		Clock: clock.Fixed(today), Wait: func(context.Context, time.Duration) error { return nil }}
	if change != nil {
		change(&o)
	}
	got, err := Scan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(got)
	if strings.Contains(string(b), token) || strings.Contains(string(b), "VALUE") {
		t.Errorf("a secret is in the inventory: %s", b)
	}
	return got
}

func rules(i *Inventory) (out []string) {
	for _, f := range i.Findings {
		out = append(out, f.Rule+" "+f.Name)
	}
	return out
}

func TestGitHub(t *testing.T) {
	got := run(t, hub(), nil)
	want := []string{"ci-admin app", "ci-admin builder", "ci-admin ci[bot]", "old-secret OLD", "persistent-runner b #2", "unpinned-action .github/workflows/ci.yml",
		"unpinned-action .github/workflows/ci.yml", "write-all .github/workflows/ci.yml", "writing-deploy-key w #2"}
	if d := cmp.Diff(want, rules(got)); d != "" {
		t.Error(d)
	}
	if len(got.Unknown) > 0 {
		t.Errorf("unknown: %+v", got.Unknown)
	}
}

// TestThreat_Inventory_UnknownIsNotClean: each part that a forge does not tell is
// unknown, however it is refused.
func TestThreat_Inventory_UnknownIsNotClean(t *testing.T) {
	const path = "/api/v3/repos/o/r/actions/runners"
	for name, h := range map[string]http.HandlerFunc{
		"forbidden": status(403), "absent": status(404), "broken": status(500), "no JSON": text(`<html>`), "two members": text(`{"runners":[],"runners":[]}`),
		"huge": text(strings.Repeat(" ", maxAnswer+1)), "not told": text(`{"runners":[{"id":1,"name":"a"}]}`),
		"limited for long": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(429)
		},
		"limited for ever": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "1"); w.WriteHeader(403) },
		"next page elsewhere": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `<https://evil.example/api/v3/x>; rel="next"`)
			fmt.Fprint(w, `{"runners":[]}`)
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<http://`+r.Host+path+`>; rel="next"`)
			fmt.Fprint(w, `{"runners":[]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := hub()
			s[path] = h
			got := run(t, s, nil)
			if len(got.Unknown) != 1 || got.Unknown[0].Part != Runners {
				t.Errorf("unknown: %+v", got.Unknown)
			}
		})
	}
}

// TestThreat_Inventory_TokenStays: no redirect is followed to another host.
func TestThreat_Inventory_TokenStays(t *testing.T) {
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another host was asked") }))
	defer evil.Close()
	s := hub()
	s["/api/v3/repos/o/r/keys"] = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, evil.URL, http.StatusFound) }
	if got := run(t, s, nil); len(got.Unknown) != 1 || got.Unknown[0].Part != DeployKeys {
		t.Errorf("unknown: %+v", got.Unknown)
	}
}

func TestRateLimit(t *testing.T) {
	s, n := hub(), 0
	was := s["/api/v3/repos/o/r/keys"]
	s["/api/v3/repos/o/r/keys"] = func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
			return
		}
		was(w, r)
	}
	var waited time.Duration
	got := run(t, s, func(o *Options) {
		o.Wait = func(_ context.Context, d time.Duration) error { waited += d; return nil }
	})
	if waited != 7*time.Second || len(got.Unknown) > 0 {
		t.Errorf("waited %s, unknown %+v", waited, got.Unknown)
	}
}

func TestTemplates(t *testing.T) {
	got := run(t, hub(), func(o *Options) {
		o.Templates = map[string][]byte{".github/workflows/ci.yml": []byte("x"), ".github/workflows/gone.yml": nil}
	})
	var n int
	for _, r := range rules(got) {
		if strings.HasPrefix(r, "template-drift") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("findings: %v", rules(got))
	}
}

func TestGitLab(t *testing.T) {
	const at = "/api/v4/projects/7"
	s := site{
		"/api/v4/projects/g/p":        text(`{"id":7,"path_with_namespace":"g/p","default_branch":"main"}`),
		at + "/members/all":           text(`[{"username":"ann","access_level":50},{"username":"project_7_bot_ab12","access_level":40},{"username":"dev","access_level":30}]`),
		at + "/deploy_keys":           text(`[{"id":1,"title":"k","can_push":true}]`),
		at + "/variables":             text(`[{"key":"V","value":"VALUE","environment_scope":"*"}]`),
		at + "/runners":               text(`[{"id":1,"description":"own","runner_type":"project_type"},{"id":2,"runner_type":"instance_type"}]`),
		at + "/job_token_scope":       text(`{"inbound_enabled":false}`),
		at + "/access_tokens":         text(`[{"id":1,"name":"t","access_level":40,"active":true}]`),
		at + "/registry/repositories": text(`[{"path":"g/p/img"}]`),
		at + "/repository/files/.gitlab-ci.yml": file("image: alpine:3\ninclude:\n  - project: g/q\n    ref: main\njob:\n  image: a@sha256:" +
			strings.Repeat("a", 64) + "\n"),
	}
	got := run(t, s, func(o *Options) { o.Provider, o.Org, o.Repositories = GitLab, "", []string{"g/p"} })
	want := []string{"ci-admin project_7_bot_ab12", "open-job-token job-token-limited", "unpinned-action .gitlab-ci.yml", "unpinned-action .gitlab-ci.yml", "writing-deploy-key k #1"}
	if d := cmp.Diff(want, rules(got)); d != "" {
		t.Error(d)
	}
	var parts []string
	for _, u := range got.Unknown {
		parts = append(parts, u.Part)
	}
	if d := cmp.Diff([]string{Robots, Runners, Secrets, Secrets}, parts); d != "" {
		t.Error(d)
	}
}

func TestGitea(t *testing.T) {
	const at = "/api/v1/repos/o/r"
	s := site{
		"/api/v1/orgs/o/repos":                   text(`[{"id":1,"full_name":"o/r"}]`),
		at + "/collaborators":                    text(`[{"login":"builder"},{"login":"dev"}]`),
		at + "/collaborators/builder/permission": text(`{"permission":"admin"}`),
		at + "/collaborators/dev/permission":     text(`{"permission":"write"}`),
		at + "/keys":                             text(`[]`),
		at + "/actions/secrets":                  text(`[{"name":"A","created_at":"2026-05-01T00:00:00Z"}]`),
		at + "/actions/runners":                  text(`{"runners":[]}`),
		at + "/contents":                         text(`[]`),
		"/api/v1/orgs/o/actions/secrets":         text(`[]`),
		"/api/v1/orgs/o/actions/runners":         text(`{"runners":[]}`),
		"/api/v1/packages/o":                     text(`[]`),
	}
	got := run(t, s, func(o *Options) { o.Provider = Gitea })
	if d := cmp.Diff([]string{"ci-admin builder"}, rules(got)); d != "" {
		t.Error(d)
	}
	if len(got.Unknown) != 3 {
		t.Errorf("unknown: %+v", got.Unknown)
	}
}

func TestCompare(t *testing.T) {
	before := run(t, hub(), nil)
	b, _ := json.Marshal(before)
	before, _, err := ReadBaseline(b)
	if err != nil {
		t.Fatal(err)
	}
	s := hub()
	s["/api/v3/repos/o/r/keys"] = text(`[{"id":1,"title":"k","read_only":false,"created_at":"2026-01-01T00:00:00Z"},{"id":3,"title":"n","read_only":true}]`)
	s["/api/v3/repos/o/r/actions/runners"] = status(403) // not gone: unknown
	after := run(t, s, nil)
	if _, err := Compare(before, after); err == nil {
		t.Error("baselines of two addresses were compared")
	}
	after.URL = before.URL
	got, err := Compare(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, c := range got {
		words = append(words, c.What+" "+c.Name)
	}
	if d := cmp.Diff([]string{"changed k #1", "new n #3", "gone w #2"}, words); d != "" {
		t.Error(d)
	}
}

func FuzzWorkflow(f *testing.F) {
	f.Add("jobs: {a: {steps: [{uses: x@v1}]}}\npermissions: write-all")
	f.Add("include: [{remote: 'https://x'}, {project: a, ref: b}]\nimage: {name: x}")
	f.Fuzz(func(t *testing.T, body string) {
		for _, p := range []Provider{GitHub, GitLab} {
			s := &scan{o: &Options{Provider: p}, out: &Inventory{}}
			s.workflow("o/r", "w.yml", []byte(body))
		}
	})
}
