package ct

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/tlog"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/cryptobyte"
)

var at = time.Date(2026, 11, 22, 10, 0, 0, 123e6, time.UTC)

func options(t *testing.T) Options {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), tlog.Migrations); err != nil {
		t.Fatal(err)
	}
	return Options{
		Options: tlog.Options{Dir: filepath.Join(t.TempDir(), "ct"), Origin: "log.example/ct", Signer: key, DB: db, Clock: clock.Fixed(at)},
		Issuers: []*x509.Certificate{{Raw: []byte("issuer")}},
	}
}

func open(t *testing.T, o Options) *CT {
	t.Helper()
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// checkSCT verifies an SCT as RFC 6962 section 3.2 has it, from its parts, and
// gives the index that it names.
func checkSCT(t *testing.T, c *CT, o Options, sct, tbs []byte, issuer [32]byte) uint64 {
	t.Helper()
	s := cryptobyte.String(sct)
	var version uint8
	var id [32]byte
	var ts uint64
	var ext, sig cryptobyte.String
	var alg uint16
	if !s.ReadUint8(&version) || !s.CopyBytes(id[:]) || !s.ReadUint64(&ts) || !s.ReadUint16LengthPrefixed(&ext) ||
		!s.ReadUint16(&alg) || !s.ReadUint16LengthPrefixed(&sig) || !s.Empty() {
		t.Fatalf("malformed SCT %x", sct)
	}
	pub := o.Signer.Public().(*ecdsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	if version != 0 || id != sha256.Sum256(der) || ts != uint64(at.UnixMilli()) || alg != 0x0403 {
		t.Errorf("version %d, id %x, time %d, algorithm %04x", version, id, ts, alg)
	}
	var b bytes.Buffer // written by hand, apart from the package's own code
	b.Write([]byte{0, 0})
	_ = binary.Write(&b, binary.BigEndian, ts)
	b.Write([]byte{0, 1})
	b.Write(issuer[:])
	b.Write([]byte{byte(len(tbs) >> 16), byte(len(tbs) >> 8), byte(len(tbs))})
	b.Write(tbs)
	_ = binary.Write(&b, binary.BigEndian, uint16(len(ext)))
	b.Write(ext)
	digest := sha256.Sum256(b.Bytes())
	if !ecdsa.VerifyASN1(pub, digest[:], sig) {
		t.Error("the SCT's signature does not verify")
	}
	index, err := parseIndex(ext)
	if err != nil {
		t.Fatal(err)
	}
	// The leaf of RFC 6962 section 3.4 is in the tree at that index.
	leaf := b.Bytes() // v1, timestamped_entry are zero as well
	cp := c.Log().Head()
	p, err := c.Log().InclusionProof(t.Context(), index, cp.Size)
	if err != nil {
		t.Fatal(err)
	}
	h := tlog.LeafHash(leaf)
	if err := tlog.VerifyInclusion(index, cp.Size, h[:], p, cp.Root[:]); err != nil {
		t.Error(err)
	}
	return index
}

func TestAddPreCert(t *testing.T) {
	o := options(t)
	c := open(t, o)
	issuer := sha256.Sum256([]byte("issuer key"))
	var mu sync.Mutex
	seen := map[uint64][]byte{}
	run := func(from, n int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				tbs := bytes.Repeat([]byte{byte(from + i)}, 100+from+i)
				sct, err := c.AddPreCert(t.Context(), tbs, issuer)
				if err != nil {
					t.Error(err)
					return
				}
				index := checkSCT(t, c, o, sct, tbs, issuer)
				mu.Lock()
				defer mu.Unlock()
				if seen[index] != nil {
					t.Errorf("index %d given twice", index)
				}
				seen[index] = tbs
			})
		}
		wg.Wait()
	}
	run(0, 300)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, o)
	run(300, 20)
	if got := c.Log().Head().Size; got != 320 {
		t.Errorf("%d entries, want 320", got)
	}
	chain := sha256.Sum256([]byte("issuer"))
	for index, tbs := range seen {
		rs, err := c.Log().Tree().Records(t.Context(), index, index+1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseEntry(rs[0].Raw)
		if err != nil {
			t.Fatal(err)
		}
		want := Entry{Timestamp: uint64(at.UnixMilli()), Index: index, IssuerKeyHash: issuer, TBS: tbs, Precert: true, Chain: [][]byte{chain[:]}}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("entry %d (-want +got):\n%s", index, d)
		}
	}
	v, err := tlog.NewCTVerifier(o.Origin, o.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	note, err := c.Log().Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tlog.ParseCheckpoint(note, v); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	o := options(t)
	c := open(t, o)
	for _, n := range []int{0, maxTBS + 1} {
		if _, err := c.AddPreCert(t.Context(), make([]byte, n), [32]byte{}); !errors.Is(err, fault.TooLarge) {
			t.Errorf("a TBSCertificate of %d bytes: %v", n, err)
		}
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bad := o
	bad.Signer = ed
	if _, err := Open(t.Context(), bad); !errors.Is(err, fault.Invalid) {
		t.Errorf("an Ed25519 key: %v", err)
	}
}

func TestSCTList(t *testing.T) {
	b, err := SCTList([]byte{1, 2, 3}, []byte{4})
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	if rest, err := asn1.Unmarshal(b, &raw); err != nil || len(rest) != 0 {
		t.Fatalf("%v, %x left", err, rest)
	}
	if want := []byte{0, 8, 0, 3, 1, 2, 3, 0, 1, 4}; !bytes.Equal(raw, want) {
		t.Errorf("%x, want %x", raw, want)
	}
	if _, err := SCTList(make([]byte, 1<<16)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a list too long: %v", err)
	}
}

func TestHandler(t *testing.T) {
	c := open(t, options(t))
	if _, err := c.AddPreCert(t.Context(), []byte("tbs"), [32]byte{}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("issuer"))
	tests := map[string]int{
		"/checkpoint": 200, "/tile/0/000.p/1": 200, "/tile/data/000.p/1": 403, "/tile/entries/000.p/1": 404,
		"/issuer/" + hexName(sum): 200, "/issuer/" + hexName(tlog.Hash{}): 404, "/issuer/../lock": 404,
	}
	for path, want := range tests {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		c.Handler(nil).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func FuzzCodec(f *testing.F) {
	entry, err := timestampedEntry(1, 1<<39, []byte("tbs"), [32]byte{7})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tileLeaf(entry, []byte("tbs"), make([]byte, 32)))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 'c', 0, 8, 0, 0, 5, 0, 0, 0, 0, 9, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, leaf, err := Codec{}.Split(b)
		if err != nil {
			return
		}
		e, err := ParseEntry(raw)
		if err != nil {
			t.Fatalf("split, but not parsed: %x", raw)
		}
		if len(raw) == 0 || !bytes.HasPrefix(b, raw) || len(e.TBS) == 0 || !bytes.Contains(leaf, e.TBS) {
			t.Errorf("%x was split into %x, %x", b, raw, leaf)
		}
	})
}
