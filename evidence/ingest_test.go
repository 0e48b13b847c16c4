package evidence_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

func TestIngest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		bundle := s.attest(t, "app", attestation.PredicateProvenanceV1)
		records, isNew := s.ingest(t, bundle, "team/app")
		if !isNew {
			t.Error("the first time is not new")
		}
		want := []evidence.Record{{
			ID: "att_" + artifact.SHA256Of(bundle).Hex(), Subject: digest("app"), Scheme: trust.SchemeDSSE,
			PredicateType: attestation.PredicateProvenanceV1, Signer: evidence.Signer{Issuer: testIssuer, Subject: testSubject},
			Root: "test", TrustedTime: s.world.Start.Add(2 * time.Minute), TimeSource: "tsa", LogIndex: 0,
			Size: int64(len(bundle)), Repository: "team/app", Source: "api",
		}}
		ignore := cmpopts.IgnoreFields(evidence.Record{}, "IngestedAt", "LogID", "Signer.Key")
		if d := cmp.Diff(want, records, ignore); d != "" {
			t.Errorf("records (-want +got):\n%s", d)
		}
		r := records[0]
		if r.IngestedAt.IsZero() || len(r.LogID) != 64 || !strings.HasPrefix(r.Signer.Key, "sha256:") || r.BundleDigest() != artifact.SHA256Of(bundle) {
			t.Errorf("record lacks its time, log or key: %+v", r)
		}
		stored, err := s.Get(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(records, stored); d != "" {
			t.Errorf("what was answered is not what is stored (-answered +stored):\n%s", d)
		}
		got, err := s.Bundle(t.Context(), r.ID)
		if err != nil || !bytes.Equal(got, bundle) {
			t.Errorf("bundle: %v, %d bytes, want the %d that were ingested", err, len(got), len(bundle))
		}
		wantEvent := []map[string]any{{"id": r.ID, "predicate_type": attestation.PredicateProvenanceV1, "issuer": testIssuer, "identity": testSubject,
			"log_index": 0.0, "subjects": 1.0, "source": "api", "repository": "team/app"}}
		if d := cmp.Diff(wantEvent, s.events(t, event.AttestationIngested)); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

// A message signature is about the digest that it signs.
func TestIngestMessageSignature(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		records, _ := s.ingest(t, s.sign(t, "app"), "")
		if len(records) != 1 || records[0].Subject != digest("app") || records[0].PredicateType != "" || records[0].Scheme != trust.SchemeMessage {
			t.Errorf("records %+v, want one message signature over %s", records, digest("app"))
		}
	})
}

func TestIngestKeySigned(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		key := trusttest.NewKey(t)
		bundle := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Key: key}).JSON(t)
		_, _, err := s.Ingest(t.Context(), bundle, origin(""))
		wantKind(t, err, fault.Unverified, trust.CodeKeyMissing)
		s.verifier.keys = []trust.Key{{Public: key.Public()}}
		records, _ := s.ingest(t, bundle, "")
		want, err := trust.KeyFingerprint(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(evidence.Signer{Key: want}, records[0].Signer); d != "" {
			t.Errorf("signer (-want +got):\n%s", d)
		}
		if got := s.events(t, event.AttestationIngested)[0]["key"]; got != want {
			t.Errorf("event names key %v, want %s", got, want)
		}
	})
}

// Every strong digest of every subject is a record, each once.
func TestIngestManySubjects(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		var subjects []attestation.Subject
		want := map[artifact.Digest]bool{}
		for i := range 300 {
			d := digest(fmt.Sprint(i % 290)) // ten of them twice
			set := artifact.DigestSet{"sha256": d.Hex(), "sha1": strings.Repeat("0", 40)}
			want[d] = true
			if i%3 == 0 {
				long := artifact.Digest("sha512:" + d.Hex() + d.Hex())
				set["sha512"], want[long] = long.Hex(), true
			}
			subjects = append(subjects, attestation.Subject{Name: fmt.Sprint("file ", i), Digest: set})
		}
		records, _ := s.ingest(t, s.statement(t, subjects...), "team/app")
		got := map[artifact.Digest]bool{}
		for _, r := range records {
			got[r.Subject] = true
		}
		if d := cmp.Diff(want, got); d != "" || len(records) != len(want) {
			t.Errorf("%d records, want %d (-want +got):\n%s", len(records), len(want), d)
		}
		stored, err := s.Get(t.Context(), records[0].ID)
		if err != nil || len(stored) != len(want) {
			t.Errorf("%d records stored (%v), want %d", len(stored), err, len(want))
		}
		if n := len(s.events(t, event.AttestationIngested)); n != 1 {
			t.Errorf("%d events, want one for the bundle", n)
		}
	})
}

