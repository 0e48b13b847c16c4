package verify_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/policy"
	"assay/source/forge"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
	"assay/verify"
)

const (
	issuer    = "https://issuer.example"
	recorder  = "recorder@example.org"
	hookToken = "a secret of sixteen bytes or more"
)

// TestThreat_Source_Drills: what a forge's notices tell of the commit and the tag
// of a build, through the recorder, its signed statements and a policy, to the
// verdict.
func TestThreat_Source_Drills(t *testing.T) {
	commit, elsewhere, zero := strings.Repeat("a", 40), strings.Repeat("b", 40), strings.Repeat("0", 40)
	type notice struct {
		event string
		body  map[string]any
	}
	project := map[string]any{"path_with_namespace": "group/app"}
	push := func(file string) notice {
		return notice{"Push Hook", map[string]any{"ref": "refs/heads/main", "before": elsewhere, "after": commit, "project": project, "user_username": "mallory",
			"total_commits_count": 1, "commits": []any{map[string]any{"modified": []any{file}}}}}
	}
	tag := func(before, after string) notice {
		return notice{"Tag Push Hook", map[string]any{"ref": "refs/tags/v1", "before": before, "after": after, "checkout_sha": after, "project": project, "user_username": "mallory"}}
	}
	for name, c := range map[string]struct {
		wish, ref string
		sent      []notice
		denied    string // check; "": allowed
	}{
		"unreviewed push, pipeline untouched": {"noUnreviewedWorkflow: true", "refs/heads/main", []notice{push("main.c")}, ""},
		"unreviewed workflow change":          {"noUnreviewedWorkflow: true", "refs/heads/main", []notice{push(".gitlab-ci.yml")}, "source/workflow"},
		"nothing is known":                    {"noUnreviewedWorkflow: true", "refs/heads/main", nil, "source/workflow"},
		"tag stays":                           {"noMovedTag: true", "refs/tags/v1", []notice{tag(zero, commit)}, ""},
		"tag moved to the build's commit":     {"noMovedTag: true", "refs/tags/v1", []notice{tag(zero, elsewhere), tag(elsewhere, commit)}, "source/tag"},
		"tag moved away after the build":      {"noMovedTag: true", "refs/tags/v1", []notice{tag(zero, commit), tag(commit, elsewhere)}, "source/tag"},
		"tag that nobody told of":             {"noMovedTag: true", "refs/tags/v1", nil, "source/tag"},
	} {
		t.Run(name, func(t *testing.T) {
			w := trusttest.New(t)
			at := w.Start.Add(time.Hour)
			sign := func(statement []byte) verify.Item {
				b := w.Sign(t, trusttest.Request{Statement: statement, Leaf: trusttest.Leaf{Issuer: issuer, Subject: recorder}}).Bytes()
				return verify.Item{ID: evidence.ID(b), Source: "evidence", Bundle: b}
			}
			image := artifact.SHA256Of([]byte("image"))
			items := verify.Items{sign(statement(t, image.Set(), map[string]any{
				"buildDefinition": map[string]any{"buildType": "https://type.example/v1", "externalParameters": map[string]any{},
					"resolvedDependencies": []any{map[string]any{"uri": "git+https://gitlab.test/group/app@" + c.ref, "digest": map[string]any{"gitCommit": commit}}}},
				"runDetails": map[string]any{"builder": map[string]any{"id": "https://builder.example/v1"}},
			}))}

			db := storetest.Open(t, store.SQLite)
			if err := db.Migrate(t.Context(), event.Migrations, forge.Migrations); err != nil {
				t.Fatal(err)
			}
			src, err := forge.Compile("app", forge.Spec{Provider: forge.GitLab, URL: "https://gitlab.test/group/app", Branch: "main", Secret: "file:/s"})
			if err != nil {
				t.Fatal(err)
			}
			r, err := forge.New(forge.Options{
				DB: db, Sources: func() []*forge.Source { return []*forge.Source{src} }, URL: "https://assay.test", Grace: time.Nanosecond,
				Secret: func(string) ([]byte, error) { return []byte(hookToken), nil },
				Sign:   func(_ context.Context, st *attestation.Statement) ([]byte, error) { return st.Bytes() },
				Ingest: func(_ context.Context, raw []byte) error { items = append(items, sign(raw)); return nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range c.sent {
				body, err := json.Marshal(n.body)
				if err != nil {
					t.Fatal(err)
				}
				q := httptest.NewRequest("POST", "/hooks/gitlab", strings.NewReader(string(body)))
				q.Header.Set("X-Gitlab-Token", hookToken)
				q.Header.Set("X-Gitlab-Event", n.event)
				a := httptest.NewRecorder()
				if r.Hooks("/hooks/").ServeHTTP(a, q); a.Code != http.StatusAccepted {
					t.Fatalf("notice: %d %s", a.Code, a.Body)
				}
			}
			if err := r.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			if want := len(c.sent); len(items) <= want {
				t.Fatalf("%d statements of %d notices", len(items)-1, want)
			}

			who := `{issuer: "` + issuer + `", subject: ` + recorder + `}`
			p, err := policy.ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    provenance:\n      builders: [{id: \"https://builder.example/v1\", level: 2, signer: " +
				who + "}]\n    source: {" + c.wish + ", identities: [" + who + "]}\n"))
			if err != nil {
				t.Fatal(err)
			}
			v, err := verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{w.Root(t, trust.WithName("test"))}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := verify.Offline(t.Context(), verify.Target{Digest: image, Kind: policy.Image, Repository: "group/app"}, items, verify.OfflineOptions{Verifier: v, Policy: p, Clock: func() time.Time { return at }})
			if err != nil {
				t.Fatal(err)
			}
			var failed []string
			for _, k := range got.Checks {
				if k.Status == policy.Fail {
					failed = append(failed, k.Name)
				}
			}
			if (got.Verdict == policy.Allow) != (c.denied == "") || c.denied != "" && !slices.Equal(failed, []string{c.denied}) {
				t.Errorf("%s by %q, want %q: %+v", got.Verdict, failed, c.denied, got.Checks)
			}
		})
	}
}

func statement(t *testing.T, of artifact.DigestSet, predicate map[string]any) []byte {
	t.Helper()
	raw, err := json.Marshal(predicate)
	if err != nil {
		t.Fatal(err)
	}
	st, err := attestation.NewStatement(attestation.PredicateProvenanceV1, json.RawMessage(raw), attestation.Subject{Name: "image", Digest: of})
	if err != nil {
		t.Fatal(err)
	}
	b, err := st.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
