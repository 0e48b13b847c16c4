package server

import (
	"cmp"
	"context"
	"strings"
	"time"

	"assay/artifact"
	"assay/slo"
	"assay/store"
)

// flawsFor is how long what is affected of what runs is believed: it is the
// greatest question that a look asks.
const flawsFor = 5 * time.Minute

// runningFacts gathers what is known of what runs, in a few questions about all
// of it. It is for one goroutine.
type runningFacts struct {
	s       *Server
	flaws   map[artifact.Digest]flawCount
	flawsAt time.Time
}

type flawCount struct {
	direct, transitive int
	since              int64
}

const runs = `(SELECT digest FROM inventory_workload WHERE ended = 0)`

type digestFacts struct {
	bundles, allowed, denied             int64
	provenance, sbom, vex, test, scanned bool
	quality                              int
}

func (r *runningFacts) all(ctx context.Context, tx *store.Tx) (out []slo.Running, err error) {
	known := map[artifact.Digest]*digestFacts{}
	at := func(d string) *digestFacts {
		if known[artifact.Digest(d)] == nil {
			known[artifact.Digest(d)] = &digestFacts{}
		}
		return known[artifact.Digest(d)]
	}
	// What is known of an index is known of what stands in it.
	parents := map[string][]string{}
	if err := pairs(ctx, tx, func(child, parent string) { parents[child] = append(parents[child], parent) },
		`SELECT DISTINCT child, manifest FROM registry_reference WHERE child IN `+runs); err != nil {
		return nil, err
	}
	subjects := runs
	if len(parents) > 0 {
		subjects = `(SELECT digest FROM inventory_workload WHERE ended = 0 UNION SELECT manifest FROM registry_reference WHERE child IN ` + runs + `)`
	}
	if err := pairs(ctx, tx, func(d, predicate string) { at(d).evidence(predicate) },
		`SELECT s.subject, b.predicate_type FROM evidence_subject s JOIN evidence_bundle b ON b.id = s.id WHERE s.subject IN `+subjects); err != nil {
		return nil, err
	}
	if err := pairs(ctx, tx, func(d, verdict string) {
		if verdict == "allow" {
			at(d).allowed++
		} else {
			at(d).denied++
		}
	}, `SELECT c.digest, d.verdict FROM current_decision c JOIN decision d ON d.id = c.decision_id WHERE c.valid_until > ? AND c.digest IN `+subjects, tx.Now()); err != nil {
		return nil, err
	}
	if err := r.documents(ctx, tx, subjects, at); err != nil {
		return nil, err
	}
	if err := pairs(ctx, tx, func(d, _ string) { at(d).scanned = true }, `SELECT DISTINCT subject, '' FROM finding_scan WHERE subject IN `+subjects); err != nil {
		return nil, err
	}
	if err := r.affected(ctx, tx, subjects); err != nil {
		return nil, err
	}
	names, err := namesOf(ctx, tx, subjects)
	if err != nil {
		return nil, err
	}
	presences, err := r.s.inventory.Presences(ctx, tx)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT digest, cluster, service, team, environment, MIN(image) FROM inventory_workload WHERE ended = 0 GROUP BY digest, cluster, service, team, environment ORDER BY digest, cluster, service, team, environment`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x slo.Running
		var image string
		if err := rows.Scan(&x.Digest, &x.Place.Cluster, &x.Place.Service, &x.Place.Team, &x.Place.Environment, &image); err != nil {
			return nil, err
		}
		x.Place.Kind, x.Place.Release = names.of(x.Digest, parents[string(x.Digest)], image, r.s.host())
		if p := presences[x.Digest]; p != nil {
			x.Silent = p.Silent
		}
		r.fill(&x, known, parents[string(x.Digest)])
		out = append(out, x)
	}
	return out, rows.Err()
}

// named is what the own registry calls a digest.
type named struct{ kind, repository, tag string }

type names map[artifact.Digest]named

// namesOf reads the newest tag of each digest; of one that lies in several
// repositories, that of the first which has a tag of it.
func namesOf(ctx context.Context, tx *store.Tx, subjects string) (names, error) {
	rows, err := tx.Query(ctx, `SELECT m.digest, m.repository, m.media_type, m.artifact_type, COALESCE(t.tag, '') FROM registry_manifest m
		LEFT JOIN registry_tag t ON t.repository = m.repository AND t.digest = m.digest WHERE m.digest IN `+subjects+` ORDER BY m.digest, m.repository, t.moved_at DESC, t.tag`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := names{}
	for rows.Next() {
		var d, media, kind string
		var n named
		if err := rows.Scan(&d, &n.repository, &media, &kind, &n.tag); err != nil {
			return nil, err
		}
		n.kind = kindOf(media, kind)
		if had, ok := out[artifact.Digest(d)]; !ok || had.tag == "" && n.tag != "" {
			out[artifact.Digest(d)] = n
		}
	}
	return out, rows.Err()
}

// of is the kind and the release of what runs: REPOSITORY:TAG as the own registry
// has it for the digest or for an index that it stands in, else as the workload
// names its image. It groups numbers, and proves nothing.
func (n names) of(d artifact.Digest, parents []string, image, own string) (kind, release string) {
	kind = cmp.Or(n[d].kind, "image")
	for _, x := range append([]string{string(d)}, parents...) {
		if r := n[artifact.Digest(x)]; r.tag != "" {
			return kind, r.repository + ":" + r.tag
		}
	}
	if ref, err := artifact.ParseReference(image); err == nil && ref.Tag != "" {
		if ref.Host == own {
			return kind, ref.Repository + ":" + ref.Tag
		}
		return kind, ref.Host + "/" + ref.Repository + ":" + ref.Tag
	}
	return kind, ""
}

func (f *digestFacts) evidence(predicate string) {
	f.bundles++
	switch {
	case strings.HasPrefix(predicate, "https://slsa.dev/provenance/"):
		f.provenance = true
	case strings.HasPrefix(predicate, "https://openvex.dev/ns"):
		f.vex = true
	case strings.HasPrefix(predicate, "https://in-toto.io/attestation/test-result/"):
		f.test = true
	}
}

func (r *runningFacts) documents(ctx context.Context, tx *store.Tx, subjects string, at func(string) *digestFacts) error {
	rows, err := tx.Query(ctx, `SELECT subject, MAX(quality) FROM sbom_document WHERE state = 1 AND subject IN `+subjects+` GROUP BY subject`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var d string
		var quality int
		if err := rows.Scan(&d, &quality); err != nil {
			return err
		}
		at(d).sbom, at(d).quality = true, quality
	}
	return rows.Err()
}

// affected counts affected components, those left out that the site states to be
// not concerned.
func (r *runningFacts) affected(ctx context.Context, tx *store.Tx, subjects string) error {
	if r.flaws != nil && tx.Now().Sub(r.flawsAt) < flawsFor {
		return nil
	}
	excused, err := r.s.excused(ctx)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT s.subject, c.key, f.advisory, o.direct, f.opened FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document
		JOIN finding_match f ON f.component = o.component AND f.closed = 0 AND f.status = 1 JOIN sbom_component c ON c.id = o.component WHERE s.subject IN `+subjects+` ORDER BY s.subject, c.key`)
	if err != nil {
		return err
	}
	defer rows.Close()
	out := map[artifact.Digest]flawCount{}
	last := ""
	for rows.Next() {
		var subject, component, advisory string
		var direct, opened int64
		if err := rows.Scan(&subject, &component, &advisory, &direct, &opened); err != nil {
			return err
		}
		d := artifact.Digest(subject)
		if excused(d, advisory, component) {
			continue
		}
		n := out[d]
		if n.since == 0 || opened < n.since {
			n.since = opened
		}
		if key := subject + " " + component; key != last {
			last = key
			if direct == 1 {
				n.direct++
			} else {
				n.transitive++
			}
		}
		out[d] = n
	}
	if err := rows.Err(); err != nil {
		return err
	}
	r.flaws, r.flawsAt = out, tx.Now()
	return nil
}

