package authority

import (
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/fault"

	"github.com/coreos/go-oidc/v3/oidc"
)

// The issuer is one that an OIDC library finds, and that identity's own
// verifier believes over the network as it does in process.
func TestIssuerDiscovery(t *testing.T) {
	s := newSite(t, siteOptions{})
	raw := s.mint(t, "alice@example.com", identity.AudienceSigstore)
	provider, err := oidc.NewProvider(bg, s.issuer.URL())
	must(t, err)
	tok, err := provider.Verifier(&oidc.Config{ClientID: "sigstore"}).Verify(bg, raw)
	must(t, err)
	var claims struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	must(t, tok.Claims(&claims))
	if tok.Subject != "alice@example.com" || tok.Issuer != s.issuer.URL() || claims.Email != "alice@example.com" || !claims.Verified || len(tok.Audience) != 1 {
		t.Errorf("token %+v, claims %+v", tok, claims)
	}
	if life := tok.Expiry.Sub(tok.IssuedAt); life != MaxTokenLife {
		t.Errorf("life %s", life)
	}
	remote, err := identity.NewVerifier(identity.VerifierOptions{Issuers: []identity.IssuerConfig{{URL: s.issuer.URL(), Type: identity.TypeEmail, AllowPrivate: true}}})
	must(t, err)
	p, _, err := remote.Verify(bg, raw, identity.AudienceSigstore)
	if err != nil || p.Email != "alice@example.com" {
		t.Errorf("over the network: %+v, %v", p, err)
	}
	for _, path := range []string{"/oidc/.well-known/openid-configuration", "/oidc/keys"} {
		resp, err := http.Get(s.URL + path)
		must(t, err)
		b, err := io.ReadAll(resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" || !json.Valid(b) || strings.Contains(string(b), `"d":`) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, b)
		}
	}
}

func TestMint(t *testing.T) {
	s := newSite(t, siteOptions{})
	for _, c := range []struct {
		name string
		q    MintRequest
		aud  identity.Audience // accepted there and nowhere else; empty: refused
		kind identity.Kind
	}{
		{"default audience", MintRequest{Subject: "alice@example.com"}, identity.AudienceRegistry, identity.KindUser},
		{"sigstore", MintRequest{Subject: "alice@example.com", Audience: identity.AudienceSigstore}, identity.AudienceSigstore, identity.KindUser},
		{"uri", MintRequest{Subject: "https://ci.example.com/a", Audience: identity.AudienceSigstore}, identity.AudienceSigstore, identity.KindWorkload},
		{"plain name", MintRequest{Subject: "builder", Audience: identity.AudienceAPI}, identity.AudienceAPI, identity.KindRobot},
		{"groups", MintRequest{Subject: "builder", Claims: map[string]any{"groups": []string{"dev"}}}, identity.AudienceRegistry, identity.KindRobot},
		{"one second", MintRequest{Subject: "builder", TTL: time.Second}, identity.AudienceRegistry, identity.KindRobot},
		{"plain name cannot sign", MintRequest{Subject: "builder", Audience: identity.AudienceSigstore}, "", ""},
		{"no subject", MintRequest{}, "", ""},
		{"subject with space", MintRequest{Subject: "a b"}, "", ""},
		{"subject with control character", MintRequest{Subject: "a\x1b[31m"}, "", ""},
		{"subject not UTF-8", MintRequest{Subject: "a\xff"}, "", ""},
		{"subject too long", MintRequest{Subject: strings.Repeat("a", 257)}, "", ""},
		{"unknown audience", MintRequest{Subject: "a", Audience: "kubernetes"}, "", ""},
		{"too long a life", MintRequest{Subject: "a", TTL: MaxTokenLife + time.Second}, "", ""},
		{"negative life", MintRequest{Subject: "a", TTL: -time.Second}, "", ""},
		{"own claim", MintRequest{Subject: "a", Claims: map[string]any{"aud": "sigstore"}}, "", ""},
		{"email of another", MintRequest{Subject: "a", Claims: map[string]any{"email": "root@example.com"}}, "", ""},
		{"claims too large", MintRequest{Subject: "a", Claims: map[string]any{"x": strings.Repeat("a", 10_000)}}, "", ""},
		{"claims no JSON", MintRequest{Subject: "a", Claims: map[string]any{"x": make(chan int)}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.q.By = "uid:1000"
			raw, err := s.issuer.Mint(bg, c.q)
			if c.aud == "" {
				if raw != "" || !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
					t.Errorf("got %q, %v; want refused", raw, err)
				}
				return
			}
			must(t, err)
			for _, aud := range identity.Audiences() {
				p, tok, err := s.verifier.Verify(bg, raw, aud)
				if (err == nil) != (aud == c.aud) {
					t.Errorf("at the door of %s: %v", aud, err)
				}
				if err == nil && (p.Subject != c.q.Subject || p.Kind != c.kind || p.Person != "" || tok.ID == "") {
					t.Errorf("principal %+v, token %+v", p, tok)
				}
			}
		})
	}
	issued, refused := s.events(t, event.TokenIssued), s.events(t, event.TokenRefused)
	if len(issued) != 6 || len(refused) != 13 {
		t.Errorf("%d events token.issued, %d token.refused", len(issued), len(refused))
	}
	for _, e := range append(issued, refused...) {
		var body tokenBody
		must(t, e.Decode(&body))
		if e.Actor != "uid:1000" || body.Audience == "" || (e.Kind == event.TokenRefused) != (body.Reason != "") {
			t.Errorf("event %+v %+v", e, body)
		}
	}
	// No token without its event.
	must(t, s.db.Close())
	if raw, err := s.issuer.Mint(bg, MintRequest{Subject: "builder"}); err == nil || raw != "" {
		t.Errorf("minted without a record: %q, %v", raw, err)
	}
}

