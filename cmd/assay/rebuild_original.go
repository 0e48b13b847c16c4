package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"assay/artifact"
	"assay/internal/oci"
)

// Bounds of looking for what was built first in the image of it.
const (
	maxOriginalLayers = 32
	maxOriginalBytes  = 1 << 30 // of all layers, unpacked
)

// originalIn gives a function that finds a file of the first build, by its
// digest, in the image that was made of it; and one that removes what it kept.
// Where it is not there, or the image cannot be had, there is none: the digests
// say that something differs all the same.
func (s *session) originalIn(ctx context.Context, ref artifact.Reference) (find func(artifact.Digest) string, done func()) {
	dir, err := os.MkdirTemp("", "assay-original-")
	if err != nil {
		return nil, func() {}
	}
	find = func(want artifact.Digest) string {
		path := filepath.Join(dir, want.Hex())
		found, err := s.extract(ctx, ref, want, path)
		if err != nil {
			s.app.notef("assay: the first build's file is not to be had from %s: %s\n", line(ref.String()), clean(err.Error()))
		}
		if !found {
			return ""
		}
		return path
	}
	return find, func() { _ = os.RemoveAll(dir) }
}

// extract writes the file with a digest to path, if an image's layers hold it: as
// a layer of its own, or in one that is a tar.
func (s *session) extract(ctx context.Context, ref artifact.Reference, want artifact.Digest, path string) (bool, error) {
	m, err := s.registry().Manifest(ctx, ref)
	if err != nil {
		return false, err
	}
	var doc struct {
		Layers []oci.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(m.Bytes, &doc); err != nil {
		return false, err
	}
	left := int64(maxOriginalBytes)
	for _, l := range doc.Layers[:min(len(doc.Layers), maxOriginalLayers)] {
		isTar := strings.Contains(l.MediaType, "tar") && !strings.Contains(l.MediaType, "zstd")
		if l.Size > left || !isTar && l.Digest != want {
			continue
		}
		found, err := s.extractLayer(ctx, ref, l, want, path, &left)
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

func (s *session) extractLayer(ctx context.Context, ref artifact.Reference, l oci.Descriptor, want artifact.Digest, path string, left *int64) (bool, error) {
	b, err := s.registry().BlobReader(ctx, ref, l.Digest, l.Size)
	if err != nil {
		return false, err
	}
	defer b.Close()
	if l.Digest == want {
		return keepIf(want, b, path)
	}
	var in io.Reader = b
	if strings.Contains(l.MediaType, "gzip") {
		z, err := gzip.NewReader(b)
		if err != nil {
			return false, err
		}
		in = z
	}
	bounded := &io.LimitedReader{R: in, N: *left}
	defer func() { *left = bounded.N }()
	for r := tar.NewReader(bounded); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if found, err := keepIf(want, r, path); found || err != nil {
			return found, err
		}
	}
}

// keepIf writes what is read to path, and takes it away again when it is
// something else than what is wanted.
func keepIf(want artifact.Digest, r io.Reader, path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	got, _, err := artifact.SHA256Reader(io.TeeReader(r, f))
	if err = errors.Join(err, f.Close()); err == nil && got == want {
		return true, nil
	}
	return false, errors.Join(err, os.Remove(path))
}
