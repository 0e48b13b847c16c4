// Package event keeps what happened, in an order and a chain that cannot be
// changed unseen.
//
// [Append] writes an event in the transaction that makes the change, so that
// there is never one without the other. One leased [Sealer] gives events their
// sequence numbers within 100 ms of the commit; everybody reads sealed events
// only, through [Log]. (Numbers drawn by the writers themselves would commit
// out of order, and a reader that had passed 7 would never see 6.)
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
