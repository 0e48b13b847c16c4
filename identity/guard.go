package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"assay/internal/fault"
	"assay/internal/netguard"
)

const (
	fetchTimeout = 10 * time.Second
	maxDiscovery = 64 << 10  // bytes of a discovery document
	maxJWKS      = 256 << 10 // bytes of a key set
	maxCABundle  = 1 << 20
)

type proxyKey struct{}

// fetcher gets documents of one issuer: no redirects, no cookies, bounded in
// time and size, to checked addresses.
type fetcher struct {
	client  *http.Client
	private bool
	proxy   func(*http.Request) (*url.URL, error)
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
}

func newFetcher(cfg *IssuerConfig, o *VerifierOptions) (*fetcher, error) {
	f := &fetcher{private: cfg.AllowPrivate, proxy: o.Proxy, lookup: o.lookup}
	if f.proxy == nil {
		f.proxy = http.ProxyFromEnvironment
	}
	if f.lookup == nil {
		f.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	tlsConf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CABundle != "" {
		pem, err := readCapped(cfg.CABundle, maxCABundle)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: CA bundle: %w", cfg.URL, err)
		}
		tlsConf.RootCAs = x509.NewCertPool()
		if !tlsConf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "issuer %s: CA bundle %s holds no PEM certificate", cfg.URL, cfg.CABundle)
		}
	}
	f.client = &http.Client{
		Timeout: fetchTimeout,
		// The answer of a redirect is shown as it is, and is then not 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            f.dial,
			TLSClientConfig:        tlsConf,
			Proxy:                  f.proxy,
			MaxIdleConns:           2,
			IdleConnTimeout:        30 * time.Second,
			TLSHandshakeTimeout:    5 * time.Second,
			ResponseHeaderTimeout:  fetchTimeout,
			MaxResponseHeaderBytes: 32 << 10,
			ForceAttemptHTTP2:      true,
		},
	}
	return f, nil
}

// dial connects, looking at each address after the name was resolved and just
// before connect(2), so that no second look-up can give another one. The
// administrator's own proxy is exempt: it is configured, not attacker-made.
func (f *fetcher) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if via, _ := ctx.Value(proxyKey{}).(string); via == "" || via != addr {
		d.Control = netguard.Control(f.private)
	}
	return d.DialContext(ctx, network, addr)
}

// get fetches raw, which must answer 200 with at most limit bytes of JSON.
func (f *fetcher) get(ctx context.Context, raw string, limit int64) ([]byte, error) {
	if _, err := checkURL(raw, f.private); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, raw, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "assay")
	if via, err := f.proxy(req); err != nil {
		return nil, err
	} else if via != nil {
		if err := f.checkProxied(ctx, req.URL.Hostname()); err != nil {
			return nil, err
		}
		req = req.WithContext(context.WithValue(ctx, proxyKey{}, hostPort(via)))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.Newf(fault.Unavailable, "GET %s answered %d, want 200 (redirects are not followed)", raw, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", raw, err)
	}
	if int64(len(b)) > limit {
		return nil, fault.Newf(fault.TooLarge, "GET %s answered more than %d bytes", raw, limit)
	}
	return b, nil
}

// checkProxied looks at a host that a proxy will connect to in our stead. A
// name that resolves only at the proxy is left to the proxy's own rules.
func (f *fetcher) checkProxied(ctx context.Context, host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return netguard.Check(a, f.private)
	}
	addrs, err := f.lookup(ctx, host)
	if err != nil {
		return nil //nolint:nilerr // behind a proxy, names often do not resolve here
	}
	for _, a := range addrs {
		if err := netguard.Check(a, f.private); err != nil {
			return err
		}
	}
	return nil
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// readCapped reads a file of at most limit bytes.
func readCapped(path string, limit int64) (b []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, limit+1)); err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fault.Newf(fault.TooLarge, "%s is longer than %d bytes", path, limit)
	}
	return b, nil
}
