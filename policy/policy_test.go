package policy

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"assay/artifact"
)

var (
	testNow    = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	testDigest = artifact.Digest("sha256:" + strings.Repeat("ab", 32))
)

const (
	issuer  = "https://issuer.example"
	builder = "https://builder.example/v1"
	slsa1   = "https://slsa.dev/provenance/v1"
)

func attID(n int) string { return fmt.Sprintf("att_%064x", n) }

func evidence(n int, issuer, subject string) Evidence {
	index := int64(n)
	return Evidence{
		ID: attID(n), Source: "evidence", Identity: &Identity{Issuer: issuer, Subject: subject},
		Root: "test", Scheme: "dsse", TrustedTime: testNow.Add(-time.Hour).Format(time.RFC3339), TimeSource: "tsa",
		LogIndex: &index, LogID: "00",
	}
}

func signature(n int, issuer, subject string) Signature {
	return Signature{evidence(n, issuer, subject)}
}

// goodFacts is an image signed by alice, built and attested by a builder.
func goodFacts() *Facts {
	f := &Facts{
		Subject:    Subject{Digest: testDigest, Kind: Image, Repository: "team-a/app"},
		Scope:      Scope{ID: "production", Environment: "production"},
		Signatures: []Signature{signature(1, issuer, "alice@example.org")},
		Attestations: []Attestation{{
			Evidence: evidence(2, issuer, builder+"/workflow"), PredicateType: slsa1,
			Fields: map[string]any{"buildDefinition.buildType": "https://type.example/v1", "runs": int64(3)},
		}},
		Provenance: []Provenance{{
			Attestation: attID(2), BuilderID: builder, BuildType: "https://type.example/v1", Level: 1,
			Source:             Source{URI: "https://git.example/team-a/app", Ref: "refs/heads/main"},
			ExternalParameters: map[string]any{"workflow": map[string]any{"ref": "refs/heads/main", "path": "ci.yaml"}, "debug": ""},
		}},
		Trust: Trust{Roots: []string{"test"}},
	}
	f.Normalize()
	return f
}

func statuses(r Result) string {
	var parts []string
	for _, c := range r.Checks {
		parts = append(parts, c.Name+"="+string(c.Status))
	}
	return strings.Join(parts, " ")
}

// heap is what has been allocated so far, in bytes.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
