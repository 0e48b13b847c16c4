package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/slo"

	"github.com/google/go-cmp/cmp"
)

func objectives(name, spec string) string {
	return "apiVersion: assay/v1\nkind: Objectives\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

func TestObjectives(t *testing.T) {
	docs := parse(t, objectives("a", "{objectives: {signed-pushes: {target: 0.9, window: 28d, minEvents: 50}, feed-freshness: {off: true}}}"),
		objectives("b", "{objectives: {detection-time: {within: 12h}, builder-incidents: {atMost: 2}}, budget: {exhausted: page}}"))
	d, err := Compile(docs, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[slo.ID]slo.Objective{}
	for _, o := range d.Objectives.All {
		got[o.Indicator] = o
	}
	want := map[slo.ID]slo.Objective{}
	for _, o := range slo.Defaults().All {
		switch o.Indicator {
		case slo.SignedPushes:
			o.Target, o.Window, o.MinEvents = 0.9, 28*24*time.Hour, 50
		case slo.DetectionTime:
			o.Within = 12 * time.Hour
		case slo.BuilderIncidents:
			o.AtMost = 2
		case slo.FeedFreshness:
			continue
		}
		want[o.Indicator] = o
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(slo.BudgetSpec{FalsePositives: "exclude", Outages: "count", Exhausted: "page"}, d.Objectives.Budget); diff != "" {
		t.Errorf("budget: -want +got:\n%s", diff)
	}
}

func TestObjectivesRefused(t *testing.T) {
	for _, tt := range []struct{ name, spec, says string }{
		{"nothing", "{}", "says nothing"},
		{"an unknown indicator", "{objectives: {uptime: {target: 0.9}}}", `"uptime"`},
		{"an unknown member", "{objectives: {signed-pushes: {goal: 0.9}}}", "goal"},
		{"another unit's member", "{objectives: {signed-pushes: {atMost: 1}}}", "want target, found atMost"},
		{"a target of nothing", "{objectives: {signed-pushes: {target: 0}}}", "target 0"},
		{"a target in per cent", "{objectives: {signed-pushes: {target: 95}}}", "target 95"},
		{"a target that is no number", "{objectives: {signed-pushes: {target: .nan}}}", "target NaN"},
		{"a count below nothing", "{objectives: {builder-incidents: {atMost: -1}}}", "0 or more"},
		{"a guard below nothing", "{objectives: {signed-pushes: {minBad: -1}}}", "0 or more"},
		{"a window too short", "{objectives: {signed-pushes: {window: 1h}}}", "1d to 90d"},
		{"a window too long", "{objectives: {signed-pushes: {window: 91d}}}", "1d to 90d"},
		{"days that are none", "{objectives: {signed-pushes: {window: 1.5d}}}", "30d"},
		{"days beyond counting", "{objectives: {signed-pushes: {window: 99999999999999999999d}}}", "30d"},
		{"a time backwards", "{objectives: {detection-time: {within: -1h}}}", "30d"},
		{"a policy that is none", "{budget: {exhausted: shout}}", "want ticket or page"},
	} {
		_, err := ParseDocuments([]byte(objectives("o", tt.spec)))
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want invalid saying %q", tt.name, err, tt.says)
		}
	}
	for _, two := range []string{"{objectives: {signed-pushes: {target: 0.9}}}", "{budget: {exhausted: page}}"} {
		if _, err := Compile(parse(t, objectives("a", two), objectives("b", two)), nil); !errors.Is(err, fault.Conflict) {
			t.Errorf("%s in two documents: %v, want a conflict", two, err)
		}
	}
}

// Whatever is taken is in bounds, and can be judged.
func FuzzObjectives(f *testing.F) {
	f.Add("{objectives: {signed-pushes: {target: 0.9, window: 28d}}}")
	f.Add("{objectives: {detection-time: {within: 12h, minEvents: 3}}, budget: {exhausted: page}}")
	f.Add("{objectives: {signed-pushes: {target: .nan}}}")
	f.Fuzz(func(t *testing.T, spec string) {
		docs, err := ParseDocuments([]byte(objectives("o", spec)))
		if err != nil || len(docs) != 1 || docs[0].Objectives == nil {
			return
		}
		got, err := slo.Compile(map[string]slo.Spec{"o": *docs[0].Objectives})
		if err != nil {
			t.Fatalf("valid and yet not compiled: %v", err)
		}
		for _, o := range got.All {
			if o.Window < 24*time.Hour || o.Window > 90*24*time.Hour || !(o.Target >= 0 && o.Target <= 1) || o.Within < 0 || o.AtMost < 0 || o.MinEvents < 0 || o.MinBad < 0 {
				t.Fatalf("out of bounds: %+v", o)
			}
		}
		if _, err := slo.PrometheusRules(got); err != nil {
			t.Fatal(err)
		}
	})
}
