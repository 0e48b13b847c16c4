package layout_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/verify/layout"

	"github.com/in-toto/in-toto-golang/in_toto"
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

// TestThreat_Layout_Nested: layouts within layouts are followed so deep and no
// deeper, also one that stands in its own place; and so many, whoever signed them.
func TestThreat_Layout_Nested(t *testing.T) {
	owner, p := newPerson(t, "ed25519"), newPerson(t, "ed25519")
	nested := layoutOf([]in_toto.Step{step("s", 1, nil, nil, p)}, p)
	folder := fmt.Sprintf("s.%.8s", p.key.KeyID)
	for depth := 1; depth <= 6; depth++ {
		c := chain{layout: sign(t, nested, false, owner), owner: owner, links: map[string][]byte{}}
		dir := ""
		for range depth {
			c.links[dir+folder+".link"] = sign(t, nested, false, p)
			dir += folder + "/"
		}
		c.links[dir+folder+".link"] = sign(t, link("s", nil, files("app=1")), false, p)
		_, err := c.ours(false)
		if depth <= 3 && err != nil || depth > 3 && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%d deep: %v", depth, err)
		}
	}

	// One document of many steps, signed by many, in every place.
	var people []person
	for range 8 {
		people = append(people, newPerson(t, "ed25519"))
	}
	wide := layoutOf([]in_toto.Step{step("a", 1, nil, nil, people...), step("b", 1, nil, nil, people...)}, people...)
	c := chain{layout: sign(t, wide, false, owner), owner: owner, links: map[string][]byte{}}
	body := sign(t, wide, false, people...)
	done := map[string][]byte{"a": sign(t, link("a", nil, files("app=1")), false, people[0]), "b": sign(t, link("b", nil, files("app=1")), false, people[0])}
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range []string{"a", "b"} {
			if depth == 3 {
				c.links[dir+name+".x.link"] = done[name]
				continue
			}
			c.links[dir+name+".x.link"] = body
			for _, p := range people {
				fill(fmt.Sprintf("%s%s.%.8s/", dir, name, p.key.KeyID), depth+1)
			}
		}
	}
	fill("", 0)
	start := time.Now()
	if _, err := c.ours(false); !errors.Is(err, fault.TooLarge) {
		t.Errorf("%d documents: %v, want too many", len(c.links), err)
	}
	t.Logf("%d documents in %s", len(c.links), time.Since(start))
}
