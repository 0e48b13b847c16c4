package gate_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/registry/gate"
	"assay/registry/registrytest"
)

var (
	staged = config.RepositorySpec{Pattern: "staged/**", Mode: config.ModeStaged}
	strict = config.RepositorySpec{Pattern: "strict/**", Mode: config.ModeStrict}
	dev    = config.RepositorySpec{Pattern: "dev/**", Profile: config.ProfileDev, ExpireAfter: time.Hour}
)

// TestThreat_Registry_StagedIsHiddenEverywhere: what waits is seen by who
// pushed it and those who sign, and by one rule in manifests, HEAD, lists,
// referrers, mounts and blobs; a signature makes it public, with its tag.
func TestThreat_Registry_StagedIsHiddenEverywhere(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		owner, reader := s.as("owner"), s.as("reader")
		s.Grant(t, "", identity.RoleViewer, repo)
		s.Grant(t, "signer", identity.RoleSigner, repo)
		m := s.runnable(owner, repo, "layer one")
		r := owner.PutManifest(repo, "v1", m)
		want(t, "push", r, http.StatusCreated, "is staged: there is no evidence")
		layer := digest([]byte("layer one"))
		for _, c := range []*registrytest.Client{owner, s.as("signer")} {
			get(t, "an insider's tag", c, repo, "v1", http.StatusOK, "")
			get(t, "an insider's digest", c, repo, digest(m), http.StatusOK, "")
			want(t, "an insider's blob", c.Do("GET", "/v2/"+repo+"/blobs/"+layer, ""), http.StatusOK, "")
		}
		get(t, "reader's tag", reader, repo, "v1", http.StatusForbidden, "is staged in repository "+repo)
		get(t, "reader's digest", reader, repo, digest(m), http.StatusForbidden, "no evidence about it yet")
		// Clients such as oras log in only when they are asked to.
		for _, ref := range []string{"v1", digest(m), "none"} {
			r := get(t, "nobody's", s.as(""), repo, ref, http.StatusUnauthorized, "not in repository")
			if c := r.Header.Get("WWW-Authenticate"); !strings.Contains(c, `scope="repository:staged/app:pull"`) {
				t.Errorf("nobody is asked %q", c)
			}
			token := s.anonymousToken(repo)
			r = s.as("").Do("GET", "/v2/"+repo+"/manifests/"+ref, "", "Authorization", "Bearer "+token)
			want(t, "anybody's", r, http.StatusNotFound, "not in repository")
		}
		want(t, "reader's HEAD", reader.Do("HEAD", "/v2/"+repo+"/manifests/v1", ""), http.StatusForbidden, "is staged")
		want(t, "reader's blob", reader.Do("GET", "/v2/"+repo+"/blobs/"+layer, ""), http.StatusNotFound, "")
		want(t, "reader's tags", reader.Do("GET", "/v2/"+repo+"/tags/list", ""), http.StatusOK, `"tags":[]`)
		want(t, "owner's tags", owner.Do("GET", "/v2/"+repo+"/tags/list?n=1", ""), http.StatusOK, `"tags":["v1"]`)
		s.Grant(t, "reader", identity.RolePublisher, "open/mine")
		want(t, "reader's mount", reader.Do("POST", "/v2/open/mine/blobs/uploads/?from="+repo+"&mount="+layer, ""), http.StatusAccepted, "")

		// A signature of somebody else changes nothing, and is no more public
		// than what it is about.
		wrong := s.sign(owner, repo, "mallory@example.com", m)
		get(t, "reader after a wrong signature", reader, repo, "v1", http.StatusForbidden, "policy signed: ")
		get(t, "reader's referrer", reader, repo, string(wrong), http.StatusNotFound, "")
		want(t, "reader's referrers", reader.Do("GET", "/v2/"+repo+"/referrers/"+digest(m), ""), http.StatusOK, `"manifests":[]`)

		s.sign(s.as("signer"), repo, signer, m)
		for what, c := range map[string]*registrytest.Client{"reader": reader, "anybody": s.as(""), "owner": owner} {
			if r := get(t, what, c, repo, "v1", http.StatusOK, ""); string(r.Body) != string(m) {
				t.Fatalf("%s got something else", what)
			}
			want(t, what+"'s blob", c.Do("GET", "/v2/"+repo+"/blobs/"+layer, ""), http.StatusOK, "layer one")
			want(t, what+"'s tags", c.Do("GET", "/v2/"+repo+"/tags/list", ""), http.StatusOK, `"tags":["v1"]`)
		}
		get(t, "reader's referrer now", reader, repo, string(wrong), http.StatusOK, "")
		if e := s.Events(t, event.ArtifactPromoted); len(e) != 1 || e[0].Digest != artifact.SHA256Of(m) {
			t.Fatalf("promotions: %+v", e)
		}
		if e := s.Events(t, event.TagMoved, event.TagHeld); len(e) != 2 || e[0].Kind != event.TagHeld || e[1].Kind != event.TagMoved {
			t.Fatalf("tags: %+v", e)
		}
	}, staged)
}

