package supply

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// What a run is, held against the baseline of its estate.
const (
	StateFirst   = "first"   // nobody has accepted a run of this estate: nothing to compare with
	StateSame    = "same"    // as the baseline
	StateDrifted = "drifted" // something is otherwise
	StateUnknown = "unknown" // nothing seen is otherwise, but the run does not know what the baseline knew
)

const (
	maxEstates  = 1000      // estates whose runs are kept
	keptRuns    = 50        // of each estate, besides its baseline
	maxDocument = 32 << 20  // bytes of an inventory that is handed in
	listed      = 1000      // changes, findings and parts of a drift that are kept in full
	maxTargets  = 5000      // as a scan takes repositories
	maxReason   = 1000      // bytes
	retries     = 5         // while others accept baselines
	maxName     = 512 + 64  // bytes of a name that was clipped
	bodyName    = "inv_"    // and the SHA-256 of the document
	estateName  = "estate_" // and the SHA-256 of provider, address and targets
)

// Drift is how a run differs from the baseline of its estate.
type Drift struct {
	State    string    `json:"state"`
	Baseline string    `json:"baseline"` // inv_…; "" when there is none
	Count    int       `json:"count"`    // changes, findings and lost parts, also those that are not listed
	Changes  []Change  `json:"changes"`
	Findings []Finding `json:"findings"` // that the baseline has not
	Lost     []Unknown `json:"lost"`     // parts that the baseline knew and this run does not
}

// Run is a scan that was handed in.
type Run struct {
	ID         string // inv_ and the SHA-256 of the inventory's canonical bytes
	Estate     string // estate_ and a hash of provider, address and targets
	Provider   Provider
	URL        string
	Targets    []string
	Actor      string    // who handed it in; what it says is their word
	Claimed    time.Time // when the scan says it was
	Taken      time.Time // when it was handed in
	Items      int
	Findings   int
	Unknown    int
	Drift      Drift
	Current    bool   // it is the baseline of its estate
	AcceptedBy string // who said that it is as it should be
	Accepted   time.Time
	Reason     string
}

// Store keeps what scans found, and the baseline of each estate.
type Store struct{ db *store.DB }

// NewStore makes one over a database that has [Migrations].
func NewStore(db *store.DB) *Store { return &Store{db} }

// Read reads an inventory that was handed in, and bounds it. The error is
// fault.Invalid or fault.TooLarge.
func Read(b []byte) (*Inventory, error) {
	var i Inventory
	if err := strictjson.Unmarshal(b, &i, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxDocument)); err != nil {
		return nil, err
	}
	return &i, i.Validate()
}

// Validate checks what [Scan] would never write.
func (i *Inventory) Validate() error {
	u, err := url.Parse(i.URL)
	switch {
	case i.Version != 1:
		return fault.Newf(fault.Invalid, "an inventory of version %d: want 1", i.Version)
	case i.Provider != GitHub && i.Provider != GitLab && i.Provider != Gitea:
		return fault.Newf(fault.Invalid, "provider %.40q: want github, gitlab or gitea", string(i.Provider))
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(i.URL) > 2048:
		return fault.Newf(fault.Invalid, "url: want the forge's address, without a user or a query")
	case len(i.Targets) == 0 || len(i.Targets) > maxTargets || !slices.IsSorted(i.Targets) || len(slices.Compact(slices.Clone(i.Targets))) != len(i.Targets):
		return fault.Newf(fault.Invalid, "targets: want 1 to %d, sorted, each once", maxTargets)
	case i.At.IsZero():
		return fault.Newf(fault.Invalid, "at: want when the scan was")
	case len(i.Items) > maxItems || len(i.Findings) > maxItems || len(i.Unknown) > maxItems:
		return fault.Newf(fault.TooLarge, "an inventory of %d items, %d findings and %d unknown parts: want at most %d of each", len(i.Items), len(i.Findings), len(i.Unknown), maxItems)
	}
	fine := func(texts ...string) bool {
		return !slices.ContainsFunc(texts, func(s string) bool { return len(s) > maxName || clip(s) != s })
	}
	part := func(p string) bool { return slices.Contains(Parts(), p) }
	if !fine(i.Targets...) || slices.Contains(i.Targets, "") {
		return fault.Newf(fault.Invalid, "targets: want names without control characters, of at most 512 letters")
	}
	for n, x := range i.Items {
		if !part(x.Kind) || !fine(x.Scope, x.Name, x.Value) {
			return fault.Newf(fault.Invalid, "items[%d]: want a kind of %s, and texts as assay inventory scan writes them", n, strings.Join(Parts(), ", "))
		}
	}
	for n, x := range i.Findings {
		if !fine(x.Rule, x.Scope, x.Name, x.Text) || x.Rule == "" {
			return fault.Newf(fault.Invalid, "findings[%d]: want a rule, and texts as assay inventory scan writes them", n)
		}
	}
	for n, x := range i.Unknown {
		if !part(x.Part) || !fine(x.Scope, x.Why) {
			return fault.Newf(fault.Invalid, "unknown[%d]: want a part of %s", n, strings.Join(Parts(), ", "))
		}
	}
	for _, p := range i.Skipped {
		if !part(p) {
			return fault.Newf(fault.Invalid, "skipped %.40q: want one of %s", p, strings.Join(Parts(), ", "))
		}
	}
	return nil
}

