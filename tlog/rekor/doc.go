// Package rekor is the Rekor v2 API over a log of package tlog, as unmodified
// cosign v3 and sigstore-go speak it (rekor-tiles v2.3.0):
//
//	POST /api/v2/log/entries            an entry for a signature; 201
//	GET  /api/v2/checkpoint             the signed head of the log
//	GET  /api/v2/tile/<L>/<N>[.p/<W>]   tiles of hashes (C2SP tlog-tiles)
//	GET  /api/v2/tile/entries/<N>       entries; private, see Options.ReadEntries
//
// The one kind of entry is hashedrekord 0.0.2. A dsse request of an older client
// becomes one, over the hash of the envelope's PAE. An entry that is in the log
// already is answered like a new one, with 201 and a proof, where upstream says
// 409: a client that lost an answer asks again and goes on.
//
// The signature is verified before anything is logged. Unlike upstream the named
// keyDetails must be those of the key: clients rebuild the entry from the key, and
// one that names another algorithm would never verify.
package rekor
