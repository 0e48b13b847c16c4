// Package fault is the one table from a kind of failure to its HTTP status,
// its OCI error code and its exit code. Packages wrap what went wrong with
// %w; doors (HTTP, CLI) ask this package what to answer.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
)

// Kind is a class of failure. It is itself an error, so that errors.Is(err,
// fault.NotFound) works through any number of wraps.
type Kind struct {
	name   string
	status int    // HTTP
	oci    string // OCI Distribution error code, the generic one for the kind
	exit   int    // process exit code
}

// The kinds. Exit codes: 0 allowed or ok, 1 denied or findings, 2 could not
// decide, 64 usage, 70 panic.
var (
	Invalid         = &Kind{"invalid", http.StatusBadRequest, "UNSUPPORTED", 64}
	Unauthenticated = &Kind{"unauthenticated", http.StatusUnauthorized, "UNAUTHORIZED", 2}
	Denied          = &Kind{"denied", http.StatusForbidden, "DENIED", 1}
	NotFound        = &Kind{"not found", http.StatusNotFound, "NAME_UNKNOWN", 2}
	Conflict        = &Kind{"conflict", http.StatusConflict, "DENIED", 2}
	TooLarge        = &Kind{"too large", http.StatusRequestEntityTooLarge, "SIZE_INVALID", 64}
	TooMany         = &Kind{"too many requests", http.StatusTooManyRequests, "TOOMANYREQUESTS", 2}
	Unavailable     = &Kind{"unavailable", http.StatusServiceUnavailable, "UNAVAILABLE", 2}
	NoSpace         = &Kind{"no space", http.StatusInsufficientStorage, "UNAVAILABLE", 2}
	Tampered        = &Kind{"tampered", http.StatusInternalServerError, "UNAVAILABLE", 1} // stored bytes are not what they were
	Unverified      = &Kind{"unverified", http.StatusForbidden, "DENIED", 1}              // evidence that does not verify
	Undecided       = &Kind{"undecided", http.StatusServiceUnavailable, "UNAVAILABLE", 2} // an input of a decision is missing or stale
	Internal        = &Kind{"internal", http.StatusInternalServerError, "UNAVAILABLE", 2}
)

var kinds = []*Kind{
	Invalid, Unauthenticated, Denied, NotFound, Conflict, TooLarge, TooMany,
	Unavailable, NoSpace, Tampered, Unverified, Undecided, Internal,
}

func (k *Kind) Error() string { return k.name }

type fault struct {
	kind *Kind
	err  error
}

func (f *fault) Error() string        { return f.err.Error() }
func (f *fault) Unwrap() error        { return f.err }
func (f *fault) Is(target error) bool { return target == error(f.kind) }

// Newf makes an error of a kind. The message says what was expected, what was
// found, and what to do; %w wraps as in fmt.Errorf.
func Newf(k *Kind, format string, args ...any) error {
	return &fault{k, fmt.Errorf(format, args...)}
}

// Wrap marks err as of a kind, keeping its message; nil stays nil.
func Wrap(k *Kind, err error) error {
	if err == nil {
		return nil
	}
	return &fault{k, err}
}

// KindOf finds the outermost kind of err: what was marked, else what the
// operating system or the context says, else Internal. nil has none.
func KindOf(err error) *Kind {
	if err == nil {
		return nil
	}
	var f *fault
	if errors.As(err, &f) {
		return f.kind
	}
	for _, k := range kinds {
		if errors.Is(err, k) {
			return k
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EMFILE),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Unavailable
	}
	return Internal
}

// Name is the kind's name, as it stands in logs and in problem documents.
func (k *Kind) Name() string { return k.name }

// HTTPStatus is the status a door answers err with; 200 for nil.
func HTTPStatus(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return KindOf(err).status
}

// OCICode is the generic OCI Distribution error code for err.
func OCICode(err error) string {
	if err == nil {
		return ""
	}
	return KindOf(err).oci
}

// ExitCode is the process exit code for err; 0 for nil.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return KindOf(err).exit
}
