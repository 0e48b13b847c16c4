package server

import (
	"context"
	"fmt"
	"sync"

	"assay/admission"
	"assay/admission/external"
	"assay/evidence"
	"assay/internal/kube"
	"assay/internal/oci"
)

// externalImages looks into images of other registries, where the configuration
// names some.
func (s *Server) externalImages() (admission.External, error) {
	c := &s.cfg.Admission
	if len(c.Registries) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	transport, err := oci.NewTransport(oci.Guard{CABundle: c.RegistriesCA, AllowPrivate: c.PrivateRegistries})
	if err != nil {
		return nil, fmt.Errorf("admission.registries_ca: %w", err)
	}
	o := external.Options{Images: c.Registries, DB: s.db, Keeper: keeper{s.evidence}, Transport: transport, Clock: s.clock, Logger: s.log.With("service", "admission")}
	if c.PullSecrets {
		o.Secrets = &external.Kubernetes{Client: s.clusterSecrets(), Clock: s.clock}
	}
	x, err := external.New(o)
	if err != nil {
		return nil, fmt.Errorf("admission.registries: %w", err)
	}
	return x, nil
}

// clusterSecrets gives the client of a cluster whose Secrets may be read.
func (s *Server) clusterSecrets() func(string) (*kube.Client, error) {
	var mu sync.Mutex
	kept := map[string]*kube.Client{}
	return func(name string) (c *kube.Client, err error) {
		mu.Lock()
		defer mu.Unlock()
		if c := kept[name]; c != nil {
			return c, nil
		}
		defer func() {
			if err == nil && c != nil {
				kept[name] = c
			}
		}()
		for _, c := range s.cfg.Inventory.Clusters {
			if c.Name == name {
				return kubeClient(c)
			}
		}
		return nil, nil //nolint:nilnil // nobody here reads that cluster
	}
}

type keeper struct{ store *evidence.Store }

func (k keeper) Take(ctx context.Context, e *oci.Evidence) error {
	return k.store.Take(ctx, e, evidence.Origin{Source: "registry", Actor: "system:admission"})
}
