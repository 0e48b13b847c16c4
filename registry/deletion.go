package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// Keeper says what nobody may delete: legal holds.
type Keeper interface {
	// MayDelete is asked in the transaction that takes away a tag, a manifest
	// (tag is empty), or a blob of a repository. about is what the manifest is
	// mere evidence about; empty: nothing. fault.Denied with the reason stops it.
	MayDelete(ctx context.Context, tx *store.Tx, repository, tag string, d, about artifact.Digest) error
}

// free is the Keeper of a site without holds.
type free struct{}

func (free) MayDelete(context.Context, *store.Tx, string, string, artifact.Digest, artifact.Digest) error {
	return nil
}

// within says how this process itself deletes.
type within struct {
	reason string
	byRule bool
	// removedAt is when the content began to be gone that what is deleted now
	// goes with, so that what hangs on that does not wait once more; zero: now.
	removedAt time.Time
}

func (q *request) byRule() bool { return q.within != nil && q.within.byRule }

func (q *request) reason() string {
	if q.within == nil {
		return ""
	}
	return q.within.reason
}

// Deletion is what a part of this process deletes, by a rule.
type Deletion struct {
	Repository string
	Tag        string          // only the tag; empty: the manifest, with its tags
	Digest     artifact.Digest // the manifest; with a tag, what it must name still
	Actor      identity.Principal
	Reason     string // on record
	// Immutable: also where tags or manifests are immutable.
	Immutable bool
}

// Delete takes a tag or a manifest out of a repository, in tx, as a client's
// DELETE does: gate, holds, tag history and events are the same. It asks for
// nobody's rights. Errors: fault.NotFound, also for a tag that has moved;
// fault.Denied by gate or hold; fault.Conflict for a manifest that an index
// names.
func (r *Registry) Delete(ctx context.Context, tx *store.Tx, d Deletion) error {
	q := systemRequest(ctx, d.Repository)
	q.caller.Principal = d.Actor
	q.within = &within{reason: clip(d.Reason, 512), byRule: d.Immutable}
	if d.Tag == "" {
		return r.dropManifest(ctx, tx, q, d.Digest)
	}
	at, _, err := findTag(ctx, tx, d.Repository, d.Tag)
	if err != nil {
		return err
	}
	if at != d.Digest {
		return fault.Newf(fault.NotFound, "tag %s of repository %s does not name %s any longer", d.Tag, d.Repository, d.Digest)
	}
	m, err := findManifest(ctx, tx, d.Repository, at)
	if err != nil {
		return err
	}
	if err := r.tagDeletable(ctx, tx, d.Repository, d.Tag, at); err != nil {
		return err
	}
	return r.removeTag(ctx, tx, q, d.Tag, m.mediaType)
}

// deletable gives a manifest that may be taken out of its repository, as far as
// visibility and holds say.
func (r *Registry) deletable(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) (m manifestRow, err error) {
	name := q.route.name
	if q.within != nil {
		m, err = findManifest(ctx, tx, name, d)
	} else {
		m, err = r.visibleManifest(ctx, tx, &q.caller, name, d)
	}
	if err != nil {
		return m, err
	}
	about, err := attachedTo(ctx, tx, name, d, m.subject)
	if err != nil {
		return m, err
	}
	for _, a := range about {
		if err := r.keeper.MayDelete(ctx, tx, name, "", d, a); err != nil {
			return m, refusedMove(err)
		}
	}
	return m, nil
}

