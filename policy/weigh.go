package policy

import (
	"strings"

	"assay/internal/fault"

	"github.com/open-policy-agent/opa/v1/ast"
)

// The Rego compiler compares the types of values member by member, both ways
// round at each level: rules that double an object in each step, or nest it
// deeply, keep it busy for ever, and nothing stops it. So the size of what a
// module's values are made of is worked out beforehand, in linear time.
const (
	maxWeight = 20_000     // members of one value, written out
	maxDepth  = 12         // of one value
	maxCost   = 20_000_000 // of all comparisons of a module together
)

// weight is the size of a value's type, written out in full.
type weight struct{ size, depth int }

func (w weight) max(o weight) weight { return weight{max(w.size, o.size), max(w.depth, o.depth)} }

var (
	scalarWeight = weight{1, 0}
	inputWeight  = weight{100, 5} // of the facts
)

// weigher works out the weights of one module's rules.
type weigher struct {
	rules map[ast.Var][]*ast.Rule
	done  map[ast.Var]weight
	busy  map[ast.Var]bool
	cost  int
	err   error
}

// checkWeight refuses a module that the compiler would be busy with for long.
func checkWeight(mod *ast.Module) error {
	w := &weigher{rules: map[ast.Var][]*ast.Rule{}, done: map[ast.Var]weight{}, busy: map[ast.Var]bool{}}
	for _, r := range mod.Rules {
		if v, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
			w.rules[v] = append(w.rules[v], r)
		}
	}
	for _, r := range mod.Rules {
		if v, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
			w.named(v)
		}
	}
	return w.err
}

func (w *weigher) refuse(l *ast.Location, why string) {
	if w.err == nil {
		w.err = fault.Newf(fault.Invalid, "%v: %s; write it with fewer values inside of one another", l, why)
	}
}

// named is the weight of what a name stands for: all of its rules.
func (w *weigher) named(v ast.Var) weight {
	if got, ok := w.done[v]; ok {
		return got
	}
	if w.busy[v] || w.err != nil { // recursion: the compiler refuses it
		return scalarWeight
	}
	w.busy[v] = true
	total := weight{}
	for _, r := range w.rules[v] {
		for ; r != nil; r = r.Else {
			total = total.max(w.rule(r))
		}
	}
	total.size += len(w.rules[v])
	w.done[v] = total
	return total
}

func (w *weigher) rule(r *ast.Rule) weight {
	local := map[ast.Var]weight{}
	for _, a := range r.Head.Args {
		for v := range varsOf(a) {
			local[v] = scalarWeight
		}
	}
	w.body(r.Body, local)
	total := scalarWeight
	for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if t != nil {
			total = total.max(w.term(t, local))
		}
	}
	depth := len(r.Head.Ref()) - 1
	if r.Head.Key != nil {
		depth++
	}
	return w.limit(weight{total.size + 1, total.depth + depth}, r.Location)
}

func (w *weigher) limit(x weight, l *ast.Location) weight {
	if x.size > maxWeight || x.depth > maxDepth {
		w.refuse(l, "a value of too many or too deep parts")
		return scalarWeight
	}
	return x
}

// body gives the variables of a body their weights. The compiler reorders
// expressions, so it is gone through until nothing changes.
func (w *weigher) body(b ast.Body, local map[ast.Var]weight) {
	for changed := true; changed && w.err == nil; {
		changed = false
		before := w.cost
		for _, e := range b {
			if w.expr(e, local) {
				changed = true
			}
		}
		if changed {
			w.cost = before // only the last round counts
		}
	}
}

