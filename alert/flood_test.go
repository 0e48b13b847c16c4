package alert

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/event"
	"assay/slo"
	"assay/store"
)

// Who may push names releases: a thousand of them make some notices, not a thousand.
func TestThreat_Alerts_ManyReleasesAreFewNotices(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.o.Locate = func(_ context.Context, _ *store.Tx, e *event.Event) (slo.Place, error) {
			return slo.Place{Release: "team/app:" + string(e.Digest)}, nil
		}
		var list []event.Event
		for i := range 1000 {
			list = append(list, event.Event{Kind: event.SBOMRefused, Digest: digest(i), Body: m{"reason": "bad"}})
		}
		s.tell(list...)
		if n := len(s.notices()); n != mostGroups+1 {
			t.Errorf("%d notices, want %d", n, mostGroups+1)
		}
		all, err := s.List(t.Context(), Filter{Limit: 1000})
		if err != nil || len(all) != 1000 {
			t.Errorf("%d alerts, %v: each is one still", len(all), err)
		}
	})
}

// A receiver that hangs, with a queue before it, holds up no other.
func TestThreat_Alerts_AHangingReceiverHoldsUpNoOther(t *testing.T) {
	stop := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(stop)
	var mu sync.Mutex
	pages := 0
	quick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		pages++
		w.WriteHeader(http.StatusAccepted)
	}))
	defer quick.Close()
	s := newSite(t, store.SQLite,
		receiver(t, "slow", Spec{Type: TypeWebhook, URL: slow.URL, Severities: []Severity{Ticket}, Default: true, AllowPrivate: true}),
		receiver(t, "quick", Spec{Type: TypeWebhook, URL: quick.URL, Severities: []Severity{Page}, Default: true, AllowPrivate: true}))
	s.o.Locate = func(_ context.Context, _ *store.Tx, e *event.Event) (slo.Place, error) {
		return slo.Place{Release: "team/app:" + string(e.Digest)}, nil
	}
	for i := range 15 {
		s.tell(event.Event{Kind: event.SBOMRefused, Digest: digest(i), Body: m{"reason": "bad"}})
	}
	s.now = s.now.Add(time.Hour)
	for i := range 15 {
		s.tell(event.Event{Kind: event.StoreTampered, Digest: digest(100 + i), Body: m{"what": "blob", "name": fmt.Sprint("b", i), "found": "y"}})
	}
	s.now = s.now.Add(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Send(ctx) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		n := pages
		mu.Unlock()
		if n == 15 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d of 15 pages arrived while another receiver hangs", n)
			break
		}
	}
	cancel()
	<-done
}

// What a receiver answers, or a library says, is shown: a secret in it is not.
func TestThreat_Alerts_SecretsAreNotShown(t *testing.T) {
	for secret, texts := range map[string][]string{
		"https://hooks.example.com/services/T0/B0/s3cr%20et": {`Post "https://hooks.example.com/services/T0/B0/s3cr%20et": dial tcp: refused`, `no route /services/T0/B0/s3cr et`, `unknown hook s3cr et`},
		"jo:hunter2&co":    {"535 no user jo with hunter2&co", "Basic am86aHVudGVyMiZjbw==", "?password=hunter2%26co", "AGpvAGh1bnRlcjImY28="},
		"0123456789abcdef": {"routing key 0123456789abcdef is unknown"},
	} {
		for _, text := range texts {
			got := withoutSecret(text, secret)
			if !strings.Contains(got, "[secret]") || strings.Contains(got, "hunter2") || strings.Contains(got, "s3cr") || strings.Contains(got, "89abc") {
				t.Errorf("%q is shown as %q", text, got)
			}
		}
	}
	if got := withoutSecret("the receiver answered 503", "jo:503"); got != "the receiver answered 503" {
		t.Errorf("a word of three letters is taken for a secret: %q", got)
	}
}

// What anybody may name calls nobody in a tracker, loads nothing there and commands
// nothing.
func TestThreat_Alerts_NamesAreNoMarkup(t *testing.T) {
	server := &shaped{ways: jiraWays}
	h := httptest.NewServer(server)
	defer h.Close()
	s := newSite(t, store.SQLite,
		receiver(t, "gh", Spec{Type: TypeGitHub, URL: h.URL, Secret: "file:x", Project: "o/n", Default: true, AllowPrivate: true}),
		receiver(t, "jira", Spec{Type: TypeJira, URL: h.URL, Secret: "file:x", Project: "OPS", Default: true, AllowPrivate: true}))
	s.o.Secret = func(string) ([]byte, error) { return []byte("user:0123456789abcdef"), nil }
	const hostile = "``` @everyone ![x](https://evil.example/p.png) {noformat} !https://evil.example/q.png!"
	s.tell(event.Event{Kind: event.SBOMRefused, Digest: digest(1), Body: m{"reason": hostile}})
	s.now = s.now.Add(time.Hour)
	for range 5 {
		if _, err := s.SendDue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	gh, _ := server.last["POST /repos/o/n/issues"]["body"].(string)
	fields, _ := server.last["POST /rest/api/2/issue"]["fields"].(map[string]any)
	jira, _ := fields["description"].(string)
	for name, c := range map[string]struct{ body, fence string }{"GitHub": {gh, "```"}, "Jira": {jira, "{noformat}"}} {
		parts := strings.Split(c.body, c.fence)
		if len(parts) != 3 || !strings.Contains(parts[1], "@everyone") || strings.Contains(parts[0]+parts[2], "evil") {
			t.Errorf("%s got %q", name, c.body)
		}
	}
}
