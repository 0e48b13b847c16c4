package evidence_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// refuse ingests what must be refused, and checks that nothing of it stays but
// the note.
func (s *site) refuse(t *testing.T, bundle []byte, kind *fault.Kind, code string) {
	t.Helper()
	before := s.count(t, "evidence_bundle") + s.count(t, "evidence_subject") + s.count(t, "evidence_origin")
	_, isNew, err := s.Ingest(t.Context(), bundle, origin("team/app"))
	if isNew {
		t.Error("told as new")
	}
	wantKind(t, err, kind, code)
	if after := s.count(t, "evidence_bundle") + s.count(t, "evidence_subject") + s.count(t, "evidence_origin"); after != before {
		t.Errorf("%d rows of evidence, want %d: what is refused is not stored", after, before)
	}
}

// What a log entry does not bind, digest, signature and key, is refused.
func TestThreat_Bundle_LogEntryOfAnotherDigest(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	one := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("one"), attestation.PredicateSPDX), Leaf: leaf()})
	two := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("two"), attestation.PredicateSPDX), Leaf: leaf()})
	one.VerificationMaterial.TlogEntries = two.VerificationMaterial.TlogEntries
	s.refuse(t, one.JSON(t), fault.Unverified, trust.CodeTLogMismatch)
	got := s.events(t, event.AttestationRejected)
	if len(got) != 1 || got[0]["code"] != trust.CodeTLogMismatch || got[0]["repository"] != "team/app" || got[0]["source"] != "api" || got[0]["reason"] == "" || got[0]["count"] != 1.0 {
		t.Errorf("events %v, want one rejection with code, reason and origin", got)
	}
}

// Keys outside their window, and authorities that the bundle itself brings, do
// not count.
func TestThreat_Bundle_KeyOutsideItsWindow(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	late := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf(), At: s.world.Start.Add(time.Hour)})
	s.refuse(t, late.JSON(t), fault.Unverified, trust.CodeCertOutside)
	stranger := trusttest.New(t).Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf()})
	_, _, err := s.Ingest(t.Context(), stranger.JSON(t), origin("team/app"))
	if !errors.Is(err, fault.Unverified) {
		t.Errorf("a foreign trust domain: %v, want unverified", err)
	}
}

// Payloads that do not parse, null members and statements about nothing are
// refused without a panic.
func TestThreat_Attestation_PayloadDoesNotParse(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	for name, payload := range map[string]string{
		"no JSON":      `not json`,
		"null":         `null`,
		"null subject": `{"_type":"https://in-toto.io/Statement/v1","subject":null,"predicateType":"https://spdx.dev/Document","predicate":{}}`,
		"no digest":    `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":null}],"predicateType":"https://spdx.dev/Document","predicate":{}}`,
		"null entry":   `{"_type":"https://in-toto.io/Statement/v1","subject":[null],"predicateType":"https://spdx.dev/Document","predicate":{}}`,
		"weak digest":  `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha1":"` + strings.Repeat("0", 40) + `"}}],"predicateType":"https://spdx.dev/Document"}`,
		"twice":        `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + strings.Repeat("0", 64) + `"}}],"predicateType":"https://spdx.dev/Document","predicateType":"https://slsa.dev/provenance/v1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			s.refuse(t, s.world.Draft(t, trusttest.Request{Statement: []byte(payload), Leaf: leaf()}).JSON(t), fault.Unverified, trust.CodeStatement)
		})
	}
}

// The type that is filed is the one that was signed, byte for byte.
func TestThreat_Attestation_AnotherPredicateType(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	s.ingest(t, s.attest(t, "app", "https://spdx.dev/document"), "")
	s.ingest(t, s.attest(t, "app", "https://spdx.dev/Document/"), "")
	got, err := s.List(t.Context(), evidence.Filter{Subject: digest("app"), PredicateType: attestation.PredicateSPDX})
	if err != nil || len(got) != 0 {
		t.Errorf("%d records of type %s (%v), want none: look-alikes are other types", len(got), attestation.PredicateSPDX, err)
	}
}

