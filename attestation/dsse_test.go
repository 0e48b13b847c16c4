package attestation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/internal/vectors"
)

// The example of DSSE's protocol.md, key and signature included.
func TestDSSESpecificationExample(t *testing.T) {
	const typ = "http://example.com/HelloWorld"
	if got, want := string(PAE(typ, []byte("hello world"))), "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("PAE is %q, want %q", got, want)
	}
	e, err := ParseEnvelope([]byte(`{"payload": "aGVsbG8gd29ybGQ=",
 "payloadType": "http://example.com/HelloWorld",
 "signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}`), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	x, _ := new(big.Int).SetString("46950820868899156662930047687818585632848591499744589407958293238635476079160", 10)
	y, _ := new(big.Int).SetString("5640078356564379163099075877009565129882514886557779369047442380624545832820", 10)
	key := &ecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: y} //nolint:staticcheck // the specification gives the coordinates
	if _, err := VerifyDSSE(e, key); err != nil {
		t.Error(err)
	}
	e.Payload = []byte("hello worlt")
	if _, err := VerifyDSSE(e, key); !errors.Is(err, fault.Unverified) {
		t.Errorf("altered payload: %v, want unverified", err)
	}
}

// Lengths are of bytes, not of characters, and a type or body that ends in
// digits cannot be shifted into the other.
func TestPAE(t *testing.T) {
	for _, c := range []struct{ typ, body, want string }{
		{"", "", "DSSEv1 0  0 "},
		{"é", "☃", "DSSEv1 2 é 3 ☃"},
		{"a 1", "b", "DSSEv1 3 a 1 1 b"},
		{"a", "1 b", "DSSEv1 1 a 3 1 b"},
	} {
		if got := string(PAE(c.typ, []byte(c.body))); got != c.want {
			t.Errorf("PAE(%q, %q) = %q, want %q", c.typ, c.body, got, c.want)
		}
	}
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignAndVerify(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signers := map[string]crypto.Signer{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "P-521": ecKey(t, elliptic.P521()),
		"Ed25519": ed, "RSA": rk,
	}
	other := ecKey(t, elliptic.P256())
	for name, signer := range signers {
		e, err := SignDSSE(context.Background(), signer, PayloadType, []byte("body"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseEnvelope(raw, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, again); d != "" {
			t.Errorf("%s: round trip (-want +got):\n%s", name, d)
		}
		got, err := VerifyDSSE(again, other.Public(), signer.Public())
		if d := cmp.Diff([]DSSEMatch{{Key: 1, Signature: 0}}, got); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
		for what, alter := range map[string]func(*Envelope){
			"payload": func(e *Envelope) { e.Payload = []byte("Body") },
			"type":    func(e *Envelope) { e.PayloadType += "x" },
			"sig":     func(e *Envelope) { e.Signatures[0].Sig = append([]byte{}, e.Signatures[0].Sig[:8]...) },
		} {
			bad, _ := ParseEnvelope(raw, Limits{})
			alter(bad)
			if _, err := VerifyDSSE(bad, signer.Public()); !errors.Is(err, fault.Unverified) {
				t.Errorf("%s: altered %s: %v, want unverified", name, what, err)
			}
		}
	}
	// cosign signed with SHA-256 under every curve.
	big := signers["P-384"].(*ecdsa.PrivateKey)
	sig, err := big.Sign(rand.Reader, sum(crypto.SHA256, []byte("m")), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifySignature(big.Public(), []byte("m"), sig); err != nil {
		t.Errorf("P-384 over SHA-256: %v", err)
	}
}

func TestUnusableKeys(t *testing.T) {
	small := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}
	for name, key := range map[string]crypto.PublicKey{"small RSA": small, "P-224": ecKey(t, elliptic.P224()).Public(), "string": "key", "nil": nil} {
		if err := VerifySignature(key, nil, nil); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := SignDSSE(ctx, ecKey(t, elliptic.P256()), "t", []byte("b")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := SignDSSE(context.Background(), ecKey(t, elliptic.P256()), "", []byte("b")); !errors.Is(err, fault.Invalid) {
		t.Errorf("no type: %v", err)
	}
}

// A threshold counts distinct keys, however often one of them signed or is
// listed (CVE-2026-49834).
func TestThreat_Bundle_OneKeyCountedTwice(t *testing.T) {
	k := ecKey(t, elliptic.P256())
	a, err := SignDSSE(context.Background(), k, "t", []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := SignDSSE(context.Background(), k, "t", []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	a.Signatures = append(a.Signatures, b.Signatures...)
	same := *k.Public().(*ecdsa.PublicKey)
	got, err := VerifyDSSE(a, k.Public(), &same, k.Public())
	if err != nil || len(got) != 1 {
		t.Errorf("%v, %v; want one match", got, err)
	}
}

const okPayload = "eyJhIjoxfQ==" // {"a":1}

func TestParseEnvelope(t *testing.T) {
	env := func(payload, sigs string) string {
		return `{"payloadType":"t","payload":"` + payload + `","signatures":` + sigs + `}`
	}
	const sig = `[{"sig":"AAE="}]`
	for name, in := range map[string]string{
		"plain":          env(okPayload, sig),
		"URL-safe":       env(base64.URLEncoding.EncodeToString([]byte{0xfb, 0xff, 0xfe}), sig),
		"standard":       env(base64.StdEncoding.EncodeToString([]byte{0xfb, 0xff, 0xfe}), sig),
		"unknown member": `{"x":[{"y":1}],"payloadType":"t","payload":"` + okPayload + `","signatures":[{"sig":"AAE=","z":{}}]}`,
		"null keyid":     env(okPayload, `[{"sig":"AAE=","keyid":null}]`),
		"sixteen":        env(okPayload, `[`+strings.Repeat(`{"sig":"AAE="},`, 15)+`{"sig":"AAE="}]`),
	} {
		if _, err := ParseEnvelope([]byte(in), Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, in := range map[string]string{
		"no payload":          `{"payloadType":"t","signatures":` + sig + `}`,
		"null payload":        `{"payloadType":"t","payload":null,"signatures":` + sig + `}`,
		"empty payload":       env("", sig),
		"no type":             `{"payload":"` + okPayload + `","signatures":` + sig + `}`,
		"no signatures":       `{"payloadType":"t","payload":"` + okPayload + `"}`,
		"null signatures":     env(okPayload, "null"),
		"object signatures":   env(okPayload, "{}"),
		"empty signatures":    env(okPayload, "[]"),
		"null signature":      env(okPayload, "[null]"),
		"empty signature":     env(okPayload, `[{"sig":""}]`),
		"seventeen":           env(okPayload, `[`+strings.Repeat(`{"sig":"AAE="},`, 16)+`{"sig":"AAE="}]`),
		"unpadded":            env(strings.TrimRight(okPayload, "="), sig),
		"newline":             env(`eyJh\nIjoxfQ==`, sig),
		"carriage return":     env(`eyJh\u000dIjoxfQ==`, sig),
		"space":               env(`eyJh IjoxfQ==`, sig),
		"newline at the end":  env(okPayload+`\n`, sig),
		"mixed alphabets":     env("-_+/", sig),
		"bits left over":      env("eyJhIjoxfR==", sig),
		"newline in sig":      env(okPayload, `[{"sig":"AA\nE="}]`),
		"folded type":         `{"payloadtype":"t","payload":"` + okPayload + `","signatures":` + sig + `}`,
		"folded in signature": env(okPayload, `[{"Sig":"AAE="}]`),
		"duplicate payload":   `{"payload":"AAE=","payloadType":"t","payload":"` + okPayload + `","signatures":` + sig + `}`,
		"duplicate sig":       env(okPayload, `[{"sig":"AAE=","sig":"AAE="}]`),
		"trailing":            env(okPayload, sig) + "{}",
		"array":               "[]",
		"empty":               "",
	} {
		if _, err := ParseEnvelope([]byte(in), Limits{}); err == nil {
			t.Errorf("%s: accepted", name)
		} else if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
			t.Errorf("%s: %v is of kind %v", name, err, k)
		}
	}
}

// Only the type decides what a payload is, whatever it looks like.
func TestEnvelopeStatementNeedsType(t *testing.T) {
	e := &Envelope{PayloadType: "text/plain", Payload: []byte(goodStatement)}
	if _, err := e.Statement(Limits{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("%v, want invalid", err)
	}
	e.PayloadType = PayloadType
	if _, err := e.Statement(Limits{}); err != nil {
		t.Error(err)
	}
}

func TestHostileDSSE(t *testing.T) {
	stranger := ecKey(t, elliptic.P256()).Public()
	for name, c := range map[string]struct {
		kind *fault.Kind
		step string // where it is refused
	}{
		"10k-signatures.json":   {fault.TooLarge, "parse"},
		"base64-newlines.json":  {fault.Invalid, "parse"},
		"payload-missing.json":  {fault.Invalid, "parse"},
		"payloadtype-swap.json": {fault.Invalid, "statement"},
		"keyid-lies.json":       {fault.Unverified, "verify"},
	} {
		raw := vectors.Read(t, "hostile/dsse", name)
		vectors.Within(t, hostileTime, hostileBytes, func() {
			step := "parse"
			e, err := ParseEnvelope(raw, Limits{})
			if err == nil {
				step = "statement"
				_, err = e.Statement(Limits{})
			}
			if err == nil {
				step = "verify"
				_, err = VerifyDSSE(e, stranger)
			}
			if !errors.Is(err, c.kind) || step != c.step {
				t.Errorf("%s: %v at %s, want %v at %s", name, err, step, c.kind.Name(), c.step)
			}
		})
	}
}