// TestSignatureFirst: evidence that was there before the push counts at once,
// in both modes.
func TestSignatureFirst(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		owner, reader := s.as("owner"), s.as("reader")
		for _, repo := range []string{"staged/app", "strict/app"} {
			m := s.runnable(owner, repo, "layer of "+repo)
			sig := s.sign(owner, repo, signer, m)
			get(t, "a signature without its subject", reader, repo, string(sig), http.StatusNotFound, "")
			r := owner.PutManifest(repo, "v1", m)
			want(t, "push", r, http.StatusCreated, "")
			if w := r.Header.Get("Warning"); w != "" {
				t.Errorf("Warning %q", w)
			}
			get(t, "pull", reader, repo, "v1", http.StatusOK, "")
			get(t, "the signature", reader, repo, string(sig), http.StatusOK, "")
		}
	}, staged, strict)
}

// TestStrict: a tag is refused until evidence allows it; nothing of the refused
// push stays; push by digest, sign, tag succeeds.
func TestStrict(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "strict/app"
		owner, reader := s.as("owner"), s.as("reader")
		m := s.runnable(owner, repo, "layer")
		want(t, "push by tag", owner.PutManifest(repo, "v1", m), http.StatusForbidden, "push by digest, sign it, then set the tag")
		want(t, "HEAD", owner.Do("HEAD", "/v2/"+repo+"/manifests/"+digest(m), ""), http.StatusNotFound, "")
		want(t, "push with a tag parameter", owner.PutManifest(repo, digest(m)+"?tag=v1", m), http.StatusForbidden, "policy signed")
		want(t, "push by digest", owner.PutManifest(repo, digest(m), m), http.StatusCreated, "is staged")
		get(t, "reader", reader, repo, digest(m), http.StatusForbidden, "is staged")
		want(t, "tag too early", owner.PutManifest(repo, "v1", m), http.StatusForbidden, "policy signed")
		s.sign(owner, repo, signer, m)
		want(t, "tag", owner.PutManifest(repo, "v1", m), http.StatusCreated, "")
		get(t, "reader", reader, repo, "v1", http.StatusOK, "")
		if e := s.Events(t, event.ArtifactDenied); len(e) < 3 {
			t.Fatalf("%d refusals on record, want the three pushes at least", len(e))
		}
	}, strict)
}

// TestThreat_Admission_SignedIndexUnsignedChild: a signature on an index covers
// what it is made of, and a child that is pulled by itself is judged as part of
// it; when the index falls, they fall with it.
func TestThreat_Admission_SignedIndexUnsignedChild(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		owner, reader := s.as("owner"), s.as("reader")
		a, b, alone := s.runnable(owner, repo, "a"), s.runnable(owner, repo, "b"), s.runnable(owner, repo, "alone")
		for _, m := range [][]byte{a, b, alone} {
			want(t, "push a child", owner.PutManifest(repo, digest(m), m), http.StatusCreated, "")
		}
		idx := index(t, a, b)
		want(t, "push the index", owner.PutManifest(repo, "v1", idx), http.StatusCreated, "")
		get(t, "child before", reader, repo, digest(a), http.StatusForbidden, "is staged")
		s.sign(owner, repo, signer, idx)
		for _, m := range [][]byte{idx, a, b} {
			get(t, "after", reader, repo, digest(m), http.StatusOK, "")
		}
		get(t, "what is in no index", reader, repo, digest(alone), http.StatusForbidden, "is staged")

		// Trust is taken away from the signature: index and children go.
		s.gate.Set(gate.Rules{Repositories: specs(t, staged), Policies: policies(t, strings.ReplaceAll(signed, "ci@", "other@"))})
		s.work()
		for _, m := range [][]byte{idx, a, b} {
			get(t, "after the policy", reader, repo, digest(m), http.StatusForbidden, "is rejected")
		}
		get(t, "by tag", reader, repo, "v1", http.StatusForbidden, "is rejected")
		get(t, "an insider looks", owner, repo, digest(a), http.StatusOK, "")
		// And come back, each once.
		s.gate.Set(gate.Rules{Repositories: specs(t, staged), Policies: policies(t, signed)})
		s.work()
		for _, m := range [][]byte{idx, a, b} {
			get(t, "again", reader, repo, digest(m), http.StatusOK, "")
		}
	}, staged)
}

