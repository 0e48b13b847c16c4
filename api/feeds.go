package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/vuln/canary"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/feed/upstream"
	"assay/vuln/finding"
	"assay/vuln/tier"
	"assay/vuln/vex"
)

// Vulnerabilities is what the API asks about advisories.
type Vulnerabilities struct {
	Feeds    *feed.Store
	Exploits *exploit.Store
	Findings *finding.Matcher
	// Statements are what the site says about flaws of its artifacts.
	Statements *vex.Store
	// Upstreams are where feeds are fetched, Canaries what must be found.
	Upstreams *upstream.Upstreams
	Canaries  *canary.Canaries
	MaxAge    time.Duration // of a feed, before it is stale
	Tiers     tier.Rules
	Temp      string // folder for archives on their way in
}

// maxFeed is the largest archive that is taken in, in bytes: some four times the
// largest of the public ones.
const maxFeed = 4 << 30

const (
	zipType   = "application/zip"
	octetType = "application/octet-stream"
)

func (a *API) feedRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/feeds", Summary: "Advisory feeds, how old they are, and why one could not be renewed", Action: identity.ActReadEvidence, Out: client.List[client.Feed]{}, Status: 200, handle: a.feeds},
		{Method: "GET", Path: "/api/v1/feeds/operations", Summary: "Imports of a feed, newest first; refused ones with the reason", Action: identity.ActReadEvidence,
			Query: []Param{{"name", "of the feed"}, {"ecosystem", "of its records; empty: all"}}, Out: client.List[client.FeedOperation]{}, Status: 200, handle: a.feedOperations},
		{Method: "POST", Path: "/api/v1/feeds", Summary: "Import a zip of OSV records: it comes into force whole, or not at all", Action: identity.ActOperate,
			Query: []Param{{"name", "of the feed"}, {"ecosystem", "of its records; empty: several"}, {"downgrade", "why an archive is taken all the same that is older, or has lost many records: for administrators"}},
			In:    RawBytes{zipType}, Out: client.FeedOperation{}, Status: 200, handle: a.importFeed},
		{Method: "POST", Path: "/api/v1/exploits", Summary: "Take in CISA's catalog of known exploited vulnerabilities (JSON), or EPSS scores (CSV, also under gzip)", Action: identity.ActOperate,
			Query: []Param{{"downgrade", "why a list is taken all the same that is older, or has lost many records: for administrators"}}, In: RawBytes{octetType}, Out: client.ExploitList{}, Status: 200, handle: a.importExploits},
		{Method: "GET", Path: "/api/v1/exploits", Summary: "The lists of exploited flaws in force", Action: identity.ActReadEvidence, Out: client.List[client.ExploitList]{}, Status: 200, handle: a.exploits},
		{Method: "GET", Path: "/api/v1/findings", Summary: "What advisories say about an artifact's components, and what is not known", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "subject, sha256:…"}, {"repository", "by whose grants it is read"}, {"at", "as it stood at this time, RFC 3339"}}, Out: client.Findings{}, Status: 200, handle: a.findings},
		{Method: "POST", Path: "/api/v1/scan", Summary: "What advisories say about components that are not stored; nothing is kept of the question", Action: identity.ActReadEvidence,
			In: client.ScanRequest{}, Out: client.Findings{}, Status: 200, handle: a.scan},
		{Method: "GET", Path: "/api/v1/advisories/{id}", Summary: "The advisories in force about a flaw, by any of its names", Action: identity.ActReadEvidence, Out: client.List[client.AdvisoryRecord]{}, Status: 200, handle: a.advisory},
		{Method: "GET", Path: "/api/v1/vulnerabilities/{id}/artifacts", Summary: "Artifacts that hold what an advisory affects, by any of its names", Action: identity.ActReadEvidence,
			Query: []Param{{"limit", "at most 1000"}}, Out: client.List[client.AffectedSubject]{}, Status: 200, handle: a.affected},
	}
}

