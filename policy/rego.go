package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// The budget of one evaluation of one Rego module. Running out of time is
// fault.Undecided, since a slow machine is not a reason to record a denial;
// the other limits depend on the facts alone and are a denial.
//
// What cannot be bounded: a single built-in call is not interrupted (each is
// bounded by the size of its operands instead, see guards), and garbage between
// two collections. A module that runs on after its time is left to end by
// itself, and is refused meanwhile, so that it costs one goroutine.
const (
	RegoTime     = 100 * time.Millisecond // default; see Policy.WithRegoTime
	maxModule    = 256 << 10              // bytes of one module's text
	maxModules   = 16
	maxMessages  = 100  // deny and warn messages that are kept, each
	maxMessage   = 1024 // bytes of one message that are kept
	maxResult    = 256 << 10
	regoPackage  = "data.assay.policy"
	regoMemLimit = 64 << 20 // bytes that guarded built-ins may make in one evaluation
)

// regoModule is one compiled module. It is evaluated by itself, so that several
// modules are combined by AND and not, as rules of one package would be, by OR.
type regoModule struct {
	name     string
	query    rego.PreparedEvalQuery
	allow    bool // defines allow; without it, deny alone decides, beside requirements
	deny     bool
	warn     bool
	flaws    bool // it names vulnerabilities
	service  bool // it names the service
	workload bool // it names the workload or its mesh
	// runaway counts evaluations that did not end within their time.
	runaway atomic.Int32
}

// CompileRego makes a policy of Rego modules alone, without a YAML document.
// Each must define allow in package assay.policy. Errors are fault.Invalid.
func CompileRego(name string, modules ...Module) (*Policy, error) {
	return Compile(&Document{APIVersion: APIVersion, Kind: KindPolicy, Metadata: Metadata{Name: name}, Spec: Spec{Rego: modules}})
}

func compileModules(modules []Module, data map[string]Value, beside bool) ([]*regoModule, error) {
	if len(modules) > maxModules {
		return nil, fault.Newf(fault.Invalid, "%d modules: at most %d", len(modules), maxModules)
	}
	if len(modules) == 0 && len(data) > 0 {
		return nil, fault.Newf(fault.Invalid, "spec.data without a module that could read it")
	}
	env, err := newSurroundings(modules, data)
	if err != nil {
		return nil, err
	}
	var out []*regoModule
	for i, m := range modules {
		if m.Name == "" || len(m.Name) > 120 || slices.ContainsFunc(modules[:i], func(o Module) bool { return o.Name == m.Name }) {
			return nil, fault.Newf(fault.Invalid, "module %d: name %.60q is absent, too long, or used twice", i+1, m.Name)
		}
		if env.isLibrary(m.Name) {
			continue
		}
		c, err := compileModule(m, env, beside)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Name, err)
		}
		out = append(out, c)
	}
	if len(modules) > 0 && len(out) == 0 {
		return nil, fault.Newf(fault.Invalid, "package %s, want package assay.policy: of libraries alone nothing is asked", env.firstPackage())
	}
	return out, nil
}

func parseModule(m Module) (*ast.Module, error) {
	if len(m.Text) > maxModule {
		return nil, fault.Newf(fault.TooLarge, "%d bytes: at most %d", len(m.Text), maxModule)
	}
	mod, err := ast.ParseModuleWithOpts(m.Name, m.Text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%w", err)
	}
	return mod, nil
}

func compileModule(m Module, env *surroundings, beside bool) (*regoModule, error) {
	caps := capabilities()
	mod, err := parseModule(m)
	if err != nil {
		return nil, err
	}
	out := &regoModule{name: m.Name, flaws: env.names(m, "vulnerabilities"), service: env.names(m, "service"), workload: env.names(m, "workload") || env.names(m, "mesh")}
	if err := out.rules(mod); err != nil {
		return nil, err
	}
	if !out.allow && !out.deny {
		return nil, fault.Newf(fault.Invalid, "defines neither allow nor deny: a module without a rule would decide nothing")
	}
	if !out.allow && !beside {
		return nil, fault.Newf(fault.Invalid, "defines no allow: with deny alone, what no rule foresees would pass; add allow, or requirements beside it")
	}
	if err := env.vet(mod); err != nil {
		return nil, err
	}
	schemas, err := factsSchemaSet()
	if err != nil {
		return nil, err
	}
	opts := append(guards(),
		rego.ParsedQuery(out.queryBody()),
		rego.ParsedModule(mod),
		rego.SetRegoVersion(ast.RegoV1),
		rego.Capabilities(caps),
		rego.Schemas(schemas),
		rego.Strict(true),
		rego.StrictBuiltinErrors(true),
		rego.GenerateJSON(boundedJSON),
	)
	around, err := env.options()
	if err != nil {
		return nil, err
	}
	opts = append(opts, around...)
	if out.query, err = rego.New(opts...).PrepareForEval(context.Background()); err != nil {
		return nil, fault.Newf(fault.Invalid, "%s", clip(strings.ReplaceAll(err.Error(), guardPrefix, ""), 2000))
	}
	return out, nil
}

// rules notes which of the three rules the module defines, and that each has
// the shape that the evaluation reads.
func (m *regoModule) rules(mod *ast.Module) error {
	for _, r := range mod.Rules {
		name := r.Head.Ref()[0].Value.String()
		set := r.Head.RuleKind() == ast.MultiValue && len(r.Head.Ref()) == 1 && len(r.Head.Args) == 0
		single := r.Head.RuleKind() == ast.SingleValue && len(r.Head.Ref()) == 1 && len(r.Head.Args) == 0
		switch name {
		case "allow":
			if !single {
				return fault.Newf(fault.Invalid, "%s: want `allow if { ... }`", r.Loc())
			}
			m.allow = m.allow || !r.Default
		case "deny", "warn":
			if !set {
				return fault.Newf(fault.Invalid, "%s: want `%s contains message if { ... }`", r.Loc(), name)
			}
			m.deny = m.deny || name == "deny"
			m.warn = m.warn || name == "warn"
		}
	}
	return nil
}