func (r *runningFacts) fill(x *slo.Running, known map[artifact.Digest]*digestFacts, parents []string) {
	var f digestFacts
	for _, d := range append([]string{string(x.Digest)}, parents...) {
		k := known[artifact.Digest(d)]
		if k != nil {
			f.bundles, f.allowed, f.denied = f.bundles+k.bundles, f.allowed+k.allowed, f.denied+k.denied
			f.provenance, f.sbom, f.vex, f.test, f.scanned = f.provenance || k.provenance, f.sbom || k.sbom, f.vex || k.vex, f.test || k.test, f.scanned || k.scanned
			f.quality = max(f.quality, k.quality)
		}
		n := r.flaws[artifact.Digest(d)]
		x.Direct, x.Transitive = max(x.Direct, n.direct), max(x.Transitive, n.transitive)
		if n.since != 0 && (x.Exposed.IsZero() || store.Time(n.since).Before(x.Exposed)) {
			x.Exposed = store.Time(n.since)
		}
	}
	is := func(b bool) slo.Verdict {
		if b {
			return slo.Yes
		}
		return slo.No
	}
	x.Provenance, x.SBOM, x.VEX, x.Tests, x.Scanned = is(f.provenance), is(f.sbom), is(f.vex), is(f.test), is(f.scanned)
	x.Signature, x.Approved, x.Quality = is(f.bundles > 0), approved(f.bundles, f.allowed, f.denied), f.quality
}
