// Package audit takes the audit trail out of a site so that somebody elsewhere
// can hold it against the transparency log: without the site's database, its
// server, or its word.
//
// An export is JSON Lines (UTF-8, one object a line, "\n" after each), and each
// object has one member that says what it is:
//
//	{"export": {...}}  first: [Header]
//	{"head": {...}}    a batch's head, as package event defines it; in order, without gaps
//	{"event": {...}}   an event of the batch whose head came last: [Line]
//	{"logged": {...}}  where the head that came last stands in the transparency log: [Logged]
//	{"end": {...}}     last: [End]
//
// [Verify] checks that every event is in its batch, that the batches are one
// chain, that the chain's heads stand in the log under a key that the caller has
// pinned, and that nothing was cut off.
package audit

import (
	"bufio"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/mod/sumdb/note"

	"assay/event"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/tlog"
	"assay/tlog/rekor"
)

// Format is the first line's word for what follows.
const Format = "assay audit export v1"

// Header begins an export.
type Header struct {
	Format  string    `json:"format"`
	Origin  string    `json:"origin"` // of the transparency log
	Created time.Time `json:"created"`
	First   int64     `json:"first_batch"`
	Last    int64     `json:"last_batch"`
	// Complete says that no event of these batches was left out.
	Complete bool              `json:"complete"`
	Filter   map[string]string `json:"filter,omitempty"` // what was asked for
}

// Line is an event with its proof.
type Line struct {
	Event stdjson.RawMessage `json:"event"` // event.Event's canonical form
	Index int64              `json:"index"` // within its batch, from 0
	Proof []event.Hash       `json:"proof"` // RFC 6962, from the leaf up
}

// Logged proves that a head stands in the transparency log: a hashedrekord
// entry over the head's text, signed by the site's audit key.
type Logged struct {
	Index      uint64       `json:"index"`
	Body       []byte       `json:"body"`       // the entry, as it was hashed
	Proof      []event.Hash `json:"proof"`      // from the leaf up
	Checkpoint string       `json:"checkpoint"` // C2SP signed note
}

// End closes an export.
type End struct {
	Events int64 `json:"events"`
	Heads  int64 `json:"heads"`
	Last   int64 `json:"last_batch"`
}

// line is one line of an export, of which one member is set.
type line struct {
	Export *Header     `json:"export,omitempty"`
	Head   *event.Head `json:"head,omitempty"`
	Event  *Line       `json:"event,omitempty"`
	Logged *Logged     `json:"logged,omitempty"`
	End    *End        `json:"end,omitempty"`
}

// AppendLine appends one line of an export: v is a Header, an event.Head, a
// Line, a Logged or an End.
func AppendLine(b []byte, v any) ([]byte, error) {
	var l line
	switch v := v.(type) {
	case Header:
		l.Export = &v
	case event.Head:
		l.Head = &v
	case Line:
		l.Event = &v
	case Logged:
		l.Logged = &v
	case End:
		l.End = &v
	default:
		return b, fault.Newf(fault.Internal, "audit export: a %T is no line", v)
	}
	text, err := stdjson.Marshal(l)
	return append(append(b, text...), '\n'), err
}

// Options say by what an export is judged.
type Options struct {
	// Logs are the pinned keys of the transparency log, past ones included; at
	// least one.
	Logs []note.Verifier
	// Key is the site's audit key, if it is known: heads that another key signed
	// are refused. nil: the export's heads must all have one and the same key,
	// which the report names.
	Key crypto.PublicKey
	// UpToNow says that the caller asked for all up to now, so that the export must
	// hold the record of whatever retention dropped.
	UpToNow bool
	// Event is called for each event that was found to be sound; nil: nobody. An
	// error of it ends Verify.
	Event func(event.Event) error
}

// Report is what Verify found.
type Report struct {
	Header   Header   `json:"export"`
	Events   int64    `json:"events"`
	Heads    int64    `json:"heads"`
	Logged   int64    `json:"logged_heads"`    // proved to stand in the log
	Covered  int64    `json:"covered_seq"`     // every event up to this one is covered by a logged head
	LastSeq  int64    `json:"last_seq"`        // of the last head
	Unlogged int64    `json:"unlogged_heads"`  // after the last logged one
	Dropped  int64    `json:"dropped_batches"` // whose events retention has dropped
	Gap      *Gap     `json:"gap,omitempty"`   // what is missing for that reason
	Keys     []string `json:"audit_keys"`      // fingerprints of the keys that signed heads
	// OldestUncovered is when the first of the export's events happened that no
	// logged head covers; zero: there is none. That a head was published is an
	// event too, and is no reason to publish another.
	OldestUncovered time.Time `json:"oldest_uncovered,omitzero"`
}

