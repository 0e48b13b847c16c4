package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
)

// follow reads a list page by page along its Link headers.
func follow(t testing.TB, c *registrytest.Client, path, member string) (all []json.RawMessage, pages int) {
	t.Helper()
	for path != "" {
		r := c.Do("GET", path, "")
		want(t, "GET "+path, r, http.StatusOK, "")
		var body map[string]json.RawMessage
		var items []json.RawMessage
		if err := json.Unmarshal(r.Body, &body); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body[member], &items); err != nil || items == nil {
			t.Fatalf("%s: %q is %s, want a list", path, member, body[member])
		}
		all, pages = append(all, items...), pages+1
		path, _, _ = strings.Cut(strings.TrimPrefix(r.Header.Get("Link"), "<"), ">")
		if pages > 1000 {
			t.Fatal("the pages do not end")
		}
	}
	return all, pages
}

func texts(raw []json.RawMessage) []string {
	out := []string{}
	for _, r := range raw {
		out = append(out, strings.Trim(string(r), `"`))
	}
	return out
}

func TestTagList(t *testing.T) {
	each(t, func(t *testing.T, _ *registrytest.Server, c *registrytest.Client) {
		// In the order of bytes, which no collation may change.
		tags := []string{"1.0", "10", "9", "A", "Z", "_x", "a", "a-b", "a.b", "aB", "a_b", "z"}
		d := c.PushImage("r", tags[0], registrytest.Image{Layer: "x"})
		m := c.Do("GET", "/v2/r/manifests/"+string(d), "").Body
		query := "?tag=" + strings.Join(tags[1:], "&tag=")
		want(t, "tags", c.PutManifest("r", string(d)+query, m), http.StatusCreated, "")
		for n, wantPages := range map[int]int{1: 12, 5: 3, 6: 2, 12: 1, 100: 1} {
			got, pages := follow(t, c, fmt.Sprintf("/v2/r/tags/list?n=%d", n), "tags")
			if diff := cmp.Diff(tags, texts(got)); diff != "" || pages != wantPages {
				t.Fatalf("n=%d: %d pages, want %d (-want +got):\n%s", n, pages, wantPages, diff)
			}
		}
		got, _ := follow(t, c, "/v2/r/tags/list?last=a", "tags")
		if diff := cmp.Diff(tags[7:], texts(got)); diff != "" {
			t.Fatalf("last=a (-want +got):\n%s", diff)
		}
		got, pages := follow(t, c, "/v2/r/tags/list?n=0", "tags")
		if len(got) != 0 || pages != 1 {
			t.Fatalf("n=0: %s in %d pages", got, pages)
		}
		want(t, "n=-1", c.Do("GET", "/v2/r/tags/list?n=-1", ""), http.StatusBadRequest, "")
		want(t, "unknown repository", c.Do("GET", "/v2/unknown/tags/list", ""), http.StatusNotFound, "NAME_UNKNOWN")
	})
}

func TestCatalogShowsWhatOneMayPull(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		for _, name := range []string{"a/1", "b/1", "a/2", "b/2", "a/3"} {
			c.PushImage(name, "v1", registrytest.Image{Layer: "x"})
		}
		s.Grant(t, "reader", identity.RoleViewer, "a/**")
		for n, wantPages := range map[int]int{1: 3, 2: 2, 3: 1, 10: 1} {
			got, pages := follow(t, s.Client(t, "reader"), fmt.Sprintf("/v2/_catalog?n=%d", n), "repositories")
			if diff := cmp.Diff([]string{"a/1", "a/2", "a/3"}, texts(got)); diff != "" || pages != wantPages {
				t.Fatalf("n=%d: %d pages, want %d (-want +got):\n%s", n, pages, wantPages, diff)
			}
		}
		got, _ := follow(t, c, "/v2/_catalog", "repositories")
		if len(got) != 5 {
			t.Fatalf("the owner sees %s", got)
		}
		got, _ = follow(t, s.Client(t, "stranger"), "/v2/_catalog", "repositories")
		if len(got) != 0 {
			t.Fatalf("a stranger sees %s", got)
		}
	})
}

