package forge

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/attestation"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

const secret = "a secret of sixteen bytes or more"

var (
	idA, idB, idC = strings.Repeat("a", 40), strings.Repeat("b", 40), strings.Repeat("c", 40)
	idH, idI      = strings.Repeat("1", 40), strings.Repeat("2", 40)
)

// bench is a recorder on a database, whose statements are kept here.
type bench struct {
	t      *testing.T
	db     *store.DB
	r      *Recorder
	h      http.Handler
	stated []*attestation.Statement
	fail   bool
}

func newBench(t *testing.T, db *store.DB, specs ...Spec) *bench {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	var sources []*Source
	for i, s := range specs {
		c, err := Compile(fmt.Sprintf("s%d", i), s)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, c)
	}
	b := &bench{t: t, db: db}
	var err error
	b.r, err = New(Options{
		DB: db, Sources: func() []*Source { return sources }, URL: "https://assay.test", Grace: time.Nanosecond, Clock: clock.System,
		Secret: func(place string) ([]byte, error) { return []byte(secret), nil },
		Sign: func(_ context.Context, st *attestation.Statement) ([]byte, error) {
			if b.fail {
				return nil, fault.Newf(fault.Unavailable, "no log")
			}
			return st.Bytes()
		},
		Ingest: func(_ context.Context, raw []byte) error {
			st, err := attestation.ParseStatement(raw, attestation.DefaultLimits())
			b.stated = append(b.stated, st)
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.h = b.r.Hooks("/hooks/")
	return b
}

// send delivers a notice as the provider signs it.
func (b *bench) send(provider, name string, body any, change ...func(*http.Request)) int {
	b.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	q := httptest.NewRequest("POST", "/hooks/"+provider, strings.NewReader(string(raw)))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(raw)
	sum := hex.EncodeToString(mac.Sum(nil))
	switch provider {
	case GitHub:
		q.Header.Set("X-Hub-Signature-256", "sha256="+sum)
		q.Header.Set("X-GitHub-Event", name)
	case Gitea:
		q.Header.Set("X-Gitea-Signature", sum)
		q.Header.Set("X-Gitea-Event", name)
	default:
		q.Header.Set("X-Gitlab-Token", secret)
		q.Header.Set("X-Gitlab-Event", name)
	}
	for _, f := range change {
		f(q)
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, q)
	return w.Code
}

// step waits for what is due: the database's clock goes on by itself.
func (b *bench) step() {
	b.t.Helper()
	if err := b.r.Step(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) kinds() map[event.Kind]int {
	b.t.Helper()
	out := map[event.Kind]int{}
	err := b.db.View(b.t.Context(), func(tx *store.Tx) error {
		clear(out)
		rows, err := tx.Query(b.t.Context(), `SELECT kind FROM event_pending`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			if err := rows.Scan(&k); err != nil {
				return err
			}
			out[event.Kind(k)]++
		}
		return rows.Err()
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// record is the record stated about a commit.
func (b *bench) record(commit string) *Record {
	b.t.Helper()
	for _, st := range b.stated {
		if st.PredicateType == PredicateRecord && st.Subject[0].Digest["gitCommit"] == commit {
			var r Record
			if err := json.Unmarshal(st.Predicate, &r); err != nil {
				b.t.Fatal(err)
			}
			return &r
		}
	}
	b.t.Fatalf("nothing is stated about %s", commit)
	return nil
}

type obj = map[string]any

var hubSpec = Spec{Provider: GitHub, URL: "https://github.com/org/app", Branch: "main", Secret: "file:/s"}

func hubPull(head, merge string, more obj) obj {
	p := obj{"number": 7, "user": obj{"id": 1, "login": "ann"}, "head": obj{"sha": head}, "base": obj{"ref": "main"}, "created_at": "2026-01-02T00:00:00Z", "html_url": "https://github.com/org/app/pull/7"}
	if merge != "" {
		p["merged"], p["merge_commit_sha"], p["merged_at"] = true, merge, "2026-01-03T00:00:00Z"
	}
	out := obj{"action": "x", "repository": obj{"full_name": "org/app"}, "pull_request": p}
	maps.Copy(out, more)
	return out
}

func hubPush(before, after string, more obj) obj {
	out := obj{"ref": "refs/heads/main", "before": before, "after": after, "forced": false, "repository": obj{"full_name": "Org/App"}, "sender": obj{"id": 1, "login": "ann"},
		"commits": []obj{{"added": []string{"a.go"}}}}
	maps.Copy(out, more)
	return out
}

func hubReview(who int, commit, state string) obj {
	return obj{"review": obj{"user": obj{"id": who, "login": fmt.Sprint("user", who)}, "state": state, "commit_id": commit, "submitted_at": "2026-01-02T12:00:00Z"}}
}

func TestReviewedPush(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBench(t, db, hubSpec)
		b.send(GitHub, "pull_request_review", hubPull(idH, "", hubReview(2, idH, "approved")))
		b.send(GitHub, "push", hubPush(idA, idB, nil))
		b.send(GitHub, "pull_request", hubPull(idH, idB, nil))
		// Sent again, nothing changes.
		if code := b.send(GitHub, "push", hubPush(idA, idB, nil)); code != http.StatusAccepted {
			t.Errorf("redelivery: %d", code)
		}
		b.step()
		b.step()
		want := map[event.Kind]int{event.SourcePushed: 1, event.SourceReviewed: 1}
		if d := cmp.Diff(want, b.kinds()); d != "" {
			t.Error(d)
		}
		r := b.record(idB)
		if !r.Reviewed || len(r.Approvals) != 1 || r.Approvals[0].Stale || r.Forced != "no" || r.Change.Number != 7 {
			t.Errorf("record %+v", r)
		}
		var types []string
		for _, st := range b.stated {
			types = append(types, st.PredicateType)
		}
		slices.Sort(types)
		if d := cmp.Diff([]string{PredicateRecord, PredicateReview, attestation.PredicateVSA}, types); d != "" {
			t.Error(d)
		}
		m, err := b.r.Metrics(t.Context(), time.Unix(0, 0))
		if err != nil || m[0].Pushes != 1 || m[0].Reviewed != 1 || m[0].Merges != 1 || m[0].Median != 24*time.Hour {
			t.Errorf("metrics %+v, %v", m, err)
		}
	})
}

// An approval of an older head is stale; the author's own is none; one that was
// taken back is none.
func TestUnreviewedPush(t *testing.T) {
	for name, send := range map[string]func(*bench){
		"stale": func(b *bench) { b.send(GitHub, "pull_request_review", hubPull(idI, "", hubReview(2, idI, "approved"))) },
		"own":   func(b *bench) { b.send(GitHub, "pull_request_review", hubPull(idH, "", hubReview(1, idH, "approved"))) },
		"comment": func(b *bench) {
			b.send(GitHub, "pull_request_review", hubPull(idH, "", hubReview(2, idH, "commented")))
		},
		"dismissed": func(b *bench) {
			b.send(GitHub, "pull_request_review", hubPull(idH, "", hubReview(2, idH, "approved")))
			d := hubReview(2, idH, "approved")
			d["action"] = "dismissed"
			d["review"].(obj)["submitted_at"] = "2026-01-02T13:00:00Z"
			b.send(GitHub, "pull_request_review", hubPull(idH, "", d))
		},
		"after the merge": func(b *bench) {
			late := hubReview(2, idH, "approved")
			late["review"].(obj)["submitted_at"] = "2026-01-04T00:00:00Z"
			b.send(GitHub, "pull_request_review", hubPull(idH, "", late))
		},
		"nobody": func(*bench) {},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, storetest.Open(t, store.SQLite), hubSpec)
			send(b)
			b.send(GitHub, "pull_request", hubPull(idH, idB, nil))
			b.send(GitHub, "push", hubPush(idA, idB, nil))
			b.step()
			if b.kinds()[event.SourceUnreviewed] != 1 {
				t.Errorf("events %v, want source.unreviewed", b.kinds())
			}
			b.step()
			if r := b.record(idB); r.Reviewed {
				t.Errorf("record %+v", r)
			}
		})
	}
}

func TestThreat_Git_ForcePushAndWorkflow(t *testing.T) {
	b := newBench(t, storetest.Open(t, store.SQLite), hubSpec)
	b.send(GitHub, "push", hubPush(idA, idC, obj{"forced": true, "commits": []obj{{"modified": []string{".github/workflows/ci.yml"}}}}))
	b.step()
	b.step()
	want := map[event.Kind]int{event.SourcePushed: 1, event.SourceForcePushed: 1, event.SourceUnreviewed: 1, event.SourceWorkflowChanged: 1}
	if d := cmp.Diff(want, b.kinds()); d != "" {
		t.Error(d)
	}
	if r := b.record(idC); r.Forced != "yes" || len(r.Workflows) != 1 {
		t.Errorf("record %+v", r)
	}
	if r := b.record(idA); !r.Removed {
		t.Errorf("record of what was taken off: %+v", r)
	}
	for _, st := range b.stated {
		if st.PredicateType != attestation.PredicateVSA {
			continue
		}
		if v, err := st.VSA(); err != nil || v.VerificationResult != attestation.VSAFailed {
			t.Errorf("summary %+v, %v", v, err)
		}
	}
}

// What cannot be signed now is signed later: nothing acknowledged is lost.
func TestStatementsWait(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Unix())
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), "sqlite:"+dir+"/assay.db", store.WithClock(func() time.Time { return time.Unix(now.Load(), 0) }))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b := newBench(t, db, hubSpec)
	b.fail = true
	b.send(GitHub, "push", hubPush(idA, idB, nil))
	now.Add(60)
	if err := b.r.Step(t.Context()); err == nil {
		t.Error("no error of a signer that fails")
	}
	if len(b.stated) != 0 {
		t.Fatalf("stated %d", len(b.stated))
	}
	b.fail = false
	now.Add(int64(claim/time.Second) + 1)
	b.step()
	if len(b.stated) != 2 {
		t.Errorf("stated %d, want record and summary", len(b.stated))
	}
}

