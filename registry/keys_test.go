package registry

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"assay/identity"
	"assay/internal/fault"
)

// A scoped token and an upload URL of the old key hold while both keys do, and
// not a moment longer; new ones are the new key's.
func TestTokenKeysFollow(t *testing.T) {
	a, b, c := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	tokens, err := newTokenService("https://r.test", a, time.Minute, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r := &Registry{tokens: tokens}
	set := func(key []byte, others ...[]byte) {
		t.Helper()
		if err := r.SetTokenKeys(key, others...); err != nil {
			t.Fatal(err)
		}
	}
	mint := func() string {
		t.Helper()
		m, err := r.tokens.mint(useScoped, identity.Principal{Kind: identity.KindUser}, nil, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return m.raw
	}
	holds := func(when, raw string, sum []byte, want bool) {
		t.Helper()
		if _, err := r.tokens.verify(raw); (err == nil) != want {
			t.Errorf("%s: token holds %v, want %v", when, err == nil, want)
		}
		if got := r.ids.holds("upload", sum, uploadMAC); got != want {
			t.Errorf("%s: upload holds %v, want %v", when, got, want)
		}
	}
	set(a)
	old, oldSum := mint(), r.ids.sum("upload")[:uploadMAC]
	set(a, b) // b is published: another replica may sign with it already
	holds("while the next is published", old, oldSum, true)
	set(b, a)
	fresh, freshSum := mint(), r.ids.sum("upload")[:uploadMAC]
	holds("after the change", old, oldSum, true)
	holds("by the new key", fresh, freshSum, true)
	set(b)
	holds("after the end", old, oldSum, false)
	holds("by the new key, later", fresh, freshSum, true)
	set(c)
	holds("two keys later", fresh, freshSum, false)
	if err := r.SetTokenKeys(c, []byte("short")); !errors.Is(err, fault.Invalid) {
		t.Errorf("a short key: %v", err)
	}
	if r.ids.holds("upload", r.ids.sum("upload")[:uploadMAC-1], uploadMAC) {
		t.Error("a shortened MAC holds")
	}
}
