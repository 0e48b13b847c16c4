package feed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln"
)

// Options say what an import may do.
type Options struct {
	Name      string // of the feed: "osv"
	Ecosystem string // "" when the archive holds several
	Actor     string // who imports, for the event
	ETag      string // to ask with the next time
	// Partial says that the archive holds only what changed: what it does not
	// name stays in force.
	Partial bool
	// AllowDowngrade takes an archive that is older than what is in force, or has
	// lost many of its records; Reason says why, and stands in the event.
	AllowDowngrade bool
	Reason         string
}

const (
	// piece is how many rows one transaction writes, and pieceBytes of how many bytes.
	piece      = 500
	pieceBytes = 16 << 20
	// maxSkipped is how many records may be unreadable before the whole feed is
	// taken for corrupt: one in a thousand, and never more than this.
	maxSkipped = 20
	leaseTTL   = 30 * time.Second
	// maxReason is the longest reason that is kept, in bytes.
	maxReason = 500
)

// Import brings an archive into force, or refuses it (fault.Invalid, TooLarge,
// Unverified, Conflict): then what was in force stays, and the reason stands with
// the feed. The same bytes again only renew when it was last looked at. An import
// that another process makes of the same feed is fault.Unavailable.
func (s *Store) Import(ctx context.Context, a Archive, o Options) (Operation, error) {
	if o.Name == "" || len(o.Name) > 100 || len(o.Ecosystem) > 100 {
		return Operation{}, fault.Newf(fault.Invalid, "import: want the feed's name, of at most 100 bytes")
	}
	if o.AllowDowngrade && strings.TrimSpace(o.Reason) == "" {
		return Operation{}, fault.Newf(fault.Invalid, "import: a downgrade is allowed with a reason alone (--reason)")
	}
	o.Reason = clip(o.Reason, maxReason)
	fence, release, err := s.lease(ctx, o)
	if err != nil {
		return Operation{}, err
	}
	defer release()
	op, err := s.begin(ctx, a, o)
	if err != nil || op.State == stateNames[inForce] {
		return op, err
	}
	in := &importing{s: s, op: &op, o: o, fence: fence}
	again := op.State == stateNames[blocked] // the same bytes: their rows are there
	if again {
		in.before = op.before
	} else {
		err = in.run(ctx, a)
		if err == nil {
			err = in.judge(ctx)
		}
	}
	if err == nil && s.Before != nil {
		err = s.Before(ctx, op)
	}
	var why *BlockError
	switch {
	case err == nil:
		return op, in.finish(ctx)
	case errors.As(err, &why) && ctx.Err() == nil:
		if e := in.block(ctx, why, again); e != nil {
			return op, e
		}
		return op, err
	}
	if isRefusal(err) && ctx.Err() == nil {
		if e := s.refuse(ctx, &op, o, err); e != nil {
			return op, e
		}
	}
	return op, err
}

// lease keeps the feed to this import; fence ends a transaction when another has
// taken it over.
func (s *Store) lease(ctx context.Context, o Options) (fence func(context.Context, *store.Tx) error, release func(), err error) {
	name, holder := "feed/"+o.Name+"/"+o.Ecosystem, rand.Text()
	held, epoch, err := s.db.Lease(ctx, name, holder, leaseTTL)
	if err != nil {
		return nil, nil, err
	}
	if !held {
		return nil, nil, fault.Newf(fault.Unavailable, "feed %s %s is being imported by another process; try again when that is done", o.Name, o.Ecosystem)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(leaseTTL / 3)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_, _, _ = s.db.Lease(ctx, name, holder, leaseTTL) // the end of the import asks whether it is still held
			}
		}
	}()
	fence = func(ctx context.Context, tx *store.Tx) error { return tx.Fence(ctx, name, epoch) }
	return fence, func() {
		cancel()
		<-done
		if err := s.db.Release(context.WithoutCancel(ctx), name, holder); err != nil {
			s.log.Warn("feed's lease", "error", err) // it ends by itself
		}
	}, nil
}

