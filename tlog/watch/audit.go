package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"assay/event"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/tlog/rekor"
)

// maxRecent bounds the heads that wait for one of them to be logged: at ten a
// second, more than five hours.
const maxRecent = 200_000

// Audit follows a site's audit chain. What the database says of it is held
// against what was seen before, and against the heads that the transparency log
// has: who rewrites the database cannot rewrite those.
type Audit struct {
	// Heads gives the heads after a batch, in order, at most a page.
	Heads func(ctx context.Context, after int64) ([]event.Head, error)
	// Keys are fingerprints of the site's audit keys: pinned, or as the site says.
	// One that was ever seen stays.
	Keys  func(ctx context.Context) ([]string, error)
	State string // file of what was seen

	st auditState
}

type auditState struct {
	Last    string       `json:"last"`    // text of the newest head seen; "" at first
	Keys    []string     `json:"keys"`    // audit keys seen
	Recent  []string     `json:"recent"`  // hashes of heads since the last one that was logged
	Pending []loggedHead `json:"pending"` // in the log, and not among the heads yet
	Logged  int          `json:"logged"`  // heads that were found in both
	Newest  *loggedHead  `json:"newest,omitempty"`
}

// loggedHead is an entry of the log that an audit key signed.
type loggedHead struct {
	Index  uint64 `json:"index"`
	Digest string `json:"digest"` // hex
}

// AuditReport is what one check found.
type AuditReport struct {
	First   bool  `json:"first"`   // nothing had been seen before
	Batch   int64 `json:"batch"`   // of the newest head
	Events  int64 `json:"events"`  // that it covers
	New     int   `json:"new"`     // heads since the last check
	Logged  int   `json:"logged"`  // heads found in the log, ever
	Waiting int   `json:"waiting"` // heads since the last logged one
}

const maxState = 64 << 20

// Open reads the state and the keys; call it before the log's entries are read.
func (a *Audit) Open(ctx context.Context) error {
	a.st = auditState{}
	b, err := os.ReadFile(a.State)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case len(b) > maxState:
		return fault.Newf(fault.Tampered, "the monitor's state %s has %d bytes", a.State, len(b))
	default:
		if err := strictjson.Unmarshal(b, &a.st, strictjson.RejectUnknown()); err != nil {
			return fault.Newf(fault.Tampered, "the monitor's state %s: %w; remove it only if you trust the present state of the audit chain", a.State, err)
		}
	}
	keys, err := a.Keys(ctx)
	if err != nil {
		return fmt.Errorf("the site's audit keys: %w", err)
	}
	for _, k := range keys {
		if !slices.Contains(a.st.Keys, k) {
			a.st.Keys = append(a.st.Keys, k)
		}
	}
	return nil
}

// Entry takes an entry of the log. One that an audit key signed is kept until
// its head is seen.
func (a *Audit) Entry(in rekor.Inspection) error {
	hash, ok := strings.CutPrefix(in.Digest, "sha256:")
	if !ok || in.Identity != "" || !slices.Contains(a.st.Keys, in.KeyFingerprint) {
		return nil
	}
	a.st.Pending = append(a.st.Pending, loggedHead{in.Index, hash})
	return a.save()
}

// Check reads the heads that are new, and holds them against what was seen and
// logged. A chain that differs from either is [fault.Tampered]; what was seen
// then stays as it was, so that every later check says the same.
func (a *Audit) Check(ctx context.Context) (AuditReport, error) {
	rep := AuditReport{First: a.st.Last == ""}
	next := a.st
	next.Recent, next.Pending = slices.Clone(a.st.Recent), slices.Clone(a.st.Pending)
	var last event.Head
	after := int64(0)
	if next.Last != "" {
		var err error
		if last, err = event.ParseHead([]byte(next.Last)); err != nil {
			return rep, fault.Newf(fault.Tampered, "the monitor's state %s: %w", a.State, err)
		}
		after = last.Batch - 1 // the one that was seen comes again, and must be the same
	}
	for {
		page, err := a.Heads(ctx, after)
		if err != nil {
			return rep, fmt.Errorf("read the heads: %w", err)
		}
		if len(page) == 0 {
			break
		}
		for _, h := range page {
			if err := h.Validate(); err != nil {
				return rep, fault.Newf(fault.Tampered, "the audit chain: %w", err)
			}
			if last.Batch > 0 && h.Batch == last.Batch && after == last.Batch-1 {
				if h.Hash != last.Hash {
					return rep, fault.Newf(fault.Tampered, "the audit chain was rewritten: batch %d had the head %s when it was seen, and has %s now", h.Batch, last.Hash, h.Hash)
				}
				after = h.Batch
				continue
			}
			if h.Batch != last.Batch+1 || h.Prev != last.Hash || h.FirstSeq != last.LastSeq+1 {
				return rep, fault.Newf(fault.Tampered, "the audit chain is broken: batch %d follows batch %d, and names %s before it where that is %s", h.Batch, last.Batch, h.Prev, last.Hash)
			}
			last, after = h, h.Batch
			next.Recent = append(next.Recent, h.Hash.String())
			rep.New++
		}
	}
	if next.Last != "" && after < last.Batch {
		return rep, fault.Newf(fault.Tampered, "the audit chain was cut: batch %d was seen, and is not there any more", last.Batch)
	}
	if err := next.match(); err != nil {
		return rep, err
	}
	if len(next.Recent) > maxRecent {
		return rep, fault.Newf(fault.Tampered, "%d heads were sealed and none of them reached the log: the site does not log its audit chain", len(next.Recent))
	}
	if last.Batch > 0 {
		next.Last = string(last.Text())
	}
	a.st = next
	rep.Batch, rep.Events, rep.Logged, rep.Waiting = last.Batch, last.LastSeq, next.Logged, len(next.Recent)
	return rep, a.save()
}

// match finds the heads that were logged among those that were seen.
func (s *auditState) match() error {
	for len(s.Pending) > 0 {
		p := s.Pending[0]
		i := slices.Index(s.Recent, p.Digest)
		if i < 0 {
			// The same head logged twice, after a crash, is no other head.
			if s.Newest != nil && s.Newest.Digest == p.Digest {
				s.Pending = s.Pending[1:]
				continue
			}
			return fault.Newf(fault.Tampered, "entry %d of the log is the head %s of the audit chain, which the database does not have there: the chain was rewritten after it was logged", p.Index, p.Digest)
		}
		s.Recent, s.Pending = slices.Clone(s.Recent[i+1:]), s.Pending[1:]
		s.Newest = &p
		s.Logged++
	}
	return nil
}

func (a *Audit) save() error {
	b, err := json.Marshal(a.st)
	if err != nil {
		return err
	}
	return durable.WriteFile(a.State, append(b, '\n'), 0o600)
}
