package retention_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"assay/artifact"
	"assay/blob/s3"
	"assay/blob/s3/s3test"
	"assay/config"
	"assay/event"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/registry/retention"
	"assay/store"
	"assay/store/storetest"
)

// bucket notes what is locked, and fails when it is told to.
type bucket struct {
	mu    sync.Mutex
	held  map[artifact.Digest]bool
	until map[artifact.Digest]time.Time
	fails error
}

func newBucket() *bucket {
	return &bucket{held: map[artifact.Digest]bool{}, until: map[artifact.Digest]time.Time{}}
}

func (b *bucket) LegalHold(_ context.Context, d artifact.Digest, on bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails == nil {
		b.held[d] = on
	}
	return b.fails
}

func (b *bucket) Retain(_ context.Context, d artifact.Digest, until time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until.Before(b.until[d]) {
		return errors.New("a time was shortened")
	}
	b.until[d] = until
	return b.fails
}

func (b *bucket) held1(d artifact.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held[d]
}

func age(t *testing.T, db *store.DB, q string, args ...any) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(t.Context(), q, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

// A hold that ends at its time is on record once, and the bucket gives free what
// no other hold covers; what it did not is tried again.
func TestHoldEndsAtItsTime(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBucket()
		s := start(t, db, b)
		c := s.Client(t, "owner")
		one := c.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		two := c.PushImage("team/app", "v2", registrytest.Image{Layer: "two"})
		add := func(q retention.HoldRequest) *retention.Hold {
			t.Helper()
			q.Reason = "case 1"
			h, err := s.holds.Add(t.Context(), "boss", q)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		timed := add(retention.HoldRequest{Repository: "team/app", Until: time.Now().Add(time.Hour)})
		add(retention.HoldRequest{Repository: "team/app", Tag: "v2"})
		if !b.held1(one) || !b.held1(two) {
			t.Fatal("not locked")
		}
		sweep := func() []event.Event {
			t.Helper()
			if err := s.holds.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			return s.Events(t, event.HoldRemoved)
		}
		if n := len(sweep()); n != 0 || !b.held1(one) {
			t.Fatalf("ended before its time: %d events", n)
		}
		age(t, db, `UPDATE retention_hold SET ends = ? WHERE id = ?`, time.Now().Add(-time.Minute), timed.ID)
		b.fails = errors.New("the bucket is out of reach")
		if events := sweep(); len(events) != 1 || events[0].Actor != "system:retention" || !strings.Contains(fmt.Sprintf("%s", events[0].Body), timed.ID) {
			t.Fatalf("events %+v, want one about %s", events, timed.ID)
		}
		b.fails = nil
		if n := len(sweep()); n != 1 || b.held1(one) || !b.held1(two) {
			t.Fatalf("%d events; one locked: %v, want that it is free; two locked: %v, want that it is", n, b.held1(one), b.held1(two))
		}
		list, err := s.holds.List(t.Context(), true)
		if err != nil || len(list) != 2 {
			t.Fatalf("%d holds with those that ended, %v; want 2", len(list), err)
		}
		// One that is removed while the bucket is out of reach is freed later, too.
		b.fails = errors.New("the bucket is out of reach")
		if _, err := s.holds.Remove(t.Context(), list[0].ID, "boss", "closed"); err != nil {
			t.Fatal(err)
		}
		b.fails = nil
		if n := len(sweep()); n != 2 || b.held1(two) {
			t.Errorf("%d events, want 2; two is locked: %v", n, b.held1(two))
		}
		if list, err = s.holds.List(t.Context(), true); err != nil || len(list) != 1 {
			t.Errorf("%d holds, %v; want the ended one", len(list), err)
		}
	})
}

