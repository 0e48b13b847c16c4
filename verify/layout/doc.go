// Package layout verifies in-toto layouts (specification v1.0): who had to carry
// out which step of a supply chain, what each could take in and give out, and
// whether the links that they signed say so. Layouts and links are read as signed
// metadata blocks of the specification and as DSSE envelopes; links also as
// statements of type https://in-toto.io/attestation/link/v0.3.
//
// It executes nothing. Inspections are commands that the verifier is to run, so
// that who signs a layout would run code at every verifier's: a layout that has
// any is refused, and with [Input.SkipInspections] never becomes more than
// undecided, since a part of what its owner demands was not looked at.
//
// Patterns of artifact rules have in-toto's own grammar, of which only that part
// is read in which its implementations agree (CVE-2021-41087):
//
//   - "*" stands for any characters, "/" among them, also none;
//   - "?" stands for one character, also "/";
//   - every other character stands for itself; "[", "]" and "\" are refused.
//
// This is not the grammar of internal/glob, whose "*" ends at "/": a layout's
// DISALLOW * would then let everything in folders through that its owner meant to
// forbid. Names are compared after path.Clean; two names that become one are
// refused.
package layout
