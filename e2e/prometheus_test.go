//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// TestPrometheus: Prometheus' own package reads the rules, and its linter has
// nothing against the metrics.
func TestPrometheus(t *testing.T) {
	s := up(t)
	rules := filepath.Join(t.TempDir(), "assay.rules.yml")
	if err := os.WriteFile(rules, []byte(s.assay("slo", "rules")), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(path string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", "run", "-C", "../tools/rulefmt", ".", path)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := read(rules); err != nil || !strings.Contains(out, "rules in") {
		t.Errorf("%v\n%s", err, out)
	}
	broken := filepath.Join(t.TempDir(), "broken.yml")
	if err := os.WriteFile(broken, []byte("groups: [{name: a, rules: [{record: a:b, expr: 'sum('}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := read(broken); err == nil {
		t.Errorf("rules that do not parse: %s", out)
	}

	resp, err := http.Get(s.PublicURL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	problems, err := promlint.New(resp.Body).Lint()
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