// Caps come before any cryptography: the verifier is never asked.
func TestThreat_Attestation_TenThousandSignatures(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	base := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf()}).JSON(t)
	subjects := func(n int) string {
		return `{"_type":"https://in-toto.io/Statement/v1","subject":[` + strings.TrimSuffix(strings.Repeat(`{"digest":{"sha256":"`+strings.Repeat("0", 64)+`"}},`, n), ",") + `],"predicateType":"https://spdx.dev/Document","predicate":{}}`
	}
	many := func(member, one string, n int) []byte {
		var doc map[string]any
		if err := json.Unmarshal(base, &doc); err != nil {
			t.Fatal(err)
		}
		list := make([]any, n)
		for i := range list {
			list[i] = json.RawMessage(one)
		}
		at := doc["verificationMaterial"].(map[string]any)
		if member == "signatures" {
			at = doc["dsseEnvelope"].(map[string]any)
		}
		at[member] = list
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	payload := s.world.Draft(t, trusttest.Request{Statement: []byte(subjects(1)), Leaf: leaf()})
	payload.GetDsseEnvelope().Payload = []byte(subjects(1025))
	tests := map[string][]byte{
		"signatures":     many("signatures", `{"sig":"AAAA"}`, 10_000),
		"log entries":    many("tlogEntries", `{}`, 10_000),
		"1,025 subjects": payload.JSON(t),
		"20 MiB":         append(bytes.Clone(base), bytes.Repeat([]byte(" "), 20<<20)...),
		"depth":          []byte(`{"dsseEnvelope":` + strings.Repeat(`[`, 100_000)),
	}
	for name, raw := range tests {
		vectors.Within(t, 100*time.Millisecond, 64<<20, func() {
			_, _, err := s.Ingest(t.Context(), raw, origin("team/app"))
			if !errors.Is(err, fault.TooLarge) && !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want too large", name, err)
			}
			if name != "depth" && !errors.Is(err, fault.TooLarge) {
				t.Errorf("%s: %v, want too large", name, err)
			}
		})
	}
	if n := s.verifier.calls.Load(); n != 0 {
		t.Errorf("the verifier was asked %d times, want never", n)
	}
	// At the cap exactly it is fine.
	r, _ := s.ingest(t, s.world.Draft(t, trusttest.Request{Statement: []byte(strings.Replace(subjects(1023), `[{`, `[{"digest":{"sha256":"`+digest("app").Hex()+`"}},{`, 1)), Leaf: leaf()}).JSON(t), "")
	if len(r) != 2 {
		t.Errorf("%d records of 1,024 subjects with two digests, want 2", len(r))
	}
}

// A statement's own words about level and builder are kept nowhere that a
// search could take for a fact.
func TestThreat_Attestation_ClaimsItsOwnIdentity(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	st := strings.Replace(string(trusttest.Statement([]byte("app"), attestation.PredicateProvenanceV1)), `{"made":"by a test"}`,
		`{"issuer":"https://accounts.example","identity":"root@example","runDetails":{"builder":{"id":"https://trusted.example"}}}`, 1)
	r, _ := s.ingest(t, s.world.Draft(t, trusttest.Request{Statement: []byte(st), Leaf: leaf()}).JSON(t), "")
	if d := cmp.Diff(evidence.Signer{Issuer: testIssuer, Subject: testSubject, Key: r[0].Signer.Key}, r[0].Signer); d != "" {
		t.Errorf("signer (-want +got):\n%s", d)
	}
}

// URL-safe base64 is valid DSSE, and valid here (Archivista refuses it).
func TestIngestURLSafeBase64(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		// A predicate whose base64 has both characters that differ.
		st := strings.Replace(string(trusttest.Statement([]byte("app"), attestation.PredicateSPDX)), "by a test", "???>>>~~~ü", 1)
		raw := s.world.Draft(t, trusttest.Request{Statement: []byte(st), Leaf: leaf()}).JSON(t)
		std, safe := base64.StdEncoding.EncodeToString([]byte(st)), base64.URLEncoding.EncodeToString([]byte(st))
		if std == safe || !bytes.Contains(raw, []byte(std)) {
			t.Fatal("the test's statement looks the same in both alphabets")
		}
		raw = bytes.Replace(raw, []byte(std), []byte(safe), 1)
		r, isNew := s.ingest(t, raw, "")
		if !isNew || r[0].Subject != digest("app") {
			t.Errorf("new %v, records %+v", isNew, r)
		}
		if b, err := s.Bundle(t.Context(), r[0].ID); err != nil || !bytes.Equal(b, raw) {
			t.Errorf("%v: the bundle does not come back as it was written", err)
		}
	})
}

