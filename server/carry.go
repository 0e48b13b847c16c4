package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
	"assay/registry"
	"assay/store"
	"assay/transfer"
	"assay/trust/tuf"
)

// carrying is what the API does about bundles between sites.
type carrying struct{ s *Server }

func (c carrying) here() error {
	if c.s.registry == nil || c.s.tuf == nil {
		return fault.Newf(fault.Unavailable, "this process has no registry or no TUF repository: ask the one with roles api and registry")
	}
	return nil
}

// packing is an export while it is put together.
type packing struct {
	carrying
	q        client.BundleExport
	last     transfer.Export
	full     bool
	had      map[transfer.Sent]bool // what the target was sent
	sent     []transfer.Sent        // what it is sent now
	members  []transfer.Member
	there    map[artifact.Digest]bool
	contents transfer.Contents
	index    []attestation.Descriptor
}

// Make puts a bundle together, signs and logs its manifest, and notes it. Its
// content is read when it is fetched.
func (c carrying) Make(ctx context.Context, q client.BundleExport) (*client.Bundle, error) {
	if err := c.here(); err != nil {
		return nil, err
	}
	if !transfer.ValidName(q.Target) {
		return nil, fault.Newf(fault.Invalid, "target %.80q: want a name of lower-case letters, digits, \".\", \"_\" and \"-\", such as plant-7", q.Target)
	}
	p := &packing{carrying: c, q: q, there: map[artifact.Digest]bool{}}
	err := c.s.db.View(ctx, func(tx *store.Tx) (err error) {
		if p.last, err = transfer.LastExport(ctx, tx, q.Target); err != nil {
			return err
		}
		if p.full = q.Full || p.last.Sequence == 0; p.full {
			p.had = map[transfer.Sent]bool{}
			return nil
		}
		p.had, err = transfer.AllSent(ctx, tx, q.Target)
		return err
	})
	if err != nil {
		return nil, err
	}
	release, err := pinBlobs(ctx, c.s.db, "a bundle is made", c.s.log)
	if err != nil {
		return nil, err
	}
	defer release()
	for _, step := range []func(context.Context) error{p.trust, p.repositories, p.policies, p.feeds, p.layout} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return p.finish(ctx)
}

// document keeps a small member's bytes, always anew in the file.
func (p *packing) document(ctx context.Context, k transfer.Kind, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	d, err := blob.Put(ctx, p.s.blobs, b)
	if err != nil {
		return err
	}
	p.add(transfer.NewMember(k, d, int64(len(b))))
	return nil
}

func (p *packing) add(m transfer.Member) {
	inBlobs := strings.HasPrefix(m.Path, "blobs/")
	if inBlobs && p.there[m.Digest] {
		return
	}
	p.there[m.Digest] = p.there[m.Digest] || inBlobs
	p.members = append(p.members, m)
	p.sent = append(p.sent, transfer.Sent{What: "member", Name: string(m.Digest)})
}

// content adds a stored blob, unless the target has it.
func (p *packing) content(ctx context.Context, k transfer.Kind, d artifact.Digest) error {
	if d.Algorithm() != artifact.SHA256 {
		return fault.Newf(fault.Invalid, "%s %s: bundles carry content that is named by sha256 alone; leave its repository out", k, d)
	}
	if p.there[d] || p.had[transfer.Sent{What: "member", Name: string(d)}] {
		return nil
	}
	info, err := p.s.blobs.Stat(ctx, d)
	if err != nil {
		return err
	}
	p.add(transfer.NewMember(k, d, info.Size))
	return nil
}

func (p *packing) trust(ctx context.Context) error {
	roots := transfer.Roots{}
	for n := 1; ; n++ {
		b, err := os.ReadFile(filepath.Join(p.s.data.join("tuf"), strconv.Itoa(n)+".root.json"))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		roots.Roots = append(roots.Roots, b)
	}
	rootsJSON, err := roots.JSON()
	if err != nil {
		return err
	}
	revoked, err := revocations{p.s}.Signed(ctx, true)
	if err != nil {
		return err
	}
	t := p.s.trust()
	for _, m := range []struct {
		kind transfer.Kind
		b    []byte
	}{
		{transfer.KindRoots, rootsJSON}, {transfer.KindTrustedRoot, t.root.Bytes()}, {transfer.KindRevocations, revoked},
		{transfer.KindDelegations, t.targets[tuf.TargetDelegations]}, {transfer.KindForeign, t.targets[tuf.TargetForeignRoots]},
	} {
		if err := p.document(ctx, m.kind, m.b); err != nil {
			return err
		}
	}
	return nil
}

