package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/audit"
	"assay/client"
	"assay/event"
	"assay/identity"
	"assay/identity/credential"
	"assay/internal/fault"
	"assay/registry/gate"
	"assay/store"
	"assay/tlog"
	"assay/tlog/rekor"
)

// auditRoutes are the routes of the audit trail: events of the classes audit and
// alert.
func (a *API) auditRoutes() []Route {
	filter := []Param{
		{"identity", "a name, or issuer#name"}, {"repository", "concerned"}, {"digest", "concerned"}, {"kind", "of event"},
		{"since", "RFC 3339"}, {"until", "RFC 3339, not included"},
	}
	page := []Param{{"after", "cursor"}, {"limit", "at most 1000"}}
	return []Route{
		{Method: "GET", Path: "/api/v1/audit", Summary: "Who did or tried what, oldest first", Action: identity.ActReadAudit,
			Query: append(append([]Param{{"newest", "true: newest first"}}, filter...), page...), Out: client.List[client.AuditRecord]{}, Status: 200, handle: a.audit},
		{Method: "GET", Path: "/api/v1/audit/export", Summary: "The audit trail with proofs, as lines of an export", Action: identity.ActReadAudit,
			Query: append([]Param{{"after", "cursor"}}, filter...), Out: client.List[json.RawMessage]{}, Status: 200, handle: a.auditExport},
		{Method: "GET", Path: "/api/v1/audit/unauthorized", Summary: "Served pulls whose right proved invalid later", Action: identity.ActReadAudit,
			Query: append([]Param{{"denied", "true: refused attempts of the revoked instead"}, {"since", "RFC 3339"}, {"until", "RFC 3339"}}, page...),
			Out:   client.List[client.UnauthorizedPull]{}, Status: 200, handle: a.unauthorized},
	}
}

var auditClasses = []event.Class{event.Audit, event.Alert, event.Page}

// auditFilter reads the filter of a request, and gives it as text for exports.
func auditFilter(q url.Values) (f event.Filter, text map[string]string, err error) {
	text = map[string]string{}
	for _, name := range []string{"identity", "repository", "digest", "kind", "since", "until"} {
		if v := q.Get(name); v != "" {
			text[name] = v
		}
	}
	f.Classes, f.Repository = auditClasses, q.Get("repository")
	if f.Repository != "" && !artifact.ValidRepository(f.Repository) {
		return f, nil, fault.Newf(fault.Invalid, "repository %.80q is not of the OCI grammar", f.Repository)
	}
	if who := q.Get("identity"); strings.Contains(who, "#") || strings.HasPrefix(who, "system:") || who == "anonymous" {
		f.Actor = who
	} else {
		f.Name = who
	}
	if d := q.Get("digest"); d != "" {
		if f.Digest, err = artifact.ParseDigest(d); err != nil {
			return f, nil, err
		}
	}
	if k := event.Kind(q.Get("kind")); k != "" {
		if err := k.Validate(); err != nil {
			return f, nil, err
		}
		f.Kinds = []event.Kind{k}
	}
	if f.From, err = instant(q, "since"); err != nil {
		return f, nil, err
	}
	f.To, err = instant(q, "until")
	return f, text, err
}

func instant(q url.Values, name string) (time.Time, error) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 1970 || t.Year() > 9998 {
		return t, fault.Newf(fault.Invalid, "%s %.40q: want a time as of RFC 3339, for example 2026-05-01T12:00:00Z", name, text)
	}
	return t, nil
}

// numberCursor reads a cursor that is a number.
func numberCursor(list string, q url.Values) (int64, error) {
	text, err := readCursor(list, q.Get("after"))
	if err != nil || text == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fault.Newf(fault.Invalid, "after: want the cursor that the page before gave as next")
	}
	return n, nil
}

// settle is how long a question waits for what was done right before it.
const settle = 500 * time.Millisecond

func record(e event.Event) client.AuditRecord {
	body, _ := e.Body.(json.RawMessage)
	return client.AuditRecord{
		Seq: e.Seq, ID: e.ID, Time: e.Time, Kind: string(e.Kind), Digest: e.Digest, Actor: e.Actor, Team: e.Team, Service: e.Service,
		Env: e.Env, Cluster: e.Cluster, TraceID: e.TraceID, Body: body,
	}
}

func (a *API) audit(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	f, _, err := auditFilter(q)
	if err == nil {
		f.Limit, err = limit(r)
	}
	if err == nil {
		f.Newest, err = flag(r, "newest")
	}
	if err == nil {
		f.AfterSeq, err = numberCursor("audit", q)
	}
	if err == nil && f.AfterSeq == 0 {
		err = a.o.Events.Settle(r.Context(), settle)
	}
	var events []event.Event
	if err == nil {
		events, err = a.o.Events.Query(r.Context(), f)
	}
	page := client.List[client.AuditRecord]{Items: []client.AuditRecord{}}
	for _, e := range events {
		page.Items = append(page.Items, record(e))
	}
	if len(events) > 0 && len(events) == f.Limit {
		page.Next = writeCursor("audit", strconv.FormatInt(events[len(events)-1].Seq, 10))
	}
	a.answer(w, r, http.StatusOK, page, err)
}