// begin makes the operation's row and takes away what earlier ones left that
// never ended. Bytes that are in force already are looked at, and that is all.
func (s *Store) begin(ctx context.Context, a Archive, o Options) (op Operation, err error) {
	op = Operation{Name: o.Name, Ecosystem: o.Ecosystem, State: stateNames[reading], Archive: a.Digest()}
	var leftover []int64
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		op.State, op.ID, leftover = stateNames[reading], 0, nil
		now := store.Micros(tx.Now())
		if _, err := tx.Exec(ctx, `INSERT INTO feed_source (name, ecosystem, operation, checked, changed, records, archive, etag, problem, failed)
			VALUES (?, ?, 0, 0, 0, 0, '', '', '', 0) ON CONFLICT (name, ecosystem) DO NOTHING`, o.Name, o.Ecosystem); err != nil {
			return err
		}
		src, err := source(ctx, tx, o.Name, o.Ecosystem)
		if err != nil {
			return err
		}
		if op.Archive != "" && src.Archive == op.Archive && src.Operation != 0 {
			op.State, op.ID, op.Unchanged = stateNames[inForce], src.Operation, src.Records
			return renew(ctx, tx, o.Name, o.Ecosystem, o.ETag)
		}
		if is, err := s.blockedAs(ctx, tx, &op); err != nil || is {
			op.before = src.Records
			return err
		}
		leftover, err = store.Values[int64](ctx, tx, `SELECT id FROM feed_operation WHERE name = ? AND ecosystem = ? AND state IN (?, ?)`, o.Name, o.Ecosystem, reading, blocked)
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(id), 0) + 1 FROM feed_operation`).Scan(&op.ID); err != nil {
			return err
		}
		op.Started = tx.Now()
		_, err = tx.Exec(ctx, `INSERT INTO feed_operation (id, name, ecosystem, state, started, finished, added, changed, withdrawn, removed, skipped, archive, problem)
			VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, 0, '', ?, '')`, op.ID, o.Name, o.Ecosystem, reading, now, op.Archive)
		return err
	})
	for _, id := range leftover {
		if err == nil {
			err = s.discard(ctx, id, "it was interrupted")
		}
	}
	return op, err
}

// discard takes away the rows of an operation that never came into force.
func (s *Store) discard(ctx context.Context, id int64, why string) error {
	for _, table := range []string{"feed_alias", "feed_package", "feed_record"} {
		for {
			var n int64
			if err := s.db.Update(ctx, func(tx *store.Tx) (err error) {
				n, err = tx.Exec(ctx, `DELETE FROM `+table+` WHERE operation = ? AND id IN (SELECT id FROM `+table+` WHERE operation = ? LIMIT 2000)`, id, id)
				return err
			}); err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
	}
	return s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE feed_operation SET state = ?, finished = ?, problem = ? WHERE id = ?`, refused, store.Micros(tx.Now()), why, id)
		return err
	})
}

// refuse notes why an operation did not come into force.
func (s *Store) refuse(ctx context.Context, op *Operation, o Options, why error) error {
	op.State, op.Problem = stateNames[refused], clip(why.Error(), 1000)
	if err := s.discard(ctx, op.ID, op.Problem); err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error {
		// An upstream that goes on to give the same is told of once.
		if src, err := source(ctx, tx, o.Name, o.Ecosystem); err != nil {
			return err
		} else if err := fail(ctx, tx, o.Name, o.Ecosystem, op.Problem); err != nil || src.Problem == op.Problem {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.FeedRefused, Actor: o.Actor, Body: map[string]any{
			"feed": o.Name, "ecosystem": o.Ecosystem, "operation": op.ID, "reason": op.Problem, "archive": op.Archive,
		}})
	})
}

