package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/tlog"
	"assay/tlog/rekor"
	"assay/trust"
	"assay/verify"
)

// Resolved is what a reference names.
type Resolved struct {
	Digest    artifact.Digest
	MediaType string
}

// What the routes take besides JSON: Sigstore bundles of all versions, plain
// DSSE envelopes, and YAML by the name of RFC 9512 and its older ones.
var (
	bundleTypes = []string{
		"application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json",
		"application/vnd.dsse.envelope.v1+json", "application/json", "application/octet-stream",
	}
	documentTypes = []string{"application/yaml", "application/x-yaml", "text/yaml", "application/json", "application/octet-stream"}
)

// table is the API, a row a route.
func (a *API) table() []Route {
	bundle := RawBytes{bundleTypes[0]}
	return append([]Route{
		{Method: "GET", Path: "/api/v1/openapi.json", Summary: "This description", Out: RawBytes{"application/json"}, Status: 200, handle: a.openAPI},
		{Method: "GET", Path: "/api/v1/status", Summary: "What this server is", Out: client.Status{}, Status: 200, handle: a.status},
		{Method: "POST", Path: "/api/v1/verify", Summary: "May this artifact run here, and how do we know?", Action: identity.ActVerify,
			In: client.VerifyRequest{}, Out: verify.Report{}, Status: 200, handle: a.verify},
		{Method: "GET", Path: "/api/v1/decisions", Summary: "Current decisions about a digest", Action: identity.ActVerify,
			Query: []Param{{"digest", "sha256:…"}, {"after", "cursor"}, {"limit", "at most 1000"}}, Out: client.List[verify.Decision]{}, Status: 200, handle: a.decisions},
		{Method: "GET", Path: "/api/v1/decisions/{id}", Summary: "One decision, with its signed VSA", Action: identity.ActVerify, Out: verify.Decision{}, Status: 200, handle: a.decision},
		{Method: "POST", Path: "/api/v1/evidence", Summary: "Hand in a Sigstore bundle; it is verified first", Action: identity.ActWriteEvidence,
			Query: []Param{{"repository", "whose evidence it is"}}, In: RawBytes(bundleTypes), Out: client.List[client.Evidence]{}, Status: 201, handle: a.ingest},
		{Method: "GET", Path: "/api/v1/evidence", Summary: "Verified evidence, newest first", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "subject"}, {"predicate_type", "a URI"}, {"issuer", "of the signer"}, {"identity", "of the signer"}, {"repository", "where it was pushed"}, {"after", "cursor"}, {"limit", "at most 1000"}},
			Out:   client.List[client.Evidence]{}, Status: 200, handle: a.evidence},
		{Method: "GET", Path: "/api/v1/evidence/{id}", Summary: "A bundle, byte for byte", Action: identity.ActReadEvidence, Out: bundle, Status: 200, handle: a.bundle},
		{Method: "POST", Path: "/api/v1/apply", Summary: "Bring issuers, grants, repositories and policies to what documents say", Action: identity.ActApply,
			Query: []Param{{"dry_run", "true changes nothing"}, {"prune", "true deletes what is not among the documents"}},
			In:    RawBytes(documentTypes), Out: client.ApplyAnswer{}, Status: 200, handle: a.apply},
		{Method: "GET", Path: "/api/v1/log/entries/{index}", Summary: "One entry of the transparency log, with its proof", Action: identity.ActReadLog, Out: client.LogEntry{}, Status: 200, handle: a.logEntry},
		{Method: "GET", Path: "/api/v1/events", Summary: "What happened, oldest first", Action: identity.ActReadAudit,
			Query: []Param{{"kind", "of event"}, {"digest", "concerned"}, {"actor", "who"}, {"after", "sequence number"}, {"limit", "at most 1000"}},
			Out:   client.List[json.RawMessage]{}, Status: 200, handle: a.events},
		{Method: "GET", Path: "/api/v1/heads", Summary: "Heads of the audit chain, in order", Action: identity.ActReadAudit,
			Query: []Param{{"after", "batch number"}, {"limit", "at most 1000"}},
			Out:   client.List[json.RawMessage]{}, Status: 200, handle: a.heads},
		{Method: "GET", Path: "/api/v1/keys", Summary: "The site's own keys: where they lie, since when, and in which time they count", Action: identity.ActReadAudit, Out: client.List[client.Key]{}, Status: 200, handle: a.keys},
		{Method: "POST", Path: "/api/v1/keys/{role}/rotate", Summary: "Have the key of a role followed by another", Action: identity.ActAdmin,
			In: client.RotateKeyRequest{}, Out: client.Key{}, Status: 200, handle: a.rotateKey},
		{Method: "GET", Path: "/api/v1/trust/export", Summary: "The trusted root for offline verifiers", Out: RawBytes{"application/json"}, Status: 200, handle: a.trustExport},
		{Method: "GET", Path: "/api/v1/trust/tuf-root", Summary: "The first TUF root.json", Out: RawBytes{"application/json"}, Status: 200, handle: a.tufRoot},
	}, slices.Concat(
		a.revocationRoutes(),
		a.policyRoutes(), a.policyBundleRoutes(), a.vendorRoutes(),
		a.vexRoutes(), a.exceptionRoutes(), a.actionRoutes(), a.readinessRoutes(),
		a.sbomRoutes(),
		a.bomRoutes(),
		a.feedRoutes(),
		a.inventoryRoutes(),
		a.clusterRoutes(), a.identityRoutes(), a.threatRoutes(),
		a.admissionRoutes(),
		a.riskRoutes(), a.tierRoutes(),
		a.upstreamRoutes(),
		a.canaryRoutes(),
		a.ticketRoutes(),
		a.gateRoutes(), a.gateDoorRoutes(),
		a.webhookRoutes(),
		a.sourceRoutes(),
		a.integrityRoutes(),
		a.contractRoutes(),
		a.collectRoutes(),
		a.holdRoutes(),
		a.retentionRoutes(),
		a.repairRoutes(),
		a.runnerRoutes(),
		a.supplyRoutes(),
		a.shelfRoutes(),
	)...)
}

