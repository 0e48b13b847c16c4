package contract

import (
	"context"
	"errors"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
)

// Bound is what an artifact owes in a repository.
type Bound struct {
	Contract *Contract
	Product  string
	Build    string          // bld_…; "" when no build was told of
	Pushed   time.Time       // zero: the ledger saw no push
	Due      time.Time       // zero likewise
	Late     map[string]bool // items that came after Due, by name
}

// For is what an artifact owes: what it was bound to when it was pushed, and for
// one whose push the ledger did not see, the contract that its repository has
// now; nil: none.
func (l *Ledger) For(ctx context.Context, d artifact.Digest, repository string) (*Bound, error) {
	var b *Bound
	var hash string
	err := l.o.DB.View(ctx, func(tx *store.Tx) error {
		p, err := findPush(ctx, tx, d, repository)
		if err != nil || p == nil {
			return err
		}
		hash = p.hash
		b = &Bound{Product: p.product, Build: p.build, Pushed: time.UnixMicro(p.pushed).UTC(), Due: time.UnixMicro(p.due).UTC(), Late: map[string]bool{}}
		rows, err := items(ctx, tx, d, repository)
		for _, i := range rows {
			// What the ledger has not seen come yet did not come in time.
			if i.arrived > p.due || i.arrived == 0 && store.Micros(tx.Now()) > p.due {
				b.Late[i.name] = true
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if b == nil {
		c := l.o.Contracts().For(repository, nil)
		if c == nil {
			return nil, nil
		}
		return &Bound{Contract: c}, nil
	}
	b.Contract, err = l.text(ctx, hash)
	return b, err
}

// Status is what there is of what an artifact owes.
type Status struct {
	Bound
	State   string // pending, complete or missing; "" when the ledger saw no push
	Outcome Outcome
}

// Check verifies and judges now, without entering anything. An artifact that no
// contract binds is fault.NotFound.
func (l *Ledger) Check(ctx context.Context, d artifact.Digest, repository string) (*Status, error) {
	b, err := l.For(ctx, d, repository)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fault.Newf(fault.NotFound, "no contract expects anything of repository %q: assay contract list", repository)
	}
	f, err := l.o.Facts(ctx, d, repository)
	if err != nil {
		return nil, err
	}
	s := &Status{Bound: *b, Outcome: b.Contract.Judge(repository, b.Product, f.Facts, f.SBOM)}
	err = l.o.DB.View(ctx, func(tx *store.Tx) error {
		p, err := findPush(ctx, tx, d, repository)
		if p != nil {
			s.State = p.state
		}
		return err
	})
	return s, err
}

// Fact is what policy sees of a contract.
func (b *Bound) Fact(repository string, f *policy.Facts, sbom func(string) (SBOM, bool)) *policy.ContractFact {
	o := b.Contract.Judge(repository, b.Product, f, sbom)
	out := &policy.ContractFact{Name: b.Contract.Name, Version: b.Contract.Spec.Version, Complete: o.Complete(), Missing: o.Missing(), Build: b.Build}
	for _, i := range o.Items {
		if i.Present && b.Late[i.Name] {
			out.Late = append(out.Late, i.Name)
		}
	}
	return out
}

// Coverage is how much of what is owed is there, of one repository and type.
type Coverage struct {
	Repository    string `json:"repository"`
	PredicateType string `json:"predicate_type"`
	Expected      int    `json:"expected"` // present + late + missing + pending
	Present       int    `json:"present"`  // came in time
	Late          int    `json:"late"`     // came after its time
	Missing       int    `json:"missing"`  // its time is over
	Pending       int    `json:"pending"`  // its time is not over
}

// Coverage counts what was pushed since a time, by repository and type, in their
// order; repository narrows it to one.
func (l *Ledger) Coverage(ctx context.Context, since time.Time, repository string) (out []Coverage, err error) {
	err = l.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT i.repository, i.type, COUNT(*),
			SUM(CASE WHEN i.arrived > 0 AND i.arrived <= p.due THEN 1 ELSE 0 END), SUM(CASE WHEN i.arrived > p.due THEN 1 ELSE 0 END),
			SUM(CASE WHEN i.arrived = 0 AND p.state = 'missing' THEN 1 ELSE 0 END)
			FROM contract_push p JOIN contract_item i ON i.digest = p.digest AND i.repository = p.repository
			WHERE p.pushed >= ? AND (? = '' OR p.repository = ?) GROUP BY i.repository, i.type ORDER BY i.repository, i.type`, store.Micros(since), repository, repository)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var c Coverage
			if err := rows.Scan(&c.Repository, &c.PredicateType, &c.Expected, &c.Present, &c.Late, &c.Missing); err != nil {
				return err
			}
			c.Pending = c.Expected - c.Present - c.Late - c.Missing
			out = append(out, c)
		}
		return rows.Err()
	})
	return out, err
}

// Builds lists builds, the newest first, at most limit; before is the id of the
// last one of the page before.
func (l *Ledger) Builds(ctx context.Context, repository, before string, limit int) (out []Build, err error) {
	err = l.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT `+buildColumns+`, COALESCE(t.name, ''), COALESCE(t.version, 0) FROM contract_build b LEFT JOIN contract_text t ON t.hash = b.hash
			WHERE (? = '' OR b.repository = ?) AND (? = '' OR b.id < ?) ORDER BY b.id DESC LIMIT ?`, repository, repository, before, before, limit)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name string
			var version int
			b, err := scanBuild(scanFunc(func(dest ...any) error { return rows.Scan(append(dest, &name, &version)...) }))
			if err != nil {
				return err
			}
			b.Contract, b.Version = name, version
			out = append(out, *b)
		}
		return rows.Err()
	})
	return out, err
}

// Build is one build; fault.NotFound when there is none.
func (l *Ledger) Build(ctx context.Context, id string) (b *Build, err error) {
	err = l.o.DB.View(ctx, func(tx *store.Tx) error { b, err = getBuild(ctx, tx, id); return err })
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "build %.80q: not here; want the bld_… that assay build start printed", id)
	}
	return b, err
}
