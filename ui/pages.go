package ui

import (
	"strconv"
	"strings"

	"assay/client"
	"assay/registry/gate"
)

// pages is the table of pages: address below the root, and who makes it.
func (u *UI) pages() map[string]page {
	return map[string]page{
		"{$}":                         overview,
		"oncall":                      onCall,
		"slo":                         sloPage,
		"runbooks":                    runbooksPage,
		"runbooks/{name...}":          runbookPage,
		"docs/{name...}":              runbookPage,
		"slo/{id}":                    indicatorPage,
		"alerts":                      alertsPage,
		"alerts/{id}":                 alertPage,
		"silences/{id}":               silencePage,
		"receivers":                   receiversPage,
		"artifacts":                   artifacts,
		"artifacts/{digest}":          artifactPage,
		"registry":                    registryPage,
		"log":                         logPage,
		"log/{index}":                 logEntryPage,
		"workloads":                   workloadsPage,
		"services":                    servicesPage,
		"services/{name}":             servicePage,
		"builds":                      buildsPage,
		"builds/{id}":                 buildPage,
		"build-logs":                  buildLogsPage,
		"build-logs/{id}":             buildLogPage,
		"artifacts/{digest}/risk":     riskPage,
		"evidence/{id}":               evidencePage,
		"decisions/{id}":              decisionPage,
		"search":                      searchPage,
		"components":                  componentsPage,
		"vulnerabilities":             vulnerabilitiesPage,
		"vulnerabilities/{id}":        vulnerabilityPage,
		"policies":                    policiesPage,
		"policies/{name}":             policyPage,
		"vex":                         vexPage,
		"vex/{id}":                    vexEntryPage,
		"readiness":                   readinessPage,
		"reports/{period}":            reportPage,
		"exceptions":                  exceptionsPage,
		"actions":                     actionsPage,
		"actions/{id}":                actionPage,
		"exceptions/{id}":             exceptionPage,
		"trust":                       trustPage,
		"audit":                       auditPage,
		"inventory":                   inventoryPage,
		"inventory/{id}":              estatePage,
		"feeds":                       feedsPage,
		"feeds/{name}/{ecosystem...}": feedPage,
		"registry/{name...}":          repositoryPage,
	}
}

// forms is the table of what can be done.
func (u *UI) forms() map[string]page {
	return map[string]page{"policies": replayPolicy, "alerts/{id}": alertAct, "silences/{id}": silenceEnd, "receivers": receiverTest}
}

const pageSize = 50

// pageLimit is how many rows an answer has: exports have more.
func (c *visit) pageLimit() string {
	if c.query("format") != "" {
		return "1000"
	}
	return strconv.Itoa(pageSize)
}

// next is the address of the page after this one, and of the first.
func (c *visit) next(t *Table, cursor string) *Table {
	q := c.r.URL.Query()
	if q.Get("after") != "" {
		q.Del("after")
		t.First = c.r.URL.Path + "?" + q.Encode()
	}
	if cursor != "" {
		q.Set("after", cursor)
		t.Next = c.r.URL.Path + "?" + q.Encode()
	}
	return t
}

// stateCell shows a state of the gate.
func stateCell(s gate.State, reason string) Cell {
	c := Cell{Text: string(s), Title: reason}
	switch s {
	case gate.Active:
		c.Mark = Good
	case gate.Staged:
		c.Mark = Warn
	case gate.Rejected, gate.Quarantined, gate.Revoked:
		c.Mark = Bad
	case gate.Open:
		c.Mark, c.Title = Info, "this repository has no gate"
	default:
		c.Mark = Unknown
	}
	return c
}

func tagsCell(tags []string) Cell {
	if len(tags) == 0 {
		return Cell{Text: "–", Value: ""}
	}
	text := tags[0]
	for _, t := range tags[1:min(len(tags), 3)] {
		text += ", " + t
	}
	if len(tags) > 3 {
		text += ", +" + strconv.Itoa(len(tags)-3)
	}
	return Cell{Text: text, Value: tags}
}

