package server

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/tuf"
	"assay/verify"
)

// decideAbout asks for a decision about a file by its digest.
func (s *testSite) decideAbout(d artifact.Digest) *verify.Report {
	s.t.Helper()
	var r verify.Report
	if err := s.admin.Verify(s.t.Context(), client.VerifyRequest{Digest: d}, &r); err != nil {
		s.t.Fatal(err)
	}
	return &r
}

func (s *testSite) eventsOf(kind event.Kind) (out []event.Event) {
	s.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for { // sealed within 100 ms
		got, err := s.events.Query(s.t.Context(), event.Filter{Kinds: []event.Kind{kind}, Limit: 100})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(got) > 0 || time.Now().After(deadline) {
			return got
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestRevoke revokes an identity through the API of a running server: every door
// refuses from the answer on, and what stood is decided anew without being asked
// for.
func TestRevoke(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			s := newSite(t, true, func(c *config.Config) {
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			})
			testRevoke(t, s)
		})
	}
}

func testRevoke(t *testing.T, s *testSite) {
	ctx := t.Context()
	s.apply(s.policyDoc("me@example.com"), false)
	d := artifact.SHA256Of([]byte("content"))
	bundle := s.sign("me@example.com", "content")
	if _, err := s.admin.Ingest(ctx, bundle, "team/app"); err != nil {
		t.Fatal(err)
	}
	late := s.sign("me@example.com", "later content")
	if r := s.decideAbout(d); !r.Allowed() {
		t.Fatalf("before: %+v", r.Checks)
	}
	scope := s.decideAbout(d).Scope
	if _, err := s.engine.Current(ctx, d, scope); err != nil {
		t.Fatal(err)
	}
	first, err := s.admin.Revocations(ctx)
	if err != nil || first.State != "current" || len(first.Entries) != 0 || first.LogIndex == nil {
		t.Fatalf("the first list: %+v, %v", first, err)
	}

	q := client.RevokeRequest{Plan: true, Entries: []client.Revocation{{
		Kind: "identity", Match: "exact", Issuer: s.issuer.URL(), Subject: "me@example.com", InvalidSince: time.Unix(0, 0), Reason: "laptop stolen",
	}}}
	// A plan changes nothing and says what would be lost.
	plan, err := s.admin.Revoke(ctx, q)
	if err != nil || !plan.Plan || plan.Added != 1 || plan.Attestations != 1 || plan.Artifacts != 1 || plan.Allowed != 1 || len(plan.Items) != 1 || plan.Items[0].Digest != d {
		t.Fatalf("plan: %+v, %v", plan, err)
	}
	if r := s.decideAbout(d); !r.Allowed() {
		t.Fatal("a plan is no revocation")
	}
	// Those who may not are refused; so is what is no entry.
	token := s.token("other@example.com", identity.AudienceAPI)
	b, _ := json.Marshal(q)
	if status, _, body := s.do(http.MethodPost, "/api/v1/trust/revocations", map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json"}, bytes.NewReader(b)); status != http.StatusForbidden {
		t.Errorf("by a publisher: %d %s", status, body)
	}
	q.Plan = false
	done, err := s.admin.Revoke(ctx, q)
	signed := time.Now()
	if err != nil || done.Version != first.Version+1 || done.LogIndex == nil || done.Attestations != 1 {
		t.Fatalf("revoked: %+v, %v", done, err)
	}

	// Memory and database alike refuse at once, the API denies, and ingest too.
	cur, err := s.engine.Current(ctx, d, scope)
	if err == nil && cur.Allowed() {
		t.Error("the decision that stood is still answered as an allow")
	}
	r := s.decideAbout(d)
	if r.Allowed() || len(r.Rejected) != 1 || r.Rejected[0].Code != revocation.CodeRevoked {
		t.Errorf("after: %+v", r)
	}
	if _, err := s.admin.Ingest(ctx, late, "team/app"); err == nil {
		t.Error("evidence of a revoked identity was taken in")
	}
	// What this takes is for the benchmarks to say; here it only must not hang.
	t.Logf("the doors took %v", time.Since(signed))
	// What stood is decided anew by itself.
	deadline := time.Now().Add(30 * time.Second)
	for {
		cur, err := s.engine.Current(ctx, d, scope)
		if err == nil && !cur.Allowed() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not decided anew: %+v, %v", cur, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	// The same again says nothing new.
	again, err := s.admin.Revoke(ctx, q)
	if err != nil || again.Added != 0 || again.Version != done.Version {
		t.Errorf("again: %+v, %v", again, err)
	}
	for kind, want := range map[event.Kind]int{event.TrustRevoked: 1, event.RevocationAffects: 1, event.SignerFirstSeen: 2} {
		if got := s.eventsOf(kind); len(got) != want {
			t.Errorf("%d events %s, want %d", len(got), kind, want)
		}
	}
	// TUF publishes it, and a client that knows the first root alone accepts it.
	st := s.Status(ctx)
	anchor, err := s.admin.TUFRoot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, root, err := tuf.FetchTargets(ctx, tuf.ClientOptions{URL: st.Services.TUF, Root: anchor, CacheDir: t.TempDir()}, tuf.TargetTrustedRoot, tuf.TargetRevocations)
	if err != nil {
		t.Fatal(err)
	}
	roles, err := tuf.ReadRoleKeys(root)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := trust.ParseTrustedRoot(got[tuf.TargetTrustedRoot])
	if err != nil {
		t.Fatal(err)
	}
	list, err := revocation.Open(ctx, got[tuf.TargetRevocations], revocation.Authority{Online: roles.Targets, Root: roles.Root, RootThreshold: roles.Threshold}, tr)
	if err != nil || list.List.Version != done.Version || len(list.List.Entries) != 1 || list.List.Entries[0].Requester == "" {
		t.Fatalf("by TUF: %+v, %v", list, err)
	}
	export, err := s.admin.SignedRevocations(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	carried, err := revocation.Open(ctx, export, revocation.Authority{Online: roles.Targets, Root: roles.Root, RootThreshold: roles.Threshold}, tr)
	if err != nil || carried.List.Use != revocation.Export || carried.List.Expires.Sub(carried.List.Issued.Time) != revocation.ExportValidity {
		t.Fatalf("to carry: %+v, %v", carried, err)
	}
	// It outlives the process.
	s.restart()
	if r := s.decideAbout(d); r.Allowed() {
		t.Error("after a restart the revocation is forgotten")
	}
	testReplace(t, s, d)
}

// testReplace takes the entry back: with the online key that is refused, with
// the root's it is not.
func testReplace(t *testing.T, s *testSite, d artifact.Digest) {
	ctx := t.Context()
	before := s.trust().revocations.List
	next := *before
	next.Version, next.Entries = before.Version+1, []revocation.Entry{}
	body, err := next.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	rootKey, err := s.keys.LoadOrCreate(ctx, keyTUFRoot)
	if err != nil {
		t.Fatal(err)
	}
	envelope := func(k crypto.Signer) []byte {
		e, err := attestation.SignDSSE(ctx, k, revocation.PayloadType, body)
		if err != nil {
			t.Fatal(err)
		}
		b, err := e.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := s.admin.ReplaceRevocations(ctx, envelope(s.tuf.Online())); err == nil {
		t.Error("the online key took an entry back")
	}
	// Not even from inside, past the API.
	narrowed, err := s.sealRevocations(ctx, next.Version, revocation.Online, next.Entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.putRevocations(ctx, "system:test", narrowed, nil, &client.RevokeAnswer{}); trust.Code(err) != revocation.CodeNarrowed {
		t.Errorf("narrowed by the online key: %v", err)
	}
	if r := s.decideAbout(d); r.Allowed() {
		t.Fatal("still revoked")
	}
	if _, err := s.admin.ReplaceRevocations(ctx, envelope(rootKey)); err != nil {
		t.Fatal(err)
	}
	if r := s.decideAbout(d); !r.Allowed() {
		t.Errorf("taken back by the root: %+v %+v", r.Checks, r.Rejected)
	}
	// And the renewal after it is the online key's again.
	if err := s.renewRevocationsAt(ctx, s.clock().Add(20*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if l := s.trust().revocations; l.List.Version != next.Version+1 || l.Root {
		t.Errorf("renewed: version %d, by the root: %v", l.List.Version, l.Root)
	}
}

// TestRevokedArtifact: no signature helps, and a policy that asks for nothing
// neither.
func TestRevokedArtifact(t *testing.T) {
	s := newSite(t, true, nil)
	s.apply(s.policyDoc("me@example.com"), false)
	d := artifact.SHA256Of([]byte("content"))
	if _, err := s.admin.Ingest(t.Context(), s.sign("me@example.com", "content"), ""); err != nil {
		t.Fatal(err)
	}
	if r := s.decideAbout(d); !r.Allowed() {
		t.Fatalf("before: %+v", r.Checks)
	}
	a, err := s.admin.Revoke(t.Context(), client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: d, InvalidSince: time.Now().Add(-time.Second), Reason: "backdoor"}}})
	if err != nil || a.Artifacts != 1 {
		t.Fatal(a, err)
	}
	r := s.decideAbout(d)
	if r.Allowed() {
		t.Error("a revoked artifact is allowed")
	}
	found := false
	for _, c := range r.Checks {
		found = found || c.Name == "trust/revoked"
	}
	if !found {
		t.Errorf("the trail does not say so: %+v", r.Checks)
	}
}

// TestThreat_Feed_StaleRevocationsDeny: a server whose list ended decides nothing
// but denials until it is renewed.
func TestThreat_Feed_StaleRevocationsDeny(t *testing.T) {
	s := newSite(t, true, nil)
	s.apply(s.policyDoc("me@example.com"), false)
	d := artifact.SHA256Of([]byte("content"))
	if _, err := s.admin.Ingest(t.Context(), s.sign("me@example.com", "content"), ""); err != nil {
		t.Fatal(err)
	}
	v := s.trust().verifier
	for after, want := range map[time.Duration]bool{time.Hour: false, 25 * time.Hour: true} {
		if _, stale, _ := v.Revocations(s.clock().Add(after)); stale != want {
			t.Errorf("after %v: stale %v, want %v", after, stale, want)
		}
	}
	if r := s.decideAbout(d); !r.Allowed() || r.ValidUntil.After(s.trust().revocations.List.Expires.Time) {
		t.Errorf("a decision must not outlive the list: %v, list until %v", r.ValidUntil, s.trust().revocations.List.Expires)
	}
}

// TestDamagedRevocations: a list in the database that is not this site's stops
// the server, since without it everything revoked would count again.
func TestDamagedRevocations(t *testing.T) {
	s := newSite(t, true, nil)
	ctx := t.Context()
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE trust_document SET body = ? WHERE kind = ?`, []byte(`{}`), string(trust.DocRevocations))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if srv, err := New(ctx, s.cfg, s.opts); !errors.Is(err, fault.Unverified) {
		if err == nil {
			_ = srv.Close()
		}
		t.Errorf("it starts: %v", err)
	}
}
