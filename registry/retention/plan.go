package retention

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
	"assay/verify"
)

// Options of a [Keeper]. DB, Registry, Holds, Events and Rules are required.
type Options struct {
	DB       *store.DB
	Registry *registry.Registry
	Holds    *Holds
	Events   *event.Log
	// Rules are those in force, and how repositories behave.
	Rules func() ([]config.RetentionRule, *config.Repositories)
	// Blocked says why a digest must stay though a rule lets it go: it is
	// quarantined or revoked, and somebody looks into it; empty: it need not.
	Blocked func(ctx context.Context, tx *store.Tx, d artifact.Digest) (why string, err error)
	Running Running       // nil: nothing is known
	Every   time.Duration // from one run to the next; 0: 24h; below 0: only when asked

	Clock  clock.Clock  // nil: clock.System
	Logger *slog.Logger // nil: discard
}

// Keeper carries rules out. It is safe for concurrent use; one run goes on at a
// time.
type Keeper struct{ o Options }

// New makes a keeper over a database with [Migrations].
func New(o Options) (*Keeper, error) {
	if o.DB == nil || o.Registry == nil || o.Holds == nil || o.Events == nil || o.Rules == nil {
		return nil, fault.Newf(fault.Invalid, "retention: Options.DB, Registry, Holds, Events and Rules are required")
	}
	if o.Running == nil {
		o.Running = nobodyKnows{}
	}
	if o.Blocked == nil {
		o.Blocked = func(context.Context, *store.Tx, artifact.Digest) (string, error) { return "", nil }
	}
	if o.Every == 0 {
		o.Every = 24 * time.Hour
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o}, nil
}

// Affected is what becomes of one thing that a rule covers.
type Affected struct {
	Class      string          `json:"class"`
	Repository string          `json:"repository,omitempty"`
	Digest     artifact.Digest `json:"digest,omitempty"`
	ID         string          `json:"id,omitempty"` // of an attestation or a decision
	Tags       []string        `json:"tags,omitempty"`
	Time       time.Time       `json:"time"`
	Deleted    bool            `json:"deleted"` // or would be, in a plan
	Why        string          `json:"why"`
}

// Outcome is what rules do now, or did.
type Outcome struct {
	DryRun  bool       `json:"dry_run"`
	Rules   []string   `json:"rules"`
	Items   []Affected `json:"items"` // the first ten thousand
	More    bool       `json:"more"`  // there are more items
	Deleted int64      `json:"deleted"`
	Kept    int64      `json:"kept"`
	Held    int64      `json:"held"`           // kept by a hold alone
	Events  int64      `json:"events"`         // of the audit log, dropped; in a plan at most so many
	Through int64      `json:"events_through"` // the last event that was ever dropped; the chain is proven across the gap
	Locked  int64      `json:"locked"`         // objects that the object store now keeps for rules, or would
	Notes   []string   `json:"notes"`
}

const (
	maxItems  = 10_000
	leaseName = "retention"
	leaseFor  = time.Minute
	atOnce    = 200
)

// run is one plan, or one run.
type run struct {
	*Keeper
	*Outcome
	rules   []rule
	repos   *config.Repositories
	now     time.Time
	epoch   int64
	counts  map[string]int64
	renewed time.Time
	holder  string

	lockless bool                     // the object store locks nothing, which is noted
	planned  map[artifact.Digest]bool // to be locked, in a plan
}

// Plan says what the rules would delete now, and what keeps the rest.
func (k *Keeper) Plan(ctx context.Context) (*Outcome, error) { return k.do(ctx, true) }

// Run carries the rules out. fault.Conflict: another run goes on.
func (k *Keeper) Run(ctx context.Context) (*Outcome, error) { return k.do(ctx, false) }

func (k *Keeper) do(ctx context.Context, dry bool) (*Outcome, error) {
	list, repos := k.o.Rules()
	rules, err := compile(list)
	if err != nil {
		return nil, err
	}
	r := &run{Keeper: k, rules: rules, repos: repos, now: k.o.Clock(), counts: map[string]int64{}, planned: map[artifact.Digest]bool{}, holder: rand.Text(), Outcome: &Outcome{DryRun: dry, Rules: []string{}, Items: []Affected{}, Notes: []string{}}}
	for _, rule := range rules {
		r.Rules = append(r.Rules, rule.Name)
	}
	if !dry {
		held, epoch, err := k.o.DB.Lease(ctx, leaseName, r.holder, leaseFor)
		if err != nil {
			return nil, err
		}
		if !held {
			return nil, fault.Newf(fault.Conflict, "retention rules are being carried out already; wait for the end")
		}
		r.epoch, r.renewed = epoch, time.Now()
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = k.o.DB.Release(end, leaseName, r.holder) // it ends by itself otherwise
		}()
	}
	for _, step := range []func(context.Context) error{r.images, r.attestations, r.decisions, r.audit} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	if r.Through, err = k.o.Events.DroppedThrough(ctx); err != nil {
		return nil, err
	}
	if dry || len(rules) == 0 {
		return r.Outcome, nil
	}
	return r.Outcome, r.update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.RetentionRun, Actor: actor.Actor(), Body: map[string]any{
			"manifests": r.counts[config.ClassImages], "attestations": r.counts[config.ClassAttestations], "decisions": r.counts[config.ClassDecisions],
			"events": r.Events, "held": r.Held, "rules": r.Rules[:min(len(r.Rules), 50)],
		}})
	})
}