func artifacts(c *visit) (*Page, error) {
	var list client.List[gate.Listed]
	repository, state := c.query("repository"), c.query("state")
	if err := c.get(&list, "registry/artifacts", "repository", repository, "state", state, "after", c.query("after"), "limit", c.pageLimit()); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Artifact", "Repository", "Tags", "State", "Kind", "Pushed", "By"), Empty: "No artifact like that is here, or none that you may see."}
	for _, l := range list.Items {
		t.Rows = append(t.Rows, []Cell{
			digest(l.Digest, l.Repository), link(l.Repository, local("registry/"+l.Repository)), tagsCell(l.Tags), stateCell(l.State, l.Reason),
			text(kindOf(l.MediaType, l.Type)), when(l.PushedAt), who(l.PushedBy),
		})
	}
	return &Page{
		Title: "Artifacts", Here: "Artifacts", Live: true,
		Filter: &Filter{Fields: []Field{
			{Name: "repository", Label: "Repository", Value: repository, Hint: "team/app or team/*"},
			{Name: "state", Label: "State", Value: state, Options: gateStates()},
		}},
		Sections: []Section{{ID: "artifacts", Table: c.next(t, list.Next)}},
	}, nil
}

// kindOf names the kind of a manifest.
func kindOf(mediaType, artifactType string) string {
	switch {
	case strings.HasSuffix(artifactType, ".image.config.v1+json") || strings.HasSuffix(artifactType, "container.image.v1+json"):
		return "image"
	case artifactType != "":
		return clip(artifactType, 48)
	case gate.IsIndex(mediaType):
		return "image index"
	}
	return "image"
}

func registryPage(c *visit) (*Page, error) {
	var list client.List[gate.ListedRepository]
	if err := c.get(&list, "registry/repositories", "after", c.query("after"), "limit", c.pageLimit()); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Repository", "Gate", "Artifacts#", "Tags#", "Last push", "Created"), Empty: "No repository is here, or none that you may see."}
	for _, r := range list.Items {
		m := mark(Good, r.Mode)
		if r.Mode == "open" || r.Mode == "" {
			m = mark(Info, "open")
		}
		if r.Profile != "" {
			m.Sub = r.Profile
		}
		t.Rows = append(t.Rows, []Cell{link(r.Name, local("registry/"+r.Name)), m, count(r.Artifacts), count(r.Tags), when(r.Last), when(r.Created)})
	}
	return &Page{Title: "Registry", Here: "Registry", Lead: "docker pull " + c.u.o.Host + "/REPOSITORY:TAG", Sections: []Section{{ID: "repositories", Table: c.next(t, list.Next)}}}, nil
}

func repositoryPage(c *visit) (*Page, error) {
	name := c.r.PathValue("name")
	var tags client.List[gate.ListedTag]
	if err := c.get(&tags, "registry/tags", "repository", name, "after", c.query("after"), "limit", c.pageLimit()); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Tag", "Artifact", "Moves#", "Moved", "By"), Empty: "No tag is set here."}
	for _, tag := range tags.Items {
		t.Rows = append(t.Rows, []Cell{link(tag.Tag, local("artifacts/"+string(tag.Digest), "repository", name, "tag", tag.Tag)), digest(tag.Digest, name), count(tag.Moves), when(tag.MovedAt), who(tag.MovedBy)})
	}
	var list client.List[gate.Listed]
	recent := Section{ID: "artifacts", Title: "Pushed last", More: Link{"All of them", local("artifacts", "repository", name)}}
	if err := c.get(&list, "registry/artifacts", "repository", name, "limit", "20"); err != nil {
		recent.Problem = err.Error()
	}
	recent.Table = &Table{Columns: columns("Artifact", "Tags", "State", "Pushed", "By"), Empty: "Nothing was pushed here."}
	for _, l := range list.Items {
		recent.Table.Rows = append(recent.Table.Rows, []Cell{digest(l.Digest, name), tagsCell(l.Tags), stateCell(l.State, l.Reason), when(l.PushedAt), who(l.PushedBy)})
	}
	return &Page{
		Title: name, Here: "Registry", Crumbs: []Link{{"Registry", local("registry")}}, Live: true,
		Sections: []Section{{ID: "tags", Title: "Tags", Table: c.next(t, tags.Next)}, recent},
	}, nil
}