func (m *regoModule) queryBody() ast.Body {
	var parts []string
	for _, r := range [...]struct {
		name  string
		there bool
		form  string
	}{
		{"allow", m.allow, `[x | x := data.assay.policy.allow]`},
		{"deny", m.deny, `data.assay.policy.deny`},
		{"warn", m.warn, `data.assay.policy.warn`},
	} {
		if r.there {
			parts = append(parts, fmt.Sprintf("%q: %s", r.name, r.form))
		}
	}
	return ast.MustParseBody("result := {" + strings.Join(parts, ", ") + "}")
}

// outcome is what a module said.
type outcome struct {
	Allow, Deny, Warn []any
}

// evaluate adds the module's checks. The error is fault.Undecided.
func (m *regoModule) evaluate(ev *evaluation) error {
	name := "rego/" + m.name
	got, err := m.run(ev)
	if errors.Is(err, fault.Undecided) {
		return fmt.Errorf("module %s: %w", m.name, err)
	}
	if err != nil {
		ev.add(Check{
			Name: name, Status: Fail, Expected: "an evaluation without error", Found: clip(err.Error(), 400),
			Mend: "mend the Rego module " + m.name + " and run assay apply",
		})
		return nil
	}
	if m.allow {
		c := Check{Name: name + "/allow", Status: Fail, Expected: "true", Found: "undefined"}
		if len(got.Allow) == 1 {
			c.Found = describe(got.Allow[0])
			if got.Allow[0] == true {
				c.Status = Pass
			}
		}
		ev.add(c)
	}
	for _, msg := range got.Deny[:min(len(got.Deny), maxMessages)] {
		ev.add(Check{Name: name + "/deny", Status: Fail, Expected: "no denial", Found: message(msg)})
	}
	if m.deny && len(got.Deny) == 0 {
		ev.add(Check{Name: name + "/deny", Status: Pass, Expected: "no denial", Found: "none"})
	}
	for _, msg := range got.Warn[:min(len(got.Warn), maxMessages)] {
		ev.add(Check{Name: name + "/warn", Status: Warned, Expected: "no warning", Found: message(msg)})
	}
	return nil
}

func message(v any) string {
	s, ok := v.(string)
	if !ok {
		b, _ := json.Marshal(v)
		s = string(b)
	}
	return clip(s, maxMessage)
}

// run evaluates within the budget. Errors of the module itself are plain, a
// budget of time that ran out is fault.Undecided.
func (m *regoModule) run(ev *evaluation) (*outcome, error) {
	if m.runaway.Load() > 0 {
		return nil, fault.Newf(fault.Undecided, "an earlier evaluation runs on after its time was over; mend the module")
	}
	input, err := ev.regoInput()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(withMeter(ev.ctx), ev.budget)
	defer cancel()
	type answer struct {
		out *outcome
		err error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- answer{nil, fmt.Errorf("panic in evaluation: %v", p)}
			}
		}()
		out, err := m.eval(ctx, input, ev.now)
		done <- answer{out, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		// It is told to stop and mostly does at once.
		grace := time.NewTimer(ev.budget / 4)
		defer grace.Stop()
		select {
		case a = <-done:
		case <-grace.C:
			m.runaway.Add(1)
			go func() { <-done; m.runaway.Add(-1) }()
			return nil, ev.late()
		}
	}
	if a.err != nil && ctx.Err() != nil {
		return nil, ev.late()
	}
	return a.out, a.err
}

func (ev *evaluation) late() error {
	if ev.ctx.Err() != nil {
		return fault.Newf(fault.Undecided, "evaluation stopped: %w", context.Cause(ev.ctx))
	}
	return fault.Newf(fault.Undecided, "evaluation took longer than %v; mend the module", ev.budget)
}

func (m *regoModule) eval(ctx context.Context, input ast.Value, now time.Time) (*outcome, error) {
	rs, err := m.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(now), rego.EvalSortSets(true))
	if err != nil {
		var te *topdown.Error
		if errors.As(err, &te) {
			return nil, fmt.Errorf("%s: %s", te.Code, strings.ReplaceAll(te.Message, guardPrefix, ""))
		}
		return nil, err
	}
	if len(rs) != 1 {
		return nil, errors.New("no result")
	}
	doc, _ := rs[0].Bindings["result"].(map[string]any)
	list := func(k string) []any { l, _ := doc[k].([]any); return l }
	return &outcome{list("allow"), list("deny"), list("warn")}, nil
}

// regoInput is the facts and the instant, as input and input.now.
func (ev *evaluation) regoInput() (ast.Value, error) {
	if ev.input != nil {
		return ev.input, nil
	}
	b, err := strictjson.Marshal(ev.facts)
	if err != nil {
		return nil, err
	}
	if len(b) > 2*MaxFacts {
		return nil, fmt.Errorf("facts of %d bytes, at most %d are read", len(b), MaxFacts)
	}
	v, err := ast.ValueFromReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	v.(ast.Object).Insert(ast.StringTerm("now"), ast.StringTerm(ev.now.UTC().Format(time.RFC3339)))
	ev.input = v
	return v, nil
}
