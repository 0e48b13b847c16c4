package main

import (
	"testing"
	"time"

	vulns "github.com/in-toto/attestation/go/predicates/vulns/v02"

	"assay/attestation"
	"assay/client"
	"assay/internal/intoto"
	"assay/internal/strictjson"
)

// TestVulnsOfSchema reads the result of a scan by in-toto's own definition.
func TestVulnsOfSchema(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b, err := strictjson.Marshal(vulnsOf(&client.Findings{Items: []client.Finding{
		{Name: "CVE-2026-1", Severity: "high", Score: 7.5, EPSS: 0.25, Component: "pkg:npm/a@1", Status: "affected", Fixed: "2", Direct: "direct", KEV: "2026-01-01", Malicious: true},
		{Name: "CVE-2026-2", Severity: "unknown", Component: "pkg:npm/b@1", Status: "unknown"},
	}}, vulnsDatabase{URI: "https://assay.example", LastUpdate: now.Format(time.RFC3339)}, now, now.Add(time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	m, is := intoto.Predicate(t, attestation.PredicateVulns, b).(*vulns.Vulns)
	if !is || len(m.GetScanner().GetResult()) != 2 || m.GetScanner().GetResult()[0].GetSeverity()[1].GetScore() != "7.5" ||
		!m.GetScanner().GetDb().GetLastUpdate().AsTime().Equal(now) || !m.GetMetadata().GetScanFinishedOn().AsTime().Equal(now.Add(time.Second)) {
		t.Errorf("%v of %s", m, b)
	}
}
