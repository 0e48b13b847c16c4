// Package backup makes backups of a site while it runs, and sites out of
// backups.
//
// # What a backup is
//
// A repository is a folder or a prefix of a bucket:
//
//	objects/<hh>/<name>     encrypted pieces of at most 8 MiB, each written once
//	manifests/<id>.json     one for each backup, signed, written last
//	manifests/<id>.objects  the pieces that the backup needs, with their SHA-256
//	identity.age            only with a passphrase: the identity that opens the pieces, sealed by it
//
// A backup is one snapshot of the database (a read transaction; rows are kept as
// the same text on SQLite and PostgreSQL), then what that snapshot needs: the log
// at the size that the snapshot recorded, the blobs, and the files of the data
// folder, keys among them. Blobs are written before the rows that name them and
// log tiles are never changed, so what is read after the snapshot has all that
// the snapshot refers to. The log is checked against its signed checkpoint and
// blobs against their digests while they are read: damage does not enter a
// backup unnoticed.
//
// It is incremental: the name of a piece is a keyed hash of its content, and what
// the backup before has is not written again; of blobs that it has not even the
// bytes are read. Every backup is complete by itself, so any can be restored and
// any can be pruned.
//
// Pieces are encrypted by age (https://age-encryption.org/v1) to recipients that
// the site's configuration names, never to what stands in the repository. The
// manifest is signed by the site's key "backup": encryption alone would let
// anyone who knows a recipient write one.
package backup

import "time"

const (
	formatVersion = 1
	maxPiece      = 8 << 20  // bytes before encryption
	maxObject     = 9 << 20  // after it
	maxManifest   = 64 << 20 // bytes; mostly the list of index pieces
	maxList       = 1 << 30  // bytes of a list of objects: some 8 million pieces
	pruneGrace    = 24 * time.Hour
)
