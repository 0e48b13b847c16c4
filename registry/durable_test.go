package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/blob/blobtest"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// A hundred pushers to one tag: one history without a gap, each step from where
// the one before led, ending where the tag points.
func TestHundredPushersToOneTag(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		const pushers = 100
		c.PushBlob("r", "{}")
		var wg sync.WaitGroup
		var mu sync.Mutex
		pushed := map[artifact.Digest]bool{}
		for i := range pushers {
			m := c.Manifest("r", registrytest.Image{Layer: "{}", Annotations: map[string]string{"i": fmt.Sprint(i)}})
			pusher := s.Client(t, "owner")
			wg.Go(func() {
				for range 20 { // 503 says: try again
					r, err := pusher.Try("PUT", "/v2/r/manifests/latest", strings.NewReader(string(m)), "Content-Type", registrytest.ImageType)
					if err != nil {
						t.Error(err)
						return
					}
					if r.StatusCode == http.StatusCreated {
						mu.Lock()
						pushed[artifact.SHA256Of(m)] = true
						mu.Unlock()
						return
					}
					if r.StatusCode != http.StatusServiceUnavailable {
						t.Errorf("push: %s %s", r.Status, clip(r.Body))
						return
					}
				}
				t.Error("20 times unavailable")
			})
		}
		wg.Wait()
		if len(pushed) != pushers {
			t.Fatalf("%d of %d pushes acknowledged", len(pushed), pushers)
		}
		next, last := map[artifact.Digest]artifact.Digest{}, artifact.Digest("")
		for _, e := range s.Events(t, event.TagMoved) {
			var b struct{ From, To artifact.Digest }
			if err := json.Unmarshal(e.Body.(json.RawMessage), &b); err != nil {
				t.Fatal(err)
			}
			if next[b.From] != "" {
				t.Fatalf("two moves from %q", b.From)
			}
			next[b.From] = b.To
		}
		for range pushers {
			if last = next[last]; !pushed[last] {
				t.Fatalf("the history leads to %q, which nobody pushed", last)
			}
			delete(pushed, last)
		}
		wantHeader(t, "the tag", c.Do("HEAD", "/v2/r/manifests/latest", ""), "Docker-Content-Digest", string(last))
	})
}

// What happened is in the event log, with who, what, where.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		d := c.PushImage("r", "v1", registrytest.Image{Layer: "x"})
		want(t, "push again", c.PutManifest("r", "v1", c.Do("GET", "/v2/r/manifests/"+string(d), "").Body), http.StatusCreated, "")
		const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
		want(t, "pull", c.Do("GET", "/v2/r/manifests/v1", "", "Traceparent", "00-"+trace+"-00f067aa0ba902b7-01"), http.StatusOK, "")
		want(t, "HEAD", c.Do("HEAD", "/v2/r/manifests/v1", ""), http.StatusOK, "")
		want(t, "denied", s.Client(t, "stranger").Do("GET", "/v2/r/manifests/v1", ""), http.StatusForbidden, "DENIED")
		want(t, "anonymous", s.Client(t, "").Do("GET", "/v2/r/manifests/v1", ""), http.StatusUnauthorized, "")
		want(t, "delete", c.Do("DELETE", "/v2/r/manifests/"+string(d), ""), http.StatusAccepted, "")
		var got []string
		for _, e := range s.Events(t) {
			var b map[string]any
			if err := json.Unmarshal(e.Body.(json.RawMessage), &b); err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %v:%v %s %v", e.Kind, b["repository"], b["tag"], strings.TrimPrefix(e.Actor, registrytest.Issuer), e.Digest == d)))
			if e.Kind == event.ArtifactPulled && b["tag"] == "v1" && e.TraceID != trace {
				t.Errorf("trace id %q, want %q", e.TraceID, trace)
			}
			if b["address"] != "127.0.0.1" {
				t.Errorf("%s: address %v", e.Kind, b["address"])
			}
		}
		wantEvents := []string{
			"tag.moved r:v1 #owner true", "artifact.pushed r:v1 #owner true",
			"artifact.pulled r:<nil> #owner true", "artifact.pulled r:v1 #owner true",
			"artifact.denied r:v1 #stranger false",
			"tag.deleted r:v1 #owner true", "artifact.deleted r:<nil> #owner true",
		}
		if diff := cmp.Diff(wantEvents, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// handed is an Ingester that keeps what it is given, and fails on demand.
type handed struct {
	mu   sync.Mutex
	got  []string
	fail func() error
}

func (h *handed) Referrer(_ context.Context, subject artifact.Digest, repository string, manifest artifact.Digest, artifactType string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		if err := h.fail(); err != nil {
			return err
		}
	}
	h.got = append(h.got, fmt.Sprintf("%s %s<-%s %s", repository, subject.Short(), manifest.Short(), artifactType))
	return nil
}

