package verify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/policy"
	"assay/trust/trusttest"

	"github.com/google/go-cmp/cmp"
)

// built is provenance of a wrapped build; change alters it.
func built(id string, change func(def, run map[string]any)) map[string]any {
	def := map[string]any{
		"buildType":          "https://assay.dev/buildtypes/command/v1",
		"externalParameters": map[string]any{"command": []any{"make", "app"}, "dir": "."},
		"internalParameters": map[string]any{"os": "linux", "arch": "amd64"},
		"resolvedDependencies": []any{
			map[string]any{"uri": "git+https://git.example/team-a/app@refs/heads/main", "digest": map[string]any{"gitCommit": fmt.Sprintf("%040d", 7)}},
			map[string]any{"name": "tool:go", "digest": map[string]any{"sha256": fmt.Sprintf("%064d", 1)}},
		},
	}
	run := map[string]any{"builder": map[string]any{"id": builderID}, "metadata": map[string]any{"invocationId": id}}
	if change != nil {
		change(def, run)
	}
	return map[string]any{"buildDefinition": def, "runDetails": run}
}

// traceOf is a trace of a build in which nothing is amiss; change alters its
// summary and log.
func traceOf(id string, change func(summary, log map[string]any)) map[string]any {
	summary := map[string]any{"invocationId": id, "traced": true, "complete": true, "truncated": false, "undeclaredCount": 0, "changedCount": 0}
	log := map[string]any{
		"process":    []any{map[string]any{"program": "/usr/bin/make", "digest": map[string]any{"sha256": fmt.Sprintf("%064d", 2)}, "count": 1}},
		"network":    []any{},
		"fileAccess": []any{},
	}
	if change != nil {
		change(summary, log)
	}
	return map[string]any{
		"monitor":          map[string]any{"type": ptraceMonitor, "tracePolicy": map[string]any{"toolchain": []any{"/usr/**"}}},
		"monitoredProcess": map[string]any{"hostID": builderID, "type": "https://assay.dev/buildtypes/command/v1", "event": id},
		"monitorLog":       log, "assayTrace": summary,
	}
}

const buildPolicy = policyHead + `  requirements:
    build:
      identities: [{issuer: "https://issuer.example", subject: "https://builder.example/workflow"}]
`

