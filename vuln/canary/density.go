package canary

import (
	"context"
	"fmt"
	"time"

	"assay/store"
	"assay/vuln/feed"
)

const (
	// window is how far back a feed is compared with itself.
	window = 30 * 24 * time.Hour
	// least is how many findings there must be before a drop says anything.
	least = 10
)

// thinned says why an operation cannot be right by how much less it finds; ""
// when it may be.
func (c *Canaries) thinned(ctx context.Context, op feed.Operation) (string, error) {
	if c.findings == nil {
		return "", nil
	}
	now, components, err := c.findings.Standing(ctx, op.Name, op.Ecosystem)
	if err != nil || now < least || components == 0 {
		return "", err
	}
	usual, samples, err := c.usual(ctx, op.Name, op.Ecosystem)
	if err != nil || samples == 0 {
		return "", err
	}
	lost, gained, err := c.findings.Outlook(ctx, c.feeds.Preview(op), op, func(lost int64) bool {
		return density(now-lost, components) < usual/2 // only then what comes new has to be counted
	})
	if err != nil {
		return "", err
	}
	then := density(now-lost+gained, components)
	if lost <= gained || then >= usual/2 {
		return "", nil
	}
	return fmt.Sprintf("it would find %.1f flaws in 1,000 components, and found %.1f on average in the last 30 days: more than half would be gone", then, usual), nil
}

func density(findings, components int64) float64 {
	return float64(findings) * 1000 / float64(components)
}

// usual is a feed's average of the last 30 days.
func (c *Canaries) usual(ctx context.Context, name, ecosystem string) (mean float64, samples int64, err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COALESCE(AVG(findings * 1000.0 / components), 0), COUNT(*) FROM canary_density WHERE feed = ? AND ecosystem = ? AND at >= ? AND components > 0`,
			name, ecosystem, store.Micros(tx.Now().Add(-window))).Scan(&mean, &samples)
	})
	return mean, samples, err
}

// Sample notes how much a feed finds now, and forgets what is too long ago.
func (c *Canaries) Sample(ctx context.Context, name, ecosystem string) error {
	if c.findings == nil {
		return nil
	}
	findings, components, err := c.findings.Standing(ctx, name, ecosystem)
	if err != nil {
		return err
	}
	return c.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM canary_density WHERE at < ?`, store.Micros(tx.Now().Add(-2*window))); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO canary_density (feed, ecosystem, at, findings, components) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (feed, ecosystem, at) DO UPDATE SET findings = excluded.findings, components = excluded.components`, name, ecosystem, store.Micros(tx.Now()), findings, components)
		return err
	})
}