func TestThreat_Git_NoticesAreProved(t *testing.T) {
	b := newBench(t, storetest.Open(t, store.SQLite), hubSpec,
		Spec{Provider: GitLab, URL: "https://gitlab.test/group/sub/app", Branch: "main", Secret: "file:/s"},
		Spec{Provider: Gitea, URL: "https://gitea.test/org/app", Branch: "main", Secret: "file:/s"})
	for provider, header := range map[string]string{GitHub: "X-Hub-Signature-256", GitLab: "X-Gitlab-Token", Gitea: "X-Gitea-Signature"} {
		for _, value := range []string{"", "sha256=", "sha256=00", "wrong", strings.Repeat("0", 64)} {
			if code := b.send(provider, "push", hubPush(idA, idB, nil), func(q *http.Request) { q.Header.Set(header, value) }); code != http.StatusUnauthorized {
				t.Errorf("%s with %q: %d, want 401", provider, value, code)
			}
		}
	}
	for _, bad := range []any{"text", obj{"repository": obj{"full_name": "org/app"}, "ref": "refs/heads/main", "before": "x", "after": "y"}, []int{1}} {
		if code := b.send(GitHub, "push", bad); code != http.StatusBadRequest {
			t.Errorf("%v: %d, want 400", bad, code)
		}
	}
	if code := b.send("bitbucket", "push", obj{}); code != http.StatusNotFound {
		t.Errorf("another provider: %d", code)
	}
	// Another repository's notice with the same secret says nothing here.
	if code := b.send(GitHub, "push", hubPush(idA, idB, obj{"repository": obj{"full_name": "org/other"}})); code != http.StatusAccepted {
		t.Errorf("another repository: %d", code)
	}
	b.step()
	if k := b.kinds(); len(k) != 0 {
		t.Errorf("events %v", k)
	}
}

