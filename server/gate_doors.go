package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/gate"
	"assay/internal/fault"
	"assay/inventory"
	"assay/slo"
	"assay/store"
	"assay/vuln/finding"
)

// openDoors opens what answers controllers of canaries, pipelines and platforms of
// functions.
func (s *Server) openDoors() (err error) {
	if s.admission.judge == nil {
		return nil // a process without the decisions
	}
	c := &s.cfg.Gate.Canary
	s.doors, err = gate.New(gate.Options{
		DB: s.db, Judge: s.admission.judge, Inventory: s.inventory, Host: s.host, Clock: s.clock, Logger: s.log, Registerer: s.reg,
		Flaws: func(ctx context.Context, d artifact.Digest, repository string) ([]finding.Finding, finding.State, error) {
			return s.vulnerabilities.OfSubject(ctx, d, repository)
		},
		Objectives: func(ctx context.Context, service string, at time.Time) ([]slo.Status, error) {
			return s.watch.slo.StatusOf(ctx, at, slo.ByService, service)
		},
		OfService: func(service, repository string) bool {
			return slices.ContainsFunc(s.catalogue().OfArtifact("", inventory.Place{Repository: repository}), func(x *inventory.Service) bool { return x.Name == service })
		},
		Parts: s.admission.images.partsOf, ArtifactType: s.artifactType,
		Rules: gate.Rules{LeastDuration: c.LeastDuration, LeastShare: float64(c.LeastShare), Severity: c.Severity, WithoutScan: c.WithoutScan, PassSpent: c.PassSpent},
	})
	return err
}

// artifactType gives what a manifest says that it is.
func (s *Server) artifactType(ctx context.Context, repository string, d artifact.Digest) (kind string, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT artifact_type FROM registry_manifest WHERE repository = ? AND digest = ?`, repository, string(d)).Scan(&kind)
	})
	if errors.Is(err, fault.NotFound) {
		err = nil
	}
	return kind, err
}
