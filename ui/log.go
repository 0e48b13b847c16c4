package ui

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"assay/attestation"
	"assay/client"
	"assay/internal/fault"
	"assay/tlog"
)

// proof is what checking an entry's inclusion came to.
type proof struct {
	entry client.LogEntry
	size  uint64
	err   error // why it does not hold, or could not be asked for
	asked bool  // the entry was there
}

// prove asks for an entry of the log and checks here what the log says of it: the
// leaf's hash over the entry's own bytes, the path from it to the root, and the
// signature over that root by the log's pinned key. Nothing of it is believed.
func (c *visit) prove(index int64) (p proof) {
	if p.err = c.get(&p.entry, "log/entries/"+strconv.FormatInt(index, 10)); p.err != nil {
		return p
	}
	p.asked = true
	p.size, p.err = c.u.checkEntry(&p.entry)
	return p
}

// proveBundle proves that the very entry that a bundle brings along is in the log.
func (c *visit) proveBundle(b *attestation.Bundle, index int64) proof {
	p := c.prove(index)
	if p.err != nil {
		return p
	}
	for _, e := range b.LogEntries() {
		if e.GetLogIndex() == index && bytes.Equal(e.GetCanonicalizedBody(), p.entry.Body) {
			return p
		}
	}
	p.err = fault.Newf(fault.Unverified, "entry %d of the log is about something else", index)
	return p
}

// proveEvidence does so for stored evidence.
func (c *visit) proveEvidence(e *client.Evidence) proof {
	raw, err := c.raw("evidence/" + url.PathEscape(e.ID))
	if err != nil {
		return proof{err: err}
	}
	b, err := attestation.ParseBundle(raw, attestation.DefaultLimits())
	if err != nil {
		return proof{err: err, asked: true}
	}
	return c.proveBundle(b, *e.LogIndex)
}

func (u *UI) checkEntry(e *client.LogEntry) (uint64, error) {
	if u.o.Checkpoint == nil {
		return 0, fault.Newf(fault.Undecided, "the log's key is not known here")
	}
	cp, err := u.o.Checkpoint([]byte(e.Checkpoint))
	if err != nil {
		return 0, fmt.Errorf("the log's head: %w", err)
	}
	leaf, err := hex.DecodeString(e.LeafHash)
	if err != nil {
		return 0, fault.Newf(fault.Unverified, "the leaf hash is no hash")
	}
	// What is shown must be what was logged (RFC 6962, section 2.1).
	if got := sha256.Sum256(append([]byte{0}, e.Body...)); len(e.Body) > 0 && hex.EncodeToString(got[:]) != e.LeafHash {
		return 0, fault.Newf(fault.Unverified, "the entry's bytes are not those of the leaf")
	}
	path := make([][]byte, len(e.Proof))
	for i, h := range e.Proof {
		if path[i], err = hex.DecodeString(h); err != nil {
			return 0, fault.Newf(fault.Unverified, "the proof is no list of hashes")
		}
	}
	return cp.Size, tlog.VerifyInclusion(e.Index, cp.Size, leaf, path, cp.Root[:])
}

func (p *proof) cell() Cell {
	switch {
	case p.err == nil:
		return mark(Good, "included")
	case !p.asked || errors.Is(p.err, fault.Undecided):
		c := unknown(p.err.Error())
		c.Sub = clip(p.err.Error(), 120)
		return c
	}
	return Cell{Text: "NOT PROVED", Mark: Bad, Sub: clip(p.err.Error(), 200)}
}

// logTable checks the inclusion of an artifact's evidence while one looks on.
func (s *subject) logTable() Section {
	out := Section{ID: "log", Title: "Inclusion in the transparency log, checked now",
		Note:  "For each entry: its leaf's hash, the path to the root, and the signature over the root by the log's pinned key; and that the entry is the one that the evidence brought along.",
		Table: &Table{Columns: columns("Entry#", "Evidence", "Inclusion", "Tree size#", "Path#"), Empty: "None of its evidence is in this log."}}
	left, foreign := 0, 0
	for i := range s.evidence {
		e := &s.evidence[i]
		if e.LogIndex == nil {
			continue
		}
		if e.Root != s.u.o.OwnRoot() {
			foreign++
			continue
		}
		if len(out.Table.Rows) == 20 {
			left++
			continue
		}
		p := s.proveEvidence(e)
		index := count(*e.LogIndex)
		index.URL = local("log/" + strconv.FormatInt(*e.LogIndex, 10))
		size, steps := unknown("not checked"), unknown("not checked")
		if p.asked {
			size, steps = count(p.size), count(len(p.entry.Proof))
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{index, evidenceCell(e.ID), p.cell(), size, steps})
	}
	if foreign > 0 {
		out.Note += fmt.Sprintf(" %d are in logs of others, whose proofs held when they came in.", foreign)
	}
	if left > 0 {
		out.Note += fmt.Sprintf(" %d more are not checked here; open one to check it.", left)
	}
	return out
}

