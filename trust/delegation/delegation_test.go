package delegation_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/attestation"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

const issuer = "https://issuer.example"

// org is an organisation: its Sigstore and its delegation key.
type org struct {
	t    testing.TB
	w    *trusttest.World
	root *trust.Root
	key  *ecdsa.PrivateKey
	at   time.Time // when things are signed
}

func newOrg(t testing.TB) *org {
	w := trusttest.New(t)
	return &org{t: t, w: w, root: w.Root(t, trust.WithName("own")), key: trusttest.NewKey(t), at: w.Start.Add(2 * time.Minute)}
}

// doc is a delegation that holds, to be changed by the test.
func (o *org) doc(name string, change ...func(*delegation.Document)) *delegation.Document {
	d := &delegation.Document{
		Name: name, Version: 1, Patterns: []string{"payments/**"}, PredicateTypes: []string{delegation.Signatures, attestation.PredicateProvenanceV1},
		Delegates: []delegation.Delegate{{Issuer: issuer, Subject: "ci@payments.example"}},
		NotBefore: o.w.Start, Expires: o.w.Start.AddDate(0, 6, 0), Depth: 2,
	}
	for _, c := range change {
		c(d)
	}
	return d
}

// below narrows doc for a link below.
func below(depth int, pattern, subject string) func(*delegation.Document) {
	return func(d *delegation.Document) {
		d.Depth, d.Patterns = depth, []string{pattern}
		d.Delegates = []delegation.Delegate{{Issuer: issuer, Subject: subject}}
	}
}

// sign makes the bundle: by the organisation's key, or as subject.
func (o *org) sign(d *delegation.Document, subject string) []byte {
	o.t.Helper()
	st, err := d.Statement()
	if err != nil {
		o.t.Fatal(err)
	}
	return o.signStatement(st, subject)
}

func (o *org) signStatement(st *attestation.Statement, subject string) []byte {
	b, err := st.Bytes()
	if err != nil {
		o.t.Fatal(err)
	}
	r := trusttest.Request{Statement: b, Key: o.key, At: o.at}
	if subject != "" {
		r.Key, r.Leaf = nil, trusttest.Leaf{Issuer: issuer, Subject: subject, At: o.at.Add(-time.Minute)}
	}
	return o.w.Draft(o.t, r).JSON(o.t)
}

