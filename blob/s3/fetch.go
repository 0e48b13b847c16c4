package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"assay/internal/fault"
)

// Fetched is an object on its way.
type Fetched struct {
	Body io.ReadCloser // nil: it is still what the tag names
	ETag string
	Size int64 // of the whole object
}

// Fetch gives an object unless it is the one that etag names, or, from an offset
// on, its rest if it still is. An object that is another by then is
// fault.Conflict, an absent one fault.NotFound.
func (o *Objects) Fetch(ctx context.Context, name, etag string, offset int64) (*Fetched, error) {
	var opts minio.GetObjectOptions
	var err error
	plain := strings.Trim(etag, `"`)
	switch {
	case offset > 0:
		if err = opts.SetRange(offset, 0); err == nil {
			err = opts.SetMatchETag(plain)
		}
	case plain != "":
		err = opts.SetMatchETagExcept(plain)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	body, info, _, err := o.s.c.GetObject(ctx, o.s.o.Bucket, o.s.key(name), opts)
	var answer minio.ErrorResponse
	switch {
	case err == nil:
		size := info.Size
		if offset > 0 {
			size += offset
		}
		return &Fetched{Body: body, ETag: info.ETag, Size: size}, nil
	case gone(err):
		return nil, fault.Newf(fault.NotFound, "read %s: there is no such object", name)
	case offset == 0 && plain != "" && errors.As(err, &answer) && (answer.StatusCode == http.StatusNotModified || answer.Code == "NotModified"):
		return &Fetched{ETag: etag}, nil
	case refused(err) || errors.As(err, &answer) && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return nil, fault.Newf(fault.Conflict, "read %s: it is another object by now", name)
	}
	return nil, fmt.Errorf("read %s: %w", name, unavailable(err))
}
