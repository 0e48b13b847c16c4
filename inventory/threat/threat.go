// Package threat takes in what sensors say of what happens in containers and on
// hosts: Falco, Tetragon and Assay's own agent. It joins each report to the
// workload that the inventory knows, and writes an event for it, once an hour for
// the same thing.
//
// A report is its sender's word. It names nothing that becomes trusted by it.
package threat

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"assay/artifact"
	"assay/internal/fault"
)

// Source is who saw it.
type Source string

// The sources.
const (
	Falco    Source = "falco"
	Tetragon Source = "tetragon"
	Agent    Source = "agent"
)

// The verdicts of the agent, as [Report.Rule].
const (
	RuleForeign   = "foreign"   // the executed file is not in the image
	RuleChanged   = "changed"   // the image has another file at its path
	RuleUnknown   = "unknown"   // what the image holds, or which it is, is not known
	RuleUnwatched = "unwatched" // the agent missed executions, or lost reports of them
)

// Report is one thing that a sensor saw.
type Report struct {
	Source   Source
	Rule     string
	Priority string // Falco's words in lower case; "" none
	Claimed  time.Time

	Cluster, Node, Namespace, Pod, Container string
	ContainerID                              string
	Image                                    string
	Digest                                   artifact.Digest // of the image, as the sensor says

	Process    string
	Path       string
	FileDigest artifact.Digest
	Message    string
}

// Priorities are Falco's, gravest first.
var Priorities = []string{"emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug"}

// Limits of one hand-in.
const (
	MaxBatch = 2_000
	MaxBytes = 8 << 20
)

func (r *Report) validate() error {
	switch r.Source {
	case Falco, Tetragon, Agent:
	default:
		return fault.Newf(fault.Invalid, "source %.40q: want falco, tetragon or agent", r.Source)
	}
	if r.Cluster == "" || r.Rule == "" {
		return fault.Newf(fault.Invalid, "a report of %s without a cluster or a rule", r.Source)
	}
	for _, d := range []artifact.Digest{r.Digest, r.FileDigest} {
		if d != "" {
			if err := d.Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

// clean makes every text printable and short: it is hostile, and goes into events.
func (r *Report) clean() {
	for s, most := range map[*string]int{
		&r.Rule: 200, &r.Cluster: 63, &r.Node: 253, &r.Namespace: 253, &r.Pod: 253, &r.Container: 253, &r.ContainerID: 80,
		&r.Image: 512, &r.Process: 400, &r.Path: 400, &r.Message: 800,
	} {
		*s = plain(*s, most)
	}
}

func plain(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, s)
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// identityOf is the same for reports of the same thing.
func (r *Report) identityOf(kind, name string) string {
	who := r.Container
	if r.Pod == "" {
		who = r.ContainerID
	}
	h := sha256.New()
	for _, s := range []string{string(r.Source), r.Rule, r.Cluster, r.Namespace, kind, name, who, string(r.Digest), r.Path, string(r.FileDigest)} {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// digestIn is the digest that a reference or an image's ID ends with.
func digestIn(s string) artifact.Digest {
	if _, after, ok := strings.Cut(s, "@"); ok {
		s = after
	}
	d, err := artifact.ParseDigest(s)
	if err != nil {
		return ""
	}
	return d
}

// bareID is a container's ID without its runtime's name.
func bareID(s string) string {
	if i := strings.LastIndex(s, "://"); i >= 0 {
		s = s[i+3:]
	}
	if s == "host" {
		return ""
	}
	return s
}
