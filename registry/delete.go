package registry

import (
	"context"
	"errors"
	"net/http"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// deleteManifest answers DELETE of a tag, which leaves the manifest, or of a
// manifest by digest, which takes its tags along.
func (r *Registry) deleteManifest(q *request) error {
	name := q.route.name
	if err := r.allow(q, identity.ActDelete, name); err != nil {
		return err
	}
	tag, d, err := parseReference(q.route.ref)
	if err != nil {
		return err
	}
	ctx := q.Context()
	err = r.db.Update(ctx, func(tx *store.Tx) error {
		if tag != "" {
			return r.dropTag(ctx, tx, q, tag)
		}
		return r.dropManifest(ctx, tx, q, d)
	})
	if err != nil {
		var denied *gateError
		if errors.As(err, &denied) {
			r.noteDenied(q, name, d, err)
		}
		return err
	}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

// dropTag takes a tag away, and with it what is held for it.
func (r *Registry) dropTag(ctx context.Context, tx *store.Tx, q *request, tag string) error {
	name := q.route.name
	m, err := r.find(ctx, tx, &q.caller, name, tag, "")
	if err != nil {
		return err
	}
	if err := precondition(q, tag, m.digest); err != nil {
		return err
	}
	if err := r.tagDeletable(ctx, tx, name, tag, m.digest); err != nil {
		return err
	}
	return r.removeTag(ctx, tx, q, tag, m.mediaType)
}

func (r *Registry) removeTag(ctx context.Context, tx *store.Tx, q *request, tag, mediaType string) error {
	name := q.route.name
	number, err := drawNumber(ctx, tx, name, tag)
	if err != nil {
		return err
	}
	if err := dropHeld(ctx, tx, name, tag, number); err != nil {
		return err
	}
	from, _, err := findTag(ctx, tx, name, tag)
	if errors.Is(err, fault.NotFound) {
		return nil // it was only held
	}
	if err != nil {
		return err
	}
	carrier, err := carries(ctx, tx, name, tag, from)
	if err != nil {
		return err
	}
	if _, err := r.gate.TagMove(ctx, tx, Move{Repository: name, Tag: tag, From: from, MediaType: mediaType, Carrier: carrier, Principal: q.caller.Principal, ByRule: q.byRule()}); err != nil {
		return refusedMove(err)
	}
	if err := setStands(ctx, tx, name, tag, number); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM registry_tag WHERE repository = ? AND tag = ?`, name, tag); err != nil {
		return err
	}
	return tagMove{
		repository: name, tag: tag, number: number, from: from,
		actor: q.caller.Actor(), trace: traceID(q.Request), address: address(q.Request), reason: q.reason(),
	}.note(ctx, tx)
}

// dropManifest takes a manifest out of its repository, unless an index there
// needs it. Referrers stay, and so do the parts of an index: they go with
// garbage collection, which knows whether what they belong to comes back.
func (r *Registry) dropManifest(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) error {
	name := q.route.name
	m, err := r.deletable(ctx, tx, q, d)
	if err != nil {
		return err
	}
	var parent string
	err = tx.QueryRow(ctx, `SELECT manifest FROM registry_reference WHERE child = ? AND kind = ? AND repository = ?`,
		string(d), refManifest, name).Scan(&parent)
	if err == nil {
		return inUse("manifest", d, parent)
	}
	if !errors.Is(err, fault.NotFound) {
		return err
	}
	if err := r.gate.Removed(ctx, tx, Move{Repository: name, From: d, MediaType: m.mediaType, Carrier: m.subject != "", Principal: q.caller.Principal, ByRule: q.byRule()}); err != nil {
		return refusedMove(err)
	}
	if _, err := DropHeld(ctx, tx, name, d); err != nil {
		return err
	}
	tags, err := store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ?`, name, string(d))
	if err != nil {
		return err
	}
	for _, t := range tags {
		if err := r.removeTag(ctx, tx, q, t, m.mediaType); err != nil {
			return err
		}
	}
	r.holdings.forget(tx)
	if err := noteRemoval(ctx, tx, q, d); err != nil {
		return err
	}
	for _, stmt := range []string{
		`DELETE FROM registry_reference WHERE repository = ? AND manifest = ?`,
		`DELETE FROM registry_ingest WHERE repository = ? AND manifest = ?`,
		`DELETE FROM registry_manifest WHERE repository = ? AND digest = ?`,
	} {
		if _, err := tx.Exec(ctx, stmt, name, string(d)); err != nil {
			return err
		}
	}
	return event.Append(ctx, tx, event.Event{
		Kind: event.ArtifactDeleted, Digest: d, Actor: q.caller.Actor(), TraceID: traceID(q.Request),
		Body: deletedBody{Repository: name, What: "manifest", MediaType: m.mediaType, Reason: q.reason(), trail: q.trail(decisionAllow)},
	})
}
