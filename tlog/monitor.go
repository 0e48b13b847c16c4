package tlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"

	"golang.org/x/mod/sumdb/note"
)

// Monitor watches a log from outside: every checkpoint that it sees must extend
// the one it saw last, which it keeps in a file of its own, away from the log.
// One who can write the log's folder and its database together can rewrite
// both; a monitor is what notices.
type Monitor struct {
	Source   Source        // where the log is read
	Verifier note.Verifier // the log's key, pinned: never asked of the log itself
	// Others are the log's further pinned keys, while it changes its key: what any
	// of them signs is the log's word. Past are those whose time has ended: they
	// count for the checkpoint of the state file alone.
	Others, Past []note.Verifier
	Codec        Codec  // nil is Plain
	State        string // file of the last seen checkpoint and of the entries read

	// Entry is called for each new entry, in order, checked against the
	// checkpoint; an error stops the run and the entry comes again in the next.
	// nil: only consistency is checked, and no role is needed to read entries.
	Entry func(ctx context.Context, r Record) error
}

// Report is what one check found.
type Report struct {
	Origin   string `json:"origin"`
	First    bool   `json:"first"`    // nothing had been seen before: the log is trusted from here on
	Before   uint64 `json:"before"`   // entries of the last seen checkpoint
	Size     uint64 `json:"size"`     // entries of the new one
	Root     []byte `json:"root"`     // of the new one
	Reported uint64 `json:"reported"` // entries given to Entry
}

// monitorState is the file: strict JSON, replaced durably.
type monitorState struct {
	Checkpoint string `json:"checkpoint"` // signed note
	Next       uint64 `json:"next"`       // first entry that Entry has not had
}

// Check reads the log's checkpoint once and compares. A log that shrank, or
// whose new tree does not extend the old one, is [fault.Tampered]; both
// checkpoints, which together prove it, are then kept beside the state file
// with the ending ".fork". A checkpoint that the key did not sign is
// [fault.Unverified].
func (m *Monitor) Check(ctx context.Context) (Report, error) {
	codec := m.Codec
	if codec == nil {
		codec = Plain{}
	}
	seen, st, err := m.load()
	if err != nil {
		return Report{}, err
	}
	b, err := m.Source.Checkpoint(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("read the log's checkpoint: %w", err)
	}
	now, err := ParseCheckpoint(b, m.Verifier, m.Others...)
	if err != nil {
		return Report{}, err
	}
	rep := Report{Origin: now.Origin, First: seen == nil, Size: now.Size, Root: now.Root[:]}
	if seen != nil {
		rep.Before = seen.Size
	}
	tree, err := m.compare(ctx, codec, seen, now)
	if err != nil {
		if seen != nil && errors.Is(err, errFork) {
			err = errors.Join(err, m.keep(*seen, now))
		}
		return rep, err
	}
	// The checkpoint is remembered before its entries are read: whatever
	// becomes of them, the log can not go back behind it.
	st.Checkpoint = string(now.Note)
	if err := m.save(st); err != nil {
		return rep, err
	}
	if m.Entry == nil {
		return rep, nil
	}
	return rep, m.report(ctx, tree, st, &rep)
}

// Compare holds a checkpoint that others were shown against the one that was
// seen last: a log with two faces shows each of them one. Run it after Check. A
// checkpoint that no tree of this log extends, or which the log shows only to
// them, is [fault.Tampered], and both are kept as the proof.
func (m *Monitor) Compare(ctx context.Context, other []byte) error {
	codec := m.Codec
	if codec == nil {
		codec = Plain{}
	}
	seen, _, err := m.load()
	if err != nil {
		return err
	}
	if seen == nil {
		return fault.Newf(fault.Invalid, "nothing was seen of the log yet")
	}
	theirs, err := ParseCheckpoint(other, m.Verifier, m.Others...)
	if err != nil {
		return fmt.Errorf("the checkpoint to compare with: %w", err)
	}
	if theirs.Size > seen.Size {
		// The log may have grown since; it then shows us that, too.
		b, err := m.Source.Checkpoint(ctx)
		if err != nil {
			return err
		}
		now, err := ParseCheckpoint(b, m.Verifier, m.Others...)
		if err != nil {
			return err
		}
		if now.Size < theirs.Size {
			err := fault.Newf(fault.Tampered, "%w: it signed %d entries for others and shows us %d", errFork, theirs.Size, now.Size)
			return errors.Join(err, m.keep(theirs, now))
		}
		*seen = now
	}
	if _, err := m.compare(ctx, codec, &theirs, *seen); err != nil {
		if errors.Is(err, errFork) {
			err = errors.Join(fmt.Errorf("what others were shown is another history: %w", err), m.keep(theirs, *seen))
		}
		return err
	}
	return nil
}

