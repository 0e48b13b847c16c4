package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/blob/sweep"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/registry"
	"assay/registry/gateway"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

func tagsOf(t *testing.T, r *registrytest.Response) []string {
	t.Helper()
	var doc struct{ Tags []string }
	if err := json.Unmarshal(r.Body, &doc); err != nil {
		t.Fatalf("%s: %v", r.Body, err)
	}
	return doc.Tags
}

// A gateway lists what the upstream has, fetched or not, page by page, and goes
// on while the upstream is down.
func TestTagsOfTheUpstream(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		for i := range 5 {
			b.pusher.PushImage("team/app", fmt.Sprintf("v%d", i), registrytest.Image{Layer: fmt.Sprint("layer ", i)})
		}
		const list = "/v2/mirror/app/tags/list"
		all := []string{"v0", "v1", "v2", "v3", "v4"}
		r := b.puller.Do("GET", list, "")
		want(t, "list of what nobody pulled yet", r, 200)
		if diff := cmp.Diff(all, tagsOf(t, r)); diff != "" {
			t.Error(diff)
		}
		for _, tag := range []string{"v1", "v3"} {
			want(t, "pull", b.puller.Do("GET", "/v2/mirror/app/manifests/"+tag, "", "Accept", accept), 200)
		}
		var paged []string
		next := list + "?n=2"
		for pages := 0; next != ""; pages++ {
			r := b.puller.Do("GET", next, "")
			want(t, "page", r, 200)
			if tags := tagsOf(t, r); len(tags) > 2 || pages > 3 {
				t.Fatalf("page %d: %v", pages, tags)
			}
			paged = append(paged, tagsOf(t, r)...)
			next, _, _ = strings.Cut(strings.TrimPrefix(r.Header.Get("Link"), "<"), ">")
		}
		if diff := cmp.Diff(all, paged); diff != "" {
			t.Error(diff)
		}
		// Within the time that a tag is believed, nobody is asked again.
		n := b.requests.Load()
		b.puller.Do("GET", list, "")
		if b.requests.Load() != n {
			t.Error("the upstream was asked again at once")
		}
		// It is down: the list of before, with a warning.
		b.cut.Store(true)
		b.pass(time.Hour)
		r = b.puller.Do("GET", list, "")
		want(t, "upstream down", r, 200)
		if diff := cmp.Diff(all, tagsOf(t, r)); diff != "" {
			t.Error(diff)
		}
		if w := r.Header.Get("Warning"); !strings.Contains(w, "could not be asked for its tags") {
			t.Errorf("Warning %q", w)
		}
		want(t, "a repository never listed, upstream down", b.puller.Do("GET", "/v2/mirror/other/tags/list", ""), 502)
		b.cut.Store(false)
		b.pass(time.Minute)
		want(t, "a repository that is nowhere", b.puller.Do("GET", "/v2/mirror/other/tags/list", ""), 404)
		// A new tag is listed when the list is due, or when a notice told of it.
		b.puller.Do("GET", list, "")
		b.pusher.PushImage("team/app", "v9", registrytest.Image{Layer: "new"})
		if err := b.gw.Lookup(t.Context(), b.own.Intake(), "mirror/app", "v9"); err != nil {
			t.Fatal(err)
		}
		b.pusher.PushImage("team/app", "w1", registrytest.Image{Layer: "new"})
		if diff := cmp.Diff(append(all, "v9", "w1"), tagsOf(t, b.puller.Do("GET", list, ""))); diff != "" {
			t.Error(diff)
		}
		b.own.Grant(t, "stranger", identity.RoleViewer, "else/**")
		n = b.requests.Load()
		want(t, "who may not pull", b.own.Client(t, "stranger").Do("GET", list, ""), 403)
		if b.requests.Load() != n {
			t.Error("the upstream was asked for somebody without a right")
		}
	})
}

// What an upstream lists is bounded, and what is no tag is left out.
func TestThreat_Registry_GatewayTagListIsBounded(t *testing.T) {
	page := 0
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			w.WriteHeader(200)
			return
		}
		tags := []string{`"../../etc"`, `"a\nb"`, `"-x"`}
		for i := range 1000 {
			tags = append(tags, fmt.Sprintf(`"t%d-%04d"`, page%70, i))
		}
		page++
		w.Header().Set("Link", fmt.Sprintf(`</v2/app/tags/list?n=1000&last=%d>; rel="next"`, page))
		_, _ = fmt.Fprintf(w, `{"name":"app","tags":[%s]}`, strings.Join(tags, ","))
	}))
	defer up.Close()
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, registry.Migrations, gateway.Migrations); err != nil {
		t.Fatal(err)
	}
	gw, err := gateway.New(gateway.Options{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := config.NewRepositories(config.RepositorySpec{Pattern: "m/**", Upstream: config.UpstreamSpec{URL: up.URL, AllowPrivate: true}})
	if err != nil {
		t.Fatal(err)
	}
	gw.Set(rules)
	tags, warning, err := gw.Tags(t.Context(), "m/app")
	if err != nil || len(tags) > 20_000 || len(tags) < 19_000 || !strings.Contains(warning, "more tags") {
		t.Fatalf("%d tags, warning %q, %v", len(tags), warning, err)
	}
	if page > 25 {
		t.Errorf("%d pages were read", page)
	}
	for _, tag := range tags {
		if !registry.ValidTag(tag) {
			t.Fatalf("%q is listed", tag)
		}
	}
}

// hidden hides one digest from all.
type hidden struct {
	registry.Visibility
	d atomic.Value // artifact.Digest
}

func (h *hidden) Visible(_ context.Context, _ *store.Tx, _ identity.Principal, _ string, d artifact.Digest) (bool, error) {
	return d != h.d.Load(), nil
}
func (*hidden) Withheld(context.Context, *store.Tx, artifact.Digest) (bool, error) { return false, nil }
func (*hidden) SeesHeld(context.Context, identity.Principal, string, string) bool  { return false }
func (*hidden) Refusal(context.Context, *store.Tx, identity.Principal, string, artifact.Digest) error {
	return nil
}

// A tag that the gate hides here is not listed because the upstream lists it.
func TestThreat_Registry_GatewayListsNoHiddenTag(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		vis := &hidden{}
		vis.d.Store(artifact.Digest(""))
		b := newBed(t, db, func(o *registry.Options) { o.Visibility = vis })
		d := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		b.pusher.PushImage("team/app", "v2", registrytest.Image{Layer: "two"})
		want(t, "pull", b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
		vis.d.Store(d)
		if diff := cmp.Diff([]string{"v2"}, tagsOf(t, b.puller.Do("GET", "/v2/mirror/app/tags/list", ""))); diff != "" {
			t.Error(diff)
		}
	})
}