// The size of a page of an export.
const (
	exportBatches = 500
	exportEvents  = 2000
)

// exportState is where an export stands; it goes along in the cursor.
type exportState struct {
	first, last, after int64 // batches: of the whole, and the last one given
	events, heads      int64 // given so far
}

func (s exportState) cursor() string {
	return writeCursor("export", fmt.Sprintf("%d %d %d %d %d", s.first, s.last, s.after, s.events, s.heads))
}

func readExportState(cursor string) (s exportState, err error) {
	text, err := readCursor("export", cursor)
	if err != nil {
		return s, err
	}
	parts := strings.Split(text, " ")
	into := []*int64{&s.first, &s.last, &s.after, &s.events, &s.heads}
	for i := range into {
		if len(parts) != len(into) {
			err = fault.Invalid
		} else if *into[i], err = strconv.ParseInt(parts[i], 10, 64); err == nil && *into[i] < 0 {
			err = fault.Invalid
		}
		if err != nil {
			return s, fault.Newf(fault.Invalid, "after: want the cursor that the page before gave as next")
		}
	}
	return s, nil
}

func (a *API) auditExport(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	page, err := a.exportPage(r.Context(), r.URL.Query())
	a.answer(w, r, http.StatusOK, page, err)
}

// exportPage makes the lines of one page; the last one has no Next.
func (a *API) exportPage(ctx context.Context, q url.Values) (*client.List[json.RawMessage], error) {
	f, text, err := auditFilter(q)
	if err != nil {
		return nil, err
	}
	narrowed := len(text) > 0
	if !narrowed {
		f.Classes = nil // all of the chain: only so can it be said that nothing is missing
	}
	page := &client.List[json.RawMessage]{Items: []json.RawMessage{}}
	head, tree, err := a.o.Log(ctx)
	if err != nil {
		return nil, err
	}
	var state exportState
	add := func(v any) error {
		b, err := audit.AppendLine(nil, v)
		page.Items = append(page.Items, json.RawMessage(b[:max(len(b)-1, 0)]))
		return err
	}
	if cursor := q.Get("after"); cursor != "" {
		if state, err = readExportState(cursor); err != nil {
			return nil, err
		}
	} else {
		if err := a.o.Events.Settle(ctx, settle); err != nil {
			return nil, err
		}
		if state.first, state.last, err = a.o.Events.Span(ctx, f.From, f.To); err != nil {
			return nil, err
		}
		state.after = state.first - 1
		if err := add(audit.Header{
			Format: audit.Format, Origin: head.Origin, Created: a.o.Clock().UTC(), First: state.first, Last: state.last, Complete: !narrowed, Filter: text,
		}); err != nil {
			return nil, err
		}
	}
	sealed, err := a.o.Events.Export(ctx, f, state.after, state.last, exportBatches, exportEvents)
	if err != nil {
		return nil, err
	}
	for _, s := range sealed {
		if err := addSealed(ctx, s, head, tree, add); err != nil {
			return nil, err
		}
		state.after = s.Head.Batch
		state.heads++
		state.events += int64(len(s.Events))
	}
	if state.after < state.last && len(sealed) > 0 {
		page.Next = state.cursor()
		return page, nil
	}
	return page, add(audit.End{Events: state.events, Heads: state.heads, Last: state.after})
}

// addSealed writes one batch: its head, its events, its place in the log.
func addSealed(ctx context.Context, s event.Sealed, head tlog.Checkpoint, tree *tlog.Tree, add func(any) error) error {
	if err := add(s.Head); err != nil {
		return err
	}
	for _, p := range s.Events {
		leaf, err := p.Event.Leaf()
		if err != nil {
			return err
		}
		if p.Proof == nil {
			p.Proof = []event.Hash{}
		}
		if err := add(audit.Line{Event: leaf, Index: p.Index, Proof: p.Proof}); err != nil {
			return err
		}
	}
	if s.LogIndex < 0 || uint64(s.LogIndex) >= head.Size {
		return nil
	}
	logged, err := logged(ctx, s, head, tree)
	if err != nil || logged == nil {
		return err
	}
	return add(*logged)
}

// logged proves that a head stands in the log; nil for one that was settled by
// a later head's entry.
func logged(ctx context.Context, s event.Sealed, head tlog.Checkpoint, tree *tlog.Tree) (*audit.Logged, error) {
	index := uint64(s.LogIndex)
	rs, err := tree.Records(ctx, index, index+1)
	if err != nil {
		return nil, err
	}
	leaf := rs[0].Leaf
	if in := rekor.Inspect(tlog.Record{Index: index, Leaf: leaf}); in.Digest != "sha256:"+hex.EncodeToString(s.Head.Hash[:]) {
		return nil, nil
	}
	proof, err := tree.InclusionProof(ctx, index, head.Size)
	if err != nil {
		return nil, err
	}
	l := &audit.Logged{Index: index, Body: leaf, Checkpoint: string(head.Note), Proof: make([]event.Hash, len(proof))}
	for i, h := range proof {
		copy(l.Proof[i][:], h)
	}
	return l, nil
}

