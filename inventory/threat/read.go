package threat

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Read reads what a sensor wrote: JSON objects, one after the other or as lines,
// in the form of source. skipped counts those that report nothing, such as each
// start and end of a process that Tetragon tells of.
func Read(source Source, cluster string, b []byte) (list []Report, skipped int, err error) {
	read := readFalco
	switch source {
	case Falco:
	case Tetragon:
		read = readTetragon
	default:
		return nil, 0, fault.Newf(fault.Invalid, "source %.40q: want falco or tetragon", source)
	}
	if len(b) > MaxBytes {
		return nil, 0, fault.Newf(fault.TooLarge, "%d bytes of events: want at most %d at once", len(b), MaxBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	for n := 1; ; n++ {
		var raw json.RawMessage
		if !dec.More() {
			break
		}
		if err := dec.Decode(&raw); err != nil {
			return nil, 0, fault.Newf(fault.Invalid, "event %d of %s: %w", n, source, err)
		}
		if n > MaxBatch {
			return nil, 0, fault.Newf(fault.TooLarge, "more than %d events at once: hand them in in parts", MaxBatch)
		}
		r, is, err := read(raw)
		if err != nil {
			return nil, 0, fault.Newf(fault.Invalid, "event %d of %s: %w", n, source, err)
		}
		if !is {
			skipped++
			continue
		}
		r.Source, r.Cluster = source, cluster
		list = append(list, r)
	}
	if len(list)+skipped == 0 {
		return nil, 0, fault.Newf(fault.Invalid, "no event: want JSON objects of %s", source)
	}
	return list, skipped, nil
}

// falco is an event as Falco's http_output, its json_output and Falcosidekick
// write it.
type falco struct {
	Output   string                     `json:"output"`
	Priority string                     `json:"priority"`
	Rule     string                     `json:"rule"`
	Time     time.Time                  `json:"time"`
	Hostname string                     `json:"hostname"`
	Fields   map[string]json.RawMessage `json:"output_fields"`
}

func readFalco(b []byte) (r Report, is bool, err error) {
	var e falco
	if err := strictjson.Unmarshal(b, &e); err != nil {
		return r, false, err
	}
	e.Priority = strings.ToLower(e.Priority)
	if e.Priority == "info" {
		e.Priority = "informational"
	}
	if e.Rule == "" || !slices.Contains(Priorities, e.Priority) {
		return r, false, fault.Newf(fault.Invalid, "rule %.80q, priority %.40q: want an event of Falco, with json_output: true", e.Rule, e.Priority)
	}
	field := func(names ...string) string {
		for _, n := range names {
			var s string
			if json.Unmarshal(e.Fields[n], &s) == nil && s != "" && s != "<NA>" {
				return s
			}
		}
		return ""
	}
	r = Report{
		Rule: e.Rule, Priority: e.Priority, Claimed: e.Time, Message: e.Output,
		Node: field("k8s.node.name"), Namespace: field("k8s.ns.name"), Pod: field("k8s.pod.name"), Container: field("k8s.container.name", "container.name"),
		ContainerID: bareID(field("container.full_id", "container.id")), Process: field("proc.cmdline", "proc.name"), Path: field("proc.exepath", "fd.name"),
		Image: field("container.image.repository"), Digest: digestIn(field("container.image.digest")),
	}
	if r.Node == "" {
		r.Node = e.Hostname
	}
	if tag := field("container.image.tag"); tag != "" && r.Image != "" {
		r.Image += ":" + tag
	}
	return r, true, nil
}

// tetragonEvent is what the events of Tetragon's JSON export have in common.
type tetragonEvent struct {
	Process struct {
		Binary    string `json:"binary"`
		Arguments string `json:"arguments"`
		Docker    string `json:"docker"`
		Pod       *struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
			Container struct {
				ID    string `json:"id"`
				Name  string `json:"name"`
				Image struct {
					ID   string `json:"id"`
					Name string `json:"name"`
				} `json:"image"`
			} `json:"container"`
		} `json:"pod"`
	} `json:"process"`
	Function   string `json:"function_name"`
	Subsys     string `json:"subsys"`
	Event      string `json:"event"`
	Symbol     string `json:"symbol"`
	Action     string `json:"action"`
	PolicyName string `json:"policy_name"`
	Message    string `json:"message"`
}

// Those that a tracing policy made. The others tell of all that starts and ends.
var tetragonKinds = []string{"process_kprobe", "process_tracepoint", "process_uprobe", "process_lsm", "process_usdt"}

var tetragonPlain = []string{"process_exec", "process_exit", "process_loader", "process_throttle", "rate_limit_info", "test"}

func readTetragon(b []byte) (r Report, is bool, err error) {
	var all map[string]json.RawMessage
	if err := strictjson.Unmarshal(b, &all); err != nil {
		return r, false, err
	}
	kind := ""
	for _, k := range tetragonKinds {
		if _, have := all[k]; have {
			kind = k
		}
	}
	if kind == "" {
		for _, k := range tetragonPlain {
			if _, have := all[k]; have {
				return r, false, nil
			}
		}
		return r, false, fault.Newf(fault.Invalid, "want an event of Tetragon's JSON export, with a member such as %s", tetragonKinds[0])
	}
	var e tetragonEvent
	if err := json.Unmarshal(all[kind], &e); err != nil {
		return r, false, err
	}
	_ = json.Unmarshal(all["node_name"], &r.Node)
	_ = json.Unmarshal(all["time"], &r.Claimed)
	what := e.Function + e.Symbol
	if what == "" && e.Subsys != "" {
		what = e.Subsys + "/" + e.Event
	}
	r.Rule = e.PolicyName
	if r.Rule == "" {
		r.Rule = kind + " " + what
	}
	// An action that stops the process says that its policy means harm.
	r.Priority = "warning"
	switch e.Action {
	case "KPROBE_ACTION_SIGKILL", "KPROBE_ACTION_OVERRIDE", "KPROBE_ACTION_NOTIFYENFORCER":
		r.Priority = "critical"
	}
	r.Process, r.Path = strings.TrimSpace(e.Process.Binary+" "+e.Process.Arguments), e.Process.Binary
	r.Message = strings.TrimSpace(strings.Join([]string{e.Message, what, e.Action}, " "))
	r.ContainerID = e.Process.Docker
	if p := e.Process.Pod; p != nil {
		r.Namespace, r.Pod, r.Container, r.Image, r.Digest = p.Namespace, p.Name, p.Container.Name, p.Container.Image.Name, digestIn(p.Container.Image.ID)
		if !strings.Contains(p.Container.Image.ID, "@") {
			r.Digest = "" // a bare one is of the image's configuration, which names no manifest
		}
		if id := bareID(p.Container.ID); id != "" {
			r.ContainerID = id
		}
	}
	return r, true, nil
}
