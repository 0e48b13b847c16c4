package evidence_test

import (
	"fmt"
	"testing"
	"time"

	"assay/store"
	"assay/store/storetest"
	"assay/trust/revocation"
)

// BenchmarkImpact asks what it takes to revoke the signer of 100,000
// attestations about as many artifacts.
func BenchmarkImpact(b *testing.B) {
	const n = 100_000
	db := storetest.Open(b, store.SQLite)
	s := open(b, db)
	ctx := b.Context()
	for at := 0; at < n; at += 10_000 {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for i := at; i < at+10_000; i++ {
				id, when := "att_"+digest(fmt.Sprintf("bundle %d", i)).Hex(), int64(i+1)
				subject := string(digest(fmt.Sprintf("artifact %d", i)))
				if _, err := tx.Exec(ctx, `INSERT INTO evidence_bundle (id, scheme, predicate_type, issuer, identity, key, root, trusted_time, time_source,
						log_id, log_index, legacy, size, trust_epoch, ingested_at, repository, source, payload, content, serial, authority, builder, subject)
					VALUES (?, 'dsse', 'type', 'issuer', 'subject', 'key', 'site', ?, 'tsa', 'aa', ?, 0, 4096, 1, ?, 'team/app', 'bench', NULL, ?, '01', 'CN=bench', 'builder', ?)`,
					id, when, i, when, make([]byte, 4096), subject); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO evidence_subject (subject, ingested_at, id) VALUES (?, ?, ?)`, subject, when, id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	from := int64(0)
	for name, e := range map[string]revocation.Entry{
		"identity": {Kind: revocation.Identity, Match: revocation.Exact, Issuer: "issuer", Subject: "subject"},
		"key":      {Kind: revocation.Key, Key: "key"},
		"builder":  {Kind: revocation.Builder, Builder: "builder"},
		"log":      {Kind: revocation.Log, LogID: "aa", From: &from},
	} {
		b.Run(name, func(b *testing.B) {
			e.InvalidSince = revocation.At(time.Unix(0, 0))
			for b.Loop() {
				got, err := s.Impact(ctx, []revocation.Entry{e})
				if err != nil || got.Attestations != n || len(got.Artifacts) != n {
					b.Fatal(got.Attestations, len(got.Artifacts), err)
				}
			}
		})
	}
}
