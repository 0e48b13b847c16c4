package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

// serve is a client of a server that answers as h does.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &Client{Base: s.URL, HTTP: s.Client(), Token: func(context.Context) (string, error) { return "secret.token.value", nil }}
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestErrorsOfTheServer(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		kind   *fault.Kind
		says   string
	}{
		{400, `{"detail":"want a digest"}`, fault.Invalid, "want a digest"},
		{401, `{"detail":"no credentials"}`, fault.Unauthenticated, "no credentials"},
		{403, `{"detail":"needs the role viewer"}`, fault.Denied, "needs the role viewer"},
		{404, `{"detail":"no such thing"}`, fault.NotFound, "no such thing"},
		{405, ``, fault.Invalid, "405"},
		{409, `{"detail":"twice"}`, fault.Conflict, "twice"},
		{413, `{"detail":"large"}`, fault.TooLarge, "large"},
		{415, ``, fault.Invalid, "415"},
		{429, ``, fault.TooMany, "429"},
		{500, `internal`, fault.Unavailable, "internal"},
		{503, `{"message":"as grpc-gateway says it"}`, fault.Unavailable, "as grpc-gateway says it"},
		{507, `{"detail":"disk full"}`, fault.NoSpace, "disk full"},
	} {
		_, err := serve(t, answer(tt.status, tt.body)).Status(t.Context())
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("status %d: %v, want %v saying %q", tt.status, err, tt.kind, tt.says)
		}
	}
}

// A server's words reach the terminal without control characters, escape
// sequences and direction overrides, and not without end.
func TestThreat_MetricsLogs_ServerWritesToTheTerminal(t *testing.T) {
	hostile := "\\u001b]0;owned\\u0007\\u009b31m\\u202egnp\\r"
	for _, body := range []string{`{"detail":"` + hostile + `"}`, `{"message":"` + hostile + `"}`, "\x1b[31mplain\x9b\xff", `{"detail":"` + strings.Repeat("x", 1<<20) + `"}`} {
		_, err := serve(t, answer(400, body)).Status(t.Context())
		if err == nil {
			t.Fatal("no error")
		}
		if strings.ContainsAny(err.Error(), "\x1b\x07\r\u009b\u202e") || !utf8.ValidString(err.Error()) || len(err.Error()) > 8<<10 {
			t.Errorf("the error holds what a terminal obeys, or too much (%d bytes): %.200q", len(err.Error()), err)
		}
		if strings.Contains(err.Error(), "secret.token.value") {
			t.Errorf("the error holds the token: %v", err)
		}
	}
}

func TestThreat_Registry_RedirectsAreNotFollowed(t *testing.T) {
	followed := ""
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		followed = r.URL.Path + " with " + r.Header.Get("Authorization")
	}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+r.URL.Path, status) })
		_, err := c.Status(t.Context())
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "not followed") {
			t.Errorf("status %d: %v, want that it is not followed", status, err)
		}
		_, err = c.Ingest(t.Context(), []byte("{}"), "")
		if err == nil {
			t.Errorf("status %d: a redirected POST succeeded", status)
		}
	}
	if followed != "" {
		t.Errorf("the other host was asked for %s", followed)
	}
}

func TestEndlessAnswers(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<20)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	if _, err := c.TrustExport(t.Context()); !errors.Is(err, fault.TooLarge) {
		t.Errorf("endless answer: %v, want too large", err)
	}
}

func TestAnswersOfAnotherForm(t *testing.T) {
	for _, body := range []string{"", "null?", `[]`, `"x"`, `{"log_size":-1}`, `{"started_at":"yesterday"}`} {
		if _, err := serve(t, answer(200, body)).Status(t.Context()); !errors.Is(err, fault.Unavailable) {
			t.Errorf("status %q: %v, want unavailable", body, err)
		}
	}
}

// A bundle that the server swaps for another is found out: its name is its
// content.
func TestBundleIsWhatItsNameSays(t *testing.T) {
	good := []byte(`{"mediaType":"x"}`)
	id := fmt.Sprintf("att_%x", sha256.Sum256(good))
	c := serve(t, answer(200, string(good)))
	if b, err := c.Bundle(t.Context(), id); err != nil || string(b) != string(good) {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := serve(t, answer(200, `{"mediaType":"y"}`)).Bundle(t.Context(), id); !errors.Is(err, fault.Tampered) {
		t.Errorf("other bytes: %v, want tampered", err)
	}
	if _, err := c.Bundle(t.Context(), "../status"); !errors.Is(err, fault.Tampered) {
		t.Errorf("a path for an ID: %v, want tampered", err)
	}
}

// TestRequests holds each call against what it sends.
func TestRequests(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("Authorization"), b)
		_, _ = io.WriteString(w, "{}")
	})
	ctx := t.Context()
	const bearer = "Bearer secret.token.value"
	for _, tt := range []struct {
		call func() error
		want string
	}{
		{func() error { _, err := c.Mint(ctx, TokenRequest{"me", "sigstore", 5}); return err },
			`POST /v1/token application/json ` + bearer + ` {"subject":"me","audience":"sigstore","ttl_seconds":5}`},
		{func() error { return c.Verify(ctx, VerifyRequest{Digest: "sha256:00"}, &struct{}{}) },
			`POST /api/v1/verify application/json ` + bearer + ` {"digest":"sha256:00"}`},
		{func() error { return c.Decision(ctx, "a/b?c", &struct{}{}) }, `GET /api/v1/decisions/a%2Fb%3Fc  ` + bearer + ` `},
		{func() error { _, err := c.Ingest(ctx, []byte("{1}"), "team/a"); return err },
			`POST /api/v1/evidence?repository=team%2Fa application/vnd.dev.sigstore.bundle.v0.3+json ` + bearer + ` {1}`},
		{func() error {
			_, err := c.Evidence(ctx, EvidenceFilter{Digest: "sha256:00", PredicateType: "t", Issuer: "i", Identity: "w", Repository: "r", After: "a", Limit: 3})
			return err
		}, `GET /api/v1/evidence?after=a&digest=sha256%3A00&identity=w&issuer=i&limit=3&predicate_type=t&repository=r  ` + bearer + ` `},
		{func() error { _, err := c.Apply(ctx, []byte("kind: X"), true, true); return err },
			`POST /api/v1/apply?dry_run=true&prune=true application/yaml ` + bearer + ` kind: X`},
		{func() error { _, err := c.LogEntry(ctx, 7); return err }, `GET /api/v1/log/entries/7  ` + bearer + ` `},
		{func() error { _, err := c.TUFRoot(ctx); return err }, `GET /api/v1/trust/tuf-root  ` + bearer + ` `},
	} {
		if err := tt.call(); err != nil {
			t.Errorf("want %s: %v", tt.want, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("-want +sent:\n%s", d)
		}
	}
}

func TestNoToken(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if h, has := r.Header["Authorization"]; has {
			t.Errorf("Authorization %q", h)
		}
		_, _ = io.WriteString(w, "{}")
	})
	c.Token = func(context.Context) (string, error) { return "", nil }
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	c.Token = func(context.Context) (string, error) { return "", fault.Newf(fault.Denied, "no") }
	if _, err := c.Status(t.Context()); !errors.Is(err, fault.Denied) {
		t.Errorf("a token that cannot be had: %v, want its error and no request", err)
	}
}
