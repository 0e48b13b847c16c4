package attestation

import (
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/vectors"
)

var (
	sumA = strings.Repeat("a", 64)
	sumB = strings.Repeat("b", 64)
)

var goodStatement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"` + sumA +
	`"}}],"predicateType":"https://example.com/p/v1","predicate":{"k":[1,null]}}`

func TestParseStatement(t *testing.T) {
	got, err := ParseStatement([]byte(goodStatement), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := &Statement{Type: StatementV1, PredicateType: "https://example.com/p/v1", Predicate: json.RawMessage(`{"k":[1,null]}`),
		Subject: []Subject{{Name: "x", Digest: artifact.DigestSet{"sha256": sumA}}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	with := func(old, new string) string {
		s := strings.Replace(goodStatement, old, new, 1)
		if s == goodStatement {
			t.Fatalf("%q is not in the statement", old)
		}
		return s
	}
	subjects := func(n int) string {
		one := `{"digest":{"sha256":"` + sumA + `"}}`
		return with(`[{"name":"x","digest":{"sha256":"`+sumA+`"}}]`, "["+strings.Repeat(one+",", n-1)+one+"]")
	}
	for name, in := range map[string]string{
		"v0.1":             with("Statement/v1", "Statement/v0.1"),
		"no predicate":     with(`,"predicate":{"k":[1,null]}`, ""),
		"null predicate":   with(`{"k":[1,null]}`, "null"),
		"unknown member":   with(`"predicate":`, `"more":{"_Type":1},"predicate":`),
		"weak beside":      with(`"sha256":`, `"sha1":"`+strings.Repeat("1", 40)+`","dirHash":"h1:x=","sha256":`),
		"sha512":           with(`"sha256":"`+sumA, `"sha512":"`+sumA+sumA),
		"path as name":     with(`"name":"x"`, `"name":"../../etc/passwd"`),
		"1024 subjects":    subjects(1024),
		"descriptor parts": with(`"name":"x"`, `"name":"x","uri":"u","downloadLocation":"d","mediaType":"m","content":"AAE=","annotations":{"a":1}`),
	} {
		if _, err := ParseStatement([]byte(in), Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, in := range map[string]string{
		"type v2":             with("Statement/v1", "Statement/v2"),
		"type in other case":  with("Statement/v1", "Statement/V1"),
		"type with slash":     with("Statement/v1", "Statement/v1/"),
		"no type":             with(`"_type":"https://in-toto.io/Statement/v1",`, ""),
		"null subject":        with(`[{"name":"x","digest":{"sha256":"`+sumA+`"}}]`, "null"),
		"object subject":      with(`[{"name":"x","digest":{"sha256":"`+sumA+`"}}]`, "{}"),
		"no subjects":         with(`[{"name":"x","digest":{"sha256":"`+sumA+`"}}]`, "[]"),
		"null in subjects":    with(`}}],`, `}},null],`),
		"1025 subjects":       subjects(1025),
		"null digest":         with(`{"sha256":"`+sumA+`"}`, "null"),
		"empty digest":        with(`{"sha256":"`+sumA+`"}`, "{}"),
		"null sum":            with(`"`+sumA+`"`, "null"),
		"digest as string":    with(`{"sha256":"`+sumA+`"}`, `"`+sumA+`"`),
		"upper case":          with(sumA, strings.ToUpper(sumA)),
		"short":               with(sumA, sumA[1:]),
		"SHA256 as name":      with(`"sha256"`, `"SHA256"`),
		"one weak of two":     with(`}}],`, `}},{"name":"y","digest":{"sha1":"`+strings.Repeat("1", 40)+`"}}],`),
		"bad sum beside":      with(`"sha256":`, `"sha512":"zz","sha256":`),
		"bad sha1 beside":     with(`"sha256":`, `"sha1":"zz","sha256":`),
		"empty algorithm":     with(`"sha256":`, `"":"x","sha256":`),
		"empty other":         with(`"sha256":`, `"dirHash":"","sha256":`),
		"no predicateType":    with(`"predicateType":"https://example.com/p/v1",`, ""),
		"null predicateType":  with(`"https://example.com/p/v1"`, "null"),
		"space in type":       with("example.com/p/v1", "example.com/p/v1 "),
		"predicate an array":  with(`{"k":[1,null]}`, "[]"),
		"predicate a string":  with(`{"k":[1,null]}`, `"{}"`),
		"folded member":       with(`"predicateType"`, `"predicatetype"`),
		"snake case member":   with(`"predicateType"`, `"predicate_type"`),
		"second predicate":    with(`"predicate":`, `"predicate":{},"predicate":`),
		"duplicate inside":    with(`{"k":[1,null]}`, `{"k":1,"k":2}`),
		"duplicate algorithm": with(`"sha256":`, `"sha256":"`+sumB+`","sha256":`),
	} {
		if _, err := ParseStatement([]byte(in), Limits{}); err == nil {
			t.Errorf("%s: accepted", name)
		} else if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
			t.Errorf("%s: %v is of kind %v", name, err, k)
		}
	}
}

func TestHostileStatements(t *testing.T) {
	for name, want := range map[string]*fault.Kind{"null-subject.json": fault.Invalid, "subject-sha1-only.json": fault.Invalid, "name-xss.json": nil} {
		raw := vectors.Read(t, "hostile/statement", name)
		vectors.Within(t, hostileTime, hostileBytes, func() {
			s, err := ParseStatement(raw, Limits{})
			if want != nil && !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want.Name())
			}
			if want == nil && (err != nil || s.Subject[0].Name != "<img src=x onerror=alert(1)>") {
				t.Errorf("%s: %+v, %v; want its name as it is", name, s, err)
			}
		})
	}
}

// One digest of the subject is the artifact's, the other is not.
func TestHostileStatementConflict(t *testing.T) {
	s, err := ParseStatement(vectors.Read(t, "hostile/statement", "subject-two-algs-conflict.json"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"sha256", "sha512"}, s.Algorithms()); d != "" {
		t.Fatal(d)
	}
	of := artifact.DigestSet{"sha256": sumA, "sha512": strings.Repeat("d", 128)}
	if _, ok := s.Match(of); ok {
		t.Error("matched although sha512 disagrees")
	}
	of["sha512"] = strings.Repeat("c", 128)
	if _, ok := s.Match(of); !ok {
		t.Error("did not match although both agree")
	}
}

// CVE-2022-35929, CVE-2022-35930: a type that is nearly the right one.
func TestThreat_Attestation_AnotherPredicateType(t *testing.T) {
	s, err := ParseStatement(vectors.Read(t, "hostile/statement", "predicate-type-case.json"), Limits{})
	if err == nil {
		_, err = s.Provenance()
	}
	if !errors.Is(err, fault.Invalid) {
		t.Errorf("%v, want invalid", err)
	}
	for _, typ := range []string{"", "https://slsa.dev/provenance/v1/", "https://slsa.dev/provenance/v1 ", "HTTPS://slsa.dev/provenance/v1",
		"https://slsa.dev/provenance", "https://slsa.dev/provenance/v11", "http://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v1.0?draft", PredicateVSA} {
		if _, err := ParseProvenance(typ, []byte(v1Provenance)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want invalid", typ, err)
		}
		if IsProvenance(typ) {
			t.Errorf("%q counts as provenance", typ)
		}
	}
	if _, err := (&Statement{PredicateType: PredicateVSA + "/", Predicate: json.RawMessage("{}")}).VSA(); !errors.Is(err, fault.Invalid) {
		t.Errorf("%v, want invalid", err)
	}
}

// CVE-2023-33199, CVE-2026-23831, CVE-2026-39395: null anywhere is an error or
// nothing, and never a panic.
func TestThreat_Attestation_NullFields(t *testing.T) {
	for kind, c := range map[string]struct {
		doc   string
		parse func([]byte) error
	}{
		"statement": {goodStatement, func(b []byte) error { _, err := ParseStatement(b, Limits{}); return err }},
		"envelope": {`{"payload":"` + okPayload + `","payloadType":"t","signatures":[{"keyid":"k","sig":"AAE="}]}`,
			func(b []byte) error { _, err := ParseEnvelope(b, Limits{}); return err }},
		"provenance v1":   {v1Provenance, func(b []byte) error { _, err := ParseProvenance(PredicateProvenanceV1, b); return err }},
		"provenance v0.2": {v02Provenance, func(b []byte) error { _, err := ParseProvenance(PredicateProvenanceV02, b); return err }},
		"provenance v0.1": {v01Provenance, func(b []byte) error { _, err := ParseProvenance(PredicateProvenanceV01, b); return err }},
		"summary":         {goodVSA, func(b []byte) error { _, err := ParseVSA(b); return err }},
		"bundle":          {string(testBundle(t).Bytes()), func(b []byte) error { _, err := ParseBundle(b, Limits{}); return err }},
	} {
		if err := c.parse([]byte(c.doc)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		var v any
		if err := json.Unmarshal([]byte(c.doc), &v); err != nil {
			t.Fatal(err)
		}
		n := 0
		nullEach(v, func() {
			n++
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.parse(raw); err != nil && fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s: %s: %v is of kind %v", kind, raw, err, fault.KindOf(err))
			}
		})
		if n < 4 {
			t.Errorf("%s: only %d places tried", kind, n)
		}
		if err := c.parse([]byte("null")); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: null: %v, want invalid", kind, err)
		}
	}
}

// nullEach sets each member and element below v to nil in turn, calls fn, and
// puts it back.
func nullEach(v any, fn func()) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = nil
			fn()
			v[k] = e
			nullEach(e, fn)
		}
	case []any:
		for i, e := range v {
			v[i] = nil
			fn()
			v[i] = e
			nullEach(e, fn)
		}
	}
}

