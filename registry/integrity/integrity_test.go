package integrity_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/gate"
	"assay/registry/integrity"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
	"assay/verify"
)

// noJudge is never asked: all repositories are open.
type noJudge struct{ gate.Judge }

type site struct {
	*registrytest.Server
	gate    *gate.Gate
	checker *integrity.Checker
}

func start(t *testing.T, db *store.DB, sources ...integrity.Source) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, registry.Migrations, gate.Migrations, integrity.Migrations, verify.Migrations); err != nil {
		t.Fatal(err)
	}
	s := &site{}
	s.Server = registrytest.Start(t, db, func(o *registry.Options) {
		var err error
		if s.gate, err = gate.New(gate.Options{DB: db, Access: o.Access, Judge: noJudge{}}); err != nil {
			t.Fatal(err)
		}
		s.checker, err = integrity.New(integrity.Options{DB: db, Blobs: o.Blobs, Gate: s.gate, Fresh: -1, Sources: sources})
		if err != nil {
			t.Fatal(err)
		}
		o.Gate, o.Visibility, o.Blobs = s.gate, s.gate, s.checker.Store()
	})
	s.Grant(t, "owner", identity.RolePublisher, "**")
	return s
}

func pathOf(folder string, d artifact.Digest) string {
	return filepath.Join(folder, d.Algorithm(), d.Hex()[:2], d.Hex())
}

// flip turns one random bit of a stored blob over and keeps its age.
func flip(t *testing.T, folder string, d artifact.Digest, rnd *rand.Rand) {
	t.Helper()
	p := pathOf(folder, d)
	st, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
	if err := errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, b, 0o600), os.Chtimes(p, st.ModTime(), st.ModTime())); err != nil {
		t.Fatal(err)
	}
}

// TestThreat_Store_BitFlip: a bit that turned over in any of 1,000 blobs is
// found by a read and by a round, and its bytes are never given out.
func TestThreat_Store_BitFlip(t *testing.T) {
	s := start(t, storetest.Open(t, store.SQLite))
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[artifact.Digest]bool{}
	for i := range 1000 {
		b := make([]byte, 1+rnd.IntN(4096))
		for j := range b {
			b[j] = byte(rnd.Uint32())
		}
		d, err := blob.Put(t.Context(), s.Blobs, append(b, fmt.Sprint(i)...))
		if err != nil {
			t.Fatal(err)
		}
		want[d] = true
	}
	guarded := s.checker.Store()
	byRead := 0
	for d := range want {
		f, err := guarded.Open(t.Context(), d)
		if err != nil {
			t.Fatalf("a whole blob: %v", err)
		}
		_ = f.Close()
		flip(t, s.Folder, d, rnd)
		if byRead >= len(want)/2 {
			continue // the round finds these
		}
		byRead++
		if _, err := guarded.Open(t.Context(), d); !errors.Is(err, fault.Tampered) {
			t.Fatalf("a flipped bit in %s was read: %v", d, err)
		}
	}
	report, err := s.checker.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if !want[f.Digest] || f.Found == string(f.Digest) {
			t.Fatalf("finding %+v", f)
		}
	}
	if len(report.Findings) != len(want) || report.Blobs != int64(len(want)) {
		t.Fatalf("a round found %d of %d", len(report.Findings), len(want))
	}
	for d := range want {
		if _, err := guarded.Open(t.Context(), d); !errors.Is(err, fault.Tampered) {
			t.Fatalf("%s was read: %v", d, err)
		}
	}
	if n := len(s.Events(t, event.StoreTampered)); n != len(want) {
		t.Fatalf("%d alerts for %d damaged blobs", n, len(want))
	}
}

