package verify

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/policy"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/foreign"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

// imported is a foreign root of a world.
func imported(t testing.TB, w *trusttest.World, name string, change ...func(*foreign.Document)) *foreign.Root {
	t.Helper()
	d := &foreign.Document{Name: name, Version: 1, Type: foreign.Sigstore, Namespaces: []string{"team-a/**"}, TrustedRoot: w.Root(t).Bytes()}
	for _, c := range change {
		c(d)
	}
	r, err := foreign.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func namespaces(p ...string) func(*foreign.Document) {
	return func(d *foreign.Document) { d.Namespaces = p }
}

func mustVerifier(t testing.TB, o VerifierOptions) *Verifier {
	t.Helper()
	v, err := NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func judge(t testing.TB, v *Verifier, w *world, at Target, src EvidenceSource, p string) *Report {
	t.Helper()
	r, err := Offline(t.Context(), at, src, OfflineOptions{Verifier: v, Policy: parse(t, p), Clock: w.now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// codes are those of the refused evidence.
func codes(r *Report) string {
	var out []string
	for _, x := range r.Rejected {
		out = append(out, x.Code)
	}
	return strings.Join(out, " ")
}

// What a foreign root accepts counts in its namespaces alone, whatever else is
// known, and also where an identical identity is wanted.
func TestThreat_Foreign_OutsideNamespace(t *testing.T) {
	own, old := newWorld(t), newWorld(t)
	src := Items{old.sign(alice, content)}
	for _, c := range []struct {
		namespace      []string
		registry, repo string
		verdict        policy.Verdict
		code           string
	}{
		{[]string{"team-a/**"}, "", "team-a/app", policy.Allow, ""},
		{[]string{"team-a/**"}, "", "team-b/app", policy.Deny, codeNamespace},
		{[]string{"team-a/**"}, "ghcr.io", "team-a/app", policy.Deny, codeNamespace},
		{[]string{"ghcr.io/team-a/**"}, "ghcr.io", "team-a/app", policy.Allow, ""},
		{[]string{"ghcr.io/team-a/**"}, "", "team-a/app", policy.Deny, codeNamespace},
		{[]string{"team-a/**"}, "", "", policy.Deny, codeNamespace},
		{[]string{"**"}, "", "", policy.Allow, ""},
	} {
		v := mustVerifier(t, VerifierOptions{Roots: []*trust.Root{own.root}, Foreign: []*foreign.Root{imported(t, old.World, "old", namespaces(c.namespace...))}, Clock: own.now})
		at := target(content)
		at.Registry, at.Repository = c.registry, c.repo
		r := judge(t, v, own, at, src, signedByAlice)
		if r.Verdict != c.verdict || codes(r) != c.code {
			t.Errorf("%v at %q %q: %s %q, want %s %q", c.namespace, c.registry, c.repo, r.Verdict, codes(r), c.verdict, c.code)
		}
	}
}

// What another site revokes is what is its own: its list shuts out neither our
// signers nor what lies outside of its namespaces, and when it is stale nothing
// but those namespaces is.
func TestThreat_Foreign_RevokesOutsideNamespace(t *testing.T) {
	own, old := newWorld(t), newWorld(t)
	identity := revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: "https://issuer.example", Subject: alice, Reason: "theirs"}
	digest := revocation.Entry{Kind: revocation.Artifact, Digest: artifact.SHA256Of(content), Reason: "theirs"}
	hour := func(n int) revocation.Time { return revocation.At(own.now().Add(time.Duration(n) * time.Hour)) }
	for name, c := range map[string]struct {
		by     *world
		repo   string
		of     string // whose list
		entry  *revocation.Entry
		ends   int
		denied bool
	}{
		"their list, their signer":           {old, "team-a/app", "old", &identity, 1, true},
		"their list, our signer":             {own, "team-a/app", "old", &identity, 1, false},
		"their list, our signer, elsewhere":  {own, "team-b/app", "old", &identity, 1, false},
		"our list, their signer":             {old, "team-a/app", "own", &identity, 1, true},
		"their list, an artifact of theirs":  {own, "team-a/app", "old", &digest, 1, true},
		"their list, an artifact elsewhere":  {own, "team-b/app", "old", &digest, 1, false},
		"our list, an artifact anywhere":     {own, "team-b/app", "own", &digest, 1, true},
		"their list is stale, in namespaces": {own, "team-a/app", "old", nil, -1, true},
		"their list is stale, elsewhere":     {own, "team-b/app", "old", nil, -1, false},
		"our list is stale":                  {own, "team-b/app", "own", nil, -1, true},
	} {
		l := &revocation.List{Issued: hour(-2), Expires: hour(c.ends)}
		if c.entry != nil {
			l.Entries = append(l.Entries, *c.entry)
		}
		root, of := own.root, "old"
		if c.of == "own" {
			of = root.Name()
		}
		v := mustVerifier(t, VerifierOptions{
			Roots: []*trust.Root{root}, Foreign: []*foreign.Root{imported(t, old.World, "old", namespaces("team-a/**"))},
			Lists: map[string]*revocation.Signed{of: {List: l}}, Clock: own.now,
		})
		at := target(content)
		at.Repository = c.repo
		if r := judge(t, v, own, at, Items{c.by.sign(alice, content)}, signedByAlice); (r.Verdict == policy.Deny) != c.denied {
			t.Errorf("%s: %s, %v", name, r.Verdict, failing(r))
		}
	}
}

// One root under two names, for two namespaces: each counts where it is.
func TestForeignTwice(t *testing.T) {
	own, old := newWorld(t), newWorld(t)
	v := mustVerifier(t, VerifierOptions{Roots: []*trust.Root{own.root}, Clock: own.now,
		Foreign: []*foreign.Root{imported(t, old.World, "one", namespaces("x/**")), imported(t, old.World, "two", namespaces("team-a/**"))}})
	if r := judge(t, v, own, target(content), Items{old.sign(alice, content)}, signedByAlice); r.Verdict != policy.Allow {
		t.Errorf("%s: %s", r.Verdict, codes(r))
	}
	const rooted = policyHead + `  requirements:
    signatures: [{identities: [{issuer: "https://issuer.example", subject: alice@example.org, root: one}]}]
`
	if r := judge(t, v, own, target(content), Items{old.sign(alice, content)}, rooted); r.Verdict != policy.Deny {
		t.Error("a policy that names another root is content")
	}
	if r := judge(t, v, own, target(content), Items{old.sign(alice, content)}, strings.Replace(rooted, "root: one", "root: two", 1)); r.Verdict != policy.Allow {
		t.Error("a policy that names the root is not content")
	}
}

// One person under two roots is one signer.
func TestThreat_Foreign_CountedTwice(t *testing.T) {
	own, old := newWorld(t), newWorld(t)
	v := mustVerifier(t, VerifierOptions{Roots: []*trust.Root{own.root}, Foreign: []*foreign.Root{imported(t, old.World, "old")}, Clock: own.now})
	two := strings.Replace(signedByAlice, "name: alice,", "name: alice, threshold: 2,", 1)
	two = strings.Replace(two, "subject: alice@example.org", `subjectRegexp: ".*@example\\.org"`, 1)
	if r := judge(t, v, own, target(content), Items{own.sign(alice, content), old.sign(alice, content)}, two); r.Verdict != policy.Deny {
		t.Error("alice counts twice")
	}
	if r := judge(t, v, own, target(content), Items{own.sign(alice, content), old.sign("bob@example.org", content)}, two); r.Verdict != policy.Allow {
		t.Error("alice and bob do not count: ", codes(r))
	}
}

// Keys with a window, for their namespaces.
func TestForeignKeys(t *testing.T) {
	w := newWorld(t)
	key := trusttest.NewKey(t)
	pem, err := delegation.PEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	fp, _ := trust.KeyFingerprint(key.Public())
	src := Items{item(w.Sign(t, trusttest.Request{Artifact: content, Key: key}))}
	p := policyHead + "  requirements:\n    signatures: [{identities: [{key: \"" + fp + "\"}]}]\n"
	for what, c := range map[string]struct {
		change func(*foreign.Document)
		want   policy.Verdict
		code   string
	}{
		"as it is":       {func(*foreign.Document) {}, policy.Allow, ""},
		"ended before":   {func(d *foreign.Document) { d.NotAfter = w.Start.Add(time.Minute) }, policy.Deny, trust.CodeKeyOutside},
		"elsewhere":      {namespaces("other/**"), policy.Deny, trust.CodeKeyMissing},
		"two timestamps": {func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{Log: 1, TSA: 2} }, policy.Deny, trust.CodeTSAMissing},
		"nobody vouches": {func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{} }, policy.Allow, ""},
		"another key's":  {func(d *foreign.Document) { d.PublicKeys[0], _ = delegation.PEM(trusttest.NewKey(t).Public()) }, policy.Deny, trust.CodeTLogMismatch},
		"with others too": {func(d *foreign.Document) {
			o, _ := delegation.PEM(trusttest.NewKey(t).Public())
			d.PublicKeys = []string{o, d.PublicKeys[0]}
		}, policy.Allow, ""},
	} {
		d := &foreign.Document{Name: "vendor", Version: 1, Type: foreign.Keys, Namespaces: []string{"team-a/**"}, PublicKeys: []string{pem}}
		c.change(d)
		f, err := foreign.Compile(d)
		if err != nil {
			t.Fatal(err)
		}
		r := judge(t, mustVerifier(t, VerifierOptions{Roots: []*trust.Root{w.root}, Foreign: []*foreign.Root{f}, Clock: w.now}), w, target(content), src, p)
		if r.Verdict != c.want || codes(r) != c.code {
			t.Errorf("%s: %s %q, want %s %q", what, r.Verdict, codes(r), c.want, c.code)
		}
	}
}

// delegated is a set of one delegation: alice may sign releases and signatures
// of team-a.
func delegated(t testing.TB, w *world, key *ecdsa.PrivateKey, change ...func(*delegation.Document)) *delegation.Set {
	t.Helper()
	d := &delegation.Document{Name: "team-a", Version: 1, Patterns: []string{"team-a/**"}, PredicateTypes: []string{delegation.Signatures, releaseType},
		Delegates: []delegation.Delegate{{Issuer: testIssuer, Subject: alice}}, NotBefore: w.Start, Expires: w.Start.Add(48 * time.Hour)}
	for _, c := range change {
		c(d)
	}
	st, err := d.Statement()
	if err != nil {
		t.Fatal(err)
	}
	b, err := st.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	set, err := delegation.Compile(t.Context(), trust.Roots{w.root}, []trust.Key{{Public: key.Public()}}, [][]byte{w.Draft(t, trusttest.Request{Statement: b, Key: key}).JSON(t)})
	if err != nil || set.Link(d.Name).Err != nil {
		t.Fatal(err, set.Link(d.Name).Err)
	}
	return set
}

const byDelegates = policyHead + `  requirements:
    signatures: [{signers: delegated}]
`

func TestDelegated(t *testing.T) {
	w, key := newWorld(t), trusttest.NewKey(t)
	at := func(repository string) Target {
		tg := target(content)
		tg.Repository = repository
		return tg
	}
	provenanceOf := w.attest(alice, provenance(t, content, nil))
	for what, c := range map[string]struct {
		change func(*delegation.Document)
		at     Target
		src    Items
		policy string
		want   policy.Verdict
		code   string
	}{
		"within":                  {nil, at("team-a/app"), Items{w.sign(alice, content)}, byDelegates, policy.Allow, ""},
		"a stranger":              {nil, at("team-a/app"), Items{w.sign("eve@example.org", content)}, byDelegates, policy.Deny, ""},
		"outside":                 {nil, at("team-b/app"), Items{w.sign(alice, content)}, byDelegates, policy.Deny, delegation.CodeOutside},
		"outside, and named":      {nil, at("team-b/app"), Items{w.sign(alice, content)}, signedByAlice, policy.Deny, delegation.CodeOutside},
		"within, and named":       {nil, at("team-a/app"), Items{w.sign(alice, content)}, signedByAlice, policy.Allow, ""},
		"of another type":         {nil, at("team-a/app"), Items{w.sign(alice, content), provenanceOf}, byDelegates, policy.Allow, delegation.CodeOutside},
		"expired":                 {func(d *delegation.Document) { d.Expires = w.Start.Add(30 * time.Minute) }, at("team-a/app"), Items{w.sign(alice, content)}, byDelegates, policy.Deny, delegation.CodeExpired},
		"signed before it began":  {func(d *delegation.Document) { d.NotBefore = w.Start.Add(10 * time.Minute) }, at("team-a/app"), Items{w.sign(alice, content)}, byDelegates, policy.Deny, delegation.CodeTime},
		"a file is in no pattern": {nil, Target{Digest: target(content).Digest, Kind: policy.File}, Items{w.sign(alice, content)}, byDelegates, policy.Deny, delegation.CodeOutside},
	} {
		change := func(*delegation.Document) {}
		if c.change != nil {
			change = c.change
		}
		v := mustVerifier(t, VerifierOptions{Roots: []*trust.Root{w.root}, Delegations: delegated(t, w, key, change), Clock: w.now})
		r := judge(t, v, w, c.at, c.src, c.policy)
		if r.Verdict != c.want || codes(r) != c.code {
			t.Errorf("%s: %s %q, want %s %q", what, r.Verdict, codes(r), c.want, c.code)
		}
		if c.want == policy.Allow && !r.ValidUntil.IsZero() && r.ValidUntil.After(w.Start.Add(48*time.Hour)) {
			t.Errorf("%s: the decision outlives the delegation: %s", what, r.ValidUntil)
		}
	}
	// Without delegations nobody is a delegate.
	if r := judge(t, w.verifier(), w, target(content), Items{w.sign(alice, content)}, byDelegates); r.Verdict != policy.Deny {
		t.Error("nobody delegated, and it is allowed")
	}
}

// The decision ends with the delegation that it stands on.
func TestDelegatedExpiry(t *testing.T) {
	w, key := newWorld(t), trusttest.NewKey(t)
	set := delegated(t, w, key, func(d *delegation.Document) { d.Expires = w.Start.Add(2 * time.Hour) })
	v := mustVerifier(t, VerifierOptions{Roots: []*trust.Root{w.root}, Delegations: set, Clock: w.now})
	g := &gathering{target: target(content), verifier: v, policy: parse(t, byDelegates)}
	if err := g.gather(context.Background(), Items{w.sign(alice, content)}, policy.Scope{ID: "x"}, false, w.now()); err != nil {
		t.Fatal(err)
	}
	if !g.expires.Equal(w.Start.Add(2 * time.Hour)) {
		t.Errorf("expires %s", g.expires)
	}
	if d := g.facts.Signatures[0].Delegation; d == nil || d.Name != "team-a" || len(d.Chain) != 1 {
		t.Errorf("facts say %+v", d)
	}
}

// A delegate's key, which nothing else here knows.
func TestDelegatedKey(t *testing.T) {
	w, org, key := newWorld(t), trusttest.NewKey(t), trusttest.NewKey(t)
	pem, _ := delegation.PEM(key.Public())
	set := delegated(t, w, org, func(d *delegation.Document) { d.Delegates = []delegation.Delegate{{Key: pem}} })
	v := mustVerifier(t, VerifierOptions{Roots: []*trust.Root{w.root}, Delegations: set, Clock: w.now})
	src := Items{item(w.Sign(t, trusttest.Request{Artifact: content, Key: key}))}
	if r := judge(t, v, w, target(content), src, byDelegates); r.Verdict != policy.Allow {
		t.Errorf("within: %s", codes(r))
	}
	elsewhere := target(content)
	elsewhere.Repository = "team-b/app"
	if r := judge(t, v, w, elsewhere, src, byDelegates); r.Verdict != policy.Deny || codes(r) != delegation.CodeOutside {
		t.Errorf("outside: %s %s", r.Verdict, codes(r))
	}
}

func TestNoNotationStore(t *testing.T) {
	w := newWorld(t)
	raw := []byte(`{"payload":"e30","protected":"e30","header":{},"signature":"AAAA"}`)
	if !attestation.IsNotation(raw) {
		t.Fatal("is not taken for one")
	}
	if _, err := w.verifier().VerifyNotation(t.Context(), raw); !errors.Is(err, fault.Unverified) || trust.Code(err) != foreign.CodeNotationUnknown {
		t.Errorf("%v", err)
	}
	r := judge(t, w.verifier(), w, target(content), Items{{Source: "x", Bundle: raw}}, signedByAlice)
	if codes(r) != foreign.CodeNotationUnknown {
		t.Errorf("%s", codes(r))
	}
}