// errFork marks what two checkpoints prove by themselves.
var errFork = errors.New("the log contradicts itself")

func (m *Monitor) compare(ctx context.Context, codec Codec, seen *Checkpoint, now Checkpoint) (*Tree, error) {
	if seen != nil && now.Size < seen.Size {
		return nil, fault.Newf(fault.Tampered, "%w: it had %d entries and now shows %d; restored from an old backup, or rewritten", errFork, seen.Size, now.Size)
	}
	if seen != nil && now.Size == seen.Size && now.Root != seen.Root {
		return nil, fault.Newf(fault.Tampered, "%w: two roots for %d entries, %x and %x", errFork, now.Size, seen.Root, now.Root)
	}
	tree, err := LoadTree(ctx, m.Source, codec, now)
	if err != nil || seen == nil || seen.Size == 0 {
		return tree, err
	}
	path, err := tree.ConsistencyProof(ctx, seen.Size, now.Size)
	if err != nil {
		return nil, err
	}
	if err := VerifyConsistency(seen.Size, now.Size, path, seen.Root[:], now.Root[:]); err != nil {
		return nil, fault.Newf(fault.Tampered, "%w: the tree of %d entries does not extend the one of %d that was seen before: %w", errFork, now.Size, seen.Size, err)
	}
	return tree, nil
}

func (m *Monitor) report(ctx context.Context, tree *Tree, st monitorState, rep *Report) error {
	for st.Next < tree.size {
		rs, err := tree.Records(ctx, st.Next, tree.size)
		if err != nil {
			return fmt.Errorf("read new entries: %w", err)
		}
		for _, r := range rs {
			if err := m.Entry(ctx, r); err != nil {
				return errors.Join(err, m.save(st))
			}
			st.Next++
			rep.Reported++
		}
		if err := m.save(st); err != nil {
			return err
		}
	}
	return nil
}

func (m *Monitor) load() (*Checkpoint, monitorState, error) {
	var st monitorState
	b, err := readFile(m.State, 2*maxCheckpoint)
	if errors.Is(err, fault.NotFound) {
		return nil, st, nil
	}
	if err != nil {
		return nil, st, err
	}
	if err := strictjson.Unmarshal(b, &st, strictjson.RejectUnknown()); err != nil {
		return nil, st, fault.Newf(fault.Tampered, "the monitor's state %s: %w; remove it only if you trust the log's present state", m.State, err)
	}
	c, err := ParseCheckpoint([]byte(st.Checkpoint), m.Verifier, slices.Concat(m.Others, m.Past)...)
	if err != nil {
		return nil, st, fmt.Errorf("the monitor's state %s: %w", m.State, err)
	}
	if st.Next > c.Size {
		return nil, st, fault.Newf(fault.Tampered, "the monitor's state %s claims %d of %d entries", m.State, st.Next, c.Size)
	}
	return &c, st, nil
}

func (m *Monitor) save(st monitorState) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return durable.WriteFile(m.State, append(b, '\n'), 0o600)
}

// keep writes down the proof of a fork; one that is there already stays.
func (m *Monitor) keep(seen, now Checkpoint) error {
	b, err := json.MarshalIndent(map[string]string{"seen": string(seen.Note), "now": string(now.Note)}, "", "  ")
	if err != nil {
		return err
	}
	path := m.State + ".fork"
	if _, err := os.Lstat(filepath.Clean(path)); err == nil {
		return nil
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}