func logPage(c *visit) (*Page, error) {
	var st client.Status
	if err := c.get(&st, "status"); err != nil {
		return nil, err
	}
	from := st.LogSize
	if v, err := strconv.ParseUint(c.query("after"), 10, 63); err == nil && v < from {
		from = v
	}
	t := &Table{Columns: columns("Entry#", "Kind", "Digest", "Signer"), Empty: "The log has no entry yet."}
	next := ""
	const rows = 25
	for i := from; i > 0 && from-i < rows; i-- {
		var e client.LogEntry
		if err := c.get(&e, "log/entries/"+strconv.FormatUint(i-1, 10)); err != nil {
			return nil, err
		}
		index := count(e.Index)
		index.URL = local("log/" + strconv.FormatUint(e.Index, 10))
		who := Cell{Text: clip(e.Identity, 60), Value: e.Identity, Title: e.Issuer}
		if e.Identity == "" {
			who = Cell{Text: short(e.Key), Value: e.Key, Mono: true, Title: e.Key}
		}
		t.Rows = append(t.Rows, []Cell{index, text(e.Kind), {Text: short(e.Digest), Value: e.Digest, Mono: true, Title: e.Digest}, who})
		if i > 1 && from-i == rows-1 {
			next = strconv.FormatUint(i-1, 10)
		}
	}
	return &Page{Title: "Transparency log", Here: "Log", Live: c.query("after") == "", Sections: []Section{
		{ID: "head", Title: "Head", Facts: []Fact{{"Origin", text(st.Origin)}, {"Entries", count(st.LogSize)}, {"Trust epoch", count(st.TrustEpoch)}, {"Monitor it", mono("assay log monitor " + st.Services.Rekor)}}},
		{ID: "entries", Title: "Entries, the newest first", Table: c.next(t, next)},
	}}, nil
}

func logEntryPage(c *visit) (*Page, error) {
	index, err := strconv.ParseInt(c.r.PathValue("index"), 10, 63)
	if err != nil || index < 0 {
		return nil, fault.Newf(fault.Invalid, "entry %.40q: want a number from 0", c.r.PathValue("index"))
	}
	p := c.prove(index)
	if !p.asked {
		return nil, p.err
	}
	e := &p.entry
	body := string(e.Body)
	if b, err := json.MarshalIndent(e.Body, "", "  "); err == nil {
		body = string(b)
	}
	t := &Table{Columns: columns("Step#", "Hash")}
	for i, h := range e.Proof {
		t.Rows = append(t.Rows, []Cell{count(i), mono(h)})
	}
	t.Empty = "The tree has one leaf: it is the root."
	return &Page{Title: "Log entry " + strconv.FormatInt(index, 10), Here: "Log", Crumbs: []Link{{"Log", local("log")}}, State: p.cell(), Sections: []Section{
		{ID: "entry", Title: "What was logged", Facts: []Fact{
			{"Kind", text(e.Kind)}, {"Digest", mono(e.Digest)}, {"Issuer", orNone(e.Issuer)}, {"Identity", orNone(e.Identity)}, {"Key", mono(e.Key)}, {"Leaf hash", mono(e.LeafHash)},
		}, Raw: body},
		{ID: "head", Title: "Under which head", Facts: []Fact{{"Tree size", count(e.TreeSize)}, {"Root", mono(e.RootHash)}}, Raw: strings.TrimSpace(e.Checkpoint)},
		{ID: "proof", Title: "Path from the leaf to the root", Table: t},
	}}, nil
}