func (a *API) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(OpenAPI(a.routes))
}

func (a *API) status(w http.ResponseWriter, r *http.Request) {
	WriteJSON(w, http.StatusOK, a.o.Status(r.Context()))
}

func (a *API) trustExport(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(a.o.Root().Bytes())
}

func (a *API) tufRoot(w http.ResponseWriter, r *http.Request) {
	b, err := a.o.TUFRoot()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

const (
	maxBundle    = 24 << 20 // a bundle of 16 MiB of attestation, in base64
	maxDocuments = 4 << 20
	maxPage      = 1000
)

func (a *API) ingest(w http.ResponseWriter, r *http.Request) {
	repository := r.URL.Query().Get("repository")
	if err := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, repository); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := wantMedia(r, bundleTypes...); err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := body(w, r, maxBundle)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	records, _, err := a.o.Evidence.Ingest(r.Context(), b, evidence.Origin{
		Repository: repository, Source: "api", Actor: identity.FromContext(r.Context()).Actor(),
	})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, client.List[client.Evidence]{Items: wire(records)})
}

func wire(records []evidence.Record) []client.Evidence {
	out := make([]client.Evidence, 0, len(records))
	for _, rec := range records {
		e := client.Evidence{
			ID: rec.ID, Subject: rec.Subject, PredicateType: rec.PredicateType,
			Issuer: rec.Signer.Issuer, Identity: rec.Signer.Subject, Key: rec.Signer.Key,
			Root: rec.Root, TrustedTime: rec.TrustedTime, Repository: rec.Repository, Source: rec.Source, IngestedAt: rec.IngestedAt,
		}
		if rec.LogIndex >= 0 {
			e.LogIndex = &rec.LogIndex
		}
		out = append(out, e)
	}
	return out
}

