package api

import (
	"compress/gzip"
	"context"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/builder/buildlog"
	"assay/client"
	"assay/config"
	"assay/evidence"
	"assay/identity"
	"assay/internal/fault"
)

func (a *API) buildLogRoutes() []Route {
	about := []Param{{"digest", "artifact: logs that name it, and those of the build that its verified provenance names"}, {"repository", "where its provenance lies"}, {"build", "the build's ID"}}
	return []Route{
		{Method: "POST", Path: "/api/v1/build-logs", Summary: "Add lines to the log of a build; known secrets are taken out", Action: identity.ActWriteEvidence,
			Query: []Param{{"build", "the build's ID, as the provenance's invocationId"}, {"repository", "whose log it is"}, {"digests", "artifacts that the build made, with commas between"}, {"stream", "stdout, stderr, …"}},
			In:    RawBytes{"text/plain"}, Out: client.BuildLog{}, Status: 201, handle: a.uploadBuildLog},
		{Method: "GET", Path: "/api/v1/build-logs", Summary: "Logs of builds, those that changed last first", Action: identity.ActReadEvidence,
			Query: append(about, Param{"after", "cursor"}, Param{"limit", "at most 1000"}), Out: client.List[client.BuildLog]{}, Status: 200, handle: a.buildLogs},
		{Method: "GET", Path: "/api/v1/build-logs/{id}", Summary: "One log, without its lines", Action: identity.ActReadEvidence, Out: client.BuildLog{}, Status: 200, handle: a.buildLog},
		{Method: "DELETE", Path: "/api/v1/build-logs", Summary: "Take a log away: it holds what it should not", Action: identity.ActOperate,
			Query: []Param{{"log", "log_…"}, {"reason", "for the audit trail"}}, Out: struct{}{}, Status: 200, handle: a.deleteBuildLog},
		{Method: "GET", Path: "/api/v1/build-logs/{id}/lines", Summary: "Lines of a log", Action: identity.ActReadEvidence,
			Query: []Param{{"after", "number of the line before"}, {"limit", "at most 1000"}}, Out: client.List[client.BuildLogLine]{}, Status: 200, handle: a.buildLogLines},
		{Method: "GET", Path: "/api/v1/build-log-lines", Summary: "Look for a text in logs of builds; reads at most 64 MiB at once and says where it stopped", Action: identity.ActReadEvidence,
			Query: append(about, Param{"log", "one log"}, Param{"text", "what to look for, without regard to case"}, Param{"after", "cursor"}, Param{"limit", "at most 1000"}),
			Out:   client.BuildLogFound{}, Status: 200, handle: a.searchBuildLogs},
		{Method: "GET", Path: "/api/v1/links", Summary: "Where other systems tell of a digest, a trace, a build, a commit", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "sha256:…"}, {"trace_id", "32 hex digits"}, {"build", "the build's ID"}, {"commit", "its hash"}, {"repository", "of the artifact"}, {"service", "that runs it"}},
			Out:   client.List[client.DeepLink]{}, Status: 200, handle: a.links},
	}
}

// uploader says who adds lines, once it is known that they may.
func (a *API) uploader(r *http.Request, t *buildlog.Target) error {
	if err := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, t.Repository); err != nil {
		return err
	}
	p := identity.FromContext(r.Context())
	t.Issuer, t.Subject, t.Actor = p.Issuer, p.Subject, p.Actor()
	return nil
}

func (a *API) uploadBuildLog(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	t := buildlog.Target{Build: q.Get("build"), Repository: q.Get("repository"), Source: "upload"}
	err := a.uploader(r, &t)
	if err == nil {
		err = wantMedia(r, "text/plain")
	}
	for _, text := range strings.Split(q.Get("digests"), ",") {
		if text != "" && err == nil {
			var d artifact.Digest
			d, err = artifact.ParseDigest(text)
			t.Digests = append(t.Digests, d)
		}
	}
	var b []byte
	if err == nil {
		b, err = body(w, r, buildlog.MaxAppend)
	}
	var l buildlog.Log
	if err == nil {
		l, err = a.o.BuildLogs.Append(r.Context(), t, buildlog.Split(b, q.Get("stream")))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, wireLog(&l, nil))
}