// estate names what an inventory is of: the same scan, run again, has the same.
func (i *Inventory) estate() string {
	sum := sha256.Sum256([]byte(string(i.Provider) + "\x00" + i.URL + "\x00" + strings.Join(i.Targets, "\x00")))
	return estateName + hex.EncodeToString(sum[:16])
}

// DriftFrom holds an inventory against a baseline of the same estate.
func DriftFrom(before *Inventory, id string, now *Inventory) (Drift, error) {
	d := Drift{State: StateSame, Baseline: id, Findings: []Finding{}, Lost: []Unknown{}}
	var err error
	if d.Changes, err = Compare(before, now); err != nil {
		return d, err
	}
	// A finding is known by what it is about; its text may count days.
	key := func(f Finding) string { return f.Rule + "\x00" + f.Scope + "\x00" + f.Name }
	had := map[string]bool{}
	for _, f := range before.Findings {
		had[key(f)] = true
	}
	for _, f := range now.Findings {
		if !had[key(f)] {
			d.Findings = append(d.Findings, f)
		}
	}
	blind := map[Unknown]bool{}
	for _, u := range before.Unknown {
		u.Why = ""
		blind[u] = true
	}
	skipped := func(i *Inventory, part string) bool { return slices.Contains(i.Skipped, part) }
	for _, u := range now.Unknown {
		if !u.Partial && !blind[Unknown{Scope: u.Scope, Part: u.Part}] && !skipped(before, u.Part) {
			d.Lost = append(d.Lost, u)
		}
	}
	for _, p := range now.Skipped {
		if !skipped(before, p) {
			d.Lost = append(d.Lost, Unknown{Scope: now.Targets[0], Part: p, Why: "left out on purpose; the baseline has it"})
		}
	}
	d.Count = len(d.Changes) + len(d.Findings) + len(d.Lost)
	switch {
	case len(d.Changes)+len(d.Findings) > 0:
		d.State = StateDrifted
	case len(d.Lost) > 0:
		d.State = StateUnknown
	}
	return d, nil
}

// bound keeps what of a drift is listed.
func (d *Drift) bound() {
	d.Changes = d.Changes[:min(len(d.Changes), listed)]
	d.Findings = d.Findings[:min(len(d.Findings), listed)]
	d.Lost = d.Lost[:min(len(d.Lost), listed)]
}

