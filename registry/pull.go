package registry

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// getManifest answers GET and HEAD of a manifest by tag or digest.
func (r *Registry) getManifest(q *request) error {
	name := q.route.name
	if err := r.allow(q, identity.ActPull, name); err != nil {
		return err
	}
	tag, d, err := parseReference(q.route.ref)
	if err != nil {
		return err
	}
	if err := r.bringManifest(q, tag, d); err != nil {
		return err
	}
	ctx := q.Context()
	var m manifestRow
	err = r.db.View(ctx, func(tx *store.Tx) (err error) {
		m, err = r.find(ctx, tx, &q.caller, name, tag, d)
		return err
	})
	if err != nil {
		if g := (*gateError)(nil); errors.As(err, &g) {
			r.noteDenied(q, name, g.about, err)
		}
		return unknownToNobody(q, err)
	}
	if accept := q.Header.Values("Accept"); !accepts(accept, m.mediaType) {
		return failf(codeManifestUnknown, fault.NotFound, "%s in repository %s is a %s, which Accept does not name", q.route.ref, name, m.mediaType)
	}
	h := q.w.Header()
	h.Set("Docker-Content-Digest", string(m.digest))
	h.Set("Etag", etag(m.digest))
	h.Set("Vary", "Accept, Authorization")
	h.Set("Cache-Control", "private, no-cache") // a tag moves, and rights end
	if v := q.Header.Get("If-None-Match"); v != "" && matches(v, m.digest) {
		q.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", m.mediaType)
	h.Set("Content-Length", strconv.FormatInt(m.size, 10))
	if q.route.op == opManifestHead {
		if tag != "" {
			r.pulls.head(q.pullKey(m.digest), tag)
		}
		q.w.WriteHeader(http.StatusOK)
		return nil
	}
	body, err := r.readManifest(ctx, m)
	if err != nil {
		return err
	}
	return r.servePull(q, tag, m, body)
}

// unknownToNobody asks who it is, where somebody without credentials does not find
// a manifest: what waits is there for those who made it, and clients that have
// credentials (oras) send them only when they are asked to. With the token that
// anybody gets, what is not there is not there.
func unknownToNobody(q *request, err error) error {
	if !q.caller.bare || !errors.Is(err, fault.NotFound) {
		return err
	}
	return &failure{code: codeUnauthorized, challenge: challengeScope(q.route.name, identity.ActPull),
		err: fault.Newf(fault.Unauthenticated, "%w; log in if it is there for you", err)}
}

type pulledBody struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"` // when asked for by tag
	MediaType  string `json:"media_type"`
	Bytes      int64  `json:"bytes"` // of the manifest
	trail
}

// servePull sends a manifest and records the pull. The record is queued before
// the first byte and committed with those of every other pull of that moment.
// With Options.StrictAudit the answer ends only after that commit. Without it
// the pull does not wait, and a process that is killed loses the records of its
// last 50 ms; but as soon as records cannot be written, pulls are refused, since
// what nobody can account for is not given.
func (r *Registry) servePull(q *request, tag string, m manifestRow, body []byte) error {
	record := r.pulls.pull(q.pullKey(m.digest), q.reader(), tag, func(tag string) *record {
		return r.rec.add(event.Event{
			Kind: event.ArtifactPulled, Digest: m.digest, Actor: q.caller.Actor(), TraceID: traceID(q.Request),
			Body: pulledBody{q.route.name, tag, m.mediaType, m.size, q.trail(decisionAllow)},
		})
	})
	if err := r.settle(q, record); err != nil {
		return err
	}
	_, _ = q.w.Write(body) // a client that is gone needs no answer
	return nil
}

// settle waits for a record as strictly as the options ask for.
func (r *Registry) settle(q *request, record *record) error {
	if r.strictAudit {
		return record.wait(q.Context())
	}
	return record.keep(q.Context())
}

// find resolves a tag, or takes a digest, to a manifest that the caller sees.
func (r *Registry) find(ctx context.Context, tx *store.Tx, c *caller, repository, tag string, d artifact.Digest) (manifestRow, error) {
	if tag != "" {
		var err error
		if d, err = r.resolveTag(ctx, tx, c, repository, tag); errors.Is(err, fault.NotFound) {
			return manifestRow{}, failf(codeManifestUnknown, fault.NotFound, "tag %s is not in repository %s", tag, repository)
		} else if err != nil {
			return manifestRow{}, err
		}
	}
	m, err := r.visibleManifest(ctx, tx, c, repository, d)
	if tag != "" && errors.Is(err, fault.NotFound) {
		// What a hidden tag points at is hidden too.
		err = failf(codeManifestUnknown, fault.NotFound, "tag %s is not in repository %s", tag, repository)
	}
	return m, err
}

