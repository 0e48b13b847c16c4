package server

import (
	"context"
	"slices"
	"time"

	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
	"assay/trust/foreign"
	"assay/trust/tuf"
)

// importedRoot is a foreign root in force, and since when.
type importedRoot struct {
	*foreign.Root
	at time.Time
}

// loadForeign puts the imported roots into force, and publishes them.
func (s *Server) loadForeign(_ context.Context, docs []trust.Document, d *trustDraft) error {
	p := &foreign.Published{Version: 1, Registry: s.host()}
	bodies := make([][]byte, len(docs))
	for i, doc := range docs {
		bodies[i] = doc.Body
		p.Version += doc.Version // versions only rise, so the sum does
		p.Roots = append(p.Roots, doc.Body)
	}
	roots, err := foreign.CompileAll(bodies)
	if err != nil {
		return err
	}
	for _, r := range roots {
		i := slices.IndexFunc(docs, func(doc trust.Document) bool { return doc.Name == r.Name() })
		d.foreign = append(d.foreign, importedRoot{r, docs[i].Applied})
	}
	d.verify.Foreign = roots
	d.targets[tuf.TargetForeignRoots], err = p.JSON()
	return err
}

// foreignTrust is what the API does about foreign roots.
type foreignTrust struct{ s *Server }

// Import puts a root in force. Its version is given here.
func (f foreignTrust) Import(ctx context.Context, actor string, doc []byte) (client.ForeignRoot, error) {
	d, err := foreign.Draft(doc)
	if err != nil {
		return client.ForeignRoot{}, err
	}
	if d.Removed {
		return client.ForeignRoot{}, fault.Newf(fault.Invalid, "foreign root %q is removed by DELETE, not by a document", d.Name)
	}
	if d.Name == f.s.data.site.Host || d.Name == "keys" {
		return client.ForeignRoot{}, fault.Newf(fault.Conflict, "the name %q is the site's own root's; choose another", d.Name)
	}
	return f.put(ctx, actor, d)
}

// Remove ends a root. What it vouched for counts no more.
func (f foreignTrust) Remove(ctx context.Context, actor, name string) error {
	if !slices.ContainsFunc(f.s.trust().foreign, func(r importedRoot) bool { return r.Name() == name }) {
		return fault.Newf(fault.NotFound, "foreign root %.80q: none of this name; assay trust roots list", name)
	}
	_, err := f.put(ctx, actor, &foreign.Document{Name: name, Removed: true})
	return err
}

func (f foreignTrust) put(ctx context.Context, actor string, d *foreign.Document) (client.ForeignRoot, error) {
	s := f.s
	err := s.db.Update(ctx, func(tx *store.Tx) error { return putForeign(ctx, tx, actor, d) })
	if err != nil {
		return client.ForeignRoot{}, err
	}
	if err := s.reloadTrust(ctx); err != nil {
		return client.ForeignRoot{}, err
	}
	for _, r := range f.List() {
		if r.Name == d.Name {
			return r, nil
		}
	}
	return client.ForeignRoot{Name: d.Name, Version: d.Version}, nil
}

// putForeign writes a root's next version with its event.
func putForeign(ctx context.Context, tx *store.Tx, actor string, d *foreign.Document) error {
	last, err := trust.DocumentVersion(ctx, tx, trust.DocRoot, d.Name)
	if err != nil {
		return err
	}
	all, err := trust.Documents(ctx, tx, trust.DocRoot)
	if err != nil {
		return err
	}
	if last == 0 && len(all) >= foreign.MaxRoots {
		return fault.Newf(fault.TooLarge, "%d foreign roots are known, at most %d are", len(all), foreign.MaxRoots)
	}
	d.Version = last + 1
	if _, err := foreign.Compile(d); err != nil {
		return err
	}
	body, err := d.JSON()
	if err != nil {
		return err
	}
	if _, err := trust.PutDocument(ctx, tx, trust.Document{Kind: trust.DocRoot, Name: d.Name, Version: d.Version, Body: body}); err != nil {
		return err
	}
	e := event.Event{Kind: event.RootImported, Actor: actor, Body: map[string]any{
		"name": d.Name, "type": d.Type, "version": d.Version, "namespaces": d.Namespaces,
	}}
	if d.Removed {
		e.Kind, e.Body = event.RootRemoved, map[string]any{"name": d.Name, "version": d.Version}
	}
	return event.Append(ctx, tx, e)
}

// List tells the roots in force.
func (f foreignTrust) List() []client.ForeignRoot {
	out := []client.ForeignRoot{}
	for _, r := range f.s.trust().foreign {
		d := r.Document
		c := client.ForeignRoot{
			Name: d.Name, Version: d.Version, Type: string(d.Type), Namespaces: d.Namespaces, NotBefore: d.NotBefore, NotAfter: d.NotAfter,
			Fingerprints: r.Fingerprints(), Revocation: f.revocation(d.Name), ImportedAt: r.at, Reason: d.Reason,
		}
		if t := d.Thresholds; t != nil {
			c.SCT, c.Log, c.TSA = &t.SCT, &t.Log, &t.TSA
		}
		out = append(out, c)
	}
	return out
}

// Document gives one root as it was imported.
func (f foreignTrust) Document(name string) ([]byte, error) {
	for _, r := range f.s.trust().foreign {
		if r.Name() == name {
			return r.Document.JSON()
		}
	}
	return nil, fault.Newf(fault.NotFound, "foreign root %.80q: none of this name; assay trust roots list", name)
}

// Export is foreign_roots.json.
func (f foreignTrust) Export() []byte { return f.s.trust().targets[tuf.TargetForeignRoots] }

// revocation is the state of a root's list.
func (f foreignTrust) revocation(name string) string {
	if d := f.s.trust().domains[name]; d != nil {
		return string(d.revocations.Status(f.s.clock()))
	}
	return "not_configured"
}
