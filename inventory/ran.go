package inventory

import (
	"context"
	"strings"
	"time"

	"assay/artifact"
	"assay/store"
)

// RanFilter says of what is asked. Empty members ask for all.
type RanFilter struct {
	Service, Environment         string
	Cluster, Namespace, Workload string
	Running                      bool // what runs now alone
}

// Ran is an image that runs or ran in a container of a workload.
type Ran struct {
	Digest                                    artifact.Digest
	Image                                     string
	Cluster, Namespace, Kind, Name, Container string
	First                                     time.Time // of those that run; of one that runs no more, of all
	Last                                      time.Time // when the last ended; zero: some run
	Instances                                 int       // that run now
}

// Ran gives which digests run and ran, those that run first, then those that ended
// last; at most limit.
func (s *Store) Ran(ctx context.Context, f RanFilter, limit int) (all []Ran, err error) {
	conds, args := []string{`digest <> ''`}, []any{}
	for _, c := range []struct{ column, value string }{
		{"service", f.Service}, {"environment", f.Environment}, {"cluster", f.Cluster}, {"namespace", f.Namespace}, {"name", f.Workload},
	} {
		if c.value != "" {
			conds, args = append(conds, c.column+` = ?`), append(args, c.value)
		}
	}
	if f.Running {
		conds = append(conds, `ended = 0`)
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		rows, err := tx.Query(ctx, `SELECT digest, image, cluster, namespace, kind, name, container, n, CASE WHEN n > 0 THEN runs_since ELSE since END, last FROM (
			SELECT digest, image, cluster, namespace, kind, name, container, SUM(CASE WHEN ended = 0 THEN 1 ELSE 0 END) AS n,
				COALESCE(MIN(CASE WHEN ended = 0 THEN first_seen END), 0) AS runs_since, MIN(first_seen) AS since, MAX(ended) AS last
			FROM inventory_workload WHERE `+strings.Join(conds, " AND ")+` GROUP BY digest, image, cluster, namespace, kind, name, container) x
			ORDER BY CASE WHEN n > 0 THEN 0 ELSE 1 END, last DESC, since DESC, digest, cluster, namespace, kind, name, container LIMIT ?`, append(args, limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r Ran
			var first, last int64
			if err := rows.Scan(&r.Digest, &r.Image, &r.Cluster, &r.Namespace, &r.Kind, &r.Name, &r.Container, &r.Instances, &first, &last); err != nil {
				return err
			}
			r.First = store.Time(first)
			if r.Instances == 0 {
				r.Last = store.Time(last)
			}
			all = append(all, r)
		}
		return rows.Err()
	})
	return all, err
}
