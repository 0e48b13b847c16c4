package trust

import (
	"errors"
	"fmt"

	"assay/internal/fault"
)

// The stable machine codes of a refusal, in the order of the verification
// steps. They appear in Facts, in decision trails and in the API; a code is
// never reused for another meaning.
const (
	CodeBundleMalformed = "bundle.malformed"      // the bundle lacks a part, has too many, or mixes versions
	CodeBundleOptions   = "bundle.options"        // the caller asked for nothing or for a contradiction
	CodeRootMalformed   = "root.malformed"        // the trusted root does not parse strictly
	CodeKeyMissing      = "key.missing"           // signed with a key, and no key was given
	CodeKeyUnexpected   = "key.unexpected"        // a key was given, and the bundle is signed with a certificate
	CodeKeyMismatch     = "key.mismatch"          // the key's hint names another key
	CodeKeyOutside      = "key.outside-validity"  // signed outside the given key's window
	CodeKeyUnsupported  = "key.unsupported"       // a key type or size that Assay does not accept
	CodeCertMalformed   = "cert.malformed"        // the leaf or a chain certificate does not parse or is no leaf
	CodeCertRootInChain = "cert.root-in-chain"    // the bundle carries a self-signed certificate
	CodeCertUnknown     = "cert.unknown-issuer"   // no certificate authority of the root issued it
	CodeCertChain       = "cert.chain"            // issuer known, path validation failed
	CodeCertOutside     = "cert.outside-validity" // trusted time outside the leaf's, the chain's or the authority's window
	CodeSCTMissing      = "sct.missing"           // fewer embedded SCTs of known logs than required
	CodeSCTInvalid      = "sct.invalid"           // an SCT of a known log does not verify
	CodeTSAMissing      = "tsa.missing"           // fewer timestamps of known authorities than required
	CodeTSAMalformed    = "tsa.malformed"         // a timestamp does not parse
	CodeTSAInvalid      = "tsa.invalid"           // its signature or chain does not verify
	CodeTSAMismatch     = "tsa.mismatch"          // it stamps other bytes than this signature
	CodeTSAOutside      = "tsa.outside-validity"  // stamped outside the authority's or its certificates' window
	CodeTSAUnknown      = "tsa.unknown"           // stamped by an authority that the root does not name
	CodeTLogWitness     = "tlog.witness"          // fewer cosignatures of known witnesses on the checkpoint than required
	CodeTLogMissing     = "tlog.missing"          // fewer entries of known logs than required
	CodeTLogUnknown     = "tlog.unknown-log"      // the entry's log is not in the root
	CodeTLogMalformed   = "tlog.malformed"        // the entry lacks a part or its body does not parse
	CodeTLogMismatch    = "tlog.body-mismatch"    // the entry is about another digest, signature or key
	CodeTLogPromise     = "tlog.promise"          // the signed entry timestamp does not verify
	CodeTLogCheckpoint  = "tlog.checkpoint"       // the checkpoint does not parse, verify or agree with the proof
	CodeTLogInclusion   = "tlog.inclusion"        // the inclusion proof does not lead to the checkpoint's root hash
	CodeTLogOutside     = "tlog.outside-validity" // logged outside the log key's window
	CodeTimeMissing     = "time.missing"          // no trusted time at all
	CodeSignature       = "signature.invalid"     // the signature does not verify under the key
	CodeArtifact        = "artifact.mismatch"     // the bundle is about another artifact
	CodeStatement       = "statement.invalid"     // the signed payload is no acceptable statement
	CodeIdentity        = "identity.mismatch"     // signed by someone else
	CodeIdentityMissing = "identity.missing"      // the certificate names nobody, or two, or contradicts itself
)

// failure is a refusal: fault.Unverified with a code. rank says how far the
// verification came, so that of several roots the nearest miss is reported.
type failure struct {
	code string
	msg  string
	err  error
}

func (f *failure) Error() string { return f.msg }
func (f *failure) Unwrap() error { return f.err }

// Is makes every failure a fault.Unverified.
func (f *failure) Is(target error) bool { return target == error(fault.Unverified) }

// refuse makes a failure. The message says what was expected, what was found,
// and how to mend it.
func refuse(code, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return fault.Wrap(fault.Unverified, &failure{code: code, msg: err.Error(), err: errors.Unwrap(err)})
}

// Refuse makes a refusal for a [Check] or a package above: fault.Unverified with
// a code of its own, and a message that says what was expected, what was found
// and how to mend it (fmt.Errorf's verbs, %w included).
func Refuse(code, format string, args ...any) error { return refuse(code, format, args...) }

// Code is the stable machine code of a refusal of this package, for example
// "tlog.body-mismatch"; "" when err carries none.
func Code(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	return ""
}

// progress orders codes by how much had been established when they arose;
// an unknown root says nothing about the bundle, a wrong identity much.
func progress(code string) int {
	switch code {
	case CodeTLogUnknown, CodeCertUnknown, CodeTSAUnknown, CodeTLogWitness, CodeTLogMissing, CodeTSAMissing, CodeTimeMissing, CodeKeyMissing:
		return 1
	case CodeBundleMalformed, CodeCertMalformed, CodeCertRootInChain, CodeBundleOptions:
		return 2
	case CodeIdentity, CodeArtifact, CodeStatement:
		return 5
	case CodeSCTMissing, CodeSCTInvalid, CodeCertOutside:
		return 4
	}
	return 3
}