func TestGitLabAndGitea(t *testing.T) {
	b := newBench(t, storetest.Open(t, store.SQLite),
		Spec{Provider: GitLab, URL: "https://gitlab.test/group/sub/app.git", Branch: "main", Secret: "file:/s"},
		Spec{Provider: Gitea, URL: "https://gitea.test/org/app", Branch: "main", Secret: "file:/s"})
	lab := obj{"path_with_namespace": "group/sub/app"}
	mr := func(action, state, merge string) obj {
		return obj{"object_kind": "merge_request", "project": lab, "user": obj{"id": 2, "username": "bob"}, "object_attributes": obj{
			"iid": 3, "target_branch": "main", "author_id": 1, "state": state, "action": action, "merge_commit_sha": merge, "created_at": "2026-01-01 10:00:00 UTC",
			"updated_at": "2026-01-01 11:00:00 UTC", "url": "https://gitlab.test/x", "last_commit": obj{"id": idH}}}
	}
	b.send(GitLab, "Merge Request Hook", mr("approved", "opened", ""))
	b.send(GitLab, "Merge Request Hook", mr("merge", "merged", idB))
	b.send(GitLab, "Push Hook", obj{"object_kind": "push", "ref": "refs/heads/main", "before": idA, "after": idB, "user_username": "bob", "project": lab,
		"commits": []obj{{"added": []string{"x"}}}, "total_commits_count": 30})
	tea := obj{"full_name": "org/app"}
	pull := obj{"number": 4, "user": obj{"id": 1, "login": "ann"}, "head": obj{"sha": idI}, "base": obj{"ref": "main"}, "created_at": "2026-01-01T10:00:00Z"}
	b.send(Gitea, "pull_request_approved", obj{"action": "reviewed", "repository": tea, "pull_request": pull, "sender": obj{"id": 2, "login": "bob"}, "review": obj{"type": "pull_request_review_approved"}})
	merged := maps.Clone(pull)
	merged["merged"], merged["merge_commit_sha"], merged["merged_at"] = true, idC, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	b.send(Gitea, "pull_request", obj{"action": "closed", "repository": tea, "pull_request": merged, "sender": obj{"id": 1, "login": "ann"}})
	b.send(Gitea, "push", obj{"ref": "refs/heads/main", "before": idA, "after": idC, "repository": tea, "sender": obj{"id": 1, "login": "ann"}, "commits": []obj{{}}, "total_commits": 1})
	b.step()
	b.step()
	for _, id := range []string{idB, idC} {
		if r := b.record(id); len(r.Approvals) != 1 || !r.Reviewed && id == idB || r.Forced != "unknown" {
			t.Errorf("record of %s: %+v", id, r)
		}
	}
	// GitLab lists twenty commits: what is not listed may be a pipeline.
	if k := b.kinds(); k[event.SourceWorkflowChanged] != 1 {
		t.Errorf("events %v", k)
	}
}