// The sizes of one line and of its parts, in bytes.
const maxLine = 256 << 10

// reader walks an export.
type reader struct {
	o      Options
	r      *bufio.Scanner
	n      int // lines read
	rep    Report
	prev   event.Head // the head that came last
	inside int64      // events of its batch so far
	keys   map[string]bool
	ended  bool
	gap    gap
}

// Verify reads an export to its end and checks all of it. What does not hold is
// [fault.Tampered] or, for a text that is no export, [fault.Invalid], and names
// the line. It holds one line in memory.
func Verify(r io.Reader, o Options) (*Report, error) {
	if len(o.Logs) == 0 {
		return nil, fault.Newf(fault.Invalid, "verify audit export: no key of a transparency log was given; take it from a trusted root")
	}
	v := &reader{o: o, r: bufio.NewScanner(r), keys: map[string]bool{}}
	v.r.Buffer(make([]byte, 0, 64<<10), maxLine)
	for v.r.Scan() {
		v.n++
		if err := v.line(v.r.Bytes()); err != nil {
			return nil, fmt.Errorf("audit export, line %d: %w", v.n, err)
		}
	}
	if err := v.r.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = fault.Newf(fault.TooLarge, "line %d is longer than %d bytes", v.n+1, maxLine)
		}
		return nil, fmt.Errorf("audit export: %w", err)
	}
	if !v.ended {
		return nil, fault.Newf(fault.Tampered, "audit export: it breaks off after %d lines, want a line that says end", v.n)
	}
	for k := range v.keys {
		v.rep.Keys = append(v.rep.Keys, k)
	}
	return &v.rep, nil
}

func (v *reader) line(b []byte) error {
	var l line
	if err := strictjson.Unmarshal(b, &l, strictjson.RejectUnknown()); err != nil {
		return err
	}
	set := 0
	for _, is := range []bool{l.Export != nil, l.Head != nil, l.Event != nil, l.Logged != nil, l.End != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return fault.Newf(fault.Invalid, "%d things on one line, want one", set)
	case (v.n == 1) != (l.Export != nil):
		return fault.Newf(fault.Invalid, "want the line that says export first, and once")
	case v.ended:
		return fault.Newf(fault.Tampered, "something stands after the end")
	case l.Export != nil:
		return v.begin(*l.Export)
	case l.Head != nil:
		return v.head(*l.Head)
	case l.Event != nil:
		return v.event(*l.Event)
	case l.Logged != nil:
		return v.logged(*l.Logged)
	}
	return v.end(*l.End)
}

func (v *reader) begin(h Header) error {
	if h.Format != Format {
		return fault.Newf(fault.Invalid, "format %.60q, want %q", h.Format, Format)
	}
	if h.First < 1 || h.Last < h.First {
		return fault.Newf(fault.Invalid, "batches %d to %d", h.First, h.Last)
	}
	v.rep.Header = h
	return nil
}

// whole says whether the batch that came last has all its events, where it must.
func (v *reader) whole() error {
	if v.prev.Batch == 0 || !v.rep.Header.Complete || v.inside == v.prev.Count {
		return nil
	}
	if v.inside == 0 {
		v.rep.Dropped++ // its head stands for it
		v.gap.add(v.prev, v.rep.Events > 0)
		return nil
	}
	return fault.Newf(fault.Tampered, "batch %d has %d of its %d events, and the export says that none was left out", v.prev.Batch, v.inside, v.prev.Count)
}

func (v *reader) head(h event.Head) error {
	if err := v.whole(); err != nil {
		return err
	}
	want := v.rep.Header.First
	if v.prev.Batch != 0 {
		want = v.prev.Batch + 1
		if h.Prev != v.prev.Hash || h.FirstSeq != v.prev.LastSeq+1 {
			return fault.Newf(fault.Tampered, "batch %d does not follow batch %d: its head names %s as the one before, which has %s", h.Batch, v.prev.Batch, h.Prev, v.prev.Hash)
		}
	}
	if h.Batch != want {
		return fault.Newf(fault.Tampered, "batch %d, want %d: heads are missing", h.Batch, want)
	}
	v.prev, v.inside = h, 0
	v.rep.Heads++
	v.rep.Unlogged++
	v.rep.LastSeq = h.LastSeq
	return nil
}

