package event

import (
	"context"
	"time"

	"assay/store"
)

// Tally is how many events of a kind came in a minute, of one owner and place.
type Tally struct {
	Minute                      time.Time
	Team, Service, Env, Cluster string
	Count                       int64
}

// TallyAfter counts the sealed events of a kind behind a sequence number, by
// minute, and says up to which number it counted: at most some ten thousand at a
// time. It is for kinds of which there are too many to consume one by one.
func TallyAfter(ctx context.Context, tx *store.Tx, kind Kind, after int64) (out []Tally, upTo int64, err error) {
	head, err := headSeq(ctx, tx)
	if err != nil || head <= after {
		return nil, after, err
	}
	upTo = min(head, after+50_000)
	rows, err := tx.Query(ctx, `SELECT time / 60000000, team, service, env, cluster, COUNT(*) FROM event WHERE kind = ? AND seq > ? AND seq <= ?
		GROUP BY time / 60000000, team, service, env, cluster ORDER BY 1, 2, 3, 4, 5`, string(kind), after, upTo)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var t Tally
		var minute int64
		if err := rows.Scan(&minute, &t.Team, &t.Service, &t.Env, &t.Cluster, &t.Count); err != nil {
			return nil, 0, err
		}
		t.Minute = time.Unix(minute*60, 0).UTC()
		out = append(out, t)
	}
	return out, upTo, rows.Err()
}
