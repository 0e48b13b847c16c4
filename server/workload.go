package server

import (
	"context"

	"assay/artifact"
	"assay/inventory"
	"assay/policy"
	"assay/store"
)

// workloadFacts gives the decision engine what clusters say of the workloads that
// run an artifact.
type workloadFacts struct{ s *Server }

// Workload is what is known of those in a scope. An index runs when a part of it
// does.
func (f workloadFacts) Workload(ctx context.Context, subject policy.Subject, scope policy.Scope) (*policy.WorkloadFact, *policy.MeshFact, error) {
	w := &policy.WorkloadFact{SPIFFEIDs: []string{}, Source: string(inventory.Unread)}
	m := &policy.MeshFact{MTLS: string(inventory.MTLSUnknown), Of: "nothing"}
	if scope.Cluster == "" || scope.Namespace == "" {
		return w, m, nil
	}
	digests := []artifact.Digest{subject.Digest}
	if f.s.admission.images != nil {
		parts, err := f.s.admission.images.partsOf(ctx, subject.Digest)
		if err != nil {
			return nil, nil, err
		}
		digests = append(digests, parts[:min(len(parts), maxRunningParts)]...)
	}
	var id inventory.Identity
	var runs, known bool
	if err := f.s.db.View(ctx, func(tx *store.Tx) (err error) {
		id, runs, known, err = f.s.inventory.IdentityOf(ctx, tx, scope.Cluster, scope.Namespace, digests)
		return err
	}); err != nil {
		return nil, nil, err
	}
	if !known {
		return w, m, nil
	}
	w.Known, w.Runs = true, runs
	m.MTLS, m.Name, m.Of = string(id.MTLS), id.Mesh, "namespace"
	if !runs {
		return w, m, nil
	}
	m.Of = "workloads"
	w.Source = string(id.Source)
	w.SPIFFEIDs = append(w.SPIFFEIDs, id.SPIFFEIDs[:min(len(id.SPIFFEIDs), policy.MaxSPIFFEIDs)]...)
	w.More = len(id.SPIFFEIDs) > policy.MaxSPIFFEIDs
	if len(id.SPIFFEIDs) == 1 {
		w.SPIFFEID = id.SPIFFEIDs[0]
	}
	return w, m, nil
}

// identified has decisions made again about what runs in workloads whose identity or
// mesh changed.
func (s *Server) identified(ctx context.Context, tx *store.Tx, digests []artifact.Digest) error {
	d := s.desired.Load()
	if d == nil || s.engine == nil || !d.Policies.ByWorkload() {
		return nil
	}
	for _, one := range digests {
		if err := s.engine.StirDigest(ctx, tx, one); err != nil {
			return err
		}
	}
	return nil
}
