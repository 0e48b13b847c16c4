package lane

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMeasure: what a thread did is processor time, what it waited is not.
func TestMeasure(t *testing.T) {
	done := Measure()
	sum := 0
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
		for i := range 1000 {
			sum += i
		}
	}
	worked := done()
	if worked.CPU <= 0 || worked.CPU > worked.Wall+time.Millisecond || worked.Wall < 20*time.Millisecond || sum == 0 {
		t.Errorf("%+v", worked)
	}
	done = Measure()
	<-time.After(20 * time.Millisecond)
	if waited := done(); waited.CPU > waited.Wall/2 {
		t.Errorf("waiting cost %+v", waited)
	}
}

func TestTurns(t *testing.T) {
	where, args, order := Turn{Tiers: []int{1, 3}}.SQL("asked")
	if diff := cmp.Diff([]any{"tier IN (?, ?, ?, ?)", []any{1, 3, 0, 0}, "tier, asked"}, []any{where, args, order}); diff != "" {
		t.Error(diff)
	}
	if _, _, order := (Turn{ByAge: true}).SQL("asked"); order != "asked" {
		t.Error(order)
	}
	byAge := 0
	for n := range 80 {
		if Next(One{}, n, false).ByAge {
			byAge++
		}
		if turn := Next(One{}, n, true); turn.ByAge || !cmp.Equal(turn.Tiers, []int{1}) {
			t.Errorf("%+v", turn)
		}
	}
	if byAge != 10 {
		t.Errorf("%d of 80 by age", byAge)
	}
}
