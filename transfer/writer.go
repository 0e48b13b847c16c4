package transfer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
)

// Size is how many bytes a file has, so that it can be announced before it is
// written.
func Size(signed []byte, m *Manifest) int64 {
	padded := func(n int64) int64 { return 512 + (n+511)/512*512 }
	n := padded(int64(len(signed))) + 1024
	for _, e := range m.Members {
		n += padded(e.Size)
	}
	return n
}

// Write writes the file of a signed manifest out of a blob store, which holds
// every member. The same manifest gives the same bytes each time. A blob that is
// gone is fault.NotFound: garbage collection or a deletion took it, and only a
// new export helps.
func Write(ctx context.Context, w io.Writer, signed []byte, blobs blob.Store) error {
	_, m, _, err := parseSigned(signed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := put(t, manifestName, int64(len(signed)), m.Created); err != nil {
		return err
	}
	if _, err := t.Write(signed); err != nil {
		return err
	}
	for _, e := range m.Members {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeMember(ctx, t, e, m.Created, blobs); err != nil {
			return fmt.Errorf("bundle member %s (%s): %w", e.Path, e.Kind, err)
		}
	}
	return t.Close()
}

func put(t *tar.Writer, name string, size int64, at time.Time) error {
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: at.UTC().Truncate(time.Second), Format: tarFormat(size)})
}

// tarFormat is USTAR, whose sizes end at 8 GiB; larger members are GNU's, which
// needs no extended header either.
func tarFormat(size int64) tar.Format {
	if size >= 1<<33 {
		return tar.FormatGNU
	}
	return tar.FormatUSTAR
}

func writeMember(ctx context.Context, t *tar.Writer, e Member, at time.Time, blobs blob.Store) error {
	f, err := blobs.Open(ctx, e.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Size() != e.Size {
		return fault.Newf(fault.Tampered, "the stored blob has %d bytes, want %d", f.Size(), e.Size)
	}
	if err := put(t, e.Path, e.Size, at); err != nil {
		return err
	}
	// Hashed on the way: what was altered on disk would be refused by every
	// importer, and is better found here.
	h, _ := artifact.NewHash(artifact.SHA256)
	if _, err := io.CopyN(io.MultiWriter(t, h), f, e.Size); err != nil {
		return err
	}
	if got := artifact.NewDigest(artifact.SHA256, h.Sum(nil)); got != e.Digest {
		return fault.Newf(fault.Tampered, "the stored blob hashes to %s: restore it from a backup (assay backup)", got)
	}
	return nil
}

// SizeOf is [Size] of a signed manifest alone.
func SizeOf(signed []byte) (int64, error) {
	_, m, _, err := parseSigned(signed)
	if err != nil {
		return 0, err
	}
	return Size(signed, m), nil
}