func (p *packing) repositories(ctx context.Context) error {
	var globs []glob.Glob
	for _, text := range p.q.Repositories {
		g, err := glob.Parse(text)
		if err != nil {
			return fault.Newf(fault.Invalid, "repository: %w", err)
		}
		globs = append(globs, g)
	}
	var names []string
	if err := p.s.db.View(ctx, func(tx *store.Tx) (err error) {
		names, err = registry.Names(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(globs, func(g glob.Glob) bool { return g.Match(name) }) {
			continue
		}
		if err := p.s.access.Allow(ctx, identity.FromContext(ctx), identity.ActPull, identity.Repository(name)); err != nil {
			return err
		}
		if err := p.repository(ctx, name); err != nil {
			return fault.Newf(fault.KindOf(err), "repository %s: %w", name, err)
		}
	}
	return nil
}

func (p *packing) repository(ctx context.Context, name string) error {
	var list []registry.Holding
	var tags [][2]string
	if err := p.s.db.View(ctx, func(tx *store.Tx) (err error) {
		list, tags, err = p.s.registry.Holdings(ctx, tx, name)
		return err
	}); err != nil {
		return err
	}
	r := transfer.Repository{Name: name, Manifests: []transfer.Manifold{}, Tags: []transfer.Tag{}}
	named := map[artifact.Digest][]string{}
	for _, t := range tags {
		d := artifact.Digest(t[1])
		if one := (transfer.Sent{What: "tag", Name: name + ":" + t[0], Value: t[1]}); !p.had[one] {
			p.sent = append(p.sent, one)
			r.Tags = append(r.Tags, transfer.Tag{Name: t[0], Digest: d})
			named[d] = append(named[d], t[0])
		}
	}
	for i := range list {
		h := &list[i]
		one := transfer.Sent{What: "manifest", Name: name + "@" + string(h.Digest)}
		fresh := !p.had[one]
		if fresh || len(named[h.Digest]) > 0 {
			r.Manifests = append(r.Manifests, transfer.Manifold{Digest: h.Digest, MediaType: h.MediaType, Size: h.Size})
		}
		if fresh {
			p.sent = append(p.sent, one)
		}
		if err := p.manifest(ctx, name, h, named[h.Digest]); err != nil {
			return err
		}
	}
	if len(r.Manifests)+len(r.Tags) > 0 {
		p.contents.Repositories = append(p.contents.Repositories, r)
	}
	return nil
}

// manifest adds what a manifest needs, and what is known about it.
func (p *packing) manifest(ctx context.Context, name string, h *registry.Holding, tags []string) error {
	if err := p.content(ctx, transfer.KindManifest, h.Digest); err != nil {
		return err
	}
	for _, b := range h.Blobs {
		if err := p.content(ctx, transfer.KindBlob, b); err != nil {
			return err
		}
	}
	if p.there[h.Digest] { // the layout names what it holds
		d := attestation.Descriptor{MediaType: h.MediaType, Digest: h.Digest, Size: h.Size}
		p.index = append(p.index, d)
		for i, t := range tags {
			one := d
			one.Annotations = map[string]string{"org.opencontainers.image.ref.name": name + ":" + t}
			if i == 0 {
				p.index[len(p.index)-1] = one
				continue
			}
			p.index = append(p.index, one)
		}
	}
	f := evidence.Filter{Subject: h.Digest, Limit: 1000}
	for {
		page, err := p.s.evidence.List(ctx, f)
		if err != nil {
			return err
		}
		for i := range page {
			if err := p.proof(ctx, name, &page[i]); err != nil {
				return err
			}
		}
		if len(page) < f.Limit {
			return nil
		}
		f.After = page[len(page)-1].Cursor()
	}
}

func (p *packing) proof(ctx context.Context, name string, r *evidence.Record) error {
	d := artifact.Digest("sha256:" + strings.TrimPrefix(r.ID, "att_"))
	one := transfer.Sent{What: "evidence", Name: name + "@" + string(d)}
	if r.Legacy || p.had[one] {
		return nil // the older forms are whole in the manifests that carry them alone
	}
	if !p.there[d] && !p.had[transfer.Sent{What: "member", Name: string(d)}] {
		b, err := p.s.evidence.Bundle(ctx, r.ID)
		if err != nil {
			return err
		}
		if err := blob.PutAs(ctx, p.s.blobs, b, d); err != nil {
			return err
		}
		p.add(transfer.NewMember(transfer.KindEvidence, d, int64(len(b))))
	}
	p.sent = append(p.sent, one)
	p.contents.Evidence = append(p.contents.Evidence, transfer.Evidence{Digest: d, Repository: name})
	return nil
}

func (p *packing) policies(ctx context.Context) error {
	if !p.q.Policies {
		return nil
	}
	var out bytes.Buffer
	err := p.s.db.View(ctx, func(tx *store.Tx) error {
		docs, err := config.Stored(ctx, tx)
		out.Reset()
		for _, d := range docs {
			if d.Kind == config.KindPolicy || d.Kind == config.KindRepository {
				out.WriteString("---\n")
				out.Write(bytes.TrimRight(bytes.TrimPrefix(d.Text, []byte("---\n")), "\n"))
				out.WriteByte('\n')
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return p.document(ctx, transfer.KindPolicies, out.Bytes())
}

func (p *packing) feeds(ctx context.Context) error {
	for _, f := range p.q.Feeds {
		b, err := p.s.readSmallBlob(ctx, f.Listing, transfer.MaxDocument)
		if err != nil {
			return fault.Newf(fault.KindOf(err), "feed %s: its listing: %w; upload it first", f.Name, err)
		}
		var feed transfer.Feed
		if err := strictjson.Unmarshal(b, &feed, strictjson.RejectUnknown()); err != nil {
			return fault.Newf(fault.Invalid, "feed %s: its listing: %w", f.Name, err)
		}
		if feed.Name != f.Name {
			return fault.Newf(fault.Invalid, "feed %.80q: the listing is of %.80q", f.Name, feed.Name)
		}
		if err := feed.Validate(); err != nil {
			return err
		}
		for _, file := range feed.Files {
			if err := p.content(ctx, transfer.KindFeed, file.Digest); err != nil {
				return err
			}
		}
		p.contents.Feeds = append(p.contents.Feeds, feed)
	}
	return nil
}

// layout adds what makes an OCI image layout of the file.
func (p *packing) layout(ctx context.Context) error {
	if p.contents.Repositories == nil {
		p.contents.Repositories = []transfer.Repository{}
	}
	if p.contents.Evidence == nil {
		p.contents.Evidence = []transfer.Evidence{}
	}
	if p.contents.Feeds == nil {
		p.contents.Feeds = []transfer.Feed{}
	}
	contents, err := p.contents.JSON()
	if err != nil {
		return err
	}
	if p.index == nil {
		p.index = []attestation.Descriptor{}
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": p.index})
	if err != nil {
		return err
	}
	// Behind the two roots: readers of layouts read these first.
	tail := slices.Clone(p.members[2:])
	p.members = p.members[:2]
	for _, m := range []struct {
		kind transfer.Kind
		b    []byte
	}{{transfer.KindLayout, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {transfer.KindIndex, index}, {transfer.KindContents, contents}} {
		if err := p.document(ctx, m.kind, m.b); err != nil {
			return err
		}
	}
	p.members = append(p.members, tail...)
	return nil
}

func (p *packing) finish(ctx context.Context) (*client.Bundle, error) {
	s := p.s
	now := s.clock().UTC().Truncate(time.Second)
	m := &transfer.Manifest{
		Schema: transfer.Schema, Origin: s.data.site.Host, Target: p.q.Target, Sequence: p.last.Sequence + 1, Full: p.full,
		Created: now, Expires: now.Add(transfer.Validity), Members: p.members,
		Selection: transfer.Selection{Repositories: append([]string{}, p.q.Repositories...), Policies: p.q.Policies, Feeds: []string{}},
	}
	if !p.full {
		m.Previous = string(p.last.Digest)
	}
	for _, f := range p.contents.Feeds {
		m.Selection.Feeds = append(m.Selection.Feeds, f.Name)
	}
	st, err := m.Statement()
	if err != nil {
		return nil, err
	}
	signed, err := s.signOnline(ctx, st)
	if err != nil {
		return nil, err
	}
	// What this site would not accept itself, it does not give away.
	roots, err := s.readSmallBlob(ctx, p.members[0].Digest, transfer.MaxDocument)
	if err != nil {
		return nil, err
	}
	first, err := s.firstRoot()
	if err != nil {
		return nil, err
	}
	v, err := transfer.Verify(ctx, signed, roots, s.trust().root.Bytes(), transfer.PinOf(first), s.clock())
	if err != nil {
		return nil, fault.Newf(fault.Conflict, "the bundle does not verify here; was a key rotated meanwhile? try again: %w", err)
	}
	actor := identity.FromContext(ctx).Actor()
	e := transfer.Export{Target: m.Target, Sequence: m.Sequence, Digest: v.Digest, Manifest: signed, Actor: actor}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if err := transfer.PutExport(ctx, tx, e, p.full, p.sent); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.BundleExported, Digest: v.Digest, Actor: actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"target": m.Target, "sequence": m.Sequence, "full": m.Full, "repositories": clipList(m.Selection.Repositories),
			"members": len(m.Members), "bytes": m.Size(), "log_index": v.LogIndex, "expires": m.Expires,
		}})
	})
	if err != nil {
		return nil, err
	}
	return &client.Bundle{
		Origin: m.Origin, Target: m.Target, Sequence: m.Sequence, Digest: v.Digest, Actor: actor, Time: now, Full: m.Full, Expires: m.Expires,
		Members: len(m.Members), Bytes: transfer.Size(signed, m), LogIndex: &v.LogIndex,
	}, nil
}

// signOnline signs a statement with the online TUF key, has the signature
// timestamped and logged, and makes the bundle that proves all three.
func (s *Server) signOnline(ctx context.Context, st *attestation.Statement) ([]byte, error) {
	signer := s.tuf.Online()
	env, err := attestation.SignStatement(ctx, signer, st)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(env.PAE())
	entry, stamp, err := s.proveSignature(ctx, digest[:], env.Signatures[0].Sig, signer.Public())
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	hint := sha256.Sum256(spki)
	b, err := attestation.NewDSSEBundle(attestation.Material{
		KeyHint: base64.StdEncoding.EncodeToString(hint[:]), LogEntries: []*rekorpb.TransparencyLogEntry{entry}, Timestamps: [][]byte{stamp},
	}, env)
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// readSmallBlob reads a blob whole and holds it to its digest.
func (s *Server) readSmallBlob(ctx context.Context, d artifact.Digest, most int64) ([]byte, error) {
	f, err := s.blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > most {
		return nil, fault.Newf(fault.TooLarge, "%s has %d bytes, want at most %d", d, f.Size(), most)
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err == nil && artifact.SHA256Of(b) != d {
		err = fault.Newf(fault.Tampered, "blob %s does not hash to its name: restore it from a backup", d)
	}
	return b, err
}

// Open finds a bundle that was made.
func (c carrying) Open(ctx context.Context, target string, sequence int64) (int64, func(context.Context, io.Writer) error, error) {
	if err := c.here(); err != nil {
		return 0, nil, err
	}
	var e transfer.Export
	if err := c.s.db.View(ctx, func(tx *store.Tx) (err error) {
		e, err = transfer.GetExport(ctx, tx, target, sequence)
		return err
	}); err != nil {
		return 0, nil, err
	}
	size, err := transfer.SizeOf(e.Manifest)
	return size, func(ctx context.Context, w io.Writer) error { return transfer.Write(ctx, w, e.Manifest, c.s.blobs) }, err
}
