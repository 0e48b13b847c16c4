package collect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/collect"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

type site struct {
	*registrytest.Server
	*collect.Collector
	clock *atomic.Int64 // how far the collector's clock is ahead
}

func start(t *testing.T, db *store.DB, change func(*collect.Options), opts ...registrytest.Option) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, registry.Migrations, collect.Migrations); err != nil {
		t.Fatal(err)
	}
	s := &site{Server: registrytest.Start(t, db, opts...), clock: &atomic.Int64{}}
	o := collect.Options{
		DB: db, Blobs: s.Blobs, Registry: s.Registry, Grace: time.Hour, Rate: 1 << 20,
		Clock: func() time.Time { return time.Now().Add(time.Duration(s.clock.Load())) },
	}
	if change != nil {
		change(&o)
	}
	var err error
	if s.Collector, err = collect.New(o); err != nil {
		t.Fatal(err)
	}
	s.Grant(t, "owner", identity.RoleAdmin, "**")
	return s
}

func (s *site) ahead(d time.Duration) { s.clock.Add(int64(d)) }

func (s *site) collect(t *testing.T, q collect.Request) *collect.Report {
	t.Helper()
	r, err := s.Collect(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// stored lists the blobs that are there.
func (s *site) stored(t *testing.T) map[artifact.Digest]bool {
	t.Helper()
	out := map[artifact.Digest]bool{}
	if err := s.Blobs.Walk(t.Context(), func(i blob.Info) error { out[i.Digest] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// age makes all that is stored old, and what clients uploaded.
func (s *site) age(t *testing.T) {
	t.Helper()
	old := time.Now().Add(-48 * time.Hour)
	for d := range s.stored(t) {
		if err := os.Chtimes(filepath.Join(s.Folder, "sha256", d.Hex()[:2], d.Hex()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DB.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE registry_upload SET uploaded_at = ?`, old)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func digest(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }

func gone(c *registrytest.Client, repository string, d artifact.Digest) int {
	return c.Do("DELETE", "/v2/"+repository+"/manifests/"+string(d), "").StatusCode
}

// TestNothingThatIsNeededGoes: tagged and untagged images, indexes, referrers,
// and blobs that only another domain needs stay, however often and late it is
// collected.
func TestNothingThatIsNeededGoes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		elsewhere := digest("another domain's")
		s := start(t, db, func(o *collect.Options) {
			o.Roots = []collect.Root{func(_ context.Context, _ *store.Tx, digests []artifact.Digest, keep func(artifact.Digest)) error {
				for _, d := range digests {
					if d == elsewhere {
						keep(d)
					}
				}
				return nil
			}}
		})
		c := s.Client(t, "owner")
		image := c.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		c.PushImage("team/app", "", registrytest.Image{Layer: "two"})
		c.PushImage("team/app", "", registrytest.Image{Layer: "three", Subject: image, ArtifactType: "application/x"})
		c.PushImage("team/app", "", registrytest.Image{Layer: "first", Subject: digest("never here"), ArtifactType: "application/x"})
		if _, err := blob.Put(t.Context(), s.Blobs, []byte("another domain's")); err != nil {
			t.Fatal(err)
		}
		before := s.stored(t)
		for range 5 {
			s.ahead(48 * time.Hour)
			if r := s.collect(t, collect.Request{}); r.Deleted+r.Manifests != 0 {
				t.Fatalf("deleted %+v", r)
			}
		}
		if diff := cmp.Diff(before, s.stored(t)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestDeletedImageGoesWithItsEvidence goes the whole way of an index with two
// images, a referrer, a signature of the older form and a referrer of that
// referrer.
func TestDeletedImageGoesWithItsEvidence(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		stays := c.PushImage("team/app", "v2", registrytest.Image{Layer: "shared"})
		a := c.PushImage("team/app", "", registrytest.Image{Layer: "shared", Annotations: map[string]string{"a": "a"}})
		b := c.PushImage("team/app", "keep", registrytest.Image{Layer: "b"})
		size := func(d artifact.Digest) int64 {
			i, err := s.Blobs.Stat(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			return i.Size
		}
		index, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": registrytest.IndexType, "manifests": []any{
			map[string]any{"mediaType": registrytest.ImageType, "digest": a, "size": size(a)},
			map[string]any{"mediaType": registrytest.ImageType, "digest": b, "size": size(b)},
		}})
		if r := c.PutManifest("team/app", "v1", index); r.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", r.Status, r.Body)
		}
		i := artifact.SHA256Of(index)
		evidence := c.PushImage("team/app", "", registrytest.Image{Layer: "evidence", Subject: i, ArtifactType: "application/x"})
		about := c.PushImage("team/app", "", registrytest.Image{Layer: "about evidence", Subject: evidence, ArtifactType: "application/x"})
		sig := c.PushImage("team/app", "sha256-"+i.Hex()+".sig", registrytest.Image{Layer: "old form"})
		named := c.PushImage("team/app", "sbom-v1", registrytest.Image{Layer: "named evidence", Subject: i, ArtifactType: "application/x"})

		if got := gone(c, "team/app", i); got != http.StatusAccepted {
			t.Fatalf("delete: %d", got)
		}
		if r := s.collect(t, collect.Request{}); r.Manifests != 0 || r.Deleted != 0 {
			t.Fatalf("in the grace: %+v", r)
		}
		for range 4 {
			s.ahead(25 * time.Hour)
			if dry := s.collect(t, collect.Request{DryRun: true}); dry.Freed != 0 && dry.Deleted == 0 {
				t.Fatalf("dry run %+v", dry)
			}
			s.collect(t, collect.Request{})
		}
		for d, want := range map[artifact.Digest]int{stays: 200, b: 200, named: 200, i: 404, a: 404, evidence: 404, about: 404, sig: 404} {
			if got := c.Do("GET", "/v2/team/app/manifests/"+string(d), "").StatusCode; got != want {
				t.Errorf("%s: %d, want %d", d, got, want)
			}
		}
		have := s.stored(t)
		for d, want := range map[artifact.Digest]bool{
			stays: true, digest("shared"): true, b: true, digest("b"): true, named: true, digest("named evidence"): true,
			i: false, a: false, evidence: false, digest("evidence"): false, about: false, digest("about evidence"): false, sig: false, digest("old form"): false,
		} {
			if have[d] != want {
				t.Errorf("blob %s is there: %v, want %v", d, have[d], want)
			}
		}
		var tags struct{ Tags []string }
		if err := json.Unmarshal(c.Do("GET", "/v2/team/app/tags/list", "").Body, &tags); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"keep", "sbom-v1", "v2"}, tags.Tags); diff != "" {
			t.Error(diff)
		}
		if n := len(s.Events(t, event.BlobsCollected)); n == 0 {
			t.Error("no event of what was collected")
		}
	})
}

// TestComesBackInTheGrace: what is pushed again in its grace stays with its
// evidence, and a blob that is only marked is pushed without being noticed.
func TestComesBackInTheGrace(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		image := c.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		evidence := c.PushImage("team/app", "", registrytest.Image{Layer: "evidence", Subject: image, ArtifactType: "application/x"})
		s.age(t)
		gone(c, "team/app", image)
		if r := s.collect(t, collect.Request{}); r.Marked == 0 {
			t.Fatalf("nothing marked: %+v", r)
		}
		if again := c.PushImage("team/app", "v1", registrytest.Image{Layer: "one"}); again != image {
			t.Fatal("another digest")
		}
		for range 3 {
			s.ahead(30 * time.Hour)
			s.collect(t, collect.Request{})
		}
		for _, d := range []artifact.Digest{image, evidence} {
			if got := c.Do("GET", "/v2/team/app/manifests/"+string(d), "").StatusCode; got != 200 {
				t.Errorf("%s: %d", d, got)
			}
		}
		if !s.stored(t)[digest("one")] {
			t.Error("the layer is gone")
		}
	})
}

// TestAbandonedUploads: a blob that no manifest ever named goes, with its row.
func TestAbandonedUploads(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		d := c.PushBlob("team/app", "abandoned")
		s.ahead(30 * time.Minute)
		if r := s.collect(t, collect.Request{}); r.Marked != 0 {
			t.Fatalf("marked while young: %+v", r)
		}
		s.ahead(2 * time.Hour)
		s.collect(t, collect.Request{})
		s.ahead(2 * time.Hour)
		if r := s.collect(t, collect.Request{}); r.Deleted != 1 || r.Freed != int64(len("abandoned")) {
			t.Fatalf("%+v", r)
		}
		if got := c.Do("HEAD", "/v2/team/app/blobs/"+string(d), "").StatusCode; got != 404 {
			t.Fatalf("HEAD: %d", got)
		}
	})
}

// TestPin: nothing goes while a backup says so.
func TestPin(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		s.Client(t, "owner").PushBlob("team/app", "abandoned")
		pin := func(until time.Time) {
			if err := db.Update(t.Context(), func(tx *store.Tx) error { return sweep.Pin(t.Context(), tx, "b", "a backup", until) }); err != nil {
				t.Fatal(err)
			}
		}
		pin(time.Now().Add(time.Hour))
		zero := time.Duration(0)
		r := s.collect(t, collect.Request{Grace: &zero})
		if r.Deleted != 0 || r.Pinned != "a backup" || r.Waiting != 1 {
			t.Fatalf("pinned: %+v", r)
		}
		pin(time.Now().Add(-time.Second))
		if r := s.collect(t, collect.Request{Grace: &zero}); r.Deleted != 1 {
			t.Fatalf("after the pin: %+v", r)
		}
	})
}

// TestKilledCollectorIsFinished: the marks that a killed collector left keep
// pushers out until the next one has ended its work.
func TestKilledCollectorIsFinished(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		c := s.Client(t, "owner")
		d := c.PushBlob("team/app", "content")
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO blob_sweep (digest, size, since, deleting) VALUES (?, 7, 0, 99)`, string(d))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(t.Context(), func(tx *store.Tx) error {
			gone, err := sweep.Deleting(t.Context(), tx, digest("x"), d)
			if len(gone) != 1 || gone[0] != d {
				t.Errorf("deleting: %v", gone)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		m, _ := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": registrytest.ImageType,
			"config": map[string]any{"mediaType": "application/x", "digest": d, "size": 7}, "layers": []any{},
		})
		if r := c.PutManifest("team/app", "v1", m); r.Code() != "MANIFEST_BLOB_UNKNOWN" {
			t.Fatalf("a manifest over bytes that go: %s %s", r.Status, r.Body)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		c.PushBlob("team/app", "content") // waits until the mark is gone
		if r := c.PutManifest("team/app", "v1", m); r.StatusCode != 201 {
			t.Fatalf("after it was sent again: %s %s", r.Status, r.Body)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !s.stored(t)[d] {
			t.Fatal("the blob that was pushed again is gone")
		}
	})
}

// TestOneCollector: two never run at once, and one whose lease was taken changes
// nothing.
func TestOneCollector(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		if held, _, err := db.Lease(t.Context(), "collect", "somebody", time.Minute); err != nil || !held {
			t.Fatal(held, err)
		}
		if _, err := s.Collect(t.Context(), collect.Request{}); !errors.Is(err, fault.Conflict) {
			t.Fatalf("beside another: %v", err)
		}
	})
}

// TestThreat_Store_CollectorAgainstPushers: while a collector without any grace
// takes away whatever it can, every manifest that was accepted can be pulled
// whole, by all the ways in which clients rely on what is there: fresh uploads,
// HEAD and skip, mounts, and the same content of many.
func TestThreat_Store_CollectorAgainstPushers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		const pushers, rounds = 8, 25
		ctx, stop := context.WithCancel(t.Context())
		var collected atomic.Int64
		var background sync.WaitGroup
		background.Go(func() {
			zero := time.Duration(0)
			for ctx.Err() == nil {
				r, err := s.Collect(ctx, collect.Request{Grace: &zero})
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("collect: %v", err)
					}
					return
				}
				collected.Add(r.Deleted)
			}
		})
		var accepted, refused atomic.Int64
		var pushing sync.WaitGroup
		enough := time.Now().Add(time.Minute) // a busy machine collects late
		for p := range pushers {
			pushing.Go(func() {
				w := &pusher{t: t, s: s, c: s.Client(t, "owner"), rnd: rand.New(rand.NewPCG(uint64(p), 7))}
				for i := 0; i < rounds || collected.Load() < 10 && time.Now().Before(enough); i++ {
					if w.push() {
						accepted.Add(1)
					} else {
						refused.Add(1)
					}
				}
			})
		}
		pushing.Wait()
		stop()
		background.Wait()
		t.Logf("accepted %d, refused %d, blobs collected meanwhile %d", accepted.Load(), refused.Load(), collected.Load())
		if accepted.Load() < 10 || collected.Load() < 10 {
			t.Fatal("nothing happened at once")
		}
		whole(t, s)
	})
}

// whole pulls every manifest that is listed with all its blobs.
func whole(t *testing.T, s *site) {
	t.Helper()
	c := s.Client(t, "owner")
	n := 0
	for _, repository := range []string{"team/a", "team/b"} {
		var tags struct{ Tags []string }
		_ = json.Unmarshal(c.Do("GET", "/v2/"+repository+"/tags/list?n=1000", "").Body, &tags)
		for _, tag := range tags.Tags {
			r := c.Do("GET", "/v2/"+repository+"/manifests/"+tag, "")
			var m struct {
				Config struct{ Digest artifact.Digest }
				Layers []struct{ Digest artifact.Digest }
			}
			if r.StatusCode != 200 || json.Unmarshal(r.Body, &m) != nil {
				t.Fatalf("%s:%s: %s %s", repository, tag, r.Status, r.Body)
			}
			for _, d := range append([]artifact.Digest{m.Config.Digest}, m.Layers[0].Digest, m.Layers[1].Digest) {
				b := c.Do("GET", "/v2/"+repository+"/blobs/"+string(d), "")
				if b.StatusCode != 200 || artifact.SHA256Of(b.Body) != d {
					t.Errorf("%s:%s was accepted, and its blob %s is %s", repository, tag, d, b.Status)
				}
				n++
			}
		}
	}
	if n == 0 {
		t.Fatal("nothing to look at")
	}
}

type pusher struct {
	t   *testing.T
	s   *site
	c   *registrytest.Client
	rnd *rand.Rand
}

// push pushes an image of content that others push too, in one of the ways of
// clients; now and then it deletes one, so that blobs fall free.
func (p *pusher) push() bool {
	repository := []string{"team/a", "team/b"}[p.rnd.IntN(2)]
	var layers []any
	for range 2 {
		content := fmt.Sprintf("layer %d", p.rnd.IntN(12))
		if !p.bring(repository, content) {
			return false
		}
		layers = append(layers, map[string]any{"mediaType": "application/octet-stream", "digest": digest(content), "size": len(content)})
	}
	if !p.bring(repository, "{}") {
		return false
	}
	m, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.ImageType, "layers": layers,
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest("{}"), "size": 2},
	})
	tag := fmt.Sprintf("t%d", p.rnd.IntN(20))
	r := p.c.PutManifest(repository, tag, m)
	switch {
	case r.StatusCode == 201:
	case r.Code() == "MANIFEST_BLOB_UNKNOWN", r.StatusCode == http.StatusServiceUnavailable, r.StatusCode == http.StatusConflict:
		return false
	default:
		p.t.Errorf("push: %s %s", r.Status, r.Body)
		return false
	}
	if p.rnd.IntN(2) == 0 {
		gone(p.c, repository, artifact.SHA256Of(m))
	}
	return true
}

