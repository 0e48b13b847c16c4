package event

import (
	"context"
	"database/sql"
	stdjson "encoding/json"
	"fmt"
	"strings"

	"assay/internal/fault"
	"assay/store"
)

// Migrations makes the tables of this package.
var Migrations = store.Migrations{Name: "event", Steps: []string{`
-- What was appended and is not sealed yet. Small: it empties every 100 ms.
CREATE TABLE event_pending (
	time     BIGINT NOT NULL,
	ord      BIGINT NOT NULL, -- order within one instant of one process
	id       TEXT NOT NULL,
	kind     TEXT NOT NULL,
	digest   TEXT NOT NULL,
	actor    TEXT NOT NULL,
	team     TEXT NOT NULL,
	service  TEXT NOT NULL,
	env      TEXT NOT NULL,
	cluster  TEXT NOT NULL,
	trace_id TEXT NOT NULL,
	body     TEXT NOT NULL,   -- canonical JSON
	PRIMARY KEY (time, ord, id)
);
-- What is sealed. Rows are never changed; whole batches are dropped from the start.
CREATE TABLE event (
	seq      BIGINT NOT NULL PRIMARY KEY,
	id       TEXT NOT NULL UNIQUE,
	time     BIGINT NOT NULL,
	kind     TEXT NOT NULL,
	digest   TEXT NOT NULL,
	actor    TEXT NOT NULL,
	team     TEXT NOT NULL,
	service  TEXT NOT NULL,
	env      TEXT NOT NULL,
	cluster  TEXT NOT NULL,
	trace_id TEXT NOT NULL,
	body     TEXT NOT NULL
);
CREATE INDEX event_by_kind ON event (kind, seq);
CREATE INDEX event_by_time ON event (time);
CREATE INDEX event_by_digest ON event (digest, seq) WHERE digest <> '';
CREATE INDEX event_by_actor ON event (actor, seq) WHERE actor <> '';
-- One head for each batch, kept for ever.
CREATE TABLE event_head (
	batch     BIGINT NOT NULL PRIMARY KEY,
	first_seq BIGINT NOT NULL,
	last_seq  BIGINT NOT NULL UNIQUE,
	root      BYTES NOT NULL,
	prev      BYTES NOT NULL,
	hash      BYTES NOT NULL,
	time      BIGINT NOT NULL,
	news      BIGINT NOT NULL  -- events that are worth publishing a head for
);
-- Heads on their way to the transparency log.
CREATE TABLE event_outbox (
	batch     BIGINT NOT NULL PRIMARY KEY,
	due       BIGINT NOT NULL, -- since when it waits
	log_index BIGINT,          -- NULL: it waits
	logged    BIGINT
);
-- How far each consumer has come.
CREATE TABLE event_cursor (
	name    TEXT NOT NULL PRIMARY KEY,
	seq     BIGINT NOT NULL,   -- last event done
	changed BIGINT NOT NULL
);`, repositoryColumn}}

const contentColumns = `id, time, kind, digest, actor, team, service, env, cluster, trace_id, body`

func insertPending(ctx context.Context, tx *store.Tx, events []Event) error {
	return inBatches(ctx, tx, pendingTexts, events, func(*Event) int64 { return tx.Ordinal() }, nil)
}

// pending reads the oldest n unsealed events, and the ord of the last.
func pending(ctx context.Context, tx *store.Tx, n int) (events []Event, lastOrd int64, err error) {
	rows, err := tx.Query(ctx, `SELECT ord, `+contentColumns+` FROM event_pending ORDER BY time, ord, id LIMIT ?`, n)
	if err != nil {
		return nil, 0, err
	}
	events, err = scanEvents(rows, &lastOrd)
	return events, lastOrd, err
}

// deletePending removes those that [pending] gave: in one snapshot, they are
// exactly those up to the last.
func deletePending(ctx context.Context, tx *store.Tx, last Event, lastOrd int64, count int) error {
	n, err := tx.Exec(ctx, `DELETE FROM event_pending WHERE (time, ord, id) <= (?, ?, ?)`, last.Time, lastOrd, last.ID)
	if err == nil && n != int64(count) {
		err = fault.Newf(fault.Internal, "%d events were read to be sealed but %d were there to delete", count, n)
	}
	return err
}

