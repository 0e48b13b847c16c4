package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"assay/artifact"
	"assay/blob"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// push is a manifest on its way in.
type push struct {
	*manifest
	digest artifact.Digest
	size   int64
	tags   []string
	carry  []carried // evidence to hand on
	ask    Push      // what the gate is asked about
}

const maxTagsPerPush = 64

// putManifest answers PUT of a manifest by tag or digest. The bytes are durable
// before the transaction begins that makes them visible; gate, tags, events and
// the note of what to ingest are one transaction; the answer follows its
// commit.
func (r *Registry) putManifest(q *request) error {
	name := q.route.name
	if err := r.allowAny(q, name, writers...); err != nil {
		return err
	}
	tag, d, err := parseReference(q.route.ref)
	if err != nil {
		return err
	}
	body, err := r.manifestBody(q)
	if err != nil {
		return err
	}
	p, err := r.parsePush(q, tag, d, body)
	if err != nil {
		return err
	}
	if err := r.mayPush(q, p); err != nil {
		return err
	}
	ctx := q.Context()
	if err := r.checkVisibleFirst(q, p); err != nil {
		return err
	}
	if err := r.checkStored(ctx, p); err != nil {
		return err
	}
	if err := r.checkClaims(q, p); err != nil {
		return err
	}
	// The row points at bytes, so the bytes come first. What a refused push
	// leaves behind has no row, is visible to nobody, and goes with garbage
	// collection.
	if err := r.keepBytes(ctx, p.digest, body); err != nil {
		return err
	}
	p.ask = gatePush(q, p)
	err = refusedMove(r.gate.Prepare(ctx, &p.ask))
	if err == nil {
		err = r.keepRow(ctx, p.digest, body, func(tx *store.Tx) error { return r.commitPush(ctx, tx, q, p) })
	}
	if err != nil {
		var denied *gateError
		if errors.As(err, &denied) {
			r.noteDenied(q, name, p.digest, err)
		}
		return err
	}
	r.ingestNow(ctx, name, p.carry)

	h := q.w.Header()
	warn(h, p.ask.Warning)
	h.Set("Location", "/v2/"+name+"/manifests/"+string(p.digest))
	h.Set("Docker-Content-Digest", string(p.digest))
	h.Set("Etag", etag(p.digest))
	if p.subject != "" {
		h.Set("Oci-Subject", string(p.subject))
	}
	if tag == "" && len(p.tags) > 0 {
		h.Set("Oci-Tag", strings.Join(p.tags, ", "))
	}
	q.w.WriteHeader(http.StatusCreated)
	return nil
}

// manifestBody reads the body up to the limit. A Content-Length over it is
// refused before a byte is read or allocated.
func (r *Registry) manifestBody(q *request) ([]byte, error) {
	tooLarge := func() error {
		return failf(codeManifestInvalid, fault.TooLarge, "the manifest is larger than %d bytes", r.limits.MaxManifest)
	}
	if q.ContentLength > r.limits.MaxManifest {
		return nil, tooLarge()
	}
	var buf bytes.Buffer
	if q.ContentLength > 0 {
		buf.Grow(int(q.ContentLength) + bytes.MinRead)
	}
	body := r.patient(q)
	n, err := buf.ReadFrom(io.LimitReader(body, r.limits.MaxManifest+1))
	switch {
	case err != nil:
		return nil, failf(codeManifestInvalid, fault.Invalid, "the request's body ended early: %w", err)
	case n > r.limits.MaxManifest:
		return nil, tooLarge()
	}
	return buf.Bytes(), nil
}

