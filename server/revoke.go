package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"time"

	"assay/attestation"
	"assay/client"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
	"assay/tlog/rekor"
	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/tuf"
	"assay/verify"

	"github.com/digitorus/timestamp"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
)

// authorities are who may sign this site's list: the keys of its newest TUF
// root first, and those of the roots before, whose lists stand until they are
// signed anew.
func (s *Server) revocationAuthorities() ([]revocation.Authority, error) {
	roles, err := s.tuf.RoleKeys()
	if err != nil {
		return nil, err
	}
	var out []revocation.Authority
	for _, r := range roles {
		out = append(out, revocation.Authority{Online: r.Targets, Root: r.Root, RootThreshold: r.Threshold})
	}
	return out, nil
}

// openRevocations reads a list of this site, signed under any of its roots.
func (s *Server) openRevocations(ctx context.Context, b []byte, root *trust.Root) (*revocation.Signed, error) {
	all, err := s.revocationAuthorities()
	if err != nil {
		return nil, err
	}
	var first error
	for _, a := range all {
		signed, err := revocation.Open(ctx, b, a, root)
		if err == nil {
			return signed, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// loadRevocations puts the site's list in force.
func (s *Server) loadRevocations(ctx context.Context, docs []trust.Document, d *trustDraft) error {
	root, err := trust.NewRoot(d.own, trust.WithName(s.data.site.Host))
	if err != nil {
		return err
	}
	var signed *revocation.Signed
	if len(docs) > 0 {
		if signed, err = s.openRevocations(ctx, docs[0].Body, root); err != nil {
			return err
		}
		if signed.List.Version != docs[0].Version || signed.List.Domain != s.data.site.Host {
			return fault.Newf(fault.Tampered, "the stored list is version %d of %s, want %d of %s; restore the database", signed.List.Version, signed.List.Domain, docs[0].Version, s.data.site.Host)
		}
	}
	if signed, err = s.newestPublished(ctx, signed, root); err != nil {
		return err
	}
	if signed == nil {
		return nil // the first start makes one
	}
	if d.verify.Lists == nil {
		d.verify.Lists = map[string]*revocation.Signed{}
	}
	d.verify.Lists[root.Name()] = signed
	d.revocations = signed
	d.targets[tuf.TargetRevocations] = signed.Bytes()
	return nil
}

// newestPublished gives the list that this process has published, where it is
// newer than the stored one: a database that somebody rolled back, or that was
// restored alone, takes no revocation back. The next list is stored above it.
func (s *Server) newestPublished(ctx context.Context, stored *revocation.Signed, root *trust.Root) (*revocation.Signed, error) {
	if s.tuf == nil {
		return stored, nil
	}
	b, err := s.tuf.Target(tuf.TargetRevocations)
	if errors.Is(err, fault.NotFound) {
		err = nil // nothing to hold the stored one against
	}
	if err != nil || b == nil || stored != nil && bytes.Equal(b, stored.Bytes()) {
		return stored, err
	}
	published, err := s.openRevocations(ctx, b, root)
	if err != nil {
		// Of other keys than the site has now: nobody could verify it any more.
		s.log.Warn("the published revocation list does not verify", "error", err)
		return stored, nil
	}
	if published.List.Domain != s.data.site.Host || stored != nil && published.List.Version <= stored.List.Version {
		return stored, nil
	}
	s.log.Error("the database's revocation list is older than the published one, which stays in force: was the database restored alone, or rolled back?", "published", published.List.Version)
	return published, nil
}

// proveSignature logs a signature and has it timestamped.
func (s *Server) proveSignature(ctx context.Context, digest, signature []byte, key crypto.PublicKey) (*rekorpb.TransparencyLogEntry, []byte, error) {
	pub, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(signature)
	req, err := (&timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Certificates: true}).Marshal()
	if err != nil {
		return nil, nil, err
	}
	stamp, err := s.stamp(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	entry, err := s.logSignature(ctx, rekor.Request{Digest: digest, Signature: signature, PublicKey: pub})
	return entry, stamp, err
}

// sealRevocations signs a list with the online key.
func (s *Server) sealRevocations(ctx context.Context, version int64, use revocation.Use, entries []revocation.Entry) ([]byte, error) {
	life := revocation.OnlineValidity
	if use == revocation.Export {
		life = revocation.ExportValidity
	}
	now := s.clock()
	return revocation.Seal(ctx, &revocation.List{
		Schema: revocation.Schema, Domain: s.data.site.Host, Version: version, Use: use,
		Issued: revocation.At(now), Expires: revocation.At(now.Add(life)), Entries: entries,
	}, s.revocationsBase(ctx), s.proveSignature, s.tuf.Online())
}

// revocationsBase is the list in force, where the root of today signed it or what
// it builds upon.
func (s *Server) revocationsBase(ctx context.Context) *revocation.Signed {
	all, err := s.revocationAuthorities()
	signed := s.trust().revocations
	if err != nil || signed == nil {
		return nil
	}
	// After a change of root keys the old root's word is nobody's to verify.
	if signed, err = revocation.Open(ctx, signed.Bytes(), all[0], s.trust().root); err != nil {
		return nil
	}
	return signed
}

// ensureRevocations makes the first list, which revokes nothing: a site that has
// revoked nothing says so, which a missing list does not.
func (s *Server) ensureRevocations(ctx context.Context) error {
	if s.trust().revocations != nil {
		return nil
	}
	b, err := s.sealRevocations(ctx, 1, revocation.Online, []revocation.Entry{})
	if err != nil {
		return err
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := trust.PutDocument(ctx, tx, trust.Document{Kind: trust.DocRevocations, Version: 1, Body: b})
		return err
	})
	if err != nil && !errors.Is(err, fault.Conflict) { // another replica was first
		return err
	}
	return s.reloadTrust(ctx)
}

// renewRevocations signs the list anew well before it ends, and when the online
// key is another one. It says the same as before; only its version rises.
func (s *Server) renewRevocations(ctx context.Context) error {
	return s.renewRevocationsAt(ctx, s.clock())
}

func (s *Server) renewRevocationsAt(ctx context.Context, now time.Time) error {
	signed := s.trust().revocations
	if signed == nil {
		return s.ensureRevocations(ctx)
	}
	online, err := trust.KeyFingerprint(s.tuf.Online().Public())
	if err != nil {
		return err
	}
	l := signed.List
	// The root's list holds for as long as its signers needed: too long.
	short := l.Expires.Sub(l.Issued.Time) <= revocation.OnlineValidity
	if short && now.Add(revocation.OnlineValidity/2).Before(l.Expires.Time) && l.Use == revocation.Online && (signed.Root || signed.SignedBy(online)) {
		return nil
	}
	b, err := s.sealRevocations(ctx, l.Version+1, revocation.Online, l.Entries)
	if err != nil {
		return err
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		d := trust.Document{Kind: trust.DocRevocations, Version: l.Version + 1, Body: b}
		err := trust.RenewDocument(ctx, tx, d)
		if errors.Is(err, fault.NotFound) { // the row was lost, and the published list is in force
			_, err = trust.PutDocument(ctx, tx, d)
		}
		return err
	})
	if err != nil && !errors.Is(err, fault.Conflict) {
		return err
	}
	return s.reloadTrust(ctx)
}

// site's revocations, as the API asks for them.
type revocations struct{ s *Server }

// List gives the list in force.
func (r revocations) List(context.Context) (*client.RevocationList, error) {
	signed := r.s.trust().revocations
	if signed == nil {
		return nil, fault.Newf(fault.Unavailable, "no list of revocations is in force yet")
	}
	l := signed.List
	out := &client.RevocationList{
		Domain: l.Domain, Version: l.Version, State: string(signed.Status(r.s.clock())), Issued: l.Issued.Time, Expires: l.Expires.Time,
		LogIndex: signed.LogIndex(), Entries: []client.Revocation{},
	}
	for i := range l.Entries {
		out.Entries = append(out.Entries, wireEntry(&l.Entries[i]))
	}
	return out, nil
}

// Signed gives the signed list: the one that TUF publishes, or one to carry.
func (r revocations) Signed(ctx context.Context, export bool) ([]byte, error) {
	signed := r.s.trust().revocations
	switch {
	case signed == nil:
		return nil, fault.Newf(fault.Unavailable, "no list of revocations is in force yet")
	case !export:
		return signed.Bytes(), nil
	}
	return r.s.sealRevocations(ctx, signed.List.Version, revocation.Export, signed.List.Entries)
}

// Revoke adds entries, or says what that would take.
func (r revocations) Revoke(ctx context.Context, q client.RevokeRequest) (*client.RevokeAnswer, error) {
	s := r.s
	now, by := s.clock(), identity.FromContext(ctx).Actor()
	var wanted []revocation.Entry
	for i := range q.Entries {
		e := readEntry(&q.Entries[i])
		e.Requester, e.Created = by, revocation.At(now)
		if err := e.Validate(); err != nil {
			return nil, err
		}
		wanted = append(wanted, e)
	}
	if len(wanted) == 0 || len(wanted) > 1000 {
		return nil, fault.Newf(fault.Invalid, "%d entries: want 1 to 1000", len(wanted))
	}
	for try := 0; ; try++ {
		a, err := r.revoke(ctx, by, wanted, q.Plan)
		if !errors.Is(err, fault.Conflict) || try == 4 {
			return a, err
		}
		if err := s.followTrust(ctx); err != nil { // another one revoked meanwhile
			return nil, err
		}
	}
}

func (r revocations) revoke(ctx context.Context, by string, wanted []revocation.Entry, plan bool) (*client.RevokeAnswer, error) {
	s := r.s
	signed := s.trust().revocations
	if signed == nil {
		return nil, fault.Newf(fault.Unavailable, "no list of revocations is in force yet")
	}
	entries, changed := signed.List.With(wanted...)
	added := news(signed.List, entries)
	a, err := s.impact(ctx, added)
	if err != nil {
		return nil, err
	}
	a.Plan, a.Version, a.Added = plan, signed.List.Version, len(added)
	if plan || !changed {
		return a, nil
	}
	b, err := s.sealRevocations(ctx, signed.List.Version+1, revocation.Online, entries)
	if err != nil {
		return nil, err
	}
	return a, s.putRevocations(ctx, by, b, added, a)
}

// news are the entries that say more than a list does.
func news(l *revocation.List, entries []revocation.Entry) (out []revocation.Entry) {
	for _, e := range entries {
		if have := l.Find(e.Target()); have == nil || e.InvalidSince.Before(have.InvalidSince.Time) {
			out = append(out, e)
		}
	}
	return out
}

// putRevocations puts a list in force that follows the one that is: stored with
// its events in one transaction, and then taken over by every door of this
// process before it returns.
func (s *Server) putRevocations(ctx context.Context, by string, b []byte, added []revocation.Entry, a *client.RevokeAnswer) error {
	before, t := s.trust().revocations, s.trust()
	next, err := s.openRevocations(ctx, b, t.root)
	if err != nil {
		return err
	}
	if err := revocation.Follow(before, next); err != nil {
		return err
	}
	a.Version, a.LogIndex = next.List.Version, next.LogIndex()
	if err := s.flushRecords(ctx); err != nil { // pulls that prove wrong are counted with it
		return err
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		epoch, err := trust.PutDocument(ctx, tx, trust.Document{Kind: trust.DocRevocations, Version: next.List.Version, Body: b})
		if err != nil {
			return err
		}
		return s.tellRevoked(ctx, tx, by, epoch, next, added, a)
	})
	if err != nil {
		return err
	}
	// It is in force by the database already: who fails here finds it there.
	return s.reloadTrust(context.WithoutCancel(ctx))
}

