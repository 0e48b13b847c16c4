package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/internal/fault"
	"assay/inventory"
	"assay/store"
	"assay/store/storetest"
)

// runs says that so many workloads run an image in namespace shop of cluster c1.
func (s *testSite) runs(image string, d artifact.Digest, workloads, instances int) {
	s.t.Helper()
	snap := inventory.Snapshot{Cluster: "c1", Reporter: "test"}
	for w := range workloads {
		for i := range instances {
			snap.Workloads = append(snap.Workloads, inventory.Workload{
				Key:   inventory.Key{Namespace: "shop", Kind: "Deployment", Name: fmt.Sprintf("%s-%d", d.Hex()[:8], w), Instance: fmt.Sprintf("p%d", i), Container: "app"},
				Image: image, Digest: d, Node: "n1",
			})
		}
	}
	if err := s.db.Update(s.t.Context(), func(tx *store.Tx) error {
		_, err := s.inventory.Observe(s.t.Context(), tx, snap)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

// count counts events of a kind about a digest.
func (s *testSite) count(kind event.Kind, d artifact.Digest) (n int) {
	s.t.Helper()
	list, err := s.events.Query(s.t.Context(), event.Filter{Kinds: []event.Kind{kind}, Digest: d, Limit: 20_000})
	if err != nil {
		s.t.Fatal(err)
	}
	return len(list)
}

func admitting(c *config.Config) {
	c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod"}
}

// TestRunning: what runs is asked about again when a revocation or a policy comes,
// and each workload is told of; what was never allowed, and what runs in place of
// something else, is told of too.
func TestRunning(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			testRunning(t, newSite(t, true, func(c *config.Config) {
				admitting(c)
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			}))
		})
	}
}

// pagesOfRunning reads what runs in pages of one: they are the whole list, each
// image once.
func (s *testSite) pagesOfRunning() {
	s.t.Helper()
	whole, err := s.admin.RunningImages(s.t.Context(), "", "", "", 0)
	if err != nil || len(whole.Items) < 4 || whole.Next != "" {
		s.t.Fatalf("%+v, %v", whole, err)
	}
	var got []client.RunningImage
	for after := ""; ; {
		page, err := s.admin.RunningImages(s.t.Context(), "c1", "", after, 1)
		if err != nil || len(page.Items) > 1 {
			s.t.Fatalf("%+v, %v", page, err)
		}
		got = append(got, page.Items...)
		if after = page.Next; after == "" {
			break
		}
	}
	if diff := cmp.Diff(whole.Items, got); diff != "" {
		s.t.Error(diff)
	}
	if _, err := s.admin.RunningImages(s.t.Context(), "", "", "bm90aGluZw", 1); fault.KindOf(err) != fault.Invalid {
		s.t.Errorf("a cursor that was not given: %v", err)
	}
}

func testRunning(t *testing.T, s *testSite) {
	s.apply(s.policyDoc("me@example.com"), false)
	ctx, host := t.Context(), s.host()
	manifest, good := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	_, unsigned := s.image("shop/unsigned", "v1", "layer two")
	pin := host + "/shop/app:v1@" + string(good)
	s.runs(pin, good, 20, 10) // 200 Pods
	s.runs(host+"/shop/unsigned:v1", unsigned, 2, 1)
	s.runs(pin, unsigned, 1, 1) // drift, of the first of its workloads
	nginx := artifact.SHA256Of([]byte("nginx"))
	s.runs("nginx:1.27", nginx, 1, 3)
	await(t, func() bool {
		return s.count(event.WorkloadDenied, nginx) == 1 && s.count(event.WorkloadDrifted, unsigned) == 1
	})
	await(t, func() bool { return s.count(event.WorkloadDenied, unsigned) > 0 })
	if n := s.count(event.WorkloadDenied, good); n != 0 {
		t.Errorf("%d events about what is allowed", n)
	}
	site := &admissionSite{s: s.Server}
	one := openBundle(t, s, site, 0)
	if len(one.Blocked) != 0 || !slices.ContainsFunc(one.Entries, func(e admission.Entry) bool { return e.Digest == good && e.Allow }) {
		t.Errorf("the first bundle: %+v", one)
	}
	if raw, err := site.Bundle(ctx, "c1", one.Version); err != nil || raw != nil {
		t.Errorf("a newer one that says the same: %v", err)
	}
	began := time.Now()
	if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: good, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return s.count(event.WorkloadDenied, good) >= 20 })
	if two := openBundle(t, s, &admissionSite{s: s.Server}, one.Version+1); len(two.Blocked) != 1 || two.Blocked[0].Digest != good {
		t.Errorf("the second bundle: %+v", two.Blocked)
	}
	s.pagesOfRunning()
	// Nobody waits for a replica that went the last round, or was ended.
	await(t, func() bool {
		held, _, err := s.db.Lease(ctx, "rounds", "another replica", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return held
	})
	if err := s.db.Release(ctx, "rounds", "another replica"); err != nil {
		t.Fatal(err)
	}
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		list, err := admission.ListRunning(ctx, tx, "c1", admission.Denied, admission.RunningPlace{}, 100)
		if err == nil && len(list) != 3 {
			t.Errorf("%d images are denied, want 3: %+v", len(list), list)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a revocation reached what runs after %s", took)
	}
	list, err := s.events.Query(ctx, event.Filter{Kinds: []event.Kind{event.WorkloadDenied}, Digest: good, Limit: 100})
	if err != nil || len(list) != 20 || !strings.Contains(fmt.Sprintf("%s", list[0].Body), "backdoor") || list[0].Cluster != "c1" {
		t.Errorf("%d events, %v: %s", len(list), err, list[0].Body)
	}
}

