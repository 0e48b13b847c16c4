package event

import (
	"context"
	"time"

	"assay/artifact"
	"assay/internal/strictjson"
	"assay/store"
)

// CountSince counts the events of a kind from a time on, sealed or not, that
// are of an actor, or whose body has this credential, or that are about a
// digest; give one of the three. It
// runs in the caller's transaction, so that what it finds and what the caller
// then does are of one moment.
func CountSince(ctx context.Context, tx *store.Tx, kind Kind, since time.Time, actor, credential string, digest artifact.Digest) (n int64, err error) {
	cond, arg := "actor <> '' AND actor = ?", actor
	switch {
	case digest != "":
		cond, arg = "digest <> '' AND digest = ?", string(digest)
	case credential != "":
		b, err := strictjson.Canonical(map[string]string{"credential": credential})
		if err != nil {
			return 0, err
		}
		// The body is canonical JSON, in which the member stands in one form.
		cond, arg = `body LIKE ? ESCAPE '\'`, "%"+likeEscape.Replace(string(b[1:len(b)-1]))+"%"
	}
	for _, table := range [...]string{"event", "event_pending"} {
		var some int64
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM `+table+` WHERE kind = ? AND time >= ? AND `+cond, string(kind), since, arg).Scan(&some); err != nil {
			return 0, err
		}
		n += some
	}
	return n, nil
}
