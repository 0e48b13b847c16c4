// Package sbom reads, writes, compares and judges software bills of materials.
//
// One [Document] stands for every format: CycloneDX 1.2 to 1.7 (JSON and XML),
// SPDX 2.2 and 2.3 (JSON and tag-value), SPDX 3.0.1 (JSON-LD), and the plain
// lists that old systems give (see [ReadList]). [Stream] reads a document of any
// size without holding it: components and dependencies go to a visitor as they
// come. [Read] collects them.
//
// # Package URLs
//
// Components are known by their package URL, normalised once, here
// (artifact.PURL). Where a document has none, or one that does not parse, the
// component stays, and Document.Problems says so: what is not understood is
// shown, never dropped.
//
// # What is refused
//
// Whatever is not well-formed, names another format, has duplicate or case-folded
// members, exceeds [Limits], or is XML with a DOCTYPE: fault.Invalid or
// fault.TooLarge. Unknown members are left alone, since each version adds some.
package sbom
