package integrity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// Source may hold what is damaged here: an upstream, a replica.
type Source interface {
	// Fetch opens what lies under d there, for a repository of here. from says in
	// words where that is, also with an error; empty: it stands for no such
	// repository. size is what d has, or -1 where nobody knows. fault.NotFound: it
	// has no such thing; fault.Tampered, also from Read: it has other bytes.
	Fetch(ctx context.Context, repository string, d artifact.Digest, manifest bool, size int64) (from string, body io.ReadCloser, err error)
}

// Damage is a damaged blob, and what is known of it.
type Damage struct {
	Finding
	FoundAt      time.Time
	Manifest     bool     // it is a manifest
	Size         int64    // bytes that it should have; -1: not known
	Repositories []string // that need it, in order
}

// Mending is what came of a repair from the known sources.
type Mending struct {
	Digest artifact.Digest
	State  string // one of the States
	Source string // of a repair
	Tried  []Try  // that did not serve
}

// Try is a source that did not serve, and why.
type Try struct {
	Source string
	Err    error
}

// States of a [Mending].
const (
	Repaired = "repaired" // its bytes are right again, and what it kept back is released
	Whole    = "whole"    // there was nothing to repair
	Damaged  = "damaged"  // no source served
)

// Mend repairs a blob out of the first source that has its bytes. What is not
// known to be damaged is hashed first.
func (c *Checker) Mend(ctx context.Context, d artifact.Digest, actor string) (*Mending, error) {
	m := &Mending{Digest: d, State: Whole}
	found, err := c.Check(ctx, d)
	if err != nil || found == nil {
		return m, err
	}
	m.State = Damaged
	known, err := c.describe(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, s := range c.o.Sources {
		for _, repository := range known.Repositories {
			from, err := c.mendFrom(ctx, s, known, repository, actor)
			switch {
			case err == nil && from != "":
				m.State, m.Source = Repaired, from
				return m, nil
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case from != "":
				m.Tried = append(m.Tried, Try{from, err})
			}
		}
	}
	c.met.repairs.WithLabelValues("failed").Inc()
	return m, nil
}

// mendFrom repairs out of one source; from is empty where it stands for no such
// repository.
func (c *Checker) mendFrom(ctx context.Context, s Source, what *Damage, repository, actor string) (from string, err error) {
	from, body, err := s.Fetch(ctx, repository, what.Digest, what.Manifest, what.Size)
	by := By{actor, from}
	if err != nil || from == "" {
		if errors.Is(err, fault.Tampered) {
			err = errors.Join(err, c.refuse(ctx, what.Digest, by, err.Error()))
		}
		return from, err
	}
	defer func() { _ = body.Close() }()
	return from, c.Repair(ctx, what.Digest, by, body)
}

// Damages lists what waits for repair, by digest.
func (c *Checker) Damages(ctx context.Context) ([]Damage, error) {
	list, err := c.Damaged(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Damage, 0, len(list))
	for _, f := range list {
		d, err := c.describe(ctx, f.Digest)
		if errors.Is(err, fault.NotFound) {
			continue // repaired meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, *d)
	}
	return out, nil
}

// Describe says what is known of one damaged blob; fault.NotFound where it is
// not known to be damaged.
func (c *Checker) describe(ctx context.Context, d artifact.Digest) (*Damage, error) {
	out := &Damage{Finding: Finding{Digest: d}, Size: -1}
	err := c.o.DB.View(ctx, func(tx *store.Tx) error {
		var at int64
		if err := tx.QueryRow(ctx, `SELECT found, found_at FROM integrity_damage WHERE digest = ?`, string(d)).Scan(&out.Found, &at); err != nil {
			return err
		}
		out.FoundAt = time.UnixMicro(at).UTC()
		var n int64
		err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM registry_manifest WHERE digest = ?`, string(d)).Scan(&n)
		if err != nil {
			return err
		}
		out.Manifest = n > 0
		out.Repositories, err = holders(ctx, tx, d)
		return err
	})
	if err != nil {
		return nil, err
	}
	size, err := c.size(ctx, d)
	if size.known {
		out.Size = size.most
	}
	return out, err
}

// bound is how many bytes a blob has, or at most may have.
type bound struct {
	most  int64
	known bool
}

// maxUnknown bounds a repair of what no readable manifest gives the size of.
const maxUnknown = 16 << 30

// size finds how large d should be: of a manifest its row says it, of another
// blob a manifest that names it. The damaged bytes themselves prove nothing.
func (c *Checker) size(ctx context.Context, d artifact.Digest) (bound, error) {
	var manifests []artifact.Digest
	own := int64(-1)
	err := c.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		own = -1
		err = tx.QueryRow(ctx, `SELECT size FROM registry_manifest WHERE digest = ? LIMIT 1`, string(d)).Scan(&own)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		manifests, err = store.Values[artifact.Digest](ctx, tx, `SELECT DISTINCT manifest FROM registry_reference WHERE child = ? AND kind = ? LIMIT 16`, string(d), kindBlob)
		return err
	})
	if err != nil || own >= 0 {
		return bound{own, true}, err
	}
	for _, m := range manifests {
		if n, ok := c.sizeIn(ctx, m, d); ok {
			return bound{n, true}, nil
		}
	}
	return bound{maxUnknown, false}, nil
}

// sizeIn reads the size of a blob out of a manifest, if that is whole itself.
func (c *Checker) sizeIn(ctx context.Context, manifest, d artifact.Digest) (int64, bool) {
	f, err := c.Store().Open(ctx, manifest)
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }()
	const most = 64 << 20
	b, err := io.ReadAll(io.LimitReader(f, most))
	h := manifest.Hash()
	h.Write(b)
	if err != nil || artifact.NewDigest(manifest.Algorithm(), h.Sum(nil)) != manifest {
		return 0, false
	}
	type descriptor struct {
		Digest artifact.Digest `json:"digest"`
		Size   int64           `json:"size"`
	}
	var doc struct {
		Config descriptor   `json:"config"`
		Layers []descriptor `json:"layers"`
		Blobs  []descriptor `json:"blobs"`
	}
	if strictjson.Unmarshal(b, &doc, strictjson.WithMaxBytes(most)) != nil {
		return 0, false
	}
	for _, x := range append(append(doc.Layers, doc.Blobs...), doc.Config) {
		if x.Digest == d && x.Size >= 0 {
			return x.Size, true
		}
	}
	return 0, false
}

// holders lists the repositories that need a blob.
func holders(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT repository FROM registry_reference WHERE child = ? AND kind = ?
		UNION SELECT repository FROM registry_manifest WHERE digest = ? ORDER BY repository LIMIT 100`, string(d), kindBlob, string(d))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := []string{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("repositories of %s: %w", d, err)
		}
		out = append(out, name)
	}
	return out, rows.Err()
}