// TestThreat_Registry_SubjectIsNoWayAround: an image that claims to be evidence
// about something public is judged like any other, and so is one under a
// carrier's tag.
func TestThreat_Registry_SubjectIsNoWayAround(t *testing.T) {
	s := one(t, staged)
	const repo = "staged/app"
	owner, reader := s.as("owner"), s.as("reader")
	good := s.runnable(owner, repo, "good")
	want(t, "push", owner.PutManifest(repo, "v1", good), http.StatusCreated, "")
	s.sign(owner, repo, signer, good)
	get(t, "good", reader, repo, "v1", http.StatusOK, "")
	var doc map[string]any
	if err := json.Unmarshal(s.runnable(owner, repo, "evil"), &doc); err != nil {
		t.Fatal(err)
	}
	hex := strings.TrimPrefix(digest(good), "sha256:")
	doc["subject"] = map[string]any{"mediaType": registrytest.ImageType, "digest": digest(good), "size": len(good)}
	doc["artifactType"] = "application/vnd.example.sbom"
	evil, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "push with a subject", owner.PutManifest(repo, digest(evil), evil), http.StatusCreated, "is staged")
	get(t, "evil", reader, repo, digest(evil), http.StatusForbidden, "is staged")
	for _, tag := range []string{"sha256-" + hex, "sha256-" + hex + ".sbom"} {
		want(t, "push as "+tag, owner.PutManifest(repo, tag, evil), http.StatusCreated, "")
		get(t, "evil as "+tag, reader, repo, tag, http.StatusForbidden, "is staged")
		want(t, "its layer", reader.Do("GET", "/v2/"+repo+"/blobs/"+digest([]byte("evil")), ""), http.StatusNotFound, "")
	}
	idx := index(t, evil)
	want(t, "an index under the fallback tag", owner.PutManifest(repo, "sha256-"+hex, idx), http.StatusCreated, "")
	get(t, "the list", reader, repo, "sha256-"+hex, http.StatusOK, "")
	get(t, "what it lists", reader, repo, digest(evil), http.StatusForbidden, "is staged")
}

// TestPromotionNeverOvertakesANewerPush: whichever of two pushes is signed
// first, the later one stands in the end.
func TestPromotionNeverOvertakesANewerPush(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		owner, reader := s.as("owner"), s.as("reader")
		a, b, c := s.runnable(owner, repo, "a"), s.runnable(owner, repo, "b"), s.runnable(owner, repo, "c")
		for _, m := range [][]byte{a, b, c} {
			want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		}
		at := func(what string, m []byte) {
			t.Helper()
			if r := get(t, what, reader, repo, "v1", http.StatusOK, ""); string(r.Body) != string(m) {
				t.Fatalf("%s: the tag names %s, want %s", what, r.Header.Get("Docker-Content-Digest"), digest(m))
			}
		}
		if r := get(t, "owner sees the newest", owner, repo, "v1", http.StatusOK, ""); string(r.Body) != string(c) {
			t.Fatal("the owner's tag is not the newest push")
		}
		s.sign(owner, repo, signer, b)
		at("after b", b)
		s.sign(owner, repo, signer, a)
		at("after a, which is older", b)
		get(t, "a by digest", reader, repo, digest(a), http.StatusOK, "")
		s.sign(owner, repo, signer, c)
		at("after c", c)
		// a is active: to push it again is a new push, which stands.
		want(t, "push a again", owner.PutManifest(repo, "v1", a), http.StatusCreated, "")
		at("a again", a)
		// Pushing what the tag names gives up what was waiting.
		d := s.runnable(owner, repo, "d")
		want(t, "push d", owner.PutManifest(repo, "v1", d), http.StatusCreated, "is staged")
		want(t, "push a once more", owner.PutManifest(repo, "v1", a), http.StatusCreated, "")
		s.sign(owner, repo, signer, d)
		at("d was overtaken", a)
		list, err := s.gate.History(t.Context(), repo, "v1", 0, 100, false)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range slices.Backward(list) {
			got = append(got, string(h.To))
		}
		if want := []string{digest(b), digest(c), digest(a)}; !slices.Equal(got, want) {
			t.Fatalf("history %v, want %v", got, want)
		}
	}, staged)
}