// madeBy is a build that verified provenance of an artifact names.
type madeBy struct{ attestation, issuer, subject string }

func wireLog(l *buildlog.Log, builds map[string]madeBy) client.BuildLog {
	out := client.BuildLog{
		ID: l.ID, Build: l.Build, Repository: l.Repository, Issuer: l.Issuer, Identity: l.Subject, Source: l.Source, Artifacts: append([]artifact.Digest{}, l.Digests...),
		CreatedAt: l.Created, ChangedAt: l.Changed, Lines: l.Lines, Bytes: l.Bytes, Dropped: l.Dropped, Redacted: l.Redacted,
	}
	if out.Identity == "" {
		out.Identity = l.Actor
	}
	if m, ok := builds[l.Build]; ok {
		out.Provenance, out.SameIdentity = m.attestation, m.subject != "" && m.issuer == l.Issuer && m.subject == l.Subject
	}
	return out
}

// maxProvenance is how much provenance of an artifact is looked at.
const maxProvenance = 5

// buildsOf are the builds that verified provenance says made an artifact, as far
// as the caller may read it.
func (a *API) buildsOf(r *http.Request, digest artifact.Digest, repository string) (map[string]madeBy, error) {
	out := map[string]madeBy{}
	if digest == "" {
		return out, nil
	}
	if a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, repository) != nil {
		return out, nil //nolint:nilerr // who may not read provenance is told of none
	}
	for _, predicate := range []string{attestation.PredicateProvenanceV1, attestation.PredicateProvenanceV02} {
		records, err := a.o.Evidence.List(r.Context(), evidence.Filter{Subject: digest, PredicateType: predicate, Repository: repository, Limit: maxProvenance})
		if err != nil {
			return nil, err
		}
		for i := range records {
			id, err := a.invocation(r.Context(), records[i].ID)
			if err != nil || id == "" {
				continue // it verified, and says nothing of a build
			}
			if _, have := out[id]; !have {
				out[id] = madeBy{records[i].ID, records[i].Signer.Issuer, records[i].Signer.Subject}
			}
		}
	}
	return out, nil
}

func (a *API) invocation(ctx context.Context, id string) (string, error) {
	raw, err := a.o.Evidence.Bundle(ctx, id)
	if err != nil {
		return "", err
	}
	b, err := attestation.ParseBundle(raw, attestation.DefaultLimits())
	if err != nil {
		return "", err
	}
	st, err := b.Statement()
	if err != nil {
		return "", err
	}
	p, err := attestation.ParseProvenance(st.PredicateType, st.Predicate)
	if err != nil {
		return "", err
	}
	return p.InvocationID, nil
}

// logFilter reads which logs are asked for, and the builds of the digest.
func (a *API) logFilter(r *http.Request) (f buildlog.Filter, builds map[string]madeBy, err error) {
	q := r.URL.Query()
	if d := q.Get("digest"); d != "" {
		if f.Digest, err = artifact.ParseDigest(d); err != nil {
			return f, nil, err
		}
	}
	if builds, err = a.buildsOf(r, f.Digest, q.Get("repository")); err != nil {
		return f, nil, err
	}
	for id := range builds {
		f.Builds = append(f.Builds, id)
	}
	if b := q.Get("build"); b != "" {
		f.Builds = append(f.Builds, b)
	}
	f.After = q.Get("after")
	f.Limit, err = limit(r)
	return f, builds, err
}

// mayRead says whether the caller may read a log: its repository says so.
func (a *API) mayRead(r *http.Request) func(*buildlog.Log) bool {
	known := map[string]bool{}
	return func(l *buildlog.Log) bool {
		ok, asked := known[l.Repository]
		if !asked {
			ok = a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, l.Repository) == nil
			known[l.Repository] = ok
		}
		return ok
	}
}

