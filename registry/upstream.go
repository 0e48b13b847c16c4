package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// Upstream brings what a gateway's repositories hold from where it lies:
// registry/gateway. It is asked after the caller's right to pull, and before
// what the caller sees is looked up.
type Upstream interface {
	// Of says whether a repository is a gateway's, and for which host.
	Of(repository string) (host string, ok bool)
	// Manifest brings what a tag, or where it is empty a digest, names, with the
	// evidence about it, when it is not here or has to be looked at again. nil:
	// what is here is what the upstream has. The warning is for the client: what
	// is here is served all the same. Errors: NotFound, Unavailable, Tampered,
	// and what Intake gives.
	Manifest(ctx context.Context, in Intake, repository, tag string, d artifact.Digest) (warning string, err error)
	// Tags lists what tags the repository has there, in the order of bytes, each
	// once; it may be of a moment ago, or cut, and then the warning is for the
	// client. nil: there is no list, and the warning says why. Errors: NotFound,
	// where the upstream has no such repository, and Unavailable, Unauthenticated
	// and Invalid, each where no list of before is kept.
	Tags(ctx context.Context, repository string) (tags []string, warning string, err error)
	// Blob brings a blob that a manifest here names with its size.
	Blob(ctx context.Context, in Intake, repository string, d artifact.Digest, size int64) error
}

// Intake takes in what an [Upstream] fetched. What it takes must have been
// fetched for that repository: that bytes are stored for another one proves no
// right to them.
type Intake interface {
	// Has says whether the repository holds a manifest.
	Has(ctx context.Context, repository string, d artifact.Digest) (bool, error)
	// Points gives what a tag names, for all or, if newer, held; empty: nothing.
	Points(ctx context.Context, repository, tag string) (d artifact.Digest, held bool, err error)
	// AdoptBlob says whether TakeBlob took a blob for the repository before, and it
	// is still stored: then the manifests that were taken since have it too.
	AdoptBlob(ctx context.Context, repository string, d artifact.Digest) (bool, error)
	// Take stores a manifest and moves its tag, through the gate, as a push by
	// system:gateway. fault.Denied is the gate's.
	Take(ctx context.Context, b Fetched) error
	// TakeBlob stores a blob of a manifest that was taken, or is to be. r errs
	// unless its content is what d says.
	TakeBlob(ctx context.Context, repository string, d artifact.Digest, size int64, r io.Reader) error
}

// Fetched is a manifest from an upstream.
type Fetched struct {
	Repository string
	Tag        string // to be set; empty: none
	Digest     artifact.Digest
	MediaType  string
	Bytes      []byte
	// Whole says that TakeBlob has its blobs already. Otherwise they are brought
	// when somebody asks for them.
	Whole bool
}

// GatewayPrincipal is who pushes what an upstream has.
func GatewayPrincipal() identity.Principal { return identity.System("gateway") }

// systemRequest stands for a request of this process itself.
func systemRequest(ctx context.Context, repository string) *request {
	req, _ := http.NewRequestWithContext(ctx, http.MethodPut, "/", http.NoBody) // always well-formed
	return &request{
		Request: req, route: route{op: opManifestPut, name: repository},
		caller: caller{Principal: GatewayPrincipal()}, start: time.Now(),
	}
}

// intake is the registry's own Intake.
type intake struct{ r *Registry }

func (in intake) Has(ctx context.Context, repository string, d artifact.Digest) (have bool, err error) {
	err = in.r.db.View(ctx, func(tx *store.Tx) error {
		_, err := findManifest(ctx, tx, repository, d)
		have = err == nil
		if errors.Is(err, fault.NotFound) {
			return nil
		}
		return err
	})
	return have, err
}

func (in intake) Points(ctx context.Context, repository, tag string) (d artifact.Digest, held bool, err error) {
	err = in.r.db.View(ctx, func(tx *store.Tx) error {
		if d, _, err = findTag(ctx, tx, repository, tag); err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		h, err := newestHeld(ctx, tx, repository, tag)
		if held = err == nil && h.digest != ""; held {
			d = h.digest
		}
		return err
	})
	return d, held, err
}

