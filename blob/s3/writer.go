package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/minio/minio-go/v7"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// state is a session as the bucket keeps it: one line of JSON, then Tail bytes.
type state struct {
	Version int    `json:"version"` // 1
	Upload  string `json:"upload"`  // of the multipart upload; "": none yet
	Parts   []part `json:"parts"`
	Tail    int64  `json:"tail"`   // bytes that follow the line
	Size    int64  `json:"size"`   // of the parts and the tail
	SHA256  []byte `json:"sha256"` // running hash of all of it, crypto/sha256's own form
}

type part struct {
	ETag string `json:"etag"`
	Size int64  `json:"size"`
}

const (
	stateVersion = 1
	maxStateLine = 2 << 20 // 10,000 parts have some 600 kB
	maxParts     = 10_000  // S3's limit
	maxCopy      = 5 << 30 // bytes that S3 copies in one request
)

// partSize is the size of the n-th part (from 0): S3 wants 5 MiB at least and
// 10,000 parts at most. Small parts keep the memory of small uploads small; 10,000
// of these hold 290 GiB.
func (s *Store) partSize(n int) int64 {
	switch {
	case s.o.PartSize > 0:
		return s.o.PartSize
	case n < 2000:
		return 5 << 20
	case n < 6000:
		return 16 << 20
	}
	return 56 << 20
}

// writer is a session held by this process.
type writer struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // io.Writer takes none; it outlives the request that began it
	id   string
	sum  hash.Hash
	st   state
	buf  []byte // bytes since the last part
	etag string // of the state in the bucket; "": it has none
	bad  error  // what ended writing: only the state in the bucket still counts
	done bool
}

// Create begins a session. It comes into the bucket with its first part or Close.
func (s *Store) Create(ctx context.Context) (blob.Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &writer{s: s, ctx: context.WithoutCancel(ctx), id: newID(), sum: sha256.New(), st: state{Version: stateVersion}}
	s.hold(w.id)
	return w, nil
}

// Resume takes a session up where its state in the bucket stands.
func (s *Store) Resume(ctx context.Context, id string) (_ blob.Writer, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !validID(id) {
		return nil, fault.Newf(fault.NotFound, "upload %.40q: no such session; begin a new upload", id)
	}
	if !s.hold(id) {
		return nil, fault.Newf(fault.Conflict, "upload %s: another request is writing to it; wait for that one to end", id)
	}
	defer func() {
		if err != nil {
			s.release(id)
		}
	}()
	w := &writer{s: s, ctx: context.WithoutCancel(ctx), id: id, sum: sha256.New()}
	if err := w.load(ctx); err != nil {
		return nil, fmt.Errorf("resume upload %s: %w", id, err)
	}
	return w, nil
}

var errNoSession = fault.Newf(fault.NotFound, "no such session: it was finished, cancelled or has expired; begin a new upload")

func (w *writer) load(ctx context.Context) error {
	s := w.s
	body, info, _, err := s.c.GetObject(ctx, s.o.Bucket, w.key("state"), minio.GetObjectOptions{})
	if err != nil {
		if gone(err) {
			return errNoSession
		}
		return unavailable(err)
	}
	defer body.Close()
	limit := int64(maxStateLine + 64<<20)
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return unavailable(err)
	}
	line, tail, ok := bytes.Cut(b, []byte("\n"))
	if !ok || int64(len(b)) > limit || strictjson.Unmarshal(line, &w.st, strictjson.RejectUnknown()) != nil ||
		w.st.Version != stateVersion || w.st.Tail != int64(len(tail)) ||
		w.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(w.st.SHA256) != nil {
		return fault.Newf(fault.NotFound, "its state in the bucket does not read (written by another version?); begin a new upload")
	}
	w.buf, w.etag = tail, info.ETag
	if w.st.Upload == "" {
		return nil
	}
	// Parts can have been cleared away by a rule of the bucket.
	if _, err := s.c.ListObjectParts(ctx, s.o.Bucket, w.key("data"), w.st.Upload, 0, 1); err != nil {
		if gone(err) {
			return errNoSession
		}
		return unavailable(err)
	}
	return nil
}

func (w *writer) key(name string) string { return w.s.key("uploads", w.id, name) }

func (w *writer) ID() string    { return w.id }
func (w *writer) Offset() int64 { return w.st.Size }

