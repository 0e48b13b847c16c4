package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
)

// single stands for the name of the one file of a URL that is a file; a suffix
// names what lies beside it.
const single = "\x00"

// Fetcher brings files of upstreams into a folder.
type Fetcher struct{ o Options }

// part is what is known of a file that has come in part.
type part struct {
	From string `json:"from"` // upstream and name
	Tag  string `json:"tag"`
	Size int64  `json:"size"` // of the whole; -1: not told
}

// fetched is a file that is there.
type fetched struct {
	Path      string // of the file; "" when Unchanged
	Tag       string
	Unchanged bool
}

// get brings a file of at most limit bytes, unless it is the one of tag. What a
// broken connection left is gone on with, in this call and in a later one, as
// long as the upstream says that it is the same file (If-Range). The caller
// removes the file.
func (f *Fetcher) get(ctx context.Context, p place, s *Spec, name, tag string, limit int64) (fetched, error) {
	sum := sha256.Sum256([]byte(s.Name + "\x00" + s.URL + "\x00" + name))
	at := filepath.Join(f.o.Dir, "fetch-"+hex.EncodeToString(sum[:12]))
	if err := os.MkdirAll(f.o.Dir, 0o700); err != nil {
		return fetched{}, err
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	var last error
	for try := range attempts {
		if try > 0 {
			if err := f.o.sleep(ctx, time.Duration(try)*time.Second); err != nil {
				return fetched{}, errors.Join(last, err)
			}
		}
		out, err := f.once(ctx, p, s, name, tag, at, limit)
		if err == nil || !errors.Is(err, fault.Unavailable) || ctx.Err() != nil {
			return out, err
		}
		last = err
		if errors.Is(err, errRange) {
			forget(at)
		}
	}
	return fetched{}, last
}

// once asks one time: for the rest of what is here, or for all.
func (f *Fetcher) once(ctx context.Context, p place, s *Spec, name, tag, at string, limit int64) (out fetched, err error) {
	q := request{Tag: tag}
	had := readPart(at, s, name)
	if had != nil {
		q = request{Tag: had.Tag, Offset: had.have(at)}
	}
	if q.Offset == 0 {
		q.Tag = tag
	}
	r, err := p.open(ctx, name, q)
	if err != nil {
		return out, err
	}
	if r.Unchanged {
		return fetched{Tag: r.Tag, Unchanged: true}, nil
	}
	defer r.Body.Close()
	if r.Size > limit {
		return out, fault.Newf(fault.TooLarge, "the upstream has %d bytes, at most %d are taken (max_bytes)", r.Size, limit)
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if r.Offset > 0 {
		flags = os.O_WRONLY | os.O_APPEND
	} else if err := notePart(at, part{s.URL + " " + name, r.Tag, r.Size}); err != nil {
		return out, err
	}
	file, err := os.OpenFile(at+".part", flags, 0o600)
	if err != nil {
		return out, err
	}
	n, err := io.Copy(file, io.LimitReader(r.Body, limit-r.Offset+1))
	if e := file.Close(); e != nil {
		return out, e
	}
	total := r.Offset + n
	switch {
	case total > limit:
		forget(at)
		return out, fault.Newf(fault.TooLarge, "the upstream gives more than %d bytes (max_bytes)", limit)
	case err != nil && ctx.Err() != nil:
		return out, ctx.Err()
	case err != nil:
		return out, fault.Newf(fault.Unavailable, "the connection broke after %d bytes: %w", total, err)
	case r.Size >= 0 && total < r.Size:
		return out, fault.Newf(fault.Unavailable, "the connection ended after %d of %d bytes", total, r.Size)
	case r.Size >= 0 && total > r.Size:
		forget(at)
		return out, fault.Newf(fault.Unavailable, "more than the %d bytes that were announced", r.Size)
	}
	if err := os.Rename(at+".part", at+".done"); err != nil {
		return out, err
	}
	forget(at)
	return fetched{Path: at + ".done", Tag: r.Tag}, nil
}

// readPart is what came of this file before; nil: nothing that can be gone on
// with. Only a strong tag says that bytes are the same (RFC 9110, section 8.8.1).
func readPart(at string, s *Spec, name string) *part {
	b, err := os.ReadFile(at + ".json")
	if err != nil {
		return nil
	}
	var p part
	if json.Unmarshal(b, &p) != nil || p.From != s.URL+" "+name || len(p.Tag) < 2 || p.Tag[:2] == "W/" || p.Tag[:min(len(p.Tag), len(dated))] == dated {
		return nil
	}
	return &p
}

func (p *part) have(at string) int64 {
	st, err := os.Stat(at + ".part")
	if err != nil || p.Size >= 0 && st.Size() >= p.Size {
		return 0
	}
	return st.Size()
}

func notePart(at string, p part) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(at+".json", b, 0o600)
}

func forget(at string) {
	_ = os.Remove(at + ".part") // what stays is overwritten by the next one
	_ = os.Remove(at + ".json")
}

// small reads a file of at most limit bytes, unless it is the one of tag.
func (f *Fetcher) small(ctx context.Context, p place, s *Spec, name, tag string, limit int64) (b []byte, got fetched, err error) {
	got, err = f.get(ctx, p, s, name, tag, limit)
	if err != nil || got.Unchanged {
		return nil, got, err
	}
	defer os.Remove(got.Path)
	b, err = os.ReadFile(got.Path)
	return b, got, err
}

// at opens the place of a spec that is not a file: URL.
func (f *Fetcher) at(ctx context.Context, s *Spec) (place, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if u.Scheme == "s3" {
		return openBucket(ctx, s, u)
	}
	return f.openWeb(s, u)
}
