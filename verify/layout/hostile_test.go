package layout_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/verify/layout"
)

// TestThreat_Layout_Bounds: a document that is too large, too deep or names too
// many things is refused when it is read, before any signature is looked at.
func TestThreat_Layout_Bounds(t *testing.T) {
	signed := func(body string, sigs int) []byte {
		list := strings.TrimSuffix(strings.Repeat(`{"keyid":"a","sig":"00"},`, sigs), ",")
		return []byte(`{"signed":` + body + `,"signatures":[` + list + `]}`)
	}
	steps := func(n, rules int) string {
		rule := strings.TrimSuffix(strings.Repeat(`["ALLOW","*"],`, rules), ",")
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf(`{"_type":"step","name":"s%d","expected_materials":[],"expected_products":[%s],"pubkeys":[],"expected_command":[],"threshold":1}`, i, rule))
		}
		return `{"_type":"layout","expires":"2040-01-01T00:00:00Z","readme":"","keys":{},"inspect":[],"steps":[` + strings.Join(out, ",") + `]}`
	}
	products := func(n int) string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf(`"f%d":{"sha256":"%064x"}`, i, i))
		}
		return `{"_type":"link","name":"build","command":[],"materials":{},"byproducts":{},"environment":{},"products":{` + strings.Join(out, ",") + `}}`
	}
	if _, err := layout.Parse(signed(products(100), 1)); err != nil {
		t.Fatalf("a link that is small: %v", err)
	}
	for name, b := range map[string][]byte{
		"size":       append(signed(products(1), 1), []byte(strings.Repeat(" ", layout.MaxDocument))...),
		"depth":      signed(`{"_type":"link","name":"x","byproducts":`+strings.Repeat(`[`, 100_000)+strings.Repeat(`]`, 100_000)+`}`, 1),
		"signatures": signed(products(1), 17),
		"steps":      signed(steps(300, 1), 1),
		"rules":      signed(steps(1, 1100), 1),
		"artifacts":  signed(products(1<<16+1), 1),
	} {
		if _, err := layout.Parse(b); !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v, want refused", name, err)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: a message of %d bytes", name, len(err.Error()))
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
