package verify

import "testing"

// A score that is over a bound of two figures is over it in the facts, too.
func TestThreat_Vuln_ScoreRoundedBelowItsBound(t *testing.T) {
	for p, want := range map[float64]float64{0: 0, -1: 0, 0.5: 0.5, 0.5004: 0.51, 0.004: 0.004, 0.00412: 0.0042, 0.001: 0.001, 0.07: 0.07, 0.29: 0.29, 0.994: 1, 1: 1, 0.00001: 0.00001} {
		if got := twoFigures(p); got != want {
			t.Errorf("%v: %v, want %v", p, got, want)
		}
	}
}
