package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
)

const regoAllow = `package assay.policy

default allow := false

trusted := {"https://issuer.example"}

allow if {
	some s in input.signatures
	s.identity.issuer in trusted
}

deny contains sprintf("rejected by %s: %v", [r.source, concat(",", [r.code, "x"])]) if some r in input.rejected

warn contains "old" if time.parse_rfc3339_ns(input.now) > 0
`

func rules(body string) string { return "package assay.policy\n\n" + body }

func regoPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := CompileRego("test", Module{Name: "m", Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return p.WithRegoTime(time.Minute) // what is not about time must not fail on a busy machine
}

func TestRegoEvaluate(t *testing.T) {
	p := regoPolicy(t, regoAllow)
	r, err := p.Evaluate(context.Background(), goodFacts(), testNow)
	if err != nil || r.Verdict != Allow {
		t.Fatalf("%+v, %v", r, err)
	}
	f := goodFacts()
	f.Rejected = []Rejected{{ID: attID(9), Source: "file", Code: "malformed", Reason: "x"}}
	r, err = p.Evaluate(context.Background(), f, testNow)
	if err != nil || r.Verdict != Deny {
		t.Fatalf("%+v, %v", r, err)
	}
	got := statuses(r)
	want := "evidence/complete=pass trust/fresh=pass rego/m/allow=pass rego/m/deny=fail rego/m/warn=warn"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if found := r.Checks[3].Found; found != "rejected by file: malformed,x" {
		t.Errorf("found %q", found)
	}
	f = goodFacts()
	f.Signatures = nil
	if r, err = p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Deny {
		t.Errorf("no signature: %+v, %v", r, err)
	}
}

// What a module may not be: each is refused when it is compiled.
func TestRegoRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"syntax":              {rules("allow if {"), ""},
		"version 0":           {rules("allow { true }"), "if"},
		"other package":       {"package other\nallow if true", "assay.policy"},
		"no rule":             {rules("x := 1"), "neither allow nor deny"},
		"default alone":       {rules("default allow := true"), "neither allow nor deny"},
		"deny alone":          {rules(`deny contains "x" if false`), "defines no allow"},
		"allow is a set":      {rules(`allow contains "x"`), "allow if"},
		"allow is a function": {rules(`allow(x) if x`), "allow if"},
		"deny is a value":     {rules("allow if true\ndeny := 1"), "deny contains"},
		"unknown member":      {rules("allow if input.signaturez[0]"), "signaturez"},
		"unknown deep":        {rules("allow if input.signatures[_].identity.isuer"), "isuer"},
		"data":                {rules("allow if data.users.admin"), "data.users"},
		"unused variable":     {rules("allow if { x := 1 }"), "unused"},
		"huge number":         {rules("allow if 1e1000000000 > 0"), "too big"},
		"recursion":           {rules("a if b\nb if a\nallow if a"), "recursive"},
		"template string":     {rules("allow if { $`{input.now}` == \"\" }"), ""},
		"unify":               {rules("allow if input.truncated = false"), "write := to name"},
		"unify deep":          {rules("allow if count([x | x = 1]) > 0"), "write := to name"},
		"output":              {rules("allow if { count(input.signatures, n); n > 0 }"), "result := count"},
		"own output":          {rules("f(x) := x\nallow if { f(1, y); y == 1 }"), "result as its last"},
		"walk":                {rules("allow if { walk(input, [p, v]); p != v }"), ":= walk"},
		"twice":               {rules("allow if { [x, x] := [1, 2]; x == 1 }"), "stands twice"},
		"argument twice":      {rules("f(x, x) := x\nallow if f(1, 1)"), "stands twice"},
		"some twice":          {rules("allow if { some x, x in input.signatures; x == 1 }"), "stands twice"},
		"value in some":       {rules("v := [1]\nallow if { some [data.assay.policy.v] in input.signatures }"), "names and plain values"},
		"value in args":       {rules("v := [1]\nf([data.assay.policy.v, x]) := x\nallow if f([1, 2])"), "names and plain values"},
		"pattern in ref":      {rules("s contains [1, 2]\nallow if { x := 1; s[[x, y]]; y == 2 }"), "in brackets"},
		"guard by with":       {rules("f(x, y) := x\nallow if f(\",\", [\"a\"]) with f as concat"), ""},
	} {
		_, err := CompileRego("test", Module{Name: "m", Text: c.text})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v; want invalid with %q", name, err, c.want)
		}
	}
}

