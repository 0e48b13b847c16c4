package authority

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"assay/internal/clock"
	"assay/internal/fault"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/timestamp-authority/v2/pkg/verification"
)

var message = []byte("a signature")

func imprint(h crypto.Hash) []byte {
	d := h.New()
	d.Write(message)
	return d.Sum(nil)
}

func marshalQuery(t testing.TB, r timestamp.Request) []byte {
	t.Helper()
	b, err := r.Marshal()
	must(t, err)
	return b
}

func TestTimestamp(t *testing.T) {
	s := newSite(t, siteOptions{})
	leaf, rootCert := s.material.TSAChain[0], s.material.TSAChain[1]
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for _, certReq := range []bool{false, true} {
			for _, nonce := range []*big.Int{nil, big.NewInt(0), big.NewInt(42), new(big.Int).Lsh(big.NewInt(1), 159)} {
				for _, policy := range []asn1.ObjectIdentifier{nil, PolicyOID} {
					before := time.Now().Truncate(time.Second)
					resp, err := s.tsa.Timestamp(bg, marshalQuery(t, timestamp.Request{
						HashAlgorithm: h, HashedMessage: imprint(h), Certificates: certReq, Nonce: nonce, TSAPolicyOID: policy,
					}))
					must(t, err)
					ts, err := verification.VerifyTimestampResponse(resp, bytes.NewReader(message), verification.VerifyOpts{
						OID: PolicyOID, TSACertificate: leaf, Roots: []*x509.Certificate{rootCert}, Nonce: nonce,
					})
					if err != nil {
						t.Fatalf("%s, certificates %v, nonce %s: %v", h, certReq, nonce, err)
					}
					if (len(ts.Certificates) == 1) != certReq || certReq && !ts.Certificates[0].Equal(leaf) {
						t.Errorf("certReq %v: %d certificates", certReq, len(ts.Certificates))
					}
					if ts.HashAlgorithm != h || ts.Time.Before(before) || ts.Time.After(time.Now()) || ts.SerialNumber.BitLen() > 160 || ts.Accuracy != time.Second {
						t.Errorf("timestamp %+v", ts)
					}
					if (nonce == nil) != (ts.Nonce == nil) || nonce != nil && nonce.Cmp(ts.Nonce) != 0 {
						t.Errorf("nonce %s, want %s", ts.Nonce, nonce)
					}
				}
			}
		}
	}
}

// A timestamp is of its own imprint, TSA and time only.
func TestTimestampBinds(t *testing.T) {
	s, other := newSite(t, siteOptions{}), newSite(t, siteOptions{})
	resp, err := s.tsa.Timestamp(bg, marshalQuery(t, timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: imprint(crypto.SHA256)}))
	must(t, err)
	authority := (&trusted{s: s}).TimestampingAuthorities()[0]
	if _, err := authority.Verify(resp, message); err != nil {
		t.Fatal(err)
	}
	if _, err := authority.Verify(resp, []byte("another signature")); err == nil {
		t.Error("accepted for another signature")
	}
	if _, err := (&trusted{s: other}).TimestampingAuthorities()[0].Verify(resp, message); err == nil {
		t.Error("accepted by another authority")
	}
	for i := 0; i < len(resp); i += 7 {
		bad := bytes.Clone(resp)
		bad[i] ^= 1
		if got, err := authority.Verify(bad, message); err == nil {
			// A bit outside what is signed, such as an optional NULL, may
			// change; what is told may not.
			if want, err := authority.Verify(resp, message); err != nil || *got != *want {
				t.Errorf("bit flipped in byte %d: %v", i, got)
			}
		}
	}
}

