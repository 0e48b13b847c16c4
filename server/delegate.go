package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"time"

	"github.com/digitorus/timestamp"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/attestation"
	"assay/authority/rotation"
	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/tlog/rekor"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/tuf"
)

// loadDelegations verifies all delegations under the own root and puts them into
// force. It comes last, when the own authorities are known.
func (s *Server) loadDelegations(ctx context.Context, docs []trust.Document, d *trustDraft) error {
	keys, err := delegationKeys(d.keys)
	if err != nil {
		return err
	}
	p := &delegation.Published{Version: 1, Registry: s.host()}
	for _, k := range keys {
		pem, err := delegation.PEM(k.Public)
		if err != nil {
			return err
		}
		p.Keys = append(p.Keys, pem)
		p.Windows = append(p.Windows, delegation.KeyWindow{Start: k.Window.Start, End: k.Window.End})
	}
	for _, k := range rotation.Of(d.keys, rotation.Delegation) {
		p.Version += k.Version() // clients refuse what is older, also in its keys
	}
	bundles := make([][]byte, len(docs))
	for i, doc := range docs {
		bundles[i] = doc.Body
		p.Version += doc.Version
		p.Bundles = append(p.Bundles, doc.Body)
	}
	own, err := trust.NewRoot(d.own, trust.WithName(s.data.site.Host))
	if err != nil {
		return err
	}
	if d.verify.Delegations, err = delegation.Compile(ctx, trust.Roots{own}, keys, bundles, d.verify.Judges()...); err != nil {
		return err
	}
	for _, l := range d.verify.Delegations.Links() {
		if l.Err != nil {
			s.log.Warn("a delegation hands out nothing", "name", l.Document.Name, "error", l.Err)
		}
	}
	d.targets[tuf.TargetDelegations], err = p.JSON()
	return err
}

// delegationKeys are the keys that sign first links, each with its window.
func delegationKeys(rows []rotation.Key) (out []trust.Key, err error) {
	for _, k := range rotation.Of(rows, rotation.Delegation) {
		pub, err := k.PublicKey()
		if err != nil {
			return nil, err
		}
		out = append(out, trust.Key{Public: pub, Window: k.Window()})
	}
	return out, nil
}

// delegations is what the API does about delegations.
type delegations struct{ s *Server }

// Delegate signs a delegation of the root with the organisation's key, logs it
// and puts it in force. Its version is given here; one that is changed keeps
// its beginning unless the document gives another.
func (g delegations) Delegate(ctx context.Context, actor string, doc []byte) (client.Delegation, error) {
	d, err := delegation.Draft(doc)
	if err != nil {
		return client.Delegation{}, err
	}
	if d.Parent() != "" {
		return client.Delegation{}, fault.Newf(fault.Invalid, "delegation %q stands below %q, whose delegate signs it", d.Name, d.Parent())
	}
	if d.Removed {
		return client.Delegation{}, fault.Newf(fault.Invalid, "a delegation is removed by DELETE, not by a document")
	}
	if d.NotBefore.IsZero() {
		d.NotBefore = g.s.clock().UTC().Truncate(time.Second)
		if l := g.s.trust().delegations.Link(d.Name); l != nil && !l.Document.Removed {
			d.NotBefore = l.Document.NotBefore
		}
	}
	return g.sign(ctx, actor, d)
}

// HandOn takes a delegation that a delegate signed.
func (g delegations) HandOn(ctx context.Context, actor string, bundle []byte) (client.Delegation, error) {
	d, err := delegation.Peek(bundle)
	if err != nil {
		return client.Delegation{}, err
	}
	if d.Parent() == "" {
		return client.Delegation{}, fault.Newf(fault.Denied, "delegation %q is the root's: only the organisation's key gives it, by assay trust delegate", d.Name)
	}
	return g.put(ctx, actor, d, bundle)
}

// Remove ends a delegation: one of the root's by the organisation's key. One of
// a delegate ends by a document that its delegator signs, or with the one above.
func (g delegations) Remove(ctx context.Context, actor, name string) error {
	l := g.s.trust().delegations.Link(name)
	if l == nil || l.Document.Removed {
		return fault.Newf(fault.NotFound, "delegation %.120q: none of this name; assay trust delegations list", name)
	}
	if l.Document.Parent() != "" {
		return fault.Newf(fault.Conflict, "delegation %q was signed by a delegate of %q, and he removes it: assay trust delegations remove %s --subject …; or narrow %q", name, l.Document.Parent(), name, l.Document.Parent())
	}
	_, err := g.sign(ctx, actor, &delegation.Document{Name: name, Removed: true})
	return err
}

func (g delegations) sign(ctx context.Context, actor string, d *delegation.Document) (client.Delegation, error) {
	s := g.s
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		last, err := trust.DocumentVersion(ctx, tx, trust.DocDelegation, d.Name)
		d.Version = last + 1
		return err
	}); err != nil {
		return client.Delegation{}, err
	}
	st, err := d.Statement()
	if err != nil {
		return client.Delegation{}, err
	}
	signer, err := s.activeSigner(ctx, rotation.Delegation)
	if err != nil {
		return client.Delegation{}, err
	}
	bundle, err := s.signLogged(ctx, signer, st)
	if err != nil {
		return client.Delegation{}, err
	}
	return g.put(ctx, actor, d, bundle)
}

