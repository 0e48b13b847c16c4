package api

import (
	"net/http"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/sbom"
	"assay/sbom/overlay"
)

func (a *API) sbomRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/sboms", Summary: "Bills of materials about an artifact, newest first; what was refused is among them, with the reason", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "subject, sha256:…"}, {"repository", "by whose grants it is read"}}, Out: client.List[client.SBOM]{}, Status: 200, handle: a.sboms},
		{Method: "GET", Path: "/api/v1/components", Summary: "Components in all stored bills of materials", Action: identity.ActReadEvidence,
			Query: []Param{{"purl", "package URL, with or without version and qualifiers"}, {"name", "whole name, what is after its namespace, or its beginning and *"}, {"version", "exactly"},
				{"license", "an identifier that the licence names, the document's or an overlay's"}, {"owner", "as an overlay names it"}, {"supplier", "as an overlay names it"}, {"component_digest", "of the component, ALGORITHM:HEX"}, {"digest", "only in this artifact"},
				{"after", "cursor"}, {"limit", "at most 1000"}},
			Out: client.List[client.Component]{}, Status: 200, handle: a.components},
		{Method: "GET", Path: "/api/v1/components/added", Summary: "What verified overlays add to an artifact's components, each value with its source and signer", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "subject, sha256:…"}, {"signer", "only overlays by this identity or key fingerprint; may be given 16 times"},
				{"repository", "by whose grants it is read"}, {"after", "cursor"}, {"limit", "components, at most 1000"}},
			Out: client.List[client.ComponentFact]{}, Status: 200, handle: a.componentsAdded},
	}
}

func (a *API) sboms(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository")); err != nil {
		a.fail(w, r, err)
		return
	}
	subject, err := artifact.ParseDigest(q.Get("digest"))
	if err == nil {
		err = a.readable(r, q.Get("repository"), subject)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	found, err := a.o.SBOMs.Documents(r.Context(), subject)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.SBOM]{Items: []client.SBOM{}}
	for _, ix := range found {
		out.Items = append(out.Items, wireSBOM(ix))
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireSBOM(ix sbom.Indexed) client.SBOM {
	s := client.SBOM{
		ID: ix.ID, Attestation: ix.Attestation, Subject: ix.Subject, Issuer: ix.Issuer, Identity: ix.Identity,
		Format: string(ix.Format), SpecVersion: ix.SpecVersion, Document: ix.Document, Name: ix.Name,
		IngestedAt: ix.Ingested, Packages: ix.Packages, Problem: ix.Problem,
		Quality: client.SBOMQuality{Score: ix.Quality.Score, Incomplete: ix.Quality.Incomplete},
	}
	if !ix.Created.IsZero() {
		s.Created = &ix.Created
	}
	for _, p := range ix.Quality.Parts {
		s.Quality.Parts = append(s.Quality.Parts, client.SBOMQualityPart(p))
	}
	return s
}

// components searches all artifacts, so that it is for those who may read all
// evidence.
func (a *API) components(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	query := sbom.Query{
		PURL: q.Get("purl"), Name: q.Get("name"), Version: q.Get("version"), License: q.Get("license"), Owner: q.Get("owner"), Supplier: q.Get("supplier"),
		Digest: artifact.Digest(q.Get("component_digest")), After: q.Get("after"),
	}
	var err error
	if d := q.Get("digest"); d != "" {
		if query.Subject, err = artifact.ParseDigest(d); err != nil {
			a.fail(w, r, err)
			return
		}
	}
	if query.Limit, err = limit(r); err != nil {
		a.fail(w, r, err)
		return
	}
	found, next, err := a.o.SBOMs.Search(r.Context(), query)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Component]{Items: []client.Component{}, Next: next}
	for _, o := range found {
		out.Items = append(out.Items, client.Component{
			Component: o.Component, Name: o.Name, Version: o.Version, License: o.License, Dependency: o.Direct,
			Subject: o.Subject, Attestation: o.Attested, Added: wireAdded(o.Added),
		})
	}
	WriteJSON(w, http.StatusOK, out)
}

const maxSigners = 16

func (a *API) componentsAdded(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository")); err != nil {
		a.fail(w, r, err)
		return
	}
	subject, err := artifact.ParseDigest(q.Get("digest"))
	if err == nil {
		err = a.readable(r, q.Get("repository"), subject)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if n := len(q["signer"]); n > maxSigners {
		a.fail(w, r, fault.Newf(fault.Invalid, "%d signers: at most %d", n, maxSigners))
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	facts, next, err := a.o.SBOMs.Added(r.Context(), subject, q["signer"], n, q.Get("after"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.List[client.ComponentFact]{Items: append([]client.ComponentFact{}, wireAdded(facts)...), Next: next})
}

func wireAdded(facts []overlay.Fact) (out []client.ComponentFact) {
	for _, f := range facts {
		out = append(out, client.ComponentFact(f))
	}
	return out
}
