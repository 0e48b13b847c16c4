package registry

import (
	"context"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// carried is evidence that a push brought: manifest says something about
// subject.
type carried struct {
	manifest, subject artifact.Digest
	artifactType      string
}

// maxCarried bounds how much of one fallback index is handed on: the newest,
// which clients append at the end (CVE-2023-33957).
const maxCarried = 64

// carrierTag reads the tags by which evidence is found without the referrers
// API: sha256-<hex> (OCI Distribution, "Referrers Tag Schema") and cosign's
// sha256-<hex>.sig, .att and .sbom.
func carrierTag(tag string) (artifact.Digest, bool) {
	rest, ok := strings.CutPrefix(tag, "sha256-")
	if !ok {
		return "", false
	}
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		if hex, found := strings.CutSuffix(rest, suffix); found {
			rest = hex
			break
		}
	}
	d, err := artifact.ParseDigest("sha256:" + rest)
	return d, err == nil
}

// carriedBy lists the evidence in a push.
func carriedBy(p *push) []carried {
	var list []carried
	if p.subject != "" {
		list = append(list, carried{p.digest, p.subject, p.artifactType})
	}
	for _, tag := range p.tags {
		subject, ok := carrierTag(tag)
		switch {
		case !ok:
		case !isIndex(p.mediaType):
			if subject != p.subject {
				list = append(list, carried{p.digest, subject, p.artifactType})
			}
		default: // the fallback tag's index lists the referrers
			children := p.children
			children = children[max(len(children)-maxCarried, 0):]
			for i := range children {
				list = append(list, carried{children[i].Digest, subject, children[i].ArtifactType})
			}
		}
	}
	return list
}

// queueIngest notes in the push's transaction what must be handed on, so that a
// crash between commit and hand-over loses nothing.
func (r *Registry) queueIngest(ctx context.Context, tx *store.Tx, repository string, list []carried) error {
	if r.ingest == nil {
		return nil
	}
	// The push hands it on itself right away; the worker leaves it alone for as
	// long as that may take.
	retryAt := tx.Now().Add(2 * r.limits.IngestTimeout)
	for _, c := range list {
		if _, err := tx.Exec(ctx, `
			INSERT INTO registry_ingest (repository, manifest, subject, artifact_type, attempts, retry_at) VALUES (?, ?, ?, ?, 0, ?)
			ON CONFLICT (repository, manifest, subject) DO UPDATE SET attempts = 0, retry_at = excluded.retry_at`,
			repository, string(c.manifest), string(c.subject), c.artifactType, retryAt); err != nil {
			return err
		}
	}
	return nil
}

// ingestNow hands on what a push has just committed. The push stands whatever
// comes of it.
func (r *Registry) ingestNow(ctx context.Context, repository string, list []carried) {
	if r.ingest == nil || len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.limits.IngestTimeout)
	defer cancel()
	for _, c := range list {
		r.handOn(ctx, repository, c, 0)
	}
}

// maxIngestAttempts with doubling pauses up to an hour is about a day.
const maxIngestAttempts = 32

// handOn calls the Ingester once and settles the row by the outcome. Evidence
// that is wrong stays wrong and is not tried again; what failed for another
// reason is, later.
func (r *Registry) handOn(ctx context.Context, repository string, c carried, attempts int) {
	err := r.ingest.Referrer(ctx, c.subject, repository, c.manifest, c.artifactType)
	outcome, final := "ingested", true
	switch kind := fault.KindOf(err); {
	case err == nil:
	case kind == fault.Unverified, kind == fault.Invalid, kind == fault.TooLarge, kind == fault.NotFound, kind == fault.Denied:
		outcome = "rejected"
		r.log.WarnContext(ctx, "pushed evidence was rejected", "repository", repository, "digest", string(c.manifest), "subject", string(c.subject), "error", err)
	default:
		outcome, final = "failed", attempts+1 >= maxIngestAttempts
		r.log.ErrorContext(ctx, "pushed evidence not taken in", "repository", repository, "digest", string(c.manifest), "subject", string(c.subject), "attempt", attempts+1, "final", final, "error", err)
	}
	r.met.ingested.WithLabelValues(outcome).Inc()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	err = r.db.Update(ctx, func(tx *store.Tx) error {
		var err error
		if final {
			_, err = tx.Exec(ctx, `DELETE FROM registry_ingest WHERE repository = ? AND manifest = ? AND subject = ?`,
				repository, string(c.manifest), string(c.subject))
		} else {
			_, err = tx.Exec(ctx, `UPDATE registry_ingest SET attempts = attempts + 1, retry_at = ? WHERE repository = ? AND manifest = ? AND subject = ?`,
				tx.Now().Add(pause(attempts)), repository, string(c.manifest), string(c.subject))
		}
		return err
	})
	if err != nil {
		r.log.ErrorContext(ctx, "outcome of ingest not noted; it will be tried again", "digest", string(c.manifest), "error", err)
	}
}

func pause(attempts int) time.Duration {
	return min(10*time.Second<<min(attempts, 20), time.Hour)
}

// Run does what no request waits for, until ctx ends: it hands on evidence that
// a crash or a failure left behind, and expires abandoned uploads. One replica
// may run it or all; the work is idempotent.
func (r *Registry) Run(ctx context.Context) error {
	expirer, _ := r.blobs.(interface {
		Expire(ctx context.Context) (int, error)
	})
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var expired time.Time
	for {
		if err := r.RetryIngest(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("pushed evidence could not be looked through", "error", err)
		}
		if now := r.now(); expirer != nil && now.Sub(expired) >= time.Hour {
			expired = now
			if _, err := expirer.Expire(ctx); err != nil && ctx.Err() == nil {
				r.log.Error("abandoned uploads could not be freed", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// RetryIngest hands on whatever is due. Run calls it every ten seconds.
func (r *Registry) RetryIngest(ctx context.Context) error {
	if r.ingest == nil {
		return nil
	}
	type due struct {
		repository string
		carried
		attempts int
	}
	var list []due
	err := r.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT repository, manifest, subject, artifact_type, attempts FROM registry_ingest WHERE retry_at <= ? ORDER BY retry_at LIMIT 256`, tx.Now())
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var d due
			if err := rows.Scan(&d.repository, &d.manifest, &d.subject, &d.artifactType, &d.attempts); err != nil {
				return err
			}
			list = append(list, d)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	for _, d := range list {
		call, cancel := context.WithTimeout(ctx, r.limits.IngestTimeout)
		r.handOn(call, d.repository, d.carried, d.attempts)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
