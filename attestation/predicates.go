package attestation

// Predicate types, matched byte for byte: no case folding, no trailing slash,
// no version that is "close enough" (CVE-2022-35929).
const (
	PredicateProvenanceV01 = "https://slsa.dev/provenance/v0.1"
	PredicateProvenanceV02 = "https://slsa.dev/provenance/v0.2"
	PredicateProvenanceV1  = "https://slsa.dev/provenance/v1"
	// PredicateProvenanceV1Stray is what some builders write in place of
	// [PredicateProvenanceV1]; the document is the same.
	PredicateProvenanceV1Stray = "https://slsa.dev/provenance/v1.0"

	PredicateVSA = "https://slsa.dev/verification_summary/v1"

	PredicateLink         = "https://in-toto.io/attestation/link/v0.3"
	PredicateTestResult   = "https://in-toto.io/attestation/test-result/v0.1"
	PredicateSCAI         = "https://in-toto.io/attestation/scai/v0.3"
	PredicateRuntimeTrace = "https://in-toto.io/attestation/runtime-trace/v0.1"
	PredicateRelease      = "https://in-toto.io/attestation/release/v0.1"
	PredicateVulnsV01     = "https://in-toto.io/attestation/vulns/v0.1"
	PredicateVulns        = "https://in-toto.io/attestation/vulns/v0.2"

	PredicateSPDX      = "https://spdx.dev/Document"
	PredicateCycloneDX = "https://cyclonedx.org/bom"
	PredicateOpenVEX   = "https://openvex.dev/ns"

	// PredicateBuildFailure says of its subjects that a failed build left them;
	// docs/build.md describes it.
	PredicateBuildFailure = "https://assay.dev/predicates/build-failure/v0.1"

	// PredicatePolicyBundle says of its subject, the listing of a bundle of
	// policies, which name and version it has; docs/policy-bundles.md describes it.
	PredicatePolicyBundle = "https://assay.dev/predicates/policy-bundle/v0.1"

	// PredicateSBOMOverlay adds to what bills of materials say of components;
	// docs/sbom.md describes it.
	PredicateSBOMOverlay = "https://assay.dev/predicates/sbom-overlay/v0.1"

	PredicateNPMPublish   = "https://github.com/npm/attestation/tree/main/specs/publish/v0.1"
	PredicateCosignSign   = "https://sigstore.dev/cosign/sign/v1"        // cosign v3 signs images by a statement of this type
	PredicateCosignCustom = "https://cosign.sigstore.dev/attestation/v1" // cosign attest without --type
	PredicateCosignVuln   = "https://cosign.sigstore.dev/attestation/vuln/v1"
)

// IsProvenance says whether [ParseProvenance] reads this predicate type.
func IsProvenance(predicateType string) bool {
	switch predicateType {
	case PredicateProvenanceV01, PredicateProvenanceV02, PredicateProvenanceV1, PredicateProvenanceV1Stray:
		return true
	}
	return false
}