// resolveTag gives what a tag names: for those who see what is held the newest
// push, for all others what was promoted. Where there is nothing but what is
// held, others are told why, if they may know.
func (r *Registry) resolveTag(ctx context.Context, tx *store.Tx, c *caller, repository, tag string) (artifact.Digest, error) {
	d, held, unset, err := r.tagOf(ctx, tx, repository, tag)
	switch {
	case err != nil:
		return "", err
	case r.vis == nil || held.digest == "":
		return d, unset
	case unset != nil || r.vis.SeesHeld(ctx, c.Principal, repository, held.owner):
		return held.digest, nil //nolint:nilerr // where nothing is set, what is held is shown to whoever may see it
	}
	return d, nil
}

// readManifest reads a manifest's bytes and makes sure that they are the ones
// that were pushed: damaged ones are never served.
func (r *Registry) readManifest(ctx context.Context, m manifestRow) ([]byte, error) {
	f, err := r.blobs.Open(ctx, m.digest)
	if err != nil {
		if errors.Is(err, fault.NotFound) {
			err = r.tampered(ctx, m.digest, "absent")
		}
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if f.Size() != m.size {
		return nil, r.tampered(ctx, m.digest, strconv.FormatInt(f.Size(), 10)+" bytes instead of "+strconv.FormatInt(m.size, 10))
	}
	body := make([]byte, m.size) // bounded: PUT took it
	if _, err := io.ReadFull(f, body); err != nil {
		return nil, fault.Newf(fault.Unavailable, "read manifest %s: %w", m.digest, err)
	}
	h := m.digest.Hash()
	h.Write(body)
	if got := artifact.NewDigest(m.digest.Algorithm(), h.Sum(nil)); got != m.digest {
		return nil, r.tampered(ctx, m.digest, string(got))
	}
	return body, nil
}

type tamperedBody struct {
	What     string `json:"what"`
	Name     string `json:"name"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// tampered records that a manifest's stored bytes are not what was pushed.
func (r *Registry) tampered(ctx context.Context, d artifact.Digest, found string) error {
	r.note(ctx, event.Event{
		Kind: event.StoreTampered, Digest: d, Actor: identity.System("registry").Actor(),
		Body: tamperedBody{What: "blob", Name: "manifest " + string(d), Expected: string(d), Found: found},
	})
	return fault.Newf(fault.Tampered, "the stored bytes of manifest %s are %s: restore them from a backup or push again", d, found)
}

// accepts says whether an Accept header lets the client have mediaType. A
// manifest is never converted: its digest would change (RFC 9110 section
// 12.5.1; OCI Distribution, Content Negotiation).
func accepts(headers []string, mediaType string) bool {
	any := false
	for _, h := range headers {
		for item := range strings.SplitSeq(h, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			any = true
			t, params, err := mime.ParseMediaType(item)
			if err != nil || params["q"] == "0" {
				continue
			}
			if t == mediaType || t == "*/*" || t == "application/*" {
				return true
			}
		}
	}
	return !any
}

// Descriptor names a manifest in a repository.
type Descriptor struct {
	Digest       artifact.Digest
	MediaType    string
	ArtifactType string // as the referrers API shows it
	Size         int64  // bytes
}

// Resolve gives the manifest that a tag or digest names in a repository, for
// parts of this process that act for principal p: what p may not pull or see is
// refused as at the door. Errors are fault.NotFound, Denied, Unauthenticated.
func (r *Registry) Resolve(ctx context.Context, p identity.Principal, repository, reference string) (Descriptor, error) {
	if err := r.access.Allow(ctx, p, identity.ActPull, identity.Repository(repository)); err != nil {
		return Descriptor{}, err
	}
	tag, d, err := parseReference(reference)
	if err != nil {
		return Descriptor{}, err
	}
	var m manifestRow
	err = r.db.View(ctx, func(tx *store.Tx) (err error) {
		m, err = r.find(ctx, tx, &caller{Principal: p}, repository, tag, d)
		return err
	})
	return Descriptor{m.digest, m.mediaType, m.artifactType, m.size}, err
}

// Manifest reads the bytes of a manifest that Resolve gave, checked against its
// digest. The read is not recorded as a pull.
func (r *Registry) Manifest(ctx context.Context, p identity.Principal, repository string, d artifact.Digest) ([]byte, error) {
	m, err := r.Resolve(ctx, p, repository, string(d))
	if err != nil {
		return nil, err
	}
	return r.readManifest(ctx, manifestRow{digest: m.Digest, size: m.Size})
}
