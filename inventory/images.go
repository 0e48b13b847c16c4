package inventory

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Image is a reference that something runs by.
type Image struct {
	Image      string
	Production bool // some of it counts as production, by anybody's word
}

// inProduction says whether what runs counts as production by anybody's word: the
// environment that the catalogue gives it, or the one that the cluster's own
// reporter names. Whoever writes the catalogue can say of a namespace of such a
// cluster that it is for trying things out, which is believed for what is told to
// people, and not for what takes it from behind a gate.
func inProduction(environment, reported string) bool {
	return Production(environment) || reported != "" && Production(reported)
}

// Serving says of a digest that runs of which services it is, and whether it runs
// in production by anybody's word.
func (s *Store) Serving(ctx context.Context, tx *store.Tx, digest artifact.Digest) (services []string, production bool, err error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT w.service, w.environment, COALESCE(c.environment, '') FROM inventory_workload w LEFT JOIN inventory_cluster c ON c.name = w.cluster WHERE w.digest = ? AND w.ended = 0`, string(digest))
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var service, environment, reported string
		if err := rows.Scan(&service, &environment, &reported); err != nil {
			return nil, false, err
		}
		services = note(services, service)
		production = production || inProduction(environment, reported)
	}
	return services, production, rows.Err()
}

// Images lists the references that what runs was asked for by, each once.
func (s *Store) Images(ctx context.Context, tx *store.Tx) (all []Image, err error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT w.image, w.environment, COALESCE(c.environment, '') FROM inventory_workload w LEFT JOIN inventory_cluster c ON c.name = w.cluster
		WHERE w.ended = 0 AND w.image <> '' ORDER BY w.image`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var image, environment, reported string
		if err := rows.Scan(&image, &environment, &reported); err != nil {
			return nil, err
		}
		if n := len(all); n == 0 || all[n-1].Image != image {
			all = append(all, Image{Image: image})
		}
		last := &all[len(all)-1]
		last.Production = last.Production || inProduction(environment, reported)
	}
	return all, rows.Err()
}

// Stamp changes whenever something began to run or ended.
func (s *Store) Stamp(ctx context.Context, tx *store.Tx) (stamp [2]int64, err error) {
	err = tx.QueryRow(ctx, `SELECT COALESCE((SELECT MAX(ended) FROM inventory_workload WHERE ended > 0), 0), COALESCE((SELECT MAX(first_seen) FROM inventory_workload WHERE ended = 0), 0)`).Scan(&stamp[0], &stamp[1])
	return stamp, err
}

// ProducedFrom are the places from which something that runs in production was asked
// for.
func (s *Store) ProducedFrom(ctx context.Context, tx *store.Tx) (map[Place]bool, error) {
	all, err := s.Images(ctx, tx)
	if err != nil {
		return nil, err
	}
	out := map[Place]bool{}
	for _, i := range all {
		if i.Production {
			out[s.PlaceOf(i.Image)] = true
		}
	}
	return out, nil
}
