package builder

import (
	"io"
	"os"
	"path/filepath"

	"assay/internal/fault"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ArtifactType is the type of an OCI artifact of products: its config's media
// type, as the distribution specification has it.
const ArtifactType = "application/vnd.assay.products.v1+json"

// productType is the media type of a product as a layer.
const productType = "application/octet-stream"

// Artifact makes an OCI artifact of a run's products: each file is a layer as it
// is, with its name as title, so that oras pull gives the files back. The same
// products give the same digest everywhere.
func (r *Run) Artifact() (v1.Image, error) {
	if len(r.Products) == 0 {
		return nil, fault.Newf(fault.Invalid, "an artifact wants a product: name one with --products")
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), ArtifactType)
	for _, p := range r.Products {
		h, err := v1.NewHash(string(p.Digest))
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:       fileLayer{path: within(r.dir, filepath.FromSlash(p.Name)), hash: h, size: p.Size},
			MediaType:   productType,
			Annotations: map[string]string{"org.opencontainers.image.title": p.Name},
		})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// fileLayer is a file as a layer, read as it is pushed. The registry holds it to
// its digest, so that a file that changed meanwhile is refused.
type fileLayer struct {
	path string
	hash v1.Hash
	size int64
}

func (l fileLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l fileLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }
func (l fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l fileLayer) MediaType() (types.MediaType, error)  { return productType, nil }