func (a *API) evidence(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := evidence.Filter{
		PredicateType: q.Get("predicate_type"), Issuer: q.Get("issuer"), Identity: q.Get("identity"),
		Repository: q.Get("repository"), After: q.Get("after"),
	}
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, f.Repository); err != nil {
		a.fail(w, r, err)
		return
	}
	var err error
	if d := q.Get("digest"); d != "" {
		if f.Subject, err = artifact.ParseDigest(d); err != nil {
			a.fail(w, r, err)
			return
		}
	}
	if f.Limit, err = limit(r); err != nil {
		a.fail(w, r, err)
		return
	}
	records, err := a.o.Evidence.List(r.Context(), f)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[client.Evidence]{Items: wire(records)}
	if len(records) == f.Limit {
		page.Next = records[len(records)-1].Cursor()
	}
	WriteJSON(w, http.StatusOK, page)
}

func limit(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, fault.Newf(fault.Invalid, "limit %.20q: want a number from 1 to %d", text, maxPage)
	}
	return n, nil
}

func (a *API) bundle(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	// The repository that it came from says who may read it, once it is known
	// that the caller may read anything at all.
	rec, err := a.o.Evidence.Get(r.Context(), id)
	repository := ""
	if err == nil && len(rec) > 0 {
		repository = rec[0].Repository
	}
	if aerr := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, repository); aerr != nil {
		a.fail(w, r, aerr)
		return
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := a.o.Evidence.Bundle(r.Context(), id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/vnd.dev.sigstore.bundle.v0.3+json")
	_, _ = w.Write(b)
}

func (a *API) apply(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActApply, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := wantMedia(r, documentTypes...); err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := body(w, r, maxDocuments)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	wanted, err := config.ParseDocuments(b)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	dryRun, err := flag(r, "dry_run")
	if err != nil {
		a.fail(w, r, err)
		return
	}
	prune, err := flag(r, "prune")
	if err != nil {
		a.fail(w, r, err)
		return
	}
	answer, err := a.applyDocuments(r, wanted, dryRun, prune)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, answer)
}

// applyDocuments plans and carries out in one transaction, so that two applies
// at once end as one after the other. What would not compile is not stored.
func (a *API) applyDocuments(r *http.Request, wanted []config.Document, dryRun, prune bool) (*client.ApplyAnswer, error) {
	return a.applyChange(r, dryRun, func(stored []config.Document) ([]config.Document, []config.Change, error) {
		return wanted, config.Plan(stored, wanted, prune), nil
	})
}

// applyChange carries out what change plans, from what is stored.
func (a *API) applyChange(r *http.Request, dryRun bool, change func(stored []config.Document) (wanted []config.Document, plan []config.Change, err error)) (*client.ApplyAnswer, error) {
	return a.applyFor(r.Context(), "", dryRun, change, nil)
}