// scanPulls bounds how many records one page of unauthorized looks at.
const scanPulls = 20_000

// unauthorized lists pulls that fall under a revocation: of credentials, from
// the site's own; of digests, from the list of what is trusted no more.
func (a *API) unauthorized(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	page, err := a.unauthorizedPage(r)
	a.answer(w, r, http.StatusOK, page, err)
}

func (a *API) unauthorizedPage(r *http.Request) (*client.List[client.UnauthorizedPull], error) {
	ctx, q := r.Context(), r.URL.Query()
	n, err := limit(r)
	if err != nil {
		return nil, err
	}
	denied, err := flag(r, "denied")
	if err != nil {
		return nil, err
	}
	f := event.Filter{Kinds: []event.Kind{event.ArtifactPulled, event.BlobRead}, Limit: 1000}
	if denied {
		f.Kinds = []event.Kind{event.ArtifactDenied, event.LoginFailed}
	}
	if f.From, err = instant(q, "since"); err != nil {
		return nil, err
	}
	if f.To, err = instant(q, "until"); err != nil {
		return nil, err
	}
	if f.AfterSeq, err = numberCursor("unauthorized", q); err != nil {
		return nil, err
	}
	if f.AfterSeq == 0 {
		if err := a.o.Events.Settle(ctx, settle); err != nil {
			return nil, err
		}
	}
	rights, earliest, err := a.withdrawn(ctx)
	page := &client.List[client.UnauthorizedPull]{Items: []client.UnauthorizedPull{}}
	if err != nil || len(rights) == 0 {
		return page, err
	}
	if earliest.After(f.From) {
		f.From = earliest
	}
	for scanned := 0; scanned < scanPulls; {
		events, err := a.o.Events.Query(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			f.AfterSeq = e.Seq
			scanned++
			if u, ok := rights.match(e, denied); ok {
				page.Items = append(page.Items, u)
			}
			if len(page.Items) == n {
				page.Next = writeCursor("unauthorized", strconv.FormatInt(f.AfterSeq, 10))
				return page, nil
			}
		}
		if len(events) < f.Limit {
			return page, nil
		}
	}
	page.Next = writeCursor("unauthorized", strconv.FormatInt(f.AfterSeq, 10))
	return page, nil
}

// rights are those that were withdrawn.
type rights []withdrawn

type withdrawn struct {
	credential *credential.Revocation
	digest     artifact.Digest
	name       string
	since, at  time.Time
	reason     string
}

func (a *API) withdrawn(ctx context.Context) (all rights, earliest time.Time, err error) {
	add := func(w withdrawn) {
		all = append(all, w)
		if earliest.IsZero() || w.since.Before(earliest) {
			earliest = w.since
		}
	}
	for after := ""; ; {
		list, err := a.o.Credentials.Revocations(ctx, after, maxPage)
		if err != nil {
			return nil, earliest, err
		}
		for i := range list {
			add(withdrawn{credential: &list[i], name: list[i].ID, since: list[i].Since, at: list[i].At, reason: list[i].Reason})
		}
		if len(list) < maxPage {
			break
		}
		after = list[len(list)-1].ID
	}
	if a.o.Revocations == nil {
		return all, earliest, nil
	}
	list, err := a.o.Revocations.List(ctx)
	if err != nil {
		return nil, earliest, err
	}
	for _, e := range list.Entries {
		if e.Digest == "" {
			continue
		}
		w := withdrawn{digest: e.Digest, name: "list: artifact " + string(e.Digest), since: e.InvalidSince, reason: e.Reason}
		if e.Created != nil {
			w.at = *e.Created
		}
		add(w)
		parts, err := a.parts(ctx, e.Digest) // a part may be pulled by itself
		if err != nil {
			return nil, earliest, err
		}
		for _, d := range parts {
			w.digest = d
			add(w)
		}
	}
	return all, earliest, nil
}

func (a *API) parts(ctx context.Context, d artifact.Digest) (out []artifact.Digest, err error) {
	err = a.o.DB.View(ctx, func(tx *store.Tx) error {
		out, err = gate.Parts(ctx, tx, d)
		return err
	})
	return out, err
}

// match finds what withdrew the right to a pull. Of a digest every pull since
// then is one; of a credential those before it was revoked, since none was
// served after. Refused attempts are those after, too.
func (all rights) match(e event.Event, denied bool) (client.UnauthorizedPull, bool) {
	var body struct {
		Credential string `json:"credential"`
	}
	_ = e.Decode(&body) // a body without one has none
	for _, w := range all {
		hit := false
		switch {
		case w.digest != "":
			hit = e.Digest == w.digest && !e.Time.Before(w.since)
		case denied:
			open := *w.credential
			open.At = e.Time
			hit = open.Matches(e.Actor, body.Credential, e.Time)
		default:
			hit = w.credential.Matches(e.Actor, body.Credential, e.Time)
		}
		if hit {
			return client.UnauthorizedPull{Pull: record(e), Revocation: w.name, Since: w.since.UTC(), Revoked: w.at.UTC(), Reason: w.reason}, true
		}
	}
	return client.UnauthorizedPull{}, false
}
