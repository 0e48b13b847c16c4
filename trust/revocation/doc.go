// Package revocation says what is no longer trusted, and since when.
//
// A [List] is a canonical JSON document, signed as a DSSE envelope of its own
// payload type and entered into the transparency log; a [Signed] keeps all three
// together, and is the TUF target revocations.json. Each [Entry] names a key, an
// identity, a certificate, a builder, a range of a log or an artifact, and an
// instant, invalid_since. [Set.Check] is a trust.Check: evidence is refused when
// an entry names what made it, unless it provably existed before that instant.
// Proof is trusted time alone (a timestamp authority, a log's signed promise);
// without it, evidence counts as made after.
//
// # Two rules
//
//   - An artifact's entry is no matter of signatures: from invalid_since on, by
//     the clock, it is refused whatever was signed when ([Set.Artifact]).
//   - A range of a log is judged by the time of timestamp authorities alone:
//     what that log itself said of time is what is in doubt.
//
// # Who may change it
//
// An [Authority] is an online key and a threshold of offline root keys: those of
// the roles targets and root of the site's TUF root. The online key may add and
// renew: each entry stays, with an invalid_since that is the same or earlier
// ([List.Extends]). To remove an entry, or to move its instant later, the root
// keys must sign. [Follow] holds a new list to that, on servers and on clients,
// and to its version, which never goes back. A client remembers what it has seen
// in a [Memory].
//
// # Patterns
//
// An identity is named exactly, or with match "pattern" by the grammar of
// assay/internal/glob, for its issuer and its subject each: anchored, "*" within
// a segment between slashes, "**" for whole segments.
package revocation
