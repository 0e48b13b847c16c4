package inventory

import (
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/store"
)

// KnownIdentity is what is known of a workload's identity, and since when.
type KnownIdentity struct {
	Identity
	Cluster string
	Since   time.Time
	Silent  bool // its cluster was not heard of for long: what it says may have changed
}

// IdentityFilter says which are asked for. Empty members ask for all.
type IdentityFilter struct {
	Cluster, Namespace string
	MTLS               MTLS
	SPIFFEID           string
	After              string // cursor of the page before
	Limit              int    // 0: 100
}

// Identities lists what is known of the identities of workloads that run, and of
// namespaces, in the order of their names; next is the cursor of the page behind.
func (s *Store) Identities(ctx context.Context, f IdentityFilter) (all []KnownIdentity, next string, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	conds, args := []string{`gone = 0`}, []any(nil)
	for _, c := range []struct{ column, value string }{{"cluster", f.Cluster}, {"namespace", f.Namespace}, {"mtls", string(f.MTLS)}} {
		if c.value != "" {
			conds = append(conds, c.column+` = ?`)
			args = append(args, c.value)
		}
	}
	if f.SPIFFEID != "" {
		conds = append(conds, `(' ' || spiffe_ids || ' ') LIKE ? ESCAPE '!'`)
		args = append(args, "% "+strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(f.SPIFFEID)+" %")
	}
	if f.After != "" {
		after, ok := identityCursor(f.After)
		if !ok {
			return nil, "", errFilter(f.After)
		}
		conds = append(conds, `(cluster, namespace, kind, name) > (?, ?, ?, ?)`)
		args = append(args, after[0], after[1], after[2], after[3])
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		clusters, err := s.clusters(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT cluster, namespace, kind, name, spiffe_ids, source, mesh, mtls, since FROM inventory_identity WHERE `+strings.Join(conds, " AND ")+
			` ORDER BY cluster, namespace, kind, name LIMIT ?`, append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k KnownIdentity
			var ids string
			var since int64
			if err := rows.Scan(&k.Cluster, &k.Namespace, &k.Kind, &k.Name, &ids, &k.Source, &k.Mesh, &k.MTLS, &since); err != nil {
				return err
			}
			k.SPIFFEIDs, k.Since, k.Silent = strings.Fields(ids), store.Time(since), clusters[k.Cluster].Silent
			all = append(all, k)
		}
		return rows.Err()
	})
	if err == nil && len(all) > f.Limit {
		all = all[:f.Limit]
		k := &all[f.Limit-1]
		next = strings.Join([]string{k.Cluster, k.Namespace, k.Kind, k.Name}, "/")
	}
	return all, next, err
}

// identityCursor reads a cursor: no part of it has a slash.
func identityCursor(s string) (p [4]string, ok bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 || len(s) > 2048 {
		return p, false
	}
	return [4]string(parts), true
}

// IdentityOf says what is known of the workloads of a namespace of a cluster that
// run one of these digests: the worst of each, with all their identities. Where none
// runs it is what the namespace gives, and runs is false. Nothing is known (known is
// false) where the cluster told nothing, or was not heard of for long.
func (s *Store) IdentityOf(ctx context.Context, tx *store.Tx, cluster, namespace string, digests []artifact.Digest) (id Identity, runs, known bool, err error) {
	unknown := Identity{Namespace: namespace, Source: Unread, MTLS: MTLSUnknown}
	clusters, err := s.clusters(ctx, tx)
	if err != nil {
		return unknown, false, false, err
	}
	if c, heard := clusters[cluster]; !heard || c.Silent || len(digests) == 0 {
		return unknown, false, false, nil
	}
	args := []any{cluster, namespace}
	for _, d := range digests {
		args = append(args, string(d))
	}
	rows, err := tx.Query(ctx, `SELECT w.kind, w.name, COALESCE(i.spiffe_ids, ''), COALESCE(i.source, 'unknown'), COALESCE(i.mesh, ''), COALESCE(i.mtls, 'unknown') FROM
		(SELECT DISTINCT kind, name FROM inventory_workload WHERE cluster = ? AND namespace = ? AND ended = 0 AND digest IN (?`+strings.Repeat(", ?", len(digests)-1)+`)) w
		LEFT JOIN inventory_identity i ON i.cluster = ? AND i.namespace = ? AND i.kind = w.kind AND i.name = w.name AND i.gone = 0 ORDER BY w.kind, w.name`, append(args, cluster, namespace)...)
	if err != nil {
		return unknown, false, false, err
	}
	defer rows.Close()
	id = Identity{Namespace: namespace, Source: BySPIRE, MTLS: MTLSStrict}
	for rows.Next() {
		var one Identity
		var ids string
		if err := rows.Scan(&one.Kind, &one.Name, &ids, &one.Source, &one.Mesh, &one.MTLS); err != nil {
			return unknown, false, false, err
		}
		runs = true
		id.MTLS, id.Source, id.Mesh = WeakestMTLS(id.MTLS, one.MTLS), SurestLeast(id.Source, one.Source), one.Mesh
		id.SPIFFEIDs = append(id.SPIFFEIDs, strings.Fields(ids)...)
	}
	if err := rows.Err(); err != nil {
		return unknown, false, false, err
	}
	if runs {
		slices.Sort(id.SPIFFEIDs)
		id.SPIFFEIDs = slices.Compact(id.SPIFFEIDs)
		return id, true, true, nil
	}
	rows.Close()
	return namespaceIdentity(ctx, tx, cluster, unknown)
}

// namespaceIdentity is what a namespace gives to what comes to be there.
func namespaceIdentity(ctx context.Context, tx *store.Tx, cluster string, unknown Identity) (id Identity, runs, known bool, err error) {
	rows, err := tx.Query(ctx, `SELECT mesh, mtls FROM inventory_identity WHERE cluster = ? AND namespace = ? AND kind = ? AND name = ? AND gone = 0`, cluster, unknown.Namespace, KindNamespace, unknown.Namespace)
	if err != nil {
		return unknown, false, false, err
	}
	defer rows.Close()
	id = unknown
	for rows.Next() {
		known = true
		if err := rows.Scan(&id.Mesh, &id.MTLS); err != nil {
			return unknown, false, false, err
		}
	}
	return id, false, known, rows.Err()
}
