package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"assay/artifact"
	"assay/event"
	"assay/sbom"
	"assay/store"
)

// scanBytes is about how large the image is whose parts are listed.
const scanBytes = 160_000_000

// sboms measures what a bill of materials costs: made of an image's archive and
// of its root file system, by the whole process, and read and indexed in a
// store.
func (b *bench) sboms(ctx context.Context) error {
	if err := b.sbomIngest(ctx); err != nil {
		return err
	}
	if err := b.sbomLarge(ctx); err != nil {
		return err
	}
	dir := b.folder("sbom")
	root := filepath.Join(dir, "root")
	size, err := debianRoot(ctx, root)
	if errors.Is(err, fs.ErrNotExist) {
		b.say("sbom.image, sbom.root: not a Debian machine, nothing to make an image of")
		return nil
	}
	if err != nil {
		return err
	}
	image := filepath.Join(dir, "image.tar")
	if err := saveImage(image, root, dir); err != nil {
		return err
	}
	for _, what := range []struct {
		name, path string
		seconds    float64
	}{{"sbom.image", image, 0.6}, {"sbom.root", root, 0.35}} {
		var cpu, peak samples
		packages := 0
		if err := b.turns(ctx, func(int) error {
			cmd := exec.CommandContext(ctx, b.assay, "sbom", "--quiet", what.path)
			cmd.Env = quietEnv()
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("assay sbom %s: %w\n%s", what.path, err, &stderr)
			}
			packages = bytes.Count(out, []byte(`"purl": "pkg:deb/`))
			cpu = append(cpu, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
			peak = append(peak, maxResident(cmd.ProcessState)/1e6)
			return nil
		}); err != nil {
			return err
		}
		f := figure(what.name+".cpu", "CPU s", cpu, &Aim{"<=", what.seconds})
		f.Note = fmt.Sprintf("%d MB, %d packages of Debian", int(size/1e6), packages)
		b.add(f)
		if peak.median() > 0 {
			f = figure(what.name+".memory", "MB", peak, &Aim{"<=", 60})
			f.Note = "peak resident set of the process"
			b.add(f)
		}
	}
	return nil
}

// debianRoot copies the part of this machine's root that an image of about
// scanBytes would hold: the package database first, then programs, libraries
// and documents.
func debianRoot(ctx context.Context, root string) (size int64, err error) {
	if _, err := os.Stat("/var/lib/dpkg/status"); err != nil {
		return 0, err
	}
	full := errors.New("large enough")
	for _, top := range []string{"/etc/os-release", "/var/lib/dpkg/status", "/var/lib/dpkg/info", "/usr/share/doc", "/usr/sbin", "/usr/bin", "/usr/lib/python3", "/usr/lib"} {
		limit := int64(scanBytes)
		if top == "/usr/share/doc" {
			limit = scanBytes / 3 // text is not what costs
		}
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err != nil || size >= limit {
				return full
			}
			name := p
			if p == "/etc/os-release" {
				name, err = filepath.EvalSymlinks(p)
			} else if !d.Type().IsRegular() {
				return nil
			}
			if err != nil {
				return err
			}
			st, err := os.Stat(name)
			if err != nil || st.Size() > scanBytes/10 || !st.Mode().IsRegular() {
				return nil //nolint:nilerr // gone, or too much of one thing
			}
			to := filepath.Join(root, p)
			if _, err := os.Lstat(to); err == nil {
				return nil
			}
			size += st.Size()
			return copyFile(to, name, st.Mode().Perm())
		})
		if err != nil && !errors.Is(err, full) {
			return 0, err
		}
	}
	return size, nil
}

func copyFile(to, from string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// saveImage writes what docker save does: one layer, its configuration, and the
// list of both.
func saveImage(path, root, dir string) error {
	layer := filepath.Join(dir, "layer.tar")
	if err := tarFile(layer, func(w *tar.Writer) error { return w.AddFS(os.DirFS(root)) }); err != nil {
		return err
	}
	defer os.Remove(layer)
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}`, artifact.NewDigest("sha256", h.Sum(nil)))
	return tarFile(path, func(w *tar.Writer) error {
		for name, text := range map[string]string{"config.json": config, "manifest.json": `[{"Config":"config.json","RepoTags":["bench:1"],"Layers":["layer.tar"]}]`} {
			if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
				return err
			}
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: "layer.tar", Size: size, Mode: 0o644}); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(w, f)
		return err
	})
}

func tarFile(path string, fill func(*tar.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	return errors.Join(fill(w), w.Close(), f.Close())
}

// sbomIngest measures documents of 500 components, read, stored and indexed.
func (b *bench) sbomIngest(ctx context.Context) error {
	n := 100
	if b.quick {
		n = 10
	}
	var rates, again samples
	m := startMeter(nil)
	if err := b.turns(ctx, func(round int) error {
		db, err := store.Open(ctx, "sqlite:"+filepath.Join(b.dir, fmt.Sprintf("sbom-%d.db", round)))
		if err != nil {
			return err
		}
		defer db.Close()
		if err := db.Migrate(ctx, event.Migrations, sbom.Migrations); err != nil {
			return err
		}
		s := sbom.NewStore(db, sbom.Limits{})
		index := func(fresh bool) (float64, error) {
			began := ownCPU()
			for i := range n {
				from := sbom.Source{Attestation: fmt.Sprintf("att_%d", i), Subject: artifact.SHA256Of(fmt.Append(nil, i)), Identity: benchSubject}
				ix, isNew, err := s.Index(ctx, from, strings.NewReader(benchSBOM(i)))
				if err != nil || isNew != fresh || ix.Packages != 500 {
					return 0, fmt.Errorf("document %d: fresh %v, %d packages: %w", i, isNew, ix.Packages, err)
				}
			}
			return float64(n) / (ownCPU() - began).Seconds(), nil
		}
		rate, err := index(true)
		if err != nil {
			return err
		}
		rates = append(rates, rate)
		if rate, err = index(false); err != nil {
			return err
		}
		again = append(again, rate)
		return nil
	}); err != nil {
		return err
	}
	others := m.stop(b.processors).others
	f := figure("sbom.ingest", "1/CPU s", rates, &Aim{">=", 25})
	f.Others, f.Note = others, "500 components each, half of them in other documents too, SQLite"
	b.add(f)
	f = figure("sbom.ingest.again", "1/CPU s", again, nil)
	f.Others, f.Note = others, "the same documents once more: nothing is written"
	b.add(f)
	return nil
}

// benchSBOM is a document of 500 packages; every second one is in others too.
func benchSBOM(i int) string {
	type component struct {
		Type    string `json:"type"`
		Ref     string `json:"bom-ref"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
	}
	type dependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
	var all []component
	root := dependency{Ref: "root"}
	for n := range 500 {
		name := fmt.Sprintf("package-%d", n)
		if n%2 == 0 {
			name = fmt.Sprintf("package-%d-%d", i, n)
		}
		purl := "pkg:npm/" + name + "@1.2.3"
		all = append(all, component{"library", purl, name, "1.2.3", purl})
		root.On = append(root.On, purl)
	}
	doc, _ := json.Marshal(map[string]any{ //nolint:errchkjson // strings only
		"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
		"metadata":   map[string]any{"component": component{"application", "root", "app", fmt.Sprint(i), fmt.Sprintf("pkg:generic/app@%d", i)}},
		"components": all, "dependencies": []dependency{root},
	})
	return string(doc)
}
