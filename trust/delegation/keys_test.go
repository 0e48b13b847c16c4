package delegation_test

import (
	"errors"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/trusttest"
)

// The organisation's delegation key has a window, which travels with the key:
// what it signed in it holds under the next key too, what it signed after does
// not, here and offline.
func TestKeyWindows(t *testing.T) {
	o := newOrg(t)
	next := trusttest.NewKey(t)
	old, err := delegation.PEM(o.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := delegation.PEM(next.Public())
	if err != nil {
		t.Fatal(err)
	}
	bundle := o.sign(o.doc("payments"), "")
	for name, c := range map[string]struct {
		start, end time.Time
		ok         bool
	}{
		"open":                {o.w.Start, time.Time{}, true},
		"ended after signing": {o.w.Start, o.at.Add(time.Minute), true},
		"ended before":        {o.w.Start, o.at.Add(-time.Minute), false},
		"not begun":           {o.at.Add(time.Minute), time.Time{}, false},
	} {
		p := &delegation.Published{Version: 1, Keys: []string{old, fresh}, Windows: []delegation.KeyWindow{{Start: c.start, End: c.end}, {Start: o.w.Start}}}
		b, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		back, err := delegation.ParsePublished(b)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := back.PublicKeys()
		if err != nil {
			t.Fatal(err)
		}
		s, err := delegation.Compile(t.Context(), trust.Roots{o.root}, keys, [][]byte{bundle})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Link("payments").Err; (got == nil) != c.ok {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, windows := range map[string][]delegation.KeyWindow{
		"one for two": {{Start: o.w.Start}}, "without a start": {{Start: o.w.Start}, {}},
		"end before start": {{Start: o.w.Start}, {Start: o.at, End: o.w.Start}},
	} {
		p := &delegation.Published{Version: 1, Keys: []string{old, fresh}, Windows: windows}
		b, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		back, err := delegation.ParsePublished(b)
		if err == nil {
			_, err = back.PublicKeys()
		}
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