// CVE-2023-46737, CVE-2024-45395, CVE-2023-33957: what is over a cap is
// refused before it is decoded, and long before any signature is tried. The
// base64 and the certificates in these documents are broken, so an error about
// size shows that nobody looked at them.
func TestThreat_Attestation_EndlessData(t *testing.T) {
	many := func(n int, one string) string { return "[" + strings.Repeat(one+",", n-1) + one + "]" }
	bundle := func(material, content string) []byte {
		return []byte(`{"mediaType":"` + MediaTypeBundle + `","verificationMaterial":{` + material + `},` + content + `}`)
	}
	const message = `"messageSignature":{"signature":"AAE="}`
	huge := `{"payload":"` + strings.Repeat("A", 17<<20) + `"}`
	for name, parse := range map[string]func() error{
		"signatures of an envelope": func() error {
			_, err := ParseEnvelope([]byte(`{"payload":"!!","payloadType":"t","signatures":`+many(100_000, `{"sig":"!!"}`)+`}`), Limits{})
			return err
		},
		"subjects": func() error {
			_, err := ParseStatement([]byte(`{"_type":"`+StatementV1+`","predicateType":"t","subject":`+many(100_000, `{"digest":7}`)+`}`), Limits{})
			return err
		},
		"signatures of a bundle": func() error {
			_, err := ParseBundle(bundle("", `"dsseEnvelope":{"signatures":`+many(50_000, `{"sig":"!!"}`)+`}`), Limits{})
			return err
		},
		"log entries": func() error {
			_, err := ParseBundle(bundle(`"tlogEntries":`+many(50_000, `{"logIndex":"x"}`), message), Limits{})
			return err
		},
		"log entries, other spelling": func() error {
			_, err := ParseBundle(bundle(`"tlog_entries":`+many(50_000, `{"logIndex":"x"}`), message), Limits{})
			return err
		},
		"timestamps": func() error {
			_, err := ParseBundle(bundle(`"timestampVerificationData":{"rfc3161Timestamps":`+many(50_000, `{"signedTimestamp":"!!"}`)+`}`, message), Limits{})
			return err
		},
		"certificates": func() error {
			_, err := ParseBundle(bundle(`"x509CertificateChain":{"certificates":`+many(50_000, `{"rawBytes":"!!"}`)+`}`, message), Limits{})
			return err
		},
		"proof hashes": func() error {
			_, err := ParseBundle(bundle(`"tlogEntries":[{"inclusionProof":{"hashes":`+many(50_000, `"!!"`)+`}}]`, message), Limits{})
			return err
		},
		"depth of a bundle": func() error {
			_, err := ParseBundle(bundle(strings.Repeat(`"tlogEntries":[{`, 50_000), message), Limits{})
			return err
		},
		"bytes of an envelope": func() error { _, err := ParseEnvelope([]byte(huge), Limits{}); return err },
		"bytes of a statement": func() error { _, err := ParseStatement([]byte(huge), Limits{}); return err },
		"bytes of a bundle":    func() error { _, err := ParseBundle([]byte(huge), Limits{}); return err },
		"depth of a predicate": func() error { _, err := ParseVSA([]byte(strings.Repeat("[", 100_000))); return err },
		"signatures to verify": func() error {
			e := &Envelope{PayloadType: "t", Payload: []byte("b"), Signatures: make([]EnvelopeSignature, 17)}
			_, err := VerifyDSSE(e, ecKey(t, elliptic.P256()).Public())
			return err
		},
	} {
		// The document itself is made inside, hence twice the time and space.
		vectors.Within(t, 2*hostileTime, 2*hostileBytes, func() {
			if err := parse(); !errors.Is(err, fault.TooLarge) {
				t.Errorf("%s: %v, want too large", name, err)
			}
		})
	}
	// The caps are configuration.
	wide := Limits{MaxSubjects: 2000}
	doc := strings.Replace(goodStatement, `[{"name":"x","digest":{"sha256":"`+sumA+`"}}]`, many(2000, `{"digest":{"sha256":"`+sumA+`"}}`), 1)
	if s, err := ParseStatement([]byte(doc), wide); err != nil || len(s.Subject) != 2000 {
		t.Errorf("2000 subjects of 2000: %v", err)
	}
}

