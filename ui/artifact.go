package ui

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry/gate"
	"assay/verify"
)

// subject is what is known of an artifact while its page is made.
type subject struct {
	*visit
	digest     artifact.Digest
	repository string
	places     []client.ArtifactPlace
	status     *gate.ManifestStatus
	statusErr  error
	evidence   []client.Evidence
	evidenceEr error
	more       bool // evidence that is not listed
	provenance *attestation.Provenance
	provID     string
	sboms      []client.SBOM
	sbomErr    error
	findings   *client.Findings
	findErr    error
	running    []client.Workload
	runErr     error
	builds     []client.RunnerBuild
	buildErr   error
	decisions  []verify.Decision
	decideErr  error
}

// artifactPage is all that is known of an artifact, on one page.
func artifactPage(c *visit) (*Page, error) {
	d, err := artifact.ParseDigest(c.r.PathValue("digest"))
	if err != nil {
		return nil, err
	}
	s := &subject{visit: c, digest: d, repository: c.query("repository")}
	if err := s.load(); err != nil {
		return nil, err
	}
	p := &Page{Title: short(string(d)), Here: "Artifacts", Crumbs: []Link{{"Artifacts", local("artifacts")}}, Live: true, State: s.verdict()}
	if s.repository != "" {
		p.Title = s.repository
		if tag := c.query("tag"); tag != "" {
			p.Title += ":" + tag
		}
		p.Crumbs = append(p.Crumbs, Link{s.repository, local("registry/" + s.repository)})
	}
	p.Sections = append(p.Sections, s.line(), s.facts())
	p.Sections = append(p.Sections, s.trail()...)
	p.Sections = append(p.Sections, s.evidenceTable(), s.provenanceFacts(), s.sbomTable(), s.componentSearch(), s.findingsTable(), s.runnerTable(), s.buildLogs(), s.logTable(), s.history(), s.workloads())
	if c.may(identity.ActReadAudit) {
		p.Sections = append(p.Sections, s.pulls(), s.events())
	}
	return p, s.raw(p)
}

// load asks for everything. What may not be seen, or cannot be read, is unknown in
// its place; that the artifact itself may not be seen is an error.
func (s *subject) load() error {
	var places client.List[client.ArtifactPlace]
	if err := s.get(&places, "registry/places", "digest", string(s.digest)); err != nil {
		return err
	}
	s.places = places.Items
	if s.repository == "" && len(s.places) > 0 {
		s.repository = s.places[0].Repository
	}
	if s.repository != "" {
		var st gate.ManifestStatus
		if s.statusErr = s.get(&st, "registry/status", "repository", s.repository, "reference", string(s.digest)); s.statusErr == nil {
			s.status = &st
		}
	}
	var evidence client.List[client.Evidence]
	s.evidenceEr = s.get(&evidence, "evidence", "digest", string(s.digest), "repository", s.repository, "limit", "200")
	if s.evidenceEr == nil && len(evidence.Items) == 0 && s.repository != "" {
		// Evidence may have come by another door than the repository.
		if err := s.get(&evidence, "evidence", "digest", string(s.digest), "limit", "200"); err != nil && !errors.Is(err, fault.Denied) {
			s.evidenceEr = err
		}
	}
	s.evidence, s.more = evidence.Items, evidence.Next != ""
	s.loadProvenance()
	var sboms client.List[client.SBOM]
	s.sbomErr = s.get(&sboms, "sboms", "digest", string(s.digest))
	s.sboms = sboms.Items
	var f client.Findings
	if s.findErr = s.get(&f, "findings", "digest", string(s.digest), "repository", s.repository); s.findErr == nil {
		s.findings = &f
	}
	var running client.List[client.Workload]
	s.runErr = s.get(&running, "inventory/workloads", "digest", string(s.digest), "limit", "100")
	s.running = running.Items
	var builds client.List[client.RunnerBuild]
	s.buildErr = s.get(&builds, "runners/builds", "digest", string(s.digest), "limit", "20")
	s.builds = builds.Items
	var decisions client.List[verify.Decision]
	s.decideErr = s.get(&decisions, "decisions", "digest", string(s.digest), "limit", "100")
	s.decisions = decisions.Items
	known := len(s.places)+len(s.evidence)+len(s.running)+len(s.decisions)+len(s.sboms) > 0
	if !known && s.status == nil {
		return fault.Newf(fault.NotFound, "nothing is known of %s, or nothing that you may see", s.digest)
	}
	return nil
}

