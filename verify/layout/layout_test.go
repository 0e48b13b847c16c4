package layout_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/verify/layout"

	"github.com/in-toto/in-toto-golang/in_toto"
)

// person is somebody with a key, as in-toto's own library loads it.
type person struct {
	key    in_toto.Key
	pub    crypto.PublicKey
	signer crypto.Signer
}

func newPerson(t testing.TB, kind string) person {
	t.Helper()
	var signer crypto.Signer
	var err error
	switch kind {
	case "rsa":
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ecdsa":
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	p := person{pub: signer.Public(), signer: signer}
	if err := p.key.LoadKeyReaderDefaults(bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p person) public() in_toto.Key {
	k := p.key
	k.KeyVal.Private = ""
	return k
}

func hashOf(content string) in_toto.HashObj {
	sum := sha256.Sum256([]byte(content))
	return in_toto.HashObj{"sha256": hex.EncodeToString(sum[:])}
}

func files(list ...string) map[string]in_toto.HashObj {
	out := map[string]in_toto.HashObj{}
	for _, f := range list {
		name, content, _ := strings.Cut(f, "=")
		out[name] = hashOf(content)
	}
	return out
}

func sign(t testing.TB, payload any, dsse bool, by ...person) []byte {
	t.Helper()
	if dsse {
		return envelope(t, payload, by...)
	}
	m := &in_toto.Metablock{Signed: payload}
	for _, p := range by {
		if err := m.Sign(p.key); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "m")
	if err := m.Dump(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func link(name string, materials, products map[string]in_toto.HashObj) in_toto.Link {
	return in_toto.Link{Type: "link", Name: name, Materials: materials, Products: products, Command: []string{"make"}, ByProducts: map[string]any{}, Environment: map[string]any{}}
}

func step(name string, threshold int, materials, products [][]string, by ...person) in_toto.Step {
	s := in_toto.Step{Type: "step", Threshold: threshold, ExpectedCommand: []string{"make"}, SupplyChainItem: in_toto.SupplyChainItem{Name: name, ExpectedMaterials: materials, ExpectedProducts: products}}
	for _, p := range by {
		s.PubKeys = append(s.PubKeys, p.key.KeyID)
	}
	return s
}

func layoutOf(steps []in_toto.Step, people ...person) in_toto.Layout {
	l := in_toto.Layout{Type: "layout", Steps: steps, Inspect: []in_toto.Inspection{}, Keys: map[string]in_toto.Key{}, Expires: "2099-01-02T15:04:05Z", Readme: "a\ntest \"x\""}
	for _, p := range people {
		l.Keys[p.key.KeyID] = p.public()
	}
	return l
}

// chain is a layout with its links, as files that both verifiers read.
type chain struct {
	layout []byte
	links  map[string][]byte // by file name
	owner  person
	params map[string]string
}

func (c chain) ours(skip bool) (*layout.Outcome, error) {
	m, err := layout.Parse(c.layout)
	if err != nil {
		return nil, err
	}
	in := layout.Input{Layout: m, Owners: []crypto.PublicKey{c.owner.pub}, Links: map[string][]layout.Document{}, Parameters: c.params, Now: time.Now(), SkipInspections: skip}
	for name, b := range c.links {
		dir := filepath.Dir(name)
		if dir == "." {
			dir = ""
		}
		in.Links[dir] = append(in.Links[dir], layout.Document{Name: name, Body: b})
	}
	return layout.Verify(in)
}

// theirs is the verdict of in-toto's own library.
func (c chain) theirs(t testing.TB) error {
	t.Helper()
	dir := t.TempDir()
	for name, b := range c.links {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "root.layout")
	if err := os.WriteFile(path, c.layout, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := in_toto.LoadMetadata(path)
	if err != nil {
		return err
	}
	params := c.params
	if params == nil {
		params = map[string]string{}
	}
	_, err = in_toto.InTotoVerify(m, map[string]in_toto.Key{c.owner.key.KeyID: c.owner.public()}, dir, "", params, nil, false)
	return err
}

// Rules of all verbs, in metadata blocks and in envelopes, with keys of all
// kinds: our verdict is that of in-toto's own library.
func TestAgreesWithInToto(t *testing.T) {
	owner, dev, ci := newPerson(t, "rsa"), newPerson(t, "ecdsa"), newPerson(t, "ed25519")
	type rules = [][]string
	for name, c := range map[string]struct {
		materials, products rules // of the second step
		in, out             map[string]in_toto.HashObj
		want                bool
	}{
		"match all":                    {rules{{"MATCH", "*", "WITH", "PRODUCTS", "FROM", "write"}, {"DISALLOW", "*"}}, rules{{"CREATE", "app"}, {"ALLOW", "*.c"}, {"DISALLOW", "*"}}, files("a.c=1", "src/b.c=2"), files("a.c=1", "src/b.c=2", "app=3"), true},
		"swapped":                      {rules{{"MATCH", "*", "WITH", "PRODUCTS", "FROM", "write"}, {"DISALLOW", "*"}}, nil, files("a.c=evil"), files("app=3"), false},
		"a star reaches into folders":  {rules{{"DISALLOW", "*"}}, nil, files("deep/er/x=1"), files("app=3"), false},
		"a file more":                  {rules{{"MATCH", "*", "WITH", "PRODUCTS", "FROM", "write"}, {"DISALLOW", "*"}}, nil, files("a.c=1", "x.c=1"), files("app=3"), false},
		"left over is allowed":         {rules{{"MATCH", "*", "WITH", "PRODUCTS", "FROM", "write"}}, nil, files("x.c=1"), files("app=3"), true},
		"no rules":                     {nil, nil, files("x.c=1"), files("app=3"), true},
		"create of what was there":     {nil, rules{{"CREATE", "*"}, {"DISALLOW", "*"}}, files("app=3"), files("app=3"), false},
		"create":                       {nil, rules{{"CREATE", "*"}, {"DISALLOW", "*"}}, files("a.c=1"), files("app=3"), true},
		"delete":                       {rules{{"DELETE", "a.c"}, {"DISALLOW", "*"}}, nil, files("a.c=1"), files("app=3"), true},
		"delete of what stays":         {rules{{"DELETE", "a.c"}, {"DISALLOW", "*"}}, nil, files("a.c=1"), files("a.c=1"), false},
		"modify":                       {nil, rules{{"MODIFY", "a.c"}, {"DISALLOW", "*"}}, files("a.c=1"), files("a.c=2"), true},
		"modify of what is the same":   {nil, rules{{"MODIFY", "a.c"}, {"DISALLOW", "*"}}, files("a.c=1"), files("a.c=1"), false},
		"require":                      {nil, rules{{"REQUIRE", "app"}, {"ALLOW", "*"}}, files("a.c=1"), files("app=1"), true},
		"require of what is not there": {nil, rules{{"REQUIRE", "app"}}, files("a.c=1"), files("ap=1"), false},
		"require after it is gone":     {nil, rules{{"ALLOW", "app"}, {"REQUIRE", "app"}}, files("a.c=1"), files("app=1"), false},
		"disallow first":               {nil, rules{{"DISALLOW", "*.o"}, {"ALLOW", "*"}}, files("a.c=1"), files("x/y.o=1"), false},
		"lower case":                   {nil, rules{{"create", "app"}, {"disallow", "*"}}, files("a.c=1"), files("app=1"), true},
		"prefixes":                     {rules{{"MATCH", "*", "IN", "dl", "WITH", "PRODUCTS", "IN", "src", "FROM", "write"}, {"DISALLOW", "*"}}, nil, files("dl/b.c=2"), files("app=1"), true},
		"prefixes, swapped":            {rules{{"MATCH", "*", "IN", "dl/", "WITH", "PRODUCTS", "IN", "src/", "FROM", "write"}, {"DISALLOW", "*"}}, nil, files("dl/b.c=9"), files("app=1"), false},
		"match of materials":           {rules{{"MATCH", "spec", "WITH", "MATERIALS", "FROM", "write"}, {"DISALLOW", "*"}}, nil, files("spec=0"), files("app=1"), true},
		"question mark":                {nil, rules{{"ALLOW", "ap?"}, {"DISALLOW", "*"}}, files("a.c=1"), files("app=1"), true},
		"question mark is one":         {nil, rules{{"ALLOW", "ap?"}, {"DISALLOW", "*"}}, files("a.c=1"), files("appp=1"), false},
		"parameter":                    {nil, rules{{"ALLOW", "{NAME}-1"}, {"DISALLOW", "*"}}, files("a.c=1"), files("app-1=1"), true},
		"clean names":                  {rules{{"MATCH", "./a.c", "WITH", "PRODUCTS", "FROM", "write"}, {"DISALLOW", "*"}}, nil, files("./a.c=1"), files("app=1"), true},
	} {
		for _, dsse := range []bool{false, true} {
			l := layoutOf([]in_toto.Step{
				step("write", 1, nil, rules{{"CREATE", "*"}, {"DISALLOW", "*"}}, dev), step("build", 1, c.materials, c.products, ci),
			}, dev, ci)
			k := chain{
				layout: sign(t, l, dsse, owner), owner: owner, params: map[string]string{"NAME": "app"},
				links: map[string][]byte{
					fmt.Sprintf("write.%.8s.link", dev.key.KeyID): sign(t, link("write", files("spec=0"), files("a.c=1", "src/b.c=2")), dsse, dev),
					fmt.Sprintf("build.%.8s.link", ci.key.KeyID):  sign(t, link("build", c.in, c.out), dsse, ci),
				},
			}
			out, err := k.ours(false)
			if (err == nil) != c.want || err == nil && !out.Verified {
				t.Errorf("%s (envelope: %v): %v, want %v", name, dsse, err, c.want)
			}
			if theirs := k.theirs(t); (theirs == nil) != (err == nil) {
				t.Errorf("%s (envelope: %v): in-toto says %v, we say %v", name, dsse, theirs, err)
			}
		}
	}
}

// Thresholds count distinct keys, links by others do not count, layouts expire
// and must be signed by their owner; sublayouts are followed: in agreement with
// in-toto's library.
func TestWhoSigned(t *testing.T) {
	owner, a, b, eve := newPerson(t, "rsa"), newPerson(t, "ecdsa"), newPerson(t, "ed25519"), newPerson(t, "ecdsa")
	in, out := files("a=1"), files("app=2")
	file := func(p person) string { return fmt.Sprintf("build.%.8s.link", p.key.KeyID) }
	two := func(threshold int) in_toto.Layout {
		return layoutOf([]in_toto.Step{step("build", threshold, nil, nil, a, b)}, a, b)
	}
	expired := two(1)
	expired.Expires = "2020-01-02T15:04:05Z"
	signed := func(l in_toto.Layout, links map[string][]byte) chain {
		return chain{layout: sign(t, l, false, owner), owner: owner, links: links}
	}
	by := func(p person) []byte { return sign(t, link("build", in, out), false, p) }
	sub := layoutOf([]in_toto.Step{step("compile", 1, nil, [][]string{{"CREATE", "app"}, {"DISALLOW", "*"}}, b)}, b)
	subFiles := func(products map[string]in_toto.HashObj) map[string][]byte {
		return map[string][]byte{
			file(a): sign(t, sub, false, a),
			fmt.Sprintf("build.%.8s/compile.%.8s.link", a.key.KeyID, b.key.KeyID): sign(t, link("compile", in, products), false, b),
		}
	}
	for name, c := range map[string]struct {
		chain chain
		want  bool
	}{
		"one of two":             {signed(two(1), map[string][]byte{file(a): by(a)}), true},
		"two of two":             {signed(two(2), map[string][]byte{file(a): by(a), file(b): by(b)}), true},
		"one for two":            {signed(two(2), map[string][]byte{file(a): by(a)}), false},
		"one twice for two":      {signed(two(2), map[string][]byte{file(a): by(a), file(b): by(a)}), false},
		"they disagree":          {signed(two(2), map[string][]byte{file(a): by(a), file(b): sign(t, link("build", in, files("app=evil")), false, b)}), false},
		"a stranger":             {signed(two(1), map[string][]byte{file(a): by(eve)}), false},
		"a link of another step": {signed(two(1), map[string][]byte{file(a): sign(t, link("test", in, out), false, a)}), false},
		"expired":                {signed(expired, map[string][]byte{file(a): by(a)}), false},
		"another owner":          {chain{layout: sign(t, two(1), false, eve), owner: owner, links: map[string][]byte{file(a): by(a)}}, false},
		"altered":                {chain{layout: bytes.Replace(sign(t, two(2), false, owner), []byte(`"threshold": 2`), []byte(`"threshold": 1`), 1), owner: owner, links: map[string][]byte{file(a): by(a)}}, false},
		"no links":               {signed(two(1), nil), false},
		"sublayout":              {signed(two(1), subFiles(out)), true},
		"sublayout not followed": {signed(two(1), subFiles(files("app=2", "more=1"))), false},
	} {
		got, err := c.chain.ours(false)
		if (err == nil) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err != nil && !errors.Is(err, fault.Unverified) {
			t.Errorf("%s: %v is no refusal", name, err)
		}
		if err == nil && !got.Has(artifact.DigestSet(hashOf("2"))) {
			t.Errorf("%s: the product is not among %v", name, got.Products)
		}
		if name == "a link of another step" {
			continue // their loader takes a link's name from its file
		}
		if theirs := c.chain.theirs(t); (theirs == nil) != (err == nil) {
			t.Errorf("%s: in-toto says %v, we say %v", name, theirs, err)
		}
	}
}

// Inspections are never executed: refused, or skipped and then not verified.
func TestThreat_Layout_InspectionsExecuteNothing(t *testing.T) {
	owner, a := newPerson(t, "ecdsa"), newPerson(t, "ecdsa")
	proof := filepath.Join(t.TempDir(), "ran")
	l := layoutOf([]in_toto.Step{step("build", 1, nil, nil, a)}, a)
	l.Inspect = []in_toto.Inspection{{Type: "inspection", Run: []string{"touch", proof}, SupplyChainItem: in_toto.SupplyChainItem{Name: "x"}}}
	c := chain{layout: sign(t, l, true, owner), owner: owner, links: map[string][]byte{"build.x.link": sign(t, link("build", files("a=1"), files("b=1")), true, a)}}
	if _, err := c.ours(false); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "inspections") {
		t.Errorf("%v", err)
	}
	if out, err := c.ours(true); err != nil || out.Verified || out.Inspections != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("a command was run")
	}
}

// What implementations read differently, and what matches nothing by mistake, is
// refused (CVE-2021-41087).
func TestThreat_Layout_GlobGrammarDiffers(t *testing.T) {
	owner, a := newPerson(t, "ecdsa"), newPerson(t, "ecdsa")
	for _, rule := range [][]string{
		{"DISALLOW", "[a-z]"}, {"ALLOW", `a\*`}, {"DISALLOW", "[!a]"}, {"ALLOW", ""}, {"ALLOW"}, {"ALLOW", "a", "b"}, {"FORBID", "a"}, {"REQUIRE", "a*"},
		{"MATCH", "*", "WITH", "PRODUCTS"}, {"MATCH", "*", "WITH", "THINGS", "FROM", "build"}, {"MATCH", "*", "WITH", "PRODUCTS", "FROM", "nosuch"},
		{"DISALLOW", "{UNKNOWN}"}, {"MATCH", "*", "IN", "WITH", "PRODUCTS", "FROM", "build"},
	} {
		l := layoutOf([]in_toto.Step{step("build", 1, nil, [][]string{rule}, a)}, a)
		c := chain{layout: envelope(t, l, owner), owner: owner, links: map[string][]byte{"build.x.link": sign(t, link("build", files("a=1"), files("b=1")), true, a)}}
		if _, err := c.ours(false); !errors.Is(err, fault.Invalid) {
			t.Errorf("%v: %v, want invalid", rule, err)
		}
	}
}

// envelope signs plain JSON: the library's own envelopes hold canonical JSON,
// which is none where a key has line ends, and which it does not read itself.
func envelope(t testing.TB, payload any, by ...person) []byte {
	t.Helper()
	body, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	type signature struct {
		KeyID string `json:"keyid"`
		Sig   []byte `json:"sig"`
	}
	e := struct {
		PayloadType string      `json:"payloadType"`
		Payload     []byte      `json:"payload"`
		Signatures  []signature `json:"signatures"`
	}{attestation.PayloadType, body, nil}
	pae := attestation.PAE(e.PayloadType, body)
	sum := sha256.Sum256(pae)
	for _, p := range by {
		var sig []byte
		switch k := p.signer.(type) {
		case *rsa.PrivateKey:
			sig, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: sha256.Size})
		case *ecdsa.PrivateKey:
			sig, err = ecdsa.SignASN1(rand.Reader, k, sum[:])
		case ed25519.PrivateKey:
			sig = ed25519.Sign(k, pae)
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Signatures = append(e.Signatures, signature{p.key.KeyID, sig})
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzParse(f *testing.F) {
	owner, a := newPerson(f, "ecdsa"), newPerson(f, "ed25519")
	l := layoutOf([]in_toto.Step{step("build", 1, [][]string{{"MATCH", "*", "WITH", "PRODUCTS", "FROM", "build"}}, nil, a)}, a)
	f.Add(sign(f, l, false, owner))
	f.Add(sign(f, l, true, owner))
	f.Add(sign(f, link("build", files("a=1"), files("b=1")), false, a))
	f.Add([]byte(`{"signed":{"_type":"layout"},"signatures":[{"keyid":"","sig":"00"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := layout.Parse(b)
		if err != nil {
			if fault.HTTPStatus(err)/100 != 4 {
				t.Fatalf("%v is no word on the document", err)
			}
			return
		}
		if m.Layout == nil {
			return
		}
		_, _ = layout.Verify(layout.Input{Layout: m, Owners: []crypto.PublicKey{owner.pub}, Now: time.Now(), Links: map[string][]layout.Document{"": {{Name: "x", Body: b}}}})
	})
}