// signLogged signs a statement, has the signature timestamped and logged, and
// makes the bundle that proves all three.
func (s *Server) signLogged(ctx context.Context, signer crypto.Signer, st *attestation.Statement) ([]byte, error) {
	env, err := attestation.SignStatement(ctx, signer, st)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	sig, hint := env.Signatures[0].Sig, sha256.Sum256(spki)
	imprint := sha256.Sum256(sig)
	req, err := (&timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: imprint[:], Certificates: true}).Marshal()
	if err != nil {
		return nil, err
	}
	stamp, err := s.tsa.Timestamp(ctx, req)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(env.PAE())
	entry, err := s.rekor.Add(ctx, rekor.Request{Digest: digest[:], Signature: sig, PublicKey: spki})
	if err != nil {
		return nil, err
	}
	b, err := attestation.NewDSSEBundle(attestation.Material{
		KeyHint: base64.StdEncoding.EncodeToString(hint[:]), LogEntries: []*rekorpb.TransparencyLogEntry{entry}, Timestamps: [][]byte{stamp},
	}, env)
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// put proves the delegation among all others, and puts it in force.
func (g delegations) put(ctx context.Context, actor string, d *delegation.Document, bundle []byte) (client.Delegation, error) {
	s := g.s
	keys, err := delegationKeys(s.trust().keys)
	if err != nil {
		return client.Delegation{}, err
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		last, err := trust.DocumentVersion(ctx, tx, trust.DocDelegation, d.Name)
		if err != nil {
			return err
		}
		if err := d.Replaces(&delegation.Document{Name: d.Name, Version: last}); err != nil {
			return err
		}
		docs, err := trust.Documents(ctx, tx, trust.DocDelegation)
		if err != nil {
			return err
		}
		bundles := [][]byte{bundle}
		for _, doc := range docs {
			if doc.Name != d.Name {
				bundles = append(bundles, doc.Body)
			}
		}
		set, err := delegation.Compile(ctx, trust.Roots{s.trust().root}, keys, bundles, s.trust().verifier.Judges()...)
		if err != nil {
			return err
		}
		link := set.Link(d.Name)
		if link.Err != nil {
			return fault.Newf(fault.Denied, "not put in force: %w", link.Err)
		}
		if _, err := trust.PutDocument(ctx, tx, trust.Document{Kind: trust.DocDelegation, Name: d.Name, Version: d.Version, Body: bundle}); err != nil {
			return err
		}
		e := event.Event{Kind: event.DelegationMade, Actor: actor, Body: map[string]any{
			"name": d.Name, "version": d.Version, "patterns": clipList(d.Patterns), "predicate_types": clipList(d.PredicateTypes),
			"expires": d.Expires.UTC().Format(time.RFC3339), "log_index": link.LogIndex,
		}}
		if d.Removed {
			e.Kind, e.Body = event.DelegationRemoved, map[string]any{"name": d.Name, "version": d.Version, "log_index": link.LogIndex}
		}
		return event.Append(ctx, tx, e)
	})
	if err != nil {
		return client.Delegation{}, err
	}
	if err := s.reloadTrust(ctx); err != nil {
		return client.Delegation{}, err
	}
	return wireDelegation(s.trust().delegations.Link(d.Name), s.clock()), nil
}

// clipList bounds what enters an event.
func clipList(in []string) []string {
	if len(in) > 16 {
		in = append(in[:16:16], "…")
	}
	return in
}

// List tells all delegations, also those that hand out nothing.
func (g delegations) List() []client.Delegation {
	out := []client.Delegation{}
	for _, l := range g.s.trust().delegations.Links() {
		out = append(out, wireDelegation(l, g.s.clock()))
	}
	return out
}

func wireDelegation(l *delegation.Link, now time.Time) client.Delegation {
	d := l.Document
	c := client.Delegation{
		Name: d.Name, Version: d.Version, Chain: l.Chain(), Patterns: d.Patterns, PredicateTypes: d.PredicateTypes,
		NotBefore: d.NotBefore, Expires: d.Expires, Depth: d.Depth, SignedBy: l.SignedBy.String(), SignedAt: l.SignedAt, LogIndex: l.LogIndex,
		State: l.State(now), Reason: d.Reason,
	}
	if l.Err != nil {
		c.Problem = l.Err.Error()
	}
	for _, g := range l.Delegates() {
		c.Delegates = append(c.Delegates, client.Delegate{Issuer: g.Issuer, Subject: g.Subject, SubjectRegexp: g.SubjectRegexp, Key: g.Key})
	}
	return c
}

// Export is delegations.json.
func (g delegations) Export() []byte { return g.s.trust().targets[tuf.TargetDelegations] }
