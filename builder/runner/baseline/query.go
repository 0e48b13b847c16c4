package baseline

import (
	"context"
	"errors"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/store"
)

// Filter chooses builds and anomalies; empty fields choose all.
type Filter struct {
	Digest artifact.Digest // of what the build made
	Source string          // src_… or a repository's URI
	Build  string          // run_… or invocation id
	Open   bool            // only anomalies that nobody accepted
	After  string          // cursor of the page before
	Limit  int             // 0: 100; at most 1,000
}

func (f *Filter) settle() error {
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 1 || f.Limit > 1000 {
		return fault.Newf(fault.Invalid, "limit %d: want 1 to 1000", f.Limit)
	}
	return nil
}

// where makes a condition over a build b and its source s.
func (f *Filter) where() (cond string, args []any) {
	var all []string
	add := func(c string, a ...any) { all, args = append(all, c), append(args, a...) }
	if f.Digest != "" {
		add(`b.id IN (SELECT build FROM runner_subject WHERE digest = ?)`, string(f.Digest))
	}
	if f.Source != "" {
		add(`b.source IN (SELECT id FROM runner_source WHERE id = ? OR repository = ?)`, f.Source, f.Source)
	}
	if f.Build != "" {
		add(`(b.id = ? OR b.invocation = ?)`, f.Build, f.Build)
	}
	if len(all) == 0 {
		return "1 = 1", nil
	}
	return strings.Join(all, " AND "), args
}

