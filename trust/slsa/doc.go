// Package slsa compares SLSA provenance, once its bundle was verified, with
// what a consumer expects of the build: which builder, which source, which
// branch, tag or version, which workflow inputs.
//
// The rules are slsa-verifier's, whose test cases this package passes offline.
// They rest on one distinction: what the signing certificate says was put there
// by the identity provider, what the provenance says was put there by the
// signer. A builder is trusted by the certificate, never by the document's own
// claim; and where the signer is the very job that was built, every claim must
// stand in the certificate too ([Builder].Forgeable).
//
// Levels come from the configured [Builders] alone; a builder that is merely
// named in a request earns level 1.
package slsa