func (w *writer) Write(b []byte) (int, error) {
	if w.done {
		return 0, ended(w.id)
	}
	if w.bad != nil {
		return 0, w.bad
	}
	n := 0
	for n < len(b) {
		room := w.s.partSize(len(w.st.Parts)) - int64(len(w.buf))
		k := int(min(int64(len(b)-n), room))
		w.buf = append(w.buf, b[n:n+k]...)
		w.sum.Write(b[n : n+k])
		w.st.Size += int64(k)
		n += k
		if int64(k) < room {
			continue
		}
		ctx, cancel := context.WithTimeout(w.ctx, requestTimeout)
		err := w.flush(ctx)
		if err == nil {
			err = w.save(ctx)
		}
		cancel()
		if err != nil {
			w.bad = fmt.Errorf("write upload %s at byte %d: %w", w.id, w.st.Size, unavailable(err))
			return n, w.bad
		}
	}
	return n, nil
}

// flush sends the buffer as the next part.
func (w *writer) flush(ctx context.Context) error {
	s := w.s
	if len(w.st.Parts) >= maxParts {
		return fault.Newf(fault.TooLarge, "a blob of more than %d bytes does not fit into %d parts", w.st.Size, maxParts)
	}
	if w.st.Upload == "" {
		id, err := s.c.NewMultipartUpload(ctx, s.o.Bucket, w.key("data"), minio.PutObjectOptions{ContentType: octets})
		if err != nil {
			return err
		}
		w.st.Upload = id
	}
	sum := sha256.Sum256(w.buf)
	p, err := s.c.PutObjectPart(ctx, s.o.Bucket, w.key("data"), w.st.Upload, len(w.st.Parts)+1,
		bytes.NewReader(w.buf), int64(len(w.buf)), minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum[:]), DisableContentSha256: plainBody})
	if err != nil {
		return err
	}
	w.st.Parts = append(w.st.Parts, part{p.ETag, int64(len(w.buf))})
	w.buf = w.buf[:0]
	return nil
}

// plainBody sends the bytes as they are, signed over their whole hash, instead of
// in signed chunks, whose framing some services store.
const (
	octets    = "application/octet-stream"
	plainBody = true
)

// save writes the session's state, in the place of the one that this writer
// read or wrote last.
func (w *writer) save(ctx context.Context) error {
	var err error
	if w.st.SHA256, err = w.sum.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
		return err
	}
	w.st.Tail = int64(len(w.buf))
	line, err := json.Marshal(w.st)
	if err != nil {
		return err
	}
	b := append(append(line, '\n'), w.buf...)
	var o minio.PutObjectOptions
	if w.etag == "" {
		o.SetMatchETagExcept("*")
	} else {
		o.SetMatchETag(w.etag)
	}
	info, err := w.s.put(ctx, w.key("state"), b, o)
	if unknown(err) {
		info, err = w.s.put(ctx, w.key("state"), b, minio.PutObjectOptions{})
	}
	if refused(err) {
		return fault.Newf(fault.Conflict, "upload %s: another server has taken it up meanwhile", w.id)
	}
	if err == nil {
		w.etag = info.ETag
	}
	return err
}

func (s *Store) put(ctx context.Context, key string, b []byte, o minio.PutObjectOptions) (minio.UploadInfo, error) {
	sum := sha256.Sum256(b)
	o.ContentType, o.DisableContentSha256 = octets, plainBody
	return s.c.PutObject(ctx, s.o.Bucket, key, bytes.NewReader(b), int64(len(b)), "", hex.EncodeToString(sum[:]), o)
}

// Close keeps the session for Resume.
func (w *writer) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	defer w.s.release(w.id)
	if w.bad != nil {
		return nil // the state of the last part that went well stays
	}
	ctx, cancel := context.WithTimeout(w.ctx, requestTimeout)
	defer cancel()
	if err := w.save(ctx); err != nil {
		return fmt.Errorf("keep upload %s: %w", w.id, unavailable(err))
	}
	return nil
}

// Cancel frees the session's bytes.
func (w *writer) Cancel() error {
	if w.done {
		return nil
	}
	w.done = true
	defer w.s.release(w.id)
	if w.etag == "" && w.st.Upload == "" {
		return nil // nothing of it is in the bucket
	}
	ctx, cancel := context.WithTimeout(w.ctx, requestTimeout)
	defer cancel()
	if err := w.s.discard(ctx, w.id, w.st.Upload); err != nil {
		return fmt.Errorf("cancel upload %s: %w", w.id, unavailable(err))
	}
	return nil
}

