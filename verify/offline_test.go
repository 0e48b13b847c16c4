package verify

import (
	"bytes"
	"context"
	"encoding/json"
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
	"assay/internal/vectors"
	"assay/policy"
	"assay/trust"
	"assay/trust/trusttest"
)

func TestOffline(t *testing.T) {
	w := newWorld(t)
	r := offline(t, w, target(content), fullEvidence(w), parse(t, fullPolicy))
	if !r.Allowed() || r.Err() != nil || len(r.Evidence) != 3 || len(r.Rejected) != 0 {
		t.Fatalf("%s: %v\n%+v", r.Verdict, failing(r), r.Rejected)
	}
	for _, e := range r.Evidence {
		if e.LogIndex == nil || e.TimeSource != "tsa" || e.Root != "test" {
			t.Errorf("%+v", e)
		}
	}
	var text bytes.Buffer
	if err := r.WriteText(&text, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ALLOWED  team-a/app@sha256:", "pass  signatures/alice", "log index", alice, "provenance/builder", "scope     offline"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

// Four refusals, each with what was expected, what was found and how to mend it.
func TestOfflineRefusals(t *testing.T) {
	w := newWorld(t)
	tampered := w.attest(alice, statement(t, content, releaseType, map[string]any{"purl": "pkg:generic/app@1"}))
	tampered.Bundle = bytes.Replace(tampered.Bundle, []byte(`"payload":"ey`), []byte(`"payload":"eX`), 1)
	for name, c := range map[string]struct {
		target   Target
		evidence Items
		fail     string
		found    string
		rejected string
	}{
		"unsigned":         {target(content), nil, "signatures/alice", "no signature", ""},
		"another artifact": {target([]byte("tampered with")), Items{w.sign(alice, content)}, "signatures/alice", "artifact.mismatch", trust.CodeArtifact},
		"another identity": {target(content), Items{w.sign("eve@example.org", content)}, "signatures/alice", "signed by others: eve@example.org", ""},
		"altered":          {target(content), Items{tampered}, "signatures/alice", "rejected", ""},
		"attestation only": {target(content), Items{w.attest(alice, statement(t, content, releaseType, map[string]any{"a": 1}))}, "signatures/alice", "no signature", ""},
	} {
		tg := c.target
		tg.Name = "my file.bin"
		r := offline(t, w, tg, c.evidence, parse(t, signedByAlice))
		if r.Allowed() || strings.Join(failing(r), " ") != c.fail {
			t.Errorf("%s: %s, fails %v", name, r.Verdict, failing(r))
			continue
		}
		k := r.Checks[len(r.Checks)-1]
		if !strings.Contains(k.Found, c.found) || !strings.Contains(k.Expected, alice) || !strings.HasPrefix(k.Mend, "assay sign 'my file.bin'") {
			t.Errorf("%s: %+v", name, k)
		}
		if c.rejected != "" && (len(r.Rejected) != 1 || r.Rejected[0].Code != c.rejected) {
			t.Errorf("%s: rejected %+v", name, r.Rejected)
		}
		if err := r.Err(); !errors.Is(err, fault.Denied) || fault.ExitCode(err) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The same facts whatever the order, and by whatever way a bundle came twice.
func TestFactsAreDeterministic(t *testing.T) {
	w := newWorld(t)
	items := fullEvidence(w)
	p := parse(t, fullPolicy)
	first := offline(t, w, target(content), items, p)
	again := offline(t, w, target(content), Items{items[2], items[0], items[1]}, p)
	if first.FactsHash != again.FactsHash {
		t.Error("another order gives other facts")
	}
	twice := offline(t, w, target(content), append(append(Items{}, items...), items...), p)
	if first.FactsHash != twice.FactsHash {
		t.Error("the same bundles twice give other facts")
	}
	other := offline(t, w, target(content), items[:2], p)
	if first.FactsHash == other.FactsHash {
		t.Error("other evidence gives the same facts")
	}
}

// All 70 cases of sigstore-conformance, as a user would check them: a file, a
// bundle, a root, and cosign's flags.
func TestConformance(t *testing.T) {
	const identity = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
	dir := vectors.Dir(t, "sigstore-conformance")
	cases := filepath.Join(dir, "bundle-verify")
	entries, err := os.ReadDir(cases)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		ran++
		t.Run(e.Name(), func(t *testing.T) {
			at := func(name, fallback string) string {
				p := filepath.Join(cases, e.Name(), name)
				if _, err := os.Stat(p); err != nil {
					return fallback
				}
				return p
			}
			read := func(name, fallback string) []byte {
				p := at(name, fallback)
				if p == "" {
					return nil
				}
				b, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			want := policy.Allow
			if strings.HasSuffix(e.Name(), "_fail") {
				want = policy.Deny
			}
			got, err := conformance(t, at("artifact", filepath.Join(cases, "a.txt")), read("bundle.sigstore.json", ""), read("trusted_root.json", filepath.Join(dir, "trusted-root-public-good.json")),
				read("key.pub", ""), orElse(read("identity", ""), identity), orElse(read("issuer", ""), "https://token.actions.githubusercontent.com"))
			if got != want {
				t.Errorf("%s, want %s (%v)", got, want, err)
			}
		})
	}
	if ran != 70 {
		t.Errorf("%d cases, want 70", ran)
	}
}

func orElse(b []byte, other string) string {
	if b == nil {
		return other
	}
	return strings.TrimSpace(string(b))
}

func conformance(t *testing.T, file string, bundle, root, key []byte, identity, issuer string) (policy.Verdict, error) {
	tg, err := FileTarget(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trust.ParseTrustedRoot(root, trust.WithName("vectors"))
	if err != nil {
		return policy.Deny, err
	}
	o := VerifierOptions{Roots: []*trust.Root{r}}
	p, err := policy.DefaultKeyless(identity, issuer)
	if key != nil {
		pub, kerr := trust.ParsePublicKey(key)
		if kerr != nil {
			return policy.Deny, kerr
		}
		fp, kerr := trust.KeyFingerprint(pub)
		if kerr != nil {
			return policy.Deny, kerr
		}
		o.Keys = []trust.Key{{Public: pub}}
		p, err = policy.DefaultKey(fp)
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	items, err := ParseEvidence(bundle, "file", attestation.Limits{})
	if err != nil {
		return policy.Deny, err
	}
	rep, err := Offline(t.Context(), tg, items, OfflineOptions{Verifier: v, Policy: p, Clock: time.Now})
	if err != nil {
		return policy.Deny, err
	}
	return rep.Verdict, rep.Err()
}

// An envelope with 10,000 signatures is over its cap before any is tried.
func TestThreat_Attestation_TenThousandSignatures(t *testing.T) {
	b := vectors.Read(t, "hostile", "dsse", "10k-signatures.json")
	start := time.Now()
	if _, err := ParseEvidence(b, "file", attestation.Limits{}); err == nil {
		t.Error("read from a file")
	}
	w := newWorld(t)
	// As a bundle, and next to good evidence.
	bundle := fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":%s}`, attestation.MediaTypeBundle, b)
	r := offline(t, w, target(content), Items{{Source: "evidence", Bundle: bundle}, {Source: "evidence", Bundle: b}, w.sign(alice, content)}, parse(t, signedByAlice))
	if !r.Allowed() || len(r.Rejected) != 2 {
		t.Errorf("%s, rejected %+v", r.Verdict, r.Rejected)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// Endless evidence: the newest 64 are read, and the rest is a denial that says so.
func TestThreat_Attestation_EndlessEvidence(t *testing.T) {
	w := newWorld(t)
	items := Items{w.sign(alice, content)}
	for i := range MaxEvidence {
		items = append(items, Item{Source: "evidence", Bundle: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	r := offline(t, w, target(content), items, parse(t, signedByAlice))
	if r.Allowed() || strings.Join(failing(r), " ") != "evidence/complete" {
		t.Errorf("%s: %v", r.Verdict, failing(r))
	}
	r = offline(t, w, target(content), items[:MaxEvidence], parse(t, signedByAlice))
	if !r.Allowed() || len(r.Rejected) != maxRejected {
		t.Errorf("%s: %v, %d rejected", r.Verdict, failing(r), len(r.Rejected))
	}
}

// Facts that would be too large lose evidence, and are then a denial.
func TestThreat_Attestation_EndlessData(t *testing.T) {
	w := newWorld(t)
	items := Items{w.sign(alice, content)}
	for i := range 40 {
		big := map[string]any{"n": i}
		for j := range 40 {
			big[fmt.Sprintf("k%02d%s", j, strings.Repeat("x", 150))] = strings.Repeat("y", 250)
		}
		items = append(items, w.attest(alice, statement(t, content, releaseType, big)))
	}
	r := offline(t, w, target(content), items, parse(t, signedByAlice))
	if r.Allowed() || strings.Join(failing(r), " ") != "evidence/complete" {
		t.Errorf("%s: %v", r.Verdict, failing(r))
	}
}

// Another predicate type is another statement, however close its name.
func TestThreat_Attestation_AnotherPredicateType(t *testing.T) {
	w := newWorld(t)
	p := parse(t, policyHead+`  requirements:
    attestations: [{predicateType: "https://in-toto.io/attestation/release/v0.1", identities: [{issuer: "https://issuer.example", subject: alice@example.org}]}]
`)
	for typ, want := range map[string]policy.Verdict{
		releaseType: policy.Allow, releaseType + "/": policy.Deny, strings.ToUpper(releaseType): policy.Deny, "https://in-toto.io/attestation/release/v0.2": policy.Deny,
	} {
		r := offline(t, w, target(content), Items{w.attest(alice, statement(t, content, typ, map[string]any{"a": 1}))}, p)
		if r.Verdict != want {
			t.Errorf("%s: %s, want %s", typ, r.Verdict, want)
		}
	}
}

// A level comes from the configured builders, by who signed, and from nowhere
// else.
func TestThreat_Attestation_DocumentClaimsOwnLevel(t *testing.T) {
	w := newWorld(t)
	p := parse(t, policyHead+"  requirements: {provenance: {minLevel: 3}}\n")
	good := []policy.Builder{{ID: builderID, Signer: policy.IdentityMatch{Issuer: testIssuer, Subject: builderSAN}, Level: 3}}
	for name, c := range map[string]struct {
		signer   string
		builders []policy.Builder
		want     policy.Verdict
	}{
		"configured":       {builderSAN, good, policy.Allow},
		"not configured":   {builderSAN, nil, policy.Deny},
		"another signer":   {alice, good, policy.Deny},
		"another id":       {builderSAN, []policy.Builder{{ID: builderID + "x", Signer: good[0].Signer, Level: 3}}, policy.Deny},
		"configured lower": {builderSAN, []policy.Builder{{ID: builderID, Signer: good[0].Signer, Level: 2}}, policy.Deny},
	} {
		r, err := Offline(t.Context(), target(content), Items{w.attest(c.signer, provenance(t, content, nil))},
			OfflineOptions{Verifier: w.verifier(), Policy: p, Builders: c.builders, Clock: w.now})
		if err != nil || r.Verdict != c.want {
			t.Errorf("%s: %+v, %v, want %s", name, r, err, c.want)
		}
	}
}

// An unknown external parameter is refused, also when there are too many to
// keep.
func TestExternalParameters(t *testing.T) {
	w := newWorld(t)
	p := parse(t, fullPolicy)
	huge := map[string]any{"ref": "main"}
	for i := range 200 {
		huge[fmt.Sprintf("p%03d", i)] = strings.Repeat("x", 100)
	}
	for name, c := range map[string]struct {
		params map[string]any
		want   policy.Verdict
	}{
		"known":   {map[string]any{"ref": "main"}, policy.Allow},
		"empty":   {map[string]any{"ref": "main", "debug": "", "list": []any{}}, policy.Allow},
		"unknown": {map[string]any{"ref": "main", "debug": true}, policy.Deny},
		"value":   {map[string]any{"ref": "evil"}, policy.Deny},
		"huge":    {huge, policy.Deny},
	} {
		items := fullEvidence(w)[:2]
		r := offline(t, w, target(content), append(items, w.attest(builderSAN, provenance(t, content, c.params))), p)
		if r.Verdict != c.want {
			t.Errorf("%s: %s %v, want %s", name, r.Verdict, failing(r), c.want)
		}
	}
}

// Numbers that canonical JSON cannot hold do not stop a decision.
func TestPortableFields(t *testing.T) {
	w := newWorld(t)
	raw := json.RawMessage(`{"id":9007199254740993,"big":1e300,"a.b":"odd name","ok":true,"deep":{"id":-9223372036854775808}}`)
	r := offline(t, w, target(content), Items{w.sign(alice, content), w.attest(alice, statement(t, content, releaseType, raw))}, parse(t, policyHead+`  requirements:
    attestations:
    - predicateType: "https://in-toto.io/attestation/release/v0.1"
      identities: [{issuer: "https://issuer.example", subject: alice@example.org}]
      fields: [{path: id, equals: "9007199254740993"}, {path: deep.id, present: true}, {path: '["a.b"]', equals: odd name}, {path: ok, equals: true}]
`))
	if !r.Allowed() {
		t.Errorf("%v %+v", failing(r), r.Checks)
	}
}

// A legacy signature counts for the image that its document names.
func TestLegacySignature(t *testing.T) {
	w := newWorld(t)
	image := artifact.SHA256Of(content)
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, image)
	good := w.sign(alice, payload)
	good.Legacy, good.Payload = true, payload
	p := parse(t, signedByAlice)
	if r := offline(t, w, target(content), Items{good}, p); !r.Allowed() {
		t.Errorf("%v %+v", failing(r), r.Rejected)
	}
	forged := good
	forged.Payload = bytes.Replace(payload, []byte("registry.example"), []byte("registry.exampl3"), 1)
	unsigned := w.sign(alice, []byte("something else"))
	unsigned.Payload = payload
	for name, it := range map[string]Item{"another document": forged, "a signature over something else": unsigned} {
		if r := offline(t, w, target(content), Items{it}, p); r.Allowed() || len(r.Rejected) != 1 {
			t.Errorf("%s: %s %+v", name, r.Verdict, r.Rejected)
		}
	}
	if r := offline(t, w, target([]byte("another image")), Items{good}, p); r.Allowed() {
		t.Error("counts for another image")
	}
	// Over the document itself it is a signature of a file, not of the image.
	plain := good
	plain.Payload = nil
	if r := offline(t, w, target(content), Items{plain}, p); r.Allowed() {
		t.Error("counts without its document")
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	key, other := trusttest.NewKey(t), trusttest.NewKey(t)
	it := item(w.Sign(t, trusttest.Request{Artifact: content, Key: key}))
	bare := item(w.Sign(t, trusttest.Request{Artifact: content, Key: key, NoLog: true, NoTSA: true}))
	fp, err := trust.KeyFingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.DefaultKey(fp)
	if err != nil {
		t.Fatal(err)
	}
	none := &trust.Thresholds{}
	for name, c := range map[string]struct {
		o    VerifierOptions
		it   Item
		want policy.Verdict
	}{
		"key":             {VerifierOptions{Roots: []*trust.Root{w.root}, Keys: []trust.Key{{Public: key.Public()}}}, it, policy.Allow},
		"another key":     {VerifierOptions{Roots: []*trust.Root{w.root}, Keys: []trust.Key{{Public: other.Public()}}}, it, policy.Deny},
		"no key":          {VerifierOptions{Roots: []*trust.Root{w.root}}, it, policy.Deny},
		"not logged":      {VerifierOptions{Roots: []*trust.Root{w.root}, Keys: []trust.Key{{Public: key.Public()}}}, bare, policy.Deny},
		"without root":    {VerifierOptions{Keys: []trust.Key{{Public: key.Public()}}, KeyThresholds: none}, bare, policy.Allow},
		"window is over":  {VerifierOptions{Keys: []trust.Key{{Public: key.Public(), Window: trust.Window{Start: w.Start, End: w.Start.Add(time.Minute)}}}, KeyThresholds: none, Clock: w.now}, bare, policy.Deny},
		"window is going": {VerifierOptions{Keys: []trust.Key{{Public: key.Public(), Window: trust.Window{Start: w.Start, End: w.now().Add(time.Minute)}}}, KeyThresholds: none, Clock: w.now}, bare, policy.Allow},
	} {
		v, err := NewVerifier(c.o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r, err := Offline(t.Context(), target(content), Items{c.it}, OfflineOptions{Verifier: v, Policy: p, Clock: w.now})
		if err != nil || r.Verdict != c.want {
			t.Errorf("%s: %+v, %v, want %s", name, r, err, c.want)
			continue
		}
		if name == "window is going" && !r.ValidUntil.Equal(w.now().Add(time.Minute)) {
			t.Errorf("valid until %v, the key's window ends a minute from now", r.ValidUntil)
		}
	}
	if _, err := NewVerifier(VerifierOptions{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("%v, want invalid", err)
	}
}

// Each bundle is verified under the root that knows its signer, and the reason
// for a refusal is that root's.
func TestSeveralRoots(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	b.root = b.Root(t, trust.WithName("second"))
	v, err := NewVerifier(VerifierOptions{Roots: []*trust.Root{a.root, b.root}})
	if err != nil {
		t.Fatal(err)
	}
	p := parse(t, policyHead+`  requirements:
    signatures: [{threshold: 2, identities: [{issuer: "https://issuer.example", subjectRegexp: ".*@example.org"}]}]
`)
	r, err := Offline(t.Context(), target(content), Items{a.sign(alice, content), b.sign("bob@example.org", content)}, OfflineOptions{Verifier: v, Policy: p, Clock: a.now})
	if err != nil || !r.Allowed() || r.Evidence[0].Root == r.Evidence[1].Root {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOfflineErrors(t *testing.T) {
	w := newWorld(t)
	p := parse(t, signedByAlice)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Offline(ctx, target(content), Items{w.sign(alice, content)}, OfflineOptions{Verifier: w.verifier(), Policy: p}); !errors.Is(err, fault.Undecided) && fault.KindOf(err) != fault.Unavailable {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("disk on fire")
	if _, err := Offline(t.Context(), target(content), failingSource{broken}, OfflineOptions{Verifier: w.verifier(), Policy: p}); !errors.Is(err, fault.Undecided) || !errors.Is(err, broken) || fault.ExitCode(err) != 2 {
		t.Errorf("source: %v", err)
	}
	if _, err := Offline(t.Context(), Target{Digest: "md5:0"}, Items{}, OfflineOptions{Verifier: w.verifier(), Policy: p}); !errors.Is(err, fault.Invalid) {
		t.Errorf("digest: %v", err)
	}
	if r, err := Offline(t.Context(), target(content), Items{w.sign(alice, content)}, OfflineOptions{Verifier: w.verifier(), Policy: p, Stale: true}); err != nil || r.Allowed() {
		t.Errorf("stale: %+v, %v", r, err)
	}
}

type failingSource struct{ err error }

func (s failingSource) Evidence(context.Context, artifact.Digest) ([]Item, bool, error) {
	return nil, false, s.err
}

// What others wrote reaches the terminal without control characters.
func TestWriteTextCleans(t *testing.T) {
	r := &Report{Target: "x\x1b]0;evil\a", Checks: []policy.Check{{Name: "a\nb", Status: policy.Fail, Expected: "\x1b[31m", Found: "\u202e", Mend: "\r"}},
		Rejected: []policy.Rejected{{ID: "\x1b[1m", Reason: "\x07"}}, Evidence: []ReportEvidence{{Signer: "\x1b[2J", PredicateType: "\x1b"}}}
	var b bytes.Buffer
	if err := r.WriteText(&b, nil); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\a\r\u202e") {
		t.Errorf("%q", b.String())
	}
}

func TestParseEvidence(t *testing.T) {
	w := newWorld(t)
	one, two := string(w.sign(alice, content).Bundle), string(w.attest(alice, statement(t, content, releaseType, map[string]any{"a": 1})).Bundle)
	var b struct {
		Envelope json.RawMessage `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal([]byte(two), &b); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		n    int
	}{
		"bundle":    {one, 1},
		"lines":     {one + "\n\n" + two + "\n", 2},
		"envelope":  {string(b.Envelope), 1},
		"api":       {`{"attestations":[{"predicateType":"x","bundle":` + one + `},{"bundle":` + two + `}]}`, 2},
		"nothing":   {"", 0},
		"blank":     {"\n \n", 0},
		"no bundle": {`{"attestations":[{}]}`, 0},
		"none":      {`{"attestations":[]}`, 0},
		"other":     {`{"mediaType":"text/plain"}`, 0},
		"list":      {`[1]`, 0},
		"bad line":  {one + "\n{", 0},
		"duplicate": {`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","mediaType":"x"}`, 0},
	} {
		items, err := ParseEvidence([]byte(c.text), "file", attestation.Limits{})
		if len(items) != c.n || (err == nil) != (c.n > 0) {
			t.Errorf("%s: %d items, %v, want %d", name, len(items), err, c.n)
		}
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v is not invalid", name, err)
		}
	}
	if _, err := ParseEvidence([]byte(one), "file", attestation.Limits{MaxBundle: 100}); !errors.Is(err, fault.TooLarge) {
		t.Errorf("%v, want too large", err)
	}
}

func FuzzParseEvidence(f *testing.F) {
	w := newWorld(f)
	f.Add(w.sign(alice, content).Bundle)
	f.Add([]byte(`{"attestations":[{"bundle":{}}]}`))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"AAAA"}]}`))
	f.Add([]byte("{}\n{}"))
	v, p := w.verifier(), parse(f, signedByAlice)
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := ParseEvidence(b, "file", attestation.Limits{})
		if err != nil {
			return
		}
		r, err := Offline(t.Context(), target([]byte("never signed")), items, OfflineOptions{Verifier: v, Policy: p, Clock: w.now})
		if err != nil || r.Allowed() {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func BenchmarkOffline(b *testing.B) {
	w := newWorld(b)
	items, p, v := fullEvidence(w), parse(b, fullPolicy), w.verifier()
	for b.Loop() {
		r, err := Offline(b.Context(), target(content), items, OfflineOptions{Verifier: v, Policy: p, Clock: w.now})
		if err != nil || !r.Allowed() {
			b.Fatal(r, err)
		}
	}
}