// TestThreat_Build_Facts: each way in which a build went wrong is a fact that a
// policy denies on, and words of strangers change nothing.
func TestThreat_Build_Facts(t *testing.T) {
	w := newWorld(t)
	const id = "bld_1"
	prov := func(change func(def, run map[string]any)) []byte {
		return statement(t, content, attestation.PredicateProvenanceV1, built(id, change))
	}
	trace := func(of string, change func(summary, log map[string]any)) []byte {
		return statement(t, content, attestation.PredicateRuntimeTrace, traceOf(of, change))
	}
	failure := statement(t, content, attestation.PredicateBuildFailure, map[string]any{"invocationId": "bld_2", "reason": "product.changed", "exitCode": 0})
	good, whole := w.attest(builderSAN, prov(nil)), w.attest(builderSAN, trace(id, nil))
	for _, tt := range []struct {
		name  string
		words string
		src   Items
		fails []string
	}{
		{"all is well", "noFailures: true, noConflict: true, noSecrets: true, maxAge: 30d, trace: {}", Items{good, whole}, nil},
		{"no provenance", "noFailures: true", Items{whole}, []string{"build"}},
		{"provenance of a stranger", "noFailures: true", Items{w.attest(alice, prov(nil))}, []string{"build"}},
		{"no trace", "trace: {}", Items{good}, []string{"build/trace"}},
		{"a stranger's trace", "trace: {}", Items{good, w.attest(alice, trace(id, nil))}, []string{"build/trace"}},
		{"another build's trace", "trace: {}", Items{good, w.attest(builderSAN, trace("bld_9", nil))}, []string{"build/trace"}},
		{"tracing was denied", "trace: {}", Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["traced"], s["reason"] = false, "ptrace(PTRACE_SEIZE)" }))}, []string{"build/trace"}},
		{"a trace with a gap", "trace: {}", Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["gaps"] = []any{"32-bit"} }))}, []string{"build/trace"}},
		{"a trace that was cut", "trace: {}", Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["truncated"] = true }))}, []string{"build/trace"}},
		{"of two traces the worse", "trace: {}", Items{good, whole, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["complete"] = false }))}, []string{"build/trace"}},
		{"of two whole traces the worse", "trace: {}", Items{good, whole, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["changed"], s["changedCount"] = []any{"main.go"}, 1 }))}, []string{"build/trace/changed"}},
		{"of two whole traces the worse, whichever comes first", "trace: {}", Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["undeclared"], s["undeclaredCount"] = []any{"x"}, 1 })), whole}, []string{"build/trace/undeclared"}},
		{"another monitor's trace", "trace: {}", Items{good, w.attest(builderSAN, statement(t, content, attestation.PredicateRuntimeTrace, map[string]any{
			"monitor": map[string]any{"type": "https://monitor.example/v1"}, "monitoredProcess": map[string]any{"event": id}, "monitorLog": map[string]any{"process": []any{}},
		}))}, []string{"build/trace"}},
		{"an undeclared file", "trace: {}", Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["undeclared"], s["undeclaredCount"] = []any{"~/.cache/go-build/00/x"}, 1 }))}, []string{"build/trace/undeclared"}},
		{"an undeclared file that may be", `trace: {undeclared: ["~/.cache/**"]}`, Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["undeclared"], s["undeclaredCount"] = []any{"~/.cache/go-build/00/x"}, 1 }))}, nil},
		{"more undeclared than listed", `trace: {undeclared: ["~/.cache/**"]}`, Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["undeclared"], s["undeclaredCount"] = []any{"~/.cache/go-build/00/x"}, 2 }))}, []string{"build/trace/undeclared"}},
		{"a declared file that changed", "trace: {}", Items{good, w.attest(builderSAN, trace(id, func(s, _ map[string]any) { s["changed"], s["changedCount"] = []any{"main.go"}, 1 }))}, []string{"build/trace/changed"}},
		{"a publish within the build", `trace: {network: ["tcp/192.0.2.1/443"]}`, Items{good, w.attest(builderSAN, trace(id, func(_, l map[string]any) {
			l["network"] = []any{map[string]any{"protocol": "tcp", "address": "198.51.100.7", "port": 443, "count": 1}}
		}))}, []string{"build/trace/network"}},
		{"a connection that may be", `trace: {network: ["tcp/*/443"]}`, Items{good, w.attest(builderSAN, trace(id, func(_, l map[string]any) {
			l["network"] = []any{map[string]any{"protocol": "tcp", "address": "198.51.100.7", "port": 443, "count": 1}}
		}))}, nil},
		{"a program that may not run", "trace: {programs: [/usr/bin/go]}", Items{good, whole}, []string{"build/trace/programs"}},
		{"a program by its digest", fmt.Sprintf("trace: {programs: ['sha256:%064d']}", 2), Items{good, whole}, nil},
		{"a failed build left it", "noFailures: true", Items{good, w.attest(builderSAN, failure)}, []string{"build/failures"}},
		{"a stranger says that it failed", "noFailures: true", Items{good, w.attest(alice, failure)}, nil},
		{"a secret in the environment", "noSecrets: true", Items{w.attest(builderSAN, prov(func(def, _ map[string]any) {
			def["internalParameters"].(map[string]any)["secretNames"] = []any{"NPM_TOKEN"}
		}))}, []string{"build/secrets"}},
		{"another compiler", "noConflict: true", Items{good, w.attest(builderSAN, prov(func(def, _ map[string]any) {
			def["resolvedDependencies"].([]any)[1].(map[string]any)["digest"] = map[string]any{"sha256": fmt.Sprintf("%064d", 9)}
		}))}, []string{"build/conflict"}},
		{"another compiler, which may be", "noConflict: true, mayDiffer: ['tool:*']", Items{good, w.attest(builderSAN, prov(func(def, _ map[string]any) {
			def["resolvedDependencies"].([]any)[1].(map[string]any)["digest"] = map[string]any{"sha256": fmt.Sprintf("%064d", 9)}
		}))}, nil},
		{"a stranger's conflict", "noConflict: true", Items{good, w.attest(alice, prov(func(def, _ map[string]any) { def["internalParameters"] = map[string]any{"os": "plan9"} }))}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := parse(t, strings.Replace(buildPolicy, "workflow\"}]\n", "workflow\"}]\n      "+strings.Join(splitTop(tt.words), "\n      ")+"\n", 1))
			r := offline(t, w, target(content), tt.src, p)
			if d := cmp.Diff(tt.fails, failing(r)); d != "" {
				t.Errorf("failing checks (-want +got):\n%s\n%+v", d, r.Checks)
			}
		})
	}
}