// A forge that is asked answers for what no notice told.
func TestForgeIsAsked(t *testing.T) {
	var force atomic.Bool
	mux := http.NewServeMux()
	answer := func(path string, v any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, q *http.Request) {
			if q.Header.Get("Authorization") != "Bearer "+secret {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	mux.HandleFunc("GET /api/repos/org/app/branches/main/protection", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(obj{"allow_force_pushes": obj{"enabled": force.Load()}, "allow_deletions": obj{"enabled": false}, "enforce_admins": obj{"enabled": true},
			"required_pull_request_reviews": obj{"required_approving_review_count": 2, "dismiss_stale_reviews": true}})
	})
	answer("/api/repos/org/app/rules/branches/main", []obj{{"type": "required_signatures"}})
	answer("/api/repos/org/app/commits/"+idB+"/pulls", []obj{hubPull(idH, idB, nil)["pull_request"].(obj)})
	answer("/api/repos/org/app/pulls/7/reviews", []obj{{"user": obj{"id": 9, "login": "zoe"}, "state": "APPROVED", "commit_id": idH, "submitted_at": "2026-01-02T01:00:00Z"}})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	spec := hubSpec
	spec.API, spec.Token, spec.AllowPrivate = srv.URL+"/api", "file:/t", true
	b := newBench(t, storetest.Open(t, store.SQLite), spec)
	b.step() // looks at protection
	b.send(GitHub, "push", hubPush(idA, idB, nil))
	b.step()
	b.step()
	r := b.record(idB)
	if !r.Reviewed || r.Protection == nil || !r.Protection.NoForcePush || r.Protection.Reviews != 2 || !r.Protection.SignedCommits || r.Protection.Since.IsZero() {
		t.Errorf("record %+v of %+v", r, r.Protection)
	}
	for _, st := range b.stated {
		if st.PredicateType == attestation.PredicateVSA {
			if v, err := st.VSA(); err != nil || !slices.Contains(v.VerifiedLevels, "SLSA_SOURCE_LEVEL_3") {
				t.Errorf("summary %+v, %v", v, err)
			}
		}
	}
	force.Store(true)
	b.send(GitHub, "branch_protection_rule", obj{"action": "edited", "repository": obj{"full_name": "org/app"}})
	b.step()
	if k := b.kinds(); k[event.SourceProtectionChanged] != 2 {
		t.Errorf("events %v, want protection found and changed", k)
	}
}

func TestSpecs(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"provider": func(s *Spec) { s.Provider = "svn" }, "url": func(s *Spec) { s.URL = "https://user:pw@github.com/a/b" }, "short": func(s *Spec) { s.URL = "https://github.com/a" },
		"branch": func(s *Spec) { s.Branch = "refs/heads/main" }, "secret": func(s *Spec) { s.Secret = "hunter2" }, "none": func(s *Spec) { s.Secret = "" },
		"token": func(s *Spec) { s.Token = "ghp_x" }, "api": func(s *Spec) { s.API = "http://github.com/api" }, "reviews": func(s *Spec) { s.Reviews = -1 },
	} {
		s := hubSpec
		change(&s)
		if err := s.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzNotice(f *testing.F) {
	for _, v := range []any{hubPush(idA, idB, nil), hubPull(idH, idB, hubReview(2, idH, "approved"))} {
		raw, _ := json.Marshal(v)
		f.Add("push", raw)
		f.Add("pull_request_review", raw)
		f.Add("Merge Request Hook", raw)
	}
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		for _, p := range []string{GitHub, GitLab, Gitea} {
			n, err := parse(p, name, raw)
			if err == nil && n != nil && n.push != nil && !commitID(n.push.After) {
				t.Errorf("%s: a push to %q", p, n.push.After)
			}
		}
	})
}