// readsLogs lets those in who may read evidence of the repository that they
// ask about, or of all: of what they ask for, they are shown what is theirs.
func (a *API) readsLogs(r *http.Request) error {
	return a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, r.URL.Query().Get("repository"))
}

func (a *API) buildLogs(w http.ResponseWriter, r *http.Request) {
	if err := a.readsLogs(r); err != nil {
		a.fail(w, r, err)
		return
	}
	f, builds, err := a.logFilter(r)
	var found []buildlog.Log
	out := client.List[client.BuildLog]{Items: []client.BuildLog{}}
	if err == nil {
		found, out.Next, err = a.o.BuildLogs.List(r.Context(), f)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	may := a.mayRead(r)
	for i := range found {
		if may(&found[i]) {
			out.Items = append(out.Items, wireLog(&found[i], builds))
		}
	}
	WriteJSON(w, http.StatusOK, out)
}

// logOf finds a log that the caller may read. Its repository says who may, once
// it is known that the caller may read anything at all.
func (a *API) logOf(r *http.Request) (buildlog.Log, error) {
	l, err := a.o.BuildLogs.Get(r.Context(), r.PathValue("id"))
	if aerr := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, l.Repository); aerr != nil {
		return l, aerr
	}
	return l, err
}

func (a *API) buildLog(w http.ResponseWriter, r *http.Request) {
	l, err := a.logOf(r)
	var builds map[string]madeBy
	if err == nil && len(l.Digests) > 0 {
		builds, err = a.buildsOf(r, l.Digests[0], l.Repository)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireLog(&l, builds))
}

