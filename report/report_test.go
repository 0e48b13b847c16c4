package report

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"

	"golang.org/x/net/html"
)

var to = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func answers(path string, query ...string) (string, bool) {
	if path == "audit" {
		switch query[1] {
		case "admission.denied":
			return `{"items":[{"kind":"admission.denied","time":"2026-04-30T10:00:00Z","digest":"sha256:a","cluster":"prod"},{"kind":"admission.denied","time":"2026-04-29T10:00:00Z","digest":"sha256:a","cluster":"prod"}]}`, true
		case "artifact.denied":
			return `{"items":[{"kind":"artifact.denied","time":"2026-04-30T09:00:00Z","digest":"sha256:a","body":{"cause":"rights"}},{"kind":"artifact.denied","time":"2026-04-30T09:00:00Z","digest":"sha256:a","body":{"cause":"gate"}},{"kind":"artifact.denied","time":"2026-04-30T09:00:00Z","digest":"sha256:a","body":{}}]}`, true
		case "workload.denied":
			return `{"items":[{"kind":"workload.denied","time":"2026-04-30T11:00:00Z","digest":"sha256:b"}]}`, true
		case "readiness.probed":
			return `{"items":[{"kind":"readiness.probed","time":"2026-04-30T12:00:00Z","actor":"bob","body":{"name":"restore","status":"pass","found":"in an hour"}}]}`, true
		case "policy.applied":
			return `{"items":[{"kind":"policy.applied","time":"2026-04-02T12:00:00Z","actor":"alice","body":{"name":"release"}}]}`, true
		}
		return `{"items":[]}`, true
	}
	text, ok := map[string]string{
		"slo/status":     `{"items":[{"name":"Signed rate","unit":"ratio","want":"at least 98 %","state":"ok","budget":0.5,"now":{"known":true,"unit":"ratio","value":0.991,"denominator":200,"unknown":3}},{"name":"Time to detect","state":"no data","now":{}}]}`,
		"slo/indicators": `{"items":[{"id":"failed-verifications","known":true,"bad":7,"denominator":90,"by":[{"value":"infrastructure","bad":2},{"value":"security","bad":5},{"value":"taken-back"}]}]}`,
		"risk":           `{"risk":10,"artifacts":7,"findings":3,"production":1,"items":[{"digest":"sha256:c","services":["shop"],"findings":3,"risk":10,"worst":8,"production":true},{"digest":"sha256:d","findings":0}]}`,
		"feeds":          `{"items":[{"name":"osv"}]}`,
		"alerts":         `{"items":[{"title":"<b>x</b>","severity":"page","state":"resolved","since":"2026-04-30T10:00:00Z","acknowledged":"2026-04-30T10:04:00Z"},{"title":"old","state":"resolved","since":"2025-01-01T00:00:00Z"}]}`,
		"exceptions":     `{"items":[{"digest":"sha256:e","kind":"break-glass","state":"approved","reason":"down","until":"2026-05-01T13:00:00Z","requested_at":"2026-05-01T11:00:00Z"},{"digest":"sha256:f","state":"expired","until":"2025-01-01T00:00:00Z"}]}`,
		"keys":           `{"items":[{"name":"log","role":"log","age_seconds":864000,"rotates":"2026-04-01T00:00:00Z"}]}`,
		"robots":         `{"items":[{"name":"ci","tokens":[{"expires":"2026-04-01T00:00:00Z"}]}]}`,
		"documents":      `{"items":[{"kind":"Policy","name":"release","text":"apiVersion: assay/v1\nkind: Policy\nmetadata: {name: release}\nspec:\n  mode: enforce\n  requirements:\n    signatures:\n    - name: who\n      identities: [{issuer: https://i, subject: a}]\n"}]}`,
	}[path]
	return text, ok
}