// Builds lists builds, the newest first; next is the cursor of the next page.
func (s *Store) Builds(ctx context.Context, f Filter) (out []*Build, next string, err error) {
	if err := f.settle(); err != nil {
		return nil, "", err
	}
	cond, args := f.where()
	if f.After != "" {
		cond += ` AND (b.time < (SELECT time FROM runner_build WHERE id = ?) OR b.time = (SELECT time FROM runner_build WHERE id = ?) AND b.id < ?)`
		args = append(args, f.After, f.After, f.After)
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT `+buildColumns+` FROM runner_build b WHERE `+cond+` ORDER BY b.time DESC, b.id DESC LIMIT ?`, append(args, f.Limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			b, err := scanBuild(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, b)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		_ = rows.Close()
		for _, b := range out {
			if b.Subjects, err = subjectsOf(ctx, tx, b.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if len(out) == f.Limit {
		next = out[len(out)-1].ID
	}
	return out, next, err
}

// Build gives one build with its source and all its anomalies, by run_… or by an
// invocation id that is one signer's only.
func (s *Store) Build(ctx context.Context, id string) (b *Build, src *Source, anomalies []*Anomaly, err error) {
	found, _, err := s.Builds(ctx, Filter{Build: id, Limit: 2})
	switch {
	case err != nil:
		return nil, nil, nil, err
	case len(found) == 0:
		return nil, nil, nil, fault.Newf(fault.NotFound, "no build %.100q: list them with: assay runner list", id)
	case len(found) > 1:
		return nil, nil, nil, fault.Newf(fault.Conflict, "several signers name a build %.100q: want its run_… of assay runner list", id)
	}
	b = found[0]
	if anomalies, _, err = s.Anomalies(ctx, Filter{Build: b.ID, Limit: 1000}); err != nil {
		return nil, nil, nil, err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		src = &Source{ID: b.Source}
		var verified, since int64
		err := tx.QueryRow(ctx, `SELECT issuer, repository, workflow, verified, since, (SELECT COUNT(*) FROM runner_build WHERE source = runner_source.id) FROM runner_source WHERE id = ?`, b.Source).
			Scan(&src.Issuer, &src.Repository, &src.Workflow, &verified, &since, &src.Builds)
		src.Verified, src.Since = verified != 0, store.Time(since)
		return err
	})
	return b, src, anomalies, err
}

// Anomalies lists anomalies, the newest first.
func (s *Store) Anomalies(ctx context.Context, f Filter) (out []*Anomaly, next string, err error) {
	if err := f.settle(); err != nil {
		return nil, "", err
	}
	cond, args := f.where()
	if f.Open {
		cond += ` AND a.accepted = 0`
	}
	if f.After != "" {
		cond += ` AND (a.time < (SELECT time FROM runner_anomaly WHERE id = ?) OR a.time = (SELECT time FROM runner_anomaly WHERE id = ?) AND a.id < ?)`
		args = append(args, f.After, f.After, f.After)
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out, err = selectAnomalies(ctx, tx, cond+` ORDER BY a.time DESC, a.id DESC LIMIT ?`, append(args, f.Limit)...)
		return err
	})
	if len(out) == f.Limit {
		next = out[len(out)-1].ID
	}
	return out, next, err
}

func selectAnomalies(ctx context.Context, tx *store.Tx, cond string, args ...any) (out []*Anomaly, err error) {
	rows, err := tx.Query(ctx, `SELECT a.id, a.build, a.source, a.kind, a.name, a.usual, a.value, a.time, a.accepted, a.accepted_by, a.reason
		FROM runner_anomaly a JOIN runner_build b ON b.id = a.build WHERE `+cond, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a Anomaly
		var at, accepted int64
		var by, reason string
		if err := rows.Scan(&a.ID, &a.Build, &a.Source, &a.Kind, &a.Name, &a.Before, &a.After, &at, &accepted, &by, &reason); err != nil {
			return nil, err
		}
		a.Time = store.Time(at)
		if accepted != 0 {
			a.Accepted = &Acceptance{By: by, Reason: reason, Time: store.Time(accepted)}
		}
		out = append(out, &a)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	_ = rows.Close()
	seen := map[string][]artifact.Digest{}
	for _, a := range out {
		if seen[a.Build] == nil {
			if seen[a.Build], err = subjectsOf(ctx, tx, a.Build); err != nil {
				return nil, err
			}
		}
		a.Subjects = seen[a.Build]
	}
	return out, nil
}

// Accept is what somebody takes into what is usual.
type Accept struct {
	ID      string // ano_…; or run_… (or an invocation id) of a first build, which was looked at as a whole
	Pattern string // in place of the anomaly's own value: a glob that it matches
	By      string
	Reason  string
	All     bool // with a build: all that is open of it
}

// Accept takes an anomaly into what is usual for its source: it, and what is the
// same in other builds, is acknowledged, and later builds do not tell of it
// again. An accepted first build counts as compared. Decisions about what the
// builds made are made again. The caller has checked that By may.
func (s *Store) Accept(ctx context.Context, a Accept) (accepted []*Anomaly, err error) {
	if strings.TrimSpace(a.Reason) == "" || len(a.Reason) > 500 {
		return nil, fault.Newf(fault.Invalid, "want a reason, of at most 500 bytes")
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		accepted = nil
		if a.All {
			accepted, err = s.acceptAll(ctx, tx, a)
			return err
		}
		if !strings.HasPrefix(a.ID, "ano_") {
			return s.acceptBuild(ctx, tx, a)
		}
		found, err := selectAnomalies(ctx, tx, `a.id = ?`, a.ID)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fault.Newf(fault.NotFound, "no anomaly %.100q: list them with: assay runner anomalies", a.ID)
		}
		one := found[0]
		if accepted, err = acceptOne(ctx, tx, a, one); err != nil {
			return err
		}
		if len(accepted) == 0 {
			return fault.Newf(fault.Conflict, "anomaly %s was accepted already, by %s", one.ID, one.Accepted.By)
		}
		return tellAccepted(ctx, tx, a, accepted)
	})
	return accepted, err
}

// acceptOne takes one anomaly into what is usual, with all that are like it.
func acceptOne(ctx context.Context, tx *store.Tx, a Accept, one *Anomaly) (accepted []*Anomaly, err error) {
	if one.Kind == KindMore {
		return nil, fault.Newf(fault.Invalid, "build %s has more anomalies than are kept: it cannot be accepted as usual; build again", one.Build)
	}
	k := known{value: one.After}
	if a.Pattern != "" {
		if _, err := glob.Parse(a.Pattern); err != nil {
			return nil, fault.Newf(fault.Invalid, "pattern: %w", err)
		}
		if k = (known{a.Pattern, true}); !k.matches(one.After) {
			return nil, fault.Newf(fault.Invalid, "pattern %.100q does not match %.100q", a.Pattern, one.After)
		}
	}
	if _, err := tx.Exec(ctx, `INSERT INTO runner_known (source, kind, name, value, pattern, build, since) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source, kind, name, value) DO NOTHING`,
		one.Source, one.Kind, one.Name, k.value, flag(k.pattern), one.Build, store.Micros(tx.Now())); err != nil {
		return nil, err
	}
	open, err := selectAnomalies(ctx, tx, `a.accepted = 0 AND a.source = ? AND a.kind = ? AND a.name = ? ORDER BY a.time, a.id LIMIT 10000`, one.Source, one.Kind, one.Name)
	if err != nil {
		return nil, err
	}
	for _, o := range open {
		if !k.matches(o.After) {
			continue
		}
		if _, err := tx.Exec(ctx, `UPDATE runner_anomaly SET accepted = ?, accepted_by = ?, reason = ? WHERE id = ?`, store.Micros(tx.Now()), a.By, a.Reason, o.ID); err != nil {
			return nil, err
		}
		o.Accepted = &Acceptance{By: a.By, Reason: a.Reason, Time: tx.Now()}
		accepted = append(accepted, o)
	}
	return accepted, nil
}

// acceptAll takes all that is open of a build into what is usual, and the build
// itself when it is the first of its source.
func (s *Store) acceptAll(ctx context.Context, tx *store.Tx, a Accept) (accepted []*Anomaly, err error) {
	if a.Pattern != "" {
		return nil, fault.Newf(fault.Invalid, "a pattern goes with one anomaly, ano_…, and not with all of a build")
	}
	b, err := findBuild(ctx, tx, a.ID)
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "no build %.100q: want run_… for all that is open of it", a.ID)
	}
	if err != nil {
		return nil, err
	}
	open, err := selectAnomalies(ctx, tx, `a.accepted = 0 AND a.build = ? ORDER BY a.time, a.id LIMIT 10000`, b.ID)
	if err != nil {
		return nil, err
	}
	if len(open) == 0 && b.State != StateFirst {
		return nil, fault.Newf(fault.Conflict, "build %s has nothing that is open", b.ID)
	}
	done := map[string]bool{}
	for _, one := range open {
		if done[one.ID] {
			continue // like another one
		}
		got, err := acceptOne(ctx, tx, a, one)
		if err != nil {
			return nil, err
		}
		for _, o := range got {
			done[o.ID] = true
		}
		accepted = append(accepted, got...)
	}
	if b.State == StateFirst {
		if err := s.acceptBuild(ctx, tx, a); err != nil {
			return nil, err
		}
	}
	return accepted, tellAccepted(ctx, tx, a, accepted)
}

// tellAccepted writes one event for each artifact, so that what was decided
// about it is decided again.
func tellAccepted(ctx context.Context, tx *store.Tx, a Accept, accepted []*Anomaly) error {
	told := map[artifact.Digest]bool{}
	for _, o := range accepted {
		for _, d := range o.Subjects {
			if told[d] {
				continue
			}
			told[d] = true
			if err := event.Append(ctx, tx, event.Event{Kind: event.RunnerAccepted, Digest: d, Actor: a.By, Body: map[string]any{
				"id": o.ID, "what": o.Kind, "name": o.Name, "after": o.After, "reason": a.Reason, "pattern": a.Pattern,
			}}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) acceptBuild(ctx context.Context, tx *store.Tx, a Accept) error {
	b, err := findBuild(ctx, tx, a.ID)
	if errors.Is(err, fault.NotFound) {
		return fault.Newf(fault.NotFound, "no anomaly and no build %.100q: want ano_… or run_…", a.ID)
	}
	if err != nil {
		return err
	}
	if b.State != StateFirst {
		open, err := selectAnomalies(ctx, tx, `a.accepted = 0 AND a.build = ? LIMIT 10000`, b.ID)
		if err != nil {
			return err
		}
		return fault.Newf(fault.Conflict, "build %s is %s: a build as a whole is accepted when it is the first of its source; accept its anomalies, of which %d are open, one by one or with all", b.ID, b.State, len(open))
	}
	if _, err := tx.Exec(ctx, `UPDATE runner_build SET state = ? WHERE id = ?`, string(StateAccepted), b.ID); err != nil {
		return err
	}
	subjects, err := subjectsOf(ctx, tx, b.ID)
	if err != nil {
		return err
	}
	for _, d := range subjects {
		if err := event.Append(ctx, tx, event.Event{Kind: event.RunnerAccepted, Digest: d, Actor: a.By, Body: map[string]any{
			"id": b.ID, "what": "first", "reason": a.Reason,
		}}); err != nil {
			return err
		}
	}
	return nil
}

// About is what is known of the builds that made a digest: all of them, with
// their anomalies. What came in meanwhile is compared first.
func (s *Store) About(ctx context.Context, subject artifact.Digest) ([]*Build, []*Anomaly, error) {
	if err := s.Compare(ctx, subject); err != nil {
		return nil, nil, err
	}
	builds, _, err := s.Builds(ctx, Filter{Digest: subject, Limit: 64})
	if err != nil {
		return nil, nil, err
	}
	var all []*Anomaly
	for _, b := range builds {
		if b.Open == 0 {
			continue
		}
		got, _, err := s.Anomalies(ctx, Filter{Build: b.ID, Open: true, Limit: 1000})
		if err != nil {
			return nil, nil, err
		}
		all = append(all, got...)
	}
	return builds, all, nil
}

// Since tells how many anomalies were noted since a time, of them how many are
// open: for metrics.
func (s *Store) Since(ctx context.Context, at time.Time) (total, open int, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN accepted = 0 THEN 1 ELSE 0 END), 0) FROM runner_anomaly WHERE time >= ?`, store.Micros(at)).Scan(&total, &open)
	})
	return total, open, err
}