func (a *API) deleteBuildLog(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActOperate, identity.ResourceRepository, "")
	if err == nil && r.URL.Query().Get("reason") == "" {
		err = fault.Newf(fault.Invalid, "want a reason, for the audit trail")
	}
	if err == nil {
		err = a.o.BuildLogs.Delete(r.Context(), r.URL.Query().Get("log"), identity.FromContext(r.Context()).Actor(), r.URL.Query().Get("reason"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, struct{}{})
}

func wireLine(n *buildlog.Numbered) client.BuildLogLine {
	out := client.BuildLogLine{Number: n.Number, Stream: n.Stream, Text: n.Text}
	if !n.Time.IsZero() {
		out.Time = &n.Time
	}
	return out
}

func (a *API) buildLogLines(w http.ResponseWriter, r *http.Request) {
	l, err := a.logOf(r)
	after := int64(0)
	if text := r.URL.Query().Get("after"); err == nil && text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			err = fault.Newf(fault.Invalid, "after %.20q: want a line's number", text)
		}
	}
	most := 0
	if err == nil {
		most, err = limit(r)
	}
	var lines []buildlog.Numbered
	more := false
	if err == nil {
		lines, more, err = a.o.BuildLogs.Lines(r.Context(), l.ID, after+1, most)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.BuildLogLine]{Items: []client.BuildLogLine{}}
	for i := range lines {
		out.Items = append(out.Items, wireLine(&lines[i]))
	}
	if more {
		out.Next = strconv.FormatInt(lines[len(lines)-1].Number, 10)
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) searchBuildLogs(w http.ResponseWriter, r *http.Request) {
	if err := a.readsLogs(r); err != nil {
		a.fail(w, r, err)
		return
	}
	f, _, err := a.logFilter(r)
	var found buildlog.Found
	if err == nil {
		q := r.URL.Query()
		found, err = a.o.BuildLogs.Search(r.Context(), buildlog.Query{
			Text: q.Get("text"), Digest: f.Digest, Builds: f.Builds, Log: q.Get("log"), May: a.mayRead(r), After: f.After, Limit: f.Limit,
		})
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.BuildLogFound{Items: []client.BuildLogLine{}, Next: found.Next, Searched: found.Searched}
	for i := range found.Hits {
		l := wireLine(&found.Hits[i].Numbered)
		l.Log, l.Build = found.Hits[i].Log, found.Hits[i].Build
		out.Items = append(out.Items, l)
	}
	WriteJSON(w, http.StatusOK, out)
}

// The media types of OTLP over HTTP.
const (
	otlpProto = "application/x-protobuf"
	otlpJSON  = "application/json"
)

// ServeOTLP takes logs of builds and their machines by OTLP over HTTP: POST
// /v1/logs, where collectors send them.
func (a *API) ServeOTLP(w http.ResponseWriter, r *http.Request) {
	harden(w)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		a.problem(w, r, http.StatusMethodNotAllowed, fault.Newf(fault.Invalid, "want POST with an OTLP ExportLogsServiceRequest"))
		return
	}
	p, err := a.Principal(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	r = r.WithContext(identity.WithPrincipal(r.Context(), p))
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media != otlpProto && media != otlpJSON {
		a.problem(w, r, http.StatusUnsupportedMediaType, fault.Newf(fault.Invalid, "Content-Type %.80q: want %s or %s", r.Header.Get("Content-Type"), otlpProto, otlpJSON))
		return
	}
	if p.IsAnonymous() {
		a.fail(w, r, a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, ""))
		return
	}
	b, err := otlpBody(w, r)
	var parsed buildlog.Parsed
	if err == nil {
		parsed, err = buildlog.ParseOTLP(b, media == otlpJSON)
	}
	if err == nil {
		err = a.takeParts(r, &parsed)
	}
	var answer []byte
	if err == nil {
		answer, err = parsed.Answer(media == otlpJSON)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", media)
	_, _ = w.Write(answer)
}

// takeParts stores what the caller may write; the rest is rejected. All of it
// refused is an error.
func (a *API) takeParts(r *http.Request, parsed *buildlog.Parsed) error {
	var refused error
	taken := 0
	for i := range parsed.Parts {
		part := &parsed.Parts[i]
		if err := a.uploader(r, &part.Target); err != nil {
			refused = err
			parsed.Rejected += int64(len(part.Lines))
			if parsed.Reason == "" {
				parsed.Reason = err.Error()
			}
			continue
		}
		if _, err := a.o.BuildLogs.Append(r.Context(), part.Target, part.Lines); err != nil {
			return err
		}
		taken++
	}
	if taken == 0 {
		return refused
	}
	return nil
}

// otlpBody reads a body, plain or compressed, up to the bound.
func otlpBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
		return body(w, r, buildlog.MaxAppend)
	case "gzip":
	default:
		return nil, fault.Newf(fault.Invalid, "Content-Encoding %.40q: want gzip or none", enc)
	}
	z, err := gzip.NewReader(http.MaxBytesReader(w, r.Body, buildlog.MaxAppend))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the body is not gzip: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(z, buildlog.MaxAppend+1))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the body is not gzip: %w", err)
	}
	if len(b) > buildlog.MaxAppend {
		return nil, fault.Newf(fault.TooLarge, "the request is larger than %d bytes", buildlog.MaxAppend)
	}
	return b, nil
}

// links leads elsewhere; it tells nothing but the site's own templates with what
// the caller said, to those who may read evidence.
func (a *API) links(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository")); err != nil {
		a.fail(w, r, err)
		return
	}
	v := config.LinkValues{Digest: q.Get("digest"), TraceID: q.Get("trace_id"), BuildID: q.Get("build"), Commit: q.Get("commit"), Repository: q.Get("repository"), Service: q.Get("service")}
	for _, text := range []string{v.Digest, v.TraceID, v.BuildID, v.Commit, v.Repository, v.Service} {
		if len(text) > 300 {
			a.fail(w, r, fault.Newf(fault.TooLarge, "a value of %d bytes: want at most 300", len(text)))
			return
		}
	}
	out := client.List[client.DeepLink]{Items: []client.DeepLink{}}
	for _, of := range []string{config.LinkDigest, config.LinkTrace, config.LinkBuild, config.LinkCommit} {
		for _, l := range config.DeepLinks(a.o.Links, of, v) {
			out.Items = append(out.Items, client.DeepLink(l))
		}
	}
	WriteJSON(w, http.StatusOK, out)
}
