package gate_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry/gate"
	"assay/registry/registrytest"
	"assay/store"
	"assay/trust"
	"assay/verify"
)

// TestThreat_Registry_QuarantineReachesEverywhere: a digest under quarantine is
// served nowhere: in no repository, open or not, not its parts, not the blobs
// that only they hold, not by a mount, not by its uploader, and it cannot be
// pushed elsewhere. Release undoes it; a revocation stays.
func TestThreat_Registry_QuarantineReachesEverywhere(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.Grant(t, "investigator", identity.RoleOperator, "**")
		owner, reader, inv := s.as("owner"), s.as("reader"), s.as("investigator")
		var idx, child []byte
		repos := []string{"staged/app", "open/app"}
		for _, repo := range repos {
			child = s.runnable(owner, repo, "bad layer")
			want(t, "push", owner.PutManifest(repo, digest(child), child), http.StatusCreated, "")
			idx = index(t, child)
			want(t, "push", owner.PutManifest(repo, "v1", idx), http.StatusCreated, "")
		}
		sig := s.sign(owner, "staged/app", signer, idx)
		other := s.runnable(owner, "open/app", "good layer")
		want(t, "push", owner.PutManifest("open/app", "good", other), http.StatusCreated, "")
		for _, repo := range repos {
			get(t, "before", reader, repo, "v1", http.StatusOK, "")
			get(t, "before", reader, repo, digest(child), http.StatusOK, "")
		}

		d := artifact.SHA256Of(idx)
		if _, err := s.gate.Quarantine(t.Context(), d, "inv", ""); !errors.Is(err, fault.Invalid) {
			t.Fatalf("without a reason: %v", err)
		}
		out, err := s.gate.Quarantine(t.Context(), d, "inv", "INC-7: tampered")
		if err != nil || out.Parts != 1 || len(out.Places) != 2 || out.Already {
			t.Fatalf("%+v, %v", out, err)
		}
		if again, err := s.gate.Quarantine(t.Context(), d, "inv", "INC-7: tampered"); err != nil || !again.Already {
			t.Fatalf("again: %+v, %v", again, err)
		}
		layer := digest([]byte("bad layer"))
		for _, repo := range repos {
			for who, cl := range map[string]*registrytest.Client{"reader": reader, "owner": owner, "investigator": inv} {
				get(t, who+" by tag", cl, repo, "v1", http.StatusForbidden, "is quarantined since")
				get(t, who+" the part", cl, repo, digest(child), http.StatusForbidden, "as part of "+string(d))
				want(t, who+" HEAD", cl.Do("HEAD", "/v2/"+repo+"/manifests/"+string(d), ""), http.StatusForbidden, "INC-7")
				want(t, who+" the blob", cl.Do("GET", "/v2/"+repo+"/blobs/"+layer, ""), http.StatusNotFound, "")
			}
		}
		get(t, "anybody else's image", reader, "open/app", "good", http.StatusOK, "")
		want(t, "a shared blob", reader.Do("GET", "/v2/open/app/blobs/"+digest([]byte("good layer")), ""), http.StatusOK, "")
		want(t, "mount", owner.Do("POST", "/v2/open/other/blobs/uploads/?from=open/app&mount="+layer, ""), http.StatusAccepted, "")
		s.runnable(owner, "open/other", "bad layer")
		want(t, "push elsewhere", owner.PutManifest("open/other", "v1", child), http.StatusForbidden, "is quarantined")
		// The evidence about it is for those who look into it.
		get(t, "the signature, to an investigator", inv, "staged/app", string(sig), http.StatusOK, "")
		get(t, "the signature, to a reader", reader, "staged/app", string(sig), http.StatusNotFound, "")

		s.Events(t) // seals
		pulls, more, err := s.gate.Pulls(t.Context(), d)
		if err != nil || more || len(pulls) < 4 {
			t.Fatalf("%d pulls, %v, %v", len(pulls), more, err)
		}
		for _, p := range pulls {
			if !strings.HasSuffix(p.Actor, "#reader") || p.Repository == "" || p.Time.IsZero() || p.Address != "127.0.0.1" {
				t.Errorf("pull %+v", p)
			}
		}
		if _, err := s.gate.Release(t.Context(), artifact.SHA256Of(child), "inv", "was wrong"); !errors.Is(err, fault.Conflict) {
			t.Fatalf("release of a part: %v", err)
		}
		if out, err := s.gate.Release(t.Context(), d, "inv", "false alarm"); err != nil || out.Released != 2 {
			t.Fatalf("%+v, %v", out, err)
		}
		for _, repo := range repos {
			get(t, "released", reader, repo, "v1", http.StatusOK, "")
			get(t, "released", reader, repo, digest(child), http.StatusOK, "")
		}
		if _, err := s.gate.Revoke(t.Context(), d, "inv", "INC-8: for good"); err != nil {
			t.Fatal(err)
		}
		get(t, "revoked", reader, "open/app", "v1", http.StatusForbidden, "is revoked")
		if _, err := s.gate.Release(t.Context(), d, "inv", "please"); !errors.Is(err, fault.Denied) {
			t.Fatalf("release of a revocation: %v", err)
		}
		if n := len(s.Events(t, event.ArtifactQuarantined, event.ArtifactReleased, event.ArtifactRevoked)); n != 3 {
			t.Fatalf("%d events, want 3", n)
		}
	}, staged)
}