func (o *org) compile(bundles ...[]byte) *delegation.Set {
	o.t.Helper()
	s, err := delegation.Compile(o.t.Context(), trust.Roots{o.root}, []trust.Key{{Public: o.key.Public()}}, bundles)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

func who(subject string) delegation.Signer {
	return delegation.Signer{Issuer: issuer, Subject: subject}
}

// judged is the name that a signature counts by, or the code of its refusal,
// or "stranger".
func judged(s *delegation.Set, by delegation.Signer, repository, typ string, at, now time.Time) string {
	l, err := s.Judge(by, repository, typ, at, now)
	switch {
	case err != nil:
		return trust.Code(err)
	case l == nil:
		return "stranger"
	}
	return strings.Join(l.Chain(), " > ")
}

func TestJudge(t *testing.T) {
	o := newOrg(t)
	key := trusttest.NewKey(t)
	pem, err := delegation.PEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	fp, _ := trust.KeyFingerprint(key.Public())
	s := o.compile(
		o.sign(o.doc("payments"), ""),
		o.sign(o.doc("payments/cards", below(1, "payments/cards/*", "cards@payments.example")), "ci@payments.example"),
		o.sign(o.doc("payments/cards/fraud", below(0, "payments/cards/fraud", "fraud@payments.example")), "cards@payments.example"),
		o.sign(o.doc("vendor", func(d *delegation.Document) {
			d.Patterns, d.PredicateTypes, d.Depth = []string{"vendor/**", "ghcr.io/vendor/**"}, []string{delegation.AnyType}, 0
			d.Delegates = []delegation.Delegate{{Key: pem}, {Issuer: issuer, SubjectRegexp: `bot-[0-9]+@vendor\.example`}}
		}), ""),
	)
	for _, l := range s.Links() {
		if l.Err != nil {
			t.Errorf("%s: %v", l.Document.Name, l.Err)
		}
	}
	if n := len(s.Keys()); n != 1 {
		t.Errorf("%d keys of delegates", n)
	}
	at, now := o.w.Start.AddDate(0, 1, 0), o.w.Start.AddDate(0, 2, 0)
	const sig, prov = "", attestation.PredicateProvenanceV1
	for i, c := range []struct {
		by        delegation.Signer
		repo, typ string
		at, now   time.Time
		want      string
	}{
		{who("ci@payments.example"), "payments/api", sig, at, now, "payments"},
		{who("ci@payments.example"), "payments/api", attestation.PredicateCosignSign, at, now, "payments"},
		{who("ci@payments.example"), "payments", prov, at, now, "payments"},
		{who("ci@payments.example"), "payments/api", attestation.PredicateSPDX, at, now, delegation.CodeOutside},
		{who("ci@payments.example"), "orders/api", sig, at, now, delegation.CodeOutside},
		{who("ci@payments.example"), "", sig, at, now, delegation.CodeOutside},
		{who("ci@payments.example"), "payments/api", sig, o.w.Start.Add(-time.Second), now, delegation.CodeTime},
		{who("ci@payments.example"), "payments/api", sig, time.Time{}, now, delegation.CodeTime},
		{who("ci@payments.example"), "payments/api", sig, at, o.w.Start.AddDate(0, 7, 0), delegation.CodeExpired},
		{who("cards@payments.example"), "payments/cards/web", sig, at, now, "payments > payments/cards"},
		{who("cards@payments.example"), "payments/api", sig, at, now, "stranger"},
		{who("fraud@payments.example"), "payments/cards/fraud", prov, at, now, "payments > payments/cards > payments/cards/fraud"},
		{who("fraud@payments.example"), "payments/cards/fraud", prov, at, o.w.Start.AddDate(0, 7, 0), "stranger"},
		{who("bot-12@vendor.example"), "vendor/app", "urn:anything", at, now, "vendor"},
		{who("bot-12@vendor.example"), "ghcr.io/vendor/app", sig, at, now, "vendor"},
		{who("bot-12@vendor.example.evil"), "vendor/app", sig, at, now, "stranger"},
		{who("x-bot-12@vendor.example"), "vendor/app", sig, at, now, "stranger"},
		{delegation.Signer{Issuer: "https://other.example", Subject: "ci@payments.example"}, "payments/api", sig, at, now, "stranger"},
		{delegation.Signer{Key: fp}, "vendor/app", sig, at, now, "vendor"},
		{delegation.Signer{Key: fp}, "payments/app", sig, at, now, delegation.CodeOutside},
		{delegation.Signer{Issuer: issuer, Subject: "somebody@else.example", Key: fp}, "vendor/app", sig, at, now, "stranger"}, // the key of a certificate is not a delegate
		{delegation.Signer{}, "vendor/app", sig, at, now, "stranger"},
	} {
		if got := judged(s, c.by, c.repo, c.typ, c.at, c.now); got != c.want {
			t.Errorf("%d: %v for %s of %q: %s, want %s", i, c.by, c.typ, c.repo, got, c.want)
		}
	}
	var none *delegation.Set
	if l, err := none.Judge(who("x"), "a", "", at, now); l != nil || err != nil || none.Keys() != nil || none.Links() != nil {
		t.Error("the nil set says something")
	}
}

// A link that widens what stands above hands out nothing.
func TestThreat_Delegation_Widening(t *testing.T) {
	o := newOrg(t)
	up := o.sign(o.doc("payments", func(d *delegation.Document) { d.Depth = 1 }), "")
	for what, change := range map[string]func(*delegation.Document){
		"another pattern":    func(d *delegation.Document) { d.Patterns = []string{"orders/**"} },
		"a wider pattern":    func(d *delegation.Document) { d.Patterns = []string{"payments/a", "**"} },
		"a sibling's prefix": func(d *delegation.Document) { d.Patterns = []string{"payments-evil/**"} },
		"another type":       func(d *delegation.Document) { d.PredicateTypes = append(d.PredicateTypes, attestation.PredicateVSA) },
		"every type":         func(d *delegation.Document) { d.PredicateTypes = []string{delegation.AnyType} },
		"as deep":            func(d *delegation.Document) { d.Depth = 1 },
		"longer":             func(d *delegation.Document) { d.Expires = d.Expires.Add(time.Second) },
		"earlier":            func(d *delegation.Document) { d.NotBefore = d.NotBefore.Add(-time.Second) },
	} {
		s := o.compile(up, o.sign(o.doc("payments/x", below(0, "payments/x", "x@payments.example"), change), "ci@payments.example"))
		if err := s.Link("payments/x").Err; trust.Code(err) != delegation.CodeInvalid || s.Link("payments").Err != nil {
			t.Errorf("%s: %v, want %s", what, err, delegation.CodeInvalid)
		}
		if got := judged(s, who("x@payments.example"), "payments/x", "", o.at, o.at); got != "stranger" {
			t.Errorf("%s: counts: %s", what, got)
		}
	}
	if s := o.compile(up, o.sign(o.doc("payments/x", below(0, "payments/x", "x@payments.example")), "ci@payments.example")); s.Link("payments/x").Err != nil {
		t.Error("the honest link does not hold: ", s.Link("payments/x").Err)
	}
	// A link whose parent was narrowed later hands out nothing either.
	narrowed := o.sign(o.doc("payments", func(d *delegation.Document) { d.Depth, d.Version, d.Patterns = 1, 2, []string{"payments/api"} }), "")
	if s := o.compile(narrowed, o.sign(o.doc("payments/x", below(0, "payments/x", "x@payments.example")), "ci@payments.example")); s.Link("payments/x").Err == nil {
		t.Error("a link outlives what it stood on")
	}
}

// Links by somebody else, of another key, undated, unlogged, or out of the air.
func TestThreat_Delegation_ForgedChain(t *testing.T) {
	o := newOrg(t)
	up := o.sign(o.doc("payments"), "")
	child := func(depth int) *delegation.Document {
		return o.doc("payments/x", below(depth, "payments/x", "x@payments.example"))
	}
	other := *o
	other.key = trusttest.NewKey(t)
	st, _ := child(0).Statement()
	body, _ := st.Bytes()
	late := *o
	late.at = o.w.Start.AddDate(0, 7, 0)
	for what, bundles := range map[string][][]byte{
		"of another key":             {other.sign(o.doc("payments"), "")},
		"root link by a certificate": {o.sign(o.doc("payments"), "ci@payments.example")},
		"child by a stranger":        {up, o.sign(child(0), "eve@evil.example")},
		"child by itself":            {up, o.sign(child(0), "x@payments.example")},
		"child by the root's key":    {up, o.sign(child(0), "")},
		"child without parent":       {o.sign(child(0), "ci@payments.example")},
		"child after the parent":     {up, late.sign(child(0), "ci@payments.example")},
		"parent has no depth":        {o.sign(o.doc("payments", func(d *delegation.Document) { d.Depth = 0 }), ""), o.sign(child(0), "ci@payments.example")},
		"not logged":                 {o.w.Draft(t, trusttest.Request{Statement: body, Key: o.key, NoLog: true}).JSON(t)},
		"not stamped":                {o.w.Draft(t, trusttest.Request{Statement: body, Key: o.key, NoTSA: true}).JSON(t)},
		"parent removed":             {o.sign(&delegation.Document{Name: "payments", Version: 2, Removed: true}, ""), o.sign(child(0), "ci@payments.example")},
	} {
		s := o.compile(bundles...)
		links := s.Links()
		if last := links[len(links)-1]; trust.Code(last.Err) != delegation.CodeInvalid {
			t.Errorf("%s: %v", what, last.Err)
		}
		for _, subject := range []string{"x@payments.example", "eve@evil.example"} {
			if got := judged(s, who(subject), "payments/x", "", o.at, o.at); got != "stranger" {
				t.Errorf("%s: %s counts: %s", what, subject, got)
			}
		}
	}
	for what, bundles := range map[string][][]byte{
		"twice":       {up, o.sign(o.doc("payments", func(d *delegation.Document) { d.Version = 2 }), "")},
		"no bundle":   {[]byte(`{}`)},
		"other type":  {o.signStatement(&attestation.Statement{Type: attestation.StatementV1, PredicateType: "urn:x", Subject: st.Subject, Predicate: st.Predicate}, "")},
		"other bytes": {o.signStatement(&attestation.Statement{Type: attestation.StatementV1, PredicateType: delegation.PredicateType, Subject: []attestation.Subject{{Digest: map[string]string{"sha256": strings.Repeat("0", 64)}}}, Predicate: st.Predicate}, "")},
	} {
		if _, err := delegation.Compile(t.Context(), trust.Roots{o.root}, []trust.Key{{Public: o.key.Public()}}, bundles); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", what, err)
		}
	}
}

