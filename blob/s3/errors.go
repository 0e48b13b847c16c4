package s3

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"assay/artifact"
	"assay/internal/fault"
)

// gone says that what a request named is not there. A missing bucket is another
// matter.
func gone(err error) bool {
	// By code and not by status 404, which is also the answer to other mistakes.
	switch minio.ToErrorResponse(err).Code {
	case "NoSuchKey", "NoSuchUpload", "NoSuchVersion":
		return true
	}
	return false
}

// refused says that a condition (If-Match, If-None-Match) did not hold.
func refused(err error) bool {
	r := minio.ToErrorResponse(err)
	return r.Code == "PreconditionFailed" || r.Code == "ConditionalRequestConflict" || r.StatusCode == http.StatusPreconditionFailed
}

// unknown says that the service does not know a header or a request.
func unknown(err error) bool {
	r := minio.ToErrorResponse(err)
	return r.Code == "NotImplemented" || r.StatusCode == http.StatusNotImplemented
}

// unavailable gives an error of the service its kind. The service's own words
// are kept; they hold no secret, since credentials are never sent.
func unavailable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case fault.KindOf(err) != fault.Internal:
		return err
	}
	r := minio.ToErrorResponse(err)
	switch {
	case r.StatusCode == http.StatusInsufficientStorage, r.Code == "QuotaExceeded", r.Code == "XMinioStorageFull", r.Code == "XMinioAdminBucketQuotaExceeded":
		return fault.Wrap(fault.NoSpace, err)
	case r.Code == "SignatureDoesNotMatch", strings.EqualFold(r.Code, "InvalidAccessKeyId"), r.Code == "AccessDenied", r.Code == "XAdminUserNotFound", r.StatusCode == http.StatusForbidden:
		return fault.Newf(fault.Unavailable, "the S3 service refuses this site's credentials (%s): check blob.s3.credentials, their rights on the bucket, and this machine's clock: %w", r.Code, err)
	}
	return fault.Newf(fault.Unavailable, "the S3 service answers %d %s: %w", r.StatusCode, r.Code, err)
}

func named(d artifact.Digest, verb string, err error) error {
	r := minio.ToErrorResponse(err)
	switch {
	case gone(err):
		return fault.Newf(fault.NotFound, "%s blob %s: it is not stored here", verb, d)
	case verb == "delete" && (r.Code == "ObjectLocked" || r.Code == "AccessDenied"):
		return fault.Newf(fault.Denied, "delete blob %s: the bucket's Object Lock or its policy keeps it: %w", d, err)
	}
	return wrapf(verb, d, err)
}
