package attestation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"

	"assay/internal/vectors"
)

// Sigstore's own reader agrees: what it takes for malformed we take for
// malformed, and it reads what we write.
func TestAgreesWithSigstoreGo(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t, "sigstore-conformance/bundle-verify"), "*", "bundle.sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	// Stricter than sigstore-go: base64 with a line break in it.
	stricter := map[string]bool{"rekor2-timestamp-with-incorrect-time_fail": true}
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var theirs sigstore.Bundle
		theirErr := theirs.UnmarshalJSON(raw)
		ours, ourErr := ParseBundle(raw, Limits{})
		if theirErr != nil && ourErr == nil {
			if !lateFaults[name] {
				t.Errorf("%s: sigstore-go refuses its form: %v", name, theirErr)
			}
			continue
		}
		if theirErr == nil && ourErr != nil && !stricter[name] {
			t.Errorf("%s: we refuse what sigstore-go reads: %v", name, ourErr)
		}
		if ourErr != nil {
			continue
		}
		out, err := json.Marshal(ours)
		if err != nil {
			t.Fatal(err)
		}
		var again sigstore.Bundle
		if err := again.UnmarshalJSON(out); err != nil {
			t.Errorf("%s: sigstore-go does not read what we write: %v", name, err)
		}
	}
}

// Faults of a log entry's body, which sigstore-go decodes as it reads a bundle.
// Here that is the verifier's work: the body is bytes until it is compared.
var lateFaults = map[string]bool{
	"incorrect-public-key_fail":      true, // its signature does not verify with its key
	"intoto-log-entry-mismatch_fail": true, // its envelope's payload is no base64
}
