package server

import (
	"context"
	"strings"

	"assay/artifact"
	"assay/inventory"
	"assay/registry/ticket"
	"assay/store"
	"assay/vuln/risk"
)

// openRisk makes what says how much hangs on findings.
func (s *Server) openRisk() {
	s.risk = risk.New(risk.Options{
		DB: s.db, Feeds: s.vulnerabilities.Feeds, Findings: s.vulnerabilities.Findings, Inventory: s.inventory, Stored: storedDigests, Ledgers: ledgers, Excused: s.excused,
	})
}

// storedDigests is what the registry knows of digests: in which repositories each
// lies, and which indexes name it.
func storedDigests(ctx context.Context, tx *store.Tx, digest artifact.Digest) (map[artifact.Digest]*risk.Stored, error) {
	out := map[artifact.Digest]*risk.Stored{}
	at := func(d string) *risk.Stored {
		k := artifact.Digest(d)
		if out[k] == nil {
			out[k] = &risk.Stored{}
		}
		return out[k]
	}
	where, args := ``, []any{}
	if digest != "" {
		where, args = ` AND m.digest = ?`, []any{string(digest)}
	}
	// Only what a bill of materials describes is asked for: signatures and other
	// carriers are no artifacts of a service.
	// A row for each repository and not for each digest: a large site has a hundred
	// thousand of these.
	if err := pairs(ctx, tx, func(repository, digests string) {
		for d := range strings.SplitSeq(digests, ",") {
			x := at(d)
			x.Places = append(x.Places, inventory.Place{Repository: repository})
		}
	}, `SELECT m.repository, string_agg(m.digest, ',') FROM registry_manifest m WHERE m.digest IN (SELECT subject FROM finding_scan)`+where+` GROUP BY m.repository ORDER BY m.repository`, args...); err != nil {
		return nil, err
	}
	if digest != "" {
		where = ` AND m.child = ?`
	}
	err := pairs(ctx, tx, func(child, parent string) {
		x := at(child)
		x.Parents = append(x.Parents, artifact.Digest(parent))
	}, `SELECT DISTINCT m.child, m.manifest FROM registry_reference m WHERE m.child IN (SELECT subject FROM finding_scan)`+where, args...)
	return out, err
}

// ledgers is what evidence digests owe, in any repository.
func ledgers(ctx context.Context, tx *store.Tx, digest artifact.Digest) (map[artifact.Digest]risk.Ledger, error) {
	out := map[artifact.Digest]risk.Ledger{}
	where, args := ``, []any{}
	if digest != "" {
		where, args = ` WHERE p.digest = ?`, []any{string(digest)}
	}
	err := pairs(ctx, tx, func(d, item string) {
		l := out[artifact.Digest(d)]
		l.Bound = true
		if item != "" {
			l.Missing = append(l.Missing, item)
		}
		out[artifact.Digest(d)] = l
	}, `SELECT p.digest, COALESCE(i.item, '') FROM contract_push p LEFT JOIN contract_item i ON i.digest = p.digest AND i.repository = p.repository AND i.arrived = 0`+where+` ORDER BY p.digest, i.item`, args...)
	return out, err
}

func pairs(ctx context.Context, tx *store.Tx, fn func(a, b string), q string, args ...any) error {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a, b string
		if err := rows.Scan(&a, &b); err != nil {
			return err
		}
		fn(a, b)
	}
	return rows.Err()
}

// openTickets makes the book of tickets for owners.
func (s *Server) openTickets() (err error) {
	s.tickets, err = ticket.New(ticket.Options{
		DB: s.db, Events: s.events, Engine: s.engine, Risk: s.risk, Catalogue: s.catalogue, After: s.cfg.Inventory.TicketAfter, Logger: s.log, Registerer: s.reg,
	})
	return err
}
