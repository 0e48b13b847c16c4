package registry

import (
	"context"
	"errors"
	"io"
	"slices"
	"unicode/utf8"
)

// unmask looks at the stored layers of a manifest that has an image's config and
// says that they are evidence. Runtimes find out by the bytes what a layer is, so
// its media type alone is no proof: what is not text is a layer of a file system,
// and the manifest an image.
func (r *Registry) unmask(ctx context.Context, m *manifest) error {
	for i := range m.claimed {
		text := !m.remote
		if text {
			var err error
			if text, err = r.isText(ctx, &m.claimed[i]); err != nil {
				return err
			}
		}
		if !text {
			m.runnable, m.claimed = true, nil
			return nil
		}
	}
	return nil
}

// sniffed is how much of a layer is looked at: the header of a tar archive, which
// has bytes that no text has, as those of all compressions do.
const sniffed = 512

func (r *Registry) isText(ctx context.Context, d *descriptor) (bool, error) {
	f, err := r.blobs.Open(ctx, d.Digest)
	if err != nil {
		return false, err
	}
	head, err := io.ReadAll(io.LimitReader(f, sniffed))
	if err := errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	if int64(len(head)) < d.Size { // a character may be cut
		for n := 1; n < utf8.UTFMax && n < len(head); n++ {
			if utf8.RuneStart(head[len(head)-n]) {
				head = head[:len(head)-n]
				break
			}
		}
	}
	control := slices.ContainsFunc(head, func(b byte) bool { return b < ' ' && b != '\t' && b != '\n' && b != '\r' })
	return !control && utf8.Valid(head), nil
}