func (d *Drift) fingerprint() string {
	if d.State != StateDrifted {
		return ""
	}
	h := sha256.New()
	for _, c := range d.Changes {
		fmt.Fprintf(h, "%q\n", []string{c.What, c.Scope, c.Kind, c.Name, c.Before, c.After})
	}
	for _, f := range d.Findings {
		fmt.Fprintf(h, "%q\n", []string{f.Rule, f.Scope, f.Name})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Add keeps a run and holds it against its estate's baseline. The same document
// again is a no-op. A drift is told once, until it changes.
func (s *Store) Add(ctx context.Context, actor string, i *Inventory) (*Run, error) {
	if err := i.Validate(); err != nil {
		return nil, err
	}
	b, err := strictjson.Canonical(i)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	x := &Run{ID: bodyName + hex.EncodeToString(sum[:]), Estate: i.estate(), Provider: i.Provider, URL: i.URL, Targets: i.Targets, Actor: actor,
		Claimed: i.At, Items: len(i.Items), Findings: len(i.Findings), Unknown: len(i.Unknown)}
	for range retries {
		done, err := s.add(ctx, x, i, packed.Bytes(), len(b))
		if err != nil || done != nil {
			return done, err
		}
	}
	return nil, fault.Newf(fault.Conflict, "the baseline of %s changed %d times meanwhile: try again", x.Estate, retries)
}

// add compares outside of the transaction that writes, and gives nil when the
// baseline is another by then.
func (s *Store) add(ctx context.Context, x *Run, i *Inventory, packed []byte, size int) (*Run, error) {
	var have *Run
	var baseline string
	var body []byte
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		if have, err = runOf(ctx, tx, x.ID); err == nil || !errors.Is(err, fault.NotFound) {
			return err
		}
		have = nil
		baseline, body, err = baselineOf(ctx, tx, x.Estate)
		return err
	})
	if err != nil || have != nil {
		return have, err
	}
	x.Drift = Drift{State: StateFirst, Changes: []Change{}, Findings: []Finding{}, Lost: []Unknown{}}
	if baseline != "" {
		before, err := unpack(baseline, body)
		if err != nil {
			return nil, err
		}
		if x.Drift, err = DriftFrom(before, baseline, i); err != nil {
			return nil, err
		}
	}
	fingerprint := x.Drift.fingerprint()
	x.Drift.bound()
	moved := false
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		moved = false
		if now, _, err := baselineOf(ctx, tx, x.Estate); err != nil || now != baseline {
			moved = true
			return err
		}
		if had, err := runOf(ctx, tx, x.ID); err == nil {
			have = had
			return nil
		}
		x.Taken = tx.Now()
		return s.keep(ctx, tx, x, fingerprint, packed, size)
	})
	switch {
	case err != nil || moved:
		return nil, err
	case have != nil:
		return have, nil
	}
	return x, nil
}

func (s *Store) keep(ctx context.Context, tx *store.Tx, x *Run, fingerprint string, packed []byte, size int) error {
	var last string
	err := tx.QueryRow(ctx, `SELECT fingerprint FROM supply_scan WHERE estate = ? ORDER BY taken DESC, id DESC LIMIT 1`, x.Estate).Scan(&last)
	if errors.Is(err, fault.NotFound) {
		var n int
		if err := tx.QueryRow(ctx, `SELECT COUNT(DISTINCT estate) FROM supply_scan`).Scan(&n); err != nil {
			return err
		}
		if n >= maxEstates {
			return fault.Newf(fault.TooMany, "%d estates are scanned already: want no more", n)
		}
	} else if err != nil {
		return err
	}
	if err := insertRun(ctx, tx, x, fingerprint, packed, size); err != nil {
		return err
	}
	about := x.about()
	if err := event.Append(ctx, tx, event.Event{Kind: event.InventoryScanned, Actor: x.Actor, Body: about}); err != nil {
		return err
	}
	if fingerprint == "" || fingerprint == last {
		return nil
	}
	about["baseline"] = x.Drift.Baseline
	var first []string
	for _, c := range x.Drift.Changes[:min(len(x.Drift.Changes), 10)] {
		first = append(first, fmt.Sprintf("%s %s %s %s", c.What, c.Scope, c.Kind, c.Name))
	}
	for _, f := range x.Drift.Findings[:min(len(x.Drift.Findings), 10)] {
		first = append(first, fmt.Sprintf("finding %s %s %s", f.Rule, f.Scope, f.Name))
	}
	for n := range first {
		first[n] = excerpt.Text(first[n], 200)
	}
	about["first"] = first
	return event.Append(ctx, tx, event.Event{Kind: event.InventoryDrifted, Actor: x.Actor, Body: about})
}

