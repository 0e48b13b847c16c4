package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The one table, as clients, registries and scripts see it. Changing a row is
// changing a contract.
func TestTable(t *testing.T) {
	type row struct {
		Status int
		OCI    string
		Exit   int
	}
	want := map[string]row{
		"invalid":           {400, "UNSUPPORTED", 64},
		"unauthenticated":   {401, "UNAUTHORIZED", 2},
		"denied":            {403, "DENIED", 1},
		"not found":         {404, "NAME_UNKNOWN", 2},
		"conflict":          {409, "DENIED", 2},
		"too large":         {413, "SIZE_INVALID", 64},
		"too many requests": {429, "TOOMANYREQUESTS", 2},
		"unavailable":       {503, "UNAVAILABLE", 2},
		"no space":          {507, "UNAVAILABLE", 2},
		"tampered":          {500, "UNAVAILABLE", 1},
		"unverified":        {403, "DENIED", 1},
		"undecided":         {503, "UNAVAILABLE", 2},
		"internal":          {500, "UNAVAILABLE", 2},
	}
	got := map[string]row{}
	for _, k := range kinds {
		for _, err := range []error{k, Newf(k, "x"), Wrap(k, errors.New("x")), fmt.Errorf("outer: %w", Newf(k, "x")), errors.Join(errors.New("y"), Newf(k, "x"))} {
			if !errors.Is(err, k) || KindOf(err) != k {
				t.Errorf("%s: %#v is of kind %v", k.Name(), err, KindOf(err))
			}
			r := row{HTTPStatus(err), OCICode(err), ExitCode(err)}
			if old, seen := got[k.Name()]; seen && old != r {
				t.Errorf("%s: %+v and %+v, by how it is wrapped", k.Name(), old, r)
			}
			got[k.Name()] = r
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the table (-want +got):\n%s", d)
	}
}

// What nobody marked has the kind that the system or the context says.
func TestUnmarked(t *testing.T) {
	for _, tt := range []struct {
		err  error
		kind *Kind
	}{
		{nil, nil},
		{errors.New("x"), Internal},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, NoSpace},
		{fmt.Errorf("x: %w", syscall.EDQUOT), NoSpace},
		{syscall.EIO, Unavailable}, {syscall.EROFS, Unavailable}, {syscall.EMFILE, Unavailable},
		{context.Canceled, Unavailable}, {context.DeadlineExceeded, Unavailable},
		{fs.ErrNotExist, Internal}, // whose absence it is, and whether that matters, the caller knows
	} {
		if got := KindOf(tt.err); got != tt.kind {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.kind)
		}
	}
	if HTTPStatus(nil) != 200 || OCICode(nil) != "" || ExitCode(nil) != 0 || Wrap(Denied, nil) != nil {
		t.Error("no error is no failure")
	}
}

// The outermost mark decides: a door that says more than the layer below it.
func TestOutermostMark(t *testing.T) {
	inner := Newf(NotFound, "no such key")
	outer := Newf(Tampered, "the site's key is gone: %w", inner)
	if KindOf(outer) != Tampered || !errors.Is(outer, NotFound) || !errors.Is(outer, Tampered) || errors.Is(outer, Denied) {
		t.Errorf("%v is of kind %v", outer, KindOf(outer))
	}
	if got := outer.Error(); got != "the site's key is gone: no such key" {
		t.Errorf("message %q", got)
	}
}