func fail(ctx context.Context, tx *store.Tx, name, ecosystem, why string) error {
	_, err := tx.Exec(ctx, `UPDATE feed_source SET problem = ?, failed = ? WHERE name = ? AND ecosystem = ?`, why, store.Micros(tx.Now()), name, ecosystem)
	return err
}

// held is what is known of a record in force.
type held struct {
	hash      [32]byte
	withdrawn bool
	seen      bool
}

// importing is one import under way.
type importing struct {
	s      *Store
	op     *Operation
	o      Options
	fence  func(context.Context, *store.Tx) error
	known  map[string]*held
	byHash map[[32]byte]string
	before int64 // records in force before

	records, packages, aliases [][]any
	waiting                    int64 // bytes of the records that are not written yet
	total                      int64
	back, forward              int // changed records whose modified went back, and the others
	emptied                    int // of both, that named packages and name none any more
}

func (in *importing) run(ctx context.Context, a Archive) error {
	if err := in.load(ctx); err != nil {
		return err
	}
	err := a.Each(in.s.lim, func(name string, raw []byte) error {
		in.total++
		sum := sha256.Sum256(raw)
		if id, same := in.byHash[sum]; same {
			if in.known[id].seen {
				return fault.Newf(fault.Invalid, "two records are named %s", id)
			}
			in.known[id].seen = true
			in.op.Unchanged++
			return nil
		}
		rec, err := vuln.ParseAdvisory(raw)
		if err != nil {
			in.op.Skipped = append(in.op.Skipped, clip(name+": "+err.Error(), 200))
			// Exports name files after records: what was in force of it stays.
			if h := in.known[strings.TrimSuffix(path.Base(name), ".json")]; h != nil {
				h.seen = true
			}
			if len(in.op.Skipped) > maxSkipped {
				return fault.Newf(fault.Invalid, "more than %d records cannot be read, first %s", maxSkipped, in.op.Skipped[0])
			}
			return nil
		}
		return in.record(ctx, rec, raw, sum)
	})
	if err != nil {
		return err
	}
	for id, h := range in.known {
		if h.seen || in.o.Partial {
			continue
		}
		in.op.Removed++
		in.records = append(in.records, []any{in.o.Name, in.o.Ecosystem, id, in.op.ID, 0, []byte{}, 0, []byte{}})
		if err := in.flush(ctx, piece); err != nil {
			return err
		}
	}
	return in.flush(ctx, 0)
}

// load reads what is in force: a name and a hash of each record.
func (in *importing) load(ctx context.Context) error {
	in.known, in.byHash = map[string]*held{}, map[[32]byte]string{}
	return in.s.db.View(ctx, func(tx *store.Tx) error {
		clear(in.known)
		clear(in.byHash)
		rows, err := tx.Query(ctx, `SELECT id, hash, withdrawn FROM feed_record WHERE name = ? AND ecosystem = ? AND until = 0 AND operation < ? AND length(body) > 0`, in.o.Name, in.o.Ecosystem, in.op.ID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var hash []byte
			var h held
			var withdrawn int64
			if err := rows.Scan(&id, &hash, &withdrawn); err != nil {
				return err
			}
			copy(h.hash[:], hash)
			h.withdrawn = withdrawn != 0
			in.known[id], in.byHash[h.hash] = &h, id
		}
		in.before = int64(len(in.known))
		return rows.Err()
	})
}

