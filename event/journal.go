package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/store"
)

// JournalFiles are the files of a journal, relative to the data folder. A backup
// reads them before it takes its snapshot of the database: what they lose
// meanwhile is in that snapshot.
var JournalFiles = []string{"journal/0", "journal/1"}

// Journal takes events that belong to no transaction, such as pulls: they are
// durable when [Journal.Append] returns, in a file, and the [Sealer] that has the
// journal takes them from there straight to the sealed ones. So each is written
// into the database once, with many others, and nobody waits for that.
//
// It is for a database that lives and dies with the folder. Where several
// processes share one, events belong into it at once: use none there.
type Journal struct {
	db  *store.DB
	log *slog.Logger

	// taking is held by whoever brings records into the database, from the look at
	// them until they are released.
	taking sync.Mutex
	doubt  bool // an outcome is not known: some may be there already

	mu     sync.Mutex // over all below; held while a group is written and synced
	run    uint64
	number uint64
	seg    [2]*segment
	at     int         // the segment that is written to
	list   []journaled // durable and not released, in their order
	sealer bool        // a sealer takes what comes
	broken error       // why nothing is written any more
	buf    []byte
}

type journaled struct {
	event Event
	seg   int
}

// OpenJournal opens the journal of a data folder. What an earlier run has left in
// it is brought into the database first.
func OpenJournal(ctx context.Context, db *store.DB, data string, log *slog.Logger) (_ *Journal, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	j := &Journal{db: db, log: log}
	if j.run, err = newRun(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open the journal: %w", err), j.closeFiles())
		}
	}()
	if err := ReplayJournal(ctx, db, data); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(filepath.Join(data, filepath.Dir(JournalFiles[0])), 0o700); err != nil {
		return nil, err
	}
	for i, name := range JournalFiles {
		if j.seg[i], err = openSegment(filepath.Join(data, filepath.FromSlash(name))); err != nil {
			return nil, err
		}
		if err := j.seg[i].clear(); err != nil {
			return nil, err
		}
	}
	return j, nil
}

// ReplayJournal brings what lies in the journal of a data folder into the
// database. It may be called again: each event comes once.
func ReplayJournal(ctx context.Context, db *store.DB, data string) error {
	var all []Event
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, name := range JournalFiles {
		path := filepath.Join(data, filepath.FromSlash(name))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		files = append(files, f)
		events, err := readSegment(f)
		if err != nil {
			return fmt.Errorf("%s: %w: keep the file for whoever looks into it, and move it away to start without what it holds", path, err)
		}
		all = append(all, events...)
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(a, b Event) int { return a.Time.Compare(b.Time) })
	if err := db.Update(ctx, func(tx *store.Tx) error {
		missing, err := absent(ctx, tx, all)
		if err != nil || len(missing) == 0 {
			return err
		}
		tx.Signal(pendingTopic)
		return insertPending(ctx, tx, missing)
	}); err != nil {
		return err
	}
	// Not to be found again once retention has dropped them.
	for _, f := range files {
		if err := errors.Join((&segment{file: f}).clear(), f.Sync()); err != nil {
			return err
		}
	}
	return nil
}

