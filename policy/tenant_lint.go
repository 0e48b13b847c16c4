package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"assay/internal/glob"
)

// tenant looks for what an allow list opens or closes though nobody means it.
func (l *linter) tenant(t *Tenant, s *Selector) {
	if len(t.Repositories) == 0 {
		l.add("tenant.repositories", "no image may run: the list names no repository", "name the tenant's repositories")
	}
	for i, p := range t.Repositories {
		field := fmt.Sprintf("tenant.repositories[%d]", i)
		if p == "**" || strings.HasPrefix(p, "**/") || p == "*" || strings.HasPrefix(p, "*/") {
			l.add(field, "the pattern "+p+" is repositories of every tenant", "begin with the tenant's own part of the registry")
		}
		if why := namesNoRepository(p); why != "" {
			l.add(field, "the pattern "+p+" matches no repository: "+why, "write a repository's name, as team/app or team/**")
		}
		if k := coveredBy(t.Repositories, i); k >= 0 {
			l.add(field, "the pattern "+p+" adds nothing to "+t.Repositories[k], "take it out")
		}
	}
	switch {
	case t.Signers == AnySigner:
		l.add("tenant.signers", "a signature of any tenant counts", "name identities or delegations")
	case len(t.Identities)+len(t.Delegations) == 0:
		l.add("tenant.identities", "no image may run: the list names no signers", "name identities or delegations")
	}
	for i, id := range t.Identities {
		field := fmt.Sprintf("tenant.identities[%d]", i)
		l.identity(field, id)
		for _, re := range []string{id.SubjectRegexp, id.IssuerRegexp} {
			if re != "" && matchesNothing(re) {
				l.add(field, "the expression "+re+" matches nothing", "write whom you mean")
			}
		}
		if slices.ContainsFunc(t.Identities[:i], func(o IdentityMatch) bool { return sameIdentity(o, id) }) {
			l.add(field, "the identity stands twice", "take it out")
		}
	}
	l.tenantScope(s)
}

// tenantScope looks for a place where nothing runs, or everything.
func (l *linter) tenantScope(s *Selector) {
	if s == nil {
		return
	}
	if len(s.Namespaces) == 0 {
		l.add("scope", "the list holds in all namespaces", "name the tenant's namespaces")
	}
	for i, n := range s.Namespaces {
		field := fmt.Sprintf("scope.namespaces[%d]", i)
		switch {
		case n == "*" || n == "**":
			l.add(field, "the list holds in all namespaces", "name the tenant's namespaces")
		case !namespaceRE.MatchString(n):
			l.add(field, "the pattern "+n+" matches no namespace: those have lower-case letters, digits and -, at most 63", "write a namespace's name")
		}
		if k := coveredBy(s.Namespaces, i); k >= 0 {
			l.add(field, "the pattern "+n+" adds nothing to "+s.Namespaces[k], "take it out")
		}
	}
}

var (
	// namespaceRE is a pattern that a namespace's name can match.
	namespaceRE = regexp.MustCompile(`^[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?$`)
	// repositoryRE is a pattern that a repository's name can match, of which the first
	// part may be a host.
	repositoryRE = regexp.MustCompile(`^[a-z0-9*][a-z0-9*._:-]*(/[a-z0-9*][a-z0-9*._-]*)*$`)
)

// namesNoRepository says why a pattern can match no repository, or "".
func namesNoRepository(p string) string {
	switch last := p[strings.LastIndexByte(p, '/')+1:]; {
	case strings.Contains(p, "://"):
		return "a repository has no scheme"
	case strings.Contains(p, "@"):
		return "a repository has no digest"
	case strings.Contains(last, ":") && (strings.Contains(p, "/") || !strings.Contains(p, "*")):
		return "a repository has no tag"
	case p != strings.ToLower(p):
		return "its letters are lower-case"
	case !repositoryRE.MatchString(p):
		return "its parts begin with a letter or digit, without / at the ends"
	}
	return ""
}

// coveredBy gives another pattern of the list that covers the i-th, or -1; of two
// that cover each other the later one is covered.
func coveredBy(list []string, i int) int {
	for k := range list {
		if k != i && within(list[i], list[k]) && (k < i || !within(list[k], list[i])) {
			return k
		}
	}
	return -1
}

func within(in, out string) bool {
	a, err := glob.Parse(in)
	b, err2 := glob.Parse(out)
	return err == nil && err2 == nil && a.Within(b)
}

// matchesNothing says of an expression whether no text can match it, as far as
// that is plain.
func matchesNothing(re string) bool {
	p, err := syntax.Parse(re, syntax.Perl)
	if err != nil {
		return false
	}
	return impossible(p.Simplify())
}

func impossible(p *syntax.Regexp) bool {
	switch p.Op {
	case syntax.OpNoMatch:
		return true
	case syntax.OpCharClass:
		return len(p.Rune) == 0
	case syntax.OpConcat:
		// What must begin or end the text has something that takes letters beside it.
		for i, s := range p.Sub {
			if impossible(s) ||
				(s.Op == syntax.OpEndText || s.Op == syntax.OpEndLine) && slices.ContainsFunc(p.Sub[i+1:], takes) ||
				(s.Op == syntax.OpBeginText || s.Op == syntax.OpBeginLine) && slices.ContainsFunc(p.Sub[:i], takes) {
				return true
			}
		}
	case syntax.OpAlternate:
		return !slices.ContainsFunc(p.Sub, func(s *syntax.Regexp) bool { return !impossible(s) })
	case syntax.OpCapture, syntax.OpPlus:
		return impossible(p.Sub[0])
	}
	return false
}