// statement makes a bundle about the given subjects.
func (s *site) statement(t testing.TB, subjects ...attestation.Subject) []byte {
	t.Helper()
	st := attestation.Statement{Type: attestation.StatementV1, Subject: subjects, PredicateType: attestation.PredicateRelease, Predicate: []byte(`{}`)}
	raw, err := st.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return s.world.Draft(t, trusttest.Request{Statement: raw, Leaf: leaf()}).JSON(t)
}

func TestIngestIsIdempotent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		reg := prometheus.NewRegistry()
		s := open(t, db, func(o *evidence.Options) { o.Registerer = reg })
		bundle := s.attest(t, "app", attestation.PredicateSPDX)
		first, _ := s.ingest(t, bundle, "team/app")
		for range 3 {
			again, isNew := s.ingest(t, bundle, "team/app")
			if d := cmp.Diff(first, again); d != "" || isNew {
				t.Errorf("again: new %v (-first +again):\n%s", isNew, d)
			}
		}
		if n := s.verifier.calls.Load(); n != 1 {
			t.Errorf("verified %d times, want once for known bytes under the same trust epoch", n)
		}
		// Another repository is another origin, and nothing else.
		again, isNew := s.ingest(t, bundle, "team/mirror")
		if d := cmp.Diff(first, again); d != "" || isNew {
			t.Errorf("from elsewhere: new %v (-first +again):\n%s", isNew, d)
		}
		for _, repository := range []string{"team/app", "team/mirror"} {
			got, err := s.List(t.Context(), evidence.Filter{Repository: repository})
			if err != nil || len(got) != 1 {
				t.Errorf("%s lists %d records (%v), want 1", repository, len(got), err)
			}
		}
		if b, sub, o, e := s.count(t, "evidence_bundle"), s.count(t, "evidence_subject"), s.count(t, "evidence_origin"), len(s.events(t, event.AttestationIngested)); b != 1 || sub != 1 || o != 2 || e != 1 {
			t.Errorf("%d bundles, %d subjects, %d origins, %d events; want 1, 1, 2, 1", b, sub, o, e)
		}
		err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP assay_evidence_ingested_total Bundles brought to the evidence store, by result.
