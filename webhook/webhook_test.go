package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/webhook"
)

const secret = "a secret of more than sixteen bytes"

// receiver takes requests as a CI system would, and answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []taken
	answer func(n int) int
	came   chan struct{}
}

type taken struct {
	header http.Header
	body   []byte
}

func newReceiver(t *testing.T, answer func(n int) int) *receiver {
	r := &receiver{answer: answer, came: make(chan struct{}, 1000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, taken{req.Header.Clone(), b})
		n := len(r.got)
		r.mu.Unlock()
		if code := r.answer(n); code == http.StatusFound {
			http.Redirect(w, req, "/elsewhere", code)
		} else {
			w.WriteHeader(code)
		}
		r.came <- struct{}{}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) wait(t *testing.T, n int) []taken {
	t.Helper()
	for range n {
		select {
		case <-r.came:
		case <-time.After(20 * time.Second):
			t.Fatal("no request came")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]taken{}, r.got...)
}

// site runs a sealer and a sender over db.
func site(t *testing.T, db *store.DB, specs map[string]webhook.Spec) *webhook.Sender {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, webhook.Migrations); err != nil {
		t.Fatal(err)
	}
	var hooks []*webhook.Hook
	for name, s := range specs {
		h, err := webhook.Compile(name, s)
		if err != nil {
			t.Fatal(err)
		}
		hooks = append(hooks, h)
	}
	s := webhook.New(webhook.Options{
		DB: db, Events: event.NewLog(db, event.LogOptions{}), Hooks: func() []*webhook.Hook { return hooks },
		Secret: func(place string) ([]byte, error) { return os.ReadFile(strings.TrimPrefix(place, "file:")) },
		Source: "https://assay.example.com", Host: "assay.example.com", FirstWait: time.Millisecond,
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { _ = event.NewSealer(db, event.SealerOptions{}).Run(ctx) })
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { stop(); wg.Wait() })
	return s
}

func happen(t *testing.T, db *store.DB, kind event.Kind, body map[string]any) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		return event.Append(t.Context(), tx, event.Event{Kind: kind, Digest: artifact.SHA256Of([]byte("image")), Actor: "https://issuer#me", Body: body})
	}); err != nil {
		t.Fatal(err)
	}
}

func TestDelivers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newReceiver(t, func(int) int { return http.StatusNoContent })
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		site(t, db, map[string]webhook.Spec{"ci": {URL: r.URL + "/hook", AllowPrivate: true, Secret: "file:" + file, Repositories: []string{"team/**"}}})
		happen(t, db, event.ArtifactPushed, map[string]any{"repository": "other/app"})
		happen(t, db, event.ServerStarted, map[string]any{"repository": "team/app"})
		happen(t, db, event.ArtifactPushed, map[string]any{"repository": "team/app", "tag": "v1"})
		happen(t, db, event.TagMoved, map[string]any{"repository": "team/app", "tag": "v1"})
		got := r.wait(t, 2)
		if len(got) != 2 {
			t.Fatalf("%d requests", len(got))
		}
		byType := map[string]taken{}
		for _, one := range got {
			byType[one.header.Get("ce-type")] = one
			want := "v1," + webhook.Sign([]byte(secret), one.header.Get("webhook-id"), one.header.Get("webhook-timestamp"), one.body)
			if one.header.Get("webhook-signature") != want || one.header.Get("Idempotency-Key") == "" || one.header.Get("ce-specversion") != "1.0" {
				t.Errorf("headers %v", one.header)
			}
		}
		var e struct {
			Context struct{ Version, ID, Source, Type, Timestamp string }
			Subject struct {
				ID, Type string
				Content  map[string]any
			}
			CustomData struct{ Kind, Digest string }
		}
		if err := json.Unmarshal(byType["dev.cdevents.artifact.published.0.2.0"].body, &e); err != nil {
			t.Fatal(err)
		}
		if e.Context.Version != "0.4.1" || e.Context.Source != "https://assay.example.com" || e.Subject.Type != "artifact" || e.Subject.Content["user"] != "https://issuer#me" ||
			!strings.HasPrefix(e.Subject.ID, "pkg:oci/app@sha256:") || !strings.Contains(e.Subject.ID, "repository_url=assay.example.com%2Fteam%2Fapp") || !strings.HasSuffix(e.Subject.ID, "tag=v1") {
			t.Errorf("%+v", e)
		}
		if _, there := byType["dev.cdeventsx.assay-tag.moved.0.1.0"]; !there {
			t.Errorf("types %v", byType)
		}
	})
}