func TestThreat_Policy_NetworkBuiltins(t *testing.T) {
	for _, call := range []string{
		`http.send({"method": "get", "url": "http://169.254.169.254/"})`,
		`net.lookup_ip_addr("example.org")`,
		`net.cidr_contains("10.0.0.0/8", "10.0.0.1")`,
		`opa.runtime()`,
		`io.jwt.decode_verify("x", {})`,
		`io.jwt.decode("x")`,
		`io.jwt.encode_sign({}, {}, {})`,
		`providers.aws.sign_req({}, {}, 0)`,
		`json.match_schema({}, {"$ref": "http://169.254.169.254/"})`,
		`json.verify_schema({"$ref": "http://169.254.169.254/"})`,
		`time.now_ns()`, `rand.intn("x", 3)`, `uuid.rfc4122("x")`,
		`rego.parse_module("x", "package x")`, `numbers.range(1, 1000000000)`, `bits.lsh(1, 1000000000)`,
	} {
		_, err := CompileRego("test", Module{Name: "m", Text: rules("allow if { x := " + call + "; x != null }")})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "undefined function") {
			t.Errorf("%s: %v; want an undefined function", call, err)
		}
	}
	// The lists name built-ins that exist.
	for _, b := range capabilities().Builtins {
		if b.Nondeterministic {
			t.Errorf("%s is nondeterministic", b.Name)
		}
	}
	if got, want := len(capabilities().Builtins), len(plainBuiltins); got != want {
		t.Errorf("%d plain built-ins exist, %d are named", got, want)
	}
}

// Amplification ends in a denial or without a verdict, in time, and without
// the memory that it asked for.
func TestThreat_Policy_Amplification(t *testing.T) {
	double := func(expr string) string {
		var b strings.Builder
		b.WriteString("x0 := \"0123456789abcdef\"\ny0 := [1]\nz0 := {\"a\": 1}\nn0 := 123456789\n")
		for i := 1; i <= 40; i++ {
			fmt.Fprintf(&b, expr+"\n", i, i-1)
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"concat":           double(`x%[1]d := concat("", [x%[2]d, x%[2]d])`) + "allow if x40 != \"\"",
		"sprintf":          double(`x%[1]d := sprintf("%%s%%s", [x%[2]d, x%[2]d])`) + "allow if x40 != \"\"",
		"sprintf width":    `allow if { s := sprintf("%1000000000d", [1]); s != "" }`,
		"sprintf star":     `allow if { s := sprintf("%*d", [1000000000, 1]); s != "" }`,
		"replace":          double(`x%[1]d := replace(x%[2]d, "0", x%[2]d)`) + "allow if x40 != \"\"",
		"replace_n":        double(`x%[1]d := strings.replace_n({"0": x%[2]d}, x%[2]d)`) + "allow if x40 != \"\"",
		"regex":            double(`x%[1]d := regex.replace(x%[2]d, "(.*)", "$1$1")`) + "allow if x40 != \"\"",
		"json":             double(`x%[1]d := json.marshal([x%[2]d, x%[2]d])`) + "allow if x40 != \"\"",
		"array":            double(`y%[1]d := array.concat(y%[2]d, y%[2]d)`) + "allow if count(y40) > 0",
		"shared, marshal":  double(`z%[1]d := object.union({"a": z%[2]d}, {"b": z%[2]d})`) + "allow if json.marshal(z40) != \"\"",
		"shared, message":  double(`z%[1]d := object.union({"a": z%[2]d}, {"b": z%[2]d})`) + "allow if true\ndeny contains z40",
		"square":           double(`n%[1]d := n%[2]d * n%[2]d`) + "allow if n40 > 0",
		"number":           `allow if to_number("1e1000000000") + 1 > 0`,
		"json number":      `allow if json.unmarshal("[1e1000000000]")[0] + 1 > 0`,
		"loop":             "l := input.signatures\nallow if { count([1 | l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]]) > 0 }",
		"shared, compared": double(`z%[1]d := object.union({"a": z%[2]d}, {"b": z%[2]d})`) + "allow if z40 == [z39]\n",
		"shared, equal":    double(`z%[1]d := object.union({"a": z%[2]d}, {"b": z%[2]d})`+"\n"+`w%[1]d := object.union({"a": w%[2]d}, {"b": w%[2]d})`) + "w0 := {\"a\": 1}\nallow if z40 == w40\n",
		"walk":             double(`z%[1]d := object.union({"a": z%[2]d}, {"b": z%[2]d})`) + "allow if count([1 | walk(z40)]) > 0",
	} {
		t.Run(name, func(t *testing.T) {
			p := regoPolicy(t, rules(text)).WithRegoTime(0)
			f := goodFacts()
			for i := range 64 {
				f.Signatures = append(f.Signatures, signature(i+10, "https://issuer.example", "x"))
			}
			before := heap()
			start := time.Now()
			r, err := p.Evaluate(context.Background(), f, testNow)
			if took := time.Since(start); took > 30*RegoTime {
				t.Errorf("took %v, budget %v", took, RegoTime)
			}
			if err == nil && r.Verdict != Deny || err != nil && !errors.Is(err, fault.Undecided) {
				t.Errorf("%+v, %v; want a denial or undecided", r.Verdict, err)
			}
			if grown := heap() - before; grown > 256<<20 {
				t.Errorf("allocated %d MiB", grown>>20)
			}
			if err == nil {
				t.Log(r.Checks[2].Found)
			} else {
				t.Log(err)
			}
		})
	}
}

// A cancelled caller gets no verdict.
func TestRegoCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := regoPolicy(t, regoAllow).Evaluate(ctx, goodFacts(), testNow); !errors.Is(err, fault.Undecided) {
		t.Errorf("%v, want undecided", err)
	}
}