// attachedTo gives what a manifest is or was evidence about, for those who ask
// whether it may go: its subject, and what each carrier tag says that names it or
// did so once, since a tag that was moved on or deleted must not be a way to
// delete what it named. One that is attached to nothing stands for itself: empty.
func attachedTo(ctx context.Context, tx *store.Tx, repository string, d, subject artifact.Digest) ([]artifact.Digest, error) {
	about := []artifact.Digest{subject}
	var evidence int
	if err := tx.QueryRow(ctx, `SELECT evidence FROM registry_manifest WHERE repository = ? AND digest = ?`, repository, string(d)).Scan(&evidence); err != nil {
		return nil, err
	}
	if evidence == countsForItself {
		return about, nil
	}
	// Carrier tags begin with "sha256-", and a dot is what follows a dash.
	tags, err := store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ?
		UNION SELECT tag FROM registry_tag_history WHERE repository = ? AND tag >= 'sha256-' AND tag < 'sha256.' AND to_digest = ?`,
		repository, string(d), repository, string(d))
	for _, t := range tags {
		if a, ok := carrierTag(t); ok && !slices.Contains(about, a) {
			about = append(about, a)
		}
	}
	return about, err
}

// tagDeletable asks the keeper whether a tag may go. A carrier tag is how evidence
// about something is found.
func (r *Registry) tagDeletable(ctx context.Context, tx *store.Tx, repository, tag string, d artifact.Digest) error {
	about, _ := carrierTag(tag)
	return refusedMove(r.keeper.MayDelete(ctx, tx, repository, tag, d, about))
}

// noteRemoval remembers that a manifest goes, for what goes with it.
func noteRemoval(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) error {
	at := tx.Now()
	if q.within != nil && !q.within.removedAt.IsZero() {
		at = q.within.removedAt
	}
	const put = ` ON CONFLICT (repository, digest, what) DO UPDATE SET removed_at = excluded.removed_at`
	if _, err := tx.Exec(ctx, `INSERT INTO registry_removed (repository, digest, what, removed_at) VALUES (?, ?, ?, ?)`+put,
		q.route.name, string(d), removedSubject, at); err != nil {
		return err
	}
	children, err := store.Values[string](ctx, tx, `SELECT child FROM registry_reference WHERE repository = ? AND manifest = ? AND kind = ?`,
		q.route.name, string(d), refManifest)
	if err != nil {
		return err
	}
	for _, c := range children {
		if _, err := tx.Exec(ctx, `INSERT INTO registry_removed (repository, digest, what, removed_at) VALUES (?, ?, ?, ?)`+put,
			q.route.name, c, removedPart, at); err != nil {
			return err
		}
	}
	return nil
}

// cameBack forgets that a manifest was removed: it is pushed again.
func cameBack(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) error {
	_, err := tx.Exec(ctx, `DELETE FROM registry_removed WHERE repository = ? AND digest = ?`, repository, string(d))
	return err
}

// Follow takes along what goes with something that was removed: the evidence
// that was attached to it, or the manifest itself that was part of an index. It
// says what was deleted, and whether there may be more: then it is to be called
// again. What is on hold is looked at again after the next grace.
func (r *Registry) Follow(ctx context.Context, tx *store.Tx, rm Removed, actor identity.Principal) (deleted []artifact.Digest, more bool, err error) {
	q := systemRequest(ctx, rm.Repository)
	q.caller.Principal = actor
	q.within = &within{removedAt: rm.At, byRule: true, reason: "it was attached to " + string(rm.Digest) + ", which was deleted"}
	what := removedSubject
	if rm.part {
		what = removedPart
		q.within.reason = "it was part of an index that was deleted"
		deleted, err = r.followPart(ctx, tx, q, rm.Digest)
	} else {
		deleted, more, err = r.followSubject(ctx, tx, q, rm.Digest)
	}
	switch {
	case errors.Is(err, fault.Denied):
		_, err = tx.Exec(ctx, `UPDATE registry_removed SET removed_at = ? WHERE repository = ? AND digest = ? AND what = ?`,
			tx.Now(), rm.Repository, string(rm.Digest), what)
		return nil, false, err
	case err != nil || more:
		return deleted, more, err
	}
	_, err = tx.Exec(ctx, `DELETE FROM registry_removed WHERE repository = ? AND digest = ? AND what = ?`, rm.Repository, string(rm.Digest), what)
	return deleted, false, err
}

// followPart deletes a manifest whose index is gone, unless a tag, another index
// or a subject holds it.
func (r *Registry) followPart(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) ([]artifact.Digest, error) {
	name := q.route.name
	m, err := findManifest(ctx, tx, name, d)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	holding, err := r.holds(ctx, tx, name, d)
	if err != nil || holding {
		return nil, err
	}
	if m.subject != "" {
		if _, err := findManifest(ctx, tx, name, m.subject); !errors.Is(err, fault.NotFound) {
			return nil, err
		}
	}
	return r.drop(ctx, tx, q, d)
}

// holds says whether a tag or an index of a repository names a manifest.
func (r *Registry) holds(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (bool, error) {
	found, err := store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ?
		UNION ALL SELECT tag FROM registry_tag_held WHERE repository = ? AND digest = ?
		UNION ALL SELECT manifest FROM registry_reference WHERE child = ? AND kind = ? AND repository = ? LIMIT 1`,
		repository, string(d), repository, string(d), string(d), refManifest, repository)
	return len(found) > 0, err
}

