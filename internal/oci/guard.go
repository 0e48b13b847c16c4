package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/netguard"
	"assay/internal/strictjson"
	"assay/telemetry"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Guard says where a transport may lead.
type Guard struct {
	CABundle     string // PEM file; empty: the system's authorities
	AllowPrivate bool   // addresses of private networks, too
	Proxy        string // URL of a proxy; empty: the environment's; "none": none
}

// NewTransport makes a transport for a registry that a configuration names, and
// for wherever its redirects lead: never a metadata service, and no private
// network unless allowed. Each address is looked at after its name was resolved
// and just before it is connected to. The proxy of the environment is exempt,
// since the administrator set it; what it is asked for is looked at instead.
func NewTransport(g Guard) (http.RoundTripper, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if g.CABundle != "" {
		pem, err := os.ReadFile(g.CABundle)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "caBundle: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "caBundle %s holds no PEM certificate", g.CABundle)
		}
	}
	t := &guarded{private: g.AllowPrivate, proxy: http.ProxyFromEnvironment}
	switch g.Proxy {
	case "":
	case "none":
		t.proxy = func(*http.Request) (*url.URL, error) { return nil, nil } //nolint:nilnil // no proxy is an answer
	default:
		u, err := url.Parse(g.Proxy)
		if err != nil || u.Host == "" {
			return nil, fault.Newf(fault.Invalid, "proxy %.200q: want http://HOST:PORT", g.Proxy)
		}
		t.proxy = http.ProxyURL(u)
	}
	t.next = &http.Transport{
		DialContext: t.dial, Proxy: t.proxy, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second, MaxIdleConns: 64, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true, DisableCompression: true,
	}
	return telemetry.Transport(t), nil
}

type viaKey struct{}

type guarded struct {
	private bool
	proxy   func(*http.Request) (*url.URL, error)
	next    *http.Transport
}

func (t *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	via, err := t.proxy(req)
	if err != nil {
		return nil, err
	}
	if via != nil {
		if err := t.checkProxied(req.Context(), req.URL.Hostname()); err != nil {
			return nil, err
		}
		req = req.WithContext(context.WithValue(req.Context(), viaKey{}, hostPort(via)))
	}
	return t.next.RoundTrip(req)
}

func (t *guarded) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if via, _ := ctx.Value(viaKey{}).(string); via == "" || via != addr {
		d.Control = netguard.Control(t.private)
	}
	return d.DialContext(ctx, network, addr)
}

// checkProxied looks at a host that a proxy will connect to in our stead. A
// name that resolves only at the proxy is left to the proxy's own rules.
func (t *guarded) checkProxied(ctx context.Context, host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return netguard.Check(a, t.private)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil //nolint:nilerr // behind a proxy, names often do not resolve here
	}
	for _, a := range addrs {
		if err := netguard.Check(a, t.private); err != nil {
			return err
		}
	}
	return nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080"}[u.Scheme]
		if port == "" {
			port = "80"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// HostKeychain gives one host's credentials to that host and nothing to others.
// secret is "username:password" or a docker config.json; empty: no credentials.
func HostKeychain(host string, secret []byte) (authn.Keychain, error) {
	k := hostKeychain{host: strings.ToLower(host), auth: authn.Anonymous}
	text := strings.TrimSpace(string(secret))
	switch {
	case text == "":
		return k, nil
	case strings.HasPrefix(text, "{"):
		var doc struct {
			Auths map[string]authn.AuthConfig `json:"auths"`
		}
		if err := strictjson.Unmarshal(secret, &doc); err != nil {
			return nil, fault.Newf(fault.Invalid, "credentials: the docker configuration cannot be read") // its text is secret
		}
		for name, a := range doc.Auths {
			if u, err := url.Parse(name); err == nil && u.Host != "" {
				name = u.Host // as https://index.docker.io/v1/
			}
			if strings.EqualFold(strings.TrimSuffix(name, "/"), k.host) {
				k.auth = authn.FromConfig(a)
				return k, nil
			}
		}
		return nil, fault.Newf(fault.Invalid, "credentials: the docker configuration has none for %s", host)
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" || password == "" {
		return nil, fault.Newf(fault.Invalid, "credentials for %s: want username:password, or a docker config.json", host)
	}
	k.auth = &authn.Basic{Username: user, Password: password}
	return k, nil
}

type hostKeychain struct {
	host string
	auth authn.Authenticator
}

// Resolve implements [authn.Keychain].
func (k hostKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if strings.EqualFold(r.RegistryStr(), k.host) {
		return k.auth, nil
	}
	return authn.Anonymous, nil
}

// IsTimeout says whether an error is that somebody took too long to answer.
func IsTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