// TestThreat_Registry_BlockIsSeenByOtherReplicas: a gate that did nothing but
// serve from memory refuses within a second what another process blocks.
func TestThreat_Registry_BlockIsSeenByOtherReplicas(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		owner := s.as("owner")
		m := s.runnable(owner, "staged/app", "x")
		want(t, "push", owner.PutManifest("staged/app", "v1", m), http.StatusCreated, "")
		s.sign(owner, "staged/app", signer, m)
		other, err := gate.New(gate.Options{DB: s.DB, Access: s.Access, Judge: s.engine, Clock: s.clock})
		if err != nil {
			t.Fatal(err)
		}
		other.Set(gate.Rules{Repositories: specs(t, staged), Policies: policies(t, signed)})
		reader := identity.Principal{Issuer: "https://issuer.test", Subject: "reader", Kind: identity.KindUser}
		sees := func() (ok bool) {
			t.Helper()
			if err := s.DB.View(t.Context(), func(tx *store.Tx) (err error) {
				ok, err = other.Visible(t.Context(), tx, reader, "staged/app", artifact.SHA256Of(m))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if !sees() {
			t.Fatal("not seen at first")
		}
		if _, err := s.gate.Quarantine(t.Context(), artifact.SHA256Of(m), "inv", "INC-9"); err != nil {
			t.Fatal(err)
		}
		s.pass(900 * time.Millisecond)
		if sees() {
			t.Fatal("the other replica serves it still, 900 ms later")
		}
		if _, err := s.gate.Release(t.Context(), artifact.SHA256Of(m), "inv", "INC-9 over"); err != nil {
			t.Fatal(err)
		}
		// The same for a state.
		s.pass(900 * time.Millisecond)
		if !sees() {
			t.Fatal("not seen after the release")
		}
		s.gate.Set(gate.Rules{Repositories: specs(t, staged)})
		s.work()
		s.pass(900 * time.Millisecond)
		if sees() {
			t.Fatal("the other replica shows what was rejected 900 ms ago")
		}
	}, staged)
}

// TestTrustRevocations: a digest on the site's revocation list is blocked with
// its parts from its time on, and served again when the list no longer names it.
func TestTrustRevocations(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		owner := s.as("owner")
		child := s.runnable(owner, "open/app", "x")
		want(t, "push", owner.PutManifest("open/app", digest(child), child), http.StatusCreated, "")
		idx := index(t, child)
		want(t, "push", owner.PutManifest("open/app", "v1", idx), http.StatusCreated, "")
		var mu sync.Mutex
		var list []gate.Revocation
		g, err := gate.New(gate.Options{DB: s.DB, Access: s.Access, Judge: s.engine, Clock: s.clock,
			Revocations: func(ctx context.Context) ([]gate.Revocation, int64, error) {
				mu.Lock()
				defer mu.Unlock()
				var epoch int64
				err := s.DB.View(ctx, func(tx *store.Tx) (err error) { epoch, err = trust.Epoch(ctx, tx); return err })
				return list, epoch, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		change := func(to ...gate.Revocation) {
			t.Helper()
			mu.Lock()
			list = to
			mu.Unlock()
			if err := s.DB.Update(t.Context(), func(tx *store.Tx) error {
				_, err := trust.RaiseEpoch(t.Context(), tx, "test")
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		work := func() {
			t.Helper()
			if err := g.Work(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			s.pass(time.Second)
		}
		reader := s.as("reader")
		change(gate.Revocation{Digest: artifact.SHA256Of(idx), Reason: "built by a stolen key", Since: s.clock().Add(time.Hour)})
		work()
		get(t, "not yet", reader, "open/app", "v1", http.StatusOK, "")
		s.pass(time.Hour)
		work()
		get(t, "by tag", reader, "open/app", "v1", http.StatusForbidden, "stolen key")
		get(t, "the part", reader, "open/app", digest(child), http.StatusForbidden, "is revoked")
		change()
		work()
		get(t, "no longer on the list", reader, "open/app", "v1", http.StatusOK, "")
	})
}

// failing is a Judge that finds no answer.
type failing struct{}

func (failing) Decide(context.Context, verify.Target, policy.Scope, *policy.Policy) (*verify.Decision, error) {
	return nil, fault.Newf(fault.Undecided, "the database of advisories is away")
}

func (failing) Draft(context.Context, verify.Target, policy.Scope, *policy.Policy) (*verify.Draft, error) {
	return nil, fault.Newf(fault.Undecided, "the database of advisories is away")
}

func (failing) Facts(context.Context, string) (*policy.Facts, error) {
	return nil, fault.Newf(fault.NotFound, "none")
}

// TestUndecidedKeepsTheLastVerdict: when a re-scan cannot decide, what is public
// stays so and what is staged does too.
func TestUndecidedKeepsTheLastVerdict(t *testing.T) {
	s := one(t, staged)
	owner := s.as("owner")
	m, n := s.runnable(owner, "staged/app", "x"), s.runnable(owner, "staged/app", "y")
	want(t, "push", owner.PutManifest("staged/app", "v1", m), http.StatusCreated, "")
	want(t, "push", owner.PutManifest("staged/app", "v2", n), http.StatusCreated, "")
	s.sign(owner, "staged/app", signer, m)
	g, err := gate.New(gate.Options{DB: s.DB, Access: s.Access, Judge: failing{}, Clock: s.clock})
	if err != nil {
		t.Fatal(err)
	}
	g.Set(gate.Rules{Repositories: specs(t, staged), Policies: policies(t, signed)})
	if err := g.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Work(t.Context(), true); !errors.Is(err, fault.Undecided) {
		t.Fatalf("%v, want that nothing was decided", err)
	}
	get(t, "public", s.as("reader"), "staged/app", "v1", http.StatusOK, "")
	get(t, "staged", s.as("reader"), "staged/app", "v2", http.StatusForbidden, "is staged")
	if err := g.Work(t.Context(), true); err != nil {
		t.Fatalf("tried again at once: %v", err)
	}
}
