package alert

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"assay/event"
)

// Rule says when an alert is opened, and what is to be done.
type Rule struct {
	ID       string
	Severity Severity
	Title    string
	Why      string // what it means, for the list of rules
	// Command acts on it; {digest}, {about}, {cluster} and {id} are put in.
	Command string
	// High says that it counts as a high-severity event of its service.
	High bool
	// Several is how many failures within [flakeWindow] it takes. 0: one.
	Several int

	kinds    []event.Kind
	resolves []event.Kind
	// match says whether an event is one, what it is about besides its artifact, and
	// in which words.
	match func(e *event.Event, b body) (found, bool)
	// severity, where it depends on the event, in place of Severity.
	severity func(p *occurrence) Severity
}

// found is what a rule makes of an event.
type found struct {
	about   string // what the alert is about, where its artifact does not say it
	cause   string // what keeps it open; "": it is resolved by hand
	summary string
	key     string // what else tells it from others of its rule: the cluster
	// anywhere says that the alert is about what is named, wherever: not about the
	// event's artifact.
	anywhere bool
}

// flakeWindow is the time in which several failures of infrastructure must come.
const flakeWindow = 10 * time.Minute

func (r *Rule) mayPage() bool { return r.Severity == Page || r.severity != nil }

// Runbook is the path of the rule's page in the docs.
func (r *Rule) Runbook() string { return "runbooks/" + r.ID + ".md" }

// Rules are all rules, pages first.
func Rules() []Rule { return slices.Clone(rules) }

func ruleOf(id string) *Rule {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return &rules[i]
}

// kinds are all kinds of event that a rule looks at.
var kinds = func() (out []event.Kind) {
	for _, r := range rules {
		out = append(append(out, r.kinds...), r.resolves...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}()

// body is an event's body, read without trust: a member of another type is absent.
type body map[string]json.RawMessage

func bodyOf(e *event.Event) body {
	raw, _ := e.Body.(json.RawMessage)
	var b body
	_ = json.Unmarshal(raw, &b)
	return b
}

func (b body) text(name string) string {
	var s string
	_ = json.Unmarshal(b[name], &s)
	return s
}

func (b body) number(name string) int64 {
	var n int64
	_ = json.Unmarshal(b[name], &n)
	return n
}

func (b body) words(names ...string) string {
	var out []string
	for _, n := range names {
		if s := b.text(n); s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

// always matches: the alert is about the event's artifact and stays until
// somebody resolves it.
func always(names ...string) func(*event.Event, body) (found, bool) {
	return func(_ *event.Event, b body) (found, bool) {
		return found{summary: b.words(names...)}, true
	}
}

// until matches, and the alert is over when an event that resolves it names the
// same members.
func until(about []string, names ...string) func(*event.Event, body) (found, bool) {
	return func(e *event.Event, b body) (found, bool) {
		key := b.words(about...)
		if key == "" {
			return found{cause: "it", key: e.Cluster, summary: b.words(names...)}, true
		}
		return found{about: key, cause: key, key: e.Cluster, summary: b.words(names...)}, true
	}
}

// exceptionOf matches exceptions of a kind, until they end.
func exceptionOf(kind string) func(*event.Event, body) (found, bool) {
	return func(_ *event.Event, b body) (found, bool) {
		id := b.text("id")
		return found{about: id, cause: id, summary: b.words("id", "until", "reason", "requested_by", "decided_by")}, b.text("kind") == kind
	}
}
