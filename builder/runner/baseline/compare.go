package baseline

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/builder/runner"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
)

// Compare looks at all that is known of the builds that made a digest and was
// not compared yet. It may be called at any time and as often as wanted: what was
// compared stays as it was.
func (s *Store) Compare(ctx context.Context, subject artifact.Digest) error {
	docs, err := s.documents(ctx, subject)
	if err != nil || len(docs) == 0 {
		return err
	}
	for _, g := range group(docs) {
		if err := s.db.Update(ctx, func(tx *store.Tx) error { return s.compare(ctx, tx, g) }); err != nil {
			return err
		}
	}
	return nil
}

// documents reads what is about a subject; nil when there is no runner evidence
// or nothing new.
func (s *Store) documents(ctx context.Context, subject artifact.Digest) ([]*document, error) {
	var records []evidence.Record
	for _, t := range []string{
		runner.PredicateType, attestation.PredicateProvenanceV1, attestation.PredicateProvenanceV02, attestation.PredicateProvenanceV01,
		attestation.PredicateProvenanceV1Stray, attestation.PredicateRuntimeTrace,
	} {
		got, err := s.evidence.List(ctx, evidence.Filter{Subject: subject, PredicateType: t, Limit: maxDocuments})
		if err != nil {
			return nil, err
		}
		if t == runner.PredicateType && len(got) == 0 {
			return nil, nil
		}
		records = append(records, got...)
	}
	fresh := false
	err := s.db.View(ctx, func(tx *store.Tx) error {
		fresh = false
		for _, r := range records {
			var build string
			err := tx.QueryRow(ctx, `SELECT build FROM runner_document WHERE attestation = ?`, r.ID).Scan(&build)
			if errors.Is(err, fault.NotFound) {
				fresh = true
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !fresh {
		return nil, err
	}
	var out []*document
	for _, r := range records {
		d, err := s.read(ctx, r)
		if err != nil {
			return nil, err
		}
		if d != nil && (d.runner != nil || d.prov != nil || d.trace != nil) {
			out = append(out, d)
		}
	}
	return out, nil
}

// run is all that one signer says of one invocation.
type run struct {
	signer, invocation string
	runner             *document // the earliest
	prov               *document // the earliest
	docs               []*document
}

// group puts documents together by signer and invocation. A trace that names no
// invocation belongs to the run of its signer about the same artifact when there
// is one only; else to none.
func group(docs []*document) []*run {
	// Earlier first, so that what came later cannot take an earlier one's place.
	slices.SortStableFunc(docs, func(a, b *document) int {
		if c := a.time.Compare(b.time); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	var runs []*run
	of := func(d *document, invocation string) *run {
		for _, r := range runs {
			if r.signer == d.signer && (r.invocation == invocation) {
				return r
			}
		}
		r := &run{signer: d.signer, invocation: invocation}
		runs = append(runs, r)
		return r
	}
	for _, d := range docs {
		if id := d.invocation(); id != "" {
			r := of(d, id)
			r.docs = append(r.docs, d)
			if d.runner != nil && r.runner == nil {
				r.runner = d
			}
			if d.prov != nil && r.prov == nil {
				r.prov = d
			}
		}
	}
	for _, d := range docs {
		if d.trace == nil || d.invocation() != "" {
			continue
		}
		var of []*run
		for _, r := range runs {
			if r.signer == d.signer && r.runner != nil {
				of = append(of, r)
			}
		}
		if len(of) == 1 {
			of[0].docs = append(of[0].docs, d)
		}
	}
	return slices.DeleteFunc(runs, func(r *run) bool { return r.runner == nil || r.prov == nil })
}

// comparison is one build under comparison within a transaction.
type comparison struct {
	s      *Store
	tx     *store.Tx
	source Source
	build  *Build
	run    *run
	new    []Anomaly
}

func (s *Store) compare(ctx context.Context, tx *store.Tx, r *run) error {
	ref, verified, trigger, rank := s.rankOf(r.prov, r.prov.prov)
	e := r.runner.runner
	src := sourceOf(r.prov, r.prov.prov)
	id := hashID("run_", r.signer, r.invocation)
	c := &comparison{s: s, tx: tx, source: src, run: r}
	var err error
	if c.build, err = findBuild(ctx, tx, id); errors.Is(err, fault.NotFound) {
		c.build, err = nil, nil
	}
	if err != nil {
		return err
	}
	begun := c.build == nil
	if begun {
		c.build = &Build{
			ID: id, Source: src.ID, InvocationID: r.invocation, Issuer: r.runner.identity.Issuer, Identity: r.runner.identity.Subject,
			Ref: ref, RefVerified: verified, Trigger: trigger, Rank: rank, Command: commandOf(r.prov.prov),
			Instance: e.Machine.Instance, Machine: e.Machine.ID, Kind: e.Machine.Kind, Fresh: e.Use.Fresh, Uses: e.Use.Builds, Age: e.Machine.Age,
			Image: clip(strings.TrimSpace(e.Image.Name + " " + e.Image.Version + " " + e.Image.Reference)), Evidence: r.runner.id, Provenance: r.prov.id,
			Time: r.runner.time, State: StateNone, Job: clip(r.prov.identity.Extensions["run_invocation_uri"]),
		}
		if c.build.Identity == "" {
			c.build.Identity = r.runner.key
		}
		if err := c.begin(ctx); err != nil {
			return err
		}
	}
	for _, d := range r.docs {
		n, err := tx.Exec(ctx, `INSERT INTO runner_document (attestation, build) VALUES (?, ?) ON CONFLICT (attestation) DO NOTHING`, d.id, id)
		if err != nil {
			return err
		}
		if err := c.subjects(ctx, d); err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if d.trace != nil && c.build.Trace == "" {
			c.build.Trace = d.id
		}
		for _, kind := range d.kinds() {
			if _, _, err := c.learns(ctx, kind); err != nil {
				return err
			}
		}
		if err := c.values(ctx, d.observations()); err != nil {
			return err
		}
		if d.runner != nil {
			if err := c.machine(ctx, d.runner); err != nil {
				return err
			}
		}
	}
	return c.finish(ctx)
}

// begin makes the rows of a build that is new.
func (c *comparison) begin(ctx context.Context) error {
	src := c.source
	if _, err := c.tx.Exec(ctx, `INSERT INTO runner_source (id, issuer, repository, workflow, verified, since) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		src.ID, src.Issuer, src.Repository, src.Workflow, flag(src.Verified), store.Micros(c.tx.Now())); err != nil {
		return err
	}
	return insertBuild(ctx, c.tx, c.build)
}

func (c *comparison) subjects(ctx context.Context, d *document) error {
	for _, digest := range d.subjects {
		if _, err := c.tx.Exec(ctx, `INSERT INTO runner_subject (digest, build) VALUES (?, ?) ON CONFLICT (digest, build) DO NOTHING`, string(digest), c.build.ID); err != nil {
			return err
		}
	}
	return nil
}

// learns says whether this build teaches a kind: the first whose run may be
// trusted at all.
func (c *comparison) learns(ctx context.Context, kind string) (learns, known bool, err error) {
	var teacher string
	err = c.tx.QueryRow(ctx, `SELECT build FROM runner_learnt WHERE source = ? AND kind = ?`, c.source.ID, kind).Scan(&teacher)
	if err == nil {
		return teacher == c.build.ID, true, nil
	}
	if !errors.Is(err, fault.NotFound) || c.build.Rank == RankForeign {
		return false, false, ignoreNotFound(err)
	}
	_, err = c.tx.Exec(ctx, `INSERT INTO runner_learnt (source, kind, build) VALUES (?, ?, ?)`, c.source.ID, kind, c.build.ID)
	return true, true, err
}

func ignoreNotFound(err error) error {
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// values compares what was observed with what is usual, or learns it.
func (c *comparison) values(ctx context.Context, all []observation) error {
	for _, o := range all {
		learns, known, err := c.learns(ctx, o.kind)
		if err != nil {
			return err
		}
		if !known {
			continue // nothing to compare with; the state says so
		}
		if learns {
			if err := c.learn(ctx, o, 0); err != nil {
				return err
			}
			continue
		}
		if o.kind == KindTrace && o.value == "traced" && c.build.Rank != RankForeign {
			// To see more than before is no anomaly, and to see less is one from now on.
			if _, err := c.tx.Exec(ctx, `DELETE FROM runner_known WHERE source = ? AND kind = ?`, c.source.ID, KindTrace); err != nil {
				return err
			}
			if err := c.learn(ctx, o, 0); err != nil {
				return err
			}
			continue
		}
		usual, before, err := c.usual(ctx, o)
		if err != nil {
			return err
		}
		if usual {
			continue
		}
		if err := c.anomaly(ctx, o, before); err != nil {
			return err
		}
	}
	return nil
}

// machine compares how the machine was used, and its caches.
func (c *comparison) machine(ctx context.Context, e *runner.Evidence) error {
	learns, known, err := c.learns(ctx, KindReuse)
	if err != nil {
		return err
	}
	earlier, same, err := c.earlier(ctx, e.Machine.Instance)
	if err != nil {
		return err
	}
	// Builds of the same job are one use of the machine.
	used := earlier != "" || !e.Use.Fresh && e.Use.Builds > same || !e.Use.Fresh && e.Use.Builds == 0
	if e.Use.Fresh && earlier != "" {
		if err := c.unlessUsual(ctx, observation{KindHidden, "instance", e.Machine.Instance}, "it says it is fresh, and was used by "+earlier); err != nil {
			return err
		}
	}
	if used {
		if _, err := c.tx.Exec(ctx, `UPDATE runner_build SET used = 1 WHERE id = ?`, c.build.ID); err != nil {
			return err
		}
	}
	o := observation{KindReuse, "machine", "fresh"}
	if used {
		o.value = "used"
	}
	switch {
	case learns:
		err = c.learn(ctx, o, 0)
	case known && used:
		// Where machines are used again since ever, that is no anomaly. An instance
		// that was accepted is usual too.
		var usual bool
		if usual, _, err = c.usual(ctx, o); err == nil && !usual {
			err = c.unlessUsual(ctx, observation{KindReuse, "instance", e.Machine.Instance}, "a fresh machine for each build"+reuseText(e.Use.Builds, earlier))
		}
	}
	if err != nil {
		return err
	}
	return c.caches(ctx, e.Caches)
}

// unlessUsual notes an anomaly that nobody accepted yet.
func (c *comparison) unlessUsual(ctx context.Context, o observation, before string) error {
	usual, _, err := c.usual(ctx, o)
	if err != nil || usual {
		return err
	}
	return c.anomaly(ctx, o, before)
}

func reuseText(builds int, earlier string) string {
	s := "; this one was used by " + strconv.Itoa(builds) + " builds before"
	if earlier != "" {
		s += ", among them " + earlier
	}
	return s
}

// earlier is another job's build that ran on the same instance ("" when none is
// known), and how many of this job did.
func (c *comparison) earlier(ctx context.Context, instance string) (id string, same int, err error) {
	if instance == "" {
		return "", 0, nil
	}
	err = c.tx.QueryRow(ctx, `SELECT invocation FROM runner_build WHERE instance = ? AND id <> ? AND (job = '' OR job <> ?) ORDER BY time, id LIMIT 1`,
		instance, c.build.ID, c.build.Job).Scan(&id)
	if ignoreNotFound(err) != nil || c.build.Job == "" {
		return id, 0, ignoreNotFound(err)
	}
	err = c.tx.QueryRow(ctx, `SELECT COUNT(*) FROM runner_build WHERE instance = ? AND id <> ? AND job = ?`, instance, c.build.ID, c.build.Job).Scan(&same)
	return id, same, err
}

// caches compares who wrote what was restored, and notes what this run wrote.
// The content counts no more than what it was made from: a run that restores a
// cache and writes it hands on what it got.
func (c *comparison) caches(ctx context.Context, all []runner.Cache) error {
	learns, _, err := c.learns(ctx, KindCache)
	if err != nil {
		return err
	}
	for _, cache := range all {
		rank := c.build.Rank
		if cache.Restored != "" {
			from, why, err := c.writer(ctx, cache)
			if err != nil {
				return err
			}
			o := observation{KindCache, clip(cache.Key), string(cache.Restored)}
			usual, _, err := c.usual(ctx, o)
			if err != nil {
				return err
			}
			if from == rankUnknown && learns {
				// Older than all that is known here: the first build teaches it, and
				// whoever accepts that build has looked at it.
				if err := c.learn(ctx, o, 0); err != nil {
					return err
				}
				usual = true
			}
			if !usual && from < c.build.Rank {
				rank = from
				if err := c.anomaly(ctx, o, why); err != nil {
					return err
				}
			}
		}
		if cache.Saved == "" || cache.Saved == cache.Restored {
			continue
		}
		// Who wrote it first is its writer; a more trusted run that made the same
		// by itself makes it as good as its own.
		if _, err := c.tx.Exec(ctx, `INSERT INTO runner_cache (digest, issuer, repository, build, rank, time) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET issuer = excluded.issuer, repository = excluded.repository, build = excluded.build, rank = excluded.rank, time = excluded.time
			WHERE runner_cache.rank < excluded.rank`,
			string(cache.Saved), c.source.Issuer, c.source.Repository, c.build.ID, rank, store.Micros(c.tx.Now())); err != nil {
			return err
		}
	}
	return nil
}

// rankUnknown is that of content that nobody is known to have written.
const rankUnknown = -1

// writer says how far the run that wrote a cache is to be trusted here.
func (c *comparison) writer(ctx context.Context, cache runner.Cache) (rank int, why string, err error) {
	var issuer, repository, build, identity, ref string
	err = c.tx.QueryRow(ctx, `SELECT w.issuer, w.repository, w.rank, b.invocation, b.identity, b.ref FROM runner_cache w JOIN runner_build b ON b.id = w.build WHERE w.digest = ?`,
		string(cache.Restored)).Scan(&issuer, &repository, &rank, &build, &identity, &ref)
	switch {
	case errors.Is(err, fault.NotFound):
		return rankUnknown, "written by no build that is known here", nil
	case err != nil:
		return 0, "", err
	case issuer != c.source.Issuer || repository != c.source.Repository:
		return RankForeign, clip("written by " + build + " of another repository, " + repository), nil
	}
	return rank, clip("written by " + build + " of " + identity + " at " + ref), nil
}

func (c *comparison) learn(ctx context.Context, o observation, pattern int) error {
	var n int
	if err := c.tx.QueryRow(ctx, `SELECT COUNT(*) FROM runner_known WHERE source = ? AND kind = ?`, c.source.ID, o.kind).Scan(&n); err != nil {
		return err
	}
	if n >= maxKnown {
		return nil // it stays an anomaly of later builds
	}
	_, err := c.tx.Exec(ctx, `INSERT INTO runner_known (source, kind, name, value, pattern, build, since) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source, kind, name, value) DO NOTHING`,
		c.source.ID, o.kind, o.name, o.value, pattern, c.build.ID, store.Micros(c.tx.Now()))
	return err
}

// usual says whether a value is known for its name, and which are.
func (c *comparison) usual(ctx context.Context, o observation) (is bool, before string, err error) {
	known, err := knownOf(ctx, c.tx, c.source.ID, o.kind, o.name)
	if err != nil {
		return false, "", err
	}
	var values []string
	for _, k := range known {
		if k.matches(o.value) {
			return true, "", nil
		}
		values = append(values, k.value)
	}
	return false, shown(values), nil
}

func shown(values []string) string {
	if len(values) > maxShown {
		return clip(strings.Join(values[:maxShown], ", ") + " and " + strconv.Itoa(len(values)-maxShown) + " more")
	}
	return clip(strings.Join(values, ", "))
}

// anomaly notes what is new, with its event, once.
func (c *comparison) anomaly(ctx context.Context, o observation, before string) error {
	var n int
	if err := c.tx.QueryRow(ctx, `SELECT COUNT(*) FROM runner_anomaly WHERE build = ?`, c.build.ID).Scan(&n); err != nil {
		return err
	}
	if n >= maxAnomalies {
		o, before = observation{KindMore, "anomalies", "more than " + strconv.Itoa(maxAnomalies)}, ""
	}
	a := Anomaly{
		ID: hashID("ano_", c.build.ID, o.kind, o.name, o.value), Build: c.build.ID, Source: c.source.ID,
		Kind: o.kind, Name: o.name, Before: clip(before), After: o.value, Time: c.tx.Now(),
	}
	made, err := c.tx.Exec(ctx, `INSERT INTO runner_anomaly (id, build, source, kind, name, value, usual, time, accepted, accepted_by, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, '', '') ON CONFLICT (id) DO NOTHING`,
		a.ID, a.Build, a.Source, a.Kind, a.Name, a.After, a.Before, store.Micros(a.Time))
	if err == nil && made > 0 {
		c.new = append(c.new, a)
	}
	return err
}

// finish writes what the comparison came to, and tells of what is new.
func (c *comparison) finish(ctx context.Context) error {
	state, err := c.state(ctx)
	if err != nil {
		return err
	}
	if _, err := c.tx.Exec(ctx, `UPDATE runner_build SET state = ?, trace = ? WHERE id = ?`, string(state), c.build.Trace, c.build.ID); err != nil {
		return err
	}
	if len(c.new) == 0 {
		return nil
	}
	subjects, err := subjectsOf(ctx, c.tx, c.build.ID)
	if err != nil {
		return err
	}
	var first artifact.Digest
	if len(subjects) > 0 {
		first = subjects[0]
	}
	for _, a := range c.new {
		err := event.Append(ctx, c.tx, event.Event{Kind: event.RunnerAnomaly, Digest: first, Actor: "system:baseline", Body: map[string]any{
			"id": a.ID, "what": a.Kind, "name": a.Name, "before": a.Before, "after": a.After, "build": c.build.InvocationID, "identity": c.build.Identity,
			"source": c.source.Repository, "workflow": c.source.Workflow, "artifacts": subjects[:min(len(subjects), 16)],
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// state says what the build was compared with: it is the first when it taught
// anything of what it says.
func (c *comparison) state(ctx context.Context) (State, error) {
	if c.build.State == StateAccepted {
		return StateAccepted, nil
	}
	var taught, known int
	if err := c.tx.QueryRow(ctx, `SELECT COUNT(*) FROM runner_learnt WHERE source = ? AND build = ?`, c.source.ID, c.build.ID).Scan(&taught); err != nil {
		return "", err
	}
	if err := c.tx.QueryRow(ctx, `SELECT COUNT(*) FROM runner_learnt WHERE source = ? AND kind = ?`, c.source.ID, KindCommand).Scan(&known); err != nil {
		return "", err
	}
	switch {
	case taught > 0:
		return StateFirst, nil
	case known > 0:
		return StateCompared, nil
	}
	return StateNone, nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
