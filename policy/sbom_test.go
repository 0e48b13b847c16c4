package policy

import (
	"testing"

	"assay/attestation"
)

// Who signs a bill of materials beside who built the artifact describes another
// build, perhaps.
func TestThreat_Attestation_SBOMOfAnotherSigner(t *testing.T) {
	p := mustParse(t, head+"  requirements: {provenance: {minLevel: 2}, sbom: {signer: provenance}}\n")
	for name, c := range map[string]struct {
		change func(f *Facts, bom *Attestation)
		want   Verdict
	}{
		"of who built it": {nil, Allow},
		"of another": {func(_ *Facts, bom *Attestation) {
			bom.Identity = &Identity{Issuer: "https://other.example", Subject: "mallory"}
		}, Deny},
		"of another's workflow ref":         {func(_ *Facts, bom *Attestation) { id := *bom.Identity; id.Subject += "x"; bom.Identity = &id }, Deny},
		"of another type":                   {func(_ *Facts, bom *Attestation) { bom.PredicateType = "https://example.com/bom" }, Deny},
		"of provenance that does not count": {func(f *Facts, _ *Attestation) { f.Provenance[0].Level = 1 }, Deny},
		"none":                              {func(_ *Facts, bom *Attestation) { bom.PredicateType = "" }, Deny},
	} {
		f := goodFacts()
		f.Provenance[0].Level = 2
		bom := f.Attestations[0]
		bom.ID, bom.PredicateType, bom.Fields = "att_bom", attestation.PredicateSPDX, nil
		if c.change != nil {
			c.change(f, &bom)
		}
		f.Attestations = append(f.Attestations, bom)
		r, err := p.Evaluate(t.Context(), f, testNow)
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict != c.want {
			t.Errorf("%s: %s, want %s: %+v", name, r.Verdict, c.want, r.Checks)
		}
	}
	for _, text := range []string{"{sbom: {signer: provenance}}", "{provenance: {minLevel: 2}, sbom: {signer: anybody}}", "{provenance: {minLevel: 2}, sbom: {}}"} {
		if _, err := ParseRequirements([]byte(head + "  requirements: " + text + "\n")); err == nil {
			t.Errorf("%s compiles", text)
		}
	}
}
