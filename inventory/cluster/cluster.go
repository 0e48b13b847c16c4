// Package cluster reads what runs out of a Kubernetes cluster: Pods as its nodes
// report them, by a list and a watch, and whether the webhooks that guard it are
// in place.
//
// A [Follower] holds what it has seen and hands on what changed, several times a
// second at most, as snapshots of package inventory. What a Pod says of itself
// names it; what runs is the imageID that its node reports.
package cluster

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/kube"
	"assay/inventory"
)

// Options of a [Follower]. Client, Cluster and Report are required.
type Options struct {
	Client      *kube.Client
	Cluster     string // its name in the inventory
	Environment string // of the cluster, as the reporter knows it
	Reporter    string // in events: who says so
	// Report takes a snapshot. An error has it told again with the next one.
	Report func(ctx context.Context, s inventory.Snapshot) error
	// Every is the least time between two snapshots (default 200 ms), and Beat the
	// longest while nothing changes (default 5 min): who is silent for long is not
	// known to live.
	Every, Beat time.Duration
	// Mesh is what the cluster does not tell of its meshes, and MeshEvery how often it
	// is looked at them (default 10 s).
	Mesh      MeshOptions
	MeshEvery time.Duration
	Logger    *slog.Logger
}

// Follower follows the Pods of a cluster.
type Follower struct {
	o Options

	mu      sync.Mutex
	pods    map[string][]inventory.Workload // by namespace/name, as last seen
	told    map[inventory.Key]bool          // of the inventory, as last told
	changed map[string]bool                 // Pods since the last snapshot
	fresh   map[string]bool                 // seen since Reset; nil: none under way
	synced  bool
	whole   bool // the next snapshot is all that runs
	wake    chan struct{}

	members map[string]*placed // Pods that run, by namespace/name
	mesh    *meshState         // nil: not read yet
	toldIDs map[who]inventory.Identity
}

// NewFollower checks the options; errors are fault.Invalid.
func NewFollower(o Options) (*Follower, error) {
	if o.Client == nil || o.Report == nil || o.Cluster == "" {
		return nil, fault.Newf(fault.Invalid, "follow a cluster: want a client, a name and somebody to tell")
	}
	if o.Every <= 0 {
		o.Every = 200 * time.Millisecond
	}
	if o.Beat <= 0 {
		o.Beat = 5 * time.Minute
	}
	if o.MeshEvery <= 0 {
		o.MeshEvery = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Follower{o: o, pods: map[string][]inventory.Workload{}, told: map[inventory.Key]bool{}, changed: map[string]bool{}, wake: make(chan struct{}, 1), members: map[string]*placed{}}, nil
}

// Run follows until ctx ends, or the cluster cannot be read: that is an error,
// and Run may be called again.
func (f *Follower) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.tell(ctx) }()
	looked := make(chan struct{})
	go func() { f.followMesh(ctx); close(looked) }()
	err := f.o.Client.Follow(ctx, "/api/v1/pods", f)
	cancel()
	<-looked
	if terr := <-done; err == nil {
		err = terr
	}
	return err
}

// Reset is of kube.Watcher.
func (f *Follower) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fresh, f.synced = map[string]bool{}, false
}

// Set is of kube.Watcher.
func (f *Follower) Set(object json.RawMessage) error {
	p, err := readPod(object)
	if err != nil {
		// One Pod that does not read must not hide all others.
		f.o.Logger.Warn("a Pod could not be read", "cluster", f.o.Cluster, "error", err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := p.key()
	if f.fresh != nil {
		f.fresh[k] = true
	}
	f.pods[k] = p.workloads()
	delete(f.members, k)
	if len(f.pods[k]) > 0 {
		kind, name := p.owner()
		f.members[k] = &placed{kind: kind, name: name, member: p.member()}
	}
	f.note(k)
	return nil
}

// Synced is of kube.Watcher.
func (f *Follower) Synced() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.pods {
		if !f.fresh[k] {
			delete(f.pods, k)
			delete(f.members, k)
		}
	}
	f.fresh, f.synced, f.whole = nil, true, true
	f.note("")
	return nil
}

// Deleted is of kube.Watcher.
func (f *Follower) Deleted(object json.RawMessage) error {
	p, err := readPod(object)
	if err != nil {
		return nil // the next list forgets it
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, p.key())
	delete(f.members, p.key())
	f.note(p.key())
	return nil
}

// note has a snapshot made; f.mu is held.
func (f *Follower) note(k string) {
	if k != "" {
		f.changed[k] = true
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// tell hands snapshots on, until ctx ends.
func (f *Follower) tell(ctx context.Context) error {
	beat := time.NewTimer(f.o.Beat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			f.mu.Lock()
			f.whole = f.synced
			f.mu.Unlock()
		case <-f.wake:
		}
		snap, keys, ids, ok := f.snapshot()
		if ok {
			if err := f.o.Report(ctx, snap); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				f.o.Logger.Warn("what runs could not be told; it is told again, whole", "cluster", f.o.Cluster, "error", err)
				f.mu.Lock()
				f.whole = true
				f.mu.Unlock()
				time.AfterFunc(5*time.Second, func() { f.mu.Lock(); f.note(""); f.mu.Unlock() })
			} else {
				f.mu.Lock()
				f.told, f.toldIDs = keys, ids
				f.mu.Unlock()
			}
		}
		beat.Reset(f.o.Beat)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(f.o.Every):
		}
	}
}

