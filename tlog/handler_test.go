package tlog

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"assay/internal/fault"
)

func get(t *testing.T, h http.Handler, path string, header ...string) (int, string, http.Header) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.URL = &url.URL{Path: path} // as hostile as it comes
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b), w.Header()
}

func withToken(r *http.Request) error {
	switch r.Header.Get("Authorization") {
	case "auditor":
		return nil
	case "":
		return fault.Newf(fault.Unauthenticated, "log in")
	}
	return fault.Newf(fault.Denied, "no role")
}

func TestTileHandler(t *testing.T) {
	o := options(t, openStore(t))
	l := open(t, o)
	add(t, l, 0, 600)
	h := l.TileHandler(withToken)
	tests := []struct {
		path string
		code int
		size int // bytes, -1: any
	}{
		{"/checkpoint", 200, len(l.Head().Note)},
		{"/tile/0/000", 200, 256 * 32},
		{"/tile/0/001", 200, 256 * 32},
		{"/tile/0/002.p/88", 200, 88 * 32},
		{"/tile/0/002.p/7", 200, 7 * 32}, // a prefix of what is there
		{"/tile/0/000.p/9", 200, 9 * 32}, // of a tile that has filled up since
		{"/tile/1/000.p/2", 200, 2 * 32},
		{"/tile/0/002", 404, -1},
		{"/tile/0/002.p/89", 404, -1}, // beyond the checkpoint
		{"/tile/0/003.p/1", 404, -1},
		{"/tile/1/000", 404, -1},
		{"/tile/1/000.p/3", 404, -1},
		{"/tile/2/000.p/1", 404, -1},
		{"/tile/7/000.p/1", 404, -1},
		{"/lock", 404, -1},
		{"/tmp/0", 404, -1},
		{"/", 404, -1},
		{"/tile/0/../../lock", 404, -1},
		{"//tile/0/000", 404, -1},
		{"/tile/entries/../0/000", 404, -1},
		{"/tile/entries/000", 200, -1},
		{"/tile/entries/002.p/88", 200, -1},
		{"/tile/entries/000.p/3", 200, -1},
		{"/tile/entries/002.p/89", 404, -1},
	}
	for _, tt := range tests {
		code, body, _ := get(t, h, tt.path, "Authorization", "auditor")
		if code != tt.code || tt.size >= 0 && len(body) != tt.size {
			t.Errorf("%s: %d with %d bytes, want %d with %d", tt.path, code, len(body), tt.code, tt.size)
		}
	}
	if code, _, _ := get(t, h, "/tile/0/000", "Range", "bytes=0-31"); code != http.StatusPartialContent {
		t.Errorf("range: %d", code)
	}
	r := httptest.NewRequest(http.MethodPost, "/checkpoint", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// TestEntriesArePrivate: hashes are everyone's, entries are not, and a cache
// must not give them to others.
func TestEntriesArePrivate(t *testing.T) {
	l := open(t, options(t, openStore(t)))
	add(t, l, 0, 300)
	h := l.TileHandler(withToken)
	for _, p := range []string{"/tile/entries/000", "/tile/entries/001.p/44", "/tile/entries/000.p/1", "/tile/entries/999"} {
		for token, want := range map[string]int{"": 401, "stranger": 403} {
			code, body, header := get(t, h, p, "Authorization", token)
			if code != want || strings.Contains(body, "entry ") || header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s as %q: %d %q, cache %q", p, token, code, body, header.Get("Cache-Control"))
			}
		}
		if code, _, _ := get(t, l.TileHandler(nil), p, "Authorization", "auditor"); code != 403 {
			t.Errorf("%s without a rule: %d, want 403", p, code)
		}
	}
	code, body, header := get(t, h, "/tile/entries/000", "Authorization", "auditor")
	if code != 200 || !strings.Contains(body, "entry ") || !strings.HasPrefix(header.Get("Cache-Control"), "private") {
		t.Errorf("auditor: %d, cache %q", code, header.Get("Cache-Control"))
	}
	for _, p := range []string{"/checkpoint", "/tile/0/000", "/tile/0/001.p/44"} {
		if code, _, _ := get(t, h, p); code != 200 {
			t.Errorf("%s to everyone: %d", p, code)
		}
	}
}

func TestHTTPSource(t *testing.T) {
	l := open(t, options(t, openStore(t)))
	add(t, l, 0, 700)
	srv := httptest.NewServer(l.TileHandler(withToken))
	defer srv.Close()
	src := HTTP{URL: srv.URL + "/", Client: srv.Client()}
	b, err := src.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCheckpoint(b, l.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	tree, err := LoadTree(t.Context(), src, Plain{}, c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tree.InclusionProof(t.Context(), 3, 700)
	if err != nil {
		t.Fatal(err)
	}
	h, err := tree.node(t.Context(), 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyInclusion(3, 700, h[:], p, c.Root[:]); err != nil {
		t.Error(err)
	}
	if _, err := tree.Records(t.Context(), 0, 5); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("entries without a token: %v", err)
	}
	src.Client = &http.Client{Transport: bearer{}}
	tree.src = src
	rs, err := tree.Records(t.Context(), 699, 700)
	if err != nil || len(rs) != 1 || !strings.HasPrefix(string(rs[0].Leaf), "entry ") {
		t.Errorf("entries with a token: %v, %v", rs, err)
	}
}

type bearer struct{}

func (bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "auditor")
	return http.DefaultTransport.RoundTrip(r)
}
