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
	"syscall"
	"time"

	"assay/internal/fault"
)

const (
	fetchTimeout = 10 * time.Second
	maxDiscovery = 64 << 10  // bytes of a discovery document
	maxJWKS      = 256 << 10 // bytes of a key set
	maxCABundle  = 1 << 20
)

// never are networks that no issuer lives in, whatever the configuration:
// link-local and with it the metadata services of clouds (CVE-2026-49478,
// CVE-2026-54450), and addresses that are no host's.
var never = prefixes(
	"0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"100.100.100.200/32", // Alibaba Cloud metadata
	"168.63.129.16/32",   // Azure platform
	"::/128", "fe80::/10", "ff00::/8",
	"fd00:ec2::/32",  // AWS metadata, DNS, time
	"fd20:ce::/32",   // Google Cloud metadata
	"2001::/32",      // Teredo: an IPv4 address in disguise
	"64:ff9b:1::/48", // local NAT64
)

// private are networks that an issuer lives in only when its configuration
// says so.
var private = prefixes(
	"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
	"::1/128", "fc00::/7", "fec0::/10",
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// checkAddr refuses addresses that an issuer's host name must not lead to.
func checkAddr(a netip.Addr, allowPrivate bool) error {
	a = embedded(a.WithZone("")).Unmap()
	for _, p := range never {
		if p.Contains(a) {
			return fault.Newf(fault.Denied, "address %s is link-local, a metadata service or no host's: never contacted", a)
		}
	}
	if !allowPrivate {
		for _, p := range private {
			if p.Contains(a) {
				return fault.Newf(fault.Denied, "address %s is private: set allow_private for this issuer if it lives there", a)
			}
		}
	}
	return nil
}

// embedded gives the IPv4 address inside a NAT64 (RFC 6052) or 6to4 (RFC 3056)
// address, else a itself.
func embedded(a netip.Addr) netip.Addr {
	if !a.Is6() || a.Is4In6() {
		return a
	}
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}

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
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fault.Newf(fault.Denied, "address %q does not parse", address)
			}
			return checkAddr(ap.Addr(), f.private)
		}
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
		return checkAddr(a, f.private)
	}
	addrs, err := f.lookup(ctx, host)
	if err != nil {
		return nil //nolint:nilerr // behind a proxy, names often do not resolve here
	}
	for _, a := range addrs {
		if err := checkAddr(a, f.private); err != nil {
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
