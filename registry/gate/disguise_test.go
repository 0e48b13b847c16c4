package gate_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/identity"
	"assay/registry"
	"assay/registry/gate"
	"assay/registry/registrytest"
	"assay/store"
)

// thing is a manifest of one layer, with media types of the test's choice.
type thing struct{ config, layer, content, artifactType string }

func (s *site) thing(c *registrytest.Client, repository string, x thing, subject []byte) []byte {
	s.t.Helper()
	conf := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
	doc := map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.ImageType,
		"config": map[string]any{"mediaType": x.config, "digest": c.PushBlob(repository, conf), "size": len(conf)},
		"layers": []any{map[string]any{"mediaType": x.layer, "digest": c.PushBlob(repository, x.content), "size": len(x.content)}},
	}
	if x.artifactType != "" {
		doc["artifactType"] = x.artifactType
	}
	if subject != nil {
		doc["subject"] = map[string]any{"mediaType": registrytest.ImageType, "digest": artifact.SHA256Of(subject), "size": len(subject)}
	}
	m, err := json.Marshal(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

const (
	ociConfig = "application/vnd.oci.image.config.v1+json"
	ociLayer  = "application/vnd.oci.image.layer.v1.tar"
	simple    = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// chart is what nobody runs as a container, and yet is consumed for itself.
var chart = thing{config: "application/vnd.cncf.helm.config.v1+json", layer: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", content: "a chart"}

// signedImage is what everybody sees, and what an attacker says to be evidence about.
func (s *site) signedImage(c *registrytest.Client, repository string) []byte {
	s.t.Helper()
	m := s.runnable(c, repository, "good")
	s.sign(c, repository, signer, m)
	want(s.t, "push what is signed", c.PutManifest(repository, "good", m), http.StatusCreated, "")
	get(s.t, "what is signed", s.as("reader"), repository, "good", http.StatusOK, "")
	return m
}

// TestThreat_Registry_ImageInDisguise: runtimes take layers of more media types
// than the specification's, in whichever case they are written. None of them
// makes an image pass as evidence about one that is signed.
func TestThreat_Registry_ImageInDisguise(t *testing.T) {
	s := one(t, staged, strict)
	for _, repo := range []string{"staged/app", "strict/app"} {
		owner, reader := s.as("owner"), s.as("reader")
		good := s.signedImage(owner, repo)
		for _, x := range []thing{
			{config: ociConfig, layer: "Application/VND.OCI.Image.Layer.v1.tar"},
			{config: "APPLICATION/vnd.oci.image.config.v1+json", layer: "application/octet-stream"},
			{config: ociConfig, layer: "application/vnd.oci.image.tar"},
			{config: ociConfig, layer: "application/x-anything"},
			{config: ociConfig, layer: "text/html"},
			{config: "application/octet-stream", layer: "application/octet-stream"},
			{config: "application/json", layer: "application/vnd.OCI.image.layer.v1.tar+zstd"},
			{config: ociConfig, layer: ociLayer, artifactType: bundleType},
			{config: ociConfig, layer: simple, content: "\x1f\x8b\x08\x00gzip of " + repo},
			{config: ociConfig, layer: "application/vnd.dsse.envelope.v1+json", content: "bin/sh\x00\x00\x00tar of " + repo},
		} {
			if x.content == "" {
				x.content = "evil " + x.layer
			}
			bySubject := s.thing(owner, repo, x, good)
			want(t, "push with a subject", owner.PutManifest(repo, digest(bySubject), bySubject), http.StatusCreated, "is staged")
			get(t, "an image with a subject: "+x.layer, reader, repo, digest(bySubject), http.StatusForbidden, "is staged")
			byTag := s.thing(owner, repo, x, nil)
			r := owner.PutManifest(repo, "sha256-"+artifact.SHA256Of(good).Hex()+".sig", byTag)
			if repo == "strict/app" {
				want(t, "push by a carrier tag", r, http.StatusForbidden, "is strict")
				continue
			}
			want(t, "push by a carrier tag", r, http.StatusCreated, "is staged")
			get(t, "an image under a carrier tag: "+x.layer, reader, repo, digest(byTag), http.StatusForbidden, "is staged")
			get(t, "the carrier tag: "+x.layer, reader, repo, "sha256-"+artifact.SHA256Of(good).Hex()+".sig", http.StatusForbidden, "is staged")
		}
		cosign := s.thing(owner, repo, thing{config: ociConfig, layer: simple, content: "payload äöü"}, nil)
		want(t, "a signature as cosign writes it", owner.PutManifest(repo, "sha256-"+artifact.SHA256Of(good).Hex()+".sig", cosign), http.StatusCreated, "")
		get(t, "a signature as cosign writes it", reader, repo, digest(cosign), http.StatusOK, "")
	}
}

// TestThreat_Registry_EvidenceByTagOfItsOwn: what has a tag of its own counts
// for itself, whatever it says to be evidence about, in whichever order it
// gets tag and subject.
func TestThreat_Registry_EvidenceByTagOfItsOwn(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		owner, reader := s.as("owner"), s.as("reader")
		for _, repo := range []string{"staged/app", "strict/app"} {
			isStrict := repo == "strict/app"
			good := s.signedImage(owner, repo)
			carrierTag := "sha256-" + artifact.SHA256Of(good).Hex() + ".sig"

			// With tag and subject at once.
			m := s.thing(owner, repo, chart, good)
			if isStrict {
				want(t, "subject and tag", owner.PutManifest(repo, "v9", m), http.StatusForbidden, "strict")
			} else {
				want(t, "subject and tag", owner.PutManifest(repo, "v9", m), http.StatusCreated, "is staged")
			}
			if r := reader.Do("GET", "/v2/"+repo+"/manifests/v9", ""); r.StatusCode == http.StatusOK {
				t.Errorf("%s: a tag names what nobody signed, since it has a subject", repo)
			}

			// First evidence, then a tag.
			x := chart
			x.content = "second of " + repo
			m = s.thing(owner, repo, x, good)
			want(t, "subject", owner.PutManifest(repo, digest(m), m), http.StatusCreated, "")
			get(t, "evidence", reader, repo, digest(m), http.StatusOK, "")
			if isStrict {
				want(t, "then a tag", owner.PutManifest(repo, "v8", m), http.StatusForbidden, "strict")
				get(t, "evidence stays evidence", reader, repo, digest(m), http.StatusOK, "")
				get(t, "the tag", reader, repo, "v8", http.StatusNotFound, "")
			} else {
				want(t, "then a tag", owner.PutManifest(repo, "v8", m), http.StatusCreated, "is staged")
				get(t, "the tag", reader, repo, "v8", http.StatusForbidden, "is staged")
				get(t, "the tag, for who pushed it", owner, repo, "v8", http.StatusOK, "")
			}
			s.sign(owner, repo, signer, m)
			want(t, "then a tag of what is signed", owner.PutManifest(repo, "v8", m), http.StatusCreated, "")
			get(t, "the tag", reader, repo, "v8", http.StatusOK, "")

			// First a tag that waits, then evidence.
			x.content = "third of " + repo
			m = s.thing(owner, repo, x, nil)
			if isStrict {
				want(t, "by digest", owner.PutManifest(repo, digest(m), m), http.StatusCreated, "is staged")
			} else {
				want(t, "a tag that waits", owner.PutManifest(repo, "v7", m), http.StatusCreated, "is staged")
			}
			want(t, "then a carrier tag", owner.PutManifest(repo, carrierTag, m), http.StatusCreated, "")
			if r := reader.Do("GET", "/v2/"+repo+"/manifests/v7", ""); r.StatusCode == http.StatusOK {
				t.Errorf("%s: a tag that waits was let out by a carrier tag", repo)
			}
		}
	}, staged, strict)
}

// TestThreat_Registry_CarrierTagHidesNothing: what is public for itself stays so
// when somebody who signs names it by a carrier tag of what is not here, and
// evidence stays evidence when somebody pushes it again.
func TestThreat_Registry_CarrierTagHidesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		s.Grant(t, "signer", identity.RoleSigner, repo)
		owner, reader := s.as("owner"), s.as("reader")
		good := s.signedImage(owner, repo)
		idx := index(t, good)
		want(t, "push the index", owner.PutManifest(repo, "all", idx), http.StatusCreated, "")
		s.sign(owner, repo, signer, idx)
		get(t, "index", reader, repo, "all", http.StatusOK, "")
		nothing := "sha256-" + artifact.SHA256Of([]byte("nothing")).Hex()
		want(t, "carrier tag", s.as("signer").PutManifest(repo, nothing, idx), http.StatusCreated, "")
		get(t, "index after a carrier tag", reader, repo, "all", http.StatusOK, "")

		sig := s.thing(owner, repo, thing{config: ociConfig, layer: simple, content: "payload"}, nil)
		want(t, "signature", owner.PutManifest(repo, "sha256-"+artifact.SHA256Of(good).Hex()+".sig", sig), http.StatusCreated, "")
		get(t, "signature", reader, repo, digest(sig), http.StatusOK, "")
		want(t, "the same by digest", owner.PutManifest(repo, digest(sig), sig), http.StatusCreated, "")
		get(t, "signature after it was pushed again", reader, repo, digest(sig), http.StatusOK, "")
	}, staged)
}

