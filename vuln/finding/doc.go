// Package finding keeps what advisories affect: for each component and advisory
// one row, from when to when. An artifact's findings are those of the components
// that its bills of materials hold, so that an advisory that affects ten thousand
// artifacts by one component writes one row.
//
// Two things change findings: an operation of a feed, of which only the changed
// records are matched, against everything stored, by the inverted index; and a
// new bill of materials, of which only the components never seen before are
// looked up. Nothing is scanned again.
package finding