// A team names the organisation's release identity as its own delegate: that
// must not shut it out elsewhere.
// Who is revoked hands nothing on: else a stolen identity would make itself
// another one, which nobody revoked.
func TestThreat_Delegation_ByTheRevoked(t *testing.T) {
	o := newOrg(t)
	bundles := [][]byte{
		o.sign(o.doc("payments"), ""),
		o.sign(o.doc("payments/cards", below(1, "payments/cards/*", "cards@payments.example")), "ci@payments.example"),
	}
	compile := func(since time.Time) *delegation.Set {
		t.Helper()
		set := revocation.NewSet(&revocation.List{Entries: []revocation.Entry{{
			Kind: revocation.Identity, Match: revocation.Exact, Issuer: issuer, Subject: "ci@payments.example", InvalidSince: revocation.At(since), Reason: "stolen",
		}}})
		s, err := delegation.Compile(t.Context(), trust.Roots{o.root}, []trust.Key{{Public: o.key.Public()}}, bundles, set.Check)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	now := o.at.Add(time.Hour)
	for since, want := range map[time.Time]string{o.at.Add(-time.Hour): "stranger", o.at.Add(time.Minute): "payments > payments/cards"} {
		s := compile(since)
		if got := judged(s, who("cards@payments.example"), "payments/cards/a", "", o.at, now); got != want {
			t.Errorf("revoked since %s: counts by %q, want %q", since, got, want)
		}
		if err := s.Link("payments/cards").Err; (err != nil) != (want == "stranger") || err != nil && !strings.Contains(err.Error(), "stolen") {
			t.Errorf("revoked since %s: %v", since, err)
		}
	}
}

func TestThreat_Delegation_ShutsOutOthers(t *testing.T) {
	o := newOrg(t)
	s := o.compile(o.sign(o.doc("payments"), ""), o.sign(o.doc("payments/x", below(0, "payments/x", "release@org.example")), "ci@payments.example"))
	if got := judged(s, who("release@org.example"), "orders/app", "", o.at, o.at); got != "stranger" {
		t.Error("release is refused: ", got)
	}
}

func TestThreat_Delegation_RegexpAnchored(t *testing.T) {
	for _, d := range []delegation.Delegate{
		{Issuer: issuer}, {Subject: "a"}, {Issuer: issuer, Subject: "a", SubjectRegexp: "a"}, {Issuer: issuer, SubjectRegexp: "a)|(b"},
		{Issuer: issuer, SubjectRegexp: strings.Repeat("a", 1025)}, {Key: "x"}, {Key: "x", Issuer: issuer}, {},
	} {
		doc := newOrg(t).doc("x")
		doc.Delegates = []delegation.Delegate{d}
		if _, err := doc.Statement(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

// An older delegation, or set of them, is not taken back.
func TestThreat_Delegation_Rollback(t *testing.T) {
	o := newOrg(t)
	v2 := o.doc("a", func(d *delegation.Document) { d.Version = 2 })
	if err := o.doc("a").Replaces(v2); !errors.Is(err, fault.Conflict) {
		t.Error("an older version: ", err)
	}
	if err := v2.Replaces(v2); !errors.Is(err, fault.Conflict) {
		t.Error("the same version: ", err)
	}
	if err := v2.Replaces(nil); err != nil {
		t.Error(err)
	}
	p := &delegation.Published{Version: 3}
	if err := p.NewerThan(4); !errors.Is(err, fault.Unverified) {
		t.Error("an older set: ", err)
	}
	if err := p.NewerThan(3); err != nil {
		t.Error(err)
	}
}

func TestDocumentRefusals(t *testing.T) {
	o := newOrg(t)
	for what, change := range map[string]func(*delegation.Document){
		"no name":          func(d *delegation.Document) { d.Name = "" },
		"upper case":       func(d *delegation.Document) { d.Name = "A" },
		"climbs":           func(d *delegation.Document) { d.Name = "a/../b" },
		"too deep":         func(d *delegation.Document) { d.Name = "a/b/c/d/e" },
		"depth too deep":   func(d *delegation.Document) { d.Depth = 4 },
		"negative depth":   func(d *delegation.Document) { d.Depth = -1 },
		"version":          func(d *delegation.Document) { d.Version = 0 },
		"no pattern":       func(d *delegation.Document) { d.Patterns = nil },
		"bad pattern":      func(d *delegation.Document) { d.Patterns = []string{"a?"} },
		"no type":          func(d *delegation.Document) { d.PredicateTypes = nil },
		"type twice":       func(d *delegation.Document) { d.PredicateTypes = []string{"urn:a", "urn:a"} },
		"any beside":       func(d *delegation.Document) { d.PredicateTypes = []string{"urn:a", "*"} },
		"short type":       func(d *delegation.Document) { d.PredicateTypes = []string{"provenance"} },
		"no delegate":      func(d *delegation.Document) { d.Delegates = nil },
		"no end":           func(d *delegation.Document) { d.Expires = time.Time{} },
		"no beginning":     func(d *delegation.Document) { d.NotBefore = time.Time{} },
		"ends before":      func(d *delegation.Document) { d.Expires = d.NotBefore },
		"removed and some": func(d *delegation.Document) { d.Removed = true },
		"long reason":      func(d *delegation.Document) { d.Reason = strings.Repeat("x", 1025) },
	} {
		if _, err := o.doc("a", change).Statement(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", what, err)
		}
	}
}

func TestPublished(t *testing.T) {
	o := newOrg(t)
	pem, _ := delegation.PEM(o.key.Public())
	p := &delegation.Published{Version: 7, Keys: []string{pem}}
	p.Bundles = append(p.Bundles, o.sign(o.doc("payments"), ""))
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
	s, err := delegation.Compile(t.Context(), trust.Roots{o.root}, keys, [][]byte{back.Bundles[0]})
	if err != nil || s.Link("payments").Err != nil {
		t.Fatal(err, s.Link("payments").Err)
	}
	for what, text := range map[string]string{
		"unknown member": strings.Replace(string(b), `"schema":`, `"x":1,"schema":`, 1), "schema": strings.Replace(string(b), "assay/delegations/v1", "v2", 1),
		"version": strings.Replace(string(b), `"version":7`, `"version":0`, 1), "twice": strings.Replace(string(b), `"version":7`, `"version":7,"version":8`, 1),
	} {
		if _, err := delegation.ParsePublished([]byte(text)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := delegation.Compile(ctx, trust.Roots{o.root}, keys, [][]byte{back.Bundles[0]}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"name":"a","version":1,"patterns":["a/**"],"predicate_types":["*"],"delegates":[{"issuer":"i","subject":"s"}],"not_before":"2026-01-01T00:00:00Z","expires":"2027-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"name":"a/b","version":2,"removed":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := delegation.ParseDocument(b)
		if err != nil {
			return
		}
		st, err := d.Statement()
		if err != nil {
			t.Fatalf("a document that was read cannot be signed: %v", err)
		}
		if again, err := delegation.ParseDocument(st.Predicate); err != nil || fmt.Sprint(again) != fmt.Sprint(d) {
			t.Fatalf("read again: %v", err)
		}
	})
}