func TestReferrers(t *testing.T) {
	each(t, func(t *testing.T, _ *registrytest.Server, c *registrytest.Client) {
		subject := artifact.SHA256Of([]byte("a subject that was never pushed"))
		path := "/v2/r/referrers/" + string(subject)
		got, _ := follow(t, c, path, "manifests")
		if len(got) != 0 {
			t.Fatalf("before any push: %s", got)
		}
		var pushed []artifact.Digest
		for i := range 7 {
			pushed = append(pushed, c.PushImage("r", "", registrytest.Image{
				Layer: fmt.Sprint(i), Subject: subject, ArtifactType: fmt.Sprintf("application/vnd.test.%d", i%2), Annotations: map[string]string{"i": fmt.Sprint(i)},
			}))
		}
		c.PushImage("r", "", registrytest.Image{Layer: "of another subject", Subject: pushed[0]})
		c.PushImage("elsewhere", "", registrytest.Image{Layer: "in another repository", Subject: subject})
		for n, wantPages := range map[string]int{"": 1, "?n=2": 4, "?n=7": 1} {
			got, pages := follow(t, c, path+n, "manifests")
			if len(got) != 7 || pages != wantPages {
				t.Fatalf("%s: %d referrers in %d pages, want 7 in %d", n, len(got), pages, wantPages)
			}
			for i, raw := range got { // newest first
				var d struct {
					MediaType, Digest, ArtifactType string
					Size                            int
					Annotations                     map[string]string
				}
				if err := json.Unmarshal(raw, &d); err != nil {
					t.Fatal(err)
				}
				k := 6 - i
				if d.Digest != string(pushed[k]) || d.ArtifactType != fmt.Sprintf("application/vnd.test.%d", k%2) || d.Annotations["i"] != fmt.Sprint(k) || d.MediaType != registrytest.ImageType || d.Size == 0 {
					t.Fatalf("%s: referrer %d is %s", n, i, raw)
				}
			}
		}
		r := c.Do("GET", path+"?artifactType=application/vnd.test.1", "")
		wantHeader(t, "filter", r, "Oci-Filters-Applied", "artifactType")
		wantHeader(t, "filter", r, "Content-Type", registrytest.IndexType)
		got, pages := follow(t, c, path+"?artifactType=application/vnd.test.1&n=2", "manifests")
		if len(got) != 3 || pages != 2 {
			t.Fatalf("filtered: %d in %d pages, want 3 in 2", len(got), pages)
		}
		want(t, "bad digest", c.Do("GET", "/v2/r/referrers/sha256:x", ""), http.StatusBadRequest, "DIGEST_INVALID")
		want(t, "bad cursor", c.Do("GET", path+"?last=x", ""), http.StatusBadRequest, "")
	})
}

// Annotations may be megabytes: an answer stays below what clients take.
func TestReferrersStayBelowFourMegabytes(t *testing.T) {
	_, c := one(t)
	subject := artifact.SHA256Of([]byte("s"))
	for i := range 3 {
		c.PushImage("r", "", registrytest.Image{Layer: fmt.Sprint(i), Subject: subject, Annotations: map[string]string{"a": strings.Repeat("x", 2<<20)}})
	}
	r := c.Do("GET", "/v2/r/referrers/"+string(subject), "")
	if len(r.Body) > 4<<20 || r.Header.Get("Link") == "" {
		t.Fatalf("%d bytes, Link %q", len(r.Body), r.Header.Get("Link"))
	}
	if got, pages := follow(t, c, "/v2/r/referrers/"+string(subject), "manifests"); len(got) != 3 || pages != 3 {
		t.Fatalf("%d referrers in %d pages, want 3 in 3", len(got), pages)
	}
}

// hiding is a Visibility that hides some manifests from all but one subject.
type hiding struct {
	from   string
	hidden map[artifact.Digest]bool
}

func (h *hiding) Visible(_ context.Context, _ *store.Tx, p identity.Principal, _ string, d artifact.Digest) (bool, error) {
	return p.Subject != h.from || !h.hidden[d], nil
}

func (*hiding) SeesHeld(context.Context, identity.Principal, string, string) bool { return true }

func (*hiding) Withheld(context.Context, *store.Tx, artifact.Digest) (bool, error) { return false, nil }

func (*hiding) Refusal(context.Context, *store.Tx, identity.Principal, string, artifact.Digest) error {
	return nil
}

