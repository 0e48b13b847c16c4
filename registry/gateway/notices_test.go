package gateway_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/config"
	"assay/internal/fault"
	"assay/registry/registrytest"
)

// shapes are files with notices as the providers document them; testdata says
// where. The part before "-" is the provider.
var shapes = []string{"harbor", "ecr", "ghcr-registry_package", "ghcr-package", "distribution"}

func shape(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "notices", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const noticeSecret = "a secret of some length"

func signed(provider, body, secret string) http.Header {
	h := http.Header{}
	if provider == "ghcr" {
		h.Set("X-Github-Event", "package")
		if strings.Contains(body, `"registry_package"`) {
			h.Set("X-Github-Event", "registry_package")
		}
		sum := hmac.New(sha256.New, []byte(secret))
		sum.Write([]byte(body))
		h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum.Sum(nil)))
		return h
	}
	h.Set("Authorization", "Bearer "+secret)
	return h
}

// A notice makes the gateway look, and is believed in nothing: the tag gets the
// digest that the upstream has. Without the secret nothing happens, and a replay
// costs a look.
func TestThreat_Registry_NoticesAreHints(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		for _, name := range shapes {
			provider, _, _ := strings.Cut(name, "-")
			body := shape(t, name)
			rules, err := config.NewRepositories(config.RepositorySpec{Pattern: name + "/**", Upstream: config.UpstreamSpec{
				URL: b.wire.URL + "/team", Credentials: "file:" + b.secret, AllowPrivate: true,
				Notices: config.NoticeSpec{Provider: provider, Secret: "file:" + writeSecret(t, noticeSecret)},
			}})
			if err != nil {
				t.Fatal(err)
			}
			b.gw.Set(rules)
			d := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: name})
			h := b.gw.Notices("/hooks/registry/")
			send := func(path, body string, header http.Header) int {
				r := httptest.NewRequest("POST", "/hooks/registry/"+path, strings.NewReader(body))
				r.Header = header
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Code
			}
			before := b.requests.Load()
			for what, got := range map[string]int{
				"wrong secret":   send(provider, body, signed(provider, body, "another secret, as long")),
				"no secret":      send(provider, body, http.Header{}),
				"other provider": send(map[bool]string{true: "ecr", false: "harbor"}[provider == "harbor"], body, signed(provider, body, noticeSecret)),
			} {
				if got != 401 {
					t.Errorf("%s, %s: %d, want 401", provider, what, got)
				}
			}
			big := strings.Repeat(" ", 300<<10)
			if got := send(provider, big, signed(provider, big, noticeSecret)); got != 413 {
				t.Errorf("%s, too large: %d, want 413", provider, got)
			}
			double := `{"type":"PUSH_ARTIFACT","type":"x","source":"a","source":"b","action":"a","action":"b","events":[],"events":[]}`
			if got := send(provider, double, signed(provider, double, noticeSecret)); got != 400 {
				t.Errorf("%s, double member: %d, want 400", provider, got)
			}
			if b.requests.Load() != before {
				t.Errorf("%s: a refused notice made the upstream be asked", provider)
			}
			for range 3 { // replays
				if got := send(provider, body, signed(provider, body, noticeSecret)); got != 202 {
					t.Fatalf("%s: %d, want 202", provider, got)
				}
			}
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
			ended := make(chan error, 1)
			go func() { ended <- b.gw.Run(ctx, b.own.Intake()) }()
			for ctx.Err() == nil {
				if got, _, _ := b.own.Intake().Points(ctx, name+"/app", "v1"); got == d {
					break
				}
				time.Sleep(2 * time.Millisecond)
			}
			if ctx.Err() != nil {
				t.Errorf("%s: the tag was not looked up", provider)
			}
			stop()
			<-ended
		}
	})
}

// Hostile notices, with the secret, are refused or mean nothing: none names a
// place that is not of a pattern here, and none costs more than a bounded look.
func TestThreat_Registry_HostileNotices(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		rules, err := config.NewRepositories(config.RepositorySpec{Pattern: "m/**", Upstream: config.UpstreamSpec{
			URL: b.wire.URL + "/team", Credentials: "file:" + b.secret, AllowPrivate: true,
			Notices: config.NoticeSpec{Provider: "distribution", Secret: "file:" + writeSecret(t, noticeSecret)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		b.gw.Set(rules)
		event := func(repository, tag string) string {
			return `{"action":"push","target":{"repository":"` + repository + `","tag":"` + tag + `"}}`
		}
		many := func(n int) string {
			return `{"events":[` + strings.TrimSuffix(strings.Repeat(event("team/app", "v1")+",", n), ",") + `]}`
		}
		before := b.requests.Load()
		for name, c := range map[string]struct {
			body string
			want int
		}{
			"nothing":            {"", 400},
			"no JSON":            {"push v1", 400},
			"null":               {"null", 202},
			"another shape":      {`{"events":{"action":"push"}}`, 400},
			"deep":               {strings.Repeat("[", 100_000), 400},
			"bad UTF-8":          {"{\"events\":[{\"action\":\"\xff\"}]}", 400},
			"more after the end": {many(1) + "{}", 400},
			"too many":           {many(101), 413},
			"a place elsewhere":  {`{"events":[` + event("other/app", "v1") + `]}`, 202},
			"a path":             {`{"events":[` + event("team/../../etc", "v1") + `]}`, 202},
			"a tag that is none": {`{"events":[` + event("team/app", "v1?x=/../..") + `]}`, 202},
			"a digest for a tag": {`{"events":[` + event("team/app", "sha256:00") + `]}`, 202},
		} {
			r := httptest.NewRequest("POST", "/hooks/registry/distribution", strings.NewReader(c.body))
			r.Header = signed("distribution", c.body, noticeSecret)
			w := httptest.NewRecorder()
			began := time.Now()
			b.gw.Notices("/hooks/registry/").ServeHTTP(w, r)
			if w.Code != c.want || time.Since(began) > 2*time.Second || w.Body.Len() > 1000 {
				t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, c.want)
			}
			if c.want == 202 && !strings.Contains(w.Body.String(), "nothing here stands for that") {
				t.Errorf("%s: was taken", name)
			}
		}
		if b.requests.Load() != before {
			t.Error("the upstream was asked")
		}
	})
}

// A notice that never comes costs time and nothing else: what is due is looked
// up by whoever comes, and by the worker.
func TestNoticeLost(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		first := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "first"})
		want(t, "a pull", b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
		second := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "second"})
		if got := b.puller.Do("HEAD", "/v2/mirror/app/manifests/v1", "", "Accept", accept).Header.Get("Docker-Content-Digest"); got != string(first) {
			t.Fatalf("before it is due: %s", got)
		}
		b.pass(config.DefaultRevalidate + time.Second)
		if got := b.puller.Do("HEAD", "/v2/mirror/app/manifests/v1", "", "Accept", accept).Header.Get("Docker-Content-Digest"); got != string(second) {
			t.Fatalf("when it is due: %s, want %s", got, second)
		}
	})
}

// A notice that comes before the tag is set, as a distribution registry's may,
// does not keep the tag from whoever pulls it a moment later.
func TestNoticeBeforeTag(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		if err := b.gw.Lookup(t.Context(), b.own.Intake(), "mirror/app", "v1"); !errors.Is(err, fault.NotFound) {
			t.Fatalf("before the tag: %v", err)
		}
		b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		want(t, "a pull", b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
	})
}
