package registry

import (
	"context"
	"errors"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// visibleManifest gives a manifest of the repository that the caller sees;
// fault.NotFound for one that is not there and for one that is hidden, with one
// and the same message.
func (r *Registry) visibleManifest(ctx context.Context, tx *store.Tx, c *caller, repository string, d artifact.Digest) (manifestRow, error) {
	m, err := r.manifestOf(ctx, tx, repository, d)
	if err == nil {
		var seen bool
		if seen, err = r.sees(ctx, tx, c, repository, d); err == nil && seen {
			return m, nil
		}
		if err == nil {
			// Of what is hidden some may know why; the others hear that it is
			// not there.
			err = refusedMove(r.vis.Refusal(ctx, tx, c.Principal, repository, d))
			if g := (*gateError)(nil); errors.As(err, &g) {
				g.about = d
			}
		}
	}
	if err == nil || errors.Is(err, fault.NotFound) {
		err = failf(codeManifestUnknown, fault.NotFound, "manifest %s is not in repository %s", d, repository)
	}
	return manifestRow{}, err
}

func (r *Registry) sees(ctx context.Context, tx *store.Tx, c *caller, repository string, d artifact.Digest) (bool, error) {
	if r.vis == nil {
		return true, nil
	}
	return r.vis.Visible(ctx, tx, c.Principal, repository, d)
}

// visibleBlob says whether the caller sees a blob in a repository: through a
// manifest there that they see, or as their own young upload. That the bytes
// are stored, for another repository, counts for nothing (CVE-2024-39897).
func (r *Registry) visibleBlob(ctx context.Context, tx *store.Tx, c *caller, repository string, d artifact.Digest) (bool, error) {
	if r.vis != nil {
		if withheld, err := r.vis.Withheld(ctx, tx, d); err != nil || withheld {
			return false, err
		}
	}
	// One holder that is seen is enough, and more may have come: memory can say
	// yes, and no more.
	known, remembered, seq := recall(r.holdings, &r.holdings.blobs, holdingKey{repository, d})
	if remembered && tx.ReadOnly() {
		if seen, err := r.seesSome(ctx, tx, c, repository, known.list); err != nil || seen {
			return seen, err
		}
	}
	all, err := r.holdersOf(ctx, tx, repository, d, seq)
	if err != nil {
		return false, err
	}
	if seen, err := r.seesSome(ctx, tx, c, repository, all.list); err != nil || seen {
		return seen, err
	}
	switch {
	case all.more: // only the first were asked about
		missing := map[string]bool{string(d): true}
		err := inChunks([]any{string(d)}, func(chunk []any) error {
			return r.throughManifests(ctx, tx, c, repository, chunk, missing)
		})
		return err == nil && len(missing) == 0, err
	case len(all.list) > 0:
		// An upload of one's own is read only until manifests hold the blob: then
		// they say who sees it, or what is under quarantine could be read.
		return false, nil
	}
	missing, err := r.invisibleBlobs(ctx, tx, c, repository, []any{string(d)})
	return err == nil && len(missing) == 0, err
}

func (r *Registry) seesSome(ctx context.Context, tx *store.Tx, c *caller, repository string, list []artifact.Digest) (bool, error) {
	for _, m := range list {
		if seen, err := r.sees(ctx, tx, c, repository, m); err != nil || seen {
			return seen, err
		}
	}
	return false, nil
}

// invisibleBlobs gives those of the digests that the caller does not see.
func (r *Registry) invisibleBlobs(ctx context.Context, tx *store.Tx, c *caller, repository string, digests []any) (map[string]bool, error) {
	missing := make(map[string]bool, len(digests))
	for _, d := range digests {
		missing[d.(string)] = true
	}
	err := inChunks(digests, func(chunk []any) error {
		args := append([]any{repository, c.owner(), r.youngSince(tx)}, chunk...)
		found, err := store.Values[string](ctx, tx, `SELECT digest FROM registry_upload
			WHERE repository = ? AND uploader = ? AND uploaded_at > ? AND digest IN (`+marks(len(chunk))+`)`, args...)
		for _, d := range found {
			delete(missing, d)
		}
		return err
	})
	if err != nil || len(missing) == 0 {
		return missing, err
	}
	rest := make([]any, 0, len(missing))
	for _, d := range digests {
		if missing[d.(string)] {
			rest = append(rest, d)
		}
	}
	err = inChunks(rest, func(chunk []any) error {
		return r.throughManifests(ctx, tx, c, repository, chunk, missing)
	})
	return missing, err
}

// throughManifests strikes from missing what some visible manifest holds.
func (r *Registry) throughManifests(ctx context.Context, tx *store.Tx, c *caller, repository string, chunk []any, missing map[string]bool) error {
	args := append(append([]any{}, chunk...), refBlob, repository)
	if r.vis == nil {
		found, err := store.Values[string](ctx, tx, `SELECT DISTINCT child FROM registry_reference
			WHERE child IN (`+marks(len(chunk))+`) AND kind = ? AND repository = ?`, args...)
		for _, d := range found {
			delete(missing, d)
		}
		return err
	}
	pairs, err := selectPairs(ctx, tx, `SELECT child, manifest FROM registry_reference
		WHERE child IN (`+marks(len(chunk))+`) AND kind = ? AND repository = ?`, args...)
	if err != nil {
		return err
	}
	asked := map[string]bool{}
	for _, p := range pairs {
		if !missing[p[0]] {
			continue
		}
		seen, known := asked[p[1]]
		if !known {
			if seen, err = r.sees(ctx, tx, c, repository, artifact.Digest(p[1])); err != nil {
				return err
			}
			asked[p[1]] = seen
		}
		if seen {
			delete(missing, p[0])
		}
	}
	return nil
}

func selectPairs(ctx context.Context, tx *store.Tx, q string, args ...any) ([][2]string, error) {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out [][2]string
	for rows.Next() {
		var p [2]string
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