// TestThreat_Registry_HiddenIsHiddenEverywhere: one rule for manifests, HEAD,
// lists, referrers, mounts and blobs.
func TestThreat_Registry_HiddenIsHiddenEverywhere(t *testing.T) {
	h := &hiding{from: "reader", hidden: map[artifact.Digest]bool{}}
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		seen := c.PushImage("r", "seen", registrytest.Image{Layer: "shared layer"})
		hidden := c.PushImage("r", "hidden", registrytest.Image{Layer: "hidden layer", Subject: seen})
		h.hidden[hidden] = true
		s.Grant(t, "reader", identity.RoleViewer, "**")
		s.Grant(t, "reader", identity.RolePublisher, "other")
		reader := s.Client(t, "reader")
		layer := string(artifact.SHA256Of([]byte("hidden layer")))
		for _, tt := range []struct{ method, path string }{
			{"GET", "/v2/r/manifests/hidden"}, {"HEAD", "/v2/r/manifests/hidden"}, {"GET", "/v2/r/manifests/" + string(hidden)}, {"GET", "/v2/r/blobs/" + layer}, {"HEAD", "/v2/r/blobs/" + layer},
		} {
			want(t, "reader's "+tt.method+" "+tt.path, reader.Do(tt.method, tt.path, ""), http.StatusNotFound, "")
			want(t, "owner's "+tt.method+" "+tt.path, c.Do(tt.method, tt.path, ""), http.StatusOK, "")
		}
		want(t, "a shared config", reader.Do("GET", "/v2/r/blobs/"+string(artifact.SHA256Of([]byte("{}"))), ""), http.StatusOK, "")
		if got, _ := follow(t, reader, "/v2/r/tags/list?n=1", "tags"); cmp.Diff([]string{"seen"}, texts(got)) != "" {
			t.Fatalf("reader's tags: %s", got)
		}
		if got, _ := follow(t, reader, "/v2/r/referrers/"+string(seen), "manifests"); len(got) != 0 {
			t.Fatalf("reader's referrers: %s", got)
		}
		want(t, "mount", reader.Do("POST", "/v2/other/blobs/uploads/?from=r&mount="+layer, ""), http.StatusAccepted, "")
	}, func(o *registry.Options) { o.Visibility = h })
}

// refusing is a Gate with a rule, and a count of what it was asked.
type refusing struct {
	registry.Open
	rule  func(m registry.Move) error
	moves []registry.Move
}

func (g *refusing) TagMove(_ context.Context, _ *store.Tx, m registry.Move) (bool, error) {
	g.moves = append(g.moves, m)
	return false, g.rule(m)
}

func TestGateIsAskedAtEveryMove(t *testing.T) {
	g := &refusing{}
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		g.rule = func(registry.Move) error { return nil }
		a := c.PushImage("r", "v1", registrytest.Image{Layer: "a"})
		g.moves = nil
		b := c.PushImage("r", "v1", registrytest.Image{Layer: "b"})
		m := c.Do("GET", "/v2/r/manifests/"+string(b), "").Body
		want(t, "no move", c.PutManifest("r", "v1", m), http.StatusCreated, "")
		want(t, "tag parameters", c.PutManifest("r", string(b)+"?tag=v2&tag=v1", m), http.StatusCreated, "")
		want(t, "delete", c.Do("DELETE", "/v2/r/manifests/"+string(b), ""), http.StatusAccepted, "")
		type move struct {
			Tag      string
			From, To artifact.Digest
		}
		var got []move
		for _, m := range g.moves {
			got = append(got, move{m.Tag, m.From, m.To})
			if m.Repository != "r" || m.Principal.Subject != "owner" || m.MediaType != registrytest.ImageType {
				t.Errorf("move %+v", m)
			}
		}
		if diff := cmp.Diff([]move{{"v1", a, b}, {"v2", "", b}, {"v1", b, ""}, {"v2", b, ""}}, got); diff != "" {
			t.Fatalf("moves (-want +got):\n%s", diff)
		}

		g.rule = func(m registry.Move) error {
			return fault.Newf(fault.Denied, "tag %s is immutable; push %s-2 instead", m.Tag, m.Tag)
		}
		m = c.Manifest("r", registrytest.Image{Layer: "c"})
		r := c.PutManifest("r", "v3", m)
		want(t, "refused", r, http.StatusForbidden, "DENIED")
		if !strings.Contains(string(r.Body), "push v3-2 instead") {
			t.Fatalf("the reason is lost: %s", r.Body)
		}
		want(t, "the tag", c.Do("HEAD", "/v2/r/manifests/v3", ""), http.StatusNotFound, "")
		want(t, "the manifest", c.Do("HEAD", "/v2/r/manifests/"+string(artifact.SHA256Of(m)), ""), http.StatusNotFound, "")
		want(t, "by digest, no tag moves", c.PutManifest("r", string(artifact.SHA256Of(m)), m), http.StatusCreated, "")
		denied := s.Events(t, "artifact.denied")
		if len(denied) != 1 || denied[0].Digest != artifact.SHA256Of(m) {
			t.Fatalf("denials recorded: %+v", denied)
		}
	}, func(o *registry.Options) { o.Gate = g })
}