// takes says whether an expression takes at least one letter that is no line break.
func takes(p *syntax.Regexp) bool {
	switch p.Op {
	case syntax.OpLiteral:
		return !slices.Contains(p.Rune, '\n')
	case syntax.OpCapture, syntax.OpPlus:
		return takes(p.Sub[0])
	case syntax.OpConcat:
		return slices.ContainsFunc(p.Sub, takes)
	}
	return false
}

// LintTenants looks for what several allow lists share: namespaces in which both
// hold, so that only what both name may run, and repositories or signers that
// count for both tenants.
func LintTenants(docs []*Document) []Finding {
	var lists []*Document
	for _, d := range docs {
		if d.Spec.Tenant != nil {
			lists = append(lists, d)
		}
	}
	var out []Finding
	for i, a := range lists {
		l := &linter{policy: a.Metadata.Name}
		for _, b := range lists[:i] {
			l.shared(a, b)
		}
		out = append(out, l.found...)
	}
	return out
}

func (l *linter) shared(a, b *Document) {
	if n, m, ok := overlap(a.Spec.Scope.namespaces(), b.Spec.Scope.namespaces()); ok && together(a.Spec.Scope.clusters(), b.Spec.Scope.clusters()) && together(a.Spec.Scope.environments(), b.Spec.Scope.environments()) {
		l.add("scope.namespaces", fmt.Sprintf("%s overlaps with %s of %s: there only what both lists name may run", n, m, b.Metadata.Name), "name different namespaces, unless one list is to narrow the other")
		return // a list that narrows another names what that names
	}
	if a.Spec.Tenant.Name == b.Spec.Tenant.Name {
		return // one tenant's lists for several places
	}
	if p, q, ok := overlap(a.Spec.Tenant.Repositories, b.Spec.Tenant.Repositories); ok && p != q { // the same pattern was written twice, and meant
		l.add("tenant.repositories", fmt.Sprintf("%s overlaps with %s of %s: both tenants run what lies there", p, q, b.Metadata.Name), "give each tenant repositories of its own, unless they share it on purpose")
	}
	// A platform's signer stands beside each tenant's own.
	if mine := a.Spec.Tenant.SignersText(); a.Spec.Tenant.Signers == "" && len(mine) > 0 && !slices.ContainsFunc(mine, func(s string) bool { return !slices.Contains(b.Spec.Tenant.SignersText(), s) }) {
		l.add("tenant.identities", clip(strings.Join(mine, ", "), 200)+" counts for "+b.Metadata.Name+" as well, and nobody else here", "give each tenant signers of its own")
	}
}

func (s *Selector) namespaces() []string {
	return orAll(s, func(s *Selector) []string { return s.Namespaces })
}
func (s *Selector) clusters() []string {
	return orAll(s, func(s *Selector) []string { return s.Clusters })
}
func (s *Selector) environments() []string {
	return orAll(s, func(s *Selector) []string { return s.Environments })
}

func orAll(s *Selector, of func(*Selector) []string) []string {
	if s == nil || len(of(s)) == 0 {
		return []string{"**"}
	}
	return of(s)
}

func together(a, b []string) bool {
	_, _, ok := overlap(a, b)
	return ok
}

// overlap gives a pattern of each list that may share a name, two different ones
// rather than the same.
func overlap(a, b []string) (p, q string, ok bool) {
	same := ""
	for _, p := range a {
		if slices.Contains(b, p) {
			same, ok = p, true
			continue
		}
		for _, q := range b {
			if within(p, q) || within(q, p) || meet(strings.Split(p, "/"), strings.Split(q, "/")) {
				return p, q, true
			}
		}
	}
	return same, same, ok
}

// meet says whether two patterns may have a name in common.
func meet(a, b []string) bool {
	return meets(len(a), len(b), func(i int) bool { return a[i] == "**" }, func(j int) bool { return b[j] == "**" }, func(i, j int) bool {
		x, y := a[i], b[j]
		return meets(len(x), len(y), func(i int) bool { return x[i] == '*' }, func(j int) bool { return y[j] == '*' }, func(i, j int) bool { return x[i] == y[j] })
	})
}

// meets says whether two sequences with stars, which stand for any number of
// members, can stand for one: dynamic programming from their ends.
func meets(n, m int, starA, starB func(int) bool, same func(i, j int) bool) bool {
	next := make([]bool, m+1) // of i+1
	for i := n; i >= 0; i-- {
		row := make([]bool, m+1)
		for j := m; j >= 0; j-- {
			switch {
			case i == n && j == m:
				row[j] = true
			case i < n && starA(i):
				row[j] = next[j] || j < m && row[j+1]
			case j < m && starB(j):
				row[j] = row[j+1] || i < n && next[j]
			case i < n && j < m:
				row[j] = next[j+1] && same(i, j)
			}
		}
		next = row
	}
	return next[0]
}

func sameIdentity(a, b IdentityMatch) bool {
	return identityText(a) == identityText(b) && a.Root == b.Root
}

func identityText(m IdentityMatch) string {
	id, err := m.compile()
	if err != nil {
		return ""
	}
	return id.text
}
