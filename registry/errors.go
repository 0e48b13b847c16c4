package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"assay/internal/fault"
)

// The error codes of OCI Distribution 1.1, section "Error Codes".
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
)

// failure is an error with what the protocol adds to it. Without a status the
// fault's kind decides; without a code the kind's generic one stands.
type failure struct {
	code      string
	status    int
	err       error
	detail    any                  // JSON, may be nil
	allow     map[string]operation // for 405: the methods that are served
	location  string               // of the upload that goes on, with at
	at        int64                // bytes the upload holds
	challenge string               // scope to ask a token for
	expired   bool                 // the token shown is no longer good
	told      bool                 // err is written for the client, whatever its kind
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failf(code string, kind *fault.Kind, format string, args ...any) *failure {
	return &failure{code: code, err: fault.Newf(kind, format, args...)}
}

// withCode gives err an OCI code when it is of the kind and has none yet.
func withCode(err error, kind *fault.Kind, code string) error {
	var f *failure
	if err == nil || errors.As(err, &f) || fault.KindOf(err) != kind {
		return err
	}
	return &failure{code: code, err: err}
}

type errorBody struct {
	Errors []errorItem `json:"errors"`
}

type errorItem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  any    `json:"detail,omitempty"`
}

// fail answers a request with err. When the answer has begun, all that is left
// is to break the connection off, so that the client does not take half an
// answer for a whole one.
func (r *Registry) fail(w *response, req *http.Request, rt route, err error) {
	kind := fault.KindOf(err)
	if kind == fault.Internal || kind == fault.Tampered {
		r.log.ErrorContext(req.Context(), "request failed", "operation", string(rt.op), "repository", rt.name, "error", err)
	} else {
		r.log.DebugContext(req.Context(), "request refused", "operation", string(rt.op), "repository", rt.name, "error", err)
	}
	if w.began {
		panic(http.ErrAbortHandler)
	}
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{err: err}
	}
	status, item := f.status, errorItem{Code: f.code, Message: message(err, kind), Detail: f.detail}
	if f.told {
		item.Message = f.Error()
	}
	if status == 0 {
		status = fault.HTTPStatus(err)
	}
	if item.Code == "" {
		item.Code = fault.OCICode(err)
	}
	h := w.Header()
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", r.challenge(f))
	case http.StatusMethodNotAllowed:
		h.Set("Allow", allowed(f.allow))
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	if f.location != "" {
		uploadHeaders(h, f.location, f.at)
	}
	// The answer to a HEAD has no other place for it. That something is not there
	// yet is no news to who asks before a push, and would hide what is.
	if status == http.StatusForbidden || req.Method == http.MethodHead && status != http.StatusNotFound {
		warn(h, item.Message)
	}
	body, _ := json.Marshal(errorBody{[]errorItem{item}}) // strings and plain details always marshal
	h.Del("Etag")
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that is gone hears nothing
	}
}

// message is what the client is told. What went wrong inside is for the log.
func message(err error, kind *fault.Kind) string {
	switch {
	case kind == fault.Internal:
		return "internal error; the server's log says more"
	case kind == fault.Tampered:
		return "the stored content is not what was pushed; it is not served"
	case kind == fault.NoSpace:
		return "the server's storage is full; nothing was stored, try again once there is room"
	case kind == fault.Unavailable && errors.Is(err, context.Canceled):
		return "the request ended early"
	case kind == fault.Unavailable:
		return "the server's storage or database does not answer right now; try again"
	}
	const most = 2048
	msg := err.Error()
	if len(msg) > most {
		msg = strings.ToValidUTF8(msg[:most], "") + "…"
	}
	return msg
}

// warn sets a Warning header, in the one form that OCI Distribution 1.1,
// "Warnings", has of RFC 7234: 299 - "text", without control characters and
// quotes, at most 4,096 bytes. Clients show it to their users.
func warn(h http.Header, text string) {
	if text == "" {
		return
	}
	const most = 2048
	text = strings.Map(func(c rune) rune {
		switch {
		case c == '"':
			return '\''
		case c == '\\':
			return '/'
		case c < ' ' || c > '~': // header fields are ASCII (RFC 9110, 5.5)
			return '?'
		}
		return c
	}, text)
	if len(text) > most {
		text = text[:most-3] + "..."
	}
	h.Set("Warning", `299 - "`+text+`"`)
}

func allowed(methods map[string]operation) string {
	if len(methods) == 0 {
		return "GET, HEAD"
	}
	names := make([]string, 0, len(methods))
	for m := range methods {
		names = append(names, m)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// bodyError says what reading a request's body failed with: a client that
// stopped sending is not an error of this server.
func bodyError(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return err
	}
	return failf(codeUploadInvalid, fault.Invalid, "the request's body ended early: %w", err)
}

// bodyReader tells the reader's errors from the writer's after an io.Copy.
type bodyReader struct {
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
