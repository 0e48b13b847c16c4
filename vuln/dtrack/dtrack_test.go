package dtrack

import (
	"testing"

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
	if _, why := Convert(Project{Name: "x"}, Finding{Analysis: struct {
		State         string `json:"state"`
		Justification string `json:"justification"`
		Details       string `json:"details"`
		Suppressed    bool   `json:"isSuppressed"`
	}{State: "RESOLVED"}}); why == "" {
		t.Error("a component without a package URL")
	}
}
