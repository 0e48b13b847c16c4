// Package event keeps what happened, in an order and a chain that cannot be
// changed unseen.
//
// [Append] writes an event in the transaction that makes the change, so that
// there is never one without the other. One leased [Sealer] gives events their
// sequence numbers within 100 ms of the commit; everybody reads sealed events
// only, through [Log]. (Numbers drawn by the writers themselves would commit
// out of order, and a reader that had passed 7 would never see 6.)
//
// # The journal
//
// Pulls and refusals change nothing, so they have no transaction to be written in,
// and there are more of them than of all else. On the embedded database they go
// into a [Journal]: two files of fixed size in the data folder, one of which is
// written from its start, a group of events with one write and one fsync, and
// whoever appended is answered after that. The Sealer that has the journal seals
// them with what [Append] wrote, in order of time, and so writes each into the
// database once, in large transactions that nobody waits for. When all that a file
// holds is sealed it begins anew.
//
// A process that is killed leaves in the files what was not sealed. The next one
// brings it into the database before it does anything else: a record that is not
// whole, by its length and sum, ends a file, and an event that is there by its id is
// left out, so that it does not matter when the kill came, or how often. The journal
// takes nothing while no sealer has it, while sealing fails, when it is full and
// after an fsync has failed: then events go into the database as before, so that a
// full disk or a broken database is told to whoever asks for the pull.
//
// # Sealing
//
// The leaf of an event is its canonical JSON (RFC 8785; see [Event.Leaf]). The
// events of one sealing are a batch; its root is the Merkle tree hash of
// RFC 6962, section 2.1, over its leaves in order of their numbers. The batch's
// [Head] names the root and the hash of the head before it:
//
//	text = "assay event head v1\n"
//	       "batch " batch "\n"               decimal, from 1
//	       "events " first " " last "\n"     sequence numbers, from 1
//	       "root " hex(root) "\n"            SHA-256, lowercase
//	       "prev " hex(hash of the head before) "\n"   64 zeros for batch 1
//	       "time " time "\n"                 RFC 3339, UTC, six decimals
//	hash = SHA-256(text)
//
// So a head commits to every event before it. Heads wait in an outbox for the
// transparency log ([Log.UnloggedHeads]), at most every 10 s or 10,000 events;
// one who rewrites this database cannot rewrite those. [Log.VerifyChain] and
// [Log.CheckHead] find what was changed.
//
// Segments of whole batches can be dropped ([Log.DropBefore]); their heads
// stay, and with them the chain.
package event
