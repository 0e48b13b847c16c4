package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// Holding is a manifest of a repository, and what it needs.
type Holding struct {
	Digest    artifact.Digest
	MediaType string
	Size      int64
	Blobs     []artifact.Digest
	Children  []artifact.Digest // manifests
}

// Names lists all repositories. It asks nobody's rights.
func Names(ctx context.Context, tx *store.Tx) ([]string, error) {
	return store.Values[string](ctx, tx, `SELECT name FROM registry_repository ORDER BY name`)
}

// Holdings gives what a repository shows to everybody who may pull there: not
// what is staged, rejected, quarantined or revoked. What an index names stands
// before it. tags are those of these manifests.
func (r *Registry) Holdings(ctx context.Context, tx *store.Tx, repository string) (list []Holding, tags [][2]string, err error) {
	all, err := selectHoldings(ctx, tx, repository)
	if err != nil {
		return nil, nil, err
	}
	seen := map[artifact.Digest]bool{}
	var visit func(d artifact.Digest) error
	visit = func(d artifact.Digest) error {
		h, there := all[d]
		if !there || seen[d] {
			return nil
		}
		seen[d] = true
		if r.vis != nil {
			if ok, err := r.vis.Visible(ctx, tx, identity.Anonymous(), repository, d); err != nil || !ok {
				seen[d] = false
				delete(all, d)
				return err
			}
		}
		for _, c := range h.Children {
			if err := visit(c); err != nil {
				return err
			}
			if !seen[c] { // an index is worth nothing without what it names
				seen[d] = false
				delete(all, d)
				return nil
			}
		}
		list = append(list, *h)
		return nil
	}
	order := make([]artifact.Digest, 0, len(all))
	for d := range all {
		order = append(order, d)
	}
	slices.Sort(order)
	for _, d := range order {
		if err := visit(d); err != nil {
			return nil, nil, err
		}
	}
	pairs, err := selectPairs(ctx, tx, `SELECT tag, digest FROM registry_tag WHERE repository = ? ORDER BY tag`, repository)
	for _, p := range pairs {
		if seen[artifact.Digest(p[1])] {
			tags = append(tags, p)
		}
	}
	return list, tags, err
}

func selectHoldings(ctx context.Context, tx *store.Tx, repository string) (map[artifact.Digest]*Holding, error) {
	rows, err := tx.Query(ctx, `SELECT digest, media_type, size FROM registry_manifest WHERE repository = ?`, repository)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[artifact.Digest]*Holding{}
	for rows.Next() {
		var h Holding
		if err := rows.Scan(&h.Digest, &h.MediaType, &h.Size); err != nil {
			return nil, err
		}
		all[h.Digest] = &h
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for kind, add := range map[int]func(h *Holding, c artifact.Digest){
		refBlob:     func(h *Holding, c artifact.Digest) { h.Blobs = append(h.Blobs, c) },
		refManifest: func(h *Holding, c artifact.Digest) { h.Children = append(h.Children, c) },
	} {
		pairs, err := selectPairs(ctx, tx, `SELECT manifest, child FROM registry_reference WHERE repository = ? AND kind = ? ORDER BY manifest, child`, repository, kind)
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			if h := all[artifact.Digest(p[0])]; h != nil {
				add(h, artifact.Digest(p[1]))
			}
		}
	}
	return all, nil
}

// Brought is a manifest that comes into a repository by another way than a push
// over HTTP. Its bytes and those of its blobs lie in the blob store, and whoever
// brings it has a right to them.
type Brought struct {
	Repository string
	MediaType  string
	Digest     artifact.Digest
	Body       []byte
	Tags       []string
}

// Bringing is a set of manifests on its way in: a push in all its rules, of many
// manifests, in one transaction.
type Bringing struct {
	r    *Registry
	list []bringing
}

type bringing struct {
	q *request
	p *push
	// refused is why the gate does not let it in, or a tag of it move.
	refused error
	tags    map[string]error
}

// Refusal is what the gate did not let in.
type Refusal struct {
	Repository string          `json:"repository"`
	Tag        string          `json:"tag,omitempty"` // empty: the manifest itself
	Digest     artifact.Digest `json:"digest"`
	Reason     string          `json:"reason"`
}

// Bring prepares a set: it checks each manifest as a push by p does, the blobs
// too, and lets the gate make its decisions. Nothing is visible yet. What names
// others comes after them.
func (r *Registry) Bring(ctx context.Context, p identity.Principal, door string, list []Brought) (*Bringing, error) {
	b := &Bringing{r: r}
	for i := range list {
		one, err := r.bring(ctx, p, door, &list[i])
		if err != nil {
			return nil, fault.Newf(fault.KindOf(err), "%s@%s: %w", list[i].Repository, list[i].Digest, err)
		}
		b.list = append(b.list, *one)
	}
	return b, nil
}

