package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"team-a/**", "team-a/app", true},
		{"team-a/**", "team-a/x/y/z", true},
		{"team-a/**", "team-a", false},
		{"team-a/**", "team-ab/app", false},
		{"team-a/*", "team-a/x/y", false},
		{"**", "a", true},
		{"**", "a/b", true},
		{"**/app", "a/b/app", true},
		{"**/app", "app", false},
		{"a/**/z", "a/b/c/z", true},
		{"a/**/z", "a/z", false},
		{"a/**/b/**/z", "a/x/b/b/y/z", true},
		{"*", "", false},
		{"a*c", "abc", true},
		{"a*c", "ac", true},
		{"a*c", "abcd", false},
		{"*-*-*", "a-b-c", true},
		{"refs/tags/v*", "refs/tags/v1.0", true},
		{"refs/tags/v*", "refs/tags/v1/x", false},
		{"git+https://h.example/org/*", "git+https://h.example/org/repo", true},
		{"git+https://h.example/org/*", "git+https://h.example.evil/org/repo", false},
		{"git+https://h.example/**", "git+https://h.example//evil", false},
		{"a.c", "abc", false},
	} {
		g, err := ParseGlob(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Match(c.text); got != c.want {
			t.Errorf("%s on %s: %v, want %v", c.pattern, c.text, got, c.want)
		}
	}
}

// One documented grammar; what other tools read otherwise is refused, and no
// pattern is slow (CVE-2021-41087).
func TestThreat_Layout_GlobGrammar(t *testing.T) {
	for _, bad := range []string{"", "a?", "a[bc]", "{a,b}", `a\*`, "a**", "**a/b", strings.Repeat("a", 2000)} {
		if _, err := ParseGlob(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%.20q: %v, want invalid", bad, err)
		}
	}
	g, err := ParseGlob(strings.Repeat("**/a/", 100) + strings.Repeat("*a", 100) + "b")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if g.Match(strings.Repeat("a/", 1000) + strings.Repeat("a", 2000)) {
		t.Error("matched")
	}
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func scoped(t *testing.T, name, scope string) *Policy {
	t.Helper()
	s := strings.Replace(signers("{issuer: a, subject: b}"), "name: x", "name: "+name, 1)
	if scope != "" {
		s = strings.Replace(s, "spec:\n", "spec:\n  scope: "+scope+"\n", 1)
	}
	return mustParse(t, s)
}

func TestSetFor(t *testing.T) {
	set, err := NewSet(
		scoped(t, "all", ""),
		scoped(t, "files", "{kinds: [file]}"),
		scoped(t, "anything", `{repositories: ["**"]}`),
		scoped(t, "team", `{repositories: ["team-a/**"]}`),
		scoped(t, "team-prod", `{repositories: ["team-a/**"], environments: [production]}`),
		scoped(t, "app", `{repositories: ["team-a/app", "team-b/app"]}`),
		scoped(t, "twin-1", `{repositories: ["twin/*"]}`),
		scoped(t, "twin-2", `{repositories: ["twin/*"]}`),
		scoped(t, "other", `{repositories: ["ghcr.example/org/**"]}`),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sub  Subject
		sc   Scope
		want string
	}{
		{Subject{Kind: File}, Scope{}, "files"},
		{Subject{Kind: Image}, Scope{}, "all"},
		{Subject{Kind: Image, Repository: "x/y"}, Scope{}, "anything"},
		{Subject{Kind: Image, Repository: "team-a/x"}, Scope{}, "team"},
		{Subject{Kind: Image, Repository: "team-a/x"}, Scope{Environment: "production"}, "team-prod"},
		{Subject{Kind: Image, Repository: "team-a/x"}, Scope{Environment: "staging"}, "team"},
		{Subject{Kind: Image, Repository: "team-a/app"}, Scope{Environment: "production"}, "app"},
		{Subject{Kind: Image, Repository: "team-b/app"}, Scope{}, "app"},
		{Subject{Kind: Image, Repository: "twin/x"}, Scope{}, "twin-1+twin-2"},
		{Subject{Kind: Image, Registry: "ghcr.example", Repository: "org/x"}, Scope{}, "other"},
		{Subject{Kind: Image, Registry: "ghcr.example", Repository: "team-a/x"}, Scope{}, "anything"},
	} {
		if got := set.For(c.sub, c.sc).Name(); got != c.want {
			t.Errorf("%+v %+v: %s, want %s", c.sub, c.sc, got, c.want)
		}
	}
	none, err := NewSet(scoped(t, "team", `{repositories: ["team-a/**"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := none.For(Subject{Kind: File}, Scope{}); got.Name() != "none" || got.Mode() != Enforce {
		t.Errorf("%s, %s", got.Name(), got.Mode())
	}
	if _, err := NewSet(scoped(t, "a", ""), scoped(t, "a", "")); !errors.Is(err, fault.Conflict) {
		t.Errorf("%v, want a conflict", err)
	}
}

// Combining is strict and does not depend on the order.
func TestCombine(t *testing.T) {
	a := mustParse(t, strings.Replace(signers("{issuer: a, subject: b}"), "spec:\n", "spec:\n  mode: audit\n", 1))
	b := mustParse(t, strings.Replace(signers("{issuer: c, subject: d}"), "spec:\n", "spec:\n  mode: warn\n", 1))
	ab, ba := Combine(a, b), Combine(b, a)
	if ab.Hash() != ba.Hash() || ab.Hash() == a.Hash() || ab.Mode() != Warn {
		t.Errorf("%s %s %s", ab.Hash(), ba.Hash(), ab.Mode())
	}
	if Combine(a) != a {
		t.Error("one policy is not itself")
	}
}
