package policy

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"assay/internal/fault"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// plainBuiltins are the built-ins that policies may call as they are: pure,
// deterministic, and with a result no larger than their operands. A list of
// what is allowed and not of what is forbidden, so that a new built-in of a new
// release stays out until someone has looked at it.
//
// Left out for the network: http.send, net.*, opa.runtime, io.jwt.*,
// providers.aws.*, json.match_schema and json.verify_schema (remote
// references). For nondeterminism: time.now_ns (use input.now), rand.intn,
// uuid.rfc4122. For growth: numbers.range, bits.lsh, strings.render_template,
// graph.*, json.patch, array.flatten, yaml.*, graphql.*, rego.parse_module,
// crypto.x509.*, regex.globs_match, template strings.
var plainBuiltins = strings.Fields(`
	assign eq plus minus div rem and or
	abs ceil floor round count sum max min sort
	array.reverse array.slice intersection union
	object.filter object.get object.keys object.remove object.subset object.union object.union_n
	json.filter json.remove json.is_valid
	contains startswith endswith indexof lower upper substring strings.reverse strings.count
	strings.any_prefix_match strings.any_suffix_match
	trim trim_left trim_right trim_prefix trim_suffix trim_space
	regex.match regex.is_valid glob.match glob.quote_meta
	base64.decode base64.is_valid base64url.decode hex.decode urlquery.decode uri.parse uri.is_valid
	bits.and bits.or bits.xor bits.negate bits.rsh
	time.parse_rfc3339_ns time.parse_ns time.parse_duration_ns time.date time.clock time.weekday
	time.add_date time.diff time.format
	semver.compare semver.is_valid
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	crypto.sha256 walk internal.member_2 internal.member_3`)

// guardedBuiltins can make more than they are given. A module that calls one
// calls its guarded form, which works out the size of the result first. The
// function gives that size, in bytes, or an error.
var guardedBuiltins = map[string]func(args []*ast.Term) (int, error){
	// Comparisons make nothing; their operands are bounded.
	"equal": nothing, "neq": nothing, "gt": nothing, "gte": nothing, "lt": nothing, "lte": nothing,

	"concat":                           sizeConcat,
	"replace":                          sizeReplace,
	"strings.replace_n":                sizeReplaceN,
	"regex.replace":                    sizeRegexReplace,
	"sprintf":                          sizeSprintf,
	"mul":                              sizeNumbers,
	"product":                          sizeNumbers,
	"to_number":                        sizeNumbers,
	"units.parse":                      sizeNumbers,
	"units.parse_bytes":                sizeNumbers,
	"format_int":                       sizeNumbers,
	"json.unmarshal":                   sizeUnmarshal,
	"array.concat":                     times(2),
	"json.marshal":                     times(6),
	"base64.encode":                    times(2),
	"base64url.encode":                 times(2),
	"hex.encode":                       times(2),
	"urlquery.encode":                  times(3),
	"split":                            times(32),
	"strings.split_n":                  times(32),
	"indexof_n":                        times(32),
	"regex.split":                      times(32),
	"regex.find_n":                     times(32),
	"regex.find_all_string_submatch_n": times(64),
}

const (
	guardPrefix = "assay.guard."
	maxOperand  = 1 << 20 // bytes of one call's operands
	maxMade     = 4 << 20 // bytes of one call's result, as worked out before it
	maxNumber   = 1024    // characters, or decimal exponent, of a number
)

// capabilities is what a module may be written with.
func capabilities() *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(caps.Builtins, func(b *ast.Builtin) bool { return !slices.Contains(plainBuiltins, b.Name) })
	caps.Features = []string{ast.FeatureRegoV1, ast.FeatureRefHeadStringPrefixes, ast.FeatureRefHeads}
	caps.AllowNet = []string{}
	return caps
}

