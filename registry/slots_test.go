package registry_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/registry"
	"assay/registry/registrytest"
)

// TestThreat_Registry_SlotsOfOnePrincipal: one who fills all places that are
// theirs keeps nobody else from uploading.
func TestThreat_Registry_SlotsOfOnePrincipal(t *testing.T) {
	s, c := one(t, limits(registry.Limits{Uploads: 4, UploadWait: 300 * time.Millisecond}))
	s.Grant(t, "other", identity.RolePublisher, "**")
	other := s.Client(t, "other")
	const half = 2
	answers := make(chan *registrytest.Response, half)
	var held []*io.PipeWriter
	for range half {
		slow, w := io.Pipe()
		at := begin(t, c, "a")
		go func() {
			r, _ := c.Try("PATCH", at, slow)
			answers <- r
		}()
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		held = append(held, w)
	}
	var r *registrytest.Response
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if r = c.Do("PATCH", begin(t, c, "a"), "x"); r.StatusCode == http.StatusTooManyRequests {
			break
		}
	}
	want(t, "one more than half", r, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	want(t, "another's", other.Do("PATCH", begin(t, other, "a"), "x"), http.StatusAccepted, "")
	for _, w := range held {
		_ = w.Close()
	}
	for range half {
		want(t, "a held body", <-answers, http.StatusAccepted, "")
	}
	want(t, "after them", c.Do("PATCH", begin(t, c, "a"), "x"), http.StatusAccepted, "")
}

// TestThreat_Registry_DrippingBody: a body that never pauses for long and never
// gets anywhere loses its place; what arrived is kept.
func TestThreat_Registry_DrippingBody(t *testing.T) {
	_, c := one(t, limits(registry.Limits{Uploads: 1, BodyRate: 1000, BodyGrace: 200 * time.Millisecond}))
	at := begin(t, c, "a")
	slow, w := io.Pipe()
	defer func() { _ = slow.Close() }()
	go func() {
		for {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	r, err := c.Try("PATCH", at, slow)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "dripping", r, http.StatusRequestTimeout, "BLOB_UPLOAD_INVALID")
	r = c.Do("GET", at, "")
	want(t, "status", r, http.StatusNoContent, "")
	if r.Header.Get("Range") == "0-0" || r.Header.Get("Range") == "" {
		t.Errorf("Range %q: what arrived was not kept", r.Header.Get("Range"))
	}
	want(t, "the place is free", c.Do("PATCH", begin(t, c, "a"), "x"), http.StatusAccepted, "")
}

// TestThreat_Registry_UploadsWithoutEnd: one who begins uploads and never ends
// them comes to an end, keeps nobody else from uploading, and has places again
// for each that ends.
func TestThreat_Registry_UploadsWithoutEnd(t *testing.T) {
	const most = 5
	s, c := one(t, limits(registry.Limits{Sessions: most}))
	s.Grant(t, "other", identity.RolePublisher, "**")
	var begun []string
	for range most {
		begun = append(begun, begin(t, c, "a"))
	}
	more := func(what string, status int) {
		t.Helper()
		r := c.Do("POST", "/v2/a/blobs/uploads/", "")
		if want(t, what, r, status, ""); status == http.StatusAccepted {
			want(t, "cancel", c.Do("DELETE", r.Header.Get("Location"), ""), http.StatusNoContent, "")
		}
	}
	more("one more", http.StatusTooManyRequests)
	begin(t, s.Client(t, "other"), "a")
	want(t, "cancel", c.Do("DELETE", begun[0], ""), http.StatusNoContent, "")
	more("after a cancel", http.StatusAccepted)
	begun[0] = begin(t, c, "a")
	more("again one more", http.StatusTooManyRequests)
	want(t, "the end of one", c.Do("PUT", begun[1]+"?digest="+string(artifact.SHA256Of([]byte("x"))), "x"), http.StatusCreated, "")
	more("after an end", http.StatusAccepted)
	for range 2 * most {
		c.PushBlob("a", "whole")
	}
}