var actor = identity.System("retention")

// update is a transaction under the lease, which it renews.
func (r *run) update(ctx context.Context, fn func(tx *store.Tx) error) error {
	if time.Since(r.renewed) > leaseFor/4 {
		held, _, err := r.o.DB.Lease(ctx, leaseName, r.holder, leaseFor)
		if err != nil {
			return err
		}
		if !held {
			return fault.Newf(fault.Conflict, "the run lost its lease, and goes on another time")
		}
		r.renewed = time.Now()
	}
	return r.o.DB.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Fence(ctx, leaseName, r.epoch); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (r *run) note(i Affected) {
	if i.Deleted {
		r.Deleted++
		r.counts[i.Class]++
	} else {
		r.Kept++
	}
	if len(r.Items) == maxItems {
		r.More = true
		return
	}
	r.Items = append(r.Items, i)
}

// of gives the rules of a class.
func (r *run) of(class string) (out []*rule) {
	for i := range r.rules {
		if r.rules[i].Class == class {
			out = append(out, &r.rules[i])
		}
	}
	return out
}

// images goes through the repositories that rules cover.
func (r *run) images(ctx context.Context) error {
	rules := r.of(config.ClassImages)
	if len(rules) == 0 {
		return nil
	}
	var names []string
	if err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) { names, err = registry.Names(ctx, tx); return err }); err != nil {
		return err
	}
	for _, name := range names {
		var covering []*rule
		for _, rule := range rules {
			if rule.covers(name) {
				covering = append(covering, rule)
			}
		}
		if len(covering) == 0 {
			continue
		}
		if err := r.repository(ctx, name, covering); err != nil {
			return fmt.Errorf("retention in repository %s: %w", name, err)
		}
	}
	return nil
}

func (r *run) repository(ctx context.Context, name string, rules []*rule) error {
	var images []registry.Image
	if err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		images, err = registry.Images(ctx, tx, name, "")
		return err
	}); err != nil {
		return err
	}
	slices.SortFunc(images, func(a, b registry.Image) int {
		if c := b.Newest.Compare(a.Newest); c != 0 {
			return c
		}
		return strings.Compare(string(a.Digest), string(b.Digest))
	})
	if err := r.lockImages(ctx, name, images, rules); err != nil {
		return err
	}
	for rank := range images {
		im := &images[rank]
		item := Affected{Class: config.ClassImages, Repository: name, Digest: im.Digest, Tags: im.Tags, Time: im.Newest}
		var err error
		for _, rule := range rules {
			if item.Why == "" && err == nil {
				item.Why, err = rule.keeps(ctx, im, rank, r.now, r.o.Running)
			}
		}
		if err == nil && item.Why == "" {
			err = r.image(ctx, im, &item, rules)
		}
		if err != nil {
			return err
		}
		r.note(item)
	}
	return nil
}

// fixed says why no rule may delete an image of a repository that is immutable,
// unless all rules say so of immutable ones.
func (r *run) fixed(repository string, im *registry.Image, rules []*rule) string {
	spec := r.repos.For(repository)
	pattern, is := "immutable: true", spec.Immutable
	for _, tag := range im.Tags {
		if is {
			break
		}
		pattern, is = spec.ImmutableTag(tag)
	}
	if !is {
		return ""
	}
	for _, rule := range rules {
		if !rule.Immutable {
			return fmt.Sprintf("it is immutable (%s), and %s does not say immutable: true", pattern, rule.Name)
		}
	}
	return ""
}