func TestThreat_TSA_HostileQueries(t *testing.T) {
	s := newSite(t, siteOptions{})
	sum := imprint(crypto.SHA256)
	good := timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: sum}
	q := func(change func(r *timestamp.Request)) []byte {
		r := good
		change(&r)
		return marshalQuery(t, r)
	}
	raw := marshalQuery(t, good)
	version2 := bytes.Clone(raw)
	version2[4] = 2
	sha1 := make([]byte, 20)
	for name, c := range map[string]struct {
		query  []byte
		reason timestamp.FailureInfo // -1: no TimeStampResp, an error
	}{
		"empty":            {nil, -1},
		"garbage":          {[]byte("hello"), -1},
		"trailing data":    {append(bytes.Clone(raw), 0), -1},
		"cut":              {raw[:len(raw)-1], -1},
		"too long":         {bytes.Repeat([]byte{0x30}, maxTimestampQuery+1), -1},
		"version 2":        {version2, timestamp.BadRequest},
		"SHA-1":            {q(func(r *timestamp.Request) { r.HashAlgorithm, r.HashedMessage = crypto.SHA1, sha1 }), timestamp.BadAlgorithm},
		"MD5":              {oidQuery(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}, sha1[:16]), timestamp.BadAlgorithm},
		"SHA3-256":         {oidQuery(t, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 8}, sum), timestamp.BadAlgorithm},
		"short imprint":    {q(func(r *timestamp.Request) { r.HashedMessage = sum[:31] }), timestamp.BadDataFormat},
		"SHA-512's length": {q(func(r *timestamp.Request) { r.HashedMessage = append(sum, sum...) }), timestamp.BadDataFormat},
		"other policy":     {q(func(r *timestamp.Request) { r.TSAPolicyOID = asn1.ObjectIdentifier{1, 2, 3} }), timestamp.UnacceptedPolicy},
		"huge nonce":       {q(func(r *timestamp.Request) { r.Nonce = new(big.Int).Lsh(big.NewInt(1), 4000) }), timestamp.BadRequest},
		"extension": {q(func(r *timestamp.Request) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), timestamp.UnacceptedExtension},
	} {
		resp, err := s.tsa.Timestamp(bg, c.query)
		if resp != nil || err == nil {
			t.Errorf("%s was granted", name)
			continue
		}
		var rejection *Rejection
		if got := errors.As(err, &rejection); got != (c.reason >= 0) || got && rejection.Reason != c.reason {
			t.Errorf("%s: %v", name, err)
		}
		if rejection != nil {
			if _, err := timestamp.ParseResponse(rejection.Response); err == nil {
				t.Errorf("%s: the rejection is a timestamp", name)
			}
		}
	}
}

func oidQuery(t testing.TB, oid asn1.ObjectIdentifier, sum []byte) []byte {
	t.Helper()
	b, err := asn1.Marshal(struct {
		Version int
		Imprint struct {
			Algorithm pkix.AlgorithmIdentifier
			Message   []byte
		}
	}{1, struct {
		Algorithm pkix.AlgorithmIdentifier
		Message   []byte
	}{pkix.AlgorithmIdentifier{Algorithm: oid}, sum}})
	must(t, err)
	return b
}

func TestTimestampClock(t *testing.T) {
	for _, at := range []time.Duration{-time.Minute, intermediateLife + time.Minute, -30 * 365 * 24 * time.Hour} {
		s := newSite(t, siteOptions{clock: clock.Fixed(time.Now().Add(at))})
		_, err := s.tsa.Timestamp(bg, marshalQuery(t, timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: imprint(crypto.SHA256)}))
		var rejection *Rejection
		if !errors.As(err, &rejection) || rejection.Reason != timestamp.TimeNotAvailable || !errors.Is(err, fault.Unavailable) {
			t.Errorf("clock off by %s: %v", at, err)
		}
	}
}