// loadProvenance reads the newest provenance: its bundle was verified when it came
// in.
func (s *subject) loadProvenance() {
	for _, e := range s.evidence {
		if !attestation.IsProvenance(e.PredicateType) {
			continue
		}
		st, err := s.statement(e.ID)
		if err != nil {
			continue
		}
		if p, err := attestation.ParseProvenance(st.PredicateType, st.Predicate); err == nil {
			s.provenance, s.provID = p, e.ID
			return
		}
	}
}

func (c *visit) statement(id string) (*attestation.Statement, error) {
	raw, err := c.raw("evidence/" + url.PathEscape(id))
	if err != nil {
		return nil, err
	}
	b, err := attestation.ParseBundle(raw, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	return b.Statement()
}

func (s *subject) verdict() Cell {
	if s.status != nil {
		return stateCell(s.status.State, s.status.Reason)
	}
	if len(s.decisions) > 0 {
		return verdictCell(s.decisions[0].Verdict)
	}
	return unknown("nobody has decided about it")
}

func verdictCell(v policy.Verdict) Cell {
	switch v {
	case policy.Allow:
		return mark(Good, "allowed")
	case policy.Deny:
		return mark(Bad, "denied")
	}
	return unknown("no verdict")
}

func evidenceCell(id string) Cell {
	if id == "" {
		return Cell{Text: "–", Value: ""}
	}
	text := id
	if len(id) > 16 {
		text = id[:16]
	}
	return Cell{Text: text, Value: id, Title: id, Mono: true, URL: local("evidence/" + id)}
}

func decisionCell(id string) Cell {
	if id == "" {
		return Cell{Text: "–", Value: ""}
	}
	return Cell{Text: clip(id, 16), Value: id, Title: id, Mono: true, URL: local("decisions/" + id)}
}

// signer names who signed: the identity, or the key.
func signer(e *client.Evidence) Cell {
	if e.Identity != "" {
		return Cell{Text: clip(e.Identity, 60), Value: e.Identity, Title: e.Identity + " of " + e.Issuer}
	}
	return Cell{Text: "key " + short(e.Key), Value: e.Key, Title: e.Key, Mono: true}
}

// typeName is a predicate type as people call it; unknown ones are as they are.
func typeName(t string) string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	if t == "" {
		return "signature"
	}
	return clip(t, 60)
}

var typeNames = map[string]string{
	attestation.PredicateCosignSign: "signature", attestation.PredicateProvenanceV1: "provenance", attestation.PredicateProvenanceV1Stray: "provenance",
	attestation.PredicateProvenanceV02: "provenance v0.2", attestation.PredicateProvenanceV01: "provenance v0.1", attestation.PredicateVSA: "verification summary",
	attestation.PredicateLink: "in-toto link", attestation.PredicateTestResult: "test result", attestation.PredicateSCAI: "SCAI", attestation.PredicateRuntimeTrace: "runtime trace",
	attestation.PredicateSPDX: "SBOM (SPDX)", attestation.PredicateCycloneDX: "SBOM (CycloneDX)", attestation.PredicateOpenVEX: "VEX", attestation.PredicateBuildFailure: "build failure",
	attestation.PredicateSBOMOverlay: "SBOM overlay", attestation.PredicateVulns: "vulnerability scan", attestation.PredicateVulnsV01: "vulnerability scan", attestation.PredicateCosignVuln: "vulnerability scan",
	"https://assay.dev/predicates/runner/v0.1": "runner evidence",
}