func TestNewStatement(t *testing.T) {
	sub := Subject{Name: "x", Digest: artifact.DigestSet{"sha256": sumA}}
	s, err := NewStatement("https://example.com/p", map[string]any{"b": 1, "a": "<&>"}, sub)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"` + sumA +
		`"}}],"predicateType":"https://example.com/p","predicate":{"a":"<&>","b":1}}`
	if string(raw) != want {
		t.Errorf("wrote %s\nwant  %s", raw, want)
	}
	again, err := ParseStatement(raw, Limits{})
	if d := cmp.Diff(s, again); err != nil || d != "" {
		t.Errorf("round trip: %v\n%s", err, d)
	}
	e, err := SignStatement(context.Background(), ecKey(t, elliptic.P256()), s)
	if err != nil || e.PayloadType != PayloadType || string(e.Payload) != want {
		t.Errorf("%+v, %v", e, err)
	}
	for name, f := range map[string]func() error{
		"no subject":        func() error { _, err := NewStatement("p", map[string]any{}); return err },
		"weak subject":      func() error { _, err := NewStatement("p", map[string]any{}, Subject{Name: "x"}); return err },
		"no type":           func() error { _, err := NewStatement("", map[string]any{}, sub); return err },
		"predicate a list":  func() error { _, err := NewStatement("p", []int{1}, sub); return err },
		"predicate no JSON": func() error { _, err := NewStatement("p", func() {}, sub); return err },
		"predicate twofold": func() error {
			s := &Statement{Type: StatementV1, Subject: []Subject{sub}, PredicateType: "p", Predicate: json.RawMessage(`{"a":1,"a":2}`)}
			_, err := s.Bytes()
			return err
		},
	} {
		if err := f(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	// What no reader would take is not written either.
	deep := json.RawMessage(`{"a":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + "}")
	s = &Statement{Type: StatementV1, Subject: []Subject{sub}, PredicateType: "p", Predicate: deep}
	if _, err := s.Bytes(); !errors.Is(err, fault.TooLarge) {
		t.Errorf("deep predicate: %v, want too large", err)
	}
}

func TestOpaqueSubjectsRefuseWeakHashes(t *testing.T) {
	for digest, want := range map[string]bool{
		`{"gce_image_id":"7"}`:                               true,
		`{"gitCommit":"` + strings.Repeat("1", 40) + `"}`:    true,
		`{"sha1":"` + strings.Repeat("1", 40) + `"}`:         false,
		`{"md5":"` + strings.Repeat("1", 32) + `"}`:          false,
		`{"x":"y","sha1":"` + strings.Repeat("1", 40) + `"}`: false,
		`{}`: false,
	} {
		doc := strings.Replace(goodStatement, `{"sha256":"`+sumA+`"}`, digest, 1)
		if _, err := ParseStatement([]byte(doc), Limits{OpaqueSubjects: true}); (err == nil) != want {
			t.Errorf("%s: %v, want accepted=%v", digest, err, want)
		}
		// A commit is named by its id and nothing else, so that one is always read.
		commit := strings.Contains(digest, "gitCommit")
		if _, err := ParseStatement([]byte(doc), Limits{}); errors.Is(err, fault.Invalid) == commit {
			t.Errorf("%s by default: %v, want invalid: %v", digest, err, !commit)
		}
	}
}

func ExampleNewStatement() {
	s, err := NewStatement(PredicateTestResult, map[string]any{"result": "PASSED"},
		Subject{Name: "app", Digest: artifact.SHA256Of([]byte("content")).Set()})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, matches := s.Match(artifact.SHA256Of([]byte("content")).Set())
	fmt.Println(matches)
	// Output: true
}
