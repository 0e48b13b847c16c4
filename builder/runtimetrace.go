package builder

import (
	"encoding/json"
	"net/url"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/builder/trace"
)

// TraceType is the predicate type of [Run.TracePredicate].
const TraceType = attestation.PredicateRuntimeTrace

// monitorType says how the parts of the predicate that in-toto leaves to the
// monitor are to be read. docs/build.md describes it.
const monitorType = "https://assay.dev/monitors/ptrace/v1"

// maxListed bounds the lists of names in the trace's summary; their counts are
// whole.
const maxListed = 20_000

// runtimeTrace is in-toto's predicate, with the member assayTrace of our own.
type runtimeTrace struct {
	Monitor          monitor          `json:"monitor"`
	MonitoredProcess monitoredProcess `json:"monitoredProcess"`
	MonitorLog       monitorLog       `json:"monitorLog"`
	Metadata         traceTimes       `json:"metadata"`
	Summary          traceSummary     `json:"assayTrace"`
}

type monitor struct {
	Type        string         `json:"type"`
	TracePolicy map[string]any `json:"tracePolicy"`
}

type monitoredProcess struct {
	HostID string `json:"hostID"`
	Type   string `json:"type"`
	Event  string `json:"event"`
}

type monitorLog struct {
	Process    []tracedProgram `json:"process"`
	Network    []tracedAddress `json:"network"`
	FileAccess []resource      `json:"fileAccess"`
}

type tracedProgram struct {
	Program string             `json:"program"`
	Digest  artifact.DigestSet `json:"digest,omitempty"`
	Made    bool               `json:"made,omitempty"` // by the build itself
	Count   int                `json:"count"`
}

type tracedAddress struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	Port     int    `json:"port,omitempty"`
	Failed   bool   `json:"failed,omitempty"`
	Argument bool   `json:"argument,omitempty"` // as the program gave it
	Count    int    `json:"count"`
}

type traceTimes struct {
	StartedOn  string `json:"buildStartedOn"`
	FinishedOn string `json:"buildFinishedOn"`
}

type traceSummary struct {
	InvocationID    string   `json:"invocationId"`
	Traced          bool     `json:"traced"`
	Reason          string   `json:"reason,omitempty"` // why it was not
	Complete        bool     `json:"complete"`
	Truncated       bool     `json:"truncated"`
	Gaps            []string `json:"gaps,omitempty"`
	Read            int      `json:"filesRead"`
	Written         int      `json:"filesWritten"`
	Names           []string `json:"names,omitempty"` // asked of a name server
	UndeclaredCount int      `json:"undeclaredCount"`
	Undeclared      []string `json:"undeclared,omitempty"`
	ChangedCount    int      `json:"changedCount"`
	Changed         []string `json:"changed,omitempty"`
}

// TracePredicate states what was seen of the build, or that it could not be
// traced. It is an error to ask when no trace was asked for.
func (r *Run) TracePredicate(builder string) ([]byte, error) {
	t := r.Trace
	out := runtimeTrace{
		Monitor:          monitor{Type: monitorType, TracePolicy: map[string]any{"toolchain": t.Toolchain}},
		MonitoredProcess: monitoredProcess{HostID: builder, Type: BuildType, Event: r.ID},
		MonitorLog:       monitorLog{Process: []tracedProgram{}, Network: []tracedAddress{}, FileAccess: []resource{}},
		Metadata:         traceTimes{StartedOn: r.StartedOn.Format(time.RFC3339), FinishedOn: r.FinishedOn.Format(time.RFC3339)},
		Summary: traceSummary{
			InvocationID: r.ID, Traced: t.Traced, Reason: t.Reason, Complete: t.Log.Complete, Truncated: t.Log.Truncated, Gaps: t.Log.Gaps,
			Names: t.Log.Names, UndeclaredCount: len(t.Undeclared), ChangedCount: len(t.Changed),
			Undeclared: t.Undeclared[:min(len(t.Undeclared), maxListed)], Changed: t.Changed[:min(len(t.Changed), maxListed)],
		},
	}
	for _, p := range t.Log.Programs {
		e := tracedProgram{Program: t.show(p.Path), Made: p.Made, Count: p.Count}
		if p.Digest != "" {
			e.Digest = p.Digest.Set()
		}
		out.MonitorLog.Process = append(out.MonitorLog.Process, e)
	}
	for _, c := range t.Log.Connections {
		out.MonitorLog.Network = append(out.MonitorLog.Network, tracedAddress(c))
	}
	for _, f := range t.Log.Files {
		if f.Read {
			out.Summary.Read++
		}
		if f.Written {
			out.Summary.Written++
		}
		out.MonitorLog.FileAccess = append(out.MonitorLog.FileAccess, t.access(&f))
	}
	return json.Marshal(out)
}

// access is a file as in-toto's resource descriptor.
func (t *Trace) access(f *trace.File) resource {
	e := resource{Annotations: map[string]any{}}
	if f.Digest != "" {
		e.Name, e.Digest = t.show(f.Path), f.Digest.Set()
	} else {
		e.URI = (&url.URL{Path: t.show(f.Path)}).String() // a descriptor wants a digest or a URI
	}
	if f.Read {
		e.Annotations["read"] = true
	}
	if f.Written {
		e.Annotations["written"] = true
	}
	if f.Changing {
		e.Annotations["changing"] = true
	}
	return e
}