// guards declares the guarded built-ins to one query.
func guards() []func(*rego.Rego) {
	var out []func(*rego.Rego)
	for _, name := range sortedKeys(guardedBuiltins) {
		decl, size := ast.BuiltinMap[name], guardedBuiltins[name]
		inner := topdown.GetBuiltin(name)
		out = append(out, rego.FunctionDyn(&rego.Function{Name: guardPrefix + name, Decl: decl.Decl},
			func(b rego.BuiltinContext, args []*ast.Term) (*ast.Term, error) {
				if err := charge(b.Context, args, size); err != nil {
					return nil, err
				}
				var result *ast.Term
				err := inner(b, args, func(t *ast.Term) error { result = t; return nil })
				if err == nil && result != nil {
					err = checkNumbers(result)
				}
				return result, err
			}))
	}
	return out
}

// guardCalls points the calls of guarded built-ins at their guarded form. The
// plain names are not declared at all, so that none is reached around it, by
// `with` for example. It also refuses numbers that would be expanded at length.
func guardCalls(mod *ast.Module) error {
	rename := func(op *ast.Term) {
		ref, ok := op.Value.(ast.Ref)
		if !ok {
			return
		}
		if _, guarded := guardedBuiltins[ref.String()]; guarded {
			op.Value = append(ast.MustParseRef(strings.TrimSuffix(guardPrefix, ".")), asStrings(ref)...)
		}
	}
	var err error
	vis := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if x.IsCall() {
				rename(x.Terms.([]*ast.Term)[0])
			}
		case ast.Call:
			rename(x[0])
		case *ast.Term:
			if n, ok := x.Value.(ast.Number); ok && err == nil && !smallNumber(string(n)) {
				err = fault.Newf(fault.Invalid, "%s: number %.40s is too large", x.Location, n)
			}
		}
		return false
	})
	vis.Walk(mod)
	return err
}

// asStrings turns a ref's head, a variable, into the string that it is inside
// of a longer ref.
func asStrings(r ast.Ref) ast.Ref {
	out := make(ast.Ref, len(r))
	for i, t := range r {
		out[i] = t
		if v, ok := t.Value.(ast.Var); ok {
			out[i] = ast.StringTerm(string(v))
		}
	}
	return out
}

// meter is the memory budget of one evaluation.
type meter struct{ made atomic.Int64 }

type meterKey struct{}

func withMeter(ctx context.Context) context.Context {
	return context.WithValue(ctx, meterKey{}, new(meter))
}

func charge(ctx context.Context, args []*ast.Term, size func([]*ast.Term) (int, error)) error {
	given := 0
	for _, a := range args {
		if given += termSize(a, maxOperand-given+1); given > maxOperand {
			return fmt.Errorf("operands of more than %d bytes", maxOperand)
		}
	}
	n, err := size(args)
	if err != nil {
		return err
	}
	if n > maxMade {
		return fmt.Errorf("a result of up to %d bytes, at most %d are made", n, maxMade)
	}
	if m, ok := ctx.Value(meterKey{}).(*meter); ok && m.made.Add(int64(n)) > regoMemLimit {
		return fmt.Errorf("the evaluation makes more than %d bytes", regoMemLimit)
	}
	return nil
}

// termSize is the size of a value written out, in bytes; it stops once it is
// over limit. A value whose parts are shared counts as if they were not.
func termSize(t *ast.Term, limit int) int {
	n := 8
	add := func(t *ast.Term) bool {
		n += termSize(t, limit-n)
		return n <= limit
	}
	switch v := t.Value.(type) {
	case ast.String:
		n += len(v)
	case ast.Number:
		n += len(v)
	case *ast.Array:
		v.Until(func(t *ast.Term) bool { return !add(t) })
	case ast.Set:
		v.Until(func(t *ast.Term) bool { return !add(t) })
	case ast.Object:
		v.Until(func(k, t *ast.Term) bool { return !add(k) || !add(t) })
	}
	return n
}

// boundedJSON turns a result into Go values, unless it is too large to.
func boundedJSON(t *ast.Term, _ *rego.EvalContext) (any, error) {
	if n := termSize(t, maxResult); n > maxResult {
		return nil, fmt.Errorf("the module's messages hold more than %d bytes", maxResult)
	}
	return ast.JSON(t.Value)
}

