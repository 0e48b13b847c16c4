// Package oracle holds tests that put the doors of admission before other
// people's code: containerd's image verifier, which runs our program. It is a
// module of its own, so that none of this is a dependency of Assay.
//
//	cd tools/admission-oracle && go test ./...
package oracle
