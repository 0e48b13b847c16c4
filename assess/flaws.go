package assess

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"assay/artifact"
	"assay/policy"
	"assay/sbom"
	"assay/verify"
	"assay/vuln/finding"
)

// Component is one of a bill of materials, as advisories are asked about it.
type Component = finding.Component

// Components are those of a document.
func Components(d *sbom.Document) (out []Component) {
	direct := d.Direct()
	packages := d.Packages()
	for i := range packages {
		c := &packages[i]
		one := Component{PURL: c.Keyed().String(), Name: c.FullName(), Version: c.Version, SourceName: c.SourceName, SourceVersion: c.SourceVersion, Direct: "unknown"}
		if direct != nil {
			one.Direct = "transitive"
			if direct[c.Ref] || slices.Contains(d.Roots, c.Ref) {
				one.Direct = "direct"
			}
		}
		out = append(out, one)
	}
	return out
}

// maxDocuments is how many bills of materials of one artifact are looked up.
const maxDocuments = 16

// book is what the advisories say about an artifact, by its bills of materials.
type book struct {
	run       *Run
	documents map[string][]byte // that verified, by attestation
}

// Flaws is of verify.FlawSource.
func (b *book) Flaws(ctx context.Context, subject policy.Subject) (*verify.Flaws, error) {
	return b.FlawsBy(ctx, subject, slices.Collect(maps.Keys(b.documents)))
}

// FlawsBy gives the flaws by some bills of materials alone.
func (b *book) FlawsBy(ctx context.Context, _ policy.Subject, attestations []string) (*verify.Flaws, error) {
	slices.Sort(attestations)
	attestations = slices.Compact(attestations)
	var all []Component
	var incomplete, from []string
	for _, id := range attestations {
		doc, ok := b.documents[id]
		if !ok {
			continue
		}
		if len(from) == maxDocuments {
			incomplete = append(incomplete, fmt.Sprintf("more than %d documents", maxDocuments))
			break
		}
		from = append(from, id)
		list, missing := components(doc)
		all, incomplete = append(all, list...), append(incomplete, missing...)
	}
	if len(from) == 0 {
		st := finding.State{}
		st.KEV, st.EPSS = b.run.lists()
		return &verify.Flaws{State: st}, nil
	}
	found, st, err := finding.Judge(ctx, b.run.o.Feeds, b.run.o.Exploits, all, incomplete, b.run.o.Clock(), b.run.o.MaxAge)
	return &verify.Flaws{Findings: found, State: st, Documents: from}, err
}

// components are those of a document. One that cannot be read does not hold
// everything.
func components(doc []byte) ([]Component, []string) {
	d, err := sbom.Read(bytes.NewReader(doc), sbom.Limits{})
	if err != nil {
		return nil, []string{"a bill of materials cannot be read: " + text(err.Error(), 160)}
	}
	return Components(d), d.Missing()
}

// lists says which lists of exploitation are in force, and fresh.
func (r *Run) lists() (kev, epss bool) {
	if r.o.Exploits == nil {
		return false, false
	}
	return r.o.Exploits.Has("kev", r.o.Clock(), r.o.MaxAge), r.o.Exploits.Has("epss", r.o.Clock(), r.o.MaxAge)
}

