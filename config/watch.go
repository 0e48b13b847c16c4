package config

import (
	"assay/alert"
	"assay/internal/strictyaml"
	"assay/slo"
)

const (
	// KindObjectives is a document of what the site wants of its indicators: slo.Spec.
	KindObjectives = "Objectives"
	// KindReceiver is a document of who is told of alerts: alert.Spec.
	KindReceiver = "Receiver"
)

// parseWatch reads a document of one of the two kinds.
func parseWatch(p strictyaml.Document, d *Document) error {
	if d.Kind == KindObjectives {
		e, err := decode[slo.Spec](p, d.Kind)
		if err != nil {
			return err
		}
		d.Name, d.Objectives = e.Metadata.Name, &e.Spec
		return e.Spec.Validate()
	}
	e, err := decode[alert.Spec](p, d.Kind)
	if err != nil {
		return err
	}
	d.Name, d.Receiver = e.Metadata.Name, &e.Spec
	return e.Spec.Validate()
}

// watchOf compiles the objectives and the receivers among documents.
func watchOf(docs []Document, d *Desired) (err error) {
	specs := map[string]slo.Spec{}
	for _, doc := range docs {
		switch {
		case doc.Objectives != nil:
			specs[doc.Name] = *doc.Objectives
		case doc.Receiver != nil:
			r, err := alert.Compile(doc.Name, *doc.Receiver)
			if err != nil {
				return err
			}
			d.Receivers = append(d.Receivers, r)
		}
	}
	d.Objectives, err = slo.Compile(specs)
	return err
}
