// Package ct is a Certificate Transparency log for the certificates of one
// authority, over a log of package tlog.
//
// The authority hands in the TBSCertificate that it will sign but for the list of
// SCTs, and gets a signed certificate timestamp (RFC 6962 section 3.2) once the
// entry is durable in the tree. Timestamps carry the leaf_index extension of C2SP
// static-ct-api, the read side is laid out by it, and checkpoints carry an RFC 6962
// tree head signature. One thing differs: no poisoned precertificate exists, as
// the authority and the log are one house; where static-ct-api stores the
// precertificate, the bare TBSCertificate stands.
package ct