// expr says whether a variable became heavier.
func (w *weigher) expr(e *ast.Expr, local map[ast.Var]weight) (changed bool) {
	raise := func(to *ast.Term, x weight) {
		for v := range varsOf(to) {
			if old := local[v]; old.max(x) != old {
				local[v] = old.max(x)
				changed = true
			}
		}
	}
	for _, with := range e.With {
		w.term(with.Value, local)
	}
	switch t := e.Terms.(type) {
	case *ast.Term:
		w.term(t, local)
	case []*ast.Term:
		var all weight
		each := make([]weight, len(t))
		for i, a := range t[1:] {
			each[i+1] = w.term(a, local)
			all = weight{all.size + each[i+1].size, max(all.depth, each[i+1].depth)}
		}
		w.pay(all, e.Location)
		if op := t[0].String(); (op == "eq" || op == "assign") && len(t) == 3 {
			raise(t[1], each[2])
			raise(t[2], each[1])
		}
	case *ast.SomeDecl:
		for _, s := range t.Symbols {
			if c, ok := s.Value.(ast.Call); ok && len(c) > 2 { // some x in xs, some k, v in xs
				x := w.term(c[len(c)-1], local)
				for _, v := range c[1 : len(c)-1] {
					raise(v, x)
				}
			}
		}
	case *ast.Every:
		x := w.term(t.Domain, local)
		raise(t.Value, x)
		if t.Key != nil {
			raise(t.Key, scalarWeight)
		}
		w.body(t.Body, local)
	}
	return changed
}

// pay charges one comparison or call.
func (w *weigher) pay(x weight, l *ast.Location) {
	if w.cost += x.size << x.depth; w.cost > maxCost {
		w.refuse(l, "the module compares too many large values")
	}
}

func (w *weigher) term(t *ast.Term, local map[ast.Var]weight) weight {
	if w.err != nil {
		return scalarWeight
	}
	sum := weight{1, 0}
	add := func(x *ast.Term) {
		got := w.term(x, local)
		sum.size, sum.depth = sum.size+got.size, max(sum.depth, got.depth+1)
	}
	switch v := t.Value.(type) {
	case ast.Var:
		return w.variable(v, local)
	case ast.Ref:
		for _, p := range v[1:] {
			w.term(p, local)
		}
		head, _ := v[0].Value.(ast.Var)
		if v.HasPrefix(ownRef) && len(v) > len(ownRef) {
			name, _ := v[len(ownRef)].Value.(ast.String)
			head = ast.Var(name)
		}
		if call, ok := v[0].Value.(ast.Call); ok {
			return w.term(&ast.Term{Value: call, Location: t.Location}, local)
		}
		return w.variable(head, local)
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	case ast.Object:
		v.Foreach(func(k, x *ast.Term) { add(k); add(x) })
	case ast.Call:
		var all weight
		for _, a := range v[1:] {
			got := w.term(a, local)
			all = weight{all.size + got.size, max(all.depth, got.depth)}
		}
		w.pay(all, t.Location)
		if head, ok := v[0].Value.(ast.Ref)[0].Value.(ast.Var); ok && len(w.rules[head]) > 0 {
			return w.named(head)
		}
	case *ast.ArrayComprehension:
		w.body(v.Body, local)
		add(v.Term)
	case *ast.SetComprehension:
		w.body(v.Body, local)
		add(v.Term)
	case *ast.ObjectComprehension:
		w.body(v.Body, local)
		add(v.Key)
		add(v.Value)
	}
	return w.limit(sum, t.Location)
}

func (w *weigher) variable(v ast.Var, local map[ast.Var]weight) weight {
	if got, ok := local[v]; ok {
		return got
	}
	if len(w.rules[v]) > 0 {
		return w.named(v)
	}
	if v == "input" {
		return inputWeight
	}
	return scalarWeight
}

var ownRef = ast.MustParseRef(regoPackage)

// varsOf lists the variables of a pattern, names of rules too: a local one may
// hide them.
func varsOf(t *ast.Term) map[ast.Var]bool {
	out := map[ast.Var]bool{}
	if t == nil {
		return out
	}
	ast.WalkVars(t, func(v ast.Var) bool {
		if !strings.HasPrefix(string(v), "_") && v != "input" && v != "data" {
			out[v] = true
		}
		return false
	})
	return out
}
