//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"assay/identity"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store/storetest"
)

// TestOCIConformance runs the official suite, unmodified, against a registry
// with a real database, real blobs and the token flow: released specification
// and the next one, on both databases. Its exit code says too little (it is 0
// also where the suite skipped what the registry called unsupported), so every
// row of its results is read.
func TestOCIConformance(t *testing.T) {
	program, err := exec.LookPath("conformance")
	if err != nil {
		t.Fatal(`the suite is not on PATH: PATH="$(tools/install.sh conformance):$PATH"`)
	}
	for _, dialect := range storetest.Dialects {
		for _, run := range []struct {
			name, version string
			opts          []registrytest.Option
			disabled      map[string]string
		}{
			// A scoped token covers the repositories that the client asked for,
			// and a mount that names no source asks for none.
			{"1.1 token", "1.1", nil, map[string]string{"Sparse Manifests": "Disabled", "Blob anonymous mount": "Skip"}},
			{"next token", "dev", nil, map[string]string{"Sparse Manifests": "Disabled", "Blob anonymous mount": "Skip"}},
			{"next password", "dev", []registrytest.Option{func(o *registry.Options) { o.PublicURL = "" }}, map[string]string{"Sparse Manifests": "Disabled"}},
		} {
			t.Run(string(dialect)+"/"+run.name, func(t *testing.T) {
				s := registrytest.Start(t, storetest.Open(t, dialect), run.opts...)
				runConformance(t, program, s, run.version, run.disabled)
			})
		}
	}
}

// runConformance runs the suite once. Rows that the suite does not run by
// itself, or that cannot be had, are named in not with what they say instead of
// Pass. Sparse manifests name content that was never pushed; this registry
// refuses them, as the specification allows.
func runConformance(t *testing.T, program string, s *registrytest.Server, version string, not map[string]string) {
	s.Grant(t, "conformance", identity.RolePublisher, "conformance/**")
	s.Grant(t, "conformance", identity.RoleOperator, "conformance/**")
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = dir // it would read a configuration file from where it runs
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+s.Host, "OCI_TLS=disabled", "OCI_VERSION="+version,
		"OCI_REPO1=conformance/repo1", "OCI_REPO2=conformance/repo2",
		"OCI_USERNAME="+registrytest.User, "OCI_PASSWORD="+s.Token(t, "conformance", identity.AudienceRegistry),
		"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true",
		"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_MANIFESTS_TAG_PARAM=true",
		"OCI_RESULTS_DIR="+filepath.Join(dir, "results"),
	)
	out, err := cmd.CombinedOutput()
	results, rerr := os.ReadFile(filepath.Join(dir, "results", "results.yaml"))
	if rerr != nil {
		t.Fatalf("the suite wrote no results: %v\n%s", rerr, tail(out))
	}
	passed, bad := outcomes(results, not)
	for _, row := range bad {
		t.Errorf("not passed: %s", row)
	}
	if err != nil {
		t.Errorf("the suite failed: %v\n%s", err, tail(out))
	}
	// Less than this means that the suite was misconfigured, not that we pass.
	if passed < 48 {
		t.Errorf("%d rows passed, want at least 48:\n%s", passed, results)
	}
	t.Logf("%d rows passed; %s", passed, counts(filepath.Join(dir, "results", "junit.xml")))
	if t.Failed() {
		if b, err := os.ReadFile(filepath.Join(dir, "results", "junit.xml")); err == nil {
			t.Log(failures(b))
		}
	}
}

// outcomes reads the maps "apis" and "data" of the results: name to Pass, Skip,
// Disabled, FAIL or Error.
func outcomes(results []byte, not map[string]string) (passed int, bad []string) {
	section := ""
	lines := bufio.NewScanner(bytes.NewReader(results))
	for lines.Scan() {
		line := lines.Text()
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		if !strings.HasPrefix(line, " ") {
			section = name
			continue
		}
		if section != "apis" && section != "data" {
			continue
		}
		name, value = strings.Trim(name, `"'`), strings.Trim(strings.TrimSpace(value), `"'`)
		switch {
		case value == "Pass":
			passed++
		case not[name] != "" && not[name] == value:
		default:
			bad = append(bad, section+" "+strings.TrimSpace(line))
		}
	}
	return passed, bad
}

func tail(b []byte) []byte { return b[max(len(b)-4000, 0):] }

// counts is the summary in the head of the JUnit report.
func counts(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	_, head, _ := bytes.Cut(b, []byte("<testsuite"))
	head, _, _ = bytes.Cut(head, []byte(">"))
	return string(bytes.TrimSpace(head))
}

// failures picks the failed cases out of the JUnit report.
func failures(b []byte) string {
	var out strings.Builder
	for i, part := range strings.Split(string(b), "<testcase") {
		if i > 0 && (strings.Contains(part, `status="failure"`) || strings.Contains(part, `status="error"`)) && out.Len() < 20000 {
			out.WriteString(part[:min(len(part), 1500)] + "\n")
		}
	}
	return out.String()
}