// record enters one that is new or has changed.
func (in *importing) record(ctx context.Context, a *vuln.Advisory, raw []byte, sum [32]byte) error {
	h := in.known[a.ID]
	switch {
	case h == nil:
		in.op.Added++
		in.known[a.ID] = &held{seen: true, hash: sum}
	case h.seen:
		return fault.Newf(fault.Invalid, "two records are named %s", a.ID)
	default:
		h.seen = true
		in.op.Changed++
		if a.IsWithdrawn() && !h.withdrawn {
			in.op.Withdrawn++
		}
		if err := in.direction(ctx, a); err != nil {
			return err
		}
	}
	withdrawn := 0
	if a.IsWithdrawn() {
		withdrawn = 1
	}
	packed := in.s.pack.EncodeAll(raw, nil)
	in.waiting += int64(len(packed))
	in.records = append(in.records, []any{in.o.Name, in.o.Ecosystem, a.ID, in.op.ID, 0, sum[:], withdrawn, packed})
	named := map[vuln.Package]bool{}
	for i := range a.Affected {
		if k := a.Affected[i].Key(); !named[k] && len(k.Name) < 1000 && len(k.Ecosystem) < 200 {
			named[k] = true
			in.packages = append(in.packages, []any{k.Ecosystem, k.Name, in.op.ID, a.ID})
		}
	}
	for _, alias := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(a.Aliases, a.Upstream)))) {
		in.aliases = append(in.aliases, []any{alias, in.op.ID, a.ID})
	}
	return in.flush(ctx, piece)
}

// direction notes whether a changed record is older than the one in force, by
// its own word: of one record that says little, of most of them that somebody
// gave us an old copy.
func (in *importing) direction(ctx context.Context, a *vuln.Advisory) error {
	if in.back+in.forward >= 200 {
		return nil
	}
	old, err := in.s.read(ctx, `SELECT name, ecosystem, operation, body FROM feed_record WHERE name = ? AND ecosystem = ? AND id = ? AND until = 0 AND operation < ? AND length(body) > 0`, in.o.Name, in.o.Ecosystem, a.ID, in.op.ID)
	if err != nil || len(old) == 0 {
		return err
	}
	if len(old[0].Affected) > 0 && len(a.Affected) == 0 && !a.IsWithdrawn() {
		in.emptied++
	}
	was, err1 := time.Parse(time.RFC3339, old[0].Modified)
	is, err2 := time.Parse(time.RFC3339, a.Modified)
	if err1 == nil && err2 == nil && is.Before(was) {
		in.back++
	} else {
		in.forward++
	}
	return nil
}

func (in *importing) flush(ctx context.Context, atLeast int) error {
	if len(in.records) == 0 || len(in.records) < atLeast && in.waiting+int64(len(in.packages)+len(in.aliases))*200 < pieceBytes {
		return nil
	}
	in.waiting = 0
	records, packages, aliases := in.records, in.packages, in.aliases
	in.records, in.packages, in.aliases = nil, nil, nil
	return in.s.db.Update(ctx, func(tx *store.Tx) error {
		if err := in.fence(ctx, tx); err != nil {
			return err
		}
		if err := insert(ctx, tx, "feed_record (name, ecosystem, id, operation, until, hash, withdrawn, body)", 8, records); err != nil {
			return err
		}
		if err := insert(ctx, tx, "feed_package (ecosystem, package, operation, id)", 4, packages); err != nil {
			return err
		}
		return insert(ctx, tx, "feed_alias (alias, operation, id)", 3, aliases)
	})
}

