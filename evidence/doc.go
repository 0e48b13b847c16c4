// Package evidence keeps verified bundles by subject, type and signer, and
// gives them back byte for byte.
//
// [Store.Ingest] verifies first: what does not verify under the site's roots
// and keys is refused, noted as a rejection, and never becomes evidence. What
// verifies is stored in one transaction with its event. A bundle's name is the
// digest of its bytes, so the same bytes again change nothing, however often
// and from wherever they come.
//
// The columns beside a bundle (signer, type, time) serve lists and searches.
// They are a copy of what was proved when it came in, under the trust epoch
// that stands beside them; whoever decides reads the bundle itself through
// [Store.Evidence] and verifies it, since one who can write to the database
// can write to those columns.
//
// [Store.Referrer] is the registry's door: it reads what was pushed beside an
// image, in all the forms that are met (OCI 1.1 referrers, the fallback tag's
// index, cosign's .sig and .att tags).
package evidence
