package server

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/internal/kube"
	"assay/inventory"
	"assay/inventory/cluster"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// running tells the webhook what runs, by the inventory: an index runs when a
// part of it does.
type running struct{ s *Server }

// maxRunningParts bounds the parts of an index that are looked for.
const maxRunningParts = 32

// restartWithin is how long what ended counts as running when the question is
// whether it may start again. A StatefulSet, a Deployment that is recreated and a
// drained node end a Pod before the next one is asked for, and a controller that was
// refused waits up to 17 minutes before it asks again.
const restartWithin = 30 * time.Minute

func (r running) Runs(ctx context.Context, name, namespace string, d artifact.Digest) (bool, error) {
	parts, err := r.s.admission.images.partsOf(ctx, d)
	if err != nil {
		return false, err
	}
	for _, one := range append([]artifact.Digest{d}, parts[:min(len(parts), maxRunningParts)]...) {
		ran, err := r.s.inventory.RanSince(ctx, name, namespace, one, r.s.clock().Add(-restartWithin))
		if err != nil || ran {
			return ran, err
		}
	}
	return false, nil
}

// openRounds opens what asks again about all that runs.
func (s *Server) openRounds() (err error) {
	s.admission.connected = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "assay_cluster_connected", Help: "1 while this process follows the cluster's Pods, 0 while it cannot.",
	}, []string{"cluster"})
	if err := s.reg.Register(s.admission.connected); err != nil {
		return err
	}
	s.admission.rounds, err = admission.NewRounds(admission.RoundsOptions{
		DB: s.db, Inventory: s.inventory, Judge: s.admission.judge, Place: s.placeOf, Logger: s.log, Registerer: s.reg,
		PartOf: func(ctx context.Context, _ string, part, whole artifact.Digest) (bool, error) {
			parts, err := s.admission.images.partsOf(ctx, whole)
			return slices.Contains(parts, part), err
		},
	})
	return err
}

// placeOf is where a namespace of a cluster is, as admission asks for it.
func (s *Server) placeOf(name, namespace string) admission.Place {
	p := admission.Place{Cluster: name, Namespace: namespace}
	if name == s.cfg.Admission.Cluster {
		p.Environment = s.cfg.Admission.EnvironmentOf(namespace)
		return p
	}
	for _, c := range s.cfg.Inventory.Clusters {
		if c.Name == name {
			p.Environment = c.Environment
		}
	}
	return p
}

// clusterWork adds what follows clusters, and what asks again about what runs.
func (s *Server) clusterWork(work map[string]func(context.Context) error) {
	if s.admission.rounds == nil {
		return
	}
	var due atomic.Bool
	due.Store(true)
	work["rounds due"] = func(ctx context.Context) error {
		return s.events.Consume(ctx, "admission.rounds", func(context.Context, *store.Tx, []event.Event) error {
			due.Store(true)
			return nil
		}, event.WorkloadStarted, event.WorkloadStopped, event.DecisionChanged, event.ArtifactRevoked, event.ArtifactQuarantined, event.ArtifactReleased, event.ActionHeld, event.ActionApproved, event.ActionRefused, event.TrustRevoked, event.TrustChanged, event.PolicyApplied)
	}
	work["rounds"] = s.goRounds(&due)
	for _, c := range s.cfg.Inventory.Clusters {
		s.admission.connected.WithLabelValues(c.Name).Set(0)
		work["cluster "+c.Name] = func(ctx context.Context) error { return s.followCluster(ctx, c) }
	}
}

const (
	roundsEvery = 500 * time.Millisecond // at most, when something changed
	roundsRest  = time.Minute            // at least, when nothing is known to have
	clusterTTL  = 30 * time.Second
	guardsEvery = 5 * time.Second
)

