package audit

import (
	"time"

	"assay/event"
	"assay/internal/fault"
)

// Gap is what is missing in an export because retention dropped it. The heads of
// its batches are there, and hold the chain together.
type Gap struct {
	First   int64     `json:"first_seq"`
	Last    int64     `json:"last_seq"`
	Events  int64     `json:"events"`
	Batches int64     `json:"batches"`
	From    time.Time `json:"from"`  // when the first of the batches was sealed
	Until   time.Time `json:"until"` // when the last was
	// Account is the event that says that retention dropped them.
	Account int64     `json:"account_seq"`
	Dropped time.Time `json:"dropped"` // when it did
}

// gap collects batches without events, and what accounts for them.
type gap struct {
	Gap
	last  event.Head // the last of them
	inner bool       // events of before are there, which retention drops first
}

func (g *gap) add(h event.Head, after bool) {
	if g.Batches == 0 {
		g.First, g.From = h.FirstSeq, h.Time
	}
	g.Last, g.Until, g.last = h.LastSeq, h.Time, h
	g.Events += h.Count
	g.Batches++
	g.inner = g.inner || after
}

// account takes an event of retention, which was found to be in its batch.
func (g *gap) account(e event.Event) error {
	var body struct {
		LastBatch int64      `json:"last_batch"`
		LastSeq   int64      `json:"last_seq"`
		Hash      event.Hash `json:"hash"`
	}
	if err := e.Decode(&body); err != nil {
		return fault.Wrap(fault.Tampered, err)
	}
	switch {
	case g.Batches == 0 || g.Account != 0 || body.LastBatch < g.last.Batch:
		return nil
	case body.LastBatch == g.last.Batch && body.Hash != g.last.Hash:
		return fault.Newf(fault.Tampered, "event %d says that retention dropped batch %d under the head %s, which has %s here", e.Seq, body.LastBatch, body.Hash, g.last.Hash)
	}
	g.Account, g.Dropped = e.Seq, e.Time
	return nil
}

// result is the gap, if there is one and it is accounted for.
func (g *gap) result(upToNow bool) (*Gap, error) {
	switch {
	case g.Batches == 0:
		return nil, nil
	case g.Account != 0:
		return &g.Gap, nil
	case g.inner:
		return nil, fault.Newf(fault.Tampered, "events between %d and %d are missing, older ones are there, and no record says that retention dropped them; if it ran just now, export again", g.First, g.Last)
	case upToNow:
		return nil, fault.Newf(fault.Tampered, "events %d to %d are missing, and no record up to now says that retention dropped them; if it ran just now, export again", g.First, g.Last)
	}
	return nil, fault.Newf(fault.Undecided, "events %d to %d are missing, and this export holds no record that retention dropped them: such a record comes later; export up to now", g.First, g.Last)
}
