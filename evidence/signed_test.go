package evidence_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// Other writings of one bundle are no more evidence: white space, another
// timestamp token over the same signature, from many at once.
func TestThreat_Attestation_CopiesOfOneBundle(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		wanted, _ := s.ingest(t, s.attest(t, "app", attestation.PredicateProvenanceV1), "team/app")
		d := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf()})
		first, _ := s.ingest(t, d.JSON(t), "team/app")
		sig := d.GetDsseEnvelope().Signatures[0].Sig
		var copies [][]byte
		for i := range 60 {
			copies = append(copies, append(bytes.Repeat([]byte(" "), i+1), d.JSON(t)...))
		}
		for i := range 20 {
			d.Stamps()[0].SignedTimestamp = s.world.Timestamp(t, sig, s.world.Start.Add(2*time.Minute+time.Duration(i)*time.Second), true)
			copies = append(copies, d.JSON(t))
		}
		var wg sync.WaitGroup
		for i, c := range copies {
			wg.Go(func() {
				r, isNew, err := s.Ingest(t.Context(), c, origin("mallory/x"))
				if err != nil || isNew {
					t.Errorf("copy %d: new %v, %v", i, isNew, err)
					return
				}
				if d := cmp.Diff(first, r); d != "" {
					t.Errorf("copy %d (-first +answered):\n%s", i, d)
				}
			})
		}
		wg.Wait()
		if n, e := s.count(t, "evidence_bundle"), len(s.events(t, event.AttestationIngested)); n != 2 || e != 2 {
			t.Errorf("%d bundles and %d events, want 2", n, e)
		}
		items, truncated, err := s.Evidence(t.Context(), digest("app"))
		if err != nil || truncated || len(items) != 2 || items[1].ID != wanted[0].ID {
			t.Errorf("%d items, truncated %v, %v; want both bundles", len(items), truncated, err)
		}
		if got, err := s.List(t.Context(), evidence.Filter{Repository: "mallory/x"}); err != nil || len(got) != 1 || got[0].ID != first[0].ID {
			t.Errorf("%d records from mallory/x (%v), want the one that is kept", len(got), err)
		}
	})
}

// Copies that are new come in at once; one of them is kept.
func TestCopiesAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		b := s.attest(t, "app", attestation.PredicateSPDX)
		var wg sync.WaitGroup
		var mu sync.Mutex
		fresh, ids := 0, map[string]bool{}
		for i := range 16 {
			wg.Go(func() {
				r, isNew, err := s.Ingest(t.Context(), append(bytes.Repeat([]byte("\n"), i), b...), origin(""))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ids[r[0].ID] = true
				if isNew {
					fresh++
				}
			})
		}
		wg.Wait()
		if n := s.count(t, "evidence_bundle"); fresh != 1 || len(ids) != 1 || n != 1 {
			t.Errorf("%d new, %d names, %d bundles; want one of each", fresh, len(ids), n)
		}
	})
}

// A copy that lost its log entry or its timestamp proves less, and does not keep
// the whole one out when it comes first.
func TestThreat_Attestation_CopyThatProvesLess(t *testing.T) {
	key := trusttest.NewKey(t)
	var s *site
	s = open(t, storetest.Open(t, store.SQLite), func(o *evidence.Options) {
		o.Verifier = verifierFunc(func(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
			return s.verifier.root.VerifyBundle(ctx, b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true,
				Keys: []trust.Key{{Public: key.Public()}}, Thresholds: &trust.Thresholds{}})
		})
	})
	d := s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Key: key})
	whole := d.JSON(t)
	entries := d.VerificationMaterial.TlogEntries
	d.VerificationMaterial.TlogEntries = nil
	if r, isNew := s.ingest(t, d.JSON(t), "mallory/x"); !isNew || r[0].LogIndex != -1 {
		t.Fatalf("without a log entry: new %v, %+v", isNew, r)
	}
	d.VerificationMaterial.TlogEntries, d.VerificationMaterial.TimestampVerificationData = entries, nil
	if r, isNew := s.ingest(t, d.JSON(t), "mallory/x"); !isNew || r[0].TimeSource == "tsa" {
		t.Fatalf("without a timestamp: new %v, %+v", isNew, r)
	}
	r, isNew := s.ingest(t, whole, "team/app")
	if !isNew || r[0].ID != evidence.ID(whole) || r[0].TimeSource != "tsa" || r[0].LogIndex < 0 {
		t.Errorf("new %v, %+v; want the whole bundle", isNew, r)
	}
}

// A copy under a later trust epoch takes the place of one that nobody asked
// about since.
func TestCopyAfterTrustChanged(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	b := s.attest(t, "app", attestation.PredicateSPDX)
	s.ingest(t, b, "")
	s.exec(t, `UPDATE evidence_bundle SET trust_epoch = trust_epoch - 1`)
	for i, want := range []bool{true, false} {
		if _, isNew := s.ingest(t, append(bytes.Repeat([]byte(" "), i+1), b...), ""); isNew != want {
			t.Errorf("copy %d: new %v, want %v", i, isNew, want)
		}
	}
}

// A stranger who signs without end does not displace the others: signers take
// turns, and types within a signer's.
func TestThreat_Attestation_FloodOfAnotherSigner(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, func(o *evidence.Options) { o.Limits.MaxEvidence = 8 })
		by := func(who, predicateType string) string {
			r, _ := s.ingest(t, s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), predicateType),
				Leaf: trusttest.Leaf{Issuer: testIssuer, Subject: who}}).JSON(t), who[:1]+"/app")
			return r[0].ID
		}
		const ci, mallory = "ci@assay.test", "mallory@assay.test"
		provenance := by(ci, attestation.PredicateProvenanceV1)
		old, recent := by(ci, attestation.PredicateSPDX), by(ci, attestation.PredicateSPDX)
		bob := by("bob@assay.test", attestation.PredicateSPDX)
		var flood []string
		for i := range 20 {
			flood = append([]string{by(mallory, fmt.Sprint("https://mallory.test/", i%7))}, flood...)
		}
		items, truncated, err := s.Evidence(t.Context(), digest("app"))
		if err != nil || !truncated {
			t.Errorf("truncated %v, %v; want true, there is more", truncated, err)
		}
		var got []string
		for _, i := range items {
			got = append(got, i.ID)
		}
		want := []string{flood[0], bob, recent, flood[1], provenance, flood[2], old, flood[3]}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("turns (-want +got):\n%s", d)
		}
	})
}
