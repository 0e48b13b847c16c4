// Package transfer carries images, evidence and trust from one site to another
// that no network joins: one file, over a one-way diode.
//
// # The file
//
// A tar of regular files, which is an OCI image layout with one member before
// it, so that crane, oras and skopeo read the images out of it:
//
//	assay-bundle.sigstore.json   the signed [Manifest]
//	blobs/sha256/…               the exporter's TUF roots, its trusted root
//	oci-layout, index.json       the layout
//	blobs/sha256/…               everything else
//
// The manifest lists every member with its digest and size, in the order of the
// file. Whoever reads holds the file to that list, member by member: what is not
// next on it is refused, and so is what has other bytes. No member is ever
// extracted by its name; content goes to a blob store by its digest.
//
// # Who signed
//
// The manifest is a Sigstore bundle over an in-toto statement, signed with the
// exporter's online TUF key, timestamped, and held by its log. A reader pins one
// root.json of the exporter ([Pin]); the roots in the file lead from it to the
// newest, each signed by the one before, and the newest names the key. The
// trusted root that proves the log entry is a member of the signed list.
//
// # The order
//
// Each pair of exporter and target counts its own sequence. A file with [Manifest.Full]
// stands alone; any other one follows exactly the one before it, which it names
// by digest ([State.Accepts]). What was sent is remembered, so that a file holds
// only what is new, and every file can be written again while its blobs are
// kept: a lost medium is answered with the same file.
package transfer
