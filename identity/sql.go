package identity

import (
	"context"
	"fmt"
	"reflect"
	"sort"

	"assay/internal/fault"
	"assay/store"

	"github.com/go-json-experiment/json"
)

// Migrations are the tables of grants and issuers. Each row is a document in
// JSON under its own content's key, so that a new field needs no new column.
var Migrations = store.Migrations{Name: "identity", Steps: []string{`
CREATE TABLE identity_grant (
	id TEXT NOT NULL PRIMARY KEY,
	ordinal BIGINT NOT NULL,
	body TEXT NOT NULL
);
CREATE TABLE identity_issuer (
	url TEXT NOT NULL PRIMARY KEY,
	ordinal BIGINT NOT NULL,
	body TEXT NOT NULL
);
CREATE TABLE identity_generation (
	one BIGINT NOT NULL PRIMARY KEY,
	generation BIGINT NOT NULL
);
INSERT INTO identity_generation (one, generation) VALUES (1, 0);
`}}

// Settings are the grants and issuers in force, as "assay apply" sets them.
type Settings struct {
	Grants  []Grant
	Issuers []IssuerConfig
	// Generation rises with each change; replicas compare it with the one they
	// loaded. It is ignored by Replace.
	Generation int64
}

// Validate says what is wrong with the settings. Errors are [fault.Invalid].
func (s Settings) Validate() error {
	seen := map[string]bool{}
	for i, g := range s.Grants {
		if err := g.Validate(); err != nil {
			return fmt.Errorf("grant %d: %w", i+1, err)
		}
		id, err := grantID(g)
		if err != nil {
			return err
		}
		if seen[id] {
			return fault.Newf(fault.Invalid, "grant %d is there twice: %s", i+1, id)
		}
		seen[id] = true
	}
	for _, c := range s.Issuers {
		if err := c.Validate(); err != nil {
			return err
		}
		if seen[c.URL] {
			return fault.Newf(fault.Invalid, "issuer %s is there twice", c.URL)
		}
		seen[c.URL] = true
	}
	return nil
}

// Change says how two settings differ, for "assay apply --dry-run" and for the
// audit trail.
type Change struct {
	GrantsAdded    []Grant        `json:"grants_added,omitempty"`
	GrantsRemoved  []Grant        `json:"grants_removed,omitempty"`
	IssuersAdded   []IssuerConfig `json:"issuers_added,omitempty"`
	IssuersChanged []IssuerConfig `json:"issuers_changed,omitempty"` // as they become
	IssuersRemoved []IssuerConfig `json:"issuers_removed,omitempty"`
}

// Empty says whether nothing differs.
func (c Change) Empty() bool {
	return len(c.GrantsAdded)+len(c.GrantsRemoved)+len(c.IssuersAdded)+len(c.IssuersChanged)+len(c.IssuersRemoved) == 0
}

// Diff gives what leads from one to the other. Order does not count.
func Diff(from, to Settings) (Change, error) {
	var c Change
	before, err := grantsByID(from.Grants)
	if err != nil {
		return c, err
	}
	after, err := grantsByID(to.Grants)
	if err != nil {
		return c, err
	}
	for _, id := range sortedKeys(after) {
		if _, kept := before[id]; !kept {
			c.GrantsAdded = append(c.GrantsAdded, after[id])
		}
	}
	for _, id := range sortedKeys(before) {
		if _, kept := after[id]; !kept {
			c.GrantsRemoved = append(c.GrantsRemoved, before[id])
		}
	}
	was, is := issuersByURL(from.Issuers), issuersByURL(to.Issuers)
	for _, u := range sortedKeys(is) {
		if o, known := was[u]; !known {
			c.IssuersAdded = append(c.IssuersAdded, is[u])
		} else if !reflect.DeepEqual(o, is[u]) {
			c.IssuersChanged = append(c.IssuersChanged, is[u])
		}
	}
	for _, u := range sortedKeys(was) {
		if _, kept := is[u]; !kept {
			c.IssuersRemoved = append(c.IssuersRemoved, was[u])
		}
	}
	return c, nil
}