func (in intake) AdoptBlob(ctx context.Context, repository string, d artifact.Digest) (bool, error) {
	var n int64
	err := in.r.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COUNT(*) FROM registry_upload WHERE repository = ? AND digest = ? AND uploader = ?`,
			repository, string(d), Owner(GatewayPrincipal())).Scan(&n)
	})
	if err != nil || n == 0 {
		return false, err
	}
	_, err = in.r.blobs.Stat(ctx, d)
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	if err == nil {
		err = in.hold(ctx, repository, d)
	}
	if errors.Is(err, sweep.ErrTaken) {
		return false, nil
	}
	return err == nil, err
}

// hold makes a blob that is here one of the manifests that name it.
func (in intake) hold(ctx context.Context, repository string, d artifact.Digest) error {
	if err := in.r.db.Update(ctx, func(tx *store.Tx) error { return insertUpload(ctx, tx, repository, d, Owner(GatewayPrincipal())) }); err != nil {
		return err
	}
	// The upload's row keeps the blob from now on. Only when the bytes are seen
	// to be there do the manifests say that they have it.
	if err := in.r.stillThere(ctx, d); err != nil {
		return err
	}
	return in.r.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE registry_reference SET kind = ? WHERE child = ? AND kind = ? AND repository = ?`,
			refBlob, string(d), refRemote, repository)
		return err
	})
}

func (in intake) Take(ctx context.Context, b Fetched) error {
	r := in.r
	if int64(len(b.Bytes)) > r.limits.MaxManifest {
		return failf(codeManifestInvalid, fault.TooLarge, "manifest %s is larger than %d bytes", b.Digest, r.limits.MaxManifest)
	}
	m, err := parseManifest(b.MediaType, b.Bytes, r.limits.MaxReferences)
	if err != nil {
		return err
	}
	h := b.Digest.Hash()
	h.Write(b.Bytes)
	if got := artifact.NewDigest(b.Digest.Algorithm(), h.Sum(nil)); got != b.Digest {
		return fault.Newf(fault.Tampered, "expected manifest %s, found content with digest %s", b.Digest, got)
	}
	m.remote = !b.Whole
	if err := r.unmask(ctx, m); err != nil {
		return err
	}
	q := systemRequest(ctx, b.Repository)
	p := &push{manifest: m, digest: b.Digest, size: int64(len(b.Bytes))}
	if b.Tag != "" {
		if !ValidTag(b.Tag) {
			return fault.Newf(fault.Invalid, "%.200q is no tag", b.Tag)
		}
		p.tags = []string{b.Tag}
	}
	p.carry = carriedBy(p)
	if err := r.keepBytes(ctx, p.digest, b.Bytes); err != nil {
		return err
	}
	p.ask = gatePush(q, p)
	err = refusedMove(r.gate.Prepare(ctx, &p.ask))
	if err == nil {
		err = r.keepRow(ctx, p.digest, b.Bytes, func(tx *store.Tx) error { return r.commitPush(ctx, tx, q, p) })
	}
	if err != nil {
		if errors.As(err, new(*gateError)) {
			r.noteDenied(q, b.Repository, p.digest, err)
		}
		return err
	}
	r.ingestNow(ctx, b.Repository, p.carry)
	return nil
}

func (in intake) TakeBlob(ctx context.Context, repository string, d artifact.Digest, size int64, body io.Reader) error {
	r := in.r
	if size > r.limits.MaxBlob {
		return fault.Newf(fault.TooLarge, "blob %s has %d bytes, want at most %d", d, size, r.limits.MaxBlob)
	}
	if err := sweep.Clear(ctx, r.db, d); err != nil {
		return err
	}
	if err := storeBlob(ctx, r.blobs, d, body); err != nil {
		return err
	}
	return in.hold(ctx, repository, d)
}

// storeBlob writes a blob as it arrives. What is stored already is read to its
// end all the same: only that proves that the upstream has it.
func storeBlob(ctx context.Context, blobs blob.Store, d artifact.Digest, body io.Reader) error {
	if _, err := blobs.Stat(ctx, d); err == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	} else if !errors.Is(err, fault.NotFound) {
		return err
	}
	w, err := blobs.Create(ctx)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, body); err != nil {
		_ = w.Cancel() // the copy's error says more
		return err
	}
	return w.Commit(ctx, d)
}

// upstreamOf says whether a repository is a gateway's.
func (r *Registry) upstreamOf(repository string) (host string, ok bool) {
	if r.upstream == nil || repository == "" {
		return "", false
	}
	return r.upstream.Of(repository)
}

// Intake takes in what a gateway looks up besides pulls.
func (r *Registry) Intake() Intake { return intake{r} }