func (s *subject) having(name string) (out []client.Evidence) {
	for _, e := range s.evidence {
		if strings.HasPrefix(typeName(e.PredicateType), name) {
			out = append(out, e)
		}
	}
	return out
}

func (s *subject) facts() Section {
	f := []Fact{{"Digest", mono(string(s.digest))}}
	if s.repository != "" {
		f = append(f, Fact{"Reference", mono(s.u.o.Host + "/" + s.repository + "@" + short(string(s.digest)))})
	}
	if st := s.status; st != nil {
		f = append(f, Fact{"State", stateCell(st.State, st.Reason)}, Fact{"Since", when(st.Since)})
		if st.Reason != "" {
			f = append(f, Fact{"Because", text(st.Reason)})
		}
		for _, b := range st.Blocks {
			f = append(f, Fact{"Blocked", Cell{Text: string(b.State) + ": " + b.Reason, Mark: Bad}})
		}
		if len(st.Held) > 0 {
			tags := make([]string, 0, len(st.Held))
			for _, h := range st.Held {
				tags = append(tags, h.Tag)
			}
			f = append(f, Fact{"Tags that wait", tagsCell(tags)})
		}
	}
	for _, p := range s.places[:min(len(s.places), 10)] {
		f = append(f, Fact{"Lies in", Cell{Text: p.Repository, URL: artifactURL(s.digest, p.Repository), Sub: strings.Join(p.Tags[:min(len(p.Tags), 6)], ", ")}})
	}
	f = append(f, s.elsewhere()...)
	out := Section{ID: "facts", Title: "What it is", Facts: f}
	if s.statusErr != nil {
		out.Problem = s.statusErr.Error()
	}
	return out
}

func checkCell(st policy.Status) Cell {
	switch st {
	case policy.Pass:
		return mark(Good, "pass")
	case policy.Fail:
		return mark(Bad, "fail")
	case policy.Warned:
		return mark(Warn, "warn")
	}
	return mark(Unknown, string(st))
}

func checksTable(checks []policy.Check) *Table {
	t := &Table{Columns: columns("Check", "Status", "Expected", "Found", "Evidence", "To mend it"), Empty: "The decision has no trail."}
	for _, ch := range checks {
		ev := Cell{Text: "–", Value: ""}
		if len(ch.Evidence) > 0 {
			ev = evidenceCell(ch.Evidence[0])
			if len(ch.Evidence) > 1 {
				ev.Sub = fmt.Sprintf("+%d", len(ch.Evidence)-1)
			}
		}
		status := checkCell(ch.Status)
		if ch.Status == policy.Fail && ch.Mode != "" { // which refuses nothing
			status = mark(Warn, "fail, "+string(ch.Mode))
		}
		status.Sub = ch.Stage
		t.Rows = append(t.Rows, []Cell{text(ch.Name), status, clipped(ch.Expected, 300), clipped(ch.Found, 300), ev, command(ch.Mend, 200)})
	}
	return t
}

// trail is why it may run, or not: the checks of the decision that counts.
func (s *subject) trail() []Section {
	out := Section{ID: "decision", Title: "May it run, and how do we know"}
	switch {
	case s.status != nil && len(s.status.Checks) > 0:
		out.Note = fmt.Sprintf("Policy %s, mode %s.", s.status.Policy, s.status.PolicyIn)
		out.Table, out.More = checksTable(s.status.Checks), Link{"The decision", local("decisions/" + s.status.Decision)}
	case len(s.decisions) > 0:
		d := s.decisions[0]
		out.Note = fmt.Sprintf("Policy %s, mode %s, scope %s.", d.Policy, d.Mode, d.ScopeID)
		out.Table, out.More = checksTable(d.Checks), Link{"The decision", local("decisions/" + d.ID)}
	case s.decideErr != nil:
		out.Problem = s.decideErr.Error()
	default:
		out.Table = &Table{Empty: "Nobody has asked yet whether it may run: assay verify " + s.u.o.Host + "/" + s.repository + "@" + string(s.digest)}
	}
	return []Section{out}
}