// scanEvents reads rows of one integer (into which, if not nil, else the
// event's number) and the content columns, and closes them.
func scanEvents(rows *sql.Rows, first *int64) ([]Event, error) {
	defer func() { _ = rows.Close() }()
	var events []Event
	for rows.Next() {
		var e Event
		var at int64
		var body string
		into := &e.Seq
		if first != nil {
			into = first
		}
		if err := rows.Scan(into, &e.ID, &at, &e.Kind, &e.Digest, &e.Actor, &e.Team, &e.Service, &e.Env, &e.Cluster, &e.TraceID, &body); err != nil {
			return nil, fmt.Errorf("read event: %w", err)
		}
		e.Time, e.Body = store.Time(at), stdjson.RawMessage(body)
		events = append(events, e)
	}
	return events, rows.Err()
}

// rowsPerInsert keeps a statement below the databases' limits on placeholders.
// Smaller remainders go in powers of two, so that few texts exist.
const rowsPerInsert = 64

const eventColumns = 12 // and repository

// pendingTexts and eventTexts are the statements that insert n rows, by n.
var (
	pendingTexts = insertTexts("event_pending (ord, ", "", eventColumns)
	eventTexts   = insertTexts("event (seq, ", ", repository", eventColumns+1)
)

func insertTexts(into, more string, columns int) map[int]string {
	texts := map[int]string{}
	row := "(?" + strings.Repeat(", ?", columns-1) + ")"
	for n := 1; n <= rowsPerInsert; n *= 2 {
		texts[n] = `INSERT INTO ` + into + contentColumns + more + `) VALUES ` + row + strings.Repeat(", "+row, n-1)
	}
	return texts
}

func insertEvents(ctx context.Context, tx *store.Tx, events []Event) error {
	return inBatches(ctx, tx, eventTexts, events, func(e *Event) int64 { return e.Seq }, func(e *Event) []any { return []any{repositoryOf(e.rawBody())} })
}

// inBatches inserts events, many with each statement; first gives the first
// column, more those behind the content's; nil: none.
func inBatches(ctx context.Context, tx *store.Tx, texts map[int]string, events []Event, first func(*Event) int64, more func(*Event) []any) error {
	args := make([]any, 0, min(len(events), rowsPerInsert)*(eventColumns+1))
	for len(events) > 0 {
		n := rowsPerInsert
		for n > len(events) {
			n /= 2
		}
		args = args[:0]
		for i := range events[:n] {
			e := &events[i]
			args = append(args, first(e), e.ID, e.Time, string(e.Kind), string(e.Digest), e.Actor, e.Team,
				e.Service, e.Env, e.Cluster, e.TraceID, e.rawBody())
			if more != nil {
				args = append(args, more(e)...)
			}
		}
		if _, err := tx.Exec(ctx, texts[n], args...); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

const headColumns = `h.batch, h.first_seq, h.last_seq, h.root, h.prev, h.hash, h.time`

func insertHead(ctx context.Context, tx *store.Tx, h Head, news int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO event_head (batch, first_seq, last_seq, root, prev, hash, time, news) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		h.Batch, h.FirstSeq, h.LastSeq, h.Root[:], h.Prev[:], h.Hash[:], h.Time, news)
	return err
}

// heads reads heads: where is the rest of the statement after "FROM event_head h".
func heads(ctx context.Context, tx *store.Tx, where string, args ...any) ([]Head, error) {
	rows, err := tx.Query(ctx, `SELECT `+headColumns+` FROM event_head h `+where, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var all []Head
	for rows.Next() {
		var h Head
		var root, prev, hash []byte
		var at int64
		if err := rows.Scan(&h.Batch, &h.FirstSeq, &h.LastSeq, &root, &prev, &hash, &at); err != nil {
			return nil, fmt.Errorf("read head: %w", err)
		}
		if len(root) != len(h.Root) || len(prev) != len(h.Prev) || len(hash) != len(h.Hash) {
			return nil, fault.Newf(fault.Tampered, "head of batch %d: a hash is not 32 bytes long", h.Batch)
		}
		h.Root, h.Prev, h.Hash, h.Time = Hash(root), Hash(prev), Hash(hash), store.Time(at)
		h.Count = h.LastSeq - h.FirstSeq + 1
		all = append(all, h)
	}
	return all, rows.Err()
}

// lastHead is the newest head, or the zero Head of an empty log.
func lastHead(ctx context.Context, tx *store.Tx) (Head, error) {
	all, err := heads(ctx, tx, `ORDER BY h.batch DESC LIMIT 1`)
	if err != nil || len(all) == 0 {
		return Head{}, err
	}
	return all[0], nil
}