func smallNumber(s string) bool {
	if len(s) > maxNumber {
		return false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.Atoi(strings.TrimPrefix(s[i+1:], "+"))
		return err == nil && e <= maxNumber && e >= -maxNumber
	}
	return true
}

// checkNumbers refuses numbers that later arithmetic would expand at length.
// The value has been bounded by charge.
func checkNumbers(t *ast.Term) (err error) {
	ast.WalkTerms(t, func(t *ast.Term) bool {
		if n, ok := t.Value.(ast.Number); ok && err == nil && !smallNumber(string(n)) {
			err = fmt.Errorf("number %.40s… is too large", n)
		}
		return err != nil
	})
	return err
}

func nothing([]*ast.Term) (int, error) { return 0, nil }

func text(t *ast.Term) string { s, _ := t.Value.(ast.String); return string(s) }

func times(k int) func([]*ast.Term) (int, error) {
	return func(args []*ast.Term) (int, error) {
		n := 0
		for _, a := range args {
			n += termSize(a, maxOperand)
		}
		return n * k, nil
	}
}

func sizeConcat(args []*ast.Term) (int, error) {
	n := termSize(args[1], maxOperand)
	switch v := args[1].Value.(type) {
	case *ast.Array:
		n += v.Len() * len(text(args[0]))
	case ast.Set:
		n += v.Len() * len(text(args[0]))
	}
	return n, nil
}

func sizeReplace(args []*ast.Term) (int, error) {
	s, old, with := text(args[0]), text(args[1]), text(args[2])
	n := utf8.RuneCountInString(s) + 1
	if old != "" {
		n = strings.Count(s, old)
	}
	return len(s) + n*len(with), nil
}

func sizeReplaceN(args []*ast.Term) (int, error) {
	longest := 0
	if o, ok := args[0].Value.(ast.Object); ok {
		o.Foreach(func(_, v *ast.Term) { longest = max(longest, len(text(v))) })
	}
	s := len(text(args[1]))
	return s + (s+1)*longest, nil
}

func sizeRegexReplace(args []*ast.Term) (int, error) {
	s, with := text(args[0]), text(args[2])
	return len(s)*(1+strings.Count(with, "$")) + (len(s)+1)*len(with), nil
}

var (
	verbRE  = regexp.MustCompile(`%[^%a-zA-Z]*[a-zA-Z]`)
	widthRE = regexp.MustCompile(`[0-9]{4,}|\*`)
)

func sizeSprintf(args []*ast.Term) (int, error) {
	format := text(args[0])
	longest := 0
	if a, ok := args[1].Value.(*ast.Array); ok {
		a.Foreach(func(t *ast.Term) { longest = max(longest, termSize(t, maxOperand)) })
	}
	n := len(format)
	for _, v := range verbRE.FindAllString(format, -1) {
		if widthRE.MatchString(v) {
			return 0, fmt.Errorf("format %.40q has a width over 999", v)
		}
		n += 6*longest + 2*1000*b2i(strings.ContainsAny(v, "0123456789"))
	}
	return n, nil
}

func sizeNumbers(args []*ast.Term) (int, error) {
	n := 0
	for _, a := range args {
		n += termSize(a, maxNumber)
		if err := checkNumbers(a); err != nil {
			return 0, err
		}
		if s := text(a); s != "" && !smallNumber(strings.TrimRight(s, "kKmMgGtTpPeEiIbB")) && strings.ContainsAny(s, "0123456789") {
			return 0, fmt.Errorf("number %.40q is too large", s)
		}
	}
	if n > 4*maxNumber {
		return 0, fmt.Errorf("numbers of more than %d digits", 4*maxNumber)
	}
	return n, nil
}

func sizeUnmarshal(args []*ast.Term) (int, error) { return 16 * len(text(args[0])), nil }