func (v *reader) event(l Line) error {
	if v.prev.Batch == 0 {
		return fault.Newf(fault.Invalid, "an event before the head of its batch")
	}
	var e event.Event
	if err := e.UnmarshalJSON(l.Event); err != nil {
		return err
	}
	if l.Index < v.inside && v.rep.Header.Complete || v.rep.Header.Complete && l.Index != v.inside {
		return fault.Newf(fault.Tampered, "event at place %d of batch %d, want place %d", l.Index, v.prev.Batch, v.inside)
	}
	if err := (event.Proven{Event: e, Index: l.Index, Proof: l.Proof}).Verify(v.prev); err != nil {
		return err
	}
	v.inside++
	v.rep.Events++
	if e.Kind == event.EventsDropped {
		if err := v.gap.account(e); err != nil {
			return err
		}
	}
	if v.rep.OldestUncovered.IsZero() && e.Kind != event.LogHeadPublished {
		v.rep.OldestUncovered = e.Time
	}
	if v.o.Event != nil {
		return v.o.Event(e)
	}
	return nil
}

// logged checks that the log's tree at a checkpoint, which a pinned key signed,
// holds an entry over the head that came last.
func (v *reader) logged(l Logged) error {
	if v.prev.Batch == 0 {
		return fault.Newf(fault.Invalid, "a place in the log before any head")
	}
	cp, err := tlog.ParseCheckpoint([]byte(l.Checkpoint), v.o.Logs[0], v.o.Logs[1:]...)
	if err != nil {
		return err
	}
	leaf := tlog.LeafHash(l.Body)
	path := make([][]byte, len(l.Proof))
	for i := range l.Proof {
		path[i] = l.Proof[i][:]
	}
	if err := tlog.VerifyInclusion(l.Index, cp.Size, leaf[:], path, cp.Root[:]); err != nil {
		return fault.Newf(fault.Tampered, "head of batch %d: entry %d is not in the log's tree of size %d: %w", v.prev.Batch, l.Index, cp.Size, err)
	}
	in := rekor.Inspect(tlog.Record{Index: l.Index, Leaf: l.Body})
	sum := sha256.Sum256(v.prev.Text())
	if in.Kind != rekor.Kind || in.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return fault.Newf(fault.Tampered, "entry %d of the log is about %.80s, want the head of batch %d, sha256:%x: another history was logged", l.Index, in.Digest, v.prev.Batch, sum)
	}
	if in.KeyFingerprint == "" || len(in.KeyFingerprint) > 100 {
		return fault.Newf(fault.Tampered, "entry %d of the log has no key", l.Index)
	}
	if v.o.Key != nil {
		der, err := x509.MarshalPKIXPublicKey(v.o.Key)
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("sha256:%x", sha256.Sum256(der)); in.KeyFingerprint != want {
			return fault.Newf(fault.Tampered, "entry %d of the log was signed by key %s, the audit key is %s", l.Index, in.KeyFingerprint, want)
		}
	}
	if v.keys[in.KeyFingerprint] = true; len(v.keys) > 1 && v.o.Key == nil {
		return fault.Newf(fault.Unverified, "heads were signed by several keys (entry %d by %s): name the audit key that you expect", l.Index, in.KeyFingerprint)
	}
	v.rep.Logged++
	v.rep.Unlogged, v.rep.OldestUncovered = 0, time.Time{}
	v.rep.Covered = v.prev.LastSeq
	return nil
}

func (v *reader) end(e End) error {
	if err := v.whole(); err != nil {
		return err
	}
	if e.Events != v.rep.Events || e.Heads != v.rep.Heads || e.Last != v.prev.Batch || e.Last != v.rep.Header.Last {
		return fault.Newf(fault.Tampered, "the end says %d events and %d heads up to batch %d; found were %d, %d and %d, announced was batch %d",
			e.Events, e.Heads, e.Last, v.rep.Events, v.rep.Heads, v.prev.Batch, v.rep.Header.Last)
	}
	v.ended = true
	var err error
	v.rep.Gap, err = v.gap.result(v.o.UpToNow)
	return err
}
