//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/client"
	"assay/internal/vectors"
	"assay/vuln"
	advisories "assay/vuln/feed"
	"assay/vuln/reach"

	"github.com/google/go-cmp/cmp"
)

// oldGo is a program that parses languages by a flawed function, and needs a
// module whose flawed packages it does not touch.
const oldGo = `package main

import (
	"fmt"
	"os"

	"golang.org/x/net/idna"
	"golang.org/x/text/language"
)

func main() {
	fmt.Println(language.Parse(os.Args[0]))
	fmt.Println(idna.ToASCII(os.Args[0]))
}
`

// TestAgreesWithGovulncheck: on Go programs with old modules Assay finds what
// govulncheck finds with the same advisories, and --reachability tells apart what
// is called.
func TestAgreesWithGovulncheck(t *testing.T) {
	feeds := vectors.Shared(t, "osv")
	dir := shortTemp(t)
	source, data, db := filepath.Join(dir, "app"), filepath.Join(dir, "data"), filepath.Join(dir, "db")
	if err := os.MkdirAll(source, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "main.go"), []byte(oldGo), 0o600); err != nil {
		t.Fatal(err)
	}
	env := cleanEnv("GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOTOOLCHAIN=local")
	for _, args := range [][]string{
		{"mod", "init", "example.com/app"}, {"get", "golang.org/x/text@v0.3.5", "golang.org/x/net@v0.0.0-20210405180319-a5a99cb37ef4"},
		{"build", "-o", filepath.Join(dir, "app.bin"), "."}, {"build", "-ldflags=-s -w", "-o", filepath.Join(dir, "stripped.bin"), "."},
	} {
		if r := runIn(t, source, env, "go", args...); r.code != 0 {
			t.Fatalf("go %v: %s", args, r.stderr)
		}
	}
	windows := filepath.Join(dir, "app.exe")
	if r := runIn(t, source, append(env, "GOOS=windows"), "go", "build", "-o", windows, "."); r.code != 0 {
		t.Fatal(r.stderr)
	}
	must(t, cleanEnv(), assayBin(t), "feed", "import", "--data", data, filepath.Join(feeds, "Go", "all.zip"))
	if err := reach.WriteDatabase(db, goAdvisories(t, feeds)); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{filepath.Join(dir, "app.bin"), filepath.Join(dir, "stripped.bin"), windows} {
		r := run(t, cleanEnv("GOTELEMETRY=off"), "govulncheck", "-mode", "binary", "-format", "json", "-db", "file://"+db, program)
		theirs, err := reach.Read(strings.NewReader(r.stdout))
		if err != nil || len(theirs) < 5 {
			t.Fatalf("%d findings, %v\n%s", len(theirs), err, r.stderr)
		}
		ours := map[string]bool{}
		for _, f := range scanned(t, "--data", data, program) {
			for _, one := range f.Records {
				ours[one.ID] = true
			}
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(theirs)), slices.Sorted(maps.Keys(ours))); diff != "" {
			t.Errorf("%s: govulncheck - assay +: %s", filepath.Base(program), diff)
		}
		t.Logf("%s: %d findings of both", filepath.Base(program), len(ours))
	}

	// GO-2021-0113 is in language.Parse; GO-2022-0236 and others are in x/net's http2.
	for name, target := range map[string]string{"source": source, "program": filepath.Join(dir, "app.bin")} {
		level := map[string]string{}
		for _, f := range scanned(t, "--data", data, "--reachability", target) {
			level[f.Records[0].ID] = f.Reachability
			if f.Records[0].ID == "GO-2021-0113" && len(f.Trace) == 0 {
				t.Errorf("%s: no trace of %+v", name, f)
			}
		}
		if level["GO-2021-0113"] != "called" || level["GO-2024-2687"] != "required" {
			t.Errorf("%s: %v", name, level)
		}
		left := scanned(t, "--data", data, "--reachability", "--ignore-uncalled", target)
		if len(left) == 0 || len(left) >= len(level) || slices.ContainsFunc(left, func(f client.Finding) bool { return f.Records[0].ID == "GO-2024-2687" }) {
			t.Errorf("%s: %d of %d are left", name, len(left), len(level))
		}
	}
	if r := run(t, cleanEnv("PATH="+dir), assayBin(t), "scan", "--data", data, "--reachability", source); r.code != 2 || !strings.Contains(r.stderr, "go install golang.org/x/vuln/cmd/govulncheck") {
		t.Errorf("without govulncheck: %d %s", r.code, r.stderr)
	}
}