// A flood of refusals is counted, and told in few events; what each is about
// stays visible.
func TestRejectionsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, store.SQLite)
		s := open(t, db)
		flood := func(n int, repository string) {
			for i := range n {
				if _, _, err := s.Ingest(t.Context(), fmt.Appendf(nil, `{"n":%d}`, i), origin(repository)); !errors.Is(err, fault.Invalid) {
					t.Fatal(err)
				}
			}
		}
		counts := func() (out []float64) {
			for _, e := range s.events(t, event.AttestationRejected) {
				out = append(out, e["count"].(float64))
			}
			return out
		}
		expect := func(when string, want ...float64) {
			t.Helper()
			if d := cmp.Diff(want, counts()); d != "" {
				t.Errorf("%s (-want +got):\n%s", when, d)
			}
		}
		flood(500, "team/app")
		expect("in the first window", 1)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		expect("after it", 1, 499)
		flood(7, "team/app")
		expect("in the second, under count", 1, 499)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		expect("after it", 1, 499, 7)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		flood(2, "team/app")
		expect("after a quiet time the first is told at once", 1, 499, 7, 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		expect("at the end the rest", 1, 499, 7, 1, 1)
	})
}

// Refusals of very many sorts at once are bounded too.
func TestRejectionsOfManySorts(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	for i := range 500 {
		if _, _, err := s.Ingest(t.Context(), []byte(`{}`), origin(fmt.Sprint("team/app-", i))); err == nil {
			t.Fatal("accepted")
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got := s.events(t, event.AttestationRejected)
	total := 0.0
	for _, e := range got {
		total += e["count"].(float64)
	}
	if len(got) > 130 || total != 500 {
		t.Errorf("%d events that stand for %v refusals, want at most 130 for 500", len(got), total)
	}
}

// A caller who hangs up during verification leaves a trace all the same.
func TestRejectionOfOneWhoHungUp(t *testing.T) {
	ctx, hangUp := context.WithCancel(t.Context())
	var s *site
	s = open(t, storetest.Open(t, store.SQLite), func(o *evidence.Options) {
		o.Verifier = verifierFunc(func(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
			v, err := s.verifier.Verify(ctx, b)
			hangUp()
			return v, err
		})
	})
	foreign := trusttest.New(t).Draft(t, trusttest.Request{Artifact: []byte("app"), Leaf: leaf()}).JSON(t)
	if _, _, err := s.Ingest(ctx, foreign, origin("team/app")); !errors.Is(err, fault.Unverified) {
		t.Fatalf("%v, want unverified", err)
	}
	if n := len(s.events(t, event.AttestationRejected)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

type verifierFunc func(context.Context, *attestation.Bundle) (*trust.Verified, error)

func (f verifierFunc) Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
	return f(ctx, b)
}

// Reasons quote hostile input; they are one line of plain text.
func TestThreat_Logs_AttackerMadeText(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	d := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf()})
	d.Bundle.MediaType = "\x1b[2J\u202eevil\n" + strings.Repeat("x", 4000)
	s.refuse(t, d.JSON(t), fault.Invalid, trust.CodeBundleMalformed)
	reason := s.events(t, event.AttestationRejected)[0]["reason"].(string)
	if len(reason) > 200 || strings.ContainsAny(reason, "\x1b\n\u202e") {
		t.Errorf("reason of %d bytes: %q", len(reason), reason)
	}
}

func FuzzIngest(f *testing.F) {
	w := trusttest.New(f)
	d := w.Draft(f, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf()})
	f.Add(d.JSON(f))
	m := w.Draft(f, trusttest.Request{Artifact: []byte("app"), Leaf: leaf()})
	f.Add(m.JSON(f))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[null]}}`))
	f.Add([]byte(`{"verificationMaterial":{"tlogEntries":[null]}}`))
	s := open(f, storetest.Open(f, store.SQLite))
	s.world, s.verifier.root = w, w.Root(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		records, _, err := s.Ingest(t.Context(), raw, evidence.Origin{})
		if err != nil {
			if evidence.Code(err) == "" {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		// What is accepted comes back, and was signed by the one signer that
		// there is.
		if len(records) == 0 || records[0].Signer.Subject != testSubject {
			t.Fatalf("records %+v", records)
		}
		b, err := s.Bundle(t.Context(), records[0].ID)
		if err != nil || evidence.ID(raw) == records[0].ID && !bytes.Equal(b, raw) {
			t.Fatalf("%v: the bundle does not come back", err)
		}
		// Or a copy is kept that carries the same signature.
		got, err := attestation.ParseBundle(b, attestation.Limits{})
		want, werr := attestation.ParseBundle(raw, attestation.Limits{})
		if err != nil || werr != nil || !bytes.Equal(got.Signature(), want.Signature()) {
			t.Fatalf("%v, %v: another bundle comes back", err, werr)
		}
	})
}
