package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/registry"
	"assay/store"
	"assay/transfer"
	"assay/trust"
	"assay/trust/foreign"
	"assay/trust/revocation"
)

// sourceBundle is the origin of evidence that a bundle brought.
const sourceBundle = "bundle"

// importing is one import under way.
type importing struct {
	carrying
	q        client.BundleImport
	apply    func(docs []config.Document, dryRun bool) (*client.ApplyAnswer, error)
	actor    string
	origin   transfer.Origin // as it is in the database; zero: a new one
	known    bool
	rd       *transfer.Reader
	contents *transfer.Contents
	policies []config.Document
	scope    []string // namespaces from now on
	domain   domainDocument
	members  map[artifact.Digest]bool
	answer   client.BundleImported
}

// Import takes in a bundle: its manifest is proved first, then every member is
// hashed while it streams into the blob store, where nothing is visible; then
// the exporter's trust is put in force, its evidence verified, and one
// transaction makes everything visible and counts the sequence on. Whatever
// stops it, it can be called again with the same file.
func (c carrying) Import(ctx context.Context, file io.Reader, q client.BundleImport, apply func(docs []config.Document, dryRun bool) (*client.ApplyAnswer, error)) (*client.BundleImported, error) {
	if err := c.here(); err != nil {
		return nil, err
	}
	im := &importing{carrying: c, q: q, apply: apply, actor: identity.FromContext(ctx).Actor(), members: map[artifact.Digest]bool{}}
	err := im.run(ctx, file)
	if err == nil {
		return &im.answer, nil
	}
	if kind := fault.KindOf(err); kind == fault.Unverified || kind == fault.Invalid || kind == fault.Denied {
		im.tellRefused(context.WithoutCancel(ctx), err)
	}
	return nil, err
}

func (im *importing) run(ctx context.Context, file io.Reader) error {
	var err error
	if im.rd, err = transfer.Open(ctx, file, im.pin(ctx), im.s.clock()); err != nil {
		return err
	}
	release, err := pinBlobs(ctx, im.s.db, "a bundle is imported", im.s.log)
	if err != nil {
		return err
	}
	defer release()
	for _, step := range []func(context.Context) error{im.admit, im.store, im.read, im.check, im.trust, im.configure, im.evidence, im.show} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pin is what the exporter is held to: the newest root of it that was seen, or
// the one that is given with its first bundle.
func (im *importing) pin(ctx context.Context) transfer.Pins {
	return func(origin string, sequence int64) (transfer.Pin, error) {
		im.answer.Origin, im.answer.Sequence = origin, sequence // unproven, for the record of a refusal
		err := im.s.db.View(ctx, func(tx *store.Tx) (err error) {
			im.origin, err = transfer.GetOrigin(ctx, tx, origin)
			return err
		})
		switch {
		case err == nil:
			im.known = true
			return transfer.PinOf(im.origin.Root), nil
		case !errors.Is(err, fault.NotFound):
			return "", err
		case im.q.Root == "":
			return "", trust.Refuse(transfer.CodePin, "nothing of %.120q was imported here: give its root.json, which came by another way than the bundle (--root FILE)", origin)
		}
		return transfer.Pin(im.q.Root), nil
	}
}

var notInName = regexp.MustCompile(`[^a-z0-9.-]+`)

// admit asks for the rights, the sequence and the scope, before content is read.
func (im *importing) admit(ctx context.Context) error {
	v := im.rd.Verified
	m := v.Manifest
	if m.Origin == im.s.data.site.Host {
		return trust.Refuse(transfer.CodeScope, "the bundle is this site's own")
	}
	if im.q.Root != "" && !v.Roots.Has(transfer.Pin(im.q.Root)) {
		return trust.Refuse(transfer.CodePin, "the root that is given (%s) is none of %s, whose root is remembered here", im.q.Root, m.Origin)
	}
	if err := im.origin.State.Accepts(v); err != nil {
		return err
	}
	im.scope = slices.Clone(im.origin.Namespaces)
	more := im.q.Namespaces
	if !im.known && more == nil {
		more = m.Selection.Repositories
	}
	for _, p := range more {
		if _, err := glob.Parse(p); err != nil {
			return fault.Newf(fault.Invalid, "namespace: %w", err)
		}
		if !slices.Contains(im.scope, p) {
			im.scope = append(im.scope, p)
		}
	}
	if len(im.scope) > len(im.origin.Namespaces) || !im.known {
		// This trusts another site: more than to go on with what was trusted.
		if err := im.s.access.Allow(ctx, identity.FromContext(ctx), identity.ActAdmin, identity.Resource{Kind: identity.ResourceConfig}); err != nil {
			return err
		}
	}
	if !im.known {
		name := im.q.Name
		if name == "" {
			name = strings.Trim(notInName.ReplaceAllString(strings.ToLower(m.Origin), "-"), ".-")
		}
		im.origin = transfer.Origin{Origin: m.Origin, Name: name}
	} else if im.q.Name != "" && im.q.Name != im.origin.Name {
		return fault.Newf(fault.Conflict, "%s is root %s here; its name stays", m.Origin, im.origin.Name)
	}
	for _, e := range m.Members {
		im.members[e.Digest] = true
	}
	return nil
}

// store streams every member into the blob store.
func (im *importing) store(ctx context.Context) error {
	return im.rd.Each(ctx, func(m transfer.Member, r io.Reader) error {
		if info, err := im.s.blobs.Stat(ctx, m.Digest); err == nil && info.Size == m.Size {
			return nil // it is only hashed
		} else if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		w, err := im.s.blobs.Create(ctx)
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, io.LimitReader(r, m.Size)); err != nil {
			_ = w.Cancel() // the copy's error says more
			return err
		}
		return w.Commit(ctx, m.Digest)
	})
}