// bringManifest lets the upstream bring what a pull asks for. What it cannot
// bring is an error only where nothing is here: see pulled.
func (r *Registry) bringManifest(q *request, tag string, d artifact.Digest) error {
	host, ok := r.upstreamOf(q.route.name)
	if !ok {
		return nil
	}
	warning, err := r.upstream.Manifest(q.Context(), intake{r}, q.route.name, tag, d)
	warn(q.w.Header(), warning)
	if err == nil || errors.Is(err, fault.NotFound) {
		return nil // what is not there is told in this registry's own words
	}
	return r.upstreamFailure(q, host, err)
}

// upstreamFailure tells a client what came of asking the upstream, without what
// is between the two: that is for the log.
func (r *Registry) upstreamFailure(q *request, host string, err error) error {
	if errors.As(err, new(*gateError)) || errors.As(err, new(*failure)) {
		return err
	}
	kind := fault.KindOf(err)
	if kind == fault.Denied && q.Context().Err() == nil {
		kind = fault.Unavailable
	}
	r.log.WarnContext(q.Context(), "the upstream did not give what was asked for", "repository", q.route.name, "upstream", host, "reference", q.route.ref, "error", err)
	f := &failure{status: http.StatusBadGateway, told: true}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		f.status = http.StatusGatewayTimeout
		f.err = fault.Newf(fault.Unavailable, "the upstream %s of repository %s does not answer, and %s is not kept here; try again later", host, q.route.name, q.route.ref)
	case kind == fault.Tampered:
		f.err = fault.Newf(fault.Tampered, "the upstream %s of repository %s serves other content for %s than its digest says; it is not served, and is on record", host, q.route.name, q.route.ref)
	case kind == fault.Unauthenticated:
		f.err = fault.Newf(fault.Unavailable, "the upstream %s of repository %s does not let this registry in; see credentials in its Repository document", host, q.route.name)
	case kind == fault.TooLarge, kind == fault.Invalid:
		f.err = fault.Newf(fault.Invalid, "what the upstream %s of repository %s has as %s is not taken: it is malformed or too large", host, q.route.name, q.route.ref)
	case kind == fault.NoSpace:
		return err
	default:
		f.err = fault.Newf(fault.Unavailable, "the upstream %s of repository %s does not answer as a registry should, and %s is not kept here; try again later", host, q.route.name, q.route.ref)
	}
	return f
}

// bringBlob brings a blob that a manifest which the caller sees names, and that
// has not been asked for yet.
func (r *Registry) bringBlob(q *request, d artifact.Digest) error {
	name, ctx := q.route.name, q.Context()
	host, ok := r.upstreamOf(name)
	if !ok {
		return nil
	}
	var m manifestRow
	err := r.db.View(ctx, func(tx *store.Tx) error {
		m = manifestRow{}
		if seen, err := r.visibleBlob(ctx, tx, &q.caller, name, d); err != nil || seen {
			return err
		}
		holding, err := store.Values[string](ctx, tx, `SELECT manifest FROM registry_reference WHERE child = ? AND kind = ? AND repository = ?`,
			string(d), refRemote, name)
		if err != nil {
			return err
		}
		for _, h := range holding {
			seen, err := r.sees(ctx, tx, &q.caller, name, artifact.Digest(h))
			if err != nil {
				return err
			}
			if seen {
				m, err = findManifest(ctx, tx, name, artifact.Digest(h))
				return err
			}
		}
		return nil
	})
	if err != nil || m.digest == "" {
		return err
	}
	body, err := r.readManifest(ctx, m)
	if err != nil {
		return err
	}
	doc, err := parseManifest(m.mediaType, body, r.limits.MaxReferences)
	if err != nil {
		return err
	}
	for i := range doc.blobs {
		if doc.blobs[i].Digest == d {
			if err := r.upstream.Blob(ctx, intake{r}, name, d, doc.blobs[i].Size); err != nil {
				return r.upstreamFailure(q, host, err)
			}
			return nil
		}
	}
	return nil
}

// refuseGatewayPush answers a push to a gateway's repository.
func (r *Registry) refuseGatewayPush(q *request, host string) error {
	if err := r.allowAny(q, q.route.name, writers...); err != nil {
		return err
	}
	err := failf(codeDenied, fault.Denied, "repository %s is a gateway for %s and holds what is there: push and sign there, or push to a repository of this registry's own", q.route.name, host)
	r.noteDenied(q, q.route.name, "", err)
	return err
}

// IsCarrierTag says whether a tag is one by which evidence is found without the
// referrers API.
func IsCarrierTag(tag string) bool {
	_, ok := carrierTag(tag)
	return ok
}
