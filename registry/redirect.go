package registry

import (
	"context"
	"net/http"
	"time"

	"assay/artifact"
)

// presigner is a blob store that can hand its clients to an object store: S3.
type presigner interface {
	PresignGet(ctx context.Context, d artifact.Digest, ttl time.Duration) (url string, err error)
}

// redirectFrom is the least size that is worth another request.
const redirectFrom = 1 << 20

// redirects says whether a blob may be fetched from the object store itself. It
// may only where each pull's record is committed before its answer ends: past
// that point nobody here sees what the client fetches.
func (r *Registry) redirects(q *request, size int64) (presigner, bool) {
	p, can := r.blobs.(presigner)
	return p, can && r.redirect > 0 && r.strictAudit && q.route.op == opBlobGet && size >= redirectFrom
}

// redirectBlob sends the client to a short-lived address of the object store
// (OCI distribution 1.1, "Pulling blobs": a client follows 307).
func (r *Registry) redirectBlob(q *request, p presigner, d artifact.Digest) error {
	u, err := p.PresignGet(q.Context(), d, r.redirect)
	if err != nil {
		return err
	}
	h := q.w.Header()
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Cache-Control", "private, no-store") // the address is a right to read
	h.Set("Location", u)
	q.w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}
