package server

import (
	"context"
	"fmt"
	"log/slog"

	"assay/blob"
	"assay/blob/s3"
	"assay/config"
	"assay/internal/clock"
)

// openBlobs opens where the configuration says that blobs lie: the folder dir,
// or a bucket.
func openBlobs(ctx context.Context, c config.Blob, dir string, now clock.Clock, log *slog.Logger) (blob.Store, func() error, error) {
	if !c.S3.Enabled() {
		d, err := blob.NewDir(dir, blob.Options{Clock: now, Logger: log})
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	o := c.S3.Options()
	o.Clock, o.Logger = now, log
	s, err := s3.Open(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

// checkBlobs is part of readiness: a bucket can be away, a folder is as ready
// as the process.
func (s *Server) checkBlobs(ctx context.Context) error {
	if r, ok := s.blobs.(interface{ Ready(context.Context) error }); ok {
		if err := r.Ready(ctx); err != nil {
			return fmt.Errorf("blobs: %w", err)
		}
	}
	return nil
}