// goRounds goes a round when something changed that bears upon what runs, and once
// in a while anyway. One replica of the site does it.
func (s *Server) goRounds(due *atomic.Bool) func(context.Context) error {
	holder := rand.Text()
	last := time.Time{}
	return s.every(roundsEvery, func(ctx context.Context) (err error) {
		if !due.Load() && time.Since(last) < roundsRest {
			return nil
		}
		held, _, err := s.db.Lease(ctx, "rounds", holder, time.Minute)
		if err != nil || !held {
			return err
		}
		// It is given back at once: another replica may be the next that is told of a
		// change, and after a restart nobody waits for what this process held.
		defer func() { err = errors.Join(err, s.db.Release(context.WithoutCancel(ctx), "rounds", holder)) }()
		due.Store(false)
		last = time.Now()
		if err := s.lapses(ctx); err != nil {
			s.log.Error("it could not be told which clusters fell silent", "error", err)
		}
		t, err := s.admission.rounds.Round(ctx)
		if err != nil {
			due.Store(true)
			return err
		}
		if t.Events > 0 {
			s.log.Info("what runs was asked about again", "images", t.Images, "changed", t.Changed, "events", t.Events, "took", time.Since(last).String())
		}
		return nil
	})
}

// lapsesAfter is when, after a start, clusters count as silent: their reporters say at
// least every five minutes that nothing changed, and could not while nobody listened.
const lapsesAfter = 6 * time.Minute

// lapses tells of clusters that fell silent, and of those that are heard of again.
func (s *Server) lapses(ctx context.Context) error {
	if s.clock().Sub(s.started) < lapsesAfter {
		return nil
	}
	silent := map[string]time.Time{}
	all, err := s.inventory.Clusters(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.Silent {
			silent[c.Name] = c.Seen
		}
	}
	return admission.Lapses(ctx, s.db, silent)
}

// followCluster follows a cluster while this process has its lease.
func (s *Server) followCluster(ctx context.Context, c config.KubeCluster) error {
	holder, lease := rand.Text(), "cluster/"+c.Name
	for {
		held, _, err := s.db.Lease(ctx, lease, holder, clusterTTL)
		if err != nil {
			return err
		}
		if held {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clusterTTL / 3):
		}
	}
	defer func() { _ = s.db.Release(context.WithoutCancel(ctx), lease, holder) }()
	client, err := kubeClient(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, err := cluster.NewFollower(cluster.Options{
		Client: client, Cluster: c.Name, Environment: c.Environment, Reporter: "system:cluster", Logger: s.log,
		Mesh: cluster.MeshOptions{TrustDomain: c.Mesh.TrustDomain, ClusterName: c.Mesh.ClusterName, ClusterDomain: c.Mesh.ClusterDomain, RootNamespace: c.Mesh.RootNamespace},
		Report: func(ctx context.Context, snap inventory.Snapshot) error {
			err := s.db.Update(ctx, func(tx *store.Tx) error { _, err := s.inventory.Observe(ctx, tx, snap); return err })
			if err == nil {
				s.admission.connected.WithLabelValues(c.Name).Set(1)
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	go func() {
		tick := time.NewTicker(guardsEvery)
		defer tick.Stop()
		for {
			if held, _, err := s.db.Lease(ctx, lease, holder, clusterTTL); err == nil && !held {
				cancel() // another replica follows it now
			}
			if err := s.seeGuards(ctx, client, c.Name); err != nil && ctx.Err() == nil {
				s.log.Warn("it could not be seen what guards a cluster", "cluster", c.Name, "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	defer s.admission.connected.WithLabelValues(c.Name).Set(0)
	return f.Run(ctx)
}

func (s *Server) seeGuards(ctx context.Context, client *kube.Client, name string) error {
	list, err := cluster.Guards(ctx, client)
	if err != nil {
		return err
	}
	var seen []admission.Guard
	for _, g := range list {
		seen = append(seen, admission.Guard(g))
	}
	return admission.SeeGuards(ctx, s.db, name, seen)
}

func kubeClient(c config.KubeCluster) (*kube.Client, error) {
	if c.Kubeconfig == "in-cluster" {
		return kube.InCluster()
	}
	return kube.FromFile(c.Kubeconfig, c.Context)
}
