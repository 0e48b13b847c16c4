package registry

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/identity"
)

func tokens(t testing.TB, url, key string, now func() time.Time) *tokenService {
	t.Helper()
	s, err := newTokenService(url, []byte(strings.Repeat(key, 32)), 5*time.Minute, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestThreat_Registry_ForgedScopedTokens: only what this registry signed, for
// itself, within its time, opens it.
func TestThreat_Registry_ForgedScopedTokens(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	s := tokens(t, "https://r.test", "k", clock)
	p := identity.Principal{Issuer: "https://i", Subject: "s", Kind: identity.KindUser, Name: "s", Groups: []string{"g"}}
	access := tokenAccess{{"repository", "a/b", []string{"pull"}}}
	m, err := s.mint(useScoped, p, access, 5*time.Minute)
	raw := m.raw
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.verify(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, gotAccess := c.Principal, c.Access
	if diff := cmp.Diff(p, got) + cmp.Diff(access, gotAccess); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if gotAccess.allows("repository", "a/b", "push") || gotAccess.allows("repository", "a", "pull") || !gotAccess.allows("repository", "a/b", "pull") {
		t.Fatalf("%v allows something else", gotAccess)
	}

	b64 := base64.RawURLEncoding
	parts := strings.Split(raw, ".")
	body, _ := b64.DecodeString(parts[1])
	other := strings.Replace(string(body), `"pull"`, `"push"`, 1)
	none := b64.EncodeToString([]byte(`{"alg":"none"}`))
	for name, forged := range map[string]string{
		"body exchanged":     parts[0] + "." + b64.EncodeToString([]byte(other)) + "." + parts[2],
		"no signature":       parts[0] + "." + parts[1] + ".",
		"cut signature":      raw[:len(raw)-1],
		"alg none":           none + "." + parts[1] + ".",
		"alg none, own name": none + "." + parts[1] + "." + parts[2],
		"million dots":       tokenPrefix + strings.Repeat(".", 1_000_000),
		"prefix only":        tokenPrefix,
		"empty":              "",
	} {
		if _, err := s.verify(forged); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, elsewhere := range map[string]*tokenService{
		"another key":  tokens(t, "https://r.test", "x", clock),
		"another host": tokens(t, "https://other.test", "k", clock),
	} {
		m, err := elsewhere.mint(useScoped, p, access, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.verify(m.raw); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	now = now.Add(5*time.Minute - time.Second)
	if _, err := s.verify(raw); err != nil {
		t.Errorf("within its time: %v", err)
	}
	now = now.Add(time.Second)
	if _, err := s.verify(raw); err == nil {
		t.Error("expired: accepted")
	}
}

func FuzzVerifyToken(f *testing.F) {
	s := tokens(f, "https://r.test", "k", func() time.Time { return time.Unix(1_800_000_000, 0) })
	fresh, err := s.mint(useScoped, identity.Principal{Kind: identity.KindUser}, nil, time.Minute)
	raw := fresh.raw
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:len(raw)-2] + "AA") // never the good one: each process of the fuzzer makes another
	f.Add(tokenPrefix + ".")
	f.Fuzz(func(t *testing.T, forged string) {
		if _, err := s.verify(forged); err == nil {
			t.Fatalf("%q accepted", forged)
		}
	})
}

func TestPublicURL(t *testing.T) {
	for _, bad := range []string{"r.test", "ftp://r.test", "https://", "https://u:p@r.test", "https://r.test\"x"} {
		if _, err := newTokenService(bad, make([]byte, 32), time.Minute, time.Now); err == nil {
			t.Errorf("public URL %q: accepted", bad)
		}
	}
	s := tokens(t, "HTTPS://R.test:8443/", "k", time.Now)
	if s.realm != "https://r.test:8443/token" || s.service != "r.test:8443" {
		t.Errorf("realm %q, service %q", s.realm, s.service)
	}
}