// A tag that names another commit than it did has moved, whichever way.
func TestThreat_Git_TagMoved(t *testing.T) {
	zero := strings.Repeat("0", 40)
	gitlab := Spec{Provider: GitLab, URL: "https://gitlab.test/group/app", Branch: "main", Secret: "file:/s"}
	tag := func(before, after, object string) obj {
		return obj{"ref": "refs/tags/v1", "before": before, "after": object, "checkout_sha": after, "project": obj{"path_with_namespace": "group/app"}, "user_username": "ann"}
	}
	for name, c := range map[string]struct {
		sent  []obj
		moved map[string]bool // by commit: what the last statement about it says
	}{
		"made":                     {[]obj{tag(zero, idA, idA)}, map[string]bool{idA: false}},
		"moved":                    {[]obj{tag(zero, idA, idA), tag(idA, idB, idB)}, map[string]bool{idA: true, idB: true}},
		"moved, and annotated":     {[]obj{tag(zero, idA, idH), tag(idH, idB, idI)}, map[string]bool{idA: true, idB: true}},
		"annotated anew":           {[]obj{tag(zero, idA, idH), tag(idH, idA, idI)}, map[string]bool{idA: false}},
		"there before, and moved":  {[]obj{tag(idA, idB, idB)}, map[string]bool{idA: true, idB: true}},
		"deleted, made again":      {[]obj{tag(zero, idA, idA), tag(idA, "", zero), tag(zero, idA, idA)}, map[string]bool{idA: false}},
		"deleted, made elsewhere":  {[]obj{tag(zero, idA, idA), tag(idA, "", zero), tag(zero, idB, idB)}, map[string]bool{idA: true, idB: true}},
		"moved, and back to where": {[]obj{tag(zero, idA, idA), tag(idA, idB, idB), tag(idB, idA, idA)}, map[string]bool{idA: true, idB: true}},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				b := newBench(t, db, gitlab)
				for _, n := range c.sent {
					if code := b.send(GitLab, "Tag Push Hook", n); code != http.StatusAccepted {
						t.Fatalf("answered %d", code)
					}
				}
				b.step()
				got := map[string]bool{}
				for _, st := range b.stated {
					var one Tag
					if err := json.Unmarshal(st.Predicate, &one); err != nil || st.PredicateType != PredicateTag || one.Ref != "refs/tags/v1" {
						t.Fatalf("%s, %v", st.Predicate, err)
					}
					id := attestation.GitCommit(st.Subject[0].Digest)
					got[id] = got[id] || one.Moved
				}
				if d := cmp.Diff(c.moved, got); d != "" {
					t.Errorf("moved, by commit (-want +got):\n%s", d)
				}
				if (b.kinds()[event.SourceTagMoved] > 0) != (len(c.moved) > 1) {
					t.Errorf("events %v", b.kinds())
				}
			})
		})
	}
}

// The header with the event's name is not signed: a rejection that is sent again
// as an approval is none.
func TestThreat_Forge_EventNameSwapped(t *testing.T) {
	body := []byte(`{"repository":{"full_name":"org/app"},"sender":{"id":2,"login":"bob"},"review":{"type":"pull_request_review_rejected"},
		"pull_request":{"number":1,"user":{"id":1},"head":{"sha":"` + idA + `"},"base":{"ref":"main"}}}`)
	n, err := parse(Gitea, "pull_request_rejected", body)
	if err != nil || n.review == nil || n.review.State != "changes_requested" {
		t.Fatalf("%+v, %v, want a rejection", n, err)
	}
	if n, err := parse(Gitea, "pull_request_approved", body); !errors.Is(err, fault.Invalid) {
		t.Errorf("%+v, %v, want that it is refused", n, err)
	}
}