// splitTop parts flow-style members at commas outside of brackets.
func splitTop(s string) (out []string) {
	depth, from := 0, 0
	for i, c := range s {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				out, from = append(out, strings.TrimSpace(s[from:i])), i+1
			}
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

func TestProvenanceConflictAndAge(t *testing.T) {
	w := newWorld(t)
	older := built("bld_1", func(_, run map[string]any) { run["builder"] = map[string]any{"id": "https://other.example"} })
	src := Items{
		w.attest(builderSAN, statement(t, content, attestation.PredicateProvenanceV1, built("bld_2", nil))),
		item(w.Sign(t, trusttest.Request{Statement: statement(t, content, attestation.PredicateProvenanceV1, older), Leaf: trusttest.Leaf{Issuer: testIssuer, Subject: builderSAN}, At: w.Start.Add(time.Minute)})),
	}
	b, err := compileBuilders(nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &gathering{target: target(content), verifier: w.verifier(), builders: b, policy: parse(t, buildPolicy+"      noFailures: true\n")}
	if err := g.gather(t.Context(), src, policy.Scope{}, false, w.now()); err != nil {
		t.Fatal(err)
	}
	facts := g.facts
	if len(facts.Provenance) != 2 {
		t.Fatalf("%d provenance", len(facts.Provenance))
	}
	var ages []int64
	for _, p := range facts.Provenance {
		ages = append(ages, p.Age)
		if !slices.Equal(p.Conflict, []string{"builder"}) || p.Environment["command"] != `["make","app"]` || p.Environment["tool:go"] == "" {
			t.Errorf("provenance %+v", p.ProvenanceBuild)
		}
	}
	if slices.Sort(ages); !slices.Equal(ages, []int64{0, 60}) {
		t.Errorf("ages %v, want one a minute older", ages)
	}
}

func TestFolders(t *testing.T) {
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("~/.cache/go-build/%02d/%d-a", i%60, i))
	}
	got := folders(append(many, "/tmp/x"), 501)
	if d := cmp.Diff([]string{"/tmp/x", "~/.cache/go-build/"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := folders([]string{"a", "b"}, 3); !slices.Contains(got, "(more than is listed)") {
		t.Errorf("%v hides that there are more", got)
	}
	var flat []string
	for i := range 100 {
		flat = append(flat, fmt.Sprint(i))
	}
	if got := folders(flat, 100); !slices.Equal(got, []string{"(many)"}) {
		t.Errorf("%v", got)
	}
}

func FuzzTraceFact(f *testing.F) {
	f.Add([]byte(`{"monitor":{"type":"https://assay.dev/monitors/ptrace/v1"},"monitorLog":{"process":[{"program":"x"}]},"assayTrace":{"traced":true}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fact, err := traceFact(b)
		if err != nil {
			return
		}
		facts := policy.Facts{Subject: policy.Subject{Digest: artifact.SHA256Of(b), Kind: policy.File}, Traces: []policy.Trace{*fact}}
		if _, err := facts.Canonical(); err != nil {
			t.Fatalf("facts cannot hold it: %v", err)
		}
	})
}
