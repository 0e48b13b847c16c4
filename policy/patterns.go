package policy

import (
	"assay/internal/fault"

	"github.com/open-policy-agent/opa/v1/ast"
)

// OPA unifies two values in continuation-passing style: one stack frame and
// more for each part of them, without a bound. Two large values, made within
// the budget of time by sharing parts, overflow the stack, which in Go ends the
// whole process. So a module may bind and take apart values, and may compare
// them by ==, but never unifies two values: what Rego offers beyond that is
// refused, with what to write in its place.

// checkPatterns refuses what would unify two values.
func checkPatterns(mod *ast.Module) error {
	c := &patternCheck{arity: map[string]int{}}
	for _, r := range mod.Rules {
		if len(r.Head.Args) > 0 {
			c.arity[r.Head.Ref().String()] = len(r.Head.Args)
		}
	}
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if b.Decl.FuncArgs().Variadic == nil {
			if _, own := c.arity[b.Name]; !own {
				c.arity[b.Name] = b.Decl.Arity()
			}
		}
	}
	for _, r := range mod.Rules {
		for e := r; e != nil; e = e.Else {
			c.pattern(r.Location, e.Head.Args...)
		}
	}
	ast.NewGenericVisitor(c.visit).Walk(mod)
	return c.err
}

type patternCheck struct {
	arity map[string]int // of functions and built-ins, by name
	err   error
}

func (c *patternCheck) refuse(l *ast.Location, format string, args ...any) {
	if c.err == nil {
		c.err = fault.Newf(fault.Invalid, "%v: "+format, append([]any{l}, args...)...)
	}
}

func (c *patternCheck) visit(x any) bool {
	switch x := x.(type) {
	case *ast.Expr:
		c.expr(x)
	case ast.Call:
		c.call(x[0].Location, x)
	case *ast.Term:
		if r, ok := x.Value.(ast.Ref); ok {
			c.ref(x.Location, r)
		}
	}
	return c.err != nil
}

func (c *patternCheck) expr(e *ast.Expr) {
	switch t := e.Terms.(type) {
	case []*ast.Term:
		c.call(e.Location, t)
		if op := t[0].String(); op == "assign" && len(t) == 3 {
			c.pattern(e.Location, t[1])
		}
	case *ast.SomeDecl:
		for _, s := range t.Symbols {
			if call, ok := s.Value.(ast.Call); ok && len(call) > 2 {
				c.pattern(e.Location, call[1:len(call)-1]...)
			}
		}
	}
}

func (c *patternCheck) call(l *ast.Location, t []*ast.Term) {
	name := t[0].String()
	if name == "eq" {
		c.refuse(l, "= unifies two values; write := to name one, or == to compare two")
		return
	}
	if own, ok := t[0].Value.(ast.Ref); ok && own.HasPrefix(ownRef) && len(own) > len(ownRef) {
		if s, is := own[len(ownRef)].Value.(ast.String); is {
			name = string(s)
		}
	}
	if n, known := c.arity[name]; known && len(t)-1 > n {
		c.refuse(l, "%s with a result as its last argument; write result := %s(...)", name, name)
	}
}

// pattern refuses parts that stand for a value, and a variable that stands
// twice and so would have two values.
func (c *patternCheck) pattern(l *ast.Location, terms ...*ast.Term) {
	seen := map[ast.Var]bool{}
	for _, t := range terms {
		ast.WalkTerms(t, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Var:
				if seen[v] && !v.IsWildcard() {
					c.refuse(l, "variable %s stands twice in a pattern; write it once and compare by ==", v)
				}
				seen[v] = true
			case ast.Ref, ast.Call, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
				c.refuse(l, "a pattern holds names and plain values only, found %.60s; compare by == in an expression of its own", t)
				return true
			}
			return false
		})
	}
}

// ref refuses a composite with variables in brackets: members would be unified
// with it one by one.
func (c *patternCheck) ref(l *ast.Location, r ast.Ref) {
	for _, t := range r[1:] {
		switch t.Value.(type) {
		case *ast.Array, ast.Object, ast.Set:
			if !t.IsGround() {
				c.refuse(l, "%.60s in brackets; write some pattern in collection, or a value without variables", t)
			}
		}
	}
}
