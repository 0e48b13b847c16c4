package ui

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/registry/gate"
	"assay/vuln"
)

// wanted is what somebody asks the one search box: a component, within versions.
type wanted struct {
	name   string
	bounds []bound
}

type bound struct{ op, version string }

// "where is log4j-core < 2.17?", "log4j-core >=2.0 <2.17", "log4j-core 2.14.1",
// "log4j-core@2.14.1".
var (
	question = regexp.MustCompile(`(?i)^(?:where\s+is\s+)?(.+?)\s*\??$`)
	clause   = regexp.MustCompile(`^\s*,?\s*(<=|>=|==|=|<|>|@)?\s*([0-9A-Za-z][0-9A-Za-z.+:~_-]*)`)
	operator = regexp.MustCompile(`\s*(<=|>=|==|=|<|>)|\s+[0-9]|\s*@[0-9]`)
	flawName = regexp.MustCompile(`^(?i)(CVE-[0-9]{4}-[0-9]+|[A-Z]{2,12}-[0-9A-Z][0-9A-Za-z:-]*[0-9][0-9A-Za-z:-]*)$`)
)

// parseWanted reads a question about components. Without versions all are wanted.
func parseWanted(q string) wanted {
	m := question.FindStringSubmatch(strings.TrimSpace(q))
	if m == nil {
		return wanted{name: strings.TrimSpace(q)}
	}
	text := m[1]
	at := operator.FindStringIndex(text)
	if at == nil || at[0] == 0 {
		return wanted{name: text}
	}
	w := wanted{name: strings.TrimSpace(text[:at[0]])}
	for rest := text[at[0]:]; strings.TrimSpace(rest) != ""; {
		m := clause.FindStringSubmatchIndex(rest)
		if m == nil {
			return wanted{name: text}
		}
		op := "="
		if m[2] >= 0 {
			op = rest[m[2]:m[3]]
		}
		w.bounds = append(w.bounds, bound{strings.TrimPrefix(strings.Replace(op, "==", "=", 1), "@"), rest[m[4]:m[5]]})
		if w.bounds[len(w.bounds)-1].op == "" {
			w.bounds[len(w.bounds)-1].op = "="
		}
		rest = rest[m[1]:]
	}
	return w
}

// matches says whether a version is within the bounds. Versions whose order is not
// known are neither in nor out.
func (w *wanted) matches(component, version string) (in, known bool) {
	if len(w.bounds) == 0 {
		return true, true
	}
	if version == "" {
		return false, false
	}
	ecosystem := ""
	if p, err := artifact.ParsePURL(component); err == nil {
		if all, _ := vuln.Lookups(p, version, "", ""); len(all) > 0 {
			ecosystem = all[0].Ecosystem
		}
	}
	for _, b := range w.bounds {
		later, ok := vuln.Later(ecosystem, b.version, version) // version > b.version
		earlier, ok2 := vuln.Later(ecosystem, version, b.version)
		if !ok || !ok2 || ecosystem == "" && b.op != "=" {
			return false, false
		}
		holds := map[string]bool{"<": earlier, "<=": !later, ">": later, ">=": !earlier, "=": !later && !earlier || version == b.version}[b.op]
		if !holds {
			return false, true
		}
	}
	return true, true
}

// How many occurrences of a name are compared with the bounds before the rest is
// left to another page.
const compareMost = 20_000

// searchPage is the one box: what names one thing leads there.
func searchPage(c *visit) (*Page, error) {
	q := strings.TrimSpace(c.query("q"))
	if to := direct(q); to != "" && c.query("format") == "" {
		return nil, &elsewhere{to}
	}
	p := &Page{Title: "Search", Here: "", Lead: "A digest, a repository, a vulnerability, a package URL, or a component with versions: log4j-core < 2.17."}
	if q == "" {
		return p, nil
	}
	w := parseWanted(q)
	p.Title = "Search: " + clip(q, 120)
	p.Sections = append(p.Sections, c.findComponents(w))
	if len(w.bounds) == 0 {
		p.Sections = append(p.Sections, c.findArtifacts(w.name), c.findServices(w.name))
	}
	return p, nil
}

// direct is where a query leads that names one thing.
func direct(q string) string {
	switch {
	case len(q) == 64 && artifact.Digest("sha256:"+q).Validate() == nil:
		return artifactURL(artifact.Digest("sha256:"+q), "")
	case artifact.Digest(q).Validate() == nil:
		return artifactURL(artifact.Digest(q), "")
	case strings.HasPrefix(q, "att_"):
		return local("evidence/" + url.PathEscape(q))
	case strings.HasPrefix(q, "dec_"):
		return local("decisions/" + url.PathEscape(q))
	case strings.HasPrefix(q, "vex_"):
		return local("vex/" + url.PathEscape(q))
	case strings.HasPrefix(q, "pkg:"):
		return local("components", "purl", q)
	case flawName.MatchString(q):
		return local("vulnerabilities/" + url.PathEscape(q))
	}
	return ""
}