func (r *Registry) bring(ctx context.Context, p identity.Principal, door string, m *Brought) (*bringing, error) {
	if !artifact.ValidRepository(m.Repository) {
		return nil, fault.Newf(fault.Invalid, "repository %.200q is not of the OCI grammar", m.Repository)
	}
	req := (&http.Request{
		Method: http.MethodPut, URL: &url.URL{Path: "/v2/" + m.Repository + "/manifests/" + string(m.Digest)},
		Header: http.Header{"Content-Type": {m.MediaType}}, RemoteAddr: door,
	}).WithContext(ctx)
	req.URL.RawQuery = url.Values{"tag": m.Tags}.Encode()
	q := &request{Request: req, route: route{op: opManifestPut, name: m.Repository, ref: string(m.Digest)}, caller: caller{Principal: p}, start: time.Now()}
	pushed, err := r.parsePush(q, "", m.Digest, m.Body)
	if err != nil {
		return nil, err
	}
	if err := r.mayPush(q, pushed); err != nil {
		return nil, err
	}
	if err := r.checkStored(ctx, pushed); err != nil {
		return nil, err
	}
	if err := r.checkClaims(q, pushed); err != nil {
		return nil, err
	}
	if err := r.keepBytes(ctx, pushed.digest, m.Body); err != nil {
		return nil, err
	}
	out := &bringing{q: q, p: pushed, tags: map[string]error{}}
	pushed.ask = gatePush(q, pushed)
	return out, r.denied(r.gate.Prepare(ctx, &pushed.ask), &out.refused)
}

// denied keeps a refusal by the gate, and passes on every other error.
func (r *Registry) denied(err error, into *error) error {
	var by *gateError
	if err = refusedMove(err); errors.As(err, &by) {
		*into = err
		return nil
	}
	return err
}

// Commit makes the set visible in tx, in which nothing else may have been done
// that a refusal would take back: [ErrRefused] means that the gate refused
// something, which is noted; roll back and call it again in a new transaction.
// It may run more than once for other reasons too.
func (b *Bringing) Commit(ctx context.Context, tx *store.Tx) error {
	out := map[artifact.Digest]bool{}
	for i := range b.list {
		one := &b.list[i]
		if one.refused == nil && slices.ContainsFunc(one.p.children, func(c descriptor) bool { return out[c.Digest] }) {
			one.refused = fault.Newf(fault.Denied, "a manifest that it names was refused")
		}
		if one.refused != nil {
			out[one.p.digest] = true
			continue
		}
		if err := b.commit(ctx, tx, one); err != nil {
			return err
		}
	}
	return nil
}

// ErrRefused: see [Bringing.Commit].
var ErrRefused = errors.New("the gate refused something")

func (b *Bringing) commit(ctx context.Context, tx *store.Tx, one *bringing) error {
	// The blobs were seen when the set was prepared, which may be long ago, and
	// no row has needed them since. From here on the rows of tx do.
	if err := b.r.checkStored(ctx, one.p); err != nil {
		return err
	}
	for i := range one.p.blobs {
		if err := insertUpload(ctx, tx, one.q.route.name, one.p.blobs[i].Digest, one.q.caller.owner()); err != nil {
			return err
		}
	}
	whole := one.p.tags
	defer func() { one.p.tags = whole }()
	one.p.tags = nil
	if err := b.r.commitPush(ctx, tx, one.q, one.p); err != nil {
		return b.refuse(err, &one.refused)
	}
	for _, tag := range whole {
		if one.tags[tag] != nil {
			continue
		}
		if _, err := b.r.moveTag(ctx, tx, one.q, tag, one.p); err != nil {
			var why error
			err = b.refuse(err, &why)
			if why != nil {
				one.tags[tag] = why
			}
			return err
		}
	}
	return nil
}

func (b *Bringing) refuse(err error, into *error) error {
	if err = b.r.denied(err, into); err == nil {
		return ErrRefused
	}
	return err
}

// Len is how many manifests the set has.
func (b *Bringing) Len() int { return len(b.list) }

// BlobsOf lists the blobs that a manifest names, which is checked as one that is
// pushed.
func (r *Registry) BlobsOf(mediaType string, body []byte) (out []artifact.Digest, err error) {
	m, err := parseManifest(mediaType, body, r.limits.MaxReferences)
	if err != nil {
		return nil, err
	}
	for i := range m.blobs {
		out = append(out, m.blobs[i].Digest)
	}
	return out, nil
}

// Refused says what the gate did not let in.
func (b *Bringing) Refused() (out []Refusal) {
	for i := range b.list {
		one := &b.list[i]
		if one.refused != nil {
			out = append(out, Refusal{Repository: one.q.route.name, Digest: one.p.digest, Reason: one.refused.Error()})
			continue
		}
		for _, t := range one.p.tags {
			if why := one.tags[t]; why != nil {
				out = append(out, Refusal{Repository: one.q.route.name, Tag: t, Digest: one.p.digest, Reason: why.Error()})
			}
		}
	}
	return out
}

// Done hands on the evidence in the set, once it is committed, and gives
// [Bringing.Refused].
func (b *Bringing) Done(ctx context.Context) []Refusal {
	for i := range b.list {
		if one := &b.list[i]; one.refused == nil {
			b.r.ingestNow(ctx, one.q.route.name, one.p.carry)
		}
	}
	return b.Refused()
}
