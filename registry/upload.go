package registry

import (
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// writers are the actions that let somebody bring blobs into a repository:
// those who sign push signatures, which are blobs and manifests too. What the
// blob is for shows only when a manifest names it.
var writers = []identity.Action{identity.ActSign, identity.ActCreate}

// startUpload answers POST /v2/<name>/blobs/uploads/: a mount, a whole blob in
// one request, or the begin of a session.
func (r *Registry) startUpload(q *request) error {
	name, query := q.route.name, q.URL.Query()
	if err := r.allowAny(q, name, writers...); err != nil {
		return err
	}
	if alg := query.Get("digest-algorithm"); alg != "" {
		if _, ok := artifact.NewHash(alg); !ok {
			return failf(codeDigestInvalid, fault.Invalid, "digest algorithm %.40q: want sha256, sha384 or sha512", alg)
		}
	}
	if m := query.Get("mount"); m != "" {
		d, err := parseDigest(m)
		if err != nil {
			return err
		}
		if from := query.Get("from"); from != "" && !ValidName(from) {
			return failf(codeNameInvalid, fault.Invalid, "from=%.300q is no repository name", from)
		}
		switch ok, err := r.mount(q, d, query.Get("from")); {
		case err != nil:
			return err
		case ok:
			return blobCreated(q, d)
		}
	}
	want, err := wantedDigest(q, false)
	if err != nil {
		return err
	}
	if err := r.begun.room(q.caller.owner(), time.Now()); err != nil {
		return err
	}
	w, err := r.blobs.Create(q.Context())
	if err != nil {
		return err
	}
	if want != "" && query.Get("mount") == "" {
		return r.receiveWhole(q, w, want)
	}
	location := r.uploadPath(q, w.ID())
	r.begun.begin(q.caller.owner(), w.ID(), time.Now())
	if err := w.Close(); err != nil {
		return err
	}
	h := q.w.Header()
	uploadHeaders(h, location, 0)
	h.Set("Docker-Upload-Uuid", w.ID())
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

// wantedDigest reads the digest parameter.
func wantedDigest(q *request, required bool) (artifact.Digest, error) {
	s := q.URL.Query().Get("digest")
	if s == "" && !required {
		return "", nil
	}
	return parseDigest(s)
}

// receiveWhole is the single POST: the session never leaves this request.
func (r *Registry) receiveWhole(q *request, w blob.Writer, want artifact.Digest) error {
	if err := r.receive(q, w); err != nil {
		_ = w.Cancel() // the first error says more
		return err
	}
	return r.finishUpload(q, w, want)
}

// patchUpload answers PATCH: one chunk, or a stream of unknown length.
func (r *Registry) patchUpload(q *request) error {
	w, err := r.resume(q)
	if err != nil {
		return err
	}
	if err := errors.Join(r.receive(q, w), w.Close()); err != nil {
		return err
	}
	uploadHeaders(q.w.Header(), q.URL.Path, w.Offset())
	q.w.Header().Set("Docker-Upload-Uuid", w.ID())
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

// putUpload answers PUT: the last chunk, if any, and the end of the session.
func (r *Registry) putUpload(q *request) error {
	want, err := wantedDigest(q, true)
	if err != nil {
		return err
	}
	w, err := r.resume(q)
	if err != nil {
		return err
	}
	if err := r.receive(q, w); err != nil {
		return errors.Join(err, w.Close())
	}
	return r.finishUpload(q, w, want)
}

// uploadStatus answers GET of a session.
func (r *Registry) uploadStatus(q *request) error {
	w, err := r.resume(q)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	uploadHeaders(q.w.Header(), q.URL.Path, w.Offset())
	q.w.Header().Set("Docker-Upload-Uuid", w.ID())
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// cancelUpload answers DELETE of a session.
func (r *Registry) cancelUpload(q *request) error {
	w, err := r.resume(q)
	if err != nil {
		return err
	}
	if err := w.Cancel(); err != nil {
		return err
	}
	r.begun.end(q.caller.owner(), w.ID())
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// uploadPath is a session's URL path: the store's id and a MAC that binds it to
// the repository and to who began it, so that no state is kept here and no
// other repository or principal can finish the upload. It is relative: a client
// resolves it against the host that it trusts with its credentials.
func (r *Registry) uploadPath(q *request, id string) string {
	return "/v2/" + q.route.name + "/blobs/uploads/" + id + "." + hex.EncodeToString(r.ids.sum(uploadOf(q, id))[:uploadMAC])
}

const uploadMAC = 16 // bytes

// uploadOf is what the MAC of an upload binds.
func uploadOf(q *request, id string) string {
	return id + "\n" + q.route.name + "\n" + q.caller.owner()
}

func (r *Registry) resume(q *request) (blob.Writer, error) {
	if err := r.allowAny(q, q.route.name, writers...); err != nil {
		return nil, err
	}
	id, mac, _ := strings.Cut(q.route.ref, ".")
	if sum, err := hex.DecodeString(mac); err != nil || !r.ids.holds(uploadOf(q, id), sum, uploadMAC) {
		return nil, failf(codeUploadUnknown, fault.NotFound, "no such upload of yours in repository %s; begin a new one", q.route.name)
	}
	w, err := r.blobs.Resume(q.Context(), id)
	if errors.Is(err, fault.Conflict) {
		return nil, &failure{code: codeUploadInvalid, status: http.StatusConflict, err: err}
	}
	return w, withCode(err, fault.NotFound, codeUploadUnknown)
}

// receive appends the request's body to a session, within the limits. The
// session stays usable when it errs: what arrived is kept, and the status tells
// how much.
func (r *Registry) receive(q *request, w blob.Writer) error {
	left, exact, err := r.expect(q, w.Offset())
	if err != nil {
		return err
	}
	if q.ContentLength == 0 {
		return nil
	}
	release, err := r.uploadSlot(q)
	if err != nil {
		return err
	}
	defer release()
	body := &bodyReader{r: r.patient(q)}
	n, err := io.Copy(w, io.LimitReader(body, left))
	switch {
	case body.err != nil:
		return bodyError(body.err)
	case err != nil:
		return err
	case exact && n < left:
		return failf(codeSizeInvalid, fault.Invalid, "the body has %d bytes, Content-Range says %d", n, left)
	case n < left:
		return nil
	}
	if extra, _ := io.ReadFull(body, make([]byte, 1)); extra > 0 {
		if exact {
			return failf(codeSizeInvalid, fault.Invalid, "the body is longer than the %d bytes that Content-Range says", left)
		}
		return blobTooLarge(r.limits.MaxBlob)
	}
	return nil
}

// expect checks Content-Range and Content-Length against where the session
// stands, and gives the number of bytes to take: exactly that many, or at most.
func (r *Registry) expect(q *request, offset int64) (n int64, exact bool, err error) {
	n = r.limits.MaxBlob - offset
	if h := q.Header.Get("Content-Range"); h != "" {
		rng, err := parseContentRange(h)
		if err != nil {
			return 0, false, err
		}
		if rng.first != offset {
			return 0, false, &failure{
				code: codeUploadInvalid, status: http.StatusRequestedRangeNotSatisfiable,
				err:      fault.Newf(fault.Invalid, "Content-Range begins at byte %d, the upload stands at %d: go on there", rng.first, offset),
				location: q.URL.Path, at: offset,
			}
		}
		if rng.length() > n {
			return 0, false, blobTooLarge(r.limits.MaxBlob)
		}
		if q.ContentLength >= 0 && q.ContentLength != rng.length() {
			return 0, false, failf(codeSizeInvalid, fault.Invalid, "Content-Length is %d, Content-Range says %d bytes", q.ContentLength, rng.length())
		}
		return rng.length(), true, nil
	}
	if q.ContentLength > n {
		return 0, false, blobTooLarge(r.limits.MaxBlob)
	}
	return n, false, nil
}

func blobTooLarge(most int64) error {
	return failf(codeSizeInvalid, fault.TooLarge, "the blob is larger than the %d bytes that this registry takes", most)
}

// uploadSlot waits for one of the caller's places for bodies being written.
func (r *Registry) uploadSlot(q *request) (release func(), err error) {
	leave, err := r.uploads.take(q.Context(), q.caller.owner(), r.limits.UploadWait)
	if err != nil {
		return nil, err
	}
	r.met.uploading.Inc()
	return func() {
		r.met.uploading.Dec()
		leave()
	}, nil
}

// finishUpload commits a session and makes the blob its uploader's. The answer
// follows the blob's fsync and the row's commit.
func (r *Registry) finishUpload(q *request, w blob.Writer, want artifact.Digest) error {
	ctx := q.Context()
	if err := sweep.Clear(ctx, r.db, want); err != nil {
		return errors.Join(err, w.Close())
	}
	if err := w.Commit(ctx, want); err != nil {
		return withCode(err, fault.Invalid, codeDigestInvalid)
	}
	r.begun.end(q.caller.owner(), w.ID())
	err := r.db.Update(ctx, func(tx *store.Tx) error {
		return insertUpload(ctx, tx, q.route.name, want, q.caller.owner())
	})
	if err == nil {
		err = r.stillThere(ctx, want)
	}
	if err != nil {
		return err
	}
	return blobCreated(q, want)
}

func blobCreated(q *request, d artifact.Digest) error {
	h := q.w.Header()
	h.Set("Location", "/v2/"+q.route.name+"/blobs/"+string(d))
	h.Set("Docker-Content-Digest", string(d))
	q.w.WriteHeader(http.StatusCreated)
	return nil
}