// Several modules, and requirements beside them, must all allow.
func TestRegoAnd(t *testing.T) {
	yes, no := rules("allow if true"), rules("allow if false")
	for _, c := range []struct {
		modules []Module
		want    Verdict
	}{
		{[]Module{{"a", yes}, {"b", yes}}, Allow},
		{[]Module{{"a", yes}, {"b", no}}, Deny},
		{[]Module{{"a", no}, {"b", yes}}, Deny},
	} {
		p, err := CompileRego("test", c.modules...)
		if err != nil {
			t.Fatal(err)
		}
		p = p.WithRegoTime(time.Minute)
		if r, err := p.Evaluate(context.Background(), goodFacts(), testNow); err != nil || r.Verdict != c.want {
			t.Errorf("%v: %v, %v", c.modules, r.Verdict, err)
		}
	}
}

func BenchmarkEvaluateRego(b *testing.B) {
	p := regoPolicy(b, regoAllow)
	f := goodFacts()
	for b.Loop() {
		if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Allow {
			b.Fatal(r, err)
		}
	}
}

// A built-in that cannot be interrupted delays nobody: the caller is told in
// time, and the module is refused until it has ended.
func TestThreat_Policy_RunawayBuiltin(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0 := {\"x\": 1}\nb0 := {\"x\": 1}\n")
	const depth = 23
	for i := 1; i <= depth; i++ {
		for _, v := range []string{"a", "b"} {
			fmt.Fprintf(&b, "%[1]s%[2]d := object.union({\"x\": %[1]s%[3]d}, {\"y\": %[1]s%[3]d})\n", v, i, i-1)
		}
	}
	fmt.Fprintf(&b, "allow if a%d in [b%d]\n", depth, depth)
	p := regoPolicy(t, rules(b.String())).WithRegoTime(0)
	m := p.units[0].rego[0]
	start := time.Now()
	r, err := p.Evaluate(context.Background(), goodFacts(), testNow)
	if !errors.Is(err, fault.Undecided) || time.Since(start) > 30*RegoTime {
		t.Errorf("%s, %v after %v", r.Verdict, err, time.Since(start))
	}
	if m.runaway.Load() == 0 {
		t.Error("it is not known to run on")
	}
	start = time.Now()
	if _, err := p.Evaluate(context.Background(), goodFacts(), testNow); !errors.Is(err, fault.Undecided) || time.Since(start) > RegoTime {
		t.Errorf("meanwhile: %v after %v", err, time.Since(start))
	}
	for end := time.Now().Add(time.Minute); m.runaway.Load() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never ended")
		}
	}
}