// insert writes rows with few statements.
func insert(ctx context.Context, tx *store.Tx, into string, columns int, rows [][]any) error {
	const most = 50
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", columns), ",") + ")"
	for len(rows) > 0 {
		n := min(most, len(rows))
		args := make([]any, 0, n*columns)
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO "+into+" VALUES "+strings.TrimSuffix(strings.Repeat(one+",", n), ","), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// judge refuses what cannot be a newer state of the feed.
func (in *importing) judge(ctx context.Context) error {
	switch {
	case in.total == 0:
		return fault.Newf(fault.Invalid, "the archive holds no record")
	case int64(len(in.op.Skipped))*1000 > in.total && len(in.op.Skipped) > 1:
		return fault.Newf(fault.Invalid, "%d of %d records cannot be read, first %s", len(in.op.Skipped), in.total, in.op.Skipped[0])
	case in.o.AllowDowngrade:
	case in.op.Removed*4 > in.before && in.before >= 10:
		return fault.Newf(fault.Conflict, "the archive lacks %d of the %d records in force; if that is right, "+howToAllow, in.op.Removed, in.before)
	case (in.op.Removed+in.op.Withdrawn)*4 > in.before && in.before >= 10:
		return fault.Newf(fault.Conflict, "the archive lacks %d of the %d records in force, and withdraws %d; if that is right, "+howToAllow, in.op.Removed, in.before, in.op.Withdrawn)
	case in.emptied >= 10 && in.emptied*2 > in.back+in.forward:
		return fault.Newf(fault.Conflict, "%d of %d records that changed name no package any more; if that is right, "+howToAllow, in.emptied, in.back+in.forward)
	case in.back > in.forward && in.back >= 3, in.back > 0 && in.forward == 0 && in.op.Added == 0 && int64(in.back)+in.op.Removed >= 3:
		return fault.Newf(fault.Conflict, "the archive is older than what is in force: %d of %d changed records went back, and %d are not there yet; if that is right, "+howToAllow, in.back, in.back+in.forward, in.op.Removed)
	default:
		return in.seenBefore(ctx)
	}
	return nil
}

const howToAllow = "allow it (--allow-downgrade --reason WHY)"

// seenBefore refuses the very bytes that were in force once and were followed by
// others: a snapshot that somebody plays back.
func (in *importing) seenBefore(ctx context.Context) error {
	if in.op.Archive == "" || in.o.Partial {
		return nil
	}
	return in.s.db.View(ctx, func(tx *store.Tx) error {
		var id int64
		err := tx.QueryRow(ctx, `SELECT id FROM feed_operation WHERE name = ? AND ecosystem = ? AND state = ? AND archive = ? ORDER BY id DESC LIMIT 1`,
			in.o.Name, in.o.Ecosystem, superseded, in.op.Archive).Scan(&id)
		switch {
		case errors.Is(err, fault.NotFound):
			return nil
		case err != nil:
			return err
		}
		return fault.Newf(fault.Conflict, "the archive is older than what is in force: it is that of operation %d, which others followed; if that is right, "+howToAllow, id)
	})
}

// finish brings the operation into force, in one transaction.
func (in *importing) finish(ctx context.Context) error {
	op, o := in.op, in.o
	count := in.before + op.Added - op.Removed
	return in.s.db.Update(ctx, func(tx *store.Tx) error {
		if err := in.fence(ctx, tx); err != nil {
			return err
		}
		now := store.Micros(tx.Now())
		op.Finished, op.State = tx.Now(), stateNames[inForce]
		if _, err := tx.Exec(ctx, `UPDATE feed_record SET until = ? WHERE name = ? AND ecosystem = ? AND until = 0 AND operation < ?
			AND id IN (SELECT id FROM feed_record WHERE operation = ?)`, op.ID, o.Name, o.Ecosystem, op.ID, op.ID); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE feed_operation SET state = ? WHERE name = ? AND ecosystem = ? AND state = ?`, superseded, o.Name, o.Ecosystem, inForce); err != nil {
			return err
		}
		op.Problem, op.Reason = "", o.Reason
		if err := op.write(ctx, tx, inForce); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE feed_source SET operation = ?, checked = ?, changed = ?, records = ?, archive = ?, etag = ?, problem = '', failed = 0, told = 0, blocked = '' WHERE name = ? AND ecosystem = ?`,
			op.ID, now, now, count, op.Archive, o.ETag, o.Name, o.Ecosystem); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.FeedImported, Actor: o.Actor, Body: map[string]any{
			"feed": o.Name, "ecosystem": o.Ecosystem, "operation": op.ID, "records": count, "added": op.Added, "changed": op.Changed,
			"withdrawn": op.Withdrawn, "removed": op.Removed, "skipped": len(op.Skipped), "archive": op.Archive, "partial": o.Partial, "reason": o.Reason,
		}})
	})
}

// Hash is how a record's content is named.
func Hash(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// clip shortens a text between letters.
func clip(s string, most int) string { return excerpt.Text(s, most) }