// TestNoPolicyDenies: a gate without a policy lets nothing in, and says so.
func TestNoPolicyDenies(t *testing.T) {
	s := one(t, staged, strict)
	s.gate.Set(gate.Rules{Repositories: specs(t, staged, strict)})
	owner := s.as("owner")
	m := s.runnable(owner, "strict/app", "x")
	want(t, "strict", owner.PutManifest("strict/app", "v1", m), http.StatusForbidden, "no policy applies")
	m = s.runnable(owner, "staged/app", "x")
	want(t, "staged", owner.PutManifest("staged/app", "v1", m), http.StatusCreated, "is staged")
	s.sign(owner, "staged/app", signer, m)
	get(t, "reader", s.as("reader"), "staged/app", "v1", http.StatusForbidden, "no policy applies")
}

// TestTimeLimit: what waits too long is rejected, and its tags no longer wait;
// to push it again begins anew.
func TestTimeLimit(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "short/app"
		owner, reader := s.as("owner"), s.as("reader")
		m := s.runnable(owner, repo, "x")
		want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		s.pass(59 * time.Minute)
		s.work()
		get(t, "still waiting", reader, repo, "v1", http.StatusForbidden, "is staged")
		s.pass(2 * time.Minute)
		s.work()
		get(t, "given up", reader, repo, digest(m), http.StatusForbidden, "waited for evidence")
		get(t, "its tag", owner, repo, "v1", http.StatusNotFound, "")
		want(t, "push again", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		s.sign(owner, repo, signer, m)
		get(t, "signed", reader, repo, "v1", http.StatusOK, "")
		s.pass(24 * time.Hour)
		s.work()
		get(t, "active does not expire", reader, repo, "v1", http.StatusOK, "")
	}, config.RepositorySpec{Pattern: "short/**", Mode: config.ModeStaged, StagedFor: time.Hour})
}

// TestDevProfile: unsigned content is public at once, expires by age, and no
// environment but a development one takes it.
func TestDevProfile(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "dev/app"
		owner, reader := s.as("owner"), s.as("reader")
		m := s.runnable(owner, repo, "x")
		want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "profile dev")
		get(t, "reader", reader, repo, "v1", http.StatusOK, "")
		s.pass(time.Hour + time.Second)
		get(t, "expired, before any worker came by", reader, repo, "v1", http.StatusForbidden, "expired")
		s.work()
		get(t, "expired", reader, repo, "v1", http.StatusForbidden, "expired by age")
		want(t, "push again", owner.PutManifest(repo, "v1", m), http.StatusCreated, "")
		get(t, "reader", reader, repo, "v1", http.StatusOK, "")
		for _, e := range s.Events(t, event.ArtifactPushed) {
			if !strings.Contains(string(e.Body.(json.RawMessage)), `"profile":"dev"`) {
				t.Errorf("the record of the push does not say dev: %s", e.Body)
			}
		}
	}, dev)
}

