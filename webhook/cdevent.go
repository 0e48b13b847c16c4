package webhook

import (
	"encoding/json"
	"strings"

	"assay/artifact"
	"assay/event"
)

// The version of CDEvents that is spoken.
const specVersion = "0.4.1"

// standard are the kinds that CDEvents has a type for (CDEvents 0.4.1, artifact
// events). All others go as custom types, dev.cdeventsx.assay-SUBJECT.PREDICATE.
var standard = map[event.Kind]string{
	event.ArtifactPushed:      "dev.cdevents.artifact.published.0.2.0",
	event.AttestationIngested: "dev.cdevents.artifact.signed.0.2.0",
	event.ArtifactPulled:      "dev.cdevents.artifact.downloaded.0.1.0",
	event.ArtifactDeleted:     "dev.cdevents.artifact.deleted.0.1.0",
}

// cdEvent is a CDEvent, in the order of its schema.
type cdEvent struct {
	Context struct {
		Version   string `json:"version"`
		ID        string `json:"id"`
		Source    string `json:"source"`
		Type      string `json:"type"`
		Timestamp string `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string         `json:"id"`
		Source  string         `json:"source,omitempty"`
		Type    string         `json:"type"`
		Content map[string]any `json:"content"`
	} `json:"subject"`
	CustomData            customData `json:"customData"`
	CustomDataContentType string     `json:"customDataContentType"`
}

// customData is Assay's own event, whole.
type customData struct {
	Kind   event.Kind      `json:"kind"`
	Event  string          `json:"event"`
	Seq    int64           `json:"seq"`
	Digest artifact.Digest `json:"digest,omitempty"`
	Actor  string          `json:"actor,omitempty"`
	Trace  string          `json:"trace_id,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// typeOf is the CDEvents type of a kind.
func typeOf(k event.Kind) string {
	if t := standard[k]; t != "" {
		return t
	}
	subject, predicate, _ := strings.Cut(string(k), ".")
	predicate = strings.NewReplacer(".", "", "_", "").Replace(predicate)
	return "dev.cdeventsx.assay-" + strings.ReplaceAll(subject, "_", "") + "." + predicate + ".0.1.0"
}

// render makes the body of a request: the CDEvent of an event. source is the
// site's URL, host its registry's name in references.
func render(e *event.Event, source, host string) ([]byte, string, error) {
	var c cdEvent
	c.Context.Version, c.Context.ID, c.Context.Source, c.Context.Type = specVersion, e.ID, source, typeOf(e.Kind)
	c.Context.Timestamp = e.Time.UTC().Format("2006-01-02T15:04:05.000000Z")
	repository := member(e, "repository")
	c.Subject.ID, c.Subject.Source = subjectID(e, host, repository), source
	c.Subject.Content = map[string]any{}
	switch e.Kind {
	case event.AttestationIngested:
		c.Subject.Type = "artifact"
		c.Subject.Content["signature"] = member(e, "id")
	case event.ArtifactPulled, event.ArtifactPushed, event.ArtifactDeleted:
		c.Subject.Type = "artifact"
		c.Subject.Content["user"] = e.Actor
	default:
		subject, _, _ := strings.Cut(strings.TrimPrefix(c.Context.Type, "dev.cdeventsx."), ".")
		c.Subject.Type = subject
	}
	raw, _ := e.Body.(json.RawMessage)
	c.CustomData = customData{Kind: e.Kind, Event: e.ID, Seq: e.Seq, Digest: e.Digest, Actor: e.Actor, Trace: e.TraceID, Body: raw}
	c.CustomDataContentType = "application/json"
	b, err := json.Marshal(c)
	return b, c.Context.Type, err
}

// subjectID is the artifact's package URL, as CDEvents wants it, or what else
// the event is about.
func subjectID(e *event.Event, host, repository string) string {
	if e.Digest == "" {
		if repository != "" {
			return host + "/" + repository
		}
		return string(e.Kind)
	}
	if repository == "" {
		return string(e.Digest)
	}
	name := repository[strings.LastIndexByte(repository, '/')+1:]
	q := map[string]string{"repository_url": host + "/" + repository}
	if tag := member(e, "tag"); tag != "" {
		q["tag"] = tag
	}
	p, err := artifact.NewPURL("oci", "", name, string(e.Digest), q, "")
	if err != nil {
		return string(e.Digest)
	}
	return p.String()
}
