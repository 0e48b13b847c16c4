package artifact

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

var sum = strings.Repeat("ab", 32)

func TestParseDigest(t *testing.T) {
	for _, good := range []string{"sha256:" + sum, "sha512:" + sum + sum, "sha384:" + strings.Repeat("0f", 48)} {
		d, err := ParseDigest(good)
		if err != nil || d.String() != good || d.Algorithm()+":"+d.Hex() != good {
			t.Errorf("%s: %v, %v", good, d, err)
		}
	}
	for _, bad := range []string{"", "sha256", "sha256:", "sha256:" + sum[1:], "sha256:" + sum + "0", "SHA256:" + sum,
		"sha256:" + strings.ToUpper(sum), "sha1:" + sum[:40], "md5:" + sum[:32], "sha256:../" + sum[3:], " sha256:" + sum} {
		if _, err := ParseDigest(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
	if got, want := SHA256Of(nil).Hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; got != want {
		t.Errorf("sha256 of nothing: %s, want %s", got, want)
	}
}

// One acceptable algorithm that agrees is enough, one strong one that
// disagrees is too much, and a weak one counts for nothing.
func TestDigestSetMatch(t *testing.T) {
	other := strings.Repeat("cd", 32)
	for _, c := range []struct {
		name string
		a, b DigestSet
		want bool
	}{
		{"same", DigestSet{"sha256": sum}, DigestSet{"sha256": sum}, true},
		{"different", DigestSet{"sha256": sum}, DigestSet{"sha256": other}, false},
		{"one agrees, one disagrees", DigestSet{"sha256": sum, "sha512": sum + sum}, DigestSet{"sha256": sum, "sha512": other + other}, false},
		{"one agrees, the other is absent", DigestSet{"sha256": sum, "sha512": sum + sum}, DigestSet{"sha256": sum}, true},
		{"sha1 alone", DigestSet{"sha1": sum[:40]}, DigestSet{"sha1": sum[:40]}, false},
		{"sha1 disagrees", DigestSet{"sha256": sum, "sha1": sum[:40]}, DigestSet{"sha256": sum, "sha1": other[:40]}, true},
		{"upper case", DigestSet{"sha256": strings.ToUpper(sum)}, DigestSet{"sha256": strings.ToUpper(sum)}, false},
		{"empty", DigestSet{}, DigestSet{}, false},
		{"empty values", DigestSet{"sha256": ""}, DigestSet{"sha256": ""}, false},
	} {
		if got := c.a.Match(c.b); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if got := c.b.Match(c.a); got != c.want {
			t.Errorf("%s, the other way: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestParseReference(t *testing.T) {
	for in, want := range map[string]Reference{
		"registry.example/app":                    {Host: "registry.example", Repository: "app"},
		"127.0.0.1:5000/team/app:v1":              {Host: "127.0.0.1:5000", Repository: "team/app", Tag: "v1"},
		"[::1]:5000/team/app:v1@sha256:" + sum:    {Host: "[::1]:5000", Repository: "team/app", Tag: "v1", Digest: Digest("sha256:" + sum)},
		"localhost/a__b/c-d.e@sha256:" + sum:      {Host: "localhost", Repository: "a__b/c-d.e", Digest: Digest("sha256:" + sum)},
		"xn--exmple-4nf.test:443/x:sha256-" + sum: {Host: "xn--exmple-4nf.test:443", Repository: "x", Tag: "sha256-" + sum},
	} {
		got, err := ParseReference(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", in, d)
		}
		if got.String() != in {
			t.Errorf("%s prints as %s", in, got)
		}
	}
	for _, bad := range []string{"", "app", "app:v1", "library/app", "registry.example/", "registry.example/App", "registry.example/a//b",
		"registry.example/a:", "registry.example/a@sha256:12", "rеgistry.example/a", "registry.example/a b", "registry.example/../a",
		"http://registry.example/a", "registry.example/a:" + strings.Repeat("x", 129), strings.Repeat("a", 2000)} {
		if _, err := ParseReference(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{"127.0.0.1:5000": true, "[::1]:5000": true, "localhost:1": true, "localhost": true,
		"127.0.0.1.example": false, "registry.example:5000": false, "10.0.0.1": false} {
		if got := (Reference{Host: host}).Loopback(); got != want {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("registry.example/app:v1@sha256:" + sum)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q: %v prints as %q, which reads as %v, %v", s, r, r.String(), again, err)
		}
	})
}

func FuzzParseDigest(f *testing.F) {
	f.Add("sha256:" + sum)
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDigest(s); err == nil && NewDigest(d.Algorithm(), d.Bytes()) != d {
			t.Fatalf("%q does not survive its own parts", s)
		}
	})
}
