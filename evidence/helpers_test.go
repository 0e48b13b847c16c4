package evidence_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"sync/atomic"
	"testing"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
	"assay/trust/trusttest"
)

// rootVerifier verifies under one root, as the site's verifier does under all.
type rootVerifier struct {
	root  *trust.Root
	keys  []trust.Key
	lim   attestation.Limits
	calls atomic.Int64
}

func (v *rootVerifier) Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
	v.calls.Add(1)
	return v.root.VerifyBundle(ctx, b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true, Keys: v.keys, Limits: v.lim})
}

// site is an evidence store with the trust domain that it trusts.
type site struct {
	*evidence.Store
	world    *trusttest.World
	verifier *rootVerifier
	db       *store.DB
	blobs    *blob.Dir
	blobDir  string
}

func open(t testing.TB, db *store.DB, change ...func(*evidence.Options)) *site {
	t.Helper()
	return openIn(t, db, trusttest.New(t), filepath.Join(t.TempDir(), "blobs"), change...)
}

func openIn(t testing.TB, db *store.DB, w *trusttest.World, blobDir string, change ...func(*evidence.Options)) *site {
	t.Helper()
	migrate(t, db)
	dir, err := blob.NewDir(blobDir, blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{world: w, verifier: &rootVerifier{root: w.Root(t, trust.WithName("test"))}, db: db, blobs: dir, blobDir: blobDir}
	o := evidence.Options{DB: db, Blobs: dir, Verifier: s.verifier}
	for _, c := range change {
		c(&o)
	}
	if s.Store, err = evidence.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func migrate(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Migrate(context.Background(), event.Migrations, sweep.Migrations, trust.Migrations, evidence.Migrations); err != nil {
		t.Fatal(err)
	}
}

const (
	testIssuer  = "https://oidc.assay.test"
	testSubject = "https://ci.assay.test/repo/build.yml@refs/heads/main"
)

func leaf() trusttest.Leaf { return trusttest.Leaf{Issuer: testIssuer, Subject: testSubject} }

// attest makes a keyless bundle with a statement about an artifact.
func (s *site) attest(t testing.TB, artifact, predicateType string) []byte {
	t.Helper()
	return s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte(artifact), predicateType), Leaf: leaf()}).JSON(t)
}

// sign makes a keyless bundle with a signature over an artifact itself.
func (s *site) sign(t testing.TB, artifact string) []byte {
	t.Helper()
	return s.world.Draft(t, trusttest.Request{Artifact: []byte(artifact), Leaf: leaf()}).JSON(t)
}

func digest(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }

func origin(repository string) evidence.Origin {
	return evidence.Origin{Repository: repository, Source: "api", Actor: "tester"}
}

// events reads the bodies of what was appended, of one kind, in order.
func (s *site) events(t testing.TB, kind event.Kind) (out []map[string]any) {
	t.Helper()
	err := s.db.View(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(t.Context(), `SELECT body FROM event_pending WHERE kind = ? ORDER BY time, ord`, string(kind))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				return err
			}
			body := map[string]any{}
			if err := json.Unmarshal([]byte(text), &body); err != nil {
				return err
			}
			out = append(out, body)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *site) count(t testing.TB, table string) (n int) {
	t.Helper()
	err := s.db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *site) exec(t testing.TB, q string, args ...any) {
	t.Helper()
	err := s.db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), q, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ingest takes in a bundle that must be accepted.
func (s *site) ingest(t testing.TB, bundle []byte, repository string) ([]evidence.Record, bool) {
	t.Helper()
	records, isNew, err := s.Ingest(t.Context(), bundle, origin(repository))
	if err != nil {
		t.Fatal(err)
	}
	return records, isNew
}

func wantKind(t testing.TB, err error, kind *fault.Kind, code string) {
	t.Helper()
	if fault.KindOf(err) != kind || evidence.Code(err) != code {
		t.Fatalf("error %v of kind %v with code %q, want kind %v with code %q", err, fault.KindOf(err), evidence.Code(err), kind, code)
	}
}
