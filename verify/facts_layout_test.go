package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/policy"
	"assay/trust"
	"assay/trust/trusttest"
)

func publicPEM(t testing.TB, k *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// signedLayout has two steps: write makes src, build makes app of it.
func signedLayout(t testing.TB, owner, writer, builder *ecdsa.PrivateKey, expires time.Time, inspect ...any) string {
	t.Helper()
	key := func(k *ecdsa.PrivateKey) map[string]any {
		return map[string]any{"keyid": "x", "keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": map[string]any{"public": publicPEM(t, k)}}
	}
	step := func(name, by string, materials, products [][]string) map[string]any {
		return map[string]any{"_type": "step", "name": name, "pubkeys": []string{by}, "expected_command": []string{}, "threshold": 1, "expected_materials": materials, "expected_products": products}
	}
	b, err := json.Marshal(map[string]any{
		"_type": "layout", "expires": expires.UTC().Format(time.RFC3339), "readme": "", "inspect": append([]any{}, inspect...),
		"keys": map[string]any{"w": key(writer), "b": key(builder)},
		"steps": []any{
			step("write", "w", [][]string{}, [][]string{{"CREATE", "src"}, {"DISALLOW", "*"}}),
			step("build", "b", [][]string{{"MATCH", "src", "WITH", "PRODUCTS", "FROM", "write"}, {"DISALLOW", "*"}}, [][]string{{"CREATE", "app"}, {"DISALLOW", "*"}}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	env, err := attestation.SignDSSE(t.Context(), owner, attestation.PayloadType, b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := env.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func linkOf(t testing.TB, w *world, by *ecdsa.PrivateKey, step, product string, of []byte, materials map[string][]byte, at time.Time) Item {
	t.Helper()
	list := []any{}
	for name, m := range materials {
		list = append(list, map[string]any{"name": name, "digest": artifact.SHA256Of(m).Set()})
	}
	raw, err := json.Marshal(map[string]any{"name": step, "command": []string{}, "materials": list})
	if err != nil {
		t.Fatal(err)
	}
	s, err := attestation.NewStatement(attestation.PredicateLink, json.RawMessage(raw), attestation.Subject{Name: product, Digest: artifact.SHA256Of(of).Set()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return item(w.Sign(t, trusttest.Request{Statement: b, Key: by, At: at}))
}

func layoutPolicyOf(t testing.TB, layout string, owner *ecdsa.PrivateKey, more string) *policy.Policy {
	t.Helper()
	return parse(t, policyHead+fmt.Sprintf("  requirements:\n    layouts: [{name: made, layout: %q, owners: [%q]}]\n", layout, publicPEM(t, owner))+more)
}

func TestThreat_Layout_Facts(t *testing.T) {
	w := newWorld(t)
	owner, writer, builder, stranger := trusttest.NewKey(t), trusttest.NewKey(t), trusttest.NewKey(t), trusttest.NewKey(t)
	src, evil := []byte("source"), []byte("evil source")
	far := w.now().Add(24 * time.Hour)
	good := signedLayout(t, owner, writer, builder, far)
	at := w.Start.Add(2 * time.Minute)
	write := linkOf(t, w, writer, "write", "src", src, nil, at)
	build := linkOf(t, w, builder, "build", "app", content, map[string][]byte{"src": src}, at)
	for name, c := range map[string]struct {
		layout string
		more   string
		items  Items
		want   string // part of the reason; "": followed
	}{
		"followed":                 {good, "", Items{write, build}, ""},
		"whatever else is there":   {good, "", Items{linkOf(t, w, stranger, "build", "app", content, nil, at), linkOf(t, w, writer, "write", "src", evil, nil, at), write, build, w.sign(alice, content)}, ""},
		"no link":                  {good, "", Items{}, "0 of 1 links"},
		"a step is missing":        {good, "", Items{build}, "step write: 0 of 1 links"},
		"by somebody else":         {good, "", Items{write, linkOf(t, w, stranger, "build", "app", content, map[string][]byte{"src": src}, at)}, "step build: 0 of 1 links"},
		"by another functionary":   {good, "", Items{write, linkOf(t, w, writer, "build", "app", content, map[string][]byte{"src": src}, at)}, "step build: 0 of 1 links"},
		"made of something else":   {good, "", Items{write, linkOf(t, w, builder, "build", "app", content, map[string][]byte{"src": evil}, at)}, "step write: 0 of 1 links"},
		"more went in":             {good, "", Items{write, linkOf(t, w, builder, "build", "app", content, map[string][]byte{"src": src, "evil": evil}, at)}, `"evil" is disallowed`},
		"another artifact":         {good, "", Items{write, linkOf(t, w, builder, "build", "app", []byte("another"), map[string][]byte{"src": src}, at)}, "0 of 1 links"},
		"another's layout":         {signedLayout(t, stranger, writer, builder, far), "", Items{write, build}, "not signed by key"},
		"expired":                  {signedLayout(t, owner, writer, builder, w.now()), "", Items{write, build}, "expired"},
		"inspections":              {signedLayout(t, owner, writer, builder, far, map[string]any{"_type": "inspection", "name": "look", "run": []string{"true"}}), "", Items{write, build}, "none is run here"},
		"links are too old":        {good, "    maxAge: 10m\n", Items{write, build}, "links do not count: older than 10m0s"},
		"links are not stamped":    {good, "    requireTimestamp: true\n", Items{write, item(w.Sign(t, trusttest.Request{Statement: stmt(t, src), Key: builder, NoTSA: true}))}, "0 of 1 links"},
		"a layout that is no JSON": {"x", "", Items{write, build}, "in-toto metadata"},
	} {
		p := layoutPolicyOf(t, c.layout, owner, c.more)
		g := &gathering{target: target(content), verifier: w.verifier(writer, builder, stranger), policy: p}
		if err := g.gather(t.Context(), c.items, policy.Scope{ID: "x"}, false, w.now()); err != nil {
			t.Fatal(err)
		}
		g.facts.Normalize()
		f := g.facts.Layouts[0]
		if f.Followed != (c.want == "") || !strings.Contains(f.Reason, c.want) {
			t.Errorf("%s: %+v, want %q", name, f, c.want)
		}
		if r, err := p.Evaluate(t.Context(), g.facts, w.now()); err != nil || (r.Verdict == policy.Allow) != f.Followed {
			t.Errorf("%s: %+v %v", name, r, err)
		}
		if f.Followed && (!g.expires.Equal(far) || len(f.Steps) != 2 || !slices.Equal(f.Steps[1].Functionaries, []string{fingerprint(t, builder)})) {
			t.Errorf("%s: %+v until %s", name, f, g.expires)
		}
		if b, err := g.facts.Canonical(); err != nil || len(b) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func stmt(t testing.TB, src []byte) []byte {
	return statement(t, content, attestation.PredicateLink, map[string]any{"name": "build", "materials": []any{map[string]any{"name": "src", "digest": artifact.SHA256Of(src).Set()}}})
}

func fingerprint(t testing.TB, k *ecdsa.PrivateKey) string {
	t.Helper()
	fp, err := trust.KeyFingerprint(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return fp
}

// A key that is trusted no more signs no step, whatever the layout says.
func TestThreat_Layout_FunctionaryRevoked(t *testing.T) {
	w := newWorld(t)
	owner, writer, builder := trusttest.NewKey(t), trusttest.NewKey(t), trusttest.NewKey(t)
	src := []byte("source")
	at := w.Start.Add(2 * time.Minute)
	items := Items{linkOf(t, w, writer, "write", "src", src, nil, at), linkOf(t, w, builder, "build", "app", content, map[string][]byte{"src": src}, at)}
	p := layoutPolicyOf(t, signedLayout(t, owner, writer, builder, w.now().Add(time.Hour)), owner, "")
	g := &gathering{target: target(content), verifier: w.verifier(builder), policy: p}
	if err := g.gather(t.Context(), items, policy.Scope{ID: "x"}, false, w.now()); err != nil {
		t.Fatal(err)
	}
	if f := g.facts.Layouts[0]; f.Followed || !strings.Contains(f.Reason, "step write") {
		t.Errorf("%+v", f)
	}
}

// TestThreat_Layout_LinksWithoutEnd: a link that names thousands of materials
// costs a bounded number of look-ups, and what was not looked at is said.
func TestThreat_Layout_LinksWithoutEnd(t *testing.T) {
	w := newWorld(t)
	owner, writer, builder := trusttest.NewKey(t), trusttest.NewKey(t), trusttest.NewKey(t)
	materials := map[string][]byte{}
	for n := range 4 * maxLinkDigests {
		materials[fmt.Sprint("m", n)] = fmt.Append(nil, "m", n)
	}
	src := &counted{Items: Items{linkOf(t, w, builder, "build", "app", content, materials, w.Start.Add(2*time.Minute))}}
	p := layoutPolicyOf(t, signedLayout(t, owner, writer, builder, w.now().Add(time.Hour)), owner, "")
	g := &gathering{target: target(content), verifier: w.verifier(writer, builder), policy: p}
	if err := g.gather(t.Context(), src, policy.Scope{ID: "x"}, false, w.now()); err != nil {
		t.Fatal(err)
	}
	if f := g.facts.Layouts[0]; f.Followed || !strings.Contains(f.Reason, "not all links were looked at") {
		t.Errorf("%+v", f)
	}
	if src.n > maxLinkDigests+2 {
		t.Errorf("%d look-ups", src.n)
	}
}

// counted counts look-ups.
type counted struct {
	Items
	n int
}

func (c *counted) Evidence(ctx context.Context, d artifact.Digest) ([]Item, bool, error) {
	c.n++
	return c.Items.Evidence(ctx, d)
}

func TestCheckLayouts(t *testing.T) {
	owner, k := trusttest.NewKey(t), trusttest.NewKey(t)
	far := time.Now().Add(time.Hour)
	if err := CheckLayouts(layoutPolicyOf(t, signedLayout(t, owner, k, k, far), owner, "")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"x", `{"signed":{"_type":"link","name":"x"},"signatures":[]}`, signedLayout(t, owner, k, k, far, map[string]any{"run": []string{"x"}})} {
		if err := CheckLayouts(layoutPolicyOf(t, bad, owner, "")); !errors.Is(err, fault.Invalid) {
			t.Errorf("%.40s: %v", bad, err)
		}
	}
}
