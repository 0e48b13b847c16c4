package gate

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// BlockedText says why a digest, or one of these parts of it, is revoked or
// under quarantine; "": it is not. It answers from memory, as a rule.
func (g *Gate) BlockedText(ctx context.Context, d artifact.Digest, parts []artifact.Digest) (text string, err error) {
	err = g.db.View(ctx, func(tx *store.Tx) error {
		for _, one := range append([]artifact.Digest{d}, parts...) {
			has, err := g.blocks.any(ctx, tx, g.now(), one)
			if err != nil || !has {
				if err != nil {
					return err
				}
				continue
			}
			b, err := blockedIn(ctx, tx, one)
			if err != nil {
				return err
			}
			if b == nil { // lifted just now
				continue
			}
			text = blockedError(nil, one, b).Error()
			if one != d {
				text = "a part of it may not run: " + text
			}
			return nil
		}
		return nil
	})
	return text, err
}

// Wholes lists the indexes of a repository that have a manifest as a part, and
// those that have these.
func (g *Gate) Wholes(ctx context.Context, repository string, d artifact.Digest) (list []artifact.Digest, err error) {
	err = g.db.View(ctx, func(tx *store.Tx) error {
		list, err = wholes(ctx, tx, repository, d)
		return err
	})
	return list, err
}
