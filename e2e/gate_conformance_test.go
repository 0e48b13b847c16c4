//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os/exec"
	"testing"

	"assay/blob/sweep"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/policy"
	"assay/registry"
	"assay/registry/gate"
	"assay/registry/registrytest"
	"assay/store/storetest"
	"assay/trust"
	"assay/verify"
)

// TestOCIConformanceWithGate runs the same suite, with a token and every row of
// it, against repositories with a gate. In mode staged the policy wants what is
// not there: all that the suite pushes stays staged, and the pusher sees it as
// if it were public, tags, lists and referrers too. In mode strict the policy
// warns, so that tags may be set: a policy that enforces refuses the tags of
// unsigned manifests, which is the mode's purpose and leaves the rows about
// tags nothing to test.
func TestOCIConformanceWithGate(t *testing.T) {
	program, err := exec.LookPath("conformance")
	if err != nil {
		t.Fatal(`the suite is not on PATH: PATH="$(tools/install.sh conformance):$PATH"`)
	}
	for _, run := range []struct {
		mode   config.Mode
		policy policy.Mode
	}{{config.ModeStaged, policy.Enforce}, {config.ModeStrict, policy.Warn}} {
		t.Run(string(run.mode), func(t *testing.T) {
			s := registrytest.Start(t, storetest.Open(t, storetest.Dialects[0]), withGate(t, run.mode, run.policy))
			runConformance(t, program, s, "dev", map[string]string{"Sparse Manifests": "Disabled", "Blob anonymous mount": "Skip"})
		})
	}
}

// withGate puts a gate before every repository, with a policy that no manifest
// meets.
func withGate(t *testing.T, mode config.Mode, how policy.Mode) registrytest.Option {
	return func(o *registry.Options) {
		t.Helper()
		fatal := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		fatal(o.DB.Migrate(t.Context(), event.Migrations, sweep.Migrations, trust.Migrations, evidence.Migrations, registry.Migrations, gate.Migrations, verify.Migrations))
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		fatal(err)
		verifier, err := verify.NewVerifier(verify.VerifierOptions{Keys: []trust.Key{{Public: key.Public()}}})
		fatal(err)
		ev, err := evidence.New(evidence.Options{DB: o.DB, Blobs: o.Blobs, Verifier: verifier})
		fatal(err)
		t.Cleanup(func() { _ = ev.Close() })
		engine, err := verify.New(verify.Options{DB: o.DB, Source: ev, Key: key, VerifierID: "https://assay.test",
			Trust: func() verify.TrustState { return verify.TrustState{Verifier: verifier, Epoch: 1 << 30} }})
		fatal(err)
		g, err := gate.New(gate.Options{DB: o.DB, Access: o.Access, Judge: engine, Evidence: ev})
		fatal(err)
		repositories, err := config.NewRepositories(config.RepositorySpec{Pattern: "**", Mode: mode})
		fatal(err)
		p, err := policy.ParseRequirements(fmt.Appendf(nil, `apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  mode: %s
  requirements:
    signatures: [{name: ci, identities: [{issuer: "https://issuer.example", subject: ci@example.com}]}]
`, how))
		fatal(err)
		set, err := policy.NewSet(p)
		fatal(err)
		g.Set(gate.Rules{Repositories: repositories, Policies: set})
		o.Gate, o.Visibility, o.Evidence = g, g, g.Ingester(ev)
	}
}
