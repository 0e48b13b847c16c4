package retention_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/blob/sweep"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/registry/retention"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/verify"
)

type site struct {
	*registrytest.Server
	*retention.Keeper
	holds *retention.Holds
	rules []config.RetentionRule
	repos []config.RepositorySpec
	ahead time.Duration
	known map[artifact.Digest]retention.Presence // nil: nothing
}

func (s *site) Running(_ context.Context, d artifact.Digest) (retention.Presence, error) {
	if s.known == nil {
		return retention.Unknown, nil
	}
	if p, ok := s.known[d]; ok {
		return p, nil
	}
	return retention.Idle, nil
}

func start(t *testing.T, db *store.DB, locker retention.Locker, more ...registrytest.Option) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, trust.Migrations, evidence.Migrations, registry.Migrations, verify.Migrations, retention.Migrations); err != nil {
		t.Fatal(err)
	}
	s := &site{holds: retention.NewHolds(db, locker, nil)}
	s.Server = registrytest.Start(t, db, append(more, func(o *registry.Options) { o.Keeper = s.holds })...)
	s.Grant(t, "owner", identity.RoleAdmin, "**")
	var err error
	s.Keeper, err = retention.New(retention.Options{
		DB: db, Registry: s.Registry, Holds: s.holds, Events: event.NewLog(db, event.LogOptions{}), Running: s,
		Rules: func() ([]config.RetentionRule, *config.Repositories) {
			r, err := config.NewRepositories(s.repos...)
			if err != nil {
				t.Error(err)
			}
			return s.rules, r
		},
		Clock: func() time.Time { return time.Now().Add(s.ahead) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func no() *bool { b := false; return &b }

func images(name string, change func(*config.RetentionSpec)) config.RetentionRule {
	r := config.RetentionRule{Name: name, RetentionSpec: config.RetentionSpec{Class: config.ClassImages, Repositories: []string{"team/**"}, KeepRunning: no()}}
	change(&r.RetentionSpec)
	return r
}

// outcome is what is deleted, by the first tag.
func outcome(r *retention.Outcome) (deleted []string) {
	for _, i := range r.Items {
		if i.Deleted {
			deleted = append(deleted, strings.Join(i.Tags, "+"))
		}
	}
	slices.Sort(deleted)
	return deleted
}

// TestImages: what each rule deletes of five images, the last pushed newest; a
// plan says the same and deletes nothing.
func TestImages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		at := map[string]artifact.Digest{}
		for i, tag := range []string{"v1", "v2", "dev-1", "dev-2", "latest"} {
			at[tag] = c.PushImage("team/app", tag, registrytest.Image{Layer: tag})
			ago := time.Now().Add(time.Duration(i-5) * 24 * time.Hour)
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				if _, err := tx.Exec(t.Context(), `UPDATE registry_manifest SET pushed_at = ? WHERE digest = ?`, ago, string(at[tag])); err != nil {
					return err
				}
				_, err := tx.Exec(t.Context(), `UPDATE registry_tag SET moved_at = ? WHERE tag = ?`, ago, tag)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		evidenceOf := c.PushImage("team/app", "", registrytest.Image{Layer: "e", Subject: at["latest"], ArtifactType: "application/x"})
		c.PushImage("other/app", "v1", registrytest.Image{Layer: "other"})
		last := images("last", func(r *config.RetentionSpec) { r.KeepLast = 2 })
		for _, one := range []struct {
			name  string
			rules []config.RetentionRule
			repos []config.RepositorySpec
			known map[artifact.Digest]retention.Presence
			want  []string
		}{
			{"no rules", nil, nil, nil, nil},
			{"newest two", []config.RetentionRule{last}, nil, nil, []string{"dev-1", "v1", "v2"}},
			{"by age", []config.RetentionRule{images("age", func(r *config.RetentionSpec) { r.KeepFor = 60 * time.Hour })}, nil, nil, []string{"dev-1", "v1", "v2"}},
			{"by tag", []config.RetentionRule{images("tag", func(r *config.RetentionSpec) { r.KeepLast = 1; r.KeepTags = []string{"v*"} })}, nil, nil, []string{"dev-1", "dev-2"}},
			{"any rule keeps", []config.RetentionRule{last, images("tags", func(r *config.RetentionSpec) { r.KeepLast = 1; r.KeepTags = []string{"dev-*"} })}, nil, nil, []string{"v1", "v2"}},
			{"nobody knows what runs", []config.RetentionRule{images("run", func(r *config.RetentionSpec) { r.KeepLast = 1; r.KeepRunning = nil })}, nil, nil, nil},
			{"what runs is kept", []config.RetentionRule{images("run", func(r *config.RetentionSpec) { r.KeepLast = 1; r.KeepRunning = nil })}, nil, map[artifact.Digest]retention.Presence{at["v1"]: retention.Runs, at["v2"]: retention.Unknown}, []string{"dev-1", "dev-2"}},
			{"immutable", []config.RetentionRule{last}, []config.RepositorySpec{{Pattern: "team/**", Immutable: true}}, nil, nil},
			{"immutable tags", []config.RetentionRule{last}, []config.RepositorySpec{{Pattern: "team/**", ImmutableTags: []string{"v*"}}}, nil, []string{"dev-1"}},
			{"immutable, explicitly", []config.RetentionRule{images("last", func(r *config.RetentionSpec) { r.KeepLast = 2; r.Immutable = true })}, []config.RepositorySpec{{Pattern: "team/**", Immutable: true}}, nil, []string{"dev-1", "v1", "v2"}},
		} {
			s.rules, s.repos, s.known = one.rules, one.repos, one.known
			r, err := s.Plan(t.Context())
			if err != nil {
				t.Fatal(one.name, err)
			}
			if diff := cmp.Diff(one.want, outcome(r)); diff != "" {
				t.Errorf("%s: %s", one.name, diff)
			}
			for _, i := range r.Items {
				if i.Why == "" || i.Repository == "other/app" {
					t.Errorf("%s: %+v explains nothing", one.name, i)
				}
			}
		}
		if _, err := s.holds.Add(t.Context(), "boss", retention.HoldRequest{Repository: "team/app", Tag: "v2", Reason: "case 1"}); err != nil {
			t.Fatal(err)
		}
		s.rules, s.repos, s.known = []config.RetentionRule{last}, nil, nil
		r, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"dev-1", "v1"}, outcome(r)); diff != "" || r.Held != 1 {
			t.Errorf("run: %s, held %d", diff, r.Held)
		}
		for tag, want := range map[string]int{"v1": 404, "dev-1": 404, "v2": 200, "dev-2": 200, "latest": 200} {
			if got := c.Do("GET", "/v2/team/app/manifests/"+tag, "").StatusCode; got != want {
				t.Errorf("%s: %d, want %d", tag, got, want)
			}
		}
		if got := c.Do("GET", "/v2/team/app/manifests/"+string(evidenceOf), "").StatusCode; got != 200 {
			t.Errorf("evidence of a kept image: %d", got)
		}
		deleted := s.Events(t, event.ArtifactDeleted)
		if len(deleted) != 2 || deleted[0].Actor != "system:retention" || !strings.Contains(fmt.Sprintf("%s", deleted[0].Body), "last") {
			t.Errorf("events %+v", deleted)
		}
		if n := len(s.Events(t, event.TagDeleted)); n != 2 {
			t.Errorf("%d tags in the history", n)
		}
	})
}

