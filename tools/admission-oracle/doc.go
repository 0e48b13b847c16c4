// Package oracle holds tests that put the doors of admission before other
// people's code: containerd's transfer service and its image verifier, which runs
// our program, and Gatekeeper's, which asks our provider. It is a module of its
// own, so that none of this is a dependency of Assay. They start bin/assay, or
// ASSAY_BIN.
//
//	make build && cd tools/admission-oracle && go test ./...
package oracle
