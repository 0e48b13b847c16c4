package event

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	stdjson "encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// MaxBody is the greatest length of a body in bytes, in canonical form.
const MaxBody = 16 << 10

// maxField is the greatest length in bytes of each other text.
const maxField = 1024

// Event is one thing that happened.
type Event struct {
	Seq     int64           // position in the log, from 1; given by the sealer, without gaps
	ID      string          // "evt_" and a UUIDv7; given by Append
	Time    time.Time       // of the transaction, UTC, microseconds; given by Append
	Kind    Kind            // one of kinds.go
	Digest  artifact.Digest // what it is about, if content
	Actor   string          // who did it: issuer and subject, or a system's name
	Team    string
	Service string
	Env     string
	Cluster string
	TraceID string // W3C trace id, 32 hex digits; taken from the context when empty
	Body    any    // to Append: what marshals to a JSON object, or nil; from a Log: encoding/json.RawMessage, canonical
}

// Append writes e in tx, so that it is kept exactly when the change of tx is.
// It fills ID, Time and, from the context, TraceID; Seq comes with sealing.
//
// An unknown kind, a digest or trace id that does not parse, and a body that
// is no JSON object are [fault.Invalid]; a body over [MaxBody] or another text
// over 1 KiB is [fault.TooLarge].
func Append(ctx context.Context, tx *store.Tx, e Event) error {
	_, err := AppendID(ctx, tx, e)
	return err
}

// AppendID is [Append], and gives the event's ID, for rows that point at it.
func AppendID(ctx context.Context, tx *store.Tx, e Event) (string, error) {
	list := []Event{e}
	if err := AppendAll(ctx, tx, list); err != nil {
		return "", err
	}
	return list[0].ID, nil
}