func TestCompareAndSet(t *testing.T) {
	each(t, func(t *testing.T, _ *registrytest.Server, c *registrytest.Client) {
		a, b := c.Manifest("r", registrytest.Image{Layer: "a"}), c.Manifest("r", registrytest.Image{Layer: "b"})
		tag := func(m []byte) string { return `"` + string(artifact.SHA256Of(m)) + `"` }
		want(t, "If-Match before there is one", c.PutManifest("r", "v", a, "If-Match", tag(a)), http.StatusPreconditionFailed, "DENIED")
		want(t, "create", c.PutManifest("r", "v", a, "If-None-Match", "*"), http.StatusCreated, "")
		want(t, "create again", c.PutManifest("r", "v", b, "If-None-Match", "*"), http.StatusPreconditionFailed, "DENIED")
		want(t, "wrong If-Match", c.PutManifest("r", "v", b, "If-Match", tag(b)), http.StatusPreconditionFailed, "DENIED")
		want(t, "right If-Match", c.PutManifest("r", "v", b, "If-Match", tag(a)), http.StatusCreated, "")
		want(t, "If-Match: *", c.PutManifest("r", "v", a, "If-Match", "*"), http.StatusCreated, "")
		want(t, "delete another", c.Do("DELETE", "/v2/r/manifests/v", "", "If-Match", tag(b)), http.StatusPreconditionFailed, "DENIED")
		want(t, "delete", c.Do("DELETE", "/v2/r/manifests/v", "", "If-Match", tag(a)), http.StatusAccepted, "")
	})
}

func TestManifestReads(t *testing.T) {
	_, c := one(t)
	d := c.PushImage("r", "v1", registrytest.Image{Layer: "x"})
	path := "/v2/r/manifests/v1"
	for name, tt := range map[string]struct {
		method string
		header [2]string
		status int
	}{
		"plain":            {"GET", [2]string{"Accept", ""}, 200},
		"its type":         {"GET", [2]string{"Accept", "application/json, " + registrytest.ImageType}, 200},
		"any type":         {"GET", [2]string{"Accept", "text/html, */*;q=0.1"}, 200},
		"another type":     {"GET", [2]string{"Accept", registrytest.IndexType}, 404},
		"its type refused": {"GET", [2]string{"Accept", registrytest.ImageType + ";q=0"}, 404},
		"not modified":     {"GET", [2]string{"If-None-Match", `"x", W/"` + string(d) + `"`}, 304},
		"modified":         {"GET", [2]string{"If-None-Match", `"x"`}, 200},
		"HEAD":             {"HEAD", [2]string{"Accept", "*/*"}, 200},
	} {
		r := c.Do(tt.method, path, "", tt.header[0], tt.header[1])
		if r.StatusCode != tt.status {
			t.Errorf("%s: %s, want %d", name, r.Status, tt.status)
			continue
		}
		if tt.status == 200 {
			wantHeader(t, name, r, "Docker-Content-Digest", string(d))
			wantHeader(t, name, r, "Etag", `"`+string(d)+`"`)
			wantHeader(t, name, r, "Content-Type", registrytest.ImageType)
		}
	}
	want(t, "bad tag", c.Do("GET", "/v2/r/manifests/.x", ""), http.StatusBadRequest, "MANIFEST_INVALID")
	want(t, "unknown tag", c.Do("GET", "/v2/r/manifests/x", ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	want(t, "method", c.Do("POST", path, ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
}
