package oci

import (
	"net"
	"net/http"
	"strings"

	"assay/internal/fault"

	"golang.org/x/net/publicsuffix"
)

// hostBound refuses to carry credentials to a host that they do not belong to.
// A registry names the token server itself (the realm of its challenge), so a
// hostile one could name any; a realm is believed when it is the registry's
// own host, or over HTTPS a host of the same registrable domain, as with
// docker.io and its token server.
type hostBound struct {
	host string
	next http.RoundTripper
}

func (b *hostBound) RoundTrip(req *http.Request) (*http.Response, error) {
	carries := req.Header.Get("Authorization") != "" || (req.Method == http.MethodPost &&
		req.Header.Get("Content-Type") == "application/x-www-form-urlencoded")
	if carries && !b.mayHold(req) {
		return nil, fault.Newf(fault.Denied, "registry %s asks to send its credentials to %s://%s; they are bound to %s and were not sent", b.host, req.URL.Scheme, req.URL.Host, b.host)
	}
	return b.next.RoundTrip(req)
}

func (b *hostBound) mayHold(req *http.Request) bool {
	if strings.EqualFold(req.URL.Host, b.host) {
		return true
	}
	if req.URL.Scheme != "https" {
		return false
	}
	own, other := site(b.host), site(req.URL.Host)
	return own != "" && own == other
}

// site is the registrable domain of a host, "" where there is none (an address,
// a bare name, a public suffix).
func site(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return ""
	}
	s, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(strings.TrimSuffix(host, ".")))
	if err != nil {
		return ""
	}
	return s
}
