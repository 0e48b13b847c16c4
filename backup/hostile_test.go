package backup

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
	"assay/store"
)

// forge makes a signed, encrypted backup with any index, as one who has the
// site's keys could.
func forge(t *testing.T, r Repo, id *age.X25519Identity, entries []entry, also map[string][]byte) Listed {
	t.Helper()
	ctx := t.Context()
	s := newSink(ctx, r, []age.Recipient{id.Recipient()}, make([]byte, 32), nil)
	for name, b := range also {
		if err := s.add(name, b, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range entries {
		for _, f := range []*fileEntry{e.File} {
			if f != nil && f.Pieces == nil {
				p, err := s.content([]byte("x"))
				if err != nil {
					t.Fatal(err)
				}
				f.Pieces, f.Size, f.SHA256 = []Piece{p}, 1, hexSum([]byte("x"))
			}
		}
		if err := s.index(e); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.finish()
	if err != nil {
		t.Fatal(err)
	}
	m := Manifest{Version: 1, ID: time.Now().UTC().Format(idTime) + "-abcdefgh", Host: "h", Logs: []LogHead{}, Index: s.list, Counts: s.counts}
	m.Objects = List{listName(m.ID), hexSum(list), s.counts.Objects}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l, err := write(ctx, r, m, list, KeySigner{key})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func folders(t *testing.T) (Repo, *age.X25519Identity, Target) {
	t.Helper()
	r, err := OpenFolder(filepath.Join(t.TempDir(), "r"), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "deep", "to")
	return r, id, Target{Data: to, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Open: func(ctx context.Context) (*store.DB, blob.Store, func() error, error) {
			db, err := store.Open(ctx, "sqlite:"+filepath.Join(to, "assay.db"))
			if err != nil {
				return nil, nil, nil, err
			}
			b, err := blob.NewDir(filepath.Join(to, "blobs"), blob.Options{})
			return db, b, func() error { return errors.Join(b.Close(), db.Close()) }, err
		}}
}

// A backup's file names lead nowhere but into the folder, and over nothing.
func TestThreat_Archive_PathsOfABackup(t *testing.T) {
	for _, name := range []string{
		"../escaped", "../../escaped", "/tmp/escaped", "a/../../escaped", "a/./b", "a//b", "", ".", "..", "a\\..\\b", "a\x00b", "C:escaped",
		"restore.json", "lock", "assay.db", "assay.db-wal", "run/admin.sock", "blobs/sha256/aa/x",
	} {
		r, id, to := folders(t)
		l := forge(t, r, id, []entry{{File: &fileEntry{Path: name}}}, nil)
		_, err := Restore(t.Context(), l, r, Keys{Identities: []byte(id.String())}, to)
		if !errors.Is(err, fault.Tampered) {
			t.Errorf("%q: %v, want tampered", name, err)
		}
		for _, p := range []string{filepath.Join(to.Data, "..", "escaped"), filepath.Join(to.Data, "..", "..", "escaped"), "/tmp/escaped"} {
			if _, err := os.Lstat(p); err == nil {
				t.Fatalf("%q was written to %s", name, p)
			}
		}
	}
}

func TestThreat_Archive_SameFileTwice(t *testing.T) {
	r, id, to := folders(t)
	l := forge(t, r, id, []entry{{File: &fileEntry{Path: "site.json"}}, {File: &fileEntry{Path: "site.json"}}}, nil)
	_, err := Restore(t.Context(), l, r, Keys{Identities: []byte(id.String())}, to)
	if !errors.Is(err, fault.Tampered) {
		t.Fatalf("%v, want tampered", err)
	}
}

// A piece unpacks to what the index says, and not to a gigabyte.
func TestThreat_Archive_BombInAPiece(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := lock([]age.Recipient{id.Recipient()}, make([]byte, 64<<20), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1<<20 {
		t.Fatalf("no bomb: %d bytes", len(b))
	}
	for _, size := range []int64{100, maxPiece, maxPiece + 1, -1} {
		if _, err := unlock([]age.Identity{id}, b, size); !errors.Is(err, fault.Tampered) {
			t.Errorf("%d: %v, want tampered", size, err)
		}
	}
}

// Blobs whose content is another's, rows of unknown tables, steps of a newer
// binary, pieces that are not listed, and nonsense.
func TestThreat_Archive_IndexOfABackup(t *testing.T) {
	name := strings.Repeat("a", 64)
	also := map[string][]byte{name: []byte("other")}
	for what, c := range map[string]struct {
		e    entry
		want *fault.Kind
	}{
		"content of another":        {entry{Blob: &blobEntry{Digest: artifact.SHA256Of([]byte("x")), Size: 5, Pieces: []Piece{{name, 5}}}}, fault.Tampered},
		"another size":              {entry{Blob: &blobEntry{Digest: artifact.SHA256Of([]byte("other")), Size: 6, Pieces: []Piece{{name, 5}}}}, fault.Tampered},
		"a digest that is none":     {entry{Blob: &blobEntry{Digest: "sha256:../../x", Pieces: []Piece{}}}, fault.Tampered},
		"a piece that is not there": {entry{Blob: &blobEntry{Digest: artifact.SHA256Of(nil), Size: 1, Pieces: []Piece{{strings.Repeat("b", 64), 1}}}}, fault.Tampered},
		"a piece by a path":         {entry{Blob: &blobEntry{Digest: artifact.SHA256Of(nil), Size: 1, Pieces: []Piece{{"../../../etc/passwd", 1}}}}, fault.Tampered},
		"an unknown table":          {entry{Table: &tableEntry{Table: store.Table{Name: "x; DROP TABLE y"}, Pieces: []Piece{}}}, fault.Tampered},
		"a newer binary":            {entry{Steps: []store.Step{{Set: "future", Version: 1, Hash: name}}}, fault.Conflict},
		"a log elsewhere":           {entry{Log: &logEntry{Name: "log", Folder: "../x", Keys: [][]byte{}}}, fault.Tampered},
		"nothing":                   {entry{}, fault.Tampered},
	} {
		r, id, to := folders(t)
		l := forge(t, r, id, []entry{c.e}, also)
		_, err := Restore(t.Context(), l, r, Keys{Identities: []byte(id.String())}, to)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"20260101T000000.000Z-abcdefgh","objects":{"name":"manifests/20260101T000000.000Z-abcdefgh.objects"},"index":[]}`))
	f.Add([]byte(`{"version":1,"id":"../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(m.ID+m.Parent+m.Objects.Name, `\`) || strings.Contains(m.ID+m.Objects.Name, "..") {
			t.Fatalf("%+v", m)
		}
		for _, p := range m.Index {
			_ = objectName(p.Name)
		}
	})
}

func FuzzIndexLine(f *testing.F) {
	f.Add([]byte(`{"file":{"path":"a/b","size":1,"sha256":"","pieces":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e entry
		if json.Unmarshal(b, &e) != nil || e.File == nil || place(e.File.Path) != nil {
			return
		}
		if p := e.File.Path; !filepath.IsLocal(p) || bytes.ContainsAny([]byte(p), "\\\x00") {
			t.Fatalf("%q is let through", p)
		}
	})
}
