package siem

import (
	"encoding/json"
	"net/netip"
	"strings"

	"assay/event"
)

// SchemaVersion is the version of OCSF that records are written in.
const SchemaVersion = "1.8.0"

// The classes of OCSF that are used.
const (
	VulnerabilityFinding = 2002
	ComplianceFinding    = 2003
	DetectionFinding     = 2004
	Authentication       = 3002
	EntityManagement     = 3004
	ApplicationLifecycle = 6002
	APIActivity          = 6003
)

var classNames = map[int]string{
	VulnerabilityFinding: "Vulnerability Finding", ComplianceFinding: "Compliance Finding", DetectionFinding: "Detection Finding",
	Authentication: "Authentication", EntityManagement: "Entity Management", ApplicationLifecycle: "Application Lifecycle", APIActivity: "API Activity",
}

var categoryNames = map[int]string{2: "Findings", 3: "Identity & Access Management", 6: "Application Activity"}

// Severity is OCSF's severity_id.
type Severity int

// The severities.
const (
	Informational Severity = 1
	Low           Severity = 2
	Medium        Severity = 3
	High          Severity = 4
	Critical      Severity = 5
)

var severityNames = map[Severity]string{Informational: "Informational", Low: "Low", Medium: "Medium", High: "High", Critical: "Critical"}

// ParseSeverity reads a severity's name, in small letters.
func ParseSeverity(text string) (Severity, bool) {
	for s, name := range severityNames {
		if strings.EqualFold(name, text) {
			return s, true
		}
	}
	return 0, false
}

// other is OCSF's activity of no name.
const other = 99

// object is one of OCSF, by the names of its attributes.
type object = map[string]any

// mapping says what record a kind of events becomes.
type mapping struct {
	class    int
	activity int
	name     string // of the activity
	severity Severity
	failed   bool // status: failure
}

// Product says what wrote the records.
type Product struct {
	Version string
	Site    string // its public URL
}

// Record is an event as OCSF has it.
type Record struct {
	Class    int
	Severity Severity
	Fields   map[string]any
}

// JSON is the record in one line.
func (r *Record) JSON() ([]byte, error) { return json.Marshal(r.Fields) }

// NewRecord makes the record of an event.
func NewRecord(e *event.Event, p Product) Record {
	b := body{}
	raw, _ := e.Body.(json.RawMessage)
	_ = json.Unmarshal(raw, &b.all)
	m := mappingOf(e, b)
	r := Record{Class: m.class, Severity: m.severity}
	meta := metadata(e, p)
	f := object{
		"class_uid": m.class, "class_name": classNames[m.class], "category_uid": m.class / 1000, "category_name": categoryNames[m.class/1000],
		"activity_id": m.activity, "activity_name": m.name, "type_uid": m.class*100 + m.activity, "type_name": classNames[m.class] + ": " + m.name,
		"severity_id": int(m.severity), "severity": severityNames[m.severity], "time": e.Time.UnixMilli(), "message": meaning[e.Kind],
		"metadata": meta,
	}
	if len(b.all) > 0 {
		f["unmapped"] = b.all
	}
	if e.TraceID != "" && m.class == APIActivity { // no other class has the profile
		f["trace"] = object{"uid": e.TraceID}
		meta["profiles"] = []string{"trace"}
	}
	if m.class/1000 != 2 { // a finding's status is another word
		f["status_id"], f["status"] = 1, "Success"
		if m.failed {
			f["status_id"], f["status"] = 2, "Failure"
			if why := b.text("reason"); why != "" {
				f["status_detail"] = why
			}
		}
	}
	fill(e, b, m, f, p)
	r.Fields = f
	return r
}

func metadata(e *event.Event, p Product) object {
	m := object{
		"version": SchemaVersion, "uid": e.ID, "event_code": string(e.Kind), "sequence": e.Seq, "log_name": "assay", "log_provider": p.Site,
		"original_time": e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), "product": product(p),
	}
	if e.TraceID != "" {
		m["correlation_uid"] = e.TraceID
	}
	return m
}

func product(p Product) object {
	return object{"name": "Assay", "vendor_name": "Assay", "version": p.Version}
}

// body is an event's, by name.
type body struct{ all map[string]any }

func (b body) text(name string) string {
	s, _ := b.all[name].(string)
	return s
}

func (b body) first(names ...string) string {
	for _, n := range names {
		if s := b.text(n); s != "" {
			return s
		}
	}
	return ""
}

