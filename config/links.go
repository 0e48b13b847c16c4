package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/telemetry"
)

// Link leads to what another system knows of something of this site's: logs,
// traces.
type Link struct {
	// Name stands in pages; for example "Loki".
	Name string `yaml:"name"`
	// For is what it leads from: digest, trace, build or commit.
	For string `yaml:"for"`
	// URL is a template: {digest}, {hex}, {trace_id}, {build_id}, {commit}, {repository},
	// {service} stand for values, which are escaped by where they stand.
	URL string `yaml:"url"`
	// Kind makes the URL instead: loki, tempo, jaeger, splunk or elastic, at Base.
	Kind string `yaml:"kind"`
	// Base is the address of that system: Grafana's for loki and tempo.
	Base string `yaml:"base"`
	// Source is the data source's UID in Grafana, the index in Splunk, or the data
	// view in Kibana.
	Source string `yaml:"source"`
	// Query is the search in that system's words; default: the value in quotes.
	Query string `yaml:"query"`
}

// What links lead from.
const (
	LinkDigest = "digest"
	LinkTrace  = "trace"
	LinkBuild  = "build"
	LinkCommit = "commit"
)

var linkFor = []string{LinkDigest, LinkTrace, LinkBuild, LinkCommit}

// subject is the value that a link of a kind cannot do without.
var subject = map[string]string{LinkDigest: "digest", LinkTrace: "trace_id", LinkBuild: "build_id", LinkCommit: "commit"}

var linkNames = []string{"digest", "hex", "trace_id", "build_id", "commit", "repository", "service"}

// maxLinks bounds what a page shows.
const maxLinks = 32

func validateLinks(links []Link) error {
	if len(links) > maxLinks {
		return fault.Newf(fault.TooLarge, "telemetry.links: %d links, want at most %d", len(links), maxLinks)
	}
	for i := range links {
		if err := links[i].validate(); err != nil {
			return fmt.Errorf("telemetry.links, the %d. (%.40s): %w", i+1, links[i].Name, err)
		}
	}
	return nil
}

func (l *Link) validate() error {
	if l.Name == "" || len(l.Name) > 60 {
		return fault.Newf(fault.Invalid, "name %.70q: want from 1 to 60 bytes", l.Name)
	}
	if !slices.Contains(linkFor, l.For) {
		return fault.Newf(fault.Invalid, "for %.40q: want %s", l.For, strings.Join(linkFor, ", "))
	}
	if (l.URL == "") == (l.Kind == "") {
		return fault.Newf(fault.Invalid, "want url, or kind and base, and not both")
	}
	template, err := l.template()
	if err != nil {
		return err
	}
	// Both halves of the address must be the operator's: a value must not choose
	// where a person is led.
	head, _, _ := strings.Cut(template, "{")
	u, err := url.Parse(head)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return fault.Newf(fault.Invalid, "url %.100q: want http(s)://HOST/… without credentials, and no value in scheme or host", template)
	}
	if len(head) < len(template) && !strings.Contains(head[len(u.Scheme)+3:], "/") {
		return fault.Newf(fault.Invalid, "url %.100q: want a / between the host and the first value", template)
	}
	found := false
	for _, part := range strings.Split(template, "{")[1:] {
		name, _, ok := strings.Cut(part, "}")
		if !ok || !slices.Contains(linkNames, name) {
			return fault.Newf(fault.Invalid, "url: {%.30s is no value; want {%s}", part, strings.Join(linkNames, "}, {"))
		}
		found = found || name == subject[l.For] || name == "hex" && l.For == LinkDigest
	}
	if !found {
		return fault.Newf(fault.Invalid, "url %.100q: a link for a %s wants {%s} in it", template, l.For, subject[l.For])
	}
	return nil
}