func ask(_ context.Context, path string, out any, query ...string) error {
	text, ok := answers(path, query...)
	if !ok {
		return fault.Newf(fault.Denied, "%s: not for you", path)
	}
	return json.Unmarshal([]byte(text), out)
}

func TestReports(t *testing.T) {
	for period, want := range map[Period]string{
		Weekly:    "indicators refused findings alerts exceptions",
		Monthly:   "indicators refused findings alerts exceptions keys credentials",
		Quarterly: "indicators refused findings alerts exceptions keys credentials exercises policies readiness",
	} {
		r, err := Make(t.Context(), ask, period, "https://assay.example", to, to)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		by := map[string]*Section{}
		for i := range r.Sections {
			s := &r.Sections[i]
			ids, by[s.ID] = append(ids, s.ID), s
			for _, row := range s.Rows {
				if len(row) != len(s.Columns) {
					t.Errorf("%s: %d cells under %d columns: %q", s.ID, len(row), len(s.Columns), row)
				}
			}
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s has %s, want %s", period, got, want)
		}
		for id, text := range map[string]string{
			"indicators": "1 of 2 objectives are met.", "refused": "7 of 90 verifications failed (infrastructure 2, security 5). Of what was stopped: 5 refusals; 1 requests more were refused for want of a right.", "findings": "3 findings in 7 artifacts, 1 of which run in production.",
			"alerts": "1 alerts, 1 of them pages; 0 are open.", "exceptions": "1 exceptions are in force.", "keys": "1 keys; 1 are past their rotation.",
			"credentials": "1 robots; the tokens of 1 have ended.", "exercises": "1 exercises, probes, backups and rotations.", "policies": "1 policies, 1 of which enforce.",
		} {
			if s := by[id]; s != nil && (s.Summary != text || s.Problem != "") {
				t.Errorf("%s: %q, %q, want %q", id, s.Summary, s.Problem, text)
			}
		}
		if s := by["policies"]; s != nil && (s.Rows[0][3] != "2026-04-02 12:00" || s.Rows[0][4] != "alice") {
			t.Errorf("%q", s.Rows)
		}
	}
	if _, err := Make(t.Context(), ask, "daily", "", to, to); !errors.Is(err, fault.Invalid) {
		t.Errorf("daily: %v", err)
	}
}

// What may not be asked is not known, in each section, and never none.
func TestUnknownIsTold(t *testing.T) {
	nothing := func(context.Context, string, any, ...string) error { return fault.Newf(fault.Denied, "not for you") }
	r, err := Make(t.Context(), nothing, Quarterly, "", to, to)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Sections {
		if s.ID != "readiness" && (s.Summary != "Not known." || s.Problem == "") {
			t.Errorf("%s: %q, %q", s.ID, s.Summary, s.Problem)
		}
	}
}

// TestThreat_UI_HostileReport: texts of others stay texts, and nothing is loaded.
func TestThreat_UI_HostileReport(t *testing.T) {
	r, err := Make(t.Context(), ask, Quarterly, "javascript:alert(1)", to, to)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := html.Parse(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "link", "img", "iframe", "b":
			t.Errorf("has an element %s", n.Data)
		}
		for _, a := range n.Attr {
			if a.Key == "href" || a.Key == "src" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("%s has %s=%q", n.Data, a.Key, a.Val)
			}
		}
	}
	if !strings.Contains(string(b), "&lt;b&gt;x") {
		t.Error("the alert's title is not there")
	}
}

// What is asked about now is not told of a time that was.
func TestAReportOfThePastSaysSo(t *testing.T) {
	r, err := Make(t.Context(), ask, Weekly, "", to, to.AddDate(0, 2, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Sections {
		switch s.ID {
		case "indicators":
			if !strings.Contains(s.Summary, "not at the end of the report's time") {
				t.Error(s.Summary)
			}
		case "refused":
			if s.Summary != "5 refusals; 1 requests more were refused for want of a right." {
				t.Error(s.Summary)
			}
		}
	}
}