func (im *importing) document(ctx context.Context, k transfer.Kind) ([]byte, error) {
	m, there := im.rd.Manifest.Member(k)
	if !there {
		return nil, nil
	}
	return im.s.readSmallBlob(ctx, m.Digest, transfer.MaxDocument)
}

// read parses the small members, and holds them to what the exporter may say.
func (im *importing) read(ctx context.Context) error {
	b, err := im.document(ctx, transfer.KindContents)
	if err != nil {
		return err
	}
	if im.contents, err = transfer.ParseContents(b); err != nil {
		return err
	}
	if err := im.contents.Within(im.rd.Manifest.Origin, im.scope); err != nil {
		return err
	}
	im.domain = domainDocument{Origin: im.rd.Manifest.Origin, Root: im.rd.Root}
	if im.domain.Revocations, err = im.document(ctx, transfer.KindRevocations); err != nil {
		return err
	}
	if im.domain.Delegations, err = im.document(ctx, transfer.KindDelegations); err != nil {
		return err
	}
	if !im.q.ApplyPolicies {
		return nil
	}
	if b, err = im.document(ctx, transfer.KindPolicies); err != nil || b == nil {
		return err
	}
	if im.policies, err = config.ParseDocuments(b); err != nil {
		return err
	}
	for _, d := range im.policies {
		if d.Kind != config.KindPolicy && d.Kind != config.KindRepository {
			return trust.Refuse(transfer.CodeScope, "it holds a document of kind %s: a bundle brings none but %s and %s", d.Kind, config.KindPolicy, config.KindRepository)
		}
	}
	_, err = im.apply(im.policies, true)
	return err
}

// has refuses content that neither is in the file nor came from the exporter
// before: the blob store holds everybody's, and a digest is no right to it.
func (im *importing) has(ctx context.Context, tx *store.Tx, d artifact.Digest) error {
	if im.members[d] {
		return nil
	}
	came, err := transfer.HasReceived(ctx, tx, im.rd.Manifest.Origin, d)
	if err == nil && !came {
		err = trust.Refuse(transfer.CodeContent, "it names %s, which is not in it and did not come from %s before: import a full bundle", d, im.rd.Manifest.Origin)
	}
	return err
}

