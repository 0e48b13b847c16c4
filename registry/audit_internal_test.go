package registry

import (
	"testing"
	"time"
)

// One who has an IPv6 network has 2^64 addresses, and counts as one.
func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"203.0.113.7": "203.0.113.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::1": "2001:db8:1:2::/64",
		"::ffff:203.0.113.7": "::ffff:203.0.113.7", "fe80::1%eth0": "fe80::/64", "@": "@", "": "",
	} {
		if got := network(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

// What is remembered ends with its life, and is bounded.
func TestGenerations(t *testing.T) {
	g := generations[int, int]{life: time.Minute}
	now := time.Now()
	g.put(1, 10, now)
	if v, ok := g.get(1, now.Add(time.Minute)); !ok || v != 10 {
		t.Errorf("within its life: %d %v", v, ok)
	}
	if _, ok := g.get(1, now.Add(time.Minute+1)); ok {
		t.Error("beyond its life")
	}
	for i := range 100_000 {
		g.put(i, i, now)
	}
	if n := len(g.now) + len(g.old); n > maxWindow {
		t.Errorf("%d are held, want at most %d", n, maxWindow)
	}
	if _, ok := g.get(99_999, now); !ok {
		t.Error("the newest is forgotten")
	}
}
