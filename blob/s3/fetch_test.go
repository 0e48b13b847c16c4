package s3_test

import (
	"errors"
	"io"
	"testing"

	"assay/blob/s3"
	"assay/blob/s3/s3test"
	"assay/internal/fault"
)

// TestFetch asks a real service for what changed, and for the rest of an object.
func TestFetch(t *testing.T) {
	srv := s3test.Start(t)
	o, err := s3.OpenObjects(t.Context(), srv.Bucket(t, "feeds"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := o.Put(t.Context(), "npm/all.zip", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	read := func(tag string, offset int64) (string, *s3.Fetched) {
		t.Helper()
		f, err := o.Fetch(t.Context(), "npm/all.zip", tag, offset)
		if err != nil {
			t.Fatal(err)
		}
		if f.Body == nil {
			return "unchanged", f
		}
		defer f.Body.Close()
		b, err := io.ReadAll(f.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b), f
	}
	text, first := read("", 0)
	if text != "0123456789" || first.Size != 10 || first.ETag == "" {
		t.Fatalf("%q, %+v", text, first)
	}
	if text, _ := read(first.ETag, 0); text != "unchanged" {
		t.Errorf("again: %q", text)
	}
	if text, rest := read(first.ETag, 4); text != "456789" || rest.Size != 10 {
		t.Errorf("the rest: %q of %d", text, rest.Size)
	}
	if err := o.Put(t.Context(), "npm/all.zip", []byte("another one, and longer")); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Fetch(t.Context(), "npm/all.zip", first.ETag, 4); !errors.Is(err, fault.Conflict) {
		t.Errorf("the rest of what is another object by now: %v", err)
	}
	if text, _ := read(first.ETag, 0); text != "another one, and longer" {
		t.Errorf("changed: %q", text)
	}
	if _, err := o.Fetch(t.Context(), "npm/none.zip", "", 0); !errors.Is(err, fault.NotFound) {
		t.Errorf("absent: %v", err)
	}
}