// AppendAll is [Append] for many at once, in their order: all of them are
// written or, with an error, the transaction fails. It fills the list's ID, Time,
// TraceID and Body.
func AppendAll(ctx context.Context, tx *store.Tx, list []Event) error {
	for i := range list {
		if err := list[i].stamp(ctx, tx.Now()); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := insertPending(ctx, tx, list); err != nil {
		return fmt.Errorf("append event %s: %w", list[0].Kind, err)
	}
	tx.Signal(pendingTopic)
	return nil
}

// stamp checks e and fills what the caller does not give.
func (e *Event) stamp(ctx context.Context, now time.Time) error {
	if e.Seq != 0 || e.ID != "" {
		return fault.Newf(fault.Internal, "append event: its number and id are given, not taken")
	}
	if e.TraceID == "" {
		e.TraceID = TraceFrom(ctx)
	}
	body, err := e.check()
	if err != nil {
		return fmt.Errorf("append event %s: %w", e.Kind, err)
	}
	e.Time, e.Body = now, stdjson.RawMessage(body)
	if e.ID, err = newID(now); err != nil {
		return fmt.Errorf("append event %s: %w", e.Kind, err)
	}
	return nil
}

// The topics on which this process is woken.
const (
	pendingTopic = "event.pending"
	sealedTopic  = "event.sealed"
)

// check validates what the caller filled and gives the canonical body.
func (e Event) check() (body string, err error) {
	if err := e.Kind.Validate(); err != nil {
		return "", err
	}
	if e.Digest != "" {
		if err := e.Digest.Validate(); err != nil {
			return "", err
		}
	}
	if e.TraceID != "" && !validTraceID(e.TraceID) {
		return "", fault.Newf(fault.Invalid, "trace id %.40q: want 32 lowercase hex digits, not all zero", e.TraceID)
	}
	for _, f := range [...]struct{ name, value string }{
		{"actor", e.Actor}, {"team", e.Team}, {"service", e.Service}, {"env", e.Env}, {"cluster", e.Cluster},
	} {
		if len(f.value) > maxField {
			return "", fault.Newf(fault.TooLarge, "%s has %d bytes, want at most %d", f.name, len(f.value), maxField)
		}
	}
	if e.Body == nil {
		return "{}", nil
	}
	b, err := strictjson.Canonical(e.Body)
	if err != nil {
		return "", fmt.Errorf("body: %w", err)
	}
	if len(b) > MaxBody {
		return "", fault.Newf(fault.TooLarge, "body has %d bytes, want at most %d: keep a digest of what is large", len(b), MaxBody)
	}
	if b[0] != '{' {
		return "", fault.Newf(fault.Invalid, "body %.40q: want a JSON object", b)
	}
	return string(b), nil
}

// newID makes "evt_" and a UUIDv7 (RFC 9562, section 5.7) of the instant t.
func newID(t time.Time) (string, error) {
	var u [16]byte
	if _, err := rand.Read(u[6:]); err != nil {
		return "", err
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(t.UnixMilli()))
	copy(u[:6], ms[2:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	b := make([]byte, 0, 40)
	b = append(b, "evt_"...)
	for i, n := range [...]int{4, 6, 8, 10, 16} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[[...]int{0, 4, 6, 8, 10}[i]:n])
	}
	return string(b), nil
}

// timeFormat is how times stand in leaves and heads: UTC, always six decimals.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// Leaf is the event's canonical form (RFC 8785), the bytes that the chain
// commits to: a JSON object with every member present, in this order: actor,
// body, cluster, digest, env, id, kind, seq, service, team, time, trace_id. It
// is also the event's form in the API and in exports. An event that is not
// sealed, or whose body is not canonical JSON, has none ([fault.Internal]).
func (e Event) Leaf() ([]byte, error) {
	body, ok := e.Body.(stdjson.RawMessage)
	if !ok || e.Seq <= 0 {
		return nil, fault.Newf(fault.Internal, "event %q is not from the log: it has no leaf", e.ID)
	}
	return e.appendLeaf(make([]byte, 0, 512+len(body)), string(body))
}

func (e Event) appendLeaf(b []byte, body string) ([]byte, error) {
	var err error
	text := func(name, value string) {
		if err != nil {
			return
		}
		b = append(b, name...)
		b, err = jsontext.AppendQuote(b, value)
	}
	text(`{"actor":`, e.Actor)
	b = append(b, `,"body":`...)
	b = append(b, body...)
	text(`,"cluster":`, e.Cluster)
	text(`,"digest":`, string(e.Digest))
	text(`,"env":`, e.Env)
	text(`,"id":`, e.ID)
	text(`,"kind":`, string(e.Kind))
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	text(`,"service":`, e.Service)
	text(`,"team":`, e.Team)
	b = append(b, `,"time":"`...)
	b = e.Time.UTC().AppendFormat(b, timeFormat)
	b = append(b, '"')
	text(`,"trace_id":`, e.TraceID)
	b = append(b, '}')
	return b, err
}

// rawBody is the body of an event that was read from the database.
func (e Event) rawBody() string {
	b, _ := e.Body.(stdjson.RawMessage)
	return string(b)
}

// MarshalJSON gives [Event.Leaf].
func (e Event) MarshalJSON() ([]byte, error) { return e.Leaf() }

// UnmarshalJSON reads what [Event.Leaf] wrote, strictly.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w struct {
		Actor   string          `json:"actor"`
		Body    jsontext.Value  `json:"body"`
		Cluster string          `json:"cluster"`
		Digest  artifact.Digest `json:"digest"`
		Env     string          `json:"env"`
		ID      string          `json:"id"`
		Kind    Kind            `json:"kind"`
		Seq     int64           `json:"seq"`
		Service string          `json:"service"`
		Team    string          `json:"team"`
		Time    time.Time       `json:"time"`
		TraceID string          `json:"trace_id"`
	}
	if err := strictjson.Unmarshal(b, &w, strictjson.RejectUnknown()); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	body, err := strictjson.CanonicalBytes(w.Body)
	if err != nil {
		return fmt.Errorf("event body: %w", err)
	}
	*e = Event{
		Seq: w.Seq, ID: w.ID, Time: w.Time.UTC(), Kind: w.Kind, Digest: w.Digest, Actor: w.Actor, Team: w.Team,
		Service: w.Service, Env: w.Env, Cluster: w.Cluster, TraceID: w.TraceID, Body: stdjson.RawMessage(body),
	}
	return nil
}

// Decode reads the body of an event of the log into v.
func (e Event) Decode(v any) error {
	body, ok := e.Body.(stdjson.RawMessage)
	if !ok {
		return fault.Newf(fault.Internal, "event %q is not from the log: its body is a %T", e.ID, e.Body)
	}
	if err := strictjson.Unmarshal(body, v); err != nil {
		return fmt.Errorf("body of event %s: %w", e.ID, err)
	}
	return nil
}
