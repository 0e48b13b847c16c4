// Package tuf keeps the TUF repository through which clients learn the trusted
// root and the services to sign with, and reads such repositories.
//
// The repository holds two targets, trusted_root.json and
// signing_config.v0.2.json, in consistent snapshots; after
//
//	cosign initialize --mirror URL --root root.json
//
// an unmodified cosign needs no further flags. The server side is
// [Repository], the client side [LoadFromTUF].
//
// # Versions
//
// Versions of targets, snapshot and timestamp are at least the time of writing
// in seconds since 1970. They therefore rise even when the folder was restored
// from an old backup, and no client takes the restored repository for a
// rollback attack. Root versions count 1, 2, 3, as the TUF specification
// demands.
//
// # Client
//
// The client workflow is this package's, what is trusted is decided by go-tuf's
// trustedmetadata. TestConformance runs the scenarios of tuf-conformance
// against it.
//
// # Durability
//
// Files are written in the order in which clients depend on them, each with
// temporary file, fsync and rename: targets, targets metadata, snapshot,
// timestamp. A crash in between leaves the former state served.
package tuf