// TestDeliversAgain: what is not taken comes again under the same key, and is
// then gone from the queue.
func TestDeliversAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newReceiver(t, func(n int) int { return []int{500, 302, 200}[min(n, 3)-1] })
		s := site(t, db, map[string]webhook.Spec{"ci": {URL: r.URL, AllowPrivate: true}})
		happen(t, db, event.ArtifactPromoted, nil)
		got := r.wait(t, 3)
		for _, one := range got {
			if one.header.Get("Idempotency-Key") != got[0].header.Get("Idempotency-Key") || string(one.body) != string(got[0].body) {
				t.Errorf("another key or body: %v", one.header)
			}
		}
		empty(t, s)
	})
}

func empty(t *testing.T, s *webhook.Sender) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := s.Deliveries(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v are left", left)
		}
	}
}

// TestGone: a receiver that wants no more gets no more until somebody says so.
func TestGone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newReceiver(t, func(n int) int { return []int{410, 200}[min(n, 2)-1] })
		s := site(t, db, map[string]webhook.Spec{"ci": {URL: r.URL, AllowPrivate: true, Events: []string{"artifact.*", "webhook.*"}}})
		happen(t, db, event.ArtifactPushed, nil)
		r.wait(t, 1)
		var left []webhook.Delivery
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			var err error
			if left, err = s.Deliveries(t.Context(), "ci", 10); err != nil {
				t.Fatal(err)
			}
			if len(left) == 1 && left[0].GivenUp {
				break
			}
		}
		if len(left) != 1 || !left[0].GivenUp || left[0].Problem == "" {
			t.Fatalf("%+v", left)
		}
		if n, err := s.Redeliver(t.Context(), "ci"); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		r.wait(t, 1)
		empty(t, s)
	})
}

// TestThreat_Webhook_Metadata: no hook leads to a metadata service, nor to this
// machine unless it says so.
func TestThreat_Webhook_Metadata(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	r := newReceiver(t, func(int) int { return 200 })
	s := site(t, db, map[string]webhook.Spec{
		"metadata": {URL: "http://169.254.169.254/latest", AllowPrivate: true},
		"loopback": {URL: strings.Replace(r.URL, "http:", "https:", 1)},
	})
	happen(t, db, event.ArtifactPushed, nil)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := s.Deliveries(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for _, d := range left {
			if strings.Contains(d.Problem, "never contacted") || strings.Contains(d.Problem, "is private") {
				refused++
			}
		}
		if refused == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", left)
		}
	}
	if len(r.got) > 0 {
		t.Error("the receiver was reached")
	}
}

func TestValidate(t *testing.T) {
	for name, s := range map[string]webhook.Spec{
		"no URL":        {},
		"file":          {URL: "file:///etc/passwd"},
		"plain":         {URL: "http://example.com"},
		"credentials":   {URL: "https://me:secret@example.com"},
		"unknown event": {URL: "https://example.com", Events: []string{"artifact.eaten"}},
		"bad glob":      {URL: "https://example.com", Repositories: []string{"a**b"}},
		"secret itself": {URL: "https://example.com", Secret: "hunter2hunter2hunter2"},
	} {
		if err := s.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "me:secret") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
	for _, e := range webhook.DefaultEvents {
		if err := (&webhook.Spec{URL: "https://example.com", Events: []string{e}}).Validate(); err != nil {
			t.Error(err)
		}
	}
}
