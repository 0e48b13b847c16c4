package server

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/gate"
	"assay/identity"
	"assay/inventory"
	"assay/slo"
	"assay/store"
	"assay/store/storetest"
)

// describe signs a bill of materials of npm packages about an artifact.
func (s *testSite) describe(d artifact.Digest, repository string, packages ...string) {
	s.t.Helper()
	var all []string
	for i, p := range packages {
		name, version, _ := strings.Cut(p, "@")
		all = append(all, fmt.Sprintf(`{"type":"library","bom-ref":"c%d","name":%q,"version":%q,"purl":"pkg:npm/%s@%s"}`, i, name, version, name, version))
	}
	st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":%q}}],"predicateType":"https://cyclonedx.org/bom","predicate":{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[%s]}}`, d.Hex(), strings.Join(all, ","))
	status := s.Status(s.t.Context())
	sig := &client.Signing{Fulcio: status.Services.Fulcio, Rekor: status.Services.Rekor, TSA: status.Services.TSA, Token: func(context.Context) (string, error) {
		return s.token("me@example.com", identity.AudienceSigstore), nil
	}}
	b, err := sig.Statement(s.t.Context(), attestation.PayloadType, []byte(st), attestation.PAE(attestation.PayloadType, []byte(st)))
	if err != nil {
		s.t.Fatal(err)
	}
	doc, err := protojson.Marshal(b)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.Ingest(s.t.Context(), doc, repository); err != nil {
		s.t.Fatal(err)
	}
}

