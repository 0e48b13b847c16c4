package identity

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/fault"
)

// The address is looked at when the connection is made, after the name was
// resolved.
func TestThreat_Identity_MetadataAddresses(t *testing.T) {
	s := newSigner(t, "k1")
	i := newRemoteIssuer(t, s.jwk)
	port := i.Listener.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()
	// localhost resolves to loopback: reachable when configured so, else not.
	cfg := i.config(t)
	cfg.URL, cfg.AllowPrivate = fmt.Sprintf("https://localhost:%d", port), false
	v, _ := i.verifier(t, cfg)
	claims := i.claims(testNow)
	claims["iss"] = cfg.URL
	if _, _, err := v.Verify(bg, s.token(t, claims, nil), AudienceSigstore); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "allow_private") {
		t.Errorf("loopback without allow_private: %v", err)
	}
	if i.fetches.Load() != 0 {
		t.Error("the issuer was reached")
	}
	for _, host := range []string{
		"169.254.169.254", "169.254.170.2", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
		"[2002:a9fe:a9fe::1]", "0.0.0.0", "[::]", "100.100.100.200", "168.63.129.16", "[fd20:ce::254]", "224.0.0.1", "255.255.255.255",
	} {
		for _, private := range []bool{false, true} {
			u := "https://" + host
			v, err := NewVerifier(VerifierOptions{Issuers: []IssuerConfig{{URL: u, Type: TypeEmail, AllowPrivate: private}}, Clock: func() time.Time { return testNow }, Proxy: noProxy})
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = v.Verify(bg, s.token(t, goodClaims(map[string]any{"iss": u}), nil), AudienceSigstore)
			if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "never contacted") {
				t.Errorf("%s, private %v: %v", host, private, err)
			}
		}
	}
}

// A proxy does the resolving; what it is asked to reach is looked at
// beforehand.
func TestProxy(t *testing.T) {
	s := newSigner(t, "k1")
	i := newRemoteIssuer(t, s.jwk)
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodConnect {
			http.Error(w, "want CONNECT", http.StatusBadRequest)
			return
		}
		tunnel(w, i.Listener.Addr().String())
	}))
	defer proxy.Close()
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	lookups := map[string]string{"issuer.example.com": "93.184.216.34", "rebound.example.com": "169.254.169.254"}
	verify := func(host string) error {
		cfg := i.config(t)
		cfg.URL, cfg.AllowPrivate = "https://"+host, false
		i.change(func() {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": cfg.URL, "jwks_uri": cfg.URL + "/keys"})
			}
		})
		v, err := NewVerifier(VerifierOptions{
			Issuers: []IssuerConfig{cfg}, Clock: func() time.Time { return testNow },
			Proxy: func(*http.Request) (*url.URL, error) { return via, nil },
			lookup: func(_ context.Context, h string) ([]netip.Addr, error) {
				a, err := netip.ParseAddr(lookups[h])
				return []netip.Addr{a}, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		(*v.issuers.Load())[cfg.URL].src.(*remoteKeys).fetch.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{
			RootCAs: i.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12}
		_, _, err = v.Verify(bg, s.token(t, goodClaims(map[string]any{"iss": cfg.URL}), nil), AudienceSigstore)
		return err
	}
	if err := verify("issuer.example.com"); err != nil {
		t.Error(err)
	}
	if err := verify("only-the-proxy-knows.example.com"); err != nil {
		t.Error(err)
	}
	n := asked.Load()
	if n == 0 {
		t.Error("the proxy was not used")
	}
	for _, host := range []string{"rebound.example.com", "169.254.169.254", "10.0.0.1"} {
		if err := verify(host); !errors.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if asked.Load() != n {
		t.Error("the proxy was asked for a forbidden address")
	}
}
