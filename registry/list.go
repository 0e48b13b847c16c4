package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// page is what a list's n and last parameters ask for.
type page struct {
	n    int
	last string
}

func (r *Registry) page(q *request) (page, error) {
	query := q.URL.Query()
	p := page{n: r.limits.PageSize, last: query.Get("last")}
	if s := query.Get("n"); s != "" {
		n, ok := parseDecimal(s)
		if !ok {
			return p, failf(codeUnsupported, fault.Invalid, "n=%.40q: want a number", s)
		}
		p.n = int(min(n, int64(r.limits.PageSize)))
	}
	if len(p.last) > 1024 {
		return p, failf(codeUnsupported, fault.Invalid, "last has %d bytes: want what the list gave", len(p.last))
	}
	return p, nil
}

// linkNext sets the Link header to the next page (RFC 8288). The target is
// relative to this server.
func linkNext(h http.Header, path string, query url.Values) {
	h.Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// listTags answers GET /v2/<name>/tags/list, in the order of bytes.
func (r *Registry) listTags(q *request) error {
	name := q.route.name
	if err := r.allow(q, identity.ActPull, name); err != nil {
		return err
	}
	p, err := r.page(q)
	if err != nil {
		return err
	}
	ctx := q.Context()
	there, unlisted := r.tagsThere(q)
	var tags []string
	more := false
	err = r.db.View(ctx, func(tx *store.Tx) error {
		var known string
		err := tx.QueryRow(ctx, `SELECT name FROM registry_repository WHERE name = ?`, name).Scan(&known)
		switch absent := errors.Is(err, fault.NotFound); {
		case absent && unlisted != nil:
			return unlisted
		case absent && there == nil:
			return failf(codeNameUnknown, fault.NotFound, "repository %s is not here", name)
		case err != nil && !absent || p.n == 0:
			return err
		}
		if tags, more, err = r.visibleTags(ctx, tx, &q.caller, name, p); err != nil || len(there) == 0 {
			return err
		}
		tags, more, err = mergeTags(ctx, tx, name, tags, more, there, p)
		return err
	})
	if err != nil {
		return err
	}
	if tags == nil {
		tags = []string{}
	}
	if more {
		linkNext(q.w.Header(), "/v2/"+name+"/tags/list", url.Values{"n": {strconv.Itoa(p.n)}, "last": {tags[len(tags)-1]}})
	}
	return writeJSON(q.w, "application/json", tagList{name, tags})
}

// visibleTags collects a page of tags whose manifests the caller sees.
func (r *Registry) visibleTags(ctx context.Context, tx *store.Tx, c *caller, name string, p page) (tags []string, more bool, err error) {
	last := p.last
	for {
		batch, full, err := r.tagBatch(ctx, tx, name, last, p.n+2)
		if err != nil {
			return nil, false, err
		}
		for _, b := range batch {
			if len(tags) > 0 && tags[len(tags)-1] == b[0] {
				continue // set, and held as well
			}
			seen, err := r.sees(ctx, tx, c, name, artifact.Digest(b[1]))
			if err != nil {
				return nil, false, err
			}
			if !seen {
				continue
			}
			if len(tags) == p.n {
				return tags, true, nil
			}
			tags = append(tags, b[0])
		}
		if !full {
			return tags, false, nil
		}
		last = batch[len(batch)-1][0]
	}
}

// tagBatch reads at most n pairs of tag and digest after a tag, n >= 3: what the
// tag is, and the newest push that is held for it. full says that there may be
// more. The pairs of one tag are never parted.
func (r *Registry) tagBatch(ctx context.Context, tx *store.Tx, name, last string, n int) (batch [][2]string, full bool, err error) {
	if r.vis == nil {
		batch, err = selectPairs(ctx, tx, `SELECT tag, digest FROM registry_tag WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?`, name, last, n)
		return batch, len(batch) == n, err
	}
	batch, err = selectPairs(ctx, tx, `SELECT tag, digest FROM registry_tag WHERE repository = ? AND tag > ?
		UNION SELECT h.tag, h.digest FROM registry_tag_held h WHERE h.repository = ? AND h.tag > ?
			AND h.pushed = (SELECT MAX(n.pushed) FROM registry_tag_held n WHERE n.repository = h.repository AND n.tag = h.tag)
		ORDER BY tag LIMIT ?`, name, last, name, last, n)
	if err != nil || len(batch) < n {
		return batch, false, err
	}
	end := batch[len(batch)-1][0]
	for batch[len(batch)-1][0] == end {
		batch = batch[:len(batch)-1]
	}
	return batch, true, nil
}

type catalog struct {
	Repositories []string `json:"repositories"`
}

// listCatalog answers GET /v2/_catalog with the repositories that the caller
// may pull from. Those that they may not are not counted and not hinted at.
func (r *Registry) listCatalog(q *request) error {
	p, err := r.page(q)
	if err != nil {
		return err
	}
	c := &q.caller
	if c.access != nil && !c.access.allows("registry", "catalog", "*") {
		err := &narrowToken{fault.Newf(fault.Unauthenticated, "the token's scope does not cover the catalog; ask for registry:catalog:*")}
		return &failure{code: codeUnauthorized, err: err, challenge: "registry:catalog:*"}
	}
	ctx, names, more := q.Context(), []string{}, false
	err = r.db.View(ctx, func(tx *store.Tx) (err error) {
		names, more, err = r.pullable(ctx, tx, c.Principal, p)
		return err
	})
	if err != nil {
		return err
	}
	if len(names) == 0 && c.bare {
		return &failure{code: codeUnauthorized, err: fault.Newf(fault.Unauthenticated, "log in to list repositories"), challenge: "registry:catalog:*"}
	}
	if more {
		linkNext(q.w.Header(), "/v2/_catalog", url.Values{"n": {strconv.Itoa(p.n)}, "last": {names[len(names)-1]}})
	}
	return writeJSON(q.w, "application/json", catalog{names})
}

func (r *Registry) pullable(ctx context.Context, tx *store.Tx, who identity.Principal, p page) (names []string, more bool, err error) {
	names = []string{}
	const step = 1000
	for last := p.last; p.n > 0; {
		batch, err := store.Values[string](ctx, tx, `SELECT name FROM registry_repository WHERE name > ? ORDER BY name LIMIT ?`, last, step)
		if err != nil {
			return nil, false, err
		}
		for _, name := range batch {
			if r.access.Allow(ctx, who, identity.ActPull, identity.Repository(name)) != nil {
				continue
			}
			if len(names) == p.n {
				return names, true, nil
			}
			names = append(names, name)
		}
		if len(batch) < step {
			break
		}
		last = batch[len(batch)-1]
	}
	return names, false, nil
}

// referrerIndex is the answer of the referrers API: an image index.
type referrerIndex struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []referrerDescriptor `json:"manifests"`
}