// TestImmutable: a tag that is set stays, in every mode; signatures grow.
func TestImmutable(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.Grant(t, "owner", identity.RoleOperator, "**")
		owner := s.as("owner")
		for _, repo := range []string{"fixed/app", "whole/app"} {
			a, b := s.runnable(owner, repo, "a"), s.runnable(owner, repo, "b")
			want(t, "push", owner.PutManifest(repo, "v1.0", a), http.StatusCreated, "")
			want(t, "push the same again", owner.PutManifest(repo, "v1.0", a), http.StatusCreated, "")
			want(t, "move", owner.PutManifest(repo, "v1.0", b), http.StatusForbidden, "is immutable")
			want(t, "delete the tag", owner.Do("DELETE", "/v2/"+repo+"/manifests/v1.0", ""), http.StatusForbidden, "is immutable")
			want(t, "delete the manifest", owner.Do("DELETE", "/v2/"+repo+"/manifests/"+digest(a), ""), http.StatusForbidden, "is immutable")
			carrier := "sha256-" + strings.TrimPrefix(digest(a), "sha256:") + ".sig"
			for _, layer := range []string{"one", "two"} {
				owner.PushImage(repo, carrier, registrytest.Image{Layer: layer})
			}
			get(t, "tag", owner, repo, "v1.0", http.StatusOK, "")
		}
		m := s.runnable(owner, "fixed/app", "b")
		want(t, "another tag", owner.PutManifest("fixed/app", "latest", m), http.StatusCreated, "")
		want(t, "moves", owner.PutManifest("fixed/app", "latest", s.runnable(owner, "fixed/app", "c")), http.StatusCreated, "")

		// Staged: the tag is set by the promotion, and stays from then on.
		const repo = "stagedfixed/app"
		a, b, c := s.runnable(owner, repo, "a"), s.runnable(owner, repo, "b"), s.runnable(owner, repo, "c")
		for _, m := range [][]byte{a, b} {
			want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		}
		s.sign(owner, repo, signer, a)
		s.sign(owner, repo, signer, b)
		if r := get(t, "reader", s.as("reader"), repo, "v1", http.StatusOK, ""); string(r.Body) != string(a) {
			t.Fatal("an immutable tag moved by a promotion")
		}
		want(t, "push over it", owner.PutManifest(repo, "v1", c), http.StatusForbidden, "is immutable")
	}, config.RepositorySpec{Pattern: "fixed/**", ImmutableTags: []string{"v*"}}, config.RepositorySpec{Pattern: "whole/**", Immutable: true},
		config.RepositorySpec{Pattern: "stagedfixed/**", Mode: config.ModeStaged, ImmutableTags: []string{"v*"}})
}

// TestByHand: an approver's word holds for its time, over re-scans, and below a
// quarantine.
func TestByHand(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		owner, reader := s.as("owner"), s.as("reader")
		m := s.runnable(owner, repo, "x")
		want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		d := artifact.SHA256Of(m)
		if err := s.gate.PromoteByHand(t.Context(), repo, d, "boss", "", time.Hour); err == nil {
			t.Fatal("promoted without a reason")
		}
		if err := s.gate.PromoteByHand(t.Context(), repo, d, "boss", "hotfix, INC-1", time.Hour); err != nil {
			t.Fatal(err)
		}
		get(t, "reader", reader, repo, "v1", http.StatusOK, "")
		if err := s.gate.Rescan(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.work()
		get(t, "after a re-scan", reader, repo, "v1", http.StatusOK, "")
		st, err := s.gate.Status(t.Context(), repo, "v1", "")
		if err != nil || st.State != gate.Active || st.Basis != "hand" || st.Reason != "hotfix, INC-1" || len(st.Checks) == 0 {
			t.Fatalf("%+v, %v", st, err)
		}
		s.pass(61 * time.Minute)
		s.work()
		get(t, "after its time", reader, repo, "v1", http.StatusForbidden, "is rejected")
	}, staged)
}

