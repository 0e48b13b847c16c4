package ui_test

import (
	"context"
	"math"

	"assay/ui"
)

// fakeWatch has one of everything.
type fakeWatch struct {
	text string
	none bool
}

func (f *fakeWatch) Indicators(context.Context, string, int) ([]ui.Indicator, error) {
	if f.none {
		return []ui.Indicator{{ID: "m1", Title: "Attested", Share: true, Value: math.NaN(), Goal: math.NaN()}}, nil
	}
	met := false
	return []ui.Indicator{{
		ID: "m1", Title: "Attested " + f.text, Definition: f.text, Of: f.text, Value: .9, Share: true, Good: 9, Total: 10, Unknown: 1, Goal: .95, GoalText: f.text, Met: &met,
		Days: []string{f.text, "b", "c", "d"}, Points: []float64{.5, math.NaN(), .7, .9},
	}}, nil
}

func (f *fakeWatch) Objectives(context.Context) ([]ui.Objective, error) {
	if f.none {
		return nil, nil
	}
	return []ui.Objective{{Name: f.text, Indicator: f.text, Service: f.text, Target: f.text, Value: math.NaN(), Budget: -.2, Burn: []ui.Burn{{Window: f.text, Rate: 14.5, Limit: 14.4}}, State: "page", Runbook: f.text}}, nil
}