// What a rule keeps by age is locked in a bucket until then, shared layers for
// the longest, and a plan only counts.
func TestObjectLockByAge(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBucket()
		s := start(t, db, b)
		c := s.Client(t, "owner")
		s.rules = []config.RetentionRule{images("locked", func(r *config.RetentionSpec) { r.KeepFor, r.ObjectLock = 48*time.Hour, true })}
		one := c.PushImage("team/app", "v1", registrytest.Image{Layer: "shared"})
		old := time.Now().Add(-24 * time.Hour).Truncate(time.Microsecond)
		age(t, db, `UPDATE registry_manifest SET pushed_at = ?`, old)
		age(t, db, `UPDATE registry_tag SET moved_at = ?`, old)
		plan, err := s.Plan(t.Context())
		if err != nil || plan.Locked == 0 || len(b.until) != 0 {
			t.Fatalf("plan: %+v, %v; locked %d", plan, err, len(b.until))
		}
		run, err := s.Run(t.Context())
		if err != nil || run.Locked != plan.Locked {
			t.Fatalf("run: %+v, %v; want as many as planned, %d", run, err, plan.Locked)
		}
		layer := artifact.SHA256Of([]byte("shared"))
		for _, d := range []artifact.Digest{one, layer} {
			if diff := cmp.Diff(old.Add(48*time.Hour).UTC(), b.until[d].UTC()); diff != "" {
				t.Errorf("%s: %s", d, diff)
			}
		}
		if run, err = s.Run(t.Context()); err != nil || run.Locked != 0 {
			t.Errorf("again: %d locked, %v; want none", run.Locked, err)
		}
		// A newer image with the same layer, and a signature on the older one.
		c.PushImage("team/app", "v2", registrytest.Image{Layer: "shared", Annotations: map[string]string{"n": "2"}})
		sig := c.PushImage("team/app", "", registrytest.Image{Layer: "sig", Subject: one, ArtifactType: "application/x"})
		if _, err = s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !b.until[layer].After(b.until[one]) || b.until[sig].IsZero() {
			t.Errorf("layer until %s, image %s, signature %s", b.until[layer], b.until[one], b.until[sig])
		}
		// What was deleted and comes again is another object.
		if err := db.Update(t.Context(), func(tx *store.Tx) error { return s.holds.Forget(t.Context(), tx, []artifact.Digest{layer}) }); err != nil {
			t.Fatal(err)
		}
		if run, err = s.Run(t.Context()); err != nil || run.Locked != 1 {
			t.Errorf("after it came again: %d locked, %v; want 1", run.Locked, err)
		}
	})
}

// Without a bucket that locks, the rule says so.
func TestObjectLockThatIsNone(t *testing.T) {
	s := start(t, storetest.Open(t, store.SQLite), nil)
	s.Client(t, "owner").PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
	s.rules = []config.RetentionRule{images("locked", func(r *config.RetentionSpec) { r.KeepFor, r.ObjectLock = time.Hour, true })}
	r, err := s.Run(t.Context())
	if err != nil || r.Locked != 0 || !strings.Contains(strings.Join(r.Notes, "\n"), "locks nothing") {
		t.Errorf("%+v, %v", r, err)
	}
}

// The same against a real server: the bucket itself refuses.
func TestObjectLockInABucket(t *testing.T) {
	srv := s3test.Start(t)
	c, err := minio.New(strings.TrimPrefix(srv.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4("assay-test", "assay-test-secret", ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(t.Context(), "locked", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	blobs, err := s3.Open(t.Context(), s3.Options{Endpoint: srv.Endpoint, Bucket: "locked", PathStyle: true, Credentials: srv.Credentials})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	s := start(t, storetest.Open(t, store.SQLite), blobs, func(o *registry.Options) { o.Blobs = blobs })
	client := s.Client(t, "owner")
	d := client.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
	client.PushImage("team/other", "v1", registrytest.Image{Layer: "free"})
	s.rules = []config.RetentionRule{images("locked", func(r *config.RetentionSpec) {
		r.Repositories, r.KeepFor, r.ObjectLock = []string{"team/app"}, 48*time.Hour, true
	})}
	run, err := s.Run(t.Context())
	if err != nil || run.Locked < 3 {
		t.Fatalf("%+v, %v; want manifest, configuration and layer locked", run, err)
	}
	object := func(d artifact.Digest) minio.ObjectInfo {
		t.Helper()
		i, err := c.StatObject(t.Context(), "locked", "sha256/"+d.Hex()[:2]+"/"+d.Hex(), minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	for content, locked := range map[string]bool{"one": true, "free": false} {
		i := object(artifact.SHA256Of([]byte(content)))
		until, err := time.Parse(time.RFC3339, i.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if got := err == nil && time.Until(until) > 47*time.Hour; got != locked {
			t.Errorf("layer %s: locked %v, want %v (%v)", content, got, locked, i.Metadata)
		}
		if err := c.RemoveObject(t.Context(), "locked", i.Key, minio.RemoveObjectOptions{VersionID: i.VersionID}); (err != nil) != locked {
			t.Errorf("layer %s: removing its version gave %v, locked is %v", content, err, locked)
		}
	}
	if i := object(d); c.RemoveObject(t.Context(), "locked", i.Key, minio.RemoveObjectOptions{VersionID: i.VersionID}) == nil {
		t.Error("the manifest's version was removed")
	}
	// A longer rule makes the time later, in the bucket too; a shorter one leaves it.
	s.rules[0].KeepFor = 72 * time.Hour
	if run, err = s.Run(t.Context()); err != nil || run.Locked < 3 {
		t.Errorf("longer: %+v, %v", run, err)
	}
	s.rules[0].KeepFor = time.Hour
	if run, err = s.Run(t.Context()); err != nil || run.Locked != 0 {
		t.Errorf("shorter: %+v, %v", run, err)
	}
}