// TestThreat_Registry_AdoptedEvidenceWithTag: when a repository gets a gate, what
// has a tag of its own is judged, subject or not.
func TestThreat_Registry_AdoptedEvidenceWithTag(t *testing.T) {
	s := one(t)
	const repo = "later/app"
	owner, reader := s.as("owner"), s.as("reader")
	good := s.runnable(owner, repo, "good")
	s.sign(owner, repo, signer, good)
	want(t, "push", owner.PutManifest(repo, "good", good), http.StatusCreated, "")
	m := s.thing(owner, repo, chart, good)
	want(t, "subject and tag", owner.PutManifest(repo, "v9", m), http.StatusCreated, "")
	get(t, "without a gate", reader, repo, "v9", http.StatusOK, "")
	s.gate.Set(gate.Rules{Repositories: specs(t, config.RepositorySpec{Pattern: "later/**", Mode: config.ModeStaged}), Policies: policies(t, signed)})
	s.work()
	s.work()
	get(t, "what is signed", reader, repo, "good", http.StatusOK, "")
	get(t, "what is not", reader, repo, "v9", http.StatusForbidden, "")
}

// TestThreat_Registry_SignerPushesNoContent: the role that signs brings no
// content that counts for itself, by subject or by carrier tag.
func TestThreat_Registry_SignerPushesNoContent(t *testing.T) {
	s := one(t)
	const repo = "open/app"
	s.Grant(t, "signer", identity.RoleSigner, repo)
	owner, only := s.as("owner"), s.as("signer")
	good := s.runnable(owner, repo, "good")
	want(t, "push", owner.PutManifest(repo, "good", good), http.StatusCreated, "")
	evil := thing{config: ociConfig, layer: ociLayer, content: "evil"}
	m := s.thing(only, repo, evil, good)
	want(t, "an image with a subject", only.PutManifest(repo, digest(m), m), http.StatusForbidden, "create")
	m = s.thing(only, repo, evil, nil)
	want(t, "an image by a carrier tag", only.PutManifest(repo, "sha256-"+artifact.SHA256Of(good).Hex()+".sig", m), http.StatusForbidden, "create")
	sig := s.thing(only, repo, thing{config: ociConfig, layer: simple, content: "payload"}, nil)
	want(t, "a signature", only.PutManifest(repo, "sha256-"+artifact.SHA256Of(good).Hex()+".sig", sig), http.StatusCreated, "")
}

