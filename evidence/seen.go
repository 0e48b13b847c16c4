package evidence

import (
	"context"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/store"
	"assay/trust"
)

// maker is what a revocation may name besides the signer.
type maker struct {
	serial, authority string          // of the certificate: hex, and its issuer's distinguished name
	builder           string          // builder.id of provenance
	source            artifact.Digest // key of the commit that provenance names; "" for none
}

const maxMaker = 1 << 10 // bytes of each member that are kept; longer ones cannot be revoked by name

func makerOf(v *trust.Verified) (m maker) {
	if c := v.Certificate; c != nil {
		m.serial, m.authority = c.SerialNumber.Text(16), short(c.Issuer.String())
	}
	if v.Statement != nil {
		m.builder, m.source = provenanceOf(v.Statement)
	}
	return m
}

// provenanceOf reads who built, and from which commit.
func provenanceOf(st *attestation.Statement) (builder string, commit artifact.Digest) {
	if !attestation.IsProvenance(st.PredicateType) {
		return "", ""
	}
	p, err := attestation.ParseProvenance(st.PredicateType, st.Predicate)
	if err != nil {
		return "", "" // no policy reads it either
	}
	return short(p.BuilderID), commitOf(p.SourceDigest)
}

// onlySubject is the subject of a bundle that has one; else "".
func (p *prepared) onlySubject() string {
	if len(p.subjects) != 1 {
		return ""
	}
	return string(p.subjects[0])
}

func short(s string) string {
	if len(s) > maxMaker {
		return ""
	}
	return s
}

// unlogged says whether one of our identities signed what no log of ours holds.
func (s *Store) unlogged(v *trust.Verified) bool {
	if s.own == nil || s.ownLog == nil || v.Identity.Issuer == "" || !s.own(v.Identity.Issuer) {
		return false
	}
	for _, l := range v.Logs {
		if s.ownLog(l.LogID) {
			return false
		}
	}
	return true
}

func alertUnlogged(ctx context.Context, tx *store.Tx, p *prepared, from Origin) error {
	r := &p.record
	return event.Append(ctx, tx, event.Event{Kind: event.SignerUnlogged, Digest: p.subjects[0], Actor: from.Actor, Body: map[string]string{
		"id": r.ID, "issuer": r.Signer.Issuer, "identity": r.Signer.Subject, "root": r.Root, "log_id": r.LogID, "repository": from.Repository,
	}})
}

// putOrigin notes that a bundle came to a repository, and tells when its signer
// had never signed there before. It does both once.
func putOrigin(ctx context.Context, tx *store.Tx, r *Record, at int64, from Origin) error {
	if from.Repository == "" {
		return nil
	}
	if err := insertOrigin(ctx, tx, r.ID, at, from); err != nil {
		return err
	}
	if r.Signer.Issuer == "" {
		return seen(ctx, tx, r, from, "key", r.Signer.Key, r.Signer.Key)
	}
	if err := seen(ctx, tx, r, from, "issuer", r.Signer.Issuer, r.Signer.Issuer); err != nil {
		return err
	}
	return seen(ctx, tx, r, from, "identity", r.Signer.Issuer+" "+r.Signer.Subject, r.Signer.Subject)
}

func seen(ctx context.Context, tx *store.Tx, r *Record, from Origin, what, key, who string) error {
	n, err := tx.Exec(ctx, `INSERT INTO evidence_seen (repository, what, who, at) VALUES (?, ?, ?, ?) ON CONFLICT (repository, what, who) DO NOTHING`,
		from.Repository, what, key, tx.Now())
	if err != nil || n == 0 {
		return err
	}
	body := map[string]string{"repository": from.Repository, "what": what, "who": who, "id": r.ID}
	if what != "key" {
		body["issuer"] = r.Signer.Issuer
	}
	return event.Append(ctx, tx, event.Event{Kind: event.SignerFirstSeen, Digest: r.Subject, Actor: from.Actor, Body: body})
}