// TestFreshSeesChanges: that a blob was hashed a moment ago does not cover a bit
// that turned over since, also where the file's age was set back.
func TestFreshSeesChanges(t *testing.T) {
	s := start(t, storetest.Open(t, store.SQLite))
	checker, err := integrity.New(integrity.Options{DB: s.DB, Blobs: s.Blobs, Gate: s.gate})
	if err != nil {
		t.Fatal(err)
	}
	d, err := blob.Put(t.Context(), s.Blobs, []byte("a blob"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f, err := checker.Store().Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	time.Sleep(10 * time.Millisecond) // of the file system's clock
	flip(t, s.Folder, d, rand.New(rand.NewPCG(9, 9)))
	if _, err := checker.Store().Open(t.Context(), d); !errors.Is(err, fault.Tampered) {
		t.Fatalf("changed a moment after it was hashed: %v", err)
	}
}

// TestDamageQuarantinesAndRepairReleases goes the whole way of a layer: damaged,
// refused, its image quarantined, repaired from bytes that are right and from no
// others; a person's quarantine stays.
func TestDamageQuarantinesAndRepairReleases(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db)
		owner := s.Client(t, "owner")
		big := strings.Repeat("a layer that is not hashed at each read\n", 40_000)
		image := owner.PushImage("team/app", "v1", registrytest.Image{Layer: big})
		held := owner.PushImage("team/app", "held", registrytest.Image{Layer: big, Annotations: map[string]string{"a": "b"}})
		other := owner.PushImage("team/app", "other", registrytest.Image{Layer: "whole"})
		if _, err := s.gate.Quarantine(t.Context(), held, "boss", "looks odd"); err != nil {
			t.Fatal(err)
		}
		layer := artifact.SHA256Of([]byte(big))
		status := func(what, path string, want int) {
			t.Helper()
			if r := owner.Do("GET", "/v2/team/app/"+path, ""); r.StatusCode != want {
				t.Fatalf("%s: %s, want %d", what, r.Status, want)
			}
		}
		status("whole", "manifests/v1", http.StatusOK)
		flip(t, s.Folder, layer, rand.New(rand.NewPCG(3, 4)))
		if f, err := s.checker.Check(t.Context(), layer); err != nil || f == nil {
			t.Fatalf("check: %v, %v", f, err)
		}
		blocks, err := s.gate.Blocks(t.Context(), "", 100)
		if err != nil || len(blocks) != 3 {
			t.Fatalf("blocks %+v, %v; want the image, the held one twice", blocks, err)
		}
		if _, err := s.checker.Store().Open(t.Context(), layer); !errors.Is(err, fault.Tampered) {
			t.Fatalf("a large blob that is known to be damaged was read: %v", err)
		}
		if r := owner.Do("GET", "/v2/team/app/blobs/"+string(layer), ""); r.StatusCode < 400 || len(r.Body) > 1000 {
			t.Fatalf("the layer: %s, %d bytes", r.Status, len(r.Body))
		}
		status("another image", "manifests/"+string(other), http.StatusOK)

		if err := s.checker.Repair(t.Context(), layer, integrity.By{Actor: "boss", Source: "a test"}, strings.NewReader("something else")); !errors.Is(err, fault.Invalid) {
			t.Fatalf("repair with other bytes: %v", err)
		}
		if _, err := s.checker.Store().Open(t.Context(), layer); !errors.Is(err, fault.Tampered) {
			t.Fatalf("after a repair that failed: %v", err)
		}
		if err := s.checker.Repair(t.Context(), layer, integrity.By{Actor: "boss", Source: "a test"}, strings.NewReader(big)); err != nil {
			t.Fatal(err)
		}
		status("repaired", "manifests/"+string(image), http.StatusOK)
		if r := owner.Do("GET", "/v2/team/app/blobs/"+string(layer), ""); !bytes.Equal(r.Body, []byte(big)) {
			t.Fatalf("the repaired layer: %s", r.Status)
		}
		blocks, err = s.gate.Blocks(t.Context(), "", 100)
		if err != nil || len(blocks) != 1 || blocks[0].Digest != held || blocks[0].Source != "registry" {
			t.Fatalf("blocks %+v, %v; want the person's", blocks, err)
		}
		if err := s.checker.Repair(t.Context(), layer, integrity.By{Actor: "boss", Source: "a test"}, strings.NewReader(big)); !errors.Is(err, fault.NotFound) {
			t.Fatalf("repair of what is whole: %v", err)
		}
	})
}

// TestPutBackReleases: whoever puts the file back from a backup needs no more
// than another look at it, asked for or by a round.
func TestPutBackReleases(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db)
		owner := s.Client(t, "owner")
		image := owner.PushImage("team/app", "v1", registrytest.Image{Layer: "a layer"})
		layer := artifact.SHA256Of([]byte("a layer"))
		for name, look := range map[string]func() error{
			"one": func() error { _, err := s.checker.Check(t.Context(), layer); return err },
			"all": func() error { _, err := s.checker.All(t.Context()); return err },
		} {
			flip(t, s.Folder, layer, rand.New(rand.NewPCG(5, 6)))
			if err := look(); err != nil {
				t.Fatal(err)
			}
			if r := owner.Do("GET", "/v2/team/app/manifests/"+string(image), ""); r.StatusCode == http.StatusOK {
				t.Fatalf("%s: damaged, and served", name)
			}
			flip(t, s.Folder, layer, rand.New(rand.NewPCG(5, 6))) // the same bit, back
			if err := look(); err != nil {
				t.Fatal(err)
			}
			if r := owner.Do("GET", "/v2/team/app/blobs/"+string(layer), ""); string(r.Body) != "a layer" {
				t.Errorf("%s: put back, and answered %s", name, r.Status)
			}
			if left, err := s.checker.Damaged(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("%s: %v, %v", name, left, err)
			}
		}
	})
}

// TestMissingIsDamage: a blob that a manifest needs and is gone is a finding of
// a round and of a read; one that nobody needs is only not found.
func TestMissingIsDamage(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db)
		owner := s.Client(t, "owner")
		owner.PushImage("team/app", "v1", registrytest.Image{Layer: "first"})
		owner.PushImage("team/app", "v2", registrytest.Image{Layer: "second"})
		first, second := artifact.SHA256Of([]byte("first")), artifact.SHA256Of([]byte("second"))
		for _, d := range []artifact.Digest{first, second} {
			if err := s.Blobs.Delete(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.checker.Store().Open(t.Context(), first); !errors.Is(err, fault.Tampered) {
			t.Fatalf("read: %v", err)
		}
		report, err := s.checker.All(t.Context())
		if err != nil || len(report.Findings) != 2 {
			t.Fatalf("round: %+v, %v", report, err)
		}
		if r := owner.Do("GET", "/v2/team/app/manifests/v2", ""); r.StatusCode == http.StatusOK {
			t.Fatal("an image without its layer was served")
		}
		nobody := artifact.SHA256Of([]byte("nobody needs it"))
		if _, err := s.checker.Store().Open(t.Context(), nobody); !errors.Is(err, fault.NotFound) || errors.Is(err, fault.Tampered) {
			t.Fatalf("what nobody needs: %v", err)
		}
	})
}
