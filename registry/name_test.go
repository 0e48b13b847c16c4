package registry

import (
	"regexp"
	"strings"
	"testing"
)

// The grammars as the specification prints them: oracles for the hand-written
// readers.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	ociRange    = regexp.MustCompile(`^[0-9]+-[0-9]+$`)
)

var names = []string{
	"a", "a/b", "a.b_c__d-e---f/0", "library/nginx", strings.Repeat("a", 255), strings.Repeat("a", 256),
	"", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a-_b", "-a", "a-", "a/.b", "..", "../etc", "a/../b", "a b", "a\n", "ä", "a:b", "a@b",
	"blobs/uploads", "a/manifests", "v2",
}

func TestValidName(t *testing.T) {
	for _, s := range names {
		if got, want := ValidName(s), len(s) <= 255 && nameGrammar.MatchString(s) && !strings.HasSuffix(s, "\n"); got != want {
			t.Errorf("ValidName(%.40q) is %v, want %v", s, got, want)
		}
	}
}

func FuzzValidName(f *testing.F) {
	for _, s := range names {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := ValidName(s), len(s) <= 255 && nameGrammar.MatchString(s); got != want {
			t.Errorf("ValidName(%q) is %v, the grammar says %v", s, got, want)
		}
		if got, want := ValidTag(s), tagGrammar.MatchString(s); got != want {
			t.Errorf("ValidTag(%q) is %v, the grammar says %v", s, got, want)
		}
		if d, ok := carrierTag(s); ok && (d.Validate() != nil || !ValidTag(s)) {
			t.Errorf("carrierTag(%q) gives %q", s, d)
		}
		// No path makes the router give a name or fail to give one by panic.
		if rt, err := parseRoute("GET", "/v2/"+s); err == nil && rt.name != "" && !ValidName(rt.name) {
			t.Errorf("path /v2/%q gives the name %q", s, rt.name)
		}
	})
}

func TestParseRoute(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		want         route
	}{
		{"GET", "/v2/", route{opPing, "", ""}},
		{"GET", "/v2", route{opPing, "", ""}},
		{"POST", "/token", route{opToken, "", ""}},
		{"GET", "/v2/_catalog", route{opCatalog, "", ""}},
		{"GET", "/v2/a/b/tags/list", route{opTags, "a/b", ""}},
		{"PUT", "/v2/a/manifests/v1", route{opManifestPut, "a", "v1"}},
		{"POST", "/v2/a/blobs/uploads/", route{opUploadStart, "a", ""}},
		{"POST", "/v2/a/blobs/uploads", route{opUploadStart, "a", ""}},
		{"PATCH", "/v2/a/blobs/uploads/x.y", route{opUploadPatch, "a", "x.y"}},
		{"GET", "/v2/a/referrers/sha256:0", route{opReferrers, "a", "sha256:0"}},
		// Names may be made of the words of the protocol.
		{"GET", "/v2/a/blobs/uploads/manifests/v1", route{opManifestGet, "a/blobs/uploads", "v1"}},
		{"GET", "/v2/manifests/manifests/manifests", route{opManifestGet, "manifests", "manifests"}},
		{"GET", "/v2/tags/list/tags/list", route{opTags, "tags/list", ""}},
		{"HEAD", "/v2/blobs/blobs/sha256:0", route{opBlobHead, "blobs", "sha256:0"}},
	} {
		got, err := parseRoute(tt.method, tt.path)
		if err != nil || got != tt.want {
			t.Errorf("%s %s: %+v, %v; want %+v", tt.method, tt.path, got, err, tt.want)
		}
	}
	for _, tt := range [][2]string{
		{"GET", "/v2/a"}, {"GET", "/v2//manifests/x"}, {"GET", "/v2/a/manifests/"}, {"GET", "/v1/a/manifests/x"},
		{"GET", "/v2/manifests/x"}, {"GET", "/v2/a/../b/manifests/x"}, {"POST", "/v2/a/manifests/x"}, {"TRACE", "/v2/"},
		{"GET", "/v2/" + strings.Repeat("a/", 5000) + "manifests/x"}, {"GET", "/tokens"},
	} {
		if rt, err := parseRoute(tt[0], tt[1]); err == nil {
			t.Errorf("%s %.60s: %+v, want an error", tt[0], tt[1], rt)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"0-0", "0-9", "10-19", "bytes 0-9/10", "bytes 0-9/*", "9-0", "-1-2", "+0-1", "0-9223372036854775807", "0-99999999999999999999", "", "-", "0-", "１-２"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if err == nil && (r.first < 0 || r.last < r.first || r.length() < 1) {
			t.Fatalf("parseContentRange(%q) gives %+v of %d bytes", s, r, r.length())
		}
		if err == nil && !ociRange.MatchString(s) && !strings.HasPrefix(s, "bytes ") {
			t.Fatalf("parseContentRange(%q) passes what neither grammar has", s)
		}
	})
}
