package ui

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"assay/client"
	"assay/config"
	"assay/identity"
)

// buildLogs is what the builds of an artifact printed, and how that hangs together
// with its provenance.
func (s *subject) buildLogs() Section {
	out := Section{ID: "build-logs", Title: "Build logs", Note: "What uploaders say that the build printed: signed by nobody. One of the build that verified provenance names, uploaded by who signed that, is marked so."}
	q := []string{"digest", string(s.digest), "repository", s.repository, "limit", "20"}
	var list client.List[client.BuildLog]
	if err := s.get(&list, "build-logs", q...); err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Table = logRows(list.Items)
	out.Table.Empty = "No log of its build is here: assay run --log, assay build-log upload, or OTLP to /v1/logs."
	if text := s.query("log"); text != "" {
		var found client.BuildLogFound
		if err := s.get(&found, "build-log-lines", "digest", string(s.digest), "repository", s.repository, "text", text, "limit", "100"); err != nil {
			out.Problem = err.Error()
			return out
		}
		out.Note = fmt.Sprintf("Lines with %q; the first 100.", clip(text, 60))
		out.Table = &Table{Columns: columns("Log", "Line#", "Text"), Empty: "No line has it."}
		for i := range found.Items {
			l := &found.Items[i]
			out.Table.Rows = append(out.Table.Rows, []Cell{{Text: clip(l.Log, 16), Value: l.Log, Mono: true, URL: local("build-logs/"+l.Log, "from", strconv.FormatInt(max(l.Number-20, 1), 10))}, count(l.Number), clipped(l.Text, 400)})
		}
	}
	if len(list.Items) > 0 {
		out.More = Link{"Search them", local("build-logs", "digest", string(s.digest), "repository", s.repository)}
	}
	return out
}

func logRows(list []client.BuildLog) *Table {
	t := &Table{Columns: columns("Log", "Build", "Provenance", "Uploader", "Lines#", "Changed")}
	for i := range list {
		l := &list[i]
		prov := mark(Warn, "not named by provenance")
		switch {
		case l.Provenance != "" && l.SameIdentity:
			prov = Cell{Text: "its build, same identity", Mark: Good, URL: local("evidence/" + l.Provenance)}
		case l.Provenance != "":
			prov = Cell{Text: "its build, another identity", Mark: Info, URL: local("evidence/" + l.Provenance)}
		}
		lines := count(l.Lines)
		if l.Dropped > 0 {
			lines.Sub = fmt.Sprintf("%d dropped", l.Dropped)
		}
		t.Rows = append(t.Rows, []Cell{{Text: clip(l.ID, 16), Value: l.ID, Title: l.ID, Mono: true, URL: local("build-logs/" + l.ID)}, clipped(l.Build, 60), prov, clipped(l.Identity, 60), lines, when(l.ChangedAt)})
	}
	return t
}

// buildLogsPage lists logs, and searches them.
func buildLogsPage(c *visit) (*Page, error) {
	digest, repository, build, text := c.query("digest"), c.query("repository"), c.query("build"), c.query("text")
	p := &Page{Title: "Build logs", Here: "Builds", Crumbs: []Link{{"Builds", local("builds")}}, Filter: &Filter{[]Field{
		{Name: "text", Label: "Text", Value: text, Hint: "from 2 characters"}, {Name: "build", Label: "Build", Value: build}, {Name: "digest", Label: "Artifact", Value: digest, Hint: "sha256:…"}, {Name: "repository", Label: "Repository", Value: repository}}}}
	if text != "" {
		var found client.BuildLogFound
		if err := c.get(&found, "build-log-lines", "text", text, "digest", digest, "repository", repository, "build", build, "after", c.query("after"), "limit", c.pageLimit()); err != nil {
			return nil, err
		}
		t := &Table{Columns: columns("Log", "Build", "Line#", "Text"), Empty: "No line has it."}
		for i := range found.Items {
			l := &found.Items[i]
			t.Rows = append(t.Rows, []Cell{{Text: clip(l.Log, 16), Value: l.Log, Mono: true, URL: local("build-logs/"+l.Log, "from", strconv.FormatInt(max(l.Number-20, 1), 10))}, clipped(l.Build, 40), count(l.Number), clipped(l.Text, 400)})
		}
		note := bytesOf(found.Searched).Text + " were read."
		if found.Next != "" {
			note += " There is more to read."
		}
		p.Sections = []Section{{ID: "lines", Title: "Lines", Note: note, Table: c.next(t, found.Next)}}
		return p, nil
	}
	var list client.List[client.BuildLog]
	if err := c.get(&list, "build-logs", "digest", digest, "repository", repository, "build", build, "after", c.query("after"), "limit", c.pageLimit()); err != nil {
		return nil, err
	}
	t := logRows(list.Items)
	t.Empty = "No build's log is here: assay run --log, assay build-log upload, or OTLP to /v1/logs."
	p.Sections = []Section{{ID: "logs", Title: "Logs", Table: c.next(t, list.Next)}}
	return p, nil
}

