package server

import (
	"context"
	"encoding/json"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/revocation"
	"assay/trust/tuf"
)

// domain is what carried bundles said of another site's trust, beside its
// trusted root, which is a foreign root here.
type domain struct {
	origin      string
	revocations *revocation.Signed
	delegations *delegation.Set
}

// domainDocument is the body of a trust document of kind domain. All in it was
// signed by the other site, and is verified again at every load.
type domainDocument struct {
	Origin      string          `json:"origin"`
	Root        []byte          `json:"root"` // the newest root.json, whose keys sign the list
	Revocations json.RawMessage `json:"revocations"`
	Delegations json.RawMessage `json:"delegations,omitempty"`
}

func parseDomain(b []byte) (*domainDocument, error) {
	var d domainDocument
	if err := strictjson.Unmarshal(b, &d, strictjson.RejectUnknown(), strictjson.WithMaxBytes(16<<20)); err != nil {
		return nil, fault.Newf(fault.Tampered, "trust of another site: %w", err)
	}
	return &d, nil
}

// open verifies what the document holds, under the site's trusted root.
func (d *domainDocument) open(ctx context.Context, root *trust.Root, checks ...trust.Check) (*domain, error) {
	keys, err := tuf.ReadRoleKeys(d.Root)
	if err != nil {
		return nil, err
	}
	out := &domain{origin: d.Origin}
	if out.revocations, err = revocation.Open(ctx, d.Revocations, revocation.Authority{Online: keys.Targets, Root: keys.Root, RootThreshold: keys.Threshold}, root); err != nil {
		return nil, err
	}
	if out.revocations.List.Domain != d.Origin {
		return nil, fault.Newf(fault.Unverified, "the revocation list is of %.120q, want %s", out.revocations.List.Domain, d.Origin)
	}
	if len(d.Delegations) == 0 {
		return out, nil
	}
	p, err := delegation.ParsePublished(d.Delegations)
	if err != nil {
		return nil, err
	}
	signers, err := p.PublicKeys()
	if err != nil {
		return nil, err
	}
	theirs := revocation.NewSet(out.revocations.List)
	out.delegations, err = compileForeign(ctx, root, signers, p, append(checks, theirs.Check)...)
	return out, err
}

func compileForeign(ctx context.Context, root *trust.Root, signers []trust.Key, p *delegation.Published, checks ...trust.Check) (*delegation.Set, error) {
	bundles := make([][]byte, len(p.Bundles))
	for i, b := range p.Bundles {
		bundles[i] = b
	}
	return delegation.Compile(ctx, trust.Roots{root}, signers, bundles, checks...)
}

// loadDomains puts the lists and delegations of other sites in force, each with
// the root that the site became. Without that root they say nothing.
func (s *Server) loadDomains(ctx context.Context, docs []trust.Document, t *trustDraft) error {
	for _, doc := range docs {
		var root *trust.Root
		for _, r := range t.foreign {
			if r.Name() == doc.Name {
				root = r.Root.Root()
			}
		}
		if root == nil {
			continue
		}
		d, err := parseDomain(doc.Body)
		if err != nil {
			return err
		}
		one, err := d.open(ctx, root, t.verify.Judges()...)
		if err != nil {
			return err
		}
		if t.domains == nil {
			t.domains, t.verify.ForeignDelegations = map[string]*domain{}, map[string]*delegation.Set{}
		}
		if t.verify.Lists == nil {
			t.verify.Lists = map[string]*revocation.Signed{}
		}
		t.domains[doc.Name], t.verify.Lists[doc.Name] = one, one.revocations
		t.verify.ForeignDelegations[doc.Name] = one.delegations
	}
	return nil
}

func (d *domainDocument) json() ([]byte, error) {
	return strictjson.Marshal(d)
}
