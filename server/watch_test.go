package server

import (
	"fmt"
	"testing"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/inventory"
	"assay/slo"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// What the indicators are told of what runs: by the registry's names, of an index's
// evidence, with what is affected, on both databases and with 10,000 workloads.
func TestWatchRunning(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			testWatchRunning(t, newSite(t, true, func(c *config.Config) {
				admitting(c)
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			}))
		})
	}
}

const indexType = "application/vnd.oci.image.index.v1+json"

func testWatchRunning(t *testing.T, s *testSite) {
	ctx := t.Context()
	s.apply(s.policyDoc("me@example.com")+`---
apiVersion: assay/v1
kind: Services
metadata: {name: shop}
spec:
  teams:
    shop: {contacts: ["#shop"]}
  services:
    web: {tier: 1, team: shop, environment: prod, workloads: [{namespace: shop, name: web}]}
    plain: {tier: 1, team: shop, environment: prod, workloads: [{namespace: shop, name: plain}]}
`, false)
	// An index that is signed: what runs is its child, which has neither tag nor
	// signature of its own.
	child, digest := s.image("shop/web", "build", "web")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`, indexType, digest, len(child))
	s.put("/v2/shop/web/manifests/v2", indexType, index)
	s.signImage("shop/web", index)
	_, plain := s.image("shop/plain", "v7", "plain")
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		for _, q := range []string{
			`DELETE FROM registry_tag WHERE repository = 'shop/web' AND tag = 'build'`,
			`INSERT INTO sbom_component (id, key, package, name, version, type, source_name, source_version) VALUES (9001, 'pkg:npm/a@1', 'pkg:npm/a', 'a', '1', 'library', '', ''), (9002, 'pkg:npm/b@1', 'pkg:npm/b', 'b', '1', 'library', '', '')`,
			`INSERT INTO sbom_document (id, attestation, subject, ingested, packages, issuer, state, problem, format, spec_version, document, name, created, quality, parts, incomplete, identity)
				VALUES (9001, 'att_1', '` + string(plain) + `', 1, 2, '', 1, '', 'cyclonedx-json', '1.6', '', 'app', 0, 80, '', '', '')`,
			`INSERT INTO sbom_occurrence (document, component, direct, via, license) VALUES (9001, 9001, 1, 0, ''), (9001, 9002, 0, 9001, '')`,
			`INSERT INTO finding_scan (document, subject, scanned, components) VALUES (9001, '` + string(plain) + `', 1, 2)`,
		} {
			if _, err := tx.Exec(ctx, q); err != nil {
				return fmt.Errorf("%.60s: %w", q, err)
			}
		}
		for i, component := range []int{9001, 9002, 9002} { // two flaws in one of the components
			if _, err := tx.Exec(ctx, `INSERT INTO finding_match (component, advisory, feed, opened, closed, status, fixed, reason, operation, ended) VALUES (?, ?, 'osv', ?, 0, 1, '', '', 1, 0)`, component, fmt.Sprintf("GHSA-%d", i), store.Micros(s.clock().Add(-72*time.Hour))); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.observe(digest, plain)
	var all []slo.Running
	look := func() {
		if err := s.db.View(ctx, func(tx *store.Tx) (err error) { all, err = (&runningFacts{s: s.Server}).all(ctx, tx); return err }); err != nil {
			t.Fatal(err)
		}
	}
	look()
	by := map[artifact.Digest]slo.Running{}
	for _, x := range all {
		by[x.Digest] = x
	}
	if len(all) != 402 {
		t.Fatalf("%d digests at their places, want 402", len(all))
	}
	place := func(service, release string) slo.Place {
		return slo.Place{Service: service, Team: "shop", Environment: "prod", Cluster: "c1", Release: release, Kind: "image"}
	}
	if d := cmp.Diff(slo.Running{Digest: digest, Place: place("web", "shop/web:v2"), Provenance: slo.No, SBOM: slo.No, Signature: slo.Yes, VEX: slo.No, Tests: slo.No, Approved: by[digest].Approved, Scanned: slo.No}, by[digest]); d != "" {
		t.Errorf("a child of a signed index (-want +got):\n%s", d)
	}
	if d := cmp.Diff(slo.Running{Digest: plain, Place: place("plain", "shop/plain:v7"), Provenance: slo.No, SBOM: slo.Yes, Quality: 80, Signature: slo.No, VEX: slo.No, Tests: slo.No, Approved: slo.No, Scanned: slo.Yes,
		Direct: 1, Transitive: 1, Exposed: by[plain].Exposed}, by[plain]); d != "" || s.clock().Sub(by[plain].Exposed) < 71*time.Hour {
		t.Errorf("what nobody signed, with three flaws in two components (-want +got):\n%s exposed since %v", d, by[plain].Exposed)
	}
	if got := by[elsewhereDigest(7)].Place.Release; got != "elsewhere.example/foreign-7:1.7" {
		t.Errorf("a foreign image is of the release %q", got)
	}
	// The place of an event is said by the same names.
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		p, err := s.placeOfEvent(ctx, tx, &event.Event{Kind: event.DecisionMade, Digest: plain})
		if want := (slo.Place{Service: "plain", Team: "shop", Environment: "prod", Release: "shop/plain:v7", Kind: "image"}); err != nil || p != want {
			t.Errorf("the place of an event: %+v, %v; want %+v", p, err, want)
		}
		v, err := signedPush(ctx, tx, plain, "shop/plain")
		if err != nil || v != slo.No {
			t.Errorf("an unsigned push: %v, %v", v, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// The looks of the indicators have it, by release.
	if err := s.watch.slo.Look(ctx); err != nil {
		t.Fatal(err)
	}
}

func elsewhereDigest(i int) artifact.Digest {
	return artifact.SHA256Of(fmt.Appendf(nil, "foreign %d", i))
}

// observe reports 10,000 workloads of cluster c1.
func (s *testSite) observe(web, plain artifact.Digest) {
	s.t.Helper()
	snap := inventory.Snapshot{Cluster: "c1", Reporter: "test", Environment: "prod"}
	add := func(name, image string, d artifact.Digest, instances int) {
		for i := range instances {
			snap.Workloads = append(snap.Workloads, inventory.Workload{
				Key:   inventory.Key{Namespace: "shop", Kind: "Deployment", Name: name, Instance: fmt.Sprintf("p%d", i), Container: "app"},
				Image: image, Digest: d, Node: "n1",
			})
		}
	}
	add("web", s.host()+"/shop/web:v2", web, 20)
	add("plain", s.host()+"/shop/plain:v7", plain, 20)
	for i := range 400 {
		add(fmt.Sprintf("foreign-%d", i), fmt.Sprintf("elsewhere.example/foreign-%d:1.%d", i, i), elsewhereDigest(i), 25)
	}
	if err := s.db.Update(s.t.Context(), func(tx *store.Tx) error {
		_, err := s.inventory.Observe(s.t.Context(), tx, snap)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}
