package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/trust"
)

// signed is one attestation that the site's services made.
type signed struct {
	subject artifact.Digest
	bundle  []byte
}

// attest has the site sign n provenance statements about distinct artifacts:
// keyless, each with a key, certificate, SCT, timestamp and log entry of its
// own, over HTTP as `assay attest` does it.
func attest(ctx context.Context, s *site, n int) ([]signed, error) {
	const signers = 64
	token, err := s.token(ctx, "sigstore")
	if err != nil {
		return nil, err
	}
	signing := &client.Signing{
		Fulcio: s.Services.Fulcio, Rekor: s.Services.Rekor, TSA: s.Services.TSA,
		HTTP:  &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConns: signers, MaxIdleConnsPerHost: signers}},
		Token: func(context.Context) (string, error) { return token, nil },
	}
	out := make([]signed, n)
	return out, inParallel(signers, n, func(i int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := fmt.Sprintf("bin/app-%d", i)
		d := artifact.SHA256Of([]byte(name))
		body, err := provenance(name, d)
		if err != nil {
			return err
		}
		b, err := signing.Statement(ctx, attestation.PayloadType, body, attestation.PAE(attestation.PayloadType, body))
		if err != nil {
			return err
		}
		raw, err := protojson.Marshal(b)
		out[i] = signed{d, raw}
		return err
	})
}

// provenance is a statement of the size and shape that builders write.
func provenance(name string, d artifact.Digest) ([]byte, error) {
	repository := "git+https://git.example.com/team/app"
	st, err := attestation.NewStatement(attestation.PredicateProvenanceV1, map[string]any{
		"buildDefinition": map[string]any{
			"buildType":          "https://builder.example.com/build/v1",
			"externalParameters": map[string]any{"source": repository, "ref": "refs/heads/main", "command": []string{"go", "build", "-o", "bin/", "./..."}},
			"internalParameters": map[string]any{"runner": "linux-amd64"},
			"resolvedDependencies": []any{
				map[string]any{"uri": repository + "@refs/heads/main", "digest": map[string]string{"gitCommit": "7f1b3a0c5d2e4f60718293a4b5c6d7e8f9012345"}},
			},
		},
		"runDetails": map[string]any{
			"builder":  map[string]any{"id": "https://builder.example.com/runner/v1"},
			"metadata": map[string]any{"invocationId": "https://builder.example.com/runs/" + d.Hex()[:16], "startedOn": "2026-01-01T00:00:00Z", "finishedOn": "2026-01-01T00:01:00Z"},
		},
	}, attestation.Subject{Name: name, Digest: d.Set()})
	if err != nil {
		return nil, err
	}
	return st.Bytes()
}

// wantSigner is the identity that attest signs with.
func wantSigner(s *site) []trust.IdentityMatch {
	return []trust.IdentityMatch{{Issuer: s.Services.OIDC, Subject: benchSubject}}
}
