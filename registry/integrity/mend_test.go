package integrity_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"

	"assay/artifact"
	"assay/blob"
	"assay/event"
	"assay/internal/fault"
	"assay/registry/integrity"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// copies is a source: what a folder of blobs holds, wrong or right, for the
// repositories below a prefix.
type copies struct {
	name, below string
	blobs       blob.Store
	asked       []string
}

func (c *copies) Fetch(ctx context.Context, repository string, d artifact.Digest, _ bool, size int64) (string, io.ReadCloser, error) {
	if !strings.HasPrefix(repository, c.below) {
		return "", nil, nil
	}
	c.asked = append(c.asked, repository)
	f, err := c.blobs.Open(ctx, d)
	if err != nil {
		return c.name, nil, err
	}
	if size != f.Size() {
		return c.name, nil, fault.Newf(fault.Tampered, "%d bytes, want %d", f.Size(), size)
	}
	return c.name, f, nil
}

func (c *copies) put(t *testing.T, b []byte) {
	t.Helper()
	if _, err := blob.Put(t.Context(), c.blobs, b); err != nil {
		t.Fatal(err)
	}
}

func newCopies(t *testing.T, name, below string) (*copies, string) {
	t.Helper()
	folder := t.TempDir()
	dir, err := blob.NewDir(folder, blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return &copies{name: name, below: below, blobs: dir}, folder
}

// TestMend: a damaged layer and a damaged manifest are repaired out of the first
// source that has their bytes. One that has others is passed over and on record;
// one that stands for other repositories is not asked.
func TestMend(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		other, _ := newCopies(t, "other", "elsewhere/")
		empty, _ := newCopies(t, "empty", "")
		wrong, folder := newCopies(t, "wrong", "")
		right, _ := newCopies(t, "right", "team/")
		s := start(t, db, other, empty, wrong, right) // in this order
		owner := s.Client(t, "owner")
		layer := []byte(strings.Repeat("a layer\n", 1000))
		image := owner.PushImage("team/app", "v1", registrytest.Image{Layer: string(layer)})
		manifest := owner.Do("GET", "/v2/team/app/manifests/v1", "").Body
		rnd := rand.New(rand.NewPCG(7, 8))
		for _, what := range [][]byte{layer, manifest} {
			d := artifact.SHA256Of(what)
			wrong.put(t, what)
			flip(t, folder, d, rnd)
			if d == image {
				right.put(t, what)
			}
			flip(t, s.Folder, d, rnd)
			m, err := s.checker.Mend(t.Context(), d, "user:boss")
			if err != nil {
				t.Fatal(err)
			}
			if d != image {
				if m.State != integrity.Damaged || len(m.Tried) != 3 || !errors.Is(m.Tried[0].Err, fault.NotFound) || !errors.Is(m.Tried[1].Err, fault.Invalid) {
					t.Fatalf("without a source that has it: %+v", m)
				}
				if r := owner.Do("GET", "/v2/team/app/manifests/v1", ""); r.StatusCode == http.StatusOK {
					t.Fatal("damaged still, and served")
				}
				list, err := s.checker.Damages(t.Context())
				if err != nil || len(list) != 1 || list[0].Size != int64(len(what)) || list[0].Manifest || len(list[0].Repositories) != 1 {
					t.Fatalf("damages %+v, %v", list, err)
				}
				right.put(t, what)
				if m, err = s.checker.Mend(t.Context(), d, "user:boss"); err != nil {
					t.Fatal(err)
				}
			}
			if m.State != integrity.Repaired || m.Source != "right" {
				t.Fatalf("%s: %+v", d, m)
			}
		}
		if m, err := s.checker.Mend(t.Context(), image, "user:boss"); err != nil || m.State != integrity.Whole {
			t.Fatalf("of what is whole: %+v, %v", m, err)
		}
		if r := owner.Do("GET", "/v2/team/app/manifests/v1", ""); !bytes.Equal(r.Body, manifest) {
			t.Fatalf("repaired, and answered %s", r.Status)
		}
		if len(other.asked) > 0 {
			t.Errorf("a source for elsewhere was asked for %v", other.asked)
		}
		if n := len(s.Events(t, event.StoreRepaired)); n != 2 {
			t.Errorf("%d events of repair, want 2", n)
		}
		// The layer twice, the manifest once.
		if n := len(s.Events(t, event.StoreRepairRefused)); n != 3 {
			t.Errorf("%d events of refusal, want 3", n)
		}
	})
}

// TestRepairIsBounded: a source that gives more than a blob has is not read to
// its end.
func TestRepairIsBounded(t *testing.T) {
	s := start(t, storetest.Open(t, store.SQLite))
	owner := s.Client(t, "owner")
	owner.PushImage("team/app", "v1", registrytest.Image{Layer: "a layer"})
	d := artifact.SHA256Of([]byte("a layer"))
	if err := os.Remove(pathOf(s.Folder, d)); err != nil {
		t.Fatal(err)
	}
	if f, err := s.checker.Check(t.Context(), d); err != nil || f == nil {
		t.Fatalf("%v, %v", f, err)
	}
	endless := &counting{}
	if err := s.checker.Repair(t.Context(), d, integrity.By{Source: "endless"}, endless); !errors.Is(err, fault.Invalid) {
		t.Fatalf("endless bytes: %v", err)
	}
	if endless.n > 1<<20 {
		t.Errorf("%d bytes were read for one of 7", endless.n)
	}
	if err := s.checker.Repair(t.Context(), d, integrity.By{Source: "right"}, strings.NewReader("a layer")); err != nil {
		t.Fatal(err)
	}
}

type counting struct{ n int }

func (c *counting) Read(b []byte) (int, error) { c.n += len(b); return len(b), nil }