// TestStaleKeepsTheLastVerdict: roots or lists that are too old are no reason to
// take away what was good, and let nothing new in.
func TestStaleKeepsTheLastVerdict(t *testing.T) {
	s := one(t, staged)
	const repo = "staged/app"
	owner, reader := s.as("owner"), s.as("reader")
	good, late := s.runnable(owner, repo, "good"), s.runnable(owner, repo, "late")
	want(t, "push", owner.PutManifest(repo, "v1", good), http.StatusCreated, "")
	s.sign(owner, repo, signer, good)
	s.stale.Store(true)
	want(t, "push", owner.PutManifest(repo, "v2", late), http.StatusCreated, "")
	s.sign(owner, repo, signer, late)
	if err := s.gate.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.work()
	get(t, "what was active", reader, repo, "v1", http.StatusOK, "")
	get(t, "what is new", reader, repo, "v2", http.StatusForbidden, "stale")
	s.stale.Store(false)
	s.pass(time.Minute)
	s.work()
	get(t, "fresh again", reader, repo, "v2", http.StatusOK, "")
}

// TestAdopt: a repository that gets a gate keeps what evidence allows, once the
// worker has come by, and hides the rest; without the gate all is open again.
func TestAdopt(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		s.gate.Set(gate.Rules{Policies: policies(t, signed)})
		s.work()
		owner, reader := s.as("owner"), s.as("reader")
		good, bad := s.runnable(owner, repo, "good"), s.runnable(owner, repo, "bad")
		want(t, "push", owner.PutManifest(repo, "good", good), http.StatusCreated, "")
		want(t, "push", owner.PutManifest(repo, "bad", bad), http.StatusCreated, "")
		sig := s.sign(owner, repo, signer, good)
		get(t, "open", reader, repo, "bad", http.StatusOK, "")
		s.gate.Set(gate.Rules{Repositories: specs(t, staged), Policies: policies(t, signed)})
		get(t, "not judged yet", reader, repo, "good", http.StatusForbidden, "not judged yet")
		s.work()
		get(t, "good", reader, repo, "good", http.StatusOK, "")
		get(t, "its signature", reader, repo, string(sig), http.StatusOK, "")
		get(t, "bad", reader, repo, "bad", http.StatusForbidden, "is staged")
		s.gate.Set(gate.Rules{Policies: policies(t, signed)})
		s.work()
		get(t, "open again", reader, repo, "bad", http.StatusOK, "")
	})
}

// TestEvidenceByAnotherDoor: evidence that is handed in elsewhere, in another
// repository, counts for the digest wherever it waits.
func TestEvidenceByAnotherDoor(t *testing.T) {
	s := one(t, staged)
	owner := s.as("owner")
	m := s.runnable(owner, "staged/a", "x")
	s.runnable(owner, "staged/b", "x")
	for _, repo := range []string{"staged/a", "staged/b"} {
		want(t, "push", owner.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
	}
	s.sign(owner, "staged/a", signer, m)
	get(t, "b, before anybody heard", s.as("reader"), "staged/b", "v1", http.StatusForbidden, "")
	s.Events(t, event.AttestationIngested) // seals
	ctx, stop := contextFor(t)
	done := make(chan error, 1)
	go func() { done <- s.gate.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r := s.as("reader").Do("GET", "/v2/staged/b/manifests/v1", ""); r.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not promoted in the other repository")
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestHistoryIsProved: each move of a tag is under a head that can be logged,
// and the proof says so to one who does not believe the server.
func TestHistoryIsProved(t *testing.T) {
	s := one(t)
	owner := s.as("owner")
	for _, layer := range []string{"a", "b", "c"} {
		want(t, "push", owner.PutManifest("open/app", "v1", s.runnable(owner, "open/app", layer)), http.StatusCreated, "")
	}
	s.Events(t) // seals
	head, err := s.events.LastHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.events.MarkLogged(t.Context(), head, 42); err != nil {
		t.Fatal(err)
	}
	list, err := s.gate.History(t.Context(), "open/app", "v1", 0, 10, true)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d moves, %v", len(list), err)
	}
	for _, h := range list {
		if h.LogIndex == nil || *h.LogIndex != 42 || h.Proof == nil {
			t.Fatalf("%+v", h)
		}
		got, err := h.Proof.Verify()
		if err != nil || got.Hash != head.Hash {
			t.Fatalf("proof: %v, ends at %s, want %s", err, got.Hash, head.Hash)
		}
		h.Proof.Leaf = strings.Replace(h.Proof.Leaf, "v1", "v2", 1)
		if _, err := h.Proof.Verify(); err == nil {
			t.Fatal("a record that was changed is proved")
		}
	}
}