func TestTimestampHTTP(t *testing.T) {
	s := newSite(t, siteOptions{})
	query := marshalQuery(t, timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: imprint(crypto.SHA256), Certificates: true})
	post := func(path, contentType string, body []byte) (*http.Response, []byte) {
		resp, err := http.Post(s.URL+path, contentType, bytes.NewReader(body))
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp, b
	}
	authority := (&trusted{s: s}).TimestampingAuthorities()[0]
	for _, path := range []string{"/tsa", "/tsa/", "/tsa/api/v1/timestamp"} {
		resp, b := post(path, "application/timestamp-query", query)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/timestamp-reply" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, resp.Header)
		}
		if _, err := authority.Verify(b, message); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		client := sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: s.URL + path})
		if b, err := client.GetTimestamp(bg, message); err != nil {
			t.Errorf("%s, sigstore-go: %v", path, err)
		} else if _, err := authority.Verify(b, message); err != nil {
			t.Errorf("%s, sigstore-go: %v", path, err)
		}
	}
	for name, c := range map[string]struct {
		contentType string
		body        []byte
		status      int
	}{
		"as JSON":  {"application/json", query, 400},
		"no type":  {"", query, 400},
		"garbage":  {"application/timestamp-query", []byte("x"), 400},
		"too long": {"application/timestamp-query", bytes.Repeat([]byte{0}, 1<<20), 413},
		"SHA-1": {"application/timestamp-query",
			marshalQuery(t, timestamp.Request{HashAlgorithm: crypto.SHA1, HashedMessage: make([]byte, 20)}), 200}, // a TimeStampResp that rejects
	} {
		resp, b := post("/tsa", c.contentType, c.body)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d %q, want %d", name, resp.StatusCode, b, c.status)
		}
		if _, err := timestamp.ParseResponse(b); err == nil {
			t.Errorf("%s: a timestamp was granted", name)
		}
	}
	resp, err := http.Get(s.URL + "/tsa/api/v1/timestamp/certchain")
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != 200 || !bytes.Equal(b, encodeChain(s.material.TSAChain)) {
		t.Errorf("certchain: %d %s", resp.StatusCode, b)
	}
}

// OpenSSL, which shares no code with us, verifies the timestamp.
func TestTimestampOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: its view of the timestamp is not tested")
	}
	s := newSite(t, siteOptions{})
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, b, 0o600))
		return path
	}
	data := write("data", message)
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	query := filepath.Join(dir, "query")
	run("ts", "-query", "-data", data, "-sha384", "-cert", "-out", query)
	b, err := os.ReadFile(query)
	must(t, err)
	resp, err := s.tsa.Timestamp(bg, b)
	must(t, err)
	rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.material.TSAChain[1].Raw})
	run("ts", "-verify", "-in", write("reply", resp), "-queryfile", query, "-CAfile", write("root.pem", rootPEM))
	run("ts", "-verify", "-in", filepath.Join(dir, "reply"), "-data", data, "-CAfile", filepath.Join(dir, "root.pem"))
}

func FuzzTimestamp(f *testing.F) {
	s := newSite(f, siteOptions{})
	sum := sha256.Sum256(message)
	for _, r := range []timestamp.Request{
		{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:]},
		{HashAlgorithm: crypto.SHA512, HashedMessage: imprint(crypto.SHA512), Certificates: true, Nonce: big.NewInt(7), TSAPolicyOID: PolicyOID},
		{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], ExtraExtensions: []pkix.Extension{{Id: PolicyOID, Value: []byte{5, 0}}}},
	} {
		f.Add(marshalQuery(f, r))
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		resp, err := s.tsa.Timestamp(bg, query)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Fatalf("%v of %x", err, query)
			}
			return
		}
		ts, err := timestamp.ParseResponse(resp)
		if err != nil {
			t.Fatalf("a granted timestamp does not parse: %v, of %x", err, query)
		}
		req, err := timestamp.ParseRequest(query)
		if err != nil || !bytes.Equal(req.HashedMessage, ts.HashedMessage) || req.HashAlgorithm != ts.HashAlgorithm {
			t.Fatalf("granted %+v for %x (%v)", ts, query, err)
		}
	})
}

func BenchmarkTimestamp(b *testing.B) {
	s := newSite(b, siteOptions{})
	query := marshalQuery(b, timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: imprint(crypto.SHA256), Certificates: true})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.tsa.Timestamp(bg, query); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignature is what no timestamp can do without, to compare with.
func BenchmarkSignature(b *testing.B) {
	sum := sha256.Sum256(message)
	for b.Loop() {
		if _, err := testKey.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}