// linesShown is how many lines of a log a page has.
const linesShown = 500

// buildLogPage is one log with its lines, from a number on.
func buildLogPage(c *visit) (*Page, error) {
	id := c.r.PathValue("id")
	var l client.BuildLog
	if err := c.get(&l, "build-logs/"+url.PathEscape(id)); err != nil {
		return nil, err
	}
	from, err := strconv.ParseInt(c.query("from"), 10, 64)
	if err != nil || from < 1 {
		from = 1
	}
	var lines client.List[client.BuildLogLine]
	if err := c.get(&lines, "build-logs/"+url.PathEscape(id)+"/lines", "after", strconv.FormatInt(from-1, 10), "limit", strconv.Itoa(linesShown)); err != nil {
		return nil, err
	}
	facts := []Fact{{"Build", clipped(l.Build, 200)}, {"Uploader", clipped(l.Identity, 200)}, {"Came by", text(l.Source)}, {"Lines", count(l.Lines)}, {"Secrets taken out", count(l.Redacted)}, {"Changed", when(l.ChangedAt)}}
	if l.Provenance != "" {
		facts = append(facts, Fact{"Provenance", evidenceCell(l.Provenance)}, Fact{"Uploader signed it", text(yesNo(l.SameIdentity))})
	}
	for _, d := range l.Artifacts {
		facts = append(facts, Fact{"About (uploader's word)", digest(d, l.Repository)})
	}
	for _, link := range c.deepLinks(config.LinkValues{BuildID: l.Build, Repository: l.Repository}) {
		facts = append(facts, Fact{"Elsewhere", link})
	}
	var b strings.Builder
	for i := range lines.Items {
		x := &lines.Items[i]
		fmt.Fprintf(&b, "%6d  ", x.Number)
		if x.Time != nil {
			b.WriteString(x.Time.UTC().Format("15:04:05.000") + "  ")
		}
		if x.Stream != "" {
			b.WriteString(visible(x.Stream) + "  ")
		}
		b.WriteString(visible(x.Text) + "\n")
	}
	body := Section{ID: "lines", Title: "Lines", Raw: b.String(), RawOpen: true}
	if lines.Next != "" {
		body.More = Link{"Later lines", local("build-logs/"+id, "from", strconv.FormatInt(lines.Items[len(lines.Items)-1].Number+1, 10))}
	}
	return &Page{Title: "Log of build " + clip(l.Build, 40), Here: "Builds", Crumbs: []Link{{"Builds", local("builds")}, {"Build logs", local("build-logs")}},
		Sections: []Section{{ID: "facts", Title: "What it is", Facts: facts, Note: "The uploader's word, signed by nobody."}, body}}, nil
}

// visible keeps a line from looking like another: control characters and those
// that turn the direction become marks.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return r
		case r < 0x20, r >= 0x7f && r < 0xa0, r == 0x61c, r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfeff:
			return '\uFFFD'
		}
		return r
	}, s)
}

// deepLinks are the ways to other systems for values. Their templates are the
// site's configuration, so that nothing that was pushed or uploaded chooses where
// they lead.
func (c *visit) deepLinks(v config.LinkValues) (out []Cell) {
	if !c.may(identity.ActReadEvidence) {
		return nil
	}
	for _, of := range []string{config.LinkDigest, config.LinkTrace, config.LinkBuild, config.LinkCommit} {
		for _, l := range config.DeepLinks(c.u.o.Links, of, v) {
			out = append(out, Cell{Text: l.Name, Value: l.URL, URL: l.URL, Sub: "by " + l.For})
		}
	}
	return out
}

// elsewhere leads to what other systems know of an artifact.
func (s *subject) elsewhere() []Fact {
	v := config.LinkValues{Digest: string(s.digest), Repository: s.repository}
	if p := s.provenance; p != nil {
		v.BuildID = p.InvocationID
		for alg, d := range p.SourceDigest {
			if strings.HasPrefix(alg, "git") || alg == "sha1" {
				v.Commit = d
			}
		}
	}
	var out []Fact
	for _, l := range s.deepLinks(v) {
		out = append(out, Fact{"Elsewhere", l})
	}
	return out
}
