package registry_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"assay/event"
	"assay/identity"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

type record struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Action     string `json:"action"`
	Decision   string `json:"decision"`
	Address    string `json:"address"`
	UserAgent  string `json:"user_agent"`
	Credential string `json:"credential"`
	Bytes      int64  `json:"bytes"`
	Micros     int64  `json:"micros"`
	Use        string `json:"use"`
	Count      int    `json:"count"`
	Scope      string `json:"scope"`
}

func body(t testing.TB, e event.Event) (r record) {
	t.Helper()
	if err := e.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func strict(o *registry.Options) { o.StrictAudit = true }

// HEAD by tag and GET by digest are one pull, of the tag; a GET that is
// repeated is the same pull; another client's, another tag's is another.
func TestOnePullOneRecord(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		d := c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
		c.PushImage("a", "v2", registrytest.Image{Layer: "x"})
		crane := []string{"User-Agent", "crane/0.22\x1b[31m\u202e (linux)"}
		get := func(method, ref string, headers ...string) {
			t.Helper()
			want(t, method+" "+ref, c.Do(method, "/v2/a/manifests/"+ref, "", headers...), http.StatusOK, "")
		}
		get("HEAD", "v1")
		get("GET", string(d))
		get("GET", string(d)) // the client did not hear the answer
		get("GET", "v1")
		get("GET", "v2")                           // another tag was asked for
		get("GET", string(d), crane[0], "other/1") // another client, who never said a tag
		var got []string
		for _, e := range s.Events(t, event.ArtifactPulled) {
			r := body(t, e)
			if r.Decision != "allow" || r.Address != "127.0.0.1" || !strings.HasPrefix(r.Credential, "jwt:") || r.Bytes < 100 || r.Micros < 1 || e.Digest != d || !strings.HasSuffix(e.Actor, "#owner") {
				t.Errorf("record %+v of %s by %s", r, e.Digest, e.Actor)
			}
			got = append(got, r.Repository+":"+r.Tag)
		}
		if g := strings.Join(got, " "); g != "a:v1 a:v2 a:" {
			t.Errorf("recorded %q, want a:v1 a:v2 a:", g)
		}
	}, strict)
}

// Retries at once, of many connections, are one record; those of many callers
// are many.
func TestConcurrentRetries(t *testing.T) {
	s, c := one(t, strict)
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	s.Grant(t, "other", identity.RolePull, "a")
	clients := []*registrytest.Client{c, s.Client(t, "other")}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if r, err := clients[i%2].Try("GET", "/v2/a/manifests/v1", nil); err != nil || r.StatusCode != http.StatusOK {
				t.Errorf("pull: %v %v", r, err)
			}
		})
	}
	wg.Wait()
	if got := s.Events(t, event.ArtifactPulled); len(got) != 2 {
		t.Errorf("%d records, want one for each of two callers", len(got))
	}
}

// What a client says of itself reaches neither a log nor a terminal as it is.
func TestThreat_MetricsLogs_UserAgentIsEscaped(t *testing.T) {
	s, c := one(t)
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	hostile := "crane\u202e\u009b\u00ad " + strings.Repeat("A", 1000)
	want(t, "pull", c.Do("GET", "/v2/a/manifests/v1", "", "User-Agent", hostile), http.StatusOK, "")
	for _, e := range s.Events(t, event.ArtifactPulled) {
		if r := body(t, e); r.UserAgent == "" || len(r.UserAgent) > 200 || strings.ContainsAny(r.UserAgent, "\u202e\u009b\u00ad") {
			t.Errorf("user agent %q", r.UserAgent)
		}
	}
}

// A blob that is read without its manifest leaves a record too.
func TestBlobReadIsRecorded(t *testing.T) {
	s, c := one(t)
	d := c.PushBlob("a", "layer")
	c.PushImage("a", "v1", registrytest.Image{Layer: "layer"})
	s.Grant(t, "sneak", identity.RolePull, "a")
	s.Grant(t, "honest", identity.RolePull, "a")
	sneak, honest := s.Client(t, "sneak"), s.Client(t, "honest")
	want(t, "pull", honest.Do("GET", "/v2/a/manifests/v1", ""), http.StatusOK, "")
	for range 3 {
		want(t, "blob", honest.Do("GET", "/v2/a/blobs/"+string(d), ""), http.StatusOK, "")
		want(t, "blob", sneak.Do("GET", "/v2/a/blobs/"+string(d), ""), http.StatusOK, "")
	}
	got := s.Events(t, event.BlobRead)
	if len(got) != 1 || !strings.HasSuffix(got[0].Actor, "#sneak") || got[0].Digest != d || body(t, got[0]).Bytes != 5 {
		t.Errorf("records %+v", got)
	}
}

// Denials are recorded with all that a pull is, pushes and deletes too.
func TestEveryDoorIsRecorded(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		d := c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
		s.Grant(t, "stranger", identity.RolePull, "b")
		want(t, "denied", s.Client(t, "stranger").Do("GET", "/v2/a/manifests/v1", "", "User-Agent", "curl/8"), http.StatusForbidden, "DENIED")
		want(t, "delete", c.Do("DELETE", "/v2/a/manifests/"+string(d), ""), http.StatusAccepted, "")
		for kind, decision := range map[event.Kind]string{event.ArtifactPushed: "allow", event.ArtifactDenied: "deny", event.ArtifactDeleted: "allow"} {
			got := s.Events(t, kind)
			if len(got) != 1 {
				t.Fatalf("%s: %d records", kind, len(got))
			}
			r := body(t, got[0])
			if r.Decision != decision || r.Repository != "a" || r.Address != "127.0.0.1" || r.Credential == "" || r.UserAgent == "" || r.Micros < 1 {
				t.Errorf("%s: %+v", kind, r)
			}
			if kind == event.ArtifactDenied && (r.Tag != "v1" || r.Action != "pull" || r.UserAgent != "curl/8") {
				t.Errorf("denied: %+v", r)
			}
		}
	})
}

// Scoped tokens are told of together, and name what bought them.
func TestIssuedTokensAreTold(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := registrytest.Start(t, db)
		c := owner(t, s)
		for range 5 {
			token(t, c.Do("GET", "/token?scope=repository:a:pull", ""))
		}
		got := s.Events(t, event.TokenIssued)
		if len(got) != 1 {
			b, _ := json.Marshal(got)
			t.Fatalf("%d events, want one: %s", len(got), b)
		}
		if r := body(t, got[0]); r.Count != 5 || r.Use != "scoped" || r.Address != "127.0.0.1" || r.Credential == "" {
			t.Errorf("%+v", r)
		}
	})
}
