package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func digest(text string) artifact.Digest { return artifact.SHA256Of([]byte(text)) }

// manifest has one member of each kind that a file must have, and more.
func manifest(more ...Member) *Manifest {
	m := &Manifest{
		Schema: Schema, Origin: "hq.example", Target: "plant-7", Sequence: 1, Full: true, Created: start, Expires: start.Add(Validity),
		Selection: Selection{Repositories: []string{"team/**"}, Feeds: []string{}},
	}
	for _, k := range []Kind{KindRoots, KindTrustedRoot, KindLayout, KindIndex, KindContents, KindRevocations} {
		m.Members = append(m.Members, NewMember(k, digest(string(k)), int64(len(k))))
	}
	m.Members = append(m.Members, more...)
	return m
}

func bytesOf(t testing.TB, m *Manifest) []byte {
	t.Helper()
	st, err := m.Statement()
	if err != nil {
		t.Fatal(err)
	}
	return st.Predicate
}

func TestManifest(t *testing.T) {
	m := manifest(NewMember(KindBlob, digest("layer"), 5))
	got, err := ParseManifest(bytesOf(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" {
		t.Error(d)
	}
	for name, change := range map[string]func(*Manifest){
		"another format":           func(m *Manifest) { m.Schema = "assay/bundle/v2" },
		"no target":                func(m *Manifest) { m.Target = "../x" },
		"sequence 0":               func(m *Manifest) { m.Sequence = 0 },
		"full and chained":         func(m *Manifest) { m.Previous = string(digest("x")) },
		"neither":                  func(m *Manifest) { m.Full = false },
		"ends before it begins":    func(m *Manifest) { m.Expires = m.Created },
		"a pattern that is none":   func(m *Manifest) { m.Selection.Repositories = []string{"a?"} },
		"no roots first":           func(m *Manifest) { m.Members[0], m.Members[2] = m.Members[2], m.Members[0] },
		"no contents":              func(m *Manifest) { m.Members = append(m.Members[:4:4], m.Members[5:]...) },
		"two lists":                func(m *Manifest) { m.Members = append(m.Members, NewMember(KindRevocations, digest("y"), 1)) },
		"one member twice":         func(m *Manifest) { m.Members = append(m.Members, m.Members[len(m.Members)-1]) },
		"a path of its own":        func(m *Manifest) { m.Members[6].Path = "../../etc/passwd" },
		"a negative size":          func(m *Manifest) { m.Members[6].Size = -1 },
		"a document without end":   func(m *Manifest) { m.Members[4].Size = MaxDocument + 1 },
		"a kind that is none":      func(m *Manifest) { m.Members[6].Kind = "script" },
		"a digest of another sort": func(m *Manifest) { m.Members[6].Digest = "md5:00" },
	} {
		t.Run(name, func(t *testing.T) {
			m := manifest(NewMember(KindBlob, digest("layer"), 5))
			change(m)
			if err := m.Validate(); !errors.Is(err, fault.Invalid) {
				t.Errorf("%v, want invalid", err)
			}
		})
	}
}

// Two that differ in the case of a member's name, or say one thing twice, are
// read in no way at all.
func TestThreat_Archive_StrictManifest(t *testing.T) {
	good := string(bytesOf(t, manifest()))
	for name, text := range map[string]string{
		"twice":     strings.Replace(good, `"sequence":1`, `"sequence":1,"sequence":2`, 1),
		"folded":    strings.Replace(good, `"sequence":1`, `"Sequence":1`, 1),
		"unknown":   strings.Replace(good, `"sequence":1`, `"sequence":1,"run":"sh"`, 1),
		"trailing":  good + "{}",
		"contents?": `[]`,
	} {
		if text == good {
			t.Fatal(name)
		}
		if m, err := ParseManifest([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(bytesOf(f, manifest()))
	f.Add(bytesOf(f, manifest(NewMember(KindFeed, digest("x"), 1))))
	f.Add([]byte(`{"schema":"assay/bundle/v1","members":[{"path":"../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, e := range m.Members {
			if seen[e.Path] || strings.Contains(e.Path, "..") || strings.HasPrefix(e.Path, "/") || e.Size < 0 {
				t.Fatalf("accepted %+v", e)
			}
			seen[e.Path] = true
		}
		again, err := ParseManifest(bytesOf(t, m))
		if err != nil || !cmp.Equal(m, again) {
			t.Fatalf("does not come back: %v", err)
		}
	})
}

func FuzzParseContents(f *testing.F) {
	f.Add([]byte(`{"schema":"assay/bundle-contents/v1","repositories":[{"name":"team/app","manifests":[],"tags":[]}],"evidence":[],"feeds":[{"name":"osv","files":[]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseContents(b)
		if err != nil {
			return
		}
		for _, feed := range c.Feeds {
			for _, file := range feed.Files {
				if strings.HasPrefix(file.Path, "/") || strings.Contains("/"+file.Path+"/", "/../") {
					t.Fatalf("accepted %q", file.Path)
				}
			}
		}
	})
}

func TestState(t *testing.T) {
	at := func(seq int64, prev string) *Verified {
		m := manifest()
		m.Sequence, m.Previous, m.Full = seq, prev, prev == ""
		return &Verified{Manifest: m, Digest: digest(fmt.Sprint(seq))}
	}
	third := State{Target: "plant-7", Sequence: 3, Digest: digest("3")}
	elsewhere := third
	elsewhere.Target = "plant-8"
	for name, tt := range map[string]struct {
		have State
		v    *Verified
		want string // "": accepted
	}{
		"the first":          {State{}, at(1, ""), ""},
		"a later full one":   {State{}, at(9, ""), ""},
		"an increment first": {State{}, at(2, string(digest("1"))), "begin with a full one"},
		"the next":           {third, at(4, string(digest("3"))), ""},
		"the next, forked":   {third, at(4, string(digest("other"))), "not the one imported here"},
		"the same":           {third, at(3, ""), "imported already"},
		"older":              {third, at(2, string(digest("1"))), "older than bundle 3"},
		"older and full":     {third, at(1, ""), "older than bundle 3"},
		"one is missing":     {third, at(5, string(digest("4"))), "import bundle 4 first"},
		"some are missing":   {third, at(8, string(digest("7"))), "bundles 4 to 7"},
		"a full one ahead":   {third, at(8, ""), ""},
		"for another target": {elsewhere, at(4, string(digest("3"))), `for target "plant-7"`},
	} {
		err := tt.have.Accepts(tt.v)
		if (tt.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), tt.want) || trust.Code(err) != CodeSequence) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestPaths(t *testing.T) {
	for p, want := range map[string]bool{
		"a": true, "2026/CVE-1.json": true, "..": false, "../a": false, "a/../b": false, "/a": false, "": false, "a//b": false, "a\\b": false, "C:a": false, "a\x00": false, ".": false, "./a": false,
	} {
		if ValidPath(p) != want {
			t.Errorf("%q: %v", p, !want)
		}
	}
}

// A header may promise what it likes: what is read is what is there, and it is
// read up to the limit alone.
func TestThreat_Archive_Bomb(t *testing.T) {
	file := func(h tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	pins := func(string, int64) (Pin, error) { return Unpinned, nil }
	for name, b := range map[string][]byte{
		"a terabyte":   file(tar.Header{Name: manifestName, Size: 1 << 40, Typeflag: tar.TypeReg, Format: tar.FormatGNU}),
		"more than is": file(tar.Header{Name: manifestName, Size: 20 << 20, Typeflag: tar.TypeReg}),
		"a link":       file(tar.Header{Name: manifestName, Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}),
		"a hard link":  file(tar.Header{Name: manifestName, Linkname: "x", Typeflag: tar.TypeLink}),
		"another name": file(tar.Header{Name: "../" + manifestName, Typeflag: tar.TypeReg}),
		"records":      file(tar.Header{Name: manifestName, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.x": strings.Repeat("y", 1000)}}),
		"nothing":      nil,
	} {
		_, err := Open(t.Context(), bytes.NewReader(b), pins, start)
		if trust.Code(err) != CodeContent {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTables(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, Migrations); err != nil {
			t.Fatal(err)
		}
		update := func(fn func(tx *store.Tx) error) error {
			return db.Update(ctx, fn)
		}
		e := Export{Target: "plant-7", Sequence: 1, Digest: digest("1"), Manifest: []byte("x"), Actor: "me"}
		put := func(full bool, sent ...Sent) error {
			return update(func(tx *store.Tx) error { return PutExport(ctx, tx, e, full, sent) })
		}
		one, two := Sent{"member", "a", ""}, Sent{"tag", "r:v", "b"}
		if err := put(true, one, two); err != nil {
			t.Fatal(err)
		}
		if err := put(false); !errors.Is(err, fault.Conflict) {
			t.Errorf("the same sequence twice: %v", err)
		}
		e.Sequence = 2
		if err := put(true, two); err != nil {
			t.Fatal(err)
		}
		o := Origin{Origin: "hq.example", Name: "hq", Root: []byte("r"), Namespaces: []string{"a"}, State: State{Target: "plant-7", Sequence: 1, Digest: digest("1")}}
		if err := update(func(tx *store.Tx) error { return PutOrigin(ctx, tx, o, 0) }); err != nil {
			t.Fatal(err)
		}
		o.Sequence = 3
		if err := update(func(tx *store.Tx) error { return PutOrigin(ctx, tx, o, 2) }); !errors.Is(err, fault.Conflict) {
			t.Errorf("from a sequence that it does not have: %v", err)
		}
		err := db.View(ctx, func(tx *store.Tx) error {
			last, err := LastExport(ctx, tx, "plant-7")
			if err != nil || last.Sequence != 2 {
				t.Errorf("last: %+v, %v", last, err)
			}
			sent, err := AllSent(ctx, tx, "plant-7")
			if d := cmp.Diff(map[Sent]bool{two: true}, sent); err != nil || d != "" {
				t.Errorf("after a full one: %v %s", err, d)
			}
			if _, err := GetExport(ctx, tx, "plant-7", 9); !errors.Is(err, fault.NotFound) {
				t.Error(err)
			}
			got, err := GetOrigin(ctx, tx, "hq.example")
			if err != nil || got.Sequence != 1 {
				t.Errorf("%+v, %v", got, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// endless is a member's content.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkRead prints how fast members are held to the list.
func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	h, _ := artifact.NewHash(artifact.SHA256)
	_, _ = io.CopyN(h, endless{}, size)
	m := NewMember(KindBlob, artifact.NewDigest(artifact.SHA256, h.Sum(nil)), size)
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	_ = put(w, m.Path, size, start)
	_, _ = io.CopyN(w, endless{}, size)
	_ = w.Close()
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		r := &Reader{tar: tar.NewReader(bytes.NewReader(file.Bytes())), raw: bytes.NewReader(nil), Verified: &Verified{Manifest: &Manifest{Members: []Member{m}}}}
		if err := r.Each(context.Background(), func(_ Member, content io.Reader) error {
			_, err := io.Copy(io.Discard, content)
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
}