// parsePush checks document, digest and tags.
func (r *Registry) parsePush(q *request, tag string, d artifact.Digest, body []byte) (*push, error) {
	m, err := parseManifest(q.Header.Get("Content-Type"), body, r.limits.MaxReferences)
	if err != nil {
		return nil, err
	}
	p := &push{manifest: m, size: int64(len(body))}
	if tag != "" {
		p.tags = []string{tag}
		if s := q.URL.Query().Get("digest"); s != "" {
			if d, err = parseDigest(s); err != nil {
				return nil, err
			}
		}
	} else {
		for _, t := range q.URL.Query()["tag"] {
			if !ValidTag(t) {
				return nil, failf(codeManifestInvalid, fault.Invalid, "tag=%.200q is no tag", t)
			}
			if !slices.Contains(p.tags, t) {
				p.tags = append(p.tags, t)
			}
		}
		if len(p.tags) > maxTagsPerPush {
			return nil, &failure{code: codeUnsupported, status: http.StatusRequestURITooLong, err: fault.Newf(fault.Invalid, "%d tags: want at most %d", len(p.tags), maxTagsPerPush)}
		}
	}
	alg := artifact.SHA256
	if d != "" {
		alg = d.Algorithm()
	}
	h, _ := artifact.NewHash(alg)
	h.Write(body)
	p.digest = artifact.NewDigest(alg, h.Sum(nil))
	if d != "" && p.digest != d {
		return nil, failf(codeDigestInvalid, fault.Invalid, "the manifest hashes to %s, the request says %s", p.digest, d)
	}
	if p.subject == p.digest { // a hash that contains itself: not in this universe
		return nil, invalidManifest("it names itself as subject")
	}
	p.carry = carriedBy(p)
	return p, nil
}

// mayPush settles what of the writers' rights this push needs: evidence about
// other content needs sign, all else create. Moving a tag that exists needs
// push, which commitPush asks once it knows.
func (r *Registry) mayPush(q *request, p *push) error {
	if !isEvidence(p) {
		return r.allow(q, identity.ActCreate, q.route.name)
	}
	return r.allowAny(q, q.route.name, writers...)
}

// checkClaims finds out whether what says to be evidence is an image, which needs
// the rights of one.
func (r *Registry) checkClaims(q *request, p *push) error {
	if err := r.unmask(q.Context(), p.manifest); err != nil || !p.runnable {
		return err
	}
	return r.mayPush(q, p)
}

// isEvidence says whether a push attaches something to other content and does
// nothing else: a referrer without tags, or a manifest under carrier tags alone.
// What could be run is content, whatever it is attached to.
func isEvidence(p *push) bool {
	if p.runnable || isIndex(p.mediaType) && len(p.tags) == 0 {
		return false
	}
	for _, t := range p.tags {
		if _, ok := carrierTag(t); !ok {
			return false
		}
	}
	return p.subject != "" || len(p.tags) > 0
}

// checkVisibleFirst asks, before any byte is looked for, what the pusher sees of
// what the manifest names: the store knows the blobs of all repositories, and
// what it says of a hidden one, its size or that it is there, is for nobody
// (CVE-2024-39897). commitPush asks again in its own transaction.
func (r *Registry) checkVisibleFirst(q *request, p *push) error {
	ctx := q.Context()
	return r.db.View(ctx, func(tx *store.Tx) error {
		_, err := findManifest(ctx, tx, q.route.name, p.digest)
		if errors.Is(err, fault.NotFound) {
			return r.checkVisible(ctx, tx, q, p)
		}
		// The same bytes were taken before, so the sizes in them are right and
		// checkStored can tell no more than the manifest says.
		return err
	})
}

// checkStored looks for the bytes of all blobs that the manifest names, with
// the sizes that it gives. The pusher was found to see them.
func (r *Registry) checkStored(ctx context.Context, p *push) error {
	var missing []artifact.Digest
	for i := range p.blobs {
		d := &p.blobs[i]
		info, err := r.blobs.Stat(ctx, d.Digest)
		switch {
		case errors.Is(err, fault.NotFound):
			missing = append(missing, d.Digest)
		case err != nil:
			return err
		case info.Size != d.Size:
			return &failure{code: codeSizeInvalid, err: fault.Newf(fault.Invalid, "blob %s has %d bytes, the manifest says %d", d.Digest, info.Size, d.Size)}
		}
	}
	return missingContent(missing)
}

type missingDetail struct {
	Digests []artifact.Digest `json:"digests"` // the first twenty
	Count   int               `json:"count"`
}

func missingContent(missing []artifact.Digest) error {
	if len(missing) == 0 {
		return nil
	}
	return &failure{
		code:   codeManifestBlobUnknown,
		err:    fault.Newf(fault.Invalid, "the manifest names %d blobs or manifests that are not in the repository, %s among them; push those first", len(missing), missing[0]),
		detail: missingDetail{missing[:min(len(missing), 20)], len(missing)},
	}
}

func (r *Registry) keepBytes(ctx context.Context, d artifact.Digest, body []byte) error {
	info, err := r.blobs.Stat(ctx, d)
	if err == nil && info.Size == int64(len(body)) {
		return nil // Stat's answer is durable
	}
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	return blob.PutAs(ctx, r.blobs, body, d)
}