// Load reads the settings in force, in the order in which they were given. A
// row that does not hold is [fault.Tampered]: nothing is loaded rather than
// less than was granted or withheld.
func Load(ctx context.Context, tx *store.Tx) (Settings, error) {
	var s Settings
	if err := tx.QueryRow(ctx, `SELECT generation FROM identity_generation WHERE one = 1`).Scan(&s.Generation); err != nil {
		return s, fmt.Errorf("load identity settings: %w", err)
	}
	if err := loadRows(ctx, tx, `SELECT body FROM identity_grant ORDER BY ordinal`, &s.Grants); err != nil {
		return s, err
	}
	if err := loadRows(ctx, tx, `SELECT body FROM identity_issuer ORDER BY ordinal`, &s.Issuers); err != nil {
		return s, err
	}
	if err := s.Validate(); err != nil {
		return s, fault.Newf(fault.Tampered, "stored identity settings do not hold: %w", err)
	}
	return s, nil
}

func loadRows[T any](ctx context.Context, tx *store.Tx, q string, out *[]T) (err error) {
	rows, err := tx.Query(ctx, q)
	if err != nil {
		return fmt.Errorf("load identity settings: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return fmt.Errorf("load identity settings: %w", err)
		}
		var v T
		if err := json.Unmarshal([]byte(body), &v, json.RejectUnknownMembers(true)); err != nil {
			return fault.Newf(fault.Tampered, "stored identity settings do not parse: %w", err)
		}
		*out = append(*out, v)
	}
	return rows.Err()
}

// Replace puts s in place of all grants and issuers and says what changed. The
// caller writes the event in the same transaction and exchanges what is in
// memory ([Access.Set], [Verifier.SetIssuers]) in tx.OnCommit. When nothing
// differs, nothing is written. Errors are [fault.Invalid].
func Replace(ctx context.Context, tx *store.Tx, s Settings) (Change, error) {
	if err := s.Validate(); err != nil {
		return Change{}, err
	}
	old, err := Load(ctx, tx)
	if err != nil {
		return Change{}, err
	}
	c, err := Diff(old, s)
	if err != nil || c.Empty() {
		return c, err
	}
	for _, q := range []string{`DELETE FROM identity_grant`, `DELETE FROM identity_issuer`, `UPDATE identity_generation SET generation = generation + 1 WHERE one = 1`} {
		if _, err := tx.Exec(ctx, q); err != nil {
			return c, fmt.Errorf("replace identity settings: %w", err)
		}
	}
	for i, g := range s.Grants {
		id, err := grantID(g)
		if err != nil {
			return c, err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO identity_grant (id, ordinal, body) VALUES (?, ?, ?)`, id, i, id); err != nil {
			return c, fmt.Errorf("replace grants: %w", err)
		}
	}
	for i, cfg := range s.Issuers {
		body, err := json.Marshal(cfg, json.Deterministic(true))
		if err != nil {
			return c, fault.Wrap(fault.Invalid, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO identity_issuer (url, ordinal, body) VALUES (?, ?, ?)`, cfg.URL, i, string(body)); err != nil {
			return c, fmt.Errorf("replace issuers: %w", err)
		}
	}
	return c, nil
}

// grantID is a grant's content as text, which is also its name.
func grantID(g Grant) (string, error) {
	b, err := json.Marshal(g, json.Deterministic(true))
	return string(b), fault.Wrap(fault.Invalid, err)
}

func grantsByID(list []Grant) (map[string]Grant, error) {
	m := make(map[string]Grant, len(list))
	for _, g := range list {
		id, err := grantID(g)
		if err != nil {
			return nil, err
		}
		m[id] = g
	}
	return m, nil
}

func issuersByURL(list []IssuerConfig) map[string]IssuerConfig {
	m := make(map[string]IssuerConfig, len(list))
	for _, c := range list {
		m[c.URL] = c
	}
	return m
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
