package risk

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"assay/artifact"
	"assay/inventory"
	"assay/store"
)

// Stored is what the registry knows of a digest.
type Stored struct {
	Places  []inventory.Place
	Parents []artifact.Digest // indexes that name it: who runs one of them may run it
}

// Ledger is what there is of the evidence that an artifact owes.
type Ledger struct {
	Bound   bool // a contract says what it owes
	Missing []string
}

// Place is where an artifact stands: to whom it belongs, and where it runs.
type Place struct {
	Services   []string // the most critical first
	Team       string   // of the first
	Unowned    bool
	Tier       int // 1 to 4, after Raised
	Classified bool
	Raised     bool // it runs in production, and so its tier is one up
	Exposure   string
	Running    *inventory.Presence // nil: not seen to run
	Known      bool                // somebody tells what runs
	Ledger     Ledger
}

// world is what is known of all artifacts, or of one, at an instant.
type world struct {
	book    *inventory.Catalogue
	runs    map[artifact.Digest]*inventory.Presence
	told    bool
	stored  map[artifact.Digest]*Stored
	ledgers map[artifact.Digest]Ledger
}

func (s *Scorer) world(ctx context.Context, tx *store.Tx, subject artifact.Digest) (w *world, err error) {
	w = &world{book: s.o.Inventory.Catalogue()}
	if w.runs, err = s.o.Inventory.Presences(ctx, tx); err != nil {
		return nil, err
	}
	if w.told, err = s.o.Inventory.Told(ctx, tx); err != nil {
		return nil, err
	}
	if s.o.Stored != nil {
		if w.stored, err = s.o.Stored(ctx, tx, subject); err != nil {
			return nil, err
		}
	}
	if s.o.Ledgers != nil {
		if w.ledgers, err = s.o.Ledgers(ctx, tx, subject); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) of(d artifact.Digest) Place {
	p := Place{Known: w.told, Ledger: w.ledgers[d]}
	var places []inventory.Place
	names := map[string]bool{}
	add := func(run *inventory.Presence) {
		if run == nil {
			return
		}
		for _, s := range run.Services {
			names[s] = true
		}
		if p.Running == nil {
			joined := *run
			p.Running = &joined
			return
		}
		p.Running.Instances += run.Instances
		p.Running.Production = p.Running.Production || run.Production
		p.Running.Silent = p.Running.Silent || run.Silent
	}
	add(w.runs[d])
	if s := w.stored[d]; s != nil {
		places = s.Places
		for _, parent := range s.Parents {
			add(w.runs[parent])
		}
	}
	all := w.book.OfArtifact(d, places...)
	for name := range names {
		if s := w.book.Service(name); s != nil && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *inventory.Service) int {
		if a.Criticality() != b.Criticality() {
			return a.Criticality() - b.Criticality()
		}
		return strings.Compare(a.Name, b.Name)
	})
	p.settle(w.book, all)
	return p
}

// settle takes the worst of all services. What belongs to none is not classified.
func (p *Place) settle(book *inventory.Catalogue, all []*inventory.Service) {
	p.Tier, p.Exposure = inventory.MostCritical, inventory.ExposedInternet
	if len(all) == 0 {
		p.Team, _ = book.Owner(nil)
		p.Unowned = true
		return
	}
	p.Tier, p.Classified = all[0].Criticality(), all[0].Classified()
	var owned bool
	p.Team, owned = book.Owner(all[0])
	p.Unowned = !owned
	worst := len(inventory.Exposures()) - 1
	for _, s := range all {
		p.Services = append(p.Services, s.Name)
		worst = min(worst, slices.Index(inventory.Exposures(), s.Reach()))
	}
	p.Exposure = inventory.Exposures()[worst]
	if p.Running != nil && p.Running.Production && p.Tier > inventory.MostCritical {
		p.Tier, p.Raised = p.Tier-1, true
	}
}

// parts are those that are the same for all findings of the artifact.
func (p *Place) parts() []Part {
	running := Part{"running", 1, "nobody tells what runs: counts as running"}
	switch {
	case p.Running != nil && p.Running.Production:
		running.Why = fmt.Sprintf("runs in production, %d instances", p.Running.Instances)
	case p.Running != nil:
		running = Part{"running", notProduction, fmt.Sprintf("runs, not in production, %d instances", p.Running.Instances)}
	case p.Known:
		running = Part{"running", notRunning, "not seen to run"}
	}
	if p.Running != nil && p.Running.Silent {
		running.Factor, running.Why = 1, "ran in a cluster that was not heard of for long: counts as running in production"
	}
	exposure := Part{"exposure", 1, p.Exposure}
	switch {
	case len(p.Services) == 0:
		exposure.Why = "belongs to no service: counts as the internet's"
	case p.Exposure == inventory.ExposedInternal:
		exposure.Factor = internal
	case p.Exposure == inventory.ExposedIsolated:
		exposure.Factor = isolated
	}
	tier := Part{"criticality", criticality[p.Tier], fmt.Sprintf("tier %d", p.Tier)}
	switch {
	case !p.Classified:
		tier.Why = "not classified: counts as tier 1"
	case p.Raised:
		tier.Why += ", one up since it runs in production"
	}
	evidence := Part{"evidence", 1, "no contract says what evidence it owes"}
	switch {
	case p.Ledger.Bound && len(p.Ledger.Missing) == 0:
		evidence = Part{"evidence", complete, "all evidence that it owes is there"}
	case p.Ledger.Bound:
		evidence.Why = "missing evidence: " + strings.Join(p.Ledger.Missing[:min(8, len(p.Ledger.Missing))], ", ")
	}
	return []Part{running, exposure, tier, evidence}
}
