package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"assay/internal/fault"
)

// Read reads a bundle as OPA packs it: a tar, compressed with gzip. Links,
// devices and names that lead elsewhere are refused, sizes are bounded before
// anything is kept. Errors are fault.Invalid or fault.TooLarge.
func Read(archive []byte) (*Bundle, error) {
	if len(archive) > MaxArchive {
		return nil, fault.Newf(fault.TooLarge, "bundle of %d bytes: at most %d are read", len(archive), MaxArchive)
	}
	zr, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "bundle: want a tar compressed with gzip: %w", err)
	}
	limited := &io.LimitedReader{R: zr, N: MaxBytes + MaxFiles*1024}
	tr := tar.NewReader(limited)
	files := map[string][]byte{}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if limited.N <= 0 {
				return nil, fault.Newf(fault.TooLarge, "bundle: more than %d bytes", MaxBytes)
			}
			return nil, fault.Newf(fault.Invalid, "bundle: tar: %w", err)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(h.Name, "./"), "/")
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return nil, fault.Newf(fault.Invalid, "bundle: %.120q: only plain files belong into a bundle", h.Name)
		}
		if name == "" || !fs.ValidPath(name) {
			return nil, fault.Newf(fault.Invalid, "bundle: file %.120q: want a plain path below the bundle", h.Name)
		}
		if _, twice := files[name]; twice {
			return nil, fault.Newf(fault.Invalid, "bundle: %.120q stands in it twice", name)
		}
		if h.Size > MaxBytes || len(files) >= MaxFiles {
			return nil, fault.Newf(fault.TooLarge, "bundle: more than %d files or %d bytes", MaxFiles, MaxBytes)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "bundle: %.120q: %w", name, err)
		}
		files[name] = b
	}
	return FromFiles(files)
}

// Archive packs the bundle: files in the order of their paths, no times, no
// owners. The same files give the same tar.
func (b *Bundle) Archive() ([]byte, error) {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for _, name := range b.Files() {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "/" + name, Size: int64(len(b.files[name])), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if len(h.Name) > 99 {
			h.Format = tar.FormatPAX
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, fault.Newf(fault.Invalid, "bundle: %s: %w", name, err)
		}
		if _, err := tw.Write(b.files[name]); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	if out.Len() > MaxArchive {
		return nil, fault.Newf(fault.TooLarge, "bundle of %d bytes compressed: at most %d", out.Len(), MaxArchive)
	}
	return out.Bytes(), nil
}

// Folder reads the bundle that a folder is. Files and folders whose names begin
// with a dot are left out, but for the manifest; links are not followed.
func Folder(dir string) (*Bundle, []byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fault.Newf(fault.Invalid, "bundle: %w", err)
	}
	defer root.Close()
	files := map[string][]byte{}
	var signature []byte
	total := int64(0)
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(path.Base(p), ".") && p != "."
		switch {
		case d.IsDir() && hidden:
			return fs.SkipDir
		case !d.Type().IsRegular(), hidden && p != ManifestFile && p != SignatureFile:
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if total += st.Size(); total > MaxBytes || len(files) >= MaxFiles {
			return fault.Newf(fault.TooLarge, "%s: more than %d files or %d bytes: name the folder of the policies", filepath.Join(dir, p), MaxFiles, MaxBytes)
		}
		b, err := fs.ReadFile(root.FS(), p)
		if err != nil {
			return err
		}
		if p == SignatureFile {
			signature = b
			return nil
		}
		files[p] = b
		return nil
	})
	if err != nil {
		return nil, nil, fault.Newf(fault.KindOf(err), "bundle: %w", err)
	}
	b, err := FromFiles(files)
	return b, signature, err
}
