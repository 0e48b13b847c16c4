package builder

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"strings"
	"time"

	"assay/internal/fault"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The accounts of an image that has some: root, for names, and the user that
// runs. Neither has a shell or a password.
const (
	imagePasswd = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n"
	imageGroup  = "root:x:0:\nnonroot:x:65532:\n"
)

const maxCertificates = 8 << 20

// Base is what an image has besides its products, for programs that speak TLS and
// ask for their user's name: certificates, accounts, a folder /tmp. No shell, no
// package manager, nothing that runs.
type Base struct {
	// Certificates are those of the authorities that TLS clients trust, PEM:
	// /etc/ssl/certs/ca-certificates.crt. Nothing but certificates may stand there.
	Certificates []byte
}

func (b *Base) check() error {
	if len(b.Certificates) > maxCertificates {
		return fault.Newf(fault.Invalid, "certificates: want at most %d bytes", maxCertificates)
	}
	n := 0
	for rest := b.Certificates; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fault.Newf(fault.Invalid, "certificates: block %d is a %.60s: want certificates and nothing else", n+1, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil && !strings.Contains(err.Error(), "negative serial") {
			return fault.Newf(fault.Invalid, "certificates: number %d: %w", n+1, err)
		}
	}
	if n == 0 {
		return fault.Newf(fault.Invalid, "certificates: want PEM, such as /etc/ssl/certs/ca-certificates.crt")
	}
	return nil
}

// ImageOn is Image with a base layer over the products'. The same products and
// the same certificates give the same digest everywhere.
func (r *Run) ImageOn(dir string, b Base) (v1.Image, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	img, err := r.Image(dir)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range []struct {
		name string
		mode int64
		body []byte
	}{
		{"etc/", 0o755, nil},
		{"etc/group", 0o644, []byte(imageGroup)},
		{"etc/passwd", 0o644, []byte(imagePasswd)},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, b.Certificates},
		{"tmp/", 0o1777, nil},
	} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.body)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
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
	return mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{CreatedBy: "assay run --image-certs", Created: v1.Time{Time: time.Unix(0, 0).UTC()}}})
}
