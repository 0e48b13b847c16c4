package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func TestMeshAndIdentities(t *testing.T) {
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := begin
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		now = begin
		meshAndIdentities(t, db, &now)
	}, store.WithClock(func() time.Time { return now }))
}

func workloadIdentity(name string, mode MTLS, ids ...string) Identity {
	return Identity{Namespace: "shop", Kind: "Deployment", Name: name, SPIFFEIDs: ids, Source: BySPIRE, Mesh: "istio", MTLS: mode}
}

// bodies are the bodies of the events of these kinds, after a number of them.
func bodies(t *testing.T, db *store.DB, kinds ...event.Kind) (out []string) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(t.Context(), `SELECT kind, team, body FROM event_pending ORDER BY time, ord`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind, team string
			var b []byte
			if err := rows.Scan(&kind, &team, &b); err != nil {
				return err
			}
			var body struct {
				Namespace string
				Workloads []string
				Count     int
				Was, Now  string
				Weaker    int
			}
			if err := json.Unmarshal(b, &body); err != nil {
				return err
			}
			if slices.Contains(kinds, event.Kind(kind)) {
				out = append(out, fmt.Sprintf("%s %s %v %d %s>%s %d %s", kind, body.Namespace, body.Workloads, body.Count, body.Was, body.Now, body.Weaker, team))
			}
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func meshAndIdentities(t *testing.T, db *store.DB, now *time.Time) {
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	book := catalogue(t, shop)
	var stirred []artifact.Digest
	s := New(db, Options{Catalogue: func() *Catalogue { return book }, Identified: func(_ context.Context, _ *store.Tx, d []artifact.Digest) error { stirred = d; return nil }})
	const web, other = "spiffe://example.org/ns/shop/sa/checkout", "spiffe://example.org/ns/shop/sa/admin"
	space := Identity{Namespace: "shop", Kind: KindNamespace, Name: "shop", Source: NoIdentity, Mesh: "istio", MTLS: MTLSStrict}
	report := workloadIdentity("reports", MTLSStrict)
	report.Source = NoIdentity
	snap := Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Workloads: []Workload{pod("checkout", "a", digest(1)), pod("reports", "x", digest(2))},
		Identities: []Identity{workloadIdentity("checkout", MTLSStrict, web), report, space}}
	observe(t, db, s, snap)
	kinds := []event.Kind{event.MeshWeakened, event.MeshStrengthened, event.WorkloadIdentityChanged}
	if got := bodies(t, db, kinds...); len(got) != 0 {
		t.Errorf("the first look told %q", got)
	}
	if len(stirred) != 2 {
		t.Errorf("the first look stirred %q", stirred)
	}
	stirred = nil
	observe(t, db, s, snap)
	if len(stirred) != 0 {
		t.Error("nothing changed, and decisions were stirred")
	}
	// The mesh's policy is weakened for both, and one has another identity; the next
	// snapshot names what changed alone.
	*now = now.Add(time.Hour)
	weak := report
	weak.MTLS = MTLSPermissive
	observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Identities: []Identity{workloadIdentity("checkout", MTLSPermissive, other), weak}})
	want := []string{
		"mesh.weakened shop [Deployment/checkout] 1 strict>permissive 0 payments", "mesh.weakened shop [Deployment/reports] 1 strict>permissive 0 payments",
		"workload.identity_changed shop [Deployment/checkout] 1 " + web + ">" + other + " 0 payments",
	}
	if diff := cmp.Diff(want, bodies(t, db, kinds...)); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(stirred, []artifact.Digest{digest(1), digest(2)}) {
		t.Errorf("stirred %q", stirred)
	}
	// What is lost is weaker as well, and one of two that is strict again is not the end.
	*now = now.Add(time.Hour)
	lost := workloadIdentity("checkout", MTLSStrict)
	lost.Source = Unread
	observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Identities: []Identity{lost, func() Identity { u := weak; u.MTLS = MTLSNone; return u }()}})
	want = append(want, "mesh.strengthened shop [Deployment/checkout] 1 permissive>strict 1 payments", "mesh.weakened shop [Deployment/reports] 1 permissive>none 0 payments",
		"workload.identity_changed shop [Deployment/checkout] 1 "+other+"> 0 payments")
	got := bodies(t, db, kinds...)
	slices.Sort(got[3:])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	identityQueries(t, db, s, now)
	// It is told whole without one: it is gone, and what comes again is compared with
	// what it was.
	*now = now.Add(time.Hour)
	observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Identities: []Identity{space}})
	if all, _, err := s.Identities(t.Context(), IdentityFilter{}); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	before := len(bodies(t, db, kinds...))
	observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Workloads: snap.Workloads, Identities: []Identity{workloadIdentity("checkout", MTLSNone), report, space}})
	if got := bodies(t, db, kinds...); len(got) != before+2 {
		t.Errorf("what came again weaker was not told of: %q", got[before:])
	}
	// Long gone is forgotten.
	*now = now.Add(24 * time.Hour)
	observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Identities: []Identity{space}})
	*now = now.Add(31 * 24 * time.Hour)
	observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Identities: []Identity{space}})
	left := 0
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM inventory_identity`).Scan(&left)
	}); err != nil || left != 1 {
		t.Errorf("%d are kept, %v", left, err)
	}
}

func identityQueries(t *testing.T, db *store.DB, s *Store, now *time.Time) {
	t.Helper()
	of := func(cluster string, d ...artifact.Digest) (id Identity, runs, known bool) {
		t.Helper()
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
			id, runs, known, err = s.IdentityOf(t.Context(), tx, cluster, "shop", d)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return id, runs, known
	}
	if id, runs, known := of("prod-eu", digest(1), digest(2)); !runs || !known || id.MTLS != MTLSNone || id.Source != Unread {
		t.Errorf("both: %+v %t %t", id, runs, known)
	}
	if id, runs, known := of("prod-eu", digest(9)); runs || !known || id.MTLS != MTLSStrict || id.Source != Unread {
		t.Errorf("what does not run: %+v %t %t", id, runs, known)
	}
	for _, c := range []string{"", "prod-us"} {
		if id, runs, known := of(c, digest(1)); runs || known || id.MTLS != MTLSUnknown {
			t.Errorf("cluster %q: %+v", c, id)
		}
	}
	first, next, err := s.Identities(t.Context(), IdentityFilter{Limit: 1})
	if err != nil || len(first) != 1 || next == "" {
		t.Fatalf("%v %q %v", first, next, err)
	}
	if rest, more, err := s.Identities(t.Context(), IdentityFilter{After: next}); err != nil || len(rest) != 2 || more != "" || rest[0].Name != "reports" {
		t.Errorf("%+v %q %v", rest, more, err)
	}
	if all, _, err := s.Identities(t.Context(), IdentityFilter{MTLS: MTLSNone, Namespace: "shop", Cluster: "prod-eu"}); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	if _, _, err := s.Identities(t.Context(), IdentityFilter{After: "x"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("cursor: %v", err)
	}
	// A cluster that is silent says nothing any more.
	was := *now
	*now = now.Add(time.Hour)
	if id, runs, known := of("prod-eu", digest(1)); runs || known || id.MTLS != MTLSUnknown {
		t.Errorf("a silent cluster: %+v", id)
	}
	*now = was
}

func TestIdentityValidate(t *testing.T) {
	good := workloadIdentity("a", MTLSStrict, "spiffe://example.org/a")
	for name, change := range map[string]func(*Identity){
		"no name": func(i *Identity) { i.Name = "" }, "a mode": func(i *Identity) { i.MTLS = "STRICT" }, "a source": func(i *Identity) { i.Source = "" }, "a mesh": func(i *Identity) { i.Mesh = "x" },
		"an id": func(i *Identity) { i.SPIFFEIDs = []string{"a"} }, "two alike unsorted": func(i *Identity) { i.SPIFFEIDs = []string{"spiffe://b/b", "spiffe://a/a"} },
	} {
		bad := good
		change(&bad)
		s := Snapshot{Cluster: "c", Identities: []Identity{bad}}
		if err := s.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := Snapshot{Cluster: "c", Identities: []Identity{good, good}}
	if err := s.Validate(); !errors.Is(err, fault.Invalid) {
		t.Errorf("twice: %v", err)
	}
	for id, ok := range map[string]bool{
		"spiffe://example.org": true, "spiffe://example.org/ns/a/sa/b": true, "spiffe://": false, "spiffe:///a": false, "spiffe://A/b": false, "spiffe://a/": false, "spiffe://a//b": false,
		"spiffe://a/../b": false, "spiffe://a/b c": false, "https://a/b": false, "spiffe://a:1/b": false, "spiffe://a/b?c": false,
	} {
		if err := CheckSPIFFEID(id); (err == nil) != ok {
			t.Errorf("%s: %v", id, err)
		}
	}
}