type pushedBody struct {
	Repository   string          `json:"repository"`
	Tag          string          `json:"tag,omitempty"`
	MoreTags     []string        `json:"more_tags,omitempty"` // at most 16
	MediaType    string          `json:"media_type"`
	ArtifactType string          `json:"artifact_type,omitempty"`
	Subject      artifact.Digest `json:"subject,omitempty"`
	Size         int64           `json:"size"`
	State        string          `json:"state,omitempty"`
	Profile      string          `json:"profile,omitempty"`
	trail
}

// gatePush is the push as the gate sees it.
func gatePush(q *request, p *push) Push {
	g := Push{
		Repository: q.route.name, Digest: p.digest, MediaType: p.mediaType, Tags: p.tags, Subject: p.subject,
		Runnable: p.runnable, Principal: q.caller.Principal, Owner: q.caller.owner(),
	}
	g.Runnable = g.Runnable || isIndex(p.mediaType)
	own := false
	for _, t := range p.tags {
		about, ok := carrierTag(t)
		if ok && g.Subject == "" {
			g.Subject, g.Runnable = about, p.runnable
		}
		own = own || !ok
	}
	g.Runnable = g.Runnable || own // who asks for that tag asks for it alone
	return g
}

// commitPush is the transaction of a push. It may run more than once.
func (r *Registry) commitPush(ctx context.Context, tx *store.Tx, q *request, p *push) error {
	name := q.route.name
	_, err := findManifest(ctx, tx, name, p.digest)
	known := err == nil
	if !known && !errors.Is(err, fault.NotFound) {
		return err
	}
	if !known {
		if !p.remote {
			if err := r.checkVisible(ctx, tx, q, p); err != nil {
				return err
			}
		}
		if err := insertManifest(ctx, tx, name, p.digest, p.size, p.manifest, q.caller.owner()); err != nil {
			return err
		}
	}
	if err := cameBack(ctx, tx, name, p.digest); err != nil {
		return err
	}
	if err := refusedMove(r.gate.Stored(ctx, tx, &p.ask)); err != nil {
		return err
	}
	moved := false
	for _, t := range p.tags {
		m, err := r.moveTag(ctx, tx, q, t, p)
		if err != nil {
			return err
		}
		moved = moved || m
	}
	if !known || moved {
		if err := event.Append(ctx, tx, event.Event{
			Kind: event.ArtifactPushed, Digest: p.digest, Actor: q.caller.Actor(), TraceID: traceID(q.Request),
			Body: pushedBodyOf(q, p),
		}); err != nil {
			return err
		}
	}
	return r.queueIngest(ctx, tx, name, p.carry)
}

func pushedBodyOf(q *request, p *push) pushedBody {
	b := pushedBody{
		Repository: q.route.name, MediaType: p.mediaType, ArtifactType: p.artifactType,
		Subject: p.subject, Size: p.size, trail: q.trail(decisionAllow), State: p.ask.State, Profile: p.ask.Profile,
	}
	if len(p.tags) > 0 {
		b.Tag = p.tags[0]
		b.MoreTags = p.tags[1:min(len(p.tags), 17)]
	}
	return b
}

// checkVisible makes sure that everything the manifest names is in this
// repository and the pusher's to see: a digest is no right to the bytes.
func (r *Registry) checkVisible(ctx context.Context, tx *store.Tx, q *request, p *push) error {
	hidden, err := r.invisibleBlobs(ctx, tx, &q.caller, q.route.name, digestsOf(p.blobs))
	if err != nil {
		return err
	}
	var missing []artifact.Digest
	for d := range hidden {
		missing = append(missing, artifact.Digest(d))
	}
	for i := range p.children {
		c := &p.children[i]
		row, err := r.visibleManifest(ctx, tx, &q.caller, q.route.name, c.Digest)
		switch {
		case errors.Is(err, fault.NotFound):
			missing = append(missing, c.Digest)
		case err != nil:
			return err
		case row.size != c.Size:
			return &failure{code: codeSizeInvalid, err: fault.Newf(fault.Invalid, "manifest %s has %d bytes, the index says %d", c.Digest, row.size, c.Size)}
		case row.mediaType != c.MediaType:
			return invalidManifest("manifest %s is a %s, the index says %.200q", c.Digest, row.mediaType, c.MediaType)
		}
	}
	slices.Sort(missing)
	return missingContent(missing)
}

