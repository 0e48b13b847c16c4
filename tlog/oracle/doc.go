// Package oracle holds tests that put a log of Assay before other people's
// code: Tessera's client and folder checker, rekor-tiles' entry types and
// verifier, sigstore-go's verification of SCTs. It is a module of its own, so
// that none of this is a dependency of Assay.
//
//	cd tlog/oracle && go test ./...
package oracle
