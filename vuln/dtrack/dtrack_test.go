package dtrack

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/sbom"

	"github.com/google/go-cmp/cmp"
)

func TestConvert(t *testing.T) {
	tests := []struct {
		state, justification, details string
		suppressed                    bool
		want                          string // status, justification, and what else is said; or why not
	}{
		{"", "", "", false, "nothing"},
		{"NOT_SET", "NOT_SET", "", false, "nothing"},
		{"", "", "", true, "it is suppressed, and nobody said why: decide it again"},
		{"NOT_SET", "", "looked at it", true, "it is suppressed, and nobody said why: decide it again"},
		{"NOT_AFFECTED", "CODE_NOT_REACHABLE", "only in tests", true, "not_affected vulnerable_code_not_in_execute_path only in tests"},
		{"NOT_AFFECTED", "NOT_SET", "", true, "it is said not to be affected, and not why"},
		{"FALSE_POSITIVE", "", "", true, "not_affected  decided to be a false positive in Dependency-Track"},
		{"EXPLOITABLE", "", "", false, "affected  decided to be exploitable in Dependency-Track"},
		{"EXPLOITABLE", "", "", true, "it is suppressed, and said to be affected: decide it again"},
		{"IN_TRIAGE", "", "", false, "under_investigation  "},
		{"RESOLVED", "", "", true, "fixed  "},
		{"SOMETHING_NEW", "", "", true, "it is suppressed, and nobody said why: decide it again"},
	}
	for _, tt := range tests {
		var f Finding
		f.Component.PURL, f.Vulnerability.ID = "pkg:npm/left-pad@1.0.0", "CVE-2024-0001"
		f.Analysis.State, f.Analysis.Justification, f.Analysis.Details, f.Analysis.Suppressed = tt.state, tt.justification, tt.details, tt.suppressed
		s, got := Convert(Project{Name: "my shop", Version: "1.0"}, f)
		switch {
		case s != nil:
			got = s.Status + " " + s.Justification + " " + s.Impact + s.Action
			if s.Products[0].ID != "pkg:generic/my%20shop@1.0" || s.Products[0].Subcomponents[0].ID != "pkg:npm/left-pad@1.0.0" {
				t.Errorf("%+v", s.Products)
			}
		case got == "":
			got = "nothing"
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v: %s", tt, diff)
		}
	}
	if _, why := Convert(Project{Name: "x"}, Finding{Analysis: Analysis{State: "RESOLVED"}}); why == "" {
		t.Error("a component without a package URL")
	}
}

// A list of findings says what was decided, its analysis trail why, and until when.
func TestDecided(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/api/v1/analysis" || r.URL.Query().Get("project") != "p" || r.URL.Query().Get("component") != "c":
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Query().Get("vulnerability") == "v":
			_, _ = io.WriteString(w, `{"analysisState":"NOT_AFFECTED","analysisJustification":"CODE_NOT_REACHABLE","analysisResponse":"WILL_NOT_FIX","analysisDetails":"only in tests","analysisComments":[],"isSuppressed":true,"suppressionExpiration":1798761600000}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	c := &Client{URL: srv.URL, Key: "k"}
	var all []Finding
	if err := json.Unmarshal([]byte(`[{"component":{"uuid":"c","name":"left-pad","purl":"pkg:npm/left-pad@1.0.0"},"vulnerability":{"uuid":"v","vulnId":"CVE-2024-0001"},"analysis":{"state":"NOT_AFFECTED","isSuppressed":true}},
		{"component":{"uuid":"c","name":"left-pad","purl":"pkg:npm/left-pad@1.0.0"},"vulnerability":{"uuid":"other","vulnId":"CVE-2024-0002"},"analysis":{"isSuppressed":true}},
		{"component":{"name":"left-pad"},"vulnerability":{"vulnId":"CVE-2024-0003"},"analysis":{"isSuppressed":false}}]`), &all); err != nil {
		t.Fatal(err)
	}
	p := Project{UUID: "p", Name: "shop", Version: "1.0"}
	if err := c.Decided(t.Context(), p, &all[0]); err != nil {
		t.Fatal(err)
	}
	s, why := Convert(p, all[0], "team/shop")
	want := &Statement{
		Vulnerability: map[string]string{"name": "CVE-2024-0001"}, Status: "not_affected", Justification: "vulnerable_code_not_in_execute_path", Impact: "only in tests", Until: "2027-01-01T00:00:00Z",
		Products: []Product{
			{ID: "pkg:generic/shop@1.0", Hashes: map[string]string{"sha-256": strings.TrimPrefix(string(sbom.ProjectSubject("shop", "1.0")), "sha256:")}, Subcomponents: []Product{{ID: "pkg:npm/left-pad@1.0.0"}}},
			{ID: "urn:assay:repository:team/shop", Subcomponents: []Product{{ID: "pkg:npm/left-pad@1.0.0"}}},
		},
	}
	if d := cmp.Diff(want, s); d != "" || why != "" {
		t.Error(d, why)
	}
	if err := c.Decided(t.Context(), p, &all[1]); !errors.Is(err, fault.NotFound) {
		t.Errorf("no trail: %v", err)
	}
	if err := c.Decided(t.Context(), p, &all[2]); err != nil {
		t.Errorf("nothing was decided: %v", err)
	}
}