func (im *importing) check(ctx context.Context) error {
	one, err := im.trial(ctx)
	if err != nil {
		return err
	}
	if status := one.revocations.Status(im.s.clock()); status != revocation.Current {
		return trust.Refuse(transfer.CodeExpired, "its revocation list is %s: export again", status)
	}
	if have := im.s.trust().domains[im.origin.Name]; have != nil {
		if err := revocation.Follow(have.revocations, one.revocations); err != nil {
			return err
		}
	}
	return im.s.db.View(ctx, func(tx *store.Tx) error {
		for _, r := range im.contents.Repositories {
			for _, m := range r.Manifests {
				if err := im.hasManifest(ctx, tx, m); err != nil {
					return fault.Newf(fault.KindOf(err), "%s@%s: %w", r.Name, m.Digest, err)
				}
			}
		}
		for _, e := range im.contents.Evidence {
			if err := im.has(ctx, tx, e.Digest); err != nil {
				return err
			}
		}
		for _, f := range im.contents.Feeds {
			for _, file := range f.Files {
				if err := im.has(ctx, tx, file.Digest); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// hasManifest is has for a manifest and all blobs that it names.
func (im *importing) hasManifest(ctx context.Context, tx *store.Tx, m transfer.Manifold) error {
	if err := im.has(ctx, tx, m.Digest); err != nil {
		return err
	}
	body, err := im.s.readSmallBlob(ctx, m.Digest, transfer.MaxDocument)
	if err != nil {
		return err
	}
	blobs, err := im.s.registry.BlobsOf(m.MediaType, body)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		if err := im.has(ctx, tx, d); err != nil {
			return err
		}
	}
	return nil
}

// trial verifies the exporter's list and delegations before anything changes.
func (im *importing) trial(ctx context.Context) (*domain, error) {
	root, err := trust.ParseTrustedRoot(im.rd.Trusted.Bytes(), trust.WithName(im.origin.Name))
	if err != nil {
		return nil, err
	}
	return im.domain.open(ctx, root)
}

// trust puts the exporter's trust in force: its root for the namespaces, its
// list and its delegations, in one transaction.
func (im *importing) trust(ctx context.Context) error {
	now := im.s.clock()
	err := im.s.db.Update(ctx, func(tx *store.Tx) error {
		if err := im.putRoot(ctx, tx); err != nil {
			return err
		}
		body, err := im.domain.json()
		if err != nil {
			return err
		}
		last, err := trust.DocumentVersion(ctx, tx, trust.DocDomain, im.origin.Name)
		if err != nil {
			return err
		}
		if have, err := trust.GetDocument(ctx, tx, trust.DocDomain, im.origin.Name); err == nil && bytes.Equal(have.Body, body) {
			return nil // of an import that did not come to its end
		}
		epoch, err := trust.PutDocument(ctx, tx, trust.Document{Kind: trust.DocDomain, Name: im.origin.Name, Version: last + 1, Body: body})
		if err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.TrustChanged, Actor: im.actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"what": "domain", "name": im.origin.Name, "epoch": epoch, "hash": artifact.SHA256Of(body),
		}})
	})
	if err != nil {
		return err
	}
	if err := im.s.reloadTrust(ctx); err != nil {
		return err
	}
	d := im.s.trust().domains[im.origin.Name]
	if d == nil || d.revocations.Status(now) != revocation.Current {
		return fault.Newf(fault.Internal, "the trust of %s is not in force", im.origin.Origin)
	}
	im.answer.Revocations = d.revocations.List.Version
	return nil
}

func (im *importing) putRoot(ctx context.Context, tx *store.Tx) error {
	d := &foreign.Document{
		Name: im.origin.Name, Type: foreign.Sigstore, Namespaces: im.scope, TrustedRoot: im.rd.Trusted.Bytes(),
		Reason: "imported with the bundles of " + im.rd.Manifest.Origin,
	}
	if len(d.Namespaces) == 0 {
		d.Namespaces = []string{"none.invalid"} // trust alone was carried, for no repository yet
	}
	if d.Name == im.s.data.site.Host || d.Name == "keys" {
		return fault.Newf(fault.Conflict, "the name %q is the site's own root's: choose another with --name", d.Name)
	}
	have, err := trust.GetDocument(ctx, tx, trust.DocRoot, d.Name)
	switch {
	case errors.Is(err, fault.NotFound):
		return putForeign(ctx, tx, im.actor, d)
	case err != nil:
		return err
	}
	old, err := foreign.ParseDocument(have.Body)
	if err != nil {
		return err
	}
	if !im.known && !old.Removed && old.Reason != d.Reason {
		return fault.Newf(fault.Conflict, "a foreign root %s is there already, and was not imported with bundles: choose another name (--name)", d.Name)
	}
	if d.Version = old.Version; same(d, old) {
		return nil
	}
	return putForeign(ctx, tx, im.actor, d)
}

func same(a, b *foreign.Document) bool {
	x, errX := a.JSON()
	y, errY := b.JSON()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func (im *importing) configure(context.Context) error {
	if len(im.policies) == 0 {
		return nil
	}
	a, err := im.apply(im.policies, false)
	if err == nil {
		for _, c := range a.Changes {
			if c.Action != "unmanaged" {
				im.answer.Changes = append(im.answer.Changes, c)
			}
		}
	}
	return err
}

// evidence hands the bundles to the evidence store, which verifies each.
func (im *importing) evidence(ctx context.Context) error {
	im.answer.Refused = []client.BundleRefusal{}
	for _, e := range im.contents.Evidence {
		b, err := im.s.readSmallBlob(ctx, e.Digest, transfer.MaxDocument)
		if err != nil {
			return err
		}
		_, _, err = im.s.evidence.Ingest(ctx, b, evidence.Origin{Repository: e.Repository, Source: sourceBundle, Actor: im.actor})
		switch {
		case err == nil:
			im.answer.Evidence++
		case evidence.Code(err) != "" || fault.KindOf(err) == fault.Unverified || fault.KindOf(err) == fault.Invalid:
			// Evidence that was taken back since, or under a root that is not
			// trusted here, is no reason to refuse the rest.
			im.answer.Refused = append(im.answer.Refused, client.BundleRefusal{Repository: e.Repository, Digest: e.Digest, Reason: err.Error()})
		default:
			return err
		}
	}
	return nil
}

// show makes everything visible, in one transaction.
func (im *importing) show(ctx context.Context) error {
	list, err := im.brought(ctx)
	if err != nil {
		return err
	}
	set, err := im.s.registry.Bring(ctx, identity.FromContext(ctx), sourceBundle, list)
	if err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		err = im.s.db.Update(ctx, func(tx *store.Tx) error {
			if err := set.Commit(ctx, tx); err != nil {
				return err
			}
			return im.settle(ctx, tx, set)
		})
		// Each time one thing more is left out.
		if !errors.Is(err, registry.ErrRefused) || tries > 10_000 {
			break
		}
	}
	if err != nil {
		return err
	}
	im.finish(ctx, set)
	return nil
}

func (im *importing) brought(ctx context.Context) (out []registry.Brought, err error) {
	const most = 64 // tags of one push
	for _, r := range im.contents.Repositories {
		tags := map[artifact.Digest][]string{}
		for _, t := range r.Tags {
			tags[t.Digest] = append(tags[t.Digest], t.Name)
		}
		for _, m := range r.Manifests {
			body, err := im.s.readSmallBlob(ctx, m.Digest, transfer.MaxDocument)
			if err != nil {
				return nil, err
			}
			names := tags[m.Digest]
			delete(tags, m.Digest)
			for first := true; first || len(names) > 0; first = false {
				n := min(most, len(names))
				out = append(out, registry.Brought{Repository: r.Name, MediaType: m.MediaType, Digest: m.Digest, Body: body, Tags: names[:n]})
				names = names[n:]
			}
		}
		for d, names := range tags {
			return nil, trust.Refuse(transfer.CodeContent, "tag %s of %s names %s, which the bundle does not list", names[0], r.Name, d)
		}
	}
	return out, nil
}

func (im *importing) settle(ctx context.Context, tx *store.Tx, set *registry.Bringing) error {
	v := im.rd.Verified
	m, was := v.Manifest, im.origin.Sequence
	o := im.origin
	o.Root, o.Namespaces = v.Root, im.scope
	o.State = transfer.State{Target: m.Target, Sequence: m.Sequence, Digest: v.Digest}
	if o.Namespaces == nil {
		o.Namespaces = []string{}
	}
	if err := transfer.PutOrigin(ctx, tx, o, was); err != nil {
		return err
	}
	if err := transfer.Received(ctx, tx, v, im.actor); err != nil {
		return err
	}
	for _, f := range im.contents.Feeds {
		if err := transfer.PutFeed(ctx, tx, m.Origin, m.Sequence, f); err != nil {
			return err
		}
	}
	var refused []string
	for _, r := range set.Refused() {
		refused = append(refused, r.Repository+"@"+string(r.Digest))
	}
	return event.Append(ctx, tx, event.Event{Kind: event.BundleImported, Digest: v.Digest, Actor: im.actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
		"origin": m.Origin, "target": m.Target, "sequence": m.Sequence, "full": m.Full, "manifests": set.Len() - len(refused), "evidence": im.answer.Evidence,
		"refused": clipList(refused), "revocations": im.answer.Revocations, "policies": len(im.policies),
	}})
}