// absent gives those of list that the database does not have.
func absent(ctx context.Context, tx *store.Tx, list []Event) (missing []Event, err error) {
	waiting := map[string]bool{}
	rows, err := tx.Query(ctx, `SELECT id FROM event_pending`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		waiting[id] = true
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for _, e := range list {
		if waiting[e.ID] {
			continue
		}
		waiting[e.ID] = true // and once from here
		var one int64
		err := tx.QueryRow(ctx, `SELECT 1 FROM event WHERE id = ?`, e.ID).Scan(&one)
		if errors.Is(err, fault.NotFound) {
			missing = append(missing, e)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// Append is [AppendAll] for events that belong to no transaction: they are durable
// when it returns. Where the journal cannot take them, because no sealer empties
// it or the disk fails, they go into the database, and the error is of that.
func (j *Journal) Append(ctx context.Context, list []Event) error {
	now := j.db.Now()
	for i := range list {
		if err := list[i].stamp(ctx, now); err != nil {
			return err
		}
	}
	if len(list) == 0 || j.write(list) {
		j.db.Signal(pendingTopic)
		return nil
	}
	return j.db.Update(ctx, func(tx *store.Tx) error {
		tx.Signal(pendingTopic)
		return insertPending(ctx, tx, list)
	})
}

// write writes a group and syncs it; false when it did not.
func (j *Journal) write(list []Event) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil || !j.sealer {
		return false
	}
	b, err := j.buf[:0], error(nil)
	for i, e := range list {
		if b, err = appendRecord(b, j.run, j.number+1+uint64(i), e); err != nil {
			j.log.Error("an event does not fit into the journal", "kind", e.Kind, "error", err)
			return false
		}
	}
	j.buf = b
	if cap(j.buf) > segmentSize {
		j.buf = nil
	}
	s := j.room(int64(len(b)))
	if s == nil {
		return false // the sealer is behind
	}
	j.number += uint64(len(list)) // never given twice, whatever comes of it
	if _, err = s.file.WriteAt(b, s.end); err == nil {
		err = durable.Datasync(s.file)
	}
	if err != nil {
		// What a failed sync has left on the disk nobody knows, and a second says
		// nothing about it (fsync(2) reports an error once).
		j.broken = err
		j.log.Error("the journal cannot be written; until the next start its events go into the database", "error", err)
		return false
	}
	s.end += int64(len(b))
	s.held += len(list)
	for _, e := range list {
		j.list = append(j.list, journaled{e, j.at})
	}
	return true
}

// room gives a segment that has room for n bytes; nil: none has. It begins the
// other one when this is half full, so that both come to be empty in turn.
func (j *Journal) room(n int64) *segment {
	s, other := j.seg[j.at], j.seg[1-j.at]
	if other.held == 0 && s.end+n > segmentSize/2 {
		j.at, s = 1-j.at, other
	}
	if s.end+n > segmentSize {
		return nil
	}
	return s
}

// waiting says whether there is something to be sealed.
func (j *Journal) waiting() bool {
	if j == nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.list) > 0
}

// served tells whether a sealer takes what comes. While none does, or it fails to,
// events go into the database, whose errors then reach who appends.
func (j *Journal) served(yes bool) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sealer = yes
}

// oldest gives at most n of those that wait, without those of which tx shows that
// they came after all. How many it looked at is what to release after the commit.
func (j *Journal) oldest(ctx context.Context, tx *store.Tx, n int) (events []Event, looked int, err error) {
	j.mu.Lock()
	events = make([]Event, 0, min(n, len(j.list)))
	for _, r := range j.list[:min(n, len(j.list))] {
		events = append(events, r.event)
	}
	j.mu.Unlock()
	looked = len(events)
	if j.doubt && looked > 0 {
		events, err = absent(ctx, tx, events)
	}
	return events, looked, err
}

// release forgets the n oldest, which are in the database.
func (j *Journal) release(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.list[:n] {
		j.seg[r.seg].held--
	}
	j.list = slices.Delete(j.list, 0, n)
	for _, s := range j.seg {
		if s.held > 0 || s.end == 0 {
			continue
		}
		if err := s.clear(); err != nil && j.broken == nil {
			j.broken = err
			j.log.Error("the journal cannot be emptied; until the next start its events go into the database", "error", err)
		}
	}
	if len(j.list) == 0 && cap(j.list) > 1024 {
		j.list = nil
	}
}

// take has fn bring the oldest into the database, and releases as many as fn says.
func (j *Journal) take(fn func() (released int, err error)) error {
	j.taking.Lock()
	defer j.taking.Unlock()
	n, err := fn()
	if err != nil {
		j.doubt = true
		return err
	}
	j.doubt = false
	j.release(n)
	return nil
}

// Flush brings what waits into the database, for another to seal.
func (j *Journal) Flush(ctx context.Context) error {
	if !j.waiting() {
		return nil
	}
	return j.take(func() (looked int, err error) {
		err = j.db.Update(ctx, func(tx *store.Tx) (err error) {
			var events []Event
			if events, looked, err = j.oldest(ctx, tx, maxJournaled); err != nil || len(events) == 0 {
				return err
			}
			tx.Signal(pendingTopic)
			return insertPending(ctx, tx, events)
		})
		return looked, err
	})
}

// maxJournaled is more than the segments have room for.
const maxJournaled = 2 * segmentSize / recordHeader

// Close brings what waits into the database and closes the files. What cannot be
// brought is there at the next start.
func (j *Journal) Close(ctx context.Context) error {
	j.served(false)
	err := j.Flush(ctx)
	return errors.Join(err, j.closeFiles())
}

func (j *Journal) closeFiles() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = fault.Newf(fault.Unavailable, "the journal is closed")
	}
	var errs []error
	for _, s := range j.seg {
		if s != nil {
			errs = append(errs, s.file.Close())
		}
	}
	return errors.Join(errs...)
}

// merge joins two lists by time, each in its own order.
func merge(a, b []Event) []Event {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	all := make([]Event, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if b[0].Time.Before(a[0].Time) {
			all, b = append(all, b[0]), b[1:]
		} else {
			all, a = append(all, a[0]), a[1:]
		}
	}
	return append(append(all, a...), b...)
}
