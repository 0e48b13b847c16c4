// Package vuln matches advisories against stored bills of materials.
//
// A change in a feed is the event: the inverted index ([Index]) answers which
// components, documents and artifacts one advisory affects, so that nothing is
// scanned again. Matching is by package name and ecosystem with its release,
// from package URLs, never by generated CPE names.
//
// Three answers are kept apart everywhere: affected, not affected, and unknown.
// A version that cannot be read, a distribution without its release, a feed that
// is missing: each is unknown, with its reason, and never counts as clean.
package vuln
