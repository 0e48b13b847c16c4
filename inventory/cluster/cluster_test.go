package cluster

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/inventory"
)

const (
	one = "sha256:" + "1111111111111111111111111111111111111111111111111111111111111111"
	two = "sha256:" + "2222222222222222222222222222222222222222222222222222222222222222"
)

func podDoc(name, meta, spec, status string) json.RawMessage {
	return json.RawMessage(`{"metadata":{"name":"` + name + `","namespace":"shop"` + meta + `},"spec":{"nodeName":"n1",` + spec + `},"status":{` + status + `}}`)
}

const owned = `,"labels":{"pod-template-hash":"abc"},"ownerReferences":[{"kind":"ReplicaSet","name":"web-abc","controller":true}]`

func running(name, id string) string {
	return `{"name":"` + name + `","imageID":"` + id + `","state":{"running":{"startedAt":"2026-01-01T00:00:00Z"}}}`
}

func TestWorkloads(t *testing.T) {
	key := func(kind, name, c string) inventory.Key {
		return inventory.Key{Namespace: "shop", Kind: kind, Name: name, Instance: "p", Container: c}
	}
	for name, tt := range map[string]struct {
		doc  json.RawMessage
		want []inventory.Workload
	}{
		"a deployment's, with a debugger, a sidecar and a volume": {
			podDoc("p", owned, `"containers":[{"name":"app","image":"r/a:1"}],"initContainers":[{"name":"side","image":"r/s:1"},{"name":"once","image":"r/o:1"}],"ephemeralContainers":[{"name":"dbg","image":"r/d:1"}],"volumes":[{"name":"e","emptyDir":{}},{"name":"v","image":{"reference":"r/v@`+two+`"}}]`,
				`"phase":"Running","containerStatuses":[`+running("app", "docker-pullable://r/a@"+one)+`],"initContainerStatuses":[`+running("side", "r/s@"+two)+`,{"name":"once","imageID":"r/o@`+two+`","state":{"terminated":{"exitCode":0}}}],"ephemeralContainerStatuses":[`+running("dbg", "sha256:"+strings.Repeat("3", 64))+`]`),
			[]inventory.Workload{
				{Key: key("Deployment", "web", "app"), Image: "r/a:1", Digest: one, Node: "n1"},
				{Key: key("Deployment", "web", "side"), Image: "r/s:1", Digest: two, Node: "n1"},
				{Key: key("Deployment", "web", "dbg"), Image: "r/d:1", Node: "n1"},
				{Key: key("Deployment", "web", "volume v"), Image: "r/v@" + two, Digest: two, Node: "n1"},
			},
		},
		"a cron job's": {podDoc("p", `,"ownerReferences":[{"kind":"Job","name":"nightly-29001234","controller":true}]`, `"containers":[{"name":"a","image":"x"}]`, `"phase":"Running","containerStatuses":[`+running("a", "")+`]`),
			[]inventory.Workload{{Key: key("CronJob", "nightly", "a"), Image: "x", Node: "n1"}}},
		"a bare one":  {podDoc("p", "", `"containers":[{"name":"a","image":"x"}]`, `"phase":"Running","containerStatuses":[`+running("a", "x@sha256:12")+`]`), []inventory.Workload{{Key: key("Pod", "p", "a"), Image: "x", Node: "n1"}}},
		"done":        {podDoc("p", "", `"containers":[{"name":"a","image":"x"}]`, `"phase":"Succeeded","containerStatuses":[`+running("a", "x@"+one)+`]`), nil},
		"not started": {podDoc("p", "", `"containers":[{"name":"a","image":"x"}],"volumes":[{"name":"v","image":{"reference":"r/v@`+two+`"}}]`, `"phase":"Pending"`), nil},
	} {
		p, err := readPod(tt.doc)
		if err != nil {
			t.Fatal(name, err)
		}
		if d := cmp.Diff(tt.want, p.workloads()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestSnapshots: what is told is what changed; half a list says nothing of what
// is not in it, a whole one does.
func TestSnapshots(t *testing.T) {
	f := &Follower{o: Options{Cluster: "c1", Logger: slog.New(slog.DiscardHandler)}, pods: map[string][]inventory.Workload{}, told: map[inventory.Key]bool{}, changed: map[string]bool{}, wake: make(chan struct{}, 1), members: map[string]*placed{}}
	doc := func(name, digest string) json.RawMessage {
		return podDoc(name, "", `"containers":[{"name":"a","image":"x"}]`, `"phase":"Running","containerStatuses":[`+running("a", "x@"+digest)+`]`)
	}
	tell := func() (s inventory.Snapshot, ok bool) {
		s, keys, _, ok := f.snapshot()
		if ok {
			f.told = keys
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		return s, ok
	}
	f.Reset()
	_ = f.Set(doc("p1", one))
	if _, ok := tell(); ok {
		t.Error("half a list was told")
	}
	_ = f.Set(doc("p2", one))
	_ = f.Synced()
	if s, ok := tell(); !ok || !s.Complete || len(s.Workloads) != 2 {
		t.Errorf("the list: %+v", s)
	}
	if s, ok := tell(); ok {
		t.Errorf("nothing changed: %+v", s)
	}
	_ = f.Set(doc("p2", two))
	_ = f.Deleted(doc("p1", one))
	if s, ok := tell(); !ok || s.Complete || len(s.Workloads) != 1 || s.Workloads[0].Digest != two || len(s.Ended) != 1 || s.Ended[0].Instance != "p1" {
		t.Errorf("changes: %+v", s)
	}
	f.Reset() // the connection broke: p2 went meanwhile
	_ = f.Set(doc("p3", one))
	_ = f.Synced()
	if s, ok := tell(); !ok || !s.Complete || len(s.Workloads) != 1 || s.Workloads[0].Instance != "p3" {
		t.Errorf("another list: %+v", s)
	}
	_ = f.Set(json.RawMessage(`{"metadata":[]}`))
}
