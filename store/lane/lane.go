// Package lane lets queues share their workers between tiers of work: what is
// most critical first, all others within a budget of processor time, and nobody
// left waiting for ever.
package lane

import (
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/store"
)

// Tiers is how many there are, from 1, the most critical.
const Tiers = 4

// Lanes says of which tier a piece of work is, and which tiers may go on.
type Lanes interface {
	// Tier is that of what is about a digest: 1 the most critical. What nobody
	// classified is 1.
	Tier(ctx context.Context, tx *store.Tx, digest artifact.Digest) (int, error)
	// Urgent lists the tiers that somebody waits for. They have no budget.
	Urgent() []int
	// Ready lists the tiers that may go on now: the urgent ones, and those that
	// have not spent their budget.
	Ready() []int
	// Spent takes processor time from a tier's budget.
	Spent(tier int, cpu time.Duration)
}

// One is a lane for all: everything is of tier 1.
type One struct{}

// Tier is 1.
func (One) Tier(context.Context, *store.Tx, artifact.Digest) (int, error) { return 1, nil }

// Urgent is tier 1.
func (One) Urgent() []int { return []int{1} }

// Ready is tier 1 to 4, for what was queued before.
func (One) Ready() []int { return []int{1, 2, 3, 4} }

// Spent does nothing.
func (One) Spent(int, time.Duration) {}

// fair is after how many turns by tier one goes by age, so that a flood of the
// most critical work does not keep all other from ever being done.
const fair = 8

// Turn is how one turn of a worker picks its work.
type Turn struct {
	Tiers []int
	// ByAge takes the oldest of these tiers, whatever its tier.
	ByAge bool
}

// Next is a worker's turn number n: of the urgent tiers alone, or of all that are
// ready.
func Next(l Lanes, n int, urgentAlone bool) Turn {
	if urgentAlone {
		return Turn{Tiers: l.Urgent()}
	}
	return Turn{Tiers: l.Ready(), ByAge: n%fair == fair-1}
}

// SQL is the condition over the column tier, its arguments, and the order in which
// work is taken; asked is the column of when it came. A turn without tiers takes
// nothing.
func (t Turn) SQL(asked string) (where string, args []any, order string) {
	marks := make([]string, 0, Tiers)
	for i := range Tiers { // one text, whatever the number of tiers
		tier := 0
		if i < len(t.Tiers) {
			tier = t.Tiers[i]
		}
		marks, args = append(marks, "?"), append(args, tier)
	}
	order = "tier, " + asked
	if t.ByAge {
		order = asked
	}
	return "tier IN (" + strings.Join(marks, ", ") + ")", args, order
}

// IsUrgent says whether somebody waits for a tier.
func IsUrgent(l Lanes, tier int) bool { return slices.Contains(l.Urgent(), tier) }
