// Package attestation reads and writes the formats in which claims about
// artifacts travel: in-toto Statements, DSSE envelopes, Sigstore bundles, SLSA
// provenance and verification summaries, and the older forms that cosign left
// in registries.
//
// It knows formats only. It touches no network and no store, and it trusts
// nothing: whether a signature was made by somebody who counts is for package
// trust to say, and whether the claim suffices is for package policy. All that
// it reads is hostile until then, so every parser applies its [Limits] before
// it decodes, and decodes before it computes.
//
// Errors are of kind fault.Invalid (the document is not of its format) or
// fault.TooLarge (it is over a limit).
package attestation

import (
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Limits cap what one document may contain. They are checked before any
// base64, certificate or signature in it is looked at. A zero field means the
// default, so Limits{} is [DefaultLimits].
type Limits struct {
	MaxBundle       int64 // bytes of a bundle, envelope or statement
	MaxManifest     int64 // bytes of an OCI manifest
	MaxDepth        int   // nesting of arrays and objects
	MaxSignatures   int   // signatures of an envelope
	MaxSubjects     int   // subjects of a statement
	MaxLogEntries   int   // transparency log entries of a bundle
	MaxTimestamps   int   // RFC 3161 timestamps of a bundle
	MaxCertificates int   // certificates of a bundle

	// OpaqueSubjects admits a subject that is named only by identifiers which
	// are no strong hash of content, such as a cloud image's id or a git
	// commit. Such a subject matches no artifact by digest: a caller who sets
	// this compares the identifier itself. sha1 and md5 stay refused.
	OpaqueSubjects bool
}

// DefaultLimits are the caps of the installation's default configuration.
func DefaultLimits() Limits {
	return Limits{
		MaxBundle:       16 << 20,
		MaxManifest:     4 << 20,
		MaxDepth:        strictjson.DefaultMaxDepth,
		MaxSignatures:   16,
		MaxSubjects:     1024,
		MaxLogEntries:   32,
		MaxTimestamps:   32,
		MaxCertificates: 10,
	}
}

func (l Limits) orDefault() Limits {
	d := DefaultLimits()
	pick := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	if l.MaxBundle <= 0 {
		l.MaxBundle = d.MaxBundle
	}
	if l.MaxManifest <= 0 {
		l.MaxManifest = d.MaxManifest
	}
	pick(&l.MaxDepth, d.MaxDepth)
	pick(&l.MaxSignatures, d.MaxSignatures)
	pick(&l.MaxSubjects, d.MaxSubjects)
	pick(&l.MaxLogEntries, d.MaxLogEntries)
	pick(&l.MaxTimestamps, d.MaxTimestamps)
	pick(&l.MaxCertificates, d.MaxCertificates)
	return l
}

// json gives the limits that the JSON reader enforces.
func (l Limits) json() strictjson.Option {
	return strictjson.WithLimits(strictjson.Limits{MaxBytes: l.MaxBundle, MaxDepth: l.MaxDepth})
}

func invalid(format string, args ...any) error { return fault.Newf(fault.Invalid, format, args...) }

func tooMany(what string, most int) error {
	return fault.Newf(fault.TooLarge, "%s: want at most %d; raise the limit in the configuration if this is expected", what, most)
}
