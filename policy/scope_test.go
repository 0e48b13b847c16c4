package policy

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"
)

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
