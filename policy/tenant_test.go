package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const (
	tenantIssuer = "https://issuer.example"
	ciPayments   = "ci@payments.example"
	ciShop       = "ci@shop.example"
)

// broad is a policy that counts signatures of everybody in the house.
const broad = `
apiVersion: assay/v1
kind: Policy
metadata: {name: house}
spec:
  requirements:
    signatures:
      - {name: house, identities: [{issuer: "https://issuer.example", subjectRegexp: "ci@[a-z]+\\.example"}]}
`

func tenantList(name, scope, list string) string {
	return "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: tenant-" + name + "}\nspec:\n  scope: " + scope + "\n  tenant:\n    name: " + name + "\n" + list
}

var (
	payments = tenantList("payments", `{namespaces: [payments, "payments-*"]}`, `    repositories: ["payments/**", "base/**"]
    identities: [{issuer: "https://issuer.example", subject: ci@payments.example}]
`)
	shop = tenantList("shop", `{namespaces: [shop]}`, `    repositories: ["shop/**"]
    identities: [{issuer: "https://issuer.example", subject: ci@shop.example}]
    delegations: [shop]
`)
)

func tenantSet(t *testing.T, docs ...string) *Set {
	t.Helper()
	var ps []*Policy
	for _, d := range docs {
		ps = append(ps, mustParse(t, d))
	}
	s, err := NewSet(ps...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judged is the verdict about an image in a namespace, and the checks that fail.
func judged(t *testing.T, s *Set, repository, namespace string, change func(*Facts), signers ...string) (Verdict, string) {
	t.Helper()
	f := goodFacts()
	f.Subject.Repository, f.Subject.Registry, f.Attestations, f.Provenance = repository, "", nil, nil
	f.Scope = Scope{ID: "admission/c1/" + namespace + "@" + repository, Cluster: "c1", Namespace: namespace}
	f.Signatures = nil
	for i, who := range signers {
		f.Signatures = append(f.Signatures, signature(i+1, tenantIssuer, who))
	}
	if change != nil {
		change(f)
	}
	r, err := s.For(f.Subject, f.Scope).Evaluate(t.Context(), f, testNow)
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	for _, c := range r.Checks {
		if c.Status == Fail {
			failed = append(failed, c.Name)
		}
	}
	return r.Verdict, strings.Join(failed, " ")
}

// TestTenants: in a tenant's namespaces its own repositories and signers count and
// nobody else's; elsewhere the policy alone decides.
func TestTenants(t *testing.T) {
	s := tenantSet(t, broad, payments, shop)
	for _, c := range []struct {
		repository, namespace string
		signers               []string
		want                  string // failing checks; "": allowed
	}{
		{"payments/app", "payments", []string{ciPayments}, ""},
		{"payments/app", "payments-eu", []string{ciPayments}, ""},
		{"base/go", "payments", []string{ciPayments}, ""},
		{"payments/app", "payments", []string{ciShop, ciPayments}, ""},
		{"shop/app", "shop", []string{ciShop}, ""},
		{"shop/app", "elsewhere", []string{ciShop}, ""}, // no list holds there
		{"payments/app", "payments", []string{ciShop}, "tenant-payments/tenant/signer tenant-payments/tenant/counts/house/signatures/house"},
		{"shop/app", "payments", []string{ciPayments}, "tenant-payments/tenant/repository"},
		{"shop/app", "payments", []string{ciShop}, "tenant-payments/tenant/repository tenant-payments/tenant/signer tenant-payments/tenant/counts/house/signatures/house"},
		{"payments/app", "shop", []string{ciPayments}, "tenant-shop/tenant/repository tenant-shop/tenant/signer tenant-shop/tenant/counts/house/signatures/house"},
		{"payments/app", "payments", nil, "house/signatures/house tenant-payments/tenant/signer"},
	} {
		v, failed := judged(t, s, c.repository, c.namespace, nil, c.signers...)
		if failed != c.want || (v == Allow) != (c.want == "") {
			t.Errorf("%s in %s by %v: %s, fails %q, want %q", c.repository, c.namespace, c.signers, v, failed, c.want)
		}
	}
}

// A threshold is met by those who count alone, and statements of others are as if
// they were not there, for YAML and for Rego.
func TestTenantsHideTheEvidenceOfOthers(t *testing.T) {
	two := strings.Replace(broad, "{name: house, ", "{name: house, threshold: 2, ", 1)
	if v, failed := judged(t, tenantSet(t, two, payments), "payments/app", "payments", nil, ciPayments, ciShop); v != Deny || failed != "tenant-payments/tenant/counts/house/signatures/house" {
		t.Errorf("%s %q", v, failed)
	}
	module := "\napiVersion: assay/v1\nkind: Policy\nmetadata: {name: house}\nspec:\n  rego: |\n    package assay.policy\n    allow if count(input.attestations) > 0\n    allow if count(input.provenance) > 0\n"
	other := func(f *Facts) {
		f.Attestations = []Attestation{{Evidence: evidence(7, tenantIssuer, ciShop), PredicateType: slsa1}}
		f.Provenance = []Provenance{{Attestation: attID(7), BuilderID: "b"}}
	}
	if v, failed := judged(t, tenantSet(t, module, payments), "payments/app", "payments", other, ciPayments); v != Deny || failed != "tenant-payments/tenant/counts/house/rego/policy/allow" {
		t.Errorf("%s %q", v, failed)
	}
	own := func(f *Facts) {
		other(f)
		f.Attestations[0].Identity.Subject = ciPayments
	}
	if v, failed := judged(t, tenantSet(t, module, payments), "payments/app", "payments", own, ciPayments); v != Allow {
		t.Errorf("%s %q", v, failed)
	}
}

// TestThreat_Tenancy_VEXOfAnotherTenant: another team's word that a flaw does not
// concern the artifact counts for nothing, though all that signed it are one's own.
func TestThreat_Tenancy_VEXOfAnotherTenant(t *testing.T) {
	flaws := broad + "    vulnerabilities:\n      deny: [critical]\n      vex: {identities: [{issuer: \"https://issuer.example\", subjectRegexp: \"ci@[a-z]+\\\\.example\"}]}\n"
	by := func(who string) func(*Facts) {
		return func(f *Facts) {
			f.Vulnerabilities = &Vulnerabilities{
				Scan: "done", SBOMs: []string{attID(9)}, Components: 1, VEX: []VEXFact{{Evidence: evidence(8, tenantIssuer, who)}},
				Findings: []Vulnerability{{ID: "CVE-2026-1", Component: "pkg:npm/a@1.0.0", State: "affected", Severity: "critical", Attested: []AttestedVEX{{Attestation: attID(8), Status: "not_affected", Justification: "component_not_present"}}}},
			}
		}
	}
	s := tenantSet(t, flaws, payments)
	if v, failed := judged(t, s, "payments/app", "payments", by(ciPayments), ciPayments); v != Allow {
		t.Errorf("one's own: %s %q", v, failed)
	}
	if v, failed := judged(t, s, "payments/app", "payments", by(ciShop), ciPayments); v != Deny || !strings.Contains(failed, "tenant-payments/tenant/counts/house/vulnerabilities") {
		t.Errorf("another's: %s %q", v, failed)
	}
	if v, failed := judged(t, s, "payments/app", "elsewhere", by(ciShop), ciPayments); v != Allow {
		t.Errorf("where no list holds: %s %q", v, failed)
	}
}

// TestThreat_Tenancy_ListAloneAllowsNothing: without a policy that applies, a list
// that is satisfied denies all the same.
func TestThreat_Tenancy_ListAloneAllowsNothing(t *testing.T) {
	if v, failed := judged(t, tenantSet(t, payments), "payments/app", "payments", nil, ciPayments); v != Deny || failed != "policy" {
		t.Errorf("%s %q", v, failed)
	}
}

// TestThreat_Tenancy_TenantWithoutList: what a list does not name is denied, and
// where no list holds the policy says so that wants one.
func TestThreat_Tenancy_TenantWithoutList(t *testing.T) {
	empty := tenantList("payments", "{namespaces: [payments]}", "")
	if v, failed := judged(t, tenantSet(t, broad, empty), "payments/app", "payments", nil, ciPayments); v != Deny || !strings.Contains(failed, "tenant/repository") || !strings.Contains(failed, "tenant/signer") {
		t.Errorf("%s %q", v, failed)
	}
	wants := broad + "    tenant: listed\n"
	for namespace, want := range map[string]string{"elsewhere": "tenant", "payments": ""} {
		// The check is of the house's policy; beside a list it stands under its name.
		if _, failed := judged(t, tenantSet(t, wants, payments), "payments/app", namespace, nil, ciPayments); failed != want {
			t.Errorf("%s: %q, want %q", namespace, failed, want)
		}
	}
	// At the registry's gate nobody asks for a cluster.
	gate := func(f *Facts) { f.Scope = Scope{ID: "gate@payments/app"} }
	if v, failed := judged(t, tenantSet(t, wants, payments), "payments/app", "", gate, ciPayments); v != Allow {
		t.Errorf("%s %q", v, failed)
	}
}

// TestThreat_Tenancy_TeamRenamed: a namespace that its list does not name any more,
// after a team was renamed, is denied by a policy that wants a list; the old name's
// list does not go along.
func TestThreat_Tenancy_TeamRenamed(t *testing.T) {
	s := tenantSet(t, broad+"    tenant: listed\n", payments)
	if v, failed := judged(t, s, "payments/app", "pay", nil, ciPayments); v != Deny || failed != "tenant" {
		t.Errorf("%s %q", v, failed)
	}
	// Names that begin alike are other names.
	for _, ns := range []string{"payments2", "xpayments", "Payments"} {
		if v, failed := judged(t, s, "payments/app", ns, nil, ciPayments); v != Deny || failed != "tenant" {
			t.Errorf("%s: %s %q", ns, v, failed)
		}
	}
}

// TestThreat_Tenancy_CopyOfAnothersSignedImage: a signature goes with the digest,
// so that a copy in one's own repository has it too; it counts for nobody there.
func TestThreat_Tenancy_CopyOfAnothersSignedImage(t *testing.T) {
	s := tenantSet(t, broad, payments, shop)
	if v, failed := judged(t, s, "payments/copied", "payments", nil, ciShop); v != Deny || !strings.Contains(failed, "tenant-payments/tenant/signer") {
		t.Errorf("%s %q", v, failed)
	}
	// The same name in another registry is another repository.
	elsewhere := func(f *Facts) { f.Subject.Registry = "registry.evil.example" }
	if v, failed := judged(t, s, "payments/app", "payments", elsewhere, ciPayments); v != Deny || failed != "tenant-payments/tenant/repository" {
		t.Errorf("%s %q", v, failed)
	}
	// What names no repository at all is from none.
	nowhere := func(f *Facts) { f.Subject.Repository = "" }
	if v, failed := judged(t, s, "payments/app", "payments", nowhere, ciPayments); v != Deny || failed != "tenant-payments/tenant/repository" {
		t.Errorf("%s %q", v, failed)
	}
}

// TestThreat_Tenancy_DelegationWiderThanItsParent: a list inside of another one's
// namespaces narrows it and opens nothing; a delegation counts by the whole chain,
// and one whose name only begins alike does not.
func TestThreat_Tenancy_DelegationWiderThanItsParent(t *testing.T) {
	wider := tenantList("team", "{namespaces: [payments]}", `    repositories: ["**"]
    signers: any
`)
	if v, failed := judged(t, tenantSet(t, broad, payments, wider), "shop/app", "payments", nil, ciShop); v != Deny || !strings.Contains(failed, "tenant-payments/tenant/repository") {
		t.Errorf("%s %q", v, failed)
	}
	by := func(chain ...string) func(*Facts) {
		return func(f *Facts) {
			f.Signatures[0].Delegation = &Delegation{Name: chain[len(chain)-1], Chain: chain}
		}
	}
	delegated := strings.Replace(broad, `identities: [{issuer: "https://issuer.example", subjectRegexp: "ci@[a-z]+\\.example"}]`, "signers: delegated", 1)
	for _, c := range []struct {
		chain []string
		want  Verdict
	}{
		{[]string{"shop"}, Allow},
		{[]string{"shop", "shop/nightly"}, Allow},
		{[]string{"payments"}, Deny},
		{[]string{"payments", "payments/shop"}, Deny},
		{[]string{"shop2"}, Deny},
	} {
		if v, failed := judged(t, tenantSet(t, delegated, shop), "shop/app", "shop", by(c.chain...), "someone@elsewhere.example"); v != c.want {
			t.Errorf("%v: %s %q", c.chain, v, failed)
		}
	}
}

// TestThreat_Tenancy_MoreSpecificPolicyKeepsTheList: a policy for the very
// repository takes the wider policy's place, and not the list's.
func TestThreat_Tenancy_MoreSpecificPolicyKeepsTheList(t *testing.T) {
	mine := strings.NewReplacer("name: house}", "name: mine}", "spec:\n", "spec:\n  scope: {repositories: [shop/app], namespaces: [payments], clusters: [c1]}\n").Replace(broad)
	if v, failed := judged(t, tenantSet(t, broad, payments, mine), "shop/app", "payments", nil, ciShop); v != Deny || !strings.Contains(failed, "tenant/repository") {
		t.Errorf("%s %q", v, failed)
	}
}

func TestTenantIsRefused(t *testing.T) {
	const list = "    repositories: [\"payments/**\"]\n    signers: any\n"
	for name, text := range map[string]string{
		"wants a scope":           strings.Replace(tenantList("a", "X", list), "  scope: X\n", "", 1),
		"another repository":      tenantList("a", `{namespaces: [a], repositories: ["a/**"]}`, list),
		"whose the artifact is":   tenantList("a", `{namespaces: [a], teams: [a]}`, list),
		"of another kind":         tenantList("a", `{namespaces: [a], kinds: [image]}`, list),
		"beside it":               tenantList("a", `{namespaces: [a]}`, list+"    delegations: [a]\n"),
		"want \"any\"":            tenantList("a", `{namespaces: [a]}`, "    signers: delegated\n"),
		"lower-case letters":      tenantList("A", `{namespaces: [a]}`, list),
		"without patterns":        tenantList("a", `{namespaces: [a]}`, "    delegations: [\"a*\"]\n"),
		"a policy of its own":     tenantList("a", `{namespaces: [a]}`, list) + "  rego: |\n    package assay.policy\n    allow if input.truncated == false\n",
		"exactly one of issuer":   tenantList("a", `{namespaces: [a]}`, "    identities: [{subject: x}]\n"),
		"field repo not found":    tenantList("a", `{namespaces: [a]}`, "    repo: [x]\n"),
		"tenant \"any\": want":    broad + "    tenant: any\n",
		"alone between slashes":   tenantList("a", `{namespaces: [a]}`, "    repositories: [\"a**/b\"]\n"),
		"at most 500":             tenantList("a", `{namespaces: [a]}`, "    repositories: ["+strings.Repeat("a/b, ", 501)+"]\n"),
		"stands for itself":       tenantList("a", `{namespaces: [a]}`, "    identities: [{issuer: x, subject: \"*@y\"}]\n"),
		"nothing that must be th": strings.Replace(broad, "    signatures:\n", "    tenant: listed\n    #", 1),
	} {
		if _, err := ParseRequirements([]byte(text)); !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTenantExplainAndDiff(t *testing.T) {
	checks, err := mustParse(t, payments).Explain(Subject{}, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range checks {
		if strings.HasPrefix(c.Name, "tenant/") || c.Name == "policy" {
			got = append(got, c.Name+": "+c.Expected)
		}
	}
	if d := cmp.Diff([]string{
		"policy: a policy beside the allow list, which allows nothing alone",
		"tenant/repository: a repository of tenant payments: payments/** or base/**",
		"tenant/signer: signed or attested by whom tenant payments counts: ci@payments.example (issuer https://issuer.example)",
	}, got); d != "" {
		t.Error(d)
	}
	a, _ := ParseDocument([]byte(payments))
	b, _ := ParseDocument([]byte(strings.Replace(payments, `, "base/**"`, "", 1)))
	changes, err := Diff(a, b)
	if err != nil || len(changes) != 1 || changes[0].What != "tenant/repository" {
		t.Errorf("%v %v", changes, err)
	}
	if got := tenantSet(t, broad, payments).For(Subject{Kind: Image, Repository: "x"}, Scope{Namespace: "payments"}).Tenants(); !cmp.Equal(got, []string{"payments"}) {
		t.Errorf("%v", got)
	}
}

func TestTenantLint(t *testing.T) {
	for name, c := range map[string]struct{ list, want string }{
		"tight":       {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n    delegations: [a]\n", ""},
		"everything":  {`{namespaces: [a]}|    repositories: ["**"]` + "\n    delegations: [a]\n", "of every tenant"},
		"tagged":      {`{namespaces: [a]}|    repositories: ["a/b:v1"]` + "\n    delegations: [a]\n", "no tag"},
		"scheme":      {`{namespaces: [a]}|    repositories: ["https://r.example/a"]` + "\n    delegations: [a]\n", "no scheme"},
		"upper":       {`{namespaces: [a]}|    repositories: ["A/b"]` + "\n    delegations: [a]\n", "lower-case"},
		"port":        {`{namespaces: [a]}|    repositories: ["localhost:5000/a/*"]` + "\n    delegations: [a]\n", ""},
		"covered":     {`{namespaces: [a]}|    repositories: ["a/**", a/b]` + "\n    delegations: [a]\n", "adds nothing to a/**"},
		"no signers":  {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n", "names no signers"},
		"nowhere":     {"{namespaces: [a]}|    signers: any\n", "names no repository"},
		"any":         {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n    signers: any\n", "of any tenant counts"},
		"all spaces":  {`{clusters: [c]}|    repositories: ["a/**"]` + "\n    delegations: [a]\n", "in all namespaces"},
		"no space":    {`{namespaces: ["a/b"]}|    repositories: ["a/**"]` + "\n    delegations: [a]\n", "matches no namespace"},
		"impossible":  {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n    identities: [{issuer: x, subjectRegexp: \"a$b\"}]\n", "matches nothing"},
		"impossible2": {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n    identities: [{issuer: x, subjectRegexp: \"a^b|c\"}]\n", ""},
		"twice":       {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n    identities: [{issuer: x, subject: y}, {issuer: x, subject: y}]\n", "stands twice"},
		"everybody":   {`{namespaces: [a]}|    repositories: ["a/**"]` + "\n    identities: [{issuer: x, subjectRegexp: \".*\"}]\n", "matches everything"},
	} {
		scope, list, _ := strings.Cut(c.list, "|")
		d, err := ParseDocument([]byte(tenantList("a", scope, list)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var all []string
		for _, f := range Lint(d) {
			all = append(all, f.Says)
		}
		if got := strings.Join(all, "; "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	shared := func(docs ...string) (out string) {
		var all []*Document
		for _, text := range docs {
			d, err := ParseDocument([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, d)
		}
		for _, f := range LintTenants(all) {
			out += f.Policy + ": " + f.Says + "\n"
		}
		return out
	}
	if got := shared(broad, payments, shop); got != "" {
		t.Error(got)
	}
	for want, docs := range map[string][2]string{
		"overlaps with payments-* of tenant-payments": {payments, tenantList("eu", `{namespaces: ["*-eu"]}`, "    signers: any\n")},
		"both tenants run what lies there":            {payments, tenantList("x", "{namespaces: [x]}", "    repositories: [base/go]\n    delegations: [x]\n")},
		"counts for tenant-payments as well":          {payments, strings.NewReplacer("payments/**", "x/**", `, "base/**"`, "", "tenant-payments", "tenant-x", "name: payments", "name: x", `[payments, "payments-*"]`, "[x]").Replace(payments)},
		"a delegate of shop counts for tenant-shop":   {shop, tenantList("x", "{namespaces: [x]}", "    repositories: [\"x/**\"]\n    delegations: [shop]\n")},
	} {
		if got := shared(docs[0], docs[1]); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// Apart by cluster.
	if got := shared(payments, tenantList("other", "{namespaces: [payments], clusters: [c2]}", "    signers: any\n")); !strings.Contains(got, "overlaps") {
		t.Errorf("%q", got)
	}
	if got := shared(tenantList("one", "{namespaces: [n], clusters: [c1]}", "    signers: any\n"), tenantList("two", "{namespaces: [n], clusters: [c2]}", "    signers: any\n")); got != "" {
		t.Errorf("%q", got)
	}
}

// Patterns with many stars are compared in bounded time.
func TestThreat_Policy_AmplificationByOverlappingPatterns(t *testing.T) {
	a, b := strings.Repeat("*a", 200)+"b", strings.Repeat("a*", 200)+"c"
	began := time.Now()
	if meet([]string{a}, []string{b}) || meet(strings.Split(strings.Repeat("**/a/", 60)+"b", "/"), strings.Split(strings.Repeat("a/**/", 60)+"c", "/")) {
		t.Error("they have a name in common")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
}