// snapshot is what changed since the last one, or all that runs. keys are what is
// known to run after it, and ids their identities.
func (f *Follower) snapshot() (s inventory.Snapshot, keys map[inventory.Key]bool, ids map[who]inventory.Identity, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		return s, nil, nil, false // half a list says nothing of what is not in it
	}
	s = inventory.Snapshot{Cluster: f.o.Cluster, Environment: f.o.Environment, Reporter: f.o.Reporter, Complete: f.whole}
	keys = make(map[inventory.Key]bool, len(f.told))
	for k, list := range f.pods {
		for i := range list {
			keys[list[i].Key] = true
		}
		if f.whole || f.changed[k] {
			s.Workloads = append(s.Workloads, list...)
		}
	}
	if !f.whole {
		for k := range f.told {
			if !keys[k] {
				s.Ended = append(s.Ended, k)
			}
		}
	}
	ids = f.addIdentities(&s)
	ok = f.whole || len(s.Workloads)+len(s.Ended)+len(s.Identities) > 0
	f.changed, f.whole = map[string]bool{}, false
	return s, keys, ids, ok
}

// pod is a Pod in the members that count here.
type pod struct {
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         string            `json:"uid"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
		Owners      []struct {
			Kind       string `json:"kind"`
			Name       string `json:"name"`
			Controller bool   `json:"controller"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		NodeName    string      `json:"nodeName"`
		Account     string      `json:"serviceAccountName"`
		HostNetwork bool        `json:"hostNetwork"`
		Containers  []container `json:"containers"`
		Init        []container `json:"initContainers"`
		Ephemeral   []container `json:"ephemeralContainers"`
		Volumes     []struct {
			Name  string `json:"name"`
			Image *struct {
				Reference string `json:"reference"`
			} `json:"image"`
		} `json:"volumes"`
	} `json:"spec"`
	Status struct {
		Phase      string   `json:"phase"`
		Containers []status `json:"containerStatuses"`
		Init       []status `json:"initContainerStatuses"`
		Ephemeral  []status `json:"ephemeralContainerStatuses"`
	} `json:"status"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Env   []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
}

type status struct {
	Name    string `json:"name"`
	ImageID string `json:"imageID"`
	State   struct {
		Running *struct{} `json:"running"`
	} `json:"state"`
}

func readPod(object json.RawMessage) (*pod, error) {
	var p pod
	if err := json.Unmarshal(object, &p); err != nil {
		return nil, err
	}
	if p.Metadata.Name == "" {
		return nil, fault.Newf(fault.Invalid, "a Pod without a name")
	}
	return &p, nil
}

func (p *pod) key() string { return p.Metadata.Namespace + "/" + p.Metadata.Name }

// owner is what made the Pod, as far as it is told: a Deployment by the name of
// its ReplicaSet less the hash that the Pod bears too, a CronJob by its Job's less
// the time. It names, and decides nothing: whoever makes a Pod can write it.
func (p *pod) owner() (kind, name string) {
	for _, o := range p.Metadata.Owners {
		if !o.Controller {
			continue
		}
		switch o.Kind {
		case "ReplicaSet":
			if base, ok := strings.CutSuffix(o.Name, "-"+p.Metadata.Labels["pod-template-hash"]); ok && base != "" {
				return "Deployment", base
			}
		case "Job":
			if i := strings.LastIndexByte(o.Name, '-'); i > 0 && len(o.Name)-i > 8 && strings.Trim(o.Name[i+1:], "0123456789") == "" {
				return "CronJob", o.Name[:i]
			}
		}
		return o.Kind, o.Name
	}
	return "Pod", p.Metadata.Name
}

// workloads are the containers of the Pod that run.
func (p *pod) workloads() (out []inventory.Workload) {
	if p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return nil
	}
	kind, name := p.owner()
	add := func(c, image, id string) {
		out = append(out, inventory.Workload{
			Key:   inventory.Key{Namespace: p.Metadata.Namespace, Kind: kind, Name: name, Instance: p.Metadata.Name, Container: c},
			Image: image, Digest: digestOf(id), Node: p.Spec.NodeName,
		})
	}
	running := false
	for _, l := range []struct {
		specs    []container
		statuses []status
	}{{p.Spec.Containers, p.Status.Containers}, {p.Spec.Init, p.Status.Init}, {p.Spec.Ephemeral, p.Status.Ephemeral}} {
		asked := map[string]string{}
		for _, c := range l.specs {
			asked[c.Name] = c.Image
		}
		for _, s := range l.statuses {
			if s.State.Running != nil {
				running = true
				add(s.Name, asked[s.Name], s.ImageID)
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Image != nil && running {
			add("volume "+v.Name, v.Image.Reference, v.Image.Reference) // no node reports them: only a pinned one is known
		}
	}
	return out
}

// digestOf is the digest of the manifest that an imageID names. A bare
// "sha256:..." is of an image's configuration, which names no manifest.
func digestOf(imageID string) artifact.Digest {
	_, d, ok := strings.Cut(imageID, "@")
	if !ok {
		return ""
	}
	parsed, err := artifact.ParseDigest(d)
	if err != nil {
		return ""
	}
	return parsed
}
