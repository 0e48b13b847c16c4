// Package tlog is Assay's transparency log: append, tiles, checkpoints, proofs,
// and the monitor that watches a log from outside.
//
// A log is a folder in the layout of C2SP tlog-tiles, which is also that of
// Tessera's POSIX driver: checkpoint, tile/<level>/<index>, tile/entries/<index>.
// Any client of that format reads it, and it can be moved to another
// implementation by copying the folder. [Log] writes it, [Tree] reads and proves
// from it, [Monitor] checks it. The Rekor v2 API over it is in tlog/rekor, the
// Certificate Transparency log in tlog/ct.
//
// # What an answer promises
//
// Add answers after: the tiles and bundles of the new tree are synced; the new
// checkpoint is signed and recorded in the database in the place of the one
// before (compare and swap); the checkpoint file is synced. Entries that arrive
// while a commit runs make the next one together. A failure on the way leaves
// the log as it was, or one commit further, and the next commit finds out which
// before it overwrites a tile: nothing acknowledged is lost, no restart is
// needed when there is room again.
//
// Two places hold the last signed checkpoint, because a folder cannot tell that
// it was restored from a backup. A folder older than the database, or one that
// contradicts it, is refused: to sign on it would fork the log. Both restored
// together look sound from inside; a [Monitor] elsewhere sees it.
//
// Every tile is checked against the root before it is used or served, every
// entry against its tile: a flipped bit is [fault.Tampered], never a wrong
// proof.
//
// # Keys that follow one another
//
// A tree outlives its key: see [Keys]. While one key follows another, both sign
// every checkpoint, and an entry names the one that it was answered under. A
// checkpoint of a key that went is the log's own when it opens, and is signed anew
// at once; for everybody else the windows of the trusted root say until when a
// key counts. A key that was never named is refused as ever: a folder of another
// log does not become this one.
//
// # Why the sequencer is our own
//
// Tessera v1.0.4's POSIX driver was measured first (two cores, ext4, 1.5 kB
// entries, batches of 1,024 and 10 ms, the shortest permitted checkpoint interval
// of 100 ms): 5,300 to 6,900 entries/s at 1,024 clients, 123 to 133 ms for a
// single one. That would do, but for how it fails: with no file descriptor left
// its background goroutine panics (storage/posix/files.go, "panic(err)" after
// lockFile) and takes the whole of a one-process system with it; a checkpoint
// that cannot be written is only logged, so that callers wait without an
// answer; errors lose their errno on the way, so that a full disk cannot be told
// from another failure; and after a step back of the clock nothing is published
// until the clock has caught up, since the age of the checkpoint is read off its
// file. The single-writer sequencer here has none of these, keeps the format, and
// needs no waiting interval: BenchmarkAdd prints what it reaches. The tests read
// its folder with Tessera's client and checker.
package tlog
