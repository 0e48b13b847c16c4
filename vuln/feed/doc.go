// Package feed keeps advisory feeds. Each import is an operation: records are
// keyed by their content, and the difference of an operation to what was in
// force is what was added, changed, withdrawn and removed. A record's own
// "modified" is never trusted: real feeds hold the year 1 and days to come.
//
// An operation's rows are written in pieces beside those in force and count from
// one moment on, when all of it is there and was found good; a crash in the
// middle leaves the old feed in force. What is corrupt, truncated, oversized or
// older than what is in force is refused with its reason, which stays visible
// with the feed's age: nothing that is unknown counts as clean.
package feed