func (s *Server) tellRevoked(ctx context.Context, tx *store.Tx, by string, epoch int64, next *revocation.Signed, added []revocation.Entry, a *client.RevokeAnswer) error {
	trace := event.TraceFrom(ctx)
	if err := event.Append(ctx, tx, event.Event{Kind: event.TrustChanged, Actor: by, TraceID: trace, Body: map[string]any{
		"what": "revocation", "name": next.List.Domain, "epoch": epoch, "hash": next.Entries(),
	}}); err != nil {
		return err
	}
	for i := range added {
		e := &added[i]
		if err := event.Append(ctx, tx, event.Event{Kind: event.TrustRevoked, Digest: e.Digest, Actor: by, TraceID: trace, Body: map[string]any{
			"target": e.Text(), "kind": e.Kind, "since": e.InvalidSince, "reason": e.Reason, "version": next.List.Version,
			"log_index": a.LogIndex, "artifacts": a.Artifacts, "attestations": a.Attestations,
		}}); err != nil {
			return err
		}
	}
	if err := tellServed(ctx, tx, by, next.List.Version, added); err != nil {
		return err
	}
	for i := range a.Items {
		it := &a.Items[i]
		if err := event.Append(ctx, tx, event.Event{Kind: event.RevocationAffects, Digest: it.Digest, Actor: by, TraceID: trace, Body: map[string]any{
			"version": next.List.Version, "attestations": it.Attestations,
		}}); err != nil {
			return err
		}
		// Those are decided anew first.
		if err := verify.Hasten(ctx, tx, it.Digest); err != nil {
			return err
		}
	}
	return nil
}

