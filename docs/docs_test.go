// Package docs_test holds the pages of this folder against the code: what they
// list is all that there is, and what they show as a document parses.
package docs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/admission/imageverifier"
	"assay/admission/rbac"
	"assay/builder"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// blocks gives the fenced blocks of one language.
func blocks(text, language string) []string {
	var out []string
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			out = append(out, m[2])
		}
	}
	return out
}

// constants gives the texts of the constants whose names match, in the Go files
// that a pattern names.
func constants(t *testing.T, files, name string) []string {
	t.Helper()
	paths, err := filepath.Glob(files)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	re := regexp.MustCompile(`(?m)^\s*(?:const )?` + name + `\s*(?:\w+\s*)?=\s*"([^"]+)"`)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		for _, m := range re.FindAllStringSubmatch(page(t, path), -1) {
			out = append(out, m[1])
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s: no constant named %s", files, name)
	}
	return out
}

// rows gives the first cell of each row of every table, without backquotes.
func rows(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) > 2 && strings.TrimSpace(cells[0]) == "" {
			out[strings.Trim(strings.TrimSpace(cells[1]), "`")] = true
		}
	}
	return out
}

func wantRows(t *testing.T, name string, want []string) {
	t.Helper()
	have := rows(page(t, name))
	for _, w := range want {
		if !have[w] {
			t.Errorf("%s has no row for %q", name, w)
		}
	}
}

// TestRefusalCodes: every code that a trail may show is explained.
func TestRefusalCodes(t *testing.T) {
	codes := constants(t, "../trust/codes.go", `Code\w+`)
	if len(codes) < 30 {
		t.Fatalf("found %d codes in trust/codes.go", len(codes))
	}
	codes = append(codes, constants(t, "../evidence/*.go", `Code\w+`)...)
	codes = append(codes, constants(t, "../verify/*.go", `codeOwnDecision`)...)
	codes = append(codes, "predicate.invalid") // verify/collect.go
	wantRows(t, "verify.md", codes)
	// And none that is not there.
	for row := range rows(page(t, "verify.md")) {
		if regexp.MustCompile(`^[a-z-]+\.[a-z-]+$`).MatchString(row) && !slices.Contains(codes, row) {
			t.Errorf("verify.md explains %q, which the code does not have", row)
		}
	}
}

// TestExitCodes: the codes of the table are those of package fault.
func TestExitCodes(t *testing.T) {
	have := rows(page(t, "verify.md"))
	for _, k := range []*fault.Kind{fault.Invalid, fault.Denied, fault.Undecided, fault.Internal} {
		if code := fmt.Sprint(fault.ExitCode(k)); !have[code] {
			t.Errorf("verify.md has no row for exit code %s", code)
		}
	}
}

// fields gives the dotted names of all settings below a struct's yaml tags.
func fields(t reflect.Type, prefix string) []string {
	var out []string
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		name := prefix + tag
		ft := f.Type
		if ft.Kind() == reflect.Slice || ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			out = append(out, fields(ft, name+".")...)
			continue
		}
		out = append(out, name)
	}
	return out
}

// TestConfigReference: every setting stands in operate.md, with its variable.
func TestConfigReference(t *testing.T) {
	text := page(t, "operate.md")
	all := fields(reflect.TypeFor[config.Config](), "")
	if len(all) < 20 {
		t.Fatalf("found %d settings", len(all))
	}
	wantRows(t, "operate.md", all)
	for _, f := range all {
		if f == "apiVersion" || f == "kind" || strings.HasPrefix(f, "identity.issuers.") || strings.HasPrefix(f, "verify.builders.") || f == "trust.policies.signers" || strings.HasPrefix(f, "trust.policies.signers.") || strings.HasPrefix(f, "policy.bundles") || f == "trust.roots" || f == "trust.keys" || f == "server.trusted_proxies" || f == "backup.recipients" ||
			f == "server.roles" || strings.HasPrefix(f, "inventory.clusters.") || strings.HasPrefix(f, "tlog.witnesses.") || strings.HasPrefix(f, "registry.replicas.") || strings.HasPrefix(f, "vuln.feeds.") || strings.HasPrefix(f, "siem.sinks.") || strings.HasPrefix(f, "telemetry.links.") || f == "telemetry.signals" || f == "telemetry.baggage" || f == "keys.rotation.roles" || f == "keys.rotation.alerts" || f == "inventory.services" {
			continue // not set by a variable
		}
		if v := "`ASSAY_" + strings.ToUpper(strings.ReplaceAll(f, ".", "_")) + "`"; !strings.Contains(text, v) {
			t.Errorf("operate.md does not name the variable %s of %s", v, f)
		}
	}
	// The variables work as the page says.
	c, err := config.Load("", []string{"ASSAY_SERVER_TLS_KEY=k", "ASSAY_VERIFY_MAX_VALIDITY=1h", "ASSAY_TLOG_PUBLIC=true"})
	if err != nil || c.Server.TLS.Key != "k" || c.Verify.MaxValidity != time.Hour || !c.Tlog.Public {
		t.Errorf("variables: %+v, %v", c, err)
	}
}

