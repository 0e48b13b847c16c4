package tier

import (
	"context"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/inventory"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

const document = `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"app","version":"1"}},
	"components":[{"type":"library","bom-ref":"a","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"}]}`

// TestAwait: of tier 1 it is waited until the match is there, for a bounded time
// and by a bounded number; of others, and where nothing is to be matched, it is not
// waited at all. What is not there in time is still to be matched, before all else.
func TestAwait(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, func(r *Rules) { r.Wait, r.Waiting = 100*time.Millisecond, 1 })
		s.apply(map[string]inventory.ServiceSpec{"tools": {Tier: 3, Environment: "staging", Repositories: []string{"tools/**"}}})
		feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
		if err != nil {
			t.Fatal(err)
		}
		boms, m := sbom.NewStore(db, sbom.Limits{}), finding.New(db, feeds, exploit.NewStore(db))
		index := func(n int) int64 {
			t.Helper()
			s.places[digest(n)] = []string{"tools/app"}
			ix, _, err := boms.Index(t.Context(), sbom.Source{Attestation: string(digest(n)), Subject: digest(n), Identity: "me"}, strings.NewReader(document))
			if err != nil {
				t.Fatal(err)
			}
			return ix.ID
		}
		await := func(d artifact.Digest, repository, want string) {
			t.Helper()
			got, err := s.book.Await(t.Context(), boms, d, repository)
			if err != nil || got != want {
				t.Errorf("%s: %q, %v; want %q", repository, got, err, want)
			}
		}
		await(digest(1), "pay/app", "") // nothing is to be matched
		one := index(1)
		await(digest(1), "tools/app", "")
		await(digest(1), "pay/app", Late)
		var tier int
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT tier FROM finding_pending WHERE kind = 'document'`).Scan(&tier)
		}); err != nil || tier != 1 {
			t.Errorf("tier %d, %v: what somebody waited for is not put first", tier, err)
		}
		s.book.waits <- struct{}{}
		await(digest(1), "pay/app", Busy)
		<-s.book.waits
		// Who gives up waiting is answered.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got, _ := s.book.Await(ctx, boms, digest(1), "pay/app"); got == Matched {
			t.Error("a client that went away heard that it is matched")
		}
		s.book.o.Rules.Wait = 30 * time.Second
		done := make(chan error, 1)
		go func() { done <- m.Scan(context.WithoutCancel(t.Context()), one) }()
		await(digest(1), "pay/app", Matched)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		await(digest(1), "pay/app", "")
	})
}
