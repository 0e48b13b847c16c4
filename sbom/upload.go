package sbom

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Upload is a document that somebody handed in about a project, as clients of
// Dependency-Track do. Nobody signed it: it stands under the uploader's identity,
// about a name and not about an artifact, so that it is searched and matched and
// never counts as evidence of anything.
type Upload struct {
	Project  string
	Version  string
	Uploader string // who authenticated
	Document []byte
}

// MaxProject is the longest name or version of a project, in bytes.
const MaxProject = 255

// ProjectSubject is what a project's documents are about: a digest that no
// artifact has, made of its name and version.
func ProjectSubject(project, version string) artifact.Digest {
	return artifact.SHA256Of(fmt.Appendf(nil, "assay project\x00%s\x00%s", project, version))
}

// Upload reads a document and puts it in force for its project, in the place of
// the one before. token asks how far it is. fault.Invalid says why it cannot be
// read; what was there before then stays in force.
func (s *Store) Upload(ctx context.Context, u Upload) (token string, ix Indexed, err error) {
	for what, text := range map[string]string{"project": u.Project, "version": u.Version} {
		if len(text) > MaxProject || what == "project" && text == "" {
			return "", ix, fault.Newf(fault.Invalid, "the %s has %d bytes: want 1 to %d", what, len(text), MaxProject)
		}
	}
	if token, err = uuid(); err != nil {
		return "", ix, err
	}
	from := Source{Attestation: "upload_" + token, Subject: ProjectSubject(u.Project, u.Version), Identity: u.Uploader}
	if ix, _, err = s.Index(ctx, from, bytes.NewReader(u.Document)); err != nil {
		return "", ix, err
	}
	if ix.Problem != "" {
		return "", ix, fault.Newf(fault.Invalid, "the bill of materials cannot be read: %s", ix.Problem)
	}
	var before []int64
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		before = nil
		var err error
		before, err = store.Values[int64](ctx, tx, `SELECT id FROM sbom_document WHERE subject = ? AND id <> ? AND state <> ?`, string(from.Subject), ix.ID, stateReading)
		if err != nil {
			return err
		}
		for _, id := range before {
			if _, err := tx.Exec(ctx, `UPDATE sbom_document SET state = ?, problem = 'a later one took its place' WHERE id = ?`, stateRefused, id); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO sbom_upload (token, project, version, subject, document, uploader, uploaded) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			token, u.Project, u.Version, string(from.Subject), ix.ID, u.Uploader, store.Micros(tx.Now())); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SBOMUploaded, Digest: from.Subject, Actor: u.Uploader, Body: map[string]any{
			"project": u.Project, "version": u.Version, "document": ix.ID, "replaced": len(before),
		}})
	})
	for _, id := range before {
		if err == nil {
			err = s.clear(ctx, id)
		}
	}
	return token, ix, err
}

// Uploaded finds an upload by its token.
func (s *Store) Uploaded(ctx context.Context, token string) (project string, document int64, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT project, document FROM sbom_upload WHERE token = ?`, token).Scan(&project, &document)
	})
	if errors.Is(err, fault.NotFound) {
		err = fault.Newf(fault.NotFound, "no upload has this token")
	}
	return project, document, err
}

// uuid is a random one (RFC 9562, version 4).
func uuid() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}