// template is the URL with its places for values.
func (l *Link) template() (string, error) {
	if l.Kind == "" {
		return l.URL, nil
	}
	base, err := url.Parse(l.Base)
	if err != nil || base.Host == "" || base.RawQuery != "" || base.Fragment != "" || strings.Contains(l.Base, "{") {
		return "", fault.Newf(fault.Invalid, "base %.100q: want http(s)://HOST[/PATH]", l.Base)
	}
	root := strings.TrimSuffix(l.Base, "/")
	value := "{" + subject[l.For] + "}"
	// The parts that are not values are escaped here, the values later, and
	// twice what JSON needs quoted, since none of them has quotes.
	esc := func(s string) string {
		return strings.ReplaceAll(url.QueryEscape(strings.ReplaceAll(s, value, "\x00")), "%00", value)
	}
	query := l.Query
	switch l.Kind {
	case "loki":
		if query == "" {
			query = `{service_name=~".+"} |= "` + value + `"`
		}
		return root + "/explore?schemaVersion=1&panes=" + esc(`{"a":{"datasource":"`+quoted(l.Source)+`","queries":[{"refId":"A","expr":"`+quoted(query)+`"}],"range":{"from":"now-24h","to":"now"}}}`), nil
	case "tempo":
		if query == "" {
			query = value
			if l.For != LinkTrace {
				query = `{ span.` + attributeOf[l.For] + ` = "` + value + `" }`
			}
		}
		return root + "/explore?schemaVersion=1&panes=" + esc(`{"a":{"datasource":"`+quoted(l.Source)+`","queries":[{"refId":"A","queryType":"traceql","query":"`+quoted(query)+`"}],"range":{"from":"now-24h","to":"now"}}}`), nil
	case "jaeger":
		if l.For == LinkTrace {
			return root + "/trace/{trace_id}", nil
		}
		service := l.Source
		if service == "" {
			service = "assay"
		}
		return root + "/search?lookback=2d&service=" + url.QueryEscape(service) + "&tags=" + esc(`{"`+attributeOf[l.For]+`":"`+value+`"}`), nil
	case "splunk":
		if query == "" {
			query = "search "
			if l.Source != "" {
				query += "index=" + l.Source + " "
			}
			query += `"` + value + `"`
		}
		return root + "/en-US/app/search/search?earliest=-24h&latest=now&q=" + esc(query), nil
	case "elastic":
		if query == "" {
			query = `"` + value + `"`
		}
		view := ""
		if l.Source != "" {
			view = "dataSource:(dataViewId:'" + strings.ReplaceAll(strings.ReplaceAll(l.Source, "!", "!!"), "'", "!'") + "',type:dataView),"
		}
		return root + "/app/discover#/?_g=" + url.QueryEscape("(time:(from:now-24h,to:now))") + "&_a=" + esc("("+view+"query:(language:kuery,query:'"+strings.ReplaceAll(strings.ReplaceAll(query, "!", "!!"), "'", "!'")+"'))"), nil
	}
	return "", fault.Newf(fault.Invalid, "kind %.40q: want loki, tempo, jaeger, splunk or elastic", l.Kind)
}

func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}

// attributeOf are the names by which spans of Assay, and of what it admits, say it.
var attributeOf = map[string]string{LinkDigest: string(telemetry.ManifestDigest), LinkBuild: string(telemetry.PipelineRunID), LinkCommit: string(telemetry.VCSRevision), LinkTrace: "trace.id"}

// DeepLink is a link with its values.
type DeepLink struct {
	Name string
	For  string
	URL  string
}

// LinkValues are what links are made of; empty ones make no link.
type LinkValues struct {
	Digest, TraceID, BuildID, Commit, Repository, Service string
}

// DeepLinks gives the links of a kind for values. Values are escaped for their
// place and cannot leave it: a link whose value is missing is left out.
func DeepLinks(links []Link, of string, v LinkValues) (out []DeepLink) {
	hex := v.Digest
	if _, h, ok := strings.Cut(v.Digest, ":"); ok {
		hex = h
	}
	values := map[string]string{
		"digest": v.Digest, "hex": hex, "trace_id": v.TraceID, "build_id": v.BuildID, "commit": v.Commit, "repository": v.Repository, "service": v.Service,
	}
	for i := range links {
		l := &links[i]
		if l.For != of || values[subject[of]] == "" {
			continue
		}
		template, err := l.template()
		if err != nil {
			continue // it was validated
		}
		// Within another system's query a quote would end its text.
		if l.Kind != "" && strings.ContainsAny(values[subject[of]], "\"'`\\!{}()|") {
			continue
		}
		if u := fill(template, values); u != "" {
			out = append(out, DeepLink{l.Name, l.For, u})
		}
	}
	return out
}

// fill puts the values in, each as a query has it: that has neither /, ?, # nor
// & left, and is right in a path and in a fragment too.
func fill(template string, values map[string]string) string {
	var b strings.Builder
	for i, part := range strings.Split(template, "{") {
		if i == 0 {
			b.WriteString(part)
			continue
		}
		name, rest, _ := strings.Cut(part, "}")
		v := values[name]
		if v == "" && name != "repository" && name != "service" {
			return ""
		}
		b.WriteString(strings.ReplaceAll(url.QueryEscape(v), "+", "%20"))
		b.WriteString(rest)
	}
	return b.String()
}
