// Package trust answers whether bytes were signed by whom they claim, when,
// and under whose roots: offline, from a bundle and a trusted root alone.
//
//	root, err := trust.ParseTrustedRoot(b)          // or NewRoot, or LoadFromTUF (package tuf)
//	v, err := root.VerifyBundle(ctx, bundle, trust.VerifyOptions{
//		Artifact: digest.Set(),
//		Identity: []trust.IdentityMatch{{Issuer: "https://issuer", Subject: "me@example.com"}},
//	})
//
// # What is verified
//
// [Root.VerifyBundle] is an own implementation of the Sigstore client
// specification (signature, certificate path, SCT, RFC 3161 timestamp,
// transparency log entry), not a wrapper. It is stricter than upstream where
// advisories showed need:
//
//   - a log entry binds digest, signature and key, all three, byte for byte;
//   - the log's own key has a validity window, closed at both ends, which is
//     compared with trusted time;
//   - logs and timestamp authorities count once each, by operator and by key;
//   - a window without a start is refused, never unbounded;
//   - a bundle may not carry a root that the trusted root does not hold;
//   - one bundle is verified under one root; parts of two roots do not mix.
//
// # Time
//
// Trusted time comes from an RFC 3161 timestamp over the signature or from a
// log's signed entry timestamp. Claimed time (a document's own word) and the
// integrated time of an entry without a promise are never used.
//
// # Errors
//
// Every refusal is [assay/internal/fault.Unverified] and carries a stable
// machine code: see [Code] and codes.go.
package trust
