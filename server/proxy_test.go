package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// A client writes no address into the audit trail: X-Forwarded-For counts from
// trusted proxies alone, and of it only what they wrote.
func TestThreat_MetricsLogs_ForwardedAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}
	for _, c := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"no proxy", "203.0.113.7:1234", []string{"1.2.3.4"}, "203.0.113.7:1234"},
		{"a proxy", "10.0.0.1:1234", []string{"203.0.113.7"}, "203.0.113.7:0"},
		{"what the client wrote", "10.0.0.1:1234", []string{"1.2.3.4, 203.0.113.7"}, "203.0.113.7:0"},
		{"two headers", "10.0.0.1:1234", []string{"1.2.3.4", "203.0.113.7"}, "203.0.113.7:0"},
		{"two proxies", "10.0.0.1:1234", []string{"1.2.3.4, 203.0.113.7, 10.2.0.1"}, "203.0.113.7:0"},
		{"nothing said", "10.0.0.1:1234", nil, "10.0.0.1:0"},
		{"nonsense", "10.0.0.1:1234", []string{"203.0.113.7, <script>"}, "10.0.0.1:0"},
		{"all proxies", "10.0.0.1:1234", []string{"10.3.0.1, 10.2.0.1"}, "10.3.0.1:0"},
		{"IPv6", "[2001:db8:1::1]:1234", []string{"[2001:db8:2::7]:443"}, "[2001:db8:2::7]:0"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:1234", []string{"203.0.113.7:99"}, "203.0.113.7:0"},
		{"many", "10.0.0.1:1234", []string{strings.Repeat("10.0.0.2,", 10_000) + "203.0.113.7"}, "203.0.113.7:0"},
		{"a socket", "@", []string{"203.0.113.7"}, "@"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.forwarded}}
		if got := clientAddress(r, proxies); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := clientAddress(r, nil); got != c.peer {
			t.Errorf("%s, no proxy configured: %s", c.name, got)
		}
	}
}