// advise brings advisories for npm packages: every version below 9 is affected.
func (s *testSite) advise(flaws map[string]string) {
	s.t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for id, name := range flaws {
		w, err := z.Create(id + ".json")
		if err == nil {
			_, err = fmt.Fprintf(w, `{"id":%q,"modified":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":%q},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"9.0.0"}]}]}]}`, id, name)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.ImportFeed(s.t.Context(), "osv", "npm", "", &b); err != nil {
		s.t.Fatal(err)
	}
}

// deployed says what runs in namespace shop of cluster c1, as workload, digest and
// instances.
func (s *testSite) deployed(all ...deployment) {
	s.t.Helper()
	snap := inventory.Snapshot{Cluster: "c1", Reporter: "test", Environment: "prod", Complete: true}
	for _, d := range all {
		for i := range d.instances {
			snap.Workloads = append(snap.Workloads, inventory.Workload{
				Key:   inventory.Key{Namespace: "shop", Kind: "Deployment", Name: d.workload, Instance: fmt.Sprintf("%s-%s-%d", d.workload, d.digest.Hex()[:6], i), Container: "app"},
				Image: s.host() + "/shop/app:" + d.tag, Digest: d.digest, Node: "n1",
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

type deployment struct {
	workload, tag string
	digest        artifact.Digest
	instances     int
}

// since has what runs of a digest been seen so long already.
func (s *testSite) since(d artifact.Digest, ago time.Duration) {
	s.t.Helper()
	if err := s.db.Update(s.t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(s.t.Context(), `UPDATE inventory_workload SET first_seen = ? WHERE digest = ?`, store.Micros(s.clock().Add(-ago)), string(d))
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

const shopServices = `---
apiVersion: assay/v1
kind: Services
metadata: {name: shop}
spec:
  teams: {shop: {contacts: ["#shop"]}}
  services:
    checkout: {tier: 1, team: shop, environment: prod, workloads: [{namespace: shop}]}
`

// canarySite is a shop whose v1 runs and whose v2 is its canary.
func canarySite(t *testing.T, change func(*config.Config)) (s *testSite, stable, next artifact.Digest) {
	return canarySiteOf(newSite(t, true, change), "")
}

func canarySiteOf(s *testSite, docs string) (_ *testSite, stable, next artifact.Digest) {
	t := s.t
	s.apply(s.policyDoc("me@example.com")+docs+shopServices, false)
	for tag, d := range map[string]*artifact.Digest{"v1": &stable, "v2": &next} {
		var manifest string
		manifest, *d = s.image("shop/app", tag, "layer "+tag)
		s.signImage("shop/app", manifest)
		s.describe(*d, "shop/app", "left-pad@1.0.0", "right-pad@1.0.0")
	}
	s.advise(map[string]string{"GHSA-old": "left-pad", "GHSA-other": "nobody-has-it"})
	s.deployed(deployment{"app-primary", "v1", stable, 9}, deployment{"app", "v2", next, 1})
	await(t, func() bool {
		_, st, err := s.vulnerabilities.OfSubject(t.Context(), next, "shop/app")
		return err == nil && st.Scanned
	})
	await(t, func() bool {
		_, st, err := s.vulnerabilities.OfSubject(t.Context(), stable, "shop/app")
		return err == nil && st.Scanned
	})
	return s, stable, next
}

func (s *testSite) canary(q client.CanaryQuestion) client.CanaryAnswer {
	s.t.Helper()
	a, err := s.admin.Canary(s.t.Context(), q)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// says gives the verdict of one check; the worst where it has several.
func says(a client.CanaryAnswer, check string) string {
	i := slices.IndexFunc(a.Reasons, func(r client.CanaryReason) bool { return r.Check == check })
	if i < 0 {
		return ""
	}
	return a.Reasons[i].Verdict
}

// TestGateCanary follows a canary on both databases: too young, too small, ready,
// with a new finding, with a budget that it burns, and revoked.
func TestGateCanary(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			s, stable, next := canarySite(t, func(c *config.Config) {
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			})
			testGateCanary(t, s, stable, next)
		})
	}
}

func testGateCanary(t *testing.T, s *testSite, stable, next artifact.Digest) {
	ctx := t.Context()
	q := client.CanaryQuestion{Images: []string{s.host() + "/shop/app:v2"}, Service: "checkout", Environment: "prod", Cluster: "c1", Namespace: "shop"}
	a := s.canary(q)
	if a.Verdict != gate.Wait || a.Value != 0 || says(a, gate.CheckDuration) != gate.Wait || says(a, gate.CheckShare) != gate.Proceed || *a.Share != 10 || a.Instances != 1 {
		t.Fatalf("a canary of a moment: %+v", a)
	}
	s.since(next, 11*time.Minute)
	if a = s.canary(q); a.Verdict != gate.Proceed || a.Value != 1 || a.New != 0 || a.Images[0].Digest != next || a.Images[0].Decision == "" || a.Advice != nil {
		t.Fatalf("a canary of 11 minutes: %+v", a)
	}
	// Who asks may want more, and says which share it gave.
	more := q
	more.LeastDuration, more.LeastShare = "1h", "20%"
	if a = s.canary(more); a.Verdict != gate.Wait || says(a, gate.CheckDuration) != gate.Wait || says(a, gate.CheckShare) != gate.Wait {
		t.Errorf("more is wanted: %+v", a)
	}
	less := q
	less.LeastDuration, less.LeastShare, less.Share = "0s", "0", "4"
	if a = s.canary(less); a.Verdict != gate.Wait || says(a, gate.CheckShare) != gate.Wait {
		t.Errorf("less than the site's rule is wanted: %+v", a)
	}
	for _, bad := range []client.CanaryQuestion{{Images: q.Images}, {Images: q.Images, Service: "checkout", Share: "lots"}, {Images: []string{"nginx"}, Service: "checkout"}, {Service: "checkout"}, {Images: q.Images, Service: "a b;rm"}} {
		if _, err := s.admin.Canary(ctx, bad); err == nil {
			t.Errorf("%+v was answered", bad)
		}
	}
	s.canaryBudget(q)
	// A flaw that only the canary has.
	s.describe(next, "shop/app", "fresh@1.0.0")
	s.advise(map[string]string{"GHSA-old": "left-pad", "GHSA-new": "fresh", "GHSA-other": "nobody-has-it"})
	await(t, func() bool { a = s.canary(q); return a.Verdict == gate.Rollback })
	if says(a, gate.CheckFindings) != gate.Rollback || a.New != 1 || a.Findings[0].Name != "GHSA-new" {
		t.Errorf("with a new finding: %+v", a)
	}
	want := s.host() + "/shop/app@" + string(stable)
	if a.Advice == nil || a.Advice.Image != want || !a.Advice.Running || len(a.Advice.Commands) != 1 || a.Advice.Commands[0] != "kubectl set image deployment/app-primary app="+want+" -n shop" {
		t.Errorf("advice: %+v", a.Advice)
	}
	argo := q
	argo.Controller, argo.Workload = gate.ControllerArgo, "checkout"
	if a = s.canary(argo); len(a.Advice.Commands) != 2 || a.Advice.Commands[0] != "kubectl argo rollouts abort checkout -n shop" {
		t.Errorf("advice for Argo: %+v", a.Advice)
	}
	// What is revoked is not gone back to.
	if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: stable, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { a = s.canary(q); return a.Advice.Image == "" })
	if !strings.Contains(a.Advice.Text, "none of the 1 other digests") {
		t.Errorf("advice: %+v", a.Advice)
	}
	await(t, func() bool { // for its budget, and for its finding
		refused := 0
		for _, e := range s.eventsOf(event.RolloutRefused) {
			if e.Digest == next && e.Service == "checkout" {
				refused++
			}
		}
		return refused == 2
	})
	if s.count(event.RolloutJudged, next) == 0 {
		t.Error("its going on was not told")
	}
}

// canaryBudget: a budget that was spent before holds a canary, one that it spends
// itself rolls it back.
func (s *testSite) canaryBudget(q client.CanaryQuestion) {
	t, ctx := s.t, s.t.Context()
	t.Helper()
	add := func(at time.Time, good, bad int64) {
		t.Helper()
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			return s.watch.slo.Add(ctx, tx, []slo.Sample{{Indicator: slo.SignedPushes, At: at, Place: slo.Place{Service: "checkout"}, Good: good, Bad: bad}}, true)
		}); err != nil {
			t.Fatal(err)
		}
	}
	add(s.clock().Add(-24*time.Hour), 100, 0)
	if a := s.canary(q); a.Verdict != gate.Proceed {
		t.Errorf("with all of its budget: %+v", a)
	}
	add(s.clock(), 0, 50)
	if a := s.canary(q); a.Verdict != gate.Rollback || says(a, gate.CheckBudget) != gate.Rollback {
		t.Errorf("with a budget that it burns: %+v", a)
	}
	other := q
	other.Service = "payments"
	if a := s.canary(other); says(a, gate.CheckBudget) != gate.Proceed || says(a, gate.CheckDuration) != gate.Wait {
		t.Errorf("another service's: %+v", a)
	}
	// The same, when it had been spent before.
	s.since(s.canary(q).Images[0].Digest, -time.Minute)
	if a := s.canary(q); says(a, gate.CheckBudget) != gate.Wait {
		t.Errorf("with a budget that was spent before: %+v", a)
	}
	s.since(s.canary(q).Images[0].Digest, 11*time.Minute)
	add(s.clock(), 1_000_000, 0)
}

// TestThreat_Gate_ClaimedAge: nobody's word makes a canary older, and what was asked
// about long ago and does not run is no canary that ran long.
func TestThreat_Gate_ClaimedAge(t *testing.T) {
	s, stable, next := canarySite(t, nil)
	q := client.CanaryQuestion{Images: []string{s.host() + "/shop/app:v2"}, Service: "checkout", Environment: "prod"}
	code, _, body := s.do(http.MethodPost, "/api/v1/gate/canary", map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + s.token("me@example.com", identity.AudienceAPI)},
		strings.NewReader(`{"service":"checkout","images":["`+q.Images[0]+`"],"since":"2020-01-01T00:00:00Z"}`))
	if code != http.StatusBadRequest || !strings.Contains(body, "since") {
		t.Errorf("a claimed beginning: %d %s", code, body)
	}
	s.canary(q)
	if err := s.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE gate_canary SET first_asked = 1`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.deployed(deployment{"app-primary", "v1", stable, 9})
	if a := s.canary(q); a.Verdict != gate.Wait || says(a, gate.CheckDuration) != gate.Wait || says(a, gate.CheckShare) != gate.Wait {
		t.Errorf("asked about for long, never run: %+v", a)
	}
	_ = next
}

// TestThreat_Gate_UnknownIsNotClean: without a bill of materials, without a signature,
// and of a tag that is not there, a canary does not go on.
func TestThreat_Gate_UnknownIsNotClean(t *testing.T) {
	s, _, _ := canarySite(t, nil)
	manifest, bare := s.image("shop/app", "bare", "no bill of materials")
	s.signImage("shop/app", manifest)
	_, unsigned := s.image("shop/app", "unsigned", "nobody signed it")
	s.deployed(deployment{"app", "bare", bare, 5}, deployment{"other", "unsigned", unsigned, 5})
	s.since(bare, time.Hour)
	s.since(unsigned, time.Hour)
	for tag, want := range map[string]string{"bare": gate.Wait, "unsigned": gate.Rollback, "none": gate.Wait} {
		if a := s.canary(client.CanaryQuestion{Images: []string{s.host() + "/shop/app:" + tag}, Service: "checkout"}); a.Verdict != want {
			t.Errorf("%s: %+v, want %s", tag, a, want)
		}
	}
}

// TestGateFlagger asks as Flagger does, by user and password of an address.
func TestGateFlagger(t *testing.T) {
	s, _, next := canarySite(t, nil)
	token := s.token("me@example.com", identity.AudienceAPI)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("flagger:"+token))
	post := func(hook, auth string, weight int, metadata map[string]string) (int, string) {
		t.Helper()
		b, err := json.Marshal(map[string]any{"name": "app", "namespace": "shop", "phase": "Progressing", "checksum": "5b8f", "canaryWeight": weight, "remainingTime": 3, "metadata": metadata})
		if err != nil {
			t.Fatal(err)
		}
		h := map[string]string{"Content-Type": "application/json"}
		if auth != "" {
			h["Authorization"] = auth
		}
		code, _, body := s.do(http.MethodPost, "/api/v1/gate/flagger/"+hook, h, bytes.NewReader(b))
		return code, body
	}
	checkout := map[string]string{"service": "checkout", "environment": "prod", "cluster": "c1"}
	expect := func(what string, want map[string]int, weight int) {
		t.Helper()
		for hook, code := range want {
			if got, body := post(hook, basic, weight, checkout); got != code {
				t.Errorf("%s: %s: %d %s, want %d", what, hook, got, body, code)
			}
		}
	}
	expect("a canary of a moment", map[string]int{"pre-rollout": 200, "confirm-rollout": 200, "rollout": 200, "confirm-traffic-increase": 200, "confirm-promotion": 409, "rollback": 409}, 50)
	s.since(next, time.Hour)
	expect("a canary of an hour", map[string]int{"pre-rollout": 200, "rollout": 200, "confirm-promotion": 200, "rollback": 409}, 50)
	expect("a canary of an hour without traffic", map[string]int{"rollout": 200, "confirm-promotion": 409, "rollback": 409}, 0)
	if _, err := s.admin.Revoke(t.Context(), client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: next, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { code, _ := post("rollback", basic, 50, checkout); return code == http.StatusOK })
	expect("a revoked canary", map[string]int{"pre-rollout": 409, "rollout": 409, "confirm-promotion": 409, "rollback": 200}, 50)
	if _, body := post("rollback", basic, 50, checkout); !strings.Contains(body, "rollback: verification") || !strings.Contains(body, "go back to "+s.host()+"/shop/app@sha256:") {
		t.Errorf("said %q", body)
	}
	for what, tt := range map[string]struct {
		hook, auth string
		metadata   map[string]string
		want       int
	}{
		"another hook":     {"post-rollout", basic, checkout, http.StatusNotFound},
		"no token":         {"rollout", "", checkout, http.StatusUnauthorized},
		"another token":    {"rollout", "Basic " + base64.StdEncoding.EncodeToString([]byte("flagger:nothing")), checkout, http.StatusUnauthorized},
		"unknown metadata": {"rollout", basic, map[string]string{"servcie": "checkout"}, http.StatusBadRequest},
	} {
		if got, body := post(tt.hook, tt.auth, 50, tt.metadata); got != tt.want {
			t.Errorf("%s: %d %s, want %d", what, got, body, tt.want)
		}
	}
	if code, _, _ := s.do(http.MethodGet, "/api/v1/decisions?digest="+string(next), map[string]string{"Authorization": basic}, nil); code != http.StatusUnauthorized {
		t.Errorf("a password at another door: %d", code)
	}
}

// TestThreat_Gate_AnothersRepository: who may ask about one repository learns nothing
// of another, nor by the workload that runs it.
func TestThreat_Gate_AnothersRepository(t *testing.T) {
	s := newSite(t, false, nil)
	s.apply(s.grantDoc("pusher", "me@example.com", "publisher", "**")+s.grantDoc("eve", "eve@example.com", "viewer", "evil/**")+s.policyDoc("me@example.com"), false)
	_, victim := s.image("shop/app", "v1", "a layer")
	s.deployed(deployment{"app", "v1", victim, 1})
	for what, q := range map[string]string{
		"image":    `{"service":"checkout","images":["` + s.host() + `/shop/app:v1"]}`,
		"workload": `{"service":"checkout","namespace":"shop","workload":"app"}`,
		"foreign":  `{"service":"checkout","images":["ghcr.io/shop/app:v1"]}`,
	} {
		code, _, body := s.do(http.MethodPost, "/api/v1/gate/canary", map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + s.token("eve@example.com", identity.AudienceAPI)}, strings.NewReader(q))
		want := http.StatusForbidden
		if what == "workload" {
			want = http.StatusServiceUnavailable // as of one that is not seen: a refusal would say that it runs
		}
		if code != want {
			t.Errorf("%s: %d %s, want %d", what, code, body, want)
		}
	}
}
