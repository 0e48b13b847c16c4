// Package netguard keeps outgoing requests away from addresses that no configured
// host name may lead to: link-local ones and the metadata services of clouds
// always, private networks unless the configuration says that a host lives there.
package netguard

import (
	"net/netip"
	"syscall"

	"assay/internal/fault"
)

// never are networks that no server that is asked or told anything lives in, whatever the configuration:
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

// private are networks that such a server lives in only when its configuration
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

// Check refuses addresses that a configured host name must not lead to. The
// error is fault.Denied.
func Check(a netip.Addr, allowPrivate bool) error {
	a = embedded(a.WithZone("")).Unmap()
	for _, p := range never {
		if p.Contains(a) {
			return fault.Newf(fault.Denied, "address %s is link-local, a metadata service or no host's: never contacted", a)
		}
	}
	if !allowPrivate {
		for _, p := range private {
			if p.Contains(a) {
				return fault.Newf(fault.Denied, "address %s is private: set allow_private if it lives there", a)
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

// Control is for net.Dialer: it looks at each address after the name was resolved
// and just before connect(2), so that no second look-up can give another one.
func Control(allowPrivate bool) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fault.Newf(fault.Denied, "address %q does not parse", address)
		}
		return Check(ap.Addr(), allowPrivate)
	}
}
