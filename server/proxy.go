package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxForwarded bounds how many hops are looked at.
const maxForwarded = 32

// clientAddress is the address of the client that a request comes from, as
// host:port. Of a request from a trusted proxy it is the last address of
// X-Forwarded-For that is no trusted proxy: each proxy appends whom it heard
// from, so what stands before that was written by the client, who may write
// anything. Whoever is no trusted proxy is the client.
func clientAddress(r *http.Request, proxies []netip.Prefix) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !trusted(peer.Addr(), proxies) {
		return r.RemoteAddr
	}
	var hops []string
	for _, h := range r.Header.Values("X-Forwarded-For") {
		hops = append(hops, strings.Split(h, ",")...)
	}
	if len(hops) > maxForwarded {
		hops = hops[len(hops)-maxForwarded:]
	}
	last := peer.Addr()
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		a, err := netip.ParseAddr(strings.Trim(hop, "[]"))
		if err != nil {
			if ap, perr := netip.ParseAddrPort(hop); perr == nil {
				a, err = ap.Addr(), nil
			}
		}
		if err != nil {
			break // what it stands for is unknown: the proxy that wrote it is as far as we see
		}
		last = a
		if !trusted(a, proxies) {
			break
		}
	}
	return net.JoinHostPort(last.Unmap().WithZone("").String(), "0")
}

func trusted(a netip.Addr, proxies []netip.Prefix) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}