// TestReachabilityCounts: what a program does not call is found out with the
// advisories of a server, stated by whoever looked, and counts where a policy names
// them, and for nothing where it does not.
func TestReachabilityCounts(t *testing.T) {
	feeds := vectors.Shared(t, "osv")
	dir := shortTemp(t)
	source, program := filepath.Join(dir, "app"), filepath.Join(dir, "app.bin")
	if err := errors.Join(os.MkdirAll(source, 0o700), os.WriteFile(filepath.Join(source, "main.go"), []byte(oldGo), 0o600)); err != nil {
		t.Fatal(err)
	}
	env := cleanEnv("GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOTOOLCHAIN=local")
	for _, args := range [][]string{
		{"mod", "init", "example.com/app"}, {"get", "golang.org/x/text@v0.3.5", "golang.org/x/net@v0.0.0-20210405180319-a5a99cb37ef4"}, {"build", "-o", program, "."},
	} {
		if r := runIn(t, source, env, "go", args...); r.code != 0 {
			t.Fatalf("go %v: %s", args, r.stderr)
		}
	}
	s := up(t)
	s.assay("feed", "import", filepath.Join(feeds, "Go", "all.zip"))
	s.assay("sbom", program, "--attest", "--subject", "ci@example.com")
	r := run(t, s.environ(), assayBin(t), "scan", "--reachability", "-o", "openvex", program)
	var doc struct {
		Statements []struct {
			Vulnerability struct{ Name string }
			Status        string
			Justification string
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || r.code > 2 {
		t.Fatalf("%d %v\n%s", r.code, err, r.stderr)
	}
	uncalled, called := 0, 0
	for _, st := range doc.Statements {
		switch st.Status {
		case "not_affected":
			uncalled++
		case "affected":
			called++
		}
	}
	if uncalled < 3 || called == 0 {
		t.Fatalf("%d not called, %d called: %s", uncalled, called, r.stdout)
	}
	stated := filepath.Join(dir, "reach.openvex.json")
	if err := os.WriteFile(stated, []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	found := func(named string) func() string {
		s.apply(`apiVersion: assay/v1
kind: Policy
metadata: {name: flaws}
spec:
  requirements:
    vulnerabilities:
      deny: [low]
      accept: [kev, epss, component, sbom-incomplete, feed-missing]
      vex: {identities: [{issuer: "` + s.Services.OIDC + `", subject: ` + named + `@example.com}]}
`)
		return func() string {
			r := run(t, s.environ(), assayBin(t), "verify", program)
			return r.stdout + r.stderr
		}
	}
	denied := func(v string) bool {
		return strings.Contains(v, "nobody rates it") && !strings.Contains(v, "by attested statements")
	}
	within(t, "before anything is stated", found("looker"), denied)
	s.assay("vex", "attest", "--document", stated, "--subject", "looker@example.com", program)
	within(t, "what is not called counts no more", found("looker"), func(v string) bool {
		return strings.Contains(v, fmt.Sprintf("%d by attested statements", uncalled)) && strings.Contains(v, "not_affected by looker@example.com")
	})
	within(t, "who stated it is not named", found("nobody"), denied)
}

func scanned(t *testing.T, args ...string) []client.Finding {
	t.Helper()
	r := run(t, cleanEnv("GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOTOOLCHAIN=local"), assayBin(t), append([]string{"scan", "-o", "json"}, args...)...)
	var out client.Findings
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code > 2 {
		t.Fatalf("assay scan %v: %d %v\n%s", args, r.code, err, r.stderr)
	}
	return out.Items
}

func goAdvisories(t *testing.T, feeds string) (all []*vuln.Advisory) {
	t.Helper()
	a, err := advisories.OpenZip(filepath.Join(feeds, "Go", "all.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Each(advisories.DefaultLimits(), func(_ string, record []byte) error {
		one, err := vuln.ParseAdvisory(record)
		all = append(all, one)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