func (s *subject) evidenceTable() Section {
	t := &Table{Columns: columns("Evidence", "What", "Signer", "Verified under", "Trusted time", "Log index#", "Came by"), Empty: "There is no verified evidence about it."}
	for i := range s.evidence {
		e := &s.evidence[i]
		index := Cell{Text: "–", Value: ""}
		if e.LogIndex != nil {
			if index = count(*e.LogIndex); e.Root == s.u.o.OwnRoot() {
				index.URL = local("log/" + strconv.FormatInt(*e.LogIndex, 10))
			}
		}
		t.Rows = append(t.Rows, []Cell{evidenceCell(e.ID), {Text: typeName(e.PredicateType), Value: e.PredicateType, Title: e.PredicateType}, signer(e), text(e.Root), when(e.TrustedTime), index, text(e.Source)})
	}
	out := Section{ID: "evidence", Title: "Evidence", Table: t, Note: "Each was verified when it came in; open one for its trail."}
	if s.more {
		out.Note += " The 200 newest are shown."
	}
	if s.evidenceEr != nil {
		out.Problem = s.evidenceEr.Error()
	}
	return out
}

func (s *subject) sbomTable() Section {
	t := &Table{Columns: columns("Document", "State", "Packages#", "Quality#", "Signer", "Taken in"), Empty: "There is no bill of materials about it."}
	for _, b := range s.sboms {
		state := mark(Good, "in force")
		if b.Problem != "" {
			state = Cell{Text: "refused", Mark: Bad, Sub: clip(b.Problem, 200)}
		} else if len(b.Quality.Incomplete) > 0 {
			state = Cell{Text: "incomplete", Mark: Warn, Sub: clip(strings.Join(b.Quality.Incomplete, "; "), 200)}
		}
		name := evidenceCell(b.Attestation)
		if b.Format != "" {
			name.Sub = b.Format + " " + b.SpecVersion
		}
		who := b.Identity
		t.Rows = append(t.Rows, []Cell{name, state, count(b.Packages), count(b.Quality.Score), orNone(clip(who, 60)), when(b.IngestedAt)})
	}
	out := Section{ID: "sboms", Title: "Bills of materials", Table: t}
	if s.sbomErr != nil {
		out.Problem = s.sbomErr.Error()
	}
	return out
}

// componentSearch looks for a component in this artifact.
func (s *subject) componentSearch() Section {
	name := s.query("component")
	out := Section{ID: "components", Title: "Components", More: Link{"Search everywhere", local("components")}}
	q := []string{"digest", string(s.digest), "limit", "100"}
	if name != "" {
		q = append(q, "name", name)
	}
	var list client.List[client.Component]
	if err := s.get(&list, "components", q...); err != nil {
		if name == "" {
			out.Note = "Search within its bills of materials: add ?component=NAME, or use the search box."
			return out
		}
		out.Problem = err.Error()
		return out
	}
	out.Table = componentTable(list.Items, false)
	if list.Next != "" {
		out.Note = "The first 100 are shown."
		out.More = Link{"All of them", local("components", "digest", string(s.digest))}
	}
	return out
}

func (s *subject) findingsTable() Section {
	out := Section{ID: "vulnerabilities", Title: "Vulnerabilities", More: Link{"By risk", local("artifacts/"+string(s.digest)+"/risk", "repository", s.repository)}}
	if s.findErr != nil {
		out.Problem = s.findErr.Error()
		return out
	}
	cov := s.findings.Coverage
	out.Facts = coverageFacts(&cov)
	out.Table = findingRows(s.findings.Items)
	out.Table.Empty = "No finding. That is no proof that there is none: see what was looked at, above."
	return out
}

func (s *subject) runnerTable() Section {
	out := Section{ID: "runners", Title: "Runner evidence and telemetry", Table: buildTable(s.builds)}
	out.Table.Empty = "No evidence about the machine that built it is here."
	if s.buildErr != nil {
		out.Problem = s.buildErr.Error()
	}
	return out
}