// about is what events tell of a run.
func (x *Run) about() map[string]any {
	return map[string]any{"id": x.ID, "estate": x.Estate, "provider": string(x.Provider), "url": clip(x.URL), "state": x.Drift.State,
		"items": x.Items, "findings": x.Findings, "unknown": x.Unknown, "count": x.Drift.Count}
}

// Accept says that a run is as its estate should be: later ones are held against it.
func (s *Store) Accept(ctx context.Context, actor, id, reason string) (x *Run, err error) {
	if reason = strings.TrimSpace(reason); reason == "" || len(reason) > maxReason {
		return nil, fault.Newf(fault.Invalid, "reason: want 1 to %d bytes, which stand in the audit trail", maxReason)
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if x, err = runOf(ctx, tx, id); err != nil {
			return err
		}
		before, _, err := baselineOf(ctx, tx, x.Estate)
		if err != nil || before == id {
			return err // already
		}
		x.Current, x.AcceptedBy, x.Accepted, x.Reason = true, actor, tx.Now(), clip(reason)
		if _, err := tx.Exec(ctx, `UPDATE supply_scan SET accepted_by = ?, accepted = ?, reason = ? WHERE id = ?`, actor, store.Micros(x.Accepted), x.Reason, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO supply_baseline (estate, scan) VALUES (?, ?) ON CONFLICT (estate) DO UPDATE SET scan = excluded.scan`, x.Estate, id); err != nil {
			return err
		}
		if err := compareAgain(ctx, tx, x.Estate, id); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.InventoryAccepted, Actor: actor, Body: map[string]any{
			"id": id, "estate": x.Estate, "url": clip(x.URL), "before": before, "reason": x.Reason}})
	})
	return x, err
}

// Filter says which runs are wanted.
type Filter struct {
	Estate string // only of this one
	Latest bool   // of each estate the newest only
	After  string // the id of the last run that was given
	Limit  int
}

// Runs lists runs, the newest first.
func (s *Store) Runs(ctx context.Context, f Filter) (out []*Run, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		q, args := `SELECT `+scanColumns+` FROM supply_scan s WHERE 1 = 1`, []any{}
		if f.Estate != "" {
			q, args = q+` AND s.estate = ?`, append(args, f.Estate)
		}
		if f.Latest {
			q += ` AND NOT EXISTS (SELECT 1 FROM supply_scan n WHERE n.estate = s.estate AND (n.taken > s.taken OR n.taken = s.taken AND n.id > s.id))`
		}
		if f.After != "" {
			last, err := runOf(ctx, tx, f.After)
			if err != nil {
				return err
			}
			q, args = q+` AND (s.taken < ? OR s.taken = ? AND s.id < ?)`, append(args, store.Micros(last.Taken), store.Micros(last.Taken), last.ID)
		}
		rows, err := tx.Query(ctx, q+` ORDER BY s.taken DESC, s.id DESC LIMIT ?`, append(args, f.Limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			x, err := readScan(rows)
			if err != nil {
				return err
			}
			out = append(out, x)
		}
		return rows.Err()
	})
	return out, err
}

// Run gives one, and the inventory that it handed in.
func (s *Store) Run(ctx context.Context, id string) (x *Run, i *Inventory, err error) {
	var body []byte
	err = s.db.View(ctx, func(tx *store.Tx) error {
		if x, err = runOf(ctx, tx, id); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT body FROM supply_scan WHERE id = ?`, id).Scan(&body)
	})
	if err != nil {
		return nil, nil, err
	}
	i, err = unpack(id, body)
	return x, i, err
}

// unpack reads a stored inventory, which must be the one that its id says.
func unpack(id string, packed []byte) (*Inventory, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "scan %s: %w", id, err)
	}
	b, err := io.ReadAll(io.LimitReader(z, 2*maxDocument))
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "scan %s: %w", id, err)
	}
	if sum := sha256.Sum256(b); bodyName+hex.EncodeToString(sum[:]) != id {
		return nil, fault.Newf(fault.Tampered, "scan %s: what is stored has another digest", id)
	}
	var i Inventory
	if err := strictjson.Unmarshal(b, &i, strictjson.WithMaxBytes(2*maxDocument)); err != nil {
		return nil, fault.Newf(fault.Tampered, "scan %s: %w", id, err)
	}
	return &i, nil
}