// TestHolds: nobody deletes what is held, nor its evidence, until the hold ends.
func TestHolds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		image := c.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		ev := c.PushImage("team/app", "", registrytest.Image{Layer: "e", Subject: image, ArtifactType: "application/x"})
		free := c.PushImage("team/app", "v2", registrytest.Image{Layer: "two"})
		del := func(ref string) *registrytest.Response { return c.Do("DELETE", "/v2/team/app/manifests/"+ref, "") }
		h, err := s.holds.Add(t.Context(), "boss", retention.HoldRequest{Digest: image, Reason: "case 1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{"v1", string(image), string(ev)} {
			if r := del(ref); r.StatusCode != 403 || r.Code() != "DENIED" || !strings.Contains(string(r.Body), "case 1") {
				t.Errorf("delete %s: %s %s", ref, r.Status, r.Body)
			}
		}
		if r := del(string(free)); r.StatusCode != 202 {
			t.Errorf("what is not held: %s", r.Status)
		}
		if _, err := s.holds.Remove(t.Context(), h.ID, "boss", ""); !errors.Is(err, fault.Invalid) {
			t.Errorf("without a reason: %v", err)
		}
		if _, err := s.holds.Remove(t.Context(), h.ID, "boss", "closed"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.holds.Add(t.Context(), "boss", retention.HoldRequest{Repository: "team/app", Reason: "case 2"}); err != nil {
			t.Fatal(err)
		}
		later := c.PushImage("team/app", "v3", registrytest.Image{Layer: "three"})
		for _, ref := range []string{string(ev), string(later)} {
			if r := del(ref); r.StatusCode != 403 {
				t.Errorf("in a held repository: %s", r.Status)
			}
		}
		for _, q := range []retention.HoldRequest{
			{Reason: "x of nothing"}, {Digest: image}, {Repository: "team/none", Reason: "case"}, {Repository: "team/app", Tag: "none", Reason: "case"},
			{Digest: image, Reason: "case", Until: time.Now().Add(-time.Hour)}, {Repository: "team/app", Digest: free, Reason: "case"},
		} {
			if _, err := s.holds.Add(t.Context(), "boss", q); err == nil {
				t.Errorf("%+v was taken", q)
			}
		}
		if a, r := s.Events(t, event.HoldAdded), s.Events(t, event.HoldRemoved); len(a) != 2 || len(r) != 1 {
			t.Errorf("%d added, %d removed", len(a), len(r))
		}
		if n := len(s.Events(t, event.ArtifactDenied)); n != 5 {
			t.Errorf("%d denials on record", n)
		}
	})
}