// A rotation keeps the old key in the set.
func TestIssuerRotation(t *testing.T) {
	s := newSite(t, siteOptions{})
	raw := s.mint(t, "alice@example.com", identity.AudienceAPI)
	next, err := NewIssuer(IssuerOptions{URL: s.issuer.URL(), Signer: testKey, DB: s.db})
	must(t, err)
	overlap, err := NewIssuer(IssuerOptions{URL: s.issuer.URL(), Signer: testKey, DB: s.db, Others: []crypto.PublicKey{s.material.OIDC.Public()}})
	must(t, err)
	for want, i := range map[bool]*Issuer{false: next, true: overlap} {
		v, err := identity.NewVerifier(identity.VerifierOptions{Local: i.Local()})
		must(t, err)
		if _, _, err := v.Verify(bg, raw, identity.AudienceAPI); (err == nil) != want {
			t.Errorf("old token, old key kept %v: %v", want, err)
		}
		fresh, err := i.Mint(bg, MintRequest{Subject: "builder"})
		must(t, err)
		if _, _, err := v.Verify(bg, fresh, identity.AudienceRegistry); err != nil {
			t.Errorf("new token: %v", err)
		}
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	s := newSite(t, siteOptions{})
	for _, u := range []string{"", "example.com/oidc", "https://example.com/oidc/", "https://example.com/?a", "ftp://example.com"} {
		if _, err := NewIssuer(IssuerOptions{URL: u, Signer: testKey, DB: s.db}); !errors.Is(err, fault.Invalid) {
			t.Errorf("URL %q: %v", u, err)
		}
	}
	if _, err := NewIssuer(IssuerOptions{URL: "https://example.com", Signer: weakRSA(t, 1024), DB: s.db}); !errors.Is(err, fault.Invalid) {
		t.Errorf("RSA key of 1,024 bits: %v", err)
	}
	if _, err := NewIssuer(IssuerOptions{URL: "https://example.com", Signer: weakRSA(t, 2048), DB: s.db}); err != nil {
		t.Errorf("RSA key of 2,048 bits: %v", err)
	}
}
