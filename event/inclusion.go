package event

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/transparency-dev/merkle"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"assay/internal/fault"
	"assay/store"
)

// Inclusion proves that an event is in the transparency log: its leaf is in the
// batch whose root its head has, and from there each head names the one before
// it, up to the head whose text was signed and logged.
type Inclusion struct {
	Leaf  string   `json:"leaf"`  // the event's canonical form, see Event.Leaf
	Index int64    `json:"index"` // of the leaf in its batch, from 0
	Path  []string `json:"path"`  // RFC 6962 audit path in the batch, hex
	Heads []string `json:"heads"` // texts of the heads from the event's own to the logged one
}

// Verify checks the proof and gives the head that it ends at, whose text's
// SHA-256 is what the transparency log has a signature of. Errors are
// fault.Unverified or fault.Invalid.
func (p *Inclusion) Verify() (Head, error) {
	if len(p.Heads) == 0 {
		return Head{}, fault.Newf(fault.Invalid, "inclusion: no head in it")
	}
	h, err := ParseHead([]byte(p.Heads[0]))
	if err != nil {
		return Head{}, err
	}
	path := make([][]byte, len(p.Path))
	for i, s := range p.Path {
		if path[i], err = hex.DecodeString(s); err != nil {
			return Head{}, fault.Newf(fault.Invalid, "inclusion: path: %w", err)
		}
	}
	if p.Index < 0 || p.Index >= h.Count {
		return Head{}, fault.Newf(fault.Invalid, "inclusion: leaf %d of a batch of %d", p.Index, h.Count)
	}
	leaf := rfc6962.DefaultHasher.HashLeaf([]byte(p.Leaf))
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(p.Index), uint64(h.Count), leaf, path, h.Root[:]); err != nil {
		return Head{}, fault.Newf(fault.Unverified, "inclusion: the event is not in batch %d: %w", h.Batch, err)
	}
	for _, text := range p.Heads[1:] {
		next, err := ParseHead([]byte(text))
		if err != nil {
			return Head{}, err
		}
		if next.Prev != h.Hash || next.Batch != h.Batch+1 {
			return Head{}, fault.Newf(fault.Unverified, "inclusion: head %d does not follow head %d", next.Batch, h.Batch)
		}
		h = next
	}
	return h, nil
}

// Prove makes the proof for a sealed event whose head, or a later one, is in
// the transparency log; fault.NotFound while there is none.
func (l *Log) Prove(ctx context.Context, seq int64) (*Inclusion, error) {
	logged, _, err := l.Logged(ctx, seq)
	if err != nil {
		return nil, err
	}
	p := &Inclusion{}
	err = l.db.View(ctx, func(tx *store.Tx) error {
		chain, err := heads(ctx, tx, `WHERE h.last_seq >= ? AND h.batch <= ? ORDER BY h.batch LIMIT 10000`, seq, logged.Batch)
		if err != nil {
			return err
		}
		if len(chain) == 0 || chain[len(chain)-1].Batch != logged.Batch {
			return fault.Newf(fault.TooLarge, "the logged head lies over 10,000 batches behind event %d", seq)
		}
		for _, h := range chain {
			p.Heads = append(p.Heads, string(h.Text()))
		}
		own := chain[0]
		rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event WHERE seq >= ? AND seq <= ? ORDER BY seq`, own.FirstSeq, own.LastSeq)
		if err != nil {
			return err
		}
		events, err := scanEvents(rows, nil)
		if err != nil {
			return err
		}
		if int64(len(events)) != own.Count {
			return fault.Newf(fault.NotFound, "events of batch %d were dropped by retention", own.Batch)
		}
		var hashes [][]byte
		for _, e := range events {
			leaf, err := e.appendLeaf(nil, e.rawBody())
			if err != nil {
				return err
			}
			if e.Seq == seq {
				p.Leaf = string(leaf)
			}
			hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(leaf))
		}
		p.Index = seq - own.FirstSeq
		p.Path = []string{}
		for _, h := range auditPath(rfc6962.DefaultHasher, hashes, int(p.Index)) {
			p.Path = append(p.Path, hex.EncodeToString(h))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("prove event %d: %w", seq, err)
	}
	return p, nil
}

// auditPath is PATH(m, D[n]) of RFC 6962, section 2.1.1.
func auditPath(h merkle.LogHasher, leaves [][]byte, m int) [][]byte {
	n := len(leaves)
	if n == 1 {
		return nil
	}
	k := 1
	for k*2 < n {
		k *= 2
	}
	if m < k {
		return append(auditPath(h, leaves[:k], m), treeHash(h, leaves[k:]))
	}
	return append(auditPath(h, leaves[k:], m-k), treeHash(h, leaves[:k]))
}

func treeHash(h merkle.LogHasher, leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return h.HashChildren(treeHash(h, leaves[:k]), treeHash(h, leaves[k:]))
}