// TestRoles: every role and every action stands in operate.md, each role with
// exactly its actions.
func TestRoles(t *testing.T) {
	text := page(t, "operate.md")
	for _, r := range identity.Roles() {
		var words []string
		for _, a := range r.Actions() {
			words = append(words, string(a))
		}
		row := regexp.MustCompile("(?m)^\\| `" + string(r) + "` \\| (.*?) \\|").FindStringSubmatch(text)
		if row == nil {
			t.Errorf("operate.md has no row for role %s", r)
			continue
		}
		got := strings.Split(row[1], ", ")
		slices.Sort(got)
		slices.Sort(words)
		if !slices.Equal(got, words) {
			t.Errorf("role %s: operate.md says %v, the code %v", r, got, words)
		}
	}
}

// TestDocuments: every YAML document that a page shows is one that Assay reads.
func TestDocuments(t *testing.T) {
	names, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range names {
		for _, b := range blocks(page(t, name), "yaml") {
			if !strings.Contains(b, "apiVersion: assay/v1") {
				continue
			}
			if strings.Contains(b, "\nkind: Config\n") {
				path := filepath.Join(t.TempDir(), "config.yaml")
				if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
					t.Fatal(err)
				}
				c, err := config.Load(path, nil)
				if err == nil {
					err = c.Validate()
				}
				if err != nil {
					t.Errorf("%s: %v\n%s", name, err, b)
				}
				seen["Config"] = true
				continue
			}
			if strings.Contains(b, "\nkind: ImageVerifier\n") {
				if _, err := imageverifier.Parse([]byte(b)); err != nil {
					t.Errorf("%s: %v\n%s", name, err, b)
				}
				continue
			}
			if strings.Contains(b, "\nkind: RBACExpectation\n") {
				if _, err := rbac.ParseExpectation([]byte(b)); err != nil {
					t.Errorf("%s: %v\n%s", name, err, b)
				}
				continue
			}
			docs, err := config.ParseDocuments([]byte(b))
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, b)
			}
			for _, d := range docs {
				seen[d.Kind] = true
			}
		}
	}
	for _, k := range []string{"Config", config.KindGrant, config.KindIssuer, config.KindPolicy, config.KindRepository} {
		if !seen[k] {
			t.Errorf("no page shows a document of kind %s", k)
		}
	}
}

// TestPolicyFields: every field of the YAML form stands in policy.md.
func TestPolicyFields(t *testing.T) {
	var want []string
	for _, ty := range []reflect.Type{
		reflect.TypeFor[policy.Spec](), reflect.TypeFor[policy.Selector](), reflect.TypeFor[policy.Requirements](),
		reflect.TypeFor[policy.SignatureRequirement](), reflect.TypeFor[policy.AttestationRequirement](),
		reflect.TypeFor[policy.ProvenanceRequirement](), reflect.TypeFor[policy.Builder](), reflect.TypeFor[policy.ExternalParameters](),
		reflect.TypeFor[policy.FieldMatch](), reflect.TypeFor[policy.IdentityMatch](), reflect.TypeFor[policy.FieldSelection](),
		reflect.TypeFor[policy.Module](), reflect.TypeFor[policy.Selection](), reflect.TypeFor[policy.ReportRequirements](), reflect.TypeFor[policy.Tenant](),
	} {
		for f := range ty.Fields() {
			if f.Anonymous {
				continue // its fields stand in the list of types
			}
			tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			want = append(want, tag)
		}
	}
	wantRows(t, "policy.md", want)
}

