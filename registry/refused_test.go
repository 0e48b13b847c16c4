package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"assay/event"
	"assay/registry/registrytest"
)

// TestThreat_Registry_AuditGrowthByGarbageTokens: who has no credentials cannot
// make the chain of events grow with each request, and is counted all the same.
func TestThreat_Registry_AuditGrowthByGarbageTokens(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, _ *registrytest.Client) {
		const workers, tokens = 8, 125
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range tokens {
					req := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", http.NoBody)
					req.RemoteAddr = fmt.Sprintf("192.0.2.%d:%d", w%2, 1024+i)
					req.Header.Set("Authorization", fmt.Sprintf("Bearer garbage-%d-%d", w, i))
					rec := httptest.NewRecorder()
					if s.ServeHTTP(rec, req); rec.Code != http.StatusUnauthorized {
						t.Errorf("garbage token: %d", rec.Code)
					}
				}
			})
		}
		wg.Wait()
		events := s.Events(t, "login.failed")
		// Of each address the first, and those counted until the end; more only
		// if this took longer than a minute.
		if n := len(events); n < 2 || n > 8 {
			t.Errorf("%d events for %d garbage tokens from two addresses", n, workers*tokens)
		}
		counts := failedLogins(t, events)
		for _, a := range []string{"192.0.2.0", "192.0.2.1"} {
			if counts[a] != workers*tokens/2 {
				t.Errorf("of %s %d refusals are told, want %d", a, counts[a], workers*tokens/2)
			}
		}
	})
}

// failedLogins gives by address how many refusals the events stand for.
func failedLogins(t testing.TB, events []event.Event) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, e := range events {
		raw, err := json.Marshal(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		var b struct {
			Address, Class, Reason string
			Count                  int
		}
		if err := json.Unmarshal(raw, &b); err != nil {
			t.Fatal(err)
		}
		if b.Address == "" || b.Class == "" || b.Reason == "" || b.Count < 1 {
			t.Errorf("event without address, class, reason or count: %s", raw)
		}
		counts[b.Address] += b.Count
	}
	return counts
}
