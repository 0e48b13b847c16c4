package policy

import (
	"context"
	"errors"
	"fmt"
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
	return p
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
		"concat":          double(`x%[1]d := concat("", [x%[2]d, x%[2]d])`) + "allow if x40 != \"\"",
		"sprintf":         double(`x%[1]d := sprintf("%%s%%s", [x%[2]d, x%[2]d])`) + "allow if x40 != \"\"",
		"sprintf width":   `allow if { s := sprintf("%1000000000d", [1]); s != "" }`,
		"sprintf star":    `allow if { s := sprintf("%*d", [1000000000, 1]); s != "" }`,
		"replace":         double(`x%[1]d := replace(x%[2]d, "0", x%[2]d)`) + "allow if x40 != \"\"",
		"replace_n":       double(`x%[1]d := strings.replace_n({"0": x%[2]d}, x%[2]d)`) + "allow if x40 != \"\"",
		"regex":           double(`x%[1]d := regex.replace(x%[2]d, "(.*)", "$1$1")`) + "allow if x40 != \"\"",
		"json":            double(`x%[1]d := json.marshal([x%[2]d, x%[2]d])`) + "allow if x40 != \"\"",
		"array":           double(`y%[1]d := array.concat(y%[2]d, y%[2]d)`) + "allow if count(y40) > 0",
		"shared, marshal": double(`z%[1]d := {"a": z%[2]d, "b": z%[2]d}`) + "allow if json.marshal(z40) != \"\"",
		"shared, message": double(`z%[1]d := {"a": z%[2]d, "b": z%[2]d}`) + "allow if true\ndeny contains z40",
		"square":          double(`n%[1]d := n%[2]d * n%[2]d`) + "allow if n40 > 0",
		"number":          `allow if to_number("1e1000000000") + 1 > 0`,
		"json number":     `allow if json.unmarshal("[1e1000000000]")[0] + 1 > 0`,
		"loop":            "l := input.signatures\nallow if { count([1 | l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]; l[_]]) > 0 }",
		"walk":            double(`z%[1]d := {"a": z%[2]d, "b": z%[2]d}`) + "allow if count([1 | walk(z40)]) > 0",
	} {
		t.Run(name, func(t *testing.T) {
			p := regoPolicy(t, rules(text))
			f := goodFacts()
			for i := range 64 {
				f.Signatures = append(f.Signatures, signature(i+10, "https://issuer.example", "x"))
			}
			before := heap()
			start := time.Now()
			r, err := p.Evaluate(context.Background(), f, testNow)
			if took := time.Since(start); took > 3*RegoTime {
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
