// Package canary holds what is known to be vulnerable, and must be found: small
// bills of materials with the advisories that affect them. They are judged again
// before every operation of a feed comes into force, and with every new matcher;
// one that comes out clean holds the operation back, since nobody else would
// notice what is missing. So does a feed that finds less than half of what it
// found on average in the last 30 days.
//
// A feed must find what it found once: a canary is armed for a feed by the first
// operation that finds it. One that names its feed must be found from the
// beginning.
package canary

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/sbom"
	"assay/store"
	"assay/vuln"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

// Expectation is a component, by its package URL, and an advisory that affects
// it, by any of its names.
type Expectation struct {
	Component string `json:"component"`
	Advisory  string `json:"advisory"`
}

// Canary is a bill of materials that is known to be vulnerable.
type Canary struct {
	Name     string          `json:"name"`
	Feed     string          `json:"feed,omitempty"` // that must find it; "": any that found it once
	Document json.RawMessage `json:"document"`       // CycloneDX or SPDX, JSON
	Expect   []Expectation   `json:"expect"`
	Builtin  bool            `json:"-"`
	Added    time.Time       `json:"-"`
	Actor    string          `json:"-"`
}

const (
	maxDocument = 1 << 20
	maxExpect   = 200
	maxCanaries = 200
)

var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,59}$`)

// looked is an expectation with how its component is looked up.
type looked struct {
	Expectation
	candidates []vuln.Candidate
}

// compile reads the document as every bill of materials is read, so that what
// breaks on the way from a document to a finding shows here.
func (c *Canary) compile() ([]looked, error) {
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Invalid, "canary %.60q: "+format, append([]any{c.Name}, args...)...)
	}
	switch {
	case !plainName.MatchString(c.Name):
		return nil, bad("its name: want 1 to 60 small letters, figures and -_.")
	case len(c.Document) > maxDocument:
		return nil, fault.Newf(fault.TooLarge, "canary %.60q: a document of %d bytes: at most %d", c.Name, len(c.Document), maxDocument)
	case len(c.Expect) == 0 || len(c.Expect) > maxExpect:
		return nil, bad("%d expectations: want 1 to %d", len(c.Expect), maxExpect)
	case len(c.Feed) > 100:
		return nil, bad("its feed's name is too long")
	}
	d, err := sbom.Read(bytes.NewReader(c.Document), sbom.Limits{})
	if err != nil {
		return nil, bad("its document: %w", err)
	}
	var out []looked
	for i, x := range c.Expect {
		p, err := artifact.ParsePURL(x.Component)
		if err != nil {
			return nil, bad("expects %.200q: %w", x.Component, err)
		}
		if x.Advisory == "" || len(x.Advisory) > vuln.MaxID || slices.Contains(c.Expect[:i], x) {
			return nil, bad("expects the advisory %.100q: want one, each once", x.Advisory)
		}
		at := slices.IndexFunc(d.Components, func(c sbom.Component) bool { return c.PURL.String() == p.String() })
		if at < 0 {
			return nil, bad("expects %.200q, which its document does not hold", x.Component)
		}
		comp := d.Components[at]
		candidates, _ := vuln.Lookups(comp.PURL, comp.Version, comp.SourceName, comp.SourceVersion)
		if len(candidates) == 0 && !c.Builtin {
			return nil, bad("expects %.200q, which no feed can know: its kind, or its distribution's release, is missing", x.Component)
		}
		out = append(out, looked{x, candidates})
	}
	return out, nil
}

// of says whether a feed of an ecosystem can be about the component.
func (l *looked) of(ecosystem string) bool {
	return ecosystem == "" || slices.ContainsFunc(l.candidates, func(c vuln.Candidate) bool {
		base, _, _ := strings.Cut(c.Ecosystem, ":")
		return base == ecosystem || c.Ecosystem == ecosystem
	})
}

//go:embed seed/seeds.json
var seeds []byte

// Builtin are the canaries that every site has: one or two well-known flaws of
// each ecosystem.
func Builtin() ([]Canary, error) {
	var all []Canary
	if err := json.Unmarshal(seeds, &all); err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Builtin = true
	}
	return all, nil
}

// Canaries are those of a site. Methods may be called concurrently.
type Canaries struct {
	db       *store.DB
	feeds    *feed.Store
	findings *finding.Matcher // nil: nothing is stored whose findings could be counted
	matcher  string
}

// New makes the canaries over a database that was migrated with [Migrations], and
// those of feed, finding and event.
func New(db *store.DB, feeds *feed.Store, findings *finding.Matcher) *Canaries {
	return &Canaries{db, feeds, findings, Matcher()}
}

// Matcher is the version of what matches: with another one all canaries are
// judged again.
func Matcher() string {
	v := vuln.MatcherVersion
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
				v += " " + s.Value
			}
		}
		for _, d := range b.Deps {
			if strings.HasSuffix(d.Path, "/osv-scalibr") {
				v += " " + d.Version
			}
		}
	}
	return v
}

// List gives all canaries, by name.
func (c *Canaries) List(ctx context.Context) (all []Canary, err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		all, err = list(ctx, tx)
		return err
	})
	return all, err
}

func list(ctx context.Context, tx *store.Tx) ([]Canary, error) {
	all, err := Builtin()
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT text, added, actor FROM canary ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		var added int64
		var one Canary
		if err := rows.Scan(&text, &added, &one.Actor); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			return nil, fault.Newf(fault.Tampered, "a stored canary: %w", err)
		}
		one.Added = store.Time(added)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Canary) int { return strings.Compare(a.Name, b.Name) })
	return all, rows.Err()
}

// Add adds a canary; its name must be free (fault.Conflict). One that names its
// feed must be found by what is in force of it now, where something is: fault.Invalid.
func (c *Canaries) Add(ctx context.Context, one Canary, actor string) error {
	want, err := one.compile()
	if err != nil {
		return err
	}
	if one.Feed != "" {
		if err := c.foundNow(ctx, one, want); err != nil {
			return err
		}
	}
	text, err := json.Marshal(one)
	if err != nil {
		return err
	}
	return c.db.Update(ctx, func(tx *store.Tx) error {
		all, err := list(ctx, tx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(o Canary) bool { return o.Name == one.Name }) {
			return fault.Newf(fault.Conflict, "there is a canary %s already: remove it first, or take another name", one.Name)
		}
		if len(all) >= maxCanaries {
			return fault.Newf(fault.TooMany, "there are %d canaries: at most %d", len(all), maxCanaries)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO canary (name, text, added, actor) VALUES (?, ?, ?, ?)`, one.Name, string(text), store.Micros(tx.Now()), actor); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.CanaryChanged, Actor: actor, Body: map[string]any{"canary": one.Name, "what": "added", "feed": one.Feed}})
	})
}