func (im *importing) finish(ctx context.Context, set *registry.Bringing) {
	m := im.rd.Manifest
	im.answer.Bundle = client.Bundle{
		Origin: m.Origin, Target: m.Target, Sequence: m.Sequence, Digest: im.rd.Digest, Actor: im.actor, Time: im.s.clock().UTC(), Full: m.Full,
		Expires: m.Expires, Members: len(m.Members), Bytes: transfer.Size(im.rd.Bundle, m), LogIndex: &im.rd.LogIndex,
	}
	im.answer.Feeds = len(im.contents.Feeds)
	im.answer.Manifests = set.Len()
	for _, r := range set.Done(ctx) {
		if r.Tag == "" {
			im.answer.Manifests--
		}
		im.answer.Refused = append(im.answer.Refused, client.BundleRefusal{Repository: r.Repository, Tag: r.Tag, Digest: r.Digest, Reason: r.Reason})
	}
}

// tellRefused puts a refusal on record.
func (im *importing) tellRefused(ctx context.Context, why error) {
	reason := why.Error()
	if len(reason) > 300 {
		reason = strings.ToValidUTF8(reason[:300], "") + "…"
	}
	err := im.s.db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.BundleRefused, Actor: im.actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"origin": im.answer.Origin, "sequence": im.answer.Sequence, "code": trust.Code(why), "reason": reason,
		}})
	})
	if err != nil {
		im.s.log.Error("the refusal of a bundle could not be recorded", "error", err, "refusal", why)
	}
}
