// Package delegation hands a part of what an organisation's root may say to the
// identities and keys of a team or a vendor.
//
// A delegation is a signed, logged and timestamped statement ([Document]): these
// identities may sign these predicate types for repositories of these patterns,
// until then. The organisation's delegation key signs the first of a chain. A
// delegate with depth left may sign a further one below its own name, which can
// only narrow: patterns within its own, types among its own, times within its
// own, less depth. [Compile] verifies all of them, offline, and [Set.Judge] says
// what a signature counts for.
//
// # Time
//
// A signature counts by a delegation when its trusted time lies within the
// window of every link of the chain, and when no link has expired now: a
// delegation that ended hands out nothing, not even for what was signed while
// it held. Renewing it (a higher version, the same NotBefore) brings that back,
// and nothing has to be signed anew. A signature without trusted time counts by
// no delegation.
//
// # What a delegate's other signatures count for
//
// Whom the root names in a delegation is trusted for what it says, and for no
// more: a signature of such a delegate outside the patterns and types of all its
// delegations is refused ([CodeOutside]), also where a policy names that
// identity. One whose delegations have all expired stays refused. Removing a
// delegation makes the identity a stranger again, whom a policy may name; to
// shut somebody out, revoke the identity. A delegate of a lower link binds
// nobody: outside of that link its delegates are strangers, since else a team
// could shut out others by naming them.
package delegation