// flaws looks up what an artifact is made of: by what verified, by what is claimed, and
// by what a scan finds. The first alone goes to the policy.
func (r *Run) flaws(ctx context.Context, at artifact.Reference, claims map[string]*claim, proven map[string]bool, out *Digest) (verify.FlawSource, error) {
	b := &book{run: r, documents: map[string][]byte{}}
	claimed := map[string][]byte{}
	for id, c := range claims {
		switch {
		case c.kind != bom:
		case proven[id]:
			b.documents[id] = c.predicate
		case len(claimed) < maxDocuments:
			claimed[id] = c.predicate
		}
	}
	if r.o.Feeds == nil {
		out.NotKnown = []string{"no advisories were given"}
		return nil, nil
	}
	type look struct {
		by         string
		components []Component
		incomplete []string
	}
	var looks []look
	for by, docs := range map[string]map[string][]byte{"sbom": b.documents, "claimed": claimed} {
		if len(docs) == 0 {
			continue
		}
		l := look{by: by}
		for _, id := range slices.Sorted(maps.Keys(docs)) {
			list, missing := components(docs[id])
			l.components, l.incomplete = append(l.components, list...), append(l.incomplete, missing...)
		}
		looks = append(looks, l)
	}
	if len(b.documents) == 0 && r.o.Scan != nil {
		list, missing, err := r.o.Scan(ctx, at)
		if err != nil {
			out.NotKnown = append(out.NotKnown, "it could not be scanned: "+text(err.Error(), 200))
		} else {
			looks = append(looks, look{"scan", list, missing})
		}
	}
	covered := false
	for _, l := range looks {
		found, st, err := finding.Judge(ctx, r.o.Feeds, r.o.Exploits, l.components, l.incomplete, r.o.Clock(), r.o.MaxAge)
		if err != nil {
			return nil, err
		}
		for i := range found {
			out.danger(&found[i], l.by)
		}
		if l.by == "claimed" {
			continue // what nobody verified may leave out what it likes
		}
		reasons := gaps(&st)
		out.NotKnown = append(out.NotKnown, reasons...)
		covered = covered || len(reasons) == 0
	}
	if !covered && len(out.NotKnown) == 0 {
		out.NotKnown = []string{"there is no bill of materials that verified"}
	}
	out.NotKnown = out.NotKnown[:min(len(out.NotKnown), 8)]
	r.clean(covered, out)
	return b, nil
}

// gaps says what is not known although a document was looked up.
func gaps(st *finding.State) (out []string) {
	if len(st.Incomplete) > 0 {
		out = append(out, "the bill of materials is incomplete: "+text(st.Incomplete[0], 160))
	}
	if n := st.Unmatched; n > 0 {
		out = append(out, fmt.Sprintf("%d components are of a kind that no feed knows", n))
	}
	if n := st.ReleaseMissing; n > 0 {
		out = append(out, fmt.Sprintf("%d components of a distribution whose release is not known", n))
	}
	for _, e := range st.FeedsMissing {
		out = append(out, "no feed for "+text(e, 60))
	}
	for _, e := range st.FeedsStale {
		out = append(out, "the feed for "+text(e, 60)+" is old")
	}
	return out
}

// danger notes what is malicious or exploited.
func (d *Digest) danger(f *finding.Finding, by string) {
	if !f.Malicious && f.KEV == "" {
		return
	}
	is := Yes
	switch {
	case by == "claimed":
		is = Claimed // by a document that nobody verified
	case f.Status != "affected":
		is = Unknown // nobody can tell of this version
	}
	if f.Malicious && d.Malicious != Yes {
		d.Malicious = is
	}
	if f.KEV != "" && d.Exploited != Yes {
		d.Exploited = is
	}
	name := text(f.Component, 240)
	for i := range d.dangers {
		if o := &d.dangers[i]; o.Component == name && o.Flaw == f.Name {
			o.By = note(o.By, by, 3)
			return
		}
	}
	d.dangers = append(d.dangers, Danger{Component: name, Flaw: text(f.Name, 80), Malicious: f.Malicious, KEV: text(f.KEV, 30), Affected: f.Status, Fixed: text(f.Fixed, 80), By: []string{by}})
}

// clean says no where that is known.
func (r *Run) clean(covered bool, d *Digest) {
	kev, _ := r.lists()
	if covered && d.Malicious == Unknown {
		d.Malicious = No
	}
	doubt := slices.ContainsFunc(d.dangers, func(o Danger) bool { return o.KEV != "" && o.Affected != "affected" })
	if covered && kev && d.Exploited == Unknown && !doubt {
		d.Exploited = No
	}
}
