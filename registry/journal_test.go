package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// TestThreat_Store_PullIntoJournal: with a journal every pull that was answered is
// recorded once, and as soon as records can no more be sealed none is answered.
func TestThreat_Store_PullIntoJournal(t *testing.T) {
	for _, strict := range []bool{true, false} {
		t.Run(fmt.Sprintf("strict=%v", strict), func(t *testing.T) {
			db := storetest.Open(t, store.SQLite)
			var j *event.Journal
			s := registrytest.Start(t, db, func(o *registry.Options) {
				var err error
				if j, err = event.OpenJournal(t.Context(), db, t.TempDir(), nil); err != nil {
					t.Fatal(err)
				}
				o.StrictAudit, o.Journal = strict, j
			})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- event.NewSealer(db, event.SealerOptions{Journal: j}).Run(ctx) }()
			c := owner(t, s)
			c.PushImage("r", "v1", registrytest.Image{Layer: "x"})
			rename := func(from, to string) {
				t.Helper()
				if err := db.Update(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Exec(t.Context(), `ALTER TABLE `+from+` RENAME TO `+to)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			answered := map[string]bool{}
			clients := 0
			pull := func() int { // by another client each time: a repeated one is one pull
				clients++
				agent := fmt.Sprint("client ", clients)
				r := c.Do("GET", "/v2/r/manifests/v1", "", "User-Agent", agent)
				if strings.Contains(string(r.Body), "schemaVersion") {
					answered[agent] = true
				}
				return r.StatusCode
			}
			until := func(what string, ok func(code int) bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); !ok(pull()); {
					if time.Now().After(deadline) {
						t.Fatal(what)
					}
				}
			}
			for range 50 {
				if code := pull(); code != http.StatusOK {
					t.Fatalf("pull: %d", code)
				}
			}
			rename("event_pending", "event_gone")
			until("pulls are answered although records cannot be sealed", func(code int) bool { return code >= 500 })
			for range 3 {
				if code := pull(); code < 500 {
					t.Fatalf("answered without a record: %d", code)
				}
			}
			rename("event_gone", "event_pending")
			until("no pull is answered although records can be sealed again", func(code int) bool { return code == http.StatusOK })
			if err := s.Registry.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := j.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			times := map[string]int{}
			for _, e := range s.Events(t, event.ArtifactPulled) {
				var b struct {
					UserAgent string `json:"user_agent"`
				}
				if err := e.Decode(&b); err != nil {
					t.Fatal(err)
				}
				times[b.UserAgent]++
			}
			for agent := range answered {
				// What does not wait may be lost while nothing can be written; the next is refused.
				if times[agent] != 1 && strict {
					t.Errorf("the pull of %s is recorded %d times, want once", agent, times[agent])
				}
			}
			for agent, n := range times {
				if n != 1 {
					t.Errorf("the pull of %s is recorded %d times", agent, n)
				}
			}
			if err := event.NewLog(db, event.LogOptions{}).VerifyChain(t.Context(), 0, 0); err != nil {
				t.Error(fault.KindOf(err), err)
			}
		})
	}
}
