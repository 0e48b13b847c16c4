package registry

import (
	"context"
	"errors"
	"slices"
	"sort"

	"assay/internal/fault"
	"assay/store"
)

// tagsThere asks the upstream of a gateway's repository for its tags. That it
// does not tell is an error only where nothing is here, which the caller finds.
func (r *Registry) tagsThere(q *request) (tags []string, unlisted error) {
	host, ok := r.upstreamOf(q.route.name)
	if !ok {
		return nil, nil
	}
	tags, warning, err := r.upstream.Tags(q.Context(), q.route.name)
	warn(q.w.Header(), warning)
	switch {
	case err == nil:
		return tags, nil
	case errors.Is(err, fault.NotFound):
		return nil, nil
	}
	return nil, r.upstreamFailure(q, host, err)
}

// mergeTags adds to a page of tags that are here those that the upstream alone
// has. A tag that is known here, and that the caller does not see, stays unseen.
func mergeTags(ctx context.Context, tx *store.Tx, name string, here []string, more bool, there []string, p page) ([]string, bool, error) {
	from := sort.SearchStrings(there, p.last)
	if from < len(there) && there[from] == p.last {
		from++
	}
	out := slices.Clone(here)
	for added := 0; from < len(there) && added <= p.n; {
		chunk := there[from:min(len(there), from+1000)]
		from += len(chunk)
		known, err := knownTags(ctx, tx, name, chunk[0], chunk[len(chunk)-1])
		if err != nil {
			return nil, false, err
		}
		for _, tag := range chunk {
			if !known[tag] {
				out = append(out, tag)
				added++
			}
		}
	}
	slices.Sort(out)
	if len(out) > p.n {
		out, more = out[:p.n], true
	}
	return out, more, nil
}

// knownTags are the tags of a repository from one to another, in the order of
// bytes, that are set here or wait for evidence.
func knownTags(ctx context.Context, tx *store.Tx, name, from, to string) (map[string]bool, error) {
	list, err := store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND tag >= ? AND tag <= ?
		UNION SELECT tag FROM registry_tag_held WHERE repository = ? AND tag >= ? AND tag <= ?`, name, from, to, name, from, to)
	known := make(map[string]bool, len(list))
	for _, tag := range list {
		known[tag] = true
	}
	return known, err
}