// Commit checks the content and gives it its name.
func (w *writer) Commit(ctx context.Context, want artifact.Digest) error {
	if w.done {
		return ended(w.id)
	}
	err := w.bad
	if err == nil {
		err = w.commit(ctx, want)
	}
	if cerr := w.Cancel(); err == nil && cerr != nil {
		w.s.o.Logger.Warn("an upload's remains could not be removed", "upload", w.id, "error", cerr)
	}
	if err != nil {
		return fmt.Errorf("commit blob %s: %w", want, unavailable(err))
	}
	return nil
}

func (w *writer) commit(ctx context.Context, want artifact.Digest) error {
	if err := check(ctx, want); err != nil {
		return err
	}
	h, ok := artifact.NewHash(want.Algorithm())
	if !ok {
		return fault.Newf(fault.Invalid, "digest algorithm %.20q is not known here", want.Algorithm())
	}
	if want.Algorithm() == artifact.SHA256 {
		h = w.sum
	} else if w.st.Upload == "" {
		h.Write(w.buf)
	}
	if w.st.Upload == "" {
		if err := w.agree(h, want); err != nil {
			return err
		}
		return w.s.putBlob(ctx, want, w.buf)
	}
	if want.Algorithm() == artifact.SHA256 { // known before the parts are joined
		if err := w.agree(h, want); err != nil {
			return err
		}
		if info, err := w.s.Stat(ctx, want); err == nil && info.Size == w.st.Size {
			return nil
		}
	}
	return w.join(ctx, want, h)
}

func (w *writer) agree(h hash.Hash, want artifact.Digest) error {
	if got := artifact.NewDigest(want.Algorithm(), h.Sum(nil)); got != want {
		return fault.Newf(fault.Invalid, "the %d bytes sent hash to %s: send the content that the digest names", w.st.Size, got)
	}
	return nil
}

// join makes one object of the parts, checks it, and has it copied to its name.
func (w *writer) join(ctx context.Context, want artifact.Digest, h hash.Hash) error {
	s := w.s
	if len(w.buf) > 0 {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	parts := make([]minio.CompletePart, len(w.st.Parts))
	for i, p := range w.st.Parts {
		parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: p.ETag}
	}
	done, err := s.c.CompleteMultipartUpload(ctx, s.o.Bucket, w.key("data"), w.st.Upload, parts, minio.PutObjectOptions{})
	if err != nil {
		return err
	}
	if want.Algorithm() != artifact.SHA256 {
		if err := w.rehash(ctx, h); err != nil {
			return err
		}
		if err := w.agree(h, want); err != nil {
			return err
		}
	}
	to := minio.CopyDestOptions{Bucket: s.o.Bucket, Object: s.blobKey(want), NumThreads: 4}
	from := minio.CopySrcOptions{Bucket: s.o.Bucket, Object: w.key("data"), MatchETag: done.ETag}
	if w.st.Size <= maxCopy {
		_, err = s.c.Client.CopyObject(ctx, to, from)
	} else {
		_, err = s.c.Client.ComposeObject(ctx, to, from)
	}
	if err != nil {
		return err
	}
	info, err := s.Stat(ctx, want)
	if err == nil && info.Size != w.st.Size {
		err = fault.Newf(fault.Unavailable, "the service keeps %d bytes of the %d that were sent", info.Size, w.st.Size)
	}
	return err
}

// rehash reads the joined object for an algorithm that was not kept running.
func (w *writer) rehash(ctx context.Context, h hash.Hash) error {
	body, _, _, err := w.s.c.GetObject(ctx, w.s.o.Bucket, w.key("data"), minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	n, err := io.Copy(h, body)
	if err == nil && n != w.st.Size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, body.Close())
}

// putBlob writes a small blob, unless it is there. One of another size is
// damaged, and is replaced.
func (s *Store) putBlob(ctx context.Context, want artifact.Digest, b []byte) error {
	var o minio.PutObjectOptions
	switch info, err := s.Stat(ctx, want); {
	case err == nil && info.Size == int64(len(b)):
		return nil
	case errors.Is(err, fault.NotFound):
		o.SetMatchETagExcept("*")
	case err != nil:
		return err
	}
	_, err := s.put(ctx, s.blobKey(want), b, o)
	if refused(err) || unknown(err) {
		// Another writer came first, or the service knows no conditions.
		if info, serr := s.Stat(ctx, want); serr == nil && info.Size == int64(len(b)) {
			return nil
		}
		_, err = s.put(ctx, s.blobKey(want), b, minio.PutObjectOptions{})
	}
	return err
}

func ended(id string) error {
	return fault.Newf(fault.Invalid, "upload %s: this writer has ended; resume the session or begin another", id)
}
