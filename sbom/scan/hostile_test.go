package scan_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/sbom/scan"

	"archive/tar"

	"github.com/google/go-cmp/cmp"
)

// TestThreat_Archive_Hostile: archives that would leave their root, and bombs,
// are refused, in bounded memory, and nothing is written beside the temporary
// folder.
func TestThreat_Archive_Hostile(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t, "hostile"), "archive")
	for name, word := range map[string]string{
		"absolute.tar": "absolute path", "symlink-escape.tar": "outside of its root", "zipslip.zip": "leaves its root", "bomb-1GiB.gz": "",
	} {
		_, err := scan.Path(t.Context(), filepath.Join(dir, name), options)
		if err == nil || !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v, want a refusal with %q", name, err, word)
		}
	}
}

// TestThreat_Archive_Bomb: a tar whose one file has no end, packed.
func TestThreat_Archive_Bomb(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bomb.tar.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	w := tar.NewWriter(z)
	const size = 300 << 20
	if err := w.WriteHeader(&tar.Header{Name: "package-lock.json", Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	o := options
	o.Limits.Ratio = 100
	_, err = scan.Path(t.Context(), path, o)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, fault.TooLarge) {
		t.Errorf("got %v, want it too large", err)
	}
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 32<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	o.Limits.Ratio, o.Limits.Bytes = 1<<20, 64<<20
	if _, err := scan.Path(t.Context(), path, o); !errors.Is(err, fault.TooLarge) {
		t.Errorf("by bytes: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(os.TempDir(), "package-lock.json")); err == nil {
		t.Error("a file was unpacked")
	}
}

// TestThreat_Archive_Entries: an archive of more files than anybody has.
func TestThreat_Archive_Entries(t *testing.T) {
	var all []entry
	for range 500 {
		all = append(all, entry{name: "a/b", kind: tar.TypeDir})
	}
	path := filepath.Join(t.TempDir(), "many.tar")
	write(t, path, tarOf(t, all...))
	o := options
	o.Limits.Entries = 400
	if _, err := scan.Path(t.Context(), path, o); !errors.Is(err, fault.TooLarge) {
		t.Errorf("got %v, want it too large", err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for range 500 {
		if _, err := z.Create("x"); err != nil {
			t.Fatal(err)
		}
	}
	_ = z.Close()
	zipped := filepath.Join(t.TempDir(), "many.zip")
	write(t, zipped, b.Bytes())
	if _, err := scan.Path(t.Context(), zipped, o); !errors.Is(err, fault.TooLarge) {
		t.Errorf("zip: got %v, want it too large", err)
	}
}

// TestThreat_Archive_LayerIsNotItsDigest: an image whose layer is another than
// its manifest says is no evidence about that manifest.
func TestThreat_Archive_LayerIsNotItsDigest(t *testing.T) {
	good := tarOf(t, entry{name: "app/requirements.txt", text: "a==1\n"})
	for _, form := range []string{"saved", "layout"} {
		path := image(t, form, good)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Replace(b, []byte("a==1\n"), []byte("a==2\n"), 1)
		if bytes.Equal(b, bad) {
			t.Fatal("nothing was changed")
		}
		write(t, path, bad)
		if _, err := scan.Path(t.Context(), path, options); !errors.Is(err, fault.Tampered) {
			t.Errorf("%s: got %v, want it refused as tampered", form, err)
		}
	}
}

// TestThreat_Archive_LinksOfATreeAreNotFollowed: a link in a folder leads
// nowhere, a loop of links ends.
func TestThreat_Archive_LinksOfATreeAreNotFollowed(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	put(t, filepath.Join(outside, "requirements.txt"), "secret==1\n")
	put(t, filepath.Join(dir, "requirements.txt"), "own==1\n")
	for name, to := range map[string]string{"away": outside, "loop": ".", "sub-requirements.txt": filepath.Join(outside, "requirements.txt")} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	if diff := cmp.Diff([]string{"own 1"}, packages(t, scanPath(t, dir), "pypi")); diff != "" {
		t.Error(diff)
	}
}

// TestLayers: what an upper layer replaced, removed or made opaque is not there,
// a hard link is, and what is found says in which layer.
func TestLayers(t *testing.T) {
	req := func(name string) string { return name + "==1\n" }
	lower := tarOf(t,
		entry{name: "keep/requirements.txt", text: req("kept")},
		entry{name: "replaced/requirements.txt", text: req("old")},
		entry{name: "removed/requirements.txt", text: req("removed")},
		entry{name: "gone/deep/requirements.txt", text: req("gone")},
		entry{name: "opaque/requirements.txt", text: req("under")},
		entry{name: "file/requirements.txt", text: req("below-a-file")},
		entry{name: "./twice/requirements.txt", text: req("first")},
		entry{name: "twice/requirements.txt", text: req("second")},
		entry{name: "store/0001", text: req("linked")},
		entry{name: "linked/requirements.txt", kind: tar.TypeLink, link: "store/0001"},
	)
	upper := tarOf(t,
		entry{name: "replaced/requirements.txt", text: req("new")},
		entry{name: "removed/.wh.requirements.txt"},
		entry{name: ".wh.gone"},
		entry{name: "opaque/.wh..wh..opq"},
		entry{name: "opaque/requirements.txt", text: req("over")},
		entry{name: "file", text: "now a file"},
	)
	want := []string{"kept 1", "linked 1", "new 1", "over 1", "second 1"}
	for _, form := range []string{"saved", "layout", "layout.gz", "folder"} {
		d := scanPath(t, image(t, form, lower, upper))
		if diff := cmp.Diff(want, packages(t, d, "pypi")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", form, diff)
		}
		if form != "saved" {
			continue
		}
		where := []string{string(artifact.SHA256Of(upper)) + ":/replaced/requirements.txt"}
		if c := d.Component("pkg:pypi/new@1"); c == nil || cmp.Diff(where, c.Locations) != "" {
			t.Errorf("component %+v, want it at %q", c, where)
		}
	}
}

// TestArchives: a tree is read alike whatever carries it.
func TestArchives(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a", "Cargo.lock"), "version = 3\n[[package]]\nname = \"x\"\nversion = \"1.0.0\"\n")
	plain := tarOfFolder(t, dir)
	var zipped bytes.Buffer
	z := zip.NewWriter(&zipped)
	w, _ := z.Create("a/Cargo.lock")
	_, _ = io.WriteString(w, "version = 3\n[[package]]\nname = \"x\"\nversion = \"1.0.0\"\n")
	_ = z.Close()
	for name, b := range map[string][]byte{"t.tar": plain, "t.tgz": packed(t, plain), "t.zip": zipped.Bytes(), "t.tar.gz": packed(t, plain)} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, b)
		d := scanPath(t, path)
		if diff := cmp.Diff([]string{"x 1.0.0"}, packages(t, d, "cargo")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if root := d.Component(d.Roots[0]); root.Digests["sha256"] != artifact.SHA256Of(b).Hex() {
			t.Errorf("%s: the subject is %v", name, root.Digests)
		}
		again, err := scan.Reader(t.Context(), bytes.NewReader(b), name, options)
		if err != nil || cmp.Diff(d.Components, again.Components) != "" {
			t.Errorf("%s by standard input: %v", name, err)
		}
	}
	// A compressed image, whose parts stand in any order.
	img, err := os.ReadFile(image(t, "saved", plain))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar.gz")
	write(t, path, packed(t, img))
	if d := scanPath(t, path); d.Component(d.Roots[0]).Type != "container" || d.Component("pkg:cargo/x@1.0.0") == nil {
		t.Errorf("a compressed image: %+v", d.Components)
	}
}

// FuzzFile: whatever bytes stand under whatever name, the answer is a document
// or an error.
func FuzzFile(f *testing.F) {
	for _, name := range []string{"go.mod", "package-lock.json", "yarn.lock", "pnpm-lock.yaml", "poetry.lock", "Pipfile.lock", "Cargo.lock", "pom.xml", "gradle.lockfile", "Gemfile.lock", "composer.lock", "packages.lock.json", "requirements.txt", "x.jar", "program", "t.tar"} {
		f.Add(name, []byte("\x7fELF\x02\x01\x01"))
	}
	f.Add("package-lock.json", []byte(lock))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		o := options
		o.Limits = scan.Limits{Bytes: 1 << 20, Entries: 1000, File: 1 << 20, Program: 1 << 20, Components: 1000}
		o.TempDir = t.TempDir()
		d, err := scan.Reader(t.Context(), bytes.NewReader(b), filepath.Base(name), o)
		if err == nil && d == nil {
			t.Error("neither a document nor an error")
		}
	})
}

// TestThreat_Archive_ProgramOfImpossibleTables: a program of 64 bytes that says
// its tables have 4 GiB costs nothing.
func TestThreat_Archive_ProgramOfImpossibleTables(t *testing.T) {
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	head[16] = 2
	for _, at := range []int{54, 55, 56, 57, 58, 59, 60, 61} {
		head[at] = 0xff
	}
	path := filepath.Join(t.TempDir(), "program")
	write(t, path, head)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := scan.Path(t.Context(), path, options)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, fault.Invalid) || after.TotalAlloc-before.TotalAlloc > 8<<20 {
		t.Errorf("%v, %d bytes allocated", err, after.TotalAlloc-before.TotalAlloc)
	}
}
