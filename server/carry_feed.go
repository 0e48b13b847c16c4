package server

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"

	"assay/artifact"
	"assay/blob"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
	"assay/transfer"
)

// maxFeedBytes bounds one uploaded feed.
const maxFeedBytes = 64 << 30

// Feed stores the files of a feed, and gives the digest of their list. Nothing
// is unpacked: names are rows of the list.
func (c carrying) Feed(ctx context.Context, name string, in io.Reader) (*client.BundleFeed, error) {
	if err := c.here(); err != nil {
		return nil, err
	}
	feed := transfer.Feed{Name: name, Files: []transfer.FeedFile{}}
	if err := feed.Validate(); err != nil {
		return nil, err
	}
	var total int64
	for t := tar.NewReader(io.LimitReader(in, maxFeedBytes)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "feed %s: not a tar, or cut short: %w", name, err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return nil, fault.Newf(fault.Invalid, "feed %s: %.200q is no plain file", name, h.Name)
		}
		feed.Files = append(feed.Files, transfer.FeedFile{Path: h.Name, Size: h.Size, Digest: artifact.SHA256Of(nil)})
		if err := feed.Validate(); err != nil && len(feed.Files)%256 == 1 { // and once more at the end
			return nil, err
		}
		if feed.Files[len(feed.Files)-1].Digest, err = c.s.keepStream(ctx, t, h.Size); err != nil {
			return nil, fault.Newf(fault.KindOf(err), "feed %s: %s: %w", name, h.Name, err)
		}
		total += h.Size
	}
	if err := feed.Validate(); err != nil {
		return nil, err
	}
	slices.SortFunc(feed.Files, func(a, b transfer.FeedFile) int { return strings.Compare(a.Path, b.Path) })
	b, err := strictjson.Canonical(feed)
	if err != nil {
		return nil, err
	}
	d, err := blob.Put(ctx, c.s.blobs, b)
	return &client.BundleFeed{Name: name, Listing: d, Files: len(feed.Files), Bytes: total}, err
}

// keepStream stores size bytes under the digest that they turn out to have.
func (s *Server) keepStream(ctx context.Context, r io.Reader, size int64) (artifact.Digest, error) {
	w, err := s.blobs.Create(ctx)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(w, sum), r, size); err != nil {
		_ = w.Cancel()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fault.Newf(fault.Invalid, "it was cut short: %w", err)
		}
		return "", err
	}
	d := artifact.NewDigest(artifact.SHA256, sum.Sum(nil))
	return d, w.Commit(ctx, d)
}

// List tells what was made, and how far the imports are.
func (c carrying) List(ctx context.Context) (*client.BundleList, error) {
	out := &client.BundleList{Exported: []client.Bundle{}, Origins: []client.BundleOrigin{}}
	return out, c.s.db.View(ctx, func(tx *store.Tx) error {
		made, err := transfer.Exports(ctx, tx)
		if err != nil {
			return err
		}
		for _, e := range made {
			out.Exported = append(out.Exported, client.Bundle{Origin: c.s.data.site.Host, Target: e.Target, Sequence: e.Sequence, Digest: e.Digest, Actor: e.Actor, Time: e.MadeAt})
		}
		origins, err := transfer.Origins(ctx, tx)
		if err != nil {
			return err
		}
		for _, o := range origins {
			w := client.BundleOrigin{
				Origin: o.Origin, Root: o.Name, RootDigest: artifact.SHA256Of(o.Root), Target: o.Target, Sequence: o.Sequence, Digest: o.Digest,
				Namespaces: o.Namespaces, ImportedAt: o.ImportedAt, Revocations: foreignTrust(c).revocation(o.Name),
			}
			feeds, err := transfer.Feeds(ctx, tx, o.Origin)
			if err != nil {
				return err
			}
			for _, f := range feeds {
				one := client.BundleFeed{Name: f.Name, Files: len(f.Files)}
				for _, file := range f.Files {
					one.Bytes += file.Size
				}
				w.Feeds = append(w.Feeds, one)
			}
			out.Origins = append(out.Origins, w)
		}
		return nil
	})
}
