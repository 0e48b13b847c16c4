package netguard_test

import (
	"net/netip"
	"testing"

	"assay/internal/netguard"
)

func TestCheck(t *testing.T) {
	for a, want := range map[string][2]bool{ // reachable by default, with allow_private
		"93.184.216.34": {true, true}, "2606:2800:220:1::1": {true, true},
		"127.0.0.1": {false, true}, "::1": {false, true}, "10.1.2.3": {false, true}, "172.16.0.1": {false, true},
		"192.168.1.1": {false, true}, "100.64.0.1": {false, true}, "fd12::1": {false, true}, "::ffff:10.0.0.1": {false, true},
		"64:ff9b::a00:1": {false, true}, "2002:a00:1::": {false, true}, "172.32.0.1": {true, true},
		"169.254.169.254": {false, false}, "::ffff:169.254.169.254": {false, false}, "fe80::1%eth0": {false, false},
		"fd00:ec2::254": {false, false}, "2001::1": {false, false}, "::": {false, false},
	} {
		addr := netip.MustParseAddr(a)
		if got := [2]bool{netguard.Check(addr, false) == nil, netguard.Check(addr, true) == nil}; got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
}
