package webhook

import (
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"

	"assay/event"
	"assay/internal/fault"
	"assay/internal/glob"
)

// Spec is a hook, as a document of kind Webhook says it.
type Spec struct {
	// URL takes POST requests: https, or http on private networks.
	URL string `yaml:"url"`
	// Events are kinds of events, with "*" for a whole family ("artifact.*").
	// Default: what supply chain tools ask for, see [DefaultEvents].
	Events []string `yaml:"events"`
	// Repositories are globs; only events of these repositories are sent. Default:
	// all events, also those of no repository.
	Repositories []string `yaml:"repositories"`
	// Secret signs the requests: "file:PATH" or "credential:NAME", of at least 16
	// bytes. Without one, nothing proves to the receiver who calls.
	Secret string `yaml:"secret"`
	// CABundle is a PEM file of authorities for the receiver's TLS.
	CABundle string `yaml:"caBundle"`
	// AllowPrivate permits receivers on private networks.
	AllowPrivate bool `yaml:"allowPrivate"`
}

// DefaultEvents are sent when a hook names none: pushed, signed, promoted,
// denied, pulled, tag moved, tampering found.
var DefaultEvents = []string{
	"artifact.pushed", "attestation.ingested", "artifact.promoted", "artifact.denied", "artifact.rejected", "artifact.quarantined",
	"artifact.released", "artifact.revoked", "artifact.pulled", "artifact.deleted", "tag.moved", "tag.deleted", "store.tampered",
}

// Validate says what is wrong with a spec; fault.Invalid.
func (s *Spec) Validate() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fault.Newf(fault.Invalid, "url %.200q: want https://HOST/PATH", s.URL)
	}
	if u.User != nil || u.Fragment != "" {
		return fault.Newf(fault.Invalid, "url of a webhook carries neither credentials nor a fragment: sign requests with secret")
	}
	if u.Scheme == "http" && !s.AllowPrivate {
		return fault.Newf(fault.Invalid, "url %.200q: http is for receivers on private networks, with allowPrivate; want https", s.URL)
	}
	for _, e := range s.Events {
		if !slices.ContainsFunc(event.Kinds(), func(k event.KindInfo) bool { return matches(e, k.Kind) }) {
			return fault.Newf(fault.Invalid, "events: no kind of event is %.60q; docs/events.md lists them, and * stands for a family", e)
		}
	}
	for _, r := range s.Repositories {
		if _, err := glob.Parse(r); err != nil {
			return err
		}
	}
	if s.Secret != "" && !strings.HasPrefix(s.Secret, "file:") && !strings.HasPrefix(s.Secret, "credential:") {
		return fault.Newf(fault.Invalid, "secret: want file:PATH or credential:NAME, never the secret itself")
	}
	return nil
}

func matches(pattern string, k event.Kind) bool {
	ok, err := path.Match(pattern, string(k))
	return err == nil && ok
}

// Hook is a spec that is in force.
type Hook struct {
	Name string
	Spec
	repositories []glob.Glob
}

// Compile makes a hook of a spec.
func Compile(name string, s Spec) (*Hook, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if len(s.Events) == 0 {
		s.Events = DefaultEvents
	}
	h := &Hook{Name: name, Spec: s}
	for _, r := range s.Repositories {
		g, err := glob.Parse(r)
		if err != nil {
			return nil, err
		}
		h.repositories = append(h.repositories, g)
	}
	return h, nil
}

// wants says whether an event goes to this hook. Events about webhooks never do:
// a hook that fails would feed itself.
func (h *Hook) wants(e *event.Event) bool {
	if e.Kind == event.WebhookFailing || !slices.ContainsFunc(h.Events, func(p string) bool { return matches(p, e.Kind) }) {
		return false
	}
	if len(h.repositories) == 0 {
		return true
	}
	name := member(e, "repository")
	return name != "" && slices.ContainsFunc(h.repositories, func(g glob.Glob) bool { return g.Match(name) })
}

// member is a text of the event's body; "" when there is none.
func member(e *event.Event, name string) string {
	raw, _ := e.Body.(json.RawMessage)
	var body map[string]json.RawMessage
	if json.Unmarshal(raw, &body) != nil {
		return ""
	}
	var s string
	_ = json.Unmarshal(body[name], &s)
	return s
}
