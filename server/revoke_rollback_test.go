package server

import (
	"bytes"
	"testing"
	"time"

	"assay/client"
	"assay/store"
	"assay/trust"
)

// TestThreat_Store_RevocationsRolledBack: who writes the database, or restores it
// alone, takes no revocation back from a server that has published it; and the
// site can be told more from there on.
func TestThreat_Store_RevocationsRolledBack(t *testing.T) {
	for name, roll := range map[string]func(tx *store.Tx, old trust.Document) error{
		"an older list": func(tx *store.Tx, old trust.Document) error {
			_, err := tx.Exec(t.Context(), `UPDATE trust_document SET version = ?, body = ? WHERE kind = ?`, old.Version, old.Body, string(trust.DocRevocations))
			return err
		},
		"no list": func(tx *store.Tx, _ trust.Document) error {
			_, err := tx.Exec(t.Context(), `DELETE FROM trust_document WHERE kind = ?`, string(trust.DocRevocations))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, true, nil)
			ctx := t.Context()
			bundle := s.sign("me@example.com", "content")
			var old trust.Document
			if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
				old, err = trust.GetDocument(ctx, tx, trust.DocRevocations, "")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			revoke := func(subject string) {
				t.Helper()
				if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{
					Kind: "identity", Match: "exact", Issuer: s.local.URL, Subject: subject, InvalidSince: time.Unix(0, 0), Reason: "stolen",
				}}}); err != nil {
					t.Fatal(err)
				}
			}
			revoke("me@example.com")
			version := s.trust().revocations.List.Version
			if err := s.db.Update(ctx, func(tx *store.Tx) error { return roll(tx, old) }); err != nil {
				t.Fatal(err)
			}
			s.restart()
			l := s.trust().revocations
			if l == nil || l.List.Version != version || !bytes.Contains([]byte(s.logs.String()), []byte("older than the published one")) {
				t.Fatalf("in force: %+v", l)
			}
			if _, err := s.admin.Ingest(ctx, bundle, ""); err == nil {
				t.Error("evidence of the revoked is taken in")
			}
			// It is signed anew, and added to, from the published list on.
			if err := s.renewRevocationsAt(ctx, s.clock().Add(13*time.Hour)); err != nil {
				t.Fatal(err)
			}
			revoke("other@example.com")
			if l := s.trust().revocations.List; l.Version != version+2 || len(l.Entries) != 2 {
				t.Errorf("then: version %d with %d entries, want %d with 2", l.Version, len(l.Entries), version+2)
			}
			if err := s.db.View(ctx, func(tx *store.Tx) error {
				d, err := trust.GetDocument(ctx, tx, trust.DocRevocations, "")
				if err == nil && d.Version != version+2 {
					t.Errorf("stored: version %d", d.Version)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
