package builder

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"time"

	"assay/artifact"
	"assay/internal/fault"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image makes an OCI image of a run's products: one layer with each file under
// /usr/local/bin, mode 0755, owned by root with the time 0, so that the same
// products give the same digest everywhere. The first product is the
// entrypoint; the user is 65532, not root.
func (r *Run) Image(dir string) (v1.Image, error) {
	if len(r.Products) == 0 {
		return nil, fault.Newf(fault.Invalid, "an image wants a product: name one with --products")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, p := range []string{"usr/", "usr/local/", "usr/local/bin/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: p, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
	}
	seen := map[string]string{}
	for _, p := range r.Products {
		if other, twice := seen[path.Base(p.Name)]; twice {
			return nil, fault.Newf(fault.Invalid, "products %s and %s would be one file of the image: give them different names", other, p.Name)
		}
		seen[path.Base(p.Name)] = p.Name
		if err := addProduct(w, abs, p); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{CreatedBy: "assay run --image", Created: v1.Time{Time: time.Unix(0, 0).UTC()}}})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = runtime.GOOS, runtime.GOARCH
	cfg.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cfg.Config.User = "65532:65532"
	cfg.Config.Entrypoint = []string{"/usr/local/bin/" + path.Base(r.Products[0].Name)}
	return mutate.ConfigFile(img, cfg)
}

// addProduct writes the file that was hashed, and checks that it is still that
// file: what is attested and what is shipped are the same bytes.
func addProduct(w *tar.Writer, dir string, p File) error {
	b, err := os.ReadFile(within(dir, filepath.FromSlash(p.Name)))
	if err != nil {
		return err
	}
	if artifact.SHA256Of(b) != p.Digest {
		return fault.Newf(fault.Tampered, "product %s changed after the build", p.Name)
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "usr/local/bin/" + path.Base(p.Name), Mode: 0o755, Size: p.Size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