func (c *Canaries) foundNow(ctx context.Context, one Canary, want []looked) error {
	sources, err := c.feeds.Sources(ctx)
	if err != nil {
		return err
	}
	for i := range want {
		there, found := false, false
		for _, s := range sources {
			if s.Name != one.Feed || s.Operation == 0 || !want[i].of(s.Ecosystem) {
				continue
			}
			there = true
			op, err := c.feeds.Operation(ctx, s.Operation)
			if err != nil {
				return err
			}
			is, err := c.finds(ctx, c.feeds.Preview(op), op, &want[i])
			if err != nil {
				return err
			}
			found = found || is
		}
		if there && !found {
			return fault.Newf(fault.Invalid, "canary %s: what is in force of feed %s does not find %s in %s: it would hold back every operation", one.Name, one.Feed, want[i].Advisory, want[i].Component)
		}
	}
	return nil
}

// Remove takes a canary away; one that every site has is fault.Denied.
func (c *Canaries) Remove(ctx context.Context, name, actor string) error {
	builtin, err := Builtin()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(builtin, func(o Canary) bool { return o.Name == name }) {
		return fault.Newf(fault.Denied, "canary %s is one that every site has", name)
	}
	return c.db.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM canary WHERE name = ?`, name)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.Newf(fault.NotFound, "no canary is called %.60q", name)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM canary_result WHERE canary = ?`, name); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.CanaryChanged, Actor: actor, Body: map[string]any{"canary": name, "what": "removed", "feed": ""}})
	})
}

// Migrations are the tables of canaries.
//
//   - canary: those that people added, as JSON.
//   - canary_result: whether a feed finds what a canary expects, as it was last
//     seen (found: 1 it must from now on, 0 a person accepted that it does not).
//   - canary_density: how much each feed found in what was stored.
//   - canary_matcher: the version of the matcher that last judged all.
var Migrations = store.Migrations{Name: "vuln/canary", Steps: []string{`
CREATE TABLE canary (
	name  TEXT   NOT NULL PRIMARY KEY,
	text  TEXT   NOT NULL,
	added BIGINT NOT NULL,
	actor TEXT   NOT NULL
);
CREATE TABLE canary_result (
	canary    TEXT   NOT NULL,
	component TEXT   NOT NULL,
	advisory  TEXT   NOT NULL,
	feed      TEXT   NOT NULL,
	ecosystem TEXT   NOT NULL,
	found     BIGINT NOT NULL,
	operation BIGINT NOT NULL,
	PRIMARY KEY (canary, component, advisory, feed, ecosystem)
);
CREATE TABLE canary_density (
	feed       TEXT   NOT NULL,
	ecosystem  TEXT   NOT NULL,
	at         BIGINT NOT NULL,
	findings   BIGINT NOT NULL,
	components BIGINT NOT NULL,
	PRIMARY KEY (feed, ecosystem, at)
);
CREATE TABLE canary_matcher (
	id      BIGINT NOT NULL PRIMARY KEY,
	version TEXT   NOT NULL
);`}}