func (s *subject) history() Section {
	out := Section{ID: "decisions", Title: "Decisions over time"}
	var list client.List[verify.Past]
	if err := s.get(&list, "decision-history", "digest", string(s.digest), "limit", "50"); err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Table = &Table{Columns: columns("Decision", "Verdict", "Policy", "Mode", "Scope", "Decided", "Now"), Empty: "None was made."}
	for _, d := range list.Items {
		now := Cell{Text: "replaced"}
		if d.Holds {
			now = mark(Info, "stands")
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{decisionCell(d.ID), verdictCell(d.Verdict), text(d.Policy), text(string(d.Mode)), clipped(d.ScopeID, 60), when(d.DecidedAt), now})
	}
	return out
}

func (s *subject) workloads() Section {
	out := Section{ID: "workloads", Title: "Where it runs", Table: workloadTable(s.running, false)}
	out.Table.Empty = "Nobody reported that it runs."
	if s.runErr != nil {
		out.Problem = s.runErr.Error()
	}
	return out
}

func (s *subject) pulls() Section {
	out := Section{ID: "access", Title: "Who pulled it"}
	var list client.Pulls[gate.Pull]
	if err := s.get(&list, "registry/pulls", "digest", string(s.digest)); err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Table = &Table{Columns: columns("When", "Who", "Repository", "Tag", "From", "What"), Empty: "Nobody did."}
	for _, p := range list.Items[:min(len(list.Items), 50)] {
		out.Table.Rows = append(out.Table.Rows, []Cell{when(p.Time), who(p.Actor), text(p.Repository), orNone(p.Tag), orNone(p.Address), digest(p.Digest, "")})
	}
	if list.More || len(list.Items) > 50 {
		out.Note = "The newest are shown; the audit trail has all."
	}
	return out
}

func (s *subject) events() Section {
	out := Section{ID: "events", Title: "What happened to it", More: Link{"In the audit trail", local("audit", "digest", string(s.digest))}}
	var list client.List[client.AuditRecord]
	if err := s.get(&list, "audit", "digest", string(s.digest), "newest", "true", "limit", "200"); err != nil {
		out.Problem = err.Error()
		return out
	}
	// Pulls have a list of their own.
	rest := slices.DeleteFunc(list.Items, func(r client.AuditRecord) bool { return r.Kind == "artifact.pulled" })
	out.Table = auditTable(rest[:min(len(rest), 40)])
	return out
}

// raw is the page's own answers, as they came.
func (s *subject) raw(p *Page) error {
	b, err := json.MarshalIndent(map[string]any{"status": s.status, "evidence": s.evidence, "places": s.places, "findings": s.findings}, "", "  ")
	if err != nil {
		return err
	}
	if len(b) > 256<<10 {
		b = append(b[:256<<10:256<<10], "\n… cut short; ?format=json has all"...)
	}
	p.Sections = append(p.Sections, Section{ID: "raw", Title: "Raw JSON", Raw: string(b)})
	return nil
}

func auditTable(list []client.AuditRecord) *Table {
	t := &Table{Columns: columns("When", "What", "Who", "Artifact", "Detail", "Sequence#"), Empty: "Nothing is on record."}
	for _, r := range list {
		d := Cell{Text: "–", Value: ""}
		if r.Digest != "" {
			d = digest(r.Digest, "")
		}
		t.Rows = append(t.Rows, []Cell{when(r.Time), text(r.Kind), who(r.Actor), d, bodyCell(r.Body), count(r.Seq)})
	}
	return t
}

// bodyCell is an event's body in one line.
func bodyCell(body json.RawMessage) Cell {
	var m map[string]any
	if json.Unmarshal(body, &m) != nil || len(m) == 0 {
		return Cell{Text: "–", Value: ""}
	}
	return Cell{Text: clip(inline(m), 160), Value: m, Title: clip(inline(m), 2000), Long: true}
}