type referrerDescriptor struct {
	MediaType    string          `json:"mediaType"`
	Digest       artifact.Digest `json:"digest"`
	Size         int64           `json:"size"`
	ArtifactType string          `json:"artifactType,omitempty"`
	Annotations  json.RawMessage `json:"annotations,omitempty"`
}

// maxReferrersBytes keeps an answer of the referrers API below what clients
// take for a manifest; annotations make its descriptors any size.
const maxReferrersBytes = 4 << 20

// listReferrers answers GET /v2/<name>/referrers/<digest>, newest first, so
// that a reader who stops at a cap has seen the newest. A subject that is not
// here has no referrers, which is an answer and not an error.
func (r *Registry) listReferrers(q *request) error {
	name := q.route.name
	if err := r.allow(q, identity.ActPull, name); err != nil {
		return err
	}
	subject, err := parseDigest(q.route.ref)
	if err != nil {
		return err
	}
	p, err := r.page(q)
	if err != nil {
		return err
	}
	filter := q.URL.Query().Get("artifactType")
	at, after, err := parseCursor(p.last)
	if err != nil {
		return err
	}
	ctx := q.Context()
	index := referrerIndex{SchemaVersion: 2, MediaType: typeIndex}
	var next *manifestRow
	err = r.db.View(ctx, func(tx *store.Tx) (err error) {
		var rows []manifestRow
		if rows, next, err = selectReferrers(ctx, tx, name, subject, filter, at, after, p.n); err == nil {
			index.Manifests, err = r.describe(ctx, tx, &q.caller, name, rows)
		}
		return err
	})
	if err != nil {
		return err
	}
	h := q.w.Header()
	if filter != "" {
		h.Set("Oci-Filters-Applied", "artifactType")
	}
	if next != nil {
		query := url.Values{"n": {strconv.Itoa(p.n)}, "last": {cursor(next)}}
		if filter != "" {
			query.Set("artifactType", filter)
		}
		linkNext(h, "/v2/"+name+"/referrers/"+string(subject), query)
	}
	return writeJSON(q.w, typeIndex, index)
}

