package evidence

import (
	"context"

	"assay/attestation"
	"assay/event"
	"assay/internal/excerpt"
	"assay/store"
	"assay/trust"
)

// mergeBody is the body of source.merge_changed.
type mergeBody struct {
	ID         string   `json:"id"`
	Repository string   `json:"repository"`
	Commits    []string `json:"commits"`
	Count      int      `json:"count"`
	Issuer     string   `json:"issuer,omitempty"`
	Identity   string   `json:"identity,omitempty"`
	Key        string   `json:"key,omitempty"`
}

// mergesOf reads from a verified source verification summary that merges hold
// what nobody merged; nil when it does not say so.
func mergesOf(v *trust.Verified) *mergeBody {
	if v.Statement == nil || v.Statement.PredicateType != attestation.PredicateVSA {
		return nil
	}
	sum, err := v.Statement.VSA()
	if err != nil {
		return nil // what is no summary says nothing of merges; it is kept, and counts for nothing
	}
	m := sum.SourceMerges()
	if m == nil || m.Changed == 0 {
		return nil
	}
	out := &mergeBody{Repository: excerpt.Text(sum.ResourceURI, 500), Commits: []string{}, Count: m.Changed}
	for _, c := range m.Commits {
		out.Commits = append(out.Commits, excerpt.Text(c, 64))
	}
	return out
}

func tellMerges(ctx context.Context, tx *store.Tx, p *prepared, actor string) error {
	if p.merges == nil {
		return nil
	}
	body := *p.merges
	body.ID, body.Issuer, body.Identity = p.record.ID, p.record.Signer.Issuer, p.record.Signer.Subject
	if body.Issuer == "" {
		body.Key = p.record.Signer.Key
	}
	return event.Append(ctx, tx, event.Event{Kind: event.SourceMergeChanged, Digest: p.subjects[0], Actor: actor, Body: body})
}