// image deletes an image that no rule keeps, unless something else does.
func (r *run) image(ctx context.Context, im *registry.Image, item *Affected, rules []*rule) error {
	if item.Why = r.fixed(item.Repository, im, rules); item.Why != "" {
		return nil
	}
	names := make([]string, len(rules))
	for i, rule := range rules {
		names[i] = rule.Name
	}
	because := "nothing in " + strings.Join(names, ", ") + " keeps it"
	attempt := func(tx *store.Tx) error {
		now, err := registry.Images(ctx, tx, item.Repository, im.Digest)
		if err != nil {
			return err
		}
		if len(now) != 1 || !slices.Equal(now[0].Tags, im.Tags) || !now[0].Newest.Equal(im.Newest) {
			return fault.Newf(fault.NotFound, "it changed meanwhile")
		}
		if now[0].Held {
			return fault.Newf(fault.Denied, "a push to a tag waits for it")
		}
		switch why, err := r.o.Blocked(ctx, tx, im.Digest); {
		case err != nil:
			return err
		case why != "":
			return fault.Newf(fault.Denied, "%s", why)
		}
		if err := r.o.Holds.MayDelete(ctx, tx, item.Repository, "", im.Digest, ""); err != nil {
			return &heldError{err}
		}
		if r.DryRun {
			return nil
		}
		return r.o.Registry.Delete(ctx, tx, registry.Deletion{
			Repository: item.Repository, Digest: im.Digest, Actor: actor, Reason: "retention: " + because, Immutable: true,
		})
	}
	var err error
	if r.DryRun {
		err = r.o.DB.View(ctx, attempt)
	} else {
		err = r.update(ctx, attempt)
	}
	switch {
	case err == nil:
		item.Deleted, item.Why = true, because
	case errors.Is(err, fault.Denied), errors.Is(err, fault.NotFound):
		if item.Why = err.Error(); errors.As(err, new(*heldError)) {
			r.Held++
		}
	default:
		return err
	}
	return nil
}

// heldError is a refusal by a hold.
type heldError struct{ error }

func (e *heldError) Unwrap() error { return e.error }

// attestations drops evidence about what no repository holds any longer.
func (r *run) attestations(ctx context.Context) error {
	all, boms := r.of(config.ClassAttestations), r.of(config.ClassSBOMs)
	if len(all)+len(boms) == 0 {
		return nil
	}
	youngest := time.Time{}
	for _, rule := range slices.Concat(all, boms) {
		if t := r.now.Add(-rule.KeepFor); t.After(youngest) {
			youngest = t
		}
	}
	for after := (evidence.Old{}); ; {
		var list []evidence.Old
		err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			list, err = evidence.OldBundles(ctx, tx, youngest, after, atOnce)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1]
		for i := range list {
			if err := r.attestation(ctx, &list[i], all, boms); err != nil {
				return err
			}
		}
	}
}

func (r *run) attestation(ctx context.Context, o *evidence.Old, all, boms []*rule) error {
	rules := all
	if o.PredicateType == attestation.PredicateSPDX || o.PredicateType == attestation.PredicateCycloneDX {
		rules = slices.Concat(all, boms)
	}
	if len(rules) == 0 {
		return nil
	}
	item := Affected{Class: config.ClassAttestations, ID: o.ID, Time: o.IngestedAt}
	if len(o.Subjects) > 0 {
		item.Digest = o.Subjects[0]
	}
	for _, rule := range rules {
		if age := r.now.Sub(o.IngestedAt); age < rule.KeepFor {
			item.Why = fmt.Sprintf("%s: it is %s old (keepFor %s)", rule.Name, age.Round(time.Second), rule.KeepFor)
			r.note(item)
			return nil
		}
	}
	because := rules[0].Name + ": it is older than " + rules[0].KeepFor.String() + ", and no repository holds what it is about"
	attempt := func(tx *store.Tx) error {
		held, err := registry.HasAny(ctx, tx, o.Subjects)
		if err != nil {
			return err
		}
		if held {
			return fault.Newf(fault.Denied, "what it is about is kept")
		}
		if err := r.o.Holds.covers(ctx, tx, o.Subjects); err != nil {
			return &heldError{err}
		}
		if r.DryRun {
			return nil
		}
		if err := evidence.Drop(ctx, tx, o.ID); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.AttestationDropped, Digest: item.Digest, Actor: actor.Actor(),
			Body: map[string]string{"id": o.ID, "predicate_type": o.PredicateType, "rule": rules[0].Name}})
	}
	return r.attempt(ctx, &item, because, attempt)
}

// attempt tries a deletion, in a plan only as far as it would come, and notes
// the item.
func (r *run) attempt(ctx context.Context, item *Affected, because string, do func(tx *store.Tx) error) (err error) {
	if r.DryRun {
		err = r.o.DB.View(ctx, do)
	} else {
		err = r.update(ctx, do)
	}
	switch {
	case err == nil:
		item.Deleted, item.Why = true, because
	case errors.Is(err, fault.Denied), errors.Is(err, fault.NotFound):
		if item.Why = err.Error(); errors.As(err, new(*heldError)) {
			r.Held++
		}
	default:
		return err
	}
	r.note(*item)
	return nil
}