func (c *visit) findComponents(w wanted) Section {
	out := Section{ID: "components", Title: "Components", More: Link{"Search by more", local("components", "name", w.name)}}
	var found []client.Component
	unordered, looked, cut := 0, 0, false
	after := ""
	for {
		var list client.List[client.Component]
		if err := c.get(&list, "components", "name", w.name, "after", after, "limit", "1000"); err != nil {
			out.Problem = err.Error()
			return out
		}
		for _, o := range list.Items {
			in, known := w.matches(o.Component, o.Version)
			if in {
				found = append(found, o)
			} else if !known {
				unordered++
			}
		}
		looked += len(list.Items)
		if after = list.Next; after == "" {
			break
		}
		if looked >= compareMost || len(found) >= 1000 {
			cut = true
			break
		}
	}
	shown := found
	if c.query("format") == "" && len(shown) > 200 {
		shown = shown[:200]
	}
	out.Table = componentTable(shown, true)
	out.Note = fmt.Sprintf("%d occurrences of %q were looked at, %d match.", looked, clip(w.name, 80), len(found))
	if unordered > 0 {
		out.Note += fmt.Sprintf(" %d have a version that cannot be compared, or none: they are not known to match, nor not to.", unordered)
	}
	if cut {
		out.Note += " There are more: narrow it down, or use assay sbom search."
	}
	return out
}

func (c *visit) findArtifacts(name string) Section {
	out := Section{ID: "artifacts", Title: "Artifacts", More: Link{"All of these", local("artifacts", "repository", name+"*")}}
	var list client.List[gate.Listed]
	if err := c.get(&list, "registry/artifacts", "repository", strings.TrimSuffix(name, "*")+"*", "limit", "20"); err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Table = &Table{Columns: columns("Artifact", "Repository", "Tags", "State", "Pushed"), Empty: "No repository begins like that."}
	for _, l := range list.Items {
		out.Table.Rows = append(out.Table.Rows, []Cell{digest(l.Digest, l.Repository), link(l.Repository, local("registry/"+l.Repository)), tagsCell(l.Tags), stateCell(l.State, l.Reason), when(l.PushedAt)})
	}
	return out
}

func (c *visit) findServices(name string) Section {
	out := Section{ID: "services", Title: "Services"}
	var list client.List[client.Service]
	if err := c.get(&list, "inventory/services"); err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Table = &Table{Columns: columns("Service", "Team", "Running#"), Empty: "No service is called like that."}
	for _, s := range list.Items {
		if strings.Contains(strings.ToLower(s.Name), strings.ToLower(name)) && len(out.Table.Rows) < 20 {
			out.Table.Rows = append(out.Table.Rows, []Cell{link(s.Name, local("services/"+url.PathEscape(s.Name))), orUnknown(s.Team, "nobody owns it"), count(s.Running)})
		}
	}
	return out
}

// componentsPage searches by what a bill of materials says.
func componentsPage(c *visit) (*Page, error) {
	fields := []Field{{Name: "name", Label: "Name", Hint: "log4j-core, or log4j*"}, {Name: "version", Label: "Version"}, {Name: "purl", Label: "Package URL", Hint: "pkg:maven/…"}, {Name: "license", Label: "Licence", Hint: "GPL-3.0-only"}, {Name: "supplier", Label: "Supplier"}, {Name: "digest", Label: "In artifact", Hint: "sha256:…"}}
	q := []string{"after", c.query("after"), "limit", c.pageLimit()}
	asked := false
	for i := range fields {
		fields[i].Value = c.query(fields[i].Name)
		asked = asked || fields[i].Value != ""
		q = append(q, fields[i].Name, fields[i].Value)
	}
	p := &Page{Title: "Components", Here: "Components", Lead: "What verified bills of materials say is inside. The search box takes versions too: log4j-core < 2.17.", Filter: &Filter{fields}}
	if !asked {
		return p, nil
	}
	var list client.List[client.Component]
	if err := c.get(&list, "components", q...); err != nil {
		return nil, err
	}
	p.Sections = []Section{{ID: "components", Table: c.next(componentTable(list.Items, true), list.Next)}}
	return p, nil
}
