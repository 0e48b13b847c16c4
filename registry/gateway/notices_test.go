package gateway_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/config"
	"assay/registry/registrytest"
)

// The shapes are those of the providers' documentation, cut to what matters and
// with members that are to be ignored.
var notices = map[string]string{
	"harbor":       `{"type":"PUSH_ARTIFACT","occur_at":1586922308,"operator":"admin","event_data":{"resources":[{"digest":"sha256:lie","tag":"v1","resource_url":"hub.example/team/app:v1"}],"repository":{"date_created":1,"name":"app","namespace":"team","repo_full_name":"team/app","repo_type":"private"}}}`,
	"ecr":          `{"version":"0","id":"13cde686","detail-type":"ECR Image Action","source":"aws.ecr","account":"123456789012","region":"us-west-2","resources":[],"detail":{"result":"SUCCESS","repository-name":"team/app","image-digest":"sha256:lie","action-type":"PUSH","image-tag":"v1"}}`,
	"ghcr":         `{"action":"published","registry_package":{"id":1,"name":"App","namespace":"Team","package_type":"CONTAINER","package_version":{"id":2,"container_metadata":{"tag":{"name":"v1","digest":"sha256:lie"}}}},"sender":{"login":"octocat"}}`,
	"distribution": `{"events":[{"id":"320678d8","action":"push","target":{"mediaType":"x","digest":"sha256:lie","repository":"team/app","url":"http://evil/","tag":"v1"},"actor":{"name":"root"}},{"action":"pull","target":{"repository":"team/app","tag":"v2"}}]}`,
}

const noticeSecret = "a secret of some length"

func signed(provider, body, secret string) http.Header {
	h := http.Header{"X-Github-Event": {"registry_package"}}
	if provider == "ghcr" {
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
		for provider, body := range notices {
			rules, err := config.NewRepositories(config.RepositorySpec{Pattern: provider + "/**", Upstream: config.UpstreamSpec{
				URL: b.wire.URL + "/team", Credentials: "file:" + b.secret, AllowPrivate: true,
				Notices: config.NoticeSpec{Provider: provider, Secret: "file:" + writeSecret(t, noticeSecret)},
			}})
			if err != nil {
				t.Fatal(err)
			}
			b.gw.Set(rules)
			d := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: provider})
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
				if got, _, _ := b.own.Intake().Points(ctx, provider+"/app", "v1"); got == d {
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
