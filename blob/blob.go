// Package blob keeps content-addressed bytes: a [Store] answers to a digest and
// to nothing else. It knows no repository, no manifest and no right of access;
// whoever asks has been authorised already.
//
// [Dir] keeps blobs as local files. Package blobtest holds the suite that every
// implementation passes.
package blob

import (
	"context"
	"io"
	"os"
	"time"

	"assay/artifact"
)

// Store is content by digest. All methods may be called at once from many
// goroutines.
//
// Errors are of these kinds (assay/internal/fault): NotFound for absent
// content or an unknown upload; Invalid for a malformed digest or upload id and
// for content that does not hash to the wanted digest; Conflict for an upload
// that another writer holds; NoSpace when the disk or the quota is full;
// Unavailable when the medium fails. After NoSpace and Unavailable the store
// goes on: what was acknowledged is still there, what was not may be retried.
type Store interface {
	// Create begins an upload session, empty.
	Create(ctx context.Context) (Writer, error)

	// Resume takes a session up where it stands, also after a restart of the
	// process. One writer holds a session at a time.
	Resume(ctx context.Context, id string) (Writer, error)

	// Open reads a blob. The bytes are not hashed again here: readers that act
	// on them check the digest themselves.
	Open(ctx context.Context, d artifact.Digest) (File, error)

	// Stat tells size and age without opening. What Stat finds is durable.
	Stat(ctx context.Context, d artifact.Digest) (Info, error)

	// Delete removes a blob, durably. Files that are open go on being readable.
	Delete(ctx context.Context, d artifact.Digest) error

	// Walk calls fn for each blob in the order of algorithm and hex, until fn
	// errs, which Walk returns. Blobs that come or go meanwhile may be missed.
	Walk(ctx context.Context, fn func(Info) error) error
}

// Writer is an upload session held by one goroutine. Every Writer ends in
// exactly one of Commit, Close or Cancel; calls after that give an error of
// kind Invalid, except Close and Cancel, which then do nothing.
type Writer interface {
	// Write appends, hashing on the way.
	io.Writer

	// ID names the session for Resume: unguessable, safe in a URL path.
	ID() string

	// Offset is the number of bytes that the session holds.
	Offset() int64

	// Commit checks that the content hashes to want and gives it that name.
	// When Commit returns nil the blob is durable: a power cut does not take it
	// away. A mismatch is Invalid and ends the session. A blob that exists
	// already is not written again. An error of another kind ends the session
	// too, since the kernel may have dropped pages that it failed to write.
	Commit(ctx context.Context, want artifact.Digest) error

	// Close lets go of the session and keeps its bytes for Resume, until the
	// store expires it.
	Close() error

	// Cancel ends the session and frees its bytes.
	Cancel() error
}

// File is an open blob.
type File interface {
	io.ReadSeekCloser
	Size() int64        // bytes
	ModTime() time.Time // when it was committed
}

// Info describes a blob.
type Info struct {
	Digest  artifact.Digest
	Size    int64     // bytes
	ModTime time.Time // when it was committed
}

// OSFile gives the operating system's file under f when there is one, so that
// net/http can use sendfile(2); f keeps ownership.
func OSFile(f File) (*os.File, bool) {
	if o, ok := f.(interface{ OS() *os.File }); ok {
		return o.OS(), true
	}
	return nil, false
}

// Put stores b under its sha256 digest, durably.
func Put(ctx context.Context, s Store, b []byte) (artifact.Digest, error) {
	d := artifact.SHA256Of(b)
	return d, PutAs(ctx, s, b, d)
}

// PutAs stores b under the digest want, of any known algorithm, durably.
// Content that does not hash to want is Invalid.
func PutAs(ctx context.Context, s Store, b []byte, want artifact.Digest) error {
	if err := want.Validate(); err != nil {
		return err
	}
	w, err := s.Create(ctx)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		_ = w.Cancel() // the write's error says more
		return err
	}
	return w.Commit(ctx, want)
}
