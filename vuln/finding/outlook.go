package finding

import (
	"context"

	"assay/store"
	"assay/vuln"
	"assay/vuln/feed"
)

// Affects says whether a record affects a component, as the matcher judges.
func Affects(r feed.Record, c vuln.Candidate) bool {
	for _, m := range judge(r, c) {
		if m.Status == vuln.IsAffected {
			return true
		}
	}
	return false
}

// Standing counts what a feed finds now in all that is stored: pairs of component
// and advisory, and the components of its ecosystem that can be looked up.
func (m *Matcher) Standing(ctx context.Context, name, ecosystem string) (findings, components int64, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM finding_match WHERE feed = ? AND closed = 0 AND status = 1`, feedKey(name, ecosystem)).Scan(&findings); err != nil {
			return err
		}
		if ecosystem == "" {
			return tx.QueryRow(ctx, `SELECT COUNT(DISTINCT component) FROM finding_component WHERE state = ?`, lookedUp).Scan(&components)
		}
		return tx.QueryRow(ctx, `SELECT COUNT(DISTINCT component) FROM finding_component WHERE state = ? AND (ecosystem = ? OR ecosystem >= ? AND ecosystem < ?)`,
			lookedUp, ecosystem, ecosystem+":", ecosystem+";").Scan(&components)
	})
	return findings, components, err
}

// Outlook counts what an operation that is not yet in force would close of a
// feed's standing findings and, when more says that the loss asks for it, what it
// would open.
func (m *Matcher) Outlook(ctx context.Context, p *feed.Preview, op feed.Operation, more func(lost int64) bool) (lost, gained int64, err error) {
	key := feedKey(op.Name, op.Ecosystem)
	standing := map[string]map[int64]bool{} // components by advisory
	parts := map[string][]place{}
	if err := m.places(ctx, `SELECT f.advisory, f.component, c.ecosystem, c.package, c.version FROM feed_record r
		JOIN finding_match f ON f.feed = ? AND f.advisory = r.id AND f.closed = 0 AND f.status = 1
		JOIN finding_component c ON c.component = f.component WHERE r.operation = ?`, func(advisory string, at place) {
		if standing[advisory] == nil {
			standing[advisory] = map[int64]bool{}
		}
		standing[advisory][at.component] = true
		parts[advisory] = append(parts[advisory], at)
	}, key, op.ID); err != nil {
		return 0, 0, err
	}
	for advisory, list := range parts {
		a, err := p.Record(ctx, advisory)
		if err != nil {
			return 0, 0, err
		}
		still := map[int64]bool{}
		for _, at := range list {
			if a != nil && Affects(feed.Record{Name: op.Name, Ecosystem: op.Ecosystem, Advisory: a}, at.Candidate) {
				still[at.component] = true
			}
		}
		lost += int64(len(standing[advisory]) - len(still))
	}
	if !more(lost) {
		return lost, 0, nil
	}
	fresh := map[string][]place{}
	if err := m.places(ctx, `SELECT p.id, c.component, c.ecosystem, c.package, c.version FROM feed_package p
		JOIN finding_component c ON c.ecosystem = p.ecosystem AND c.package = p.package AND c.state = 0 WHERE p.operation = ?`, func(advisory string, at place) {
		if !standing[advisory][at.component] {
			fresh[advisory] = append(fresh[advisory], at)
		}
	}, op.ID); err != nil {
		return 0, 0, err
	}
	for advisory, list := range fresh {
		a, err := p.Record(ctx, advisory)
		if err != nil {
			return 0, 0, err
		}
		found := map[int64]bool{}
		for _, at := range list {
			if a != nil && Affects(feed.Record{Name: op.Name, Ecosystem: op.Ecosystem, Advisory: a}, at.Candidate) {
				found[at.component] = true
			}
		}
		gained += int64(len(found))
	}
	return lost, gained, nil
}

// place is one way in which a component is looked up.
type place struct {
	component int64
	vuln.Candidate
}

func (m *Matcher) places(ctx context.Context, q string, fn func(advisory string, at place), args ...any) error {
	type one struct {
		advisory string
		place
	}
	var all []one
	if err := m.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		rows, err := tx.Query(ctx, q, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var o one
			if err := rows.Scan(&o.advisory, &o.component, &o.Ecosystem, &o.Name, &o.Version); err != nil {
				return err
			}
			all = append(all, o)
		}
		return rows.Err()
	}); err != nil {
		return err
	}
	for _, o := range all {
		fn(o.advisory, o.place)
	}
	return nil
}
