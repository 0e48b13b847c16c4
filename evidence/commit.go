package evidence

import (
	"context"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/strictjson"
	"assay/store"
)

// commitOf is the key of the commit among the digests of a source; "" where it
// names none. Older provenance calls a commit's id sha1.
func commitOf(s artifact.DigestSet) artifact.Digest {
	id := attestation.GitCommit(s)
	if id == "" {
		id = s["sha1"]
	}
	if id == "" {
		return ""
	}
	return CommitKey(id)
}

// insertBuilt notes that a bundle's subjects were built from a commit.
func insertBuilt(ctx context.Context, tx *store.Tx, id string, source artifact.Digest) error {
	if source == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO evidence_built (source, subject) SELECT ?, s.subject FROM evidence_subject s WHERE s.id = ?
		ON CONFLICT (source, subject) DO NOTHING`, string(source), id)
	return err
}

// BuiltFrom is the text of a subquery whose one argument is a bundle's id: it
// selects the digests of what was built from the commits that the bundle is
// about, as verified provenance says. So one statement of whoever keeps a state
// by digest reaches all of them, however many they are. It says whose decisions
// to make again and nothing else: a decision reads the provenance itself.
const BuiltFrom = `SELECT t.subject FROM evidence_subject s CROSS JOIN evidence_built t WHERE s.id = ? AND t.source = s.subject`

// Ingested reads the id of the bundle out of the body of an event
// attestation.ingested.
func Ingested(body []byte) (id string, err error) {
	var b struct {
		ID string `json:"id"`
	}
	if err := strictjson.Unmarshal(body, &b); err != nil {
		return "", err
	}
	return b.ID, validID(b.ID)
}