// TestThreat_Registry_OldSnapshotHidesNoBlock: a long look at the database, such
// as that of a list of many tags, sees what was, and nobody else goes by it.
func TestThreat_Registry_OldSnapshotHidesNoBlock(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		good := s.signedImage(s.as("owner"), repo)
		d := artifactOf(good)
		reader := identity.Principal{Kind: identity.KindUser, Issuer: issuer, Subject: "reader"}
		visible := func(tx *store.Tx) bool {
			ok, err := s.gate.Visible(t.Context(), tx, reader, repo, d)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if err := s.DB.View(t.Context(), func(old *store.Tx) error {
			var n int
			if err := old.QueryRow(t.Context(), `SELECT COUNT(*) FROM gate_block`).Scan(&n); err != nil {
				return err
			}
			s.pass(2e9) // it takes long
			if _, err := s.gate.Quarantine(t.Context(), d, "boss", "found to be bad"); err != nil {
				return err
			}
			visible(old)
			return s.DB.View(t.Context(), func(now *store.Tx) error {
				if visible(now) {
					t.Error("what is quarantined is served, since an older snapshot was looked at last")
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
	}, staged)
}

// TestThreat_Registry_QuarantinedBlob: a layer under quarantine is served to
// nobody, through whichever manifest of whichever repository, nor to who mounted
// it before, and comes back with the release.
func TestThreat_Registry_QuarantinedBlob(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.Grant(t, "reader", identity.RolePublisher, "mine")
		owner, reader := s.as("owner"), s.as("reader")
		for _, repo := range []string{"open/app", "staged/app"} {
			s.signedImage(owner, repo)
		}
		layer := artifact.SHA256Of([]byte("good"))
		want(t, "mount", reader.Do("POST", "/v2/mine/blobs/uploads/?from=open/app&mount="+string(layer), ""), http.StatusCreated, "")
		paths := []string{"open/app", "staged/app", "mine"}
		for _, repo := range paths {
			want(t, repo+" before", reader.Do("GET", "/v2/"+repo+"/blobs/"+string(layer), ""), http.StatusOK, "good")
		}
		if _, err := s.gate.Quarantine(t.Context(), layer, "boss", "malware in this layer"); err != nil {
			t.Fatal(err)
		}
		for _, repo := range paths {
			want(t, repo, reader.Do("GET", "/v2/"+repo+"/blobs/"+string(layer), ""), http.StatusNotFound, "")
			want(t, repo+" HEAD", reader.Do("HEAD", "/v2/"+repo+"/blobs/"+string(layer), ""), http.StatusNotFound, "")
		}
		want(t, "mount again", reader.Do("POST", "/v2/mine/blobs/uploads/?from=open/app&mount="+string(layer), ""), http.StatusAccepted, "")
		if _, err := s.gate.Release(t.Context(), layer, "boss", "false alarm"); err != nil {
			t.Fatal(err)
		}
		for _, repo := range paths {
			want(t, repo+" after", reader.Do("GET", "/v2/"+repo+"/blobs/"+string(layer), ""), http.StatusOK, "good")
		}
	}, staged)
}

// TestThreat_Registry_CarrierNameOfAnImage: a name as signatures have makes no
// image movable in an immutable repository, and no signature fixed.
func TestThreat_Registry_CarrierNameOfAnImage(t *testing.T) {
	s := one(t, config.RepositorySpec{Pattern: "fixed/**", Immutable: true})
	const repo = "fixed/app"
	s.Grant(t, "operator", identity.RoleOperator, "**")
	owner := s.as("owner")
	about := s.runnable(owner, repo, "about")
	want(t, "push", owner.PutManifest(repo, "v1", about), http.StatusCreated, "")
	for _, suffix := range []string{"", ".sig", ".att"} {
		tag := "sha256-" + artifact.SHA256Of(about).Hex() + suffix
		sig := func(content string) []byte {
			return s.thing(owner, repo, thing{config: ociConfig, layer: simple, content: content + suffix}, nil)
		}
		want(t, "a signature", owner.PutManifest(repo, tag, sig("one")), http.StatusCreated, "")
		want(t, "another", owner.PutManifest(repo, tag, sig("two")), http.StatusCreated, "")
		want(t, "an image in its place", owner.PutManifest(repo, tag, s.runnable(owner, repo, "a"+suffix)), http.StatusForbidden, "immutable")

		other := "sha256-" + artifact.SHA256Of([]byte("other")).Hex() + suffix
		want(t, "an image", owner.PutManifest(repo, other, s.runnable(owner, repo, "b"+suffix)), http.StatusCreated, "")
		want(t, "another image", owner.PutManifest(repo, other, s.runnable(owner, repo, "c"+suffix)), http.StatusForbidden, "immutable")
		want(t, "a signature in its place", owner.PutManifest(repo, other, sig("three")), http.StatusForbidden, "immutable")
		want(t, "deletion", s.as("operator").Do("DELETE", "/v2/"+repo+"/manifests/"+other, ""), http.StatusForbidden, "immutable")
	}
}

// TestHeldForTwo: the history names who pushed last of those whose pushes of one
// manifest waited.
func TestHeldForTwo(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "staged/app"
		s.Grant(t, "a-first", identity.RolePublisher, repo)
		s.Grant(t, "z-last", identity.RolePublisher, repo)
		first, owner, last := s.as("a-first"), s.as("owner"), s.as("z-last")
		m := s.runnable(first, repo, "x")
		want(t, "first", first.PutManifest(repo, "v1", m), http.StatusCreated, "is staged")
		want(t, "between", owner.PutManifest(repo, "v1", s.runnable(owner, repo, "y")), http.StatusCreated, "is staged")
		want(t, "last", last.PutManifest(repo, "v1", s.runnable(last, repo, "x")), http.StatusCreated, "is staged")
		s.sign(owner, repo, signer, m)
		if err := s.DB.View(t.Context(), func(tx *store.Tx) error {
			h, err := registry.History(t.Context(), tx, repo, "v1", 0, 1)
			if err == nil && (len(h) != 1 || !strings.Contains(h[0].Actor, "z-last") || h[0].Number != 3) {
				t.Errorf("history %+v, want the third push, by z-last", h)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}, staged)
}

// TestThreat_Registry_QuarantinedPartIsKept: what is under quarantine does not go
// with an index that is deleted, and goes once it is released.
func TestThreat_Registry_QuarantinedPartIsKept(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		const repo = "open/app"
		s.Grant(t, "operator", identity.RoleOperator, "**")
		owner := s.as("owner")
		bad, good := s.runnable(owner, repo, "bad"), s.runnable(owner, repo, "good")
		for _, m := range [][]byte{bad, good} {
			want(t, "push", owner.PutManifest(repo, digest(m), m), http.StatusCreated, "")
		}
		idx := index(t, bad, good)
		want(t, "push", owner.PutManifest(repo, "v1", idx), http.StatusCreated, "")
		if _, err := s.gate.Quarantine(t.Context(), artifactOf(bad), "boss", "looked into"); err != nil {
			t.Fatal(err)
		}
		want(t, "delete the index", s.as("operator").Do("DELETE", "/v2/"+repo+"/manifests/"+digest(idx), ""), http.StatusAccepted, "")
		left := func() (n int) {
			t.Helper()
			s.pass(time.Hour)
			if err := s.DB.Update(t.Context(), func(tx *store.Tx) error {
				gone, err := registry.RemovedBefore(t.Context(), tx, tx.Now(), 100)
				if err != nil {
					return err
				}
				for _, rm := range gone {
					if _, _, err := s.Registry.Follow(t.Context(), tx, rm, identity.System("collector")); err != nil {
						return err
					}
				}
				return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM registry_manifest WHERE repository = ?`, repo).Scan(&n)
			}); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := left(); n != 1 {
			t.Fatalf("%d manifests are left, want the one under quarantine", n)
		}
		if _, err := s.gate.Release(t.Context(), artifactOf(bad), "boss", "looked into"); err != nil {
			t.Fatal(err)
		}
		if n := left(); n != 0 {
			t.Fatalf("%d manifests are left after the release", n)
		}
	})
}