// The compiler's type checker is exponential in how values are nested; what
// would keep it busy is refused before it sees it.
func TestThreat_Policy_CompilerAmplification(t *testing.T) {
	chain := func(format, end string, n int) string {
		var b strings.Builder
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, format+"\n", i, i-1)
		}
		return b.String() + end
	}
	reversed := func(s string) string {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		slices.Reverse(lines)
		return strings.Join(lines, "\n") + "\n"
	}
	rule := `a%[1]d := {"x": a%[2]d, "y": a%[2]d}`
	both := rule + "\n" + strings.ReplaceAll(rule, "a", "b")
	nested := func(n int) string { return strings.Repeat(`{"x":`, n) + "1" + strings.Repeat("}", n) }
	for name, text := range map[string]string{
		"doubling rules":   "a0 := 1\nb0 := 1\n" + chain(both, "allow if a23 == b23", 23),
		"fewer":            "a0 := 1\nb0 := 1\n" + chain(both, "allow if a14 == b14", 14),
		"by full name":     "a0 := 1\n" + chain(`a%[1]d := [data.assay.policy.a%[2]d, data.assay.policy.a%[2]d]`, "allow if a30 == a29", 30),
		"local variables":  "allow if {\na0 := 1\n" + chain(rule, "a30 == a29\n}", 30),
		"local, unified":   "allow if {\na0 = 1\n" + reversed(chain(`a%[1]d = {"x": a%[2]d, "y": a%[2]d}`, "", 30)) + "a30 == a29\n}",
		"local, patterns":  "allow if {\n[a0] = [1]\n" + chain(`[a%[1]d] = [[a%[2]d, a%[2]d]]`, "a30 == a29\n}", 30),
		"functions":        "f0(x) := [x]\n" + chain(`f%[1]d(x) := [f%[2]d(x), f%[2]d(x)]`, "allow if f30(1) == f29(1)", 30),
		"sets":             "s0 contains 1\n" + chain(`s%[1]d contains [s%[2]d, s%[2]d]`, "allow if s30 == s29", 30),
		"comprehensions":   "a0 := 1\n" + chain(`a%[1]d := [[a%[2]d, a%[2]d] | true]`, "allow if a30 == a29", 30),
		"else":             "a0 := 1\n" + chain("a%[1]d := 1 if { false } else := [a%[2]d, a%[2]d]", "allow if a30 == a29", 30),
		"some in":          "a0 := [1]\n" + chain(`a%[1]d := [[x, x]] if some x in a%[2]d`, "allow if a30 == a29", 30),
		"deep":             "a := " + nested(40) + "\nb := " + nested(40) + "\nallow if a == b",
		"many comparisons": "a := " + nested(11) + "\nb := " + nested(11) + "\nallow if {\n" + strings.Repeat("a == b\n", 5000) + "}",
		"wide comparisons": "a := [" + strings.Repeat("1,", 5000) + "]\nallow if {\n" + strings.Repeat("a == a\n", 5000) + "}",
	} {
		start := time.Now()
		_, err := CompileRego("test", Module{Name: "m", Text: rules(text)})
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
		t.Log(name, time.Since(start), err)
	}
}

// What people write is within the limits.
func TestWeightOfOrdinaryModules(t *testing.T) {
	var b strings.Builder
	b.WriteString("allow if count(found) > 0\nfound contains s if some s in input.signatures\n")
	for i := range 300 {
		fmt.Fprintf(&b, "deny contains msg if {\n\tsome a in input.attestations\n\ta.predicate_type == \"t%d\"\n\ta.identity == {\"issuer\": \"x\", \"subject\": \"y\"}\n\tmsg := sprintf(\"%%v %d\", [a])\n}\n", i, i)
	}
	if _, err := CompileRego("test", Module{Name: "m", Text: rules(b.String())}); err != nil {
		t.Error(err)
	}
}
