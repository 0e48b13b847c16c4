package glob

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern string
		match   []string
		not     []string
	}{
		{"team/app", []string{"team/app"}, []string{"team/app2", "xteam/app", "team/ap", "", "Team/app", "team/app/"}},
		{"team/*", []string{"team/app"}, []string{"team", "team/", "team/a/b", "teams/app", "x/team/app"}},
		{"team/**", []string{"team", "team/app", "team/a/b"}, []string{"teams", "teams/app", "x/team", "team/", "team//app", "team/a//b"}},
		{"team/*/**", []string{"team/app", "team/a/b"}, []string{"team", "team/"}},
		{"*", []string{"app"}, []string{"a/b", "/", ""}},
		{"**", []string{"app", "a/b/c", "", "/", "a//b", strings.Repeat("a", 5000)}, nil},
		{"*/app", []string{"team/app"}, []string{"a/b/app", "app", "/app"}},
		{"**/app", []string{"a/b/app", "a/app"}, []string{"app", "a/app/b", "/app"}},
		{"a/**/z", []string{"a/b/z", "a/b/c/z", "a/z/z"}, []string{"a/z", "a/b", "a//z"}},
		{"a/**/b/**/z", []string{"a/x/b/b/y/z", "a/b/b/b/z"}, []string{"a/b/z", "a/x/b/z"}},
		{"**/**", []string{"a/b", "a/b/c", "a"}, []string{"", "/"}},
		{"team-*/svc-*", []string{"team-a/svc-b", "team-/svc-"}, []string{"team-a/b/svc-c", "team-a"}},
		{"a*c", []string{"abc", "ac"}, []string{"abcd", "a/c"}},
		{"*-*-*", []string{"a-b-c", "--"}, []string{"a-b"}},
		{"a.c", []string{"a.c"}, []string{"abc"}},
		{"*@example.com", []string{"alice@example.com"}, []string{"alice@example.com.evil.org", "alice@sub.example.com", "x/y@example.com"}},
		{"repo:org/*:ref:refs/heads/main", []string{"repo:org/app:ref:refs/heads/main"}, []string{"repo:org/a/b:ref:refs/heads/main", "repo:org2/app:ref:refs/heads/main", "repo:org/app:ref:refs/heads/main2"}},
		{"https://h.example/org/*", []string{"https://h.example/org/repo"}, []string{"https://h.example.evil/org/repo", "https://h.example/org/", "https:///h.example/org/repo"}},
		{"https://h.example/**", []string{"https://h.example/x/y", "https://h.example"}, []string{"https://h.example//evil", "https://h.example.evil/x"}},
		{"https://**", []string{"https://h.example/x"}, []string{"https:///x", "http://x"}},
		{"refs/tags/v*", []string{"refs/tags/v1.0"}, []string{"refs/tags/v1/x"}},
	} {
		g, err := Parse(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		if g.String() != c.pattern || g.Everything() != (c.pattern == "**") {
			t.Errorf("%q: is written %q, everything %v", c.pattern, g, g.Everything())
		}
		for _, s := range c.match {
			if !g.Match(s) {
				t.Errorf("%q should match %.80q", c.pattern, s)
			}
		}
		for _, s := range c.not {
			if g.Match(s) {
				t.Errorf("%q should not match %q", c.pattern, s)
			}
		}
	}
	if (Glob{}).Match("") || (Glob{}).Match("a") || (Glob{}).Everything() {
		t.Error("the zero pattern matches")
	}
}

func TestExact(t *testing.T) {
	for _, s := range []string{"dependabot[bot]", "**", "a*b", `a\b`, "{x}?"} {
		g, err := Exact(s)
		if err != nil || !g.Match(s) || g.Match(s+"x") || g.Match("") || g.Everything() {
			t.Errorf("%q: %v", s, err)
		}
	}
	if g, _ := Exact("**"); g.Match("anything") {
		t.Error("an exact text has stars")
	}
}

// One documented grammar; what other tools read otherwise is refused, and no
// pattern is slow (CVE-2021-41087).
func TestThreat_Layout_GlobGrammar(t *testing.T) {
	for _, bad := range []string{"", "a?", "a[bc]", "{a,b}", `a\*`, "a**", "**a/b", "a***b", "***", strings.Repeat("a", 1025), "a\x00b", "a\nb", "a\x1bb", "a\u009bb", "\xff"} {
		if _, err := Parse(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%.20q: %v, want invalid", bad, err)
		}
	}
	for _, hostile := range []struct{ pattern, text string }{
		{strings.Repeat("**/a/", 100) + strings.Repeat("*a", 100) + "b", strings.Repeat("a/", 1000) + strings.Repeat("a", 2000)},
		{strings.Repeat("*a", 500) + "b", strings.Repeat("a", 4096)},
		{strings.Repeat("**/*/", 200) + "x", strings.Repeat("a/", 2047) + "y"},
	} {
		g, err := Parse(hostile.pattern)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if g.Match(hostile.text) {
			t.Error("matched")
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("%.20s… took %v", hostile.pattern, took)
		}
	}
}

func TestRank(t *testing.T) {
	order := []string{"**", "a/**", "ab/**", "a/b/**", "*", "a*", "a/*", "a/b*", "a/b"}
	for i := range order[1:] {
		less, err := Parse(order[i])
		if err != nil {
			t.Fatal(err)
		}
		more, err := Parse(order[i+1])
		if err != nil {
			t.Fatal(err)
		}
		a, b := less.Rank(), more.Rank()
		if a[0] > b[0] || a[0] == b[0] && (a[1] > b[1] || a[1] == b[1] && a[2] >= b[2]) {
			t.Errorf("%s %v does not come before %s %v", less, a, more, b)
		}
	}
}

// oracle is the documented grammar as an anchored regular expression.
func oracle(pattern string) *regexp.Regexp {
	if pattern == everything {
		return regexp.MustCompile(`(?s)\A.*\z`)
	}
	segments := strings.Split(pattern, "/")
	var q strings.Builder
	for i, s := range segments {
		if s == everything && i == len(segments)-1 && i > 0 {
			q.WriteString(`(?:/[^/]+)*`)
			break
		}
		if i > 0 {
			q.WriteString("/")
		}
		switch {
		case s == everything:
			q.WriteString(`[^/]+(?:/[^/]+)*`)
		case strings.Trim(s, "*") == "" && s != "":
			q.WriteString(`[^/]+`)
		default:
			q.WriteString(strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, "[^/]*"))
		}
	}
	return regexp.MustCompile(`(?s)\A` + q.String() + `\z`)
}

func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"team/**", "team/a"}, {"*/x", "a/x"}, {"a/**/z*", "a/b/zz"}, {"**", ""}, {"/**", "/"}, {"**/**", "a/b"}, {"**/a/**/a/**", "a/a/a/a/a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		g, err := Parse(pattern)
		if err != nil || strings.ToValidUTF8(s, "") != s || len(s) > maxText {
			return
		}
		if got, want := g.Match(s), oracle(pattern).MatchString(s); got != want {
			t.Errorf("%q on %q: %v, want %v", pattern, s, got, want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	g, err := Parse("team/**")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !g.Match("team/a/b/c") {
			b.Fatal("no match")
		}
	}
}
