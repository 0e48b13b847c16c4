package vuln

import (
	"fmt"
	"testing"
)

func TestRating(t *testing.T) {
	for doc, want := range map[string]string{
		`{"id": "A", "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}]}`:                                                           "critical 10.0",
		`{"id": "A", "severity": [{"type": "CVSS_V3", "score": "CVSS:3.0/AV:L/AC:H/PR:L/UI:R/S:U/C:L/I:N/A:N"}]}`:                                                           "low 2.2",
		`{"id": "A", "severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}]}`:                                        "critical 9.3",
		`{"id": "A", "severity": [{"type": "CVSS_V2", "score": "AV:N/AC:L/Au:N/C:P/I:P/A:P"}]}`:                                                                             "high 7.5",
		`{"id": "A", "affected": [{"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N"}]}], "database_specific": {"severity": "LOW"}}`: "medium 5.3",
		`{"id": "A", "database_specific": {"severity": "MODERATE"}}`:                                                                                                        "medium 0.0",
		`{"id": "A", "affected": [{"ecosystem_specific": {"urgency": "high"}}]}`:                                                                                            "high 0.0",
		`{"id": "A", "severity": [{"type": "Ubuntu", "score": "negligible"}]}`:                                                                                              "low 0.0",
		`{"id": "A", "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/nonsense"}]}`:                                                                                      " 0.0",
		`{"id": "A"}`: " 0.0",
	} {
		a, err := ParseAdvisory([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		word, score := a.Rating()
		if got := fmt.Sprintf("%s %.1f", word, score); got != want {
			t.Errorf("%s: %s, want %s", doc, got, want)
		}
	}
}