func (h *handed) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	got := h.got
	h.got = nil
	return got
}

func TestEvidenceIsHandedOn(t *testing.T) {
	h := &handed{}
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	clock := func() time.Time { return time.Unix(0, now.Load()) }
	for _, dialect := range storetest.Dialects {
		t.Run(string(dialect), func(t *testing.T) {
			db := storetest.Open(t, dialect, store.WithClock(clock))
			use := func(o *registry.Options) { o.Evidence = h }
			s := registrytest.Start(t, db, use)
			c := owner(t, s)
			subject := c.PushImage("r", "v1", registrytest.Image{Layer: "x"})
			if got := h.take(); got != nil {
				t.Fatalf("an image was handed on as evidence: %v", got)
			}
			ref := c.PushImage("r", "", registrytest.Image{Layer: "sig", Subject: subject, ArtifactType: "a/b"})
			legacy := c.PushImage("r", "sha256-"+subject.Hex()+".att", registrytest.Image{Layer: "att"})
			index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%s,"artifactType":"a/b"}]}`,
				registrytest.IndexType, registrytest.ImageType, ref, c.Do("HEAD", "/v2/r/manifests/"+string(ref), "").Header.Get("Content-Length"))
			want(t, "fallback tag", c.PutManifest("r", "sha256-"+subject.Hex(), []byte(index)), http.StatusCreated, "")
			wantGot := []string{
				"r " + subject.Short() + "<-" + ref.Short() + " a/b",
				"r " + subject.Short() + "<-" + legacy.Short() + " application/vnd.oci.empty.v1+json",
				"r " + subject.Short() + "<-" + ref.Short() + " a/b",
			}
			if diff := cmp.Diff(wantGot, h.take()); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}

			// A failure does not fail the push; it is tried again, by another
			// process too, and once it has worked no more.
			h.fail = func() error { return fault.Newf(fault.Unavailable, "the log is down") }
			late := c.PushImage("r", "", registrytest.Image{Layer: "late", Subject: subject})
			h.fail = nil
			s = registrytest.Start(t, db, use)
			if err := s.RetryIngest(t.Context()); err != nil || h.take() != nil {
				t.Fatalf("retried before its time (%v)", err)
			}
			now.Add(int64(time.Minute))
			for i, wantLate := range [][]string{{"r " + subject.Short() + "<-" + late.Short() + " application/vnd.oci.empty.v1+json"}, nil} {
				if err := s.RetryIngest(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(wantLate, h.take()); diff != "" {
					t.Fatalf("retry %d (-want +got):\n%s", i, diff)
				}
			}
			// What does not verify is not tried again.
			h.fail = func() error { return fault.Newf(fault.Unverified, "a forgery") }
			c.PushImage("r", "", registrytest.Image{Layer: "forged", Subject: subject})
			h.fail = nil
			now.Add(int64(time.Hour))
			if err := s.RetryIngest(t.Context()); err != nil || h.take() != nil {
				t.Fatalf("a forgery was tried again (%v)", err)
			}
		})
	}
}

// TestThreat_Store_RegistryOnFailingDisk: 507 and 503 by what failed, nothing
// half done, and well again afterwards.
func TestThreat_Store_RegistryOnFailingDisk(t *testing.T) {
	var failing atomic.Pointer[func(op string) error]
	well := func(string) error { return nil }
	failing.Store(&well)
	s, c := one(t, func(o *registry.Options) {
		o.Blobs = &blobtest.Faulty{Store: o.Blobs, Fail: func(op string) error { return (*failing.Load())(op) }}
	})
	before := c.PushImage("r", "before", registrytest.Image{Layer: "x"})
	m := c.Manifest("r", registrytest.Image{Layer: "y"})
	for _, tt := range []struct {
		err    error
		status int
	}{{syscall.ENOSPC, 507}, {syscall.EIO, 503}} {
		for _, step := range []string{"create", "write", "commit"} {
			fail := func(op string) error {
				if op == step {
					return fmt.Errorf("write /secret/path: %w", tt.err)
				}
				return nil
			}
			failing.Store(&fail)
			content := tt.err.Error() + step
			d := string(artifact.SHA256Of([]byte(content)))
			r := c.Do("POST", "/v2/r/blobs/uploads/?digest="+d, content)
			want(t, step+" of a blob", r, tt.status, "UNAVAILABLE")
			if strings.Contains(string(r.Body), "secret") {
				t.Fatalf("the answer tells of the server's insides: %s", r.Body)
			}
			want(t, step+" of a manifest", c.PutManifest("r", "v1", m), tt.status, "UNAVAILABLE")
			failing.Store(&well)
			want(t, "the blob", c.Do("HEAD", "/v2/r/blobs/"+d, ""), http.StatusNotFound, "")
			want(t, "the tag", c.Do("HEAD", "/v2/r/manifests/v1", ""), http.StatusNotFound, "")
			want(t, "what was there", c.Do("GET", "/v2/r/manifests/before", ""), http.StatusOK, "")
			want(t, "once it is well", c.Do("POST", "/v2/r/blobs/uploads/?digest="+d, content), http.StatusCreated, "")
		}
	}
	want(t, "the manifest", c.PutManifest("r", "v1", m), http.StatusCreated, "")

	// A manifest whose bytes changed on disk is never served, and an alert says so.
	path := filepath.Join(s.Folder, "sha256", before.Hex()[:2], before.Hex())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, "flipped bit", c.Do("GET", "/v2/r/manifests/before", ""), http.StatusInternalServerError, "")
	if got := s.Events(t, event.StoreTampered); len(got) != 1 || got[0].Digest != before {
		t.Fatalf("alerts: %+v", got)
	}
}

// A pull that cannot be accounted for is not given: at once where audit is
// strict, else from the moment on that a record could not be written; and given
// again once records can be.
func TestThreat_Store_PullWithoutRecord(t *testing.T) {
	for _, strict := range []bool{true, false} {
		t.Run(fmt.Sprintf("strict=%v", strict), func(t *testing.T) {
			db := storetest.Open(t, store.SQLite)
			s := registrytest.Start(t, db, func(o *registry.Options) { o.StrictAudit = strict })
			c := owner(t, s)
			c.PushImage("r", "v1", registrytest.Image{Layer: "x"})
			rename := func(from, to string) {
				t.Helper()
				if err := db.Update(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Exec(t.Context(), `ALTER TABLE `+from+` RENAME TO `+to)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			clients := 0
			pull := func() *registrytest.Response { // by another client each time: a repeated one is one pull
				clients++
				return c.Do("GET", "/v2/r/manifests/v1", "", "User-Agent", fmt.Sprint("client ", clients))
			}
			want(t, "pull", pull(), http.StatusOK, "")
			if err := s.Registry.Close(t.Context()); err != nil { // the record is written
				t.Fatal(err)
			}
			rename("event_pending", "event_gone")
			if !strict {
				want(t, "the first", pull(), http.StatusOK, "")
				if err := s.Registry.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				if r := pull(); r.StatusCode < 500 || strings.Contains(string(r.Body), "schemaVersion") {
					t.Fatalf("served without a record: %s %s", r.Status, clip(r.Body))
				}
			}
			rename("event_gone", "event_pending")
			want(t, "once records can be written", pull(), http.StatusOK, "")
			want(t, "and again", pull(), http.StatusOK, "")
			if got := s.Events(t, event.ArtifactPulled); len(got) != 3 {
				t.Fatalf("%d pulls recorded, want the 3 that could be", len(got))
			}
		})
	}
}

func TestResolve(t *testing.T) {
	s, c := one(t)
	d := c.PushImage("r", "v1", registrytest.Image{Layer: "x", ArtifactType: "a/b"})
	me := identity.Principal{Issuer: registrytest.Issuer, Subject: "owner", Name: "owner", Kind: identity.KindRobot}
	got, err := s.Resolve(t.Context(), me, "r", "v1")
	if err != nil || got.Digest != d || got.MediaType != registrytest.ImageType || got.ArtifactType != "a/b" {
		t.Fatalf("%+v, %v", got, err)
	}
	b, err := s.Manifest(t.Context(), me, "r", d)
	if err != nil || artifact.SHA256Of(b) != d || int64(len(b)) != got.Size {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for _, tt := range []struct {
		p    identity.Principal
		ref  string
		kind *fault.Kind
	}{{me, "v2", fault.NotFound}, {identity.Anonymous(), "v1", fault.Unauthenticated}, {me, "sha256:x", fault.Invalid}} {
		if _, err := s.Resolve(t.Context(), tt.p, "r", tt.ref); !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %v", tt.ref, err, tt.kind)
		}
	}
}