func (b body) list(name string) (out []string) {
	l, _ := b.all[name].([]any)
	for _, x := range l {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// fill adds what the class asks for.
func fill(e *event.Event, b body, m mapping, f object, p Product) {
	switch m.class {
	case APIActivity:
		f["actor"], f["api"], f["src_endpoint"] = actor(e, b), object{"operation": string(e.Kind), "service": object{"name": "Assay"}}, source(b)
		if res := resources(e, b); len(res) > 0 {
			f["resources"] = res
		}
	case Authentication:
		f["user"], f["service"], f["src_endpoint"], f["actor"] = user(e, b), object{"name": "Assay", "uid": p.Site}, source(b), actor(e, b)
	case EntityManagement:
		f["actor"], f["entity"] = actor(e, b), entity(e, b)
	case ApplicationLifecycle:
		f["app"] = product(p)
	default:
		finding(e, b, m, f, p)
	}
}

func actor(e *event.Event, b body) object {
	if e.Actor == "" {
		return object{"app_name": "Assay"}
	}
	if name, ok := strings.CutPrefix(e.Actor, "system:"); ok {
		return object{"app_name": "Assay " + name}
	}
	return object{"user": user(e, b)}
}

// user is the event's actor: issuer and subject with a # between.
func user(e *event.Event, b body) object {
	id := e.Actor
	if id == "" {
		id = b.first("subject", "identity")
	}
	if id == "" {
		id = "anonymous"
	}
	u := object{"uid": id, "name": id}
	if issuer, subject, ok := strings.Cut(id, "#"); ok && subject != "" {
		u["name"], u["domain"] = subject, issuer
	}
	if c := b.text("credential"); c != "" {
		u["credential_uid"] = c
	}
	return u
}

// source is whence it came, as far as it is known.
func source(b body) object {
	text := b.text("address")
	if a, err := netip.ParseAddr(text); err == nil {
		return object{"ip": a.String()}
	}
	if text == "" {
		text = "Assay"
	}
	return object{"name": text}
}

func resources(e *event.Event, b body) (out []object) {
	if e.Digest != "" {
		r := object{"uid": string(e.Digest), "type": "artifact"}
		name := b.text("repository")
		if tag := b.text("tag"); tag != "" && name != "" {
			name += ":" + tag
		}
		if name != "" {
			r["name"] = name
		}
		out = append(out, own(r, e))
	} else if name := b.text("repository"); name != "" {
		out = append(out, own(object{"name": name, "type": "repository"}, e))
	}
	return out
}

// own says whose a resource is.
func own(r object, e *event.Event) object {
	var labels []string
	for _, l := range [...]struct{ name, value string }{{"team", e.Team}, {"service", e.Service}, {"env", e.Env}, {"cluster", e.Cluster}} {
		if l.value != "" {
			labels = append(labels, l.name+"="+l.value)
		}
	}
	if len(labels) > 0 {
		r["labels"] = labels
	}
	if e.Team != "" {
		r["owner"] = object{"name": e.Team}
	}
	return r
}

// entity is what was managed: a key, a policy, a root, a robot.
func entity(e *event.Event, b body) object {
	kind, _, _ := strings.Cut(string(e.Kind), ".")
	name := b.first("name", "robot", "role", "policy", "what", "target", "id", "hook", "source")
	if name == "" {
		name = kind
	}
	out := object{"name": name, "type": kind}
	if uid := b.first("fingerprint", "hash", "id", "serial"); uid != "" {
		out["uid"] = uid
	}
	return out
}

// finding fills the classes of category 2.
func finding(e *event.Event, b body, m mapping, f object, p Product) {
	title := meaning[e.Kind]
	if why := b.first("reason", "title"); why != "" {
		title = why
	}
	info := object{"uid": e.ID, "title": title, "types": []string{string(e.Kind)}, "created_time": e.Time.UnixMilli()}
	if p.Site != "" && e.Digest != "" {
		info["src_url"] = p.Site + "/ui/artifacts/" + string(e.Digest)
	}
	f["finding_info"] = info
	f["status_id"], f["status"] = 1, "New"
	if m.activity == closeFinding {
		f["status_id"], f["status"] = 4, "Resolved"
	}
	if res := resources(e, b); len(res) > 0 {
		f["resources"] = res
	}
	switch m.class {
	case VulnerabilityFinding:
		f["vulnerabilities"] = vulnerabilities(b)
	case ComplianceFinding:
		f["compliance"] = compliance(e, b, m)
	case DetectionFinding:
		f["is_alert"] = m.severity >= High
	}
}

func vulnerabilities(b body) (out []object) {
	ids := b.list("advisories")
	if a := b.text("advisory"); a != "" {
		ids = append(ids, a)
	}
	for _, id := range ids {
		v := object{"title": id}
		if strings.HasPrefix(id, "CVE-") {
			v["cve"] = object{"uid": id}
		} else {
			v["advisory"] = object{"uid": id}
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		out = append(out, object{"title": "not named", "advisory": object{"uid": "unknown"}})
	}
	return out
}

func compliance(e *event.Event, b body, m mapping) object {
	c := object{"standards": []string{"Assay policy"}, "status_id": 1, "status": "Pass"}
	switch {
	case e.Kind == event.AdmissionWarned:
		c["status_id"], c["status"] = 2, "Warning"
	case m.failed:
		c["status_id"], c["status"] = 3, "Fail"
	}
	if policy := b.first("policy", "contract", "scope"); policy != "" {
		c["control"] = policy
	}
	if why := b.text("reason"); why != "" {
		c["status_detail"] = why
	}
	return c
}
