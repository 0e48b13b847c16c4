package oracle

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"assay/store"
	"assay/store/storetest"
	"assay/tlog"
	"assay/tlog/ct"
	"assay/tlog/rekor"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	rekorverify "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"google.golang.org/protobuf/encoding/protojson"
)

const origin = "log.example"

func openLog(t *testing.T) (*tlog.Log, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := tlog.Open(t.Context(), tlog.Options{Dir: dir, Origin: origin, Signer: key, DB: openDB(t), Deduplicate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, dir
}

func openDB(t *testing.T) *store.DB {
	t.Helper()
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), tlog.Migrations); err != nil {
		t.Fatal(err)
	}
	return db
}

// bundleHashes is what Tessera's fsck asks for: the leaf hashes of a bundle.
func bundleHashes(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		raw, leaf, err := tlog.Plain{}.Split(b)
		if err != nil {
			return nil, err
		}
		out = append(out, rfc6962.DefaultHasher.HashLeaf(leaf))
		b = b[len(raw):]
	}
	return out, nil
}

// TestTesseraReadsTheFolder: Tessera's checker rebuilds the whole tree out of
// our folder, and its client's proofs are ours.
func TestTesseraReadsTheFolder(t *testing.T) {
	l, dir := openLog(t)
	ctx := t.Context()
	f := client.FileFetcher{Root: dir}
	verifier, err := signature.LoadVerifier(l.Public(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	nv, err := rekornote.NewNoteVerifier(origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, n := range []int{1, 2, 253, 1, 300, 70000} {
		addMany(t, l, total, n)
		total += n
		if err := fsck.New(origin, nv, f, bundleHashes, fsck.Opts{N: 2}).Check(ctx); err != nil {
			t.Fatalf("at %d entries: %v", total, err)
		}
		size := l.Head().Size
		theirs, err := client.NewProofBuilder(ctx, size, f.ReadTile)
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(0); i < size; i += max(1, size/50) {
			want, err := theirs.InclusionProof(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.InclusionProof(ctx, i, size)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("proof of %d in %d: %x (%v), Tessera's %x", i, size, got, err, want)
			}
			if i == 0 {
				continue
			}
			want, err = theirs.ConsistencyProof(ctx, i, size)
			if err != nil {
				t.Fatal(err)
			}
			got, err = l.ConsistencyProof(ctx, i, size)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("consistency of %d with %d: %x (%v), Tessera's %x", i, size, got, err, want)
			}
		}
	}
}

// TestTesseraReadsOverHTTP: the tile handler serves Tessera's HTTP client.
func TestTesseraReadsOverHTTP(t *testing.T) {
	l, _ := openLog(t)
	addMany(t, l, 0, 700)
	srv := httptest.NewServer(l.TileHandler(func(*http.Request) error { return nil }))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(u, srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	if err := fsck.New(origin, l.Verifier(), f, bundleHashes, fsck.Opts{N: 2}).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func addMany(t *testing.T, l *tlog.Log, from, n int) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2000)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := l.Add(context.Background(), fmt.Appendf(nil, "entry %d", from+i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestRekorTilesAgrees: for every algorithm the canonical entry is the one that
// rekor-tiles makes of the same request, rekor-tiles' own client writes it, and
// its verifier accepts the answer.
func TestRekorTilesAgrees(t *testing.T) {
	l, _ := openLog(t)
	s, err := rekor.New(l, rekor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	defer srv.Close()
	w, err := write.NewWriter(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(l.Public(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	nv, err := rekornote.NewNoteVerifier(origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	_, logID, err := rekornote.KeyHash(origin, l.Public())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := signature.NewAlgorithmRegistryConfig([]commonpb.PublicKeyDetails{
		commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
		commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256, commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		commonpb.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, commonpb.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
		commonpb.PublicKeyDetails_PKIX_ED25519_PH,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range signers(t) {
		for _, cert := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/certificate=%v", name, cert), func(t *testing.T) {
				req := request(t, c, cert)
				entry, err := hashedrekord.ToLogEntry(req, registry)
				if err != nil {
					t.Fatal(err)
				}
				j, err := protojson.Marshal(entry)
				if err != nil {
					t.Fatal(err)
				}
				want, err := jsoncanonicalizer.Transform(j)
				if err != nil {
					t.Fatal(err)
				}
				tle, err := w.Add(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				if string(tle.CanonicalizedBody) != string(want) {
					t.Errorf("body %s\nrekor-tiles' %s", tle.CanonicalizedBody, want)
				}
				if err := rekorverify.VerifyLogEntry(tle, nv); err != nil {
					t.Error(err)
				}
				hash, err := hashedrekord.ToEntryHash(req.Digest, req.Signature)
				if err != nil {
					t.Fatal(err)
				}
				if err := rekorverify.VerifyLogEntryWithHash(tle, nv, hash); err != nil {
					t.Error(err)
				}
				if string(tle.LogId.KeyId) != string(logID) {
					t.Errorf("log id %x, rekor-tiles' %x", tle.LogId.KeyId, logID)
				}
			})
		}
	}
}

type signingKey struct {
	key     crypto.Signer
	hash    crypto.Hash
	details commonpb.PublicKeyDetails
}

func signers(t *testing.T) map[string]signingKey {
	t.Helper()
	ec := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rs := func(bits int) crypto.Signer {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]signingKey{
		"P-256":     {ec(elliptic.P256()), crypto.SHA256, commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256},
		"P-384":     {ec(elliptic.P384()), crypto.SHA384, commonpb.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384},
		"P-521":     {ec(elliptic.P521()), crypto.SHA512, commonpb.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512},
		"Ed25519ph": {ed, crypto.SHA512, commonpb.PublicKeyDetails_PKIX_ED25519_PH},
		"RSA-2048":  {rs(2048), crypto.SHA256, commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256},
		"RSA-3072":  {rs(3072), crypto.SHA256, commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256},
	}
}

func request(t *testing.T, c signingKey, cert bool) *pb.HashedRekordRequestV002 {
	t.Helper()
	h := c.hash.New()
	h.Write([]byte("artifact"))
	digest := h.Sum(nil)
	var opts crypto.SignerOpts = c.hash
	if _, ok := c.key.(ed25519.PrivateKey); ok {
		opts = &ed25519.Options{Hash: c.hash}
	}
	sig, err := c.key.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	v := &pb.Verifier{KeyDetails: c.details}
	if cert {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), EmailAddresses: []string{"a@example.com"}}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, c.key.Public(), c.key)
		if err != nil {
			t.Fatal(err)
		}
		v.Verifier = &pb.Verifier_X509Certificate{X509Certificate: &commonpb.X509Certificate{RawBytes: der}}
	} else {
		der, err := x509.MarshalPKIXPublicKey(c.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		v.Verifier = &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: der}}
	}
	return &pb.HashedRekordRequestV002{Digest: digest, Signature: &pb.Signature{Content: sig, Verifier: v}}
}

// TestSigstoreGoVerifiesSCT: a certificate with our SCT passes sigstore-go, with
// the CT log's key from a trusted root.
func TestSigstoreGoVerifiesSCT(t *testing.T) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	caTmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, caTmpl, caTmpl, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	ctKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log, err := ct.Open(t.Context(), ct.Options{
		Options: tlog.Options{Dir: t.TempDir(), Origin: "log.example/ct", Signer: ctKey, DB: openDB(t)},
		Issuers: []*x509.Certificate{ca},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	id := log.ID()
	material := &rootOf{logs: map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
		ID: id[:], HashFunc: crypto.SHA256, PublicKey: ctKey.Public(), SignatureHashFunc: crypto.SHA256,
		ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}}
	for i := range 3 {
		leaf := issue(t, log, ca, caKey, int64(i+2), true)
		if err := verify.VerifySignedCertificateTimestamp([][]*x509.Certificate{{leaf, ca}}, 1, material); err != nil {
			t.Errorf("certificate %d: %v", i, err)
		}
	}
	// An SCT of another certificate does not do.
	leaf := issue(t, log, ca, caKey, 99, false)
	if err := verify.VerifySignedCertificateTimestamp([][]*x509.Certificate{{leaf, ca}}, 1, material); err == nil {
		t.Error("an SCT of another certificate was accepted")
	}
}

type rootOf struct {
	root.BaseTrustedMaterial
	logs map[string]*root.TransparencyLog
}

func (r *rootOf) CTLogs() map[string]*root.TransparencyLog { return r.logs }

func issue(t *testing.T, log *ct.CT, ca *x509.Certificate, caKey crypto.Signer, serial int64, right bool) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now(), NotAfter: time.Now().Add(10 * time.Minute),
		EmailAddresses: []string{"a@example.com"}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	first, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(first)
	if err != nil {
		t.Fatal(err)
	}
	sct, err := log.AddPreCert(t.Context(), parsed.RawTBSCertificate, sha256.Sum256(ca.RawSubjectPublicKeyInfo))
	if err != nil {
		t.Fatal(err)
	}
	list, err := ct.SCTList(sct)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: list}}
	if !right {
		tmpl.EmailAddresses = []string{"b@example.com"}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
