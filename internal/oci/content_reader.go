package oci

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"assay/artifact"
	"assay/internal/fault"
)

// Content streams what lies under a digest in a repository: a manifest or a
// blob, of size bytes or, with -1, of as many as the registry says. As with
// [Client.BlobReader], Read gives io.EOF only when all of it has the digest.
func (c *Client) Content(ctx context.Context, ref artifact.Reference, d artifact.Digest, manifest bool, size int64) (io.ReadCloser, error) {
	if manifest {
		m, err := c.Manifest(ctx, ref.WithDigest(d))
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(m.Bytes)), nil
	}
	if size < 0 {
		resp, err := c.do(ctx, http.MethodHead, ref, "/blobs/"+string(d), nil, nil)
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, statusError("blob "+string(d), resp)
		}
		if size = resp.ContentLength; size < 0 {
			return nil, fault.Newf(fault.Unavailable, "blob %s: the registry does not say how long it is", d)
		}
	}
	return c.BlobReader(ctx, ref, d, size)
}
