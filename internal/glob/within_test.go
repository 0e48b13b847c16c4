package glob

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func mustParse(t testing.TB, s string) Glob {
	t.Helper()
	g, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		in, out string
		want    bool
	}{
		{"team/app", "team/**", true}, {"team/**", "team/**", true}, {"team/a/**", "team/**", true}, {"team", "team/**", true},
		{"team/svc-*", "team/*", true}, {"team/svc-a*", "team/svc-*", true}, {"team/*", "team/**", true}, {"*", "**", true}, {"**", "**", true},
		{"team/*/x", "team/**/x", true}, {"team/**/x", "team/**", true}, {"a/*/b", "a/*/*", true}, {"a/b*c", "a/b*", true}, {"a/*b*", "a/*", true},
		{"team/**", "team/*", false}, {"**", "team/**", false}, {"teams/**", "team/**", false}, {"team/*", "team/svc-*", false},
		{"team/**", "team/*/**", false}, {"*/app", "team/app", false}, {"*/app", "team/*", false}, {"team/*x", "team/x*", false}, {"**/x", "**/y", false},
		{"team//x", "team/**", false}, {"**", "**/**", false}, {"team-a/**", "team-*", false}, {"*", "a*", false},
	} {
		if got := mustParse(t, c.in).Within(mustParse(t, c.out)); got != c.want {
			t.Errorf("%s within %s: %v, want %v", c.in, c.out, got, c.want)
		}
	}
	if (Glob{}).Within(mustParse(t, "**")) || mustParse(t, "a").Within(Glob{}) {
		t.Error("the zero pattern holds something")
	}
	star, _ := Exact("a*")
	if star.Within(mustParse(t, "ab*")) || !star.Within(mustParse(t, "a*")) {
		t.Error("an exact text has stars")
	}
}

// A pattern that passes as narrower must not match what the wider one does not.
func FuzzWithin(f *testing.F) {
	for _, s := range [][2]string{{"team/**", "team/**"}, {"a/*b/**", "a/**"}, {"**/x", "**"}, {"a//b", "a/**"}, {"*/**", "**/*"}, {"a*/**", "*/**"}} {
		f.Add(s[0], s[1], uint64(1))
	}
	f.Fuzz(func(t *testing.T, in, out string, seed uint64) {
		g, err := Parse(in)
		o, oerr := Parse(out)
		if err != nil || oerr != nil || len(in) > 200 || len(out) > 200 || !g.Within(o) {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		for range 20 {
			if s := sample(r, g); len(s) <= maxText && g.Match(s) && !o.Match(s) {
				t.Fatalf("%q is held to be within %q, but %q is only of the first", in, out, s)
			}
		}
	})
}

// sample is a text of the pattern.
func sample(r *rand.Rand, g Glob) string {
	if g.exact {
		return g.text
	}
	fill := func() string { return []string{"", "a", "b", "ab", "x*", "team", "svc-", "-"}[r.IntN(8)] }
	var parts []string
	for i, s := range g.segments {
		if s.double {
			n := 1 + r.IntN(3)
			if i == len(g.segments)-1 && i > 0 {
				n--
			}
			for range n {
				parts = append(parts, "z"+fill())
			}
			continue
		}
		var b strings.Builder
		for _, c := range s.text {
			if c == '*' {
				b.WriteString(fill())
			} else {
				b.WriteRune(c)
			}
		}
		parts = append(parts, b.String())
	}
	return strings.Join(parts, "/")
}
