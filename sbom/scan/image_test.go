package scan_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"assay/artifact"
)

// entry is a file of a layer.
type entry struct {
	name, text, link string
	kind             byte
	mode             int64
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.text))}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarOfFolder(t testing.TB, dir string) []byte {
	t.Helper()
	var all []entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		all = append(all, entry{name: filepath.ToSlash(rel), text: string(b)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tarOf(t, all...)
}

func packed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func imageOf(t testing.TB, form, root string) string { return image(t, form, tarOfFolder(t, root)) }

// image makes an image of layers, the lowest first, in one of the forms that
// tools write.
func image(t testing.TB, form string, layers ...[]byte) string {
	t.Helper()
	digests := make([]artifact.Digest, len(layers))
	for i, l := range layers {
		digests[i] = artifact.SHA256Of(l)
	}
	config := marshal(t, map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": digests}})
	out := filepath.Join(t.TempDir(), "image.tar")
	if form == "saved" {
		all := []entry{{name: "config.json", text: string(config)}}
		var names []string
		for i, l := range layers {
			name := digests[i].Hex() + "/layer.tar"
			names = append(names, name)
			all = append(all, entry{name: name, text: string(l)})
		}
		all = append(all, entry{name: "manifest.json", text: string(marshal(t, []any{map[string]any{"Config": "config.json", "RepoTags": []string{"team/app:v1"}, "Layers": names}}))})
		write(t, out, tarOf(t, all...))
		return out
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(b []byte, media string) map[string]any {
		d := artifact.SHA256Of(b)
		files["blobs/sha256/"+d.Hex()] = b
		return map[string]any{"mediaType": media, "digest": d, "size": len(b)}
	}
	var list []any
	for _, l := range layers {
		if form == "layout.gz" {
			l = packed(t, l)
		}
		list = append(list, blob(l, "application/vnd.oci.image.layer.v1.tar"))
	}
	manifest := marshal(t, map[string]any{"schemaVersion": 2, "config": blob(config, "application/vnd.oci.image.config.v1+json"), "layers": list})
	entry1 := blob(manifest, "application/vnd.oci.image.manifest.v1+json")
	files["index.json"] = marshal(t, map[string]any{"schemaVersion": 2, "manifests": []any{entry1}})
	if form == "folder" {
		dir := t.TempDir()
		for name, b := range files {
			put(t, filepath.Join(dir, name), string(b))
		}
		return dir
	}
	var all []entry
	for name, b := range files {
		all = append(all, entry{name: name, text: string(b)})
	}
	write(t, out, tarOf(t, all...))
	return out
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