func (p *pusher) bring(repository, content string) bool {
	d := digest(content)
	switch p.rnd.IntN(3) {
	case 0: // as clients that look first
		if p.c.Do("HEAD", "/v2/"+repository+"/blobs/"+string(d), "").StatusCode == 200 {
			return true
		}
	case 1:
		if p.c.Do("POST", "/v2/"+repository+"/blobs/uploads/?mount="+string(d), "").StatusCode == 201 {
			return true
		}
	}
	r := p.c.Do("POST", "/v2/"+repository+"/blobs/uploads/?digest="+string(d), content)
	if r.StatusCode != 201 && r.StatusCode != 503 {
		p.t.Errorf("upload: %s %s", r.Status, r.Body)
	}
	return r.StatusCode == 201
}

// TestManyBlobs: a collection looks at many blobs in pieces of bounded size.
func TestManyBlobs(t *testing.T) {
	s := start(t, storetest.Open(t, store.SQLite), nil)
	const n = 3_000
	old := time.Now().Add(-48 * time.Hour)
	for i := range n {
		d := digest(fmt.Sprint(i))
		p := filepath.Join(s.Folder, "sha256", d.Hex()[:2], d.Hex())
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(fmt.Sprint(i)), 0o600), os.Chtimes(p, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	if r := s.collect(t, collect.Request{}); r.Marked != n {
		t.Fatalf("%+v", r)
	}
	marked := time.Now()
	s.ahead(2 * time.Hour)
	r := s.collect(t, collect.Request{})
	if r.Deleted != n || len(s.stored(t)) != 0 || len(r.Blobs) != 100 {
		t.Fatalf("%+v", r)
	}
	t.Logf("%d blobs marked in %s, deleted in %s", n, marked.Sub(begun).Round(time.Millisecond), time.Since(marked).Round(time.Millisecond))
	if !strings.HasPrefix(string(r.Blobs[0].Digest), "sha256:") {
		t.Fatal(r.Blobs[0])
	}
}
