// Package source says what is known of a commit: who signed it, who reviewed
// it, and how the branch that it lies on is protected.
//
// Signatures of commits and tags are verified over the object's raw bytes, as
// the repository stores them and as the object's own hash names them: nothing
// is parsed, changed and written again in between (CVE-2026-44309). A commit
// that git itself would not have written (headers twice or out of order, NUL
// bytes, two signatures) is refused before any cryptography.
//
// Who may sign stands in a policy file in the repository ([Policy]). It is read
// as the protected branch had it before the change that is judged, never from
// the change.
//
// The repository is read by the git executable (cat-file, rev-list, ls-tree):
// it alone knows quarantined pushes, alternates, SHA-256 repositories and every
// form of pack. Each object that it gives is hashed here and compared with the
// name that it was asked for.
package source
