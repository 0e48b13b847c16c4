package inventory

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"assay/artifact"
	"assay/internal/fault"
)

// Key names one container of one instance of a workload, within a cluster.
type Key struct {
	Namespace string // "" where there are none
	Kind      string // Deployment, StatefulSet, Job, systemd, ...
	Name      string // of the workload: of what made the pods, not of the pod
	Instance  string // which of its instances: a pod's name or UID, a host's
	Container string // "" where there is one alone
}

// Workload is one container that runs.
type Workload struct {
	Key
	Image  string          // the reference that was asked for, as it was written; "" unknown
	Digest artifact.Digest // what runs; "" when the reporter cannot tell
	Node   string
}

// Snapshot is what a reporter says of a cluster.
type Snapshot struct {
	// Cluster is its name: nameRE's letters.
	Cluster string
	// Environment is what the reporter says of it; the catalogue's word goes before.
	Environment string
	// Reporter is who says so, as in events' actor.
	Reporter string
	// Complete says that Workloads are all that run in the cluster: those not among
	// them have ended.
	Complete bool
	// Workloads were seen running.
	Workloads []Workload
	// Ended run no more. They need not be known.
	Ended []Key
	// Identities are of workloads and namespaces; with Complete they are all, unless
	// there are none, which says nothing of them.
	Identities []Identity
}

// MaxSnapshot is how many workloads one snapshot may hold.
const MaxSnapshot = 200_000

// Validate says what is wrong with a snapshot. Errors are [fault.Invalid] and
// [fault.TooLarge].
func (s *Snapshot) Validate() error {
	if !validCluster(s.Cluster) {
		return fault.Newf(fault.Invalid, "cluster %.80q: want lower-case letters, digits, - . and _, at most 63", s.Cluster)
	}
	if err := checkName("environment", s.Environment); err != nil {
		return err
	}
	if len(s.Workloads)+len(s.Ended) > MaxSnapshot {
		return fault.Newf(fault.TooLarge, "a snapshot of %d workloads: at most %d", len(s.Workloads)+len(s.Ended), MaxSnapshot)
	}
	seen := make(map[Key]bool, len(s.Workloads))
	for i := range s.Workloads {
		w := &s.Workloads[i]
		if err := w.validate(); err != nil {
			return err
		}
		if seen[w.Key] {
			return fault.Newf(fault.Invalid, "workload %s stands twice in the snapshot", w.Key)
		}
		seen[w.Key] = true
	}
	for _, k := range s.Ended {
		if err := k.validate(); err != nil {
			return err
		}
		if seen[k] {
			return fault.Newf(fault.Invalid, "workload %s stands among those that run and those that ended", k)
		}
	}
	return s.validateIdentities()
}

// String is the key for people.
func (k Key) String() string {
	var parts []string
	for _, p := range []string{k.Namespace, k.Kind, k.Name, k.Instance, k.Container} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/")
}

func (k Key) validate() error {
	if k.Name == "" || k.Kind == "" {
		return fault.Newf(fault.Invalid, "workload %.200q: want a kind and a name", k.String())
	}
	for _, t := range []string{k.Namespace, k.Kind, k.Name, k.Instance, k.Container} {
		if err := plain(t, 253); err != nil {
			return err
		}
	}
	return nil
}

func (w *Workload) validate() error {
	if w.Digest != "" {
		if err := w.Digest.Validate(); err != nil {
			return err
		}
	}
	if err := w.Key.validate(); err != nil {
		return err
	}
	if err := plain(w.Node, 253); err != nil {
		return err
	}
	return plain(w.Image, 1024)
}

func plain(s string, most int) error {
	if len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fault.Newf(fault.Invalid, "%.80q: want at most %d bytes of text without control characters", s, most)
	}
	return nil
}

// Running is a row: a container from when it was first seen until it ended.
type Running struct {
	Workload
	Cluster     string
	Environment string // "" unknown, which counts as production
	Service     string // "" of none
	Team        string // "" of none
	FirstSeen   time.Time
	LastSeen    time.Time // of one that runs: when its cluster was last heard of
	Ended       time.Time // zero: it runs, as far as is known
	// Silent says that its cluster was not heard of for long: it counts as running,
	// and whether it does is not known.
	Silent bool
}

// Production says whether it counts as production.
func (r *Running) Production() bool { return Production(r.Environment) }

// Changed says what a snapshot changed.
type Changed struct {
	Started, Stopped, Kept int // containers
}
