package backup

import (
	"context"
	"errors"
	"path"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

// Verify checks a backup where it lies: the signature, and each object against
// the signed list. With keys to open it, every piece is decrypted and every file
// and blob checked against its digest as well; only a restore checks what they
// mean.
func Verify(ctx context.Context, l Listed, r Repo, keys *Keys) (Report, error) {
	if keys == nil {
		all, err := objects(ctx, r, l.Manifest)
		if err != nil {
			return Report{}, err
		}
		for name, want := range all {
			if _, err := object(ctx, r, name, want); err != nil {
				return Report{}, err
			}
		}
		return Report{Backup: l.ID, Host: l.Host, TakenAt: l.CreatedAt, Key: l.Key, Objects: len(all), Logs: l.Logs}, nil
	}
	rd, err := newReader(ctx, r, l, *keys)
	if err != nil {
		return Report{}, err
	}
	err = rd.entries(ctx, func(ctx context.Context, e entry) error {
		switch {
		case e.Table != nil:
			rd.report.Rows += e.Table.Rows
			return rd.check(ctx, e.Table.Pieces, "")
		case e.File != nil:
			rd.report.Files++
			return rd.check(ctx, e.File.Pieces, artifact.Digest("sha256:"+e.File.SHA256))
		case e.Blob != nil:
			rd.report.Blobs++
			return rd.check(ctx, e.Blob.Pieces, e.Blob.Digest)
		case e.Missing != "":
			rd.report.Missing = append(rd.report.Missing, string(e.Missing))
		}
		return nil
	})
	return rd.report, err
}

func (r *reader) check(ctx context.Context, ps []Piece, want artifact.Digest) error {
	if want == "" {
		for _, p := range ps {
			if _, err := r.piece(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}
	if err := want.Validate(); err != nil {
		return fault.Wrap(fault.Tampered, err)
	}
	h := want.Hash()
	for _, p := range ps {
		b, err := r.piece(ctx, p)
		if err != nil {
			return err
		}
		h.Write(b)
		r.report.Bytes += int64(len(b))
	}
	if got := artifact.NewDigest(want.Algorithm(), h.Sum(nil)); got != want {
		return fault.Newf(fault.Tampered, "the content of %s hashes to %s", want, got)
	}
	return nil
}

// Pruned says what [Prune] removed.
type Pruned struct {
	Backups []string `json:"backups"`
	Objects int      `json:"objects"`
	Bytes   int64    `json:"bytes"`
}

// Prune keeps the newest backups and removes the others, then the objects that
// none of those that are left needs and that are older than a day: younger ones
// may belong to a backup that is being made. The newest backup always stays,
// since the one that is being made builds on it.
func Prune(ctx context.Context, r Repo, keep int, now time.Time) (Pruned, error) {
	out := Pruned{Backups: []string{}}
	if keep < 1 {
		return out, fault.Newf(fault.Invalid, "keep %d backups: want 1 or more", keep)
	}
	ids, err := IDs(ctx, r)
	if err != nil {
		return out, err
	}
	drop := max(0, len(ids)-keep)
	needed := map[string]bool{}
	// What stays is read first: should one of them not read, nothing is removed.
	for _, id := range ids[drop:] {
		l, err := Get(ctx, r, id, "")
		if err != nil {
			return out, err
		}
		all, err := objects(ctx, r, l.Manifest)
		if err != nil {
			return out, err
		}
		for n := range all {
			needed[n] = true
		}
	}
	for _, id := range ids[:drop] {
		if err := errors.Join(r.Delete(ctx, manifestName(id)), r.Delete(ctx, listName(id))); err != nil {
			return out, err
		}
		out.Backups = append(out.Backups, id)
	}
	if len(ids) == 0 {
		return out, nil
	}
	var old []string
	if err := r.List(ctx, "objects/", func(name string, size int64, at time.Time) error {
		if n := path.Base(name); validName(n) && !needed[n] && now.Sub(at) > pruneGrace {
			old = append(old, n)
			out.Bytes += size
		}
		return nil
	}); err != nil {
		return out, err
	}
	for _, n := range old {
		if err := r.Delete(ctx, objectName(n)); err != nil {
			return out, err
		}
		out.Objects++
	}
	return out, nil
}