// gateError marks a refusal that is about the move of a tag, to be recorded
// once the transaction is over.
type gateError struct {
	error
	about artifact.Digest // what is refused, where a tag was asked for
}

func (g *gateError) Unwrap() error { return g.error }

// moveTag sets a tag, through the gate, or has it held; false when it points
// there already. The row's version is compared when it is set, so that of two
// pushers who read the same state one is told, on any isolation level.
func (r *Registry) moveTag(ctx context.Context, tx *store.Tx, q *request, tag string, p *push) (bool, error) {
	name := q.route.name
	from, version, err := findTag(ctx, tx, name, tag)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return false, err
	}
	// Those who push see what is held as what the tag is.
	var held heldTag
	seen := from
	if r.vis != nil {
		if held, err = newestHeld(ctx, tx, name, tag); err != nil {
			return false, err
		}
		if held.digest != "" {
			seen = held.digest
		}
	}
	if err := precondition(q, tag, seen); err != nil {
		return false, err
	}
	if from == p.digest && held.digest == "" {
		return false, nil
	}
	carrier, err := carries(ctx, tx, name, tag, from)
	if err != nil {
		return false, err
	}
	carrier = carrier && !p.runnable
	if seen != "" && seen != p.digest {
		// The one who may only create must not overwrite (CVE-2026-31801);
		// carriers of evidence grow by those who sign.
		acts := []identity.Action{identity.ActPush}
		if carrier {
			acts = []identity.Action{identity.ActSign, identity.ActPush}
		}
		if err := r.permits(ctx, &q.caller, name, acts...); err != nil {
			return false, refusedMove(refusal(err, name, identity.ActPush))
		}
	}
	hold, err := r.gate.TagMove(ctx, tx, Move{
		Repository: name, Tag: tag, From: from, To: p.digest, MediaType: p.mediaType, Carrier: carrier, Principal: q.caller.Principal,
	})
	if err != nil {
		return false, refusedMove(err)
	}
	if hold && held.digest == p.digest {
		return false, nil
	}
	number, err := drawNumber(ctx, tx, name, tag)
	if err != nil {
		return false, err
	}
	if hold {
		return true, r.holdTag(ctx, tx, q, heldTag{tag: tag, number: number, digest: p.digest, actor: q.caller.Actor(), owner: q.caller.owner()})
	}
	if held.digest != "" { // all that is held is older
		if err := dropHeld(ctx, tx, name, tag, number); err != nil {
			return false, err
		}
	}
	if err := setStands(ctx, tx, name, tag, number); err != nil || from == p.digest {
		return false, err
	}
	if err := setTag(ctx, tx, name, tag, p.digest, version, q.caller.owner()); err != nil {
		return false, err
	}
	return true, tagMove{
		repository: name, tag: tag, number: number, from: from, to: p.digest,
		actor: q.caller.Actor(), trace: traceID(q.Request), address: address(q.Request), profile: p.ask.Profile,
	}.note(ctx, tx)
}

type heldBody struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Number     int64  `json:"number"`
	Address    string `json:"address"`
}

func (r *Registry) holdTag(ctx context.Context, tx *store.Tx, q *request, h heldTag) error {
	if err := insertHeld(ctx, tx, q.route.name, h); err != nil {
		return err
	}
	return event.Append(ctx, tx, event.Event{
		Kind: event.TagHeld, Digest: h.digest, Actor: h.actor, TraceID: traceID(q.Request),
		Body: heldBody{q.route.name, h.tag, h.number, address(q.Request)},
	})
}

func refusedMove(err error) error {
	if err == nil {
		return nil
	}
	if kind := fault.KindOf(err); kind == fault.Denied || kind == fault.Unverified {
		return &gateError{error: err}
	}
	return err
}

// precondition is the compare of a client's compare-and-set: If-Match names the
// digest that the tag must have, If-None-Match: * that there is no tag yet (RFC
// 9110 section 13.1).
func precondition(q *request, tag string, from artifact.Digest) error {
	match, none := q.Header.Get("If-Match"), q.Header.Get("If-None-Match")
	ok := (match == "" || from != "" && matches(match, from)) && (none == "" || from == "" || !matches(none, from))
	if ok {
		return nil
	}
	now := "not set"
	if from != "" {
		now = string(from)
	}
	return &failure{
		code: codeDenied, status: http.StatusPreconditionFailed,
		err: fault.Newf(fault.Conflict, "tag %s is %s: not what If-Match or If-None-Match asks", tag, now),
	}
}