func (a *API) feeds(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var all []feed.Source
	if err == nil {
		all, err = a.o.Vulnerabilities.Feeds.Sources(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Feed]{Items: []client.Feed{}}
	for _, s := range all {
		out.Items = append(out.Items, WireFeed(s, a.o.Clock(), a.o.Vulnerabilities.MaxAge))
	}
	WriteJSON(w, http.StatusOK, out)
}

// WireFeed is a feed as it is told at a time.
func WireFeed(s feed.Source, now time.Time, maxAge time.Duration) client.Feed {
	return client.Feed{Name: s.Name, Ecosystem: s.Ecosystem, Operation: s.Operation, Records: s.Records,
		Checked: known(s.Checked), Changed: known(s.Changed), Archive: s.Archive, Problem: s.Problem, Blocked: s.Blocked,
		Stale: s.Operation != 0 && (s.Blocked != "" || now.Sub(s.Checked) > maxAge)}
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (a *API) feedOperations(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	q := r.URL.Query()
	var all []feed.Operation
	if err == nil {
		all, err = a.o.Vulnerabilities.Feeds.Operations(r.Context(), q.Get("name"), q.Get("ecosystem"), 100)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.FeedOperation]{Items: []client.FeedOperation{}}
	for _, o := range all {
		out.Items = append(out.Items, WireOperation(o))
	}
	WriteJSON(w, http.StatusOK, out)
}

// WireOperation is an import as it is told.
func WireOperation(o feed.Operation) client.FeedOperation {
	return client.FeedOperation{ID: o.ID, Name: o.Name, Ecosystem: o.Ecosystem, State: o.State, Started: known(o.Started), Finished: known(o.Finished),
		Added: o.Added, Changed: o.Changed, Withdrawn: o.Withdrawn, Removed: o.Removed, Unchanged: o.Unchanged, Skipped: o.Skipped, Archive: o.Archive, Problem: o.Problem, Reason: o.Reason}
}

func (a *API) importFeed(w http.ResponseWriter, r *http.Request) {
	downgrade, err := a.downgrade(r)
	if err == nil {
		err = wantMedia(r, zipType)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	in, _ := unhurried(w, r)
	q := r.URL.Query()
	op, err := a.bring(r.Context(), in, feed.Options{Name: q.Get("name"), Ecosystem: q.Get("ecosystem"), Actor: identity.FromContext(r.Context()).Actor(), AllowDowngrade: downgrade != "", Reason: downgrade})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, WireOperation(op))
}

// downgrade is why a feed may go back, which only an administrator may say.
func (a *API) downgrade(r *http.Request) (string, error) {
	why := strings.TrimSpace(r.URL.Query().Get("downgrade"))
	if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil || why == "" {
		return "", err
	}
	return why, a.allow(r, identity.ActAdmin, identity.ResourceConfig, "")
}

// bring imports an archive that comes as a stream: a zip is read from its end, so
// it is kept in a file while that lasts.
func (a *API) bring(ctx context.Context, in io.Reader, o feed.Options) (op feed.Operation, err error) {
	f, err := os.CreateTemp(a.o.Vulnerabilities.Temp, "feed-*.zip")
	if err != nil {
		return op, err
	}
	defer os.Remove(f.Name())
	n, err := io.Copy(f, io.LimitReader(in, maxFeed+1))
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return op, err
	}
	if n > maxFeed {
		return op, fault.Newf(fault.TooLarge, "an archive of more than %d bytes", maxFeed)
	}
	archive, err := feed.OpenZip(f.Name())
	if err != nil {
		return op, err
	}
	defer archive.Close()
	return a.o.Vulnerabilities.Feeds.Import(ctx, archive, o)
}

func (a *API) findings(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository"))
	var subject artifact.Digest
	if err == nil {
		subject, err = artifact.ParseDigest(q.Get("digest"))
	}
	if err == nil {
		err = a.readable(r, q.Get("repository"), subject)
	}
	var all []finding.Finding
	var st finding.State
	now := a.o.Vulnerabilities.Findings.Now()
	switch at := q.Get("at"); {
	case err != nil:
	case at == "":
		all, st, err = a.o.Vulnerabilities.OfSubject(r.Context(), subject, q.Get("repository"))
	default:
		if now, err = time.Parse(time.RFC3339, at); err != nil {
			err = fault.Newf(fault.Invalid, "at=%.40q: want a time as 2026-03-01T00:00:00Z", at)
			break
		}
		all, st, err = a.o.Vulnerabilities.Then(r.Context(), subject, now)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := WireFindings(subject, all, st)
	for i := range out.Items {
		out.Items[i].Expose(now)
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireCoverage(st finding.State) client.FindingCoverage {
	return client.FindingCoverage{SBOM: st.SBOM, Scanned: st.Scanned, Components: st.Components, Unmatched: st.Unmatched, ReleaseMissing: st.ReleaseMissing, Unnamed: st.Unnamed,
		Incomplete: st.Incomplete, FeedsMissing: st.FeedsMissing, FeedsStale: st.FeedsStale, KEV: st.KEV, EPSS: st.EPSS}
}

// WireFindings is an answer about an artifact, or about components alone.
func WireFindings(subject artifact.Digest, all []finding.Finding, st finding.State) client.Findings {
	out := client.Findings{Subject: subject, Items: []client.Finding{}, Coverage: wireCoverage(st)}
	for _, f := range all {
		one := client.Finding{Name: f.Name, Component: f.Component, Version: f.Version, Status: f.Status, Reason: f.Reason, Severity: f.Severity, Score: f.Score, Fixed: f.Fixed,
			Direct: f.Direct, Via: f.Via, Path: f.Path, FirstSeen: f.FirstSeen, Summary: f.Summary, Malicious: f.Malicious, KEV: f.KEV, EPSS: f.EPSS}
		if s := f.Stated; s != nil {
			one.Statement = &client.FindingStatement{ID: s.ID, Author: s.Author, Status: string(s.Status), Justification: s.Justification, Impact: s.Impact, Until: s.Until}
			if s.Status != vex.Affected {
				one.Status = string(s.Status)
			}
		}
		for _, s := range f.Records {
			one.Records = append(one.Records, client.FindingRecord(s))
		}
		out.Items = append(out.Items, one)
	}
	return out
}

const (
	maxScan           = 32 << 20
	maxScanComponents = 300_000
)

func (a *API) scan(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.Findings, err error) {
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		b, err := body(w, r, maxScan)
		if err != nil {
			return out, err
		}
		var q client.ScanRequest
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
			return out, fault.Newf(fault.Invalid, "request: %w", err)
		}
		if len(q.Components) > maxScanComponents {
			return out, fault.Newf(fault.TooLarge, "%d components: at most %d", len(q.Components), maxScanComponents)
		}
		list := make([]finding.Component, len(q.Components))
		for i, c := range q.Components {
			list[i] = finding.Component(c)
		}
		book, err := a.o.Vulnerabilities.Exploits.Book(r.Context())
		if err != nil {
			return out, err
		}
		all, st, err := finding.Judge(r.Context(), a.o.Vulnerabilities.Feeds, book, list, q.Incomplete, a.o.Clock(), a.o.Vulnerabilities.MaxAge)
		if err != nil {
			return out, err
		}
		err = a.o.Vulnerabilities.State(r.Context(), all, vex.Subject{Repository: q.Repository})
		return WireFindings("", all, st), err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

// affected searches all artifacts, so that it is for those who may read all
// evidence.
func (a *API) advisory(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.List[client.AdvisoryRecord], err error) {
		out.Items = []client.AdvisoryRecord{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		id := r.PathValue("id")
		records, err := a.o.Vulnerabilities.Feeds.ByAlias(r.Context(), id)
		if err == nil && len(records) == 0 {
			err = fault.Newf(fault.NotFound, "no feed in force knows of %.80q", id)
		}
		if err != nil {
			return out, err
		}
		for _, one := range records {
			b, err := json.Marshal(one.Advisory)
			if err != nil {
				return out, err
			}
			out.Items = append(out.Items, client.AdvisoryRecord{Feed: one.Name, Ecosystem: one.Ecosystem, Record: b})
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) affected(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	most := 0
	if err == nil {
		most, err = limit(r)
	}
	if most == 0 {
		most = 100
	}
	var all []finding.Affected
	if err == nil {
		all, err = a.o.Vulnerabilities.Findings.ByAdvisory(r.Context(), r.PathValue("id"), most)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.AffectedSubject]{Items: []client.AffectedSubject{}}
	for _, f := range all {
		out.Items = append(out.Items, client.AffectedSubject{Subject: f.Subject, Component: f.Component, Status: f.Status, Fixed: f.Fixed, Direct: f.Direct, Record: f.Advisory, Name: f.Name})
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) importExploits(w http.ResponseWriter, r *http.Request) {
	out, err := func() (l exploit.List, err error) {
		downgrade, err := a.downgrade(r)
		if err == nil {
			err = wantMedia(r, octetType)
		}
		if err != nil {
			return l, err
		}
		return a.o.Vulnerabilities.Exploits.Import(r.Context(), r.Body, identity.FromContext(r.Context()).Actor(), downgrade)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, WireExploits(out))
}

// WireExploits is a list as it is told.
func WireExploits(l exploit.List) client.ExploitList {
	return client.ExploitList{Name: l.Name, Dated: l.Dated, Records: l.Records, Digest: l.Digest, Checked: l.Checked, Same: l.Same}
}

func (a *API) exploits(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var all []exploit.List
	if err == nil {
		all, err = a.o.Vulnerabilities.Exploits.Lists(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.ExploitList]{Items: []client.ExploitList{}}
	for _, l := range all {
		one := WireExploits(l)
		one.Stale = a.o.Clock().Sub(l.Checked) > a.o.Vulnerabilities.MaxAge
		out.Items = append(out.Items, one)
	}
	WriteJSON(w, http.StatusOK, out)
}
