package migrate

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"assay/internal/strictjson"
)

// Keep is one retention rule, as a document of kind Retention says it.
type Keep struct {
	Name         string // of the document
	Repositories []string
	KeepLast     int
	KeepFor      time.Duration
	KeepTags     []string
	Notes        []string // for the reader
}

// keeps turns the rules of a project's retention policy into documents. Both
// houses keep what any rule keeps, so a rule that has no like here would let
// the documents of the others delete what it kept: then none is made, and notes
// say why. A document never keeps less than its rule.
func keeps(project string, rules []harborRule) (out []Keep, notes []string) {
	var whyNot []string
	for i := range rules {
		r := &rules[i]
		if r.Disabled {
			continue
		}
		k, why := keep(project, r)
		if why != "" {
			whyNot = append(whyNot, fmt.Sprintf("retention rule, to be written anew (%s): %s", why, describe(r)))
			continue
		}
		k.Name = "retain-" + documentName(project) + "-" + strconv.Itoa(i+1)
		out = append(out, *k)
	}
	if len(whyNot) == 0 {
		return out, nil
	}
	for i := range rules {
		if _, why := keep(project, &rules[i]); why == "" && !rules[i].Disabled {
			whyNot = append(whyNot, "retention rule, not made a document, since it would delete what the rules above keep: "+describe(&rules[i]))
		}
	}
	return nil, whyNot
}

// keep turns one rule; why says why it has no like here.
func keep(project string, r *harborRule) (k *Keep, why string) {
	if r.Action != "retain" {
		return nil, "its action is not retain"
	}
	k = &Keep{}
	repositories, ok := []string{"**"}, true
	if len(r.Scope["repository"]) > 0 {
		repositories, ok = selected(r.Scope["repository"], "repoMatches")
	}
	if !ok {
		return nil, "it excludes repositories, or its patterns have no like here"
	}
	for _, p := range repositories {
		k.Repositories = append(k.Repositories, project+"/"+p)
	}
	tags, ok := selected(r.Tags, "matches")
	if !ok {
		return nil, "it excludes tags, or its patterns have no like here"
	}
	all := false
	for _, t := range tags {
		all = all || t == "**" || t == "*"
	}
	switch r.Template {
	case "latestPushedK":
		if k.KeepLast = param(r, "latestPushedK"); k.KeepLast == 0 {
			return nil, "it names no number"
		}
		if all && !untagged(r) {
			return nil, "it counts tagged artifacts alone, keepLast counts all"
		}
	case "nDaysSinceLastPush":
		if k.KeepFor = time.Duration(param(r, "nDaysSinceLastPush")) * 24 * time.Hour; k.KeepFor == 0 {
			return nil, "it names no number of days"
		}
	case "always":
		if !all {
			return nil, "keepTags wants keepLast or keepFor beside it: say which"
		}
		return nil, "it keeps everything, as no rule does too"
	default:
		return nil, "there is none by pulls here"
	}
	if !all {
		k.KeepTags = tags
		k.Notes = append(k.Notes, "keeps more than its rule: all tags "+strings.Join(tags, ", ")+", whatever their number or age")
	}
	return k, ""
}

// param is a rule's number, from 1 to a hundred thousand; 0: none.
func param(r *harborRule, name string) int {
	n, ok := r.Params[name].(float64)
	if !ok || n < 1 || n > 100_000 || n != float64(int(n)) {
		return 0
	}
	return int(n)
}

// untagged says whether a rule is about artifacts without a tag as well.
func untagged(r *harborRule) bool {
	for _, s := range r.Tags {
		var extras struct {
			Untagged bool `json:"untagged"`
		}
		if s.Extras != "" && strictjson.Unmarshal([]byte(s.Extras), &extras) == nil && extras.Untagged {
			return true
		}
	}
	return false
}

func (k *Keep) write(b *bytes.Buffer) {
	b.WriteString("---\n# Harbor does not ask what runs: without keepRunning: false all is kept that is not known to run nowhere.\n")
	for _, n := range k.Notes {
		b.WriteString("# " + strings.Map(printable, n) + "\n")
	}
	fmt.Fprintf(b, "apiVersion: assay/v1\nkind: Retention\nmetadata: {name: %s}\nspec:\n  class: images\n  repositories:\n", k.Name)
	for _, p := range k.Repositories {
		b.WriteString("  - " + quoted(p) + "\n")
	}
	if k.KeepLast > 0 {
		fmt.Fprintf(b, "  keepLast: %d\n", k.KeepLast)
	}
	if k.KeepFor > 0 {
		fmt.Fprintf(b, "  keepFor: %dh\n", int(k.KeepFor.Hours()))
	}
	if len(k.KeepTags) > 0 {
		b.WriteString("  keepTags:\n")
		for _, t := range k.KeepTags {
			b.WriteString("  - " + quoted(t) + "\n")
		}
	}
	b.WriteString("  keepRunning: false\n")
}

// documentName makes a name of a pattern, of small letters, digits and hyphens.
func documentName(pattern string) string {
	name := strings.Trim(strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(pattern, "/**"), "*", "all"))), "-")
	return name[:min(len(name), 50)]
}