// decisions drops decisions that others have replaced.
func (r *run) decisions(ctx context.Context) error {
	rules := r.of(config.ClassDecisions)
	if len(rules) == 0 {
		return nil
	}
	// The strictest of all rules holds: what any of them keeps is kept.
	keepFor, keepLast := time.Duration(0), 0
	for _, rule := range rules {
		keepFor, keepLast = max(keepFor, rule.KeepFor), max(keepLast, rule.KeepLast)
	}
	because := fmt.Sprintf("%s: it was replaced, and is older than %s", rules[0].Name, keepFor)
	for after := (verify.Replaced{}); ; {
		var list []verify.Replaced
		err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			list, err = verify.ReplacedDecisions(ctx, tx, r.now.Add(-keepFor), keepLast, after, atOnce)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1]
		for _, d := range list {
			item := Affected{Class: config.ClassDecisions, ID: d.ID, Digest: d.Digest, Time: d.Decided}
			err := r.attempt(ctx, &item, because, func(tx *store.Tx) error {
				if err := r.o.Holds.covers(ctx, tx, []artifact.Digest{d.Digest}); err != nil {
					return &heldError{err}
				}
				if r.DryRun {
					return nil
				}
				gone, err := verify.DropDecision(ctx, tx, d.ID)
				if err == nil && !gone {
					err = fault.Newf(fault.NotFound, "it stands again")
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
}

// audit drops sealed segments of the event log that the transparency log covers.
// While anything is on hold none goes: a segment holds what happened to
// everything.
func (r *run) audit(ctx context.Context) error {
	rules := r.of(config.ClassAudit)
	if len(rules) == 0 {
		return nil
	}
	keepFor := time.Duration(0)
	for _, rule := range rules {
		keepFor = max(keepFor, rule.KeepFor)
	}
	var hold *Hold
	if err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) { hold, err = anyHold(ctx, tx); return err }); err != nil {
		return err
	}
	if hold != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("audit: nothing is dropped while anything is on hold (%s), since a segment holds what happened to everything", hold.ID))
		return nil
	}
	r.Notes = append(r.Notes, "audit: segments go only when the transparency log has their heads and every consumer has passed them; the heads stay, and the chain is verified across the gap. The transparency log itself only grows.")
	before := r.now.Add(-keepFor)
	var err error
	if r.DryRun {
		r.Events, err = r.o.Events.Droppable(ctx, before)
	} else {
		r.Events, err = r.o.Events.DropBefore(ctx, before)
	}
	return err
}

// covers refuses what is about a digest that is held, wherever.
func (s *Holds) covers(ctx context.Context, tx *store.Tx, digests []artifact.Digest) error {
	for _, d := range digests {
		found, err := selectHolds(ctx, tx, `digest = ? AND `+inForce+` LIMIT 1`, string(d), tx.Now())
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fault.Newf(fault.Denied, "%s is on legal hold %s: %s", found[0].what(), found[0].ID, found[0].Reason)
		}
	}
	return nil
}

// Work ends holds whose time has come, within a minute, and carries the rules
// out every now and then, until ctx ends. Of several processes one does.
func (k *Keeper) Work(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := k.o.Holds.Sweep(ctx); err != nil && ctx.Err() == nil {
			k.o.Logger.Warn("holds whose time has come could not all be ended; it is tried again", "error", err)
		}
		if k.o.Every < 0 {
			continue
		}
		if err := k.turn(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, fault.Conflict) {
			k.o.Logger.Warn("retention rules could not all be carried out; it is tried again", "error", err)
		}
	}
}

func (k *Keeper) turn(ctx context.Context) error {
	if list, _ := k.o.Rules(); len(list) == 0 {
		return nil
	}
	due := false
	if err := k.o.DB.View(ctx, func(tx *store.Tx) error {
		var value string
		err := tx.QueryRow(ctx, `SELECT value FROM retention_mark WHERE name = 'last'`).Scan(&value)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		at, _ := strconv.ParseInt(value, 10, 64) // none: long ago
		due = k.o.Clock().Sub(store.Time(at)) >= k.o.Every
		return nil
	}); err != nil || !due {
		return err
	}
	report, err := k.Run(ctx)
	if err != nil {
		return err
	}
	k.o.Logger.Info("retention rules were carried out", "deleted", report.Deleted, "kept", report.Kept, "held", report.Held, "events", report.Events)
	return k.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO retention_mark (name, value) VALUES ('last', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			strconv.FormatInt(store.Micros(k.o.Clock()), 10))
		return err
	})
}