// openBundle makes a bundle of cluster c1 and reads it as a webhook does.
func openBundle(t *testing.T, s *testSite, site *admissionSite, seen int64) *admission.Bundle {
	t.Helper()
	raw, err := site.Bundle(t.Context(), "c1", 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := admission.OpenBundle(raw, s.admission.authority.PEM(), "c1", seen)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRestarts: with every list stale, what runs already starts again, with
// warnings; what is revoked does not, and what never ran does not.
func TestRestarts(t *testing.T) {
	now := daysAgo(0)
	s := newSiteAt(t, now.now, func(c *config.Config) { admitting(c) })
	s.apply(s.policyDoc("me@example.com"), false)
	host, r := s.host(), s.reviewer()
	image := func(name string) (string, artifact.Digest) {
		m, d := s.image("shop/"+name, "v1", "layer of "+name)
		s.signImage("shop/"+name, m)
		return host + "/shop/" + name + ":v1@" + string(d), d
	}
	var pins []string
	for i := range 20 {
		pin, d := image(fmt.Sprintf("app%d", i))
		if a := r.ask(admission.PathValidate, "shop", pin); !a.Allowed {
			t.Fatalf("fresh: %+v", a.Status)
		}
		s.runs(pin, d, 1, 10)
		pins = append(pins, pin)
	}
	leaked, d := image("leaked")
	s.runs(leaked, d, 1, 1)
	fresh, _ := image("fresh") // never ran
	if _, err := s.admin.Revoke(t.Context(), client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: d, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return !r.ask(admission.PathValidate, "shop", leaked).Allowed })
	now.pass(25 * time.Hour)                      // the list of revocations holds 24 h, and is looked at once a minute
	for _, pin := range slices.Repeat(pins, 10) { // 200 Pods
		if a := r.ask(admission.PathValidate, "shop", pin); !a.Allowed || len(a.Warnings) != 1 || !strings.Contains(a.Warnings[0], "runs here already") {
			t.Fatalf("%s: %+v %+v", pin, a, a.Status)
		}
	}
	if a := r.ask(admission.PathValidate, "bank", pins[0]); a.Allowed {
		t.Error("it runs elsewhere, and is let in here")
	}
	if a := r.ask(admission.PathValidate, "shop", fresh); a.Allowed {
		t.Error("what never ran is let in by stale lists")
	}
	if a := r.ask(admission.PathValidate, "shop", leaked); a.Allowed || !strings.Contains(a.Status.Message, "backdoor") {
		t.Errorf("what is revoked: %+v", a.Status)
	}
	// A Pod may have ended before the one in its place is asked for.
	if err := s.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := s.inventory.Observe(t.Context(), tx, inventory.Snapshot{Cluster: "c1", Reporter: "test", Complete: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if a := r.ask(admission.PathValidate, "shop", pins[1]); !a.Allowed || len(a.Warnings) != 1 {
		t.Errorf("what ran until now: %+v %+v", a, a.Status)
	}
	now.pass(restartWithin + time.Minute)
	if a := r.ask(admission.PathValidate, "shop", pins[1]); a.Allowed {
		t.Error("what has not run for long is let in by stale lists")
	}
}
