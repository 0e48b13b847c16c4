//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What must stay text on every page, in a browser that would run it.
const (
	hostileScript = `<script>window.pwned=1</script>`
	hostileImage  = `"><img src=https://evil.example/x.png onerror=window.pwned=1>`
)

// looked is what a browser found on a page.
type looked struct {
	Failed     string   `json:"failed"`
	Page       string   `json:"page"`
	Scheme     string   `json:"scheme"`
	Status     int      `json:"status"`
	Title      string   `json:"title"`
	Text       string   `json:"text"`
	External   []string `json:"external"`
	Errors     []string `json:"errors"`
	Dialogs    []string `json:"dialogs"`
	Bytes      int      `json:"bytes"`
	Pwned      string   `json:"pwned"`
	Wide       bool     `json:"wide"`
	Keys       bool     `json:"keys"`
	Scripts    int      `json:"scripts"`
	Violations []struct {
		ID    string   `json:"id"`
		Help  string   `json:"help"`
		Nodes []string `json:"nodes"`
	} `json:"violations"`
}

// uiSite is a site with something to see on every page, much of it hostile.
func uiSite(t *testing.T) (s *site, pages []string) {
	s = up(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	const me = "ci@example.com"
	s.assay("apply", "-f", write("site.yaml", `apiVersion: assay/v1
kind: Grant
metadata: {name: you}
spec: {issuer: "`+s.Services.OIDC+`", subject: you@example.com, role: admin, scope: "**"}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: release}
spec:
  scope: {repositories: ["shop/**"]}
  mode: enforce
  requirements:
    signatures: [{name: by-ci, identities: [{issuer: "`+s.Services.OIDC+`", subject: `+me+`}]}]
---
apiVersion: assay/v1
kind: Repository
metadata: {name: shop}
spec: {pattern: "shop/**", mode: staged}
`))
	s.assay("inventory", "apply", write("services.yaml", `apiVersion: assay/v1
kind: Services
metadata: {name: shop}
spec:
  teams:
    payments: {contacts: ["#payments"], routes: {page: somebody}}
  services:
    checkout: {description: `+quoted(hostileScript)+`, tier: 1, team: payments, environment: production, exposure: internet, repositories: ["shop/checkout"], workloads: [{namespace: shop, name: "checkout*"}]}
`))
	image := s.Services.Registry + "/shop/checkout:v1"
	s.assay("push", "--subject", me, "--product", write("app", "#!/bin/sh\n"), image)
	s.assay("sign", "--subject", me, image)
	s.assay("attest", "--subject", me, "--type", "cyclonedx", "--predicate", write("bom.json", `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
		"metadata": {"component": {"type": "application", "bom-ref": "root", "name": `+quoted(hostileScript)+`, "version": "1"}},
		"components": [
			{"type": "library", "bom-ref": "a", "name": "log4j-core", "group": "org.apache.logging.log4j", "version": "2.14.1", "purl": "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"},
			{"type": "library", "bom-ref": "b", "name": `+quoted(hostileImage)+`, "version": `+quoted(hostileScript)+`, "licenses": [{"license": {"name": `+quoted(hostileImage)+`}}]}]}`), image)
	s.assay("attest", "--subject", me, "--type", "test-result", "--predicate", write("tests.json", `{"result": "PASSED", "configuration": [{"name": `+quoted(hostileImage)+`, "digest": {"sha256": "`+strings.Repeat("0", 64)+`"}}], "passedTests": [`+quoted(hostileScript)+`]}`), image)
	s.assay("feed", "import", "--name", "internal", "--ecosystem", "Maven", filepath.Dir(write("advisories/GHSA-jfh8.json", `{"id": "GHSA-jfh8-c2jp-5v3q", "modified": "2024-01-01T00:00:00Z", "aliases": ["CVE-2021-44228"], "summary": `+quoted(hostileScript)+`,
		"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}],
		"affected": [{"package": {"ecosystem": "Maven", "name": "org.apache.logging.log4j:log4j-core"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "2.0"}, {"fixed": "2.17.1"}]}]}]}`)))
	s.assay("verify", "--subject", me, image)
	unsigned := s.Services.Registry + "/shop/checkout:v2"
	s.assay("push", "--subject", me, "--product", write("other", "#!/bin/sh\n# other\n"), unsigned)
	s.assayRefused(1, nil, "verify", "--subject", me, unsigned)

	// Digests from what the site says of itself.
	find := regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	digest := find.FindString(s.assay("registry", "status", "shop/checkout:v1", "-o", "json"))
	if digest == "" {
		t.Fatal("no digest")
	}
	s.assay("inventory", "report", "--cluster", "edge", "--complete", write("running.json", `[{"namespace": "shop", "kind": "Deployment", "name": "checkout", "image": `+quoted(image)+`, "digest": "`+digest+`"},
		{"namespace": "shop", "kind": "Deployment", "name": "stranger", "image": "elsewhere.example/x:1", "digest": "sha256:`+strings.Repeat("1", 64)+`"}]`))
	s.assay("vuln", "triage", "CVE-2021-44228", "--product", "other/**", "--status", "not_affected", "--justification", "vulnerable_code_not_present", "--reason", hostileScript)
	end := time.Now().Add(20 * time.Second)
	for !strings.Contains(run(t, s.environ(), s.program(), "vuln", "where", "CVE-2021-44228").stdout, "log4j-core") {
		if time.Now().After(end) {
			t.Fatal("the flaw is not found")
		}
		time.Sleep(50 * time.Millisecond)
	}
	ids := func(prefix string, args ...string) string {
		return regexp.MustCompile(prefix + `_[0-9a-f]+`).FindString(s.assay(args...))
	}
	evidence := ids("att", "evidence", "list", "--subject", me, image, "-o", "json")
	decision := ids("dec", "verify", "--subject", me, image, "-o", "json")
	statement := ids("vex", "vex", "list", "-o", "json")
	logged := ids("log", "build-log", "upload", "--build", hostileScript, "--repository", "shop/checkout", "--artifact", image, write("make.log", "compiling "+hostileScript+"\n\x1b]0;owned\x07"+hostileImage+"\npassword=abcdefgh12\n"), "-o", "json")
	pages = []string{
		"/ui/", "/ui/oncall", "/ui/slo", "/ui/alerts", "/ui/artifacts", "/ui/artifacts/" + digest, "/ui/artifacts/" + digest + "/risk", "/ui/evidence/" + evidence, "/ui/decisions/" + decision,
		"/ui/registry", "/ui/registry/shop/checkout", "/ui/components?name=log4j-core", "/ui/search?q=where+is+log4j-core+%3C+2.17%3F", "/ui/search?q=" + "%3Cscript%3Ewindow.pwned=1%3C/script%3E",
		"/ui/vulnerabilities", "/ui/vulnerabilities/CVE-2021-44228", "/ui/workloads", "/ui/services", "/ui/services/checkout", "/ui/builds", "/ui/policies", "/ui/policies/release", "/ui/vex", "/ui/vex/" + statement, "/ui/exceptions", "/ui/readiness", "/ui/reports/weekly", "/ui/reports/quarterly",
		"/ui/trust", "/ui/audit", "/ui/inventory", "/ui/feeds", "/ui/feeds/internal/Maven", "/ui/log", "/ui/log/0", "/ui/runbooks", "/ui/runbooks/gate", "/ui/runbooks/drills", "/ui/slo/attestation-coverage", "/ui/receivers",
		"/ui/build-logs", "/ui/build-logs?text=compiling", "/ui/build-logs/" + logged, "/ui/nowhere",
	}
	return s, pages
}

// TestUI has Chromium look at every page, in light and dark: nothing that axe finds,
// nothing asked of other hosts, no error on the console, nothing run that came as
// text. ASSAY_UI_SHOTS names a folder for pictures of the pages.
func TestUI(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("node is not on PATH: tools/install.sh playwright prints what to put there")
	}
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not on PATH: tools/install.sh playwright prints what to put there")
	}
	modules := ""
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "playwright-core")); err == nil {
			modules = filepath.Join(dir, "node_modules")
		}
	}
	if modules == "" {
		t.Fatal("playwright-core is not beside any folder of PATH: tools/install.sh playwright prints what to put there")
	}
	s, pages := uiSite(t)
	ask, err := json.Marshal(map[string]any{
		"base": s.PublicURL, "chromium": browser, "token": s.token("you@example.com", "assay-api"), "pages": pages, "schemes": []string{"light", "dark"}, "shots": os.Getenv("ASSAY_UI_SHOTS"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/browse.js")
	cmd.Env, cmd.Stdin = cleanEnv("NODE_PATH="+modules), bytes.NewReader(ask)
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	ran := cmd.Run()
	seen := map[string]looked{}
	lines := bufio.NewScanner(&out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var l looked
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if l.Failed != "" {
			t.Fatal(l.Failed)
		}
		seen[l.Scheme+" "+l.Page] = l
		l.judge(t)
	}
	if ran != nil {
		t.Fatalf("%v\n%s", ran, trouble.String())
	}
	if !seen["light keyboard"].Keys || !seen["dark keyboard"].Keys {
		t.Error("the keyboard does not lead to the search, to a page, and along its rows")
	}
	if want := 2 * (len(pages) + 2); len(seen) != want {
		t.Errorf("%d pages were looked at, want %d", len(seen), want)
	}
	for page, words := range map[string][]string{
		pages[5]:                     {"From commit to workload", "ci@example.com", "included", hostileScript, "CVE-2021-44228", "not named by provenance"},
		"/ui/services/checkout":      {hostileScript},
		pages[12]:                    {"org.apache.logging.log4j/log4j-core@2.14.1", "1 match"},
		"/ui/oncall":                 {"elsewhere.example/x:1", "shop/checkout"},
		pages[7]:                     {"verified", "included"},
		pages[23]:                    {hostileScript},
		"/ui/vulnerabilities":        {"checkout", "log4j-core"},
		"/ui/feeds":                  {"internal", "fresh"},
		"/ui/workloads":              {"edge", "checkout"},
		"/ui/policies/release":       {"enforce", "kind: Policy"},
		"/ui/registry/shop/checkout": {"v1"},
		pages[len(pages)-3]:          {"compiling " + hostileScript},
		pages[len(pages)-2]:          {"compiling " + hostileScript, "password=[REDACTED]", hostileImage},
	} {
		l := seen["dark "+page]
		for _, w := range words {
			if !strings.Contains(l.Text, w) {
				t.Errorf("%s does not say %q:\n%.3000s", page, w, l.Text)
			}
		}
	}
}

// judge says what is wrong with a page.
func (l *looked) judge(t *testing.T) {
	at := l.Scheme + " " + l.Page
	want := 200
	if strings.HasSuffix(l.Page, "/nowhere") {
		want = 404
		l.Errors = nil // the browser notes the status
	}
	if l.Status != want {
		t.Errorf("%s: status %d: %.400s", at, l.Status, l.Text)
	}
	for _, v := range l.Violations {
		t.Errorf("%s: axe: %s: %s\n  %s", at, v.ID, v.Help, strings.Join(v.Nodes, "\n  "))
	}
	for what, list := range map[string][]string{"asks other hosts": l.External, "console": l.Errors, "dialogs": l.Dialogs} {
		if len(list) > 0 {
			t.Errorf("%s: %s: %q", at, what, list)
		}
	}
	if l.Pwned != "undefined" {
		t.Errorf("%s: text was run", at)
	}
	if l.Scripts != 1 {
		t.Errorf("%s: %d scripts, want the one", at, l.Scripts)
	}
	if l.Wide {
		t.Errorf("%s: the page is wider than its window", at)
	}
	if l.Bytes > 60<<10 {
		t.Errorf("%s: %d bytes under gzip with its page, want at most 60 KiB", at, l.Bytes)
	}
	if l.Title == "" {
		t.Error(fmt.Sprint(at, ": no title"))
	}
}
