package config

import (
	"fmt"
	"time"

	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/inventory"
)

// KindServices is a catalogue of services and their teams, or a part of one:
// inventory.Spec.
const KindServices = "Services"

// Inventory says which services there are.
type Inventory struct {
	// Services are files with documents of kind Services, read at the start;
	// `assay inventory apply` brings more.
	Services []string `yaml:"services"`
	// Clusters are Kubernetes clusters whose Pods this server follows itself; other
	// clusters report.
	Clusters []KubeCluster `yaml:"clusters"`
	// TicketAfter is how long a gate holds an artifact back before its owner is
	// told: evidence mostly comes just after a push.
	TicketAfter time.Duration `yaml:"ticket_after"`
}

// ReadServices reads the files of section inventory.
func (c *Config) ReadServices() (all []inventory.Spec, err error) {
	for _, path := range c.Inventory.Services {
		b, err := readCapped(path)
		if err != nil {
			return nil, err
		}
		docs, err := ParseDocuments(b)
		if err != nil {
			return nil, fmt.Errorf("inventory.services: %s: %w", path, err)
		}
		for _, d := range docs {
			if d.Services == nil {
				return nil, fault.Newf(fault.Invalid, "inventory.services: %s: holds a document of kind %s; want %s alone", path, d.Kind, KindServices)
			}
			all = append(all, *d.Services)
		}
	}
	_, err = inventory.NewCatalogue(all...)
	return all, err
}

func parseServices(p strictyaml.Document) (name string, _ *inventory.Spec, err error) {
	e, err := decode[inventory.Spec](p, KindServices)
	if err != nil {
		return "", nil, err
	}
	return e.Metadata.Name, &e.Spec, e.Spec.Validate()
}

func servicesOf(docs []Document, site []inventory.Spec) (*inventory.Catalogue, error) {
	parts := append([]inventory.Spec(nil), site...)
	for _, d := range docs {
		if d.Services != nil {
			parts = append(parts, *d.Services)
		}
	}
	return inventory.NewCatalogue(parts...)
}

// FactsChange says whether a plan changes what is a fact of what was decided:
// what evidence is owed, and which service an artifact belongs to.
func FactsChange(plan []Change) bool {
	for _, c := range plan {
		if (c.Kind == KindContract || c.Kind == KindServices) && c.Action != "unchanged" && c.Action != "unmanaged" {
			return true
		}
	}
	return false
}
