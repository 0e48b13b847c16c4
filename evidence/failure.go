package evidence

import (
	"context"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/store"
)

// failedBody is the body of build.failed.
type failedBody struct {
	ID       string `json:"id"`
	Issuer   string `json:"issuer,omitempty"`
	Identity string `json:"identity,omitempty"`
	Key      string `json:"key,omitempty"`
}

// tellFailure makes an event of a statement that a build failed.
func tellFailure(ctx context.Context, tx *store.Tx, r *Record, subject artifact.Digest, actor string) error {
	if r.PredicateType != attestation.PredicateBuildFailure {
		return nil
	}
	body := failedBody{ID: r.ID, Issuer: r.Signer.Issuer, Identity: r.Signer.Subject}
	if r.Signer.Issuer == "" {
		body.Key = r.Signer.Key
	}
	return event.Append(ctx, tx, event.Event{Kind: event.BuildFailed, Digest: subject, Actor: actor, Body: body})
}