// TestFacts: every member of the facts stands in policy.md.
func TestFacts(t *testing.T) {
	text := page(t, "policy.md")
	var walk func(ty reflect.Type)
	walk = func(ty reflect.Type) {
		for f := range ty.Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag != "" && !regexp.MustCompile("[`.]"+tag+"\\b").MatchString(text) {
				t.Errorf("policy.md does not name %s of the facts", tag)
			}
			ft := f.Type
			if ft.Kind() == reflect.Slice || ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct && ft.PkgPath() == reflect.TypeFor[policy.Facts]().PkgPath() {
				walk(ft)
			}
		}
	}
	walk(reflect.TypeFor[policy.Facts]())
}

// TestPolicies: the example facts of policy.md satisfy each policy of the page,
// and facts without evidence satisfy none.
func TestPolicies(t *testing.T) {
	text := page(t, "policy.md")
	var example []byte
	for _, b := range blocks(text, "json") {
		if strings.Contains(b, policy.FactsSchema) {
			example = []byte(b)
		}
	}
	var facts policy.Facts
	if err := strictjson.Unmarshal(example, &facts, strictjson.RejectUnknown()); err != nil {
		t.Fatalf("the example facts: %v", err)
	}
	if _, err := facts.Canonical(); err != nil {
		t.Fatal(err)
	}
	bare := policy.Facts{Subject: facts.Subject, Scope: facts.Scope, Trust: facts.Trust}
	bare.Normalize()
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	judge := func(p *policy.Policy, source string) {
		t.Helper()
		for _, c := range []struct {
			facts *policy.Facts
			want  policy.Verdict
		}{{&facts, policy.Allow}, {&bare, policy.Deny}} {
			r, err := p.Evaluate(context.Background(), c.facts, now)
			if err != nil || r.Verdict != c.want {
				t.Errorf("verdict %q, %v; want %s\n%s\n%+v", r.Verdict, err, c.want, source, r.Checks)
			}
		}
	}
	policies := 0
	for _, b := range blocks(text, "yaml") {
		if strings.Contains(b, "kind: Policy") {
			p, err := policy.ParseRequirements([]byte(b))
			if err != nil {
				t.Errorf("%v\n%s", err, b)
				continue
			}
			if policies++; len(p.Tenants()) > 0 { // it holds beside the policy that applies
				who, err := policy.DefaultIdentities("who", policy.IdentityMatch{Issuer: "https://issuer.example", Subject: "alice@example.com"})
				if err != nil {
					t.Fatal(err)
				}
				p = policy.Combine(p, who)
			}
			judge(p, b)
		}
	}
	for _, b := range blocks(text, "rego") {
		p, err := policy.CompileRego("example", policy.Module{Name: "example.rego", Text: b})
		if err != nil {
			t.Errorf("%v\n%s", err, b)
			continue
		}
		policies++
		judge(p, b)
	}
	if policies < 5 {
		t.Errorf("policy.md shows %d policies", policies)
	}
}

// TestRegistryCodes: every error code of the registry stands in registry.md.
func TestRegistryCodes(t *testing.T) {
	wantRows(t, "registry.md", constants(t, "../registry/errors.go", `code\w+`))
}

// TestBuildType: provenance.md describes the build type that assay run writes,
// and every parameter of it.
func TestBuildType(t *testing.T) {
	text := page(t, "provenance.md")
	if !strings.Contains(text, "`"+builder.BuildType+"`") {
		t.Errorf("provenance.md does not name %s", builder.BuildType)
	}
	run := builder.Run{Command: []string{"make"}, Dir: ".", Env: map[string]string{"CI": "1"}, Source: &builder.Source{URI: "git+https://git.example/app", Commit: "c0ffee", Ref: "refs/heads/main"}}
	b, err := run.Provenance("https://builder.example", "v1")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		BuildDefinition struct {
			ExternalParameters map[string]any `json:"externalParameters"`
			InternalParameters map[string]any `json:"internalParameters"`
		} `json:"buildDefinition"`
	}
	if err := strictjson.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.BuildDefinition.ExternalParameters) < 3 {
		t.Fatalf("external parameters: %v", doc)
	}
	var names []string
	for _, m := range []map[string]any{doc.BuildDefinition.ExternalParameters, doc.BuildDefinition.InternalParameters} {
		for k := range m {
			names = append(names, k)
		}
	}
	wantRows(t, "provenance.md", names)
}

var link = regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`)

// TestLinks: what a page links to in this repository is there.
func TestLinks(t *testing.T) {
	names, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, "../README.md", "../CONTRIBUTING.md", "../SECURITY.md", "../ARCHITECTURE.md") {
		for _, m := range link.FindAllStringSubmatch(page(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
	}
}
