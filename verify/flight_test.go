package verify

import (
	"context"
	"sync"
	"testing"

	"assay/artifact"
	"assay/policy"
)

// Callers who ask at once share an answer only when all of the question is the
// same: what is asked for "dev" must never answer who asks for "prod".
func TestThreat_Policy_AnswerToAnotherQuestion(t *testing.T) {
	var f flights
	key := func(environment string) flightKey {
		return flightKey{decisionKey{artifact.SHA256Of(nil), "default"}, "hash", "subject", "uri", policy.Scope{ID: "default", Environment: environment}}
	}
	begun, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // holds the place of "dev"
		_, _ = f.do(t.Context(), key("dev"), func(context.Context) (*Decision, error) {
			close(begun)
			<-release
			return &Decision{ScopeID: "dev"}, nil
		})
	})
	<-begun
	d, err := f.do(t.Context(), key("prod"), func(context.Context) (*Decision, error) { return &Decision{ScopeID: "prod"}, nil })
	if err != nil || d.ScopeID != "prod" {
		t.Errorf("who asked for prod got %+v, %v", d, err)
	}
	close(release)
	wg.Wait()
	if len(f.slot) != 0 {
		t.Errorf("%d questions are kept for ever", len(f.slot))
	}
}