// TestAuditIsDroppedWithoutBreakingTheChain: only what the log covers goes, the
// chain is verified across the gap, and nothing goes while anything is held.
func TestAuditIsDroppedWithoutBreakingTheChain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		c.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		s.Events(t)
		s.rules = []config.RetentionRule{{Name: "trail", RetentionSpec: config.RetentionSpec{Class: config.ClassAudit, KeepFor: 24 * time.Hour}}}
		s.ahead = 48 * time.Hour
		run := func() *retention.Outcome {
			t.Helper()
			r, err := s.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := run(); r.Events != 0 {
			t.Fatalf("dropped what the log does not cover: %+v", r)
		}
		l := event.NewLog(db, event.LogOptions{})
		if err := db.Update(t.Context(), func(tx *store.Tx) error { // the outbox has them due, and here logged
			_, err := tx.Exec(t.Context(), `INSERT INTO event_outbox (batch, due, log_index) SELECT MAX(batch), 0, 7 FROM event_head WHERE batch > 0 ON CONFLICT (batch) DO UPDATE SET log_index = 7`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		h, err := s.holds.Add(t.Context(), "boss", retention.HoldRequest{Repository: "team/app", Reason: "case 1"})
		if err != nil {
			t.Fatal(err)
		}
		if r := run(); r.Events != 0 || !strings.Contains(r.Notes[0], h.ID) {
			t.Fatalf("under a hold: %+v", r)
		}
		if _, err := s.holds.Remove(t.Context(), h.ID, "boss", "closed"); err != nil {
			t.Fatal(err)
		}
		r := run()
		if r.Events == 0 || r.Through == 0 {
			t.Fatalf("nothing was dropped: %+v", r)
		}
		s.Events(t) // seals the rest
		if err := l.VerifyChain(t.Context(), 0, 0); err != nil {
			t.Fatalf("across the gap: %v", err)
		}
	})
}