# TYPE assay_evidence_ingested_total counter
assay_evidence_ingested_total{result="duplicate"} 4
assay_evidence_ingested_total{result="error"} 0
assay_evidence_ingested_total{result="new"} 1
assay_evidence_ingested_total{result="rejected"} 0
`), "assay_evidence_ingested_total")
		if err != nil {
			t.Error(err)
		}
	})
}

// Known bytes are verified again once the trust epoch has risen.
func TestIngestAfterEpochRose(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		bundle := s.attest(t, "app", attestation.PredicateSPDX)
		first, _ := s.ingest(t, bundle, "")
		raise := func() {
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				_, err := trust.RaiseEpoch(t.Context(), tx, "test")
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		raise()
		s.verifier.root = s.world.Root(t, trust.WithName("renamed"))
		again, isNew := s.ingest(t, bundle, "")
		if isNew || again[0].TrustEpoch != 1 || again[0].Root != "renamed" || !again[0].IngestedAt.Equal(first[0].IngestedAt) {
			t.Errorf("new %v, record %+v; want the old one under epoch 1 and root renamed", isNew, again[0])
		}
		stored, err := s.Get(t.Context(), first[0].ID)
		if d := cmp.Diff(again, stored); d != "" || err != nil {
			t.Errorf("%v (-answered +stored):\n%s", err, d)
		}
		if n := len(s.events(t, event.AttestationIngested)); n != 1 {
			t.Errorf("%d events, want 1: nothing was ingested", n)
		}
		// A root that does not know the signer any more refuses the same bytes.
		raise()
		s.verifier.root = trusttest.New(t).Root(t)
		_, _, err = s.Ingest(t.Context(), bundle, origin(""))
		if !errors.Is(err, fault.Unverified) {
			t.Errorf("error %v, want unverified under the new root", err)
		}
	})
}

// Fifty callers with the same bytes at once make one record and one event.
func TestIngestSameBundleConcurrently(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		bundle := s.attest(t, "app", attestation.PredicateSPDX)
		var wg sync.WaitGroup
		var mu sync.Mutex
		news, ids := 0, map[string]int{}
		for i := range 50 {
			wg.Go(func() {
				records, isNew, err := s.Ingest(t.Context(), bundle, origin(fmt.Sprintf("team/app-%d", i%5)))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				if isNew {
					news++
				}
				ids[records[0].ID+" "+records[0].IngestedAt.String()]++
			})
		}
		wg.Wait()
		if news != 1 || len(ids) != 1 {
			t.Errorf("%d callers were told that it is new, records %v; want 1 and one", news, ids)
		}
		if b, sub, o, e := s.count(t, "evidence_bundle"), s.count(t, "evidence_subject"), s.count(t, "evidence_origin"), len(s.events(t, event.AttestationIngested)); b != 1 || sub != 1 || o != 5 || e != 1 {
			t.Errorf("%d bundles, %d subjects, %d origins, %d events; want 1, 1, 5, 1", b, sub, o, e)
		}
	})
}

func TestIngestBatch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		var bundles [][]byte
		for i := range 150 {
			bundles = append(bundles, s.attest(t, fmt.Sprint("app ", i), attestation.PredicateSPDX))
		}
		s.ingest(t, bundles[3], "")
		bad := bytes.Replace(bundles[7], []byte(`"payload":"e`), []byte(`"payload":"f`), 1)
		bundles[7], bundles[8], bundles[140] = bad, []byte(`{}`), bundles[20]
		results := s.IngestBatch(t.Context(), bundles, origin("import/all"))
		for i, r := range results {
			switch i {
			case 7:
				wantKind(t, r.Err, fault.Unverified, trust.CodeTLogMismatch)
			case 8:
				wantKind(t, r.Err, fault.Invalid, trust.CodeBundleMalformed)
			case 3:
				if r.Err != nil || r.New {
					t.Errorf("bundle 3: %+v, want a duplicate", r)
				}
			case 20, 140: // the same: either may be first
				if r.Err != nil || results[20].New == results[140].New {
					t.Errorf("bundle %d: %+v, want one of the two new", i, r)
				}
			default:
				if r.Err != nil || !r.New || r.Records[0].ID != evidence.ID(bundles[i]) || r.Records[0].Subject != digest(fmt.Sprint("app ", i)) {
					t.Errorf("bundle %d: %+v", i, r)
				}
			}
		}
		if n, e := s.count(t, "evidence_bundle"), len(s.events(t, event.AttestationIngested)); n != 147 || e != 147 {
			t.Errorf("%d bundles and %d events, want 147 of each", n, e)
		}
		got, err := s.List(t.Context(), evidence.Filter{Repository: "import/all", Limit: 1000})
		if err != nil || len(got) != 147 {
			t.Errorf("%d records of the import (%v), want 147", len(got), err)
		}
	})
}

// Bundles over the inline limit lie in the blob store, and come back whole.
func TestIngestLargeBundle(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		st, err := attestation.NewStatement(attestation.PredicateCycloneDX, map[string]string{"bom": strings.Repeat("component ", 20_000)}, attestation.Subject{Digest: digest("app").Set()})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := st.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		large := s.world.Draft(t, trusttest.Request{Statement: raw, Leaf: leaf()}).JSON(t)
		records, _ := s.ingest(t, large, "")
		s.ingest(t, s.attest(t, "app", attestation.PredicateSPDX), "")
		if _, err := s.blobs.Stat(t.Context(), records[0].BundleDigest()); err != nil {
			t.Errorf("a bundle of %d bytes is not in the blob store: %v", len(large), err)
		}
		got, err := s.Bundle(t.Context(), records[0].ID)
		if err != nil || !bytes.Equal(got, large) {
			t.Errorf("%v, %d bytes, want the %d that were ingested", err, len(got), len(large))
		}
		var kept []artifact.Digest
		if err := s.References(t.Context(), func(d artifact.Digest) error { kept = append(kept, d); return nil }); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]artifact.Digest{records[0].BundleDigest()}, kept); d != "" {
			t.Errorf("blobs that must be kept (-want +got):\n%s", d)
		}
	})
}

// Bytes that changed in the store are never served, and an alert is raised
// once.
func TestThreat_Store_BitFlips(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, func(o *evidence.Options) { o.Limits.Inline = 8 << 10 })
		small := s.attest(t, "small", attestation.PredicateSPDX)
		large := s.statement(t, func() (out []attestation.Subject) {
			for i := range 100 {
				out = append(out, attestation.Subject{Digest: digest(fmt.Sprint("large ", i)).Set()})
			}
			return out
		}()...)
		ra, _ := s.ingest(t, small, "")
		rb, _ := s.ingest(t, large, "")
		small[len(small)/2] ^= 1
		s.exec(t, `UPDATE evidence_bundle SET content = ? WHERE id = ?`, small, ra[0].ID)
		flip(t, s.blobDir, rb[0].BundleDigest())
		for range 2 {
			for _, r := range []evidence.Record{ra[0], rb[0]} {
				if b, err := s.Bundle(t.Context(), r.ID); !errors.Is(err, fault.Tampered) || b != nil {
					t.Errorf("bundle %s: %d bytes and %v, want tampered and none", r.ID, len(b), err)
				}
				if _, _, err := s.Evidence(t.Context(), r.Subject); !errors.Is(err, fault.Tampered) {
					t.Errorf("evidence of %s: %v, want tampered", r.Subject, err)
				}
			}
		}
		if got := s.events(t, event.StoreTampered); len(got) != 2 || got[0]["name"] != ra[0].ID || got[0]["expected"] != string(ra[0].BundleDigest()) {
			t.Errorf("alerts %v, want one for each of the two bundles", got)
		}
		if err := s.blobs.Delete(t.Context(), rb[0].BundleDigest()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Bundle(t.Context(), rb[0].ID); !errors.Is(err, fault.Tampered) {
			t.Errorf("deleted blob: %v, want tampered", err)
		}
	})
}

func flip(t *testing.T, dir string, d artifact.Digest) {
	t.Helper()
	path := filepath.Join(dir, d.Algorithm(), d.Hex()[:2], d.Hex())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What the verifier cannot answer is not held against the bundle.
func TestIngestVerifierFails(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite), func(o *evidence.Options) {
		o.Verifier = failing{fault.Newf(fault.Unavailable, "the roots cannot be read")}
	})
	_, _, err := s.Ingest(t.Context(), s.attest(t, "app", attestation.PredicateSPDX), origin(""))
	wantKind(t, err, fault.Unavailable, "")
	if n := len(s.events(t, event.AttestationRejected)); n != 0 {
		t.Errorf("%d rejections, want none", n)
	}
}

type failing struct{ err error }

func (f failing) Verify(context.Context, *attestation.Bundle) (*trust.Verified, error) {
	return nil, f.err
}

func TestIngestRefusesOrigin(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	bundle := s.attest(t, "app", attestation.PredicateSPDX)
	for name, o := range map[string]evidence.Origin{
		"repository":  {Repository: "../etc"},
		"source":      {Source: strings.Repeat("x", 65)},
		"actor":       {Actor: strings.Repeat("x", 1025)},
		"NUL":         {Actor: "a\x00b"},
		"not unicode": {Source: "\xff"},
	} {
		if _, _, err := s.Ingest(t.Context(), bundle, o); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
		if r := s.IngestBatch(t.Context(), [][]byte{bundle}, o); !errors.Is(r[0].Err, fault.Invalid) {
			t.Errorf("%s in a batch: %v, want invalid", name, r[0].Err)
		}
	}
}

func TestNewRefusesOptions(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	s := open(t, db)
	for name, o := range map[string]evidence.Options{
		"DB":       {Blobs: s.blobs, Verifier: s.verifier},
		"Blobs":    {DB: db, Verifier: s.verifier},
		"Verifier": {DB: db, Blobs: s.blobs},
	} {
		if _, err := evidence.New(o); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v, want invalid and its name", name, err)
		}
	}
}