func (r *Registry) drop(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) ([]artifact.Digest, error) {
	if err := r.dropManifest(ctx, tx, q, d); err != nil {
		return nil, err
	}
	return []artifact.Digest{d}, nil
}

// followSubject deletes the evidence that was attached to a manifest which is
// gone: by carrier tags, then by subject, some at a time. What could be run, or
// has another tag, counts for itself and stays.
func (r *Registry) followSubject(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) (deleted []artifact.Digest, more bool, err error) {
	name := q.route.name
	if _, err := findManifest(ctx, tx, name, d); !errors.Is(err, fault.NotFound) {
		return nil, false, err // it is back, or err
	}
	if deleted, err = r.dropCarriers(ctx, tx, q, d); err != nil {
		return nil, false, err
	}
	const some = 64
	referrers, err := store.Values[string](ctx, tx, `SELECT m.digest FROM registry_manifest m WHERE m.repository = ? AND m.subject = ? AND m.evidence <> ?
		AND NOT EXISTS (SELECT 1 FROM registry_tag t WHERE t.repository = m.repository AND t.digest = m.digest)
		AND NOT EXISTS (SELECT 1 FROM registry_tag_held h WHERE h.repository = m.repository AND h.digest = m.digest)
		AND NOT EXISTS (SELECT 1 FROM registry_reference p WHERE p.child = m.digest AND p.kind = ? AND p.repository = m.repository)
		ORDER BY m.digest LIMIT ?`, name, string(d), countsForItself, refManifest, some)
	if err != nil {
		return nil, false, err
	}
	for _, e := range referrers {
		gone, err := r.drop(ctx, tx, q, artifact.Digest(e))
		if err != nil {
			return nil, false, err
		}
		deleted = append(deleted, gone...)
	}
	return deleted, len(referrers) == some, nil
}

// dropCarriers deletes the carrier tags of a manifest, and what they named when
// nothing else does.
func (r *Registry) dropCarriers(ctx context.Context, tx *store.Tx, q *request, d artifact.Digest) (deleted []artifact.Digest, err error) {
	if d.Algorithm() != artifact.SHA256 {
		return nil, nil
	}
	name := q.route.name
	for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
		tag := "sha256-" + d.Hex() + suffix
		at, _, err := findTag(ctx, tx, name, tag)
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := findManifest(ctx, tx, name, at)
		if err != nil {
			return nil, err
		}
		if err := r.keeper.MayDelete(ctx, tx, name, tag, at, d); err != nil {
			return nil, err
		}
		if err := r.removeTag(ctx, tx, q, tag, m.mediaType); err != nil {
			return nil, err
		}
		var evidence int
		if err := tx.QueryRow(ctx, `SELECT evidence FROM registry_manifest WHERE repository = ? AND digest = ?`, name, string(at)).Scan(&evidence); err != nil {
			return nil, err
		}
		holding, err := r.holds(ctx, tx, name, at)
		if err != nil {
			return nil, err
		}
		if evidence == countsForItself || holding {
			continue
		}
		gone, err := r.drop(ctx, tx, q, at)
		if err != nil {
			return nil, err
		}
		deleted = append(deleted, gone...)
	}
	return deleted, nil
}
