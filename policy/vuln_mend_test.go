package policy

import (
	"strings"
	"testing"
)

// TestMendOfMalice: nobody is told to state a malicious package away, which is refused.
func TestMendOfMalice(t *testing.T) {
	bad := mendOf(&Vulnerability{ID: "MAL-2026-1", Component: "pkg:pypi/evil@1.0", Fixed: "1.1", Malicious: true})
	if !strings.HasPrefix(bad, "take out pkg:pypi/evil@1.0") || strings.Contains(bad, "triage") || strings.Contains(bad, "upgrade") {
		t.Error(bad)
	}
	if open := mendOf(&Vulnerability{ID: "CVE-2026-1", Component: "pkg:pypi/flask@1.0"}); !strings.Contains(open, "assay vuln triage CVE-2026-1") {
		t.Error(open)
	}
}