// Replace puts a list in force that the offline root signed elsewhere: it may
// take entries back. Its version must be the next one.
func (r revocations) Replace(ctx context.Context, envelope []byte) (*client.RevokeAnswer, error) {
	s := r.s
	env, err := attestation.ParseEnvelope(envelope, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	if env.PayloadType != revocation.PayloadType {
		return nil, fault.Newf(fault.Invalid, "payload type %.80q, want %s: assay revocations draft makes one to sign", env.PayloadType, revocation.PayloadType)
	}
	roles, err := s.tuf.RoleKeys()
	if err != nil {
		return nil, err
	}
	if err := revocation.SignedByRoot(env, revocation.Authority{Root: roles[0].Root, RootThreshold: roles[0].Threshold}); err != nil {
		return nil, err
	}
	b, err := revocation.Prove(ctx, env, s.proveSignature, roles[0].Root...)
	if err != nil {
		return nil, err
	}
	before := s.trust().revocations
	next, err := s.openRevocations(ctx, b, s.trust().root)
	if err != nil {
		return nil, err
	}
	if before == nil || next.List.Version != before.List.Version+1 || next.Status(s.clock()) != revocation.Current {
		return nil, fault.Newf(fault.Conflict, "the signed list has version %d and ends at %s; want the version after the one in force, and one that holds still: make another draft", next.List.Version, next.List.Expires.Format(time.RFC3339))
	}
	added := news(before.List, next.List.Entries)
	a, err := s.impact(ctx, added)
	if err != nil {
		return nil, err
	}
	a.Added = len(added)
	return a, s.putRevocations(ctx, identity.FromContext(ctx).Actor(), b, added, a)
}

// mostAffected is how many artifacts of a revocation are listed and told of.
const mostAffected = 1000

// impact says what entries take.
func (s *Server) impact(ctx context.Context, entries []revocation.Entry) (*client.RevokeAnswer, error) {
	a := &client.RevokeAnswer{Items: []client.AffectedArtifact{}}
	got, err := s.evidence.Impact(ctx, entries)
	if err != nil {
		return nil, err
	}
	a.Attestations, a.Artifacts = got.Attestations, len(got.Artifacts)
	if a.Truncated = len(got.Artifacts) > mostAffected; a.Truncated {
		got.Artifacts = got.Artifacts[:mostAffected]
	}
	return a, s.db.View(ctx, func(tx *store.Tx) error {
		for _, g := range got.Artifacts {
			it := client.AffectedArtifact{Digest: g.Digest, Attestations: g.Attestations}
			places, err := registry.Places(ctx, tx, g.Digest)
			if err != nil {
				return err
			}
			for _, p := range places {
				it.Places = append(it.Places, client.ArtifactPlace{Repository: p.Repository, Tags: p.Tags})
			}
			if it.AllowedIn, err = verify.AllowedIn(ctx, tx, g.Digest); err != nil {
				return err
			}
			if len(it.AllowedIn) > 0 {
				a.Allowed++
			}
			a.Items = append(a.Items, it)
		}
		return nil
	})
}

func readEntry(w *client.Revocation) revocation.Entry {
	return revocation.Entry{
		Kind: revocation.Kind(w.Kind), Key: w.Key, Match: w.Match, Issuer: w.Issuer, Subject: w.Subject, Serial: w.Serial, Builder: w.Builder,
		LogID: w.LogID, From: w.From, To: w.To, Digest: w.Digest, InvalidSince: revocation.At(w.InvalidSince), Reason: w.Reason,
	}
}

func wireEntry(e *revocation.Entry) client.Revocation {
	created := e.Created.Time
	return client.Revocation{
		Kind: string(e.Kind), Key: e.Key, Match: e.Match, Issuer: e.Issuer, Subject: e.Subject, Serial: e.Serial, Builder: e.Builder,
		LogID: e.LogID, From: e.From, To: e.To, Digest: e.Digest, InvalidSince: e.InvalidSince.Time, Reason: e.Reason,
		Requester: e.Requester, Created: &created,
	}
}
