package siem

import (
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/internal/glob"
)

// Spec is a sink, as the site's configuration has it: sinks write files and hold
// credentials of the machine, so that no document brings them.
type Spec struct {
	// Name is the sink's, and its cursor's.
	Name string `yaml:"name"`
	// Syslog is HOST:PORT of a receiver by TLS (RFC 5425).
	Syslog string `yaml:"syslog"`
	// URL takes POST requests of JSON lines.
	URL string `yaml:"url"`
	// File is a path that records are appended to, a line each.
	File string `yaml:"file"`

	// Events are kinds of events, with "*" for a whole family; default: all but
	// pulls and blob reads.
	Events []string `yaml:"events"`
	// Classes are class_uids of OCSF; default: all.
	Classes []int `yaml:"classes"`
	// MinSeverity is informational, low, medium, high or critical.
	MinSeverity string `yaml:"min_severity"`
	// Repositories are patterns; only events of these are sent, and those of none.
	Repositories []string `yaml:"repositories"`
	// New begins a new sink at the end of the log; else it is sent all that is kept.
	New bool `yaml:"new"`

	// CABundle is a PEM file of authorities for the receiver's TLS.
	CABundle string `yaml:"ca_bundle"`
	// Certificate and Key are this client's, PEM files.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// Headers of HTTP: the values are secrets' places, file:PATH or credential:NAME.
	Headers map[string]string `yaml:"headers"`

	// MaxBytes is the size at which a file is rotated; default 64 MiB.
	MaxBytes int64 `yaml:"max_bytes"`
	// Files is how many rotated files are kept; default 8.
	Files int `yaml:"files"`
}

// MaxSinks is how many sinks a site has at most.
const MaxSinks = 16

// Validate says what is wrong with a spec; fault.Invalid.
func (s *Spec) Validate() error {
	if s.Name == "" || len(s.Name) > 40 || strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fault.Newf(fault.Invalid, "name %.60q: want small letters, digits and -, at most 40", s.Name)
	}
	n := 0
	for _, where := range []string{s.Syslog, s.URL, s.File} {
		if where != "" {
			n++
		}
	}
	if n != 1 {
		return fault.Newf(fault.Invalid, "sink %s: want one of syslog, url, file; found %d", s.Name, n)
	}
	if err := s.where(); err != nil {
		return err
	}
	for _, e := range s.Events {
		if !slices.ContainsFunc(event.Kinds(), func(k event.KindInfo) bool { return matches(e, k.Kind) }) {
			return fault.Newf(fault.Invalid, "sink %s: no kind of event is %.60q; docs/events.md lists them, and * stands for a family", s.Name, e)
		}
	}
	for _, c := range s.Classes {
		if classNames[c] == "" {
			return fault.Newf(fault.Invalid, "sink %s: class %d is none that is sent; want some of %v", s.Name, c, classNumbers())
		}
	}
	if _, ok := ParseSeverity(s.MinSeverity); !ok && s.MinSeverity != "" {
		return fault.Newf(fault.Invalid, "sink %s: min_severity %.40q: want informational, low, medium, high or critical", s.Name, s.MinSeverity)
	}
	for _, r := range s.Repositories {
		if _, err := glob.Parse(r); err != nil {
			return err
		}
	}
	if (s.Certificate == "") != (s.Key == "") {
		return fault.Newf(fault.Invalid, "sink %s: want both certificate and key, or neither", s.Name)
	}
	return nil
}

func (s *Spec) where() error {
	switch {
	case s.Syslog != "":
		if host, port, err := net.SplitHostPort(s.Syslog); err != nil || host == "" || port == "" {
			return fault.Newf(fault.Invalid, "sink %s: syslog %.100q: want HOST:PORT; it is TLS (RFC 5425), whose port is 6514", s.Name, s.Syslog)
		}
	case s.URL != "":
		u, err := url.Parse(s.URL)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			return fault.Newf(fault.Invalid, "sink %s: url: want https://HOST/PATH without credentials, which belong into headers", s.Name)
		}
		if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fault.Newf(fault.Invalid, "sink %s: url %.100q: http is for this machine only; want https", s.Name, s.URL)
		}
	default:
		if !filepath.IsAbs(s.File) {
			return fault.Newf(fault.Invalid, "sink %s: file %.100q: want an absolute path", s.Name, s.File)
		}
		if s.MaxBytes < 0 || s.Files < 0 || s.MaxBytes > 0 && s.MaxBytes < 4096 {
			return fault.Newf(fault.Invalid, "sink %s: max_bytes %d and files %d: want at least 4096, and no number below zero", s.Name, s.MaxBytes, s.Files)
		}
	}
	return nil
}

func matches(pattern string, k event.Kind) bool {
	ok, err := path.Match(pattern, string(k))
	return err == nil && ok
}

// filter is what a sink wants.
type filter struct {
	kinds        map[event.Kind]bool
	classes      []int
	least        Severity
	repositories []glob.Glob
}

func newFilter(s *Spec) (filter, error) {
	f := filter{kinds: map[event.Kind]bool{}, classes: s.Classes}
	for _, k := range event.Kinds() {
		wanted := len(s.Events) == 0 && k.Kind != event.ArtifactPulled && k.Kind != event.BlobRead
		for _, p := range s.Events {
			wanted = wanted || matches(p, k.Kind)
		}
		f.kinds[k.Kind] = wanted
	}
	f.least, _ = ParseSeverity(s.MinSeverity)
	for _, r := range s.Repositories {
		g, err := glob.Parse(r)
		if err != nil {
			return f, err
		}
		f.repositories = append(f.repositories, g)
	}
	return f, nil
}

func (f *filter) wants(e *event.Event, r *Record) bool {
	if r.Severity < f.least || len(f.classes) > 0 && !slices.Contains(f.classes, r.Class) {
		return false
	}
	if len(f.repositories) == 0 {
		return true
	}
	b, _ := r.Fields["unmapped"].(map[string]any)
	name, _ := b["repository"].(string)
	return name == "" || slices.ContainsFunc(f.repositories, func(g glob.Glob) bool { return g.Match(name) })
}

// settle is how long a receiver by TLS has to close a connection that it did not
// take a batch from: the protocol has no answer.
const settle = 150 * time.Millisecond