// applyFor is applyChange for a bundle of policies ("": for none), with what else
// belongs into the transaction. Policies that a bundle brought are its own.
func (a *API) applyFor(ctx context.Context, owner string, dryRun bool, change func(stored []config.Document) (wanted []config.Document, plan []config.Change, err error), also func(tx *store.Tx) error) (*client.ApplyAnswer, error) {
	answer := &client.ApplyAnswer{DryRun: dryRun}
	run := a.o.DB.Update
	if dryRun {
		run = a.o.DB.View
	}
	err := run(ctx, func(tx *store.Tx) error {
		stored, err := config.Stored(ctx, tx)
		if err != nil {
			return err
		}
		wanted, plan, err := change(stored)
		if err != nil {
			return err
		}
		if err := config.CheckVersions(stored, wanted); err != nil {
			return err
		}
		if err := guardBundles(ctx, tx, owner, plan); err != nil {
			return err
		}
		desired, err := config.Compile(config.After(stored, wanted, plan), a.o.Site, a.o.SiteServices...)
		if err != nil {
			return err
		}
		// What could not be put in force is not stored: the next start would fail.
		if err := a.o.Check(desired); err != nil {
			return err
		}
		answer.Changes = answer.Changes[:0]
		for _, c := range plan {
			answer.Changes = append(answer.Changes, client.Change{Kind: c.Kind, Name: c.Name, Action: c.Action, Diff: c.Diff})
		}
		if dryRun {
			return nil
		}
		if err := config.Put(ctx, tx, wanted, plan); err != nil {
			return err
		}
		if config.FactsChange(plan) {
			// What is owed is a fact of decisions: those that stand are made again.
			if _, err := trust.RaiseEpoch(ctx, tx, "documents"); err != nil {
				return err
			}
		}
		for _, c := range plan {
			if c.Action == "unchanged" || c.Action == "unmanaged" {
				continue
			}
			kind := event.ConfigApplied
			if c.Kind == config.KindPolicy || c.Kind == config.KindVendor {
				kind = event.PolicyApplied
			}
			if err := event.Append(ctx, tx, event.Event{
				Kind: kind, Actor: identity.FromContext(ctx).Actor(), TraceID: event.TraceFrom(ctx),
				Body: map[string]string{"kind": c.Kind, "name": c.Name, "action": c.Action},
			}); err != nil {
				return err
			}
		}
		if also != nil {
			return also(tx)
		}
		return nil
	})
	if err != nil || dryRun {
		return answer, err
	}
	return answer, a.o.Reload(ctx)
}

func (a *API) logEntry(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadLog, identity.ResourceLog, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	index, err := strconv.ParseUint(r.PathValue("index"), 10, 63)
	if err != nil {
		a.fail(w, r, fault.Newf(fault.Invalid, "index %.40q: want a number from 0", r.PathValue("index")))
		return
	}
	ctx := r.Context()
	head, tree, err := a.o.Log(ctx)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if index >= head.Size {
		a.fail(w, r, fault.Newf(fault.NotFound, "the log has %d entries", head.Size))
		return
	}
	rs, err := tree.Records(ctx, index, index+1)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	leaf := rs[0].Leaf
	proof, err := tree.InclusionProof(ctx, index, head.Size)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	in := rekor.Inspect(tlog.Record{Index: index, Leaf: leaf})
	e := client.LogEntry{
		Index: index, Kind: in.Kind, Digest: in.Digest, Issuer: in.Issuer, Identity: in.Identity, Key: in.KeyFingerprint,
		TreeSize: head.Size, RootHash: hex.EncodeToString(head.Root[:]), LeafHash: in.LeafHash, Checkpoint: string(head.Note),
		Proof: []string{}, Body: leaf,
	}
	for _, h := range proof {
		e.Proof = append(e.Proof, hex.EncodeToString(h))
	}
	if !json.Valid(leaf) {
		e.Body = nil
	}
	WriteJSON(w, http.StatusOK, e)
}

func (a *API) events(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	f := event.Filter{Actor: q.Get("actor"), Limit: n}
	if k := event.Kind(q.Get("kind")); k != "" {
		if err := k.Validate(); err != nil {
			a.fail(w, r, err)
			return
		}
		f.Kinds = []event.Kind{k}
	}
	if d := q.Get("digest"); d != "" {
		if f.Digest, err = artifact.ParseDigest(d); err != nil {
			a.fail(w, r, err)
			return
		}
	}
	if after := q.Get("after"); after != "" {
		if f.AfterSeq, err = strconv.ParseInt(after, 10, 64); err != nil {
			a.fail(w, r, fault.Newf(fault.Invalid, "after %.40q: want a sequence number", after))
			return
		}
	}
	events, err := a.o.Events.Query(r.Context(), f)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[json.RawMessage]{Items: []json.RawMessage{}}
	for _, e := range events {
		b, err := json.Marshal(e)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		page.Items = append(page.Items, b)
	}
	if len(events) == n {
		page.Next = strconv.FormatInt(events[n-1].Seq, 10)
	}
	WriteJSON(w, http.StatusOK, page)
}