// describe makes descriptors of the rows that the caller sees.
func (r *Registry) describe(ctx context.Context, tx *store.Tx, c *caller, name string, rows []manifestRow) ([]referrerDescriptor, error) {
	list := []referrerDescriptor{}
	for i := range rows {
		row := &rows[i]
		seen, err := r.sees(ctx, tx, c, name, row.digest)
		if err != nil {
			return nil, err
		}
		if !seen {
			continue
		}
		d := referrerDescriptor{MediaType: row.mediaType, Digest: row.digest, Size: row.size, ArtifactType: row.artifactType}
		if row.annotations != "null" {
			d.Annotations = json.RawMessage(row.annotations)
		}
		list = append(list, d)
	}
	return list, nil
}

// selectReferrers reads one page: at most n rows, and no more than fit one
// answer, since annotations may be megabytes each. next is the row to go on
// after, nil when there is no more.
func selectReferrers(ctx context.Context, tx *store.Tx, name string, subject artifact.Digest, filter string, at int64, after string, n int) (list []manifestRow, next *manifestRow, err error) {
	if n == 0 {
		return nil, nil, nil
	}
	q := `SELECT digest, media_type, artifact_type, size, annotations, pushed_at FROM registry_manifest
		WHERE repository = ? AND subject = ? AND subject <> '' AND (pushed_at < ? OR (pushed_at = ? AND digest > ?))`
	args := []any{name, string(subject), at, at, after}
	if filter != "" {
		q += ` AND artifact_type = ?`
		args = append(args, filter)
	}
	rows, err := tx.Query(ctx, q+` ORDER BY pushed_at DESC, digest LIMIT ?`, append(args, n+1)...)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rows.Close() }()
	for size := 0; rows.Next(); {
		var m manifestRow
		if err := rows.Scan(&m.digest, &m.mediaType, &m.artifactType, &m.size, &m.annotations, &m.pushedAt); err != nil {
			return nil, nil, err
		}
		size += len(m.annotations) + 512
		if len(list) == n || len(list) > 0 && size > maxReferrersBytes {
			return list, &list[len(list)-1], rows.Close()
		}
		list = append(list, m)
	}
	return list, nil, rows.Err()
}

// cursor is where a page of referrers ended: time and digest, opaque to
// clients.
func cursor(m *manifestRow) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(m.pushedAt, 10) + " " + string(m.digest)))
}

func parseCursor(s string) (at int64, after string, err error) {
	if s == "" {
		return 1<<63 - 1, "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		t, d, ok := strings.Cut(string(b), " ")
		at, numeric := parseDecimal(t)
		if _, derr := artifact.ParseDigest(d); ok && numeric && derr == nil {
			return at, d, nil
		}
	}
	return 0, "", failf(codeUnsupported, fault.Invalid, "last=%.80q: follow the Link header of the page before", s)
}
